//! Follows the log of a job: its lines, and where in them each step begins.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use overseer::fleet::FleetHandle;
use overseer::labor::OpenCall;
use overseer::logs::{LogError, LogPiece, LogReader};
use overseer_builder::api::LOG_STREAM;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::event::{Event, Listener};
use super::lines::Lines;
use super::progress::{Progress, Seen};

/// Silence after which a log is given up when its job has answered.
const SILENCE: Duration = Duration::from_secs(10);
/// The same after its labor was lost: what was sent before is here already.
const LOST_SILENCE: Duration = Duration::from_millis(100);
/// How long bytes wait for word of a step that may begin in them: it comes another way.
const HOLD: Duration = Duration::from_millis(50);
/// Pieces of a log that wait to be shown.
const AHEAD: usize = 16;

/// What is still to come of a log when its job is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rest {
    /// All bytes of so many steps.
    OfSteps(usize),
    /// What has come already.
    OfTheLost,
    /// Nothing: it is given up.
    None,
}

/// Follows the log of a call to its end.
pub(super) struct LogFollower {
    rest: watch::Sender<Option<Rest>>,
    /// Counts what was shown; odd while something is being shown, which a slow reader may delay.
    shown: Arc<AtomicU64>,
    job: String,
    listener: Arc<dyn Listener>,
    task: JoinHandle<()>,
}

impl LogFollower {
    /// Begins to follow.
    ///
    /// # Errors
    /// The log cannot be read.
    pub(super) async fn start(
        fleet: &FleetHandle,
        call: &OpenCall,
        job: &str,
        progress: &Progress,
        listener: Arc<dyn Listener>,
    ) -> Result<Self, LogError> {
        let reader = fleet.logs(call.log(LOG_STREAM), 0).await?;
        let rest = watch::Sender::new(None);
        let shown = Arc::<AtomicU64>::default();
        let follow = Follow {
            job: job.to_owned(),
            listener: Arc::clone(&listener),
            seen: progress.seen.subscribe(),
            rest: rest.subscribe(),
            shown: Arc::clone(&shown),
            lines: Lines::default(),
            through: 0,
            steps: 0,
        };
        let task = tokio::spawn(follow.run(reader));
        Ok(Self { rest, shown, job: job.to_owned(), listener, task })
    }

    /// Waits until all of the log was shown, however long that takes, for as long as it goes on.
    pub(super) async fn end(mut self, rest: Rest) {
        self.rest.send_replace(Some(rest));
        let silence = if rest == Rest::OfTheLost { LOST_SILENCE } else { SILENCE };
        let mut before = self.shown.load(Ordering::Acquire);
        loop {
            match tokio::time::timeout(silence, &mut self.task).await {
                // One that panicked has nothing more to show.
                Ok(_) => return,
                Err(_) => {
                    let now = self.shown.load(Ordering::Acquire);
                    if now == before && now.is_multiple_of(2) {
                        break;
                    }
                    before = now;
                }
            }
        }
        self.rest.send_replace(Some(Rest::None));
        // It shows what it has, and ends.
        let _ = (&mut self.task).await;
        if rest != Rest::OfTheLost {
            let message = "the end of the log did not arrive; the labor had no room for it, or lost it";
            self.listener.on(&Event::Warning { job: Some(&self.job), message });
        }
    }
}

impl Drop for LogFollower {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Follow {
    job: String,
    listener: Arc<dyn Listener>,
    seen: watch::Receiver<Seen>,
    rest: watch::Receiver<Option<Rest>>,
    shown: Arc<AtomicU64>,
    lines: Lines,
    /// Bytes of the log that were shown.
    through: u64,
    /// Steps that were shown.
    steps: usize,
}

impl Follow {
    async fn run(mut self, reader: LogReader) {
        let (send, mut pieces) = mpsc::channel(AHEAD);
        let reading = tokio::spawn(read(reader, send));
        loop {
            tokio::select! {
                // What is known of steps goes before the bytes.
                biased;
                Ok(()) = self.seen.changed() => self.show_steps(self.through),
                Ok(()) = self.rest.changed() => {}
                piece = pieces.recv() => match piece {
                    Some(Ok((at, piece))) => self.take(at, piece).await,
                    Some(Err(error)) => {
                        self.show(&Event::Warning { job: Some(&self.job), message: &error.to_string() });
                        break;
                    }
                    None => break,
                },
            }
            if self.is_complete() {
                break;
            }
        }
        reading.abort();
        self.show_rest_of_line();
        self.show_steps(u64::MAX);
    }

