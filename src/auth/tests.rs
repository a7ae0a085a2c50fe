//! Scenarios from etcd's rules, and the union of ranges against a naive one.

use super::rights::Rights;
use super::*;
use crate::types::auth::{AuthCommand, Caller, Permission, PermissionKind, TokenChange};
use crate::types::command::{
    Command, Compare, CompareResult, CompareTarget, DeleteRangeRequest, PutRequest, RangeRequest,
    RequestOp, TxnRequest,
};
use crate::types::reply::Reply;
use crate::types::{ApiError, KeyRange, LeaseId, LogIndex};
use bytes::Bytes;
use proptest::prelude::*;
use std::collections::BTreeMap;

/// The state, and the rows as a tree would hold them.
#[derive(Default)]
struct Store {
    state: AuthState,
    rows: BTreeMap<Bytes, Bytes>,
}

impl Store {
    fn run(&mut self, command: AuthCommand) -> Result<AuthDone, ApiError> {
        let before = self.state.clone();
        match self.state.apply(&command, LogIndex(9)) {
            Ok(done) => {
                for (key, value) in &done.rows {
                    match value {
                        Some(value) => self.rows.insert(key.clone(), value.clone()),
                        None => self.rows.remove(key),
                    };
                }
                let rows = self.rows.iter().map(|(k, v)| (k.clone(), v.clone()));
                assert_eq!(AuthState::load(rows).expect("our own rows"), self.state);
                Ok(done)
            }
            Err(error) => {
                assert_eq!(self.state, before, "a refused command changed something");
                Err(error)
            }
        }
    }
    fn ok(&mut self, command: AuthCommand) -> AuthDone {
        self.run(command.clone()).unwrap_or_else(|error| panic!("{command:?}: {error:?}"))
    }
    fn refused(&mut self, command: AuthCommand) -> ApiError {
        self.run(command).expect_err("to be refused")
    }
    fn caller(&self, user: &str) -> Caller {
        Caller { user: user.into(), auth_revision: self.state.revision() }
    }
}

fn user_add(user: &str) -> AuthCommand {
    AuthCommand::UserAdd { user: user.into(), password_hash: Some(Bytes::from_static(b"hash")) }
}
fn role_add(role: &str) -> AuthCommand {
    AuthCommand::RoleAdd { role: role.into() }
}
fn grant_role(user: &str, role: &str) -> AuthCommand {
    AuthCommand::UserGrantRole { user: user.into(), role: role.into() }
}
fn range(key: &str, end: &str) -> KeyRange {
    KeyRange::new(key.as_bytes().to_vec(), end.as_bytes().to_vec())
}
fn grant(role: &str, kind: PermissionKind, key: &str, end: &str) -> AuthCommand {
    let permission = Permission { kind, range: range(key, end) };
    AuthCommand::RoleGrantPermission { role: role.into(), permission }
}

/// alice may read [a, c) and write the key b; root is root; users count.
fn enabled() -> Store {
    let mut store = Store::default();
    for command in [
        user_add("root"),
        grant_role("root", "root"),
        user_add("alice"),
        role_add("reader"),
        grant("reader", PermissionKind::Read, "a", "b"),
        grant("reader", PermissionKind::Read, "b", "c"),
        grant("reader", PermissionKind::Write, "b", ""),
        grant_role("alice", "reader"),
        AuthCommand::Enable,
    ] {
        store.ok(command);
    }
    store
}

#[test]
fn the_revision_counts_every_change_and_nothing_else() {
    let mut store = Store::default();
    assert_eq!(store.state.revision(), 1);
    assert_eq!(store.refused(AuthCommand::Enable), ApiError::RootUserNotExist);
    store.ok(user_add("root"));
    assert_eq!(store.refused(AuthCommand::Enable), ApiError::RootRoleNotExist);
    store.ok(grant_role("root", "root"));
    store.ok(grant_role("root", "root"));
    assert_eq!(store.state.revision(), 3, "a role that is there already is no change");
    store.ok(AuthCommand::Enable);
    store.ok(AuthCommand::Enable);
    assert_eq!(store.state.revision(), 3, "enabling is none");
    let done = store.ok(AuthCommand::Disable);
    assert_eq!(done.tokens, [TokenChange::AllGone]);
    store.ok(AuthCommand::Disable);
    assert_eq!(store.state.revision(), 4, "disabling is one, once");
}

