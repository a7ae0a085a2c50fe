//! Replays the fuzzing corpus of `store_open`, and writes the part of it that is made by hand.

use bytes::Bytes;
use quorate::btree::{Store, StoreIdentity, StoreOptions, Tree, TreeKind, fuzz_input, fuzz_open};
use quorate::io::MemDisk;
use quorate::types::{ClusterId, GroupId, Incarnation, NodeId};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const PAGE: usize = 4096;

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/store_open")
}

/// The file of a store after these rounds of changes, a checkpoint after each.
fn file(rounds: u8, change: impl Fn(u8, &Store, &mut Vec<Tree>)) -> Vec<u8> {
    let (disk, path) = (MemDisk::new(1), Path::new("/db"));
    let identity =
        StoreIdentity { cluster: ClusterId(1), node: NodeId(2), incarnation: Incarnation(3) };
    let options = StoreOptions { cache_bytes: 1 << 20 };
    let store = Store::create(Arc::new(disk.clone()), path, identity, options).expect("new");
    let mut trees = Vec::new();
    for round in 0..rounds {
        change(round, &store, &mut trees);
        let views: Vec<_> = trees.iter().map(|t: &Tree| (t.group(), t.kind(), t.view())).collect();
        let metas: BTreeMap<_, _> =
            views.iter().map(|(group, _, _)| (*group, Bytes::from(vec![round; 9]))).collect();
        let done = store.begin_checkpoint(views, metas).run().expect("a healthy disk");
        trees.iter_mut().for_each(|tree| tree.adopt(&done));
    }
    drop((trees, store));
    disk.contents(path).expect("the store's file")
}

fn put(tree: &mut Tree, n: u32, bytes: usize) {
    let key = format!("key-{n:05}");
    tree.put(key.as_bytes(), Bytes::from(vec![n as u8 | 1; bytes]), n.is_multiple_of(3))
        .expect("healthy");
}

/// The names of the inputs made here, each with whether it is a store without a fault.
fn seeds() -> Vec<(&'static str, bool, Vec<u8>)> {
    let empty = file(0, |_, _, _| {});
    let leaf = file(1, |_, store, trees| {
        trees.push(store.tree(GroupId(1), TreeKind(1)));
        (0..5).for_each(|n| put(&mut trees[0], n, 10));
    });
    let forest = file(3, |round, store, trees| {
        let group = GroupId(1 + u64::from(round));
        trees.push(store.tree(group, TreeKind(round)));
        trees.iter_mut().for_each(|tree| put(tree, u32::from(round), 20));
    });
    let inner = file(3, |round, store, trees| {
        if round == 0 {
            trees.push(store.tree(GroupId(1), TreeKind(1)));
            (0..160).for_each(|n| put(&mut trees[0], n * 7 % 160, 60));
        }
        put(&mut trees[0], u32::from(round) * 50, 61);
    });
    let big = file(2, |round, store, trees| {
        trees.push(store.tree(GroupId(1), TreeKind(round)));
        let zeros = Bytes::from(vec![0; 20_000]);
        trees[usize::from(round)].put(b"big", zeros, true).expect("healthy");
        put(&mut trees[usize::from(round)], 1, 5);
    });
    let loaded = file(1, |_, store, trees| {
        let mut loader = store.bulk_loader(GroupId(1), TreeKind(2));
        for n in 0..100u32 {
            loader.push(&n.to_be_bytes(), &[n as u8; 90], n % 2 == 0).expect("in order");
        }
        trees.push(loader.finish().expect("healthy"));
    });
    let mut seeds = vec![
        ("nothing", false, Vec::new()),
        ("empty", true, fuzz_input(false, &empty)),
        ("leaf", true, fuzz_input(false, &leaf)),
        ("leaf-resealed", true, fuzz_input(true, &leaf)),
        ("forest", true, fuzz_input(false, &forest)),
        ("forest-resealed", true, fuzz_input(true, &forest)),
        ("inner-resealed", true, fuzz_input(true, &inner)),
        ("big-value", true, fuzz_input(false, &big)),
        ("loaded-resealed", true, fuzz_input(true, &loaded)),
    ];
    let mut torn = forest.clone();
    torn[100] ^= 1;
    seeds.push(("one-meta-torn", true, fuzz_input(false, &torn)));
    torn[PAGE + 100] ^= 1;
    seeds.push(("both-metas-torn", false, fuzz_input(false, &torn)));
    let mut rotten = leaf.clone();
    rotten[2 * PAGE + 20] ^= 1;
    seeds.push(("rot", false, fuzz_input(false, &rotten)));
    let mut short = forest;
    short.truncate(3 * PAGE);
    seeds.push(("cut-short", false, fuzz_input(false, &short)));
    seeds
}

#[test]
fn every_input_of_the_corpus_replays() {
    if std::env::var_os("UPDATE_CORPUS").is_some() {
        std::fs::create_dir_all(corpus()).expect("the corpus folder");
        for (name, _, bytes) in seeds() {
            std::fs::write(corpus().join(name), bytes).expect("the corpus folder is writable");
        }
    }
    let mut replayed = 0;
    for file in std::fs::read_dir(corpus()).expect("the corpus is committed").flatten() {
        let bytes = std::fs::read(file.path()).expect("a readable input");
        fuzz_open(&bytes);
        replayed += 1;
    }
    assert!(replayed >= 10, "{replayed} inputs only");
}

#[test]
fn the_inputs_made_by_hand_are_what_they_are_called_and_committed() {
    for (name, is_clean, bytes) in seeds() {
        assert_eq!(fuzz_open(&bytes), is_clean, "{name}");
        let committed = std::fs::read(corpus().join(name)).unwrap_or_default();
        let advice = "UPDATE_CORPUS=1 cargo test --test it store_corpus";
        assert!(committed == bytes, "{name} is not what the store writes today: {advice}");
    }
}

/// Bytes of every input changed a little, checksums made right: a poor fuzzer, but in every test
/// run.
#[test]
fn neighbours_of_the_corpus_are_opened_or_refused() {
    let (mut clean, mut tried) = (0, 0);
    for (name, _, bytes) in seeds() {
        let step = (bytes.len() / 400).max(1);
        for at in (0..bytes.len()).step_by(step) {
            let mut changed = bytes.clone();
            changed[0] |= 1;
            changed[at] = changed[at].wrapping_add([1, 0x80, 0xff][at % 3]);
            tried += 1;
            clean += usize::from(fuzz_open(&changed));
        }
        let _ = name;
    }
    assert!(clean * 20 > tried, "only {clean} of {tried} are clean: nothing is made right");
}
