//! Consensus for ONE group, as a pure state machine: inputs go in, effects come out.
//!
//! ```text
//!              Input                                  Effect
//!   tick, message, propose, read index,    +---------+    send, send once persisted,
//!   campaign, transfer, trim         ----> | Replica | -> save, append, trim, apply,
//!   persisted, applied, entries read,      +---------+    read entries, make / install snapshot,
//!   snapshot ready / installed / failed                   read ready, dropped, soft state, note
//! ```
//!
//! # THE IDEA
//!
//! A group of replicas agrees on one log. Whoever wins an election of a *term* leads it, and only
//! the leader appends; an entry that a majority has on disk, and that is of the leader's own term,
//! is *committed*, and with it everything before it: it will be in the log of every later leader,
//! because a vote is given only to a log that is at least as good, and any two majorities share a
//! member. So every replica can apply committed entries, and all of them apply the same ones. The
//! long form is Ongaro and Ousterhout's paper ("the paper" in these files; "the thesis" is
//! Ongaro's), whose names are used throughout.
//!
//! # A WORKED TABLE
//!
//! Nodes 1, 2, 3. Node 1 led term 2, put entry 3 in its own log only, and was cut off:
//!
//! ```text
//!   index            1      2      3      4
//!   log of 1       t1     t2     t2
//!   log of 2       t1     t2     t3     t3       leads term 3
//!   log of 3       t1     t2     t3
//!                         |      |      |
//!                         |      |      in the leader's log only: not committed
//!                         |      on 2 and 3, of the leader's term: committed
//!                         committed in term 2
//! ```
//!
//! When 1 returns, the leader's append does not fit behind its entry 3 of term 2. It refuses with a
//! hint, the leader steps back a whole term, sends entries 3 and 4 of term 3, and node 1 truncates
//! its entry 3: it was never committed, so nobody was told that it happened.
//!
//! # THE DISK IS ASYNCHRONOUS
//!
//! A step never waits. What must be durable is an effect (`SaveHardState`, `Append`, `LogStart`,
//! `Trim`), in order; what one step yields goes into one atomic batch of the WAL. Two rules follow:
//!
//! - **Promises wait.** A vote, the request for one, and the acceptance of an append leave by
//!   `SendOncePersisted`: only when everything emitted before them is on disk. A candidate's own
//!   vote is such a message to itself.
//! - **The leader's disk is one voter.** Its append leaves for the followers at once, and counts at
//!   home only when `Input::Persisted` names it, by term *and* index; even that can speak of a log
//!   that is gone (`log`, "how index and term alone mislead").
//!
//! Committed entries are handed out whether or not this node's own disk has them: a quorum does.
//! The host holds back what must not outrun its disk (a checkpoint, see architecture).
//!
//! # INVARIANTS
//!
//! Asserted where they could break; `Replica::step` ends with those that span parts.
//!
//! - The term never decreases; in each term a replica votes at most once, and both survive a crash
//!   before anyone hears of them.
//! - `start <= applied <= commit <= last`, and `applied`, `commit`, `start` never decrease.
//! - Nothing at or below the commit index is truncated. A leader truncates nothing at all.
//! - A leader commits by counting only entries of its own term (paper, figure 8).
//! - An entry reaches a log only behind the entry that precedes it at its leader (log matching):
//!   `log::LogSlice` is the only way in for entries of others.
//! - A configuration is in force from the moment its entry is *applied* (not appended), one change
//!   is under way at a time, and nobody campaigns while a committed change is unapplied here. Hence
//!   the configurations of any two nodes that could win an election differ by one step at most, and
//!   a step leaves no two disjoint majorities (`conf_change`).
//! - No message, whatever it says, panics; no list grows without one of the `Bounds`.
//!
//! # WHAT IS LEFT OUT
//!
//! - **Leases for reads.** A paused leader's ticks lag, so time proves nothing. Reads ask a quorum.
//! - **Transport, storage, clocks, logging.** A tick is an input; `Note`s say what happened.
//! - **Many groups.** Coalescing of heartbeats, quiescence and one disk for all are `multiraft`'s;
//!   `Replica::is_quiet` and `Input::Wake` are what it needs of us.
//! - **What an entry means.** Data is bytes. Only *that* an entry is a configuration change is
//!   known, and its verdict comes back by `Input::ConfApplied`.
//! - **Retrying.** A proposal that was appended may be lost with its leader; nobody is told, for
//!   nobody here can know. One that was never appended comes back as `ProposalsDropped`.
//!
//! # READING ORDER
//!
//! `replica` (the dispatcher: terms, roles) and `core` (what every role has); `follower`,
//! `candidate`, `leader` with `replication`; the parts `log`, `progress`, `quorum`, `read_index`,
//! `conf_change`, `apply`, `gate`. `scripts/*.txt` are stories with every message: `election.txt`
//! first.

