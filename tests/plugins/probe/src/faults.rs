//! Faults, made without `unsafe`, so that the rule on it has no exception here.

use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::net::Shutdown;
use rustix::process::{PidfdFlags, PidfdGetfdFlags, Signal};

/// Never returns, and takes no time of the processor.
pub(crate) fn hang() -> ! {
    loop {
        std::thread::park_timeout(Duration::from_secs(3600));
    }
}

/// Never returns, and takes all the time of a processor.
pub(crate) fn spin() -> ! {
    loop {
        std::hint::spin_loop();
    }
}

/// Leaves a trace that outlives this process: a line more in a file for each time that it ran.
pub(crate) fn mark(path: &std::path::Path) -> io::Result<()> {
    let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path)?;
    file.write_all(b"ran\n")
}

/// Aborts this process after that time, whatever it does then.
pub(crate) fn die_after(time: Duration) {
    std::thread::spawn(move || {
        std::thread::sleep(time);
        std::process::abort()
    });
}

/// Ends this process by a signal as if a fault had raised it.
pub(crate) fn signal_self(signal: Signal) -> ! {
    loop {
        // Rust's own handler takes the first one, and lets the next one through.
        let _ = rustix::process::kill_process(rustix::process::getpid(), signal);
    }
}

/// Starts a child that holds standard output open for an hour; gives its process id. A daemon
/// leaves the process group and the session too.
pub(crate) fn leave_a_child(daemon: bool) -> io::Result<u32> {
    let mut command = if daemon {
        let mut command = Command::new("setsid");
        command.arg("sleep");
        command
    } else {
        Command::new("sleep")
    };
    command.arg("3600").stdin(Stdio::null()).spawn().map(|child| child.id())
}

/// The same for one that has another parent, session and group, and nothing in its environment;
/// gives its process id.
pub(crate) fn leave_a_hidden_child() -> io::Result<u32> {
    let script = "sleep 3600 >/dev/null 2>&1 & echo $!";
    let said =
        Command::new("env").args(["-i", "setsid", "sh", "-c", script]).stdin(Stdio::null()).output()?;
    let pid = String::from_utf8_lossy(&said.stdout).trim().parse();
    pid.map_err(|_| io::Error::other(String::from_utf8_lossy(&said.stderr).into_owned()))
}

/// Cuts every socket and pipe of this process, as code does that closes all descriptors it finds.
pub(crate) fn close_pipes() -> io::Result<()> {
    for socket in sockets()? {
        rustix::net::shutdown(&socket, Shutdown::Both)?;
    }
    let null = std::fs::File::options().write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)?;
    Ok(())
}

/// Writes nonsense into every socket of this process.
pub(crate) fn babble() -> io::Result<()> {
    for socket in sockets()? {
        rustix::io::write(&socket, &[0xff; 64])?;
    }
    hang()
}

/// How many sockets a child of this process inherits.
pub(crate) fn sockets_of_a_child() -> io::Result<usize> {
    let listed = Command::new("ls").args(["-l", "/proc/self/fd"]).output()?;
    Ok(String::from_utf8_lossy(&listed.stdout).matches("socket:").count())
}

fn sockets() -> io::Result<Vec<OwnedFd>> {
    let me = rustix::process::pidfd_open(rustix::process::getpid(), PidfdFlags::empty())?;
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc/self/fd")? {
        let path = entry?.path();
        let is_socket = std::fs::read_link(&path).is_ok_and(|to| to.to_string_lossy().starts_with("socket:"));
        let number = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse().ok());
        if let (true, Some(number)) = (is_socket, number) {
            found.push(rustix::process::pidfd_getfd(&me, number, PidfdGetfdFlags::empty())?);
        }
    }
    Ok(found)
}
