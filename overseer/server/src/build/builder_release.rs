//! The release that the labors of a build run: the builder.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use overseer::Release;
use overseer::release::{Mode, ReleaseBuilder, SigningKey, library_beside_program};

use crate::failure::Failure;

/// This program as a copied binary: the library may not be beside it any more, or be another's.
const SELF: &str = "/proc/self/exe";
const NAME: &str = "overseer-builder";
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Names in the directory of a packed release.
const RELEASE: &str = "builder.release";
const KEY: &str = "builder.pub";

/// Packed releases that are kept whatever their age.
const KEPT: usize = 4;
/// No build takes so long.
const OLD: Duration = Duration::from_secs(2 * 24 * 3600);

/// Takes over when this process was started as the builder, by a labor that runs this program
/// as its release.
pub(crate) fn serve() -> Option<ExitCode> {
    let mut args = std::env::args_os().skip(1);
    let is_builder = args.next().as_deref() == Some(OsStr::new("__overseer"))
        && args.next().as_deref() == Some(OsStr::new("builder"));
    is_builder.then(overseer_builder::serve)
}

/// A release and the key to trust it by.
pub(super) struct Packed {
    pub(super) release: Release,
    pub(super) key: String,
}

/// The builder, packed: its library where cargo has put it beside this program, else this
/// program itself. Packed once for each build of it, and kept in the cache.
pub(super) fn pack(cache: &Path) -> Result<Packed, Failure> {
    let library = library_beside_program("overseer_builder").ok().map(newest);
    let source = library.as_deref().unwrap_or(Path::new(SELF));
    let all = cache.join("releases");
    let fault = |e: &dyn std::fmt::Display| {
        let what = format!("the builder cannot be packed into {}: {e}", all.display());
        Failure::fault("build.release", what)
            .help("make room there and check its permissions, or set OVERSEER_CACHE to another directory")
    };
    let kept = all.join(identity(source).map_err(|e| fault(&e))?);
    if let Some(packed) = open(&kept) {
        return Ok(packed);
    }
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&all).map_err(|e| fault(&e))?;
    // Made aside, so that a build beside this one finds all of it or nothing.
    let aside = tempfile::Builder::new().prefix("new-").tempdir_in(&all).map_err(|e| fault(&e))?;
    let key = SigningKey::ephemeral().map_err(|e| fault(&e))?;
    let builder = match &library {
        Some(library) => ReleaseBuilder::plugin(NAME, VERSION, library),
        None => {
            ReleaseBuilder::program(NAME, VERSION, SELF).mode(Mode::Serve).args(["__overseer", "builder"])
        }
    };
    builder.sign(&key).write(&aside.path().join(RELEASE)).map_err(|e| fault(&e))?;
    fs::write(aside.path().join(KEY), key.public().to_text()).map_err(|e| fault(&e))?;
    // One that another build has brought there meanwhile is as good, and is used.
    if fs::rename(aside.path(), &kept).is_ok() {
        let _ = aside.keep();
    }
    if let Err(error) = remove_old(&all, SystemTime::now()) {
        tracing::debug!(%error, "old releases stay in the cache");
    }
    open(&kept).ok_or_else(|| fault(&format!("{} is damaged; remove it", kept.display())))
}

/// Cargo leaves a library in `deps/` when it builds this program, and one beside the program when
/// it builds the library itself; the other one may be of an older builder.
fn newest(library: PathBuf) -> PathBuf {
    let in_deps = library.file_name().map(|name| library.with_file_name("deps").join(name));
    let at = |path: &Path| path.metadata().and_then(|meta| meta.modified()).ok();
    match in_deps {
        Some(other) if at(&other) > at(&library) => other,
        _ => library,
    }
}

fn open(directory: &Path) -> Option<Packed> {
    let release = Release::open(&directory.join(RELEASE)).ok()?;
    let key = fs::read_to_string(directory.join(KEY)).ok()?;
    Some(Packed { release, key })
}

/// Another file, or the same file with other contents, has another identity.
fn identity(source: &Path) -> io::Result<String> {
    let meta = source.metadata()?;
    let mut hash = blake3::Hasher::new();
    hash.update(source.canonicalize().unwrap_or_else(|_| source.to_owned()).as_os_str().as_encoded_bytes());
    for number in [meta.dev(), meta.ino(), meta.len()] {
        hash.update(&number.to_le_bytes());
    }
    for number in [meta.mtime(), meta.mtime_nsec(), meta.ctime(), meta.ctime_nsec()] {
        hash.update(&number.to_le_bytes());
    }
    Ok(hash.finalize().to_hex()[..32].to_owned())
}

/// Removes the releases of older programs: those that no build may use any more.
fn remove_old(all: &Path, now: SystemTime) -> io::Result<()> {
    let mut kept: Vec<(SystemTime, PathBuf)> = Vec::new();
    for entry in fs::read_dir(all)? {
        let entry = entry?;
        kept.push((entry.metadata()?.modified()?, entry.path()));
    }
    kept.sort();
    let old = |at: &SystemTime| now.duration_since(*at).is_ok_and(|age| age > OLD);
    let surplus = kept.len().saturating_sub(KEPT);
    for (_, path) in kept.iter().take(surplus).filter(|(at, _)| old(at)) {
        fs::remove_dir_all(path)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_program_is_another_one() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("lib.so");
        fs::write(&file, "one").unwrap();
        let first = identity(&file).unwrap();
        assert_eq!(identity(&file).unwrap(), first);
        fs::write(&file, "three").unwrap();
        assert_ne!(identity(&file).unwrap(), first);
    }

    #[test]
    fn only_releases_that_no_build_uses_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        for n in 0..KEPT + 2 {
            fs::create_dir(dir.path().join(n.to_string())).unwrap();
        }
        let count = || fs::read_dir(dir.path()).unwrap().count();
        remove_old(dir.path(), SystemTime::now()).unwrap();
        assert_eq!(count(), KEPT + 2);
        remove_old(dir.path(), SystemTime::now() + OLD * 2).unwrap();
        assert_eq!(count(), KEPT);
    }
}
