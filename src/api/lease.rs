//! The Lease service.

use super::caller::{Credentials, caller_of};
use super::errors::status;
use super::front::{LeaderLost, leader_lost, needs_leader};
use super::header::{header, local_view};
use super::proto::etcdserverpb as pb;
use super::proto::etcdserverpb::lease_server::Lease;
use super::rpcs::{Counters, KEEP_ALIVE};
use super::tokens::AuthOptions;
use super::unfold::unfold;
use crate::auth::Need;
use crate::io::biased_select;
use crate::mvcc::ReadError;
use crate::node::NodeHandle;
use crate::types::auth::Caller;
use crate::types::command::Command;
use crate::types::reply::Reply;
use crate::types::{ApiError, GroupId, LeaseId};
use std::sync::Arc;
use tonic::codegen::{BoxStream, async_trait};
use tonic::{Request, Response, Status, Streaming};

pub struct LeaseService {
    node: NodeHandle,
    options: Arc<AuthOptions>,
    counters: Arc<Counters>,
}

impl LeaseService {
    pub fn new(
        node: NodeHandle,
        options: Arc<AuthOptions>,
        counters: Arc<Counters>,
    ) -> LeaseService {
        LeaseService { node, options, counters }
    }
}

#[async_trait]
impl Lease for LeaseService {
    async fn lease_grant(
        &self,
        request: Request<pb::LeaseGrantRequest>,
    ) -> Result<Response<pb::LeaseGrantResponse>, Status> {
        let request = request.into_inner();
        // The member raises a short TTL, refuses one too long, and chooses an id where it is 0.
        let command = Command::LeaseGrant { id: LeaseId(request.id), ttl_seconds: request.ttl };
        let done =
            self.node.propose(GroupId::ROOT, command).await.map_err(|error| status(&error))?;
        let Reply::LeaseGrant { id, ttl_seconds } = done.reply else {
            unreachable!("a grant was answered with another command's reply: {:?}", done.reply)
        };
        Ok(Response::new(pb::LeaseGrantResponse {
            header: Some(header(&self.node, done.revision)),
            id: id.0,
            ttl: ttl_seconds,
            error: String::new(),
        }))
    }

    async fn lease_revoke(
        &self,
        request: Request<pb::LeaseRevokeRequest>,
    ) -> Result<Response<pb::LeaseRevokeResponse>, Status> {
        let caller = caller_of(&request);
        let ids = vec![LeaseId(request.into_inner().id)];
        let command = Command::LeaseRevoke { ids, leader: None };
        let done = self.node.propose_as(GroupId::ROOT, caller, command).await;
        let done = done.map_err(|error| status(&error))?;
        let header = Some(header(&self.node, done.revision));
        Ok(Response::new(pb::LeaseRevokeResponse { header }))
    }

    type LeaseKeepAliveStream = BoxStream<pb::LeaseKeepAliveResponse>;

    async fn lease_keep_alive(
        &self,
        request: Request<Streaming<pb::LeaseKeepAliveRequest>>,
    ) -> Result<Response<Self::LeaseKeepAliveStream>, Status> {
        let needs_leader = needs_leader(request.metadata().as_ref());
        let state = KeepAlive {
            node: self.node.clone(),
            options: self.options.clone(),
            credentials: Credentials::of(request.metadata().as_ref(), request.extensions()),
            counters: self.counters.clone(),
            requests: request.into_inner(),
            leader_lost: leader_lost(&self.node, needs_leader),
            is_over: false,
        };
        Ok(Response::new(Box::pin(unfold(state, KeepAlive::next))))
    }

