use super::cluster::{Cluster, group_ids};
use crate::node::action::{Action, Answer, StopReason};
use crate::node::boot::Founding;
use crate::node::membership::MembershipChange;
use crate::raft::Role;
use crate::types::command::{CompactRequest, PutRequest};
use crate::types::reply::Reply;
use crate::types::{ApiError, Command, GroupId, LeaseId, NodeId};
use bytes::Bytes;

const ROOT: GroupId = GroupId::ROOT;

fn revision(answer: Result<Answer, ApiError>) -> i64 {
    match answer {
        Ok(Answer::Applied { revision, .. }) => revision,
        other => panic!("{other:?}"),
    }
}

/// Lease 5, asked of that member.
fn grant(cluster: &mut Cluster, of: NodeId, ttl_seconds: i64) {
    let command = Command::LeaseGrant { id: LeaseId(5), ttl_seconds };
    let token = cluster.ask(of, |token| Action::Propose { group: ROOT, token, command });
    cluster.wait(token).unwrap();
}

#[test]
fn a_lone_member_serves_at_once() {
    let mut cluster = Cluster::new(1, 1, |_| {});
    let id = cluster.ids()[0];
    let token = cluster.put(id, ROOT, "a", "1");
    assert_eq!(revision(cluster.wait(token)), 2);
    assert!(cluster.now_ms < 500, "{} ms", cluster.now_ms);
    let token = cluster.ask(id, |token| Action::Read { group: ROOT, token });
    assert!(matches!(cluster.wait(token), Ok(Answer::Barrier { .. })));
    assert_eq!(cluster.value(id, ROOT, "a").unwrap(), "1");
    cluster.crash(id);
    cluster.start(id).unwrap();
    let token = cluster.ask(id, |token| Action::Read { group: ROOT, token });
    cluster.wait(token).unwrap();
    assert_eq!(cluster.value(id, ROOT, "a").unwrap(), "1");
}

#[test]
fn sixteen_groups_serve_writes_and_reads_from_every_member() {
    let mut cluster = Cluster::new(3, 16, |_| {});
    cluster.settle(16);
    let mut tokens = Vec::new();
    for id in cluster.ids() {
        for group in group_ids(16) {
            tokens.push(cluster.put(id, group, &format!("k{id}"), &format!("{group}")));
        }
    }
    cluster.wait_all(&tokens);
    let mut tokens = Vec::new();
    for id in cluster.ids() {
        for group in group_ids(16) {
            tokens.push(cluster.ask(id, |token| Action::Read { group, token }));
        }
    }
    cluster.wait_all(&tokens);
    for id in cluster.ids() {
        for group in group_ids(16) {
            assert_eq!(cluster.value(id, group, &format!("k{id}")).unwrap(), format!("{group}"));
            assert_eq!(cluster.view(id, group).revision(), 4);
        }
    }
    cluster.converge(16);
}

#[test]
fn acknowledged_writes_survive_crashes_in_turn_and_of_all() {
    let mut cluster = Cluster::new(3, 4, |config| {
        config.checkpoint.tail_entries = 20;
        config.core.trim.keep_entries = 10;
        config.core.trim.step_entries = 5;
    });
    cluster.settle(4);
    let ids = cluster.ids();
    let mut written = 0;
    for round in 0..9 {
        let down = ids[round % 3];
        cluster.crash(down);
        let up = ids[(round + 1) % 3];
        cluster.settle_at(up, 4);
        for group in group_ids(4) {
            let tokens: Vec<_> =
                (0..10).map(|n| cluster.put(up, group, &format!("r{round}-{n}"), "v")).collect();
            cluster.wait_all(&tokens);
        }
        written += 10;
        cluster.start(down).unwrap();
        cluster.run(500);
    }
    for &id in &ids {
        cluster.crash(id);
    }
    for &id in &ids {
        cluster.start(id).unwrap();
    }
    for group in group_ids(4) {
        let token = cluster.ask(ids[0], |token| Action::Read { group, token });
        cluster.wait(token).unwrap();
        assert_eq!(cluster.view(ids[0], group).revision(), 1 + written);
        assert_eq!(cluster.value(ids[0], group, "r8-9").unwrap(), "v");
    }
    cluster.converge(4);
    let status = cluster.member(ids[0]).core.status(ROOT).unwrap();
    assert!(status.raft.start.0 > 50, "the log is trimmed: {}", status.raft.start);
}

