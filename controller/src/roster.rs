//! The agents that are connected to this controller, or were a while ago: the in-process adapter of [`Dispatch`].

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hash::{Hash as _, Hasher as _};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::{SignedDuration, Timestamp};
use preflight_core::identity::{KeyRule, NetworkIdentity};
use preflight_core::matrix::{Candidate, Presence};
use preflight_core::plan::FleetId;
use preflight_core::run::AgentId;
use preflight_proto::agent::{Ask, Cancel, ToAgent, to_agent};
use tokio::sync::{Notify, mpsc, watch};

use crate::dispatch::Dispatch;
use crate::store::AgentRow;

/// A lost agent is waited for this long; then it counts as silent at once.
const AWAY: SignedDuration = SignedDuration::from_secs(40);
/// A lost agent's identity is one of its fleet's for this long.
const REMEMBERED: SignedDuration = SignedDuration::from_hours(24);
/// An agent that said goodbye is not asked, but its identity is still one of its fleet's for this long: it may only be restarted.
const LEAVING: SignedDuration = SignedDuration::from_mins(2);
/// This many losses of the stream within [`UNSTEADY_WITHIN`] make an agent unsteady, until it has stayed for [`STEADY_AFTER`].
const UNSTEADY_LOSSES: usize = 3;
const UNSTEADY_WITHIN: SignedDuration = SignedDuration::from_mins(5);
const STEADY_AFTER: SignedDuration = SignedDuration::from_mins(1);
/// Instances of one line of certificates that are remembered.
const INSTANCES: usize = 16;

/// How an agent stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    Connected,
    Unsteady,
    Lost,
}

#[derive(Debug)]
struct Entry {
    id: AgentId,
    identity: NetworkIdentity,
    link: Link,
    losses: VecDeque<Timestamp>,
    /// Starts of the process that used this line, the latest last.
    instances: VecDeque<String>,
}

#[derive(Debug)]
enum Link {
    Up { connection: u64, since: Timestamp, sender: mpsc::Sender<ToAgent>, kick: Arc<Notify> },
    Down { since: Timestamp },
    Left { since: Timestamp },
}

/// What an agent says of itself when it connects.
#[derive(Debug)]
pub(crate) struct Arrival {
    pub(crate) id: AgentId,
    pub(crate) instance: String,
    pub(crate) identity: NetworkIdentity,
    pub(crate) sender: mpsc::Sender<ToAgent>,
}

/// A connection as the roster knows it.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) number: u64,
    /// Notified when the connection must end.
    pub(crate) kick: Arc<Notify>,
}

/// Two processes take turns with one certificate: its key has been copied.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Copied;

#[derive(Debug, Default)]
struct State {
    agents: BTreeMap<String, Entry>,
    connections: u64,
}

/// The roster.
#[derive(Debug)]
pub(crate) struct Roster {
    state: Mutex<State>,
    changes: watch::Sender<u64>,
}

