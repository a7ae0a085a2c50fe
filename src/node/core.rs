//! One member's core: everything it decides, as one function of what happens to it.
//!
//! `handle` takes one action; `end_turn` gives what should be done. Between the two nothing
//! leaves, so that all that has arrived shares one turn: one WAL batch, one frame per peer, one
//! read round per group.
//!
//! The core never blocks and never touches a disk, a socket or a clock. Requests it cannot serve
//! yet wait here, bounded in number and in time; every request is answered once, unless it is
//! cancelled.

use super::action::{Action, Answer, Output, Refusal, StopReason, Token};
use super::changes::{Removal, WaitingConf};
use super::config::CoreConfig;
use super::group::{Group, GroupStatus, Peer};
use super::lessor::SCAN_MS;
use super::requests::{INSIDE_SEQ, Request};
use crate::multiraft::apply::{AppliedBatch, Pressure};
use crate::multiraft::host::{Host, HostCounters};
use crate::multiraft::outbox::Outbox;
use crate::multiraft::root::RootState;
use crate::multiraft::turn::SoftState;
use crate::multiraft::wire::NodeMessage;
use crate::raft::{self, Input, Role};
use crate::types::map::Map;
use crate::types::prng::Prng;
use crate::types::{ApiError, GroupId, Incarnation, LogIndex, MessageBody, NodeId};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// Ticks made up for after a pause: more would only make a member that was paused campaign
/// before it has read what came in meanwhile.
const TICKS_AT_ONCE_MAX: u64 = 2;

/// What the core counts; every field only grows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CoreCounters {
    pub proposals: u64,
    pub proposals_failed: u64,
    pub proposals_applied: u64,
    pub reads: u64,
    pub reads_failed: u64,
    pub leader_changes: u64,
    pub leases_expired: u64,
    pub frames_refused: u64,
    pub snapshots_fetched: u64,
    pub snapshots_refused: u64,
    pub too_many: u64,
    /// Logs whose start was made up for at boot: the member had stopped between a raft snapshot's
    /// checkpoint and the log's new start.
    pub log_starts_amended: u64,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Core {
    pub(super) config: CoreConfig,
    pub(super) host: Host,
    pub(super) outbox: Outbox,
    pub(super) out: Output,
    pub(super) groups: BTreeMap<GroupId, Group>,
    pub(super) peers: BTreeMap<NodeId, Peer>,
    pub(super) root: Arc<RootState>,
    pub(super) now_ms: u64,
    ticked_ms: Option<u64>,
    pub(super) scanned_ms: u64,
    pub(super) requests: BTreeMap<u64, Request>,
    pub(super) tokens: Map<Token, u64>,
    /// (deadline, request) in order; requests that are done are skipped.
    pub(super) deadlines: VecDeque<(u64, u64)>,
    /// Bytes of proposals that wait here for a leader.
    pub(super) parked_bytes: usize,
    pub(super) next_seq: u64,
    pub(super) next_context: u64,
    pub(super) prng: Prng,
    pub(super) pressure: Pressure,
    pub(super) publishing: Option<u64>,
    /// Checked changes that another one keeps from being proposed.
    pub(super) confs_waiting: VecDeque<WaitingConf>,
    pub(super) stopping_since_ms: Option<u64>,
    pub(super) removal: Option<Removal>,
    /// Logs of groups that the store's checkpoint does not hold: of some whose creation is about
    /// to be applied (again), and of destroyed ones.
    pub(super) orphans: BTreeMap<GroupId, raft::Boot>,
    /// Destroyed groups whose logs go once no checkpoint holds them.
    pub(super) doomed: BTreeSet<GroupId>,
    pub(super) counters: CoreCounters,
}

/// One group's replica at start: what the WAL and the store's checkpoint say.
#[derive(Debug)]
pub struct GroupStart {
    pub group: GroupId,
    pub boot: raft::Boot,
    /// The state as the applier opened it (`Applier::boot_batch`).
    pub state: AppliedBatch,
}

