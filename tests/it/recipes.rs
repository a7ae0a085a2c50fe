//! The Lock and Election services, as a client of the wire sees them.

use crate::harness::Cluster;
use quorate::api::proto::etcdserverpb as pb;
use quorate::api::proto::etcdserverpb::kv_client::KvClient;
use quorate::api::proto::etcdserverpb::lease_client::LeaseClient;
use quorate::api::proto::v3electionpb as epb;
use quorate::api::proto::v3electionpb::election_client::ElectionClient;
use quorate::api::proto::v3lockpb::lock_client::LockClient;
use quorate::api::proto::v3lockpb::{LockRequest, UnlockRequest};
use std::time::Duration;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

async fn connected(name: &str) -> (Cluster, Channel) {
    let cluster = Cluster::start(name, 1, &[]);
    let endpoint = Endpoint::from_shared(format!("http://{}", cluster.endpoints()));
    let channel = endpoint.expect("our own address").connect_lazy();
    (cluster, channel)
}

async fn lease(channel: &Channel, ttl: i64) -> i64 {
    let mut client = LeaseClient::new(channel.clone());
    let grant = pb::LeaseGrantRequest { ttl, id: 0 };
    client.lease_grant(grant).await.expect("a lease").into_inner().id
}

async fn revoke(channel: &Channel, id: i64) {
    let mut client = LeaseClient::new(channel.clone());
    client.lease_revoke(pb::LeaseRevokeRequest { id }).await.expect("revoked");
}

async fn count(channel: &Channel, prefix: &'static str, end: &'static str) -> i64 {
    let request = pb::RangeRequest {
        key: prefix.into(),
        range_end: end.into(),
        count_only: true,
        ..Default::default()
    };
    KvClient::new(channel.clone()).range(request).await.expect("a count").into_inner().count
}

/// Long enough to see that something does not happen.
async fn a_while() {
    tokio::time::sleep(Duration::from_millis(300)).await;
}

#[tokio::test]
async fn a_lock_has_one_holder_at_a_time_in_the_order_of_asking() {
    let (_cluster, channel) = connected("lock").await;
    let ask = |lease: i64| {
        let mut client = LockClient::new(channel.clone());
        tokio::spawn(async move {
            let request = LockRequest { name: "my".into(), lease };
            client.lock(request).await.map(|answer| answer.into_inner().key)
        })
    };
    let (a, b, c) =
        (lease(&channel, 60).await, lease(&channel, 60).await, lease(&channel, 60).await);
    let first = ask(a).await.expect("no panic").expect("nobody holds it");
    assert_eq!(first, format!("my/{a:x}"));
    assert_eq!(ask(a).await.expect("no panic").expect("it is held with this lease"), first);
    let second = ask(b);
    while count(&channel, "my/", "my0").await < 2 {
        tokio::task::yield_now().await;
    }
    let third = ask(c);
    while count(&channel, "my/", "my0").await < 3 {
        tokio::task::yield_now().await;
    }
    a_while().await;
    assert!(!second.is_finished() && !third.is_finished());
    // Who gives up waiting leaves no key behind.
    third.abort();
    let mut looks = 0;
    while count(&channel, "my/", "my0").await > 2 {
        looks += 1;
        assert!(looks < 1_000, "the key of a client that went away stays");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let mut client = LockClient::new(channel.clone());
    client.unlock(UnlockRequest { key: first }).await.expect("unlocked");
    assert_eq!(second.await.expect("no panic").expect("its turn"), format!("my/{b:x}"));
    // A holder whose lease ends holds nothing any more.
    let last = ask(a);
    a_while().await;
    assert!(!last.is_finished());
    revoke(&channel, b).await;
    last.await.expect("no panic").expect("its turn");
    let unknown = client.lock(LockRequest { name: "my".into(), lease: 12_345 }).await;
    let status = unknown.expect_err("no such lease");
    assert_eq!(
        (status.code(), status.message()),
        (Code::Unknown, "etcdserver: requested lease not found")
    );
}

#[tokio::test]
async fn an_election_has_one_leader_whom_everybody_can_follow() {
    let (_cluster, channel) = connected("election").await;
    let client = || ElectionClient::new(channel.clone());
    let name = || epb::LeaderRequest { name: "e".into() };
    let status = client().leader(name()).await.expect_err("nobody leads");
    assert_eq!((status.code(), status.message()), (Code::Unknown, "election: no leader"));
    let mut observed = client().observe(name()).await.expect("a stream").into_inner();
    let mut next = async || {
        let told = tokio::time::timeout(Duration::from_secs(10), observed.message()).await;
        let kv = told.expect("in time").expect("no error").expect("no end").kv.expect("a value");
        String::from_utf8(kv.value.to_vec()).expect("text")
    };
    let campaign = |lease: i64, value: &'static str| {
        let mut client = client();
        tokio::spawn(async move {
            let request = epb::CampaignRequest { name: "e".into(), lease, value: value.into() };
            client.campaign(request).await.map(|a| a.into_inner().leader.expect("a leader key"))
        })
    };
    let (a, b) = (lease(&channel, 60).await, lease(&channel, 60).await);
    let first = campaign(a, "one").await.expect("no panic").expect("nobody else runs");
    assert_eq!((first.key.clone(), first.lease), (format!("e/{a:x}").into(), a));
    assert_eq!(next().await, "one");
    let second = campaign(b, "two");
    let proclaim = |leader: &epb::LeaderKey, value: &'static str| epb::ProclaimRequest {
        leader: Some(leader.clone()),
        value: value.into(),
    };
    client().proclaim(proclaim(&first, "one and a half")).await.expect("it leads");
    assert_eq!(next().await, "one and a half");
    a_while().await;
    assert!(!second.is_finished());
    client().resign(epb::ResignRequest { leader: Some(first.clone()) }).await.expect("it led");
    let second = second.await.expect("no panic").expect("its turn");
    assert_eq!(next().await, "two");
    let status = client().proclaim(proclaim(&first, "three")).await.expect_err("it leads no more");
    assert_eq!((status.code(), status.message()), (Code::Unknown, "election: not leader"));
    client().resign(epb::ResignRequest { leader: Some(first) }).await.expect("nothing to give up");
    let leader = client().leader(name()).await.expect("one leads").into_inner().kv.expect("a key");
    assert_eq!((leader.key, leader.create_revision), (second.key, second.rev));
    let status = client().resign(epb::ResignRequest { leader: None }).await.expect_err("no leader");
    assert_eq!(status.message(), "\"leader\" field must be provided");
    let nothing = epb::LeaderKey { lease: a, ..Default::default() };
    let status = client().proclaim(proclaim(&nothing, "x")).await.expect_err("no key");
    assert_eq!(status.message(), "etcdserver: key is not provided");
}

