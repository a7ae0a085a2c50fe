//! Power failures at every operation, rot at every page, and metas that are lost.

use super::super::node::Shape;
use super::super::page::PAGE_BYTES;
use super::*;
use crate::io::mem_disk::{CrashMode, CrashPlan, Fault, FaultKind, FaultOp};
use crate::types::StorageError;
use crate::types::prng::Prng;

/// One round of changes, the same for the same seed.
fn change(tree: &mut Tree, model: &mut Model, seed: u64) {
    let mut prng = Prng::new(seed);
    for _ in 0..prng.between(20, 60) {
        let key = super::model::key(prng.below(150) as u16);
        if prng.chance(1, 3) {
            tree.remove(&key).unwrap();
            model.remove(&key);
        } else {
            let size = if prng.chance(1, 20) { 9000 } else { prng.below(60) };
            let value = vec![seed as u8; size as usize];
            let live = prng.chance(1, 2);
            tree.put(&key, value.clone().into(), live).unwrap();
            model.insert(key, (value, live));
        }
    }
}

fn metas(round: u64) -> BTreeMap<GroupId, Bytes> {
    let first = if round < 4 { Some((GroupId(9), Bytes::from_static(b"goes"))) } else { None };
    let round = (GroupId(1), Bytes::from(round.to_le_bytes().to_vec()));
    first.into_iter().chain([round]).collect()
}

const ROUNDS: u64 = 6;

/// Checkpoints round after round; returns the states in order, and how far it came.
fn rounds(disk: &MemDisk, states: &mut Vec<Model>) -> Result<(), StorageError> {
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let store = Store::open_shaped(shared, Path::new(PATH), OPTIONS, Shape::TINY)?;
    let mut tree = store.tree(GROUP, KIND);
    let mut other = store.tree(GroupId(2), KIND);
    let mut model = contents(&tree.view());
    for round in 0..ROUNDS {
        change(&mut tree, &mut model, round);
        let mut trees = vec![(GROUP, KIND, tree.view())];
        // The other tree comes, stays and goes.
        if (1..4).contains(&round) {
            other.put(&round.to_le_bytes(), Bytes::from_static(b"x"), true)?;
            trees.push((GroupId(2), KIND, other.view()));
        }
        states.push(model.clone());
        let mut job = store.begin_checkpoint(trees, metas(round));
        change(&mut tree, &mut model, round + 100);
        let done = job.run()?;
        tree.adopt(&done);
        other.adopt(&done);
    }
    Ok(())
}

#[test]
fn a_crash_leaves_the_checkpoint_before_or_after() {
    for mode in CrashMode::ALL.into_iter().chain([CrashMode::Random, CrashMode::Prefix]) {
        for nth in (1..).step_by(if mode == CrashMode::Random { 1 } else { 3 }) {
            let disk = MemDisk::new(nth);
            drop(create(&disk, Shape::TINY));
            let mut states = vec![Model::new()];
            disk.set_crash_after(nth);
            let finished = rounds(&disk, &mut states).is_ok();
            disk.crash_with(CrashPlan { mode, torn: true });
            let store = open(&disk, Shape::TINY);
            assert_clean(&store);
            let mut tree = store.tree(GROUP, KIND);
            let found = contents(&tree.view());
            let last = states.len() - 1;
            let at = (last.saturating_sub(1)..=last).rev().find(|at| states[*at] == found);
            let at = at.unwrap_or_else(|| panic!("crash {nth} {mode:?}: neither state"));
            assert_eq!(store.checkpoint(), at as u64 + 1);
            if at > 0 {
                assert_eq!(store.group_metas(), metas(at as u64 - 1));
                let older = store.older_group_metas();
                let both = [metas(at as u64 - 1), metas((at as u64).saturating_sub(2))];
                assert!(both.contains(&older) || (at == 1 && older.is_empty()));
                assert_eq!(store.trees().len(), 1 + usize::from((2..=4).contains(&at)));
            }
            // The survivor goes on.
            let mut model = found;
            for round in 0..3 {
                change(&mut tree, &mut model, nth + round);
                checkpoint(&store, &mut [&mut tree]);
                assert_clean(&store);
            }
            drop((tree, store));
            let store = open(&disk, Shape::TINY);
            assert_clean(&store);
            assert_eq!(contents(&store.tree(GROUP, KIND).view()), model);
            if finished {
                break;
            }
        }
    }
}

