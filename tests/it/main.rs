//! The product tests: one binary, real processes and sockets, and the tests that hold the
//! project's rules.

mod bad_input;
mod btree_threads;
mod client;
mod etcdctl;
mod failures;
mod harness;
mod layers;
mod store_corpus;
mod wal_corpus;
mod wire;
