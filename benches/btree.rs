//! The forest's hot paths: appends, random puts, lookups in memory, scans.
//!
//! `cargo bench --bench btree -- --quick`
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a benchmark looks at the real clock and works on real files"
)]

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use quorate::btree::{Store, StoreIdentity, StoreOptions, Tree, TreeKind};
use quorate::io::{Disk, OsDisk};
use quorate::types::GroupId;
use quorate::types::prng::Prng;
use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

const KIND: TreeKind = TreeKind(1);

/// The keyspace's key by revision: main and sub, big-endian.
fn revision(n: u64) -> [u8; 16] {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&n.to_be_bytes());
    key
}

/// A key of a registry, as clients choose them.
fn name(n: u64) -> Vec<u8> {
    format!("/registry/pods/default/pod-{n:08}").into_bytes()
}

fn filled(store: &Store, entries: u64) -> Tree {
    let mut tree = store.tree(GroupId(1), KIND);
    for n in 0..entries {
        tree.put(&name(n * 7919 % entries), Bytes::from(vec![1; 24]), true).unwrap();
    }
    tree
}

fn checkpoint(store: &Store, tree: &mut Tree) {
    let trees = vec![(GroupId(1), KIND, tree.view())];
    let done = store.begin_checkpoint(trees, BTreeMap::new()).run().unwrap();
    tree.adopt(&done);
}

fn puts(c: &mut Criterion) {
    let mut group = c.benchmark_group("put");
    group.throughput(Throughput::Elements(1));
    let value = Bytes::from(vec![7; 300]);

    // A fresh tree every so often: what a checkpoint costs is measured apart.
    let appends = |count: u64, views: bool| {
        let mut spent = Duration::ZERO;
        let mut left = count;
        while left > 0 {
            let store = Store::in_memory();
            let mut tree = store.tree(GroupId(1), KIND);
            let batch = left.min(50_000);
            let start = Instant::now();
            for n in 0..batch {
                if views && n % 20 == 0 {
                    black_box(tree.view());
                }
                black_box(tree.put(&revision(n), value.clone(), true).unwrap());
            }
            spent += start.elapsed();
            left -= batch;
        }
        spent
    };
    group.bench_function("sequential, 300 B", |b| b.iter_custom(|n| appends(n, false)));
    group.bench_function("sequential, 300 B, a view every 20", |b| {
        b.iter_custom(|n| appends(n, true));
    });

    let store = Store::in_memory();
    let mut tree = filled(&store, 100_000);
    let mut prng = Prng::new(1);
    let small = Bytes::from(vec![9; 24]);
    group.bench_function("random replace, 100k keys, 24 B", |b| {
        b.iter(|| tree.put(&name(prng.below(100_000)), small.clone(), true).unwrap());
    });
    let mut held = tree.view();
    let mut n = 0;
    group.bench_function("random replace, a held view every 20", |b| {
        b.iter(|| {
            n += 1;
            if n % 20 == 0 {
                held = tree.view();
            }
            tree.put(&name(prng.below(100_000)), small.clone(), true).unwrap()
        });
    });
    drop(held);
    group.finish();
}

fn gets(c: &mut Criterion) {
    let mut group = c.benchmark_group("get");
    group.throughput(Throughput::Elements(1));
    let store = Store::in_memory();
    let mut tree = filled(&store, 100_000);
    let mut prng = Prng::new(1);
    let view = tree.view();
    group.bench_function("hot, dirty nodes, 100k keys", |b| {
        b.iter(|| view.get(&name(prng.below(100_000))).unwrap());
    });
    checkpoint(&store, &mut tree);
    let view = tree.view();
    group.bench_function("hot, cached pages, 100k keys", |b| {
        b.iter(|| view.get(&name(prng.below(100_000))).unwrap());
    });
    let key = name(4711);
    group.bench_function("one key, cached pages", |b| b.iter(|| view.get(&key).unwrap()));
    group.bench_function("one key, view made for it", |b| {
        b.iter(|| tree.view().get(&key).unwrap());
    });
    group.bench_function("count_live over half", |b| {
        use std::ops::Bound::{Included, Unbounded};
        let lower = name(25_000);
        b.iter(|| view.count_live(Included(&lower), Unbounded).unwrap());
    });
    group.bench_function("key alone (the part that is not ours)", |b| {
        b.iter(|| name(prng.below(100_000)));
    });
    group.finish();
}

fn scans(c: &mut Criterion) {
    let mut group = c.benchmark_group("scan");
    group.throughput(Throughput::Elements(1000));
    let store = Store::in_memory();
    let mut tree = filled(&store, 100_000);
    checkpoint(&store, &mut tree);
    let view = tree.view();
    group.bench_function("1000 entries", |b| {
        b.iter(|| {
            let mut cursor = view.cursor();
            cursor.seek(&name(50_000)).unwrap();
            for _ in 0..1000 {
                black_box(cursor.next().unwrap());
            }
        });
    });
    group.finish();
}

fn checkpoints(c: &mut Criterion) {
    let mut group = c.benchmark_group("checkpoint");
    group.sample_size(10);
    let dir = std::env::temp_dir().join(format!("quorate-bench-btree-{}", std::process::id()));
    OsDisk.create_dir_all(&dir).unwrap();
    let path = dir.join("db");
    let disk = Arc::new(OsDisk);
    let store =
        Store::create(disk, &path, StoreIdentity::default(), StoreOptions::default()).unwrap();
    let mut tree = store.tree(GroupId(1), KIND);
    let mut n = 0;
    group.throughput(Throughput::Bytes(20_000 * 316));
    group.bench_function("20k appended records of 300 B, real disk", |b| {
        b.iter_custom(|rounds| {
            let mut spent = Duration::ZERO;
            for _ in 0..rounds {
                for _ in 0..20_000 {
                    n += 1;
                    tree.put(&revision(n), Bytes::from(vec![7; 300]), true).unwrap();
                }
                let start = Instant::now();
                checkpoint(&store, &mut tree);
                spent += start.elapsed();
            }
            spent
        });
    });
    group.finish();
    drop((tree, store));
    std::fs::remove_dir_all(&dir).unwrap();
}

criterion_group!(benches, puts, gets, scans, checkpoints);
criterion_main!(benches);
