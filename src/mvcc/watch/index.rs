//! Which watchers want a key: exact keys in a map, ranges in an interval tree.
//!
//! The interval tree is a treap by (start, end) whose nodes know the farthest end below them, so
//! that a search leaves out every subtree that ends before the key. Watchers of one and the same
//! range share a node. Insert and remove are O(log n) expected, a search O(log n + found).

use crate::types::KeyRange;
use crate::types::prng::Prng;
use bytes::Bytes;
use std::cmp::Ordering;
use std::collections::BTreeMap;

/// A watcher's number in the hub.
pub(super) type WatcherKey = u64;

#[derive(Debug)]
pub(super) struct Index {
    single: BTreeMap<Bytes, Vec<WatcherKey>>,
    ranges: Link,
    /// Draws the treap's priorities: the shape depends on the order of calls alone.
    prng: Prng,
}

type Link = Option<Box<Node>>;

#[derive(Debug)]
struct Node {
    start: Bytes,
    end: End,
    watchers: Vec<WatcherKey>,
    /// The farthest end in this subtree.
    farthest: End,
    /// Not below either child's.
    priority: u64,
    left: Link,
    right: Link,
}

/// Where a range ends, exclusive. `Open` sorts behind every key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    At(Bytes),
    Open,
}

impl End {
    fn of(range: &KeyRange) -> End {
        if range.is_from_key() { End::Open } else { End::At(range.end.clone()) }
    }
    fn is_after(&self, key: &[u8]) -> bool {
        match self {
            End::At(end) => end.as_ref() > key,
            End::Open => true,
        }
    }
}

impl Index {
    pub fn new() -> Index {
        Index {
            single: BTreeMap::new(),
            ranges: None,
            prng: Prng::stream(0, "watch index priorities"),
        }
    }

    pub fn insert(&mut self, range: &KeyRange, watcher: WatcherKey) {
        if range.is_single() {
            self.single.entry(range.key.clone()).or_default().push(watcher);
            return;
        }
        let end = End::of(range);
        if let Some(node) = find(&mut self.ranges, &range.key, &end) {
            node.watchers.push(watcher);
            return;
        }
        let node = Box::new(Node {
            start: range.key.clone(),
            farthest: end.clone(),
            end,
            watchers: vec![watcher],
            priority: self.prng.next_u64(),
            left: None,
            right: None,
        });
        insert(&mut self.ranges, node);
    }

    pub fn remove(&mut self, range: &KeyRange, watcher: WatcherKey) {
        let take = |watchers: &mut Vec<WatcherKey>| {
            let at = watchers.iter().position(|w| *w == watcher);
            watchers.swap_remove(at.expect("a removed watcher was inserted"));
            watchers.is_empty()
        };
        if range.is_single() {
            let watchers = self.single.get_mut(&range.key).expect("an indexed key has watchers");
            if take(watchers) {
                self.single.remove(&range.key);
            }
            return;
        }
        let end = End::of(range);
        let node = find(&mut self.ranges, &range.key, &end).expect("an indexed range has a node");
        if take(&mut node.watchers) {
            remove(&mut self.ranges, &range.key, &end);
        }
    }

    /// Hands every watcher of `key` to `visit`, each once, in no particular order.
    pub fn each(&self, key: &[u8], visit: &mut dyn FnMut(WatcherKey)) {
        if let Some(watchers) = self.single.get(key) {
            watchers.iter().copied().for_each(&mut *visit);
        }
        stab(&self.ranges, key, visit);
    }
}

fn compare(node: &Node, start: &[u8], end: &End) -> Ordering {
    start.cmp(node.start.as_ref()).then_with(|| end.cmp(&node.end))
}

fn find<'a>(mut link: &'a mut Link, start: &[u8], end: &End) -> Option<&'a mut Node> {
    while let Some(node) = link {
        match compare(node, start, end) {
            Ordering::Less => link = &mut node.left,
            Ordering::Greater => link = &mut node.right,
            Ordering::Equal => return Some(node),
        }
    }
    None
}

fn update(node: &mut Node) {
    let below = [&node.left, &node.right].into_iter().flatten().map(|kid| &kid.farthest).max();
    node.farthest = match below {
        Some(farthest) if *farthest > node.end => farthest.clone(),
        _ => node.end.clone(),
    };
}

