//! Where the entries of a group lie, in memory: 16 bytes an entry, so the log's size in entries
//! bounds it, and trimming gives it back.
//!
//! The same code runs when a batch is written and when it is replayed, which is why each change
//! returns a reason instead of asserting: the writer takes it for a caller's mistake and panics,
//! recovery takes it for damage.

use super::record::ENTRY_OVERHEAD_MAX;
use super::segment::GroupBounds;
use crate::types::{Entry, EntryKind, GroupId, HardState, LogIndex, Term};
use std::collections::{BTreeMap, VecDeque};

/// Where one entry's data lies, and its checksum: a read needs nothing else from the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slot {
    /// The low half of the segment's sequence; `Live::sequence` finds the rest.
    segment: u32,
    offset: u32,
    /// Length in the low 30 bits, kind in the high two.
    bytes_and_kind: u32,
    pub crc: u32,
}

const BYTES_MASK: u32 = (1 << 30) - 1;

impl Slot {
    pub fn new(sequence: u64, offset: u64, bytes: usize, kind: EntryKind, crc: u32) -> Slot {
        let offset = u32::try_from(offset).expect("a segment is shorter than 4 GiB");
        let bytes = u32::try_from(bytes).expect("an entry is shorter than 1 GiB");
        assert!(bytes <= BYTES_MASK, "an entry of {bytes} bytes");
        let kind = match kind {
            EntryKind::Empty => 0,
            EntryKind::Command => 1,
            EntryKind::ConfChange => 2,
        };
        Slot { segment: sequence as u32, offset, bytes_and_kind: bytes | kind << 30, crc }
    }

    pub fn offset(self) -> u64 {
        u64::from(self.offset)
    }

    pub fn bytes(self) -> usize {
        (self.bytes_and_kind & BYTES_MASK) as usize
    }

    pub fn end(self) -> u64 {
        self.offset() + self.bytes() as u64
    }

    pub fn kind(self) -> EntryKind {
        match self.bytes_and_kind >> 30 {
            0 => EntryKind::Empty,
            1 => EntryKind::Command,
            _ => EntryKind::ConfChange,
        }
    }

    /// The same as `Entry::cost` of the entry.
    pub fn cost(self) -> usize {
        let empty = Entry {
            term: Term::ZERO,
            index: LogIndex::ZERO,
            kind: EntryKind::Empty,
            data: bytes::Bytes::new(),
        };
        empty.cost() + self.bytes()
    }

    /// What writing the entry again could cost at most.
    fn disk_bytes(self) -> u64 {
        (self.bytes() + ENTRY_OVERHEAD_MAX) as u64
    }
}

/// How much of each segment is still needed.
#[derive(Debug)]
pub(super) struct Live {
    /// Sequence of the first of `counts`.
    oldest: u64,
    counts: VecDeque<LiveCount>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct LiveCount {
    pub entries: u64,
    /// What writing them again would cost at most: an upper bound, so that copying forward
    /// always frees more than it writes.
    pub bytes: u64,
}

impl Live {
    /// Counts for the segments `oldest..=newest`, all zero.
    pub fn new(oldest: u64, newest: u64) -> Live {
        assert!(oldest <= newest, "segments {oldest}..={newest}");
        let count = usize::try_from(newest - oldest + 1).expect("as many as there are files");
        Live { oldest, counts: VecDeque::from(vec![LiveCount::default(); count]) }
    }

    pub fn oldest(&self) -> u64 {
        self.oldest
    }

    pub fn newest(&self) -> u64 {
        self.oldest + self.counts.len() as u64 - 1
    }

    pub fn push(&mut self) {
        self.counts.push_back(LiveCount::default());
    }

    pub fn pop(&mut self) {
        let gone = self.counts.pop_front().expect("the current segment is never released");
        assert!(gone.entries == 0, "segment {} still holds {gone:?}", self.oldest);
        self.oldest += 1;
    }

    /// The whole sequence of a slot's segment. Far fewer than 2^32 segments exist at a time.
    pub fn sequence(&self, slot: Slot) -> u64 {
        self.oldest + u64::from(slot.segment.wrapping_sub(self.oldest as u32))
    }

    pub fn count(&self, sequence: u64) -> LiveCount {
        self.counts[(sequence - self.oldest) as usize]
    }

