//! One running member: its core, applier, log and snapshot ends, as production wires them, with
//! the queues between them in plain sight.

use crate::coverage::{Facet, conf_kind, peer_phase, role};
use crate::history::{Answer, Call, LeaseRow};
use crate::model::UserRows;
use crate::plan::Plan;
use crate::safety::{LogShape, Said};
use crate::stores;
use crate::trace::hash_bytes;
use crate::watch::WatchPlan;
use bytes::BytesMut;
use quorate::auth::AuthState;
use quorate::btree::{CheckpointDone, CheckpointJob, Step, Store, StoreOptions};
use quorate::codec::Reader;
use quorate::io::{Disk, DiskLock, MemDisk};
use quorate::multiraft::apply::AppliedBatch;
use quorate::multiraft::checkpoint::CheckpointPolicy;
use quorate::multiraft::meta::GroupMeta;
use quorate::multiraft::root::RootState;
use quorate::multiraft::snapshots::{InstallReady, InstallStep};
use quorate::multiraft::wire::SnapshotFetch;
use quorate::multiraft::{
    Applier, ApplyJob, BatchId, Installer, LogRead, SnapshotServer, TrimPolicy, WalBatch,
};
use quorate::mvcc::ReadError;
use quorate::node::tokens::Tokens;
use quorate::node::{
    Action, BootConfig, BootError, Core, CoreConfig, Founding, Member, Output, WatchRoom, boot,
};
use quorate::raft::{PeerState, PeerStatus, Role};
use quorate::transport::handshake::{decode_hello, encode_hello};
use quorate::transport::{Hello, LocalIdentity, PeerBook, Refusal, StreamKind, Verdict, judge};
use quorate::types::command::{AlarmKind, RangeRequest};
use quorate::types::reply::RangeReply;
use quorate::types::{
    ApiError, ClusterId, GroupId, Incarnation, LogIndex, Member as MemberRow, NodeId, StorageError,
    Term,
};
use quorate::wal::{GroupLog, Wal, WalOptions};
use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::Arc;

pub const CLUSTER: ClusterId = ClusterId(0xc1);
pub const FOREIGN_CLUSTER: ClusterId = ClusterId(0xf0e);
pub const WAL_DIR: &str = "/data/member/wal";
pub const STORE: &str = "/data/member/snap/db";

/// Whose data directory a slot's disk holds, and how it comes into being.
#[derive(Clone, Debug)]
pub struct Birth {
    pub cluster: ClusterId,
    pub node: NodeId,
    /// Where its process listens.
    pub peer_urls: Vec<String>,
    pub origin: Origin,
}

/// How a data directory comes into being.
#[derive(Clone, Debug)]
pub enum Origin {
    /// With a new cluster of these members.
    New { members: Vec<(NodeId, Vec<String>)> },
    /// Empty, to be filled by the cluster that the member was added to.
    Join,
}

impl Origin {
    fn founding(&self, groups: Vec<GroupId>) -> Founding {
        match self {
            Origin::New { members } => {
                let row = |(id, urls): &(NodeId, Vec<String>)| MemberRow {
                    id: *id,
                    peer_urls: urls.clone(),
                    ..MemberRow::default()
                };
                Founding::New { members: members.iter().map(row).collect(), groups }
            }
            Origin::Join => Founding::Join,
        }
    }
}

/// The kinds of work that lanes do; the number goes into the trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    WalWrite,
    WalSync,
    LogRead,
    Apply,
    Background,
    Serve,
    Install,
    /// Ends the core's turn: what was handled since the last one leaves together.
    Turn,
    /// What was applied is told to watchers and to the core.
    Publish,
    /// Progress that is due, and watchers that read the past.
    Upkeep,
}

impl Work {
    pub fn name(self) -> &'static str {
        match self {
            Work::WalWrite => "write",
            Work::WalSync => "sync",
            Work::LogRead => "log read",
            Work::Apply => "apply",
            Work::Background => "background",
            Work::Serve => "serve snapshot",
            Work::Install => "install snapshot",
            Work::Turn => "turn",
            Work::Publish => "publish",
            Work::Upkeep => "watch upkeep",
        }
    }
}