    /// Whether the job is over and no byte can follow. A log without a byte has no end of its own.
    fn is_complete(&self) -> bool {
        match *self.rest.borrow() {
            Some(Rest::OfSteps(steps)) => {
                let seen = self.seen.borrow();
                seen.finished as usize >= steps && self.through >= seen.complete_to
            }
            Some(Rest::None) => true,
            Some(Rest::OfTheLost) | None => false,
        }
    }

    async fn take(&mut self, at: Instant, piece: LogPiece) {
        match piece {
            LogPiece::Data { offset, bytes } => {
                let end = offset + bytes.len() as u64;
                let known = self.seen.wait_for(|seen| seen.complete_to >= end);
                // Whoever never hears of it still shows the bytes.
                let _ = tokio::time::timeout_at(at + HOLD, known).await;
                self.show_bytes(offset, &bytes);
            }
            LogPiece::Gap { offset, length } => {
                self.show_rest_of_line();
                self.show_steps(offset);
                self.show_lines(vec![format!("[{length} bytes of the log are lost]")]);
                self.through = offset + length;
            }
        }
    }

    /// Shows bytes, and the steps that begin in them.
    fn show_bytes(&mut self, offset: u64, bytes: &[u8]) {
        let mut from = 0;
        loop {
            self.through = offset + from as u64;
            self.show_steps(self.through);
            let next = self.seen.borrow().started.get(self.steps).map(|step| step.offset);
            let to = next
                .and_then(|next| usize::try_from(next - offset).ok())
                .map_or(bytes.len(), |to| to.min(bytes.len()));
            let lines = self.lines.push(&bytes[from..to]);
            self.show_lines(lines);
            if to == bytes.len() {
                break;
            }
            from = to;
        }
        self.through = offset + bytes.len() as u64;
    }

    /// Shows the steps that begin up to this place in the log.
    fn show_steps(&mut self, place: u64) {
        loop {
            let step = self.seen.borrow().started.get(self.steps).filter(|s| s.offset <= place).cloned();
            let Some(step) = step else { return };
            self.steps += 1;
            self.show_rest_of_line();
            let (job, number) = (&step.job, step.step + 1);
            self.show(&Event::Step { job, step: number, steps: step.steps, command: &step.command });
        }
    }

    fn show_rest_of_line(&mut self) {
        let rest = self.lines.take();
        self.show_lines(rest.into_iter().collect());
    }

    fn show_lines(&self, lines: Vec<String>) {
        if !lines.is_empty() {
            self.show(&Event::Log { job: &self.job, lines: &lines });
        }
    }

    /// A reader of our output that is slow must hold up nothing but the log.
    fn show(&self, event: &Event<'_>) {
        self.shown.fetch_add(1, Ordering::AcqRel);
        tokio::task::block_in_place(|| self.listener.on(event));
        self.shown.fetch_add(1, Ordering::AcqRel);
    }
}

type Read = Result<(Instant, LogPiece), LogError>;

/// Reads ahead, and notes when each piece came.
async fn read(mut reader: LogReader, send: mpsc::Sender<Read>) {
    loop {
        let piece = match reader.next().await {
            Ok(Some(piece)) => Ok((Instant::now(), piece)),
            Ok(None) => return,
            Err(error) => Err(error),
        };
        let ends = piece.is_err();
        if send.send(piece).await.is_err() || ends {
            return;
        }
    }
}
