//! What goes wrong at start: each a one-line error that says what to do, a non-zero exit, and
//! nothing touched.

use crate::harness::{Cluster, TempDir, free_port, server_binary};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Runs the server, which must refuse to start; its last error line comes back.
fn refused(args: &[&str]) -> (i32, String) {
    let mut child = Command::new(server_binary())
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the server binary starts");
    let begun = Instant::now();
    while child.try_wait().expect("the child can be waited for").is_none() {
        if begun.elapsed() > Duration::from_secs(15) {
            let _ = child.kill();
            panic!("{args:?} started instead of being refused");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let output = child.wait_with_output().expect("the child ended");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let code = output.status.code().unwrap_or(-1);
    assert_ne!(code, 0, "{args:?} ended well: {text}");
    assert!(!text.contains("panicked"), "{args:?}: {text}");
    let last = text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default().to_string();
    (code, last)
}

fn assert_says(args: &[&str], parts: &[&str]) {
    let (_, line) = refused(args);
    for part in parts {
        assert!(line.contains(part), "{args:?} said {line:?}, which lacks {part:?}");
    }
}

#[test]
fn flags() {
    let dir = TempDir::new("flags");
    let data = dir.path().join("data");
    let data = data.display().to_string();
    assert_says(&["--no-such-flag"], &["no-such-flag"]);
    assert_says(
        &["--data-dir", &data, "--listen-client-urls", "127.0.0.1:1"],
        &["listen-client-urls"],
    );
    assert_says(&["--data-dir", &data, "--listen-peer-urls", "http://"], &["listen-peer-urls"]);
    assert_says(
        &["--data-dir", &data, "--name", "a", "--initial-cluster", "b=http://127.0.0.1:1"],
        &["initial-cluster", "\"a\""],
    );
    assert_says(
        &["--data-dir", &data, "--election-timeout", "200"],
        &["election-timeout", "heartbeat-interval"],
    );
    assert!(!Path::new(&data).exists(), "a refused start touched the data directory");
}

fn lone(dir: &TempDir, token: &str) -> Vec<String> {
    let (client, peer) = (free_port(), free_port());
    [
        "--name=m1".to_string(),
        format!("--data-dir={}", dir.path().join("m1.data").display()),
        format!("--listen-client-urls=http://127.0.0.1:{client}"),
        format!("--advertise-client-urls=http://127.0.0.1:{client}"),
        format!("--listen-peer-urls=http://127.0.0.1:{peer}"),
        format!("--initial-advertise-peer-urls=http://127.0.0.1:{peer}"),
        format!("--initial-cluster=m1=http://127.0.0.1:{peer}"),
        format!("--initial-cluster-token={token}"),
    ]
    .to_vec()
}

fn strs(args: &[String]) -> Vec<&str> {
    args.iter().map(String::as_str).collect()
}

#[test]
fn a_data_directory_in_use_and_a_port_in_use() {
    let cluster = Cluster::start("inuse", 1, &[]);
    let member = &cluster.members[0];
    let other = TempDir::new("inuse-other");
    let mut args = lone(&other, "it");
    args[1] = format!("--data-dir={}", member.data_dir.display());
    assert_says(&strs(&args), &["in use by another process"]);

    let mut args = lone(&other, "it");
    args[2] = format!("--listen-client-urls=http://{}", member.client());
    args[3] = format!("--advertise-client-urls=http://{}", member.client());
    assert_says(&strs(&args), &["in use", &member.client_port.to_string()]);
}

#[test]
fn a_data_directory_of_another_cluster() {
    let mut cluster = Cluster::start("foreign", 1, &[]);
    let (status, _) = cluster.members[0].terminate();
    assert!(status.success());
    let before = listing(&cluster.members[0].data_dir);
    let mut args = lone(&cluster.dir, "another token");
    args[1] = format!("--data-dir={}", cluster.members[0].data_dir.display());
    assert_says(&strs(&args), &["cluster", "data"]);
    assert_eq!(before, listing(&cluster.members[0].data_dir), "a refused start changed files");
}

/// Names and sizes of everything below a folder.
fn listing(dir: &Path) -> Vec<(String, u64)> {
    let mut found = Vec::new();
    let mut folders = vec![dir.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("the folder is readable").flatten() {
            let meta = entry.metadata().expect("the entry is readable");
            if meta.is_dir() {
                folders.push(entry.path());
            } else {
                found.push((entry.path().display().to_string(), meta.len()));
            }
        }
    }
    found.sort();
    found
}

/// Flips bytes in the middle of what a file holds.
fn damage(path: &Path, offset: usize) {
    let mut bytes = std::fs::read(path).expect("the file is readable");
    for byte in &mut bytes[offset..offset + 64] {
        *byte ^= 0x5a;
    }
    std::fs::write(path, bytes).expect("the file is writable");
}

fn written_member(name: &str) -> Cluster {
    let mut cluster = Cluster::start(name, 1, &[]);
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let client = crate::client::Client::new(&cluster.members[0].client());
        for n in 0..200 {
            client.put(&format!("key/{n}"), &"v".repeat(300)).await.expect("a put");
        }
    });
    cluster.members[0].kill();
    cluster
}

