use std::path::Path;

use indicatif::HumanBytes;
use overseer::data_dir::DataDir;
use overseer::export::{Amount, ExportError};
use serde::Serialize;

use super::progress;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::{self, Target};

#[derive(Serialize)]
struct Document<'a> {
    file: &'a Path,
    data: &'a Path,
    #[serde(flatten)]
    amount: Amount,
}

/// `overseer store export`.
pub(super) fn export(data: &DataDir, file: &Path, blobs: bool, json: bool) -> Result<Exit, Failure> {
    let amount = with_progress(json, |seen| overseer::export::export(data, file, blobs, seen))?;
    if json {
        output::json(&Document { file, data: data.path(), amount });
    } else {
        Target::Stdout.write(&format!("{}: {}\n", file.display(), told(&amount)));
        Target::Stderr.write("it holds the private key of the certificate authority: keep it secret\n");
    }
    Ok(Exit::Passed)
}

/// `overseer store import`.
pub(super) fn import(file: &Path, data: &Path, json: bool) -> Result<Exit, Failure> {
    let amount = with_progress(json, |seen| overseer::export::import(file, data, seen))?;
    if json {
        output::json(&Document { file, data, amount });
    } else {
        Target::Stdout.write(&format!("{}: {}\n", data.display(), told(&amount)));
    }
    Ok(Exit::Passed)
}

fn told(amount: &Amount) -> String {
    let Amount { entries, blobs, bytes, .. } = amount;
    format!("{entries} entries and {blobs} blobs, {}", HumanBytes(*bytes))
}

fn with_progress(
    json: bool,
    run: impl FnOnce(&dyn Fn(Amount)) -> Result<Amount, ExportError>,
) -> Result<Amount, Failure> {
    let bar = progress(json, "reading");
    let result = run(&|amount| {
        if let Some(bar) = &bar {
            bar.set_message(told(&amount));
        }
    });
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    result.map_err(|error| {
        let exit = match &error {
            ExportError::Io { source, .. } if source.kind() != std::io::ErrorKind::NotFound => Exit::Fault,
            ExportError::Store(_) | ExportError::Blobs(_) => Exit::Fault,
            _ => Exit::BadInput,
        };
        Failure::told(exit, error.code(), &error.to_string())
    })
}
