//! Every RPC of the surface, and what is counted of each.
//!
//! Counters come in shards, one per serving thread, so that threads share no cache line on the
//! hot path; whoever reads sums over the shards.

use super::checks::Checks;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tonic::Code;
use tonic::codegen::http::HeaderValue;

/// How messages flow; the names are grpc-prometheus' labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Unary,
    ServerStream,
    BidiStream,
}

impl Kind {
    pub fn label(self) -> &'static str {
        match self {
            Kind::Unary => "unary",
            Kind::ServerStream => "server_stream",
            Kind::BidiStream => "bidi_stream",
        }
    }
}

/// Who may call an RPC once users count. Every row of the table says it: none is open because
/// somebody forgot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Anybody.
    Open,
    /// Any user.
    Known,
    /// Users with the root role.
    Admin,
    /// It depends on what is asked for: the service checks, or apply does.
    ByRequest,
}

#[derive(Debug)]
pub struct Rpc {
    /// `/package.Service/Method`, as requests spell it.
    pub path: &'static str,
    pub kind: Kind,
    /// Whether a learner may answer it. Range is decided by the request (serializable only).
    pub on_learner: bool,
    pub access: Access,
}

impl Rpc {
    pub fn service(&self) -> &'static str {
        split(self.path).map_or("", |(service, _)| service)
    }
    pub fn method(&self) -> &'static str {
        split(self.path).map_or("", |(_, method)| method)
    }
}

const fn unary(access: Access, path: &'static str) -> Rpc {
    Rpc { path, kind: Kind::Unary, on_learner: false, access }
}
const fn learner(access: Access, path: &'static str, kind: Kind) -> Rpc {
    Rpc { path, kind, on_learner: true, access }
}
const fn streaming(access: Access, path: &'static str, kind: Kind) -> Rpc {
    Rpc { path, kind, on_learner: false, access }
}

/// The busy ones first: `find` searches from the front.
pub static RPCS: &[Rpc] = &[
    unary(Access::ByRequest, "/etcdserverpb.KV/Put"),
    learner(Access::ByRequest, "/etcdserverpb.KV/Range", Kind::Unary),
    unary(Access::ByRequest, "/etcdserverpb.KV/Txn"),
    unary(Access::ByRequest, "/etcdserverpb.KV/DeleteRange"),
    unary(Access::Admin, "/etcdserverpb.KV/Compact"),
    streaming(Access::ByRequest, "/etcdserverpb.KV/RangeStream", Kind::ServerStream),
    streaming(Access::ByRequest, "/etcdserverpb.Watch/Watch", Kind::BidiStream),
    streaming(Access::ByRequest, "/etcdserverpb.Lease/LeaseKeepAlive", Kind::BidiStream),
    unary(Access::Known, "/etcdserverpb.Lease/LeaseGrant"),
    unary(Access::Known, "/etcdserverpb.Lease/LeaseRevoke"),
    unary(Access::Known, "/etcdserverpb.Lease/LeaseTimeToLive"),
    unary(Access::ByRequest, "/etcdserverpb.Lease/LeaseLeases"),
    learner(Access::Open, "/grpc.health.v1.Health/Check", Kind::Unary),
    learner(Access::Open, "/grpc.health.v1.Health/Watch", Kind::ServerStream),
    unary(Access::Admin, "/etcdserverpb.Cluster/MemberAdd"),
    unary(Access::Admin, "/etcdserverpb.Cluster/MemberRemove"),
    unary(Access::Admin, "/etcdserverpb.Cluster/MemberUpdate"),
    unary(Access::Known, "/etcdserverpb.Cluster/MemberList"),
    unary(Access::Admin, "/etcdserverpb.Cluster/MemberPromote"),
    unary(Access::ByRequest, "/etcdserverpb.Maintenance/Alarm"),
    learner(Access::Known, "/etcdserverpb.Maintenance/Status", Kind::Unary),
    unary(Access::Admin, "/etcdserverpb.Maintenance/Defragment"),
    unary(Access::Admin, "/etcdserverpb.Maintenance/Hash"),
    unary(Access::Admin, "/etcdserverpb.Maintenance/HashKV"),
    learner(Access::Admin, "/etcdserverpb.Maintenance/Snapshot", Kind::ServerStream),
    unary(Access::Admin, "/etcdserverpb.Maintenance/MoveLeader"),
    unary(Access::Admin, "/etcdserverpb.Maintenance/Downgrade"),
    unary(Access::Admin, "/etcdserverpb.Auth/AuthEnable"),
    unary(Access::Admin, "/etcdserverpb.Auth/AuthDisable"),
    unary(Access::Admin, "/etcdserverpb.Auth/AuthStatus"),
    unary(Access::Open, "/etcdserverpb.Auth/Authenticate"),
    unary(Access::Admin, "/etcdserverpb.Auth/UserAdd"),
    unary(Access::ByRequest, "/etcdserverpb.Auth/UserGet"),
    unary(Access::Admin, "/etcdserverpb.Auth/UserList"),
    unary(Access::Admin, "/etcdserverpb.Auth/UserDelete"),
    unary(Access::Admin, "/etcdserverpb.Auth/UserChangePassword"),
    unary(Access::Admin, "/etcdserverpb.Auth/UserGrantRole"),
    unary(Access::Admin, "/etcdserverpb.Auth/UserRevokeRole"),
    unary(Access::Admin, "/etcdserverpb.Auth/RoleAdd"),
    unary(Access::ByRequest, "/etcdserverpb.Auth/RoleGet"),
    unary(Access::Admin, "/etcdserverpb.Auth/RoleList"),
    unary(Access::Admin, "/etcdserverpb.Auth/RoleDelete"),
    unary(Access::Admin, "/etcdserverpb.Auth/RoleGrantPermission"),
    unary(Access::Admin, "/etcdserverpb.Auth/RoleRevokePermission"),
    unary(Access::ByRequest, "/v3lockpb.Lock/Lock"),
    unary(Access::ByRequest, "/v3lockpb.Lock/Unlock"),
    unary(Access::ByRequest, "/v3electionpb.Election/Campaign"),
    unary(Access::ByRequest, "/v3electionpb.Election/Proclaim"),
    unary(Access::ByRequest, "/v3electionpb.Election/Leader"),
    streaming(Access::ByRequest, "/v3electionpb.Election/Observe", Kind::ServerStream),
    unary(Access::ByRequest, "/v3electionpb.Election/Resign"),
];

