//! What a member is told once, at its start: who it is, and its knobs with etcd's defaults.
//!
//! Times in milliseconds. Nothing here changes while the process runs, and nothing is checked:
//! `cli::config` has done that.

use crate::codec::raft::encode_conf_change;
use crate::multiraft::host::TrimPolicy;
use crate::raft;
use crate::types::prng::Prng;
use crate::types::{ClusterId, GroupId, Incarnation, NodeId, limits};

/// What a member is, and its knobs. Times in milliseconds.
#[derive(Clone, Debug)]
pub struct CoreConfig {
    pub cluster: ClusterId,
    pub node: NodeId,
    pub incarnation: Incarnation,
    /// Drawn anew at each start of the process: names its requests and its read rounds.
    pub origin: u64,
    /// Seeds the election timeouts and the ids drawn for leases.
    pub seed: u64,
    pub name: String,
    pub client_urls: Vec<String>,
    /// etcd's heartbeat interval: one raft tick.
    pub tick_ms: u64,
    pub election_ticks: u32,
    pub pre_vote: bool,
    pub bounds: raft::Bounds,
    pub trim: TrimPolicy,
    /// At twice this many bytes behind the store, writes are refused.
    pub tail_bytes: u64,
    pub request_bytes_max: usize,
    /// 0 is unlimited.
    pub quota_bytes: u64,
    pub pending_max: usize,
    pub strict_reconfig: bool,
    pub learners_max: usize,
    /// How long a peer must have been connected to count as healthy (etcd: 5 s).
    pub healthy_ms: u64,
    /// How often the rest of a long lease is put into the log; `None` is never (etcd's default).
    pub lease_checkpoint_ms: Option<u64>,
}

impl CoreConfig {
    /// etcd's defaults.
    pub fn new(
        cluster: ClusterId,
        node: NodeId,
        incarnation: Incarnation,
        origin: u64,
    ) -> CoreConfig {
        CoreConfig {
            cluster,
            node,
            incarnation,
            origin,
            seed: origin ^ node.0,
            name: "default".to_string(),
            client_urls: Vec::new(),
            tick_ms: 100,
            election_ticks: 10,
            pre_vote: true,
            bounds: raft::Bounds::default(),
            trim: TrimPolicy {
                keep_entries: limits::TRIM_KEEP_ENTRIES,
                keep_bytes: limits::TRIM_KEEP_BYTES,
                step_entries: 1000,
            },
            tail_bytes: limits::WAL_TAIL_BYTES,
            request_bytes_max: limits::REQUEST_BYTES_DEFAULT,
            quota_bytes: limits::QUOTA_BYTES_DEFAULT,
            pending_max: limits::PENDING_PROPOSALS_MAX,
            strict_reconfig: true,
            learners_max: 1,
            healthy_ms: 5_000,
            lease_checkpoint_ms: None,
        }
    }

    /// What a group's replica is told of the knobs.
    pub(super) fn of_group(&self, group: GroupId) -> raft::Config {
        let seed = Prng::stream(self.seed ^ group.0.rotate_left(32), "election").next_u64();
        let mut config = raft::Config::new(self.node, group, seed, encode_conf_change);
        config.election_ticks = self.election_ticks;
        config.pre_vote = self.pre_vote;
        config.bounds = self.bounds;
        config
    }

    pub fn election_ms(&self) -> u64 {
        self.tick_ms * u64::from(self.election_ticks)
    }
    /// How long a request may take (etcd: 5 s and twice the election timeout).
    pub fn request_ms(&self) -> u64 {
        5_000 + 2 * self.election_ms()
    }
    /// etcd's smallest TTL: one and a half election timeouts, in whole seconds.
    pub fn ttl_seconds_min(&self) -> i64 {
        i64::try_from((self.election_ms() * 3).div_ceil(2000)).unwrap_or(i64::MAX)
    }
}
