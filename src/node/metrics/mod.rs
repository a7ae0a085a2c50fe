//! What the member's own loops measure, for `/metrics`. Counters and histograms only; names,
//! types and labels are etcd's (several `*_total` are gauges there), so that its dashboards and
//! alerts work.
//!
//! Whoever measures holds a lock for a few instructions or adds to an atomic; `text` writes it
//! all down when somebody asks. Nothing here decides anything, and nothing below `node` knows it.

mod histogram;
mod text;

pub use histogram::Histogram;
pub use text::PeerNow;

use super::shared::lock;
use crate::io::Mono;
use crate::multiraft::apply::AppliedBatch;
use crate::mvcc::LeaseChange;
use crate::types::reply::EventKind;
use crate::types::{GroupId, NodeId};
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// See the module's documentation.
#[derive(Debug)]
pub struct Metrics {
    /// One fdatasync of the log.
    pub wal_fsync: Histogram,
    /// What is written before it.
    pub wal_write: Histogram,
    pub wal_bytes: AtomicU64,
    /// One checkpoint of the store, from its begin to its last sync.
    pub backend_commit: Histogram,
    pub proposals_failed: AtomicU64,
    pub slow_applies: AtomicU64,
    pub slow_read_indexes: AtomicU64,
    pub read_indexes_failed: AtomicU64,
    pub leases_renewed: AtomicU64,
    /// 1 while a fetched state is being put in place.
    pub snapshot_applies: AtomicU64,
    applied: Mutex<AppliedSoFar>,
    peers: Mutex<BTreeMap<NodeId, PeerMetrics>>,
}

/// What applied entries have come to.
#[derive(Debug)]
struct AppliedSoFar {
    /// By operation and success.
    durations: BTreeMap<(&'static str, bool), Histogram>,
    puts: u64,
    put_bytes: u64,
    deletes: u64,
    /// Revisions with more than one change.
    txns: u64,
    leases_granted: u64,
    leases_revoked: u64,
    leases_expired: u64,
    lease_ttls: Histogram,
}

/// What has happened between this member and a peer.
#[derive(Debug)]
struct PeerMetrics {
    round_trips: Histogram,
    disconnected: u64,
    snapshots_sent: Snapshots,
    snapshots_received: Snapshots,
}

impl Default for PeerMetrics {
    fn default() -> PeerMetrics {
        PeerMetrics {
            round_trips: Histogram::new(0.0001, 16),
            disconnected: 0,
            snapshots_sent: Snapshots::default(),
            snapshots_received: Snapshots::default(),
        }
    }
}

/// Raft snapshots in one direction.
#[derive(Debug)]
struct Snapshots {
    /// Under way, with their begin.
    under_way: BTreeMap<GroupId, Mono>,
    succeeded: u64,
    failed: u64,
    durations: Histogram,
}

impl Default for Snapshots {
    fn default() -> Snapshots {
        Snapshots {
            under_way: BTreeMap::new(),
            succeeded: 0,
            failed: 0,
            durations: Histogram::new(0.1, 10),
        }
    }
}

impl Snapshots {
    fn begin(&mut self, group: GroupId, now: Mono) {
        self.under_way.insert(group, now);
    }
    /// Nothing for one that is not under way: its end was told before.
    fn end(&mut self, group: GroupId, now: Mono, is_ok: bool) {
        let Some(begun) = self.under_way.remove(&group) else { return };
        if is_ok {
            self.succeeded += 1;
            self.durations.observe(now.since(begun));
        } else {
            self.failed += 1;
        }
    }
}

impl Default for Metrics {
    fn default() -> Metrics {
        Metrics {
            wal_fsync: Histogram::new(0.001, 14),
            wal_write: Histogram::new(0.001, 14),
            wal_bytes: AtomicU64::new(0),
            backend_commit: Histogram::new(0.001, 14),
            proposals_failed: AtomicU64::new(0),
            slow_applies: AtomicU64::new(0),
            slow_read_indexes: AtomicU64::new(0),
            read_indexes_failed: AtomicU64::new(0),
            leases_renewed: AtomicU64::new(0),
            snapshot_applies: AtomicU64::new(0),
            applied: Mutex::new(AppliedSoFar {
                durations: BTreeMap::new(),
                puts: 0,
                put_bytes: 0,
                deletes: 0,
                txns: 0,
                leases_granted: 0,
                leases_revoked: 0,
                leases_expired: 0,
                lease_ttls: Histogram::new(1.0, 24),
            }),
            peers: Mutex::default(),
        }
    }
}

/// A read round that takes longer is slow: etcd asks a second time then.
const SLOW_READ_INDEX: Duration = Duration::from_millis(500);

impl Metrics {
    /// What one apply job did, and how long it took: its commands share that time equally.
    pub fn applied(&self, batch: &AppliedBatch, took: Duration) {
        let mut so_far = lock(&self.applied);
        let commands: u32 = batch.commands.iter().map(|&(_, _, count)| count).sum();
        for &(name, is_ok, count) in &batch.commands {
            so_far
                .durations
                .entry((name, is_ok))
                .or_insert_with(|| Histogram::new(0.0001, 20))
                .observe_times(took / commands.max(1), u64::from(count));
        }
        // A state that was fetched is nobody's writing.
        if batch.replaced.is_some() {
            return;
        }
        for (_, events) in &batch.events {
            so_far.txns += u64::from(events.len() > 1);
            for event in events {
                match event.kind {
                    EventKind::Put => {
                        so_far.puts += 1;
                        so_far.put_bytes += (event.kv.key.len() + event.kv.value.len()) as u64;
                    }
                    EventKind::Delete => so_far.deletes += 1,
                }
            }
        }
        for change in &batch.lease_changes {
            match change {
                LeaseChange::Granted { ttl_seconds, .. } => {
                    so_far.leases_granted += 1;
                    let ttl = Duration::from_secs(u64::try_from(*ttl_seconds).unwrap_or(0));
                    so_far.lease_ttls.observe(ttl);
                }
                LeaseChange::Revoked { .. } => so_far.leases_revoked += 1,
                LeaseChange::Checkpoint { .. } => {}
            }
        }
        so_far.leases_expired += batch.leases_expired;
    }

