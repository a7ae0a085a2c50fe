//! Moving a tree out of the file's tail, so that the tail can be cut off.
//!
//! A checkpoint puts dirty nodes on the lowest free pages. So to move a node it is enough to make
//! it, and the path to it, dirty without changing anything in it. Only the writer can do that:
//! anybody else would leave it with references to the old place.

use super::node::{Child, Node, Root, make_mut};
use super::page::{LEVEL_MAX, PageRef};
use super::pager::Pager;
use crate::types::StorageError;
use std::sync::Arc;

/// A node to move: its level, and a key of its range.
struct Victim {
    level: u8,
    key: Vec<u8>,
}

/// Enough to get down to a leaf on every call, whatever the caller gives: no call stands still.
const BUDGET_MIN: usize = 2 * LEVEL_MAX as usize + 2;

struct Search<'a> {
    pager: &'a Pager,
    /// Nodes that reach beyond this page are to move.
    limit: u64,
    from: &'a [u8],
    budget: usize,
    victims: Vec<Victim>,
}

/// Makes nodes beyond page `limit` dirty, looking at about `budget` nodes from key `from` on.
/// Returns where to go on; `None` at the end of the tree.
pub(super) fn relocate(
    pager: &Pager,
    root: &mut Root,
    limit: u64,
    from: &[u8],
    budget: usize,
) -> Result<Option<Vec<u8>>, StorageError> {
    let Some(mut node) = pager.root(root)? else { return Ok(None) };
    let mut search =
        Search { pager, limit, from, budget: budget.max(BUDGET_MIN), victims: Vec::new() };
    if node.written().is_some_and(|at| search.is_beyond(&at)) {
        search.victims.push(Victim { level: node.level, key: from.to_vec() });
    }
    let next = search.look(&node, b"")?;
    if !search.victims.is_empty() {
        // The root's own reference would make the node look shared.
        root.child = None;
        let touched = search.victims.iter().try_for_each(|victim| touch(pager, &mut node, victim));
        root.child = Some(Child::Mem(node));
        touched?;
    }
    Ok(next)
}

impl Search<'_> {
    fn is_beyond(&self, at: &PageRef) -> bool {
        at.page.saturating_add(u64::from(at.pages)) > self.limit
    }

    /// Notes the children of `node` that are to move. Returns the key to go on from when the
    /// budget is spent. Leaves are not read: their parents know where they are.
    fn look(&mut self, node: &Node, lower: &[u8]) -> Result<Option<Vec<u8>>, StorageError> {
        if node.is_leaf() {
            return Ok(None);
        }
        let first = if self.from > lower { node.body.child_for(self.from) } else { 0 };
        for i in first..node.body.len() {
            let lower = if i == 0 { lower } else { node.body.key(i) };
            if self.budget == 0 {
                return Ok(Some(lower.to_vec()));
            }
            let kid = node.kid(i);
            let at = kid.map_or_else(|| Some(node.body.record(i).page), |kid| kid.written());
            if at.is_some_and(|at| self.is_beyond(&at)) {
                let key = if self.from > lower { self.from } else { lower };
                self.victims.push(Victim { level: node.level - 1, key: key.to_vec() });
                self.budget -= 1;
            }
            if node.level > 1 {
                self.budget = self.budget.saturating_sub(1);
                let next = match (kid, at) {
                    (Some(kid), _) => self.look(kid, lower)?,
                    (None, at) => {
                        let at = at.expect("a child that is not in memory has a page");
                        let kid = self.pager.load_once(&at, node.level - 1)?;
                        self.look(&kid, lower)?
                    }
                };
                if next.is_some() {
                    return Ok(next);
                }
            }
        }
        Ok(None)
    }
}

/// Makes the path to a node, and the node, dirty.
fn touch(pager: &Pager, slot: &mut Arc<Node>, victim: &Victim) -> Result<(), StorageError> {
    let child = if slot.level > victim.level {
        let i = slot.body.child_for(&victim.key);
        let loaded = if slot.kid(i).is_none() { Some(pager.child(slot, i)?) } else { None };
        Some((i, loaded))
    } else {
        None
    };
    let node = make_mut(slot);
    if let Some((i, loaded)) = child {
        if loaded.is_some() {
            node.kids[i] = loaded;
        }
        touch(pager, node.kids[i].as_mut().expect("loaded above"), victim)?;
    }
    Ok(())
}
