//! The control API's socket: for its owner alone, and of one server at a time.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use tokio::net::UnixListener;

use crate::failure::Failure;
use crate::opening::STICKY;

/// A socket that this process listens on. Removed when dropped.
#[derive(Debug)]
pub(super) struct ControlSocket {
    path: PathBuf,
    /// Who holds its lock owns the path, so what a server that was killed has left may be
    /// replaced.
    _lock: File,
}

impl ControlSocket {
    /// Listens at a path, in a directory that nobody else may enter, with mode 0600.
    ///
    /// # Errors
    /// `serve.running` where another server has it; `serve.socket`.
    pub(super) fn bind(path: &Path) -> Result<(Self, UnixListener), Failure> {
        let failed = |error: io::Error| {
            let message = format!("{} cannot be listened on: {error}", path.display());
            Failure::fault("serve.socket", message)
                .help("check the permissions there, or choose another `socket` in [server]")
        };
        let directory = path.parent().unwrap_or(Path::new("/"));
        private_directory(path, directory)?;
        let lock_path = path.with_extension("lock");
        let lock = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&lock_path);
        let lock = lock.map_err(failed)?;
        if let Err(error) = flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            if error != rustix::io::Errno::WOULDBLOCK {
                return Err(failed(error.into()));
            }
            let message = format!("another server listens on {}", path.display());
            return Err(Failure::input("serve.running", message)
                .help("stop that one, see `overseer status`, or choose another `socket` in [server]"));
        }
        match fs::symlink_metadata(path) {
            Ok(found) if !found.file_type().is_socket() => return Err(in_the_way(path)),
            // Of a server that was killed: its lock is free.
            Ok(_) => fs::remove_file(path).map_err(failed)?,
            Err(_) => {}
        }
        let listener = UnixListener::bind(path).map_err(failed)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(failed)?;
        Ok((Self { path: path.to_owned(), _lock: lock }, listener))
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        // The next server replaces what cannot be removed.
        let _ = fs::remove_file(&self.path);
    }
}

/// Says what keeps a server from listening at a path, and changes nothing.
///
/// # Errors
/// As [`ControlSocket::bind`], but for `serve.running`.
pub(super) fn check(path: &Path) -> Result<(), Failure> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    match fs::metadata(directory) {
        Ok(found) => private(path, directory, &found)?,
        // It would be made, in the nearest one that is there.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let there = directory.ancestors().find(|above| above.exists()).unwrap_or(Path::new("/"));
            let access = rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK;
            rustix::fs::access(there, access).map_err(|e| unusable(directory, &e.into()))?;
        }
        Err(error) => return Err(unusable(directory, &error)),
    }
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => Err(in_the_way(path)),
        _ => Ok(()),
    }
}

/// Makes the directory of a socket, or checks that nobody else may enter it.
fn private_directory(socket: &Path, directory: &Path) -> Result<(), Failure> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(directory);
    let found = made.and_then(|()| fs::metadata(directory)).map_err(|error| unusable(directory, &error))?;
    private(socket, directory, &found)
}

/// Whether nobody else may enter a directory.
fn private(socket: &Path, directory: &Path, found: &fs::Metadata) -> Result<(), Failure> {
    let shown = directory.display();
    let foreign = found.uid() != rustix::process::geteuid().as_raw();
    let open = found.mode() & 0o077 != 0;
    let what = match (foreign, open) {
        (false, false) if found.is_dir() => return Ok(()),
        (false, false) => "is no directory".to_owned(),
        (true, _) => format!("belongs to user {}", found.uid()),
        (false, true) => format!("may be entered by others (mode {:03o})", found.mode() & 0o777),
    };
    let own = directory.join("overseer").join(socket.file_name().unwrap_or("control.sock".as_ref()));
    let own = format!("put the socket in a directory of its own: socket = {own:?} in [server]");
    let help = match (foreign, open) {
        (true, false) => format!("run as its owner, or {own}"),
        (false, true) if is_for_sockets(socket, directory, found) => {
            format!("run `chmod 700 {shown}`, or {own}")
        }
        _ => own,
    };
    Err(Failure::input("serve.socket_directory", format!("{shown} {what}")).help(help))
}

/// Whether a directory is there for a server's socket and nothing else, so that closing it to
/// others takes nothing away from anybody: never `/tmp`, `/run` or a home.
fn is_for_sockets(socket: &Path, directory: &Path, found: &fs::Metadata) -> bool {
    let of_the_system = directory.components().count() < 3 || found.mode() & STICKY != 0;
    let ours = [socket.to_owned(), socket.with_extension("lock")];
    let Ok(mut entries) = fs::read_dir(directory) else { return false };
    !of_the_system && entries.all(|entry| entry.is_ok_and(|entry| ours.contains(&entry.path())))
}

fn unusable(directory: &Path, error: &io::Error) -> Failure {
    Failure::input("serve.socket_directory", format!("{} cannot be used: {error}", directory.display()))
        .help("check its permissions, or choose another `socket` in [server]")
}

fn in_the_way(path: &Path) -> Failure {
    Failure::input("serve.socket", format!("{} is there and is no socket", path.display()))
        .help("remove it, or choose another `socket` in [server]")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_one_listens_and_what_a_dead_one_left_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("run/control.sock");
        let (first, _listener) = ControlSocket::bind(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(path.parent().unwrap()).unwrap().mode() & 0o777, 0o700);
        assert_eq!(ControlSocket::bind(&path).unwrap_err().code, "serve.running");
        drop(first);
        assert!(!path.exists());
        // Left by one that could not clean up.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let (_second, listener) = ControlSocket::bind(&path).unwrap();
        tokio::net::UnixStream::connect(&path).await.unwrap();
        listener.accept().await.unwrap();
    }

    #[tokio::test]
    async fn a_directory_of_others_and_a_file_in_the_way_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let open = directory.path().join("open");
        fs::create_dir(&open).unwrap();
        fs::set_permissions(&open, fs::Permissions::from_mode(0o755)).unwrap();
        let refused = ControlSocket::bind(&open.join("control.sock")).unwrap_err();
        assert_eq!(refused.code, "serve.socket_directory");
        assert!(refused.help.unwrap().contains("chmod 700"));
        assert_eq!(check(&open.join("control.sock")).unwrap_err().code, "serve.socket_directory");
        // Somebody keeps other things there, or everybody does.
        fs::write(open.join("other"), "").unwrap();
        let shared = ControlSocket::bind(&open.join("control.sock")).unwrap_err().help.unwrap();
        assert!(!shared.contains("chmod") && shared.contains("open/overseer/control.sock"), "{shared}");
        fs::remove_file(open.join("other")).unwrap();
        fs::set_permissions(&open, fs::Permissions::from_mode(0o1777)).unwrap();
        assert!(!check(&open.join("control.sock")).unwrap_err().help.unwrap().contains("chmod"));
        fs::set_permissions(&open, fs::Permissions::from_mode(0o700)).unwrap();
        fs::write(open.join("control.sock"), "mine").unwrap();
        assert_eq!(ControlSocket::bind(&open.join("control.sock")).unwrap_err().code, "serve.socket");
        assert_eq!(check(&open.join("control.sock")).unwrap_err().code, "serve.socket");
        check(&directory.path().join("to/be/made/control.sock")).unwrap();
        assert!(!directory.path().join("to").exists());
        assert_eq!(fs::read(open.join("control.sock")).unwrap(), b"mine");
    }
}
