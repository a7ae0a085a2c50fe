//! The store: one file, its newest checkpoint, and the handles to its trees.

use super::allocator::Space;
use super::bulk::BulkLoader;
use super::cache::Cache;
use super::catalogue::{self, Catalogue};
use super::checkpoint::CheckpointJob;
use super::epoch::{Epochs, Pin};
use super::meta::{META_PAGES, Meta, StoreIdentity};
use super::node::{Child, Counters, Root, Shape};
use super::page::PAGE_BYTES;
use super::pager::Pager;
use super::tree::{Tree, TreeKind, View};
use super::verify::{self, VerifyReport};
use crate::io::{Disk, File, OpenMode};
use crate::types::StorageError;
use crate::types::{GroupId, limits};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

#[derive(Clone, Copy, Debug)]
pub struct StoreOptions {
    /// Memory for nodes, dirty ones included.
    pub cache_bytes: usize,
}

impl Default for StoreOptions {
    fn default() -> StoreOptions {
        StoreOptions { cache_bytes: limits::CACHE_BYTES_DEFAULT }
    }
}

/// What a store takes, in bytes. Reading it costs a few atomic loads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    /// Length of the file.
    pub file_bytes: u64,
    /// What the newest checkpoint uses of it.
    pub in_use_bytes: u64,
    /// Nodes in memory that no checkpoint has written, those that only views hold included.
    pub dirty_bytes: u64,
    /// All nodes in memory: the dirty ones and the cache of clean ones.
    pub cache_bytes: u64,
}

/// A forest of trees in one file. A handle: clones share the store.
#[derive(Clone, Debug)]
pub struct Store(pub(super) Arc<StoreInner>);

#[derive(Debug)]
pub(super) struct StoreInner {
    pub disk: Arc<dyn Disk>,
    pub pager: Pager,
    pub space: Mutex<Space>,
    pub epochs: Epochs,
    pub state: Mutex<State>,
    /// Bytes of pages that the newest checkpoint uses.
    pub in_use: AtomicU64,
    /// A checkpoint job lives.
    pub busy: AtomicBool,
    /// A checkpoint failed or was given up: nodes may claim places that hold nothing.
    pub poisoned: AtomicBool,
}

/// What is durable.
#[derive(Debug)]
pub(super) struct State {
    pub meta: Meta,
    pub catalogue: Catalogue,
    /// The group metas of the other valid checkpoint.
    pub older_metas: BTreeMap<GroupId, Bytes>,
}

impl StoreInner {
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder panics")
    }
    pub fn space(&self) -> MutexGuard<'_, Space> {
        self.space.lock().expect("no holder panics")
    }
    /// The newest meta page could not be synced. Whoever opens the store without a power failure
    /// in between finds that page in the system's cache, marked clean, and nothing would ever
    /// write it: this note makes `open` do it. It need not be durable, since after a power
    /// failure the file is what it seems.
    pub fn note_doubt(&self) {
        note_doubt(&self.disk, self.pager.file.path());
    }
    /// The file is to be `pages` long: references up to there are plausible.
    pub fn note_length(&self, pages: u64) {
        self.pager.file_pages.store(pages, Ordering::Release);
    }
}

impl Store {
    /// Makes an empty store at `path`, which must not exist. Either the whole store exists
    /// afterwards, whatever happens, or none of it.
    pub fn create(
        disk: Arc<dyn Disk>,
        path: &Path,
        identity: StoreIdentity,
        options: StoreOptions,
    ) -> Result<Store, StorageError> {
        Store::create_shaped(disk, path, identity, options, Shape::DEFAULT)
    }

    pub(super) fn create_shaped(
        disk: Arc<dyn Disk>,
        path: &Path,
        identity: StoreIdentity,
        options: StoreOptions,
        shape: Shape,
    ) -> Result<Store, StorageError> {
        if disk.exists(path)? {
            let source = std::io::Error::from(std::io::ErrorKind::AlreadyExists);
            return Err(StorageError::io("create", path, source));
        }
        let mut temporary = PathBuf::from(path).into_os_string();
        temporary.push(".tmp");
        let temporary = PathBuf::from(temporary);
        if disk.exists(&temporary)? {
            disk.unlink(&temporary)?;
        }
        let file = disk.open(&temporary, OpenMode::CreateNew)?;
        let first = Meta::empty(identity, 0).encode();
        let second = Meta::empty(identity, 1).encode();
        file.write_at(&[&first, &second], 0)?;
        file.sync_data()?;
        drop(file);
        disk.rename(&temporary, path)?;
        disk.sync_dir(path.parent().unwrap_or(Path::new(".")))?;
        Store::open_shaped(disk, path, options, shape)
    }

