//! What network policy sees of this host: what EC2 says, what Kubernetes says, what the command line adds, and the source
//! address towards the controller. Read again for each run, since security groups change while a host lives.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use preflight_core::identity::NetworkIdentity;
use preflight_core::text;
use tokio::sync::Mutex;
use tracing::{info, warn};

use crate::{downward, imds};

/// `KEY=VALUE` from the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair(pub String, pub String);

impl std::str::FromStr for Pair {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        match text.split_once('=') {
            Some((key, value)) if !key.trim().is_empty() && !value.trim().is_empty() => {
                Ok(Self(key.trim().to_owned(), value.trim().to_owned()))
            }
            Some(_) | None => {
                Err("write it as KEY=VALUE, for example security_group=sg-web; repeat it for more values")
            }
        }
    }
}

/// Where identity is read from.
#[derive(Debug, Clone)]
pub struct Sources {
    /// EC2's instance metadata.
    pub imds: SocketAddr,
    /// The volume of the downward API.
    pub podinfo: PathBuf,
    /// What the command line adds.
    pub added: Vec<Pair>,
}

/// The identity could not be read although it could before: what a probe sees now cannot be put down to anybody.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("this host's network identity cannot be read: {0}")]
pub struct Unknown(pub String);

/// Reads the identity, at most once a second.
#[derive(Debug)]
pub struct Identity {
    sources: Sources,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// The source address of the last connection to the controller.
    address: Option<IpAddr>,
    /// Whether instance metadata was ever read.
    on_ec2: bool,
    last: Option<(Instant, Result<NetworkIdentity, Unknown>)>,
}

impl Identity {
    /// A reading is good for this long, so that a run's probes share one.
    const FRESH: Duration = Duration::from_secs(1);

    /// Reads from `sources`.
    pub fn new(sources: Sources) -> Self {
        Self { sources, state: Mutex::new(State { address: None, on_ec2: false, last: None }) }
    }

    /// Looks for instance metadata, unless it was found before: a service that is late at boot is found at a later
    /// connection.
    pub async fn detect(&self) {
        if self.state.lock().await.on_ec2 || !imds::is_there(self.sources.imds).await {
            return;
        }
        info!("this host has EC2 instance metadata");
        let mut state = self.state.lock().await;
        state.on_ec2 = true;
        state.last = None;
    }

    /// Notes the source address of a new connection to the controller.
    pub async fn connected_from(&self, address: IpAddr) {
        let mut state = self.state.lock().await;
        if state.address != Some(address) {
            state.address = Some(address);
            state.last = None;
        }
    }

    /// The identity now, or why it is not known.
    pub async fn current(&self) -> Result<NetworkIdentity, Unknown> {
        let mut state = self.state.lock().await;
        if let Some((at, result)) = &state.last
            && at.elapsed() < Self::FRESH
        {
            return result.clone();
        }
        let result = self.read(&state).await;
        if let Err(error) = &result {
            warn!(%error, "probes are void until it can be read");
        }
        state.last = Some((Instant::now(), result.clone()));
        result
    }

    async fn read(&self, state: &State) -> Result<NetworkIdentity, Unknown> {
        let mut identity = NetworkIdentity::default();
        if state.on_ec2 {
            let source = state.address.unwrap_or(IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED));
            let read = imds::read(self.sources.imds, source).await;
            identity = read.map_err(|error| Unknown(text::escape(&error.to_string())))?;
        }
        downward::read(&mut identity, &self.sources.podinfo, |name| std::env::var(name).ok());
        for Pair(key, value) in &self.sources.added {
            identity.insert(key, value);
        }
        if let Some(address) = state.address {
            identity.insert("address", address.to_string());
        }
        // No part of the key; it tells a person which host to look at.
        if let Ok(host) = std::fs::read_to_string("/proc/sys/kernel/hostname")
            && !host.trim().is_empty()
        {
            identity.insert("host", host.trim());
        }
        Ok(identity)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::imds::tests::instance;

    fn identity(imds: SocketAddr, added: &[&str]) -> Identity {
        let added = added.iter().map(|text| text.parse().unwrap()).collect();
        Identity::new(Sources { imds, podinfo: "/nonexistent".into(), added })
    }

    #[tokio::test]
    async fn what_was_there_and_is_gone_is_unknown() {
        let mut instance = instance().await;
        let identity = identity(instance.endpoint, &["role=web"]);
        identity.connected_from("127.0.0.1".parse().unwrap()).await;
        assert_eq!(identity.current().await.unwrap().key().0, "role=web", "not looked for yet");
        identity.detect().await;
        assert!(identity.current().await.unwrap().key().0.contains("security_group=sg-1,sg-2"));

        instance.tasks.shutdown().await;
        identity.state.lock().await.last = None;
        let error = identity.current().await.unwrap_err();
        assert!(error.to_string().contains("cannot be read"), "{error}");
    }

    #[tokio::test]
    async fn a_change_is_seen_by_the_next_run() {
        let instance = instance().await;
        let identity = identity(instance.endpoint, &[]);
        identity.connected_from("127.0.0.1".parse().unwrap()).await;
        identity.detect().await;
        identity.current().await.unwrap();
        *instance.groups.lock().unwrap() = "sg-3".into();
        assert!(identity.current().await.unwrap().key().0.contains("sg-1"), "one reading for a run's probes");
        let state = &mut *identity.state.lock().await;
        let (at, _) = state.last.as_mut().unwrap();
        *at -= Identity::FRESH;
        assert!(identity.read(state).await.unwrap().key().0.contains("security_group=sg-3 "));
    }

    #[tokio::test]
    async fn the_command_line_adds_values() {
        let nowhere = "127.0.0.1:1".parse().unwrap();
        let identity = identity(nowhere, &["security_group=sg-b", "security_group=sg-a", "note=a,b=c"]);
        identity.detect().await;
        identity.connected_from("10.0.0.9".parse().unwrap()).await;
        let current = identity.current().await.unwrap();
        assert_eq!(current.0["note"], ["a,b=c".to_owned()].into(), "a comma is part of the value");
        assert_eq!(current.0["security_group"], ["sg-a".to_owned(), "sg-b".to_owned()].into());
        assert!(current.0["address"].contains("10.0.0.9"));
        assert!("novalue".parse::<Pair>().is_err() && "=x".parse::<Pair>().is_err());
    }
}
