//! A new data directory, under a new cluster id, from the state of another cluster.
//!
//! Every key, revision, lease and alarm comes over as it is, and so does what compaction has left
//! undone; revisions go on from where the state ends. The membership does not: the members named
//! in the configuration take the place of all others, removed ids are forgotten, and the log
//! begins anew at the birth point of every group. Each member of the new cluster is restored from
//! the same state with the same list of members: its state is then what all their logs begin with.
//!
//! Members of the old cluster cannot join by mistake: ids follow from the URLs and the token, and
//! a handshake names the cluster (`transport::handshake`).
//!
//! ## Crash safety
//!
//! ```text
//! 1  member/snap/db.restoring    the store, empty; from here on the directory counts as unfinished
//! 2  its trees, one checkpoint
//! 3  member/wal/*                the log with every group's start, synced
//! 4  db.restoring is renamed to db, the directory synced: the restore has happened
//! ```
//!
//! Before 1 there is nothing. Between 1 and 4 `boot` refuses the directory
//! (`BootError::RestoreUnfinished`): were it founded instead, an empty member would come up under
//! the new cluster's id beside restored ones, and no log could tell them apart. A second restore
//! clears the leftovers and begins again. After 4 the directory is whole.
//!
//! ## What is refused
//!
//! A directory that holds a member; a source that a running member has open; a source any page or
//! frame of which is damaged, a copy that was torn by the member that went on writing among them.
//! A copy whose newest meta page is torn counts as of the checkpoint before, if that is whole.
//!
//! Further sources (files of other formats) implement `RestoreSource`.

use super::boot::{restoring_path, run_checkpoint};
use super::membership::cluster_id;
use super::portable::{SnapshotReader, StreamError};
use crate::btree::{Store, StoreIdentity, StoreOptions, Tree, TreeKind};
use crate::io::{Disk, DiskLock};
use crate::multiraft::meta::GroupMeta;
use crate::multiraft::root::{ROOT_TREE, RootState};
use crate::multiraft::snapshots::{Pin, read_chunk};
use crate::multiraft::turn::{BOOT_INDEX, BOOT_TERM, boot_hard_state};
use crate::multiraft::wire::SnapshotItem;
use crate::mvcc::{Keyspace, TREE_KINDS};
use crate::types::message::SnapshotMeta;
use crate::types::{
    ClusterId, ConfState, GroupId, Incarnation, Member as MemberRow, NodeId, StorageError, limits,
};
use crate::wal::{Batch, Record, Wal, WalIdentity, WalOptions};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What the restored member is to be.
#[derive(Clone, Debug)]
pub struct RestoreConfig {
    pub data_dir: PathBuf,
    pub wal_dir: Option<PathBuf>,
    /// All members of the new cluster, with ids from `membership::member_id`. The same for each.
    pub members: Vec<MemberRow>,
    /// Which of them this directory is for.
    pub node: NodeId,
    /// Drawn anew for every directory and every attempt.
    pub incarnation: Incarnation,
    pub wal: WalOptions,
    pub store: StoreOptions,
}

impl RestoreConfig {
    pub fn new(
        data_dir: impl Into<PathBuf>,
        members: Vec<MemberRow>,
        node: NodeId,
        incarnation: Incarnation,
    ) -> RestoreConfig {
        RestoreConfig {
            data_dir: data_dir.into(),
            wal_dir: None,
            members,
            node,
            incarnation,
            wal: WalOptions::default(),
            store: StoreOptions::default(),
        }
    }

    /// The id of the new cluster, as etcd computes it.
    pub fn cluster(&self) -> ClusterId {
        cluster_id(self.members.iter().map(|member| member.id))
    }
}

/// Why nothing was restored.
#[derive(Debug)]
pub enum RestoreError {
    Storage(StorageError),
    /// The directory holds a member already.
    Exists {
        path: PathBuf,
    },
    /// The member to restore is not among the members of the new cluster.
    NotAMember {
        node: NodeId,
    },
    /// A running member has the source open: what is read now does not belong together.
    SourceInUse {
        path: PathBuf,
    },
    /// The source is not what it was when it was written.
    SourceDamaged {
        source: String,
        offset: u64,
        what: String,
    },
}

