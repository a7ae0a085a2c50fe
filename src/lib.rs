//! Quorate: an etcd-v3-compatible, replicated, strongly consistent key-value store.
//!
//! The order of the `mod` lines is the layer order and the reading order. A layer names only
//! layers above it in this list; `wal`, `btree` and `raft` are strangers to each other. A test
//! (`tests/it/layers.rs`) holds this. ARCHITECTURE.md is the map.

#[cfg(all(feature = "sim", not(madsim)))]
compile_error!(
    "feature `sim` needs `--cfg madsim`: unset RUSTFLAGS and run from the repository root"
);

// L0: plain values every other layer speaks in.
pub mod types;
// L1: bytes <-> values, and the edge to the operating system.
pub mod codec;
pub mod io;
// L2: three strangers: the log on disk, the tree on disk, consensus for one group.
pub mod btree;
pub mod raft;
pub mod wal;
// L3: who may do what.
pub mod auth;
// L4: what one keyspace means.
pub mod mvcc;
// L5: many groups on one node, still synchronous.
pub mod multiraft;
// L6: peers.
pub mod transport;
// L7: one member.
pub mod node;
// L8: what clients see.
pub mod api;
// L9: flags, configuration, commands.
pub mod cli;