mod replica;

mod core;

mod follower;

mod candidate;

mod leader;
mod replication;

mod apply;
pub mod conf_change;
mod gate;
mod log;
mod note;
mod progress;
pub mod quorum;
mod read_index;

#[cfg(test)]
mod tests;

pub use note::Note;
pub use replica::Replica;

use crate::types::message::SnapshotMeta;
use crate::types::{
    ConfChange, ConfState, Entry, GroupId, HardState, LogIndex, Message, NodeId, Term, limits,
};
use bytes::Bytes;

/// What one replica is told once, at its start.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    pub id: NodeId,
    pub group: GroupId,
    /// Ticks without a leader before a follower campaigns; the timeout is drawn anew from
    /// `election_ticks..2 * election_ticks` each time.
    pub election_ticks: u32,
    pub heartbeat_ticks: u32,
    /// Ask "would you vote for me?" before raising the term (thesis 9.6).
    pub pre_vote: bool,
    /// A leader that hears from no quorum for an election timeout steps down, and a follower
    /// that hears from its leader refuses to vote.
    pub check_quorum: bool,
    /// Seeds the election timeouts. Different on every node.
    pub seed: u64,
    /// How the data of an `EntryKind::ConfChange` entry is written: `codec`'s business, handed in
    /// so that this room knows no encoding.
    pub encode_conf_change: fn(&ConfChange) -> Bytes,
    pub bounds: Bounds,
}

impl Config {
    /// etcd's timing (a heartbeat each tick, an election after ten), pre-vote and check-quorum
    /// on, every bound from `types::limits`.
    pub fn new(
        id: NodeId,
        group: GroupId,
        seed: u64,
        encode_conf_change: fn(&ConfChange) -> Bytes,
    ) -> Config {
        Config {
            id,
            group,
            election_ticks: 10,
            heartbeat_ticks: 1,
            pre_vote: true,
            check_quorum: true,
            seed,
            encode_conf_change,
            bounds: Bounds::default(),
        }
    }
}

/// Everything that could grow, and how far it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Entries and entry bytes in one append message.
    pub append_entries_max: usize,
    pub append_bytes_max: usize,
    /// Append messages and entry bytes on their way to one follower.
    pub inflight_appends_max: usize,
    pub inflight_bytes_max: usize,
    /// Persisted entry bytes kept in memory.
    pub log_cache_bytes_max: usize,
    /// Bytes a leader has appended and not yet committed.
    pub uncommitted_bytes_max: usize,
    /// Entry bytes handed out by `Effect::Apply` and not yet `Input::Applied`.
    pub apply_bytes_max: usize,
    /// Read-index requests waiting at one replica.
    pub reads_pending_max: usize,
}

impl Default for Bounds {
    fn default() -> Bounds {
        Bounds {
            append_entries_max: limits::APPEND_ENTRIES_MAX,
            append_bytes_max: limits::APPEND_BYTES_MAX,
            inflight_appends_max: limits::INFLIGHT_APPENDS_MAX,
            inflight_bytes_max: limits::INFLIGHT_BYTES_MAX,
            log_cache_bytes_max: limits::LOG_CACHE_BYTES_MAX,
            uncommitted_bytes_max: limits::UNCOMMITTED_BYTES_MAX,
            apply_bytes_max: limits::APPLY_BYTES_MAX,
            reads_pending_max: limits::READS_PENDING_MAX,
        }
    }
}

