//! What is looked for, and how.

use std::fs;
use std::net::{TcpListener, TcpStream, ToSocketAddrs};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::{Resource, getrlimit};

use super::{Check, Status};
use crate::release::size;
use crate::serve::check::isolation::in_the_file;

/// How long another machine may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// Open files that a build with some labors may need.
const FILES: u64 = 1024;
/// Bytes below which builds will soon fill the disk.
const SPACE: u64 = 1 << 30;

/// Every check, in the order in which they are shown.
pub(super) fn all() -> Vec<Check> {
    vec![
        git(),
        shell(),
        tool("cc", &["cc", "gcc", "clang"], "gcc", "C builds"),
        tool("make", &["make", "gmake"], "make", "Makefiles"),
        cache(),
        releases(),
        temporary(),
        sockets(),
        tcp(),
        open_files(),
        root(),
        cgroups(),
        limits(),
        docker(),
        systemd(),
        kvm(),
    ]
}

/// The file of a program on the `PATH`.
fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let is_program = |file: &PathBuf| {
        fs::metadata(file).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
    };
    std::env::split_paths(&path).map(|directory| directory.join(program)).find(is_program)
}

fn git() -> Check {
    const FOR: &str = "every build";
    let output = Command::new("git").arg("--version").stdin(Stdio::null()).output();
    match output {
        Ok(output) if output.status.success() => {
            let text = String::from_utf8_lossy(&output.stdout);
            Check::ok("git", FOR, text.trim().trim_start_matches("git version ").to_owned())
        }
        _ => Check::absent(
            "git",
            Status::Missing,
            FOR,
            "not on the PATH",
            "install git (`apt-get install git`)",
        ),
    }
}

fn shell() -> Check {
    const FOR: &str = "the steps of a job";
    let shell = Path::new("/bin/sh");
    if shell.exists() {
        Check::ok("sh", FOR, shell.display().to_string())
    } else {
        Check::absent("sh", Status::Missing, FOR, "no /bin/sh", "install a POSIX shell as /bin/sh")
    }
}

fn tool(name: &'static str, programs: &[&str], package: &str, needed_for: &'static str) -> Check {
    match programs.iter().find_map(|program| find(program)) {
        Some(path) => Check::ok(name, needed_for, path.display().to_string()),
        None => {
            let advice = format!("install it if your repositories need it (`apt-get install {package}`)");
            Check::absent(name, Status::Info, needed_for, "not on the PATH", advice)
        }
    }
}

fn cache() -> Check {
    const FOR: &str = "checkouts, caches";
    let directory = match crate::build::cache_directory() {
        Ok(directory) => directory,
        Err(failure) => {
            let advice = failure.help.unwrap_or_default();
            return Check::absent("cache", Status::Missing, FOR, "no place", advice);
        }
    };
    writable("cache", &directory, FOR, "set OVERSEER_CACHE to a directory that can be written")
}

fn releases() -> Check {
    const FOR: &str = "releases that travel once";
    match overseer::labor_cache() {
        Some(directory) => {
            let advice =
                "set OVERSEER_CACHE to a directory that can be written, else labors fetch releases whole";
            let check = writable("cache of labors", &directory, FOR, advice);
            // Labors do without.
            let status = if check.status == Status::Missing { Status::Info } else { check.status };
            Check { status, ..check }
        }
        None => Check::absent("cache of labors", Status::Info, FOR, "no place", "set OVERSEER_CACHE"),
    }
}

fn temporary() -> Check {
    writable(
        "temporary files",
        &std::env::temp_dir(),
        "the state of a build",
        "set TMPDIR to a directory that can be written",
    )
}

/// Whether files can be made there, and how much room there is.
fn writable(name: &'static str, directory: &Path, needed_for: &'static str, advice: &str) -> Check {
    // What is not there yet is made by the first build.
    let there = directory.ancestors().find(|path| path.is_dir()).unwrap_or(Path::new("/"));
    if let Err(error) = tempfile::tempfile_in(there) {
        let found = format!("{}: {error}", there.display());
        return Check::absent(name, Status::Missing, needed_for, found, advice);
    }
    let free =
        rustix::fs::statvfs(there).map(|fs| fs.f_bavail.saturating_mul(fs.f_frsize)).unwrap_or(u64::MAX);
    let found = format!("{}, {} free", directory.display(), size(free));
    if free < SPACE {
        return Check::absent(
            name,
            Status::Info,
            needed_for,
            found,
            format!("make room there; {} are soon full", size(free)),
        );
    }
    Check::ok(name, needed_for, found)
}

