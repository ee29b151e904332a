//! `overseer submit`: a task that outlives who gives it.

use std::io::Write;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use serde::Serialize;

use super::payload::ArgumentArgs;
use super::trace::CommandSpan;
use super::{Channel, Common, millis, task};
use crate::api::PIECE;
use crate::api::proto::submit_request::What;
use crate::api::proto::tasks_client::TasksClient;
use crate::api::proto::{NewTask, SubmitRequest, SubmitResponse, TaskRetry};
use crate::api::status::understand;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::Target;

const EXAMPLES: &str = "\
Examples:
  overseer submit web resize --file photo.json     prints the task's id
  overseer submit web report '{\"day\": 7}' --key report-7 --retry 3 --on error,deadline
  overseer task attach \"$(overseer submit web import - < data.json)\"
  overseer submit web greet '\"world\"' --wait

A task is stored when this returns. It outlives server, labor and caller, and runs at least once;
with --retry never at most once. Giving the same --key again gives the same task.

Exit codes: 0 stored; with --wait as `overseer call`: 0 it has its result, 1 it failed, 2 no such
fleet or method, a wrong argument or key, 3 a fault of the machinery.";

/// Gives a fleet a durable task
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct SubmitArgs {
    /// Name of the fleet
    fleet: String,
    /// Method of its release
    method: String,
    #[command(flatten)]
    argument: ArgumentArgs,
    /// Your own name of the task: one task for each
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// Tried again: `never`, on `loss` of its labor, or besides N times after failures of its own
    #[arg(long, value_name = "never|loss|N", default_value = "loss", value_parser = again)]
    retry: Again,
    /// After which failures of its own: error, panic, deadline; all, if not given
    #[arg(long, value_name = "CAUSE", value_delimiter = ',', value_parser = ["error", "panic", "deadline"])]
    on: Vec<String>,
    /// Longest wait for its first attempt; for ever, if not given
    #[arg(long, value_name = "TIME", value_parser = crate::client::time, allow_hyphen_values = true)]
    queue: Option<Duration>,
    /// Longest run of one attempt; for ever, if not given
    #[arg(long, value_name = "TIME", value_parser = crate::client::time, allow_hyphen_values = true)]
    run: Option<Duration>,
    /// Wait for its end and print its result
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    pub(crate) common: Common,
}

/// How often a task is tried again.
#[derive(Debug, Clone, Copy)]
enum Again {
    Never,
    Loss,
    Times(u32),
}

fn again(text: &str) -> Result<Again, String> {
    match text {
        "never" => Ok(Again::Never),
        "loss" => Ok(Again::Loss),
        number => number.parse().map(Again::Times).map_err(|_| "give never, loss or a number".to_owned()),
    }
}

/// `submit --json`.
#[derive(Serialize)]
struct Submitted<'a> {
    task: &'a str,
    fleet: &'a str,
}

impl SubmitArgs {
    /// Reads the argument and checks everything.
    pub(super) fn requests(&self) -> Result<Vec<SubmitRequest>, Failure> {
        let times = match self.retry {
            Again::Times(times) => times,
            Again::Never | Again::Loss if !self.on.is_empty() => {
                let failure = Failure::input("task.retry", "--on says after which failures, not how often");
                return Err(failure.help("give --retry N with it"));
            }
            Again::Never | Again::Loss => 0,
        };
        let on_loss = !matches!(self.retry, Again::Never);
        let task = NewTask {
            fleet: self.fleet.clone(),
            method: self.method.clone(),
            key: self.key.clone(),
            retry: Some(TaskRetry { on_loss, times, on: self.on.clone() }),
            queue_ms: self.queue.map(millis),
            run_ms: self.run.map(millis),
        };
        let mut payload = Bytes::from(self.argument.read()?);
        let mut requests = vec![What::Task(task)];
        while !payload.is_empty() {
            requests.push(What::Data(payload.split_to(payload.len().min(PIECE))));
        }
        Ok(requests.into_iter().map(|what| SubmitRequest { what: Some(what) }).collect())
    }
}

/// Submits and prints the id, or waits and prints the result.
pub(super) async fn run(
    args: &SubmitArgs,
    requests: Vec<SubmitRequest>,
    channel: Channel,
) -> Result<Exit, Failure> {
    let mut client = TasksClient::new(channel);
    let span = CommandSpan::begin("overseer submit");
    let stored = client.submit(span.request(tokio_stream::iter(requests))).await;
    let stored = span.end(stored.map_err(|s| unknown(understand(&s), args))).await?;
    let SubmitResponse { task, fleet } = stored.into_inner();
    if args.wait {
        // Who is interrupted can still attach to it.
        Target::Stderr.write(&format!("task {task}\n"));
        return task::attach(&mut client, task, Some(fleet), args.argument.raw, args.common.json).await;
    }
    let text = match args.common.json {
        true => serde_json::to_string(&Submitted { task: &task, fleet: &fleet }).unwrap_or_default(),
        false => task.clone(),
    };
    // Not as other output: a reader that has gone away must not take the id along.
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush()).map_err(|error| {
        let message = format!("{task} is stored, but standard output could not be written: {error}");
        Failure::fault("task.output", message).help(format!("`overseer task attach {task}` waits for it"))
    })?;
    Ok(Exit::Passed)
}

/// A failure after which nobody knows whether the task is stored.
fn unknown(failure: Failure, args: &SubmitArgs) -> Failure {
    if failure.code != "server.connection" {
        return failure;
    }
    let fleet = &args.fleet;
    failure.help(match &args.key {
        Some(key) => format!("it may have been stored: give it again with the same --key {key}, which stores it once"),
        None => format!(
            "it may have been stored: look with `overseer task list {fleet}` before giving it again; with a --key \
             it could be given again without harm"
        ),
    })
}
