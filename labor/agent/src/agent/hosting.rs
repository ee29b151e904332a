//! The plugin host: started when a release is loaded, started again when it dies.

use std::ffi::OsString;
use std::sync::Arc;
use std::time::Duration;

use overseer_plugin::host::SPIN;
use overseer_protocol::proto::{self, report::Kind};
use overseer_protocol::{BootPhase, Cause, ReleaseId, TaskId};
use overseer_release::{Kind as ReleaseKind, Mode, Restart};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::given_up::GivenUp;
use super::host_streams::HostStreams;
use super::lives::{Life, Lives};
use super::upgrade::HandOver;
use super::{Agent, Work};
use crate::calls::{Event, HostNumber};
use crate::host::{Host, HostInfo, HostKind, HostOutput, HostSpec};
use crate::load::{LoadError, Loaded};
use crate::marker;
use crate::restart::{self, Intensity};
use crate::tells::Told;

/// Time for a host to start when the order names none.
pub(super) const START_TIMEOUT: Duration = Duration::from_secs(30);
/// Time for an older release to finish what it has when the order names none.
pub(super) const DRAIN: Duration = Duration::from_secs(60);
const HEALTH_EVERY: Duration = Duration::from_secs(10);
const HEALTH_TIMEOUT: Duration = Duration::from_secs(10);
const STOP_TIMEOUT: Duration = Duration::from_secs(5);
/// Messages of the host that wait for the agent.
pub(super) const OUTPUT: usize = 64;

/// What should run, and what does.
#[derive(Default)]
pub(super) struct Hosting {
    pub(super) wanted: Option<Wanted>,
    loading: Option<Loading>,
    /// What the last load took, when the Overseer has not been told.
    untold: Option<proto::Loaded>,
    /// What the present host runs, or the next one.
    pub(super) loaded: Option<Arc<Loaded>>,
    pub(super) lives: Lives,
    concurrency: u32,
    /// The host that is being started.
    starting: Option<HostNumber>,
    /// The newest host that was up.
    pub(super) incarnation: HostNumber,
    /// How many were started.
    starts: HostNumber,
    intensity: Intensity,
    restart_at: Option<Instant>,
    pub(super) health_at: Option<Instant>,
    pub(super) last_cause: Option<Cause>,
    /// No host follows the last one.
    pub(super) given_up: Option<GivenUp>,
    /// A release that waits for what the one before leaves to it.
    pub(super) hand_over: Option<HandOver>,
}

/// A load on its way, which is given up when this is dropped.
struct Loading(AbortHandle);

impl Drop for Loading {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The last order to load.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    pub(super) id: ReleaseId,
    pub(super) loading: bool,
    pub(super) order: LoadOrder,
}

/// How it is to be run.
#[derive(Debug, Clone, Copy)]
pub(super) struct LoadOrder {
    /// A host that ends is started again.
    pub(super) restart: bool,
    pub(super) start_timeout: Duration,
    /// For the host before it to finish what it has.
    pub(super) drain: Duration,
}

/// The outcome of a start.
pub(super) struct Started {
    loaded: Arc<Loaded>,
    /// After an order to load; else it is a restart.
    first: bool,
    number: HostNumber,
    /// What it said before it was up.
    early: Vec<HostOutput>,
    output: mpsc::Receiver<HostOutput>,
    outcome: Result<(Host, HostInfo), Cause>,
}

impl Hosting {
    /// The one that takes calls.
    pub(super) fn host(&self) -> Option<&Host> {
        self.lives.present().map(|life| &life.host)
    }

    /// Whether the host of another order is on its way.
    fn another_comes(&self) -> bool {
        self.starting.is_some() || self.hand_over.is_some() || self.is_loading()
    }

    /// Whether this release is up.
    pub(super) fn runs_already(&self, id: ReleaseId) -> bool {
        self.lives.present().is_some_and(|life| life.loaded.id == id)
    }

    /// What runs is wanted; what was on its way is not any more.
    pub(super) fn stay(&mut self, id: ReleaseId, order: LoadOrder) {
        self.wanted = Some(Wanted { id, loading: false, order });
        self.loading = None;
    }

    /// Notes what is ordered; true when it is to be loaded now.
    pub(super) fn order(&mut self, id: ReleaseId, order: LoadOrder) -> bool {
        let same = self.wanted.filter(|w| w.id == id);
        let loads = same.is_some_and(|w| w.loading);
        let runs = self.starting.is_some()
            || self.hand_over.is_some()
            || self.lives.present().is_some()
            || self.restart_at.is_some();
        let busy = loads || (same.is_some() && runs);
        let loading = loads || !busy;
        self.wanted = Some(Wanted { id, loading, order });
        !busy
    }

