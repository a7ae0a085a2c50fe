//! Apply: one command in, its outcome out.

use super::alarm;
use super::hash::Digest;
use super::key::revision_key;
use super::keyspace::Keyspace;
use super::range::Versions;
use super::record::{NewRecord, Record};
use crate::types::auth::{Caller, TokenChange};
use crate::types::command::Command;
use crate::types::reply::{Event, EventKind, KeyValue, Reply};
use crate::types::{ApiError, LeaseId, LogIndex, Revision, StorageError, Term};

/// Where in the log a command stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ApplyContext {
    pub index: LogIndex,
    pub term: Term,
}

/// The outcome of one command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// An error means that nothing was written.
    pub reply: Result<Reply, ApiError>,
    /// The newest revision after the command: the response header's.
    pub revision: i64,
    /// Every change in (main, sub) order. `prev_kv` is the key's version before the change's
    /// main revision (etcd's rule: what an earlier change of the same revision made is no
    /// previous version), where known.
    pub events: Vec<Event>,
    pub lease_changes: Vec<LeaseChange>,
    pub alarm_changed: bool,
    /// What members must do about the tokens they remember.
    pub tokens: Vec<TokenChange>,
}

/// What the leader's expiry clock has to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseChange {
    Granted {
        id: LeaseId,
        ttl_seconds: i64,
    },
    Revoked {
        id: LeaseId,
    },
    /// 0 clears: the full TTL counts again.
    Checkpoint {
        id: LeaseId,
        remaining_seconds: i64,
    },
}

/// Why a read failed: the client's fault, or the disk's.
#[derive(Debug)]
pub enum ReadError {
    Api(ApiError),
    Storage(StorageError),
}

impl From<ApiError> for ReadError {
    fn from(error: ApiError) -> ReadError {
        ReadError::Api(error)
    }
}
impl From<StorageError> for ReadError {
    fn from(error: StorageError) -> ReadError {
        ReadError::Storage(error)
    }
}

impl Keyspace {
    /// Applies one committed command. Deterministic: the same commands in the same order give
    /// the same outcomes on every node. The caller applies each entry once, in order.
    ///
    /// An `Err` is the disk's fault and leaves the keyspace half-changed: the member stops.
    pub fn apply(&mut self, command: &Command, at: &ApplyContext) -> Result<Applied, StorageError> {
        self.apply_for(None, command, at)
    }

    /// As `apply`, on somebody's behalf: what the users and roles of this point of the log do not
    /// permit is refused.
    pub fn apply_for(
        &mut self,
        caller: Option<&Caller>,
        command: &Command,
        at: &ApplyContext,
    ) -> Result<Applied, StorageError> {
        assert!(
            at.index > self.state.applied,
            "entry {} applied twice: {} is applied already",
            at.index,
            self.state.applied
        );
        let mut write = Write::new(self);
        let reply = match write.run(caller, command, at) {
            Ok(reply) => Ok(reply),
            Err(ReadError::Api(error)) => {
                assert!(!write.wrote_anything(), "a refused command wrote nothing");
                Err(error)
            }
            Err(ReadError::Storage(error)) => return Err(error),
        };
        Ok(write.finish(reply, at))
    }
}

/// One command being applied: where its changes go and what they add up to.
pub(super) struct Write<'a> {
    pub keyspace: &'a mut Keyspace,
    /// The main revision that the next change gets.
    pub main: i64,
    /// The sub revision that the next change gets; 0 while `main` has no change.
    pub sub: i64,
    pub events: Vec<Event>,
    pub lease_changes: Vec<LeaseChange>,
    pub alarm_changed: bool,
    pub auth_changed: bool,
    pub tokens: Vec<TokenChange>,
    pub digest: Digest,
}

