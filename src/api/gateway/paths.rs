//! Which RPC is behind which path. The table is etcd's; a test holds that no RPC was forgotten.

use super::super::rpcs::{self, RPCS};
use prost_reflect::{DescriptorPool, MessageDescriptor};
use std::sync::LazyLock;

/// One path of the gateway.
#[derive(Debug)]
pub struct Route {
    /// Without the version in front.
    tail: &'static str,
    /// Where the RPC is in `RPCS`.
    pub rpc: usize,
    pub input: MessageDescriptor,
    pub output: MessageDescriptor,
}

/// `/v3/` in front of each. `/v3beta/` means the same, as in etcd.
const PATHS: &[(&str, &str)] = &[
    ("kv/range", "/etcdserverpb.KV/Range"),
    ("kv/put", "/etcdserverpb.KV/Put"),
    ("kv/txn", "/etcdserverpb.KV/Txn"),
    ("kv/deleterange", "/etcdserverpb.KV/DeleteRange"),
    ("kv/compaction", "/etcdserverpb.KV/Compact"),
    ("watch", "/etcdserverpb.Watch/Watch"),
    ("lease/grant", "/etcdserverpb.Lease/LeaseGrant"),
    ("lease/revoke", "/etcdserverpb.Lease/LeaseRevoke"),
    ("kv/lease/revoke", "/etcdserverpb.Lease/LeaseRevoke"),
    ("lease/keepalive", "/etcdserverpb.Lease/LeaseKeepAlive"),
    ("lease/timetolive", "/etcdserverpb.Lease/LeaseTimeToLive"),
    ("kv/lease/timetolive", "/etcdserverpb.Lease/LeaseTimeToLive"),
    ("lease/leases", "/etcdserverpb.Lease/LeaseLeases"),
    ("kv/lease/leases", "/etcdserverpb.Lease/LeaseLeases"),
    ("cluster/member/add", "/etcdserverpb.Cluster/MemberAdd"),
    ("cluster/member/remove", "/etcdserverpb.Cluster/MemberRemove"),
    ("cluster/member/update", "/etcdserverpb.Cluster/MemberUpdate"),
    ("cluster/member/list", "/etcdserverpb.Cluster/MemberList"),
    ("cluster/member/promote", "/etcdserverpb.Cluster/MemberPromote"),
    ("maintenance/alarm", "/etcdserverpb.Maintenance/Alarm"),
    ("maintenance/status", "/etcdserverpb.Maintenance/Status"),
    ("maintenance/defragment", "/etcdserverpb.Maintenance/Defragment"),
    ("maintenance/hash", "/etcdserverpb.Maintenance/Hash"),
    ("maintenance/hashkv", "/etcdserverpb.Maintenance/HashKV"),
    ("maintenance/snapshot", "/etcdserverpb.Maintenance/Snapshot"),
    ("maintenance/transfer-leadership", "/etcdserverpb.Maintenance/MoveLeader"),
    ("maintenance/downgrade", "/etcdserverpb.Maintenance/Downgrade"),
    ("auth/enable", "/etcdserverpb.Auth/AuthEnable"),
    ("auth/disable", "/etcdserverpb.Auth/AuthDisable"),
    ("auth/status", "/etcdserverpb.Auth/AuthStatus"),
    ("auth/authenticate", "/etcdserverpb.Auth/Authenticate"),
    ("auth/user/add", "/etcdserverpb.Auth/UserAdd"),
    ("auth/user/get", "/etcdserverpb.Auth/UserGet"),
    ("auth/user/list", "/etcdserverpb.Auth/UserList"),
    ("auth/user/delete", "/etcdserverpb.Auth/UserDelete"),
    ("auth/user/changepw", "/etcdserverpb.Auth/UserChangePassword"),
    ("auth/user/grant", "/etcdserverpb.Auth/UserGrantRole"),
    ("auth/user/revoke", "/etcdserverpb.Auth/UserRevokeRole"),
    ("auth/role/add", "/etcdserverpb.Auth/RoleAdd"),
    ("auth/role/get", "/etcdserverpb.Auth/RoleGet"),
    ("auth/role/list", "/etcdserverpb.Auth/RoleList"),
    ("auth/role/delete", "/etcdserverpb.Auth/RoleDelete"),
    ("auth/role/grant", "/etcdserverpb.Auth/RoleGrantPermission"),
    ("auth/role/revoke", "/etcdserverpb.Auth/RoleRevokePermission"),
    ("lock/lock", "/v3lockpb.Lock/Lock"),
    ("lock/unlock", "/v3lockpb.Lock/Unlock"),
    ("election/campaign", "/v3electionpb.Election/Campaign"),
    ("election/proclaim", "/v3electionpb.Election/Proclaim"),
    ("election/leader", "/v3electionpb.Election/Leader"),
    ("election/observe", "/v3electionpb.Election/Observe"),
    ("election/resign", "/v3electionpb.Election/Resign"),
];

/// What build.rs compiled of `proto/`.
static DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

static ROUTES: LazyLock<Vec<Route>> = LazyLock::new(|| {
    let pool = DescriptorPool::decode(DESCRIPTORS).expect("descriptors of our own build");
    let route = |&(tail, path): &(&'static str, &str)| {
        let rpc = rpcs::find(path).expect("a path of RPCS");
        let service = pool.get_service_by_name(RPCS[rpc].service()).expect("a service of ours");
        let method = service.methods().find(|method| method.name() == RPCS[rpc].method());
        let method = method.expect("a method of ours");
        Route { tail, rpc, input: method.input(), output: method.output() }
    };
    PATHS.iter().map(route).collect()
});

/// The route of a request's path.
pub fn find(path: &str) -> Option<&'static Route> {
    let tail = path.strip_prefix("/v3/").or_else(|| path.strip_prefix("/v3beta/"))?;
    ROUTES.iter().find(|route| route.tail == tail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_rpc_has_a_path_save_those_that_etcd_gives_none() {
        let mut without: BTreeSet<&str> = RPCS.iter().map(|rpc| rpc.path).collect();
        for route in ROUTES.iter() {
            without.remove(RPCS[route.rpc].path);
        }
        let none = [
            "/etcdserverpb.KV/RangeStream",
            "/grpc.health.v1.Health/Check",
            "/grpc.health.v1.Health/Watch",
        ];
        assert_eq!(without, BTreeSet::from(none));
        let tails: BTreeSet<&str> = ROUTES.iter().map(|route| route.tail).collect();
        assert_eq!((tails.len(), PATHS.len()), (51, 51));
    }

    #[test]
    fn both_prefixes_lead_to_the_same_route() {
        for path in ["/v3/kv/lease/revoke", "/v3beta/lease/revoke"] {
            let route = find(path).expect(path);
            assert_eq!(RPCS[route.rpc].path, "/etcdserverpb.Lease/LeaseRevoke");
            assert_eq!(route.input.full_name(), "etcdserverpb.LeaseRevokeRequest");
            assert_eq!(route.output.full_name(), "etcdserverpb.LeaseRevokeResponse");
        }
        for path in ["/v3/kv", "/v3/kv/range/", "/v3alpha/kv/range", "/v3/", "/kv/range", ""] {
            assert!(find(path).is_none(), "{path}");
        }
    }
}
