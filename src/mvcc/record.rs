//! One version of one key, as both trees store it.
//!
//! ```text
//! flags (1)   1 tombstone · 2 the value is not here but in the by-revision tree · 4 has a lease
//! main, sub                                          varints
//! create revision, version, [lease, zigzag]          varints, absent in a tombstone
//! depth, count, count × (main − ancestor's main, ancestor's sub)     varints
//! key length (varint), key, value (the rest)
//! ```
//!
//! The by-revision tree has every record whole. The by-key tree has one record per key, its
//! *head*: the newest version, and the same bytes as long as they are small, so that a get, a
//! range and the previous value of a put need one lookup and nothing is encoded or copied twice.
//!
//! ## Ancestors: how an old version is found
//!
//! There is no index of old versions. A record names older records of its key: its parent (the
//! version it replaced) first, then ever farther ones. With `depth` counting the versions of a
//! key from 1, the record at depth `d` names the depths that remain when the lowest set bits of
//! `d − 1` are cleared one after the other:
//!
//! ```text
//! depth   9 → 8             13 → 12, 8            16 → 15, 14, 12, 8
//! ```
//!
//! A search hops to the farthest ancestor that is still too new, and halves the distance each
//! time: a key with a million versions is searched in about twenty steps, a put adds no
//! tree entry for its history, and a compaction finds the version to drop in the record that
//! replaced it. Ancestors at or below the compact revision, the parent aside, are left out:
//! no search may go there. All of it depends on the log alone, so it is the same on every node.
//!
//! Why not a tree entry for each old version? It would double the by-key work of every put and
//! of every compacted revision to speed up a read that is rare: lists at a recent revision are
//! served from pinned roots.

use crate::types::reply::KeyValue;
use crate::types::{LeaseId, Revision, StorageError};
use bytes::Bytes;

const TOMBSTONE: u8 = 1;
const VALUE_APART: u8 = 2;
const LEASED: u8 = 4;

/// Records up to this size are stored whole by key as well. Larger ones would make ranges
/// without values, counts and the by-key leaves that a put rewrites pay for values.
pub(super) const INLINE_BYTES_MAX: usize = 512;

/// A decoded record. Cheap to make: key and value stay slices of the stored bytes.
#[derive(Clone, Debug)]
pub(super) struct Record {
    pub revision: Revision,
    pub create: i64,
    pub version: i64,
    pub lease: LeaseId,
    flags: u8,
    depth: u64,
    ancestors: (usize, usize), // offset, count
    key: (usize, usize),       // offset, end; the value follows
    raw: Bytes,
}

/// What a new record says. A tombstone has `value: None`.
pub(super) struct NewRecord<'a> {
    pub revision: Revision,
    pub create: i64,
    pub version: i64,
    pub lease: LeaseId,
    pub key: &'a [u8],
    pub value: Option<&'a [u8]>,
}

impl Record {
    /// Encodes a version that replaces `parent`. Ancestors at or below `compact` are left out,
    /// the parent aside; a parent that is a tombstone before `compact` is gone already.
    pub fn encode(new: &NewRecord<'_>, parent: Option<&Record>, compact: i64) -> Record {
        let parent = parent.filter(|p| !(p.tombstone() && p.revision.main < compact));
        let (depth, inherited) = match parent {
            None => (1, Vec::new()),
            Some(p) if p.revision.main <= compact => (2, Vec::new()),
            Some(p) => (p.depth.saturating_add(1), p.inherited(compact)),
        };
        let value = new.value.unwrap_or_default();
        let mut out = Vec::with_capacity(48 + 6 * inherited.len() + new.key.len() + value.len());
        let mut flags = 0;
        if new.value.is_none() {
            flags |= TOMBSTONE;
        }
        if !new.lease.is_none() {
            flags |= LEASED;
        }
        out.push(flags);
        put_varint(&mut out, new.revision.main as u64);
        put_varint(&mut out, new.revision.sub as u64);
        if new.value.is_some() {
            put_varint(&mut out, new.create as u64);
            put_varint(&mut out, new.version as u64);
            if !new.lease.is_none() {
                put_varint(&mut out, zigzag(new.lease.0));
            }
        }
        put_varint(&mut out, depth);
        put_varint(&mut out, (usize::from(parent.is_some()) + inherited.len()) as u64);
        let ancestors_at = out.len();
        for ancestor in parent.map(|p| p.revision).iter().chain(&inherited) {
            assert!(*ancestor < new.revision, "a version replaces an older one");
            put_varint(&mut out, (new.revision.main - ancestor.main) as u64);
            put_varint(&mut out, ancestor.sub as u64);
        }
        put_varint(&mut out, new.key.len() as u64);
        let key = (out.len(), out.len() + new.key.len());
        out.extend_from_slice(new.key);
        out.extend_from_slice(value);
        Record {
            revision: new.revision,
            create: new.create,
            version: new.version,
            lease: new.lease,
            flags,
            depth,
            ancestors: (ancestors_at, usize::from(parent.is_some()) + inherited.len()),
            key,
            raw: Bytes::from(out),
        }
    }

