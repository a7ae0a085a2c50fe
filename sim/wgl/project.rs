//! From calls over ranges and txns to what each did to single keys.

use super::{Op, Seen, Step, UNKNOWN_MAX, is_key_write, is_without_effect};
use crate::history::{Answer, Call};
use bytes::Bytes;
use quorate::types::command::{
    Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest,
};
use quorate::types::reply::{DeleteRangeReply, RangeReply, Reply, ReplyOp, TxnReply};
use quorate::types::{ApiError, Command, GroupId};
use std::collections::{BTreeMap, BTreeSet};

/// Ways that a txn without an answer may have gone; more are not followed.
const WAYS_MAX: usize = 8;

/// The calls of every key that can be judged.
pub fn keys(calls: &[Seen]) -> BTreeMap<(GroupId, Bytes), Vec<Op>> {
    let mut known: BTreeSet<(GroupId, Bytes)> = BTreeSet::new();
    let mut leased: BTreeSet<(GroupId, Bytes)> = BTreeSet::new();
    for seen in calls {
        if let Call::Write(command) = &seen.call {
            puts_of(command, &mut |put| {
                let key = (seen.group, put.key.clone());
                if !put.lease.is_none() {
                    leased.insert(key.clone());
                }
                known.insert(key);
            });
        }
    }
    let mut all = BTreeMap::new();
    for (group, key) in known.difference(&leased) {
        let mut ops = Vec::new();
        for seen in calls.iter().filter(|seen| seen.group == *group) {
            if let Some(ways) = ways(seen, key) {
                let ended = seen.end.as_ref().filter(|end| is_known(&end.1)).map(|end| end.0);
                ops.push(Op { began: seen.began, ended, ways });
            }
        }
        if ops.iter().filter(|op| op.ended.is_none()).count() <= UNKNOWN_MAX {
            all.insert((*group, key.clone()), ops);
        }
    }
    all
}

fn puts_of(command: &Command, each: &mut dyn FnMut(&PutRequest)) {
    fn of_txn(txn: &TxnRequest, each: &mut dyn FnMut(&PutRequest)) {
        for op in txn.success.iter().chain(&txn.failure) {
            match op {
                RequestOp::Put(put) => each(put),
                RequestOp::Txn(inner) => of_txn(inner, each),
                _ => {}
            }
        }
    }
    match command {
        Command::Put(put) => each(put),
        Command::Txn(txn) => of_txn(txn, each),
        _ => {}
    }
}

fn is_known(answer: &Answer) -> bool {
    match answer {
        Answer::Failed { error, never } => is_without_effect(error, *never),
        _ => true,
    }
}

/// What a call may have done at a key; `None` if it says nothing about it.
fn ways(seen: &Seen, key: &Bytes) -> Option<Vec<Vec<Step>>> {
    let answer = seen.end.as_ref().map(|end| &end.1).filter(|answer| is_known(answer));
    let some = |steps: Vec<Step>| (!steps.is_empty()).then(|| vec![steps]);
    match (&seen.call, answer) {
        (Call::Write(Command::Put(put)), Some(Answer::Failed { error, .. })) => {
            let missing = *error == ApiError::KeyNotFound && put.key == *key;
            some(if missing { vec![Step::Absent] } else { Vec::new() })
        }
        (_, Some(Answer::Failed { .. })) => None,
        (Call::Write(command), Some(Answer::Wrote { reply: Ok(reply), revision, .. })) => {
            let mut steps = Vec::new();
            match (command, reply) {
                (Command::Put(put), Reply::Put(reply)) if put.key == *key => {
                    put_steps(put, Some(reply.prev_kv.as_ref()), *revision, &mut steps);
                }
                (Command::DeleteRange(delete), Reply::DeleteRange(reply)) => {
                    delete_steps(delete, reply, key, &mut steps);
                }
                (Command::Txn(txn), Reply::Txn(reply)) => {
                    compare_steps(txn, reply, key, &mut steps);
                    txn_steps(txn, reply, key, *revision, &mut steps);
                }
                _ => {}
            }
            some(steps)
        }
        (Call::Range(request), Some(Answer::Range { reply, .. })) if !request.serializable => {
            let mut steps = Vec::new();
            range_steps(request, reply, key, &mut steps);
            some(steps)
        }
        (Call::ReadTxn(txn), Some(Answer::ReadTxn { reply, .. }))
            if !seen.call.is_serializable() =>
        {
            let mut steps = Vec::new();
            compare_steps(txn, reply, key, &mut steps);
            txn_steps(txn, reply, key, 0, &mut steps);
            some(steps)
        }
        (Call::Write(command), None) if is_key_write(command) => {
            let ways = match command {
                Command::Put(put) if put.key == *key => {
                    let mut steps = Vec::new();
                    put_steps(put, None, 0, &mut steps);
                    vec![steps]
                }
                Command::DeleteRange(delete) if delete.range.contains(key) => {
                    vec![vec![Step::Delete]]
                }
                Command::Txn(txn) => unknown_txn(txn, key),
                _ => Vec::new(),
            };
            let ways: Vec<_> = ways.into_iter().filter(|way| changes(way)).collect();
            (!ways.is_empty()).then_some(ways)
        }
        _ => None,
    }
}

fn changes(way: &[Step]) -> bool {
    way.iter().any(|step| matches!(step, Step::Put { .. } | Step::Delete))
}

/// `prev` is what was answered about the previous pair, if there was an answer.
fn put_steps(
    put: &PutRequest,
    prev: Option<Option<&quorate::types::reply::KeyValue>>,
    revision: i64,
    steps: &mut Vec<Step>,
) {
    if let (true, Some(prev)) = (put.prev_kv, prev) {
        steps.push(match prev {
            Some(kv) => Step::Pair { kv: kv.clone(), value: true },
            None => Step::Absent,
        });
    }
    if put.ignore_value || put.ignore_lease {
        steps.push(Step::Present);
    }
    let value = (!put.ignore_value).then(|| put.value.clone());
    steps.push(Step::Put { value, revision });
}