/// What the applier does, one at a time.
#[derive(Debug)]
pub enum Job {
    Apply(ApplyJob),
    Pin(GroupId, NodeId),
    Install(Box<InstallReady>),
    FinishCheckpoint(CheckpointDone),
}

pub struct Live {
    core: Core,
    pub applier: Applier,
    pub wal: Wal,
    pub server: SnapshotServer,
    pub installer: Installer,
    _lock: Box<dyn DiskLock>,
    identity: LocalIdentity,
    book: PeerBook,
    pub checkpoint: Option<CheckpointJob>,
    pub wal_batch: Option<WalBatch>,
    /// The newest term of each group that its log was given.
    pub terms: BTreeMap<GroupId, Term>,
    pub wal_synced: Option<BatchId>,
    /// Where each group's newest state for others was pinned.
    pub pinned: BTreeMap<GroupId, LogIndex>,
    pub jobs: VecDeque<Job>,
    pub log_reads: VecDeque<LogRead>,
    pub fetches: VecDeque<(NodeId, SnapshotFetch)>,
    pub installs: VecDeque<InstallStep>,
    pub applying: bool,
    pub in_background: bool,
    pub spare_wanted: bool,
    /// The log's upkeep has just found nothing more to do.
    pub tidied: bool,
    pub turn_due: bool,
    /// Applied and visible to readers, not yet published.
    pub publishing: Option<AppliedBatch>,
    rooms: BTreeMap<GroupId, WatchRoom>,
    watch: WatchPlan,
    /// The tokens it remembers of each group, as of the index that was published last.
    tokens: BTreeMap<GroupId, (LogIndex, Tokens)>,
    token_ttl_ms: u64,
}

/// What a power failure right after the start would leave.
pub struct Found {
    pub logs: BTreeMap<GroupId, LogShape>,
    /// The newest checkpoint, or what is wrong with the store.
    pub checkpoint: Result<u64, String>,
    /// What is wrong with the checkpoint before it.
    pub older: Result<(), String>,
}

