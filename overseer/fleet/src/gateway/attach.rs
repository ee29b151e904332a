use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use overseer_protocol::proto::session_server::Session as SessionService;
use overseer_protocol::proto::{self, Hello, RenewRequest, Report, ToOverseer, order, report};
use overseer_protocol::{Attempt, Cause, Facts, PROTOCOL, ReleaseId, TaskId};
use tokio::time::Instant;
use tonic::{Request, Response, Status, Streaming};

use super::Gateway;
use super::pace::Pace;
use super::peer::Peer;
use crate::callbacks::FleetEvent;
use crate::clock;
use crate::core::{Event, Life, TaskEvent};
use crate::fleet::{FleetHandle, Place, Told, left};
use crate::labor::{Labor, LaborShared};
use crate::metrics::one;
use crate::session::{Answers, LaneStream, Session};
use crate::telemetry::Batch;

/// Answers to tasks of one labor that wait for the fleet or the disk, each up to 256 KiB. A labor has
/// a few at a time; one with more is cut off, keeps what was not taken and says it again.
const ANSWERS: usize = 1024;
/// An agent says hello within this time of attaching.
const HELLO: Duration = Duration::from_secs(10);

#[tonic::async_trait]
impl SessionService for Gateway {
    type AttachStream = LaneStream;

    async fn attach(
        &self,
        request: Request<Streaming<ToOverseer>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        let Peer { identity, not_after, fleet, labor, is_newest } = self.peer(&request)?;
        let mut reports = request.into_inner();
        let (hello, rest) = hello(&mut reports).await?;
        let version = PROTOCOL.agree(hello.versions).map_err(Status::failed_precondition)?;
        let facts: Facts = serde_json::from_slice(&hello.facts)
            .map_err(|e| Status::invalid_argument(format!("the facts cannot be read: {e}")))?;
        *labor.facts.write() = Some(facts.into());

        let life = Life::of(&identity);
        let id = self.plane.next_session();
        let tracer = fleet.shared.tracer.clone();
        let next_call = Arc::clone(&labor.next_call);
        let release: Option<ReleaseId> = hello.release.parse().ok();
        let answers = Answers::of(release);
        let session = Session::new(id, life, labor.task_prefix, next_call, not_after, answers, tracer);
        let session = Arc::new(session);
        session.concurrency.store(hello.concurrency.max(1), Ordering::Relaxed);
        let options = &fleet.shared.options;
        session.order(order::Kind::Welcome(proto::Welcome {
            version,
            session: id.0,
            heartbeat_ms: options.heartbeat.as_millis() as u32,
            lease_ms: options.lease.as_millis() as u64,
            task_prefix: labor.task_prefix,
            spin_us: options.spin.as_micros() as u32,
        }));
        if !is_newest {
            session.order(order::Kind::Renewal(proto::Renewal {}));
        }
        {
            let mut sessions = fleet.shared.sessions.lock();
            if fleet.shared.left.is_cancelled() {
                return Err(left());
            }
            sessions.insert(id, Arc::clone(&session));
        }
        let (ready, draining) = (hello.ready, hello.draining);
        fleet.event(Event::Attached { life, session: id, ready, release, draining });

        let stream = LaneStream(Arc::clone(&session.lanes));
        let pace = Pace::new(options.heartbeat, Instant::now());
        let attachment = Attachment { session, labor, fleet, pace, answers: Arc::default() };
        tokio::spawn(attachment.run(rest, reports));
        Ok(Response::new(stream))
    }

    async fn renew(&self, request: Request<RenewRequest>) -> Result<Response<proto::Identity>, Status> {
        let Peer { identity, fleet, .. } = self.peer(&request)?;
        let issued = self.certificate(&request.into_inner().csr, &identity)?;
        // A call may run for longer than a certificate is good.
        let not_after = SystemTime::UNIX_EPOCH + Duration::from_secs(issued.not_after);
        fleet.shared.extend_sessions(Life::of(&identity), not_after);
        Ok(Response::new(issued))
    }
}

/// The first report is a hello; others may have come in the same message.
async fn hello(reports: &mut Streaming<ToOverseer>) -> Result<(Hello, Vec<Report>), Status> {
    let first = tokio::time::timeout(HELLO, reports.message()).await;
    let first = first.map_err(|_| Status::deadline_exceeded("no hello came"))??;
    let mut all = first.map(|m| m.reports).unwrap_or_default().into_iter();
    match all.next().and_then(|r| r.kind) {
        Some(report::Kind::Hello(hello)) => Ok((hello, all.collect())),
        _ => Err(Status::invalid_argument("the first report must be a hello")),
    }
}

