use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::SystemTime;

use futures_core::Stream;
use tokio::time::{Instant, Sleep};
use tonic::Status;

use crate::clock;

/// The moment at which a client certificate runs out, as the clock is now.
#[derive(Debug, Clone, Copy)]
pub(super) struct Expiry(Instant);

impl Expiry {
    pub(super) fn at(not_after: SystemTime) -> Self {
        let left = not_after.duration_since(clock::now()).unwrap_or_default();
        Self(Instant::now() + left)
    }

    /// Waits for it.
    pub(super) async fn passed(self) {
        tokio::time::sleep_until(self.0).await;
    }

    /// The work's outcome, if it is done before.
    pub(super) async fn limit<T>(self, work: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
        tokio::time::timeout_at(self.0, work).await.unwrap_or_else(|_| Err(run_out()))
    }

    /// The stream until then, and then why it ends.
    pub(super) fn cut<S>(self, stream: S) -> Until<S> {
        Until { stream: Some(stream), expiry: Box::pin(tokio::time::sleep_until(self.0)) }
    }
}

/// The same words as for an open session.
fn run_out() -> Status {
    Status::unauthenticated("the client certificate has run out")
}

/// See [`Expiry::cut`].
pub(super) struct Until<S> {
    /// None once it is cut. What feeds it sees that.
    stream: Option<S>,
    expiry: Pin<Box<Sleep>>,
}

impl<T, S: Stream<Item = Result<T, Status>> + Unpin> Stream for Until<S> {
    type Item = Result<T, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        let Some(stream) = &mut this.stream else { return Poll::Ready(None) };
        // First, for a stream that is always ready would never let the clock have its turn.
        if this.expiry.as_mut().poll(cx).is_ready() {
            this.stream = None;
            return Poll::Ready(Some(Err(run_out())));
        }
        Pin::new(stream).poll_next(cx)
    }
}
