//! Lines that lose, and lines that are slow.

use std::time::{Duration, Instant};

use overseer::CallOptions;
use overseer_tests::namespaces::Fault;
use overseer_tests::{eventually, within};

use crate::scene::{HEARTBEAT, LABORS, LEASE, play};

#[test]
fn lines_that_lose_a_tenth_of_all_packets_lose_no_call_and_no_task() {
    // Of what is lost some is lost twice, and a sender then waits for long.
    let silence = Duration::from_secs(3);
    let options = move |b: overseer_tests::Built<overseer::Quiet>| {
        b.heartbeat(HEARTBEAT).silence(silence).grace(LEASE).lease(LEASE * 2)
    };
    play(options, async |scene| {
        for labor in &scene.labors {
            scene.seats.harm(labor.id(), Fault::Loss(10));
        }
        for _ in 0..5 {
            scene.work_goes_on().await;
        }
        for labor in &scene.labors {
            scene.seats.heal(labor.id());
        }
        scene.ends_well().await;
    });
}

#[test]
fn heartbeats_and_telemetry_pass_beside_a_payload_that_fills_a_slow_line() {
    /// Kilobits a second: so many bytes take twice as long as a labor may be silent.
    const RATE: u32 = 8_000;
    const SILENCE: Duration = Duration::from_secs(2);
    const BYTES: usize = 4_000_000;
    let options = |b: overseer_tests::Built<overseer::Quiet>| {
        b.heartbeat(HEARTBEAT).silence(SILENCE).grace(Duration::from_secs(5)).lease(Duration::from_secs(4))
    };
    play(options, async |scene| {
        let slow = scene.labors[0].clone();
        let life = slow.status().generation;
        scene.seats.harm(slow.id(), Fault::Slow(RATE));
        let begun = Instant::now();
        let payload = vec![b'x'; BYTES];
        let options = CallOptions::default().run(Duration::from_secs(60));
        let call = slow.call_bytes("echo", payload, options);
        let mut telemetry = scene.fleet.telemetry();
        let meanwhile = async {
            let mut events = 0u64;
            loop {
                let called =
                    tokio::time::timeout(Duration::from_secs(30), slow.call::<_, ()>("tick", &events));
                called.await.expect("a small call is answered beside the large one").unwrap();
                events += 1;
            }
        };
        let mut heard = 0u32;
        let listening = async {
            while let Some(batch) = telemetry.next().await {
                heard += u32::from(batch.labor == slow.id());
            }
        };
        let answer = tokio::select! {
            answer = within("the large call", call) => answer.unwrap(),
            () = meanwhile => unreachable!(),
            () = listening => panic!("the telemetry has ended"),
        };
        let took = begun.elapsed();
        println!(
            "{BYTES} bytes there and back in {} ms, {heard} batches of telemetry beside",
            took.as_millis()
        );
        assert_eq!(answer.len(), BYTES);
        assert!(took > SILENCE, "the line was not slow: {took:?}");
        assert!(heard >= 5, "telemetry waited for the payload: {heard} batches in {took:?}");
        let history = slow.history();
        let lost = history.iter().any(|entry| entry.state == overseer::LaborState::Lost);
        assert!(!lost && slow.status().generation == life, "heartbeats waited for the payload: {history:?}");
        scene.seats.heal(slow.id());
        eventually("all labors are ready", async || {
            (scene.fleet.count_children().await.unwrap().ready == LABORS).then_some(())
        })
        .await;
        scene.ends_well().await;
    });
}
