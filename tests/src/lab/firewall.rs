//! nftables rules on a host, in place of security groups and of what else can be in the way.

use std::fmt;
use std::net::IpAddr;

/// The rules of one host. The first that fits decides, and what no rule names passes.
#[derive(Debug, Clone, Default)]
#[must_use]
pub struct Firewall {
    input: Vec<String>,
    output: Vec<String>,
    redirect: Vec<String>,
}

impl Firewall {
    /// No rules: everything passes.
    pub fn open() -> Self {
        Self::default()
    }

    fn input(mut self, rule: impl Into<String>) -> Self {
        self.input.push(rule.into());
        self
    }

    fn output(mut self, rule: impl Into<String>) -> Self {
        self.output.push(rule.into());
        self
    }

    /// Lets these sources reach a TCP port.
    pub fn admit(self, from: &[IpAddr], port: u16) -> Self {
        from.iter().fold(self, |rules, ip| rules.input(format!("{} saddr {ip} tcp dport {port} accept", family(*ip))))
    }

    /// Packets to the TCP port vanish: what a security group does.
    pub fn drop(self, port: u16) -> Self {
        self.input(format!("tcp dport {port} drop"))
    }

    /// Packets from this source vanish.
    pub fn drop_from(self, from: IpAddr) -> Self {
        self.input(format!("{} saddr {from} drop", family(from)))
    }

    /// Datagrams to the UDP port, and connects to the TCP port, vanish.
    pub fn drop_dns(self) -> Self {
        self.input("udp dport 53 drop").input("tcp dport 53 drop")
    }

    /// Connects to the TCP port over IPv6 vanish.
    pub fn drop_ipv6(self, port: u16) -> Self {
        self.input(format!("meta nfproto ipv6 tcp dport {port} drop"))
    }

    /// Connects to the TCP port are answered with a reset.
    pub fn reset(self, port: u16) -> Self {
        self.input(format!("tcp dport {port} reject with tcp reset"))
    }

    /// Connects to the TCP port are answered with ICMP "administratively prohibited".
    pub fn prohibit(self, port: u16) -> Self {
        self.input(format!("tcp dport {port} reject with icmpx admin-prohibited"))
    }

    /// That many of a hundred packets are lost, each way.
    pub fn lose(self, percent: u8, port: u16) -> Self {
        self.input(format!("tcp dport {port} numgen random mod 100 < {percent} drop"))
            .output(format!("tcp sport {port} numgen random mod 100 < {percent} drop"))
    }

    /// What this host sends to that address vanishes before it leaves.
    pub fn drop_output(self, to: IpAddr) -> Self {
        self.output(format!("{} daddr {to} drop", family(to)))
    }

    /// All that this host sends anywhere else vanishes, but on itself: what a broken uplink does beside a path that still works.
    pub fn only_to(self, to: IpAddr) -> Self {
        self.output("oifname lo accept").output(format!("{} daddr {to} accept", family(to))).output("drop")
    }

    /// Every connection that this host opens ends at a local port, except to that address: what a service mesh does.
    pub fn intercept(mut self, except: IpAddr, port: u16) -> Self {
        self.redirect.push(format!("{} daddr != {except} tcp dport 1-65535 redirect to :{port}", family(except)));
        self
    }
}

fn family(ip: IpAddr) -> &'static str {
    if ip.is_ipv6() { "ip6" } else { "ip" }
}

/// The ruleset as `nft -f` reads it. It replaces what was there.
impl fmt::Display for Firewall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "flush ruleset\ntable inet lab {{")?;
        for (chain, kind, priority, rules) in [
            ("input", "filter hook input", 0, &self.input),
            ("output", "filter hook output", 0, &self.output),
            ("detour", "nat hook output", -100, &self.redirect),
        ] {
            // A NAT chain turns on connection tracking, which other tests should not depend on.
            if rules.is_empty() {
                continue;
            }
            writeln!(f, " chain {chain} {{\n  type {kind} priority {priority}; policy accept;")?;
            for rule in rules {
                writeln!(f, "  {rule}")?;
            }
            writeln!(f, " }}")?;
        }
        writeln!(f, "}}")
    }
}
