//! A plugin that does, on request, everything that a plugin can do wrong. For tests.
//!
//! `PROBE_START` in the environment chooses how it starts: `panic`, `fail`, `exit`, `abort`,
//! `hang`, `allocate` without end, `open_all` descriptors and fail, or `loud`, which prints a mebibyte first. `PROBE_HEALTH` chooses how it is: `ill`,
//! `panic` or `hang`. `PROBE_STOP` chooses how it stops: `hang`, `panic` or `exit`. With `PROBE_CALLS`
//! set to `fail` every call but `version` fails; after so many milliseconds as `PROBE_DIES` says the
//! process aborts; what `PROBE_LEAVES` says it leaves to the release that follows.

mod bounds;
mod faults;

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use overseer_plugin::codec::{decode, encode};
use overseer_plugin::{CallContext, Plugin, PluginError, StartContext};

/// The plugin.
#[derive(Debug)]
pub struct Probe {
    context: StartContext,
    inherited: Option<String>,
}

overseer_plugin::export_plugin!(Probe);

impl Plugin for Probe {
    const CONCURRENCY: u32 = 4;

    fn start(context: &StartContext) -> Result<Self, PluginError> {
        match wanted("PROBE_START").as_str() {
            "panic" => panic!("no bolts"),
            "fail" => return Err(PluginError::failed("no bolts; order some")),
            "exit" => std::process::exit(3),
            "abort" => std::process::abort(),
            "hang" => faults::hang(),
            "allocate" => drop(bounds::allocate()?),
            "open_all" => return Err(bounds::hold_all().into()),
            "loud" => print(1024 * 1024)?,
            _ => {}
        }
        if let Ok(after) = wanted("PROBE_DIES").parse() {
            faults::die_after(Duration::from_millis(after));
        }
        context.event("started", &std::process::id());
        let inherited = context.inherited()?.map(|left| String::from_utf8_lossy(&left).into_owned());
        Ok(Self { context: context.clone(), inherited })
    }

    fn call(&self, context: &CallContext, method: &str, payload: &[u8]) -> Result<Vec<u8>, PluginError> {
        match method {
            "version" => return encode(&wanted("PROBE_VERSION")),
            _ if wanted("PROBE_CALLS") == "fail" => return Err(PluginError::failed("out of bolts")),
            "inherited" => return encode(&self.inherited),
            "echo" => return Ok(payload.to_vec()),
            "sleep" => std::thread::sleep(Duration::from_millis(decode(payload)?)),
            "wait_file" => {
                let path: String = decode(payload)?;
                context.event("waits", &());
                while !Path::new(&path).exists() {
                    std::thread::sleep(Duration::from_millis(10));
                }
            }
            "mark" => {
                let (path, ms): (String, u64) = decode(payload)?;
                context.event("marks", &path);
                std::thread::sleep(Duration::from_millis(ms));
                faults::mark(Path::new(&path))?;
            }
            "pid" => return encode(&std::process::id()),
            "spin" => {
                context.event("waits", &());
                faults::spin()
            }
            "wait_cancel" => {
                context.event("waits", &());
                return match context.wait_cancelled(Duration::from_millis(decode(payload)?)) {
                    true => Err(PluginError::cancelled()),
                    false => Ok(Vec::new()),
                };
            }
            "on_cancel" => {
                let (tell, told) = std::sync::mpsc::channel();
                context.on_cancel(move || tell.send("told").unwrap_or(()));
                context.event("waits", &());
                return encode(told.recv_timeout(Duration::from_secs(20)).unwrap_or("not told"));
            }
            "panic" => panic!("{}", decode::<String>(payload)?),
            "panic_apart" => {
                let apart = std::thread::spawn(|| panic!("in a thread of its own"));
                return encode(&apart.join().is_err());
            }
            "fail" => return Err(PluginError::failed(decode::<String>(payload)?)),
            "abort" => std::process::abort(),
            "segfault" => faults::signal_self(rustix::process::Signal::SEGV),
            "exit" => std::process::exit(decode(payload)?),
            "fork_and_hang" => return encode(&faults::leave_a_child(false)?),
            "hidden" => return encode(&faults::leave_a_hidden_child()?),
            "daemon" => return encode(&faults::leave_a_child(true)?),
            "close_pipes" => faults::close_pipes()?,
            "babble" => faults::babble()?,
            "big" => return Ok(vec![b'x'; decode(payload)?]),
            "print" => print(decode(payload)?)?,
            "log" => {
                let bytes: usize = decode(payload)?;
                context.log("step", &vec![b'l'; bytes]);
                return encode(&bytes);
            }
            "events" => {
                for number in 0..decode::<u64>(payload)? {
                    context.event("tick", &number);
                }
            }
            "tick" => context.event("tick", &decode::<u64>(payload)?),
            "tick_alone" => {
                let context = self.context.clone();
                std::thread::spawn(move || {
                    // Nothing of this call travels any more, which would take it along.
                    std::thread::sleep(Duration::from_millis(20));
                    context.event("tick", &());
                });
            }
            "say" => {
                context.progress(1, 2, "steps");
                context.metric("heat", 36.6);
                context.line("well");
                context.event("large", &"x".repeat(100_000));
            }
            "env" => {
                let all: std::collections::BTreeMap<_, _> = std::env::vars().collect();
                return encode(&all);
            }
            "trace" => return encode(&context.trace()),
            "directory" => return encode(&(context.directory(), std::env::current_dir()?)),
            "stdin" => return encode(&std::io::read_to_string(std::io::stdin())?),
            "allocate" => return bounds::allocate(),
            "open_all" => return encode(&bounds::open_all()),
            "start_all" => return encode(&bounds::start_all()),
            "write" => {
                let (path, bytes): (String, usize) = decode(payload)?;
                return encode(&bounds::write(Path::new(&path), bytes)?);
            }
            "identity" => return encode(&bounds::identity()?),
            "look" => return encode(&bounds::look(decode(payload)?)),
            "take_descriptor" => return encode(&bounds::take_descriptor(decode(payload)?)),
            "descriptors" => return encode(&bounds::descriptors()?),
            "sockets" => return encode(&faults::sockets_of_a_child()?),
            "put_blob" => {
                let blob = context.put_blob(Path::new(&decode::<String>(payload)?))?;
                return encode(&(blob.digest, blob.size));
            }
            "get_blob" => {
                let (digest, to): (String, String) = decode(payload)?;
                return encode(&context.get_blob(&digest, Path::new(&to))?);
            }
            other => return Err(PluginError::no_method(format!("the probe has no {other:?}"))),
        }
        Ok(Vec::new())
    }

    fn health(&self) -> Result<(), String> {
        match wanted("PROBE_HEALTH").as_str() {
            "ill" => Err("the bolts are loose".into()),
            "panic" => panic!("no pulse"),
            "hang" => faults::hang(),
            _ => Ok(()),
        }
    }

    fn stop(&self) {
        let leaves = wanted("PROBE_LEAVES");
        if !leaves.is_empty()
            && let Err(error) = self.context.leave(leaves.as_bytes())
        {
            println!("{error}");
        }
        match wanted("PROBE_STOP").as_str() {
            "panic" => panic!("cannot stop"),
            "exit" => std::process::exit(4),
            "hang" => faults::hang(),
            _ => println!("stopped"),
        }
    }
}

fn wanted(variable: &str) -> String {
    std::env::var(variable).unwrap_or_default()
}

fn print(bytes: usize) -> Result<(), PluginError> {
    let mut out = std::io::stdout().lock();
    out.write_all(&vec![b'p'; bytes])?;
    Ok(out.flush()?)
}
