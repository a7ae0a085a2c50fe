//! The plain values that every other layer speaks in.
//!
//! Nothing here does I/O, allocates without being told to, or knows an encoding: layouts on the
//! wire and on disk live in `codec` and `api`, so that they change only on purpose.
//!
//! Read first: `ids`, then `entry` and `message` (what Raft moves), then `command` and `reply`
//! (what a keyspace is asked to do and what it answers).

pub mod auth;
pub mod command;
pub mod entry;
pub mod error;
pub mod ids;
pub mod limits;
pub mod map;
pub mod member;
pub mod message;
pub mod prng;
pub mod range;
pub mod reply;
pub mod url;
pub mod version;

pub use command::Command;
pub use entry::{ConfChange, ConfChangeKind, ConfState, Entry, EntryKind, HardState};
pub use error::{ApiError, StorageError};
pub use ids::{
    ClusterId, GroupId, Incarnation, LeaseId, LogIndex, NodeId, RequestId, Revision, Term,
};
pub use member::Member;
pub use message::{Message, MessageBody};
pub use range::KeyRange;
pub use url::Url;
