//! The applier: owns the store's trees, every keyspace and the membership, and runs committed
//! entries against them, one job at a time.
//!
//! What it promises: same entries in, same state and verdicts on every node. An entry at or below
//! the applied index is skipped (it comes again after a crash); a gap is a broken invariant. An
//! entry nobody can decode changes nothing, on every node alike. A `StorageError` stops the
//! member; nothing of the batch is then answered.
//!
//! What it refuses to know: terms and leaders, clocks, who waits (it filters by this process's
//! `origin` only so that it need not keep replies nobody here asked for).

use super::change::{RootChange, decode_context};
use super::checkpoint::{CheckpointPolicy, Running};
use super::meta::GroupMeta;
use super::root::{ROOT_TREE, RootState};
use super::snapshots::Pin;
use crate::btree::{Store, Tree, TreeKind};
use crate::codec::command::decode_proposal;
use crate::codec::raft::decode_conf_change;
use crate::mvcc::{ApplyContext, Keyspace, KeyspaceView, LeaseChange};
use crate::raft::conf_change;
use crate::types::auth::TokenChange;
use crate::types::command::{AlarmKind, CompactRequest};
use crate::types::message::SnapshotMeta;
use crate::types::reply::{Event, Reply};
use crate::types::{
    ApiError, Command, ConfChange, ConfState, Entry, EntryKind, GroupId, LogIndex, Member, NodeId,
    RequestId, StorageError, Term,
};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

/// What one entry came to, for the request that waits for it.
#[derive(Clone, Debug, PartialEq)]
pub struct AppliedEntry {
    pub id: RequestId,
    pub index: LogIndex,
    pub term: Term,
    /// The keyspace's revision behind the entry.
    pub revision: i64,
    pub result: Result<Outcome, ApiError>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    Reply(Reply),
    /// The membership behind a change, and the member it was about.
    Members {
        member: Option<Member>,
        members: Vec<Member>,
    },
    /// The removal has begun and is answered when it is done.
    Departing,
}

/// How full things are: what decides on checkpoints, quota and back-pressure.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pressure {
    /// Entry bytes applied since the newest checkpoint began, all groups together.
    pub unsaved_bytes: u64,
    pub file_bytes: u64,
    pub in_use_bytes: u64,
    pub dirty_bytes: u64,
    pub cache_bytes: u64,
}

