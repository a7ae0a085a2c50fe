//! The measurements as Prometheus' text.

use super::super::shared::lock;
use super::{Histogram, Metrics, PeerMetrics, Snapshots};
use crate::transport::PeerCounters;
use crate::types::NodeId;
use std::collections::BTreeMap;
use std::fmt::{Display, Write as _};
use std::sync::atomic::Ordering;

/// What the transport knows of one peer.
#[derive(Clone, Copy, Debug, Default)]
pub struct PeerNow {
    pub counters: PeerCounters,
    pub is_up: bool,
}

#[derive(Default)]
struct Text(String);

impl Text {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }
    fn one(&mut self, name: &str, kind: &str, help: &str, value: impl Display) {
        self.family(name, kind, help);
        let _ = writeln!(self.0, "{name} {value}");
    }
    fn histogram(&mut self, name: &str, help: &str, histogram: &Histogram) {
        self.family(name, "histogram", help);
        histogram.write(name, "", &mut self.0);
    }
    /// A counter for each peer.
    fn by_peer<T>(
        &mut self,
        name: &str,
        kind: &str,
        help: &str,
        peers: &BTreeMap<NodeId, T>,
        line: impl Fn(NodeId, &T) -> (String, u64),
    ) {
        self.family(name, kind, help);
        for (&id, peer) in peers {
            let (labels, value) = line(id, peer);
            let _ = writeln!(self.0, "{name}{{{labels}}} {value}");
        }
    }
}

impl Metrics {
    /// All that was measured, and what the transport has counted. `local` is this member.
    pub fn text(&self, local: NodeId, now: &BTreeMap<NodeId, PeerNow>) -> String {
        let mut text = Text::default();
        self.disk(&mut text);
        self.member(&mut text);
        self.applied_text(&mut text);
        self.peers_text(&mut text, local, now);
        text.0
    }

    fn disk(&self, text: &mut Text) {
        text.histogram(
            "etcd_disk_wal_fsync_duration_seconds",
            "The latency distributions of fsync called by WAL.",
            &self.wal_fsync,
        );
        text.histogram(
            "etcd_disk_wal_write_duration_seconds",
            "The latency distributions of write called by WAL.",
            &self.wal_write,
        );
        text.one(
            "etcd_disk_wal_write_bytes_total",
            "gauge",
            "Total number of bytes written in WAL.",
            self.wal_bytes.load(Ordering::Relaxed),
        );
        text.histogram(
            "etcd_disk_backend_commit_duration_seconds",
            "The latency distributions of store checkpoints.",
            &self.backend_commit,
        );
    }

    fn member(&self, text: &mut Text) {
        for (name, kind, help, value) in [
            (
                "etcd_server_slow_apply_total",
                "counter",
                "The total number of slow apply requests.",
                &self.slow_applies,
            ),
            (
                "etcd_server_slow_read_indexes_total",
                "counter",
                "The total number of read rounds that took longer than half a second.",
                &self.slow_read_indexes,
            ),
            (
                "etcd_server_read_indexes_failed_total",
                "counter",
                "The total number of failed read rounds seen.",
                &self.read_indexes_failed,
            ),
            (
                "etcd_server_snapshot_apply_in_progress_total",
                "gauge",
                "1 while a received raft snapshot is being put in place.",
                &self.snapshot_applies,
            ),
            (
                "etcd_debugging_lease_renewed_total",
                "counter",
                "The number of lease renewals answered by this member as the leader.",
                &self.leases_renewed,
            ),
        ] {
            text.one(name, kind, help, value.load(Ordering::Relaxed));
        }
    }

