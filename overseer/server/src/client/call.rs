//! `overseer call`: one call of what a labor runs.

use std::time::Duration;

use clap::Args;
use serde::Serialize;

use super::payload::{self, ArgumentArgs, ResultDocument};
use super::trace::CommandSpan;
use super::{Channel, Common, millis};
use crate::api::proto::calls_client::CallsClient;
use crate::api::proto::{CallRequest, CallResponse};
use crate::api::{MAX_MESSAGE, status};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output;

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
    #[command(flatten)]
    argument: ArgumentArgs,
    /// This labor, not the least loaded one
    #[arg(long, value_name = "ID")]
    labor: Option<String>,
    /// Longest wait for a labor
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = crate::client::time, allow_hyphen_values = true)]
    queue: Duration,
    /// Longest run; 0s for no limit
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = crate::client::time, allow_hyphen_values = true)]
    run: Duration,
    #[command(flatten)]
    pub(crate) common: Common,
}

/// `call --json`.
#[derive(Serialize)]
struct Answered<'a> {
    labor: &'a str,
    task: &'a str,
    #[serde(flatten)]
    result: ResultDocument<'a>,
}

impl CallArgs {
    /// Reads the argument and checks it.
    pub(super) fn request(&self) -> Result<CallRequest, Failure> {
        Ok(CallRequest {
            fleet: self.fleet.clone(),
            labor: self.labor.clone(),
            method: self.method.clone(),
            payload: self.argument.read()?.into(),
            queue_ms: Some(millis(self.queue)),
            run_ms: Some(millis(self.run)),
        })
    }
}

/// Calls and prints the result.
pub(super) async fn run(args: &CallArgs, request: CallRequest, channel: Channel) -> Result<Exit, Failure> {
    let mut client = CallsClient::new(channel)
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_MESSAGE);
    let span = CommandSpan::begin("overseer call");
    let answer = client.call(span.request(request)).await.map_err(|status| status::understand(&status));
    let response = span.end(answer).await?;
    let CallResponse { result, labor, task } = response.into_inner();
    if args.common.json {
        let result = ResultDocument::of(&result, args.argument.raw);
        output::json(&Answered { labor: &labor, task: &task, result });
    } else {
        payload::print(&result, args.argument.raw)?;
    }
    Ok(Exit::Passed)
}
