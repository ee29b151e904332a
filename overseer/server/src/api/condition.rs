//! What is wrong with a server, for those who ask and for those who probe.

use std::sync::Arc;
use std::time::UNIX_EPOCH;

use overseer::condition::{Condition, Part, Trouble};

use super::{Health, proto};

/// Everything that is wrong now; where that is on the machine only for who sees all of it.
pub(super) fn troubles(condition: &Condition, sees_all: bool) -> Vec<proto::Trouble> {
    let all = condition.troubles();
    let described = all.iter().map(described);
    described.map(|now| if sees_all { now } else { without_place(now) }).collect()
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
