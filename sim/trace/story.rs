//! What is remembered of a run for whoever wants to look at it: the newest events in a ring, and
//! of the older ones those that a reader needs as landmarks.
//!
//! Events are kept as values, not as text: most of them are never read, and the words are made at
//! the end. The memory is bounded whatever the run does.

use crate::faults::Fault;
use crate::history::{Answer, Call, CallId};
use crate::trace::words;
use quorate::multiraft::NodeMessage;
use quorate::raft::Role;
use quorate::types::{ConfState, GroupId, LogIndex, NodeId, Term};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

/// Newest events that are kept, of whatever kind.
const EVENTS_MAX: usize = 50_000;
/// Landmarks that are kept of what the ring has dropped.
const LANDMARKS_MAX: usize = 20_000;
const BARS_MAX: usize = 5_000;

/// What became of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It had not arrived when the run ended.
    Flying,
    Arrived,
    /// There was no connection to send it on.
    Unconnected,
    /// A fault took it.
    Lost(Fault),
    /// The link lost its group or its class, or the sender's outbox was full.
    Sifted,
    /// Nobody was there.
    Down,
    /// The process it was sent to is gone.
    Reset,
}

impl Fate {
    pub fn words(self) -> &'static str {
        match self {
            Fate::Flying => "on its way",
            Fate::Arrived => "",
            Fate::Unconnected => "no connection",
            Fate::Lost(fault) => fault.name(),
            Fate::Sifted => "group cut, class lost, or outbox full",
            Fate::Down => "receiver is down",
            Fate::Reset => "receiver was restarted",
        }
    }
}

/// One copy of a frame.
#[derive(Clone, Debug)]
pub struct Copy {
    pub from: usize,
    pub to: usize,
    /// The fault that made it, if it is not the original.
    pub fault: Option<Fault>,
    pub what: Rc<NodeMessage>,
}

/// How a call ended for its client.
#[derive(Clone, Debug)]
pub struct Heard {
    pub text: String,
    pub ok: bool,
    /// Where in the log it says that it happened, or at which revision it read.
    pub index: LogIndex,
    pub revision: i64,
    pub debug: String,
}

impl Heard {
    pub fn of(answer: &Answer) -> Heard {
        let (index, revision) = words::position(answer);
        Heard {
            text: words::answer(answer),
            ok: !matches!(answer, Answer::Failed { .. }),
            index,
            revision,
            debug: format!("{answer:?}"),
        }
    }
    pub fn given_up() -> Heard {
        let text = "gives up".to_owned();
        Heard { text, ok: false, index: LogIndex::ZERO, revision: 0, debug: String::new() }
    }
}

#[derive(Clone, Debug)]
pub struct CallStory {
    pub c: usize,
    pub m: usize,
    pub group: GroupId,
    pub id: CallId,
    pub call: Call,
    pub arrived_us: Option<u64>,
    pub answered_us: Option<u64>,
    pub end: Option<(u64, Heard)>,
}

/// What a replica says of itself at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Row {
    pub role: Role,
    pub term: Term,
    pub vote: NodeId,
    pub leader: NodeId,
    pub start: LogIndex,
    pub last: LogIndex,
    pub persisted: LogIndex,
    pub commit: LogIndex,
    pub applied: LogIndex,
    pub conf: ConfState,
}

impl Row {
    /// Whether the story took a turn here, and did not only go on.
    fn is_turn(&self, before: &Row) -> bool {
        (self.role, self.term, self.leader) != (before.role, before.term, before.leader)
            || self.conf != before.conf
    }
}

/// A fault that stands: its name, and the member it is on or the link it is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Standing {
    pub name: &'static str,
    pub from: usize,
    /// The same as `from` for what is no link.
    pub to: usize,
}

