//! From page references to nodes: the cache in front, the file behind, and every check between.

use super::cache::Cache;
use super::node::{Child, Counters, Node, Root, Shape};
use super::page::{LEVEL_MAX, PAGE_BYTES, PageRef, Slotted};
use crate::io::File;
use crate::types::StorageError;
use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

#[derive(Debug)]
pub(super) struct Pager {
    pub file: Arc<dyn File>,
    pub cache: Cache,
    pub counters: Arc<Counters>,
    pub shape: Shape,
    /// What nodes in memory may take, dirty ones included.
    pub cache_bytes: usize,
    /// Length of the file in pages: no reference may point behind it.
    pub file_pages: AtomicU64,
}

impl Pager {
    /// What the clean nodes may take: what the dirty ones leave, but always an eighth, so that a
    /// checkpoint that lags cannot starve the readers.
    fn clean_limit(&self) -> usize {
        let dirty = self.counters.dirty_bytes.load(Ordering::Relaxed) as usize;
        self.cache_bytes.saturating_sub(dirty).max(self.cache_bytes / 8)
    }

    pub fn keep(&self, at: PageRef, node: Arc<Node>) {
        debug_assert!(node.kids.is_empty(), "a cached node holds no subtree");
        self.cache.insert(at, node, self.clean_limit());
    }

    /// The node at `at`, which must be of `level`.
    pub fn load(&self, at: &PageRef, level: u8) -> Result<Arc<Node>, StorageError> {
        if let Some(node) = self.cache.get(at)
            && node.level == level
        {
            return Ok(node);
        }
        let node = Arc::new(self.read(at, level)?);
        self.keep(*at, Arc::clone(&node));
        Ok(node)
    }

    /// As `load`, for walks that would only push useful nodes out of the cache.
    pub fn load_once(&self, at: &PageRef, level: u8) -> Result<Arc<Node>, StorageError> {
        match self.cache.get(at) {
            Some(node) if node.level == level => Ok(node),
            _ => Ok(Arc::new(self.read(at, level)?)),
        }
    }

    pub fn read(&self, at: &PageRef, level: u8) -> Result<Node, StorageError> {
        let buf = self.read_extent(at)?;
        let body = Slotted::from_page(buf, level, at.page, at.checkpoint)
            .map_err(|(expected, found)| self.corrupt(at.offset(), expected, found))?;
        Ok(Node::clean(level, body, *at, &self.counters))
    }

    /// The bytes of an extent, which are what the reference says they are.
    pub fn read_extent(&self, at: &PageRef) -> Result<Bytes, StorageError> {
        let pages = self.file_pages.load(Ordering::Acquire);
        let end = at.page.checked_add(u64::from(at.pages));
        if at.page < 2 || at.pages == 0 || end.is_none_or(|end| end > pages) {
            let found = format!("a reference to {} pages from page {}", at.pages, at.page);
            return Err(self.corrupt(at.offset(), format!("an extent below page {pages}"), found));
        }
        let mut buf = vec![0; at.pages as usize * PAGE_BYTES];
        self.file.read_exact_at(&mut buf, at.offset())?;
        let crc = crc32fast::hash(&buf);
        if crc != at.crc {
            let expected = format!("CRC {:08x} of checkpoint {}", at.crc, at.checkpoint);
            return Err(self.corrupt(at.offset(), expected, format!("CRC {crc:08x}")));
        }
        Ok(Bytes::from(buf))
    }

    pub fn corrupt(&self, offset: u64, expected: String, found: String) -> StorageError {
        StorageError::corrupt(self.file.path(), offset, expected, found)
    }

    /// The root node of a tree, or `None` when the tree is empty.
    pub fn root(&self, root: &Root) -> Result<Option<Arc<Node>>, StorageError> {
        match &root.child {
            None => Ok(None),
            Some(Child::Mem(node)) => Ok(Some(Arc::clone(node))),
            Some(Child::Page(at)) => {
                if root.level > LEVEL_MAX {
                    let found = format!("level {}", root.level);
                    return Err(self.corrupt(at.offset(), format!("at most {LEVEL_MAX}"), found));
                }
                self.load(at, root.level).map(Some)
            }
        }
    }

    /// The child `i` of an inner node.
    pub fn child(&self, node: &Node, i: usize) -> Result<Arc<Node>, StorageError> {
        assert!(node.level > 0, "a leaf has no children");
        match node.kid(i) {
            Some(kid) => Ok(Arc::clone(kid)),
            None => self.load(&node.body.record(i).page, node.level - 1),
        }
    }
}
