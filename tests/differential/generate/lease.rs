//! Leases, known and unknown.

use super::{Gen, lease_id};
use crate::call::Call;
use crate::play::Op;
use proptest::prelude::*;
use proptest::sample::select;
use quorate::api::proto::etcdserverpb as pb;

pub fn op() -> Gen<Op> {
    let grant = (lease_id(), 100..=101_i64).prop_map(|(id, ttl)| pb::LeaseGrantRequest { ttl, id });
    let ttl = select(vec![i64::MIN, -1, 0, 1, 2, 3, 9_000_000_000, 9_000_000_001, i64::MAX]);
    let edge = (prop_oneof![Just(0), lease_id()], ttl)
        .prop_map(|(id, ttl)| pb::LeaseGrantRequest { ttl, id });
    prop_oneof![
        6 => grant.prop_map(Call::LeaseGrant).prop_map(Op::Call),
        2 => edge.prop_map(Op::ShortLease),
        3 => lease_id().prop_map(|id| Op::Call(Call::LeaseRevoke(pb::LeaseRevokeRequest { id }))),
        3 => (prop_oneof![9 => lease_id(), 1 => Just(0)], any::<bool>()).prop_map(|(id, keys)| {
            Op::Call(Call::LeaseTimeToLive(pb::LeaseTimeToLiveRequest { id, keys }))
        }),
        2 => Just(Op::Call(Call::LeaseLeases(pb::LeaseLeasesRequest {}))),
        2 => prop::collection::vec(prop_oneof![9 => lease_id(), 1 => Just(0)], 1..=3)
            .prop_map(Op::KeepAlive),
    ]
    .boxed()
}
