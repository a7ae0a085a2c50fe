//! A node's bytes against a vector, and against bytes that are not a node's.

use super::super::page::{PAGE_BYTES, Slotted};
use bytes::Bytes;
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Op {
    Put(u8, usize, bool),
    Remove(usize),
    Live(usize, bool),
    /// A reader holds a slice while the next operations go on.
    Hold(usize),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (any::<u8>(), 0..90usize, any::<bool>()).prop_map(|(k, v, l)| Op::Put(k, v, l)),
        2 => any::<usize>().prop_map(Op::Remove),
        1 => (any::<usize>(), any::<bool>()).prop_map(|(i, l)| Op::Live(i, l)),
        1 => any::<usize>().prop_map(Op::Hold),
    ]
}

fn image(node: &Slotted) -> Vec<u8> {
    let mut out = Vec::new();
    node.encode(0, 7, 9, &mut out, |_| None);
    out
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_node_is_a_sorted_vector(ops in prop::collection::vec(op(), 1..120)) {
        const MAX: usize = 1024;
        let mut node = Slotted::with_capacity(64);
        let mut model: Vec<(Vec<u8>, Vec<u8>, bool)> = Vec::new();
        let mut held: Vec<(Bytes, Vec<u8>)> = Vec::new();
        for op in ops {
            match op {
                Op::Put(k, size, live) => {
                    let (key, value) = (vec![k; 1 + k as usize % 5], vec![k; size]);
                    let found = node.search(&key);
                    let place = model.binary_search_by(|entry| entry.0.cmp(&key));
                    prop_assert_eq!(found, place);
                    let before = node.used_bytes();
                    match place {
                        Ok(i) => {
                            let old = Slotted::cost_of(key.len(), model[i].1.len());
                            let new = Slotted::cost_of(key.len(), size);
                            let fits = node.try_replace(i, &value, live, MAX);
                            prop_assert_eq!(fits, model.len() == 1 || before - old + new <= MAX);
                            if fits {
                                model[i] = (key, value, live);
                            }
                        }
                        Err(i) => {
                            let fits = node.try_insert(i, &key, &value, live, MAX);
                            let cost = Slotted::cost_of(key.len(), size);
                            prop_assert_eq!(fits, model.is_empty() || before + cost <= MAX);
                            if fits {
                                model.insert(i, (key, value, live));
                            }
                        }
                    }
                }
                Op::Remove(i) if !model.is_empty() => {
                    node.remove(i % model.len());
                    model.remove(i % model.len());
                }
                Op::Live(i, live) if !model.is_empty() => {
                    let at = i % model.len();
                    node.set_live(at, live);
                    model[at].2 = live;
                }
                Op::Hold(i) if !model.is_empty() => {
                    let at = i % model.len();
                    held.push((node.value_shared(at), model[at].1.clone()));
                }
                _ => {}
            }
            prop_assert_eq!(node.len(), model.len());
            prop_assert!(node.buffer_bytes() <= MAX);
            for (i, (key, value, live)) in model.iter().enumerate() {
                prop_assert_eq!((node.key(i), node.value(i)), (&key[..], &value[..]));
                prop_assert_eq!(node.is_live(i), *live);
                let before = model[..i].iter().filter(|entry| entry.2).count();
                prop_assert_eq!(node.live_before(i), before);
            }
        }
        for (slice, value) in held {
            prop_assert_eq!(&slice[..], &value[..]);
        }
        if !model.is_empty() {
            let bytes = image(&node);
            prop_assert_eq!(bytes.len() % PAGE_BYTES, 0);
            let back = Slotted::from_page(bytes.into(), 0, 7, 9).expect("just encoded");
            prop_assert!(back.entries_are_apart());
            prop_assert_eq!(back.used_bytes(), node.used_bytes());
            for (i, (key, value, live)) in model.iter().enumerate() {
                prop_assert_eq!((back.key(i), back.value(i)), (&key[..], &value[..]));
                prop_assert_eq!(back.is_live(i), *live);
            }
        }
    }

    #[test]
    fn changed_bytes_are_refused_or_harmless(changes in prop::collection::vec((0..400usize, any::<u8>(), any::<bool>()), 1..6)) {
        let mut node = Slotted::with_capacity(64);
        for k in 0..20u8 {
            node.push(&[k; 5], &[k; 11], k % 2 == 0);
        }
        let mut bytes = image(&node);
        let end = bytes.len();
        for (at, byte, from_end) in changes {
            bytes[if from_end { end - 1 - at } else { at }] = byte;
        }
        if let Ok(node) = Slotted::from_page(bytes.into(), 0, 7, 9) {
            for i in 0..node.len() {
                let _ = (node.key(i), node.value(i), node.entry_cost(i), node.search(&[i as u8]));
            }
            prop_assert!(node.live() <= node.len());
            let mut changed = node.clone();
            changed.remove(0);
            changed.push(b"zzz", b"new", true);
        }
    }
}

#[test]
fn entries_that_share_bytes_are_found() {
    let mut node = Slotted::with_capacity(64);
    node.push(b"a", b"12345678", false);
    node.push(b"b", b"12345678", false);
    let mut bytes = image(&node);
    // Both slots at the first entry: the sum is right, the bytes are not.
    let slot = bytes[32..36].to_vec();
    bytes[36..40].copy_from_slice(&slot);
    let node = Slotted::from_page(bytes.into(), 0, 7, 9).expect("well-formed");
    assert!(!node.entries_are_apart());
}
