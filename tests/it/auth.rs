//! Users, roles and tokens against real processes: what is refused, in which words, and that no
//! RPC was forgotten.

use crate::harness::{Cluster, Etcdctl, TempDir, have_etcdctl};
use quorate::api::proto::etcdserverpb as pb;
use quorate::api::proto::etcdserverpb::auth_client::AuthClient;
use quorate::api::proto::etcdserverpb::kv_client::KvClient;
use quorate::api::proto::etcdserverpb::lease_client::LeaseClient;
use quorate::api::proto::etcdserverpb::watch_client::WatchClient;
use quorate::api::proto::{authpb, v3electionpb, v3lockpb};
use quorate::api::rpcs::{Access, Kind, RPCS};
use std::collections::BTreeMap;
use std::time::Duration;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;

fn channel(address: &str) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("our own address");
    endpoint.connect_timeout(Duration::from_secs(2)).connect_lazy()
}

fn with_token<T>(message: T, token: Option<&str>) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(Duration::from_secs(10));
    if let Some(token) = token {
        request.metadata_mut().insert("token", token.parse().expect("a token is ASCII"));
    }
    request
}

async fn token(channel: &Channel, name: &str) -> Result<String, Status> {
    let request = pb::AuthenticateRequest { name: name.into(), password: "secret".into() };
    Ok(AuthClient::new(channel.clone()).authenticate(request).await?.into_inner().token)
}

/// root with the root role; alice, who may read [a, b) and write the key a1; users count.
async fn enable(channel: &Channel) {
    let mut auth = AuthClient::new(channel.clone());
    for name in ["root", "alice"] {
        let user = pb::AuthUserAddRequest {
            name: name.into(),
            password: "secret".into(),
            ..Default::default()
        };
        auth.user_add(user).await.expect("a new user");
    }
    let root = pb::AuthUserGrantRoleRequest { user: "root".into(), role: "root".into() };
    auth.user_grant_role(root).await.expect("the root role need not exist");
    auth.role_add(pb::AuthRoleAddRequest { name: "some".into() }).await.expect("a new role");
    use authpb::permission::Type;
    for (kind, key, end) in [(Type::Read, "a", "b"), (Type::Write, "a1", "")] {
        let perm =
            authpb::Permission { perm_type: kind as i32, key: key.into(), range_end: end.into() };
        let grant = pb::AuthRoleGrantPermissionRequest { name: "some".into(), perm: Some(perm) };
        auth.role_grant_permission(grant).await.expect("a permission");
    }
    let alice = pb::AuthUserGrantRoleRequest { user: "alice".into(), role: "some".into() };
    auth.user_grant_role(alice).await.expect("the role");
    auth.auth_enable(pb::AuthEnableRequest {}).await.expect("enabled");
}

/// Calls an RPC with an empty message.
async fn call_empty(
    channel: &Channel,
    path: &'static str,
    kind: Kind,
    token: Option<&str>,
) -> Result<(), Status> {
    let mut grpc = tonic::client::Grpc::new(channel.clone());
    grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
    let path = tonic::codegen::http::uri::PathAndQuery::from_static(path);
    let codec = ProstCodec::<(), ()>::default();
    match kind {
        Kind::Unary => grpc.unary(with_token((), token), path, codec).await.map(drop),
        Kind::ServerStream => {
            let answer = grpc.server_streaming(with_token((), token), path, codec).await?;
            answer.into_inner().message().await.map(drop)
        }
        Kind::BidiStream => unreachable!("streams of requests are tested by hand"),
    }
}

