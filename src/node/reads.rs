//! Linearizable reads of one group: read-index rounds, shared by all reads that wait.
//!
//! A read joins the round that is issued next, never one that is under way: a round proves
//! leadership at a moment after every read in it began. Its answer is an index; the reads are
//! answered once that index is applied here. A round that stays without an answer for
//! `ROUND_RETRY_MS` is given up and its reads join a new one.

use super::action::Token;
use crate::types::{LeaseId, LogIndex, NodeId, RequestId, Term};
use std::collections::BTreeMap;

pub const ROUND_RETRY_MS: u64 = 500;
/// Rounds under way at once: enough that reads need not wait for a whole round before theirs.
const ROUNDS_MAX: usize = 8;

/// Who waits for a read point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reader {
    Client(Token),
    /// A lease question that this member, as leader of `term`, answers once it is confirmed.
    Lease {
        asker: LeaseAsker,
        lease: LeaseId,
        renew: bool,
        term: Term,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseAsker {
    /// A request of this member.
    Here(u64),
    There(NodeId, RequestId),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiting {
    pub reader: Reader,
    pub start_ms: u64,
    pub deadline_ms: u64,
}

#[derive(Debug)]
struct Round {
    readers: Vec<Waiting>,
    issued_ms: u64,
}

#[derive(Debug, Default)]
pub struct Reads {
    queued: Vec<Waiting>,
    rounds: BTreeMap<u64, Round>,
    /// Confirmed, waiting for their index to be applied.
    confirmed: BTreeMap<LogIndex, Vec<Waiting>>,
    /// After a round was dropped: not before this time, unless the leader changes.
    not_before_ms: u64,
}

impl Reads {
    pub fn push(&mut self, waiting: Waiting) {
        self.queued.push(waiting);
    }

    /// Starts a round under `context` if reads wait for one.
    pub fn issue(&mut self, now_ms: u64, context: u64) -> bool {
        if self.queued.is_empty() || self.rounds.len() >= ROUNDS_MAX || now_ms < self.not_before_ms
        {
            return false;
        }
        let readers = std::mem::take(&mut self.queued);
        let before = self.rounds.insert(context, Round { readers, issued_ms: now_ms });
        assert!(before.is_none(), "a read context is used once");
        true
    }

    /// The round has its index. Contexts that are not known (any more) are ignored.
    pub fn ready(&mut self, context: u64, index: LogIndex) {
        if let Some(round) = self.rounds.remove(&context) {
            self.confirmed.entry(index).or_default().extend(round.readers);
        }
    }

    /// The round came to nothing: its reads go into a later one.
    pub fn dropped(&mut self, context: u64, now_ms: u64) {
        if let Some(mut round) = self.rounds.remove(&context) {
            round.readers.append(&mut self.queued);
            self.queued = round.readers;
            self.not_before_ms = now_ms + ROUND_RETRY_MS;
        }
    }

    /// Reads that may be answered now that `applied` is applied.
    pub fn take_applied(&mut self, applied: LogIndex) -> Vec<Waiting> {
        if self.confirmed.keys().next().is_none_or(|&index| index > applied) {
            return Vec::new();
        }
        let later = self.confirmed.split_off(&applied.next());
        std::mem::replace(&mut self.confirmed, later).into_values().flatten().collect()
    }

    /// Another leader: rounds under way are lost, and their reads are given back.
    pub fn leader_changed(&mut self) -> Vec<Waiting> {
        self.not_before_ms = 0;
        let rounds = std::mem::take(&mut self.rounds);
        rounds.into_values().flat_map(|round| round.readers).collect()
    }

    /// Gives up rounds without an answer, and gives back the reads whose time is over.
    pub fn tick(&mut self, now_ms: u64) -> Vec<Waiting> {
        let stale: Vec<u64> = self
            .rounds
            .iter()
            .filter(|(_, round)| now_ms >= round.issued_ms + ROUND_RETRY_MS)
            .map(|(&context, _)| context)
            .collect();
        for context in stale {
            let mut round = self.rounds.remove(&context).expect("it was there a moment ago");
            round.readers.append(&mut self.queued);
            self.queued = round.readers;
        }
        self.take_if(|waiting| now_ms >= waiting.deadline_ms)
    }

    /// Forgets a client's read.
    pub fn cancel(&mut self, token: Token) -> bool {
        !self.take_if(|waiting| waiting.reader == Reader::Client(token)).is_empty()
    }

    pub fn take_all(&mut self) -> Vec<Waiting> {
        self.take_if(|_| true)
    }

    pub fn len(&self) -> usize {
        self.queued.len()
            + self.rounds.values().map(|round| round.readers.len()).sum::<usize>()
            + self.confirmed.values().map(Vec::len).sum::<usize>()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn take_if(&mut self, wanted: impl Fn(&Waiting) -> bool) -> Vec<Waiting> {
        let mut taken = Vec::new();
        let lists = std::iter::once(&mut self.queued)
            .chain(self.rounds.values_mut().map(|round| &mut round.readers))
            .chain(self.confirmed.values_mut());
        for list in lists {
            taken.extend(list.extract_if(.., |waiting| wanted(waiting)));
        }
        self.rounds.retain(|_, round| !round.readers.is_empty());
        self.confirmed.retain(|_, readers| !readers.is_empty());
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting(token: u64, deadline_ms: u64) -> Waiting {
        Waiting { reader: Reader::Client(Token(token)), start_ms: 0, deadline_ms }
    }

    #[test]
    fn reads_share_rounds_and_wait_for_apply() {
        let mut reads = Reads::default();
        reads.push(waiting(1, 7000));
        reads.push(waiting(2, 7000));
        assert!(reads.issue(0, 10) && !reads.issue(0, 11));
        reads.push(waiting(3, 7000));
        assert!(reads.issue(0, 11));
        reads.ready(10, LogIndex(5));
        reads.ready(99, LogIndex(1));
        assert!(reads.take_applied(LogIndex(4)).is_empty());
        assert_eq!(reads.take_applied(LogIndex(5)), [waiting(1, 7000), waiting(2, 7000)]);
        assert!(reads.tick(499).is_empty());
        assert!(reads.tick(500).is_empty());
        // The late answer of a round that was given up no longer counts.
        reads.ready(11, LogIndex(5));
        assert!(reads.take_applied(LogIndex(9)).is_empty());
        assert!(reads.issue(500, 12));
        assert_eq!(reads.leader_changed(), [waiting(3, 7000)]);
        reads.push(waiting(4, 7000));
        assert!(reads.issue(600, 13));
        reads.dropped(13, 600);
        assert!(!reads.issue(700, 14) && reads.issue(1100, 14));
        assert_eq!(reads.tick(7000), [waiting(4, 7000)]);
        assert!(reads.is_empty());
    }
}
