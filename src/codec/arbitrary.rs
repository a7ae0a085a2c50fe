//! Strategies that make any value of the encoded types, for tests here and in other rooms.

use crate::types::auth::{AuthCommand, Caller, Permission, PermissionKind};
use crate::types::command::{
    AlarmAction, AlarmKind, AlarmRequest, Command, CompactRequest, Compare, CompareResult,
    CompareTarget, DeleteRangeRequest, LeaseLeader, Proposal, PutRequest, RangeRequest, RequestOp,
    SortOrder, SortTarget, TxnRequest,
};
use crate::types::message::{Message, MessageBody, RejectHint, SnapshotMeta};
use crate::types::{
    ConfChange, ConfChangeKind, ConfState, Entry, EntryKind, GroupId, HardState, Incarnation,
    KeyRange, LeaseId, LogIndex, Member, NodeId, RequestId, Term,
};
use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;

pub fn bytes() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..40).prop_map(Bytes::from)
}

/// Numbers of every length.
pub fn number() -> impl Strategy<Value = u64> {
    (any::<u64>(), 0_u32..64).prop_map(|(n, shift)| n >> shift)
}

fn signed() -> impl Strategy<Value = i64> {
    number().prop_map(|n| n as i64)
}

pub fn node() -> impl Strategy<Value = NodeId> {
    prop_oneof![(0_u64..6).prop_map(NodeId), any::<u64>().prop_map(NodeId)]
}

fn nodes() -> impl Strategy<Value = Vec<NodeId>> {
    vec(node(), 0..6).prop_map(|ids| ConfState::of_voters(ids).voters)
}

fn term() -> impl Strategy<Value = Term> {
    number().prop_map(Term)
}

fn lease_leader() -> impl Strategy<Value = LeaseLeader> {
    (term(), index()).prop_map(|(term, applied)| LeaseLeader { term, applied })
}

fn index() -> impl Strategy<Value = LogIndex> {
    number().prop_map(LogIndex)
}

fn lease() -> impl Strategy<Value = LeaseId> {
    signed().prop_map(LeaseId)
}

pub fn hard_state() -> impl Strategy<Value = HardState> {
    (term(), node(), index()).prop_map(|(term, vote, commit)| HardState { term, vote, commit })
}

pub fn conf_state() -> impl Strategy<Value = ConfState> {
    (nodes(), nodes(), nodes(), nodes(), any::<bool>()).prop_map(
        |(voters, learners, voters_outgoing, learners_next, auto_leave)| ConfState {
            voters,
            learners,
            voters_outgoing,
            learners_next,
            auto_leave,
        },
    )
}

pub fn conf_change() -> impl Strategy<Value = ConfChange> {
    let kind = prop_oneof![
        Just(ConfChangeKind::AddVoter),
        Just(ConfChangeKind::AddLearner),
        Just(ConfChangeKind::Remove),
    ];
    (vec((kind, node()), 0..4), any::<bool>(), any::<bool>(), bytes()).prop_map(
        |(changes, joint, auto_leave, context)| ConfChange { changes, joint, auto_leave, context },
    )
}

pub fn snapshot_meta() -> impl Strategy<Value = SnapshotMeta> {
    (index(), term(), conf_state()).prop_map(|(index, term, conf)| SnapshotMeta {
        index,
        term,
        conf,
    })
}

pub fn entry() -> impl Strategy<Value = Entry> {
    let kind =
        prop_oneof![Just(EntryKind::Empty), Just(EntryKind::Command), Just(EntryKind::ConfChange)];
    (term(), index(), kind, bytes()).prop_map(|(term, index, kind, data)| Entry {
        term,
        index,
        kind,
        data,
    })
}

