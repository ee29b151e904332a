use std::fmt;

use serde::{Deserialize, Serialize};

/// Which step of a start failed or took too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BootPhase {
    /// The adapter was asked for a node.
    Provision,
    /// The node was accepted and has not called yet.
    Boot,
    /// The node has joined and not attached yet.
    Join,
    /// The release travels and is verified.
    Load,
    /// The plugin host starts and shakes hands.
    Start,
}

impl fmt::Display for BootPhase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Provision => "provisioning",
            Self::Boot => "booting",
            Self::Join => "joining",
            Self::Load => "loading",
            Self::Start => "starting",
        })
    }
}

/// Why something ended. Recorded with every end; retry and restart policies read it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Cause {
    /// Somebody asked for it.
    Asked,
    /// There was no work.
    Idle,
    /// The provider takes the machine back.
    Reclaimed {
        /// What the provider said.
        notice: String,
    },
    /// No heartbeat for too long.
    HeartbeatLost {
        /// Milliseconds of silence.
        silent_ms: u64,
    },
    /// The session closed and did not come back within the grace.
    ConnectionLost,
    /// The process exited by itself.
    Exited {
        /// Exit code.
        code: i32,
    },
    /// The process was ended by a signal.
    Signal {
        /// Signal number.
        signal: i32,
    },
    /// The kernel or a limit ended it for its memory.
    OutOfMemory,
    /// Plugin code panicked.
    Panicked {
        /// The panic's message.
        message: String,
    },
    /// Plugin code ran past its deadline and past the time to stop.
    Hung {
        /// Milliseconds that it had.
        after_ms: u64,
    },
    /// The plugin or program said by itself that it is not well.
    Unhealthy {
        /// What it said.
        reason: String,
    },
    /// A step of the start failed.
    BootFailed {
        /// Which step.
        phase: BootPhase,
        /// What went wrong and what to do.
        reason: String,
    },
    /// A step of the start took longer than its deadline.
    BootTimeout {
        /// Which step.
        phase: BootPhase,
        /// The deadline, in milliseconds.
        after_ms: u64,
    },
    /// The adapter could not do what it was asked.
    AdapterError {
        /// What it said.
        reason: String,
    },
    /// The Overseer is gone or its lease ran out.
    OwnerLost,
    /// A rule of the fleet, such as restart intensity.
    Policy {
        /// Which rule.
        rule: String,
    },
}

impl Cause {
    /// Whether this is how a labor is meant to end: a `Transient` child is not restarted.
    pub fn is_normal(&self) -> bool {
        matches!(self, Self::Asked | Self::Idle | Self::Exited { code: 0 })
    }

    /// A short stable code, as in metrics and tables.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Asked => "asked",
            Self::Idle => "idle",
            Self::Reclaimed { .. } => "reclaimed",
            Self::HeartbeatLost { .. } => "heartbeat_lost",
            Self::ConnectionLost => "connection_lost",
            Self::Exited { .. } => "exited",
            Self::Signal { .. } => "signal",
            Self::OutOfMemory => "out_of_memory",
            Self::Panicked { .. } => "panicked",
            Self::Hung { .. } => "hung",
            Self::Unhealthy { .. } => "unhealthy",
            Self::BootFailed { .. } => "boot_failed",
            Self::BootTimeout { .. } => "boot_timeout",
            Self::AdapterError { .. } => "adapter_error",
            Self::OwnerLost => "owner_lost",
            Self::Policy { .. } => "policy",
        }
    }

    /// JSON, as on the wire.
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// From the wire; what a newer peer says and we do not know stays readable.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        serde_json::from_slice(bytes).unwrap_or_else(|_| Self::Unhealthy {
            reason: format!("unknown cause {:?}", String::from_utf8_lossy(&bytes[..bytes.len().min(200)])),
        })
    }

    /// From how a process of ours ended: its exit code, or the signal that ended it.
    pub fn of_exit(code: Option<i32>, signal: Option<i32>) -> Self {
        match (code, signal) {
            (_, Some(signal)) => Self::Signal { signal },
            (code, None) => Self::Exited { code: code.unwrap_or(-1) },
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Asked => f.write_str("asked for"),
            Self::Idle => f.write_str("idle"),
            Self::Reclaimed { notice } => write!(f, "reclaimed by the provider: {notice}"),
            Self::HeartbeatLost { silent_ms } => write!(f, "no heartbeat for {silent_ms} ms"),
            Self::ConnectionLost => f.write_str("connection lost"),
            Self::Exited { code } => write!(f, "exited with code {code}"),
            Self::Signal { signal } => write!(f, "ended by signal {signal}{}", signal_name(*signal)),
            Self::OutOfMemory => f.write_str("out of memory"),
            Self::Panicked { message } => write!(f, "panicked: {message}"),
            Self::Hung { after_ms } => write!(f, "hung: did not stop within {after_ms} ms"),
            Self::Unhealthy { reason } => write!(f, "unhealthy: {reason}"),
            Self::BootFailed { phase, reason } => write!(f, "failed while {phase}: {reason}"),
            Self::BootTimeout { phase, after_ms } => write!(f, "still {phase} after {after_ms} ms"),
            Self::AdapterError { reason } => write!(f, "adapter: {reason}"),
            Self::OwnerLost => f.write_str("its Overseer is gone"),
            Self::Policy { rule } => write!(f, "policy: {rule}"),
        }
    }
}

fn signal_name(signal: i32) -> &'static str {
    match signal {
        2 => " (SIGINT)",
        4 => " (SIGILL)",
        6 => " (SIGABRT)",
        7 => " (SIGBUS)",
        8 => " (SIGFPE)",
        9 => " (SIGKILL)",
        11 => " (SIGSEGV)",
        13 => " (SIGPIPE)",
        15 => " (SIGTERM)",
        25 => " (SIGXFSZ)",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_survive_the_wire() {
        let all = [
            Cause::Asked,
            Cause::Signal { signal: 9 },
            Cause::BootTimeout { phase: BootPhase::Load, after_ms: 5 },
            Cause::Policy { rule: "x".into() },
        ];
        for cause in all {
            assert_eq!(Cause::from_bytes(&cause.to_bytes()), cause);
        }
        assert_eq!(Cause::from_bytes(b"{\"kind\":\"from the future\"}").code(), "unhealthy");
    }

    #[test]
    fn a_transient_child_ends_normally_only_when_asked_idle_or_done() {
        assert!(Cause::Exited { code: 0 }.is_normal());
        assert!(!Cause::Exited { code: 1 }.is_normal());
        assert!(!Cause::OwnerLost.is_normal());
    }
}
