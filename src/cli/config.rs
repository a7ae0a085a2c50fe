//! What the flags mean, checked. Every error is one line that says what to do about it.

use super::auth_token::{TokenOptions, duration_ms};
use super::flags::Typed;
use crate::types::limits::QUOTA_BYTES_DEFAULT;
use crate::types::url::{Scheme, Url};
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

/// etcd's bound: beyond it a dead leader goes unnoticed for too long.
const ELECTION_MS_MAX: u64 = 50_000;
/// etcd warns above this: large requests hold up everybody behind them.
const REQUEST_BYTES_RECOMMENDED_MAX: usize = 10 << 20;
/// etcd warns above this: restart and catch-up of a member grow with the store.
const QUOTA_BYTES_RECOMMENDED_MAX: u64 = 8 << 30;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClusterState {
    New,
    Existing,
}

/// One of the members that begin a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InitialMember {
    pub name: String,
    /// Sorted; never empty.
    pub peer_urls: Vec<Url>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    pub name: String,
    pub data_dir: PathBuf,
    pub listen_peer_urls: Vec<Url>,
    pub listen_client_urls: Vec<Url>,
    /// Sorted.
    pub advertise_peer_urls: Vec<Url>,
    pub advertise_client_urls: Vec<Url>,
    /// By name. Counts only while there is no data directory: call `check_bootstrap` then.
    pub initial_cluster: Vec<InitialMember>,
    pub cluster_token: String,
    pub cluster_state: ClusterState,
    /// Bytes; `None` is no quota.
    pub quota_bytes: Option<u64>,
    pub heartbeat_ms: u64,
    pub election_ms: u64,
    pub snapshot_count: u64,
    pub request_bytes_max: usize,
    pub txn_ops_max: usize,
    pub learners_max: usize,
    pub strict_reconfig: bool,
    pub cache_bytes: usize,
    pub auth_token: TokenOptions,
    pub auth_token_ttl_ms: u64,
    pub bcrypt_cost: u32,
    pub progress_interval_ms: u64,
    pub lease_checkpoints: bool,
    /// Threads that serve clients, at least one.
    pub client_threads: usize,
    pub log_level: tracing::level_filters::LevelFilter,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError(String);

