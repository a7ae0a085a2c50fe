//! Txns: compares, what sees what, what fails as a whole, and duplicate keys.

use super::*;
use CompareResult::{Equal, Greater, Less, NotEqual};
use TargetUnion::{CreateRevision, Lease, ModRevision, Value, Version};

async fn holds(server: &Server, compares: Vec<pb::Compare>) -> bool {
    let asked = pb::TxnRequest { compare: compares, ..Default::default() };
    server.txn(asked).await.expect("a txn of compares").succeeded
}

#[test]
fn compares() {
    with_server("sem-compares", &[], |server| async move {
        server.grant(9, 600).await.expect("a lease");
        server.put(pb::PutRequest { lease: 9, ..put("k", "m") }).await.expect("a put");
        server.put(pb::PutRequest { lease: 9, ..put("k", "n") }).await.expect("a put");
        let value = |text: &str| Value(text.to_string().into());
        let cases = [
            ("k", Equal, Version(2), true),
            ("k", Less, Version(2), false),
            ("k", Greater, CreateRevision(1), true),
            ("k", Equal, ModRevision(3), true),
            ("k", NotEqual, ModRevision(3), false),
            ("k", Equal, Lease(9), true),
            ("k", Equal, value("n"), true),
            ("k", Greater, value("m"), true),
            ("k", Less, value("na"), true),
            // A key that is not there is zero in every number,
            ("no", Equal, Version(0), true),
            ("no", Equal, CreateRevision(0), true),
            ("no", Less, ModRevision(1), true),
            ("no", Equal, Lease(0), true),
            ("no", Greater, Version(0), false),
            // and its value compares as nothing does, not even as different.
            ("no", Equal, value(""), false),
            ("no", NotEqual, value("x"), false),
            ("no", Less, value("x"), false),
        ];
        for (key, result, operand, wanted) in cases {
            let asked = compare(key, result, operand);
            assert_eq!(holds(&server, vec![asked.clone()]).await, wanted, "{asked:?}");
        }
        // All of them together.
        let (yes, no) = (compare("k", Equal, Version(2)), compare("k", Equal, Version(3)));
        assert!(holds(&server, vec![yes.clone(), yes.clone()]).await);
        assert!(!holds(&server, vec![yes.clone(), no]).await);
        assert!(holds(&server, vec![]).await);
        // Without an operand it is compared with zero.
        let bare = pb::Compare { target_union: None, ..yes };
        assert!(!holds(&server, vec![bare.clone()]).await);
        let nothing = pb::Compare { key: "no".into(), ..bare };
        assert!(holds(&server, vec![nothing]).await);
    });
}

#[test]
fn compares_of_ranges() {
    with_server("sem-compare-ranges", &[], |server| async move {
        for key in ["a", "b", "b"] {
            server.set(key, "v").await;
        }
        let over = |end: &str, compare: pb::Compare| {
            vec![pb::Compare { range_end: end.to_string().into(), ..compare }]
        };
        let value = || Value("v".into());
        assert!(holds(&server, over("c", compare("a", Equal, value()))).await, "each is v");
        assert!(!holds(&server, over("c", compare("a", Equal, Version(1)))).await, "b is at 2");
        assert!(holds(&server, over("\0", compare("a", Greater, Version(0)))).await);
        // An empty range is compared once, as a key that is not there.
        assert!(holds(&server, over("z", compare("x", Equal, Version(0)))).await);
        assert!(!holds(&server, over("z", compare("x", Greater, Version(0)))).await);
        assert!(!holds(&server, over("z", compare("x", NotEqual, value()))).await);
    });
}

#[test]
fn nested_compares_are_decided_before_anything_is_done() {
    with_server("sem-nested", &[], |server| async move {
        let is_new = || compare("k", Equal, Version(0));
        let inner = pb::TxnRequest {
            compare: vec![is_new()],
            success: list([Op::RequestPut(put("seen", "before"))]),
            failure: list([Op::RequestPut(put("seen", "after"))]),
        };
        let first = Op::RequestTxn(txn([Op::RequestPut(put("k", "1"))]));
        let outer = txn([first, Op::RequestTxn(inner), Op::RequestRange(range("k", ""))]);
        let answer = server.txn(outer).await.expect("a txn");
        assert!(nested(&answer, 1).succeeded, "decided while k was not there");
        assert_eq!(&server.get("seen").await.expect("put").value[..], b"before");
        // A range sees what the txn has done before it.
        assert_eq!(keys(&ranged(&answer, 2).kvs), ["k"]);
        // Headers within: revisions alone, and none at all in a nested txn's own.
        assert_eq!((answer.responses.len(), revision_of(&answer.header)), (3, 2));
        let inner = nested(&answer, 1).header.unwrap_or_default();
        assert_eq!(inner, pb::ResponseHeader::default());
        let Some(Answer::ResponsePut(put)) = &nested(&answer, 0).responses[0].response else {
            panic!("{answer:?}")
        };
        let bare = pb::ResponseHeader { revision: 2, ..Default::default() };
        assert_eq!(put.header, Some(bare));
        assert_eq!(ranged(&answer, 2).header, Some(bare));
    });
}

