//! What the plugin host says, and where it goes.

use overseer_protocol::{Attempt, LogStream};
use tokio::sync::mpsc;

use super::hosting::OUTPUT;
use super::{Agent, work};
use crate::as_user::AsUser;
use crate::calls::Event;
use crate::host::HostOutput;

impl Agent {
    /// What a host wrote that did not get up says most about why.
    pub(super) fn keep_last_words(&mut self, incarnation: u32, early: Vec<HostOutput>) {
        if self.hosting.host.is_some() {
            return;
        }
        self.hosting.incarnation = incarnation;
        self.hosting.task = self.host_task();
        for output in early {
            if let HostOutput::Log { call: None, stream, data } = output {
                self.on_log(None, stream, &data);
            }
        }
        self.end_host_streams();
    }

    /// A message of the host and what came with it, in bounds, so that others have their turn.
    pub(super) fn on_output(&mut self, first: HostOutput) {
        self.on_host(first);
        for _ in 0..OUTPUT {
            if !self.outbox.has_room() || !self.logs.has_room() {
                return;
            }
            let Some(Ok(output)) = self.hosting.output.as_mut().map(mpsc::Receiver::try_recv) else { return };
            self.on_host(output);
        }
    }

    pub(super) fn on_host(&mut self, output: HostOutput) {
        match output {
            HostOutput::Result { id, outcome } => self.calls_event(Event::Finished(id, outcome)),
            HostOutput::Telemetry { count, dropped, records } => {
                self.outbox.telemetry(|t| t.push(count, dropped, records));
            }
            HostOutput::Log { call, stream, data } => self.on_log(call, stream, &data),
            HostOutput::PutBlob { request, path } => {
                let (bulk, user) = (self.bulk.clone(), AsUser::of(self.confinement.clone()));
                self.work.spawn(work::put_file(bulk, self.hosting.incarnation, request, path, user));
            }
            HostOutput::GetBlob { request, digest, path } => {
                let (bulk, user) = (self.bulk.clone(), AsUser::of(self.confinement.clone()));
                self.work.spawn(work::get_file(bulk, self.hosting.incarnation, request, digest, path, user));
            }
            HostOutput::Ended(cause) => {
                let cause = self.hosting.killed.take().unwrap_or(cause);
                self.host_is_gone(cause);
            }
        }
    }

    pub(super) fn on_blob(&mut self, incarnation: u32, request: u64, answer: Result<(String, u64), String>) {
        if incarnation == self.hosting.incarnation
            && let Some(host) = self.hosting.host()
        {
            host.answer_blob(request, answer);
        }
    }

    pub(super) fn end_host_streams(&mut self) {
        for stream in std::mem::take(&mut self.hosting.streams) {
            if let Some(task) = self.hosting.task {
                self.logs.end(&LogStream { task, attempt: Attempt(self.hosting.incarnation), stream });
            }
        }
    }
}