impl ConfigError {
    pub fn new(text: String) -> ConfigError {
        ConfigError(text)
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ConfigError {}

fn wrong<T>(text: impl Into<String>) -> Result<T, ConfigError> {
    Err(ConfigError(text.into()))
}

impl Config {
    pub fn new(typed: &Typed, warnings: &mut Vec<String>) -> Result<Config, ConfigError> {
        let name = typed.value("name").to_string();
        if name.is_empty() || name.contains(['=', ',']) {
            return wrong("--name must not be empty and must not contain '=' or ','");
        }
        let listen_peer_urls = listen_urls(typed, "listen-peer-urls")?;
        let listen_client_urls = listen_urls(typed, "listen-client-urls")?;
        let advertise_peer_urls = advertised_urls(typed, "initial-advertise-peer-urls")?;
        let client_urls_missing = typed.given("listen-client-urls").is_some()
            && typed.given("advertise-client-urls").is_none();
        if client_urls_missing {
            return wrong(
                "--advertise-client-urls is required when --listen-client-urls is set explicitly: \
                 name the URLs that clients can reach",
            );
        }
        let advertise_client_urls = advertised_urls(typed, "advertise-client-urls")?;
        let initial_cluster = match typed.given("initial-cluster") {
            Some(text) => parse_cluster(text)?,
            None => {
                vec![InitialMember { name: name.clone(), peer_urls: advertise_peer_urls.clone() }]
            }
        };
        let unreachable = advertise_peer_urls.iter().chain(&advertise_client_urls);
        for url in unreachable.filter(|url| url.is_unspecified()) {
            if initial_cluster.len() > 1 && advertise_peer_urls.contains(url) {
                return wrong(format!(
                    "--initial-advertise-peer-urls={url} cannot be advertised: other members \
                     cannot dial it; name an address of this machine"
                ));
            }
            warnings.push(format!("{url} is advertised, but no other machine can dial it"));
        }

        let heartbeat_ms: u64 = number(typed, "heartbeat-interval", 1)?;
        let election_ms: u64 = number(typed, "election-timeout", 1)?;
        if election_ms < heartbeat_ms.saturating_mul(5) {
            return wrong(format!(
                "--election-timeout[{election_ms}ms] should be at least as 5 times as \
                 --heartbeat-interval[{heartbeat_ms}ms]"
            ));
        }
        if election_ms > ELECTION_MS_MAX {
            return wrong(format!(
                "--election-timeout[{election_ms}ms] is too long, and should be set less than \
                 {ELECTION_MS_MAX}ms"
            ));
        }

        let request_bytes_max = number(typed, "max-request-bytes", 1)?;
        if request_bytes_max > REQUEST_BYTES_RECOMMENDED_MAX {
            warnings.push(format!(
                "--max-request-bytes={request_bytes_max} exceeds the recommended \
                 {REQUEST_BYTES_RECOMMENDED_MAX}"
            ));
        }
        let quota_bytes = match number(typed, "quota-backend-bytes", i64::MIN)? {
            0 => Some(QUOTA_BYTES_DEFAULT),
            bytes => u64::try_from(bytes).ok(),
        };
        if quota_bytes.is_some_and(|bytes| bytes > QUOTA_BYTES_RECOMMENDED_MAX) {
            warnings.push(format!(
                "--quota-backend-bytes exceeds the recommended {QUOTA_BYTES_RECOMMENDED_MAX}"
            ));
        }
        Ok(Config {
            data_dir: match typed.value("data-dir") {
                "" => PathBuf::from(format!("{name}.quorate")),
                dir => PathBuf::from(dir),
            },
            name,
            listen_peer_urls,
            listen_client_urls,
            advertise_peer_urls,
            advertise_client_urls,
            initial_cluster,
            cluster_token: typed.value("initial-cluster-token").to_string(),
            cluster_state: match typed.value("initial-cluster-state") {
                "new" => ClusterState::New,
                "existing" => ClusterState::Existing,
                other => {
                    return wrong(format!(
                        "--initial-cluster-state={other} is unknown: say new or existing"
                    ));
                }
            },
            quota_bytes,
            heartbeat_ms,
            election_ms,
            snapshot_count: number(typed, "snapshot-count", 1)?,
            request_bytes_max,
            txn_ops_max: number(typed, "max-txn-ops", 1)?,
            learners_max: number(typed, "max-learners", 1)?,
            strict_reconfig: switch(typed, "strict-reconfig-check")?,
            cache_bytes: number(typed, "cache-bytes", 1 << 20)?,
            auth_token: TokenOptions::parse(typed.value("auth-token"))?,
            auth_token_ttl_ms: number(typed, "auth-token-ttl", 1u64)?.saturating_mul(1000),
            progress_interval_ms: progress_interval(typed)?,
            lease_checkpoints: feature_gates(typed.value("feature-gates"), warnings)?,
            bcrypt_cost: match number(typed, "bcrypt-cost", i64::MIN)? {
                cost @ 4..=31 => cost as u32,
                cost => {
                    warnings.push(format!("--bcrypt-cost={cost} is not from 4 to 31: 10 is used"));
                    10
                }
            },
            client_threads: match number(typed, "client-threads", 0)? {
                0 => std::thread::available_parallelism().map_or(1, |n| n.get()),
                n => n,
            },
            log_level: super::logging::level(typed.value("log-level")).ok_or_else(|| {
                ConfigError(format!(
                    "--log-level={} is unknown: say debug, info, warn, error, panic or fatal",
                    typed.value("log-level")
                ))
            })?,
        })
    }

    /// What `--initial-cluster` says of this member.
    pub fn own_entry(&self) -> Result<&InitialMember, ConfigError> {
        self.initial_cluster.iter().find(|m| m.name == self.name).ok_or_else(|| {
            ConfigError(format!(
                "--initial-cluster has no member named \"{}\": add {}={} to it, or set --name",
                self.name, self.name, self.advertise_peer_urls[0]
            ))
        })
    }

    /// What must hold before a member without data may begin a cluster.
    pub fn check_bootstrap(&self) -> Result<(), ConfigError> {
        let me = self.own_entry()?;
        if !same_urls(&me.peer_urls, &self.advertise_peer_urls) {
            return wrong(format!(
                "--initial-cluster says {}={}, but --initial-advertise-peer-urls={}: make them the \
                 same",
                self.name,
                joined(&me.peer_urls),
                joined(&self.advertise_peer_urls)
            ));
        }
        Ok(())
    }
}

fn number<T>(typed: &Typed, name: &str, least: T) -> Result<T, ConfigError>
where
    T: std::str::FromStr + PartialOrd + fmt::Display,
{
    let text = typed.value(name);
    match text.parse::<T>() {
        Ok(value) if value >= least => Ok(value),
        Ok(_) => wrong(format!("--{name}={text} is too small: it must be at least {least}")),
        Err(_) => wrong(format!("--{name}={text} is not a number that fits")),
    }
}

/// A switch, in the spellings that Go takes.
fn switch(typed: &Typed, name: &str) -> Result<bool, ConfigError> {
    match typed.value(name) {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        other => wrong(format!("--{name}={other} is no switch: say true or false")),
    }
}

/// etcd's least: more often would be nothing but noise.
const PROGRESS_INTERVAL_MS_MIN: u64 = 100;

fn progress_interval(typed: &Typed) -> Result<u64, ConfigError> {
    let name = "watch-progress-notify-interval";
    let text = typed.value(name);
    match duration_ms(text) {
        Some(ms) if ms >= PROGRESS_INTERVAL_MS_MIN => Ok(ms),
        Some(_) => wrong(format!("--{name}={text} is too small: it must be at least 100ms")),
        None => wrong(format!("--{name}={text} is no time: say 5s, 10m or 500ms")),
    }
}

/// etcd's gates. One has something to switch here; asking for the others is no error, since
/// what they switch in etcd is always so here or has no counterpart.
fn feature_gates(text: &str, warnings: &mut Vec<String>) -> Result<bool, ConfigError> {
    const WITHOUT_EFFECT: [&str; 6] = [
        "CompactHashCheck",
        "InitialCorruptCheck",
        "LeaseCheckpointPersist",
        "SetMemberLocalAddr",
        "StopGRPCServiceOnDefrag",
        "TxnModeWriteWithSharedBuffer",
    ];
    let mut lease_checkpoints = false;
    for gate in text.split(',').filter(|gate| !gate.is_empty()) {
        let Some((name, Ok(on))) = gate.split_once('=').map(|(name, on)| (name, on.parse())) else {
            return wrong(format!("--feature-gates: {gate} is not name=true or name=false"));
        };
        match name {
            "LeaseCheckpoint" => lease_checkpoints = on,
            name if WITHOUT_EFFECT.contains(&name) => {
                if on {
                    warnings.push(format!("--feature-gates: {name} has no effect in quorate"));
                }
            }
            name => return wrong(format!("--feature-gates: {name} is not known")),
        }
    }
    Ok(lease_checkpoints)
}

fn urls(flag: &str, text: &str) -> Result<Vec<Url>, ConfigError> {
    let mut list = Vec::new();
    for part in text.split(',') {
        let url = Url::parse(part).map_err(|why| ConfigError(format!("--{flag}: {why}")))?;
        if url.scheme() == Scheme::Https {
            return wrong(format!("--{flag}: TLS is not supported yet, use http instead of {url}"));
        }
        list.push(url);
    }
    list.sort();
    list.dedup();
    Ok(list)
}

fn listen_urls(typed: &Typed, flag: &str) -> Result<Vec<Url>, ConfigError> {
    let list = urls(flag, typed.value(flag))?;
    for url in &list {
        let is_address = url.host().parse::<std::net::IpAddr>().is_ok();
        if !is_address && url.host() != "localhost" {
            return wrong(format!(
                "--{flag}: expected IP in URL for binding ({url}): a listener needs an address of \
                 this machine, 0.0.0.0 for all of them"
            ));
        }
    }
    Ok(list)
}

fn advertised_urls(typed: &Typed, flag: &str) -> Result<Vec<Url>, ConfigError> {
    let list = urls(flag, typed.value(flag))?;
    if let Some(url) = list.iter().find(|url| url.host().is_empty()) {
        return wrong(format!("--{flag}: {url} has no host: name one that others can dial"));
    }
    Ok(list)
}

/// `name=url,name=url`: a name that comes more than once has several URLs.
fn parse_cluster(text: &str) -> Result<Vec<InitialMember>, ConfigError> {
    let mut members: BTreeMap<&str, Vec<Url>> = BTreeMap::new();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let Some((name, url)) = part.split_once('=').filter(|(name, _)| !name.is_empty()) else {
            return wrong(format!("--initial-cluster: \"{part}\" is not name=URL"));
        };
        for url in urls("initial-cluster", url)? {
            if let Some(other) = members.iter().find(|(_, urls)| urls.contains(&url)) {
                return wrong(format!(
                    "--initial-cluster: {url} is given for {} and for {name}: each member needs \
                     its own",
                    other.0
                ));
            }
            members.entry(name).or_default().push(url);
        }
    }
    if members.is_empty() {
        return wrong("--initial-cluster is empty: list name=URL of every first member");
    }
    let member = |(name, mut peer_urls): (&str, Vec<Url>)| {
        peer_urls.sort();
        InitialMember { name: name.to_string(), peer_urls }
    };
    Ok(members.into_iter().map(member).collect())
}

/// As etcd, which resolves names before it compares; of names only localhost is resolved here.
pub(super) fn same_urls(a: &[Url], b: &[Url]) -> bool {
    let plain = |urls: &[Url]| {
        let one = |url: &Url| {
            let host = if url.host() == "localhost" { "127.0.0.1" } else { url.host() };
            (url.scheme(), host.to_string(), url.port())
        };
        let mut list: Vec<_> = urls.iter().map(one).collect();
        list.sort();
        list
    };
    plain(a) == plain(b)
}

pub(super) fn joined(urls: &[Url]) -> String {
    urls.iter().map(Url::as_str).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::flags;
    use std::ffi::OsString;

    fn config(args: &[&str]) -> Result<Config, ConfigError> {
        let typed = flags::parse(args.iter().map(OsString::from), []).expect("flags parse");
        Config::new(&typed, &mut Vec::new())
    }

    fn boot(args: &[&str]) -> Result<(), ConfigError> {
        config(args)?.check_bootstrap()
    }

    #[test]
    fn the_defaults_are_etcds() {
        let c = config(&[]).expect("valid");
        assert_eq!((c.name.as_str(), c.data_dir.to_str()), ("default", Some("default.quorate")));
        let text = |urls: &[Url]| joined(urls);
        assert_eq!(text(&c.listen_client_urls), "http://localhost:2379");
        assert_eq!(text(&c.listen_peer_urls), "http://localhost:2380");
        assert_eq!(text(&c.advertise_client_urls), "http://localhost:2379");
        assert_eq!(text(&c.advertise_peer_urls), "http://localhost:2380");
        assert_eq!((c.heartbeat_ms, c.election_ms, c.snapshot_count), (100, 1000, 10_000));
        assert_eq!((c.request_bytes_max, c.txn_ops_max), (1_572_864, 128));
        assert_eq!((c.learners_max, c.strict_reconfig), (1, true));
        assert_eq!((c.quota_bytes, c.cache_bytes), (Some(2 << 30), 64 << 20));
        assert_eq!(c.cluster_token, "etcd-cluster");
        assert_eq!(c.cluster_state, ClusterState::New);
        c.check_bootstrap().expect("a member of its own cluster");
    }

    #[test]
    fn the_data_directory_is_named_after_the_member() {
        assert_eq!(config(&["--name=a"]).expect("valid").data_dir, PathBuf::from("a.quorate"));
        assert_eq!(config(&["--data-dir=/d"]).expect("valid").data_dir, PathBuf::from("/d"));
    }

    #[test]
    fn quotas() {
        let quota = |v: &str| config(&["--quota-backend-bytes", v]).expect("valid").quota_bytes;
        assert_eq!((quota("-1"), quota("0"), quota("5")), (None, Some(2 << 30), Some(5)));
    }

    #[test]
    fn an_initial_cluster_may_repeat_names() {
        let c = config(&["--initial-cluster=b=http://2:1,a=http://1:2,a=http://1:1"]);
        let c = c.expect("valid").initial_cluster;
        let shown: Vec<_> = c.iter().map(|m| (m.name.as_str(), joined(&m.peer_urls))).collect();
        assert_eq!(shown, [("a", "http://1:1,http://1:2".into()), ("b", "http://2:1".into())]);
    }

    #[test]
    fn each_mistake_says_what_to_do() {
        let two = "--initial-cluster=a=http://10.0.0.1:2380,b=http://10.0.0.2:2380";
        for (args, part) in [
            (&["--listen-client-urls=localhost:1"][..], "URL scheme must be http or https"),
            (&["--listen-peer-urls=http://example.com:1"], "expected IP in URL for binding"),
            (&["--listen-peer-urls=https://10.0.0.1:1"], "TLS is not supported yet"),
            (&["--listen-client-urls=http://127.0.0.1:1"], "--advertise-client-urls is required"),
            (&["--initial-advertise-peer-urls=http://:1"], "has no host"),
            (&["--election-timeout=499"], "at least as 5 times"),
            (&["--election-timeout=50001"], "is too long"),
            (&["--heartbeat-interval=0"], "must be at least 1"),
            (&["--max-txn-ops=x"], "--max-txn-ops=x is not a number"),
            (&["--initial-cluster-state=old"], "say new or existing"),
            (&["--max-learners=0"], "it must be at least 1"),
            (&["--strict-reconfig-check=maybe"], "say true or false"),
            (&["--log-level=loud"], "--log-level=loud is unknown"),
            (&["--name=a=b"], "--name must not"),
            (&["--initial-cluster=http://1:1"], "is not name=URL"),
            (&["--initial-cluster="], "--initial-cluster is empty"),
            (&["--initial-cluster=a=http://1:1,b=http://1:1"], "each member needs its own"),
            (&[two], "has no member named \"default\": add default=http://localhost:2380"),
            (&[two, "--name=a"], "make them the same"),
            (
                &[
                    "--name=a",
                    "--initial-advertise-peer-urls=http://0.0.0.0:1",
                    "--initial-cluster=a=http://0.0.0.0:1,b=http://10.0.0.2:2",
                ],
                "cannot be advertised",
            ),
        ] {
            let error = boot(args).expect_err(part).to_string();
            assert!(error.contains(part), "{args:?}: {error}");
            assert_eq!(error.lines().count(), 1, "{error}");
        }
    }

    #[test]
    fn localhost_and_its_address_are_the_same() {
        boot(&["--initial-cluster=default=http://127.0.0.1:2380"]).expect("the same URL");
    }

    #[test]
    fn a_lone_member_may_advertise_everything_with_a_warning() {
        let args = [
            "--listen-client-urls=http://0.0.0.0:2379",
            "--advertise-client-urls=http://0.0.0.0:2379",
        ];
        let typed = flags::parse(args.iter().map(OsString::from), []).expect("flags parse");
        let mut warnings = Vec::new();
        Config::new(&typed, &mut warnings).expect("valid");
        assert!(warnings[0].contains("no other machine can dial it"), "{warnings:?}");
    }
}
