use std::fmt;

/// Longest path in an archive, in bytes: it must fit into `PATH_MAX` behind a cache directory.
pub const MAX_PATH: usize = 1024;
const MAX_NAME: usize = 255;

/// A path in an archive: relative, UTF-8, `/` between names, no `.`, no `..`, nothing empty.
/// Sorts by bytes, so a directory comes before what is in it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ArchivePath(String);

/// Why a text is no path in an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathFault {
    /// Starts at the root of the file system.
    #[error("is absolute; give it relative to the archive's root")]
    Absolute,
    /// Has `..` where it may not be.
    #[error("has `..` in it; name the place itself")]
    Parent,
    /// Not text.
    #[error("is not UTF-8; rename it")]
    NotUtf8,
    /// Too long as a whole.
    #[error("is longer than {MAX_PATH} bytes; shorten it")]
    TooLong,
    /// One name of it is too long.
    #[error("has a name of more than {MAX_NAME} bytes; shorten it")]
    NameTooLong,
    /// Empty, or with an empty name or `.` in it.
    #[error("has an empty name or `.` in it; write it plainly, as in lib/libx.so")]
    EmptyName,
    /// Bytes that garble terminals and logs.
    #[error("has a control character in it; rename it")]
    Control,
}

impl ArchivePath {
    /// Checks a path.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn new(text: &str) -> Result<Self, PathFault> {
        if text.starts_with('/') {
            return Err(PathFault::Absolute);
        }
        if text.len() > MAX_PATH {
            return Err(PathFault::TooLong);
        }
        text.split('/').try_for_each(check_name)?;
        Ok(Self(text.to_owned()))
    }

    /// Checks a path of bytes, as an archive has it.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, PathFault> {
        Self::new(std::str::from_utf8(bytes).map_err(|_| PathFault::NotUtf8)?)
    }

    /// The path as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The directory that it is in; none in the root.
    pub fn parent(&self) -> Option<Self> {
        self.0.rsplit_once('/').map(|(parent, _)| Self(parent.to_owned()))
    }

    /// Checks where a symbolic link at this path points to.
    ///
    /// `..` may only lead: the directories above a link are real ones, so leading `..` are exact,
    /// and a later one could climb out of wherever another link led.
    ///
    /// # Errors
    /// What is wrong with the target; [`PathFault::Parent`] if it leaves the root or climbs late.
    pub fn check_link(&self, target: &str) -> Result<(), PathFault> {
        if target.starts_with('/') {
            return Err(PathFault::Absolute);
        }
        if target.len() > MAX_PATH {
            return Err(PathFault::TooLong);
        }
        let mut depth = self.0.matches('/').count();
        let mut names = target.split('/').peekable();
        while names.next_if_eq(&"..").is_some() {
            depth = depth.checked_sub(1).ok_or(PathFault::Parent)?;
        }
        names.try_for_each(check_name)
    }
}

fn check_name(name: &str) -> Result<(), PathFault> {
    match name {
        ".." => Err(PathFault::Parent),
        "" | "." => Err(PathFault::EmptyName),
        _ if name.len() > MAX_NAME => Err(PathFault::NameTooLong),
        _ if name.chars().any(char::is_control) => Err(PathFault::Control),
        _ => Ok(()),
    }
}

impl fmt::Display for ArchivePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_relative_paths_are_taken() {
        for good in ["a", "release.toml", "lib/libx.so", "...", "a b/ä", "a/..b"] {
            assert_eq!(ArchivePath::new(good).unwrap().as_str(), good);
        }
        let long = "a/".repeat(600);
        let name = "n".repeat(256);
        for (bad, fault) in [
            ("", PathFault::EmptyName),
            ("/etc/passwd", PathFault::Absolute),
            ("//a", PathFault::Absolute),
            ("a//b", PathFault::EmptyName),
            ("a/", PathFault::EmptyName),
            ("./a", PathFault::EmptyName),
            ("..", PathFault::Parent),
            ("a/../b", PathFault::Parent),
            ("a\0b", PathFault::Control),
            ("a\nb", PathFault::Control),
            (&long, PathFault::TooLong),
            (&name, PathFault::NameTooLong),
        ] {
            assert_eq!(ArchivePath::new(bad), Err(fault), "{bad:?}");
        }
        assert_eq!(ArchivePath::from_bytes(b"a\xff"), Err(PathFault::NotUtf8));
    }

    #[test]
    fn a_link_stays_in_the_root() {
        let link = ArchivePath::new("lib/x/link").unwrap();
        for good in ["libx.so", "../libx.so", "../../bin/x", "..", "../..", "a/b"] {
            link.check_link(good).unwrap();
        }
        for bad in ["../../..", "../../../etc/passwd", "a/..", "a/../../../..", "../a/.."] {
            assert_eq!(link.check_link(bad), Err(PathFault::Parent), "{bad}");
        }
        assert_eq!(link.check_link("/etc"), Err(PathFault::Absolute));
        assert_eq!(link.check_link(""), Err(PathFault::EmptyName));
        assert_eq!(link.check_link("a/"), Err(PathFault::EmptyName));
    }

    #[test]
    fn a_directory_sorts_before_its_files() {
        let path = |text| ArchivePath::new(text).unwrap();
        assert!(path("a") < path("a-b") && path("a-b") < path("a/b"));
        assert_eq!(path("a/b/c").parent(), Some(path("a/b")));
        assert_eq!(path("a").parent(), None);
    }
}
