//! Invitations: a machine that somebody owns joins the fleet by hand. The library makes the
//! document; the machine's agent does the rest.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::ops::RangeInclusive;
use std::time::{Duration, SystemTime};

use overseer_protocol::{
    BootPhase, Bootstrap, BootstrapError, Cause, Endpoint, Generation, JoinToken, LaborState, Secret,
};

use super::Stopped;
use super::nodes::{Claiming, Nodes};
use crate::clock;
use crate::core::{AtCapacity, Event, Life};
use crate::labor::{EndedEarly, Labor};
use crate::store::{StoreError, Transaction};

/// How long an invitation may be good.
pub const INVITATION_TTL: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(7 * 86_400);

/// A place in a fleet for one machine, which joins with the document: see
/// [`FleetHandle::invite`](super::FleetHandle::invite).
#[derive(Debug, Clone)]
pub struct Invitation {
    /// As whom the machine joins.
    pub labor: Labor,
    /// For its agent. Whoever has it may join, once.
    pub document: Secret<Bootstrap>,
    /// Until when it may join.
    pub until: SystemTime,
}

impl Invitation {
    /// The document as one line of text, for `overseer labor join`.
    ///
    /// # Errors
    /// [`BootstrapError::TooLarge`].
    pub fn token(&self) -> Result<Secret<String>, BootstrapError> {
        JoinToken { bootstrap: self.document.expose().clone(), until: self.until }.encode()
    }
}

/// Why nobody was invited.
#[derive(Debug, Clone, thiserror::Error)]
pub enum InviteError {
    /// Other machines cannot call.
    #[error(
        "labors on other machines cannot call this Overseer, which listens on no TCP port; set listen = \"0.0.0.0:7400\" in [server] and start it again (in a program: ControlPlaneBuilder::listen)"
    )]
    NoListener,
    /// Where they would call is not known.
    #[error(
        "the Overseer listens on every address of its machine, and none of them is known to be reachable; name one that the other machine can reach, with --address HOST:PORT"
    )]
    NoAddress,
    /// An address that nobody can call.
    #[error("{0:?} is no address to call; write it as HOST:PORT")]
    BadAddress(String),
    /// Too short or too long.
    #[error("an invitation cannot be good for {0:?}; give it at least a second and at most 7 days")]
    Ttl(Duration),
    /// The document would be too large.
    #[error(
        "the document has more than {0} bytes; give the fleet a smaller environment or fewer trusted keys"
    )]
    TooLarge(usize),
    /// Every slot is taken.
    #[error(transparent)]
    AtCapacity(#[from] AtCapacity),
    /// It was ended before it could be given away.
    #[error(transparent)]
    Ended(#[from] EndedEarly),
    /// It could not be stored.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The fleet has stopped.
    #[error(transparent)]
    Stopped(#[from] Stopped),
}

impl InviteError {
    /// Stable code, as ERRORS.md lists it.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NoListener => "fleet.invite_no_listener",
            Self::NoAddress => "fleet.invite_no_address",
            Self::BadAddress(_) => "fleet.invite_bad_address",
            Self::Ttl(_) => "fleet.invite_ttl",
            Self::TooLarge(_) => "fleet.invite_too_large",
            Self::AtCapacity(error) => error.code(),
            Self::Ended(error) => error.code(),
            Self::Store(error) => error.code(),
            Self::Stopped(error) => error.code(),
        }
    }
}

/// What somebody asks for.
pub(crate) struct Invite {
    pub(crate) ttl: Duration,
    /// Where the machine is to call; where the Overseer listens, if none is said.
    pub(crate) addresses: Vec<String>,
}

impl Nodes {
    /// Where the machine is to call.
    pub(crate) fn endpoints_for(&self, invite: &Invite) -> Result<Vec<Endpoint>, InviteError> {
        if !INVITATION_TTL.contains(&invite.ttl) {
            return Err(InviteError::Ttl(invite.ttl));
        }
        let listens = self.plane.endpoints().iter().find_map(|endpoint| match endpoint {
            Endpoint::Tcp(address) => address.parse().ok(),
            Endpoint::Unix(_) => None,
        });
        let listens: SocketAddr = listens.ok_or(InviteError::NoListener)?;
        if invite.addresses.is_empty() {
            let address = reachable(listens).ok_or(InviteError::NoAddress)?;
            return Ok(vec![Endpoint::Tcp(address.to_string())]);
        }
        let read = |text: &String| match text.rsplit_once(':').map(|(host, port)| (host, port.parse::<u16>()))
        {
            Some((host, Ok(1..))) if is_host(host) => Ok(Endpoint::Tcp(text.clone())),
            _ => Err(InviteError::BadAddress(text.chars().take(64).collect())),
        };
        invite.addresses.iter().map(read).collect()
    }

