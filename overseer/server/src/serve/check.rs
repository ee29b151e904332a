//! `overseer serve --check`.

pub(crate) mod isolation;

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{control, reload, socket};
use crate::config::Plan;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::{self, Target};

/// `serve --check --json`.
#[derive(Serialize)]
struct Checked<'a> {
    ok: bool,
    config: &'a Path,
    fleets: Vec<CheckedFleet>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
}

#[derive(Serialize)]
struct CheckedFleet {
    fleet: String,
    release: String,
    release_id: String,
    labors: u32,
}

/// Looks at all that a server would use, changes nothing, and says what it would serve.
///
/// # Errors
/// What `overseer serve` would say: `serve.socket_directory`, `serve.socket`,
/// `serve.control_certificate`, `serve.data`; `serve.isolation`.
pub(super) fn run(path: &Path, plan: &Plan, data: Option<PathBuf>, json: bool) -> Result<Exit, Failure> {
    let (_data, socket) = super::placed(plan, data)?;
    socket::check(&socket)?;
    if let Some(files) = &plan.server.control_identity {
        control::identity(files)?;
    }
    let warnings = isolation::check(plan)?;
    say(path, plan, warnings, json);
    Ok(Exit::Passed)
}

fn say(path: &Path, plan: &Plan, warnings: Vec<String>, json: bool) {
    let fleets: Vec<_> = plan.fleets.values().collect();
    if json {
        let fleets = fleets.iter().map(|fleet| CheckedFleet {
            fleet: fleet.config.name.to_string(),
            release: fleet.release_name(),
            release_id: fleet.release.id().to_string(),
            labors: fleet.config.labors,
        });
        return output::json(&Checked { ok: true, config: path, fleets: fleets.collect(), warnings });
    }
    warnings.iter().for_each(|warning| Target::Stderr.write(&format!("warning: {warning}\n")));
    let none = if fleets.is_empty() { ", and has no fleet" } else { "" };
    Target::Stdout.write(&format!("{} is good{none}\n", path.display()));
    for fleet in fleets {
        let labors = reload::labors(fleet.config.labors as usize);
        Target::Stdout.write(&format!("  {}: {labors} of {}\n", fleet.config.name, fleet.release_name()));
    }
}
