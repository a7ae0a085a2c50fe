//! What one turn of the host yields: plain values that say what should happen next. Nothing here
//! does anything; the driver (a thread in production, an event in the simulator) does.

use crate::raft;
use crate::types::{
    ConfChange, ConfState, Entry, GroupId, HardState, LogIndex, Message, NodeId, Term,
    message::SnapshotMeta,
};
use crate::wal;
use bytes::Bytes;

/// Names one WAL batch of one host. Batches are numbered from 1 without gaps, and one is in
/// flight at a time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BatchId(pub u64);

/// Everything all groups want durable: one write, one sync, then `Host::persisted(id)`.
#[derive(Debug)]
pub struct WalBatch {
    pub id: BatchId,
    pub batch: wal::Batch,
}

/// Committed entries of one group that are durable in this node's own WAL, in log order. Jobs of
/// one group must run in the order in which they were yielded.
#[derive(Clone, Debug)]
pub struct ApplyJob {
    pub group: GroupId,
    pub entries: Vec<Entry>,
}

/// Entries that are no longer in memory: read them from the WAL and hand them back with
/// `Host::entries_read`. Only entries of batches already written can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogRead {
    pub group: GroupId,
    pub purpose: raft::ReadFor,
    pub from: LogIndex,
    /// Inclusive.
    pub to: LogIndex,
    pub bytes_max: usize,
}

/// Who leads a group, as this node knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SoftState {
    pub group: GroupId,
    /// `NodeId::NONE` when unknown.
    pub leader: NodeId,
    pub role: raft::Role,
    pub term: Term,
}

/// A follower of `group` needs the state instead of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotWanted {
    pub group: GroupId,
    pub to: NodeId,
}

/// This node's replica of `group` is told to fetch the state at `meta` from `from`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstallWanted {
    pub group: GroupId,
    pub from: NodeId,
    pub meta: SnapshotMeta,
}

/// The outcome of everything the host was told since the last turn.
#[derive(Debug, Default)]
pub struct Turn {
    /// At most one batch for all groups; `None` while the previous one is not persisted.
    pub batch: Option<WalBatch>,
    /// Messages that may leave now. None is addressed to this node.
    pub messages: Vec<Message>,
    pub applies: Vec<ApplyJob>,
    pub log_reads: Vec<LogRead>,
    /// (group, context, index): reads under `context` may be served at `index` or later.
    pub reads_ready: Vec<(GroupId, u64, LogIndex)>,
    pub reads_dropped: Vec<(GroupId, u64)>,
    /// Proposals that never reached a log; they may be proposed again.
    pub dropped: Vec<(GroupId, Vec<Bytes>, raft::Dropped)>,
    pub conf_dropped: Vec<(GroupId, ConfChange, raft::Dropped)>,
    pub snapshots_wanted: Vec<SnapshotWanted>,
    pub installs_wanted: Vec<InstallWanted>,
    pub soft: Vec<SoftState>,
    pub confs: Vec<(GroupId, ConfState)>,
    pub notes: Vec<(GroupId, raft::Note)>,
}

impl Turn {
    /// The group is no more: nobody acts on what it yielded. What its log was to keep is written.
    pub(super) fn forget(&mut self, group: GroupId) {
        self.messages.retain(|message| message.group != group);
        self.applies.retain(|job| job.group != group);
        self.log_reads.retain(|read| read.group != group);
        self.reads_ready.retain(|(of, ..)| *of != group);
        self.reads_dropped.retain(|(of, _)| *of != group);
        self.dropped.retain(|(of, ..)| *of != group);
        self.conf_dropped.retain(|(of, ..)| *of != group);
        self.snapshots_wanted.retain(|wanted| wanted.group != group);
        self.installs_wanted.retain(|wanted| wanted.group != group);
        self.soft.retain(|soft| soft.group != group);
        self.confs.retain(|(of, _)| *of != group);
        self.notes.retain(|(of, _)| *of != group);
    }

    pub fn is_empty(&self) -> bool {
        self.batch.is_none()
            && self.messages.is_empty()
            && self.applies.is_empty()
            && self.log_reads.is_empty()
            && self.reads_ready.is_empty()
            && self.reads_dropped.is_empty()
            && self.dropped.is_empty()
            && self.conf_dropped.is_empty()
            && self.snapshots_wanted.is_empty()
            && self.installs_wanted.is_empty()
            && self.soft.is_empty()
            && self.confs.is_empty()
            && self.notes.is_empty()
    }
}

/// The first state of every group: a cluster is born at this point of every log, so that a node
/// that joins later always needs a snapshot and never misses the first members.
pub const BOOT_INDEX: LogIndex = LogIndex(1);
pub const BOOT_TERM: Term = Term(1);

/// The hard state of a group that has just been born.
pub fn boot_hard_state() -> HardState {
    HardState { term: BOOT_TERM, vote: NodeId::NONE, commit: BOOT_INDEX }
}
