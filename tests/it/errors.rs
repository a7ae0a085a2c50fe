//! The whole table of errors, provoked: every row is met on the wire by a client, with its code
//! and its text, or is named here with the test or the reason that stands for it.

use crate::harness::{Cluster, Member};
use quorate::api::errors::{ALL, row};
use quorate::api::proto::authpb;
use quorate::api::proto::etcdserverpb as pb;
use quorate::api::proto::etcdserverpb::auth_client::AuthClient;
use quorate::api::proto::etcdserverpb::cluster_client::ClusterClient;
use quorate::api::proto::etcdserverpb::kv_client::KvClient;
use quorate::api::proto::etcdserverpb::lease_client::LeaseClient;
use quorate::api::proto::etcdserverpb::maintenance_client::MaintenanceClient;
use quorate::types::ApiError;
use std::time::Duration;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

/// Rows that no client can be sure to meet, and what stands for them.
const ELSEWHERE: &[(ApiError, &str)] = &[
    (ApiError::TooManyRequests, "node/tests/stories.rs: the queue is full at once"),
    (ApiError::LeaderChanged, "node/reads.rs: a read whose leader changed meanwhile"),
    (ApiError::Stopped, "node/tests/stories.rs: a request under way when the member stops"),
    (ApiError::Timeout, "one of the three timeouts is met, which one depends on the moment"),
    (ApiError::TimeoutLeaderFail, "one of the three timeouts is met"),
    (ApiError::TimeoutConnectionLost, "one of the three timeouts is met"),
    (ApiError::TimeoutWaitApplied, "no request waits so here: reads wait for a barrier"),
    (ApiError::TimeoutLeaderTransfer, "the successor would have to die at the right moment"),
    (ApiError::WatchCanceled, "declared by etcd's client, never sent by its server"),
    (ApiError::MemberIdExists, "ids come from URLs and the time; node/tests/stories.rs"),
    (ApiError::AuthOldRevision, "tests/it/auth.rs: a signed token after a change of users"),
];

type Met = Vec<(Code, String)>;

fn note<T>(met: &mut Met, result: Result<T, Status>) {
    if let Err(status) = result {
        met.push((status.code(), status.message().to_string()));
    }
}

fn channel(address: &str) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("our own address");
    endpoint.connect_timeout(Duration::from_secs(2)).connect_lazy()
}

fn put(key: &'static str) -> pb::PutRequest {
    pb::PutRequest { key: key.into(), ..Default::default() }
}

fn txn_of(ops: Vec<pb::PutRequest>) -> pb::TxnRequest {
    let op = |put| pb::RequestOp { request: Some(pb::request_op::Request::RequestPut(put)) };
    pb::TxnRequest { success: ops.into_iter().map(op).collect(), ..Default::default() }
}

#[tokio::test]
async fn every_row_is_met_on_the_wire_or_argued_away() {
    let mut met = Met::new();
    one_member(&mut met).await;
    three_members(&mut met).await;
    for error in ALL {
        let (code, text) = row(error);
        let is_met = met.iter().any(|(c, t)| *c == code && t == text);
        let argued = ELSEWHERE.iter().any(|(elsewhere, _)| elsewhere == error);
        assert!(is_met || argued, "{error:?} ({code:?}, {text:?}) was not met");
    }
    let timeouts =
        [ApiError::Timeout, ApiError::TimeoutLeaderFail, ApiError::TimeoutConnectionLost];
    let timed_out = |(_, text): &(Code, String)| timeouts.iter().any(|error| row(error).1 == text);
    assert!(met.iter().any(timed_out), "no request timed out: {met:?}");
}

async fn one_member(met: &mut Met) {
    let cluster = Cluster::start("errors", 1, &["--bcrypt-cost=4", "--max-learners=1"]);
    let channel = channel(&cluster.endpoints());
    keys(met, &channel).await;
    leases(met, &channel).await;
    alarms(met, &channel).await;
    members(met, &channel).await;
    downgrades(met, &channel).await;
    // Last: from then on everybody must say who they are.
    users(met, &channel).await;
}

