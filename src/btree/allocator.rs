//! Which pages are taken.
//!
//! One bit per page, in chunks of one page each; an index extent lists the chunks. Chunks are
//! copied on write like everything else: a checkpoint writes those whose bits have changed, and
//! the index. The bits that a checkpoint stores include the chunks and the index themselves.
//!
//! In memory three bits per page: *used* by the newest state, *held* (free, but the older meta or
//! a view may still need it), *loose* (used, but by a bulk loader whose tree is in no checkpoint
//! yet, so that a restart finds it free). A page can be handed out when it is neither used nor
//! held. What checkpoint `f` freed stays held until checkpoint `f + 1` is durable, so that
//! neither meta needs it, and until no view of an epoch before `f` lives.
//!
//! The map is read when the first page is asked for: 32 KiB per GiB of file.

use super::meta::{META_PAGES, Meta};
use super::page::{HEADER_BYTES, PAGE_BYTES, PageRef, u32_at};
use super::pager::Pager;
use super::store::StoreInner;
use crate::types::StorageError;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, Weak};

/// Pages that one chunk of the map covers: about 127 MiB.
pub(super) const CHUNK_PAGES: u64 = ((PAGE_BYTES - HEADER_BYTES) * 8) as u64;
const CHUNK_MAGIC: u8 = 0xc5;
const INDEX_MAGIC: u8 = 0xd1;
/// Below a quarter of free pages, holes shorter than this are left to grow: checkpoints write
/// in long runs. Above it every hole is used, so that the file does not grow for nothing.
const HOLE_PAGES_MIN: u64 = 8;
/// A free tail is given back from this size on, so that the file's length does not flutter.
const TAIL_PAGES_MIN: u64 = if cfg!(any(test, fuzzing)) { 4 } else { 256 };

/// A set of pages.
#[derive(Clone, Debug, Default)]
pub(super) struct Bits(Vec<u64>);

impl Bits {
    pub fn get(&self, page: u64) -> bool {
        self.0.get((page / 64) as usize).is_some_and(|word| word >> (page % 64) & 1 != 0)
    }
    /// Sets or clears; returns whether that changed something.
    pub fn set(&mut self, page: u64, value: bool) -> bool {
        let index = (page / 64) as usize;
        if index >= self.0.len() {
            if !value {
                return false;
            }
            self.0.resize(index + 1, 0);
        }
        let old = self.0[index];
        let mask = 1 << (page % 64);
        self.0[index] = if value { old | mask } else { old & !mask };
        old != self.0[index]
    }
    pub fn word(&self, index: usize) -> u64 {
        self.0.get(index).copied().unwrap_or(0)
    }
    /// One behind the highest page of the set.
    pub fn top(&self) -> u64 {
        let last = self.0.iter().rposition(|word| *word != 0);
        last.map_or(0, |i| i as u64 * 64 + 64 - u64::from(self.0[i].leading_zeros()))
    }
    pub fn count(&self) -> u64 {
        self.0.iter().map(|word| u64::from(word.count_ones())).sum()
    }
}

#[derive(Debug)]
pub(super) struct Space {
    /// The checkpoints to read the map from, until it has been read.
    source: Option<(Meta, Option<Meta>)>,
    used: Bits,
    held: Bits,
    loose: Bits,
    /// Length of the file, in pages.
    pages: u64,
    /// Pages neither used nor held.
    free: u64,
    /// Where the search for free pages goes on.
    next: u64,
    /// What each checkpoint freed and is still held: (checkpoint, extents), oldest first.
    deferred: VecDeque<(u64, Vec<(u64, u32)>)>,
    chunks: Vec<Option<PageRef>>,
    index: Option<PageRef>,
    /// Chunks whose stored bits differ from those in memory.
    dirty: BTreeSet<usize>,
}

/// The map as a checkpoint stores it.
pub(super) struct Sealed {
    /// Pages to write, each extent with its first page.
    pub images: Vec<(u64, Vec<u8>)>,
    pub index: Option<PageRef>,
    pub chunks: u64,
    pub used: u64,
    pub high: u64,
}

