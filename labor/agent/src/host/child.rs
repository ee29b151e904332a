use std::ffi::OsString;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode};

use rustix::process::Signal;

use super::isolation::Limits;
use super::{loader, run};

/// The re-executed child's `main`, with the arguments after `plugin-host`: `load LIBRARY`, `run
/// CONCURRENCY PROGRAM ARGUMENTS..`, `serve PROGRAM ARGUMENTS..` or `supervise AGENT_PID PROGRAM
/// ARGUMENTS..`, and before that `confined LIMITS` where there is something to apply first. Expects the
/// agent's socket as standard input.
pub fn plugin_host_main(args: &[OsString]) -> ExitCode {
    let socket = match overseer_plugin::host::take_socket() {
        Ok(socket) => socket,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(70);
        }
    };
    let (limited, args) = match args {
        [mode, limits, rest @ ..] if mode == "confined" => (Limits::apply(limits), rest),
        _ => (Ok(None), args),
    };
    match (limited, args) {
        (Err(why), [mode, ..]) if mode == "supervise" => not_executed(&socket, &why),
        (Err(why), _) => overseer_plugin::host::refuse(&socket, &why),
        (Ok(_), [mode, library]) if mode == "load" => match loader::load(Path::new(library)) {
            Ok(guest) => overseer_plugin::host::run(guest, socket),
            Err(error) => overseer_plugin::host::refuse(&socket, &error.to_string()),
        },
        (Ok(kills), [mode, concurrency, program, args @ ..]) if mode == "run" => {
            overseer_plugin::host::run(run::guest(concurrency, program, args, kills), socket)
        }
        (Ok(_), [mode, program, args @ ..]) if mode == "serve" => serve(socket, program, args),
        (Ok(_), [mode, agent, program, args @ ..]) if mode == "supervise" => {
            not_executed(&socket, &supervise(agent, program, args))
        }
        _ => {
            eprintln!("this is for the agent to start; see `labor --help` for what people start");
            ExitCode::from(64)
        }
    }
}

/// Says to the agent why the program to be supervised does not run.
fn not_executed(mut socket: &UnixStream, why: &str) -> ExitCode {
    let _ = socket.write_all(why.as_bytes());
    ExitCode::from(127)
}

/// Becomes a program that calls `overseer_plugin::serve`, with the socket where that looks for it.
fn serve(socket: UnixStream, program: &OsString, args: &[OsString]) -> ExitCode {
    let input = match socket.try_clone() {
        Ok(input) => input,
        Err(error) => return overseer_plugin::host::refuse(&socket, &error.to_string()),
    };
    let error = Command::new(program).args(args).stdin(OwnedFd::from(input)).exec();
    overseer_plugin::host::refuse(&socket, &unexecutable(program, &error))
}

/// Becomes the program; returns only what kept it from that. The socket closes by that itself.
fn supervise(agent: &OsString, program: &OsString, args: &[OsString]) -> String {
    // A program that does not know of the agent would not notice that it is gone.
    if let Err(error) = rustix::process::set_parent_process_death_signal(Some(Signal::KILL)) {
        return format!("{} cannot be bound to its agent: {error}", program.display());
    }
    let parent = rustix::process::getppid().map_or(0, |parent| parent.as_raw_pid());
    if agent.to_str() != Some(parent.to_string().as_str()) {
        return "the agent is gone".into();
    }
    let error = Command::new(program).args(args).exec();
    unexecutable(program, &error)
}

fn unexecutable(program: &OsString, error: &io::Error) -> String {
    format!("cannot execute {}: {error}; check the release's manifest and target", program.display())
}
