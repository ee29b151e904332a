//! Looks up what there is, and writes it down with what was counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use overseer_protocol::LaborState;

use super::fleet::{FleetMetrics, PHASES};
use super::{METRICS, Observed, Page, PlaneMetrics, StoreMetrics, process};
use crate::fleet::FleetShared;

/// The store of a control plane, as it stands.
pub(crate) struct StoreNow<'a> {
    pub(crate) metrics: &'a StoreMetrics,
    /// Requests that wait for the writer.
    pub(crate) waiting: usize,
    /// Bytes of room that is taken.
    pub(crate) bytes: usize,
}

/// Everything, as it stands now. `running`: the fleets that have their names.
pub(crate) fn collect(plane: &PlaneMetrics, running: &[Arc<FleetShared>], store: &StoreNow<'_>) -> Page {
    let mut page = Page::of(METRICS);
    let mut out = Out { page: &mut page };
    out.number("overseer_build_info", &[env!("CARGO_PKG_VERSION")], 1.0);
    for (name, metrics) in plane.fleets.read().iter() {
        counted(&mut out, name.as_str(), metrics);
    }
    for fleet in running {
        looked_up(&mut out, fleet);
    }
    out.count("overseer_joins_accepted_total", &[], &plane.joined);
    for (reason, n) in plane.refused.all() {
        out.number("overseer_joins_refused_total", &[reason], n as f64);
    }
    out.count("overseer_log_bytes_total", &[], &plane.logs.bytes);
    out.count("overseer_log_gaps_total", &[], &plane.logs.gaps);
    out.count("overseer_log_gap_bytes_total", &[], &plane.logs.gap_bytes);
    for (outcome, n) in store.metrics.transactions.all() {
        out.number("overseer_store_transactions_total", &[outcome], n as f64);
    }
    out.count("overseer_store_commits_total", &[], &store.metrics.commits);
    out.observed("overseer_store_commit_seconds", &[], store.metrics.commit.observed());
    out.number("overseer_store_queue_depth", &[], store.waiting as f64);
    out.number("overseer_store_queue_bytes", &[], store.bytes as f64);
    let (recorded, dropped, failed) = plane.tracer.as_ref().map_or((0, 0, 0), |tracer| tracer.counted());
    for (outcome, n) in [("recorded", recorded), ("dropped", dropped), ("not_exported", failed)] {
        out.number("overseer_spans_total", &[outcome], n as f64);
    }
    process::process(&mut page);
    page
}

/// Puts samples under the labels that the table names.
struct Out<'a> {
    page: &'a mut Page,
}

impl Out<'_> {
    fn with(&mut self, name: &str, values: &[&str], add: impl FnOnce(&mut super::Family, &[(&str, &str)])) {
        let labels = METRICS.iter().find(|row| row.name == name).map_or(&[][..], |row| row.labels);
        debug_assert_eq!(labels.len(), values.len(), "{name}");
        let labels: Vec<(&str, &str)> = labels.iter().copied().zip(values.iter().copied()).collect();
        if let Some(family) = self.page.known(name) {
            add(family, &labels);
        }
    }

    fn number(&mut self, name: &str, values: &[&str], value: f64) {
        self.with(name, values, |family, labels| family.number(labels, value));
    }

    fn count(&mut self, name: &str, values: &[&str], counter: &AtomicU64) {
        self.number(name, values, counter.load(Ordering::Relaxed) as f64);
    }

    fn observed(&mut self, name: &str, values: &[&str], observed: Observed) {
        self.with(name, values, |family, labels| family.observed(labels, observed));
    }
}