impl From<StorageError> for RestoreError {
    fn from(error: StorageError) -> RestoreError {
        RestoreError::Storage(error)
    }
}

impl fmt::Display for RestoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RestoreError::Storage(error) => write!(f, "{error}"),
            RestoreError::Exists { path } => {
                write!(f, "{} exists: a restore needs an empty data directory", path.display())
            }
            RestoreError::NotAMember { node } => {
                write!(f, "member {node} is not among the members of the new cluster")
            }
            RestoreError::SourceInUse { path } => write!(
                f,
                "{} belongs to a running member: stop it, or take a snapshot from it",
                path.display()
            ),
            RestoreError::SourceDamaged { source, offset, what } => write!(
                f,
                "{source} is damaged at byte {offset}: {what}; take another snapshot, or the \
                 directory of another member"
            ),
        }
    }
}

impl std::error::Error for RestoreError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            RestoreError::Storage(error) => Some(error),
            _ => None,
        }
    }
}

/// A state to restore from. Items come in ascending order of (group, kind, key), and the end is
/// told only when everything before it has proved to be sound.
pub trait RestoreSource {
    /// Every group there is, ascending, empty ones included.
    fn groups(&self) -> Vec<GroupId>;
    fn next_items(&mut self) -> Result<Option<(GroupId, Vec<SnapshotItem>)>, RestoreError>;
}

impl RestoreSource for SnapshotReader<'_> {
    fn groups(&self) -> Vec<GroupId> {
        self.head().groups.iter().map(|(group, ..)| *group).collect()
    }

    fn next_items(&mut self) -> Result<Option<(GroupId, Vec<SnapshotItem>)>, RestoreError> {
        SnapshotReader::next_items(self).map_err(|error| match error {
            StreamError::Storage(error) => RestoreError::Storage(error),
            StreamError::Damaged { offset, what } => {
                RestoreError::SourceDamaged { source: "the snapshot".into(), offset, what }
            }
        })
    }
}

/// The store of a member that does not run, in its place or copied: `member/snap/db`. Its state
/// is that of its newest checkpoint; what only the log has is not in it (`survivor` has both).
#[derive(Debug)]
pub struct StoreSource {
    pins: Vec<Pin>,
    at: usize,
    cursor: Option<(u8, Bytes)>,
    /// Keeps the member whose store this is from starting.
    _lock: Option<Box<dyn DiskLock>>,
}

impl StoreSource {
    /// Reads every page before anything is handed out.
    pub fn open(disk: &Arc<dyn Disk>, path: &Path) -> Result<StoreSource, RestoreError> {
        let lock = match path.parent().and_then(Path::parent).map(|member| member.join("lock")) {
            Some(lock) if disk.exists(&lock)? => match disk.lock(&lock) {
                Err(StorageError::Locked { .. }) => {
                    return Err(RestoreError::SourceInUse { path: path.to_path_buf() });
                }
                taken => Some(taken?),
            },
            _ => None,
        };
        let damaged = |offset, what| RestoreError::SourceDamaged {
            source: path.display().to_string(),
            offset,
            what,
        };
        let unsound = |error| match error {
            StorageError::Corrupt { offset, expected, found, .. } => {
                damaged(offset, format!("expected {expected}, found {found}"))
            }
            error => RestoreError::Storage(error),
        };
        let options = StoreOptions::default();
        let store = Store::open_to_read(disk.clone(), path, options).map_err(unsound)?;
        let report = store.verify()?;
        if let Some(problem) = report.problems.first() {
            return Err(damaged(problem.offset, problem.what.clone()));
        }
        let pins = pins_of(&store, path).map_err(unsound)?;
        if pins.first().is_none_or(|pin| pin.group != GroupId::ROOT) {
            return Err(damaged(
                0,
                "expected group 1, found a store that was never founded".into(),
            ));
        }
        Ok(StoreSource { pins, at: 0, cursor: None, _lock: lock })
    }
}