#[test]
fn a_lagging_follower_is_brought_up_by_snapshots_while_writes_go_on() {
    let mut cluster = Cluster::new(3, 3, |config| {
        config.checkpoint.tail_entries = 20;
        config.core.trim.keep_entries = 10;
        config.core.trim.step_entries = 5;
        config.chunk_bytes = 500;
    });
    cluster.settle(3);
    let ids = cluster.ids();
    let token = cluster.put(ids[0], ROOT, "first", "v");
    cluster.wait(token).unwrap();
    cluster.crash(ids[2]);
    cluster.settle_at(ids[0], 3);
    for n in 0..200 {
        let tokens: Vec<_> = group_ids(3)
            .into_iter()
            .map(|group| cluster.put(ids[0], group, &format!("k{n}"), "some value of a key"))
            .collect();
        cluster.wait_all(&tokens);
    }
    cluster.start(ids[2]).unwrap();
    let mut tokens = Vec::new();
    for n in 0..100 {
        tokens.push(cluster.put(ids[1], GroupId(1 + n % 3), &format!("more{n}"), "v"));
        cluster.run(20);
    }
    cluster.wait_all(&tokens);
    cluster.converge(3);
    let fetched = cluster.member(ids[2]).core.counters().0.snapshots_fetched;
    assert!(fetched >= 3, "{fetched} states fetched");
    assert_eq!(cluster.value(ids[2], GroupId(2), "k17").unwrap(), "some value of a key");
    // What was installed is durable, and the log goes on from there.
    cluster.crash(ids[2]);
    cluster.start(ids[2]).unwrap();
    let token = cluster.put(ids[2], GroupId(3), "last", "v");
    cluster.wait(token).unwrap();
    cluster.converge(3);
}

#[test]
fn a_crash_anywhere_in_an_install_recovers() {
    let (mut before, mut after, mut amended) = (0, 0, 0);
    for at in 0..60 {
        let mut cluster = Cluster::new(3, 1, |config| {
            config.checkpoint.tail_entries = 20;
            config.core.trim.keep_entries = 10;
            config.core.trim.step_entries = 5;
            config.chunk_bytes = 2000;
        });
        cluster.settle(1);
        let ids = cluster.ids();
        cluster.crash(ids[2]);
        cluster.settle_at(ids[0], 1);
        for round in 0..5 {
            let tokens: Vec<_> = (0..20)
                .map(|n| cluster.put(ids[0], ROOT, &format!("k{round}-{n}"), "value"))
                .collect();
            cluster.wait_all(&tokens);
            cluster.run(200);
        }
        cluster.start(ids[2]).unwrap();
        // First to the edge of the install, then turn by turn.
        cluster.turn_until("a fetch", |cluster| {
            cluster.member(ids[2]).core.status(ROOT).unwrap().fetching
        });
        cluster.turns(at);
        let counters = cluster.member(ids[2]).core.counters().0;
        cluster.crash(ids[2]);
        cluster.start(ids[2]).unwrap();
        let made_up = cluster.member(ids[2]).core.counters().0.log_starts_amended;
        match counters.snapshots_fetched {
            0 => before += 1,
            _ => after += 1,
        }
        amended += made_up;
        cluster.converge(1);
        assert_eq!(cluster.view(ids[2], ROOT).revision(), 101);
    }
    assert!(before > 10 && after > 10 && amended > 0, "{before} {after} {amended}");
}

#[test]
fn a_wiped_member_is_refused_and_cannot_vote() {
    let mut cluster = Cluster::new(3, 1, |_| {});
    cluster.settle(1);
    let ids = cluster.ids();
    let token = cluster.put(ids[0], ROOT, "a", "1");
    cluster.wait(token).unwrap();
    cluster.converge(1);
    let wiped = ids[2];
    cluster.crash(wiped);
    cluster.nodes.get_mut(&wiped).unwrap().disk = std::sync::Arc::new(crate::io::MemDisk::new(99));
    cluster.start(wiped).unwrap();
    cluster.run(10_000);
    let refused: u64 = ids[..2].iter().map(|id| cluster.nodes[id].refused).sum();
    assert!(refused > 0, "its frames are refused");
    assert_eq!(cluster.view(wiped, ROOT).revision(), 1);
    assert_ne!(cluster.leader(ROOT), Some(wiped));
    // With one honest member and the wiped one there is no quorum.
    let token = cluster.put(ids[0], ROOT, "b", "2");
    cluster.wait(token).unwrap();
    cluster.crash(ids[1]);
    let token = cluster.put(ids[0], ROOT, "c", "3");
    assert!(cluster.wait(token).is_err());
}

