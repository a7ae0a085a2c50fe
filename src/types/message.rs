//! What two replicas of one group say to each other.

use super::entry::{ConfState, Entry};
use super::ids::{GroupId, LogIndex, NodeId, Term};
use bytes::Bytes;

/// One Raft message. The group is part of every message: one stream between two nodes carries
/// all groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub group: GroupId,
    pub from: NodeId,
    pub to: NodeId,
    pub term: Term,
    pub body: MessageBody,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MessageBody {
    /// "Would you vote for me in `term`?" Changes no state at the receiver (thesis 9.6).
    PreVote {
        last_index: LogIndex,
        last_term: Term,
    },
    PreVoteReply {
        granted: bool,
    },
    /// `forced` marks an election started by a leader's transfer: the receiver's leader
    /// stickiness does not apply.
    Vote {
        last_index: LogIndex,
        last_term: Term,
        forced: bool,
    },
    VoteReply {
        granted: bool,
    },
    Append {
        prev_index: LogIndex,
        prev_term: Term,
        commit: LogIndex,
        entries: Vec<Entry>,
    },
    /// `index` is the last index known persisted when accepted, the refused `prev_index`
    /// otherwise; `reject` then carries where the leader should look next.
    AppendReply {
        index: LogIndex,
        reject: Option<RejectHint>,
    },
    /// `commit` never exceeds what the leader knows the receiver to have. `context` is the
    /// newest read-index context the leader wants confirmed, 0 for none.
    Heartbeat {
        commit: LogIndex,
        context: u64,
    },
    HeartbeatReply {
        context: u64,
    },
    /// "Your log is too old: fetch my state at this point." The data goes another way.
    Snapshot {
        meta: SnapshotMeta,
    },
    /// The receiver could not take the snapshot; the leader probes again.
    SnapshotRefused {
        index: LogIndex,
    },
    TimeoutNow,
    /// A fact, of no term: this entry is committed. Sent along with the refusal of a vote, to a
    /// candidate that needs the vote only because it does not know so.
    Committed {
        index: LogIndex,
        term: Term,
    },
    /// A follower forwards what its clients proposed.
    Propose {
        data: Vec<Bytes>,
    },
    /// A follower asks for a read point; `context` is the follower's own.
    ReadIndex {
        context: u64,
    },
    ReadIndexReply {
        context: u64,
        index: LogIndex,
    },
}

/// Where a follower's log and the leader's may still agree: the follower's guess and the term of
/// the entry there, so that a whole term is skipped per round trip (paper 5.3, end).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RejectHint {
    pub index: LogIndex,
    pub term: Term,
}

/// The point of a log that a raft snapshot stands for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SnapshotMeta {
    pub index: LogIndex,
    pub term: Term,
    pub conf: ConfState,
}

impl MessageBody {
    /// A short name for notes, traces and counters.
    pub fn name(&self) -> &'static str {
        match self {
            MessageBody::PreVote { .. } => "PreVote",
            MessageBody::PreVoteReply { .. } => "PreVoteReply",
            MessageBody::Vote { .. } => "Vote",
            MessageBody::VoteReply { .. } => "VoteReply",
            MessageBody::Append { .. } => "Append",
            MessageBody::AppendReply { .. } => "AppendReply",
            MessageBody::Heartbeat { .. } => "Heartbeat",
            MessageBody::HeartbeatReply { .. } => "HeartbeatReply",
            MessageBody::Snapshot { .. } => "Snapshot",
            MessageBody::SnapshotRefused { .. } => "SnapshotRefused",
            MessageBody::TimeoutNow => "TimeoutNow",
            MessageBody::Committed { .. } => "Committed",
            MessageBody::Propose { .. } => "Propose",
            MessageBody::ReadIndex { .. } => "ReadIndex",
            MessageBody::ReadIndexReply { .. } => "ReadIndexReply",
        }
    }
}
