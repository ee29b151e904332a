//! A configuration that is read again while the server runs.

use serde::Serialize;

use super::server::Server;
use super::slot::{FleetSlot, Replanned, Resized};
use crate::config::{Config, FleetPlan, Plan};
use crate::failure::Failure;

/// What happened to a fleet, or to the server where none is named.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Change {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) fleet: String,
    pub(crate) kind: &'static str,
    pub(crate) text: String,
}

impl Change {
    fn of(fleet: &str, kind: &'static str, text: impl Into<String>) -> Self {
        Self { fleet: fleet.to_owned(), kind, text: text.into() }
    }
}

impl Server {
    /// Reads the configuration again and does what it says. What cannot change while it runs is
    /// named and left.
    ///
    /// # Errors
    /// As [`Config::read`] and [`Config::plan`]; `config.no_fleets`: a file that was emptied, or is
    /// half written, must not end all that runs. Nothing has changed then.
    pub(crate) async fn reload(&self) -> Result<Vec<Change>, Failure> {
        let _turn = self.reloading.lock().await;
        self.manager.reloading();
        let path = self.config_path.clone();
        let plan = tokio::task::spawn_blocking(move || -> Result<Plan, Failure> {
            let plan = Config::read(&path)?.plan()?;
            plan.remove_unused_downloads();
            Ok(plan)
        });
        let plan = plan.await.unwrap_or_else(|error| {
            Err(Failure::fault("serve.reload", format!("reading the configuration failed: {error}")))
        });
        let changes = match plan {
            Ok(plan) if plan.fleets.is_empty() && self.fleets().iter().any(|slot| slot.runs()) => {
                let path = self.config_path.display();
                Err(Failure::input("config.no_fleets", format!("{path} has no fleet any more, and some run"))
                    .help("if that is meant, stop each first: overseer fleet stop NAME"))
            }
            Ok(plan) => Ok(self.apply(plan).await),
            Err(failure) => Err(failure),
        };
        self.manager.ready(&self.status_line());
        changes
    }

    async fn apply(&self, plan: Plan) -> Vec<Change> {
        let mut changes = Vec::new();
        let waiting = self.config.read().differences(&plan.server);
        if !waiting.is_empty() {
            let text = format!("{} takes effect when the server is started again", waiting.join(", "));
            changes.push(Change::of("", "waits", text));
        }
        {
            // The rest keeps what the server was started with.
            let mut config = self.config.write();
            let (on_stop, grace) = (plan.server.on_stop, plan.server.grace);
            if on_stop != config.on_stop {
                changes.push(Change::of("", "changed", format!("on_stop is {:?} now", on_stop.name())));
            }
            if grace != config.grace {
                let grace = humantime::format_duration(grace);
                changes.push(Change::of("", "changed", format!("grace is \"{grace}\" now")));
            }
            (config.on_stop, config.grace) = (on_stop, grace);
        }
        for slot in self.fleets() {
            if !plan.fleets.contains_key(&slot.name) {
                self.forget(&slot.name);
                let text = match slot.remove().await {
                    Ok(()) => "is no longer in the configuration".to_owned(),
                    Err(failure) => format!("is no longer in the configuration; {failure}"),
                };
                changes.push(Change::of(slot.name.as_str(), "stopped", text));
            }
        }
        self.faults.clear_all();
        for (name, fleet) in plan.fleets {
            let done = match self.fleet(name.as_str()) {
                Ok(slot) => replan(&slot, fleet, &mut changes).await,
                Err(_) => self.start_new(fleet, &mut changes).await,
            };
            if let Err(failure) = done {
                self.faults.note(&name, &failure);
                let help = failure.help.as_ref().map(|help| format!("; {help}")).unwrap_or_default();
                changes.push(Change::of(name.as_str(), "failed", format!("{failure}{help}")));
            }
        }
        changes
    }

    /// # Errors
    /// It could not be started, or none of its labors.
    async fn start_new(&self, fleet: FleetPlan, changes: &mut Vec<Change>) -> Result<(), Failure> {
        let slot = self.add(fleet).await?;
        let text = format!("is new, with {}", labors(slot.settle().await?.started));
        changes.push(Change::of(slot.name.as_str(), "started", text));
        Ok(())
    }
}

/// # Errors
/// Its labors could not be started.
async fn replan(slot: &FleetSlot, plan: FleetPlan, changes: &mut Vec<Change>) -> Result<(), Failure> {
    let name = slot.name.as_str();
    let before = slot.wanted().0;
    let Replanned { waits: mut waiting, stopped, taken_back } = slot.replan(plan).await;
    if taken_back {
        waiting.retain(|key| *key != "release");
        let text = format!("release was taken back; `overseer fleet upgrade {name}` tries it again");
        changes.push(Change::of(name, "waits", text));
    }
    if !waiting.is_empty() {
        let now = match waiting.contains(&"release") && !stopped {
            true => format!("; `overseer fleet upgrade {name}` changes the release now"),
            false => String::new(),
        };
        let text = format!("{} takes effect at the next start of the fleet{now}", waiting.join(", "));
        changes.push(Change::of(name, "waits", text));
    }
    let (configured, wanted) = slot.wanted();
    if configured != before && configured != wanted {
        let why = if slot.is_wanted() {
            format!("{wanted} was said by hand")
        } else {
            "it was stopped by hand".to_owned()
        };
        let text = format!("labors = {configured} waits for `overseer fleet start {name}`: {why}");
        changes.push(Change::of(name, "waits", text));
    }
    // Those that were given up are started again, whether the number has changed or not.
    match slot.settle().await? {
        Resized { started: 0, drained: 0 } => {}
        Resized { started: 0, drained } => {
            changes.push(Change::of(name, "labors", format!("{} drain", labors(drained))));
        }
        Resized { started, .. } => {
            changes.push(Change::of(name, "labors", format!("{} started", labors(started))));
        }
    }
    Ok(())
}

/// A number of labors, in words.
pub(crate) fn labors(n: usize) -> String {
    if n == 1 { "1 labor".to_owned() } else { format!("{n} labors") }
}
