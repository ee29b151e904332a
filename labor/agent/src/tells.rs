//! What an agent that somebody has started by hand says of itself: in plain words on standard
//! error, or as documents on standard output, one on a line.

use std::time::{Duration, SystemTime};

use overseer_protocol::{Cause, FleetName, LaborId};
use serde::Serialize;

/// Whom the agent tells what happens to it.
#[derive(Debug, Clone, Default)]
pub enum Tells {
    /// Nobody: it was started by a program, which has its log and its exit code.
    #[default]
    Nobody,
    /// Whoever has let this machine join.
    Joined {
        /// The fleet of the invitation.
        fleet: FleetName,
        /// Until when the invitation is good.
        until: SystemTime,
        /// As documents.
        json: bool,
    },
}

/// What happens to an agent.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(crate) enum Told<'a> {
    Joined {
        fleet: &'a FleetName,
        labor: LaborId,
    },
    Unreachable {
        why: &'a str,
    },
    Connected {
        endpoint: String,
    },
    Ready,
    /// What it runs is not up.
    Failed {
        code: &'static str,
        why: String,
    },
    Lost {
        why: &'a str,
    },
    /// It finishes what runs.
    Draining,
    /// The Overseer wants it to end.
    Ending {
        code: &'static str,
        why: String,
    },
    Refused {
        why: &'a str,
        help: String,
    },
}

impl Tells {
    /// Says it. False where nobody listens: then it belongs into the log.
    pub(crate) fn tell(&self, told: &Told<'_>) -> bool {
        let Self::Joined { json, .. } = self else { return false };
        // A reader that has gone away changes nothing for the machine.
        let _ = match json {
            true => say(std::io::stdout(), &serde_json::to_string(told).unwrap_or_default()),
            false => say(std::io::stderr(), &format!("labor: {}", words(told))),
        };
        true
    }

    /// Says that the Overseer wants nothing to do with it. `joined`: any more.
    pub(crate) fn refused(&self, why: &str, joined: bool) -> bool {
        let Self::Joined { fleet, until, .. } = self else { return false };
        let again = format!("make a new invitation on the server: overseer fleet invite {fleet}");
        let help = match SystemTime::now().duration_since(*until) {
            _ if joined => format!("its place in the fleet was given up; to come back, {again}"),
            Ok(since) => {
                format!("by this machine's clock the invitation was good until {} ago; {again}", ago(since))
            }
            Err(_) => format!(
                "an invitation is good once and for a while: this one was used before, was taken back, or the fleet {fleet} was stopped; {again}"
            ),
        };
        self.tell(&Told::Refused { why, help })
    }

    pub(crate) fn failed(&self, cause: &Cause) -> bool {
        self.tell(&Told::Failed { code: cause.code(), why: cause.to_string() })
    }

    pub(crate) fn ending(&self, cause: &Cause) -> bool {
        self.tell(&Told::Ending { code: cause.code(), why: cause.to_string() })
    }
}

fn say(mut to: impl std::io::Write, line: &str) -> std::io::Result<()> {
    writeln!(to, "{line}").and_then(|()| to.flush())
}

fn words(told: &Told<'_>) -> String {
    match told {
        Told::Joined { fleet, labor } => format!("joined fleet {fleet} as labor {labor}"),
        Told::Unreachable { why } => format!("not connected yet, trying again: {why}"),
        Told::Connected { endpoint } => format!("connected to {endpoint}"),
        Told::Ready => "ready: it takes calls and tasks".to_owned(),
        Told::Failed { why, .. } => format!("what it should run is not up: {why}"),
        Told::Lost { why } => format!("lost, dialling again: {why}"),
        Told::Draining => "finishing what runs; a second signal ends it at once".to_owned(),
        Told::Ending { why, .. } => format!("the Overseer ends it: {why}"),
        Told::Refused { why, help } => format!("refused: {why}\n  help: {help}"),
    }
}

fn ago(since: Duration) -> String {
    match since.as_secs() {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7200 => format!("{} min", seconds / 60),
        seconds => format!("{} h", seconds / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_what_to_do_by_what_is_known() {
        let told = |until: SystemTime, joined| {
            let tells = Tells::Joined { fleet: "farm".parse().unwrap(), until, json: false };
            assert!(tells.refused("no", joined));
        };
        told(SystemTime::UNIX_EPOCH, false);
        told(SystemTime::now() + Duration::from_secs(60), true);
        assert!(!Tells::Nobody.refused("no", false), "it belongs into the log");
    }

    #[test]
    fn how_long_ago_is_said_in_one_unit() {
        for (seconds, text) in [(0, "0 s"), (119, "119 s"), (150, "2 min"), (7200, "2 h"), (200_000, "55 h")]
        {
            assert_eq!(ago(Duration::from_secs(seconds)), text);
        }
    }
}
