//! Views, page reuse, loaders, big values: what the file holds and for whom.

use super::super::node::Shape;
use super::super::page::PAGE_BYTES;
use super::*;
use crate::types::StorageError;
use crate::types::prng::Prng;

fn number(n: u64) -> Vec<u8> {
    n.to_be_bytes().to_vec()
}

fn tree_height(tree: &Tree) -> u8 {
    tree.view().root().level + 1
}

#[test]
fn views_keep_their_pages_while_the_file_turns_over() {
    (9..11).for_each(turn_over);
}

fn turn_over(seed: u64) {
    let disk = MemDisk::new(seed);
    let store = create(&disk, Shape::TINY);
    let mut tree = store.tree(GROUP, KIND);
    let mut model = Model::new();
    let mut prng = Prng::new(seed);
    let mut kept: Vec<(super::super::View, Model)> = Vec::new();
    let mut file_max = 0;
    for round in 0..150u64 {
        for _ in 0..prng.below(80) {
            let key = number(prng.below(400));
            if prng.chance(2, 5) {
                tree.remove(&key).unwrap();
                model.remove(&key);
            } else {
                let value = vec![round as u8; prng.below(50) as usize];
                tree.put(&key, value.clone().into(), true).unwrap();
                model.insert(key, (value, true));
            }
        }
        if prng.chance(1, 2) {
            kept.push((tree.view(), model.clone()));
        }
        let view = tree.view();
        let mut job = store.begin_checkpoint(vec![(GROUP, KIND, view)], BTreeMap::new());
        // The writer, new views and old ones, all while the job runs.
        for step in 0.. {
            if prng.chance(1, 2) {
                let (key, value) = (number(prng.below(400)), vec![step as u8; 20]);
                tree.put(&key, value.clone().into(), false).unwrap();
                model.insert(key, (value, false));
            }
            if prng.chance(1, 8) {
                kept.push((tree.view(), model.clone()));
            }
            if let super::super::Step::Done(done) = job.step().unwrap() {
                // Sometimes nobody adopts, until the next time.
                if prng.chance(3, 4) {
                    tree.adopt(&done);
                }
                break;
            }
        }
        while kept.len() > 6 || (!kept.is_empty() && prng.chance(1, 4)) {
            let (view, model) = kept.swap_remove(prng.below(kept.len() as u64) as usize);
            assert_eq!(contents(&view), model, "round {round}");
        }
        assert_clean(&store);
        file_max = file_max.max(store.sizes().file_bytes);
    }
    assert!(tree_height(&tree) >= 4, "{} levels", tree_height(&tree));
    let sizes = store.sizes();
    assert!(file_max < 6 * 1024 * PAGE_BYTES as u64, "the file grew to {file_max}");
    assert!(sizes.in_use_bytes <= sizes.file_bytes);
    for (view, model) in kept {
        assert_eq!(contents(&view), model);
    }
    // Empty again: the file gives its tail back.
    for key in model.keys() {
        tree.remove(key).unwrap();
    }
    for _ in 0..8 {
        checkpoint(&store, &mut [&mut tree]);
        assert_clean(&store);
    }
    let end = store.sizes();
    assert!(end.file_bytes <= 32 * PAGE_BYTES as u64, "{end:?} after {file_max}");
    assert_eq!(disk.contents(PATH).unwrap().len() as u64, end.file_bytes);
}

#[test]
fn appends_fill_their_pages() {
    let store = create(&MemDisk::new(1), Shape::DEFAULT);
    let mut tree = store.tree(GROUP, KIND);
    let mut raw = 0;
    for n in 0..50_000u64 {
        let value = vec![7; 100];
        raw += 8 + value.len() as u64;
        tree.put(&number(n), value.into(), true).unwrap();
        if n % 10_000 == 0 {
            checkpoint(&store, &mut [&mut tree]);
        }
    }
    checkpoint(&store, &mut [&mut tree]);
    assert_clean(&store);
    let used = store.sizes().in_use_bytes;
    assert!(used * 100 < raw * 115, "{used} bytes of pages for {raw}");
    assert_eq!(store.sizes().dirty_bytes, 0);
    assert!(store.sizes().cache_bytes <= OPTIONS.cache_bytes as u64 + 16 * 9000);
}

#[test]
fn big_values_and_long_keys() {
    let disk = MemDisk::new(1);
    let store = create(&disk, Shape::DEFAULT);
    let mut tree = store.tree(GROUP, KIND);
    let mut model = Model::new();
    let mut prng = Prng::new(4);
    for round in 0..60 {
        let mut key = vec![b'k'; if prng.chance(1, 6) { 40_000 } else { 5 }];
        key.extend(number(prng.below(20)));
        if prng.chance(1, 4) {
            assert_eq!(tree.remove(&key).unwrap().is_some(), model.remove(&key).is_some());
        } else {
            let size = [0, 10, 3000, 8140, 8160, 70_000, 1 << 20, 2 << 20][prng.below(8) as usize];
            let value = vec![round; size];
            tree.put(&key, value.clone().into(), true).unwrap();
            model.insert(key, (value, true));
        }
        if round % 7 == 0 {
            checkpoint(&store, &mut [&mut tree]);
            assert_clean(&store);
        }
        assert!(contents(&tree.view()) == model);
    }
    checkpoint(&store, &mut [&mut tree]);
    drop((tree, store));
    let store = open(&disk, Shape::DEFAULT);
    assert_clean(&store);
    assert!(contents(&store.tree(GROUP, KIND).view()) == model);
}

