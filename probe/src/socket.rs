//! One TCP connect on a socket of its own, with the error queue that tells why the network refused it.
//!
//! `TcpStream::connect` drops the socket together with its error queue, and only the queue tells a router's "administratively
//! prohibited" from a host that cannot be reached: both are `EHOSTUNREACH` (`icmp_err_convert` in Linux's `net/ipv4/icmp.c`).

use std::io::IoSliceMut;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::task::{Context, Poll, ready};

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockType, SockaddrStorage, bind, connect, getsockopt,
    recvmsg, setsockopt, socket, sockopt,
};
use preflight_core::observation::Outcome;
use preflight_core::reason::{Short, Void};
use preflight_core::text;
use tokio::net::TcpStream;

use crate::failure::Failure;
use crate::routes;

/// How one attempt ended other than connected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The kernel gave up waiting: silence.
    Silent,
    /// An answer, or an error of this host.
    Failed(Failure),
}

/// A connect that is under way. Dropped while it has no answer, it leaves no trace: a socket in `SYN_SENT` closes without a
/// packet, and a SYN-ACK that comes later is answered by the kernel with a reset, of which the server's application learns
/// nothing. Once the kernel has completed it ([`Opening::is_connected`]), the server may have seen a client.
#[derive(Debug)]
pub(crate) struct Opening {
    stream: TcpStream,
}

impl Opening {
    /// Sends the SYN: from a fresh source port, or from this very address and port.
    pub(crate) fn start(address: SocketAddr, from: Option<SocketAddr>) -> Result<Self, Refusal> {
        let stream = TcpStream::from_std(send_syn(address, from)?.into()).map_err(|error| local(&error))?;
        Ok(Self { stream })
    }

    /// The address and port that it is sent from.
    pub(crate) fn local(&self) -> Option<SocketAddr> {
        self.stream.local_addr().ok()
    }

    /// Whether the kernel has completed it, asked at this moment and not of what was polled last.
    pub(crate) fn is_connected(&self) -> bool {
        self.stream.peer_addr().is_ok()
    }

    /// The connection, once it is ready.
    pub(crate) fn into_stream(self) -> TcpStream {
        self.stream
    }

    /// How it ends. The address is the one that it goes to.
    pub(crate) fn poll(&self, cx: &mut Context<'_>, address: SocketAddr) -> Poll<Result<(), Refusal>> {
        ready!(self.stream.poll_write_ready(cx)).map_err(|error| local(&error))?;
        Poll::Ready(self.ended(address))
    }

    /// How it ended, if it has: the kernel is asked at this moment, whatever the runtime has heard of so far.
    pub(crate) fn look(&self, address: SocketAddr) -> Option<Result<(), Refusal>> {
        let mut asked = [PollFd::new(self.stream.as_fd(), PollFlags::POLLOUT)];
        match nix::poll::poll(&mut asked, PollTimeout::ZERO) {
            Ok(0) | Err(Errno::EINTR) => None,
            Ok(_) => Some(self.ended(address)),
            Err(errno) => Some(Err(refusal(errno, None, address))),
        }
    }

    fn ended(&self, address: SocketAddr) -> Result<(), Refusal> {
        match getsockopt(&self.stream, sockopt::SocketError) {
            // Having no error is not yet being connected, and nothing is a pass that only looks like one.
            Ok(0) if self.is_connected() => Ok(()),
            Ok(0) => Err(refusal(Errno::ENOTCONN, icmp(&self.stream), address)),
            Ok(error) => Err(refusal(Errno::from_raw(error), icmp(&self.stream), address)),
            Err(errno) => Err(refusal(errno, None, address)),
        }
    }
}

fn local(error: &std::io::Error) -> Refusal {
    Refusal::Failed(Failure::void(Void::LocalResources, error.to_string()))
}

