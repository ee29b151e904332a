//! What a build came to, as a table of at most 80 columns.

use console::Style;

use super::event::{JobFailure, JobResult, Outcome, Totals};
use crate::output::Target;
use crate::release::size;
use crate::table::{Cell, render};

/// Artifacts of one job that are listed.
const LISTED: usize = 12;
/// Digits of a digest that are shown.
const DIGITS: usize = 10;

/// The table, what failed and why, and a last line.
pub(super) fn text(totals: &Totals<'_>, target: Target, width: usize) -> String {
    let mut rows =
        vec![["job", "result", "time", "artifacts"].map(|t| Cell::styled(t, Style::new().dim())).to_vec()];
    totals.results.iter().for_each(|result| rows.extend(job_rows(result)));
    let mut text = String::from("\n");
    text.push_str(&render(&rows, width, &[(0, 24), (3, 20)], target));
    for result in totals.results {
        if let Some(failure) = result.failure.as_ref().filter(|_| is_shown(result.result)) {
            text.push('\n');
            text.push_str(&failed(&result.job, failure, target));
        }
    }
    text.push('\n');
    text.push_str(&last_line(totals, target));
    text
}

/// A skipped job says why in the table.
fn is_shown(outcome: Outcome) -> bool {
    matches!(outcome, Outcome::Failed | Outcome::Fault | Outcome::Lost)
}

fn style(outcome: Outcome) -> Style {
    match outcome {
        Outcome::Passed => Style::new().green(),
        Outcome::Failed | Outcome::Fault | Outcome::Lost => Style::new().red(),
        Outcome::Cancelled | Outcome::Skipped | Outcome::NotRun => Style::new().yellow(),
    }
}

fn job_rows(result: &JobResult) -> Vec<Vec<Cell>> {
    let time = if result.attempts == 0 { String::new() } else { duration(result.ms) };
    let mut notes: Vec<String> = result
        .artifacts
        .iter()
        .take(LISTED)
        .map(|a| {
            let digest: String = a.digest.chars().take(DIGITS).collect();
            format!("{digest}  {:>10}  {}", size(a.size), plain(&a.path))
        })
        .collect();
    if result.artifacts.len() > LISTED {
        let rest = &result.artifacts[LISTED..];
        let bytes = rest.iter().map(|a| a.size).sum();
        notes.push(format!("and {} more, {}", rest.len(), size(bytes)));
    }
    if let Some(failure) = &result.failure {
        notes.push(failure.message.clone());
    }
    let mut notes = notes.into_iter().map(Cell::plain);
    let first = notes.next().unwrap_or_default();
    let mut rows = vec![vec![
        Cell::plain(result.job.clone()),
        Cell::styled(result.result.name(), style(result.result)),
        Cell::plain(time),
        first,
    ]];
    rows.extend(notes.map(|note| vec![Cell::default(), Cell::default(), Cell::default(), note]));
    rows
}

/// A file's name as a terminal may get it.
fn plain(path: &str) -> String {
    let one = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    path.chars().map(one).collect()
}

/// Why a job did not pass, with the last lines of its step.
fn failed(job: &str, failure: &JobFailure, target: Target) -> String {
    let mut text =
        format!("{} {job}: {}\n", target.style(&Style::new().red().bold(), "failed:"), failure.message);
    if let Some(command) = &failure.command {
        for (i, line) in command.lines().enumerate() {
            let mark = if i == 0 { '$' } else { ' ' };
            text.push_str(&format!("  {mark} {}\n", super::lines::tame(line, false)));
        }
    }
    for line in &failure.tail {
        text.push_str(&format!("  | {}\n", super::lines::tame(line, target.has_colors())));
    }
    text
}

fn last_line(totals: &Totals<'_>, target: Target) -> String {
    let jobs = |n: usize| if n == 1 { "1 job".to_owned() } else { format!("{n} jobs") };
    let time = duration(totals.ms);
    let good = totals.exit == 0;
    let color = if good { Style::new().green().bold() } else { Style::new().red().bold() };
    let result = target.style(&color, totals.result);
    let what = if good {
        jobs(totals.jobs)
    } else {
        format!("{} of {}", totals.passed, jobs(totals.jobs)) + " passed"
    };
    let artifacts = match totals.artifacts {
        0 => String::new(),
        1 => format!(", 1 artifact in {}", totals.out),
        n => format!(", {n} artifacts in {}", totals.out),
    };
    format!("{result}: {what} in {time}{artifacts}\n")
}

