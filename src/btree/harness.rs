//! Opening a store made of arbitrary bytes, for fuzzing and for the replay of its corpus.
//!
//! An input is a flag byte and then the file's pages one after the other: two lengths (u16) and
//! the bytes that begin and end the page, zeros between them. With the flag `RESEAL` the
//! checksums, page numbers and checkpoints along every reference are made right first:
//! otherwise no mutation would get past them, and nothing behind them would ever be tested.

use super::catalogue;
use super::meta::{META_PAGES, Meta};
use super::page::{ChildRecord, LEVEL_MAX, PAGE_BYTES, PageRef, Slotted};
use super::{Cursor, Store, StoreOptions, View};
use crate::io::mem_disk::{CrashMode, CrashPlan};
use crate::io::{Disk, File, MemDisk, OpenMode};
use crate::types::StorageError;
use bytes::Bytes;
use std::path::Path;
use std::sync::Arc;

const RESEAL: u8 = 1;
/// Pages of one input's file.
const PAGES_MAX: usize = 64;
/// Entries one cursor yields: references to the same page from several make a small file look
/// endless.
const WALK_MAX: usize = 5_000;
/// References followed while resealing, for the same reason.
const RESEAL_MAX: usize = 1_000;
const OPTIONS: StoreOptions = StoreOptions { cache_bytes: 16 << 10 };

/// An input that stands for this file, the opposite of what the harness does.
pub fn fuzz_input(reseal: bool, file: &[u8]) -> Vec<u8> {
    let mut out = vec![if reseal { RESEAL } else { 0 }];
    for page in file.chunks(PAGE_BYTES).take(PAGES_MAX) {
        // The longest run of zeros is left out.
        let (mut best, mut run) = (page.len()..page.len(), 0);
        for (i, byte) in page.iter().enumerate() {
            run = if *byte == 0 { run + 1 } else { 0 };
            if run > best.len() {
                best = i + 1 - run..i + 1;
            }
        }
        let (head, tail) = (&page[..best.start], &page[best.end..]);
        out.extend((head.len() as u16).to_le_bytes());
        out.extend((tail.len() as u16).to_le_bytes());
        out.extend_from_slice(head);
        out.extend_from_slice(tail);
    }
    out
}

fn unpack(data: &[u8]) -> Vec<u8> {
    let mut file = Vec::new();
    let mut rest = data.get(1..).unwrap_or_default();
    while let [h0, h1, t0, t1, bytes @ ..] = rest
        && file.len() < PAGES_MAX * PAGE_BYTES
    {
        let head = usize::from(u16::from_le_bytes([*h0, *h1])).min(PAGE_BYTES).min(bytes.len());
        let (head, bytes) = bytes.split_at(head);
        let tail = usize::from(u16::from_le_bytes([*t0, *t1]));
        let (tail, bytes) = bytes.split_at(tail.min(PAGE_BYTES - head.len()).min(bytes.len()));
        let mut page = vec![0; PAGE_BYTES];
        page[..head.len()].copy_from_slice(head);
        page[PAGE_BYTES - tail.len()..].copy_from_slice(tail);
        file.extend(page);
        rest = bytes;
    }
    file
}

/// What a reference leads to.
#[derive(Clone, Copy)]
enum Target {
    Node { level: u8, catalogue: bool },
    Index { chunks: u64 },
    Chunk,
}

fn reseal(file: &mut [u8]) {
    let mut left = RESEAL_MAX;
    for page in 0..META_PAGES as usize {
        let at = page * PAGE_BYTES;
        let Some(bytes) = file.get_mut(at..at + PAGE_BYTES) else { return };
        Meta::reseal(bytes);
        let Ok(mut meta) = Meta::decode(bytes, page as u64) else { continue };
        let target = Target::Node { level: meta.catalogue_level, catalogue: true };
        meta.catalogue = meta.catalogue.map(|at| reseal_at(file, at, target, &mut left));
        let target = Target::Index { chunks: meta.chunks };
        meta.space = meta.space.map(|at| reseal_at(file, at, target, &mut left));
        file[at..at + PAGE_BYTES].copy_from_slice(&meta.encode());
    }
}

/// Makes everything below a reference right, then the reference.
fn reseal_at(file: &mut [u8], at: PageRef, target: Target, left: &mut usize) -> PageRef {
    let pages = (file.len() / PAGE_BYTES) as u64;
    let end = at.page.saturating_add(u64::from(at.pages));
    if *left == 0 || at.page < META_PAGES || at.pages == 0 || end > pages {
        return at;
    }
    *left -= 1;
    let range = at.page as usize * PAGE_BYTES..end as usize * PAGE_BYTES;
    let extent = &mut file[range.clone()];
    extent[8..16].copy_from_slice(&at.page.to_le_bytes());
    extent[16..24].copy_from_slice(&at.checkpoint.to_le_bytes());
    let mut references: Vec<(usize, PageRef, Target)> = Vec::new();
    match target {
        Target::Node { level, catalogue } => {
            let copy = Bytes::copy_from_slice(extent);
            if let Ok(body) = Slotted::from_page(copy, level, at.page, at.checkpoint) {
                for i in 0..body.len() {
                    let below = if level > 0 {
                        Some((body.record(i).page, Target::Node { level: level - 1, catalogue }))
                    } else {
                        catalogue::reference(body.key(i), body.value(i))
                            .filter(|_| catalogue)
                            .map(|(page, level)| (page, Target::Node { level, catalogue: false }))
                    };
                    let at = body.value_offset(i);
                    references.extend(below.map(|(page, target)| (at, page, target)));
                }
            }
        }
        Target::Index { chunks } => {
            let slots = extent[super::page::HEADER_BYTES..].chunks_exact(PageRef::BYTES);
            for (i, slot) in slots.enumerate().take(chunks.min(1000) as usize) {
                let offset = super::page::HEADER_BYTES + i * PageRef::BYTES;
                references.push((offset, PageRef::decode(slot), Target::Chunk));
            }
        }
        Target::Chunk => {}
    }
    for (offset, page, target) in references {
        let page = reseal_at(file, page, target, left);
        let slot = range.start + offset;
        page.encode(&mut file[slot..slot + PageRef::BYTES]);
    }
    PageRef { crc: crc32fast::hash(&file[range]), ..at }
}

