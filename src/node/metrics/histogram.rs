//! A histogram as Prometheus understands it, with buckets that double.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Buckets up to `start`, 2 × `start`, … seconds.
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
        self.observe_times(took, 1);
    }
    /// The same, so many times.
    pub fn observe_times(&self, took: Duration, times: u64) {
        let seconds = took.as_secs_f64();
        let mut bound = self.start;
        for bucket in &self.buckets {
            if seconds <= bound {
                bucket.fetch_add(times, Ordering::Relaxed);
                break;
            }
            bound *= 2.0;
        }
        self.count.fetch_add(times, Ordering::Relaxed);
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX).saturating_mul(times);
        self.sum_ns.fetch_add(nanos, Ordering::Relaxed);
    }

    /// Its lines, without the family's head. `labels` is empty or `name="value",…` of other
    /// labels.
    pub fn write(&self, name: &str, labels: &str, out: &mut String) {
        let comma = if labels.is_empty() { "" } else { "," };
        let (mut bound, mut below) = (self.start, 0);
        for bucket in &self.buckets {
            below += bucket.load(Ordering::Relaxed);
            let _ = writeln!(out, "{name}_bucket{{{labels}{comma}le=\"{bound}\"}} {below}");
            bound *= 2.0;
        }
        let count = self.count.load(Ordering::Relaxed);
        let sum = self.sum_ns.load(Ordering::Relaxed) as f64 / 1e9;
        let _ = writeln!(out, "{name}_bucket{{{labels}{comma}le=\"+Inf\"}} {count}");
        let labels = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
        let _ = writeln!(out, "{name}_sum{labels} {sum}\n{name}_count{labels} {count}");
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
        histogram.write("x", "", &mut text);
        assert!(text.contains("x_bucket{le=\"0.001\"} 1\n"), "{text}");
        assert!(text.contains("x_bucket{le=\"0.002\"} 2\n"), "{text}");
        assert!(text.contains("x_bucket{le=\"0.004\"} 3\n"), "{text}");
        assert!(text.contains("x_bucket{le=\"+Inf\"} 4\nx_sum 0.106\nx_count 4\n"), "{text}");
        histogram.observe_times(Duration::from_millis(2), 3);
        text.clear();
        histogram.write("x", "To=\"1\"", &mut text);
        assert!(text.contains("x_bucket{To=\"1\",le=\"0.002\"} 5\n"), "{text}");
        assert!(text.ends_with("x_sum{To=\"1\"} 0.112\nx_count{To=\"1\"} 7\n"), "{text}");
    }
}
