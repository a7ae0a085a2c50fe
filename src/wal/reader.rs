//! Reading back entries that have left the caller's memory.

use super::index::{GroupIndex, Slot};
use super::segment::damage;
use super::{GroupLog, Wal};
use crate::types::limits::LOG_CACHE_BYTES_MAX;
use crate::types::{Entry, GroupId, LogIndex, StorageError};
use bytes::Bytes;

/// Entries that lie close together are read by one call, up to this much; the entries share that
/// buffer.
const SPAN_BYTES_MAX: u64 = 1 << 20;
/// What may lie between two of them: batch frames do, other groups' entries mostly do not. Small,
/// because what lies between stays in memory with the entries.
const GAP_BYTES_MAX: u64 = 256;

impl Wal {
    /// The entries `from..=to_inclusive` of a group, at most `bytes_max` of them by `Entry::cost`
    /// but at least one; their checksums are verified. Empty when the log does not hold `from`
    /// (any more): the caller may ask about a log that it has since trimmed or truncated.
    pub fn read(
        &self,
        group: GroupId,
        from: LogIndex,
        to_inclusive: LogIndex,
        bytes_max: usize,
    ) -> Result<Vec<Entry>, StorageError> {
        let Some(index) = self.groups.get(&group) else { return Ok(Vec::new()) };
        let mut entries = Vec::new();
        let (mut next, mut left) = (from, bytes_max);
        while next <= to_inclusive && index.slot(next).is_some() {
            let span = self.span(index, next, to_inclusive, left, entries.is_empty());
            if span.is_empty() {
                break;
            }
            let cost: usize = span.iter().map(|slot| slot.cost()).sum();
            left = left.saturating_sub(cost);
            self.read_span(index, next, &span, &mut entries)?;
            next = LogIndex(next.0 + span.len() as u64);
        }
        Ok(entries)
    }

    /// The slots from `from` on that can be read by one call and fit into `bytes_max`; at least
    /// one if `at_least_one`.
    fn span(
        &self,
        index: &GroupIndex,
        from: LogIndex,
        to: LogIndex,
        bytes_max: usize,
        at_least_one: bool,
    ) -> Vec<Slot> {
        let mut span: Vec<Slot> = Vec::new();
        let mut left = bytes_max;
        let mut next = from;
        while next <= to {
            let Some(slot) = index.slot(next) else { break };
            if slot.cost() > left && !(at_least_one && span.is_empty()) {
                break;
            }
            if let (Some(first), Some(last)) = (span.first(), span.last()) {
                let near = self.live.sequence(slot) == self.live.sequence(*last)
                    && slot.offset() >= last.end()
                    && slot.offset() - last.end() <= GAP_BYTES_MAX
                    && slot.end() - first.offset() <= SPAN_BYTES_MAX;
                if !near {
                    break;
                }
            }
            left = left.saturating_sub(slot.cost());
            span.push(slot);
            next = next.next();
        }
        span
    }

    fn read_span(
        &self,
        index: &GroupIndex,
        from: LogIndex,
        span: &[Slot],
        entries: &mut Vec<Entry>,
    ) -> Result<(), StorageError> {
        let (first, last) = (span[0], span[span.len() - 1]);
        let segment = self.segment(self.live.sequence(first));
        let mut bytes = vec![0; (last.end() - first.offset()) as usize];
        if !bytes.is_empty() {
            segment.file.read_exact_at(&mut bytes, first.offset())?;
        }
        let bytes = Bytes::from(bytes);
        for (at, slot) in span.iter().enumerate() {
            let start = (slot.offset() - first.offset()) as usize;
            let data = bytes.slice(start..start + slot.bytes());
            let crc = crc32fast::hash(&data);
            if crc != slot.crc {
                let expected = format!("an entry with checksum {:08x}", slot.crc);
                return Err(damage(&segment.path, slot.offset(), expected, format!("{crc:08x}")));
            }
            let position = LogIndex(from.0 + at as u64);
            let term = index.term(position).expect("a log knows the term of its every entry");
            entries.push(Entry { term, index: position, kind: slot.kind(), data });
        }
        Ok(())
    }

    /// A group's log with as much of its tail as a replica keeps in memory.
    pub(super) fn group_log(&self, group: GroupId) -> Result<GroupLog, StorageError> {
        let index = &self.groups[&group];
        let (start, last) = (index.start(), index.last());
        let (mut first, mut left) = (last.next(), LOG_CACHE_BYTES_MAX);
        while let Some(slot) = index.slot(first.prev()) {
            let Some(rest) = left.checked_sub(slot.cost()) else { break };
            left = rest;
            first = first.prev();
        }
        let tail = self.read(group, first, last, usize::MAX)?;
        let expected = last.next().0 - first.0;
        assert!(tail.len() as u64 == expected, "the tail of group {group} is incomplete");
        Ok(GroupLog { hard: index.hard, start, last, terms: index.terms(), tail })
    }
}
