//! A naive etcd keyspace: what every reply is compared with.
//!
//! Written from etcd's rules alone and sharing no code with the product's `mvcc`: every version of
//! every key stays in a vector for ever, every read is a scan. Slow, and short enough to be
//! believed. Compaction moves a number; nothing is ever removed, so that the state at any
//! revision can be asked for at any time.

use bytes::Bytes;
use quorate::types::command::{
    AlarmAction, AlarmKind, Compare, CompareResult, CompareTarget, DeleteRangeRequest, PutRequest,
    RangeRequest, RequestOp, SortOrder, SortTarget, TxnRequest,
};
use quorate::types::limits::LEASE_TTL_SECONDS_MAX;
use quorate::types::reply::{
    DeleteRangeReply, KeyValue, PutReply, RangeReply, Reply, ReplyOp, TxnReply,
};
use quorate::types::{ApiError, Command, KeyRange, LeaseId, NodeId, Term};
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
    keys: BTreeSet<Bytes>,
}

/// What one command did: its reply and the revision in the header after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    pub reply: Result<Reply, ApiError>,
    pub revision: i64,
}

/// One keyspace with all of its history.
#[derive(Clone, Debug)]
pub struct Model {
    revision: i64,
    compacted: i64,
    keys: BTreeMap<Bytes, Vec<Version>>,
    leases: BTreeMap<LeaseId, Lease>,
    alarms: BTreeSet<(NodeId, AlarmKind)>,
}

impl Default for Model {
    fn default() -> Model {
        Model {
            revision: 1,
            compacted: -1,
            keys: BTreeMap::new(),
            leases: BTreeMap::new(),
            alarms: BTreeSet::new(),
        }
    }
}

/// See `Model::changes`.
pub type Change = (i64, Bytes, Option<KeyValue>, Option<KeyValue>);

