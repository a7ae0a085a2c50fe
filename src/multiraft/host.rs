//! All replicas of one node, stepped as one: effects of every group gather into one turn, and
//! everything that must be durable into one WAL batch.
//!
//! The rules the host keeps, so that no replica has to know of the others or of the disk:
//! - One batch is in flight. While it is, the next one forms; nothing waits for a timer.
//! - A message that promises something durable leaves only when the batch that holds it is
//!   persisted. A message to this node itself takes the same way and is then stepped.
//! - A change of `commit` alone promises nothing: it waits for the next batch with a reason.
//! - Committed entries are yielded for applying only once they are durable **here**. So a
//!   checkpoint can never cover an index that this node's own WAL might still lose.
//! - A change of configuration is yielded only once it is durable here that it is committed. Who
//!   has applied one may be the reason why a removed member has ended; if it then forgot with the
//!   power that the change is committed, it would ask the old configuration's quorum for ever.
//! - A message never creates a replica.

use super::trim::LogSizes;
use super::turn::{
    ApplyJob, BatchId, InstallWanted, LogRead, SnapshotWanted, SoftState, Turn, WalBatch,
};
use crate::raft::{Config, Effect, Effects, Input, Replica};
use crate::types::message::SnapshotMeta;
use crate::types::{
    ConfChange, Entry, EntryKind, GroupId, HardState, LogIndex, Message, NodeId, Term,
};
use crate::wal::{Batch, Record};
use std::collections::{BTreeMap, VecDeque};

/// Ticks after which a batch that holds nothing urgent (commit hints, trims) is written anyway.
const LAZY_TICKS: u32 = 10;

/// How much of a log stays behind what the store holds.
#[derive(Clone, Copy, Debug)]
pub struct TrimPolicy {
    /// Entries kept behind the applied index for slow followers.
    pub keep_entries: u64,
    /// Entry bytes kept at most, even when that keeps fewer entries.
    pub keep_bytes: u64,
    /// A trim of fewer entries than this is not worth a record.
    pub step_entries: u64,
}

/// What the host counts; every field only grows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HostCounters {
    pub turns: u64,
    pub batches: u64,
    pub batch_entries: u64,
    pub messages_in: u64,
    pub messages_out: u64,
    /// Messages for a group this node has no replica of, or for another node.
    pub messages_strange: u64,
    pub messages_held: u64,
}

#[derive(Debug)]
struct Slot {
    replica: Replica,
    /// Committed entries not yet yielded, in log order, because they are not durable here.
    waiting: VecDeque<Entry>,
    /// Every entry up to here is in the WAL and synced. Falls when the suffix is replaced.
    durable: LogIndex,
    /// The disk knows that every entry up to here is committed.
    durable_commit: LogIndex,
    /// The lowest point the log was cut back to since the batch in flight was sealed.
    cut: Option<LogIndex>,
    /// Whether the forming batch holds something of this group that messages must wait for.
    forming: bool,
    /// The same of the batch in flight.
    in_flight: bool,
    /// Where in the forming batch the group's hard state and its newest append are.
    hard_at: Option<usize>,
    append_at: Option<usize>,
    /// The hard state last given to the WAL, to tell a commit hint from a vote.
    hard: HardState,
    sizes: LogSizes,
}

#[derive(Debug, Default)]
struct Forming {
    records: Vec<Record>,
    /// Something in it is waited for.
    urgent: bool,
    held: Vec<Message>,
    ends: BTreeMap<GroupId, End>,
    commits: BTreeMap<GroupId, LogIndex>,
}

/// The last entry of a group's log as of a batch.
#[derive(Clone, Copy, Debug)]
struct End {
    term: Term,
    index: LogIndex,
    /// Whether the batch holds that entry, rather than only the log's new start.
    appended: bool,
}

#[derive(Debug)]
struct InFlight {
    id: BatchId,
    held: Vec<Message>,
    ends: BTreeMap<GroupId, End>,
    commits: BTreeMap<GroupId, LogIndex>,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Host {
    node: NodeId,
    slots: BTreeMap<GroupId, Slot>,
    effects: Effects,
    forming: Forming,
    in_flight: Option<InFlight>,
    last_batch: BatchId,
    lazy_ticks: u32,
    turn: Turn,
    policy: TrimPolicy,
    counters: HostCounters,
}

impl Host {
    pub fn new(node: NodeId, policy: TrimPolicy) -> Host {
        Host {
            node,
            slots: BTreeMap::new(),
            effects: Effects::default(),
            forming: Forming::default(),
            in_flight: None,
            last_batch: BatchId(0),
            lazy_ticks: 0,
            turn: Turn::default(),
            policy,
            counters: HostCounters::default(),
        }
    }

