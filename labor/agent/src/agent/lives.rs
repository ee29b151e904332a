//! The plugin hosts that live: the one that takes calls, and those before it that finish what they
//! have.

use std::sync::Arc;
use std::task::{Context, Poll};

use overseer_protocol::Cause;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::host_streams::HostStreams;
use crate::calls::HostNumber;
use crate::host::{Host, HostOutput};
use crate::load::Loaded;

/// Hosts that finish what they have. When one more comes the oldest is stopped.
const MAX_RETIRED: usize = 8;

/// One life of a plugin host.
pub(super) struct Life {
    pub(super) host: Host,
    pub(super) output: mpsc::Receiver<HostOutput>,
    pub(super) loaded: Arc<Loaded>,
    /// What it writes outside of calls.
    pub(super) streams: HostStreams,
    /// When it is stopped though it has not finished; none once it was told to stop.
    stop_by: Option<Instant>,
}

impl Life {
    pub(super) fn new(
        host: Host,
        output: mpsc::Receiver<HostOutput>,
        loaded: Arc<Loaded>,
        streams: HostStreams,
    ) -> Self {
        Self { host, output, loaded, streams, stop_by: None }
    }

    /// Its number in this agent, from 1: its incarnation.
    pub(super) fn number(&self) -> HostNumber {
        self.streams.number()
    }
}

/// See the module.
#[derive(Default)]
pub(super) struct Lives {
    present: Option<Life>,
    /// By age.
    retired: Vec<Life>,
}

impl Lives {
    /// The one that takes calls.
    pub(super) fn present(&self) -> Option<&Life> {
        self.present.as_ref()
    }

    pub(super) fn get(&self, number: HostNumber) -> Option<&Life> {
        self.all().find(|life| life.number() == number)
    }

    pub(super) fn get_mut(&mut self, number: HostNumber) -> Option<&mut Life> {
        self.retired.iter_mut().chain(&mut self.present).find(|life| life.number() == number)
    }

    /// All, the present one last.
    pub(super) fn all(&self) -> impl Iterator<Item = &Life> {
        self.retired.iter().chain(&self.present)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.present.is_none() && self.retired.is_empty()
    }

    /// It takes calls from now on; the one before is to finish by then.
    pub(super) fn begin(&mut self, life: Life, stop_by: Instant) {
        self.retire(stop_by);
        self.present = Some(life);
    }

    /// The present one takes no more calls.
    pub(super) fn retire(&mut self, stop_by: Instant) {
        if let Some(mut before) = self.present.take() {
            before.stop_by = Some(stop_by);
            self.retired.push(before);
        }
    }

    /// One is gone; whether it was the present one.
    pub(super) fn remove(&mut self, number: HostNumber) -> Option<(Life, bool)> {
        if let Some(present) = self.present.take_if(|life| life.number() == number) {
            return Some((present, true));
        }
        let at = self.retired.iter().position(|life| life.number() == number)?;
        Some((self.retired.remove(at), false))
    }

    /// Ends one now; its end is reported with this cause.
    pub(super) fn kill(&self, number: HostNumber, cause: Cause) {
        if let Some(life) = self.get(number) {
            life.host.kill(cause);
        }
    }

    /// One that is to be stopped now: it is past its time, or there are too many. Each once.
    pub(super) fn overdue(&mut self, now: Instant) -> Option<Host> {
        let too_many = self.retired.len() > MAX_RETIRED;
        let mut open = self.retired.iter_mut().filter(|life| life.stop_by.is_some());
        let life = match too_many {
            true => open.next(),
            false => open.find(|life| life.stop_by.is_some_and(|by| by <= now)),
        }?;
        life.stop_by = None;
        Some(life.host.clone())
    }

    /// It has finished: it is to be stopped, if it was not told so already.
    pub(super) fn finished(&mut self, number: HostNumber) -> Option<Host> {
        let life = self.retired.iter_mut().find(|life| life.number() == number)?;
        life.stop_by.take().map(|_| life.host.clone())
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.retired.iter().filter_map(|life| life.stop_by).min()
    }

    /// The next message of any of them; pends without one.
    pub(super) async fn receive(&mut self) -> (HostNumber, HostOutput) {
        std::future::poll_fn(|cx| self.poll(cx)).await
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<(HostNumber, HostOutput)> {
        // Those that are to end first: a flood of the present one must not keep them.
        for life in self.retired.iter_mut().chain(&mut self.present) {
            if let Poll::Ready(Some(said)) = life.output.poll_recv(cx) {
                return Poll::Ready((life.number(), said));
            }
        }
        Poll::Pending
    }
}