#[tokio::test]
async fn a_streamed_range_adds_up_to_the_plain_one() {
    let (_cluster, channel) = connected("pieces").await;
    let mut kv = KvClient::new(channel.clone()).max_decoding_message_size(64 << 20);
    for number in 0..300 {
        let put = pb::PutRequest {
            key: format!("k/{number:03}").into(),
            value: vec![b'v'; 20_000].into(),
            ..Default::default()
        };
        kv.put(put).await.expect("put");
    }
    for (limit, count_only, keys_only) in [
        (0, false, false),
        (7, false, false),
        (250, false, false),
        (0, true, false),
        (0, false, true),
    ] {
        let request = pb::RangeRequest {
            key: "k/".into(),
            range_end: "k0".into(),
            limit,
            count_only,
            keys_only,
            ..Default::default()
        };
        let plain = kv.range(request.clone()).await.expect("a range").into_inner();
        let mut pieces = kv.range_stream(request).await.expect("a stream").into_inner();
        let mut sum = pb::RangeResponse::default();
        let mut number = 0;
        while let Some(piece) = pieces.message().await.expect("no error") {
            let piece = piece.range_response.expect("a range");
            assert!(sum.header.is_none(), "only the last piece has a header");
            number += 1;
            sum.kvs.extend(piece.kvs);
            (sum.header, sum.more, sum.count) = (piece.header, piece.more, piece.count);
            if number == 2 && limit == 0 {
                // What is written meanwhile is not seen.
                let put = pb::PutRequest { key: "k/zzz".into(), ..Default::default() };
                KvClient::new(channel.clone()).put(put).await.expect("put");
                let delete = pb::DeleteRangeRequest { key: "k/zzz".into(), ..Default::default() };
                KvClient::new(channel.clone()).delete_range(delete).await.expect("deleted");
            }
        }
        assert_eq!(sum, plain, "limit {limit}");
        assert!(limit == 7 || count_only || number > 2, "{number} pieces");
    }
    for (request, text) in [
        (
            pb::RangeRequest { key: "k".into(), sort_order: 2, ..Default::default() },
            "RangeStream does not support custom sort orders",
        ),
        (
            pb::RangeRequest { key: "k".into(), min_mod_revision: 1, ..Default::default() },
            "RangeStream does not support revision filters",
        ),
    ] {
        let status = kv.range_stream(request).await.expect_err("refused");
        assert_eq!((status.code(), status.message()), (Code::Unimplemented, text));
    }
}
