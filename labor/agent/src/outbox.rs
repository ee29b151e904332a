//! What waits to be sent on the session: two lanes and the telemetry, drained into one message a
//! poll, control first.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use overseer_protocol::proto::{self, Report, ToOverseer, report::Kind};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::telemetry::Buffer;

/// About how many bytes go into one message.
const MESSAGE_BYTES: usize = 512 << 10;
/// Bytes of results at which the agent stops reading the plugin host.
const FULL: usize = 4 << 20;
/// Control reports that wait at most. They are few by their nature, so more means that nobody
/// reads; the session ends for its silence long before, and what comes then is dropped.
const MAX_CONTROL: usize = 4096;

/// The agent's side: put in, never blocks. Ask [`Outbox::has_room`] before taking more from the
/// host; [`Outbox::room`] tells when to ask again.
#[derive(Clone)]
pub(crate) struct Outbox {
    shared: Arc<Mutex<Shared>>,
    room: Arc<Notify>,
}

struct Shared {
    control: VecDeque<Report>,
    data: VecDeque<(Report, usize)>,
    data_bytes: usize,
    telemetry: Buffer,
    /// Number of the last stream that was begun.
    last: u64,
    /// The stream that drains.
    current: Option<u64>,
    /// Streams up to this one are over.
    over: u64,
    /// The last word, sent behind everything else.
    farewell: Option<Report>,
    finishing: bool,
    /// Of each stream that waits.
    wakers: Vec<(u64, Waker)>,
}

impl Outbox {
    /// Empty. `room` is notified when there is room again.
    pub(crate) fn new(room: Arc<Notify>) -> Self {
        let shared = Shared {
            control: VecDeque::new(),
            data: VecDeque::new(),
            data_bytes: 0,
            telemetry: Buffer::default(),
            last: 0,
            current: None,
            over: 0,
            farewell: None,
            finishing: false,
            wakers: Vec::new(),
        };
        Self { shared: Arc::new(Mutex::new(shared)), room }
    }

    /// A stream for a new session. It says hello, and drains once it is opened; until then
    /// another session may still be up.
    pub(crate) fn begin(&self, hello: proto::Hello) -> Outgoing {
        let mut shared = self.shared.lock();
        shared.last += 1;
        Outgoing {
            shared: self.shared.clone(),
            room: self.room.clone(),
            stream: shared.last,
            hello: Some(Report { kind: Some(Kind::Hello(hello)) }),
        }
    }

    /// The Overseer has welcomed the session of this stream. What an older one did not send is of
    /// no use to anyone, but telemetry is kept and sent again.
    pub(crate) fn open(&self, stream: u64) {
        let mut shared = self.shared.lock();
        shared.clear();
        (shared.over, shared.current) = (stream.saturating_sub(1), Some(stream));
        shared.wake();
        self.room.notify_one();
    }

    /// The session is gone.
    pub(crate) fn lost(&self) {
        let mut shared = self.shared.lock();
        shared.clear();
        if let Some(stream) = shared.current.take() {
            shared.over = shared.over.max(stream);
        }
        shared.wake();
        self.room.notify_one();
    }

    /// Sent before anything else.
    pub(crate) fn control(&self, kind: Kind) {
        let mut shared = self.shared.lock();
        if shared.control.len() < MAX_CONTROL {
            shared.control.push_back(Report { kind: Some(kind) });
            shared.wake();
        }
    }

    /// A result.
    pub(crate) fn result(&self, result: proto::CallResult) {
        use proto::call_result::Outcome;
        let bytes = 64
            + match &result.outcome {
                Some(Outcome::Ok(bytes)) => bytes.len(),
                Some(Outcome::OkBlob(digest)) => digest.len(),
                Some(Outcome::Failure(failure)) => failure.message.len() + failure.cause.len(),
                None => 0,
            };
        let mut shared = self.shared.lock();
        shared.data_bytes += bytes;
        shared.data.push_back((Report { kind: Some(Kind::Result(result)) }, bytes));
        shared.wake();
    }

    /// Sent behind the results so far: what tells that no more of them come.
    pub(crate) fn behind_results(&self, kind: Kind) {
        let mut shared = self.shared.lock();
        shared.data.push_back((Report { kind: Some(kind) }, 0));
        shared.wake();
    }

    /// Works on the telemetry, and sends what has become due.
    pub(crate) fn telemetry<T>(&self, work: impl FnOnce(&mut Buffer) -> T) -> T {
        let mut shared = self.shared.lock();
        let out = work(&mut shared.telemetry);
        shared.wake();
        out
    }

    /// Sends what is there, then this, then ends the stream.
    pub(crate) fn finish(&self, farewell: Kind) {
        let mut shared = self.shared.lock();
        shared.farewell = Some(Report { kind: Some(farewell) });
        shared.finishing = true;
        shared.wake();
    }

    /// Whether more results may be taken from the host.
    pub(crate) fn has_room(&self) -> bool {
        self.shared.lock().data_bytes < FULL
    }
}

impl Shared {
    fn clear(&mut self) {
        self.control.clear();
        self.data.clear();
        self.data_bytes = 0;
        self.telemetry.resume();
    }

