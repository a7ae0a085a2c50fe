//! What a seed is about, if it is about anything in particular.
//!
//! Where faults are drawn one by one, what takes three of a kind together with the right limits
//! turns up once in hundreds of seeds. So some seeds take a family: changes of the membership in a
//! row, leaders that come and go over logs that part, leases that end while leadership moves, states
//! that are fetched. The family sets only what it needs; the rest of the plan is drawn as ever.

use crate::faults::Fault;
use crate::plan::{MS, OpKind, Plan, Seed};
use quorate::types::prng::Prng;
use std::collections::BTreeMap;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Theme {
    None,
    /// Members come, go and change places, one change after the other, while leaders are lost.
    Members,
    /// The same few members lead by turns, each with a tail of its own, and old messages return.
    Turns,
    /// Short leases end while leadership moves and disks are slow.
    Leases,
    /// Logs keep next to nothing, so that whoever was away fetches the states of all groups at
    /// once, from leaders that come and go.
    Fetches,
}

/// Acts about members, and what may fall in the middle of a change.
const MEMBERS: &[Fault] = &[
    Fault::AddVoter,
    Fault::AddLearner,
    Fault::Promote,
    Fault::Promote,
    Fault::Remove,
    Fault::Replace,
    Fault::JointChange,
    Fault::JointChange,
    Fault::JointLoss,
    Fault::Remedy,
];
const BESIDE_MEMBERS: &[Fault] = &[
    Fault::IsolateLeader,
    Fault::Minority,
    Fault::Partition,
    Fault::Crash,
    Fault::CrashBetween,
    Fault::Transfer,
    Fault::QuorumEdge,
    Fault::SlowDisk,
    Fault::Wipe,
    Fault::BitRot,
];
const TURNS: &[Fault] = &[
    Fault::Minority,
    Fault::Minority,
    Fault::IsolateLeader,
    Fault::Transfer,
    Fault::Transfer,
    Fault::Crash,
    Fault::Pause,
    Fault::SlowDisk,
    Fault::OneWay,
];
const LEASES: &[Fault] = &[
    Fault::Transfer,
    Fault::Transfer,
    Fault::IsolateLeader,
    Fault::SlowDisk,
    Fault::SlowLink,
    Fault::Pause,
    Fault::OneWay,
    Fault::Crash,
];

const FETCHES: &[Fault] = &[
    Fault::Minority,
    Fault::Minority,
    Fault::IsolateLeader,
    Fault::Crash,
    Fault::CrashBetween,
    Fault::CrashRare,
    Fault::Pause,
    Fault::LongPause,
    Fault::Transfer,
    Fault::SlowLink,
    Fault::SlowDisk,
    Fault::AddLearner,
    Fault::Replace,
    Fault::GroupCreate,
    Fault::GroupDestroy,
    Fault::GroupDestroy,
];

impl Theme {
    pub fn new(seed: &Seed) -> Theme {
        match seed.stream("theme").below(10) {
            0 | 1 => Theme::Members,
            2 => Theme::Turns,
            3 => Theme::Leases,
            4 => Theme::Fetches,
            _ => Theme::None,
        }
    }

    /// Sets the faults of the family: its acts instead of those that were drawn.
    pub fn choose(self, seed: &Seed, faults: &mut BTreeMap<Fault, bool>, gap_ticks: &mut u64) {
        if self == Theme::None {
            return;
        }
        let mut rng = seed.stream("theme-faults");
        for (fault, on) in faults.iter_mut() {
            *on &= !fault.is_act();
        }
        let take = |rng: &mut Prng, family: &[Fault], of: (u64, u64)| {
            family.iter().copied().filter(|_| rng.chance(of.0, of.1)).collect::<Vec<_>>()
        };
        let chosen = match self {
            Theme::None => Vec::new(),
            Theme::Members => {
                let mut chosen = take(&mut rng, MEMBERS, (1, 2));
                chosen.extend(take(&mut rng, BESIDE_MEMBERS, (1, 4)));
                // The operator's remedy is for members that are lost.
                if chosen.contains(&Fault::Remedy) && rng.chance(2, 3) {
                    chosen.push(Fault::Wipe);
                }
                faults.insert(Fault::AskedTwice, rng.chance(1, 2));
                faults.insert(Fault::LostInChange, rng.chance(1, 2));
                chosen
            }
            Theme::Turns => {
                faults.insert(Fault::LateReplay, rng.chance(3, 4));
                faults.insert(Fault::Reorder, rng.chance(1, 2));
                let chosen = take(&mut rng, TURNS, (1, 2));
                faults.insert(Fault::TurnReplay, rng.chance(1, 2));
                chosen
            }
            Theme::Leases => {
                faults.insert(Fault::DropClass, rng.chance(1, 3));
                take(&mut rng, LEASES, (1, 2))
            }
            Theme::Fetches => {
                let chosen = take(&mut rng, FETCHES, (1, 2));
                faults.insert(Fault::LogStall, rng.chance(1, 3));
                faults.insert(Fault::LateReplay, rng.chance(1, 3));
                let stalls = seed.stream("theme-apply-stall").chance(1, 3);
                faults.insert(Fault::ApplyStall, stalls);
                chosen
            }
        };
        for fault in chosen {
            faults.insert(fault, true);
        }
        *gap_ticks = rng.between(3, 25);
    }

    /// Sets the limits and the load that the family needs.
    pub fn shape(self, seed: &Seed, plan: &mut Plan) {
        let mut rng = seed.stream("theme-shape");
        let mut pick = |from: &[u64]| from[rng.below(from.len() as u64) as usize];
        // A few clients that keep leases are found anywhere.
        plan.lease_keepers = pick(&[0, 0, 0, 0, 0, 0, 1, 2]);
        match self {
            Theme::None => {}
            Theme::Members => {
                plan.members = pick(&[3, 3, 3, 5, 4, 2]) as usize;
                plan.groups = pick(&[1, 1, 2, 3]);
                plan.think_us = pick(&[2, 10]) * MS;
            }
            Theme::Turns => {
                plan.members = pick(&[3, 5, 5]) as usize;
                plan.groups = 1;
                plan.append_bytes = pick(&[64, 64, 512]) as usize;
                plan.inflight_appends = pick(&[1, 2, 4]) as usize;
                plan.trim_keep_entries = pick(&[100, 5_000]);
                plan.think_us = 2 * MS;
                plan.pre_vote = pick(&[0, 1]) == 1;
            }
            Theme::Fetches => {
                plan.members = pick(&[3, 3, 5]) as usize;
                plan.groups = pick(&[1, 2, 3, 4]);
                plan.tail_entries = pick(&[5, 5, 50]);
                plan.trim_keep_entries = pick(&[2, 2, 10]);
                plan.snapshot_chunk_bytes = pick(&[512, 4 << 10]) as usize;
                plan.think_us = pick(&[2, 10]) * MS;
                plan.in_step = pick(&[0, 1]) == 1;
                // So slow that a group may be destroyed by a batch in front of its state.
                plan.apply_us = pick(&[300, 3_000, 20_000, 60_000]);
            }
            Theme::Leases => {
                plan.lease_keepers = pick(&[3, 5, 8]);
                plan.groups = pick(&[1, 1, 2]);
                plan.sync_us = pick(&[1, 8]) * MS;
                plan.tick_us = pick(&[20, 50]) * MS;
                for kind in [OpKind::LeaseKeepAlive, OpKind::LeaseTtl, OpKind::LeasePut] {
                    plan.ops.insert(kind, 3);
                }
                plan.quota_bytes = 0;
                plan.ops.insert(OpKind::Alarm, 0);
            }
        }
    }
}