impl Roster {
    /// A roster that expects back whom the store knows: each is away since `now`.
    pub(crate) fn new(known: &[AgentRow], now: Timestamp) -> Self {
        let recent = |row: &&AgentRow| {
            // Who said goodbye a moment ago may only be restarted.
            let while_ = if row.left { LEAVING } else { REMEMBERED };
            !row.revoked && row.gone_at.is_some_and(|gone| now.duration_since(gone) < while_)
        };
        let entry = |row: &AgentRow| Entry {
            id: row.id.clone(),
            identity: row.identity.clone().unwrap_or_default(),
            link: match row.gone_at.filter(|_| row.left) {
                Some(since) => Link::Left { since },
                None => Link::Down { since: now },
            },
            losses: VecDeque::new(),
            instances: VecDeque::new(),
        };
        let agents = known.iter().filter(recent).map(|row| (row.id.agent.clone(), entry(row))).collect();
        Self { state: Mutex::new(State { agents, connections: 0 }), changes: watch::Sender::new(0) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn changed(&self) {
        self.changes.send_modify(|n| *n = n.wrapping_add(1));
    }

    /// Takes in an agent. An older connection of it ends.
    pub(crate) fn arrive(&self, arrival: Arrival, now: Timestamp) -> Result<Connection, Copied> {
        let mut state = self.lock();
        state.connections += 1;
        let number = state.connections;
        let kick = Arc::new(Notify::new());
        let entry = state.agents.entry(arrival.id.agent.clone()).or_insert_with(|| Entry {
            id: arrival.id.clone(),
            identity: NetworkIdentity::default(),
            link: Link::Down { since: now },
            losses: VecDeque::new(),
            instances: VecDeque::new(),
        });
        let latest = entry.instances.back() == Some(&arrival.instance);
        if !latest && entry.instances.contains(&arrival.instance) {
            return Err(Copied);
        }
        if !latest {
            entry.instances.push_back(arrival.instance);
            if entry.instances.len() > INSTANCES {
                entry.instances.pop_front();
            }
        }
        if let Link::Up { kick, .. } = &entry.link {
            kick.notify_one();
        }
        entry.identity = arrival.identity;
        entry.link = Link::Up { connection: number, since: now, sender: arrival.sender, kick: kick.clone() };
        drop(state);
        self.changed();
        Ok(Connection { number, kick })
    }

    /// Notes that a connection has ended; true if it was the agent's present one. An agent that said goodbye leaves its fleet,
    /// in a while.
    pub(crate) fn depart(&self, agent: &str, connection: u64, goodbye: bool, now: Timestamp) -> bool {
        let mut state = self.lock();
        let Some(entry) = state.agents.get_mut(agent) else { return false };
        if !matches!(entry.link, Link::Up { connection: present, .. } if present == connection) {
            return false;
        }
        if goodbye {
            entry.link = Link::Left { since: now };
        } else {
            entry.link = Link::Down { since: now };
            entry.losses.push_back(now);
            if entry.losses.len() > UNSTEADY_LOSSES {
                entry.losses.pop_front();
            }
        }
        drop(state);
        self.changed();
        true
    }

    /// Removes an agent, ending its connection.
    pub(crate) fn remove(&self, agent: &str) {
        if let Some(Entry { link: Link::Up { kick, .. }, .. }) = self.lock().agents.remove(agent) {
            kick.notify_one();
        }
        self.changed();
    }

    /// Notes the identity that an agent told; true if it is another one than before.
    pub(crate) fn told(&self, agent: &str, identity: &NetworkIdentity) -> bool {
        let mut state = self.lock();
        let Some(entry) = state.agents.get_mut(agent).filter(|entry| entry.identity != *identity) else { return false };
        entry.identity = identity.clone();
        drop(state);
        self.changed();
        true
    }

    /// How an agent stands, and what it last told of its identity; none if it has left, or is not known.
    pub(crate) fn standing(&self, agent: &str, now: Timestamp) -> Option<(Standing, NetworkIdentity)> {
        let state = self.lock();
        let entry = state.agents.get(agent).filter(|entry| !matches!(entry.link, Link::Left { .. }))?;
        Some((entry.standing(now), entry.identity.clone()))
    }

    /// The agents of a fleet and what each last told of its identity: those that have not left, nor been lost for too long.
    pub(crate) fn identities(&self, fleet: &FleetId, now: Timestamp) -> Vec<(String, NetworkIdentity)> {
        let state = self.lock();
        let there = |entry: &&Entry| {
            entry.id.fleet == *fleet && !matches!(entry.link, Link::Left { .. }) && entry.presence(now).is_some()
        };
        let told = state.agents.values().filter(there).map(|entry| (entry.id.agent.clone(), entry.identity.clone()));
        told.collect()
    }

    /// How many agents of each fleet stand how.
    pub(crate) fn counts(&self, now: Timestamp) -> BTreeMap<(FleetId, &'static str), i64> {
        let mut counts = BTreeMap::new();
        for entry in self.lock().agents.values().filter(|entry| !matches!(entry.link, Link::Left { .. })) {
            *counts.entry((entry.id.fleet.clone(), entry.standing(now).as_str())).or_default() += 1;
        }
        counts
    }

    fn send(&self, agent: &str, message: to_agent::Message) {
        let state = self.lock();
        let Some(Entry { link: Link::Up { sender, kick, .. }, .. }) = state.agents.get(agent) else { return };
        if sender.try_send(ToAgent { message: Some(message) }).is_err() {
            // It does not read what it is sent: a fresh connection clears its mind.
            kick.notify_one();
        }
    }
}

impl Standing {
    /// `connected`, `unsteady` or `lost`.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Connected => "connected",
            Self::Unsteady => "unsteady",
            Self::Lost => "lost",
        }
    }
}

