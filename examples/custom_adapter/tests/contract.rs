//! The rack does what is asked of every adapter.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use custom_adapter::Rack;
use overseer::adapter::contract::{self, Subject};

#[tokio::test]
async fn the_rack_keeps_the_contract_of_adapters() {
    contract::run(async || {
        let room = tempfile::tempdir().unwrap();
        let rack = Rack::new(room.path().to_owned(), env!("CARGO_BIN_EXE_custom_adapter").into(), 3);
        // A machine is given its directory by the rack.
        Subject { adapter: Arc::new(rack), kill: None, room: Some(3), directory: None, keep: Box::new(room) }
    })
    .await;
}
