//! What any gRPC client finds at the socket: health and reflection.

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

use crate::world::{Serving, World};

pub(crate) async fn channel(world: &World) -> Channel {
    let socket = world.socket();
    let connector = tower::service_fn(move |_| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    Endpoint::from_static("http://overseer").connect_with_connector(connector).await.unwrap()
}

/// Whether a service is said to serve.
#[tokio::main(flavor = "current_thread")]
pub(crate) async fn health(world: &World, service: &str) -> bool {
    let request = HealthCheckRequest { service: service.to_owned() };
    let answer = HealthClient::new(channel(world).await).check(request).await.unwrap().into_inner();
    answer.status() == ServingStatus::Serving
}

#[tokio::test]
async fn it_says_whether_it_serves_and_what() {
    let world = World::new();
    world.configure("on_stop = \"end\"", &[("a", "labors = 1")]);
    let mut serving = world.serve();
    world.wait_ready("a", 1);
    let channel = channel(&world).await;
    for service in ["", "overseer.control.v1.Fleets", "overseer.control.v1.Calls"] {
        let request = HealthCheckRequest { service: service.to_owned() };
        let answer = HealthClient::new(channel.clone()).check(request).await.unwrap().into_inner();
        assert_eq!(answer.status(), ServingStatus::Serving, "{service}");
    }
    let message_request = Some(MessageRequest::ListServices(String::new()));
    let request = ServerReflectionRequest { host: String::new(), message_request };
    let mut answers = ServerReflectionClient::new(channel.clone())
        .server_reflection_info(tokio_stream::once(request))
        .await
        .unwrap()
        .into_inner();
    let answer = answers.message().await.unwrap().unwrap().message_response.unwrap();
    let MessageResponse::ListServicesResponse(listed) = answer else { panic!("{answer:?}") };
    let names: Vec<_> = listed.service.into_iter().map(|service| service.name).collect();
    for service in ["Fleets", "Calls", "Tasks", "Logs", "Server"] {
        assert!(names.contains(&format!("overseer.control.v1.{service}")), "{names:?}");
    }
    // While an open call may finish, nobody should send another.
    let mut call = Serving::start(world.command(["call", &world.fleet("a"), "wait_file", &world.gate("go")]));
    world.wait_open("a", 1);
    serving.signal(rustix::process::Signal::TERM);
    world.wait_stopping("a");
    let request = HealthCheckRequest { service: String::new() };
    let answer = HealthClient::new(channel).check(request).await.unwrap().into_inner();
    assert_eq!(answer.status(), ServingStatus::NotServing);
    world.go("go");
    assert_eq!((call.end(), serving.end()), (0, 0));
}
