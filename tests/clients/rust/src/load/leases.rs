//! A hundred thousand leases, kept alive over changes of the leader, then let go.
//!
//! Early: an answer to a keepalive that says the lease is gone, or a lease that is absent from the
//! list sooner than its time to live after the send of its last answered keepalive (the server
//! heard that one later still). Late: one that is there longer than `--bound` seconds after the
//! last keepalive's answer and its time to live.

use super::Options;
use super::cluster::{Cluster, mib};
use super::messages::*;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// Ids from here on.
const FIRST: i64 = 1_000_000;

#[derive(Clone, Copy)]
struct Kept {
    /// When the last keepalive (or the grant) that was answered had been sent, and was answered.
    sent: Instant,
    answered: Instant,
}

struct Shared {
    kept: Mutex<Vec<Option<Kept>>>,
    early: AtomicU64,
    answers: AtomicU64,
    reopened: AtomicU64,
    stop: AtomicBool,
}

pub async fn run(cluster: Arc<Cluster>, options: &Options) -> bool {
    let count = options.number("count", 100_000) as usize;
    let ttl = options.number("ttl", 60);
    let connections = options.number("connections", 30) as usize;
    let kills = options.number("kills", 2);
    let seconds = options.number("seconds", ttl + 10);
    // etcd and Quorate end a thousand leases a second: so many at once need their time.
    let bound = options.number("bound", count as u64 / 800 + 5);
    cluster.leader().await;
    let shared = Arc::new(Shared {
        kept: Mutex::new(vec![None; count]),
        early: AtomicU64::new(0),
        answers: AtomicU64::new(0),
        reopened: AtomicU64::new(0),
        stop: AtomicBool::new(false),
    });
    let idle = cluster.sample();
    let begun = Instant::now();

    let mut keepers = Vec::new();
    for s in 0..connections {
        let (cluster, shared) = (cluster.clone(), shared.clone());
        keepers.push(tokio::spawn(keeping(cluster, shared, s, connections, count, ttl)));
    }
    let next = Arc::new(AtomicU64::new(0));
    let mut granters = Vec::new();
    for g in 0..192 {
        let (next, shared, to) = (next.clone(), shared.clone(), channel(&cluster.address(g)));
        granters.push(tokio::spawn(async move {
            loop {
                let i = next.fetch_add(1, Ordering::Relaxed) as usize;
                if i >= count {
                    return 0u64;
                }
                let mut tries = 0;
                loop {
                    let sent = Instant::now();
                    let question = Grant { ttl: ttl as i64, id: FIRST + i as i64 };
                    match call::<_, Granted>(&to, GRANT, question, 10).await {
                        Ok(granted) => {
                            assert_eq!((granted.id, granted.ttl), (FIRST + i as i64, ttl as i64));
                            shared.kept.lock().unwrap()[i] = Some(Kept { sent, answered: Instant::now() });
                            break;
                        }
                        // A grant whose answer was lost exists already when it is asked for again.
                        Err(status) if status.code() == tonic::Code::FailedPrecondition && tries > 0 => {
                            shared.kept.lock().unwrap()[i] = Some(Kept { sent, answered: Instant::now() });
                            break;
                        }
                        Err(status) => {
                            tries += 1;
                            assert!(tries < 20, "a grant fails: {status}");
                            tokio::time::sleep(Duration::from_millis(200)).await;
                        }
                    }
                }
            }
        }));
    }
    for granter in granters {
        granter.await.expect("a granter does not panic");
    }
    let granted = begun.elapsed();
    println!("{count} leases of {ttl} s granted in {:.1} s ({:.0} a second); RSS idle {}, now {}",
        granted.as_secs_f64(), count as f64 / granted.as_secs_f64(), mib(&idle), mib(&cluster.sample()));

    // Longer than the time to live: a lease whose keepalives did not count would be gone.
    let (asked, since) = (shared.answers.load(Ordering::Relaxed), Instant::now());
    for k in 1..=kills {
        let at = since + Duration::from_millis(seconds * 1000 * k / (kills + 1));
        while Instant::now() < at {
            cluster.sample();
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
        let n = cluster.leader().await;
        println!("  {:5.1} s: kill -9 of the leader, m{n}", since.elapsed().as_secs_f64());
        cluster.kill_and_restart(n).await;
    }
    while since.elapsed() < Duration::from_secs(seconds) {
        cluster.sample();
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    let rate = (shared.answers.load(Ordering::Relaxed) - asked) as f64 / since.elapsed().as_secs_f64();
    let (there, _) = list(&cluster).await;
    let alive = there.len();
    shared.stop.store(true, Ordering::Relaxed);
    for keeper in keepers {
        keeper.await.expect("a keeper does not panic");
    }
    let stopped = Instant::now();
    println!("kept for {seconds} s over {kills} kills: {rate:.0} keepalives answered a second, {} streams opened anew; {alive} of {count} leases alive at the end",
        shared.reopened.load(Ordering::Relaxed));

    // From here on nobody keeps them.
    let kept: Vec<Kept> = shared.kept.lock().unwrap().iter().map(|kept| kept.expect("all were granted")).collect();
    let ttl = Duration::from_secs(ttl);
    let mut open: BTreeSet<usize> = (0..count).collect();
    let mut late = Duration::ZERO;
    let mut soon = 0u64;
    let (mut first_gone, mut half_gone) = (None, None);
    while !open.is_empty() && stopped.elapsed() < ttl + Duration::from_secs(bound * 2) {
        let asked = Instant::now();
        let (there, answered) = list(&cluster).await;
        let gone: Vec<usize> = open.iter().copied().filter(|i| !there.contains(&(FIRST + *i as i64))).collect();
        for i in gone {
            open.remove(&i);
            first_gone.get_or_insert(answered - stopped);
            if answered < kept[i].sent + ttl {
                soon += 1;
            }
            // It was there at the question before this one, at the latest.
            late = late.max(asked.saturating_duration_since(kept[i].answered + ttl));
        }
        if open.len() * 2 <= count {
            half_gone.get_or_insert(answered - stopped);
        }
        cluster.sample();
        tokio::time::sleep(Duration::from_millis(if open.len() == count { 1000 } else { 500 })).await;
    }
    let shown = |at: Option<Duration>| at.map_or("never".to_string(), |at| format!("{:.1} s", at.as_secs_f64()));
    println!("after the clients stopped: first gone after {}, half after {}, {} after {:.1} s; the latest {:.1} s beyond its time to live",
        shown(first_gone), shown(half_gone), if open.is_empty() { "all".to_string() } else { format!("{} still there", open.len()) },
        stopped.elapsed().as_secs_f64(), late.as_secs_f64());
    let early = shared.early.load(Ordering::Relaxed) + soon + (count - alive) as u64;
    println!("ended early {early}, beyond the bound of {bound} s {}; RSS largest {}",
        if late > Duration::from_secs(bound) || !open.is_empty() { "yes" } else { "none" }, mib(&cluster.rss_max()));
    early == 0 && open.is_empty() && late <= Duration::from_secs(bound)
}

/// The ids of all leases, and when they were told.
async fn list(cluster: &Cluster) -> (BTreeSet<i64>, Instant) {
    let limit = Instant::now() + Duration::from_secs(30);
    loop {
        let to = channel(&cluster.address(cluster.leader().await));
        match call::<_, LeasesAnswer>(&to, LEASES, LeasesQuestion {}, 15).await {
            Ok(answer) => return (answer.leases.into_iter().map(|lease| lease.id).collect(), Instant::now()),
            Err(status) => assert!(Instant::now() < limit, "no list of leases: {status}"),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Keeps every `step`-th lease from `s` on alive: one keepalive each third of its time to live.
async fn keeping(cluster: Arc<Cluster>, shared: Arc<Shared>, s: usize, step: usize, count: usize, ttl: u64) {
    let mine: Vec<usize> = (s..count).step_by(step).collect();
    let mut member = s;
    while !shared.stop.load(Ordering::Relaxed) {
        let to = channel(&cluster.address(member));
        member += 1;
        let (questions, receiver) = mpsc::channel::<KeepAlive>(256);
        let Ok(mut answers) = stream::<_, KeptAlive>(&to, KEEP_ALIVE, receiver).await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let sent: Arc<Mutex<Vec<Option<Instant>>>> = Arc::new(Mutex::new(vec![None; mine.len()]));
        let asking = tokio::spawn({
            let (sent, shared, mine) = (sent.clone(), shared.clone(), mine.clone());
            async move {
                let round = Duration::from_millis(ttl * 1000 / 3);
                let mut turn = Instant::now();
                loop {
                    for (at, &i) in mine.iter().enumerate() {
                        // A slice every so many, so that the load is level over the round.
                        if at % 50 == 0 {
                            let due = turn + round.mul_f64(at as f64 / mine.len() as f64);
                            tokio::time::sleep_until(due.into()).await;
                        }
                        if shared.kept.lock().unwrap()[i].is_none() {
                            continue;
                        }
                        sent.lock().unwrap()[at] = Some(Instant::now());
                        if questions.send(KeepAlive { id: FIRST + i as i64 }).await.is_err() {
                            return;
                        }
                    }
                    turn += round;
                }
            }
        });
        loop {
            match tokio::time::timeout(Duration::from_millis(500), answers.message()).await {
                _ if shared.stop.load(Ordering::Relaxed) => break,
                Err(_) => continue,
                Ok(Ok(Some(answer))) => {
                    let i = (answer.id - FIRST) as usize;
                    if answer.ttl <= 0 {
                        shared.early.fetch_add(1, Ordering::Relaxed);
                        continue;
                    }
                    shared.answers.fetch_add(1, Ordering::Relaxed);
                    if let Some(sent) = sent.lock().unwrap()[i / step] {
                        shared.kept.lock().unwrap()[i] = Some(Kept { sent, answered: Instant::now() });
                    }
                }
                Ok(_) => break,
            }
        }
        asking.abort();
        if !shared.stop.load(Ordering::Relaxed) {
            shared.reopened.fetch_add(1, Ordering::Relaxed);
        }
    }
}
