//! A real Prometheus reads what the plugins of the example measure.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use overseer_tests::prometheus::{self, Prometheus, get};

/// The example, which ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Its labors end with it.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_plugins_measure_is_in_prometheus() {
    if !Prometheus::is_there() {
        return;
    }
    let mut example = Command::new(env!("CARGO_BIN_EXE_telemetry_to_prometheus"));
    let mut example = Running(example.stdout(Stdio::piped()).spawn().unwrap());
    let mut line = String::new();
    BufReader::new(example.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let address = line.trim().strip_prefix("http://").and_then(|rest| rest.strip_suffix("/metrics"));
    let address: SocketAddr = address.unwrap_or_else(|| panic!("{line:?}")).parse().unwrap();

    let prometheus = Prometheus::reading(address).await;
    let hot = "plugin_kiln_celsius{fleet=\"kilns\"} >= 900";
    let samples = prometheus.until(hot, |samples| samples.len() == 2).await;
    let degrees: BTreeSet<u64> = samples.iter().map(|(_, celsius)| *celsius as u64).collect();
    assert_eq!(degrees, BTreeSet::from([900, 901]));
    let labors: BTreeSet<&str> = samples.iter().map(|(labels, _)| labels["labor"].as_str()).collect();
    assert_eq!(labors.len(), 2, "{samples:?}");
    // And what the Overseer says of itself.
    let ready = "overseer_labors{fleet=\"kilns\",state=\"ready\"}";
    prometheus.until(ready, |samples| samples.iter().any(|(_, labors)| *labors == 2.0)).await;
    let (_, text) = get(address, "/metrics", "text/plain").unwrap();
    prometheus::check(&text);
}
