//! Bytes that are no protocol of ours.

use overseer_protocol::Endpoint;
use overseer_tests::{peer, within};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tonic::Code;

use crate::scene::{Scene, refused};

trait Wire: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Wire for T {}

async fn knock(endpoint: &Endpoint) -> Box<dyn Wire> {
    match endpoint {
        Endpoint::Unix(path) => Box::new(UnixStream::connect(path).await.unwrap()),
        Endpoint::Tcp(address) => Box::new(TcpStream::connect(address).await.unwrap()),
    }
}

/// The start of a real TLS 1.2+ client hello, which promises far more than it has.
const HALF_HELLO: &[u8] = &[0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xfc, 0x03, 0x03];

#[tokio::test(flavor = "multi_thread")]
async fn garbage_on_either_port_is_answered_by_the_end_of_the_connection() {
    let scene = Scene::open().await;
    let noise: Vec<u8> = (0..100_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let cases: [(&str, &[u8]); 4] = [
        ("plain HTTP", b"GET / HTTP/1.1\r\nHost: overseer\r\n\r\n"),
        ("HTTP/2 without TLS", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"),
        ("noise", &noise),
        ("an oversized TLS record", &[0x16, 0x03, 0x01, 0xff, 0xff, 0x01, 0xff, 0xff, 0xff]),
    ];
    for endpoint in scene.plane.endpoints() {
        for (what, bytes) in cases {
            let mut wire = knock(endpoint).await;
            // It may hang up while we still talk.
            let _ = wire.write_all(bytes).await;
            let mut answer = Vec::new();
            let read = within(what, (&mut wire).take(4096).read_to_end(&mut answer)).await;
            let plain = String::from_utf8_lossy(&answer).contains("HTTP");
            assert!(read.is_err() || !plain, "{what} was answered in the clear");
        }
        scene.serves().await;
    }
    scene.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn those_who_never_finish_their_handshake_hold_up_nobody() {
    let scene = Scene::open().await;
    let mut hung = Vec::new();
    for endpoint in scene.plane.endpoints() {
        for number in 0..64 {
            let mut wire = knock(endpoint).await;
            if number % 2 == 0 {
                wire.write_all(HALF_HELLO).await.unwrap();
            }
            hung.push(wire);
        }
    }
    // Labors pair beside them.
    let labor = scene.fleet.start_child().await.unwrap();
    within("ready", labor.ready()).await.unwrap();
    scene.serves().await;
    // And each of them is shown the door.
    for mut wire in hung {
        let mut answer = Vec::new();
        let _ = within("the end of the handshake", wire.read_to_end(&mut answer)).await;
    }
    scene.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_over_the_limit_is_refused() {
    let scene = Scene::open().await;
    let (labor, document) = scene.played().await;
    let keys = peer::Keys::generate();
    let mut request = peer::join_request(&document.claim, &keys);
    request.facts = vec![b' '; 1 << 20].into();
    let answer = within("an answer", peer::join(&document, request)).await;
    refused(answer, Code::OutOfRange);
    // The claim was not used up by it.
    let good = peer::join(&document, peer::join_request(&document.claim, &keys)).await.unwrap();
    assert!(good.identity.is_some());
    scene.fleet.terminate_child(labor.id());
    scene.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_without_end_are_refused() {
    let scene = Scene::open().await;
    let (labor, document) = scene.played().await;
    let channel = peer::reach(&document, None).await;
    let mut client = overseer_protocol::proto::pairing_client::PairingClient::new(channel);
    let keys = peer::Keys::generate();
    let mut request = tonic::Request::new(peer::join_request(&document.claim, &keys));
    let long = "x".repeat(64 * 1024);
    request.metadata_mut().insert("x-long", long.parse().unwrap());
    let answer = within("an answer", client.join(request)).await;
    assert!(answer.is_err(), "{answer:?}");
    scene.fleet.terminate_child(labor.id());
    scene.close().await;
}