#[test]
fn a_lease_ends_in_time_and_not_before_and_keepalives_work_from_a_follower() {
    let mut cluster = Cluster::new(3, 1, |_| {});
    cluster.settle(1);
    let leader = cluster.leader(ROOT).unwrap();
    let follower = cluster.ids().into_iter().find(|&id| id != leader).unwrap();
    grant(&mut cluster, follower, 3);
    let put = Command::Put(PutRequest {
        key: Bytes::from_static(b"k"),
        value: Bytes::from_static(b"v"),
        lease: LeaseId(5),
        ..PutRequest::default()
    });
    let token = cluster.ask(follower, |token| Action::Propose { group: ROOT, token, command: put });
    cluster.wait(token).unwrap();
    for id in [leader, follower] {
        cluster.run(2_000);
        let token =
            cluster.ask(id, |token| Action::KeepAlive { group: ROOT, token, lease: LeaseId(5) });
        assert_eq!(cluster.wait(token), Ok(Answer::KeptAlive { ttl_seconds: 3 }));
    }
    let token =
        cluster.ask(follower, |token| Action::LeaseTtl { group: ROOT, token, lease: LeaseId(5) });
    let answer = cluster.wait(token).unwrap();
    let Answer::LeaseTtl { granted_seconds: 3, remaining_seconds: 1..=3 } = answer else {
        panic!("{answer:?}");
    };
    cluster.run(2_800);
    assert!(cluster.value(follower, ROOT, "k").is_some());
    cluster.run(1_500);
    assert!(cluster.value(follower, ROOT, "k").is_none());
    let token =
        cluster.ask(follower, |token| Action::KeepAlive { group: ROOT, token, lease: LeaseId(5) });
    assert_eq!(cluster.wait(token), Ok(Answer::KeptAlive { ttl_seconds: 0 }));
    let token =
        cluster.ask(leader, |token| Action::LeaseTtl { group: ROOT, token, lease: LeaseId(5) });
    let gone = Answer::LeaseTtl { granted_seconds: 0, remaining_seconds: -1 };
    assert_eq!(cluster.wait(token), Ok(gone));
}

#[test]
fn a_new_leader_counts_no_lease_before_it_has_applied_what_was_decided_before_it() {
    let mut cluster = Cluster::new(3, 1, |config| config.core.lease_checkpoint_ms = Some(1_000));
    cluster.settle(1);
    let leader = cluster.leader(ROOT).unwrap();
    grant(&mut cluster, leader, 10);
    cluster.run(8_000);
    let to = cluster.ids().into_iter().find(|&id| id != leader).unwrap();
    let left = cluster.view(to, ROOT).leases().unwrap()[0].remaining_seconds;
    assert!((1..5).contains(&left), "{left}");
    // The next leader does not come to apply that the lease lives on.
    cluster.nodes.get_mut(&to).unwrap().held_applies = Some(Vec::new());
    let token =
        cluster.ask(leader, |token| Action::KeepAlive { group: ROOT, token, lease: LeaseId(5) });
    assert_eq!(cluster.wait(token), Ok(Answer::KeptAlive { ttl_seconds: 10 }));
    let token = cluster.ask(leader, |token| Action::Transfer { group: ROOT, token, to });
    assert_eq!(cluster.wait(token), Ok(Answer::Transferred));
    cluster.run(8_000);
    cluster.apply_held(to);
    cluster.run(9_000);
    assert_eq!(cluster.view(to, ROOT).leases().unwrap().len(), 1);
    cluster.run(5_000);
    assert_eq!(cluster.view(to, ROOT).leases().unwrap().len(), 0);
}

#[test]
fn a_new_leader_gives_leases_their_full_time() {
    let mut cluster = Cluster::new(3, 1, |_| {});
    cluster.settle(1);
    let leader = cluster.leader(ROOT).unwrap();
    grant(&mut cluster, leader, 5);
    cluster.run(4_000);
    let to = cluster.ids().into_iter().find(|&id| id != leader).unwrap();
    let token = cluster.ask(leader, |token| Action::Transfer { group: ROOT, token, to });
    assert_eq!(cluster.wait(token), Ok(Answer::Transferred));
    assert_eq!(cluster.leader(ROOT), Some(to));
    cluster.run(4_800);
    assert_eq!(cluster.view(to, ROOT).leases().unwrap().len(), 1);
    cluster.run(2_500);
    assert_eq!(cluster.view(to, ROOT).leases().unwrap().len(), 0);
}

