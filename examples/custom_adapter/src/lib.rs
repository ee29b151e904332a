//! A rack of machines as an [`Adapter`]. Here a machine is a directory and switching it on
//! starts an agent in it; with real ones, only `switch_on` and `switch_off` would differ.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use overseer::FleetName;
use overseer::adapter::{Adapter, AdapterError, Capabilities, Ended, Node, NodeKey, Notice, Request};
use tokio::sync::mpsc;

/// So many machines, each for one labor at a time.
#[derive(Clone)]
pub struct Rack {
    machines: Arc<Mutex<BTreeMap<String, Option<Occupied>>>>,
    room: PathBuf,
}

struct Occupied {
    key: NodeKey,
    agent: Child,
}

impl Rack {
    /// `size` machines that are switched off, with their disks in `room`.
    pub fn new(room: PathBuf, size: usize) -> Self {
        let machines = (1..=size).map(|n| (format!("rack-{n}"), None)).collect();
        Self { machines: Arc::new(Mutex::new(machines)), room }
    }

    /// Names of the machines that nobody uses.
    pub fn free(&self) -> Vec<String> {
        self.lock().iter().filter(|(_, m)| m.is_none()).map(|(name, _)| name.clone()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Option<Occupied>>> {
        self.machines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn provision_one(&self, request: &Request) -> Result<Node, AdapterError> {
        let mut machines = self.lock();
        let node = |name: &str| Node { key: request.key.clone(), provider_id: name.to_owned() };
        let has_it = |m: &Option<Occupied>| m.as_ref().is_some_and(|o| o.key == request.key);
        if let Some((name, _)) = machines.iter().find(|(_, m)| has_it(m)) {
            return Ok(node(name));
        }
        let free = machines.iter_mut().find(|(_, m)| m.is_none());
        let (name, machine) = free.ok_or_else(|| AdapterError::Capacity("no machine is free".into()))?;
        let agent = self.switch_on(name, request).map_err(|e| AdapterError::Invalid(e.to_string()))?;
        *machine = Some(Occupied { key: request.key.clone(), agent });
        Ok(node(name))
    }

    fn switch_on(&self, name: &str, request: &Request) -> Result<Child, Box<dyn std::error::Error>> {
        let disk = self.room.join(name);
        std::fs::create_dir_all(&disk)?;
        let mut bootstrap = request.bootstrap.clone();
        bootstrap.directory = Some(disk.join("labor"));
        let file = disk.join("bootstrap.json");
        std::fs::write(&file, bootstrap.to_json()?)?;
        println!("{name} is switched on");
        // The program is its own agent; a real machine would have `labor` installed.
        let agent = Command::new(std::env::current_exe()?)
            .args(["__overseer", "labor"])
            .stdin(Stdio::from(std::fs::File::open(file)?))
            .stderr(std::fs::File::create(disk.join("agent.log"))?)
            .spawn()?;
        Ok(agent)
    }

    fn switch_off(&self, key: &NodeKey) -> std::io::Result<()> {
        let mut machines = self.lock();
        let machine = machines.iter_mut().find(|(_, m)| m.as_ref().is_some_and(|o| o.key == *key));
        if let Some((name, machine)) = machine
            && let Some(mut occupied) = machine.take()
        {
            occupied.agent.kill()?;
            occupied.agent.wait()?;
            println!("{name} is switched off");
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
        let used = machines.iter().filter_map(|(name, m)| m.as_ref().map(|o| (name, &o.key)));
        let ours = used.filter(|(_, key)| key.fleet == *fleet);
        Ok(ours.map(|(name, key)| Node { key: key.clone(), provider_id: name.clone() }).collect())
    }

    fn notices(&self, fleet: &FleetName) -> mpsc::Receiver<Notice> {
        // This rack does not notice when a machine dies: missed heartbeats tell. One that does
        // would keep the sender and send `Notice::Ended`.
        let _ = fleet;
        mpsc::channel(1).1
    }
}
