//! What an entry refers to, looked up.

use overseer_protocol::{FleetName, TaskId};
use tokio::io::AsyncReadExt;

use super::{CheckError, Problem};
use crate::blobs::Blobs;
use crate::claims::batch_key;
use crate::keyspace::Value;
use crate::records::key_of;
use crate::store::{Entry, Store};
use crate::tasks::{self, Content, TaskRecord, TaskState};

const RESTORE: &str = "restore the store from an export";
const RESTORE_BLOBS: &str = "restore it from an export that was made with --blobs, or submit the task anew";
const HARMLESS: &str = "it takes room and does no harm";

/// Looks up what entries refer to.
pub(super) struct References<'a> {
    store: &'a dyn Store,
    blobs: &'a dyn Blobs,
    deep: bool,
    blobs_seen: u64,
}

/// What is wrong, before it is known of which key.
struct Wrong(&'static str, String, &'static str);

impl<'a> References<'a> {
    pub(super) fn new(store: &'a dyn Store, blobs: &'a dyn Blobs, deep: bool) -> Self {
        Self { store, blobs, deep, blobs_seen: 0 }
    }

    pub(super) fn blobs_seen(&self) -> u64 {
        self.blobs_seen
    }

    /// The first thing that is wrong with what an entry refers to.
    pub(super) async fn check(&mut self, entry: &Entry, value: Value) -> Result<Option<Problem>, CheckError> {
        let wrong = match value {
            Value::Alone => None,
            Value::Claim(fleet, labor) => {
                let owner = key_of(&fleet, labor);
                self.needs(&owner, "left_over", HARMLESS).await?
            }
            Value::Admitted { batch, counterpart, names } => {
                self.admitted(&batch, &counterpart, &names).await?
            }
            Value::Live(record) => self.live(&record).await?,
            Value::Over(record) => self.over(&record).await?,
            Value::Payload(fleet, task) => match self.task(&fleet, task).await? {
                Some(record) if !record.is_over() && in_store(&record.payload) => None,
                _ => Some(left_over("no task at work has its payload here")),
            },
            Value::Result(fleet, task) => match self.task(&fleet, task).await? {
                Some(TaskRecord { state: TaskState::Done { result, .. }, .. }) if in_store(&result) => None,
                _ => Some(left_over("no task that is done has its result here")),
            },
            Value::Named(fleet, task, name) => match self.task(&fleet, task).await? {
                Some(record) if record.key.as_ref().is_some_and(|key| key.name == name) => None,
                Some(_) => Some(Wrong("disagrees", format!("task {task} has another key"), RESTORE)),
                None => Some(Wrong(
                    "missing",
                    format!("it names task {task}, which is not there"),
                    "submit what it stands for under another key, or restore the store from an export",
                )),
            },
            Value::ByEnd(fleet, at, task) => match self.task(&fleet, task).await? {
                Some(record) if ended(&record) == Some(at) => None,
                Some(_) => Some(Wrong("disagrees", format!("task {task} ended at another time"), RESTORE)),
                None => Some(left_over("its task is not there")),
            },
        };
        Ok(wrong.map(|Wrong(kind, what, help)| Problem { key: entry.key.clone(), kind, what, help }))
    }

    async fn admitted(
        &self,
        batch: &str,
        counterpart: &str,
        names: &str,
    ) -> Result<Option<Wrong>, CheckError> {
        if let Some(wrong) = self.needs(&batch_key(batch), "left_over", HARMLESS).await? {
            return Ok(Some(wrong));
        }
        let Some(other) = self.store.get(counterpart).await? else {
            return Ok(Some(Wrong("missing", format!("`{counterpart}` is not there"), RESTORE)));
        };
        let said = std::str::from_utf8(&other.value).unwrap_or_default().split(' ').next();
        Ok((said != Some(names)).then(|| {
            Wrong("disagrees", format!("`{counterpart}` says {:?}", said.unwrap_or_default()), RESTORE)
        }))
    }

    async fn live(&mut self, record: &TaskRecord) -> Result<Option<Wrong>, CheckError> {
        let (fleet, task) = (&record.fleet, record.task);
        if self.store.get(&tasks::over(fleet, task)).await?.is_some() {
            return Ok(Some(Wrong("disagrees", "it is at work and over".to_owned(), RESTORE)));
        }
        if let Some(wrong) = self.content(&record.payload, "payload", &tasks::payload(fleet, task)).await? {
            return Ok(Some(wrong));
        }
        self.key_of_task(record).await
    }

