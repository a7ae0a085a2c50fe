//! The clients' side of the story, judged as it is written.
//!
//! Linearizability with the log as witness. Every committed command is folded, in log order,
//! through the reference model; a reply must be the model's at the command's own position, and
//! positions must respect real time: behind everything that had been answered before the call
//! began. A linearizable read carries a revision, which must not lie before anything answered
//! before the call, and its content must be the model's at that revision. A call without an answer
//! may or may not have happened, and the log says which; one that was refused must not be in it.

use crate::model::{Model, Outcome, normalise};
use crate::safety::{Checked, Violation, broken, ensure};
use bytes::Bytes;
use quorate::multiraft::turn::BOOT_INDEX;
use quorate::types::command::{Proposal, RangeRequest, RequestOp, TxnRequest};
use quorate::types::reply::{RangeReply, Reply, TxnReply};
use quorate::types::{ApiError, Command, Entry, EntryKind, GroupId, LeaseId, LogIndex, RequestId};
use std::collections::{BTreeMap, BTreeSet};

pub type CallId = u64;

/// What a client asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    Write(Command),
    Range(RangeRequest),
    ReadTxn(TxnRequest),
    KeepAlive(LeaseId),
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
}

#[derive(Clone, Copy, Debug)]
struct LeaseLife {
    granted: LogIndex,
    revoked: Option<LogIndex>,
}

