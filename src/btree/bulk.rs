//! Building a tree from entries that come in order, in bounded memory.

use super::allocator::Loose;
use super::insert::separator;
use super::node::Root;
use super::page::{ChildRecord, HEADER_BYTES, PageRef, Slotted};
use super::store::{Store, rooted};
use super::tree::{Tree, TreeKind};
use super::writer::RunWriter;
use crate::types::{GroupId, StorageError};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, OnceLock};

/// One node per level that is being filled.
#[derive(Debug)]
struct Level {
    body: Slotted,
    /// Lower bound of the node's keys, for its parent.
    separator: Vec<u8>,
    entries: u64,
    live: u64,
}

/// Takes entries in ascending order, writes nodes as they fill, and keeps only the rightmost of
/// each level. Its pages are nobody's until a checkpoint contains the tree: dropped before that
/// they are free again, and a crash leaves nothing of them.
#[derive(Debug)]
pub struct BulkLoader {
    store: Store,
    group: GroupId,
    kind: TreeKind,
    levels: Vec<Level>,
    last_key: Vec<u8>,
    entries: u64,
    live: u64,
    writer: RunWriter,
    loose: Arc<Loose>,
}

impl BulkLoader {
    pub(super) fn new(store: Store, group: GroupId, kind: TreeKind) -> BulkLoader {
        let checkpoint = store.checkpoint() + 1;
        let loose = Arc::new(Loose {
            store: Arc::downgrade(&store.0),
            extents: Mutex::default(),
            root: OnceLock::new(),
            owned: AtomicBool::new(false),
        });
        BulkLoader {
            store,
            group,
            kind,
            levels: Vec::new(),
            last_key: Vec::new(),
            entries: 0,
            live: 0,
            writer: RunWriter::new(checkpoint, true),
            loose,
        }
    }

    /// Adds an entry behind all others. Keys that do not ascend are damage of their source.
    pub fn push(&mut self, key: &[u8], value: &[u8], live: bool) -> Result<(), StorageError> {
        if self.entries > 0 && key <= &self.last_key[..] {
            let path = self.store.path();
            let found = format!("key {} out of order", self.entries);
            return Err(StorageError::corrupt(path, 0, "entries in ascending order", found));
        }
        let max = self.store.pager().shape.leaf_bytes;
        let cost = Slotted::cost_of(key.len(), value.len());
        let full = |level: &Level| level.body.len() > 0 && level.body.used_bytes() + cost > max;
        if self.levels.is_empty() {
            self.levels.push(Level::new(Vec::new(), max));
        } else if full(&self.levels[0]) {
            let next = separator(&self.last_key, key);
            self.close(0, next)?;
        }
        let leaf = &mut self.levels[0];
        leaf.body.push(key, value, live);
        leaf.entries += 1;
        leaf.live += u64::from(live);
        self.entries += 1;
        self.live += u64::from(live);
        self.last_key.clear();
        self.last_key.extend_from_slice(key);
        Ok(())
    }

    /// Writes the node that level `level` is filling, hands it to the level above, and starts
    /// the next one, whose keys begin at `next`.
    fn close(&mut self, level: usize, next: Vec<u8>) -> Result<(), StorageError> {
        let shape = self.store.pager().shape;
        let fresh = Level::new(next, shape.max_bytes(level as u8));
        let full = std::mem::replace(&mut self.levels[level], fresh);
        let record = self.write(level, &full)?;
        self.add_child(level + 1, full.separator, record)
    }

    fn add_child(
        &mut self,
        level: usize,
        separator: Vec<u8>,
        record: ChildRecord,
    ) -> Result<(), StorageError> {
        let max = self.store.pager().shape.inner_bytes;
        if level == self.levels.len() {
            self.levels.push(Level::new(Vec::new(), max));
        }
        let cost = Slotted::cost_of(separator.len(), ChildRecord::BYTES);
        let body = &self.levels[level].body;
        // Two children at least, whatever their keys weigh: levels must shrink upward.
        if body.len() >= 2 && body.used_bytes() + cost > max {
            self.close(level, separator.clone())?;
        }
        let inner = &mut self.levels[level];
        let key: &[u8] = if inner.body.len() == 0 { b"" } else { &separator };
        inner.body.push(key, &record.encode(), false);
        inner.entries += record.entries;
        inner.live += record.live;
        Ok(())
    }

    fn write(&mut self, level: usize, full: &Level) -> Result<ChildRecord, StorageError> {
        let page = self.writer.node(&self.store.0, level as u8, &full.body, |_| None)?;
        let mut extents = self.loose.extents.lock().expect("no holder panics");
        match extents.last_mut() {
            Some((start, pages)) if *start + u64::from(*pages) == page.page => *pages += page.pages,
            _ => extents.push((page.page, page.pages)),
        }
        Ok(ChildRecord { page, entries: full.entries, live: full.live })
    }

    /// The tree, all of it in the file but durable only with the next checkpoint.
    pub fn finish(mut self) -> Result<Tree, StorageError> {
        let mut root = Root::default();
        let mut level = 0;
        while level < self.levels.len() {
            let top = level + 1 == self.levels.len();
            let full = std::mem::replace(&mut self.levels[level], Level::new(Vec::new(), 0));
            if top && level > 0 && full.body.len() == 1 {
                let page = full.body.record(0).page;
                root = self.root(page, level - 1);
                break;
            }
            if full.body.len() > 0 {
                let record = self.write(level, &full)?;
                if top {
                    root = self.root(record.page, level);
                    break;
                }
                self.add_child(level + 1, full.separator, record)?;
            }
            level += 1;
        }
        self.writer.flush(&self.store.0)?;
        if let Some(page) = root.page() {
            let first = self.loose.root.set((page, root.level)).is_ok();
            assert!(first, "a loader finishes once");
        }
        let BulkLoader { store, group, kind, loose, .. } = self;
        Ok(Tree::new(store, group, kind, root, Some(loose)))
    }

    fn root(&self, page: PageRef, level: usize) -> Root {
        rooted(page, level as u8, self.entries, self.live)
    }
}

impl Level {
    fn new(separator: Vec<u8>, bytes: usize) -> Level {
        Level {
            body: Slotted::with_capacity(bytes.max(HEADER_BYTES)),
            separator,
            entries: 0,
            live: 0,
        }
    }
}
