//! What the core knows of one group, and of one peer.
//!
//! Only kept here: what becomes of it is decided in `core` and its neighbours.

use super::action::Token;
use super::fetch::Fetch;
use super::lessor::Lessor;
use super::reads::Reads;
use crate::multiraft::turn::SoftState;
use crate::raft::{self, Role};
use crate::types::command::AlarmKind;
use crate::types::{ConfState, LogIndex, NodeId};
use std::collections::{BTreeMap, VecDeque};

/// One group as the core sees it.
#[derive(Debug)]
pub(super) struct Group {
    pub soft: SoftState,
    /// When the leader of now became known.
    pub led_since_ms: u64,
    pub conf: ConfState,
    /// Applied here and visible to readers.
    pub applied: LogIndex,
    pub state_hash: (LogIndex, u64),
    pub alarms: Vec<(NodeId, AlarmKind)>,
    pub reads: Reads,
    pub lessor: Lessor,
    /// This member leads, and counts leases only once it has applied this: in front of it are
    /// keepalives that its predecessors have answered.
    pub counts_from: Option<LogIndex>,
    /// Up to where a fetched state has taken the place of what was applied.
    pub replaced: LogIndex,
    /// Requests that wait for a leader, oldest first.
    pub parked: VecDeque<u64>,
    /// Encoded proposals to step at the end of the turn.
    pub outgoing: Vec<bytes::Bytes>,
    pub fetch: Option<Fetch>,
    /// Followers that fetch a state of this index: the log behind it is kept for them.
    pub sending: BTreeMap<NodeId, (LogIndex, u64)>,
    pub transfers: Vec<(Token, NodeId, u64)>,
    pub nospace_told_ms: Option<u64>,
}

impl Group {
    /// A group whose state machine has nothing to tell.
    pub fn new(soft: SoftState, boot: &raft::Boot) -> Group {
        Group {
            soft,
            led_since_ms: 0,
            conf: boot.conf.clone(),
            applied: boot.applied,
            state_hash: (boot.applied, 0),
            alarms: Vec::new(),
            reads: Reads::default(),
            lessor: Lessor::default(),
            counts_from: None,
            replaced: LogIndex::ZERO,
            parked: VecDeque::new(),
            outgoing: Vec::new(),
            fetch: None,
            sending: BTreeMap::new(),
            transfers: Vec::new(),
            nospace_told_ms: None,
        }
    }

    pub fn leads(&self) -> bool {
        self.soft.role == Role::Leader
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Peer {
    /// Since when the stream is up, or down.
    pub up: bool,
    pub since_ms: u64,
}

/// One group, for metrics, `Status` and the simulator.
#[derive(Clone, Debug)]
pub struct GroupStatus {
    pub raft: raft::Status,
    pub applied: LogIndex,
    /// Applied index and rolling hash of the state there.
    pub state_hash: (LogIndex, u64),
    pub leases: usize,
    pub alarms: Vec<(NodeId, AlarmKind)>,
    pub reads_waiting: usize,
    pub parked: usize,
    pub fetching: bool,
}
