//! The clients: who asks what next.
//!
//! Each client has one call open at a time, its own stream of decisions and its own unique
//! values. It stays with one member until a call fails and then tries another. Most of the load
//! goes to a few hot keys, so that calls really race; some of it is spread over a larger space,
//! which the final sweep reads back.

use crate::history::{Answer, Call, CallId};
use crate::plan::{OP_KINDS, OpKind, Plan};
use crate::seed;
use bytes::Bytes;
use quorate::types::command::{
    CompactRequest, Compare, CompareResult, CompareTarget, DeleteRangeRequest, PutRequest,
    RangeRequest, RequestOp, SortOrder, SortTarget, TxnRequest,
};
use quorate::types::prng::Prng;
use quorate::types::reply::Reply;
use quorate::types::{Command, GroupId, KeyRange, LeaseId};
use std::collections::BTreeMap;

/// What one client remembers of a group.
#[derive(Clone, Debug, Default)]
struct Memory {
    /// Newest header revision seen.
    revision: i64,
    /// Last mod_revision seen per key.
    seen: BTreeMap<Bytes, i64>,
    leases: Vec<LeaseId>,
}

/// Where the numbers of the calls after the disturbances begin.
const LATE_CALLS: u64 = 1_000_000;

pub struct Client {
    pub id: u64,
    pub member: usize,
    key: u64,
    calls: u64,
    late_calls: u64,
    rng: Prng,
    /// The newest call's number, and how many values it has used: both are in the values' names,
    /// so that no value is written twice and none depends on the calls before.
    nth: u64,
    values: u64,
    memory: BTreeMap<GroupId, Memory>,
    /// The call that is open, and where it went.
    pub open: Option<(CallId, u64)>,
}

impl Client {
    pub fn new(plan: &Plan, id: u64) -> Client {
        let purpose = format!("client-{id}");
        let (mut rng, key) = (plan.stream(&purpose), plan.name.key(&purpose));
        let member = rng.below(plan.members as u64) as usize;
        Client {
            id,
            member,
            key,
            calls: 0,
            late_calls: 0,
            rng,
            nth: 0,
            values: 0,
            memory: BTreeMap::new(),
            open: None,
        }
    }

    /// Goes on to the next call: what it is and what follows from it is drawn from a place of its
    /// own, or from the number that a tape states. Calls after the disturbances count apart.
    pub fn turn(&mut self, told: Option<(u64, u64)>, acting: bool) -> (u64, u64) {
        let place = if acting { &mut self.calls } else { &mut self.late_calls };
        *place += 1;
        let place = if acting { *place } else { *place + LATE_CALLS };
        let (nth, word) = told.unwrap_or_else(|| (place, seed::at(self.key, place)));
        self.rng = Prng::new(word);
        (self.nth, self.values) = (nth, 0);
        (nth, word)
    }

    /// Waits a moment between two calls.
    pub fn think_us(&mut self, plan: &Plan) -> u64 {
        1 + self.rng.below(2 * plan.think_us)
    }

    /// Tries another member.
    pub fn move_on(&mut self, known: &[usize]) {
        let others: Vec<usize> = known.iter().copied().filter(|m| *m != self.member).collect();
        if !others.is_empty() {
            self.member = others[self.rng.below(others.len() as u64) as usize];
        }
    }

    fn key(&mut self, plan: &Plan) -> Bytes {
        if self.rng.chance(3, 5) {
            Bytes::from(format!("hot/{}", self.rng.below(plan.hot_keys)))
        } else {
            Bytes::from(format!("cold/{:03}", self.rng.below(plan.cold_keys)))
        }
    }

    fn range(&mut self, plan: &Plan) -> KeyRange {
        match self.rng.below(5) {
            0 => KeyRange::new("hot/", "hot0"),
            1 => KeyRange::new("cold/", "cold0"),
            2 => KeyRange::new(vec![0], vec![0]),
            3 => KeyRange::new(self.key(plan), vec![0]),
            _ => {
                let (a, b) = (self.key(plan), self.key(plan));
                KeyRange::new(a, b)
            }
        }
    }

    fn value(&mut self, plan: &Plan) -> Bytes {
        self.values += 1;
        let mut value = match self.values {
            1 => format!("c{}-{}", self.id, self.nth),
            more => format!("c{}-{}.{more}", self.id, self.nth),
        };
        let fill = self.rng.below(plan.value_bytes_max as u64) as usize;
        while value.len() < fill {
            value.push('.');
        }
        Bytes::from(value)
    }

