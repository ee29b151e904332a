//! An attempt at a call or a task that is on its way to a labor, or runs there.

use std::time::{Duration, SystemTime};

use overseer_protocol::proto::{CallResult, call_result};
use overseer_protocol::{Attempt, CallErrorCode, FleetName, LaborId, SpanId, TaskId, TraceContext};

use super::{Span, SpanKind, Tracer, ids};
use crate::clock;
use crate::tasks::TaskRecord;

/// The tracer of a control plane, for one fleet.
#[derive(Debug, Clone)]
pub(crate) struct FleetTracer {
    tracer: Tracer,
    fleet: FleetName,
}

impl FleetTracer {
    pub(crate) fn new(tracer: Tracer, fleet: FleetName) -> Self {
        Self { tracer, fleet }
    }

    /// A call has waited for a labor.
    pub(crate) fn queued(
        &self,
        parent: TraceContext,
        since: SystemTime,
        method: &str,
        error: Option<String>,
    ) {
        if parent.sampled {
            self.tracer.record(Span {
                context: parent.at(ids::new_span()),
                parent: Some(parent.span),
                name: "queue".into(),
                kind: SpanKind::Internal,
                start: since,
                end: clock::now(),
                attributes: vec![
                    ("overseer.fleet", self.fleet.to_string()),
                    ("overseer.method", method.into()),
                ],
                error,
            });
        }
    }

    /// A call is sent to a labor.
    pub(crate) fn call(&self, parent: TraceContext, labor: LaborId, method: &str) -> Option<Box<InFlight>> {
        let parent = Some(parent).filter(|parent| parent.sampled)?;
        let spans = [(); 3].map(|()| ids::new_span());
        let attributes = self.attributes(labor, method);
        Some(self.in_flight(parent, clock::now(), spans, attributes))
    }

    /// An attempt of a task was given to a labor.
    pub(crate) fn attempt(
        &self,
        record: &TaskRecord,
        attempt: Attempt,
        labor: LaborId,
        since: SystemTime,
    ) -> Option<Box<InFlight>> {
        let parent = record.trace.filter(|parent| parent.sampled)?;
        let spans = ["dispatch", "agent", "run"].map(|what| ids::of_attempt(record.task, attempt, what));
        let mut attributes = self.attributes(labor, &record.method);
        attributes.extend(of_task(record.task, attempt));
        Some(self.in_flight(parent, since, spans, attributes))
    }

    fn attributes(&self, labor: LaborId, method: &str) -> Vec<(&'static str, String)> {
        vec![
            ("overseer.fleet", self.fleet.to_string()),
            ("overseer.labor", labor.to_string()),
            ("overseer.method", method.to_owned()),
        ]
    }

    fn in_flight(
        &self,
        parent: TraceContext,
        since: SystemTime,
        [dispatch, agent, run]: [SpanId; 3],
        attributes: Vec<(&'static str, String)>,
    ) -> Box<InFlight> {
        let tracer = self.tracer.clone();
        Box::new(InFlight { tracer, parent, since, dispatch, agent, run, attributes, over: false })
    }
}

fn of_task(task: TaskId, attempt: Attempt) -> [(&'static str, String); 2] {
    [("overseer.task", task.to_string()), ("overseer.attempt", attempt.0.to_string())]
}

/// The context that the run of an attempt has in the plugin: that of its own span, or where none is
/// recorded that of the task.
pub(crate) fn run_of_attempt(record: &TaskRecord, attempt: Attempt, recorded: bool) -> Option<TraceContext> {
    let parent = record.trace?;
    let run = (recorded && parent.sampled).then(|| ids::of_attempt(record.task, attempt, "run"));
    Some(run.map_or(parent, |run| parent.at(run)))
}

/// A task has waited for this attempt, since then.
pub(crate) fn attempt_queued(tracer: &FleetTracer, record: &TaskRecord, attempt: Attempt, since: SystemTime) {
    if let Some(parent) = record.trace.filter(|trace| trace.sampled) {
        let mut attributes = vec![("overseer.fleet", tracer.fleet.to_string())];
        attributes.extend(of_task(record.task, attempt));
        tracer.tracer.record(Span {
            context: parent.at(ids::of_attempt(record.task, attempt, "queue")),
            parent: Some(parent.span),
            name: "queue".into(),
            kind: SpanKind::Internal,
            start: since,
            end: clock::now(),
            attributes,
            error: None,
        });
    }
}

/// Its spans are recorded when its answer comes; without one when this is dropped.
#[derive(Debug)]
pub(crate) struct InFlight {
    tracer: Tracer,
    parent: TraceContext,
    since: SystemTime,
    dispatch: SpanId,
    agent: SpanId,
    run: SpanId,
    attributes: Vec<(&'static str, String)>,
    over: bool,
}

impl InFlight {
    /// The context of the run in the plugin.
    pub(crate) fn run(&self) -> TraceContext {
        self.parent.at(self.run)
    }

    /// Its answer has come.
    pub(crate) fn answered(mut self, result: &CallResult) {
        let (now, error) = (clock::now(), error_of(result));
        let (waited, ran) = (Duration::from_micros(result.waited_us), Duration::from_micros(result.ran_us));
        self.dispatched(now, error.clone());
        // An agent that is older says nothing of its time.
        if waited.is_zero() && ran.is_zero() {
            return;
        }
        let there = waited.saturating_add(ran);
        let round = now.duration_since(self.since).unwrap_or_default();
        let came = self.since + round.saturating_sub(there) / 2;
        let end = came.checked_add(there).unwrap_or(now).min(now);
        self.span(self.agent, self.dispatch, "agent", (came, end), error.clone());
        if !ran.is_zero() {
            let given = end.checked_sub(ran).unwrap_or(came).max(came);
            self.span(self.run, self.agent, "plugin", (given, end), error);
        }
    }

    /// Somebody else will say how it came out.
    pub(crate) fn forget(mut self) {
        self.over = true;
    }

    fn dispatched(&mut self, end: SystemTime, error: Option<String>) {
        self.over = true;
        let Self { tracer, parent, since, dispatch, attributes, .. } = self;
        tracer.record(Span {
            context: parent.at(*dispatch),
            parent: Some(parent.span),
            name: "dispatch".into(),
            kind: SpanKind::Client,
            start: *since,
            end,
            attributes: std::mem::take(attributes),
            error,
        });
    }

    fn span(
        &self,
        span: SpanId,
        parent: SpanId,
        name: &'static str,
        (start, end): (SystemTime, SystemTime),
        error: Option<String>,
    ) {
        self.tracer.record(Span {
            context: self.parent.at(span),
            parent: Some(parent),
            name: name.into(),
            kind: if name == "agent" { SpanKind::Server } else { SpanKind::Internal },
            start,
            end,
            attributes: Vec::new(),
            error,
        });
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if !self.over {
            self.dispatched(clock::now(), Some("no answer came: given up, or lost with its labor".into()));
        }
    }
}

fn error_of(result: &CallResult) -> Option<String> {
    match &result.outcome {
        Some(call_result::Outcome::Failure(failure)) => {
            Some(format!("{}: {}", CallErrorCode::from_wire(failure.code), failure.message))
        }
        Some(_) => None,
        None => Some("the labor sent an empty outcome".to_owned()),
    }
}
