use std::ffi::OsString;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode};

use rustix::process::Signal;

use super::{loader, run};

/// The re-executed child's `main`, with the arguments after `plugin-host`: `load LIBRARY`, `run
/// CONCURRENCY PROGRAM ARGUMENTS..` or `supervise AGENT_PID PROGRAM ARGUMENTS..`. Expects the agent's socket as standard input.
pub fn plugin_host_main(args: &[OsString]) -> ExitCode {
    let socket = match overseer_plugin::host::take_socket() {
        Ok(socket) => socket,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(70);
        }
    };
    match args {
        [mode, library] if mode == "load" => match loader::load(Path::new(library)) {
            Ok(guest) => overseer_plugin::host::run(guest, socket),
            Err(error) => overseer_plugin::host::refuse(&socket, &error.to_string()),
        },
        [mode, concurrency, program, args @ ..] if mode == "run" => {
            overseer_plugin::host::run(run::guest(concurrency, program, args), socket)
        }
        [mode, agent, program, args @ ..] if mode == "supervise" => {
            let why = supervise(agent, program, args);
            let _ = (&socket).write_all(why.as_bytes());
            ExitCode::from(127)
        }
        _ => {
            eprintln!("this is for the agent to start; see `labor --help` for what people start");
            ExitCode::from(64)
        }
    }
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
    format!("cannot execute {}: {error}; check the release's manifest and target", program.display())
}