/// Milliseconds for people.
pub(super) fn duration(ms: u64) -> String {
    match ms {
        0..1000 => format!("{ms} ms"),
        1000..60_000 => format!("{}.{} s", ms / 1000, ms % 1000 / 100),
        60_000..3_600_000 => format!("{} min {:02} s", ms / 60_000, ms / 1000 % 60),
        _ => format!("{} h {:02} min", ms / 3_600_000, ms / 60_000 % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_files_name_cannot_play_with_the_terminal() {
        assert_eq!(plain("a\u{1b}[31m\rb\nä"), "a\\u{1b}[31m\\rb\\nä");
    }
    use crate::build::event::SavedArtifact;

    fn totals(results: &[JobResult], exit: u8, result: &'static str) -> Totals<'static> {
        let passed = results.iter().filter(|r| r.result == Outcome::Passed).count();
        let artifacts = results.iter().map(|r| r.artifacts.len()).sum();
        let results = Box::leak(results.to_vec().into_boxed_slice());
        Totals {
            result,
            exit,
            ms: 61_000,
            jobs: results.len(),
            passed,
            artifacts,
            out: "out".into(),
            results,
        }
    }

    fn artifact(path: &str) -> SavedArtifact {
        let digest = "0123456789abcdef".repeat(4);
        SavedArtifact { path: path.into(), file: String::new(), size: 16_384, digest, mode: "0755".into() }
    }

    fn passed(job: &str, artifacts: Vec<SavedArtifact>) -> JobResult {
        JobResult {
            attempts: 1,
            ms: 1234,
            artifacts,
            ..JobResult::without_report(job, Outcome::Passed, None)
        }
    }

    #[test]
    fn the_table_fits_80_columns_whatever_the_names_are() {
        let long = "x".repeat(100);
        let results = [
            passed(&long, (0..20).map(|i| artifact(&format!("{long}{i}"))).collect()),
            JobResult::without_report("b", Outcome::Skipped, Some(long.clone())),
        ];
        let text = text(&totals(&results, 1, "failed"), Target::Stdout, 80);
        let text = console::strip_ansi_codes(&text).into_owned();
        assert!(text.lines().all(|line| console::measure_text_width(line) <= 80), "{text}");
        assert!(text.contains("and 8 more, 128.00 KiB"), "{text}");
    }

    #[test]
    fn a_passed_build_says_where_its_artifacts_are() {
        let results = [passed("build", vec![artifact("bin/hello")])];
        let text = text(&totals(&results, 0, "passed"), Target::Stdout, 80);
        let text = console::strip_ansi_codes(&text).into_owned();
        let lines: Vec<_> = text.lines().filter(|l| !l.is_empty()).collect();
        assert_eq!(lines[1], "build  passed  1.2 s  0123456789   16.00 KiB  bin/hello");
        assert_eq!(lines[2], "passed: 1 job in 1 min 01 s, 1 artifact in out");
    }

    #[test]
    fn a_failed_build_shows_the_last_lines_of_its_step() {
        let failure = JobFailure {
            message: "step 1 of 2 exited with code 2".into(),
            command: Some("make\nmake test".into()),
            tail: vec!["cc: error".into()],
        };
        let result =
            JobResult { failure: Some(failure), ..JobResult::without_report("test", Outcome::Failed, None) };
        let text = text(&totals(&[result], 1, "failed"), Target::Stdout, 80);
        let text = console::strip_ansi_codes(&text).into_owned();
        let wanted = "failed: test: step 1 of 2 exited with code 2\n  $ make\n    make test\n  | cc: error\n";
        assert!(text.contains(wanted), "{text}");
        assert!(text.ends_with("failed: 0 of 1 job passed in 1 min 01 s\n"), "{text}");
    }

    #[test]
    fn times_are_for_people() {
        assert_eq!(
            [0, 999, 1000, 59_999, 60_000, 3_661_000].map(duration),
            ["0 ms", "999 ms", "1.0 s", "59.9 s", "1 min 00 s", "1 h 01 min"]
        );
    }
}
