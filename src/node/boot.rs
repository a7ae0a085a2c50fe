//! From a data directory to a running member: found a new one, or recover what is there.
//!
//! ```text
//! <data-dir>/member/lock        held while the process lives
//! <data-dir>/member/snap/db     the store
//! <data-dir>/member/wal/*.wal   the log
//! ```
//!
//! ## Founding
//!
//! The store is made first, with the first members and every group's birth point in its first
//! checkpoint; then the log, with each group's start in its first batch. Only the log makes the
//! directory count:
//! - a crash before the store's file has its name leaves nothing of it;
//! - a store at its birth without a log, or with a log without its first batch, was never part of
//!   a cluster (nothing was voted, nothing acknowledged): both are removed and founding starts
//!   again. A store that has moved on and has no log is refused: the log was lost, or is on a
//!   volume that is not mounted;
//! - once the first batch is synced, the directory is whole.
//!
//! The incarnation is drawn by the caller for every attempt: a half-made directory that is thrown
//! away never bound one.
//!
//! ## Recovering
//!
//! Both files say whose they are; they must agree with each other and with the configuration.
//! Then each group's log is put beside what the store holds of it:
//!
//! | store's `applied` is | verdict |
//! |---|---|
//! | before the log's start | a gap: refused |
//! | in the log, same term | entries behind it are replayed |
//! | anywhere, and the log knows nothing of the group, and the state is as it was born or fetched | its log begins there |
//! | in the log, another term, or behind its end, and it is an installed snapshot | the log's new start was not written when the member stopped: it is written now |
//! | the same, and it is not | the log has lost what was durable: refused |

use super::config::CoreConfig;
use super::core::{Core, GroupStart};
use super::member::Member;
use crate::btree::{CheckpointDone, Store, StoreIdentity, StoreOptions, TreeKind, View};
use crate::io::Disk;
use crate::multiraft::apply::Applier;
use crate::multiraft::catalogue::Catalogue;
use crate::multiraft::checkpoint::CheckpointPolicy;
use crate::multiraft::meta::GroupMeta;
use crate::multiraft::root::{ROOT_TREE, RootState};
use crate::multiraft::snapshots::{Installer, SnapshotServer};
use crate::multiraft::turn::{BOOT_INDEX, BOOT_TERM, boot_hard_state};
use crate::mvcc::Keyspace;
use crate::raft;
use crate::types::{
    ClusterId, ConfState, GroupId, HardState, Incarnation, LogIndex, Member as MemberRow, NodeId,
    StorageError, Term, limits,
};
use crate::wal::{Batch, GroupLog, Record, Wal, WalIdentity, WalOptions};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What a start needs to know.
#[derive(Clone, Debug)]
pub struct BootConfig {
    pub data_dir: PathBuf,
    /// Another place for the log (etcd's `--wal-dir`).
    pub wal_dir: Option<PathBuf>,
    /// `incarnation` counts only when the directory is founded; a recovered one has its own.
    pub core: CoreConfig,
    /// What to found when there is nothing.
    pub founding: Founding,
    pub wal: WalOptions,
    pub store: StoreOptions,
    pub checkpoint: CheckpointPolicy,
    pub chunk_bytes: usize,
}

impl BootConfig {
    pub fn new(data_dir: impl Into<PathBuf>, core: CoreConfig, founding: Founding) -> BootConfig {
        BootConfig {
            data_dir: data_dir.into(),
            wal_dir: None,
            core,
            founding,
            wal: WalOptions::default(),
            store: StoreOptions::default(),
            checkpoint: CheckpointPolicy::default(),
            chunk_bytes: limits::SNAPSHOT_CHUNK_BYTES,
        }
    }

    pub fn store_path(&self) -> PathBuf {
        self.data_dir.join("member/snap/db")
    }
    pub fn wal_path(&self) -> PathBuf {
        self.wal_dir.clone().unwrap_or_else(|| self.data_dir.join("member/wal"))
    }
}

/// What a fresh data directory becomes.
#[derive(Clone, Debug)]
pub enum Founding {
    /// A member of a new cluster. Every first member must be told the same: it is the state that
    /// all logs begin with. `groups` are further keyspaces besides group 1.
    New { members: Vec<MemberRow>, groups: Vec<GroupId> },
    /// A member that has been added to a running cluster: it knows nothing and votes on nothing
    /// until a leader sends it the state. Further groups it learns of from the catalogue.
    Join,
    /// None: a missing data directory is an error.
    Never,
}