#[test]
fn a_crash_while_creating_leaves_a_store_or_none() {
    for nth in 1.. {
        let disk = MemDisk::new(nth);
        disk.set_crash_after(nth);
        let shared: Arc<dyn Disk> = Arc::new(disk.clone());
        let made = Store::create(Arc::clone(&shared), Path::new(PATH), identity(), OPTIONS);
        let finished = made.is_ok();
        drop(made);
        disk.crash();
        if !disk.exists(Path::new(PATH)).unwrap() {
            assert!(!finished);
            Store::create(shared, Path::new(PATH), identity(), OPTIONS).unwrap();
        }
        let store = open(&disk, Shape::DEFAULT);
        assert_eq!(store.identity(), identity());
        assert_clean(&store);
        if finished {
            break;
        }
    }
}

/// Two checkpoints whose contents differ, on a disk; the contents.
fn two_checkpoints(disk: &MemDisk) -> [Model; 2] {
    let store = create(disk, Shape::TINY);
    let mut tree = store.tree(GROUP, KIND);
    let mut model = Model::new();
    [1, 2].map(|round| {
        change(&mut tree, &mut model, round);
        checkpoint_with(&store, &mut [&mut tree], metas(round));
        model.clone()
    })
}

#[test]
fn without_the_newest_meta_the_older_checkpoint_is_the_state() {
    let disk = MemDisk::new(5);
    let [older, newest] = two_checkpoints(&disk);
    let store = open(&disk, Shape::TINY);
    assert_eq!(contents(&store.tree(GROUP, KIND).view()), newest);
    assert_eq!((store.group_metas(), store.older_group_metas()), (metas(2), metas(1)));
    let page = store.checkpoint() % 2;
    drop(store);
    disk.corrupt(PATH, page * PAGE_BYTES as u64 + 20, |bytes| bytes[0] ^= 1, 1);
    let store = open(&disk, Shape::TINY);
    let mut tree = store.tree(GROUP, KIND);
    assert_eq!(contents(&tree.view()), older);
    assert_eq!((store.group_metas(), store.older_group_metas()), (metas(1), metas(1)));
    assert_clean(&store);
    let mut model = older;
    for round in 7..12 {
        change(&mut tree, &mut model, round);
        checkpoint(&store, &mut [&mut tree]);
        assert_clean(&store);
    }
    assert_eq!(contents(&tree.view()), model);
    for page in 0..2 {
        disk.corrupt(PATH, page * PAGE_BYTES as u64 + 20, |bytes| bytes[0] ^= 1, 1);
    }
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let opened = Store::open(shared, Path::new(PATH), OPTIONS);
    assert!(matches!(opened, Err(StorageError::Corrupt { offset: 0, .. })), "{opened:?}");
}

/// All a reader can see, or the damage it met.
fn read_all(disk: &MemDisk) -> Result<Model, StorageError> {
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let store = Store::open_shaped(shared, Path::new(PATH), OPTIONS, Shape::TINY)?;
    let mut cursor = store.tree(GROUP, KIND).view().cursor();
    cursor.seek_first()?;
    let mut all = Model::new();
    while let Some((key, value, live)) = cursor.next()? {
        all.insert(key.to_vec(), (value.to_vec(), live));
    }
    Ok(all)
}

