//! The server: killed and started again by those who watch it, and asked over its standard input.

use std::path::{Path, PathBuf};
use std::time::Duration;

use overseer::adapter::{Adapter, AdapterError, Capabilities, Ended, Node, NodeKey, Notice, Request};
use overseer::{
    BoxError, ControlPlane, Fleet, FleetName, LaborId, Release, Retry, TaskError, TaskId, TaskOptions,
    async_trait, local::Local,
};
use overseer_protocol::Endpoint;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::mpsc;

/// Tasks in one answer.
const PAGE: usize = 1000;

/// What a server is asked.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum Ask {
    /// Answered with its id, when it is stored.
    Submit { key: String, never_twice: bool, payload: (PathBuf, u64) },
    /// Answered when it is over.
    Wait(TaskId),
    /// Answered when it is.
    Call { payload: (PathBuf, u64) },
    /// Ends a labor, and starts another.
    Replace(LaborId),
    /// Up to a thousand keys and ids of tasks that are over, or at work.
    Tasks { over: bool, after: Option<TaskId> },
    /// How many labors are ready.
    Ready,
    /// Stops the fleet, then the server.
    Stop,
}

/// An answer, or the code and text of an error.
pub(super) type Answer = Result<Value, (String, String)>;

/// Serves until it is told to stop or is killed.
///
/// # Errors
/// It cannot start.
pub async fn serve(data: &str, name: &str, labors: usize, cables: &str) -> Result<(), BoxError> {
    let plane = ControlPlane::builder().data_directory(data).served(true).start().await?;
    let seconds = Duration::from_secs;
    let fleet = Fleet::quiet()
        .name(name)
        .max_nodes(labors)
        .adapter(Strung { local: Local::new(), cables: cables_in(Path::new(cables))? })
        .release(Release::plugin_beside_program("probe_plugin", "1.0.0")?)
        .allow_unsigned(true)
        .intensity(u32::MAX, seconds(60))
        .backoff(overseer::Backoff { initial: Duration::from_millis(50), max: seconds(2) })
        .grace(seconds(3))
        .control_plane(&plane)
        .start()
        .await?;
    let missing = labors.saturating_sub(fleet.count_children().await?.total);
    fleet.start_children(missing).await?;
    println!("{}", json!({"up": true}));
    let mut asked = lines();
    while let Some(line) = asked.recv().await {
        let (number, ask): (u64, Ask) = serde_json::from_str(&line)?;
        if matches!(ask, Ask::Stop) {
            fleet.stop().await;
            plane.shutdown().await;
            println!("{}", json!([number, Answer::Ok(Value::Null)]));
            return Ok(());
        }
        let fleet = fleet.clone();
        tokio::spawn(async move { println!("{}", json!([number, answer(&fleet, ask).await])) });
    }
    Ok(())
}

/// The lines of standard input.
fn lines() -> mpsc::Receiver<String> {
    let (send, receive) = mpsc::channel(64);
    std::thread::spawn(move || {
        let mut lines = std::io::stdin().lines().map_while(Result::ok);
        while lines.next().is_some_and(|line| send.blocking_send(line).is_ok()) {}
    });
    receive
}

async fn answer(fleet: &Fleet, ask: Ask) -> Answer {
    match ask {
        Ask::Submit { key, never_twice, payload } => {
            let retry = if never_twice { Retry::never() } else { Retry::default() };
            let options = TaskOptions::default().key(key).retry(retry);
            let payload = serde_json::to_vec(&payload).unwrap_or_default();
            let task = fleet.submit_bytes("mark", payload, options).await;
            task.map(|task| json!(task.id())).map_err(|e| (e.code().into(), e.to_string()))
        }
        Ask::Wait(task) => {
            let over = async { fleet.task(task).await?.result_bytes().await };
            over.await.map(|_| Value::Null).map_err(|e: TaskError| (e.code().into(), e.to_string()))
        }
        Ask::Call { payload } => {
            let options = overseer::CallOptions::default().queue(crate::PATIENCE);
            let payload = serde_json::to_vec(&payload).unwrap_or_default();
            let called = fleet.call_bytes("mark", payload, options).await;
            called.map(|_| Value::Null).map_err(|e| (e.code().into(), e.to_string()))
        }
        Ask::Replace(labor) => {
            let Some(labor) = fleet.labor(labor) else { return Ok(json!(false)) };
            fleet.terminate_child(labor.id());
            labor.terminated().await;
            // Somebody else may have taken its slot.
            Ok(json!(fleet.start_child().await.is_ok()))
        }
        Ask::Tasks { over, after } => {
            let records = fleet.list_tasks(over, after, PAGE).await;
            let records = records.map_err(|e| (e.code().to_owned(), e.to_string()))?;
            let key = |r: &overseer::tasks::TaskRecord| r.key.as_ref().map(|key| key.name.clone());
            Ok(records.iter().map(|r| json!([key(r), r.task])).collect())
        }
        Ask::Ready => match fleet.count_children().await {
            Ok(count) => Ok(json!([count.ready, count.total])),
            Err(stopped) => Err((stopped.code().into(), stopped.to_string())),
        },
        Ask::Stop => Ok(Value::Null),
    }
}

/// Local agents that reach the server only by one of the cables, which outlive it.
struct Strung {
    local: Local,
    cables: Vec<PathBuf>,
}

fn cables_in(directory: &Path) -> std::io::Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(directory)?;
    let mut cables = entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>()?;
    cables.sort();
    Ok(cables)
}

#[async_trait]
impl Adapter for Strung {
    fn name(&self) -> &'static str {
        "strung"
    }

    fn capabilities(&self) -> Capabilities {
        self.local.capabilities()
    }

    async fn provision(&self, requests: &[Request]) -> Vec<Result<Node, AdapterError>> {
        let mut requests = requests.to_vec();
        for request in &mut requests {
            let number = request.key.labor.to_string().bytes().map(usize::from).sum::<usize>();
            let cable = self.cables[number % self.cables.len()].clone();
            request.bootstrap.endpoints = vec![Endpoint::Unix(cable)];
        }
        self.local.provision(&requests).await
    }

    async fn terminate(&self, keys: &[NodeKey]) -> Vec<Result<Ended, AdapterError>> {
        self.local.terminate(keys).await
    }

    async fn list(&self, fleet: &FleetName) -> Result<Vec<Node>, AdapterError> {
        self.local.list(fleet).await
    }

    async fn adopt(&self, nodes: &[Node]) {
        self.local.adopt(nodes).await;
    }

    fn notices(&self, fleet: &FleetName) -> mpsc::Receiver<Notice> {
        self.local.notices(fleet)
    }
}
