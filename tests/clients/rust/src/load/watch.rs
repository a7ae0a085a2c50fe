//! Watchers of prefixes under a steady rate of writes, with kills of the leader in between.
//!
//! Every watcher keeps the revisions and keys it was told. What it should have been told is what
//! one more watcher reads from the history when all is over; and that history must hold every
//! write that was acknowledged. A stream that breaks is opened at the next member, each of its
//! watchers at the last revision it saw + 1.

use super::Options;
use super::cluster::{Cluster, mib};
use super::messages::*;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// One event: its revision, and what is behind the prefix in its key.
type Seen = (i64, u8);

#[derive(Default)]
struct Counts {
    deliveries: AtomicU64,
    messages: AtomicU64,
    complete: AtomicU64,
    split: AtomicU64,
    refused: AtomicU64,
    resumed: AtomicU64,
    created: AtomicU64,
    /// Delivery times by bits of their microseconds.
    delays: Mutex<[u64; 32]>,
}

/// Keys end in one of these; the last one is each prefix's end.
const ENDS: [u8; 3] = [b'a', b'b', b'c'];
const LAST: u8 = b'z';

fn prefix(p: u64) -> Vec<u8> {
    format!("w/{p:05}/").into_bytes()
}

fn put(p: u64, end: u8, value: &str) -> Op {
    let mut key = prefix(p);
    key.push(end);
    Op { put: Some(Put { key, value: value.as_bytes().to_vec(), lease: 0 }) }
}