#[test]
fn damage_is_seen_and_never_served() {
    let disk = MemDisk::new(6);
    let [older, newest] = two_checkpoints(&disk);
    let bytes = disk.contents(PATH).unwrap();
    let mut prng = Prng::new(1);
    let mut seen = 0;
    for page in 0..bytes.len() / PAGE_BYTES {
        for _ in 0..4 {
            let hurt = disk.fork();
            let at = (page * PAGE_BYTES) as u64 + prng.below(PAGE_BYTES as u64);
            let mask = 1 << prng.below(8);
            hurt.corrupt(PATH, at, |bytes| bytes[0] ^= mask, 1);
            match read_all(&hurt) {
                Ok(found) => assert!(found == newest || (page < 2 && found == older)),
                Err(StorageError::Corrupt { path, offset, .. }) => {
                    assert_eq!(path, Path::new(PATH));
                    assert!(offset <= at && at - offset < 64 << 10, "{offset} for {at}");
                    seen += 1;
                }
                Err(error) => panic!("{error}"),
            }
            // What no reader of the tree meets, verify does.
            let shared: Arc<dyn Disk> = Arc::new(hurt.clone());
            let opened = Store::open_shaped(shared, Path::new(PATH), OPTIONS, Shape::TINY);
            if let Ok(store) = opened
                && page >= 2
            {
                let space = store.0.space();
                drop(space);
                let map = super::super::allocator::StoredMap::read(
                    store.pager(),
                    &store.0.state().meta.clone(),
                );
                let in_use = map.map_or(true, |map| map.used.get(page as u64));
                assert_eq!(store.verify().unwrap().is_clean(), !in_use, "page {page}");
            }
        }
    }
    assert!(seen > 20, "only {seen} of the damages were met");
}

#[test]
fn lost_and_misdirected_writes_are_seen() {
    let disk = MemDisk::new(6);
    let store = create(&disk, Shape::TINY);
    let mut tree = store.tree(GROUP, KIND);
    let mut model = Model::new();
    let mut images = Vec::new();
    for round in 0..6 {
        change(&mut tree, &mut model, round);
        checkpoint(&store, &mut [&mut tree]);
        images.push(disk.contents(PATH).unwrap());
    }
    drop((tree, store));
    let newest = images.pop().unwrap();
    let pages = newest.len() / PAGE_BYTES;
    let mut lost = 0;
    for page in 2..pages {
        let range = page * PAGE_BYTES..(page + 1) * PAGE_BYTES;
        let older = images.iter().rev().filter_map(|image| image.get(range.clone()));
        let other = ((page + 1) % pages).max(2);
        let misdirected = &newest[other * PAGE_BYTES..(other + 1) * PAGE_BYTES];
        for stale in older.chain([misdirected]).filter(|stale| **stale != newest[range.clone()]) {
            let hurt = disk.fork();
            hurt.corrupt(PATH, range.start as u64, |b| b.copy_from_slice(stale), PAGE_BYTES);
            match read_all(&hurt) {
                Ok(found) => assert_eq!(found, model),
                Err(StorageError::Corrupt { .. }) => lost += 1,
                Err(error) => panic!("{error}"),
            }
        }
    }
    assert!(lost > 10, "only {lost} lost writes mattered");
}

#[test]
fn a_failing_disk_poisons_checkpoints_but_not_reads() {
    for (op, nth) in [(FaultOp::Write, 1), (FaultOp::Sync, 1), (FaultOp::Sync, 2)] {
        let disk = MemDisk::new(6);
        let store = create(&disk, Shape::TINY);
        let mut tree = store.tree(GROUP, KIND);
        let mut model = Model::new();
        change(&mut tree, &mut model, 1);
        checkpoint(&store, &mut [&mut tree]);
        change(&mut tree, &mut model, 2);
        disk.inject(Fault::nth(op, FaultKind::Io, nth).on("store"));
        let view = tree.view();
        let failed =
            store.begin_checkpoint(vec![(GROUP, KIND, view)], BTreeMap::new()).run().unwrap_err();
        assert!(matches!(failed, StorageError::Io { .. }), "{failed}");
        let view = tree.view();
        let again =
            store.begin_checkpoint(vec![(GROUP, KIND, view)], BTreeMap::new()).run().unwrap_err();
        assert!(matches!(again, StorageError::Poisoned { .. }), "{again}");
        change(&mut tree, &mut model, 3);
        assert_eq!(contents(&tree.view()), model);
    }
}

