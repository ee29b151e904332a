//! Results on their way to who is attached: few bytes at a time, and nobody is waited for without end.

use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use overseer::tasks::TaskRecord;
use overseer::{ControlPlane, Task, TaskError};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::{Semaphore, mpsc};
use tonic::Status;

use super::proto::attach_task_response::What;
use super::status::{refuse, task_failed};
use super::{PIECE, proto, task_record};
use crate::failure::Failure;

/// MiB of results that are in memory for those who are attached; more of them wait.
const ROOM: usize = 256;
/// MiB of one: a piece that waits, and one that is read.
const OF_ONE: u32 = 2;
/// Pieces of one result that wait for the connection.
pub(super) const PIECES: usize = 1;
/// How long one piece may wait for its reader.
const PATIENCE: Duration = Duration::from_secs(60);
const _: () = assert!(((PIECES + 1) * PIECE) >> 20 == OF_ONE as usize);

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
    /// `task` is it as one of its fleet; one that is over needs none.
    pub(super) async fn send(
        &self,
        plane: &ControlPlane,
        task: Option<&Task>,
        record: TaskRecord,
        to: &mpsc::Sender<Answer>,
    ) {
        let sent = async {
            let record = match task {
                Some(task) => task.over().await?,
                None => record,
            };
            let room = self.0.acquire_many(OF_ONE).await;
            let result = plane.task_result(&record).await?;
            let sent = in_pieces(task_record::whole(&record), result, to, PATIENCE).await;
            drop(room);
            sent
        };
        match sent.await {
            Ok(Sent::All) => {}
            // It has what was sent before, and learns why there is no more if it reads that.
            Ok(Sent::TooSlow(slow)) => drop(to.send(Err(refuse(slow))).await),
            Err(error) => drop(to.send(Err(task_failed(&error))).await),
        }
    }
}

enum Sent {
    All,
    TooSlow(Failure),
}

async fn in_pieces(
    record: proto::Task,
    mut result: impl AsyncRead + Unpin,
    to: &mpsc::Sender<Answer>,
    patience: Duration,
) -> Result<Sent, TaskError> {
    let mut next = What::Task(record);
    loop {
        let piece = Ok(proto::AttachTaskResponse { what: Some(next) });
        match to.send_timeout(piece, patience).await {
            Ok(()) => {}
            Err(mpsc::error::SendTimeoutError::Timeout(_)) => {
                let message = format!("nobody read a piece of the result for {patience:?}");
                let slow = Failure::fault("task.too_slow", message).help("attach again, and read on");
                return Ok(Sent::TooSlow(slow));
            }
            // A reader that is gone needs no more.
            Err(mpsc::error::SendTimeoutError::Closed(_)) => return Ok(Sent::All),
        }
        let mut bytes = BytesMut::with_capacity(PIECE);
        fill(&mut result, &mut bytes).await.map_err(|error| TaskError::Result(error.to_string()))?;
        if bytes.is_empty() {
            return Ok(Sent::All);
        }
        next = What::Data(bytes.freeze());
    }
}

/// Reads a piece, or what is left.
async fn fill(result: &mut (impl AsyncRead + Unpin), bytes: &mut BytesMut) -> std::io::Result<()> {
    loop {
        let room = PIECE - bytes.len();
        if room == 0 || result.read_buf(&mut (&mut *bytes).limit(room)).await? == 0 {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_reads_gets_all_and_who_does_not_is_cut_off() {
        let result = vec![7; PIECE * 5 + 3];
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
        let sent = in_pieces(proto::Task::default(), &result[..], &send, PATIENCE).await.unwrap();
        assert!(matches!(sent, Sent::All));
        drop(send);
        assert_eq!(reads.await.unwrap(), PIECE * 5 + 3);

        let (send, mut receive) = mpsc::channel::<Answer>(PIECES);
        let short = Duration::from_millis(20);
        let sent = in_pieces(proto::Task::default(), &result[..], &send, short).await.unwrap();
        let Sent::TooSlow(slow) = sent else { panic!("it was waited for") };
        assert_eq!(slow.code, "task.too_slow");
        assert!(receive.recv().await.is_some_and(|answer| answer.is_ok()));
        assert!(receive.try_recv().is_err(), "no more than {PIECES} waited");
    }
}
