//! Which fields an answer's header has.

use super::*;

#[test]
fn each_answer_says_who_where_and_when() {
    with_server("sem-headers", &[], |server| async move {
        server.set("k", "1").await;
        let mut maintenance = server.maintenance();
        let status = maintenance.status(pb::StatusRequest {}).await.expect("status").into_inner();
        let whole = status.header.expect("a header");
        assert!(whole.cluster_id != 0 && whole.member_id != 0 && whole.raft_term > 0);
        assert_eq!(whole.revision, 2);
        assert_eq!(status.leader, whole.member_id);
        let same = |header: Option<pb::ResponseHeader>| assert_eq!(header, Some(whole));

        same(server.range(range("k", "")).await.expect("a range").header);
        same(server.delete(delete("no", "")).await.expect("nothing").header);
        same(server.txn(txn([])).await.expect("a txn").header);
        same(server.grant(1, 600).await.expect("a lease").header);
        same(server.time_to_live(1).await.header);
        let mut leases = server.leases();
        same(
            leases
                .lease_leases(pb::LeaseLeasesRequest {})
                .await
                .expect("a list")
                .into_inner()
                .header,
        );
        let revoke = pb::LeaseRevokeRequest { id: 1 };
        same(leases.lease_revoke(revoke).await.expect("revoked").into_inner().header);
        same(
            maintenance
                .hash_kv(pb::HashKvRequest { revision: 0 })
                .await
                .expect("a hash")
                .into_inner()
                .header,
        );
        same(maintenance.hash(pb::HashRequest {}).await.expect("a hash").into_inner().header);
        same(
            maintenance
                .alarm(pb::AlarmRequest::default())
                .await
                .expect("alarms")
                .into_inner()
                .header,
        );
        let mut auth = pb::auth_client::AuthClient::new(server.channel.clone());
        same(auth.auth_status(pb::AuthStatusRequest {}).await.expect("status").into_inner().header);
        same(auth.user_list(pb::AuthUserListRequest {}).await.expect("users").into_inner().header);
        let (_, made) = watches::Watching::start(&server, watches::on("k", "", 0)).await;
        same(made.header);

        // The cluster's answers know no revision of the store,
        let mut cluster = pb::cluster_client::ClusterClient::new(server.channel.clone());
        let without = |header: Option<pb::ResponseHeader>| {
            assert_eq!(header, Some(pb::ResponseHeader { revision: 0, ..whole }));
        };
        let list = pb::MemberListRequest { linearizable: true };
        without(cluster.member_list(list).await.expect("a list").into_inner().header);
        let add = pb::MemberAddRequest {
            peer_ur_ls: vec!["http://127.0.0.1:1".to_string()],
            is_learner: true,
        };
        let added = cluster.member_add(add).await.expect("a learner").into_inner();
        without(added.header);
        let id = added.member.expect("the new member").id;
        // Whoever asks now is told of it, with a quorum's word or without.
        for linearizable in [true, false] {
            let list = cluster.member_list(pb::MemberListRequest { linearizable }).await;
            let members = list.expect("a list").into_inner().members;
            assert!(members.iter().any(|m| m.id == id && m.is_learner), "{members:?}");
        }
        let remove = pb::MemberRemoveRequest { id };
        without(cluster.member_remove(remove).await.expect("removed").into_inner().header);
        // and these two have none. To oneself is no move.
        let target_id = whole.member_id;
        let moved = maintenance.move_leader(pb::MoveLeaderRequest { target_id }).await;
        assert_eq!(moved.expect("no move").into_inner().header, None);
        let defragmented = maintenance.defragment(pb::DefragmentRequest {}).await;
        assert_eq!(defragmented.expect("done").into_inner().header, None);
    });
}