#[test]
fn many_trees_come_and_go() {
    let disk = MemDisk::new(1);
    let mut store = create(&disk, Shape::DEFAULT);
    let mut prng = Prng::new(4);
    let mut all: BTreeMap<(GroupId, TreeKind), (Tree, Model)> = BTreeMap::new();
    for round in 0..30 {
        for _ in 0..10 {
            let key = (GroupId(prng.below(40)), TreeKind(prng.below(3) as u8));
            let (tree, model) =
                all.entry(key).or_insert_with(|| (store.tree(key.0, key.1), Model::new()));
            for _ in 0..prng.below(5) {
                let (k, v) = (number(prng.below(100)), vec![round; 10]);
                tree.put(&k, v.clone().into(), true).unwrap();
                model.insert(k, (v, true));
            }
        }
        let drop_below = prng.below(8);
        all.retain(|(group, _), _| group.0 >= drop_below);
        let metas: BTreeMap<GroupId, Bytes> =
            all.keys().map(|(group, _)| (*group, Bytes::from(vec![round; 30]))).collect();
        let mut trees: Vec<&mut Tree> = all.values_mut().map(|(tree, _)| tree).collect();
        checkpoint_with(&store, &mut trees, metas.clone());
        assert_clean(&store);
        if prng.chance(1, 4) {
            all.values_mut().for_each(|(tree, _)| *tree = store.tree(GroupId(1000), KIND));
            drop(store);
            store = open(&disk, Shape::DEFAULT);
            assert_eq!(store.group_metas(), metas);
            for (key, (tree, _)) in &mut all {
                *tree = store.tree(key.0, key.1);
            }
        }
        let listed: Vec<_> =
            all.iter().filter(|(_, (t, _))| !t.is_empty()).map(|(key, _)| *key).collect();
        assert_eq!(store.trees(), listed);
        for (tree, model) in all.values() {
            assert_eq!(contents(&tree.view()), *model);
        }
    }
}

fn load(store: &Store, entries: u64, value: usize) -> (Tree, Model) {
    let mut loader = store.bulk_loader(GROUP, KIND);
    let mut model = Model::new();
    for n in 0..entries {
        let value = vec![n as u8; value];
        loader.push(&number(n), &value, n % 3 == 0).unwrap();
        model.insert(number(n), (value, n % 3 == 0));
    }
    (loader.finish().unwrap(), model)
}

#[test]
fn a_loaded_tree_is_like_any_other() {
    for entries in [0, 1, 2, 7, 100, 3000] {
        let disk = MemDisk::new(1);
        let store = create(&disk, Shape::TINY);
        // An older tree, to be replaced.
        let mut old = store.tree(GROUP, KIND);
        old.put(b"old", Bytes::from_static(b"old"), true).unwrap();
        checkpoint(&store, &mut [&mut old]);
        drop(old);
        let (mut tree, mut model) = load(&store, entries, 20);
        assert_eq!((tree.len(), tree.live()), (entries, entries.div_ceil(3)));
        assert_eq!(contents(&tree.view()), model);
        // Changed before any checkpoint has it, so that loaded pages are replaced at once.
        for n in (0..entries).step_by(40) {
            tree.put(&number(n), Bytes::from_static(b"new"), true).unwrap();
            model.insert(number(n), (b"new".to_vec(), true));
        }
        let before = tree.view();
        let held = model.clone();
        for n in (1..entries).step_by(50) {
            tree.remove(&number(n)).unwrap();
            model.remove(&number(n));
        }
        for _ in 0..3 {
            checkpoint(&store, &mut [&mut tree]);
            assert_clean(&store);
            assert_eq!(contents(&tree.view()), model);
        }
        assert_eq!(contents(&before), held);
        drop((tree, before, store));
        let store = open(&disk, Shape::TINY);
        assert_eq!(contents(&store.tree(GROUP, KIND).view()), model);
        assert_clean(&store);
    }
}

#[test]
fn a_loaded_tree_that_is_emptied_leaves_nothing() {
    let store = create(&MemDisk::new(1), Shape::TINY);
    let (mut tree, model) = load(&store, 50, 5);
    for key in model.keys() {
        tree.remove(key).unwrap();
    }
    for _ in 0..3 {
        checkpoint(&store, &mut [&mut tree]);
        assert_clean(&store);
    }
    assert_eq!(store.trees(), []);
}

