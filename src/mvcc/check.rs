//! Checks that need no state: done before a request is proposed or read.

use crate::types::ApiError;
use crate::types::KeyRange;
use crate::types::command::{
    Command, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest,
};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};

pub fn check_range(request: &RangeRequest) -> Result<(), ApiError> {
    check_key(&request.range.key)
}

pub fn check_put(request: &PutRequest) -> Result<(), ApiError> {
    check_key(&request.key)?;
    if request.ignore_value && !request.value.is_empty() {
        return Err(ApiError::ValueProvided);
    }
    if request.ignore_lease && !request.lease.is_none() {
        return Err(ApiError::LeaseProvided);
    }
    Ok(())
}

pub fn check_delete(request: &DeleteRangeRequest) -> Result<(), ApiError> {
    check_key(&request.range.key)
}

/// Sizes and keys of every level, then the duplicate-key rule for both branches. `ops_max` is
/// what one level may have in its longest list; nested levels get what that list leaves.
pub fn check_txn(txn: &TxnRequest, ops_max: usize) -> Result<(), ApiError> {
    check_txn_shape(txn, ops_max)?;
    written_by(&txn.success)?;
    written_by(&txn.failure)?;
    Ok(())
}

/// Whether a txn can be answered from a read view: ranges only, no nested txn (etcd's rule).
pub fn is_read_only(txn: &TxnRequest) -> bool {
    txn.success.iter().chain(&txn.failure).all(|op| matches!(op, RequestOp::Range(_)))
}

/// What a command is taken to add to the store, in etcd's estimate; 0 always fits the quota.
pub fn quota_cost(command: &Command) -> u64 {
    match command {
        Command::Put(request) => put_cost(request),
        Command::LeaseGrant { .. } => 64,
        Command::Txn(txn) => txn_cost(txn),
        _ => 0,
    }
}

fn put_cost(request: &PutRequest) -> u64 {
    256 + request.key.len() as u64 + request.value.len() as u64
}

fn txn_cost(txn: &TxnRequest) -> u64 {
    let branch = |ops: &[RequestOp]| -> u64 {
        ops.iter()
            .map(|op| match op {
                RequestOp::Put(request) => put_cost(request),
                RequestOp::Txn(nested) => txn_cost(nested),
                RequestOp::Range(_) | RequestOp::DeleteRange(_) => 0,
            })
            .sum()
    };
    branch(&txn.success).max(branch(&txn.failure))
}

/// Whether any branch at any level puts.
pub(super) fn has_put(txn: &TxnRequest) -> bool {
    txn.success.iter().chain(&txn.failure).any(|op| match op {
        RequestOp::Put(_) => true,
        RequestOp::Txn(nested) => has_put(nested),
        RequestOp::Range(_) | RequestOp::DeleteRange(_) => false,
    })
}

fn check_key(key: &[u8]) -> Result<(), ApiError> {
    if key.is_empty() { Err(ApiError::EmptyKey) } else { Ok(()) }
}

fn check_txn_shape(txn: &TxnRequest, ops_max: usize) -> Result<(), ApiError> {
    let ops = txn.compare.len().max(txn.success.len()).max(txn.failure.len());
    if ops > ops_max {
        return Err(ApiError::TooManyOps);
    }
    for compare in &txn.compare {
        check_key(&compare.range.key)?;
    }
    for op in txn.success.iter().chain(&txn.failure) {
        match op {
            RequestOp::Range(request) => check_range(request)?,
            RequestOp::Put(request) => check_put(request)?,
            RequestOp::DeleteRange(request) => check_delete(request)?,
            RequestOp::Txn(nested) => check_txn_shape(nested, ops_max - ops)?,
        }
    }
    Ok(())
}

/// Half-open key intervals, merged where they meet, so that a hostile txn stays n log n.
#[derive(Default)]
struct Intervals(BTreeMap<Bytes, Bytes>);