/// Why a member does not start.
#[derive(Debug)]
pub enum BootError {
    Storage(StorageError),
    /// Nothing is there, and nothing may be founded.
    NoData {
        path: PathBuf,
    },
    /// The directory belongs to another cluster.
    OtherCluster {
        path: PathBuf,
        expected: ClusterId,
        found: ClusterId,
    },
    /// The directory belongs to another member.
    OtherMember {
        path: PathBuf,
        expected: NodeId,
        found: NodeId,
    },
    /// The log and the store are not of one data directory.
    Mixed {
        store: Incarnation,
        wal: Incarnation,
    },
    /// Between what the store holds and where the log begins, entries are missing.
    Gap {
        group: GroupId,
        applied: LogIndex,
        log_start: LogIndex,
    },
    /// The log ends before, or disagrees with, what the store has applied.
    LogLost {
        group: GroupId,
        applied: LogIndex,
        log_last: LogIndex,
    },
    /// The store holds data and there is no log beside it.
    LogMissing {
        path: PathBuf,
    },
    /// The member of this directory was removed from its cluster.
    NotAMember {
        path: PathBuf,
        node: NodeId,
    },
    /// A restore was cut short: what is there is a part of a state.
    RestoreUnfinished {
        path: PathBuf,
    },
    /// There is a log, and a store whose checkpoints are all lost but the empty one it was born
    /// with.
    StoreEmpty {
        path: PathBuf,
    },
    /// The store knows a group and the log does not.
    GroupMissing {
        group: GroupId,
    },
}

impl From<StorageError> for BootError {
    fn from(error: StorageError) -> BootError {
        BootError::Storage(error)
    }
}

impl fmt::Display for BootError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const REMEDY: &str = "remove this member from the cluster, empty its data directory and \
                              add it again";
        match self {
            BootError::Storage(error) => write!(f, "{error}"),
            BootError::NoData { path } => write!(f, "{} holds no member", path.display()),
            BootError::OtherCluster { path, expected, found } => write!(
                f,
                "{} belongs to cluster {found}, this member to {expected}",
                path.display()
            ),
            BootError::OtherMember { path, expected, found } => {
                write!(f, "{} belongs to member {found}, this member is {expected}", path.display())
            }
            BootError::Mixed { store, wal } => write!(
                f,
                "the store (incarnation {store}) and the log (incarnation {wal}) come from \
                 different data directories"
            ),
            BootError::Gap { group, applied, log_start } => write!(
                f,
                "group {group}: the store ends at {applied}, the log begins behind {log_start}: \
                 entries are missing; {REMEDY}"
            ),
            BootError::LogLost { group, applied, log_last } => write!(
                f,
                "group {group}: the store has applied {applied}, the log ends at {log_last}: the \
                 log has lost entries; {REMEDY}"
            ),
            BootError::LogMissing { path } => {
                write!(f, "the store holds data, but there is no log in {}", path.display())
            }
            BootError::NotAMember { path, node } => {
                write!(f, "{}: member {node} is no member of its cluster any more", path.display())
            }
            BootError::RestoreUnfinished { path } => write!(
                f,
                "{} is what a restore left that was cut short: restore once more",
                path.display()
            ),
            BootError::StoreEmpty { path } => write!(
                f,
                "{}: the store has no checkpoint although there is a log: its newest meta page is \
                 lost; {REMEDY}",
                path.display()
            ),
            BootError::GroupMissing { group } => {
                write!(f, "group {group} is in the store and not in the log; {REMEDY}")
            }
        }
    }
}

impl std::error::Error for BootError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            BootError::Storage(error) => Some(error),
            _ => None,
        }
    }
}

/// Whose data directory this is, and the membership that its last checkpoint knows (nothing yet,
/// if the member was about to join); `None` when nothing was founded there, or not to the end.
pub fn whose(
    disk: &Arc<dyn Disk>,
    data_dir: &Path,
) -> Result<Option<(StoreIdentity, RootState)>, BootError> {
    let store_path = data_dir.join("member/snap/db");
    if !disk.exists(&store_path)? || !Wal::exists(disk.as_ref(), &data_dir.join("member/wal"))? {
        return Ok(None);
    }
    // Held for the look: another process may be writing the pages that are read.
    let _lock = disk.lock(&data_dir.join("member/lock"))?;
    let store = Store::open(disk.clone(), &store_path, StoreOptions::default())?;
    let identity = store.identity();
    let root = RootState::load(&store.tree(GroupId::ROOT, TreeKind(ROOT_TREE)))?;
    Ok(Some((identity, root)))
}

