//! The naive keyspace: a list of all changes ever, folded anew for every question.

use super::*;
use crate::types::Revision;
use crate::types::command::{
    AlarmAction, AlarmKind, Compare, CompareResult, CompareTarget, SortOrder, SortTarget,
};
use crate::types::reply::{EventKind, ReplyOp};
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

pub type Contents = BTreeMap<Bytes, KeyValue>;

#[derive(Clone)]
pub struct Change {
    pub revision: Revision,
    pub key: Bytes,
    pub kv: Option<KeyValue>,
}

pub struct Model {
    pub changes: Vec<Change>,
    pub revision: i64,
    pub compact: i64,
    pub leases: BTreeMap<LeaseId, (i64, i64)>,
    pub alarms: BTreeSet<(NodeId, AlarmKind)>,
}

impl Model {
    pub fn new() -> Model {
        Model {
            changes: Vec::new(),
            revision: 1,
            compact: -1,
            leases: BTreeMap::new(),
            alarms: BTreeSet::new(),
        }
    }

    pub fn contents(&self, main: i64) -> Contents {
        let mut contents = Contents::new();
        for change in self.changes.iter().filter(|change| change.revision.main <= main) {
            match &change.kv {
                Some(kv) => contents.insert(change.key.clone(), kv.clone()),
                None => contents.remove(&change.key),
            };
        }
        contents
    }

    fn now(&self) -> Contents {
        self.contents(i64::MAX)
    }

    /// Whether a change is what its key was at the end of `main`.
    fn newest(&self, change: &Change, main: i64) -> bool {
        self.changes
            .iter()
            .rfind(|c| c.revision.main <= main && c.key == change.key)
            .is_some_and(|c| c.revision == change.revision)
    }

    fn event(&self, change: &Change, prev: bool) -> Event {
        let prev_kv =
            self.contents(change.revision.main - 1).get(&change.key).filter(|_| prev).cloned();
        let main = change.revision.main;
        match &change.kv {
            Some(kv) => {
                let is_created = kv.create_revision == kv.mod_revision;
                let prev_kv = prev_kv.filter(|_| !is_created);
                Event { kind: EventKind::Put, kv: kv.clone(), prev_kv }
            }
            None => {
                let kv =
                    KeyValue { key: change.key.clone(), mod_revision: main, ..KeyValue::default() };
                Event { kind: EventKind::Delete, kv, prev_kv }
            }
        }
    }

    pub fn feed(&self, from: i64) -> Vec<Event> {
        let seen = |c: &&Change| {
            c.revision.main >= from
                && (c.revision.main > self.compact || self.newest(c, self.compact))
        };
        self.changes
            .iter()
            .filter(seen)
            .map(|c| self.event(c, c.revision.main > self.compact))
            .collect()
    }

    pub fn hash_kv(&self, at: i64) -> u32 {
        let keep_at = if self.contents(at).is_empty() { self.compact } else { at };
        let mut bytes = b"key".to_vec();
        for change in &self.changes {
            let main = change.revision.main;
            let kept = main > self.compact || (change.kv.is_some() && self.newest(change, keep_at));
            if main > at || !kept {
                continue;
            }
            bytes.extend(main.to_be_bytes());
            bytes.push(b'_');
            bytes.extend(change.revision.sub.to_be_bytes());
            let mut field = |tag: u8, body: &[u8]| {
                bytes.push(tag);
                bytes.extend(body);
            };
            let number = |mut n: u64| {
                let mut out = Vec::new();
                while n > 127 {
                    out.push((n & 127) as u8 | 128);
                    n >>= 7;
                }
                out.push(n as u8);
                out
            };
            let text = |text: &[u8]| [number(text.len() as u64), text.to_vec()].concat();
            match &change.kv {
                None => {
                    field(b't', &[]);
                    field(0x0a, &text(&change.key));
                }
                Some(kv) => {
                    field(0x0a, &text(&kv.key));
                    field(0x10, &number(kv.create_revision as u64));
                    field(0x18, &number(kv.mod_revision as u64));
                    field(0x20, &number(kv.version as u64));
                    if !kv.value.is_empty() {
                        field(0x2a, &text(&kv.value));
                    }
                    if kv.lease.0 != 0 {
                        field(0x30, &number(kv.lease.0 as u64));
                    }
                }
            }
        }
        crc32c::crc32c(&bytes)
    }

