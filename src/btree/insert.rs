//! Putting one entry, and the splits that follow from it.
//!
//! The path from the root is made writable on the way down (`make_mut`), the counts in it are
//! corrected on the way up. A node that overflows hands its right parts up as `Sibling`s. At the
//! right edge of the tree an overflowing node is left full and untouched, and the new entry
//! starts a node of its own: keys that only grow fill their pages completely.
//!
//! Everything that can fail (reading a page) happens on the way down, before any count changes.

use super::lookup::{Hand, item};
use super::node::{Child, Item, Node, Root, make_mut};
use super::page::{ChildRecord, HEADER_BYTES, Slotted};
use super::pager::Pager;
use crate::types::StorageError;
use std::sync::Arc;

/// An inner node splits only into halves of at least two children, whatever their keys weigh:
/// that alone guarantees that levels shrink upward.
const CHILDREN_MIN: usize = 2;

/// A node that was split off, and the lower bound of its keys.
pub(super) struct Sibling {
    pub separator: Vec<u8>,
    pub node: Arc<Node>,
}

struct Put<'a> {
    pager: &'a Pager,
    key: &'a [u8],
    value: &'a [u8],
    live: bool,
    old: Option<Item>,
}

pub(super) fn put(
    pager: &Pager,
    root: &mut Root,
    key: &[u8],
    value: &[u8],
    live: bool,
) -> Result<Option<Item>, StorageError> {
    let mut op = Put { pager, key, value, live, old: None };
    let Some(mut node) = pager.root(root)? else {
        let mut body = Slotted::with_capacity(
            (HEADER_BYTES + Slotted::cost_of(key.len(), value.len())).next_multiple_of(64),
        );
        body.push(key, value, live);
        let node = Arc::new(Node::dirty(0, body, Vec::new(), &pager.counters));
        *root = Root { child: Some(Child::Mem(node)), level: 0, entries: 1, live: u64::from(live) };
        return Ok(None);
    };
    // The root's own reference would make the node look shared.
    root.child = None;
    let siblings = match op.put_at(&mut node, true) {
        Ok(siblings) => siblings,
        Err(error) => {
            // Nothing that counts has changed: reads go on, and will meet the same page.
            root.child = Some(Child::Mem(node));
            return Err(error);
        }
    };
    if siblings.is_empty() {
        root.child = Some(Child::Mem(node));
    } else {
        let level = node.level + 1;
        let mut body = Slotted::with_capacity(256);
        let mut kids = Vec::with_capacity(siblings.len() + 1);
        body.push(b"", &node.record().encode(), false);
        kids.push(Some(node));
        for sibling in siblings {
            body.push(&sibling.separator, &sibling.node.record().encode(), false);
            kids.push(Some(sibling.node));
        }
        root.child = Some(Child::Mem(Arc::new(Node::dirty(level, body, kids, &pager.counters))));
        root.level = level;
    }
    let (entries, live) = op.deltas();
    root.entries = root.entries.wrapping_add_signed(entries);
    root.live = root.live.wrapping_add_signed(live);
    Ok(op.old)
}