impl<'a> Write<'a> {
    fn new(keyspace: &'a mut Keyspace) -> Write<'a> {
        let main = keyspace.state.revision + 1;
        let digest = Digest::new(keyspace.state_hash());
        Write {
            keyspace,
            main,
            sub: 0,
            events: Vec::new(),
            lease_changes: Vec::new(),
            alarm_changed: false,
            auth_changed: false,
            tokens: Vec::new(),
            digest,
        }
    }

    fn run(
        &mut self,
        caller: Option<&Caller>,
        command: &Command,
        at: &ApplyContext,
    ) -> Result<Reply, ReadError> {
        if let Some(error) = alarm::refused(&self.keyspace.alarms, command) {
            return Err(error.into());
        }
        self.keyspace.permits(caller, command)?;
        Ok(match command {
            Command::Put(request) => {
                self.check_put(request)?;
                Reply::Put(self.put(request)?)
            }
            Command::DeleteRange(request) => Reply::DeleteRange(self.delete_range(request)?),
            Command::Txn(request) => Reply::Txn(self.txn(request)?),
            Command::Compact(request) => {
                self.keyspace.compact(request.revision)?;
                Reply::Compact
            }
            Command::LeaseGrant { id, ttl_seconds } => {
                self.lease_grant(*id, *ttl_seconds, at)?;
                Reply::LeaseGrant { id: *id, ttl_seconds: *ttl_seconds }
            }
            Command::LeaseRevoke { ids, leader } => {
                self.lease_revoke(ids, *leader, at)?;
                Reply::LeaseRevoke
            }
            Command::LeaseCheckpoint { remaining, leader } => {
                self.lease_checkpoint(remaining, *leader, at)?;
                Reply::LeaseCheckpoint
            }
            Command::Alarm(request) => Reply::Alarm(self.alarm(request)?),
            // The root state machine's: they leave no trace in the default keyspace.
            Command::PublishMember { .. } => Reply::PublishMember,
            Command::SetDowngrade { .. } => Reply::SetDowngrade,
            Command::CreateGroup | Command::DestroyGroup { .. } => Reply::DestroyGroup,
            Command::Auth(command) => self.auth(command, at.index)?,
        })
    }

    fn wrote_anything(&self) -> bool {
        !self.events.is_empty()
            || !self.lease_changes.is_empty()
            || self.alarm_changed
            || self.auth_changed
    }

    fn finish(mut self, reply: Result<Reply, ApiError>, at: &ApplyContext) -> Applied {
        self.end_revision();
        let state = &mut self.keyspace.state;
        state.revision = self.main - 1;
        state.applied = at.index;
        state.applied_term = at.term;
        self.digest.number(at.index.0);
        self.digest.number(state.revision as u64);
        self.digest.reply(&reply);
        state.hashes.record(at.index, self.digest.finish());
        Applied {
            reply,
            revision: state.revision,
            events: self.events,
            lease_changes: self.lease_changes,
            alarm_changed: self.alarm_changed,
            tokens: self.tokens,
        }
    }

    /// Ends the transaction being written: what follows gets a main revision of its own.
    pub fn end_revision(&mut self) {
        if self.sub > 0 {
            self.main += 1;
            self.sub = 0;
        }
    }

    /// The newest revision as ranges and headers inside the command see it.
    pub fn visible_revision(&self) -> i64 {
        if self.sub > 0 { self.main } else { self.main - 1 }
    }

    /// Stores a new version of a key over its head `old`, and makes its event.
    pub fn store(&mut self, old: Option<&Record>, new: &NewRecord<'_>) -> Result<(), StorageError> {
        assert!(
            new.revision == Revision::new(self.main, self.sub),
            "a change takes the next revision"
        );
        let prev_kv = match old {
            Some(old) => self.event_prev_kv(old)?,
            None => None,
        };
        let keyspace = &mut *self.keyspace;
        let record = Record::encode(new, old, keyspace.state.compact_revision);
        let live = !record.tombstone();
        keyspace.by_rev.put(&revision_key(record.revision), record.raw().clone(), live)?;
        keyspace.by_key.put(new.key, record.head(), live)?;
        keyspace.changes += 1;
        self.sub += 1;
        self.digest.change(&record);
        self.events.push(event_of(&record, prev_kv));
        Ok(())
    }

    /// What the key was before the main revision being written.
    fn event_prev_kv(&self, old: &Record) -> Result<Option<KeyValue>, StorageError> {
        let found;
        let before = if old.revision.main < self.main {
            old
        } else {
            // A second change of the key in one revision: look behind the first.
            match self.keyspace.find_at(old.clone(), self.main - 1)? {
                Some(record) => {
                    found = record;
                    &found
                }
                None => return Ok(None),
            }
        };
        if before.tombstone() {
            return Ok(None);
        }
        if before.value().is_none() && !self.keyspace.want_prev_kv {
            return Ok(None);
        }
        Ok(Some(self.keyspace.key_value(before)?))
    }
}

/// The event of a change; a delete's has only the key and the revision. What creates a key has
/// nothing before it, even where the same revision has just deleted one (etcd's `IsCreateEvent`).
pub(super) fn event_of(record: &Record, prev_kv: Option<KeyValue>) -> Event {
    if record.tombstone() {
        let kv = KeyValue {
            key: record.key(),
            mod_revision: record.revision.main,
            ..KeyValue::default()
        };
        return Event { kind: EventKind::Delete, kv, prev_kv };
    }
    let value = record.value().unwrap_or_default();
    let kv = record.key_value(value);
    let prev_kv = prev_kv.filter(|_| kv.create_revision < kv.mod_revision);
    Event { kind: EventKind::Put, kv, prev_kv }
}