    /// Opens the store as of its newest valid checkpoint. Reads the metas and the catalogue, and
    /// nothing that grows with the data.
    pub fn open(
        disk: Arc<dyn Disk>,
        path: &Path,
        options: StoreOptions,
    ) -> Result<Store, StorageError> {
        Store::open_shaped(disk, path, options, Shape::DEFAULT)
    }

    /// Opens somebody else's store, or a copy of one, to read it: nothing of it is changed, and
    /// whoever tries gets an error of the disk.
    pub fn open_to_read(
        disk: Arc<dyn Disk>,
        path: &Path,
        options: StoreOptions,
    ) -> Result<Store, StorageError> {
        let file = disk.open(path, OpenMode::Read)?;
        Store::open_file(disk, file, options, Shape::DEFAULT)
    }

    pub(super) fn open_shaped(
        disk: Arc<dyn Disk>,
        path: &Path,
        options: StoreOptions,
        shape: Shape,
    ) -> Result<Store, StorageError> {
        let file = disk.open(path, OpenMode::ReadWrite)?;
        // A process that was killed may have left a checkpoint that only the system's cache has.
        // Whoever opens it builds on it at once (a log that starts behind it, for one).
        let doubtful = disk.exists(&doubt_path(path))?;
        file.sync_data().inspect_err(|_| note_doubt(&disk, path))?;
        let store = Store::open_file(disk, file, options, shape)?;
        if doubtful {
            store.settle_doubt()?;
        }
        Ok(store)
    }

    /// Writes the newest meta page once more. All it refers to was synced before it was first
    /// written, and nobody was told of it, so the state before it would do as well.
    fn settle_doubt(&self) -> Result<(), StorageError> {
        let (meta, pager, disk) = (self.0.state().meta.clone(), self.pager(), &self.0.disk);
        pager.file.write_at(&[&meta.encode()], meta.page() * PAGE_BYTES as u64)?;
        pager.file.sync_data()?;
        let note = doubt_path(self.path());
        disk.unlink(&note)?;
        disk.sync_dir(note.parent().unwrap_or(Path::new(".")))
    }

    fn open_file(
        disk: Arc<dyn Disk>,
        file: Arc<dyn File>,
        options: StoreOptions,
        shape: Shape,
    ) -> Result<Store, StorageError> {
        let pages = file.len()? / PAGE_BYTES as u64;
        let (newest, older) = read_metas(&*file, pages)?;
        let pager = Pager {
            file,
            cache: Cache::new(),
            counters: Arc::new(Counters::default()),
            shape,
            cache_bytes: options.cache_bytes,
            file_pages: AtomicU64::new(pages),
        };
        let catalogue = catalogue::read(&pager, &newest)?;
        // A damaged older checkpoint is no reason to refuse the newest: it counts as absent.
        let older = older.and_then(|older| {
            let read = catalogue::read(&pager, &older).ok()?;
            Some((older, read.metas))
        });
        let (older, older_metas) = match older {
            Some((older, metas)) => (Some(older), metas),
            None => (None, catalogue.metas.clone()),
        };
        let state = State { meta: newest.clone(), catalogue, older_metas };
        Ok(Store(Arc::new(StoreInner {
            disk,
            pager,
            epochs: Epochs::new(newest.checkpoint),
            in_use: AtomicU64::new(newest.used.saturating_mul(PAGE_BYTES as u64)),
            space: Mutex::new(Space::unread(newest, older, pages)),
            state: Mutex::new(state),
            busy: AtomicBool::new(false),
            poisoned: AtomicBool::new(false),
        })))
    }

    /// An empty store that outlives nothing, for tests of the layers above.
    pub fn in_memory() -> Store {
        let disk = Arc::new(crate::io::MemDisk::new(0));
        let identity = StoreIdentity::default();
        Store::create(disk, Path::new("/store"), identity, StoreOptions::default())
            .expect("a disk in memory without faults")
    }

    pub(super) fn pager(&self) -> &Pager {
        &self.0.pager
    }
    pub(super) fn pin(&self) -> Arc<Pin> {
        self.0.epochs.current()
    }

    pub fn path(&self) -> &Path {
        self.0.pager.file.path()
    }
    pub fn identity(&self) -> StoreIdentity {
        self.0.state().meta.identity
    }
    /// Number of the newest durable checkpoint.
    pub fn checkpoint(&self) -> u64 {
        self.0.state().meta.checkpoint
    }
    /// What each group noted with the newest checkpoint.
    pub fn group_metas(&self) -> BTreeMap<GroupId, Bytes> {
        self.0.state().catalogue.metas.clone()
    }
    /// What each group noted with the older of the two valid checkpoints: if the newest meta page
    /// is lost, this is where replay begins. With one valid checkpoint, that one's.
    pub fn older_group_metas(&self) -> BTreeMap<GroupId, Bytes> {
        self.0.state().older_metas.clone()
    }
    /// The trees of the newest checkpoint. Empty trees are in none.
    pub fn trees(&self) -> Vec<(GroupId, TreeKind)> {
        self.0.state().catalogue.trees.keys().copied().collect()
    }