/// The watch stream, whose messages its service counts.
pub const WATCH: usize = 6;
/// The keep-alive stream, whose messages its service counts.
pub const KEEP_ALIVE: usize = 7;

/// Where a request's path is in `RPCS`.
pub fn find(path: &str) -> Option<usize> {
    RPCS.iter().position(|rpc| rpc.path == path)
}

/// Why `find` found nothing, in grpc-go's words.
pub fn unknown(path: &str) -> String {
    match split(path) {
        Some((service, method)) if RPCS.iter().any(|rpc| rpc.service() == service) => {
            format!("unknown method {method} for service {service}")
        }
        Some((service, _)) => format!("unknown service {service}"),
        None => format!("malformed method name: \"{path}\""),
    }
}

fn split(path: &str) -> Option<(&str, &str)> {
    path.strip_prefix('/')?.rsplit_once('/')
}

/// Codes run from OK (0) to Unauthenticated (16).
pub const CODES: usize = 17;

/// The protocol's names of the codes, which label `grpc_server_handled_total`.
pub const CODE_NAMES: [&str; CODES] = [
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];

/// What one thread has seen of one RPC.
#[derive(Debug, Default)]
pub struct RpcCounts {
    pub started: AtomicU64,
    pub received: AtomicU64,
    pub sent: AtomicU64,
    pub handled: [AtomicU64; CODES],
}

/// What one serving thread counts. Only that thread writes, so `Relaxed` loses nothing.
#[derive(Debug)]
pub struct Counters {
    pub rpcs: Vec<RpcCounts>,
    pub bytes_received: AtomicU64,
    pub bytes_sent: AtomicU64,
    /// Requests by the version that clients say they speak: unary ones, then streams.
    versions: Mutex<[BTreeMap<String, u64>; 2]>,
    /// One for all shards: nobody checks often.
    pub checks: Arc<Checks>,
}

/// The version of a client that does not say.
const VERSION_UNKNOWN: &str = "unknown";
/// Versions that are told apart: what clients say is theirs to choose, and is kept.
const VERSIONS_MAX: usize = 32;
/// `3.10.100` and some.
const VERSION_BYTES_MAX: usize = 16;

impl Counters {
    /// One shard for each serving thread.
    pub fn shards(threads: usize) -> Arc<[Arc<Counters>]> {
        let checks = Arc::new(Checks::default());
        let shard = || {
            let checks = checks.clone();
            Arc::new(Counters {
                rpcs: RPCS.iter().map(|_| RpcCounts::default()).collect(),
                bytes_received: AtomicU64::new(0),
                bytes_sent: AtomicU64::new(0),
                versions: Mutex::default(),
                checks,
            })
        };
        (0..threads).map(|_| shard()).collect()
    }