#[test]
fn refusals_are_etcds() {
    let mut store = enabled();
    let remove = |user: &str| AuthCommand::UserDelete { user: user.into() };
    let revoke = |user: &str, role: &str| AuthCommand::UserRevokeRole {
        user: user.into(),
        role: role.into(),
    };
    let role_delete = |role: &str| AuthCommand::RoleDelete { role: role.into() };
    let take = |role: &str, key: &str, end: &str| AuthCommand::RoleRevokePermission {
        role: role.into(),
        range: range(key, end),
    };
    for (command, error) in [
        (user_add(""), ApiError::UserEmpty),
        (user_add("alice"), ApiError::UserExists),
        (remove("nobody"), ApiError::UserNotFound),
        (remove("root"), ApiError::InvalidAuthManagement),
        (grant_role("nobody", "reader"), ApiError::UserNotFound),
        (grant_role("alice", "nothing"), ApiError::RoleNotFound),
        (revoke("alice", "root"), ApiError::RoleNotGranted),
        (revoke("root", "root"), ApiError::InvalidAuthManagement),
        (role_add(""), ApiError::RoleEmpty),
        (role_add("reader"), ApiError::RoleExists),
        (role_delete("nothing"), ApiError::RoleNotFound),
        (role_delete("root"), ApiError::InvalidAuthManagement),
        (grant("nothing", PermissionKind::Read, "a", ""), ApiError::RoleNotFound),
        (grant("reader", PermissionKind::Read, "", ""), ApiError::InvalidAuthManagement),
        (grant("reader", PermissionKind::Read, "b", "a"), ApiError::InvalidAuthManagement),
        (grant("reader", PermissionKind::Read, "b", "b"), ApiError::InvalidAuthManagement),
        (take("reader", "a", "c"), ApiError::PermissionNotGranted),
        (
            AuthCommand::Authenticate { user: "nobody".into(), token_prefix: "x".into() },
            ApiError::AuthFailed,
        ),
    ] {
        assert_eq!(store.refused(command.clone()), error, "{command:?}");
    }
}

#[test]
fn a_token_is_told_to_everybody_and_dies_with_its_user() {
    let mut store = enabled();
    let ask = AuthCommand::Authenticate { user: "alice".into(), token_prefix: "abc".into() };
    let done = store.ok(ask);
    let token = "abc.9".to_string();
    assert_eq!(done.tokens, [TokenChange::Granted { token: token.clone(), user: "alice".into() }]);
    let auth_revision = store.state.revision();
    assert_eq!(done.reply, Reply::Authenticated { token, auth_revision });
    let gone = [TokenChange::UserGone { user: "alice".into() }];
    let password_hash = Bytes::from_static(b"other");
    let change = AuthCommand::UserChangePassword { user: "alice".into(), password_hash };
    assert_eq!(store.ok(change).tokens, gone);
    assert_eq!(store.ok(AuthCommand::UserDelete { user: "alice".into() }).tokens, gone);
}

#[test]
fn who_has_no_password_gets_none_by_a_change() {
    let mut store = Store::default();
    store.ok(AuthCommand::UserAdd { user: "cn".into(), password_hash: None });
    let password_hash = Bytes::from_static(b"new");
    store.ok(AuthCommand::UserChangePassword { user: "cn".into(), password_hash });
    assert_eq!(store.state.user("cn").expect("added").password_hash, None);
}

#[test]
fn nobody_then_old_then_unknown_then_the_range() {
    let store = enabled();
    let check = |caller: Option<&Caller>, need, key: &str, end: &str| {
        store.state.check_range(caller, need, &range(key, end))
    };
    let alice = store.caller("alice");
    let old = Caller { auth_revision: alice.auth_revision - 1, ..alice.clone() };
    assert_eq!(check(None, Need::Read, "a", ""), Err(ApiError::UserEmpty));
    assert_eq!(check(Some(&old), Need::Read, "a", ""), Err(ApiError::AuthOldRevision));
    let nobody = store.caller("nobody");
    assert_eq!(check(Some(&nobody), Need::Read, "a", ""), Err(ApiError::PermissionDenied));
    let denied = Err(ApiError::PermissionDenied);
    for (need, key, end, expected) in [
        (Need::Read, "a", "c", Ok(())),
        (Need::Read, "a", "c\0", denied.clone()),
        (Need::Read, "a", "\0", denied.clone()),
        (Need::Read, "c", "", denied.clone()),
        (Need::Write, "b", "", Ok(())),
        (Need::Write, "b", "b\0", Ok(())),
        (Need::Write, "b", "c", denied.clone()),
        (Need::Write, "b", "\0", denied.clone()),
        (Need::Write, "a", "", denied),
    ] {
        assert_eq!(check(Some(&alice), need, key, end), expected, "{need:?} {key:?} {end:?}");
    }
    let root = store.caller("root");
    assert_eq!(check(Some(&root), Need::Write, "a", "\0"), Ok(()));
}

#[test]
fn a_permission_that_is_taken_away_is_gone_for_requests_under_way() {
    let mut store = enabled();
    let alice = store.caller("alice");
    let put = Command::Put(PutRequest { key: "b".into(), ..PutRequest::default() });
    let none = |_: LeaseId| Ok(Vec::new());
    let check = |store: &Store, caller: &Caller| {
        store.state.check_command(Some(caller), &put, &none).expect("no disk")
    };
    assert_eq!(check(&store, &alice), Ok(()));
    store.ok(AuthCommand::RoleDelete { role: "reader".into() });
    assert_eq!(check(&store, &alice), Err(ApiError::AuthOldRevision));
    assert_eq!(check(&store, &store.caller("alice")), Err(ApiError::PermissionDenied));
    store.ok(AuthCommand::Disable);
    assert_eq!(check(&store, &alice), Ok(()));
}

