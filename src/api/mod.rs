//! What clients see: etcd's v3 API over gRPC, and its HTTP paths, on one port.
//!
//! Adapters only. A service here decodes a request, checks what can be checked without state,
//! asks the node, and encodes the answer; whatever the simulator should be able to break lives in
//! `node` and below. Nothing here reads a clock, draws a random number or starts a task, save
//! `server`, which owns the listeners and the threads that serve connections.
//!
//! Read first: `convert` (proto and our own values, both ways), `errors` (the one table of codes
//! and texts), then a service, say `kv`.
//!
//! To add an RPC, touch: `proto/` (message and method), `convert` (both ways, with a round-trip
//! test), the service's file, `rpcs::RPCS` (its name for the counters), `gateway::paths` (its JSON
//! path), `errors` if it can fail in a new way.

pub mod caller;
pub mod checks;
pub mod convert;
mod downgrade;
pub mod election;
pub mod errors;
pub mod front;
pub mod gateway;
pub mod header;
pub mod health;
pub mod http;
pub mod kv;
pub mod lease;
pub mod lock;
pub mod maintenance;
pub mod members;
pub mod metrics;
pub mod password;
pub mod proto;
mod range_stream;
mod recipe;
pub mod rpcs;
pub mod server;
pub mod tokens;
pub mod unfold;
pub mod users;
pub mod watch;
pub mod wire;