    fn wake(&mut self) {
        self.wakers.drain(..).for_each(|(_, waker)| waker.wake());
    }

    /// Everything that is ready, up to about [`MESSAGE_BYTES`].
    fn take(&mut self) -> Vec<Report> {
        let mut reports: Vec<Report> = self.control.drain(..).collect();
        let mut bytes = 0;
        while bytes < MESSAGE_BYTES
            && let Some((report, size)) = self.data.pop_front()
        {
            self.data_bytes -= size;
            bytes += size;
            reports.push(report);
        }
        while bytes < MESSAGE_BYTES
            && let Some(telemetry) = self.telemetry.pop()
        {
            bytes += telemetry.records.len();
            reports.push(Report { kind: Some(Kind::Telemetry(telemetry)) });
        }
        reports
    }
}

/// The session's side: a stream of messages.
pub(crate) struct Outgoing {
    shared: Arc<Mutex<Shared>>,
    room: Arc<Notify>,
    stream: u64,
    hello: Option<Report>,
}

impl Outgoing {
    /// For [`Outbox::open`].
    pub(crate) fn number(&self) -> u64 {
        self.stream
    }
}

impl futures_core::Stream for Outgoing {
    type Item = ToOverseer;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<ToOverseer>> {
        if let Some(hello) = self.hello.take() {
            return Poll::Ready(Some(ToOverseer { reports: vec![hello] }));
        }
        let stream = self.stream;
        let mut shared = self.shared.lock();
        if stream <= shared.over {
            return Poll::Ready(None);
        }
        shared.wakers.retain(|(of, _)| *of != stream);
        if shared.current != Some(stream) {
            shared.wakers.push((stream, cx.waker().clone()));
            return Poll::Pending;
        }
        let was_full = shared.data_bytes >= FULL;
        let reports = shared.take();
        if was_full && shared.data_bytes < FULL {
            self.room.notify_one();
        }
        if !reports.is_empty() {
            return Poll::Ready(Some(ToOverseer { reports }));
        }
        if shared.finishing {
            let farewell = shared.farewell.take();
            return Poll::Ready(farewell.map(|report| ToOverseer { reports: vec![report] }));
        }
        shared.wakers.push((stream, cx.waker().clone()));
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use tokio_stream::StreamExt;

    use super::*;

    fn result(id: u64, bytes: usize) -> proto::CallResult {
        let outcome = Some(proto::call_result::Outcome::Ok(vec![0; bytes].into()));
        proto::CallResult { id, outcome, ..Default::default() }
    }

    fn outbox() -> Outbox {
        Outbox::new(Arc::new(Notify::new()))
    }

    #[tokio::test]
    async fn a_heartbeat_is_never_behind_results_or_telemetry() {
        let outbox = outbox();
        let mut stream = outbox.begin(proto::Hello::default());
        assert_eq!(stream.next().await.unwrap().reports.len(), 1, "only the hello before the welcome");
        outbox.open(stream.number());
        outbox.result(result(1, 10));
        outbox.telemetry(|t| t.push(1, 0, vec![1].into()));
        outbox.control(Kind::Heartbeat(proto::Heartbeat::default()));
        let kinds: Vec<_> = stream.next().await.unwrap().reports.into_iter().filter_map(|r| r.kind).collect();
        assert!(matches!(kinds[..], [Kind::Heartbeat(_), Kind::Result(_), Kind::Telemetry(_)]), "{kinds:?}");
    }

    #[tokio::test]
    async fn a_new_session_sends_no_old_result_and_all_telemetry_again() {
        let outbox = outbox();
        let mut first = outbox.begin(proto::Hello::default());
        outbox.open(first.number());
        outbox.telemetry(|t| t.push(1, 0, vec![1].into()));
        first.next().await.unwrap();
        first.next().await.unwrap();
        // The next one is dialled while this one is up.
        let mut second = outbox.begin(proto::Hello::default());
        outbox.result(result(1, 10));
        assert_eq!(kinds(first.next().await).len(), 1, "the older one goes on until the switch");
        outbox.result(result(2, 10));
        outbox.open(second.number());
        assert!(first.next().await.is_none());
        assert!(matches!(kinds(second.next().await)[..], [Kind::Hello(_)]));
        assert!(matches!(kinds(second.next().await)[..], [Kind::Telemetry(_)]));
    }

    fn kinds(message: Option<ToOverseer>) -> Vec<Kind> {
        message.unwrap().reports.into_iter().filter_map(|r| r.kind).collect()
    }

    #[tokio::test]
    async fn large_results_close_the_room_until_they_are_sent_in_bounded_messages() {
        let outbox = outbox();
        let mut stream = outbox.begin(proto::Hello::default());
        outbox.open(stream.number());
        for id in 0..20 {
            outbox.result(result(id, 250 << 10));
        }
        assert!(!outbox.has_room());
        outbox.finish(Kind::Goodbye(proto::Goodbye::default()));
        let mut seen = 0;
        while let Some(message) = stream.next().await {
            assert!(prost::Message::encoded_len(&message) < overseer_protocol::MAX_MESSAGE);
            seen += message.reports.len();
        }
        assert_eq!(seen, 22, "the hello, the results and the farewell");
        assert!(outbox.has_room());
    }
}
