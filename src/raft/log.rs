//! One group's log, as a replica sees it: every term, the newest entries, and how much of it is
//! known to be on disk.
//!
//! ```text
//!    start          persisted      last
//!      |                |            |
//!   ...#################*************|       # durable   * handed to the WAL, not yet durable
//!      |        +--------------------+       in memory (the cache)
//!      |  3  3  3  5  5  5  6  6  6  6       terms, kept as runs: (1,3) (4,5) (7,6)
//! ```
//!
//! Invariants:
//! - `start.0 <= persisted <= last`; `start.1` is the term of the entry at `start.0`.
//! - Terms never decrease along the log; runs cover `start.0 + 1 ..= last` without gaps.
//! - The cache is a suffix of the log and holds every entry that is not persisted: what left
//!   memory can be read back. Only persisted entries are evicted.
//! - Commit and apply are not the log's business; the caller truncates only what it may.

use crate::types::{Entry, EntryKind, LogIndex, Term};
use std::collections::VecDeque;

/// A checked piece of somebody's log: what an append carries once it has passed the gate.
/// Indexes are `prev.0 + 1, + 2, ...`; terms start at `prev.1` or later and never decrease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogSlice {
    prev: (LogIndex, Term),
    entries: Vec<Entry>,
}

impl LogSlice {
    /// The gate. `term` is the sender's: no entry can be newer.
    pub fn valid(
        term: Term,
        prev: (LogIndex, Term),
        entries: Vec<Entry>,
    ) -> Result<LogSlice, &'static str> {
        if (prev.0 == LogIndex::ZERO) != (prev.1 == Term::ZERO) {
            return Err("only the place before the log has term 0");
        }
        let (mut index, mut newest) = prev;
        for entry in &entries {
            if index.0.checked_add(1) != Some(entry.index.0) {
                return Err("a gap between entries");
            }
            if entry.term < newest || entry.term == Term::ZERO {
                return Err("terms decrease");
            }
            (index, newest) = (entry.index, entry.term);
        }
        if newest > term {
            return Err("an entry newer than its sender");
        }
        Ok(LogSlice { prev, entries })
    }
    pub fn prev(&self) -> (LogIndex, Term) {
        self.prev
    }
    pub fn last(&self) -> LogIndex {
        self.entries.last().map_or(self.prev.0, |entry| entry.index)
    }
}

/// What a look at a range of the log finds.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    /// In memory: from the asked index on, at least one.
    Entries(Vec<Entry>),
    /// Not in memory: the WAL has them up to this index.
    Older { to: LogIndex },
}

/// One piece handed to the WAL and not yet reported durable. A piece that begins at or before
/// the end of the one before it has replaced the log's suffix.
#[derive(Clone, Copy, Debug)]
struct Write {
    from: LogIndex,
    last: LogIndex,
    term: Term,
}

#[derive(Debug)]
pub struct Log {
    start: (LogIndex, Term),
    last: LogIndex,
    /// First index of each run of one term. Indexes and terms ascend.
    runs: VecDeque<(LogIndex, Term)>,
    /// The newest entries, without gaps, ending at `last`.
    cache: VecDeque<Entry>,
    cache_bytes: usize,
    cache_bytes_max: usize,
    persisted: LogIndex,
    /// In the order in which they were handed out, which is the order of the disk.
    writes: VecDeque<Write>,
    /// The `ConfChange` entries in the log that no verdict has come in for.
    conf_changes: VecDeque<LogIndex>,
    /// Entries up to here were on disk at boot and not in memory: any of them may be one.
    unseen: LogIndex,
}

