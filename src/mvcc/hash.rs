//! Hashes: the running one that compares replicas, and etcd's HashKV.

use super::apply::{LeaseChange, ReadError};
use super::range::{Reads, Versions};
use super::record::{Record, Scan, put_varint};
use super::view::KeyspaceView;
use crate::types::command::AlarmKind;
use crate::types::map::FixedHasher;
use crate::types::reply::{KeyValue, RangeReply, Reply, ReplyOp, TxnReply};
use crate::types::{ApiError, KeyRange, LogIndex, StorageError};
use std::collections::VecDeque;
use std::hash::Hasher;

/// Newest hashes kept one by one: replicas that are close together compare these.
const RECENT_MAX: usize = 64;
/// Of older ones, the first of each span of this many log indexes is kept.
const SPAN: u64 = 64;
/// Spans kept: 4,096 entries, a few heartbeats at full speed.
const SPANS_MAX: usize = 64;

/// The running hash after each applied entry, as far back as replicas may lag and still compare.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct HashRing {
    recent: VecDeque<(LogIndex, u64)>,
    sampled: VecDeque<(LogIndex, u64)>,
}

impl HashRing {
    pub fn current(&self) -> u64 {
        self.recent.back().map_or(0, |pair| pair.1)
    }

    pub fn record(&mut self, index: LogIndex, hash: u64) {
        let new_span = self.sampled.back().is_none_or(|last| last.0.0 / SPAN < index.0 / SPAN);
        if new_span {
            push(&mut self.sampled, (index, hash), SPANS_MAX);
        }
        push(&mut self.recent, (index, hash), RECENT_MAX);
    }

    /// The same state at `index` of another log: what earlier indexes meant is forgotten.
    pub fn rebase(&mut self, index: LogIndex) {
        let hash = self.current();
        self.recent = VecDeque::from([(index, hash)]);
        self.sampled.clear();
    }

    pub fn at(&self, index: LogIndex) -> Option<u64> {
        let find = |ring: &VecDeque<(LogIndex, u64)>| {
            ring.binary_search_by_key(&index, |pair| pair.0).ok().map(|at| ring[at].1)
        };
        find(&self.recent).or_else(|| find(&self.sampled))
    }

    pub fn pairs(&self) -> Vec<(LogIndex, u64)> {
        let mut pairs: Vec<_> = self.sampled.iter().chain(&self.recent).copied().collect();
        pairs.sort_unstable();
        pairs.dedup();
        pairs
    }

    pub fn encode(&self, out: &mut Vec<u8>) {
        for ring in [&self.recent, &self.sampled] {
            put_varint(out, ring.len() as u64);
            for (index, hash) in ring {
                put_varint(out, index.0);
                put_varint(out, *hash);
            }
        }
    }

    pub fn decode(scan: &mut Scan<'_>) -> Option<HashRing> {
        let mut rings = [const { VecDeque::new() }; 2];
        for (ring, max) in rings.iter_mut().zip([RECENT_MAX, SPANS_MAX]) {
            let count = usize::try_from(scan.varint()?).ok()?;
            if count > max {
                return None;
            }
            for _ in 0..count {
                ring.push_back((LogIndex(scan.varint()?), scan.varint()?));
            }
            if !ring.iter().is_sorted() {
                return None;
            }
        }
        let [recent, sampled] = rings;
        Some(HashRing { recent, sampled })
    }
}

fn push(ring: &mut VecDeque<(LogIndex, u64)>, pair: (LogIndex, u64), max: usize) {
    if ring.len() == max {
        ring.pop_front();
    }
    ring.push_back(pair);
}

/// Folds one command and its outcome into the running hash: what was written in full, of the
/// reply enough to notice that replicas answered differently. Only values that follow from the
/// log go in, never a layout, so that members of two builds agree.
pub(super) struct Digest(FixedHasher);

impl Digest {
    pub fn new(previous: u64) -> Digest {
        let mut digest = Digest(FixedHasher::default());
        digest.number(previous);
        digest
    }
    pub fn finish(&self) -> u64 {
        self.0.finish()
    }
    pub fn number(&mut self, number: u64) {
        self.0.write_u64(number);
    }

