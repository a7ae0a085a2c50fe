//! A naive etcd keyspace: what every reply is compared with.
//!
//! Written from etcd's rules alone and sharing no code with the product's `mvcc`: every version of
//! every key stays in a vector for ever, every read is a scan. Slow, and short enough to be
//! believed. Compaction moves a number; nothing is ever removed, so that the state at any
//! revision can be asked for at any time.

mod control;
mod rights;
mod users;
mod write;

pub use control::self_check;
pub use rights::{Verdict, Wish};
pub use users::{UserRows, Users};

use bytes::Bytes;
use quorate::types::command::{
    AlarmKind, Compare, CompareResult, CompareTarget, LeaseLeader, RangeRequest, RequestOp,
    SortOrder, SortTarget, TxnRequest,
};
use quorate::types::reply::{Event, KeyValue, RangeReply, Reply, ReplyOp, TxnReply};
use quorate::types::{ApiError, Command, KeyRange, LeaseId, LogIndex, NodeId};
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

/// One change of one key. `kv` is `None` for a delete.
#[derive(Clone, Debug)]
struct Version {
    main: i64,
    kv: Option<KeyValue>,
}

#[derive(Clone, Debug, Default)]
struct Lease {
    ttl: i64,
    remaining: i64,
    granted: LogIndex,
    keys: BTreeSet<Bytes>,
}

/// What one command did: its reply and the revision in the header after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    pub reply: Result<Reply, ApiError>,
    pub revision: i64,
}

/// See `Model::changes`.
pub type Change = (i64, Bytes, Option<KeyValue>, Option<KeyValue>);

/// One keyspace with all of its history.
#[derive(Clone, Debug)]
pub struct Model {
    revision: i64,
    compacted: i64,
    keys: BTreeMap<Bytes, Vec<Version>>,
    leases: BTreeMap<LeaseId, Lease>,
    alarms: BTreeSet<(NodeId, AlarmKind)>,
    users: Users,
    /// What watchers are told, by revision, from revision 2 on.
    events: Vec<Vec<Event>>,
    /// Every compact revision there ever was.
    compactions: BTreeSet<i64>,
}

impl Default for Model {
    fn default() -> Model {
        Model {
            revision: 1,
            compacted: -1,
            keys: BTreeMap::new(),
            leases: BTreeMap::new(),
            alarms: BTreeSet::new(),
            users: Users::default(),
            events: Vec::new(),
            compactions: BTreeSet::new(),
        }
    }
}

