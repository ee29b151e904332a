//! Clients that have asked for a stream and read nothing of it.

use std::fs;

use rustix::process::Signal;
use tonic::Streaming;
use tonic::client::Grpc;
use tonic_prost::ProstCodec;

use crate::api::channel;
use crate::world::World;

/// Each of the three streams is asked for so often, each time over a connection of its own.
const DEAF: usize = 4;
/// Bytes of the result, and of the log.
const BYTES: u64 = 32 << 20;

/// What the requests of the three streams have in common: a name first, and `follow`.
#[derive(Clone, PartialEq, prost::Message)]
struct Asks {
    #[prost(string, tag = "1")]
    what: String,
    #[prost(uint32, tag = "2")]
    attempt: u32,
    #[prost(string, tag = "3")]
    stream: String,
    #[prost(bool, tag = "5")]
    follow: bool,
}

/// Any answer: what is in it is not looked at.
#[derive(Clone, PartialEq, prost::Message)]
struct Anything {}

async fn ask(world: &World, method: &'static str, asks: Asks) -> Streaming<Anything> {
    let mut client = Grpc::new(channel(world).await);
    client.ready().await.unwrap();
    let path = tonic::codegen::http::uri::PathAndQuery::from_static(method);
    let codec = ProstCodec::<Asks, Anything>::default();
    client.server_streaming(tonic::Request::new(asks), path, codec).await.unwrap().into_inner()
}

fn resident(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() << 10
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_never_read_cost_little_and_keep_nobody_else_waiting() {
    let world = World::new();
    world.configure("on_stop = \"end\"", &[("a", "labors = 1")]);
    let mut serving = world.serve();
    world.wait_ready("a", 1);
    let fleet = world.fleet("a");
    let submit = |method: &str| {
        let task = world.ask(["submit", &fleet, method, &BYTES.to_string()]);
        task["task"].as_str().unwrap().to_owned()
    };
    let (big, loud) = (submit("big"), submit("log"));
    let length = |task: &str| world.ask(["task", "attach", task])["text"].as_str().map_or(0, str::len) as u64;
    // One that reads, so that the server has done once what it does for each of them.
    assert_eq!(length(&big), BYTES);
    world.ask(["task", "attach", &loud]);
    let before = resident(serving.pid());
    let mut deaf = Vec::new();
    for _ in 0..DEAF {
        let task = |what: &str| Asks { what: what.into(), ..Asks::default() };
        let log = Asks { attempt: 1, stream: "step".into(), follow: true, ..task(&loud) };
        deaf.push(ask(&world, "/overseer.control.v1.Tasks/Attach", task(&big)).await);
        deaf.push(ask(&world, "/overseer.control.v1.Logs/Read", log).await);
        deaf.push(ask(&world, "/overseer.control.v1.Fleets/Events", task(&fleet)).await);
    }
    // Everybody else is served as before.
    assert_eq!(length(&big), BYTES);
    for round in 0..20 {
        world.ask(["call", &fleet, "echo", &round.to_string()]);
    }
    let grown = resident(serving.pid()).saturating_sub(before);
    println!("{} streams that nobody reads: the server has grown by {} KiB", deaf.len(), grown >> 10);
    assert!(grown < DEAF as u64 * BYTES / 2, "they cost the server {grown} bytes");
    // Who reads after all has the rest.
    let mut pieces = 0;
    let attached = &mut deaf[0];
    while let Some(piece) = attached.message().await.unwrap() {
        let Anything {} = piece;
        pieces += 1;
    }
    assert!(pieces > 1);
    // A server that stops does not wait for them.
    serving.signal(Signal::TERM);
    assert_eq!(serving.end(), 0);
    drop(deaf);
}