impl Core {
    /// `orphans` are the logs found beside those of `starts`; of each only what the log itself
    /// says counts.
    pub fn new(
        config: CoreConfig,
        starts: Vec<GroupStart>,
        root: Arc<RootState>,
        orphans: BTreeMap<GroupId, raft::Boot>,
    ) -> Core {
        let mut host = Host::new(config.node, config.trim);
        let mut groups = BTreeMap::new();
        let mut pressure = Pressure::default();
        for GroupStart { group, boot, state } in starts {
            let soft = SoftState {
                group,
                leader: NodeId::NONE,
                role: Role::Follower,
                term: boot.hard.term,
            };
            let alone = boot.conf.voters == [config.node] && !boot.conf.is_joint();
            let mut entry = Group::new(soft, &boot);
            entry.state_hash = (state.index, state.state_hash);
            entry.alarms = state.alarms.clone().unwrap_or_default();
            for &change in &state.lease_changes {
                entry.lessor.changed(change, 0);
            }
            pressure = state.pressure;
            groups.insert(group, entry);
            host.add(config.of_group(group), boot);
            if alone {
                host.step(group, Input::Campaign);
            }
        }
        let prng = Prng::stream(config.seed, "leases");
        let next_context = Prng::stream(config.origin, "reads").next_u64();
        let gone = root.removed.contains(&config.node);
        let doomed = orphans.keys().copied().filter(|g| root.catalogue.is_destroyed(*g)).collect();
        Core {
            config,
            host,
            outbox: Outbox::default(),
            out: Output::default(),
            groups,
            peers: BTreeMap::new(),
            root,
            now_ms: 0,
            ticked_ms: None,
            scanned_ms: 0,
            requests: BTreeMap::new(),
            tokens: Map::default(),
            deadlines: VecDeque::new(),
            parked_bytes: 0,
            next_seq: INSIDE_SEQ,
            next_context,
            prng,
            pressure,
            publishing: None,
            confs_waiting: VecDeque::new(),
            stopping_since_ms: None,
            removal: gone.then(Removal::default),
            orphans,
            doomed,
            counters: CoreCounters::default(),
        }
    }

    /// What time it is. A driver says so before the actions of every turn, not only with ticks:
    /// what is timed from a stale clock (a lease that was granted behind a stalled disk) would
    /// end early.
    pub fn at(&mut self, now_ms: u64) {
        self.now_ms = self.now_ms.max(now_ms);
    }

    /// Takes one thing that happened.
    pub fn handle(&mut self, action: Action) {
        match action {
            Action::Tick { now_ms } => self.tick(now_ms),
            Action::Frame { from, incarnation, message } => self.frame(from, incarnation, message),
            Action::PeerUp { peer } => self.peer(peer, true),
            Action::PeerDown { peer } => {
                self.peer(peer, false);
                self.unreachable(peer);
            }
            Action::Unreachable { peer } => self.unreachable(peer),
            Action::Propose { group, token, command } => self.propose(group, token, None, command),
            Action::ProposeAs { group, token, caller, command } => {
                self.propose(group, token, Some(caller), command);
            }
            Action::Read { group, token } => self.read(group, token),
            Action::KeepAlive { group, token, lease } => self.ask_lease(group, token, lease, true),
            Action::LeaseTtl { group, token, lease } => self.ask_lease(group, token, lease, false),
            Action::Transfer { group, token, to } => self.transfer(group, token, to),
            Action::Membership { token, change } => self.change_membership(token, change),
            Action::Cancel { token } => self.cancel(token),
            Action::Persisted { batch } => self.host.persisted(batch),
            Action::Applied { batch } => self.applied(*batch),
            Action::Compacted { group: _, answered } => {
                for entry in answered {
                    self.answer_applied(entry);
                }
            }
            Action::EntriesRead { group, purpose, from, entries } => {
                self.host.step(group, Input::EntriesRead { purpose, from, entries });
            }
            Action::CheckpointDone { held, pressure } => {
                self.pressure = pressure;
                self.drop_logs(&held);
                self.trim(held);
            }
            Action::SnapshotReady { group, to, meta } => self.snapshot_ready(group, to, meta),
            Action::SnapshotFailed { group, to } => {
                self.host.step(group, Input::SnapshotFailed { to });
            }
            Action::ChunkInstalled(installed) => self.chunk_installed(installed),
            Action::SnapshotDurable { group, meta } => self.snapshot_durable(group, meta),
            Action::SnapshotRefused { group, meta } => self.refuse_fetch(group, meta.index),
            Action::ToldRemoved { by } => self.told_removed(by),
            Action::Stop => self.stop(),
        }
    }