#[test]
fn relocation_empties_the_tail() {
    let disk = MemDisk::new(1);
    let store = create(&disk, Shape::TINY);
    let mut tree = store.tree(GROUP, KIND);
    let mut model = Model::new();
    for n in 0..2000 {
        let value = vec![n as u8; 30];
        tree.put(&number(n), value.clone().into(), true).unwrap();
        model.insert(number(n), (value, true));
        if n % 100 == 0 {
            checkpoint(&store, &mut [&mut tree]);
        }
    }
    // The old ones go, the new ones sit in the tail.
    for n in 0..1800 {
        tree.remove(&number(n)).unwrap();
        model.remove(&number(n));
    }
    for _ in 0..3 {
        checkpoint(&store, &mut [&mut tree]);
    }
    let before = store.sizes();
    assert!(before.file_bytes > 4 * before.in_use_bytes, "{before:?}");
    let held = tree.view();
    let target = before.in_use_bytes * 5 / 4;
    let (mut from, mut calls) = (Some(Vec::new()), 0);
    while let Some(key) = from {
        from = tree.relocate(target, &key, 1).unwrap();
        calls += 1;
        if calls % 3 == 0 {
            checkpoint(&store, &mut [&mut tree]);
        }
    }
    assert!(calls > 1);
    assert_eq!(contents(&held), model);
    drop(held);
    for _ in 0..3 {
        checkpoint(&store, &mut [&mut tree]);
        assert_clean(&store);
    }
    assert_eq!(contents(&tree.view()), model);
    let after = store.sizes();
    assert!(after.file_bytes < before.file_bytes / 2, "{after:?} after {before:?}");
    // What lies low stays where it is.
    assert_eq!(tree.relocate(after.file_bytes, b"", 10_000).unwrap(), None);
    assert_eq!(store.sizes().dirty_bytes, 0);
}

#[test]
fn a_loader_given_up_leaves_nothing() {
    let disk = MemDisk::new(1);
    let store = create(&disk, Shape::TINY);
    let mut tree = store.tree(GROUP, KIND);
    tree.put(b"a", Bytes::from_static(b"b"), true).unwrap();
    checkpoint(&store, &mut [&mut tree]);
    let mut loader = store.bulk_loader(GroupId(2), KIND);
    for n in 0..500 {
        loader.push(&number(n), b"value", true).unwrap();
    }
    // A checkpoint in the middle does not store the loader's pages.
    tree.put(b"c", Bytes::from_static(b"d"), true).unwrap();
    checkpoint(&store, &mut [&mut tree]);
    assert_clean(&store);
    let grown = store.sizes().file_bytes;
    drop(loader);
    let (loaded, _) = load(&store, 500, 5);
    drop(loaded);
    for _ in 0..3 {
        tree.put(b"c", Bytes::from_static(b"e"), true).unwrap();
        checkpoint(&store, &mut [&mut tree]);
        assert_clean(&store);
    }
    assert!(store.sizes().file_bytes < grown, "{:?} after {grown}", store.sizes());
    let mut loader = store.bulk_loader(GROUP, KIND);
    loader.push(b"b", b"", true).unwrap();
    let refused = loader.push(b"a", b"", true);
    assert!(matches!(refused, Err(StorageError::Corrupt { .. })));
}

#[test]
fn a_checkpoint_writes_only_what_changed() {
    let disk = MemDisk::new(1);
    let store = create(&disk, Shape::DEFAULT);
    let mut tree = store.tree(GROUP, KIND);
    for n in 0..20_000 {
        tree.put(&number(n), vec![1; 100].into(), true).unwrap();
    }
    checkpoint(&store, &mut [&mut tree]);
    let written = |tree: &mut Tree| {
        let before = disk.ops().written_bytes;
        checkpoint(&store, &mut [tree]);
        disk.ops().written_bytes - before
    };
    assert_eq!(written(&mut tree), PAGE_BYTES as u64, "nothing but a meta");
    tree.put(&number(77), vec![2; 100].into(), true).unwrap();
    // The leaf (2), the inner nodes, the catalogue, the map and its index, the meta.
    let bytes = written(&mut tree);
    assert!(bytes <= 9 * PAGE_BYTES as u64, "{bytes}");
    // Removing what is not there changes nothing.
    assert_eq!(tree.remove(b"nothing").unwrap(), None);
    assert_eq!(written(&mut tree), PAGE_BYTES as u64);
}

#[test]
fn opening_reads_no_more_for_more_data() {
    let reads = |entries: u64| {
        let disk = MemDisk::new(1);
        let store = create(&disk, Shape::DEFAULT);
        let mut tree = store.tree(GROUP, KIND);
        for n in 0..entries {
            tree.put(&number(n), vec![1; 100].into(), true).unwrap();
        }
        checkpoint(&store, &mut [&mut tree]);
        drop((tree, store));
        let before = disk.ops().reads;
        let store = open(&disk, Shape::DEFAULT);
        let tree = store.tree(GROUP, KIND);
        assert_eq!(tree.len(), entries);
        disk.ops().reads - before
    };
    assert_eq!(reads(10), reads(30_000));
}
