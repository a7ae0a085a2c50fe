//! Nodes in memory: what is shared, what may be changed in place, and who pays for the bytes.

use super::page::{ChildRecord, PageRef, Slotted};
use bytes::Bytes;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

/// Memory of a node besides its buffer, roughly: the struct, its counters, allocator overhead.
const NODE_OVERHEAD_BYTES: usize = 160;

/// How large nodes get before they split. A node may be larger when one entry alone is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub leaf_bytes: usize,
    pub inner_bytes: usize,
}

impl Shape {
    /// Two pages for leaves: 25 records of 300 bytes, or a hundred keys. One page for inner
    /// nodes, about 70 children: they are rewritten for every dirty leaf below them.
    pub const DEFAULT: Shape = Shape { leaf_bytes: 8192, inner_bytes: 4096 };
    #[cfg(any(test, fuzzing))]
    pub const TINY: Shape = Shape { leaf_bytes: 192, inner_bytes: 320 };

    pub fn max_bytes(&self, level: u8) -> usize {
        if level == 0 { self.leaf_bytes } else { self.inner_bytes }
    }
}

/// Bytes of nodes that no file holds yet, over all trees of a store and the views of them.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub dirty_bytes: AtomicU64,
}

/// One node. Shared ones (`Arc` count above one) and written ones never change; the single
/// writer changes the others in place.
#[derive(Debug)]
pub(super) struct Node {
    /// 0 for a leaf; children of level n are at level n - 1.
    pub level: u8,
    pub body: Slotted,
    /// Children that are in memory because they are, or were, dirty; parallel to the entries of
    /// `body`, whose record is stale in its page reference while the child here is `Some`. Empty
    /// in leaves and in nodes read from the file.
    pub kids: Vec<Option<Arc<Node>>>,
    /// Where the node is in the file, once a checkpoint or a loader has given it a place.
    written: OnceLock<PageRef>,
    charged: u64,
    counters: Arc<Counters>,
}

impl Node {
    pub fn dirty(
        level: u8,
        body: Slotted,
        kids: Vec<Option<Arc<Node>>>,
        counters: &Arc<Counters>,
    ) -> Node {
        assert_eq!(kids.len(), if level == 0 { 0 } else { body.len() }, "children per entry");
        let mut node = Node {
            level,
            body,
            kids,
            written: OnceLock::new(),
            charged: 0,
            counters: Arc::clone(counters),
        };
        node.recharge();
        node
    }

    pub fn clean(level: u8, body: Slotted, at: PageRef, counters: &Arc<Counters>) -> Node {
        let written = OnceLock::from(at);
        Node { level, body, kids: Vec::new(), written, charged: 0, counters: Arc::clone(counters) }
    }

    /// A dirty copy for the writer; the children stay shared.
    fn copy(&self) -> Node {
        let mut kids = self.kids.clone();
        if self.level > 0 {
            kids.resize(self.body.len(), None);
        }
        Node::dirty(self.level, self.body.unshared(), kids, &self.counters)
    }

    pub fn is_leaf(&self) -> bool {
        self.level == 0
    }
    pub fn written(&self) -> Option<PageRef> {
        self.written.get().copied()
    }
    pub fn kid(&self, i: usize) -> Option<&Arc<Node>> {
        self.kids.get(i).and_then(Option::as_ref)
    }
    /// Memory the node holds, its children's not included.
    pub fn bytes(&self) -> usize {
        self.body.buffer_bytes() + 8 * self.kids.capacity() + NODE_OVERHEAD_BYTES
    }

    /// Entries and live entries of the subtree.
    pub fn totals(&self) -> (u64, u64) {
        if self.is_leaf() {
            return (self.body.len() as u64, self.body.live() as u64);
        }
        (0..self.body.len()).map(|i| self.body.record(i)).fold((0, 0), |(entries, live), r| {
            (entries.saturating_add(r.entries), live.saturating_add(r.live))
        })
    }

    /// The record a parent keeps of this node while it is dirty.
    pub fn record(&self) -> ChildRecord {
        let (entries, live) = self.totals();
        ChildRecord { page: self.written().unwrap_or(ChildRecord::UNWRITTEN), entries, live }
    }

    /// Brings the store's count of dirty bytes up to date after a change of this node's size.
    pub fn recharge(&mut self) {
        assert!(self.written.get().is_none(), "a written node has changed");
        let bytes = self.bytes() as u64;
        if bytes == self.charged {
            return;
        }
        if bytes > self.charged {
            self.counters.dirty_bytes.fetch_add(bytes - self.charged, Ordering::Relaxed);
        } else {
            self.counters.dirty_bytes.fetch_sub(self.charged - bytes, Ordering::Relaxed);
        }
        self.charged = bytes;
    }

    /// Notes the place a checkpoint has given to this node: it is clean from now on.
    pub fn set_written(&self, at: PageRef) {
        assert!(self.written.set(at).is_ok(), "a node is written twice");
        self.counters.dirty_bytes.fetch_sub(self.charged, Ordering::Relaxed);
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if self.written.get().is_none() {
            self.counters.dirty_bytes.fetch_sub(self.charged, Ordering::Relaxed);
        }
    }
}

/// The node in `slot` for changing: in place when nobody else can see it, else a copy.
pub(super) fn make_mut(slot: &mut Arc<Node>) -> &mut Node {
    // Nobody holds weak references: a count of one is ours, and only we could raise it.
    let alone = Arc::strong_count(slot) == 1 && slot.written.get().is_none();
    if !alone {
        *slot = Arc::new(slot.copy());
    }
    Arc::get_mut(slot).expect("nobody else has seen this node")
}

/// A reference to a node from above.
#[derive(Clone, Debug)]
pub(super) enum Child {
    Mem(Arc<Node>),
    Page(PageRef),
}

/// A whole tree at one moment. `child` is `None` exactly when the tree is empty.
#[derive(Clone, Debug, Default)]
pub(super) struct Root {
    pub child: Option<Child>,
    /// Level of the root node.
    pub level: u8,
    pub entries: u64,
    pub live: u64,
}

impl Root {
    /// Where the root is in the file: `None` when it is dirty or the tree is empty.
    pub fn page(&self) -> Option<PageRef> {
        match &self.child {
            Some(Child::Mem(node)) => node.written(),
            Some(Child::Page(page)) => Some(*page),
            None => None,
        }
    }
}

/// What a tree holds under a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    pub value: Bytes,
    pub live: bool,
}