    /// A range where `newest` is the newest revision.
    pub fn range(&self, request: &RangeRequest, newest: i64) -> Result<RangeReply, ApiError> {
        let at = if request.revision <= 0 { newest } else { request.revision };
        if at > newest {
            return Err(ApiError::FutureRevision);
        }
        if at < self.compact {
            return Err(ApiError::Compacted);
        }
        let mut kvs: Vec<KeyValue> = self
            .contents(at)
            .into_values()
            .filter(|kv| request.range.contains(&kv.key) && !request.range.is_empty_range())
            .collect();
        let count = kvs.len() as i64;
        if request.count_only {
            return Ok(RangeReply { kvs: vec![], more: false, count });
        }
        let filters = [
            request.min_mod_revision,
            request.max_mod_revision,
            request.min_create_revision,
            request.max_create_revision,
        ];
        if request.sort_order == SortOrder::None && request.limit > 0 && filters == [0; 4] {
            kvs.truncate(request.limit as usize + 1);
        }
        kvs.retain(|kv| {
            (filters[0] == 0 || kv.mod_revision >= filters[0])
                && (filters[1] == 0 || kv.mod_revision <= filters[1])
                && (filters[2] == 0 || kv.create_revision >= filters[2])
                && (filters[3] == 0 || kv.create_revision <= filters[3])
        });
        let order = |a: &KeyValue, b: &KeyValue| match request.sort_target {
            SortTarget::Key => a.key.cmp(&b.key),
            SortTarget::Version => a.version.cmp(&b.version),
            SortTarget::Create => a.create_revision.cmp(&b.create_revision),
            SortTarget::Mod => a.mod_revision.cmp(&b.mod_revision),
            SortTarget::Value => a.value.cmp(&b.value),
        };
        match request.sort_order {
            SortOrder::Descend => kvs.sort_by(|a, b| order(b, a)),
            _ => kvs.sort_by(order),
        }
        let more = request.limit > 0 && kvs.len() as i64 > request.limit;
        if more {
            kvs.truncate(request.limit as usize);
        }
        if request.keys_only {
            kvs.iter_mut().for_each(|kv| kv.value = Bytes::new());
        }
        Ok(RangeReply { kvs, more, count })
    }

    pub fn apply(&mut self, command: &Command) -> (Result<Reply, ApiError>, Vec<Event>) {
        let first = self.changes.len();
        let reply = match self.refusal(command) {
            Some(error) => Err(error),
            None => self.run(command),
        };
        let events = self.changes[first..].iter().map(|c| self.event(c, true)).collect();
        self.revision = self.changes.last().map_or(1, |c| c.revision.main);
        (reply, events)
    }

    fn refusal(&self, command: &Command) -> Option<ApiError> {
        let raised = |kind| self.alarms.iter().any(|a| a.1 == kind);
        let adds = match command {
            Command::Put(_) | Command::LeaseGrant { .. } => true,
            Command::Txn(txn) => check::has_put(txn),
            _ => false,
        };
        let writes = !matches!(
            command,
            Command::Alarm(_)
                | Command::LeaseCheckpoint { .. }
                | Command::PublishMember { .. }
                | Command::SetDowngrade { .. }
                | Command::CreateGroup
                | Command::DestroyGroup { .. }
                | Command::Auth(_)
        );
        if writes && raised(AlarmKind::Corrupt) {
            return Some(ApiError::Corrupt);
        }
        (adds && raised(AlarmKind::NoSpace)).then_some(ApiError::NoSpace)
    }

