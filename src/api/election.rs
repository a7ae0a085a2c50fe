//! The Election service: one leader at a time for a name, and what it proclaims.

use super::caller::caller_of;
use super::convert::key_value_to_proto;
use super::lock::Waiting;
use super::proto::v3electionpb as pb;
use super::proto::v3electionpb::election_server::Election;
use super::recipe::{Recipe, Watched, below, created_at, get, key_of, put};
use super::unfold::unfold;
use crate::node::NodeHandle;
use crate::types::command::{DeleteRangeRequest, RequestOp, TxnRequest};
use crate::types::reply::{EventKind, KeyValue, ReplyOp};
use crate::types::{KeyRange, LeaseId};
use bytes::Bytes;
use std::collections::VecDeque;
use tonic::codegen::{BoxStream, async_trait};
use tonic::{Request, Response, Status};

pub struct ElectionService {
    node: NodeHandle,
}

impl ElectionService {
    pub fn new(node: NodeHandle) -> ElectionService {
        ElectionService { node }
    }
    fn recipe<T>(&self, request: &Request<T>) -> Recipe {
        Recipe { node: self.node.clone(), caller: caller_of(request) }
    }
}

fn leader_missing() -> Status {
    Status::unknown("\"leader\" field must be provided")
}

fn not_leader() -> Status {
    Status::unknown("election: not leader")
}

/// Puts a new value into a leader's key, if it is still the leader's.
async fn proclaim(
    recipe: &Recipe,
    key: Bytes,
    created: i64,
    value: Bytes,
    lease: LeaseId,
) -> Result<i64, Status> {
    let txn = TxnRequest {
        compare: vec![created_at(key.clone(), created)],
        success: vec![put(key, value, lease)],
        failure: vec![],
    };
    let (reply, revision) = recipe.txn(txn).await?;
    if reply.succeeded { Ok(revision) } else { Err(not_leader()) }
}

#[async_trait]
impl Election for ElectionService {
    async fn campaign(
        &self,
        request: Request<pb::CampaignRequest>,
    ) -> Result<Response<pb::CampaignResponse>, Status> {
        let recipe = self.recipe(&request);
        let request = request.into_inner();
        let lease = recipe.session(request.lease).await?;
        let prefix = below(&request.name);
        let key = key_of(&prefix, lease);
        let txn = TxnRequest {
            compare: vec![created_at(key.clone(), 0)],
            success: vec![put(key.clone(), request.value.clone(), lease)],
            failure: vec![get(key.clone())],
        };
        let (reply, revision) = recipe.txn(txn).await?;
        let mut mine = revision;
        let waiting = Waiting::new(&recipe, key.clone());
        if !reply.succeeded {
            // The lease runs already: it goes on, with the value it has now.
            let found = match reply.replies.into_iter().next() {
                Some(ReplyOp::Range { reply, .. }) => reply.kvs.into_iter().next(),
                _ => None,
            };
            let Some(found) = found else { return Err(not_leader()) };
            mine = found.create_revision;
            if found.value != request.value {
                proclaim(&recipe, key.clone(), mine, request.value, lease).await?;
            }
        }
        recipe.wait_for_older(&prefix, mine - 1).await?;
        waiting.keep();
        let leader = pb::LeaderKey { name: request.name, key, rev: mine, lease: lease.0 };
        let header = recipe.header(revision);
        Ok(Response::new(pb::CampaignResponse { header, leader: Some(leader) }))
    }

    async fn proclaim(
        &self,
        request: Request<pb::ProclaimRequest>,
    ) -> Result<Response<pb::ProclaimResponse>, Status> {
        let recipe = self.recipe(&request);
        let request = request.into_inner();
        let leader = request.leader.ok_or_else(leader_missing)?;
        let lease = recipe.session(leader.lease).await?;
        let revision = proclaim(&recipe, leader.key, leader.rev, request.value, lease).await?;
        Ok(Response::new(pb::ProclaimResponse { header: recipe.header(revision) }))
    }

