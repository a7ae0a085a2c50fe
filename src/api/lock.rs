//! The Lock service: who holds a name, for as long as a lease lives.

use super::caller::caller_of;
use super::proto::v3lockpb as pb;
use super::proto::v3lockpb::lock_server::Lock;
use super::recipe::{Recipe, below, created_at, first_created, get, key_of, put};
use crate::node::NodeHandle;
use crate::types::KeyRange;
use crate::types::command::{RangeRequest, RequestOp, TxnRequest};
use crate::types::reply::ReplyOp;
use bytes::Bytes;
use tonic::codegen::async_trait;
use tonic::{Request, Response, Status};

pub struct LockService {
    node: NodeHandle,
}

impl LockService {
    pub fn new(node: NodeHandle) -> LockService {
        LockService { node }
    }
}

/// A key that waits for its turn: deleted when the wait comes to nothing, the client's going away
/// included.
pub(super) struct Waiting {
    recipe: Recipe,
    key: Option<Bytes>,
}

impl Waiting {
    pub fn new(recipe: &Recipe, key: Bytes) -> Waiting {
        Waiting { recipe: recipe.clone(), key: Some(key) }
    }
    /// Its turn has come: the key stays.
    pub fn keep(mut self) {
        self.key = None;
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some(key) = self.key.take() {
            self.recipe.delete_and_forget(key);
        }
    }
}

#[async_trait]
impl Lock for LockService {
    async fn lock(
        &self,
        request: Request<pb::LockRequest>,
    ) -> Result<Response<pb::LockResponse>, Status> {
        let recipe = Recipe { node: self.node.clone(), caller: caller_of(&request) };
        let request = request.into_inner();
        let lease = recipe.session(request.lease).await?;
        let prefix = below(&request.name);
        let key = key_of(&prefix, lease);
        let look = RequestOp::Range(first_created(&prefix));
        // Who holds the lock with this lease already keeps the key it has.
        let txn = TxnRequest {
            compare: vec![created_at(key.clone(), 0)],
            success: vec![put(key.clone(), Bytes::new(), lease), look.clone()],
            failure: vec![get(key.clone()), look],
        };
        let (reply, revision) = recipe.txn(txn).await?;
        let created = |op: &ReplyOp| match op {
            ReplyOp::Range { reply, .. } => reply.kvs.first().map(|kv| kv.create_revision),
            _ => None,
        };
        let mine = match reply.succeeded {
            true => revision,
            false => created(&reply.replies[0]).unwrap_or(revision),
        };
        let owner = created(&reply.replies[1]);
        if owner.is_none_or(|owner| owner == mine) {
            let header = recipe.header(revision);
            return Ok(Response::new(pb::LockResponse { header, key }));
        }
        let waiting = Waiting::new(&recipe, key.clone());
        recipe.wait_for_older(&prefix, mine - 1).await?;
        let range = KeyRange::single(key.clone());
        let own = RangeRequest { range, ..RangeRequest::default() };
        let (own, revision) = recipe.range(own).await?;
        if own.kvs.is_empty() {
            // The lease has run out meanwhile.
            return Err(Status::unknown("mutex: session is expired"));
        }
        waiting.keep();
        Ok(Response::new(pb::LockResponse { header: recipe.header(revision), key }))
    }

    async fn unlock(
        &self,
        request: Request<pb::UnlockRequest>,
    ) -> Result<Response<pb::UnlockResponse>, Status> {
        let recipe = Recipe { node: self.node.clone(), caller: caller_of(&request) };
        let key = request.into_inner().key;
        if key.is_empty() {
            return Err(super::recipe::unknown(&crate::types::ApiError::EmptyKey));
        }
        let revision = recipe.delete(key).await?;
        Ok(Response::new(pb::UnlockResponse { header: recipe.header(revision) }))
    }
}
