//! What waits for the writer. Bounded by bytes: a caller waits for room, outside of any lock.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::store::{LeaseId, MAX_TRANSACTION_BYTES, Operation, Outcome, StoreError, Transaction};

/// Room of the queue, in KiB; a request takes one and its bytes.
const ROOM: usize = 4096;
const _: () = assert!(MAX_TRANSACTION_BYTES / 1024 + 2 < ROOM);

pub(super) type Answer<T> = oneshot::Sender<Result<T, StoreError>>;

/// What the writer is asked.
#[derive(Debug)]
pub(super) enum Request {
    Transact(Transaction, Answer<Outcome>),
    Grant(Duration, Answer<LeaseId>),
    /// With the time of asking: a lease does not run out while its keeper waits here.
    KeepAlive(LeaseId, Duration, Answer<()>),
    Revoke(LeaseId, Answer<()>),
}

impl Request {
    /// Bytes of keys and values.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Transact(transaction, _) => {
                transaction.operations.iter().map(operation_bytes).sum::<usize>()
                    + transaction.compares.iter().map(|c| c.key().len()).sum::<usize>()
            }
            _ => 0,
        }
    }

    /// Answers with an error.
    pub(super) fn refuse(self, error: StoreError) {
        // A caller that has gone needs no answer.
        match self {
            Self::Transact(_, answer) => drop(answer.send(Err(error))),
            Self::Grant(_, answer) => drop(answer.send(Err(error))),
            Self::KeepAlive(_, _, answer) | Self::Revoke(_, answer) => drop(answer.send(Err(error))),
        }
    }
}

fn operation_bytes(operation: &Operation) -> usize {
    match operation {
        Operation::Put(key, value, _) => key.len() + value.len(),
        Operation::Delete(key) => key.len(),
    }
}

/// A request that keeps its room until it is answered.
pub(super) struct Queued {
    pub(super) request: Request,
    pub(super) room: OwnedSemaphorePermit,
}

/// What woke the writer.
pub(super) enum Work {
    /// Requests, or none when only the time has come.
    Group(Vec<Queued>),
    /// The store closes, and nothing waits any more.
    Close,
}

/// The queue before the writer.
pub(super) struct Queue {
    state: Mutex<State>,
    filled: Condvar,
    room: Arc<Semaphore>,
}

#[derive(Default)]
struct State {
    waiting: Vec<Queued>,
    woken: bool,
    closing: bool,
}

impl Queue {
    pub(super) fn new() -> Self {
        Self {
            state: Mutex::new(State::default()),
            filled: Condvar::new(),
            room: Arc::new(Semaphore::new(ROOM)),
        }
    }

    /// Waits for room, then queues what `make` builds around the answer's sender.
    pub(super) async fn ask<T>(&self, make: impl FnOnce(Answer<T>) -> Request) -> Result<T, StoreError> {
        let (answer, answered) = oneshot::channel();
        let request = make(answer);
        let room = 1 + request.bytes().div_ceil(1024) as u32;
        let room = self.room.clone().acquire_many_owned(room).await.map_err(|_| StoreError::Closed)?;
        {
            let mut state = self.state.lock();
            if state.closing {
                return Err(StoreError::Closed);
            }
            state.waiting.push(Queued { request, room });
        }
        self.filled.notify_one();
        answered.await.unwrap_or(Err(StoreError::Closed))
    }

    /// Everything that waits; waits for it up to `timeout`.
    pub(super) fn take(&self, timeout: Option<Duration>) -> Work {
        let mut state = self.state.lock();
        while state.waiting.is_empty() && !state.woken && !state.closing {
            match timeout {
                None => self.filled.wait(&mut state),
                Some(timeout) => {
                    if self.filled.wait_for(&mut state, timeout).timed_out() {
                        break;
                    }
                }
            }
        }
        state.woken = false;
        if state.waiting.is_empty() && state.closing {
            return Work::Close;
        }
        Work::Group(std::mem::take(&mut state.waiting))
    }

    /// Requests that wait, and bytes of room that is taken.
    pub(super) fn waiting(&self) -> (usize, usize) {
        let free = self.room.available_permits();
        (self.state.lock().waiting.len(), (ROOM - free.min(ROOM)) * 1024)
    }

    /// Lets the writer look at the time.
    pub(super) fn wake(&self) {
        self.state.lock().woken = true;
        self.filled.notify_one();
    }

    /// Takes nothing new; what waits is still done.
    pub(super) fn close(&self) {
        self.state.lock().closing = true;
        self.room.close();
        self.filled.notify_one();
    }

    /// Takes nothing new and answers what waits: for a writer that ends early.
    pub(super) fn abandon(&self) {
        self.close();
        let waiting = std::mem::take(&mut self.state.lock().waiting);
        for queued in waiting {
            queued.request.refuse(StoreError::Closed);
        }
    }
}