/// What a replica finds on its disk. The host guarantees `start <= applied <= last`, and that
/// the log's entry at `applied` is the one the store has applied: after a crash between a
/// snapshot's install and its `LogStart` record it first writes that record again.
#[derive(Clone, Debug, Default)]
pub struct Boot {
    pub hard: HardState,
    /// The configuration as of `applied`.
    pub conf: ConfState,
    /// What the state machine holds.
    pub applied: LogIndex,
    /// The last trimmed entry: the log holds `start.0 + 1 ..= last`.
    pub start: (LogIndex, Term),
    pub last: LogIndex,
    /// Run-length terms after `start`: the first index of each run.
    pub terms: Vec<(LogIndex, Term)>,
    /// The newest entries, ending at `last`; may be shorter than the log, or empty.
    pub tail: Vec<Entry>,
}

/// Everything that can happen to a replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    Tick,
    /// From another node, or from this one: a `SendOncePersisted` to itself comes back here.
    Message(Message),
    Propose {
        data: Vec<Bytes>,
    },
    /// Taken by a leader only; elsewhere it is dropped with `Dropped::NotLeader`.
    ProposeConfChange(ConfChange),
    /// A client wants to read. `context` names the request (or a batch of them) and is never used
    /// twice, not even by a later life of this process: an old answer would otherwise be taken
    /// for a new one.
    ReadIndex {
        context: u64,
    },
    /// Hand the leadership to this node.
    Transfer(NodeId),
    /// Campaign now. A lone voter is told so at boot.
    Campaign,
    /// The log is durable through the entry (`term`, `index`), which ended some `Effect::Append`.
    /// Reported in the order of the appends, for each of them or for the newest of a batch.
    Persisted {
        term: Term,
        index: LogIndex,
    },
    /// The state at `meta` is durable in the store and has replaced what was there.
    SnapshotInstalled {
        meta: SnapshotMeta,
    },
    /// It could not be fetched or installed. Every `InstallSnapshot` ends in one of the two.
    SnapshotRefused {
        index: LogIndex,
    },
    /// Answers `ReadEntries`: entries from `from` on, at least one, or none when the read failed.
    EntriesRead {
        purpose: ReadFor,
        from: LogIndex,
        entries: Vec<Entry>,
    },
    /// Answers `MakeSnapshot`: the state at `meta` is pinned and can be fetched.
    SnapshotReady {
        to: NodeId,
        meta: SnapshotMeta,
    },
    /// It could not be made, or streaming it failed.
    SnapshotFailed {
        to: NodeId,
    },
    /// The state machine has run every entry up to here.
    Applied {
        index: LogIndex,
    },
    /// The applier's verdict on a committed `ConfChange` entry: in force now, or refused (`None`).
    /// Comes before an `Applied` that covers `index`.
    ConfApplied {
        index: LogIndex,
        change: Option<ConfChange>,
    },
    /// A message to this node was lost on the way.
    Unreachable(NodeId),
    /// The entries up to here are not needed any more: the store holds what they did.
    Trim {
        index: LogIndex,
    },
    /// The host stopped the ticks of a quiet group and takes them up again.
    Wake,
}

/// Everything a replica can ask for. Order matters: what is to be durable goes into the WAL in
/// this order, and what one `step` yields goes into ONE atomic batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    SaveHardState(HardState),
    /// The log's suffix from `[0].index` on is replaced by these. Never empty, without gaps.
    Append(Vec<Entry>),
    /// A snapshot was installed: the log is empty after this entry.
    LogStart {
        index: LogIndex,
        term: Term,
    },
    /// The prefix up to and including this entry is gone.
    Trim {
        index: LogIndex,
        term: Term,
    },
    /// May leave at once; never addressed to this node itself.
    Send(Message),
    /// May leave once everything emitted before it, in this step and earlier ones, is durable.
    /// Addressed to this node itself it comes back as `Input::Message` (its own vote).
    SendOncePersisted(Message),
    /// Read `from..=to` back from the WAL, at most `bytes_max` bytes but at least one entry.
    /// Only persisted entries are asked for.
    ReadEntries {
        purpose: ReadFor,
        from: LogIndex,
        to: LogIndex,
        bytes_max: usize,
    },
    /// Committed entries, each exactly once and in order. They may not be durable *here* yet: a
    /// checkpoint waits until they are.
    Apply(Vec<Entry>),
    /// Reads under `context` may be served from a state that has applied `index`.
    ReadReady {
        context: u64,
        index: LogIndex,
    },
    /// Leadership was lost before it could be confirmed: ask again.
    ReadDropped {
        context: u64,
    },
    /// Never appended: may be proposed again.
    ProposalsDropped {
        data: Vec<Bytes>,
        reason: Dropped,
    },
    ConfChangeDropped {
        change: ConfChange,
        reason: Dropped,
    },
    /// A follower needs entries that are trimmed: pin the state for it.
    MakeSnapshot {
        to: NodeId,
    },
    /// Fetch the state at `meta` from `from` and install it.
    InstallSnapshot {
        from: NodeId,
        meta: SnapshotMeta,
    },
    /// On change. `leader` is `NodeId::NONE` when unknown.
    SoftState {
        leader: NodeId,
        role: Role,
        term: Term,
    },
    /// A new configuration is in force.
    Conf(ConfState),
    Note(Note),
}

