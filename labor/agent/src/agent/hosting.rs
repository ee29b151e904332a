//! The plugin host: started when a release is loaded, started again when it dies.

use std::ffi::OsString;
use std::sync::Arc;
use std::time::Duration;

use overseer_protocol::proto::{self, report::Kind};
use overseer_protocol::{Attempt, BootPhase, Cause, LogStream, ReleaseId, TaskId};
use overseer_release::{Kind as ReleaseKind, Mode, Restart};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::given_up::GivenUp;
use super::{Agent, Work};
use crate::calls::Event;
use crate::host::{Host, HostInfo, HostKind, HostOutput, HostSpec};
use crate::load::{LoadError, Loaded};
use crate::marker;
use crate::restart::{self, Intensity};
use crate::tells::Told;

/// Time for a host to start when the order names none.
pub(super) const START_TIMEOUT: Duration = Duration::from_secs(30);
const HEALTH_EVERY: Duration = Duration::from_secs(10);
const HEALTH_TIMEOUT: Duration = Duration::from_secs(10);
const STOP_TIMEOUT: Duration = Duration::from_secs(5);
/// Messages of the host that wait for the agent.
pub(super) const OUTPUT: usize = 64;
/// Log streams outside of calls, in one life of the host.
const MAX_STREAMS: usize = 64;

/// What should run, and what does.
#[derive(Default)]
pub(super) struct Hosting {
    wanted: Option<Wanted>,
    loading: Option<AbortHandle>,
    /// What the last load took, when the Overseer has not been told.
    untold: Option<proto::Loaded>,
    loaded: Option<Arc<Loaded>>,
    pub(super) host: Option<Host>,
    concurrency: u32,
    starting: bool,
    pub(super) output: Option<mpsc::Receiver<HostOutput>>,
    /// Which life of the host this is, from 1.
    pub(super) incarnation: u32,
    /// How many were started.
    starts: u32,
    intensity: Intensity,
    restart_at: Option<Instant>,
    health_at: Option<Instant>,
    /// Why we ended it ourselves.
    pub(super) killed: Option<Cause>,
    pub(super) last_cause: Option<Cause>,
    /// No host follows the last one.
    pub(super) given_up: Option<GivenUp>,
    /// Owns what the host writes outside of calls.
    pub(super) task: Option<TaskId>,
    pub(super) streams: Vec<String>,
}

#[derive(Debug, Clone, Copy)]
struct Wanted {
    id: ReleaseId,
    loading: bool,
    restart: bool,
    start_timeout: Duration,
}

/// The outcome of a start.
pub(super) struct Started {
    loaded: Arc<Loaded>,
    /// After an order to load; else it is a restart.
    first: bool,
    incarnation: u32,
    /// What it said before it was up.
    early: Vec<HostOutput>,
    output: mpsc::Receiver<HostOutput>,
    outcome: Result<(Host, HostInfo), Cause>,
}

impl Hosting {
    pub(super) fn take(&mut self) -> Option<Host> {
        self.host.take()
    }

    pub(super) fn host(&self) -> Option<&Host> {
        self.host.as_ref()
    }

    /// Ends the host now; its end is reported with this cause.
    pub(super) fn kill(&mut self, cause: Cause) {
        if let Some(host) = &self.host {
            self.killed = Some(cause);
            host.kill();
        }
    }

    /// Whether the host of another order is on its way.
    fn another_comes(&self) -> bool {
        self.starting || self.wanted.is_some_and(|w| w.loading)
    }

    /// Whether this release is up or about to be.
    pub(super) fn runs_already(&self, id: ReleaseId) -> bool {
        let here = self.loaded.as_ref().is_some_and(|l| l.id == id);
        here && self.wanted.is_some_and(|w| w.id == id && !w.loading) && self.host.is_some()
    }

    /// Notes what is ordered; true when it is to be loaded now.
    pub(super) fn order(&mut self, id: ReleaseId, restart: bool, start_timeout: Duration) -> bool {
        let same = self.wanted.filter(|w| w.id == id);
        let loads = same.is_some_and(|w| w.loading);
        let runs = self.starting || self.host.is_some() || self.restart_at.is_some();
        let busy = loads || (same.is_some() && runs);
        let loading = loads || !busy;
        self.wanted = Some(Wanted { id, loading, restart, start_timeout });
        !busy
    }

