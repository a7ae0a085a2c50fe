//! What one seed does: cluster, limits, workload and faults, all drawn before the first event.
//!
//! Swarm testing: each operation is switched fully off in about half of the seeds, faults come in
//! numbers from none to many (`swarm.rs`), and limits are drawn from tiny to roomy, because rare
//! states hide behind the average mix. Every purpose has its own stream, so that taking one
//! decision away does not shift the others.

use crate::callers::AuthPlan;
use crate::faults::Fault;
pub use crate::seed::Seed;
use crate::swarm::{Swarm, is_idle_op};
use crate::tape::Decision;
use crate::text::{Field, field, field_of, parts};
use crate::watch::WatchPlan;
use bytes::Bytes;
use quorate::types::prng::Prng;
use std::collections::BTreeMap;

pub const MS: u64 = 1_000;
pub const SECOND: u64 = 1_000_000;

/// Kinds of client operations, each with its own weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OpKind {
    Put,
    Get,
    GetSerializable,
    GetOld,
    Range,
    Delete,
    DeleteRange,
    Txn,
    ReadTxn,
    Compact,
    LeaseGrant,
    LeaseRevoke,
    LeaseKeepAlive,
    LeasePut,
    LeaseTtl,
    /// LeaseLeases, with every lease's keys.
    Leases,
    Alarm,
    /// The next step of a program over several calls.
    Program,
    /// A change of users and roles.
    Users,
}

pub const OP_KINDS: [OpKind; 19] = [
    OpKind::Put,
    OpKind::Get,
    OpKind::GetSerializable,
    OpKind::GetOld,
    OpKind::Range,
    OpKind::Delete,
    OpKind::DeleteRange,
    OpKind::Txn,
    OpKind::ReadTxn,
    OpKind::Compact,
    OpKind::LeaseGrant,
    OpKind::LeaseRevoke,
    OpKind::LeaseKeepAlive,
    OpKind::LeasePut,
    OpKind::LeaseTtl,
    OpKind::Leases,
    OpKind::Alarm,
    OpKind::Program,
    OpKind::Users,
];

/// What is asked about leases and with them, and how often where the rights to their keys are to be
/// found out: keys on leases are soon written by others, and are on none any more.
const LEASE_OPS: [(OpKind, u64); 6] = [
    (OpKind::LeaseGrant, 2),
    (OpKind::LeaseRevoke, 4),
    (OpKind::LeaseKeepAlive, 2),
    (OpKind::LeasePut, 10),
    (OpKind::LeaseTtl, 2),
    (OpKind::Leases, 3),
];

field_of!(OpKind, OP_KINDS);

/// Delays of one link, in microseconds.
#[derive(Clone, Copy, Debug)]
pub struct Delay {
    pub min_us: u64,
    pub mean_us: u64,
    /// One message in this many takes the tail's time; 0 for never.
    pub tail_one_in: u64,
    pub tail_us: u64,
}

