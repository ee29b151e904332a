//! The audit log in the store.
//!
//! What somebody asks for is stored before it is done, and its outcome after: a server that is
//! killed in between leaves an entry without outcome. What cannot be recorded is not done.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use overseer::ControlPlane;
use overseer::condition::Part;
use overseer::keyspace::{Kind, Value};
use overseer::store::{Entry, Pages, StoreError, Transaction};
use parking_lot::Mutex;
use tokio::sync::broadcast;

use super::record::{Asked, AuditRecord, Class, Ended, EntryId};
use crate::access::tokens::now_ms;
use crate::exit::Exit;
use crate::failure::Failure;

/// How long entries are kept.
const AGE: Duration = Duration::from_secs(180 * 86_400);
/// Old ones that are removed in one transaction.
const AT_ONCE: usize = 100;
/// Entries that are looked at before others get their turn.
const IN_A_ROW: usize = 512;
/// Entries that a reader who follows may lag behind.
const BEHIND: usize = 1024;

/// For a check of the store.
pub(crate) const KIND: Kind = Kind {
    name: "audit entries",
    prefix: "audit/",
    form: "audit/CLASS/ID",
    value: "JSON: who, what, from where, outcome",
    read: read_stored,
};

fn read_stored(entry: &Entry) -> Result<Value, String> {
    let rest = entry.key.strip_prefix(KIND.prefix).unwrap_or_default();
    let named = rest.split_once('/').is_some_and(|(class, id)| {
        Class::ALL.iter().any(|known| known.name() == class) && EntryId::parse(id).is_some()
    });
    if !named {
        return Err("its key names no entry".to_owned());
    }
    serde_json::from_slice::<AuditRecord>(&entry.value).map(|_| Value::Alone).map_err(|e| e.to_string())
}

/// An entry as readers get it.
#[derive(Debug, Clone)]
pub(crate) struct Listed {
    pub(crate) id: EntryId,
    pub(crate) class: Class,
    pub(crate) record: AuditRecord,
}

/// What a reader wants.
#[derive(Debug, Clone, Default)]
pub(crate) struct Wanted {
    pub(crate) since_ms: u64,
    pub(crate) fleet: Option<String>,
    pub(crate) denied: bool,
    pub(crate) limit: usize,
}

/// Cheap to clone.
#[derive(Clone)]
pub(crate) struct AuditLog {
    inner: Arc<Inner>,
}

struct Inner {
    plane: ControlPlane,
    kept: Mutex<Kept>,
    news: broadcast::Sender<Listed>,
}

/// The entries that there are.
struct Kept {
    newest: EntryId,
    /// By class, in order.
    ids: [VecDeque<EntryId>; 3],
}

impl Class {
    /// Most entries of it.
    pub(super) fn most(self) -> usize {
        match self {
            Self::Change | Self::Use => 20_000,
            Self::Denied => 5_000,
        }
    }
}

fn key(class: Class, id: EntryId) -> String {
    format!("audit/{}/{id}", class.name())
}

/// Of a disk that is full or read-only it is told as by everybody else who would write.
fn not_recorded(error: &StoreError) -> Failure {
    let message = format!("the request could not be recorded, so it was not done: {error}");
    let failure = Failure::told(Exit::Fault, error.code(), &message);
    match error {
        StoreError::NotWritable { .. } => failure,
        _ => Failure { code: "audit.not_recorded".into(), ..failure },
    }
}

impl AuditLog {
    /// The log of this store.
    ///
    /// # Errors
    /// `store.…`.
    pub(crate) async fn open(plane: ControlPlane) -> Result<Self, Failure> {
        let mut kept = Kept { newest: EntryId::first_of(0), ids: Default::default() };
        for class in Class::ALL {
            let prefix = format!("{}{}/", KIND.prefix, class.name());
            let mut pages = Pages::of(plane.store(), &prefix);
            let failed = |e: StoreError| Failure::told(Exit::Fault, e.code(), &e.to_string());
            while let Some(entries) = pages.page().await.map_err(failed)? {
                let ids = entries.iter().filter_map(|entry| EntryId::parse(entry.key.strip_prefix(&prefix)?));
                kept.ids[class as usize].extend(ids);
            }
            kept.newest = kept.newest.max(kept.ids[class as usize].back().copied().unwrap_or(kept.newest));
        }
        let inner = Inner { plane, kept: Mutex::new(kept), news: broadcast::Sender::new(BEHIND) };
        let log = Self { inner: Arc::new(inner) };
        log.forget_old().await;
        Ok(log)
    }

    /// Records that somebody asks for something, before it is done.
    ///
    /// # Errors
    /// `store.not_writable`, `audit.not_recorded`: it must not be done then.
    pub(crate) async fn begin(&self, class: Class, record: AuditRecord) -> Result<Open, Failure> {
        let id = self.add(class, &record).await.map_err(|e| not_recorded(&e))?;
        Ok(Open { entry: Some(Listed { id, class, record }), begun: Instant::now(), log: self.clone() })
    }

