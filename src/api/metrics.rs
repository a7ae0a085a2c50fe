//! Prometheus' text format, by hand.
//!
//! Names, types and label sets are etcd's, its odd ones included (several `*_total` are gauges):
//! dashboards and alerts are written against them. What this server does not measure is left out
//! rather than shown as zero, save where an alert would fire on the absence.

use super::checks::Found;
use super::rpcs::{self, CODE_NAMES, Counters, RPCS, RpcCounts};
use crate::node::NodeHandle;
use crate::node::handle::MemberStatus;
use crate::types::command::AlarmKind;
use crate::types::version::{API_VERSION, ETCD_VERSION};
use crate::types::{GroupId, NodeId};
use std::collections::BTreeMap;
use std::fmt::{Display, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    Counter,
    Gauge,
}

/// A growing page of metrics.
#[derive(Default)]
pub struct Page {
    text: String,
}

impl Page {
    pub fn new() -> Page {
        Page::default()
    }
    pub fn finish(self) -> String {
        self.text
    }

    /// The head of a family: every metric of that name follows it.
    pub fn family(&mut self, name: &str, kind: Type, help: &str) {
        let kind = match kind {
            Type::Counter => "counter",
            Type::Gauge => "gauge",
        };
        writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}")
            .expect("a String takes all");
    }

    /// One line of a family. `labels` are in the order they should appear.
    pub fn value(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        self.text.push_str(name);
        if !labels.is_empty() {
            self.text.push('{');
            for (at, (label, value)) in labels.iter().enumerate() {
                let comma = if at > 0 { "," } else { "" };
                write!(self.text, "{comma}{label}=\"").expect("a String takes all");
                for c in value.chars() {
                    match c {
                        '\\' => self.text.push_str("\\\\"),
                        '"' => self.text.push_str("\\\""),
                        '\n' => self.text.push_str("\\n"),
                        c => self.text.push(c),
                    }
                }
                self.text.push('"');
            }
            self.text.push('}');
        }
        writeln!(self.text, " {value}").expect("a String takes all");
    }

    pub fn one(&mut self, name: &str, kind: Type, help: &str, value: impl Display) {
        self.family(name, kind, help);
        self.value(name, &[], value);
    }
}

/// The member itself.
pub fn node(page: &mut Page, node: &NodeHandle) {
    let now = node.status(GroupId::ROOT);
    let view = node.view(GroupId::ROOT);
    member(page, &now, view.as_ref().map(|view| view.alarms(None)).unwrap_or_default());
    if let Some(view) = view {
        let mut gauge = |name: &str, help: &str, value: i64| {
            page.one(name, Type::Gauge, help, value);
        };
        gauge(
            "etcd_debugging_mvcc_current_revision",
            "The current revision of store.",
            view.revision(),
        );
        gauge(
            "etcd_debugging_mvcc_compact_revision",
            "The revision of the last compaction in store.",
            view.compact_revision(),
        );
        let keys = i64::try_from(view.live_keys()).unwrap_or(i64::MAX);
        gauge("etcd_debugging_mvcc_keys_total", "Total number of keys.", keys);
        let auth_revision = i64::try_from(view.auth().revision()).unwrap_or(i64::MAX);
        gauge("etcd_debugging_auth_revision", "The current revision of auth store.", auth_revision);
    }
    let watches = node.watch_counts(GroupId::ROOT);
    for (name, help, value) in [
        (
            "etcd_debugging_mvcc_watch_stream_total",
            "Total number of watch streams.",
            watches.streams,
        ),
        ("etcd_debugging_mvcc_watcher_total", "Total number of watchers.", watches.watchers),
        (
            "etcd_debugging_mvcc_slow_watcher_total",
            "Total number of unsynced slow watchers.",
            watches.unsynced,
        ),
        (
            "etcd_debugging_mvcc_pending_events_total",
            "Total number of pending events to be sent.",
            watches.pending_events,
        ),
    ] {
        page.one(name, Type::Gauge, help, value);
    }
    page.one(
        "etcd_debugging_mvcc_events_total",
        Type::Counter,
        "Total number of events sent by this member.",
        watches.events_sent,
    );
    page.text.push_str(&node.metrics_text());
}

