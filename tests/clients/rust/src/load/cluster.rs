//! Three members as processes of this program: killed, started again, watched for their memory.

use super::messages::*;
use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

pub struct Cluster {
    server: PathBuf,
    folder: PathBuf,
    ports: Vec<u16>,
    members: Mutex<Vec<Child>>,
    rss_max: Mutex<Vec<u64>>,
}

const COUNT: usize = 3;

impl Cluster {
    pub fn start(server: PathBuf, folder: PathBuf) -> Cluster {
        let held: Vec<_> = (0..2 * COUNT)
            .map(|_| std::net::TcpListener::bind("127.0.0.1:0").expect("a free port"))
            .collect();
        let ports = held.iter().map(|l| l.local_addr().expect("it is bound").port()).collect();
        drop(held);
        let rss_max = Mutex::new(vec![0; COUNT]);
        let cluster = Cluster { server, folder, ports, members: Mutex::default(), rss_max };
        for n in 0..COUNT {
            let child = cluster.spawn(n);
            cluster.members.lock().unwrap().push(child);
        }
        cluster
    }

    fn spawn(&self, n: usize) -> Child {
        let peer = |n: usize| format!("http://127.0.0.1:{}", self.ports[COUNT + n]);
        let all: Vec<String> = (0..COUNT).map(|n| format!("m{n}={}", peer(n))).collect();
        let client = format!("http://{}", self.address(n));
        let log = File::options().create(true).append(true).open(self.folder.join(format!("m{n}.log")));
        Command::new(&self.server)
            .args(["--name", &format!("m{n}")])
            .args(["--data-dir", &self.folder.join(format!("m{n}.data")).to_string_lossy()])
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer(n), "--initial-advertise-peer-urls", &peer(n)])
            .args(["--initial-cluster", &all.join(","), "--log-level", "warn"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log.expect("the folder takes a log"))
            .spawn()
            .expect("the server starts")
    }

    pub fn address(&self, n: usize) -> String {
        format!("127.0.0.1:{}", self.ports[n % COUNT])
    }

    /// The member that says it leads, waiting for one.
    pub async fn leader(&self) -> usize {
        let limit = Instant::now() + Duration::from_secs(30);
        loop {
            for n in 0..COUNT {
                let answer = call(&channel(&self.address(n)), STATUS, StatusQuestion {}, 2).await;
                if let Ok(StatusAnswer { header: Some(header), leader }) = answer
                    && leader != 0
                    && header.member_id == leader
                {
                    return n;
                }
            }
            assert!(Instant::now() < limit, "no member leads after 30 s");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// kill -9, and the same member again on its data a second later.
    pub async fn kill_and_restart(&self, n: usize) {
        {
            let mut members = self.members.lock().unwrap();
            members[n].kill().expect("it runs");
            members[n].wait().expect("it is this program's child");
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        let child = self.spawn(n);
        self.members.lock().unwrap()[n] = child;
    }

    /// Resident bytes of every member now; the largest of each are kept.
    pub fn sample(&self) -> Vec<u64> {
        let now: Vec<u64> = self.members.lock().unwrap().iter().map(|m| rss(m.id())).collect();
        for (max, now) in self.rss_max.lock().unwrap().iter_mut().zip(&now) {
            *max = (*max).max(*now);
        }
        now
    }

    pub fn rss_max(&self) -> Vec<u64> {
        self.rss_max.lock().unwrap().clone()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for child in self.members.lock().unwrap().iter_mut() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn rss(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or("0");
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or(0) * 1024
}

pub fn mib(bytes: &[u64]) -> String {
    let each: Vec<String> = bytes.iter().map(|b| format!("{}", b >> 20)).collect();
    format!("{} MiB", each.join(" / "))
}
