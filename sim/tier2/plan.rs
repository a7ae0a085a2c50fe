//! What a seed of whole servers draws: tier 1's limits and workload, and faults of its own.

use crate::faults::Fault;
use crate::plan::{MS, OpKind, Plan, SECOND, Seed};
use std::collections::BTreeMap;

/// Every fault that whole servers can meet.
pub const FAULTS: &[Fault] = &[
    Fault::Partition,
    Fault::OneWay,
    Fault::IsolateLeader,
    Fault::SlowLink,
    Fault::Reset,
    Fault::HalfOpen,
    Fault::DeafPeer,
    Fault::Crash,
    Fault::CrashInWrite,
    Fault::Pause,
    Fault::Stop,
    Fault::Transfer,
    Fault::SlowDisk,
    Fault::DiskError,
    Fault::Wipe,
    Fault::ForeignPeer,
    Fault::OtherClusterDir,
    Fault::LostAnswer,
    Fault::Garbled,
    Fault::Stranger,
    Fault::ClockOffset,
    Fault::ClockDrift,
    Fault::WallJump,
];

/// Those of them that are not done but are there all the time.
pub const STANDING: &[Fault] =
    &[Fault::LostAnswer, Fault::ClockOffset, Fault::ClockDrift, Fault::WallJump];

/// The plan of one seed. Only group 1 has an API.
pub fn plan(seed: &Seed) -> Plan {
    let mut plan = Plan::of(seed);
    let mut rng = seed.stream("plan-servers");
    plan.groups = 1;
    // Programs and questions about leases and alarms are tier 1's: clients here have one call at a
    // time and remember no more than what it answered.
    for kind in [OpKind::Program, OpKind::Alarm, OpKind::LeaseTtl, OpKind::Leases, OpKind::Users] {
        plan.ops.insert(kind, 0);
    }
    // Its clients are nobody.
    plan.auth.on = false;
    plan.quota_bytes = 0;
    plan.members = if rng.chance(4, 5) { 3 } else { 5 };
    plan.chaos_us = rng.between(6, 16) * SECOND;
    plan.think_us = plan.think_us.max(5 * MS);
    plan.fault_gap_us = plan.tick_us * rng.between(4, 30);
    // Few at a time, half of them, or none at all: see `swarm` for why.
    let few = rng.chance(1, 3);
    let calm = rng.chance(1, 24);
    plan.faults = BTreeMap::new();
    for fault in FAULTS {
        let draw = seed.stream(&format!("servers-{}", fault.name())).next_u64();
        let on = draw.is_multiple_of(if few { 6 } else { 2 });
        plan.faults.insert(*fault, on && !calm);
    }
    plan
}