#[test]
fn every_operation_of_a_txn_counts_at_any_depth() {
    let store = enabled();
    let alice = store.caller("alice");
    let keys = |id: LeaseId| {
        Ok(if id == LeaseId(7) { vec![Bytes::from_static(b"secret")] } else { Vec::new() })
    };
    let check = |command: Command| {
        store.state.check_command(Some(&alice), &command, &keys).expect("no disk")
    };
    let put = |key: &'static str, lease: i64, prev_kv: bool| {
        RequestOp::Put(PutRequest {
            key: key.into(),
            lease: LeaseId(lease),
            prev_kv,
            ..PutRequest::default()
        })
    };
    let read = |key: &str, end: &str| {
        RequestOp::Range(RangeRequest { range: range(key, end), ..RangeRequest::default() })
    };
    let delete = |key: &str, end: &str| {
        RequestOp::DeleteRange(DeleteRangeRequest { range: range(key, end), prev_kv: false })
    };
    let nest = |op: RequestOp, depth: usize| {
        (0..depth).fold(op, |op, level| {
            let (success, failure) =
                if level % 2 == 0 { (vec![op], vec![]) } else { (vec![], vec![op]) };
            RequestOp::Txn(TxnRequest { compare: vec![], success, failure })
        })
    };
    for depth in 0..4 {
        for (op, expected) in [
            (put("b", 0, false), Ok(())),
            (put("b", 0, true), Ok(())),
            (put("b", 5, false), Ok(())),
            (put("b", 7, false), Err(ApiError::PermissionDenied)),
            (put("a", 0, false), Err(ApiError::PermissionDenied)),
            (read("a", "c"), Ok(())),
            (read("a", "d"), Err(ApiError::PermissionDenied)),
            (delete("b", ""), Ok(())),
            (delete("a", "c"), Err(ApiError::PermissionDenied)),
        ] {
            let txn =
                TxnRequest { success: vec![nest(op.clone(), depth)], ..TxnRequest::default() };
            assert_eq!(check(Command::Txn(txn)), expected, "{op:?} at depth {depth}");
        }
    }
    let compare = Compare {
        range: range("secret", ""),
        result: CompareResult::Equal,
        target: CompareTarget::Version(0),
    };
    let txn = TxnRequest { compare: vec![compare], ..TxnRequest::default() };
    assert_eq!(check(Command::Txn(txn)), Err(ApiError::PermissionDenied));
    let revoke = |id: i64| Command::LeaseRevoke { ids: vec![LeaseId(id)], leader: None };
    assert_eq!(check(revoke(7)), Err(ApiError::PermissionDenied));
    assert_eq!(check(revoke(5)), Ok(()));
    assert_eq!(check(Command::Auth(AuthCommand::Disable)), Err(ApiError::PermissionDenied));
}

fn small_key() -> impl Strategy<Value = Bytes> {
    prop::collection::vec(prop_oneof![Just(0u8), Just(b'a'), Just(b'b'), Just(255u8)], 1..3)
        .prop_map(Bytes::from)
}

fn small_range() -> impl Strategy<Value = KeyRange> {
    let end = prop_oneof![Just(Bytes::new()), Just(Bytes::from_static(b"\0")), small_key()];
    (small_key(), end).prop_map(|(key, end)| KeyRange { key, end })
}

/// Every key of up to three bytes over the alphabet of the strategies.
fn all_keys() -> Vec<Vec<u8>> {
    let mut keys = vec![vec![]];
    for _ in 0..3 {
        let longer: Vec<Vec<u8>> = keys
            .iter()
            .flat_map(|key| [0, b'a', b'b', 255].map(|byte| [&key[..], &[byte]].concat()))
            .collect();
        keys.extend(longer);
    }
    keys.retain(|key| !key.is_empty());
    keys
}

proptest! {
    /// A range is permitted only if every key in it is inside some permission; and a single key
    /// exactly then.
    #[test]
    fn rights_are_the_union(granted in prop::collection::vec(small_range(), 0..5), asked in small_range()) {
        let permissions: Vec<Permission> = granted
            .iter()
            .filter(|range| !range.is_empty_range())
            .map(|range| Permission { kind: PermissionKind::Read, range: range.clone() })
            .collect();
        let rights = Rights::of(permissions.iter());
        let inside = |key: &[u8]| permissions.iter().any(|p| p.range.contains(key));
        let permitted = rights.read(&asked);
        if asked.is_single() {
            prop_assert_eq!(permitted, inside(&asked.key));
        } else if permitted {
            for key in all_keys().iter().filter(|key| asked.contains(key)) {
                prop_assert!(inside(key), "{:?} is not permitted", key);
            }
        }
        prop_assert!(!rights.write(&asked));
        if permissions.iter().any(|p| p.range == asked) {
            prop_assert!(permitted, "what was granted is permitted");
        }
    }
}
