//! The faults by name: switches, counters and the nemesis' schedule.
//!
//! A fault is *fired* when it was injected and has *mattered* when something observable came of
//! it: a message that would have arrived did not, a byte that was written was lost, a connection
//! was refused. A fault that fires often and never matters tests nothing.

use crate::plan::{MS, Plan, SECOND};
use crate::seed;
use crate::text::{Field, field, field_of, parts};
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
    Minority "minority",
    Bridge "bridge",
    Ring "ring",
    GroupPartition "group-partition",
    Flapping "flapping",
    Swizzle "swizzle",
    Reset "reset",
    OneSideClosed "one-side-closed",
    HalfOpen "half-open",
    DeafPeer "deaf-peer",
    HeavyTail "heavy-tail",
    DropClass "drop-class",
    Drop "drop",
    Duplicate "duplicate",
    Reorder "reorder",
    LateReplay "late-replay",
    TurnReplay "turn-replay",
    // Processes.
    Crash "crash",
    CrashInWrite "crash-in-write",
    CrashBetween "crash-between",
    CrashRare "crash-rare",
    Pause "pause",
    LongPause "long-pause",
    FreezeAll "freeze-all",
    TickStarvation "tick-starvation",
    ClockOffset "clock-offset",
    ClockStop "clock-stop",
    ClockDrift "clock-drift",
    ClockDriftWide "clock-drift-wide",
    CoreOnly "core-only",
    QuorumEdge "quorum-edge",
    QuorumLoss "quorum-loss",
    Waves "quorum-waves",
    Transfer "transfer",
    // Disks.
    LostWrites "lost-writes",
    TornWrites "torn-writes",
    SlowDisk "slow-disk",
    LeaderStall "leader-stall",
    LogStall "log-stall",
    ApplyStall "apply-stall",
    IoError "io-error",
    NoSpace "no-space",
    BitRot "bit-rot",
    LatentSector "latent-sector",
    ZeroedPage "zeroed-page",
    StalePage "stale-page",
    Misdirected "misdirected-write",
    DiskError "disk-error",
    Wipe "wipe",
    // Identity.
    ForeignPeer "foreign-peer",
    MidStream "mid-stream",
    OldId "old-id",
    OtherClusterDir "other-cluster-dir",
    OtherMemberDir "other-member-dir",
    OlderStore "older-store",
    Restored "restored-cluster",
    // Members and groups.
    AddVoter "add-voter",
    AddLearner "add-learner",
    Promote "promote",
    Remove "remove",
    Replace "replace",
    JointChange "joint-change",
    AskedTwice "asked-twice",
    LostInChange "leader-lost-in-change",
    JointLoss "quorum-loss-in-joint",
    Remedy "lost-member-replaced",
    MoveUrl "move-url",
    RemovedReturns "removed-returns",
    RollingRestart "rolling-restart",
    GroupCreate "group-create",
    GroupDestroy "group-destroy",
    // Whole servers only (tier 2).
    Stop "stop",
    LostAnswer "lost-answer",
    Garbled "garbled",
    Stranger "stranger",
    WallJump "wall-jump",
}

impl Fault {
    /// Faults that only whole servers can meet. Their switches are drawn apart (`tier2::plan`).
    pub fn is_of_servers(self) -> bool {
        use Fault::*;
        matches!(self, Stop | LostAnswer | Garbled | Stranger | WallJump)
    }
}

field_of!(Fault, Fault::ALL);

impl Fault {
    /// Whether a configuration becomes another one by it.
    pub fn changes_members(self) -> bool {
        matches!(
            self,
            Fault::AddVoter
                | Fault::AddLearner
                | Fault::Promote
                | Fault::Remove
                | Fault::Replace
                | Fault::JointChange
                | Fault::JointLoss
                | Fault::Remedy
        )
    }

    /// What would spoil too many seeds for anything else if every third had it.
    pub fn is_rare(self) -> bool {
        matches!(self, Fault::TurnReplay | Fault::LogStall | Fault::ApplyStall)
    }