/// What one apply job did. `view` is the state behind its last entry: publish it to readers
/// before the core is told (`Action::Applied`), so that a barrier never runs ahead of it.
#[derive(Debug)]
pub struct AppliedBatch {
    pub group: GroupId,
    /// The last entry of the job; the group's applied index unless entries were skipped.
    pub index: LogIndex,
    pub term: Term,
    /// Entries of this process's own requests, in log order.
    pub results: Vec<AppliedEntry>,
    /// Watch events per revision, ascending.
    pub events: Vec<(i64, Vec<Event>)>,
    pub lease_changes: Vec<LeaseChange>,
    /// Leases among them that ended by themselves.
    pub leases_expired: u64,
    /// How many commands of each name were applied, by success. For metrics alone.
    pub commands: Vec<(&'static str, bool, u32)>,
    pub tokens: Vec<TokenChange>,
    /// A verdict for every configuration change among the entries.
    pub confs: Vec<(LogIndex, Option<ConfChange>)>,
    /// All active alarms, when they changed.
    pub alarms: Option<Vec<(NodeId, AlarmKind)>>,
    /// The membership, when it changed.
    pub root: Option<Arc<RootState>>,
    pub view: KeyspaceView,
    pub revision: i64,
    pub state_hash: u64,
    pub pressure: Pressure,
    /// The state was replaced by a raft snapshot instead: `lease_changes` holds every lease,
    /// watchers must catch up anew, no token is remembered, and raft is told later
    /// (`Action::SnapshotDurable`).
    pub replaced: Option<SnapshotMeta>,
}

#[derive(Debug)]
pub(super) struct GroupState {
    pub keyspace: Keyspace,
    pub meta: GroupMeta,
    /// Answers to physical compactions that have not finished.
    pub deferred: Vec<AppliedEntry>,
    /// Whether background compaction may have something to remove.
    pub compacting: bool,
}

/// What the applier counts; every field only grows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ApplierCounters {
    pub entries: u64,
    pub skipped: u64,
    pub undecodable: u64,
    pub checkpoints: u64,
    pub snapshots_installed: u64,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Applier {
    pub(super) store: Store,
    pub(super) path: PathBuf,
    pub(super) origin: u64,
    pub(super) groups: BTreeMap<GroupId, GroupState>,
    pub(super) root: Arc<RootState>,
    pub(super) root_tree: Tree,
    pub(super) policy: CheckpointPolicy,
    /// The store's bound on nodes in memory, dirty ones included.
    pub(super) cache_bytes_max: u64,
    pub(super) running: Option<Running>,
    /// A checkpoint was asked for, or is owed to an installed snapshot.
    pub(super) wanted: bool,
    pub(super) unsaved_bytes: u64,
    pub(super) unsaved_entries: u64,
    /// Steps of background compaction: they change trees without an entry.
    pub(super) unsaved_removals: u64,
    /// Installed states that no checkpoint holds yet.
    pub(super) owed: Vec<(GroupId, SnapshotMeta)>,
    pub(super) next_pin: u64,
    pub(super) counters: ApplierCounters,
}

impl Applier {
    /// Opens every group that the store's newest checkpoint knows.
    pub fn open(
        store: Store,
        path: PathBuf,
        origin: u64,
        policy: CheckpointPolicy,
        cache_bytes_max: u64,
    ) -> Result<Applier, StorageError> {
        let mut groups = BTreeMap::new();
        for (group, bytes) in store.group_metas() {
            let meta = GroupMeta::decode(&bytes, &path)?;
            let keyspace = Keyspace::open(group, &store)?;
            let state = GroupState { keyspace, meta, deferred: Vec::new(), compacting: true };
            groups.insert(group, state);
        }
        let root_tree = store.tree(GroupId::ROOT, TreeKind(ROOT_TREE));
        let root = Arc::new(RootState::load(&root_tree)?);
        Ok(Applier {
            store,
            path,
            origin,
            groups,
            root,
            root_tree,
            policy,
            cache_bytes_max,
            running: None,
            wanted: false,
            unsaved_bytes: 0,
            unsaved_entries: 0,
            unsaved_removals: 0,
            owed: Vec::new(),
            next_pin: origin | 1,
            counters: ApplierCounters::default(),
        })
    }

    pub fn store(&self) -> &Store {
        &self.store
    }
    pub fn root(&self) -> Arc<RootState> {
        self.root.clone()
    }
    pub fn groups(&self) -> impl Iterator<Item = GroupId> + '_ {
        self.groups.keys().copied()
    }
    pub fn counters(&self) -> ApplierCounters {
        self.counters
    }
    /// The newest state of a group, for readers.
    pub fn view(&self, group: GroupId) -> Option<KeyspaceView> {
        self.groups.get(&group).map(|state| state.keyspace.view())
    }
    pub fn meta(&self, group: GroupId) -> Option<&GroupMeta> {
        self.groups.get(&group).map(|state| &state.meta)
    }
    /// The group's applied index and the rolling hash of its state there: equal on every node.
    pub fn state_hash(&self, group: GroupId) -> Option<(LogIndex, u64)> {
        let state = self.groups.get(&group)?;
        Some((state.meta.applied, state.keyspace.state_hash()))
    }

    pub fn pressure(&self) -> Pressure {
        let sizes = self.store.sizes();
        Pressure {
            unsaved_bytes: self.unsaved_bytes,
            file_bytes: sizes.file_bytes,
            in_use_bytes: sizes.in_use_bytes,
            dirty_bytes: sizes.dirty_bytes,
            cache_bytes: sizes.cache_bytes,
        }
    }

