//! Reading: ranges at the newest revision and at older ones.

use super::apply::ReadError;
use super::key::{before_end, bounds, revision_key};
use super::keyspace::Keyspace;
use super::record::Record;
use crate::btree::View;
use crate::types::command::{RangeRequest, SortOrder, SortTarget};
use crate::types::reply::{KeyValue, RangeReply};
use crate::types::{ApiError, KeyRange, Revision, StorageError};
use bytes::Bytes;

/// Something that can look up a record by its revision, and so walk a key's history.
pub(super) trait Versions {
    fn version(&self, revision: Revision) -> Result<Option<Record>, StorageError>;

    /// The version that a key had at the end of revision `main`, given a later one of its
    /// records; a tombstone where it was deleted and that is not compacted. `main` must not be
    /// below the compact revision.
    fn find_at(&self, mut record: Record, main: i64) -> Result<Option<Record>, StorageError> {
        while record.revision.main > main {
            let too_new = record.ancestors().take_while(|a| a.main > main).last();
            let Some(next) = too_new.or_else(|| record.parent()) else { return Ok(None) };
            match self.version(next)? {
                Some(found) => record = found,
                // At or before `main` it may be a compacted tombstone: the key was not there.
                None if next.main <= main => return Ok(None),
                None => return Err(missing(next)),
            }
        }
        Ok(Some(record))
    }

    /// A record's value, wherever it is kept.
    fn value_of(&self, record: &Record) -> Result<Bytes, StorageError> {
        if let Some(value) = record.value() {
            return Ok(value);
        }
        let whole = self.version(record.revision)?.and_then(|whole| whole.value());
        whole.ok_or_else(|| missing(record.revision))
    }

    fn key_value(&self, record: &Record) -> Result<KeyValue, StorageError> {
        Ok(record.key_value(self.value_of(record)?))
    }
}

fn missing(revision: Revision) -> StorageError {
    StorageError::corrupt("keyspace", 0, format!("a record at revision {revision}"), "none")
}

impl Versions for Keyspace {
    fn version(&self, revision: Revision) -> Result<Option<Record>, StorageError> {
        self.record_at(revision)
    }
}

impl Keyspace {
    /// A reader of the present state, in which `revision` is the newest.
    pub(super) fn reads(&self, revision: i64) -> Reads {
        Reads {
            by_key: self.by_key.view(),
            by_rev: self.by_rev.view(),
            revision,
            compact_revision: self.state.compact_revision,
        }
    }
}

/// A reader of one state of the two big trees.
#[derive(Clone, Debug)]
pub(super) struct Reads {
    pub by_key: View,
    pub by_rev: View,
    /// The newest revision in `by_key`.
    pub revision: i64,
    pub compact_revision: i64,
}

impl Versions for Reads {
    fn version(&self, revision: Revision) -> Result<Option<Record>, StorageError> {
        self.by_rev.get(&revision_key(revision))?.map(|item| Record::decode(item.value)).transpose()
    }
}

impl Reads {
    /// The revision that a request reads at.
    pub fn resolve(&self, revision: i64) -> Result<i64, ApiError> {
        match revision {
            r if r <= 0 => Ok(self.revision),
            r if r > self.revision => Err(ApiError::FutureRevision),
            r if r < self.compact_revision => Err(ApiError::Compacted),
            r => Ok(r),
        }
    }

    pub fn range(&self, request: &RangeRequest) -> Result<RangeReply, ReadError> {
        let at = self.resolve(request.revision)?;
        let past = at < self.revision;
        if request.count_only {
            let count = if past {
                self.scan_past(&request.range, at, 0)?.1
            } else {
                self.count(&request.range)?
            };
            return Ok(RangeReply { kvs: Vec::new(), more: false, count });
        }
        let fetch = Fetch::of(request);
        let (records, count) = if past {
            let (mut records, count) = self.scan_past(&request.range, at, fetch.forward_limit())?;
            if fetch.reverse {
                records.reverse();
                records.truncate(fetch.limit);
            }
            (records, count)
        } else {
            let records = self.live(&request.range, fetch.limit, fetch.reverse)?;
            let count = if records.len() < fetch.limit {
                records.len() as i64
            } else {
                self.count(&request.range)?
            };
            (records, count)
        };
        let (kvs, more) = self.finish(records, request)?;
        Ok(RangeReply { kvs, more, count })
    }

    /// Filters, sorts, cuts to the limit and fetches values, in etcd's order.
    fn finish(
        &self,
        mut records: Vec<Record>,
        request: &RangeRequest,
    ) -> Result<(Vec<KeyValue>, bool), StorageError> {
        if has_filters(request) {
            records.retain(|record| passes(request, record));
        }
        let descending = request.sort_order == SortOrder::Descend;
        let limit = limit_of(request).unwrap_or(usize::MAX);
        let more = records.len() > limit;
        if request.sort_target == SortTarget::Value {
            // The one target that is not in the record's head.
            let mut kvs =
                records.iter().map(|r| self.key_value(r)).collect::<Result<Vec<_>, _>>()?;
            kvs.sort_by(|a, b| directed(a.value.cmp(&b.value), descending));
            kvs.truncate(limit);
            if request.keys_only {
                kvs.iter_mut().for_each(|kv| kv.value = Bytes::new());
            }
            return Ok((kvs, more));
        }
        let number: Option<fn(&Record) -> i64> = match request.sort_target {
            SortTarget::Version => Some(|r| r.version),
            SortTarget::Create => Some(|r| r.create),
            SortTarget::Mod => Some(|r| r.revision.main),
            SortTarget::Key | SortTarget::Value => None,
        };
        // By key they were fetched in the right order already.
        if let Some(number) = number {
            records.sort_by(|a, b| directed(number(a).cmp(&number(b)), descending));
        }
        records.truncate(limit);
        let mut kvs = Vec::with_capacity(records.len());
        for record in &records {
            kvs.push(if request.keys_only {
                record.key_value(Bytes::new())
            } else {
                self.key_value(record)?
            });
        }
        Ok((kvs, more))
    }

