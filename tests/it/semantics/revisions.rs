//! Revisions, puts and deletes.

use super::*;

#[test]
fn a_new_store_is_at_one_and_what_changes_nothing_makes_no_revision() {
    with_server("sem-revisions", &[], |server| async move {
        assert_eq!(server.revision().await, 1);
        assert_eq!(server.set("a", "1").await, 2);
        let still = |answer: Option<pb::ResponseHeader>| assert_eq!(revision_of(&answer), 2);
        let empty = server.txn(txn([])).await.expect("an empty txn");
        assert!(empty.succeeded && empty.responses.is_empty());
        still(empty.header);
        still(server.txn(txn([Op::RequestRange(range("a", ""))])).await.expect("reads").header);
        let nothing = server.delete(delete("b", "z")).await.expect("nothing to delete");
        assert_eq!(nothing.deleted, 0);
        still(nothing.header);
        still(
            server.txn(txn([Op::RequestDeleteRange(delete("b", ""))])).await.expect("none").header,
        );
        // The branch that is not taken changes nothing.
        let other = pb::TxnRequest {
            compare: vec![compare("a", CompareResult::Equal, TargetUnion::Version(9))],
            success: list([Op::RequestPut(put("a", "never"))]),
            failure: Vec::new(),
        };
        let failed = server.txn(other).await.expect("a compare that fails");
        assert!(!failed.succeeded);
        still(failed.header);
        still(server.grant(5, 60).await.expect("a lease").header);
        assert_eq!(server.revoke(5).await.expect("gone"), 2);
        still(Some(pb::ResponseHeader { revision: server.revision().await, ..Default::default() }));
    });
}

#[test]
fn a_generation_ends_with_its_delete() {
    with_server("sem-generations", &[], |server| async move {
        let of = |kv: mvccpb::KeyValue| (kv.create_revision, kv.mod_revision, kv.version);
        server.set("k", "1").await;
        server.set("other", "1").await;
        server.set("k", "2").await;
        assert_eq!(of(server.get("k").await.expect("there")), (2, 4, 2));
        let gone = server.delete(delete("k", "")).await.expect("deleted");
        assert_eq!((gone.deleted, revision_of(&gone.header)), (1, 5));
        assert_eq!(server.get("k").await, None);
        server.set("k", "3").await;
        assert_eq!(of(server.get("k").await.expect("there")), (6, 6, 1));
        // The past stays as it was, and a read tells the revision of now.
        let past = server.range(pb::RangeRequest { revision: 4, ..range("k", "") }).await;
        let past = past.expect("the past");
        assert_eq!(revision_of(&past.header), 6);
        assert_eq!(of(past.kvs[0].clone()), (2, 4, 2));
    });
}

#[test]
fn one_txn_is_one_revision_numbered_within() {
    with_server("sem-sub", &[], |server| async move {
        let puts = ["c", "a", "b"].map(|key| Op::RequestPut(put(key, "1")));
        let made = server.txn(txn(puts)).await.expect("a txn");
        assert_eq!(revision_of(&made.header), 2);
        let all = server.range(range("a", "z")).await.expect("all");
        assert!(all.kvs.iter().all(|kv| (kv.create_revision, kv.mod_revision) == (2, 2)));
        // Events tell the order of the changes within the revision.
        let mut watch = watches::Watching::open(&server, watches::on("a", "z", 2)).await;
        assert_eq!(watches::changed(&watch.next().await), ["PUT c", "PUT a", "PUT b"]);
        // A key may change twice in one revision: put by one nested txn, deleted by a later one.
        let twice = txn([
            Op::RequestTxn(txn([Op::RequestPut(put("a", "2"))])),
            Op::RequestTxn(txn([Op::RequestDeleteRange(delete("a", ""))])),
        ]);
        assert_eq!(revision_of(&server.txn(twice).await.expect("allowed").header), 3);
        assert_eq!(watches::changed(&watch.next().await), ["PUT a", "DELETE a"]);
        assert_eq!(server.get("a").await, None);
        // A range of deletes is numbered in key order.
        let gone = pb::DeleteRangeRequest { prev_kv: true, ..delete("a", "z") };
        let gone = server.delete(gone).await.expect("deleted");
        assert_eq!((gone.deleted, keys(&gone.prev_kvs)), (2, vec!["b".into(), "c".into()]));
        assert_eq!(watches::changed(&watch.next().await), ["DELETE b", "DELETE c"]);
    });
}

#[test]
fn what_a_put_is_asked_to_keep_and_to_tell() {
    with_server("sem-put", &[], |server| async move {
        server.grant(7, 600).await.expect("a lease");
        let first = pb::PutRequest { prev_kv: true, lease: 7, ..put("k", "1") };
        assert_eq!(server.put(first).await.expect("a put").prev_kv, None, "there was none");
        let second = pb::PutRequest { prev_kv: true, ..put("k", "2") };
        let before = server.put(second).await.expect("a put").prev_kv.expect("the one before");
        let of = |kv: &mvccpb::KeyValue| (kv.value.to_vec(), kv.lease, kv.version);
        assert_eq!(of(&before), (b"1".to_vec(), 7, 1), "whole, with its lease");
        let now = server.get("k").await.expect("there");
        assert_eq!(of(&now), (b"2".to_vec(), 0, 2), "a put without a lease detaches");
        assert!(server.time_to_live(7).await.keys.is_empty());

        let keep = pb::PutRequest { ignore_value: true, lease: 7, ..put("k", "") };
        server.put(keep.clone()).await.expect("the value stays");
        assert_eq!(of(&server.get("k").await.expect("there")), (b"2".to_vec(), 7, 3));
        let keep_lease = pb::PutRequest { ignore_lease: true, ..put("k", "4") };
        server.put(keep_lease.clone()).await.expect("the lease stays");
        assert_eq!(of(&server.get("k").await.expect("there")), (b"4".to_vec(), 7, 4));
        let empty = server.put(put("k", "")).await.expect("an empty value is one");
        assert_eq!(revision_of(&empty.header), 6);

        let refusals = [
            (pb::PutRequest { key: "no".into(), ..keep.clone() }, "etcdserver: key not found"),
            (
                pb::PutRequest { key: "no".into(), ..keep_lease.clone() },
                "etcdserver: key not found",
            ),
            (pb::PutRequest { value: "x".into(), ..keep }, "etcdserver: value is provided"),
            (pb::PutRequest { lease: 7, ..keep_lease }, "etcdserver: lease is provided"),
            (put("", "x"), "etcdserver: key is not provided"),
            (pb::PutRequest { lease: 99, ..put("k", "x") }, NO_LEASE),
        ];
        for (request, words) in refusals {
            assert_eq!(text(server.put(request).await), words);
        }
        assert_eq!(server.revision().await, 6, "none of them changed anything");
        assert_eq!(text(server.delete(delete("", "")).await), "etcdserver: key is not provided");
    });
}
