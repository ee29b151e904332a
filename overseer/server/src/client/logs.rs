//! `overseer logs`: what a task or a plugin host writes.

use std::io::Write;
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use super::{Channel, Common};
use crate::api::proto::logs_client::LogsClient;
use crate::api::proto::read_log_response::What;
use crate::api::proto::{LogStreamsRequest, LogStreamsResponse, ReadLogRequest};
use crate::api::status::understand;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::{self, Target};

const EXAMPLES: &str = "\
Examples:
  overseer logs t-0000000000000000f10c0a3be1c2d3e4      what a call or a task wrote
  overseer logs l-01k9… --follow                        what a labor writes outside of calls
  overseer logs \"$(overseer submit web import - < data.json)\" --follow      waits for its first byte
  overseer logs t-0000000000000000f10c0a3be1c2d3e4 --stream step --from 4096";

/// Prints what a task, or a labor outside of tasks, has written
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct LogsArgs {
    /// Task id, as `overseer submit` and `overseer call --json` print it, or a labor id, for an earlier life LABOR/N
    task: String,
    /// Number of the attempt; the newest if there are several
    #[arg(long, value_name = "N")]
    attempt: Option<u32>,
    /// Name of the stream, where there are several
    #[arg(long, value_name = "NAME")]
    stream: Option<String>,
    /// Begin at this byte
    #[arg(long, value_name = "OFFSET", default_value_t = 0)]
    from: u64,
    /// Stay until the stream ends; of a task that has written nothing yet, wait for it
    #[arg(short, long)]
    follow: bool,
    #[command(flatten)]
    pub(crate) common: Common,
}

/// Whether a task has begun to write is asked so often.
const LOOK_AGAIN: Duration = Duration::from_millis(250);
/// Times that it is asked once more when the task is over: its log comes by another way.
const LATE: u32 = 4;

/// A document of `logs --json`.
#[derive(Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Piece<'a> {
    Log { offset: u64, bytes: usize, text: &'a str },
    Gap { offset: u64, bytes: u64 },
}

/// Prints a stream.
pub(super) async fn run(args: &LogsArgs, channel: Channel) -> Result<Exit, Failure> {
    let mut client = LogsClient::new(channel);
    let Some((attempt, stream)) = choose(args, &mut client).await? else {
        Target::Stderr.write(&format!("{} has written nothing\n", args.task));
        return Ok(Exit::Passed);
    };
    let request =
        ReadLogRequest { task: args.task.clone(), attempt, stream, offset: args.from, follow: args.follow };
    let mut pieces = client.read(request).await.map_err(|s| understand(&s))?.into_inner();
    while let Some(piece) = pieces.message().await.map_err(|s| understand(&s))? {
        let offset = piece.offset;
        match piece.what {
            Some(What::Data(bytes)) if args.common.json => {
                let text = String::from_utf8_lossy(&bytes);
                output::json(&Piece::Log { offset, bytes: bytes.len(), text: &text });
            }
            Some(What::Data(bytes)) => {
                let mut out = std::io::stdout().lock();
                if let Err(error) = out.write_all(&bytes).and_then(|()| out.flush()) {
                    // A reader that has gone away, as in `| head`, has seen enough.
                    if error.kind() == std::io::ErrorKind::BrokenPipe {
                        break;
                    }
                    let message = format!("the log could not be written: {error}");
                    return Err(Failure::fault("logs.output", message));
                }
            }
            Some(What::Gap(bytes)) if args.common.json => output::json(&Piece::Gap { offset, bytes }),
            Some(What::Gap(bytes)) => Target::Stderr.write(&format!("[{bytes} bytes are lost here]\n")),
            None => {}
        }
    }
    Ok(Exit::Passed)
}

/// Which stream: the one that is named, or the only one. None of a task that is over and has
/// written nothing.
async fn choose(args: &LogsArgs, client: &mut LogsClient<Channel>) -> Result<Option<(u32, String)>, Failure> {
    let mut late = 0;
    loop {
        let request = LogStreamsRequest { task: args.task.clone() };
        let found = client.streams(request).await.map_err(|s| understand(&s))?.into_inner();
        let over = found.over;
        match (chosen(args, found)?, args.attempt, &args.stream) {
            (Some(chosen), ..) => return Ok(Some(chosen)),
            // Not of a stored task, so that nothing says when it is over.
            (None, Some(attempt), Some(stream)) if over.is_none() => {
                return Ok(Some((attempt, stream.clone())));
            }
            (None, ..) if args.follow && over == Some(false) => {}
            // What was written last may be on its way still.
            (None, ..) if args.follow && over == Some(true) && late < LATE => late += 1,
            (None, None, None) if over == Some(true) => return Ok(None),
            (None, ..) => {
                let yet = if over == Some(true) { "" } else { " yet" };
                let message = format!("{} has written no such log{yet}", args.task);
                return Err(Failure::input("logs.none", message).help(match over {
                    Some(true) => "leave out --attempt and --stream to read what there is",
                    Some(false) => "give --follow to wait for it",
                    None => "give --attempt, --stream and --follow to wait for one",
                }));
            }
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// The one stream that the arguments mean, if it is there.
fn chosen(args: &LogsArgs, found: LogStreamsResponse) -> Result<Option<(u32, String)>, Failure> {
    let mut streams = found.streams;
    // An attempt that has written nothing yet is the newest one all the same.
    let newest = args.attempt.or(found.newest_attempt).or_else(|| streams.iter().map(|s| s.attempt).max());
    streams
        .retain(|s| Some(s.attempt) == newest && args.stream.as_ref().is_none_or(|name| *name == s.stream));
    match &streams[..] {
        [] => Ok(None),
        [one] => Ok(Some((one.attempt, one.stream.clone()))),
        several => {
            let names: Vec<_> = several.iter().map(|s| format!("--stream {}", s.stream)).collect();
            let message = format!("{} has written {} logs", args.task, several.len());
            Err(Failure::input("logs.several", message).help(format!("choose {}", names.join(" or "))))
        }
    }
}
