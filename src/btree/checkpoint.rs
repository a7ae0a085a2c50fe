//! Making a set of views durable, in small steps, while their writers go on.
//!
//! ```text
//! compare            which trees differ from those of the last checkpoint
//! per changed tree   write its dirty nodes, children first, in long runs
//!                    find what the stored tree had and the new one has not: freed
//! trees not listed   everything they had: freed
//! catalogue          put the new roots and metas, write and free in the same way
//! free-space map     write the chunks that changed, and their index
//! sync               everything the new meta refers to is durable
//! meta, sync         the new meta is durable: this is the moment
//! publish, trim      release what nobody needs now; cut a free tail off the file
//! ```
//!
//! What is freed is found by comparing the two trees, not by writers keeping lists: a subtree
//! that the new tree refers to by the same page is not entered, so the walk reads only the old
//! inner nodes that have been replaced. It holds for any pair of trees, whoever made them.
//!
//! A job that fails, or is dropped before it is done, poisons the store for checkpoints: the
//! nodes it has written would claim places that no durable state knows.

use super::allocator::Loose;
use super::catalogue::{self, Catalogue};
use super::delete;
use super::insert;
use super::meta::Meta;
use super::node::{Node, Root};
use super::page::{PAGE_BYTES, PageRef};
use super::relocate;
use super::store::{Store, StoreInner, rooted};
use super::tree::{TreeKind, View};
use super::writer::{RunWriter, written_record};
use crate::types::map::Set;
use crate::types::{GroupId, StorageError};
use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Nodes looked at in one step that does no I/O of its own: a fraction of a millisecond.
const NODES_PER_STEP: usize = 256;
/// Bytes written between syncs, so that the last sync has little left to wait for and the log,
/// on the same device, is never behind a long flush.
const BYTES_PER_SYNC: u64 = 8 << 20;

/// A checkpoint on its way. Call `step` until it is `Done`; each step does one bounded piece of
/// I/O. Lives on any thread.
#[derive(Debug)]
pub struct CheckpointJob {
    store: Store,
    checkpoint: u64,
    phase: Phase,
    /// Trees still to write.
    waiting: VecDeque<Changed>,
    /// Trees that the catalogue has and the caller did not list.
    dropped: VecDeque<((GroupId, TreeKind), Root)>,
    catalogue: Catalogue,
    metas: BTreeMap<GroupId, Bytes>,
    /// Loaders' pages that belong to the forest from this checkpoint on.
    loose: Vec<Arc<Loose>>,
    writer: RunWriter,
    unsynced: u64,
    /// What the caller listed; holds the roots that are being written.
    trees: Vec<(GroupId, TreeKind, View)>,
    finished: bool,
}

#[derive(Debug)]
struct Changed {
    key: (GroupId, TreeKind),
    root: Root,
    old: Vec<(PageRef, u8)>,
}

#[derive(Debug)]
enum Phase {
    Compare,
    NextTree,
    Tree(Changed, Walk),
    Freeing { then_catalogue: bool, diff: Diff },
    Catalogue(Walk, Root),
    Seal,
    Flush(VecDeque<(u64, Vec<u8>)>, Meta),
    Sync(Meta),
    WriteMeta(Meta),
    SyncMeta(Meta),
    Trim,
    Over,
}

/// What a step says.
#[derive(Debug)]
pub enum Step {
    More,
    Done(CheckpointDone),
}

/// A checkpoint that is durable; for `Tree::adopt`.
#[derive(Clone, Debug)]
pub struct CheckpointDone {
    checkpoint: u64,
}

impl CheckpointDone {
    /// Its number, one more than the one before.
    pub fn checkpoint(&self) -> u64 {
        self.checkpoint
    }
}

impl CheckpointJob {
    pub(super) fn new(
        store: Store,
        trees: Vec<(GroupId, TreeKind, View)>,
        metas: BTreeMap<GroupId, Bytes>,
    ) -> CheckpointJob {
        let was_busy = store.0.busy.swap(true, Ordering::AcqRel);
        assert!(!was_busy, "two checkpoints at a time");
        let checkpoint = store.checkpoint() + 1;
        // On a poisoned store the first step says so; its epoch has begun already.
        if !store.0.poisoned.load(Ordering::Acquire) {
            store.0.epochs.begin(checkpoint);
        }
        CheckpointJob {
            checkpoint,
            phase: Phase::Compare,
            waiting: VecDeque::new(),
            dropped: VecDeque::new(),
            catalogue: Catalogue::default(),
            metas,
            loose: Vec::new(),
            writer: RunWriter::new(checkpoint, false),
            unsynced: 0,
            trees,
            finished: false,
            store,
        }
    }

