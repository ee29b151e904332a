//! Whether this machine holds what `isolation` of a fleet asks for: labors of the adapter `local` run here,
//! as the user that the server runs as. What no plugin host would start without is an error, what their
//! agents go on without is a warning.

use std::fs;
use std::io;

use overseer::{Isolation, RunAs};

use crate::config::{AdapterKind, FleetConfig, Plan};
use crate::failure::Failure;

/// Of this machine, and of who looks.
struct Machine {
    is_root: bool,
    /// `/etc/passwd`.
    users: io::Result<String>,
    /// Limits that need cgroups: the key of each in an isolation, and what is in the way.
    groups: Vec<(&'static str, Result<(), String>)>,
}

/// What the fleets of a plan go on without.
///
/// # Errors
/// `serve.isolation`: labors of a fleet could not run what they are given.
pub(in crate::serve) fn check(plan: &Plan) -> Result<Vec<String>, Failure> {
    let here = |fleet: &&FleetConfig| fleet.adapter == AdapterKind::Local && !fleet.isolation.is_default();
    let fleets: Vec<_> = plan.fleets.values().map(|fleet| &fleet.config).filter(here).collect();
    if fleets.is_empty() {
        return Ok(Vec::new());
    }
    let machine = Machine {
        is_root: rustix::process::geteuid().is_root(),
        users: fs::read_to_string("/etc/passwd"),
        groups: overseer_labor::host::try_groups(),
    };
    let mut warnings = Vec::new();
    for fleet in fleets {
        let name = &fleet.name;
        let lacks = machine.holds(&fleet.isolation).map_err(|(key, why)| {
            let message = format!("labors of {name} could not start what they run: isolation.{key}: {why}");
            let help = format!("put that right, or say less in [fleets.{name}.isolation]");
            Failure::told(crate::exit::Exit::BadInput, "serve.isolation", &message).or_help(help)
        })?;
        warnings.extend(lacks.into_iter().map(|(key, why)| format!("fleets.{name}.isolation.{key}: {why}")));
    }
    Ok(warnings)
}

/// A key of an isolation, and what is in the way.
type Lack = (&'static str, String);

impl Machine {
    /// What is gone on without.
    ///
    /// # Errors
    /// The first that must be had.
    fn holds(&self, isolation: &Isolation) -> Result<Vec<Lack>, Lack> {
        if let Some(user) = &isolation.user {
            self.has(user).map_err(|why| ("user", why))?;
        }
        let asked = |key: &str| match key {
            "memory" => isolation.memory.is_some(),
            "cpu_milli" => isolation.cpu_milli.is_some(),
            "processes" => isolation.processes.is_some(),
            _ => false,
        };
        let mut lacks = Vec::new();
        for (key, had) in self.groups.iter().filter(|(key, _)| asked(key)) {
            let Err(why) = had else { continue };
            match (in_the_file(key), isolation.required) {
                (key, true) => return Err((key, format!("it is required and cannot be had: {why}"))),
                ("memory", false) => {
                    let instead = "it is of each process alone here, which may have that many bytes of data";
                    lacks.push(("memory", format!("{instead}: {why}")));
                }
                (key, false) => lacks.push((key, format!("there is no such limit here: {why}"))),
            }
        }
        Ok(lacks)
    }

    /// Whether a plugin host can be this user.
    fn has(&self, wanted: &RunAs) -> Result<(), String> {
        if !self.is_root {
            return Err(format!("only root can run it as user {wanted}; start the server as root"));
        }
        let users = self.users.as_ref().map_err(|error| format!("/etc/passwd cannot be read: {error}"))?;
        overseer_labor::host::check_user(wanted, users)
    }
}

/// What the file calls a limit.
pub(crate) fn in_the_file(key: &'static str) -> &'static str {
    match key {
        "cpu_milli" => "cpu",
        key => key,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(is_root: bool) -> Machine {
        let no = |key| (key, Err("no cgroups".to_owned()));
        let users =
            "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65533:n:/:/bin/false\nadmin:x:7:0::/:\nbad\n";
        let groups = vec![no("memory"), no("cpu_milli"), ("processes", Ok(()))];
        Machine { is_root, users: Ok(users.into()), groups }
    }

    #[test]
    fn a_user_must_be_there_and_be_no_root_and_who_looks_must_be() {
        let as_user = |user: &str| Isolation { user: Some(user.parse().unwrap()), ..Isolation::default() };
        for good in ["nobody", "65534", "65534:5", "12:13"] {
            assert_eq!(machine(true).holds(&as_user(good)), Ok(Vec::new()), "{good}");
        }
        let wrong =
            [("builder", "useradd --system builder"), ("12", "say 12:GID"), ("admin", "no limit holds")];
        for (user, part) in wrong {
            let (key, why) = machine(true).holds(&as_user(user)).unwrap_err();
            assert!(key == "user" && why.contains(part), "{user}: {why}");
        }
        let (_, why) = machine(false).holds(&as_user("nobody")).unwrap_err();
        assert!(why.contains("only root"), "{why}");
    }

    #[test]
    fn limits_that_cannot_be_had_are_warned_of_unless_they_are_required() {
        let asked = Isolation {
            memory: Some(1 << 30),
            cpu_milli: Some(500),
            processes: Some(64),
            open_files: Some(64),
            ..Isolation::default()
        };
        let lacks = machine(false).holds(&asked).unwrap();
        assert_eq!(lacks.iter().map(|(key, _)| *key).collect::<Vec<_>>(), ["memory", "cpu"]);
        assert!(lacks.iter().all(|(_, why)| why.contains("no cgroups")), "{lacks:?}");
        assert!(lacks[0].1.contains("each process alone"), "{lacks:?}");
        let required = Isolation { required: true, ..asked };
        assert_eq!(machine(true).holds(&required).unwrap_err().0, "memory");
        let held = Isolation { memory: None, cpu_milli: None, ..required };
        assert_eq!(machine(true).holds(&held), Ok(Vec::new()));
    }
}
