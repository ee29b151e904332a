//! The life of a server: start, signals, stop.

use std::sync::Arc;
use std::time::Duration;

use overseer::{ControlPlane, FleetName};
use serde::Serialize;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

use super::check::isolation;
use super::control::ControlTcp;
use super::notify::{self, ServiceManager};
use super::server::Server;
use super::socket::ControlSocket;
use super::{Start, metrics};
use crate::access::Access;
use crate::access::tokens::Tokens;
use crate::api::{Api, condition};
use crate::audit::Audit;
use crate::audit::log::AuditLog;
use crate::audit::record;
use crate::config::FETCHING;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::opening::cannot_start;
use crate::otlp::{Collector, Exporting};
use crate::output::{self, Target};

/// File descriptors that a server allows itself, where it may: some for each labor and each client.
const FILES: u64 = 65_536;
/// How long connections may take to close once no request is open.
const HANG_UP: Duration = Duration::from_secs(1);

/// The document of `serve --json`.
#[derive(Serialize)]
struct Ready<'a> {
    event: &'static str,
    pid: u32,
    version: &'static str,
    socket: &'a std::path::Path,
    data: &'a std::path::Path,
    #[serde(skip_serializing_if = "Option::is_none")]
    control: Option<String>,
    fleets: usize,
}

/// Serves until a signal says to stop.
pub(super) fn serve(start: Start) -> Result<Exit, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime =
        runtime.map_err(|e| Failure::fault("serve.runtime", format!("the server cannot run: {e}")))?;
    let result = runtime.block_on(start_and_stop(start));
    // Nothing that is left to do may keep the process.
    runtime.shutdown_background();
    result
}

async fn start_and_stop(start: Start) -> Result<Exit, Failure> {
    let files = overseer::condition::raise_file_limit(FILES);
    tracing::info!(files, "file descriptors that this server may have");
    let mut signals = Signals::listen()?;
    let Start { config_path, plan, faults, data, socket, json } = start;
    // Its labors would be replaced over and over; the others are served all the same.
    match isolation::check(&plan) {
        Ok(warnings) => warnings.iter().for_each(|warning| tracing::warn!("{warning}")),
        Err(failure) => tracing::error!(help = failure.help, "{failure}"),
    }
    let collector = match &plan.server.otlp {
        Some(collector) => Some(collector.clone()),
        None => Collector::from_environment()?,
    };
    let exporting = collector.map(|collector| Exporting::start(&collector, "overseer")).transpose()?;
    let mut builder = ControlPlane::builder().data_directory(&data).served(true);
    builder = builder.tracer(exporting.as_ref().map(|exporting| exporting.tracer.clone()));
    if let Some(address) = plan.server.listen {
        builder = builder.listen(address);
    }
    let plane = builder.start().await.map_err(|error| cannot_start(&data, &error))?;
    let (_control, listener) = ControlSocket::bind(&socket)?;
    let tcp = ControlTcp::bind(&plan.server, &plane).await?;
    let access = open_access(&plane).await?;
    let asked = record::Asked::default().with("version", env!("CARGO_PKG_VERSION"));
    let starting = match access.audit.begin_own("start", "start", asked).await {
        Ok(starting) => Some(starting),
        // Labors wait for a server, and what runs goes on without room too.
        Err(failure) if failure.code == "store.not_writable" => {
            tracing::warn!(%failure, "the start is not in the audit log");
            None
        }
        Err(failure) => return Err(failure),
    };
    let manager = ServiceManager::from_environment();
    let server = Arc::new(Server::new(plane, plan.server.clone(), config_path, data, socket, manager));
    for (fleet, failure) in &faults {
        server.faults.note(fleet, failure);
    }
    if let Some(address) = tcp.as_ref().and_then(ControlTcp::address) {
        let _ = server.control.set(address);
    }
    let (api, health) = Api::new(Arc::clone(&server), Arc::clone(&access)).await?;
    if let Some(address) = plan.server.metrics {
        metrics::serve(&server, address).await?;
    }
    let (hang_up, hung_up) = oneshot::channel();
    let mut listening = tokio::spawn(api.serve(listener, tcp, hung_up));
    let keeping_up = Arc::clone(&access);
    let keeping_up = tokio::spawn(async move { keeping_up.keep_up().await });
    let started = tokio::select! {
        started = server.start_fleets(plan) => started.map(|()| true),
        () = signals.stop() => Ok(false),
    };
    let outcome = match started {
        Ok(true) => {
            if let Some(starting) = starting {
                starting.end("ok").await;
            }
            server.plane.fleets_are_complete();
            health.serving().await;
            say_ready(&server, json);
            fetch(&server, &access, &faults);
            tokio::select! {
                () = condition::follow(health.clone(), server.plane.condition()) => Ok(Exit::Passed),
                () = live(Arc::clone(&server), &access, &mut signals) => Ok(Exit::Passed),
                ended = &mut listening => Err(api_ended(ended)),
            }
        }
        Ok(false) => Ok(Exit::Passed),
        Err(failure) => {
            if let Some(starting) = starting {
                starting.end(&failure.code).await;
            }
            Err(failure)
        }
    };
    tokio::spawn(async move {
        signals.stop().await;
        Target::Stderr.write("ended at once\n");
        std::process::exit(i32::from(Exit::Terminated.code()));
    });
    server.manager.stopping();
    health.not_serving().await;
    server.gate.close();
    let grace = server.config.read().grace;
    if tokio::time::timeout(grace, server.gate.empty()).await.is_err() {
        tracing::warn!("requests were open after the grace; they are cut off");
    }
    // It may have ended by itself.
    let _ = hang_up.send(());
    if !listening.is_finished() && tokio::time::timeout(HANG_UP, &mut listening).await.is_err() {
        listening.abort();
    }
    server.leave_fleets().await;
    keeping_up.abort();
    access.audit.flush(true).await;
    if let Ok(stopped) = access.audit.begin_own(why_stopped(&outcome), "stop", record::Asked::default()).await
    {
        stopped.end("ok").await;
    }
    if tokio::time::timeout(HANG_UP, server.plane.shutdown()).await.is_err() {
        tracing::warn!("connections of labors did not close in time; they are cut off");
    }
    if let Some(exporting) = exporting {
        exporting.end().await;
    }
    outcome
}