    /// Finds what has changed. Part of the job, not of `begin_checkpoint`: with thousands of
    /// trees it takes milliseconds that the caller does not have.
    fn compare(&mut self, store: &StoreInner) -> Phase {
        self.catalogue = store.state().catalogue.clone();
        let mut unlisted = self.catalogue.trees.clone();
        for (group, kind, view) in &self.trees {
            let key = (*group, *kind);
            let stored = unlisted.remove(&key);
            let root = view.root().clone();
            let loaded = view.loose().filter(|from| !from.is_owned());
            if root.child.is_none() {
                // An empty tree is one that is not there.
                unlisted.extend(stored.map(|stored| (key, stored)));
                let loaded = loaded.and_then(|from| from.root.get());
                self.dropped.extend(loaded.map(|(at, level)| (key, rooted(*at, *level, 0, 0))));
            } else if root.page().is_none() || stored.as_ref().and_then(Root::page) != root.page() {
                let fresh = view.epoch() + 1 >= self.checkpoint;
                assert!(fresh, "a view from before the last checkpoint is to be the next one");
                let mut old: Vec<(PageRef, u8)> = Vec::new();
                old.extend(stored.and_then(|stored| Some((stored.page()?, stored.level))));
                old.extend(loaded.and_then(|from| from.root.get().copied()));
                self.waiting.push_back(Changed { key, root, old });
            }
            self.loose.extend(loaded.cloned());
        }
        self.dropped.extend(unlisted);
        Phase::NextTree
    }

    /// Number of the checkpoint that is being made.
    pub fn checkpoint(&self) -> u64 {
        self.checkpoint
    }

    /// One bounded piece of work. An error is final: the member stops.
    pub fn step(&mut self) -> Result<Step, StorageError> {
        if self.store.0.poisoned.load(Ordering::Acquire) {
            let path = self.store.path().to_path_buf();
            return Err(StorageError::Poisoned { path });
        }
        match self.advance() {
            Ok(step) => Ok(step),
            Err(error) => {
                self.store.0.poisoned.store(true, Ordering::Release);
                Err(error)
            }
        }
    }

    /// All steps at once, for callers that have nothing else to do.
    pub fn run(&mut self) -> Result<CheckpointDone, StorageError> {
        loop {
            if let Step::Done(done) = self.step()? {
                return Ok(done);
            }
        }
    }

    fn advance(&mut self) -> Result<Step, StorageError> {
        let store = Arc::clone(&self.store.0);
        if self.unsynced >= BYTES_PER_SYNC {
            self.unsynced = 0;
            store.pager.file.sync_data()?;
            return Ok(Step::More);
        }
        let (writes, bytes) = (self.writer.writes, self.writer.bytes);
        for _ in 0..NODES_PER_STEP {
            let phase = std::mem::replace(&mut self.phase, Phase::Over);
            let (next, pause) = self.turn(&store, phase)?;
            self.phase = next;
            self.unsynced += self.writer.bytes - bytes;
            if let Phase::Over = self.phase {
                self.finished = true;
                store.busy.store(false, Ordering::Release);
                return Ok(Step::Done(CheckpointDone { checkpoint: self.checkpoint }));
            }
            if pause || self.writer.writes != writes {
                break;
            }
        }
        Ok(Step::More)
    }

