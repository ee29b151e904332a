//! What fleets have in common: data directory, store, blobs, authority, claims, and the gateway
//! that labors call.

mod rotation;
mod stored_tasks;
mod upkeep;

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use overseer_protocol::{Endpoint, FleetName, SessionId};
use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;

pub use self::rotation::{AuthorityStatus, RotationError};
use crate::authority::{Authorities, AuthorityError, ServerIdentity};
use crate::blobs::{BlobError, Blobs};
use crate::claims::Claims;
use crate::clock;
use crate::condition::Condition;
use crate::data_dir::{DataDir, DataDirError, LOGS, PAYLOADS};
use crate::fleet::{FleetHandle, FleetShared};
use crate::gateway::{self, Listening};
use crate::logs::Logs;
use crate::metrics::{self, Page, PlaneMetrics};
use crate::payload::Payloads;
use crate::records::Records;
use crate::release::KeptReleases;
use crate::store::{Store, StoreError};
use crate::sweep::Sweeper;
use crate::trace::Tracer;

/// How long the gateway's own certificate is good. It is made anew, with a new key, on every start
/// of a control plane, and when two thirds of it are over. Agents trust the authority, so they
/// need not be told of a new one.
const SERVER_CERTIFICATE: Duration = Duration::from_secs(365 * 86_400);
/// How long after the start of a server a fleet that it does not have yet may still come.
const SETTLING: Duration = Duration::from_secs(60);
/// Longest path of a unix socket that every system takes, in bytes.
const SOCKET_PATH: usize = 100;

/// Why a control plane did not start.
#[derive(Debug, thiserror::Error)]
pub enum ControlPlaneError {
    /// The data directory.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The store in it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The blobs in it.
    #[error(transparent)]
    Blobs(#[from] BlobError),
    /// Its certificates.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// No socket to listen on.
    #[error("cannot listen on {place}: {source}; choose another address or check permissions")]
    Listen {
        /// Path or address.
        place: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The TLS configuration was not taken.
    #[error("TLS: {0}; remove the authority from the store to have a new one made")]
    Tls(String),
}

impl ControlPlaneError {
    /// Stable code, as ERRORS.md lists it.
    pub fn code(&self) -> &'static str {
        match self {
            Self::DataDir(error) => error.code(),
            Self::Store(error) => error.code(),
            Self::Blobs(error) => error.code(),
            Self::Authority(error) => error.code(),
            Self::Listen { .. } => "control_plane.listen",
            Self::Tls(_) => "control_plane.tls",
        }
    }
}

/// Describes a control plane; [`ControlPlaneBuilder::start`] starts it.
#[derive(Debug, Default)]
pub struct ControlPlaneBuilder {
    directory: Option<PathBuf>,
    tcp: Option<SocketAddr>,
    served: bool,
    tracer: Option<Tracer>,
    layer: Option<StoreLayer>,
}

/// Puts another store in front of the one in the data directory.
struct StoreLayer(Box<Layer>);

type Layer = dyn FnOnce(Arc<dyn Store>) -> Arc<dyn Store> + Send;

impl std::fmt::Debug for StoreLayer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("StoreLayer")
    }
}

impl ControlPlaneBuilder {
    /// Where to keep state; a temporary directory, gone at the end, when none is given.
    #[must_use]
    pub fn data_directory(mut self, directory: impl Into<PathBuf>) -> Self {
        self.directory = Some(directory.into());
        self
    }

    /// Listens on TCP as well, for labors on other machines.
    #[must_use]
    pub fn listen(mut self, address: SocketAddr) -> Self {
        self.tcp = Some(address);
        self
    }

    /// Labors outlive this process: only their lease ends them. Embedded otherwise: local
    /// labors end with the process, however it ends.
    #[must_use]
    pub fn served(mut self, served: bool) -> Self {
        self.served = served;
        self
    }

    /// Records the spans of calls and tasks that somebody traces.
    #[must_use]
    pub fn tracer(mut self, tracer: impl Into<Option<Tracer>>) -> Self {
        self.tracer = tracer.into();
        self
    }

    /// Everything reads and writes the store through what `layer` makes of it, which may count,
    /// measure, or fail. Called once, when the control plane starts.
    #[must_use]
    pub fn store_layer(
        mut self,
        layer: impl FnOnce(Arc<dyn Store>) -> Arc<dyn Store> + Send + 'static,
    ) -> Self {
        self.layer = Some(StoreLayer(Box::new(layer)));
        self
    }

