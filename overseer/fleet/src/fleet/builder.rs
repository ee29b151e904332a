use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use overseer_adapter::Adapter;
use overseer_protocol::{FleetName, Isolation, IsolationError, ReleaseCache, Resources};
use ractor::Actor;

use super::actor::{FleetActor, FleetArguments};
use super::directories;
use super::handler::HandlerActor;
use super::nodes::Nodes;
use super::record_writer::RecordWriter;
use super::recovery::{self, RecoveryError};
use super::{Fleet, FleetHandle, FleetShared};
use crate::callbacks::{Overseer, Quiet};
use crate::control_plane::{ControlPlane, ControlPlaneError};
use crate::core::{Backoff, Deadlines, Escalation, Options, Requeue, Restart};
use crate::mailbox::Mailbox;
use crate::release::{Release, ReleaseError};
use crate::tasks::{TaskError, Tasks};

/// Why a fleet did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// No adapter was given.
    #[error("a fleet needs an adapter; give one with .adapter(…), such as overseer::local::Local")]
    NoAdapter,
    /// Not a fleet name.
    #[error(transparent)]
    Name(#[from] overseer_protocol::IdError),
    /// The control plane has a fleet of that name.
    #[error("there is a fleet {0} already; choose another name")]
    NameTaken(FleetName),
    /// An option that cannot work.
    #[error("option {option}: {reason}")]
    Option {
        /// Which.
        option: &'static str,
        /// Why.
        reason: &'static str,
    },
    /// Labors could not start their plugin hosts.
    #[error(transparent)]
    Isolation(#[from] IsolationError),
    /// The directory of the control plane is not to be passed through by the user of plugin hosts.
    #[error("{directory} cannot be opened for the user of plugin hosts to pass: {source}")]
    Pass {
        /// Which.
        directory: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// No copy could be taken of the release.
    #[error(transparent)]
    Release(#[from] ReleaseError),
    /// Its own control plane did not start.
    #[error(transparent)]
    ControlPlane(#[from] ControlPlaneError),
    /// What an earlier process has left could not be taken up.
    #[error(transparent)]
    Recovery(RecoveryError),
    /// The tasks that the store has could not be taken up.
    #[error(transparent)]
    Tasks(TaskError),
    /// `init` returned an error or panicked.
    #[error("init failed: {0}")]
    Init(String),
}

impl StartError {
    /// Stable code, as ERRORS.md lists it.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NoAdapter => "fleet.no_adapter",
            Self::Name(error) => error.code(),
            Self::NameTaken(_) => "fleet.name_taken",
            Self::Option { .. } => "fleet.option",
            Self::Isolation(error) => error.code(),
            Self::Pass { .. } => "fleet.pass",
            Self::Release(error) => error.code(),
            Self::ControlPlane(error) => error.code(),
            Self::Recovery(error) => error.code(),
            Self::Tasks(error) => error.code(),
            Self::Init(_) => "fleet.init",
        }
    }
}

/// Describes a fleet; [`FleetBuilder::start`] starts it.
pub struct FleetBuilder<H: Overseer> {
    handler: H,
    name: String,
    adapter: Option<Arc<dyn Adapter>>,
    release: Option<Release>,
    trust: Vec<String>,
    unsigned: bool,
    options: Options,
    resources: Resources,
    environment: BTreeMap<String, String>,
    cache: ReleaseCache,
    isolation: Isolation,
    plane: Option<ControlPlane>,
}

impl Fleet<Quiet> {
    /// A fleet without callbacks.
    pub fn quiet() -> FleetBuilder<Quiet> {
        Self::builder(Quiet)
    }
}

impl<H: Overseer> Fleet<H> {
    /// A fleet with these callbacks.
    pub fn builder(handler: H) -> FleetBuilder<H> {
        FleetBuilder {
            handler,
            name: "fleet".into(),
            adapter: None,
            release: None,
            trust: Vec::new(),
            unsigned: false,
            options: Options::default(),
            resources: Resources::default(),
            environment: BTreeMap::new(),
            cache: ReleaseCache::default(),
            isolation: Isolation::default(),
            plane: None,
        }
    }
}

macro_rules! options {
    ($($(#[$doc:meta])* $name:ident: $type:ty => $($field:ident).+;)*) => {$(
        $(#[$doc])*
        #[must_use]
        pub fn $name(mut self, $name: $type) -> Self {
            self.options.$($field).+ = $name;
            self
        }
    )*};
}

impl<H: Overseer> FleetBuilder<H> {
    options! {
        /// Most labors at a time. Default 64.
        max_nodes: usize => max_nodes;
        /// When a labor that ended is replaced. Default [`Restart::Permanent`].
        restart: Restart => restart;
        /// What follows when labors end faster than the intensity allows.
        escalation: Escalation => escalation;
        /// Delay before a replacement.
        backoff: Backoff => backoff;
        /// How long a silent labor may stay away before it is given up. Default 5 s.
        grace: Duration => grace;
        /// How often an agent says that it lives. Default 1 s.
        heartbeat: Duration => heartbeat;
        /// Silence after which a labor is lost. Default 3 s.
        silence: Duration => silence;
        /// How long an agent lives without word from the Overseer. Default 30 s.
        lease: Duration => lease;
        /// How long agent and plugin host stay awake for the next call after a short one, while there is
        /// one at a time: it takes about two thirds of the time then, and the processors have nothing
        /// else to do meanwhile. Up to 1 ms; 50 µs does it. Default none.
        spin: Duration => spin;
        /// When the tasks of a labor that went silent are given to others. Default
        /// [`Requeue::AfterGrace`].
        requeue: Requeue => requeue;
        /// How often the fleet is held against what its adapter has. Default 60 s.
        reconcile_every: Duration => reconcile;
        /// How long a stored task and its result are kept after it is over. Default 7 days.
        task_retention: Duration => task_retention;
        /// Longest time in each state.
        deadlines: Deadlines => deadlines;
    }

    /// Its name within the control plane. Default `fleet`.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// How nodes come and go.
    #[must_use]
    pub fn adapter(mut self, adapter: impl Adapter) -> Self {
        self.adapter = Some(Arc::new(adapter));
        self
    }

    /// What the labors run; none for empty labors. A release that this process has signed
    /// itself is trusted.
    #[must_use]
    pub fn release(mut self, release: Release) -> Self {
        self.trust.extend(release.own_key());
        self.release = Some(release);
        self
    }

    /// A public key, hex, whose signature makes a release trusted on the labors.
    #[must_use]
    pub fn trust(mut self, key: impl Into<String>) -> Self {
        self.trust.push(key.into());
        self
    }

    /// Whether labors run a release without a signature. Default no.
    #[must_use]
    pub fn allow_unsigned(mut self, allow: bool) -> Self {
        self.unsigned = allow;
        self
    }

    /// More than `restarts` within `period` escalate. Default 10 in a minute.
    #[must_use]
    pub fn intensity(mut self, restarts: u32, period: Duration) -> Self {
        (self.options.intensity, self.options.period) = (restarts, period);
        self
    }

    /// What a node should have.
    #[must_use]
    pub fn resources(mut self, resources: Resources) -> Self {
        self.resources = resources;
        self
    }

    /// A variable in the environment of the labors' plugin hosts.
    #[must_use]
    pub fn environment(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.environment.insert(name.into(), value.into());
        self
    }

    /// What the nodes keep of releases, so that a chunk travels to a host once. Default: 2 GiB; on this
    /// machine, in [`labor_cache`](crate::labor_cache), for all labors of this user.
    #[must_use]
    pub fn release_cache(mut self, cache: ReleaseCache) -> Self {
        self.cache = cache;
        self
    }

    /// What the plugin hosts of the labors may be and use. Default: what the agent may.
    ///
    /// With a user of its own and an adapter of this machine, the directory of the control plane may be
    /// passed through (mode 0711) by those who know what is below it; all else in it is closed to them.
    #[must_use]
    pub fn isolation(mut self, isolation: Isolation) -> Self {
        self.isolation = isolation;
        self
    }

    /// The control plane to run in; an embedded one of its own when none is given.
    #[must_use]
    pub fn control_plane(mut self, plane: &ControlPlane) -> Self {
        self.plane = Some(plane.clone());
        self
    }

    /// Starts the fleet, without any labor yet.
    ///
    /// # Errors
    /// Any [`StartError`]; nothing runs then.
    pub async fn start(self) -> Result<Fleet<H>, StartError> {
        let name: FleetName = self.name.parse()?;
        let adapter = self.adapter.ok_or(StartError::NoAdapter)?;
        check(&self.options)?;
        self.isolation.check()?;
        let (plane, owns_plane) = match self.plane {
            Some(plane) => (plane, false),
            None => (ControlPlane::embedded().await?, true),
        };
        if self.isolation.user.is_some() && adapter.capabilities().same_machine {
            let directory = plane.directory();
            directories::let_pass(directory, plane.is_ephemeral())
                .map_err(|source| StartError::Pass { directory: directory.display().to_string(), source })?;
        }
        let release = match &self.release {
            Some(release) => Some(plane.releases().keep(release).await.map_err(ReleaseError::Package)?),
            None => None,
        };
        let shared = Arc::new(FleetShared::new(name.clone(), self.options, release, self.unsigned, &plane));
        if !plane.reserve(&shared) {
            return Err(StartError::NameTaken(name));
        }
        let left = match recovery::look(&plane, &*adapter, &name).await {
            Ok(left) => left,
            Err(error) => {
                plane.release(&shared);
                return Err(StartError::Recovery(error));
            }
        };
        match Tasks::start(plane.tasks(&name), &shared, shared.options.backoff.clone()).await {
            Ok(tasks) => drop(shared.tasks.set(Arc::new(tasks))),
            Err(error) => {
                plane.release(&shared);
                return Err(StartError::Tasks(error));
            }
        }
        let records = Arc::new(RecordWriter::new());
        let _ = shared.records.set(Arc::clone(&records));
        let (nodes_plane, nodes_shared) = (plane.clone(), Arc::clone(&shared));
        let (resources, release_keys, environment) = (self.resources, self.trust, self.environment);
        let (cache, isolation) = (self.cache, self.isolation);
        let nodes = Box::new(move |actor| Nodes {
            embedded: nodes_plane.is_embedded(),
            owns_plane,
            plane: nodes_plane,
            shared: nodes_shared,
            adapter,
            resources,
            release_keys,
            environment,
            cache,
            isolation,
            actor,
            records,
        });
        let arguments =
            FleetArguments { shared: Arc::clone(&shared), nodes, left, seed: crate::random::u64() };
        let actor = match FleetActor::spawn(None, FleetActor, arguments).await {
            Ok((actor, _)) => Mailbox::new(actor, &shared.metrics.fleet_actor),
            Err(error) => {
                if let Some(tasks) = shared.tasks.get() {
                    tasks.stop().await;
                }
                plane.release(&shared);
                return Err(StartError::Init(error.to_string()));
            }
        };
        let handle = FleetHandle { shared, actor };
        plane.open(handle.clone());
        let arguments = (self.handler, handle.clone());
        let started =
            HandlerActor::spawn_linked(None, HandlerActor::new(), arguments, handle.actor.get_cell()).await;
        match started {
            Ok((handler, _)) => {
                let handler = Mailbox::new(handler, &handle.shared.metrics.callbacks);
                tracing::info!(fleet = %handle.name(), "the fleet has started");
                Ok(Fleet { handle, handler })
            }
            Err(error) => {
                handle.stop().await;
                Err(StartError::Init(error.to_string()))
            }
        }
    }
}

/// Longest time for [`FleetBuilder::spin`].
pub const MAX_SPIN: Duration = Duration::from_millis(1);

fn check(options: &Options) -> Result<(), StartError> {
    let bad = |option, reason| Err(StartError::Option { option, reason });
    if options.max_nodes == 0 {
        return bad("max_nodes", "must be at least 1");
    }
    if options.heartbeat.is_zero() || options.silence <= options.heartbeat {
        return bad("silence", "must be longer than the heartbeat, which must not be zero");
    }
    if options.spin > MAX_SPIN {
        return bad("spin", "must be 1 ms at most: it is time that a processor does nothing else");
    }
    if options.lease <= options.silence {
        return bad("lease", "must be longer than the silence after which a labor is lost");
    }
    Ok(())
}
