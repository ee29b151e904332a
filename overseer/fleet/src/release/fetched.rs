//! A release from a URL. Whom it comes from does not matter: it is the one of this id, or it is not
//! taken.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use overseer_protocol::{ReleaseId, error_text};
use overseer_release::Package;

use super::Release;
use super::unused::{Held, touch};

/// Largest file, in bytes.
const MOST: u64 = 8 << 30;
/// Times that a download is gone on with after it broke, as long as each brings something.
const RESUMES: u32 = 20;
/// For a connection, and for the first word of the server.
const PATIENCE: Duration = Duration::from_secs(10);
/// Without a byte for so long a download counts as broken.
const SILENCE: Duration = Duration::from_secs(60);

/// Why nothing was fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The server or the network.
    #[error(
        "{url} cannot be fetched: {reason}; check the address, or put the file on this machine and name its path"
    )]
    Network {
        /// Where.
        url: String,
        /// What was wrong.
        reason: String,
    },
    /// Over the limit.
    #[error("{url} has more than {MOST} bytes, which is no release")]
    TooLarge {
        /// Where.
        url: String,
    },
    /// What came is no release.
    #[error("what {url} gave is no release: {reason}; check the address")]
    NoRelease {
        /// Where.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// What came is another release.
    #[error("{url} gave the release {found}, expected was {expected}; correct the id, or the address")]
    Other {
        /// Where.
        url: String,
        /// What came.
        found: ReleaseId,
        /// What should have.
        expected: ReleaseId,
    },
    /// It cannot be kept.
    #[error("{}: {source}; check space and permissions there", path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl FetchError {
    /// Stable code, as ERRORS.md lists it.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Network { .. } => "release.fetch",
            Self::TooLarge { .. } => "release.fetch_too_large",
            Self::NoRelease { .. } => "release.fetched_none",
            Self::Other { .. } => "release.fetched_other",
            Self::Io { .. } => "release.fetch_io",
        }
    }
}

impl Release {
    /// The release of this id: from `directory`, which is made where it is not there, else from a URL
    /// (`http://` or `https://`), and then kept there. A download that broke is gone on with, also by
    /// the next process. Blocks on the network.
    ///
    /// # Errors
    /// [`FetchError`]; nothing was kept then but what may be gone on with.
    pub fn fetch(url: &str, id: ReleaseId, directory: &Path) -> Result<Self, FetchError> {
        let place = Self::fetched(id, directory);
        let io = |source| FetchError::Io { path: directory.to_owned(), source };
        fs::create_dir_all(directory).map_err(io)?;
        let _held = Held::take(directory).map_err(io)?;
        let kept = || {
            let kept = Self::open(&place).ok().filter(|kept| kept.id() == id)?;
            touch(&place);
            Some(kept)
        };
        if let Some(kept) = kept() {
            return Ok(kept);
        }
        let part = directory.join(format!("{id}.part"));
        let mut file = OpenOptions::new().create(true).append(true).read(true).open(&part).map_err(io)?;
        wait_for_turn(&file, url);
        // Another one may have fetched it meanwhile.
        if let Some(kept) = kept() {
            return Ok(kept);
        }
        let mut goes_on = file.metadata().is_ok_and(|part| part.len() > 0);
        loop {
            let fetched = download(url, &mut file).and_then(|()| checked(url, id, &part));
            let bad = matches!(
                fetched,
                Err(FetchError::NoRelease { .. } | FetchError::Other { .. } | FetchError::TooLarge { .. })
            );
            if bad {
                // Nothing could be gone on with. The file stays, for others may wait for it.
                file.set_len(0).map_err(io)?;
            }
            // What it was gone on with may have been of another address.
            if !(bad && std::mem::take(&mut goes_on)) {
                fetched?;
                break;
            }
        }
        fs::rename(&part, &place).map_err(io)?;
        touch(&place);
        Self::open(&place)
            .map_err(|error| FetchError::NoRelease { url: url.to_owned(), reason: error_text(&error) })
    }

    /// Where [`Release::fetch`] keeps the release of an id.
    pub fn fetched(id: ReleaseId, directory: &Path) -> PathBuf {
        directory.join(format!("{id}.release"))
    }
}

/// One fetches it at a time, in all processes.
fn wait_for_turn(part: &File, url: &str) {
    use rustix::fs::{FlockOperation, flock};
    if flock(part, FlockOperation::NonBlockingLockExclusive).is_err() {
        tracing::info!(url, "the release is being fetched already; this waits for that");
        let _ = flock(part, FlockOperation::LockExclusive);
    }
}

fn checked(url: &str, id: ReleaseId, part: &Path) -> Result<(), FetchError> {
    let url = || url.to_owned();
    let package = Package::open(part);
    let package =
        package.map_err(|error| FetchError::NoRelease { url: url(), reason: error_text(&error) })?;
    match package.id() {
        found if found == id => Ok(()),
        found => Err(FetchError::Other { url: url(), found, expected: id }),
    }
}

/// Appends what is missing.
fn download(url: &str, file: &mut File) -> Result<(), FetchError> {
    let network = |reason: String| FetchError::Network { url: url.to_owned(), reason };
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .timeout_connect(Some(PATIENCE))
        .timeout_recv_response(Some(PATIENCE))
        .timeout_per_read(Some(SILENCE))
        .build()
        .into();
    let mut resumes = 0;
    loop {
        let have = file.seek(SeekFrom::End(0)).map_err(|error| network(error.to_string()))?;
        match go_on(&agent, url, file, have)? {
            Went::ToTheEnd => return Ok(()),
            Went::Broke(reason) => {
                let now = file.seek(SeekFrom::End(0)).map_err(|error| network(error.to_string()))?;
                resumes += 1;
                if now <= have || resumes > RESUMES {
                    return Err(network(reason));
                }
            }
        }
    }
}

enum Went {
    ToTheEnd,
    Broke(String),
}

/// One request for what is behind `have` bytes.
fn go_on(agent: &ureq::Agent, url: &str, file: &mut File, have: u64) -> Result<Went, FetchError> {
    let network = |reason: String| FetchError::Network { url: url.to_owned(), reason };
    let mut request = agent.get(url);
    if have > 0 {
        request = request.header("Range", format!("bytes={have}-"));
    }
    let answer = match request.call() {
        Ok(answer) => answer,
        // There is nothing behind it: it is complete, or another file by now.
        Err(ureq::Error::StatusCode(416)) => return Ok(Went::ToTheEnd),
        Err(error) => return Err(network(error.to_string())),
    };
    let mut at = have;
    if have > 0 && answer.status() != 206 {
        // The server has no parts: from the beginning.
        file.set_len(0).map_err(|error| network(error.to_string()))?;
        at = 0;
    }
    let mut body = answer.into_body().into_reader();
    let mut space = vec![0; 256 << 10];
    loop {
        match body.read(&mut space) {
            Ok(0) => return Ok(Went::ToTheEnd),
            Ok(count) => {
                at += count as u64;
                if at > MOST {
                    return Err(FetchError::TooLarge { url: url.to_owned() });
                }
                file.write_all(&space[..count]).map_err(|error| network(error.to_string()))?;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Ok(Went::Broke(error.to_string())),
        }
    }
}