/// Recovers the member in the data directory, or founds it.
pub fn boot(disk: Arc<dyn Disk>, config: BootConfig) -> Result<Member, BootError> {
    let store_path = config.store_path();
    let wal_path = config.wal_path();
    let member_dir = config.data_dir.join("member");
    disk.create_dir_all(&member_dir.join("snap"))?;
    let lock = disk.lock(&member_dir.join("lock"))?;
    let unfinished = restoring_path(&store_path);
    if disk.exists(&unfinished)? {
        return Err(BootError::RestoreUnfinished { path: unfinished });
    }
    let whole = disk.exists(&store_path)? && Wal::exists(disk.as_ref(), &wal_path)?;
    // Opening for writing repairs what a crash has left: a directory that is not ours must be
    // refused before. One that cannot be read says why when it is opened.
    if whole && let Ok(store) = Store::open_to_read(disk.clone(), &store_path, config.store) {
        let owner = store.identity();
        check_owner(&config, &store_path, owner.cluster, owner.node)?;
    }
    let (wal, logs) = if whole {
        Wal::open(disk.clone(), &wal_path, config.wal)?
    } else if Wal::exists(disk.as_ref(), &wal_path)? {
        // A log is made last: without a store beside it, the store was lost.
        return Err(BootError::NoData { path: store_path });
    } else {
        found(&disk, &config, &store_path, &wal_path)?
    };
    // A log that never got its first batch belongs to a founding that was cut short.
    let (wal, logs) = if logs.is_empty() {
        drop(wal);
        refound(&disk, &config, &store_path, &wal_path)?
    } else {
        (wal, logs)
    };
    let store = Store::open(disk, &store_path, config.store)?;
    recover(config, store, wal, logs, lock)
}

fn found(
    disk: &Arc<dyn Disk>,
    config: &BootConfig,
    store_path: &Path,
    wal_path: &Path,
) -> Result<(Wal, BTreeMap<GroupId, GroupLog>), BootError> {
    let core = &config.core;
    let (members, groups, conf) = match &config.founding {
        Founding::New { members, groups } => {
            let voters = members.iter().filter(|m| !m.is_learner).map(|m| m.id).collect();
            (members.clone(), groups.clone(), ConfState::of_voters(voters))
        }
        Founding::Join => (Vec::new(), Vec::new(), ConfState::default()),
        Founding::Never => return Err(BootError::NoData { path: store_path.to_path_buf() }),
    };
    let joins = matches!(config.founding, Founding::Join);
    let birth = if joins { (LogIndex::ZERO, Term::ZERO) } else { (BOOT_INDEX, BOOT_TERM) };
    let hard = if joins { HardState::default() } else { boot_hard_state() };
    if disk.exists(store_path)? {
        check_at_birth(disk, config, store_path, wal_path)?;
        disk.unlink(store_path)?;
        disk.sync_dir(store_path.parent().expect("the store is in a directory"))?;
    }
    let groups: std::collections::BTreeSet<GroupId> =
        groups.into_iter().chain([GroupId::ROOT]).collect();
    let identity =
        StoreIdentity { cluster: core.cluster, node: core.node, incarnation: core.incarnation };
    let store = Store::create(disk.clone(), store_path, identity, config.store)?;
    found_store(&store, &groups, &conf, birth, members)?;
    drop(store);
    let identity =
        WalIdentity { cluster: core.cluster, node: core.node, incarnation: core.incarnation };
    let mut wal = Wal::create(disk.clone(), wal_path, identity, config.wal)?;
    let mut records = Vec::new();
    for &group in &groups {
        records.push(Record::HardState { group, hard });
        records.push(Record::LogStart { group, index: birth.0, term: birth.1 });
    }
    wal.write(&Batch { records })?;
    wal.sync()?;
    drop(wal);
    Ok(Wal::open(disk.clone(), wal_path, config.wal)?)
}

