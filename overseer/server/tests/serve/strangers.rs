//! Those who have no token, in numbers: they are slowed down, and nobody else is.

use std::io::Read;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::Value;
use tonic::metadata::MetadataValue;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Code, Request, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;

use crate::remote::Remote;
use crate::world::{World, eventually};

async fn channel(world: &World, remote: &Remote<'_>) -> Channel {
    let authority = std::fs::read(world.path("server-ca.pem")).unwrap();
    let tls =
        ClientTlsConfig::new().ca_certificate(Certificate::from_pem(authority)).domain_name("127.0.0.1");
    Endpoint::from_shared(remote.address()).unwrap().tls_config(tls).unwrap().connect().await.unwrap()
}

/// A request with a well-formed token that is nobody's.
fn wrong<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    let token = format!("Bearer ovr_{}_{}", "0".repeat(16), "1".repeat(64));
    request.metadata_mut().insert("authorization", MetadataValue::try_from(token).unwrap());
    request
}

fn health() -> HealthCheckRequest {
    HealthCheckRequest { service: String::new() }
}

fn code(status: &Status) -> String {
    let code = status.metadata().get("overseer-code").unwrap();
    code.to_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_stranger_learns_one_bit_and_who_has_a_token_the_rest() {
    let world = World::new();
    world.configure(&Remote::keys(""), &[]);
    let serving = world.serve();
    let remote = Remote::of(&world);
    let channel = channel(&world, &remote).await;
    let mut client = HealthClient::new(channel.clone());
    client.check(health()).await.unwrap();
    let watch = client.watch(health()).await.unwrap_err();
    assert_eq!((watch.code(), &*code(&watch)), (Code::Unauthenticated, "access.token_missing"));
    let ask = || tokio_stream::once(ServerReflectionRequest::default());
    let mut reflection = ServerReflectionClient::new(channel.clone());
    let refused = reflection.server_reflection_info(ask()).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    let token = remote.token(&["--role", "viewer", "--name", "tools"]);
    let mut request = Request::new(ask());
    request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    reflection.server_reflection_info(request).await.unwrap();
    // Where there is no method, nobody without a token is told so.
    let mut grpc = tonic::client::Grpc::new(channel);
    grpc.ready().await.unwrap();
    let codec = tonic_prost::ProstCodec::<HealthCheckRequest, HealthCheckRequest>::default();
    let path = tonic::codegen::http::uri::PathAndQuery::from_static("/x.Y/Z");
    let unknown = grpc.unary(Request::new(health()), path, codec).await.unwrap_err();
    assert_eq!(unknown.code(), Code::Unauthenticated);
    serving.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_flood_of_wrong_tokens_a_good_one_is_served_and_the_log_stays_small() {
    let world = World::new();
    world.configure(&Remote::keys(""), &[]);
    let serving = world.serve();
    let remote = Remote::of(&world);
    let token = remote.token(&["--role", "viewer", "--name", "good"]);
    let mut told = std::collections::HashMap::<i32, usize>::new();
    let mut waits = None;
    let mut attempts = 0;
    while attempts < 400 {
        let mut client = HealthClient::new(channel(&world, &remote).await);
        // Until the connection is ended.
        while let Err(refused) = client.check(wrong(health())).await {
            *told.entry(refused.code() as i32).or_default() += 1;
            attempts += 1;
            if refused.code() == Code::ResourceExhausted {
                assert_eq!(code(&refused), "access.too_many_failures");
                let help = refused.metadata().get_bin("overseer-help-bin").unwrap().to_bytes().unwrap();
                waits = Some(String::from_utf8(help.to_vec()).unwrap());
            }
            if attempts % 100 == 0 {
                remote.ask(&token, &["status"]);
            }
            if !matches!(refused.code(), Code::Unauthenticated | Code::ResourceExhausted) || attempts >= 400 {
                break;
            }
        }
    }
    assert!(
        told[&(Code::Unauthenticated as i32)] >= 10 && told[&(Code::ResourceExhausted as i32)] > 200,
        "{told:?}"
    );
    assert!(waits.unwrap().contains("try again in"), "it says when to come again");
    remote.ask(&token, &["status"]);
    let denied = world.overseer(["audit", "--denied", "--json", "--limit", "50000"]).exits(0).documents();
    let of_flood: Vec<&Value> = denied.iter().filter(|entry| entry["who"] == "nobody").collect();
    // The first at once; the others as a number, later.
    assert!((1..=4).contains(&of_flood.len()), "{denied:#?}");
    assert_eq!(of_flood[0]["outcome"], "access.token_wrong");
    serving.stop();
    let serving = world.serve();
    let denied = world.overseer(["audit", "--denied", "--json"]).exits(0).documents();
    let times: u64 =
        denied.iter().filter(|e| e["who"] == "nobody").map(|e| e["times"].as_u64().unwrap()).sum();
    assert!(times >= 400, "none was forgotten: {denied:#?}");
    serving.stop();
}

#[test]
fn connections_that_show_nothing_are_few_and_short_and_a_good_client_is_served() {
    let world = World::new();
    world.configure(&Remote::keys(""), &[]);
    let serving = world.serve();
    let remote = Remote::of(&world);
    let token = remote.token(&["--role", "viewer", "--name", "good"]);
    let begun = Instant::now();
    let mut silent: Vec<_> = (0..400).map(|_| TcpStream::connect(remote.host()).unwrap()).collect();
    remote.ask(&token, &["status"]);
    // The oldest had to go for the newest: nobody waits for a place.
    let open = |sockets: &mut Vec<TcpStream>| {
        sockets.retain_mut(|socket| {
            socket.set_nonblocking(true).unwrap();
            let read = socket.read(&mut [0; 64]);
            read.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
        });
        sockets.len()
    };
    eventually("those over the bound are gone", || open(&mut silent) <= 256);
    eventually("the others go in time", || open(&mut silent) == 0);
    assert!(begun.elapsed() >= Duration::from_secs(5), "they had time");
    remote.ask(&token, &["status"]);
    serving.stop();
}
