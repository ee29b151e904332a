//! So many calls open at a time: how many are answered in a second.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use overseer::{BoxError, CallOptions, Labor};
use overseer_protocol::proto::RenewRequest;
use overseer_protocol::proto::session_client::SessionClient;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use super::{PAYLOAD, message};

/// One sample is the rate over such a time.
const SLICE: Duration = Duration::from_millis(100);
const SLICES: usize = 20;

/// Answers a second through Overseer, agent and plugin host.
pub(super) async fn ours(labor: &Labor, open: usize) -> Result<Vec<f64>, BoxError> {
    let labor = labor.clone();
    let call = move || {
        let labor = labor.clone();
        async move {
            labor.call_bytes("echo", &PAYLOAD[..], CallOptions::default()).await?;
            Ok(())
        }
    };
    callers(open, call).await
}

/// Answers a second of tonic's unary calls.
pub(super) async fn unary(client: &SessionClient<Channel>, open: usize) -> Result<Vec<f64>, BoxError> {
    let client = client.clone();
    let call = move || {
        let mut client = client.clone();
        async move {
            client.renew(RenewRequest { csr: PAYLOAD[..].into() }).await?;
            Ok(())
        }
    };
    callers(open, call).await
}

/// Answers a second of one bidirectional stream of tonic's.
pub(super) async fn stream(client: &SessionClient<Channel>, open: usize) -> Result<Vec<f64>, BoxError> {
    let (send, receive) = mpsc::channel(open);
    let mut answers = client.clone().attach(ReceiverStream::new(receive)).await?.into_inner();
    for id in 0..open as u64 {
        send.send(message(id)).await?;
    }
    let answered = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&answered);
    let echo = tokio::spawn(async move {
        while let Ok(Some(answer)) = answers.message().await {
            for _ in &answer.orders {
                let id = count.fetch_add(1, Ordering::Relaxed);
                if send.send(message(id)).await.is_err() {
                    return;
                }
            }
        }
    });
    let samples = slices(&answered).await;
    echo.abort();
    Ok(samples)
}

/// So many callers, each with one call open at a time.
async fn callers<C, F>(open: usize, call: C) -> Result<Vec<f64>, BoxError>
where
    C: Fn() -> F + Clone + Send + 'static,
    F: Future<Output = Result<(), BoxError>> + Send,
{
    let answered = Arc::new(AtomicU64::new(0));
    let done = Arc::new(AtomicBool::new(false));
    let mut tasks = JoinSet::new();
    for _ in 0..open {
        let (call, answered, done) = (call.clone(), Arc::clone(&answered), Arc::clone(&done));
        tasks.spawn(async move {
            while !done.load(Ordering::Relaxed) {
                call().await?;
                answered.fetch_add(1, Ordering::Relaxed);
            }
            Ok::<(), BoxError>(())
        });
    }
    let samples = slices(&answered).await;
    done.store(true, Ordering::Relaxed);
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    Ok(samples)
}

/// The rate at which a count grows, in each slice but the first.
async fn slices(count: &AtomicU64) -> Vec<f64> {
    let mut every = tokio::time::interval(SLICE);
    let mut samples = Vec::with_capacity(SLICES);
    every.tick().await;
    let (mut before, mut at) = (count.load(Ordering::Relaxed), Instant::now());
    for number in 0..=SLICES {
        every.tick().await;
        let (now, time) = (count.load(Ordering::Relaxed), Instant::now());
        if number > 0 {
            samples.push((now - before) as f64 / (time - at).as_secs_f64());
        }
        (before, at) = (now, time);
    }
    samples
}
