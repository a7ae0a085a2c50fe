//! Txns (etcd's semantics 3.5).

use super::*;
use crate::types::command::{Compare, CompareResult, CompareTarget};
use crate::types::reply::ReplyOp;

fn compare(key: &str, end: &str, result: CompareResult, target: CompareTarget) -> Compare {
    Compare { range: range(key, end), result, target }
}

fn holds(kit: &mut Kit, compares: Vec<Compare>) -> bool {
    let txn = TxnRequest { compare: compares, success: vec![], failure: vec![] };
    let read = kit.keyspace.view().read_txn(&txn).unwrap().succeeded;
    assert_eq!(kit.txn(txn).succeeded, read);
    read
}

#[test]
fn compares() {
    use CompareResult::{Equal, Greater, Less, NotEqual};
    use CompareTarget::{Create, Lease, Mod, Unknown, Value, Version};
    let mut kit = Kit::new();
    kit.put("a", "1");
    kit.put("b", "2");
    kit.put("a", "3");
    for (expected, key, end, result, target) in [
        (true, "a", "", Equal, Version(2)),
        (true, "a", "", Greater, Mod(3)),
        (true, "a", "", Less, Create(3)),
        (true, "a", "", NotEqual, Lease(1)),
        (true, "a", "", Equal, Value("3".into())),
        (true, "a", "", Greater, Value("2zz".into())),
        (false, "a", "", NotEqual, Value("3".into())),
        // A missing key is zero in numbers, and no value at all.
        (true, "x", "", Equal, Version(0)),
        (true, "x", "", Equal, Create(0)),
        (false, "x", "", Equal, Value("".into())),
        (false, "x", "", NotEqual, Value("1".into())),
        // Every key of a range; an empty one is a missing key.
        (true, "a", "c", Greater, Mod(2)),
        (false, "a", "c", Equal, Version(2)),
        (true, "x", "z", Equal, Mod(0)),
        (false, "x", "z", NotEqual, Value("".into())),
        (true, "x", "", Equal, Unknown),
        (false, "x", "", NotEqual, Unknown),
    ] {
        let compare = compare(key, end, result, target);
        assert_eq!(holds(&mut kit, vec![compare.clone()]), expected, "{compare:?}");
    }
    let yes = compare("a", "", Equal, Version(2));
    let no = compare("a", "", Equal, Version(3));
    assert!(holds(&mut kit, vec![]));
    assert!(!holds(&mut kit, vec![yes, no]));
}

#[test]
fn one_revision_with_numbered_changes() {
    let mut kit = Kit::new();
    kit.put("a", "1");
    let applied = kit.apply(&Command::Txn(then(vec![
        op_range("a", "", 0),
        op_put("b", "2"),
        op_range("a", "z", 0),
        op_delete("a", ""),
        op_delete("x", ""),
        op_range("a", "z", 2),
    ])));
    assert_eq!(applied.revision, 3);
    assert!(applied.events.iter().all(|event| event.kv.mod_revision == 3));
    let Ok(Reply::Txn(reply)) = applied.reply else { panic!() };
    let range_of = |at: usize| match &reply.replies[at] {
        ReplyOp::Range { revision, reply } => (*revision, keys(reply)),
        other => panic!("{other:?}"),
    };
    // Before the first write the header has the old revision, then the one being made.
    assert_eq!(range_of(0), (2, vec!["a".to_string()]));
    assert!(matches!(reply.replies[1], ReplyOp::Put { revision: 3, .. }));
    assert_eq!(range_of(2), (3, vec!["a".to_string(), "b".to_string()]));
    assert!(matches!(reply.replies[3], ReplyOp::DeleteRange { revision: 3, .. }));
    assert!(matches!(reply.replies[4], ReplyOp::DeleteRange { revision: 3, .. }));
    assert_eq!(range_of(5), (3, vec!["a".to_string()]));
    assert_eq!(kit.keys_at(0), ["b"]);
}

#[test]
fn nested_compares_see_the_state_before() {
    let mut kit = Kit::new();
    let nested = TxnRequest {
        compare: vec![compare("a", "", CompareResult::Equal, CompareTarget::Version(0))],
        success: vec![op_put("then", "")],
        failure: vec![op_put("else", "")],
    };
    let reply = kit.txn(then(vec![op_put("a", "1"), RequestOp::Txn(nested)]));
    assert!(matches!(&reply.replies[1], ReplyOp::Txn(txn) if txn.succeeded));
    assert_eq!(kit.keys_at(0), ["a", "then"]);
}