impl Log {
    /// The log as found on disk. Panics when the parts do not fit together: the WAL has checked
    /// them, so they cannot come from a damaged file.
    pub fn new(
        start: (LogIndex, Term),
        last: LogIndex,
        runs: &[(LogIndex, Term)],
        tail: Vec<Entry>,
        cache_bytes_max: usize,
    ) -> Log {
        assert!(start.0 <= last, "the log ends at {last}, before its start {}", start.0);
        assert_eq!(runs.is_empty(), start.0 == last, "terms are known for exactly the entries");
        assert!(runs.first().is_none_or(|run| run.0 == start.0.next()), "the first term run");
        assert!(runs.is_sorted_by(|a, b| a.0 < b.0 && a.1 < b.1), "term runs ascend");
        assert!(runs.first().is_none_or(|run| run.1 >= start.1), "terms decrease at the start");
        assert!(runs.last().is_none_or(|run| run.0 <= last), "a term run behind the log's end");
        let mut log = Log {
            start,
            last,
            runs: runs.iter().copied().collect(),
            cache: VecDeque::new(),
            cache_bytes: 0,
            cache_bytes_max,
            persisted: last,
            writes: VecDeque::new(),
            conf_changes: VecDeque::new(),
            unseen: tail.first().map_or(last, |entry| entry.index.prev()),
        };
        let seen = log.unseen;
        for (entry, index) in tail.iter().zip(seen.0 + 1..) {
            assert_eq!(entry.index.0, index, "a gap in the log's tail");
            assert_eq!(log.term(entry.index), Some(entry.term), "the tail and the term runs");
        }
        assert_eq!(tail.last().map_or(last, |entry| entry.index), last, "the tail ends the log");
        let changes = tail.iter().filter(|entry| entry.kind == EntryKind::ConfChange);
        log.conf_changes.extend(changes.map(|entry| entry.index));
        log.cache_all(tail);
        log.evict();
        log
    }

    /// The last trimmed entry.
    pub fn start(&self) -> (LogIndex, Term) {
        self.start
    }
    pub fn last(&self) -> LogIndex {
        self.last
    }
    pub fn last_term(&self) -> Term {
        self.runs.back().map_or(self.start.1, |run| run.1)
    }
    /// Durable up to here, as far as is known.
    pub fn persisted(&self) -> LogIndex {
        self.persisted
    }
    pub fn cache_bytes(&self) -> usize {
        self.cache_bytes
    }

    /// The term of an entry of the log, or of its start; `None` outside.
    pub fn term(&self, index: LogIndex) -> Option<Term> {
        if index > self.last || index < self.start.0 {
            return None;
        }
        if index == self.start.0 {
            return Some(self.start.1);
        }
        match self.runs.back() {
            Some(run) if run.0 <= index => Some(run.1),
            _ => {
                let after = self.runs.partition_point(|run| run.0 <= index);
                Some(self.runs[after - 1].1)
            }
        }
    }

    pub fn matches(&self, index: LogIndex, term: Term) -> bool {
        self.term(index) == Some(term)
    }

    /// Whether a log that ends so is as good as this one (paper 5.4.1).
    pub fn is_up_to_date(&self, last: LogIndex, last_term: Term) -> bool {
        (last_term, last) >= (self.last_term(), self.last)
    }

    /// The newest place at or before `index` where this log could agree with one that has `term`
    /// at `index`: the newest whose own term is not larger. Skips a whole term per step.
    pub fn agree_before(&self, index: LogIndex, term: Term) -> (LogIndex, Term) {
        let mut index = index.min(self.last);
        if index <= self.start.0 {
            return self.start;
        }
        let after = self.runs.partition_point(|run| run.0 <= index);
        for &(first, run_term) in self.runs.range(..after).rev() {
            if run_term <= term {
                return (index, run_term);
            }
            index = first.prev();
        }
        self.start
    }

    /// The entries from `from` through `to`, at most `bytes_max` and `count_max` of them but at
    /// least one. The range must lie in the log and not be empty.
    pub fn find(&self, from: LogIndex, to: LogIndex, bytes_max: usize, count_max: usize) -> Found {
        assert!(self.start.0 < from, "entry {from} is trimmed");
        assert!(from <= to, "an empty range from {from}");
        assert!(to <= self.last, "entry {to} is not in the log");
        let first = self.cache_first();
        if from < first {
            return Found::Older { to: to.min(first.prev()) };
        }
        let skip = (from.0 - first.0) as usize;
        let take = (to.0 - from.0 + 1).min(count_max.max(1) as u64) as usize;
        let mut bytes = 0_usize;
        let mut entries = Vec::new();
        for entry in self.cache.range(skip..skip + take) {
            bytes = bytes.saturating_add(entry.cost());
            if bytes > bytes_max && !entries.is_empty() {
                break;
            }
            entries.push(entry.clone());
        }
        Found::Entries(entries)
    }

    /// Whether `entries`, read back from disk, are what the log has from `from` on.
    pub fn is_part(&self, from: LogIndex, entries: &[Entry]) -> bool {
        self.start.0 < from
            && entries
                .iter()
                .zip(from.0..)
                .all(|(e, index)| e.index.0 == index && self.matches(e.index, e.term))
    }

