//! How much a keyspace may hold, as etcd counts it: an estimate per write (`mvcc::quota_cost`)
//! against the size of the store's file, checked before the log by the member the client asked.

use crate::types::command::{Command, RequestOp};

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
        Command::LeaseCheckpoint { .. }
        | Command::Alarm(_)
        | Command::PublishMember { .. }
        | Command::SetDowngrade { .. }
        | Command::CreateGroup
        | Command::DestroyGroup { .. }
        | Command::Auth(_) => false,
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

    #[test]
    fn the_bound_is_strict_and_free_commands_pass() {
        assert!(fits(10, 89, 100) && !fits(10, 90, 100));
        assert!(fits(0, 1000, 100) && fits(9, 1000, 0));
    }
}
