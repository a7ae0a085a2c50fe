//! Copying forward: a slow or idle group's entries must not hold old segments for ever.
//!
//! Segments are released oldest first, so one small log that nobody trims would keep all that is
//! behind it. When less than a third of what the log takes is needed, the live entries of the
//! oldest segment are written again at the log's end, a bounded piece with each batch, as *kept*
//! records: those name entries that the log has and truncate nothing.
//!
//! The bound this gives: the log takes at most `SEGMENTS_MIN` segments, or three times what its
//! groups need. What is copied is at most a third of what is freed in one round through the log,
//! so copying adds at most half again to what is written.

use super::Wal;
use super::segment::Segment;
use super::writer::Copies;
use crate::types::{Entry, GroupId, LogIndex, StorageError};
use std::collections::VecDeque;

/// A log this short is not worth tidying.
const SEGMENTS_MIN: usize = 4;
/// The log is tidied when what it takes is more than this times what is needed.
const SLACK: u64 = 3;
/// Entry bytes copied with one batch; one entry may exceed it alone. Small, because a batch waits
/// for it; large enough that a segment is done in a few hundred batches.
const STEP_BYTES_MAX: usize = 128 << 10;

/// What a log takes, and what its groups need of that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogSizes {
    pub segments: usize,
    /// What the segments before the newest have room for.
    pub taken_bytes: u64,
    /// What it would take to write the entries again that are still needed.
    pub needed_bytes: u64,
}

/// The segment being emptied, and the stretches of entries that lay in it at the beginning. Some
/// may have been trimmed or truncated since.
#[derive(Debug)]
pub(super) struct CopyJob {
    sequence: u64,
    left: VecDeque<(GroupId, LogIndex, LogIndex)>,
}

impl Wal {
    pub fn sizes(&self) -> LogSizes {
        let taken: u64 = self.segments.iter().map(Segment::usable).sum();
        LogSizes {
            segments: self.segments.len(),
            taken_bytes: taken - self.current().usable(),
            needed_bytes: self.live.bytes(),
        }
    }

    pub(super) fn wants_copying(&self) -> bool {
        if self.segments.len() <= SEGMENTS_MIN || self.live.count(self.live.oldest()).entries == 0 {
            return false;
        }
        let taken = self.sizes().taken_bytes;
        self.live.bytes().saturating_mul(SLACK) < taken
    }

    /// The next piece to be written again.
    pub(super) fn next_copies(&mut self) -> Result<Vec<Copies>, StorageError> {
        if !self.wants_copying() {
            return Ok(Vec::new());
        }
        let sequence = self.live.oldest();
        let mut job = match self.copying.take() {
            Some(job) if job.sequence == sequence => job,
            _ => self.begin_copying(sequence),
        };
        let budget = STEP_BYTES_MAX.min(self.options.segment_bytes as usize / 4);
        let copies = self.take_piece(&mut job, budget)?;
        self.copying = Some(job);
        Ok(copies)
    }

    /// Looks at every slot once; a segment is emptied once in its life.
    fn begin_copying(&self, sequence: u64) -> CopyJob {
        let mut left = VecDeque::new();
        for (group, index) in &self.groups {
            let stretches = index.stretches_in(sequence, &self.live);
            left.extend(stretches.into_iter().map(|(first, last)| (*group, first, last)));
        }
        CopyJob { sequence, left }
    }

    fn take_piece(&self, job: &mut CopyJob, budget: usize) -> Result<Vec<Copies>, StorageError> {
        let mut copies: Vec<Copies> = Vec::new();
        let mut left = budget;
        while left > 0 {
            let Some((group, first, last)) = job.left.pop_front() else { break };
            let Some(first) = self.first_in(job.sequence, group, first, last) else { continue };
            let until = self.stretch_end(job.sequence, group, first, last);
            let entries = self.read(group, first, until, left)?;
            let cost: usize = entries.iter().map(Entry::cost).sum();
            if cost > left && !copies.is_empty() {
                job.left.push_front((group, first, last));
                break;
            }
            left = left.saturating_sub(cost);
            let next = LogIndex(first.0 + entries.len() as u64);
            if next <= last {
                job.left.push_front((group, next, last));
            }
            copies.push(Copies { group, entries });
        }
        Ok(copies)
    }

    fn lies_in(&self, sequence: u64, group: GroupId, index: LogIndex) -> bool {
        let slot = self.groups.get(&group).and_then(|log| log.slot(index));
        slot.is_some_and(|slot| self.live.sequence(slot) == sequence)
    }

    /// The first entry of the stretch that still lies in the segment.
    fn first_in(
        &self,
        sequence: u64,
        group: GroupId,
        first: LogIndex,
        last: LogIndex,
    ) -> Option<LogIndex> {
        (first.0..=last.0).map(LogIndex).find(|index| self.lies_in(sequence, group, *index))
    }

    /// The last entry from `first` on without one in between that lies elsewhere.
    fn stretch_end(
        &self,
        sequence: u64,
        group: GroupId,
        first: LogIndex,
        last: LogIndex,
    ) -> LogIndex {
        let more = (first.0 + 1..=last.0).map(LogIndex);
        let still_in = more.take_while(|index| self.lies_in(sequence, group, *index));
        still_in.last().unwrap_or(first)
    }
}
