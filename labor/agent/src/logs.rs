//! Carries log bytes to the Overseer: feeds the spool, spills it to disk, sends and resends it.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use overseer_protocol::{Attempt, LogStream, TaskId, proto};
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;

use crate::backoff::{Backoff, system_random};
use crate::bulk::{Bulk, BulkError};
use crate::spool::{Bounds, Next, Spill, Spool};

/// How long a full spool holds the host back while nothing is acknowledged. After that what the
/// host writes is lost, and marked.
const PATIENCE: Duration = Duration::from_secs(30);
/// Bytes of one write to disk.
const SPILL: usize = 1 << 20;
/// The stream to the Overseer ends when nothing was sent for this long.
const IDLE: Duration = Duration::from_secs(5);
/// Between tries to write to a disk that refused.
const DISK_RETRY: Duration = Duration::from_secs(1);

/// The agent's side. Clones are the same.
#[derive(Clone)]
pub(crate) struct Logs(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    directory: PathBuf,
    /// Something waits to be sent.
    send: Notify,
    /// Something may have to go to disk.
    spill: Notify,
    /// There may be room for the host again.
    room: Arc<Notify>,
    /// The spool may be settled.
    empty: Notify,
}

struct State {
    spool: Spool,
    /// Since when it is full without an acknowledgement.
    full_since: Option<Instant>,
}

impl Logs {
    /// Starts the two tasks that send and spill. `directory` is made when it is first needed.
    pub(crate) fn start(bulk: Bulk, directory: PathBuf, bounds: Bounds, room: Arc<Notify>) -> Self {
        let shared = Arc::new(Shared {
            state: Mutex::new(State { spool: Spool::new(bounds), full_since: None }),
            directory,
            send: Notify::new(),
            spill: Notify::new(),
            room,
            empty: Notify::new(),
        });
        tokio::spawn(shared.clone().sending(bulk));
        tokio::spawn(shared.clone().spilling());
        Self(shared)
    }

    /// Takes bytes of a stream. Ask [`Logs::has_room`] before reading more from the host.
    pub(crate) fn append(&self, stream: &LogStream, data: &[u8]) {
        if data.is_empty() {
            return;
        }
        let mut state = self.0.state.lock();
        if state.spool.has_room() {
            state.spool.append(stream, data);
        } else if state.full_since.is_some_and(|since| since.elapsed() >= PATIENCE) {
            state.spool.lose(stream, data.len());
        } else {
            // One frame over the bound, of a host that is not read on.
            state.spool.append(stream, data);
        }
        drop(state);
        self.0.send.notify_one();
        self.0.spill.notify_one();
    }

    /// No byte follows in this stream.
    pub(crate) fn end(&self, stream: &LogStream) {
        self.0.state.lock().spool.end(stream);
        self.0.send.notify_one();
    }

    /// Whether the host may be read on. False until there is room, or until the patience ends.
    pub(crate) fn has_room(&self) -> bool {
        let mut state = self.0.state.lock();
        if state.spool.has_room() {
            state.full_since = None;
            return true;
        }
        state.full_since.get_or_insert_with(Instant::now).elapsed() >= PATIENCE
    }

    /// When a full spool begins to lose bytes.
    pub(crate) fn patience_ends(&self) -> Option<Instant> {
        let since = self.0.state.lock().full_since?;
        Some(since + PATIENCE).filter(|at| *at > Instant::now())
    }

    /// Waits until everything is stored by the Overseer.
    pub(crate) async fn flushed(&self) {
        loop {
            let empty = self.0.empty.notified();
            if self.0.state.lock().spool.is_settled() {
                return;
            }
            empty.await;
        }
    }
}