    /// What a child inherits of this record's ancestors.
    fn inherited(&self, compact: i64) -> Vec<Revision> {
        let skip = self.depth.trailing_zeros() as usize;
        self.ancestors().skip(skip).take_while(|a| a.main > compact).collect()
    }

    pub fn decode(raw: Bytes) -> Result<Record, StorageError> {
        Record::parse(raw).ok_or_else(|| {
            StorageError::corrupt("keyspace", 0, "a record of a key's version", "other bytes")
        })
    }

    fn parse(raw: Bytes) -> Option<Record> {
        let mut reader = Scan { bytes: &raw, at: 1 };
        let flags = *raw.first()?;
        let main = reader.positive()?;
        let sub = reader.positive()?;
        let (mut create, mut version, mut lease) = (0, 0, LeaseId::NONE);
        if flags & TOMBSTONE == 0 {
            create = reader.positive()?;
            version = reader.positive()?;
            if flags & LEASED != 0 {
                lease = LeaseId(unzigzag(reader.varint()?));
            }
        }
        let depth = reader.varint()?;
        let count = reader.varint()?;
        if depth == 0 || count > 64 {
            return None;
        }
        let ancestors = (reader.at, count as usize);
        for _ in 0..count {
            if reader.positive()? > main {
                return None;
            }
            reader.positive()?;
        }
        let length = usize::try_from(reader.varint()?).ok()?;
        let key = (reader.at, reader.at.checked_add(length)?);
        if key.1 > raw.len() {
            return None;
        }
        let revision = Revision::new(main, sub);
        Some(Record { revision, create, version, lease, flags, depth, ancestors, key, raw })
    }

    pub fn tombstone(&self) -> bool {
        self.flags & TOMBSTONE != 0
    }
    pub fn raw(&self) -> &Bytes {
        &self.raw
    }
    pub fn key_bytes(&self) -> &[u8] {
        &self.raw[self.key.0..self.key.1]
    }
    pub fn key(&self) -> Bytes {
        self.raw.slice(self.key.0..self.key.1)
    }
    /// The value, unless it is kept by revision only.
    pub fn value(&self) -> Option<Bytes> {
        (self.flags & VALUE_APART == 0).then(|| self.raw.slice(self.key.1..))
    }
    /// The value's bytes without sharing them, unless it is kept by revision only.
    pub fn value_bytes(&self) -> Option<&[u8]> {
        (self.flags & VALUE_APART == 0).then(|| &self.raw[self.key.1..])
    }
    /// The version that this one replaced, unless that was gone already.
    pub fn parent(&self) -> Option<Revision> {
        self.ancestors().next()
    }
    /// Older versions of the key, newest (the parent) first.
    pub fn ancestors(&self) -> impl Iterator<Item = Revision> + '_ {
        let mut reader = Scan { bytes: &self.raw, at: self.ancestors.0 };
        (0..self.ancestors.1).map_while(move |_| {
            let main = self.revision.main - reader.positive()?;
            Some(Revision::new(main, reader.positive()?))
        })
    }
    /// What the by-key tree stores for this record.
    pub fn head(&self) -> Bytes {
        if self.raw.len() <= INLINE_BYTES_MAX {
            return self.raw.clone();
        }
        let mut out = self.raw[..self.key.1].to_vec();
        out[0] |= VALUE_APART;
        Bytes::from(out)
    }
    /// As a client sees it, with the given value.
    pub fn key_value(&self, value: Bytes) -> KeyValue {
        KeyValue {
            key: self.key(),
            value,
            create_revision: self.create,
            mod_revision: self.revision.main,
            version: self.version,
            lease: self.lease,
        }
    }
}

