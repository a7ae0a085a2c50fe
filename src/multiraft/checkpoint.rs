//! When a checkpoint is due, what it covers, and what follows from its end.
//!
//! A checkpoint is begun by the applier between two jobs (it freezes every tree of every group
//! and the groups' metas of that moment), stepped elsewhere, and finished by the applier again.
//! It covers only entries the applier has run, and the host gives the applier only entries that
//! are durable in this node's WAL: so no store is ever ahead of its log, save by an installed
//! snapshot (see `snapshots`).
//!
//! The log may be freed up to the *older* of the store's two valid metas: if the newest one turns
//! out damaged, the older one and the log behind it still make the whole state.

use super::apply::{AppliedBatch, Applier, GroupState, Pressure};
use super::meta::GroupMeta;
use super::root::ROOT_TREE;
use crate::btree::{CheckpointDone, CheckpointJob, TreeKind};
use crate::types::message::SnapshotMeta;
use crate::types::{ConfState, GroupId, LogIndex, NodeId, StorageError, Term, limits};
use std::collections::BTreeMap;
use std::sync::Arc;

/// When a checkpoint is due.
#[derive(Clone, Copy, Debug)]
pub struct CheckpointPolicy {
    /// Entry bytes applied since the last one began (the WAL's tail behind the store).
    pub tail_bytes: u64,
    /// Entries applied since the last one began; small in tests and simulations.
    pub tail_entries: u64,
}

impl Default for CheckpointPolicy {
    fn default() -> CheckpointPolicy {
        CheckpointPolicy { tail_bytes: limits::WAL_TAIL_BYTES, tail_entries: u64::MAX }
    }
}

/// A checkpoint under way.
#[derive(Debug)]
pub(super) struct Running {
    /// What the unsaved counters were when it began.
    bytes: u64,
    entries: u64,
    removals: u64,
    /// How many of the owed snapshots it covers.
    owed: usize,
}

/// What a finished checkpoint means for the core.
#[derive(Debug, Default)]
pub struct CheckpointOutcome {
    /// Per group that either of the two valid metas knows, what both hold:
    /// `Action::CheckpointDone`.
    pub held: Vec<(GroupId, LogIndex)>,
    /// Installed snapshots that are durable now: `Action::SnapshotDurable` each, before `held`.
    pub durable: Vec<(GroupId, SnapshotMeta)>,
    pub pressure: Pressure,
}

impl Applier {
    /// Asks for a checkpoint at the next opportunity (idle, SIGTERM, the operator).
    pub fn request_checkpoint(&mut self) {
        self.wanted |= self.has_unsaved() || !self.owed.is_empty();
    }

    /// Whether one should begin now.
    pub fn is_checkpoint_due(&self) -> bool {
        if self.running.is_some() {
            return false;
        }
        self.wanted
            || self.unsaved_bytes >= self.policy.tail_bytes
            || self.unsaved_entries >= self.policy.tail_entries
            || (self.has_unsaved() && self.store.sizes().dirty_bytes >= self.cache_bytes_max / 2)
    }

    /// Whether a checkpoint would save anything. Nodes that only old views hold are dirty as well,
    /// and another checkpoint would not clean them.
    fn has_unsaved(&self) -> bool {
        self.unsaved_entries > 0 || self.unsaved_removals > 0
    }

    /// Entries applied since the newest checkpoint began.
    pub fn unsaved_entries(&self) -> u64 {
        self.unsaved_entries
    }

    /// Whether apply jobs should wait until the running checkpoint is finished, as compaction does
    /// by itself: what it has not written stays in memory, and new changes come on top. A driver
    /// that waits makes raft stop handing out entries here, and a leader that refuses proposals;
    /// nothing grows.
    pub fn is_overfull(&self) -> bool {
        self.running.is_some()
            && (self.unsaved_bytes >= self.policy.tail_bytes.saturating_mul(4)
                || self.store.sizes().dirty_bytes >= self.cache_bytes_max.saturating_mul(2))
    }

    pub fn is_checkpoint_running(&self) -> bool {
        self.running.is_some()
    }

