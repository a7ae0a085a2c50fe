//! What must hold in every history, checked as it unfolds (paper, figure 3).

use crate::types::{Entry, LogIndex, NodeId, Term};
use bytes::Bytes;
use std::collections::BTreeMap;

#[derive(Debug, Default)]
pub struct Safety {
    leaders: BTreeMap<Term, NodeId>,
    /// Every vote that left its voter.
    votes: BTreeMap<(Term, NodeId), NodeId>,
    /// Every entry that was ever in a log: what it holds, and the term of the one before it.
    entries: BTreeMap<(LogIndex, Term), (Term, Bytes)>,
    /// Every entry that anyone ever knew to be committed.
    pub committed: BTreeMap<LogIndex, Term>,
    /// Every read asked for, and the newest commit anyone knew of at that moment.
    reads: BTreeMap<u64, LogIndex>,
}

impl Safety {
    pub fn newest_commit(&self) -> LogIndex {
        self.committed.last_key_value().map_or(LogIndex::ZERO, |(index, _)| *index)
    }

    /// Election safety, and leader completeness: who is elected has every committed entry.
    pub fn elected(
        &mut self,
        id: NodeId,
        term: Term,
        start: LogIndex,
        has: impl Fn(LogIndex) -> Option<Term>,
    ) {
        let first = *self.leaders.entry(term).or_insert(id);
        assert_eq!(first, id, "two leaders of term {term}");
        for (&index, &committed) in self.committed.range(start.next()..) {
            assert_eq!(has(index), Some(committed), "leader {id} of term {term} lacks {index}");
        }
    }

    /// One vote per voter and term, whatever the voter has forgotten in between.
    pub fn voted(&mut self, voter: NodeId, term: Term, candidate: NodeId) {
        let first = *self.votes.entry((term, voter)).or_insert(candidate);
        assert_eq!(first, candidate, "{voter} votes twice in term {term}");
    }

    /// Log matching, by induction: an entry with the same index and term is the same, and so is
    /// its predecessor.
    pub fn appended(&mut self, before: Term, entries: &[Entry]) {
        let mut before = before;
        for entry in entries {
            let key = (entry.index, entry.term);
            let known =
                self.entries.entry(key).or_insert_with(|| (before, entry.data.clone())).clone();
            assert_eq!(known, (before, entry.data.clone()), "two entries at {key:?}");
            before = entry.term;
        }
    }

    /// Commit never changes its mind.
    pub fn committed(&mut self, id: NodeId, index: LogIndex, term: Term) {
        let first = *self.committed.entry(index).or_insert(term);
        assert_eq!(first, term, "node {id} commits another entry at {index}");
    }

    /// State machine safety.
    pub fn applied(&mut self, id: NodeId, entry: &Entry) {
        let term = self.committed.get(&entry.index);
        assert_eq!(term, Some(&entry.term), "node {id} applies what is not committed");
        let known = &self.entries[&(entry.index, entry.term)].1;
        assert_eq!(known, &entry.data, "node {id} applies something else at {}", entry.index);
    }

    pub fn read_asked(&mut self, context: u64) {
        let newest = self.newest_commit();
        assert!(self.reads.insert(context, newest).is_none(), "context {context} is used twice");
    }

    /// A read sees every write that was acknowledged before it began.
    pub fn read_ready(&mut self, context: u64, index: LogIndex) {
        let floor = self.reads.remove(&context).expect("answered once");
        assert!(index >= floor, "read {context} at {index} misses writes up to {floor}");
    }

    pub fn read_dropped(&mut self, context: u64) {
        assert!(self.reads.remove(&context).is_some(), "answered once");
    }
}
