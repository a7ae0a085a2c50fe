//! Every bound of the system, named, with its reason.

/// Frames between peers: a whole append of `APPEND_BYTES_MAX` plus one largest entry fits.
pub const FRAME_BYTES_MAX: usize = 64 << 20;
/// Entries in one append message: large enough to fill a frame of small entries, small enough
/// that a follower's turn stays short.
pub const APPEND_ENTRIES_MAX: usize = 8192;
/// Bytes of entries in one append message (one entry may exceed it alone).
pub const APPEND_BYTES_MAX: usize = 1 << 20;
/// Appends on their way to one follower before the leader waits for an answer.
pub const INFLIGHT_APPENDS_MAX: usize = 256;
/// Bytes on their way to one follower before the leader waits for an answer.
pub const INFLIGHT_BYTES_MAX: usize = 16 << 20;
/// Entry bytes one group keeps in memory; older ones are read back from the WAL.
pub const LOG_CACHE_BYTES_MAX: usize = 16 << 20;
/// Bytes of proposals appended by a leader but not committed; beyond it proposals are refused.
pub const UNCOMMITTED_BYTES_MAX: usize = 64 << 20;
/// Proposals waiting between the API and the core; beyond it: "too many requests" (etcd: 5,000
/// committed but unapplied; ours counts everything not yet answered).
pub const PENDING_PROPOSALS_MAX: usize = 16_384;
/// Groups of one cluster that exist at a time: each costs a replica's state on every node.
pub const GROUPS_MAX: usize = 4_096;
/// Read-index requests (each usually a batch of client reads) waiting at one replica of a group.
pub const READS_PENDING_MAX: usize = 4_096;
/// Committed entry bytes handed to the applier and not yet applied, per group.
pub const APPLY_BYTES_MAX: usize = 8 << 20;
/// One chunk of a raft snapshot: its memory at both ends.
pub const SNAPSHOT_CHUNK_BYTES: usize = 1 << 20;
/// The default bound on a client request (etcd's `--max-request-bytes`).
pub const REQUEST_BYTES_DEFAULT: usize = 1_572_864;
/// What gRPC may receive beyond a request's bound (etcd adds the same).
pub const GRPC_OVERHEAD_BYTES: usize = 512 * 1024;
/// The default bound on operations in one txn (etcd's `--max-txn-ops`).
pub const TXN_OPS_DEFAULT: usize = 128;
/// Nesting of txns that decoding accepts: deeper ones are refused before they use the stack.
pub const TXN_DEPTH_MAX: usize = 32;
/// Bytes of one key that the tree accepts: the request bound, with room for key escapes.
pub const KEY_BYTES_MAX: usize = 32 << 20;
/// etcd's largest TTL, in seconds.
pub const LEASE_TTL_SECONDS_MAX: i64 = 9_000_000_000;
/// Events buffered for one watcher before it falls back to reading the feed.
pub const WATCHER_BUFFER_BYTES_MAX: usize = 4 << 20;
/// The quota when the operator sets none (etcd: 2 GiB).
pub const QUOTA_BYTES_DEFAULT: u64 = 2 << 30;
/// Default page cache, dirty pages included.
pub const CACHE_BYTES_DEFAULT: usize = 64 << 20;
/// WAL tail behind the store at which a checkpoint is due, and at twice which proposals wait.
pub const WAL_TAIL_BYTES: u64 = 32 << 20;
/// Entries kept behind the applied index for slow followers (etcd: 5,000).
pub const TRIM_KEEP_ENTRIES: u64 = 5_000;
/// Entry bytes kept behind the applied index for slow followers.
pub const TRIM_KEEP_BYTES: u64 = 64 << 20;
/// Bytes of messages waiting for one peer: two groups' full windows, or many idle groups.
pub const PEER_QUEUE_BYTES_MAX: usize = 32 << 20;
/// Messages waiting for one peer, small ones included.
pub const PEER_QUEUE_MESSAGES_MAX: usize = 16_384;
/// Bytes of snapshot chunks and other bulk waiting for one peer.
pub const PEER_BULK_BYTES_MAX: usize = 8 << 20;
/// Bytes written to a peer at once: large enough to be cheap, small enough that a heartbeat
/// queued meanwhile leaves soon.
pub const PEER_WRITE_BYTES: usize = 1 << 20;
/// The first frame on a stream, from somebody who has not shown yet who it is.
pub const PEER_HELLO_BYTES_MAX: usize = 64 << 10;
/// What a member answers to whoever is about to join: its membership, far above any real one.
pub const PEER_ROSTER_BYTES_MAX: usize = 1 << 20;
/// Streams accepted and open at a time, strangers included.
pub const PEER_INBOUND_MAX: usize = 1024;