#[derive(Default)]
struct Keyspace {
    model: Model,
    next: LogIndex,
    /// Each command of the log and what it did there.
    positions: BTreeMap<LogIndex, (Command, Outcome)>,
    requests: BTreeMap<RequestId, LogIndex>,
    /// Positions that a client's answer has named.
    claimed: BTreeSet<LogIndex>,
    /// Values of puts that were refused for good. Values are unique.
    refused: BTreeSet<Bytes>,
    /// Values of puts in the log.
    done: BTreeSet<Bytes>,
    floor: Floor,
    leases: BTreeMap<LeaseId, LeaseLife>,
    /// The start of the newest call that was told the lease lives, and its TTL.
    kept: BTreeMap<LeaseId, (u64, i64)>,
    drift_ppm: u64,
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
        let keyspace = Keyspace { next: BOOT_INDEX, floor, drift_ppm, ..Keyspace::default() };
        self.groups.insert(group, keyspace);
    }

    pub fn model(&self, group: GroupId) -> &Model {
        &self.groups[&group].model
    }
    pub fn acked(&self) -> u64 {
        self.acked_writes + self.acked_reads
    }

    /// From now on no call that begins may be answered, serializable reads excepted.
    pub fn quorum_lost(&mut self, now_us: u64) {
        self.silence_since_us = Some(now_us);
    }
    pub fn quorum_back(&mut self) {
        self.silence_since_us = None;
    }

    pub fn begin(&mut self, now_us: u64, group: GroupId, call: Call) -> CallId {
        self.next_call += 1;
        let floor = self.groups[&group].floor;
        let open = Open { group, call, started_us: now_us, floor };
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
        let Some(Proposal { id, command }) = proposal else {
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
        keyspace.before_lease_end(now_us, group, entry, &command)?;
        let before = keyspace.model.lease_ids();
        let outcome = keyspace.model.apply(&command, entry.term);
        keyspace.after_leases(entry.index, &before);
        keyspace.positions.insert(entry.index, (command, outcome));
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
        let places = behind.filter(|(index, (there, _))| {
            same_command(sent, there) && !keyspace.claimed.contains(index)
        });
        let mut near = Vec::new();
        for (index, (_, outcome)) in places {
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
        if let Answer::Failed { error, never } = &answer {
            self.failed += 1;
            let keyspace = self.groups.get_mut(&open.group).expect("a known group");
            return keyspace.failed(&open, error, *never);
        }
        if let Some(since) = self.silence_since_us {
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

impl Keyspace {
    fn failed(&mut self, open: &Open, error: &ApiError, never: bool) -> Checked {
        if let (true, Call::Write(command)) = (never, &open.call)
            && let Some(value) = unique_value(command)
        {
            ensure!(
                !self.done.contains(value),
                "refused-but-done",
                "group {}: {command:?} is refused with {error:?}, and is in the log",
                open.group
            );
            self.refused.insert(value.clone());
        }
        if let Call::Write(command) = &open.call
            && is_verdict(error)
        {
            return self.rejected(open, command, error);
        }
        match (&open.call, error) {
            (Call::Range(r), ApiError::FutureRevision) => ensure!(
                r.revision > open.floor.revision,
                "linearizable-read",
                "group {}: revision {} is refused as future, {} had been answered before",
                open.group,
                r.revision,
                open.floor.revision
            ),
            (Call::Range(r), ApiError::Compacted) => ensure!(
                r.revision < self.model.compacted(),
                "linearizable-read",
                "group {}: revision {} is refused as compacted, the compaction is at {}",
                open.group,
                r.revision,
                self.model.compacted()
            ),
            _ => {}
        }
        Ok(())
    }

    /// A write that the state machine refused: its command is in the log, with that verdict.
    fn rejected(&mut self, open: &Open, command: &Command, error: &ApiError) -> Checked {
        let found = self
            .positions
            .range(open.floor.index.next()..)
            .find(|(index, (there, outcome))| {
                outcome.reply.as_ref() == Err(error)
                    && same_command(command, there)
                    && !self.claimed.contains(index)
            })
            .map(|(index, _)| *index);
        let Some(index) = found else {
            return broken(
                "wrong-verdict",
                format!(
                    "group {}: {command:?} is answered {error:?}, which the log does not say                          behind {}",
                    open.group, open.floor.index
                ),
            );
        };
        self.claimed.insert(index);
        self.floor.index = self.floor.index.max(index);
        Ok(())
    }

    fn answered(&mut self, now_us: u64, open: &Open, answer: Answer) -> Checked {
        let group = open.group;
        match (&open.call, answer) {
            (Call::Write(sent), Answer::Wrote { reply, revision, index }) => {
                let Some((command, outcome)) = self.positions.get(&index) else {
                    ensure!(
                        false,
                        "acked-not-committed",
                        "group {group}: {sent:?} is answered for {index}, not committed"
                    );
                    return Ok(());
                };
                ensure!(
                    self.claimed.insert(index),
                    "answered-twice",
                    "group {group} index {index}: two calls were answered for it, {sent:?} now"
                );
                ensure!(
                    same_command(sent, command),
                    "wrong-command",
                    "group {group} index {index}: sent {sent:?}, committed {command:?}"
                );
                ensure!(
                    index > open.floor.index,
                    "real-time-order",
                    "group {group}: {sent:?} is at {index}, {} had been answered before it began",
                    open.floor.index
                );
                ensure!(
                    outcome.reply == reply && outcome.revision == revision,
                    "wrong-reply",
                    "group {group} index {index}: {sent:?} is answered at revision {revision}\n  \
                     with     {reply:?}\n  expected {:?} at {}",
                    outcome.reply,
                    outcome.revision
                );
                if let Ok(Reply::LeaseGrant { id, ttl_seconds }) = &reply {
                    self.kept.insert(*id, (open.started_us, *ttl_seconds));
                }
                self.floor.index = self.floor.index.max(index);
                self.floor.revision = self.floor.revision.max(revision);
                if let (Command::Compact(c), Ok(_)) = (command, &reply) {
                    self.floor.compacted = self.floor.compacted.max(c.revision);
                }
                Ok(())
            }
            (Call::Range(request), Answer::Range { mut reply, revision }) => {
                self.check_read(open, request.serializable, revision)?;
                ensure!(
                    request.revision <= revision,
                    "read-future",
                    "group {group}: revision {} is served at {revision}",
                    request.revision
                );
                ensure!(
                    request.revision <= 0
                        || request.serializable
                        || request.revision >= open.floor.compacted,
                    "read-compacted",
                    "group {group}: revision {} is served, {} had been compacted before",
                    request.revision,
                    open.floor.compacted
                );
                let mut expected = self.model.range_at(request, revision);
                normalise(request, &mut expected);
                normalise(request, &mut reply);
                ensure!(
                    reply == expected,
                    "wrong-read",
                    "group {group}: {request:?} at revision {revision}\n  answered {reply:?}\n  \
                     expected {expected:?}"
                );
                Ok(())
            }
            (Call::ReadTxn(request), Answer::ReadTxn { reply, revision }) => {
                self.check_read(open, open.call.is_serializable(), revision)?;
                let expected = self.model.read_txn_at(request, revision);
                ensure!(
                    reply == expected,
                    "wrong-read",
                    "group {group}: {request:?} at revision {revision}\n  answered {reply:?}\n  \
                     expected {expected:?}"
                );
                Ok(())
            }
            (Call::KeepAlive(id), Answer::KeptAlive { ttl_seconds }) => {
                let life = self.leases.get(id);
                if ttl_seconds > 0 {
                    let lived = life.is_some_and(|l| {
                        l.revoked.is_none_or(|revoked| revoked > open.floor.index)
                    });
                    ensure!(
                        lived,
                        "lease-undead",
                        "group {group}: lease {id} is kept alive, its life is {life:?}, answered \
                         before the call: {}",
                        open.floor.index
                    );
                    self.kept.insert(*id, (open.started_us, ttl_seconds));
                } else {
                    let alive =
                        life.is_some_and(|l| l.granted <= open.floor.index && l.revoked.is_none());
                    // A leader may have let it expire already, its revoke on the way.
                    let due = self
                        .kept
                        .get(id)
                        .is_none_or(|(at, ttl)| at + *ttl as u64 * 1_000_000 <= now_us);
                    ensure!(
                        !alive || due,
                        "lease-lost",
                        "group {group}: lease {id} is said to be gone, its life is {life:?}"
                    );
                }
                Ok(())
            }
            (call, answer) => broken("wrong-kind", format!("{call:?} is answered {answer:?}")),
        }
    }

    fn check_read(&mut self, open: &Open, serializable: bool, revision: i64) -> Checked {
        ensure!(
            revision <= self.model.revision(),
            "read-uncommitted",
            "group {}: a read at revision {revision}, {} is committed",
            open.group,
            self.model.revision()
        );
        if !serializable {
            ensure!(
                revision >= open.floor.revision,
                "linearizable-read",
                "group {}: {:?} reads revision {revision}, {} had been answered before it began",
                open.group,
                open.call,
                open.floor.revision
            );
        }
        // What a serializable read has shown is no promise to others; a linearizable one is.
        if !serializable {
            self.floor.revision = self.floor.revision.max(revision);
        }
        Ok(())
    }

    /// No lease may be ended by its leader before its time has passed since the newest call that
    /// was told it lives: true time, of which the fastest clock allowed makes a little more.
    fn before_lease_end(
        &self,
        now_us: u64,
        group: GroupId,
        entry: &Entry,
        command: &Command,
    ) -> Checked {
        let Command::LeaseRevoke { ids, leader_term: Some(term) } = command else {
            return Ok(());
        };
        for id in ids.iter().filter(|_| *term == entry.term) {
            if let (Some((since, ttl)), true) = (self.kept.get(id), self.model.has_lease(*id)) {
                let ttl_us = *ttl as u64 * 1_000_000 * 1_000_000 / (1_000_000 + self.drift_ppm);
                ensure!(
                    now_us >= since + ttl_us,
                    "lease-early",
                    "group {group} index {}: lease {id} of {ttl} s ends at {now_us} us, a client \
                     was told at {since} us that it lives",
                    entry.index
                );
            }
        }
        Ok(())
    }

    fn after_leases(&mut self, index: LogIndex, before: &[LeaseId]) {
        let after = self.model.lease_ids();
        for id in after.iter().filter(|id| !before.contains(id)) {
            self.leases.insert(*id, LeaseLife { granted: index, revoked: None });
        }
        for id in before.iter().filter(|id| !after.contains(id)) {
            if let Some(life) = self.leases.get_mut(id) {
                life.revoked = Some(index);
            }
            self.kept.remove(id);
        }
    }
}

/// Errors that only the state machine gives: the command went through the log.
fn is_verdict(error: &ApiError) -> bool {
    matches!(
        error,
        ApiError::KeyNotFound
            | ApiError::LeaseNotFound
            | ApiError::LeaseExists
            | ApiError::Compacted
            | ApiError::FutureRevision
    )
}

/// What identifies a put: clients never write a value twice.
fn unique_value(command: &Command) -> Option<&Bytes> {
    match command {
        Command::Put(put) if !put.value.is_empty() => Some(&put.value),
        _ => None,
    }
}

/// The committed command is the sent one, but for what the member fills in: a drawn lease id and a
/// TTL raised to the least one.
fn same_command(sent: &Command, committed: &Command) -> bool {
    match (sent, committed) {
        (
            Command::LeaseGrant { id: a, ttl_seconds: t },
            Command::LeaseGrant { id: b, ttl_seconds: u },
        ) => (a == b || a.is_none()) && u >= t,
        _ => sent == committed,
    }
}

/// Negative controls: each corrupts one record of a good history and must be noticed.
pub fn self_check() {
    use quorate::types::command::PutRequest;
    use quorate::types::reply::PutReply;
    use quorate::types::{KeyRange, Term};

    let put = |value: &'static str| {
        Command::Put(PutRequest {
            key: Bytes::from_static(b"k"),
            value: Bytes::from_static(value.as_bytes()),
            ..PutRequest::default()
        })
    };
    let read =
        Call::Range(RangeRequest { range: KeyRange::single("k"), ..RangeRequest::default() });
    let entry = |index| Entry {
        term: Term(1),
        index: LogIndex(BOOT_INDEX.0 + index),
        kind: EntryKind::Command,
        data: Bytes::new(),
    };
    let wrote = |revision, at| Answer::Wrote {
        reply: Ok(Reply::Put(PutReply::default())),
        revision,
        index: LogIndex(BOOT_INDEX.0 + at),
    };
    let id = |seq| RequestId { origin: 1, seq };
    let g = GroupId(1);
    // Two acknowledged writes, then one read, then one write that is refused.
    let story = |spoil: u8| -> Result<(), Violation> {
        let mut h = History::new(1, 0);
        for seq in 1..=2_u64 {
            let command = put(if seq == 1 { "a" } else { "b" });
            let call = h.begin(seq * 10, g, Call::Write(command.clone()));
            h.commit(seq * 10 + 1, g, &entry(seq), Some(Proposal { id: id(seq), command }))?;
            let revision = 1 + seq as i64 + i64::from(spoil == 1 && seq == 2);
            h.end(seq * 10 + 2, call, wrote(revision, seq))?;
        }
        let call = h.begin(40, g, read.clone());
        let revision = if spoil == 2 { 2 } else { 3 };
        let Call::Range(request) = &read else { unreachable!() };
        let mut reply = h.model(g).range_at(request, revision);
        if spoil == 3 {
            reply.kvs[0].value = Bytes::from_static(b"a");
        }
        if spoil == 5 {
            h.quorum_lost(39);
        }
        h.end(41, call, Answer::Range { reply, revision })?;
        if spoil == 4 {
            h.commit(50, g, &entry(3), Some(Proposal { id: id(1), command: put("a") }))?;
        }
        let call = h.begin(60, g, Call::Write(put("c")));
        match spoil {
            6 => h.end(61, call, wrote(4, 3))?,
            8 => h.end(61, call, wrote(3, 2))?,
            _ => {
                let error = ApiError::TooManyRequests;
                h.end(61, call, Answer::Failed { error, never: true })?;
            }
        }
        if spoil == 7 {
            let late = Proposal { id: id(9), command: put("c") };
            h.commit(62, g, &entry(3), Some(late))?;
        }
        Ok(())
    };
    story(0).expect("a good history passes");
    let expected = [
        "wrong-reply",
        "linearizable-read",
        "wrong-read",
        "applied-twice",
        "answer-without-quorum",
        "acked-not-committed",
        "refused-but-done",
        "answered-twice",
    ];
    for (spoil, rule) in (1_u8..).zip(expected) {
        let caught = story(spoil).expect_err("a spoilt history is noticed");
        assert_eq!(caught.rule, rule, "spoilt in way {spoil}: {caught:?}");
        let blind = crate::safety::blinded(rule, || story(spoil));
        assert!(
            blind.as_ref().err().is_none_or(|v| v.rule != rule),
            "the switch of {rule} does not reach it: {blind:?}"
        );
    }
}
