//! Quorate beside etcd, alternately in one run, as ratios.
//!
//!   benches/get-etcd.sh /tmp/etcd35
//!   cargo bench --bench versus -- --etcd /tmp/etcd35/usr/bin/etcd
//!
//! Options: `--members 1,3`, `--clients 1,100,1000`, `--seconds 4` (per case and round),
//! `--rounds 3`, `--keys 1000000` (the start-up case; 0 leaves it out), `--quorate PATH`.
//! Servers listen on 127.0.0.1 only, with fsync on; every load is bounded in time; the data is
//! below a temporary folder that is removed at the end. One figure means little on a shared
//! machine: read the ratios, which are medians over rounds that alternate between the servers.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a benchmark looks at the real clock and works on real files"
)]

mod cluster;
mod grpc;

use cluster::{Cluster, Kind};
use grpc::Connection;
use quorate::api::proto::etcdserverpb as pb;
use std::cell::{Cell, RefCell};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

const VALUE_BYTES: usize = 256;
const KEY_SPACE: u64 = 30_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Load {
    Put,
    Get { serializable: bool },
}

impl Load {
    fn name(self) -> &'static str {
        match self {
            Load::Put => "put",
            Load::Get { serializable: false } => "get (linearizable)",
            Load::Get { serializable: true } => "get (serializable)",
        }
    }
}

/// What one case on one server gave.
#[derive(Clone, Copy, Debug, Default)]
struct Figures {
    per_second: f64,
    p50_ms: f64,
    p99_ms: f64,
    cpu_us: f64,
}

struct Options {
    etcd: Option<PathBuf>,
    quorate: PathBuf,
    members: Vec<usize>,
    clients: Vec<usize>,
    seconds: f64,
    rounds: usize,
    keys: u64,
}

fn options() -> Options {
    let mut options = Options {
        etcd: None,
        quorate: PathBuf::from(env!("CARGO_BIN_EXE_quorate")),
        members: vec![1, 3],
        clients: vec![1, 100, 1000],
        seconds: 4.0,
        rounds: 3,
        keys: 1_000_000,
    };
    let list = |text: &str| text.split(',').map(|n| n.parse().expect("a number")).collect();
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        if name == "--bench" {
            continue;
        }
        let value = arguments.next().unwrap_or_else(|| panic!("{name} needs a value"));
        match name.as_str() {
            "--etcd" => options.etcd = Some(PathBuf::from(value)),
            "--quorate" => options.quorate = PathBuf::from(value),
            "--members" => options.members = list(&value),
            "--clients" => options.clients = list(&value),
            "--seconds" => options.seconds = value.parse().expect("seconds"),
            "--rounds" => options.rounds = value.parse().expect("a number of rounds"),
            "--keys" => options.keys = value.parse().expect("a number of keys"),
            other => panic!("unknown option {other}; see the head of benches/versus/main.rs"),
        }
    }
    options
}

fn main() {
    let options = options();
    let folder = std::env::temp_dir().join(format!("quorate-versus-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a temporary folder");
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        for &members in &options.members {
            throughput(&options, &folder, members).await;
        }
        if options.keys > 0 {
            start_up(&options, &folder).await;
        }
    });
    let _ = std::fs::remove_dir_all(&folder);
}

/// The servers that take part: etcd only when its path was given.
fn kinds(options: &Options) -> Vec<(Kind, PathBuf)> {
    let mut kinds: Vec<(Kind, PathBuf)> = Vec::new();
    if let Some(path) = &options.etcd {
        kinds.push((Kind::Etcd, path.clone()));
    }
    kinds.push((Kind::Quorate, options.quorate.clone()));
    kinds
}

