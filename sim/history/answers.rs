//! Answers against the log: each at its own position, and that position in real time.

use super::{Answer, Call, Done, Keyspace, Open, unique_value};
use crate::safety::{Checked, broken, ensure};
use quorate::types::command::AlarmKind;
use quorate::types::reply::Reply;
use quorate::types::{ApiError, Command};

impl Keyspace {
    pub(super) fn failed(
        &mut self,
        open: &Open,
        error: &ApiError,
        never: bool,
        quota: bool,
    ) -> Checked {
        let alarm = match error {
            ApiError::NoSpace if !quota => Some(AlarmKind::NoSpace),
            ApiError::Corrupt => Some(AlarmKind::Corrupt),
            _ => None,
        };
        ensure!(
            alarm.is_none_or(|kind| self.alarmed.contains(&kind)),
            "wrong-alarm",
            "group {}: {:?} is refused with {error:?}, and nobody has raised that alarm",
            open.group,
            open.call
        );
        if let (true, Call::Write(command)) = (never, &open.call)
            && let Some(value) = unique_value(command)
        {
            ensure!(
                !self.done.contains(value),
                "refused-but-done",
                "group {}: {command:?} is refused with {error:?}, and is in the log",
                open.group
            );
            self.refused.insert(value.clone());
        }
        if let Call::Write(command) = &open.call
            && is_verdict(error)
            && !never
        {
            return self.rejected(open, command, error);
        }
        match (&open.call, error) {
            (Call::Range(r), ApiError::FutureRevision) => ensure!(
                r.revision > open.floor.revision,
                "linearizable-read",
                "group {}: revision {} is refused as future, {} had been answered before",
                open.group,
                r.revision,
                open.floor.revision
            ),
            (Call::Range(r), ApiError::Compacted) => ensure!(
                r.revision < self.model.compacted(),
                "linearizable-read",
                "group {}: revision {} is refused as compacted, the compaction is at {}",
                open.group,
                r.revision,
                self.model.compacted()
            ),
            _ => {}
        }
        Ok(())
    }

    /// A write that the state machine refused: its command is in the log, with that verdict.
    fn rejected(&mut self, open: &Open, command: &Command, error: &ApiError) -> Checked {
        let found = self
            .positions
            .range(open.floor.index.next()..)
            .find(|(index, there)| {
                there.outcome.reply.as_ref() == Err(error)
                    && same_command(command, &there.command)
                    && there.caller == open.caller
                    && !self.claimed.contains(index)
            })
            .map(|(index, _)| *index);
        let Some(index) = found else {
            return broken!(
                "wrong-verdict",
                format!(
                    "group {}: {command:?} is answered {error:?}, which the log does not say                          behind {}",
                    open.group, open.floor.index
                ),
            );
        };
        self.claimed.insert(index);
        self.floor.index = self.floor.index.max(index);
        Ok(())
    }

