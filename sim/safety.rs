//! What Raft promises, checked from outside at every step.
//!
//! Election safety, log matching, state machine safety, leader completeness, committed entries on
//! a quorum of disks, monotone terms and commits, equal state at equal positions, and the rule
//! that no promise leaves a member before the bytes behind it are synced. All of it is judged from
//! what members write, send, apply and say, never from their own opinion of being right.

mod control;

pub use control::self_check;

use crate::changes::Changes;
use crate::committed::CommittedLog;
use crate::conf::{Confs, is_quorum};
use crate::trace::{LogTerms, hash_bytes};
use crate::votes::Votes;
use quorate::codec::raft::decode_conf_change;
use quorate::types::{
    ConfState, Entry, EntryKind, GroupId, HardState, LogIndex, Message, MessageBody, NodeId, Term,
};
use quorate::wal::Record;
use std::collections::{BTreeMap, BTreeSet};

/// A broken promise: which rule, and what happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    pub rule: &'static str,
    pub detail: String,
}

pub type Checked = Result<(), Violation>;

pub(crate) use crate::rules::{broken, ensure, rule};

pub fn entry_hash(entry: &Entry) -> u64 {
    let kind = match entry.kind {
        EntryKind::Empty => 1,
        EntryKind::Command => 2,
        EntryKind::ConfChange => 3,
    };
    hash_bytes(&entry.data).rotate_left(7) ^ entry.term.0.wrapping_mul(0x9e37_79b9) ^ kind
}

/// One member's log of one group as its disk holds it, or would.
#[derive(Clone, Debug, Default)]
pub struct LogShape {
    pub hard: HardState,
    pub start: (LogIndex, Term),
    /// Term of each entry behind the start.
    pub terms: BTreeMap<LogIndex, Term>,
}

impl LogShape {
    pub fn last(&self) -> LogIndex {
        self.terms.keys().next_back().copied().unwrap_or(self.start.0)
    }
    pub fn term_at(&self, index: LogIndex) -> Option<Term> {
        if index == self.start.0 { Some(self.start.1) } else { self.terms.get(&index).copied() }
    }
    /// Whether the entry is held, or was before it was trimmed.
    fn holds(&self, index: LogIndex, term: Term) -> bool {
        index <= self.start.0 || self.terms.get(&index) == Some(&term)
    }
    pub fn append(&mut self, entries: impl Iterator<Item = (LogIndex, Term)>) {
        let mut first = true;
        for (index, term) in entries {
            if first {
                self.terms.split_off(&index);
                first = false;
            }
            self.terms.insert(index, term);
        }
    }
    pub fn log_start(&mut self, index: LogIndex, term: Term) {
        self.start = (index, term);
        self.terms.clear();
    }
    pub fn trim(&mut self, index: LogIndex, term: Term) {
        if index > self.start.0 {
            self.terms = self.terms.split_off(&index.next());
            self.start = (index, term);
        }
    }
}

fn replay(disk: &mut BTreeMap<GroupId, LogShape>, record: &Record) {
    match record {
        Record::HardState { group, hard } => disk.entry(*group).or_default().hard = *hard,
        Record::Append { group, entries } => {
            let entries = entries.iter().map(|e| (e.index, e.term));
            disk.entry(*group).or_default().append(entries);
        }
        Record::LogStart { group, index, term } => {
            disk.entry(*group).or_default().log_start(*index, *term);
        }
        Record::Trim { group, index, term } => {
            disk.entry(*group).or_default().trim(*index, *term);
        }
        Record::DropGroup { group } => {
            disk.remove(group);
        }
    }
}

#[derive(Clone, Debug, Default)]
struct Seen {
    process: u64,
    term: Term,
    commit: LogIndex,
    applied: LogIndex,
    leads: bool,
    conf: ConfState,
}

/// What a replica says of itself.
#[derive(Clone, Debug, Default)]
pub struct Said {
    pub term: Term,
    pub vote: NodeId,
    pub is_leader: bool,
    pub commit: LogIndex,
    pub applied: LogIndex,
    pub last: LogIndex,
    pub conf: ConfState,
}