/// What each RPC whose permission depends on the request answers to such a request.
async fn by_request(channel: &Channel, token: Option<&str>) -> BTreeMap<&'static str, Status> {
    let mut refused = BTreeMap::new();
    let mut note = |path, result: Result<(), Status>| {
        refused.insert(path, result.err().unwrap_or_else(|| Status::ok("")));
    };
    let (mut kv, mut auth) = (KvClient::new(channel.clone()), AuthClient::new(channel.clone()));
    let key = || bytes::Bytes::from_static(b"secret");
    let range = || pb::RangeRequest { key: key(), ..Default::default() };
    let put = || pb::PutRequest { key: key(), ..Default::default() };
    note("/etcdserverpb.KV/Range", kv.range(with_token(range(), token)).await.map(drop));
    let mut pieces = async || -> Result<(), Status> {
        let answer = kv.range_stream(with_token(range(), token)).await?;
        answer.into_inner().message().await.map(drop)
    };
    note("/etcdserverpb.KV/RangeStream", pieces().await);
    note("/etcdserverpb.KV/Put", kv.put(with_token(put(), token)).await.map(drop));
    let delete = pb::DeleteRangeRequest { key: key(), ..Default::default() };
    note(
        "/etcdserverpb.KV/DeleteRange",
        kv.delete_range(with_token(delete, token)).await.map(drop),
    );
    // The put is in a branch that is not taken, two levels down.
    use pb::request_op::Request as Op;
    let nest = |op: Op| pb::TxnRequest {
        failure: vec![pb::RequestOp { request: Some(op) }],
        ..Default::default()
    };
    let txn = nest(Op::RequestTxn(nest(Op::RequestPut(put()))));
    note("/etcdserverpb.KV/Txn", kv.txn(with_token(txn, token)).await.map(drop));
    let mut lease = LeaseClient::new(channel.clone());
    let keep = tokio_stream::iter([pb::LeaseKeepAliveRequest { id: 99 }]);
    let kept = async || -> Result<(), Status> {
        let answer = lease.lease_keep_alive(with_token(keep, token)).await?;
        answer.into_inner().message().await.map(drop)
    };
    note("/etcdserverpb.Lease/LeaseKeepAlive", kept().await);
    let leases = lease.lease_leases(with_token(pb::LeaseLeasesRequest {}, token)).await;
    note("/etcdserverpb.Lease/LeaseLeases", leases.map(drop));
    // Who may not ask hears that first, even of an alarm that nobody knows.
    let alarm = pb::AlarmRequest { action: 1, member_id: 0, alarm: 9 };
    let mut maintenance = pb::maintenance_client::MaintenanceClient::new(channel.clone());
    note(
        "/etcdserverpb.Maintenance/Alarm",
        maintenance.alarm(with_token(alarm, token)).await.map(drop),
    );
    let get = pb::AuthUserGetRequest { name: "root".into() };
    note("/etcdserverpb.Auth/UserGet", auth.user_get(with_token(get, token)).await.map(drop));
    let get = pb::AuthRoleGetRequest { role: "root".into() };
    note("/etcdserverpb.Auth/RoleGet", auth.role_get(with_token(get, token)).await.map(drop));
    let mut lock = v3lockpb::lock_client::LockClient::new(channel.clone());
    let ask = v3lockpb::LockRequest { name: key(), lease: 0 };
    note("/v3lockpb.Lock/Lock", lock.lock(with_token(ask, token)).await.map(drop));
    let ask = v3lockpb::UnlockRequest { key: key() };
    note("/v3lockpb.Lock/Unlock", lock.unlock(with_token(ask, token)).await.map(drop));
    let mut election = v3electionpb::election_client::ElectionClient::new(channel.clone());
    let leader =
        || Some(v3electionpb::LeaderKey { key: key(), rev: 1, lease: 7, ..Default::default() });
    let name = || v3electionpb::LeaderRequest { name: key() };
    let ask = v3electionpb::CampaignRequest { name: key(), ..Default::default() };
    note(
        "/v3electionpb.Election/Campaign",
        election.campaign(with_token(ask, token)).await.map(drop),
    );
    let ask = v3electionpb::ProclaimRequest { leader: leader(), ..Default::default() };
    note(
        "/v3electionpb.Election/Proclaim",
        election.proclaim(with_token(ask, token)).await.map(drop),
    );
    note(
        "/v3electionpb.Election/Leader",
        election.leader(with_token(name(), token)).await.map(drop),
    );
    let mut observed = async || -> Result<(), Status> {
        let answer = election.observe(with_token(name(), token)).await?;
        answer.into_inner().message().await.map(drop)
    };
    note("/v3electionpb.Election/Observe", observed().await);
    let ask = v3electionpb::ResignRequest { leader: leader() };
    note("/v3electionpb.Election/Resign", election.resign(with_token(ask, token)).await.map(drop));
    note("/etcdserverpb.Watch/Watch", watch(channel, "secret", "", token).await);
    refused
}

