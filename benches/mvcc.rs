//! What one keyspace costs: a put, a get, a range of 100, a txn as Kubernetes writes it, and the
//! watch hub's share of an event. In memory: no checkpoint runs.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a benchmark looks at the real clock and works on real files"
)]

use bytes::Bytes;
use criterion::{Criterion, criterion_group, criterion_main};
use quorate::btree::Store;
use quorate::mvcc::watch::{CreateRequest, Hub, StreamId};
use quorate::mvcc::{ApplyContext, Keyspace};
use quorate::types::command::{
    Command, Compare, CompareResult, CompareTarget, PutRequest, RangeRequest, RequestOp, TxnRequest,
};
use quorate::types::{GroupId, KeyRange, LogIndex, Term};
use std::hint::black_box;

const KEYS: u64 = 30_000;
/// As many commands share a view as typically share a sync.
const BATCH: u64 = 20;

fn key(n: u64) -> Bytes {
    // A walk over all keys that jumps: multiplication by a number prime to the count.
    Bytes::from(format!("/registry/pods/default/pod-{:06}", n.wrapping_mul(7919) % KEYS))
}

fn put(n: u64, value: &Bytes) -> PutRequest {
    PutRequest { key: key(n), value: value.clone(), ..PutRequest::default() }
}

struct Bench {
    keyspace: Keyspace,
    index: u64,
}

impl Bench {
    fn filled(value: &Bytes) -> Bench {
        let store = Store::in_memory();
        let keyspace = Keyspace::open(GroupId::ROOT, &store).expect("an empty store opens");
        let mut bench = Bench { keyspace, index: 0 };
        for n in 0..KEYS {
            bench.apply(&Command::Put(put(n, value)));
        }
        bench
    }
    fn apply(&mut self, command: &Command) -> quorate::mvcc::Applied {
        self.index += 1;
        let at = ApplyContext { index: LogIndex(self.index), term: Term(1) };
        let applied = self.keyspace.apply(command, &at).expect("memory does not fail");
        // As a member does it: old revisions go, a batch shares a view.
        if self.index.is_multiple_of(100_000) {
            let revision = self.keyspace.revision() - 1000;
            self.index += 1;
            let at = ApplyContext { index: LogIndex(self.index), term: Term(1) };
            let request = quorate::types::command::CompactRequest { revision, physical: false };
            let _ = self.keyspace.apply(&Command::Compact(request), &at);
        }
        applied
    }
}

fn writes(c: &mut Criterion) {
    let value = Bytes::from(vec![b'v'; 256]);
    let commands: Vec<Command> = (0..KEYS).map(|n| Command::Put(put(n, &value))).collect();
    let mut bench = Bench::filled(&value);
    let mut n = 0;
    let mut view = bench.keyspace.view();
    c.bench_function("apply put 256 B over 30k keys", |b| {
        b.iter(|| {
            n += 1;
            black_box(bench.apply(&commands[(n % KEYS) as usize]));
            if n.is_multiple_of(BATCH) {
                view = bench.keyspace.view();
            }
            if n.is_multiple_of(64) {
                let _ = bench.keyspace.compact_step(128);
            }
        });
    });
    c.bench_function("apply txn (compare mod, put 256 B, else get)", |b| {
        b.iter(|| {
            n += 1;
            let key = key(n);
            let txn = TxnRequest {
                compare: vec![Compare {
                    range: KeyRange::single(key.clone()),
                    result: CompareResult::NotEqual,
                    target: CompareTarget::Mod(0),
                }],
                success: vec![RequestOp::Put(put(n, &value))],
                failure: vec![RequestOp::Range(RangeRequest {
                    range: KeyRange::single(key),
                    ..RangeRequest::default()
                })],
            };
            black_box(bench.apply(&Command::Txn(txn)));
            if n.is_multiple_of(BATCH) {
                view = bench.keyspace.view();
            }
            if n.is_multiple_of(64) {
                let _ = bench.keyspace.compact_step(128);
            }
        });
    });
    drop(view);
}

fn reads(c: &mut Criterion) {
    for bytes in [256, 2048] {
        let value = Bytes::from(vec![b'v'; bytes]);
        let bench = Bench::filled(&value);
        let view = bench.keyspace.view();
        let gets: Vec<RangeRequest> = (0..KEYS)
            .map(|n| RangeRequest { range: KeyRange::single(key(n)), ..RangeRequest::default() })
            .collect();
        let mut n = 0;
        c.bench_function(&format!("get {bytes} B over 30k keys"), |b| {
            b.iter(|| {
                n = (n + 1) % gets.len();
                black_box(view.range(&gets[n]).expect("memory does not fail"))
            });
        });
        let list = |n: u64| RangeRequest {
            range: KeyRange::new(key(n), &b"/registry/pods0"[..]),
            limit: 100,
            ..RangeRequest::default()
        };
        let lists: Vec<RangeRequest> = (0..1000).map(list).collect();
        c.bench_function(&format!("range 100 of {bytes} B with count"), |b| {
            b.iter(|| {
                n = (n + 1) % lists.len();
                black_box(view.range(&lists[n]).expect("memory does not fail"))
            });
        });
    }
}

fn watches(c: &mut Criterion) {
    let value = Bytes::from(vec![b'v'; 256]);
    let mut bench = Bench::filled(&value);
    let mut hub = Hub::new(bench.keyspace.revision(), 600_000);
    let stream = StreamId(1);
    hub.open_stream(stream);
    for n in 0..10_000 {
        let range = KeyRange::single(key(n));
        hub.create(stream, CreateRequest { range, ..CreateRequest::default() });
    }
    for n in 0..100 {
        let range = KeyRange::new(key(n), &b"/registry/pods0"[..]);
        hub.create(stream, CreateRequest { range, ..CreateRequest::default() });
    }
    hub.take(stream, usize::MAX);
    let mut n = 0;
    c.bench_function("apply and publish a put to 10k keys' and 100 ranges' watchers", |b| {
        b.iter(|| {
            n += 1;
            let applied = bench.apply(&Command::Put(put(n, &value)));
            hub.publish(applied.events);
            black_box(hub.take(stream, usize::MAX));
        });
    });
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(std::time::Duration::from_millis(500))
        .measurement_time(std::time::Duration::from_secs(2));
    targets = writes, reads, watches
}
criterion_main!(benches);
