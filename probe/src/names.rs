//! A name to addresses, as the host's own resolver configuration and hosts file say at this moment.
//!
//! Both files are read for each probe and nothing is cached, so a change on the host counts from the next probe on. Order and
//! search follow what a program on the host meets (glibc's resolver): the hosts file before the name servers, the search list by
//! `ndots`, both families from the same candidate name, one name server after another.

use std::io::{Cursor, ErrorKind};
use std::net::IpAddr;
use std::time::Duration;

use hickory_resolver::config::{NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::{Query, ResponseCode};
use hickory_resolver::proto::rr::{Name, RecordType};
use hickory_resolver::{Hosts, TokioResolver};
use preflight_core::observation::Outcome;
use preflight_core::reason::{Short, Void};
use preflight_core::spec::{Families, ProbeSpec};
use preflight_core::target::Host;
use preflight_core::text;
use tokio::time::Instant;

use crate::deadline::until;
use crate::failure::Failure;

/// What a name came to.
#[derive(Debug)]
pub(crate) struct Resolved {
    /// The addresses to dial: at most [`ProbeSpec::MAX_ADDRESSES`], IPv4 first, in their numeric order.
    pub(crate) addresses: Vec<IpAddr>,
    /// How many there are in all.
    pub(crate) total: usize,
    /// How the lookup of one family failed where the other has addresses.
    pub(crate) failed: Option<Failure>,
}

/// Resolves once; what comes back is what is checked and dialled.
pub(crate) async fn resolve(host: &Host, families: Families) -> Result<Resolved, Failure> {
    match host {
        Host::Ip(ip) => resolved(vec![*ip], families, None),
        Host::Name(name) => {
            let deadline = Instant::now() + ProbeSpec::RESOLVE_TIMEOUT.duration();
            let config = HostConfig::read()?;
            // On the heap, since it is large, and a target that is an address should not carry it.
            Box::pin(config.resolve(name, families, deadline)).await
        }
    }
}

/// Bounds the addresses. Every agent keeps the same ones, so that what one agent found short another has tried too; the cut
/// leaves each family half of the places, or what the other does not need.
fn resolved(addresses: Vec<IpAddr>, families: Families, failed: Option<Failure>) -> Result<Resolved, Failure> {
    // A v4-mapped address is dialled over IPv4: in that form it is shown, checked and counted.
    let mut all: Vec<IpAddr> =
        addresses.into_iter().map(|ip| ip.to_canonical()).filter(|ip| wanted(families, *ip)).collect();
    all.sort_unstable();
    all.dedup();
    if all.is_empty() {
        return Err(failed.unwrap_or_else(|| Failure::short(Short::DnsNoAddress, "no address of the family asked for")));
    }
    let v4_total = all.iter().filter(|ip| ip.is_ipv4()).count();
    let v6_total = all.len() - v4_total;
    let max = ProbeSpec::MAX_ADDRESSES;
    let v4_kept = v4_total.min(max.saturating_sub(v6_total).max(max / 2));
    let v6_kept = v6_total.min(max - v4_kept);
    let total = all.len();
    let v6 = all.split_off(v4_total);
    let addresses = all.into_iter().take(v4_kept).chain(v6.into_iter().take(v6_kept)).collect();
    Ok(Resolved { addresses, total, failed })
}

fn wanted(families: Families, ip: IpAddr) -> bool {
    match families {
        Families::Any | Families::Both => true,
        Families::Ipv4 => ip.is_ipv4(),
        Families::Ipv6 => ip.is_ipv6(),
    }
}

/// What the name servers say of one name and one record type.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Answer {
    Addresses(Vec<IpAddr>),
    NoData,
    NxDomain,
}

/// The host's resolver configuration at one moment.
struct HostConfig {
    hosts: Hosts,
    servers: Vec<NameServerConfig>,
    search: Vec<Name>,
    ndots: usize,
}

impl HostConfig {
    /// The name servers beyond the third are not asked, as with glibc (`MAXNS`).
    const MAX_SERVERS: usize = 3;

    fn read() -> Result<Self, Failure> {
        Self::parse(&read("/etc/resolv.conf")?, &read("/etc/hosts")?)
    }

