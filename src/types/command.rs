//! What a keyspace can be asked to do.
//!
//! `Command` is what goes through the log: everything apply needs is inside, clock readings
//! included. The request structs are shared with reads, which do not go through the log.

use super::auth::{AuthCommand, Caller};
use super::ids::{GroupId, Incarnation, LeaseId, LogIndex, NodeId, RequestId, Term};
use super::range::KeyRange;
use bytes::Bytes;

/// A command and who waits for its outcome, as encoded into a log entry (`codec::command`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposal {
    pub id: RequestId,
    /// `None` for what members ask among themselves, and while users do not count.
    pub caller: Option<Caller>,
    pub command: Command,
}

/// Who says that a lease's time is over, or how much of it is left, and what it knew by then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseLeader {
    /// In another term than the entry's, its words are refused at apply: its clock may have missed
    /// keepalives that its successor has answered.
    pub term: Term,
    /// The last entry that it had applied. A lease that was granted behind it is another one of the
    /// same id, of which the leader has not heard: apply passes it over.
    pub applied: LogIndex,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    Put(PutRequest),
    DeleteRange(DeleteRangeRequest),
    Txn(TxnRequest),
    Compact(CompactRequest),
    LeaseGrant {
        id: LeaseId,
        ttl_seconds: i64,
    },
    /// A client's revoke has one id and no leader; the leader's expiry has any number.
    LeaseRevoke {
        ids: Vec<LeaseId>,
        leader: Option<LeaseLeader>,
    },
    /// Remaining TTLs, so that a new leader does not start from the full ones. 0 clears, and is
    /// the only one without a leader.
    LeaseCheckpoint {
        remaining: Vec<(LeaseId, i64)>,
        leader: Option<LeaseLeader>,
    },
    Alarm(AlarmRequest),
    /// A member tells its name, client URLs and data directory. Root group only.
    PublishMember {
        id: NodeId,
        name: String,
        client_urls: Vec<String>,
        incarnation: Incarnation,
    },
    /// A further keyspace, in the catalogue of the root group. It gets the next id ever.
    CreateGroup,
    /// A keyspace and all that is in it goes away, on every node. Root group only.
    DestroyGroup {
        group: GroupId,
    },
    Auth(AuthCommand),
    /// The version that the cluster is told to go down to; empty ends that. Root group only.
    SetDowngrade {
        target: String,
    },
}

impl Command {
    /// The operation's name, for whoever counts: etcd's, where it has one.
    pub fn name(&self) -> &'static str {
        match self {
            Command::Put(_) => "Put",
            Command::DeleteRange(_) => "DeleteRange",
            Command::Txn(_) => "Txn",
            Command::Compact(_) => "Compaction",
            Command::LeaseGrant { .. } => "LeaseGrant",
            Command::LeaseRevoke { .. } => "LeaseRevoke",
            Command::LeaseCheckpoint { .. } => "LeaseCheckpoint",
            Command::Alarm(_) => "Alarm",
            Command::PublishMember { .. } => "ClusterMemberAttrSet",
            Command::CreateGroup => "CreateGroup",
            Command::DestroyGroup { .. } => "DestroyGroup",
            Command::Auth(command) => command.name(),
            Command::SetDowngrade { .. } => "DowngradeInfoSet",
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PutRequest {
    pub key: Bytes,
    pub value: Bytes,
    pub lease: LeaseId,
    pub prev_kv: bool,
    pub ignore_value: bool,
    pub ignore_lease: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeleteRangeRequest {
    pub range: KeyRange,
    pub prev_kv: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SortOrder {
    #[default]
    None,
    Ascend,
    Descend,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SortTarget {
    #[default]
    Key,
    Version,
    Create,
    Mod,
    Value,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeRequest {
    pub range: KeyRange,
    pub limit: i64,
    /// 0 or less is the newest (inside a txn only 0 is).
    pub revision: i64,
    pub sort_order: SortOrder,
    pub sort_target: SortTarget,
    pub serializable: bool,
    pub keys_only: bool,
    pub count_only: bool,
    pub min_mod_revision: i64,
    pub max_mod_revision: i64,
    pub min_create_revision: i64,
    pub max_create_revision: i64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestOp {
    Range(RangeRequest),
    Put(PutRequest),
    DeleteRange(DeleteRangeRequest),
    Txn(TxnRequest),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CompareResult {
    #[default]
    Equal,
    Greater,
    Less,
    NotEqual,
}

/// What a compare looks at, with the operand. An operand the client left out is 0 or empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CompareTarget {
    Version(i64),
    Create(i64),
    Mod(i64),
    Value(Bytes),
    Lease(i64),
    /// A target this version does not know: it compares as equal (etcd does the same).
    Unknown,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compare {
    pub range: KeyRange,
    pub result: CompareResult,
    pub target: CompareTarget,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TxnRequest {
    pub compare: Vec<Compare>,
    pub success: Vec<RequestOp>,
    pub failure: Vec<RequestOp>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CompactRequest {
    pub revision: i64,
    /// Answer only once the old revisions are gone from the store.
    pub physical: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AlarmKind {
    NoSpace,
    Corrupt,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AlarmAction {
    Get,
    Activate,
    Deactivate,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AlarmRequest {
    pub action: AlarmAction,
    pub member: NodeId,
    /// `None` is "every kind" for Get.
    pub kind: Option<AlarmKind>,
}
