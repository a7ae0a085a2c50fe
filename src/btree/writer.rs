//! From dirty nodes to large writes: consecutive extents are gathered and written at once.

use super::node::Node;
use super::page::{ChildRecord, PAGE_BYTES, PageRef, Slotted};
use super::store::StoreInner;
use crate::types::StorageError;

/// Bytes of one write. Long enough that a disk streams, short enough to be one bounded step.
const RUN_BYTES_MAX: usize = 512 << 10;

#[derive(Debug)]
pub(super) struct RunWriter {
    checkpoint: u64,
    /// Whether the pages belong to a loader until a checkpoint owns them.
    loose: bool,
    /// Page of the first byte in `buf`.
    start: u64,
    buf: Vec<u8>,
    /// Writes issued and bytes in them.
    pub writes: u64,
    pub bytes: u64,
}

impl RunWriter {
    pub fn new(checkpoint: u64, loose: bool) -> RunWriter {
        RunWriter { checkpoint, loose, start: 0, buf: Vec::new(), writes: 0, bytes: 0 }
    }

    fn end(&self) -> u64 {
        self.start + (self.buf.len() / PAGE_BYTES) as u64
    }

    /// Takes pages for a node and queues its image. The reference is good once `flush` has run.
    pub fn node(
        &mut self,
        store: &StoreInner,
        level: u8,
        body: &Slotted,
        record: impl Fn(usize) -> Option<ChildRecord>,
    ) -> Result<PageRef, StorageError> {
        let pages = body.pages();
        let page = {
            let mut space = store.space.lock().expect("no holder panics");
            space.ensure_read(&store.pager)?;
            let page = space.allocate(pages);
            if self.loose {
                space.set_loose(page, pages);
            }
            store.note_length(space.pages());
            page
        };
        self.make_way(store, page, pages as usize * PAGE_BYTES)?;
        let image = body.encode(level, page, self.checkpoint, &mut self.buf, record);
        let crc = crc32fast::hash(&self.buf[image]);
        Ok(PageRef { page, checkpoint: self.checkpoint, crc, pages })
    }

    /// Queues an extent that is already encoded.
    pub fn image(
        &mut self,
        store: &StoreInner,
        page: u64,
        image: &[u8],
    ) -> Result<(), StorageError> {
        self.make_way(store, page, image.len())?;
        self.buf.extend_from_slice(image);
        Ok(())
    }

    /// Writes what is queued unless the extent at `page` continues it.
    fn make_way(
        &mut self,
        store: &StoreInner,
        page: u64,
        bytes: usize,
    ) -> Result<(), StorageError> {
        if page != self.end() || self.buf.len() + bytes > RUN_BYTES_MAX {
            self.flush(store)?;
        }
        if self.buf.is_empty() {
            self.start = page;
        }
        Ok(())
    }

    pub fn flush(&mut self, store: &StoreInner) -> Result<(), StorageError> {
        if self.buf.is_empty() {
            return Ok(());
        }
        store.pager.file.write_at(&[&self.buf], self.start * PAGE_BYTES as u64)?;
        self.writes += 1;
        self.bytes += self.buf.len() as u64;
        self.buf.clear();
        if self.buf.capacity() > RUN_BYTES_MAX {
            // A single huge extent went through: do not keep its buffer.
            self.buf = Vec::new();
        }
        Ok(())
    }
}

/// The record of child `i` once every child has a place.
pub(super) fn written_record(node: &Node, i: usize) -> Option<ChildRecord> {
    let kid = node.kid(i)?;
    let page = kid.written().expect("children are written before their parent");
    Some(ChildRecord { page, ..node.body.record(i) })
}