#[test]
fn a_member_that_stops_hands_over_first() {
    let mut cluster = Cluster::new(3, 8, |_| {});
    cluster.settle(8);
    let leader = cluster.leader(ROOT).unwrap();
    cluster.run(1_000);
    cluster.tell(leader, Action::Stop);
    cluster.run_until("a handover", 3_000, |cluster| cluster.nodes[&leader].stopped.is_some());
    assert_eq!(cluster.nodes[&leader].stopped, Some(StopReason::Asked));
    for group in group_ids(8) {
        let soft = cluster.member(leader).core.soft(group).unwrap();
        assert_ne!(soft.role, Role::Leader);
    }
    let token = cluster.put(leader, ROOT, "a", "1");
    assert_eq!(cluster.wait(token), Err(ApiError::Stopped));
}

#[test]
fn without_a_quorum_requests_time_out_and_service_comes_back_by_itself() {
    let mut cluster = Cluster::new(3, 1, |_| {});
    cluster.settle(1);
    let token = cluster.put(cluster.ids()[0], ROOT, "a", "1");
    cluster.wait(token).unwrap();
    cluster.converge(1);
    let ids = cluster.ids();
    cluster.crash(ids[1]);
    cluster.crash(ids[2]);
    cluster.run(3_000);
    let write = cluster.put(ids[0], ROOT, "b", "2");
    let read = cluster.ask(ids[0], |token| Action::Read { group: ROOT, token });
    cluster.run(1_000);
    assert!(!cluster.answers.contains_key(&write) && !cluster.answers.contains_key(&read));
    let timeouts =
        [ApiError::Timeout, ApiError::TimeoutConnectionLost, ApiError::TimeoutLeaderFail];
    for token in [write, read] {
        let error = cluster.wait(token).unwrap_err();
        assert!(timeouts.contains(&error), "{error:?}");
    }
    let write = cluster.put(ids[0], ROOT, "c", "3");
    cluster.start(ids[1]).unwrap();
    cluster.wait(write).unwrap();
}

#[test]
fn members_come_as_learners_and_go() {
    let mut cluster = Cluster::new(3, 1, |config| {
        config.core.healthy_ms = 100;
        config.core.trim.keep_entries = 10;
        config.core.trim.step_entries = 5;
    });
    cluster.settle(1);
    let ids = cluster.ids();
    let leader = cluster.leader(ROOT).unwrap();
    let follower = ids.iter().copied().find(|&id| id != leader).unwrap();
    let tokens: Vec<_> =
        (0..50).map(|n| cluster.put(follower, ROOT, &format!("k{n}"), "v")).collect();
    cluster.wait_all(&tokens);
    cluster.run(500);
    let change = MembershipChange::Add {
        peer_urls: super::cluster::url(4),
        learner: true,
        unix_seconds: 1_700_000_000,
    };
    let again = change.clone();
    let token = cluster.ask(follower, |token| Action::Membership { token, change });
    let Ok(Answer::Members { member: Some(member), members }) = cluster.wait(token) else {
        panic!("{:?}", cluster.answers[&token]);
    };
    assert_eq!((members.len(), member.is_learner), (4, true));
    let token = cluster.ask(follower, |token| Action::Membership { token, change: again });
    assert_eq!(cluster.wait(token), Err(ApiError::MemberIdExists));
    let new = member.id;
    let id = cluster.member(leader).core.config().cluster;
    let promote = MembershipChange::Promote { id: new };
    let token =
        cluster.ask(follower, |token| Action::Membership { token, change: promote.clone() });
    assert_eq!(cluster.wait(token), Err(ApiError::LearnerNotReady));
    cluster.add(new, id, Founding::Join, 4);
    cluster.converge(1);
    assert_eq!(cluster.value(new, ROOT, "k7").unwrap(), "v");
    cluster.run(1_000);
    assert_eq!(cluster.member(new).applier.root().members[&new].name, "n4");
    let token = cluster.ask(leader, |token| Action::Membership { token, change: promote });
    cluster.wait(token).unwrap();
    let token = cluster.put(new, ROOT, "from the new one", "v");
    cluster.wait(token).unwrap();
    // The leader goes; the others carry on, and it is told so.
    let change = MembershipChange::Remove { id: leader };
    let token = cluster.ask(follower, |token| Action::Membership { token, change });
    cluster.wait(token).unwrap();
    cluster.run(3_000);
    let next = cluster.leader(ROOT).unwrap();
    assert_ne!(next, leader);
    let token = cluster.put(new, ROOT, "after", "v");
    cluster.wait(token).unwrap();
    let root = cluster.member(new).applier.root();
    assert!(root.removed.contains(&leader) && root.members.len() == 3);
    let moved = MembershipChange::UpdatePeerUrls { id: new, peer_urls: super::cluster::url(9) };
    let token = cluster.ask(new, |token| Action::Membership { token, change: moved });
    cluster.wait(token).unwrap();
    assert_eq!(cluster.member(new).applier.root().members[&new].peer_urls, super::cluster::url(9));
    assert!(cluster.member(new).core.status(ROOT).unwrap().raft.conf.voters.contains(&new));
    let unknown = MembershipChange::Remove { id: NodeId(77) };
    let token = cluster.ask(new, |token| Action::Membership { token, change: unknown });
    assert_eq!(cluster.wait(token), Err(ApiError::MemberNotFound));
}

