//! One member: a pure core, and around it (elsewhere) the thin loop that moves bytes.
//!
//! ```text
//!            Action                                Output
//!  ticks, frames, requests ──►  Core::handle  ──►  frames, answers, roles
//!  persisted, applied, ...      Core::end_turn     WAL batch, apply jobs, log reads,
//!                                                  pins, fetches, installs
//! ```
//!
//! Everything a member decides is decided in `core` and its neighbours, on values alone; the
//! simulator drives exactly these objects, event by event. `member` has them side by side with
//! the log, the store and the applier, and one function per thing an output can ask for.
//!
//! Promises: a request is answered once (or cancelled); a proposal whose fate is unknown is never
//! sent again; a read is answered only at an index that was confirmed after it began and is
//! applied here; a lease never ends early; nothing queues without a bound.
//!
//! Read first: `action` (what can happen, what can be wanted), `core`, then `requests`, `reads`,
//! `leases`, `changes`, `fetch`; `boot` for data directories.

pub mod action;
pub mod boot;
mod changes;
pub mod config;
pub mod core;
mod fetch;
mod group;
mod groups;
pub mod handle;
mod leases;
pub mod lessor;
mod mailbox;
pub mod member;
pub mod membership;
mod metrics;
pub mod portable;
pub mod quota;
pub mod reads;
mod requests;
pub mod restore;
pub mod shared;
pub mod shell;
pub mod start;
pub mod streams;
pub mod survivor;
pub mod tokens;
pub mod watching;

#[cfg(test)]
mod tests;

pub use action::{Action, Answer, Output, Refusal, StopReason, Token};
pub use boot::{BootConfig, BootError, Founding, boot};
pub use config::CoreConfig;
pub use core::{Core, CoreCounters};
pub use group::GroupStatus;
pub use handle::NodeHandle;
pub use member::Member;
pub use membership::MembershipChange;
pub use portable::{SnapshotReader, SnapshotWriter};
pub use restore::{RestoreConfig, RestoreError, RestoreSource, StoreSource, restore};
pub use watching::{WatchRoom, WatchStream};