/// Makes it anybody's connection, to speak on: with the error queue on, a stray ICMP message would be fatal to it; and where
/// small writes follow one another (`often`), the second would wait for the acknowledgement of the first.
pub(crate) fn ready_to_speak(stream: &TcpStream, address: SocketAddr, often: bool) {
    let _ = recv_errors(stream, address, false);
    if often {
        let _ = stream.set_nodelay(true);
    }
}

fn send_syn(address: SocketAddr, from: Option<SocketAddr>) -> Result<OwnedFd, Refusal> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let refused = |errno| refusal(errno, None, address);
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let fd = socket(family, SockType::Stream, flags, None).map_err(refused)?;
    recv_errors(&fd, address, true).map_err(refused)?;
    if let Some(from) = from {
        bind(fd.as_raw_fd(), &SockaddrStorage::from(from)).map_err(refused)?;
    }
    match connect(fd.as_raw_fd(), &SockaddrStorage::from(address)) {
        Ok(()) | Err(Errno::EINPROGRESS | Errno::EINTR) => Ok(fd),
        Err(errno) => Err(refusal(errno, icmp(&fd), address)),
    }
}

fn recv_errors(fd: &impl AsFd, address: SocketAddr, on: bool) -> Result<(), Errno> {
    if address.is_ipv4() {
        setsockopt(fd, sockopt::Ipv4RecvErr, &on)
    } else {
        setsockopt(fd, sockopt::Ipv6RecvErr, &on)
    }
}

/// An ICMP message about this connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Icmp {
    v6: bool,
    kind: u8,
    code: u8,
    from: Option<IpAddr>,
}

impl Icmp {
    /// Whether it says that a rule forbids this: destination unreachable with code 9, 10 or 13 (RFC 1812, 5.2.7.1), or for
    /// IPv6 code 1, 5 or 6 (RFC 4443, 3.1).
    fn prohibits(self) -> bool {
        if self.v6 {
            self.kind == 1 && matches!(self.code, 1 | 5 | 6)
        } else {
            self.kind == 3 && matches!(self.code, 9 | 10 | 13)
        }
    }

    fn text(self) -> String {
        let version = if self.v6 { "ICMPv6" } else { "ICMP" };
        let from = self.from.map(|ip| format!(" from {ip}")).unwrap_or_default();
        format!("{version} type {} code {}{from}", self.kind, self.code)
    }
}

/// The first ICMP message in the socket's error queue.
fn icmp(fd: &impl AsRawFd) -> Option<Icmp> {
    let mut payload = [0_u8; 64];
    let mut iov = [IoSliceMut::new(&mut payload)];
    let mut space = nix::cmsg_space!([u8; 128]);
    let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
    let message = recvmsg::<SockaddrStorage>(fd.as_raw_fd(), &mut iov, Some(&mut space), flags).ok()?;
    message.cmsgs().ok()?.find_map(|part| {
        if let ControlMessageOwned::Ipv4RecvErr(error, from) = part {
            let from = from.map(|a| IpAddr::from(u32::from_be(a.sin_addr.s_addr).to_be_bytes()));
            (error.ee_origin == libc::SO_EE_ORIGIN_ICMP).then_some(Icmp {
                v6: false,
                kind: error.ee_type,
                code: error.ee_code,
                from,
            })
        } else if let ControlMessageOwned::Ipv6RecvErr(error, from) = part {
            let from = from.map(|a| IpAddr::from(a.sin6_addr.s6_addr));
            (error.ee_origin == libc::SO_EE_ORIGIN_ICMP6).then_some(Icmp {
                v6: true,
                kind: error.ee_type,
                code: error.ee_code,
                from,
            })
        } else {
            None
        }
    })
}

