//! The keyspace against etcd's numbered semantics and against a naive model.

mod compaction;
mod leases;
mod model;
mod props;
mod ranges;
mod txns;
mod writes;

use super::*;
use crate::btree::{Store, StoreIdentity, StoreOptions};
use crate::io::{Disk, MemDisk};
use crate::types::command::{
    Command, CompactRequest, DeleteRangeRequest, LeaseLeader, PutRequest, RangeRequest, RequestOp,
    TxnRequest,
};
use crate::types::reply::{
    DeleteRangeReply, Event, KeyValue, PutReply, RangeReply, Reply, TxnReply,
};
use crate::types::{
    ApiError, ClusterId, GroupId, Incarnation, KeyRange, LeaseId, LogIndex, NodeId, Term,
};
use bytes::Bytes;
use std::path::Path;
use std::sync::Arc;

/// A keyspace with its store on a simulated disk, and the log index of the last command.
pub(super) struct Kit {
    disk: Arc<dyn Disk>,
    pub store: Store,
    pub keyspace: Keyspace,
    pub index: u64,
}

const PATH: &str = "/db";
/// Small enough that random histories read pages back.
const OPTIONS: StoreOptions = StoreOptions { cache_bytes: 64 << 10 };

impl Kit {
    pub fn new() -> Kit {
        let disk: Arc<dyn Disk> = Arc::new(MemDisk::new(1));
        let identity =
            StoreIdentity { cluster: ClusterId(1), node: NodeId(1), incarnation: Incarnation(1) };
        let store = Store::create(Arc::clone(&disk), Path::new(PATH), identity, OPTIONS).unwrap();
        let keyspace = Keyspace::open(GroupId::ROOT, &store).unwrap();
        Kit { disk, store, keyspace, index: 0 }
    }
    pub fn apply(&mut self, command: &Command) -> Applied {
        self.apply_in_term(command, 1)
    }
    pub fn apply_in_term(&mut self, command: &Command, term: u64) -> Applied {
        self.index += 1;
        let at = ApplyContext { index: LogIndex(self.index), term: Term(term) };
        self.keyspace.apply(command, &at).unwrap()
    }
    pub fn ok(&mut self, command: Command) -> Reply {
        self.apply(&command).reply.unwrap()
    }
    pub fn refused(&mut self, command: Command) -> ApiError {
        let before = (self.keyspace.revision(), self.keyspace.view().live_keys());
        let applied = self.apply(&command);
        assert_eq!(before, (self.keyspace.revision(), self.keyspace.view().live_keys()));
        assert!(applied.events.is_empty());
        applied.reply.unwrap_err()
    }
    pub fn put(&mut self, key: &str, value: &str) -> Applied {
        self.apply(&put(key, value))
    }
    pub fn delete(&mut self, key: &str) -> DeleteRangeReply {
        self.delete_range(key, "")
    }
    pub fn delete_range(&mut self, key: &str, end: &str) -> DeleteRangeReply {
        let range = range(key, end);
        match self.ok(Command::DeleteRange(DeleteRangeRequest { range, prev_kv: true })) {
            Reply::DeleteRange(reply) => reply,
            other => panic!("{other:?}"),
        }
    }
    pub fn txn(&mut self, txn: TxnRequest) -> TxnReply {
        match self.ok(Command::Txn(txn)) {
            Reply::Txn(reply) => reply,
            other => panic!("{other:?}"),
        }
    }
    pub fn compact(&mut self, revision: i64) -> Result<Reply, ApiError> {
        self.apply(&Command::Compact(CompactRequest { revision, physical: false })).reply
    }
    pub fn compact_fully(&mut self) {
        while self.keyspace.compact_step(3).unwrap() {}
    }
    pub fn grant(&mut self, id: i64) -> Result<Reply, ApiError> {
        self.apply(&Command::LeaseGrant { id: LeaseId(id), ttl_seconds: 60 }).reply
    }
    pub fn get(&self, key: &str) -> Option<KeyValue> {
        self.get_at(key, 0)
    }
    pub fn get_at(&self, key: &str, revision: i64) -> Option<KeyValue> {
        let mut reply = self.range(RangeRequest { range: range(key, ""), revision, ..all() });
        assert_eq!(reply.kvs.len() as i64, reply.count);
        reply.kvs.pop()
    }
    pub fn range(&self, request: RangeRequest) -> RangeReply {
        self.keyspace.view().range(&request).unwrap()
    }
    pub fn range_error(&self, request: RangeRequest) -> ApiError {
        match self.keyspace.view().range(&request).unwrap_err() {
            ReadError::Api(error) => error,
            ReadError::Storage(error) => panic!("{error}"),
        }
    }
    pub fn keys_at(&self, revision: i64) -> Vec<String> {
        keys(&self.range(RangeRequest { revision, ..all() }))
    }
    pub fn checkpoint(&mut self) {
        let trees = self.keyspace.trees().unwrap();
        let trees = trees.into_iter().map(|(kind, view)| (GroupId::ROOT, kind, view)).collect();
        let metas = [(GroupId::ROOT, Bytes::new())].into();
        let done = self.store.begin_checkpoint(trees, metas).run().unwrap();
        self.keyspace.adopt(&done);
    }
    /// Writes a checkpoint and goes on from it alone.
    pub fn reopen(&mut self) {
        self.checkpoint();
        self.store = Store::open(Arc::clone(&self.disk), Path::new(PATH), OPTIONS).unwrap();
        self.keyspace = Keyspace::open(GroupId::ROOT, &self.store).unwrap();
        assert_eq!(self.keyspace.applied().0, LogIndex(self.index));
    }
}