/// Creates a watcher; a refusal inside the answer becomes a status.
async fn watch(channel: &Channel, key: &str, end: &str, token: Option<&str>) -> Result<(), Status> {
    let create = pb::WatchCreateRequest {
        key: key.to_string().into(),
        range_end: end.to_string().into(),
        ..Default::default()
    };
    let create = pb::watch_request::RequestUnion::CreateRequest(create);
    let ask = tokio_stream::iter([pb::WatchRequest { request_union: Some(create) }]);
    let answer = WatchClient::new(channel.clone()).watch(with_token(ask, token)).await?;
    let first = answer.into_inner().message().await?.expect("an answer");
    if first.canceled {
        assert!(first.created && first.watch_id == -1, "{first:?}");
        let reason = first.cancel_reason;
        let text = reason.split_once(" desc = ").expect("as Go prints it").1.to_string();
        let code = match reason.split(" = ").nth(1).and_then(|rest| rest.split(' ').next()) {
            Some("PermissionDenied") => Code::PermissionDenied,
            Some("InvalidArgument") => Code::InvalidArgument,
            Some("Unauthenticated") => Code::Unauthenticated,
            other => panic!("{other:?} in {reason}"),
        };
        return Err(Status::new(code, text));
    }
    Ok(())
}

/// Creations are answered in the order they were asked for, refused ones among them: a client that
/// does not wait for each has nothing else to tell them apart by.
#[tokio::test]
async fn watches_are_answered_in_order() {
    let cluster = Cluster::start("auth-watches", 1, &["--bcrypt-cost=4"]);
    let channel = channel(&cluster.endpoints());
    enable(&channel).await;
    let alice = token(&channel, "alice").await.expect("the password is right");
    let keys = ["a1", "secret", "a2", "a3", "secret", "secret", "a4"];
    let create = |key: &&str| pb::WatchRequest {
        request_union: Some(pb::watch_request::RequestUnion::CreateRequest(
            pb::WatchCreateRequest { key: key.to_string().into(), ..Default::default() },
        )),
    };
    // At once, and the stream stays open.
    let ask = tokio_stream::iter(keys.iter().map(create).collect::<Vec<_>>());
    let ask = tokio_stream::StreamExt::chain(ask, tokio_stream::pending());
    let answer = WatchClient::new(channel.clone()).watch(with_token(ask, Some(&alice))).await;
    let mut answers = answer.expect("a stream").into_inner();
    for key in keys {
        let answer = answers.message().await.expect("the stream lives").expect("an answer");
        assert!(answer.created, "{answer:?}");
        assert_eq!(answer.canceled, key == "secret", "{key}: {answer:?}");
    }
}