    fn parse(resolv_conf: &str, hosts: &str) -> Result<Self, Failure> {
        // Without a name server the one on this machine is asked (resolv.conf(5)); the parser calls that an error.
        let with_default = format!("{resolv_conf}\nnameserver 127.0.0.1\n");
        let (config, options) = hickory_resolver::system_conf::parse_resolv_conf(resolv_conf)
            .or_else(|_| hickory_resolver::system_conf::parse_resolv_conf(&with_default))
            .map_err(|error| Failure::void(Void::LocalResources, format!("/etc/resolv.conf: {error}")))?;
        let mut table = Hosts::default();
        table
            .read_hosts_conf(Cursor::new(hosts))
            .map_err(|error| Failure::void(Void::LocalResources, format!("/etc/hosts: {error}")))?;
        let search = match config.search() {
            [] => config.domain().cloned().into_iter().filter(|name| !name.is_root()).collect(),
            search => search.to_vec(),
        };
        let servers = config.name_servers().iter().take(Self::MAX_SERVERS).cloned().collect();
        Ok(Self { hosts: table, servers, search, ndots: options.ndots })
    }

    async fn resolve(&self, name: &str, families: Families, deadline: Instant) -> Result<Resolved, Failure> {
        let parsed = Name::from_ascii(name).map_err(|error| Failure::short(Short::DnsNxdomain, error.to_string()))?;
        let in_hosts = self.in_hosts(&parsed);
        if !in_hosts.is_empty() {
            return resolved(in_hosts, families, None);
        }
        let clients = self.clients()?;
        // The worst of what the candidates came to: a failure may hide an address, an empty answer hides none.
        let mut worst = Failure::short(Short::DnsNxdomain, self.asked(&parsed));
        for candidate in self.candidates(&parsed) {
            let (v4, v6) = futures_util::join!(
                clients.ask(&candidate, RecordType::A, families != Families::Ipv6, deadline),
                clients.ask(&candidate, RecordType::AAAA, families != Families::Ipv4, deadline),
            );
            let mut addresses = Vec::new();
            let mut failed: Option<Failure> = None;
            let mut exists = false;
            for answer in [v4, v6].into_iter().flatten() {
                match answer {
                    Ok(Answer::Addresses(found)) => addresses.extend(found),
                    Ok(Answer::NoData) => exists = true,
                    Ok(Answer::NxDomain) => {}
                    Err(failure) => failed = Some(failed.map_or(failure.clone(), |known| worse(known, failure))),
                }
            }
            if !addresses.is_empty() {
                return resolved(addresses, families, failed);
            }
            if let Some(failure) = failed {
                let gives_up = failure.outcome != Outcome::Short(Short::DnsServfail);
                worst = worse(worst, failure);
                if gives_up {
                    break;
                }
            } else if exists {
                worst = worse(worst, Failure::short(Short::DnsNoAddress, self.asked(&parsed)));
            }
        }
        Err(worst)
    }

    /// Both families: a name that stands in the hosts file is not asked for elsewhere.
    fn in_hosts(&self, name: &Name) -> Vec<IpAddr> {
        [RecordType::A, RecordType::AAAA]
            .into_iter()
            .filter_map(|kind| self.hosts.lookup_static_host(&Query::query(name.clone(), kind)))
            .flat_map(|lookup| lookup.answers().iter().filter_map(|record| record.data.ip_addr()).collect::<Vec<_>>())
            .collect()
    }

    /// The names to ask for, in order (resolv.conf(5), `search` and `ndots`).
    fn candidates(&self, name: &Name) -> Vec<Name> {
        let mut absolute = name.clone();
        absolute.set_fqdn(true);
        if name.is_fqdn() {
            return vec![absolute];
        }
        let mut names: Vec<Name> = self
            .search
            .iter()
            .filter_map(|domain| name.clone().append_domain(domain).ok())
            .map(|mut name| {
                name.set_fqdn(true);
                name
            })
            .collect();
        let dots = usize::from(name.num_labels()).saturating_sub(1);
        let place = if dots >= self.ndots { 0 } else { names.len() };
        names.insert(place, absolute);
        names.dedup();
        names
    }

    /// Who was asked for what.
    fn asked(&self, name: &Name) -> String {
        let names: Vec<String> = self.candidates(name).iter().map(ToString::to_string).collect();
        let servers: Vec<String> = self.servers.iter().map(|server| server.ip.to_string()).collect();
        format!("{} asked for {}", servers.join(", "), names.join(", "))
    }