    /// Stores the invitation of a labor that has its slot; then its document may be given away. Its
    /// slot is given back where that fails.
    pub(crate) async fn invite(
        &self,
        labor: Labor,
        ttl: Duration,
        endpoints: Vec<Endpoint>,
    ) -> Result<Invitation, InviteError> {
        let life = Life { labor: labor.id(), generation: Generation::FIRST };
        let invited = self.store_invitation(life, labor, ttl, endpoints).await;
        if let Err(error) = &invited {
            let reason = format!("the invitation could not be made: {error}");
            let cause = Cause::BootFailed { phase: BootPhase::Provision, reason };
            self.report(Event::Terminate(life.labor, cause));
        }
        invited
    }

    async fn store_invitation(
        &self,
        life: Life,
        labor: Labor,
        ttl: Duration,
        endpoints: Vec<Endpoint>,
    ) -> Result<Invitation, InviteError> {
        // What ends this life from here on is written after its intent.
        let _writing = self.records.hold().await;
        let now = clock::now();
        let until = now + ttl;
        let claiming = Claiming { valid: ttl, now, state: LaborState::Booting, invited: true };
        let (operations, claim) = self.claim(life, &claiming);
        if self.shared.present(life.labor, life.generation).is_none() {
            self.records.forget(life.labor);
            let cause = labor.status().cause.unwrap_or(Cause::Asked);
            return Err(EndedEarly { labor: life.labor, cause }.into());
        }
        let document = self.document(claim, endpoints);
        if let Err(BootstrapError::TooLarge(_)) = document.to_json() {
            return Err(InviteError::TooLarge(overseer_protocol::MAX_BOOTSTRAP_BYTES));
        }
        self.plane.store().transact(Transaction { compares: vec![], operations: operations.into() }).await?;
        Ok(Invitation { labor, document: Secret::new(document), until })
    }
}

/// A name or an address, the one of IPv6 in brackets.
fn is_host(text: &str) -> bool {
    match text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(address) => address.parse::<Ipv6Addr>().is_ok(),
        None => {
            !text.is_empty()
                && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
        }
    }
}

/// The address as others see it: of one that listens on all, that from which this machine would
/// call others. Nothing is sent.
fn reachable(listens: SocketAddr) -> Option<SocketAddr> {
    if !listens.ip().is_unspecified() {
        return Some(listens);
    }
    // Addresses for documentation, which nobody has.
    let v4 = (IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)));
    let v6 = (IpAddr::V6(Ipv6Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)));
    // `[::]` takes IPv4 too.
    let families = if listens.is_ipv4() { &[v4][..] } else { &[v6, v4] };
    families.iter().find_map(|(own, far)| {
        let socket = UdpSocket::bind((*own, 0)).ok()?;
        socket.connect((*far, 9)).ok()?;
        let ip = socket.local_addr().ok()?.ip();
        (!ip.is_unspecified() && !ip.is_loopback()).then(|| SocketAddr::new(ip, listens.port()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_a_name_or_an_address_and_nothing_around_it() {
        for good in ["build.example.org", "10.0.0.5", "[2001:db8::1]", "my_host-1"] {
            assert!(is_host(good), "{good}");
        }
        for bad in ["", "https://host", "user@host", "2001:db8::1", "[host]", "[::1", "a b", "host/path"] {
            assert!(!is_host(bad), "{bad}");
        }
    }

    #[test]
    fn an_address_that_was_chosen_is_the_one_and_all_addresses_are_none() {
        let chosen: SocketAddr = "127.0.0.1:7400".parse().unwrap();
        assert_eq!(reachable(chosen), Some(chosen));
        for all in ["0.0.0.0:7400", "[::]:7400"] {
            // A machine may have no way to others.
            if let Some(address) = reachable(all.parse().unwrap()) {
                assert!(!address.ip().is_unspecified() && address.port() == 7400, "{address}");
            }
        }
    }
}
