use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use crate::context::Call;
use crate::link::Link;
use crate::panics::{caught, remember};
use crate::{CallContext, ErrorKind, Plugin, PluginError, StartContext, Status};

/// A plugin behind the ABI: its value once it has started, and the calls that run. No panic
/// leaves it.
pub(crate) struct Instance<P> {
    started: OnceLock<(P, Arc<dyn Link>)>,
    calls: Mutex<HashMap<u64, Arc<Call>>>,
}

type Answer = (Status, Vec<u8>);

impl<P: Plugin> Instance<P> {
    pub(crate) fn new() -> Self {
        Self { started: OnceLock::new(), calls: Mutex::default() }
    }

    pub(crate) fn start(&self, link: Arc<dyn Link>) -> Answer {
        remember();
        match caught(|| P::start(&StartContext::new(link.clone()))) {
            Ok(Ok(plugin)) => match self.started.set((plugin, link)) {
                Ok(()) => (Status::Done, Vec::new()),
                Err(_) => (Status::Failed, b"the plugin has been started before".to_vec()),
            },
            Ok(Err(error)) => failed(error),
            Err(panic) => (Status::Panicked, panic.into_bytes()),
        }
    }

    /// Makes a call known, so that from here on [`Instance::cancel`] reaches it.
    pub(crate) fn begin(&self, id: u64) {
        if let Some((_, link)) = self.started.get() {
            self.calls().insert(id, Call::new(id, link.clone()));
        }
    }

    pub(crate) fn call(&self, id: u64, cast: bool, method: &[u8], payload: &[u8]) -> Answer {
        let call = self.calls().get(&id).cloned();
        let (Some((plugin, _)), Some(call)) = (self.started.get(), call) else {
            return (Status::Failed, b"the plugin has not been started".to_vec());
        };
        let outcome = match str::from_utf8(method) {
            Err(_) => Ok(Err(PluginError::no_method("the method's name is no UTF-8"))),
            Ok(method) => caught(|| {
                let context = CallContext::new(call.clone());
                if cast {
                    plugin.cast(&context, method, payload);
                    Ok(Vec::new())
                } else {
                    plugin.call(&context, method, payload)
                }
            }),
        };
        self.calls().remove(&id);
        // What waits for a cancellation is plugin code too when it is dropped.
        let _ = caught(|| call.end());
        match outcome {
            Ok(Ok(result)) => (Status::Done, result),
            Ok(Err(error)) => failed(error),
            Err(panic) => (Status::Panicked, panic.into_bytes()),
        }
    }

    pub(crate) fn cancel(&self, id: u64) {
        let call = self.calls().get(&id).cloned();
        if let Some(call) = call {
            call.cancel();
        }
    }

    pub(crate) fn health(&self) -> Answer {
        match self.started.get().map(|(plugin, _)| caught(|| plugin.health())) {
            None => (Status::Failed, b"the plugin has not been started".to_vec()),
            Some(Ok(Ok(()))) => (Status::Done, Vec::new()),
            Some(Ok(Err(reason))) => (Status::Failed, reason.into_bytes()),
            Some(Err(panic)) => (Status::Panicked, panic.into_bytes()),
        }
    }

    pub(crate) fn stop(&self) -> Answer {
        match self.started.get().map(|(plugin, _)| caught(|| plugin.stop())) {
            Some(Err(panic)) => (Status::Panicked, panic.into_bytes()),
            _ => (Status::Done, Vec::new()),
        }
    }

    fn calls(&self) -> MutexGuard<'_, HashMap<u64, Arc<Call>>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn failed(error: PluginError) -> Answer {
    let status = match error.kind {
        ErrorKind::Failed => Status::Failed,
        ErrorKind::NoMethod => Status::NoMethod,
        ErrorKind::BadPayload => Status::BadPayload,
        ErrorKind::Cancelled => Status::Cancelled,
        ErrorKind::TooLarge => Status::TooLarge,
        ErrorKind::OutOfMemory => Status::OutOfMemory,
    };
    (status, error.message.into_bytes())
}
