//! Locks and elections that nobody holds, or that whoever asks holds already: an answer comes at
//! once.

use super::Gen;
use crate::call::Call;
use crate::play::Op;
use bytes::Bytes;
use proptest::prelude::*;
use proptest::sample::select;
use quorate::api::proto::etcdserverpb as pb;
use quorate::api::proto::v3electionpb as election;
use quorate::api::proto::v3lockpb;

/// One lease for each name, so that no two wait for each other; and an unknown one.
const HELD: &[(&str, i64)] = &[("a", 1), ("a", 1), ("b", 2), ("", 3), ("c", 77)];

pub fn op() -> Gen<Op> {
    let held = || select(HELD).prop_map(|(name, lease)| (Bytes::from(name), lease));
    let key = || {
        select(vec!["a/1", "b/2", "/3", "c/4d", "a", "b", ""])
            .prop_map(|key| Bytes::from_static(key.as_bytes()))
    };
    let value = || select(vec!["", "x", "y"]).prop_map(|v| Bytes::from_static(v.as_bytes()));
    // An empty name is filled in while playing.
    let leader = || {
        prop_oneof![
            6 => Just(Some(election::LeaderKey::default())),
            1 => Just(None),
            2 => (held(), key(), 0..9_i64).prop_map(|((name, lease), key, rev)| {
                Some(election::LeaderKey { name, key, rev, lease })
            }),
        ]
    };
    let grant = (1..=3_i64).prop_map(|id| Call::LeaseGrant(pb::LeaseGrantRequest { ttl: 100, id }));
    prop_oneof![
        3 => grant,
        4 => held().prop_map(|(name, lease)| Call::Lock(v3lockpb::LockRequest { name, lease })),
        3 => key().prop_map(|key| Call::Unlock(v3lockpb::UnlockRequest { key })),
        4 => (held(), value()).prop_map(|((name, lease), value)| {
            Call::Campaign(election::CampaignRequest { name, lease, value })
        }),
        4 => (leader(), value()).prop_map(|(leader, value)| {
            Call::Proclaim(election::ProclaimRequest { leader, value })
        }),
        3 => leader().prop_map(|leader| Call::Resign(election::ResignRequest { leader })),
        3 => held().prop_map(|(name, _)| Call::Leader(election::LeaderRequest { name })),
    ]
    .prop_map(Op::Call)
    .boxed()
}