pub(super) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

pub(super) fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

pub(super) fn unzigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

/// Reads varints; `None` at the end of the bytes or for a number that does not fit.
pub(super) struct Scan<'a> {
    pub bytes: &'a [u8],
    pub at: usize,
}

impl Scan<'_> {
    pub fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = *self.bytes.get(self.at)?;
            self.at += 1;
            if shift == 63 && byte > 1 {
                return None;
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }
    /// A varint that fits a non-negative i64.
    pub fn positive(&mut self) -> Option<i64> {
        i64::try_from(self.varint()?).ok()
    }
    pub fn signed(&mut self) -> Option<i64> {
        self.varint().map(unzigzag)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn make(main: i64, parent: Option<&Record>, compact: i64) -> Record {
        let new = NewRecord {
            revision: Revision::new(main, 0),
            create: 2,
            version: main - 1,
            lease: LeaseId(-3),
            key: b"key",
            value: Some(b"value"),
        };
        Record::encode(&new, parent, compact)
    }

    #[test]
    fn ancestors_are_the_cleared_bits_of_depth() {
        let mut records: Vec<Record> = Vec::new();
        for depth in 1..=200_u64 {
            let record = make(depth as i64 + 1, records.last(), -1);
            let mut expected = Vec::new();
            let mut d = depth - 1;
            while d > 0 {
                expected.push(Revision::new(d as i64 + 1, 0));
                d &= d - 1;
            }
            assert_eq!(record.ancestors().collect::<Vec<_>>(), expected, "depth {depth}");
            records.push(record);
        }
    }

    #[test]
    fn compaction_cuts_ancestors() {
        let mut last: Option<Record> = None;
        for main in 2..40 {
            last = Some(make(main, last.as_ref(), -1));
        }
        let next = make(40, last.as_ref(), 35);
        assert!(next.ancestors().skip(1).all(|a| a.main > 35));
        assert_eq!(next.parent(), Some(Revision::new(39, 0)));
        let alone = make(41, Some(&next), 40);
        assert_eq!(alone.ancestors().collect::<Vec<_>>(), [Revision::new(40, 0)]);
    }

    proptest! {
        #[test]
        fn comes_back(
            main in 0..i64::MAX, sub in 0..1000_i64, create in 0..i64::MAX, version in 0..i64::MAX,
            lease in any::<i64>(), key in prop::collection::vec(any::<u8>(), 0..20),
            value in prop::option::of(prop::collection::vec(any::<u8>(), 0..20)),
        ) {
            let lease = if value.is_some() { LeaseId(lease) } else { LeaseId::NONE };
            let revision = Revision::new(main, sub);
            let new = NewRecord {
                revision, create, version, lease, key: &key, value: value.as_deref(),
            };
            let record = Record::decode(Record::encode(&new, None, 0).raw().clone()).unwrap();
            prop_assert_eq!(record.revision, revision);
            prop_assert_eq!(record.lease, lease);
            prop_assert_eq!(record.key_bytes(), &key[..]);
            prop_assert_eq!(record.tombstone(), value.is_none());
            if let Some(value) = value {
                prop_assert_eq!(record.create, create);
                prop_assert_eq!(record.version, version);
                prop_assert_eq!(record.value_bytes(), Some(&value[..]));
            }
        }

        #[test]
        fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            if let Ok(record) = Record::decode(Bytes::from(bytes)) {
                let _ = (record.ancestors().count(), record.key(), record.value(), record.head());
            }
        }

        #[test]
        fn varints_come_back(value: u64, signed: i64) {
            let mut out = Vec::new();
            put_varint(&mut out, value);
            put_varint(&mut out, zigzag(signed));
            let mut scan = Scan { bytes: &out, at: 0 };
            prop_assert_eq!(scan.varint(), Some(value));
            prop_assert_eq!(scan.signed(), Some(signed));
            prop_assert_eq!(scan.varint(), None);
        }
    }
}
