//! Who may do what, at one state of users and roles: by trying every key that matters.
//!
//! Whether a user may touch a key can change only where one of its ranges begins or ends. So a
//! range is permitted when its first key is, and each such place inside of it, and the place
//! behind all keys if it has no end. That is quadratic, and shares no arithmetic with the
//! product's union of intervals. The refusals and their order are etcd's (`server/auth`,
//! `server/etcdserver/apply`): nobody named, an old revision, an unknown user, the range.

use super::users::Users;
use bytes::Bytes;
use quorate::types::auth::{AuthCommand, Caller, Permission, ROOT};
use quorate::types::command::{DeleteRangeRequest, PutRequest, RequestOp, TxnRequest};
use quorate::types::{ApiError, Command, KeyRange, LeaseId};

pub type Verdict = Result<(), ApiError>;

/// What somebody wants to do with keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    Read,
    Write,
}

/// Tells the keys on a lease.
pub type KeysOf<'k> = &'k dyn Fn(LeaseId) -> Vec<Bytes>;

/// Where a range stops to hold keys, unless it goes on for ever.
fn stop(range: &KeyRange) -> Option<Bytes> {
    if range.end.as_ref() == [0] {
        return None;
    }
    if !range.end.is_empty() {
        return Some(range.end.clone());
    }
    let next: Vec<u8> = range.key.iter().copied().chain([0]).collect();
    Some(Bytes::from(next))
}

fn holds(range: &KeyRange, key: &Bytes) -> bool {
    range.key <= *key && stop(range).is_none_or(|stop| *key < stop)
}

/// Whether these ranges together hold all of one. Of a range that holds nothing its first key
/// counts, as for etcd.
fn hold_all(granted: &[&KeyRange], asked: &KeyRange) -> bool {
    let mut places = vec![asked.key.clone()];
    for range in granted {
        places.extend([Some(range.key.clone()), stop(range)].into_iter().flatten());
    }
    let behind_all = stop(asked).is_some() || granted.iter().any(|range| stop(range).is_none());
    behind_all
        && places
            .iter()
            .filter(|place| **place == asked.key || holds(asked, place))
            .all(|place| granted.iter().any(|range| holds(range, place)))
}

impl Users {
    fn is_root(&self, user: &str) -> bool {
        self.users.get(user).is_some_and(|user| user.roles.contains(ROOT))
    }

    /// One range of keys.
    pub fn range(&self, caller: Option<&Caller>, wish: Wish, range: &KeyRange) -> Verdict {
        if !self.enabled {
            return Ok(());
        }
        let caller = match caller {
            Some(caller) if caller.auth_revision != 0 => caller,
            _ => return Err(ApiError::UserEmpty),
        };
        if caller.auth_revision < self.revision() {
            return Err(ApiError::AuthOldRevision);
        }
        let Some(user) = self.users.get(&caller.user) else {
            return Err(ApiError::PermissionDenied);
        };
        let grants = |p: &&Permission| match wish {
            Wish::Read => p.kind.reads(),
            Wish::Write => p.kind.writes(),
        };
        let roles = user.roles.iter().filter_map(|role| self.roles.get(role));
        let granted: Vec<&KeyRange> = roles.flatten().filter(grants).map(|p| &p.range).collect();
        let permitted = self.is_root(&caller.user) || hold_all(&granted, range);
        if permitted { Ok(()) } else { Err(ApiError::PermissionDenied) }
    }

    /// What only root may: whatever the revision, as in etcd.
    pub fn admin(&self, caller: Option<&Caller>) -> Verdict {
        let name = caller.map_or("", |caller| caller.user.as_str());
        match name {
            _ if !self.enabled => Ok(()),
            "" => Err(ApiError::UserEmpty),
            _ if !self.users.contains_key(name) => Err(ApiError::UserNotFound),
            _ if !self.is_root(name) => Err(ApiError::PermissionDenied),
            _ => Ok(()),
        }
    }

    /// What anybody may who says a name.
    pub fn known(&self, caller: Option<&Caller>) -> Verdict {
        if self.enabled && caller.is_none() { Err(ApiError::UserEmpty) } else { Ok(()) }
    }

