//! A sample of the twelve faults of the simulation over the real API server: each strikes requests of several kinds,
//! reads and writes, of one campaign.

use std::collections::BTreeSet;

use crate::Fleet;
use crate::ended::compare;
use crate::operator_kills::{SMALL, disturbed, reference};
use crate::undisturbed::THOUSAND_MAX;
use crate::wire::{Call, FAULTS, Wire};

/// Every so manyth request goes wrong: a prime.
const STRIDE: u64 = 7;
/// Rounds through the twelve.
const ROUNDS: u64 = 2;

pub fn sampled(fleet: &Fleet) -> String {
    let count = FAULTS.len() as u64;
    fleet.runtime.block_on(async {
        let reference = reference(fleet, SMALL).await;
        let decide = move |call: Call| {
            let is_struck = call.number.is_multiple_of(STRIDE) && call.troubles < ROUNDS * count;
            is_struck.then(|| FAULTS[usize::try_from(call.troubles % count).unwrap()])
        };
        let wire = Wire::new(true, Box::new(decide));
        let (ended, watched, _) = disturbed(fleet, SMALL, &wire, THOUSAND_MAX).await;
        compare(&reference, &ended);
        assert_eq!(ended.sandboxes, reference.sandboxes);
        let struck: BTreeSet<_> =
            wire.by_kind().into_values().flat_map(std::collections::BTreeMap::into_keys).collect();
        assert_eq!(struck.len(), FAULTS.len(), "each fault was met");
        let kinds: Vec<String> = wire.by_kind().into_keys().collect();
        format!(
            "{} faults of {} sorts at {}; 0 violations, records and final status equal; {:.1} s",
            wire.troubles(),
            struck.len(),
            kinds.join(", "),
            watched.wall.as_secs_f64()
        )
    })
}
