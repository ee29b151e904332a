//! A machine that was invited: its agent is started by the test, on a line that can be cut.

use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use overseer::{Cause, ControlPlane, InviteError, Labor, LaborState};
use overseer_tests::{eventually, labor, probes, within};
use parking_lot::Mutex;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio::task::AbortHandle;

const TTL: Duration = Duration::from_secs(60);

/// Connections to an Overseer.
#[derive(Clone, Default)]
struct Line(Arc<Mutex<Connections>>);

#[derive(Default)]
struct Connections {
    pulled: bool,
    open: Vec<AbortHandle>,
}

impl Line {
    /// Where to call instead of there.
    async fn lay(&self, upstream: SocketAddr) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let line = self.clone();
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let mut connections = line.0.lock();
                if !connections.pulled {
                    let carried = tokio::spawn(async move {
                        let Ok(mut far) = TcpStream::connect(upstream).await else { return };
                        let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
                    });
                    connections.open.push(carried.abort_handle());
                }
            }
        });
        address
    }

    fn cut(&self) {
        self.0.lock().open.drain(..).for_each(|connection| connection.abort());
    }

    fn pull(&self, pulled: bool) {
        self.0.lock().pulled = pulled;
        self.cut();
    }
}

/// The agent of a machine, ended also where the test has failed.
async fn machine(document: Vec<u8>) -> Child {
    let mut command = Command::new(labor!());
    command.args(["__overseer", "labor"]).stdin(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(&document).await.unwrap();
    input.write_all(b"\n").await.unwrap();
    child
}

fn listens(plane: &ControlPlane) -> SocketAddr {
    let tcp = plane.endpoints().iter().find_map(|endpoint| match endpoint {
        overseer_protocol::Endpoint::Tcp(address) => address.parse().ok(),
        overseer_protocol::Endpoint::Unix(_) => None,
    });
    tcp.unwrap()
}

async fn lost_and_found(labor: &Labor) {
    eventually("it was lost and is back", async || {
        let lost = labor.history().iter().any(|entry| entry.state == LaborState::Lost);
        (lost && labor.status().state == LaborState::Ready).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_comes_back_within_its_grace_and_is_told_to_leave_after_it() {
    let ms = Duration::from_millis;
    let local = "127.0.0.1:0".parse().unwrap();
    let plane = ControlPlane::builder().served(true).listen(local).start().await.unwrap();
    let builder = probes!().heartbeat(ms(100)).silence(ms(1000)).grace(ms(4000));
    let fleet = builder.control_plane(&plane).start().await.unwrap();
    let line = Line::default();
    let address = line.lay(listens(&plane)).await;
    let invitation = fleet.invite_to(TTL, vec![address.to_string()]).await.unwrap();
    let labor = invitation.labor.clone();
    assert!(labor.is_invited() && labor.status().state == LaborState::Booting);
    assert!(!format!("{invitation:?}").contains("PEM"), "it is a secret");

    let mut machine = machine(invitation.document.expose().to_json().unwrap()).await;
    within("it gets ready", labor.ready()).await.unwrap();
    let host: u32 = labor.call("pid", &()).await.unwrap();
    assert_eq!(fleet.call::<_, u32>("echo", &7).await.unwrap(), 7);
    assert_eq!(fleet.findings().await.unwrap(), []);

    line.cut();
    lost_and_found(&labor).await;
    assert_eq!(labor.call::<_, u32>("pid", &()).await.unwrap(), host);

    line.pull(true);
    within("grace is over", labor.wait_for(|s| s.state == LaborState::Terminating)).await;
    assert!(machine.try_wait().unwrap().is_none(), "nobody can end it");
    assert_eq!(fleet.count_children().await.unwrap().total, 1, "its slot is taken");
    line.pull(false);
    assert_eq!(within("it is told to leave", labor.terminated()).await, Cause::ConnectionLost);
    assert_eq!(within("it leaves", machine.wait()).await.unwrap().code(), Some(0));
    assert_eq!(fleet.count_children().await.unwrap().total, 0, "it is not replaced");
    within("the fleet stops", fleet.stop()).await;
    plane.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_invited_to_where_nobody_listens_or_where_there_is_no_room() {
    let fleet = probes!().start().await.unwrap();
    assert!(matches!(fleet.invite(TTL).await, Err(InviteError::NoListener)));
    within("the fleet stops", fleet.stop()).await;
    assert!(matches!(fleet.invite(TTL).await, Err(InviteError::Stopped(_))));

    let plane = ControlPlane::builder().listen("127.0.0.1:0".parse().unwrap()).start().await.unwrap();
    let fleet = probes!().max_nodes(1).control_plane(&plane).start().await.unwrap();
    for ttl in [Duration::ZERO, Duration::from_secs(30 * 86_400)] {
        assert!(matches!(fleet.invite(ttl).await, Err(InviteError::Ttl(_))));
    }
    let first = fleet.invite(TTL).await.unwrap();
    assert!(matches!(fleet.invite(TTL).await, Err(InviteError::AtCapacity(_))));
    assert!(fleet.start_child().await.is_err());
    fleet.terminate_child(first.labor.id());
    within("it is taken back", first.labor.terminated()).await;
    // One that is not waited for is taken back by itself.
    let mut asked = Box::pin(fleet.invite(TTL));
    let polled = asked.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    assert!(polled.is_pending(), "the store is asked first");
    drop(asked);
    let again = eventually("there is room", async || fleet.invite(TTL).await.ok()).await;
    assert!(again.token().unwrap().expose().starts_with("overseer-join-"));
    within("the fleet stops", fleet.stop()).await;
    assert_eq!(within("it has ended too", again.labor.terminated()).await, Cause::Asked);
    plane.shutdown().await;
}
