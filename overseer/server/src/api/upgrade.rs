//! Upgrades of fleets, as the API says them.

use std::time::Duration;

use overseer::{FleetName, UpgradeOptions, UpgradeStage, UpgradeStatus, Upgrading};
use tonic::Status;

use super::fleets::{cause, number};
use super::proto;
use super::status::refuse;
use super::stream::Steps;
use crate::failure::Failure;
use crate::serve::taken_back::TakenBack;

pub(super) fn options(request: &proto::UpgradeFleetRequest) -> UpgradeOptions {
    let usual = UpgradeOptions::default();
    // What is over a hundred is refused later.
    let percent = |given: Option<u32>, usual: u8| given.map_or(usual, |n| u8::try_from(n).unwrap_or(u8::MAX));
    UpgradeOptions {
        canary: percent(request.canary, usual.canary),
        batch: request.batch,
        settle: request.settle_ms.map_or(usual.settle, Duration::from_millis),
        watch: request.watch_ms.map_or(usual.watch, Duration::from_millis),
        error_budget: percent(request.error_budget, usual.error_budget),
    }
}

pub(super) fn status(status: &UpgradeStatus) -> proto::Upgrade {
    let id = |release: Option<overseer::ReleaseId>| release.map(|id| id.to_string()).unwrap_or_default();
    let why = match &status.stage {
        UpgradeStage::GoingBack(why) | UpgradeStage::RolledBack(why) => Some(cause(why)),
        _ => None,
    };
    proto::Upgrade {
        from: id(status.from),
        to: id(status.to),
        stage: status.stage.name().to_owned(),
        changed: number(status.changed),
        labors: number(status.labors),
        cause: why,
    }
}

pub(super) fn taken_back(taken_back: &TakenBack) -> proto::TakenBack {
    let TakenBack { release, before, cause: why } = taken_back;
    proto::TakenBack {
        release: release.to_string(),
        before: before.to_string(),
        cause: why.as_ref().map(cause),
    }
}

pub(super) fn none(fleet: &FleetName) -> Failure {
    Failure::input("upgrade.none", format!("the fleet {fleet} has not been upgraded since it was started"))
        .help(format!("begin: overseer fleet upgrade {fleet}"))
}

/// Each status until the last one. One who reads slowly is told of fewer.
pub(super) struct Statuses {
    fleet: FleetName,
    upgrading: Upgrading,
    told: Told,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Told {
    Nothing,
    Some,
    All,
}

impl Statuses {
    pub(super) fn of(fleet: FleetName, upgrading: Upgrading) -> Self {
        Self { fleet, upgrading, told: Told::Nothing }
    }
}

impl Steps for Statuses {
    type Step = proto::FollowUpgradeResponse;

    async fn step(&mut self) -> Option<Result<Self::Step, Status>> {
        let now = match self.told {
            Told::Nothing => Ok(self.upgrading.status()),
            Told::Some => self.upgrading.changed().await,
            Told::All => return None,
        };
        let is_last = now.as_ref().map_or(true, |now| now.stage.is_over());
        self.told = if is_last { Told::All } else { Told::Some };
        Some(match now {
            Ok(now) => Ok(proto::FollowUpgradeResponse { upgrade: Some(status(&now)) }),
            Err(_) => {
                let fleet = &self.fleet;
                let message = format!("the fleet {fleet} was stopped before its upgrade was over");
                let help = format!("start it: overseer fleet start {fleet}");
                Err(refuse(Failure::fault("upgrade.stopped", message).help(help)))
            }
        })
    }
}