impl Shared {
    async fn sending(self: Arc<Self>, bulk: Bulk) {
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(5), system_random);
        loop {
            self.send.notified().await;
            while !self.state.lock().spool.is_empty() {
                match self.session(&bulk, &mut backoff).await {
                    Ok(()) => {
                        backoff.reset();
                        self.state.lock().spool.closed();
                    }
                    Err(error) => {
                        tracing::warn!("logs are kept back: {error}");
                        if is_final(&error) {
                            self.state.lock().spool.refused();
                        }
                        tokio::time::sleep(backoff.next()).await;
                    }
                }
            }
        }
    }

    /// One `PushLogs`, from what is not acknowledged to the first quiet time.
    async fn session(&self, bulk: &Bulk, backoff: &mut Backoff) -> Result<(), BulkError> {
        let mut user = bulk.open().await?;
        let (tx, rx) = mpsc::channel(2);
        self.state.lock().spool.resume();
        let acks = async {
            let mut acks = user.client.push_logs(ReceiverStream::new(rx)).await?.into_inner();
            while let Some(ack) = acks.message().await? {
                backoff.reset();
                self.acknowledged(&ack).await;
            }
            Ok::<_, BulkError>(())
        };
        let feed = self.feed(tx);
        tokio::pin!(acks, feed);
        // The acknowledgements may only end after the feed.
        tokio::select! {
            ended = &mut acks => {
                ended?;
                return Err(tonic::Status::unavailable("the Overseer closed the log stream").into());
            }
            fed = &mut feed => fed?,
            // What is not acknowledged is sent again over the next one.
            Ok(()) = user.given_up.changed() => {
                return Err(tonic::Status::unavailable("the connection was given up").into());
            }
        }
        match tokio::time::timeout(IDLE, acks).await {
            Ok(ended) => ended,
            Err(_) => Err(tonic::Status::deadline_exceeded("the log stream did not close").into()),
        }
    }

    async fn feed(&self, tx: mpsc::Sender<proto::LogPush>) -> Result<(), BulkError> {
        loop {
            let next = self.state.lock().spool.next();
            let push = match next {
                Next::Push(push) => push,
                Next::Read { segment, position, len, mut push } => {
                    push.data = self.read(segment, position, len).await?;
                    push
                }
                Next::Nothing => {
                    self.empty.notify_waiters();
                    if tokio::time::timeout(IDLE, self.send.notified()).await.is_err() {
                        return Ok(());
                    }
                    continue;
                }
            };
            if tx.send(push).await.is_err() {
                return Err(tonic::Status::unavailable("the log stream broke").into());
            }
        }
    }

    async fn acknowledged(&self, ack: &proto::LogAck) {
        let Some(task) = TaskId::from_bytes(&ack.task) else { return };
        let stream = LogStream { task, attempt: Attempt(ack.attempt), stream: ack.stream.clone() };
        let finished = {
            let mut state = self.state.lock();
            if state.spool.acknowledged(&stream, ack.through) {
                state.full_since = None;
            }
            if state.spool.is_settled() {
                self.empty.notify_waiters();
            }
            state.spool.finished()
        };
        self.room.notify_one();
        self.spill.notify_one();
        for segment in finished {
            let _ = tokio::fs::remove_file(self.segment(segment)).await;
        }
    }

    async fn spilling(self: Arc<Self>) {
        loop {
            self.spill.notified().await;
            loop {
                let spills = self.state.lock().spool.spill(SPILL);
                if spills.is_empty() {
                    break;
                }
                let shared = self.clone();
                let work = move || {
                    let written = write(&shared, &spills);
                    (spills, written)
                };
                // A panic in there would be a fault of ours; the bytes stay in memory then.
                let Ok((spills, written)) = tokio::task::spawn_blocking(work).await else { break };
                let (finished, failed) = {
                    let mut state = self.state.lock();
                    state.spool.spilled(spills, written.is_ok());
                    (state.spool.finished(), state.spool.disk_failed())
                };
                self.room.notify_one();
                for segment in finished {
                    let _ = tokio::fs::remove_file(self.segment(segment)).await;
                }
                if failed {
                    if let Err(error) = written {
                        let place = self.directory.display();
                        tracing::warn!(
                            "the log spool in {place} cannot be written: {error}; make room there"
                        );
                    }
                    tokio::time::sleep(DISK_RETRY).await;
                }
            }
        }
    }

    fn segment(&self, segment: u64) -> PathBuf {
        self.directory.join(format!("{segment:08}.log"))
    }

    async fn read(&self, segment: u64, position: u64, len: usize) -> Result<bytes::Bytes, BulkError> {
        let path = self.segment(segment);
        let file_error =
            |source: io::Error, path: &Path| BulkError::File { path: path.display().to_string(), source };
        let work = move || {
            let mut data = vec![0; len];
            let read = fs::File::open(&path).and_then(|file| file.read_exact_at(&mut data, position));
            read.map(|()| bytes::Bytes::from(data)).map_err(|e| file_error(e, &path))
        };
        match tokio::task::spawn_blocking(work).await {
            Ok(read) => read,
            Err(panic) => Err(tonic::Status::internal(panic.to_string()).into()),
        }
    }
}

/// Whether the same bytes would be refused again.
fn is_final(error: &BulkError) -> bool {
    use tonic::Code;
    let BulkError::Status(status) = error else { return false };
    matches!(status.code(), Code::InvalidArgument | Code::PermissionDenied | Code::OutOfRange)
}

fn write(shared: &Shared, spills: &[Spill]) -> io::Result<()> {
    // What another user's host prints is not for it to read or change here.
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&shared.directory)?;
    let mut at = 0;
    while let Some(first) = spills.get(at) {
        let path = shared.segment(first.segment);
        let file = fs::OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
        while let Some(spill) = spills.get(at).filter(|s| s.segment == first.segment) {
            file.write_all_at(&spill.data, spill.position)?;
            at += 1;
        }
    }
    Ok(())
}