    async fn over(&mut self, record: &TaskRecord) -> Result<Option<Wrong>, CheckError> {
        let (fleet, task) = (&record.fleet, record.task);
        if let Some(at) = ended(record)
            && let Some(wrong) = self
                .needs(&tasks::by_end(fleet, at, task), "missing", "it is kept for good: its time never ends")
                .await?
        {
            return Ok(Some(wrong));
        }
        if let TaskState::Done { result, .. } = &record.state
            && let Some(wrong) = self.content(result, "result", &tasks::result(fleet, task)).await?
        {
            return Ok(Some(wrong));
        }
        self.key_of_task(record).await
    }

    async fn key_of_task(&self, record: &TaskRecord) -> Result<Option<Wrong>, CheckError> {
        let Some(key) = &record.key else { return Ok(None) };
        self.needs(&tasks::named(&record.fleet, &key.name), "missing", "the same key may begin a second task")
            .await
    }

    async fn content(
        &mut self,
        content: &Content,
        what: &str,
        key: &str,
    ) -> Result<Option<Wrong>, CheckError> {
        match content {
            Content::Store { bytes: 0 } => Ok(None),
            Content::Store { bytes } => Ok(match self.store.get(key).await? {
                None => Some(Wrong("missing", format!("its {what} `{key}` is not there"), RESTORE)),
                Some(entry) if entry.value.len() as u64 != *bytes => {
                    let have = entry.value.len();
                    Some(Wrong(
                        "disagrees",
                        format!("its {what} has {have} bytes instead of {bytes}"),
                        RESTORE,
                    ))
                }
                Some(_) => None,
            }),
            Content::Blob { digest, bytes } => {
                self.blobs_seen += 1;
                self.blob(digest, *bytes).await.map(|wrong| {
                    wrong.map(|why| Wrong("blob", format!("its {what}, blob {digest}, {why}"), RESTORE_BLOBS))
                })
            }
        }
    }

    async fn blob(&self, digest: &str, bytes: u64) -> Result<Option<String>, CheckError> {
        if crate::blobs::check_digest(digest).is_err() {
            return Ok(Some("has no digest for a name".to_owned()));
        }
        let Some(info) = self.blobs.stat(digest).await? else {
            return Ok(Some("is not there".to_owned()));
        };
        if info.size != bytes {
            return Ok(Some(format!("has {} bytes instead of {bytes}", info.size)));
        }
        if !self.deep {
            return Ok(None);
        }
        let (_, mut reader) = self.blobs.get(digest).await?;
        let mut chunk = vec![0; 256 * 1024];
        loop {
            match reader.read(&mut chunk).await {
                Ok(0) => return Ok(None),
                Ok(_) => {}
                Err(error) => return Ok(Some(format!("cannot be read: {error}"))),
            }
        }
    }

    async fn needs(
        &self,
        key: &str,
        kind: &'static str,
        help: &'static str,
    ) -> Result<Option<Wrong>, CheckError> {
        let there = self.store.get(key).await?.is_some();
        Ok((!there).then(|| Wrong(kind, format!("`{key}` is not there"), help)))
    }

    /// A task where it can be read; where it cannot, that is told of its own key.
    async fn task(&self, fleet: &FleetName, task: TaskId) -> Result<Option<TaskRecord>, CheckError> {
        for key in [tasks::live(fleet, task), tasks::over(fleet, task)] {
            if let Some(entry) = self.store.get(&key).await?
                && let Ok(record) = serde_json::from_slice(&entry.value)
            {
                return Ok(Some(record));
            }
        }
        Ok(None)
    }
}

fn left_over(what: &str) -> Wrong {
    Wrong("left_over", what.to_owned(), HARMLESS)
}

fn in_store(content: &Content) -> bool {
    matches!(content, Content::Store { bytes } if *bytes > 0)
}

fn ended(record: &TaskRecord) -> Option<u64> {
    match &record.state {
        TaskState::Done { at_ms, .. } | TaskState::Failed { at_ms, .. } => Some(*at_ms),
        TaskState::Queued { .. } | TaskState::Running { .. } => None,
    }
}