fn member(page: &mut Page, now: &MemberStatus, alarms: Vec<(NodeId, AlarmKind)>) {
    let leads = now.leader == now.member_id;
    let id = now.member_id.to_string();
    for (name, kind, help, value) in [
        (
            "etcd_server_has_leader",
            Type::Gauge,
            "Whether or not a leader exists. 1 is existence, 0 is not.",
            u64::from(!now.leader.is_none()),
        ),
        (
            "etcd_server_is_leader",
            Type::Gauge,
            "Whether or not this member is a leader. 1 if is, 0 otherwise.",
            u64::from(leads),
        ),
        (
            "etcd_server_is_learner",
            Type::Gauge,
            "Whether or not this member is a learner. 1 if is, 0 otherwise.",
            u64::from(now.is_learner),
        ),
        (
            "etcd_server_leader_changes_seen_total",
            Type::Counter,
            "The number of leader changes seen.",
            now.leader_changes,
        ),
        (
            "etcd_server_proposals_committed_total",
            Type::Gauge,
            "The total number of consensus proposals committed.",
            now.commit_index,
        ),
        (
            "etcd_server_proposals_applied_total",
            Type::Gauge,
            "The total number of consensus proposals applied.",
            now.applied_index,
        ),
        (
            "etcd_server_proposals_pending",
            Type::Gauge,
            "The current number of pending proposals to commit.",
            now.proposals_pending,
        ),
        (
            "etcd_server_proposals_failed_total",
            Type::Counter,
            "The total number of failed proposals seen.",
            now.proposals_failed,
        ),
        (
            "etcd_mvcc_db_total_size_in_bytes",
            Type::Gauge,
            "Total size of the underlying database physically allocated in bytes.",
            now.db_bytes,
        ),
        (
            "etcd_mvcc_db_total_size_in_use_in_bytes",
            Type::Gauge,
            "Total size of the underlying database logically in use in bytes.",
            now.db_bytes_in_use,
        ),
        (
            "etcd_server_quota_backend_bytes",
            Type::Gauge,
            "Current backend storage quota size in bytes.",
            now.quota_bytes,
        ),
    ] {
        page.one(name, kind, help, value);
    }
    for (name, label, value) in [
        ("etcd_server_id", "server_id", id.as_str()),
        ("etcd_server_version", "server_version", ETCD_VERSION),
        ("etcd_cluster_version", "cluster_version", API_VERSION),
    ] {
        page.family(name, Type::Gauge, "Which one it is: 1 for the label's value.");
        page.value(name, &[(label, value)], 1);
    }
    let name = "etcd_debugging_server_alarms";
    page.family(name, Type::Gauge, "Alarms that are raised: 1 for each.");
    for (member, kind) in alarms {
        let kind = match kind {
            AlarmKind::NoSpace => "NOSPACE",
            AlarmKind::Corrupt => "CORRUPT",
        };
        let member = member.to_string();
        page.value(name, &[("alarm_type", kind), ("server_id", &member)], 1);
    }
}

/// What gRPC clients have asked, in grpc-prometheus' names.
pub fn grpc(page: &mut Page, shards: &[Arc<Counters>]) {
    let sum = |rpc: usize, of: fn(&RpcCounts) -> &AtomicU64| -> u64 {
        shards.iter().map(|shard| of(&shard.rpcs[rpc]).load(Ordering::Relaxed)).sum()
    };
    type Of = fn(&RpcCounts) -> &AtomicU64;
    let families: [(&str, &str, Of); 3] = [
        ("grpc_server_started_total", "Total number of RPCs started on the server.", |counts| {
            &counts.started
        }),
        (
            "grpc_server_msg_received_total",
            "Total number of RPC stream messages received on the server.",
            |counts| &counts.received,
        ),
        (
            "grpc_server_msg_sent_total",
            "Total number of gRPC stream messages sent by the server.",
            |counts| &counts.sent,
        ),
    ];
    for (name, help, of) in families {
        page.family(name, Type::Counter, help);
        for (at, rpc) in RPCS.iter().enumerate() {
            page.value(name, &labels(rpc.service(), rpc.method(), rpc.kind.label()), sum(at, of));
        }
    }
    let name = "grpc_server_handled_total";
    let help = "Total number of RPCs completed on the server, regardless of success or failure.";
    page.family(name, Type::Counter, help);
    for (at, rpc) in RPCS.iter().enumerate() {
        for (code, code_name) in CODE_NAMES.iter().enumerate() {
            let count: u64 =
                shards.iter().map(|s| s.rpcs[at].handled[code].load(Ordering::Relaxed)).sum();
            let [method, service, kind] = [rpc.method(), rpc.service(), rpc.kind.label()];
            let labels = [
                ("grpc_code", *code_name),
                ("grpc_method", method),
                ("grpc_service", service),
                ("grpc_type", kind),
            ];
            page.value(name, &labels, count);
        }
    }
    clients(page, shards);
    let answered = |path: &str| -> u64 {
        let rpc = rpcs::find(path).expect("an RPC of the table");
        shards.iter().map(|s| s.rpcs[rpc].handled[0].load(Ordering::Relaxed)).sum()
    };
    page.one(
        "etcd_mvcc_range_total",
        Type::Counter,
        "Total number of ranges seen by this member.",
        answered("/etcdserverpb.KV/Range") + answered("/etcdserverpb.KV/RangeStream"),
    );
    page.one(
        "etcd_server_learner_promote_successes",
        Type::Counter,
        "The total number of successful learner promotions while this member is asked.",
        answered("/etcdserverpb.Cluster/MemberPromote"),
    );
    let bytes = |of: fn(&Counters) -> &AtomicU64| -> u64 {
        shards.iter().map(|shard| of(shard).load(Ordering::Relaxed)).sum()
    };
    page.one(
        "etcd_network_client_grpc_received_bytes_total",
        Type::Counter,
        "The total number of bytes received from grpc clients.",
        bytes(|c| &c.bytes_received),
    );
    page.one(
        "etcd_network_client_grpc_sent_bytes_total",
        Type::Counter,
        "The total number of bytes sent to grpc clients.",
        bytes(|c| &c.bytes_sent),
    );
}

