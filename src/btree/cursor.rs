//! Walking a view in key order, in both directions.
//!
//! A cursor stands in a gap between two entries: `next` yields the entry behind the gap and
//! steps over it, `prev` yields the one before it and steps back over it. So `next` followed by
//! `prev` yields the same entry twice.

use super::node::Node;
use super::tree::View;
use crate::types::StorageError;
use bytes::Bytes;
use std::sync::Arc;

/// Keeps its view, and with it every page the view can reach, until it is dropped.
#[derive(Debug)]
pub struct Cursor {
    view: View,
    /// The inner nodes from the root down, each with the child the cursor is below.
    path: Vec<(Arc<Node>, usize)>,
    /// The leaf and the gap in it, `0..=len`. `None` before the first seek and in empty trees.
    leaf: Option<(Arc<Node>, usize)>,
}

impl Cursor {
    pub(super) fn new(view: View) -> Cursor {
        Cursor { view, path: Vec::new(), leaf: None }
    }

    /// `next` then yields the first entry at or above `key`, `prev` the last one below it.
    pub fn seek(&mut self, key: &[u8]) -> Result<(), StorageError> {
        self.descend_from_root(|node| {
            if node.is_leaf() {
                node.body.search(key).unwrap_or_else(|i| i)
            } else {
                node.body.child_for(key)
            }
        })
    }

    /// Before the first entry.
    pub fn seek_first(&mut self) -> Result<(), StorageError> {
        self.descend_from_root(|_| 0)
    }

    /// Behind the last entry.
    pub fn seek_last(&mut self) -> Result<(), StorageError> {
        self.descend_from_root(
            |node| {
                if node.is_leaf() { node.body.len() } else { node.body.len() - 1 }
            },
        )
    }

    fn descend_from_root(&mut self, choose: impl Fn(&Node) -> usize) -> Result<(), StorageError> {
        self.path.clear();
        self.leaf = None;
        match self.view.root_node()? {
            Some(root) => self.descend(root, choose),
            None => Ok(()),
        }
    }

    fn descend(
        &mut self,
        mut node: Arc<Node>,
        choose: impl Fn(&Node) -> usize,
    ) -> Result<(), StorageError> {
        loop {
            let at = choose(&node);
            if node.is_leaf() {
                self.leaf = Some((node, at));
                return Ok(());
            }
            let child = self.view.pager().child(&node, at)?;
            self.path.push((node, at));
            node = child;
        }
    }

    /// The entry behind the gap: key, value, live. `None` at the end.
    // An iterator could not say that a page is damaged without wrapping every entry.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Result<Option<(Bytes, Bytes, bool)>, StorageError> {
        loop {
            let Some((leaf, gap)) = &mut self.leaf else { return Ok(None) };
            if *gap < leaf.body.len() {
                *gap += 1;
                return Ok(Some(entry(leaf, *gap - 1)));
            }
            if !self.next_leaf()? {
                return Ok(None);
            }
        }
    }

    /// The entry before the gap. `None` at the beginning.
    pub fn prev(&mut self) -> Result<Option<(Bytes, Bytes, bool)>, StorageError> {
        loop {
            let Some((leaf, gap)) = &mut self.leaf else { return Ok(None) };
            if *gap > 0 {
                *gap -= 1;
                return Ok(Some(entry(leaf, *gap)));
            }
            if !self.prev_leaf()? {
                return Ok(None);
            }
        }
    }

    fn next_leaf(&mut self) -> Result<bool, StorageError> {
        let Some(turn) = self.path.iter().rposition(|(node, at)| at + 1 < node.body.len()) else {
            return Ok(false);
        };
        let at = self.path[turn].1 + 1;
        let child = self.view.pager().child(&self.path[turn].0, at)?;
        self.path.truncate(turn + 1);
        self.path[turn].1 = at;
        self.leaf = None;
        self.descend(child, |_| 0)?;
        Ok(true)
    }

    fn prev_leaf(&mut self) -> Result<bool, StorageError> {
        let Some(turn) = self.path.iter().rposition(|(_, at)| *at > 0) else {
            return Ok(false);
        };
        let at = self.path[turn].1 - 1;
        let child = self.view.pager().child(&self.path[turn].0, at)?;
        self.path.truncate(turn + 1);
        self.path[turn].1 = at;
        self.leaf = None;
        self.descend(
            child,
            |node| {
                if node.is_leaf() { node.body.len() } else { node.body.len() - 1 }
            },
        )?;
        Ok(true)
    }
}

fn entry(leaf: &Node, i: usize) -> (Bytes, Bytes, bool) {
    (leaf.body.key_shared(i), leaf.body.value_shared(i), leaf.body.is_live(i))
}
