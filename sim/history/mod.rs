//! The clients' side of the story, judged as it is written.
//!
//! Linearizability with the log as witness. Every committed command is folded, in log order,
//! through the reference model; a reply must be the model's at the command's own position, and
//! positions must respect real time: behind everything that had been answered before the call
//! began. A linearizable read carries a revision, which must not lie before anything answered
//! before the call, and its content must be the model's at that revision. A call without an answer
//! may or may not have happened, and the log says which; one that was refused must not be in it.

mod answers;
mod control;
mod leases;
mod rights;

pub use answers::is_refusal;
pub use control::self_check;
pub use rights::Demand;

use crate::model::{Model, Outcome, Users};
use crate::safety::{Checked, Violation, ensure};
use crate::wgl::{Record, Verdict};
use answers::same_command;
use bytes::Bytes;
use quorate::multiraft::turn::BOOT_INDEX;
use quorate::types::auth::Caller;
use quorate::types::command::{AlarmKind, Proposal, RangeRequest, RequestOp, TxnRequest};
use quorate::types::reply::{RangeReply, Reply, TxnReply};
use quorate::types::{ApiError, Command, Entry, EntryKind, GroupId, LeaseId, LogIndex, RequestId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub type CallId = u64;
/// A lease, its TTL and its keys.
pub type LeaseRow = (LeaseId, i64, Vec<Bytes>);

/// What a client asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    Write(Command),
    Range(RangeRequest),
    ReadTxn(TxnRequest),
    KeepAlive(LeaseId),
    LeaseTtl(LeaseId),
    /// Every lease with its keys. Not an RPC of its own: LeaseLeases and TimeToLive in one.
    Leases,
}

impl Call {
    pub fn is_serializable(&self) -> bool {
        match self {
            Call::Range(r) => r.serializable,
            Call::ReadTxn(t) => t
                .success
                .iter()
                .chain(&t.failure)
                .all(|op| matches!(op, RequestOp::Range(r) if r.serializable)),
            _ => false,
        }
    }
}

/// What a client is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// `index` is where in the log the command was applied.
    Wrote {
        reply: Result<Reply, ApiError>,
        revision: i64,
        index: LogIndex,
    },
    Range {
        reply: RangeReply,
        revision: i64,
    },
    ReadTxn {
        reply: TxnReply,
        revision: i64,
    },
    KeptAlive {
        ttl_seconds: i64,
    },
    LeaseTtl {
        granted_seconds: i64,
        remaining_seconds: i64,
    },
    Leases {
        leases: Vec<LeaseRow>,
        /// The applied index of the state they were read from.
        applied: LogIndex,
    },
    /// Answered with an error that says nothing about the state machine. `never` promises that
    /// the command has not happened and will not.
    Failed {
        error: ApiError,
        never: bool,
    },
}

/// What had been answered before a call began.
#[derive(Clone, Copy, Debug, Default)]
struct Floor {
    index: LogIndex,
    revision: i64,
    compacted: i64,
}

#[derive(Clone, Debug)]
struct Open {
    group: GroupId,
    call: Call,
    started_us: u64,
    floor: Floor,
    /// On whose behalf the member that took it goes on.
    caller: Option<Caller>,
}

/// A command of the log and what it did there.
#[derive(Clone, Debug)]
struct Done {
    caller: Option<Caller>,
    command: Command,
    outcome: Outcome,
}

/// How far clocks may be off, and how much longer a new leader may let leases live.
#[derive(Clone, Copy, Debug, Default)]
struct LeaseRules {
    pub drift_ppm: u64,
    pub grace_us: u64,
}

#[derive(Default)]
struct Keyspace {
    model: Model,
    next: LogIndex,
    positions: BTreeMap<LogIndex, Done>,
    /// Users and roles behind each command that may have changed them.
    users: BTreeMap<LogIndex, Arc<Users>>,
    requests: BTreeMap<RequestId, LogIndex>,
    /// Positions that a client's answer has named.
    claimed: BTreeSet<LogIndex>,
    /// Values of puts that were refused for good. Values are unique.
    refused: BTreeSet<Bytes>,
    /// Values of puts in the log.
    done: BTreeSet<Bytes>,
    floor: Floor,
    leases: leases::Leases,
    /// Alarms that were ever raised.
    alarmed: BTreeSet<AlarmKind>,
}

