use std::io;

use overseer_plugin::frame::Frame;
use tokio::net::UnixStream;

/// What the agent has to say to a host and has not written yet.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    frames: Vec<u8>,
    /// Calls that are too large to be sent.
    refused: Vec<u64>,
}

impl Outgoing {
    /// Takes a frame; gives false when it is too large.
    pub(super) fn push(&mut self, frame: &Frame<'_>) -> bool {
        frame.encode(&mut self.frames).is_ok()
    }

    /// Notes that a call could not be sent, so that it gets its answer in order.
    pub(super) fn refuse(&mut self, id: u64) {
        self.refused.push(id);
    }

    pub(super) fn take_refused(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.refused)
    }
}

/// What is being written: all frames that were there when the last piece was done.
#[derive(Debug, Default)]
pub(super) struct Piece {
    bytes: Vec<u8>,
    written: usize,
}

impl Piece {
    /// Takes all that waits, if the last piece is done. Says whether there is something to write.
    pub(super) fn fill(&mut self, outgoing: &mut Outgoing) -> bool {
        if self.written == self.bytes.len() {
            self.bytes.clear();
            self.bytes.shrink_to(1024 * 1024);
            self.written = 0;
            std::mem::swap(&mut self.bytes, &mut outgoing.frames);
        }
        self.waits()
    }

    /// Whether something is not written yet.
    pub(super) fn waits(&self) -> bool {
        self.written < self.bytes.len()
    }

    /// Writes as much as the socket takes now.
    pub(super) fn write(&mut self, socket: &UnixStream) -> io::Result<()> {
        while self.waits() {
            self.written += socket.try_write(&self.bytes[self.written..])?;
        }
        Ok(())
    }
}
