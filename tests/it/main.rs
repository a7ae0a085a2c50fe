//! The product tests: one binary, real processes and sockets, and the tests that hold the
//! project's rules.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "the product tests run real processes on real files and sockets"
)]

mod auth;
mod bad_input;
mod btree_threads;
mod client;
mod errors;
mod etcdctl;
mod failures;
mod gateway;
mod harness;
mod http;
mod layers;
mod membership;
mod recipes;
mod semantics;
mod store_corpus;
mod wal_corpus;
mod web;
mod wire;