async fn keys(met: &mut Met, channel: &Channel) {
    let mut kv = KvClient::new(channel.clone());
    note(met, kv.put(put("")).await);
    note(met, kv.put(pb::PutRequest { ignore_value: true, ..put("missing") }).await);
    let value = pb::PutRequest { ignore_value: true, value: "x".into(), ..put("k") };
    note(met, kv.put(value).await);
    note(met, kv.put(pb::PutRequest { ignore_lease: true, lease: 7, ..put("k") }).await);
    note(met, kv.put(pb::PutRequest { lease: 7, ..put("k") }).await);
    note(met, kv.put(pb::PutRequest { value: vec![0; 1_600_000].into(), ..put("k") }).await);
    note(met, kv.txn(txn_of(vec![put("k"); 129])).await);
    note(met, kv.txn(txn_of(vec![put("k"), put("k")])).await);
    let range = || pb::RangeRequest { key: "k".into(), ..Default::default() };
    note(met, kv.range(pb::RangeRequest { sort_order: 9, ..range() }).await);
    note(met, kv.range(pb::RangeRequest { revision: 1_000, ..range() }).await);
    for _ in 0..3 {
        kv.put(put("k")).await.expect("put");
    }
    kv.compact(pb::CompactionRequest { revision: 3, physical: true }).await.expect("compacted");
    note(met, kv.range(pb::RangeRequest { revision: 2, ..range() }).await);
}

async fn leases(met: &mut Met, channel: &Channel) {
    let mut lease = LeaseClient::new(channel.clone());
    lease.lease_grant(pb::LeaseGrantRequest { ttl: 60, id: 5 }).await.expect("granted");
    note(met, lease.lease_grant(pb::LeaseGrantRequest { ttl: 60, id: 5 }).await);
    note(met, lease.lease_grant(pb::LeaseGrantRequest { ttl: 9_000_000_001, id: 6 }).await);
}

async fn alarms(met: &mut Met, channel: &Channel) {
    let (mut kv, mut maintenance) =
        (KvClient::new(channel.clone()), MaintenanceClient::new(channel.clone()));
    for kind in [pb::AlarmType::Nospace, pb::AlarmType::Corrupt] {
        let alarm = |action: pb::alarm_request::AlarmAction| pb::AlarmRequest {
            action: action as i32,
            member_id: 1,
            alarm: kind as i32,
        };
        use pb::alarm_request::AlarmAction;
        maintenance.alarm(alarm(AlarmAction::Activate)).await.expect("raised");
        note(met, kv.put(put("k")).await);
        maintenance.alarm(alarm(AlarmAction::Deactivate)).await.expect("cleared");
    }
}

async fn members(met: &mut Met, channel: &Channel) {
    let mut cluster = ClusterClient::new(channel.clone());
    let listed = cluster.member_list(pb::MemberListRequest { linearizable: true }).await;
    let own = listed.expect("a list").into_inner().members.remove(0);
    let add = |url: &str, is_learner| pb::MemberAddRequest {
        peer_ur_ls: vec![url.to_string()],
        is_learner,
    };
    note(met, cluster.member_remove(pb::MemberRemoveRequest { id: own.id }).await);
    note(met, cluster.member_remove(pb::MemberRemoveRequest { id: 12_345 }).await);
    note(met, cluster.member_promote(pb::MemberPromoteRequest { id: own.id }).await);
    note(met, cluster.member_add(add(&own.peer_ur_ls[0], true)).await);
    note(met, cluster.member_add(add("nonsense", true)).await);
    let added = cluster.member_add(add("http://127.0.0.1:1", true)).await.expect("added");
    let learner = added.into_inner().member.expect("the new member").id;
    note(met, cluster.member_add(add("http://127.0.0.1:2", true)).await);
    note(met, cluster.member_promote(pb::MemberPromoteRequest { id: learner }).await);
    let mut maintenance = MaintenanceClient::new(channel.clone());
    note(met, maintenance.move_leader(pb::MoveLeaderRequest { target_id: 12_345 }).await);
    cluster.member_remove(pb::MemberRemoveRequest { id: learner }).await.expect("removed");
}