impl Live {
    pub fn boot(
        plan: &Plan,
        birth: &Birth,
        incarnation: Incarnation,
        disk: &MemDisk,
        process: u64,
    ) -> Result<(Live, Found), BootError> {
        let origin = quorate::types::prng::Prng::stream(plan.seed ^ process, "origin").next_u64();
        let mut core = CoreConfig::new(birth.cluster, birth.node, incarnation, origin);
        core.tick_ms = plan.tick_us / 1000;
        core.election_ticks = plan.election_ticks;
        core.healthy_ms = 5 * core.tick_ms;
        core.learners_max = 2;
        // In a third of the seeds the rest of leases is told often.
        let mut draw = quorate::types::prng::Prng::stream(plan.seed, "lease-checkpoints");
        core.lease_checkpoint_ms = draw.next_u64().is_multiple_of(3).then_some(10 * core.tick_ms);
        core.pre_vote = plan.pre_vote;
        core.quota_bytes = plan.quota_bytes;
        core.tail_bytes = plan.wal_tail_bytes.max(64 << 10);
        core.trim = TrimPolicy {
            keep_entries: plan.trim_keep_entries,
            keep_bytes: 64 << 20,
            step_entries: 1,
        };
        core.bounds.log_cache_bytes_max = plan.log_cache_bytes;
        core.bounds.append_bytes_max = plan.append_bytes;
        core.bounds.inflight_appends_max = plan.inflight_appends;
        let groups = (1..=plan.groups).map(GroupId).collect();
        let founding = birth.origin.founding(groups);
        let mut config = BootConfig::new("/data", core, founding);
        config.wal = WalOptions { segment_bytes: plan.segment_bytes, spare_segments: 2 };
        config.store = StoreOptions { cache_bytes: plan.cache_bytes };
        config.checkpoint =
            CheckpointPolicy { tail_bytes: plan.wal_tail_bytes, tail_entries: plan.tail_entries };
        config.chunk_bytes = plan.snapshot_chunk_bytes;
        let (wal_options, store_options) = (config.wal, config.store);
        let arc: Arc<dyn Disk> = Arc::new(disk.clone());
        let Member { core, applier, wal, store: _, snapshots, installer, lock } =
            boot(arc, config)?;
        // What a power failure would leave right now: all that the member builds on must be in it.
        let durable: Arc<dyn Disk> = Arc::new(disk.fork());
        let checkpoint = durable_checkpoint(&durable, store_options);
        let (_, logs) = Wal::open(durable, Path::new(WAL_DIR), wal_options)?;
        let older = stores::without_newest_meta(&disk.fork(), store_options, Some(&logs));
        let logs = logs.iter().map(|(group, log)| (*group, shape(log))).collect();
        let found = Found { logs, checkpoint, older };
        let identity = LocalIdentity {
            cluster: birth.cluster,
            node: birth.node,
            incarnation,
            server_version: "sim".to_owned(),
            peer_urls: birth.peer_urls.clone(),
        };
        let mut book = PeerBook::new();
        // One that lags may not have heard of the leader that now speaks to it.
        book.admit_unknown(true);
        let mut live = Live {
            core,
            applier,
            wal,
            server: snapshots,
            installer,
            _lock: lock,
            identity,
            book,
            checkpoint: None,
            wal_batch: None,
            terms: BTreeMap::new(),
            pinned: BTreeMap::new(),
            wal_synced: None,
            jobs: VecDeque::new(),
            log_reads: VecDeque::new(),
            fetches: VecDeque::new(),
            installs: VecDeque::new(),
            applying: false,
            in_background: false,
            // A start leaves work to the upkeep.
            spare_wanted: true,
            tidied: false,
            turn_due: false,
            publishing: None,
            rooms: BTreeMap::new(),
            watch: plan.watch.clone(),
            tokens: BTreeMap::new(),
            token_ttl_ms: plan.auth.token_ttl_ms,
        };
        for group in live.applier.groups().collect::<Vec<_>>() {
            let revision = live.applier.view(group).map_or(1, |view| view.revision());
            live.open_room(group, revision);
        }
        let root = live.core.root().clone();
        live.follow_root(&root);
        Ok((live, found))
    }

    /// Tells the core the time and one action.
    pub fn handle(&mut self, now_ms: u64, action: Action) {
        self.core.at(now_ms);
        if let Action::Tick { now_ms } = &action {
            self.server.tick(*now_ms);
        }
        self.core.handle(action);
    }

    pub fn end_turn(&mut self) -> Output {
        self.turn_due = false;
        self.core.end_turn()
    }

    /// Whom to talk to follows from the membership.
    pub fn follow_root(&mut self, root: &RootState) {
        for (id, member) in &root.members {
            self.book.add(*id, member.incarnation);
        }
        for id in &root.removed {
            self.book.remove(*id);
        }
    }

    pub fn root(&self) -> Arc<RootState> {
        self.core.root().clone()
    }
    /// Whether the handshake has been told of a removal: the frames of the turn that brings it
    /// leave before.
    pub fn has_removed(&self, node: NodeId) -> bool {
        self.book.is_removed(node)
    }
    pub fn group_ids(&self) -> Vec<GroupId> {
        self.core.group_ids().collect()
    }