    /// The index of the oldest entry in memory, or the one after the log's end.
    fn cache_first(&self) -> LogIndex {
        self.cache.front().map_or(self.last.next(), |entry| entry.index)
    }

    /// Adds `entries` behind the log.
    pub fn append(&mut self, entries: Vec<Entry>) {
        let mut previous = (self.last, self.last_term());
        for entry in &entries {
            assert_eq!(entry.index, previous.0.next(), "the log has no gaps");
            assert!(entry.term >= previous.1, "terms never decrease along the log");
            if self.runs.is_empty() || entry.term > previous.1 {
                self.runs.push_back((entry.index, entry.term));
            }
            if entry.kind == EntryKind::ConfChange {
                self.conf_changes.push_back(entry.index);
            }
            self.note_write(entry.index, entry.term);
            previous = (entry.index, entry.term);
        }
        self.last = previous.0;
        self.cache_all(entries);
        self.evict();
    }

    /// What of `slice` is not in the log yet, truncating what contradicts it. The slice's `prev`
    /// must match. `keep` is what must not be truncated: the commit index. Returns the entries to
    /// append, and what was truncated.
    pub fn merge(
        &mut self,
        slice: LogSlice,
        keep: LogIndex,
    ) -> (Vec<Entry>, Option<(LogIndex, LogIndex)>) {
        assert!(self.matches(slice.prev.0, slice.prev.1), "the slice does not fit the log");
        let mut entries = slice.entries;
        let known = entries.iter().take_while(|e| self.matches(e.index, e.term)).count();
        entries.drain(..known);
        let truncated = match entries.first() {
            Some(first) if first.index <= self.last => {
                assert!(first.index > keep, "a committed entry ({keep}) would be truncated");
                let cut = (first.index, self.last);
                self.truncate(first.index);
                Some(cut)
            }
            _ => None,
        };
        (entries, truncated)
    }

    /// Removes everything from `from` on.
    fn truncate(&mut self, from: LogIndex) {
        assert!(self.start.0 < from && from <= self.last, "truncating at {from}");
        while self.runs.back().is_some_and(|run| run.0 >= from) {
            self.runs.pop_back();
        }
        while let Some(entry) = self.cache.back()
            && entry.index >= from
        {
            self.cache_bytes -= entry.cost();
            self.cache.pop_back();
        }
        while self.conf_changes.back().is_some_and(|index| *index >= from) {
            self.conf_changes.pop_back();
        }
        self.unseen = self.unseen.min(from.prev());
        self.last = from.prev();
        self.persisted = self.persisted.min(self.last);
    }

    fn note_write(&mut self, index: LogIndex, term: Term) {
        match self.writes.back_mut() {
            Some(write) if write.last.next() == index && write.term == term => write.last = index,
            _ => self.writes.push_back(Write { from: index, last: index, term }),
        }
    }

    /// The disk reports that the log is durable through the entry (`term`, `index`).
    ///
    /// The report speaks of the log as it was *when the write was handed out*, and that log may
    /// be gone. How index and term alone mislead:
    /// 1. Entries 5, 6 of term 2 are handed to the WAL: write A.
    /// 2. The leader of term 3 replaces 6 by its own: write B.
    /// 3. The leader of term 4, which has the old 6, puts it back: write C.
    /// 4. A's report arrives: (term 2, index 6). The log has exactly that entry at 6. But the
    ///    disk holds A, perhaps B; if it stops here, 6 of term 3 comes back from the dead.
    ///
    /// So the writes are kept in order, and a report counts for the *oldest* write it fits: in
    /// step 4 that is A, and everything a later write replaces is not counted (B begins at 6, so
    /// the log is durable through 5). When one report stands for several writes that look the
    /// same, this counts too little, never too much, until the next report.
    ///
    /// Returns false when no write fits: the report is of something forgotten.
    pub fn persist(&mut self, term: Term, index: LogIndex) -> bool {
        let fits = |w: &Write| w.from <= index && index <= w.last && w.term == term;
        let Some(at) = self.writes.iter().position(fits) else {
            return false;
        };
        self.writes.drain(..at);
        let write = &mut self.writes[0];
        if write.last == index {
            self.writes.pop_front();
        } else {
            write.from = index.next();
        }
        let replaced = self.writes.iter().map(|w| w.from.prev()).min();
        let through = replaced.map_or(index, |bound| bound.min(index)).min(self.last);
        self.persisted = self.persisted.max(through);
        self.evict();
        true
    }

