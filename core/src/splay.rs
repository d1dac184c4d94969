//! When probes begin: of one target at most so many in a second, over all agents of a run, evenly spread.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::time::Duration;

use jiff::Timestamp;

use crate::plan::Plan;
use crate::target::Host;

/// The moments at which the targets of a run may be probed next.
///
/// What is counted are probes of a `host:port` as the plan names it, and of a proxy that is dialled instead. A probe connects
/// once to each address of the name, and to each member that it tells of; only where it meets silence does it send more than
/// one SYN to an address: six, and where another one gets through beside it, those of the search for a dead path, with a
/// whole exchange for each port that is answered. Seeds of one cluster each count for themselves.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Splay {
    /// For each cell, what its probe dials: indices into `free`.
    dials: Vec<Vec<usize>>,
    /// From when on each of them may be probed.
    free: Vec<Timestamp>,
    apart: Duration,
}

impl Splay {
    /// At most `rate` probes of each target begin in a second.
    pub(crate) fn new(plan: &Plan, rate: NonZeroU32) -> Self {
        let mut known: HashMap<(&Host, u16), usize> = HashMap::new();
        let dials = plan.cells.iter().map(|cell| {
            let target = (&cell.spec.target.host, cell.spec.target.port);
            let proxy = cell.spec.via.as_ref().map(|proxy| (&proxy.host, proxy.port));
            let mut number = |dialled| {
                let next = known.len();
                *known.entry(dialled).or_insert(next)
            };
            [Some(target), proxy].into_iter().flatten().map(&mut number).collect()
        });
        let dials = dials.collect();
        let apart = Duration::from_nanos(1_000_000_000_u64.div_ceil(rate.get().into()));
        Self { dials, free: vec![Timestamp::MIN; known.len()], apart }
    }

    /// The first moment from `now` on at which a probe of this cell may begin; it is taken.
    pub(crate) fn take(&mut self, cell: usize, now: Timestamp) -> Timestamp {
        let dials = self.dials.get(cell).map_or(&[][..], Vec::as_slice);
        let start =
            dials.iter().filter_map(|dialled| self.free.get(*dialled)).fold(now, |start, free| start.max(*free));
        for dialled in dials {
            if let Some(free) = self.free.get_mut(*dialled) {
                *free = start.checked_add(self.apart).unwrap_or(Timestamp::MAX);
            }
        }
        start
    }
}
