//! Results on their way to who is attached: few bytes at a time, and nobody is waited for without end.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use overseer::{Task, TaskError};
use overseer_protocol::MAX_PAYLOAD;
use tokio::sync::{Semaphore, mpsc};
use tonic::Status;

use super::proto::attach_task_response::What;
use super::status::{refuse, task_failed};
use super::{PIECE, proto, task_record};
use crate::failure::Failure;

/// MiB of results that are in memory for those who are attached; more of them wait.
const ROOM: usize = 256;
/// Pieces of one result that wait for the connection.
pub(super) const PIECES: usize = 1;
/// How long one piece may wait for its reader.
const PATIENCE: Duration = Duration::from_secs(60);
const _: () = assert!(MAX_PAYLOAD >> 20 <= ROOM);

type Answer = Result<proto::AttachTaskResponse, Status>;

/// Room for results.
#[derive(Clone)]
pub(super) struct Results(Arc<Semaphore>);

impl Default for Results {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(ROOM)))
    }
}

impl Results {
    /// Waits for the end of a task and sends its result. A reader that does not read is cut off.
    pub(super) async fn send(&self, task: &Task, to: &mpsc::Sender<Answer>) {
        let sent = async {
            let record = task_record::whole(&task.over().await?);
            let bytes = record.result_bytes.unwrap_or(0).min(MAX_PAYLOAD as u64);
            let room = self.0.acquire_many(1 + (bytes >> 20) as u32).await;
            let result = task.result_bytes().await?;
            let sent = in_pieces(record, result, to, PATIENCE).await;
            drop(room);
            Ok::<_, TaskError>(sent)
        };
        match sent.await {
            Ok(Ok(())) => {}
            // It has what was sent before, and learns why there is no more if it reads that.
            Ok(Err(slow)) => drop(to.send(Err(refuse(slow))).await),
            Err(error) => drop(to.send(Err(task_failed(&error))).await),
        }
    }
}

async fn in_pieces(
    record: proto::Task,
    mut result: Bytes,
    to: &mpsc::Sender<Answer>,
    patience: Duration,
) -> Result<(), Failure> {
    let mut next = What::Task(record);
    loop {
        let piece = Ok(proto::AttachTaskResponse { what: Some(next) });
        match to.send_timeout(piece, patience).await {
            Ok(()) => {}
            Err(mpsc::error::SendTimeoutError::Timeout(_)) => {
                let message = format!("nobody read a piece of the result for {patience:?}");
                return Err(Failure::fault("task.too_slow", message).help("attach again, and read on"));
            }
            // A reader that is gone needs no more.
            Err(mpsc::error::SendTimeoutError::Closed(_)) => return Ok(()),
        }
        if result.is_empty() {
            return Ok(());
        }
        next = What::Data(result.split_to(result.len().min(PIECE)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_reads_gets_all_and_who_does_not_is_cut_off() {
        let result = || Bytes::from(vec![7; PIECE * 5 + 3]);
        let (send, mut receive) = mpsc::channel::<Answer>(PIECES);
        let reads = tokio::spawn(async move {
            let mut bytes = 0;
            while let Some(Ok(answer)) = receive.recv().await {
                if let Some(What::Data(data)) = answer.what {
                    bytes += data.len();
                }
            }
            bytes
        });
        in_pieces(proto::Task::default(), result(), &send, PATIENCE).await.unwrap();
        drop(send);
        assert_eq!(reads.await.unwrap(), PIECE * 5 + 3);

        let (send, mut receive) = mpsc::channel::<Answer>(PIECES);
        let short = Duration::from_millis(20);
        let slow = in_pieces(proto::Task::default(), result(), &send, short).await.unwrap_err();
        assert_eq!(slow.code, "task.too_slow");
        assert!(receive.recv().await.is_some_and(|answer| answer.is_ok()));
        assert!(receive.try_recv().is_err(), "no more than {PIECES} waited");
    }
}
