//! The members that a Redis seed tells of, by the commands that clients of its kind find their way with, so that what is probed is
//! what an application dials. All of them only read, and they are asked one after the other, once the seed has said `PONG`.
//!
//! **Cluster**: [`CLUSTER SLOTS`](https://redis.io/docs/latest/commands/cluster-slots/). It leaves out replicas that the cluster calls
//! failed and nodes without slots: clients are not sent there. [`CLUSTER INFO`](https://redis.io/docs/latest/commands/cluster-info/)
//! says whether there are such, which is noted, and whether the cluster serves at all. `CLUSTER NODES` lists every node, but not by the
//! endpoints that clients are told (`cluster-preferred-endpoint-type`), and `CLUSTER SHARDS` is not spoken before Redis 7.
//!
//! **Sentinel**: [`SENTINEL MASTERS`, or `GET-MASTER-ADDR-BY-NAME` for one, `REPLICAS` and `SENTINELS`](https://redis.io/docs/latest/operate/oss_and_stack/management/sentinel/).
//! All that is listed counts, whatever the Sentinel thinks of its health: a replica that is gone for good is forgotten by
//! `SENTINEL RESET`, and one that only this Sentinel cannot reach must not be left out.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use preflight_core::observation::Role;
use preflight_core::reason::Short;
use preflight_core::spec::{ProbeSpec, Topology};
use preflight_core::target::{Host, Target};
use preflight_core::text;

use crate::failure::Failure;
use crate::protocol::{Shown, Told, Wire};
use crate::redis;
use crate::resp::{Reader, Value};

/// At most this much is read of one seed, all replies together.
const MAX_BYTES: usize = 64 * 1024;

/// Of at most this many primaries that a Sentinel watches the replicas and Sentinels are asked for.
const MAX_PRIMARIES: usize = 16;

/// A Redis Cluster has this many slots, always.
const SLOTS: i64 = 16_384;

/// Why a seed's members are not known.
enum Stop {
    /// It is what it should be, and does not tell this probe.
    Untold(String),
    /// It is not what it should be.
    Failed(Failure),
}

/// Asks a seed that has said `PONG`, and nothing more, for its members. If it does not tell, none are told of, with a note why.
pub(crate) async fn ask(wire: &mut Wire<'_>, spec: &ProbeSpec, topology: &Topology) -> Result<Shown, Failure> {
    wire.allow(MAX_BYTES);
    let reader = Reader::after(wire.received().len());
    let mut seed = Seed { wire, reader, asked: &spec.target.host };
    let end = match topology {
        Topology::Cluster => seed.cluster().await,
        Topology::Sentinel { master } => seed.sentinel(master.as_deref()).await,
    };
    match end {
        Ok(shown) => Ok(shown),
        Err(Stop::Untold(note)) => Ok(Shown { note: Some(note), told: Vec::new() }),
        Err(Stop::Failed(failure)) => Err(failure),
    }
}

/// A seed while it is asked.
struct Seed<'a, 'w> {
    wire: &'a mut Wire<'w>,
    reader: Reader,
    /// The host of the target: what a client puts in where a node leaves its own out.
    asked: &'a Host,
}

impl Seed<'_, '_> {
    async fn cluster(&mut self) -> Result<Shown, Stop> {
        let reply = self.command(&[b"CLUSTER", b"SLOTS"]).await?;
        let ranges = reply.list().ok_or_else(|| self.foreign("CLUSTER SLOTS"))?;
        let mut told = BTreeSet::new();
        let mut slots = Vec::new();
        for range in ranges {
            let Some([Value::Number(first), Value::Number(last), nodes @ ..]) = range.list() else {
                return Err(self.foreign("CLUSTER SLOTS"));
            };
            if nodes.is_empty() || !(0..=*last).contains(first) || *last >= SLOTS {
                return Err(self.foreign("CLUSTER SLOTS"));
            }
            slots.push((*first, *last));
            for (index, node) in nodes.iter().enumerate() {
                let role = if index == 0 { Role::Primary } else { Role::Replica };
                // Host, port, id, and since Redis 7 what else there is to know: the first is the endpoint that clients take.
                let Some([host, Value::Number(port), ..]) = node.list() else {
                    return Err(self.foreign("CLUSTER SLOTS"));
                };
                told.insert(self.told(role, host, *port, "CLUSTER SLOTS")?);
            }
        }
        let missing = SLOTS - covered(slots);
        if missing > 0 {
            // Keys of these slots are nobody's; and unless `cluster-require-full-coverage` is off, all are refused.
            let detail =
                format!("{missing} of {SLOTS} slots are served by no node, so clients are answered CLUSTERDOWN");
            return Err(Stop::Failed(Failure::short(Short::NotReady, detail)));
        }
        let note = self.state(told.len()).await?;
        Ok(Shown { note, told: told.into_iter().collect() })
    }

