//! Which options fit which target, and each other: the one place that says so, for manifests, the command line and what
//! an agent is asked.

use std::fmt;

use super::{Addresses, Expect, Families, HttpOptions, ProbeSpec, TlsOptions};
use crate::observation::Proof;
use crate::target::Scheme;

/// An option of a [`ProbeSpec`], by its name in the manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpecOption {
    /// When silence is called a drop.
    ConnectTimeout,
    /// How far the probe must get.
    Require,
    /// Which families must work.
    Families,
    /// How many addresses must work.
    Addresses,
    /// TLS.
    Tls,
    /// How slow it may be.
    MaxLatency,
    /// The proxy on the way.
    Via,
    /// What of an HTTP answer is accepted.
    Http,
    /// Which members are probed too.
    Topology,
}

impl SpecOption {
    /// Its key in the manifest.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ConnectTimeout => "connect_timeout",
            Self::Require => "require",
            Self::Families => "families",
            Self::Addresses => "addresses",
            Self::Tls => "tls",
            Self::MaxLatency => "max_latency",
            Self::Via => "via",
            Self::Http => "http",
            Self::Topology => "topology",
        }
    }
}

impl fmt::Display for SpecOption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An option that means nothing where it stands: to leave it unheeded would be a false pass.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{option} {what}")]
pub struct Misfit {
    /// Which option.
    pub option: SpecOption,
    /// What is wrong with it, to be read after its name, or its flag's.
    pub what: String,
    /// What to do about it, as a fragment.
    pub fix: String,
}

impl ProbeSpec {
    /// Whether every option means something to the target and beside the others. Hosts, ports and paths are not looked at.
    pub fn check(&self) -> Result<(), Misfit> {
        self.check_tls()?;
        let scheme = self.target.scheme;
        let http = matches!(scheme, Scheme::Http | Scheme::Https);
        if self.http != HttpOptions::default() && !http {
            return Err(only_for(SpecOption::Http, scheme, "http:// and https://"));
        }
        if self.topology.is_some() && !matches!(scheme, Scheme::Redis | Scheme::Rediss) {
            return Err(only_for(SpecOption::Topology, scheme, "redis:// and rediss://"));
        }
        match self.expect {
            Expect::Blocked => self.check_blocked(),
            Expect::Reachable => self.check_proof(),
        }
    }

    fn check_tls(&self) -> Result<(), Misfit> {
        let scheme = self.target.scheme;
        let misfit = |why: &str, fix: String| {
            Err(Misfit { option: SpecOption::Tls, what: format!("means nothing to {scheme}://{why}"), fix })
        };
        if self.tls.upgrade && scheme.is_tls() {
            return misfit(", which speaks TLS from its first byte", "leave it out".to_owned());
        }
        if self.tls == TlsOptions::default() || scheme.is_tls() || (self.tls.upgrade && scheme.can_upgrade()) {
            return Ok(());
        }
        if scheme.can_upgrade() {
            let fix = "ask for the upgrade: tls: {} in a manifest, --tls on the command line";
            return misfit(" without its upgrade to TLS", fix.to_owned());
        }
        let secured = scheme.secured().map_or_else(String::new, |secured| format!("use {secured}://, or "));
        misfit(", which does not speak TLS", format!("{secured}leave it out"))
    }

    /// What makes no sense for a path that must not exist.
    fn check_blocked(&self) -> Result<(), Misfit> {
        let others = [
            // Whoever is far away would look stopped.
            (SpecOption::ConnectTimeout, self.connect_timeout < Self::DEFAULT_CONNECT_TIMEOUT),
            (SpecOption::Require, self.require != Proof::Connected),
            (SpecOption::MaxLatency, self.max_latency.is_some()),
            (SpecOption::Via, self.via.is_some()),
            (SpecOption::Http, self.http != HttpOptions::default()),
            (SpecOption::Topology, self.topology.is_some()),
            (SpecOption::Families, self.families != Families::default()),
            (SpecOption::Addresses, self.addresses != Addresses::default()),
        ];
        match others.into_iter().find_map(|(option, given)| given.then_some(option)) {
            None => Ok(()),
            Some(option @ SpecOption::ConnectTimeout) => Err(Misfit {
                option,
                what: "below 1s calls what is far away stopped, beside 'expect: blocked'".to_owned(),
                fix: "leave it out, or write 1s or more".to_owned(),
            }),
            Some(option) => Err(Misfit {
                option,
                what: "means nothing beside 'expect: blocked'".to_owned(),
                fix: "leave it out: blocked is that no address of the target can be connected to".to_owned(),
            }),
        }
    }

    fn check_proof(&self) -> Result<(), Misfit> {
        if self.via.is_some() && self.require <= Proof::Connected {
            return Err(Misfit {
                option: SpecOption::Via,
                what: "goes through a proxy, which may say yes before it connects, so a connection proves nothing"
                    .to_owned(),
                fix: "use a scheme with an answer of the target's own, such as tls:// or https://, and require no less"
                    .to_owned(),
            });
        }
        let require = |what, fix| Err(Misfit { option: SpecOption::Require, what, fix });
        if self.require == Proof::Resolved {
            return require(
                "'resolved' proves no path: a name can have an address that nobody can reach".to_owned(),
                "ask for connected, encrypted or protocol, or leave it out".to_owned(),
            );
        }
        if self.topology.is_some() && self.require != Proof::Protocol {
            return require(
                format!("'{}' is met before the target is asked for its members", self.require.as_str()),
                "leave require out: topology needs the protocol".to_owned(),
            );
        }
        if !self.can_prove(self.require) {
            let why = match self.require {
                Proof::Encrypted => "does not speak TLS",
                Proof::Resolved | Proof::Connected | Proof::Protocol => "knows no protocol that could answer",
            };
            let can = [Proof::Connected, Proof::Encrypted, Proof::Protocol];
            let can: Vec<&str> = can.into_iter().filter(|proof| self.can_prove(*proof)).map(Proof::as_str).collect();
            return require(
                format!("'{}' cannot be proven by a {} probe: it {why}", self.require.as_str(), self.target.scheme),
                format!("write {}, or use a scheme that can prove it", can.join(" or ")),
            );
        }
        Ok(())
    }
}

fn only_for(option: SpecOption, other: Scheme, known: &str) -> Misfit {
    Misfit {
        option,
        what: format!("means nothing to {other}://"),
        fix: format!("it is for {known}; leave it out here"),
    }
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;
