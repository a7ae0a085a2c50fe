//! The two servers: one Quorate and one etcd, alone in their clusters, as fresh as the caller asks.

use crate::call::{Answer, Call, Reply, send};
use crate::harness::{Cluster, TempDir, free_port, wait_serving};
use quorate::api::proto::etcdserverpb as pb;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tonic::metadata::MetadataMap;
use tonic::transport::{Channel, Endpoint};

const START_MAX: Duration = Duration::from_secs(30);

/// Comparing a password takes its time by default, on purpose.
const CHEAP_PASSWORDS: &[&str] = &["--bcrypt-cost", "4"];

/// etcd's binary: `QUORATE_ETCD`, or where `benches/get-etcd.sh` puts it by default, or on the
/// path. Only 3.5 is the server whose differences are listed.
pub fn etcd_binary(test: &str) -> Option<PathBuf> {
    let named = std::env::var_os("QUORATE_ETCD").map(PathBuf::from);
    let found = named
        .into_iter()
        .chain(["/tmp/etcd35/usr/bin/etcd".into(), "etcd".into()])
        .find(|path: &PathBuf| is_35(path));
    if found.is_none() {
        let text = format!(
            "SKIPPED {test}: there is no etcd 3.5 (benches/get-etcd.sh /tmp/etcd35 fetches one)"
        );
        assert!(std::env::var_os("QUORATE_REQUIRE_EXTERNAL").is_none(), "{text}");
        println!("{text}");
    }
    found
}

fn is_35(path: &Path) -> bool {
    let Ok(output) = Command::new(path).arg("--version").output() else { return false };
    String::from_utf8_lossy(&output.stdout).starts_with("etcd Version: 3.5.")
}

/// A server, and what has to be known of it to compare its answers with the other's.
pub struct Server {
    pub channel: Channel,
    /// Of clients, `host:port`.
    pub address: String,
    pub cluster_id: u64,
    pub member_id: u64,
    /// Its own addresses, as its member list gives them.
    pub urls: Vec<String>,
}

impl Server {
    async fn new(name: &'static str, address: &str) -> Server {
        let endpoint = Endpoint::from_shared(format!("http://{address}"))
            .expect("an address of the test's own")
            .tcp_nodelay(true);
        let channel = endpoint.connect_lazy();
        let begun = Instant::now();
        // A member that serves may still be about to publish its addresses.
        let (header, member) = loop {
            let list = Call::MemberList(pb::MemberListRequest::default());
            let list = send(&channel, &list, MetadataMap::new()).await;
            let Answer::Reply(Reply::MemberList(list)) = list else { panic!("{name}: {list:?}") };
            let member = list.members.into_iter().next().expect("a member");
            if !member.client_ur_ls.is_empty() {
                break (list.header.expect("a header"), member);
            }
            assert!(begun.elapsed() < START_MAX, "{name} does not publish itself");
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        let mut urls = member.peer_ur_ls;
        urls.extend(member.client_ur_ls);
        let (cluster_id, member_id) = (header.cluster_id, header.member_id);
        assert!(cluster_id != 0 && member_id != 0, "{name} does not know itself: {header:?}");
        Server { channel, address: address.to_string(), cluster_id, member_id, urls }
    }
}

/// Both, and their processes.
pub struct Pair {
    pub ours: Server,
    pub etcd: Server,
    process: Child,
    _cluster: Cluster,
    dir: TempDir,
}

impl Pair {
    /// Whether etcd has ended over a range after a txn in which a key changed twice, as 3.5 does
    /// once that revision is compacted.
    pub fn has_etcd_died(&mut self) -> bool {
        let begun = Instant::now();
        while !matches!(self.process.try_wait(), Ok(Some(_))) {
            // What it was asked fails a moment before it is gone.
            if begun.elapsed() > Duration::from_secs(1) {
                return false;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let log = std::fs::read_to_string(self.dir.path().join("etcd.log")).unwrap_or_default();
        log.contains("range failed to find revision pair")
    }

    pub async fn start(etcd: &Path) -> Pair {
        let dir = TempDir::new("differential");
        let (client, peer) = (free_port(), free_port());
        let mut process = Command::new(etcd)
            .args(["--name", "m1", "--unsafe-no-fsync", "--log-level", "error"])
            .args(CHEAP_PASSWORDS)
            .arg(format!("--data-dir={}", dir.path().join("etcd").display()))
            .arg(format!("--listen-client-urls=http://127.0.0.1:{client}"))
            .arg(format!("--advertise-client-urls=http://127.0.0.1:{client}"))
            .arg(format!("--listen-peer-urls=http://127.0.0.1:{peer}"))
            .arg(format!("--initial-advertise-peer-urls=http://127.0.0.1:{peer}"))
            .arg(format!("--initial-cluster=m1=http://127.0.0.1:{peer}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(dir.path().join("etcd.log")).expect("a log file"))
            .spawn()
            .expect("etcd starts");
        let cluster = Cluster::start("differential", 1, CHEAP_PASSWORDS);
        let address = format!("127.0.0.1:{client}");
        if let Err(text) = wait_serving(&address, START_MAX) {
            let _ = process.kill();
            panic!("etcd: {text}");
        }
        Pair {
            ours: Server::new("quorate", &cluster.members[0].client()).await,
            etcd: Server::new("etcd", &address).await,
            process,
            _cluster: cluster,
            dir,
        }
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