#[derive(Default)]
pub struct Safety {
    pub confs: Confs,
    leaders: BTreeMap<(GroupId, Term), NodeId>,
    committed: BTreeMap<GroupId, CommittedLog>,
    entries: BTreeMap<GroupId, BTreeMap<(LogIndex, Term), u64>>,
    states: BTreeMap<GroupId, BTreeMap<LogIndex, (u64, NodeId)>>,
    seen: BTreeMap<(NodeId, GroupId), Seen>,
    /// What each member's disk holds for sure, by what it has synced.
    durable: BTreeMap<NodeId, BTreeMap<GroupId, LogShape>>,
    /// Groups that are destroyed: whoever knows has given their logs up, and whoever does not know
    /// yet may still count on what those once held.
    destroyed: BTreeSet<GroupId>,
    /// What each member has written since its newest sync.
    unsynced: BTreeMap<NodeId, Vec<Record>>,
    pub changes: Changes,
    pub votes: Votes,
    pub elections: u64,
}

impl Safety {
    pub fn new(groups: u64, founders: &[NodeId]) -> Safety {
        let committed = (1..=groups).map(|g| (GroupId(g), CommittedLog::born())).collect();
        Safety { confs: Confs::new(groups, founders), committed, ..Safety::default() }
    }

    /// A group is born with these voters.
    pub fn found(&mut self, group: GroupId, voters: Vec<NodeId>) {
        self.confs.found(group, ConfState::of_voters(voters));
        self.committed.insert(group, CommittedLog::born());
    }

    /// A group is no more.
    pub fn on_destroyed(&mut self, group: GroupId) {
        self.destroyed.insert(group);
    }

    pub fn committed_index(&self, group: GroupId) -> LogIndex {
        self.committed.get(&group).map_or(LogIndex::ZERO, CommittedLog::last)
    }

    /// What a member's disk holds of a group's log for sure, for the picture.
    pub fn log_on_disk(&self, node: NodeId, group: GroupId) -> LogTerms {
        self.durable.get(&node).and_then(|m| m.get(&group)).map_or_else(LogTerms::default, |log| {
            LogTerms::of(log.start.0, log.terms.iter().map(|(i, t)| (*i, *t)))
        })
    }
    /// What anybody has applied, for the picture.
    pub fn log_committed(&self, group: GroupId) -> LogTerms {
        let log = self.committed.get(&group);
        LogTerms::of(LogIndex::ZERO, log.into_iter().flat_map(CommittedLog::terms))
    }

    /// After every step of a member.
    pub fn on_status(
        &mut self,
        process: u64,
        node: NodeId,
        group: GroupId,
        said: &Said,
    ) -> Checked {
        let committed = self.committed.get(&group);
        let seen = self.seen.entry((node, group)).or_default();
        if seen.process == process {
            ensure!(
                said.term >= seen.term,
                "monotone-term",
                "{node} group {group}: term {} after {}",
                said.term,
                seen.term
            );
            ensure!(
                said.commit >= seen.commit && said.applied >= seen.applied,
                "monotone-commit",
                "{node} group {group}: commit {} applied {} after {} {}",
                said.commit,
                said.applied,
                seen.commit,
                seen.applied
            );
        }
        // Who has no state yet has no configuration either.
        let folded = self.confs.at(group, said.applied).filter(|_| !said.conf.voters.is_empty());
        ensure!(
            folded.is_none_or(|folded| *folded == said.conf),
            "configuration",
            "{node} group {group}: behind {} it acts on {:?}, by the committed changes it is {:?}",
            said.applied,
            said.conf,
            folded
        );
        // A leader commits by counting, under the configuration in force there.
        let reigned = seen.process == process && seen.leads && seen.term == said.term;
        let lives = !self.destroyed.contains(&group);
        if said.is_leader && reigned && said.commit > seen.commit && said.conf == seen.conf && lives
        {
            let durable = &self.durable;
            let has = |id: NodeId| {
                let log = durable.get(&id).and_then(|m| m.get(&group));
                log.is_some_and(|l| l.holds(said.commit, said.term))
            };
            ensure!(
                is_quorum(&said.conf, has),
                "committed-by-quorum",
                "group {group}: {node} commits {} in term {}, which no quorum of {:?} has synced",
                said.commit,
                said.term,
                said.conf
            );
        }
        seen.process = process;
        seen.term = said.term;
        seen.commit = said.commit;
        seen.applied = said.applied;
        seen.leads = said.is_leader;
        if seen.conf != said.conf {
            seen.conf.clone_from(&said.conf);
        }
        if said.is_leader {
            let known = self.leaders.get(&(group, said.term)).copied();
            ensure!(
                known.is_none_or(|k| k == node),
                "election-safety",
                "group {group} term {}: leaders {} and {node}",
                said.term,
                known.unwrap_or_default()
            );
            if known.is_none() {
                self.leaders.insert((group, said.term), node);
                self.elections += 1;
                // Elected under what it acts on now, or acted on before a change that it has
                // learned of since.
                let durable = &self.durable;
                let voted = |id: NodeId| {
                    let log = durable.get(&id).and_then(|m| m.get(&group));
                    log.is_some_and(|log| {
                        log.hard.term > said.term
                            || log.hard.term == said.term && log.hard.vote == node
                    })
                };
                let elects = |conf: &ConfState| {
                    let votes = conf.voters.contains(&node) || conf.voters_outgoing.contains(&node);
                    votes && is_quorum(conf, voted)
                };
                ensure!(
                    !lives
                        || elects(&said.conf)
                        || self.confs.before(group, &said.conf).is_some_and(elects),
                    "election-quorum",
                    "group {group}: {node} leads term {} without the votes of a quorum of {:?}",
                    said.term,
                    said.conf
                );
                let before = committed.map_or(LogIndex::ZERO, |log| log.last_before(said.term));
                ensure!(
                    said.last >= before,
                    "leader-completeness",
                    "group {group}: {node} leads term {} with a log to {}, committed before is {}",
                    said.term,
                    said.last,
                    before
                );
            }
        }
        Ok(())
    }

