//! `quoratectl`: a small client for a look from the command line. Output is etcdctl's.
//!
//! etcdctl itself works against quorate and does more; this one is for machines that have nothing
//! but quorate on them.

use super::Exit;
use crate::api::proto::etcdserverpb as pb;
use crate::api::proto::etcdserverpb::kv_client::KvClient;
use crate::api::proto::etcdserverpb::maintenance_client::MaintenanceClient;
use crate::types::url::Url;
use crate::types::version::{API_VERSION, QUORATE_VERSION};
use clap::{Args, Parser, Subcommand};
use std::ffi::OsString;
use std::io::Write as _;
use std::time::{Duration, Instant};
use tonic::transport::{Channel, Endpoint};

#[derive(Parser)]
#[command(name = "quoratectl", about = "A small client for quorate and etcd")]
struct Typed {
    /// Members to ask, separated by commas
    #[arg(long, global = true, value_delimiter = ',', default_value = "127.0.0.1:2379")]
    #[arg(env = "ETCDCTL_ENDPOINTS")]
    endpoints: Vec<String>,
    /// Seconds until a command is given up
    #[arg(long, global = true, default_value_t = 5)]
    command_timeout: u64,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Print the version
    Version,
    /// Print the value of a key, or the keys in [KEY, END)
    Get(Get),
    /// Write a value (from standard input when it is left out)
    Put {
        key: String,
        value: Option<String>,
        /// Print the pair that was there before
        #[arg(long)]
        prev_kv: bool,
    },
    /// Ask members about themselves
    #[command(subcommand)]
    Endpoint(EndpointCommand),
}

#[derive(Args)]
struct Get {
    key: String,
    end: Option<String>,
    /// Every key that begins with KEY
    #[arg(long, conflicts_with = "end")]
    prefix: bool,
    /// At most so many keys; 0 is all
    #[arg(long, default_value_t = 0)]
    limit: i64,
    /// The revision to read at; 0 is the newest
    #[arg(long, default_value_t = 0)]
    rev: i64,
    #[arg(long)]
    keys_only: bool,
    #[arg(long)]
    print_value_only: bool,
    /// l (linearizable) or s (serializable)
    #[arg(long, default_value = "l", value_parser = ["l", "s"])]
    consistency: String,
}

#[derive(Subcommand)]
enum EndpointCommand {
    /// Whether each member can commit
    Health,
    /// How far each member is
    Status,
}

/// Runs the command line (program name first) and says how the process should end.
pub fn run(args: impl IntoIterator<Item = OsString>) -> Exit {
    let typed = match Typed::try_parse_from(args) {
        Ok(typed) => typed,
        // Help comes this way too.
        Err(error) if !error.use_stderr() => return Exit::print(error.to_string()),
        Err(error) => return Exit::fail(128, error.to_string()),
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return Exit::fail(1, format!("Error: cannot start: {error}\n")),
    };
    runtime.block_on(typed.run())
}

impl Typed {
    async fn run(&self) -> Exit {
        match &self.command {
            Command::Version => Exit::print(format!(
                "quoratectl version: {QUORATE_VERSION}\nAPI version: {API_VERSION}\n"
            )),
            Command::Get(get) => finish(self.get(get).await),
            Command::Put { key, value, prev_kv } => {
                finish(self.put(key, value.as_deref(), *prev_kv).await)
            }
            Command::Endpoint(EndpointCommand::Health) => self.health().await,
            Command::Endpoint(EndpointCommand::Status) => self.status().await,
        }
    }

    fn channel(&self, endpoint: &str) -> Result<Channel, String> {
        let url = match endpoint.contains("://") {
            true => endpoint.to_string(),
            false => format!("http://{endpoint}"),
        };
        let url = Url::parse(&url)?;
        let timeout = Duration::from_secs(self.command_timeout);
        let endpoint = Endpoint::from_shared(format!("http://{}", url.authority()))
            .map_err(|error| error.to_string())?;
        Ok(endpoint.connect_timeout(timeout).timeout(timeout).connect_lazy())
    }

    /// A client of the first member that was named.
    fn kv(&self) -> Result<KvClient<Channel>, String> {
        let first = self.endpoints.first().ok_or("no endpoint is given")?;
        Ok(KvClient::new(self.channel(first)?).max_decoding_message_size(usize::MAX))
    }

    async fn get(&self, get: &Get) -> Result<Vec<u8>, String> {
        let range_end = match (&get.end, get.prefix) {
            (Some(end), _) => end.clone().into_bytes(),
            (None, true) => prefix_end(get.key.as_bytes()),
            (None, false) => Vec::new(),
        };
        // An empty prefix is every key.
        let key = if get.prefix && get.key.is_empty() { "\0" } else { &get.key };
        let request = pb::RangeRequest {
            key: key.to_string().into(),
            range_end: range_end.into(),
            limit: get.limit,
            revision: get.rev,
            serializable: get.consistency == "s",
            keys_only: get.keys_only,
            ..Default::default()
        };
        let reply = self.kv()?.range(request).await.map_err(text)?.into_inner();
        let mut out = Vec::new();
        for kv in reply.kvs {
            if !get.print_value_only {
                out.extend_from_slice(&kv.key);
                out.push(b'\n');
            }
            out.extend_from_slice(&kv.value);
            out.push(b'\n');
        }
        Ok(out)
    }