fn body() -> impl Strategy<Value = MessageBody> {
    let flag = any::<bool>;
    prop_oneof![
        (index(), term())
            .prop_map(|(last_index, last_term)| MessageBody::PreVote { last_index, last_term }),
        flag().prop_map(|granted| MessageBody::PreVoteReply { granted }),
        (index(), term(), flag()).prop_map(|(last_index, last_term, forced)| MessageBody::Vote {
            last_index,
            last_term,
            forced
        }),
        flag().prop_map(|granted| MessageBody::VoteReply { granted }),
        (index(), term(), index(), vec(entry(), 0..5)).prop_map(
            |(prev_index, prev_term, commit, entries)| MessageBody::Append {
                prev_index,
                prev_term,
                commit,
                entries
            }
        ),
        (index(), proptest::option::of((index(), term()))).prop_map(|(index, hint)| {
            let reject = hint.map(|(index, term)| RejectHint { index, term });
            MessageBody::AppendReply { index, reject }
        }),
        (index(), number())
            .prop_map(|(commit, context)| MessageBody::Heartbeat { commit, context }),
        number().prop_map(|context| MessageBody::HeartbeatReply { context }),
        snapshot_meta().prop_map(|meta| MessageBody::Snapshot { meta }),
        index().prop_map(|index| MessageBody::SnapshotRefused { index }),
        Just(MessageBody::TimeoutNow),
        (index(), term()).prop_map(|(index, term)| MessageBody::Committed { index, term }),
        vec(bytes(), 0..4).prop_map(|data| MessageBody::Propose { data }),
        number().prop_map(|context| MessageBody::ReadIndex { context }),
        (number(), index())
            .prop_map(|(context, index)| MessageBody::ReadIndexReply { context, index }),
    ]
}

pub fn message() -> impl Strategy<Value = Message> {
    (number(), node(), node(), term(), body()).prop_map(|(group, from, to, term, body)| Message {
        group: GroupId(group),
        from,
        to,
        term,
        body,
    })
}

pub fn member() -> impl Strategy<Value = Member> {
    (
        node(),
        ".{0,8}",
        vec(".{0,12}", 0..3),
        vec(".{0,12}", 0..3),
        any::<bool>(),
        proptest::option::of(any::<u64>()),
    )
        .prop_map(|(id, name, peer_urls, client_urls, is_learner, incarnation)| Member {
            id,
            name,
            peer_urls,
            client_urls,
            is_learner,
            incarnation: incarnation.map(Incarnation),
        })
}

fn key_range() -> impl Strategy<Value = KeyRange> {
    (bytes(), bytes()).prop_map(|(key, end)| KeyRange { key, end })
}

pub fn put() -> impl Strategy<Value = PutRequest> {
    (bytes(), bytes(), lease(), any::<(bool, bool, bool)>()).prop_map(
        |(key, value, lease, (prev_kv, ignore_value, ignore_lease))| PutRequest {
            key,
            value,
            lease,
            prev_kv,
            ignore_value,
            ignore_lease,
        },
    )
}

fn delete_range() -> impl Strategy<Value = DeleteRangeRequest> {
    (key_range(), any::<bool>()).prop_map(|(range, prev_kv)| DeleteRangeRequest { range, prev_kv })
}

pub fn range() -> impl Strategy<Value = RangeRequest> {
    let order =
        prop_oneof![Just(SortOrder::None), Just(SortOrder::Ascend), Just(SortOrder::Descend)];
    let target = prop_oneof![
        Just(SortTarget::Key),
        Just(SortTarget::Version),
        Just(SortTarget::Create),
        Just(SortTarget::Mod),
        Just(SortTarget::Value),
    ];
    let bounds = (signed(), signed(), signed(), signed());
    (key_range(), signed(), signed(), order, target, any::<(bool, bool, bool)>(), bounds).prop_map(
        |(range, limit, revision, sort_order, sort_target, flags, bounds)| RangeRequest {
            range,
            limit,
            revision,
            sort_order,
            sort_target,
            serializable: flags.0,
            keys_only: flags.1,
            count_only: flags.2,
            min_mod_revision: bounds.0,
            max_mod_revision: bounds.1,
            min_create_revision: bounds.2,
            max_create_revision: bounds.3,
        },
    )
}

fn compare() -> impl Strategy<Value = Compare> {
    let result = prop_oneof![
        Just(CompareResult::Equal),
        Just(CompareResult::Greater),
        Just(CompareResult::Less),
        Just(CompareResult::NotEqual),
    ];
    let target = prop_oneof![
        signed().prop_map(CompareTarget::Version),
        signed().prop_map(CompareTarget::Create),
        signed().prop_map(CompareTarget::Mod),
        bytes().prop_map(CompareTarget::Value),
        signed().prop_map(CompareTarget::Lease),
        Just(CompareTarget::Unknown),
    ];
    (key_range(), result, target).prop_map(|(range, result, target)| Compare {
        range,
        result,
        target,
    })
}