    pub(super) fn answered(&mut self, now_us: u64, open: &Open, answer: Answer) -> Checked {
        let group = open.group;
        match (&open.call, answer) {
            (Call::Write(sent), Answer::Wrote { reply, revision, index }) => {
                let Some(Done { caller, command, outcome }) = self.positions.get(&index) else {
                    ensure!(
                        false,
                        "acked-not-committed",
                        "group {group}: {sent:?} is answered for {index}, not committed"
                    );
                    return Ok(());
                };
                ensure!(
                    self.claimed.insert(index),
                    "answered-twice",
                    "group {group} index {index}: two calls were answered for it, {sent:?} now"
                );
                ensure!(
                    same_command(sent, command),
                    "wrong-command",
                    "group {group} index {index}: sent {sent:?}, committed {command:?}"
                );
                ensure!(
                    index > open.floor.index,
                    "real-time-order",
                    "group {group}: {sent:?} is at {index}, {} had been answered before it began",
                    open.floor.index
                );
                ensure!(
                    *caller == open.caller,
                    "wrong-caller",
                    "group {group} index {index}: {sent:?} was asked by {:?}, and is committed on \
                     behalf of {caller:?}",
                    open.caller
                );
                self.told_by_right(group, caller.as_ref(), index, &reply)?;
                ensure!(
                    outcome.reply == reply && outcome.revision == revision,
                    "wrong-reply",
                    "group {group} index {index}: {sent:?} is answered at revision {revision}\n  \
                     with     {reply:?}\n  expected {:?} at {}",
                    outcome.reply,
                    outcome.revision
                );
                if let Ok(Reply::LeaseGrant { id, ttl_seconds }) = &reply {
                    self.leases.told_alive(now_us, *id, open.started_us, *ttl_seconds)?;
                }
                self.floor.index = self.floor.index.max(index);
                self.floor.revision = self.floor.revision.max(revision);
                if let (Command::Compact(c), Ok(_)) = (command, &reply) {
                    self.floor.compacted = self.floor.compacted.max(c.revision);
                }
                Ok(())
            }
            (Call::Range(request), Answer::Range { reply, revision }) => {
                self.check_read(open, request.serializable, revision)?;
                ensure!(
                    request.revision <= revision,
                    "read-future",
                    "group {group}: revision {} is served at {revision}",
                    request.revision
                );
                ensure!(
                    request.revision <= 0
                        || request.serializable
                        || request.revision >= open.floor.compacted,
                    "read-compacted",
                    "group {group}: revision {} is served, {} had been compacted before",
                    request.revision,
                    open.floor.compacted
                );
                let expected = self.model.range_at(request, revision);
                ensure!(
                    reply == expected,
                    "wrong-read",
                    "group {group}: {request:?} at revision {revision}\n  answered {reply:?}\n  \
                     expected {expected:?}"
                );
                Ok(())
            }
            (Call::ReadTxn(request), Answer::ReadTxn { reply, revision }) => {
                self.check_read(open, open.call.is_serializable(), revision)?;
                let expected = self.model.read_txn_at(request, revision);
                ensure!(
                    reply == expected,
                    "wrong-read",
                    "group {group}: {request:?} at revision {revision}\n  answered {reply:?}\n  \
                     expected {expected:?}"
                );
                Ok(())
            }
            (Call::KeepAlive(id), Answer::KeptAlive { ttl_seconds }) => {
                let floor = open.floor.index;
                if ttl_seconds > 0 {
                    self.leases.lives(group, *id, floor)?;
                    self.leases.told_alive(now_us, *id, open.started_us, ttl_seconds)
                } else {
                    self.leases.is_gone(now_us, group, *id, floor)
                }
            }
            (Call::LeaseTtl(id), Answer::LeaseTtl { granted_seconds, remaining_seconds }) => {
                let floor = open.floor.index;
                if remaining_seconds < 0 {
                    return self.leases.is_gone(now_us, group, *id, floor);
                }
                self.leases.lives(group, *id, floor)?;
                let asked_us = open.started_us;
                let (granted, left) = (granted_seconds, remaining_seconds);
                self.leases.time_left(now_us, asked_us, group, *id, granted, left)
            }
            (Call::Leases, Answer::Leases { leases, applied }) => {
                ensure!(
                    applied >= open.floor.index,
                    "linearizable-read",
                    "group {group}: leases are listed as of {applied}, {} had been answered before",
                    open.floor.index
                );
                let ids: Vec<_> = leases.iter().map(|lease| lease.0).collect();
                self.leases.listed(group, &ids, applied)
            }
            (call, answer) => broken!("wrong-kind", format!("{call:?} is answered {answer:?}")),
        }
    }

    fn check_read(&mut self, open: &Open, serializable: bool, revision: i64) -> Checked {
        ensure!(
            revision <= self.model.revision(),
            "read-uncommitted",
            "group {}: a read at revision {revision}, {} is committed",
            open.group,
            self.model.revision()
        );
        if !serializable {
            ensure!(
                revision >= open.floor.revision,
                "linearizable-read",
                "group {}: {:?} reads revision {revision}, {} had been answered before it began",
                open.group,
                open.call,
                open.floor.revision
            );
        }
        // What a serializable read has shown is no promise to others; a linearizable one is.
        if !serializable {
            self.floor.revision = self.floor.revision.max(revision);
        }
        Ok(())
    }
}

/// Errors that only the state machine gives: the command went through the log.
fn is_verdict(error: &ApiError) -> bool {
    matches!(
        error,
        ApiError::KeyNotFound
            | ApiError::LeaseNotFound
            | ApiError::LeaseExists
            | ApiError::Compacted
            | ApiError::FutureRevision
            | ApiError::AuthFailed
            | ApiError::AuthNotEnabled
            | ApiError::InvalidAuthManagement
            | ApiError::PermissionNotGranted
            | ApiError::RoleEmpty
            | ApiError::RoleExists
            | ApiError::RoleNotFound
            | ApiError::RoleNotGranted
            | ApiError::RootRoleNotExist
            | ApiError::RootUserNotExist
            | ApiError::UserExists
    ) || is_refusal(error)
}

/// What somebody is told who may not do what was asked. By the log, or by a member's own state
/// before anything gets there (then it is for good: `never`).
pub fn is_refusal(error: &ApiError) -> bool {
    matches!(
        error,
        ApiError::PermissionDenied
            | ApiError::AuthOldRevision
            | ApiError::UserEmpty
            | ApiError::UserNotFound
    )
}

/// The committed command is the sent one, but for what the member fills in: a drawn lease id and a
/// TTL raised to the least one.
pub(super) fn same_command(sent: &Command, committed: &Command) -> bool {
    match (sent, committed) {
        (
            Command::LeaseGrant { id: a, ttl_seconds: t },
            Command::LeaseGrant { id: b, ttl_seconds: u },
        ) => (a == b || a.is_none()) && u >= t,
        _ => sent == committed,
    }
}
