use super::Kind::{self, Counter, Gauge, Histogram};

/// A metric, as the documentation has it.
#[derive(Debug, Clone, Copy)]
pub struct Described {
    /// Its name.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// The names of its labels.
    pub labels: &'static [&'static str],
    /// What it counts or measures.
    pub help: &'static str,
}

const fn row(
    name: &'static str,
    kind: Kind,
    labels: &'static [&'static str],
    help: &'static str,
) -> Described {
    Described { name, kind, labels, help }
}

const FLEET: &[&str] = &["fleet"];
const QUEUE: &[&str] = &["fleet", "queue"];

/// Every metric of an Overseer.
pub const METRICS: &[Described] = &[
    row("overseer_build_info", Gauge, &["version"], "Always 1; its label says the version."),
    row("overseer_labors", Gauge, &["fleet", "state"], "Labors that have a slot, by state."),
    row("overseer_labor_starts_total", Counter, FLEET, "Nodes that an adapter was asked for."),
    row("overseer_labor_ends_total", Counter, &["fleet", "cause"], "Lives of labors that ended, by cause."),
    row("overseer_labor_restarts_total", Counter, FLEET, "Ended lives that a replacement follows."),
    row(
        "overseer_labor_phase_seconds",
        Histogram,
        &["fleet", "phase"],
        "Time in each state on the way to ready: requested, booting, joining, connected, loaded.",
    ),
    row("overseer_labor_start_seconds", Histogram, FLEET, "Time from requested to ready."),
    row(
        "overseer_release_bytes_total",
        Counter,
        &["fleet", "from"],
        "Bytes of releases that labors have loaded, compressed as they travel: from the overseer, or from the cache of their host.",
    ),
    row(
        "overseer_upgrades_total",
        Counter,
        &["fleet", "result"],
        "Upgrades of a fleet that are over: done, rolled_back.",
    ),
    row("overseer_sessions", Gauge, FLEET, "Open sessions of labors."),
    row("overseer_heartbeats_received_total", Counter, FLEET, "Heartbeats that came."),
    row(
        "overseer_heartbeats_missed_total",
        Counter,
        FLEET,
        "Times that a labor was silent for so long that it was taken for lost.",
    ),
    row("overseer_calls_total", Counter, &["fleet", "outcome"], "Calls that are over: ok, or why not."),
    row("overseer_call_seconds", Histogram, FLEET, "Time from the sending of a call to its answer."),
    row("overseer_calls_open", Gauge, FLEET, "Calls that are on their way or run."),
    row("overseer_casts_total", Counter, FLEET, "Messages without an answer that were sent."),
    row("overseer_tasks", Gauge, &["fleet", "state"], "Tasks that are at work: queued, running."),
    row(
        "overseer_task_transitions_total",
        Counter,
        &["fleet", "to"],
        "Changes of tasks to queued, running, done or failed.",
    ),
    row("overseer_task_queue_seconds", Histogram, FLEET, "Time that a task waited for an attempt."),
    row("overseer_task_run_seconds", Histogram, FLEET, "Time from the begin of an attempt to its end."),
    row("overseer_task_attempts_lost_total", Counter, FLEET, "Attempts that were lost with their labor."),
    row("overseer_tasks_quarantined_total", Counter, FLEET, "Tasks that were quarantined."),
    row("overseer_telemetry_records_total", Counter, FLEET, "Telemetry records that came."),
    row("overseer_telemetry_bytes_total", Counter, FLEET, "Bytes of those."),
    row(
        "overseer_telemetry_dropped_total",
        Counter,
        &["fleet", "by"],
        "Telemetry records that were dropped: by a labor for want of room, by callbacks that are behind.",
    ),
    row(
        "overseer_queue_depth",
        Gauge,
        QUEUE,
        "What waits in a queue right now; in bytes where its name says so.",
    ),
    row("overseer_queue_refused_total", Counter, QUEUE, "What was refused because a queue was full."),
    row("overseer_queue_dropped_total", Counter, QUEUE, "What a full queue has dropped, the oldest first."),
    row("overseer_actor_mailbox", Gauge, &["fleet", "actor"], "Messages that wait for an actor."),
    row("overseer_reconcile_passes_total", Counter, &["fleet", "result"], "Passes of the reconciler."),
    row("overseer_reconcile_findings_total", Counter, &["fleet", "rule"], "What did not fit, by rule."),
    row("overseer_reconcile_brakes_total", Counter, FLEET, "Passes that ended nothing, for it was too much."),
    row("overseer_joins_accepted_total", Counter, &[], "Labors that were given a certificate."),
    row("overseer_joins_refused_total", Counter, &["reason"], "Labors that were not, by reason."),
    row("overseer_log_bytes_total", Counter, &[], "Bytes of logs that were kept."),
    row("overseer_log_gaps_total", Counter, &[], "Gaps in logs."),
    row("overseer_log_gap_bytes_total", Counter, &[], "Bytes that are lost in those."),
    row("overseer_store_transactions_total", Counter, &["outcome"], "Transactions of the store."),
    row("overseer_store_commits_total", Counter, &[], "Commits; each is of all transactions that waited."),
    row("overseer_store_commit_seconds", Histogram, &[], "Time of a commit: it ends when the disk has it."),
    row("overseer_store_queue_depth", Gauge, &[], "Requests that wait for the store's writer."),
    row("overseer_store_queue_bytes", Gauge, &[], "Room that those take, those being written among them."),
    row(
        "overseer_spans_total",
        Counter,
        &["outcome"],
        "Spans of traces: recorded, dropped (too many waited), not_exported.",
    ),
    row("process_resident_memory_bytes", Gauge, &[], "Resident memory."),
    row("process_virtual_memory_bytes", Gauge, &[], "Virtual memory."),
    row("process_open_fds", Gauge, &[], "Open file descriptors."),
    row("process_max_fds", Gauge, &[], "Most file descriptors that may be open."),
    row("process_threads", Gauge, &[], "Threads."),
    row("process_cpu_seconds_total", Counter, &[], "Processor time, of user and system."),
    row("process_start_time_seconds", Gauge, &[], "Start of the process, in seconds since the epoch."),
];

/// The table of all metrics, in Markdown.
pub fn markdown() -> String {
    let mut text = "| metric | kind | labels | what |\n|---|---|---|---|\n".to_owned();
    for Described { name, kind, labels, help } in METRICS {
        let labels: Vec<_> = labels.iter().map(|label| format!("`{label}`")).collect();
        text += &format!("| `{name}` | {} | {} | {help} |\n", kind.name(), labels.join(", "));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_what_they_are() {
        for Described { name, kind, .. } in METRICS {
            assert_eq!(name.ends_with("_total"), *kind == Counter, "{name}");
            assert_eq!(*kind == Histogram, *kind != Gauge && name.ends_with("_seconds"), "{name}");
            assert!(name.starts_with("overseer_") || name.starts_with("process_"), "{name}");
            assert_eq!(METRICS.iter().filter(|other| other.name == *name).count(), 1, "{name}");
        }
    }
}
