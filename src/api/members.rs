//! The Cluster service: who the members are.

use super::convert::member_to_proto;
use super::errors::{not_yet, status};
use super::header::header;
use super::proto::etcdserverpb as pb;
use super::proto::etcdserverpb::cluster_server::Cluster;
use crate::node::NodeHandle;
use crate::types::GroupId;
use tonic::codegen::async_trait;
use tonic::{Request, Response, Status};

pub struct ClusterService {
    node: NodeHandle,
}

impl ClusterService {
    pub fn new(node: NodeHandle) -> ClusterService {
        ClusterService { node }
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
        // Membership has no revision.
        Ok(Response::new(pb::MemberListResponse { header: Some(header(&self.node, 0)), members }))
    }

    async fn member_add(
        &self,
        _: Request<pb::MemberAddRequest>,
    ) -> Result<Response<pb::MemberAddResponse>, Status> {
        Err(not_yet("adding members"))
    }

    async fn member_remove(
        &self,
        _: Request<pb::MemberRemoveRequest>,
    ) -> Result<Response<pb::MemberRemoveResponse>, Status> {
        Err(not_yet("removing members"))
    }

    async fn member_update(
        &self,
        _: Request<pb::MemberUpdateRequest>,
    ) -> Result<Response<pb::MemberUpdateResponse>, Status> {
        Err(not_yet("changing members' URLs"))
    }

    async fn member_promote(
        &self,
        _: Request<pb::MemberPromoteRequest>,
    ) -> Result<Response<pb::MemberPromoteResponse>, Status> {
        Err(not_yet("promoting learners"))
    }
}
