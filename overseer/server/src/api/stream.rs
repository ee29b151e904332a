//! What somebody follows: told step by step, until it is over, nobody reads any more, or the server stops.

use std::sync::Arc;

use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::status::refuse;
use super::{Answers, WAITING};
use crate::serve::gate;
use crate::serve::server::Server;

/// Something that goes on.
pub(super) trait Steps: Send + 'static {
    /// As it is told.
    type Step: Send + 'static;

    /// Waits for the next step; none when it is over.
    fn step(&mut self) -> impl Future<Output = Option<Result<Self::Step, Status>>> + Send;
}

/// Each step as an answer. One who reads slowly is waited for, with no more than the bound ahead.
pub(super) fn follow<S: Steps>(mut steps: S, server: Arc<Server>) -> Answers<S::Step> {
    let (send, receive) = tokio::sync::mpsc::channel(WAITING);
    tokio::spawn(async move {
        loop {
            let answer = tokio::select! {
                step = steps.step() => match step {
                    Some(answer) => answer,
                    None => return,
                },
                () = send.closed() => return,
                () = server.gate.closing() => {
                    // A reader that is gone needs no word.
                    let _ = send.try_send(Err(refuse(gate::stopping())));
                    return;
                }
            };
            tokio::select! {
                sent = send.send(answer) => if sent.is_err() { return },
                () = server.gate.closing() => return,
            }
        }
    });
    Box::pin(ReceiverStream::new(receive))
}