    /// Opens the state and listens.
    ///
    /// # Errors
    /// Any [`ControlPlaneError`]; nothing runs then.
    pub async fn start(self) -> Result<ControlPlane, ControlPlaneError> {
        let data = match &self.directory {
            Some(directory) => DataDir::open(directory)?,
            None => DataDir::ephemeral()?,
        };
        let payloads = Arc::new(Payloads::open(&data.path().join(PAYLOADS), data.condition()).await?);
        let logs = Arc::new(Logs::telling(&data.path().join(LOGS), data.condition()));
        let store: Arc<dyn Store> = match self.layer {
            Some(StoreLayer(layer)) => layer(data.store()),
            None => data.store(),
        };
        let (now, _) = clock::now_for_all(SERVER_CERTIFICATE);
        let authorities = Authorities::load_or_create(&*store, now).await?;
        let (unix, socket_directory) = socket_path(data.path())?;
        let listeners = gateway::Listeners::bind(&unix, self.tcp).await?;
        let mut endpoints = vec![Endpoint::Unix(unix)];
        endpoints.extend(listeners.tcp_address().map(|a| Endpoint::Tcp(a.to_string())));
        let claims = Claims::new(Arc::clone(&store));
        let (shutdown, stopped) = watch::channel(false);
        let until_shutdown = stopped.clone();
        let (listening, servers) = listeners.open(&data.condition(), &stopped);
        let inner = Inner {
            store,
            task_blobs: data.task_blobs(),
            blobs: data.blobs(),
            payloads,
            metrics: PlaneMetrics::new(logs.metrics(), self.tracer.clone()),
            tracer: self.tracer,
            logs,
            claims,
            releases: Arc::new(KeptReleases::new(data.path())),
            authorities: RwLock::new(Arc::new(authorities)),
            rotating: tokio::sync::Mutex::default(),
            listening,
            served_until: Mutex::new(now),
            certificates: watch::Sender::new(0),
            endpoints,
            fleets: RwLock::default(),
            left: RwLock::default(),
            next_session: AtomicU64::new(1),
            shutdown,
            served: self.served,
            started: Instant::now(),
            complete: AtomicBool::new(false),
            servers: Mutex::new(servers),
            _socket_directory: socket_directory,
            data,
        };
        let plane = ControlPlane { inner: Arc::new(inner) };
        plane.serve_anew()?;
        let keeping = tokio::spawn(plane.clone().keep_certificates());
        plane.inner.servers.lock().push(keeping);
        tokio::spawn(upkeep::run(plane.condition(), plane.sweeper(), until_shutdown));
        Ok(plane)
    }
}

/// The socket goes into the data directory, or where its path would be too long into a short
/// directory of its own.
fn socket_path(data: &Path) -> Result<(PathBuf, Option<tempfile::TempDir>), ControlPlaneError> {
    let path = data.join("labors.sock");
    if path.as_os_str().len() <= SOCKET_PATH {
        return Ok((path, None));
    }
    let directory = tempfile::Builder::new().prefix("overseer-").tempdir_in("/tmp");
    let directory = directory.map_err(|source| ControlPlaneError::Listen { place: "/tmp".into(), source })?;
    Ok((directory.path().join("labors.sock"), Some(directory)))
}

/// What fleets have in common. Cheap to clone; ends by [`ControlPlane::shutdown`].
#[derive(Clone)]
pub struct ControlPlane {
    inner: Arc<Inner>,
}

struct Inner {
    store: Arc<dyn Store>,
    task_blobs: Arc<dyn Blobs>,
    blobs: Arc<dyn Blobs>,
    payloads: Arc<Payloads>,
    logs: Arc<Logs>,
    metrics: PlaneMetrics,
    tracer: Option<Tracer>,
    claims: Claims,
    releases: Arc<KeptReleases>,
    authorities: RwLock<Arc<Authorities>>,
    /// One change of them at a time.
    rotating: tokio::sync::Mutex<()>,
    listening: Listening,
    /// Until when the gateway's certificate is good.
    served_until: Mutex<SystemTime>,
    /// How often that was made.
    certificates: watch::Sender<u64>,
    endpoints: Vec<Endpoint>,
    fleets: RwLock<HashMap<FleetName, Registered>>,
    /// Fleets that were left: their labors come back to whoever takes them up.
    left: RwLock<HashSet<FleetName>>,
    next_session: AtomicU64,
    shutdown: watch::Sender<bool>,
    served: bool,
    started: Instant,
    /// Every fleet is here that may have been there before.
    complete: AtomicBool,
    servers: Mutex<Vec<tokio::task::JoinHandle<()>>>,
    _socket_directory: Option<tempfile::TempDir>,
    data: DataDir,
}