fn sockets() -> Check {
    const FOR: &str = "labors here";
    let listen = || {
        let directory = tempfile::tempdir()?;
        UnixListener::bind(directory.path().join("s")).map(drop)
    };
    match listen() {
        Ok(()) => Check::ok("unix sockets", FOR, "yes"),
        Err(error) => Check::absent(
            "unix sockets",
            Status::Missing,
            FOR,
            error.to_string(),
            "set TMPDIR to a local directory with a short path",
        ),
    }
}

fn tcp() -> Check {
    const FOR: &str = "labors elsewhere";
    match TcpListener::bind(("127.0.0.1", 0)) {
        Ok(_) => Check::ok("tcp ports", FOR, "yes, on loopback"),
        Err(error) => {
            Check::absent("tcp ports", Status::Info, FOR, error.to_string(), "allow listening on loopback")
        }
    }
}

fn open_files() -> Check {
    const FOR: &str = "many labors";
    let limit = getrlimit(Resource::Nofile);
    let said = |limit: Option<u64>| limit.map_or_else(|| "unlimited".to_owned(), |n| n.to_string());
    let found = match limit.current == limit.maximum {
        true => said(limit.current),
        false => format!("{}, up to {}", said(limit.current), said(limit.maximum)),
    };
    // A server raises the first one to the second by itself, a build does not.
    if limit.maximum.is_some_and(|n| n < FILES) {
        let advice = format!("raise LimitNOFILE of the service, or the hard limit, to {FILES} at least");
        return Check::absent("open files", Status::Info, FOR, found, advice);
    }
    if limit.current.is_some_and(|n| n < FILES) {
        return Check::absent("open files", Status::Info, FOR, found, format!("raise it: ulimit -n {FILES}"));
    }
    Check::ok("open files", FOR, found)
}

fn root() -> Check {
    const FOR: &str = "cgroups, users, networks";
    if rustix::process::geteuid().is_root() {
        return Check::ok("root", FOR, "yes");
    }
    let advice =
        "limits of memory and CPU, users of plugin hosts, and networks of workloads need root; builds do not";
    Check::absent("root", Status::Info, FOR, "no", advice)
}

fn cgroups() -> Check {
    const FOR: &str = "limits of workloads";
    let v2 = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap_or_default();
    let v2 = v2.trim();
    if !v2.is_empty() {
        return Check::ok("cgroups", FOR, format!("v2: {v2}"));
    }
    let controllers = ["cpu", "cpuset", "memory", "pids"];
    let there =
        controllers.into_iter().filter(|c| Path::new("/sys/fs/cgroup").join(c).join("tasks").exists());
    let there: Vec<_> = there.collect();
    if there.is_empty() {
        return Check::absent(
            "cgroups",
            Status::Info,
            FOR,
            "no controllers",
            "mount /sys/fs/cgroup to limit workloads",
        );
    }
    Check::ok("cgroups", FOR, format!("v1: {}", there.join(" ")))
}

/// Of memory, processors and processes of plugin hosts; tried, for who may make a group is seen by that.
fn limits() -> Check {
    let is_root = rustix::process::geteuid().is_root();
    limits_of(is_root, overseer_labor::host::try_groups())
}

/// All of an isolation that cannot be had, and why.
fn limits_of(is_root: bool, tried: Vec<(&'static str, Result<(), String>)>) -> Check {
    const FOR: &str = "isolation";
    let tried = tried.into_iter().map(|(key, had)| (in_the_file(key), had));
    let user = if is_root { Ok(()) } else { Err("only root can run hosts as another user".to_owned()) };
    let mut found = Vec::new();
    // What is missing for the same reason is said together.
    let mut missing: Vec<(String, Vec<&str>)> = Vec::new();
    for (key, had) in [("user", user)].into_iter().chain(tried) {
        match had {
            Ok(()) => found.push(key),
            Err(why) => match missing.iter_mut().find(|(known, _)| *known == why) {
                Some((_, keys)) => keys.push(key),
                None => missing.push((why, vec![key])),
            },
        }
    }
    let found = if found.is_empty() { "none".to_owned() } else { found.join(" ") };
    if missing.is_empty() {
        return Check::ok("limits of hosts", FOR, found);
    }
    let said: Vec<_> = missing.iter().map(|(why, keys)| format!("no {}: {why}", keys.join(", "))).collect();
    Check::absent("limits of hosts", Status::Info, FOR, found, said.join("; "))
}

fn docker() -> Check {
    const FOR: &str = "container workloads";
    let host = std::env::var("DOCKER_HOST").ok().filter(|host| !host.is_empty());
    let host = host.unwrap_or_else(|| "unix:///var/run/docker.sock".to_owned());
    let absent = |found: String, advice: &str| Check::absent("docker", Status::Info, FOR, found, advice);
    match reach(&host) {
        Some(Ok(())) => Check::ok("docker", FOR, host),
        Some(Err(error)) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            absent(format!("no access to {host}"), "join the group docker, or run as root")
        }
        Some(Err(_)) => absent(format!("nobody at {host}"), "start dockerd to run containers"),
        None => absent(format!("DOCKER_HOST={host} is not looked at"), "use unix://PATH or tcp://HOST:PORT"),
    }
}