impl Space {
    /// The map of a file of `pages` pages whose newest checkpoint is `newest`.
    pub fn unread(newest: Meta, older: Option<Meta>, pages: u64) -> Space {
        Space {
            source: Some((newest, older)),
            used: Bits::default(),
            held: Bits::default(),
            loose: Bits::default(),
            pages,
            free: 0,
            next: META_PAGES,
            deferred: VecDeque::new(),
            chunks: Vec::new(),
            index: None,
            dirty: BTreeSet::new(),
        }
    }

    /// Reads the map if nobody has yet.
    pub fn ensure_read(&mut self, pager: &Pager) -> Result<(), StorageError> {
        let Some((newest, older)) = &self.source else { return Ok(()) };
        let mut map = StoredMap::read(pager, newest)?;
        for page in 0..META_PAGES {
            if map.used.set(page, true) {
                self.dirty.insert(0);
            }
        }
        let mut freed: Vec<(u64, u32)> = Vec::new();
        if let Some(older) = older {
            let before = StoredMap::read(pager, older)?;
            for index in 0..before.used.0.len() {
                let gone = before.used.word(index) & !map.used.word(index);
                for bit in (0..64).filter(|bit| gone >> bit & 1 != 0) {
                    let page = index as u64 * 64 + bit;
                    self.held.set(page, true);
                    match freed.last_mut() {
                        Some((first, pages)) if *first + u64::from(*pages) == page => *pages += 1,
                        _ => freed.push((page, 1)),
                    }
                }
            }
        }
        let checkpoint = newest.checkpoint;
        (self.used, self.chunks, self.index) = (map.used, map.chunks, newest.space);
        self.pages = self.pages.max(self.used.top()).max(self.held.top());
        self.free = self.pages - self.used.count() - self.held.count();
        if !freed.is_empty() {
            self.deferred.push_back((checkpoint, freed));
        }
        self.source = None;
        Ok(())
    }

    fn is_free(&self, page: u64) -> bool {
        !self.used.get(page) && !self.held.get(page)
    }

    /// Search from the beginning of the file again: low pages first, so that the tail empties.
    pub fn rewind(&mut self) {
        self.next = META_PAGES;
    }

    /// Takes `pages` contiguous pages, behind the last ones taken if possible.
    pub fn allocate(&mut self, pages: u32) -> u64 {
        assert!(self.source.is_none(), "a page is asked for before the map is read");
        let want = u64::from(pages);
        let start = self.find(want);
        for page in start..start + want {
            assert!(self.is_free(page), "page {page} is handed out twice");
            self.set_used(page, true);
        }
        if start + want > self.pages {
            self.free += start + want - self.pages;
            self.pages = start + want;
        }
        self.free -= want;
        self.next = start + want;
        start
    }

    fn find(&self, want: u64) -> u64 {
        if self.run_at(self.next, want) == want {
            return self.next;
        }
        let hole = if self.free > self.pages / 4 { want } else { want.max(HOLE_PAGES_MIN) };
        let mut page = self.next;
        while page < self.pages {
            if page.is_multiple_of(64) {
                let index = (page / 64) as usize;
                if self.used.word(index) | self.held.word(index) == u64::MAX {
                    page += 64;
                    continue;
                }
            }
            let run = self.run_at(page, hole);
            // A hole that reaches the end of the file has no end.
            if run >= hole || (run > 0 && page + run >= self.pages) {
                return page;
            }
            page += run + 1;
        }
        // The cursor may stand behind holes that are good enough, but the next checkpoint will
        // come to them: appending keeps this one's writes in order.
        let mut end = self.pages;
        while end > self.next.max(META_PAGES) && self.is_free(end - 1) {
            end -= 1;
        }
        end
    }

    /// Free pages from `page` on inside the file, at most `limit`.
    fn run_at(&self, page: u64, limit: u64) -> u64 {
        let mut run = 0;
        while run < limit && page + run < self.pages && self.is_free(page + run) {
            run += 1;
        }
        run
    }

