//! What the plugin host says, and where it goes.

use overseer_protocol::LogStream;

use super::host_streams::HostStreams;
use super::hosting::OUTPUT;
use super::{Agent, work};
use crate::as_user::AsUser;
use crate::calls::{Event, HostNumber};
use crate::host::HostOutput;

impl Agent {
    /// What a host wrote that did not get up says most about why.
    pub(super) fn keep_last_words(&self, mut streams: HostStreams, early: Vec<HostOutput>) {
        for output in early {
            if let HostOutput::Log { call: None, stream, data } = output
                && LogStream::good_name(&stream)
                && let Some(stream) = streams.open(stream)
            {
                self.logs.append(&stream, &data);
            }
        }
        streams.all().for_each(|stream| self.logs.end(&stream));
    }

    /// A message of a host and what came with it, in bounds, so that others have their turn.
    pub(super) fn on_output(&mut self, host: HostNumber, first: HostOutput) {
        self.on_host(host, first);
        for _ in 0..OUTPUT {
            if !self.outbox.has_room() || !self.logs.has_room() {
                return;
            }
            let Some(Ok(output)) = self.hosting.lives.get_mut(host).map(|life| life.output.try_recv()) else {
                return;
            };
            self.on_host(host, output);
        }
    }

    pub(super) fn on_host(&mut self, host: HostNumber, output: HostOutput) {
        match output {
            HostOutput::Result { id, outcome } => self.calls_event(Event::Finished(id, outcome)),
            HostOutput::Telemetry { count, dropped, records } => {
                self.outbox.telemetry(|t| t.push(count, dropped, records));
            }
            HostOutput::Log { call, stream, data } => self.on_log(host, call, stream, &data),
            HostOutput::PutBlob { request, path } => {
                let (bulk, user) = (self.bulk.clone(), AsUser::of(self.confinement.clone()));
                self.work.spawn(work::put_file(bulk, host, request, path, user));
            }
            HostOutput::GetBlob { request, digest, path } => {
                let (bulk, user) = (self.bulk.clone(), AsUser::of(self.confinement.clone()));
                self.work.spawn(work::get_file(bulk, host, request, digest, path, user));
            }
            HostOutput::Ended(cause) => self.on_host_ended(host, cause),
        }
    }

    pub(super) fn on_blob(&mut self, host: HostNumber, request: u64, answer: Result<(String, u64), String>) {
        if let Some(life) = self.hosting.lives.get(host) {
            life.host.answer_blob(request, answer);
        }
    }
}
