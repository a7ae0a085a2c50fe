//! What readers hold: one state of a keyspace, which no later apply changes.

use super::alarm::{Alarms, list};
use super::apply::ReadError;
use super::keyspace::Keyspace;
use super::range::Reads;
use crate::auth::AuthState;
use crate::btree::View;
use crate::types::NodeId;
use crate::types::command::{AlarmKind, RangeRequest, TxnRequest};
use crate::types::reply::{RangeReply, TxnReply};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Pinned roots at one time: about as many lists as page through a keyspace at once.
const PINS_MAX: usize = 32;
/// Changes after which a pinned root is let go. Each change makes at most a leaf and its path
/// anew, so a pin holds back about 8 KiB for each: 4,096 bound it to half the default cache, and
/// give a paged list seconds at a thousand writes per second.
const PIN_AGE_CHANGES_MAX: u64 = 4096;

/// By-key roots that a truncated range has pinned, for the pages to come: a read at exactly that
/// revision then counts and reads as cheaply as one at the newest. Without a pin the same read
/// gives the same answer from the versions' ancestors.
#[derive(Debug, Default)]
pub(super) struct Pins(Mutex<VecDeque<Pin>>);

#[derive(Debug)]
struct Pin {
    revision: i64,
    by_key: View,
    /// `Keyspace::changes` when it was made.
    changes: u64,
}

impl Pins {
    fn lock(&self) -> MutexGuard<'_, VecDeque<Pin>> {
        // A pin is complete or absent: a panic elsewhere cannot have left half of one.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
    fn get(&self, revision: i64) -> Option<View> {
        self.lock().iter().find(|pin| pin.revision == revision).map(|pin| pin.by_key.clone())
    }
    fn add(&self, revision: i64, by_key: &View, changes: u64) {
        let mut pins = self.lock();
        if pins.iter().any(|pin| pin.revision == revision) {
            return;
        }
        if pins.len() == PINS_MAX {
            pins.pop_front();
        }
        pins.push_back(Pin { revision, by_key: by_key.clone(), changes });
    }
    /// Lets old pins go. Called by the writer, which never waits for a reader: a lock that is
    /// taken is tried again with the next view.
    pub fn expire(&self, changes: u64) {
        if let Ok(mut pins) = self.0.try_lock() {
            pins.retain(|pin| changes.saturating_sub(pin.changes) <= PIN_AGE_CHANGES_MAX);
        }
    }
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.lock().len()
    }
}

/// One state of a keyspace. Cloning is cheap; holding one pins what it sees, so let go of it.
#[derive(Clone, Debug)]
pub struct KeyspaceView(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    reads: Reads,
    leases: View,
    lease_keys: View,
    alarms: Arc<Alarms>,
    auth: Arc<AuthState>,
    pins: Arc<Pins>,
    changes: u64,
}

impl KeyspaceView {
    pub(super) fn new(keyspace: &Keyspace) -> KeyspaceView {
        KeyspaceView(Arc::new(Inner {
            reads: keyspace.reads(keyspace.state.revision),
            leases: keyspace.leases.view(),
            lease_keys: keyspace.lease_keys.view(),
            alarms: Arc::clone(&keyspace.alarms),
            auth: Arc::clone(&keyspace.auth),
            pins: Arc::clone(&keyspace.pins),
            changes: keyspace.changes,
        }))
    }

    pub(super) fn reads(&self) -> &Reads {
        &self.0.reads
    }
    pub(super) fn lease_tree(&self) -> &View {
        &self.0.leases
    }
    pub(super) fn lease_key_tree(&self) -> &View {
        &self.0.lease_keys
    }

    /// The newest revision in this view.
    pub fn revision(&self) -> i64 {
        self.0.reads.revision
    }
    /// Reads below it are refused; −1 before the first compaction.
    pub fn compact_revision(&self) -> i64 {
        self.0.reads.compact_revision
    }
    /// Live keys of the whole keyspace.
    pub fn live_keys(&self) -> u64 {
        self.0.reads.by_key.live()
    }

    /// A range, statically checked before (`check_range`).
    pub fn range(&self, request: &RangeRequest) -> Result<RangeReply, ReadError> {
        let reads = &self.0.reads;
        let at = reads.resolve(request.revision)?;
        if at < reads.revision {
            if let Some(by_key) = self.0.pins.get(at) {
                let pinned = Reads { by_key, revision: at, ..reads.clone() };
                return pinned.range(request);
            }
            return reads.range(request);
        }
        let reply = reads.range(request)?;
        if reply.more {
            self.0.pins.add(at, &reads.by_key, self.0.changes);
        }
        Ok(reply)
    }

    /// A txn for which `is_read_only` holds and which `check_txn` let through.
    pub fn read_txn(&self, txn: &TxnRequest) -> Result<TxnReply, ReadError> {
        self.0.reads.read_txn(txn)
    }

    /// The users and roles of the same moment: a read that they let through sees nothing younger.
    pub fn auth(&self) -> &Arc<AuthState> {
        &self.0.auth
    }

    /// Raised alarms of one kind, or all, ordered by member.
    pub fn alarms(&self, kind: Option<AlarmKind>) -> Vec<(NodeId, AlarmKind)> {
        list(&self.0.alarms, kind)
    }
}
