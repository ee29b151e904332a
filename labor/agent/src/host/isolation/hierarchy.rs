//! Where the groups of plugin hosts may be made: below the group that this process is in.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

/// What a group can be limited in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Controller {
    Memory,
    Cpu,
    Processes,
}

impl Controller {
    pub(super) const ALL: [Self; 3] = [Self::Memory, Self::Cpu, Self::Processes];

    /// As the kernel calls it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Cpu => "cpu",
            Self::Processes => "pids",
        }
    }

    /// What an isolation calls its limit.
    pub(super) fn key(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Cpu => "cpu_milli",
            Self::Processes => "processes",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    /// One hierarchy for each controller.
    One,
    /// One for all of them, in which a group has either processes or groups with controllers.
    Two,
}

/// A group of which others can be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Parent {
    pub(super) version: Version,
    pub(super) directory: PathBuf,
    /// Where its hierarchy is mounted.
    mount: PathBuf,
}

/// What the system says of cgroups.
pub(super) struct System {
    /// `/proc/self/mountinfo`.
    mounts: String,
    /// `/proc/self/cgroup`.
    own: String,
}

impl System {
    pub(super) fn read() -> io::Result<Self> {
        let of = |name| fs::read_to_string(Path::new("/proc/self").join(name));
        Ok(Self { mounts: of("mountinfo")?, own: of("cgroup")? })
    }

    /// The group of this process in the hierarchy that has a controller. Which one that is was decided
    /// when the system started: no two have the same.
    pub(super) fn parent(&self, controller: &str) -> Option<Parent> {
        let two = self.of_version_two();
        // That a controller can be had there is what its root says; the own group may only not have it yet.
        two.filter(|parent| lists(&parent.mount.join("cgroup.controllers"), controller))
            .or_else(|| self.of_version_one(controller))
    }

    pub(super) fn of_version_two(&self) -> Option<Parent> {
        let own = self.own.lines().find_map(|line| line.strip_prefix("0::"))?;
        let mount = self.mounts.lines().filter_map(Mount::parse).find(|mount| mount.kind == "cgroup2")?;
        mount.parent(Version::Two, own)
    }

    fn of_version_one(&self, controller: &str) -> Option<Parent> {
        let has = |list: &str| list.split(',').any(|name| name == controller);
        let own = self.own.lines().find_map(|line| {
            let (_, rest) = line.split_once(':')?;
            let (controllers, path) = rest.split_once(':')?;
            has(controllers).then_some(path)
        })?;
        let mut mounts = self.mounts.lines().filter_map(Mount::parse);
        mounts.find(|mount| mount.kind == "cgroup" && has(mount.options))?.parent(Version::One, own)
    }
}

/// A line of `mountinfo`.
struct Mount<'a> {
    root: &'a str,
    point: PathBuf,
    kind: &'a str,
    options: &'a str,
}

impl<'a> Mount<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let (place, what) = line.split_once(" - ")?;
        let mut place = place.split(' ').skip(3);
        let (root, point) = (place.next()?, place.next()?);
        let mut what = what.split(' ');
        let kind = what.next()?;
        Some(Self { root, point: unescape(point), kind, options: what.nth(1)? })
    }

    /// The directory of a group, where that is below the root of what is mounted.
    fn parent(self, version: Version, own: &str) -> Option<Parent> {
        let inside = Path::new(own).strip_prefix(self.root).ok()?;
        // A process that is above the root of its own namespace is shown as `/..`.
        let above = inside.components().any(|part| part.as_os_str() == "..");
        let directory = if above { return None } else { self.point.join(inside) };
        Some(Parent { version, directory, mount: self.point })
    }
}

/// Blanks and the like are octal numbers in `mountinfo`.
fn unescape(text: &str) -> PathBuf {
    ["\\040", "\\011", "\\012", "\\134"]
        .iter()
        .zip([" ", "\t", "\n", "\\"])
        .fold(text.to_owned(), |t, (from, to)| t.replace(from, to))
        .into()
}

/// Whether a file of names has this one.
fn lists(file: &Path, name: &str) -> bool {
    fs::read_to_string(file).is_ok_and(|names| names.split_whitespace().any(|found| found == name))
}