    pub fn change(&mut self, record: &Record) {
        self.number(record.revision.main as u64);
        self.number(record.revision.sub as u64);
        self.number(record.create as u64);
        self.number(record.version as u64);
        self.number(record.lease.0 as u64);
        self.0.write(record.key_bytes());
        self.0.write(record.value_bytes().expect("a new record is whole"));
    }

    pub fn lease(&mut self, change: &LeaseChange) {
        let (tag, id, seconds) = match change {
            LeaseChange::Granted { id, ttl_seconds } => (1, id, *ttl_seconds),
            LeaseChange::Revoked { id } => (2, id, 0),
            LeaseChange::Checkpoint { id, remaining_seconds } => (3, id, *remaining_seconds),
        };
        self.number(tag);
        self.number(id.0 as u64);
        self.number(seconds as u64);
    }

    /// A row of users and roles, stored or removed.
    pub fn row(&mut self, key: &[u8], value: Option<&[u8]>) {
        self.number(u64::from(value.is_some()));
        for bytes in [Some(key), value].into_iter().flatten() {
            self.number(bytes.len() as u64);
            for chunk in bytes.chunks(8) {
                let mut word = [0; 8];
                word[..chunk.len()].copy_from_slice(chunk);
                self.number(u64::from_le_bytes(word));
            }
        }
    }

    pub fn reply(&mut self, reply: &Result<Reply, ApiError>) {
        match reply {
            Err(error) => self.number(0x100 + error_code(error)),
            Ok(Reply::Put(put)) => {
                self.number(1);
                self.prev(put.prev_kv.as_slice());
            }
            Ok(Reply::DeleteRange(delete)) => {
                self.number(2);
                self.number(delete.deleted as u64);
                self.prev(&delete.prev_kvs);
            }
            Ok(Reply::Txn(txn)) => self.txn(txn),
            Ok(Reply::Compact) => self.number(4),
            Ok(Reply::LeaseGrant { .. }) => self.number(5),
            Ok(Reply::LeaseRevoke) => self.number(6),
            Ok(Reply::LeaseCheckpoint) => self.number(7),
            Ok(Reply::Alarm(alarms)) => {
                self.number(8);
                for (member, kind) in alarms {
                    self.number(member.0);
                    self.number(match kind {
                        AlarmKind::NoSpace => 1,
                        AlarmKind::Corrupt => 2,
                    });
                }
            }
            Ok(Reply::PublishMember) => self.number(9),
            Ok(Reply::CreateGroup { group }) => {
                self.number(10);
                self.number(group.0);
            }
            Ok(Reply::DestroyGroup) => self.number(11),
            Ok(Reply::Auth) => self.number(12),
            Ok(Reply::SetDowngrade) => self.number(14),
            Ok(Reply::Authenticated { auth_revision, .. }) => {
                self.number(13);
                self.number(*auth_revision);
            }
        }
    }

    fn prev(&mut self, kvs: &[KeyValue]) {
        self.number(kvs.len() as u64);
        for kv in kvs {
            self.number(kv.mod_revision as u64);
            self.number(kv.version as u64);
        }
    }

    fn range(&mut self, reply: &RangeReply) {
        self.number(reply.count as u64);
        self.number(u64::from(reply.more));
        self.prev(&reply.kvs);
    }

    fn txn(&mut self, txn: &TxnReply) {
        self.number(3);
        self.number(u64::from(txn.succeeded));
        for reply in &txn.replies {
            match reply {
                ReplyOp::Range { reply, .. } => self.range(reply),
                ReplyOp::Put { reply, .. } => self.prev(reply.prev_kv.as_slice()),
                ReplyOp::DeleteRange { reply, .. } => self.number(reply.deleted as u64),
                ReplyOp::Txn(nested) => self.txn(nested),
            }
        }
    }
}

/// Numbers of their own: the order of `ApiError`'s variants may change, a hash must not.
fn error_code(error: &ApiError) -> u64 {
    match error {
        ApiError::KeyNotFound => 1,
        ApiError::Compacted => 2,
        ApiError::FutureRevision => 3,
        ApiError::NoSpace => 4,
        ApiError::LeaseNotFound => 5,
        ApiError::LeaseExists => 6,
        ApiError::LeaseTtlTooLarge => 7,
        ApiError::Corrupt => 8,
        ApiError::NotLeader => 9,
        _ => 255,
    }
}

