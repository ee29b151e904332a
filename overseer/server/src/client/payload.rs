//! What is given to a method, and what it gives.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use overseer::CallError;
use overseer_protocol::MAX_PAYLOAD;
use serde::Serialize;
use serde_json::value::RawValue;

use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::Target;

/// The argument of a method.
#[derive(Debug, Args)]
pub(super) struct ArgumentArgs {
    /// JSON; `-` reads it from standard input; `null` if nothing is given
    #[arg(value_name = "ARGUMENT", allow_hyphen_values = true, conflicts_with = "file")]
    argument: Option<String>,
    /// Read the argument from a file
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Argument and result are bytes, not JSON
    #[arg(long)]
    pub(super) raw: bool,
}

impl ArgumentArgs {
    /// Reads it and checks it.
    ///
    /// # Errors
    /// `call.argument`, `call.too_large`.
    pub(super) fn read(&self) -> Result<Vec<u8>, Failure> {
        let payload = match (&self.file, self.argument.as_deref()) {
            (Some(path), _) => std::fs::read(path).map_err(|e| unreadable(path, &e))?,
            (None, Some("-")) => {
                let mut bytes = Vec::new();
                let read = std::io::stdin().lock().read_to_end(&mut bytes);
                read.map_err(|e| unreadable(Path::new("standard input"), &e))?;
                bytes
            }
            (None, Some(text)) => text.as_bytes().to_owned(),
            (None, None) if self.raw => Vec::new(),
            (None, None) => b"null".to_vec(),
        };
        if payload.len() > MAX_PAYLOAD {
            let error = CallError::TooLarge { size: payload.len(), limit: MAX_PAYLOAD };
            return Err(Failure::told(Exit::BadInput, error.code(), &error.to_string()));
        }
        if !self.raw
            && let Err(error) = serde_json::from_slice::<&RawValue>(&payload)
        {
            let help = "a text needs quotes of its own, as in '\"world\"'; --raw sends bytes as they are";
            let message = format!("the argument is not JSON: {error}");
            return Err(Failure::input("call.argument", message).help(help));
        }
        Ok(payload)
    }
}

fn unreadable(path: &Path, error: &std::io::Error) -> Failure {
    Failure::input("call.argument", format!("{} cannot be read: {error}", path.display()))
        .help("give the path of a file, or `-` for standard input")
}

/// A result, as JSON.
#[derive(Debug, Serialize)]
pub(super) struct ResultDocument<'a> {
    /// Where the result is JSON.
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<&'a RawValue>,
    /// Where it is not: its length in bytes, and the text if it is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'a str>,
}

impl<'a> ResultDocument<'a> {
    pub(super) fn of(result: &'a [u8], raw: bool) -> Self {
        let json = if raw { None } else { serde_json::from_slice::<&RawValue>(result).ok() };
        let rest = json.is_none();
        Self {
            result: json,
            bytes: rest.then_some(result.len()),
            text: std::str::from_utf8(result).ok().filter(|_| rest),
        }
    }
}

/// Prints a result for people and pipes.
///
/// # Errors
/// `call.output`.
pub(super) fn print(result: &[u8], raw: bool) -> Result<(), Failure> {
    if raw {
        let mut out = std::io::stdout().lock();
        if let Err(error) = out.write_all(result).and_then(|()| out.flush())
            && error.kind() != std::io::ErrorKind::BrokenPipe
        {
            let message = format!("the result could not be written: {error}");
            return Err(Failure::fault("call.output", message));
        }
    } else if !result.is_empty() {
        let text = String::from_utf8_lossy(result);
        Target::Stdout.write(&format!("{}\n", text.trim_end_matches('\n')));
    }
    Ok(())
}
