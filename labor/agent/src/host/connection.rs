use std::collections::VecDeque;
use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use overseer_plugin::Status;
use overseer_plugin::frame::{Decoder, Frame, LOG_WINDOW, MAX_PAYLOAD, PROTOCOL};
use overseer_protocol::{CallErrorCode, Cause};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};

use super::outgoing::{Outgoing, Piece};
use super::{Failure, HostOutput, Shared, boot_failed};

/// From this ABI on a host knows calls that are traced.
const TRACES: (u32, u32) = (1, 1);
/// How long a process may live on after its end of the socket is closed. The kernel closes it
/// just before the process is gone.
const CLOSED_GRACE: Duration = Duration::from_secs(1);
/// Telemetry held for a receiver that is slow; the oldest batch goes when there is more.
const TELEMETRY_BOUND: usize = 4 * 1024 * 1024;

/// The agent's end of a host's socket.
///
/// It is always read, so that no answer waits behind a receiver that is slow; what such a
/// receiver has not taken yet is held here. That has a bound: logs by the credit that the host
/// gets only for what was taken, telemetry by [`TELEMETRY_BOUND`], results and requests by the
/// calls that are open.
pub(super) struct Connection {
    socket: UnixStream,
    shared: Arc<Shared>,
    output: mpsc::Sender<HostOutput>,
    started: Option<oneshot::Sender<Result<u32, Cause>>>,
    decoder: Decoder,
    space: Box<[u8]>,
    piece: Piece,
    backlog: VecDeque<HostOutput>,
    backlog_telemetry: usize,
    dropped: u64,
    /// Bytes of logs that were not given back as credit.
    log_open: usize,
    /// Bytes of logs that were taken and are to be given back.
    log_taken: usize,
    closed: Option<Instant>,
    /// The host reads no more.
    deaf: bool,
}

impl Connection {
    pub(super) fn new(
        socket: UnixStream,
        shared: Arc<Shared>,
        output: mpsc::Sender<HostOutput>,
        started: oneshot::Sender<Result<u32, Cause>>,
    ) -> Self {
        Self {
            socket,
            shared,
            output,
            started: Some(started),
            decoder: Decoder::new(),
            space: vec![0; 64 * 1024].into(),
            piece: Piece::default(),
            backlog: VecDeque::new(),
            backlog_telemetry: 0,
            dropped: 0,
            log_open: 0,
            log_taken: 0,
            closed: None,
            deaf: false,
        }
    }

    /// Speaks with the host until its process has `ended`; says when all that it sent is
    /// `read`, and returns when all of that is delivered.
    pub(super) async fn run(mut self, mut ended: watch::Receiver<bool>, read: oneshot::Sender<()>) {
        // Apart from `self`, which the arms below change.
        let (shared, output) = (self.shared.clone(), self.output.clone());
        loop {
            tokio::select! {
                biased;
                () = shared.wake.notified() => {}
                permit = output.reserve(), if !self.backlog.is_empty() => match permit {
                    Ok(permit) => {
                        if let Some(output) = self.backlog.pop_front() {
                            note_taken(&output, &mut self.backlog_telemetry, &mut self.log_taken);
                            permit.send(output);
                        }
                    }
                    Err(_) => {
                        self.backlog.clear();
                        shared.condemn(Cause::Asked);
                    }
                },
                _ = self.socket.readable(), if self.closed.is_none() => self.read(),
                _ = self.socket.writable(), if self.piece.waits() => {}
                () = sleep_until(self.closed.unwrap_or_else(Instant::now)), if self.closed.is_some() => {
                    let reason = "the host closed its connection to the agent and lived on; plugin code must leave file descriptors alone that it has not opened";
                    shared.condemn(Cause::Unhealthy { reason: reason.into() });
                    break;
                }
                _ = ended.wait_for(|ended| *ended) => break,
            }
            self.give_credit();
            self.flush();
        }
        let _ = ended.wait_for(|ended| *ended).await;
        self.read_rest();
        // Who waits for the start learns that there will be none.
        self.started = None;
        let _ = read.send(());
        while let Some(output) = self.backlog.pop_front() {
            if self.output.send(output).await.is_err() {
                break;
            }
        }
    }

