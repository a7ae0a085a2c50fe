//! Many groups on one node, still synchronous.
//!
//! ```text
//!   inputs of all groups ──► Host ──► Turn: one WAL batch, messages, apply jobs, reads, ...
//!                                        │
//!          apply jobs ──► Applier (store, keyspaces, membership) ──► AppliedBatch
//!                            │                     ▲
//!                       checkpoints           fetched state
//!                            ▼                     │
//!                          store   SnapshotServer ─┴─ Installer   (state for another node)
//! ```
//!
//! Four owners that share nothing but values: `Host` (in the core's thread), `Applier` (its own),
//! `CheckpointJob` steps (a third), `SnapshotServer`/`Installer` (bulk). The simulator runs each
//! of them as events of its own.
//!
//! Invariants: a promise leaves after its batch is durable (`host`); an entry is applied once, in
//! order, after it is durable here (`host`, `apply`); a checkpoint says up to which entry it has
//! everything (`meta`), and the log is freed only behind the older of the two valid ones.
//!
//! Read first: `turn` (what a turn yields), `host`, `apply`, then `snapshots`.

pub mod apply;
pub mod catalogue;
pub mod change;
pub mod checkpoint;
pub mod host;
pub mod meta;
pub mod outbox;
pub mod root;
pub mod snapshots;
pub mod trim;
pub mod turn;
pub mod wire;

pub use apply::{AppliedBatch, AppliedEntry, Applier};
pub use host::{Host, HostCounters, TrimPolicy};
pub use root::RootState;
pub use snapshots::{Installer, SnapshotServer};
pub use turn::{ApplyJob, BatchId, LogRead, SoftState, Turn, WalBatch};
pub use wire::NodeMessage;
