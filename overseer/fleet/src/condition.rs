//! Whether a control plane has what it needs: a disk that is full or read-only, or file descriptors
//! that are used up, are a state that is told, not a hundred errors.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::clock;

/// Blobs and logs are written again when so much more is free than when they failed, in bytes.
const MORE: u64 = 16 << 20;
/// Until it is said again that somebody was turned away.
const AGAIN: Duration = Duration::from_secs(60);
/// Spare file descriptors that there must be before it is said that there are enough again: for a
/// process that is started, and for the connections that follow.
const SPARE: usize = 16;

/// Why nothing is written to a disk without room.
pub(crate) const FULL: &str = "the disk is full";

/// What is in trouble.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// Nothing new is taken: no task, no labor. What runs goes on.
    Store,
    /// Payloads and results that are large are not taken.
    Blobs,
    /// Agents keep what is written, within their bounds.
    Logs,
    /// File descriptors: nobody new is let in, and no labor is started. What runs goes on.
    Files,
}

impl Part {
    /// As it is shown: `store`, `blobs`, `logs` or `files`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Store => "store",
            Self::Blobs => "blobs",
            Self::Logs => "logs",
            Self::Files => "files",
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What is wrong, and what is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// What.
    pub part: Part,
    /// File or directory; none of file descriptors.
    pub path: PathBuf,
    /// Where the file system is mounted that it is on.
    pub file_system: PathBuf,
    /// What the system said.
    pub reason: String,
    /// Bytes that were free then; of file descriptors, how many.
    pub free: u64,
    /// Bytes that must be free for it to go on; of file descriptors, how many.
    pub needed: u64,
    /// When it began.
    pub since: SystemTime,
}

impl Trouble {
    /// What to do, in a few words.
    pub fn help(&self) -> String {
        if self.part == Part::Files {
            let (soft, hard) = file_limit();
            return format!(
                "raise LimitNOFILE (`ulimit -n`; it is {soft}, and may be raised to {hard} without being root), \
                 or close connections; it goes on by itself then"
            );
        }
        let (place, missing) = (self.file_system.display(), self.needed.saturating_sub(self.free));
        match missing {
            0 => format!("see why {place} cannot be written; it goes on by itself when it can"),
            _ => format!(
                "make room on {place}: {} are free, {} are needed; it goes on by itself then",
                bytes(self.free),
                bytes(self.needed)
            ),
        }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.part == Part::Files {
            return write!(f, "file descriptors are used up: {}", self.reason);
        }
        write!(f, "the {} in {} cannot be written: {}", self.part, self.path.display(), self.reason)
    }
}

/// An amount for people, not below it.
pub(crate) fn bytes(amount: u64) -> String {
    match amount {
        0..=9_999 => format!("{amount} bytes"),
        10_000..=9_999_999 => format!("{} KiB", amount.div_ceil(1 << 10)),
        _ => format!("{} MiB", amount.div_ceil(1 << 20)),
    }
}

/// What is in trouble, for all who ask and follow.
#[derive(Debug)]
pub struct Condition {
    troubles: watch::Sender<BTreeMap<Part, Trouble>>,
    /// When it was last said that somebody was turned away.
    told: Mutex<Option<Instant>>,
}

impl Default for Condition {
    fn default() -> Self {
        Self { troubles: watch::Sender::new(BTreeMap::new()), told: Mutex::default() }
    }
}

impl Condition {
    /// What is wrong now; nothing, as a rule.
    pub fn troubles(&self) -> Vec<Trouble> {
        self.troubles.borrow().values().cloned().collect()
    }

    /// What keeps labors from being started, if anything does.
    pub fn pauses(&self) -> Option<Trouble> {
        let troubles = self.troubles.borrow();
        [Part::Store, Part::Files].iter().find_map(|part| troubles.get(part).cloned())
    }

    /// Waits until labors can be started.
    pub(crate) async fn startable(&self) {
        self.until(|condition| !pauses(condition)).await;
    }

    /// Waits until labors have been kept from being started for so long, without a break, and says by what.
    pub async fn paused_for(&self, patience: Duration) -> Trouble {
        loop {
            self.pause_changed(false).await;
            if tokio::time::timeout(patience, self.startable()).await.is_err()
                && let Some(trouble) = self.pauses()
            {
                return trouble;
            }
        }
    }

    /// Waits until whether labors are kept from being started is no longer as `known`.
    pub(crate) async fn pause_changed(&self, known: bool) {
        self.until(|condition| pauses(condition) != known).await;
    }

    /// Waits until whether this part is in trouble is no longer as `known`.
    pub async fn changed(&self, part: Part, known: bool) {
        self.until(|condition| condition.contains_key(&part) != known).await;
    }

    async fn until(&self, is: impl FnMut(&BTreeMap<Part, Trouble>) -> bool) {
        // The sender lives as long as this.
        let _ = self.troubles.subscribe().wait_for(is).await;
    }

