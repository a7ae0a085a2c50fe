//! Clusters of real processes on loopback, etcd's and Quorate's alike.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Etcd,
    Quorate,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Kind::Etcd => "etcd",
            Kind::Quorate => "quorate",
        }
    }
}

/// One running cluster. Dropping it ends the processes it started.
pub struct Cluster {
    pub kind: Kind,
    binary: PathBuf,
    folder: PathBuf,
    members: Vec<Child>,
    base_port: u16,
    count: usize,
}

impl Cluster {
    /// Starts `count` members on ports from `base_port` on, with data below `folder`.
    pub fn start(
        kind: Kind,
        binary: &Path,
        folder: &Path,
        base_port: u16,
        count: usize,
    ) -> Cluster {
        let mut cluster = Cluster {
            kind,
            binary: binary.to_path_buf(),
            folder: folder.to_path_buf(),
            members: Vec::new(),
            base_port,
            count,
        };
        for member in 0..count {
            let child = cluster.spawn(member);
            cluster.members.push(child);
        }
        cluster
    }

    fn spawn(&self, member: usize) -> Child {
        let client = self.client_address(member);
        let peer = |m: usize| format!("http://127.0.0.1:{}", self.base_port + 2 * m as u16 + 1);
        let initial: Vec<String> = (0..self.count).map(|m| format!("m{m}={}", peer(m))).collect();
        let log = std::fs::File::create(self.folder.join(format!("m{member}.log")))
            .expect("the benchmark's own folder takes a log file");
        Command::new(&self.binary)
            .arg("--name")
            .arg(format!("m{member}"))
            .arg("--data-dir")
            .arg(self.folder.join(format!("m{member}.data")))
            .arg("--listen-client-urls")
            .arg(format!("http://{client}"))
            .arg("--advertise-client-urls")
            .arg(format!("http://{client}"))
            .arg("--listen-peer-urls")
            .arg(peer(member))
            .arg("--initial-advertise-peer-urls")
            .arg(peer(member))
            .arg("--initial-cluster")
            .arg(initial.join(","))
            .arg("--log-level=error")
            .arg("--quota-backend-bytes=8589934592")
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("{} does not start: {error}", self.binary.display()))
    }

    pub fn client_address(&self, member: usize) -> String {
        format!("127.0.0.1:{}", self.base_port + 2 * member as u16)
    }

    pub fn addresses(&self) -> Vec<String> {
        (0..self.count).map(|m| self.client_address(m)).collect()
    }

    /// User and system seconds that all members have used so far.
    pub fn cpu_seconds(&self) -> f64 {
        self.members.iter().map(|child| cpu_seconds(child.id())).sum()
    }

    /// Resident and anonymous bytes of the first member.
    pub fn memory(&self) -> (u64, u64) {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.members[0].id()))
            .unwrap_or_default();
        let field = |name: &str| {
            status
                .lines()
                .find_map(|line| line.strip_prefix(name))
                .and_then(|rest| rest.trim().trim_end_matches(" kB").trim().parse::<u64>().ok())
                .unwrap_or(0)
                * 1024
        };
        (field("VmRSS:"), field("RssAnon:"))
    }

    /// Ends every member in an orderly way and waits for it.
    pub fn stop(&mut self) {
        for child in &self.members {
            let _ = Command::new("kill").arg("-TERM").arg(child.id().to_string()).status();
        }
        let limit = Instant::now() + Duration::from_secs(20);
        for child in &mut self.members {
            while child.try_wait().ok().flatten().is_none() {
                if Instant::now() > limit {
                    let _ = child.kill();
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        self.members.clear();
    }

    /// Starts all members again on the data they have; the time of `exec` comes back.
    pub fn restart(&mut self) -> Instant {
        let begun = Instant::now();
        self.members = (0..self.count).map(|member| self.spawn(member)).collect();
        begun
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for child in &mut self.members {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn cpu_seconds(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // Fields are counted behind the command name, which may hold blanks: utime is the 12th.
    let Some((_, rest)) = stat.rsplit_once(')') else { return 0.0 };
    let ticks: Vec<u64> = rest.split_whitespace().skip(11).take(2).flat_map(str::parse).collect();
    ticks.iter().sum::<u64>() as f64 / 100.0
}