    fn clients(&self) -> Result<Clients, Failure> {
        let client = |server: &NameServerConfig| {
            let config = ResolverConfig::from_name_servers(vec![server.clone()]);
            let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
            let mut options = ResolverOpts::default();
            options.cache_size = 0;
            options.use_hosts_file = ResolveHosts::Never;
            // One try with the whole time; a lost datagram is sent again within it.
            options.attempts = 0;
            options.timeout = ProbeSpec::RESOLVE_TIMEOUT.duration();
            *builder.options_mut() = options;
            builder.build().map(|resolver| (server.ip, resolver))
        };
        let clients = self.servers.iter().map(client).collect::<Result<_, _>>();
        clients.map(Clients).map_err(|error| Failure::void(Void::LocalResources, error.to_string()))
    }
}

/// A client for each name server, so that their order is ours: asked together, a server that does not know a private zone
/// could win with its NXDOMAIN over the one that does.
struct Clients(Vec<(IpAddr, TokioResolver)>);

impl Clients {
    /// None if this record type is not wanted.
    async fn ask(
        &self,
        name: &Name,
        kind: RecordType,
        want: bool,
        deadline: Instant,
    ) -> Option<Result<Answer, Failure>> {
        if !want {
            return None;
        }
        let mut worst: Option<Failure> = None;
        for (index, (ip, client)) in self.0.iter().enumerate() {
            let share = share(deadline.saturating_duration_since(Instant::now()), self.0.len() - index);
            let failure = match until(Instant::now() + share, client.lookup(name.clone(), kind)).await {
                Ok(Some(Ok(lookup))) => {
                    let found: Vec<IpAddr> =
                        lookup.answers().iter().filter_map(|record| record.data.ip_addr()).collect();
                    return Some(Ok(if found.is_empty() { Answer::NoData } else { Answer::Addresses(found) }));
                }
                Ok(Some(Err(error))) => match negative(&error) {
                    Some(answer) => return Some(Ok(answer)),
                    None => failure(*ip, name, kind, &error),
                },
                Ok(None) => failure(*ip, name, kind, &NetError::Timeout),
                Err(stalled) => stalled,
            };
            worst = Some(worst.map_or(failure.clone(), |known| worse(known, failure)));
        }
        Some(Err(worst.unwrap_or_else(|| Failure::short(Short::DnsTimeout, "no name server is configured"))))
    }
}

/// What one of `servers` still to be asked may take of the time that is left.
fn share(left: Duration, servers: usize) -> Duration {
    left / u32::try_from(servers.max(1)).unwrap_or(1)
}

/// An answer that says there is nothing.
fn negative(error: &NetError) -> Option<Answer> {
    if error.is_nx_domain() {
        Some(Answer::NxDomain)
    } else if let NetError::Dns(DnsError::NoRecordsFound(none)) = error
        && none.response_code == ResponseCode::NoError
    {
        Some(Answer::NoData)
    } else {
        None
    }
}

/// What a lookup without an answer means.
fn failure(server: IpAddr, name: &Name, kind: RecordType, error: &NetError) -> Failure {
    let detail = format!("{server} asked for {name} {kind}: {}", text::escape(&error.to_string()));
    #[expect(clippy::wildcard_enum_match_arm, reason = "every other error there is or may come")]
    match error {
        NetError::Io(error) if is_local(error) => Failure::void(Void::LocalResources, detail),
        NetError::Dns(_) => Failure::short(Short::DnsServfail, detail),
        _ => Failure::short(Short::DnsTimeout, detail),
    }
}

/// Whether an error is this process's own: no descriptor, memory or port left.
pub(crate) fn is_local(error: &std::io::Error) -> bool {
    use nix::errno::Errno;
    let local = [Errno::EMFILE, Errno::ENFILE, Errno::ENOMEM, Errno::ENOBUFS, Errno::EADDRINUSE, Errno::EADDRNOTAVAIL];
    error.raw_os_error().is_some_and(|code| local.contains(&Errno::from_raw(code)))
}

/// The failure that says more about why there may be an address and none was found.
fn worse(one: Failure, other: Failure) -> Failure {
    let rank = |failure: &Failure| match failure.outcome {
        Outcome::Void(_) => 0,
        Outcome::Short(Short::DnsTimeout) => 1,
        Outcome::Short(Short::DnsServfail) => 2,
        Outcome::Short(Short::DnsNoAddress) => 3,
        Outcome::Short(_) | Outcome::Ok => 4,
    };
    if rank(&other) < rank(&one) { other } else { one }
}

/// A file of the host's configuration; empty if there is none.
fn read(path: &str) -> Result<String, Failure> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(Failure::void(Void::LocalResources, format!("{path}: {error}"))),
    }
}

#[cfg(test)]
#[path = "names_tests.rs"]
mod tests;
