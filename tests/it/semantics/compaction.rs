//! Compaction, and the hash over what it keeps.

use super::*;

#[test]
fn what_may_be_compacted_and_what_is_kept() {
    with_server("sem-compaction", &[], |server| async move {
        server.compact(0, false).await.expect("nothing of a new store");
        for (key, value) in [("k", "1"), ("k", "2"), ("gone", "1"), ("other", "1")] {
            server.set(key, value).await;
        }
        server.delete(delete("gone", "")).await.expect("deleted"); // 6
        server.set("k", "3").await; // 7
        assert_eq!(text(server.compact(8, false).await), FUTURE);
        assert_eq!(server.compact(4, true).await.expect("compacted"), 7, "it makes no revision");
        for revision in [4, 3, 0, -1] {
            assert_eq!(text(server.compact(revision, false).await), COMPACTED, "{revision}");
        }
        // The newest version at the compact revision stays readable from there on.
        let at = |key: &'static str, revision| pb::RangeRequest { revision, ..range(key, "") };
        let there = server.range(at("k", 4)).await.expect("readable").kvs;
        assert_eq!((there[0].value.to_vec(), there[0].version), (b"2".to_vec(), 2));
        assert_eq!(keys(&server.range(at("gone", 5)).await.expect("readable").kvs), ["gone"]);
        // Up to the newest revision; nothing that lives goes.
        server.compact(7, true).await.expect("compacted");
        assert_eq!(text(server.range(at("k", 6)).await), COMPACTED);
        assert_eq!(keys(&server.range(range("a", "z")).await.expect("all").kvs), ["k", "other"]);
    });
}

#[test]
fn a_delete_at_the_compact_revision_is_still_told() {
    with_server("sem-tombstone", &[], |server| async move {
        server.set("k", "1").await;
        server.delete(delete("k", "")).await.expect("deleted"); // 3
        server.set("j", "1").await;
        server.compact(3, true).await.expect("compacted");
        let mut watch = watches::Watching::open(&server, watches::on("a", "z", 3)).await;
        assert_eq!(watches::changed(&watch.next().await), ["DELETE k", "PUT j"]);
    });
}

#[test]
fn the_hash_is_etcds() {
    with_server("sem-hash", &[], |server| async move {
        let hash = |revision| {
            let mut maintenance = server.maintenance();
            async move {
                let request = pb::HashKvRequest { revision };
                let answer = maintenance.hash_kv(request).await?.into_inner();
                Ok::<_, Status>((answer.hash, answer.compact_revision))
            }
        };
        assert_eq!(hash(0).await.expect("empty"), (1_084_519_789, -1));
        server.set("foo", "bar").await;
        server.set("foo", "bar2").await;
        assert_eq!(hash(0).await.expect("two revisions"), (3_581_052_765, -1));
        assert_eq!(hash(3).await.expect("by its number"), (3_581_052_765, -1));
        assert_eq!(text(hash(4).await), FUTURE);
        server.set("foo", "bar3").await;
        assert_eq!(hash(3).await.expect("the past is as it was"), (3_581_052_765, -1));
        server.compact(3, true).await.expect("compacted");
        assert_eq!(text(hash(2).await), COMPACTED);
        assert_eq!(hash(0).await.expect("newest").1, 3);
    });
}
