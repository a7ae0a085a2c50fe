//! What two nodes say to each other, and its layout. Raft messages of all groups that leave in
//! one turn share one frame; everything else is about one group.
//!
//! A frame's payload is one `NodeMessage`: a tag byte, then the fields as `codec` lays out
//! integers (LEB128), byte strings (length, bytes) and raft messages. The transport adds length
//! and checksum (`codec::frame`). A decoder never allocates more than the frame's own size.

use crate::types::{ApiError, GroupId, LeaseId, LogIndex, Message, RequestId};
use crate::types::limits::SNAPSHOT_CHUNK_BYTES;
use bytes::Bytes;

/// One frame between two nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeMessage {
    /// Everything raft had for the receiver in one turn, heartbeats of many groups included.
    Raft(Vec<Message>),
    /// A node that installs a raft snapshot asks for a part of it.
    SnapshotFetch(SnapshotFetch),
    SnapshotChunk(SnapshotChunk),
    /// The sender does not have (any more) what was asked for.
    SnapshotGone { group: GroupId, id: u64, meta_index: LogIndex },
    /// A follower passes a client's keepalive or TTL question on to the leader.
    LeaseAsk { group: GroupId, id: RequestId, lease: LeaseId, renew: bool },
    LeaseTold { group: GroupId, id: RequestId, outcome: LeaseOutcome },
    /// A follower passes a membership change on to the leader (encoded by `node::membership`).
    MembershipAsk { id: RequestId, change: Bytes },
    /// The leader's checks refused it; a change that passed them is answered by its entry.
    MembershipRefused { id: RequestId, error: ApiError },
}

/// `cursor` is the item after which to go on, `None` from the beginning; `id` is 0 in the first
/// fetch and what the first chunk said from then on, so that chunks of two pinned views never mix.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SnapshotFetch {
    pub group: GroupId,
    pub id: u64,
    pub meta_index: LogIndex,
    pub cursor: Option<(u8, Bytes)>,
}

/// At most about `SNAPSHOT_CHUNK_BYTES` of items in ascending order of (kind, key).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SnapshotChunk {
    pub group: GroupId,
    pub id: u64,
    pub meta_index: LogIndex,
    /// The cursor that was asked for: tells a late duplicate.
    pub after: Option<(u8, Bytes)>,
    pub items: Vec<SnapshotItem>,
    pub last: bool,
    /// crc32 of the items as encoded, computed where they were read from the store.
    pub crc: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotItem {
    pub kind: u8,
    pub key: Bytes,
    pub value: Bytes,
    pub live: bool,
}

impl SnapshotItem {
    pub fn cost(&self) -> usize {
        self.key.len() + self.value.len() + 16
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeaseOutcome {
    /// Seconds; granted 0 when there is no such lease.
    Known { granted_seconds: i64, remaining_seconds: i64 },
    NotLeader,
    /// The receiver could not confirm that it leads.
    Unconfirmed,
}

/// Items of one chunk can never be more than this: each costs at least a few bytes.
pub const CHUNK_ITEMS_MAX: usize = SNAPSHOT_CHUNK_BYTES / 4;