    fn applied_text(&self, text: &mut Text) {
        let so_far = lock(&self.applied);
        for (name, kind, help, value) in [
            ("etcd_mvcc_put_total", "counter", "Total number of keys put.", so_far.puts),
            ("etcd_mvcc_delete_total", "counter", "Total number of keys deleted.", so_far.deletes),
            (
                "etcd_mvcc_txn_total",
                "counter",
                "Total number of revisions with more than one change.",
                so_far.txns,
            ),
            (
                "etcd_debugging_mvcc_total_put_size_in_bytes",
                "gauge",
                "The total size of the keys and values put.",
                so_far.put_bytes,
            ),
            (
                "etcd_debugging_lease_granted_total",
                "counter",
                "The total number of granted leases.",
                so_far.leases_granted,
            ),
            (
                "etcd_debugging_lease_revoked_total",
                "counter",
                "The total number of revoked leases.",
                so_far.leases_revoked,
            ),
            (
                "etcd_debugging_server_lease_expired_total",
                "counter",
                "The total number of expired leases.",
                so_far.leases_expired,
            ),
        ] {
            text.one(name, kind, help, value);
        }
        text.histogram(
            "etcd_debugging_lease_ttl_total",
            "Bucketed histogram of lease TTLs.",
            &so_far.lease_ttls,
        );
        let name = "etcd_server_apply_duration_seconds";
        text.family(name, "histogram", "The latency distributions of applied commands.");
        for ((op, is_ok), histogram) in &so_far.durations {
            let labels = format!("version=\"v3\",op=\"{op}\",success=\"{is_ok}\"");
            histogram.write(name, &labels, &mut text.0);
        }
    }

    fn peers_text(&self, text: &mut Text, local: NodeId, now: &BTreeMap<NodeId, PeerNow>) {
        let pair = |remote: NodeId| format!("Local=\"{local}\",Remote=\"{remote}\"");
        let to = |peer: NodeId| format!("To=\"{peer}\"");
        let from = |peer: NodeId| format!("From=\"{peer}\"");
        text.by_peer(
            "etcd_network_known_peers",
            "gauge",
            "The current number of known peers.",
            now,
            |id, _| (pair(id), 1),
        );
        text.by_peer(
            "etcd_network_active_peers",
            "gauge",
            "The current number of active peer connections.",
            now,
            |id, peer| (pair(id), u64::from(peer.is_up)),
        );
        text.by_peer(
            "etcd_network_peer_sent_bytes_total",
            "counter",
            "The total number of bytes sent to peers.",
            now,
            |id, peer| (to(id), peer.counters.sent_bytes),
        );
        text.by_peer(
            "etcd_network_peer_received_bytes_total",
            "counter",
            "The total number of bytes received from peers.",
            now,
            |id, peer| (from(id), peer.counters.received_bytes),
        );
        text.by_peer(
            "etcd_network_peer_sent_failures_total",
            "counter",
            "The total number of send failures to peers.",
            now,
            |id, peer| (to(id), peer.counters.send_failures),
        );
        text.by_peer(
            "etcd_network_peer_received_failures_total",
            "counter",
            "The total number of receive failures from peers.",
            now,
            |id, peer| (from(id), peer.counters.receive_failures),
        );
        let peers = lock(&self.peers);
        text.by_peer(
            "etcd_network_disconnected_peers_total",
            "counter",
            "The total number of disconnected peers.",
            &peers,
            |id, peer| (pair(id), peer.disconnected),
        );
        let name = "etcd_network_peer_round_trip_time_seconds";
        text.family(name, "histogram", "Round-trip time of pings between peers.");
        for (&id, peer) in &*peers {
            peer.round_trips.write(name, &to(id), &mut text.0);
        }
        for (direction, of, label) in [
            ("send", (|p| &p.snapshots_sent) as fn(&PeerMetrics) -> &Snapshots, "To"),
            ("receive", |p| &p.snapshots_received, "From"),
        ] {
            let label = |peer: NodeId| format!("{label}=\"{peer}\"");
            let name = |what: &str| format!("etcd_network_snapshot_{direction}_{what}");
            text.by_peer(
                &name("success"),
                "counter",
                "Raft snapshots that came through.",
                &peers,
                |id, peer| (label(id), of(peer).succeeded),
            );
            text.by_peer(&name("failures"), "counter", "Raft snapshots that did not.", &peers, {
                |id, peer| (label(id), of(peer).failed)
            });
            text.by_peer(&name("inflights_total"), "gauge", "Raft snapshots under way.", &peers, {
                |id, peer| (label(id), of(peer).under_way.len() as u64)
            });
            let name = name("total_duration_seconds");
            text.family(&name, "histogram", "How long raft snapshots were under way.");
            for (&id, peer) in &*peers {
                of(peer).durations.write(&name, &label(id), &mut text.0);
            }
        }
    }
}
