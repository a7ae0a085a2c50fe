//! What is committed goes to the state machine: in order, once, and never too much at a time.
//!
//! ```text
//!   applied <= handed_out <= commit
//! ```
//!
//! The bytes between the first two are bounded: a state machine that falls behind is not buried.
//! Entries that have left memory are read back from the WAL first.

use super::log::{Found, Log};
use super::{Bounds, Effect, Effects, ReadFor};
use crate::types::{Entry, LogIndex};
use std::collections::VecDeque;

#[derive(Debug)]
pub struct Apply {
    applied: LogIndex,
    handed_out: LogIndex,
    /// (last index, bytes) of each piece between the two, oldest first.
    pieces: VecDeque<(LogIndex, usize)>,
    bytes: usize,
    reading: bool,
}

impl Apply {
    pub fn new(applied: LogIndex) -> Apply {
        Apply { applied, handed_out: applied, pieces: VecDeque::new(), bytes: 0, reading: false }
    }

    pub fn applied(&self) -> LogIndex {
        self.applied
    }

    /// Hands out what the bound allows.
    pub fn pump(&mut self, log: &Log, commit: LogIndex, bounds: &Bounds, fx: &mut Effects) {
        while !self.reading && self.handed_out < commit && self.bytes < bounds.apply_bytes_max {
            let room = bounds.apply_bytes_max - self.bytes;
            let from = self.handed_out.next();
            match log.find(from, commit, room, usize::MAX) {
                Found::Entries(entries) => self.hand_out(entries, fx),
                Found::Older { to } => {
                    self.reading = true;
                    let purpose = ReadFor::Apply;
                    fx.push(Effect::ReadEntries { purpose, from, to, bytes_max: room });
                }
            }
        }
    }

    fn hand_out(&mut self, entries: Vec<Entry>, fx: &mut Effects) {
        let last = entries.last().expect("never empty").index;
        let bytes = entries.iter().map(Entry::cost).sum();
        self.bytes += bytes;
        self.pieces.push_back((last, bytes));
        self.handed_out = last;
        fx.push(Effect::Apply(entries));
    }

    /// Entries came back from the WAL. Committed ones never change, so all that can be wrong is
    /// that a snapshot has overtaken them, or that the read failed: then it is asked again.
    pub fn entries_read(
        &mut self,
        from: LogIndex,
        entries: Vec<Entry>,
        log: &Log,
        commit: LogIndex,
        fx: &mut Effects,
    ) {
        self.reading = false;
        let wanted = from == self.handed_out.next()
            && entries.last().is_some_and(|entry| entry.index <= commit)
            && log.is_part(from, &entries);
        if wanted {
            self.hand_out(entries, fx);
        }
    }

    /// The state machine has run everything up to `index`. False when that is not news.
    pub fn advance(&mut self, index: LogIndex) -> bool {
        assert!(
            index <= self.handed_out,
            "applied {index}, but only {} was handed out",
            self.handed_out
        );
        if index <= self.applied {
            return false;
        }
        self.applied = index;
        while let Some(&(last, bytes)) = self.pieces.front()
            && last <= index
        {
            self.pieces.pop_front();
            self.bytes -= bytes;
        }
        true
    }

    /// The state machine was replaced by a snapshot at `index`.
    pub fn restart(&mut self, index: LogIndex) {
        assert!(index > self.applied, "a snapshot behind what is applied");
        *self = Apply::new(index);
    }

    pub fn is_idle(&self) -> bool {
        self.pieces.is_empty() && !self.reading
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{EntryKind, Term};
    use bytes::Bytes;

    fn log(count: u64) -> Log {
        let mut log = Log::new((LogIndex(0), Term(0)), LogIndex(0), &[], Vec::new(), 1 << 20);
        let entry = |index| Entry {
            term: Term(1),
            index: LogIndex(index),
            kind: EntryKind::Command,
            data: Bytes::from_static(&[0; 68]),
        };
        log.append((1..=count).map(entry).collect());
        assert!(log.persist(Term(1), LogIndex(count)));
        log
    }

    fn handed_out(fx: &mut Effects) -> Vec<u64> {
        let out = fx.drain().filter_map(|effect| match effect {
            Effect::Apply(entries) => Some(entries),
            _ => None,
        });
        out.flatten().map(|entry| entry.index.0).collect()
    }

    #[test]
    fn bytes_in_flight_are_bounded() {
        let (log, mut fx) = (log(10), Effects::new());
        let bounds = Bounds { apply_bytes_max: 250, ..Bounds::default() };
        let mut apply = Apply::new(LogIndex(0));
        apply.pump(&log, LogIndex(5), &bounds, &mut fx);
        assert_eq!(
            handed_out(&mut fx),
            [1, 2, 3],
            "the third goes over the bound, and is the last"
        );
        apply.pump(&log, LogIndex(5), &bounds, &mut fx);
        assert!(handed_out(&mut fx).is_empty());
        assert!(apply.advance(LogIndex(2)) && !apply.advance(LogIndex(1)));
        apply.pump(&log, LogIndex(5), &bounds, &mut fx);
        assert_eq!(handed_out(&mut fx), [4, 5], "never beyond the commit index");
    }

    #[test]
    fn old_entries_are_read_back_once() {
        let (mut log, mut fx) = (log(4), Effects::new());
        log.release_memory();
        let mut apply = Apply::new(LogIndex(1));
        apply.pump(&log, LogIndex(4), &Bounds::default(), &mut fx);
        apply.pump(&log, LogIndex(4), &Bounds::default(), &mut fx);
        assert_eq!(fx.len(), 1, "one read at a time");
        fx.drain();
        // Not what was asked for: asked again by the next pump.
        apply.entries_read(LogIndex(1), Vec::new(), &log, LogIndex(4), &mut fx);
        apply.pump(&log, LogIndex(4), &Bounds::default(), &mut fx);
        let purpose = ReadFor::Apply;
        let (from, to) = (LogIndex(2), LogIndex(4));
        let bytes_max = Bounds::default().apply_bytes_max;
        let asked = Effect::ReadEntries { purpose, from, to, bytes_max };
        assert_eq!(fx.drain().collect::<Vec<_>>(), [asked]);
    }
}