async fn downgrades(met: &mut Met, channel: &Channel) {
    use pb::downgrade_request::DowngradeAction::{Cancel, Enable, Validate};
    let mut maintenance = MaintenanceClient::new(channel.clone());
    let asked = |action: pb::downgrade_request::DowngradeAction, version: &str| {
        pb::DowngradeRequest { action: action as i32, version: version.to_string() }
    };
    note(met, maintenance.downgrade(asked(Validate, "three")).await);
    note(met, maintenance.downgrade(asked(Validate, "3.4")).await);
    maintenance.downgrade(asked(Enable, "3.5")).await.expect("one down");
    note(met, maintenance.downgrade(asked(Validate, "3.5")).await);
    maintenance.downgrade(asked(Cancel, "")).await.expect("cancelled");
}

async fn users(met: &mut Met, channel: &Channel) {
    let mut auth = AuthClient::new(channel.clone());
    let user = |name: &str| pb::AuthUserAddRequest {
        name: name.into(),
        password: "secret".into(),
        ..Default::default()
    };
    let sign_in = |name: &str, password: &str| pb::AuthenticateRequest {
        name: name.into(),
        password: password.into(),
    };
    let role = |user: &str, role: &str| pb::AuthUserGrantRoleRequest {
        user: user.into(),
        role: role.into(),
    };
    note(met, auth.authenticate(sign_in("root", "secret")).await);
    note(met, auth.auth_enable(pb::AuthEnableRequest {}).await);
    auth.user_add(user("root")).await.expect("a new user");
    note(met, auth.auth_enable(pb::AuthEnableRequest {}).await);
    note(met, auth.user_add(user("root")).await);
    note(met, auth.user_add(user("")).await);
    note(met, auth.user_grant_role(role("nobody", "root")).await);
    note(met, auth.user_grant_role(role("root", "nothing")).await);
    note(met, auth.role_add(pb::AuthRoleAddRequest { name: String::new() }).await);
    auth.role_add(pb::AuthRoleAddRequest { name: "r".into() }).await.expect("a new role");
    note(met, auth.role_add(pb::AuthRoleAddRequest { name: "r".into() }).await);
    let revoke = pb::AuthUserRevokeRoleRequest { name: "root".into(), role: "r".into() };
    note(met, auth.user_revoke_role(revoke).await);
    let take = pb::AuthRoleRevokePermissionRequest {
        role: "r".into(),
        key: "k".into(),
        ..Default::default()
    };
    note(met, auth.role_revoke_permission(take).await);
    let grant = |perm| pb::AuthRoleGrantPermissionRequest { name: "r".into(), perm };
    note(met, auth.role_grant_permission(grant(None)).await);
    note(met, auth.role_grant_permission(grant(Some(authpb::Permission::default()))).await);
    auth.user_grant_role(role("root", "root")).await.expect("granted");
    let options = Some(authpb::UserAddOptions { no_password: true });
    let without = pb::AuthUserAddRequest { options, ..user("cn") };
    auth.user_add(without).await.expect("a new user");
    auth.user_add(user("u")).await.expect("a new user");
    auth.auth_enable(pb::AuthEnableRequest {}).await.expect("enabled");
    note(met, auth.authenticate(sign_in("root", "wrong")).await);
    note(met, auth.authenticate(sign_in("cn", "any")).await);
    let token = auth.authenticate(sign_in("u", "secret")).await.expect("right").into_inner().token;
    let mut kv = KvClient::new(channel.clone());
    for token in [&token, "nonsense.1"] {
        let mut request = Request::new(put("k"));
        request.metadata_mut().insert("token", token.parse().expect("ASCII"));
        note(met, kv.put(request).await);
    }
}

