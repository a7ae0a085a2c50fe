//! Who may ask for what.
//!
//! The refusals and their order are etcd's (server/auth/store.go, server/etcdserver/apply/auth.go
//! of 3.6): nobody named, then an old revision, then an unknown user, then the range.

use super::state::AuthState;
use crate::types::auth::{AuthCommand, Caller, ROOT};
use crate::types::command::{
    Command, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest,
};
use crate::types::{ApiError, KeyRange, LeaseId, StorageError};
use bytes::Bytes;

/// What a request wants to do with a range of keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    Read,
    Write,
}

/// Tells the keys that are attached to a lease; none for one that does not exist.
pub type LeaseKeys<'a> = &'a dyn Fn(LeaseId) -> Result<Vec<Bytes>, StorageError>;

/// A check that has to look at leases may meet a damaged store.
pub type Checked = Result<Result<(), ApiError>, StorageError>;

/// Goes on only after a check that found nothing.
macro_rules! passed {
    ($check:expr) => {
        if let Err(error) = $check {
            return Ok(Err(error));
        }
    };
}

impl AuthState {
    /// One range of keys.
    pub fn check_range(
        &self,
        caller: Option<&Caller>,
        need: Need,
        range: &KeyRange,
    ) -> Result<(), ApiError> {
        if !self.is_enabled() {
            return Ok(());
        }
        let Some(caller) = caller.filter(|caller| caller.auth_revision > 0) else {
            return Err(ApiError::UserEmpty);
        };
        if caller.auth_revision < self.revision() {
            return Err(ApiError::AuthOldRevision);
        }
        let Some(user) = self.user(&caller.user) else { return Err(ApiError::PermissionDenied) };
        let permitted = user.has_role(ROOT)
            || match need {
                Need::Read => user.rights.read(range),
                Need::Write => user.rights.write(range),
            };
        if permitted { Ok(()) } else { Err(ApiError::PermissionDenied) }
    }

    /// What only the root role may ask.
    pub fn check_admin(&self, caller: Option<&Caller>) -> Result<(), ApiError> {
        if !self.is_enabled() {
            return Ok(());
        }
        let Some(caller) = caller.filter(|caller| !caller.user.is_empty()) else {
            return Err(ApiError::UserEmpty);
        };
        let user = self.user(&caller.user).ok_or(ApiError::UserNotFound)?;
        if user.has_role(ROOT) { Ok(()) } else { Err(ApiError::PermissionDenied) }
    }

    /// What any user may ask.
    pub fn check_known(&self, caller: Option<&Caller>) -> Result<(), ApiError> {
        if self.is_enabled() && caller.is_none() { Err(ApiError::UserEmpty) } else { Ok(()) }
    }

    /// A user may look at itself, and root at everybody.
    pub fn check_user_get(&self, caller: Option<&Caller>, user: &str) -> Result<(), ApiError> {
        let itself = caller.is_some_and(|caller| caller.user == user);
        if itself { Ok(()) } else { self.check_admin(caller) }
    }

    /// A user may look at the roles it has, and root at all.
    pub fn check_role_get(&self, caller: Option<&Caller>, role: &str) -> Result<(), ApiError> {
        let user = caller.and_then(|caller| self.user(&caller.user));
        if user.is_some_and(|user| user.has_role(role)) {
            return Ok(());
        }
        self.check_admin(caller)
    }

    /// Every key of a lease.
    pub fn check_lease(
        &self,
        caller: Option<&Caller>,
        need: Need,
        keys: impl FnOnce() -> Result<Vec<Bytes>, StorageError>,
    ) -> Checked {
        // No need to look them up for most.
        if self.check_admin(caller).is_ok() {
            return Ok(Ok(()));
        }
        for key in keys()? {
            passed!(self.check_range(caller, need, &KeyRange::single(key)));
        }
        Ok(Ok(()))
    }

    /// A read of a range.
    pub fn check_read(
        &self,
        caller: Option<&Caller>,
        request: &RangeRequest,
    ) -> Result<(), ApiError> {
        self.check_range(caller, Need::Read, &request.range)
    }

    /// A command, at apply. What the members ask among themselves needs no caller: it is told by
    /// its form (an expiry has its leader's term), which clients have no way to send.
    pub fn check_command(
        &self,
        caller: Option<&Caller>,
        command: &Command,
        keys: LeaseKeys<'_>,
    ) -> Checked {
        if !self.is_enabled() {
            return Ok(Ok(()));
        }
        match command {
            Command::Put(put) => self.check_put(caller, put, keys),
            Command::DeleteRange(delete) => Ok(self.check_delete(caller, delete)),
            Command::Txn(txn) => self.check_txn(caller, txn, keys),
            Command::LeaseRevoke { ids, leader: None } => {
                for id in ids {
                    passed!(self.check_lease(caller, Need::Write, || keys(*id))?);
                }
                Ok(Ok(()))
            }
            Command::Auth(AuthCommand::Authenticate { .. }) => Ok(Ok(())),
            Command::Auth(_) | Command::Compact(_) => Ok(self.check_admin(caller)),
            // Any user may; the member that took it has checked that there is one.
            Command::LeaseGrant { .. } => Ok(Ok(())),
            Command::LeaseRevoke { leader: Some(_), .. }
            | Command::LeaseCheckpoint { .. }
            | Command::Alarm(_)
            | Command::PublishMember { .. }
            | Command::SetDowngrade { .. }
            | Command::CreateGroup
            | Command::DestroyGroup { .. } => Ok(Ok(())),
        }
    }

    fn check_put(&self, caller: Option<&Caller>, put: &PutRequest, keys: LeaseKeys<'_>) -> Checked {
        let range = KeyRange::single(put.key.clone());
        passed!(self.check_range(caller, Need::Write, &range));
        if !put.lease.is_none() {
            // Who could not revoke the lease may not attach to it either.
            passed!(self.check_lease(caller, Need::Write, || keys(put.lease))?);
        }
        if put.prev_kv {
            passed!(self.check_range(caller, Need::Read, &range));
        }
        Ok(Ok(()))
    }

    fn check_delete(
        &self,
        caller: Option<&Caller>,
        delete: &DeleteRangeRequest,
    ) -> Result<(), ApiError> {
        self.check_range(caller, Need::Write, &delete.range)?;
        if delete.prev_kv {
            self.check_range(caller, Need::Read, &delete.range)?;
        }
        Ok(())
    }

    /// Compares and both branches, at every depth: what is not taken today may be taken tomorrow.
    pub fn check_txn(
        &self,
        caller: Option<&Caller>,
        txn: &TxnRequest,
        keys: LeaseKeys<'_>,
    ) -> Checked {
        for compare in &txn.compare {
            passed!(self.check_range(caller, Need::Read, &compare.range));
        }
        for op in txn.success.iter().chain(&txn.failure) {
            passed!(match op {
                RequestOp::Range(range) => self.check_read(caller, range),
                RequestOp::Put(put) => self.check_put(caller, put, keys)?,
                RequestOp::DeleteRange(delete) => self.check_delete(caller, delete),
                RequestOp::Txn(nested) => self.check_txn(caller, nested, keys)?,
            });
        }
        Ok(Ok(()))
    }
}
