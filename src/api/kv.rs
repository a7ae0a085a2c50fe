//! The KV service: keys and values.

use super::caller::caller_of;
use super::convert;
use super::errors::status;
use super::header::{fresh_view, header};
use super::proto::etcdserverpb as pb;
use super::proto::etcdserverpb::kv_server::Kv;
use super::range_stream::{self, Pieces};
use super::unfold::unfold;
use crate::mvcc;
use crate::node::NodeHandle;
use crate::types::auth::Caller;
use crate::types::command::{Command, RequestOp, TxnRequest};
use crate::types::reply::Reply;
use crate::types::{ApiError, GroupId};
use tonic::codegen::{BoxStream, async_trait};
use tonic::{Request, Response, Status};

pub struct KvService {
    node: NodeHandle,
}

impl KvService {
    pub fn new(node: NodeHandle) -> KvService {
        KvService { node }
    }

    /// A command through the log; the reply's kind is the command's.
    async fn propose(
        &self,
        caller: Option<Caller>,
        command: Command,
    ) -> Result<(pb::ResponseHeader, Reply), Status> {
        let done = self.node.propose_as(GroupId::ROOT, caller, command).await;
        let done = done.map_err(|error| status(&error))?;
        Ok((header(&self.node, done.revision), done.reply))
    }

    fn failed(&self, error: mvcc::ReadError) -> Status {
        status(&self.node.read_failed(error))
    }
}

/// Apply answers each command with a reply of its own kind.
fn unexpected(reply: &Reply) -> ! {
    unreachable!("a command was answered with another command's reply: {reply:?}")
}

/// A txn without writes is a read. It is stale only when every range in it may be.
fn may_be_stale(txn: &TxnRequest) -> bool {
    let serializable = |op: &RequestOp| matches!(op, RequestOp::Range(r) if r.serializable);
    txn.success.iter().chain(&txn.failure).all(serializable)
}

#[async_trait]
impl Kv for KvService {
    async fn range(
        &self,
        request: Request<pb::RangeRequest>,
    ) -> Result<Response<pb::RangeResponse>, Status> {
        let caller = caller_of(&request);
        let request =
            convert::range_from_proto(request.into_inner()).map_err(|error| status(&error))?;
        if self.node.is_learner() && !request.serializable {
            return Err(status(&ApiError::NotSupportedForLearner));
        }
        let view = fresh_view(&self.node, request.serializable).await?;
        view.auth().check_read(caller.as_ref(), &request).map_err(|error| status(&error))?;
        let reply = view.range(&request).map_err(|error| self.failed(error))?;
        let header = header(&self.node, view.revision());
        Ok(Response::new(convert::range_reply_to_proto(Some(header), reply)))
    }

    type RangeStreamStream = BoxStream<pb::RangeStreamResponse>;

    async fn range_stream(
        &self,
        request: Request<pb::RangeRequest>,
    ) -> Result<Response<Self::RangeStreamStream>, Status> {
        let caller = caller_of(&request);
        let request = range_stream::check(request.into_inner())?;
        let view = fresh_view(&self.node, request.serializable).await?;
        view.auth().check_read(caller.as_ref(), &request).map_err(|error| status(&error))?;
        let pieces = Pieces::new(self.node.clone(), view, request);
        Ok(Response::new(Box::pin(unfold(pieces, Pieces::next))))
    }

    async fn put(
        &self,
        request: Request<pb::PutRequest>,
    ) -> Result<Response<pb::PutResponse>, Status> {
        let caller = caller_of(&request);
        let put = convert::put_from_proto(request.into_inner()).map_err(|error| status(&error))?;
        match self.propose(caller, Command::Put(put)).await? {
            (header, Reply::Put(reply)) => {
                Ok(Response::new(convert::put_reply_to_proto(Some(header), reply)))
            }
            (_, other) => unexpected(&other),
        }
    }

    async fn delete_range(
        &self,
        request: Request<pb::DeleteRangeRequest>,
    ) -> Result<Response<pb::DeleteRangeResponse>, Status> {
        let caller = caller_of(&request);
        let delete =
            convert::delete_from_proto(request.into_inner()).map_err(|error| status(&error))?;
        match self.propose(caller, Command::DeleteRange(delete)).await? {
            (header, Reply::DeleteRange(reply)) => {
                Ok(Response::new(convert::delete_reply_to_proto(Some(header), reply)))
            }
            (_, other) => unexpected(&other),
        }
    }

    async fn txn(
        &self,
        request: Request<pb::TxnRequest>,
    ) -> Result<Response<pb::TxnResponse>, Status> {
        let caller = caller_of(&request);
        let ops_max = self.node.limits().txn_ops_max;
        let txn = convert::txn_from_proto(request.into_inner(), ops_max)
            .and_then(|txn| mvcc::check_txn(&txn, ops_max).map(|()| txn))
            .map_err(|error| status(&error))?;
        let (header, reply) = if mvcc::is_read_only(&txn) {
            let view = fresh_view(&self.node, may_be_stale(&txn)).await?;
            view.permits_txn(caller.as_ref(), &txn).map_err(|error| self.failed(error))?;
            let reply = view.read_txn(&txn).map_err(|error| self.failed(error))?;
            (header(&self.node, view.revision()), reply)
        } else {
            match self.propose(caller, Command::Txn(txn)).await? {
                (header, Reply::Txn(reply)) => (header, reply),
                (_, other) => unexpected(&other),
            }
        };
        Ok(Response::new(convert::txn_reply_to_proto(header, reply)))
    }

    async fn compact(
        &self,
        request: Request<pb::CompactionRequest>,
    ) -> Result<Response<pb::CompactionResponse>, Status> {
        let caller = caller_of(&request);
        let compact = convert::compact_from_proto(request.into_inner());
        let (header, _) = self.propose(caller, Command::Compact(compact)).await?;
        Ok(Response::new(pb::CompactionResponse { header: Some(header) }))
    }
}
