//! `overseer doctor`: what this machine has, and what will be missed.

mod checks;

use clap::Args;
use console::Style;
use serde::Serialize;

use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::{self, Target};
use crate::table::{Cell, render};

const EXAMPLES: &str = "\
Examples:
  overseer doctor
  overseer doctor --json | jq '.checks[] | select(.status == \"missing\")'

Exit codes: 0 `overseer build` can run here, 1 something that it needs is missing.";

/// Checks what this machine has, and says what will be missed
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct DoctorArgs {
    /// Print one JSON document
    #[arg(long)]
    pub(crate) json: bool,
}

/// How a check went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Status {
    /// It is there.
    Ok,
    /// Builds cannot run without it.
    Missing,
    /// It is not there, and only some need it.
    Info,
}

/// One thing that was looked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Check {
    name: &'static str,
    status: Status,
    /// What is there.
    found: String,
    /// Who needs it.
    needed_for: &'static str,
    /// What to do, where it is not there.
    #[serde(skip_serializing_if = "Option::is_none")]
    advice: Option<String>,
}

impl Check {
    fn ok(name: &'static str, needed_for: &'static str, found: impl Into<String>) -> Self {
        Self { name, status: Status::Ok, found: found.into(), needed_for, advice: None }
    }

    /// Not there.
    fn absent(
        name: &'static str,
        status: Status,
        needed_for: &'static str,
        found: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self { name, status, found: found.into(), needed_for, advice: Some(advice.into()) }
    }
}

#[derive(Serialize)]
struct Report<'a> {
    ok: bool,
    version: &'static str,
    checks: &'a [Check],
}

/// Looks at everything and reports.
pub(crate) fn run(args: &DoctorArgs) -> Result<Exit, Failure> {
    let checks = checks::all();
    let ok = is_ok(&checks);
    if args.json {
        output::json(&Report { ok, version: env!("CARGO_PKG_VERSION"), checks: &checks });
    } else {
        Target::Stdout.write(&text(&checks, Target::Stdout));
    }
    Ok(if ok { Exit::Passed } else { Exit::Failed })
}

fn is_ok(checks: &[Check]) -> bool {
    checks.iter().all(|check| check.status != Status::Missing)
}

fn text(checks: &[Check], target: Target) -> String {
    let mut rows =
        vec![["", "what", "here", "needed for"].map(|t| Cell::styled(t, Style::new().dim())).to_vec()];
    for check in checks {
        let (mark, style) = match check.status {
            Status::Ok => ("ok", Style::new().green()),
            Status::Missing => ("missing", Style::new().red().bold()),
            Status::Info => ("info", Style::new().yellow()),
        };
        rows.push(vec![
            Cell::styled(mark, style),
            Cell::plain(check.name),
            Cell::plain(check.found.clone()),
            Cell::plain(check.needed_for),
        ]);
    }
    let mut text = render(&rows, target.width(), &[(2, 24), (3, 8)], target);
    let advice: Vec<_> = checks.iter().filter_map(|c| Some((c, c.advice.as_ref()?))).collect();
    if !advice.is_empty() {
        text.push('\n');
    }
    for (check, advice) in advice {
        text.push_str(&format!("{}: {advice}\n", target.style(&Style::new().bold(), check.name)));
    }
    text.push('\n');
    text.push_str(if is_ok(checks) {
        "`overseer build` can run here.\n"
    } else {
        "`overseer build` cannot run here yet.\n"
    });
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_builds_need_makes_it_fail() {
        let info = Check::absent("kvm", Status::Info, "VMs", "no", "load it");
        let good = Check::ok("git", "checkouts", "2.40");
        assert!(is_ok(&[info.clone(), good.clone()]));
        let missing = Check::absent("sh", Status::Missing, "steps", "no", "install it");
        let all = [info, good, missing];
        assert!(!is_ok(&all));
        let text = console::strip_ansi_codes(&text(&all, Target::Stdout)).into_owned();
        assert!(text.contains("sh: install it") && text.contains("cannot run here"), "{text}");
        assert!(text.lines().all(|line| line.len() <= 80));
    }
}
