//! The search for an order.

use super::{Op, State, Step};
use bytes::Bytes;
use quorate::types::command::{Compare, CompareResult, CompareTarget};
use quorate::types::map::Set;
use quorate::types::reply::KeyValue;
use std::cmp::Ordering;

#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    Order,
    Undecided,
    /// How many calls fitted at best, and the answered ones that then had to come next.
    None {
        longest: usize,
        stuck: String,
    },
}

/// What happens in the list: a call's begin or its end.
#[derive(Clone, Copy, Debug)]
struct Entry {
    op: usize,
    begins: bool,
    next: usize,
    prev: usize,
}

const HEAD: usize = 0;
const NONE: usize = usize::MAX;

struct List {
    entries: Vec<Entry>,
    /// Where each call's end is; `NONE` without an answer.
    ends: Vec<usize>,
}

impl List {
    fn new(ops: &[Op]) -> List {
        let mut times: Vec<(u64, usize, bool)> = Vec::new();
        for (at, op) in ops.iter().enumerate() {
            times.push((op.began, at, true));
            if let Some(ended) = op.ended {
                times.push((ended, at, false));
            }
        }
        times.sort_unstable_by_key(|time| time.0);
        let mut entries = vec![Entry { op: NONE, begins: false, next: NONE, prev: NONE }];
        let mut ends = vec![NONE; ops.len()];
        for (_, op, begins) in times {
            let at = entries.len();
            entries.push(Entry { op, begins, next: NONE, prev: at - 1 });
            entries[at - 1].next = at;
            if !begins {
                ends[op] = at;
            }
        }
        List { entries, ends }
    }
    fn take(&mut self, at: usize) {
        let Entry { next, prev, .. } = self.entries[at];
        self.entries[prev].next = next;
        if next != NONE {
            self.entries[next].prev = prev;
        }
    }
    fn put_back(&mut self, at: usize) {
        let Entry { next, prev, .. } = self.entries[at];
        self.entries[prev].next = at;
        if next != NONE {
            self.entries[next].prev = at;
        }
    }
    fn lift(&mut self, begin: usize) {
        self.take(begin);
        let end = self.ends[self.entries[begin].op];
        if end != NONE {
            self.take(end);
        }
    }
    fn unlift(&mut self, begin: usize) {
        let end = self.ends[self.entries[begin].op];
        if end != NONE {
            self.put_back(end);
        }
        self.put_back(begin);
    }
}

/// Looks for an order of the calls, beginning with a missing key.
pub fn search(ops: &[Op], steps_max: u64) -> Found {
    let mut list = List::new(ops);
    let mut open = ops.iter().filter(|op| op.ended.is_some()).count();
    let mut state = State::default();
    let mut done = vec![0_u64; ops.len().div_ceil(64)];
    let mut known: Set<(Box<[u64]>, State)> = Set::default();
    let mut stack: Vec<(usize, usize, State)> = Vec::new();
    let (mut longest, mut stuck) = (0, String::new());
    let mut steps = 0;
    let (mut at, mut way) = (list.entries[HEAD].next, 0);
    while open > 0 {
        steps += 1;
        if steps > steps_max {
            return Found::Undecided;
        }
        assert!(at != NONE, "an answered call is left, so its end is in the list");
        let entry = list.entries[at];
        if entry.begins {
            let op = &ops[entry.op];
            let mut went = false;
            while way < op.ways.len() && !went {
                if let Some(next) = run(&op.ways[way], &state) {
                    done[entry.op / 64] |= 1 << (entry.op % 64);
                    if known.insert((done.clone().into_boxed_slice(), next.clone())) {
                        stack.push((at, way, std::mem::replace(&mut state, next)));
                        went = true;
                    } else {
                        done[entry.op / 64] &= !(1 << (entry.op % 64));
                    }
                }
                way += 1;
            }
            way = 0;
            if went {
                list.lift(at);
                open -= usize::from(op.ended.is_some());
                at = list.entries[HEAD].next;
            } else {
                at = entry.next;
            }
            continue;
        }
        // Something has ended that cannot be placed: back to the newest choice.
        if stack.len() >= longest {
            longest = stack.len();
            stuck = candidates(ops, &list, at);
        }
        let Some((begin, tried, before)) = stack.pop() else {
            return Found::None { longest, stuck };
        };
        let op = list.entries[begin].op;
        list.unlift(begin);
        open += usize::from(ops[op].ended.is_some());
        done[op / 64] &= !(1 << (op % 64));
        state = before;
        (at, way) = (begin, tried + 1);
    }
    Found::Order
}

/// The calls that stand before the first end: one of them had to come next.
fn candidates(ops: &[Op], list: &List, end: usize) -> String {
    let mut names = Vec::new();
    let mut at = list.entries[HEAD].next;
    while at != end && at != NONE && names.len() < 4 {
        let op = &ops[list.entries[at].op];
        if op.ended.is_some() {
            names.push(format!("{:?}", op.ways));
        }
        at = list.entries[at].next;
    }
    names.join(" or ")
}

/// The state after one way of a call, if that way can have happened here.
fn run(way: &[Step], state: &State) -> Option<State> {
    let mut state = state.clone();
    for step in way {
        match step {
            Step::Absent if state.version != 0 => return None,
            Step::Present if state.version == 0 => return None,
            Step::Absent | Step::Present => {}
            Step::Pair { kv, value } => learn(&mut state, kv, *value)?,
            Step::Compare { compare, holds } => {
                if compares(compare, &state).is_some_and(|found| found != *holds) {
                    return None;
                }
            }
            Step::Put { value: None, .. } if state.version == 0 => return None,
            Step::Put { value, revision } => {
                if state.version == 0 {
                    state.create = *revision;
                }
                if *revision != 0 && state.modified > *revision {
                    return None;
                }
                state.modified = *revision;
                state.version += 1;
                if let Some(value) = value {
                    state.value = value.clone();
                }
            }
            Step::Delete => state = State::default(),
        }
    }
    Some(state)
}

/// What was seen must be what is there; revisions that were not known are now.
fn learn(state: &mut State, kv: &KeyValue, value: bool) -> Option<()> {
    let fits = |known: i64, seen: i64| known == 0 || known == seen;
    let same = state.version == kv.version
        && state.version > 0
        && (!value || state.value == kv.value)
        && fits(state.create, kv.create_revision)
        && fits(state.modified, kv.mod_revision);
    if !same {
        return None;
    }
    (state.create, state.modified) = (kv.create_revision, kv.mod_revision);
    Some(())
}

/// `None` when it depends on a revision that is not known.
fn compares(compare: &Compare, state: &State) -> Option<bool> {
    let number =
        |known: i64, with: i64| (known != 0 || state.version == 0).then(|| known.cmp(&with));
    let order = match &compare.target {
        CompareTarget::Version(with) => state.version.cmp(with),
        CompareTarget::Create(with) => number(state.create, *with)?,
        CompareTarget::Mod(with) => number(state.modified, *with)?,
        CompareTarget::Value(_) if state.version == 0 => return Some(false),
        CompareTarget::Value(with) => Bytes::cmp(&state.value, with),
        CompareTarget::Lease(with) => 0.cmp(with),
        CompareTarget::Unknown => Ordering::Equal,
    };
    Some(match compare.result {
        CompareResult::Equal => order.is_eq(),
        CompareResult::NotEqual => order.is_ne(),
        CompareResult::Greater => order.is_gt(),
        CompareResult::Less => order.is_lt(),
    })
}