    /// Freezes the state of this moment. The job is stepped to its end on any thread.
    pub fn begin_checkpoint(&mut self) -> Result<CheckpointJob, StorageError> {
        assert!(self.running.is_none(), "one checkpoint runs at a time");
        let mut trees = Vec::new();
        let mut metas = BTreeMap::new();
        for (&group, state) in &mut self.groups {
            for (kind, view) in state.keyspace.trees()? {
                trees.push((group, kind, view));
            }
            metas.insert(group, state.meta.encode());
        }
        trees.push((GroupId::ROOT, TreeKind(ROOT_TREE), self.root_tree.view()));
        self.running = Some(Running {
            bytes: self.unsaved_bytes,
            entries: self.unsaved_entries,
            removals: self.unsaved_removals,
            owed: self.owed.len(),
        });
        self.wanted = false;
        Ok(self.store.begin_checkpoint(trees, metas))
    }

    /// The job has reached its end: the state it froze is durable.
    pub fn finish_checkpoint(
        &mut self,
        done: &CheckpointDone,
    ) -> Result<CheckpointOutcome, StorageError> {
        let running = self.running.take().expect("a checkpoint is finished once");
        for state in self.groups.values_mut() {
            state.keyspace.adopt(done);
        }
        self.root_tree.adopt(done);
        self.unsaved_bytes -= running.bytes;
        self.unsaved_entries -= running.entries;
        self.unsaved_removals -= running.removals;
        self.counters.checkpoints += 1;
        let durable = self.owed.drain(..running.owed).collect();
        // What came in while it ran needs one of its own.
        self.wanted |= !self.owed.is_empty();
        let mut held = Vec::new();
        let older = self.store.older_group_metas();
        // The newest may know a group that the older one does not, and that is destroyed by now.
        let newest = self.store.group_metas();
        for &group in newest.keys().filter(|group| !older.contains_key(group)) {
            held.push((group, LogIndex::ZERO));
        }
        for (group, bytes) in older {
            held.push((group, GroupMeta::decode(&bytes, &self.path)?.applied));
        }
        Ok(CheckpointOutcome { held, durable, pressure: self.pressure() })
    }

    /// A checkpoint no longer owes anything to the group's fetched state.
    pub(super) fn forget_owed(&mut self, group: GroupId) {
        if let Some(at) = self.owed.iter().position(|(other, _)| *other == group) {
            self.owed.remove(at);
            if let Some(running) = &mut self.running
                && at < running.owed
            {
                running.owed -= 1;
            }
        }
    }

    /// Makes `node` the only member and the only voter of every group. What this returns, per
    /// group the entry that its log must begin behind, is to be written into the log after a
    /// checkpoint; until then `GroupMeta::installed` says so to boot.
    pub fn stand_alone(
        &mut self,
        node: NodeId,
    ) -> Result<Vec<(GroupId, LogIndex, Term)>, StorageError> {
        assert!(self.root.members.contains_key(&node), "a member stands alone");
        Arc::make_mut(&mut self.root).keep_only(&mut self.root_tree, node)?;
        self.unsaved_entries += 1;
        let alone = |(&group, state): (&GroupId, &mut GroupState)| {
            let meta = &mut state.meta;
            meta.conf = ConfState::of_voters(vec![node]);
            meta.installed = (meta.applied, meta.term);
            (group, meta.applied, meta.term)
        };
        Ok(self.groups.iter_mut().map(alone).collect())
    }

    /// Takes over a fetched state, unless the group already has it or a newer one. A checkpoint
    /// is owed to it: only when that is durable may the log be told to start there.
    pub fn install(
        &mut self,
        ready: super::snapshots::InstallReady,
    ) -> Result<Option<AppliedBatch>, StorageError> {
        let super::snapshots::InstallReady { group, meta, trees } = ready;
        // It may have been destroyed meanwhile.
        if self.groups.get(&group).is_none_or(|state| meta.index <= state.meta.applied) {
            return Ok(None);
        }
        let mut trees = trees;
        if group == GroupId::ROOT {
            self.replace_root(&mut trees)?;
        }
        self.replace_keyspace(group, &meta, trees)?;
        self.forget_owed(group);
        self.owed.push((group, meta.clone()));
        self.wanted = true;
        self.counters.snapshots_installed += 1;
        self.replaced_batch(group, meta).map(Some)
    }
}