    /// Whether the cluster serves by its own word, and whether it has more nodes than it tells clients of.
    async fn state(&mut self, told: usize) -> Result<Option<String>, Stop> {
        let reply = match self.command(&[b"CLUSTER", b"INFO"]).await {
            Ok(reply) => reply,
            Err(Stop::Untold(why)) => return Ok(Some(format!("CLUSTER INFO: {why}"))),
            Err(failed) => return Err(failed),
        };
        let info = reply.text().and_then(|text| std::str::from_utf8(text).ok());
        let info = info.ok_or_else(|| self.foreign("CLUSTER INFO"))?;
        let field = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        match (field("cluster_state"), field("cluster_known_nodes").and_then(|nodes| nodes.parse::<usize>().ok())) {
            (Some("ok"), Some(known)) if known > told => Ok(Some(format!(
                "the cluster knows {known} nodes and tells clients of {told}: replicas that failed or do not follow yet, and nodes \
                 without slots, were not probed (CLUSTER NODES names them)"
            ))),
            (Some("ok"), Some(_)) => Ok(None),
            (Some("fail"), _) => {
                let detail = "cluster_state:fail, so clients are answered CLUSTERDOWN";
                Err(Stop::Failed(Failure::short(Short::NotReady, detail)))
            }
            _ => Err(self.foreign("CLUSTER INFO")),
        }
    }

    async fn sentinel(&mut self, primary: Option<&str>) -> Result<Shown, Stop> {
        let mut told = BTreeSet::new();
        let names = match primary {
            Some(name) => {
                let asked = "SENTINEL GET-MASTER-ADDR-BY-NAME";
                let reply = self.command(&[b"SENTINEL", b"GET-MASTER-ADDR-BY-NAME", name.as_bytes()]).await?;
                if reply == Value::Null {
                    return Err(unexpected(format!("the Sentinel watches no primary of the name '{name}'")));
                }
                let Some([host, port]) = reply.list() else { return Err(self.foreign(asked)) };
                let port = number(port).ok_or_else(|| self.foreign(asked))?;
                told.insert(self.told(Role::Primary, host, port, asked)?);
                vec![name.as_bytes().to_vec()]
            }
            None => self.instances(&[b"SENTINEL", b"MASTERS"], Role::Primary, &mut told).await?,
        };
        if names.is_empty() {
            return Err(unexpected("the Sentinel watches no primary".to_owned()));
        }
        for name in names.iter().take(MAX_PRIMARIES) {
            self.instances(&[b"SENTINEL", b"REPLICAS", name], Role::Replica, &mut told).await?;
            self.instances(&[b"SENTINEL", b"SENTINELS", name], Role::Sentinel, &mut told).await?;
        }
        let note = (names.len() > MAX_PRIMARIES).then(|| {
            format!(
                "the Sentinel watches {} primaries: of the first {MAX_PRIMARIES} it was asked for replicas and Sentinels; \
                 `sentinel_master` names one",
                names.len()
            )
        });
        Ok(Shown { note, told: told.into_iter().collect() })
    }

    /// What the Sentinel lists, each a list of names and values; the names of those that are listed.
    async fn instances(
        &mut self,
        command: &[&[u8]],
        role: Role,
        told: &mut BTreeSet<Told>,
    ) -> Result<Vec<Vec<u8>>, Stop> {
        let reply = self.command(command).await?;
        let asked = shown(command);
        let mut names = Vec::new();
        for instance in reply.list().ok_or_else(|| self.foreign(&asked))? {
            let fields = instance.list().unwrap_or_default();
            let field = |name: &[u8]| {
                let (pairs, _) = fields.as_chunks::<2>();
                pairs.iter().find(|[key, _]| key.text() == Some(name)).map(|[_, value]| value)
            };
            let (Some(name), Some(host), Some(port)) =
                (field(b"name").and_then(Value::text), field(b"ip"), field(b"port").and_then(number))
            else {
                return Err(self.foreign(&asked));
            };
            names.push(name.to_vec());
            told.insert(self.told(role, host, port, &asked)?);
        }
        Ok(names)
    }

