//! What can happen to a member's core, and what the core wants done about it: two enums and one
//! struct of plain values. Times are milliseconds of one monotonic clock per process.

use super::membership::MembershipChange;
use crate::multiraft::apply::{AppliedBatch, Pressure};
use crate::multiraft::root::RootState;
use crate::multiraft::snapshots::{ChunkInstalled, InstallStep};
use crate::multiraft::turn::{ApplyJob, BatchId, LogRead, SoftState, WalBatch};
use crate::multiraft::wire::{NodeMessage, SnapshotFetch};
use crate::raft;
use crate::types::auth::Caller;
use crate::types::command::Command;
use crate::types::message::SnapshotMeta;
use crate::types::reply::Reply;
use crate::types::{
    ApiError, Entry, GroupId, Incarnation, LeaseId, LogIndex, Member, NodeId, Term,
};
use std::sync::Arc;

/// Names one request of one client to this member: chosen by the caller, given back with the
/// answer. It is also the number under which the request goes through the log
/// (`RequestId::seq`), so it is below 2^63 and never used twice by one process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub u64);

/// One thing that happened.
#[derive(Debug)]
pub enum Action {
    /// The clock: at least once per heartbeat interval. `now_ms` never falls. The core derives
    /// raft ticks, deadlines and lease expiry from it; after a pause ticks are not made up for.
    Tick {
        now_ms: u64,
    },
    /// A frame from another node, whose stream the transport has authenticated as `incarnation`
    /// of `from`. Messages of a stream arrive in order and at most once.
    Frame {
        from: NodeId,
        incarnation: Incarnation,
        message: NodeMessage,
    },
    /// A stream to and from `peer` is up (from then on its messages are expected).
    PeerUp {
        peer: NodeId,
    },
    /// The stream to `peer` broke: what was sent lately may be lost.
    PeerDown {
        peer: NodeId,
    },
    /// Something for `peer` could not be sent and was thrown away.
    Unreachable {
        peer: NodeId,
    },

    /// A client's write. The core does the checks that come before the log (size, alarms, quota).
    Propose {
        group: GroupId,
        token: Token,
        command: Command,
    },
    /// The same, on behalf of a user.
    ProposeAs {
        group: GroupId,
        token: Token,
        caller: Caller,
        command: Command,
    },
    /// A client's linearizable read wants a point: the answer says from which applied index on
    /// the local state may be read, and comes only when that index has been applied.
    Read {
        group: GroupId,
        token: Token,
    },
    KeepAlive {
        group: GroupId,
        token: Token,
        lease: LeaseId,
    },
    LeaseTtl {
        group: GroupId,
        token: Token,
        lease: LeaseId,
    },
    /// `MoveLeader`.
    Transfer {
        group: GroupId,
        token: Token,
        to: NodeId,
    },
    Membership {
        token: Token,
        change: MembershipChange,
    },
    /// The client has gone: forget its request. Nothing is answered.
    Cancel {
        token: Token,
    },

    /// The batch of an earlier output was written and synced.
    Persisted {
        batch: BatchId,
    },
    /// An apply job has run, and its results are visible to readers.
    Applied {
        batch: Box<AppliedBatch>,
    },
    /// Background compaction of `group` made a step; `physical` names what it completed.
    Compacted {
        group: GroupId,
        answered: Vec<crate::multiraft::apply::AppliedEntry>,
    },
    EntriesRead {
        group: GroupId,
        purpose: raft::ReadFor,
        from: LogIndex,
        entries: Vec<Entry>,
    },
    /// A checkpoint is durable; per group that either valid meta knows, the index that both hold.
    CheckpointDone {
        held: Vec<(GroupId, LogIndex)>,
        pressure: Pressure,
    },
    /// The applier has pinned the state of `group` for `to` and the snapshot server offers it.
    SnapshotReady {
        group: GroupId,
        to: NodeId,
        meta: SnapshotMeta,
    },
    SnapshotFailed {
        group: GroupId,
        to: NodeId,
    },
    /// The installer has taken a chunk (or refused it).
    ChunkInstalled(ChunkInstalled),
    /// The fetched state of `group` is the applier's state and part of a durable checkpoint.
    SnapshotDurable {
        group: GroupId,
        meta: SnapshotMeta,
    },
    /// The applier already has this state or a newer one, or could not take it.
    SnapshotRefused {
        group: GroupId,
        meta: SnapshotMeta,
    },
    /// A peer has refused this member because the cluster has removed it.
    ToldRemoved {
        by: NodeId,
    },
    /// Go away in order: hand leadership over, answer who waits.
    Stop,
}

/// What the core wants done. Everything in it is data; the order of fields is the order in which
/// a driver should act, so that nothing waits for a disk that need not.
#[derive(Debug, Default)]
pub struct Output {
    /// Messages that may leave now, at most one raft frame per peer.
    pub frames: Vec<(NodeId, NodeMessage)>,
    /// Write, sync, then `Action::Persisted`. At most one batch is in flight.
    pub wal: Option<WalBatch>,
    /// Jobs of one group run in this order.
    pub applies: Vec<ApplyJob>,
    pub log_reads: Vec<LogRead>,
    pub answers: Vec<(Token, Result<Answer, ApiError>)>,
    pub roles: Vec<SoftState>,
    /// Pin a view of `group` for `to`, then `SnapshotReady` or `SnapshotFailed`.
    pub pins: Vec<(GroupId, NodeId)>,
    /// For the snapshot server: answer `to` with the chunk it asks for.
    pub serve: Vec<(NodeId, SnapshotFetch)>,
    /// For the installer, in this order.
    pub installs: Vec<InstallStep>,
    /// The membership has changed: streams should be looked at again.
    pub root: Option<Arc<RootState>>,
    /// Peers whose frames were refused: tell them and close the stream.
    pub refusals: Vec<(NodeId, Refusal)>,
    pub notes: Vec<(GroupId, raft::Note)>,
    /// The member cannot or need not go on.
    pub stop: Option<StopReason>,
}

impl Output {
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
            && self.wal.is_none()
            && self.applies.is_empty()
            && self.log_reads.is_empty()
            && self.answers.is_empty()
            && self.roles.is_empty()
            && self.pins.is_empty()
            && self.serve.is_empty()
            && self.installs.is_empty()
            && self.root.is_none()
            && self.refusals.is_empty()
            && self.stop.is_none()
    }
}

/// A request's good end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The command was applied here; `revision` and `term` are for the header.
    Applied {
        reply: Reply,
        revision: i64,
        index: LogIndex,
        term: Term,
    },
    /// The local state may be read: it has everything acknowledged before the read began.
    Barrier {
        applied: LogIndex,
        term: Term,
    },
    /// `ttl_seconds` is 0 when there is no such lease.
    KeptAlive {
        ttl_seconds: i64,
    },
    /// `remaining_seconds` is -1 when there is no such lease.
    LeaseTtl {
        granted_seconds: i64,
        remaining_seconds: i64,
    },
    Transferred,
    /// The membership after the change; `member` is the one it was about.
    Members {
        member: Option<Member>,
        members: Vec<Member>,
    },
}

/// Why a peer's frames are not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Refusal {
    /// Its cluster is another one.
    ClusterMismatch,
    RemovedMember,
    /// The member's data directory is another than the one bound to its id: its disk was wiped or
    /// an old copy was put back.
    IncarnationMismatch,
}

/// Why the member stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// `Action::Stop` has been done.
    Asked,
    /// The cluster has removed this member.
    Removed,
    /// The cluster knows another data directory under this member's id.
    IncarnationRefused,
}
