//! Watchers and leases by the ten thousand on three members whose leader is killed.
//!
//!   load watch  --server BIN [--rate 3000] [--seconds 30] [--watchers 10000] [--prefixes 1000]
//!               [--connections 30] [--kills 3]
//!   load leases --server BIN [--count 100000] [--ttl 60] [--connections 30] [--kills 2]
//!
//! It starts the members itself on 127.0.0.1, prints what it saw and ends with a non-zero status
//! when an event was lost, told twice, split or out of order, or a lease ended early or late.

mod cluster;
mod leases;
mod messages;
mod watch;

use std::collections::BTreeMap;
use std::path::PathBuf;

pub struct Options(BTreeMap<String, String>);

impl Options {
    pub fn number(&self, name: &str, default: u64) -> u64 {
        self.0.get(name).map_or(default, |text| text.parse().expect("a number"))
    }
}

fn main() {
    let mut words = std::env::args().skip(1);
    let mode = words.next().unwrap_or_default();
    let mut options = Options(BTreeMap::new());
    while let Some(word) = words.next() {
        let value = words.next().expect("every option has a value");
        options.0.insert(word.trim_start_matches('-').to_string(), value);
    }
    let server = PathBuf::from(options.0.get("server").expect("--server BIN is needed"));
    let folder = std::env::temp_dir().join(format!("quorate-load-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("the temporary folder takes another one");
    // One thread: the servers need the other core.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    let good = runtime.block_on(async {
        let cluster = std::sync::Arc::new(cluster::Cluster::start(server, folder.clone()));
        match mode.as_str() {
            "watch" => watch::run(cluster, &options).await,
            "leases" => leases::run(cluster, &options).await,
            _ => panic!("say watch or leases"),
        }
    });
    drop(runtime);
    if good {
        let _ = std::fs::remove_dir_all(&folder);
    } else {
        println!("the members' logs and data are in {}", folder.display());
    }
    std::process::exit(if good { 0 } else { 1 });
}