fn delete_steps(
    delete: &DeleteRangeRequest,
    reply: &DeleteRangeReply,
    key: &Bytes,
    steps: &mut Vec<Step>,
) {
    if !delete.range.contains(key) {
        return;
    }
    if reply.deleted == 0 {
        return steps.push(Step::Absent);
    }
    if delete.prev_kv {
        match reply.prev_kvs.iter().find(|kv| kv.key == *key) {
            Some(kv) => steps.push(Step::Pair { kv: kv.clone(), value: true }),
            None => return steps.push(Step::Absent),
        }
    } else if delete.range.is_single() {
        steps.push(Step::Present);
    }
    steps.push(Step::Delete);
}

fn range_steps(request: &RangeRequest, reply: &RangeReply, key: &Bytes, steps: &mut Vec<Step>) {
    let filtered = request.min_mod_revision != 0
        || request.max_mod_revision != 0
        || request.min_create_revision != 0
        || request.max_create_revision != 0;
    if request.revision != 0 || !request.range.contains(key) {
        return;
    }
    if request.count_only {
        if request.range.is_single() || reply.count == 0 {
            steps.push(if reply.count == 0 { Step::Absent } else { Step::Present });
        }
        return;
    }
    match reply.kvs.iter().find(|kv| kv.key == *key) {
        Some(kv) => steps.push(Step::Pair { kv: kv.clone(), value: !request.keys_only }),
        None if !filtered && !reply.more => steps.push(Step::Absent),
        None => {}
    }
}

fn compare_of(compare: &Compare, key: &Bytes) -> bool {
    compare.range.is_single() && compare.range.key == *key
}

/// Compares are decided before anything is written, at every level of the taken path.
fn compare_steps(txn: &TxnRequest, reply: &TxnReply, key: &Bytes, steps: &mut Vec<Step>) {
    branch_compares(txn, reply.succeeded, key, steps);
    let ops = if reply.succeeded { &txn.success } else { &txn.failure };
    for (op, reply) in ops.iter().zip(&reply.replies) {
        if let (RequestOp::Txn(inner), ReplyOp::Txn(reply)) = (op, reply) {
            compare_steps(inner, reply, key, steps);
        }
    }
}

fn branch_compares(txn: &TxnRequest, holds: bool, key: &Bytes, steps: &mut Vec<Step>) {
    // Which of several has failed nobody knows.
    if !holds && txn.compare.len() != 1 {
        return;
    }
    for compare in txn.compare.iter().filter(|compare| compare_of(compare, key)) {
        steps.push(Step::Compare { compare: compare.clone(), holds });
    }
}

fn txn_steps(
    txn: &TxnRequest,
    reply: &TxnReply,
    key: &Bytes,
    revision: i64,
    steps: &mut Vec<Step>,
) {
    let ops = if reply.succeeded { &txn.success } else { &txn.failure };
    for (op, reply) in ops.iter().zip(&reply.replies) {
        match (op, reply) {
            (RequestOp::Range(range), ReplyOp::Range { reply, .. }) => {
                range_steps(range, reply, key, steps);
            }
            (RequestOp::Put(put), ReplyOp::Put { reply, .. }) if put.key == *key => {
                put_steps(put, Some(reply.prev_kv.as_ref()), revision, steps);
            }
            (RequestOp::DeleteRange(delete), ReplyOp::DeleteRange { reply, .. }) => {
                delete_steps(delete, reply, key, steps);
            }
            (RequestOp::Txn(inner), ReplyOp::Txn(reply)) => {
                txn_steps(inner, reply, key, revision, steps);
            }
            _ => {}
        }
    }
}

/// Every way a txn may have gone of which nothing was heard.
fn unknown_txn(txn: &TxnRequest, key: &Bytes) -> Vec<Vec<Step>> {
    let mut all = Vec::new();
    for (holds, ops) in [(true, &txn.success), (false, &txn.failure)] {
        let mut compares = Vec::new();
        branch_compares(txn, holds, key, &mut compares);
        let mut ways: Vec<(Vec<Step>, Vec<Step>)> = vec![(compares, Vec::new())];
        for op in ops {
            match op {
                RequestOp::Put(put) if put.key == *key => {
                    ways.iter_mut().for_each(|way| put_steps(put, None, 0, &mut way.1));
                }
                RequestOp::DeleteRange(delete) if delete.range.contains(key) => {
                    ways.iter_mut().for_each(|way| way.1.push(Step::Delete));
                }
                RequestOp::Txn(inner) => {
                    let inner = unknown_txn(inner, key);
                    let mut more = Vec::new();
                    for way in &ways {
                        for steps in &inner {
                            // Inner compares are decided with the outer ones, before any write.
                            let split = steps
                                .iter()
                                .position(|s| !matches!(s, Step::Compare { .. }))
                                .unwrap_or(steps.len());
                            let mut way = way.clone();
                            way.0.extend_from_slice(&steps[..split]);
                            way.1.extend_from_slice(&steps[split..]);
                            more.push(way);
                        }
                    }
                    ways = more;
                }
                _ => {}
            }
        }
        all.extend(ways.into_iter().map(|(mut compares, steps)| {
            compares.extend(steps);
            compares
        }));
    }
    if all.len() > WAYS_MAX {
        // Any of them, then, with no compare to tell them apart.
        for way in &mut all {
            way.retain(|step| !matches!(step, Step::Compare { .. }));
        }
        all.dedup_by(|a, b| format!("{a:?}") == format!("{b:?}"));
    }
    all
}
