//! `overseer task`: list, show, cancel, attach.

use clap::{Args, Subcommand};
use serde::Serialize;

use super::payload::{self, ResultDocument};
use super::{Channel, Common};
use crate::api::proto::attach_task_response::What;
use crate::api::proto::tasks_client::TasksClient;
use crate::api::proto::{self, AttachTaskRequest, CancelTaskRequest, GetTaskRequest, ListTasksRequest};
use crate::api::{MAX_MESSAGE, status::understand};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::{self, Target};

mod document;
mod text;

use self::document::TaskDocument;

const EXAMPLES: &str = "\
Examples:
  overseer task list web
  overseer task show t-0000000000000000f10c0a3be1c2d3e4
  overseer task attach t-0000000000000000f10c0a3be1c2d3e4
  overseer task cancel t-0000000000000000f10c0a3be1c2d3e4";

/// Shows, cancels and waits for durable tasks
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct TaskArgs {
    #[command(subcommand)]
    pub(super) command: TaskCommand,
    #[command(flatten)]
    pub(crate) common: Common,
}

#[derive(Debug, Args)]
pub(super) struct Which {
    /// Its id, as `overseer submit` prints it
    #[arg(value_name = "TASK")]
    id: String,
    /// Its fleet; else it is looked for
    #[arg(long, value_name = "FLEET")]
    fleet: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(super) enum TaskCommand {
    /// Lists the tasks of a fleet that are at work, oldest first
    #[command(
        after_help = "Examples:\n  overseer task list web\n  overseer task list web --over --limit 20\n\n\
        The last id of one list, given as --after, gives the next one."
    )]
    List {
        /// Name of the fleet
        fleet: String,
        /// Those that are over, not those at work
        #[arg(long)]
        over: bool,
        /// Most tasks
        #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
        limit: u32,
        /// Only those behind this one
        #[arg(long, value_name = "TASK")]
        after: Option<String>,
    },
    /// Shows a task and how its attempts ended
    #[command(after_help = "Example:\n  overseer task show t-0000000000000000f10c0a3be1c2d3e4")]
    Show(Which),
    /// Cancels a task
    #[command(after_help = "Example:\n  overseer task cancel t-0000000000000000f10c0a3be1c2d3e4\n\n\
        What waits is over at once, what runs when its method has seen it. Fine when it is over.")]
    Cancel(Which),
    /// Waits for the end of a task and prints its result
    #[command(after_help = "Example:\n  overseer task attach t-0000000000000000f10c0a3be1c2d3e4\n\n\
        Ending this changes nothing for the task. Exit codes are those of `overseer call`.")]
    Attach {
        #[command(flatten)]
        which: Which,
        /// The result is bytes, not JSON
        #[arg(long)]
        raw: bool,
    },
}

/// `task list --json`.
#[derive(Serialize)]
struct Listed {
    tasks: Vec<TaskDocument>,
}

/// `task attach --json`.
#[derive(Serialize)]
struct Finished<'a> {
    task: &'a str,
    fleet: &'a str,
    labor: &'a str,
    attempts: u32,
    #[serde(flatten)]
    result: ResultDocument<'a>,
}

/// Runs one of the commands.
pub(super) async fn run(command: TaskCommand, channel: Channel, json: bool) -> Result<Exit, Failure> {
    let mut client = TasksClient::new(channel).max_decoding_message_size(MAX_MESSAGE);
    let failed = |status: tonic::Status| understand(&status);
    match command {
        TaskCommand::List { fleet, over, limit, after } => {
            let request = ListTasksRequest { fleet, over, after, limit: Some(limit) };
            let listed = client.list(request).await.map_err(failed)?.into_inner();
            let tasks = listed.tasks.into_iter().map(TaskDocument::from).collect();
            let listed = Listed { tasks };
            print(json, &listed, || text::list(&listed.tasks, Target::Stdout.width()));
        }
        TaskCommand::Show(Which { id, fleet }) => {
            let request = GetTaskRequest { task: id, fleet };
            let got = client.get(request).await.map_err(failed)?.into_inner();
            let task = document(got.task);
            print(json, &task, || text::show(&task));
        }
        TaskCommand::Cancel(Which { id, fleet }) => {
            let request = CancelTaskRequest { task: id, fleet };
            let got = client.cancel(request).await.map_err(failed)?.into_inner();
            let task = document(got.task);
            print(json, &task, || text::cancelled(&task));
        }
        TaskCommand::Attach { which: Which { id, fleet }, raw } => {
            return attach(&mut client, id, fleet, raw, json).await;
        }
    }
    Ok(Exit::Passed)
}

fn document(task: Option<proto::Task>) -> TaskDocument {
    task.unwrap_or_default().into()
}

fn print(json: bool, document: &impl Serialize, text: impl FnOnce() -> String) {
    if json {
        output::json(document);
    } else {
        Target::Stdout.write(&text());
    }
}

/// Waits for the end of a task and prints its result.
pub(super) async fn attach(
    client: &mut TasksClient<Channel>,
    task: String,
    fleet: Option<String>,
    raw: bool,
    json: bool,
) -> Result<Exit, Failure> {
    let request = AttachTaskRequest { task, fleet };
    let task = request.task.clone();
    let mut pieces = client.attach(request).await.map_err(|s| understand(&s))?.into_inner();
    tracing::info!(task, "attached");
    let (mut done, mut result) = (None, Vec::new());
    while let Some(piece) = pieces.message().await.map_err(|s| understand(&s))? {
        match piece.what {
            Some(What::Task(task)) => done = Some(task),
            Some(What::Data(data)) => result.extend_from_slice(&data),
            None => {}
        }
    }
    let whole = |task: &proto::Task| task.result_bytes.is_none_or(|bytes| bytes == result.len() as u64);
    let Some(task) = done.filter(whole) else {
        let failure = Failure::fault("server.connection", "the server ended before the whole result came");
        return Err(failure.help("attach to the task again"));
    };
    if json {
        output::json(&Finished {
            task: &task.id,
            fleet: &task.fleet,
            labor: &task.labor,
            attempts: task.attempts,
            result: ResultDocument::of(&result, raw),
        });
    } else {
        payload::print(&result, raw)?;
    }
    Ok(Exit::Passed)
}
