//! Leases as replicated state: what was granted, what is attached. When a lease expires is the
//! leader's to say; nothing here reads a clock.

use super::apply::{ApplyContext, LeaseChange, ReadError, Write};
use super::key::{lease_key, lease_of};
use super::keyspace::Keyspace;
use super::record::{Scan, put_varint, zigzag};
use super::view::KeyspaceView;
use crate::btree::View;
use crate::types::command::LeaseLeader;
use crate::types::limits::LEASE_TTL_SECONDS_MAX;
use crate::types::{ApiError, LeaseId, LogIndex, StorageError};
use bytes::Bytes;

/// A granted lease.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeaseInfo {
    pub id: LeaseId,
    /// As granted.
    pub ttl_seconds: i64,
    /// The last checkpoint's remainder; 0 when none counts.
    pub remaining_seconds: i64,
    /// The entry that granted it. Zero where that was not kept; of another log where the keyspace
    /// was restored since.
    pub granted: LogIndex,
    /// Attached keys in key order; filled only where asked for.
    pub keys: Vec<Bytes>,
}

impl LeaseInfo {
    /// Whether whoever speaks in the entry `at` can have meant this lease. (Granted behind the
    /// entry itself: in another log, before this one began.)
    fn is_known_to(&self, leader: Option<LeaseLeader>, at: &ApplyContext) -> bool {
        leader.is_none_or(|leader| self.granted <= leader.applied || self.granted > at.index)
    }

    fn encode(&self) -> Bytes {
        let mut out = Vec::with_capacity(16);
        put_varint(&mut out, zigzag(self.ttl_seconds));
        put_varint(&mut out, zigzag(self.remaining_seconds));
        put_varint(&mut out, self.granted.0);
        Bytes::from(out)
    }
    fn decode(id: LeaseId, value: &[u8]) -> Result<LeaseInfo, StorageError> {
        let mut scan = Scan { bytes: value, at: 0 };
        let (ttl, remaining) = (scan.signed(), scan.signed());
        // Rows of before end here.
        let granted = if scan.at == value.len() { Some(0) } else { scan.varint() };
        match (ttl, remaining, granted) {
            (Some(ttl_seconds), Some(remaining_seconds), Some(granted)) => {
                let granted = LogIndex(granted);
                Ok(LeaseInfo { id, ttl_seconds, remaining_seconds, granted, keys: Vec::new() })
            }
            _ => Err(StorageError::corrupt("keyspace", 0, "a lease", "other bytes")),
        }
    }
}

/// The keys attached to a lease, in key order.
pub(super) fn attached(lease_keys: &View, id: LeaseId) -> Result<Vec<Bytes>, StorageError> {
    let prefix = lease_key(id);
    let mut cursor = lease_keys.cursor();
    cursor.seek(&prefix)?;
    let mut keys = Vec::new();
    while let Some((key, _, _)) = cursor.next()? {
        if !key.starts_with(&prefix) {
            break;
        }
        keys.push(key.slice(prefix.len()..));
    }
    Ok(keys)
}

impl Keyspace {
    pub(super) fn has_lease(&self, id: LeaseId) -> Result<bool, StorageError> {
        Ok(self.leases.get(&lease_key(id))?.is_some())
    }
    fn lease(&self, id: LeaseId) -> Result<Option<LeaseInfo>, StorageError> {
        let item = self.leases.get(&lease_key(id))?;
        item.map(|item| LeaseInfo::decode(id, &item.value)).transpose()
    }
}

impl KeyspaceView {
    /// Every lease, by id, without keys: what a new leader's expiry clock starts from.
    pub fn leases(&self) -> Result<Vec<LeaseInfo>, StorageError> {
        let mut cursor = self.lease_tree().cursor();
        cursor.seek_first()?;
        let mut leases = Vec::new();
        while let Some((key, value, _)) = cursor.next()? {
            let id = lease_of(&key)
                .ok_or_else(|| StorageError::corrupt("keyspace", 0, "a lease id", "other bytes"))?;
            leases.push(LeaseInfo::decode(id, &value)?);
        }
        leases.sort_by_key(|lease| lease.id);
        Ok(leases)
    }

