//! Three real processes under `kill -9`, a member that comes back far behind, and the loss of
//! the quorum. `kill -9` keeps the page cache, so this proves recovery, not fsync: durability is
//! the simulator's to prove.

use crate::client::Client;
use crate::harness::{Cluster, wait_serving};
use quorate::api::proto::etcdserverpb as pb;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How long the chaos lasts: 30 s when shown, shorter in the ordinary run.
fn chaos_seconds() -> u64 {
    std::env::var("QUORATE_CHAOS_SECONDS").ok().and_then(|s| s.parse().ok()).unwrap_or(12)
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// The index of the member that leads, asked of the members themselves.
async fn leader(clients: &[Client], running: impl Fn(usize) -> bool) -> Option<usize> {
    for (at, client) in clients.iter().enumerate().filter(|(at, _)| running(*at)) {
        if let Ok(status) = client.status().await
            && status.leader != 0
            && status.header.is_some_and(|header| header.member_id == status.leader)
        {
            return Some(at);
        }
    }
    None
}

#[test]
fn no_acknowledged_write_is_lost_while_leaders_are_killed() {
    let mut cluster = Cluster::start("chaos", 3, &["--snapshot-count=2000"]);
    let addresses: Vec<String> = cluster.members.iter().map(|m| m.client()).collect();
    let runtime = runtime();
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        let clients: Vec<Client> = addresses.iter().map(|a| Client::new(a)).collect();
        let stop = Arc::new(AtomicBool::new(false));
        let failures = Arc::new(AtomicU64::new(0));
        let mut writers = Vec::new();
        for writer in 0..8_u64 {
            let (clients, stop, failures) = (clients.clone(), stop.clone(), failures.clone());
            writers.push(tokio::task::spawn_local(async move {
                let mut acknowledged: Vec<(String, String, i64)> = Vec::new();
                let mut at = writer as usize;
                let mut number = 0_u64;
                while !stop.load(Ordering::Relaxed) {
                    number += 1;
                    let key = format!("chaos/{writer}/{number:06}");
                    let value = format!("{writer}-{number}");
                    match clients[at % clients.len()].put(&key, &value).await {
                        Ok(response) => {
                            let revision = response.header.map_or(0, |h| h.revision);
                            acknowledged.push((key, value, revision));
                        }
                        Err(_) => {
                            failures.fetch_add(1, Ordering::Relaxed);
                            at += 1;
                            tokio::time::sleep(Duration::from_millis(20)).await;
                        }
                    }
                }
                acknowledged
            }));
        }

        let begun = Instant::now();
        let mut kills = 0;
        while begun.elapsed() < Duration::from_secs(chaos_seconds()) {
            tokio::time::sleep(Duration::from_secs(3)).await;
            if let Some(at) = leader(&clients, |at| cluster.members[at].is_running()).await {
                cluster.members[at].kill();
                kills += 1;
                tokio::time::sleep(Duration::from_secs(2)).await;
                cluster.members[at].start();
            }
        }
        stop.store(true, Ordering::Relaxed);
        let mut acknowledged = Vec::new();
        for writer in writers {
            acknowledged.extend(writer.await.expect("a writer ends by itself"));
        }
        for address in &addresses {
            wait_serving(address, Duration::from_secs(30)).expect("every member serves again");
        }
        assert!(kills >= 2, "the leader was killed only {kills} times");
        assert!(acknowledged.len() > 100, "only {} writes", acknowledged.len());

        // Nothing acknowledged is lost, and no two writes got one revision.
        let newest = clients[0].all("chaos/", 0).await.expect("a linearizable read");
        let revision = newest.header.map_or(0, |h| h.revision);
        let stored: BTreeMap<String, (String, i64)> = newest
            .kvs
            .iter()
            .map(|kv| {
                let text = |bytes: &bytes::Bytes| String::from_utf8_lossy(bytes).into_owned();
                (text(&kv.key), (text(&kv.value), kv.mod_revision))
            })
            .collect();
        let mut revisions = BTreeMap::new();
        for (key, value, revision) in &acknowledged {
            assert_eq!(stored.get(key), Some(&(value.clone(), *revision)), "{key} is lost");
            let earlier = revisions.insert(*revision, key.clone());
            assert_eq!(earlier, None, "revision {revision} was given twice");
        }
        // No revision is skipped: every one between the first and the last write is a key's.
        let all: Vec<i64> = {
            let mut all: Vec<i64> = newest.kvs.iter().map(|kv| kv.mod_revision).collect();
            all.sort_unstable();
            all
        };
        for pair in all.windows(2) {
            assert_eq!(pair[0] + 1, pair[1], "a revision is missing");
        }
        // All members hold the same at the same revision.
        let mut hashes = Vec::new();
        for client in &clients {
            client.all("chaos/", 0).await.expect("a linearizable read catches the member up");
            hashes.push(client.hash_kv(revision).await.expect("a hash").hash);
        }
        assert!(hashes.iter().all(|hash| *hash == hashes[0]), "{hashes:?}");
        println!(
            "{} acknowledged, {} failed, {kills} leaders killed, revision {revision}",
            acknowledged.len(),
            failures.load(Ordering::Relaxed)
        );
    });
}

