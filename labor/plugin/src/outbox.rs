use std::collections::VecDeque;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::frame::{Frame, LOG_PIECE, LOG_WINDOW};
use crate::record::cut;

/// How long a record waits for others to travel with.
const LINGER: Duration = Duration::from_millis(2);
/// Bytes of records that are worth a write of their own.
const BATCH: usize = 16 * 1024;
/// Bytes of records held when the agent does not read; the oldest batch goes when there are more.
const BOUND: usize = 1024 * 1024;

/// What a host has to say to its agent.
///
/// Whoever has something to say and finds the socket idle writes it, together with all that has
/// come meanwhile: so a reply in a quiet host is one write without another thread, and a busy
/// host writes few large pieces. Records wait [`LINGER`] for company, unless something else is
/// written; they go in front of it, so that what a call said arrives before its result.
#[derive(Debug)]
pub(crate) struct Outbox {
    socket: UnixStream,
    state: Mutex<State>,
    lingering: Condvar,
    credited: Condvar,
    flushed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    frames: Vec<u8>,
    records: Records,
    writing: bool,
    /// Threads in [`Outbox::flush`]; a wake-up for nobody costs a system call too.
    flushing: usize,
    log_credit: usize,
    /// The agent is gone; nothing is kept any more.
    closed: bool,
}

/// Records that wait, in batches.
#[derive(Debug, Default)]
struct Records {
    batches: VecDeque<Batch>,
    bytes: usize,
    dropped: u64,
    /// The thread that lingers has been told: of the first record, and of a full batch.
    told: bool,
    urged: bool,
}

#[derive(Debug, Default)]
struct Batch {
    count: u32,
    bytes: Vec<u8>,
}

impl Outbox {
    pub(crate) fn new(socket: UnixStream) -> Self {
        let state = State { log_credit: LOG_WINDOW, ..State::default() };
        Self {
            socket,
            state: Mutex::new(state),
            lingering: Condvar::new(),
            credited: Condvar::new(),
            flushed: Condvar::new(),
        }
    }

    /// Sends a frame; gives false when it is too large to be sent.
    pub(crate) fn send(&self, frame: &Frame<'_>) -> bool {
        let mut state = self.state();
        let good = frame.encode(&mut state.frames).is_ok();
        self.write(state);
        good
    }

    /// Takes a frame that is written with what follows, or by [`Outbox::write_out`]; gives false when
    /// it is too large to be sent.
    pub(crate) fn push(&self, frame: &Frame<'_>) -> bool {
        frame.encode(&mut self.state().frames).is_ok()
    }

    /// Writes what was pushed.
    pub(crate) fn write_out(&self) {
        let state = self.state();
        if !state.frames.is_empty() {
            self.write(state);
        }
    }