    /// One lease, with its keys when asked for.
    pub fn lease(&self, id: LeaseId, with_keys: bool) -> Result<Option<LeaseInfo>, StorageError> {
        let Some(item) = self.lease_tree().get(&lease_key(id))? else { return Ok(None) };
        let mut lease = LeaseInfo::decode(id, &item.value)?;
        if with_keys {
            lease.keys = attached(self.lease_key_tree(), id)?;
        }
        Ok(Some(lease))
    }
}

impl Write<'_> {
    /// The node has drawn the id and raised the TTL to its minimum.
    pub(super) fn lease_grant(
        &mut self,
        id: LeaseId,
        ttl_seconds: i64,
        at: &ApplyContext,
    ) -> Result<(), ReadError> {
        if id.is_none() {
            return Err(ApiError::LeaseNotFound.into());
        }
        if ttl_seconds > LEASE_TTL_SECONDS_MAX {
            return Err(ApiError::LeaseTtlTooLarge.into());
        }
        if self.keyspace.has_lease(id)? {
            return Err(ApiError::LeaseExists.into());
        }
        let lease = LeaseInfo { id, ttl_seconds, granted: at.index, ..LeaseInfo::default() };
        self.keyspace.leases.put(&lease_key(id), lease.encode(), true)?;
        self.lease_change(LeaseChange::Granted { id, ttl_seconds });
        Ok(())
    }

    /// A client's revoke names a lease that must exist. An expiry may be late: leases that are
    /// gone are passed over, and so are those that have come since (`LeaseLeader`).
    pub(super) fn lease_revoke(
        &mut self,
        ids: &[LeaseId],
        leader: Option<LeaseLeader>,
        at: &ApplyContext,
    ) -> Result<(), ReadError> {
        match leader {
            Some(LeaseLeader { term, .. }) if term != at.term => {
                return Err(ApiError::NotLeader.into());
            }
            Some(_) => {}
            None => {
                for id in ids {
                    if !self.keyspace.has_lease(*id)? {
                        return Err(ApiError::LeaseNotFound.into());
                    }
                }
            }
        }
        for id in ids {
            let meant = self.keyspace.lease(*id)?.filter(|lease| lease.is_known_to(leader, at));
            if meant.is_none() {
                continue;
            }
            self.keyspace.leases.remove(&lease_key(*id))?;
            self.end_revision();
            for key in attached(&self.keyspace.lease_keys.view(), *id)? {
                match self.keyspace.head(&key)? {
                    Some(head) if !head.tombstone() && head.lease == *id => self.delete(&head)?,
                    _ => {
                        let expected = format!("a live key with lease {id}");
                        let found = "another key, or none";
                        return Err(StorageError::corrupt("keyspace", 0, expected, found).into());
                    }
                }
            }
            self.lease_change(LeaseChange::Revoked { id: *id });
        }
        Ok(())
    }

    /// As with an expiry: who is not meant is passed over, a deposed leader is refused.
    pub(super) fn lease_checkpoint(
        &mut self,
        remaining: &[(LeaseId, i64)],
        leader: Option<LeaseLeader>,
        at: &ApplyContext,
    ) -> Result<(), ReadError> {
        if leader.is_some_and(|leader| leader.term != at.term) {
            return Err(ApiError::NotLeader.into());
        }
        for (id, remaining_seconds) in remaining {
            let meant = self.keyspace.lease(*id)?.filter(|lease| lease.is_known_to(leader, at));
            let Some(mut lease) = meant else { continue };
            lease.remaining_seconds = *remaining_seconds;
            self.keyspace.leases.put(&lease_key(*id), lease.encode(), true)?;
            self.lease_change(LeaseChange::Checkpoint {
                id: *id,
                remaining_seconds: *remaining_seconds,
            });
        }
        Ok(())
    }

    fn lease_change(&mut self, change: LeaseChange) {
        self.digest.lease(&change);
        self.lease_changes.push(change);
    }
}