/// Whether a store without a log is what a founding left half-made, and of this very member.
fn check_at_birth(
    disk: &Arc<dyn Disk>,
    config: &BootConfig,
    store_path: &Path,
    wal_path: &Path,
) -> Result<(), BootError> {
    let store = Store::open(disk.clone(), store_path, config.store)?;
    let identity = store.identity();
    check_owner(config, store_path, identity.cluster, identity.node)?;
    for bytes in store.group_metas().values() {
        let meta = GroupMeta::decode(bytes, store_path)?;
        if meta.installed != (meta.applied, meta.term) || meta.applied > BOOT_INDEX {
            return Err(BootError::LogMissing { path: wal_path.to_path_buf() });
        }
    }
    Ok(())
}

fn check_owner(
    config: &BootConfig,
    path: &Path,
    cluster: ClusterId,
    node: NodeId,
) -> Result<(), BootError> {
    let (path, core) = (path.to_path_buf(), &config.core);
    if cluster != core.cluster {
        return Err(BootError::OtherCluster { path, expected: core.cluster, found: cluster });
    }
    if node != core.node {
        return Err(BootError::OtherMember { path, expected: core.node, found: node });
    }
    Ok(())
}

/// Removes what a founding left half-made, and founds again.
fn refound(
    disk: &Arc<dyn Disk>,
    config: &BootConfig,
    store_path: &Path,
    wal_path: &Path,
) -> Result<(Wal, BTreeMap<GroupId, GroupLog>), BootError> {
    for name in disk.list(wal_path)? {
        disk.unlink(&wal_path.join(name))?;
    }
    disk.sync_dir(wal_path)?;
    found(disk, config, store_path, wal_path)
}

/// The first checkpoint: every group empty at its birth point, and the first members.
fn found_store(
    store: &Store,
    groups: &std::collections::BTreeSet<GroupId>,
    conf: &ConfState,
    birth: (LogIndex, Term),
    members: Vec<MemberRow>,
) -> Result<CheckpointDone, StorageError> {
    let mut root_tree = store.tree(GroupId::ROOT, TreeKind(ROOT_TREE));
    let mut root = RootState::founded(members);
    root.catalogue = Catalogue::founded(groups.iter().copied(), &conf.voters);
    root.store_all(&mut root_tree)?;
    let mut trees = vec![(GroupId::ROOT, TreeKind(ROOT_TREE), root_tree.view())];
    let mut metas = BTreeMap::new();
    for &group in groups {
        let mut keyspace = Keyspace::open(group, store)?;
        trees.extend(keyspace.trees()?.into_iter().map(|(kind, view)| (group, kind, view)));
        let meta =
            GroupMeta { applied: birth.0, term: birth.1, conf: conf.clone(), installed: birth };
        metas.insert(group, meta.encode());
    }
    run_checkpoint(store, trees, metas)
}

pub(super) fn run_checkpoint(
    store: &Store,
    trees: Vec<(GroupId, TreeKind, View)>,
    metas: BTreeMap<GroupId, Bytes>,
) -> Result<CheckpointDone, StorageError> {
    store.begin_checkpoint(trees, metas).run()
}

/// What the store is called until its restore is complete.
pub(super) fn restoring_path(store_path: &Path) -> PathBuf {
    store_path.with_file_name("db.restoring")
}