    /// The tree as of the newest checkpoint, empty when that has none. The handle is the tree's
    /// one writer: ask once, not for a tree that lives already, and not for a stored tree while
    /// a checkpoint is running (which may be about to free its pages).
    pub fn tree(&self, group: GroupId, kind: TreeKind) -> Tree {
        let root = self.0.state().catalogue.trees.get(&(group, kind)).cloned();
        assert!(
            root.is_none() || !self.0.busy.load(Ordering::Acquire),
            "a stored tree is opened while a checkpoint runs"
        );
        Tree::new(self.clone(), group, kind, root.unwrap_or_default(), None)
    }

    /// A loader that replaces the tree: its result goes where `tree` would have gone.
    pub fn bulk_loader(&self, group: GroupId, kind: TreeKind) -> BulkLoader {
        BulkLoader::new(self.clone(), group, kind)
    }

    /// Begins to make `trees` durable: all that are to exist, each as a view of its writer's
    /// handle, and what each group wants to note. What is not listed is gone afterwards, so its
    /// handles must not be used any more. One job at a time.
    ///
    /// Take the views and begin in one go: views made in between are treated as older ones.
    pub fn begin_checkpoint(
        &self,
        trees: Vec<(GroupId, TreeKind, View)>,
        metas: BTreeMap<GroupId, Bytes>,
    ) -> CheckpointJob {
        CheckpointJob::new(self.clone(), trees, metas)
    }

    pub fn sizes(&self) -> Sizes {
        let pager = &self.0.pager;
        let dirty_bytes = pager.counters.dirty_bytes.load(Ordering::Relaxed);
        Sizes {
            file_bytes: pager.file_pages.load(Ordering::Relaxed) * PAGE_BYTES as u64,
            in_use_bytes: self.0.in_use.load(Ordering::Relaxed),
            dirty_bytes,
            cache_bytes: dirty_bytes + pager.cache.bytes(),
        }
    }

    /// Reads every page of the newest checkpoint and checks it against all others. The report
    /// lists what is wrong; an error is one of the disk, not of its contents.
    pub fn verify(&self) -> Result<VerifyReport, StorageError> {
        verify::verify(&self.0)
    }
}

/// Where `StoreInner::note_doubt` leaves its note: an empty file.
fn doubt_path(path: &Path) -> PathBuf {
    let mut note = path.as_os_str().to_owned();
    note.push(".unsynced");
    PathBuf::from(note)
}

fn note_doubt(disk: &Arc<dyn Disk>, path: &Path) {
    // The member stops in any case. A disk that refuses this as well is one on which nothing can
    // be opened for writing either.
    let _ = disk.open(&doubt_path(path), OpenMode::CreateNew);
}

/// The valid metas, the newest first.
fn read_metas(file: &dyn File, pages: u64) -> Result<(Meta, Option<Meta>), StorageError> {
    let mut valid: Vec<Meta> = Vec::new();
    let mut wrong = Vec::new();
    for page in 0..META_PAGES {
        let mut bytes = vec![0; PAGE_BYTES];
        let read = file.read_at(&mut bytes, page * PAGE_BYTES as u64)?;
        match Meta::decode(&bytes[..read], page) {
            Ok(meta) => valid.push(meta),
            Err(what) => wrong.push(format!("page {page}: {what}")),
        }
    }
    valid.sort_by_key(|meta| std::cmp::Reverse(meta.checkpoint));
    let mut valid = valid.into_iter();
    let Some(newest) = valid.next() else {
        let found = wrong.join("; ");
        return Err(StorageError::corrupt(file.path(), 0, "a valid meta page", found));
    };
    if newest.high > pages {
        let expected = format!("{} pages, as checkpoint {} says", newest.high, newest.checkpoint);
        let end = pages * PAGE_BYTES as u64;
        return Err(StorageError::corrupt(file.path(), end, expected, "the end of the file"));
    }
    let older = valid.next().filter(|older| {
        older.identity == newest.identity
            && older.checkpoint + 1 == newest.checkpoint
            && older.high <= pages
    });
    Ok((newest, older))
}

/// A root as the catalogue stores it.
pub(super) fn rooted(page: super::page::PageRef, level: u8, entries: u64, live: u64) -> Root {
    Root { child: Some(Child::Page(page)), level, entries, live }
}
