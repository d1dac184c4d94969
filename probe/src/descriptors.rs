//! How many descriptors this process can have.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// What a process asks for; more would be of no use.
const WANTED: u64 = 65_536;

/// Raises this process's limit of open descriptors as far as it may and as is of use, and says how many it can have.
pub fn raise_descriptors() -> u64 {
    let Ok((now, most)) = getrlimit(Resource::RLIMIT_NOFILE) else { return 0 };
    let wanted = most.min(WANTED);
    let raised = wanted > now && setrlimit(Resource::RLIMIT_NOFILE, wanted, most).is_ok();
    if raised { wanted } else { now }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_raised_as_far_as_it_goes() {
        let (before, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        let can_have = raise_descriptors();
        assert_eq!(can_have, getrlimit(Resource::RLIMIT_NOFILE).unwrap().0);
        assert!(can_have >= before && can_have >= most.min(WANTED));
    }
}