    /// Entries on their way to a member's disk.
    pub fn on_append(&mut self, node: NodeId, group: GroupId, entries: &[Entry]) -> Checked {
        let committed = self.committed_index(group);
        let known = self.entries.entry(group).or_default();
        for entry in entries {
            if entry.kind == EntryKind::ConfChange
                && entry.index > committed
                && let Ok(change) = decode_conf_change(&entry.data)
            {
                self.confs.on_append(group, entry.index, change);
            }
            let hash = entry_hash(entry);
            let old = *known.entry((entry.index, entry.term)).or_insert(hash);
            ensure!(
                old == hash,
                "log-matching",
                "group {group} index {} term {}: {node} appends other data",
                entry.index,
                entry.term
            );
        }
        let applied = self.seen.get(&(node, group)).map_or(LogIndex::ZERO, |s| s.applied);
        let leaders = &self.leaders;
        let leads = |term| leaders.get(&(group, term)) == Some(&node);
        self.changes.on_append(node, group, entries, applied, leads)?;
        if let Some(log) = self.committed.get(&group) {
            log.bears(node, group, entries)?;
        }
        Ok(())
    }

    /// Entries that a member in `term` hands to its state machine. Returns those that nobody had
    /// applied before.
    pub fn on_apply<'e>(
        &mut self,
        node: NodeId,
        group: GroupId,
        term: Term,
        entries: &'e [Entry],
    ) -> Result<Vec<&'e Entry>, Violation> {
        let mut fresh = Vec::new();
        let own = self.durable.get(&node).and_then(|m| m.get(&group));
        for entry in entries {
            // A checkpoint may cover it from now on, and must never be ahead of the own log.
            ensure!(
                own.is_some_and(|l| l.holds(entry.index, entry.term)),
                "applied-is-durable-here",
                "group {group} index {}: {node} applies what its own log could still lose",
                entry.index
            );
            let log = self.committed.entry(group).or_default();
            if !log.on_apply(node, group, entry, term)? {
                continue;
            }
            let durable = &self.durable;
            let has = |id: NodeId| {
                let log = durable.get(&id).and_then(|m| m.get(&group));
                log.is_some_and(|l| l.holds(entry.index, entry.term))
            };
            ensure!(
                self.destroyed.contains(&group)
                    || self.confs.deciding(group, entry.index).any(|conf| is_quorum(conf, has)),
                "committed-is-durable",
                "group {group} index {} term {}: applied by {node}, synced on no quorum of {:?}",
                entry.index,
                entry.term,
                self.confs.deciding(group, entry.index).collect::<Vec<_>>()
            );
            self.confs.on_commit(group, entry.index);
            fresh.push(entry);
        }
        Ok(fresh)
    }

    /// The hash of a replica's state after it has applied `index`.
    pub fn on_state(
        &mut self,
        node: NodeId,
        group: GroupId,
        index: LogIndex,
        hash: u64,
    ) -> Checked {
        let (old, who) =
            *self.states.entry(group).or_default().entry(index).or_insert((hash, node));
        ensure!(
            old == hash,
            "state-equality",
            "group {group} applied {index}: {node} has {hash:016x}, {who} has {old:016x}"
        );
        Ok(())
    }

    /// A batch is about to be written: from here on a crash may leave any of it, or nothing.
    pub fn on_write(&mut self, node: NodeId, records: &[Record]) {
        self.unsynced.entry(node).or_default().extend_from_slice(records);
    }

    /// A sync has returned: all that was written before it is durable.
    pub fn on_synced(&mut self, node: NodeId) {
        let disk = self.durable.entry(node).or_default();
        for record in self.unsynced.remove(&node).into_iter().flatten() {
            replay(disk, &record);
        }
    }

    /// What the disk held stays on the record: entries were committed with its help. The member
    /// itself is never heard again.
    pub fn on_wiped(&mut self, node: NodeId) {
        self.unsynced.remove(&node);
    }

    /// After a restart: the log that was found holds everything that had been synced.
    pub fn on_recovered(&mut self, node: NodeId, found: BTreeMap<GroupId, LogShape>) -> Checked {
        let mut intended = self.durable.get(&node).cloned().unwrap_or_default();
        for record in self.unsynced.remove(&node).into_iter().flatten() {
            replay(&mut intended, &record);
        }
        for (group, had) in self.durable.get(&node).into_iter().flatten() {
            let Some(has) = found.get(group) else {
                ensure!(
                    // A log that was dropped may be gone before the sync.
                    !intended.contains_key(group)
                        || had.hard.term == Term::ZERO && had.last() == LogIndex::ZERO,
                    "durable-after-restart",
                    "{node} lost group {group}"
                );
                continue;
            };
            ensure!(
                has.hard.term > had.hard.term
                    || has.hard.term == had.hard.term
                        && (has.hard.vote == had.hard.vote || had.hard.vote.is_none()),
                "durable-hard-state",
                "{node} group {group}: synced term {} vote {}, found term {} vote {}",
                had.hard.term,
                had.hard.vote,
                has.hard.term,
                has.hard.vote
            );
            // What was written and not synced may have survived, a newer suffix included.
            let intended = intended.get(group);
            // A fetched state that was durable before the log's record of it, and that contradicts
            // the log where it ends: what lies behind follows a history that was not committed.
            let parted = had.term_at(has.start.0).is_some_and(|term| term != has.start.1);
            for (index, term) in &had.terms {
                let replaced = intended.is_some_and(|w| w.term_at(*index) != Some(*term));
                ensure!(
                    *index <= has.start.0
                        || parted
                        || has.terms.get(index) == Some(term)
                        || replaced
                            && (!has.terms.contains_key(index)
                                || has.terms.get(index)
                                    == intended.and_then(|w| w.terms.get(index))),
                    "durable-log",
                    "{node} group {group}: synced entry {index} term {term} is gone: log {:?}..{} term there {:?}",
                    has.start,
                    has.last(),
                    has.terms.get(index)
                );
            }
        }
        self.changes.on_recovered(node, &found);
        self.durable.insert(node, found);
        Ok(())
    }

    /// A message as it leaves a member: what it promises must be on that member's disk.
    pub fn on_send(&self, node: NodeId, message: &Message) -> Checked {
        self.votes.on_answer(message)?;
        let none = LogShape::default();
        let disk = self.durable.get(&node).and_then(|m| m.get(&message.group)).unwrap_or(&none);
        match &message.body {
            MessageBody::VoteReply { granted: true } => {
                ensure!(
                    disk.hard.term > message.term
                        || disk.hard.term == message.term && disk.hard.vote == message.to,
                    "message-after-durable",
                    "{node} group {}: vote for {} in term {} leaves, the disk has term {} vote {}",
                    message.group,
                    message.to,
                    message.term,
                    disk.hard.term,
                    disk.hard.vote
                );
            }
            // Index 0 acknowledges nothing: it only tells a stale leader of a newer term.
            MessageBody::AppendReply { index, reject: None } if index.0 > 0 => {
                // Many messages may be taken up before one write: a leader of a newer term has
                // then put its own entries in the place of those acknowledged to the older one
                // a moment before. They have never been alone on the disk; but nobody could tell
                // had they been, and the answer been on its way since.
                let replaced = disk.term_at(disk.last()).is_some_and(|term| term > message.term);
                ensure!(
                    disk.hard.term >= message.term && (disk.last() >= *index || replaced),
                    "message-after-durable",
                    "{node} group {}: acknowledges {index} in term {}, the disk has log {} term {}",
                    message.group,
                    message.term,
                    disk.last(),
                    disk.hard.term
                );
            }
            _ => {}
        }
        Ok(())
    }
}
