//! Why what a server keeps cannot be opened, said by `overseer serve` and `overseer store` alike.

use std::io::ErrorKind;
use std::path::Path;

use overseer::control_plane::ControlPlaneError;
use overseer::data_dir::DataDirError;
use overseer::store::StoreError;

use crate::exit::Exit;
use crate::failure::Failure;

/// Bit of the mode of a directory where everybody keeps things of his own.
pub(crate) const STICKY: u32 = 0o1000;

/// A data directory that cannot be opened.
pub(crate) fn cannot_open(data: &Path, error: &DataDirError) -> Failure {
    let failure = Failure::told(exit(error), error.code(), &error.to_string());
    let data = data.display();
    match error {
        DataDirError::Store(StoreError::InUse { .. }) => failure.help(format!(
            "stop the server that runs on {data} (`overseer status` names it), or give another data directory"
        )),
        DataDirError::Store(StoreError::Damaged { .. }) => failure.help(
            "restore it from an export: `overseer store import FILE --data NEWDIR`, and serve from there",
        ),
        // One for all, such as /tmp, must stay so.
        DataDirError::OpenToOthers { mode, .. } if mode & STICKY != 0 => {
            failure.help(format!("give a directory of its own, such as {data}/overseer"))
        }
        DataDirError::OpenToOthers { .. } => failure.help(format!(
            "run `chmod 700 {data}` if it is there for the server alone, or give another data directory"
        )),
        _ => failure,
    }
}

/// A server that did not start.
pub(crate) fn cannot_start(data: &Path, error: &ControlPlaneError) -> Failure {
    match error {
        ControlPlaneError::DataDir(error) => cannot_open(data, error),
        // An address that somebody else has, or that is none of this machine.
        ControlPlaneError::Listen { .. } => Failure::told(Exit::BadInput, error.code(), &error.to_string()),
        _ => {
            let text = format!("the server did not start: {error}");
            Failure::told(Exit::Fault, error.code(), &text)
        }
    }
}

/// What nothing but the user can put right is an input; a disk may be well again by itself.
fn exit(error: &DataDirError) -> Exit {
    match error {
        DataDirError::Io { source, .. } if source.kind() != ErrorKind::PermissionDenied => Exit::Fault,
        DataDirError::Store(
            StoreError::NotWritable { .. } | StoreError::Uncertain { .. } | StoreError::Closed,
        )
        | DataDirError::Blobs(_) => Exit::Fault,
        _ => Exit::BadInput,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_user_has_to_put_right_is_told_from_a_disk_that_fails() {
        let path = || "/data".into();
        let io = |kind| DataDirError::Io { path: path(), source: std::io::Error::from(kind) };
        let damaged = StoreError::Damaged { path: "/data/store.redb".into(), reason: "torn".into() };
        let newer = StoreError::NewerSchema { path: "/data/store.redb".into(), found: 9, known: 2 };
        let inputs = [
            DataDirError::NotADirectory { path: path() },
            DataDirError::ForeignOwner { path: path(), owner: 1, us: 2 },
            DataDirError::OpenToOthers { path: path(), mode: 0o777 },
            io(ErrorKind::PermissionDenied),
            damaged.into(),
            newer.into(),
        ];
        for error in inputs {
            assert_eq!(cannot_open(Path::new("/data"), &error).exit, Exit::BadInput, "{error}");
            let code = error.code();
            let started = cannot_start(Path::new("/data"), &error.into());
            assert_eq!((started.exit, &*started.code), (Exit::BadInput, code));
        }
        let help = |mode| {
            let error = DataDirError::OpenToOthers { path: path(), mode };
            cannot_open(Path::new("/data"), &error).help.unwrap()
        };
        assert!(help(0o777).contains("chmod 700 /data") && !help(0o1777).contains("chmod"));
        let full = StoreError::NotWritable { path: "/data/store.redb".into(), reason: "full".into() };
        for error in [full.into(), io(ErrorKind::StorageFull)] {
            assert_eq!(cannot_open(Path::new("/data"), &error).exit, Exit::Fault, "{error}");
        }
    }
}