/// What an error of a connect means.
///
/// `EACCES` and `EPERM` without an ICMP message come from this host: a `prohibit` route, a rule on its own output, a control
/// group's filter. An application on this host would meet the same, so they are short and not void; the detail says whence.
/// An error that is not foreseen is void: it blames nobody, and never passes.
fn refusal(errno: Errno, icmp: Option<Icmp>, address: SocketAddr) -> Refusal {
    if errno == Errno::ETIMEDOUT {
        return Refusal::Silent;
    }
    #[expect(clippy::wildcard_enum_match_arm, reason = "every other errno there is or may come")]
    let outcome = match errno {
        _ if icmp.is_some_and(Icmp::prohibits) => Outcome::Short(Short::ConnectProhibited),
        Errno::EACCES | Errno::EPERM => Outcome::Short(Short::ConnectProhibited),
        Errno::ECONNREFUSED => Outcome::Short(Short::ConnectRefused),
        Errno::ECONNRESET | Errno::ECONNABORTED | Errno::EPIPE => Outcome::Short(Short::ConnectReset),
        Errno::EHOSTUNREACH | Errno::EHOSTDOWN | Errno::ENOPROTOOPT | Errno::EPROTO | Errno::EOPNOTSUPP => {
            Outcome::Short(Short::HostUnreachable)
        }
        // EINVAL: a blackhole route, or a link-local address, which means nothing without an interface.
        Errno::ENETUNREACH | Errno::ENETDOWN | Errno::EAFNOSUPPORT | Errno::EINVAL => {
            Outcome::Short(Short::NetUnreachable)
        }
        // No port left, or, on a host without an address of this family, no address to send from.
        Errno::EADDRNOTAVAIL if !routes::reaches(address) => Outcome::Short(Short::NetUnreachable),
        _ => Outcome::Void(Void::LocalResources),
    };
    let here = matches!(errno, Errno::EACCES | Errno::EPERM) && icmp.is_none();
    let mut detail = format!("{} ({errno:?})", errno.desc());
    if let Some(icmp) = icmp {
        detail = format!("{detail}, {}", icmp.text());
    } else if here {
        detail = format!("{detail}, from this host itself: a route, its own firewall or a control group's filter");
    }
    Refusal::Failed(Failure { outcome, detail: Some(text::escape(&detail)) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(errno: Errno, icmp: Option<(bool, u8, u8)>) -> Option<&'static str> {
        let icmp = icmp.map(|(v6, kind, code)| Icmp { v6, kind, code, from: None });
        match refusal(errno, icmp, "127.0.0.1:1".parse().unwrap()) {
            Refusal::Silent => None,
            Refusal::Failed(failure) => failure.outcome.reason(),
        }
    }

    #[test]
    fn errors_and_what_they_mean() {
        for (errno, icmp, want) in [
            (Errno::ETIMEDOUT, None, None),
            (Errno::ECONNREFUSED, None, Some("connect_refused")),
            (Errno::ECONNREFUSED, Some((false, 3, 3)), Some("connect_refused")),
            (Errno::EHOSTUNREACH, None, Some("host_unreachable")),
            (Errno::EHOSTUNREACH, Some((false, 3, 1)), Some("host_unreachable")),
            (Errno::EHOSTUNREACH, Some((false, 3, 13)), Some("connect_prohibited")),
            (Errno::EHOSTUNREACH, Some((false, 3, 10)), Some("connect_prohibited")),
            (Errno::ENETUNREACH, Some((false, 3, 9)), Some("connect_prohibited")),
            (Errno::ENETUNREACH, Some((false, 3, 0)), Some("net_unreachable")),
            (Errno::EACCES, Some((true, 1, 1)), Some("connect_prohibited")),
            (Errno::EHOSTUNREACH, Some((true, 1, 3)), Some("host_unreachable")),
            (Errno::EPERM, None, Some("connect_prohibited")),
            (Errno::EADDRNOTAVAIL, None, Some("local_resources")),
            (Errno::EMFILE, None, Some("local_resources")),
            (Errno::ENFILE, None, Some("local_resources")),
            (Errno::ENOBUFS, None, Some("local_resources")),
            (Errno::ENOMEM, None, Some("local_resources")),
            (Errno::EILSEQ, None, Some("local_resources")),
        ] {
            assert_eq!(reason(errno, icmp), want, "{errno:?} {icmp:?}");
        }
    }
}
