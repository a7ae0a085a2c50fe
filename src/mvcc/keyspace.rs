//! The keyspace: its trees, its counters, and how they come back after a restart.

use super::alarm::Alarms;
use super::hash::HashRing;
use super::key::{META_ALARM, META_AUTH, META_STATE, alarm_of, revision_key};
use super::record::{Record, Scan, put_varint, zigzag};
use super::view::{KeyspaceView, Pins};
use crate::auth::AuthState;
use crate::btree::{CheckpointDone, Store, Tree, TreeKind, View};
use crate::types::{GroupId, LogIndex, Revision, StorageError, Term};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::Arc;

/// (main, sub) → record.
pub const BY_REV: TreeKind = TreeKind(1);
/// user key → the newest record of the key.
pub const BY_KEY: TreeKind = TreeKind(2);
/// Counters, hash ring, alarms, users and roles.
pub const META: TreeKind = TreeKind(3);
/// lease → TTL.
pub const LEASES: TreeKind = TreeKind(4);
/// (lease, key) → nothing.
pub const LEASE_KEYS: TreeKind = TreeKind(5);
/// Every tree of a keyspace, in the order `Keyspace::trees` gives them.
pub const TREE_KINDS: [TreeKind; 5] = [BY_REV, BY_KEY, META, LEASES, LEASE_KEYS];

/// The format of the state in the META tree; another one is refused.
const STATE_FORMAT: u64 = 1;

/// Everything replicated that is not in a tree entry of its own, and the progress of the
/// physical compaction, which is not replicated and decides nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct State {
    /// The newest revision: 1 in a new store (etcd's convention), the first write makes 2.
    pub revision: i64,
    /// Reads below it are refused. −1 until the first compaction.
    pub compact_revision: i64,
    /// The compact revision whose removals are done; at most `compact_revision`.
    pub compacted: i64,
    /// Where the removals for `compact_revision` go on; `(compacted, 0)` when none is pending.
    pub compact_scan: Revision,
    /// The last applied entry.
    pub applied: LogIndex,
    pub applied_term: Term,
    pub hashes: HashRing,
}

impl State {
    fn new() -> State {
        State {
            revision: 1,
            compact_revision: -1,
            compacted: -1,
            compact_scan: Revision::new(0, 0),
            applied: LogIndex::ZERO,
            applied_term: Term::ZERO,
            hashes: HashRing::default(),
        }
    }

    fn encode(&self) -> Bytes {
        let mut out = Vec::new();
        put_varint(&mut out, STATE_FORMAT);
        for number in [
            self.revision,
            self.compact_revision,
            self.compacted,
            self.compact_scan.main,
            self.compact_scan.sub,
        ] {
            put_varint(&mut out, zigzag(number));
        }
        put_varint(&mut out, self.applied.0);
        put_varint(&mut out, self.applied_term.0);
        self.hashes.encode(&mut out);
        Bytes::from(out)
    }

    fn decode(bytes: &[u8]) -> Option<State> {
        let mut scan = Scan { bytes, at: 0 };
        if scan.varint()? != STATE_FORMAT {
            return None;
        }
        let state = State {
            revision: scan.signed()?,
            compact_revision: scan.signed()?,
            compacted: scan.signed()?,
            compact_scan: Revision::new(scan.signed()?, scan.signed()?),
            applied: LogIndex(scan.varint()?),
            applied_term: Term(scan.varint()?),
            hashes: HashRing::decode(&mut scan)?,
        };
        let sound = state.revision >= 1
            && state.compact_revision <= state.revision
            && state.compacted <= state.compact_revision
            && state.compact_scan.main >= 0
            && state.compact_scan.sub >= 0;
        sound.then_some(state)
    }
}

/// One keyspace. A single writer (the applier) owns it; readers take a [`KeyspaceView`].
#[derive(Debug)]
pub struct Keyspace {
    pub(super) group: GroupId,
    pub(super) by_rev: Tree,
    pub(super) by_key: Tree,
    pub(super) meta: Tree,
    pub(super) leases: Tree,
    pub(super) lease_keys: Tree,
    pub(super) state: State,
    pub(super) alarms: Arc<Alarms>,
    pub(super) auth: Arc<AuthState>,
    pub(super) pins: Arc<Pins>,
    /// Whether events carry previous values that would cost a lookup of their own.
    pub(super) want_prev_kv: bool,
    /// Changes since the process started: the age of pinned roots.
    pub(super) changes: u64,
}

impl Keyspace {
    /// The keyspace of `group` as of the store's newest checkpoint; empty when it has none.
    /// Reads a handful of pages, whatever the store's size.
    pub fn open(group: GroupId, store: &Store) -> Result<Keyspace, StorageError> {
        let trees = TREE_KINDS.map(|kind| (kind, store.tree(group, kind)));
        Keyspace::from_trees(group, trees.into_iter().collect())
    }

    /// The keyspace that the given trees hold: of a checkpoint, or of a raft snapshot that was
    /// bulk-loaded. Trees that are missing are an error; trees of other kinds are ignored.
    pub fn from_trees(
        group: GroupId,
        mut trees: BTreeMap<TreeKind, Tree>,
    ) -> Result<Keyspace, StorageError> {
        let mut take = |kind: TreeKind| {
            trees.remove(&kind).ok_or_else(|| {
                StorageError::corrupt("keyspace", 0, format!("tree {}", kind.0), "no such tree")
            })
        };
        let mut keyspace = Keyspace {
            group,
            by_rev: take(BY_REV)?,
            by_key: take(BY_KEY)?,
            meta: take(META)?,
            leases: take(LEASES)?,
            lease_keys: take(LEASE_KEYS)?,
            state: State::new(),
            alarms: Arc::default(),
            auth: Arc::default(),
            pins: Arc::default(),
            want_prev_kv: true,
            changes: 0,
        };
        keyspace.load()?;
        Ok(keyspace)
    }

