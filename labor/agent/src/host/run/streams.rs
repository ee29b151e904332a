use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use overseer_plugin::frame::MAX_PAYLOAD;
use rustix::buffer::spare_capacity;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, read as read_some};

use super::process::Process;

/// How long what the program has started may write on when the program itself has ended.
const AFTER: Duration = Duration::from_secs(1);
/// First, and from then on at least so many bytes for a read of standard output.
const FIRST: usize = 4 * 1024;
const MORE: usize = 64 * 1024;
/// Bytes of standard error that are kept for a failure's message.
const TAIL: usize = 2 * 1024;

/// What a program has written.
#[derive(Debug, Default)]
pub(super) struct Written {
    pub(super) stdout: Vec<u8>,
    /// It wrote more than a result may have, and was killed for that.
    pub(super) too_large: bool,
    /// The end of standard error.
    pub(super) tail: Tail,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Stdout,
    Stderr,
    End,
}

/// Reads what a program writes until it has ended and both pipes are closed, or held open for too
/// long by what it has left. `log` takes standard error as it comes, and may block.
///
/// `writes` holds our own copies of the ends that the program writes to. As long as they are open a
/// program that ends wakes this thread once, by its end, and not for each pipe before.
pub(super) fn read<W>(
    stdout: &impl AsFd,
    stderr: &impl AsFd,
    writes: W,
    process: &Process,
    mut log: impl FnMut(&[u8]),
) -> Result<Written, Errno> {
    let mut written = Written::default();
    let mut open = vec![
        (Source::Stdout, stdout.as_fd()),
        (Source::Stderr, stderr.as_fd()),
        (Source::End, process.as_fd()),
    ];
    let (mut writes, mut until) = (Some(writes), None::<Instant>);
    while !open.is_empty() {
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        if left.is_some_and(|left| left.is_zero()) {
            break;
        }
        let timeout = left.and_then(|left| Timespec::try_from(left).ok());
        let mut polled: Vec<PollFd<'_>> =
            open.iter().map(|(_, fd)| PollFd::from_borrowed_fd(*fd, PollFlags::IN)).collect();
        match poll(&mut polled, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
        let mut ready = polled.iter().map(PollFd::revents).collect::<Vec<_>>().into_iter();
        let mut failed = None;
        open.retain(|(source, fd)| {
            let ready = ready.next().unwrap_or(PollFlags::empty());
            if ready.is_empty() {
                return true;
            }
            if *source == Source::End {
                writes = None;
                until = Some(Instant::now() + AFTER);
                return false;
            }
            // Closed, and nothing is in it.
            if !ready.contains(PollFlags::IN) {
                return false;
            }
            let took = match source {
                Source::Stdout => written.take_stdout(*fd),
                _ => written.take_stderr(*fd, &mut log),
            };
            match took {
                Ok(count) => count > 0,
                Err(Errno::INTR) => true,
                Err(error) => {
                    failed = Some(error);
                    false
                }
            }
        });
        if let Some(error) = failed {
            return Err(error);
        }
        if written.too_large {
            process.group().kill();
        }
    }
    Ok(written)
}

impl Written {
    fn take_stdout(&mut self, pipe: BorrowedFd<'_>) -> Result<usize, Errno> {
        if self.too_large {
            self.stdout.clear();
        }
        self.stdout.reserve(if self.stdout.is_empty() { FIRST } else { MORE });
        let count = read_some(pipe, spare_capacity(&mut self.stdout))?;
        self.too_large |= self.stdout.len() > MAX_PAYLOAD;
        Ok(count)
    }

    fn take_stderr(&mut self, pipe: BorrowedFd<'_>, log: &mut impl FnMut(&[u8])) -> Result<usize, Errno> {
        let mut space = [0; 8 * 1024];
        let count = read_some(pipe, &mut space)?;
        self.tail.push(&space[..count]);
        if count > 0 {
            log(&space[..count]);
        }
        Ok(count)
    }
}

/// The last bytes of a stream.
#[derive(Debug, Default)]
pub(super) struct Tail {
    bytes: Vec<u8>,
    cut: bool,
}

impl Tail {
    fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        if self.bytes.len() > TAIL {
            self.bytes.drain(..self.bytes.len() - TAIL);
            self.cut = true;
        }
    }

    /// Its last lines, whole where that leaves any.
    pub(super) fn text(&self) -> String {
        let newline = self.bytes.iter().position(|byte| *byte == b'\n');
        let whole = match newline {
            Some(at) if self.cut && at + 1 < self.bytes.len() => &self.bytes[at + 1..],
            _ => &self.bytes[..],
        };
        String::from_utf8_lossy(whole).trim_end().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tail_is_the_last_lines_of_what_was_written() {
        let mut tail = Tail::default();
        assert_eq!(tail.text(), "");
        tail.push(b"one\ntwo\n\n");
        assert_eq!(tail.text(), "one\ntwo");
        for number in 0..10_000 {
            tail.push(format!("line {number}\n").as_bytes());
        }
        let text = tail.text();
        assert!(text.len() <= TAIL && text.starts_with("line ") && text.ends_with("\nline 9999"), "{text}");
        tail.push("x".repeat(3 * TAIL).as_bytes());
        assert_eq!(tail.text(), "x".repeat(TAIL));
    }
}
