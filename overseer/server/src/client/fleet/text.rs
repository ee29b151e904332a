//! Fleets for people.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use console::Style;

use super::upgrade::{UpgradeDocument, short};
use super::{CauseDocument, EventDocument, FleetDocument, LaborDocument, Shown};
use crate::output::Target;
use crate::table::{Cell, render};

/// All fleets, a line each of at most `width` columns.
pub(in crate::client) fn fleet_table(fleets: &[FleetDocument], width: usize) -> String {
    if fleets.is_empty() {
        return "no fleets; add one to the configuration and run `overseer reload`\n".to_owned();
    }
    let mut rows = vec![header(&["fleet", "state", "ready", "wanted", "release", ""])];
    for fleet in fleets {
        let state = match fleet.state {
            "running" if fleet.ready >= fleet.wanted => Style::new().green(),
            "stopped" => Style::new().dim(),
            _ => Style::new().yellow(),
        };
        rows.push(vec![
            Cell::plain(&fleet.name),
            Cell::styled(fleet.state, state),
            Cell::plain(fleet.ready.to_string()),
            Cell::plain(fleet.wanted.to_string()),
            Cell::plain(&fleet.release),
            Cell::plain(notes(fleet)),
        ]);
    }
    render(&rows, width, &[(5, 8), (4, 10), (0, 12)], Target::Stdout)
}

/// One fleet and its labors; nothing of it is cut.
pub(super) fn show(shown: &Shown) -> String {
    let mut text = fleet_table(std::slice::from_ref(&shown.fleet), usize::MAX);
    if let Some(cause) = &shown.fleet.given_up {
        let missing = shown.fleet.wanted.saturating_sub(shown.fleet.labors);
        let name = &shown.fleet.name;
        text.push_str(&format!(
            "\n{missing} given up, the last one for this: {}\n`overseer fleet start {name}` starts them again\n",
            cause.text
        ));
    }
    if let Some(cause) = &shown.fleet.stopped_by {
        let (name, state) = (&shown.fleet.name, shown.fleet.state);
        text.push_str(&format!(
            "\n{state}, for {}\n`overseer fleet start {name}` starts it again\n",
            cause.text.replace('\n', " ")
        ));
    }
    if let Some(upgrade) = &shown.fleet.upgrade {
        text.push_str(&format!("\n{}", upgrade_line(&shown.fleet.name, upgrade)));
    }
    if let Some(taken_back) = &shown.fleet.taken_back {
        // The line above says why, if it is of the same release.
        if shown.fleet.upgrade.as_ref().is_none_or(|upgrade| upgrade.to != taken_back.release) {
            text.push_str(&format!("\n{}", taken_back.text()));
        }
        // One that does not run is started with the one before, or its trouble says what to do.
        if shown.fleet.state == "running" {
            text.push_str(&format!(
                "`overseer fleet upgrade {}` tries it again, if the configuration names it\n",
                shown.fleet.name
            ));
        }
    }
    let labors = shown.children.as_deref().unwrap_or_default();
    if !labors.is_empty() {
        text.push('\n');
        text.push_str(&labor_table(&shown.fleet, labors));
    }
    text
}

/// How far an upgrade is, or how the last one ended.
fn upgrade_line(fleet: &str, upgrade: &UpgradeDocument) -> String {
    let text = upgrade.text(fleet);
    match upgrade.is_over() {
        true => format!("last upgrade: {text}"),
        false => format!("{}: {}, {}\n", text.trim_end(), upgrade.progress(), upgrade.doing()),
    }
}

fn labor_table(fleet: &FleetDocument, labors: &[LaborDocument]) -> String {
    // How they came is of interest where they did not all come in one way, and what they run where that
    // is not what the fleet does.
    let joined = labors.iter().any(|labor| labor.invited);
    let is_other =
        |labor: &LaborDocument| labor.release_id.as_ref().is_some_and(|id| *id != fleet.release_id);
    let other = labors.iter().any(is_other);
    let columns = [
        Some("labor"),
        Some("life"),
        Some("state"),
        Some("for"),
        Some("open"),
        joined.then_some("from"),
        other.then_some("release"),
        Some("why"),
    ];
    let mut rows = vec![header(&columns.into_iter().flatten().collect::<Vec<_>>())];
    for labor in labors {
        let style = if labor.state == "ready" { Style::new().green() } else { Style::new().yellow() };
        let from = if labor.invited { "invited" } else { &fleet.adapter };
        let release = labor.release_id.as_deref().unwrap_or_default();
        let cells = [
            Some(Cell::plain(&labor.id)),
            Some(Cell::plain(labor.generation.to_string())),
            Some(Cell::styled(&labor.state, style)),
            Some(Cell::plain(age(labor.since_ms))),
            Some(Cell::plain(labor.open.to_string())),
            joined.then(|| Cell::plain(from)),
            // The line has room for no more than this of it.
            other.then(|| Cell::plain(release.get(..7).unwrap_or_default())),
            Some(Cell::plain(why(labor.cause.as_ref()))),
        ];
        rows.push(cells.into_iter().flatten().collect());
    }
    render(&rows, usize::MAX, &[], Target::Stdout)
}