    fn put(&mut self, plan: &Plan) -> PutRequest {
        let (key, value, prev_kv) = (self.key(plan), self.value(plan), self.rng.chance(1, 3));
        match self.rng.below(12) {
            0 => PutRequest { key, ignore_value: true, prev_kv, ..PutRequest::default() },
            1 => PutRequest { key, value, ignore_lease: true, prev_kv, ..PutRequest::default() },
            _ => PutRequest { key, value, prev_kv, ..PutRequest::default() },
        }
    }

    fn read(&mut self, plan: &Plan) -> RangeRequest {
        let mut request = RangeRequest { range: self.range(plan), ..RangeRequest::default() };
        match self.rng.below(8) {
            0 => request.keys_only = true,
            1 => request.count_only = true,
            2 => request.limit = 1 + self.rng.below(5) as i64,
            3 => {
                request.sort_order = SortOrder::Descend;
                request.limit = 1 + self.rng.below(5) as i64;
            }
            4 => {
                request.sort_order = SortOrder::Ascend;
                request.sort_target =
                    if self.rng.chance(1, 2) { SortTarget::Mod } else { SortTarget::Version };
            }
            _ => {}
        }
        request
    }

    fn compare(&mut self, plan: &Plan, group: GroupId) -> Compare {
        let key = self.key(plan);
        let seen = self.memory.get(&group).and_then(|m| m.seen.get(&key)).copied().unwrap_or(0);
        let target = match self.rng.below(5) {
            0 => CompareTarget::Version(self.rng.below(4) as i64),
            1 => CompareTarget::Create(0),
            2 => CompareTarget::Value(Bytes::from_static(b"c1-1")),
            _ => CompareTarget::Mod(seen),
        };
        let result = match self.rng.below(5) {
            0 => CompareResult::Greater,
            1 => CompareResult::Less,
            2 => CompareResult::NotEqual,
            _ => CompareResult::Equal,
        };
        let range = if self.rng.chance(1, 6) { self.range(plan) } else { KeyRange::single(key) };
        Compare { range, result, target }
    }

    /// Operations of one branch: no key is put twice, and none is put and deleted.
    fn branch(&mut self, plan: &Plan, group: GroupId, depth: u32) -> Vec<RequestOp> {
        let mut ops = Vec::new();
        let mut used: Vec<Bytes> = Vec::new();
        for _ in 0..self.rng.below(4) {
            let key = self.key(plan);
            match self.rng.below(6) {
                0..=2 if !used.contains(&key) => {
                    used.push(key.clone());
                    let value = self.value(plan);
                    let prev_kv = self.rng.chance(1, 2);
                    let put = PutRequest { key, value, prev_kv, ..PutRequest::default() };
                    ops.push(RequestOp::Put(put));
                }
                3 if !used.contains(&key) => {
                    used.push(key.clone());
                    let range = KeyRange::single(key);
                    ops.push(RequestOp::DeleteRange(DeleteRangeRequest { range, prev_kv: true }));
                }
                4 => {
                    let range = self.range(plan);
                    ops.push(RequestOp::Range(RangeRequest { range, ..RangeRequest::default() }));
                }
                _ => {}
            }
        }
        if depth == 0 && self.rng.chance(1, 5) {
            // Nested reads and deletes never collide with the puts above.
            let nested = TxnRequest {
                compare: vec![self.compare(plan, group)],
                success: vec![RequestOp::Range(RangeRequest {
                    range: self.range(plan),
                    ..RangeRequest::default()
                })],
                failure: Vec::new(),
            };
            ops.push(RequestOp::Txn(nested));
        }
        ops
    }

    fn txn(&mut self, plan: &Plan, group: GroupId) -> TxnRequest {
        let compare = (0..self.rng.below(3)).map(|_| self.compare(plan, group)).collect();
        let success = self.branch(plan, group, 0);
        let failure = self.branch(plan, group, 1);
        TxnRequest { compare, success, failure }
    }

