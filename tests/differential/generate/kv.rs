//! Put, range, delete, txn, compact.

use super::{Gen, bytes, key, lease_id, range, revision, seldom, value};
use crate::call::Call;
use crate::play::Op;
use bytes::Bytes;
use pb::compare::TargetUnion;
use pb::request_op::Request;
use proptest::prelude::*;
use proptest::sample::select;
use quorate::api::proto::etcdserverpb as pb;

/// How deep txns nest.
const DEPTH: u32 = 3;

pub fn op() -> Gen<Op> {
    prop_oneof![
        10 => put().prop_map(Call::Put),
        10 => read().prop_map(Call::Range),
        4 => delete().prop_map(Call::DeleteRange),
        10 => txn(DEPTH).prop_map(Call::Txn),
        1 => unknown_sort(),
        1 => compact().prop_map(Call::Compact),
    ]
    .prop_map(Op::Call)
    .boxed()
}

pub fn put() -> Gen<pb::PutRequest> {
    (
        key(),
        seldom(0.9, value()),
        seldom(0.15, lease_id()),
        prop::bool::weighted(0.4),
        prop::bool::weighted(0.12),
        prop::bool::weighted(0.12),
    )
        .prop_map(|(key, value, lease, prev_kv, ignore_value, ignore_lease)| {
            // Mostly what is legal with the options.
            let value = if ignore_value && value.len() < 2 { Bytes::new() } else { value };
            let lease = if ignore_lease && lease < 3 { 0 } else { lease };
            pb::PutRequest { key, value, lease, prev_kv, ignore_value, ignore_lease }
        })
        .boxed()
}

pub fn read() -> Gen<pb::RangeRequest> {
    let limit =
        prop_oneof![6 => Just(0), 6 => 1..=4_i64, 1 => select(vec![-1, i64::MIN, i64::MAX])];
    let sort = prop_oneof![3 => Just((0, 0)), 5 => (0..=2, 0..=4)];
    let flags = (prop::bool::weighted(0.3), prop::bool::weighted(0.2), prop::bool::weighted(0.15));
    let filters = (
        seldom(0.12, revision()),
        seldom(0.12, revision()),
        seldom(0.12, revision()),
        seldom(0.12, revision()),
    );
    (range(), limit, seldom(0.4, revision()), sort, flags, filters)
        .prop_map(|((key, range_end), limit, revision, sort, flags, filters)| pb::RangeRequest {
            key,
            range_end,
            limit,
            revision,
            sort_order: sort.0,
            sort_target: sort.1,
            serializable: flags.0,
            keys_only: flags.1,
            count_only: flags.2,
            min_mod_revision: filters.0,
            max_mod_revision: filters.1,
            min_create_revision: filters.2,
            max_create_revision: filters.3,
        })
        .boxed()
}

/// Only in what changes nothing: 3.5 lets these through, and the stores must stay equal. Only the
/// order, as well: an unknown target ends a 3.5 server.
fn unknown_sort() -> Gen<Call> {
    let alone = (read(), select(vec![5, -1]))
        .prop_map(|(range, sort_order)| pb::RangeRequest { sort_order, ..range });
    (alone, any::<bool>())
        .prop_map(|(range, in_txn)| {
            if !in_txn {
                return Call::Range(range);
            }
            let op = pb::RequestOp { request: Some(Request::RequestRange(range)) };
            Call::Txn(pb::TxnRequest { success: vec![op], ..Default::default() })
        })
        .boxed()
}

pub fn delete() -> Gen<pb::DeleteRangeRequest> {
    (range(), any::<bool>())
        .prop_map(|((key, range_end), prev_kv)| pb::DeleteRangeRequest { key, range_end, prev_kv })
        .boxed()
}

fn compare() -> Gen<pb::Compare> {
    let number = prop_oneof![4 => 0..=3_i64, 3 => revision()];
    let matching = (0..=4_i32, number, value(), seldom(0.5, lease_id())).prop_map(
        |(target, number, value, lease)| {
            let union = match target {
                0 => TargetUnion::Version(number),
                1 => TargetUnion::CreateRevision(number),
                2 => TargetUnion::ModRevision(number),
                3 => TargetUnion::Value(value),
                _ => TargetUnion::Lease(lease),
            };
            (target, Some(union))
        },
    );
    let odd = (
        prop_oneof![4 => 0..=4, 1 => Just(9)],
        prop_oneof![
            Just(None),
            Just(Some(TargetUnion::Version(1))),
            Just(Some(TargetUnion::Value(Bytes::from_static(b"x")))),
            Just(Some(TargetUnion::Lease(1))),
        ],
    );
    let result = prop_oneof![20 => 0..=3, 1 => Just(7)];
    (result, prop_oneof![8 => matching, 1 => odd], key(), seldom(0.3, range_end()))
        .prop_map(|(result, (target, target_union), key, range_end)| pb::Compare {
            result,
            target,
            key,
            range_end,
            target_union,
        })
        .boxed()
}

fn range_end() -> Gen<Bytes> {
    bytes(&[b"\0", b"b", b"c", b"z", b"\xff"])
}

pub fn txn(depth: u32) -> Gen<pb::TxnRequest> {
    let branch = || prop::collection::vec(request_op(depth), 0..=3);
    (prop::collection::vec(compare(), 0..=2), branch(), branch())
        .prop_map(|(compare, success, failure)| pb::TxnRequest { compare, success, failure })
        .boxed()
}

fn request_op(depth: u32) -> Gen<pb::RequestOp> {
    let some = |request| pb::RequestOp { request: Some(request) };
    let flat = prop_oneof![
        5 => put().prop_map(Request::RequestPut),
        4 => read().prop_map(Request::RequestRange),
        3 => delete().prop_map(Request::RequestDeleteRange),
    ]
    .prop_map(some);
    let nothing = Just(pb::RequestOp { request: None });
    if depth == 0 {
        return prop_oneof![60 => flat, 1 => nothing].boxed();
    }
    let nested = txn(depth - 1).prop_map(Request::RequestTxn).prop_map(some);
    prop_oneof![60 => flat, 12 => nested, 1 => nothing].boxed()
}

fn compact() -> Gen<pb::CompactionRequest> {
    (prop_oneof![1 => Just(0), 12 => revision()], any::<bool>())
        .prop_map(|(revision, physical)| pb::CompactionRequest { revision, physical })
        .boxed()
}
