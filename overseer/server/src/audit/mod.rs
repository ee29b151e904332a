//! The record of who has asked for what, of whom, from where, and how it ended.

mod digest;
pub(crate) mod log;
pub(crate) mod record;

use std::time::Instant;

use overseer::store::StoreError;
use parking_lot::Mutex;
use tonic::Status;

use self::digest::Digest;
use self::log::{AuditLog, Open};
use self::record::{Asked, AuditRecord, Class, Ended};
use crate::access::tokens::now_ms;
use crate::access::{Caller, Principal};
use crate::api::status;
use crate::failure::Failure;

/// What is recorded as a sum: alike are those of the same who, where, what and outcome.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Alike {
    pub(crate) who: &'static str,
    pub(crate) by: String,
    /// Without the port, which differs each time.
    pub(crate) from: String,
    pub(crate) method: String,
    pub(crate) asked: Asked,
    pub(crate) code: String,
}

/// The audit log of a server.
pub(crate) struct Audit {
    pub(crate) log: AuditLog,
    denied: Mutex<Digest<Alike>>,
    calls: Mutex<Digest<Alike>>,
}

impl Audit {
    /// On this log.
    pub(crate) fn new(log: AuditLog) -> Self {
        let now = Instant::now();
        Self { log, denied: Mutex::new(Digest::new(now)), calls: Mutex::new(Digest::new(now)) }
    }

    /// Records that a client asks for something, before it is done.
    ///
    /// # Errors
    /// `store.not_writable`, `audit.not_recorded`: it must not be done then.
    pub(crate) async fn begin(&self, class: Class, caller: &Caller, asked: Asked) -> Result<Open, Failure> {
        caller.note_recorded();
        let record = entry(&caller.principal, &caller.from, caller.rule.name(), asked);
        self.log.begin(class, record).await
    }

    /// The same of the server itself.
    ///
    /// # Errors
    /// As [`Audit::begin`].
    pub(crate) async fn begin_own(
        &self,
        why: &'static str,
        what: &str,
        asked: Asked,
    ) -> Result<Open, Failure> {
        let record = entry(&Principal::Server(why), "server", what.to_owned(), asked);
        self.log.begin(Class::Change, record).await
    }

    /// Records a call, or counts it with those that are alike.
    ///
    /// # Errors
    /// As [`Audit::begin`].
    pub(crate) async fn call(&self, caller: &Caller, asked: Asked) -> Result<(), Failure> {
        caller.note_recorded();
        let (who, by) = caller.principal.named();
        let alike = Alike {
            who,
            by,
            from: without_port(&caller.from),
            method: caller.rule.name(),
            asked: asked.clone(),
            code: String::new(),
        };
        let now = Instant::now();
        let first = self.calls.lock().count(alike.clone(), now);
        if first {
            // Nothing is known of its end: a call is over with its caller.
            let mut record = entry(&caller.principal, &caller.from, caller.rule.name(), asked);
            record.outcome = Some(Ended { code: "begun".into(), took_ms: 0 });
            match self.log.begin(Class::Use, record).await {
                Ok(open) => open.forget(),
                // Calls go on while the disk is full: it is recorded with those that follow.
                Err(_) if !self.log.is_writable() => _ = self.calls.lock().count(alike, now),
                Err(failure) => return Err(failure),
            }
        }
        Ok(())
    }

    /// Records that something was not allowed, or counts it with those that are alike.
    pub(crate) async fn denied(&self, alike: Alike, from: &str) {
        let now = Instant::now();
        let first = self.denied.lock().count(alike.clone(), now);
        if first {
            let record = AuditRecord { from: from.to_owned(), ..sum(Some(alike.clone()), 1) };
            match self.log.note(Class::Denied, &record).await {
                Err(_) if !self.log.is_writable() => _ = self.denied.lock().count(alike, now),
                noted => tell_if_lost(noted, &record),
            }
        }
    }

    /// Records what was counted, where it is time and the disk takes it; all of it at the end.
    pub(crate) async fn flush(&self, all: bool) {
        if !all && !self.log.is_writable() {
            return;
        }
        let now = Instant::now();
        let (denied, calls) = (self.denied.lock().due(now, all), self.calls.lock().due(now, all));
        for (class, due) in [(Class::Denied, denied), (Class::Use, calls)] {
            for (alike, times) in due {
                let record = sum(alike, times);
                tell_if_lost(self.log.note(class, &record).await, &record);
            }
        }
    }
}

fn tell_if_lost(noted: Result<(), StoreError>, record: &AuditRecord) {
    if let Err(error) = noted {
        tracing::error!(%error, method = record.method, by = record.by, "an entry of the audit log is lost");
    }
}

/// How a request ended, for the log.
pub(crate) fn outcome<T>(result: &Result<T, Status>) -> String {
    match result {
        Ok(_) => "ok".to_owned(),
        Err(status) => status::code_of(status),
    }
}

fn entry(who: &Principal, from: &str, method: String, asked: Asked) -> AuditRecord {
    let (who, by) = who.named();
    let Asked { fleet, target, arguments } = asked;
    AuditRecord {
        at_ms: now_ms(),
        who: who.to_owned(),
        by,
        from: from.to_owned(),
        method,
        fleet,
        target,
        arguments,
        times: 1,
        outcome: None,
    }
}

/// An entry of many; none are those that could not be told from each other.
fn sum(alike: Option<Alike>, times: u32) -> AuditRecord {
    let others = || Alike {
        who: "nobody",
        by: "many different ones".to_owned(),
        from: String::new(),
        method: String::new(),
        asked: Asked::default(),
        code: "many".to_owned(),
    };
    let Alike { who, by, from, method, asked, code } = alike.unwrap_or_else(others);
    let Asked { fleet, target, arguments } = asked;
    let code = if code.is_empty() { "begun".to_owned() } else { code };
    let outcome = Some(Ended { code, took_ms: 0 });
    AuditRecord {
        at_ms: now_ms(),
        who: who.to_owned(),
        by,
        from,
        method,
        fleet,
        target,
        arguments,
        times,
        outcome,
    }
}

/// The address of a client, or the process at the socket.
pub(crate) fn without_port(from: &str) -> String {
    from.parse::<std::net::SocketAddr>().map_or_else(|_| from.to_owned(), |address| address.ip().to_string())
}