/// Connects, where the address is of a kind that can be tried.
fn reach(host: &str) -> Option<std::io::Result<()>> {
    if let Some(path) = host.strip_prefix("unix://") {
        return Some(std::os::unix::net::UnixStream::connect(path).map(drop));
    }
    let address = host.strip_prefix("tcp://")?;
    let connect = || {
        let mut last = std::io::Error::from(std::io::ErrorKind::NotFound);
        for address in address.to_socket_addrs()? {
            match TcpStream::connect_timeout(&address, PATIENCE) {
                Ok(_) => return Ok(()),
                Err(error) => last = error,
            }
        }
        Err(last)
    };
    Some(connect())
}

fn systemd() -> Check {
    const FOR: &str = "unit workloads";
    if Path::new("/run/systemd/system").is_dir() {
        return Check::ok("systemd", FOR, "runs");
    }
    Check::absent("systemd", Status::Info, FOR, "does not run", "boot with systemd to run units")
}

fn kvm() -> Check {
    const FOR: &str = "fast VMs";
    let device = "/dev/kvm";
    match fs::OpenOptions::new().read(true).write(true).open(device) {
        Ok(_) => Check::ok("kvm", FOR, device),
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            Check::absent("kvm", Status::Info, FOR, "no access", "join the group kvm")
        }
        Err(_) => Check::absent(
            "kvm",
            Status::Info,
            FOR,
            "no /dev/kvm",
            "enable virtualisation; VMs are slow without",
        ),
    }
}

#[cfg(test)]
mod tests {
    use rustix::net::{AddressFamily, SocketType, bind, getsockname, socket};

    use super::*;

    #[test]
    fn a_docker_host_is_tried() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("docker.sock");
        let unix = format!("unix://{}", path.display());
        assert!(reach(&unix).unwrap().is_err());
        let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        assert!(reach(&unix).unwrap().is_ok());
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let tcp = format!("tcp://{}", listener.local_addr().unwrap());
        assert!(reach(&tcp).unwrap().is_ok());
        // Taken, so that nobody else gets it, and nobody listens.
        let any = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
        let taken = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        bind(&taken, &any).unwrap();
        let address = std::net::SocketAddr::try_from(getsockname(&taken).unwrap()).unwrap();
        assert!(reach(&format!("tcp://{address}")).unwrap().is_err());
        assert!(reach("ssh://somewhere").is_none());
    }

    #[test]
    fn a_directory_that_is_not_there_yet_is_judged_by_the_one_above() {
        let dir = tempfile::tempdir().unwrap();
        let check = writable("cache", &dir.path().join("a/b"), "x", "advice");
        assert_ne!(check.status, Status::Missing);
        assert!(!dir.path().join("a").exists());
    }

    #[test]
    fn all_of_an_isolation_that_cannot_be_had_is_named() {
        let no = |key, why: &str| (key, Err(why.to_owned()));
        let tried = vec![no("memory", "no groups"), no("cpu_milli", "no groups"), no("processes", "no pids")];
        let check = limits_of(false, tried.clone());
        let advice = check.advice.unwrap();
        assert_eq!((check.status, &*check.found), (Status::Info, "none"));
        assert_eq!(
            advice,
            "no user: only root can run hosts as another user; no memory, cpu: no groups; no processes: no pids"
        );
        let check = limits_of(true, tried);
        assert_eq!((&*check.found, check.advice.unwrap().contains("no user")), ("user", false));
        let all = limits_of(true, vec![("memory", Ok(())), ("cpu_milli", Ok(())), ("processes", Ok(()))]);
        assert_eq!((all.status, &*all.found), (Status::Ok, "user memory cpu processes"));
    }

    #[test]
    fn every_thing_that_is_not_there_has_advice() {
        for check in all() {
            assert_eq!(check.status == Status::Ok, check.advice.is_none(), "{check:?}");
        }
    }
}
