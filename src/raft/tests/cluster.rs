//! Replicas with disks, stores and a network of plain queues. Nothing moves by itself: a driver
//! says which message arrives, which write reaches the disk, which entry is applied.

use super::safety::Safety;
use crate::raft::{
    Boot, Config, Effect, Effects, Input, ReadFor, Replica, Role, conf_change, quorum,
};
use crate::types::message::SnapshotMeta;
use crate::types::{
    ConfChange, ConfChangeKind, ConfState, Entry, EntryKind, GroupId, HardState, LogIndex, Message,
    MessageBody, NodeId, Term,
};
use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};

pub const GROUP: GroupId = GroupId(1);

/// A configuration change as text: `+3 ~4 -1 joint auto`.
pub fn encode_change(change: &ConfChange) -> Bytes {
    let mut words: Vec<String> = change
        .changes
        .iter()
        .map(|(kind, id)| match kind {
            ConfChangeKind::AddVoter => format!("+{id}"),
            ConfChangeKind::AddLearner => format!("~{id}"),
            ConfChangeKind::Remove => format!("-{id}"),
        })
        .collect();
    words.extend(change.joint.then(|| "joint".to_string()));
    words.extend(change.auto_leave.then(|| "auto".to_string()));
    Bytes::from(words.join(" "))
}

pub fn decode_change(text: &str) -> ConfChange {
    let mut change = ConfChange::default();
    for word in text.split_whitespace() {
        match word.split_at(1) {
            _ if word == "joint" => change.joint = true,
            _ if word == "auto" => change.auto_leave = true,
            (sign, id) => {
                let kind = match sign {
                    "+" => ConfChangeKind::AddVoter,
                    "~" => ConfChangeKind::AddLearner,
                    _ => ConfChangeKind::Remove,
                };
                change.changes.push((kind, NodeId(id.parse().expect("a node id"))));
            }
        }
    }
    change
}

/// What a state machine holds: everything it has applied.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Store {
    pub index: LogIndex,
    pub term: Term,
    pub conf: ConfState,
    pub applied: Vec<Bytes>,
}

/// What survives a crash.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    pub hard: HardState,
    pub start: (LogIndex, Term),
    pub log: Vec<Entry>,
    pub store: Store,
}

impl Disk {
    /// A founder's disk: every log begins behind index 1 of term 1, where the first configuration
    /// stands. Whoever joins later starts with nothing and so needs a snapshot, which tells it
    /// who the first members were.
    pub fn founder(conf: ConfState) -> Disk {
        let (index, term) = (LogIndex(1), Term(1));
        Disk {
            hard: HardState { term, vote: NodeId::NONE, commit: index },
            start: (index, term),
            log: Vec::new(),
            store: Store { index, term, conf, applied: Vec::new() },
        }
    }

    pub fn last(&self) -> LogIndex {
        LogIndex(self.start.0.0 + self.log.len() as u64)
    }

    fn term(&self, index: LogIndex) -> Option<Term> {
        if index == self.start.0 {
            return Some(self.start.1);
        }
        let at = index.0.checked_sub(self.start.0.0 + 1)?;
        self.log.get(at as usize).map(|entry| entry.term)
    }

    /// Whether the entry, or what it did, cannot be lost any more here.
    fn holds(&self, index: LogIndex, term: Term) -> bool {
        index <= self.start.0 || index <= self.store.index || self.term(index) == Some(term)
    }

    fn write(&mut self, record: Effect) {
        match record {
            Effect::SaveHardState(hard) => self.hard = hard,
            Effect::Append(entries) => {
                let at = entries[0].index.0 - self.start.0.0 - 1;
                assert!(at as usize <= self.log.len(), "a gap on disk");
                self.log.truncate(at as usize);
                self.log.extend(entries);
            }
            Effect::LogStart { index, term } => {
                self.start = (index, term);
                self.log.clear();
            }
            Effect::Trim { index, term } => {
                assert_eq!(self.term(index), Some(term));
                self.log.drain(..(index.0 - self.start.0.0) as usize);
                self.start = (index, term);
            }
            other => unreachable!("{other:?} is not a record"),
        }
    }