    async fn put(&self, key: &str, value: Option<&str>, prev_kv: bool) -> Result<Vec<u8>, String> {
        let value = match value {
            Some(value) => value.as_bytes().to_vec(),
            None => {
                let mut bytes = Vec::new();
                std::io::Read::read_to_end(&mut std::io::stdin(), &mut bytes)
                    .map_err(|error| format!("cannot read standard input: {error}"))?;
                bytes
            }
        };
        let request = pb::PutRequest {
            key: key.to_string().into(),
            value: value.into(),
            prev_kv,
            ..Default::default()
        };
        let reply = self.kv()?.put(request).await.map_err(text)?.into_inner();
        let mut out = b"OK\n".to_vec();
        if let Some(kv) = reply.prev_kv {
            for part in [kv.key, kv.value] {
                out.extend_from_slice(&part);
                out.push(b'\n');
            }
        }
        Ok(out)
    }

    async fn health(&self) -> Exit {
        let mut exit = Exit::print("");
        for endpoint in &self.endpoints {
            let begun = Instant::now();
            let outcome = async {
                let mut client = KvClient::new(self.channel(endpoint)?);
                // A key that need not exist: what counts is that a quorum answers.
                let request = pb::RangeRequest { key: "health".into(), ..Default::default() };
                client.range(request).await.map_err(text)
            };
            match outcome.await {
                Ok(_) => exit.out.push_str(&format!(
                    "{endpoint} is healthy: successfully committed proposal: took = {:?}\n",
                    begun.elapsed()
                )),
                Err(error) => {
                    exit.err.push_str(&format!(
                        "{endpoint} is unhealthy: failed to commit proposal: {error}\n"
                    ));
                    exit.code = 1;
                }
            }
        }
        if exit.code != 0 {
            exit.err.push_str("Error: unhealthy cluster\n");
        }
        exit
    }

    async fn status(&self) -> Exit {
        let mut exit = Exit::print("");
        for endpoint in &self.endpoints {
            let outcome = async {
                let mut client = MaintenanceClient::new(self.channel(endpoint)?);
                client.status(pb::StatusRequest {}).await.map_err(text)
            };
            match outcome.await {
                Ok(status) => {
                    let status = status.into_inner();
                    exit.out.push_str(&status_line(endpoint, &status));
                }
                Err(error) => {
                    exit.err.push_str(&format!(
                        "Failed to get the status of endpoint {endpoint} ({error})\n"
                    ));
                    exit.code = 1;
                }
            }
        }
        exit
    }
}

/// Endpoint, id, version, size, is leader, is learner, term, index, applied index, errors.
fn status_line(endpoint: &str, status: &pb::StatusResponse) -> String {
    let id = status.header.map_or(0, |header| header.member_id);
    format!(
        "{endpoint}, {id:x}, {}, {}, {}, {}, {}, {}, {}, {}\n",
        status.version,
        human_bytes(status.db_size),
        status.leader == id,
        status.is_learner,
        status.raft_term,
        status.raft_index,
        status.raft_applied_index,
        status.errors.join(", ")
    )
}

/// As etcdctl prints sizes: powers of 1000, two digits.
fn human_bytes(bytes: i64) -> String {
    let mut value = bytes as f64;
    let mut units = ["B", "kB", "MB", "GB", "TB"].into_iter();
    let mut unit = units.next().unwrap_or_default();
    while value >= 999.5 {
        let Some(next) = units.next() else { break };
        (value, unit) = (value / 1000.0, next);
    }
    let digits = if unit != "B" && value < 9.95 { 1 } else { 0 };
    format!("{value:.digits$} {unit}")
}

/// The end of the range of keys that begin with `prefix`: its last byte that can grow, grown.
fn prefix_end(prefix: &[u8]) -> Vec<u8> {
    let Some(last) = prefix.iter().rposition(|&byte| byte < 0xff) else { return vec![0] };
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    end
}

fn text(status: tonic::Status) -> String {
    status.message().to_string()
}

/// Values are bytes, not text, so they are written as they are.
fn finish(outcome: Result<Vec<u8>, String>) -> Exit {
    match outcome {
        Ok(bytes) => match std::io::stdout().write_all(&bytes) {
            Ok(()) => Exit::print(""),
            Err(error) => Exit::fail(6, format!("Error: {error}\n")),
        },
        Err(error) => Exit::fail(1, format!("Error: {error}\n")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes() {
        assert_eq!(prefix_end(b"a/"), b"a0");
        assert_eq!(prefix_end(b"a\xff\xff"), b"b");
        assert_eq!(prefix_end(b"\xff"), b"\0");
        assert_eq!(prefix_end(b""), b"\0");
    }

    #[test]
    fn sizes() {
        for (bytes, text) in
            [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (20_480, "20 kB"), (999_999, "1.0 MB")]
        {
            assert_eq!(human_bytes(bytes), text);
        }
    }

    #[test]
    fn commands() {
        let run = |args: &[&str]| run(args.iter().map(OsString::from));
        let version = run(&["quoratectl", "version"]);
        assert_eq!((version.code, version.out.lines().count()), (0, 2));
        assert_eq!(run(&["quoratectl", "nonsense"]).code, 128);
        assert_eq!(run(&["quoratectl", "--help"]).code, 0);
        // Nobody listens at port 1.
        let health = run(&["quoratectl", "--endpoints=127.0.0.1:1", "endpoint", "health"]);
        assert_eq!(health.code, 1);
        assert!(health.err.contains("127.0.0.1:1 is unhealthy"), "{}", health.err);
        assert_eq!(run(&["quoratectl", "--endpoints=127.0.0.1:1", "get", "a"]).code, 1);
    }
}