/// The writes of one command share a revision, which exists only if there is at least one.
struct Write<'a> {
    model: &'a mut Model,
    changed: bool,
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
    pub fn lease_ids(&self) -> Vec<LeaseId> {
        self.leases.keys().copied().collect()
    }
    /// Each lease with its TTL in seconds and its keys, in order.
    pub fn leases(&self) -> Vec<(LeaseId, i64, Vec<Bytes>)> {
        let row = |(id, lease): (&LeaseId, &Lease)| {
            (*id, lease.ttl, lease.keys.iter().cloned().collect())
        };
        self.leases.iter().map(row).collect()
    }

    /// Runs one command of the committed log. `term` is the term of its entry.
    pub fn apply(&mut self, command: &Command, term: Term) -> Outcome {
        let mut write = Write { model: self, changed: false };
        let reply = write.run(command, term);
        let changed = write.changed;
        if changed {
            self.revision += 1;
        }
        Outcome { reply, revision: self.revision }
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
                let before = at.checked_sub(1).and_then(|at| versions[at].kv.clone());
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
            match request.sort_target {
                SortTarget::Key => {}
                SortTarget::Version => kvs.sort_by_key(|kv| kv.version),
                SortTarget::Create => kvs.sort_by_key(|kv| kv.create_revision),
                SortTarget::Mod => kvs.sort_by_key(|kv| kv.mod_revision),
                SortTarget::Value => kvs.sort_by(|a, b| a.value.cmp(&b.value)),
            }
            if order == SortOrder::Descend {
                kvs.reverse();
            }
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

impl Write<'_> {
    /// The revision that this command's own reads see and its headers carry.
    fn now(&self) -> i64 {
        self.model.revision + i64::from(self.changed)
    }

    fn run(&mut self, command: &Command, term: Term) -> Result<Reply, ApiError> {
        let full = self.model.alarms.iter().any(|(_, kind)| *kind == AlarmKind::NoSpace);
        match command {
            Command::Put(put) => {
                if full {
                    return Err(ApiError::NoSpace);
                }
                self.check_put(put)?;
                Ok(Reply::Put(self.put(put)))
            }
            Command::DeleteRange(delete) => Ok(Reply::DeleteRange(self.delete(delete))),
            Command::Txn(txn) => {
                let mut path = Vec::new();
                self.choose(txn, &mut path);
                if full && has_put(txn) {
                    return Err(ApiError::NoSpace);
                }
                self.check_path(txn, &mut path.iter())?;
                let reply = self.txn(txn, &mut path.iter());
                Ok(Reply::Txn(reply))
            }
            Command::Compact(compact) => {
                if compact.revision <= self.model.compacted {
                    return Err(ApiError::Compacted);
                }
                if compact.revision > self.model.revision {
                    return Err(ApiError::FutureRevision);
                }
                self.model.compacted = compact.revision;
                Ok(Reply::Compact)
            }
            Command::LeaseGrant { id, ttl_seconds } => {
                if full {
                    return Err(ApiError::NoSpace);
                }
                if *ttl_seconds > LEASE_TTL_SECONDS_MAX {
                    return Err(ApiError::LeaseTtlTooLarge);
                }
                if self.model.leases.contains_key(id) {
                    return Err(ApiError::LeaseExists);
                }
                let lease = Lease { ttl: *ttl_seconds, ..Lease::default() };
                self.model.leases.insert(*id, lease);
                Ok(Reply::LeaseGrant { id: *id, ttl_seconds: *ttl_seconds })
            }
            Command::LeaseRevoke { ids, leader_term } => self.revoke(ids, *leader_term, term),
            Command::LeaseCheckpoint { remaining } => {
                for (id, left) in remaining {
                    if let Some(lease) = self.model.leases.get_mut(id) {
                        lease.remaining = *left;
                    }
                }
                Ok(Reply::LeaseCheckpoint)
            }
            Command::Alarm(request) => {
                let wanted = |kind: AlarmKind| request.kind.is_none_or(|k| k == kind);
                let alarms = match (request.action, request.kind) {
                    (AlarmAction::Get, _) => {
                        self.model.alarms.iter().copied().filter(|(_, k)| wanted(*k)).collect()
                    }
                    (AlarmAction::Activate, Some(kind)) => {
                        self.model.alarms.insert((request.member, kind));
                        vec![(request.member, kind)]
                    }
                    (AlarmAction::Deactivate, Some(kind)) => {
                        if self.model.alarms.remove(&(request.member, kind)) {
                            vec![(request.member, kind)]
                        } else {
                            Vec::new()
                        }
                    }
                    (_, None) => Vec::new(),
                };
                Ok(Reply::Alarm(alarms))
            }
            Command::PublishMember { .. } => Ok(Reply::PublishMember),
            // The catalogue's, not the keyspace's: `catalogue` says what they answer.
            Command::CreateGroup | Command::DestroyGroup { .. } => Ok(Reply::DestroyGroup),
        }
    }

    /// A client's revoke names one lease that must exist; a leader's expiry names any number,
    /// counts only in the leader's own term, and skips those that are gone.
    fn revoke(
        &mut self,
        ids: &[LeaseId],
        leader_term: Option<Term>,
        term: Term,
    ) -> Result<Reply, ApiError> {
        match leader_term {
            Some(t) if t != term => return Ok(Reply::LeaseRevoke),
            Some(_) => {}
            None => {
                if ids.iter().any(|id| !self.model.leases.contains_key(id)) {
                    return Err(ApiError::LeaseNotFound);
                }
            }
        }
        for id in ids {
            let Some(lease) = self.model.leases.remove(id) else { continue };
            for key in lease.keys {
                self.remove(&key);
            }
            // Each lease that had keys makes a revision of its own.
            if std::mem::take(&mut self.changed) {
                self.model.revision += 1;
            }
        }
        Ok(Reply::LeaseRevoke)
    }

    fn check_put(&self, put: &PutRequest) -> Result<(), ApiError> {
        if !put.lease.is_none() && !self.model.leases.contains_key(&put.lease) {
            return Err(ApiError::LeaseNotFound);
        }
        let exists = self.model.version_at(&put.key, self.now()).is_some();
        if (put.ignore_value || put.ignore_lease) && !exists {
            return Err(ApiError::KeyNotFound);
        }
        Ok(())
    }

    fn put(&mut self, put: &PutRequest) -> PutReply {
        let main = self.model.revision + 1;
        let old = self.model.version_at(&put.key, self.now()).cloned();
        let kept = |o: &Option<KeyValue>| o.clone().unwrap_or_default();
        let kv = KeyValue {
            key: put.key.clone(),
            value: if put.ignore_value { kept(&old).value } else { put.value.clone() },
            create_revision: old.as_ref().map_or(main, |o| o.create_revision),
            mod_revision: main,
            version: old.as_ref().map_or(1, |o| o.version + 1),
            lease: if put.ignore_lease { kept(&old).lease } else { put.lease },
        };
        self.detach(&put.key, &old);
        if let Some(lease) = self.model.leases.get_mut(&kv.lease) {
            lease.keys.insert(put.key.clone());
        }
        self.record(&put.key, Some(kv));
        PutReply { prev_kv: if put.prev_kv { old } else { None } }
    }

    fn delete(&mut self, delete: &DeleteRangeRequest) -> DeleteRangeReply {
        let found = self.model.live_at(&delete.range, self.now());
        for kv in &found {
            self.remove(&kv.key);
        }
        DeleteRangeReply {
            deleted: i64::try_from(found.len()).expect("a test holds few keys"),
            prev_kvs: if delete.prev_kv { found } else { Vec::new() },
        }
    }

    fn remove(&mut self, key: &Bytes) {
        let old = self.model.version_at(key, self.now()).cloned();
        if old.is_some() {
            self.detach(key, &old);
            self.record(key, None);
        }
    }

    fn detach(&mut self, key: &Bytes, old: &Option<KeyValue>) {
        if let Some(old) = old
            && let Some(lease) = self.model.leases.get_mut(&old.lease)
        {
            lease.keys.remove(key);
        }
    }

    fn record(&mut self, key: &Bytes, kv: Option<KeyValue>) {
        let main = self.model.revision + 1;
        self.model.keys.entry(key.clone()).or_default().push(Version { main, kv });
        self.changed = true;
    }

    /// Decides every compare before anything is written, outer before inner, along the taken path.
    fn choose(&self, txn: &TxnRequest, path: &mut Vec<bool>) {
        let taken = txn.compare.iter().all(|c| self.model.holds(c, self.model.revision));
        path.push(taken);
        for op in branch(txn, taken) {
            if let RequestOp::Txn(inner) = op {
                self.choose(inner, path);
            }
        }
    }

    fn check_path<'p>(
        &self,
        txn: &TxnRequest,
        path: &mut impl Iterator<Item = &'p bool>,
    ) -> Result<(), ApiError> {
        let taken = *path.next().expect("one choice for each txn");
        for op in branch(txn, taken) {
            match op {
                RequestOp::Range(r) => {
                    if r.revision > self.model.revision {
                        return Err(ApiError::FutureRevision);
                    }
                    if r.revision != 0 && r.revision < self.model.compacted {
                        return Err(ApiError::Compacted);
                    }
                }
                RequestOp::Put(put) => self.check_put(put)?,
                RequestOp::DeleteRange(_) => {}
                RequestOp::Txn(inner) => self.check_path(inner, path)?,
            }
        }
        Ok(())
    }

    fn txn<'p>(&mut self, txn: &TxnRequest, path: &mut impl Iterator<Item = &'p bool>) -> TxnReply {
        let succeeded = *path.next().expect("one choice for each txn");
        let mut replies = Vec::new();
        for op in branch(txn, succeeded) {
            replies.push(match op {
                RequestOp::Range(r) => {
                    let now = self.now();
                    ReplyOp::Range { revision: now, reply: self.model.range_at(r, now) }
                }
                RequestOp::Put(put) => {
                    let reply = self.put(put);
                    ReplyOp::Put { revision: self.now(), reply }
                }
                RequestOp::DeleteRange(delete) => {
                    let reply = self.delete(delete);
                    ReplyOp::DeleteRange { revision: self.now(), reply }
                }
                RequestOp::Txn(inner) => ReplyOp::Txn(self.txn(inner, path)),
            });
        }
        TxnReply { succeeded, replies }
    }
}