    /// Runs one job; `None` for a group that is no more. Jobs of one group come in log order; the last entry of a job is never below
    /// the one of the job before.
    pub fn apply(
        &mut self,
        group: GroupId,
        entries: &[Entry],
    ) -> Result<Option<AppliedBatch>, StorageError> {
        let Some(state) = self.groups.get_mut(&group) else {
            // Destroyed while the job was on its way.
            return Ok(None);
        };
        let last = entries.last().expect("an apply job has entries");
        let mut batch = Gathering::default();
        let (index, term) = (last.index, last.term);
        for entry in entries {
            if entry.index <= state.meta.applied {
                self.counters.skipped += 1;
                if entry.kind == EntryKind::ConfChange {
                    batch.confs.push((entry.index, None));
                }
                continue;
            }
            assert_eq!(entry.index, state.meta.applied.next(), "group {group}: a gap in the log");
            assert!(entry.term >= state.meta.term, "group {group}: the term falls in the log");
            match entry.kind {
                EntryKind::Empty => {}
                EntryKind::Command => {
                    let mut root = (group == GroupId::ROOT)
                        .then_some(Membership { root: &mut self.root, tree: &mut self.root_tree });
                    let known = state.command(entry, self.origin, root.as_mut(), &mut batch)?;
                    self.counters.undecodable += u64::from(!known);
                }
                EntryKind::ConfChange => {
                    let mut root = (group == GroupId::ROOT)
                        .then_some(Membership { root: &mut self.root, tree: &mut self.root_tree });
                    state.conf_change(entry, self.origin, root.as_mut(), &mut batch)?;
                }
            }
            state.meta.applied = entry.index;
            state.meta.term = entry.term;
            self.unsaved_bytes += entry.cost() as u64;
            self.unsaved_entries += 1;
            self.counters.entries += 1;
        }
        if batch.root_changed {
            self.follow_catalogue()?;
        }
        let root = batch.root_changed.then(|| self.root.clone());
        let state = self.groups.get(&group).expect("it was there a moment ago");
        let view = state.keyspace.view();
        let revision = state.keyspace.revision();
        let alarms = batch.alarms_changed.then(|| view.alarms(None));
        Ok(Some(AppliedBatch {
            group,
            index,
            term,
            results: batch.results,
            events: batch.events,
            lease_changes: batch.lease_changes,
            leases_expired: batch.leases_expired,
            commands: batch.commands,
            tokens: batch.tokens,
            confs: batch.confs,
            alarms,
            root,
            view,
            revision,
            state_hash: state.keyspace.state_hash(),
            pressure: self.pressure(),
            replaced: None,
        }))
    }

    /// One step of the group's background compaction. Gives the answers of physical compactions
    /// that are complete, and whether there is more to do.
    pub fn compact_step(
        &mut self,
        group: GroupId,
        budget: usize,
    ) -> Result<(bool, Vec<AppliedEntry>), StorageError> {
        let Some(state) = self.groups.get_mut(&group) else {
            return Ok((false, Vec::new()));
        };
        self.unsaved_removals += u64::from(state.keyspace.compaction_pending());
        state.compacting = state.keyspace.compact_step(budget)?;
        if state.compacting {
            return Ok((true, Vec::new()));
        }
        Ok((false, std::mem::take(&mut state.deferred)))
    }

    /// Groups whose background compaction has work. While a checkpoint cannot keep up, none has.
    pub fn compacting(&self) -> impl Iterator<Item = GroupId> + '_ {
        let waits = self.is_overfull();
        let due = self.groups.iter().filter(move |(_, state)| state.compacting && !waits);
        due.map(|(&group, _)| group)
    }
}

struct Membership<'a> {
    root: &'a mut Arc<RootState>,
    tree: &'a mut Tree,
}

