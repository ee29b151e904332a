//! What keeps a plugin host apart from the agent and in bounds: a user, limits of the process, cgroups.
//!
//! The agent makes the groups and says the rest to the child, which applies it to itself before it loads
//! or executes anything of a release: that needs neither `unsafe` nor a second program.

mod apply;
mod groups;
mod hierarchy;
mod kills;
mod user;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::Path;
use std::sync::Once;

use overseer_protocol::{Cause, Isolation};
use parking_lot::Mutex;

use self::groups::Missing;
use self::hierarchy::Controller;
use super::boot_failed;

pub(super) use self::apply::Limits;
pub(crate) use self::groups::Groups;
pub use self::groups::{end_stale_groups, try_groups};
pub(super) use self::kills::Kills;
pub(super) use self::user::User;
pub use self::user::check_user;

/// The isolation of an agent's hosts.
#[derive(Debug)]
pub struct Confinement {
    isolation: Isolation,
    /// What was said to be missing, which is said once.
    said: Mutex<BTreeSet<&'static str>>,
    /// What agents before have left is looked for once.
    tidied: Once,
}

/// The isolation of one host that is about to start.
pub(super) struct Confined {
    /// For the child.
    pub(super) argument: OsString,
    pub(super) groups: Groups,
    user: Option<User>,
}

impl Confinement {
    /// None where nothing is asked for.
    pub fn new(isolation: Isolation) -> Option<Self> {
        (!isolation.is_default()).then(|| Self { isolation, said: Mutex::default(), tidied: Once::new() })
    }

    /// Whether the hosts run as a user of their own.
    pub(crate) fn has_user(&self) -> bool {
        self.isolation.user.is_some()
    }

    /// As whom files are touched that a plugin names; none for the agent itself.
    ///
    /// # Errors
    /// As for a host that starts.
    pub(crate) fn user(&self) -> Result<Option<User>, String> {
        self.isolation.user.as_ref().map(User::find).transpose()
    }

    /// Prepares for a host of this name that works in `directory` and runs `entry`.
    ///
    /// # Errors
    /// `BootFailed`: what cannot be had here, and must be.
    pub(super) fn prepare(&self, name: &str, directory: &Path, entry: &Path) -> Result<Confined, Cause> {
        let isolation = &self.isolation;
        isolation.check().map_err(|error| boot_failed(error.to_string()))?;
        let user = self.user().map_err(boot_failed)?;
        if let Some(user) = &user {
            user.give(directory).map_err(|error| boot_failed(format!("{}: {error}", directory.display())))?;
            user.reaches(&[entry, directory]).map_err(boot_failed)?;
        }
        self.tidied.call_once(|| drop(tokio::task::spawn_blocking(end_stale_groups)));
        let (groups, missing) = Groups::make(name, isolation);
        let lacks_memory = missing.iter().any(|missing| missing.controller == Controller::Memory);
        for Missing { controller, why } in missing {
            let key = controller.key();
            if isolation.required {
                return Err(boot_failed(format!(
                    "the isolation requires a limit of {key}, which cannot be had: {why}"
                )));
            }
            self.say(key, &why);
        }
        let limits = Limits {
            groups: groups.entries(),
            kills: groups.kills(),
            user: user.as_ref().map(|user| (user.uid, user.gid)),
            open_files: isolation.open_files.map(u64::from),
            file_size: isolation.file_size,
            core: isolation.core,
            data: isolation.memory.filter(|_| lacks_memory),
        };
        Ok(Confined { argument: limits.to_argument(), groups, user })
    }

    fn say(&self, key: &'static str, why: &str) {
        if !self.said.lock().insert(key) {
            return;
        }
        let instead = match key {
            "memory" => "; each process may have that many bytes of data instead",
            _ => "",
        };
        tracing::warn!("plugin hosts have no limit of {key}{instead}: {why}");
    }
}

impl Confined {
    /// Variables that would lead another user into what is not its own.
    pub(super) fn environment(&self, directory: &Path) -> Vec<(&'static str, OsString)> {
        let Some(user) = &self.user else { return Vec::new() };
        let name = OsString::from(&user.name);
        vec![("HOME", directory.into()), ("USER", name.clone()), ("LOGNAME", name)]
    }
}
