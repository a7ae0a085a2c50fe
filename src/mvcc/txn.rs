//! Txns: compares choose a branch at every level first, then the taken path is checked as a
//! whole, then it runs.

use super::apply::{ReadError, Write};
use super::key::lease_key;
use super::range::{Reads, Versions};
use super::record::Record;
use crate::btree::View;
use crate::types::command::{
    Compare, CompareResult, CompareTarget, PutRequest, RangeRequest, RequestOp, TxnRequest,
};
use crate::types::reply::{ReplyOp, TxnReply};
use crate::types::{ApiError, KeyRange, StorageError};
use std::cmp::Ordering;

/// Which branches a txn takes: decided up front against the state before it, nested txns along
/// the taken path included, so that no operation of the txn can sway a compare in it.
struct Plan {
    succeeded: bool,
    /// One for each nested txn of the taken branch, in order.
    nested: Vec<Plan>,
}

fn taken<'a>(txn: &'a TxnRequest, plan: &Plan) -> &'a [RequestOp] {
    if plan.succeeded { &txn.success } else { &txn.failure }
}

fn nested_of(ops: &[RequestOp]) -> impl Iterator<Item = &TxnRequest> {
    ops.iter().filter_map(|op| match op {
        RequestOp::Txn(nested) => Some(nested),
        _ => None,
    })
}

impl Reads {
    fn plan(&self, txn: &TxnRequest) -> Result<Plan, StorageError> {
        let mut succeeded = true;
        for compare in &txn.compare {
            if !self.compare(compare)? {
                succeeded = false;
                break;
            }
        }
        let mut plan = Plan { succeeded, nested: Vec::new() };
        for nested in nested_of(taken(txn, &plan)) {
            plan.nested.push(self.plan(nested)?);
        }
        Ok(plan)
    }

    fn compare(&self, compare: &Compare) -> Result<bool, StorageError> {
        let mut any = false;
        let all = self.each_live(&compare.range, |head| {
            any = true;
            self.holds(compare, Some(&head))
        })?;
        if any { Ok(all) } else { self.holds(compare, None) }
    }

    /// One compare against one key; a missing key is zero in every number and fails every
    /// compare of its value.
    fn holds(&self, compare: &Compare, head: Option<&Record>) -> Result<bool, StorageError> {
        let number = |of: fn(&Record) -> i64, with: i64| head.map_or(0, of).cmp(&with);
        let order = match &compare.target {
            CompareTarget::Version(with) => number(|r| r.version, *with),
            CompareTarget::Create(with) => number(|r| r.create, *with),
            CompareTarget::Mod(with) => number(|r| r.revision.main, *with),
            CompareTarget::Lease(with) => number(|r| r.lease.0, *with),
            CompareTarget::Value(with) => match head {
                None => return Ok(false),
                Some(head) => self.value_of(head)?.as_ref().cmp(with.as_ref()),
            },
            CompareTarget::Unknown => Ordering::Equal,
        };
        Ok(match compare.result {
            CompareResult::Equal => order == Ordering::Equal,
            CompareResult::Greater => order == Ordering::Greater,
            CompareResult::Less => order == Ordering::Less,
            CompareResult::NotEqual => order != Ordering::Equal,
        })
    }

    /// Everything on the taken path that could fail, before anything of it runs. Revisions are
    /// judged by the logical compact revision, which comes from the log.
    fn preflight(
        &self,
        txn: &TxnRequest,
        plan: &Plan,
        check_put: &dyn Fn(&PutRequest) -> Result<(), ReadError>,
    ) -> Result<(), ReadError> {
        let mut nested = plan.nested.iter();
        for op in taken(txn, plan) {
            match op {
                RequestOp::Range(request) => self.check_revision_in_txn(request)?,
                RequestOp::Put(request) => check_put(request)?,
                RequestOp::DeleteRange(_) => {}
                RequestOp::Txn(txn) => {
                    let plan = nested.next().expect("a plan has one part for each nested txn");
                    self.preflight(txn, plan, check_put)?;
                }
            }
        }
        Ok(())
    }

    fn check_revision_in_txn(&self, request: &RangeRequest) -> Result<(), ApiError> {
        match request.revision {
            0 => Ok(()),
            r if r > self.revision => Err(ApiError::FutureRevision),
            // Before the first compaction that is -1, and a revision of -1 is let through.
            r if r < self.compact_revision => Err(ApiError::Compacted),
            _ => Ok(()),
        }
    }

    /// Answers a txn of ranges only.
    pub(super) fn read_txn(&self, txn: &TxnRequest) -> Result<TxnReply, ReadError> {
        let plan = self.plan(txn)?;
        self.preflight(txn, &plan, &|_| Ok(()))?;
        let mut replies = Vec::new();
        for op in taken(txn, &plan) {
            let RequestOp::Range(request) = op else {
                panic!("a txn that writes goes through the log");
            };
            replies.push(ReplyOp::Range { revision: self.revision, reply: self.range(request)? });
        }
        Ok(TxnReply { succeeded: plan.succeeded, replies })
    }

    fn put_may_run(&self, leases: &View, request: &PutRequest) -> Result<(), ReadError> {
        if (request.ignore_value || request.ignore_lease)
            && self.live(&KeyRange::single(request.key.clone()), 1, false)?.is_empty()
        {
            return Err(ApiError::KeyNotFound.into());
        }
        if !request.lease.is_none() && leases.get(&lease_key(request.lease))?.is_none() {
            return Err(ApiError::LeaseNotFound.into());
        }
        Ok(())
    }
}

impl Write<'_> {
    pub(super) fn txn(&mut self, txn: &TxnRequest) -> Result<TxnReply, ReadError> {
        let plan = {
            // Dropped before the first write, which would copy what they pin.
            let reads = self.keyspace.reads(self.visible_revision());
            let leases = self.keyspace.leases.view();
            let plan = reads.plan(txn)?;
            reads.preflight(txn, &plan, &|request| reads.put_may_run(&leases, request))?;
            plan
        };
        self.run_txn(txn, &plan)
    }

    fn run_txn(&mut self, txn: &TxnRequest, plan: &Plan) -> Result<TxnReply, ReadError> {
        let mut nested = plan.nested.iter();
        let ops = taken(txn, plan);
        let mut replies = Vec::with_capacity(ops.len());
        for op in ops {
            let reply = match op {
                RequestOp::Range(request) => {
                    let reads = self.keyspace.reads(self.visible_revision());
                    ReplyOp::Range { revision: reads.revision, reply: reads.range(request)? }
                }
                RequestOp::Put(request) => {
                    let reply = self.put(request)?;
                    ReplyOp::Put { revision: self.visible_revision(), reply }
                }
                RequestOp::DeleteRange(request) => {
                    let reply = self.delete_range(request)?;
                    ReplyOp::DeleteRange { revision: self.visible_revision(), reply }
                }
                RequestOp::Txn(txn) => {
                    let plan = nested.next().expect("a plan has one part for each nested txn");
                    ReplyOp::Txn(self.run_txn(txn, plan)?)
                }
            };
            replies.push(reply);
        }
        Ok(TxnReply { succeeded: plan.succeeded, replies })
    }
}