    /// The group's watchers: the hub as production drives it.
    pub fn room(&mut self, group: GroupId) -> Option<&mut WatchRoom> {
        self.rooms.get_mut(&group)
    }
    /// Opens the room of a group that is new here; its present is `revision`.
    fn open_room(&mut self, group: GroupId, revision: i64) {
        let plan = &self.watch;
        let mut room = WatchRoom::new(revision, plan.progress_ms);
        room.set_bounds(plan.buffer_bytes, plan.records);
        self.rooms.insert(group, room);
    }
    /// Follows what was applied with the tokens, and tells the group's watchers.
    pub fn publish(&mut self, batch: &mut AppliedBatch, now_ms: u64) {
        let ttl_ms = self.token_ttl_ms;
        let none = || (LogIndex::ZERO, Tokens::new(ttl_ms));
        let (at, tokens) = self.tokens.entry(batch.group).or_insert_with(none);
        batch.tokens.drain(..).for_each(|change| tokens.changed(change, now_ms));
        *at = batch.index;
        match self.rooms.get_mut(&batch.group) {
            Some(room) => room.publish(batch),
            None => self.open_room(batch.group, batch.revision),
        }
    }
    /// Whom a token stands for, as of which index.
    pub fn token_user(
        &mut self,
        group: GroupId,
        token: &str,
        now_ms: u64,
    ) -> (LogIndex, Option<String>) {
        match self.tokens.get_mut(&group) {
            Some((at, tokens)) => (*at, tokens.user(token, now_ms)),
            None => (LogIndex::ZERO, None),
        }
    }
    pub fn rooms(&self) -> Vec<GroupId> {
        self.rooms.keys().copied().collect()
    }

    pub fn said(&self, group: GroupId) -> Option<Said> {
        self.said_and_facet(group).map(|both| both.0)
    }

    /// Whether it fetches the group's state, or has a follower that it is about to tell to.
    pub fn moves_state(&self, group: GroupId) -> bool {
        self.core.status(group).is_some_and(|status| {
            let behind = |peer: &PeerStatus| peer.state == PeerState::Snapshot;
            status.fetching || status.raft.progress.iter().any(behind)
        })
    }

    /// What a replica says of itself, and what is left of it when the numbers are gone.
    pub fn said_and_facet(&self, group: GroupId) -> Option<(Said, Facet)> {
        let whole = self.core.status(group)?;
        let status = whole.raft;
        let mut phases = u16::from(whole.fetching || !self.installs.is_empty())
            | u16::from(!status.transferee.is_none()) << 1;
        for peer in &status.progress {
            phases |= peer_phase(peer.state);
        }
        let facet = Facet {
            up: true,
            role: role(status.role),
            term: status.term,
            last: status.last,
            commit: status.commit,
            phases,
            conf: conf_kind(&status.conf),
        };
        let said = Said {
            term: status.term,
            vote: status.vote,
            is_leader: status.role == Role::Leader,
            commit: status.commit,
            applied: status.applied,
            last: status.last,
            conf: status.conf,
        };
        Some((said, facet))
    }

    pub fn status(&self, group: GroupId) -> Option<quorate::raft::Status> {
        self.core.status(group).map(|status| status.raft)
    }

    /// Requests and reads that wait inside the core: bounded.
    pub fn waiting(&self) -> usize {
        self.core.pending() + self.jobs.len() + self.log_reads.len() + self.installs.len()
    }

    /// Whether the applier has the group: not before it is created or fetched, nor once it is
    /// destroyed.
    pub fn has_state(&self, group: GroupId) -> bool {
        self.applier.view(group).is_some()
    }

    pub fn applied(&self, group: GroupId) -> LogIndex {
        self.applier.state_hash(group).map_or(LogIndex::ZERO, |s| s.0)
    }

    /// The data directory that this member believes to be `node`'s.
    pub fn bound(&self, node: NodeId) -> Option<Incarnation> {
        self.core.root().members.get(&node)?.incarnation
    }

    /// Whether every checkpoint that a start may begin with has applied the entry.
    pub fn holds_for_good(&self, group: GroupId, index: LogIndex) -> bool {
        let store = self.applier.store();
        [store.group_metas(), store.older_group_metas()].iter().all(|metas| {
            let meta = metas.get(&group).map(|bytes| GroupMeta::decode(bytes, Path::new(STORE)));
            matches!(meta, Some(Ok(meta)) if meta.applied >= index)
        })
    }

    pub fn has_background_work(&self) -> bool {
        self.checkpoint.is_some()
            || self.spare_wanted
            || self.applier.is_checkpoint_due() && !self.finishing()
            || self.applier.compacting().next().is_some()
    }