    /// Adds this node's replica of a group, as its log and its state machine were found.
    pub fn add(&mut self, config: Config, boot: crate::raft::Boot) {
        let group = config.group;
        let (durable, hard) = (boot.last, boot.hard);
        let mut sizes = LogSizes::default();
        for entry in &boot.tail {
            sizes.append(entry.index, entry.cost() as u64);
        }
        let slot = Slot {
            replica: Replica::new(config, boot),
            waiting: VecDeque::new(),
            durable,
            durable_commit: hard.commit,
            cut: None,
            forming: false,
            in_flight: false,
            hard_at: None,
            append_at: None,
            hard,
            sizes,
        };
        let before = self.slots.insert(group, slot);
        assert!(before.is_none(), "group {group} was added twice");
    }

    /// Adds a replica that has just been created: the log has nothing of it yet. Whatever it
    /// promises leaves behind the batch that makes its start durable.
    pub fn create(&mut self, config: Config, boot: crate::raft::Boot) {
        let (group, hard, (index, term)) = (config.group, boot.hard, boot.start);
        self.add(config, boot);
        let slot = self.slots.get_mut(&group).expect("it was added a moment ago");
        slot.forming = true;
        slot.hard_at = Some(self.forming.records.len());
        self.forming.records.push(Record::HardState { group, hard });
        self.forming.records.push(Record::LogStart { group, index, term });
        self.forming.urgent = true;
    }

    /// Ends a replica: nothing of it is stepped, sent or applied any more. Its log stays until
    /// `drop_log`.
    pub fn remove(&mut self, group: GroupId) {
        if self.slots.remove(&group).is_none() {
            return;
        }
        self.turn.forget(group);
        self.forming.held.retain(|message| message.group != group);
        self.forming.ends.remove(&group);
        if let Some(batch) = &mut self.in_flight {
            batch.held.retain(|message| message.group != group);
            batch.ends.remove(&group);
        }
    }

    /// The log of a group that is in no checkpoint any more.
    pub fn drop_log(&mut self, group: GroupId) {
        assert!(!self.slots.contains_key(&group), "group {group} lives");
        self.forming.records.push(Record::DropGroup { group });
    }

    pub fn groups(&self) -> impl Iterator<Item = GroupId> + '_ {
        self.slots.keys().copied()
    }

    pub fn replica(&self, group: GroupId) -> Option<&Replica> {
        self.slots.get(&group).map(|slot| &slot.replica)
    }

    pub fn counters(&self) -> HostCounters {
        self.counters
    }

    /// Whether a batch has been yielded and not yet reported persisted.
    pub fn is_batch_in_flight(&self) -> bool {
        self.in_flight.is_some()
    }

    /// One tick of every group.
    pub fn tick(&mut self) {
        let groups: Vec<GroupId> = self.slots.keys().copied().collect();
        for group in groups {
            self.step(group, Input::Tick);
        }
        if !self.forming.records.is_empty() && !self.forming.urgent {
            self.lazy_ticks += 1;
            self.forming.urgent = self.lazy_ticks >= LAZY_TICKS;
        }
    }

    /// A message from another node. The caller has checked who sent it.
    pub fn receive(&mut self, message: Message) {
        self.counters.messages_in += 1;
        if message.to != self.node || message.from == self.node {
            self.counters.messages_strange += 1;
            return;
        }
        let group = message.group;
        if !self.step(group, Input::Message(message)) {
            self.counters.messages_strange += 1;
        }
    }

    /// Steps one group. False when this node has no replica of it.
    pub fn step(&mut self, group: GroupId, input: Input) -> bool {
        let Some(slot) = self.slots.get_mut(&group) else {
            return false;
        };
        let mut effects = std::mem::take(&mut self.effects);
        slot.replica.step(input, &mut effects);
        for effect in effects.drain() {
            self.perform(group, effect);
        }
        self.effects = effects;
        true
    }

    /// The batch is on disk: written and synced. Batches are reported in order.
    pub fn persisted(&mut self, id: BatchId) {
        let batch = self.in_flight.take().expect("a batch is reported persisted once");
        assert_eq!(batch.id, id, "batches are persisted in the order they were yielded");
        for (group, slot) in &mut self.slots {
            if let Some(commit) = batch.commits.get(group) {
                slot.durable_commit = slot.durable_commit.max(*commit);
            }
            slot.in_flight = false;
            let cut = slot.cut.take();
            if let Some(end) = batch.ends.get(group) {
                let kept = cut.map_or(end.index, |cut| cut.min(end.index));
                slot.durable = slot.durable.max(kept);
            }
        }
        for (&group, &End { term, index, appended }) in &batch.ends {
            if appended {
                self.step(group, Input::Persisted { term, index });
            }
        }
        for message in batch.held {
            self.release(message);
        }
    }

