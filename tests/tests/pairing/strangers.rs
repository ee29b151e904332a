//! Those without a certificate, in numbers: they are slowed down, and nobody else is.

use overseer_protocol::proto::pairing_client::PairingClient;
use overseer_protocol::{Claim, Endpoint, Secret};
use overseer_tests::peer::{self, Keys};
use overseer_tests::{eventually, within};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tonic::Code;

use crate::scene::Scene;

#[tokio::test(flavor = "multi_thread")]
async fn in_a_flood_of_bad_claims_a_good_one_is_admitted_from_the_same_address() {
    let scene = Scene::open().await;
    let (labor, document) = scene.played().await;
    let Claim::Labor { generation, .. } = document.claim else { panic!("{:?}", document.claim) };
    let bad = Claim::Labor { labor: labor.id(), generation, token: Secret::new("0".repeat(64)) };
    let keys = Keys::generate();
    let (mut told, mut slowed) = (0, 0);
    while slowed < 150 {
        let mut client = PairingClient::new(peer::reach(&document, None).await);
        let refused = within("an answer", client.join(peer::join_request(&bad, &keys))).await.unwrap_err();
        match refused.code() {
            Code::Unauthenticated => told += 1,
            Code::ResourceExhausted => {
                slowed += 1;
                assert!(refused.message().contains("try again in"), "{refused:?}");
            }
            code => panic!("{code:?}: {refused:?}"),
        }
    }
    assert!(told >= 100, "the first ones were told why: {told}");
    // Real labors pair meanwhile, and so does the one whose claim they tried.
    let other = scene.fleet.start_child().await.unwrap();
    within("ready", other.ready()).await.unwrap();
    within("an answer", peer::join(&document, peer::join_request(&document.claim, &keys))).await.unwrap();
    scene.serves().await;
    scene.fleet.terminate_child(labor.id());
    scene.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_show_no_certificate_are_bounded_and_labors_pair_beside_them() {
    let scene = Scene::open().await;
    let tcp = scene.plane.endpoints().iter().find_map(|endpoint| match endpoint {
        Endpoint::Tcp(address) => Some(address.clone()),
        Endpoint::Unix(_) => None,
    });
    let address = tcp.unwrap();
    // Both ends are ours.
    let most = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: most, maximum: most }).unwrap();
    let mut silent = Vec::new();
    for _ in 0..1100 {
        silent.push(TcpStream::connect(&address).await.unwrap());
    }
    let labor = scene.fleet.start_child().await.unwrap();
    within("ready", labor.ready()).await.unwrap();
    // Those that have waited longest went for the newest.
    let (first, last) = (0, silent.len() - 1);
    let gone = async |socket: &mut TcpStream| socket.read(&mut [0; 16]).await.is_ok_and(|n| n == 0);
    assert!(within("the end of the oldest", gone(&mut silent[first])).await);
    let open = eventually("the bound is kept", async || {
        let open = silent.iter().filter(|socket| socket.try_read(&mut [0; 1]).is_err()).count();
        (open <= 1024).then_some(open)
    });
    assert!(open.await > 900);
    assert!(silent[last].try_read(&mut [0; 1]).is_err(), "the newest are still there");
    scene.serves().await;
    scene.close().await;
}
