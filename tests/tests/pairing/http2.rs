//! Bad HTTP/2 after a good TLS handshake, of one with a certificate and of one without.

use std::time::Duration;

use overseer_protocol::Endpoint;
use overseer_tests::peer::Keys;
use overseer_tests::raw::{self, PREFACE, Shown, Wire, code, frame, kind};
use overseer_tests::{memory, within};
use tokio::io::AsyncWriteExt;

use crate::scene::Scene;

const JOIN: &str = "/overseer.v1.Pairing/Join";
const PUSH_LOGS: &str = "/overseer.v1.Bulk/PushLogs";
/// What no flood may make the Overseer take, in bytes; other tests take some, too.
const MEMORY: u64 = 256 << 20;

/// The ports, each for one with a certificate and one without.
struct Callers {
    authorities: String,
    callers: Vec<(Endpoint, Option<Shown>)>,
}

impl Callers {
    async fn of(scene: &Scene) -> Self {
        let authority = scene.authority().await;
        let keys = Keys::generate();
        let hour = Duration::from_secs(3600);
        let certificate = keys.certificate(&authority, &scene.identity(), hour);
        let shown = Shown { certificate, key: keys.key };
        let both = |endpoint: &Endpoint| [None, Some(shown.clone())].map(|shown| (endpoint.clone(), shown));
        let callers = scene.plane.endpoints().iter().flat_map(both).collect();
        Self { authorities: authority.certificate().to_owned(), callers }
    }

    async fn dial(&self, (endpoint, shown): &(Endpoint, Option<Shown>)) -> Wire {
        within("a handshake", raw::dial(endpoint, &self.authorities, shown.as_ref())).await
    }
}

