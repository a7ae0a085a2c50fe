//! The forest from several threads: one writes, one makes checkpoints, others read views.

use bytes::Bytes;
use quorate::btree::{Step, Store, StoreIdentity, StoreOptions, Tree, TreeKind, View};
use quorate::io::MemDisk;
use quorate::types::GroupId;
use quorate::types::prng::Prng;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};

const KIND: TreeKind = TreeKind(1);
const GROUP: GroupId = GroupId(1);
const KEYS: u64 = 3_000;
const ROUNDS: u64 = 60;

#[test]
fn handles_may_cross_threads() {
    fn crosses<T: Send>() {}
    fn shared<T: Send + Sync>() {}
    shared::<Store>();
    shared::<View>();
    crosses::<Tree>();
    crosses::<quorate::btree::CheckpointJob>();
    crosses::<quorate::btree::Cursor>();
    crosses::<quorate::btree::BulkLoader>();
}

/// Every value says in which round it was written, and each round writes all multiples of a
/// number: a view shows whole rounds or its reader says so.
fn check(view: &View, round: u64) {
    let mut cursor = view.cursor();
    cursor.seek_first().expect("a healthy disk");
    let (mut entries, mut newest) = (0, 0);
    while let Some((key, value, _)) = cursor.next().expect("a healthy disk") {
        let written = u64::from_le_bytes(value[..8].try_into().expect("a round"));
        assert!(written <= round, "a view of round {round} shows round {written}");
        assert_eq!(key.len(), 8);
        newest = newest.max(written);
        entries += 1;
    }
    assert_eq!(entries, view.len());
    assert_eq!(newest, round, "the round is missing from its own view");
}

#[test]
fn readers_a_writer_and_a_checkpoint_at_once() {
    let disk = MemDisk::new(1);
    // A cache that holds a fraction of the data, so that readers go to the file.
    let options = StoreOptions { cache_bytes: 64 << 10 };
    let path = Path::new("/db");
    let store = Store::create(Arc::new(disk.clone()), path, StoreIdentity::default(), options)
        .expect("new");
    let current: Mutex<Option<(View, u64)>> = Mutex::new(None);
    let (stop, reads) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let (jobs, todo) = mpsc::channel::<quorate::btree::CheckpointJob>();
        let (finished, done) = mpsc::channel();
        scope.spawn(move || {
            for mut job in todo {
                let done = loop {
                    if let Step::Done(done) = job.step().expect("a healthy disk") {
                        break done;
                    }
                };
                drop(job);
                finished.send(done).expect("the writer waits");
            }
        });
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(Ordering::Acquire) {
                    let latest = current.lock().expect("no panics").clone();
                    if let Some((view, round)) = latest {
                        check(&view, round);
                        reads.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
        let mut tree = store.tree(GROUP, KIND);
        let mut prng = Prng::new(3);
        let mut running = false;
        for round in 1..=ROUNDS {
            for _ in 0..200 {
                let key = prng.below(KEYS).to_be_bytes();
                let mut value = round.to_le_bytes().to_vec();
                value.resize(8 + prng.below(60) as usize, 1);
                if prng.chance(1, 4) {
                    tree.remove(&key).expect("a healthy disk");
                } else {
                    tree.put(&key, Bytes::from(value), true).expect("a healthy disk");
                }
            }
            let mark = Bytes::from(round.to_le_bytes().to_vec());
            tree.put(&KEYS.to_be_bytes(), mark, true).expect("a healthy disk");
            *current.lock().expect("no panics") = Some((tree.view(), round));
            if running && let Ok(done) = done.try_recv() {
                tree.adopt(&done);
                running = false;
            }
            if !running {
                let views = vec![(GROUP, KIND, tree.view())];
                jobs.send(store.begin_checkpoint(views, BTreeMap::new())).expect("a worker");
                running = true;
            }
        }
        if running {
            tree.adopt(&done.recv().expect("a worker"));
        }
        drop(jobs);
        stop.store(true, Ordering::Release);
    });
    assert!(reads.load(Ordering::Relaxed) > 0);
    let report = store.verify().expect("a healthy disk");
    assert!(report.is_clean(), "{report:?}");
}
