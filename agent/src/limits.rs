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
    /// Control targets at once, beside all that.
    pub controls: u32,
}

impl Limits {
    /// The policy's ceiling, lowered to what the descriptors allow: at most a quarter of them for control targets, where there
    /// are any; a third of what remains for name lookups, and the rest for dials.
    pub fn new(policy: &Policy, descriptors: u64) -> Self {
        let sockets = EngineOptions::SOCKETS as u64;
        let free = descriptors.saturating_sub(RESERVED_DESCRIPTORS);
        let within = |descriptors: u64, each: u64, most: u32| {
            let fit = u32::try_from(descriptors / each).unwrap_or(u32::MAX);
            most.min(fit).max(1)
        };
        let wanted = u32::try_from(policy.controls().len()).unwrap_or(u32::MAX);
        let each_control = sockets + LOOKUP_DESCRIPTORS;
        let controls = if wanted == 0 { 0 } else { within(free / 4, each_control, wanted) };
        let free = free.saturating_sub(u64::from(controls) * each_control);
        Self {
            targets: within(free / 3, LOOKUP_DESCRIPTORS, policy.max_concurrent),
            addresses: within(free - free / 3, sockets, policy.max_concurrent),
            controls,
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
        let controls = |count| "[[control]]\ntarget = 'tcp://10.0.0.2:53'\n".repeat(count);
        for policy in [0, 1, 8].map(|count| Policy::parse("p.toml", &controls(count)).unwrap()) {
            for descriptors in [0, 24, 64, 100, 256, 1024, 65_536, u64::MAX] {
                let limits = Limits::new(&policy, descriptors);
                let sockets = EngineOptions::SOCKETS as u64;
                let used = u64::from(limits.targets) * LOOKUP_DESCRIPTORS
                    + u64::from(limits.addresses) * sockets
                    + u64::from(limits.controls) * (sockets + LOOKUP_DESCRIPTORS);
                assert!(limits.targets > 0 && limits.addresses > 0);
                assert_eq!(limits.controls == 0, policy.controls().len() == 0);
                assert!(descriptors < 64 || used <= descriptors - RESERVED_DESCRIPTORS, "{descriptors}: {limits:?}");
            }
        }
        let plenty = Limits::new(&Policy::default(), 65_536);
        let ceiling = Policy::MAX_CONCURRENT;
        assert_eq!(plenty, Limits { targets: ceiling, addresses: ceiling, controls: 0 });
        assert!(raise_descriptors() > 0);
    }

    #[test]
    fn a_thousand_dropped_targets_do_not_queue() {
        let limits = Limits::new(&Policy::default(), 20_000);
        assert!(limits.targets >= 1_000 && limits.addresses >= 1_000, "{limits:?}");
    }
}
