//! What peers were measured at earlier; `tests/peers` measures those that are installed.

use serde::Deserialize;

use crate::row::Against;

#[derive(Deserialize)]
struct Records {
    figures: Vec<Record>,
}

#[derive(Deserialize)]
struct Record {
    peer: String,
    figure: String,
    /// In the unit of the row that is held against it.
    value: f64,
    /// Of the machine that it was measured on.
    floor: Option<f64>,
}

/// The recorded figure of a peer.
///
/// # Panics
/// When `tests/peers.json` has none.
pub(crate) fn recorded(peer: &'static str, figure: &str) -> Against {
    let record = record(peer, figure);
    Against::recorded(short(peer), record.value)
}

/// The same, in percent of what its machine could do at most.
///
/// # Panics
/// When `tests/peers.json` has none.
pub(crate) fn recorded_share(peer: &'static str, figure: &str) -> Against {
    let record = record(peer, figure);
    let floor = record.floor.unwrap_or(f64::NAN);
    Against::recorded(short(peer), 100.0 * record.value / floor)
}

fn record(peer: &str, figure: &str) -> Record {
    let text = include_str!("../../peers.json");
    let records: Records = serde_json::from_str(text).expect("tests/peers.json holds the records of peers");
    let fits = |record: &Record| record.peer == peer && record.figure == figure;
    let found = records.figures.into_iter().find(fits);
    found.unwrap_or_else(|| panic!("tests/peers.json has no {figure:?} of {peer}"))
}

/// As much of its name as the table has room for.
fn short(peer: &'static str) -> &'static str {
    peer.get(..6).unwrap_or(peer)
}