    fn load(&mut self) -> Result<(), StorageError> {
        let bad = |expected: &str, found: &str| {
            StorageError::corrupt("keyspace", 0, expected.to_string(), found.to_string())
        };
        match self.meta.get(META_STATE)? {
            Some(item) => {
                self.state = State::decode(&item.value)
                    .ok_or_else(|| bad("a keyspace's counters", "other bytes or format"))?;
            }
            None if !self.by_rev.is_empty() || !self.leases.is_empty() => {
                return Err(bad("a keyspace's counters", "data without counters"));
            }
            None => {}
        }
        let view = self.by_rev.view();
        let mut cursor = view.cursor();
        cursor.seek_last()?;
        if let Some((_, value, _)) = cursor.prev()? {
            let newest = Record::decode(value)?.revision;
            if newest.main > self.state.revision {
                return Err(bad("counters as new as the data", "a newer revision in the data"));
            }
        }
        let view = self.meta.view();
        let mut cursor = view.cursor();
        cursor.seek(&[META_ALARM])?;
        let mut alarms = Alarms::default();
        while let Some((key, _, _)) = cursor.next()? {
            if key.first() != Some(&META_ALARM) {
                break;
            }
            alarms.insert(alarm_of(&key).ok_or_else(|| bad("an alarm", "another key"))?);
        }
        self.alarms = Arc::new(alarms);
        cursor.seek(&[META_AUTH])?;
        let mut rows = Vec::new();
        while let Some((key, value, _)) = cursor.next()? {
            if key.first() != Some(&META_AUTH) {
                break;
            }
            rows.push((key.slice(1..), value));
        }
        let auth = AuthState::load(rows).map_err(|error| bad(error.what, "other bytes"))?;
        self.auth = Arc::new(auth);
        Ok(())
    }

    pub fn group(&self) -> GroupId {
        self.group
    }
    /// The newest revision, which is what response headers carry.
    pub fn revision(&self) -> i64 {
        self.state.revision
    }
    /// The compact revision, −1 before the first compaction.
    pub fn compact_revision(&self) -> i64 {
        self.state.compact_revision
    }
    /// The users and roles as applied so far.
    pub fn auth(&self) -> &Arc<AuthState> {
        &self.auth
    }
    /// The last applied entry and its term.
    pub fn applied(&self) -> (LogIndex, Term) {
        (self.state.applied, self.state.applied_term)
    }
    /// The running hash over everything applied and every outcome.
    pub fn state_hash(&self) -> u64 {
        self.state.hashes.current()
    }
    /// The running hash as it was right after the entry at `index`, if it is still remembered
    /// and that entry was a command of this keyspace.
    pub fn state_hash_at(&self, index: LogIndex) -> Option<u64> {
        self.state.hashes.at(index)
    }
    /// Remembered (index, hash) pairs, ascending: what a heartbeat may carry.
    pub fn state_hashes(&self) -> Vec<(LogIndex, u64)> {
        self.state.hashes.pairs()
    }
    /// Whether events must carry previous values that have to be looked up (values too large to
    /// be stored by key). On by default. Replies are the same either way.
    pub fn want_prev_kv(&mut self, wanted: bool) {
        self.want_prev_kv = wanted;
    }

    /// The same keys, revisions, leases and alarms at the beginning of another log: a restored
    /// keyspace counts entries anew.
    pub fn rebase(&mut self, index: LogIndex, term: Term) {
        self.state.applied = index;
        self.state.applied_term = term;
        self.state.hashes.rebase(index);
    }

    /// A view of everything applied so far. Cheap, but the next write copies the tree path it
    /// changes: take one per applied batch rather than one per command.
    pub fn view(&self) -> KeyspaceView {
        self.pins.expire(self.changes);
        KeyspaceView::new(self)
    }

    /// The views to checkpoint or to stream, of one moment; writes the counters into the META
    /// tree first.
    pub fn trees(&mut self) -> Result<Vec<(TreeKind, View)>, StorageError> {
        self.meta.put(META_STATE, self.state.encode(), true)?;
        Ok(vec![
            (BY_REV, self.by_rev.view()),
            (BY_KEY, self.by_key.view()),
            (META, self.meta.view()),
            (LEASES, self.leases.view()),
            (LEASE_KEYS, self.lease_keys.view()),
        ])
    }

    /// Lets go of what a finished checkpoint has written.
    pub fn adopt(&mut self, done: &CheckpointDone) {
        for tree in [
            &mut self.by_rev,
            &mut self.by_key,
            &mut self.meta,
            &mut self.leases,
            &mut self.lease_keys,
        ] {
            tree.adopt(done);
        }
    }

    pub(super) fn head(&self, key: &[u8]) -> Result<Option<Record>, StorageError> {
        self.by_key.get(key)?.map(|item| Record::decode(item.value)).transpose()
    }

    pub(super) fn record_at(&self, revision: Revision) -> Result<Option<Record>, StorageError> {
        self.by_rev.get(&revision_key(revision))?.map(|item| Record::decode(item.value)).transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn state_comes_back() {
        let mut state = State::new();
        state.revision = 77;
        state.compact_revision = 50;
        state.compacted = 20;
        state.compact_scan = Revision::new(33, 2);
        state.applied = LogIndex(900);
        for index in 1..=900 {
            state.hashes.record(LogIndex(index), index * 31);
        }
        assert_eq!(State::decode(&state.encode()), Some(state.clone()));
        let bytes = state.encode();
        for end in 0..bytes.len() {
            assert_eq!(State::decode(&bytes[..end]), None);
        }
    }
}
