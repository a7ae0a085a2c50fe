//! One member as the world keeps it: its disk outlives its processes.

use super::event::Process;
use crate::faults::Fault;
use crate::history::{Call, CallId};
use crate::member::Live;
use crate::plan::Plan;
use quorate::io::MemDisk;
use quorate::types::{GroupId, Incarnation, NodeId};
use std::collections::BTreeMap;
use std::rc::Rc;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    Up,
    Down,
    /// Its disk was wiped and it has been refused: it never comes back.
    Gone,
}

/// One member: its disk outlives its processes.
pub struct Slot {
    pub node: NodeId,
    pub disk: MemDisk,
    pub incarnation: Incarnation,
    pub condition: Condition,
    pub process: Process,
    pub live: Option<Live>,
    pub born_us: u64,
    pub paused_until_us: u64,
    pub slow_until_us: u64,
    /// Its disk was wiped: whatever it says must fall on deaf ears.
    pub wiped: bool,
    /// An error was put on its disk on purpose, or the power is set to fail.
    pub sabotaged: Option<Fault>,
    pub restart_at_us: u64,
    /// A restart is on the calendar.
    pub restart_due: bool,
    /// Reads that wait for their barrier.
    pub reads: BTreeMap<CallId, (GroupId, Rc<Call>)>,
}

impl Slot {
    pub fn new(plan: &Plan, m: usize) -> Slot {
        let mut ids = plan.stream("identities");
        let node = NodeId(0x100 + m as u64 * 0x11);
        for _ in 0..m {
            ids.next_u64();
        }
        Slot {
            node,
            disk: MemDisk::new(plan.seed.wrapping_mul(31).wrapping_add(m as u64)),
            incarnation: Incarnation(ids.next_u64() | 1),
            condition: Condition::Down,
            process: 0,
            live: None,
            born_us: 0,
            paused_until_us: 0,
            slow_until_us: 0,
            wiped: false,
            sabotaged: None,
            restart_at_us: 0,
            restart_due: false,
            reads: BTreeMap::new(),
        }
    }
}
