//! Membership of a cluster of one: learners that never start, and everything that is refused. No
//! voter is added and the member itself is never removed, which would be the end of the sequence.
//! Nor is a learner updated, which makes a voter of it in etcd (issue 21694), or a member given a
//! URL that is none, which ends etcd.

use super::Gen;
use crate::call::Call;
use crate::play::Op;
use crate::symbols::{LEARNER, OWN};
use proptest::prelude::*;
use proptest::sample::select;
use quorate::api::proto::etcdserverpb as pb;

const URLS: &[&[&str]] = &[
    &["http://127.0.0.1:9"],
    &["http://127.0.0.1:9", "http://127.0.0.1:19"],
    &["http://127.0.0.1:19"],
    &["http://localhost:9"],
];
const BAD_URLS: &[&[&str]] = &[
    &[],
    &[""],
    &["x"],
    &["http://"],
    &["http://127.0.0.1"],
    &["ftp://127.0.0.1:9"],
    &["http://127.0.0.1:9/path"],
    &["http://127.0.0.1:9", ""],
    &["127.0.0.1:9"],
    &["http://127.0.0.1:9", "http://127.0.0.1:9"],
];

fn owned(urls: &[&str]) -> Vec<String> {
    urls.iter().map(ToString::to_string).collect()
}

pub fn op() -> Gen<Op> {
    let id = || prop_oneof![6 => Just(LEARNER), 2 => Just(OWN), 1 => select(vec![0, 77])];
    let any_urls = || prop_oneof![3 => select(URLS), 1 => select(BAD_URLS)].prop_map(owned);
    prop_oneof![
        4 => any_urls().prop_map(|peer_ur_ls| {
            Call::MemberAdd(pb::MemberAddRequest { peer_ur_ls, is_learner: true })
        }),
        1 => select(&BAD_URLS[..9]).prop_map(|urls| {
            Call::MemberAdd(pb::MemberAddRequest { peer_ur_ls: owned(urls), is_learner: false })
        }),
        3 => prop_oneof![6 => Just(LEARNER), 1 => select(vec![0, 77])]
            .prop_map(|id| Call::MemberRemove(pb::MemberRemoveRequest { id })),
        2 => (prop_oneof![3 => Just(OWN), 1 => select(vec![0, 77])], select(URLS))
            .prop_map(|(id, urls)| {
                Call::MemberUpdate(pb::MemberUpdateRequest { id, peer_ur_ls: owned(urls) })
            }),
        2 => id().prop_map(|id| Call::MemberPromote(pb::MemberPromoteRequest { id })),
        2 => any::<bool>().prop_map(|linearizable| {
            Call::MemberList(pb::MemberListRequest { linearizable })
        }),
        1 => id().prop_map(|target_id| Call::MoveLeader(pb::MoveLeaderRequest { target_id })),
    ]
    .prop_map(Op::Call)
    .boxed()
}
