//! Errors on their way to a client and back: the same code, message and advice at both ends.

use std::borrow::Cow;

use overseer::accept::REFUSAL;
use overseer::store::StoreError;
use overseer::{CallError, CallErrorCode, SubmitError, TaskError, TaskFailure};
use overseer_protocol::error_text;
use tonic::metadata::MetadataValue;
use tonic::{Code, Status};

use crate::exit::Exit;
use crate::failure::Failure;

/// Metadata that carries the stable code of an error.
const CODE: &str = "overseer-code";
/// Metadata that carries what to do, in UTF-8.
const HELP: &str = "overseer-help-bin";

/// A failure as a status.
pub(crate) fn refuse(failure: Failure) -> Status {
    let code = grpc_code(&failure);
    with_code(code, &failure)
}

/// A call that gave no result.
pub(super) fn call_failed(error: &CallError) -> Status {
    let code = match error {
        CallError::Answered { code, .. } => answered(*code),
        CallError::LaborLost { .. } | CallError::NotReady { .. } | CallError::NoLabor { .. } => {
            Code::Unavailable
        }
        CallError::Overloaded { .. } => Code::ResourceExhausted,
        CallError::TooLarge { .. } | CallError::Codec { .. } => Code::InvalidArgument,
        CallError::NoAnswer { .. } => Code::DeadlineExceeded,
        CallError::Blobs(_) => Code::Internal,
    };
    with_code(code, &Failure::told(Exit::Fault, error.code(), &error.to_string()))
}

fn answered(code: CallErrorCode) -> Code {
    match code {
        CallErrorCode::Failed | CallErrorCode::Panicked => Code::Aborted,
        CallErrorCode::NoMethod => Code::Unimplemented,
        CallErrorCode::BadPayload => Code::InvalidArgument,
        CallErrorCode::HostEnded
        | CallErrorCode::NotReady
        | CallErrorCode::Draining
        | CallErrorCode::GivenBack => Code::Unavailable,
        CallErrorCode::QueueDeadline | CallErrorCode::RunDeadline => Code::DeadlineExceeded,
        CallErrorCode::Cancelled => Code::Cancelled,
        CallErrorCode::Overloaded | CallErrorCode::TooLarge => Code::ResourceExhausted,
        CallErrorCode::Agent => Code::Internal,
    }
}

/// A task that was not taken.
pub(super) fn submit_failed(error: &SubmitError) -> Status {
    let code = match error {
        SubmitError::Full { .. } => Code::ResourceExhausted,
        SubmitError::TooLarge { .. } | SubmitError::BadKey(_) | SubmitError::Codec(_) => {
            Code::InvalidArgument
        }
        SubmitError::KeyConflict { .. } => Code::AlreadyExists,
        SubmitError::KeyGone(_) | SubmitError::IdTaken(_) => Code::Unavailable,
        SubmitError::Store(StoreError::NotWritable { .. }) => Code::ResourceExhausted,
        SubmitError::Unreadable { .. } | SubmitError::Store(_) | SubmitError::Blobs(_) => Code::Internal,
        SubmitError::Stopped(_) => Code::FailedPrecondition,
    };
    with_code(code, &Failure::told(Exit::Fault, error.code(), &error.to_string()))
}

/// A task that has no result, or none that can be had.
pub(super) fn task_failed(error: &TaskError) -> Status {
    let code = match error {
        TaskError::Failed(TaskFailure::Answered { code, .. }) => answered(*code),
        TaskError::Failed(TaskFailure::Lost { .. }) => Code::Unavailable,
        TaskError::Failed(TaskFailure::QueueDeadline { .. }) => Code::DeadlineExceeded,
        TaskError::Failed(TaskFailure::Cancelled) => Code::Cancelled,
        // It is the task that does it, not the machinery.
        TaskError::Failed(TaskFailure::Quarantined { .. }) => Code::Aborted,
        TaskError::Unknown(_) => Code::NotFound,
        TaskError::Codec(_)
        | TaskError::Result(_)
        | TaskError::Unreadable { .. }
        | TaskError::Store(_)
        | TaskError::Blobs(_) => Code::Internal,
        TaskError::Stopped(_) => Code::FailedPrecondition,
    };
    with_code(code, &Failure::told(Exit::Fault, error.code(), &error.to_string()))
}

