//! What shows that a target which must be blocked is there at all: another fleet's agent of the same run connected to it.
//!
//! Silence and a reset are what a firewall gives, and what a host gives that is down or on which nothing listens. They tell of a
//! rule only where the very address and port took a connection from somewhere else meanwhile; and silence is what a host meets
//! everywhere whose own network is broken, so whoever was stopped must have got somewhere else.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use crate::observation::{Control, Observation, Outcome, Proof, Report, is_private};
use crate::plan::FleetId;

/// Where the agents of a run got to, and where they were stopped.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Contrast {
    /// Who connected to an address, in whichever cell.
    reached: BTreeMap<SocketAddr, BTreeSet<(FleetId, String)>>,
    /// The cells that must be blocked and whose agents found an address stopped.
    stopped: BTreeMap<SocketAddr, BTreeSet<usize>>,
    /// The agents whose own network is shown to work.
    /// Each with whether it was over IPv6: the one family may work where the other does not.
    out: BTreeSet<(String, bool)>,
}

/// What the other cells of a run say of an address that must be blocked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Shown {
    /// The fleet that must not reach it did, in another cell.
    Leak,
    /// Nobody connected to it: it may be down.
    Nothing,
    /// An agent that was stopped got nowhere else either: its own network may be down.
    NoWayOut,
    /// Another fleet connected to it.
    There,
}

impl Contrast {
    /// Takes in where an agent got to. Returns the cells for which that is news.
    pub(crate) fn reached(&mut self, fleet: &FleetId, agent: &str, report: &Report) -> BTreeSet<usize> {
        let mut news = BTreeSet::new();
        if report.control == Control::Connected {
            return news;
        }
        // What a control target says is taken for IPv4, over which most are.
        let control = report.egress.then_some(false);
        let reached =
            report.observations.iter().filter(|o| connected(o, report.control)).filter_map(|o| place(o.address?));
        for v6 in control.into_iter().chain(reached.map(|at| at.is_ipv6())).collect::<BTreeSet<bool>>() {
            if self.out.insert((agent.to_owned(), v6)) {
                news.extend(self.stopped.values().flatten());
            }
        }
        for at in report.observations.iter().filter(|o| connected(o, report.control)).filter_map(|o| place(o.address?))
        {
            if self.reached.entry(at).or_default().insert((fleet.clone(), agent.to_owned())) {
                news.extend(self.stopped.get(&at).into_iter().flatten());
            }
        }
        news
    }

    /// Takes in where an agent of a cell that must be blocked was stopped.
    pub(crate) fn stopped(&mut self, cell: usize, report: &Report) {
        for at in addresses(report) {
            self.stopped.entry(at).or_default().insert(cell);
        }
    }

    /// Forgets what an agent said.
    pub(crate) fn disown(&mut self, agent: &str) {
        for who in self.reached.values_mut() {
            who.retain(|(_, name)| name != agent);
        }
        self.out.retain(|(name, _)| name != agent);
    }

    /// What the run shows of the addresses at which these agents of a fleet were stopped: the worst over all of them.
    pub(crate) fn shows<'a>(&self, fleet: &FleetId, stopped: impl Iterator<Item = (&'a str, &'a Report)>) -> Shown {
        let mut all: BTreeSet<Option<SocketAddr>> = BTreeSet::new();
        let mut cut_off = false;
        for (agent, report) in stopped {
            all.extend(report.observations.iter().map(|o| o.address.and_then(place)));
            let stopped_over = report.observations.iter().filter_map(|o| place(o.address?)).map(|at| at.is_ipv6());
            cut_off |= stopped_over.into_iter().any(|v6| !self.out.contains(&(agent.to_owned(), v6)));
        }
        let shown = all.into_iter().map(|at| at.map_or(Shown::Nothing, |at| self.of(fleet, at))).min();
        shown.unwrap_or(Shown::Nothing).min(if cut_off { Shown::NoWayOut } else { Shown::There })
    }

    fn of(&self, fleet: &FleetId, at: SocketAddr) -> Shown {
        let Some(who) = self.reached.get(&at) else { return Shown::Nothing };
        // A private address is another host's in another region, as far as anybody knows.
        let same_network = |of: &FleetId| of.region == fleet.region || !is_private(at.ip());
        if who.iter().any(|(of, _)| of == fleet) {
            Shown::Leak
        } else if who.iter().any(|(of, _)| same_network(of)) {
            Shown::There
        } else {
            Shown::Nothing
        }
    }
}

/// Whether it shows that something listens there. A bare connect does only where it was the whole of the probe, since only then
/// the control, which tells of whoever accepts every connection, was waited for; and where the control could be tried.
fn connected(observation: &Observation, control: Control) -> bool {
    match observation.proof {
        Some(Proof::Protocol | Proof::Encrypted) => true,
        Some(Proof::Connected) => observation.outcome == Outcome::Ok && control != Control::Untried,
        Some(Proof::Resolved) | None => false,
    }
}

fn addresses(report: &Report) -> impl Iterator<Item = SocketAddr> {
    report.observations.iter().filter_map(|o| place(o.address?))
}

/// The address in its one spelling; none for one that each host has for itself, of which others can say nothing.
fn place(address: SocketAddr) -> Option<SocketAddr> {
    let ip = address.ip().to_canonical();
    let own = match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    (!own && !ip.is_loopback() && !ip.is_unspecified()).then(|| SocketAddr::new(ip, address.port()))
}