/// The tokens and the audit log of a store.
async fn open_access(plane: &ControlPlane) -> Result<Arc<Access>, Failure> {
    let log = AuditLog::open(plane.clone()).await?;
    Ok(Access::new(Tokens::new(plane.clone()), Audit::new(log)))
}

fn why_stopped(outcome: &Result<Exit, Failure>) -> &'static str {
    if outcome.is_ok() { "signal" } else { "fault" }
}

/// Carries out what signals ask for, until one says to stop.
async fn live(server: Arc<Server>, access: &Arc<Access>, signals: &mut Signals) {
    let mut watchdog = notify::watchdog().map(tokio::time::interval);
    loop {
        let alive = async {
            match &mut watchdog {
                Some(interval) => drop(interval.tick().await),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            asked = signals.next() => match asked {
                Asked::Stop => return,
                Asked::Reload => {
                    // Beside this, for it may take as long as fleets take to stop.
                    let (server, access) = (Arc::clone(&server), Arc::clone(access));
                    tokio::spawn(async move { drop(reload(&server, &access, "signal").await) });
                }
            },
            () = alive => server.manager.alive(),
        }
    }
}

/// Fetches what was left for later, beside what runs.
fn fetch(server: &Arc<Server>, access: &Arc<Access>, faults: &[(FleetName, Failure)]) {
    let fetching = faults.iter().filter(|(_, failure)| failure.code == FETCHING);
    let fleets: Vec<FleetName> = fetching.map(|(fleet, _)| fleet.clone()).collect();
    if fleets.is_empty() {
        return;
    }
    let (server, access) = (Arc::clone(server), Arc::clone(access));
    tokio::spawn(async move {
        if let Some(failure) = reload(&server, &access, "start").await {
            fleets.iter().for_each(|fleet| server.faults.note(fleet, &failure));
        }
    });
}

/// Why it did not come to that, if it did not.
async fn reload(server: &Server, access: &Access, why: &'static str) -> Option<Failure> {
    // One that stops starts no fleets any more.
    let Ok(_entered) = server.gate.enter() else { return None };
    let entry = match access.audit.begin_own(why, "Server.Reload", record::Asked::default()).await {
        Ok(entry) => entry,
        Err(failure) => {
            Target::Stderr.write(&format!("nothing changes: {failure}\n"));
            return Some(failure);
        }
    };
    let reloaded = server.reload().await;
    entry.end(reloaded.as_ref().map_or_else(|failure| &*failure.code, |_| "ok")).await;
    match reloaded {
        Ok(changes) if changes.is_empty() => Target::Stderr.write("configuration read: nothing changes\n"),
        Ok(changes) => {
            for change in changes {
                let fleet = if change.fleet.is_empty() { "server" } else { &change.fleet };
                Target::Stderr.write(&format!("configuration read: {fleet}: {}\n", change.text));
            }
        }
        Err(failure) => {
            let text = format!("{:?}", miette::Report::new(failure.clone()));
            Target::Stderr
                .write(&format!("nothing changes, for the configuration is wrong:\n{}\n", text.trim_end()));
            return Some(failure);
        }
    }
    None
}

fn say_ready(server: &Server, json: bool) {
    let version = env!("CARGO_PKG_VERSION");
    if json {
        output::json(&Ready {
            event: "ready",
            pid: std::process::id(),
            version,
            socket: &server.socket,
            data: &server.data,
            control: server.control.get().map(|address| format!("https://{address}")),
            fleets: server.fleets().len(),
        });
    }
    let status = server.status_line();
    let (socket, data) = (server.socket.display(), server.data.display());
    let control = server.control.get().map(|address| format!(", control https://{address}"));
    let control = control.unwrap_or_default();
    Target::Stderr
        .write(&format!("overseer {version} is ready: {status}; socket {socket}, data {data}{control}\n"));
    server.manager.ready(&status);
}

fn api_ended(ended: Result<Result<(), tonic::transport::Error>, tokio::task::JoinError>) -> Failure {
    let why = match ended {
        Ok(Ok(())) => "it stopped by itself".to_owned(),
        Ok(Err(error)) => overseer_protocol::error_text(&error),
        Err(error) => error.to_string(),
    };
    Failure::fault("serve.api", format!("the control API ended: {why}")).help("start the server again")
}

/// What a signal asks for.
enum Asked {
    Stop,
    Reload,
}

/// The signals of a server.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hang_up: Signal,
}

impl Signals {
    fn listen() -> Result<Self, Failure> {
        let listen = || {
            Ok::<_, std::io::Error>(Self {
                interrupt: signal(SignalKind::interrupt())?,
                terminate: signal(SignalKind::terminate())?,
                hang_up: signal(SignalKind::hangup())?,
            })
        };
        listen().map_err(|e| Failure::fault("serve.signals", format!("signals cannot be listened to: {e}")))
    }

    /// Waits for one that says to stop.
    async fn stop(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }

    /// Waits for the next one.
    async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.interrupt.recv() => Asked::Stop,
            _ = self.terminate.recv() => Asked::Stop,
            _ = self.hang_up.recv() => Asked::Reload,
        }
    }
}
