//! `Logs`: what tasks and plugin hosts write.

use std::sync::Arc;

use overseer::logs::{LogError, LogPiece};
use overseer::{Attempt, Generation, Labor, LaborId, LogStream, TaskId};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::fleets::labor_id;
use super::status::refuse;
use super::{Answers, Service, WAITING, caller, proto};
use crate::access::Caller;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::serve::gate;
use crate::serve::slot::FleetSlot;

fn log_failed(error: &LogError) -> Failure {
    let exit = match error {
        LogError::BadName(_) => Exit::BadInput,
        LogError::Io { .. } => Exit::Fault,
    };
    Failure::told(exit, error.code(), &error.to_string())
}

impl Service {
    /// A task by its id, or by the labor whose plugin host writes outside of calls: `LABOR` for
    /// its present life, `LABOR/GENERATION` for any.
    fn task(&self, caller: &Caller, text: &str) -> Result<TaskId, Failure> {
        if !text.starts_with("l-") {
            return text.parse().map_err(|error: overseer_protocol::IdError| {
                Failure::told(Exit::BadInput, error.code(), &error.to_string())
                    .help("give a task id, as `overseer call --json` prints it, or a labor id")
            });
        }
        if let Some((id, life)) = text.split_once('/')
            && let Ok(life) = life.parse()
        {
            let id = labor_id(id)?;
            if !self.seen(caller).all() {
                // Of a labor that is gone it is not known whose it was.
                self.labor(caller, id)?;
            }
            return Ok(TaskId::of_host(id, Generation(life)));
        }
        let id = labor_id(text)?;
        Ok(TaskId::of_host(id, self.labor(caller, id)?.status().generation))
    }

    fn labor(&self, caller: &Caller, id: LaborId) -> Result<Labor, Failure> {
        let labors = self.seen(caller).fleets().into_iter().filter_map(|slot| slot.labors()?.labor(id));
        labors.into_iter().next().ok_or_else(|| {
            Failure::input("labor.unknown", format!("no fleet has a labor {id}"))
                .help("`overseer fleet show FLEET` lists them")
        })
    }

    /// A task whose log there is for a caller: for a token of one fleet those of its stored tasks,
    /// and of its labors that live. Of others it is not known whose they are.
    async fn task_seen(&self, caller: &Caller, text: &str) -> Result<TaskId, Status> {
        let task = self.task(caller, text).map_err(refuse)?;
        // Those of a labor were looked up by its name.
        if self.seen(caller).all() || text.starts_with("l-") {
            return Ok(task);
        }
        let fleets = self.seen(caller).fleets();
        let writes = |slot: &FleetSlot| {
            slot.labors().is_some_and(|fleet| fleet.which_children().iter().any(|labor| labor.writes(task)))
        };
        if !fleets.iter().any(|slot| writes(slot)) {
            self.find(caller, task, None).await?;
        }
        Ok(task)
    }

    /// The streams of a task that have bytes: attempt and name.
    async fn names(&self, task: TaskId) -> Vec<(u32, String)> {
        let logs = self.server.plane.logs();
        let names = tokio::task::spawn_blocking(move || logs.streams(task)).await.unwrap_or_default();
        let names = names.iter().filter_map(|name| {
            let (attempt, stream) = name.split_once('-')?;
            Some((attempt.parse().ok()?, stream.to_owned()))
        });
        names.collect()
    }
}

#[tonic::async_trait]
impl proto::logs_server::Logs for Service {
    async fn streams(
        &self,
        request: Request<proto::LogStreamsRequest>,
    ) -> Result<Response<proto::LogStreamsResponse>, Status> {
        let caller = caller::of(&request)?;
        let task = self.task_seen(&caller, &request.get_ref().task).await?;
        // None of a call, a labor, or a task whose time was over before that of its logs.
        let record = self.find(&caller, task, None).await.ok();
        let newest_attempt = record.as_ref().map(|record| record.attempts);
        let over = record.as_ref().map(|record| record.is_over());
        let names = self.names(task).await.into_iter();
        let streams = names.map(|(attempt, stream)| proto::LogStreamName { attempt, stream }).collect();
        Ok(Response::new(proto::LogStreamsResponse { task: task.to_string(), streams, newest_attempt, over }))
    }

    type ReadStream = Answers<proto::ReadLogResponse>;

    async fn read(
        &self,
        request: Request<proto::ReadLogRequest>,
    ) -> Result<Response<Self::ReadStream>, Status> {
        use proto::read_log_response::What;
        drop(self.server.gate.enter().map_err(refuse)?);
        let caller = caller::of(&request)?;
        let mut request = request.into_inner();
        let task = self.task_seen(&caller, &request.task).await?;
        if !request.follow {
            // Else it would be waited for, or be taken for an empty one.
            let wanted = (request.attempt, request.stream);
            if LogStream::good_name(&wanted.1) && !self.names(task).await.contains(&wanted) {
                let message = format!("{task} has written no log {}-{}", wanted.0, wanted.1);
                let failure = Failure::input("logs.none", message);
                return Err(refuse(failure.help("follow it to wait for its first byte")));
            }
            (request.attempt, request.stream) = wanted;
        }
        let stream = LogStream { task, attempt: Attempt(request.attempt), stream: request.stream };
        let reader = self.server.plane.logs().read(stream, request.offset).await;
        let mut reader = reader.map_err(|error| refuse(log_failed(&error)))?;
        let (send, receive) = tokio::sync::mpsc::channel(WAITING);
        let server = Arc::clone(&self.server);
        tokio::spawn(async move {
            while request.follow || reader.has_more() {
                let piece = tokio::select! {
                    piece = reader.next() => piece,
                    () = send.closed() => return,
                    () = server.gate.closing() => {
                        // A reader that is gone needs no word.
                        let _ = send.try_send(Err(refuse(gate::stopping())));
                        return;
                    }
                };
                let answer = match piece {
                    Ok(None) => return,
                    Ok(Some(LogPiece::Data { offset, bytes })) => (offset, What::Data(bytes)),
                    Ok(Some(LogPiece::Gap { offset, length })) => (offset, What::Gap(length)),
                    Err(error) => {
                        let _ = send.send(Err(refuse(log_failed(&error)))).await;
                        return;
                    }
                };
                let answer = proto::ReadLogResponse { offset: answer.0, what: Some(answer.1) };
                tokio::select! {
                    sent = send.send(Ok(answer)) => if sent.is_err() { return },
                    () = server.gate.closing() => return,
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receive))))
    }
}
