//! What this build calls itself, towards people and towards etcd's clients.

/// The etcd release whose API and behaviour this is; clients read it from Status and /version.
pub const ETCD_VERSION: &str = "3.6.14";
/// The cluster version that goes with it: major and minor alone count.
pub const CLUSTER_VERSION: &str = "3.6.0";
/// The version of the stored data, as etcd's tools expect it beside the cluster version.
pub const STORAGE_VERSION: &str = "3.6.0";
/// The API version that tools print.
pub const API_VERSION: &str = "3.6";
/// Our own release.
pub const QUORATE_VERSION: &str = env!("CARGO_PKG_VERSION");