    /// A part could not be written. Said once, until it can be.
    pub(crate) fn enter(&self, part: Part, path: &Path, reason: &str, needed: u64) {
        self.enter_with(part, path, reason, free(path).unwrap_or(0), needed);
    }

    fn enter_with(&self, part: Part, path: &Path, reason: &str, free: u64, needed: u64) {
        let entered = self.troubles.send_if_modified(|all| {
            if let Some(known) = all.get_mut(&part) {
                known.free = free;
                return false;
            }
            let (path, file_system) = (path.to_owned(), file_system(path));
            let (reason, since) = (reason.to_owned(), clock::now());
            all.insert(part, Trouble { part, path, file_system, reason, free, needed, since });
            true
        });
        let now = self.troubles.borrow().get(&part).cloned();
        if entered && let Some(now) = now {
            let state = if part == Part::Files { "overloaded" } else { "read-only" };
            tracing::error!(help = now.help(), "{state}: {now}");
        }
    }

    /// A part is well again.
    pub(crate) fn leave(&self, part: Part) {
        let mut was = None;
        self.troubles.send_if_modified(|all| {
            was = all.remove(&part);
            was.is_some()
        });
        if let Some(was) = was {
            let seconds = clock::now().duration_since(was.since).unwrap_or_default().as_secs();
            let path = was.path.display();
            match part {
                Part::Files => {
                    tracing::warn!(
                        "no longer overloaded: file descriptors are free again, after {seconds} s"
                    );
                }
                _ => tracing::warn!(
                    "no longer read-only: the {part} in {path} can be written again, after {seconds} s"
                ),
            }
        }
    }

    /// Somebody was turned away at a bound. Said once in a while.
    pub(crate) fn refused(&self, text: &str) {
        let mut told = self.told.lock();
        if told.is_none_or(|at| at.elapsed() > AGAIN) {
            *told = Some(Instant::now());
            let (soft, hard) = file_limit();
            tracing::warn!(
                help =
                    format!("raise LimitNOFILE (`ulimit -n`; it is {soft}, at most {hard}), or close some"),
                "{text}"
            );
        }
    }

    /// Whether it may be for want of file descriptors that something has failed just now.
    pub(crate) fn lacks_files(&self) -> bool {
        let lacks = !files_are_free();
        if lacks {
            self.saw_no_file(&rustix::io::Errno::MFILE.into());
        }
        lacks
    }

    /// Notes an error, if it is that no file descriptor is free; whether it is.
    pub fn saw_no_file(&self, error: &io::Error) -> bool {
        let none = is_no_file(error);
        if none {
            let needed = u64::try_from(SPARE).unwrap_or(u64::MAX);
            self.enter_with(Part::Files, Path::new(""), &error.to_string(), 0, needed);
        }
        none
    }

    /// Notes an error of writing, if it is of a disk that is full or read-only.
    pub(crate) fn saw(&self, part: Part, path: &Path, error: &io::Error) {
        self.saw_no_file(error);
        if takes_nothing(error) {
            let free = free(path).unwrap_or(0);
            let needed = match error.kind() {
                io::ErrorKind::ReadOnlyFilesystem => 0,
                _ => free.saturating_add(MORE),
            };
            self.enter_with(part, path, &error.to_string(), free, needed);
        }
    }

    /// Looks what is well again. The store finds that out by itself.
    pub(crate) fn look(&self) {
        for trouble in self.troubles() {
            let is_well = match trouble.part {
                Part::Store => false,
                Part::Files => files_are_free(),
                Part::Blobs | Part::Logs => {
                    !is_read_only(&trouble.path)
                        && free(&trouble.path).is_none_or(|free| free >= trouble.needed)
                }
            };
            if is_well {
                self.leave(trouble.part);
            }
        }
    }
}

/// Whether an error is that of a disk that is full or read-only.
pub(crate) fn takes_nothing(error: &io::Error) -> bool {
    use io::ErrorKind::{QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | ReadOnlyFilesystem)
}

fn pauses(troubles: &BTreeMap<Part, Trouble>) -> bool {
    troubles.contains_key(&Part::Store) || troubles.contains_key(&Part::Files)
}

/// Whether an error says that no file descriptor is free, here or in the whole system.
fn is_no_file(error: &io::Error) -> bool {
    use rustix::io::Errno;
    [Errno::MFILE, Errno::NFILE].iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

fn files_are_free() -> bool {
    let spare: io::Result<Vec<_>> = (0..SPARE).map(|_| std::fs::File::open("/dev/null")).collect();
    spare.is_ok()
}

/// File descriptors that this process may have, and that it may allow itself.
pub fn file_limit() -> (u64, u64) {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    (limit.current.unwrap_or(u64::MAX), limit.maximum.unwrap_or(u64::MAX))
}

/// Raises the first of [`file_limit`] to the second, or to so many where that is less; never lowers it.
/// Returns what it is then.
pub fn raise_file_limit(most: u64) -> u64 {
    let (soft, hard) = file_limit();
    let wanted = hard.min(most);
    if wanted > soft {
        let maximum = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
        let limit = rustix::process::Rlimit { current: Some(wanted), maximum };
        if rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).is_ok() {
            return wanted;
        }
    }
    soft
}

