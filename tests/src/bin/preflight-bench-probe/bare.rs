//! The least that the same exchange costs from user space: a loop around epoll, without deadlines, evidence or policy.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use preflight_tests::bench::{Done, Job, Kind};
use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with, sockopt};
use rustls::client::Resumption;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use crate::Started;

const PING: &[u8] = b"*1\r\n$4\r\nPING\r\n";
const PONG: &[u8] = b"+PONG\r\n";

pub(crate) fn run(job: &Job) -> Done {
    let mut bare = Bare {
        kind: job.kind,
        epoll: epoll::create(CreateFlags::CLOEXEC).expect("make an epoll"),
        tls: (job.kind == Kind::Tls).then(|| tls(job)),
    };
    let targets = job.targets.iter().cycle().take(job.probes);
    let started = Started::now();
    let ok = bare.all(targets.copied(), job.at_once);
    started.done(BTreeMap::from([("ok".to_owned(), ok), ("failed".to_owned(), job.probes - ok)]))
}

struct Bare {
    kind: Kind,
    epoll: OwnedFd,
    tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
}

/// One connection.
struct Open {
    stream: TcpStream,
    connected: bool,
    session: Option<Box<ClientConnection>>,
}

impl Bare {
    /// Makes all probes, so many at once; how many were good.
    fn all(&mut self, mut targets: impl Iterator<Item = SocketAddr>, at_once: usize) -> usize {
        let mut slots: Vec<Option<Open>> = Vec::with_capacity(at_once);
        let mut events: Vec<Event> = Vec::with_capacity(at_once);
        for (slot, target) in targets.by_ref().take(at_once).enumerate() {
            slots.push(Some(self.open(slot, target)));
        }
        let (mut flying, mut ok) = (slots.len(), 0);
        while flying > 0 {
            match epoll::wait(&self.epoll, spare_capacity(&mut events), None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => panic!("wait for epoll: {error}"),
            }
            for event in events.drain(..) {
                let slot = usize::try_from(event.data.u64()).expect("a slot");
                let Some(Some(open)) = slots.get_mut(slot) else { continue };
                let Some(good) = self.go_on(open) else { continue };
                ok += usize::from(good);
                slots[slot] = None;
                flying -= 1;
                if let Some(target) = targets.next() {
                    slots[slot] = Some(self.open(slot, target));
                    flying += 1;
                }
            }
        }
        ok
    }

    fn open(&self, slot: usize, target: SocketAddr) -> Open {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let fd = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None).expect("make a socket");
        match connect(&fd, &target) {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(error) => panic!("connect to {target}: {error}"),
        }
        let wanted = EventFlags::IN | EventFlags::OUT | EventFlags::ET;
        epoll::add(&self.epoll, &fd, EventData::new_u64(slot as u64), wanted).expect("add to epoll");
        Open { stream: fd.into(), connected: false, session: None }
    }

    /// Goes as far as it can without waiting; whether it was good, once it has ended.
    fn go_on(&self, open: &mut Open) -> Option<bool> {
        if !open.connected {
            if sockopt::socket_error(&open.stream) != Ok(Ok(())) {
                return Some(false);
            }
            open.connected = true;
            match self.kind {
                Kind::Tcp => return Some(true),
                Kind::Redis => return open.stream.write_all(PING).is_err().then_some(false),
                Kind::Tls => {
                    let (config, name) = self.tls.as_ref()?;
                    let session = ClientConnection::new(config.clone(), name.clone()).expect("a session");
                    open.session = Some(Box::new(session));
                }
            }
        }
        match &mut open.session {
            None => pong(&mut open.stream),
            Some(session) => shake(&mut open.stream, session),
        }
    }
}

fn pong(stream: &mut TcpStream) -> Option<bool> {
    let mut buffer = [0; 64];
    match stream.read(&mut buffer) {
        Ok(count) => Some(buffer.get(..count) == Some(PONG)),
        Err(error) if error.kind() == ErrorKind::WouldBlock => None,
        Err(_) => Some(false),
    }
}

fn shake(stream: &mut TcpStream, session: &mut ClientConnection) -> Option<bool> {
    loop {
        while session.wants_write() {
            match session.write_tls(stream) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return None,
                Err(_) => return Some(false),
            }
        }
        if !session.is_handshaking() {
            session.send_close_notify();
            return Some(session.write_tls(stream).is_ok());
        }
        match session.read_tls(stream) {
            Ok(0) => return Some(false),
            Ok(_) if session.process_new_packets().is_ok() => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return None,
            Ok(_) | Err(_) => return Some(false),
        }
    }
}

/// What everybody's client does, and a whole handshake each time.
fn tls(job: &Job) -> (Arc<ClientConfig>, ServerName<'static>) {
    let mut roots = RootCertStore::empty();
    let authority = CertificateDer::from_pem_slice(job.ca_pem.as_bytes()).expect("the authority's certificate");
    roots.add(authority).expect("an authority");
    let versions = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let versions = versions.with_safe_default_protocol_versions().expect("TLS versions");
    let mut config = versions.with_root_certificates(roots).with_no_client_auth();
    config.resumption = Resumption::disabled();
    (Arc::new(config), ServerName::try_from(job.server_name.clone()).expect("a server's name"))
}
