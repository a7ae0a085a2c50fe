//! Leases (etcd's semantics 3.8).

use super::*;

fn revoke(ids: &[i64], leader_term: Option<u64>) -> Command {
    let ids = ids.iter().copied().map(LeaseId).collect();
    Command::LeaseRevoke { ids, leader: leader_term.map(|term| leader(term, u64::MAX)) }
}

fn leader(term: u64, applied: u64) -> LeaseLeader {
    LeaseLeader { term: Term(term), applied: LogIndex(applied) }
}

fn keys_of(kit: &Kit, id: i64) -> Vec<Bytes> {
    kit.keyspace.view().lease(LeaseId(id), true).unwrap().unwrap().keys
}

#[test]
fn grants() {
    let mut kit = Kit::new();
    let applied = kit.apply(&Command::LeaseGrant { id: LeaseId(-7), ttl_seconds: 5 });
    let granted = LeaseChange::Granted { id: LeaseId(-7), ttl_seconds: 5 };
    assert_eq!(applied.lease_changes, [granted]);
    assert_eq!(kit.grant(-7), Err(ApiError::LeaseExists));
    let long = Command::LeaseGrant { id: LeaseId(8), ttl_seconds: 9_000_000_001 };
    assert_eq!(kit.refused(long), ApiError::LeaseTtlTooLarge);
    let none = Command::LeaseGrant { id: LeaseId::NONE, ttl_seconds: 5 };
    assert_eq!(kit.refused(none), ApiError::LeaseNotFound);
    assert_eq!(kit.keyspace.view().lease(LeaseId(8), false).unwrap(), None);
}

#[test]
fn attachments_follow_the_key() {
    let mut kit = Kit::new();
    kit.grant(1).unwrap();
    kit.grant(2).unwrap();
    for key in ["b", "a", "c"] {
        kit.ok(put_leased(key, "", 1));
    }
    assert_eq!(keys_of(&kit, 1), ["a", "b", "c"]);
    kit.ok(put_leased("a", "", 2));
    kit.put("b", "");
    kit.delete("c");
    assert!(keys_of(&kit, 1).is_empty());
    assert_eq!(keys_of(&kit, 2), ["a"]);
    kit.reopen();
    assert_eq!(keys_of(&kit, 2), ["a"]);
}

#[test]
fn revoke_deletes_in_key_order_in_one_revision() {
    let mut kit = Kit::new();
    kit.grant(1).unwrap();
    for key in ["b", "a"] {
        kit.ok(put_leased(key, "v", 1));
    }
    kit.put("c", "");
    let applied = kit.apply(&revoke(&[1], None));
    assert_eq!(applied.revision, 5);
    let changed: Vec<_> =
        applied.events.iter().map(|e| (e.kv.key.clone(), e.kv.mod_revision)).collect();
    assert_eq!(changed, [("a".into(), 5), ("b".into(), 5)]);
    assert_eq!(applied.lease_changes, [LeaseChange::Revoked { id: LeaseId(1) }]);
    assert_eq!(kit.refused(revoke(&[1], None)), ApiError::LeaseNotFound);
    assert!(kit.keyspace.view().leases().unwrap().is_empty());
}

#[test]
fn expiry_of_many_makes_a_revision_for_each_with_keys() {
    let mut kit = Kit::new();
    for id in 1..=3 {
        kit.grant(id).unwrap();
    }
    kit.ok(put_leased("a", "", 3));
    kit.ok(put_leased("b", "", 1));
    let applied = kit.apply_in_term(&revoke(&[3, 2, 99, 1], Some(4)), 4);
    assert_eq!(applied.reply, Ok(Reply::LeaseRevoke));
    let changed: Vec<_> =
        applied.events.iter().map(|e| (e.kv.key.clone(), e.kv.mod_revision)).collect();
    assert_eq!(changed, [("a".into(), 4), ("b".into(), 5)]);
    assert_eq!(applied.revision, 5);
    assert_eq!(applied.lease_changes.len(), 3);
}

#[test]
fn a_deposed_leaders_expiry_is_refused() {
    let mut kit = Kit::new();
    kit.grant(1).unwrap();
    let applied = kit.apply_in_term(&revoke(&[1], Some(4)), 5);
    assert_eq!(applied.reply, Err(ApiError::NotLeader));
    assert!(kit.keyspace.view().lease(LeaseId(1), false).unwrap().is_some());
}

#[test]
fn a_leader_ends_and_counts_only_what_it_has_heard_of() {
    let mut kit = Kit::new();
    kit.grant(1).unwrap();
    kit.ok(revoke(&[1], None));
    kit.grant(1).unwrap();
    kit.reopen();
    let granted = kit.keyspace.view().leases().unwrap()[0].granted;
    let said = |applied| Some(leader(1, applied));
    let end = |applied| Command::LeaseRevoke { ids: vec![LeaseId(1)], leader: said(applied) };
    let left = |applied| Command::LeaseCheckpoint {
        remaining: vec![(LeaseId(1), 5)],
        leader: said(applied),
    };
    assert!(kit.apply(&end(granted.0 - 1)).lease_changes.is_empty(), "the first of the two");
    assert!(kit.apply(&left(granted.0 - 1)).lease_changes.is_empty());
    assert_eq!(kit.apply(&left(granted.0)).lease_changes.len(), 1);
    // The keyspace begins another log: the lease is older than all of it.
    kit.keyspace.rebase(LogIndex(1), Term(1));
    let at = ApplyContext { index: LogIndex(2), term: Term(1) };
    let applied = kit.keyspace.apply_for(None, &end(1), &at).unwrap();
    assert_eq!(applied.lease_changes, [LeaseChange::Revoked { id: LeaseId(1) }]);
}

#[test]
fn checkpoints_set_and_clear_the_remainder() {
    let mut kit = Kit::new();
    kit.grant(1).unwrap();
    let checkpoint = |seconds| Command::LeaseCheckpoint {
        remaining: vec![(LeaseId(1), seconds), (LeaseId(5), 3)],
        leader: None,
    };
    let applied = kit.apply(&checkpoint(17));
    assert_eq!(applied.lease_changes.len(), 1);
    kit.reopen();
    let remaining = |kit: &Kit| kit.keyspace.view().leases().unwrap()[0].remaining_seconds;
    assert_eq!(remaining(&kit), 17);
    kit.ok(checkpoint(0));
    assert_eq!(remaining(&kit), 0);
    let late = Command::LeaseCheckpoint {
        remaining: vec![(LeaseId(1), 5)],
        leader: Some(leader(4, u64::MAX)),
    };
    assert_eq!(kit.apply_in_term(&late, 5).reply, Err(ApiError::NotLeader));
    assert_eq!(remaining(&kit), 0, "a deposed leader's count is too little");
}