    fn set_used(&mut self, page: u64, used: bool) {
        if self.used.set(page, used) {
            self.dirty.insert((page / CHUNK_PAGES) as usize);
        }
    }

    pub fn pages(&self) -> u64 {
        self.pages
    }

    /// Pages of a loader: not part of what the next checkpoint stores.
    pub fn set_loose(&mut self, page: u64, pages: u32) {
        for page in page..page + u64::from(pages) {
            assert!(self.used.get(page), "page {page} is loose but not used");
            self.loose.set(page, true);
        }
    }

    /// Loose pages that are part of a checkpoint from now on.
    pub fn own(&mut self, page: u64, pages: u32) {
        for page in page..page + u64::from(pages) {
            // Those that the tree has replaced in the meantime are not loose any more.
            if self.loose.set(page, false) {
                self.dirty.insert((page / CHUNK_PAGES) as usize);
            }
        }
    }

    /// Gives back those of the pages that are still loose.
    pub fn discard(&mut self, page: u64, pages: u32) {
        for page in page..page + u64::from(pages) {
            if self.loose.get(page) {
                self.free_now(page, 1);
            }
        }
    }

    /// Gives back pages that no meta and no view has ever known.
    pub fn free_now(&mut self, page: u64, pages: u32) {
        for page in page..page + u64::from(pages) {
            assert!(self.used.get(page), "page {page} is freed twice");
            self.set_used(page, false);
            self.loose.set(page, false);
            self.free += 1;
        }
    }

    /// `checkpoint` does without these pages; they stay held until `release`.
    pub fn defer(&mut self, checkpoint: u64, page: u64, pages: u32) {
        for page in page..page + u64::from(pages) {
            assert!(self.used.get(page), "page {page} is freed twice");
            self.set_used(page, false);
            self.loose.set(page, false);
            self.held.set(page, true);
        }
        match self.deferred.back_mut() {
            Some((newest, extents)) if *newest == checkpoint => extents.push((page, pages)),
            _ => self.deferred.push_back((checkpoint, vec![(page, pages)])),
        }
    }

    /// Frees what checkpoints up to `checkpoint` did without, as far as no view of an epoch
    /// before them is left (`oldest` is the oldest with a view).
    pub fn release(&mut self, checkpoint: u64, oldest: u64) {
        while let Some((freed_by, _)) = self.deferred.front() {
            if *freed_by > checkpoint || *freed_by > oldest {
                break;
            }
            let (_, extents) = self.deferred.pop_front().expect("the front was just there");
            for (page, pages) in extents {
                for page in page..page + u64::from(pages) {
                    let was_held = self.held.set(page, false);
                    assert!(was_held, "page {page} is released twice");
                    self.free += 1;
                }
            }
        }
    }

    /// Where the part of the file begins that should become empty, if so much is free that it
    /// can: what the store itself keeps there moves with the next checkpoint.
    pub fn tail_start(&self) -> Option<u64> {
        let mostly_free = self.source.is_none() && self.free > self.pages / 2;
        (mostly_free && self.pages > 2 * TAIL_PAGES_MIN).then_some(self.pages / 2)
    }

    /// The new length in pages when the file's tail is free.
    pub fn trim(&mut self) -> Option<u64> {
        let top = self.used.top().max(self.held.top()).max(META_PAGES);
        if self.source.is_some() || self.pages < top + TAIL_PAGES_MIN {
            return None;
        }
        self.free -= self.pages - top;
        self.pages = top;
        Some(top)
    }