#[derive(Default)]
struct Gathering {
    results: Vec<AppliedEntry>,
    events: Vec<(i64, Vec<Event>)>,
    lease_changes: Vec<LeaseChange>,
    leases_expired: u64,
    commands: Vec<(&'static str, bool, u32)>,
    tokens: Vec<TokenChange>,
    confs: Vec<(LogIndex, Option<ConfChange>)>,
    alarms_changed: bool,
    root_changed: bool,
}

impl Gathering {
    fn count(&mut self, name: &'static str, is_ok: bool) {
        match self.commands.iter_mut().find(|(n, ok, _)| *n == name && *ok == is_ok) {
            Some((_, _, count)) => *count += 1,
            None => self.commands.push((name, is_ok, 1)),
        }
    }
}

impl GroupState {
    /// False when the entry is no command anyone can decode.
    fn command(
        &mut self,
        entry: &Entry,
        origin: u64,
        root: Option<&mut Membership>,
        batch: &mut Gathering,
    ) -> Result<bool, StorageError> {
        let Ok(proposal) = decode_proposal(&entry.data) else {
            return Ok(false);
        };
        let (id, caller, command) = (proposal.id, proposal.caller, proposal.command);
        if let Command::PublishMember { id: member, name, client_urls, incarnation } = command {
            let result = match root {
                Some(place) => {
                    let root = Arc::make_mut(place.root);
                    batch.root_changed = true;
                    root.publish(place.tree, member, name, client_urls, incarnation)?
                }
                None => Err(ApiError::MemberNotFound),
            };
            let result = result.map(|()| Outcome::Reply(Reply::PublishMember));
            self.answer(entry, id, origin, result, batch);
            return Ok(true);
        }
        if let Command::SetDowngrade { target } = command {
            let result = match root {
                Some(place) => {
                    batch.root_changed = true;
                    Ok(Arc::make_mut(place.root).set_downgrade(place.tree, target)?)
                }
                None => Err(ApiError::MemberNotFound),
            };
            let result = result.map(|()| Outcome::Reply(Reply::SetDowngrade));
            self.answer(entry, id, origin, result, batch);
            return Ok(true);
        }
        if let Command::CreateGroup | Command::DestroyGroup { .. } = command {
            let result = match root {
                Some(place) => catalogue_command(place, &command)?,
                None => Err(ApiError::MemberNotFound),
            };
            batch.root_changed |= result.is_ok();
            self.answer(entry, id, origin, result.map(Outcome::Reply), batch);
            return Ok(true);
        }
        let at = ApplyContext { index: entry.index, term: entry.term };
        let applied = self.keyspace.apply_for(caller.as_ref(), &command, &at)?;
        batch.count(command.name(), applied.reply.is_ok());
        if let Command::LeaseRevoke { leader: Some(_), .. } = command {
            batch.leases_expired += applied.lease_changes.len() as u64;
        }
        for event in applied.events {
            let revision = event.kv.mod_revision;
            match batch.events.last_mut() {
                Some((newest, events)) if *newest == revision => events.push(event),
                _ => batch.events.push((revision, vec![event])),
            }
        }
        batch.lease_changes.extend(applied.lease_changes);
        batch.tokens.extend(applied.tokens);
        batch.alarms_changed |= applied.alarm_changed;
        if matches!(command, Command::Compact(_)) && applied.reply.is_ok() {
            self.compacting = true;
        }
        let physical = matches!(command, Command::Compact(CompactRequest { physical: true, .. }));
        if physical && applied.reply.is_ok() && id.origin == origin {
            self.deferred.push(AppliedEntry {
                id,
                index: entry.index,
                term: entry.term,
                revision: applied.revision,
                result: applied.reply.map(Outcome::Reply),
            });
        } else {
            self.answer(entry, id, origin, applied.reply.map(Outcome::Reply), batch);
        }
        Ok(true)
    }

    /// Decides a configuration change: a verdict for raft, and in the root group what it means
    /// for the membership.
    fn conf_change(
        &mut self,
        entry: &Entry,
        origin: u64,
        root: Option<&mut Membership>,
        batch: &mut Gathering,
    ) -> Result<(), StorageError> {
        let Ok(change) = decode_conf_change(&entry.data) else {
            batch.confs.push((entry.index, None));
            return Ok(());
        };
        let next = conf_after(&self.meta.conf, &change);
        let leaves = change.changes.is_empty();
        let verdict = match (root, decode_context(&change.context)) {
            (Some(place), None) if leaves => {
                if let Some(conf) = &next {
                    Arc::make_mut(place.root).on_left_joint(place.tree, conf)?;
                    batch.root_changed = true;
                }
                next.is_some()
            }
            (Some(_), None) => false,
            (Some(place), Some((id, meaning))) => {
                let before = place.root.clone();
                let result = root_change(place, &change, (id, meaning), next.as_ref())?;
                batch.root_changed |= !Arc::ptr_eq(&before, place.root);
                let outcome = result.clone().map(|(_, outcome)| outcome);
                self.answer(entry, id, origin, outcome, batch);
                matches!(result, Ok((true, _)))
            }
            (None, _) => next.is_some(),
        };
        if let (true, Some(next)) = (verdict, next) {
            self.meta.conf = next;
            batch.confs.push((entry.index, Some(change)));
        } else {
            batch.confs.push((entry.index, None));
        }
        Ok(())
    }

