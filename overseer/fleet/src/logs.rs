//! Log streams as the Overseer keeps them: a file a stream, addressed by offset. What a lost
//! machine or a full spool took is a marked gap; nothing else is missing.

mod removal;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use overseer_protocol::{LogStream, TaskId};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::condition::{Condition, Part};
use crate::metrics::LogMetrics;

/// Files of streams that are kept open for writing; then all that are not written to just now are
/// closed, and opened again when bytes come.
const OPEN_FILES: usize = 256;
/// Bytes that a reader takes at a time.
const READ: usize = 256 * 1024;

/// Why a log could not be kept or read.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// Not a name that a stream may have.
    #[error("{0:?} cannot name a log stream; use up to 64 of a-z A-Z 0-9 . _ -")]
    BadName(String),
    /// The disk.
    #[error("log {path}: {source}; check space and permissions there")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl LogError {
    /// Stable code, as ERRORS.md lists it.
    pub fn code(&self) -> &'static str {
        match self {
            Self::BadName(_) => "logs.bad_name",
            Self::Io { .. } => "logs.io",
        }
    }
}

/// A piece of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogPiece {
    /// Bytes from this offset on.
    Data {
        /// Of the first byte.
        offset: u64,
        /// The bytes.
        bytes: Bytes,
    },
    /// Bytes that are lost.
    Gap {
        /// Of the first lost byte.
        offset: u64,
        /// How many.
        length: u64,
    },
}

/// What a labor pushes.
#[derive(Debug, Clone, Default)]
pub(crate) struct Push {
    pub(crate) offset: u64,
    pub(crate) data: Bytes,
    pub(crate) gap: u64,
    pub(crate) eof: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Extent {
    through: u64,
    eof: bool,
}

struct Stream {
    file: Mutex<Option<File>>,
    gaps: Mutex<Vec<(u64, u64)>>,
    extent: watch::Sender<Extent>,
}

/// All log streams of a control plane.
pub struct Logs {
    root: PathBuf,
    metrics: Arc<LogMetrics>,
    open: Mutex<HashMap<LogStream, Arc<Stream>>>,
    files: AtomicUsize,
    condition: Arc<Condition>,
}

impl Logs {
    /// Keeps logs under this directory, which must exist.
    pub fn open(root: &Path) -> Self {
        Self::telling(root, Arc::default())
    }

    /// As [`Logs::open`]; that the disk takes nothing is told to `condition`.
    pub(crate) fn telling(root: &Path, condition: Arc<Condition>) -> Self {
        Self {
            root: root.to_owned(),
            metrics: Arc::default(),
            open: Mutex::default(),
            files: AtomicUsize::new(0),
            condition,
        }
    }

    pub(crate) fn metrics(&self) -> Arc<LogMetrics> {
        Arc::clone(&self.metrics)
    }

    /// Takes what a labor sent and returns the offset below which everything is kept. What is
    /// known already is skipped; a hole that nobody marked is marked here.
    pub(crate) async fn push(self: &Arc<Self>, stream: LogStream, push: Push) -> Result<u64, LogError> {
        let logs = Arc::clone(self);
        run_blocking(move || logs.write(&stream, &push)).await
    }