    /// Records what has ended already.
    ///
    /// # Errors
    /// Those of the store.
    pub(crate) async fn note(&self, class: Class, record: &AuditRecord) -> Result<(), StoreError> {
        self.add(class, record).await.map(drop)
    }

    /// Whether the disk takes entries now, as far as is known.
    pub(super) fn is_writable(&self) -> bool {
        self.inner.plane.condition().troubles().iter().all(|trouble| trouble.part != Part::Store)
    }

    async fn add(&self, class: Class, record: &AuditRecord) -> Result<EntryId, StoreError> {
        let (id, too_many) = {
            let mut kept = self.inner.kept.lock();
            let id = EntryId::next(kept.newest, now_ms());
            kept.newest = id;
            let ids = &mut kept.ids[class as usize];
            ids.push_back(id);
            let surplus = ids.len().saturating_sub(class.most()).min(AT_ONCE);
            (id, ids.drain(..surplus).collect::<Vec<_>>())
        };
        let mut adding = Transaction::new().put(key(class, id), encode(record));
        for old in too_many {
            adding = adding.delete(key(class, old));
        }
        self.inner.plane.store().transact(adding).await?;
        // Nobody may be reading.
        let _ = self.inner.news.send(Listed { id, class, record: record.clone() });
        Ok(id)
    }

    async fn end(&self, entry: Listed) {
        let key = key(entry.class, entry.id);
        // One that was pushed out meanwhile stays out.
        let ending = Transaction::new().present(key.as_str()).put(key.as_str(), encode(&entry.record));
        if let Err(error) = self.inner.plane.store().transact(ending).await {
            tracing::error!(%error, key, "the outcome of an entry of the audit log is lost");
        }
        let _ = self.inner.news.send(entry);
    }

    /// The newest entries that are wanted, oldest first.
    ///
    /// # Errors
    /// `store.…`.
    pub(crate) async fn read(&self, wanted: &Wanted) -> Result<Vec<Listed>, Failure> {
        let mut ids: Vec<(EntryId, Class)> = {
            let kept = self.inner.kept.lock();
            let since = EntryId::first_of(wanted.since_ms);
            let classes = Class::ALL.into_iter().filter(|class| !wanted.denied || *class == Class::Denied);
            let of = |class: Class| kept.ids[class as usize].iter().map(move |id| (*id, class));
            classes.flat_map(of).filter(|(id, _)| *id >= since).collect()
        };
        ids.sort_unstable();
        let mut found = Vec::new();
        for (n, (id, class)) in ids.into_iter().rev().enumerate() {
            if found.len() >= wanted.limit {
                break;
            }
            if n % IN_A_ROW == IN_A_ROW - 1 {
                tokio::task::yield_now().await;
            }
            let entry = self.inner.plane.store().get(&key(class, id)).await;
            let entry = entry.map_err(|e| Failure::told(Exit::Fault, e.code(), &e.to_string()))?;
            let Some(record) = entry.and_then(|entry| serde_json::from_slice(&entry.value).ok()) else {
                continue;
            };
            let listed = Listed { id, class, record };
            if wanted.takes(&listed) {
                found.push(listed);
            }
        }
        found.reverse();
        Ok(found)
    }

    /// What is recorded from now on.
    pub(crate) fn follow(&self) -> broadcast::Receiver<Listed> {
        self.inner.news.subscribe()
    }

    /// Removes what is too old.
    pub(crate) async fn forget_old(&self) {
        let age = crate::access::token::millis(AGE);
        let oldest = EntryId::first_of(now_ms().saturating_sub(age));
        for class in Class::ALL {
            loop {
                let old: Vec<_> = {
                    let ids = &mut self.inner.kept.lock().ids[class as usize];
                    let surplus = ids.len().saturating_sub(class.most());
                    let n = ids.partition_point(|id| *id < oldest).max(surplus).min(AT_ONCE);
                    ids.drain(..n).collect()
                };
                if old.is_empty() {
                    break;
                }
                let removing = old.into_iter().fold(Transaction::new(), |t, id| t.delete(key(class, id)));
                if let Err(error) = self.inner.plane.store().transact(removing).await {
                    tracing::warn!(%error, "old entries of the audit log stay until the next start");
                    return;
                }
            }
        }
    }
}

impl Wanted {
    /// Whether an entry is one of them, but for its time.
    pub(crate) fn takes(&self, entry: &Listed) -> bool {
        let fleet = self.fleet.as_ref().is_none_or(|fleet| entry.record.fleet == *fleet);
        fleet && (!self.denied || entry.class == Class::Denied)
    }
}

/// Of our own types, which are always JSON.
fn encode(record: &AuditRecord) -> Vec<u8> {
    serde_json::to_vec(record).unwrap_or_default()
}

/// An entry whose outcome is to come. Dropped without one, its client has gone away.
#[must_use]
pub(crate) struct Open {
    entry: Option<Listed>,
    begun: Instant,
    log: AuditLog,
}

