//! One tree in memory: the writer's handle and the readers' views of it.

use super::allocator::Loose;
use super::checkpoint::CheckpointDone;
use super::cursor::Cursor;
use super::epoch::Pin;
use super::lookup::{self, Hand};
use super::node::{Child, Item, Node, Root, make_mut};
use super::page::PAGE_BYTES;
use super::pager::Pager;
use super::store::Store;
use super::{delete, insert, relocate};
use crate::types::{GroupId, StorageError};
use bytes::Bytes;
use std::ops::Bound;
use std::sync::{Arc, OnceLock};

/// Which of a group's trees. What the numbers mean is the business of the layers above.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TreeKind(pub u8);

/// The one writer's handle. Changes are visible to views made afterwards, and durable with the
/// checkpoint that a later view goes into.
///
/// After an error of `remove` the handle's counts may be wrong: the member stops anyway.
#[derive(Debug)]
pub struct Tree {
    store: Store,
    group: GroupId,
    kind: TreeKind,
    root: Root,
    /// Pages a bulk loader wrote and no checkpoint holds yet.
    loose: Option<Arc<Loose>>,
}

impl Tree {
    pub(super) fn new(
        store: Store,
        group: GroupId,
        kind: TreeKind,
        root: Root,
        loose: Option<Arc<Loose>>,
    ) -> Tree {
        Tree { store, group, kind, root, loose }
    }

    pub fn group(&self) -> GroupId {
        self.group
    }
    pub fn kind(&self) -> TreeKind {
        self.kind
    }
    /// Entries, live or not.
    pub fn len(&self) -> u64 {
        self.root.entries
    }
    pub fn is_empty(&self) -> bool {
        self.root.entries == 0
    }
    /// Entries put with `live`.
    pub fn live(&self) -> u64 {
        self.root.live
    }

    pub fn get(&self, key: &[u8]) -> Result<Option<Item>, StorageError> {
        match &self.root.child {
            None => Ok(None),
            Some(Child::Mem(node)) => lookup::get(self.store.pager(), node, key, Hand::Copy),
            Some(Child::Page(_)) => {
                let node = self.store.pager().root(&self.root)?.expect("a root with a page");
                lookup::get(self.store.pager(), &node, key, Hand::Copy)
            }
        }
    }

    /// Inserts or replaces; returns what was there.
    pub fn put(
        &mut self,
        key: &[u8],
        value: Bytes,
        live: bool,
    ) -> Result<Option<Item>, StorageError> {
        insert::put(self.store.pager(), &mut self.root, key, &value, live)
    }

    /// Removes; returns what was there.
    pub fn remove(&mut self, key: &[u8]) -> Result<Option<Item>, StorageError> {
        delete::remove(self.store.pager(), &mut self.root, key)
    }

    /// The tree as it is now, for readers and checkpoints. Cheap; the writer then copies what it
    /// changes for as long as the view lives.
    pub fn view(&self) -> View {
        View::new(self.store.clone(), self.root.clone(), self.store.pin(), self.loose.clone())
    }

    /// Makes the next checkpoint write anew what lies beyond `offset` in the file, so that it
    /// lands on free pages further down and the file's tail can go. Looks at about `budget`
    /// nodes whose keys are at or behind `from`, and returns where to go on, `None` at the end.
    /// Worth calling when much less of the file is in use than its length.
    pub fn relocate(
        &mut self,
        offset: u64,
        from: &[u8],
        budget: usize,
    ) -> Result<Option<Vec<u8>>, StorageError> {
        let limit = offset / PAGE_BYTES as u64;
        relocate::relocate(self.store.pager(), &mut self.root, limit, from, budget)
    }

    /// Lets go of the nodes that the checkpoint has written: they can be read back from the file
    /// (and are in the cache for now). Walks only what changed since the checkpoint began.
    pub fn adopt(&mut self, done: &CheckpointDone) {
        let upto = done.checkpoint();
        if self.loose.as_ref().is_some_and(|loose| loose.is_owned()) {
            self.loose = None;
        }
        let Some(Child::Mem(node)) = &mut self.root.child else { return };
        match node.written() {
            Some(page) if page.checkpoint <= upto => self.root.child = Some(Child::Page(page)),
            Some(_) => {}
            None => adopt_below(node, upto),
        }
    }
}

