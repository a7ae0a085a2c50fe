//! What every answer needs from the member: a header, and a state to read.

use super::errors::status;
use super::proto::etcdserverpb::ResponseHeader;
use crate::mvcc::KeyspaceView;
use crate::node::NodeHandle;
use crate::types::{ApiError, GroupId};
use tonic::Status;

/// Who answers, and how far it has come. `revision` is what the answer is about (0 on membership
/// requests).
pub fn header(node: &NodeHandle, revision: i64) -> ResponseHeader {
    ResponseHeader {
        cluster_id: node.cluster_id().0,
        member_id: node.member_id().0,
        revision,
        raft_term: node.raft_term(GroupId::ROOT),
    }
}

/// The newest state of the default keyspace on this member.
pub fn local_view(node: &NodeHandle) -> Result<KeyspaceView, Status> {
    node.view(GroupId::ROOT).ok_or_else(|| status(&ApiError::MemberNotFound))
}

/// A state that has everything acknowledged before the call; or, if the client does not mind
/// staleness, the newest one here.
pub async fn fresh_view(node: &NodeHandle, serializable: bool) -> Result<KeyspaceView, Status> {
    if !serializable {
        node.read_barrier(GroupId::ROOT).await.map_err(|error| status(&error))?;
    }
    local_view(node)
}
