//! Delete: a tombstone for each live key of a range, in key order.

use super::apply::Write;
use super::range::Versions;
use super::record::{NewRecord, Record};
use crate::types::command::DeleteRangeRequest;
use crate::types::reply::DeleteRangeReply;
use crate::types::{LeaseId, Revision, StorageError};

impl Write<'_> {
    pub(super) fn delete_range(
        &mut self,
        request: &DeleteRangeRequest,
    ) -> Result<DeleteRangeReply, StorageError> {
        // Collected first, and the views dropped: writing under them would copy nodes.
        let heads =
            self.keyspace.reads(self.visible_revision()).live(&request.range, usize::MAX, false)?;
        let mut prev_kvs = Vec::new();
        for head in &heads {
            if request.prev_kv {
                prev_kvs.push(self.keyspace.key_value(head)?);
            }
            self.delete(head)?;
        }
        Ok(DeleteRangeReply { deleted: heads.len() as i64, prev_kvs })
    }

    /// Writes a tombstone over a live head.
    pub(super) fn delete(&mut self, head: &Record) -> Result<(), StorageError> {
        assert!(!head.tombstone(), "only a live key is deleted");
        let new = NewRecord {
            revision: Revision::new(self.main, self.sub),
            create: 0,
            version: 0,
            lease: LeaseId::NONE,
            key: head.key_bytes(),
            value: None,
        };
        self.store(Some(head), &new)?;
        self.detach(head.lease, head.key_bytes())
    }
}