    fn boot(&mut self, tail_max: usize) -> Boot {
        // A snapshot was installed and the record that says so was lost.
        if self.term(self.store.index) != Some(self.store.term) {
            self.start = (self.store.index, self.store.term);
            self.log.clear();
        }
        let mut terms: Vec<(LogIndex, Term)> = Vec::new();
        for entry in &self.log {
            if terms.last().is_none_or(|run| run.1 != entry.term) {
                terms.push((entry.index, entry.term));
            }
        }
        Boot {
            hard: self.hard,
            conf: self.store.conf.clone(),
            applied: self.store.index,
            start: self.start,
            last: self.last(),
            terms,
            tail: self.log[self.log.len().saturating_sub(tail_max)..].to_vec(),
        }
    }
}

/// What one step wants durable, and what waits for it.
#[derive(Debug, Default)]
struct Write {
    records: Vec<Effect>,
    held: Vec<Message>,
}

pub struct Node {
    pub config: Config,
    pub replica: Option<Replica>,
    pub disk: Disk,
    writes: VecDeque<Write>,
    pub state: Store,
    pub applies: VecDeque<Entry>,
    pub log_reads: VecDeque<(ReadFor, LogIndex, LogIndex)>,
    pub snapshots_wanted: VecDeque<NodeId>,
    pub install: Option<(NodeId, SnapshotMeta)>,
    pub tail_max: usize,
}

impl Node {
    pub fn replica(&self) -> &Replica {
        self.replica.as_ref().expect("the node is up")
    }
    pub fn is_up(&self) -> bool {
        self.replica.is_some()
    }
    pub fn has_writes(&self) -> bool {
        !self.writes.is_empty()
    }
}

/// What a driver wants to know of a step; everything else the cluster does by itself.
#[derive(Debug)]
pub enum Seen {
    Effect(Effect),
    Applied(Entry),
}

#[derive(Default)]
pub struct Cluster {
    pub nodes: BTreeMap<NodeId, Node>,
    pub net: VecDeque<Message>,
    /// Pinned states, by (leader, follower).
    pub pinned: BTreeMap<(NodeId, NodeId), (SnapshotMeta, Store)>,
    pub safety: Safety,
    /// What happened since the driver last looked, in order.
    pub seen: Vec<(NodeId, Seen)>,
    pub notes: BTreeMap<&'static str, u64>,
    /// Keep `seen` (scripts do, the random driver does not).
    pub watch: bool,
}