/// A name that is taken: from before its fleet starts until nothing of it is left.
struct Registered {
    shared: Arc<FleetShared>,
    /// None until the fleet may be asked for anything, and once it is left.
    fleet: Option<FleetHandle>,
}

impl ControlPlane {
    /// Describes one.
    pub fn builder() -> ControlPlaneBuilder {
        ControlPlaneBuilder::default()
    }

    /// One in a temporary directory that listens on a unix socket and ends with this process.
    ///
    /// # Errors
    /// Any [`ControlPlaneError`].
    pub async fn embedded() -> Result<Self, ControlPlaneError> {
        Self::builder().start().await
    }

    /// What must outlive a process.
    pub fn store(&self) -> &dyn Store {
        &*self.inner.store
    }

    /// Large payloads and results of tasks.
    pub(crate) fn task_blobs(&self) -> &dyn Blobs {
        &*self.inner.task_blobs
    }

    fn sweeper(&self) -> Sweeper {
        let inner = &self.inner;
        let (store, blobs) = (Arc::clone(&inner.store), Arc::clone(&inner.task_blobs));
        Sweeper::new(store, blobs, self.logs(), self.condition())
    }

    /// Bytes by digest: artifacts, and whatever plugins put there. They are kept until somebody
    /// removes them.
    pub fn blobs(&self) -> &dyn Blobs {
        &*self.inner.blobs
    }

    /// What of it all can be written: everything, as a rule.
    pub fn condition(&self) -> Arc<Condition> {
        self.inner.data.condition()
    }

    /// Where labors may call.
    pub fn endpoints(&self) -> &[Endpoint] {
        &self.inner.endpoints
    }

    /// What it and its fleets have counted, and what there is right now. Takes no more than a look
    /// at each labor and each session.
    pub fn metrics(&self) -> Page {
        metrics::collect(&self.inner.metrics, &self.fleets(), &self.inner.data.store().metrics())
    }

    /// Where spans go, if anywhere.
    pub fn tracer(&self) -> Option<&Tracer> {
        self.inner.tracer.as_ref()
    }

    pub(crate) fn counters(&self) -> &PlaneMetrics {
        &self.inner.metrics
    }

    /// Stops listening; a temporary directory is removed. Fleets should be stopped before.
    pub async fn shutdown(&self) {
        self.inner.shutdown.send_replace(true);
        let servers = std::mem::take(&mut *self.inner.servers.lock());
        for server in servers {
            // A server that panicked has stopped too.
            let _ = server.await;
        }
        if self.inner.data.is_ephemeral() {
            // Not left to the last clone: a program may end before that is dropped.
            let directory = self.directory().to_owned();
            let removed = tokio::task::spawn_blocking(move || std::fs::remove_dir_all(directory)).await;
            if let Ok(Err(error)) = removed {
                tracing::debug!(%error, "the temporary directory is left for the next start to remove");
            }
        }
    }

    pub(crate) fn directory(&self) -> &Path {
        self.inner.data.path()
    }

    /// What tasks and plugin hosts of all fleets write.
    pub fn logs(&self) -> Arc<Logs> {
        Arc::clone(&self.inner.logs)
    }

    pub(crate) fn payloads(&self) -> Arc<Payloads> {
        Arc::clone(&self.inner.payloads)
    }

    pub(crate) fn releases(&self) -> Arc<KeptReleases> {
        Arc::clone(&self.inner.releases)
    }

    pub(crate) fn claims(&self) -> &Claims {
        &self.inner.claims
    }

    /// Changes when a listener that has its certificate of [`ControlPlane::server_identity`] is to
    /// have another one.
    pub fn certificates_changed(&self) -> watch::Receiver<u64> {
        self.inner.certificates.subscribe()
    }