    /// Live keys of a range at the newest revision.
    pub fn count(&self, range: &KeyRange) -> Result<i64, StorageError> {
        if range.is_empty_range() {
            return Ok(0);
        }
        let (lower, upper) = bounds(range);
        Ok(self.by_key.count_live(lower, upper)? as i64)
    }

    /// The live heads of a range at the newest revision, at most `limit`, from either end.
    pub fn live(
        &self,
        range: &KeyRange,
        limit: usize,
        reverse: bool,
    ) -> Result<Vec<Record>, StorageError> {
        let mut records = Vec::new();
        if !reverse {
            if limit > 0 {
                self.each_live(range, |record| {
                    records.push(record);
                    Ok(records.len() < limit)
                })?;
            }
            return Ok(records);
        }
        if range.is_empty_range() {
            return Ok(records);
        }
        if range.is_single() {
            return self.live(range, limit, false);
        }
        let mut cursor = self.by_key.cursor();
        if range.is_from_key() {
            cursor.seek_last()?;
        } else {
            cursor.seek(&range.end)?;
        }
        while records.len() < limit
            && let Some((key, value, live)) = cursor.prev()?
        {
            if key < range.key {
                break;
            }
            if live {
                records.push(Record::decode(value)?);
            }
        }
        Ok(records)
    }

    /// Hands each live head of a range to `visit` in key order until it says `false`; returns
    /// whether it never did.
    pub fn each_live(
        &self,
        range: &KeyRange,
        mut visit: impl FnMut(Record) -> Result<bool, StorageError>,
    ) -> Result<bool, StorageError> {
        if range.is_single() {
            return match self.by_key.get(&range.key)? {
                Some(item) if item.live => visit(Record::decode(item.value)?),
                _ => Ok(true),
            };
        }
        if range.is_empty_range() {
            return Ok(true);
        }
        let mut cursor = self.by_key.cursor();
        cursor.seek(&range.key)?;
        while let Some((key, value, live)) = cursor.next()? {
            if !before_end(range, &key) {
                break;
            }
            if live && !visit(Record::decode(value)?)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The first `limit` keys that were live at revision `at`, and how many there were.
    fn scan_past(
        &self,
        range: &KeyRange,
        at: i64,
        limit: usize,
    ) -> Result<(Vec<Record>, i64), StorageError> {
        let mut records = Vec::new();
        let mut count = 0;
        let mut visit = |head: Bytes| -> Result<(), StorageError> {
            if let Some(record) = self.find_at(Record::decode(head)?, at)?
                && !record.tombstone()
            {
                count += 1;
                if records.len() < limit {
                    records.push(record);
                }
            }
            Ok(())
        };
        if range.is_single() {
            if let Some(item) = self.by_key.get(&range.key)? {
                visit(item.value)?;
            }
        } else if !range.is_empty_range() {
            let mut cursor = self.by_key.cursor();
            cursor.seek(&range.key)?;
            while let Some((key, head, _)) = cursor.next()? {
                if !before_end(range, &key) {
                    break;
                }
                visit(head)?;
            }
        }
        Ok((records, count))
    }
}

/// How many records a range has to fetch, and from which end.
struct Fetch {
    limit: usize,
    reverse: bool,
}

impl Fetch {
    /// Filters and sorts need the whole range, except for the order that the tree has itself.
    /// An unsorted range with another target than the key is sorted, but among the first
    /// `limit + 1` keys only: etcd cuts before it notices the target.
    fn of(request: &RangeRequest) -> Fetch {
        let by_key = request.sort_target == SortTarget::Key;
        let in_tree_order = request.sort_order == SortOrder::None || by_key;
        let limit = match limit_of(request) {
            Some(limit) if in_tree_order && !has_filters(request) => limit.saturating_add(1),
            _ => usize::MAX,
        };
        Fetch { limit, reverse: by_key && request.sort_order == SortOrder::Descend }
    }

    /// A scan that cannot run backwards fetches everything to find the end.
    fn forward_limit(&self) -> usize {
        if self.reverse { usize::MAX } else { self.limit }
    }
}

fn limit_of(request: &RangeRequest) -> Option<usize> {
    (request.limit > 0).then(|| usize::try_from(request.limit).unwrap_or(usize::MAX))
}

fn has_filters(request: &RangeRequest) -> bool {
    request.min_mod_revision != 0
        || request.max_mod_revision != 0
        || request.min_create_revision != 0
        || request.max_create_revision != 0
}

fn passes(request: &RangeRequest, record: &Record) -> bool {
    let inside = |number: i64, min: i64, max: i64| {
        (min == 0 || number >= min) && (max == 0 || number <= max)
    };
    inside(record.revision.main, request.min_mod_revision, request.max_mod_revision)
        && inside(record.create, request.min_create_revision, request.max_create_revision)
}

fn directed(order: std::cmp::Ordering, descending: bool) -> std::cmp::Ordering {
    if descending { order.reverse() } else { order }
}
