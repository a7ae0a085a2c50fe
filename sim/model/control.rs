//! The model against vectors of etcd's own behaviour, so that a slip in it does not hide behind
//! the same slip in the product.

use super::Model;
use bytes::Bytes;
use quorate::types::command::{
    Compare, CompareResult, CompareTarget, DeleteRangeRequest, LeaseLeader, PutRequest,
    RangeRequest,
};
use quorate::types::reply::{EventKind, PutReply, Reply};
use quorate::types::{Command, KeyRange, LeaseId, LogIndex, Term};

pub fn self_check() {
    super::rights::self_check();
    let put = |key: &str, value: &str| {
        Command::Put(PutRequest {
            key: Bytes::copy_from_slice(key.as_bytes()),
            value: Bytes::copy_from_slice(value.as_bytes()),
            prev_kv: true,
            ..PutRequest::default()
        })
    };
    let mut m = Model::default();
    assert_eq!(m.revision(), 1, "a new store is at revision 1");
    assert_eq!(m.apply(&put("a", "1"), Term(1)).revision, 2);
    let again = m.apply(&put("a", "2"), Term(1));
    let Ok(Reply::Put(PutReply { prev_kv: Some(prev) })) = again.reply else {
        panic!("the old pair comes back")
    };
    assert_eq!((prev.mod_revision, prev.version), (2, 1));
    let nothing =
        Command::DeleteRange(DeleteRangeRequest { range: KeyRange::single("zz"), prev_kv: false });
    assert_eq!(m.apply(&nothing, Term(1)).revision, 3, "no change, no revision");
    let gone =
        Command::DeleteRange(DeleteRangeRequest { range: KeyRange::new("a", "b"), prev_kv: true });
    assert_eq!(m.apply(&gone, Term(1)).revision, 4);
    assert_eq!(m.apply(&put("a", "3"), Term(1)).revision, 5);
    let read = |revision| RangeRequest {
        range: KeyRange::single("a"),
        revision,
        ..RangeRequest::default()
    };
    assert_eq!(m.range_at(&read(3), 5).kvs[0].version, 2);
    assert_eq!(m.range_at(&read(4), 5).count, 0);
    let now = &m.range_at(&read(0), 5).kvs[0];
    assert_eq!((now.create_revision, now.version), (5, 1), "a delete ends the generation");
    // A value compare on a missing key is false, even "not equal"; numbers compare with zero.
    let missing = |target| Compare {
        range: KeyRange::single("nope"),
        result: CompareResult::NotEqual,
        target,
    };
    assert!(!m.holds(&missing(CompareTarget::Value(Bytes::from_static(b"x"))), 5));
    assert!(m.holds(&missing(CompareTarget::Version(3)), 5));
    // A revoke is one revision of deletes, each event with what was there before.
    let grant = Command::LeaseGrant { id: LeaseId(9), ttl_seconds: 5 };
    assert_eq!(m.apply(&grant, Term(1)).revision, 5, "a grant makes no revision");
    for key in ["l2", "l1"] {
        let mut leased = put(key, "x");
        if let Command::Put(put) = &mut leased {
            put.lease = LeaseId(9);
        }
        m.apply(&leased, Term(1));
    }
    let revoke = Command::LeaseRevoke { ids: vec![LeaseId(9)], leader: None };
    assert_eq!(m.apply(&revoke, Term(1)).revision, 8);
    let events = m.events_at(8);
    assert_eq!(events.len(), 2);
    assert!(events.iter().all(|e| e.kind == EventKind::Delete && e.kv.mod_revision == 8));
    assert_eq!(events[0].kv.key, Bytes::from_static(b"l1"), "in key order");
    assert_eq!(events[0].prev_kv.as_ref().map(|kv| kv.mod_revision), Some(7));
    assert!(m.apply(&revoke, Term(1)).reply.is_err(), "it is gone");
    let by = |applied| Some(LeaseLeader { term: Term(1), applied: LogIndex(applied) });
    let stale = Command::LeaseRevoke { ids: vec![LeaseId(8)], leader: by(9) };
    assert!(m.apply(&stale, Term(2)).reply.is_err(), "a deposed leader's expiry is refused");
    let grant = Command::LeaseGrant { id: LeaseId(8), ttl_seconds: 9 };
    m.apply_for(None, &grant, LogIndex(20), Term(1));
    let early = Command::LeaseRevoke { ids: vec![LeaseId(8)], leader: by(19) };
    assert!(m.apply(&early, Term(1)).reply.is_ok() && m.has_lease(LeaseId(8)), "not heard of");
    let end = Command::LeaseRevoke { ids: vec![LeaseId(8)], leader: by(20) };
    assert!(m.apply(&end, Term(1)).reply.is_ok() && !m.has_lease(LeaseId(8)));
}
