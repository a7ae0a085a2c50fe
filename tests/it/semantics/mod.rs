//! etcd's semantics over the wire, point by point: what its documentation leaves to be found out.
//!
//! Each file is a part of the surface, each test one of its points. They run against etcd as well
//! (`QUORATE_TEST_SERVER`): what it does is what is expected here, but where a test says that 3.6
//! changed it. What needs several members is in `membership` and `errors`; what one member does
//! to others' eyes, in the simulator.

mod alarms;
mod compaction;
mod headers;
mod leaderless;
mod leases;
mod ranges;
mod revisions;
mod txns;
mod watches;

use crate::harness::Cluster;
use quorate::api::proto::etcdserverpb as pb;
use quorate::api::proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use quorate::api::proto::etcdserverpb::request_op::Request as Op;
use quorate::api::proto::etcdserverpb::response_op::Response as Answer;
use quorate::api::proto::mvccpb;
use std::future::Future;
use std::time::Duration;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

/// One member of its own, and a connection to it.
pub struct Server {
    _cluster: Cluster,
    pub channel: Channel,
}

/// Runs a test of one member that starts empty.
pub fn with_server<F: Future<Output = ()>>(
    name: &str,
    flags: &[&str],
    test: impl FnOnce(Server) -> F,
) {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let cluster = Cluster::start(name, 1, flags);
    let address = format!("http://{}", cluster.members[0].client());
    runtime.block_on(async {
        let channel = Endpoint::from_shared(address).expect("our own address").connect_lazy();
        let server = Server { _cluster: cluster, channel };
        let limit = Duration::from_secs(60);
        tokio::time::timeout(limit, test(server)).await.expect("the test hangs");
    });
}

impl Server {
    fn kv(&self) -> pb::kv_client::KvClient<Channel> {
        pb::kv_client::KvClient::new(self.channel.clone()).max_decoding_message_size(64 << 20)
    }
    pub fn leases(&self) -> pb::lease_client::LeaseClient<Channel> {
        pb::lease_client::LeaseClient::new(self.channel.clone())
    }
    pub fn maintenance(&self) -> pb::maintenance_client::MaintenanceClient<Channel> {
        pb::maintenance_client::MaintenanceClient::new(self.channel.clone())
    }
    pub async fn range(&self, request: pb::RangeRequest) -> Result<pb::RangeResponse, Status> {
        Ok(self.kv().range(request).await?.into_inner())
    }
    pub async fn put(&self, request: pb::PutRequest) -> Result<pb::PutResponse, Status> {
        Ok(self.kv().put(request).await?.into_inner())
    }
    pub async fn delete(
        &self,
        request: pb::DeleteRangeRequest,
    ) -> Result<pb::DeleteRangeResponse, Status> {
        Ok(self.kv().delete_range(request).await?.into_inner())
    }
    pub async fn txn(&self, request: pb::TxnRequest) -> Result<pb::TxnResponse, Status> {
        Ok(self.kv().txn(request).await?.into_inner())
    }
    pub async fn compact(&self, revision: i64, physical: bool) -> Result<i64, Status> {
        let request = pb::CompactionRequest { revision, physical };
        Ok(revision_of(&self.kv().compact(request).await?.into_inner().header))
    }
    /// Puts it and gives the revision.
    pub async fn set(&self, key: &str, value: &str) -> i64 {
        revision_of(&self.put(put(key, value)).await.expect("a put").header)
    }
    /// The newest pair of a key.
    pub async fn get(&self, key: &str) -> Option<mvccpb::KeyValue> {
        self.range(range(key, "")).await.expect("a range").kvs.pop()
    }
    pub async fn revision(&self) -> i64 {
        revision_of(&self.range(range("no such key", "")).await.expect("a range").header)
    }
    pub async fn grant(&self, id: i64, ttl: i64) -> Result<pb::LeaseGrantResponse, Status> {
        let request = pb::LeaseGrantRequest { id, ttl };
        Ok(self.leases().lease_grant(request).await?.into_inner())
    }
    pub async fn revoke(&self, id: i64) -> Result<i64, Status> {
        let request = pb::LeaseRevokeRequest { id };
        Ok(revision_of(&self.leases().lease_revoke(request).await?.into_inner().header))
    }
    pub async fn time_to_live(&self, id: i64) -> pb::LeaseTimeToLiveResponse {
        let request = pb::LeaseTimeToLiveRequest { id, keys: true };
        self.leases().lease_time_to_live(request).await.expect("an answer").into_inner()
    }
}

pub fn revision_of(header: &Option<pb::ResponseHeader>) -> i64 {
    header.as_ref().expect("a header").revision
}

pub fn put(key: &str, value: &str) -> pb::PutRequest {
    pb::PutRequest {
        key: key.to_string().into(),
        value: value.to_string().into(),
        ..Default::default()
    }
}
pub fn range(key: &str, end: &str) -> pb::RangeRequest {
    pb::RangeRequest {
        key: key.to_string().into(),
        range_end: end.to_string().into(),
        ..Default::default()
    }
}
pub fn delete(key: &str, end: &str) -> pb::DeleteRangeRequest {
    pb::DeleteRangeRequest {
        key: key.to_string().into(),
        range_end: end.to_string().into(),
        ..Default::default()
    }
}
/// A txn without a compare, so that its first list runs.
pub fn txn(ops: impl IntoIterator<Item = Op>) -> pb::TxnRequest {
    pb::TxnRequest { success: list(ops), ..Default::default() }
}
/// A list of operations.
pub fn list(ops: impl IntoIterator<Item = Op>) -> Vec<pb::RequestOp> {
    ops.into_iter().map(|op| pb::RequestOp { request: Some(op) }).collect()
}
pub fn compare(key: &str, result: CompareResult, operand: TargetUnion) -> pb::Compare {
    let target = match operand {
        TargetUnion::Version(_) => CompareTarget::Version,
        TargetUnion::CreateRevision(_) => CompareTarget::Create,
        TargetUnion::ModRevision(_) => CompareTarget::Mod,
        TargetUnion::Value(_) => CompareTarget::Value,
        TargetUnion::Lease(_) => CompareTarget::Lease,
    };
    pb::Compare {
        result: result as i32,
        target: target as i32,
        key: key.to_string().into(),
        target_union: Some(operand),
        ..Default::default()
    }
}
/// The answer of a range inside of a txn.
pub fn ranged(answer: &pb::TxnResponse, at: usize) -> &pb::RangeResponse {
    match &answer.responses[at].response {
        Some(Answer::ResponseRange(range)) => range,
        other => panic!("{other:?} is no answer of a range"),
    }
}
/// The answer of a nested txn.
pub fn nested(answer: &pb::TxnResponse, at: usize) -> &pb::TxnResponse {
    match &answer.responses[at].response {
        Some(Answer::ResponseTxn(txn)) => txn,
        other => panic!("{other:?} is no answer of a txn"),
    }
}
pub fn keys(kvs: &[mvccpb::KeyValue]) -> Vec<String> {
    kvs.iter().map(|kv| String::from_utf8_lossy(&kv.key).into_owned()).collect()
}
pub fn text(result: Result<impl std::fmt::Debug, Status>) -> String {
    result.expect_err("refused").message().to_string()
}

pub const COMPACTED: &str = "etcdserver: mvcc: required revision has been compacted";
pub const FUTURE: &str = "etcdserver: mvcc: required revision is a future revision";
pub const NO_LEASE: &str = "etcdserver: requested lease not found";
pub const DUPLICATE_KEY: &str = "etcdserver: duplicate key given in txn request";
