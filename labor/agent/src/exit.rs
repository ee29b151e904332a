use std::process::ExitCode;

/// How an agent ended. The number is the exit code of the process; `labor --help` lists them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Asked to end, or drained after SIGTERM.
    Asked = 0,
    /// The command line or the directory cannot be used.
    Usage = 2,
    /// The bootstrap document cannot be read.
    Bootstrap = 10,
    /// The Overseer refused the node (claim, certificate or protocol version): it does not help to
    /// start it again with the same document.
    Refused = 11,
    /// No word from the Overseer for as long as the lease.
    LeaseLost = 12,
    /// The owner's pipe was closed.
    OwnerGone = 13,
    /// A second signal, or the drain deadline of the first: what ran was given up.
    Interrupted = 14,
}

impl Exit {
    /// Every way to end, in order of its code.
    pub const ALL: [Self; 7] = [
        Self::Asked,
        Self::Usage,
        Self::Bootstrap,
        Self::Refused,
        Self::LeaseLost,
        Self::OwnerGone,
        Self::Interrupted,
    ];

    /// The exit code of the process.
    pub fn code(self) -> u8 {
        self as u8
    }

    /// What the code means and what to do, in one line.
    pub fn meaning(self) -> &'static str {
        match self {
            Self::Asked => "asked to end, or drained",
            Self::Usage => "bad arguments, or the directory cannot be used",
            Self::Bootstrap => "the bootstrap document cannot be read",
            Self::Refused => "refused by the Overseer (claim, certificate or version); do not retry",
            Self::LeaseLost => "no word from the Overseer for as long as the lease",
            Self::OwnerGone => "the owner's pipe was closed",
            Self::Interrupted => "ended by a second signal or the drain deadline, work was given up",
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}
