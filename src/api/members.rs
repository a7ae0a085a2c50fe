//! The Cluster service: who the members are, and who comes and goes.
//!
//! The leader checks every change (`node::membership`) and the log carries it; here URLs are read
//! and answers are written. Membership has no revision: headers say 0.

use super::convert::member_to_proto;
use super::errors::{self, status};
use super::header::header;
use super::proto::etcdserverpb as pb;
use super::proto::etcdserverpb::cluster_server::Cluster;
use crate::node::{MembershipChange, NodeHandle};
use crate::types::url::Url;
use crate::types::{ApiError, GroupId, Member, NodeId};
use tonic::codegen::async_trait;
use tonic::{Request, Response, Status};

pub struct ClusterService {
    node: NodeHandle,
}

impl ClusterService {
    pub fn new(node: NodeHandle) -> ClusterService {
        ClusterService { node }
    }

    /// The member that was added, and the membership behind the change.
    async fn change(
        &self,
        change: MembershipChange,
    ) -> Result<(Option<Member>, Vec<pb::Member>), Status> {
        let asked = format!("{change:?}");
        let changed = self.node.change_membership(change).await;
        let (member, members) = changed.map_err(|error| {
            tracing::warn!(
                "local-member-id" = %self.node.member_id(),
                "requested-change" = asked,
                error = errors::row(&error).1,
                "rejecting member change request"
            );
            status(&error)
        })?;
        Ok((member, members.iter().map(member_to_proto).collect()))
    }
}

#[async_trait]
impl Cluster for ClusterService {
    async fn member_list(
        &self,
        request: Request<pb::MemberListRequest>,
    ) -> Result<Response<pb::MemberListResponse>, Status> {
        if request.into_inner().linearizable {
            self.node.read_barrier(GroupId::ROOT).await.map_err(|error| status(&error))?;
        }
        let members = self.node.members().iter().map(member_to_proto).collect();
        Ok(Response::new(pb::MemberListResponse { header: Some(header(&self.node, 0)), members }))
    }

    async fn member_add(
        &self,
        request: Request<pb::MemberAddRequest>,
    ) -> Result<Response<pb::MemberAddResponse>, Status> {
        let pb::MemberAddRequest { peer_ur_ls, is_learner } = request.into_inner();
        let change = MembershipChange::Add {
            peer_urls: peer_urls(&peer_ur_ls)?,
            learner: is_learner,
            unix_seconds: self.node.wall_ms() / 1000,
        };
        let (member, members) = self.change(change).await?;
        Ok(Response::new(pb::MemberAddResponse {
            header: Some(header(&self.node, 0)),
            member: member.as_ref().map(member_to_proto),
            members,
        }))
    }

    async fn member_remove(
        &self,
        request: Request<pb::MemberRemoveRequest>,
    ) -> Result<Response<pb::MemberRemoveResponse>, Status> {
        let id = NodeId(request.into_inner().id);
        let (_, members) = self.change(MembershipChange::Remove { id }).await?;
        let header = Some(header(&self.node, 0));
        Ok(Response::new(pb::MemberRemoveResponse { header, members }))
    }

    async fn member_update(
        &self,
        request: Request<pb::MemberUpdateRequest>,
    ) -> Result<Response<pb::MemberUpdateResponse>, Status> {
        let pb::MemberUpdateRequest { id, peer_ur_ls } = request.into_inner();
        let id = NodeId(id);
        // etcd takes any text here (its own client checks), so an unknown member comes first.
        let known = self.node.members().iter().any(|member| member.id == id);
        let peer_urls = match peer_urls(&peer_ur_ls) {
            Ok(urls) => urls,
            Err(bad) if known => return Err(bad),
            Err(_) => return Err(status(&ApiError::MemberNotFound)),
        };
        let change = MembershipChange::UpdatePeerUrls { id, peer_urls };
        let (_, members) = self.change(change).await?;
        let header = Some(header(&self.node, 0));
        Ok(Response::new(pb::MemberUpdateResponse { header, members }))
    }

    async fn member_promote(
        &self,
        request: Request<pb::MemberPromoteRequest>,
    ) -> Result<Response<pb::MemberPromoteResponse>, Status> {
        let id = NodeId(request.into_inner().id);
        let (_, members) = self.change(MembershipChange::Promote { id }).await?;
        let header = Some(header(&self.node, 0));
        Ok(Response::new(pb::MemberPromoteResponse { header, members }))
    }
}

/// At least one URL, each a scheme and `host:port`. They stay in the order given: etcd sorts those
/// of a new member and no others.
fn peer_urls(given: &[String]) -> Result<Vec<String>, Status> {
    let bad = || status(&ApiError::BadMemberUrls);
    let mut urls = Vec::new();
    for text in given {
        urls.push(Url::parse(text).map_err(|_| bad())?.to_string());
    }
    if urls.is_empty() {
        return Err(bad());
    }
    Ok(urls)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peer_urls_are_checked_and_keep_their_order() {
        let list =
            |urls: &[&str]| peer_urls(&urls.iter().map(|u| u.to_string()).collect::<Vec<_>>());
        let two = list(&["http://b:2", " http://a:1"]).expect("two good URLs");
        assert_eq!(two, ["http://b:2", "http://a:1"]);
        for bad in [&[][..], &[""], &["a:1"], &["http://a:1", "http://b"], &["http://a:1/x"]] {
            let status = list(bad).expect_err("a bad list");
            assert_eq!(status.code(), tonic::Code::InvalidArgument, "{bad:?}");
            assert_eq!(status.message(), "etcdserver: given member URLs are invalid", "{bad:?}");
        }
    }
}