    pub fn start(&self, rpc: usize) {
        add(&self.rpcs[rpc].started, 1);
        if RPCS[rpc].kind != Kind::BidiStream {
            add(&self.rpcs[rpc].received, 1);
        }
    }
    /// A request, and the version its client says it speaks.
    pub fn client(&self, rpc: usize, version: Option<&HeaderValue>) {
        let version = version.and_then(|version| version.to_str().ok());
        let version = version.filter(|version| version.len() <= VERSION_BYTES_MAX);
        let mut versions = self.versions();
        let versions = &mut versions[usize::from(RPCS[rpc].kind != Kind::Unary)];
        let mut version = version.unwrap_or(VERSION_UNKNOWN);
        if versions.len() >= VERSIONS_MAX && !versions.contains_key(version) {
            version = VERSION_UNKNOWN;
        }
        match versions.get_mut(version) {
            Some(count) => *count += 1,
            None => drop(versions.insert(version.to_string(), 1)),
        }
    }
    /// How many requests came by the client's version: unary ones, then streams.
    pub fn versions(&self) -> MutexGuard<'_, [BTreeMap<String, u64>; 2]> {
        self.versions.lock().unwrap_or_else(PoisonError::into_inner)
    }
    pub fn end(&self, rpc: usize, code: Code) {
        add(&self.rpcs[rpc].handled[code as usize], 1);
        if RPCS[rpc].kind == Kind::Unary && code == Code::Ok {
            add(&self.rpcs[rpc].sent, 1);
        }
    }
    pub fn received(&self, rpc: usize) {
        add(&self.rpcs[rpc].received, 1);
    }
    pub fn sent(&self, rpc: usize) {
        add(&self.rpcs[rpc].sent, 1);
    }
}

/// Adds without ordering anything else.
pub fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_method_of_the_protocol_is_listed_once() {
        let listed: BTreeSet<&str> = RPCS.iter().map(|rpc| rpc.path).collect();
        assert_eq!(listed.len(), RPCS.len());
        // The service definitions, read as text: `rpc Name(` below `service Service {`.
        let mut declared = BTreeSet::new();
        for text in [
            include_str!("../../proto/rpc.proto"),
            include_str!("../../proto/health.proto"),
            include_str!("../../proto/v3lock.proto"),
            include_str!("../../proto/v3election.proto"),
        ] {
            let word = |line: &str, key: &str| {
                let rest = line.trim().strip_prefix(key)?;
                Some(rest.split([' ', '(', ';']).next().unwrap_or_default().to_string())
            };
            let package = text.lines().find_map(|line| word(line, "package ")).expect("a package");
            let mut service = String::new();
            for line in text.lines() {
                if let Some(name) = word(line, "service ") {
                    service = name;
                } else if let Some(method) = word(line, "rpc ") {
                    declared.insert(format!("/{package}.{service}/{method}"));
                }
            }
        }
        assert_eq!(declared, listed.into_iter().map(String::from).collect());
    }

    #[test]
    fn paths_are_found_or_explained() {
        assert_eq!(find("/etcdserverpb.Watch/Watch"), Some(WATCH));
        assert_eq!(find("/etcdserverpb.Lease/LeaseKeepAlive"), Some(KEEP_ALIVE));
        for (path, text) in [
            ("/etcdserverpb.KV/Get", "unknown method Get for service etcdserverpb.KV"),
            ("/v3lockpb.Locks/Lock", "unknown service v3lockpb.Locks"),
            ("nonsense", "malformed method name: \"nonsense\""),
        ] {
            assert_eq!(find(path), None);
            assert_eq!(unknown(path), text);
        }
    }

    #[test]
    fn a_unary_call_counts_once_each_way() {
        let shards = Counters::shards(2);
        shards[1].start(0);
        shards[1].end(0, Code::Ok);
        shards[1].start(0);
        shards[1].end(0, Code::Unavailable);
        let counts = &shards[1].rpcs[0];
        let read = |c: &AtomicU64| c.load(Ordering::Relaxed);
        assert_eq!((read(&counts.started), read(&counts.received), read(&counts.sent)), (2, 2, 1));
        assert_eq!((read(&counts.handled[0]), read(&counts.handled[14])), (1, 1));
        assert_eq!(read(&shards[0].rpcs[0].started), 0);
    }
}
