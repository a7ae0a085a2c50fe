//! Compaction: logical at apply, physical in small steps.
//!
//! At apply a compaction only moves the compact revision: from then on older reads are refused.
//! The removal walks the by-revision tree over the revisions since the last compaction, nothing
//! else: each record names the version that it replaced (drop it), and a tombstone before the
//! compact revision goes itself, with its key's head. What was left before that window had been
//! the newest version of its key then, and goes exactly when a record in the window replaced it.
//! So the work is proportional to what was written, not to what is stored.
//!
//! ```text
//!   2 a=1   3 b=1   4 a=2 ←2   5 b✝ ←3   6 c=1   7 a=3 ←4        compact at 6:
//!   scan    4: drop 2    5: drop 3, drop 5 and b's head    6: nothing     left: 4 6 7
//! ```
//!
//! A tombstone exactly at the compact revision stays until the next compaction, so that a watch
//! from there sees the delete. The scan's position is in the META tree with everything else of
//! one checkpoint: after a restart it goes on from where that checkpoint stood.

use super::apply::ReadError;
use super::key::revision_key;
use super::keyspace::Keyspace;
use super::record::Record;
use crate::types::{ApiError, Revision, StorageError};

impl Keyspace {
    /// The logical part, at apply.
    pub(super) fn compact(&mut self, revision: i64) -> Result<(), ReadError> {
        let state = &mut self.state;
        if revision <= state.compact_revision {
            return Err(ApiError::Compacted.into());
        }
        if revision > state.revision {
            return Err(ApiError::FutureRevision.into());
        }
        // Tombstones exactly at the older target were kept; now they are to be seen again.
        if state.compact_revision >= 0 {
            state.compact_scan = state.compact_scan.min(Revision::new(state.compact_revision, 0));
        }
        state.compact_revision = revision;
        Ok(())
    }

    /// The newest compact revision whose removals are all done; −1 before the first.
    pub fn compacted_revision(&self) -> i64 {
        self.state.compacted
    }

    /// Whether `compact_step` has something to do.
    pub fn compaction_pending(&self) -> bool {
        self.state.compacted < self.state.compact_revision
    }

    /// Looks at up to `budget` records and removes what the compact revision has made
    /// unreachable. Returns whether more is left. Never changes a reply, a feed or a hash.
    pub fn compact_step(&mut self, budget: usize) -> Result<bool, StorageError> {
        if !self.compaction_pending() {
            return Ok(false);
        }
        let target = self.state.compact_revision;
        let (records, next) = self.compact_scan(target, budget.max(1))?;
        for record in &records {
            if let Some(parent) = record.parent() {
                self.by_rev.remove(&revision_key(parent))?;
            }
            if record.tombstone() && record.revision.main < target {
                self.by_rev.remove(&revision_key(record.revision))?;
                let head = self.head(record.key_bytes())?;
                if head.is_some_and(|head| head.revision == record.revision) {
                    self.by_key.remove(record.key_bytes())?;
                }
            }
        }
        self.changes += records.len() as u64;
        match next {
            Some(next) => self.state.compact_scan = next,
            None => {
                self.state.compacted = target;
                self.state.compact_scan = Revision::new(target.max(0), 0);
            }
        }
        Ok(next.is_some())
    }

    /// The next records up to the target, and where to go on, or `None` at the end.
    fn compact_scan(
        &self,
        target: i64,
        budget: usize,
    ) -> Result<(Vec<Record>, Option<Revision>), StorageError> {
        let view = self.by_rev.view();
        let mut cursor = view.cursor();
        cursor.seek(&revision_key(self.state.compact_scan))?;
        let mut records = Vec::new();
        while let Some((_, value, _)) = cursor.next()? {
            let record = Record::decode(value)?;
            if record.revision.main > target {
                return Ok((records, None));
            }
            if records.len() == budget {
                return Ok((records, Some(record.revision)));
            }
            records.push(record);
        }
        Ok((records, None))
    }
}
