//! Results far over what may travel.

use overseer::{CallError, CallErrorCode, CallOptions};
use overseer_tests::{TestFleet, probes, within};

#[tokio::test(flavor = "multi_thread")]
async fn a_result_of_a_gibibyte_costs_its_call_and_nothing_else() {
    let (fleet, labor) = TestFleet::with_one(probes!()).await;
    let host: u32 = labor.call("pid", &()).await.unwrap();
    let bytes = 1usize << 30;
    match within("an answer", labor.call_bytes("big", bytes.to_string(), CallOptions::default())).await {
        Err(CallError::Answered { code: CallErrorCode::TooLarge, message, .. }) => {
            assert!(message.contains(&bytes.to_string()) && message.contains("blob"), "{message}");
        }
        other => panic!("{:?}", other.map(|bytes| bytes.len())),
    }
    // The memory was the plugin host's own, which is as it was.
    assert_eq!(labor.call::<_, u32>("pid", &()).await.unwrap(), host);
    assert_eq!(labor.status().generation.0, 1);
    fleet.end().await;
}
