//! Raft snapshots, pulled: the state of one group as a stream of chunks.
//!
//! ```text
//!  leader                                        follower
//!  MakeSnapshot ─► Applier::pin ─► SnapshotServer
//!  SnapshotReady{meta} ── MsgSnapshot{meta} ──►  InstallSnapshot{meta}
//!                   ◄── SnapshotFetch{cursor} ──  Installer: bulk-loads aside
//!  SnapshotServer::serve ── SnapshotChunk ──►     ... until `last`
//!                                                 Applier::install   (in memory)
//!                                                 checkpoint         (store durable)
//!                                                 SnapshotDurable ─► raft ─► LogStart in the WAL
//!                   ◄── AppendReply{index} ─────  once that is durable
//! ```
//!
//! Why this order. The store must have the state before the log gives up its own: were `LogStart`
//! first, a crash would leave a log that begins behind what the store holds, a gap nobody can
//! fill. A crash
//! - while fetching: the half-loaded trees belong to no checkpoint; their pages are free again.
//! - after `install`, before the checkpoint: the same; the old state and the old log are whole.
//! - after the checkpoint, before `LogStart`: the store is ahead of its log. Its meta says so
//!   (`GroupMeta::installed`), and boot writes the `LogStart` that was missing.
//! - after `LogStart`: done; if the reply was lost, the leader probes and finds the follower.
//!
//! The follower decides the pace: one chunk is on its way at a time, so that a slow one costs the
//! leader a pinned view and no memory. A view is let go when nobody has fetched from it for
//! `PIN_IDLE_MS`, or at `PIN_AGE_MS` in any case; a fetch that comes later is told so and the
//! follower refuses the snapshot, whereupon its leader starts over. Chunks carry a checksum made
//! where they were read; a view has an id unique to the process, so chunks of two never mix.

use super::wire::{NodeMessage, SnapshotChunk, SnapshotFetch, SnapshotItem};
use crate::btree::{BulkLoader, Store, Tree, TreeKind, View};
use crate::codec::checksum::crc32;
use crate::codec::varint::{put_bytes, put_varint};
use crate::mvcc::TREE_KINDS;
use crate::types::message::SnapshotMeta;
use crate::types::{GroupId, StorageError};
use bytes::{Bytes, BytesMut};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

/// A view nobody fetches from is let go after this long: longer than a follower waits for a
/// chunk, retries included.
pub const PIN_IDLE_MS: u64 = 60_000;
/// No view is pinned for longer: pages freed since then cannot be reused.
pub const PIN_AGE_MS: u64 = 3_600_000;
/// Views pinned per group: a few followers may need one at once; the oldest gives way.
pub const PINS_PER_GROUP_MAX: usize = 4;

/// The state of a group at one applied index.
#[derive(Clone, Debug)]
pub struct Pin {
    pub group: GroupId,
    pub id: u64,
    pub meta: SnapshotMeta,
    /// Ascending by kind.
    pub trees: Vec<(TreeKind, View)>,
}

#[derive(Debug)]
struct Offered {
    pin: Pin,
    since_ms: u64,
    used_ms: u64,
}

/// Serves chunks of pinned states. Reads the store, so it runs beside the core, not in it.
#[derive(Debug)]
pub struct SnapshotServer {
    offered: BTreeMap<u64, Offered>,
    now_ms: u64,
    chunk_bytes: usize,
}

impl SnapshotServer {
    pub fn new(chunk_bytes: usize) -> SnapshotServer {
        SnapshotServer { offered: BTreeMap::new(), now_ms: 0, chunk_bytes }
    }

    pub fn offer(&mut self, pin: Pin) {
        let of_group: Vec<(u64, u64)> = self
            .offered
            .iter()
            .filter(|(_, offered)| offered.pin.group == pin.group)
            .map(|(&id, offered)| (offered.used_ms, id))
            .collect();
        if of_group.len() >= PINS_PER_GROUP_MAX
            && let Some((_, id)) = of_group.iter().min()
        {
            self.offered.remove(id);
        }
        let now = self.now_ms;
        self.offered.insert(pin.id, Offered { pin, since_ms: now, used_ms: now });
    }