/// Bytes that are free where this is; none where that is not known, or has no bound.
pub(crate) fn free(path: &Path) -> Option<u64> {
    let fs = statvfs(path)?;
    (fs.f_blocks > 0).then(|| fs.f_bavail.saturating_mul(fs.f_frsize))
}

fn is_read_only(path: &Path) -> bool {
    statvfs(path).is_some_and(|fs| fs.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY))
}

/// Of the path, or of the first directory above it that is there.
fn statvfs(path: &Path) -> Option<rustix::fs::StatVfs> {
    path.ancestors().find_map(|path| rustix::fs::statvfs(path).ok())
}

/// Where the file system is mounted that a path is on.
pub(crate) fn file_system(path: &Path) -> PathBuf {
    let device = |path: &Path| std::fs::metadata(path).ok().map(|metadata| metadata.dev());
    let mut there = path.ancestors().skip_while(|path| device(path).is_none());
    let Some(mut mount) = there.next() else { return path.to_owned() };
    let on = device(mount);
    for above in there {
        if device(above) != on {
            break;
        }
        mount = above;
    }
    mount.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_begins_once_and_ends_once() {
        let condition = Condition::default();
        let mut changes = condition.troubles.subscribe();
        assert!(condition.pauses().is_none());
        for n in 0..3 {
            condition.enter_with(Part::Store, Path::new("/x/store.redb"), "full", 100 - n, 4_000);
            assert_eq!(changes.has_changed().unwrap(), n == 0);
            changes.mark_unchanged();
        }
        let [now] = &condition.troubles()[..] else { panic!("one state") };
        assert_eq!((now.free, now.needed), (98, 4_000), "what is missing is kept up");
        assert!(now.help().contains("98 bytes are free, 4000 bytes are needed"), "{}", now.help());
        assert!(now.to_string().contains("/x/store.redb"));
        assert!(condition.pauses().is_some_and(|now| now.part == Part::Store));
        condition.leave(Part::Store);
        assert!(changes.has_changed().unwrap());
        changes.mark_unchanged();
        condition.leave(Part::Store);
        assert!(!changes.has_changed().unwrap());
    }

    #[tokio::test]
    async fn a_pause_is_told_when_it_lasts() {
        let condition = Condition::default();
        let enter = || condition.enter_with(Part::Store, Path::new("/x/store.redb"), "full", 0, 4_000);
        let patience = Duration::from_millis(300);
        let last = async {
            for _ in 0..3 {
                enter();
                tokio::task::yield_now().await;
                condition.leave(Part::Store);
                tokio::task::yield_now().await;
            }
            enter();
            Instant::now()
        };
        let (trouble, last) = tokio::join!(condition.paused_for(patience), last);
        assert_eq!(trouble.part, Part::Store);
        assert!(last.elapsed() >= patience, "{:?}", last.elapsed());
    }

    #[test]
    fn only_a_disk_that_takes_nothing_is_such_a_state() {
        let (condition, directory) = (Condition::default(), tempfile::tempdir().unwrap());
        for other in [io::ErrorKind::PermissionDenied, io::ErrorKind::NotFound, io::ErrorKind::Other] {
            condition.saw(Part::Blobs, directory.path(), &other.into());
        }
        assert_eq!(condition.troubles(), []);
        condition.saw(Part::Blobs, directory.path(), &rustix::io::Errno::MFILE.into());
        let [files] = &condition.troubles()[..] else { panic!("one trouble") };
        assert!(files.part == Part::Files && files.help().contains("LimitNOFILE"), "{files}");
        // There are enough.
        condition.look();
        assert_eq!(condition.troubles(), []);
        condition.saw(Part::Blobs, directory.path(), &io::ErrorKind::ReadOnlyFilesystem.into());
        assert_eq!(condition.troubles().len(), 1);
        // It is not read-only at all.
        condition.look();
        assert_eq!(condition.troubles(), []);
        condition.saw(Part::Logs, directory.path(), &io::ErrorKind::StorageFull.into());
        let needed = condition.troubles()[0].needed;
        assert!(needed >= MORE);
    }

    #[test]
    fn a_file_system_is_named_by_where_it_is_mounted() {
        assert_eq!(file_system(Path::new("/proc/self/nothing/here")), Path::new("/proc"));
        assert_eq!(file_system(Path::new("/")), Path::new("/"));
    }

    #[test]
    fn amounts_are_never_said_smaller_than_they_are() {
        assert_eq!([bytes(0), bytes(10_241), bytes((16 << 20) + 1)], ["0 bytes", "11 KiB", "17 MiB"]);
    }
}
