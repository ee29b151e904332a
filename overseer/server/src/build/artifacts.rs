//! Artifacts on their way into the output directory.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

use overseer::blobs::{BlobError, Blobs};
use overseer_builder::api::Artifact;
use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;
use tokio::io::AsyncWriteExt;

use super::event::{JobResult, Outcome, SavedArtifact};

/// Digests of all artifacts of the last build, as `b3sum --check` reads them.
const SUMS: &str = "B3SUMS";
/// The same for us: what the next build may remove, as JSON.
const OURS: &str = ".overseer-out.json";
/// What a new output directory is ignored by.
const IGNORE: &str = ".gitignore";
const IGNORE_ALL: &[u8] = b"*\n";

/// Why an artifact is not in the output directory.
#[derive(Debug, thiserror::Error)]
pub(super) enum ArtifactError {
    /// A labor sent a path that leads elsewhere.
    #[error("the artifact path {0:?} is not within its job; the labor is not to be trusted")]
    Path(String),
    /// The disk.
    #[error("{}: {source}; check space and permissions there, or choose another --out", path.display())]
    Io { path: PathBuf, source: io::Error },
    /// The bytes are not there.
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// The labor said another size.
    #[error("artifact {path} has {got} bytes, not {wanted}; build again")]
    Size { path: String, got: u64, wanted: u64 },
}

impl ArtifactError {
    /// What the system said, where it did.
    pub(super) fn reason(&self) -> String {
        match self {
            Self::Io { source, .. } => source.to_string(),
            other => other.to_string(),
        }
    }
}

/// A file that a build has put into the directory.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Ours {
    path: PathBuf,
    digest: String,
}

impl Ours {
    fn of(job: &str, saved: &SavedArtifact) -> Self {
        Self { path: Path::new(&directory_name(job)).join(&saved.path), digest: saved.digest.clone() }
    }
}

/// The directory that artifacts are copied to: `OUT/JOB/PATH`.
#[derive(Debug, Clone)]
pub(super) struct OutDirectory(pub(super) PathBuf);

impl OutDirectory {
    /// Finds out whether artifacts could be put there, before anything is built for it.
    ///
    /// # Errors
    /// [`ArtifactError::Io`]; nothing has changed then.
    pub(super) fn probe(&self) -> Result<(), ArtifactError> {
        let there = self.0.ancestors().find(|path| path.symlink_metadata().is_ok()).unwrap_or(Path::new("/"));
        let new = tempfile::Builder::new().prefix(".overseer-probe-").tempdir_in(there);
        new.map(drop).map_err(|source| ArtifactError::Io { path: self.0.clone(), source })
    }

    /// Copies the artifacts of a job: all of them, or none where one fails.
    ///
    /// # Errors
    /// Any [`ArtifactError`].
    pub(super) async fn save(
        &self,
        job: &str,
        artifacts: &[Artifact],
        blobs: &dyn Blobs,
    ) -> Result<Vec<SavedArtifact>, ArtifactError> {
        let mut saved = Vec::with_capacity(artifacts.len());
        if !artifacts.is_empty() {
            self.make()?;
        }
        for artifact in artifacts {
            match self.save_one(job, artifact, blobs).await {
                Ok(one) => saved.push(one),
                Err(error) => {
                    saved.iter().for_each(|one| self.remove(&Ours::of(job, one)));
                    return Err(error);
                }
            }
        }
        Ok(saved)
    }

    async fn save_one(
        &self,
        job: &str,
        artifact: &Artifact,
        blobs: &dyn Blobs,
    ) -> Result<SavedArtifact, ArtifactError> {
        let relative = within(&artifact.path).ok_or_else(|| ArtifactError::Path(artifact.path.clone()))?;
        let file = self.0.join(directory_name(job)).join(relative);
        copy(artifact, &file, blobs).await.inspect_err(|_| self.remove_empty_above(&file))?;
        Ok(SavedArtifact {
            path: artifact.path.clone(),
            file: file.display().to_string(),
            size: artifact.size,
            digest: artifact.digest.clone(),
            mode: format!("{:04o}", mode(artifact)),
        })
    }