    /// Entries up to `index` have been applied; `confs` are the verdicts on the configuration
    /// changes among them.
    pub fn applied(
        &mut self,
        group: GroupId,
        index: LogIndex,
        confs: Vec<(LogIndex, Option<ConfChange>)>,
    ) {
        for (index, change) in confs {
            self.step(group, Input::ConfApplied { index, change });
        }
        // A state that was installed meanwhile has overtaken entries that were on their way.
        let behind = self.replica(group).is_some_and(|replica| replica.applied() < index);
        if behind {
            self.step(group, Input::Applied { index });
        }
    }

    /// The store holds the state at `meta` durably: the log may start behind it.
    pub fn snapshot_installed(&mut self, group: GroupId, meta: SnapshotMeta) {
        self.step(group, Input::SnapshotInstalled { meta });
    }

    /// Frees the log up to `held`, what both valid checkpoints of the store hold, save what the
    /// policy keeps for slow followers.
    pub fn trim(&mut self, group: GroupId, held: LogIndex) {
        let policy = self.policy;
        let Some(slot) = self.slots.get_mut(&group) else { return };
        let applied = slot.replica.applied();
        let by_entries = LogIndex(applied.0.saturating_sub(policy.keep_entries));
        let by_bytes = slot.sizes.index_with_at_most(policy.keep_bytes);
        let index = held.min(by_entries.max(by_bytes)).min(applied);
        let first = slot.replica.log_start().0;
        if index.0 >= first.0.saturating_add(policy.step_entries.max(1)) {
            slot.sizes.trim(index);
            self.step(group, Input::Trim { index });
        }
    }

    /// Ends the turn: everything that can happen next, and the next batch if none is in flight.
    pub fn end_turn(&mut self) -> Turn {
        let mut turn = self.drain();
        turn.batch = self.seal();
        self.counters.turns += 1;
        turn
    }

    /// Everything that can happen next save the batch: a caller that answers some of it with new
    /// inputs at once gets what they lead to into the same batch.
    pub fn drain(&mut self) -> Turn {
        let mut turn = std::mem::take(&mut self.turn);
        for (&group, slot) in &mut self.slots {
            let mut ready = slot.waiting.partition_point(|entry| entry.index <= slot.durable);
            let unsure = |entry: &Entry| {
                entry.kind == EntryKind::ConfChange && entry.index > slot.durable_commit
            };
            if let Some(at) = slot.waiting.iter().take(ready).position(unsure) {
                // What says so is in the forming batch, or in the one in flight.
                self.forming.urgent |= !self.forming.records.is_empty();
                ready = at;
            }
            if ready > 0 {
                turn.applies
                    .push(ApplyJob { group, entries: slot.waiting.drain(..ready).collect() });
            }
        }
        self.counters.messages_out += turn.messages.len() as u64;
        turn
    }

    /// Closes the forming batch, if something in it is waited for and none is in flight.
    pub fn seal(&mut self) -> Option<WalBatch> {
        if self.in_flight.is_some() || !self.forming.urgent {
            return None;
        }
        let forming = std::mem::take(&mut self.forming);
        self.lazy_ticks = 0;
        self.last_batch = BatchId(self.last_batch.0 + 1);
        for slot in self.slots.values_mut() {
            slot.in_flight = slot.forming;
            slot.forming = false;
            slot.cut = None;
            slot.hard_at = None;
            slot.append_at = None;
        }
        self.counters.batches += 1;
        let id = self.last_batch;
        let Forming { records, held, ends, commits, .. } = forming;
        self.in_flight = Some(InFlight { id, held, ends, commits });
        Some(WalBatch { id, batch: Batch { records } })
    }

