//! What a seed of whole servers draws: tier 1's plan, with what is different about servers.

use crate::faults::Fault;
use crate::plan::{MS, Plan, SECOND};
use quorate::types::prng::Prng;

/// The plan of one seed. Only group 1 has an API; chaos is shorter, because a server costs more.
pub fn plan(seed: u64) -> Plan {
    let mut plan = Plan::new(seed);
    let mut rng = Prng::stream(seed, "plan-servers");
    plan.groups = 1;
    plan.members = if rng.chance(4, 5) { 3 } else { 5 };
    plan.chaos_us = rng.between(6, 16) * SECOND;
    plan.think_us = plan.think_us.max(5 * MS);
    for fault in Fault::ALL.iter().filter(|fault| fault.is_of_servers()) {
        plan.faults.insert(*fault, rng.chance(1, 2));
    }
    // A short back-off and an election fit into the time between two acts.
    plan.fault_gap_us = plan.fault_gap_us.min(SECOND);
    plan
}
