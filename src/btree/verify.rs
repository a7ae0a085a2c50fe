//! Reading everything and believing nothing.
//!
//! Walks the newest checkpoint as it is in the file, not in the cache: every page against the
//! reference that leads to it, keys against each other and against the bounds from above, counts
//! against what is below, every page reached once, and what is reached against the free-space
//! map in both directions.

use super::allocator::{Bits, StoredMap};
use super::catalogue;
use super::meta::{META_PAGES, Meta};
use super::page::{LEVEL_MAX, PAGE_BYTES, PageRef};
use super::store::StoreInner;
use crate::types::StorageError;
use std::ops::Range;

/// Beyond this, problems are only counted.
const PROBLEMS_LISTED_MAX: usize = 100;

/// Something that is not as it must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where in the file.
    pub offset: u64,
    pub what: String,
}

/// What `Store::verify` found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VerifyReport {
    pub checkpoint: u64,
    pub trees: u64,
    /// Entries of all trees, and live ones among them.
    pub entries: u64,
    pub live: u64,
    /// Pages that are reached, the metas and the free-space map included.
    pub pages: u64,
    /// At most a hundred of `problem_count`.
    pub problems: Vec<Problem>,
    pub problem_count: u64,
}

impl VerifyReport {
    pub fn is_clean(&self) -> bool {
        self.problem_count == 0
    }

    fn problem(&mut self, offset: u64, what: String) {
        self.problem_count += 1;
        if self.problems.len() < PROBLEMS_LISTED_MAX {
            self.problems.push(Problem { offset, what });
        }
    }

    /// Damage becomes a line of the report, a failing disk ends it.
    fn note<T>(&mut self, result: Result<T, StorageError>) -> Result<Option<T>, StorageError> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(StorageError::Corrupt { offset, expected, found, .. }) => {
                self.problem(offset, format!("expected {expected}, found {found}"));
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

struct Verifier<'a> {
    store: &'a StoreInner,
    seen: Bits,
    report: VerifyReport,
}

pub(super) fn verify(store: &StoreInner) -> Result<VerifyReport, StorageError> {
    // The pin keeps the pages of this checkpoint, however long the walk takes.
    let (meta, stored, _pin) = {
        let state = store.state();
        (state.meta.clone(), state.catalogue.trees.clone(), store.epochs.durable())
    };
    let mut verifier = Verifier { store, seen: Bits::default(), report: VerifyReport::default() };
    verifier.report.checkpoint = meta.checkpoint;
    for page in 0..META_PAGES {
        verifier.seen.set(page, true);
    }
    verifier.meta_page(&meta)?;
    let root = catalogue::root_of(&meta);
    if let Some(at) = root.page() {
        let found = verifier.node(&at, root.level, b"", None)?;
        verifier.compare(&at, "catalogue entries", root.entries, found.0);
    }
    let listed = catalogue::read(&store.pager, &meta);
    if let Some(listed) = verifier.report.note(listed)? {
        if listed.trees.keys().ne(stored.keys()) {
            verifier.report.problem(0, "the catalogue in the file is not the one in use".into());
        }
        for root in listed.trees.values() {
            let Some(at) = root.page() else { continue };
            verifier.report.trees += 1;
            let (entries, live) = verifier.node(&at, root.level, b"", None)?;
            verifier.compare(&at, "entries", root.entries, entries);
            verifier.compare(&at, "live entries", root.live, live);
            verifier.report.entries += entries;
            verifier.report.live += live;
        }
    }
    verifier.space(&meta)?;
    Ok(verifier.report)
}

impl Verifier<'_> {
    fn compare(&mut self, at: &PageRef, what: &str, noted: u64, found: u64) {
        if noted != found {
            let line = format!("{found} {what} where {noted} are noted");
            self.report.problem(at.offset(), line);
        }
    }