    fn run(&mut self, command: &Command) -> Result<Reply, ApiError> {
        let main = self.revision + 1;
        Ok(match command {
            Command::Put(request) => {
                // Outside a txn etcd looks for the lease first, inside for the key.
                if !request.lease.is_none() && !self.leases.contains_key(&request.lease) {
                    return Err(ApiError::LeaseNotFound);
                }
                self.check_put(request)?;
                Reply::Put(self.put(request, main))
            }
            Command::DeleteRange(request) => Reply::DeleteRange(self.delete(request, main)),
            Command::Txn(txn) => {
                let before = self.now();
                self.preflight(txn, &before)?;
                Reply::Txn(self.txn(txn, &before, main))
            }
            Command::Compact(request) => {
                if request.revision <= self.compact {
                    return Err(ApiError::Compacted);
                }
                if request.revision > self.revision {
                    return Err(ApiError::FutureRevision);
                }
                self.compact = request.revision;
                Reply::Compact
            }
            Command::LeaseGrant { id, ttl_seconds } => {
                if self.leases.contains_key(id) {
                    return Err(ApiError::LeaseExists);
                }
                self.leases.insert(*id, (*ttl_seconds, 0));
                Reply::LeaseGrant { id: *id, ttl_seconds: *ttl_seconds }
            }
            Command::LeaseRevoke { ids, leader } => {
                if leader.is_some_and(|leader| leader.term != Term(1)) {
                    return Err(ApiError::NotLeader);
                }
                if leader.is_none() && ids.iter().any(|id| !self.leases.contains_key(id)) {
                    return Err(ApiError::LeaseNotFound);
                }
                let mut main = main;
                for id in ids {
                    self.leases.remove(id);
                    let keys: Vec<Bytes> = self
                        .now()
                        .into_values()
                        .filter(|kv| kv.lease == *id && !id.is_none())
                        .map(|kv| kv.key)
                        .collect();
                    for key in &keys {
                        self.change(main, key.clone(), None);
                    }
                    main += i64::from(!keys.is_empty());
                }
                Reply::LeaseRevoke
            }
            Command::LeaseCheckpoint { remaining, leader } => {
                if leader.is_some_and(|leader| leader.term != Term(1)) {
                    return Err(ApiError::NotLeader);
                }
                for (id, seconds) in remaining {
                    if let Some(lease) = self.leases.get_mut(id) {
                        lease.1 = *seconds;
                    }
                }
                Reply::LeaseCheckpoint
            }
            Command::Alarm(request) => {
                let pair = request.kind.map(|kind| (request.member, kind));
                Reply::Alarm(match (request.action, pair) {
                    (AlarmAction::Get, _) => self
                        .alarms
                        .iter()
                        .filter(|a| request.kind.is_none_or(|kind| a.1 == kind))
                        .copied()
                        .collect(),
                    (AlarmAction::Activate, Some(pair)) => {
                        self.alarms.insert(pair);
                        vec![pair]
                    }
                    (AlarmAction::Deactivate, Some(pair)) if self.alarms.remove(&pair) => {
                        vec![pair]
                    }
                    _ => vec![],
                })
            }
            Command::PublishMember { .. } => Reply::PublishMember,
            Command::SetDowngrade { .. } => Reply::SetDowngrade,
            Command::CreateGroup | Command::DestroyGroup { .. } => Reply::DestroyGroup,
            Command::Auth(_) => unreachable!("users have scenarios of their own"),
        })
    }

    fn change(&mut self, main: i64, key: Bytes, kv: Option<KeyValue>) {
        let sub = match self.changes.last() {
            Some(last) if last.revision.main == main => last.revision.sub + 1,
            _ => 0,
        };
        self.changes.push(Change { revision: Revision::new(main, sub), key, kv });
    }

    fn check_put(&self, request: &PutRequest) -> Result<(), ApiError> {
        if (request.ignore_value || request.ignore_lease)
            && !self.contents(self.revision).contains_key(&request.key)
        {
            return Err(ApiError::KeyNotFound);
        }
        if !request.lease.is_none() && !self.leases.contains_key(&request.lease) {
            return Err(ApiError::LeaseNotFound);
        }
        Ok(())
    }

    fn put(&mut self, request: &PutRequest, main: i64) -> PutReply {
        let old = self.now().remove(&request.key);
        let mut kv = KeyValue {
            key: request.key.clone(),
            value: request.value.clone(),
            create_revision: main,
            mod_revision: main,
            version: 1,
            lease: request.lease,
        };
        if let Some(old) = &old {
            kv.create_revision = old.create_revision;
            kv.version = old.version + 1;
            if request.ignore_value {
                kv.value = old.value.clone();
            }
            if request.ignore_lease {
                kv.lease = old.lease;
            }
        }
        self.change(main, request.key.clone(), Some(kv));
        PutReply { prev_kv: old.filter(|_| request.prev_kv) }
    }