    /// Whether what is wanted is being loaded.
    pub(super) fn is_loading(&self) -> bool {
        self.wanted.is_some_and(|wanted| wanted.loading)
    }

    /// What is wanted now is being loaded. Nobody waits for what was wanted before, and it might go on
    /// for as long as it cannot be fetched.
    pub(super) fn loads(&mut self, loading: AbortHandle) {
        if let Some(before) = self.loading.replace(loading) {
            before.abort();
        }
    }

    pub(super) fn ready(&self) -> Option<proto::Ready> {
        let loaded = self.loaded.as_ref().filter(|_| self.host.is_some())?;
        Some(proto::Ready {
            release: loaded.id.to_string(),
            name: loaded.manifest.name.clone(),
            release_version: loaded.manifest.version.to_string(),
            concurrency: self.concurrency,
        })
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        [self.restart_at, self.health_at].into_iter().flatten().min()
    }

    /// The log stream of what the host writes outside of calls.
    pub(super) fn stream(&mut self, stream: String) -> Option<LogStream> {
        if !self.streams.contains(&stream) {
            if self.streams.len() >= MAX_STREAMS {
                return None;
            }
            self.streams.push(stream.clone());
        }
        Some(LogStream { task: self.task?, attempt: Attempt(self.incarnation), stream })
    }
}

/// The next message of the host, if there is one; pends without.
pub(super) async fn receive(output: &mut Option<mpsc::Receiver<HostOutput>>) -> Option<HostOutput> {
    match output {
        Some(output) => output.recv().await,
        None => std::future::pending().await,
    }
}

impl Agent {
    pub(super) fn on_loaded(&mut self, id: ReleaseId, outcome: Result<Loaded, LoadError>) {
        let Some(wanted) = self.hosting.wanted.as_mut().filter(|w| w.id == id) else {
            // Another release was ordered meanwhile.
            return;
        };
        wanted.loading = false;
        match outcome {
            Ok(loaded) => {
                self.hosting.untold = Some(proto::Loaded {
                    release: id.to_string(),
                    fetched: loaded.bytes.fetched,
                    micros: loaded.micros,
                    cached: loaded.bytes.cached,
                });
                self.say_loaded(id);
                self.hosting.intensity = Intensity::default();
                self.hosting.restart_at = None;
                self.start_host(Arc::new(loaded), true);
            }
            Err(error) => self.load_failed(id, error.cause()),
        }
    }

    /// An order to load came to nothing. What ran before it runs on.
    fn load_failed(&mut self, id: ReleaseId, cause: Cause) {
        if !self.tells.failed(&cause) {
            tracing::warn!("release {} does not run: {cause}", id.short());
        }
        self.report(Kind::LoadFailed(proto::LoadFailed {
            release: id.to_string(),
            cause: cause.to_bytes().into(),
        }));
        let hosting = &mut self.hosting;
        if hosting.host.is_none() && !hosting.starting && hosting.restart_at.is_none() {
            self.calls_event(Event::HostEnded { cause, restarts: false });
        } else if let (Some(wanted), Some(loaded)) = (&mut hosting.wanted, &hosting.loaded) {
            wanted.id = loaded.id;
        }
    }

    /// Says that it is loaded; and once, as soon as there is a session, what that took.
    pub(super) fn say_loaded(&mut self, id: ReleaseId) {
        if self.session.is_none() {
            // The next one orders it again.
            return;
        }
        let plain = || proto::Loaded { release: id.to_string(), ..Default::default() };
        let loaded = self.hosting.untold.take().filter(|loaded| loaded.release == id.to_string());
        self.report(Kind::Loaded(loaded.unwrap_or_else(plain)));
    }

    fn start_host(&mut self, loaded: Arc<Loaded>, first: bool) {
        let Some(wanted) = self.hosting.wanted else { return };
        self.hosting.starting = true;
        self.hosting.starts += 1;
        let incarnation = self.hosting.starts;
        if self.hosting.host.is_none() {
            self.calls_event(Event::HostStarting);
        }
        let spec = self.host_spec(&loaded, wanted.start_timeout);
        self.work.spawn(async move {
            let (tx, mut output) = mpsc::channel(OUTPUT);
            let mut early = Vec::new();
            let outcome = match spec {
                Ok(spec) => start(spec, tx, &mut output, &mut early).await,
                Err(cause) => Err(cause),
            };
            let started = Started { loaded, first, incarnation, early, output, outcome };
            Work::Started(Box::new(started))
        });
    }

