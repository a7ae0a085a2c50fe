//! What a client writes into a request: keys, values and every option there is.

use super::Client;
use super::people::edge;
use crate::plan::Plan;
use bytes::Bytes;
use quorate::mvcc::check_txn;
use quorate::types::command::{
    Compare, CompareResult, CompareTarget, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp,
    SortOrder, SortTarget, TxnRequest,
};
use quorate::types::{GroupId, KeyRange, LeaseId};

/// How deep txns nest.
const DEPTH_MAX: u32 = 2;

impl Client {
    pub(super) fn key(&mut self, plan: &Plan) -> Bytes {
        if self.rng.chance(3, 5) {
            plan.key(true, self.rng.below(plan.hot_keys))
        } else {
            plan.key(false, self.rng.below(plan.cold_keys))
        }
    }

    pub(super) fn range(&mut self, plan: &Plan) -> KeyRange {
        if plan.auth.on && plan.auth.edges && self.rng.chance(1, 3) {
            let key = self.key(plan);
            return edge(&mut self.rng, key);
        }
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

    pub(super) fn value(&mut self, plan: &Plan) -> Bytes {
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

    pub(super) fn put(&mut self, plan: &Plan) -> PutRequest {
        let (key, value, prev_kv) = (self.key(plan), self.value(plan), self.rng.chance(1, 3));
        match self.rng.below(12) {
            0 => PutRequest { key, ignore_value: true, prev_kv, ..PutRequest::default() },
            1 => PutRequest { key, value, ignore_lease: true, prev_kv, ..PutRequest::default() },
            2 => PutRequest {
                key,
                ignore_value: true,
                ignore_lease: true,
                prev_kv,
                ..PutRequest::default()
            },
            _ => PutRequest { key, value, prev_kv, ..PutRequest::default() },
        }
    }

    /// Half of the reads are plain; the others combine any options.
    pub(super) fn read(&mut self, plan: &Plan, newest: i64) -> RangeRequest {
        let range = self.range(plan);
        let mut request = RangeRequest { range, ..RangeRequest::default() };
        if self.rng.chance(1, 2) {
            return request;
        }
        request.keys_only = self.rng.chance(1, 5);
        request.count_only = self.rng.chance(1, 6);
        if self.rng.chance(1, 2) {
            request.limit = 1 + self.rng.below(6) as i64;
        }
        request.sort_order = match self.rng.below(4) {
            0 => SortOrder::Ascend,
            1 => SortOrder::Descend,
            _ => SortOrder::None,
        };
        request.sort_target = match self.rng.below(8) {
            0 => SortTarget::Version,
            1 => SortTarget::Create,
            2 => SortTarget::Mod,
            3 => SortTarget::Value,
            _ => SortTarget::Key,
        };
        for bound in [
            &mut request.min_mod_revision,
            &mut request.max_mod_revision,
            &mut request.min_create_revision,
            &mut request.max_create_revision,
        ] {
            if self.rng.chance(1, 6) {
                *bound = self.rng.between(1, newest.max(1) as u64 + 2) as i64;
            }
        }
        request
    }

    /// A revision that was seen lately, older, or ahead of what was seen.
    pub(super) fn old_revision(&mut self, newest: i64) -> i64 {
        self.rng.between(1, newest.max(1) as u64 + 2) as i64
    }

    pub(super) fn compare(&mut self, plan: &Plan, group: GroupId) -> Compare {
        let key = self.key(plan);
        let seen = self.memory.get(&group).and_then(|m| m.seen.get(&key)).copied().unwrap_or(0);
        let target = match self.rng.below(8) {
            0 => CompareTarget::Version(self.rng.below(4) as i64),
            1 => CompareTarget::Create(0),
            2 => CompareTarget::Value(Bytes::from_static(b"c1-1")),
            3 => CompareTarget::Lease(self.known_lease(group).0),
            4 => CompareTarget::Create(seen),
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

    /// A lease of the group that the client knows of, or none.
    pub(super) fn known_lease(&mut self, group: GroupId) -> LeaseId {
        let known = self.memory.get(&group).map_or(&[] as &[LeaseId], |m| m.leases.as_slice());
        if known.is_empty() {
            return LeaseId::default();
        }
        known[self.rng.below(known.len() as u64) as usize]
    }

    /// Operations of one branch. Clients must not write a key twice in one txn (etcd refuses
    /// that): `used` holds what is written at this level and above.
    fn branch(
        &mut self,
        plan: &Plan,
        group: GroupId,
        depth: u32,
        used: &mut Vec<Bytes>,
    ) -> Vec<RequestOp> {
        let mut ops = Vec::new();
        for _ in 0..self.rng.below(4) {
            let key = self.key(plan);
            match self.rng.below(9) {
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
                4 | 5 => {
                    let newest = self.newest(group);
                    let mut range = self.read(plan, newest);
                    if self.rng.chance(1, 3) {
                        range.revision = self.revision_in_txn(newest);
                    }
                    ops.push(RequestOp::Range(range));
                }
                6 if depth < DEPTH_MAX => {
                    ops.push(RequestOp::Txn(self.nested(plan, group, depth + 1, used)));
                }
                7 if depth < DEPTH_MAX && !used.contains(&key) => {
                    used.push(key.clone());
                    ops.extend(self.changed_twice(plan, key));
                }
                _ => {}
            }
        }
        ops
    }

    /// A revision that a range inside of a txn may ask for: the newest that was seen and those
    /// that this txn or another one is about to make, the first ones, which a compaction has taken
    /// sooner or later, and what nobody will ever reach.
    fn revision_in_txn(&mut self, newest: i64) -> i64 {
        match self.rng.below(8) {
            0 | 1 => newest,
            2..=4 => newest + 1,
            5 => newest + 1 + self.rng.below(8) as i64,
            6 if self.rng.chance(1, 4) => i64::MAX - self.rng.below(2) as i64,
            _ => self.old_revision(newest),
        }
    }

    /// A key that changes twice at one revision. etcd refuses two writes of a key in a txn, but for
    /// a put in a nested txn and a delete in a later one beside it.
    fn changed_twice(&mut self, plan: &Plan, key: Bytes) -> [RequestOp; 2] {
        let nested = |op| RequestOp::Txn(TxnRequest { success: vec![op], ..TxnRequest::default() });
        let (value, prev_kv) = (self.value(plan), self.rng.chance(1, 2));
        let range = KeyRange::single(key.clone());
        let put = PutRequest { key, value, prev_kv, ..PutRequest::default() };
        let delete = DeleteRangeRequest { range, prev_kv: true };
        [nested(RequestOp::Put(put)), nested(RequestOp::DeleteRange(delete))]
    }

    fn nested(
        &mut self,
        plan: &Plan,
        group: GroupId,
        depth: u32,
        used: &mut Vec<Bytes>,
    ) -> TxnRequest {
        let compare = (0..self.rng.below(3)).map(|_| self.compare(plan, group)).collect();
        let success = self.branch(plan, group, depth, used);
        let failure = self.branch(plan, group, depth, used);
        TxnRequest { compare, success, failure }
    }

    pub(super) fn txn(&mut self, plan: &Plan, group: GroupId) -> TxnRequest {
        let compare = (0..self.rng.below(3)).map(|_| self.compare(plan, group)).collect();
        let success = self.branch(plan, group, 0, &mut Vec::new());
        let failure = self.branch(plan, group, 0, &mut Vec::new());
        let txn = TxnRequest { compare, success, failure };
        debug_assert_eq!(check_txn(&txn, usize::MAX), Ok(()), "the API lets it through");
        txn
    }

    pub(super) fn read_txn(&mut self, plan: &Plan, group: GroupId) -> TxnRequest {
        let serializable = self.rng.chance(1, 4);
        let newest = self.newest(group);
        let op = |client: &mut Client| {
            let read = client.read(plan, newest);
            RequestOp::Range(RangeRequest { serializable, ..read })
        };
        let (success, failure) = (vec![op(self), op(self)], vec![op(self)]);
        TxnRequest { compare: vec![self.compare(plan, group)], success, failure }
    }
}