    async fn lease_time_to_live(
        &self,
        request: Request<pb::LeaseTimeToLiveRequest>,
    ) -> Result<Response<pb::LeaseTimeToLiveResponse>, Status> {
        let caller = caller_of(&request);
        let request = request.into_inner();
        let lease = LeaseId(request.id);
        if request.keys {
            permits(&self.node, caller.as_ref(), Need::Read, lease)?;
        }
        let info = self
            .node
            .lease_time_to_live(GroupId::ROOT, lease, request.keys)
            .await
            .map_err(|error| status(&error))?;
        Ok(Response::new(pb::LeaseTimeToLiveResponse {
            header: Some(header(&self.node, local_view(&self.node)?.revision())),
            id: request.id,
            ttl: info.ttl,
            granted_ttl: info.granted,
            keys: info.keys,
        }))
    }

    async fn lease_leases(
        &self,
        request: Request<pb::LeaseLeasesRequest>,
    ) -> Result<Response<pb::LeaseLeasesResponse>, Status> {
        // As etcd: what this member has applied.
        let view = local_view(&self.node)?;
        let leases = view
            .leases()
            .map_err(|error| status(&self.node.read_failed(ReadError::Storage(error))))?;
        let caller = caller_of(&request);
        if let Err(error) = view.auth().check_admin(caller.as_ref()) {
            if caller.is_none() {
                return Err(status(&error));
            }
            for info in &leases {
                permits(&self.node, caller.as_ref(), Need::Read, info.id)?;
            }
        }
        Ok(Response::new(pb::LeaseLeasesResponse {
            header: Some(header(&self.node, view.revision())),
            leases: leases.into_iter().map(|info| pb::LeaseStatus { id: info.id.0 }).collect(),
        }))
    }
}

/// One keep-alive stream: each request is answered once, in order.
struct KeepAlive {
    node: NodeHandle,
    options: Arc<AuthOptions>,
    credentials: Credentials,
    counters: Arc<Counters>,
    requests: Streaming<pb::LeaseKeepAliveRequest>,
    leader_lost: LeaderLost,
    is_over: bool,
}

type Item = Result<pb::LeaseKeepAliveResponse, Status>;

impl KeepAlive {
    async fn next(mut self) -> Option<(Item, KeepAlive)> {
        if self.is_over {
            return None;
        }
        let message = biased_select! {
            message = self.requests.message() => message,
            () = &mut self.leader_lost => Err(status(&ApiError::NoLeader)),
        };
        let item = match message {
            Ok(Some(request)) => {
                self.counters.received(KEEP_ALIVE);
                self.renew(LeaseId(request.id)).await
            }
            Ok(None) => return None,
            Err(status) => Err(status),
        };
        match &item {
            Ok(_) => self.counters.sent(KEEP_ALIVE),
            Err(_) => self.is_over = true,
        }
        Some((item, self))
    }

    async fn renew(&mut self, lease: LeaseId) -> Item {
        let node = &self.node;
        // etcd fills the header in before it renews.
        let header = Some(header(node, local_view(node)?.revision()));
        if node.auth_enabled(GroupId::ROOT) {
            let caller = self.credentials.caller(node, &self.options).await;
            let caller = caller.map_err(|error| status(&error))?;
            permits(node, caller.as_ref(), Need::Write, lease)?;
        }
        let ttl = node.keep_alive(GroupId::ROOT, lease).await.map_err(|error| status(&error))?;
        Ok(pb::LeaseKeepAliveResponse { header, id: lease.0, ttl })
    }
}

/// Whether somebody may see or keep a lease: every key that is attached to it decides.
fn permits(
    node: &NodeHandle,
    caller: Option<&Caller>,
    need: Need,
    lease: LeaseId,
) -> Result<(), Status> {
    let view = local_view(node)?;
    view.auth().check_known(caller).map_err(|error| status(&error))?;
    let keys = || Ok(view.lease(lease, true)?.map(|info| info.keys).unwrap_or_default());
    match view.auth().check_lease(caller, need, keys) {
        Ok(permitted) => permitted.map_err(|error| status(&error)),
        Err(error) => Err(status(&node.read_failed(ReadError::Storage(error)))),
    }
}
