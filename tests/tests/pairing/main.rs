//! Those who call at the gateway and should not: each is refused and written down, and the fleet
//! goes on serving.
#![allow(clippy::unwrap_used)]

mod certificates;
mod claims;
mod floods;
mod garbage;
mod http2;
mod oversize;
mod requests;
mod rotation;
mod scene;
mod strangers;
