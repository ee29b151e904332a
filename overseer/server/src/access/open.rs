//! Answers that are open under a token, and end with it.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::HeaderMap;

use super::layer::ended_status;
use super::token::Refused;

/// See the module.
pub(super) struct OpenUnder {
    body: Body,
    ended: Pin<Box<dyn Future<Output = Refused> + Send>>,
    over: bool,
}

impl OpenUnder {
    /// The body, until `ended` says why it ends.
    pub(super) fn new(body: Body, ended: Pin<Box<dyn Future<Output = Refused> + Send>>) -> Self {
        Self { body, ended, over: false }
    }
}

impl http_body::Body for OpenUnder {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        if this.over {
            return Poll::Ready(None);
        }
        if let Poll::Ready(refused) = this.ended.as_mut().poll(cx) {
            this.over = true;
            let mut trailers = HeaderMap::new();
            let status = ended_status(refused);
            return Poll::Ready(Some(status.add_header(&mut trailers).map(|()| Frame::trailers(trailers))));
        }
        Pin::new(&mut this.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.over || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        // It may end early.
        SizeHint::default()
    }
}