#[derive(Default)]
pub struct History {
    groups: BTreeMap<GroupId, Keyspace>,
    open: BTreeMap<CallId, Open>,
    next_call: CallId,
    pub acked_writes: u64,
    pub acked_reads: u64,
    pub failed: u64,
    /// Calls answered since the switch was thrown that had begun after it. See `quorum_lost`.
    silence_since_us: Option<u64>,
    /// The groups that must be silent; all of them if none are named.
    silent: BTreeSet<GroupId>,
    /// Seeds with a quota may refuse writes for space before any alarm is in the log.
    pub quota: bool,
    /// For the search for an order, in seeds that get one.
    record: Option<Record>,
    grace_us: u64,
}

impl History {
    /// `drift_ppm` bounds how much faster than true time a member's clock goes.
    pub fn new(groups: u64, drift_ppm: u64) -> History {
        let mut history = History::default();
        for g in 1..=groups {
            history.found(GroupId(g), drift_ppm);
        }
        history
    }

    /// A group is born.
    pub fn found(&mut self, group: GroupId, drift_ppm: u64) {
        let floor = Floor { revision: 1, compacted: -1, ..Floor::default() };
        let mut keyspace = Keyspace { next: BOOT_INDEX, floor, ..Keyspace::default() };
        keyspace.leases.rules = LeaseRules { drift_ppm, grace_us: self.grace_us };
        self.groups.insert(group, keyspace);
    }

    /// How much longer than its TTL a new leader may let a lease live.
    pub fn lease_grace(&mut self, grace_us: u64) {
        self.grace_us = grace_us;
        self.groups.values_mut().for_each(|keyspace| keyspace.leases.rules.grace_us = grace_us);
    }
    /// From now on everything that clients see is kept for `black_box`.
    pub fn keep_record(&mut self) {
        self.record = Some(Record::default());
    }
    /// What clients saw, judged without the log; nothing when nothing was kept.
    pub fn black_box(&self) -> Result<Verdict, Violation> {
        self.record.as_ref().map_or(Ok(Verdict::default()), Record::judge)
    }

    pub fn model(&self, group: GroupId) -> &Model {
        &self.groups[&group].model
    }
    pub fn acked(&self) -> u64 {
        self.acked_writes + self.acked_reads
    }

    /// From now on no call that begins may be answered, serializable reads excepted.
    pub fn quorum_lost(&mut self, now_us: u64) {
        self.quorum_lost_in(now_us, BTreeSet::new());
    }
    /// The same of these groups only.
    pub fn quorum_lost_in(&mut self, now_us: u64, silent: BTreeSet<GroupId>) {
        self.silence_since_us = Some(now_us);
        self.silent = silent;
    }
    pub fn quorum_back(&mut self) {
        self.silence_since_us = None;
    }

    pub fn begin(&mut self, now_us: u64, group: GroupId, call: Call) -> CallId {
        self.next_call += 1;
        let floor = self.groups[&group].floor;
        if let Some(record) = &mut self.record {
            record.begin(self.next_call, group, &call);
        }
        let open = Open { group, call, started_us: now_us, floor, caller: None };
        self.open.insert(self.next_call, open);
        self.next_call
    }

    /// The client has given up: whatever comes later is not heard.
    pub fn abandon(&mut self, call: CallId) {
        self.open.remove(&call);
        self.failed += 1;
    }

