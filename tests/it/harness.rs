//! Real processes for the product tests: members on loopback, and `etcdctl` against them.
//!
//! `QUORATE_TEST_SERVER=/path/to/etcd` runs the same tests against another server: that is how
//! the expected texts were checked against etcd itself.

use std::io::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// A folder that goes away with the test, unless the test fails: then it stays for a look.
pub struct TempDir(pub PathBuf);

impl TempDir {
    pub fn new(name: &str) -> TempDir {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let path = std::env::temp_dir().join(format!(
            "quorate-it-{}-{}-{name}",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        ));
        std::fs::create_dir_all(&path).expect("the temporary folder takes a directory");
        TempDir(path)
    }
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("kept for a look: {}", self.0.display());
        } else {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }
}

pub fn server_binary() -> PathBuf {
    match std::env::var_os("QUORATE_TEST_SERVER") {
        Some(path) => PathBuf::from(path),
        None => PathBuf::from(env!("CARGO_BIN_EXE_quorate")),
    }
}

/// Whether the tests run against Quorate itself (and not the server they were checked with).
pub fn is_quorate() -> bool {
    std::env::var_os("QUORATE_TEST_SERVER").is_none()
}

/// A port that was free a moment ago, below the range the kernel hands out by itself, so that
/// no outgoing connection takes it in between. Each test process has its own slice.
pub fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let slice = 12_000 + (std::process::id() % 160) * 100;
    for _ in 0..2_000 {
        let port = slice + NEXT.fetch_add(1, Ordering::Relaxed) % 2_000;
        let Ok(port) = u16::try_from(port) else { continue };
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no free port on 127.0.0.1");
}

/// One member: how to start it, and the process while it runs.
pub struct Member {
    pub name: String,
    pub client_port: u16,
    pub peer_port: u16,
    pub data_dir: PathBuf,
    pub log: PathBuf,
    args: Vec<String>,
    child: Option<Child>,
}

impl Member {
    /// A member with data and log below `dir`; `ports` are the clients' and the peers'.
    pub fn new(
        dir: &Path,
        name: &str,
        ports: (u16, u16),
        initial_cluster: &str,
        state: &str,
        extra: &[&str],
    ) -> Member {
        let (client, peer) = ports;
        let data_dir = dir.join(format!("{name}.data"));
        let mut args: Vec<String> = [
            "--name",
            name,
            "--data-dir",
            &data_dir.display().to_string(),
            "--listen-client-urls",
            &format!("http://127.0.0.1:{client}"),
            "--advertise-client-urls",
            &format!("http://127.0.0.1:{client}"),
            "--listen-peer-urls",
            &format!("http://127.0.0.1:{peer}"),
            "--initial-advertise-peer-urls",
            &format!("http://127.0.0.1:{peer}"),
            "--initial-cluster",
            initial_cluster,
            "--initial-cluster-token",
            "it",
            "--initial-cluster-state",
            state,
        ]
        .iter()
        .map(ToString::to_string)
        .collect();
        args.extend(extra.iter().map(ToString::to_string));
        Member {
            log: dir.join(format!("{name}.log")),
            name: name.to_string(),
            client_port: client,
            peer_port: peer,
            data_dir,
            args,
            child: None,
        }
    }

