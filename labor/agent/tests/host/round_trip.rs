use std::time::{Duration, Instant};

use overseer_labor::host::HostOutput;

use crate::harness::{probe, start};

/// Run it by `cargo test --release -p overseer-labor --test host -- --ignored --nocapture warm`.
#[tokio::test]
#[ignore = "a measurement"]
async fn a_warm_call_takes() {
    let mut probe = start(probe(), &[]).await;
    let payload = vec![7; 64];
    let mut times: Vec<Duration> = Vec::new();
    for _ in 0..20_000 {
        let begun = Instant::now();
        probe.call("echo", payload.clone()).await.unwrap();
        times.push(begun.elapsed());
    }
    times.sort_unstable();
    let at = |permille: usize| times[times.len() * permille / 1000].as_nanos() as f64 / 1000.0;
    println!("warm 64-byte echo: median {:.1} us, p90 {:.1}, p99 {:.1}", at(500), at(900), at(990));

    let (window, count) = (64, 200_000);
    let begun = Instant::now();
    for _ in 0..window {
        probe.send("echo", payload.clone());
    }
    for done in 0..count {
        probe.wait_for(|output| matches!(output, HostOutput::Result { .. }).then_some(())).await;
        if done + window < count {
            probe.send("echo", payload.clone());
        }
    }
    let rate = f64::from(count) / begun.elapsed().as_secs_f64();
    println!("window of {window}: {rate:.0} calls/s");
}
