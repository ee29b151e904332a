//! A rack of machines as an [`Adapter`]. Here a machine is a directory and switching it on
//! starts an agent in it; with real ones, only `switch_on` and `switch_off` would differ.

use std::collections::BTreeMap;
use std::fs::{DirBuilder, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use overseer::FleetName;
use overseer::adapter::{Adapter, AdapterError, Capabilities, Ended, Node, NodeKey, Notice, Over, Request};
use tokio::sync::mpsc;

/// So many machines, each for one labor at a time.
#[derive(Clone)]
pub struct Rack {
    machines: Arc<Mutex<Machines>>,
    room: PathBuf,
    program: PathBuf,
}

struct Machines {
    by_name: BTreeMap<String, Option<Occupied>>,
    /// Lives that were asked to end: a request that comes after that is refused.
    over: Over,
}

struct Occupied {
    key: NodeKey,
    agent: Child,
}

impl Rack {
    /// `size` machines that are switched off, with their disks in `room` and this program, whose
    /// `main` begins with `overseer::init()` or `overseer::run()`, as their agent.
    pub fn new(room: PathBuf, program: PathBuf, size: usize) -> Self {
        let by_name = (1..=size).map(|n| (format!("rack-{n}"), None)).collect();
        let machines = Machines { by_name, over: Over::default() };
        Self { machines: Arc::new(Mutex::new(machines)), room, program }
    }

    /// Names of the machines that nobody uses.
    pub fn free(&self) -> Vec<String> {
        let machines = self.lock();
        machines.by_name.iter().filter(|(_, m)| m.is_none()).map(|(name, _)| name.clone()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Machines> {
        self.machines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn provision_one(&self, request: &Request) -> Result<Node, AdapterError> {
        let mut machines = self.lock();
        let Machines { by_name, over } = &mut *machines;
        if over.has(&request.key) {
            return Err(AdapterError::Invalid(format!("life {} is over", request.key)));
        }
        let node = |name: &str| Node::new(request.key.clone(), name);
        let has_it = |m: &Option<Occupied>| m.as_ref().is_some_and(|o| o.key == request.key);
        if let Some((name, _)) = by_name.iter().find(|(_, m)| has_it(m)) {
            return Ok(node(name));
        }
        let free = by_name.iter_mut().find(|(_, m)| m.is_none());
        let (name, machine) = free.ok_or_else(|| AdapterError::Capacity("no machine is free".into()))?;
        let agent = self.switch_on(name, request).map_err(|e| AdapterError::Invalid(e.to_string()))?;
        *machine = Some(Occupied { key: request.key.clone(), agent });
        Ok(node(name))
    }

    fn switch_on(&self, name: &str, request: &Request) -> Result<Child, Box<dyn std::error::Error>> {
        let disk = self.room.join(name);
        DirBuilder::new().recursive(true).mode(0o700).create(&disk)?;
        let log = OpenOptions::new().create(true).append(true).mode(0o600).open(disk.join("agent.log"))?;
        let mut bootstrap = request.bootstrap.clone();
        bootstrap.directory = Some(disk.join("labor"));
        let document = bootstrap.to_json()?;
        // A real machine would have `labor` installed.
        let mut agent = Command::new(&self.program)
            .args(["__overseer", "labor"])
            .stdin(Stdio::piped())
            .stderr(log)
            .spawn()?;
        // Whoever reads the document may become this labor, so it goes from hand to hand: no file
        // has it. It is shorter than a pipe is long, so this does not wait for the agent.
        let handed_over = agent.stdin.take().map_or(Ok(()), |mut pipe| pipe.write_all(&document));
        if let Err(error) = handed_over {
            agent.kill()?;
            agent.wait()?;
            return Err(error.into());
        }
        println!("{name} is switched on");
        Ok(agent)
    }

    fn switch_off(&self, key: &NodeKey) -> std::io::Result<()> {
        let mut machines = self.lock();
        let Machines { by_name, over } = &mut *machines;
        over.add(key);
        for (name, machine) in by_name {
            if let Some(occupied) = machine.as_mut().filter(|o| o.key == *key) {
                occupied.agent.kill()?;
                occupied.agent.wait()?;
                *machine = None;
                println!("{name} is switched off");
            }
        }
        Ok(())
    }
}

#[overseer::async_trait]
impl Adapter for Rack {
    fn name(&self) -> &'static str {
        "rack"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            same_machine: true,
            owner_pipe: false,
            sees_exit: false,
            batch: 8,
            typical_boot: Duration::from_millis(50),
        }
    }

    async fn provision(&self, requests: &[Request]) -> Vec<Result<Node, AdapterError>> {
        requests.iter().map(|request| self.provision_one(request)).collect()
    }

    async fn terminate(&self, keys: &[NodeKey]) -> Vec<Result<Ended, AdapterError>> {
        let off = |key| self.switch_off(key).map_err(|e| AdapterError::Unknown(e.to_string()));
        keys.iter().map(|key| off(key).map(|()| Ended::Confirmed)).collect()
    }

    async fn list(&self, fleet: &FleetName) -> Result<Vec<Node>, AdapterError> {
        let machines = self.lock();
        let used = machines.by_name.iter().filter_map(|(name, m)| m.as_ref().map(|o| (name, &o.key)));
        let ours = used.filter(|(_, key)| key.fleet == *fleet);
        Ok(ours.map(|(name, key)| Node::new(key.clone(), name.clone())).collect())
    }

    fn notices(&self, fleet: &FleetName) -> mpsc::Receiver<Notice> {
        // This rack does not notice when a machine dies: missed heartbeats tell. One that does
        // would keep the sender and send `Notice::Ended`.
        let _ = fleet;
        mpsc::channel(1).1
    }
}