    /// Drops the prefix up to `index`, which must be persisted. False when it is gone already.
    pub fn trim(&mut self, index: LogIndex) -> bool {
        if index <= self.start.0 {
            return false;
        }
        assert!(index <= self.persisted, "trimming what the disk does not hold yet");
        let term = self.term(index).expect("a persisted entry has a term");
        self.start = (index, term);
        let first = index.next();
        while self.runs.get(1).is_some_and(|run| run.0 <= first) {
            self.runs.pop_front();
        }
        if index == self.last {
            self.runs.clear();
        } else if let Some(run) = self.runs.front_mut() {
            run.0 = run.0.max(first);
        }
        while let Some(entry) = self.cache.front()
            && entry.index <= index
        {
            self.pop_oldest();
        }
        true
    }

    /// Everything is replaced by a snapshot at this entry.
    pub fn restart(&mut self, index: LogIndex, term: Term) {
        assert!(index > self.start.0, "a snapshot behind the log's start");
        self.start = (index, term);
        self.last = index;
        self.persisted = index;
        self.runs.clear();
        self.cache.clear();
        self.cache_bytes = 0;
        self.conf_changes.clear();
        self.unseen = LogIndex::ZERO;
        // A write of no entries: reports of what was handed out before must not count for
        // entries of the same index and term that come after.
        self.writes.push_back(Write { from: index.next(), last: index, term });
    }

    /// Whether a configuration change may lie in `after + 1 ..= through`, its verdict not in yet.
    pub fn has_conf_change(&self, after: LogIndex, through: LogIndex) -> bool {
        let unseen = after < self.unseen.min(through);
        unseen || self.conf_changes.iter().any(|index| after < *index && *index <= through)
    }

    /// The verdict on the change at `index` is in.
    pub fn conf_change_decided(&mut self, index: LogIndex) {
        while self.conf_changes.front().is_some_and(|first| *first <= index) {
            self.conf_changes.pop_front();
        }
    }

    /// The oldest configuration change seen whose verdict is not in.
    pub fn first_conf_change(&self) -> Option<LogIndex> {
        self.conf_changes.front().copied()
    }

    /// Lets go of every entry that can be read back.
    pub fn release_memory(&mut self) {
        while self.cache.front().is_some_and(|entry| entry.index <= self.persisted) {
            self.pop_oldest();
        }
        self.cache.shrink_to_fit();
        self.writes.shrink_to_fit();
        self.runs.shrink_to_fit();
        self.conf_changes.shrink_to_fit();
    }

    fn cache_all(&mut self, entries: Vec<Entry>) {
        self.cache_bytes += entries.iter().map(Entry::cost).sum::<usize>();
        self.cache.extend(entries);
    }

    fn evict(&mut self) {
        while self.cache_bytes > self.cache_bytes_max
            && self.cache.front().is_some_and(|entry| entry.index <= self.persisted)
        {
            self.pop_oldest();
        }
    }

    fn pop_oldest(&mut self) {
        if let Some(entry) = self.cache.pop_front() {
            self.cache_bytes -= entry.cost();
        }
    }

    /// Every invariant of the module's page, at the cost of a walk.
    #[cfg(test)]
    pub fn check(&self) {
        assert!(self.start.0 <= self.persisted && self.persisted <= self.last);
        assert_eq!(self.runs.is_empty(), self.start.0 == self.last);
        assert!(self.runs.iter().is_sorted_by(|a, b| a.0 < b.0 && a.1 < b.1));
        assert!(self.runs.front().is_none_or(|run| run.0 == self.start.0.next()));
        assert!(self.runs.front().is_none_or(|run| run.1 >= self.start.1));
        assert!(self.cache_first() > self.start.0);
        assert!(self.cache_first() <= self.persisted.next());
        assert_eq!(self.cache.iter().map(Entry::cost).sum::<usize>(), self.cache_bytes);
        for (entry, index) in self.cache.iter().zip(self.cache_first().0..) {
            assert_eq!(entry.index.0, index);
            assert_eq!(self.term(entry.index), Some(entry.term));
        }
        assert!(self.cache.back().is_none_or(|entry| entry.index == self.last));
    }
}

#[cfg(test)]
mod tests;