    /// The newest meta once more: it may have rotted since the store was opened.
    fn meta_page(&mut self, meta: &Meta) -> Result<(), StorageError> {
        let mut bytes = vec![0; PAGE_BYTES];
        let offset = meta.page() * PAGE_BYTES as u64;
        let read = self.store.pager.file.read_at(&mut bytes, offset)?;
        match Meta::decode(&bytes[..read], meta.page()) {
            Ok(found) if found == *meta => {}
            Ok(found) if found.checkpoint > meta.checkpoint => {}
            Ok(found) => {
                let line = format!("checkpoint {} is not the one in use", found.checkpoint);
                self.report.problem(offset, line);
            }
            Err(what) => self.report.problem(offset, what),
        }
        Ok(())
    }

    /// Marks an extent as reached; `false` if a part of it was before.
    fn reach(&mut self, at: &PageRef) -> bool {
        let pages: Range<u64> = at.page..at.page.saturating_add(u64::from(at.pages));
        let inside = self.store.pager.file_pages.load(std::sync::atomic::Ordering::Acquire);
        if at.page < META_PAGES || pages.end > inside {
            let line = format!("a reference to pages {pages:?} of {inside}");
            self.report.problem(at.offset(), line);
            return false;
        }
        let again = pages.clone().any(|page| self.seen.get(page));
        if again {
            self.report.problem(at.offset(), format!("pages {pages:?} are reached twice"));
            return false;
        }
        for page in pages {
            self.seen.set(page, true);
        }
        true
    }

    /// Walks a subtree whose keys must be in `[lower, upper)`; returns its entries and live ones.
    fn node(
        &mut self,
        at: &PageRef,
        level: u8,
        lower: &[u8],
        upper: Option<&[u8]>,
    ) -> Result<(u64, u64), StorageError> {
        if level > LEVEL_MAX || !self.reach(at) {
            return Ok((0, 0));
        }
        let read = self.store.pager.read(at, level);
        let Some(node) = self.report.note(read)? else { return Ok((0, 0)) };
        let body = &node.body;
        for i in 0..body.len() {
            let key = body.key(i);
            let first_of_inner = level > 0 && i == 0;
            let ordered = i == 0 || body.key(i - 1) < key;
            let inside = (first_of_inner && key.is_empty()) || (!first_of_inner && key >= lower);
            if !ordered || !inside || upper.is_some_and(|upper| key >= upper) {
                self.report.problem(at.offset(), format!("key {i} is out of order"));
            }
        }
        if level == 0 {
            return Ok((body.len() as u64, body.live() as u64));
        }
        let (mut entries, mut live) = (0u64, 0u64);
        for i in 0..body.len() {
            let record = body.record(i);
            let from = if i == 0 { lower } else { body.key(i) };
            let to = if i + 1 < body.len() { Some(body.key(i + 1)) } else { upper };
            let found = self.node(&record.page, level - 1, from, to)?;
            self.compare(&record.page, "entries in a subtree", record.entries, found.0);
            self.compare(&record.page, "live entries in a subtree", record.live, found.1);
            entries = entries.saturating_add(found.0);
            live = live.saturating_add(found.1);
        }
        Ok((entries, live))
    }

    fn space(&mut self, meta: &Meta) -> Result<(), StorageError> {
        let read = StoredMap::read(&self.store.pager, meta);
        let Some(mut map) = self.report.note(read)? else { return Ok(()) };
        for at in map.chunks.iter().flatten().chain(&meta.space) {
            self.reach(at);
        }
        self.report.pages = self.seen.count();
        // A store that has never had a tree has no map, and only its metas in use.
        for page in (0..META_PAGES).filter(|_| meta.space.is_none()) {
            map.used.set(page, true);
        }
        for page in 0..self.seen.top().max(map.used.top()) {
            match (self.seen.get(page), map.used.get(page)) {
                (true, false) => {
                    let line = format!("page {page} is reached but free");
                    self.report.problem(page * PAGE_BYTES as u64, line);
                }
                (false, true) => {
                    let line = format!("page {page} is in use but never reached");
                    self.report.problem(page * PAGE_BYTES as u64, line);
                }
                _ => {}
            }
        }
        if map.used.count() != meta.used {
            let line = format!("{} pages in use where {} are noted", map.used.count(), meta.used);
            self.report.problem(0, line);
        }
        Ok(())
    }
}