/// What entries are read back for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReadFor {
    Follower(NodeId),
    Apply,
}

/// Why a proposal never reached the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dropped {
    /// No leader is known.
    NoLeader,
    /// A configuration change has to be proposed at the leader.
    NotLeader,
    /// The leader is handing over.
    Transferring,
    /// Too many bytes are appended and not committed.
    TooMany,
    /// Another configuration change is not applied yet.
    ConfPending,
    /// The change does not fit the configuration in force.
    ConfInvalid,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Role {
    #[default]
    Follower,
    PreCandidate,
    Candidate,
    Leader,
}

/// The effects of one or more steps, in order; drained by the host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Effects(Vec<Effect>);

impl Effects {
    pub fn new() -> Effects {
        Effects::default()
    }
    /// Adds an effect. Neighbours that say the same thing in two parts become one: a newer hard
    /// state replaces an older one, contiguous appends and applies merge.
    pub fn push(&mut self, effect: Effect) {
        match (self.0.last_mut(), effect) {
            (Some(Effect::SaveHardState(old)), Effect::SaveHardState(new)) => *old = new,
            (Some(Effect::Append(old)), Effect::Append(mut new)) if follows(old, &new) => {
                old.append(&mut new);
            }
            (Some(Effect::Apply(old)), Effect::Apply(mut new)) if follows(old, &new) => {
                old.append(&mut new);
            }
            (_, effect) => self.0.push(effect),
        }
    }
    pub fn drain(&mut self) -> std::vec::Drain<'_, Effect> {
        self.0.drain(..)
    }
    pub fn iter(&self) -> std::slice::Iter<'_, Effect> {
        self.0.iter()
    }
    pub fn len(&self) -> usize {
        self.0.len()
    }
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

fn follows(old: &[Entry], new: &[Entry]) -> bool {
    match (old.last(), new.first()) {
        (Some(last), Some(first)) => last.index.next() == first.index,
        _ => false,
    }
}

/// What a replica looks like from outside.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    pub id: NodeId,
    pub term: Term,
    pub vote: NodeId,
    pub role: Role,
    pub leader: NodeId,
    pub commit: LogIndex,
    pub applied: LogIndex,
    /// The last trimmed entry.
    pub start: LogIndex,
    pub last: LogIndex,
    /// The term of the last entry.
    pub last_term: Term,
    /// The log is known durable up to here.
    pub persisted: LogIndex,
    pub conf: ConfState,
    /// Whom the leadership is being handed to, or `NodeId::NONE`.
    pub transferee: NodeId,
    /// One per other member, ascending; a leader's only.
    pub progress: Vec<PeerStatus>,
}

/// What a leader knows of one other member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerStatus {
    pub id: NodeId,
    pub learner: bool,
    pub state: PeerState,
    /// Persisted there and equal to the leader's log.
    pub matched: LogIndex,
    /// The next entry to send.
    pub next: LogIndex,
    /// Append messages on their way.
    pub inflight: usize,
    /// Heard from since the last quorum check.
    pub active: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PeerState {
    /// Looking for the point where the logs agree, one append at a time.
    Probe,
    /// Streaming.
    Replicate,
    /// Being brought up by a snapshot.
    Snapshot,
}
