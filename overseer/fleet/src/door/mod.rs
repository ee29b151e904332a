//! Callers at a listener who have not proved who they are: bounded in number and in time, and told
//! to wait when too many of them fail. Those who have proved it pay nothing for the others.

mod entrance;
mod failures;
mod guarded;

use std::net::IpAddr;

pub use self::entrance::Entrance;
pub use self::failures::{Allowance, FailureLimits, Failures};
pub use self::guarded::{Bounds, Door, Guarded, Place, Placed};

/// Where a caller calls from, as far as callers are told from each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Source {
    /// This machine: a unix socket or a loopback address.
    Here,
    /// An IPv4 address.
    V4([u8; 4]),
    /// A network of IPv6, its first 64 bits: one host has all addresses of its network.
    V6([u8; 8]),
}

impl Source {
    /// Of an address.
    pub fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            address if address.is_loopback() => Self::Here,
            IpAddr::V4(address) => Self::V4(address.octets()),
            IpAddr::V6(address) => {
                let [a, b, c, d, e, f, g, h, ..] = address.octets();
                Self::V6([a, b, c, d, e, f, g, h])
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_one_host_can_take_are_one_source() {
        let of = |text: &str| Source::of(text.parse().unwrap());
        assert_eq!(of("127.0.0.9"), Source::Here);
        assert_eq!(of("::1"), Source::Here);
        assert_eq!(of("::ffff:10.0.0.1"), of("10.0.0.1"));
        assert_ne!(of("10.0.0.1"), of("10.0.0.2"));
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:1"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
    }
}
