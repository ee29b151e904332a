//! Bytes of a log into lines.

use console::AnsiCodeIterator;

/// Longest piece of a line, in bytes; a longer line is given in pieces.
const LONGEST: usize = 16 * 1024;

/// Cuts a stream of bytes into complete lines.
#[derive(Debug, Default)]
pub(super) struct Lines {
    partial: Vec<u8>,
}

impl Lines {
    /// The lines that are complete with these bytes, without their ends.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Vec<String> {
        let mut lines = Vec::new();
        for piece in bytes.split_inclusive(|b| *b == b'\n') {
            self.partial.extend_from_slice(piece);
            if piece.ends_with(b"\n") {
                lines.extend(self.take());
            }
            while self.partial.len() > LONGEST {
                let rest = self.partial.split_off(boundary(&self.partial, LONGEST));
                lines.extend(self.take());
                self.partial = rest;
            }
        }
        lines
    }

    /// What is left at the end, if anything.
    pub(super) fn take(&mut self) -> Option<String> {
        let mut bytes = std::mem::take(&mut self.partial);
        if bytes.is_empty() {
            return None;
        }
        if bytes.ends_with(b"\n") {
            bytes.pop();
        }
        if bytes.ends_with(b"\r") {
            bytes.pop();
        }
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }
}

/// The last place up to `at` that is not within a character.
fn boundary(bytes: &[u8], at: usize) -> usize {
    let inside = |at: &usize| bytes.get(*at).is_some_and(|b| b & 0b1100_0000 == 0b1000_0000);
    (at.saturating_sub(3)..=at).rev().find(|at| !inside(at)).unwrap_or(at)
}

/// A line as a terminal may get it: what overwrites itself is shown as it ends, and nothing in
/// it moves the cursor or changes the terminal. Colours stay if they are wanted.
pub(super) fn tame(line: &str, colors: bool) -> String {
    let last = line.rsplit('\r').find(|part| !part.is_empty()).unwrap_or("");
    let mut text = String::with_capacity(last.len());
    let mut colored = false;
    for (part, is_code) in AnsiCodeIterator::new(last) {
        if is_code {
            if colors && part.ends_with('m') {
                text.push_str(part);
                colored = true;
            }
        } else {
            text.extend(part.chars().filter(|c| *c == '\t' || !c.is_control()));
        }
    }
    if colored {
        text.push_str("\u{1b}[0m");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_complete_lines_come_out_and_the_rest_at_the_end() {
        let mut lines = Lines::default();
        assert_eq!(lines.push(b"one\ntw"), ["one"]);
        assert!(lines.push("o \u{e4}".as_bytes()).is_empty());
        assert_eq!(lines.push(b"\r\n\nlast"), ["two \u{e4}", ""]);
        assert_eq!(lines.take().as_deref(), Some("last"));
        assert_eq!(lines.take(), None);
    }

    #[test]
    fn however_the_bytes_are_cut_the_lines_are_the_same() {
        let text = "a\n\u{1f600}\u{e4}\r\nb\n\nend".as_bytes();
        for at in 0..text.len() {
            let mut lines = Lines::default();
            let mut all = lines.push(&text[..at]);
            all.extend(lines.push(&text[at..]));
            all.extend(lines.take());
            assert_eq!(all, ["a", "\u{1f600}\u{e4}", "b", "", "end"]);
        }
    }

    #[test]
    fn an_endless_line_does_not_fill_the_memory() {
        let mut lines = Lines::default();
        let flood = "\u{e4}".repeat(LONGEST);
        let pieces: Vec<String> = flood.as_bytes().chunks(1000).flat_map(|c| lines.push(c)).collect();
        assert!(lines.partial.len() <= LONGEST);
        let mut all = pieces.concat();
        all.extend(lines.take());
        assert_eq!(all, flood);
    }

    #[test]
    fn a_log_cannot_play_with_the_terminal() {
        let line = "10%\r50%\r\u{1b}[31mred\u{1b}[0m \u{1b}[2J\u{1b}]0;title\u{7}\u{8}done\t.";
        let plain = tame(line, false);
        assert!(plain.starts_with("red ") && plain.ends_with("done\t."), "{plain}");
        assert!(!plain.contains(|c: char| c != '\t' && c.is_control()), "{plain:?}");
        assert!(tame(line, true).starts_with("\u{1b}[31mred"));
        assert!(!tame(line, true).contains("\u{1b}[2J"));
    }
}
