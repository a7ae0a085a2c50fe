//! A small gRPC client for the tests that need more than `etcdctl`: one channel per member,
//! answers with etcd's own codes.

use quorate::api::proto::etcdserverpb as pb;
use quorate::api::proto::etcdserverpb::cluster_client::ClusterClient;
use quorate::api::proto::etcdserverpb::kv_client::KvClient;
use quorate::api::proto::etcdserverpb::maintenance_client::MaintenanceClient;
use std::time::Duration;
use tonic::transport::{Channel, Endpoint};

#[derive(Clone)]
pub struct Client {
    channel: Channel,
}

impl Client {
    /// Connects when first used, and again after the server was away.
    pub fn new(address: &str) -> Client {
        let endpoint = Endpoint::from_shared(format!("http://{address}"))
            .expect("an address of the test's own")
            .connect_timeout(Duration::from_secs(2))
            .tcp_nodelay(true);
        Client { channel: endpoint.connect_lazy() }
    }
    fn kv(&self) -> KvClient<Channel> {
        KvClient::new(self.channel.clone()).max_decoding_message_size(64 << 20)
    }
    pub async fn put(&self, key: &str, value: &str) -> Result<pb::PutResponse, tonic::Status> {
        let request = pb::PutRequest {
            key: key.to_string().into(),
            value: value.to_string().into(),
            ..Default::default()
        };
        let mut request = tonic::Request::new(request);
        request.set_timeout(Duration::from_secs(10));
        Ok(self.kv().put(request).await?.into_inner())
    }
    pub async fn range(
        &self,
        request: pb::RangeRequest,
    ) -> Result<pb::RangeResponse, tonic::Status> {
        let mut request = tonic::Request::new(request);
        request.set_timeout(Duration::from_secs(10));
        Ok(self.kv().range(request).await?.into_inner())
    }
    pub async fn txn(&self, request: pb::TxnRequest) -> Result<pb::TxnResponse, tonic::Status> {
        Ok(self.kv().txn(request).await?.into_inner())
    }
    /// Every key below `prefix` at `revision` (0: newest, linearizable).
    pub async fn all(
        &self,
        prefix: &str,
        revision: i64,
    ) -> Result<pb::RangeResponse, tonic::Status> {
        let mut end = prefix.as_bytes().to_vec();
        *end.last_mut().expect("a prefix") += 1;
        self.range(pb::RangeRequest {
            key: prefix.to_string().into(),
            range_end: end.into(),
            revision,
            ..Default::default()
        })
        .await
    }
    pub async fn hash_kv(&self, revision: i64) -> Result<pb::HashKvResponse, tonic::Status> {
        let mut maintenance = MaintenanceClient::new(self.channel.clone());
        Ok(maintenance.hash_kv(pb::HashKvRequest { revision }).await?.into_inner())
    }
    pub async fn status(&self) -> Result<pb::StatusResponse, tonic::Status> {
        let mut maintenance = MaintenanceClient::new(self.channel.clone());
        let mut request = tonic::Request::new(pb::StatusRequest {});
        request.set_timeout(Duration::from_secs(3));
        Ok(maintenance.status(request).await?.into_inner())
    }
    fn cluster(&self) -> ClusterClient<Channel> {
        ClusterClient::new(self.channel.clone())
    }
    pub async fn members(
        &self,
        linearizable: bool,
    ) -> Result<pb::MemberListResponse, tonic::Status> {
        let request = pb::MemberListRequest { linearizable };
        Ok(self.cluster().member_list(request).await?.into_inner())
    }
    pub async fn add(&self, urls: &[&str], is_learner: bool) -> Result<(), tonic::Status> {
        let peer_ur_ls = urls.iter().map(ToString::to_string).collect();
        let request = pb::MemberAddRequest { peer_ur_ls, is_learner };
        self.cluster().member_add(request).await.map(drop)
    }
    pub async fn remove(&self, id: u64) -> Result<(), tonic::Status> {
        self.cluster().member_remove(pb::MemberRemoveRequest { id }).await.map(drop)
    }
    pub async fn promote(&self, id: u64) -> Result<(), tonic::Status> {
        self.cluster().member_promote(pb::MemberPromoteRequest { id }).await.map(drop)
    }
    pub async fn update(&self, id: u64, urls: &[&str]) -> Result<(), tonic::Status> {
        let peer_ur_ls = urls.iter().map(ToString::to_string).collect();
        let request = pb::MemberUpdateRequest { id, peer_ur_ls };
        self.cluster().member_update(request).await.map(drop)
    }
    pub async fn move_leader(
        &self,
        target_id: u64,
    ) -> Result<pb::MoveLeaderResponse, tonic::Status> {
        let mut maintenance = MaintenanceClient::new(self.channel.clone());
        Ok(maintenance.move_leader(pb::MoveLeaderRequest { target_id }).await?.into_inner())
    }
    /// The version that the answer names.
    pub async fn downgrade(
        &self,
        action: pb::downgrade_request::DowngradeAction,
        version: &str,
    ) -> Result<String, tonic::Status> {
        let mut maintenance = MaintenanceClient::new(self.channel.clone());
        let version = version.to_string();
        let request = pb::DowngradeRequest { action: action as i32, version };
        Ok(maintenance.downgrade(request).await?.into_inner().version)
    }
}