    /// A member as it is told. One that cannot be dialled is one that clients cannot dial either.
    fn told(&self, role: Role, host: &Value, port: i64, asked: &str) -> Result<Told, Stop> {
        let name = match host {
            Value::Null => "",
            Value::Text(name) => std::str::from_utf8(name).map_err(|_| self.foreign(asked))?,
            Value::Error(_) | Value::Number(_) | Value::List(_) => return Err(self.foreign(asked)),
        };
        let undialled = |why: &str| {
            let role = role.as_str();
            Err(unexpected(format!("clients are told of a {role} that nobody can dial: '{name}', port {port}; {why}")))
        };
        let port = match u16::try_from(port) {
            Ok(0) => return undialled("a node that speaks TLS only has no other port"),
            Ok(port) => port,
            Err(_) => return Err(self.foreign(asked)),
        };
        // An endpoint that is not known, or not yet: clients take the host that they asked, with the port that they were told.
        let host = if name.is_empty() { Some(self.asked.clone()) } else { dialled(name) };
        match host {
            Some(host) => Ok(Told { role, host, port }),
            None => undialled("a node without a hostname to announce is told as '?'"),
        }
    }

    /// The reply to one command, if that is no error.
    async fn command(&mut self, words: &[&[u8]]) -> Result<Value, Stop> {
        self.wire.send(&request(words)).await;
        let asked = shown(words);
        let reply = loop {
            if self.wire.received().len() >= MAX_BYTES {
                return Err(Stop::Untold(format!("its members take more than {} KiB to tell", MAX_BYTES / 1024)));
            }
            self.wire.more().await.map_err(Stop::Failed)?;
            match self.reader.read(self.wire.received()) {
                Ok(None) => {}
                Ok(Some(reply)) if self.reader.at() == self.wire.received().len() => break reply,
                Ok(Some(_)) | Err(_) => return Err(self.foreign(&asked)),
            }
        };
        match reply {
            Value::Error(line) => Err(refused(&asked, &text::escape_bytes(&line))),
            Value::Text(_) | Value::Number(_) | Value::List(_) | Value::Null => Ok(reply),
        }
    }

    fn foreign(&self, asked: &str) -> Stop {
        // What was answered to PING and before says nothing of this.
        Stop::Failed(self.wire.unexpected(&format!("not a Redis reply to {asked}")))
    }
}

/// A command as clients send it: an array of strings.
fn request(words: &[&[u8]]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        bytes.extend(format!("${}\r\n", word.len()).bytes());
        bytes.extend(*word);
        bytes.extend(b"\r\n");
    }
    bytes
}

/// A command in words.
fn shown(words: &[&[u8]]) -> String {
    let mut text = String::new();
    for word in words {
        let gap = if text.is_empty() { "" } else { " " };
        let _ = write!(text, "{gap}{}", text::escape_bytes(word));
    }
    text
}

/// What an error in answer to a command means.
fn refused(asked: &str, line: &str) -> Stop {
    let kind = if asked.starts_with("CLUSTER") { "it is not a cluster" } else { "it is not a Sentinel" };
    if line.starts_with("CLUSTERDOWN") {
        return Stop::Failed(Failure::short(Short::NotReady, line));
    }
    // "ERR This instance has cluster support disabled", "ERR unknown command 'SENTINEL', with args beginning with: 'MASTERS'"
    if line.starts_with("ERR unknown command") || line.contains("cluster support disabled") {
        return unexpected(format!("{kind}: {line}"));
    }
    if line.starts_with("ERR No such master") {
        return unexpected(format!("{asked}: {line}"));
    }
    match redis::error(asked, line) {
        Ok(why) => Stop::Untold(format!("does not tell its members: {asked}: {why}")),
        Err(failure) => Stop::Failed(failure),
    }
}

fn unexpected(detail: String) -> Stop {
    Stop::Failed(Failure::short(Short::StatusUnexpected, detail))
}

/// A number that is told as a string.
fn number(value: &Value) -> Option<i64> {
    std::str::from_utf8(value.text()?).ok()?.parse().ok()
}

/// An address, or a name that can be looked up.
fn dialled(name: &str) -> Option<Host> {
    if let Ok(ip) = name.parse::<std::net::IpAddr>() {
        return Some(Host::Ip(ip.to_canonical()));
    }
    // By the rules of a target's host; what else a URL may hold is no part of a name.
    let target: Target = format!("redis://{name}:1").parse().ok()?;
    (target.port == 1 && !name.contains([':', '/', '[', '?', '#'])).then_some(target.host)
}

/// How many slots the ranges hold together.
fn covered(mut ranges: Vec<(i64, i64)>) -> i64 {
    ranges.sort_unstable();
    let mut next = 0;
    let mut count = 0;
    for (first, last) in ranges {
        let first = first.max(next);
        if last >= first {
            count += last - first + 1;
            next = last + 1;
        }
    }
    count
}

#[cfg(test)]
#[path = "members_tests.rs"]
mod tests;
