//! How many probes may be under way at once, by the policy and by the descriptors that this process can have.

use preflight_probe::EngineOptions;

use crate::policy::Policy;

/// Descriptors that probes never get: standard streams, the runtime, the state directory's lock, files that are read, instance metadata,
/// and the connection to the controller with its name lookup, which must come back even when the host is short of them.
const RESERVED_DESCRIPTORS: u64 = 24;
/// Ceilings over all of the agent's probes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Targets at once, and addresses at once over all targets: up to [`EngineOptions::DESCRIPTORS`] for each.
    pub at_once: u32,
    /// Control targets at once, beside all that.
    pub controls: u32,
}

impl Limits {
    /// The policy's ceiling, lowered to what the descriptors allow: at most a quarter of them for control targets, where there
    /// are any, and the rest for the others.
    pub fn new(policy: &Policy, descriptors: u64) -> Self {
        let each = EngineOptions::DESCRIPTORS as u64;
        let free = descriptors.saturating_sub(RESERVED_DESCRIPTORS);
        let within = |descriptors: u64, most: u32| {
            let fit = u32::try_from(descriptors / each).unwrap_or(u32::MAX);
            most.min(fit).max(1)
        };
        let wanted = u32::try_from(policy.controls().len()).unwrap_or(u32::MAX);
        let controls = if wanted == 0 { 0 } else { within(free / 4, wanted) };
        let free = free.saturating_sub(u64::from(controls) * each);
        Self { at_once: within(free, policy.max_concurrent), controls }
    }
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
                let used = (u64::from(limits.at_once) + u64::from(limits.controls)) * EngineOptions::DESCRIPTORS as u64;
                assert!(limits.at_once > 0);
                assert_eq!(limits.controls == 0, policy.controls().len() == 0);
                assert!(descriptors < 64 || used <= descriptors - RESERVED_DESCRIPTORS, "{descriptors}: {limits:?}");
            }
        }
        let plenty = Limits::new(&Policy::default(), 65_536);
        let ceiling = Policy::MAX_CONCURRENT;
        assert_eq!(plenty, Limits { at_once: ceiling, controls: 0 });
    }

    #[test]
    fn a_thousand_dropped_targets_do_not_queue() {
        let limits = Limits::new(&Policy::default(), 20_000);
        assert!(limits.at_once >= 1_000, "{limits:?}");
    }
}