/// Every group as the store's newest checkpoint has it.
fn pins_of(store: &Store, path: &Path) -> Result<Vec<Pin>, StorageError> {
    let mut pins = Vec::new();
    for (group, bytes) in store.group_metas() {
        let meta = GroupMeta::decode(&bytes, path)?;
        let meta = SnapshotMeta { index: meta.applied, term: meta.term, conf: meta.conf };
        let view = |kind| (kind, store.tree(group, kind).view());
        let mut trees: Vec<_> = TREE_KINDS.into_iter().map(view).collect();
        trees.sort_by_key(|(kind, _)| kind.0);
        pins.push(Pin { group, id: 0, meta, trees });
    }
    Ok(pins)
}

impl RestoreSource for StoreSource {
    fn groups(&self) -> Vec<GroupId> {
        self.pins.iter().map(|pin| pin.group).collect()
    }

    fn next_items(&mut self) -> Result<Option<(GroupId, Vec<SnapshotItem>)>, RestoreError> {
        let Some(pin) = self.pins.get(self.at) else { return Ok(None) };
        let group = pin.group;
        let (items, last) = read_chunk(pin, self.cursor.as_ref(), limits::SNAPSHOT_CHUNK_BYTES)?;
        self.cursor = items.last().map(|item| (item.kind, item.key.clone()));
        if last {
            self.cursor = None;
            self.at += 1;
        }
        Ok(Some((group, items)))
    }
}

/// What was restored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    pub cluster: ClusterId,
    /// Per group the revision it goes on from.
    pub revisions: Vec<(GroupId, i64)>,
}

/// See the module's documentation.
pub fn restore(
    disk: &Arc<dyn Disk>,
    source: &mut dyn RestoreSource,
    config: &RestoreConfig,
) -> Result<Restored, RestoreError> {
    if !config.members.iter().any(|member| member.id == config.node) {
        return Err(RestoreError::NotAMember { node: config.node });
    }
    let member_dir = config.data_dir.join("member");
    let store_path = member_dir.join("snap/db");
    let wal_path = config.wal_dir.clone().unwrap_or_else(|| member_dir.join("wal"));
    let unfinished = restoring_path(&store_path);
    disk.create_dir_all(&member_dir.join("snap"))?;
    let _lock = disk.lock(&member_dir.join("lock"))?;
    let begun = disk.exists(&unfinished)?;
    if disk.exists(&store_path)? || Wal::exists(disk.as_ref(), &wal_path)? && !begun {
        return Err(RestoreError::Exists { path: member_dir });
    }
    if begun {
        clear(disk, &unfinished, &wal_path)?;
    }
    let done = build(disk, source, config, &unfinished, &wal_path);
    if done.is_err() {
        // What cannot be cleared now, the next attempt clears; until then nothing starts on it.
        let _ = clear(disk, &unfinished, &wal_path);
    }
    let revisions = done?;
    disk.rename(&unfinished, &store_path)?;
    disk.sync_dir(&member_dir.join("snap"))?;
    Ok(Restored { cluster: config.cluster(), revisions })
}

/// Removes what an earlier attempt has left. Its mark goes last.
fn clear(disk: &Arc<dyn Disk>, unfinished: &Path, wal_path: &Path) -> Result<(), StorageError> {
    if !disk.exists(unfinished)? {
        return Ok(());
    }
    if disk.exists(wal_path)? {
        for name in disk.list(wal_path)? {
            disk.unlink(&wal_path.join(name))?;
        }
        disk.sync_dir(wal_path)?;
    }
    disk.unlink(unfinished)?;
    disk.sync_dir(unfinished.parent().expect("the store is in a directory"))
}

/// Steps 1 to 3.
fn build(
    disk: &Arc<dyn Disk>,
    source: &mut dyn RestoreSource,
    config: &RestoreConfig,
    unfinished: &Path,
    wal_path: &Path,
) -> Result<Vec<(GroupId, i64)>, RestoreError> {
    let (cluster, node, incarnation) = (config.cluster(), config.node, config.incarnation);
    let identity = StoreIdentity { cluster, node, incarnation };
    let store = Store::create(disk.clone(), unfinished, identity, config.store)?;
    let revisions = load(&store, source, config)?;
    drop(store);
    let identity = WalIdentity { cluster, node, incarnation };
    let mut wal = Wal::create(disk.clone(), wal_path, identity, config.wal)?;
    let mut records = Vec::new();
    for &(group, _) in &revisions {
        records.push(Record::HardState { group, hard: boot_hard_state() });
        records.push(Record::LogStart { group, index: BOOT_INDEX, term: BOOT_TERM });
    }
    wal.write(&Batch { records })?;
    wal.sync()?;
    Ok(revisions)
}

