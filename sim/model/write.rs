//! What commands do to the model: one entry of the log at a time, as etcd's apply does it.

use super::{Lease, Model, Outcome, Version, after_alarms};
use bytes::Bytes;
use quorate::types::auth::Caller;
use quorate::types::command::{
    AlarmAction, AlarmKind, DeleteRangeRequest, LeaseLeader, PutRequest, RequestOp, TxnRequest,
};
use quorate::types::limits::LEASE_TTL_SECONDS_MAX;
use quorate::types::reply::{
    DeleteRangeReply, Event, EventKind, KeyValue, PutReply, Reply, ReplyOp, TxnReply,
};
use quorate::types::{ApiError, Command, LeaseId, LogIndex, Term};

/// The writes of one command share a revision, which exists only if there is at least one.
pub(super) struct Write<'a> {
    model: &'a mut Model,
    changed: bool,
    /// The changes of the revision being written, in order.
    events: Vec<Event>,
}

impl Model {
    /// Runs one command of the committed log, while users do not count. `term` is the term of its
    /// entry.
    pub fn apply(&mut self, command: &Command, term: Term) -> Outcome {
        self.apply_for(None, command, LogIndex::ZERO, term)
    }

    /// The same on somebody's behalf. `index` is its place in the log.
    pub fn apply_for(
        &mut self,
        caller: Option<&Caller>,
        command: &Command,
        index: LogIndex,
        term: Term,
    ) -> Outcome {
        let mut write = Write { model: self, changed: false, events: Vec::new() };
        let reply = write.run(caller, command, index, term);
        write.end_revision();
        Outcome { reply, revision: self.revision }
    }
}

impl Write<'_> {
    /// The revision that this command's own reads see and its headers carry.
    fn now(&self) -> i64 {
        self.model.revision + i64::from(self.changed)
    }

    fn run(
        &mut self,
        caller: Option<&Caller>,
        command: &Command,
        index: LogIndex,
        term: Term,
    ) -> Result<Reply, ApiError> {
        after_alarms(&self.model.alarms, command)?;
        let keys = |id| self.model.lease_keys_at(id, self.model.revision);
        self.model.users.command(caller, command, &keys)?;
        match command {
            Command::Put(put) => {
                self.check_put(put)?;
                Ok(Reply::Put(self.put(put)))
            }
            Command::DeleteRange(delete) => Ok(Reply::DeleteRange(self.delete(delete))),
            Command::Txn(txn) => {
                let mut path = Vec::new();
                self.choose(txn, &mut path);
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
                self.model.compactions.insert(compact.revision);
                Ok(Reply::Compact)
            }
            Command::LeaseGrant { id, ttl_seconds } => {
                if *ttl_seconds > LEASE_TTL_SECONDS_MAX {
                    return Err(ApiError::LeaseTtlTooLarge);
                }
                if self.model.leases.contains_key(id) {
                    return Err(ApiError::LeaseExists);
                }
                let lease = Lease { ttl: *ttl_seconds, granted: index, ..Lease::default() };
                self.model.leases.insert(*id, lease);
                Ok(Reply::LeaseGrant { id: *id, ttl_seconds: *ttl_seconds })
            }
            Command::LeaseRevoke { ids, leader } => self.revoke(ids, *leader, term),
            Command::LeaseCheckpoint { remaining, leader } => {
                if leader.is_some_and(|by| by.term != term) {
                    return Err(ApiError::NotLeader);
                }
                for (id, left) in remaining {
                    if self.model.is_meant(*id, *leader)
                        && let Some(lease) = self.model.leases.get_mut(id)
                    {
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
            Command::SetDowngrade { .. } => Ok(Reply::SetDowngrade),
            // The catalogue's, not the keyspace's: `catalogue` says what they answer.
            Command::CreateGroup | Command::DestroyGroup { .. } => Ok(Reply::DestroyGroup),
            Command::Auth(command) => self.model.users.run(command, index),
        }
    }

    /// A client's revoke names one lease that must exist; a leader's expiry names any number,
    /// counts only in the leader's own term, and skips those that are gone and those that the
    /// leader had not heard of when it said so.
    fn revoke(
        &mut self,
        ids: &[LeaseId],
        leader: Option<LeaseLeader>,
        term: Term,
    ) -> Result<Reply, ApiError> {
        match leader {
            Some(by) if by.term != term => return Err(ApiError::NotLeader),
            Some(_) => {}
            None => {
                if ids.iter().any(|id| !self.model.leases.contains_key(id)) {
                    return Err(ApiError::LeaseNotFound);
                }
            }
        }
        for id in ids {
            if !self.model.is_meant(*id, leader) {
                continue;
            }
            let lease = self.model.leases.remove(id).expect("it is meant");
            for key in lease.keys {
                self.remove(&key);
            }
            // Each lease that had keys makes a revision of its own.
            self.end_revision();
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
        // What an earlier change of the same revision made is no previous version, and a key that
        // is created has none, even if this revision has deleted one.
        let is_created = kv.as_ref().is_some_and(|kv| kv.create_revision == main);
        let before = if is_created { None } else { self.model.version_at(key, main - 1) };
        let prev_kv = before.cloned();
        let (kind, seen) = match &kv {
            Some(kv) => (EventKind::Put, kv.clone()),
            None => {
                let key = key.clone();
                (EventKind::Delete, KeyValue { key, mod_revision: main, ..KeyValue::default() })
            }
        };
        self.events.push(Event { kind, kv: seen, prev_kv });
        self.model.keys.entry(key.clone()).or_default().push(Version { main, kv });
        self.changed = true;
    }

    fn end_revision(&mut self) {
        if std::mem::take(&mut self.changed) {
            self.model.revision += 1;
            self.model.events.push(std::mem::take(&mut self.events));
        }
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

pub(super) fn branch(txn: &TxnRequest, taken: bool) -> &[RequestOp] {
    if taken { &txn.success } else { &txn.failure }
}