#[test]
fn preflight_fails_as_a_whole_on_the_taken_path_only() {
    let mut kit = Kit::new();
    kit.put("a", "1");
    kit.put("a", "2");
    kit.compact(3).unwrap();
    let leased = PutRequest { lease: LeaseId(9), ..put_request("b", "") };
    let ignoring = PutRequest { ignore_value: true, ..put_request("b", "") };
    for (op, error) in [
        (op_range("a", "", 4), ApiError::FutureRevision),
        (op_range("a", "", 2), ApiError::Compacted),
        (op_range("a", "", -1), ApiError::Compacted),
        (RequestOp::Put(leased), ApiError::LeaseNotFound),
        (RequestOp::Put(ignoring), ApiError::KeyNotFound),
    ] {
        let nested = RequestOp::Txn(then(vec![op.clone()]));
        let txn = then(vec![op_put("c", "1"), nested]);
        assert_eq!(kit.refused(Command::Txn(txn)), error);
        let other_branch =
            TxnRequest { compare: vec![], success: vec![op_put("c", "1")], failure: vec![op] };
        kit.txn(other_branch);
        kit.delete("c");
    }
}

#[test]
fn the_revision_before_the_first_is_the_newest_until_the_first_compaction() {
    let mut kit = Kit::new();
    kit.put("a", "1");
    let write = |revision| then(vec![op_put("b", "1"), op_range("a", "", revision)]);
    assert_eq!(kit.refused(Command::Txn(write(-2))), ApiError::Compacted);
    let reply = kit.txn(write(-1));
    let ReplyOp::Range { reply, .. } = &reply.replies[1] else { panic!("{reply:?}") };
    assert_eq!(reply.kvs.len(), 1);
    kit.compact(2).unwrap();
    assert_eq!(kit.refused(Command::Txn(write(-1))), ApiError::Compacted);
}

#[test]
fn a_key_changed_twice_in_one_revision() {
    let mut kit = Kit::new();
    kit.put("a", "1");
    let txn = then(vec![
        RequestOp::Txn(then(vec![op_put("a", "2")])),
        RequestOp::Txn(then(vec![op_delete("a", "")])),
    ]);
    check_txn(&txn, 128).unwrap();
    let applied = kit.apply(&Command::Txn(txn));
    assert_eq!(applied.revision, 3);
    // Both events have the version before the revision, not the one in between.
    let before = Some(kv("a", "1", 2, 2, 1));
    assert_eq!(
        applied.events.iter().map(|e| e.prev_kv.clone()).collect::<Vec<_>>(),
        [before.clone(), before]
    );
    assert_eq!(kit.get("a"), None);
    assert_eq!(kit.get_at("a", 2).unwrap().version, 1);
    let feed = kit.keyspace.view().feed(3, 3, 10, 1000, true, &mut |_| true).unwrap();
    assert_eq!(feed.revisions[0].events.to_vec(), applied.events);
}

#[test]
fn a_delete_of_everything_then_a_put() {
    // etcd's static check takes the zero byte literally and lets this through.
    let mut kit = Kit::new();
    kit.put("b", "1");
    let txn = then(vec![op_delete("a", "\0"), op_put("b", "2")]);
    check_txn(&txn, 128).unwrap();
    let applied = kit.apply(&Command::Txn(txn));
    assert_eq!(kit.get("b"), Some(kv("b", "2", 3, 3, 1)));
    // What creates a key has nothing before it, even if the same revision has deleted one.
    let before = Some(kv("b", "1", 2, 2, 1));
    let told: Vec<_> = applied.events.iter().map(|e| e.prev_kv.clone()).collect();
    assert_eq!(told, [before, None]);
    let feed = kit.keyspace.view().feed(3, 3, 10, 1000, true, &mut |_| true).unwrap();
    assert_eq!(feed.revisions[0].events.to_vec(), applied.events);
}

#[test]
fn read_only_txns() {
    let mut kit = Kit::new();
    kit.put("a", "1");
    kit.put("a", "2");
    let txn = then(vec![op_range("a", "", 0), op_range("a", "", 2)]);
    assert!(is_read_only(&txn));
    assert!(!is_read_only(&then(vec![op_delete("a", "")])));
    assert!(!is_read_only(&then(vec![RequestOp::Txn(TxnRequest::default())])));
    let reply = kit.keyspace.view().read_txn(&txn).unwrap();
    assert_eq!(reply, kit.txn(txn));
    let late = then(vec![op_range("a", "", 9)]);
    let error = kit.keyspace.view().read_txn(&late).unwrap_err();
    assert!(matches!(error, ReadError::Api(ApiError::FutureRevision)));
}