impl Model {
    pub fn revision(&self) -> i64 {
        self.revision
    }
    pub fn compacted(&self) -> i64 {
        self.compacted
    }
    pub fn has_lease(&self, id: LeaseId) -> bool {
        self.leases.contains_key(&id)
    }
    /// Whether the lease is there, and was when the leader spoke: one that was granted behind what
    /// it had applied has only the id of the one it means.
    pub fn is_meant(&self, id: LeaseId, leader: Option<LeaseLeader>) -> bool {
        let heard = |lease: &Lease| leader.is_none_or(|by| lease.granted <= by.applied);
        self.leases.get(&id).is_some_and(heard)
    }
    pub fn lease_ids(&self) -> Vec<LeaseId> {
        self.leases.keys().copied().collect()
    }
    pub fn lease_ttls(&self) -> impl Iterator<Item = (LeaseId, i64)> + '_ {
        self.leases.iter().map(|(id, lease)| (*id, lease.ttl))
    }
    /// Each lease with its TTL in seconds and its keys, in order.
    pub fn leases(&self) -> Vec<(LeaseId, i64, Vec<Bytes>)> {
        let row = |(id, lease): (&LeaseId, &Lease)| {
            (*id, lease.ttl, lease.keys.iter().cloned().collect())
        };
        self.leases.iter().map(row).collect()
    }

    pub fn users(&self) -> &Users {
        &self.users
    }

    /// The keys that were on a lease at a revision, in order.
    pub fn lease_keys_at(&self, id: LeaseId, revision: i64) -> Vec<Bytes> {
        let mut keys = self.leased_at(revision);
        keys.retain(|key| self.version_at(key, revision).is_some_and(|kv| kv.lease == id));
        keys
    }
    /// The keys that were on any.
    pub fn leased_at(&self, revision: i64) -> Vec<Bytes> {
        let leased = |key: &&Bytes| {
            self.version_at(key, revision).is_some_and(|kv| kv.lease != LeaseId::NONE)
        };
        self.keys.keys().filter(leased).cloned().collect()
    }

    pub fn alarms(&self) -> Vec<(NodeId, AlarmKind)> {
        self.alarms.iter().copied().collect()
    }
    pub fn has_alarm(&self, kind: AlarmKind) -> bool {
        self.alarms.iter().any(|alarm| alarm.1 == kind)
    }

    /// The changes of one revision, in order. Revision 1 is the empty store's.
    pub fn events_at(&self, revision: i64) -> &[Event] {
        let at = usize::try_from(revision - 2).ok();
        at.and_then(|at| self.events.get(at)).map_or(&[], Vec::as_slice)
    }
    /// Whether somebody has compacted exactly there.
    pub fn was_compacted_at(&self, revision: i64) -> bool {
        self.compactions.contains(&revision)
    }

    /// The reply to a plain range when the keyspace is at revision `now`.
    pub fn range_at(&self, request: &RangeRequest, now: i64) -> RangeReply {
        let at = if request.revision <= 0 { now } else { request.revision };
        self.scan(request, at)
    }

    /// The replies to a txn of reads when the keyspace is at revision `now`.
    pub fn read_txn_at(&self, txn: &TxnRequest, now: i64) -> TxnReply {
        let succeeded = txn.compare.iter().all(|c| self.holds(c, now));
        let ops = if succeeded { &txn.success } else { &txn.failure };
        let replies = ops
            .iter()
            .map(|op| match op {
                RequestOp::Range(r) => {
                    ReplyOp::Range { revision: now, reply: self.range_at(r, now) }
                }
                RequestOp::Txn(t) => ReplyOp::Txn(self.read_txn_at(t, now)),
                _ => unreachable!("a txn of reads holds no write"),
            })
            .collect();
        TxnReply { succeeded, replies }
    }

    /// Each change of a key in `range` in the revisions `(after, to]`: revision, key, the pair put
    /// (`None` for a delete), and the pair before. Ordered by revision and key.
    pub fn changes(&self, range: &KeyRange, after: i64, to: i64) -> Vec<Change> {
        let mut found = Vec::new();
        for (key, versions) in self.keys.iter().filter(|(key, _)| range.contains(key)) {
            let first = versions.partition_point(|version| version.main <= after);
            for (at, version) in versions.iter().enumerate().skip(first) {
                if version.main > to {
                    break;
                }
                // What an earlier change of the same revision made is no previous version.
                let before = versions[..at].iter().rev().find(|v| v.main < version.main);
                let before = before.and_then(|v| v.kv.clone());
                found.push((version.main, key.clone(), version.kv.clone(), before));
            }
        }
        found.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
        found
    }

    fn version_at(&self, key: &[u8], revision: i64) -> Option<&KeyValue> {
        let versions = self.keys.get(key)?;
        let newest = versions.iter().rev().find(|v| v.main <= revision)?;
        newest.kv.as_ref()
    }

    fn live_at(&self, range: &KeyRange, revision: i64) -> Vec<KeyValue> {
        if range.is_single() {
            return self.version_at(&range.key, revision).cloned().into_iter().collect();
        }
        self.keys
            .keys()
            .filter(|key| range.contains(key))
            .filter_map(|key| self.version_at(key, revision))
            .cloned()
            .collect()
    }

    fn scan(&self, request: &RangeRequest, revision: i64) -> RangeReply {
        let mut kvs = self.live_at(&request.range, revision);
        let count = i64::try_from(kvs.len()).expect("a test holds few keys");
        if request.count_only {
            return RangeReply { kvs: Vec::new(), more: false, count };
        }
        let filtered = request.min_mod_revision != 0
            || request.max_mod_revision != 0
            || request.min_create_revision != 0
            || request.max_create_revision != 0;
        let limit = usize::try_from(request.limit.max(0)).expect("a limit fits");
        let mut order = request.sort_order;
        if order == SortOrder::None && !filtered && limit > 0 {
            // etcd fetches one more than the limit in key order before it sorts.
            kvs.truncate(limit + 1);
        }
        let within = |value: i64, min: i64, max: i64| {
            (min == 0 || value >= min) && (max == 0 || value <= max)
        };
        kvs.retain(|kv| {
            within(kv.mod_revision, request.min_mod_revision, request.max_mod_revision)
                && within(
                    kv.create_revision,
                    request.min_create_revision,
                    request.max_create_revision,
                )
        });
        if order == SortOrder::None && request.sort_target != SortTarget::Key {
            order = SortOrder::Ascend;
        }
        if order != SortOrder::None {
            // Pairs that are equal by the target stay in key order, whichever way it goes: etcd
            // promises no order for them, and replicas must agree on one.
            let down = order == SortOrder::Descend;
            let sided = |order: Ordering| if down { order.reverse() } else { order };
            kvs.sort_by(|a, b| {
                sided(match request.sort_target {
                    SortTarget::Key => a.key.cmp(&b.key),
                    SortTarget::Version => a.version.cmp(&b.version),
                    SortTarget::Create => a.create_revision.cmp(&b.create_revision),
                    SortTarget::Mod => a.mod_revision.cmp(&b.mod_revision),
                    SortTarget::Value => a.value.cmp(&b.value),
                })
            });
        }
        let more = limit > 0 && kvs.len() > limit;
        if more {
            kvs.truncate(limit);
        }
        if request.keys_only {
            for kv in &mut kvs {
                kv.value = Bytes::new();
            }
        }
        RangeReply { kvs, more, count }
    }

    fn holds(&self, compare: &Compare, revision: i64) -> bool {
        let found = self.live_at(&compare.range, revision);
        if found.is_empty() {
            if matches!(compare.target, CompareTarget::Value(_)) {
                return false;
            }
            return holds_for(compare, &KeyValue::default());
        }
        found.iter().all(|kv| holds_for(compare, kv))
    }
}

