//! From the errors of the crates below to what the user is told.

use miette::NamedSource;
use overseer::CallErrorCode;
use overseer::call::CallError;
use overseer_builder::build_file::BuildFileError;

use crate::exit::Exit;
use crate::failure::{Failure, Place};

/// A mistake in the build file, with its place.
pub(super) fn bad_build_file(error: BuildFileError) -> Failure {
    let span = error.range();
    let place = Place {
        key: error.key,
        line: error.line,
        column: error.column,
        span,
        source: NamedSource::new(error.file.as_ref(), error.text.into_string()).with_language("TOML"),
    };
    Failure { place: Some(Box::new(place)), ..Failure::input("build.file", error.message) }.help(error.help)
}

/// The plan was not made.
pub(super) fn no_plan(error: &CallError) -> Failure {
    match error {
        // What the builder itself says is about the request: path, revision, repository.
        CallError::Answered { code: CallErrorCode::Failed | CallErrorCode::BadPayload, message, .. } => {
            Failure::told(Exit::BadInput, "build.plan", message)
        }
        // What the labor cannot do: no git, no network, no room.
        CallError::Answered { code: CallErrorCode::NoMethod, message, .. } => {
            Failure::fault("build.plan", message.clone())
        }
        error => Failure::fault(error.code(), format!("the build could not be planned: {error}")),
    }
}

/// Why a job's call failed. What the builder says of its machine needs no kind before it.
pub(super) fn fault(error: &CallError) -> String {
    match error {
        CallError::Answered { code: CallErrorCode::NoMethod, message, .. } => message.clone(),
        other => other.to_string(),
    }
}

/// Whether a call ended with its labor, so that another labor may run it.
pub(super) fn is_loss(error: &CallError) -> bool {
    match error {
        CallError::LaborLost { .. } | CallError::NotReady { .. } => true,
        CallError::Answered { code, .. } => matches!(
            code,
            CallErrorCode::HostEnded
                | CallErrorCode::NotReady
                | CallErrorCode::Draining
                | CallErrorCode::QueueDeadline
                | CallErrorCode::Overloaded
        ),
        _ => false,
    }
}

/// Why a call was lost, in a few words.
pub(super) fn loss_cause(error: &CallError) -> String {
    match error {
        CallError::LaborLost { cause, .. } => format!("its labor was lost: {cause}"),
        CallError::Answered { cause: Some(cause), .. } => format!("its process on the labor ended: {cause}"),
        CallError::Answered { message, .. } => message.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(code: CallErrorCode, message: &str) -> CallError {
        CallError::Answered { code, message: message.into(), cause: None }
    }

    #[test]
    fn what_the_user_asked_wrongly_is_no_fault_of_the_machinery() {
        let wrong =
            no_plan(&answered(CallErrorCode::Failed, "there is no revision \"x\" in y; see `git log`"));
        assert_eq!((wrong.exit, wrong.help.as_deref()), (Exit::BadInput, Some("see `git log`")));
        let fault = no_plan(&answered(CallErrorCode::Agent, "disk full"));
        assert_eq!(fault.exit, Exit::Fault);
    }

    #[test]
    fn only_a_job_whose_labor_is_gone_runs_again() {
        assert!(is_loss(&answered(CallErrorCode::HostEnded, "")));
        assert!(!is_loss(&answered(CallErrorCode::Failed, "")));
        assert!(!is_loss(&answered(CallErrorCode::Cancelled, "")));
    }
}