    fn flush(&mut self) {
        let refused = self.shared.outgoing.lock().take_refused();
        for id in refused {
            let message = format!("the call is over {MAX_PAYLOAD} bytes; put its payload into a blob");
            let outcome = Err(Failure::new(CallErrorCode::TooLarge, message));
            self.deliver(HostOutput::Result { id, outcome });
        }
        while !self.deaf && self.piece.fill(&mut self.shared.outgoing.lock()) {
            match self.piece.write(&self.socket) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // Why shows when the rest is read. A socket that takes nothing more is writable for
                // ever, and must not be waited for.
                Err(_) => self.deaf = true,
            }
        }
        if self.deaf {
            self.piece = Piece::default();
            *self.shared.outgoing.lock() = Outgoing::default();
        }
    }

    /// Gives back the credit for logs, in larger pieces.
    fn give_credit(&mut self) {
        if self.log_taken >= LOG_WINDOW / 4 {
            self.log_open = self.log_open.saturating_sub(self.log_taken);
            let bytes = u32::try_from(std::mem::take(&mut self.log_taken)).unwrap_or(u32::MAX);
            self.shared.outgoing.lock().push(&Frame::Credit { bytes });
        }
    }

    fn read(&mut self) {
        match self.socket.try_read(&mut self.space) {
            Ok(0) => self.closed = Some(Instant::now() + CLOSED_GRACE),
            Ok(count) => self.take_in(count),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => self.closed = Some(Instant::now() + CLOSED_GRACE),
        }
    }

    /// What the process sent before it ended is all here by now.
    fn read_rest(&mut self) {
        // Not through the runtime, which knows of readiness only what it was told last. A
        // process of the host that got away could write for ever, hence the bound.
        for _ in 0..256 {
            match rustix::io::read(&self.socket, &mut *self.space) {
                Ok(count) if count > 0 => self.take_in(count),
                Err(rustix::io::Errno::INTR) => {}
                _ => break,
            }
        }
    }

    fn take_in(&mut self, count: usize) {
        // The decoder lends its frames, so it is not within `self` meanwhile.
        let mut decoder = std::mem::take(&mut self.decoder);
        decoder.push(&self.space[..count]);
        loop {
            match decoder.next() {
                Ok(Some(frame)) => self.take_frame(frame),
                Ok(None) => break,
                Err(error) => {
                    self.shared.condemn(Cause::Unhealthy { reason: format!("the host sent {error}") });
                    break;
                }
            }
        }
        self.decoder = decoder;
    }

    fn take_frame(&mut self, frame: Frame<'_>) {
        match frame {
            Frame::Result { id, status, data } => {
                if status == Status::OutOfMemory {
                    self.shared.told_for_memory.fetch_add(1, Ordering::Relaxed);
                }
                self.deliver(HostOutput::Result { id, outcome: outcome(status, data) });
            }
            Frame::Telemetry { count, dropped, records } => {
                self.deliver(HostOutput::Telemetry {
                    count,
                    dropped,
                    records: Bytes::copy_from_slice(records),
                });
            }
            Frame::Log { call, stream, data } => {
                self.log_open += data.len();
                if self.log_open > LOG_WINDOW {
                    return self.condemn("more logs than it had credit for");
                }
                self.deliver(HostOutput::Log {
                    call: Some(call),
                    stream: stream.to_owned(),
                    data: Bytes::copy_from_slice(data),
                });
            }
            Frame::PutBlob { request, path } => {
                self.deliver(HostOutput::PutBlob { request, path: to_path(path) });
            }
            Frame::GetBlob { request, digest, path } => {
                self.deliver(HostOutput::GetBlob { request, digest: digest.to_owned(), path: to_path(path) });
            }
            Frame::Hello { protocol, abi, concurrency } => {
                self.shared.traces.store(abi >= TRACES, Ordering::Relaxed);
                self.start(if protocol == PROTOCOL {
                    Ok(concurrency.max(1))
                } else {
                    Err(boot_failed(format!(
                        "the program speaks host protocol {protocol}, this agent {PROTOCOL}; rebuild it with the overseer-plugin of the agent's version"
                    )))
                });
            }
            Frame::StartFailed { status, message } => self.start(Err(match status {
                Status::Panicked => Cause::Panicked { message: message.to_owned() },
                _ => boot_failed(message),
            })),
            Frame::HealthResult { status, reason } => {
                let answer = match status {
                    Status::Done => Ok(()),
                    Status::Panicked => Err(Cause::Panicked { message: reason.to_owned() }),
                    _ => Err(Cause::Unhealthy { reason: reason.to_owned() }),
                };
                for waiting in self.shared.health.lock().drain(..) {
                    // Who waited may have given up.
                    let _ = waiting.send(answer.clone());
                }
            }
            Frame::Stopped => {}
            Frame::Call { .. }
            | Frame::Cancel { .. }
            | Frame::Credit { .. }
            | Frame::BlobAnswer { .. }
            | Frame::Health
            | Frame::Stop => self.condemn("a frame that only an agent sends"),
        }
    }

    fn condemn(&self, what: &str) {
        self.shared.condemn(Cause::Unhealthy { reason: format!("the host sent {what}") });
    }

    fn start(&mut self, started: Result<u32, Cause>) {
        match self.started.take() {
            Some(waiting) => drop(waiting.send(started)),
            None => self.condemn("a second hello"),
        }
    }

    /// Passes an output on, at once when the receiver keeps up.
    fn deliver(&mut self, mut output: HostOutput) {
        if let HostOutput::Telemetry { dropped, records, .. } = &mut output {
            *dropped += std::mem::take(&mut self.dropped);
            self.backlog_telemetry += records.len();
        }
        if self.backlog.is_empty()
            && let Ok(permit) = self.output.try_reserve()
        {
            note_taken(&output, &mut self.backlog_telemetry, &mut self.log_taken);
            permit.send(output);
            return;
        }
        self.backlog.push_back(output);
        while self.backlog_telemetry > TELEMETRY_BOUND {
            let oldest = self.backlog.iter().position(|waits| matches!(waits, HostOutput::Telemetry { .. }));
            let Some(HostOutput::Telemetry { count, dropped, records }) =
                oldest.and_then(|oldest| self.backlog.remove(oldest))
            else {
                break;
            };
            self.backlog_telemetry -= records.len();
            let gone = u64::from(count) + dropped;
            let next = self.backlog.iter_mut().find_map(|waits| match waits {
                HostOutput::Telemetry { dropped, .. } => Some(dropped),
                _ => None,
            });
            *next.unwrap_or(&mut self.dropped) += gone;
        }
    }
}

