//! Response headers: who answers, and how far it has come.

use super::proto::etcdserverpb::ResponseHeader;
use crate::node::handle::NodeHandle;

/// A header with the revision that the answer is about (0 on membership requests).
pub fn header(node: &NodeHandle, revision: i64) -> ResponseHeader {
    ResponseHeader {
        cluster_id: node.cluster_id().0,
        member_id: node.node_id().0,
        revision,
        raft_term: node.term().0,
    }
}