    fn perform(&mut self, group: GroupId, effect: Effect) {
        match effect {
            Effect::SaveHardState(hard) => self.save_hard_state(group, hard),
            Effect::Append(entries) => self.append(group, entries),
            Effect::LogStart { index, term } => self.start_log(group, index, term),
            Effect::Trim { index, term } => {
                self.forming.records.push(Record::Trim { group, index, term });
            }
            Effect::Send(message) => self.send(message),
            Effect::SendOncePersisted(message) => self.send_once_persisted(group, message),
            Effect::ReadEntries { purpose, from, to, bytes_max } => {
                self.turn.log_reads.push(LogRead { group, purpose, from, to, bytes_max });
            }
            Effect::Apply(entries) => self.slot(group).waiting.extend(entries),
            Effect::ReadReady { context, index } => {
                self.turn.reads_ready.push((group, context, index));
            }
            Effect::ReadDropped { context } => self.turn.reads_dropped.push((group, context)),
            Effect::ProposalsDropped { data, reason } => {
                self.turn.dropped.push((group, data, reason));
            }
            Effect::ConfChangeDropped { change, reason } => {
                self.turn.conf_dropped.push((group, change, reason));
            }
            Effect::MakeSnapshot { to } => {
                self.turn.snapshots_wanted.push(SnapshotWanted { group, to });
            }
            Effect::InstallSnapshot { from, meta } => {
                self.turn.installs_wanted.push(InstallWanted { group, from, meta });
            }
            Effect::SoftState { leader, role, term } => {
                self.turn.soft.push(SoftState { group, leader, role, term });
            }
            Effect::Conf(conf) => self.turn.confs.push((group, conf)),
            Effect::Note(note) => self.turn.notes.push((group, note)),
        }
    }

    fn slot(&mut self, group: GroupId) -> &mut Slot {
        self.slots.get_mut(&group).expect("effects come from groups of this host")
    }

    fn save_hard_state(&mut self, group: GroupId, hard: HardState) {
        let slot = self.slots.get_mut(&group).expect("effects come from groups of this host");
        let before = slot.hard;
        assert!(hard.term >= before.term, "group {group}: the term falls");
        let promises = (hard.term, hard.vote) != (before.term, before.vote);
        slot.hard = hard;
        self.forming.commits.insert(group, hard.commit);
        if promises {
            slot.forming = true;
            self.forming.urgent = true;
        }
        match slot.hard_at {
            // A batch is all or nothing, so only the newest hard state in it matters.
            Some(at) => self.forming.records[at] = Record::HardState { group, hard },
            None => {
                slot.hard_at = Some(self.forming.records.len());
                self.forming.records.push(Record::HardState { group, hard });
            }
        }
    }

    fn append(&mut self, group: GroupId, mut entries: Vec<Entry>) {
        let (Some(first), Some(last)) = (entries.first(), entries.last()) else {
            return;
        };
        let end = End { term: last.term, index: last.index, appended: true };
        let first = first.index;
        self.counters.batch_entries += entries.len() as u64;
        let slot = self.slots.get_mut(&group).expect("effects come from groups of this host");
        slot.cut_back(first.prev());
        for entry in &entries {
            slot.sizes.append(entry.index, entry.cost() as u64);
        }
        slot.forming = true;
        self.forming.urgent = true;
        let continues = self.forming.ends.get(&group).is_some_and(|e| e.index.next() == first);
        self.forming.ends.insert(group, end);
        if let (true, Some(at)) = (continues, slot.append_at)
            && let Record::Append { entries: before, .. } = &mut self.forming.records[at]
        {
            before.append(&mut entries);
            return;
        }
        slot.append_at = Some(self.forming.records.len());
        self.forming.records.push(Record::Append { group, entries });
    }

    fn start_log(&mut self, group: GroupId, index: LogIndex, term: Term) {
        let slot = self.slots.get_mut(&group).expect("effects come from groups of this host");
        slot.cut_back(index);
        slot.waiting.retain(|entry| entry.index > index);
        slot.sizes.restart();
        slot.append_at = None;
        slot.forming = true;
        self.forming.urgent = true;
        self.forming.ends.insert(group, End { term, index, appended: false });
        self.forming.records.push(Record::LogStart { group, index, term });
    }

    fn send(&mut self, message: Message) {
        assert_ne!(message.to, self.node, "a message to this node must wait for its own disk");
        self.turn.messages.push(message);
    }

    fn send_once_persisted(&mut self, group: GroupId, message: Message) {
        let (forming, in_flight) = {
            let slot = self.slot(group);
            (slot.forming, slot.in_flight)
        };
        if forming {
            self.counters.messages_held += 1;
            self.forming.held.push(message);
        } else if in_flight {
            self.counters.messages_held += 1;
            let batch = self.in_flight.as_mut().expect("the group says a batch is in flight");
            batch.held.push(message);
        } else {
            self.release(message);
        }
    }

    /// Nothing keeps the message any more.
    fn release(&mut self, message: Message) {
        if message.to == self.node {
            // Depth is bounded: a replica answers its own vote at most once per term.
            let group = message.group;
            self.step(group, Input::Message(message));
        } else {
            self.turn.messages.push(message);
        }
    }
}

impl Slot {
    /// The log was cut back to `index`: what lies behind is not durable until written again.
    fn cut_back(&mut self, index: LogIndex) {
        self.durable = self.durable.min(index);
        self.cut = Some(self.cut.map_or(index, |cut| cut.min(index)));
        self.sizes.truncate(index);
    }
}