/// Accounts for an output that the receiver takes.
fn note_taken(output: &HostOutput, telemetry: &mut usize, logs: &mut usize) {
    match output {
        HostOutput::Telemetry { records, .. } => *telemetry -= records.len(),
        HostOutput::Log { data, .. } => *logs += data.len(),
        _ => {}
    }
}

fn outcome(status: Status, data: &[u8]) -> Result<Bytes, Failure> {
    let code = match status {
        Status::Done => return Ok(Bytes::copy_from_slice(data)),
        Status::Failed | Status::OutOfMemory => CallErrorCode::Failed,
        Status::NoMethod => CallErrorCode::NoMethod,
        Status::BadPayload => CallErrorCode::BadPayload,
        Status::Cancelled => CallErrorCode::Cancelled,
        Status::Panicked => CallErrorCode::Panicked,
        Status::TooLarge => CallErrorCode::TooLarge,
        Status::Overloaded => CallErrorCode::Overloaded,
    };
    let cause = (status == Status::OutOfMemory).then_some(Cause::OutOfMemory);
    Err(Failure { cause, ..Failure::new(code, String::from_utf8_lossy(data)) })
}

fn to_path(bytes: &[u8]) -> PathBuf {
    OsString::from_vec(bytes.to_vec()).into()
}
