//! What the cluster knows of one member.

use super::ids::{Incarnation, NodeId};

/// One row of the membership, replicated in the root group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Member {
    pub id: NodeId,
    /// Empty until the member has published itself ("unstarted" in etcd's words).
    pub name: String,
    pub peer_urls: Vec<String>,
    /// Empty until the member has published itself.
    pub client_urls: Vec<String>,
    pub is_learner: bool,
    /// The data directory that may speak as this member; `None` until it has published itself.
    pub incarnation: Option<Incarnation>,
}
