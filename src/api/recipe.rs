//! What the Lock and Election services are made of: keys under a prefix, each attached to its
//! owner's lease, of which the oldest owns.
//!
//! These services are clients that live in the server: they use the node as any client's request
//! would, with the caller's permissions. The keys are the ones that etcd's client library makes
//! (`<name>/<lease in hex>`), so that locks taken through the service and through the library
//! meet. etcd runs them behind a client of its own, which loses the codes of errors: they arrive
//! as Unknown, with the text.

use super::errors::status;
use super::header::{header, local_view};
use super::proto::etcdserverpb::ResponseHeader;
use crate::auth::Need;
use crate::mvcc::watch::{CreateRequest, Filters, WatchOut};
use crate::mvcc::{self, ReadError};
use crate::node::{NodeHandle, WatchStream};
use crate::types::auth::Caller;
use crate::types::command::{
    Compare, CompareResult, CompareTarget, PutRequest, RangeRequest, RequestOp, SortOrder,
    SortTarget, TxnRequest,
};
use crate::types::reply::{Event, EventKind, KeyValue, RangeReply, Reply, TxnReply};
use crate::types::{ApiError, Command, GroupId, KeyRange, LeaseId};
use bytes::Bytes;
use tonic::Status;

/// The lease of a session whose client brought none.
const SESSION_TTL_SECONDS: i64 = 60;
/// Operations of the longest txn here: the operator's bound is for clients.
const OPS_MAX: usize = 2;

/// A refusal as it comes out of the client that etcd has inside.
pub fn unknown(error: &ApiError) -> Status {
    Status::unknown(status(error).message())
}

/// One caller's use of the keyspace.
#[derive(Clone)]
pub struct Recipe {
    pub node: NodeHandle,
    pub caller: Option<Caller>,
}

impl Recipe {
    pub fn header(&self, revision: i64) -> Option<ResponseHeader> {
        Some(header(&self.node, revision))
    }

    async fn propose(&self, command: Command) -> Result<(Reply, i64), Status> {
        let done = self.node.propose_as(GroupId::ROOT, self.caller.clone(), command).await;
        let done = done.map_err(|error| unknown(&error))?;
        Ok((done.reply, done.revision))
    }

    /// The lease given, or a new one. Nobody keeps it alive but the client.
    pub async fn session(&self, lease: i64) -> Result<LeaseId, Status> {
        if lease != 0 {
            return Ok(LeaseId(lease));
        }
        let ttl_seconds = SESSION_TTL_SECONDS;
        let command = Command::LeaseGrant { id: LeaseId::default(), ttl_seconds };
        match self.propose(command).await? {
            (Reply::LeaseGrant { id, .. }, _) => Ok(id),
            (other, _) => unreachable!("a grant was answered with another's reply: {other:?}"),
        }
    }

    pub async fn txn(&self, txn: TxnRequest) -> Result<(TxnReply, i64), Status> {
        // A client's leader key may be anything, nothing included.
        mvcc::check_txn(&txn, self.node.limits().txn_ops_max.max(OPS_MAX))
            .map_err(|error| unknown(&error))?;
        match self.propose(Command::Txn(txn)).await? {
            (Reply::Txn(reply), revision) => Ok((reply, revision)),
            (other, _) => unreachable!("a txn was answered with another's reply: {other:?}"),
        }
    }

    pub async fn delete(&self, key: Bytes) -> Result<i64, Status> {
        let (_, revision) = self.propose(delete(key)).await?;
        Ok(revision)
    }

    /// For when the client has gone: nobody waits for it.
    pub fn delete_and_forget(&self, key: Bytes) {
        self.node.propose_and_forget(GroupId::ROOT, self.caller.clone(), delete(key));
    }

    /// A linearizable read.
    pub async fn range(&self, request: RangeRequest) -> Result<(RangeReply, i64), Status> {
        self.node.read_barrier(GroupId::ROOT).await.map_err(|error| unknown(&error))?;
        let view = local_view(&self.node)?;
        let permitted = view.auth().check_read(self.caller.as_ref(), &request);
        permitted.map_err(|error| unknown(&error))?;
        let reply = view.range(&request).map_err(|error| self.failed(error))?;
        Ok((reply, view.revision()))
    }

    fn failed(&self, error: ReadError) -> Status {
        unknown(&self.node.read_failed(error))
    }

    /// The owner: the oldest key below the prefix, and the revision of the look.
    pub async fn owner(&self, prefix: &KeyRange) -> Result<(Option<KeyValue>, i64), Status> {
        let (reply, revision) = self.range(first_created(prefix)).await?;
        Ok((reply.kvs.into_iter().next(), revision))
    }