/// Fills the store and makes it durable.
fn load(
    store: &Store,
    source: &mut dyn RestoreSource,
    config: &RestoreConfig,
) -> Result<Vec<(GroupId, i64)>, RestoreError> {
    let groups: BTreeSet<GroupId> = source.groups().into_iter().chain([GroupId::ROOT]).collect();
    let mut loaded = Loaded { store, trees: BTreeMap::new(), open: None };
    while let Some((group, items)) = source.next_items()? {
        for item in items {
            loaded.push(group, item)?;
        }
    }
    loaded.close()?;
    let voters = config.members.iter().filter(|m| !m.is_learner).map(|m| m.id).collect();
    let conf = ConfState::of_voters(voters);
    let mut root_tree = store.tree(GroupId::ROOT, TreeKind(ROOT_TREE));
    RootState::founded(config.members.clone()).store_all(&mut root_tree)?;
    let mut views = vec![(GroupId::ROOT, TreeKind(ROOT_TREE), root_tree.view())];
    let mut metas = BTreeMap::new();
    let mut revisions = Vec::new();
    let birth = (BOOT_INDEX, BOOT_TERM);
    for group in groups {
        let kinds = TREE_KINDS.into_iter();
        let trees = kinds.map(|kind| (kind, loaded.take(group, kind))).collect();
        let mut keyspace = Keyspace::from_trees(group, trees)?;
        keyspace.rebase(birth.0, birth.1);
        views.extend(keyspace.trees()?.into_iter().map(|(kind, view)| (group, kind, view)));
        let meta =
            GroupMeta { applied: birth.0, term: birth.1, conf: conf.clone(), installed: birth };
        metas.insert(group, meta.encode());
        revisions.push((group, keyspace.revision()));
    }
    run_checkpoint(store, views, metas)?;
    Ok(revisions)
}

/// Trees that are being filled, one at a time.
struct Loaded<'a> {
    store: &'a Store,
    trees: BTreeMap<(GroupId, u8), Tree>,
    open: Option<((GroupId, u8), crate::btree::BulkLoader)>,
}

impl Loaded<'_> {
    fn push(&mut self, group: GroupId, item: SnapshotItem) -> Result<(), RestoreError> {
        let kind = TreeKind(item.kind);
        if group == GroupId::ROOT && kind == TreeKind(ROOT_TREE) {
            // The old cluster's members.
            return Ok(());
        }
        let out_of_place = |what: String| RestoreError::SourceDamaged {
            source: "the state".into(),
            offset: 0,
            what,
        };
        if !TREE_KINDS.contains(&kind) {
            return Err(out_of_place(format!("group {group} has a tree of kind {}", kind.0)));
        }
        let at = (group, item.kind);
        if self.open.as_ref().is_none_or(|(open, _)| *open != at) {
            self.close()?;
            if self.trees.contains_key(&at) {
                return Err(out_of_place(format!("group {group}, kind {}: out of order", kind.0)));
            }
            self.open = Some((at, self.store.bulk_loader(group, kind)));
        }
        let (_, loader) = self.open.as_mut().expect("it was opened above");
        Ok(loader.push(&item.key, &item.value, item.live)?)
    }

    fn close(&mut self) -> Result<(), StorageError> {
        if let Some((at, loader)) = self.open.take() {
            self.trees.insert(at, loader.finish()?);
        }
        Ok(())
    }

    /// A tree of which there were no items is empty, not missing.
    fn take(&mut self, group: GroupId, kind: TreeKind) -> Tree {
        let tree = self.trees.remove(&(group, kind.0));
        tree.unwrap_or_else(|| self.store.tree(group, kind))
    }
}