fn recover(
    mut config: BootConfig,
    store: Store,
    mut wal: Wal,
    mut logs: BTreeMap<GroupId, GroupLog>,
    lock: Box<dyn crate::io::DiskLock>,
) -> Result<Member, BootError> {
    let (ours, theirs) = (store.identity(), *wal.identity());
    let path = config.store_path();
    check_owner(&config, &path, ours.cluster, ours.node)?;
    check_owner(&config, &config.wal_path(), theirs.cluster, theirs.node)?;
    if ours.incarnation != theirs.incarnation {
        return Err(BootError::Mixed { store: ours.incarnation, wal: theirs.incarnation });
    }
    config.core.incarnation = ours.incarnation;
    let applier = Applier::open(
        store.clone(),
        path,
        config.core.origin,
        config.checkpoint,
        config.store.cache_bytes as u64,
    )?;
    let groups: Vec<GroupId> = applier.groups().collect();
    // A crash in the middle of the first checkpoint leaves no group; founding is then repeated
    // because there is no log. Here there is one.
    if !groups.contains(&GroupId::ROOT) {
        return Err(BootError::StoreEmpty { path: config.store_path() });
    }
    let mut amends = Vec::new();
    let mut starts = Vec::new();
    for group in groups {
        let meta = applier.meta(group).expect("the applier named it").clone();
        let mut log = match logs.remove(&group) {
            Some(log) => log,
            // A checkpoint holds it, newly born or as it was fetched, from before anything of its
            // log was synced: nothing has been promised for it, no vote and no acknowledgement.
            None if meta.is_as_installed() => {
                let (hard, (index, term)) = (HardState::default(), meta.installed);
                amends.push(Record::HardState { group, hard });
                amends.push(Record::LogStart { group, index, term });
                GroupLog { start: meta.installed, last: index, ..GroupLog::default() }
            }
            None => return Err(BootError::GroupMissing { group }),
        };
        reconcile(group, &meta, &mut log, &mut amends)?;
        let boot = raft::Boot {
            hard: log.hard,
            conf: meta.conf,
            applied: meta.applied,
            start: log.start,
            last: log.last,
            terms: log.terms,
            tail: log.tail,
        };
        starts.push(GroupStart { group, boot, state: applier.boot_batch(group)? });
    }
    let log_starts_amended =
        amends.iter().filter(|record| matches!(record, Record::LogStart { .. })).count() as u64;
    if !amends.is_empty() {
        wal.write(&Batch { records: amends })?;
        wal.sync()?;
    }
    // Logs of groups that no checkpoint holds: not yet, or no longer. One that was trimmed was in
    // a checkpoint before, so this store is not the one that goes with it.
    let root = applier.root();
    for (&group, log) in &logs {
        if log.start.0 > BOOT_INDEX && !root.catalogue.is_destroyed(group) {
            let applied = LogIndex::ZERO;
            return Err(BootError::Gap { group, applied, log_start: log.start.0 });
        }
    }
    let orphan = |log: GroupLog| raft::Boot {
        hard: log.hard,
        start: log.start,
        last: log.last,
        terms: log.terms,
        tail: log.tail,
        ..raft::Boot::default()
    };
    let orphans = logs.into_iter().map(|(group, log)| (group, orphan(log))).collect();
    let mut core = Core::new(config.core, starts, root, orphans);
    core.counters.log_starts_amended = log_starts_amended;
    let snapshots = SnapshotServer::new(config.chunk_bytes);
    let installer = Installer::new(store.clone());
    Ok(Member { core, applier, wal, store, snapshots, installer, lock })
}

/// Puts a group's log beside what the store holds of the group; see the module's table.
fn reconcile(
    group: GroupId,
    meta: &GroupMeta,
    log: &mut GroupLog,
    amends: &mut Vec<Record>,
) -> Result<(), BootError> {
    let applied = meta.applied;
    if applied < log.start.0 {
        return Err(BootError::Gap { group, applied, log_start: log.start.0 });
    }
    if term_at(log, applied) != Some(meta.term) {
        if meta.installed != (applied, meta.term) {
            return Err(BootError::LogLost { group, applied, log_last: log.last });
        }
        // Whatever the log has, the installed state has replaced it: entries up to there are in
        // it, and entries behind it follow a history that was not committed.
        *log = GroupLog {
            hard: log.hard,
            start: (applied, meta.term),
            last: applied,
            terms: Vec::new(),
            tail: Vec::new(),
        };
        amends.push(Record::LogStart { group, index: applied, term: meta.term });
    }
    let mut hard = log.hard;
    if hard.term < meta.term {
        hard = HardState { term: meta.term, vote: NodeId::NONE, commit: hard.commit };
    }
    // What is applied was committed, and the hint may not say so yet.
    hard.commit = hard.commit.max(applied).min(log.last);
    if hard != log.hard {
        log.hard = hard;
        amends.push(Record::HardState { group, hard });
    }
    Ok(())
}

fn term_at(log: &GroupLog, index: LogIndex) -> Option<Term> {
    if index == log.start.0 {
        return Some(log.start.1);
    }
    if index < log.start.0 || index > log.last {
        return None;
    }
    let at = log.terms.partition_point(|&(first, _)| first <= index);
    log.terms[..at].last().map(|&(_, term)| term)
}