    /// Waits until no key below the prefix is left that was created at `revision` or before.
    pub async fn wait_for_older(&self, prefix: &KeyRange, revision: i64) -> Result<(), Status> {
        loop {
            let request = RangeRequest {
                range: prefix.clone(),
                limit: 1,
                sort_order: SortOrder::Descend,
                sort_target: SortTarget::Create,
                max_create_revision: revision,
                ..RangeRequest::default()
            };
            let (reply, looked_at) = self.range(request).await?;
            let Some(last) = reply.kvs.into_iter().next() else { return Ok(()) };
            let mut watched = self.watch(KeyRange::single(last.key), looked_at)?;
            loop {
                let Some(events) = watched.next().await? else { break };
                if events.iter().any(|event| event.kind == EventKind::Delete) {
                    break;
                }
            }
        }
    }

    /// The events of a range from `start` on.
    pub fn watch(&self, range: KeyRange, start: i64) -> Result<Watched, Status> {
        let auth = self.node.auth(GroupId::ROOT).map_err(|error| unknown(&error))?;
        let permitted = auth.check_range(self.caller.as_ref(), Need::Read, &range);
        permitted.map_err(|error| unknown(&error))?;
        let stream = self.node.open_watch(GroupId::ROOT).map_err(|error| unknown(&error))?;
        stream.create(CreateRequest {
            range,
            start_revision: start,
            filters: Filters { no_put: false, no_delete: false },
            prev_kv: false,
            progress_notify: false,
            fragment: false,
            watch_id: 0,
        });
        Ok(Watched { stream })
    }
}

/// One watched range.
pub struct Watched {
    stream: WatchStream,
}

impl Watched {
    /// The next events; `None` when what comes next was compacted meanwhile: look again.
    pub async fn next(&mut self) -> Result<Option<Vec<Event>>, Status> {
        loop {
            let Some(said) = self.stream.next().await else {
                return Err(unknown(&ApiError::Stopped));
            };
            let mut events = Vec::new();
            for out in said {
                match out {
                    WatchOut::Events { batches, .. } => {
                        events.extend(batches.iter().flat_map(|batch| batch.iter().cloned()));
                    }
                    WatchOut::Canceled { .. } | WatchOut::Refused { .. } => return Ok(None),
                    WatchOut::Created { .. } | WatchOut::Progress { .. } => {}
                }
            }
            if !events.is_empty() {
                return Ok(Some(events));
            }
        }
    }
}

fn delete(key: Bytes) -> Command {
    let range = KeyRange::single(key);
    Command::DeleteRange(crate::types::command::DeleteRangeRequest { range, prev_kv: false })
}

/// What the keys of `name` have in common.
pub fn below(name: &[u8]) -> KeyRange {
    let mut key = name.to_vec();
    key.push(b'/');
    let mut end = name.to_vec();
    end.push(b'/' + 1);
    KeyRange::new(key, end)
}

/// The key of a lease, as Go prints the number in base 16.
pub fn key_of(prefix: &KeyRange, lease: LeaseId) -> Bytes {
    let sign = if lease.0 < 0 { "-" } else { "" };
    let mut key = prefix.key.to_vec();
    key.extend_from_slice(format!("{sign}{:x}", lease.0.unsigned_abs()).as_bytes());
    Bytes::from(key)
}

pub fn first_created(prefix: &KeyRange) -> RangeRequest {
    RangeRequest {
        range: prefix.clone(),
        limit: 1,
        sort_order: SortOrder::Ascend,
        sort_target: SortTarget::Create,
        ..RangeRequest::default()
    }
}

/// Whether a key was created at `revision` (0: does not exist).
pub fn created_at(key: Bytes, revision: i64) -> Compare {
    Compare {
        range: KeyRange::single(key),
        result: CompareResult::Equal,
        target: CompareTarget::Create(revision),
    }
}

pub fn get(key: Bytes) -> RequestOp {
    RequestOp::Range(RangeRequest { range: KeyRange::single(key), ..RangeRequest::default() })
}

pub fn put(key: Bytes, value: Bytes, lease: LeaseId) -> RequestOp {
    RequestOp::Put(PutRequest { key, value, lease, ..PutRequest::default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_those_of_the_client_library() {
        let prefix = below(b"my");
        assert_eq!(prefix, KeyRange::new(&b"my/"[..], &b"my0"[..]));
        assert_eq!(key_of(&prefix, LeaseId(0x694d_7e1c)), "my/694d7e1c");
        assert_eq!(key_of(&prefix, LeaseId(-255)), "my/-ff");
    }
}
