//! How many allocations another program of these tests has made.

use std::io::{Read, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};

/// Where a process tells it.
fn address(pid: u32) -> SocketAddr {
    SocketAddr::from_abstract_name(format!("overseer-tests-allocations-{pid}")).expect("a short name")
}

/// Tells it whoever asks, from a thread of its own, for as long as this process lives.
///
/// # Panics
/// Where nobody can ask.
pub fn tell(count: impl Fn() -> u64 + Send + 'static) {
    let listener = UnixListener::bind_addr(&address(std::process::id())).expect("the name is ours");
    std::thread::spawn(move || {
        for mut asks in listener.incoming().flatten() {
            // Who has gone does not want to know.
            let _ = asks.write_all(&count().to_le_bytes());
        }
    });
}

/// How many a process has made by now.
///
/// # Panics
/// Where it does not tell.
pub fn of(pid: u32) -> u64 {
    let mut count = [0; 8];
    let mut asks = UnixStream::connect_addr(&address(pid)).expect("it tells");
    asks.read_exact(&mut count).expect("a count");
    u64::from_le_bytes(count)
}