    fn write(&self, name: &LogStream, push: &Push) -> Result<u64, LogError> {
        let path = self.path(name)?;
        let error = |source| {
            self.condition.saw(Part::Logs, &self.root, &source);
            LogError::Io { path: path.clone(), source }
        };
        let stream = self.stream(name, &path)?;
        let mut file = stream.file.lock();
        let Extent { mut through, eof } = *stream.extent.borrow();
        if eof {
            return Ok(through);
        }
        let mark = |from: u64, to: u64| {
            stream.gaps.lock().push((from, to - from));
            self.metrics.gaps.fetch_add(1, Ordering::Relaxed);
            self.metrics.gap_bytes.fetch_add(to - from, Ordering::Relaxed);
            append(&marker(&path, "gaps"), format!("{from} {}\n", to - from).as_bytes()).map_err(error)
        };
        if push.offset > through {
            mark(through, push.offset)?;
            through = push.offset;
        }
        let gap_end = push.offset.saturating_add(push.gap);
        if push.gap > 0 && gap_end > through {
            mark(through, gap_end)?;
            through = gap_end;
        }
        let known = usize::try_from(through - push.offset).unwrap_or(usize::MAX);
        if push.gap == 0 && known < push.data.len() {
            let fresh = &push.data[known..];
            let file = match &mut *file {
                Some(file) => file,
                empty => {
                    self.make_room_for_a_file();
                    let opened = empty.insert(writable(&path).map_err(error)?);
                    self.files.fetch_add(1, Ordering::Relaxed);
                    opened
                }
            };
            file.seek(SeekFrom::Start(through)).map_err(error)?;
            file.write_all(fresh).map_err(error)?;
            through += fresh.len() as u64;
            self.metrics.bytes.fetch_add(fresh.len() as u64, Ordering::Relaxed);
        }
        if push.eof {
            append(&marker(&path, "end"), format!("{through}\n").as_bytes()).map_err(error)?;
            self.close(&mut file);
        }
        stream.extent.send_replace(Extent { through, eof: push.eof });
        drop(file);
        if push.eof {
            self.open.lock().remove(name);
        }
        Ok(through)
    }

    /// Closes files where many are open. Those that somebody writes to are locked, and stay.
    fn make_room_for_a_file(&self) {
        if self.files.load(Ordering::Relaxed) >= OPEN_FILES {
            let streams: Vec<_> = self.open.lock().values().cloned().collect();
            streams
                .iter()
                .filter_map(|stream| stream.file.try_lock())
                .for_each(|mut file| self.close(&mut file));
        }
    }

    fn close(&self, file: &mut Option<File>) {
        if file.take().is_some() {
            self.files.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Ends the open streams of tasks whose labor is gone: no byte can follow.
    pub(crate) async fn end(self: &Arc<Self>, gone: impl Fn(TaskId) -> bool) {
        let names: Vec<LogStream> = self.open.lock().keys().filter(|name| gone(name.task)).cloned().collect();
        for name in names {
            let eof = Push { eof: true, ..Push::default() };
            if let Err(error) = self.push(name, eof).await {
                tracing::error!(%error, "the end of a log cannot be noted");
            }
        }
    }

    /// Reads a stream from an offset on, and follows it to its end. A stream that does not exist
    /// yet is waited for.
    ///
    /// # Errors
    /// [`LogError::BadName`], [`LogError::Io`].
    pub async fn read(self: &Arc<Self>, stream: LogStream, from: u64) -> Result<LogReader, LogError> {
        let path = self.path(&stream)?;
        let logs = Arc::clone(self);
        let source = {
            let path = path.clone();
            run_blocking(move || logs.stream(&stream, &path)).await?
        };
        let extent = source.extent.subscribe();
        Ok(LogReader { path, source, extent, offset: from, file: None })
    }

    fn path(&self, stream: &LogStream) -> Result<PathBuf, LogError> {
        if !LogStream::good_name(&stream.stream) {
            return Err(LogError::BadName(stream.stream.chars().take(64).collect()));
        }
        Ok(self.root.join(stream.task.to_string()).join(format!("{}-{}", stream.attempt.0, stream.stream)))
    }

    /// The streams of a task that have bytes, by name.
    pub fn streams(&self, task: TaskId) -> Vec<String> {
        let entries = fs::read_dir(self.root.join(task.to_string())).into_iter().flatten().flatten();
        let names = entries.filter_map(|e| e.file_name().into_string().ok());
        let mut names: Vec<String> = names.filter(|n| n.starts_with(|c: char| c.is_ascii_digit())).collect();
        names.sort();
        names
    }

    fn stream(&self, name: &LogStream, path: &Path) -> Result<Arc<Stream>, LogError> {
        let mut open = self.open.lock();
        if let Some(stream) = open.get(name) {
            return Ok(Arc::clone(stream));
        }
        let stream =
            Arc::new(Stream::load(path).map_err(|source| LogError::Io { path: path.to_owned(), source })?);
        if !stream.extent.borrow().eof {
            open.insert(name.clone(), Arc::clone(&stream));
        }
        Ok(stream)
    }
}

impl Stream {
    fn load(path: &Path) -> io::Result<Self> {
        let length = match fs::metadata(path) {
            Ok(meta) => meta.len(),
            Err(e) if e.kind() == io::ErrorKind::NotFound => 0,
            Err(e) => return Err(e),
        };
        let gaps = numbers(&marker(path, "gaps"))?;
        let gaps: Vec<(u64, u64)> = gaps.iter().filter_map(|n| Some((*n.first()?, *n.get(1)?))).collect();
        let end = numbers(&marker(path, "end"))?.first().and_then(|n| n.first().copied());
        let after_gap = gaps.iter().map(|(o, l)| o + l).max().unwrap_or(0);
        let extent = Extent { through: end.unwrap_or(length.max(after_gap)), eof: end.is_some() };
        Ok(Self { file: Mutex::default(), gaps: Mutex::new(gaps), extent: watch::Sender::new(extent) })
    }
}

/// Beside the bytes: where gaps and the end are noted. Attempts start with a digit, so no
/// stream has such a name.
fn marker(path: &Path, what: &str) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!("{what}-{name}"))
}

/// The control plane's own directory may be one that others pass through.
fn make_private(directory: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)
}

