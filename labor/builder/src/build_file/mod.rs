//! `.overseer.toml`: what a repository says about how it is built.

mod error;
mod read;
pub mod rules;
#[cfg(test)]
mod tests;

use std::time::Duration;

pub use error::BuildFileError;
pub(crate) use error::floor_char;
use serde::{Deserialize, Serialize};

/// Name of the build file, in the root of a repository.
pub const FILE_NAME: &str = ".overseer.toml";
/// Largest build file, in bytes.
pub const MAX_FILE_BYTES: usize = 1024 * 1024;
/// Most combinations of one job's matrix.
pub const MAX_COMBINATIONS: usize = 256;
/// Most jobs of one build, matrix combinations counted.
pub const MAX_JOBS: usize = 1024;
/// How long a job may run when it does not say.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(60 * 60);
/// Longest timeout.
pub const MAX_TIMEOUT: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// The jobs of a repository, in the order of the file.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct BuildFile {
    /// At least one; names are unique, needs are known and without a cycle.
    pub jobs: Vec<JobSpec>,
}

/// `[jobs.NAME]`, before its matrix is expanded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobSpec {
    /// NAME.
    pub name: String,
    /// Shell commands, each run by `sh -e -c` in the checkout's root; at least one.
    pub steps: Vec<String>,
    /// Which files the job gives.
    pub artifacts: Vec<ArtifactPattern>,
    /// Jobs that must pass before.
    pub needs: Vec<String>,
    /// Environment of the steps, in the order of the file.
    pub env: Vec<(String, String)>,
    /// Keys and their values, in the order of the file.
    pub matrix: Vec<(String, Vec<String>)>,
    /// How long the job may run; [`DEFAULT_TIMEOUT`] when absent.
    pub timeout: Option<Duration>,
    /// Directories that survive to the next build.
    pub cache: Vec<String>,
}

/// Which files are artifacts.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ArtifactPattern {
    /// Relative to the checkout's root.
    pub glob: String,
    /// Only executables that the build made: not those that the commit has. For detected
    /// jobs, whose products have names that only the build knows.
    #[serde(default)]
    pub made_executables: bool,
    /// The job passes even if nothing matches. For detected jobs.
    #[serde(default)]
    pub optional: bool,
}

impl ArtifactPattern {
    /// A pattern as a build file has it: it must match something.
    pub fn required(glob: impl Into<String>) -> Self {
        Self { glob: glob.into(), made_executables: false, optional: false }
    }
}

impl BuildFile {
    /// Reads and checks a build file. `name` is how errors call it.
    ///
    /// # Errors
    /// The first mistake, by its place in the file.
    pub fn parse(bytes: &[u8], name: &str) -> Result<Self, BuildFileError> {
        if bytes.len() > MAX_FILE_BYTES {
            return Err(BuildFileError::whole(
                name,
                format!("the file has {} bytes, more than the {MAX_FILE_BYTES} allowed", bytes.len()),
                "move long commands into scripts of the repository",
            ));
        }
        match std::str::from_utf8(bytes) {
            Ok(text) => read::Reader::new(name, text).build_file(),
            Err(e) => {
                // What is shown is the text up to the bad byte.
                let good = String::from_utf8_lossy(&bytes[..e.valid_up_to()]);
                let end = good.len();
                Err(BuildFileError::at(
                    name,
                    &good,
                    end..end,
                    None,
                    format!("byte {end} is not UTF-8"),
                    "save the file as UTF-8",
                ))
            }
        }
    }
}
