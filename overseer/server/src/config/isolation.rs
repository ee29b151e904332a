//! `isolation` of a fleet: what its plugin hosts may be and use.

use overseer::{Isolation, RunAs};

use super::table::{Located, Table};
use crate::failure::Failure;

const EXAMPLE: &str = "isolation = { user = \"nobody\", memory = \"512MiB\" }";
/// More than any machine has.
const MOST: u32 = 1 << 22;
/// Thousandths of a core, of more cores than any machine has.
const MOST_CPU_MILLI: u64 = 1_000_000;

/// Reads it from the table of a fleet.
pub(super) fn read(fleet: &Table<'_, '_>) -> Result<Isolation, Failure> {
    let Some(table) = fleet.table("isolation", EXAMPLE)? else { return Ok(Isolation::default()) };
    let isolation = Isolation {
        user: user(&table)?,
        memory: memory(&table)?,
        cpu_milli: cpu(&table)?,
        processes: table.count("processes", Isolation::LEAST_PROCESSES..=MOST)?.map(|n| n.value),
        open_files: table.count("open_files", Isolation::LEAST_OPEN_FILES..=MOST)?.map(|n| n.value),
        file_size: table.bytes("file_size")?.map(|bytes| bytes.value),
        core: table.bytes("core")?.map(|bytes| bytes.value),
        required: table.flag("required")?.unwrap_or(false),
    };
    table.finish()?;
    Ok(isolation)
}

fn user(table: &Table<'_, '_>) -> Result<Option<RunAs>, Failure> {
    let Some(text) = table.text("user", "\"nobody\"")? else { return Ok(None) };
    let wrong = |error: overseer::IsolationError| {
        let help = "write user = \"NAME\", user = \"UID\" or user = \"UID:GID\", of a user that is not root";
        table.wrong("user", &text.span, error.to_string(), help)
    };
    text.value.parse().map(Some).map_err(wrong)
}

fn memory(table: &Table<'_, '_>) -> Result<Option<u64>, Failure> {
    match table.bytes("memory")? {
        Some(Located { value, span }) if value < Isolation::LEAST_MEMORY => {
            let message = "no plugin host starts with less than 16 MiB of memory";
            Err(table.wrong("memory", &span, message, "write memory = \"16MiB\" or more"))
        }
        memory => Ok(memory.map(|bytes| bytes.value)),
    }
}

fn cpu(table: &Table<'_, '_>) -> Result<Option<u32>, Failure> {
    let Some(Located { value, span }) = table.decimal("cpu", 3, "\"1.5\"")? else { return Ok(None) };
    let allowed = u64::from(Isolation::LEAST_CPU_MILLI)..=MOST_CPU_MILLI;
    match u32::try_from(value) {
        Ok(milli) if allowed.contains(&value) => Ok(Some(milli)),
        _ => {
            let message = "a part of a core is meant, or some cores, from 0.01 to 1000";
            Err(table.wrong("cpu", &span, message, "write cpu = \"0.5\" for half a core"))
        }
    }
}