/// A connection that begins well and goes on with this.
fn begun(frames: &[u8]) -> Vec<u8> {
    [PREFACE, &frame(kind::SETTINGS, 0, 0, &[]), frames].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_that_make_no_sense_are_answered_by_the_end_of_the_connection() {
    let scene = Scene::open().await;
    let callers = Callers::of(&scene).await;
    let noise: Vec<u8> = (0..5_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let oversized = [0xff, 0xff, 0xff, kind::DATA, 0, 0, 0, 0, 1];
    let overflow = 0x7fff_ffff_u32.to_be_bytes();
    let cases = [
        ("plain HTTP", b"GET / HTTP/1.1\r\nHost: overseer\r\n\r\n".to_vec(), None),
        ("a broken preface", b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n".to_vec(), None),
        ("noise", noise.clone(), None),
        ("noise after the preface", begun(&noise), Some(code::FRAME_SIZE)),
        ("an oversized frame", begun(&oversized), Some(code::FRAME_SIZE)),
        ("a request on no stream", begun(&frame(kind::HEADERS, 4, 0, &[0x83])), Some(code::PROTOCOL)),
        ("a request on our own stream", begun(&frame(kind::HEADERS, 4, 2, &[0x83])), Some(code::PROTOCOL)),
        ("headers that are none", begun(&frame(kind::HEADERS, 4, 1, &[0xff; 9])), Some(code::PROTOCOL)),
        ("more of no headers", begun(&frame(kind::CONTINUATION, 4, 1, &[0x83])), Some(code::PROTOCOL)),
        ("data of no request", begun(&frame(kind::DATA, 0, 1, &[0; 100])), Some(code::PROTOCOL)),
        ("the end of no request", begun(&frame(kind::RST_STREAM, 0, 1, &[0; 4])), Some(code::PROTOCOL)),
        ("half a ping", begun(&frame(kind::PING, 0, 0, &[0; 4])), Some(code::PROTOCOL)),
        ("a boundless window", begun(&frame(kind::WINDOW_UPDATE, 0, 0, &overflow)), Some(code::FLOW_CONTROL)),
    ];
    for caller in &callers.callers {
        for (what, bytes, code) in &cases {
            let mut wire = callers.dial(caller).await;
            // It may hang up while we still talk.
            let _ = wire.write_all(bytes).await;
            let left = within(what, raw::end_of(&mut wire)).await;
            assert_eq!(left, *code, "{what}");
        }
        scene.serves().await;
    }
    scene.close().await;
}

/// What one who floods says: the n-th piece of it.
type Flood = fn(u32) -> Vec<u8>;

const FLOODS: [(&str, u32, Flood, Option<u32>); 8] = [
    (
        "requests that are taken back at once",
        10_000,
        |n| [raw::request(2 * n + 1, JOIN), frame(kind::RST_STREAM, 0, 2 * n + 1, &[0, 0, 0, 8])].concat(),
        Some(code::ENHANCE_YOUR_CALM),
    ),
    (
        "headers without end",
        20_000,
        |n| match n {
            0 => frame(kind::HEADERS, 0, 1, &[0x83]),
            _ => frame(kind::CONTINUATION, 0, 1, &[0x83; 16 << 10]),
        },
        Some(code::PROTOCOL),
    ),
    (
        "headers without end or content",
        20_000,
        |n| match n {
            0 => frame(kind::HEADERS, 0, 1, &[0x83]),
            _ => frame(kind::CONTINUATION, 0, 1, &[]).repeat(1000),
        },
        Some(code::ENHANCE_YOUR_CALM),
    ),
    (
        "data without content",
        20_000,
        |n| match n {
            0 => raw::request(1, PUSH_LOGS),
            _ => frame(kind::DATA, 0, 1, &[]).repeat(1000),
        },
        Some(code::ENHANCE_YOUR_CALM),
    ),
    (
        "data over its window",
        20_000,
        |n| match n {
            0 => raw::request(1, JOIN),
            _ => frame(kind::DATA, 0, 1, &[0; 16 << 10]),
        },
        Some(code::FLOW_CONTROL),
    ),
    // These cost their sender as much, and are let be.
    ("more requests than may be open", 20_000, |n| raw::request(2 * n + 1, JOIN), None),
    ("frames of no known type", 20_000, |_| frame(99, 0, 0, &[0; 16 << 10]), None),
    ("pings", 1_000, |_| frame(kind::PING, 0, 0, &[7; 8]).repeat(1000), None),
];

#[tokio::test(flavor = "multi_thread")]
async fn floods_of_frames_cost_nobody_else_anything() {
    let scene = Scene::open().await;
    let callers = Callers::of(&scene).await;
    let before = memory::of_this_process();
    // Over TCP, with and without a certificate.
    for caller in callers.callers.iter().filter(|(endpoint, _)| matches!(endpoint, Endpoint::Tcp(_))) {
        for (what, times, flood, code) in FLOODS {
            let (mut read, mut write) = tokio::io::split(callers.dial(caller).await);
            let reading = tokio::spawn(async move { raw::end_of(&mut read).await });
            let flooding = async {
                write.write_all(&begun(&[])).await?;
                for n in 0..times {
                    write.write_all(&flood(n)).await?;
                }
                write.flush().await
            };
            let flooded = within(what, flooding).await;
            scene.serves().await;
            if code.is_some() {
                assert_eq!(within(what, reading).await.unwrap(), code, "{what}");
            } else {
                flooded.unwrap();
                reading.abort();
            }
            let grown = memory::of_this_process().saturating_sub(before);
            assert!(grown < MEMORY, "{what}: {grown} bytes");
        }
    }
    scene.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_who_falls_silent_is_hung_up_on_wherever_that_is() {
    if std::env::var_os("REQUIRE_PARTS").is_none() {
        return eprintln!("ignored: it takes as long as silence may; REQUIRE_PARTS=1 asks for it");
    }
    let scene = Scene::open().await;
    let callers = Callers::of(&scene).await;
    let half_request = [raw::request(1, JOIN), frame(kind::DATA, 0, 1, &[0, 0, 0, 1, 0])].concat();
    let cases = [
        ("before a word", vec![]),
        ("in the preface", PREFACE[..10].to_vec()),
        ("after the preface", PREFACE.to_vec()),
        ("in a frame", begun(&frame(kind::HEADERS, 4, 1, &[0; 5000])[..100])),
        ("in a request", begun(&half_request)),
    ];
    let mut silent = Vec::new();
    for caller in &callers.callers {
        for (what, bytes) in &cases {
            let mut wire = callers.dial(caller).await;
            wire.write_all(bytes).await.unwrap();
            wire.flush().await.unwrap();
            silent.push((*what, wire));
        }
    }
    scene.serves().await;
    for (what, mut wire) in silent {
        // None of them has made a request, so none has proved who it is: its time is over before
        // HTTP/2 would say anything.
        assert_eq!(within(what, raw::end_of(&mut wire)).await, None, "{what}");
    }
    scene.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_never_ends_does_not_keep_the_gateway_from_stopping() {
    let scene = Scene::open().await;
    let callers = Callers::of(&scene).await;
    let mut open = Vec::new();
    for caller in &callers.callers {
        let mut wire = callers.dial(caller).await;
        wire.write_all(&begun(&raw::request(1, JOIN))).await.unwrap();
        // It answers each time it is asked whether it is there.
        open.push(tokio::spawn(raw::stay(wire)));
    }
    scene.close().await;
    for wire in open {
        within("the end of its connection", wire).await.unwrap();
    }
}