/// What a command did to a fleet.
pub(super) fn done(shown: &Shown) -> String {
    let fleet = &shown.fleet;
    let mut text = format!("{} is {}", fleet.name, fleet.state);
    match shown.started {
        Some(n) if n > 0 => text.push_str(&format!("; {} started", crate::serve::reload::labors(n as usize))),
        _ => {}
    }
    match shown.draining {
        Some(n) if n > 0 => text.push_str(&format!("; {} drain", crate::serve::reload::labors(n as usize))),
        _ => {}
    }
    text.push('\n');
    text
}

/// One event, a line of at most `width` columns.
pub(super) fn event(event: &EventDocument, width: usize) -> String {
    match event {
        EventDocument::Labor { labor, generation, state, cause, at_ms, .. } => {
            let (time, why) = (time_of_day(*at_ms), why(cause.as_ref()));
            cut(&format!("{time}  {labor} {generation:>2}  {state:<11}  {why}"), width)
        }
        EventDocument::Upgrade { upgrade, at_ms, .. } => {
            let UpgradeDocument { to, stage, cause, .. } = upgrade;
            let (time, what) = (time_of_day(*at_ms), format!("upgrade to {}", short(to)));
            let why = if cause.is_some() { why(cause.as_ref()) } else { upgrade.progress() };
            cut(&format!("{time}  {what:<31}  {stage:<11}  {why}"), width)
        }
        EventDocument::Lost { events } => format!("[{events} events are missing here]\n"),
    }
}

/// The day is of less use than the cause, and a line has 80 columns.
fn time_of_day(at_ms: u64) -> String {
    let time = humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_millis(at_ms)).to_string();
    time.get(11..23).map(str::to_owned).unwrap_or(time)
}

fn cut(line: &str, width: usize) -> String {
    format!("{}\n", console::truncate_str(line.trim_end(), width, "…"))
}

/// The first row of a table.
pub(in crate::client) fn header(names: &[&str]) -> Vec<Cell> {
    names.iter().map(|name| Cell::styled(*name, Style::new().dim())).collect()
}

fn notes(fleet: &FleetDocument) -> String {
    let mut notes = Vec::new();
    if let Some(cause) = &fleet.stopped_by {
        notes.push(format!("`overseer fleet start {}`: {}", fleet.name, cause.text.replace('\n', " ")));
    }
    if let Some(cause) = &fleet.given_up {
        notes.push(format!("given up: {}", cause.text.replace('\n', " ")));
    }
    if let Some(upgrade) = fleet.upgrade.as_ref().filter(|upgrade| !upgrade.is_over()) {
        notes.push(format!("upgrade: {}", upgrade.progress()));
    }
    if fleet.by_hand {
        notes.push("by hand".to_owned());
    }
    let (taken_back, waiting): (Vec<&str>, Vec<&str>) = fleet
        .pending
        .iter()
        .map(String::as_str)
        .partition(|key| *key == "release" && fleet.taken_back.is_some());
    if !waiting.is_empty() {
        notes.push(format!("waits for a start: {}", waiting.join(", ")));
    }
    if !taken_back.is_empty() {
        notes.push("its new release was taken back".to_owned());
    }
    notes.join("; ")
}

/// A cause on one line.
pub(in crate::client) fn why(cause: Option<&CauseDocument>) -> String {
    cause.map(|cause| cause.text.replace('\n', " ")).unwrap_or_default()
}