    fn delete(&mut self, request: &DeleteRangeRequest, main: i64) -> DeleteRangeReply {
        let gone: Vec<KeyValue> = self
            .now()
            .into_values()
            .filter(|kv| !request.range.is_empty_range() && request.range.contains(&kv.key))
            .collect();
        for kv in &gone {
            self.change(main, kv.key.clone(), None);
        }
        let deleted = gone.len() as i64;
        DeleteRangeReply { deleted, prev_kvs: if request.prev_kv { gone } else { vec![] } }
    }

    fn succeeds(&self, txn: &TxnRequest, before: &Contents) -> bool {
        txn.compare.iter().all(|compare| {
            let kvs: Vec<&KeyValue> = before
                .values()
                .filter(|kv| !compare.range.is_empty_range() && compare.range.contains(&kv.key))
                .collect();
            if kvs.is_empty() {
                holds(compare, None)
            } else {
                kvs.into_iter().all(|kv| holds(compare, Some(kv)))
            }
        })
    }

    fn preflight(&self, txn: &TxnRequest, before: &Contents) -> Result<(), ApiError> {
        let ops = if self.succeeds(txn, before) { &txn.success } else { &txn.failure };
        for op in ops {
            match op {
                RequestOp::Range(request)
                    if request.revision < 0 && request.revision < self.compact =>
                {
                    return Err(ApiError::Compacted);
                }
                RequestOp::Range(request) if request.revision > 0 => {
                    self.range(request, self.revision)?;
                }
                RequestOp::Range(_) | RequestOp::DeleteRange(_) => {}
                RequestOp::Put(request) => self.check_put(request)?,
                RequestOp::Txn(txn) => self.preflight(txn, before)?,
            }
        }
        Ok(())
    }

    fn txn(&mut self, txn: &TxnRequest, before: &Contents, main: i64) -> TxnReply {
        let succeeded = self.succeeds(txn, before);
        let mut replies = Vec::new();
        for op in if succeeded { &txn.success } else { &txn.failure } {
            let reply = match op {
                RequestOp::Range(request) => {
                    let revision = self.visible(main);
                    let reply = self.range(request, revision).unwrap();
                    ReplyOp::Range { revision, reply }
                }
                RequestOp::Put(request) => {
                    let reply = self.put(request, main);
                    ReplyOp::Put { revision: main, reply }
                }
                RequestOp::DeleteRange(request) => {
                    let reply = self.delete(request, main);
                    ReplyOp::DeleteRange { revision: self.visible(main), reply }
                }
                RequestOp::Txn(txn) => ReplyOp::Txn(self.txn(txn, before, main)),
            };
            replies.push(reply);
        }
        TxnReply { succeeded, replies }
    }

    fn visible(&self, main: i64) -> i64 {
        let wrote = self.changes.last().is_some_and(|c| c.revision.main == main);
        if wrote { main } else { main - 1 }
    }
}

fn holds(compare: &Compare, kv: Option<&KeyValue>) -> bool {
    let zero = KeyValue::default();
    let of = kv.unwrap_or(&zero);
    let order = match &compare.target {
        CompareTarget::Version(n) => of.version.cmp(n),
        CompareTarget::Create(n) => of.create_revision.cmp(n),
        CompareTarget::Mod(n) => of.mod_revision.cmp(n),
        CompareTarget::Lease(n) => of.lease.0.cmp(n),
        CompareTarget::Value(_) if kv.is_none() => return false,
        CompareTarget::Value(with) => of.value.cmp(with),
        CompareTarget::Unknown => Ordering::Equal,
    };
    match compare.result {
        CompareResult::Equal => order.is_eq(),
        CompareResult::NotEqual => order.is_ne(),
        CompareResult::Greater => order.is_gt(),
        CompareResult::Less => order.is_lt(),
    }
}
