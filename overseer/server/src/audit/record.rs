//! One entry: who, what, from where, and how it ended.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Longest text that a client has a say in, in characters.
const TEXT: usize = 96;

/// What an entry is about; each kind has its own bound, so that none pushes out another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Class {
    /// Fleets, configuration, tokens.
    Change,
    /// Calls and tasks.
    Use,
    /// What was not allowed.
    Denied,
}

impl Class {
    pub(crate) const ALL: [Self; 3] = [Self::Change, Self::Use, Self::Denied];

    /// As it is written.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Change => "change",
            Self::Use => "use",
            Self::Denied => "denied",
        }
    }
}

/// Names an entry: greater ones are later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct EntryId(u64);

/// Bits of an id that count within a millisecond.
const COUNT: u32 = 20;

impl EntryId {
    /// The first one of a millisecond since the epoch.
    pub(crate) fn first_of(ms: u64) -> Self {
        Self(ms.min(u64::MAX >> COUNT) << COUNT)
    }

    /// The next one after another, though the clock goes back.
    pub(crate) fn next(after: Self, now_ms: u64) -> Self {
        Self::first_of(now_ms).max(Self(after.0.saturating_add(1)))
    }

    /// Reads its text.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let good = text.len() == 16 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        good.then(|| u64::from_str_radix(text, 16).ok()).flatten().map(Self)
    }
}

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// What is kept of an entry: JSON under `audit/CLASS/ID`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AuditRecord {
    pub(crate) at_ms: u64,
    /// `user`, `token`, `server` or `nobody`.
    pub(crate) who: String,
    pub(crate) by: String,
    pub(crate) from: String,
    pub(crate) method: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) fleet: String,
    /// A labor, a task or a token.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) target: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) arguments: String,
    /// So many alike.
    #[serde(default = "once", skip_serializing_if = "is_once")]
    pub(crate) times: u32,
    /// How it ended; none while it is open, and where the server ended before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) outcome: Option<Ended>,
}

/// How something ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ended {
    /// `ok`, or the code of an error.
    pub(crate) code: String,
    pub(crate) took_ms: u64,
}

fn once() -> u32 {
    1
}

fn is_once(times: &u32) -> bool {
    *times == 1
}

/// What is asked for, for the log: never a payload, never a secret.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct Asked {
    pub(crate) fleet: String,
    pub(crate) target: String,
    pub(crate) arguments: String,
}

impl Asked {
    /// Of a fleet.
    pub(crate) fn of(fleet: &str) -> Self {
        Self { fleet: short(fleet), ..Self::default() }
    }

    /// A labor, a task or a token.
    #[must_use]
    pub(crate) fn target(mut self, target: &str) -> Self {
        self.target = short(target);
        self
    }

    /// One more argument.
    #[must_use]
    pub(crate) fn with(mut self, name: &str, value: impl fmt::Display) -> Self {
        if !self.arguments.is_empty() {
            self.arguments.push(' ');
        }
        self.arguments.push_str(&format!("{name}={}", short(&value.to_string())));
        self
    }

    /// One more argument, if there is one.
    #[must_use]
    pub(crate) fn with_some(self, name: &str, value: Option<impl fmt::Display>) -> Self {
        match value {
            Some(value) => self.with(name, value),
            None => self,
        }
    }
}

/// A text of a client, cut off and without what would play tricks on a terminal.
pub(crate) fn short(text: &str) -> String {
    let mut out = String::new();
    for (n, c) in text.chars().enumerate() {
        if n == TEXT {
            out.push('…');
            break;
        }
        if c.is_control() { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_grow_though_the_clock_goes_back() {
        let first = EntryId::next(EntryId(0), 1_700_000_000_000);
        let second = EntryId::next(first, 1_700_000_000_000);
        let third = EntryId::next(second, 1_600_000_000_000);
        let fourth = EntryId::next(third, 1_700_000_000_001);
        assert!(first < second && second < third && third < fourth);
        assert_eq!(first, EntryId::first_of(1_700_000_000_000));
        let text = third.to_string();
        assert_eq!(EntryId::parse(&text), Some(third));
        assert!(first.to_string() < text, "their keys are in order too");
        for bad in ["", "1", "00000000000000zz", "+000000000000001"] {
            assert_eq!(EntryId::parse(bad), None);
        }
    }

    #[test]
    fn what_a_client_says_is_short_and_plays_no_tricks() {
        assert_eq!(short("a\n\u{1b}[2J"), "a\\n\\u{1b}[2J");
        assert_eq!(short(&"x".repeat(1000)).chars().count(), TEXT + 1);
        let asked = Asked::of("web").target("l-1").with("labors", 3).with_some("force", None::<bool>);
        assert_eq!(asked.with("dry", true).arguments, "labors=3 dry=true");
    }

    #[test]
    fn the_stored_form_is_stable() {
        let record = AuditRecord {
            at_ms: 1,
            who: "user".into(),
            by: "uid 0".into(),
            from: "socket, process 7".into(),
            method: "Server.Reload".into(),
            fleet: String::new(),
            target: String::new(),
            arguments: String::new(),
            times: 1,
            outcome: Some(Ended { code: "ok".into(), took_ms: 2 }),
        };
        let json = serde_json::to_string(&record).unwrap();
        assert_eq!(
            json,
            r#"{"at_ms":1,"who":"user","by":"uid 0","from":"socket, process 7","method":"Server.Reload","outcome":{"code":"ok","took_ms":2}}"#
        );
        assert_eq!(serde_json::from_str::<AuditRecord>(&json).unwrap(), record);
    }
}
