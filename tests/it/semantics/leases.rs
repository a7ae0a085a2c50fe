//! Leases: how long, whose keys, and how they end.

use super::*;
use std::time::Instant;

#[test]
fn grants() {
    with_server("sem-lease-grants", &[], |server| async move {
        for ttl in [1, 0, -5] {
            let granted = server.grant(0, ttl).await.expect("raised to the least");
            assert_eq!((granted.ttl, granted.error.as_str()), (2, ""), "{ttl}");
            assert!(granted.id > 0, "a positive number of the server's own");
        }
        assert_eq!(server.grant(-7, 60).await.expect("any number will do").id, -7);
        let again = text(server.grant(-7, 60).await);
        assert_eq!(again, "etcdserver: lease already exists");
        server.grant(8, 9_000_000_000).await.expect("the longest");
        let longer = text(server.grant(9, 9_000_000_001).await);
        assert_eq!(longer, "etcdserver: too large lease TTL");
        let unknown = server.time_to_live(12).await;
        assert_eq!((unknown.id, unknown.ttl, unknown.granted_ttl), (12, -1, 0));
        let known = server.time_to_live(-7).await;
        assert_eq!(known.granted_ttl, 60);
        assert!((58..=60).contains(&known.ttl), "{}", known.ttl);
        assert_eq!(text(server.revoke(12).await), NO_LEASE);
    });
}

#[test]
fn keys_of_a_lease() {
    with_server("sem-lease-keys", &[], |server| async move {
        server.grant(1, 600).await.expect("a lease");
        server.grant(2, 600).await.expect("a lease");
        let under = |lease, key: &str| pb::PutRequest { lease, ..put(key, "v") };
        for key in ["c", "a", "b", "d", "e"] {
            server.put(under(1, key)).await.expect("a put"); // 2 to 6
        }
        server.put(under(2, "b")).await.expect("moved"); // 7
        server.set("d", "w").await; // 8: detached
        server.delete(delete("e", "")).await.expect("deleted"); // 9
        let attached = |answer: pb::LeaseTimeToLiveResponse| {
            let mut keys = answer.keys;
            keys.sort();
            keys
        };
        assert_eq!(attached(server.time_to_live(1).await), ["a", "c"]);
        assert_eq!(attached(server.time_to_live(2).await), ["b"]);
        let mut watch = watches::Watching::open(&server, watches::on("a", "z", 10)).await;
        // One revision, in the order of the keys.
        assert_eq!(server.revoke(1).await.expect("revoked"), 10);
        assert_eq!(watches::changed(&watch.next().await), ["DELETE a", "DELETE c"]);
        assert_eq!(keys(&server.range(range("a", "z")).await.expect("all").kvs), ["b", "d"]);
        assert_eq!(text(server.put(under(1, "x")).await), NO_LEASE);
    });
}

#[test]
fn a_thousand_keys_end_in_one_revision_after_their_time() {
    with_server("sem-lease-expiry", &[], |server| async move {
        let begin = Instant::now();
        server.grant(1, 2).await.expect("a lease");
        for part in 0..10 {
            let puts = (0..100).map(|n| {
                let key = format!("k{:03}", part * 100 + n);
                Op::RequestPut(pb::PutRequest { lease: 1, ..put(&key, "") })
            });
            server.txn(txn(puts)).await.expect("a txn");
        }
        let revision = server.revision().await;
        let all = watches::on("k", "l", revision + 1);
        let mut watch = watches::Watching::open(&server, all).await;
        let told = watch.next().await;
        assert!(begin.elapsed() >= Duration::from_secs(2), "{:?}", begin.elapsed());
        assert_eq!(told.events.len(), 1000);
        let one = |e: &mvccpb::Event| e.kv.as_ref().expect("a pair").mod_revision == revision + 1;
        assert!(told.events.iter().all(one));
        assert!(watches::changed(&told).is_sorted(), "in the order of the keys");
        assert_eq!(server.time_to_live(1).await.ttl, -1);
    });
}

#[test]
fn a_keepalive_gives_the_whole_time_again() {
    with_server("sem-lease-keepalive", &[], |server| async move {
        server.grant(1, 2).await.expect("a lease");
        server.put(pb::PutRequest { lease: 1, ..put("k", "") }).await.expect("a put");
        let (requests, sent) = tokio::sync::mpsc::unbounded_channel();
        let sent = crate::wire::Sent(sent);
        let ask = |id| requests.send(pb::LeaseKeepAliveRequest { id }).expect("open");
        ask(1);
        let mut answers =
            server.leases().lease_keep_alive(sent).await.expect("a stream").into_inner();
        let end = Instant::now() + Duration::from_secs(5);
        loop {
            let answer = answers.message().await.expect("goes on").expect("goes on");
            assert_eq!((answer.id, answer.ttl), (1, 2));
            assert_eq!(revision_of(&answer.header), 2, "no revision is made");
            if Instant::now() > end {
                break;
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
            ask(1);
        }
        assert!(server.get("k").await.is_some(), "far longer than it was granted for");
        ask(99);
        let unknown = answers.message().await.expect("goes on").expect("goes on");
        assert_eq!((unknown.id, unknown.ttl), (99, 0), "no error");
        let listed = server.leases().lease_leases(pb::LeaseLeasesRequest {}).await;
        let ids: Vec<i64> =
            listed.expect("a list").into_inner().leases.iter().map(|l| l.id).collect();
        assert_eq!(ids, [1]);
    });
}