pub(super) fn put_request(key: &str, value: &str) -> PutRequest {
    PutRequest {
        key: Bytes::copy_from_slice(key.as_bytes()),
        value: Bytes::copy_from_slice(value.as_bytes()),
        ..PutRequest::default()
    }
}
pub(super) fn put(key: &str, value: &str) -> Command {
    Command::Put(put_request(key, value))
}
pub(super) fn put_leased(key: &str, value: &str, lease: i64) -> Command {
    Command::Put(PutRequest { lease: LeaseId(lease), ..put_request(key, value) })
}
pub(super) fn range(key: &str, end: &str) -> KeyRange {
    KeyRange::new(key.as_bytes().to_vec(), end.as_bytes().to_vec())
}
/// A range over everything.
pub(super) fn all() -> RangeRequest {
    RangeRequest { range: range("\0", "\0"), ..RangeRequest::default() }
}
pub(super) fn keys(reply: &RangeReply) -> Vec<String> {
    reply.kvs.iter().map(|kv| String::from_utf8(kv.key.to_vec()).unwrap()).collect()
}
pub(super) fn values(kvs: &[KeyValue]) -> Vec<String> {
    kvs.iter().map(|kv| String::from_utf8(kv.value.to_vec()).unwrap()).collect()
}
pub(super) fn kv(key: &str, value: &str, create: i64, modified: i64, version: i64) -> KeyValue {
    KeyValue {
        key: Bytes::copy_from_slice(key.as_bytes()),
        value: Bytes::copy_from_slice(value.as_bytes()),
        create_revision: create,
        mod_revision: modified,
        version,
        lease: LeaseId::NONE,
    }
}
pub(super) fn op_put(key: &str, value: &str) -> RequestOp {
    RequestOp::Put(put_request(key, value))
}
pub(super) fn op_delete(key: &str, end: &str) -> RequestOp {
    RequestOp::DeleteRange(DeleteRangeRequest { range: range(key, end), prev_kv: true })
}
pub(super) fn op_range(key: &str, end: &str, revision: i64) -> RequestOp {
    RequestOp::Range(RangeRequest { range: range(key, end), revision, ..RangeRequest::default() })
}
pub(super) fn then(success: Vec<RequestOp>) -> TxnRequest {
    TxnRequest { compare: vec![], success, failure: vec![] }
}
