use std::ffi::OsString;
use std::process::ExitCode;

use crate::host::plugin_host_main;

/// Takes over when this process was started as one of the agent's own, by `PROGRAM __overseer
/// KIND ..`; must be the first thing that `main` does, before it reads standard input or starts a
/// thread. Gives the exit code to end with, or none in a process that people started.
pub fn reexec() -> Option<ExitCode> {
    let args: Vec<OsString> = std::env::args_os().skip(1).take(2).collect();
    match args.as_slice() {
        [mark, kind] if mark == "__overseer" && kind == "plugin-host" => {
            let rest: Vec<OsString> = std::env::args_os().skip(3).collect();
            Some(plugin_host_main(&rest))
        }
        // Nobody types this one, so there are no arguments to read but where the document is.
        [mark, kind] if mark == "__overseer" && kind == "labor" => {
            Some(crate::args::main_of_child(&crate::document::Source::Stdin, None))
        }
        _ => None,
    }
}
