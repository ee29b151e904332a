//! What is done on the side, and its outcome.

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use overseer_protocol::proto::report::Kind;
use overseer_protocol::{CallErrorCode, Cause, Endpoint, MAX_PAYLOAD, ReleaseId};
use tokio::task::JoinError;
use tokio::time::Instant;

use super::Agent;
use super::calling::Answered;
use super::hosting::Started;
use crate::as_user::AsUser;
use crate::bulk::{Bulk, BulkError};
use crate::calls::{Event, HostNumber};
use crate::connect::{self, Credentials, Purpose};
use crate::host::{Failure, Host};
use crate::join::{self, JoinError as Refusal, Pass};
use crate::load::{LoadError, Loaded};
use crate::logs::Logs;

/// An outcome.
pub(super) enum Work {
    Renewed(Result<Pass, Refusal>),
    Loaded(ReleaseId, Result<Loaded, LoadError>),
    Started(Box<Started>),
    /// The payload of a call.
    Fetched {
        id: u64,
        payload: Result<Bytes, BulkError>,
    },
    /// A large result is kept at the Overseer.
    Put {
        session: u64,
        whose: Answered,
        digest: Result<String, BulkError>,
    },
    /// A blob that the plugin asked for, in that life of the host.
    Blob {
        host: HostNumber,
        request: u64,
        answer: Result<(String, u64), String>,
    },
    Health {
        number: HostNumber,
        well: Result<(), Cause>,
    },
    /// A host that was replaced, or asked to stop, is gone.
    Retired,
    Flushed,
    /// The last log bytes of a host that is not started again.
    LastWords,
}

/// Over a connection of its own, as who we are now: that of the session may be older than the
/// certificate, for it is not left while calls run on it.
pub(super) async fn renew(endpoint: Endpoint, credentials: Credentials) -> Work {
    let renewed = match connect::connect(&endpoint, &credentials, Purpose::Session).await {
        Ok(channel) => join::renew(channel).await,
        Err(error) => Err(Refusal::Retry(error.to_string())),
    };
    Work::Renewed(renewed)
}

pub(super) async fn fetch(bulk: Bulk, id: u64, digest: String) -> Work {
    Work::Fetched { id, payload: bulk.fetch(&digest, MAX_PAYLOAD).await }
}

pub(super) async fn put(bulk: Bulk, session: u64, whose: Answered, result: Bytes) -> Work {
    Work::Put { session, whose, digest: bulk.put(result).await }
}

pub(super) async fn put_file(
    bulk: Bulk,
    host: HostNumber,
    request: u64,
    path: PathBuf,
    user: AsUser,
) -> Work {
    let answer = bulk.put_file(&path, user).await.map_err(|e| e.to_string());
    Work::Blob { host, request, answer }
}

pub(super) async fn get_file(
    bulk: Bulk,
    host: HostNumber,
    request: u64,
    digest: String,
    path: PathBuf,
    user: AsUser,
) -> Work {
    let fetched = bulk.fetch_to(&digest, &path, user).await;
    let answer = fetched.map(|size| (digest, size)).map_err(|e| e.to_string());
    Work::Blob { host, request, answer }
}

/// Asks a host to stop; its output is still read by whoever reads it.
pub(super) async fn stop(host: Host) -> Work {
    host.stop().await;
    Work::Retired
}

/// Removes directories that nobody uses any more.
pub(super) async fn remove(directories: Vec<PathBuf>) -> Work {
    let remove = move || directories.iter().try_for_each(std::fs::remove_dir_all);
    if let Ok(Err(error)) = tokio::task::spawn_blocking(remove).await {
        tracing::warn!("an older release is left in the agent's directory: {error}");
    }
    Work::Retired
}

/// Waits for the last log bytes, within bounds.
pub(super) async fn flush(logs: Logs, most: Duration) -> Work {
    let _ = tokio::time::timeout(most, logs.flushed()).await;
    Work::Flushed
}

