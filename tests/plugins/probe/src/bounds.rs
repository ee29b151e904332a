//! What a plugin tries that goes too far: to use all there is, and to look at what is not its own.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};

use overseer_plugin::PluginError;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags};

const MIB: usize = 1 << 20;
/// Where nothing stops it, it stops by itself before the machine does.
const MOST_MIB: usize = 1024;
const MOST_FILES: usize = 200_000;
const MOST_PROCESSES: usize = 400;

/// Allocates without end.
pub(crate) fn allocate() -> Result<Vec<u8>, PluginError> {
    let mut all = Vec::new();
    for _ in 0..MOST_MIB {
        // Not zeros, which the kernel has for nothing.
        all.push(vec![b'a'; MIB]);
    }
    Err(PluginError::failed(format!("nobody stopped it at {} MiB", std::hint::black_box(&all).len())))
}

/// Opens every descriptor there is, and closes them again: how many, and the error number at the end.
pub(crate) fn open_all() -> (usize, Option<i32>) {
    let mut all = Vec::new();
    while all.len() < MOST_FILES {
        match File::open("/dev/null") {
            Ok(file) => all.push(file),
            Err(error) => return (all.len(), error.raw_os_error()),
        }
    }
    (all.len(), None)
}

/// Opens every descriptor there is, and keeps them: what the last one was refused for.
pub(crate) fn hold_all() -> io::Error {
    for _ in 0..MOST_FILES {
        match File::open("/dev/null") {
            Ok(file) => std::mem::forget(file),
            Err(error) => return error,
        }
    }
    io::Error::other("nobody stopped it")
}

/// Starts processes without end, and leaves them: how many, and the error number at the end.
pub(crate) fn start_all() -> (usize, Option<i32>) {
    for number in 0..MOST_PROCESSES {
        let mut sleep = Command::new("sleep");
        if let Err(error) = sleep.arg("3600").stdin(Stdio::null()).stdout(Stdio::null()).spawn() {
            return (number, error.raw_os_error());
        }
    }
    (MOST_PROCESSES, None)
}

/// Writes zeros into a file: how many bytes it has then.
pub(crate) fn write(path: &Path, bytes: usize) -> io::Result<u64> {
    std::fs::write(path, vec![0; bytes])?;
    Ok(path.metadata()?.len())
}

/// Who this is: user, group, other groups, and whether it can become more.
pub(crate) fn identity() -> io::Result<(u32, u32, usize, bool)> {
    let groups = rustix::process::getgroups()?.len();
    let (user, group) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    Ok((user, group, groups, rustix::thread::no_new_privs()?))
}

/// Tries to open files and to list directories: why not, for each.
pub(crate) fn look(paths: Vec<String>) -> BTreeMap<String, Option<String>> {
    let look = |path: String| {
        let looked = match Path::new(&path).is_dir() {
            true => std::fs::read_dir(&path).map(drop),
            false => File::open(&path).map(drop),
        };
        (path, looked.err().map(|error| error.to_string()))
    };
    paths.into_iter().map(look).collect()
}

/// Tries to take a descriptor of another process, as who may debug it can: why not.
pub(crate) fn take_descriptor(pid: i32) -> Option<String> {
    let process = Pid::from_raw(pid)?;
    let take = || -> io::Result<()> {
        let process = rustix::process::pidfd_open(process, PidfdFlags::empty())?;
        rustix::process::pidfd_getfd(&process, 2, PidfdGetfdFlags::empty())?;
        Ok(())
    };
    take().err().map(|error| error.to_string())
}

/// The descriptors of this process, and of a child of it: what each leads to.
pub(crate) fn descriptors() -> io::Result<(BTreeMap<u32, String>, String)> {
    let mut own = BTreeMap::new();
    for entry in std::fs::read_dir("/proc/self/fd")? {
        let path = entry?.path();
        let number = path.file_name().and_then(|name| name.to_str()?.parse().ok());
        if let (Some(number), Ok(to)) = (number, std::fs::read_link(&path)) {
            own.insert(number, to.display().to_string());
        }
    }
    let listed = Command::new("ls").args(["-l", "/proc/self/fd"]).output()?;
    Ok((own, String::from_utf8_lossy(&listed.stdout).into_owned()))
}
