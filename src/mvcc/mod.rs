//! What one keyspace means: etcd's v3 semantics over the trees, pure and deterministic.
//!
//! A [`Keyspace`] is a replicated state machine. The same commands at the same log indexes give
//! the same replies, events and state hash on every node and after every restart: apply reads no
//! clock, draws no number, and never looks at how far background work has come.
//!
//! ```text
//!   Command + (index, term) ──▶ Keyspace::apply ──▶ Applied { reply, revision, events, … }
//!                                   │ view()
//!                                   ▼
//!   RangeRequest ────────────▶ KeyspaceView ──▶ RangeReply      (any thread, never blocks apply)
//!                                   │ feed
//!                                   ▼
//!   events ──────────────────▶ watch::Hub ──▶ WatchOut per stream
//! ```
//!
//! ## Trees
//!
//! | kind | key | value |
//! |---|---|---|
//! | `BY_REV` | main, sub | every version of every key (`record`): history, feed, order of HashKV |
//! | `BY_KEY` | user key | the key's newest version, *live* unless it is a tombstone |
//! | `META` | see `key` | counters, hash ring, alarms, users and roles |
//! | `LEASES` | lease | TTL, checkpointed remainder, the entry that granted it |
//! | `LEASE_KEYS` | lease, key | attachments |
//!
//! Two puts and a delete of `a`, then a put of `b`, leave:
//!
//! ```text
//!   BY_REV  2.0 a=x v1      3.0 a=y v2 ←2.0     4.0 a ✝ ←3.0,2.0     5.0 b=z v1
//!   BY_KEY  a → 4.0 ✝ (not live)      b → 5.0 =z v1 (live)
//! ```
//!
//! Counting live keys is the tree's own business (O(log n)); a range at the newest revision reads
//! `BY_KEY` alone for small values; a read at an older revision starts at the head and hops back
//! through the ancestors that records name.
//!
//! ## Invariants
//!
//! - A main revision with at least one change is exactly one effective transaction; `sub` numbers
//!   its changes from 0. Commands that change nothing leave the revision alone.
//! - An error reply means that nothing was written.
//! - Compaction is logical at apply. What `compact_step` has or has not removed yet is never
//!   visible: reads below the compact revision are refused, feeds and hashes skip what will go.
//! - `LEASE_KEYS` holds (lease, key) exactly while the key is live with that lease.
//!
//! ## Not here
//!
//! Clocks, TTL expiry and minimum TTLs, quota, passwords and tokens, membership, encodings of the
//! wire.
//! `node` owns those; what apply needs of them is inside the command.
//!
//! ## Why not one revision for an expiry of many leases?
//!
//! One `LeaseRevoke` may name many leases, to save log entries. Clients know etcd's rule, one
//! revision per lease, and a watcher sees the same whether leases expire together or one by one.
//! So each lease that has keys makes a revision of its own within the command.
//!
//! Read first: `apply`, then `put`, `range`, `record`.

mod alarm;
mod apply;
mod auth;
mod check;
mod compact;
mod delete;
mod feed;
mod hash;
mod key;
mod keyspace;
mod lease;
mod put;
mod range;
mod record;
mod txn;
mod view;
pub mod watch;

#[cfg(test)]
mod tests;

pub use apply::{Applied, ApplyContext, LeaseChange, ReadError};
pub use check::{check_delete, check_put, check_range, check_txn, is_read_only, quota_cost};
pub use feed::{Feed, FeedRevision};
pub use hash::HashKv;
pub use keyspace::{BY_KEY, BY_REV, Keyspace, LEASE_KEYS, LEASES, META, TREE_KINDS};
pub use lease::LeaseInfo;
pub use view::KeyspaceView;
