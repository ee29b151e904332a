//! Errors on their way to a client and back: the same code, message and advice at both ends.

use std::borrow::Cow;

use overseer::accept::REFUSAL;
use overseer::store::StoreError;
use overseer::{CallError, CallErrorCode, SubmitError, TaskError, TaskFailure};
use overseer_protocol::error_text;
use tonic::metadata::MetadataValue;
use tonic::{Code, Status};

use crate::exit::Exit;
use crate::failure::{FailedCall, Failure};

/// Metadata that carries the stable code of an error.
const CODE: &str = "overseer-code";
/// Metadata that carries what to do, in UTF-8.
const HELP: &str = "overseer-help-bin";
/// Metadata that carries the labor that had a call which failed.
const LABOR: &str = "overseer-labor";
/// Metadata that carries the task whose logs such a call wrote.
const TASK: &str = "overseer-task";

/// A failure as a status.
pub(crate) fn refuse(failure: Failure) -> Status {
    let code = grpc_code(&failure);
    with_code(code, &failure)
}

/// A call that gave no result, and where it was, if it had begun.
pub(super) fn call_failed(error: &CallError, begun: Option<FailedCall>) -> Status {
    let code = match error {
        CallError::Answered { code, .. } => answered(*code),
        CallError::LaborLost { .. } | CallError::NotReady { .. } | CallError::NoLabor { .. } => {
            Code::Unavailable
        }
        CallError::Overloaded { .. } | CallError::FleetFull { .. } => Code::ResourceExhausted,
        CallError::TooLarge { .. } | CallError::Codec { .. } => Code::InvalidArgument,
        CallError::NoAnswer { .. } => Code::DeadlineExceeded,
        CallError::Blobs(_) => Code::Internal,
    };
    let mut failure = Failure::told(Exit::Fault, error.code(), &error.to_string());
    if let CallError::NoLabor { .. } = error {
        failure = failure.help(
            "`overseer fleet show FLEET` says what its labors do; start some, or allow a longer --queue",
        );
    }
    let named = || error.labor().map(|labor| FailedCall { labor: labor.to_string(), task: String::new() });
    if let Some(call) = begun.or_else(named) {
        let ids = [("labor", &call.labor), ("task", &call.task)];
        let unsaid = ids.iter().filter(|(_, id)| !failure.message.contains(&***id));
        let unsaid: Vec<_> = unsaid.map(|(kind, id)| format!("{kind} {id}")).collect();
        if !unsaid.is_empty() {
            failure.message.push_str(&format!(" ({})", unsaid.join(", ")));
        }
        if let (CallError::Answered { code, .. }, None) = (error, &failure.help) {
            failure.help = advice(*code, &call.labor);
        }
        failure.call = Some(Box::new(call));
    }
    with_code(code, &failure)
}

/// What to do where neither the labor nor what it runs says it.
fn advice(code: CallErrorCode, labor: &str) -> Option<String> {
    Some(match code {
        CallErrorCode::QueueDeadline => "allow a longer --queue, or start more labors".to_owned(),
        CallErrorCode::RunDeadline => "allow a longer --run".to_owned(),
        CallErrorCode::BadPayload => "give what the method takes; see its release".to_owned(),
        CallErrorCode::Overloaded => "wait for some to end, or start more labors".to_owned(),
        CallErrorCode::Draining | CallErrorCode::NotReady => "call again, without --labor".to_owned(),
        CallErrorCode::HostEnded | CallErrorCode::Panicked => {
            format!("see what it has said last: overseer logs {labor}")
        }
        _ => return None,
    })
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
    for (key, id) in failure.call.iter().flat_map(|call| [(LABOR, &call.labor), (TASK, &call.task)]) {
        if let Some(id) = MetadataValue::try_from(&**id).ok().filter(|id| !id.is_empty()) {
            status.metadata_mut().insert(key, id);
        }
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
    let id = |key| metadata.get(key).map(|id| text(id.as_encoded_bytes())).unwrap_or_default();
    let call = FailedCall { labor: id(LABOR), task: id(TASK) };
    let help = metadata.get_bin(HELP).and_then(|help| help.to_bytes().ok());
    Failure {
        exit,
        code: Cow::Owned(text(code.as_encoded_bytes())),
        message: status.message().to_owned(),
        help: help.map(|help| text(&help)),
        place: None,
        call: Some(call).filter(|call| *call != FailedCall::default()).map(Box::new),
    }
}

#[cfg(test)]
mod tests {
    use overseer::call::Bound;
    use overseer::{Cause, LaborId};

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
    fn a_call_that_fails_names_its_labor_and_its_task_once() {
        let labor = LaborId::new(1, 7);
        let begun = FailedCall { labor: labor.to_string(), task: "t-1".into() };
        let answered = |code, message: &str| {
            let error = CallError::Answered { code, message: message.into(), cause: None };
            understand(&call_failed(&error, Some(begun.clone())))
        };
        let failed = answered(CallErrorCode::Failed, "no bolts; order some");
        assert_eq!(failed.message, format!("failed: no bolts (labor {labor}, task t-1)"));
        assert_eq!((failed.help.as_deref(), failed.call.as_deref()), (Some("order some"), Some(&begun)));
        let late = answered(CallErrorCode::QueueDeadline, "waited 5 ms for a free slot on the labor");
        assert!(late.help.unwrap().contains("--queue"));
        let ended = answered(CallErrorCode::HostEnded, "signal 6");
        assert_eq!(ended.help.unwrap(), format!("see what it has said last: overseer logs {labor}"));

        let lost = CallError::LaborLost { labor, cause: Cause::ConnectionLost };
        let lost = understand(&call_failed(&lost, Some(begun.clone())));
        assert_eq!(lost.message.matches(&*begun.labor).count(), 1, "{}", lost.message);
        assert!(lost.message.ends_with("(task t-1)"), "{}", lost.message);
        let full = CallError::Overloaded { labor, bound: Bound::Calls(3) };
        let full = understand(&call_failed(&full, None));
        assert_eq!(full.message, format!("labor {labor} has 3 calls open already"));
        assert_eq!(full.call.unwrap().labor, begun.labor);
        assert!(full.help.is_some());
        let nobody = understand(&call_failed(&CallError::FleetFull { waiting: 9 }, None));
        assert_eq!((&*nobody.code, nobody.call), ("call.overloaded", None));
        assert!(nobody.message.contains("9 calls wait") && nobody.help.is_some());
    }

    #[test]
    fn what_the_plugin_says_no_to_is_no_fault_of_the_machinery() {
        let error = |code| CallError::Answered { code, message: "no bolts; order some".into(), cause: None };
        let exit = |code| understand(&call_failed(&error(code), None)).exit;
        assert_eq!(exit(CallErrorCode::Failed), Exit::Failed);
        assert_eq!(exit(CallErrorCode::NoMethod), Exit::BadInput);
        assert_eq!(exit(CallErrorCode::Agent), Exit::Fault);
        let understood = understand(&call_failed(&error(CallErrorCode::Failed), None));
        assert_eq!(understood.help.as_deref(), Some("order some"));
        let other = understand(&Status::unavailable("connection reset"));
        assert_eq!((&*other.code, other.exit), ("server.connection", Exit::Fault));
    }
}
