//! Revisions, puts, deletes, alarms (etcd's semantics 3.1, 3.2, 3.4, 3.10).

use super::*;
use crate::types::command::{AlarmAction, AlarmKind, AlarmRequest};
use crate::types::reply::EventKind;

#[test]
fn a_new_store_is_at_revision_one() {
    let mut kit = Kit::new();
    let view = kit.keyspace.view();
    assert_eq!((view.revision(), view.compact_revision()), (1, -1));
    let applied = kit.put("a", "1");
    assert_eq!(applied.revision, 2);
    assert_eq!(kit.get("a"), Some(kv("a", "1", 2, 2, 1)));
}

#[test]
fn versions_count_within_a_generation() {
    let mut kit = Kit::new();
    kit.put("a", "1");
    kit.put("a", "2");
    assert_eq!(kit.get("a"), Some(kv("a", "2", 2, 3, 2)));
    kit.delete("a");
    kit.put("a", "3");
    assert_eq!(kit.get("a"), Some(kv("a", "3", 5, 5, 1)));
}

#[test]
fn what_changes_nothing_makes_no_revision() {
    let mut kit = Kit::new();
    kit.put("a", "1");
    assert_eq!(kit.delete("zz").deleted, 0);
    assert_eq!(kit.delete_range("b", "a").deleted, 0);
    assert!(kit.txn(TxnRequest::default()).succeeded);
    kit.txn(then(vec![op_range("a", "", 0), op_delete("x", "y")]));
    kit.grant(1).unwrap();
    kit.ok(Command::LeaseRevoke { ids: vec![LeaseId(1)], leader: None });
    kit.compact(2).unwrap();
    assert_eq!(kit.keyspace.revision(), 2);
}

#[test]
fn put_returns_and_keeps_what_it_is_asked_to() {
    let mut kit = Kit::new();
    kit.grant(7).unwrap();
    kit.ok(put_leased("a", "1", 7));
    let request = PutRequest { prev_kv: true, ..put_request("a", "2") };
    let old = KeyValue { lease: LeaseId(7), ..kv("a", "1", 2, 2, 1) };
    let expected = Reply::Put(PutReply { prev_kv: Some(old) });
    assert_eq!(kit.ok(Command::Put(request)), expected);
    assert_eq!(kit.get("a").unwrap().lease, LeaseId::NONE);

    kit.ok(put_leased("a", "3", 7));
    let request = PutRequest { ignore_lease: true, ..put_request("a", "4") };
    kit.ok(Command::Put(request));
    let request = PutRequest { ignore_value: true, lease: LeaseId(7), ..put_request("a", "") };
    kit.ok(Command::Put(request));
    let now = kit.get("a").unwrap();
    assert_eq!((now.lease, now.value.as_ref(), now.version), (LeaseId(7), &b"4"[..], 5));

    let missing = |ignore_value, ignore_lease| {
        Command::Put(PutRequest { ignore_value, ignore_lease, ..put_request("b", "") })
    };
    assert_eq!(kit.refused(missing(true, false)), ApiError::KeyNotFound);
    assert_eq!(kit.refused(missing(false, true)), ApiError::KeyNotFound);
    assert_eq!(kit.refused(put_leased("b", "", 99)), ApiError::LeaseNotFound);
}

#[test]
fn large_values_come_back_everywhere() {
    let mut kit = Kit::new();
    let large = "x".repeat(5000);
    kit.put("a", &large);
    kit.put("a", "small");
    let applied = kit.put("a", &large);
    assert_eq!(values(&[applied.events[0].prev_kv.clone().unwrap()]), ["small"]);
    assert_eq!(values(&[kit.get("a").unwrap()])[0], large);
    assert_eq!(values(&[kit.get_at("a", 2).unwrap()])[0], large);
    kit.keyspace.want_prev_kv(false);
    assert_eq!(kit.put("a", "2").events[0].prev_kv, None);
    assert!(kit.put("a", "3").events[0].prev_kv.is_some());
}

#[test]
fn deletes_are_numbered_in_key_order() {
    let mut kit = Kit::new();
    for key in ["c", "a", "b"] {
        kit.put(key, "v");
    }
    let applied = kit.apply(&Command::DeleteRange(DeleteRangeRequest {
        range: range("a", "c"),
        prev_kv: false,
    }));
    assert_eq!(applied.revision, 5);
    assert_eq!(
        applied.reply,
        Ok(Reply::DeleteRange(DeleteRangeReply { deleted: 2, prev_kvs: vec![] }))
    );
    let event = |key: &str, create| Event {
        kind: EventKind::Delete,
        kv: KeyValue { mod_revision: 5, ..kv(key, "", 0, 5, 0) },
        prev_kv: Some(kv(key, "v", create, create, 1)),
    };
    assert_eq!(applied.events, [event("a", 3), event("b", 4)]);
    let reply = kit.delete_range("a", "\0");
    assert_eq!((reply.deleted, values(&reply.prev_kvs)), (1, vec!["v".to_string()]));
}