/// Requests by the version that clients speak.
fn clients(page: &mut Page, shards: &[Arc<Counters>]) {
    let name = "etcd_server_client_requests_total";
    page.family(name, Type::Counter, "The total number of client requests per client version.");
    for (at, kind) in ["unary", "stream"].into_iter().enumerate() {
        let mut sum: BTreeMap<String, u64> = BTreeMap::new();
        for shard in shards {
            for (version, count) in &shard.versions()[at] {
                *sum.entry(version.clone()).or_default() += count;
            }
        }
        for (version, count) in sum {
            page.value(name, &[("type", kind), ("client_api_version", &version)], count);
        }
    }
}

/// What was asked of /health, /livez and /readyz, and how it went.
pub fn checks(page: &mut Page, found: &Found) {
    page.one(
        "etcd_server_health_success",
        Type::Counter,
        "The total number of successful health checks.",
        found.healthy,
    );
    page.one(
        "etcd_server_health_failures",
        Type::Counter,
        "The total number of failed health checks.",
        found.unhealthy,
    );
    let name = "etcd_server_healthcheck";
    page.family(name, Type::Gauge, "The result of each kind of health check.");
    for ((of, check), counts) in &found.checks {
        page.value(name, &[("type", of), ("name", check)], u8::from(counts.is_good));
    }
    let name = "etcd_server_healthchecks_total";
    page.family(name, Type::Counter, "The total number of each kind of health check.");
    for ((of, check), counts) in &found.checks {
        for (status, count) in [("success", counts.passed), ("error", counts.failed)] {
            page.value(name, &[("type", of), ("name", check), ("status", status)], count);
        }
    }
}

fn labels<'a>(service: &'a str, method: &'a str, kind: &'a str) -> [(&'a str, &'a str); 3] {
    [("grpc_method", method), ("grpc_service", service), ("grpc_type", kind)]
}

/// The process as the kernel counts it. Whatever cannot be read is left out.
pub fn process(page: &mut Page) {
    let facts = Process::read();
    let mut put = |name: &str, kind: Type, help: &str, value: Option<f64>| {
        if let Some(value) = value {
            page.one(name, kind, help, value);
        }
    };
    put(
        "process_cpu_seconds_total",
        Type::Counter,
        "Total user and system CPU time spent in seconds.",
        facts.cpu_seconds,
    );
    put(
        "process_resident_memory_bytes",
        Type::Gauge,
        "Resident memory size in bytes.",
        facts.resident_bytes,
    );
    put(
        "process_virtual_memory_bytes",
        Type::Gauge,
        "Virtual memory size in bytes.",
        facts.virtual_bytes,
    );
    put(
        "process_start_time_seconds",
        Type::Gauge,
        "Start time of the process since unix epoch in seconds.",
        facts.start_seconds,
    );
    put("process_open_fds", Type::Gauge, "Number of open file descriptors.", facts.open_files);
    put(
        "process_max_fds",
        Type::Gauge,
        "Maximum number of open file descriptors.",
        facts.open_files_max,
    );
    put("os_fd_used", Type::Gauge, "The number of used file descriptors.", facts.open_files);
    put("os_fd_limit", Type::Gauge, "The file descriptor limit.", facts.open_files_max);
}

/// Linux counts CPU time and start times in hundredths of a second towards user space, on every
/// architecture that Rust servers run on.
const TICKS_PER_SECOND: f64 = 100.0;

#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Process {
    cpu_seconds: Option<f64>,
    resident_bytes: Option<f64>,
    virtual_bytes: Option<f64>,
    start_seconds: Option<f64>,
    open_files: Option<f64>,
    open_files_max: Option<f64>,
}