    /// Writes the digests of a build's artifacts beside them, and removes those of the build
    /// before that are not among them, unless somebody has changed them.
    ///
    /// # Errors
    /// [`ArtifactError::Io`].
    pub(super) fn complete(&self, results: &[JobResult]) -> Result<(), ArtifactError> {
        let of = |result: &JobResult| -> Vec<Ours> {
            result.artifacts.iter().map(|saved| Ours::of(&result.job, saved)).collect()
        };
        let mut ours: Vec<Ours> = results.iter().flat_map(of).collect();
        // Of a job that did not come to its end, those of the last time are the newest.
        let unfinished = results.iter().filter(|r| matches!(r.result, Outcome::NotRun | Outcome::Cancelled));
        let unfinished: Vec<String> = unfinished.map(|result| directory_name(&result.job)).collect();
        let (kept, before): (Vec<Ours>, Vec<Ours>) =
            self.before().into_iter().partition(|old| unfinished.iter().any(|job| old.path.starts_with(job)));
        ours.extend(kept);
        if ours.is_empty() && before.is_empty() {
            self.remove_bare();
            return Ok(());
        }
        for old in before.iter().filter(|old| ours.iter().all(|new| new.path != old.path)) {
            self.remove(old);
        }
        let sums: String = ours.iter().map(|ours| sum_line(&ours.digest, &ours.path)).collect();
        self.write(SUMS, sums.as_bytes()).inspect_err(|_| {
            // No list is better than that of other artifacts.
            let _ = fs::remove_file(self.0.join(SUMS));
        })?;
        self.write(OURS, &serde_json::to_vec(&ours).unwrap_or_default())
    }

    /// What the last build has left here.
    fn before(&self) -> Vec<Ours> {
        let text = fs::read(self.0.join(OURS)).unwrap_or_default();
        let all: Vec<Ours> = serde_json::from_slice(&text).unwrap_or_default();
        all.into_iter().filter(|ours| ours.path.to_str().and_then(within).is_some()).collect()
    }

    /// Removes a file that is still as it was made, and the directories that it leaves empty.
    fn remove(&self, old: &Ours) {
        let path = self.0.join(&old.path);
        let is_file = path.symlink_metadata().is_ok_and(|there| there.is_file());
        let mut hasher = blake3::Hasher::new();
        if !is_file || fs::File::open(&path).and_then(|file| hasher.update_reader(file).map(drop)).is_err() {
            return;
        }
        if hasher.finalize().to_hex().as_str() != old.digest || fs::remove_file(&path).is_err() {
            return;
        }
        self.remove_empty_above(&path);
    }

    /// Removes the directories above a file that is not there, as far as they are empty.
    fn remove_empty_above(&self, path: &Path) {
        let above = path.ancestors().skip(1).take_while(|above| *above != self.0);
        for directory in above {
            // The first that is not empty stays, and those above it.
            if fs::remove_dir(directory).is_err() {
                break;
            }
        }
    }

    /// Removes the directory if it is as a build makes it and nothing was put there.
    fn remove_bare(&self) {
        let names = fs::read_dir(&self.0).into_iter().flatten().flatten().map(|entry| entry.file_name());
        let ignore = self.0.join(IGNORE);
        if names.eq([IGNORE]) && fs::read(&ignore).is_ok_and(|text| text == IGNORE_ALL) {
            let _ = fs::remove_file(&ignore).and_then(|()| fs::remove_dir(&self.0));
        }
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), ArtifactError> {
        let path = self.0.join(name);
        let write = || {
            let mut new = NamedTempFile::new_in(&self.0)?;
            io::Write::write_all(&mut new, bytes)?;
            new.as_file().set_permissions(Permissions::from_mode(0o644))?;
            new.persist(&path).map_err(|e| e.error).map(drop)
        };
        write().map_err(|source| ArtifactError::Io { path: path.clone(), source })
    }

    /// A new one is ignored by git: a build does not make the work tree dirty.
    fn make(&self) -> Result<(), ArtifactError> {
        let make = || {
            if self.0.is_dir() {
                return Ok(());
            }
            fs::create_dir_all(&self.0)?;
            let ignore = self.0.join(IGNORE);
            fs::write(&ignore, IGNORE_ALL).inspect_err(|_| {
                // One that is there but half made would be taken for whole by the next build.
                let _ = fs::remove_file(&ignore).and_then(|()| fs::remove_dir(&self.0));
            })
        };
        make().map_err(|source| ArtifactError::Io { path: self.0.clone(), source })
    }
}

