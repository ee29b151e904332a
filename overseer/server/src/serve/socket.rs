//! The control API's socket: for its owner alone, and of one server at a time.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use tokio::net::UnixListener;

use crate::failure::Failure;

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
        private_directory(directory)?;
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
            Ok(found) if !std::os::unix::fs::FileTypeExt::is_socket(&found.file_type()) => {
                let message = format!("{} is there and is no socket", path.display());
                return Err(Failure::input("serve.socket", message)
                    .help("remove it, or choose another `socket` in [server]"));
            }
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

/// Makes the directory, or checks that nobody else may enter it.
fn private_directory(path: &Path) -> Result<(), Failure> {
    let failed = |what: String, help: String| {
        Err(Failure::input("serve.socket_directory", format!("{} {what}", path.display())).help(help))
    };
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    let found = made.and_then(|()| fs::metadata(path));
    let other = "or choose another `socket` in [server]";
    match found {
        Err(error) => failed(format!("cannot be used: {error}"), format!("check its permissions, {other}")),
        Ok(found) if found.uid() != rustix::process::geteuid().as_raw() => {
            failed(format!("belongs to user {}", found.uid()), format!("run as its owner, {other}"))
        }
        Ok(found) if found.mode() & 0o077 != 0 => failed(
            format!("may be entered by others (mode {:03o})", found.mode() & 0o777),
            format!("run `chmod 700 {}`, {other}", path.display()),
        ),
        Ok(_) => Ok(()),
    }
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
        fs::set_permissions(&open, fs::Permissions::from_mode(0o700)).unwrap();
        fs::write(open.join("control.sock"), "mine").unwrap();
        assert_eq!(ControlSocket::bind(&open.join("control.sock")).unwrap_err().code, "serve.socket");
        assert_eq!(fs::read(open.join("control.sock")).unwrap(), b"mine");
    }
}
