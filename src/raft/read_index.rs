//! Linearizable reads without a log entry (thesis 6.4).
//!
//! A leader that has committed in its own term knows every entry committed before it. What it
//! cannot know by itself is whether it still leads. So it notes its commit index, asks a quorum
//! by heartbeat, and once they have answered *in its term*, the noted index is a safe point.
//!
//! One question serves every read that waits at that moment: a *round* has a context, a number
//! that grows by one per round, and heartbeats carry the newest. An answer to context n answers
//! every round up to n. Reads that arrive while a round is out wait for the next one: the round
//! that is out may have been answered before they began.

use crate::types::{LogIndex, NodeId};
use std::collections::VecDeque;

/// One request: whose it is, and under which name it knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Read {
    pub from: NodeId,
    pub context: u64,
}

#[derive(Debug)]
struct Round {
    context: u64,
    index: LogIndex,
    reads: Vec<Read>,
}

/// The reads of one leadership.
#[derive(Debug, Default)]
pub struct ReadQueue {
    /// Asked for since the newest round began.
    waiting: Vec<Read>,
    /// Contexts ascend, and so do indexes.
    rounds: VecDeque<Round>,
    newest: u64,
    /// Reads in `waiting` and `rounds`.
    len: usize,
}

impl ReadQueue {
    pub fn len(&self) -> usize {
        self.len
    }
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
    pub fn is_round_out(&self) -> bool {
        !self.rounds.is_empty()
    }
    pub fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }
    /// The context of the newest round; what heartbeats carry, 0 before the first.
    pub fn newest(&self) -> u64 {
        self.newest
    }
    /// What a heartbeat needs to carry: 0 when no round is out.
    pub fn asking(&self) -> u64 {
        if self.is_round_out() { self.newest } else { 0 }
    }

    pub fn add(&mut self, read: Read) {
        self.waiting.push(read);
        self.len += 1;
    }

    /// Begins a round for everything that waits, at the leader's commit index.
    pub fn begin_round(&mut self, commit: LogIndex) {
        assert!(!self.waiting.is_empty(), "a round without reads");
        assert!(self.rounds.back().is_none_or(|r| r.index <= commit), "commit never decreases");
        self.newest += 1;
        let reads = std::mem::take(&mut self.waiting);
        self.rounds.push_back(Round { context: self.newest, index: commit, reads });
    }

    /// A quorum has acknowledged `context`: every round up to it is answered.
    pub fn confirm(&mut self, context: u64, mut answer: impl FnMut(Read, LogIndex)) {
        while let Some(round) = self.rounds.front()
            && round.context <= context
        {
            let round = self.rounds.pop_front().expect("just seen");
            self.len -= round.reads.len();
            for read in round.reads {
                answer(read, round.index);
            }
        }
    }

    /// The leadership ended: every read that was not answered.
    pub fn into_unanswered(self) -> impl Iterator<Item = Read> {
        self.rounds.into_iter().flat_map(|round| round.reads).chain(self.waiting)
    }
}

/// The reads a follower has forwarded and got no answer to.
#[derive(Debug, Default)]
pub struct Forwarded {
    /// (context, ticks it has waited), oldest first.
    reads: VecDeque<(u64, u32)>,
}

impl Forwarded {
    pub fn len(&self) -> usize {
        self.reads.len()
    }
    pub fn add(&mut self, context: u64) {
        self.reads.push_back((context, 0));
    }
    /// True when `context` was waited for; an answer counts once.
    pub fn answer(&mut self, context: u64) -> bool {
        let at = self.reads.iter().position(|read| read.0 == context);
        at.is_some_and(|at| self.reads.remove(at).is_some())
    }
    /// Question or answer may have been lost: after `patience` ticks a read is given up.
    pub fn tick(&mut self, patience: u32, mut give_up: impl FnMut(u64)) {
        for read in &mut self.reads {
            read.1 += 1;
        }
        while let Some(&(context, waited)) = self.reads.front()
            && waited >= patience
        {
            self.reads.pop_front();
            give_up(context);
        }
    }
    pub fn give_up_all(&mut self, mut give_up: impl FnMut(u64)) {
        for (context, _) in self.reads.drain(..) {
            give_up(context);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_confirmation_answers_every_round_up_to_it() {
        let mut queue = ReadQueue::default();
        let read = |context| Read { from: NodeId(1), context };
        queue.add(read(70));
        queue.add(read(71));
        queue.begin_round(LogIndex(5));
        queue.add(read(72));
        queue.begin_round(LogIndex(8));
        queue.add(read(73));
        assert_eq!((queue.newest(), queue.len()), (2, 4));
        let mut got = Vec::new();
        queue.confirm(1, |read, index| got.push((read.context, index.0)));
        assert_eq!(got, [(70, 5), (71, 5)]);
        queue.confirm(u64::MAX, |read, index| got.push((read.context, index.0)));
        assert_eq!(got[2..], [(72, 8)]);
        assert_eq!(queue.asking(), 0);
        assert_eq!(queue.into_unanswered().map(|r| r.context).collect::<Vec<_>>(), [73]);
    }

    #[test]
    fn a_forwarded_read_is_answered_once_or_given_up() {
        let mut forwarded = Forwarded::default();
        forwarded.add(1);
        forwarded.add(2);
        assert!(forwarded.answer(2) && !forwarded.answer(2));
        let mut lost = Vec::new();
        forwarded.tick(2, |c| lost.push(c));
        forwarded.tick(2, |c| lost.push(c));
        assert_eq!(lost, [1]);
        assert_eq!(forwarded.len(), 0);
    }
}