impl Parent {
    /// Itself, or the group above where it is this one that can pass the controller on.
    ///
    /// # Errors
    /// What keeps it from that, in words.
    pub(super) fn with(self, controller: &str) -> Result<Self, String> {
        match self.version {
            Version::One => Ok(self),
            Version::Two => match pass_on(&self.directory, controller) {
                Ok(()) => Ok(self),
                Err(error) => self.above(controller).ok_or_else(|| {
                    let directory = self.directory.display();
                    let help = "run it in a systemd unit with Delegate=yes and DelegateSubgroup=agents";
                    match error.raw_os_error() == Some(Errno::BUSY.raw_os_error()) {
                        true => format!(
                            "the group {directory} has processes, so none with limits can be below it; {help}"
                        ),
                        false => format!("{directory} does not pass {controller} on: {error}; {help}"),
                    }
                }),
            },
        }
    }

    /// systemd marks what is given to a unit, and puts the unit's processes into a group below that.
    fn above(&self, controller: &str) -> Option<Self> {
        let directory = self.directory.parent().filter(|above| above.starts_with(&self.mount))?;
        let mut value = [0; 1];
        let delegated = ["user.delegate", "trusted.delegate"].into_iter().any(|name| {
            rustix::fs::getxattr(directory, name, &mut value).is_ok_and(|length| length == 1)
                && value == *b"1"
        });
        let above = Self { directory: directory.to_owned(), ..self.clone() };
        (delegated && pass_on(directory, controller).is_ok()).then_some(above)
    }
}

/// From now on groups below this one, of version 2, have a controller.
pub(super) fn pass_on(directory: &Path, controller: &str) -> io::Result<()> {
    let file = directory.join("cgroup.subtree_control");
    if lists(&file, controller) { Ok(()) } else { fs::write(file, format!("+{controller}")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
25 30 0:23 / /sys rw,nosuid shared:7 - sysfs sysfs rw
40 25 0:30 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
41 25 0:31 /docker/c1 /sys/fs/cgroup/mem\\040ory rw - cgroup cgroup rw,memory
42 25 0:32 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd
43 25 0:33 / /sys/fs/cgroup/unified rw shared:2 - cgroup2 cgroup2 rw,nsdelegate";

    fn system(own: &str) -> System {
        System { mounts: MOUNTS.into(), own: own.into() }
    }

    #[test]
    fn the_own_group_is_found_in_the_hierarchy_of_a_controller() {
        let system = system("4:memory:/docker/c1/labors\n3:cpu,cpuacct:/a\n1:name=systemd:/b\n0::/c d");
        let memory = system.of_version_one("memory").unwrap();
        assert_eq!(memory.directory, Path::new("/sys/fs/cgroup/mem ory/labors"));
        assert_eq!((memory.version, &*memory.mount), (Version::One, Path::new("/sys/fs/cgroup/mem ory")));
        assert_eq!(
            system.of_version_one("cpu").unwrap().directory,
            Path::new("/sys/fs/cgroup/cpu,cpuacct/a")
        );
        assert_eq!(system.of_version_two().unwrap().directory, Path::new("/sys/fs/cgroup/unified/c d"));
        assert_eq!(system.of_version_one("pids"), None);
        assert_eq!(system.of_version_one("systemd"), None);
    }

    #[test]
    fn a_group_that_is_not_within_what_is_mounted_is_none() {
        for own in ["4:memory:/other\n0::/../x", "4:memory:/..\n0::/..", "", "nonsense", "4:memory"] {
            let system = system(own);
            assert_eq!((system.of_version_one("memory"), system.of_version_two()), (None, None), "{own}");
        }
        let unmounted = System { mounts: String::new(), own: "4:memory:/\n0::/".into() };
        assert_eq!((unmounted.of_version_one("memory"), unmounted.of_version_two()), (None, None));
    }

    #[test]
    fn the_group_of_this_process_is_there() {
        let system = System::read().unwrap();
        for controller in Controller::ALL {
            if let Some(parent) = system.parent(controller.name()) {
                assert!(parent.directory.join("cgroup.procs").is_file(), "{parent:?}");
            }
        }
    }
}
