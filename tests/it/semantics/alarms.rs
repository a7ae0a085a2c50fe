//! Alarms and limits: what they refuse, and what goes on.

use super::*;
use pb::AlarmType::{Corrupt, Nospace};
use pb::alarm_request::AlarmAction::{Activate, Deactivate, Get};

async fn alarm(
    server: &Server,
    action: pb::alarm_request::AlarmAction,
    member_id: u64,
    kind: pb::AlarmType,
) -> Vec<(u64, pb::AlarmType)> {
    let request = pb::AlarmRequest { action: action as i32, member_id, alarm: kind as i32 };
    let answer = server.maintenance().alarm(request).await.expect("an answer").into_inner();
    answer.alarms.iter().map(|a| (a.member_id, a.alarm())).collect()
}

#[test]
fn alarms_are_a_set_of_member_and_kind() {
    with_server("sem-alarms", &[], |server| async move {
        let none = pb::AlarmType::None;
        assert_eq!(alarm(&server, Get, 0, none).await, []);
        assert_eq!(alarm(&server, Activate, 7, Nospace).await, [(7, Nospace)]);
        alarm(&server, Activate, 7, Nospace).await;
        assert_eq!(alarm(&server, Activate, 8, Corrupt).await, [(8, Corrupt)]);
        let mut all = alarm(&server, Get, 0, none).await;
        all.sort_unstable();
        assert_eq!(all, [(7, Nospace), (8, Corrupt)]);
        assert_eq!(alarm(&server, Get, 0, Corrupt).await, [(8, Corrupt)]);
        let status = server.maintenance().status(pb::StatusRequest {}).await;
        let mut errors = status.expect("status").into_inner().errors;
        errors.sort_unstable();
        assert_eq!(errors, ["memberID:7 alarm:NOSPACE ", "memberID:8 alarm:CORRUPT "]);
        assert_eq!(alarm(&server, Deactivate, 9, Nospace).await, [], "there is no such pair");
        assert_eq!(alarm(&server, Deactivate, 7, Nospace).await, [(7, Nospace)]);
        assert_eq!(alarm(&server, Get, 0, none).await, [(8, Corrupt)]);
    });
}

#[test]
fn without_space_nothing_is_added_and_all_else_goes_on() {
    const NO_SPACE: &str = "etcdserver: mvcc: database space exceeded";
    with_server("sem-nospace", &[], |server| async move {
        server.grant(1, 600).await.expect("a lease");
        server.put(pb::PutRequest { lease: 1, ..put("k", "1") }).await.expect("a put");
        server.set("j", "1").await;
        alarm(&server, Activate, 7, Nospace).await;
        assert_eq!(text(server.put(put("k", "2")).await), NO_SPACE);
        assert_eq!(text(server.txn(txn([Op::RequestPut(put("k", "2"))])).await), NO_SPACE);
        assert_eq!(text(server.grant(2, 60).await), NO_SPACE);
        server.range(range("k", "")).await.expect("reads");
        server.txn(txn([Op::RequestDeleteRange(delete("j", ""))])).await.expect("no put in it");
        server.compact(3, true).await.expect("compacts");
        assert_eq!(server.time_to_live(1).await.granted_ttl, 600);
        server.maintenance().defragment(pb::DefragmentRequest {}).await.expect("defragments");
        assert_eq!(server.revoke(1).await.expect("revokes"), 5);
        server.delete(delete("k", "")).await.expect("deletes");
        alarm(&server, Deactivate, 7, Nospace).await;
        server.set("k", "3").await;
    });
}

#[test]
fn a_corrupt_cluster_changes_nothing_and_is_still_read() {
    const CORRUPT: &str = "etcdserver: corrupt cluster";
    with_server("sem-corrupt", &[], |server| async move {
        server.grant(1, 600).await.expect("a lease");
        server.set("k", "1").await;
        alarm(&server, Activate, 7, Corrupt).await;
        assert_eq!(text(server.put(put("k", "2")).await), CORRUPT);
        assert_eq!(text(server.delete(delete("k", "")).await), CORRUPT);
        assert_eq!(text(server.txn(txn([Op::RequestPut(put("k", "2"))])).await), CORRUPT);
        assert_eq!(text(server.compact(2, false).await), CORRUPT);
        assert_eq!(text(server.grant(2, 60).await), CORRUPT);
        assert_eq!(text(server.revoke(1).await), CORRUPT);
        assert!(server.get("k").await.is_some());
        let read = server.txn(txn([Op::RequestRange(range("k", ""))])).await;
        assert_eq!(ranged(&read.expect("reads"), 0).count, 1);
        alarm(&server, Deactivate, 7, Corrupt).await;
        assert_eq!(server.set("k", "2").await, 3, "nothing had happened");
    });
}

#[test]
fn a_request_has_a_size() {
    with_server("sem-size", &["--max-request-bytes=1000"], |server| async move {
        const TOO_LARGE: &str = "etcdserver: request is too large";
        server.set("k", &"x".repeat(900)).await;
        assert_eq!(text(server.put(put("k", &"x".repeat(1100))).await), TOO_LARGE);
        let halves = ["a", "b"].map(|key| Op::RequestPut(put(key, &"x".repeat(600))));
        assert_eq!(text(server.txn(txn(halves)).await), TOO_LARGE);
        assert_eq!(server.revision().await, 2);
    });
}

#[test]
fn once_the_alarm_is_answered_as_cleared_writes_pass() {
    with_server("sem-disarm", &[], |server| async move {
        for _ in 0..100 {
            alarm(&server, Activate, 7, Nospace).await;
            assert!(server.put(put("k", "")).await.is_err());
            alarm(&server, Deactivate, 7, Nospace).await;
            server.put(put("k", "")).await.expect("cleared");
        }
    });
}