impl Intervals {
    /// etcd takes the end literally here: one zero byte is no "everything from", so that such a
    /// delete covers nothing. Clients that mix it with puts rely on being let through.
    fn insert_range(&mut self, range: &KeyRange) {
        let end = if range.is_single() {
            let mut end = range.key.to_vec();
            end.push(0);
            Bytes::from(end)
        } else {
            range.end.clone()
        };
        if range.key < end {
            self.insert(range.key.clone(), end);
        }
    }

    fn insert(&mut self, mut start: Bytes, mut end: Bytes) {
        if let Some((s, e)) = self.0.range::<Bytes, _>(..=&start).next_back()
            && *e >= start
        {
            start = s.clone();
            end = end.max(e.clone());
        }
        while let Some((s, e)) = self.0.range::<Bytes, _>(&start..=&end).next() {
            end = end.max(e.clone());
            let s = s.clone();
            self.0.remove(&s);
        }
        self.0.insert(start, end);
    }

    fn contains(&self, key: &Bytes) -> bool {
        self.0.range::<Bytes, _>(..=key).next_back().is_some_and(|(_, end)| key < end)
    }
}

/// The keys that a list of operations may put and delete, or `DuplicateKey` when one key could
/// be written twice in a way etcd refuses. The order of the three passes is part of the rule:
/// a nested put inside a *later* sibling's nested delete is let through.
fn written_by(ops: &[RequestOp]) -> Result<(BTreeSet<Bytes>, Intervals), ApiError> {
    let mut deletes = Intervals::default();
    let mut puts = BTreeSet::new();
    for op in ops {
        if let RequestOp::DeleteRange(request) = op {
            deletes.insert_range(&request.range);
        }
    }
    for op in ops {
        let RequestOp::Txn(nested) = op else { continue };
        let (then_puts, then_deletes) = written_by(&nested.success)?;
        let (else_puts, else_deletes) = written_by(&nested.failure)?;
        // Only one branch runs, so both may put the same key.
        for key in then_puts.union(&else_puts) {
            if puts.contains(key) || deletes.contains(key) {
                return Err(ApiError::DuplicateKey);
            }
        }
        puts.extend(then_puts);
        puts.extend(else_puts);
        for (start, end) in then_deletes.0.into_iter().chain(else_deletes.0) {
            deletes.insert(start, end);
        }
    }
    for op in ops {
        let RequestOp::Put(request) = op else { continue };
        if deletes.contains(&request.key) || !puts.insert(request.key.clone()) {
            return Err(ApiError::DuplicateKey);
        }
    }
    Ok((puts, deletes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::LeaseId;
    use crate::types::command::{Compare, CompareResult, CompareTarget};

    fn put(key: &'static str) -> RequestOp {
        RequestOp::Put(PutRequest { key: key.into(), ..PutRequest::default() })
    }
    fn delete(key: &'static str, end: &'static str) -> RequestOp {
        RequestOp::DeleteRange(DeleteRangeRequest {
            range: KeyRange::new(key, end),
            prev_kv: false,
        })
    }
    fn nested(success: Vec<RequestOp>, failure: Vec<RequestOp>) -> RequestOp {
        RequestOp::Txn(TxnRequest { compare: vec![], success, failure })
    }
    fn check(success: Vec<RequestOp>) -> Result<(), ApiError> {
        check_txn(&TxnRequest { compare: vec![], success, failure: vec![] }, 128)
    }

    #[test]
    fn put_flags() {
        let base = PutRequest { key: "k".into(), ..PutRequest::default() };
        assert_eq!(check_put(&PutRequest::default()), Err(ApiError::EmptyKey));
        let with = PutRequest { value: "v".into(), ignore_value: true, ..base.clone() };
        assert_eq!(check_put(&with), Err(ApiError::ValueProvided));
        let with = PutRequest { lease: LeaseId(1), ignore_lease: true, ..base.clone() };
        assert_eq!(check_put(&with), Err(ApiError::LeaseProvided));
        assert_eq!(check_put(&base), Ok(()));
    }

    #[test]
    fn duplicate_keys() {
        let dup = Err(ApiError::DuplicateKey);
        assert_eq!(check(vec![put("a"), put("b")]), Ok(()));
        assert_eq!(check(vec![put("a"), put("a")]), dup);
        assert_eq!(check(vec![put("a"), delete("a", "")]), dup);
        assert_eq!(check(vec![put("ab"), delete("a", "b")]), dup);
        assert_eq!(check(vec![put("b"), delete("a", "b")]), Ok(()));
        assert_eq!(check(vec![delete("a", "c"), delete("b", "d")]), Ok(()));
        // Then and else of one nested txn may share a key, siblings may not.
        assert_eq!(check(vec![nested(vec![put("a")], vec![put("a")])]), Ok(()));
        assert_eq!(
            check(vec![nested(vec![put("a")], vec![]), nested(vec![], vec![put("a")])]),
            dup
        );
        assert_eq!(check(vec![nested(vec![put("a")], vec![]), put("a")]), dup);
        assert_eq!(check(vec![nested(vec![put("a")], vec![]), delete("a", "")]), dup);
        // A nested delete is seen by later puts, not by earlier nested ones.
        let (p, d) = (|| nested(vec![put("a")], vec![]), || nested(vec![delete("a", "")], vec![]));
        assert_eq!(check(vec![p(), d()]), Ok(()));
        assert_eq!(check(vec![d(), p()]), dup);
        assert_eq!(check(vec![d(), put("a")]), dup);
        // The two branches of the outer txn are separate worlds.
        let txn = TxnRequest {
            compare: vec![],
            success: vec![put("a")],
            failure: vec![put("a"), delete("b", "")],
        };
        assert_eq!(check_txn(&txn, 128), Ok(()));
        // "Everything from" is taken literally, as etcd does.
        assert_eq!(check(vec![delete("a", "\0"), put("b")]), Ok(()));
    }

    #[test]
    fn operation_budget() {
        let many = |n: usize| (0..n).map(|_| delete("x", "")).collect::<Vec<_>>();
        assert_eq!(check(many(128)), Ok(()));
        assert_eq!(check(many(129)), Err(ApiError::TooManyOps));
        // The nested level gets what the outer's longest list leaves.
        assert_eq!(check(vec![nested(many(127), vec![])]), Ok(()));
        assert_eq!(check(vec![nested(many(128), vec![])]), Err(ApiError::TooManyOps));
        let compare = Compare {
            range: KeyRange::single(""),
            result: CompareResult::Equal,
            target: CompareTarget::Version(0),
        };
        let txn = TxnRequest { compare: vec![compare], ..TxnRequest::default() };
        assert_eq!(check_txn(&txn, 128), Err(ApiError::EmptyKey));
        assert_eq!(check_txn(&txn, 0), Err(ApiError::TooManyOps));
    }

    #[test]
    fn costs() {
        let put_command = Command::Put(PutRequest {
            key: "key".into(),
            value: "value".into(),
            ..PutRequest::default()
        });
        assert_eq!(quota_cost(&put_command), 264);
        let grant = Command::LeaseGrant { id: LeaseId(1), ttl_seconds: 1 };
        assert_eq!(quota_cost(&grant), 64);
        let txn = TxnRequest {
            compare: vec![],
            success: vec![put("a"), nested(vec![put("b")], vec![])],
            failure: vec![put("c"), delete("a", "")],
        };
        assert_eq!(quota_cost(&Command::Txn(txn)), 2 * 257);
        let txn = TxnRequest { failure: vec![delete("a", "")], ..TxnRequest::default() };
        assert_eq!(quota_cost(&Command::Txn(txn)), 0);
    }

    #[test]
    fn intervals_merge() {
        let mut set = Intervals::default();
        for (start, end) in [("b", "d"), ("f", "h"), ("a", "b"), ("c", "g"), ("x", "z")] {
            set.insert(start.into(), end.into());
        }
        assert_eq!(set.0.len(), 2);
        for (key, inside) in
            [("a", true), ("g", true), ("h", false), ("w", false), ("x", true), ("z", false)]
        {
            assert_eq!(set.contains(&Bytes::from(key)), inside, "{key}");
        }
    }
}
