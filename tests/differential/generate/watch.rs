//! Watchers on two streams.

use super::{Gen, key, range, revision, seldom};
use crate::play::{Ask, Op};
use crate::symbols::{COMPACTED, NOW};
use proptest::prelude::*;
use proptest::sample::select;
use quorate::api::proto::etcdserverpb as pb;

pub fn op() -> Gen<Op> {
    let ask = prop_oneof![
        10 => create().prop_map(Ask::Create),
        4 => id().prop_map(Ask::Cancel),
        2 => Just(Ask::Progress),
    ];
    (0..2_usize, ask).prop_map(|(stream, ask)| Op::Watch { stream, ask }).boxed()
}

/// Those that a server assigns, and those that clients choose below.
fn id() -> Gen<i64> {
    prop_oneof![8 => 0..=4_i64, 1 => select(vec![7, 99, i64::MAX, -2])].boxed()
}

fn create() -> Gen<pb::WatchCreateRequest> {
    let keys = prop_oneof![3 => range(), 1 => key().prop_map(|key| (key, "\0".into()))];
    let start = prop_oneof![
        6 => Just(0),
        4 => (-6..=0_i64).prop_map(|d| NOW + d),
        1 => (1..=3_i64).prop_map(|d| NOW + d),
        1 => (-2..=1_i64).prop_map(|d| COMPACTED + d),
        1 => revision(),
    ];
    let filters = prop_oneof![
        6 => Just(vec![]),
        1 => Just(vec![0]),
        1 => Just(vec![1]),
        1 => Just(vec![0, 1]),
        1 => Just(vec![1, 1, 9]),
    ];
    let watch_id =
        seldom(0.3, prop_oneof![4 => 1..=4_i64, 1 => select(vec![7, i64::MAX, -2])].boxed());
    (keys, start, filters, any::<bool>(), watch_id, prop::bool::weighted(0.2), any::<bool>())
        .prop_map(
            |((key, range_end), start_revision, filters, prev_kv, watch_id, fragment, notify)| {
                pb::WatchCreateRequest {
                    key,
                    range_end,
                    start_revision,
                    // Ten minutes apart: none comes while a sequence plays.
                    progress_notify: notify,
                    filters,
                    prev_kv,
                    watch_id,
                    fragment,
                }
            },
        )
        .boxed()
}
