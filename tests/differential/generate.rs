//! Sequences of operations, dense on purpose: a handful of keys, leases and values, and revisions
//! near the edges, so that nearly every operation meets what an earlier one left.

mod auth;
mod cluster;
mod kv;
mod lease;
mod maintenance;
mod recipes;
mod watch;

use crate::play::Op;
use crate::symbols::{COMPACTED, NOW};
use bytes::Bytes;
use proptest::prelude::*;
use proptest::sample::select;

pub type Gen<T> = BoxedStrategy<T>;

/// What a sequence is about: its share of each kind of operation.
#[derive(Clone, Copy, Debug)]
pub enum Theme {
    KeyValues,
    Leases,
    Watches,
    Maintenance,
    Auth,
    Recipes,
    Cluster,
}

impl Theme {
    /// Whether it leaves behind what `play::reset` does not take back: users, members.
    pub fn leaves_traces(self) -> bool {
        matches!(self, Theme::Auth | Theme::Cluster)
    }
}

pub const THEMES: &[Theme] = &[
    Theme::KeyValues,
    Theme::Leases,
    Theme::Watches,
    Theme::Maintenance,
    Theme::Auth,
    Theme::Recipes,
    Theme::Cluster,
];

pub fn sequence(theme: Theme, ops: usize) -> Gen<Vec<Op>> {
    let op = match theme {
        Theme::KeyValues => prop_oneof![12 => kv::op(), 1 => maintenance::hash()].boxed(),
        Theme::Leases => prop_oneof![5 => lease::op(), 4 => kv::op()].boxed(),
        Theme::Watches => prop_oneof![5 => watch::op(), 9 => kv::op(), 1 => lease::op()].boxed(),
        Theme::Maintenance => prop_oneof![3 => maintenance::op(), 5 => kv::op()].boxed(),
        Theme::Recipes => prop_oneof![4 => recipes::op(), 1 => lease::op(), 1 => kv::op()].boxed(),
        Theme::Cluster => prop_oneof![2 => cluster::op(), 1 => kv::op()].boxed(),
        Theme::Auth => return auth::sequence(ops),
    };
    prop::collection::vec(op, ops / 2..=ops).boxed()
}

/// `0` or empty, unless chance wants it otherwise.
pub fn seldom<T: Default + Clone + std::fmt::Debug + 'static>(chance: f64, some: Gen<T>) -> Gen<T> {
    prop::option::weighted(chance, some).prop_map(Option::unwrap_or_default).boxed()
}

pub fn bytes(of: &'static [&'static [u8]]) -> Gen<Bytes> {
    select(of).prop_map(Bytes::from_static).boxed()
}

pub fn key() -> Gen<Bytes> {
    prop_oneof![
        40 => bytes(&[b"a", b"b", b"c", b"a\0", b"ab"]),
        8 => bytes(&[b"\0", b"\xff", b"\xff\xff", b"a\xff"]),
        1 => Just(Bytes::new()),
    ]
    .boxed()
}

/// A key and the end of its range: one key, from the key on, a prefix, all, nothing.
pub fn range() -> Gen<(Bytes, Bytes)> {
    let end = prop_oneof![
        6 => Just(Bytes::new()),
        4 => bytes(&[b"\0"]),
        6 => bytes(&[b"b", b"c", b"z", b"a\0", b"ab", b"\xff"]),
        1 => key(),
    ];
    (key(), end).boxed()
}

pub fn value() -> Gen<Bytes> {
    bytes(&[b"", b"x", b"y", b"10", b"9", b"\xff\0"])
}

/// Ids of leases: a few that exist now and then, one that never does.
pub fn lease_id() -> Gen<i64> {
    prop_oneof![8 => select(vec![1_i64, 2, 3]), 1 => select(vec![-5, 77, i64::MAX])].boxed()
}

/// A revision to read at or compact to.
pub fn revision() -> Gen<i64> {
    prop_oneof![
        8 => (-8..=0_i64).prop_map(|d| NOW + d),
        1 => (1..=3_i64).prop_map(|d| NOW + d),
        4 => (-2..=2_i64).prop_map(|d| COMPACTED + d),
        1 => select(vec![-1, 1, 2, i64::MIN, i64::MAX]),
    ]
    .boxed()
}