    /// A certificate, of an authority of [`ControlPlane::authority_status`], and a new key for another
    /// listener of this process, which is called by these host names and IP addresses; good for a
    /// year, as that of the gateway, and to be renewed when [`ControlPlane::certificates_changed`]
    /// says so.
    ///
    /// # Errors
    /// [`AuthorityError::BadName`], [`AuthorityError::Failed`].
    pub fn server_identity(&self, names: &[String]) -> Result<ServerIdentity, AuthorityError> {
        let (now, ttl) = clock::now_for_all(SERVER_CERTIFICATE);
        self.authorities().clients().server_identity(names, ttl, now)
    }

    /// By what its nodes are told from those of others.
    pub(crate) fn owner(&self) -> String {
        self.authorities().owner()
    }

    pub(crate) fn is_embedded(&self) -> bool {
        !self.inner.served
    }

    pub(crate) fn is_ephemeral(&self) -> bool {
        self.inner.data.is_ephemeral()
    }

    pub(crate) fn records(&self) -> Records {
        Records::new(Arc::clone(&self.inner.store))
    }

    /// Every fleet has been started that the process before this one may have had: labors of others
    /// need not be waited for. A minute after the start that is so in any case.
    pub fn fleets_are_complete(&self) {
        self.inner.complete.store(true, Ordering::Relaxed);
    }

    /// Whether fleets may still be on their way that the server before this one had: their labors
    /// dial as soon as somebody listens, and are told to come again.
    fn is_settling(&self) -> bool {
        let complete = self.inner.complete.load(Ordering::Relaxed);
        self.inner.served && !complete && self.inner.started.elapsed() < SETTLING
    }

    /// Whether a fleet that is not there may be there later: its labors are told to come again,
    /// not to end.
    pub(crate) fn may_come(&self, name: &FleetName) -> bool {
        self.is_settling()
            || self.inner.fleets.read().contains_key(name)
            || self.inner.left.read().contains(name)
    }

    pub(crate) fn next_session(&self) -> SessionId {
        SessionId(self.inner.next_session.fetch_add(1, Ordering::Relaxed))
    }

    pub(crate) fn fleet(&self, name: &FleetName) -> Option<FleetHandle> {
        self.inner.fleets.read().get(name).and_then(|registered| registered.fleet.clone())
    }

    /// What is shared of each fleet whose name is taken.
    pub(crate) fn fleets(&self) -> Vec<Arc<FleetShared>> {
        self.inner.fleets.read().values().map(|registered| Arc::clone(&registered.shared)).collect()
    }

    /// Takes the name of a fleet that is about to start. False when another one has it.
    pub(crate) fn reserve(&self, shared: &Arc<FleetShared>) -> bool {
        let mut fleets = self.inner.fleets.write();
        let free = !fleets.contains_key(&shared.name);
        if free {
            let registered = Registered { shared: Arc::clone(shared), fleet: None };
            fleets.insert(shared.name.clone(), registered);
        }
        free
    }

    /// Labors of this fleet find it no more, and are to come again. Its name stays taken.
    pub(crate) fn hide(&self, shared: &Arc<FleetShared>) {
        self.inner.left.write().insert(shared.name.clone());
        let mut fleets = self.inner.fleets.write();
        let registered = fleets.get_mut(&shared.name).filter(|r| Arc::ptr_eq(&r.shared, shared));
        if let Some(registered) = registered {
            registered.fleet = None;
        }
    }

    /// From now on labors find the fleet that has [reserved](Self::reserve) its name.
    pub(crate) fn open(&self, fleet: FleetHandle) {
        let mut fleets = self.inner.fleets.write();
        let registered = fleets.get_mut(fleet.name()).filter(|r| Arc::ptr_eq(&r.shared, &fleet.shared));
        if let Some(registered) = registered {
            self.inner.left.write().remove(fleet.name());
            registered.fleet = Some(fleet);
        }
    }

    /// Gives the name of a fleet free, unless another one has it by now.
    pub(crate) fn release(&self, shared: &Arc<FleetShared>) {
        let mut fleets = self.inner.fleets.write();
        if fleets.get(&shared.name).is_some_and(|registered| Arc::ptr_eq(&registered.shared, shared)) {
            fleets.remove(&shared.name);
        }
    }
}
