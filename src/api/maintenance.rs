//! The Maintenance service: one member's state and its upkeep.

use super::caller::caller_of;
use super::convert;
use super::downgrade;
use super::errors::{not_yet, status};
use super::header::{header, local_view};
use super::proto::etcdserverpb as pb;
use super::proto::etcdserverpb::maintenance_server::Maintenance;
use crate::mvcc::HashKv;
use crate::node::NodeHandle;
use crate::types::command::{AlarmKind, Command};
use crate::types::reply::Reply;
use crate::types::version::{ETCD_VERSION, STORAGE_VERSION};
use crate::types::{GroupId, NodeId};
use tonic::codegen::{BoxStream, async_trait};
use tonic::{Request, Response, Status};

pub struct MaintenanceService {
    node: NodeHandle,
}

impl MaintenanceService {
    pub fn new(node: NodeHandle) -> MaintenanceService {
        MaintenanceService { node }
    }

    /// The newest revision here, and the hash over the history up to `revision`.
    fn hash_at(&self, revision: i64) -> Result<(i64, HashKv), Status> {
        let view = local_view(&self.node)?;
        let hash = view.hash_kv(revision);
        let hash = hash.map_err(|error| status(&self.node.read_failed(error)))?;
        Ok((view.revision(), hash))
    }
}

/// etcd's text form of an alarm, trailing space included: tools look for it in Status.
fn alarm_text((member, kind): &(NodeId, AlarmKind)) -> String {
    let kind = match kind {
        AlarmKind::NoSpace => "NOSPACE",
        AlarmKind::Corrupt => "CORRUPT",
    };
    format!("memberID:{} alarm:{kind} ", member.0)
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

#[async_trait]
impl Maintenance for MaintenanceService {
    async fn alarm(
        &self,
        request: Request<pb::AlarmRequest>,
    ) -> Result<Response<pb::AlarmResponse>, Status> {
        let caller = caller_of(&request);
        let asked = request.into_inner();
        let auth = self.node.auth(GroupId::ROOT).map_err(|error| status(&error))?;
        // Who may not ask hears that first, whatever the question.
        let is_get = asked.action == pb::alarm_request::AlarmAction::Get as i32;
        let caller = caller.as_ref();
        let permitted = if is_get { auth.check_known(caller) } else { auth.check_admin(caller) };
        permitted.map_err(|error| status(&error))?;
        let Some(alarm) = convert::alarm_from_proto(&asked) else {
            return Err(Status::invalid_argument("quorate: unknown alarm or alarm action"));
        };
        let done = self
            .node
            .propose(GroupId::ROOT, Command::Alarm(alarm))
            .await
            .map_err(|error| status(&error))?;
        let Reply::Alarm(alarms) = done.reply else {
            unreachable!("an alarm was answered with another command's reply: {:?}", done.reply)
        };
        Ok(Response::new(pb::AlarmResponse {
            header: Some(header(&self.node, done.revision)),
            alarms: alarms.into_iter().map(convert::alarm_to_proto).collect(),
        }))
    }

    async fn status(
        &self,
        _: Request<pb::StatusRequest>,
    ) -> Result<Response<pb::StatusResponse>, Status> {
        let now = self.node.status(GroupId::ROOT);
        let mut errors = Vec::new();
        if now.leader.is_none() {
            errors.push("etcdserver: no leader".to_string());
        }
        let view = local_view(&self.node)?;
        errors.extend(view.alarms(None).iter().map(alarm_text));
        Ok(Response::new(pb::StatusResponse {
            header: Some(header(&self.node, view.revision())),
            version: ETCD_VERSION.to_string(),
            db_size: signed(now.db_bytes),
            leader: now.leader.0,
            raft_index: now.commit_index,
            raft_term: now.raft_term,
            raft_applied_index: now.applied_index,
            errors,
            db_size_in_use: signed(now.db_bytes_in_use),
            is_learner: now.is_learner,
            storage_version: STORAGE_VERSION.to_string(),
            db_size_quota: signed(now.quota_bytes),
            downgrade_info: Some(downgrade::info(&self.node)),
        }))
    }

    async fn defragment(
        &self,
        _: Request<pb::DefragmentRequest>,
    ) -> Result<Response<pb::DefragmentResponse>, Status> {
        // The store gives space back by itself; there is nothing to stop the world for.
        Ok(Response::new(pb::DefragmentResponse { header: None }))
    }

    async fn hash(
        &self,
        _: Request<pb::HashRequest>,
    ) -> Result<Response<pb::HashResponse>, Status> {
        // etcd hashes its file, which members may lay out differently. Ours covers the keys.
        let (revision, hash) = self.hash_at(0)?;
        Ok(Response::new(pb::HashResponse {
            header: Some(header(&self.node, revision)),
            hash: hash.hash,
        }))
    }

    async fn hash_kv(
        &self,
        request: Request<pb::HashKvRequest>,
    ) -> Result<Response<pb::HashKvResponse>, Status> {
        let (revision, hash) = self.hash_at(request.into_inner().revision)?;
        Ok(Response::new(pb::HashKvResponse {
            header: Some(header(&self.node, revision)),
            hash: hash.hash,
            compact_revision: hash.compact_revision,
            hash_revision: hash.hash_revision,
        }))
    }

    type SnapshotStream = BoxStream<pb::SnapshotResponse>;

    async fn snapshot(
        &self,
        _: Request<pb::SnapshotRequest>,
    ) -> Result<Response<Self::SnapshotStream>, Status> {
        Err(not_yet("the Snapshot RPC"))
    }

    async fn move_leader(
        &self,
        request: Request<pb::MoveLeaderRequest>,
    ) -> Result<Response<pb::MoveLeaderResponse>, Status> {
        let to = NodeId(request.into_inner().target_id);
        self.node.move_leader(GroupId::ROOT, to).await.map_err(|error| status(&error))?;
        Ok(Response::new(pb::MoveLeaderResponse { header: None }))
    }

    async fn downgrade(
        &self,
        request: Request<pb::DowngradeRequest>,
    ) -> Result<Response<pb::DowngradeResponse>, Status> {
        downgrade::answer(&self.node, &request.into_inner()).await.map(Response::new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alarms_read_as_etcd_writes_them() {
        let text = alarm_text(&(NodeId(9_234_572_661_426_968_042), AlarmKind::NoSpace));
        assert_eq!(text, "memberID:9234572661426968042 alarm:NOSPACE ");
    }
}
