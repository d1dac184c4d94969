//! Why a probe fell short or does not count, and why a cell is not known: the closed lists that people and pipelines read.
//! Names are a contract: open to additions, never renamed.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Declares an enum whose text form is its contract name, with what it means and how to find its cause.
macro_rules! reasons {
    ($(#[$doc:meta])* $name:ident { $($variant:ident = $text:literal, $means:literal, $next:literal;)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum $name {
            $(#[doc = $means] #[serde(rename = $text)] $variant,)*
        }

        impl $name {
            /// Every reason, in the order in which they are shown.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// The contract name.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }

            /// What it means, as a sentence fragment.
            pub fn meaning(self) -> &'static str {
                match self { $(Self::$variant => $means,)* }
            }

            /// What to do next, as a sentence.
            pub fn next(self) -> &'static str {
                match self { $(Self::$variant => $next,)* }
            }

            /// The reason of that name.
            pub fn parse(text: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|known| known.as_str() == text)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }
    };
}

reasons! {
    /// Why a probe fell short, for a reason of the target or the path.
    Short {
        DnsNxdomain = "dns_nxdomain", "the name does not exist",
            "Check the spelling and that the record exists in the zone this host's resolver sees; private zones must be attached to this host's network.";
        DnsNoAddress = "dns_no_address", "the name exists but has no address of the family asked for",
            "Add an A or AAAA record, or change `families` in the manifest.";
        DnsServfail = "dns_servfail", "the name server answered with a failure",
            "Ask the same name server with dig; mostly a broken delegation, a failing upstream or DNSSEC.";
        DnsTimeout = "dns_timeout", "no name server answered in time",
            "Check /etc/resolv.conf on the host and that it may reach those servers on port 53, UDP and TCP.";
        ConnectTimeout = "connect_timeout", "several attempts met silence: mostly a security group, network ACL or firewall discards packets from this source to that address and port",
            "Allow this host's security group (or subnet) to the target's port, then try again; if no rule is in the way, check that the address is in use and its host is up.";
        ConnectRefused = "connect_refused", "the connection was refused: mostly the host was reached and nothing listens on that port, though rules can reject too",
            "Check that the service runs and listens on that address and port, and that no rule rejects with a TCP reset.";
        ConnectReset = "connect_reset", "the connection was reset while it was being opened",
            "Look at load balancers and proxies in between, and at the listener's accept queue.";
        ConnectProhibited = "connect_prohibited", "a router or firewall answered that this traffic is administratively prohibited (ICMP)",
            "Allow this fleet to the target's port in the firewall that answered.";
        HostUnreachable = "host_unreachable", "the network answered that the host cannot be reached",
            "Check that the target is up, and the route and the last hop in front of it.";
        NetUnreachable = "net_unreachable", "there is no route to that network",
            "Check this host's routing table, peering and transit gateways.";
        PartialLoss = "partial_loss", "some attempts got through and others were dropped, more than loss explains",
            "Look for one bad path among several equal ones (ECMP), or one bad node behind a load balancer; the evidence shows how many attempts got through.";
        TlsTimeout = "tls_timeout", "connected, but the TLS handshake did not finish in time",
            "Check that the port speaks TLS at all: a service in the clear (plain Redis, say) often just stays silent, and wants the scheme without TLS. Then the server's load, and the path MTU: large certificates are the first packets that a wrong MTU loses.";
        TlsNotSpoken = "tls_not_spoken", "the port answers, but not in TLS",
            "Use the scheme without TLS, or the port that speaks it; for PostgreSQL and MySQL turn TLS on at the server, or leave `tls` (--tls) out.";
        TlsClosed = "tls_closed", "the peer closed or reset the connection during the TLS handshake",
            "Look at the server's log; mostly a proxy without a backend, or a server name that it does not serve.";
        TlsAlert = "tls_alert", "the peer refused the TLS handshake with an alert",
            "What was seen says what it refuses. Compare TLS versions, cipher suites, the server name, the protocol (ALPN) and client certificates with what the server accepts.";
        TlsUntrusted = "tls_untrusted", "the certificate is signed by an authority that this host does not trust",
            "Give the authority in `tls: {ca_pem: …}` (--ca-file), or install it in the host's store.";
        TlsSelfSigned = "tls_self_signed", "the certificate is self-signed and not trusted",
            "Give the certificate in `tls: {ca_pem: …}` (--ca-file) or pin it with `tls: {fingerprint: …}`, or have it issued by your authority.";
        TlsExpired = "tls_expired", "the certificate has expired",
            "Renew the certificate; if only one host sees this, check that host's clock.";
        TlsNotYetValid = "tls_not_yet_valid", "the certificate is not valid yet",
            "Check the clocks of this host and of the issuer.";
        TlsNameMismatch = "tls_name_mismatch", "the certificate is for other names",
            "Set `tls: {server_name: …}` (--server-name) to a name the certificate carries, or have it issued for this name.";
        TlsFingerprintMismatch = "tls_fingerprint_mismatch", "the certificate is not the one that is pinned",
            "Compare the fingerprint in the evidence with the certificate that was meant; if it was renewed, change `tls: {fingerprint: …}`.";
        ProtocolTimeout = "protocol_timeout", "connected, but the service did not answer in time",
            "Check the service's load, and that the port belongs to it: a listener that accepts and stays silent is often something else.";
        ProtocolClosed = "protocol_closed", "the peer closed or reset the connection before it answered",
            "Check that port and scheme belong to each other: another protocol mostly just closes. Then the service's log and its client limits, a proxy without a backend, or an address that the service does not admit.";
        ProtocolUnexpected = "protocol_unexpected", "something answered, but not in the protocol expected",
            "Check that port and scheme belong to this service; the evidence shows what came back.";
        NotReady = "not_ready", "the service answers, but says that it is not ready",
            "Wait until it has loaded or its primary is back, then run the gate again.";
        StatusUnexpected = "status_unexpected", "the service answers, and what it says is not accepted",
            "What was seen says what it answered: another scheme, port or option may be meant, or the service turns this client away; its log tells more. Which HTTP statuses are accepted, `http: {status: …}` says.";
        BodyUnexpected = "body_unexpected", "the answer's body does not contain the text that the manifest asks for",
            "Compare `http: {body: …}` with what the evidence shows of the body; it is searched within its first 64 KiB.";
        TooSlow = "too_slow", "it works, but slower than `max_latency` allows",
            "Look at which phase in the evidence is slow: connect is the way there, tls and protocol mostly the service. If it is as fast as it can be, raise `max_latency`.";
        ProxyUnreachable = "proxy_unreachable", "the proxy on the way could not be reached",
            "Check the proxy's name and port, and the path from this host to it.";
        ProxyRefused = "proxy_refused", "the proxy refused to connect to the target",
            "Allow the target in the proxy's rules; a web server that is no proxy refuses like this too.";
        ProxyTargetFailed = "proxy_target_failed", "the proxy answered, and could not reach the target itself",
            "Check the path from the proxy to the target; the evidence shows the proxy's words.";
        ProxyTimeout = "proxy_timeout", "the proxy was reached, and did not answer in time: mostly it waits for a target that stays silent",
            "Check the path from the proxy to the target first, then the proxy's load. With a `timeout` above the proxy's own connect timeout it says which.";
        ProxyUnexpected = "proxy_unexpected", "what answers where the proxy should be does not speak as an HTTP proxy does",
            "Check the proxy's address and port, and that it speaks plain HTTP to its clients.";
        Reachable = "reachable", "the target answers, and the manifest says that it must not",
            "Close the path, or change `expect` in the manifest.";
    }
}