#[derive(Clone, Debug)]
pub enum What {
    Note(String),
    Client { c: usize, text: String },
    Message { copy: Copy, until_us: u64, fate: Fate },
    Work { m: usize, work: &'static str, began_us: u64, text: String },
    Call(Box<CallStory>),
    Commit { m: usize, group: GroupId, at: (LogIndex, Term), text: String, revision: i64 },
    State { m: usize, group: GroupId, row: Box<Row>, turn: bool },
}

impl What {
    fn is_landmark(&self) -> bool {
        matches!(self, What::Note(_) | What::Client { .. } | What::State { turn: true, .. })
    }
}

#[derive(Clone, Debug)]
pub struct Event {
    pub at_us: u64,
    pub what: What,
}

/// One replica at the end of the run, as far as it can be seen from outside.
#[derive(Clone, Debug, Default)]
pub struct LastReplica {
    pub m: usize,
    pub group: GroupId,
    /// "up", or why not.
    pub condition: &'static str,
    pub row: Option<Row>,
    pub state: Option<(LogIndex, u64)>,
    /// The terms of the log that is on its disk for sure: the entry before the first one, then
    /// (index, term) where the term changes, then the last index.
    pub log: LogTerms,
}

#[derive(Clone, Debug, Default)]
pub struct LogTerms {
    pub start: LogIndex,
    pub runs: Vec<(LogIndex, Term)>,
    pub last: LogIndex,
}

impl LogTerms {
    pub fn of(start: LogIndex, terms: impl Iterator<Item = (LogIndex, Term)>) -> LogTerms {
        let mut log = LogTerms { start, runs: Vec::new(), last: start };
        for (index, term) in terms {
            if log.runs.last().is_none_or(|run| run.1 != term) {
                log.runs.push((index, term));
            }
            log.last = index;
        }
        log
    }
}

/// The cluster at the end of the run.
#[derive(Clone, Debug, Default)]
pub struct Last {
    pub nodes: Vec<NodeId>,
    /// Lanes of clients, those of watchers last.
    pub clients: usize,
    pub watchers: usize,
    pub groups: u64,
    pub election_us: u64,
    pub replicas: Vec<LastReplica>,
    /// What anybody has applied, per group.
    pub committed: Vec<(GroupId, LogTerms)>,
}

#[derive(Default)]
pub struct Story {
    ring: VecDeque<Event>,
    /// Number of the ring's first event; the first event ever has number 1.
    dropped: u64,
    landmarks: VecDeque<Event>,
    open_calls: BTreeMap<CallId, u64>,
    working: BTreeMap<(usize, &'static str), VecDeque<u64>>,
    rows: BTreeMap<(usize, GroupId), Row>,
    standing: BTreeMap<Standing, u64>,
    /// Faults that are over: which, from when, until when.
    bars: VecDeque<(Standing, u64, u64)>,
}

impl Story {
    pub fn push(&mut self, at_us: u64, what: What) -> u64 {
        if self.ring.len() == EVENTS_MAX
            && let Some(old) = self.ring.pop_front()
        {
            self.dropped += 1;
            if old.what.is_landmark() {
                if self.landmarks.len() == LANDMARKS_MAX {
                    self.landmarks.pop_front();
                }
                self.landmarks.push_back(old);
            }
        }
        self.ring.push_back(Event { at_us, what });
        self.dropped + self.ring.len() as u64
    }

    pub fn find(&mut self, number: u64) -> Option<&mut What> {
        let at = number.checked_sub(self.dropped + 1)?;
        self.ring.get_mut(at as usize).map(|event| &mut event.what)
    }

    pub fn begin_work(&mut self, now_us: u64, m: usize, work: &'static str) {
        let queue = self.working.entry((m, work)).or_default();
        // Work of a process that has died is never done: what it had begun is forgotten.
        if queue.len() == 64 {
            queue.pop_front();
        }
        queue.push_back(now_us);
    }
    pub fn end_work(&mut self, m: usize, work: &'static str) -> Option<u64> {
        self.working.get_mut(&(m, work))?.pop_front()
    }

    pub fn begin_call(
        &mut self,
        now_us: u64,
        c: usize,
        m: usize,
        group: GroupId,
        id: CallId,
        call: &Call,
    ) {
        let call = call.clone();
        let story =
            CallStory { c, m, group, id, call, arrived_us: None, answered_us: None, end: None };
        let number = self.push(now_us, What::Call(Box::new(story)));
        self.open_calls.insert(id, number);
    }
    pub fn open_call(&mut self, id: CallId) -> Option<&mut CallStory> {
        let number = *self.open_calls.get(&id)?;
        match self.find(number)? {
            What::Call(call) => Some(call),
            _ => None,
        }
    }
    pub fn end_call(&mut self, now_us: u64, id: CallId, heard: Heard) {
        if let Some(call) = self.open_call(id) {
            call.end = Some((now_us, heard));
        }
        self.open_calls.remove(&id);
    }

    pub fn state(&mut self, now_us: u64, m: usize, group: GroupId, row: Row) {
        let before = self.rows.get(&(m, group));
        if before == Some(&row) {
            return;
        }
        let turn = before.is_none_or(|b| row.is_turn(b));
        self.rows.insert((m, group), row.clone());
        self.push(now_us, What::State { m, group, row: Box::new(row), turn });
    }

    pub fn standing(&mut self, now_us: u64, now: &[Standing]) {
        if self.standing.len() == now.len() && now.iter().all(|s| self.standing.contains_key(s)) {
            return;
        }
        let over: Vec<Standing> =
            self.standing.keys().filter(|s| !now.contains(s)).copied().collect();
        for standing in over {
            let from_us = self.standing.remove(&standing).unwrap_or(now_us);
            if standing.name == DOWN {
                // What it had begun to write died with it, and so did its opinion of itself.
                self.working.retain(|(m, _), _| *m != standing.from);
                self.rows.retain(|(m, _), _| *m != standing.from);
            }
            if self.bars.len() == BARS_MAX {
                self.bars.pop_front();
            }
            self.bars.push_back((standing, from_us, now_us));
        }
        for standing in now {
            self.standing.entry(*standing).or_insert(now_us);
        }
    }

    /// The events that are left, oldest first.
    pub fn events(&self) -> impl DoubleEndedIterator<Item = &Event> {
        self.landmarks.iter().chain(&self.ring)
    }
    pub fn dropped(&self) -> u64 {
        self.dropped - self.landmarks.len() as u64
    }
    /// Every fault that lasted: which, from when, and until when or still standing.
    pub fn bars(&self) -> impl Iterator<Item = (Standing, u64, Option<u64>)> {
        let over = self.bars.iter().map(|(s, from, to)| (*s, *from, Some(*to)));
        over.chain(self.standing.iter().map(|(s, from)| (*s, *from, None)))
    }
}

/// The name of the bar of a member without a process.
pub const DOWN: &str = "down";
