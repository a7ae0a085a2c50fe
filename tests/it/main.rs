//! The product tests: one binary, real processes and sockets, and the tests that hold the
//! project's rules.

mod bad_input;
mod client;
mod etcdctl;
mod failures;
mod harness;
mod layers;
mod wal_corpus;