reasons! {
    /// Why an agent's answer does not count: a reason of the agent's own, or of its vantage point.
    Void {
        LocalResources = "local_resources", "the agent's host ran out of something (ports, descriptors, memory, processor time) or lacks a file, so the probe says nothing of the target",
            "The evidence says what: raise the limit on that host (ulimit -n, net.ipv4.ip_local_port_range) or lower `max_concurrent` in its policy file; where the process was stopped or starved, raise its CPU limit; put a file that is missing there, readable for the agent.";
        PolicyDenied = "policy_denied", "the agent's local policy does not let it probe that address and port, or use that file towards it",
            "The evidence says what was denied. In the policy file (--policy) of that fleet's agents, add the address range and port under [[allow]] or take them out of [[deny]]; for a file, add the [[files]] rule that the evidence writes out. Then restart the agents. Link-local and multicast addresses and the controller's own ports are never probed.";
        WrongVantage = "wrong_vantage", "the agent has another network identity than the inventory states for its fleet",
            "Correct the host's security groups or subnet, or the fleet's `identity` in the inventory. An agent that finds out nothing by itself is told: preflight-agent run --identity security_group=…";
        Intercepted = "intercepted", "something on the host accepts every connection, so a connect proves nothing",
            "Use a scheme that proves the protocol (redis:, tls:) instead of tcp:, or exempt the agent from the mesh.";
        ControlFailed = "control_failed", "targets that are known to be good failed too: the agent's own network is broken",
            "Compare with other hosts of the fleet, and repair this one's network. If only the control targets are at fault, correct [[control]] in its policy file; the agent's log names those that were never good.";
        MembersUnknown = "members_unknown", "the seed did not tell its members, so they were not probed",
            "Mostly it wants a login first, and probes carry none: declare the members as dependencies of their own, or let the default user run CLUSTER SLOTS or SENTINEL MASTERS, REPLICAS and SENTINELS.";
        BlockedUnproven = "blocked_unproven", "it was not reached, but not in the way a firewall stops a path either",
            "Look at the evidence: a name that does not resolve or a network without a route says nothing of a rule. Correct the target, then run the gate again.";
        Cancelled = "cancelled", "the run ended before this probe did",
            "Run again with a longer --wait.";
    }
}

