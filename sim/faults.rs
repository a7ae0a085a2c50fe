//! The faults by name: switches, counters and the nemesis' schedule.
//!
//! A fault is *fired* when it was injected and has *mattered* when something observable came of
//! it: a message that would have arrived did not, a byte that was written was lost, a connection
//! was refused. A fault that fires often and never matters tests nothing.

use crate::plan::Plan;
use quorate::types::prng::Prng;
use std::collections::BTreeMap;

macro_rules! faults {
    ($($variant:ident $name:literal,)*) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Fault { $($variant,)* }
        impl Fault {
            pub const ALL: &'static [Fault] = &[$(Fault::$variant,)*];
            pub fn name(self) -> &'static str {
                match self { $(Fault::$variant => $name,)* }
            }
        }
    };
}

faults! {
    // Links.
    Partition "partition",
    OneWay "one-way",
    IsolateLeader "isolate-leader",
    SlowLink "slow-link",
    Drop "drop",
    Duplicate "duplicate",
    Reorder "reorder",
    LateReplay "late-replay",
    // Processes.
    Crash "crash",
    CrashInWrite "crash-in-write",
    Pause "pause",
    QuorumEdge "quorum-edge",
    QuorumLoss "quorum-loss",
    Transfer "transfer",
    // Disks.
    LostWrites "lost-writes",
    TornWrites "torn-writes",
    SlowDisk "slow-disk",
    DiskError "disk-error",
    Wipe "wipe",
    // Identity.
    ForeignPeer "foreign-peer",
}

impl Fault {
    /// Whether the nemesis does it. The others are properties of links, crashes and clocks.
    pub fn is_act(self) -> bool {
        !matches!(
            self,
            Fault::Drop
                | Fault::Duplicate
                | Fault::Reorder
                | Fault::LateReplay
                | Fault::LostWrites
                | Fault::TornWrites
        )
    }
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Count {
    pub fired: u64,
    pub mattered: u64,
}

#[derive(Clone, Debug, Default)]
pub struct Counters(pub BTreeMap<Fault, Count>);

impl Counters {
    pub fn fired(&mut self, fault: Fault) {
        self.0.entry(fault).or_default().fired += 1;
    }
    pub fn mattered(&mut self, fault: Fault) {
        self.0.entry(fault).or_default().mattered += 1;
    }
    pub fn merge(&mut self, other: &Counters) {
        for (fault, count) in &other.0 {
            let sum = self.0.entry(*fault).or_default();
            sum.fired += count.fired;
            sum.mattered += count.mattered;
        }
    }
    pub fn total(&self) -> u64 {
        self.0.values().map(|c| c.fired).sum()
    }
}

/// What the nemesis wants to happen next. The world carries it out, or not when it may not: a
/// crash of a member that is down already is no crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    Partition { side: u64 },
    OneWay { from: usize, to: usize },
    IsolateLeader,
    SlowLink { from: usize, to: usize },
    Heal,
    Crash { member: usize, down_us: u64 },
    CrashInWrite { member: usize, after_ops: u64, down_us: u64 },
    Pause { member: usize, for_us: u64 },
    QuorumEdge { down_us: u64 },
    QuorumLoss { down_us: u64 },
    Transfer { to: usize },
    SlowDisk { member: usize, for_us: u64 },
    DiskError { member: usize, down_us: u64 },
    Wipe { member: usize },
    ForeignPeer { member: usize, for_us: u64 },
}

/// Draws acts from the faults that are on.
pub struct Nemesis {
    rng: Prng,
    choices: Vec<Fault>,
}

impl Nemesis {
    pub fn new(plan: &Plan) -> Nemesis {
        let choices = Fault::ALL.iter().copied().filter(|f| f.is_act() && plan.on(*f)).collect();
        Nemesis { rng: Prng::stream(plan.seed, "nemesis"), choices }
    }

    /// How long until the next act.
    pub fn gap_us(&mut self, plan: &Plan) -> u64 {
        self.rng.between(plan.fault_gap_us / 4, plan.fault_gap_us * 2)
    }

    pub fn next(&mut self, plan: &Plan) -> Option<Act> {
        // Always the same number of draws: an act that is left out shifts nothing.
        let rng = &mut self.rng;
        let (what, heal) = (rng.next_u64(), rng.chance(1, 3));
        let (a, b) = (rng.next_u64(), rng.next_u64());
        let tick = plan.tick_us;
        let time = rng.between(tick, plan.election_us() * 4);
        let n = plan.members as u64;
        let member = (a % n) as usize;
        let other = ((a % n + 1 + b % (n - 1)) % n) as usize;
        if heal {
            return Some(Act::Heal);
        }
        if self.choices.is_empty() {
            return None;
        }
        Some(match self.choices[(what % self.choices.len() as u64) as usize] {
            Fault::Partition => Act::Partition { side: 1 + b % ((1 << n) - 2) },
            Fault::OneWay => Act::OneWay { from: member, to: other },
            Fault::IsolateLeader => Act::IsolateLeader,
            Fault::SlowLink => Act::SlowLink { from: member, to: other },
            Fault::Crash => Act::Crash { member, down_us: time },
            Fault::CrashInWrite => {
                Act::CrashInWrite { member, after_ops: 1 + b % 40, down_us: time }
            }
            Fault::Pause => Act::Pause { member, for_us: time },
            Fault::QuorumEdge => Act::QuorumEdge { down_us: time * 2 },
            Fault::QuorumLoss => Act::QuorumLoss { down_us: time * 2 },
            Fault::Transfer => Act::Transfer { to: member },
            Fault::SlowDisk => Act::SlowDisk { member, for_us: time },
            Fault::DiskError => Act::DiskError { member, down_us: time },
            Fault::Wipe => Act::Wipe { member },
            Fault::ForeignPeer => Act::ForeignPeer { member, for_us: time },
            property => unreachable!("{} is not an act (is_act)", property.name()),
        })
    }
}
