//! Who asks, and what there is for him.

use std::sync::Arc;

use overseer::FleetName;
use tonic::{Request, Status};

use super::Service;
use super::status::{refuse, task_failed};
use crate::access::{Caller, rules};
use crate::audit::log::Open;
use crate::audit::record::{Asked, Class};
use crate::failure::Failure;
use crate::serve::slot::FleetSlot;

/// Who asks. The layer in front of all services has put him there; a request without one is
/// refused.
pub(super) fn of<T>(request: &Request<T>) -> Result<Caller, Status> {
    let missing = || refuse(Failure::fault("server.fault", "a request has come past the check of who asks"));
    request.extensions().get::<Caller>().cloned().ok_or_else(missing)
}

/// The fleets that there are for somebody; another one does not exist.
pub(super) struct Seen<'a> {
    service: &'a Service,
    caller: &'a Caller,
}

impl Seen<'_> {
    /// All of them, by name.
    pub(super) fn fleets(&self) -> Vec<Arc<FleetSlot>> {
        let mut slots = self.service.server.fleets();
        slots.retain(|slot| rules::sees(&self.caller.principal, &slot.name));
        slots
    }

    /// One of them. That somebody has asked for one that he does not see is recorded.
    ///
    /// # Errors
    /// `fleet.unknown`.
    pub(super) fn fleet(&self, name: &str) -> Result<Arc<FleetSlot>, Failure> {
        let server = &self.service.server;
        let found = server.fleet_of(name, |fleet| rules::sees(&self.caller.principal, fleet));
        if found.is_err() && server.fleet(name).is_ok() {
            let (access, caller, asked) =
                (Arc::clone(&self.service.access), self.caller.clone(), Asked::of(name));
            tokio::spawn(async move { access.other_fleet(&caller, asked).await });
        }
        found
    }

    /// The name of one of them, or of one that is not in the configuration any more and has tasks.
    ///
    /// # Errors
    /// `fleet.unknown`, and those of the store.
    pub(super) async fn fleet_of_tasks(&self, name: &str) -> Result<FleetName, Status> {
        match self.fleet(name) {
            Ok(slot) => Ok(slot.name.clone()),
            Err(unknown) => {
                let mut past = self.past_fleets().await?.into_iter();
                past.find(|fleet| fleet.as_str() == name).ok_or_else(|| refuse(unknown))
            }
        }
    }

    /// Those that are not in the configuration any more, and have tasks.
    pub(super) async fn past_fleets(&self) -> Result<Vec<FleetName>, Status> {
        let server = &self.service.server;
        let mut fleets = server.plane.fleets_with_tasks().await.map_err(|error| task_failed(&error))?;
        fleets
            .retain(|name| rules::sees(&self.caller.principal, name) && server.fleet(name.as_str()).is_err());
        Ok(fleets)
    }

    /// Whether this one is.
    pub(super) fn sees(&self, fleet: &FleetName) -> bool {
        rules::sees(&self.caller.principal, fleet)
    }

    /// Whether all fleets are there for him.
    pub(super) fn all(&self) -> bool {
        self.caller.principal.fleet().is_none()
    }
}

impl Service {
    /// What there is for a caller.
    pub(super) fn seen<'a>(&'a self, caller: &'a Caller) -> Seen<'a> {
        Seen { service: self, caller }
    }

    /// Records a change before it is done.
    ///
    /// # Errors
    /// `store.not_writable`, `audit.not_recorded`.
    pub(super) async fn record(&self, caller: &Caller, asked: Asked) -> Result<Open, Status> {
        self.access.audit.begin(Class::Change, caller, asked).await.map_err(refuse)
    }

    /// Records the use of a fleet before it is done.
    ///
    /// # Errors
    /// `store.not_writable`, `audit.not_recorded`.
    pub(super) async fn record_use(&self, caller: &Caller, asked: Asked) -> Result<Open, Status> {
        self.access.audit.begin(Class::Use, caller, asked).await.map_err(refuse)
    }
}
