//! Removing one entry, and the merges that follow from it.
//!
//! A node that has become empty leaves its parent; one below a quarter of its size joins a
//! neighbour when both together leave some room, so that the next put does not split them again.
//! No entries move between neighbours otherwise: half-empty nodes are cheap, moves are not.

use super::lookup::{Hand, get};
use super::node::{Child, Item, Node, Root, make_mut};
use super::page::{ChildRecord, HEADER_BYTES, Slotted};
use super::pager::Pager;
use crate::types::StorageError;
use std::sync::Arc;

pub(super) fn remove(
    pager: &Pager,
    root: &mut Root,
    key: &[u8],
) -> Result<Option<Item>, StorageError> {
    let Some(mut node) = pager.root(root)? else { return Ok(None) };
    // Look before touching: a key that is not there must not make its path dirty.
    let Some(old) = get(pager, &node, key, Hand::Copy)? else { return Ok(None) };
    root.child = None;
    let removed = remove_at(pager, &mut node, key, old.live);
    if let Err(error) = removed {
        root.child = Some(Child::Mem(node));
        return Err(error);
    }
    root.entries -= 1;
    root.live -= u64::from(old.live);
    // An inner root with one child is a level too many.
    while !node.is_leaf() && node.body.len() == 1 {
        let only = pager.child(&node, 0)?;
        node = only;
    }
    root.level = node.level;
    if node.body.len() > 0 {
        root.child = Some(Child::Mem(node));
    } else {
        assert_eq!((root.entries, root.live), (0, 0), "an empty tree counts entries");
        root.level = 0;
    }
    Ok(Some(old))
}

fn remove_at(
    pager: &Pager,
    slot: &mut Arc<Node>,
    key: &[u8],
    live: bool,
) -> Result<(), StorageError> {
    if slot.is_leaf() {
        let i = slot.body.search(key).expect("the key was found on the way down");
        make_mut(slot).body.remove(i);
        return Ok(());
    }
    let i = slot.body.child_for(key);
    let loaded = match slot.kid(i) {
        Some(_) => None,
        None => Some(pager.child(slot, i)?),
    };
    let node = make_mut(slot);
    if loaded.is_some() {
        node.kids[i] = loaded;
    }
    let kid = node.kids[i].as_mut().expect("the child was loaded above");
    remove_at(pager, kid, key, live)?;
    let (empty, used, level) = (kid.body.len() == 0, kid.body.used_bytes(), kid.level);
    if empty {
        remove_child(node, i);
    } else {
        let mut record = node.body.record(i);
        record.entries -= 1;
        record.live -= u64::from(live);
        node.body.set_record(i, &record);
        if used < pager.shape.max_bytes(level) / 4 && node.body.len() > 1 {
            merge(pager, node, i)?;
        }
    }
    node.recharge();
    Ok(())
}

/// Takes child `i` out of an inner node. The first child's key is always empty.
fn remove_child(node: &mut Node, i: usize) {
    node.body.remove(i);
    node.kids.remove(i);
    if i == 0 && node.body.len() > 0 {
        let record = node.body.record(0);
        node.body.remove(0);
        let inserted = node.body.try_insert(0, b"", &record.encode(), false, usize::MAX);
        assert!(inserted, "a shorter key does not fit");
    }
}

/// Joins child `i` with a neighbour if the result leaves a quarter of a node free.
fn merge(pager: &Pager, node: &mut Node, i: usize) -> Result<(), StorageError> {
    let left = if i + 1 < node.body.len() { i } else { i - 1 };
    let right = left + 1;
    let level = node.level - 1;
    let max = pager.shape.max_bytes(level);
    let separator = node.body.key(right).to_vec();
    let (a, b) = (pager.child(node, left)?, pager.child(node, right)?);
    let joined = a.body.used_bytes() + b.body.used_bytes() - HEADER_BYTES
        + if level > 0 { separator.len() } else { 0 };
    if joined > max - max / 4 {
        return Ok(());
    }
    let mut body = Slotted::with_capacity((joined + max / 8).min(max));
    for k in 0..a.body.len() {
        body.push(a.body.key(k), a.body.value(k), a.body.is_live(k));
    }
    for k in 0..b.body.len() {
        // The right node's first key stands in the parent.
        let key = if level > 0 && k == 0 { &separator[..] } else { b.body.key(k) };
        body.push(key, b.body.value(k), b.body.is_live(k));
    }
    let mut kids = Vec::new();
    if level > 0 {
        for from in [&a, &b] {
            kids.extend((0..from.body.len()).map(|k| from.kid(k).cloned()));
        }
    }
    let joined = Arc::new(Node::dirty(level, body, kids, &pager.counters));
    drop((a, b));
    let record: ChildRecord = joined.record();
    node.kids[left] = Some(joined);
    node.body.set_record(left, &record);
    node.body.remove(right);
    node.kids.remove(right);
    Ok(())
}
