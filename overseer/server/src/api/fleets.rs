//! `Fleets`: what fleets are and should be.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use overseer::core::{Finding, Pass};
use overseer::fleet::ReconcileError;
use overseer::history::{FleetEntry, HistoryEntry};
use overseer::{Cause, Invitation, InviteError, Labor, LaborId};
use overseer_protocol::Endpoint;
use tonic::{Request, Response, Status};

use super::condition::{not_served, troubles};
use super::status::refuse;
use super::stream::Steps;
use super::{Answers, Service, caller, proto, stream, upgrade};
use crate::audit::outcome;
use crate::audit::record::Asked;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::serve::events::{Followed, Follower, KEPT, Numbered};
use crate::serve::slot::upgrade::Begun;
use crate::serve::slot::{FleetSlot, State, unknown_labor};

/// How long an invitation is good when nobody says.
const INVITED: Duration = Duration::from_secs(15 * 60);

/// A labor's id.
pub(super) fn labor_id(text: &str) -> Result<LaborId, Failure> {
    text.parse().map_err(|error: overseer_protocol::IdError| {
        Failure::told(Exit::BadInput, error.code(), &error.to_string())
            .help("`overseer fleet show FLEET` lists them")
    })
}

fn optional_id(text: Option<&String>) -> Result<Option<LaborId>, Failure> {
    text.map(|text| labor_id(text)).transpose()
}

/// A fleet as it is just now.
pub(super) async fn describe(slot: &FleetSlot) -> proto::Fleet {
    let snapshot = slot.snapshot().await;
    let (state, since) = match snapshot.state {
        State::Stopped => (proto::FleetState::Stopped, None),
        State::Starting => (proto::FleetState::Starting, None),
        State::Running { since } => (proto::FleetState::Running, Some(since)),
        State::Stopping { since } => (proto::FleetState::Stopping, Some(since)),
    };
    let missing =
        matches!(snapshot.state, State::Running { .. }) && number(snapshot.count.total) < snapshot.wanted;
    proto::Fleet {
        name: slot.name.to_string(),
        state: state.into(),
        adapter: snapshot.plan.config.adapter.name().to_owned(),
        release: snapshot.plan.release_name(),
        release_id: snapshot.plan.release.id().to_string(),
        wanted: snapshot.wanted,
        labors: number(snapshot.count.total),
        ready: number(snapshot.count.ready),
        max_labors: number(snapshot.plan.config.options.max_nodes),
        by_hand: snapshot.by_hand,
        pending: snapshot.pending.into_iter().map(str::to_owned).collect(),
        started_ms: since.map_or(0, millis),
        stopped_by: snapshot.stopped_by.as_ref().map(cause),
        taken_back: snapshot.taken_back.as_ref().map(upgrade::taken_back),
        upgrade: snapshot.upgrade.as_ref().map(upgrade::status),
        given_up: missing.then(|| slot.events.given_up()).flatten().as_ref().map(cause),
    }
}