    /// The place of the next job that may be done: while a checkpoint cannot keep up, nothing more
    /// is applied, as in production.
    pub fn next_job(&self) -> Option<usize> {
        if !self.applier.is_overfull() {
            return (!self.jobs.is_empty()).then_some(0);
        }
        self.jobs.iter().position(|job| !matches!(job, Job::Apply(_) | Job::Install(_)))
    }

    fn finishing(&self) -> bool {
        self.jobs.iter().any(|job| matches!(job, Job::FinishCheckpoint(_)))
    }

    /// Answers a read from the newest applied state.
    pub fn read(&self, group: GroupId, call: &Call) -> Result<Answer, StorageError> {
        let Some(view) = self.applier.view(group) else {
            // Not heard of yet, or destroyed.
            let error = ApiError::MemberNotFound;
            return Ok(Answer::Failed { error, never: false });
        };
        let revision = view.revision();
        let failed = |error: ReadError| match error {
            ReadError::Api(error) => Ok(Answer::Failed { error, never: false }),
            ReadError::Storage(error) => Err(error),
        };
        match call {
            Call::Range(request) => match view.range(request) {
                Ok(reply) => Ok(Answer::Range { reply, revision }),
                Err(error) => failed(error),
            },
            Call::ReadTxn(request) => match view.read_txn(request) {
                Ok(reply) => Ok(Answer::ReadTxn { reply, revision }),
                Err(error) => failed(error),
            },
            Call::Leases => {
                let leases = self.read_leases(group)?;
                Ok(Answer::Leases { leases, applied: self.applied(group) })
            }
            _ => unreachable!("only reads are served from a view"),
        }
    }

    pub fn contents(
        &self,
        group: GroupId,
        request: &RangeRequest,
    ) -> Result<(RangeReply, i64), StorageError> {
        let view = self.applier.view(group).expect("every member has every group");
        match view.range(request) {
            Ok(reply) => Ok((reply, view.revision())),
            Err(ReadError::Storage(error)) => Err(error),
            Err(ReadError::Api(error)) => panic!("a plain range fails with {error:?}"),
        }
    }

    /// Each lease with its TTL and its keys, in order of their ids.
    pub fn leases(&self, group: GroupId) -> Vec<LeaseRow> {
        self.read_leases(group).expect("leases can be read")
    }

    fn read_leases(&self, group: GroupId) -> Result<Vec<LeaseRow>, StorageError> {
        let view = self.applier.view(group).expect("every member has every group");
        let mut all = Vec::new();
        for info in view.leases()? {
            let whole = view.lease(info.id, true)?;
            all.push((info.id, info.ttl_seconds, whole.map(|l| l.keys).unwrap_or_default()));
        }
        all.sort();
        Ok(all)
    }

    /// (revision, compact revision, alarms) of what is applied.
    pub fn numbers(&self, group: GroupId) -> (i64, i64, Vec<(NodeId, AlarmKind)>) {
        let view = self.applier.view(group).expect("every member has every group");
        (view.revision(), view.compact_revision(), view.alarms(None))
    }

    pub fn users(&self, group: GroupId) -> UserRows {
        let view = self.applier.view(group).expect("every member has every group");
        let auth = view.auth();
        let users = auth.users().map(|(name, user)| {
            (name.clone(), user.password_hash.clone(), user.roles.iter().cloned().collect())
        });
        let roles = auth.roles().map(|name| {
            let permissions = auth.permissions(name).expect("it has just named the role");
            UserRows::role(name, permissions.into_iter())
        });
        UserRows {
            enabled: auth.is_enabled(),
            revision: auth.revision(),
            users: users.collect(),
            roles: roles.collect(),
        }
    }

    /// Users and roles as applied here; `None` without the group.
    pub fn auth(&self, group: GroupId) -> Option<Arc<AuthState>> {
        self.applier.view(group).map(|view| view.auth().clone())
    }

    /// HashKV at the newest revision: (hash, compact revision).
    pub fn hash_kv(&self, group: GroupId) -> (u32, i64) {
        let view = self.applier.view(group).expect("every member has every group");
        match view.hash_kv(0) {
            Ok(kv) => (kv.hash, kv.compact_revision),
            Err(error) => panic!("HashKV of the newest revision fails: {error:?}"),
        }
    }