/// Opens the file that `data` stands for; whether it is a store without a fault. Panics when the
/// store breaks a promise: what opens can be read without a panic whatever is in it, and what
/// `verify` finds clean takes changes and a checkpoint, and opens with them.
pub fn fuzz_open(data: &[u8]) -> bool {
    let mut bytes = unpack(data);
    if data.first().is_some_and(|flags| flags & RESEAL != 0) {
        reseal(&mut bytes);
    }
    let path = Path::new("/db");
    let disk = MemDisk::new(1);
    let file: Arc<dyn File> = disk.open(path, OpenMode::CreateNew).expect("a new name");
    file.write_at(&[&bytes], 0).and_then(|()| file.sync_data()).expect("room");
    disk.sync_dir(Path::new("/")).expect("a healthy disk");
    drop(file);
    let open = || Store::open(Arc::new(disk.clone()), path, OPTIONS);
    let store = match open() {
        Ok(store) => store,
        Err(error) => return damage(&error),
    };
    let report = store.verify().expect("a healthy disk");
    let mut trees: Vec<_> =
        store.trees().into_iter().map(|(group, kind)| store.tree(group, kind)).collect();
    for tree in &trees {
        if let Err(error) = walk(&tree.view()) {
            assert!(!report.is_clean(), "verify has missed that {error}");
            damage(&error);
        }
    }
    if !report.is_clean() {
        return false;
    }
    let metas = store.group_metas();
    for tree in &mut trees {
        let mut cursor = tree.view().cursor();
        cursor.seek_first().expect("verified");
        for at in 0..40 {
            let Some((key, _, live)) = cursor.next().expect("verified") else { break };
            match at % 3 {
                0 => tree.put(&key, Bytes::from_static(b"changed"), !live),
                1 => tree.remove(&key),
                _ => tree.get(&key),
            }
            .expect("verified");
        }
        tree.put(b"a new key", Bytes::from(vec![5; 100]), true).expect("verified");
    }
    for _ in 0..3 {
        let views = trees.iter().map(|tree| (tree.group(), tree.kind(), tree.view())).collect();
        match store.begin_checkpoint(views, metas.clone()).run() {
            Ok(done) => trees.iter_mut().for_each(|tree| tree.adopt(&done)),
            // The map of the older checkpoint, which `verify` does not read, may be damaged.
            Err(error) => return damage(&error),
        }
        let report = store.verify().expect("a healthy disk");
        assert!(report.is_clean(), "a checkpoint has damaged a clean store: {report:?}");
    }
    let lens: Vec<u64> = trees.iter().map(|tree| tree.len()).collect();
    drop((trees, store));
    disk.crash_with(CrashPlan { mode: CrashMode::None, torn: false });
    let store = open().expect("a store after a checkpoint");
    let found: Vec<u64> =
        store.trees().into_iter().map(|(group, kind)| store.tree(group, kind).len()).collect();
    assert_eq!((found, store.group_metas()), (lens, metas), "a checkpoint was not durable");
    true
}

/// Only damage may come of a damaged file.
fn damage(error: &StorageError) -> bool {
    assert!(matches!(error, StorageError::Corrupt { .. }), "not damage: {error}");
    false
}

/// Reads a view in every way there is.
fn walk(view: &View) -> Result<(), StorageError> {
    let mut cursor: Cursor = view.cursor();
    cursor.seek_first()?;
    let mut middle = Bytes::new();
    for at in 0..WALK_MAX {
        let Some((key, _, _)) = cursor.next()? else { break };
        if at % 16 == 0 {
            view.get(&key)?;
            middle = key;
        }
    }
    cursor.seek_last()?;
    for _ in 0..WALK_MAX {
        if cursor.prev()?.is_none() {
            break;
        }
    }
    cursor.seek(&middle)?;
    cursor.next()?;
    use std::ops::Bound;
    view.count_live(Bound::Excluded(&middle), Bound::Unbounded)?;
    view.count_live(Bound::Unbounded, Bound::Included(&middle))?;
    Ok(())
}

// Levels are counted down by one per reference, so nothing here recurses deeper than this.
const _: () = assert!(LEVEL_MAX < 64 && ChildRecord::BYTES >= PageRef::BYTES);
