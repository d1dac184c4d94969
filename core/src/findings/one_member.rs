//! One member of a cluster falls short from whoever tries it, and the others work.

use super::one_address::odd_one;
use super::{Draft, Kind, Seen};
use crate::observation::Observation;
use crate::text::escape;

pub(super) fn find(seen: &Seen<'_>) -> Option<Draft> {
    let place =
        |o: &Observation| o.member.as_ref().map(|member| format!("{} {}", member.role.as_str(), member.endpoint));
    let odd = odd_one(seen, place)?;
    let rest = format!(
        "fails at one of its {} members: {} ({}), from all {} hosts that tried it ({}); the others work. Look at that member.",
        odd.places,
        escape(&odd.place),
        odd.reason,
        odd.short,
        odd.fleets,
    );
    let mut draft = Draft::new(Kind::OneMember, seen.dependency, rest);
    draft.explains = seen.failing_cells();
    Some(draft)
}
