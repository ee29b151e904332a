use console::Style;
use overseer::check::{MAX_PROBLEMS, Report, check};
use overseer::data_dir::DataDir;
use serde::Serialize;

use super::progress;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::{self, Target};
use crate::store::kinds::KINDS;
use crate::table::{Cell, render};

/// Problems that are shown to people.
const SHOWN: usize = 20;

#[derive(Serialize)]
struct Document<'a> {
    ok: bool,
    data: &'a std::path::Path,
    schema: u64,
    #[serde(flatten)]
    report: &'a Report,
}

/// `overseer store check`.
pub(super) fn run(data: &DataDir, deep: bool, json: bool) -> Result<Exit, Failure> {
    let fault = |code: &'static str, text: String| Failure::told(Exit::Fault, code, &text);
    let (schema, newest) = data.store().schema().map_err(|e| fault(e.code(), e.to_string()))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|e| Failure::fault("store.runtime", format!("no runtime: {e}")))?;
    let bar = progress(json, "entries");
    let seen = |entries: u64| {
        if let Some(bar) = &bar {
            bar.set_message(format!("{entries} entries"));
        }
    };
    let report =
        runtime.block_on(check(data, KINDS, deep, seen)).map_err(|e| fault(e.code(), e.to_string()))?;
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    if json {
        output::json(&Document { ok: report.is_clean(), data: data.path(), schema, report: &report });
    } else {
        Target::Stdout.write(&describe(data, &report, schema));
        if schema < newest {
            Target::Stderr.write(&format!(
                "the store has schema {schema}; the next server brings it to {newest}: export it first, \
                 for the Overseer before this one will refuse it then\n"
            ));
        }
    }
    Ok(if report.is_clean() { Exit::Passed } else { Exit::Failed })
}

fn describe(data: &DataDir, report: &Report, schema: u64) -> String {
    let rows: Vec<Vec<Cell>> = report
        .counts
        .iter()
        .filter(|(_, count)| **count > 0)
        .map(|(kind, count)| vec![Cell::plain(*kind), Cell::plain(count.to_string())])
        .collect();
    let mut text = render(&rows, Target::Stdout.width(), &[(0, 8)], Target::Stdout);
    for problem in report.problems.iter().take(SHOWN) {
        let kind = Target::Stdout.style(&Style::new().red(), problem.kind);
        text.push_str(&format!("{kind}: {}\n    {}\n    {}\n", problem.key, problem.what, problem.help));
    }
    let shown = SHOWN.min(report.problems.len()) as u64;
    if report.found > shown {
        let more = report.found - shown;
        text.push_str(&format!("and {more} more: --json has the first {MAX_PROBLEMS}\n"));
    }
    let verdict = match report.found {
        0 => "nothing is wrong".to_owned(),
        1 => "1 problem".to_owned(),
        found => format!("{found} problems"),
    };
    let (entries, path) = (report.entries, data.path().display());
    text.push_str(&format!("{path}: {entries} entries, schema {schema}: {verdict}\n"));
    text
}