impl Put<'_> {
    /// What the put changes in the counts of every node above.
    fn deltas(&self) -> (i64, i64) {
        let was_live = self.old.as_ref().is_some_and(|old| old.live);
        (i64::from(self.old.is_none()), i64::from(self.live) - i64::from(was_live))
    }

    /// `edge`: no key of the tree is to the right of this node.
    fn put_at(&mut self, slot: &mut Arc<Node>, edge: bool) -> Result<Vec<Sibling>, StorageError> {
        if slot.is_leaf() {
            Ok(self.put_in_leaf(slot, edge))
        } else {
            self.put_in_inner(slot, edge)
        }
    }

    fn put_in_leaf(&mut self, slot: &mut Arc<Node>, edge: bool) -> Vec<Sibling> {
        let max = self.pager.shape.max_bytes(0);
        let body = &slot.body;
        let found = body.search(self.key);
        let cost = Slotted::cost_of(self.key.len(), self.value.len());
        if edge && found == Err(body.len()) && body.used_bytes() + cost > max {
            let separator = separator(body.key(body.len() - 1), self.key);
            let mut body = Slotted::with_capacity((HEADER_BYTES + 4 * cost).min(max));
            body.push(self.key, self.value, self.live);
            let node = Arc::new(Node::dirty(0, body, Vec::new(), &self.pager.counters));
            return vec![Sibling { separator, node }];
        }
        let node = make_mut(slot);
        let fits = match found {
            Ok(i) => {
                self.old = Some(item(node, i, Hand::Copy));
                node.body.try_replace(i, self.value, self.live, max)
            }
            Err(i) => node.body.try_insert(i, self.key, self.value, self.live, max),
        };
        let siblings = if fits { Vec::new() } else { self.split_leaf(node, found, max) };
        node.recharge();
        siblings
    }

    fn split_leaf(&self, node: &mut Node, found: Result<usize, usize>, max: usize) -> Vec<Sibling> {
        let body = &node.body;
        let mut entries: Vec<(&[u8], &[u8], bool)> =
            (0..body.len()).map(|i| (body.key(i), body.value(i), body.is_live(i))).collect();
        let new = (self.key, self.value, self.live);
        match found {
            Ok(i) => entries[i] = new,
            Err(i) => entries.insert(i, new),
        }
        let costs: Vec<usize> = entries
            .iter()
            .map(|(key, value, _)| Slotted::cost_of(key.len(), value.len()))
            .collect();
        let cuts = leaf_cuts(&costs, max - HEADER_BYTES);
        let mut parts = Vec::with_capacity(cuts.len() + 1);
        let mut from = 0;
        for to in cuts.into_iter().chain([entries.len()]) {
            let bytes = HEADER_BYTES + costs[from..to].iter().sum::<usize>();
            // Some room to grow in, but never more than a node may have.
            let mut part = Slotted::with_capacity((bytes + max / 4).min(max).max(bytes));
            for (key, value, live) in &entries[from..to] {
                part.push(key, value, *live);
            }
            parts.push(part);
            from = to;
        }
        let mut siblings: Vec<Sibling> = Vec::with_capacity(parts.len() - 1);
        let mut parts = parts.into_iter();
        let first = parts.next().expect("a split leaf has a first part");
        let mut last_key = first.key(first.len() - 1).to_vec();
        for part in parts {
            let separator = separator(&last_key, part.key(0));
            last_key = part.key(part.len() - 1).to_vec();
            let node = Arc::new(Node::dirty(0, part, Vec::new(), &self.pager.counters));
            siblings.push(Sibling { separator, node });
        }
        node.body = first;
        siblings
    }

    fn put_in_inner(
        &mut self,
        slot: &mut Arc<Node>,
        edge: bool,
    ) -> Result<Vec<Sibling>, StorageError> {
        let i = slot.body.child_for(self.key);
        let edge = edge && i + 1 == slot.body.len();
        let loaded = match slot.kid(i) {
            Some(_) => None,
            None => Some(self.pager.child(slot, i)?),
        };
        let node = make_mut(slot);
        if loaded.is_some() {
            node.kids[i] = loaded;
        }
        let kid = node.kids[i].as_mut().expect("the child was loaded above");
        let siblings = self.put_at(kid, edge)?;
        if siblings.is_empty() {
            let (entries, live) = self.deltas();
            if (entries, live) != (0, 0) {
                let mut record = node.body.record(i);
                record.entries = record.entries.wrapping_add_signed(entries);
                record.live = record.live.wrapping_add_signed(live);
                node.body.set_record(i, &record);
            }
            return Ok(Vec::new());
        }
        let record = kid.record();
        node.body.set_record(i, &record);
        let above = self.adopt_siblings(node, i, siblings, edge);
        node.recharge();
        Ok(above)
    }

    /// Inserts what child `i` split off behind it; splits this node when that is too much.
    fn adopt_siblings(
        &self,
        node: &mut Node,
        i: usize,
        siblings: Vec<Sibling>,
        edge: bool,
    ) -> Vec<Sibling> {
        let max = self.pager.shape.max_bytes(node.level);
        let cost: usize =
            siblings.iter().map(|s| Slotted::cost_of(s.separator.len(), ChildRecord::BYTES)).sum();
        let total = node.body.len() + siblings.len();
        let within = node.body.used_bytes() + cost <= max;
        let fits = within || total < 2 * CHILDREN_MIN;
        if !fits && edge {
            let mut siblings = siblings.into_iter();
            let first = siblings.next().expect("a split has a sibling");
            let mut body = Slotted::with_capacity(256);
            body.push(b"", &first.node.record().encode(), false);
            let mut kids = vec![Some(first.node)];
            for sibling in siblings {
                body.push(&sibling.separator, &sibling.node.record().encode(), false);
                kids.push(Some(sibling.node));
            }
            let right = Arc::new(Node::dirty(node.level, body, kids, &self.pager.counters));
            return vec![Sibling { separator: first.separator, node: right }];
        }
        for (at, sibling) in (i + 1..).zip(siblings) {
            let record = sibling.node.record().encode();
            let limit = if within { max } else { usize::MAX };
            let inserted = node.body.try_insert(at, &sibling.separator, &record, false, limit);
            assert!(inserted, "a node without a limit is full");
            node.kids.insert(at, Some(sibling.node));
        }
        if fits { Vec::new() } else { vec![split_inner(self.pager, node)] }
    }
}

