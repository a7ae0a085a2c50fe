//! The product tests: one binary, real processes and sockets, and the tests that hold the
//! project's rules.
mod btree_threads;
mod layers;
mod store_corpus;
mod wal_corpus;
