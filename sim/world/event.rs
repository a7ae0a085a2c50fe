//! What can happen, and when: the items of the heap.

use super::watches::Watching;
use crate::callers::Credential;
use crate::faults::{Act, Fault};
use crate::history::{Answer, Call, CallId};
use crate::member::Work;
use quorate::multiraft::NodeMessage;
use quorate::node::Action;
use quorate::types::{GroupId, Incarnation, NodeId};
use std::rc::Rc;

/// One life of one member's process.
pub type Process = u64;

/// How one copy of a frame travels.
#[derive(Clone, Copy, Debug)]
pub struct Way {
    pub from: usize,
    pub to: usize,
    pub receiver: Process,
    pub copy: Option<Fault>,
    /// Its number in the story.
    pub told: u64,
    /// The connection it was sent on.
    pub stream: u64,
    /// The data directory of the process that sent it, and whether that is a wiped one.
    pub sender: (Incarnation, bool),
    /// The process that sent it.
    pub sent_by: Process,
}

pub enum Event {
    Tick {
        m: usize,
        p: Process,
    },
    Arrive {
        way: Way,
        what: Rc<NodeMessage>,
    },
    /// The next piece of work of one of the member's lanes.
    Work {
        m: usize,
        p: Process,
        work: Work,
    },
    /// Something the core is to be told, after a moment.
    Tell {
        m: usize,
        p: Process,
        action: Box<Action>,
    },
    /// A peer has told the member that it is not who it says.
    Refused {
        m: usize,
        p: Process,
    },
    /// A piece of a snapshot leaves.
    Bulk {
        m: usize,
        p: Process,
        to: NodeId,
        message: Box<NodeMessage>,
    },
    /// A client begins its next call.
    Ask {
        c: usize,
    },
    /// A call reaches its member.
    Request {
        m: usize,
        p: Process,
        call: CallId,
        group: GroupId,
        what: Rc<Call>,
        by: Credential,
    },
    Reply {
        c: usize,
        call: CallId,
        answer: Box<Answer>,
    },
    GiveUp {
        c: usize,
        call: CallId,
    },
    Nemesis,
    /// Something the nemesis has begun goes on.
    Act {
        act: Act,
    },
    /// A process that stood still, or its core, goes on.
    Wake {
        m: usize,
    },
    Restart {
        m: usize,
    },
    EndOfPhase,
    Watching(Watching),
}

pub(super) struct Item {
    pub at_us: u64,
    pub seq: u64,
    pub event: Event,
}

impl Item {
    fn place_in_time(&self) -> (u64, u8, u64) {
        (self.at_us, self.event.rank(), self.seq)
    }
}

impl PartialEq for Item {
    fn eq(&self, other: &Item) -> bool {
        self.place_in_time() == other.place_in_time()
    }
}
impl Eq for Item {}
impl PartialOrd for Item {
    fn partial_cmp(&self, other: &Item) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Item {
    fn cmp(&self, other: &Item) -> std::cmp::Ordering {
        self.place_in_time().cmp(&other.place_in_time())
    }
}

impl Event {
    pub(super) const NEMESIS: u64 = 8;

    /// Which goes first at one time: acts, so that a tape's come where the seed's came.
    fn rank(&self) -> u8 {
        u8::from(!matches!(self, Event::Nemesis))
    }

    /// A number for the trace, and the process without which the event is void.
    pub(super) fn place(&self) -> (u64, Option<(usize, Process)>) {
        match self {
            Event::Tick { m, p } => (1, Some((*m, *p))),
            Event::Arrive { .. } => (2, None),
            Event::Work { m, p, work } => (16 + *work as u64, Some((*m, *p))),
            Event::Tell { m, p, .. } => (3, Some((*m, *p))),
            Event::Ask { .. } => (4, None),
            Event::Refused { m, p } => (12, Some((*m, *p))),
            Event::Bulk { m, p, .. } => (11, Some((*m, *p))),
            Event::Request { m, p, .. } => (5, Some((*m, *p))),
            Event::Reply { .. } => (6, None),
            Event::GiveUp { .. } => (7, None),
            Event::Nemesis => (Event::NEMESIS, None),
            Event::Restart { .. } => (9, None),
            Event::EndOfPhase => (10, None),
            Event::Act { .. } => (13, None),
            Event::Wake { .. } => (14, None),
            Event::Watching(_) => (15, None),
        }
    }

    /// The member that it happens to, if that is a running process.
    pub(super) fn member(&self) -> Option<usize> {
        match self {
            Event::Arrive { way, .. } => Some(way.to),
            other => other.place().1.map(|(m, _)| m),
        }
    }

    /// Whether it needs the core, which stands still while its log is being synced.
    pub(super) fn needs_core(&self) -> bool {
        match self {
            Event::Tick { .. }
            | Event::Tell { .. }
            | Event::Request { .. }
            | Event::Refused { .. }
            | Event::Arrive { .. } => true,
            Event::Work { work, .. } => matches!(work, Work::WalSync | Work::Turn),
            _ => false,
        }
    }
}
