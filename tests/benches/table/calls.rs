//! Warm calls through Overseer, agent and plugin host, one at a time and pipelined, beside tonic
//! alone.

mod over_tcp;
mod pipelined;

use std::time::{Duration, Instant};

use overseer::local::Local;
use overseer::{BoxError, CallOptions, Labor};
use overseer_protocol::proto::session_client::SessionClient;
use overseer_protocol::proto::{CallResult, RenewRequest, Report, ToOverseer, call_result, report};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use self::over_tcp::OverTcp;
use crate::bench::{Bench, ready};
use crate::floor::Floor;
use crate::row::{Against, Row, Unit, millis};

/// Bytes there and back.
const PAYLOAD: [u8; 64] = [b'o'; 64];
const CALLS: usize = 5000;
const WARM: usize = 500;
const SPIN: Duration = Duration::from_micros(50);

pub(crate) async fn rows(bench: &Bench) -> Result<Vec<Row>, BoxError> {
    let floor = Floor::start(bench).await?;
    let fleet = bench.fleet(Local::new()).await?;
    let tcp_fleet = bench.fleet(OverTcp(Local::new())).await?;
    let unix = ready(&fleet, 1).await?.remove(0);
    let tcp = ready(&tcp_fleet, 1).await?.remove(0);

    let mut rows = Vec::new();
    let ms = Unit::Milliseconds;
    let stream = Against::measured("stream", ms, in_a_task(stream_one_at_a_time(floor.unix.clone())).await?);
    let unary = Against::measured("unary", ms, in_a_task(unary_one_at_a_time(floor.unix.clone())).await?);
    let ours = in_a_task(one_at_a_time(unix.clone())).await?;
    rows.push(Row::new("call, unix socket", ms, ours.clone()).against(unary).goal(0.09));
    rows.push(Row::new("call, unix socket", ms, ours).against(stream.clone()).goal(0.09));
    let spins = bench.small(Local::new()).spin(SPIN).start().await?;
    let ours = in_a_task(one_at_a_time(ready(&spins, 1).await?.remove(0))).await?;
    rows.push(Row::new("call, unix, 50 µs spin", ms, ours).against(stream).goal(0.05));
    spins.stop().await;
    let stream = Against::measured("stream", ms, in_a_task(stream_one_at_a_time(floor.tcp.clone())).await?);
    let unary = Against::measured("unary", ms, in_a_task(unary_one_at_a_time(floor.tcp.clone())).await?);
    let ours = in_a_task(one_at_a_time(tcp.clone())).await?;
    rows.push(Row::new("call, TCP", ms, ours.clone()).against(unary).goal(0.15));
    rows.push(Row::new("call, TCP", ms, ours).against(stream).goal(0.15));

    let rate = Unit::PerSecond;
    let ours = pipelined::ours(&unix, 64).await?;
    let unary = Against::measured("unary", rate, pipelined::unary(&floor.unix, 64).await?);
    let stream = Against::measured("stream", rate, pipelined::stream(&floor.unix, 64).await?);
    rows.push(Row::new("calls, 64 open", rate, ours.clone()).against(unary).goal(300e3));
    rows.push(Row::new("calls, 64 open", rate, ours).against(stream).goal(300e3));
    let ours = pipelined::ours(&unix, 256).await?;
    let unary = Against::measured("unary", rate, pipelined::unary(&floor.unix, 256).await?);
    rows.push(Row::new("calls, 256 open", rate, ours).against(unary).goal(300e3));
    let ours = pipelined::ours(&tcp, 64).await?;
    let unary = Against::measured("unary", rate, pipelined::unary(&floor.tcp, 64).await?);
    rows.push(Row::new("calls, 64 open, TCP", rate, ours).against(unary));

    fleet.stop().await;
    tcp_fleet.stop().await;
    floor.stop().await?;
    Ok(rows)
}

/// As programs call: from a worker of the runtime, not from the thread that waits for `main`.
async fn in_a_task(
    samples: impl Future<Output = Result<Vec<f64>, BoxError>> + Send + 'static,
) -> Result<Vec<f64>, BoxError> {
    tokio::spawn(samples).await?
}

/// Milliseconds of each call.
async fn one_at_a_time(labor: Labor) -> Result<Vec<f64>, BoxError> {
    let mut samples = Vec::with_capacity(CALLS);
    for number in 0..WARM + CALLS {
        let start = Instant::now();
        let answer = labor.call_bytes("echo", &PAYLOAD[..], CallOptions::default()).await?;
        if number >= WARM {
            samples.push(millis(start.elapsed()));
        }
        assert_eq!(answer, PAYLOAD[..]);
    }
    Ok(samples)
}

async fn unary_one_at_a_time(mut client: SessionClient<Channel>) -> Result<Vec<f64>, BoxError> {
    let mut samples = Vec::with_capacity(CALLS);
    for number in 0..WARM + CALLS {
        let start = Instant::now();
        let answer = client.renew(RenewRequest { csr: PAYLOAD[..].into() }).await?.into_inner();
        if number >= WARM {
            samples.push(millis(start.elapsed()));
        }
        assert_eq!(answer.certificate.as_bytes(), PAYLOAD);
    }
    Ok(samples)
}

async fn stream_one_at_a_time(mut client: SessionClient<Channel>) -> Result<Vec<f64>, BoxError> {
    let (send, receive) = mpsc::channel(1);
    let mut answers = client.attach(ReceiverStream::new(receive)).await?.into_inner();
    let mut samples = Vec::with_capacity(CALLS);
    for number in 0..WARM + CALLS {
        let start = Instant::now();
        send.send(message(number as u64)).await?;
        let answer = answers.message().await?.ok_or("the floor ended")?;
        if number >= WARM {
            samples.push(millis(start.elapsed()));
        }
        assert_eq!(answer.orders.len(), 1);
    }
    Ok(samples)
}

fn message(id: u64) -> ToOverseer {
    let outcome = Some(call_result::Outcome::Ok(PAYLOAD[..].into()));
    ToOverseer {
        reports: vec![Report {
            kind: Some(report::Kind::Result(CallResult { id, outcome, ..Default::default() })),
        }],
    }
}
