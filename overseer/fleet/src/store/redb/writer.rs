//! The one thread that changes the file. It takes all that waits, applies each request with its
//! own compares in order, commits once, and then answers everyone.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Shared;
use super::apply::{self, Applied, Progress};
use super::file::Place;
use super::leases::Leases;
use super::queue::{Queue, Queued, Request, Work};
use super::tables::{State, Tables};
use crate::condition::{self, Condition, Part};
use crate::metrics::{StoreMetrics, one};
use crate::store::{Clock, LeaseId, MAX_TRANSACTION_BYTES, Outcome, Revision, StoreError};

/// How long the writer waits before it tries a failed disk again when nobody asks.
const RETRY: Duration = Duration::from_secs(1);
/// For how many bytes there must be room before a store that was full is written again: for any
/// transaction, so that it does not go to and fro between full and not full.
const ANY: u64 = 512 + MAX_TRANSACTION_BYTES as u64;

/// The state of the writer's thread.
pub(super) struct Writer {
    pub(super) shared: Arc<Shared>,
    pub(super) queue: Arc<Queue>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) state: State,
    pub(super) leases: Leases,
    pub(super) condition: Arc<Condition>,
    /// The last turn could not write.
    pub(super) troubled: bool,
    pub(super) metrics: Arc<StoreMetrics>,
}

/// A group that is in the file.
struct Written {
    progress: Progress,
    /// One for each request, in order.
    verdicts: Vec<Verdict>,
    ended: Vec<LeaseId>,
}

#[derive(Debug, Clone)]
enum Verdict {
    Transacted(Result<Outcome, StoreError>),
    Granted(LeaseId),
    Done,
}

enum Failure {
    /// The file was not touched: readers go on.
    Refused(StoreError),
    /// Before anything could become durable.
    Before(StoreError),
    /// While committing: the group may or may not be in the file.
    During(StoreError, Box<Written>),
}

/// Answers what waits when the thread ends, be it by a panic.
struct Last(Arc<Queue>);

impl Drop for Last {
    fn drop(&mut self) {
        self.0.abandon();
    }
}

impl Writer {
    /// Runs until the queue closes.
    pub(super) fn run(mut self) {
        let _last = Last(self.queue.clone());
        loop {
            match self.queue.take(self.patience()) {
                Work::Close => return,
                Work::Group(group) => self.turn(group),
            }
        }
    }

    fn patience(&self) -> Option<Duration> {
        if self.troubled {
            return Some(RETRY);
        }
        self.leases.next_deadline().map(|deadline| deadline.saturating_sub(self.clock.now()))
    }

    fn turn(&mut self, group: Vec<Queued>) {
        // Their room is given back at the end, when they are answered.
        let (requests, _room): (Vec<_>, Vec<_>) = group.into_iter().map(|q| (q.request, q.room)).unzip();
        let requests = self.keep_alive(requests);
        let over = self.leases.over(self.clock.now());
        if requests.is_empty() && over.is_empty() && !self.troubled {
            return;
        }
        self.commit(requests, over);
    }

    /// In one commit; or where there is no room for all of them, in several.
    fn commit(&mut self, mut requests: Vec<Request>, over: Vec<LeaseId>) {
        let bytes = requests.iter().map(|r| 512 + r.bytes() as u64).sum();
        let place = &self.shared.place;
        if !self.troubled && requests.len() > 1 && place.check_room(bytes).is_err() {
            let rest = requests.split_off(requests.len() / 2);
            self.commit(requests, over);
            return self.commit(rest, Vec::new());
        }
        let bytes = if self.troubled { bytes.max(ANY) } else { bytes };
        let written = self
            .ensure_open()
            .and_then(|()| {
                // After a fault the file may have a commit that nobody was told of.
                self.shared.log.write().continue_at(Revision(self.state.revision));
                self.shared.place.check_room(bytes)
            })
            .map_err(Failure::Refused)
            .and_then(|()| self.write(&requests, &over))
            .or_else(|failure| self.recover(failure));
        self.note(&written);
        match written {
            Ok(written) => self.succeed(requests, written),
            // Leases that ran out have ended for everyone; their keys go when the disk works.
            Err(error) => {
                self.metrics.transactions.add_many("failed", requests.len() as u64);
                requests.into_iter().for_each(|r| r.refuse(error.clone()));
            }
        }
    }

    /// Tells who wants to know that the disk works or does not.
    fn note(&mut self, written: &Result<Written, StoreError>) {
        match written {
            Ok(_) if self.troubled => self.condition.leave(Part::Store),
            Ok(_) => {}
            Err(error) => {
                let reason = match error {
                    // The amounts are told beside it, as they are by then.
                    StoreError::NotWritable { reason, .. } if reason.starts_with(condition::FULL) => {
                        condition::FULL.to_owned()
                    }
                    StoreError::NotWritable { reason, .. } | StoreError::Uncertain { reason, .. } => {
                        reason.clone()
                    }
                    other => other.to_string(),
                };
                let needed = Place::needed(ANY);
                self.condition.enter(Part::Store, &self.shared.place.path, &reason, needed);
            }
        }
        self.troubled = written.is_err();
    }

    /// Prolonging a lease is a matter of memory: after a restart all of them start anew.
    fn keep_alive(&mut self, requests: Vec<Request>) -> Vec<Request> {
        let mut rest = Vec::with_capacity(requests.len());
        for request in requests {
            match request {
                Request::KeepAlive(lease, at, answer) => {
                    let kept = self.leases.keep_alive(lease, at);
                    let _ = answer.send(if kept { Ok(()) } else { Err(StoreError::NoLease(lease)) });
                }
                other => rest.push(other),
            }
        }
        rest
    }

