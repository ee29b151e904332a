//! `Tasks`: durable tasks are submitted, listed, cancelled and waited for.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use overseer::tasks::TaskRecord;
use overseer::trace::TraceContext;
use overseer::{FleetName, SubmitError, Task, TaskError, TaskId, TaskOptions};
use overseer_protocol::{IdError, MAX_PAYLOAD};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::results::PIECES;
use super::status::{refuse, submit_failed, task_failed};
use super::{Answers, Service, caller, proto, task_record};
use crate::access::Caller;
use crate::audit::outcome;
use crate::audit::record::Asked;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::serve::gate;

/// Tasks of one list.
const LISTED: usize = 100;
/// Most tasks of one list.
const MOST: usize = 1000;
/// How long a client may take between two pieces of a payload.
const PATIENCE: Duration = Duration::from_secs(60);

/// A task's id.
pub(super) fn task_id(text: &str) -> Result<TaskId, Failure> {
    text.parse().map_err(|error: IdError| {
        Failure::told(Exit::BadInput, error.code(), &error.to_string())
            .help("give a task id, as `overseer submit` prints it")
    })
}

impl Service {
    /// A task, of the fleet that is given, or else of whichever is seen, whether it runs or not.
    pub(super) async fn find(
        &self,
        caller: &Caller,
        task: TaskId,
        fleet: Option<&str>,
    ) -> Result<TaskRecord, Status> {
        let seen = self.seen(caller);
        let found = match fleet {
            Some(name) => self.find_in(&[seen.fleet_of_tasks(name).await?], task).await?,
            None => {
                let served: Vec<_> = seen.fleets().iter().map(|slot| slot.name.clone()).collect();
                match self.find_in(&served, task).await? {
                    // Only now, for the store is asked for their names.
                    None => self.find_in(&seen.past_fleets().await?, task).await?,
                    found => found,
                }
            }
        };
        found.ok_or_else(|| task_failed(&TaskError::Unknown(task)))
    }

    async fn find_in(&self, fleets: &[FleetName], task: TaskId) -> Result<Option<TaskRecord>, Status> {
        for fleet in fleets {
            match self.server.plane.task_record(fleet, task).await {
                Ok(record) => return Ok(Some(record)),
                Err(TaskError::Unknown(_)) => {}
                Err(error) => return Err(task_failed(&error)),
            }
        }
        Ok(None)
    }

    /// A task as one of its fleet that runs.
    async fn at_work(&self, record: &TaskRecord) -> Result<Task, Status> {
        let fleet = self.server.fleet(record.fleet.as_str()).and_then(|slot| slot.fleet()).map_err(refuse)?;
        fleet.task(record.task).await.map_err(|error| task_failed(&error))
    }

    async fn cancel_in(&self, record: &TaskRecord) -> Result<(), Status> {
        let slot = self.server.fleet(record.fleet.as_str()).ok();
        if slot.as_ref().is_some_and(|slot| slot.fleet().is_ok()) {
            self.at_work(record).await?.cancel();
            return Ok(());
        }
        // It is not started meanwhile.
        let _stopped = slot.as_ref().map(|slot| slot.hold_stopped()).transpose().map_err(refuse)?;
        let stored = self.server.plane.cancel_stored_task(&record.fleet, record.task).await;
        stored.map(drop).map_err(|error| task_failed(&error))
    }

    async fn submit_in(
        &self,
        caller: &Caller,
        mut pieces: Streaming<proto::SubmitRequest>,
        trace: Option<TraceContext>,
    ) -> Result<proto::SubmitResponse, Status> {
        use proto::submit_request::What;
        let _entered = self.server.gate.enter().map_err(refuse)?;
        let first = pieces.message().await?.and_then(|first| first.what);
        let Some(What::Task(mut task)) = first else {
            return Err(refuse(order("the first message says what it is")));
        };
        let options = options(&mut task, trace).map_err(refuse)?;
        let slot = self.seen(caller).fleet(&task.fleet);
        let fleet = slot.and_then(|slot| slot.fleet()).map_err(refuse)?;
        let payload = payload(&mut pieces).await?.freeze();
        let asked = Asked::of(&task.fleet).with("method", &task.method);
        let asked = asked.with_some("key", options.key.as_deref()).with("bytes", payload.len());
        let entry = self.record_use(caller, asked).await?;
        let submitted = fleet.submit_bytes(&task.method, payload, options).await;
        let submitted = submitted.map(|task| task.id().to_string()).map_err(|error| submit_failed(&error));
        entry.end_soon(&outcome(&submitted), submitted.as_deref().ok());
        let id = submitted?;
        Ok(proto::SubmitResponse { task: id, fleet: fleet.name().to_string() })
    }
}