async fn throughput(options: &Options, folder: &std::path::Path, members: usize) {
    println!("\n== {members} member(s), {VALUE_BYTES} B values, {KEY_SPACE} keys, fsync on");
    println!(
        "{:<20} {:>7} | {:>9} {:>8} {:>8} {:>7} | {:>9} {:>8} {:>8} {:>7} | {:>6} {:>6} {:>6} {:>6}",
        "load",
        "clients",
        "etcd/s",
        "p50 ms",
        "p99 ms",
        "cpu us",
        "quor/s",
        "p50 ms",
        "p99 ms",
        "cpu us",
        "x/s",
        "x p50",
        "x p99",
        "x cpu"
    );
    let mut clusters = Vec::new();
    for (slot, (kind, binary)) in kinds(options).into_iter().enumerate() {
        let data = folder.join(format!("{}-{members}", kind.name()));
        std::fs::create_dir_all(&data).expect("a folder for the data");
        let cluster = Cluster::start(kind, &binary, &data, 23_100 + 100 * slot as u16, members);
        wait_ready(&cluster).await;
        clusters.push(cluster);
    }
    let loads = [Load::Put, Load::Get { serializable: false }, Load::Get { serializable: true }];
    for load in loads {
        for &clients in &options.clients {
            let mut all: Vec<Vec<Figures>> = vec![Vec::new(); clusters.len()];
            for round in 0..options.rounds {
                // A B, B A, A B, ...: neither always runs on the warmer machine.
                let mut order: Vec<usize> = (0..clusters.len()).collect();
                if round % 2 == 1 {
                    order.reverse();
                }
                for at in order {
                    let figures = run(&clusters[at], load, clients, options.seconds).await;
                    all[at].push(figures);
                }
            }
            report(load, clients, &clusters, &all);
        }
    }
    for cluster in &mut clusters {
        cluster.stop();
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

fn middle(rounds: &[Figures]) -> Figures {
    let of = |pick: fn(&Figures) -> f64| median(rounds.iter().map(pick).collect());
    Figures {
        per_second: of(|f| f.per_second),
        p50_ms: of(|f| f.p50_ms),
        p99_ms: of(|f| f.p99_ms),
        cpu_us: of(|f| f.cpu_us),
    }
}

fn report(load: Load, clients: usize, clusters: &[Cluster], all: &[Vec<Figures>]) {
    let of = |kind: Kind| clusters.iter().position(|c| c.kind == kind);
    let empty = Vec::new();
    let etcd = of(Kind::Etcd).map_or(&empty, |at| &all[at]);
    let quorate = of(Kind::Quorate).map_or(&empty, |at| &all[at]);
    let (e, q) = (middle(etcd), middle(quorate));
    let ratio = |pick: fn(&Figures) -> f64| {
        median(quorate.iter().zip(etcd).map(|(q, e)| pick(q) / pick(e)).collect())
    };
    println!(
        "{:<20} {:>7} | {:>9.0} {:>8.2} {:>8.2} {:>7.1} | {:>9.0} {:>8.2} {:>8.2} {:>7.1} | {:>6.2} {:>6.2} {:>6.2} {:>6.2}",
        load.name(),
        clients,
        e.per_second,
        e.p50_ms,
        e.p99_ms,
        e.cpu_us,
        q.per_second,
        q.p50_ms,
        q.p99_ms,
        q.cpu_us,
        ratio(|f| f.per_second),
        ratio(|f| f.p50_ms),
        ratio(|f| f.p99_ms),
        ratio(|f| f.cpu_us),
    );
}

/// Closed-loop load: each client sends its next request when the last one is answered. At most
/// 100 clients share a connection.
async fn run(cluster: &Cluster, load: Load, clients: usize, seconds: f64) -> Figures {
    let addresses = cluster.addresses();
    let mut connections = Vec::new();
    for at in 0..clients.div_ceil(100).max(addresses.len().min(clients)) {
        let address = &addresses[at % addresses.len()];
        connections.push(Connection::open(address).await.expect("the server accepts connections"));
    }
    let value = bytes::Bytes::from(vec![b'v'; VALUE_BYTES]);
    let latencies = Rc::new(RefCell::new(Vec::<u32>::with_capacity(1 << 20)));
    let failures = Rc::new(Cell::new(0_u64));
    let begun = Instant::now();
    // The first tenth warms caches and connections and is not counted.
    let counted_from = begun + Duration::from_secs_f64(seconds * 0.1);
    let end = begun + Duration::from_secs_f64(seconds);
    let mut tasks = Vec::new();
    let cpu = Rc::new(Cell::new(0.0));
    for client in 0..clients {
        let connection = connections[client % connections.len()].clone();
        let (value, latencies, failures) = (value.clone(), latencies.clone(), failures.clone());
        let mut state = 0x9e37_79b9_u64.wrapping_mul(client as u64 + 1) | 1;
        tasks.push(tokio::task::spawn_local(async move {
            loop {
                let start = Instant::now();
                if start >= end {
                    return;
                }
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                let key = bytes::Bytes::from(format!("key-{:012}", state % KEY_SPACE));
                if let Err(text) = request(&connection, load, key, value.clone()).await {
                    if failures.replace(failures.get() + 1) == 0 {
                        eprintln!("first failure: {text}");
                    }
                } else if start >= counted_from {
                    latencies
                        .borrow_mut()
                        .push(start.elapsed().as_micros().min(u32::MAX as u128) as u32);
                }
            }
        }));
    }
    tokio::time::sleep_until(counted_from.into()).await;
    cpu.set(cluster.cpu_seconds());
    for task in tasks {
        let _ = task.await;
    }
    let used = cluster.cpu_seconds() - cpu.get();
    let took = counted_from.elapsed().as_secs_f64();
    let mut latencies = latencies.take();
    latencies.sort_unstable();
    let at = |share: f64| {
        latencies.get(((latencies.len() as f64) * share) as usize).copied().unwrap_or(0) as f64
            / 1e3
    };
    if failures.get() > 0 {
        eprintln!("{} failures of {} at {}", failures.get(), load.name(), cluster.kind.name());
    }
    Figures {
        per_second: latencies.len() as f64 / took,
        p50_ms: at(0.5),
        p99_ms: at(0.99),
        cpu_us: used * 1e6 / latencies.len().max(1) as f64,
    }
}

async fn request(
    connection: &Connection,
    load: Load,
    key: bytes::Bytes,
    value: bytes::Bytes,
) -> Result<(), String> {
    match load {
        Load::Put => {
            let put = pb::PutRequest { key, value, ..Default::default() };
            connection.call::<_, pb::PutResponse>("/etcdserverpb.KV/Put", &put).await?;
        }
        Load::Get { serializable } => {
            let get = pb::RangeRequest { key, serializable, ..Default::default() };
            connection.call::<_, pb::RangeResponse>("/etcdserverpb.KV/Range", &get).await?;
        }
    }
    Ok(())
}

/// Waits until a put goes through every member.
async fn wait_ready(cluster: &Cluster) {
    let limit = Instant::now() + Duration::from_secs(60);
    for address in cluster.addresses() {
        loop {
            if first_get(&address).await.is_ok() {
                break;
            }
            assert!(Instant::now() < limit, "{} at {address} is not ready", cluster.kind.name());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// One linearizable read on a fresh connection.
async fn first_get(address: &str) -> Result<(), String> {
    let connection = Connection::open(address).await?;
    let key = bytes::Bytes::from_static(b"key-000000000000");
    request(&connection, Load::Get { serializable: false }, key, bytes::Bytes::new()).await
}

/// Memory after `keys` puts, and the time from `exec` to the first answered read.
async fn start_up(options: &Options, folder: &std::path::Path) {
    println!("\n== {} keys of {VALUE_BYTES} B, one member: fill, memory, restart", options.keys);
    println!(
        "{:<10} {:>10} {:>12} {:>12} {:>14} {:>14} {:>10} {:>12}",
        "server", "fill/s", "rss MB", "anon MB", "restart s", "rss after MB", "anon MB", "store MB"
    );
    for (slot, (kind, binary)) in kinds(options).into_iter().enumerate() {
        let data = folder.join(format!("{}-start", kind.name()));
        std::fs::create_dir_all(&data).expect("a folder for the data");
        let mut cluster = Cluster::start(kind, &binary, &data, 23_500 + 100 * slot as u16, 1);
        wait_ready(&cluster).await;
        let begun = Instant::now();
        fill(&cluster, options.keys).await;
        let fill_rate = options.keys as f64 / begun.elapsed().as_secs_f64();
        let (rss, anon) = cluster.memory();
        cluster.stop();
        let begun = cluster.restart();
        let address = cluster.client_address(0);
        while first_get(&address).await.is_err() {
            assert!(begun.elapsed() < Duration::from_secs(120), "no read after a restart");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let restart = begun.elapsed().as_secs_f64();
        let (rss_after, anon_after) = cluster.memory();
        let store = std::fs::metadata(data.join("m0.data/member/snap/db")).map_or(0, |m| m.len());
        let mb = |bytes: u64| bytes as f64 / 1e6;
        println!(
            "{:<10} {:>10.0} {:>12.0} {:>12.0} {:>14.3} {:>14.0} {:>10.0} {:>12.0}",
            kind.name(),
            fill_rate,
            mb(rss),
            mb(anon),
            restart,
            mb(rss_after),
            mb(anon_after),
            mb(store)
        );
        cluster.stop();
    }
}

async fn fill(cluster: &Cluster, keys: u64) {
    let mut connections = Vec::new();
    for _ in 0..5 {
        let address = cluster.client_address(0);
        connections.push(Connection::open(&address).await.expect("the server accepts connections"));
    }
    let value = bytes::Bytes::from(vec![b'v'; VALUE_BYTES]);
    let next = Rc::new(Cell::new(0_u64));
    let mut tasks = Vec::new();
    for client in 0..500 {
        let connection = connections[client % connections.len()].clone();
        let (value, next) = (value.clone(), next.clone());
        tasks.push(tokio::task::spawn_local(async move {
            loop {
                let at = next.get();
                if at >= keys {
                    return;
                }
                next.set(at + 1);
                let key = bytes::Bytes::from(format!("key-{at:012}"));
                request(&connection, Load::Put, key, value.clone()).await.expect("a put");
            }
        }));
    }
    for task in tasks {
        task.await.expect("a client of the fill ends by itself");
    }
}