    /// One small move from `phase`; whether it did I/O besides the writer's.
    fn turn(&mut self, store: &StoreInner, phase: Phase) -> Result<(Phase, bool), StorageError> {
        match phase {
            Phase::Compare => Ok((self.compare(store), true)),
            Phase::NextTree => Ok((self.next_tree(store)?, false)),
            Phase::Tree(changed, mut walk) => {
                if !walk.advance(store, &mut self.writer)? {
                    return Ok((Phase::Tree(changed, walk), false));
                }
                let page = changed.root.page().expect("the walk has written the root");
                let Changed { key, root, old } = changed;
                let value = catalogue::encode_root(page, &root);
                self.put(store, &catalogue::tree_key(key.0, key.1), &value)?;
                let root = rooted(page, root.level, root.entries, root.live);
                self.catalogue.trees.insert(key, root);
                let diff = Diff { old, kept: walk.kept, new: Some(page) };
                Ok((Phase::Freeing { then_catalogue: false, diff }, false))
            }
            Phase::Freeing { then_catalogue, mut diff } => {
                match diff.advance(store, self.checkpoint)? {
                    Some(read) => Ok((Phase::Freeing { then_catalogue, diff }, read)),
                    None if then_catalogue => Ok((Phase::Seal, false)),
                    None => Ok((Phase::NextTree, false)),
                }
            }
            Phase::Catalogue(mut walk, old) => {
                if !walk.advance(store, &mut self.writer)? {
                    return Ok((Phase::Catalogue(walk, old), false));
                }
                let root = &mut self.catalogue.root;
                if let Some(page) = root.page() {
                    *root = rooted(page, root.level, root.entries, root.live);
                }
                let old = old.page().map(|page| (page, old.level)).into_iter().collect();
                let diff = Diff { old, kept: walk.kept, new: self.catalogue.root.page() };
                Ok((Phase::Freeing { then_catalogue: true, diff }, false))
            }
            Phase::Seal => Ok((self.seal(store)?, false)),
            Phase::Flush(mut images, meta) => {
                if let Some((page, image)) = images.pop_front() {
                    self.writer.image(store, page, &image)?;
                    return Ok((Phase::Flush(images, meta), false));
                }
                self.writer.flush(store)?;
                Ok((Phase::Sync(meta), true))
            }
            Phase::Sync(meta) => {
                store.pager.file.sync_data()?;
                Ok((Phase::WriteMeta(meta), true))
            }
            Phase::WriteMeta(meta) => {
                let offset = meta.page() * PAGE_BYTES as u64;
                store.pager.file.write_at(&[&meta.encode()], offset)?;
                Ok((Phase::SyncMeta(meta), true))
            }
            Phase::SyncMeta(meta) => {
                store.pager.file.sync_data().inspect_err(|_| store.note_doubt())?;
                self.publish(store, meta);
                Ok((Phase::Trim, true))
            }
            Phase::Trim => {
                let mut space = store.space();
                if let Some(pages) = space.trim() {
                    // Under the lock: a loader must not get pages that are being cut off.
                    store.note_length(pages);
                    store.pager.file.set_len(pages * PAGE_BYTES as u64)?;
                }
                Ok((Phase::Over, true))
            }
            Phase::Over => panic!("a finished checkpoint is stepped"),
        }
    }

    fn next_tree(&mut self, store: &StoreInner) -> Result<Phase, StorageError> {
        if let Some(changed) = self.waiting.pop_front() {
            let walk = Walk::new(&changed.root);
            return Ok(Phase::Tree(changed, walk));
        }
        if let Some((key, root)) = self.dropped.pop_front() {
            self.remove(store, &catalogue::tree_key(key.0, key.1))?;
            self.catalogue.trees.remove(&key);
            let old = root.page().map(|page| (page, root.level)).into_iter().collect();
            let diff = Diff { old, kept: Set::default(), new: None };
            return Ok(Phase::Freeing { then_catalogue: false, diff });
        }
        let before = store.state().catalogue.root.clone();
        let gone: Vec<GroupId> = self
            .catalogue
            .metas
            .keys()
            .filter(|group| !self.metas.contains_key(group))
            .copied()
            .collect();
        for group in gone {
            self.remove(store, &catalogue::meta_key(group))?;
        }
        let metas = std::mem::take(&mut self.metas);
        for (group, meta) in &metas {
            if self.catalogue.metas.get(group) != Some(meta) {
                self.put(store, &catalogue::meta_key(*group), meta)?;
            }
        }
        self.catalogue.metas = metas;
        let tail = store.space().tail_start();
        if let Some(tail) = tail {
            let root = &mut self.catalogue.root;
            relocate::relocate(&store.pager, root, tail, b"", NODES_PER_STEP)?;
        }
        Ok(Phase::Catalogue(Walk::new(&self.catalogue.root), before))
    }

    fn put(&mut self, store: &StoreInner, key: &[u8], value: &[u8]) -> Result<(), StorageError> {
        insert::put(&store.pager, &mut self.catalogue.root, key, value, false).map(|_| ())
    }
    fn remove(&mut self, store: &StoreInner, key: &[u8]) -> Result<(), StorageError> {
        delete::remove(&store.pager, &mut self.catalogue.root, key).map(|_| ())
    }

    fn seal(&mut self, store: &StoreInner) -> Result<Phase, StorageError> {
        let mut space = store.space();
        space.ensure_read(&store.pager)?;
        for loose in &self.loose {
            for (page, pages) in loose.extents.lock().expect("no holder panics").iter() {
                // Those that the tree has replaced since are freed already.
                space.own(*page, *pages);
            }
            loose.owned.store(true, Ordering::Release);
        }
        let sealed = space.seal(self.checkpoint);
        store.note_length(space.pages());
        drop(space);
        let root = &self.catalogue.root;
        let meta = Meta {
            identity: store.state().meta.identity,
            checkpoint: self.checkpoint,
            catalogue: root.page(),
            catalogue_level: root.level,
            catalogue_entries: root.entries,
            space: sealed.index,
            chunks: sealed.chunks,
            used: sealed.used,
            high: sealed.high,
        };
        Ok(Phase::Flush(sealed.images.into(), meta))
    }