    fn answer(
        &self,
        entry: &Entry,
        id: RequestId,
        origin: u64,
        result: Result<Outcome, ApiError>,
        batch: &mut Gathering,
    ) {
        if id.origin == origin {
            let (index, term) = (entry.index, entry.term);
            let revision = self.keyspace.revision();
            batch.results.push(AppliedEntry { id, index, term, revision, result });
        }
    }
}

/// What a command of the root does to the catalogue.
fn catalogue_command(
    place: &mut Membership,
    command: &Command,
) -> Result<Result<Reply, ApiError>, StorageError> {
    let root = Arc::make_mut(place.root);
    Ok(match command {
        Command::DestroyGroup { group } => {
            root.destroy_group(place.tree, *group)?.map(|()| Reply::DestroyGroup)
        }
        _ => root.create_group(place.tree)?.map(|group| Reply::CreateGroup { group }),
    })
}

/// `Ok((whether raft's configuration changes, ..))`. `next` is the configuration behind the
/// change, if it fits.
#[allow(clippy::type_complexity)]
fn root_change(
    place: &mut Membership,
    change: &ConfChange,
    (request, meaning): (RequestId, RootChange),
    next: Option<&ConfState>,
) -> Result<Result<(bool, Outcome), ApiError>, StorageError> {
    let verdict = match (place.root.verdict(change, &meaning), next) {
        (Ok(true), None) => Err(ApiError::NotEnoughStarted),
        // It changes nothing for raft: whether it would fit does not matter.
        (Ok(reconfigures), next) => Ok((reconfigures, next.cloned().unwrap_or_default())),
        (Err(error), _) => Err(error),
    };
    let (reconfigures, conf) = match verdict {
        Ok(verdict) => verdict,
        Err(error) => {
            let departs = place.root.departing.as_ref().is_some_and(|(_, d)| *d == meaning);
            if departs {
                Arc::make_mut(place.root).refused(place.tree, &meaning)?;
            }
            return Ok(Err(error));
        }
    };
    let (id, departs) = (meaning.id(), matches!(meaning, RootChange::Depart(_)));
    let root = Arc::make_mut(place.root);
    root.apply(place.tree, request, meaning, &conf)?;
    if departs {
        // Answered when it is done: by the removal, under the same request.
        return Ok(Ok((false, Outcome::Departing)));
    }
    let member = root.members.get(&id).cloned();
    let members = root.members.values().cloned().collect();
    Ok(Ok((reconfigures, Outcome::Members { member, members })))
}

/// The configuration behind a change, or `None` when it does not fit.
fn conf_after(conf: &ConfState, change: &ConfChange) -> Option<ConfState> {
    conf_change::changed(conf, change).ok()
}

impl Applier {
    /// Begins and ends groups as the catalogue says.
    fn follow_catalogue(&mut self) -> Result<(), StorageError> {
        let node = self.store.identity().node;
        let root = self.root.clone();
        let gone: Vec<GroupId> = self
            .groups
            .keys()
            .copied()
            .filter(|group| root.catalogue.is_destroyed(*group))
            .collect();
        for group in gone {
            self.groups.remove(&group);
            self.forget_owed(group);
            // The next checkpoint lists it no more: its pages are free then.
            self.unsaved_entries += 1;
        }
        for (&group, born) in &root.catalogue.groups {
            if self.groups.contains_key(&group) {
                continue;
            }
            let keyspace = Keyspace::open(group, &self.store)?;
            let meta = GroupMeta::born(born, node);
            let state = GroupState { keyspace, meta, deferred: Vec::new(), compacting: false };
            self.groups.insert(group, state);
            self.unsaved_entries += 1;
        }
        Ok(())
    }