    /// Gives every changed chunk and the index new pages, and encodes them as `checkpoint`'s.
    pub fn seal(&mut self, checkpoint: u64) -> Sealed {
        let mut placed: BTreeMap<usize, u64> = BTreeMap::new();
        let mut index_at: Option<(u64, u32)> = None;
        if let Some(tail) = self.tail_start() {
            let is_there = |at: &Option<PageRef>| at.is_some_and(|at| at.page >= tail);
            let chunks = self.chunks.iter().enumerate().filter(|(_, at)| is_there(at));
            self.dirty.extend(chunks.map(|(chunk, _)| chunk));
            if is_there(&self.index) {
                // Its own bits are in some chunk, which brings the index with it.
                self.dirty.insert(0);
            }
        }
        // Taking and freeing pages for the map changes the map: go on until nothing new is dirty.
        loop {
            let count = (self.stored_top().div_ceil(CHUNK_PAGES) as usize).max(1);
            while self.chunks.len() > count {
                let gone = self.chunks.len() - 1;
                if let Some(old) = self.chunks.pop().flatten() {
                    self.defer(checkpoint, old.page, old.pages);
                }
                self.dirty.insert(gone);
            }
            let pending: Vec<usize> = self
                .dirty
                .iter()
                .filter(|chunk| **chunk < count && !placed.contains_key(*chunk))
                .copied()
                .collect();
            if self.dirty.is_empty() && self.index.is_some() {
                return self.sealed(Vec::new());
            }
            let need = u32::try_from((HEADER_BYTES + PageRef::BYTES * count).div_ceil(PAGE_BYTES))
                .expect("an index of 16 TiB");
            if pending.is_empty() && index_at.is_some_and(|(_, pages)| pages >= need) {
                break;
            }
            self.chunks.resize(self.chunks.len().max(count), None);
            for chunk in pending {
                if let Some(old) = self.chunks[chunk].take() {
                    self.defer(checkpoint, old.page, old.pages);
                }
                placed.insert(chunk, self.allocate(1));
            }
            match index_at {
                Some((_, pages)) if pages >= need => {}
                Some((page, pages)) => {
                    self.free_now(page, pages);
                    index_at = Some((self.allocate(need), need));
                }
                None => {
                    if let Some(old) = self.index.take() {
                        self.defer(checkpoint, old.page, old.pages);
                    }
                    index_at = Some((self.allocate(need), need));
                }
            }
        }
        let mut images = Vec::new();
        for (chunk, page) in &placed {
            let image = self.encode_chunk(*chunk, *page, checkpoint);
            self.chunks[*chunk] = Some(reference(&image, *page, checkpoint));
            images.push((*page, image));
        }
        let (page, pages) = index_at.expect("the loop ends with an index");
        let mut image = vec![0; pages as usize * PAGE_BYTES];
        header(&mut image, INDEX_MAGIC, self.chunks.len() as u32, page, checkpoint);
        for (i, chunk) in self.chunks.iter().enumerate() {
            let at = HEADER_BYTES + PageRef::BYTES * i;
            chunk.unwrap_or(NO_PAGE).encode(&mut image[at..at + PageRef::BYTES]);
        }
        self.index = Some(reference(&image, page, checkpoint));
        images.push((page, image));
        images.sort_by_key(|(page, _)| *page);
        self.dirty.clear();
        self.sealed(images)
    }

    fn sealed(&self, images: Vec<(u64, Vec<u8>)>) -> Sealed {
        Sealed {
            images,
            index: self.index,
            chunks: self.chunks.len() as u64,
            used: self.used.count() - self.loose.count(),
            high: self.stored_top(),
        }
    }

    /// One behind the highest page that a checkpoint would store as used.
    fn stored_top(&self) -> u64 {
        let mut index = self.used.0.len();
        while index > 0 {
            index -= 1;
            let word = self.used.word(index) & !self.loose.word(index);
            if word != 0 {
                return index as u64 * 64 + 64 - u64::from(word.leading_zeros());
            }
        }
        0
    }

    fn encode_chunk(&self, chunk: usize, page: u64, checkpoint: u64) -> Vec<u8> {
        let mut image = vec![0; PAGE_BYTES];
        header(&mut image, CHUNK_MAGIC, chunk as u32, page, checkpoint);
        // A chunk is a whole number of words: 4064 bytes.
        let first = chunk * (PAGE_BYTES - HEADER_BYTES) / 8;
        for (i, out) in image[HEADER_BYTES..].chunks_exact_mut(8).enumerate() {
            let word = self.used.word(first + i) & !self.loose.word(first + i);
            out.copy_from_slice(&word.to_le_bytes());
        }
        image
    }
}

