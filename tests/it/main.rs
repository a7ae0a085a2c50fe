//! The product tests: one binary, real processes and sockets, and the tests that hold the
//! project's rules.
mod layers;
mod wal_corpus;
