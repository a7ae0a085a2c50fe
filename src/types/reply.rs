//! What a keyspace answers.

use super::command::AlarmKind;
use super::ids::{GroupId, LeaseId, NodeId};
use bytes::Bytes;

/// One version of one key (etcd's `mvccpb.KeyValue`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyValue {
    pub key: Bytes,
    pub value: Bytes,
    pub create_revision: i64,
    pub mod_revision: i64,
    pub version: i64,
    pub lease: LeaseId,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeReply {
    pub kvs: Vec<KeyValue>,
    pub more: bool,
    pub count: i64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PutReply {
    pub prev_kv: Option<KeyValue>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeleteRangeReply {
    pub deleted: i64,
    pub prev_kvs: Vec<KeyValue>,
}

/// One operation's answer inside a txn; `revision` is what etcd puts into the inner header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReplyOp {
    Range { revision: i64, reply: RangeReply },
    Put { revision: i64, reply: PutReply },
    DeleteRange { revision: i64, reply: DeleteRangeReply },
    Txn(TxnReply),
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TxnReply {
    pub succeeded: bool,
    pub replies: Vec<ReplyOp>,
}

/// What an applied command answers, besides the header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    Put(PutReply),
    DeleteRange(DeleteRangeReply),
    Txn(TxnReply),
    Compact,
    LeaseGrant {
        id: LeaseId,
        ttl_seconds: i64,
    },
    LeaseRevoke,
    LeaseCheckpoint,
    Alarm(Vec<(NodeId, AlarmKind)>),
    PublishMember,
    CreateGroup {
        group: GroupId,
    },
    DestroyGroup,
    SetDowngrade,
    /// Users or roles were changed.
    Auth,
    /// The token, empty for kinds that the asked member signs; and the users' revision that the
    /// password must have been compared at.
    Authenticated {
        token: String,
        auth_revision: u64,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    Put,
    Delete,
}

/// One change as watchers see it. A delete's `kv` has only key and mod_revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub kind: EventKind,
    pub kv: KeyValue,
    pub prev_kv: Option<KeyValue>,
}
