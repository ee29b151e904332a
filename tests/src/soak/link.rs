//! The way to the server that runs now.

use std::collections::HashMap;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::{oneshot, watch};

use super::server::{Answer, Ask};

/// Asks whichever server runs.
pub(super) struct Link {
    next: AtomicU64,
    input: tokio::sync::Mutex<Option<ChildStdin>>,
    waiting: Mutex<HashMap<u64, oneshot::Sender<Answer>>>,
    up: watch::Sender<bool>,
}

/// The server was killed before it answered.
#[derive(Debug)]
pub(super) struct Killed;

impl Link {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            next: AtomicU64::new(0),
            input: tokio::sync::Mutex::default(),
            waiting: Mutex::default(),
            up: watch::Sender::new(false),
        })
    }

    /// Asks once. Waits for a server that is up, and not for a second one.
    pub(super) async fn once(&self, ask: &Ask) -> Result<Answer, Killed> {
        // The sender lives in `self`.
        let _ = self.up.subscribe().wait_for(|up| *up).await;
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let (send, answer) = oneshot::channel();
        let line = format!("{}\n", serde_json::to_string(&(number, ask)).unwrap());
        {
            let mut input = self.input.lock().await;
            let Some(input) = input.as_mut() else { return Err(Killed) };
            self.waiting.lock().insert(number, send);
            if input.write_all(line.as_bytes()).await.is_err() {
                self.waiting.lock().remove(&number);
                return Err(Killed);
            }
        }
        answer.await.map_err(|_| Killed)
    }

    /// Asks until a server answers.
    pub(super) async fn ask(&self, ask: &Ask) -> Answer {
        loop {
            if let Ok(answer) = self.once(ask).await {
                return answer;
            }
            tokio::task::yield_now().await;
        }
    }
}

/// The server that runs.
pub(super) struct Server {
    child: Child,
    reading: tokio::task::JoinHandle<()>,
    link: Arc<Link>,
}

impl Server {
    /// Starts one and waits until it is up.
    pub(super) async fn start(
        link: &Arc<Link>,
        arguments: &[&str],
        log: &Path,
    ) -> Result<Self, overseer::BoxError> {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(log)?;
        let mut child = Command::new("/proc/self/exe")
            .arg("serve")
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()?;
        let mut said = BufReader::new(child.stdout.take().ok_or("no output")?).lines();
        let up = tokio::time::timeout(crate::PATIENCE, said.next_line()).await??;
        up.ok_or("the server has ended before it was up; see its log")?;
        *link.input.lock().await = child.stdin.take();
        link.up.send_replace(true);
        let reading = tokio::spawn(read(Arc::clone(link), said));
        Ok(Self { child, reading, link: Arc::clone(link) })
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id().unwrap_or_default()
    }

    /// Kills it. When this returns nobody waits for its answers any more.
    pub(super) async fn kill(mut self) -> std::io::Result<()> {
        self.link.up.send_replace(false);
        self.child.kill().await?;
        // What it said before it died is heard.
        let _ = self.reading.await;
        *self.link.input.lock().await = None;
        Ok(())
    }

    /// Waits until it has ended by itself; whether it did so in good order.
    pub(super) async fn wait(mut self) -> std::io::Result<bool> {
        Ok(self.child.wait().await?.success())
    }
}

async fn read(link: Arc<Link>, mut said: tokio::io::Lines<BufReader<ChildStdout>>) {
    while let Ok(Some(line)) = said.next_line().await {
        // A line that is cut off is of a server that was killed.
        let Ok((number, answer)) = serde_json::from_str::<(u64, Answer)>(&line) else { break };
        let waits = link.waiting.lock().remove(&number);
        if let Some(waits) = waits {
            let _ = waits.send(answer);
        }
    }
    link.up.send_replace(false);
    link.waiting.lock().clear();
}

/// A number of an answer.
pub(super) fn number(value: &Value, place: usize) -> usize {
    value[place].as_u64().unwrap_or_default() as usize
}