    pub fn bytes(&self) -> u64 {
        self.counts.iter().map(|c| c.bytes).sum()
    }

    /// The oldest segment that is needed: the first with live entries, or the newest.
    pub fn oldest_needed(&self) -> u64 {
        let unneeded = self.counts.iter().take_while(|c| c.entries == 0).count() as u64;
        (self.oldest + unneeded).min(self.newest())
    }

    fn add(&mut self, slot: Slot) {
        let at = (self.sequence(slot) - self.oldest) as usize;
        let count = &mut self.counts[at];
        count.entries += 1;
        count.bytes += slot.disk_bytes();
    }

    fn remove(&mut self, slot: Slot) {
        let at = (self.sequence(slot) - self.oldest) as usize;
        let count = &mut self.counts[at];
        assert!(count.entries > 0, "an entry goes from a segment that holds none");
        count.entries -= 1;
        count.bytes -= slot.disk_bytes();
    }
}

/// One group's log as the WAL knows it.
///
/// Invariants: `start.0 <= base`; `slots[i]` is the entry `base + 1 + i`; `terms` are the first
/// indexes of the term runs of `slots`, the first being `base + 1`. Once recovery has finished,
/// `base == start.0` and `kept` is empty.
#[derive(Debug, Default)]
pub(super) struct GroupIndex {
    pub hard: HardState,
    start: (LogIndex, Term),
    base: LogIndex,
    slots: VecDeque<Slot>,
    terms: VecDeque<(LogIndex, Term)>,
    /// Only while replaying: entries at or before `base` that were copied forward. Replay begins
    /// at a segment whose header knows how far the log reached, but not where those entries lie;
    /// all that are still needed at the end turn up as copies.
    kept: BTreeMap<LogIndex, (Term, Slot)>,
}

impl GroupIndex {
    /// A group as a segment header describes it: none of its entries' places is known yet.
    pub fn of_bounds(bounds: &GroupBounds) -> GroupIndex {
        GroupIndex {
            hard: bounds.hard,
            start: bounds.start,
            base: bounds.last,
            ..GroupIndex::default()
        }
    }

    pub fn bounds(&self, group: GroupId) -> GroupBounds {
        GroupBounds { group, hard: self.hard, start: self.start, last: self.last() }
    }

    pub fn start(&self) -> (LogIndex, Term) {
        self.start
    }

    pub fn last(&self) -> LogIndex {
        LogIndex(self.base.0 + self.slots.len() as u64)
    }

    pub fn slot(&self, index: LogIndex) -> Option<Slot> {
        let at = index.0.checked_sub(self.base.0 + 1)?;
        self.slots.get(usize::try_from(at).ok()?).copied()
    }

    /// The term of an entry in the log, or of its start.
    pub fn term(&self, index: LogIndex) -> Option<Term> {
        if index == self.start.0 {
            return Some(self.start.1);
        }
        if index <= self.base || index > self.last() {
            return None;
        }
        let run = self.terms.partition_point(|(first, _)| *first <= index);
        Some(self.terms[run - 1].1)
    }

    pub fn terms(&self) -> Vec<(LogIndex, Term)> {
        self.terms.iter().copied().collect()
    }

    /// First and last index of each stretch of entries that lie in segment `sequence`.
    pub fn stretches_in(&self, sequence: u64, live: &Live) -> Vec<(LogIndex, LogIndex)> {
        let mut found: Vec<(LogIndex, LogIndex)> = Vec::new();
        for (at, slot) in self.slots.iter().enumerate() {
            if live.sequence(*slot) != sequence {
                continue;
            }
            let index = LogIndex(self.base.0 + 1 + at as u64);
            match found.last_mut() {
                Some((_, last)) if last.next() == index => *last = index,
                _ => found.push((index, index)),
            }
        }
        found
    }

    /// Entries from `first` on, which must be the index after the last.
    pub fn append(
        &mut self,
        first: LogIndex,
        term: Term,
        slots: impl Iterator<Item = Slot>,
        live: &mut Live,
    ) -> Result<(), &'static str> {
        if self.last().0.checked_add(1) != Some(first.0) {
            return Err("entries that do not continue the log");
        }
        if self.terms.back().is_none_or(|(_, newest)| *newest != term) {
            self.terms.push_back((first, term));
        }
        for slot in slots {
            live.add(slot);
            self.slots.push_back(slot);
        }
        Ok(())
    }