    /// What should be done about everything handled since the last turn.
    pub fn end_turn(&mut self) -> Output {
        // What the groups yield can make the core step them again (a leader appears, and requests
        // were waiting for one): all of it belongs to this turn. It comes to rest because what is
        // dropped waits for the next tick or leader.
        loop {
            self.flush();
            let turn = self.host.drain();
            if turn.is_empty() {
                break;
            }
            self.digest(turn);
        }
        self.out.wal = self.host.seal();
        self.out.frames = self.outbox.drain();
        self.finish_stop();
        std::mem::take(&mut self.out)
    }

    /// Whether a frame of `from`, whose data directory is `incarnation`, may be taken. Also the
    /// handshake's question. A member this one has not heard of is let in: it may have been added
    /// behind what this one has applied.
    pub fn admit(&self, from: NodeId, incarnation: Incarnation) -> Result<(), Refusal> {
        if self.root.removed.contains(&from) {
            return Err(Refusal::RemovedMember);
        }
        match self.root.members.get(&from).and_then(|member| member.incarnation) {
            Some(bound) if bound != incarnation => Err(Refusal::IncarnationMismatch),
            _ => Ok(()),
        }
    }

    pub fn config(&self) -> &CoreConfig {
        &self.config
    }
    pub fn root(&self) -> &Arc<RootState> {
        &self.root
    }
    pub fn now_ms(&self) -> u64 {
        self.now_ms
    }
    pub fn counters(&self) -> (CoreCounters, HostCounters) {
        (self.counters, self.host.counters())
    }
    pub fn soft(&self, group: GroupId) -> Option<SoftState> {
        self.groups.get(&group).map(|group| group.soft)
    }
    pub fn applied_index(&self, group: GroupId) -> Option<LogIndex> {
        self.groups.get(&group).map(|group| group.applied)
    }
    pub fn commit_index(&self, group: GroupId) -> Option<LogIndex> {
        self.host.replica(group).map(|replica| replica.commit())
    }
    /// Whether this member is the group's only voter and leads it: then what it has made visible
    /// is all that was ever acknowledged, and a read needs no round. It holds until a
    /// configuration with a second voter is in force, which cannot be without this member.
    pub fn reads_alone(&self, group: GroupId) -> bool {
        let (Some(entry), Some(replica)) = (self.groups.get(&group), self.host.replica(group))
        else {
            return false;
        };
        entry.conf.voters == [self.config.node]
            && !entry.conf.is_joint()
            && replica.role() == Role::Leader
            && replica.log_term(replica.commit()) == Some(replica.term())
            // What was committed before this leadership may not be visible yet.
            && replica.log_term(entry.applied) == Some(replica.term())
    }
    pub fn is_learner(&self) -> bool {
        self.root.members.get(&self.config.node).is_some_and(|member| member.is_learner)
    }
    pub fn is_batch_in_flight(&self) -> bool {
        self.host.is_batch_in_flight()
    }
    /// Requests not yet answered, reads apart.
    pub fn pending(&self) -> usize {
        self.requests.len()
    }
    pub fn group_ids(&self) -> impl Iterator<Item = GroupId> + '_ {
        self.groups.keys().copied()
    }

    pub fn status(&self, group: GroupId) -> Option<GroupStatus> {
        let entry = self.groups.get(&group)?;
        Some(GroupStatus {
            raft: self.host.replica(group)?.status(),
            applied: entry.applied,
            state_hash: entry.state_hash,
            leases: entry.lessor.len(),
            alarms: entry.alarms.clone(),
            reads_waiting: entry.reads.len(),
            parked: entry.parked.len(),
            fetching: entry.fetch.is_some(),
        })
    }

    fn tick(&mut self, now_ms: u64) {
        self.now_ms = self.now_ms.max(now_ms);
        let now = self.now_ms;
        let last = *self.ticked_ms.get_or_insert(now);
        let due = (now - last) / self.config.tick_ms;
        if due > TICKS_AT_ONCE_MAX {
            self.ticked_ms = Some(now);
        } else {
            self.ticked_ms = Some(last + due * self.config.tick_ms);
        }
        for _ in 0..due.min(TICKS_AT_ONCE_MAX) {
            self.host.tick();
        }
        self.time_out_requests();
        let groups: Vec<GroupId> = self.groups.keys().copied().collect();
        for &group in &groups {
            self.time_out_reads(group);
            self.retry_parked(group);
            self.tick_fetch(group);
        }
        self.retry_lease_asks();
        self.retry_confs();
        if now >= self.scanned_ms + SCAN_MS {
            self.scanned_ms = now;
            for group in groups {
                self.expire_leases(group);
                self.checkpoint_leases(group);
            }
        }
        self.publish();
        self.lead_membership();
        self.tick_removal();
        self.tick_stop();
    }

    fn frame(&mut self, from: NodeId, incarnation: Incarnation, message: NodeMessage) {
        if let Err(refusal) = self.admit(from, incarnation) {
            self.counters.frames_refused += 1;
            self.out.refusals.push((from, refusal));
            return;
        }
        match message {
            NodeMessage::Raft(messages) => {
                let full = self.is_behind();
                for message in messages {
                    if message.from != from {
                        self.counters.frames_refused += 1;
                    } else if full && matches!(message.body, MessageBody::Propose { .. }) {
                        // Its member gives up on it by its own clock.
                        self.counters.too_many += 1;
                    } else {
                        self.host.receive(message);
                    }
                }
            }
            NodeMessage::SnapshotFetch(fetch) => self.out.serve.push((from, fetch)),
            NodeMessage::SnapshotChunk(chunk) => self.chunk_arrived(from, chunk),
            NodeMessage::SnapshotGone { group, id, meta_index } => {
                self.snapshot_gone(from, group, id, meta_index);
            }
            NodeMessage::LeaseAsk { group, id, lease, renew } => {
                self.lease_asked(from, group, id, lease, renew);
            }
            NodeMessage::LeaseTold { group: _, id, outcome } => self.lease_told(id, outcome),
            NodeMessage::MembershipAsk { id, change } => self.membership_asked(from, id, &change),
            NodeMessage::MembershipRefused { id, error } => {
                if id.origin == self.config.origin
                    && self.requests.get(&id.seq).is_some_and(Request::is_membership)
                {
                    self.finish(id.seq, Err(error));
                }
            }
        }
    }

    fn peer(&mut self, peer: NodeId, up: bool) {
        let now = self.now_ms;
        let entry = self.peers.entry(peer).or_insert(Peer { up: !up, since_ms: now });
        if entry.up != up {
            *entry = Peer { up, since_ms: now };
        }
    }

    fn unreachable(&mut self, peer: NodeId) {
        let groups: Vec<GroupId> = self.groups.keys().copied().collect();
        for group in groups {
            let entry = &self.groups[&group];
            if entry.leads() && entry.conf.members().contains(&peer) {
                self.host.step(group, Input::Unreachable(peer));
            }
        }
    }

    /// Since when the stream to `peer` has been up without a break.
    pub(super) fn connected_since(&self, peer: NodeId) -> Option<u64> {
        self.peers.get(&peer).filter(|peer| peer.up).map(|peer| peer.since_ms)
    }

    /// Hands what has gathered to the groups.
    fn flush(&mut self) {
        let now = self.now_ms;
        for (&id, group) in &mut self.groups {
            if !group.outgoing.is_empty() {
                let data = std::mem::take(&mut group.outgoing);
                self.host.step(id, Input::Propose { data });
            }
            let context = self.next_context.max(1);
            if group.reads.issue(now, context) {
                self.next_context = context.wrapping_add(1);
                self.host.step(id, Input::ReadIndex { context });
            }
        }
    }

    fn digest(&mut self, turn: crate::multiraft::turn::Turn) {
        for message in turn.messages {
            self.outbox.raft(message);
        }
        self.out.applies.extend(turn.applies);
        self.out.log_reads.extend(turn.log_reads);
        self.out.notes.extend(turn.notes);
        for (group, conf) in turn.confs {
            self.group_mut(group).conf = conf;
        }
        for (group, context, index) in turn.reads_ready {
            self.group_mut(group).reads.ready(context, index);
            self.serve_reads(group);
        }
        for (group, context) in turn.reads_dropped {
            let now = self.now_ms;
            self.group_mut(group).reads.dropped(context, now);
        }
        for (group, data, reason) in turn.dropped {
            self.proposals_dropped(group, data, reason);
        }
        for (group, change, reason) in turn.conf_dropped {
            self.conf_dropped(group, &change, reason);
        }
        for soft in turn.soft {
            self.soft_state(soft);
        }
        for wanted in turn.snapshots_wanted {
            self.out.pins.push((wanted.group, wanted.to));
        }
        for wanted in turn.installs_wanted {
            self.begin_fetch(wanted);
        }
    }

    pub(super) fn group_mut(&mut self, group: GroupId) -> &mut Group {
        self.groups.get_mut(&group).expect("the host has only groups of this core")
    }

    fn soft_state(&mut self, soft: SoftState) {
        let now = self.now_ms;
        let leads_from = self.host.replica(soft.group).and_then(|replica| replica.leads_from());
        let group = self.group_mut(soft.group);
        let before = std::mem::replace(&mut group.soft, soft);
        let leader_changed = before.leader != soft.leader;
        let began_to_lead =
            soft.role == Role::Leader && (before.role != Role::Leader || before.term != soft.term);
        if began_to_lead {
            group.lessor.demote();
            group.counts_from = leads_from;
            self.count_leases(soft.group);
        } else if soft.role != Role::Leader && before.role == Role::Leader {
            group.lessor.demote();
            group.counts_from = None;
            group.sending.clear();
        }
        let group = self.group_mut(soft.group);
        if leader_changed && !soft.leader.is_none() {
            group.led_since_ms = now;
            let lost = group.reads.leader_changed();
            self.counters.leader_changes += 1;
            for waiting in lost {
                self.fail_read(soft.group, waiting, ApiError::LeaderChanged);
            }
        }
        self.transfers_seen(soft);
        if !soft.leader.is_none() {
            self.retry_parked(soft.group);
        }
        self.out.roles.push(soft);
    }

    fn applied(&mut self, batch: AppliedBatch) {
        let AppliedBatch {
            group,
            index,
            results,
            lease_changes,
            confs,
            alarms,
            root,
            state_hash,
            pressure,
            replaced,
            ..
        } = batch;
        let now = self.now_ms;
        self.pressure = pressure;
        // It may have been destroyed since the job ran.
        let Some(entry) = self.groups.get_mut(&group) else { return };
        entry.applied = entry.applied.max(index);
        entry.state_hash = (entry.applied, state_hash);
        if let Some(alarms) = alarms {
            entry.alarms = alarms;
        }
        if let Some(meta) = &replaced {
            entry.lessor.clear();
            entry.replaced = meta.index;
        }
        // Raft hears of a fetched state when it is durable. A job that was on its way came behind
        // it: its entries were passed over, and nothing can be said of the changes among them.
        let overtaken = index <= entry.replaced;
        for change in lease_changes {
            entry.lessor.changed(change, now);
        }
        let root_changed = root.is_some();
        if let Some(root) = root {
            self.root = root.clone();
            self.out.root = Some(root);
        }
        // First: whoever asked this very member to remove itself is told that it is done.
        for result in results {
            self.answer_applied(result);
        }
        if root_changed {
            self.root_changed();
        }
        if !overtaken {
            self.host.applied(group, index, confs);
        }
        self.count_leases(group);
        self.serve_reads(group);
    }

    /// Looks at what a new membership means for this member and its requests.
    fn root_changed(&mut self) {
        let node = self.config.node;
        self.follow_catalogue();
        self.check_removal();
        let bound = self.root.members.get(&node).and_then(|member| member.incarnation);
        if bound.is_some_and(|bound| bound != self.config.incarnation) {
            self.out.stop = Some(StopReason::IncarnationRefused);
        }
        let groups: Vec<GroupId> = self.groups.keys().copied().collect();
        for group in groups {
            self.retry_parked(group);
        }
    }

    /// Frees the logs up to what both checkpoints hold, but not behind a state that a follower is
    /// still fetching: it would need another one at once.
    fn trim(&mut self, held: Vec<(GroupId, LogIndex)>) {
        for (group, mut index) in held {
            let status = self.host.replica(group).map(raft::Replica::status);
            let (Some(entry), Some(status)) = (self.groups.get_mut(&group), status) else {
                continue;
            };
            let now = self.now_ms;
            entry.sending.retain(|peer, (from, until)| {
                let progress = status.progress.iter().find(|progress| progress.id == *peer);
                now < *until && progress.is_some_and(|p| p.matched < *from)
            });
            for (from, _) in entry.sending.values() {
                index = index.min(*from);
            }
            self.host.trim(group, index);
        }
    }

    pub(super) fn send(&mut self, to: NodeId, message: NodeMessage) {
        self.outbox.other(to, message);
    }

    pub(super) fn reply(&mut self, token: Token, result: Result<Answer, ApiError>) {
        self.out.answers.push((token, result));
    }
}