    fn host_spec(&self, loaded: &Loaded, start_timeout: Duration) -> Result<HostSpec, Cause> {
        let entry = loaded.directory.join(&loaded.manifest.entry);
        let what = match &loaded.manifest.kind {
            ReleaseKind::Plugin { .. } => HostKind::Plugin { library: entry },
            ReleaseKind::Program { args, mode: Mode::Serve } => {
                HostKind::Serve { executable: entry, args: args.clone() }
            }
            ReleaseKind::Program { args, mode: Mode::Supervise } => {
                HostKind::Supervise { executable: entry, args: args.clone() }
            }
        };
        // What the fleet says wins over what the release says.
        let mut environment = loaded.manifest.environment.clone();
        environment.extend(self.environment.clone());
        // By it the node's owner finds what its plugins leave behind.
        if let Ok(mark) = std::env::var(marker::VARIABLE) {
            environment.insert(marker::VARIABLE.to_owned(), mark);
        }
        let directory = self.directory.work();
        let another_user = self.confinement.as_ref().is_some_and(|confinement| confinement.has_user());
        self.directory.make_work(another_user).map_err(|error| Cause::BootFailed {
            phase: BootPhase::Start,
            reason: format!("{}: {error}; check space and permissions there", directory.display()),
        })?;
        let identity = self.standing.pass().map(|pass| pass.identity);
        Ok(HostSpec {
            what,
            name: identity.map_or_else(String::new, |who| format!("{}-{}", who.labor, who.generation)),
            confinement: self.confinement.clone(),
            // Not by its name, which may be another file by now.
            command: ["/proc/self/exe", "__overseer", "plugin-host"].map(OsString::from).into(),
            environment,
            directory,
            start_timeout,
            health_timeout: HEALTH_TIMEOUT,
            stop_timeout: STOP_TIMEOUT,
        })
    }

    pub(super) fn on_started(&mut self, started: Started) {
        let Started { loaded, first, incarnation, early, output, outcome } = started;
        self.hosting.starting = false;
        let current = self.hosting.wanted.is_some_and(|w| w.id == loaded.id && !w.loading);
        match outcome {
            Ok((host, _)) if !current || self.ending.is_stopping() => {
                self.work.spawn(stop(host, output));
            }
            Ok((host, info)) => {
                self.retire_older();
                self.hosting.incarnation = incarnation;
                self.adopt(loaded, first, output, host, info);
                early.into_iter().for_each(|output| self.on_host(output));
            }
            Err(cause) if first && current => {
                self.keep_last_words(incarnation, early);
                self.load_failed(loaded.id, cause);
            }
            Err(cause) if current => {
                self.keep_last_words(incarnation, early);
                self.host_is_gone(cause);
            }
            Err(_) => {}
        }
    }

    pub(super) fn host_task(&self) -> Option<TaskId> {
        self.standing.pass().map(|p| TaskId::of_host(p.identity.labor, p.identity.generation))
    }

    /// An upgrade: the new one is up, so the old one may go.
    fn retire_older(&mut self) {
        let (Some(old), Some(output)) = (self.hosting.host.take(), self.hosting.output.take()) else {
            return;
        };
        self.end_host_streams();
        self.calls_event(Event::HostEnded { cause: Cause::Asked, restarts: true });
        self.work.spawn(stop(old, output));
    }

    fn adopt(
        &mut self,
        loaded: Arc<Loaded>,
        first: bool,
        output: mpsc::Receiver<HostOutput>,
        host: Host,
        info: HostInfo,
    ) {
        let task = self.host_task();
        let hosting = &mut self.hosting;
        hosting.host = Some(host);
        hosting.output = Some(output);
        hosting.killed = None;
        hosting.concurrency = info.concurrency;
        hosting.task = task;
        hosting.health_at = Some(Instant::now() + HEALTH_EVERY);
        self.standing.runs(&loaded.id.to_string(), true, info.concurrency);
        hosting.loaded = Some(loaded);
        if !first {
            self.host_event("started", None);
        }
        self.say_ready();
        self.tells.tell(&Told::Ready);
        self.calls_event(Event::HostUp { concurrency: info.concurrency });
    }