fn counted(out: &mut Out<'_>, fleet: &str, metrics: &FleetMetrics) {
    out.count("overseer_labor_starts_total", &[fleet], &metrics.starts);
    out.count("overseer_labor_restarts_total", &[fleet], &metrics.restarts);
    for (phase, histogram) in PHASES.iter().zip(&metrics.phases) {
        out.observed("overseer_labor_phase_seconds", &[fleet, phase], histogram.observed());
    }
    out.observed("overseer_labor_start_seconds", &[fleet], metrics.start.observed());
    out.count("overseer_heartbeats_received_total", &[fleet], &metrics.heartbeats);
    out.count("overseer_heartbeats_missed_total", &[fleet], &metrics.silences);
    out.observed("overseer_call_seconds", &[fleet], metrics.call.observed());
    out.count("overseer_casts_total", &[fleet], &metrics.casts);
    out.observed("overseer_task_queue_seconds", &[fleet], metrics.queue.observed());
    out.observed("overseer_task_run_seconds", &[fleet], metrics.run.observed());
    out.count("overseer_task_attempts_lost_total", &[fleet], &metrics.attempts_lost);
    out.count("overseer_tasks_quarantined_total", &[fleet], &metrics.quarantined);
    out.count("overseer_telemetry_records_total", &[fleet], &metrics.records);
    out.count("overseer_telemetry_bytes_total", &[fleet], &metrics.record_bytes);
    out.count("overseer_reconcile_brakes_total", &[fleet], &metrics.brakes);
    let by_name = [
        ("overseer_labor_ends_total", &metrics.ends),
        ("overseer_release_bytes_total", &metrics.release_bytes),
        ("overseer_upgrades_total", &metrics.upgrades),
        ("overseer_calls_total", &metrics.calls),
        ("overseer_task_transitions_total", &metrics.transitions),
        ("overseer_telemetry_dropped_total", &metrics.dropped),
        ("overseer_queue_refused_total", &metrics.refused),
        ("overseer_queue_dropped_total", &metrics.queue_dropped),
        ("overseer_reconcile_passes_total", &metrics.passes),
        ("overseer_reconcile_findings_total", &metrics.findings),
    ];
    for (name, counts) in by_name {
        for (which, n) in counts.all() {
            out.number(name, &[fleet, which], n as f64);
        }
    }
}

fn looked_up(out: &mut Out<'_>, shared: &FleetShared) {
    let fleet = shared.name.as_str();
    let metrics = &shared.metrics;
    let mut states = [0_usize; LaborState::ALL.len()];
    for labor in shared.labors.read().values() {
        states[labor.status.borrow().state as usize] += 1;
    }
    for state in LaborState::ALL {
        out.number("overseer_labors", &[fleet, state.name()], states[state as usize] as f64);
    }
    let (mut sessions, mut calls, mut orders, mut bytes) = (0, 0, 0, 0);
    for session in shared.sessions.lock().values() {
        let (waiting, waiting_bytes) = session.lanes.waiting();
        sessions += 1;
        calls += session.open_calls();
        orders += waiting;
        bytes += waiting_bytes;
    }
    out.number("overseer_sessions", &[fleet], f64::from(sessions));
    out.number("overseer_calls_open", &[fleet], calls as f64);
    for (state, gauge) in [("queued", &metrics.queued), ("running", &metrics.running)] {
        out.number("overseer_tasks", &[fleet, state], gauge.load(Ordering::Relaxed).max(0) as f64);
    }
    let admitted = shared.tasks.get().map_or((0, 0), |tasks| tasks.admitted());
    let (callbacks, telemetry) = shared.handler.get().map_or((0, 0), |handler| handler.waiting());
    let depths = [
        ("calls_waiting", shared.waiting_calls()),
        ("session_orders", orders),
        ("session_bytes", bytes),
        ("state_casts", shared.waiting_casts()),
        ("tasks", admitted.0),
        ("task_bytes", admitted.1),
        ("task_writes", metrics.task_writes.load(Ordering::Relaxed).max(0) as usize),
        ("labor_records", shared.records.get().map_or(0, |records| records.waiting())),
        ("callbacks", callbacks),
        ("telemetry_callbacks", telemetry),
        ("telemetry_subscribers", shared.telemetry.len()),
        ("event_subscribers", shared.events.len()),
    ];
    for (queue, depth) in depths {
        out.number("overseer_queue_depth", &[fleet, queue], depth as f64);
    }
    let actors =
        [("fleet", &metrics.fleet_actor), ("tasks", &metrics.task_actor), ("callbacks", &metrics.callbacks)];
    for (actor, depth) in actors {
        out.number("overseer_actor_mailbox", &[fleet, actor], depth.now() as f64);
    }
}
