//! The metrics of a server, as a real Prometheus reads them.
#![allow(clippy::unwrap_used)]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use overseer_tests::prometheus::{self, Prometheus, get};
use overseer_tests::served::Served;
use overseer_tests::{PATIENCE, eventually};

async fn start(test: &str) -> (Served, SocketAddr) {
    let program = env!("CARGO_BIN_EXE_test_overseer");
    let served = Served::start(program, test, "metrics = \"127.0.0.1:0\"", "").await;
    let status: serde_json::Value = serde_json::from_str(&served.ask(["status", "--json"])).unwrap();
    let address = status["metrics"].as_str().unwrap().parse().unwrap();
    (served, address)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prometheus_reads_what_a_server_does() {
    if !Prometheus::is_there() {
        return;
    }
    let (served, address) = start("prom").await;
    let prometheus = Prometheus::reading(address).await;
    for n in 0..3 {
        assert_eq!(served.ask(["call", &served.fleet, "echo", &n.to_string()]), format!("{n}\n"));
    }
    let calls = format!("overseer_calls_total{{fleet=\"{}\",outcome=\"ok\"}}", served.fleet);
    let samples = prometheus.until(&calls, |samples| samples.iter().any(|(_, value)| *value == 3.0)).await;
    assert_eq!(samples[0].0["job"], "tested");
    let ready = format!("overseer_labors{{fleet=\"{}\",state=\"ready\"}}", served.fleet);
    prometheus.until(&ready, |samples| samples.iter().any(|(_, value)| *value == 1.0)).await;
    // A histogram is one that it can compute with.
    let quantile = "histogram_quantile(0.5, overseer_call_seconds_bucket)";
    let samples = prometheus.until(quantile, |samples| samples.iter().any(|(_, v)| v.is_finite())).await;
    assert!(samples[0].1 > 0.0 && samples[0].1 < PATIENCE.as_secs_f64(), "{samples:?}");
    let up = prometheus.until("up", |samples| !samples.is_empty()).await;
    assert_eq!(up[0].1, 1.0, "{}", prometheus.log());
    prometheus::check(&served.ask(["status", "--metrics"]));
    let (_, text) = get(address, "/metrics", "text/plain").unwrap();
    prometheus::check(&text);
    drop(prometheus);
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_for_anything_else_or_never_ends_gets_no_further() {
    let (served, address) = start("http").await;
    let (head, body) = get(address, "/metrics", "application/openmetrics-text; version=1.0.0").unwrap();
    assert!(head.contains(" 200 ") && head.contains("application/openmetrics-text"), "{head}");
    assert!(body.ends_with("# EOF\n"));
    let (head, body) = get(address, "/metrics", "").unwrap();
    assert!(head.contains("text/plain; version=0.0.4"), "{head}");
    assert!(body.contains("# TYPE overseer_calls_total counter\n"));
    assert!(get(address, "/", "").unwrap().0.contains(" 404 "));
    let mut post = TcpStream::connect(address).unwrap();
    post.write_all(b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n").unwrap();
    let mut answer = String::new();
    post.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 405 "), "{answer}");
    // As many as may be say nothing; others are sent away, until those have had their time.
    let silent: Vec<TcpStream> = (0..16).map(|_| TcpStream::connect(address).unwrap()).collect();
    eventually("one more is sent away", async || {
        let answer = get(address, "/metrics", "");
        answer.is_none().then_some(())
    })
    .await;
    eventually("the silent ones are sent away", async || get(address, "/metrics", "").map(drop)).await;
    drop(silent);
    served.stop().await;
}