/// How long ago, in its two largest units at most.
pub(in crate::client) fn age(since_ms: u64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let seconds = now.saturating_sub(Duration::from_millis(since_ms)).as_secs();
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m {}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h {}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d {}h", seconds / 86_400, seconds / 3600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use console::measure_text_width;

    use super::super::upgrade::TakenBackDocument;
    use super::*;

    fn fleet(name: &str) -> FleetDocument {
        FleetDocument {
            name: name.into(),
            state: "running",
            adapter: "local".into(),
            release: "a-rather-long-release-name 1.0.0-alpha.12".into(),
            release_id: "0".repeat(64),
            wanted: 3,
            labors: 3,
            ready: 2,
            max_labors: 8,
            by_hand: true,
            pending: vec!["release".into(), "environment".into()],
            started_ms: Some(1),
            given_up: None,
            stopped_by: None,
            upgrade: None,
            taken_back: None,
        }
    }

    fn labor(state: &str, cause: Option<CauseDocument>) -> LaborDocument {
        LaborDocument {
            id: format!("l-{}", "0".repeat(26)),
            generation: 12,
            state: state.into(),
            cause,
            since_ms: u64::MAX,
            host: String::new(),
            open: 12,
            invited: false,
            release_id: None,
        }
    }

    fn upgrade(stage: &str, cause: Option<CauseDocument>) -> UpgradeDocument {
        let (from, to, stage) = ("1".repeat(64), "2".repeat(64), stage.to_owned());
        UpgradeDocument { from, to, stage, changed: 1, labors: 12, cause, warnings: Vec::new() }
    }

    #[test]
    fn lists_fit_a_terminal_and_one_fleet_is_whole() {
        let cause = || Some(CauseDocument { code: "exited".into(), text: "x".repeat(200) });
        let id = format!("l-{}", "0".repeat(26));
        let labor = LaborDocument { invited: true, ..labor("terminating", cause()) };
        let fleet = fleet(&"f".repeat(63));
        let shown = Shown {
            fleet,
            children: Some(vec![labor]),
            started: Some(1),
            draining: Some(2),
            troubles: Vec::new(),
        };
        let happened = EventDocument::Labor {
            sequence: 1,
            labor: id,
            generation: 3,
            state: "terminating".into(),
            cause: cause(),
            at_ms: 1_700_000_000_123,
        };
        let text = format!("{}{}", fleet_table(std::slice::from_ref(&shown.fleet), 80), event(&happened, 80));
        for line in text.lines() {
            assert!(measure_text_width(line) <= 80, "{line}");
        }
        assert!(show(&shown).contains(&"x".repeat(200)));
        assert!(event(&happened, usize::MAX).contains(&"x".repeat(200)));
        assert!(text.contains("22:13:20.123  l-"), "{text}");
        assert!(done(&shown).ends_with("is running; 1 labor started; 2 labors drain\n"));
    }

    #[test]
    fn an_upgrade_is_shown_with_what_each_labor_runs() {
        let running = FleetDocument { release_id: "1".repeat(64), ..fleet("web") };
        let shown = |stage, cause, releases: [&str; 2]| {
            let children = releases.map(|digit| LaborDocument {
                release_id: Some(digit.repeat(64)),
                ..labor("terminating", None)
            });
            let fleet = FleetDocument {
                upgrade: Some(upgrade(stage, cause)),
                release_id: "1".repeat(64),
                ..fleet("web")
            };
            show(&Shown {
                fleet,
                children: Some(children.into()),
                started: None,
                draining: None,
                troubles: Vec::new(),
            })
        };
        let text = shown("canary", None, ["1", "2"]);
        for part in [
            "web changes from 111111111111 to 222222222222: 1/12 labors changed, the first labors",
            "upgrade: 1/12 labors changed",
            "  release  why",
            "  2222222",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        for line in text.lines().filter(|line| line.starts_with("l-") || line.starts_with("labor ")) {
            assert!(measure_text_width(line) <= 80, "{line}");
        }
        let why = CauseDocument { code: "policy".into(), text: "no\nbolts".into() };
        let text = shown("rolled_back", Some(why.clone()), ["1", "1"]);
        assert!(text.contains("last upgrade: web runs 111111111111 again on 12 labors; 222222222222 was taken back: no bolts"), "{text}");
        assert!(!text.contains("  release  why"), "all run what the fleet does: {text}");
        assert!(fleet_table(&[running], 80).lines().all(|line| !line.contains("upgrade")));

        let taken_back = |upgrade| {
            let (release, before) = ("2".repeat(64), "1".repeat(64));
            let taken_back = TakenBackDocument { release, before, cause: Some(why.clone()) };
            let fleet = FleetDocument { upgrade, taken_back: Some(taken_back), ..fleet("web") };
            show(&Shown { fleet, children: None, started: None, draining: None, troubles: Vec::new() })
        };
        for upgrade in [None, Some(upgrade("rolled_back", Some(why.clone())))] {
            let text = taken_back(upgrade);
            assert_eq!(text.matches("no bolts").count(), 1, "why is said once: {text}");
            assert!(text.contains("`overseer fleet upgrade web` tries it again"), "{text}");
            assert!(
                text.contains("waits for a start: environment; its new release was taken back"),
                "{text}"
            );
        }
        for (stage, cause, said) in
            [("canary", None, "1/12 labors changed"), ("going_back", Some(why), "no bolts")]
        {
            let event = EventDocument::Upgrade { sequence: 1, upgrade: upgrade(stage, cause), at_ms: 0 };
            let line = super::event(&event, 80);
            assert!(line.contains("upgrade to 222222222222") && line.contains(stage), "{line}");
            assert!(line.trim_end().ends_with(said) && measure_text_width(line.trim_end()) <= 80, "{line}");
        }
    }
}