    /// A committed entry, in order, seen for the first time.
    pub fn commit(
        &mut self,
        now_us: u64,
        group: GroupId,
        entry: &Entry,
        proposal: Option<Proposal>,
    ) -> Checked {
        let keyspace = self.groups.entry(group).or_default();
        ensure!(
            entry.index == keyspace.next.next(),
            "commit-gap",
            "group {group}: {} after {}",
            entry.index,
            keyspace.next
        );
        keyspace.next = entry.index;
        let Some(Proposal { id, caller, command }) = proposal else {
            ensure!(
                entry.kind != EntryKind::Command,
                "undecodable",
                "group {group} index {}: a committed command does not decode",
                entry.index
            );
            return Ok(());
        };
        if let Some(value) = unique_value(&command) {
            ensure!(
                !keyspace.refused.contains(value),
                "refused-but-done",
                "group {group} index {}: {command:?} was refused for good, and is in the log",
                entry.index
            );
            keyspace.done.insert(value.clone());
        }
        keyspace.leases.before_end(now_us, group, entry, &command, &keyspace.model)?;
        let leases = matches!(command, Command::LeaseGrant { .. } | Command::LeaseRevoke { .. });
        let before = if leases { keyspace.model.lease_ids() } else { Vec::new() };
        let is_expiry = matches!(command, Command::LeaseRevoke { leader: Some(_), .. });
        let by = caller.as_ref();
        let outcome = keyspace.model.apply_for(by, &command, entry.index, entry.term);
        if leases {
            let expired_us = is_expiry.then_some(now_us);
            keyspace.leases.changed(expired_us, entry.index, &before, &keyspace.model);
        }
        if let (Command::Alarm(_), Ok(Reply::Alarm(_))) = (&command, &outcome.reply) {
            keyspace.alarmed.extend(keyspace.model.alarms().iter().map(|alarm| alarm.1));
        }
        if let (Command::Auth(_), Ok(_)) = (&command, &outcome.reply) {
            keyspace.users.insert(entry.index, Arc::new(keyspace.model.users().clone()));
        }
        keyspace.positions.insert(entry.index, Done { caller, command, outcome });
        let old = keyspace.requests.insert(id, entry.index);
        ensure!(
            old.is_none(),
            "applied-twice",
            "group {group}: {id:?} is at {} and at {}",
            old.unwrap_or_default(),
            entry.index
        );
        Ok(())
    }

    /// For an answer that does not say where in the log its command is: the first place behind all
    /// that had been answered before the call where it is, with an outcome that fits, and that no
    /// other answer has taken. If there is none: what the command did where it is.
    pub fn place(
        &self,
        call: CallId,
        fits: impl Fn(&Outcome) -> bool,
    ) -> Result<(LogIndex, Outcome), Vec<(LogIndex, Outcome)>> {
        let Some(open) = self.open.get(&call) else { return Err(Vec::new()) };
        let (Call::Write(sent), Some(keyspace)) = (&open.call, self.groups.get(&open.group)) else {
            return Err(Vec::new());
        };
        let behind = keyspace.positions.range(open.floor.index.next()..);
        let places = behind.filter(|(index, there)| {
            same_command(sent, &there.command) && !keyspace.claimed.contains(index)
        });
        let mut near = Vec::new();
        for (index, Done { outcome, .. }) in places {
            if fits(outcome) {
                return Ok((*index, outcome.clone()));
            }
            near.push((*index, outcome.clone()));
        }
        Err(near)
    }

    /// A call ends with an answer that its client hears.
    pub fn end(&mut self, now_us: u64, call: CallId, answer: Answer) -> Checked {
        let Some(open) = self.open.remove(&call) else { return Ok(()) };
        if let Some(record) = &mut self.record {
            record.end(call, &answer);
        }
        if let Answer::Failed { error, never } = &answer {
            self.failed += 1;
            let quota = self.quota;
            let keyspace = self.groups.get_mut(&open.group).expect("a known group");
            return keyspace.failed(&open, error, *never, quota);
        }
        let silent = self.silent.is_empty() || self.silent.contains(&open.group);
        if let Some(since) = self.silence_since_us.filter(|_| silent) {
            ensure!(
                open.started_us <= since || open.call.is_serializable(),
                "answer-without-quorum",
                "group {}: {:?} began at {} us and was answered at {now_us} us; the quorum was \
                 lost at {since} us",
                open.group,
                open.call,
                open.started_us
            );
        }
        match &answer {
            Answer::Wrote { .. } => self.acked_writes += 1,
            _ => self.acked_reads += 1,
        }
        let keyspace = self.groups.get_mut(&open.group).expect("a known group");
        keyspace.answered(now_us, &open, answer)
    }
}

/// What identifies a put: clients never write a value twice.
fn unique_value(command: &Command) -> Option<&Bytes> {
    match command {
        Command::Put(put) if !put.value.is_empty() => Some(&put.value),
        _ => None,
    }
}