    pub(super) fn host_is_gone(&mut self, cause: Cause) {
        self.hosting.host = None;
        self.hosting.output = None;
        self.hosting.health_at = None;
        self.hosting.last_cause = Some(cause.clone());
        self.end_host_streams();
        let Some(loaded) = self.hosting.loaded.clone() else { return };
        self.standing.runs(&loaded.id.to_string(), false, 0);
        self.host_event("exited", Some(&cause));
        if self.ending.is_stopping() {
            self.calls_event(Event::HostEnded { cause, restarts: false });
            self.on_host_stopped();
            return;
        }
        if self.hosting.another_comes() {
            self.calls_event(Event::HostEnded { cause, restarts: true });
            return;
        }
        let policy = match loaded.manifest.restart {
            Restart::Always => true,
            Restart::OnFailure => !cause.is_normal(),
            Restart::Never => false,
        };
        let ordered = self.hosting.wanted.is_some_and(|w| w.restart);
        if !policy || !ordered {
            self.calls_event(Event::HostEnded { cause: cause.clone(), restarts: false });
            self.give_up(loaded.id, cause);
        } else if let Some(wait) = self.hosting.intensity.ended(std::time::Instant::now()) {
            self.calls_event(Event::HostEnded { cause: cause.clone(), restarts: true });
            self.host_event("restarting", Some(&cause));
            self.hosting.restart_at = Some(Instant::now() + wait);
        } else {
            let (most, window) = (restart::MOST, restart::WINDOW.as_secs());
            let rule = format!("the plugin host ended more than {most} times in {window} s: {cause}");
            self.calls_event(Event::HostEnded { cause, restarts: false });
            self.give_up(loaded.id, Cause::Policy { rule });
        }
    }

    pub(super) fn restart_due(&mut self, now: Instant) {
        if self.hosting.restart_at.is_some_and(|at| at <= now) {
            self.hosting.restart_at = None;
            if let Some(loaded) = self.hosting.loaded.clone() {
                self.start_host(loaded, false);
            }
        }
    }

    pub(super) fn health_due(&mut self, now: Instant) {
        if self.hosting.health_at.is_none_or(|at| at > now) {
            return;
        }
        self.hosting.health_at = Some(now + HEALTH_EVERY);
        // A host that waits for us to read cannot answer in time, and that is no fault of it.
        if !self.outbox.has_room() || !self.logs.has_room() {
            return;
        }
        let incarnation = self.hosting.incarnation;
        if let Some(host) = self.hosting.host() {
            let host = host.clone();
            self.hosting.health_at = None;
            self.work.spawn(async move { Work::Health { incarnation, well: host.health().await } });
        }
    }

    pub(super) fn on_health(&mut self, incarnation: u32, well: Result<(), Cause>) {
        if incarnation != self.hosting.incarnation || self.hosting.host.is_none() {
            return;
        }
        self.hosting.health_at = Some(Instant::now() + HEALTH_EVERY);
        if let Err(cause) = well {
            self.hosting.kill(cause);
        }
    }
}

/// Starts a host, and reads it meanwhile, for one that nobody reads stands still. What it says
/// is kept, up to a bound.
async fn start(
    spec: HostSpec,
    tx: mpsc::Sender<HostOutput>,
    output: &mut mpsc::Receiver<HostOutput>,
    early: &mut Vec<HostOutput>,
) -> Result<(Host, HostInfo), Cause> {
    const MOST: usize = 4 << 20;
    let mut bytes = 0;
    let starting = Host::start(spec, tx);
    tokio::pin!(starting);
    loop {
        tokio::select! {
            outcome = &mut starting => {
                while let Ok(said) = output.try_recv() {
                    early.push(said);
                }
                return outcome;
            }
            Some(said) = output.recv(), if bytes < MOST => {
                bytes += match &said {
                    HostOutput::Log { data, .. } => data.len(),
                    HostOutput::Telemetry { records, .. } => records.len(),
                    _ => 64,
                };
                early.push(said);
            }
        }
    }
}

/// Stops a host that is of no use any more; what it still says is not heard.
async fn stop(host: Host, mut output: mpsc::Receiver<HostOutput>) -> Work {
    let deaf = async { while output.recv().await.is_some() {} };
    tokio::join!(host.stop(), deaf);
    Work::Retired
}
