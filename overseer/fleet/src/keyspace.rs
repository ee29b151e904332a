//! Every kind of key that the store holds: where it lies, what its value is, and which type reads
//! it. One row a kind; a test holds the rows against the places that make keys.

#[cfg(test)]
mod tests;

use overseer_protocol::{FleetName, LaborId, TaskId};

use crate::authority;
use crate::claims;
use crate::records;
use crate::store::Entry;
use crate::tasks::{self, TaskRecord};

/// A kind of key.
#[derive(Debug, Clone, Copy)]
pub struct Kind {
    /// What people call it, in the plural.
    pub name: &'static str,
    /// What its keys begin with; no prefix begins with another one.
    pub prefix: &'static str,
    /// The form of its keys.
    pub form: &'static str,
    /// What the value is.
    pub value: &'static str,
    /// Reads a value with the type that it has in the program.
    pub read: fn(&Entry) -> Result<Value, String>,
}

/// A value that was read: what others refer to, or what refers to others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// Refers to nothing.
    Alone,
    /// A labor's claim.
    Claim(FleetName, LaborId),
    /// An instance that a batch has admitted, or the place it was given: of this batch, and the key
    /// and the beginning of the value that must be its counterpart.
    Admitted {
        /// The batch.
        batch: String,
        /// The key of the counterpart.
        counterpart: String,
        /// What the counterpart's value is before its first space.
        names: String,
    },
    /// A task that is at work.
    Live(Box<TaskRecord>),
    /// A task that is over.
    Over(Box<TaskRecord>),
    /// The payload of a task.
    Payload(FleetName, TaskId),
    /// The result of a task.
    Result(FleetName, TaskId),
    /// What an idempotency key names.
    Named(FleetName, TaskId, String),
    /// When a task ended.
    ByEnd(FleetName, u64, TaskId),
}

/// All kinds of keys of this crate, in the order of their prefixes.
pub const KINDS: &[Kind] = &[
    Kind {
        name: "certificate authorities",
        prefix: "authority/",
        form: "authority/ca",
        value: "JSON: certificate and private key, PEM",
        read: authority::read_stored,
    },
    Kind {
        name: "admissions by a batch",
        prefix: "claims/admitted/",
        form: "claims/admitted/BATCH/instance/INSTANCE, …/place/PLACE",
        value: "text: `PLACE KEY`, or the instance",
        read: claims::read_admitted,
    },
    Kind {
        name: "batches",
        prefix: "claims/batch/",
        form: "claims/batch/BATCH",
        value: "JSON: fleet, labors, hash of the token, end",
        read: claims::read_batch,
    },
    Kind {
        name: "claims",
        prefix: "claims/labor/",
        form: "claims/labor/LABOR",
        value: "JSON: fleet, generation, hash of the token, end, use",
        read: claims::read_claim,
    },
    Kind {
        name: "labors",
        prefix: "labors/",
        form: "labors/FLEET/LABOR",
        value: "JSON: `LaborRecord`",
        read: records::read_stored,
    },
    Kind {
        name: "payloads of tasks",
        prefix: "task-in/",
        form: "task-in/FLEET/TASK",
        value: "the bytes, up to 64 KiB; larger ones are blobs",
        read: tasks::read_payload,
    },
    Kind {
        name: "idempotency keys",
        prefix: "task-keys/",
        form: "task-keys/FLEET/KEY",
        value: "JSON: task, BLAKE3 of method and payload",
        read: tasks::read_named,
    },
    Kind {
        name: "results of tasks",
        prefix: "task-out/",
        form: "task-out/FLEET/TASK",
        value: "the bytes, up to 64 KiB; larger ones are blobs",
        read: tasks::read_result,
    },
    Kind {
        name: "tasks at work",
        prefix: "tasks/",
        form: "tasks/FLEET/TASK",
        value: "JSON: `TaskRecord`",
        read: tasks::read_live,
    },
    Kind {
        name: "ends of tasks",
        prefix: "tasks-by-end/",
        form: "tasks-by-end/FLEET/MS/TASK, MS in 16 hexadecimal digits",
        value: "nothing",
        read: tasks::read_by_end,
    },
    Kind {
        name: "tasks that are over",
        prefix: "tasks-over/",
        form: "tasks-over/FLEET/TASK",
        value: "JSON: `TaskRecord`",
        read: tasks::read_over,
    },
];

impl Kind {
    /// The kind of a key, among those of this crate and `more`.
    pub fn of<'k>(key: &str, more: &'k [Kind]) -> Option<&'k Kind> {
        KINDS.iter().chain(more).find(|kind| key.starts_with(kind.prefix))
    }
}
