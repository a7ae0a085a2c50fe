//! One tree against a `BTreeMap`.

use super::super::node::Shape;
use super::*;
use proptest::prelude::*;
use std::ops::Bound;

#[derive(Clone, Debug)]
enum Op {
    Put(u16, u16, bool),
    Remove(u16),
    RemoveRange(u16, u16),
    Get(u16),
    Seek(u16, bool),
    Count(u16, u16),
    Keep,
    Checkpoint,
    Reopen,
}

fn op() -> impl Strategy<Value = Op> {
    let key = 0..700u16;
    prop_oneof![
        12 => (key.clone(), prop_oneof![9 => 0..40u16, 1 => 0..2000u16], any::<bool>())
            .prop_map(|(k, v, l)| Op::Put(k, v, l)),
        4 => key.clone().prop_map(Op::Remove),
        1 => (key.clone(), 0..200u16).prop_map(|(k, n)| Op::RemoveRange(k, n)),
        2 => key.clone().prop_map(Op::Get),
        2 => (key.clone(), any::<bool>()).prop_map(|(k, f)| Op::Seek(k, f)),
        1 => (key.clone(), key).prop_map(|(a, b)| Op::Count(a, b)),
        1 => Just(Op::Keep),
        1 => Just(Op::Checkpoint),
        1 => Just(Op::Reopen),
    ]
}

/// Keys of different lengths with long common beginnings.
pub fn key(n: u16) -> Vec<u8> {
    let mut key = format!("key/{:03}", n / 3).into_bytes();
    key.extend(std::iter::repeat_n(b'x', (n % 3) as usize * 7));
    key
}

fn live_between(model: &Model, lower: Bound<&[u8]>, upper: Bound<&[u8]>) -> u64 {
    model.range::<[u8], _>((lower, upper)).filter(|(_, (_, live))| *live).count() as u64
}

fn run(ops: Vec<Op>, shape: Shape) {
    let disk = MemDisk::new(3);
    let mut store = create(&disk, shape);
    let mut tree = store.tree(GROUP, KIND);
    let mut model = Model::new();
    let mut durable = Model::new();
    let mut kept = Vec::new();
    for op in ops {
        match op {
            Op::Put(k, size, live) => {
                let value = vec![k as u8; size as usize];
                let old = tree.put(&key(k), value.clone().into(), live).unwrap();
                let was = model.insert(key(k), (value, live));
                assert_eq!(old.map(|old| (old.value.to_vec(), old.live)), was);
            }
            Op::Remove(k) => {
                let old = tree.remove(&key(k)).unwrap();
                assert_eq!(old.map(|old| (old.value.to_vec(), old.live)), model.remove(&key(k)));
            }
            Op::RemoveRange(k, n) => {
                for k in k..k.saturating_add(n) {
                    let old = tree.remove(&key(k)).unwrap();
                    assert_eq!(old.is_some(), model.remove(&key(k)).is_some());
                }
            }
            Op::Get(k) => {
                let expected = model.get(&key(k)).cloned();
                let found = tree.get(&key(k)).unwrap();
                assert_eq!(found.map(|item| (item.value.to_vec(), item.live)), expected);
                let found = tree.view().get(&key(k)).unwrap();
                assert_eq!(found.map(|item| (item.value.to_vec(), item.live)), expected);
            }
            Op::Seek(k, forward) => {
                let mut cursor = tree.view().cursor();
                cursor.seek(&key(k)).unwrap();
                let mut found = Vec::new();
                let mut expected: Vec<Vec<u8>> = if forward {
                    model.range(key(k)..).take(20).map(|(k, _)| k.clone()).collect()
                } else {
                    model.range(..key(k)).rev().take(20).map(|(k, _)| k.clone()).collect()
                };
                for _ in 0..20 {
                    let next = if forward { cursor.next() } else { cursor.prev() };
                    let Some((key, _, _)) = next.unwrap() else { break };
                    found.push(key.to_vec());
                }
                assert_eq!(found, expected);
                // And back again over the same ones.
                expected.reverse();
                let mut back = Vec::new();
                for _ in 0..expected.len() {
                    let next = if forward { cursor.prev() } else { cursor.next() };
                    back.push(next.unwrap().expect("was just passed").0.to_vec());
                }
                assert_eq!(back, expected);
            }
            Op::Count(a, b) => {
                let (a, b) = (key(a.min(b)), key(a.max(b)));
                let view = tree.view();
                let bounds = [
                    (Bound::Unbounded, Bound::Unbounded),
                    (Bound::Included(&a[..]), Bound::Included(&b[..])),
                    (Bound::Included(&a[..]), Bound::Unbounded),
                    (Bound::Unbounded, Bound::Excluded(&b[..])),
                ];
                for (lower, upper) in bounds {
                    let found = view.count_live(lower, upper).unwrap();
                    assert_eq!(found, live_between(&model, lower, upper));
                }
                if a < b {
                    let (lower, upper) = (Bound::Excluded(&a[..]), Bound::Excluded(&b[..]));
                    let found = view.count_live(lower, upper).unwrap();
                    assert_eq!(found, live_between(&model, lower, upper));
                }
            }
            Op::Keep => {
                if kept.len() == 4 {
                    kept.remove(0);
                }
                kept.push((tree.view(), model.clone()));
            }
            Op::Checkpoint => {
                checkpoint(&store, &mut [&mut tree]);
                durable = model.clone();
                assert_clean(&store);
            }
            Op::Reopen => {
                for (view, model) in kept.drain(..) {
                    assert_eq!(contents(&view), model);
                }
                drop(tree);
                drop(store);
                store = open(&disk, shape);
                tree = store.tree(GROUP, KIND);
                model = durable.clone();
            }
        }
        assert_eq!(tree.len(), model.len() as u64);
        assert_eq!(tree.live(), model.values().filter(|(_, live)| *live).count() as u64);
    }
    for (view, model) in &kept {
        assert_eq!(contents(view), *model);
    }
    assert_eq!(contents(&tree.view()), model);
    drop(kept);
    drop(tree);
    let counters = Arc::clone(&store.pager().counters);
    drop(store);
    assert_eq!(counters.dirty_bytes.load(std::sync::atomic::Ordering::Relaxed), 0);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, max_shrink_iters: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_tree_of_tiny_nodes_is_a_map(ops in prop::collection::vec(op(), 1..400)) {
        run(ops, Shape::TINY);
    }

    #[test]
    fn a_tree_is_a_map(ops in prop::collection::vec(op(), 1..300)) {
        run(ops, Shape::DEFAULT);
    }
}