/// Splits a treap into what sorts before (start, end) and what sorts behind.
fn split(link: Link, start: &[u8], end: &End) -> (Link, Link) {
    let Some(mut node) = link else { return (None, None) };
    if compare(&node, start, end) == Ordering::Less {
        let (left, right) = split(node.left.take(), start, end);
        node.left = right;
        update(&mut node);
        (left, Some(node))
    } else {
        let (left, right) = split(node.right.take(), start, end);
        node.right = left;
        update(&mut node);
        (Some(node), right)
    }
}

fn merge(left: Link, right: Link) -> Link {
    match (left, right) {
        (None, link) | (link, None) => link,
        (Some(mut a), Some(mut b)) => {
            if a.priority >= b.priority {
                a.right = merge(a.right.take(), Some(b));
                update(&mut a);
                Some(a)
            } else {
                b.left = merge(Some(a), b.left.take());
                update(&mut b);
                Some(b)
            }
        }
    }
}

fn insert(link: &mut Link, mut new: Box<Node>) {
    match link {
        Some(node) if node.priority >= new.priority => {
            let less = compare(node, &new.start, &new.end) == Ordering::Less;
            insert(if less { &mut node.left } else { &mut node.right }, new);
            update(node);
        }
        _ => {
            let (left, right) = split(link.take(), &new.start, &new.end);
            new.left = left;
            new.right = right;
            update(&mut new);
            *link = Some(new);
        }
    }
}

fn remove(link: &mut Link, start: &[u8], end: &End) {
    let node = link.as_mut().expect("the range to remove is there");
    match compare(node, start, end) {
        Ordering::Less => remove(&mut node.left, start, end),
        Ordering::Greater => remove(&mut node.right, start, end),
        Ordering::Equal => {
            *link = merge(node.left.take(), node.right.take());
            return;
        }
    }
    update(node);
}

fn stab(link: &Link, key: &[u8], visit: &mut dyn FnMut(WatcherKey)) {
    let Some(node) = link else { return };
    if !node.farthest.is_after(key) {
        return;
    }
    stab(&node.left, key, visit);
    if node.start.as_ref() <= key {
        if node.end.is_after(key) {
            node.watchers.iter().copied().for_each(&mut *visit);
        }
        stab(&node.right, key, visit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ranges() -> impl Strategy<Value = KeyRange> {
        let key = || prop::collection::vec(0_u8..6, 1..3);
        (key(), prop::option::of(key())).prop_filter_map("empty", |(start, end)| {
            let range = KeyRange::new(start, end.unwrap_or_default());
            (!range.is_empty_range()).then_some(range)
        })
    }

    fn check(link: &Link) -> Option<End> {
        let node = link.as_ref()?;
        for kid in [&node.left, &node.right].into_iter().flatten() {
            assert!(kid.priority <= node.priority);
        }
        let below = check(&node.left).max(check(&node.right));
        let farthest = below.max(Some(node.end.clone()));
        assert_eq!(farthest.as_ref(), Some(&node.farthest));
        farthest
    }

    proptest! {
        #[test]
        fn finds_what_a_list_finds(
            steps in prop::collection::vec((any::<bool>(), ranges(), 0_usize..50), 1..80),
            keys in prop::collection::vec(prop::collection::vec(0_u8..6, 1..3), 10),
        ) {
            let mut index = Index::new();
            let mut list: Vec<(WatcherKey, KeyRange)> = Vec::new();
            for (n, (add, range, victim)) in steps.into_iter().enumerate() {
                if add || list.is_empty() {
                    index.insert(&range, n as u64);
                    list.push((n as u64, range));
                } else {
                    let (watcher, range) = list.swap_remove(victim % list.len());
                    index.remove(&range, watcher);
                }
                check(&index.ranges);
            }
            for key in keys {
                let mut found = Vec::new();
                index.each(&key, &mut |watcher| found.push(watcher));
                found.sort_unstable();
                let mut expected: Vec<_> =
                    list.iter().filter(|(_, r)| r.contains(&key)).map(|(w, _)| *w).collect();
                expected.sort_unstable();
                prop_assert_eq!(found, expected);
            }
            for (watcher, range) in list {
                index.remove(&range, watcher);
            }
            prop_assert!(index.single.is_empty() && index.ranges.is_none());
        }
    }
}