/// The plan, and its fields by name: each can be stated on a tape.
macro_rules! plan {
    ($(#[$meta:meta])* pub struct Plan { $($(#[$about:meta])* pub $field:ident: $type:ty,)* }) => {
        $(#[$meta])*
        pub struct Plan { $($(#[$about])* pub $field: $type,)* }
        impl Plan {
            /// Every field as a tape states it.
            pub fn decisions(&self) -> Vec<Decision> {
                vec![$(Decision::Plan {
                    field: stringify!($field).to_owned(),
                    value: format!("{:?}", self.$field),
                },)*]
            }
            fn set(&mut self, field: &str, value: &str) -> Option<()> {
                match field {
                    $(stringify!($field) => self.$field = Field::read(value)?,)*
                    _ => return None,
                }
                Some(())
            }
        }
    };
}

plan! {
#[derive(Clone, Debug)]
pub struct Plan {
    /// The seed's number.
    pub seed: u64,
    /// Its whole name: streams are drawn from this (`Plan::stream`).
    pub name: Seed,
    pub members: usize,
    pub groups: u64,
    // Limits of each member.
    pub tick_us: u64,
    pub election_ticks: u32,
    pub pre_vote: bool,
    pub segment_bytes: u64,
    pub cache_bytes: usize,
    pub wal_tail_bytes: u64,
    pub tail_entries: u64,
    pub trim_keep_entries: u64,
    pub log_cache_bytes: usize,
    pub append_bytes: usize,
    pub inflight_appends: usize,
    pub snapshot_chunk_bytes: usize,
    pub value_bytes_max: usize,
    // Disk.
    pub sync_us: u64,
    pub write_us: u64,
    pub apply_us: u64,
    /// How long the core gathers before its turn ends; 0 ends it with every action.
    pub turn_us: u64,
    // Workload.
    pub clients: usize,
    pub think_us: u64,
    pub timeout_us: u64,
    pub hot_keys: u64,
    pub cold_keys: u64,
    /// What all keys have in common besides their first letters. Long keys make wide pages: trees
    /// then have three levels and more.
    pub key_stem_bytes: usize,
    pub ops: BTreeMap<OpKind, u64>,
    /// Clients besides that keep short leases, and leave it late.
    pub lease_keepers: u64,
    /// Calls that one client has open at a time.
    pub pipeline: usize,
    /// What a client asks of one group it asks of every other as well: logs of equal length that
    /// hold different things.
    pub in_step: bool,
    /// 0 is unlimited.
    pub quota_bytes: u64,
    pub watch: WatchPlan,
    pub auth: AuthPlan,
    // Chaos.
    pub delay: Delay,
    pub chaos_us: u64,
    pub faults: BTreeMap<Fault, bool>,
    pub fault_gap_us: u64,
}
}

impl Field for Delay {
    fn read(text: &str) -> Option<Delay> {
        let (_, fields) = parts(text)?;
        Some(Delay {
            min_us: field(&fields, "min_us")?,
            mean_us: field(&fields, "mean_us")?,
            tail_one_in: field(&fields, "tail_one_in")?,
            tail_us: field(&fields, "tail_us")?,
        })
    }
}

fn pick<T: Copy>(rng: &mut Prng, from: &[T]) -> T {
    from[rng.below(from.len() as u64) as usize]
}

/// The stem is in the middle: ranges over all hot or all cold keys are named without it.
pub fn key(stem_bytes: usize, hot: bool, number: u64) -> Bytes {
    let stem = "k".repeat(stem_bytes);
    Bytes::from(if hot { format!("hot/{stem}{number}") } else { format!("cold/{stem}{number:03}") })
}

impl Plan {
    pub fn new(seed: u64) -> Plan {
        Plan::of(&Seed::new(seed))
    }

    pub fn of(seed: &Seed) -> Plan {
        let mut size = seed.stream("plan-size");
        let mut limits = seed.stream("plan-limits");
        let mut load = seed.stream("plan-load");
        let mut chaos = seed.stream("plan-chaos");
        let tick_us = pick(&mut limits, &[20 * MS, 50 * MS, 100 * MS]);
        let mut ops = BTreeMap::new();
        for kind in OP_KINDS {
            let weight = match kind {
                OpKind::Put => 12,
                OpKind::Get => 8,
                OpKind::Compact
                | OpKind::LeaseRevoke
                | OpKind::LeaseGrant
                | OpKind::Alarm
                | OpKind::Users => 1,
                OpKind::Program => 6,
                _ => 3,
            };
            let on = kind == OpKind::Put || kind == OpKind::Get || load.chance(1, 2);
            // A raised alarm stops most of the rest: few seeds have them.
            let on = on && (kind != OpKind::Alarm || load.chance(1, 3));
            ops.insert(kind, if on { weight } else { 0 });
        }
        let swarm = Swarm::new(seed);
        let mut plan = Plan {
            seed: seed.number,
            name: seed.clone(),
            // Three and five as in production, and what is at the edges of the arithmetic.
            members: pick(&mut size, &[3, 3, 3, 3, 3, 3, 3, 5, 5, 5, 1, 2, 4, 7]),
            groups: size.between(1, 4),
            tick_us,
            election_ticks: 10,
            // Without it more elections are decided by the vote itself.
            pre_vote: limits.chance(2, 3),
            segment_bytes: pick(&mut limits, &[8 << 10, 32 << 10, 256 << 10]),
            cache_bytes: pick(&mut limits, &[64 << 10, 256 << 10, 4 << 20]),
            wal_tail_bytes: pick(&mut limits, &[8 << 10, 64 << 10, 512 << 10]),
            tail_entries: pick(&mut limits, &[5, 50, 1_000, u64::MAX]),
            trim_keep_entries: pick(&mut limits, &[2, 10, 100, 5_000]),
            log_cache_bytes: pick(&mut limits, &[256, 4 << 10, 1 << 20]),
            append_bytes: pick(&mut limits, &[64, 4 << 10, 1 << 20]),
            inflight_appends: pick(&mut limits, &[1, 4, 256]),
            snapshot_chunk_bytes: pick(&mut limits, &[512, 4 << 10, 64 << 10]),
            value_bytes_max: pick(&mut limits, &[16, 64, 1_000]),
            sync_us: pick(&mut limits, &[100, 1_000, 8_000]),
            write_us: pick(&mut limits, &[20, 200]),
            apply_us: pick(&mut limits, &[20, 300, 3_000]),
            turn_us: pick(&mut limits, &[0, 0, 30, 300]),
            clients: load.between(2, 8) as usize,
            think_us: pick(&mut load, &[2 * MS, 10 * MS, 50 * MS]),
            timeout_us: pick(&mut load, &[SECOND, 3 * SECOND]),
            hot_keys: load.between(1, 4),
            cold_keys: pick(&mut load, &[8, 40, 200]),
            key_stem_bytes: pick(&mut seed.stream("plan-keys"), &[0, 0, 0, 0, 0, 60, 300, 900]),
            ops,
            lease_keepers: 0,
            pipeline: pick(&mut load, &[1, 1, 1, 1, 2, 6]),
            in_step: seed.stream("plan-step").chance(1, 8),
            quota_bytes: pick(&mut load, &[0, 0, 0, 0, 0, 0, 0, 128 << 10, 512 << 10]),
            watch: WatchPlan::new(seed),
            auth: AuthPlan::new(seed),
            delay: Delay {
                min_us: pick(&mut chaos, &[50, 500, 2_000]),
                mean_us: pick(&mut chaos, &[100, 1_000, 5_000]),
                tail_one_in: pick(&mut chaos, &[0, 50, 500]),
                tail_us: tick_us * chaos.between(1, 15),
            },
            chaos_us: chaos.between(6, 16) * SECOND,
            faults: swarm.faults,
            fault_gap_us: tick_us * swarm.gap_ticks,
        };
        swarm.theme.shape(seed, &mut plan);
        // A restored cluster has the alarms of the old one: it could not show that it serves.
        if plan.on(Fault::Restored) {
            plan.quota_bytes = 0;
            plan.ops.insert(OpKind::Alarm, 0);
        }
        // Where users count somebody changes them.
        if plan.auth.on {
            plan.ops.insert(OpKind::Users, plan.auth.changes);
            if plan.auth.edges {
                plan.ops.extend(LEASE_OPS);
            }
        }
        plan.auth.on &= !swarm.idle;
        if swarm.idle {
            plan.ops.iter_mut().filter(|op| !is_idle_op(*op.0)).for_each(|op| *op.1 = 0);
            plan.clients = plan.clients.min(2);
            plan.think_us = SECOND;
            plan.lease_keepers = 0;
        }
        plan
    }

    /// The plan of a tape: what it states, and for the rest (a field that is newer than the tape)
    /// what the seed draws.
    pub fn from_fields<'t>(
        fields: impl Iterator<Item = (&'t str, &'t str)> + Clone,
    ) -> Result<Plan, String> {
        let name = fields.clone().find(|f| f.0 == "name").ok_or("a tape states its seed's name")?;
        let mut plan = Plan::of(&name.1.parse()?);
        for (field, value) in fields {
            if plan.set(field, value).is_none() {
                return Err(format!("a plan has no field {field} that could be {value}"));
            }
        }
        Ok(plan)
    }

    /// The key of a number among the hot or the cold ones.
    pub fn key(&self, hot: bool, number: u64) -> Bytes {
        key(self.key_stem_bytes, hot, number)
    }

    /// The generator of one purpose.
    pub fn stream(&self, purpose: &str) -> Prng {
        self.name.stream(purpose)
    }
    pub fn election_us(&self) -> u64 {
        self.tick_us * u64::from(self.election_ticks)
    }
    pub fn on(&self, fault: Fault) -> bool {
        self.faults.get(&fault).copied().unwrap_or(false)
    }

    /// How much faster or slower than true time a member's clock may go, in millionths.
    pub fn drift_ppm(&self) -> u64 {
        if self.on(Fault::ClockDriftWide) {
            50_000
        } else if self.on(Fault::ClockDrift) {
            10_000
        } else {
            0
        }
    }

    /// One line for a failure's report.
    pub fn summary(&self) -> String {
        let faults: Vec<&str> = self.faults.iter().filter(|f| *f.1).map(|f| f.0.name()).collect();
        format!(
            "members {} groups {} tick {}ms segment {} cache {} tail {} keep {} chunk {} \
             sync {}us clients {} chaos {}s {}faults [{}]",
            self.members,
            self.groups,
            self.tick_us / MS,
            self.segment_bytes,
            self.cache_bytes,
            self.wal_tail_bytes,
            self.trim_keep_entries,
            self.snapshot_chunk_bytes,
            self.sync_us,
            self.clients,
            self.chaos_us / SECOND,
            if self.auth.on { "users count " } else { "" },
            faults.join(" ")
        )
    }
}