    pub fn peer_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.peer_port)
    }
    /// `name=URL`, as in `--initial-cluster`.
    pub fn initial(&self) -> String {
        format!("{}={}", self.name, self.peer_url())
    }
    /// Replaces the value of a flag for the next start.
    pub fn set_flag(&mut self, flag: &str, value: &str) {
        let at = self.args.iter().position(|arg| arg == flag).expect("a flag of `Member::new`");
        self.args[at + 1] = value.to_string();
    }
    /// Waits for the process to end by itself.
    pub fn wait_end(&mut self, limit: Duration) -> ExitStatus {
        let child = self.child.as_mut().expect("the member runs");
        let begun = Instant::now();
        while begun.elapsed() < limit {
            if let Some(status) = child.try_wait().expect("the child can be waited for") {
                self.child = None;
                return status;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("{} did not end by itself within {limit:?}\n{}", self.name, self.log_text());
    }
    pub fn client(&self) -> String {
        format!("127.0.0.1:{}", self.client_port)
    }
    pub fn is_running(&self) -> bool {
        self.child.is_some()
    }
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("the member runs").id()
    }
    pub fn start(&mut self) {
        assert!(self.child.is_none(), "{} runs already", self.name);
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(&self.log)
            .expect("the log file opens");
        let child = Command::new(server_binary())
            .args(&self.args)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("the server binary starts");
        self.child = Some(child);
    }
    /// SIGKILL, at once.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
    /// SIGTERM, and how the process ended and how long it took.
    pub fn terminate(&mut self) -> (ExitStatus, Duration) {
        let mut child = self.child.take().expect("the member runs");
        let begun = Instant::now();
        let sent = Command::new("kill").arg("-TERM").arg(child.id().to_string()).status();
        assert!(sent.is_ok_and(|s| s.success()), "the signal was not sent");
        while begun.elapsed() < Duration::from_secs(20) {
            if let Some(status) = child.try_wait().expect("the child can be waited for") {
                return (status, begun.elapsed());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = child.kill();
        let _ = child.wait();
        panic!("{} did not stop within 20 s of SIGTERM", self.name);
    }
    pub fn log_text(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A cluster of real processes on loopback.
pub struct Cluster {
    pub members: Vec<Member>,
    pub dir: TempDir,
}

impl Cluster {
    /// Starts `count` members with `extra` flags and waits until each answers a linearizable
    /// read.
    pub fn start(name: &str, count: usize, extra: &[&str]) -> Cluster {
        let mut cluster = Cluster::prepare(name, count, extra);
        for member in &mut cluster.members {
            member.start();
        }
        cluster.wait_ready();
        cluster
    }

    pub fn prepare(name: &str, count: usize, extra: &[&str]) -> Cluster {
        let dir = TempDir::new(name);
        let ports: Vec<(u16, u16)> = (0..count).map(|_| (free_port(), free_port())).collect();
        let initial: Vec<String> = ports
            .iter()
            .enumerate()
            .map(|(at, (_, peer))| format!("m{}=http://127.0.0.1:{peer}", at + 1))
            .collect();
        let members = ports
            .iter()
            .enumerate()
            .map(|(at, &ports)| {
                let name = format!("m{}", at + 1);
                Member::new(dir.path(), &name, ports, &initial.join(","), "new", extra)
            })
            .collect();
        Cluster { members, dir }
    }

    pub fn endpoints(&self) -> String {
        self.members.iter().map(Member::client).collect::<Vec<_>>().join(",")
    }

    /// Waits until every running member answers a linearizable read.
    pub fn wait_ready(&self) {
        for member in self.members.iter().filter(|m| m.is_running()) {
            wait_serving(&member.client(), Duration::from_secs(30))
                .unwrap_or_else(|text| panic!("{}: {text}\n{}", member.name, member.log_text()));
        }
    }
}

/// Waits until `/health` answers 200.
pub fn wait_serving(address: &str, limit: Duration) -> Result<(), String> {
    let begun = Instant::now();
    loop {
        match http_get(address, "/health") {
            Ok((200, _)) => return Ok(()),
            other if begun.elapsed() > limit => {
                return Err(format!("{address} does not serve: {other:?}"));
            }
            _ => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

/// A plain HTTP/1.1 GET: status and body.
pub fn http_get(address: &str, path: &str) -> Result<(u16, String), String> {
    use std::io::Read as _;
    let mut socket = std::net::TcpStream::connect(address).map_err(|e| e.to_string())?;
    socket.set_read_timeout(Some(Duration::from_secs(10))).map_err(|e| e.to_string())?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).map_err(|e| e.to_string())?;
    let mut text = String::new();
    socket.read_to_string(&mut text).map_err(|e| e.to_string())?;
    let status = text
        .split_whitespace()
        .nth(1)
        .and_then(|code| code.parse().ok())
        .ok_or_else(|| format!("not HTTP: {text:?}"))?;
    let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body).to_string();
    Ok((status, body))
}

/// What a command line printed.
#[derive(Debug)]
pub struct Ran {
    pub stdout: String,
    pub stderr: String,
    pub code: i32,
}

/// Whether `etcdctl` is here. Without it the test prints SKIPPED, or fails when the caller
/// says that external tools are required (.ci/run does).
pub fn have_etcdctl(test: &str) -> bool {
    let found = Command::new(etcdctl_binary()).arg("version").output().is_ok();
    if !found {
        let text = format!("SKIPPED {test}: etcdctl is not installed (Debian package etcd-client)");
        assert!(std::env::var_os("QUORATE_REQUIRE_EXTERNAL").is_none(), "{text}");
        println!("{text}");
    }
    found
}

/// `QUORATE_ETCDCTL` names another etcdctl than the one on the path.
fn etcdctl_binary() -> std::ffi::OsString {
    std::env::var_os("QUORATE_ETCDCTL").unwrap_or_else(|| "etcdctl".into())
}

pub struct Etcdctl {
    pub endpoints: String,
}

impl Etcdctl {
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(etcdctl_binary());
        command.env("ETCDCTL_API", "3").arg("--endpoints").arg(&self.endpoints).args(args);
        command
    }
    pub fn run(&self, args: &[&str]) -> Ran {
        self.run_with_input(args, "")
    }
    pub fn run_with_input(&self, args: &[&str], input: &str) -> Ran {
        let mut child = self
            .command(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("etcdctl starts");
        child
            .stdin
            .take()
            .expect("stdin is piped")
            .write_all(input.as_bytes())
            .expect("etcdctl reads its input");
        let output = child.wait_with_output().expect("etcdctl ends");
        Ran {
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            code: output.status.code().unwrap_or(-1),
        }
    }
    /// Runs and expects success; what it printed comes back.
    pub fn ok(&self, args: &[&str]) -> String {
        let ran = self.run(args);
        assert!(ran.code == 0, "etcdctl {args:?} failed: {ran:?}");
        ran.stdout
    }
}
