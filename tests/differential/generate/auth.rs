//! Users, roles and permissions, before and after they count, and every other kind of request in
//! the name of each user.

use super::{Gen, kv, lease, maintenance, range, seldom, watch};
use crate::call::Call;
use crate::play::{Ask, NOBODY, Op};
use bytes::Bytes;
use proptest::prelude::*;
use proptest::sample::select;
use quorate::api::proto::authpb;
use quorate::api::proto::etcdserverpb as pb;

const PASSWORDS: &[&str] = &["p", "q"];
/// bcrypt of "p" in four rounds, as clients send it: base64.
const HASHED: &str =
    "JDJhJDA0JDVDdllrUXY1S2xQZ2p1NHp3MEhwMi5TMU4zWEtTTk8zM1ExTW5pU0NxYUpYNGx3ZEIxRTdT";

fn user() -> Gen<&'static str> {
    prop_oneof![3 => Just("root"), 6 => select(vec!["u1", "u2"]), 1 => select(vec!["u3", ""])]
        .boxed()
}

fn role() -> Gen<&'static str> {
    prop_oneof![2 => Just("root"), 6 => select(vec!["r1", "r2"]), 1 => select(vec!["r3", ""])]
        .boxed()
}

/// A sequence: in most, users count from early on; in the others only if chance has it so.
pub fn sequence(ops: usize) -> Gen<Vec<Op>> {
    let before = prop::collection::vec(manage(), 0..8);
    let after = prop::collection::vec(op(), ops / 2..=ops);
    (before, prop::bool::weighted(0.85), after)
        .prop_map(|(mut sequence, begins, after)| {
            if begins {
                sequence.extend(enable());
            }
            sequence.extend(after);
            sequence
        })
        .boxed()
}

/// Three users, two of them with rights of their own.
fn enable() -> Vec<Op> {
    let mut ops = Vec::new();
    let mut call = |call| ops.push(Op::Call(call));
    let name = |name: &str| name.to_string();
    for user in ["root", "u1", "u2"] {
        call(Call::UserAdd(pb::AuthUserAddRequest {
            name: name(user),
            password: name("p"),
            ..Default::default()
        }));
    }
    for (role, perm_type, key, range_end) in
        [("r1", 0, "a", "b"), ("r1", 1, "b", ""), ("r2", 2, "a", ""), ("r2", 0, "b", "\0")]
    {
        call(Call::RoleAdd(pb::AuthRoleAddRequest { name: name(role) }));
        call(Call::RoleGrantPermission(pb::AuthRoleGrantPermissionRequest {
            name: name(role),
            perm: Some(authpb::Permission {
                perm_type,
                key: key.into(),
                range_end: range_end.into(),
            }),
        }));
    }
    for (user, role) in [("root", "root"), ("u1", "r1"), ("u2", "r2")] {
        call(Call::UserGrantRole(pb::AuthUserGrantRoleRequest {
            user: name(user),
            role: name(role),
        }));
    }
    call(Call::AuthEnable(pb::AuthEnableRequest {}));
    for user in ["root", "u1", "u2"] {
        ops.push(Op::Login { user, password: "p" });
    }
    ops
}

fn op() -> Gen<Op> {
    let who = prop_oneof![
        6 => Just("root"),
        6 => select(vec!["u1", "u2"]),
        1 => select(vec!["u3", NOBODY]),
    ];
    let keys = prop_oneof![
        8 => kv::op(),
        2 => lease::op(),
        2 => watch::op(),
        1 => maintenance::any_call(),
    ];
    let as_anybody = (who, keys.prop_map(upright)).prop_map(|(who, op)| Op::As(who, Box::new(op)));
    let manager = prop_oneof![8 => Just("root"), 1 => select(vec!["u1", NOBODY])];
    let as_manager = (manager, manage()).prop_map(|(who, op)| Op::As(who, Box::new(op)));
    let login =
        (user(), select(PASSWORDS)).prop_map(|(user, password)| Op::Login { user, password });
    prop_oneof![8 => as_anybody, 3 => as_manager, 2 => login].boxed()
}