pub async fn run(cluster: Arc<Cluster>, options: &Options) -> bool {
    let rate = options.number("rate", 3000);
    let seconds = options.number("seconds", 30);
    let watchers = options.number("watchers", 10_000);
    let prefixes = options.number("prefixes", 1000);
    let connections = options.number("connections", 30);
    let kills = options.number("kills", 3);
    cluster.leader().await;
    let counts = Arc::new(Counts::default());
    let stop = Arc::new(AtomicBool::new(false));
    let epoch = Instant::now();

    // A first write, so that every watcher has a revision to start after.
    let first: Written = loop {
        let op = put(prefixes, b'a', "0");
        match call(&channel(&cluster.address(0)), TXN, Txn { success: vec![op] }, 5).await {
            Ok(written) => break written,
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    };
    let base = first.header.expect("every answer has one").revision;

    let mut streams = Vec::new();
    for s in 0..connections {
        let mine: Vec<u64> = (0..watchers).filter(|w| w % connections == s).map(|w| w % prefixes).collect();
        let (cluster, counts, stop) = (cluster.clone(), counts.clone(), stop.clone());
        streams.push(tokio::spawn(watching(cluster, s as usize, mine, base, counts, stop, epoch)));
    }
    let limit = Instant::now() + Duration::from_secs(60);
    while counts.created.load(Ordering::Relaxed) < watchers {
        assert!(Instant::now() < limit, "only {} watchers were created", counts.created.load(Ordering::Relaxed));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let idle = cluster.sample();
    println!("{watchers} watchers on {prefixes} prefixes over {connections} connections after {:.1} s; RSS {}",
        epoch.elapsed().as_secs_f64(), mib(&idle));

    // Writers: txns of three puts, two under one prefix and one under another, at a steady rate.
    let begun = Instant::now();
    let txns = rate * seconds / 3;
    let slot = Arc::new(AtomicU64::new(0));
    let failures = Arc::new(AtomicU64::new(0));
    let acknowledged = Arc::new(Mutex::new(Vec::new()));
    let mut writers = Vec::new();
    for w in 0..96usize {
        let (slot, failures, acknowledged) = (slot.clone(), failures.clone(), acknowledged.clone());
        // Its own member, and the others for when that one is dead.
        let members: Vec<_> = (0..3).map(|n| channel(&cluster.address(w + n))).collect();
        writers.push(tokio::spawn(async move {
            loop {
                let i = slot.fetch_add(1, Ordering::Relaxed);
                if i >= txns {
                    return;
                }
                let due = begun + Duration::from_micros(i * 3_000_000 / rate);
                tokio::time::sleep_until(due.into()).await;
                // A fixed walk over the prefixes; every one is written equally often.
                let (p, q) = (i * 7 % prefixes, (i * 11 + 1) % prefixes);
                let sent = format!("{}", epoch.elapsed().as_micros());
                let mut ops = vec![put(p, ENDS[0], &sent), put(p, ENDS[1], &sent)];
                if q != p {
                    ops.push(put(q, ENDS[2], &sent));
                }
                let count = ops.len();
                for to in members.iter().cycle() {
                    match call::<_, Written>(to, TXN, Txn { success: ops.clone() }, 5).await {
                        Ok(Written { header: Some(header) }) => {
                            acknowledged.lock().unwrap().push((header.revision, count));
                            break;
                        }
                        // It may have been done all the same: watchers are held to the history.
                        _ => {
                            failures.fetch_add(1, Ordering::Relaxed);
                            tokio::time::sleep(Duration::from_millis(50)).await;
                        }
                    }
                }
            }
        }));
    }
    let sampler = tokio::spawn({
        let (cluster, stop) = (cluster.clone(), stop.clone());
        async move {
            while !stop.load(Ordering::Relaxed) {
                cluster.sample();
                tokio::time::sleep(Duration::from_millis(250)).await;
            }
        }
    });
    let killer = tokio::spawn({
        let cluster = cluster.clone();
        async move {
            for k in 1..=kills {
                let at = begun + Duration::from_millis(seconds * 1000 * k / (kills + 1));
                tokio::time::sleep_until(at.into()).await;
                let n = cluster.leader().await;
                println!("  {:5.1} s: kill -9 of the leader, m{n}", begun.elapsed().as_secs_f64());
                cluster.kill_and_restart(n).await;
            }
        }
    });
    for writer in writers {
        writer.await.expect("a writer does not panic");
    }
    let wrote = begun.elapsed();
    let delivered = counts.deliveries.load(Ordering::Relaxed);
    killer.await.expect("it does not panic");

    // The end of every prefix, in as many tries as it takes.
    for p in (0..prefixes).step_by(100) {
        let ops: Vec<Op> = (p..(p + 100).min(prefixes)).map(|p| put(p, LAST, "0")).collect();
        let mut n = 0;
        while call::<_, Written>(&channel(&cluster.address(n)), TXN, Txn { success: ops.clone() }, 5).await.is_err() {
            n += 1;
            assert!(n < 100, "the last writes fail");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    let limit = Instant::now() + Duration::from_secs(90);
    while counts.complete.load(Ordering::Relaxed) < watchers && Instant::now() < limit {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let behind = begun.elapsed() - wrote;
    let history = oracle(&cluster, base, prefixes).await;
    stop.store(true, Ordering::Relaxed);
    let _ = sampler.await;
    let mut told: Vec<(u64, Vec<Seen>)> = Vec::new();
    for stream in streams {
        told.extend(stream.await.expect("a stream's task does not panic"));
    }

    let acknowledged = acknowledged.lock().unwrap();
    let events: usize = acknowledged.iter().map(|(_, count)| count).sum();
    println!("wrote {events} events in {:.1} s: {:.0} events/s ({} txns acknowledged, {} tries failed)",
        wrote.as_secs_f64(), events as f64 / wrote.as_secs_f64(), acknowledged.len(), failures.load(Ordering::Relaxed));
    println!("delivered {} events in {} messages; {:.0} events/s while writing; the last watcher was done {:.1} s after the last write",
        counts.deliveries.load(Ordering::Relaxed), counts.messages.load(Ordering::Relaxed),
        delivered as f64 / wrote.as_secs_f64(), behind.as_secs_f64());
    let delays = *counts.delays.lock().unwrap();
    println!("from the send of a write to its delivery: p50 < {}, p90 < {}, p99 < {}, max < {}",
        quantile(&delays, 0.5), quantile(&delays, 0.9), quantile(&delays, 0.99), quantile(&delays, 1.0));
    println!("streams resumed at another member: {}; watches refused: {}",
        counts.resumed.load(Ordering::Relaxed), counts.refused.load(Ordering::Relaxed));
    println!("RSS of the members: idle {}, largest {}", mib(&idle), mib(&cluster.rss_max()));

    let missing = acknowledged.iter().filter(|(revision, count)| history.by_revision.get(revision) != Some(count)).count();
    let verdict = judge(&told, &history.by_prefix);
    let split = counts.split.load(Ordering::Relaxed);
    println!("lost {}, told twice {}, out of order {}, split {split}, acknowledged but not in the history {missing}",
        verdict.lost, verdict.twice, verdict.disordered);
    told.len() as u64 == watchers
        && verdict.lost + verdict.twice + verdict.disordered + split + missing as u64 == 0
        && counts.refused.load(Ordering::Relaxed) == 0
}

/// One stream and its watchers, until `stop`: what each was told comes back.
async fn watching(
    cluster: Arc<Cluster>,
    s: usize,
    prefixes: Vec<u64>,
    base: i64,
    counts: Arc<Counts>,
    stop: Arc<AtomicBool>,
    epoch: Instant,
) -> Vec<(u64, Vec<Seen>)> {
    let mut told: Vec<Vec<Seen>> = vec![Vec::new(); prefixes.len()];
    let mut created = vec![false; prefixes.len()];
    let mut complete = vec![false; prefixes.len()];
    let mut member = s;
    let mut opened = 0;
    while !stop.load(Ordering::Relaxed) {
        let to = channel(&cluster.address(member));
        member += 1;
        let (questions, receiver) = mpsc::channel(64);
        let mut answers = match stream::<WatchRequest, WatchResponse>(&to, WATCH, receiver).await {
            Ok(answers) => answers,
            Err(_) => {
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        opened += 1;
        if opened > 1 {
            counts.resumed.fetch_add(1, Ordering::Relaxed);
        }
        let creates: Vec<WatchRequest> = prefixes.iter().zip(&told).enumerate().map(|(i, (&p, told))| {
            let key = prefix(p);
            let mut range_end = key.clone();
            *range_end.last_mut().expect("no prefix is empty") += 1;
            let start_revision = told.last().map_or(base, |(revision, _)| *revision) + 1;
            WatchRequest { create: Some(WatchCreate { key, range_end, start_revision, watch_id: i as i64 + 1 }) }
        }).collect();
        // Sent by a task of its own: the server may have answers to give before all are asked.
        let asking = tokio::spawn(async move {
            for create in creates {
                if questions.send(create).await.is_err() {
                    return None;
                }
            }
            Some(questions)
        });
        // The last revision of the message before, by watcher and stream.
        let mut before = vec![0i64; prefixes.len()];
        loop {
            let message = match tokio::time::timeout(Duration::from_millis(500), answers.message()).await {
                Err(_) if stop.load(Ordering::Relaxed) => break,
                Err(_) => continue,
                Ok(Ok(Some(message))) => message,
                Ok(_) => break,
            };
            let Some(i) = usize::try_from(message.watch_id - 1).ok().filter(|i| *i < prefixes.len()) else {
                counts.refused.fetch_add(1, Ordering::Relaxed);
                continue;
            };
            if message.canceled {
                println!("  a watch was cancelled: {}", message.cancel_reason);
                counts.refused.fetch_add(1, Ordering::Relaxed);
            }
            if message.created && !created[i] {
                created[i] = true;
                counts.created.fetch_add(1, Ordering::Relaxed);
            }
            if message.events.is_empty() {
                continue;
            }
            let now = epoch.elapsed().as_micros() as u64;
            counts.messages.fetch_add(1, Ordering::Relaxed);
            counts.deliveries.fetch_add(message.events.len() as u64, Ordering::Relaxed);
            let mut delays = counts.delays.lock().unwrap();
            for (nth, event) in message.events.into_iter().enumerate() {
                let Some(kv) = event.kv else { continue };
                if nth == 0 && kv.mod_revision == before[i] {
                    counts.split.fetch_add(1, Ordering::Relaxed);
                }
                before[i] = kv.mod_revision;
                let end = kv.key.last().copied().unwrap_or(0);
                if end == LAST {
                    if !complete[i] {
                        complete[i] = true;
                        counts.complete.fetch_add(1, Ordering::Relaxed);
                    }
                } else if let Some(sent) = std::str::from_utf8(&kv.value).ok().and_then(|t| t.parse::<u64>().ok()) {
                    delays[(64 - now.saturating_sub(sent).leading_zeros() as usize).min(31)] += 1;
                }
                told[i].push((kv.mod_revision, end));
            }
        }
        asking.abort();
    }
    prefixes.into_iter().zip(told).collect()
}

struct History {
    by_prefix: BTreeMap<u64, Vec<Seen>>,
    by_revision: BTreeMap<i64, usize>,
}

/// The whole history, read by one watcher from the first revision on.
async fn oracle(cluster: &Cluster, base: i64, prefixes: u64) -> History {
    let mut history = History { by_prefix: BTreeMap::new(), by_revision: BTreeMap::new() };
    let (questions, receiver) = mpsc::channel(1);
    let to = channel(&cluster.address(cluster.leader().await));
    let create = WatchCreate { key: b"w/".to_vec(), range_end: b"w0".to_vec(), start_revision: base + 1, watch_id: 1 };
    questions.send(WatchRequest { create: Some(create) }).await.expect("the stream is not open yet");
    let mut answers = stream::<WatchRequest, WatchResponse>(&to, WATCH, receiver).await.expect("a member serves");
    let mut ends = 0;
    while ends < prefixes {
        let message = tokio::time::timeout(Duration::from_secs(30), answers.message()).await;
        let message = message.expect("the history comes within 30 s").expect("the stream holds").expect("it does not end");
        for event in message.events {
            let kv = event.kv.expect("every event has a key");
            let text = String::from_utf8_lossy(&kv.key).into_owned();
            let p: u64 = text[2..7].parse().expect("a key of this program");
            let end = *kv.key.last().expect("no key is empty");
            history.by_prefix.entry(p).or_default().push((kv.mod_revision, end));
            *history.by_revision.entry(kv.mod_revision).or_default() += 1;
            // A last write whose answer was lost is written twice.
            if end == LAST && history.by_prefix[&p].iter().filter(|seen| seen.1 == LAST).count() == 1 {
                ends += 1;
            }
        }
    }
    history
}

#[derive(Default)]
struct Verdict {
    lost: u64,
    twice: u64,
    disordered: u64,
}

fn judge(told: &[(u64, Vec<Seen>)], history: &BTreeMap<u64, Vec<Seen>>) -> Verdict {
    let mut verdict = Verdict::default();
    let none = Vec::new();
    for (p, told) in told {
        let wanted = history.get(p).unwrap_or(&none);
        verdict.disordered += told.windows(2).filter(|pair| pair[1] < pair[0]).count() as u64;
        let mut times: BTreeMap<Seen, i64> = BTreeMap::new();
        for seen in told {
            *times.entry(*seen).or_default() += 1;
        }
        for seen in wanted {
            match times.get_mut(seen) {
                Some(left) if *left > 0 => *left -= 1,
                _ => verdict.lost += 1,
            }
        }
        // What is left was told more often than it happened.
        verdict.twice += times.values().map(|left| *left as u64).sum::<u64>();
    }
    verdict
}

fn quantile(delays: &[u64; 32], part: f64) -> String {
    let total: u64 = delays.iter().sum();
    let mut below = 0;
    for (bits, count) in delays.iter().enumerate() {
        below += count;
        if below as f64 >= total as f64 * part {
            let micros = 1u64 << bits;
            return if micros < 10_000 { format!("{:.1} ms", micros as f64 / 1000.0) } else { format!("{} ms", micros / 1000) };
        }
    }
    "nothing".to_string()
}
