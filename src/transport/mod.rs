//! Peers: how members of one cluster reach each other.
//!
//! ```text
//!   node A                                   node B
//!   send(B, frame) -> outbox -> dialed --Hello------------> accepted
//!                               stream <-HelloReply-------- (both judge, before anything else)
//!                                      --Raft, Node, Ping->  sink(Frame { from: A, .. })
//!                                      <-Pong-------------
//! ```
//! Each node dials each peer and sends on the stream it dialed, so two nodes share two streams,
//! one per direction; a third and fourth for bulk (snapshots) are dialed when needed, so that a
//! megabyte chunk never stands before a heartbeat. Who does not belong to the cluster yet may ask
//! one thing, who is in it (`roster`).
//!
//! Promises: frames of one stream and one priority arrive in order or not at all; nothing is
//! stepped that comes from another cluster, an unexpected data directory or a removed member;
//! `send` never blocks and never grows without bound: a full queue drops and says so. It does not
//! promise delivery, and knows nothing of Raft but which messages must not wait behind entries.
//!
//! Read first: `handshake` (pure: who may talk), `frame` (the bytes), `peers` (the tasks), then
//! `outbox`, `dial` and `accept`.

mod accept;
mod dial;
pub mod frame;
pub mod handshake;
mod outbox;
pub mod peers;
pub mod roster;
#[cfg(test)]
mod tests;
mod wire;

pub use frame::PeerFrame;
pub use handshake::{Hello, LocalIdentity, PeerBook, Refusal, StreamKind, Verdict, judge};
pub use peers::{PeerCounters, PeerEvent, Peers, RefusedBy, StartError};
pub use roster::Roster;
