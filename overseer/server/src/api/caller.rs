//! Who asks, and what there is for him.

use std::sync::Arc;

use tonic::{Request, Status};

use super::Service;
use super::status::refuse;
use crate::access::{Caller, Principal, rules};
use crate::audit::log::Open;
use crate::audit::record::{Asked, Class};
use crate::failure::Failure;
use crate::serve::server::Server;
use crate::serve::slot::FleetSlot;

/// Who asks. The layer in front of all services has put him there; a request without one is
/// refused.
pub(super) fn of<T>(request: &Request<T>) -> Result<Caller, Status> {
    let missing = || refuse(Failure::fault("server.fault", "a request has come past the check of who asks"));
    request.extensions().get::<Caller>().cloned().ok_or_else(missing)
}

/// The fleets that there are for somebody; another one does not exist.
pub(super) struct Seen<'a> {
    server: &'a Server,
    principal: Arc<Principal>,
}

impl Seen<'_> {
    /// All of them, by name.
    pub(super) fn fleets(&self) -> Vec<Arc<FleetSlot>> {
        let mut slots = self.server.fleets();
        slots.retain(|slot| rules::sees(&self.principal, &slot.name));
        slots
    }

    /// One of them.
    ///
    /// # Errors
    /// `fleet.unknown`.
    pub(super) fn fleet(&self, name: &str) -> Result<Arc<FleetSlot>, Failure> {
        self.server.fleet_of(name, |fleet| rules::sees(&self.principal, fleet))
    }

    /// Whether all fleets are there for him.
    pub(super) fn all(&self) -> bool {
        self.principal.fleet().is_none()
    }
}

impl Service {
    /// What there is for a caller.
    pub(super) fn seen(&self, caller: &Caller) -> Seen<'_> {
        Seen { server: &self.server, principal: Arc::clone(&caller.principal) }
    }

    /// Records a change before it is done.
    ///
    /// # Errors
    /// `audit.not_recorded`.
    pub(super) async fn record(&self, caller: &Caller, asked: Asked) -> Result<Open, Status> {
        self.access.audit.begin(Class::Change, caller, asked).await.map_err(refuse)
    }

    /// Records the use of a fleet before it is done.
    ///
    /// # Errors
    /// `audit.not_recorded`.
    pub(super) async fn record_use(&self, caller: &Caller, asked: Asked) -> Result<Open, Status> {
        self.access.audit.begin(Class::Use, caller, asked).await.map_err(refuse)
    }
}