    /// Whether what is wanted is being loaded.
    pub(super) fn is_loading(&self) -> bool {
        self.wanted.is_some_and(|wanted| wanted.loading)
    }

    /// What is wanted now is being loaded. Nobody waits for what was wanted before, and it might go on
    /// for as long as it cannot be fetched.
    pub(super) fn loads(&mut self, loading: AbortHandle) {
        self.loading = Some(Loading(loading));
    }

    /// Nothing is to run any more.
    pub(super) fn forget(&mut self) {
        (self.wanted, self.loading, self.loaded, self.untold) = (None, None, None, None);
        (self.restart_at, self.health_at, self.given_up, self.hand_over) = (None, None, None, None);
    }

    pub(super) fn ready(&self) -> Option<proto::Ready> {
        let life = self.lives.present()?;
        Some(proto::Ready {
            release: life.loaded.id.to_string(),
            name: life.loaded.manifest.name.clone(),
            release_version: life.loaded.manifest.version.to_string(),
            concurrency: self.concurrency,
            incarnation: life.number(),
        })
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        [self.restart_at, self.health_at, self.lives.next_deadline()].into_iter().flatten().min()
    }

    /// When one that takes no more calls has to have finished.
    pub(super) fn stop_by(&self) -> Instant {
        Instant::now() + self.wanted.map_or(Duration::ZERO, |wanted| wanted.order.drain)
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
                self.start_release(Arc::new(loaded));
            }
            Err(error) => self.load_failed(id, error.cause()),
        }
    }

    /// An order to load came to nothing. What ran before it runs on.
    pub(super) fn load_failed(&mut self, id: ReleaseId, cause: Cause) {
        if !self.tells.failed(&cause) {
            tracing::warn!("release {} does not run: {cause}", id.short());
        }
        self.report(Kind::LoadFailed(proto::LoadFailed {
            release: id.to_string(),
            cause: cause.to_bytes().into(),
        }));
        let hosting = &mut self.hosting;
        let comes = hosting.starting.is_some() || hosting.restart_at.is_some() || hosting.hand_over.is_some();
        if hosting.host().is_none() && !comes {
            self.calls_event(Event::NoHost);
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

    pub(super) fn start_host(&mut self, loaded: Arc<Loaded>, first: bool) {
        let Some(wanted) = self.hosting.wanted else { return };
        self.hosting.starts += 1;
        let number = self.hosting.starts;
        self.hosting.starting = Some(number);
        if self.hosting.host().is_none() {
            self.calls_event(Event::HostStarting);
        }
        let spec = self.host_spec(&loaded, number, wanted.order.start_timeout);
        self.work.spawn(async move {
            let (tx, mut output) = mpsc::channel(OUTPUT);
            let mut early = Vec::new();
            let outcome = match spec {
                Ok(spec) => start(spec, tx, &mut output, &mut early).await,
                Err(cause) => Err(cause),
            };
            let started = Started { loaded, first, number, early, output, outcome };
            Work::Started(Box::new(started))
        });
    }

    fn host_spec(
        &self,
        loaded: &Loaded,
        number: HostNumber,
        start_timeout: Duration,
    ) -> Result<HostSpec, Cause> {
        let entry = loaded.directory.join(&loaded.manifest.entry);
        let what = match &loaded.manifest.kind {
            ReleaseKind::Plugin { .. } => HostKind::Plugin { library: entry },
            ReleaseKind::Program { args, mode: Mode::Serve } => {
                HostKind::Serve { executable: entry, args: args.clone() }
            }
            ReleaseKind::Program { args, mode: Mode::Supervise } => {
                HostKind::Supervise { executable: entry, args: args.clone() }
            }
            ReleaseKind::Program { args, mode: Mode::Run { concurrency } } => {
                HostKind::Run { executable: entry, args: args.clone(), concurrency: *concurrency }
            }
        };
        // What the fleet says wins over what the release says.
        let mut environment = loaded.manifest.environment.clone();
        environment.extend(self.environment.clone());
        // By it the node's owner finds what its plugins leave behind.
        if let Ok(mark) = std::env::var(marker::VARIABLE) {
            environment.insert(marker::VARIABLE.to_owned(), mark);
        }
        if !self.spin.time().is_zero() {
            environment.insert(SPIN.to_owned(), self.spin.time().as_micros().to_string());
        }
        let directory = self.directory.work();
        environment.extend(self.hand_over_environment(&directory, number));
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
        let Started { loaded, first, number, early, output, outcome } = started;
        self.hosting.starting.take_if(|starting| *starting == number);
        let current = self.hosting.wanted.is_some_and(|w| w.id == loaded.id && !w.loading);
        match outcome {
            Ok((host, _)) if !current || self.ending.is_stopping() => {
                self.work.spawn(stop(host, output));
            }
            Ok((host, info)) => {
                let life = Life::new(host, output, loaded, self.host_streams(number));
                self.adopt(life, first, info);
                early.into_iter().for_each(|output| self.on_host(number, output));
            }
            Err(cause) => {
                self.keep_last_words(self.host_streams(number), early);
                if current && !self.ending.is_stopping() {
                    if first {
                        self.not_started(&loaded, cause);
                    } else {
                        self.said_exited(number, &cause);
                        self.host_is_gone(cause);
                    }
                }
            }
        }
    }

    /// What a host writes outside of calls.
    fn host_streams(&self, number: HostNumber) -> HostStreams {
        let task = self.standing.pass().map(|p| TaskId::of_host(p.identity.labor, p.identity.generation));
        HostStreams::new(number, task)
    }

    /// It takes calls from now on. One before it, of another release, finishes what it has.
    fn adopt(&mut self, life: Life, first: bool, info: HostInfo) {
        let stop_by = self.hosting.stop_by();
        let hosting = &mut self.hosting;
        let (host, release, concurrency) = (life.number(), life.loaded.id, info.concurrency);
        hosting.incarnation = host;
        hosting.concurrency = concurrency;
        hosting.health_at = Some(Instant::now() + HEALTH_EVERY);
        hosting.loaded = Some(life.loaded.clone());
        self.standing.runs(&release.to_string(), true, concurrency);
        hosting.lives.begin(life, stop_by);
        if !first {
            self.host_event("started", host, release, None);
        }
        self.say_ready();
        self.tells.tell(&Told::Ready);
        self.calls_event(Event::HostUp { host, concurrency });
        self.started_well();
    }

    /// A host has ended, with all that it said.
    pub(super) fn on_host_ended(&mut self, number: HostNumber, cause: Cause) {
        let Some((life, present)) = self.hosting.lives.remove(number) else { return };
        life.streams.all().for_each(|stream| self.logs.end(&stream));
        if present {
            self.said_exited(number, &cause);
        }
        let ends = self.ending.is_stopping();
        let restarts = present && !ends && (self.hosting.another_comes() || self.restarts(&cause));
        self.calls_event(Event::HostEnded { host: number, cause: cause.clone(), restarts });
        match (ends, present) {
            (true, _) if self.hosting.lives.is_empty() => self.on_host_stopped(),
            (true, _) => {}
            (false, true) => self.host_is_gone(cause),
            (false, false) => self.retired_is_gone(&life, &cause),
        }
    }

    /// What should run does not.
    fn said_exited(&self, number: HostNumber, cause: &Cause) {
        if let Some(loaded) = &self.hosting.loaded {
            self.standing.runs(&loaded.id.to_string(), false, 0);
            self.host_event("exited", number, loaded.id, Some(cause));
        }
    }

    /// Whether a host that ended so is started again, as far as manifest and order say.
    fn restarts(&self, cause: &Cause) -> bool {
        let policy = self.hosting.loaded.as_ref().is_some_and(|loaded| match loaded.manifest.restart {
            Restart::Always => true,
            Restart::OnFailure => !cause.is_normal(),
            Restart::Never => false,
        });
        policy && self.hosting.wanted.is_some_and(|wanted| wanted.order.restart)
    }

    /// No host takes calls: the present one has ended, or the next one did not get up.
    fn host_is_gone(&mut self, cause: Cause) {
        self.hosting.health_at = None;
        self.hosting.last_cause = Some(cause.clone());
        let Some(loaded) = self.hosting.loaded.clone() else { return };
        if self.hosting.another_comes() {
            return;
        }
        if !self.restarts(&cause) {
            self.calls_event(Event::NoHost);
            self.give_up(loaded.id, cause);
        } else if let Some(wait) = self.hosting.intensity.ended(std::time::Instant::now()) {
            self.host_event("restarting", self.hosting.incarnation, loaded.id, Some(&cause));
            self.hosting.restart_at = Some(Instant::now() + wait);
        } else {
            let (most, window) = (restart::MOST, restart::WINDOW.as_secs());
            let rule = format!("the plugin host ended more than {most} times in {window} s: {cause}");
            self.calls_event(Event::NoHost);
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
        if let Some(life) = self.hosting.lives.present() {
            let (number, host) = (life.number(), life.host.clone());
            self.hosting.health_at = None;
            self.work.spawn(async move { Work::Health { number, well: host.health().await } });
        }
    }

    pub(super) fn on_health(&mut self, number: HostNumber, well: Result<(), Cause>) {
        if self.hosting.lives.present().is_none_or(|life| life.number() != number) {
            return;
        }
        self.hosting.health_at = Some(Instant::now() + HEALTH_EVERY);
        if let Err(cause) = well {
            self.hosting.lives.kill(number, cause);
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