/// Without what etcd judges by accident: a range whose end comes before its key (by the shape of its
/// tree of permissions), and a watch from a key on (3.5.30 lets it pass for who may read that key
/// alone, GHSA-xg4h-6gfc-h4m8).
fn upright(mut op: Op) -> Op {
    match &mut op {
        Op::Call(Call::Range(range)) => turn(&mut range.key, &mut range.range_end),
        Op::Call(Call::DeleteRange(range)) => turn(&mut range.key, &mut range.range_end),
        Op::Call(Call::Txn(txn)) => upright_txn(txn),
        Op::Watch { ask: Ask::Create(create), .. } => {
            if &create.range_end[..] == b"\0" {
                create.range_end = Bytes::from_static(b"\xff\xff\xff");
            }
            turn(&mut create.key, &mut create.range_end);
        }
        _ => {}
    }
    op
}

fn upright_txn(txn: &mut pb::TxnRequest) {
    use pb::request_op::Request;
    for compare in &mut txn.compare {
        turn(&mut compare.key, &mut compare.range_end);
    }
    for op in txn.success.iter_mut().chain(&mut txn.failure) {
        match &mut op.request {
            Some(Request::RequestRange(range)) => turn(&mut range.key, &mut range.range_end),
            Some(Request::RequestDeleteRange(range)) => turn(&mut range.key, &mut range.range_end),
            Some(Request::RequestTxn(nested)) => upright_txn(nested),
            _ => {}
        }
    }
}

fn turn(key: &mut Bytes, range_end: &mut Bytes) {
    if range_end.is_empty() || &range_end[..] == b"\0" {
        return;
    }
    if *key == *range_end {
        range_end.clear();
    } else if *key > *range_end {
        std::mem::swap(key, range_end);
    }
}

fn manage() -> Gen<Op> {
    let user = || user().prop_map(String::from);
    let role = || role().prop_map(String::from);
    let password = || select(vec!["p", "q", ""]).prop_map(String::from);
    let users = prop_oneof![
        (user(), password(), 0..5).prop_map(|(name, password, how)| {
            let no_password = how == 4;
            Call::UserAdd(pb::AuthUserAddRequest {
                name,
                password: if no_password || how == 3 { String::new() } else { password },
                options: (how > 1).then_some(authpb::UserAddOptions { no_password }),
                hashed_password: if how == 3 { HASHED.to_string() } else { String::new() },
            })
        }),
        user().prop_map(|name| Call::UserGet(pb::AuthUserGetRequest { name })),
        Just(Call::UserList(pb::AuthUserListRequest {})),
        user().prop_map(|name| Call::UserDelete(pb::AuthUserDeleteRequest { name })),
        (user(), password()).prop_map(|(name, password)| {
            Call::UserChangePassword(pb::AuthUserChangePasswordRequest {
                name,
                password,
                hashed_password: String::new(),
            })
        }),
        (user(), role()).prop_map(|(user, role)| Call::UserGrantRole(
            pb::AuthUserGrantRoleRequest { user, role }
        )),
        (user(), role()).prop_map(|(name, role)| {
            Call::UserRevokeRole(pb::AuthUserRevokeRoleRequest { name, role })
        }),
    ];
    let roles = prop_oneof![
        2 => role().prop_map(|name| Call::RoleAdd(pb::AuthRoleAddRequest { name })),
        2 => role().prop_map(|role| Call::RoleGet(pb::AuthRoleGetRequest { role })),
        1 => Just(Call::RoleList(pb::AuthRoleListRequest {})),
        1 => role().prop_map(|role| Call::RoleDelete(pb::AuthRoleDeleteRequest { role })),
        5 => (role(), prop::option::weighted(0.95, permission()))
            .prop_map(|(name, perm)| {
                Call::RoleGrantPermission(pb::AuthRoleGrantPermissionRequest { name, perm })
            }),
        2 => (role(), range()).prop_map(|(role, (key, range_end))| {
            Call::RoleRevokePermission(pb::AuthRoleRevokePermissionRequest { role, key, range_end })
        }),
    ];
    let all = prop_oneof![
        Just(Call::AuthEnable(pb::AuthEnableRequest {})),
        Just(Call::AuthStatus(pb::AuthStatusRequest {})),
        seldom(0.2, Just(1).boxed()).prop_map(|off| match off {
            1 => Call::AuthDisable(pb::AuthDisableRequest {}),
            _ => Call::AuthStatus(pb::AuthStatusRequest {}),
        }),
    ];
    prop_oneof![7 => users, 7 => roles, 1 => all].prop_map(Op::Call).boxed()
}

/// Of a known kind: etcd keeps an unknown one, which then permits nothing.
fn permission() -> Gen<authpb::Permission> {
    (0..=2, range())
        .prop_map(|(perm_type, (key, range_end))| authpb::Permission { perm_type, key, range_end })
        .boxed()
}
