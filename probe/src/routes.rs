//! Which address families this host has a route for, found without sending anything: connecting a UDP socket only asks
//! the routing table for the way and for the address to send from.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use preflight_core::observation::Routes;

/// Whether the routing table has a way to `address`, and this host an address to send from. Where that cannot be asked for
/// want of a descriptor or a port it is taken to be so: a route that is missing would be held against the target.
pub(crate) fn reaches(address: SocketAddr) -> bool {
    let any: SocketAddr =
        if address.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
    let asked = UdpSocket::bind(any).and_then(|socket| socket.connect(address));
    let unable = [Errno::EMFILE, Errno::ENFILE, Errno::ENOMEM, Errno::ENOBUFS, Errno::EADDRINUSE, Errno::EAGAIN];
    asked.map_or_else(
        |error| error.raw_os_error().is_some_and(|code| unable.contains(&Errno::from_raw(code))),
        |()| true,
    )
}

/// The host's routes, asked at most once a second however many probes run.
#[derive(Debug, Default)]
pub(crate) struct RouteTable {
    last: Mutex<Option<(Instant, Routes)>>,
}

impl RouteTable {
    const FRESH: Duration = Duration::from_secs(1);

    /// The families of which there is a way to the world at large, or to one of `targets`, each with whether it was
    /// connected to, which shows the way without being asked.
    pub(crate) fn routes(&self, targets: &[(SocketAddr, bool)]) -> Routes {
        let general = self.general();
        let to_target = |v6: bool| {
            let mut of_family = targets.iter().filter(|(a, _)| a.is_ipv6() == v6);
            of_family.clone().any(|(_, connected)| *connected) || of_family.any(|(a, _)| reaches(*a))
        };
        Routes { ipv4: general.ipv4 || to_target(false), ipv6: general.ipv6 || to_target(true) }
    }

    /// Addresses of the documentation (RFC 5737, RFC 3849), which only a default route leads to.
    fn general(&self) -> Routes {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, routes)) = *last
            && at.elapsed() < Self::FRESH
        {
            return routes;
        }
        let routes = Routes {
            ipv4: reaches((Ipv4Addr::new(192, 0, 2, 1), 9).into()),
            ipv6: reaches((Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1), 9).into()),
        };
        *last = Some((Instant::now(), routes));
        routes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_a_way_to_its_own_family_only() {
        assert!(reaches("127.0.0.1:1".parse().unwrap()));
        let routes = RouteTable::default().routes(&[("127.0.0.1:1".parse().unwrap(), false)]);
        assert!(routes.ipv4);
    }
}
