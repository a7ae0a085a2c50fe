//! What a Raft log is made of.

use super::ids::{LogIndex, NodeId, Term};
use bytes::Bytes;

/// What an entry's data means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EntryKind {
    /// A new leader's first entry: no data, commits the entries of earlier terms (paper 5.4.2).
    Empty,
    /// An encoded proposal (`codec::command`).
    Command,
    /// An encoded `ConfChange` (`codec::raft`).
    ConfChange,
}

/// One entry of one group's log. `data` is shared, never copied: the bytes that the proposer
/// encoded are the bytes in the log, on the wire and in the WAL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub term: Term,
    pub index: LogIndex,
    pub kind: EntryKind,
    pub data: Bytes,
}

impl Entry {
    /// What the entry costs in a budget counted in bytes: its data and a fixed part.
    pub fn cost(&self) -> usize {
        self.data.len() + 32
    }
}

/// What must be on disk before a message that depends on it leaves (paper, figure 2). `commit`
/// is a hint that spares a restarted member work; it may lag.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct HardState {
    pub term: Term,
    pub vote: NodeId,
    pub commit: LogIndex,
}

/// Who votes and who listens. `voters_outgoing` is non-empty exactly while a joint
/// configuration is in force. All lists are sorted and free of duplicates.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ConfState {
    pub voters: Vec<NodeId>,
    pub learners: Vec<NodeId>,
    pub voters_outgoing: Vec<NodeId>,
    /// Voters of the outgoing configuration that become learners when the joint one is left.
    pub learners_next: Vec<NodeId>,
    pub auto_leave: bool,
}

impl ConfState {
    pub fn of_voters(mut voters: Vec<NodeId>) -> ConfState {
        voters.sort_unstable();
        voters.dedup();
        ConfState { voters, ..ConfState::default() }
    }
    pub fn is_joint(&self) -> bool {
        !self.voters_outgoing.is_empty()
    }
    /// Every node of the configuration, each once, in ascending order.
    pub fn members(&self) -> Vec<NodeId> {
        let mut all: Vec<NodeId> = self
            .voters
            .iter()
            .chain(&self.learners)
            .chain(&self.voters_outgoing)
            .chain(&self.learners_next)
            .copied()
            .collect();
        all.sort_unstable();
        all.dedup();
        all
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ConfChangeKind {
    AddVoter,
    AddLearner,
    Remove,
}

/// One change of configuration. An empty list of changes leaves a joint configuration. More than
/// one change, or `joint`, goes through a joint configuration (paper section 6).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfChange {
    pub changes: Vec<(ConfChangeKind, NodeId)>,
    pub joint: bool,
    /// Leave the joint configuration by itself once it is in force.
    pub auto_leave: bool,
    /// An encoded command for the root state machine (the member's names and URLs), or empty.
    pub context: Bytes,
}