    /// Sends a log, in pieces, as the agent takes them; blocks until all is on its way.
    pub(crate) fn log(&self, call: u64, stream: &str, data: &[u8]) {
        let stream = cut(stream, 256);
        for data in data.chunks(LOG_PIECE) {
            let mut state = self.state();
            while state.log_credit < data.len() && !state.closed {
                state = self.credited.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            if state.closed {
                return;
            }
            state.log_credit -= data.len();
            // A piece and its stream's name are far below the limit.
            let _ = Frame::Log { call, stream, data }.encode(&mut state.frames);
            self.write(state);
        }
    }

    /// The agent has passed on so many bytes of logs.
    pub(crate) fn credit(&self, bytes: usize) {
        let mut state = self.state();
        state.log_credit = state.log_credit.saturating_add(bytes).min(LOG_WINDOW);
        self.credited.notify_all();
    }

    /// Takes one record with its length; an empty one counts as dropped. Never blocks on the
    /// agent.
    pub(crate) fn record(&self, record: &[u8]) {
        let mut state = self.state();
        if state.closed {
            return;
        }
        // Who writes now takes this record too before it is done.
        let writing = state.writing;
        let records = &mut state.records;
        records.push(record);
        let full = records.bytes >= BATCH;
        if !writing && (!records.told || (full && !records.urged)) {
            records.told = true;
            records.urged = full;
            self.lingering.notify_one();
        }
    }

    /// Sends records that have waited long enough; the work of a thread of its own.
    pub(crate) fn linger(&self) {
        let mut state = self.state();
        while !state.closed {
            if !state.records.told {
                state = self.lingering.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let until = Instant::now() + LINGER;
            while state.records.bytes > 0 && state.records.bytes < BATCH {
                let left = until.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    break;
                }
                state = self.lingering.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
            }
            state.records.told = false;
            state.records.urged = false;
            self.write(state);
            state = self.state();
        }
    }

    /// Waits until everything that was said has been written.
    pub(crate) fn flush(&self) {
        self.write(self.state());
        let mut state = self.state();
        state.flushing += 1;
        while state.writing {
            state = self.flushed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.flushing -= 1;
    }

    /// The agent is gone: whoever waits for it goes on.
    pub(crate) fn close(&self) {
        self.state().close();
        self.credited.notify_all();
        self.lingering.notify_all();
    }

    fn write<'a>(&'a self, mut state: MutexGuard<'a, State>) {
        if state.writing || state.closed {
            return;
        }
        state.writing = true;
        let mut out = Vec::new();
        loop {
            out.clear();
            state.take(&mut out);
            if out.is_empty() {
                break;
            }
            drop(state);
            let written = (&self.socket).write_all(&out);
            state = self.state();
            if written.is_err() {
                state.close();
                self.credited.notify_all();
                break;
            }
        }
        state.writing = false;
        if state.frames.is_empty() && state.frames.capacity() < out.capacity() && out.capacity() <= BOUND {
            // The next frame is encoded into the space of this one.
            out.clear();
            state.frames = out;
        }
        if state.flushing > 0 {
            self.flushed.notify_all();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Moves all that waits into `out`, records first.
    fn take(&mut self, out: &mut Vec<u8>) {
        self.records.take(out);
        if out.is_empty() {
            std::mem::swap(out, &mut self.frames);
        } else {
            out.append(&mut self.frames);
        }
    }

    fn close(&mut self) {
        self.closed = true;
        self.frames = Vec::new();
        self.records = Records::default();
    }
}

impl Records {
    fn push(&mut self, record: &[u8]) {
        if record.is_empty() {
            self.dropped += 1;
            return;
        }
        match self.batches.back_mut() {
            Some(batch) if batch.bytes.len() + record.len() <= 2 * BATCH => {
                batch.bytes.extend_from_slice(record);
                batch.count += 1;
            }
            _ => self.batches.push_back(Batch { count: 1, bytes: record.to_vec() }),
        }
        self.bytes += record.len();
        while self.bytes > BOUND {
            let Some(oldest) = self.batches.pop_front() else { break };
            self.bytes -= oldest.bytes.len();
            self.dropped += u64::from(oldest.count);
        }
    }

    fn take(&mut self, out: &mut Vec<u8>) {
        for batch in self.batches.drain(..) {
            let dropped = std::mem::take(&mut self.dropped);
            // A batch is far below the limit.
            let _ = Frame::Telemetry { count: batch.count, dropped, records: &batch.bytes }.encode(out);
        }
        self.bytes = 0;
        if self.dropped > 0 {
            let dropped = std::mem::take(&mut self.dropped);
            let _ = Frame::Telemetry { count: 0, dropped, records: &[] }.encode(out);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;
    use crate::frame::Decoder;
    use crate::record::{Body, Record};

    #[test]
    fn an_agent_that_does_not_read_loses_the_oldest_and_learns_how_many() {
        let (ours, mut agent) = UnixStream::pair().unwrap();
        let outbox = Outbox::new(ours);
        let all = 100_000;
        std::thread::scope(|scope| {
            scope.spawn(|| outbox.linger());
            let mut encoded = Vec::new();
            for number in 0..all {
                encoded.clear();
                let body = Body::Line { text: "a line of some length, as lines are" };
                Record { micros: number, call: 0, body }.encode(&mut encoded);
                outbox.record(&encoded);
            }
            let (mut decoder, mut space) = (Decoder::new(), vec![0; 64 * 1024]);
            let (mut counted, mut lost, mut next) = (0, 0, 0);
            while counted + lost < all {
                let read = agent.read(&mut space).unwrap();
                decoder.push(&space[..read]);
                while let Some(frame) = decoder.next().unwrap() {
                    let Frame::Telemetry { count, dropped, records } = frame else {
                        panic!("{frame:?}");
                    };
                    counted += u64::from(count);
                    lost += dropped;
                    // The gap is where the count says.
                    next += dropped;
                    for record in crate::record::Records::new(records) {
                        assert_eq!(record.unwrap().micros, next);
                        next += 1;
                    }
                }
            }
            assert!(lost > 0 && counted > 0, "{counted} came, {lost} were lost");
            outbox.close();
        });
    }

    #[test]
    fn a_log_waits_for_credit() {
        let (ours, mut agent) = UnixStream::pair().unwrap();
        let outbox = Outbox::new(ours);
        let all = 3 * LOG_WINDOW;
        std::thread::scope(|scope| {
            scope.spawn(|| outbox.log(7, "out", &vec![1; all]));
            let (mut decoder, mut space) = (Decoder::new(), vec![0; 64 * 1024]);
            let (mut came, mut given) = (0, LOG_WINDOW);
            while came < all {
                let read = agent.read(&mut space).unwrap();
                decoder.push(&space[..read]);
                while let Some(frame) = decoder.next().unwrap() {
                    let Frame::Log { call: 7, stream: "out", data } = frame else {
                        panic!("{frame:?}");
                    };
                    came += data.len();
                }
                assert!(came <= given, "{came} of {given} bytes");
                if came == given {
                    outbox.credit(LOG_WINDOW);
                    given += LOG_WINDOW;
                }
            }
        });
    }
}