reasons! {
    /// Why a cell is not known, beside the reasons of the agents' own.
    Unknown {
        NoAgent = "no_agent", "no agent of this fleet is connected",
            "Start an agent on this fleet: `preflight token join --region R --fleet F`, then preflight-agent run with that token.";
        TooFewAgents = "too_few_agents", "fewer agents answered than the fleet's `min_agents` asks for",
            "Look whether agents of this fleet are missing (`preflight agents` shows those that were stopped or revoked): start those again, or more of them, or lower the fleet's `min_agents` in the inventory.";
        Silent = "silent", "agents of this fleet did not answer in time, or are lost or were stopped a moment ago",
            "Look at those agents: `preflight agents` shows on which host each is and since when it is lost.";
        NoContrast = "no_contrast", "the path looks blocked, but no other fleet connected to the very address meanwhile, so the target may be down",
            "Declare the same target as reachable for a fleet that uses it, so that the run shows that it is up; for a private address, a fleet of the same region.";
        EgressUnproven = "egress_unproven", "the path looks blocked, but an agent that was stopped connected to nothing else in this run either, so its own network may be down",
            "Declare something that this fleet does reach, or name a target that is known to be good in its agents' policy file: [[control]] target = \"tcp://…\".";
    }
}

/// What is known of a reason by its contract name: its kind, meaning and what to do next.
pub fn lookup(name: &str) -> Option<(&'static str, &'static str, &'static str)> {
    Short::parse(name)
        .map(|r| ("short: the target or the path falls short", r.meaning(), r.next()))
        .or_else(|| Void::parse(name).map(|r| ("void: the agent's answer does not count", r.meaning(), r.next())))
        .or_else(|| Unknown::parse(name).map(|r| ("unknown: the cell is not known", r.meaning(), r.next())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_round_trip() {
        let mut names: Vec<&str> = Short::ALL.iter().map(|r| r.as_str()).collect();
        names.extend(Void::ALL.iter().map(|r| r.as_str()));
        names.extend(Unknown::ALL.iter().map(|r| r.as_str()));
        for name in &names {
            assert!(lookup(name).is_some(), "{name}");
        }
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
        assert_eq!(serde_json::to_string(&Short::DnsNxdomain).unwrap(), "\"dns_nxdomain\"");
    }
}
