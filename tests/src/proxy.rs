//! A cable between agents and their Overseer that can be cut, or that swallows everything.

use std::collections::HashMap;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Weak};

use overseer::adapter::{Adapter, AdapterError, Capabilities, Ended, Node, NodeKey, Notice, Request};
use overseer::local::Local;
use overseer::{FleetName, LaborId, async_trait};
use overseer_protocol::Endpoint;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;

/// Local agents that reach their Overseer only through a socket of ours.
#[derive(Clone)]
pub struct Cables {
    local: Local,
    shared: Arc<Shared>,
}

/// Whether a connection is to be cut now; asked before anything of the Overseer, so many bytes, is passed
/// on.
pub type Censor = Box<dyn Fn(usize) -> Pin<Box<dyn Future<Output = bool> + Send>> + Send + Sync>;

struct Shared {
    directory: tempfile::TempDir,
    cables: Mutex<HashMap<LaborId, Cable>>,
    censor: Option<Censor>,
}

#[derive(Default)]
struct Cable {
    pulled: bool,
    /// Connections that were opened so far.
    opened: usize,
    listeners: Vec<AbortHandle>,
    open: Vec<AbortHandle>,
    /// Tells the open connections to swallow everything.
    swallow: watch::Sender<()>,
    /// Those that do.
    swallowing: Vec<AbortHandle>,
}

impl Cables {
    /// For agents of this program.
    pub fn new(program: &str) -> Self {
        Self::laid(program, None)
    }

    /// With one who may cut a connection before the agent has its answer.
    pub fn censored(program: &str, censor: Censor) -> Self {
        Self::laid(program, Some(censor))
    }

    fn laid(program: &str, censor: Option<Censor>) -> Self {
        let directory = tempfile::Builder::new().prefix("cables-").tempdir_in("/tmp").unwrap();
        let shared = Shared { directory, cables: Mutex::default(), censor };
        Self { local: Local::with_program(program), shared: Arc::new(shared) }
    }

    /// Cuts every open connection of a labor; new ones pass. Returns how many were cut.
    pub fn cut(&self, labor: LaborId) -> usize {
        let mut cables = self.shared.cables.lock();
        let open = std::mem::take(&mut cables.entry(labor).or_default().open);
        drop(cables);
        let open: Vec<AbortHandle> = open.into_iter().filter(|task| !task.is_finished()).collect();
        open.iter().for_each(AbortHandle::abort);
        // Nothing gets through an old connection once this has returned.
        while open.iter().any(|task| !task.is_finished()) {
            std::thread::yield_now();
        }
        open.len()
    }

    /// Cuts, and lets no new connection pass until [`Cables::mend`].
    pub fn pull(&self, labor: LaborId) {
        self.shared.cables.lock().entry(labor).or_default().pulled = true;
        self.cut(labor);
    }

    /// New connections pass again.
    pub fn mend(&self, labor: LaborId) {
        self.shared.cables.lock().entry(labor).or_default().pulled = false;
    }

    /// From now on every open connection of a labor swallows what is sent over it, either way,
    /// and stays open; new ones pass. Returns how many there are.
    pub fn swallow(&self, labor: LaborId) -> usize {
        let mut cables = self.shared.cables.lock();
        let cable = cables.entry(labor).or_default();
        cable.swallow.send_replace(());
        let open = std::mem::take(&mut cable.open);
        cable.swallowing.extend(open.into_iter().filter(|task| !task.is_finished()));
        cable.swallowing.len()
    }

    /// Connections that swallow and that neither side has closed.
    pub fn swallowing(&self, labor: LaborId) -> usize {
        let mut cables = self.shared.cables.lock();
        let cable = cables.entry(labor).or_default();
        cable.swallowing.retain(|task| !task.is_finished());
        cable.swallowing.len()
    }

    /// Connections that a labor has opened so far.
    pub fn opened(&self, labor: LaborId) -> usize {
        self.shared.cables.lock().entry(labor).or_default().opened
    }

    /// A socket for a node that leads to `upstream`.
    fn lay(&self, key: &NodeKey, upstream: PathBuf) -> PathBuf {
        let path = self.shared.directory.path().join(format!("{}-{}", key.labor.short(), key.generation));
        // Asked for twice, it is there already.
        let Ok(listener) = UnixListener::bind(&path) else { return path };
        let (shared, labor) = (Arc::downgrade(&self.shared), key.labor);
        let listening = tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let Some(shared) = shared.upgrade() else { return };
                let mut cables = shared.cables.lock();
                let cable = cables.entry(labor).or_default();
                if !cable.pulled {
                    cable.opened += 1;
                    cable.open.retain(|task| !task.is_finished());
                    let carried =
                        carry(near, upstream.clone(), cable.swallow.subscribe(), Arc::downgrade(&shared));
                    cable.open.push(tokio::spawn(carried).abort_handle());
                }
            }
        });
        let mut cables = self.shared.cables.lock();
        cables.entry(key.labor).or_default().listeners.push(listening.abort_handle());
        path
    }
}

async fn carry(
    mut near: UnixStream,
    upstream: PathBuf,
    mut swallow: watch::Receiver<()>,
    shared: Weak<Shared>,
) {
    let Ok(mut far) = UnixStream::connect(upstream).await else { return };
    // However it ends, both ends see it.
    tokio::select! {
        () = pass(&mut near, &mut far, &shared) => return,
        Ok(()) = swallow.changed() => {}
    }
    let (mut nowhere, mut neither) = (tokio::io::sink(), tokio::io::sink());
    tokio::select! {
        _ = tokio::io::copy(&mut near, &mut nowhere) => {}
        _ = tokio::io::copy(&mut far, &mut neither) => {}
    }
}

async fn pass(near: &mut UnixStream, far: &mut UnixStream, shared: &Weak<Shared>) {
    let ((mut from_near, mut to_near), (mut from_far, mut to_far)) = (near.split(), far.split());
    let down = async {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(count @ 1..) = from_far.read(&mut buffer).await {
            let Some(shared) = shared.upgrade() else { return };
            if let Some(censor) = &shared.censor
                && censor(count).await
            {
                return;
            }
            if to_near.write_all(&buffer[..count]).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = down => {}
        _ = tokio::io::copy(&mut from_near, &mut to_far) => {}
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        for cable in self.cables.lock().values() {
            let connections = cable.open.iter().chain(&cable.swallowing);
            cable.listeners.iter().chain(connections).for_each(AbortHandle::abort);
        }
    }
}

#[async_trait]
impl Adapter for Cables {
    fn name(&self) -> &'static str {
        "cables"
    }

    fn capabilities(&self) -> Capabilities {
        self.local.capabilities()
    }

    async fn provision(&self, requests: &[Request]) -> Vec<Result<Node, AdapterError>> {
        let mut requests = requests.to_vec();
        for request in &mut requests {
            for endpoint in &mut request.bootstrap.endpoints {
                if let Endpoint::Unix(path) = endpoint {
                    *path = self.lay(&request.key, path.clone());
                }
            }
            request.bootstrap.endpoints.retain(|e| matches!(e, Endpoint::Unix(_)));
        }
        self.local.provision(&requests).await
    }

    async fn terminate(&self, keys: &[NodeKey]) -> Vec<Result<Ended, AdapterError>> {
        self.local.terminate(keys).await
    }

    async fn list(&self, fleet: &FleetName) -> Result<Vec<Node>, AdapterError> {
        self.local.list(fleet).await
    }

    fn notices(&self, fleet: &FleetName) -> mpsc::Receiver<Notice> {
        self.local.notices(fleet)
    }
}
