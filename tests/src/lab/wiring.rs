//! The lab judges itself before it judges the product: each way between two hosts is tried with a plain connect.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use super::{Host, Lab};

/// What a plain connect must meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// It connects.
    Open,
    /// Nothing comes back.
    Silent,
    /// It is refused.
    Refused,
    /// An ICMP message says that there is no way.
    Unreachable,
}

/// A way between two hosts, and what it must be like.
#[derive(Debug, Clone)]
pub struct Way {
    /// From this host.
    pub from: Host,
    /// To this address.
    pub to: SocketAddr,
    /// What must happen.
    pub expect: Expect,
}

impl Way {
    /// A way.
    pub fn new(from: &Host, to: SocketAddr, expect: Expect) -> Self {
        Self { from: from.clone(), to, expect }
    }

    fn found(&self) -> Result<Expect, String> {
        // Long enough for a busy machine to answer, short enough to be tried by every test.
        let patience = if self.expect == Expect::Silent { Duration::from_millis(700) } else { Duration::from_secs(5) };
        match self.from.within(|| TcpStream::connect_timeout(&self.to, patience)) {
            Ok(_) => Ok(Expect::Open),
            Err(error) if error.kind() == ErrorKind::TimedOut => Ok(Expect::Silent),
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(Expect::Refused),
            Err(error) if error.kind() == ErrorKind::HostUnreachable => Ok(Expect::Unreachable),
            Err(error) => Err(error.to_string()),
        }
    }
}

impl Lab {
    /// Asserts that every way is as it should be, all at once.
    ///
    /// # Panics
    /// With each way that is not.
    pub fn assert_wiring(&self, ways: &[Way]) {
        let wrong: Vec<String> = std::thread::scope(|scope| {
            let tries: Vec<_> = ways.iter().map(|way| scope.spawn(move || (way, way.found()))).collect();
            tries
                .into_iter()
                .filter_map(|thread| thread.join().ok())
                .filter(|(way, found)| found.as_ref() != Ok(&way.expect))
                .map(|(way, found)| {
                    format!("{} to {}: should be {:?}, is {found:?}", way.from.name(), way.to, way.expect)
                })
                .collect()
        });
        assert!(
            wrong.is_empty(),
            "the lab is wired wrongly, which says nothing of preflight:\n  {}",
            wrong.join("\n  ")
        );
    }
}