impl Entry {
    fn standing(&self, now: Timestamp) -> Standing {
        match self.link {
            Link::Down { .. } | Link::Left { .. } => Standing::Lost,
            Link::Up { since, .. } => {
                let recent = |lost: &&Timestamp| now.duration_since(**lost) < UNSTEADY_WITHIN;
                let losses = self.losses.iter().filter(recent).count();
                let unsteady = losses >= UNSTEADY_LOSSES && now.duration_since(since) < STEADY_AFTER;
                if unsteady { Standing::Unsteady } else { Standing::Connected }
            }
        }
    }

    /// None if the agent was lost too long ago to be a part of its fleet.
    fn presence(&self, now: Timestamp) -> Option<Presence> {
        match (self.standing(now), &self.link) {
            (Standing::Connected, _) => Some(Presence::Connected),
            (Standing::Lost, Link::Down { since }) => {
                let lost_for = now.duration_since(*since);
                if lost_for >= REMEMBERED {
                    None
                } else if lost_for >= AWAY || self.losses.len() >= UNSTEADY_LOSSES {
                    Some(Presence::Lost)
                } else {
                    Some(Presence::Away)
                }
            }
            (Standing::Lost, Link::Left { since }) => (now.duration_since(*since) < LEAVING).then_some(Presence::Left),
            // Left out until it is steady.
            (Standing::Unsteady | Standing::Lost, _) => Some(Presence::Unsteady),
        }
    }
}

impl Dispatch for Roster {
    fn roster(
        &self,
        fleets: &BTreeSet<FleetId>,
        rule: &KeyRule,
        salt: &str,
        now: Timestamp,
    ) -> BTreeMap<FleetId, Vec<Candidate>> {
        let mut rosters: BTreeMap<FleetId, Vec<(u64, Candidate)>> = BTreeMap::new();
        for entry in self.lock().agents.values().filter(|entry| fleets.contains(&entry.id.fleet)) {
            let Some(presence) = entry.presence(now) else { continue };
            let mut hasher = DefaultHasher::new();
            (salt, &entry.id.agent).hash(&mut hasher);
            let candidate = Candidate { agent: entry.id.agent.clone(), key: rule.key(&entry.identity), presence };
            rosters.entry(entry.id.fleet.clone()).or_default().push((hasher.finish(), candidate));
        }
        let ordered = |mut candidates: Vec<(u64, Candidate)>| {
            candidates.sort_by_key(|(order, _)| *order);
            candidates.into_iter().map(|(_, candidate)| candidate).collect()
        };
        rosters.into_iter().map(|(fleet, candidates)| (fleet, ordered(candidates))).collect()
    }

    fn connection(&self, agent: &str) -> Option<u64> {
        match self.lock().agents.get(agent)?.link {
            Link::Up { connection, .. } => Some(connection),
            Link::Down { .. } | Link::Left { .. } => None,
        }
    }

    fn ask(&self, agent: &str, ask: Ask) {
        self.send(agent, to_agent::Message::Ask(ask));
    }

    fn cancel(&self, agent: &str, run: &str) {
        self.send(agent, to_agent::Message::Cancel(Cancel { run: run.to_owned() }));
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(s: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + s).unwrap()
    }

    fn fleet() -> FleetId {
        FleetId { region: "eu".into(), fleet: "web".into() }
    }

