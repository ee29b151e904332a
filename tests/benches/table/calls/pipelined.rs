//! So many calls open at a time: how many are answered in a second.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use overseer::{BoxError, CallOptions, Labor};
use overseer_protocol::proto::RenewRequest;
use overseer_protocol::proto::session_client::SessionClient;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use super::{PAYLOAD, message};
use crate::callers::{rates, slices};

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
    rates(open, call).await
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
    rates(open, call).await
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