fn branch(txn: &TxnRequest, taken: bool) -> &[RequestOp] {
    if taken { &txn.success } else { &txn.failure }
}

fn has_put(txn: &TxnRequest) -> bool {
    txn.success.iter().chain(&txn.failure).any(|op| match op {
        RequestOp::Put(_) => true,
        RequestOp::Txn(inner) => has_put(inner),
        _ => false,
    })
}

/// Sorts what the order of which is not promised: pairs with equal sort keys.
pub fn normalise(request: &RangeRequest, reply: &mut RangeReply) {
    if request.sort_target != SortTarget::Key {
        reply.kvs.sort_by(|a, b| a.key.cmp(&b.key));
    }
}

/// A few vectors from etcd's own behaviour, so that a slip in the model does not hide behind the
/// same slip in the product.
pub fn self_check() {
    let put = |key: &str, value: &str| {
        Command::Put(PutRequest {
            key: Bytes::copy_from_slice(key.as_bytes()),
            value: Bytes::copy_from_slice(value.as_bytes()),
            prev_kv: true,
            ..PutRequest::default()
        })
    };
    let mut m = Model::default();
    assert_eq!(m.revision(), 1, "a new store is at revision 1");
    assert_eq!(m.apply(&put("a", "1"), Term(1)).revision, 2);
    let again = m.apply(&put("a", "2"), Term(1));
    let Ok(Reply::Put(PutReply { prev_kv: Some(prev) })) = again.reply else {
        panic!("the old pair comes back")
    };
    assert_eq!((prev.mod_revision, prev.version), (2, 1));
    let nothing =
        Command::DeleteRange(DeleteRangeRequest { range: KeyRange::single("zz"), prev_kv: false });
    assert_eq!(m.apply(&nothing, Term(1)).revision, 3, "no change, no revision");
    let gone =
        Command::DeleteRange(DeleteRangeRequest { range: KeyRange::new("a", "b"), prev_kv: true });
    assert_eq!(m.apply(&gone, Term(1)).revision, 4);
    assert_eq!(m.apply(&put("a", "3"), Term(1)).revision, 5);
    let read = |revision| RangeRequest {
        range: KeyRange::single("a"),
        revision,
        ..RangeRequest::default()
    };
    assert_eq!(m.range_at(&read(3), 5).kvs[0].version, 2);
    assert_eq!(m.range_at(&read(4), 5).count, 0);
    let now = &m.range_at(&read(0), 5).kvs[0];
    assert_eq!((now.create_revision, now.version), (5, 1), "a delete ends the generation");
    // A value compare on a missing key is false, even "not equal"; numbers compare with zero.
    let missing = |target| Compare {
        range: KeyRange::single("nope"),
        result: CompareResult::NotEqual,
        target,
    };
    assert!(!m.holds(&missing(CompareTarget::Value(Bytes::from_static(b"x"))), 5));
    assert!(m.holds(&missing(CompareTarget::Version(3)), 5));
}
