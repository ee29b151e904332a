//! `overseer call`: one call of what a labor runs.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use overseer::CallError;
use overseer_protocol::MAX_PAYLOAD;
use serde::Serialize;
use serde_json::value::RawValue;
use tonic::transport::Channel;

use super::Common;
use crate::api::proto::calls_client::CallsClient;
use crate::api::proto::{CallRequest, CallResponse};
use crate::api::{MAX_MESSAGE, status};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::{self, Target};

const EXAMPLES: &str = "\
Examples:
  overseer call web greet '\"world\"'            the argument is JSON
  overseer call web resize --file photo.json
  generate | overseer call web import - --run 1h
  overseer call web thumbnail --raw --file photo.jpg > small.jpg

The result goes to standard output; --json prints it with the labor and the task, whose logs
`overseer logs` reads.

Exit codes: 0 answered, 1 the method failed, 2 no such fleet, labor, method or argument, 3 no
labor was ready, or the labor was lost.";

/// Calls a method of what the labors of a fleet run
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct CallArgs {
    /// Name of the fleet
    fleet: String,
    /// Method of its release
    method: String,
    /// JSON; `-` reads it from standard input; `null` if nothing is given
    #[arg(value_name = "ARGUMENT", allow_hyphen_values = true, conflicts_with = "file")]
    argument: Option<String>,
    /// Read the argument from a file
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// This labor, not the least loaded one
    #[arg(long, value_name = "ID")]
    labor: Option<String>,
    /// Argument and result are bytes, not JSON
    #[arg(long)]
    raw: bool,
    /// Longest wait for a labor
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = humantime::parse_duration)]
    queue: Duration,
    /// Longest run; 0s for no limit
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = humantime::parse_duration)]
    run: Duration,
    #[command(flatten)]
    pub(crate) common: Common,
}

/// `call --json`.
#[derive(Serialize)]
struct Answered<'a> {
    labor: &'a str,
    task: &'a str,
    /// Where the result is JSON.
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<&'a RawValue>,
    /// Where it is not: its length in bytes, and the text if it is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'a str>,
}

impl CallArgs {
    /// Reads the argument and checks it.
    pub(super) fn request(&self) -> Result<CallRequest, Failure> {
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
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        Ok(CallRequest {
            fleet: self.fleet.clone(),
            labor: self.labor.clone(),
            method: self.method.clone(),
            payload: payload.into(),
            queue_ms: Some(millis(self.queue)),
            run_ms: Some(millis(self.run)),
        })
    }
}

fn unreadable(path: &Path, error: &std::io::Error) -> Failure {
    Failure::input("call.argument", format!("{} cannot be read: {error}", path.display()))
        .help("give the path of a file, or `-` for standard input")
}

/// Calls and prints the result.
pub(super) async fn run(args: &CallArgs, request: CallRequest, channel: Channel) -> Result<Exit, Failure> {
    let mut client = CallsClient::new(channel)
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_MESSAGE);
    let response = client.call(request).await.map_err(|status| status::understand(&status))?;
    let CallResponse { result, labor, task } = response.into_inner();
    if args.common.json {
        let json = if args.raw { None } else { serde_json::from_slice::<&RawValue>(&result).ok() };
        let rest = json.is_none();
        output::json(&Answered {
            labor: &labor,
            task: &task,
            result: json,
            bytes: rest.then_some(result.len()),
            text: std::str::from_utf8(&result).ok().filter(|_| rest),
        });
    } else if args.raw {
        let mut out = std::io::stdout().lock();
        if let Err(error) = out.write_all(&result).and_then(|()| out.flush())
            && error.kind() != std::io::ErrorKind::BrokenPipe
        {
            let message = format!("the result could not be written: {error}");
            return Err(Failure::fault("call.output", message));
        }
    } else if !result.is_empty() {
        let text = String::from_utf8_lossy(&result);
        Target::Stdout.write(&format!("{}\n", text.trim_end_matches('\n')));
    }
    Ok(Exit::Passed)
}