fn adopt_below(slot: &mut Arc<Node>, upto: u64) {
    let is_done = |kid: &Arc<Node>| kid.written().is_some_and(|page| page.checkpoint <= upto);
    if slot.is_leaf() || !slot.kids.iter().flatten().any(|kid| is_done(kid) || !kid.is_leaf()) {
        return;
    }
    let node = make_mut(slot);
    for i in 0..node.kids.len() {
        let Some(kid) = &mut node.kids[i] else { continue };
        if let Some(page) = kid.written().filter(|page| page.checkpoint <= upto) {
            let mut record = node.body.record(i);
            record.page = page;
            node.body.set_record(i, &record);
            node.kids[i] = None;
        } else if kid.written().is_none() {
            adopt_below(kid, upto);
        }
    }
    node.recharge();
}

#[derive(Debug)]
struct ViewInner {
    store: Store,
    root: Root,
    /// The root's node once somebody has read it: the node that every lookup needs.
    node: OnceLock<Arc<Node>>,
    /// Keeps the pages that this root can reach from being reused.
    pin: Arc<Pin>,
    loose: Option<Arc<Loose>>,
}

/// A tree at one moment: immutable, cheap to clone, readable from any thread.
#[derive(Clone, Debug)]
pub struct View(Arc<ViewInner>);

impl View {
    pub(super) fn new(store: Store, root: Root, pin: Arc<Pin>, loose: Option<Arc<Loose>>) -> View {
        View(Arc::new(ViewInner { store, root, node: OnceLock::new(), pin, loose }))
    }

    pub(super) fn pager(&self) -> &Pager {
        self.0.store.pager()
    }
    pub(super) fn root(&self) -> &Root {
        &self.0.root
    }
    pub(super) fn epoch(&self) -> u64 {
        self.0.pin.epoch
    }
    pub(super) fn loose(&self) -> Option<&Arc<Loose>> {
        self.0.loose.as_ref()
    }

    fn node(&self) -> Result<Option<&Arc<Node>>, StorageError> {
        match &self.0.root.child {
            None => Ok(None),
            Some(Child::Mem(node)) => Ok(Some(node)),
            Some(Child::Page(_)) => {
                if self.0.node.get().is_none() {
                    let node = self.pager().root(&self.0.root)?.expect("a root with a page");
                    // Another thread may have been faster; its node is the same.
                    let _ = self.0.node.set(node);
                }
                Ok(self.0.node.get())
            }
        }
    }

    pub(super) fn root_node(&self) -> Result<Option<Arc<Node>>, StorageError> {
        Ok(self.node()?.cloned())
    }

    pub fn get(&self, key: &[u8]) -> Result<Option<Item>, StorageError> {
        match self.node()? {
            Some(node) => lookup::get(self.pager(), node, key, Hand::Slice),
            None => Ok(None),
        }
    }
    pub fn len(&self) -> u64 {
        self.0.root.entries
    }
    pub fn is_empty(&self) -> bool {
        self.0.root.entries == 0
    }
    pub fn live(&self) -> u64 {
        self.0.root.live
    }

    /// Live entries between the bounds: two paths down the tree, whatever lies between.
    pub fn count_live(
        &self,
        lower: Bound<&[u8]>,
        upper: Bound<&[u8]>,
    ) -> Result<u64, StorageError> {
        let Some(node) = self.node()? else { return Ok(0) };
        let below = |key, or_equal| lookup::live_below(self.pager(), node, key, or_equal);
        let skipped = match lower {
            Bound::Unbounded => 0,
            Bound::Included(key) => below(key, false)?,
            Bound::Excluded(key) => below(key, true)?,
        };
        let upto = match upper {
            Bound::Unbounded => self.live(),
            Bound::Included(key) => below(key, true)?,
            Bound::Excluded(key) => below(key, false)?,
        };
        Ok(upto.saturating_sub(skipped))
    }

    /// A cursor over this view; it yields nothing before a seek.
    pub fn cursor(&self) -> Cursor {
        Cursor::new(self.clone())
    }
}