    /// Whether it is a copy that arrives whatever became of the connection it was sent on.
    pub fn is_late_copy(self) -> bool {
        matches!(self, Fault::LateReplay | Fault::TurnReplay)
    }

    /// Whether the nemesis does it. The others are properties of links, crashes and clocks.
    pub fn is_act(self) -> bool {
        !matches!(
            self,
            Fault::Drop
                | Fault::Duplicate
                | Fault::Reorder
                | Fault::LateReplay
                | Fault::TurnReplay
                | Fault::LogStall
                | Fault::ApplyStall
                | Fault::AskedTwice
                | Fault::LostInChange
                | Fault::LostWrites
                | Fault::TornWrites
                | Fault::HeavyTail
                | Fault::DropClass
                | Fault::ClockOffset
                | Fault::ClockStop
                | Fault::ClockDrift
                | Fault::ClockDriftWide
                | Fault::CoreOnly
        ) && !self.is_of_servers()
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

/// The acts, and how they are read from a tape. Fields are numbers, or what else `text::Field` reads.
macro_rules! acts {
    ($(#[$meta:meta])* pub enum Act {
        $($(#[$about:meta])* $variant:ident $({ $($field:ident: $type:ty),* $(,)? })?,)*
    }) => {
        $(#[$meta])*
        pub enum Act { $($(#[$about])* $variant $({ $($field: $type),* })?,)* }
        impl Field for Act {
            fn read(text: &str) -> Option<Act> {
                let (name, _fields) = parts(text)?;
                match name {
                    $(stringify!($variant) => Some(Act::$variant $({
                        $($field: field(&_fields, stringify!($field))?),*
                    })?),)*
                    _ => None,
                }
            }
        }
    };
}

acts! {
/// What the nemesis wants to happen next. The world carries it out, or not when it may not: a
/// crash of a member that is down already is no crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    Partition {
        side: u64,
    },
    OneWay {
        from: usize,
        to: usize,
    },
    IsolateLeader,
    SlowLink {
        from: usize,
        to: usize,
    },
    Minority {
        draw: u64,
    },
    Bridge {
        middle: usize,
        side: u64,
    },
    Ring,
    GroupPartition {
        draw: u64,
        side: u64,
    },
    /// Links of `member` (or the one to `other`) go down and up again in turn.
    Flap {
        member: usize,
        other: Option<usize>,
        period_us: u64,
        turns: u64,
    },
    Swizzle {
        draw: u64,
    },
    /// One part of a swizzle: nothing leaves for this member until then.
    Clog {
        member: usize,
        for_us: u64,
    },
    Reset {
        a: usize,
        b: usize,
    },
    OneSideClosed {
        from: usize,
        to: usize,
    },
    HalfOpen {
        member: usize,
        down_us: u64,
    },
    DeafPeer {
        member: usize,
        for_us: u64,
    },
    /// The peers of a member have heard nothing of it for as long as they wait.
    Silence {
        member: usize,
    },
    LongPause {
        member: usize,
        for_us: u64,
    },
    FreezeAll {
        for_us: u64,
    },
    StarveTicks {
        member: usize,
        for_us: u64,
    },
    LeaderStall {
        for_us: u64,
    },
    IoError {
        member: usize,
        draw: u64,
        down_us: u64,
    },
    NoSpace {
        member: usize,
        slack: u64,
        for_us: u64,
    },
    SpaceBack {
        member: usize,
    },
    /// What the disk holds now is remembered, and a while later the damage is done.
    LookAtDisk {
        member: usize,
        fault: Fault,
        draw: u64,
        wait_us: u64,
    },
    Damage {
        member: usize,
        fault: Fault,
        draw: u64,
    },
    Heal,
    Crash {
        member: usize,
        down_us: u64,
    },
    CrashInWrite {
        member: usize,
        after_ops: u64,
        down_us: u64,
    },
    /// Before the effect of that number from now.
    CrashBetween {
        member: usize,
        after: u64,
        down_us: u64,
    },
    /// When one of the pairs of effects that this run has seen least is next met (`effects`).
    CrashRare {
        member: usize,
        draw: u64,
        down_us: u64,
    },
    Pause {
        member: usize,
        for_us: u64,
    },
    QuorumEdge {
        down_us: u64,
    },
    QuorumLoss {
        down_us: u64,
    },
    Transfer {
        to: usize,
    },
    SlowDisk {
        member: usize,
        for_us: u64,
    },
    DiskError {
        member: usize,
        down_us: u64,
    },
    Wipe {
        member: usize,
    },
    ForeignPeer {
        member: usize,
        for_us: u64,
    },
    MidStream {
        member: usize,
        for_us: u64,
    },
    OldId {
        member: usize,
    },
    OtherClusterDir {
        member: usize,
    },
    OtherMemberDir {
        member: usize,
        of: usize,
    },
    OlderStore {
        member: usize,
    },
    Restored {
        survivor: usize,
        draw: u64,
    },
    Waves {
        first: usize,
        down_us: u64,
    },
    /// A quorum of one half is lost while the configuration is joint; tried again for so often.
    JointLoss {
        draw: u64,
        tries: u64,
        down_us: u64,
    },
    /// A member that has lost its disk is removed, and another one added in its place.
    Remedy {
        draw: u64,
        tries: u64,
    },
    /// A member's turn in a wave.
    Wave {
        member: usize,
        down_us: u64,
    },
    /// The membership or the catalogue of groups is to change: `chaos/members.rs`.
    Members {
        fault: Fault,
        draw: u64,
    },
}
}

/// A time between two bounds, each doubling as likely as the next.
pub fn log_uniform(draw: u64, low: u64, high: u64) -> u64 {
    let doublings = u64::from((high / low).ilog2()) + 1;
    let base = low << (draw % doublings);
    (base + (draw >> 8) % base).min(high)
}

/// Draws acts from the faults that are on. Each turn draws from a place of its own.
pub struct Nemesis {
    key: u64,
    turns: u64,
    rng: Prng,
    choices: Vec<Fault>,
}

impl Nemesis {
    pub fn new(plan: &Plan) -> Nemesis {
        let choices = Fault::ALL.iter().copied().filter(|f| f.is_act() && plan.on(*f)).collect();
        Nemesis { key: plan.name.key("nemesis"), turns: 0, rng: plan.stream("nemesis"), choices }
    }

    /// Goes on to the next turn; the number that its details are drawn from.
    pub fn turn(&mut self) -> u64 {
        self.turns += 1;
        let word = seed::at(self.key, self.turns);
        self.rng = Prng::new(word);
        word
    }

    /// How long until the next act.
    pub fn gap_us(&mut self, plan: &Plan) -> u64 {
        self.rng.between(plan.fault_gap_us / 4, plan.fault_gap_us * 2)
    }

    /// What to do next to `members` members.
    pub fn next(&mut self, plan: &Plan, members: usize) -> Option<Act> {
        // Always the same number of draws: an act that is left out shifts nothing.
        let rng = &mut self.rng;
        let (what, heal) = (rng.next_u64(), rng.chance(1, 3));
        let (a, b) = (rng.next_u64(), rng.next_u64());
        let tick = plan.tick_us;
        let time = rng.between(tick, plan.election_us() * 4);
        let n = members as u64;
        let c = rng.next_u64();
        let member = (a % n) as usize;
        // A member that is alone has links to nobody: whatever is done to them does nothing.
        let other = ((a % n + 1 + b % (n - 1).max(1)) % n) as usize;
        if heal {
            return Some(Act::Heal);
        }
        if self.choices.is_empty() {
            return None;
        }
        Some(match self.choices[(what % self.choices.len() as u64) as usize] {
            Fault::Partition => Act::Partition { side: 1 + b % ((1u64 << n) - 2).max(1).max(1) },
            Fault::OneWay => Act::OneWay { from: member, to: other },
            Fault::IsolateLeader => Act::IsolateLeader,
            Fault::SlowLink => Act::SlowLink { from: member, to: other },
            Fault::Minority => Act::Minority { draw: c },
            Fault::Bridge => Act::Bridge { middle: member, side: b },
            Fault::Ring => Act::Ring,
            Fault::GroupPartition => {
                Act::GroupPartition { draw: c, side: 1 + b % ((1u64 << n) - 2).max(1) }
            }
            Fault::Flapping => Act::Flap {
                member,
                other: c.is_multiple_of(2).then_some(other),
                // Around half the election timeout: about when a follower gives a leader up.
                period_us: plan.election_us() * (2 + c / 2 % 9) / 8,
                turns: 4 + c % 12,
            },
            Fault::Swizzle => Act::Swizzle { draw: c },
            Fault::Reset => Act::Reset { a: member, b: other },
            Fault::OneSideClosed => Act::OneSideClosed { from: member, to: other },
            Fault::HalfOpen => Act::HalfOpen { member, down_us: time },
            Fault::DeafPeer => {
                Act::DeafPeer { member, for_us: log_uniform(c, SECOND, 120 * SECOND) }
            }
            Fault::LongPause => {
                Act::LongPause { member, for_us: log_uniform(c, 10 * MS, 60 * SECOND) }
            }
            Fault::FreezeAll => Act::FreezeAll { for_us: log_uniform(c, 10 * MS, 600 * SECOND) },
            Fault::IoError => Act::IoError { member, draw: c, down_us: time },
            Fault::NoSpace => Act::NoSpace { member, slack: c % (64 << 10), for_us: time * 2 },
            fault @ (Fault::BitRot
            | Fault::LatentSector
            | Fault::ZeroedPage
            | Fault::StalePage
            | Fault::Misdirected) => Act::LookAtDisk { member, fault, draw: c, wait_us: time },
            Fault::TickStarvation => Act::StarveTicks { member, for_us: time },
            Fault::LeaderStall => Act::LeaderStall { for_us: log_uniform(c, SECOND, 60 * SECOND) },
            Fault::Crash => Act::Crash { member, down_us: time },
            Fault::CrashInWrite => {
                Act::CrashInWrite { member, after_ops: 1 + b % 40, down_us: time }
            }
            Fault::CrashBetween => Act::CrashBetween { member, after: 1 + b % 60, down_us: time },
            Fault::CrashRare => Act::CrashRare { member, draw: c, down_us: time },
            Fault::Pause => Act::Pause { member, for_us: time },
            Fault::QuorumEdge => Act::QuorumEdge { down_us: time * 2 },
            Fault::QuorumLoss => Act::QuorumLoss { down_us: time * 2 },
            Fault::Transfer => Act::Transfer { to: member },
            Fault::SlowDisk => Act::SlowDisk { member, for_us: time },
            Fault::DiskError => Act::DiskError { member, down_us: time },
            Fault::Wipe => Act::Wipe { member },
            Fault::ForeignPeer => Act::ForeignPeer { member, for_us: time },
            Fault::MidStream => Act::MidStream { member, for_us: tick + time / 8 },
            Fault::OldId => Act::OldId { member },
            Fault::OtherClusterDir => Act::OtherClusterDir { member },
            Fault::OtherMemberDir => Act::OtherMemberDir { member, of: other },
            Fault::OlderStore => Act::OlderStore { member },
            Fault::Restored => Act::Restored { survivor: member, draw: c },
            Fault::Waves => Act::Waves { first: member, down_us: time },
            Fault::JointLoss => Act::JointLoss { draw: c, tries: 12, down_us: time * 2 },
            Fault::Remedy => Act::Remedy { draw: c, tries: 12 },
            about @ (Fault::AddVoter
            | Fault::AddLearner
            | Fault::Promote
            | Fault::Remove
            | Fault::Replace
            | Fault::JointChange
            | Fault::MoveUrl
            | Fault::RemovedReturns
            | Fault::RollingRestart
            | Fault::GroupCreate
            | Fault::GroupDestroy) => Act::Members { fault: about, draw: c },
            property => unreachable!("{} is not an act (is_act)", property.name()),
        })
    }
}