    /// Another place of an entry the log has.
    pub fn keep(
        &mut self,
        index: LogIndex,
        term: Term,
        slot: Slot,
        live: &mut Live,
    ) -> Result<(), &'static str> {
        if index <= self.start.0 || index > self.last() {
            return Err("a copy of an entry that the log does not have");
        }
        live.add(slot);
        let old = if index <= self.base {
            self.kept.insert(index, (term, slot)).map(|(_, old)| old)
        } else {
            if self.term(index) != Some(term) {
                return Err("a copy of an entry with another term");
            }
            let at = (index.0 - self.base.0 - 1) as usize;
            Some(std::mem::replace(&mut self.slots[at], slot))
        };
        if let Some(old) = old {
            live.remove(old);
        }
        Ok(())
    }

    /// The entries from `from` on are gone.
    pub fn truncate(&mut self, from: LogIndex, live: &mut Live) -> Result<(), &'static str> {
        if from <= self.start.0 || from > self.last() {
            return Err("a truncation outside of the log");
        }
        let left = from.0.saturating_sub(self.base.0 + 1) as usize;
        for slot in self.slots.drain(left..) {
            live.remove(slot);
        }
        while self.terms.back().is_some_and(|(first, _)| *first >= from) {
            self.terms.pop_back();
        }
        for (_, slot) in self.kept.split_off(&from).into_values() {
            live.remove(slot);
        }
        self.base = self.base.min(from.prev());
        Ok(())
    }

    /// The entries up to `index`, whose term is `term`, are gone.
    pub fn trim(
        &mut self,
        index: LogIndex,
        term: Term,
        live: &mut Live,
    ) -> Result<(), &'static str> {
        if index <= self.start.0 || index > self.last() {
            return Err("a trim outside of the log");
        }
        if self.term(index).is_some_and(|known| known != term) {
            return Err("a trim with another term than the entry's");
        }
        let needed = self.kept.split_off(&index.next());
        for (_, slot) in std::mem::replace(&mut self.kept, needed).into_values() {
            live.remove(slot);
        }
        if index > self.base {
            for slot in self.slots.drain(..(index.0 - self.base.0) as usize) {
                live.remove(slot);
            }
            self.base = index;
        }
        self.start = (index, term);
        self.settle_terms();
        Ok(())
    }

    /// The log is empty and begins after `index`.
    pub fn restart(&mut self, index: LogIndex, term: Term, live: &mut Live) {
        self.clear(live);
        self.start = (index, term);
        self.base = index;
    }

    /// Gives up all entries, as when the group is dropped.
    pub fn clear(&mut self, live: &mut Live) {
        for slot in self.slots.drain(..) {
            live.remove(slot);
        }
        for (_, slot) in std::mem::take(&mut self.kept).into_values() {
            live.remove(slot);
        }
        self.terms.clear();
    }

    /// The end of replay: every entry after the start must have been seen.
    pub fn finish(&mut self) -> Result<(), LogIndex> {
        let mut expected = self.start.0;
        for index in self.kept.keys() {
            if *index != expected.next() {
                return Err(expected.next());
            }
            expected = *index;
        }
        if expected != self.base {
            return Err(expected.next());
        }
        for (index, (term, slot)) in std::mem::take(&mut self.kept).into_iter().rev() {
            self.slots.push_front(slot);
            match self.terms.front_mut() {
                Some((first, newest)) if *newest == term => *first = index,
                _ => self.terms.push_front((index, term)),
            }
        }
        self.base = self.start.0;
        Ok(())
    }

    /// Drops the term runs before `base + 1` and cuts the one that contains it.
    fn settle_terms(&mut self) {
        if self.slots.is_empty() {
            self.terms.clear();
            return;
        }
        let first = self.base.next();
        while self.terms.get(1).is_some_and(|(next, _)| *next <= first) {
            self.terms.pop_front();
        }
        self.terms[0].0 = first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(at: u64) -> Slot {
        Slot::new(1, at, 8, EntryKind::Command, 0)
    }

    /// Entries 5..=8 are known to exist, not where; 9 and 10 were seen.
    fn with_a_hole() -> (GroupIndex, Live) {
        let bounds = GroupBounds {
            group: GroupId(1),
            hard: HardState::default(),
            start: (LogIndex(4), Term(1)),
            last: LogIndex(8),
        };
        let (mut index, mut live) = (GroupIndex::of_bounds(&bounds), Live::new(1, 1));
        let seen = [slot(900), slot(1000)].into_iter();
        index.append(LogIndex(9), Term(3), seen, &mut live).unwrap();
        (index, live)
    }

    fn keep(index: &mut GroupIndex, live: &mut Live, at: u64, term: u64) {
        index.keep(LogIndex(at), Term(term), slot(at * 100), live).unwrap();
    }

    #[test]
    fn a_slot_is_small_and_keeps_what_it_is_told() {
        assert_eq!(size_of::<Slot>(), 16);
        for kind in [EntryKind::Empty, EntryKind::Command, EntryKind::ConfChange] {
            let slot = Slot::new(u64::from(u32::MAX) + 7, 12, BYTES_MASK as usize, kind, 5);
            assert_eq!((slot.offset(), slot.bytes(), slot.kind()), (12, (1 << 30) - 1, kind));
            let mut live = Live::new(u64::from(u32::MAX) - 3, u64::from(u32::MAX) + 9);
            assert_eq!(live.sequence(slot), u64::from(u32::MAX) + 7);
            live.add(slot);
            assert_eq!(live.oldest_needed(), u64::from(u32::MAX) + 7);
        }
    }

    #[test]
    fn copies_fill_the_hole_in_any_order() {
        let (mut index, mut live) = with_a_hole();
        for (at, term) in [(7, 2), (8, 2), (5, 1), (6, 2)] {
            keep(&mut index, &mut live, at, term);
        }
        assert_eq!(index.finish(), Ok(()));
        let terms = [(5, 1), (6, 2), (9, 3)].map(|(i, t)| (LogIndex(i), Term(t)));
        assert_eq!(index.terms(), terms);
        assert_eq!(index.slot(LogIndex(5)), Some(slot(500)));
        assert_eq!((index.last(), live.count(1).entries), (LogIndex(10), 6));
    }

    #[test]
    fn an_entry_that_lies_nowhere_is_missed() {
        for (missing, copied) in [(5, vec![6, 7, 8]), (7, vec![5, 6, 8]), (8, vec![5, 6, 7])] {
            let (mut index, mut live) = with_a_hole();
            for at in copied {
                keep(&mut index, &mut live, at, 2);
            }
            assert_eq!(index.finish(), Err(LogIndex(missing)));
        }
    }

    #[test]
    fn a_hole_is_trimmed_and_truncated_like_entries() {
        let (mut index, mut live) = with_a_hole();
        keep(&mut index, &mut live, 5, 2);
        keep(&mut index, &mut live, 7, 2);
        index.trim(LogIndex(6), Term(2), &mut live).unwrap();
        assert_eq!(live.count(1).entries, 3);
        index.truncate(LogIndex(8), &mut live).unwrap();
        assert_eq!((index.last(), live.count(1).entries), (LogIndex(7), 1));
        assert_eq!(index.finish(), Ok(()));
        assert_eq!(index.terms(), [(LogIndex(7), Term(2))]);
        index.append(LogIndex(8), Term(9), [slot(1)].into_iter(), &mut live).unwrap();
        index.restart(LogIndex(3), Term(1), &mut live);
        assert_eq!((index.last(), live.count(1)), (LogIndex(3), LiveCount::default()));
    }

    #[test]
    fn what_does_not_fit_the_log_is_refused() {
        let (mut index, mut live) = with_a_hole();
        let live = &mut live;
        assert!(index.append(LogIndex(12), Term(3), [slot(1)].into_iter(), live).is_err());
        assert!(index.append(LogIndex(10), Term(3), [slot(1)].into_iter(), live).is_err());
        assert!(index.truncate(LogIndex(4), live).is_err());
        assert!(index.truncate(LogIndex(11), live).is_err());
        assert!(index.trim(LogIndex(4), Term(1), live).is_err());
        assert!(index.trim(LogIndex(11), Term(3), live).is_err());
        assert!(index.trim(LogIndex(9), Term(2), live).is_err());
        assert!(index.keep(LogIndex(4), Term(1), slot(1), live).is_err());
        assert!(index.keep(LogIndex(10), Term(2), slot(1), live).is_err());
    }
}