const NO_PAGE: PageRef = PageRef { page: 0, checkpoint: 0, crc: 0, pages: 0 };

fn reference(image: &[u8], page: u64, checkpoint: u64) -> PageRef {
    let pages = (image.len() / PAGE_BYTES) as u32;
    PageRef { page, checkpoint, crc: crc32fast::hash(image), pages }
}

fn header(image: &mut [u8], magic: u8, number: u32, page: u64, checkpoint: u64) {
    image[0] = magic;
    image[4..8].copy_from_slice(&number.to_le_bytes());
    image[8..16].copy_from_slice(&page.to_le_bytes());
    image[16..24].copy_from_slice(&checkpoint.to_le_bytes());
}

/// The map as it is in the file.
pub(super) struct StoredMap {
    pub used: Bits,
    pub chunks: Vec<Option<PageRef>>,
}

impl StoredMap {
    pub fn read(pager: &Pager, meta: &Meta) -> Result<StoredMap, StorageError> {
        let mut map = StoredMap { used: Bits::default(), chunks: Vec::new() };
        let Some(index) = meta.space else { return Ok(map) };
        let image = pager.read_extent(&index)?;
        let check = |image: &[u8], magic: u8, number: u32, at: &PageRef, what: &str| {
            if image[0] == magic && u32_at(image, 4) == number {
                return Ok(());
            }
            Err(pager.corrupt(at.offset(), format!("{what} {number}"), "other bytes".into()))
        };
        let room = (image.len() - HEADER_BYTES) / PageRef::BYTES;
        if meta.chunks > room as u64 {
            let found = format!("{} chunks", meta.chunks);
            return Err(pager.corrupt(index.offset(), format!("at most {room} chunks"), found));
        }
        check(&image, INDEX_MAGIC, meta.chunks as u32, &index, "the index of chunks")?;
        for chunk in 0..meta.chunks as usize {
            let at = PageRef::decode(&image[HEADER_BYTES + PageRef::BYTES * chunk..]);
            if at.page == 0 {
                map.chunks.push(None);
                continue;
            }
            let bits = pager.read_extent(&at)?;
            check(&bits, CHUNK_MAGIC, chunk as u32, &at, "chunk")?;
            let first = chunk as u64 * CHUNK_PAGES;
            for (i, byte) in bits[HEADER_BYTES..PAGE_BYTES].iter().enumerate() {
                for bit in (0..8).filter(|bit| byte >> bit & 1 != 0) {
                    map.used.set(first + i as u64 * 8 + bit, true);
                }
            }
            map.chunks.push(Some(at));
        }
        let pages = pager.file_pages.load(Ordering::Acquire);
        if map.used.top() > pages {
            let found = format!("a used page {}", map.used.top() - 1);
            return Err(pager.corrupt(index.offset(), format!("pages below {pages}"), found));
        }
        Ok(map)
    }
}

/// The pages of a bulk loader's tree until a checkpoint owns them. Dropped before that, with the
/// tree and every view of it, it gives them back.
#[derive(Debug)]
pub(super) struct Loose {
    pub store: Weak<StoreInner>,
    pub extents: Mutex<Vec<(u64, u32)>>,
    /// Root page and level of what was loaded, once it is complete.
    pub root: std::sync::OnceLock<(PageRef, u8)>,
    pub owned: AtomicBool,
}

impl Loose {
    pub fn is_owned(&self) -> bool {
        self.owned.load(Ordering::Acquire)
    }
}

impl Drop for Loose {
    fn drop(&mut self) {
        let Some(store) = self.store.upgrade().filter(|_| !self.is_owned()) else { return };
        let mut space = store.space.lock().expect("no holder panics");
        for (page, pages) in self.extents.get_mut().expect("no holder panics").drain(..) {
            space.discard(page, pages);
        }
    }
}
