//! What is wrong with a server, for those who ask and for those who probe.

use std::sync::Arc;
use std::time::UNIX_EPOCH;

use overseer::FleetName;
use overseer::condition::{Condition, Part, Trouble};

use super::caller::Seen;
use super::{Health, proto};
use crate::serve::faults::Fault;
use crate::serve::server::Server;

/// Everything that is wrong now; where that is on the machine only for who sees all of it, and
/// fleets that are not served only for who sees them.
pub(super) fn troubles(server: &Server, seen: &Seen<'_>) -> Vec<proto::Trouble> {
    let all = server.plane.condition().troubles();
    let machine = all.iter().map(described);
    let machine = machine.map(|now| if seen.all() { now } else { without_place(now) });
    let faults = server.faults.all().into_iter().filter(|fault| seen.sees(&fault.fleet));
    machine.chain(faults.map(fault_described)).collect()
}

/// What keeps a fleet from being served, if anything does.
pub(super) fn not_served(server: &Server, fleet: &FleetName) -> Vec<proto::Trouble> {
    server.faults.of(fleet).map(fault_described).into_iter().collect()
}

fn fault_described(fault: Fault) -> proto::Trouble {
    proto::Trouble {
        part: "fleet".to_owned(),
        path: fault.fleet.to_string(),
        reason: format!("{} ({})", fault.reason, fault.code),
        help: fault.help,
        since_ms: fault.since.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64,
        ..Default::default()
    }
}

fn without_place(now: proto::Trouble) -> proto::Trouble {
    let help = "tell who runs the server".to_owned();
    proto::Trouble { path: String::new(), file_system: String::new(), help, ..now }
}

fn described(now: &Trouble) -> proto::Trouble {
    proto::Trouble {
        part: now.part.name().to_owned(),
        path: now.path.display().to_string(),
        file_system: now.file_system.display().to_string(),
        reason: now.reason.clone(),
        help: now.help(),
        free: now.free,
        needed: now.needed,
        since_ms: now.since.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64,
    }
}

/// Says by health whether tasks and labors are taken, for as long as it is polled.
pub(crate) async fn follow(health: Health, condition: Arc<Condition>) {
    let mut full = false;
    loop {
        health.writes(!full).await;
        condition.changed(Part::Store, full).await;
        full = !full;
    }
}