async fn three_members(met: &mut Met) {
    let mut cluster = Cluster::start("errors-three", 3, &[]);
    let addresses: Vec<String> = cluster.members.iter().map(Member::client).collect();
    let mut status = Vec::new();
    for address in &addresses {
        let mut maintenance = MaintenanceClient::new(channel(address));
        status.push(maintenance.status(pb::StatusRequest {}).await.expect("status").into_inner());
    }
    let own = |at: usize| status[at].header.as_ref().expect("a header").member_id;
    let leader = (0..3).find(|at| own(*at) == status[*at].leader).expect("one leads");
    let follower = (leader + 1) % 3;
    let mut there = MaintenanceClient::new(channel(&addresses[follower]));
    note(met, there.move_leader(pb::MoveLeaderRequest { target_id: own(follower) }).await);
    learner(met, &cluster, &addresses[leader]).await;

    // One of three away: growing is refused, the rest goes on.
    cluster.members[follower].kill();
    let mut members = ClusterClient::new(channel(&addresses[leader]));
    let add =
        pb::MemberAddRequest { peer_ur_ls: vec!["http://127.0.0.1:3".into()], is_learner: false };
    // Until the leader has noticed it is let through.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let refused = members.member_add(add).await;
    note(met, refused);
    // Two of three away: there is no leader any more.
    cluster.members[(leader + 2) % 3].kill();
    let mut kv = KvClient::new(channel(&addresses[leader]));
    let mut late = KvClient::new(channel(&addresses[leader]));
    let timed_out = tokio::spawn(async move { late.put(put("k")).await });
    let mut looks = 0;
    loop {
        let mut request = Request::new(pb::RangeRequest { key: "k".into(), ..Default::default() });
        request.metadata_mut().insert("hasleader", "true".parse().expect("ASCII"));
        request.set_timeout(Duration::from_secs(1));
        match kv.range(request).await {
            Err(status) if status.message() == row(&ApiError::NoLeader).1 => {
                note::<()>(met, Err(status));
                break;
            }
            _ => {
                looks += 1;
                assert!(looks < 100, "the last of three still believes in a leader");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    note(met, timed_out.await.expect("no panic"));
}

/// A learner that runs: it answers next to nothing.
async fn learner(met: &mut Met, cluster: &Cluster, leader: &str) {
    let mut members = ClusterClient::new(channel(leader));
    let ports = (crate::harness::free_port(), crate::harness::free_port());
    let url = format!("http://127.0.0.1:{}", ports.1);
    let add = pb::MemberAddRequest { peer_ur_ls: vec![url.clone()], is_learner: true };
    // The members must have been connected for a while.
    let mut looks = 0;
    let added = loop {
        match members.member_add(add.clone()).await {
            Ok(added) => break added.into_inner(),
            Err(status) => {
                looks += 1;
                assert!(looks < 100, "no learner can be added: {status:?}");
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    };
    let id = added.member.expect("the new member").id;
    let rows: Vec<String> = cluster.members.iter().map(Member::initial).collect();
    let initial = format!("{},new={url}", rows.join(","));
    let mut new = Member::new(cluster.dir.path(), "new", ports, &initial, "existing", &[]);
    new.start();
    crate::harness::wait_serving(&new.client(), Duration::from_secs(20)).expect("it serves");
    let mut kv = KvClient::new(channel(&new.client()));
    let mut looks = 0;
    loop {
        match kv.put(put("k")).await {
            Err(status) if status.code() == Code::FailedPrecondition => {
                note::<()>(met, Err(status));
                break;
            }
            other => {
                looks += 1;
                assert!(looks < 100, "a learner answers a put: {other:?}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    members.member_remove(pb::MemberRemoveRequest { id }).await.expect("removed");
    new.kill();
}