#[test]
fn a_write_through_a_follower_outlives_the_leader() {
    let mut cluster = Cluster::start("forward", 3, &[]);
    let addresses: Vec<String> = cluster.members.iter().map(|m| m.client()).collect();
    runtime().block_on(async {
        let clients: Vec<Client> = addresses.iter().map(|a| Client::new(a)).collect();
        let leads = leader(&clients, |_| true).await.expect("a leader");
        let follower = &clients[(leads + 1) % 3];
        follower.put("f/before", "1").await.expect("a put with a leader");
        cluster.members[leads].kill();
        // The follower has noticed by now that the stream is gone; nobody has been elected yet.
        tokio::time::sleep(Duration::from_millis(200)).await;
        let begun = Instant::now();
        follower.put("f/after", "2").await.expect("the next leader takes the write");
        assert!(begun.elapsed() < Duration::from_secs(6), "{:?}", begun.elapsed());
    });
}

#[test]
fn without_a_quorum_writes_fail_clearly_and_come_back_by_themselves() {
    let mut cluster = Cluster::start("quorum", 3, &[]);
    let runtime = runtime();
    runtime.block_on(async {
        let client = Client::new(&cluster.members[0].client());
        client.put("q/before", "1").await.expect("a put with a quorum");
        cluster.members[1].kill();
        cluster.members[2].kill();
        let begun = Instant::now();
        let refused = client.put("q/lost", "2").await.expect_err("there is no quorum");
        assert!(begun.elapsed() < Duration::from_secs(9), "{:?}", begun.elapsed());
        assert_eq!(refused.code(), tonic::Code::Unavailable, "{refused:?}");
        assert!(refused.message().starts_with("etcdserver: "), "{refused:?}");
        println!("a put without a quorum: {:?} after {:?}", refused.message(), begun.elapsed());
        let serializable =
            pb::RangeRequest { key: "q/before".into(), serializable: true, ..Default::default() };
        let read = client.range(serializable).await.expect("a serializable read goes on");
        assert_eq!(read.kvs.first().map(|kv| kv.value.as_ref()), Some(b"1".as_slice()));

        cluster.members[1].start();
        let begun = Instant::now();
        while let Err(error) = client.put("q/after", "3").await {
            assert!(
                begun.elapsed() < Duration::from_secs(20),
                "service does not resume: {error:?}"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
}

#[test]
fn a_member_far_behind_catches_up_by_snapshot_while_writes_go_on() {
    let count: u64 =
        std::env::var("QUORATE_CATCHUP_KEYS").ok().and_then(|s| s.parse().ok()).unwrap_or(20_000);
    let mut cluster = Cluster::start("catchup", 3, &["--snapshot-count=1000"]);
    let addresses: Vec<String> = cluster.members.iter().map(|m| m.client()).collect();
    let runtime = runtime();
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        let clients: Vec<Client> = addresses.iter().map(|a| Client::new(a)).collect();
        let leads = leader(&clients, |_| true).await.expect("a leader");
        let away = (leads + 1) % 3;
        cluster.members[away].kill();
        // Txns of 100 puts: the log grows by entries, the store by keys.
        let value = "v".repeat(100);
        for chunk in 0..count / 100 {
            let puts = (0..100).map(|n| pb::RequestOp {
                request: Some(pb::request_op::Request::RequestPut(pb::PutRequest {
                    key: format!("big/{chunk:06}/{n:03}").into(),
                    value: value.clone().into(),
                    ..Default::default()
                })),
            });
            let request = pb::TxnRequest { success: puts.collect(), ..Default::default() };
            clients[leads].txn(request).await.expect("a txn with a quorum");
        }
        // Beyond what is kept for slow followers, so that only a snapshot can help. A log is
        // trimmed up to the older of two checkpoints, and those have a second between them.
        for round in 0..4 {
            let mut tasks = Vec::new();
            for writer in 0..32 {
                let client = clients[leads].clone();
                tasks.push(tokio::task::spawn_local(async move {
                    for n in 0..100 {
                        let key = format!("small/{round}/{writer}/{n}");
                        client.put(&key, "x").await.expect("a put");
                    }
                }));
            }
            for task in tasks {
                task.await.expect("the writers end");
            }
            tokio::time::sleep(Duration::from_millis(1_200)).await;
        }
        let going_on = tokio::task::spawn_local({
            let client = clients[leads].clone();
            async move {
                for n in 0..300 {
                    client.put(&format!("meanwhile/{n}"), "x").await.expect("a put");
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
        });
        cluster.members[away].start();
        wait_serving(&addresses[away], Duration::from_secs(60)).expect("the member catches up");
        going_on.await.expect("writes go on meanwhile");
        let newest = clients[away].all("meanwhile/", 0).await.expect("a linearizable read");
        assert_eq!(newest.count, 300);
        let revision = newest.header.map_or(0, |h| h.revision);
        let here = clients[away].hash_kv(revision).await.expect("a hash");
        let there = clients[leads].hash_kv(revision).await.expect("a hash");
        assert_eq!(here.hash, there.hash);
        if crate::harness::is_quorate() {
            let log = cluster.members[away].log_text();
            assert!(log.contains("installed a raft snapshot"), "no snapshot was needed: {log}");
        }
    });
}