pub(super) fn number(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

fn millis(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}

fn labor(labor: &Labor) -> proto::Labor {
    let status = labor.status();
    proto::Labor {
        id: labor.id().to_string(),
        generation: status.generation.0,
        state: status.state.name().to_owned(),
        cause: status.cause.as_ref().map(cause),
        since_ms: labor.history().last().map_or(0, |entry| entry.at_ms),
        host: labor.facts().map(|facts| facts.host.to_string()).unwrap_or_default(),
        open: number(labor.open_calls()),
        invited: labor.is_invited(),
        release_id: labor.release().map(|release| release.to_string()),
    }
}

pub(super) fn cause(cause: &Cause) -> proto::Cause {
    proto::Cause { code: cause.code().to_owned(), text: cause.to_string() }
}

fn event(sequence: u64, entry: &FleetEntry) -> proto::Event {
    match entry {
        FleetEntry::Labor(HistoryEntry { labor, generation, state, cause: why, at_ms }) => proto::Event {
            sequence,
            labor: labor.to_string(),
            generation: generation.0,
            state: state.name().to_owned(),
            cause: why.as_ref().map(cause),
            at_ms: *at_ms,
            upgrade: None,
        },
        FleetEntry::Upgrade(entry) => proto::Event {
            sequence,
            at_ms: entry.at_ms,
            upgrade: Some(upgrade::status(&entry.status)),
            ..proto::Event::default()
        },
    }
}

fn finding(finding: &Finding) -> proto::Finding {
    let life = finding.life();
    proto::Finding {
        rule: finding.rule().to_owned(),
        labor: life.labor.to_string(),
        generation: life.generation.0,
    }
}

fn not_invited(error: &InviteError) -> Failure {
    let exit = match error {
        InviteError::NoListener
        | InviteError::NoAddress
        | InviteError::BadAddress(_)
        | InviteError::Ttl(_)
        | InviteError::TooLarge(_) => Exit::BadInput,
        _ => Exit::Fault,
    };
    Failure::told(exit, error.code(), &error.to_string())
}

fn invited(invitation: &Invitation) -> Result<proto::InviteResponse, Failure> {
    let token = invitation
        .token()
        .map_err(|error| Failure::told(Exit::BadInput, error.code(), &error.to_string()))?;
    let endpoints = invitation.document.expose().endpoints.iter();
    Ok(proto::InviteResponse {
        labor: invitation.labor.id().to_string(),
        token: token.expose().clone(),
        endpoints: endpoints
            .map(|endpoint| match endpoint {
                Endpoint::Tcp(address) => address.clone(),
                Endpoint::Unix(path) => path.display().to_string(),
            })
            .collect(),
        until_ms: millis(invitation.until),
    })
}

#[tonic::async_trait]
impl proto::fleets_server::Fleets for Service {
    async fn list(
        &self,
        request: Request<proto::ListFleetsRequest>,
    ) -> Result<Response<proto::ListFleetsResponse>, Status> {
        let caller = caller::of(&request)?;
        let mut fleets = Vec::new();
        let seen = self.seen(&caller);
        for slot in seen.fleets() {
            fleets.push(describe(&slot).await);
        }
        let troubles = troubles(&self.server, &seen);
        Ok(Response::new(proto::ListFleetsResponse { fleets, troubles }))
    }

    async fn get(
        &self,
        request: Request<proto::GetFleetRequest>,
    ) -> Result<Response<proto::GetFleetResponse>, Status> {
        let caller = caller::of(&request)?;
        let slot = self.seen(&caller).fleet(&request.get_ref().fleet).map_err(refuse)?;
        let fleet = Some(describe(&slot).await);
        let labors = slot.labors().map(|fleet| fleet.which_children()).unwrap_or_default();
        let troubles = not_served(&self.server, &slot.name);
        let labors = labors.iter().map(labor).collect();
        Ok(Response::new(proto::GetFleetResponse { fleet, labors, troubles }))
    }

    async fn start(
        &self,
        request: Request<proto::StartFleetRequest>,
    ) -> Result<Response<proto::StartFleetResponse>, Status> {
        let caller = caller::of(&request)?;
        let request = request.into_inner();
        let slot = self.seen(&caller).fleet(&request.fleet).map_err(refuse)?;
        let asked = Asked::of(&request.fleet)
            .with_some("labors", request.labors)
            .with_some("anyway", request.anyway.then_some(true));
        let entry = self.record(&caller, asked).await?;
        let server = Arc::clone(&self.server);
        self.to_the_end(entry, async move {
            let done = slot.start(request.labors, request.anyway).await?;
            server.faults.clear(&slot.name);
            Ok(proto::StartFleetResponse {
                fleet: Some(describe(&slot).await),
                started: number(done.started),
                drained: number(done.drained),
            })
        })
        .await
    }

    async fn stop(
        &self,
        request: Request<proto::StopFleetRequest>,
    ) -> Result<Response<proto::StopFleetResponse>, Status> {
        let caller = caller::of(&request)?;
        let fleet = &request.get_ref().fleet;
        let slot = self.seen(&caller).fleet(fleet).map_err(refuse)?;
        let entry = self.record(&caller, Asked::of(fleet)).await?;
        self.to_the_end(entry, async move {
            slot.stop().await?;
            Ok(proto::StopFleetResponse { fleet: Some(describe(&slot).await) })
        })
        .await
    }

    async fn drain(
        &self,
        request: Request<proto::DrainFleetRequest>,
    ) -> Result<Response<proto::DrainFleetResponse>, Status> {
        let caller = caller::of(&request)?;
        let request = request.into_inner();
        let slot = self.seen(&caller).fleet(&request.fleet).map_err(refuse)?;
        let labor = optional_id(request.labor.as_ref()).map_err(refuse)?;
        let asked = Asked::of(&request.fleet).target(request.labor.as_deref().unwrap_or_default());
        let entry = self.record(&caller, asked).await?;
        self.to_the_end(entry, async move {
            let draining = number(slot.drain(labor).await?);
            Ok(proto::DrainFleetResponse { fleet: Some(describe(&slot).await), draining })
        })
        .await
    }

    async fn invite(
        &self,
        request: Request<proto::InviteRequest>,
    ) -> Result<Response<proto::InviteResponse>, Status> {
        let caller = caller::of(&request)?;
        let proto::InviteRequest { fleet: name, ttl_ms, addresses } = request.into_inner();
        let slot = self.seen(&caller).fleet(&name).map_err(refuse)?;
        let fleet = slot.fleet().map_err(refuse)?;
        // Not to its end: an invitation that nobody hears of is taken back.
        let _entered = self.server.gate.enter().map_err(refuse)?;
        let ttl = ttl_ms.map_or(INVITED, Duration::from_millis);
        let entry = self.record(&caller, Asked::of(&name)).await?;
        let invitation = fleet.invite_to(ttl, addresses).await.map_err(|error| not_invited(&error));
        let answer =
            invitation.and_then(|invitation| invited(&invitation)).map(Response::new).map_err(refuse);
        entry.end(&outcome(&answer)).await;
        answer
    }

    async fn upgrade(
        &self,
        request: Request<proto::UpgradeFleetRequest>,
    ) -> Result<Response<proto::UpgradeFleetResponse>, Status> {
        let caller = caller::of(&request)?;
        let request = request.into_inner();
        let slot = self.seen(&caller).fleet(&request.fleet).map_err(refuse)?;
        let options = upgrade::options(&request);
        let asked = Asked::of(&request.fleet)
            .with_some("canary", request.canary)
            .with_some("batch", request.batch)
            .with_some("settle_ms", request.settle_ms)
            .with_some("watch_ms", request.watch_ms)
            .with_some("error_budget", request.error_budget);
        let entry = self.record(&caller, asked).await?;
        let server = Arc::clone(&self.server);
        self.to_the_end(entry, async move {
            let Begun { upgrading, warnings } = server.upgrade(&slot, options).await?;
            let upgrade = Some(upgrade::status(&upgrading.status()));
            Ok(proto::UpgradeFleetResponse { upgrade, warnings })
        })
        .await
    }

    type FollowUpgradeStream = Answers<proto::FollowUpgradeResponse>;

    async fn follow_upgrade(
        &self,
        request: Request<proto::FollowUpgradeRequest>,
    ) -> Result<Response<Self::FollowUpgradeStream>, Status> {
        let caller = caller::of(&request)?;
        let slot = self.seen(&caller).fleet(&request.get_ref().fleet).map_err(refuse)?;
        let fleet = slot.fleet().map_err(refuse)?;
        let upgrading = fleet.upgrading().ok_or_else(|| refuse(upgrade::none(&slot.name)))?;
        let statuses = upgrade::Statuses::of(slot.name.clone(), upgrading);
        Ok(Response::new(stream::follow(statuses, Arc::clone(&self.server))))
    }

    async fn history(
        &self,
        request: Request<proto::HistoryRequest>,
    ) -> Result<Response<proto::HistoryResponse>, Status> {
        let caller = caller::of(&request)?;
        let request = request.into_inner();
        let slot = self.seen(&caller).fleet(&request.fleet).map_err(refuse)?;
        let labor = optional_id(request.labor.as_ref()).map_err(refuse)?;
        let limit = request.limit.map_or(KEPT, |limit| limit as usize);
        let newest = slot.events.newest(labor, limit);
        if let Some(labor) = labor
            && newest.is_empty()
            && slot.labors().and_then(|fleet| fleet.labor(labor)).is_none()
        {
            return Err(refuse(unknown_labor(&slot.name, labor)));
        }
        let events = newest.iter().map(|Numbered { sequence, entry }| event(*sequence, entry)).collect();
        Ok(Response::new(proto::HistoryResponse { events }))
    }

    async fn reconcile(
        &self,
        request: Request<proto::ReconcileRequest>,
    ) -> Result<Response<proto::ReconcileResponse>, Status> {
        let caller = caller::of(&request)?;
        let proto::ReconcileRequest { fleet, dry_run, force } = request.into_inner();
        let slot = self.seen(&caller).fleet(&fleet).map_err(refuse)?;
        let asked = Asked::of(&fleet).with("dry_run", dry_run).with("force", force);
        let fleet = slot.fleet().map_err(refuse)?;
        let entry = self.record(&caller, asked).await?;
        self.to_the_end(entry, async move {
            let failed = |error: ReconcileError| Failure::told(Exit::Fault, error.code(), &error.to_string());
            let pass = match dry_run {
                true => Pass { found: fleet.findings().await.map_err(failed)?, ..Pass::default() },
                false => fleet.reconcile(force).await.map_err(failed)?,
            };
            Ok(proto::ReconcileResponse {
                found: pass.found.iter().map(finding).collect(),
                acted: pass.act.iter().map(finding).collect(),
                braked: pass
                    .braked
                    .map(|(ends, nodes)| proto::Brake { ends: number(ends), nodes: number(nodes) }),
            })
        })
        .await
    }

    type EventsStream = Answers<proto::EventsResponse>;

    async fn events(
        &self,
        request: Request<proto::EventsRequest>,
    ) -> Result<Response<Self::EventsStream>, Status> {
        let caller = caller::of(&request)?;
        let request = request.into_inner();
        let slot = self.seen(&caller).fleet(&request.fleet).map_err(refuse)?;
        // One that wants to stop is not kept by those who only look on.
        drop(self.server.gate.enter().map_err(refuse)?);
        let follower = match request.after {
            Some(after) => slot.events.follow(after),
            None => slot.events.follow_newest(request.backlog as usize),
        };
        Ok(Response::new(stream::follow(follower, Arc::clone(&self.server))))
    }
}

impl Steps for Follower {
    type Step = proto::EventsResponse;

    async fn step(&mut self) -> Option<Result<Self::Step, Status>> {
        use proto::events_response::What;
        let what = match self.next().await {
            Followed::Event(Numbered { sequence, entry }) => What::Event(event(sequence, &entry)),
            Followed::Lost(events) => What::Lost(events),
        };
        Some(Ok(proto::EventsResponse { what: Some(what) }))
    }
}