fn holds_for(compare: &Compare, kv: &KeyValue) -> bool {
    let order = match &compare.target {
        CompareTarget::Version(v) => kv.version.cmp(v),
        CompareTarget::Create(v) => kv.create_revision.cmp(v),
        CompareTarget::Mod(v) => kv.mod_revision.cmp(v),
        CompareTarget::Lease(v) => kv.lease.0.cmp(v),
        CompareTarget::Value(v) => kv.value.cmp(v),
        CompareTarget::Unknown => std::cmp::Ordering::Equal,
    };
    match compare.result {
        CompareResult::Equal => order.is_eq(),
        CompareResult::NotEqual => order.is_ne(),
        CompareResult::Greater => order.is_gt(),
        CompareResult::Less => order.is_lt(),
    }
}

/// What raised alarms refuse: CORRUPT everything that changes keys or leases, NOSPACE what adds.
fn after_alarms(alarms: &BTreeSet<(NodeId, AlarmKind)>, command: &Command) -> Result<(), ApiError> {
    let raised = |wanted| alarms.iter().any(|(_, kind)| *kind == wanted);
    let (changes, adds) = match command {
        Command::Put(_) | Command::LeaseGrant { .. } => (true, true),
        Command::Txn(txn) => (true, has_put(txn)),
        Command::DeleteRange(_) | Command::Compact(_) | Command::LeaseRevoke { .. } => {
            (true, false)
        }
        Command::LeaseCheckpoint { .. }
        | Command::Alarm(_)
        | Command::PublishMember { .. }
        | Command::SetDowngrade { .. }
        | Command::CreateGroup
        | Command::DestroyGroup { .. }
        | Command::Auth(_) => (false, false),
    };
    if changes && raised(AlarmKind::Corrupt) {
        return Err(ApiError::Corrupt);
    }
    if adds && raised(AlarmKind::NoSpace) {
        return Err(ApiError::NoSpace);
    }
    Ok(())
}

fn has_put(txn: &TxnRequest) -> bool {
    txn.success.iter().chain(&txn.failure).any(|op| match op {
        RequestOp::Put(_) => true,
        RequestOp::Txn(inner) => has_put(inner),
        _ => false,
    })
}