    /// The membership of a fetched state of group 1 takes the place of the old one.
    pub(super) fn replace_root(
        &mut self,
        trees: &mut BTreeMap<TreeKind, Tree>,
    ) -> Result<(), StorageError> {
        let tree = trees.remove(&TreeKind(ROOT_TREE)).ok_or_else(|| {
            StorageError::corrupt(&self.path, 0, "the membership's tree", "no such tree")
        })?;
        self.root = Arc::new(RootState::load(&tree)?);
        self.root_tree = tree;
        self.follow_catalogue()
    }

    pub(super) fn replace_keyspace(
        &mut self,
        group: GroupId,
        meta: &SnapshotMeta,
        trees: BTreeMap<TreeKind, Tree>,
    ) -> Result<(), StorageError> {
        let keyspace = Keyspace::from_trees(group, trees)?;
        let meta = GroupMeta {
            applied: meta.index,
            term: meta.term,
            conf: meta.conf.clone(),
            installed: (meta.index, meta.term),
        };
        // Physical compactions that waited are answered by their deadline: whether they were
        // done before the state was replaced is not known here.
        self.groups
            .insert(group, GroupState { keyspace, meta, deferred: Vec::new(), compacting: true });
        self.unsaved_entries += 1;
        Ok(())
    }

    /// Everything the core must know of a state it has not seen grow.
    pub(super) fn replaced_batch(
        &self,
        group: GroupId,
        meta: SnapshotMeta,
    ) -> Result<AppliedBatch, StorageError> {
        let mut batch = self.boot_batch(group)?;
        batch.replaced = Some(meta);
        // What was skipped may have taken tokens back, and the state does not say which.
        batch.tokens.push(TokenChange::AllGone);
        Ok(batch)
    }

    /// The state of a group as if it had just been applied in one piece: all leases, all alarms,
    /// the membership.
    pub fn boot_batch(&self, group: GroupId) -> Result<AppliedBatch, StorageError> {
        let state = self.groups.get(&group).expect("only groups of this store are asked for");
        let view = state.keyspace.view();
        let mut lease_changes = Vec::new();
        for info in view.leases()? {
            lease_changes.push(LeaseChange::Granted { id: info.id, ttl_seconds: info.ttl_seconds });
            if info.remaining_seconds > 0 {
                lease_changes.push(LeaseChange::Checkpoint {
                    id: info.id,
                    remaining_seconds: info.remaining_seconds,
                });
            }
        }
        Ok(AppliedBatch {
            group,
            index: state.meta.applied,
            term: state.meta.term,
            results: Vec::new(),
            events: Vec::new(),
            lease_changes,
            leases_expired: 0,
            commands: Vec::new(),
            tokens: Vec::new(),
            confs: Vec::new(),
            alarms: Some(view.alarms(None)),
            root: (group == GroupId::ROOT).then(|| self.root.clone()),
            revision: state.keyspace.revision(),
            view,
            state_hash: state.keyspace.state_hash(),
            pressure: self.pressure(),
            replaced: None,
        })
    }

    /// Pins the state of a group as it is, for another node to fetch.
    pub fn pin(&mut self, group: GroupId) -> Result<Option<Pin>, StorageError> {
        let Some(state) = self.groups.get_mut(&group) else {
            return Ok(None);
        };
        let mut trees = state.keyspace.trees()?;
        if group == GroupId::ROOT {
            trees.push((TreeKind(ROOT_TREE), self.root_tree.view()));
        }
        trees.sort_by_key(|(kind, _)| kind.0);
        let meta = SnapshotMeta {
            index: state.meta.applied,
            term: state.meta.term,
            conf: state.meta.conf.clone(),
        };
        // Starts at a number drawn per process: a pin of an earlier life is never continued.
        let id = self.next_pin;
        self.next_pin = self.next_pin.wrapping_add(2);
        Ok(Some(Pin { group, id, meta, trees }))
    }
}