impl Process {
    #[expect(
        clippy::disallowed_methods,
        reason = "/proc is the kernel's counters, not storage: no simulated disk could answer"
    )]
    fn read() -> Process {
        let text = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let open = std::fs::read_dir("/proc/self/fd").ok().map(|files| files.count() as f64);
        Process {
            open_files: open,
            ..Process::parse(
                &text("/proc/self/stat"),
                &text("/proc/self/status"),
                &text("/proc/self/limits"),
                &text("/proc/stat"),
            )
        }
    }

    fn parse(stat: &str, status: &str, limits: &str, system: &str) -> Process {
        // The command's name is in parentheses and may hold anything; fields count from after it,
        // state being the third of them.
        let fields: Vec<&str> =
            stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
        let field = |number: usize| fields.get(number - 3).and_then(|f| f.parse::<f64>().ok());
        let line = |text: &str, head: &str, word: usize| {
            let rest = text.lines().find_map(|line| line.strip_prefix(head))?;
            rest.split_whitespace().nth(word)?.parse::<f64>().ok()
        };
        let ticks = |number| field(number).map(|ticks| ticks / TICKS_PER_SECOND);
        let both = |a: Option<f64>, b: Option<f64>| Some(a? + b?);
        Process {
            cpu_seconds: both(ticks(14), ticks(15)),
            start_seconds: both(ticks(22), line(system, "btime", 0)),
            resident_bytes: line(status, "VmRSS:", 0).map(|kib| kib * 1024.0),
            virtual_bytes: line(status, "VmSize:", 0).map(|kib| kib * 1024.0),
            open_files: None,
            open_files_max: line(limits, "Max open files", 0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::Code;

    #[test]
    fn lines_and_escapes() {
        let mut page = Page::new();
        page.one("a_total", Type::Gauge, "Oddly a gauge.", 7);
        page.family("b", Type::Counter, "Labelled.");
        page.value("b", &[("To", "x\"y\\z\n"), ("n", "1")], 0.5);
        assert_eq!(
            page.finish(),
            "# HELP a_total Oddly a gauge.\n# TYPE a_total gauge\na_total 7\n\
             # HELP b Labelled.\n# TYPE b counter\nb{To=\"x\\\"y\\\\z\\n\",n=\"1\"} 0.5\n"
        );
    }

    #[test]
    fn grpc_counters_are_summed_over_threads_and_begin_at_zero() {
        let shards = Counters::shards(2);
        for shard in shards.iter() {
            shard.start(0);
            shard.end(0, Code::Unavailable);
        }
        let mut page = Page::new();
        grpc(&mut page, &shards);
        let text = page.finish();
        let put = "grpc_method=\"Put\",grpc_service=\"etcdserverpb.KV\",grpc_type=\"unary\"}";
        for line in [
            format!("grpc_server_started_total{{{put} 2\n"),
            format!("grpc_server_handled_total{{grpc_code=\"Unavailable\",{put} 2\n"),
            format!("grpc_server_handled_total{{grpc_code=\"OK\",{put} 0\n"),
            "grpc_server_msg_sent_total{grpc_method=\"Watch\",\
             grpc_service=\"etcdserverpb.Watch\",grpc_type=\"bidi_stream\"} 0\n"
                .to_string(),
            "etcd_network_client_grpc_sent_bytes_total 0\n".to_string(),
        ] {
            assert!(text.contains(&line), "{line}");
        }
    }

    #[test]
    fn proc_is_read_as_it_is_written() {
        let facts = Process::parse(
            "42 (odd ) name) S 1 1 1 0 -1 4194560 100 0 0 0 150 50 0 0 20 0 4 0 1000 9 9 9",
            "Name:\tx\nVmSize:\t  2048 kB\nVmRSS:\t    1024 kB\n",
            "Limit                     Soft Limit           Hard Limit           Units\n\
             Max open files            1024                 524288               files\n",
            "cpu 1 2 3\nbtime 1700000000\n",
        );
        assert_eq!(facts.cpu_seconds, Some(2.0));
        assert_eq!(facts.start_seconds, Some(1_700_000_010.0));
        assert_eq!(facts.resident_bytes, Some(1_048_576.0));
        assert_eq!(facts.virtual_bytes, Some(2_097_152.0));
        assert_eq!(facts.open_files_max, Some(1024.0));
        assert_eq!(Process::parse("", "", "", ""), Process::default());
        let mut page = Page::new();
        process(&mut page);
        assert!(page.finish().contains("\nprocess_open_fds "));
    }
}