fn alarm(action: AlarmAction, kind: AlarmKind) -> Command {
    Command::Alarm(AlarmRequest { action, member: NodeId(5), kind: Some(kind) })
}

#[test]
fn no_space_refuses_what_adds() {
    let mut kit = Kit::new();
    kit.put("a", "1");
    kit.grant(1).unwrap();
    let applied = kit.apply(&alarm(AlarmAction::Activate, AlarmKind::NoSpace));
    assert!(applied.alarm_changed);
    assert_eq!(applied.reply, Ok(Reply::Alarm(vec![(NodeId(5), AlarmKind::NoSpace)])));
    let again = kit.apply(&alarm(AlarmAction::Activate, AlarmKind::NoSpace));
    assert!(!again.alarm_changed);
    assert_eq!(again.reply, applied.reply);
    kit.reopen();
    assert_eq!(kit.refused(put("b", "1")), ApiError::NoSpace);
    assert_eq!(kit.grant(2), Err(ApiError::NoSpace));
    // A put in the branch that is not taken counts too.
    let txn = TxnRequest { compare: vec![], success: vec![], failure: vec![op_put("a", "")] };
    assert_eq!(kit.refused(Command::Txn(txn)), ApiError::NoSpace);
    kit.txn(then(vec![op_delete("x", "")]));
    assert_eq!(kit.delete("a").deleted, 1);
    kit.ok(Command::LeaseRevoke { ids: vec![LeaseId(1)], leader: None });
    kit.compact(3).unwrap();
    assert!(kit.apply(&alarm(AlarmAction::Deactivate, AlarmKind::NoSpace)).alarm_changed);
    assert_eq!(kit.ok(alarm(AlarmAction::Deactivate, AlarmKind::NoSpace)), Reply::Alarm(vec![]));
    kit.put("b", "1");
}

#[test]
fn corrupt_refuses_every_write() {
    let mut kit = Kit::new();
    kit.put("a", "1");
    kit.grant(1).unwrap();
    kit.ok(alarm(AlarmAction::Activate, AlarmKind::Corrupt));
    kit.ok(alarm(AlarmAction::Activate, AlarmKind::NoSpace));
    let delete = DeleteRangeRequest { range: range("a", ""), prev_kv: false };
    for command in [
        put("a", "2"),
        Command::DeleteRange(delete),
        Command::Txn(then(vec![op_delete("a", "")])),
        Command::Compact(CompactRequest { revision: 2, physical: false }),
        Command::LeaseGrant { id: LeaseId(2), ttl_seconds: 5 },
        Command::LeaseRevoke { ids: vec![LeaseId(1)], leader: None },
    ] {
        assert_eq!(kit.refused(command), ApiError::Corrupt);
    }
    assert_eq!(kit.keys_at(0), ["a"]);
    assert_eq!(kit.keyspace.view().alarms(Some(AlarmKind::Corrupt)).len(), 1);
    assert_eq!(kit.keyspace.view().alarms(None).len(), 2);
}

#[test]
fn the_state_hash_remembers() {
    let mut kit = Kit::new();
    let mut hashes = Vec::new();
    for n in 0..300 {
        kit.put("a", &n.to_string());
        hashes.push(kit.keyspace.state_hash());
    }
    kit.reopen();
    assert_eq!(kit.keyspace.state_hash(), *hashes.last().unwrap());
    assert_eq!(kit.keyspace.state_hash_at(LogIndex(290)), Some(hashes[289]));
    assert_eq!(kit.keyspace.state_hash_at(LogIndex(64)), Some(hashes[63]));
    assert_eq!(kit.keyspace.state_hash_at(LogIndex(65)), None);
    // One different byte, one different refusal: another hash.
    let mut other = Kit::new();
    other.put("a", "x");
    assert_ne!(other.keyspace.state_hash(), hashes[0]);
    let (mut a, mut b) = (Kit::new(), Kit::new());
    a.refused(put_leased("a", "", 1));
    b.ok(Command::LeaseCheckpoint { remaining: vec![], leader: None });
    assert_ne!(a.keyspace.state_hash(), b.keyspace.state_hash());
}

#[test]
#[should_panic(expected = "applied twice")]
fn an_entry_is_applied_once() {
    let mut kit = Kit::new();
    kit.put("a", "1");
    kit.index -= 1;
    kit.put("a", "1");
}
