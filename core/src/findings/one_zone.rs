//! The hosts of one zone do not reach it, and those of the others do: a zone's network, not a fleet's rules.

use std::collections::BTreeSet;

use super::{Attribute, Host, fleets_of, join};
use crate::text::escape;

const ZONE: &str = "zone";
/// What a zone brings along: it explains nothing more.
const OF_A_ZONE: [&str; 2] = [ZONE, "subnet"];

/// What to say, where the zone is what tells the hosts apart and nothing else does.
pub(super) fn tell(
    reach: &[Host<'_>],
    fail: &[Host<'_>],
    fails: &str,
    only_reach: &[Attribute],
    only_fail: &[Attribute],
) -> Option<String> {
    let zone = only_fail.iter().find(|a| a.key == ZONE)?;
    if only_reach.iter().chain(only_fail).any(|a| !OF_A_ZONE.contains(&a.key.as_str())) {
        return None;
    }
    // A host that tells no zone may stand in that very one.
    let told: Option<Vec<_>> =
        reach.iter().map(|host| host.identity.0.get(ZONE).filter(|zones| !zones.is_empty())).collect();
    let others: BTreeSet<&str> = told?.into_iter().flatten().map(String::as_str).collect();
    Some(format!(
        "{fails} from zone {} alone: from all {} hosts there that answered (of {}), and from none of the {} in {}.",
        escape(&zone.value),
        fail.len(),
        join(fleets_of(fail)),
        reach.len(),
        join(others),
    ))
}
