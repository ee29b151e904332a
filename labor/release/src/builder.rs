use std::path::{Path, PathBuf};

use semver::Version;

use crate::key::SigningKey;
use crate::manifest::{FieldError, Kind, Manifest, Mode, Restart};
use crate::pack::{PackError, Packed, write_package};
use crate::path::ArchivePath;
use crate::tree::Tree;

/// Makes a release out of single files, without a directory or a `release.toml`.
///
/// ```no_run
/// use overseer_release::{ReleaseBuilder, SigningKey};
///
/// let key = SigningKey::ephemeral()?;
/// let packed = ReleaseBuilder::plugin("hello", "1.0.0", "target/debug/libhello.so")
///     .environment("GREETING", "hi")
///     .sign(&key)
///     .write("releases".as_ref())?;
/// println!("{}", packed.id);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct ReleaseBuilder {
    manifest: Manifest,
    version: String,
    entry: PathBuf,
    files: Vec<(String, PathBuf)>,
    key: Option<SigningKey>,
}

impl ReleaseBuilder {
    /// A plugin: this library, under its own file name.
    pub fn plugin(name: &str, version: &str, library: impl Into<PathBuf>) -> Self {
        Self::new(Manifest::plugin(name, Version::new(0, 0, 0), ""), version, library.into())
    }

    /// A program: this executable, under its own file name.
    pub fn program(name: &str, version: &str, executable: impl Into<PathBuf>) -> Self {
        Self::new(Manifest::program(name, Version::new(0, 0, 0), ""), version, executable.into())
    }

    fn new(manifest: Manifest, version: &str, entry: PathBuf) -> Self {
        Self { manifest, version: version.to_owned(), entry, files: Vec::new(), key: None }
    }

    /// One more file, at this path in the archive.
    #[must_use]
    pub fn file(mut self, path: impl Into<String>, source: impl Into<PathBuf>) -> Self {
        self.files.push((path.into(), source.into()));
        self
    }

    /// A variable for what runs the release.
    #[must_use]
    pub fn environment(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.manifest.environment.insert(name.into(), value.into());
        self
    }

    /// The arguments of a program; a plugin has none.
    #[must_use]
    pub fn args<I: IntoIterator<Item = S>, S: Into<String>>(mut self, new: I) -> Self {
        if let Kind::Program { args, .. } = &mut self.manifest.kind {
            *args = new.into_iter().map(Into::into).collect();
        }
        self
    }

    /// How a program works with the agent; a plugin has no mode.
    #[must_use]
    pub fn mode(mut self, new: Mode) -> Self {
        if let Kind::Program { mode, .. } = &mut self.manifest.kind {
            *mode = new;
        }
        self
    }

    /// The major version of the ABI of a plugin; a program has none.
    #[must_use]
    pub fn abi(mut self, new: u32) -> Self {
        if let Kind::Plugin { abi } = &mut self.manifest.kind {
            *abi = new;
        }
        self
    }

    /// When what runs the release is started again.
    #[must_use]
    pub fn restart(mut self, restart: Restart) -> Self {
        self.manifest.restart = restart;
        self
    }

    /// On a labor that runs another release it starts when that has stopped, with what that has left.
    #[must_use]
    pub fn handover(mut self, new: bool) -> Self {
        self.manifest.handover = new;
        self
    }

    /// The machines that it runs on, if they are not of this program's own kind.
    #[must_use]
    pub fn target(mut self, triple: impl Into<String>) -> Self {
        self.manifest.target = triple.into();
        self
    }

    /// Signs the release.
    #[must_use]
    pub fn sign(mut self, key: &SigningKey) -> Self {
        self.key = Some(key.clone());
        self
    }

    /// Packs it; `out` is the package's path, or a directory, as for [`pack`](crate::pack()).
    ///
    /// # Errors
    /// [`PackError`], also for what was given before; nothing is written then.
    pub fn write(self, out: &Path) -> Result<Packed, PackError> {
        let mut manifest = self.manifest;
        manifest.version = Version::parse(&self.version).map_err(|error| FieldError {
            key: "version".into(),
            message: format!("{:?} is no semantic version such as 1.0.0: {error}", self.version),
        })?;
        manifest.entry = self
            .entry
            .file_name()
            .and_then(|name| name.to_str())
            .ok_or_else(|| PackError::Special(self.entry.clone()))?
            .to_owned();
        let mut tree = Tree::default();
        let entry = [(manifest.entry.clone(), self.entry)];
        for (path, source) in entry.into_iter().chain(self.files) {
            let path = ArchivePath::new(&path)
                .map_err(|fault| PackError::Path { path: path.clone().into(), fault })?;
            let node = Tree::file(&source)?;
            if path.as_str() == crate::MANIFEST_FILE || !tree.add(path.clone(), node) {
                return Err(PackError::Duplicate(path));
            }
        }
        write_package(&manifest, tree, self.key.as_ref(), out)
    }
}
