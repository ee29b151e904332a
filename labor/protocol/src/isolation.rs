use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What a plugin host, and all that it starts, may be and use on a node. What is not said is as the
/// agent has it.
///
/// `user`, `open_files`, `file_size` and `core` hold wherever they can be set, and a host that cannot
/// have them does not start. `memory`, `cpu` and `processes` are of the host and its children together
/// and need cgroups: where a node has none the agent says so once and goes on without, unless
/// `required` is set.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Isolation {
    /// As whom it runs, which must exist on the node; the agent has to be root.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<RunAs>,
    /// Bytes of memory, without swap; who has more is killed. Where there is no cgroup for it, each of
    /// the processes alone may have that many bytes of data instead, and what it asks for beyond is
    /// refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<u64>,
    /// Time of processors, in thousandths of a core.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_milli: Option<u32>,
    /// Processes and threads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub processes: Option<u32>,
    /// Open files of each process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub open_files: Option<u32>,
    /// Bytes of each file that is written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file_size: Option<u64>,
    /// Bytes of each core dump; 0 for none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub core: Option<u64>,
    /// A host does not start where `memory`, `cpu_milli` or `processes` cannot be held.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub required: bool,
}

/// Why an isolation cannot work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IsolationError {
    /// A limit under which no host starts.
    #[error(
        "the limit {key} of an isolation is {found}; it must be {least} at least, or no host would start"
    )]
    TooLow {
        /// Which.
        key: &'static str,
        /// As it was said.
        found: u64,
        /// The least that works.
        least: u64,
    },
    /// A text is no user.
    #[error("{0:?} is no user to run a plugin host as: {1}; write a name, UID or UID:GID")]
    User(String, &'static str),
}

impl IsolationError {
    /// Stable code, as ERRORS.md lists it.
    pub fn code(&self) -> &'static str {
        match self {
            Self::TooLow { .. } => "isolation.too_low",
            Self::User(..) => "isolation.user",
        }
    }
}

impl Isolation {
    /// Least `memory`, in bytes: a host with a plugin that does nothing has about half of it.
    pub const LEAST_MEMORY: u64 = 16 << 20;
    /// Least `cpu_milli`: the kernel grants a millisecond in 100.
    pub const LEAST_CPU_MILLI: u32 = 10;
    /// Least `processes`: the threads of a host are counted too.
    pub const LEAST_PROCESSES: u32 = 16;
    /// Least `open_files`.
    pub const LEAST_OPEN_FILES: u32 = 32;

    /// Nothing is said.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Whether a host can start with these limits.
    ///
    /// # Errors
    /// [`IsolationError::TooLow`], for the first that is.
    pub fn check(&self) -> Result<(), IsolationError> {
        let limits = [
            ("memory", self.memory, Self::LEAST_MEMORY),
            ("cpu_milli", self.cpu_milli.map(u64::from), u64::from(Self::LEAST_CPU_MILLI)),
            ("processes", self.processes.map(u64::from), u64::from(Self::LEAST_PROCESSES)),
            ("open_files", self.open_files.map(u64::from), u64::from(Self::LEAST_OPEN_FILES)),
        ];
        let low =
            |(key, found, least): (_, Option<u64>, _)| Some((key, found.filter(|n| *n < least)?, least));
        match limits.into_iter().find_map(low) {
            Some((key, found, least)) => Err(IsolationError::TooLow { key, found, least }),
            None => Ok(()),
        }
    }
}

/// A user of a node other than root: `NAME`, `UID` or `UID:GID`. The group that is not said is that of
/// the user.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum RunAs {
    /// By name.
    Name(String),
    /// By number.
    Ids {
        /// User.
        uid: u32,
        /// Group.
        gid: Option<u32>,
    },
}

impl FromStr for RunAs {
    type Err = IsolationError;

    fn from_str(text: &str) -> Result<Self, IsolationError> {
        let wrong = |why| Err(IsolationError::User(text.chars().take(64).collect(), why));
        let (user, group) = match text.split_once(':') {
            Some((user, group)) => (user, Some(group)),
            None => (text, None),
        };
        // The largest number is how the kernel says that nobody is meant.
        let id = |text: &str| text.parse().ok().filter(|id| *id != u32::MAX);
        if !user.is_empty() && user.bytes().all(|b| b.is_ascii_digit()) {
            let gid = group.map(id);
            return match (id(user), gid) {
                (Some(0), _) | (_, Some(Some(0))) => wrong("0 is root, which no limit holds"),
                (None, _) | (_, Some(None)) => wrong("the number is none of a user or group"),
                (Some(uid), gid) => Ok(Self::Ids { uid, gid: gid.flatten() }),
            };
        }
        if group.is_some() {
            return wrong("a group is said by number, beside the number of its user");
        }
        let allowed = |c: char| c.is_ascii_alphanumeric() || "._-@\\$".contains(c);
        match user {
            "root" => wrong("root is whom no limit holds"),
            "" => wrong("it is empty"),
            name if name.len() > 64 || !name.chars().all(allowed) || name.starts_with('-') => {
                wrong("no user has such a name")
            }
            name => Ok(Self::Name(name.to_owned())),
        }
    }
}

impl fmt::Display for RunAs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Ids { uid, gid: None } => write!(f, "{uid}"),
            Self::Ids { uid, gid: Some(gid) } => write!(f, "{uid}:{gid}"),
        }
    }
}

impl TryFrom<String> for RunAs {
    type Error = IsolationError;

    fn try_from(text: String) -> Result<Self, IsolationError> {
        text.parse()
    }
}

impl From<RunAs> for String {
    fn from(user: RunAs) -> Self {
        user.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_a_name_or_numbers_and_never_root() {
        for good in ["nobody", "build-1", "1000", "1000:1001", "corp\\jo", "4294967294"] {
            assert_eq!(good.parse::<RunAs>().unwrap().to_string(), good);
        }
        assert_eq!("7:8".parse(), Ok(RunAs::Ids { uid: 7, gid: Some(8) }));
        for bad in [
            "",
            "0",
            "0:5",
            "5:0",
            "root",
            ":",
            "5:",
            ":5",
            "a:b",
            "a:5",
            "5:b",
            "-x",
            "a b",
            "a/b",
            "4294967295",
            "99999999999",
            "+5",
        ] {
            let error = bad.parse::<RunAs>().expect_err(bad);
            assert_eq!(error.code(), "isolation.user");
            assert!(error.to_string().contains("UID:GID"), "{error}");
        }
    }

    #[test]
    fn a_limit_under_which_no_host_starts_is_named() {
        let none = Isolation::default;
        for (isolation, key) in [
            (Isolation { memory: Some(0), ..none() }, "memory"),
            (Isolation { cpu_milli: Some(9), ..none() }, "cpu_milli"),
            (Isolation { processes: Some(1), ..none() }, "processes"),
            (Isolation { open_files: Some(3), ..none() }, "open_files"),
        ] {
            let error = isolation.check().unwrap_err();
            assert!(error.to_string().contains(key), "{error}");
            assert_eq!(error.code(), "isolation.too_low");
        }
        let least = Isolation {
            memory: Some(Isolation::LEAST_MEMORY),
            cpu_milli: Some(Isolation::LEAST_CPU_MILLI),
            processes: Some(Isolation::LEAST_PROCESSES),
            open_files: Some(Isolation::LEAST_OPEN_FILES),
            file_size: Some(0),
            core: Some(0),
            ..none()
        };
        assert_eq!(least.check(), Ok(()));
        assert!(!least.is_default() && none().is_default());
    }
}
