//! How many probes may be under way at once, by the policy and by the descriptors that this process can have.

use preflight_probe::EngineOptions;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::policy::Policy;

/// Descriptors that probes never get: standard streams, the runtime, the state directory's lock, instance metadata, and
/// the connection to the controller with its name lookup, which must come back even when the host is short of them.
const RESERVED_DESCRIPTORS: u64 = 24;
/// What a process asks for; more would be of no use.
const WANTED_DESCRIPTORS: u64 = 65_536;
/// What a name lookup needs at a time: a hosts file or configuration, and a socket for each family.
const LOOKUP_DESCRIPTORS: u64 = 3;

/// Ceilings over all of the agent's probes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Targets at once: each has at most one name lookup.
    pub targets: u32,
    /// Addresses at once, over all targets: each has up to [`EngineOptions::SOCKETS`] descriptors.
    pub addresses: u32,
}

impl Limits {
    /// The policy's ceiling, lowered to what the descriptors allow: a third of them for name lookups, the rest for dials.
    pub fn new(policy: &Policy, descriptors: u64) -> Self {
        let free = descriptors.saturating_sub(RESERVED_DESCRIPTORS);
        let within = |descriptors: u64, each: u64| {
            let most = u32::try_from(descriptors / each).unwrap_or(u32::MAX);
            policy.max_concurrent.min(most).max(1)
        };
        Self {
            targets: within(free / 3, LOOKUP_DESCRIPTORS),
            addresses: within(free - free / 3, EngineOptions::SOCKETS as u64),
        }
    }
}

/// Raises this process's limit of open descriptors as far as it may, and says how many it can have.
pub fn raise_descriptors() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let now = limit.current.unwrap_or(WANTED_DESCRIPTORS);
    let wanted = limit.maximum.unwrap_or(WANTED_DESCRIPTORS).min(WANTED_DESCRIPTORS);
    if wanted <= now {
        return now;
    }
    let raised = setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum: limit.maximum });
    if raised.is_ok() { wanted } else { now }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_are_left_for_the_stream() {
        let policy = Policy::default();
        for descriptors in [0, 24, 64, 100, 256, 1024, 65_536, u64::MAX] {
            let limits = Limits::new(&policy, descriptors);
            let used = u64::from(limits.targets) * LOOKUP_DESCRIPTORS
                + u64::from(limits.addresses) * EngineOptions::SOCKETS as u64;
            assert!(limits.targets > 0 && limits.addresses > 0);
            assert!(descriptors < 64 || used <= descriptors - RESERVED_DESCRIPTORS, "{descriptors}: {limits:?}");
        }
        let plenty = Limits::new(&policy, 65_536);
        assert_eq!(plenty, Limits { targets: Policy::MAX_CONCURRENT, addresses: Policy::MAX_CONCURRENT });
        assert!(raise_descriptors() > 0);
    }
}