#[test]
fn a_full_disk_is_an_error_that_says_so() {
    let disk = MemDisk::new(6);
    let store = create(&disk, Shape::TINY);
    let mut tree = store.tree(GROUP, KIND);
    let mut model = Model::new();
    change(&mut tree, &mut model, 1);
    disk.set_capacity(Some(6 * PAGE_BYTES as u64));
    let view = tree.view();
    let error =
        store.begin_checkpoint(vec![(GROUP, KIND, view)], BTreeMap::new()).run().unwrap_err();
    assert!(error.is_no_space(), "{error}");
}

/// Whenever the newest meta may be lost, the checkpoint before it must still be there whole.
#[test]
fn the_older_checkpoint_stays_whole_while_the_next_is_written() {
    stays_whole(0);
}

fn stays_whole(seed: u64) {
    let disk = MemDisk::new(6);
    let mut store = create(&disk, Shape::TINY);
    let mut tree = store.tree(GROUP, KIND);
    let mut model = Model::new();
    let mut states = vec![Model::new(), Model::new()];
    for round in 0..9u64 {
        change(&mut tree, &mut model, seed * 1000 + round);
        let view = tree.view();
        let mut job = store.begin_checkpoint(vec![(GROUP, KIND, view)], metas(round));
        for turn in 0.. {
            let step = job.step().unwrap();
            let newest = store.checkpoint();
            let forked = disk.fork_crashed(CrashPlan { mode: CrashMode::All, torn: false });
            let page = newest % 2 * PAGE_BYTES as u64;
            forked.corrupt(PATH, page + 20, |bytes| bytes[0] ^= 1, 1);
            let older = open(&forked, Shape::TINY);
            // The job's own meta may have reached the disk already: then that one is the newest.
            let at = older.checkpoint();
            let expected = if at > newest { &model } else { &states[at as usize] };
            assert_eq!(contents(&older.tree(GROUP, KIND).view()), *expected);
            if turn % 8 == 0 {
                assert_clean(&older);
            }
            if let super::super::Step::Done(done) = step {
                tree.adopt(&done);
                break;
            }
        }
        drop(job);
        states.push(model.clone());
        if round % 3 == 2 {
            drop(tree);
            drop(store);
            store = open(&disk, Shape::TINY);
            tree = store.tree(GROUP, KIND);
        }
    }
}

/// A sync fails, the process ends, another one opens the file on the same machine: whatever it
/// goes on from must be what a power failure would leave.
#[test]
fn what_a_failed_sync_left_in_the_cache_is_not_built_on() {
    let mut doubted = 0;
    for nth in 1..60 {
        for of_open in [false, true] {
            let disk = MemDisk::new(nth);
            drop(create(&disk, Shape::TINY));
            let mut states = vec![Model::new()];
            if of_open {
                // Killed at some operation, and the sync of the next start fails.
                disk.set_crash_after(nth * 3);
                let _ = rounds(&disk, &mut states);
                disk.clear_crash_after();
                disk.kill_process();
                disk.inject(Fault::next(FaultOp::Sync, FaultKind::Io));
                let shared: Arc<dyn Disk> = Arc::new(disk.clone());
                let opened = Store::open_shaped(shared, Path::new(PATH), OPTIONS, Shape::TINY);
                assert!(opened.is_err());
            } else {
                disk.inject(Fault::nth(FaultOp::Sync, FaultKind::Io, nth));
                let _ = rounds(&disk, &mut states);
            }
            disk.kill_process();
            disk.clear_faults();
            let note = disk.files().iter().any(|path| path.to_string_lossy().contains("unsynced"));
            doubted += u64::from(note);
            let store = open(&disk, Shape::TINY);
            assert_clean(&store);
            let durable = open(&disk.fork(), Shape::TINY);
            assert_clean(&durable);
            assert_eq!(store.checkpoint(), durable.checkpoint(), "sync {nth}, open {of_open}");
            let found = contents(&store.tree(GROUP, KIND).view());
            assert_eq!(found, contents(&durable.tree(GROUP, KIND).view()));
            assert!(states.contains(&found) || found.is_empty());
            let files = disk.files();
            assert!(!files.iter().any(|path| path.to_string_lossy().contains("unsynced")));
        }
    }
    assert!(doubted > 10, "the note was needed {doubted} times");
}
