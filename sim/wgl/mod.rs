//! Linearizability from outside: what clients asked and heard, and nothing else.
//!
//! The search of Wing and Gong with Lowe's memory of (set of calls done, state): is there an order
//! of the calls that respects real time and in which every answer is right? It knows no log, no
//! index and no model of the whole keyspace, so that a mistake there does not hide itself. Calls
//! are projected to single keys, each a register with its revisions; a call over many keys counts
//! at each of them, which is sound and a little weaker. A call without an answer may have happened
//! at any time since, in any way it could, or not at all.
//!
//! Bounded: a key whose search takes too many steps is undecided, and keys that leases take away
//! are left out, because no client sees when.
//!
//! `project` makes the calls of one key, `search` orders them, `control` has histories that must
//! be refused.

mod control;
mod project;
mod search;

pub use control::self_check;

use crate::history::{Answer, Call, is_refusal};
use crate::safety::{Checked, Violation, broken, ensure};
use bytes::Bytes;
use quorate::types::command::Compare;
use quorate::types::reply::{KeyValue, Reply};
use quorate::types::{ApiError, Command, GroupId};
use std::collections::BTreeMap;

/// Steps that one key's search may take.
const STEPS_MAX: u64 = 60_000;
/// Calls without an answer that one key's search may hold: each may double the work.
const UNKNOWN_MAX: usize = 40;

/// One call as its client saw it. Times are numbers of a common order of begins and ends.
#[derive(Clone, Debug)]
struct Seen {
    group: GroupId,
    call: Call,
    began: u64,
    end: Option<(u64, Answer)>,
}

/// What all clients saw.
#[derive(Debug, Default)]
pub struct Record {
    calls: Vec<Seen>,
    by_id: BTreeMap<u64, usize>,
    now: u64,
}

/// What became of the search.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    pub keys: u64,
    pub calls: u64,
    pub undecided: u64,
}

/// A key in one state, as far as it is known: 0 is an unknown revision.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Register {
    value: Bytes,
    create: i64,
    modified: i64,
    version: i64,
}

/// A missing key has version 0.
type State = Register;

/// What one call does to one key, in order.
#[derive(Clone, Debug)]
enum Step {
    /// The pair that was seen, its value too or not.
    Pair {
        kv: KeyValue,
        value: bool,
    },
    Present,
    Absent,
    /// A compare that came out so.
    Compare {
        compare: Compare,
        holds: bool,
    },
    /// `None` keeps the value there is. Revision 0 is not known.
    Put {
        value: Option<Bytes>,
        revision: i64,
    },
    Delete,
}

/// One call at one key.
#[derive(Clone, Debug)]
struct Op {
    began: u64,
    /// `None`: no answer.
    ended: Option<u64>,
    /// One of these is what happened.
    ways: Vec<Vec<Step>>,
}

impl Record {
    pub fn begin(&mut self, id: u64, group: GroupId, call: &Call) {
        self.now += 1;
        self.by_id.insert(id, self.calls.len());
        self.calls.push(Seen { group, call: call.clone(), began: self.now, end: None });
    }

    pub fn end(&mut self, id: u64, answer: &Answer) {
        self.now += 1;
        let Some(at) = self.by_id.get(&id) else { return };
        self.calls[*at].end = Some((self.now, answer.clone()));
    }

    /// Judges everything that was recorded.
    pub fn judge(&self) -> Result<Verdict, Violation> {
        self.revisions_in_order()?;
        let mut verdict = Verdict::default();
        for ((group, key), ops) in project::keys(&self.calls) {
            verdict.keys += 1;
            verdict.calls += ops.len() as u64;
            match search::search(&ops, STEPS_MAX) {
                search::Found::Order => {}
                search::Found::Undecided => verdict.undecided += 1,
                search::Found::None { longest, stuck } => {
                    return broken!(
                        "black-box",
                        format!(
                            "group {group} key {key:?}: no order of its {} calls explains the \
                             answers; {longest} fit, then none of {stuck}",
                            ops.len()
                        ),
                    );
                }
            }
        }
        Ok(verdict)
    }

    /// Headers never fall in real time, and a write's is new.
    fn revisions_in_order(&self) -> Checked {
        let mut ends: Vec<(u64, GroupId, i64)> = Vec::new();
        for seen in &self.calls {
            if let Some((ended, answer)) = &seen.end
                && let Some((revision, _)) = header(&seen.call, answer)
            {
                ends.push((*ended, seen.group, revision));
            }
        }
        ends.sort_unstable();
        let mut newest: BTreeMap<GroupId, i64> = BTreeMap::new();
        let mut ends = ends.into_iter().peekable();
        for seen in &self.calls {
            while let Some((_, group, revision)) = ends.next_if(|(at, ..)| *at < seen.began) {
                let newest = newest.entry(group).or_default();
                *newest = revision.max(*newest);
            }
            let Some((_, answer)) = &seen.end else { continue };
            let Some((revision, wrote)) = header(&seen.call, answer) else { continue };
            let before = newest.get(&seen.group).copied().unwrap_or(0);
            ensure!(
                revision > before || revision == before && !wrote,
                "black-box",
                "group {}: {:?} is answered at revision {revision}, {before} had been answered \
                 before it began",
                seen.group,
                seen.call
            );
        }
        Ok(())
    }
}

/// The header of a linearizable answer, and whether the call has certainly written.
fn header(call: &Call, answer: &Answer) -> Option<(i64, bool)> {
    match answer {
        Answer::Wrote { reply: Ok(reply), revision, .. } => {
            let wrote = match reply {
                Reply::Put(_) => true,
                Reply::DeleteRange(reply) => reply.deleted > 0,
                _ => false,
            };
            Some((*revision, wrote))
        }
        Answer::Range { revision, .. } | Answer::ReadTxn { revision, .. }
            if !call.is_serializable() =>
        {
            Some((*revision, false))
        }
        _ => None,
    }
}

/// Whether an error says that the command changes nothing, now or later.
fn is_without_effect(error: &ApiError, never: bool) -> bool {
    never
        || is_refusal(error)
        || matches!(
            error,
            ApiError::KeyNotFound
                | ApiError::LeaseNotFound
                | ApiError::LeaseExists
                | ApiError::Compacted
                | ApiError::FutureRevision
                | ApiError::NoSpace
                | ApiError::Corrupt
        )
}

fn is_key_write(command: &Command) -> bool {
    matches!(command, Command::Put(_) | Command::DeleteRange(_) | Command::Txn(_))
}
