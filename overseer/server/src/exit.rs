use std::process::ExitCode;

use serde::Serialize;

/// How the program ends; the number is its exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Exit {
    /// What was asked for was done.
    Passed,
    /// A job of the build failed, or a check did.
    Failed,
    /// What was asked for makes no sense: arguments, path, revision, build file.
    BadInput,
    /// The machinery failed, not the commit.
    Fault,
    /// Ended by SIGINT.
    Interrupted,
    /// Ended by SIGTERM.
    Terminated,
    /// Ended by SIGHUP: the terminal was closed.
    HungUp,
}

/// What the codes of `overseer build` mean, for its help.
pub(crate) const BUILD_CODES: &str = "\
Exit codes:
    0  every job passed
    1  a job failed
    2  bad arguments, no such path or revision, a mistake in the build file
    3  a fault of the machinery: no labor, no room, no network
  130  interrupted (Ctrl-C); 143: ended by SIGTERM; 129: its terminal was closed";

impl Exit {
    /// Exit code of the process.
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Passed => 0,
            Self::Failed => 1,
            Self::BadInput => 2,
            Self::Fault => 3,
            Self::Interrupted => 128 + 2,
            Self::Terminated => 128 + 15,
            Self::HungUp => 128 + 1,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_help_names_every_exit_code() {
        let all = [
            Exit::Passed,
            Exit::Failed,
            Exit::BadInput,
            Exit::Fault,
            Exit::Interrupted,
            Exit::Terminated,
            Exit::HungUp,
        ];
        for exit in all {
            assert!(
                BUILD_CODES.contains(&format!("{} ", exit.code()))
                    || BUILD_CODES.contains(&format!("{}:", exit.code())),
                "{exit:?}"
            );
        }
    }
}
