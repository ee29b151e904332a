//! The commands that ask a server that runs.

mod audit;
mod authority;
mod bearer;
mod call;
mod connection;
mod fleet;
mod logs;
mod payload;
mod server;
mod submit;
mod task;
mod token;
mod trace;
mod trouble;

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

pub(crate) use self::audit::AuditArgs;
pub(crate) use self::authority::AuthorityArgs;
pub(crate) use self::call::CallArgs;
use self::connection::Channel;
pub(crate) use self::fleet::FleetArgs;
pub(crate) use self::logs::LogsArgs;
pub(crate) use self::server::{ReloadArgs, StatusArgs};
pub(crate) use self::submit::SubmitArgs;
pub(crate) use self::task::TaskArgs;
pub(crate) use self::token::TokenArgs;
use crate::access::token::millis;
use crate::exit::Exit;
use crate::failure::Failure;

/// What all these commands take.
#[derive(Debug, Args)]
pub(crate) struct Common {
    /// Socket of the server, or https://HOST:PORT; else its socket is looked for
    #[arg(long, global = true, value_name = "SERVER", env = "OVERSEER_SERVER", hide_env_values = true)]
    server: Option<OsString>,
    /// Over TCP: PEM file with the authority that the server's certificate is of
    #[arg(long, global = true, value_name = "FILE", env = "OVERSEER_SERVER_CA", hide_env_values = true)]
    server_ca: Option<PathBuf>,
    /// Over TCP: file with the token, mode 0600; else OVERSEER_TOKEN has it
    #[arg(long, global = true, value_name = "FILE", env = "OVERSEER_TOKEN_FILE", hide_env_values = true)]
    token_file: Option<PathBuf>,
    /// Print JSON documents, one on a line
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

/// Runs `overseer fleet …`.
pub(crate) fn fleet(args: FleetArgs) -> Result<Exit, Failure> {
    let FleetArgs { command, common } = args;
    ask(&common, async |channel| fleet::run(command, channel, common.json).await)
}

/// Runs `overseer call`.
pub(crate) fn call(args: CallArgs) -> Result<Exit, Failure> {
    // Before the server is asked: standard input may be slow.
    let request = args.request()?;
    ask(&args.common, async |channel| call::run(&args, request, channel).await)
}

/// Runs `overseer submit`.
pub(crate) fn submit(args: SubmitArgs) -> Result<Exit, Failure> {
    let requests = args.requests()?;
    ask(&args.common, async |channel| submit::run(&args, requests, channel).await)
}

/// Runs `overseer task …`.
pub(crate) fn task(args: TaskArgs) -> Result<Exit, Failure> {
    let TaskArgs { command, common } = args;
    ask(&common, async |channel| task::run(command, channel, common.json).await)
}

/// Runs `overseer logs`.
pub(crate) fn logs(args: LogsArgs) -> Result<Exit, Failure> {
    ask(&args.common, async |channel| logs::run(&args, channel).await)
}

/// Runs `overseer status`.
pub(crate) fn status(args: StatusArgs) -> Result<Exit, Failure> {
    ask(&args.common, async |channel| match args.metrics {
        true => server::metrics(channel, args.common.json).await,
        false => server::status(channel, args.common.json).await,
    })
}

/// Runs `overseer authority …`.
pub(crate) fn authority(args: AuthorityArgs) -> Result<Exit, Failure> {
    let AuthorityArgs { command, common } = args;
    ask(&common, async |channel| authority::run(command, channel, common.json).await)
}

/// Runs `overseer reload`.
pub(crate) fn reload(args: ReloadArgs) -> Result<Exit, Failure> {
    ask(&args.common, async |channel| server::reload(channel, args.common.json).await)
}

/// Runs `overseer token …`.
pub(crate) fn token(args: TokenArgs) -> Result<Exit, Failure> {
    let TokenArgs { command, common } = args;
    ask(&common, async |channel| token::run(command, channel, common.json).await)
}

/// Runs `overseer audit`.
pub(crate) fn audit(args: AuditArgs) -> Result<Exit, Failure> {
    ask(&args.common, async |channel| audit::run(&args, channel).await)
}

/// Finds the server and asks it, on one thread: a command should be over at once.
fn ask(common: &Common, what: impl AsyncFnOnce(Channel) -> Result<Exit, Failure>) -> Result<Exit, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|e| Failure::fault("server.connection", format!("no connection: {e}")))?;
    runtime.block_on(async {
        let channel = connection::connect(common).await?;
        what(channel).await
    })
}

/// A time as an argument: `500ms`, `1h 30m`.
fn time(text: &str) -> Result<Duration, String> {
    match text.strip_prefix('-') {
        Some(_) => Err("a time is not below zero: give one such as 500ms, 30s or 1h".to_owned()),
        None => humantime::parse_duration(text)
            .map_err(|error| format!("{error}: give one such as 500ms, 30s or 1h")),
    }
}
