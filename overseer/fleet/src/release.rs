//! What a fleet's labors run.

#[cfg(feature = "fetch")]
mod fetched;
mod kept;
#[cfg(feature = "fetch")]
mod unused;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

#[cfg(feature = "fetch")]
pub use self::fetched::FetchError;
pub(crate) use self::kept::KeptReleases;
use overseer_protocol::ReleaseId;
use overseer_release::{KeyError, PackError, Package, PackageError, Refused, Trust};
pub use overseer_release::{Manifest, Mode, PublicKey, ReleaseBuilder, Restart, SigningKey};

/// Why there is no release.
#[derive(Debug, thiserror::Error)]
pub enum ReleaseError {
    /// The file is no release.
    #[error(transparent)]
    Package(#[from] PackageError),
    /// It could not be packed.
    #[error(transparent)]
    Pack(#[from] PackError),
    /// No key to sign with.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// No room for the packed file.
    #[error("no temporary directory for the release: {0}; make room or set TMPDIR")]
    Temporary(std::io::Error),
    /// No library of that name beside the program.
    #[error("lib{name}.so is not beside {program}; build the crate {name} as a cdylib first (cargo build)")]
    NoLibrary {
        /// Crate name with underscores.
        name: String,
        /// The running program.
        program: PathBuf,
    },
}

impl ReleaseError {
    /// Stable code, as ERRORS.md lists it.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Package(error) => error.code(),
            Self::Pack(error) => error.code(),
            Self::Key(error) => error.code(),
            Self::Temporary(_) => "release.temporary",
            Self::NoLibrary { .. } => "release.no_library",
        }
    }
}

/// A packed release, ready to be shipped. Cheap to clone.
#[derive(Clone)]
pub struct Release {
    package: Arc<Package>,
    /// The key that this process made to sign it with.
    own_key: Option<String>,
    /// Where it was packed to; removed with the last clone.
    directory: Option<Arc<tempfile::TempDir>>,
}

impl Release {
    /// A release that `overseer release pack` has made. A fleet takes a copy of the file when it
    /// starts, and runs that: the file may be replaced then.
    ///
    /// # Errors
    /// [`ReleaseError::Package`].
    pub fn open(path: &Path) -> Result<Self, ReleaseError> {
        let package = Arc::new(Package::open(path)?);
        Ok(Self { package, own_key: None, directory: None })
    }

    /// Packs a release within this process and signs it with a key that this process makes once, and
    /// that the labors of a fleet with such a release trust.
    ///
    /// # Errors
    /// Any [`ReleaseError`].
    pub fn pack(builder: ReleaseBuilder) -> Result<Self, ReleaseError> {
        let key = own_key()?;
        let directory = tempfile::tempdir().map_err(ReleaseError::Temporary)?;
        let path = directory.path().join("packed.release");
        builder.sign(&key).write(&path)?;
        let package = Arc::new(Package::open(&path)?);
        let own_key = Some(key.public().to_text());
        Ok(Self { package, own_key, directory: Some(Arc::new(directory)) })
    }

    /// Packs the plugin library `lib<name>.so` that cargo has built beside this program, or
    /// beside a test of its workspace.
    ///
    /// # Errors
    /// Any [`ReleaseError`].
    pub fn plugin_beside_program(name: &str, version: &str) -> Result<Self, ReleaseError> {
        let library = library_beside_program(name)?;
        Self::pack(ReleaseBuilder::plugin(&name.replace('_', "-"), version, library))
    }

    /// Writes a copy of its file, which this user alone may read: complete and on the disk, or not at
    /// all. Blocks.
    ///
    /// # Errors
    /// `release.changed` if its file is not what it was when it was opened; `release.package_io`.
    pub fn save(&self, path: &Path) -> Result<(), PackageError> {
        let io = |source| PackageError::Io { path: path.to_owned(), source };
        let directory = path.parent().unwrap_or(Path::new("/"));
        let file = tempfile::Builder::new().prefix(".release-").tempfile_in(directory).map_err(io)?;
        self.package.copy_to(file.as_file().try_clone().map_err(io)?, path)?;
        file.as_file().sync_all().map_err(io)?;
        file.persist(path).map_err(|error| io(error.error))?;
        File::open(directory).and_then(|directory| directory.sync_all()).map_err(io)
    }

    /// Whether who trusts these would run it.
    ///
    /// # Errors
    /// The first reason why not.
    pub fn verify(&self, trust: &Trust) -> Result<(), Refused> {
        self.package.verify(trust).map(|_| ())
    }

    /// Its content address.
    pub fn id(&self) -> ReleaseId {
        self.package.id()
    }

    /// What it says of itself.
    pub fn manifest(&self) -> &Manifest {
        &self.package.index().manifest
    }

    pub(crate) fn own_key(&self) -> Option<String> {
        self.own_key.clone()
    }

    pub(crate) fn package(&self) -> Arc<Package> {
        Arc::clone(&self.package)
    }
}

/// One for all that this process packs: a fleet that trusts one release of it can be upgraded to
/// another.
fn own_key() -> Result<SigningKey, KeyError> {
    static KEY: OnceLock<SigningKey> = OnceLock::new();
    if let Some(key) = KEY.get() {
        return Ok(key.clone());
    }
    let key = SigningKey::ephemeral()?;
    Ok(KEY.get_or_init(|| key).clone())
}

/// The path of `lib<name>.so`: in the program's directory or in `deps/` of it, where cargo puts
/// the libraries of dependencies.
///
/// # Errors
/// [`ReleaseError::NoLibrary`].
pub fn library_beside_program(name: &str) -> Result<PathBuf, ReleaseError> {
    let program = std::env::current_exe().unwrap_or_default();
    let file = format!("lib{name}.so");
    let directory = program.parent().unwrap_or(Path::new("."));
    let places = [directory.join(&file), directory.join("deps").join(&file)];
    // A test runs in deps/, an example in examples/.
    let above = directory.parent().map(|d| [d.join("deps").join(&file), d.join(&file)]);
    let found = places.into_iter().chain(above.into_iter().flatten()).find(|p| p.is_file());
    found.ok_or_else(|| ReleaseError::NoLibrary { name: name.to_owned(), program })
}