/// One open control stream.
struct Attachment {
    session: Arc<Session>,
    labor: Arc<LaborShared>,
    fleet: FleetHandle,
    pace: Pace,
    answers: Arc<AtomicUsize>,
}

impl Attachment {
    async fn run(mut self, first: Vec<Report>, mut reports: Streaming<ToOverseer>) {
        let mut valid_until = self.session.valid_until.subscribe();
        let left = |until: SystemTime| until.duration_since(clock::now()).unwrap_or_default();
        let expiry = tokio::time::sleep(left(*valid_until.borrow_and_update()));
        tokio::pin!(expiry);
        let mut taken = self.take_all(first);
        let (cause, status) = loop {
            if let Err(status) = taken {
                tracing::warn!(labor = %self.session.life.labor, %status, "a session is ended");
                break (Cause::ConnectionLost, Some(status));
            }
            tokio::select! {
                message = reports.message() => match message {
                    Ok(Some(message)) => taken = self.take_all(message.reports),
                    Ok(None) => break (Cause::ConnectionLost, None),
                    Err(status) => {
                        tracing::debug!(labor = %self.session.life.labor, %status, "the control stream broke");
                        // Whoever is still there is told: a message over the limit is no silence.
                        break (Cause::ConnectionLost, Some(status));
                    }
                },
                () = &mut expiry => {
                    break (Cause::ConnectionLost, Some(Status::unauthenticated("the client certificate has run out")));
                }
                // The sender lives in the session.
                Ok(()) = valid_until.changed() => {
                    let until = *valid_until.borrow_and_update();
                    expiry.as_mut().reset(Instant::now() + left(until));
                }
                () = self.session.lanes.gone() => break (Cause::ConnectionLost, None),
            }
        };
        let life = self.session.life;
        self.fleet.shared.close_sessions(life, Some(self.session.id), cause, status);
        self.fleet.event(Event::Detached(life, self.session.id));
    }

    /// # Errors
    /// The labor says more of itself than any labor has to say.
    fn take_all(&mut self, reports: Vec<Report>) -> Result<(), Status> {
        reports.into_iter().filter_map(|report| report.kind).try_for_each(|kind| self.take(kind))
    }

    fn take(&mut self, kind: report::Kind) -> Result<(), Status> {
        let life = self.session.life;
        let is_news = !matches!(
            kind,
            report::Kind::Result(_) | report::Kind::Telemetry(_) | report::Kind::Heartbeat(_)
        );
        if is_news && !self.pace.news(Instant::now()) {
            return Err(Status::resource_exhausted("this labor says too much of itself at once"));
        }
        match kind {
            report::Kind::Result(result) if result.task.is_empty() => {
                self.session.answers.count(&result);
                self.session.finish(result, &self.labor.payloads);
            }
            report::Kind::Result(result) => {
                self.session.task_answered();
                self.session.answers.count(&result);
                let place = Place::take(&self.answers, ANSWERS)
                    .ok_or_else(|| Status::resource_exhausted("too many answers of this labor wait"))?;
                if let Some(tasks) = self.fleet.shared.tasks.get() {
                    let trust = self.fleet.shared.trust_in(&result);
                    tasks.answered(life, result, trust, &self.labor.payloads, place);
                }
            }
            report::Kind::Held(held) => self.held(held),
            report::Kind::Telemetry(telemetry) => self.telemetry(telemetry),
            report::Kind::Heartbeat(heartbeat) => {
                one(&self.fleet.shared.metrics.heartbeats);
                let lease_ms = self.fleet.shared.options.lease.as_millis() as u64;
                self.session.order(order::Kind::Lease(proto::Lease { seq: heartbeat.seq, lease_ms }));
                if self.pace.heard(Instant::now()) {
                    self.fleet.event(Event::Heard(life));
                }
            }
            report::Kind::Loaded(loaded) => {
                let proto::Loaded { release, fetched, cached, micros } = loaded;
                tracing::debug!(labor = %life.labor, fetched, cached, micros, "release loaded");
                let metrics = &self.fleet.shared.metrics;
                metrics.release_bytes.add_many("overseer", fetched);
                metrics.release_bytes.add_many("cache", cached);
                self.fleet.event(Event::Loaded(life, release.parse().ok()));
            }
            report::Kind::Ready(ready) => {
                self.session.concurrency.store(ready.concurrency.max(1), Ordering::Relaxed);
                let release: Option<ReleaseId> = ready.release.parse().ok();
                if let Some(before) = self.session.answers.runs(release, ready.incarnation) {
                    self.fleet.shared.add_answered(before);
                }
                self.fleet.event(Event::Ready(life, release));
            }
            report::Kind::LoadFailed(failed) => {
                let (release, cause) = (failed.release.parse().ok(), Cause::from_bytes(&failed.cause));
                self.fleet.event(Event::NotLoaded(life, release, cause));
            }
            report::Kind::HostEvent(host) => self.host_event(host),
            report::Kind::Drained(_) => self.fleet.event(Event::Drained(life)),
            report::Kind::Notice(notice) => {
                self.fleet.event(Event::Going(life, Cause::from_bytes(&notice.cause)));
            }
            // The agent leaves as soon as the stream ends.
            report::Kind::Goodbye(goodbye) => {
                self.fleet.event(Event::Left(life, Cause::from_bytes(&goodbye.cause)));
                self.session.lanes.close(None);
            }
            report::Kind::Hello(_) => {}
        }
        Ok(())
    }