/// What HashKV answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HashKv {
    pub hash: u32,
    pub compact_revision: i64,
    pub hash_revision: i64,
}

impl KeyspaceView {
    /// etcd's HashKV at a revision (0 or less: the newest): a CRC-32C over the history up to it
    /// in etcd's own encoding. The same on every member that has the revision and the same
    /// compact revision, whatever its background removal has done. Reads all of the history.
    pub fn hash_kv(&self, revision: i64) -> Result<HashKv, ReadError> {
        let reads = self.reads();
        // Unlike a range, a hash takes a negative revision literally: before the first one, where
        // there is nothing.
        let at = if revision < 0 { revision } else { reads.resolve(revision)? };
        let compact_revision = reads.compact_revision;
        let mut keep = None;
        let mut crc = crc32c::crc32c(b"key");
        let mut scratch = Vec::new();
        let mut cursor = reads.by_rev.cursor();
        cursor.seek_first()?;
        while let Some((_, value, _)) = cursor.next()? {
            let record = Record::decode(value)?;
            if record.revision.main > at {
                break;
            }
            if record.revision.main <= compact_revision {
                let keep_at = match keep {
                    Some(keep_at) => keep_at,
                    None => *keep.insert(reads.keep_revision(at)?),
                };
                if record.tombstone() || !reads.is_newest_at(&record, keep_at)? {
                    continue;
                }
            }
            scratch.clear();
            let value = reads.value_of(&record)?;
            encode_as_etcd(&record, &value, &mut scratch);
            crc = crc32c::crc32c_append(crc, &scratch);
        }
        Ok(HashKv { hash: crc, compact_revision, hash_revision: at })
    }
}

impl Reads {
    /// Of the versions at or below the compact revision, etcd hashes those that are the newest
    /// of their key at the hash revision; when no key is live there, it leaves out nothing that
    /// the compaction itself has kept.
    fn keep_revision(&self, at: i64) -> Result<i64, StorageError> {
        let everything = KeyRange::new(&b"\0"[..], &b"\0"[..]);
        let any_live = if at == self.revision {
            self.by_key.live() > 0
        } else {
            self.any_live_at(&everything, at)?
        };
        Ok(if any_live { at } else { self.compact_revision })
    }

    fn any_live_at(&self, range: &KeyRange, at: i64) -> Result<bool, StorageError> {
        let mut cursor = self.by_key.cursor();
        cursor.seek(&range.key)?;
        while let Some((_, head, _)) = cursor.next()? {
            if self.find_at(Record::decode(head)?, at)?.is_some_and(|r| !r.tombstone()) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether a record is what its key was at the end of revision `main`.
    pub(super) fn is_newest_at(&self, record: &Record, main: i64) -> Result<bool, StorageError> {
        let Some(item) = self.by_key.get(record.key_bytes())? else { return Ok(false) };
        let head = Record::decode(item.value)?;
        let newest = self.find_at(head, main)?;
        Ok(newest.is_some_and(|newest| newest.revision == record.revision))
    }
}

/// The revision key and the `mvccpb.KeyValue` as etcd stores them: proto3 in canonical form,
/// fields ascending, zeros left out. A tombstone has a marked key and only the user's key inside.
fn encode_as_etcd(record: &Record, value: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&record.revision.main.to_be_bytes());
    out.push(b'_');
    out.extend_from_slice(&record.revision.sub.to_be_bytes());
    if record.tombstone() {
        out.push(b't');
    }
    let bytes = |out: &mut Vec<u8>, field: u8, bytes: &[u8]| {
        if !bytes.is_empty() {
            out.push(field << 3 | 2);
            put_varint(out, bytes.len() as u64);
            out.extend_from_slice(bytes);
        }
    };
    let number = |out: &mut Vec<u8>, field: u8, number: i64| {
        if number != 0 {
            out.push(field << 3);
            put_varint(out, number as u64);
        }
    };
    bytes(out, 1, record.key_bytes());
    if !record.tombstone() {
        number(out, 2, record.create);
        number(out, 3, record.revision.main);
        number(out, 4, record.version);
        bytes(out, 5, value);
        number(out, 6, record.lease.0);
    }
}