    /// Lets go of views past their time.
    pub fn tick(&mut self, now_ms: u64) {
        self.now_ms = self.now_ms.max(now_ms);
        let now = self.now_ms;
        self.offered.retain(|_, offered| {
            now - offered.used_ms < PIN_IDLE_MS && now - offered.since_ms < PIN_AGE_MS
        });
    }

    pub fn pinned(&self) -> usize {
        self.offered.len()
    }

    /// Answers one fetch.
    pub fn serve(&mut self, fetch: &SnapshotFetch) -> Result<NodeMessage, StorageError> {
        let &SnapshotFetch { group, id, meta_index, .. } = fetch;
        let now = self.now_ms;
        let found = self.offered.values_mut().rev().find(|offered| {
            let pin = &offered.pin;
            pin.group == group && pin.meta.index == meta_index && (id == 0 || pin.id == id)
        });
        let Some(offered) = found else {
            return Ok(NodeMessage::SnapshotGone { group, id, meta_index });
        };
        offered.used_ms = now;
        let (items, last) = read_chunk(&offered.pin, fetch.cursor.as_ref(), self.chunk_bytes)?;
        Ok(NodeMessage::SnapshotChunk(SnapshotChunk {
            group,
            id: offered.pin.id,
            meta_index,
            after: fetch.cursor.clone(),
            crc: checksum(&items),
            items,
            last,
        }))
    }
}

/// The items after `cursor`, about `bytes_max` of them and at least one, and whether they are
/// the last.
pub fn read_chunk(
    pin: &Pin,
    cursor: Option<&(u8, Bytes)>,
    bytes_max: usize,
) -> Result<(Vec<SnapshotItem>, bool), StorageError> {
    let mut items = Vec::new();
    let mut bytes = 0;
    for (kind, view) in &pin.trees {
        if cursor.is_some_and(|(at, _)| *at > kind.0) {
            continue;
        }
        let mut walk = view.cursor();
        match cursor {
            Some((at, key)) if *at == kind.0 => walk.seek(key)?,
            _ => walk.seek_first()?,
        }
        while let Some((key, value, live)) = walk.next()? {
            if cursor.is_some_and(|(at, after)| *at == kind.0 && *after == key) {
                continue;
            }
            if bytes >= bytes_max {
                return Ok((items, false));
            }
            let item = SnapshotItem { kind: kind.0, key, value, live };
            bytes += item.cost();
            items.push(item);
        }
    }
    Ok((items, true))
}

/// Over the items as the wire spells them, so that what arrives is what was read.
pub fn checksum(items: &[SnapshotItem]) -> u32 {
    let mut out = BytesMut::new();
    let mut crc = 0;
    for item in items {
        out.clear();
        put_varint(&mut out, u64::from(crc));
        put_varint(&mut out, u64::from(item.kind) << 1 | u64::from(item.live));
        put_bytes(&mut out, &item.key);
        put_bytes(&mut out, &item.value);
        crc = crc32(&out);
    }
    crc
}

/// What the core wants the installer to do, in this order.
#[derive(Debug)]
pub enum InstallStep {
    Begin {
        group: GroupId,
        meta: SnapshotMeta,
    },
    Chunk(SnapshotChunk),
    /// Every chunk is in: hand the trees to the applier.
    Finish {
        group: GroupId,
    },
    Abort {
        group: GroupId,
    },
}

/// What became of a chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChunkInstalled {
    pub group: GroupId,
    pub id: u64,
    /// False when the chunk was damaged or out of order: the fetch is over.
    pub ok: bool,
    /// The newest item taken, where the next fetch goes on.
    pub cursor: Option<(u8, Bytes)>,
    pub last: bool,
}

/// A whole fetched state, for `Applier::install`.
#[derive(Debug)]
pub struct InstallReady {
    pub group: GroupId,
    pub meta: SnapshotMeta,
    pub trees: BTreeMap<TreeKind, Tree>,
}

/// What a step came to.
#[derive(Debug)]
pub enum InstallOutcome {
    Nothing,
    /// `Action::ChunkInstalled`.
    Taken(ChunkInstalled),
    /// `Applier::install`, then `Action::Applied` or `Action::SnapshotRefused`.
    Ready(Box<InstallReady>),
}