fn writable(path: &Path) -> io::Result<File> {
    if let Some(directory) = path.parent() {
        make_private(directory)?;
    }
    OpenOptions::new().write(true).create(true).truncate(false).open(path)
}

fn append(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if let Some(directory) = path.parent() {
        make_private(directory)?;
    }
    OpenOptions::new().append(true).create(true).open(path)?.write_all(bytes)
}

fn numbers(path: &Path) -> io::Result<Vec<Vec<u64>>> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => String::new(),
        Err(e) => return Err(e),
    };
    Ok(text.lines().map(|line| line.split(' ').filter_map(|n| n.parse().ok()).collect()).collect())
}

/// Files are read and written where blocking is allowed.
async fn run_blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, LogError> + Send + 'static,
) -> Result<T, LogError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(LogError::Io { path: PathBuf::new(), source: io::Error::other(error) }),
    }
}

/// Follows one stream.
pub struct LogReader {
    path: PathBuf,
    source: Arc<Stream>,
    extent: watch::Receiver<Extent>,
    offset: u64,
    file: Option<File>,
}

impl LogReader {
    /// Whether there is a next piece already, so that [`next`](Self::next) does not wait for the
    /// labor.
    pub fn has_more(&self) -> bool {
        self.extent.borrow().through > self.offset
    }

    /// The next piece; `None` at the end of the stream. Waits while the stream is open.
    ///
    /// # Errors
    /// [`LogError::Io`].
    pub async fn next(&mut self) -> Result<Option<LogPiece>, LogError> {
        let from = self.offset;
        let extent = match self.extent.wait_for(|e| e.through > from || e.eof).await {
            Ok(extent) => *extent,
            Err(_) => return Ok(None),
        };
        if extent.through <= from {
            return Ok(None);
        }
        let gaps = self.source.gaps.lock().clone();
        if let Some((start, length)) = gaps.iter().find(|(s, l)| *s <= from && from < s + l) {
            self.offset = start + length;
            return Ok(Some(LogPiece::Gap { offset: from, length: self.offset - from }));
        }
        let end = gaps.iter().map(|(s, _)| *s).filter(|s| *s > from).min().unwrap_or(extent.through);
        let want = usize::try_from(end.min(extent.through) - from).unwrap_or(READ).min(READ);
        let (path, file) = (self.path.clone(), self.file.take());
        let (file, bytes) = run_blocking(move || {
            let read = || {
                let mut file = match file {
                    Some(file) => file,
                    None => File::open(&path)?,
                };
                file.seek(SeekFrom::Start(from))?;
                let mut bytes = vec![0; want];
                file.read_exact(&mut bytes)?;
                Ok((file, bytes))
            };
            read().map_err(|source| LogError::Io { path: path.clone(), source })
        })
        .await?;
        self.file = Some(file);
        self.offset += bytes.len() as u64;
        Ok(Some(LogPiece::Data { offset: from, bytes: bytes.into() }))
    }
}
