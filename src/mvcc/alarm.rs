//! Alarms: which are raised, and what they refuse at apply.

use super::apply::Write;
use super::check::has_put;
use super::key::alarm_key;
use crate::types::command::{AlarmAction, AlarmKind, AlarmRequest, Command};
use crate::types::{ApiError, NodeId, StorageError};
use bytes::Bytes;
use std::collections::BTreeSet;
use std::sync::Arc;

/// The raised alarms, by member.
pub(super) type Alarms = BTreeSet<(NodeId, AlarmKind)>;

/// Whether the raised alarms refuse a command. CORRUPT stops everything that changes keys or
/// leases; NOSPACE stops only what adds data, so that an operator can make room.
pub(super) fn refused(alarms: &Alarms, command: &Command) -> Option<ApiError> {
    if alarms.is_empty() {
        return None;
    }
    let raised = |kind| alarms.iter().any(|alarm| alarm.1 == kind);
    match command {
        Command::Put(_) | Command::Txn(_) | Command::LeaseGrant { .. }
            if raised(AlarmKind::Corrupt) =>
        {
            Some(ApiError::Corrupt)
        }
        Command::DeleteRange(_) | Command::Compact(_) | Command::LeaseRevoke { .. } => {
            raised(AlarmKind::Corrupt).then_some(ApiError::Corrupt)
        }
        Command::Put(_) | Command::LeaseGrant { .. } if raised(AlarmKind::NoSpace) => {
            Some(ApiError::NoSpace)
        }
        Command::Txn(txn) if raised(AlarmKind::NoSpace) && has_put(txn) => Some(ApiError::NoSpace),
        Command::Put(_)
        | Command::Txn(_)
        | Command::LeaseGrant { .. }
        | Command::LeaseCheckpoint { .. }
        | Command::Alarm(_)
        | Command::PublishMember { .. }
        | Command::SetDowngrade { .. }
        | Command::CreateGroup
        | Command::DestroyGroup { .. }
        | Command::Auth(_) => None,
    }
}

/// The raised alarms of one kind, or all.
pub(super) fn list(alarms: &Alarms, kind: Option<AlarmKind>) -> Vec<(NodeId, AlarmKind)> {
    alarms.iter().filter(|alarm| kind.is_none_or(|k| k == alarm.1)).copied().collect()
}

impl Write<'_> {
    pub(super) fn alarm(
        &mut self,
        request: &AlarmRequest,
    ) -> Result<Vec<(NodeId, AlarmKind)>, StorageError> {
        let keyspace = &mut *self.keyspace;
        // etcd's "NONE" names no alarm: only Get knows it.
        let pair = request.kind.map(|kind| (request.member, kind));
        match (request.action, pair) {
            (AlarmAction::Get, _) => Ok(list(&keyspace.alarms, request.kind)),
            (_, None) => Ok(Vec::new()),
            (AlarmAction::Activate, Some(pair)) => {
                if Arc::make_mut(&mut keyspace.alarms).insert(pair) {
                    keyspace.meta.put(&alarm_key(pair.0, pair.1), Bytes::new(), true)?;
                    self.alarm_changed = true;
                }
                Ok(vec![pair])
            }
            (AlarmAction::Deactivate, Some(pair)) => {
                if !Arc::make_mut(&mut keyspace.alarms).remove(&pair) {
                    return Ok(Vec::new());
                }
                keyspace.meta.remove(&alarm_key(pair.0, pair.1))?;
                self.alarm_changed = true;
                Ok(vec![pair])
            }
        }
    }
}