    pub fn verify_store(&self) -> Result<(), String> {
        let report = self.applier.store().verify().map_err(|error| error.to_string())?;
        if report.problems.is_empty() { Ok(()) } else { Err(format!("{:?}", report.problems)) }
    }

    pub fn identity(&self) -> &LocalIdentity {
        &self.identity
    }
    pub fn book(&self) -> &PeerBook {
        &self.book
    }
    /// The other members, as this one knows them.
    pub fn peers(&self) -> impl Iterator<Item = NodeId> + '_ {
        let own = self.identity.node;
        self.core.root().members.keys().copied().filter(move |id| *id != own)
    }
    pub fn frames_refused(&self) -> u64 {
        self.core.counters().0.frames_refused
    }

    /// Terms, votes, logs, membership and data as one number.
    pub fn fingerprint(&self) -> u64 {
        let groups: Vec<_> = self
            .core
            .group_ids()
            .map(|group| {
                let raft = self.core.status(group).expect("it named the group").raft;
                let state = self.applier.state_hash(group);
                let log = (raft.term, raft.vote, raft.commit, raft.applied, raft.last);
                (group, raft.role, raft.conf, log, state)
            })
            .collect();
        hash_bytes(format!("{groups:?} {:?}", self.core.root()).as_bytes())
    }
}

/// What arrives of a hello.
fn carried(hello: Hello) -> Hello {
    let mut bytes = BytesMut::new();
    encode_hello(&hello, &mut bytes);
    let bytes = bytes.freeze();
    let there = decode_hello(&mut Reader::new(&bytes)).expect("a hello decodes");
    assert_eq!(there, hello, "a hello arrives as it was sent");
    there
}

/// Two members shake hands, both ways; what each refuses, if it does. Accepted ones are pinned.
pub fn meet(a: &mut Live, b: &mut Live) -> (Option<Refusal>, Option<Refusal>) {
    let from_a = carried(a.identity.hello(b.identity.node, StreamKind::Messages));
    let from_b = carried(b.identity.hello(a.identity.node, StreamKind::Messages));
    let refusal = |verdict| match verdict {
        Verdict::Accept => None,
        Verdict::Refuse(refusal) => Some(refusal),
    };
    let by_a = refusal(judge(&a.identity, &a.book, &from_b));
    let by_b = refusal(judge(&b.identity, &b.book, &from_a));
    if by_a.is_none() && by_b.is_none() {
        a.book.pin(b.identity.node, b.identity.incarnation);
        b.book.pin(a.identity.node, a.identity.incarnation);
    }
    (by_a, by_b)
}

pub fn step_checkpoint(job: &mut CheckpointJob) -> Result<Option<CheckpointDone>, StorageError> {
    match job.step()? {
        Step::More => Ok(None),
        Step::Done(done) => Ok(Some(done)),
    }
}

/// Whether the error of a proposal promises that the command was not and will not be applied.
pub fn is_never(error: &ApiError) -> bool {
    matches!(error, ApiError::TooManyRequests)
}

fn durable_checkpoint(disk: &Arc<dyn Disk>, options: StoreOptions) -> Result<u64, String> {
    let store = Store::open(disk.clone(), Path::new(STORE), options).map_err(|e| e.to_string())?;
    let report = store.verify().map_err(|e| e.to_string())?;
    if report.problems.is_empty() {
        Ok(store.checkpoint())
    } else {
        Err(format!("checkpoint {}: {:?}", store.checkpoint(), report.problems))
    }
}

fn shape(log: &GroupLog) -> LogShape {
    let mut shape = LogShape { hard: log.hard, start: log.start, ..LogShape::default() };
    let mut runs = log.terms.iter().peekable();
    while let Some((first, term)) = runs.next() {
        let end = runs.peek().map_or(log.last.next(), |(next, _)| *next);
        for index in first.0..end.0 {
            shape.terms.insert(LogIndex(index), *term);
        }
    }
    shape
}
