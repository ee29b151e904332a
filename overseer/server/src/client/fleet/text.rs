//! Fleets for people.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use console::Style;

use super::{CauseDocument, EventDocument, FleetDocument, Shown};
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
    let labors = shown.children.as_deref().unwrap_or_default();
    if labors.is_empty() {
        return text;
    }
    let mut rows = vec![header(&["labor", "life", "state", "for", "open", "from", "why"])];
    for labor in labors {
        let style = if labor.state == "ready" { Style::new().green() } else { Style::new().yellow() };
        rows.push(vec![
            Cell::plain(&labor.id),
            Cell::plain(labor.generation.to_string()),
            Cell::styled(&labor.state, style),
            Cell::plain(age(labor.since_ms)),
            Cell::plain(labor.open.to_string()),
            Cell::plain(if labor.invited { "invited" } else { &shown.fleet.adapter }),
            Cell::plain(why(labor.cause.as_ref())),
        ]);
    }
    text.push('\n');
    // How they came is of interest where they did not all come in one way.
    if labors.iter().all(|labor| !labor.invited) {
        rows.iter_mut().for_each(|row| drop(row.remove(5)));
    }
    text.push_str(&render(&rows, usize::MAX, &[], Target::Stdout));
    text
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
            let time = humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_millis(*at_ms));
            // The day is of less use than the cause, and a line has 80 columns.
            let time = time.to_string();
            let time = time.get(11..23).unwrap_or(&time);
            let why = why(cause.as_ref());
            let line = format!("{time}  {labor} {generation:>2}  {state:<11}  {why}");
            let cut = console::truncate_str(line.trim_end(), width, "…");
            format!("{cut}\n")
        }
        EventDocument::Lost { events } => format!("[{events} events are missing here]\n"),
    }
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
    if fleet.by_hand {
        notes.push("by hand".to_owned());
    }
    if !fleet.pending.is_empty() {
        notes.push(format!("waits for a start: {}", fleet.pending.join(", ")));
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

    use super::super::LaborDocument;
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
        }
    }

    #[test]
    fn lists_fit_a_terminal_and_one_fleet_is_whole() {
        let cause = || Some(CauseDocument { code: "exited".into(), text: "x".repeat(200) });
        let id = format!("l-{}", "0".repeat(26));
        let labor = LaborDocument {
            id: id.clone(),
            generation: 12,
            state: "terminating".into(),
            cause: cause(),
            since_ms: 0,
            host: String::new(),
            open: 12,
            invited: true,
        };
        let fleet = fleet(&"f".repeat(63));
        let shown = Shown { fleet, children: Some(vec![labor]), started: Some(1), draining: Some(2) };
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
}