impl Cluster {
    /// Adds a node with this disk and starts it.
    pub fn add(&mut self, config: Config, disk: Disk) {
        let id = config.id;
        let before = disk.start.1;
        self.safety.appended(before, &disk.log);
        let node = Node {
            config,
            replica: None,
            disk,
            writes: VecDeque::new(),
            state: Store::default(),
            applies: VecDeque::new(),
            log_reads: VecDeque::new(),
            snapshots_wanted: VecDeque::new(),
            install: None,
            tail_max: usize::MAX,
        };
        self.nodes.insert(id, node);
        self.restart(id);
    }

    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[&id]
    }
    pub fn node_mut(&mut self, id: NodeId) -> &mut Node {
        self.nodes.get_mut(&id).expect("a known node")
    }

    /// Loses everything that is not on disk. The first `kept` writes made it there, though nobody
    /// heard of it.
    pub fn crash(&mut self, id: NodeId, kept: usize) {
        let node = self.node_mut(id);
        node.replica = None;
        for write in std::mem::take(&mut node.writes).into_iter().take(kept) {
            for record in write.records {
                node.disk.write(record);
            }
        }
        node.applies.clear();
        node.log_reads.clear();
        node.snapshots_wanted.clear();
        node.install = None;
        self.pinned.retain(|(from, _), _| *from != id);
    }

    pub fn restart(&mut self, id: NodeId) {
        let node = self.node_mut(id);
        assert!(node.replica.is_none());
        let boot = node.disk.boot(node.tail_max);
        node.state = node.disk.store.clone();
        node.replica = Some(Replica::new(node.config, boot));
    }

    pub fn step(&mut self, id: NodeId, input: Input) {
        let mut fx = Effects::new();
        let node = self.nodes.get_mut(&id).expect("a known node");
        let replica = node.replica.as_mut().expect("the node is up");
        let (commit, role) = (replica.commit(), replica.role());
        let (term, last_term) = (replica.term(), replica.log_term(replica.last()));
        if let Input::ReadIndex { context } = &input {
            self.safety.read_asked(*context);
        }
        replica.step(input, &mut fx);
        assert!(replica.term() >= term && replica.commit() >= commit);
        for index in commit.0 + 1..=replica.commit().0 {
            if let Some(term) = replica.log_term(LogIndex(index))
                && index > replica.log_start().0.0
            {
                self.safety.committed(id, LogIndex(index), term);
            }
        }
        if replica.role() == Role::Leader && role != Role::Leader {
            let start = replica.log_start().0;
            // Its own first entry is behind everything committed, so the log is as elected.
            self.safety.elected(id, replica.term(), start, |index| replica.log_term(index));
        }
        let moved = replica.role() == Role::Leader && replica.commit() > commit;
        let mut write = Write::default();
        let mut before = last_term;
        for effect in fx.drain() {
            if self.watch {
                self.seen.push((id, Seen::Effect(effect.clone())));
            }
            match effect {
                Effect::Append(entries) => {
                    // A replaced suffix ends where the effect begins; the term before it is
                    // whatever the log says there now, for the entry before has not changed.
                    let prev = entries[0].index.prev();
                    before = replica.log_term(prev).or(before);
                    self.safety.appended(before.expect("a term before"), &entries);
                    write.records.push(Effect::Append(entries));
                }
                Effect::SaveHardState(_) | Effect::LogStart { .. } | Effect::Trim { .. } => {
                    write.records.push(effect);
                }
                Effect::SendOncePersisted(message) => write.held.push(message),
                Effect::Send(message) => {
                    assert_ne!(message.to, id);
                    if let MessageBody::VoteReply { granted: true } = message.body {
                        self.safety.voted(id, message.term, message.to);
                    }
                    self.net.push_back(message);
                }
                Effect::ReadEntries { purpose, from, to, .. } => {
                    assert!(from <= to && node.disk.start.0 < from, "a range of the log");
                    assert_eq!(node.disk.term(to), replica.log_term(to), "not yet on disk");
                    node.log_reads.push_back((purpose, from, to));
                }
                Effect::Apply(entries) => node.applies.extend(entries),
                Effect::ReadReady { context, index } => self.safety.read_ready(context, index),
                Effect::ReadDropped { context } => self.safety.read_dropped(context),
                Effect::MakeSnapshot { to } => node.snapshots_wanted.push_back(to),
                Effect::InstallSnapshot { from, meta } => {
                    assert!(node.install.is_none());
                    node.install = Some((from, meta));
                }
                Effect::Note(note) => *self.notes.entry(note.name()).or_default() += 1,
                Effect::ProposalsDropped { .. }
                | Effect::ConfChangeDropped { .. }
                | Effect::SoftState { .. }
                | Effect::Conf(_) => {}
            }
        }
        if write.records.is_empty()
            && let Some(newest) = node.writes.back_mut()
        {
            newest.held.append(&mut write.held);
        } else if !write.records.is_empty() || !write.held.is_empty() {
            node.writes.push_back(write);
        }
        if moved {
            self.check_quorum_durability(id);
        }
    }

    /// What a leader calls committed is on the disks of a quorum, whatever they said.
    fn check_quorum_durability(&self, id: NodeId) {
        let replica = self.node(id).replica();
        let index = replica.commit();
        let term = replica.log_term(index).expect("committed just now");
        let status = replica.status();
        assert!(
            quorum::holds(&status.conf, |peer| {
                self.nodes.get(&peer).is_some_and(|node| node.disk.holds(index, term))
            }),
            "leader {id} commits {index} of term {term} without a quorum of disks"
        );
    }

    /// The oldest `count` writes reach the disk in one batch. The host reports each append, or
    /// only the newest one of the batch, as it likes.
    pub fn persist(&mut self, id: NodeId, count: usize, report_each: bool) {
        let node = self.node_mut(id);
        let count = count.min(node.writes.len());
        let mut reports = Vec::new();
        let mut held = Vec::new();
        for write in node.writes.drain(..count) {
            for record in write.records {
                if let Effect::Append(entries) = &record {
                    let last = entries.last().expect("never empty");
                    if !report_each {
                        reports.clear();
                    }
                    reports.push((last.term, last.index));
                }
                node.disk.write(record);
            }
            held.extend(write.held);
        }
        for (term, index) in reports {
            self.step(id, Input::Persisted { term, index });
        }
        for message in held {
            if let MessageBody::VoteReply { granted: true } = message.body {
                self.safety.voted(id, message.term, message.to);
            }
            if message.to == id {
                self.step(id, Input::Message(message));
            } else {
                self.net.push_back(message);
            }
        }
    }

    /// The state machine runs up to `count` entries.
    pub fn apply(&mut self, id: NodeId, count: usize) {
        for _ in 0..count {
            let node = self.node_mut(id);
            let Some(entry) = node.applies.pop_front() else { return };
            let state = &mut node.state;
            assert_eq!(entry.index, state.index.next(), "entries are applied in order");
            (state.index, state.term) = (entry.index, entry.term);
            state.applied.push(entry.data.clone());
            let index = entry.index;
            let input = if entry.kind == EntryKind::ConfChange {
                let text = std::str::from_utf8(&entry.data).expect("text");
                let change = decode_change(text);
                let next = conf_change::changed(&state.conf, &change).ok();
                let verdict = next.is_some().then_some(change);
                if let Some(next) = next {
                    state.conf = next;
                }
                Input::ConfApplied { index, change: verdict }
            } else {
                Input::Applied { index }
            };
            self.safety.applied(id, &entry);
            if self.watch {
                self.seen.push((id, Seen::Applied(entry)));
            }
            self.step(id, input);
        }
    }

    /// The oldest outstanding read of the WAL is answered with at most `count` entries.
    pub fn read_log(&mut self, id: NodeId, count: usize) {
        let node = self.node_mut(id);
        let Some((purpose, from, to)) = node.log_reads.pop_front() else { return };
        let mut entries = Vec::new();
        if from > node.disk.start.0 {
            // The range may have been truncated since, in part or all of it.
            let range = node.disk.log.iter().filter(|e| from <= e.index && e.index <= to);
            entries.extend(range.take(count.max(1)).cloned());
        }
        self.step(id, Input::EntriesRead { purpose, from, entries });
    }

    /// A checkpoint: what is applied and durable in the log moves to the store.
    pub fn checkpoint(&mut self, id: NodeId) -> bool {
        let node = self.node_mut(id);
        let due = node.state.index > node.disk.store.index
            && node.disk.term(node.state.index) == Some(node.state.term)
            && node.install.is_none();
        if due {
            node.disk.store = node.state.clone();
        }
        due
    }

    /// Pins the state of `id` for the member that was promised it first.
    pub fn pin(&mut self, id: NodeId, works: bool) {
        let node = self.node_mut(id);
        let Some(to) = node.snapshots_wanted.pop_front() else { return };
        if !works {
            return self.step(id, Input::SnapshotFailed { to });
        }
        let state = node.state.clone();
        let meta = SnapshotMeta { index: state.index, term: state.term, conf: state.conf.clone() };
        self.pinned.insert((id, to), (meta.clone(), state));
        self.step(id, Input::SnapshotReady { to, meta });
    }

    /// Fetches and installs the snapshot the node waits for.
    pub fn install(&mut self, id: NodeId, works: bool) {
        let Some((from, meta)) = self.node_mut(id).install.take() else { return };
        let pinned = self.pinned.get(&(from, id)).filter(|pinned| pinned.0 == meta);
        let state = pinned.map(|pinned| pinned.1.clone());
        let node = self.node_mut(id);
        match state.filter(|_| works) {
            Some(state) => {
                node.applies.clear();
                node.state = state.clone();
                node.disk.store = state;
                self.step(id, Input::SnapshotInstalled { meta });
            }
            None => self.step(id, Input::SnapshotRefused { index: meta.index }),
        }
    }

    pub fn deliver(&mut self, message: Message) {
        let to = message.to;
        if self.nodes.get(&to).is_some_and(Node::is_up) {
            self.step(to, Input::Message(message));
        }
    }
}