    /// The new meta is durable: everybody may know.
    fn publish(&mut self, store: &StoreInner, meta: Meta) {
        let mut state = store.state();
        store.in_use.store(meta.used * PAGE_BYTES as u64, Ordering::Relaxed);
        let catalogue = std::mem::take(&mut self.catalogue);
        let before = std::mem::replace(&mut state.catalogue, catalogue);
        state.older_metas = before.metas;
        state.meta = meta;
        store.epochs.done();
        drop(state);
        let oldest = store.epochs.oldest();
        let mut space = store.space();
        // The meta before this one still needs what this one freed. (Until this job is dropped the
        // views that it was made from hold that back as well: they are of the epoch before.)
        space.release(self.checkpoint - 1, oldest);
        space.rewind();
    }
}

impl Drop for CheckpointJob {
    fn drop(&mut self) {
        if !self.finished {
            self.store.0.poisoned.store(true, Ordering::Release);
            self.store.0.busy.store(false, Ordering::Release);
        }
    }
}

/// Writes the dirty nodes of one tree, children before parents.
#[derive(Debug)]
struct Walk {
    stack: Vec<(Arc<Node>, usize)>,
    /// First pages of the clean subtrees that written nodes refer to.
    kept: Set<u64>,
}

impl Walk {
    fn new(root: &Root) -> Walk {
        let mut walk = Walk { stack: Vec::new(), kept: Set::default() };
        if let Some(super::node::Child::Mem(node)) = &root.child
            && node.written().is_none()
        {
            walk.stack.push((Arc::clone(node), 0));
        }
        walk
    }

    /// Goes on until one node is written. `true` when there is nothing left.
    fn advance(
        &mut self,
        store: &StoreInner,
        writer: &mut RunWriter,
    ) -> Result<bool, StorageError> {
        loop {
            let Some((node, next)) = self.stack.last_mut() else { return Ok(true) };
            if node.is_leaf() || *next == node.body.len() {
                let (node, _) = self.stack.pop().expect("the top was just there");
                write_node(store, writer, &node)?;
                return Ok(self.stack.is_empty());
            }
            let i = *next;
            *next += 1;
            let page = match node.kid(i) {
                Some(kid) => match kid.written() {
                    Some(page) => page,
                    None => {
                        let kid = Arc::clone(kid);
                        self.stack.push((kid, 0));
                        continue;
                    }
                },
                None => node.body.record(i).page,
            };
            self.kept.insert(page.page);
        }
    }
}

fn write_node(
    store: &StoreInner,
    writer: &mut RunWriter,
    node: &Arc<Node>,
) -> Result<(), StorageError> {
    let record = |i| written_record(node, i);
    let at = writer.node(store, node.level, &node.body, record)?;
    node.set_written(at);
    if node.is_leaf() {
        store.pager.keep(at, Arc::clone(node));
    } else {
        // The node itself holds its children in memory; the cached one must not.
        let mut body = node.body.unshared();
        for (i, record) in (0..body.len()).filter_map(|i| Some((i, record(i)?))).collect::<Vec<_>>()
        {
            body.set_record(i, &record);
        }
        let clean = Node::clean(node.level, body, at, &store.pager.counters);
        store.pager.keep(at, Arc::new(clean));
    }
    Ok(())
}

/// Finds the pages that old trees have and the new one has not.
#[derive(Debug)]
struct Diff {
    /// Old subtrees still to compare, with their levels.
    old: Vec<(PageRef, u8)>,
    kept: Set<u64>,
    /// Root of the new tree.
    new: Option<PageRef>,
}

impl Diff {
    /// One node further. `None` at the end, else whether a page may have been read.
    fn advance(
        &mut self,
        store: &StoreInner,
        checkpoint: u64,
    ) -> Result<Option<bool>, StorageError> {
        let Some((at, level)) = self.old.pop() else { return Ok(None) };
        if self.keeps(&at) {
            return Ok(Some(false));
        }
        let mut freed = vec![at];
        if level > 0 {
            let node = store.pager.load_once(&at, level)?;
            for i in 0..node.body.len() {
                let child = node.body.record(i).page;
                if level > 1 {
                    self.old.push((child, level - 1));
                } else if !self.keeps(&child) {
                    freed.push(child);
                }
            }
        }
        let mut space = store.space();
        space.ensure_read(&store.pager)?;
        for page in freed {
            space.defer(checkpoint, page.page, page.pages);
        }
        Ok(Some(level > 0))
    }

    fn keeps(&self, at: &PageRef) -> bool {
        self.new.is_some_and(|new| new.page == at.page) || self.kept.contains(&at.page)
    }
}