fn options(task: &mut proto::NewTask, trace: Option<TraceContext>) -> Result<TaskOptions, Failure> {
    Ok(TaskOptions {
        key: task.key.take(),
        retry: task_record::rule(task.retry.take())?,
        queue: task.queue_ms.map(Duration::from_millis),
        run: task.run_ms.map(Duration::from_millis),
        trace,
    })
}

/// What follows the first message.
async fn payload(pieces: &mut Streaming<proto::SubmitRequest>) -> Result<BytesMut, Status> {
    use proto::submit_request::What;
    let mut payload = BytesMut::new();
    loop {
        let next = tokio::time::timeout(PATIENCE, pieces.message()).await;
        let next = next.map_err(|_| Status::deadline_exceeded("the rest of the payload did not come"))??;
        match next.map(|piece| piece.what) {
            None => return Ok(payload),
            Some(Some(What::Data(data))) => {
                let size = payload.len() + data.len();
                if size > MAX_PAYLOAD {
                    return Err(submit_failed(&SubmitError::TooLarge { size, limit: MAX_PAYLOAD }));
                }
                payload.extend_from_slice(&data);
            }
            Some(_) => return Err(refuse(order("only pieces of the payload may follow the first message"))),
        }
    }
}

fn order(what: &str) -> Failure {
    Failure::input("task.submit", format!("a submit of the wrong form: {what}"))
        .help("see proto/control.proto")
}

#[tonic::async_trait]
impl proto::tasks_server::Tasks for Service {
    async fn submit(
        &self,
        request: Request<Streaming<proto::SubmitRequest>>,
    ) -> Result<Response<proto::SubmitResponse>, Status> {
        let span = self.trace(&request, "overseer.control.v1.Tasks/Submit");
        let caller = caller::of(&request)?;
        let answer = self.submit_in(&caller, request.into_inner(), span.context()).await;
        span.end(&answer);
        answer.map(Response::new)
    }

    async fn list(
        &self,
        request: Request<proto::ListTasksRequest>,
    ) -> Result<Response<proto::ListTasksResponse>, Status> {
        let caller = caller::of(&request)?;
        let request = request.into_inner();
        let fleet = self.seen(&caller).fleet_of_tasks(&request.fleet).await?;
        let after = request.after.as_deref().map(task_id).transpose().map_err(refuse)?;
        let limit = request.limit.map_or(LISTED, |limit| limit as usize).clamp(1, MOST);
        let records = self.server.plane.task_records(&fleet, request.over, after, limit).await;
        let records = records.map_err(|error| task_failed(&error))?;
        let tasks = records.iter().map(task_record::brief).collect();
        Ok(Response::new(proto::ListTasksResponse { tasks }))
    }

    async fn get(
        &self,
        request: Request<proto::GetTaskRequest>,
    ) -> Result<Response<proto::GetTaskResponse>, Status> {
        let caller = caller::of(&request)?;
        let request = request.get_ref();
        let id = task_id(&request.task).map_err(refuse)?;
        let record = self.find(&caller, id, request.fleet.as_deref()).await?;
        Ok(Response::new(proto::GetTaskResponse { task: Some(task_record::whole(&record)) }))
    }

    async fn cancel(
        &self,
        request: Request<proto::CancelTaskRequest>,
    ) -> Result<Response<proto::CancelTaskResponse>, Status> {
        let _entered = self.server.gate.enter().map_err(refuse)?;
        let caller = caller::of(&request)?;
        let request = request.get_ref();
        let id = task_id(&request.task).map_err(refuse)?;
        let record = self.find(&caller, id, request.fleet.as_deref()).await?;
        let asked = Asked::of(record.fleet.as_str()).target(&record.task.to_string());
        let entry = self.record_use(&caller, asked).await?;
        let cancelled = self.cancel_in(&record).await;
        entry.end_soon(&outcome(&cancelled), None);
        cancelled?;
        Ok(Response::new(proto::CancelTaskResponse { task: Some(task_record::whole(&record)) }))
    }

    type AttachStream = Answers<proto::AttachTaskResponse>;

    async fn attach(
        &self,
        request: Request<proto::AttachTaskRequest>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        // Who waits for a task keeps no server from stopping: he may come again.
        drop(self.server.gate.enter().map_err(refuse)?);
        let caller = caller::of(&request)?;
        let request = request.get_ref();
        let id = task_id(&request.task).map_err(refuse)?;
        let record = self.find(&caller, id, request.fleet.as_deref()).await?;
        // One that is over needs no fleet any more.
        let task = if record.is_over() { None } else { Some(self.at_work(&record).await?) };
        let (send, receive) = mpsc::channel(PIECES);
        let (server, results) = (Arc::clone(&self.server), self.results.clone());
        tokio::spawn(async move {
            tokio::select! {
                biased;
                () = server.gate.closing() => drop(send.try_send(Err(refuse(gate::stopping())))),
                () = send.closed() => {}
                () = results.send(&server.plane, task.as_ref(), record, &send) => {}
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receive))))
    }
}
