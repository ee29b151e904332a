//! The table, within 80 columns.

use crate::row::{Row, Unit};

const NOTES: &str = "\
p99: of few samples the worst. ratio: ours / theirs. !: misses its goal.
unary, stream: tonic echo over the same mTLS, own process, this run.
spawns: the same program, started and waited for by four threads, this run.
*: recorded earlier on a two-core machine; tests/peers measures again.";

/// Head, lines and notes.
pub(crate) fn table(rows: &[Row]) -> String {
    let mut out = format!(
        "{:<26}{:>10}{:>9}{:>10} {:<8}{:>6} {:>8}\n",
        "figure", "ours", "p99", "peer", "", "ratio", "goal"
    );
    for row in rows {
        out.push_str(&line(row));
        out.push('\n');
    }
    out.push_str(NOTES);
    out
}

/// One line.
pub(crate) fn line(row: &Row) -> String {
    let (peer, who, ratio) = match &row.against {
        Some(against) => {
            let star = if against.same_run { "" } else { "*" };
            let ratio = row.ratio().map(|r| format!("{r:.2}")).unwrap_or_default();
            (amount(row.unit, against.median), format!("{}{star}", against.who), ratio)
        }
        None => Default::default(),
    };
    let p99 = if row.samples > 1 { amount(row.unit, row.p99) } else { String::new() };
    let goal = row.goal.map(|goal| short(row.unit, goal)).unwrap_or_default();
    let missed = if row.misses_its_goal() { "!" } else { "" };
    let ours = amount(row.unit, row.median);
    let line = format!("{:<26}{ours:>10}{p99:>9}{peer:>10} {who:<8}{ratio:>6} {goal:>8}{missed}", row.figure);
    line.trim_end().to_owned()
}

fn amount(unit: Unit, value: f64) -> String {
    match unit {
        Unit::Milliseconds if value < 1.0 => format!("{value:.3} ms"),
        Unit::Milliseconds if value < 100.0 => format!("{value:.1} ms"),
        Unit::Milliseconds => format!("{value:.0} ms"),
        Unit::PerSecond if value < 1e6 => format!("{:.1}k/s", value / 1e3),
        Unit::PerSecond => format!("{:.2}M/s", value / 1e6),
        Unit::Mebibytes => format!("{value:.1} MiB"),
        Unit::Percent => format!("{value:.0} %"),
    }
}

fn short(unit: Unit, value: f64) -> String {
    match unit {
        Unit::Milliseconds => format!("{value} ms"),
        Unit::PerSecond => format!("{:.0}k/s", value / 1e3),
        Unit::Mebibytes => format!("{value} MiB"),
        Unit::Percent => format!("{value} %"),
    }
}
