//! The HTTP pages beside gRPC and the gateway: health in all its options, the version, and what
//! /metrics has of etcd's names.

use crate::harness::Cluster;
use crate::web::Web;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

#[test]
fn health_and_its_options() {
    let mut cluster = Cluster::start("http-health", 3, &[]);
    let web = Web::new(&cluster.members[0].client());
    let page = |path: &str| web.get(path);
    let ok = |text: &str| (200, text.to_string());
    assert_eq!(page("/health"), ok(r#"{"health":"true","reason":""}"#));
    assert_eq!(page("/livez"), ok("ok\n"));
    assert_eq!(page("/livez?verbose"), ok("[+]serializable_read ok\nok\n"));
    assert_eq!(page("/readyz"), ok("ok\n"));
    assert_eq!(
        page("/readyz?verbose"),
        ok("[+]data_corruption ok\n[+]linearizable_read ok\n[+]non_learner ok\n\
            [+]serializable_read ok\nok\n")
    );
    assert_eq!(
        page("/readyz?verbose&exclude=linearizable_read&exclude=nonsense&exclude=non_learner"),
        ok("[+]data_corruption ok\n[+]serializable_read ok\nok\n")
    );
    for check in ["data_corruption", "linearizable_read", "non_learner", "serializable_read"] {
        assert_eq!(page(&format!("/readyz/{check}")), ok("ok\n"));
        assert_eq!(page(&format!("/readyz/{check}?verbose")), ok(&format!("[+]{check} ok\nok\n")));
    }
    for path in ["/health", "/livez", "/readyz", "/readyz/non_learner", "/version"] {
        for method in ["POST", "PUT", "HEAD"] {
            let answer = web.ask(method, path, "");
            assert_eq!((answer.status, answer.header("allow")), (405, Some("GET")), "{path}");
        }
    }
    for path in ["/", "/readyz/nonsense", "/livez/non_learner", "/debug/vars", "/v2/keys"] {
        assert_eq!(page(path), (404, "404 page not found\n".to_string()), "{path}");
    }
    let version = web.ask("GET", "/version", "");
    assert_eq!(version.header("content-type"), Some("application/json"));
    assert_eq!(
        version.json(),
        json!({ "etcdserver": version.json()["etcdserver"], "etcdcluster": "3.6.0",
                "storage": "3.6.0" })
    );

    // Alarms: no space is no reason to be restarted, corruption is none to be asked.
    let member = web.ok("/v3/maintenance/status", "{}")["header"]["member_id"].clone();
    let alarm = |action: &str, kind: &str| {
        let body = json!({ "action": action, "memberID": member, "alarm": kind });
        web.ok("/v3/maintenance/alarm", &body.to_string());
    };
    alarm("ACTIVATE", "NOSPACE");
    let sick = |reason: &str| (503, format!("{{\"health\":\"false\",\"reason\":\"{reason}\"}}\n"));
    assert_eq!(page("/health"), sick("ALARM NOSPACE"));
    assert_eq!(page("/health?exclude=NOSPACE"), ok(r#"{"health":"true","reason":""}"#));
    assert_eq!(page("/readyz"), ok("ok\n"));
    alarm("DEACTIVATE", "NOSPACE");
    alarm("ACTIVATE", "CORRUPT");
    assert_eq!(page("/health?exclude=NOSPACE"), sick("ALARM CORRUPT"));
    let (status, text) = page("/readyz");
    assert_eq!(status, 503);
    assert!(text.starts_with("[-]data_corruption failed: alarm activated: CORRUPT\n"), "{text}");
    assert!(text.ends_with("[+]serializable_read ok\n\n"), "{text}");
    alarm("DEACTIVATE", "CORRUPT");

    // Without a quorum the member lives, and is not ready.
    for member in &mut cluster.members[1..] {
        member.kill();
    }
    for _ in 0..200 {
        if page("/health") == sick("RAFT NO LEADER") {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(page("/health"), sick("RAFT NO LEADER"));
    assert_eq!(page("/health?serializable=true"), ok(r#"{"health":"true","reason":""}"#));
    assert_eq!(page("/livez"), ok("ok\n"));
    let (status, text) = page("/readyz/linearizable_read");
    assert_eq!(status, 503);
    assert!(text.starts_with("[-]linearizable_read failed: etcdserver: "), "{text}");
}

/// Name, type and labels of every metric that docs/compatibility.md promises: etcd 3.6's.
const METRICS: &[(&str, &str, &str)] = &[
    // What the dashboard and the alerts of the etcd mixin ask for.
    ("etcd_server_has_leader", "gauge", ""),
    ("etcd_server_is_leader", "gauge", ""),
    ("etcd_server_leader_changes_seen_total", "counter", ""),
    ("etcd_server_proposals_committed_total", "gauge", ""),
    ("etcd_server_proposals_applied_total", "gauge", ""),
    ("etcd_server_proposals_pending", "gauge", ""),
    ("etcd_server_proposals_failed_total", "counter", ""),
    ("etcd_disk_wal_fsync_duration_seconds", "histogram", ""),
    ("etcd_disk_backend_commit_duration_seconds", "histogram", ""),
    ("etcd_mvcc_db_total_size_in_bytes", "gauge", ""),
    ("etcd_mvcc_db_total_size_in_use_in_bytes", "gauge", ""),
    ("etcd_server_quota_backend_bytes", "gauge", ""),
    ("etcd_network_peer_round_trip_time_seconds", "histogram", "To"),
    ("etcd_network_peer_sent_failures_total", "counter", "To"),
    ("etcd_network_peer_sent_bytes_total", "counter", "To"),
    ("etcd_network_peer_received_bytes_total", "counter", "From"),
    ("etcd_network_client_grpc_sent_bytes_total", "counter", ""),
    ("etcd_network_client_grpc_received_bytes_total", "counter", ""),
    ("grpc_server_started_total", "counter", "grpc_method grpc_service grpc_type"),
    ("grpc_server_handled_total", "counter", "grpc_code grpc_method grpc_service grpc_type"),
    ("grpc_server_msg_received_total", "counter", "grpc_method grpc_service grpc_type"),
    ("grpc_server_msg_sent_total", "counter", "grpc_method grpc_service grpc_type"),
    ("process_resident_memory_bytes", "gauge", ""),
    ("process_virtual_memory_bytes", "gauge", ""),
    ("process_start_time_seconds", "gauge", ""),
    ("process_open_fds", "gauge", ""),
    ("process_max_fds", "gauge", ""),
    ("process_cpu_seconds_total", "counter", ""),
    // The other stable names.
    ("etcd_cluster_version", "gauge", "cluster_version"),
    ("etcd_server_version", "gauge", "server_version"),
    ("etcd_server_id", "gauge", "server_id"),
    ("etcd_server_is_learner", "gauge", ""),
    ("etcd_server_learner_promote_successes", "counter", ""),
    ("etcd_server_slow_apply_total", "counter", ""),
    ("etcd_server_apply_duration_seconds", "histogram", "op success version"),
    ("etcd_server_slow_read_indexes_total", "counter", ""),
    ("etcd_server_read_indexes_failed_total", "counter", ""),
    ("etcd_server_client_requests_total", "counter", "client_api_version type"),
    ("etcd_server_snapshot_apply_in_progress_total", "gauge", ""),
    ("etcd_server_health_success", "counter", ""),
    ("etcd_server_health_failures", "counter", ""),
    ("etcd_server_healthcheck", "gauge", "name type"),
    ("etcd_server_healthchecks_total", "counter", "name status type"),
    ("etcd_disk_wal_write_bytes_total", "gauge", ""),
    ("etcd_disk_wal_write_duration_seconds", "histogram", ""),
    ("etcd_mvcc_range_total", "counter", ""),
    ("etcd_mvcc_put_total", "counter", ""),
    ("etcd_mvcc_delete_total", "counter", ""),
    ("etcd_mvcc_txn_total", "counter", ""),
    ("etcd_network_active_peers", "gauge", "Local Remote"),
    ("etcd_network_known_peers", "gauge", "Local Remote"),
    ("etcd_network_disconnected_peers_total", "counter", "Local Remote"),
    ("etcd_network_peer_received_failures_total", "counter", "From"),
    ("etcd_network_snapshot_send_success", "counter", "To"),
    ("etcd_network_snapshot_send_failures", "counter", "To"),
    ("etcd_network_snapshot_send_inflights_total", "gauge", "To"),
    ("etcd_network_snapshot_send_total_duration_seconds", "histogram", "To"),
    ("etcd_network_snapshot_receive_success", "counter", "From"),
    ("etcd_network_snapshot_receive_failures", "counter", "From"),
    ("etcd_network_snapshot_receive_inflights_total", "gauge", "From"),
    ("etcd_network_snapshot_receive_total_duration_seconds", "histogram", "From"),
    ("os_fd_used", "gauge", ""),
    ("os_fd_limit", "gauge", ""),
    // Not stable in etcd, and on many dashboards.
    ("etcd_debugging_auth_revision", "gauge", ""),
    ("etcd_debugging_lease_granted_total", "counter", ""),
    ("etcd_debugging_lease_renewed_total", "counter", ""),
    ("etcd_debugging_lease_revoked_total", "counter", ""),
    ("etcd_debugging_lease_ttl_total", "histogram", ""),
    ("etcd_debugging_server_lease_expired_total", "counter", ""),
    ("etcd_debugging_mvcc_current_revision", "gauge", ""),
    ("etcd_debugging_mvcc_compact_revision", "gauge", ""),
    ("etcd_debugging_mvcc_keys_total", "gauge", ""),
    ("etcd_debugging_mvcc_watch_stream_total", "gauge", ""),
    ("etcd_debugging_mvcc_watcher_total", "gauge", ""),
    ("etcd_debugging_mvcc_slow_watcher_total", "gauge", ""),
    ("etcd_debugging_mvcc_pending_events_total", "gauge", ""),
    ("etcd_debugging_mvcc_events_total", "counter", ""),
    ("etcd_debugging_mvcc_total_put_size_in_bytes", "gauge", ""),
    ("etcd_debugging_server_alarms", "gauge", "alarm_type server_id"),
];

/// etcd's names that are not here; docs/compatibility.md says why, of each.
const ABSENT: &[&str] = &[
    "grpc_server_handling_seconds",
    "go_*",
    "etcd_server_go_version",
    "etcd_server_learner_promote_failures",
    "etcd_server_heartbeat_send_failures_total",
    "etcd_server_range_duration_seconds",
    "etcd_server_request_duration_seconds",
    "etcd_server_feature_enabled",
    "etcd_disk_backend_snapshot_duration_seconds",
    "etcd_disk_backend_defrag_duration_seconds",
    "etcd_disk_defrag_inflight",
    "etcd_mvcc_db_open_read_transactions",
    "etcd_mvcc_hash_duration_seconds",
    "etcd_mvcc_hash_rev_duration_seconds",
    "etcd_network_server_stream_failures_total",
    "etcd_snap_db_fsync_duration_seconds",
    "etcd_snap_db_save_total_duration_seconds",
    "etcd_snap_fsync_duration_seconds",
    "etcd_grpc_proxy_*",
    "etcd_debugging_disk_backend_commit_*",
    "etcd_debugging_mvcc_db_compaction_*",
    "etcd_debugging_mvcc_index_compaction_*",
    "etcd_debugging_server_watch_send_loop_*",
    "etcd_debugging_snap_save_*",
    "etcd_debugging_store_*",
];

/// The families of a page, each with its type and the labels of its lines.
fn families(page: &str) -> BTreeMap<String, (String, BTreeSet<String>)> {
    let mut found: BTreeMap<String, (String, BTreeSet<String>)> = BTreeMap::new();
    let mut current = String::new();
    for line in page.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("a name and a type");
            let old = found.insert(name.to_string(), (kind.to_string(), BTreeSet::new()));
            assert!(old.is_none(), "{name} is there twice");
            current = name.to_string();
        } else if !line.starts_with('#') {
            assert!(line.starts_with(&current), "{line} is not below {current}");
            let (kind, labels) = found.get_mut(&current).expect("a family");
            let Some((_, rest)) = line.split_once('{') else { continue };
            let (inside, _) = rest.rsplit_once('}').expect("labels end");
            for pair in inside.split("\",") {
                let (label, _) = pair.split_once("=\"").expect("a label and its value");
                if !(kind == "histogram" && label == "le") {
                    labels.insert(label.to_string());
                }
            }
        }
    }
    found
}

#[test]
fn metrics_have_etcds_names_types_and_labels() {
    let cluster = Cluster::start("http-metrics", 3, &[]);
    let webs: Vec<Web> = cluster.members.iter().map(|member| Web::new(&member.client())).collect();
    let web = &webs[0];
    // Something of everything.
    web.ok("/v3/kv/put", r#"{"key":"YQ==","value":"YQ=="}"#);
    web.ok("/v3/kv/put", r#"{"key":"Yg=="}"#);
    web.ok("/v3/kv/range", r#"{"key":"YQ=="}"#);
    web.ok("/v3/kv/deleterange", r#"{"key":"YQ==","range_end":"Yw=="}"#);
    web.ok("/v3/lease/grant", r#"{"TTL":60,"ID":1}"#);
    let kept = web.post("/v3/lease/keepalive", r#"{"ID":1}"#);
    assert_eq!(kept.0, 200);
    web.ok("/v3/lease/revoke", r#"{"ID":1}"#);
    web.get("/readyz");
    let member = web.ok("/v3/maintenance/status", "{}")["header"]["member_id"].clone();
    let alarm = json!({ "action": "ACTIVATE", "memberID": member, "alarm": "NOSPACE" });
    web.ok("/v3/maintenance/alarm", &alarm.to_string());
    let value = |page: &str, line: &str| -> f64 {
        let line = line.to_string() + " ";
        let value = page.lines().find_map(|l| l.strip_prefix(&line));
        value.unwrap_or_else(|| panic!("no {line}in {page}")).parse().expect("a number")
    };
    // Pings come once a second.
    let measured = |page: &str| {
        let rtt = "etcd_network_peer_round_trip_time_seconds_count{";
        page.lines().filter(|l| l.starts_with(rtt) && !l.ends_with(" 0")).count() == 2
    };
    let mut page = web.get("/metrics").1;
    for _ in 0..200 {
        if measured(&page) {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
        page = web.get("/metrics").1;
    }
    assert!(measured(&page), "{page}");
    let found = families(&page);
    for (name, kind, labels) in METRICS {
        let Some((found_kind, found_labels)) = found.get(*name) else { panic!("no {name}") };
        assert_eq!(found_kind, kind, "{name}");
        let found_labels: Vec<&str> = found_labels.iter().map(String::as_str).collect();
        assert_eq!(found_labels.join(" "), *labels, "{name}");
    }
    // What is not etcd's does not borrow its name.
    for name in found.keys() {
        let is_listed = METRICS.iter().any(|(listed, _, _)| listed == name);
        assert!(is_listed || name.starts_with("quorate_"), "{name} is in no list");
    }
    let document = include_str!("../../docs/compatibility.md");
    for name in ABSENT {
        assert!(document.contains(&format!("`{name}`")), "docs/compatibility.md lacks {name}");
    }

    // The figures are those of what was done.
    for (line, expected) in [
        ("etcd_mvcc_put_total", 2.0),
        ("etcd_mvcc_delete_total", 2.0),
        ("etcd_mvcc_txn_total", 1.0),
        ("etcd_mvcc_range_total", 1.0),
        ("etcd_debugging_mvcc_total_put_size_in_bytes", 3.0),
        ("etcd_debugging_lease_granted_total", 1.0),
        ("etcd_debugging_lease_renewed_total", 1.0),
        ("etcd_debugging_lease_revoked_total", 1.0),
        ("etcd_debugging_server_lease_expired_total", 0.0),
        ("etcd_debugging_lease_ttl_total_bucket{le=\"64\"}", 1.0),
        (
            "etcd_server_apply_duration_seconds_count{version=\"v3\",op=\"Put\",success=\"true\"}",
            2.0,
        ),
        ("etcd_server_healthcheck{type=\"readyz\",name=\"non_learner\"}", 1.0),
        ("etcd_server_client_requests_total{type=\"stream\",client_api_version=\"unknown\"}", 1.0),
    ] {
        assert_eq!(value(&page, line), expected, "{line}");
    }
    assert!(value(&page, "etcd_server_health_success") >= 1.0);
    let up = page.lines().filter(|l| l.starts_with("etcd_network_active_peers{")).count();
    assert_eq!(up, 2);
    // What is applied is counted by every member.
    for web in &webs[1..] {
        let page = web.get("/metrics").1;
        assert_eq!(value(&page, "etcd_debugging_lease_granted_total"), 1.0);
        assert_eq!(value(&page, "etcd_mvcc_put_total"), 2.0);
    }
}
