//! Agents on other machines, as far as a network can tell: each labor has a seat, which is a
//! namespace of its own. The provider of a machine that is cut off cannot reach it either.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use overseer::adapter::{Adapter, AdapterError, Capabilities, Ended, Node, NodeKey, Notice, Request};
use overseer::local::Local;
use overseer::{FleetName, LaborId, async_trait};
use overseer_protocol::Endpoint;
use parking_lot::Mutex;
use tokio::sync::mpsc;

use crate::namespaces::{Fault, Network};

/// Local agents, each at a seat. They reach their Overseer only by the network.
#[derive(Clone)]
pub struct Seats {
    network: Arc<Network>,
    locals: Vec<Local>,
    shared: Arc<Mutex<Shared>>,
    _programs: Arc<tempfile::TempDir>,
}

#[derive(Default)]
struct Shared {
    seats: HashMap<LaborId, usize>,
    /// Those that nobody reaches.
    lost: Vec<usize>,
}

impl Seats {
    /// For agents of this program.
    pub fn new(network: Network, program: &str) -> Self {
        let programs = tempfile::Builder::new().prefix("seats-").tempdir().unwrap();
        let local = |seat| Local::with_program(network.program_at(seat, program, programs.path()));
        let locals = (0..network.seats()).map(local).collect();
        Self { network: Arc::new(network), locals, shared: Arc::default(), _programs: Arc::new(programs) }
    }

    /// Where they are.
    pub fn network(&self) -> Arc<Network> {
        Arc::clone(&self.network)
    }

    /// Does this to a labor's cable. Of a machine that is cut off one way or both, the provider
    /// hears nothing either.
    pub fn harm(&self, labor: LaborId, fault: Fault) {
        let seat = self.seat(labor);
        if matches!(fault, Fault::Cut | Fault::FromAgent | Fault::ToAgent) {
            self.shared.lock().lost.push(seat);
        }
        self.network.harm(seat, fault);
    }

    /// Its cable is as good as new.
    pub fn heal(&self, labor: LaborId) {
        let seat = self.seat(labor);
        self.network.heal(seat);
        self.shared.lock().lost.retain(|lost| *lost != seat);
    }

    /// A labor keeps its seat for all its lives.
    fn seat(&self, labor: LaborId) -> usize {
        let seats = &mut self.shared.lock().seats;
        let next = seats.len() % self.locals.len();
        *seats.entry(labor).or_insert(next)
    }

    /// The agents of a labor, where they can be reached.
    fn at(&self, labor: LaborId) -> Result<&Local, AdapterError> {
        let seat = self.seat(labor);
        match self.shared.lock().lost.contains(&seat) {
            true => Err(AdapterError::Unknown("the machine cannot be reached".into())),
            false => Ok(&self.locals[seat]),
        }
    }
}

#[async_trait]
impl Adapter for Seats {
    fn name(&self) -> &'static str {
        "seats"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            same_machine: true,
            owner_pipe: false,
            sees_exit: false,
            batch: 1,
            typical_boot: Duration::from_millis(50),
        }
    }

    async fn provision(&self, requests: &[Request]) -> Vec<Result<Node, AdapterError>> {
        let mut answers = Vec::new();
        for request in requests {
            let mut request = request.clone();
            request.bootstrap.endpoints.retain(|e| matches!(e, Endpoint::Tcp(_)));
            let labor = request.key.labor;
            match self.at(labor) {
                Ok(local) => answers.extend(local.provision(&[request]).await),
                Err(error) => answers.push(Err(error)),
            }
        }
        answers
    }

    async fn terminate(&self, keys: &[NodeKey]) -> Vec<Result<Ended, AdapterError>> {
        let mut answers = Vec::new();
        for key in keys {
            match self.at(key.labor) {
                Ok(local) => answers.extend(local.terminate(std::slice::from_ref(key)).await),
                Err(error) => answers.push(Err(error)),
            }
        }
        answers
    }

    async fn list(&self, fleet: &FleetName) -> Result<Vec<Node>, AdapterError> {
        if !self.shared.lock().lost.is_empty() {
            return Err(AdapterError::Unknown("a machine cannot be reached".into()));
        }
        // Each finds those of the others by their marks.
        self.locals[0].list(fleet).await
    }

    fn notices(&self, _: &FleetName) -> mpsc::Receiver<Notice> {
        // Nobody sees from outside how a process on another machine ends.
        mpsc::channel(1).1
    }
}