/// The two that are never started are no majority of either half, only of both together.
#[test]
fn writes_go_on_while_a_member_that_never_started_is_replaced_by_another() {
    let mut cluster = Cluster::new(3, 1, |config| config.core.strict_reconfig = false);
    cluster.settle(1);
    let leader = cluster.leader(ROOT).unwrap();
    let gone = cluster.ids().into_iter().find(|&id| id != leader).unwrap();
    let replace = |cluster: &mut Cluster, old, by, auto_leave| {
        let add = MembershipChange::Add {
            peer_urls: super::cluster::url(by),
            learner: false,
            unix_seconds: 1_700_000_000,
        };
        let changes = vec![add, MembershipChange::Remove { id: old }];
        let change = MembershipChange::Joint { changes, auto_leave };
        let token = cluster.ask(leader, |token| Action::Membership { token, change });
        cluster.wait(token).unwrap();
        let members = &cluster.member(leader).applier.root().members;
        members.values().find(|m| m.peer_urls == super::cluster::url(by)).unwrap().id
    };
    let never_started = replace(&mut cluster, gone, 4, true);
    cluster.run(1_000);
    replace(&mut cluster, never_started, 5, false);
    assert!(cluster.member(leader).core.status(ROOT).unwrap().raft.conf.is_joint());
    let token = cluster.put(leader, ROOT, "key", "value");
    cluster.wait(token).unwrap();
}

#[test]
fn a_full_quota_refuses_puts_raises_the_alarm_and_lets_deletes_through() {
    let mut cluster = Cluster::new(1, 1, |config| {
        config.core.quota_bytes = 200_000;
        config.checkpoint.tail_entries = 5;
    });
    let id = cluster.ids()[0];
    let value = "v".repeat(20_000);
    let mut error = None;
    for n in 0..40 {
        let token = cluster.put(id, ROOT, &format!("k{n}"), &value);
        if let Err(refused) = cluster.wait(token) {
            error = Some(refused);
            break;
        }
    }
    assert_eq!(error, Some(ApiError::NoSpace));
    cluster.run(100);
    assert_eq!(cluster.view(id, ROOT).alarms(None).len(), 1);
    let command = Command::DeleteRange(crate::types::command::DeleteRangeRequest {
        range: crate::types::KeyRange::single("k1"),
        prev_kv: false,
    });
    let token = cluster.ask(id, |token| Action::Propose { group: ROOT, token, command });
    cluster.wait(token).unwrap();
}

