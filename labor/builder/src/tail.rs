use std::collections::VecDeque;

/// Most lines of a tail.
const LINES: usize = 30;
/// Most bytes of a tail.
const BYTES: usize = 16 * 1024;

/// The last lines of an output, however much there was.
#[derive(Debug, Default)]
pub(crate) struct Tail {
    bytes: VecDeque<u8>,
    cut: bool,
}

impl Tail {
    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.cut = false;
    }

    pub(crate) fn push(&mut self, bytes: &[u8]) {
        let bytes = &bytes[bytes.len().saturating_sub(BYTES)..];
        let excess = (self.bytes.len() + bytes.len()).saturating_sub(BYTES);
        self.cut |= excess > 0 || bytes.len() == BYTES;
        self.bytes.drain(..excess);
        self.bytes.extend(bytes);
    }

    /// At most 30 lines; of one that was cut, its end.
    pub(crate) fn lines(&self) -> Vec<String> {
        let bytes: Vec<u8> = self.bytes.iter().copied().collect();
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<&str> = text.lines().collect();
        let mut first = lines.len().saturating_sub(LINES);
        if self.cut && first == 0 && lines.len() > 1 {
            first = 1;
        }
        lines[first..].iter().map(|line| (*line).to_owned()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_kept_whole() {
        let mut tail = Tail::default();
        for i in 0..10_000 {
            tail.push(format!("line {i}\n").as_bytes());
        }
        let lines = tail.lines();
        assert_eq!((lines.len(), lines[0].as_str(), lines[29].as_str()), (30, "line 9970", "line 9999"));
        tail.clear();
        assert!(tail.lines().is_empty());
        tail.push(b"only");
        assert_eq!(tail.lines(), ["only"]);
    }

    #[test]
    fn a_line_without_end_takes_no_memory() {
        let mut tail = Tail::default();
        (0..100).for_each(|_| tail.push(&[b'x'; 100_000]));
        tail.push(b"end");
        assert_eq!(tail.lines().len(), 1);
        assert!(tail.lines()[0].ends_with("xend") && tail.lines()[0].len() == BYTES);
        tail.push("\n".repeat(5).as_bytes());
        tail.push(&"ä".repeat(20_000).into_bytes()[1..]);
        assert!(tail.lines().len() <= 6);
    }
}