#[test]
fn the_inner_range_counts_the_revision_that_is_being_made() {
    with_server("sem-inner-revision", &[], |server| async move {
        server.set("k", "1").await;
        let read = || Op::RequestRange(range("k", ""));
        let before_and_after = txn([read(), Op::RequestPut(put("j", "1")), read()]);
        let answer = server.txn(before_and_after).await.expect("a txn");
        let told = |at| revision_of(&ranged(&answer, at).header);
        assert_eq!((told(0), told(2), revision_of(&answer.header)), (2, 3, 3));
    });
}

#[test]
fn what_is_checked_first_fails_the_whole() {
    with_server("sem-preflight", &[], |server| async move {
        let bad = [
            (Op::RequestPut(pb::PutRequest { lease: 99, ..put("b", "") }), NO_LEASE),
            (
                Op::RequestPut(pb::PutRequest { ignore_value: true, ..put("b", "") }),
                "etcdserver: key not found",
            ),
            (Op::RequestRange(pb::RangeRequest { revision: 50, ..range("a", "") }), FUTURE),
        ];
        for (op, words) in bad {
            let whole = txn([Op::RequestPut(put("a", "1")), op.clone()]);
            assert_eq!(text(server.txn(whole).await), words);
            // At any depth,
            let deep = txn([Op::RequestPut(put("a", "1")), Op::RequestTxn(txn([op.clone()]))]);
            assert_eq!(text(server.txn(deep).await), words);
            // but only on the way that is taken.
            let aside = pb::TxnRequest {
                success: list([Op::RequestRange(range("a", ""))]),
                failure: list([op, Op::RequestPut(put("c", ""))]),
                ..Default::default()
            };
            server.txn(aside).await.expect("what is not taken does not count");
        }
        assert_eq!(server.revision().await, 1);
    });
}

#[test]
fn a_key_is_put_once_and_not_where_it_is_deleted() {
    with_server("sem-duplicates", &[], |server| async move {
        let put = |key: &str| Op::RequestPut(put(key, ""));
        let delete = |key: &str, end: &str| Op::RequestDeleteRange(delete(key, end));
        let sub = |ops: Vec<Op>| Op::RequestTxn(txn(ops));
        let either = |then: Vec<Op>, other: Vec<Op>| {
            Op::RequestTxn(pb::TxnRequest {
                success: list(then),
                failure: list(other),
                ..Default::default()
            })
        };
        let refused = [
            vec![put("a"), put("a")],
            vec![put("a"), delete("a", "")],
            vec![delete("a", "c"), put("b")],
            vec![sub(vec![put("a")]), sub(vec![put("a")])],
            vec![put("a"), sub(vec![put("a")])],
            vec![delete("a", "c"), sub(vec![put("b")])],
            vec![sub(vec![delete("a", "")]), sub(vec![put("a")])],
            vec![sub(vec![sub(vec![put("a")])]), put("a")],
        ];
        for ops in refused {
            let asked = txn(ops);
            let answer = server.txn(asked.clone()).await;
            assert_eq!(text(answer), DUPLICATE_KEY, "{asked:?}");
        }
        let allowed = [
            vec![delete("a", ""), delete("a", "c")],
            // A delete of everything from a key on is not looked into.
            vec![put("b"), delete("a", "\0")],
            // The two branches of one txn may share a key.
            vec![either(vec![put("a")], vec![put("a")])],
            // A delete of a later sibling over an earlier one's put is not noticed.
            vec![sub(vec![put("a")]), sub(vec![delete("a", "")])],
        ];
        for ops in allowed {
            let asked = txn(ops);
            server.txn(asked.clone()).await.unwrap_or_else(|e| panic!("{asked:?}: {e}"));
        }
        // Both lists are looked at, whichever is taken.
        let aside = pb::TxnRequest { failure: list([put("a"), put("a")]), ..Default::default() };
        assert_eq!(text(server.txn(aside).await), DUPLICATE_KEY);
    });
}

#[test]
fn operations_are_counted_level_by_level() {
    with_server("sem-txn-ops", &["--max-txn-ops=4"], |server| async move {
        let reads = |n: usize| vec![Op::RequestRange(range("k", "")); n];
        const TOO_MANY: &str = "etcdserver: too many operations in txn request";
        server.txn(txn(reads(4))).await.expect("as many as allowed");
        assert_eq!(text(server.txn(txn(reads(5))).await), TOO_MANY);
        let compares = vec![compare("k", Equal, Version(0)); 5];
        let asked = pb::TxnRequest { compare: compares, ..Default::default() };
        assert_eq!(text(server.txn(asked).await), TOO_MANY);
        let other = pb::TxnRequest { failure: list(reads(5)), ..Default::default() };
        assert_eq!(text(server.txn(other).await), TOO_MANY);
        // A nested txn has what its parent leaves.
        server.txn(txn([Op::RequestTxn(txn(reads(3)))])).await.expect("one and three");
        assert_eq!(text(server.txn(txn([Op::RequestTxn(txn(reads(4)))])).await), TOO_MANY);
        // Siblings each have it.
        let twice = txn([Op::RequestTxn(txn(reads(2))), Op::RequestTxn(txn(reads(2)))]);
        server.txn(twice).await.expect("two and two");
    });
}
