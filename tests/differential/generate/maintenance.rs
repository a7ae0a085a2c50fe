//! Alarms and what they refuse, hashes, status, and calls that are refused whatever they say.

use super::{Gen, key, kv, lease, revision};
use crate::call::Call;
use crate::play::Op;
use bytes::Bytes;
use proptest::prelude::*;
use proptest::sample::select;
use quorate::api::proto::etcdserverpb as pb;

pub fn op() -> Gen<Op> {
    let leader = prop_oneof![Just(0), Just(77)];
    let version = select(vec!["", "3.5", "3.5.0", "3.4", "3.6", "x", "3", "3.4.0-alpha"]);
    prop_oneof![
        5 => alarmed(),
        2 => look(),
        2 => Just(Op::Call(Call::Status(pb::StatusRequest {}))),
        4 => hash(),
        1 => Just(Op::Call(Call::Hash(pb::HashRequest {}))),
        1 => Just(Op::Call(Call::Defragment(pb::DefragmentRequest {}))),
        1 => leader.prop_map(|target_id| {
            Op::Call(Call::MoveLeader(pb::MoveLeaderRequest { target_id }))
        }),
        0 => version.prop_map(|version| Op::Call(Call::Downgrade(pb::DowngradeRequest {
            action: 0,
            version: version.to_string(),
        }))),
        2 => refused(),
        1 => large(),
    ]
    .boxed()
}

/// One of each, for the question who may.
pub fn any_call() -> Gen<Op> {
    prop_oneof![
        3 => look(),
        2 => hash(),
        1 => Just(Op::Call(Call::Status(pb::StatusRequest {}))),
        1 => Just(Op::Call(Call::Hash(pb::HashRequest {}))),
        1 => Just(Op::Call(Call::Defragment(pb::DefragmentRequest {}))),
        1 => Just(Op::Call(Call::MoveLeader(pb::MoveLeaderRequest { target_id: 77 }))),
        1 => any::<bool>().prop_map(|linearizable| {
            Op::Call(Call::MemberList(pb::MemberListRequest { linearizable }))
        }),
        1 => Just(Op::Call(Call::MemberRemove(pb::MemberRemoveRequest { id: 77 }))),
        1 => Just(Op::Call(Call::MemberPromote(pb::MemberPromoteRequest { id: 77 }))),
    ]
    .boxed()
}

pub fn hash() -> Gen<Op> {
    prop_oneof![Just(0), revision()]
        .prop_map(|revision| Op::Call(Call::HashKv(pb::HashKvRequest { revision })))
        .boxed()
}

/// An alarm, what happens while it is on, and its end. Never two at once: 3.5 forgets all when one
/// ends. Members that nobody knows may have alarms too.
fn alarmed() -> Gen<Op> {
    let during =
        prop_oneof![8 => kv::op(), 2 => lease::op(), 2 => large(), 2 => look(), 1 => hash()];
    let member_id = select(vec![0, 7, u64::MAX]);
    (1..=2_i32, member_id, prop::collection::vec(during, 1..8))
        .prop_map(|(alarm, member_id, ops)| Op::Alarmed { alarm, member_id, ops })
        .boxed()
}

/// Alarms that are asked for, or ended though they are not on. Activating a kind that nobody knows
/// ends a 3.5 server, and so does an unknown action.
fn look() -> Gen<Op> {
    let kind = prop_oneof![1 => Just(0), 4 => Just(1), 4 => Just(2), 1 => Just(9)];
    let get =
        (kind.clone(), select(vec![0, 7])).prop_map(|(alarm, member_id)| (0, alarm, member_id));
    let end = kind.prop_map(|alarm| (2, alarm, 55));
    prop_oneof![2 => get, 1 => end]
        .prop_map(|(action, alarm, member_id)| {
            Op::Call(Call::Alarm(pb::AlarmRequest { action, member_id, alarm }))
        })
        .boxed()
}

fn refused() -> Gen<Op> {
    let paths = select(vec![
        "/etcdserverpb.KV/Get",
        "/etcdserverpb.Nothing/Get",
        "/no.such.Service/Call",
        "/etcdserverpb.Watch/Unwatch",
        "/a/b/c",
    ]);
    paths.prop_map(|path| Op::Call(Call::Raw(path, Bytes::new()))).boxed()
}

/// Around the largest request, and around the largest message.
fn large() -> Gen<Op> {
    let size = prop_oneof![
        Just(1_572_864 - 4_096),
        Just(1_572_864),
        Just(1_572_864 + 4_096),
        Just(2_097_152 - 16),
        Just(2_097_152 + 1),
        Just(2_200_000),
    ];
    (key(), size)
        .prop_map(|(key, size)| {
            let value = Bytes::from(vec![b'v'; size]);
            Op::Call(Call::Put(pb::PutRequest { key, value, ..Default::default() }))
        })
        .boxed()
}