/// As `b3sum` writes it: a name that would break the line is escaped, and the line says so.
fn sum_line(digest: &str, path: &Path) -> String {
    let path = path.display().to_string();
    let escaped = path.replace('\\', "\\\\").replace('\n', "\\n").replace('\r', "\\r");
    let mark = if escaped == path { "" } else { "\\" };
    format!("{mark}{digest}  {escaped}\n")
}

/// A job's name as that of a directory.
fn directory_name(job: &str) -> String {
    let name = job.replace(['/', '\0'], "_");
    if name.starts_with('.') || name.is_empty() { format!("_{name}") } else { name }
}

/// The path, if it stays within.
fn within(path: &str) -> Option<&Path> {
    let path = Path::new(path);
    let good = path.components().all(|part| matches!(part, Component::Normal(_)));
    (good && path.components().next().is_some()).then_some(path)
}

fn mode(artifact: &Artifact) -> u32 {
    if artifact.mode & 0o111 == 0 { 0o644 } else { 0o755 }
}

async fn copy(artifact: &Artifact, to: &Path, blobs: &dyn Blobs) -> Result<(), ArtifactError> {
    let failed = |source| ArtifactError::Io { path: to.to_owned(), source };
    let directory = to.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(directory).map_err(failed)?;
    let (_, mut reader) = blobs.get(&artifact.digest).await?;
    let new = NamedTempFile::new_in(directory).map_err(failed)?;
    let mut file = tokio::fs::File::from_std(new.reopen().map_err(failed)?);
    file.set_max_buf_size(256 * 1024);
    let got = tokio::io::copy(&mut tokio::io::BufReader::with_capacity(256 * 1024, &mut reader), &mut file)
        .await
        .map_err(failed)?;
    file.flush().await.map_err(failed)?;
    if got != artifact.size {
        return Err(ArtifactError::Size { path: artifact.path.clone(), got, wanted: artifact.size });
    }
    new.as_file().set_permissions(Permissions::from_mode(mode(artifact))).map_err(failed)?;
    new.persist(to).map_err(|e| failed(e.error))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use overseer::blobs::DirectoryBlobs;

    use super::*;

    async fn blob(blobs: &DirectoryBlobs, text: &str, path: &str, mode: u32) -> Artifact {
        let bytes = std::io::Cursor::new(text.as_bytes().to_vec());
        let info = blobs.put(Box::pin(bytes), 1000).await.unwrap();
        Artifact { path: path.into(), digest: info.digest, size: info.size, mode }
    }

    #[tokio::test]
    async fn artifacts_arrive_with_their_mode_and_leave_nothing_beside_them() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = DirectoryBlobs::open(dir.path().join("blobs")).unwrap();
        let out = OutDirectory(dir.path().join("out"));
        let tool = blob(&blobs, "#!", "bin/tool", 0o755).await;
        let saved = out.save("build (os=a/b)", std::slice::from_ref(&tool), &blobs).await.unwrap();
        let path = dir.path().join("out/build (os=a_b)/bin/tool");
        assert_eq!(fs::read(&path).unwrap(), b"#!");
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o755);
        assert_eq!(saved[0].mode, "0755");
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
        // A second build replaces it.
        let newer = blob(&blobs, "new", "bin/tool", 0o644).await;
        out.save("build (os=a/b)", &[newer], &blobs).await.unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::read_to_string(dir.path().join("out/.gitignore")).unwrap(), "*\n");
    }

    #[tokio::test]
    async fn a_path_that_leads_out_is_refused_and_nothing_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = DirectoryBlobs::open(dir.path().join("blobs")).unwrap();
        let out = OutDirectory(dir.path().join("a/b/out"));
        for bad in ["../x", "/etc/x", "a/../../x", "", "./x", ".."] {
            let artifact = blob(&blobs, "x", bad, 0o644).await;
            let error = out.save("job", &[artifact], &blobs).await.unwrap_err();
            assert!(matches!(error, ArtifactError::Path(_)), "{bad}: {error}");
        }
        assert!(!dir.path().join("a/b/x").exists() && !dir.path().join("a/b/out/x").exists());
        assert_eq!(directory_name(".."), "_..");
    }

    #[tokio::test]
    async fn a_missing_blob_leaves_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = DirectoryBlobs::open(dir.path().join("blobs")).unwrap();
        let out = OutDirectory(dir.path().join("out"));
        let gone = Artifact { path: "x".into(), digest: "0".repeat(64), size: 1, mode: 0o644 };
        assert!(matches!(out.save("job", &[gone], &blobs).await, Err(ArtifactError::Blob(_))));
        assert!(!dir.path().join("out/job/x").exists());
    }

    #[tokio::test]
    async fn what_the_last_build_made_and_this_one_does_not_goes_unless_it_was_changed() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = DirectoryBlobs::open(dir.path().join("blobs")).unwrap();
        let out = OutDirectory(dir.path().join("out"));
        let result =
            |artifacts| JobResult { artifacts, ..JobResult::without_report("job", Outcome::Passed, None) };
        let mut made = Vec::new();
        for path in ["a/b/one", "a/two", "three"] {
            made.push(blob(&blobs, path, path, 0o644).await);
        }
        let saved = out.save("job", &made, &blobs).await.unwrap();
        out.complete(&[result(saved)]).unwrap();
        fs::write(dir.path().join("out/job/a/two"), "mine now").unwrap();
        fs::write(dir.path().join("out/job/foreign"), "mine too").unwrap();
        let saved = out.save("job", &made[2..], &blobs).await.unwrap();
        out.complete(&[result(saved)]).unwrap();
        let is_there = |path: &str| dir.path().join("out/job").join(path).exists();
        assert!(!is_there("a/b") && is_there("a/two") && is_there("three") && is_there("foreign"));
        let sums = fs::read_to_string(dir.path().join("out/B3SUMS")).unwrap();
        assert_eq!(sums, format!("{}  job/three\n", made[2].digest));
        out.complete(&[JobResult::without_report("job", Outcome::Cancelled, None)]).unwrap();
        assert!(is_there("three"));
        out.complete(&[]).unwrap();
        assert!(!is_there("three") && is_there("foreign"));
        assert_eq!(fs::read_to_string(dir.path().join("out/B3SUMS")).unwrap(), "");
    }

    #[tokio::test]
    async fn a_job_whose_artifacts_are_not_all_saved_leaves_none_and_no_directory() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = DirectoryBlobs::open(dir.path().join("blobs")).unwrap();
        let out = OutDirectory(dir.path().join("out"));
        let good = blob(&blobs, "good", "a/good", 0o644).await;
        let gone = Artifact { path: "b/gone".into(), digest: "0".repeat(64), size: 1, mode: 0o644 };
        assert!(out.save("job", &[good.clone(), gone], &blobs).await.is_err());
        let left = fs::read_dir(dir.path().join("out")).unwrap().map(|entry| entry.unwrap().file_name());
        assert!(left.eq([IGNORE]), "no artifact and no directory of one");
        out.complete(&[JobResult::without_report("job", Outcome::Fault, None)]).unwrap();
        assert!(!dir.path().join("out").exists());
        // What somebody else has put there stays.
        fs::create_dir(dir.path().join("out")).unwrap();
        fs::write(dir.path().join("out/.gitignore"), "mine\n").unwrap();
        out.complete(&[]).unwrap();
        assert!(dir.path().join("out/.gitignore").exists());
    }

    #[test]
    fn a_name_cannot_break_the_list_of_digests() {
        assert_eq!(sum_line("00", Path::new("a b")), "00  a b\n");
        assert_eq!(sum_line("00", Path::new("a\nb\\c\r")), "\\00  a\\nb\\\\c\\r\n");
    }

    #[test]
    fn a_place_that_takes_no_artifacts_is_known_before() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("file"), "").unwrap();
        std::os::unix::fs::symlink("nowhere", dir.path().join("dangling")).unwrap();
        for bad in ["file/x", "file/x/y", "dangling", "dangling/x"] {
            assert!(OutDirectory(dir.path().join(bad)).probe().is_err(), "{bad}");
        }
        assert!(OutDirectory("/proc/x".into()).probe().is_err());
        OutDirectory(dir.path().join("a/b")).probe().unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "nothing is left");
    }
}