    /// What it has of stored tasks.
    fn held(&self, held: proto::Held) {
        let named = |a: proto::AttemptRef| Some((TaskId::from_bytes(&a.task)?, Attempt(a.attempt)));
        let attempts: Vec<_> = held.attempts.into_iter().filter_map(named).collect();
        let (life, session) = (self.session.life, self.session.id);
        self.session.holds_tasks(attempts.len());
        if let Some(tasks) = self.fleet.shared.tasks.get() {
            tasks.event(TaskEvent::Held { life, session, attempts });
        }
    }

    fn host_event(&self, host: proto::HostEvent) {
        let cause = (!host.cause.is_empty()).then(|| Cause::from_bytes(&host.cause));
        if host.what == "gave_up" {
            let cause =
                cause.clone().unwrap_or(Cause::Unhealthy { reason: "the plugin host keeps ending".into() });
            self.fleet.event(Event::Failed(self.session.life, cause));
        }
        if host.what == "exited"
            && let Some(cause) = &cause
        {
            let release = host.release.parse().ok();
            self.fleet.event(Event::HostEnded(self.session.life, release, cause.clone()));
        }
        if let Some(handler) = self.fleet.shared.handler.get() {
            let labor = Labor { shared: Arc::clone(&self.labor) };
            handler.tell(Told::Event(FleetEvent::PluginHost { labor, what: host.what, cause }));
        }
    }

    /// Records are taken once and in order: what is sent again after a reconnect is cut off.
    fn telemetry(&self, telemetry: proto::Telemetry) {
        let generation = self.session.life.generation;
        let through = telemetry.first_seq.saturating_add(u64::from(telemetry.count));
        let fresh = {
            let mut expected = self.labor.telemetry.lock();
            if expected.0 != generation {
                *expected = (generation, 0);
                self.labor.telemetry_dropped.store(0, Ordering::Relaxed);
            }
            let fresh = telemetry.first_seq >= expected.1;
            if fresh {
                expected.1 = through;
            }
            fresh
        };
        if fresh {
            let metrics = &self.fleet.shared.metrics;
            metrics.records.fetch_add(u64::from(telemetry.count), Ordering::Relaxed);
            metrics.record_bytes.fetch_add(telemetry.records.len() as u64, Ordering::Relaxed);
            let before = self.labor.telemetry_dropped.swap(telemetry.dropped, Ordering::Relaxed);
            if telemetry.dropped > before {
                metrics.dropped.add_many("labor", telemetry.dropped - before);
            }
            let batch = Batch {
                labor: self.session.life.labor,
                generation,
                first: telemetry.first_seq,
                count: telemetry.count,
                dropped: telemetry.dropped,
                records: telemetry.records,
            };
            self.fleet.shared.route(&self.labor, batch);
        }
        self.session.order(order::Kind::TelemetryAck(proto::TelemetryAck { through }));
    }
}