/// Moves the right half of an inner node into one of its own.
fn split_inner(pager: &Pager, node: &mut Node) -> Sibling {
    let n = node.body.len();
    let costs: Vec<usize> = (0..n).map(|i| node.body.entry_cost(i)).collect();
    let total: usize = costs.iter().sum();
    let mut left: usize = costs[..CHILDREN_MIN].iter().sum();
    let mut cut = CHILDREN_MIN;
    while cut < n - CHILDREN_MIN && left + costs[cut] <= total / 2 {
        left += costs[cut];
        cut += 1;
    }
    let separator = node.body.key(cut).to_vec();
    let slack = pager.shape.inner_bytes / 4;
    let mut body = Slotted::with_capacity(HEADER_BYTES + (total - left) + slack);
    for i in cut..n {
        let key = if i == cut { b"" } else { node.body.key(i) };
        body.push(key, node.body.value(i), false);
    }
    let kids = node.kids.split_off(cut);
    node.body = node.body.extract(0, cut, slack);
    node.kids.shrink_to(cut + cut / 2);
    let right = Arc::new(Node::dirty(node.level, body, kids, &pager.counters));
    Sibling { separator, node: right }
}

/// Where to cut entries of these costs so that each part has at most `budget`: in two halves
/// when that is possible, else greedily (an entry larger than the budget is alone).
fn leaf_cuts(costs: &[usize], budget: usize) -> Vec<usize> {
    let total: usize = costs.iter().sum();
    let (mut left, mut best) = (0, None);
    for (cut, cost) in costs.iter().enumerate() {
        let right = total - left;
        let ok =
            cut > 0 && (left <= budget || cut == 1) && (right <= budget || cut + 1 == costs.len());
        if ok && best.is_none_or(|(_, skew)| left.abs_diff(right) < skew) {
            best = Some((cut, left.abs_diff(right)));
        }
        left += cost;
    }
    if let Some((cut, _)) = best {
        return vec![cut];
    }
    let (mut cuts, mut part) = (Vec::new(), 0);
    for (i, cost) in costs.iter().enumerate() {
        if i > 0 && part + cost > budget {
            cuts.push(i);
            part = 0;
        }
        part += cost;
    }
    cuts
}

/// The shortest key above `left` and not above `right`: what inner nodes hold instead of whole
/// keys.
pub(super) fn separator(left: &[u8], right: &[u8]) -> Vec<u8> {
    debug_assert!(left < right, "keys ascend");
    let common = left.iter().zip(right).take_while(|(a, b)| a == b).count();
    right[..(common + 1).min(right.len())].to_vec()
}
