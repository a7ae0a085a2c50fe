//! What a log should hold: a Vec per group.

use crate::types::{Entry, GroupId, HardState, LogIndex, Term};
use crate::wal::{Batch, GroupLog, Record, Wal};
use std::collections::BTreeMap;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModelGroup {
    pub hard: HardState,
    pub start: (LogIndex, Term),
    pub entries: Vec<Entry>,
}

impl ModelGroup {
    pub fn last(&self) -> LogIndex {
        LogIndex(self.start.0.0 + self.entries.len() as u64)
    }

    pub fn term(&self, index: LogIndex) -> Term {
        if index == self.start.0 {
            return self.start.1;
        }
        self.entries[(index.0 - self.start.0.0 - 1) as usize].term
    }

    fn terms(&self) -> Vec<(LogIndex, Term)> {
        let runs = self.entries.chunk_by(|a, b| a.term == b.term);
        runs.map(|run| (run[0].index, run[0].term)).collect()
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Model {
    pub groups: BTreeMap<GroupId, ModelGroup>,
}

impl Model {
    pub fn apply(&mut self, batch: &Batch) {
        for record in &batch.records {
            self.record(record);
        }
    }

    fn record(&mut self, record: &Record) {
        match record {
            Record::HardState { group, hard } => {
                self.groups.entry(*group).or_default().hard = *hard;
            }
            Record::Append { group, entries } => {
                let Some(first) = entries.first() else { return };
                let log = self.groups.entry(*group).or_default();
                log.entries.truncate((first.index.0 - log.start.0.0 - 1) as usize);
                log.entries.extend_from_slice(entries);
            }
            Record::LogStart { group, index, term } => {
                let log = self.groups.entry(*group).or_default();
                log.start = (*index, *term);
                log.entries.clear();
            }
            Record::Trim { group, index, term } => {
                let log = self.groups.get_mut(group).unwrap();
                if *index > log.start.0 {
                    log.entries.drain(..(index.0 - log.start.0.0) as usize);
                    log.start = (*index, *term);
                }
            }
            Record::DropGroup { group } => {
                self.groups.remove(group);
            }
        }
    }

    /// What `Wal::open` should return.
    pub fn logs(&self) -> BTreeMap<GroupId, GroupLog> {
        let log = |g: &ModelGroup| GroupLog {
            hard: g.hard,
            start: g.start,
            last: g.last(),
            terms: g.terms(),
            tail: g.entries.clone(),
        };
        self.groups.iter().map(|(id, g)| (*id, log(g))).collect()
    }

    /// Reads every entry back, whole logs and in small pieces.
    pub fn check_reads(&self, wal: &Wal) {
        for (id, log) in &self.groups {
            let first = log.start.0.next();
            let all = wal.read(*id, first, log.last(), usize::MAX).unwrap();
            assert_eq!(all, log.entries, "group {id}");
            let mut next = first;
            while next <= log.last() {
                let some = wal.read(*id, next, log.last(), 150).unwrap();
                let at = (next.0 - first.0) as usize;
                assert!(!some.is_empty(), "group {id} at {next}");
                assert_eq!(some[..], log.entries[at..at + some.len()]);
                let cost: usize = some.iter().map(Entry::cost).sum();
                assert!(cost <= 150 || some.len() == 1);
                next = LogIndex(next.0 + some.len() as u64);
            }
            let outside = [log.start.0, log.last().next()];
            for index in outside {
                assert_eq!(wal.read(*id, index, LogIndex(u64::MAX), 1000).unwrap(), []);
            }
        }
        assert_eq!(wal.read(GroupId(999), LogIndex(1), LogIndex(9), 1000).unwrap(), []);
    }
}