    fn write(&self, requests: &[Request], over: &[LeaseId]) -> Result<Written, Failure> {
        let fault = |error: ::redb::Error| self.shared.place.fault(error);
        let before = |error: ::redb::Error| Failure::Before(fault(error));
        let database = self.shared.database.read();
        let database = database.as_ref().map_err(|error| Failure::Refused(error.clone()))?;
        let write = database.begin_write().map_err(|error| before(error.into()))?;
        let mut tables = Tables::open(&write).map_err(before)?;
        let mut written = Written {
            progress: Progress { state: self.state, changes: Vec::new() },
            verdicts: Vec::with_capacity(requests.len()),
            ended: Vec::new(),
        };
        for request in requests {
            let verdict = self.apply(&mut tables, request, &mut written).map_err(before)?;
            written.verdicts.push(verdict);
        }
        for lease in over {
            apply::end_lease(&mut tables, &mut written.progress, *lease).map_err(before)?;
            written.ended.push(*lease);
        }
        if !self.troubled && written.progress.state == self.state && written.ended.is_empty() {
            // Conflicts only: dropping the transaction aborts it. After a fault it is committed
            // nevertheless, for that tells whether the disk works.
            return Ok(written);
        }
        written.progress.state.commit += 1;
        tables.set_state(written.progress.state).map_err(before)?;
        drop(tables);
        let begun = Instant::now();
        match write.commit() {
            Ok(()) => {
                self.metrics.commit.observe(begun.elapsed());
                one(&self.metrics.commits);
                Ok(written)
            }
            Err(error) => Err(Failure::During(fault(error.into()), Box::new(written))),
        }
    }

    fn apply(
        &self,
        tables: &mut Tables<'_>,
        request: &Request,
        group: &mut Written,
    ) -> Result<Verdict, ::redb::Error> {
        match request {
            Request::Transact(transaction, _) => {
                let now = self.clock.now();
                let runs = |lease| self.leases.runs(lease, now) && !group.ended.contains(&lease);
                let applied = apply::transaction(tables, &mut group.progress, transaction, runs)?;
                Ok(Verdict::Transacted(match applied {
                    Applied::Written(revision) => Ok(Outcome::Committed(revision)),
                    Applied::Conflict(index) => Ok(Outcome::Conflict(index)),
                    Applied::NoLease(lease) => Err(StoreError::NoLease(lease)),
                }))
            }
            Request::Grant(ttl, _) => {
                let state = &mut group.progress.state;
                state.lease += 1;
                // A lease of more than half a billion years is for ever.
                let millis = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
                tables.leases.insert(state.lease, millis)?;
                Ok(Verdict::Granted(LeaseId(state.lease)))
            }
            Request::Revoke(lease, _) => {
                apply::end_lease(tables, &mut group.progress, *lease)?;
                group.ended.push(*lease);
                Ok(Verdict::Done)
            }
            Request::KeepAlive(..) => Ok(Verdict::Done),
        }
    }

    fn succeed(&mut self, requests: Vec<Request>, written: Written) {
        self.state = written.progress.state;
        for lease in &written.ended {
            self.leases.end(*lease);
        }
        let now = self.clock.now();
        // Watches learn of a change no later than the one who made it.
        let revision = self.state.revision;
        self.shared.log.write().append(written.progress.changes, Revision(revision));
        self.shared.publish(revision);
        for (request, verdict) in requests.into_iter().zip(written.verdicts) {
            // A caller that has gone needs no answer.
            match (request, verdict) {
                (Request::Transact(_, answer), Verdict::Transacted(outcome)) => {
                    self.metrics.transactions.add(match &outcome {
                        Ok(Outcome::Committed(_)) => "committed",
                        Ok(Outcome::Conflict(_)) => "conflict",
                        Err(_) => "failed",
                    });
                    let _ = answer.send(outcome);
                }
                (Request::Grant(ttl, answer), Verdict::Granted(lease)) => {
                    self.leases.start(lease, ttl, now);
                    let _ = answer.send(Ok(lease));
                }
                (Request::Revoke(_, answer) | Request::KeepAlive(_, _, answer), _) => {
                    let _ = answer.send(Ok(()));
                }
                (request, _) => request.refuse(StoreError::Closed),
            }
        }
    }

    /// After a fault the file is closed and opened again, for redb takes nothing more and only
    /// the file knows whether a commit took place.
    fn recover(&mut self, failure: Failure) -> Result<Written, StoreError> {
        let (error, written) = match failure {
            Failure::Refused(error) => return Err(error),
            Failure::Before(error) => (error, None),
            Failure::During(error, written) => (error, Some(written)),
        };
        if !self.troubled {
            tracing::error!(%error, "the store's file failed; it is opened again");
        }
        *self.shared.database.write() = Err(error.clone());
        match (self.ensure_open(), written) {
            // It took place, and watches are yet to be told.
            (Ok(()), Some(written)) if self.state.commit == written.progress.state.commit => Ok(*written),
            (Ok(()), _) | (Err(_), None) => Err(error),
            (Err(again), Some(_)) => Err(StoreError::Uncertain {
                path: self.shared.place.name(),
                reason: format!("{error}; {again}"),
            }),
        }
    }

    /// Opens the file again if it was closed after a fault.
    fn ensure_open(&mut self) -> Result<(), StoreError> {
        if self.shared.database.read().is_ok() {
            return Ok(());
        }
        match self.shared.place.reopen() {
            Ok(opened) => {
                self.state = opened.state;
                *self.shared.database.write() = Ok(opened.database);
                self.shared.publish(self.state.revision);
                Ok(())
            }
            Err(error) => {
                *self.shared.database.write() = Err(error.clone());
                Err(error)
            }
        }
    }
}
