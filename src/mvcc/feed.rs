//! The feed: past changes as events, for watchers that start in the past or have fallen behind.

use super::apply::{ReadError, event_of};
use super::key::revision_key;
use super::range::{Reads, Versions};
use super::record::Record;
use super::view::KeyspaceView;
use crate::types::reply::{Event, KeyValue};
use crate::types::{ApiError, Revision, StorageError};
use std::sync::Arc;

/// All wanted events of one revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeedRevision {
    pub revision: i64,
    pub events: Arc<[Event]>,
}

/// A stretch of the feed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Feed {
    pub revisions: Vec<FeedRevision>,
    /// The first revision that was not looked at.
    pub next: i64,
}

impl KeyspaceView {
    /// The changes of revisions `from..=until` to wanted keys, in order; whole revisions only.
    /// Stops early after the revision in which more than `records_max` records or `bytes_max`
    /// bytes of events have been seen. Previous values are filled where asked for and not
    /// compacted. A start below the compact revision is refused as compacted.
    pub fn feed(
        &self,
        from: i64,
        until: i64,
        records_max: usize,
        bytes_max: usize,
        prev_kv: bool,
        wanted: &mut dyn FnMut(&[u8]) -> bool,
    ) -> Result<Feed, ReadError> {
        let reads = self.reads();
        let until = until.min(reads.revision);
        let from = from.max(0);
        if from < reads.compact_revision {
            return Err(ApiError::Compacted.into());
        }
        let mut feed = Feed { revisions: Vec::new(), next: from.max(until + 1) };
        let mut cursor = reads.by_rev.cursor();
        cursor.seek(&revision_key(Revision::new(from, 0)))?;
        let (mut seen, mut bytes, mut main) = (0, 0, from);
        let mut events = Vec::new();
        while let Some((_, value, _)) = cursor.next()? {
            let record = Record::decode(value)?;
            if record.revision.main != main {
                flush(&mut feed, main, &mut events);
                main = record.revision.main;
                if main <= until && (seen >= records_max || bytes >= bytes_max) {
                    feed.next = main;
                    return Ok(feed);
                }
            }
            if main > until {
                break;
            }
            seen += 1;
            if wanted(record.key_bytes()) && reads.in_feed(&record)? {
                let prev_kv = if prev_kv { reads.prev_kv(&record)? } else { None };
                let event = event_of(&record, prev_kv);
                bytes += event_bytes(&event);
                events.push(event);
            }
        }
        flush(&mut feed, main, &mut events);
        Ok(feed)
    }
}

fn flush(feed: &mut Feed, revision: i64, events: &mut Vec<Event>) {
    if !events.is_empty() {
        let events = std::mem::take(events).into();
        feed.revisions.push(FeedRevision { revision, events });
    }
}

/// What an event costs in a budget counted in bytes.
pub(super) fn event_bytes(event: &Event) -> usize {
    let kv = |kv: &KeyValue| kv.key.len() + kv.value.len() + 32;
    32 + kv(&event.kv) + event.prev_kv.as_ref().map_or(0, kv)
}

impl Reads {
    /// Of the compact revision itself only what the compaction keeps is in the feed, removed
    /// already or not.
    fn in_feed(&self, record: &Record) -> Result<bool, StorageError> {
        if record.revision.main > self.compact_revision {
            return Ok(true);
        }
        self.is_newest_at(record, self.compact_revision)
    }

    /// What the key was one revision earlier, unless that is compacted.
    fn prev_kv(&self, record: &Record) -> Result<Option<KeyValue>, StorageError> {
        let before = record.revision.main - 1;
        if before < self.compact_revision || record.parent().is_none() {
            return Ok(None);
        }
        match self.find_at(record.clone(), before)? {
            Some(previous) if !previous.tombstone() => Ok(Some(self.key_value(&previous)?)),
            _ => Ok(None),
        }
    }
}