    /// How a read round ended.
    pub fn read_index(&self, took: Duration, is_ok: bool) {
        if !is_ok {
            self.read_indexes_failed.fetch_add(1, Ordering::Relaxed);
        }
        if took > SLOW_READ_INDEX {
            self.slow_read_indexes.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn peer(&self, peer: NodeId, change: impl FnOnce(&mut PeerMetrics)) {
        change(lock(&self.peers).entry(peer).or_default());
    }
    pub fn round_trip(&self, peer: NodeId, took: Duration) {
        self.peer(peer, |peer| peer.round_trips.observe(took));
    }
    pub fn disconnected(&self, peer: NodeId) {
        self.peer(peer, |peer| peer.disconnected += 1);
    }
    /// A member that is removed takes its figures along, as in etcd.
    pub fn forget(&self, peer: NodeId) {
        lock(&self.peers).remove(&peer);
    }

    /// The peer is offered a snapshot of the group.
    pub fn snapshot_send_begun(&self, group: GroupId, to: NodeId, now: Mono) {
        self.peer(to, |peer| peer.snapshots_sent.begin(group, now));
    }
    /// Its last part was sent, or there is none to send any more.
    pub fn snapshot_send_ended(&self, group: GroupId, to: NodeId, now: Mono, is_ok: bool) {
        self.peer(to, |peer| peer.snapshots_sent.end(group, now, is_ok));
    }
    /// The first part of a snapshot is awaited.
    pub fn snapshot_receive_begun(&self, group: GroupId, from: NodeId, now: Mono) {
        self.peer(from, |peer| peer.snapshots_received.begin(group, now));
    }
    /// Every part is here, or no more will come. One is received of a group at a time.
    pub fn snapshot_receive_ended(&self, group: GroupId, now: Mono, is_ok: bool) {
        for peer in lock(&self.peers).values_mut() {
            peer.snapshots_received.end(group, now, is_ok);
        }
    }
}