#[test]
fn a_log_damaged_before_its_end() {
    let mut cluster = written_member("wal-damage");
    let wal = cluster.members[0].data_dir.join("member/wal");
    let segment = std::fs::read_dir(&wal)
        .expect("the log has a folder")
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|e| e == "wal"))
        .min()
        .expect("the log has a segment");
    damage(&segment, 20_000);
    cluster.members[0].start();
    let text = wait_exit(&mut cluster);
    assert!(text.contains("damaged at offset"), "{text}");
    assert!(
        text.contains(&segment.file_name().unwrap_or_default().display().to_string()),
        "{text}"
    );
}

#[test]
fn a_damaged_store() {
    let mut cluster = written_member("store-damage");
    // A clean stop writes a checkpoint, so that the store holds the data.
    cluster.members[0].start();
    cluster.wait_ready();
    let (status, _) = cluster.members[0].terminate();
    assert!(status.success());
    let store = cluster.members[0].data_dir.join("member/snap/db");
    let len = std::fs::metadata(&store).expect("the store exists").len();
    // Both meta pages: nothing is left to start from.
    damage(&store, 0);
    damage(&store, 64);
    damage(&store, 4096);
    damage(&store, 4096 + 64);
    assert_eq!(std::fs::metadata(&store).expect("the store exists").len(), len);
    cluster.members[0].start();
    let text = wait_exit(&mut cluster);
    assert!(text.contains("damaged"), "{text}");
    assert!(text.contains("snap/db"), "{text}");
}

/// Waits for the first member to end by itself with an error; its log comes back.
fn wait_exit(cluster: &mut Cluster) -> String {
    let pid = cluster.members[0].pid();
    let begun = Instant::now();
    loop {
        let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // A zombie has ended; it is reaped when the member is dropped.
        if state.is_empty() || state.rsplit(')').next().is_some_and(|s| s.trim().starts_with('Z')) {
            return cluster.members[0].log_text();
        }
        assert!(
            begun.elapsed() < Duration::from_secs(15),
            "the damaged member goes on: {}",
            cluster.members[0].log_text()
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_peer_of_another_cluster_is_refused_by_both_sides() {
    // Two lone clusters, each of which believes that the other's address is its second member.
    let dir = TempDir::new("mismatch");
    let (peer_a, peer_b) = (free_port(), free_port());
    let both = format!("a=http://127.0.0.1:{peer_a},b=http://127.0.0.1:{peer_b}");
    let mut members = Vec::new();
    for (name, peer, token) in [("a", peer_a, "one"), ("b", peer_b, "two")] {
        let client = free_port();
        let log = dir.path().join(format!("{name}.log"));
        let child = Command::new(server_binary())
            .arg(format!("--name={name}"))
            .arg(format!("--data-dir={}", dir.path().join(name).display()))
            .arg(format!("--listen-client-urls=http://127.0.0.1:{client}"))
            .arg(format!("--advertise-client-urls=http://127.0.0.1:{client}"))
            .arg(format!("--listen-peer-urls=http://127.0.0.1:{peer}"))
            .arg(format!("--initial-advertise-peer-urls=http://127.0.0.1:{peer}"))
            .arg(format!("--initial-cluster={both}"))
            .arg(format!("--initial-cluster-token={token}"))
            .stderr(std::fs::File::create(&log).expect("the log opens"))
            .spawn()
            .expect("the server binary starts");
        members.push((child, log));
    }
    let begun = Instant::now();
    let said = |log: &Path| {
        let text = std::fs::read_to_string(log).unwrap_or_default();
        text.lines().any(|line| {
            line.contains("cluster ID mismatch")
                && ["remote-peer-cluster-id", "local-member-id", "local-member-cluster-id"]
                    .iter()
                    .all(|field| line.contains(field))
        })
    };
    while !members.iter().all(|(_, log)| said(log)) {
        assert!(begun.elapsed() < Duration::from_secs(20), "no mismatch in the logs");
        std::thread::sleep(Duration::from_millis(50));
    }
    for (child, _) in &mut members {
        let _ = child.kill();
        let _ = child.wait();
    }
}

#[test]
fn version_and_a_clean_stop() {
    let output = Command::new(server_binary()).arg("--version").output().expect("it runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let starts: Vec<&str> =
        text.lines().map(|line| line.split(':').next().unwrap_or_default()).collect();
    assert_eq!(starts[..4], ["etcd Version", "Git SHA", "Go Version", "Go OS/Arch"], "{text}");
    assert!(text.starts_with("etcd Version: 3.6."), "{text}");
    assert!(text.contains("\nQuorate Version: "), "{text}");

    let mut cluster = Cluster::start("stop", 1, &[]);
    wait_for_log(&cluster, "ready to serve client requests");
    let (status, took) = cluster.members[0].terminate();
    assert_eq!(status.code(), Some(0));
    assert!(took < Duration::from_secs(2), "{took:?}");
    let log = cluster.members[0].log_text();
    for line in log.lines() {
        let value: serde_json::Value = serde_json::from_str(line).expect("one JSON object a line");
        for field in ["level", "ts", "caller", "msg"] {
            assert!(value.get(field).is_some(), "{line} lacks {field}");
        }
    }
}

fn wait_for_log(cluster: &Cluster, text: &str) {
    let begun = Instant::now();
    while !cluster.members[0].log_text().contains(text) {
        assert!(begun.elapsed() < Duration::from_secs(10), "the log never said {text:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