/// The same for a host that is not started again.
pub(super) async fn last_words(logs: Logs, most: Duration) -> Work {
    let _ = tokio::time::timeout(most, logs.flushed()).await;
    Work::LastWords
}

impl Agent {
    pub(super) fn on_work(&mut self, done: Result<Work, JoinError>) {
        match done {
            Ok(Work::Renewed(renewed)) => self.on_renewed(renewed),
            Ok(Work::Loaded(id, loaded)) => self.on_loaded(id, loaded),
            Ok(Work::Started(started)) => self.on_started(*started),
            Ok(Work::Fetched { id, payload }) => self.on_fetched(id, payload),
            Ok(Work::Put { session, whose, digest }) => self.on_put(session, whose, digest),
            Ok(Work::Blob { host, request, answer }) => self.on_blob(host, request, answer),
            Ok(Work::Health { number, well }) => self.on_health(number, well),
            Ok(Work::Retired) => {}
            Ok(Work::Flushed) => self.on_flushed(),
            Ok(Work::LastWords) => self.on_last_words(),
            Err(error) if error.is_cancelled() => {}
            Err(error) => tracing::error!("a fault of the agent: {error}"),
        }
    }

    fn on_renewed(&mut self, renewed: Result<Pass, Refusal>) {
        let now = Instant::now();
        match renewed {
            Ok(pass) => {
                self.renew_at = Some(now + pass.renew_after());
                self.standing.renewed(pass);
                self.bulk.reset();
                self.reattach = true;
            }
            // Refused or not: the old one is good for a while, and at its end the Attach tells.
            Err(error) => {
                tracing::warn!("the certificate is not renewed: {error}");
                let life = self.standing.pass().map_or(Duration::ZERO, |p| p.life);
                let wait = (life / 20).clamp(Duration::from_secs(1), Duration::from_secs(60));
                self.renew_at = Some(now + wait);
            }
        }
    }

    fn on_fetched(&mut self, id: u64, payload: Result<Bytes, BulkError>) {
        if let Some(open) = self.open.get_mut(&id) {
            open.fetching = None;
        }
        match payload {
            Ok(payload) => self.give_to_host(id, payload),
            Err(error) => {
                let code = match error {
                    BulkError::TooLarge(..) => CallErrorCode::TooLarge,
                    _ => CallErrorCode::Agent,
                };
                let message = format!("the payload did not reach the labor: {error}");
                self.calls_event(Event::Finished(id, Err(Failure::new(code, message))));
            }
        }
    }

    fn on_put(&mut self, session: u64, whose: Answered, digest: Result<String, BulkError>) {
        use overseer_protocol::proto::call_result::Outcome;
        self.putting = self.putting.saturating_sub(1);
        // An older session's calls have been failed by the Overseer already, and what stored tasks
        // have answered is sent again over the new one.
        if self.session.as_ref().is_none_or(|s| s.number != session) {
            return;
        }
        let outcome = match digest {
            Ok(digest) => Outcome::OkBlob(digest),
            Err(error) => {
                let message = format!("the result did not reach the Overseer: {error}; call again");
                Outcome::Failure(super::calling::failure(CallErrorCode::Agent, message, None))
            }
        };
        self.outbox.result(whose.with(outcome));
    }

    /// What the host is now, if the Hello of this session said something else.
    pub(super) fn say_what_changed(&mut self, said_ready: bool) {
        match (said_ready, self.standing.is_ready()) {
            (false, true) => self.say_ready(),
            (true, false) => {
                if let Some(loaded) = &self.hosting.loaded {
                    let cause = self.hosting.last_cause.as_ref();
                    self.host_event("exited", self.hosting.incarnation, loaded.id, cause);
                }
                self.say_given_up();
            }
            // One that said that nothing runs gets an order to load, and that is answered.
            _ => {}
        }
    }

    pub(super) fn say_ready(&mut self) {
        if let Some(ready) = self.hosting.ready() {
            self.report(Kind::Ready(ready));
        }
    }
}