impl Open {
    /// Records the outcome: `ok`, or the code of an error.
    pub(crate) async fn end(mut self, code: &str) {
        if let Some(entry) = self.ended(code) {
            let log = self.log.clone();
            // To its end, though the client goes away now.
            let ending = tokio::spawn(async move { log.end(entry).await });
            let _ = ending.await;
        }
    }

    /// The same, of something that has a name only now.
    pub(crate) async fn end_with(mut self, code: &str, target: &str) {
        if let Some(entry) = &mut self.entry {
            entry.record.target = Asked::default().target(target).target;
        }
        self.end(code).await;
    }

    /// The same for what is done so often that nobody should wait for it.
    pub(crate) fn end_soon(mut self, code: &str, target: Option<&str>) {
        if let Some(mut entry) = self.ended(code) {
            if let Some(target) = target {
                entry.record = AuditRecord { target: Asked::default().target(target).target, ..entry.record };
            }
            let log = self.log.clone();
            tokio::spawn(async move { log.end(entry).await });
        }
    }

    /// Leaves the entry as it is.
    pub(crate) fn forget(mut self) {
        self.entry = None;
    }

    fn ended(&mut self, code: &str) -> Option<Listed> {
        let mut entry = self.entry.take()?;
        let took_ms = self.begun.elapsed().as_millis() as u64;
        entry.record.outcome = Some(Ended { code: code.to_owned(), took_ms });
        Some(entry)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let Some(entry) = self.ended("client.gone") else { return };
        let log = self.log.clone();
        // Without a runtime the server is gone too, and the entry stays open.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { log.end(entry).await });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(method: &str, fleet: &str) -> AuditRecord {
        AuditRecord {
            at_ms: now_ms(),
            who: "user".into(),
            by: "uid 1".into(),
            from: "socket, process 1".into(),
            method: method.into(),
            fleet: fleet.into(),
            target: String::new(),
            arguments: String::new(),
            times: 1,
            outcome: None,
        }
    }

    fn wanted(limit: usize) -> Wanted {
        Wanted { limit, ..Wanted::default() }
    }

    #[tokio::test]
    async fn what_is_asked_for_is_there_before_its_outcome_and_after_a_restart() {
        let plane = ControlPlane::embedded().await.unwrap();
        let log = AuditLog::open(plane.clone()).await.unwrap();
        let mut news = log.follow();
        let open = log.begin(Class::Change, record("Fleets.Stop", "web")).await.unwrap();
        assert_eq!(log.read(&wanted(10)).await.unwrap()[0].record.outcome, None);
        open.end("ok").await;
        drop(log.begin(Class::Use, record("Tasks.Submit", "db")).await.unwrap());
        log.note(Class::Denied, &record("Server.Reload", "")).await.unwrap();
        // The one that was dropped is told by a task of its own.
        while news.recv().await.unwrap().record.outcome.is_none_or(|o| o.code != "client.gone") {}
        let again = AuditLog::open(plane.clone()).await.unwrap();
        let read = again.read(&wanted(10)).await.unwrap();
        let codes: Vec<_> = read
            .iter()
            .map(|l| (l.record.method.as_str(), l.record.outcome.as_ref().map(|o| o.code.as_str())))
            .collect();
        let expected =
            [("Fleets.Stop", Some("ok")), ("Tasks.Submit", Some("client.gone")), ("Server.Reload", None)];
        assert_eq!(codes, expected);
        let of_db = Wanted { fleet: Some("db".into()), ..wanted(10) };
        assert_eq!(again.read(&of_db).await.unwrap().len(), 1);
        let denied = Wanted { denied: true, ..wanted(10) };
        assert_eq!(again.read(&denied).await.unwrap()[0].record.method, "Server.Reload");
        assert_eq!(again.read(&wanted(1)).await.unwrap()[0].record.method, "Server.Reload");
        let later = Wanted { since_ms: now_ms() + 10_000, ..wanted(10) };
        assert!(again.read(&later).await.unwrap().is_empty());
        plane.shutdown().await;
    }

    #[tokio::test]
    async fn one_class_is_bounded_and_pushes_out_only_its_own() {
        let plane = ControlPlane::embedded().await.unwrap();
        let log = AuditLog::open(plane.clone()).await.unwrap();
        log.note(Class::Change, &record("Server.Reload", "")).await.unwrap();
        let most = Class::Denied.most();
        let mut adding = tokio::task::JoinSet::new();
        for _ in 0..most + 50 {
            let log = log.clone();
            adding.spawn(async move { log.note(Class::Denied, &record("Fleets.Stop", "")).await });
        }
        adding.join_all().await;
        let kept = log.read(&wanted(usize::MAX)).await.unwrap();
        assert_eq!(kept.len(), most + 1);
        let again = AuditLog::open(plane.clone()).await.unwrap();
        assert_eq!(again.read(&wanted(usize::MAX)).await.unwrap().len(), most + 1);
        plane.shutdown().await;
    }
}