#[tokio::test]
async fn no_rpc_was_forgotten() {
    let cluster = Cluster::start("auth", 1, &["--bcrypt-cost=4"]);
    let channel = channel(&cluster.endpoints());
    enable(&channel).await;
    let alice = token(&channel, "alice").await.expect("the password is right");
    let empty = "etcdserver: user name is empty";
    let denied = "etcdserver: permission denied";
    for rpc in RPCS.iter().filter(|rpc| rpc.kind != Kind::BidiStream) {
        let nobody = call_empty(&channel, rpc.path, rpc.kind, None);
        let user = call_empty(&channel, rpc.path, rpc.kind, Some(&alice));
        match rpc.access {
            Access::Known | Access::Admin => {
                let status = nobody.await.expect_err(rpc.path);
                assert_eq!(
                    (status.code(), status.message()),
                    (Code::InvalidArgument, empty),
                    "{}",
                    rpc.path
                );
                let status = user.await.err();
                let is_denied = status.is_some_and(|status| status.message() == denied);
                assert_eq!(is_denied, rpc.access == Access::Admin, "{}", rpc.path);
            }
            Access::Open => {
                if let Err(status) = nobody.await {
                    assert_ne!(status.message(), empty, "{}", rpc.path);
                }
            }
            Access::ByRequest => {}
        }
    }
    let nobody = by_request(&channel, None).await;
    let user = by_request(&channel, Some(&alice)).await;
    for rpc in RPCS.iter().filter(|rpc| rpc.access == Access::ByRequest) {
        let (nobody, user) = (&nobody[rpc.path], &user[rpc.path]);
        assert_eq!(nobody.message(), empty, "{}", rpc.path);
        // A keepalive of a lease without keys is any user's to ask; so is a list without keys.
        if rpc.service() == "etcdserverpb.Lease" {
            assert_eq!(user.code(), Code::Ok, "{}: {user:?}", rpc.path);
        } else {
            assert_eq!(user.message(), denied, "{}", rpc.path);
        }
    }
    for bad in ["nonsense", "a.b.c", "aaaaaaaaaaaaaaaa.1", "x.18446744073709551615", ""] {
        let status =
            call_empty(&channel, "/etcdserverpb.Maintenance/Status", Kind::Unary, Some(bad)).await;
        let status = status.expect_err(bad);
        assert_eq!(
            (status.code(), status.message()),
            (Code::Unauthenticated, "etcdserver: invalid auth token")
        );
    }
}

#[tokio::test]
async fn permissions_are_those_of_the_keys() {
    let cluster = Cluster::start("auth-keys", 3, &["--bcrypt-cost=4"]);
    let first = channel(cluster.endpoints().split(',').next().expect("three"));
    enable(&first).await;
    let alice = token(&first, "alice").await.expect("the password is right");
    // Every member knows the token, whichever gave it.
    for address in cluster.endpoints().split(',') {
        let channel = channel(address);
        let mut kv = KvClient::new(channel.clone());
        let put = |key: &str, prev_kv, lease| pb::PutRequest {
            key: key.to_string().into(),
            prev_kv,
            lease,
            ..Default::default()
        };
        kv.put(with_token(put("a1", true, 0), Some(&alice))).await.expect("she may");
        let status =
            kv.put(with_token(put("a2", false, 0), Some(&alice))).await.expect_err("not hers");
        assert_eq!(
            (status.code(), status.message()),
            (Code::PermissionDenied, "etcdserver: permission denied")
        );
        // A single key of a range, and the range; nothing beyond it.
        for (key, end, may) in [
            ("a", "b", true),
            ("a1", "", true),
            ("a", "c", false),
            ("a", "\0", false),
            ("", "\0", false),
        ] {
            assert_eq!(
                watch(&channel, key, end, Some(&alice)).await.is_ok(),
                may,
                "{key:?} {end:?}"
            );
        }
    }
    // A user whose password changes must ask for a new token.
    let root = token(&first, "root").await.expect("the password is right");
    let mut auth = AuthClient::new(first.clone());
    let change = pb::AuthUserChangePasswordRequest {
        name: "alice".into(),
        password: "other".into(),
        ..Default::default()
    };
    auth.user_change_password(with_token(change, Some(&root))).await.expect("root may");
    let status = watch(&first, "a1", "", Some(&alice)).await.expect_err("an old token");
    assert_eq!(status.code(), Code::Unauthenticated);
    let status = token(&first, "alice").await.expect_err("an old password");
    assert_eq!(status.message(), "etcdserver: authentication failed, invalid user ID or password");
    auth.auth_disable(with_token(pb::AuthDisableRequest {}, Some(&root))).await.expect("root may");
    watch(&first, "a1", "", None).await.expect("nobody need be named any more");
    let status = token(&first, "root").await.expect_err("there are no tokens any more");
    assert_eq!(status.message(), "etcdserver: authentication is not enabled");
}

