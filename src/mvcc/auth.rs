//! Users and roles within the keyspace: what they permit at apply, and where they are stored.

use super::apply::{ReadError, Write};
use super::key::META_AUTH;
use super::keyspace::Keyspace;
use super::lease::attached;
use super::view::KeyspaceView;
use crate::types::auth::{AuthCommand, Caller};
use crate::types::command::{Command, TxnRequest};
use crate::types::reply::Reply;
use crate::types::{LeaseId, LogIndex};
use bytes::{BufMut, Bytes, BytesMut};
use std::sync::Arc;

fn stored(row: &[u8]) -> Bytes {
    let mut key = BytesMut::with_capacity(1 + row.len());
    key.put_u8(META_AUTH);
    key.put_slice(row);
    key.freeze()
}

impl Keyspace {
    pub(super) fn permits(
        &self,
        caller: Option<&Caller>,
        command: &Command,
    ) -> Result<(), ReadError> {
        let keys = |id: LeaseId| attached(&self.lease_keys.view(), id);
        Ok(self.auth.check_command(caller, command, &keys)??)
    }
}

impl KeyspaceView {
    /// Whether a caller may read a txn that writes nothing.
    pub fn permits_txn(&self, caller: Option<&Caller>, txn: &TxnRequest) -> Result<(), ReadError> {
        let keys = |id: LeaseId| attached(self.lease_key_tree(), id);
        Ok(self.auth().check_txn(caller, txn, &keys)??)
    }
}

impl Write<'_> {
    pub(super) fn auth(
        &mut self,
        command: &AuthCommand,
        index: LogIndex,
    ) -> Result<Reply, ReadError> {
        let done = Arc::make_mut(&mut self.keyspace.auth).apply(command, index)?;
        for (row, value) in done.rows {
            self.digest.row(&row, value.as_deref());
            let row = stored(&row);
            match value {
                Some(value) => self.keyspace.meta.put(&row, value, true)?,
                None => self.keyspace.meta.remove(&row)?,
            };
            self.auth_changed = true;
        }
        self.tokens = done.tokens;
        Ok(done.reply)
    }
}