/// etcd measures a request before it reaches the log and looks at alarms when it applies.
#[test]
fn a_request_hears_first_that_it_is_too_large_then_of_alarms_then_of_itself() {
    let mut cluster = Cluster::new(1, 1, |_| {});
    let id = cluster.ids()[0];
    let grant = |ttl_seconds| Command::LeaseGrant { id: crate::types::LeaseId(1), ttl_seconds };
    let too_long = crate::types::limits::LEASE_TTL_SECONDS_MAX + 1;
    let mut refused = |command| {
        let token = cluster.ask(id, |token| Action::Propose { group: ROOT, token, command });
        cluster.wait(token).err()
    };
    assert_eq!(refused(grant(too_long)), Some(ApiError::LeaseTtlTooLarge));
    let alarm = |kind| {
        Command::Alarm(crate::types::command::AlarmRequest {
            action: crate::types::command::AlarmAction::Activate,
            member: NodeId(7),
            kind: Some(kind),
        })
    };
    for (kind, error) in [
        (crate::types::command::AlarmKind::NoSpace, ApiError::NoSpace),
        (crate::types::command::AlarmKind::Corrupt, ApiError::Corrupt),
    ] {
        assert_eq!(refused(alarm(kind)), None);
        assert_eq!(refused(grant(too_long)), Some(error.clone()));
        let put = |size: usize| {
            Command::Put(crate::types::command::PutRequest {
                key: "k".into(),
                value: vec![0; size].into(),
                ..Default::default()
            })
        };
        assert_eq!(refused(put(1)), Some(error));
        assert_eq!(refused(put(2 << 20)), Some(ApiError::RequestTooLarge));
    }
}

#[test]
fn a_physical_compaction_is_answered_once_it_is_done() {
    let mut cluster = Cluster::new(1, 1, |_| {});
    let id = cluster.ids()[0];
    let tokens: Vec<_> = (0..500).map(|n| cluster.put(id, ROOT, "k", &format!("{n}"))).collect();
    cluster.wait_all(&tokens);
    let command = Command::Compact(CompactRequest { revision: 400, physical: true });
    let token = cluster.ask(id, |token| Action::Propose { group: ROOT, token, command });
    let Ok(Answer::Applied { reply: Reply::Compact, .. }) = cluster.wait(token) else {
        panic!("{:?}", cluster.answers[&token]);
    };
    assert_eq!(cluster.member(id).applier.compacting().count(), 0);
}

#[test]
fn the_compaction_of_an_idle_member_stays_within_its_memory() {
    const CACHE_BYTES: usize = 64 << 10;
    let mut cluster = Cluster::new(1, 1, |config| config.store.cache_bytes = CACHE_BYTES);
    let id = cluster.ids()[0];
    let value = "v".repeat(500);
    // Every eighth key is written again, so that the compaction takes a little from every leaf.
    let keys: Vec<String> = (0..8_000).map(|n| format!("k{n:04}")).collect();
    let again = keys.iter().step_by(8);
    for key in keys.iter().chain(again) {
        let token = cluster.put(id, ROOT, key, &value);
        cluster.wait(token).expect("it was proposed");
    }
    let (mut most, before) = (0, cluster.member(id).applier.counters().checkpoints);
    let command = Command::Compact(CompactRequest { revision: 9_000, physical: true });
    let token = cluster.ask(id, |token| Action::Propose { group: ROOT, token, command });
    // Nothing is written any more, and the whole tree is changed.
    cluster.turn_until("all is removed", |cluster| {
        most = most.max(cluster.member(id).applier.pressure().dirty_bytes);
        cluster.answers.contains_key(&token)
    });
    let checkpoints = cluster.member(id).applier.counters().checkpoints - before;
    assert!(checkpoints > 1, "{checkpoints} checkpoints for the whole tree");
    // What a checkpoint has frozen, and what came on top: no more than one step of the cluster's,
    // of a hundred records in as many leaves, beyond the bound.
    let step = 100 * 5_000;
    assert!(most < 2 * (CACHE_BYTES as u64 + step), "{most} bytes of nodes that are not saved");
    assert_eq!(cluster.value(id, ROOT, "k0007").as_deref(), Some(value.as_bytes()));
}

#[test]
fn too_many_requests_are_refused_at_once_and_cancelled_ones_are_forgotten() {
    let mut cluster = Cluster::new(3, 1, |config| config.core.pending_max = 5);
    let id = cluster.ids()[0];
    let tokens: Vec<_> = (0..6).map(|n| cluster.put(id, ROOT, &format!("k{n}"), "v")).collect();
    cluster.run(10);
    assert_eq!(cluster.answers.get(&tokens[5]), Some(&Err(ApiError::TooManyRequests)));
    cluster.tell(id, Action::Cancel { token: tokens[0] });
    cluster.wait_all(&tokens[1..5]);
    assert!(!cluster.answers.contains_key(&tokens[0]));
    assert_eq!(cluster.member(id).core.pending(), 0);
}
