//! Watching: who wants to know about which keys, and what they have been told.
//!
//! The [`Hub`] is pure: streams and watchers are numbers, time is handed in, output is taken
//! out. `node` feeds it what apply yields and lets it catch up; `api` turns [`WatchOut`] into
//! messages.
//!
//! ```text
//!              publish (newest events)
//!                    │
//!   created ──▶  synced ◀──────────────┐ read up to the newest revision
//!      │             │ buffer full     │
//!      │             ▼                 │
//!      └───────▶ unsynced ──▶ catch_up (from the feed, while the buffer has room)
//!   start in         │
//!   the past         ▼ next revision is compacted
//!                canceled
//! ```
//!
//! ## What a watcher may rely on
//!
//! - Its events come in revision order, each once, none left out, from its start revision on.
//! - All its events of one revision come in one [`EventRefs`].
//! - A progress message names a revision up to which everything of the watcher (or, for a
//!   requested one, of the whole stream) lies before it in the same stream.
//! - A watcher costs bounded memory: its stream's buffer, then only its place in the feed.
//!
//! ## Why is a requested progress dropped when a watcher lags?
//!
//! etcd does the same, and its clients ask again. Answering later would need a queue of answers
//! that a client could grow without bound.
//!
//! Read first: `hub`. `index` finds the watchers of a key.

mod hub;
mod index;

#[cfg(test)]
mod tests;

pub use hub::{
    CreateRequest, EventRefs, Filters, Hub, HubCounts, Picked, Refusal, StreamId, WatchOut,
};