    /// The next call and the group it goes to, unless that is told.
    pub fn next_call(
        &mut self,
        plan: &Plan,
        groups: &[GroupId],
        told: Option<GroupId>,
    ) -> (GroupId, Call) {
        let drawn = groups[self.rng.below(groups.len() as u64) as usize];
        let group = told.filter(|group| groups.contains(group)).unwrap_or(drawn);
        let total: u64 = plan.ops.values().sum();
        let mut draw = self.rng.below(total);
        let mut kind = OpKind::Put;
        for k in OP_KINDS {
            let weight = plan.ops[&k];
            if draw < weight {
                kind = k;
                break;
            }
            draw -= weight;
        }
        let memory = self.memory.entry(group).or_default().clone();
        let single = |key| RangeRequest { range: KeyRange::single(key), ..RangeRequest::default() };
        let lease = |rng: &mut Prng| {
            let known = &memory.leases;
            if known.is_empty() {
                None
            } else {
                Some(known[rng.below(known.len() as u64) as usize])
            }
        };
        let call = match kind {
            OpKind::Put => Call::Write(Command::Put(self.put(plan))),
            OpKind::Get => Call::Range(single(self.key(plan))),
            OpKind::GetSerializable => {
                Call::Range(RangeRequest { serializable: true, ..self.read(plan) })
            }
            OpKind::GetOld => {
                let mut request = self.read(plan);
                let newest = memory.revision.max(1) as u64 + 2;
                request.revision = self.rng.between(1, newest) as i64;
                Call::Range(request)
            }
            OpKind::Range => Call::Range(self.read(plan)),
            OpKind::Delete => {
                let range = KeyRange::single(self.key(plan));
                let prev_kv = self.rng.chance(1, 2);
                Call::Write(Command::DeleteRange(DeleteRangeRequest { range, prev_kv }))
            }
            OpKind::DeleteRange => {
                let range = self.range(plan);
                Call::Write(Command::DeleteRange(DeleteRangeRequest { range, prev_kv: true }))
            }
            OpKind::Txn => {
                let txn = self.txn(plan, group);
                if is_plain_read(&txn) {
                    Call::ReadTxn(txn)
                } else {
                    Call::Write(Command::Txn(txn))
                }
            }
            OpKind::ReadTxn => {
                let serializable = self.rng.chance(1, 4);
                let op = |c: &mut Client| {
                    let range = c.range(plan);
                    RequestOp::Range(RangeRequest {
                        range,
                        serializable,
                        ..RangeRequest::default()
                    })
                };
                let compare = vec![self.compare(plan, group)];
                let (success, failure) = (vec![op(self), op(self)], vec![op(self)]);
                Call::ReadTxn(TxnRequest { compare, success, failure })
            }
            OpKind::Compact => {
                let back = self.rng.below(30) as i64;
                let revision = (memory.revision - back).max(0);
                let physical = self.rng.chance(1, 3);
                Call::Write(Command::Compact(CompactRequest { revision, physical }))
            }
            OpKind::LeaseGrant => {
                let id = LeaseId((self.id * 10_000_000 + self.nth) as i64);
                let ttl_seconds = self.rng.between(2, 30) as i64;
                Call::Write(Command::LeaseGrant { id, ttl_seconds })
            }
            OpKind::LeaseRevoke => {
                let id = lease(&mut self.rng).unwrap_or(LeaseId(7));
                Call::Write(Command::LeaseRevoke { ids: vec![id], leader_term: None })
            }
            OpKind::LeaseKeepAlive => Call::KeepAlive(lease(&mut self.rng).unwrap_or(LeaseId(7))),
            OpKind::LeasePut => {
                let mut put = self.put(plan);
                if !put.ignore_lease {
                    put.lease = lease(&mut self.rng).unwrap_or_default();
                }
                Call::Write(Command::Put(put))
            }
        };
        (group, call)
    }

    /// Remembers what an answer told.
    pub fn heard(&mut self, group: GroupId, answer: &Answer) {
        let memory = self.memory.entry(group).or_default();
        match answer {
            Answer::Wrote { reply, revision, .. } => {
                memory.revision = memory.revision.max(*revision);
                if let Ok(Reply::LeaseGrant { id, .. }) = reply {
                    memory.leases.push(*id);
                    if memory.leases.len() > 8 {
                        memory.leases.remove(0);
                    }
                }
            }
            Answer::Range { reply, revision } => {
                memory.revision = memory.revision.max(*revision);
                for kv in &reply.kvs {
                    memory.seen.insert(kv.key.clone(), kv.mod_revision);
                }
            }
            Answer::ReadTxn { revision, .. } => {
                memory.revision = memory.revision.max(*revision);
            }
            Answer::KeptAlive { .. } | Answer::Failed { .. } => {}
        }
    }
}

/// A txn of ranges only does not go through the log.
fn is_plain_read(txn: &TxnRequest) -> bool {
    txn.success.iter().chain(&txn.failure).all(|op| matches!(op, RequestOp::Range(_)))
        && !(txn.success.is_empty() && txn.failure.is_empty())
}
