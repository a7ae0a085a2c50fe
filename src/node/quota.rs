//! How much a keyspace may hold, as etcd counts it: an estimate per write, against the size of
//! the store's file, checked before the log by the member that the client asked.

use crate::types::command::{Command, RequestOp};

/// What etcd adds to every put for keeping it.
const PUT_OVERHEAD_BYTES: u64 = 256;
const LEASE_BYTES: u64 = 64;

/// The bytes a command may add; 0 always passes.
pub fn cost(command: &Command) -> u64 {
    match command {
        Command::Put(put) => put_cost(put.key.len(), put.value.len()),
        Command::Txn(txn) => ops_cost(&txn.success).max(ops_cost(&txn.failure)),
        Command::LeaseGrant { .. } => LEASE_BYTES,
        _ => 0,
    }
}

fn put_cost(key: usize, value: usize) -> u64 {
    PUT_OVERHEAD_BYTES + key as u64 + value as u64
}

fn ops_cost(ops: &[RequestOp]) -> u64 {
    let cost = |op: &RequestOp| match op {
        RequestOp::Put(put) => put_cost(put.key.len(), put.value.len()),
        RequestOp::Txn(txn) => ops_cost(&txn.success).max(ops_cost(&txn.failure)),
        RequestOp::Range(_) | RequestOp::DeleteRange(_) => 0,
    };
    ops.iter().map(cost).sum()
}

/// Whether a command of this cost fits. `quota_bytes` 0 is unlimited (the configuration has
/// turned etcd's 0 into its default by then).
pub fn fits(cost: u64, file_bytes: u64, quota_bytes: u64) -> bool {
    cost == 0 || quota_bytes == 0 || file_bytes.saturating_add(cost) < quota_bytes
}

/// Whether a CORRUPT alarm refuses the command: everything that changes keys or leases, save
/// what keeps a lease alive and what clears alarms.
pub fn changes_data(command: &Command) -> bool {
    match command {
        Command::Put(_)
        | Command::DeleteRange(_)
        | Command::Compact(_)
        | Command::LeaseGrant { .. }
        | Command::LeaseRevoke { .. } => true,
        Command::Txn(txn) => has_write(&txn.success) || has_write(&txn.failure),
        Command::LeaseCheckpoint { .. } | Command::Alarm(_) | Command::PublishMember { .. } => {
            false
        }
    }
}

fn has_write(ops: &[RequestOp]) -> bool {
    ops.iter().any(|op| match op {
        RequestOp::Put(_) | RequestOp::DeleteRange(_) => true,
        RequestOp::Range(_) => false,
        RequestOp::Txn(txn) => has_write(&txn.success) || has_write(&txn.failure),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::command::{PutRequest, TxnRequest};

    #[test]
    fn costs_are_etcds() {
        let put = |n: usize| PutRequest {
            key: vec![b'k'; 3].into(),
            value: vec![b'v'; n].into(),
            ..PutRequest::default()
        };
        assert_eq!(cost(&Command::Put(put(10))), 269);
        let inner = TxnRequest { failure: vec![RequestOp::Put(put(100))], ..TxnRequest::default() };
        let txn = TxnRequest {
            success: vec![RequestOp::Put(put(1)), RequestOp::Put(put(2))],
            failure: vec![RequestOp::Txn(inner), RequestOp::Put(put(500))],
            ..TxnRequest::default()
        };
        assert_eq!(cost(&Command::Txn(txn)), 256 * 2 + 6 + 600);
        assert!(fits(10, 89, 100) && !fits(11, 89, 100) && fits(0, 1000, 100) && fits(9, 9, 0));
    }
}