#[tokio::test]
async fn signed_tokens_hold_across_members_and_die_with_a_change() {
    let dir = TempDir::new("jwt");
    let secret = dir.path().join("secret");
    std::fs::write(&secret, "a secret of some length").expect("written");
    let option =
        format!("--auth-token=jwt,sign-method=HS256,ttl=10m,priv-key={}", secret.display());
    let mut cluster = Cluster::start("auth-jwt", 1, &["--bcrypt-cost=4", &option]);
    let address = cluster.endpoints();
    enable(&channel(&address)).await;
    let alice = token(&channel(&address), "alice").await.expect("the password is right");
    assert_eq!(alice.split('.').count(), 3, "{alice}");
    // It needs no memory: a restart takes nothing away.
    cluster.members[0].terminate();
    cluster.members[0].start();
    cluster.wait_ready();
    let channel = channel(&address);
    watch(&channel, "a1", "", Some(&alice)).await.expect("it is still hers");
    let root = token(&channel, "root").await.expect("the password is right");
    let role = pb::AuthRoleAddRequest { name: "another".into() };
    AuthClient::new(channel.clone())
        .role_add(with_token(role, Some(&root)))
        .await
        .expect("root may");
    let status = watch(&channel, "a1", "", Some(&alice)).await.expect_err("users have changed");
    assert_eq!(
        (status.code(), status.message()),
        (Code::InvalidArgument, "etcdserver: revision of auth store is old")
    );
}

/// The operator's way, in etcdctl's words.
#[test]
fn etcdctl_manages_users() {
    if !have_etcdctl("users and roles by etcdctl") {
        return;
    }
    let cluster = Cluster::start("auth-ctl", 1, &["--bcrypt-cost=4"]);
    let ctl = Etcdctl { endpoints: cluster.endpoints() };
    assert_eq!(ctl.ok(&["user", "add", "root:secret"]), "User root created\n");
    assert_eq!(ctl.ok(&["user", "add", "u1:pw"]), "User u1 created\n");
    assert_eq!(ctl.ok(&["role", "add", "r1"]), "Role r1 created\n");
    assert_eq!(
        ctl.ok(&["role", "grant-permission", "r1", "readwrite", "p/", "--prefix"]),
        "Role r1 updated\n"
    );
    assert_eq!(ctl.ok(&["user", "grant-role", "u1", "r1"]), "Role r1 is granted to user u1\n");
    assert_eq!(ctl.ok(&["auth", "enable"]), "Authentication Enabled\n");
    let root = "--user=root:secret";
    let user = "--user=u1:pw";
    assert_eq!(ctl.ok(&[user, "put", "p/x", "1"]), "OK\n");
    assert_eq!(ctl.ok(&[user, "get", "p/", "--prefix"]), "p/x\n1\n");
    let refused = ctl.run(&[user, "put", "q", "1"]);
    assert!(refused.code != 0 && refused.stderr.contains("permission denied"), "{refused:?}");
    let nobody = ctl.run(&["get", "p/x"]);
    assert!(nobody.code != 0 && nobody.stderr.contains("user name is empty"), "{nobody:?}");
    let wrong = ctl.run(&["--user=u1:no", "get", "p/x"]);
    assert!(
        wrong.code != 0
            && wrong.stderr.contains("authentication failed, invalid user ID or password"),
        "{wrong:?}"
    );
    assert!(ctl.ok(&[root, "role", "get", "r1"]).contains("[p/, p0) (prefix p/)"));
    assert_eq!(ctl.ok(&[root, "user", "list"]), "root\nu1\n");
    assert_eq!(
        ctl.ok(&[root, "user", "revoke-role", "u1", "r1"]),
        "Role r1 is revoked from user u1\n"
    );
    let refused = ctl.run(&[user, "get", "p/x"]);
    assert!(refused.code != 0 && refused.stderr.contains("permission denied"), "{refused:?}");
    assert_eq!(ctl.ok(&[root, "auth", "disable"]), "Authentication Disabled\n");
    assert_eq!(ctl.ok(&["get", "p/x"]), "p/x\n1\n");
}