    async fn leader(
        &self,
        request: Request<pb::LeaderRequest>,
    ) -> Result<Response<pb::LeaderResponse>, Status> {
        let recipe = self.recipe(&request);
        let (owner, revision) = recipe.owner(&below(&request.into_inner().name)).await?;
        let owner = owner.ok_or_else(|| Status::unknown("election: no leader"))?;
        Ok(Response::new(answer(&recipe, owner, revision)))
    }

    type ObserveStream = BoxStream<pb::LeaderResponse>;

    async fn observe(
        &self,
        request: Request<pb::LeaderRequest>,
    ) -> Result<Response<Self::ObserveStream>, Status> {
        let recipe = self.recipe(&request);
        let observer = Observer {
            recipe,
            prefix: below(&request.into_inner().name),
            told: VecDeque::new(),
            watched: None,
            is_over: false,
        };
        Ok(Response::new(Box::pin(unfold(observer, Observer::next))))
    }

    async fn resign(
        &self,
        request: Request<pb::ResignRequest>,
    ) -> Result<Response<pb::ResignResponse>, Status> {
        let recipe = self.recipe(&request);
        let leader = request.into_inner().leader.ok_or_else(leader_missing)?;
        let range = KeyRange::single(leader.key.clone());
        // Who does not lead any more has nothing to give up.
        let txn = TxnRequest {
            compare: vec![created_at(leader.key, leader.rev)],
            success: vec![RequestOp::DeleteRange(DeleteRangeRequest { range, prev_kv: false })],
            failure: vec![],
        };
        let (_, revision) = recipe.txn(txn).await?;
        Ok(Response::new(pb::ResignResponse { header: recipe.header(revision) }))
    }
}

fn answer(recipe: &Recipe, kv: KeyValue, revision: i64) -> pb::LeaderResponse {
    pb::LeaderResponse { header: recipe.header(revision), kv: Some(key_value_to_proto(kv)) }
}

/// Follows a name: its leader, what the leader proclaims, and whoever leads next.
struct Observer {
    recipe: Recipe,
    prefix: KeyRange,
    told: VecDeque<pb::LeaderResponse>,
    /// The leader's key, while one leads.
    watched: Option<Watched>,
    is_over: bool,
}

impl Observer {
    async fn next(mut self) -> Option<(Result<pb::LeaderResponse, Status>, Observer)> {
        while !self.is_over {
            if let Some(told) = self.told.pop_front() {
                return Some((Ok(told), self));
            }
            if let Err(status) = self.step().await {
                self.is_over = true;
                return Some((Err(status), self));
            }
        }
        None
    }

    async fn step(&mut self) -> Result<(), Status> {
        if let Some(watched) = &mut self.watched {
            let Some(events) = watched.next().await? else {
                self.watched = None;
                return Ok(());
            };
            for event in events {
                if event.kind == EventKind::Delete {
                    self.watched = None;
                    return Ok(());
                }
                let revision = event.kv.mod_revision;
                self.told.push_back(answer(&self.recipe, event.kv, revision));
            }
            return Ok(());
        }
        let (owner, revision) = self.recipe.owner(&self.prefix).await?;
        let (owner, revision) = match owner {
            Some(owner) => (owner, revision),
            None => {
                let mut any = self.recipe.watch(self.prefix.clone(), revision)?;
                let Some(first) = first_put(&mut any).await? else { return Ok(()) };
                let revision = first.mod_revision;
                (first, revision)
            }
        };
        let key = KeyRange::single(owner.key.clone());
        self.watched = Some(self.recipe.watch(key, revision + 1)?);
        self.told.push_back(answer(&self.recipe, owner, revision));
        Ok(())
    }
}

/// `None` when the past was compacted: look again.
async fn first_put(watched: &mut Watched) -> Result<Option<KeyValue>, Status> {
    loop {
        let Some(events) = watched.next().await? else { return Ok(None) };
        let put = events.into_iter().find(|event| event.kind == EventKind::Put);
        if let Some(put) = put {
            return Ok(Some(put.kv));
        }
    }
}