    /// Each of these keys, which are on a lease; root need not be of today.
    pub fn keys(&self, caller: Option<&Caller>, wish: Wish, keys: &[Bytes]) -> Verdict {
        if self.admin(caller).is_ok() {
            return Ok(());
        }
        keys.iter().try_for_each(|key| self.range(caller, wish, &KeyRange::single(key.clone())))
    }

    /// A command of the log.
    pub fn command(&self, caller: Option<&Caller>, command: &Command, on: KeysOf<'_>) -> Verdict {
        match command {
            _ if !self.enabled => Ok(()),
            Command::Put(put) => self.put(caller, put, on),
            Command::DeleteRange(delete) => self.delete(caller, delete),
            Command::Txn(txn) => self.txn(caller, txn, on),
            Command::LeaseRevoke { ids, leader: None } => {
                ids.iter().try_for_each(|id| self.keys(caller, Wish::Write, &on(*id)))
            }
            Command::Auth(AuthCommand::Authenticate { .. }) => Ok(()),
            Command::Auth(_) | Command::Compact(_) => self.admin(caller),
            // Members' own, and what their API has looked at before.
            Command::LeaseRevoke { .. }
            | Command::LeaseGrant { .. }
            | Command::LeaseCheckpoint { .. }
            | Command::Alarm(_)
            | Command::PublishMember { .. }
            | Command::SetDowngrade { .. }
            | Command::CreateGroup
            | Command::DestroyGroup { .. } => Ok(()),
        }
    }

    /// Who may not revoke a lease may not attach to it; who asks for the pair before reads it.
    fn put(&self, caller: Option<&Caller>, put: &PutRequest, on: KeysOf<'_>) -> Verdict {
        let key = KeyRange::single(put.key.clone());
        self.range(caller, Wish::Write, &key)?;
        if put.lease != LeaseId::NONE {
            self.keys(caller, Wish::Write, &on(put.lease))?;
        }
        if put.prev_kv { self.range(caller, Wish::Read, &key) } else { Ok(()) }
    }

    fn delete(&self, caller: Option<&Caller>, delete: &DeleteRangeRequest) -> Verdict {
        self.range(caller, Wish::Write, &delete.range)?;
        if delete.prev_kv { self.range(caller, Wish::Read, &delete.range) } else { Ok(()) }
    }

    /// Whatever it may come to do: compares, and both branches.
    pub fn txn(&self, caller: Option<&Caller>, txn: &TxnRequest, on: KeysOf<'_>) -> Verdict {
        for compare in &txn.compare {
            self.range(caller, Wish::Read, &compare.range)?;
        }
        for op in txn.success.iter().chain(&txn.failure) {
            match op {
                RequestOp::Range(range) => self.range(caller, Wish::Read, &range.range)?,
                RequestOp::Put(put) => self.put(caller, put, on)?,
                RequestOp::DeleteRange(delete) => self.delete(caller, delete)?,
                RequestOp::Txn(inner) => self.txn(caller, inner, on)?,
            }
        }
        Ok(())
    }
}

/// Vectors of etcd's answers.
pub(super) fn self_check() {
    let range = |text: &str| match text.split_once("..") {
        None => KeyRange::single(text.to_owned()),
        Some((from, "")) => KeyRange::new(from.to_owned(), vec![0]),
        Some((from, to)) => KeyRange::new(from.to_owned(), to.to_owned()),
    };
    for (granted, asked, permitted) in [
        ("b..d", "b", true),
        ("b..d", "d", false),
        ("b..d", "b..d", true),
        ("b..d", "b..e", false),
        ("b..d", "a..c", false),
        ("b..d d..f", "b..f", true),
        ("b..d e..f", "b..f", false),
        ("b..", "c..", true),
        ("b..z", "c..", false),
        ("b..d c..", "b..", true),
        ("b", "b", true),
        ("b", "b\0", false),
        ("b", "b..b\0", true),
        ("b", "b..c", false),
        ("b b\0..c", "b..c", true),
        // Nothing lies in the range: who has its first key may ask.
        ("c..d", "c..a", true),
        ("a..b", "c..a", false),
        ("", "a", false),
    ] {
        let granted: Vec<KeyRange> = granted.split_whitespace().map(range).collect();
        let granted: Vec<&KeyRange> = granted.iter().collect();
        assert_eq!(hold_all(&granted, &range(asked)), permitted, "{granted:?} and {asked:?}");
    }
}