pub fn txn() -> impl Strategy<Value = TxnRequest> {
    let leaf = prop_oneof![
        range().prop_map(RequestOp::Range),
        put().prop_map(RequestOp::Put),
        delete_range().prop_map(RequestOp::DeleteRange),
    ];
    let op = leaf.prop_recursive(3, 12, 3, |op| {
        (vec(compare(), 0..2), vec(op.clone(), 0..3), vec(op, 0..3)).prop_map(
            |(compare, success, failure)| RequestOp::Txn(TxnRequest { compare, success, failure }),
        )
    });
    (vec(compare(), 0..3), vec(op.clone(), 0..3), vec(op, 0..3))
        .prop_map(|(compare, success, failure)| TxnRequest { compare, success, failure })
}

fn name() -> impl Strategy<Value = String> {
    ".{0,8}"
}

fn auth_command() -> impl Strategy<Value = AuthCommand> {
    let kind = prop_oneof![
        Just(PermissionKind::Read),
        Just(PermissionKind::Write),
        Just(PermissionKind::ReadWrite)
    ];
    let permission = (kind, key_range()).prop_map(|(kind, range)| Permission { kind, range });
    prop_oneof![
        Just(AuthCommand::Enable),
        Just(AuthCommand::Disable),
        (name(), name())
            .prop_map(|(user, token_prefix)| AuthCommand::Authenticate { user, token_prefix }),
        (name(), proptest::option::of(bytes()))
            .prop_map(|(user, password_hash)| AuthCommand::UserAdd { user, password_hash }),
        name().prop_map(|user| AuthCommand::UserDelete { user }),
        (name(), bytes()).prop_map(|(user, password_hash)| {
            AuthCommand::UserChangePassword { user, password_hash }
        }),
        (name(), name()).prop_map(|(user, role)| AuthCommand::UserGrantRole { user, role }),
        (name(), name()).prop_map(|(user, role)| AuthCommand::UserRevokeRole { user, role }),
        name().prop_map(|role| AuthCommand::RoleAdd { role }),
        name().prop_map(|role| AuthCommand::RoleDelete { role }),
        (name(), permission).prop_map(|(role, permission)| {
            AuthCommand::RoleGrantPermission { role, permission }
        }),
        (name(), key_range())
            .prop_map(|(role, range)| AuthCommand::RoleRevokePermission { role, range }),
    ]
}

pub fn command() -> impl Strategy<Value = Command> {
    let action = prop_oneof![
        Just(AlarmAction::Get),
        Just(AlarmAction::Activate),
        Just(AlarmAction::Deactivate)
    ];
    let alarm =
        prop_oneof![Just(None), Just(Some(AlarmKind::NoSpace)), Just(Some(AlarmKind::Corrupt))];
    prop_oneof![
        put().prop_map(Command::Put),
        delete_range().prop_map(Command::DeleteRange),
        txn().prop_map(Command::Txn),
        (signed(), any::<bool>()).prop_map(|(revision, physical)| Command::Compact(
            CompactRequest { revision, physical }
        )),
        (lease(), signed()).prop_map(|(id, ttl_seconds)| Command::LeaseGrant { id, ttl_seconds }),
        (vec(lease(), 0..4), proptest::option::of(lease_leader()))
            .prop_map(|(ids, leader)| Command::LeaseRevoke { ids, leader }),
        (vec((lease(), signed()), 0..4), proptest::option::of(lease_leader()))
            .prop_map(|(remaining, leader)| Command::LeaseCheckpoint { remaining, leader }),
        (action, node(), alarm).prop_map(|(action, member, kind)| Command::Alarm(AlarmRequest {
            action,
            member,
            kind
        })),
        (node(), ".{0,8}", vec(".{0,12}", 0..3), any::<u64>()).prop_map(
            |(id, name, client_urls, incarnation)| Command::PublishMember {
                id,
                name,
                client_urls,
                incarnation: Incarnation(incarnation)
            }
        ),
        Just(Command::CreateGroup),
        any::<u64>().prop_map(|id| Command::DestroyGroup { group: GroupId(id) }),
        auth_command().prop_map(Command::Auth),
        ".{0,8}".prop_map(|target| Command::SetDowngrade { target }),
    ]
}

pub fn proposal() -> impl Strategy<Value = Proposal> {
    let caller =
        (name(), any::<u64>()).prop_map(|(user, auth_revision)| Caller { user, auth_revision });
    (any::<u64>(), number(), proptest::option::of(caller), command()).prop_map(
        |(origin, seq, caller, command)| Proposal {
            id: RequestId { origin, seq },
            caller,
            command,
        },
    )
}
