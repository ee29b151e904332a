//! A request that lives and dies with its caller, in memory.

use std::fmt;
use std::time::Duration;

use overseer_protocol::{CallErrorCode, Cause, LaborId, TraceContext};

/// Deadlines and limits of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CallOptions {
    /// Longest wait for a labor and for a free place in its plugin.
    pub queue: Duration,
    /// Longest run in the plugin; `None` for no limit. A plugin that neither answers nor sees
    /// its cancellation loses its host.
    pub run: Option<Duration>,
    /// The span that it is a child of, where somebody traces it.
    pub trace: Option<TraceContext>,
}

impl Default for CallOptions {
    fn default() -> Self {
        Self { queue: Duration::from_secs(30), run: Some(Duration::from_secs(300)), trace: None }
    }
}

impl CallOptions {
    /// With this queue deadline.
    #[must_use]
    pub fn queue(mut self, queue: Duration) -> Self {
        self.queue = queue;
        self
    }

    /// Traced as a child of this span, or not.
    #[must_use]
    pub fn trace(mut self, trace: impl Into<Option<TraceContext>>) -> Self {
        self.trace = trace.into();
        self
    }

    /// With this run deadline, or none.
    #[must_use]
    pub fn run(mut self, run: impl Into<Option<Duration>>) -> Self {
        self.run = run.into();
        self
    }
}

/// How much one labor may have at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    /// So many calls without an answer.
    Calls(usize),
    /// So many calls and casts that its connection has not taken yet.
    Waiting(usize),
    /// So many bytes of calls and casts that its connection has not taken yet.
    Bytes(usize),
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Calls(n) => write!(f, "{n} calls open"),
            Self::Waiting(n) => write!(f, "{n} calls and casts waiting to be sent"),
            Self::Bytes(n) => write!(f, "{n} bytes waiting to be sent"),
        }
    }
}

/// Why a call gave no result.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The labor's session ended before an answer came: the call may or may not have run.
    #[error("labor {labor} was lost before it answered: {cause}; call again if the method may run twice")]
    LaborLost {
        /// Which.
        labor: LaborId,
        /// Why.
        cause: Cause,
    },
    /// The labor takes no calls in its state.
    #[error("labor {labor} is {state}; wait for ready() before calling it")]
    NotReady {
        /// Which.
        labor: LaborId,
        /// Its state.
        state: overseer_protocol::LaborState,
    },
    /// No labor of the fleet became ready within the queue deadline.
    #[error("no labor was ready within {} ms; start one, or allow a longer queue deadline", waited.as_millis())]
    NoLabor {
        /// The queue deadline.
        waited: Duration,
    },
    /// The labor has all that it may have.
    #[error("labor {labor} has {bound} already; wait for some to end")]
    Overloaded {
        /// Which.
        labor: LaborId,
        /// The bound that was met.
        bound: Bound,
    },
    /// Nobody is ready, and as many calls as may wait for somebody do.
    #[error(
        "{waiting} calls wait for a labor of the fleet already; wait for some to end, or start more labors"
    )]
    FleetFull {
        /// How many.
        waiting: usize,
    },
    /// Over the limit.
    #[error("a payload of {size} bytes is over the limit of {limit}; pass it as a blob")]
    TooLarge {
        /// Bytes.
        size: usize,
        /// Most bytes: less for a cast, which has to fit in one message.
        limit: usize,
    },
    /// The labor or its plugin answered with an error.
    #[error("{code}: {message}")]
    Answered {
        /// Which kind.
        code: CallErrorCode,
        /// What it said.
        message: String,
        /// Why the plugin host ended, where it did, or what the call ran: out of memory.
        cause: Option<Cause>,
    },
    /// Neither answer nor deadline error came in time.
    #[error("no answer within {} ms of the deadline; the call was cancelled", after.as_millis())]
    NoAnswer {
        /// How long was waited.
        after: Duration,
    },
    /// Argument or result are not of the expected form.
    #[error("the {what} cannot be coded: {reason}")]
    Codec {
        /// `argument` or `result`.
        what: &'static str,
        /// Why.
        reason: String,
    },
    /// The Overseer's own blobs failed.
    #[error("a large payload could not be kept: {0}")]
    Blobs(String),
}

impl CallError {
    /// The labor that it is about, where it names one.
    pub fn labor(&self) -> Option<LaborId> {
        match self {
            Self::LaborLost { labor, .. } | Self::NotReady { labor, .. } | Self::Overloaded { labor, .. } => {
                Some(*labor)
            }
            _ => None,
        }
    }

    /// Stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::LaborLost { .. } => "call.labor_lost",
            Self::NotReady { .. } => "call.not_ready",
            Self::NoLabor { .. } => "call.no_labor",
            Self::Overloaded { .. } | Self::FleetFull { .. } => "call.overloaded",
            Self::TooLarge { .. } => "call.too_large",
            Self::Answered { .. } => "call.answered",
            Self::NoAnswer { .. } => "call.no_answer",
            Self::Codec { .. } => "call.codec",
            Self::Blobs(_) => "call.blobs",
        }
    }
}