    fn arrival(instance: &str) -> Arrival {
        Arrival {
            id: AgentId { fleet: fleet(), agent: "web-1".into() },
            instance: instance.into(),
            identity: NetworkIdentity::default(),
            sender: mpsc::channel(1).0,
        }
    }

    fn presence(roster: &Roster, now: Timestamp) -> Option<Presence> {
        let rosters = roster.roster(&BTreeSet::from([fleet()]), &KeyRule::default(), "", now);
        rosters.get(&fleet()).map(|candidates| candidates[0].presence)
    }

    #[test]
    fn away_then_lost_then_forgotten() {
        let roster = Roster::new(&[], at(0));
        let connection = roster.arrive(arrival("a"), at(0)).unwrap();
        assert_eq!(presence(&roster, at(1)), Some(Presence::Connected));
        assert!(roster.depart("web-1", connection.number, false, at(10)));
        assert_eq!(presence(&roster, at(49)), Some(Presence::Away));
        assert_eq!(presence(&roster, at(50)), Some(Presence::Lost));
        assert_eq!(roster.identities(&fleet(), at(50)).len(), 1);
        assert_eq!(presence(&roster, at(10 + 24 * 3600)), None);
        assert_eq!(roster.identities(&fleet(), at(10 + 24 * 3600)), []);
    }

    #[test]
    fn who_comes_and_goes_is_left_out_until_it_stays() {
        let roster = Roster::new(&[], at(0));
        for i in 0..3 {
            let connection = roster.arrive(arrival("a"), at(i * 10)).unwrap();
            roster.depart("web-1", connection.number, false, at(i * 10 + 5));
        }
        roster.arrive(arrival("a"), at(30)).unwrap();
        assert_eq!(presence(&roster, at(31)), Some(Presence::Unsteady));
        assert_eq!(presence(&roster, at(91)), Some(Presence::Connected));
    }

    #[test]
    fn a_goodbye_leaves_the_fleet_and_an_old_connection_s_end_changes_nothing() {
        let roster = Roster::new(&[], at(0));
        let old = roster.arrive(arrival("a"), at(0)).unwrap();
        let new = roster.arrive(arrival("b"), at(1)).unwrap();
        assert!(!roster.depart("web-1", old.number, false, at(2)));
        assert_eq!(presence(&roster, at(2)), Some(Presence::Connected));
        assert!(roster.depart("web-1", new.number, true, at(3)));
        assert_eq!(presence(&roster, at(4)), Some(Presence::Left), "it may only be restarted");
        assert_eq!(presence(&roster, at(3 + 120)), None);
        assert!(roster.standing("web-1", at(4)).is_none());
        assert_eq!(roster.identities(&fleet(), at(4)), []);
    }

    #[test]
    fn who_said_goodbye_a_moment_before_a_restart_is_still_one_of_the_fleet_for_a_while() {
        let row = |left: bool, gone: i64| AgentRow {
            id: AgentId { fleet: fleet(), agent: "web-1".into() },
            identity: None,
            version: None,
            clock_skew_ms: None,
            connected_at: Some(at(0)),
            gone_at: Some(at(gone)),
            left,
            revoked: false,
            remark: None,
            certificate_until: None,
        };
        let after = |left, gone| presence(&Roster::new(&[row(left, gone)], at(60)), at(100));
        assert_eq!(after(true, 10), Some(Presence::Left));
        assert_eq!(after(true, -70), None);
        assert_eq!(after(false, -70), Some(Presence::Lost));
        assert_eq!(presence(&Roster::new(&[row(true, 10)], at(60)), at(130)), None, "it is counted from the goodbye");
    }

    #[test]
    fn two_processes_that_take_turns_show_a_copied_key() {
        let roster = Roster::new(&[], at(0));
        roster.arrive(arrival("a"), at(0)).unwrap();
        roster.arrive(arrival("a"), at(1)).unwrap();
        roster.arrive(arrival("b"), at(2)).unwrap();
        assert_eq!(roster.arrive(arrival("a"), at(3)).err(), Some(Copied));
    }
}