fn grpc_code(failure: &Failure) -> Code {
    match &*failure.code {
        "fleet.unknown" | "labor.unknown" | "task.unknown" | "logs.none" | "token.unknown" => Code::NotFound,
        "fleet.not_running" | "fleet.stopped" | "fleet.invite_no_listener" | "token.over" => {
            Code::FailedPrecondition
        }
        "fleet.at_capacity" | "token.too_many" | "store.not_writable" | "control_plane.no_files" => {
            Code::ResourceExhausted
        }
        "server.stopping" | "fleet.changing" | "token.busy" | "audit.not_recorded" => Code::Unavailable,
        _ if failure.exit == Exit::BadInput => Code::InvalidArgument,
        _ => Code::Internal,
    }
}

/// The stable code of an error, or the name of its gRPC code where it has none.
pub(crate) fn code_of(status: &Status) -> String {
    let code = status.metadata().get(CODE).and_then(|code| code.to_str().ok());
    code.map_or_else(|| format!("grpc.{:?}", status.code()), str::to_owned)
}

/// Who asks may not, for this reason.
pub(crate) fn denied(code: Code, failure: &Failure) -> Status {
    with_code(code, failure)
}

fn with_code(code: Code, failure: &Failure) -> Status {
    let mut status = Status::new(code, failure.to_string());
    if let Ok(code) = MetadataValue::try_from(&*failure.code) {
        status.metadata_mut().insert(CODE, code);
    }
    if let Some(help) = &failure.help {
        status.metadata_mut().insert_bin(HELP, MetadataValue::from_bytes(help.as_bytes()));
    }
    status
}

/// The server has let nobody in.
pub(crate) fn full() -> Failure {
    Failure::fault("server.full", REFUSAL)
        .help("try again; or close some connections, or raise LimitNOFILE of the server, and see its log")
}

/// A status as the failure that it was.
pub(crate) fn understand(status: &Status) -> Failure {
    let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
    let metadata = status.metadata();
    let exit = match status.code() {
        Code::InvalidArgument
        | Code::NotFound
        | Code::FailedPrecondition
        | Code::AlreadyExists
        | Code::Unauthenticated
        | Code::PermissionDenied
        | Code::Unimplemented => Exit::BadInput,
        Code::Aborted => Exit::Failed,
        _ => Exit::Fault,
    };
    let Some(code) = metadata.get(CODE) else {
        if error_text(status).contains(REFUSAL) {
            return full();
        }
        // Not of our server's making: the connection, or something in between.
        let message = match status.message() {
            "" => format!("the server answered with {:?}", status.code()),
            message => format!("the server could not be asked: {message}"),
        };
        return Failure { exit, ..Failure::fault("server.connection", message) }
            .help("try again; `overseer status` says whether it runs");
    };
    let help = metadata.get_bin(HELP).and_then(|help| help.to_bytes().ok());
    Failure {
        exit,
        code: Cow::Owned(text(code.as_encoded_bytes())),
        message: status.message().to_owned(),
        help: help.map(|help| text(&help)),
        place: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_the_same_at_both_ends() {
        let failure = Failure::input("fleet.unknown", "there is no fleet \"wéb\"").help("the fleets are …");
        let status = refuse(failure);
        assert_eq!(status.code(), Code::NotFound);
        let understood = understand(&status);
        assert_eq!((&*understood.code, understood.exit), ("fleet.unknown", Exit::BadInput));
        assert_eq!(understood.message, "there is no fleet \"wéb\"");
        assert_eq!(understood.help.as_deref(), Some("the fleets are …"));
    }

    #[test]
    fn what_the_plugin_says_no_to_is_no_fault_of_the_machinery() {
        let error = |code| CallError::Answered { code, message: "no bolts; order some".into(), cause: None };
        let exit = |code| understand(&call_failed(&error(code))).exit;
        assert_eq!(exit(CallErrorCode::Failed), Exit::Failed);
        assert_eq!(exit(CallErrorCode::NoMethod), Exit::BadInput);
        assert_eq!(exit(CallErrorCode::Agent), Exit::Fault);
        let understood = understand(&call_failed(&error(CallErrorCode::Failed)));
        assert_eq!(understood.help.as_deref(), Some("order some"));
        let other = understand(&Status::unavailable("connection reset"));
        assert_eq!((&*other.code, other.exit), ("server.connection", Exit::Fault));
    }
}