#[derive(Debug)]
struct Loading {
    meta: SnapshotMeta,
    trees: BTreeMap<TreeKind, Tree>,
    open: Option<(TreeKind, BulkLoader)>,
    cursor: Option<(u8, Bytes)>,
}

/// Loads fetched states aside, into trees that no checkpoint knows yet.
#[derive(Debug)]
pub struct Installer {
    store: Store,
    loading: BTreeMap<GroupId, Loading>,
}

impl Installer {
    pub fn new(store: Store) -> Installer {
        Installer { store, loading: BTreeMap::new() }
    }

    pub fn step(&mut self, step: InstallStep) -> Result<InstallOutcome, StorageError> {
        match step {
            InstallStep::Begin { group, meta } => {
                let loading = Loading { meta, trees: BTreeMap::new(), open: None, cursor: None };
                self.loading.insert(group, loading);
                Ok(InstallOutcome::Nothing)
            }
            InstallStep::Abort { group } => {
                self.loading.remove(&group);
                Ok(InstallOutcome::Nothing)
            }
            InstallStep::Chunk(chunk) => self.chunk(chunk).map(InstallOutcome::Taken),
            InstallStep::Finish { group } => self.finish(group),
        }
    }

    fn chunk(&mut self, chunk: SnapshotChunk) -> Result<ChunkInstalled, StorageError> {
        let (group, id, last) = (chunk.group, chunk.id, chunk.last);
        let refused = ChunkInstalled { group, id, ok: false, cursor: None, last };
        let Some(loading) = self.loading.get_mut(&group) else {
            return Ok(refused);
        };
        let in_place = chunk.meta_index == loading.meta.index && chunk.after == loading.cursor;
        if !in_place || checksum(&chunk.items) != chunk.crc || !is_ascending(&chunk) {
            return Ok(refused);
        }
        for item in chunk.items {
            loading.push(&self.store, group, item)?;
        }
        let cursor = loading.cursor.clone();
        Ok(ChunkInstalled { group, id, ok: true, cursor, last })
    }

    fn finish(&mut self, group: GroupId) -> Result<InstallOutcome, StorageError> {
        let Some(mut loading) = self.loading.remove(&group) else {
            return Ok(InstallOutcome::Nothing);
        };
        loading.close()?;
        // A tree without items sent none: it is empty, not missing.
        let kinds = TREE_KINDS
            .into_iter()
            .chain((group == GroupId::ROOT).then_some(TreeKind(super::root::ROOT_TREE)));
        for kind in kinds {
            if let Entry::Vacant(missing) = loading.trees.entry(kind) {
                missing.insert(self.store.bulk_loader(group, kind).finish()?);
            }
        }
        let Loading { meta, trees, .. } = loading;
        Ok(InstallOutcome::Ready(Box::new(InstallReady { group, meta, trees })))
    }
}

impl Loading {
    fn push(
        &mut self,
        store: &Store,
        group: GroupId,
        item: SnapshotItem,
    ) -> Result<(), StorageError> {
        let kind = TreeKind(item.kind);
        if self.open.as_ref().is_none_or(|(open, _)| *open != kind) {
            self.close()?;
            self.open = Some((kind, store.bulk_loader(group, kind)));
        }
        let (_, loader) = self.open.as_mut().expect("it was opened above");
        loader.push(&item.key, &item.value, item.live)?;
        self.cursor = Some((item.kind, item.key));
        Ok(())
    }

    fn close(&mut self) -> Result<(), StorageError> {
        if let Some((kind, loader)) = self.open.take() {
            self.trees.insert(kind, loader.finish()?);
        }
        Ok(())
    }
}

/// Whether the items go on after the chunk's cursor in strictly ascending order.
fn is_ascending(chunk: &SnapshotChunk) -> bool {
    let mut before = chunk.after.as_ref().map(|(kind, key)| (*kind, key));
    chunk.items.iter().all(|item| {
        let this = (item.kind, &item.key);
        let ascending = before.is_none_or(|before| before < this);
        before = Some(this);
        ascending
    })
}
