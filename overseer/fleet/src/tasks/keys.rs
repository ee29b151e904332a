//! Where the parts of a task are in the store, and how they are read back for a check.

use overseer_protocol::{FleetName, TaskId};

use super::record::{IdempotencyKey, TaskRecord};
use crate::keyspace::Value;
use crate::store::Entry;

/// What an idempotency key names, as it is stored.
#[derive(Debug, serde::Deserialize)]
pub(crate) struct Named {
    pub(crate) task: TaskId,
    #[serde(flatten)]
    pub(crate) key: IdempotencyKey,
}

/// Of every task at work.
pub(crate) const LIVE: &str = "tasks/";
/// Of every task that is over.
pub(crate) const OVER: &str = "tasks-over/";

/// A task at work.
pub(crate) fn live(fleet: &FleetName, task: TaskId) -> String {
    format!("tasks/{fleet}/{task}")
}

/// A task that is over.
pub(crate) fn over(fleet: &FleetName, task: TaskId) -> String {
    format!("tasks-over/{fleet}/{task}")
}

/// Its payload.
pub(crate) fn payload(fleet: &FleetName, task: TaskId) -> String {
    format!("task-in/{fleet}/{task}")
}

/// Its result.
pub(crate) fn result(fleet: &FleetName, task: TaskId) -> String {
    format!("task-out/{fleet}/{task}")
}

/// What a client calls it.
pub(crate) fn named(fleet: &FleetName, name: &str) -> String {
    format!("task-keys/{fleet}/{name}")
}

/// When it ended; in order of time.
pub(crate) fn by_end(fleet: &FleetName, at_ms: u64, task: TaskId) -> String {
    format!("tasks-by-end/{fleet}/{at_ms:016x}/{task}")
}

/// The fleet of a key, and what follows it.
fn parts(entry: &Entry) -> Result<(FleetName, &str), String> {
    let mut parts = entry.key.splitn(3, '/').skip(1);
    let fleet = parts.next().and_then(|fleet| fleet.parse().ok()).ok_or("its key names no fleet")?;
    Ok((fleet, parts.next().ok_or("its key ends with its fleet")?))
}

fn task(text: &str) -> Result<TaskId, String> {
    text.parse().map_err(|_| "its key names no task".to_owned())
}

fn record(entry: &Entry, key: fn(&FleetName, TaskId) -> String) -> Result<Box<TaskRecord>, String> {
    let record: TaskRecord = serde_json::from_slice(&entry.value).map_err(|e| e.to_string())?;
    let own = key(&record.fleet, record.task);
    if own == entry.key { Ok(Box::new(record)) } else { Err(format!("it is the record of `{own}`")) }
}

pub(crate) fn read_live(entry: &Entry) -> Result<Value, String> {
    let record = record(entry, live)?;
    if record.is_over() {
        Err("it is over and kept as one at work".to_owned())
    } else {
        Ok(Value::Live(record))
    }
}

pub(crate) fn read_over(entry: &Entry) -> Result<Value, String> {
    let record = record(entry, over)?;
    if record.is_over() {
        Ok(Value::Over(record))
    } else {
        Err("it is at work and kept as one that is over".to_owned())
    }
}

pub(crate) fn read_payload(entry: &Entry) -> Result<Value, String> {
    let (fleet, rest) = parts(entry)?;
    Ok(Value::Payload(fleet, task(rest)?))
}

pub(crate) fn read_result(entry: &Entry) -> Result<Value, String> {
    let (fleet, rest) = parts(entry)?;
    Ok(Value::Result(fleet, task(rest)?))
}

pub(crate) fn read_named(entry: &Entry) -> Result<Value, String> {
    let (fleet, name) = parts(entry)?;
    let kept: Named = serde_json::from_slice(&entry.value).map_err(|e| e.to_string())?;
    if kept.key.name != name {
        return Err(format!("it is what {:?} names", kept.key.name));
    }
    Ok(Value::Named(fleet, kept.task, kept.key.name))
}

pub(crate) fn read_by_end(entry: &Entry) -> Result<Value, String> {
    let (fleet, rest) = parts(entry)?;
    let (at, id) = rest.split_once('/').ok_or("its key has no time and task")?;
    let at = u64::from_str_radix(at, 16).map_err(|_| "its key has no time".to_owned())?;
    Ok(Value::ByEnd(fleet, at, task(id)?))
}
