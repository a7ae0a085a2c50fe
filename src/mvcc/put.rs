//! Put: one new version of one key.

use super::apply::{ReadError, Write};
use super::key::attachment_key;
use super::range::Versions;
use super::record::NewRecord;
use crate::types::command::PutRequest;
use crate::types::reply::PutReply;
use crate::types::{ApiError, LeaseId, Revision, StorageError};
use bytes::Bytes;

impl Write<'_> {
    /// What must hold before a put outside a txn is applied. In a txn the pre-flight does it.
    pub(super) fn check_put(&self, request: &PutRequest) -> Result<(), ReadError> {
        if !request.lease.is_none() && !self.keyspace.has_lease(request.lease)? {
            return Err(ApiError::LeaseNotFound.into());
        }
        if (request.ignore_value || request.ignore_lease)
            && self.keyspace.head(&request.key)?.is_none_or(|head| head.tombstone())
        {
            return Err(ApiError::KeyNotFound.into());
        }
        Ok(())
    }

    pub(super) fn put(&mut self, request: &PutRequest) -> Result<PutReply, StorageError> {
        let head = self.keyspace.head(&request.key)?;
        let live = head.as_ref().filter(|head| !head.tombstone());
        let old_lease = live.map_or(LeaseId::NONE, |head| head.lease);
        let lease = if request.ignore_lease { old_lease } else { request.lease };
        let kept;
        let value: &[u8] = match live {
            Some(head) if request.ignore_value => {
                kept = self.keyspace.value_of(head)?;
                &kept
            }
            _ => &request.value,
        };
        let prev_kv = match live {
            Some(head) if request.prev_kv => Some(self.keyspace.key_value(head)?),
            _ => None,
        };
        let new = NewRecord {
            revision: Revision::new(self.main, self.sub),
            create: live.map_or(self.main, |head| head.create),
            version: live.map_or(1, |head| head.version + 1),
            lease,
            key: &request.key,
            value: Some(value),
        };
        self.store(head.as_ref(), &new)?;
        if lease != old_lease {
            self.detach(old_lease, &request.key)?;
            self.attach(lease, &request.key)?;
        }
        Ok(PutReply { prev_kv })
    }

    pub(super) fn attach(&mut self, lease: LeaseId, key: &[u8]) -> Result<(), StorageError> {
        if !lease.is_none() {
            let key = attachment_key(lease, key);
            self.keyspace.lease_keys.put(&key, Bytes::new(), true)?;
        }
        Ok(())
    }

    pub(super) fn detach(&mut self, lease: LeaseId, key: &[u8]) -> Result<(), StorageError> {
        if !lease.is_none() {
            // A raft snapshot brings both sides of this, so a mismatch is damage, not a bug here.
            if self.keyspace.lease_keys.remove(&attachment_key(lease, key))?.is_none() {
                let expected = format!("an attachment of lease {lease}");
                return Err(StorageError::corrupt("keyspace", 0, expected, "none"));
            }
        }
        Ok(())
    }
}
