//! What the member's own loops measure, for `/metrics`. Counters and histograms only; names and
//! text are etcd's (surface 6.1), so that its dashboards and alerts work.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A histogram with buckets that double: `start`, 2 × `start`, … seconds.
#[derive(Debug)]
pub struct Histogram {
    start: f64,
    buckets: Vec<AtomicU64>,
    count: AtomicU64,
    sum_ns: AtomicU64,
}

impl Histogram {
    pub fn new(start: f64, buckets: usize) -> Histogram {
        Histogram {
            start,
            buckets: (0..buckets).map(|_| AtomicU64::new(0)).collect(),
            count: AtomicU64::new(0),
            sum_ns: AtomicU64::new(0),
        }
    }
    pub fn observe(&self, took: Duration) {
        let seconds = took.as_secs_f64();
        let mut bound = self.start;
        for bucket in &self.buckets {
            if seconds <= bound {
                bucket.fetch_add(1, Ordering::Relaxed);
                break;
            }
            bound *= 2.0;
        }
        self.count.fetch_add(1, Ordering::Relaxed);
        self.sum_ns.fetch_add(took.as_nanos() as u64, Ordering::Relaxed);
    }
    fn write(&self, name: &str, help: &str, out: &mut String) {
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} histogram");
        let (mut bound, mut below) = (self.start, 0);
        for bucket in &self.buckets {
            below += bucket.load(Ordering::Relaxed);
            let _ = writeln!(out, "{name}_bucket{{le=\"{bound}\"}} {below}");
            bound *= 2.0;
        }
        let count = self.count.load(Ordering::Relaxed);
        let sum = self.sum_ns.load(Ordering::Relaxed) as f64 / 1e9;
        let _ = writeln!(out, "{name}_bucket{{le=\"+Inf\"}} {count}");
        let _ = writeln!(out, "{name}_sum {sum}\n{name}_count {count}");
    }
}

#[derive(Debug)]
pub struct Metrics {
    /// One write and fdatasync of the log.
    pub wal_fsync: Histogram,
    pub wal_bytes: AtomicU64,
    /// One checkpoint of the store, from its begin to its last sync.
    pub backend_commit: Histogram,
    pub proposals_failed: AtomicU64,
    pub snapshots_installed: AtomicU64,
    pub slow_applies: AtomicU64,
}

impl Default for Metrics {
    fn default() -> Metrics {
        Metrics {
            wal_fsync: Histogram::new(0.001, 14),
            wal_bytes: AtomicU64::new(0),
            backend_commit: Histogram::new(0.001, 14),
            proposals_failed: AtomicU64::new(0),
            snapshots_installed: AtomicU64::new(0),
            slow_applies: AtomicU64::new(0),
        }
    }
}

impl Metrics {
    /// Prometheus text of everything here.
    pub fn text(&self) -> String {
        let mut out = String::new();
        self.wal_fsync.write(
            "etcd_disk_wal_fsync_duration_seconds",
            "The latency distributions of fsync called by WAL.",
            &mut out,
        );
        self.backend_commit.write(
            "etcd_disk_backend_commit_duration_seconds",
            "The latency distributions of store checkpoints.",
            &mut out,
        );
        let mut value = |name: &str, kind: &str, help: &str, value: &AtomicU64| {
            let value = value.load(Ordering::Relaxed);
            let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}");
        };
        value(
            "etcd_disk_wal_write_bytes_total",
            "gauge",
            "Total number of bytes written in WAL.",
            &self.wal_bytes,
        );
        value(
            "etcd_server_slow_apply_total",
            "counter",
            "The total number of slow apply requests.",
            &self.slow_applies,
        );
        value(
            "quorate_raft_snapshots_installed_total",
            "counter",
            "Raft snapshots this member has installed.",
            &self.snapshots_installed,
        );
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_cumulative_and_doubling() {
        let histogram = Histogram::new(0.001, 3);
        for millis in [1, 2, 3, 100] {
            histogram.observe(Duration::from_millis(millis));
        }
        let mut text = String::new();
        histogram.write("x", "help", &mut text);
        assert!(text.contains("x_bucket{le=\"0.001\"} 1\n"), "{text}");
        assert!(text.contains("x_bucket{le=\"0.002\"} 2\n"), "{text}");
        assert!(text.contains("x_bucket{le=\"0.004\"} 3\n"), "{text}");
        assert!(text.contains("x_bucket{le=\"+Inf\"} 4\nx_sum 0.106\nx_count 4\n"), "{text}");
    }
}
