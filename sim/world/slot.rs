//! One member as the world keeps it: its disk outlives its processes.

use super::event::{Event, Process};
use crate::callers::Credential;
use crate::effects::{Effects, Pair};
use crate::faults::Fault;
use crate::history::{Call, CallId};
use crate::member::{Birth, CLUSTER, Live, Origin};
use crate::plan::Plan;
use crate::world::clock::Clock;
use quorate::io::MemDisk;
use quorate::types::auth::Caller;
use quorate::types::{GroupId, Incarnation, NodeId};
use std::collections::BTreeMap;
use std::rc::Rc;

/// Members of one seed at most, those that were removed included. The network has links for all.
pub const SLOTS_MAX: usize = 12;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    Up,
    Down,
    /// It never comes back.
    Gone(Gone),
}

/// Why a member is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gone {
    /// It has found its files damaged and waits for its operator.
    Damaged,
    /// Its disk was wiped and it has been refused.
    Wiped,
    /// The cluster has removed it, and it knows.
    Removed,
}

/// A call that goes on when everything before it is applied here.
#[derive(Clone, Debug)]
pub struct Held {
    pub group: GroupId,
    pub what: Rc<Call>,
    pub step: Step,
}

#[derive(Clone, Debug)]
pub enum Step {
    /// It comes with a token of an entry that is not applied here yet.
    Told(Credential),
    /// It is read for somebody.
    Read(Option<Caller>),
}

/// One member: its disk outlives its processes.
pub struct Slot {
    pub birth: Birth,
    pub node: NodeId,
    pub disk: MemDisk,
    pub incarnation: Incarnation,
    pub condition: Condition,
    pub process: Process,
    pub live: Option<Live>,
    pub born_us: u64,
    /// Its own clock: of this process, and not the world's.
    pub clock: Clock,
    pub paused_until_us: u64,
    /// Since when, if its clock stands still with it.
    pub clock_stopped_at_us: Option<u64>,
    /// How long its clock has stood still in this process.
    pub clock_stood_us: u64,
    pub paused_by: Fault,
    /// Its log is being synced, and the core waits for it.
    pub stalled_until_us: u64,
    /// Its log is being synced, and the core goes on without.
    pub log_stalled_until_us: u64,
    /// It applies nothing until then, and everything else goes on.
    pub apply_stalled_until_us: u64,
    /// The next sync of its log takes this long.
    pub stall_us: Option<u64>,
    /// No tick reaches the core until then; everything else does.
    pub starved_until_us: u64,
    /// What happened to it while it stood still.
    pub parked: Vec<Event>,
    pub slow_until_us: u64,
    /// Its disk is full until then.
    pub full_until_us: u64,
    /// What was done to its files at rest.
    pub damaged: Option<Fault>,
    /// What they held a while ago.
    pub earlier: Option<MemDisk>,
    /// Its disk was wiped: whatever it says must fall on deaf ears.
    pub wiped: bool,
    /// It has the state of every group: a member that joins has to be filled first.
    pub settled: bool,
    /// It was asked to stop in order, and comes back.
    pub rolling: bool,
    /// An error was put on its disk on purpose, or the power is set to fail.
    pub sabotaged: Option<Fault>,
    /// It crashes before the effect of that number from now; 0 for no such plan.
    pub crash_in_effects: u64,
    /// It crashes between these two effects, when they come for the time of that number.
    pub crash_at_pair: Option<(Pair, u64)>,
    /// And when it has started again, between two others that are drawn from this.
    pub rare_again: Option<u64>,
    pub restart_at_us: u64,
    /// A restart is on the calendar.
    pub restart_due: bool,
    /// Calls that wait for a barrier.
    pub reads: BTreeMap<CallId, Held>,
}

/// The id of a first member.
pub fn founder(m: usize) -> NodeId {
    NodeId(0x100 + m as u64 * 0x11)
}

/// The address at which slot `m` is found at first.
pub fn first_url(m: usize) -> String {
    format!("http://sim-{m}:2380")
}

impl Slot {
    /// A first member of the seed's cluster.
    pub fn founding(plan: &Plan, m: usize) -> Slot {
        let members = (0..plan.members).map(|o| (founder(o), vec![first_url(o)])).collect();
        let birth = Birth {
            cluster: CLUSTER,
            node: founder(m),
            peer_urls: vec![first_url(m)],
            origin: Origin::New { members },
        };
        Slot::new(plan, m, birth)
    }

    pub fn new(plan: &Plan, m: usize, birth: Birth) -> Slot {
        let mut ids = plan.stream("identities");
        for _ in 0..m {
            ids.next_u64();
        }
        Slot {
            node: birth.node,
            disk: {
                let disk = MemDisk::new(plan.seed.wrapping_mul(31).wrapping_add(m as u64));
                Effects::watch(&disk);
                disk
            },
            incarnation: Incarnation(ids.next_u64() | 1),
            condition: Condition::Down,
            process: 0,
            live: None,
            born_us: 0,
            clock: Clock::new(plan, m),
            paused_until_us: 0,
            clock_stopped_at_us: None,
            clock_stood_us: 0,
            paused_by: Fault::Pause,
            stalled_until_us: 0,
            log_stalled_until_us: 0,
            apply_stalled_until_us: 0,
            stall_us: None,
            starved_until_us: 0,
            parked: Vec::new(),
            slow_until_us: 0,
            full_until_us: 0,
            damaged: None,
            earlier: None,
            wiped: false,
            settled: matches!(birth.origin, Origin::New { .. }),
            rolling: false,
            sabotaged: None,
            crash_in_effects: 0,
            crash_at_pair: None,
            rare_again: None,
            restart_at_us: 0,
            restart_due: false,
            reads: BTreeMap::new(),
            birth,
        }
    }

    pub fn is_gone(&self) -> bool {
        matches!(self.condition, Condition::Gone(_))
    }
}
