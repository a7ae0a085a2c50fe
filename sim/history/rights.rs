//! What users and roles permit, judged at the place in the log that a member answers from.
//!
//! A command is judged at its own index, with the rest of its answer (`answers`). What members
//! decide from the state they have applied (reads, keepalives, watches, what only root may ask) is
//! held against the model's users at that applied index: a member that lags may still let through
//! what has been forbidden since, as in etcd, and never anything else. Besides, and whatever was
//! decided: no pair leaves for somebody who may not read its key.

use super::{Answer, CallId, History, Keyspace};
use crate::model::{Users, Verdict, Wish};
use crate::rules::control::control;
use crate::safety::{Checked, ensure};
use bytes::Bytes;
use quorate::types::auth::Caller;
use quorate::types::command::TxnRequest;
use quorate::types::reply::{Reply, ReplyOp, TxnReply};
use quorate::types::{ApiError, GroupId, KeyRange, LeaseId, LogIndex};
use std::sync::Arc;

/// What a member has to look at before it goes on.
#[derive(Clone, Debug)]
pub enum Demand {
    /// Nothing: the log will say.
    Nothing,
    /// That there is somebody.
    Known,
    /// That it is root.
    Root,
    Read(KeyRange),
    ReadTxn(TxnRequest),
    /// Somebody, who may do this with every key on the lease.
    Lease(LeaseId, Wish),
    /// The same of all leases.
    Leases,
}

impl Keyspace {
    /// Users and roles behind an index.
    fn users_at(&self, index: LogIndex) -> Arc<Users> {
        let newest = self.users.range(..=index).next_back();
        newest.map_or_else(Arc::default, |(_, users)| users.clone())
    }

    fn revision_at(&self, index: LogIndex) -> i64 {
        let newest = self.positions.range(..=index).next_back();
        newest.map_or(1, |(_, done)| done.outcome.revision)
    }

    fn verdict(&self, applied: LogIndex, caller: Option<&Caller>, demand: &Demand) -> Verdict {
        let users = self.users_at(applied);
        if !users.is_enabled() {
            return Ok(());
        }
        let on = |id| self.model.lease_keys_at(id, self.revision_at(applied));
        match demand {
            Demand::Nothing => Ok(()),
            Demand::Known => users.known(caller),
            Demand::Root => users.admin(caller),
            Demand::Read(range) => users.range(caller, Wish::Read, range),
            Demand::ReadTxn(txn) => users.txn(caller, txn, &on),
            Demand::Lease(id, wish) => {
                users.known(caller)?;
                users.keys(caller, *wish, &on(*id))
            }
            Demand::Leases => {
                users.known(caller)?;
                users.keys(caller, Wish::Read, &self.model.leased_at(self.revision_at(applied)))
            }
        }
    }

    /// A command's answer shows pairs; users and roles are those before it.
    pub(super) fn told_by_right(
        &self,
        group: GroupId,
        caller: Option<&Caller>,
        index: LogIndex,
        reply: &Result<Reply, ApiError>,
    ) -> Checked {
        let mut keys = Vec::new();
        match reply {
            Ok(Reply::Put(put)) => keys.extend(put.prev_kv.iter().map(|kv| kv.key.clone())),
            Ok(Reply::DeleteRange(delete)) => {
                keys.extend(delete.prev_kvs.iter().map(|kv| kv.key.clone()));
            }
            Ok(Reply::Txn(txn)) => shown(txn, &mut keys),
            _ => {}
        }
        self.readable(group, caller, LogIndex(index.0 - 1), &keys, false)
    }

    fn readable(
        &self,
        group: GroupId,
        caller: Option<&Caller>,
        index: LogIndex,
        keys: &[Bytes],
        on_leases: bool,
    ) -> Checked {
        let users = self.users_at(index);
        for key in keys.iter().filter(|_| users.is_enabled()) {
            let right = match on_leases {
                true => users.keys(caller, Wish::Read, std::slice::from_ref(key)),
                false => users.range(caller, Wish::Read, &KeyRange::single(key.clone())),
            };
            ensure!(
                right.is_ok(),
                "read-without-right",
                "group {group} at {index}: {key:?} is shown to {caller:?}: {right:?}, users {:?}",
                users.rows()
            );
        }
        Ok(())
    }
}

/// The keys that a txn's answer shows.
fn shown(txn: &TxnReply, keys: &mut Vec<Bytes>) {
    for reply in &txn.replies {
        match reply {
            ReplyOp::Range { reply, .. } => keys.extend(reply.kvs.iter().map(|kv| kv.key.clone())),
            ReplyOp::Put { reply, .. } => {
                keys.extend(reply.prev_kv.iter().map(|kv| kv.key.clone()))
            }
            ReplyOp::DeleteRange { reply, .. } => {
                keys.extend(reply.prev_kvs.iter().map(|kv| kv.key.clone()));
            }
            ReplyOp::Txn(inner) => shown(inner, keys),
        }
    }
}

impl History {
    /// The member that has taken a call goes on with it on somebody's behalf.
    pub fn asked_by(&mut self, call: CallId, caller: Option<Caller>) {
        if let Some(open) = self.open.get_mut(&call) {
            open.caller = caller;
        }
    }

    /// A member that has applied the log up to there lets somebody go on, or does not.
    pub fn permitted(
        &self,
        group: GroupId,
        applied: LogIndex,
        caller: Option<&Caller>,
        demand: &Demand,
        verdict: &Verdict,
    ) -> Checked {
        let Some(keyspace) = self.groups.get(&group) else { return Ok(()) };
        let expected = keyspace.verdict(applied, caller, demand);
        ensure!(
            *verdict == expected,
            "wrong-permission",
            "group {group} at {applied}: {demand:?} of {caller:?} is {verdict:?}, expected \
             {expected:?}; users {:?}",
            keyspace.users_at(applied).rows()
        );
        Ok(())
    }

    /// A read is served, or refused, from the state behind `applied`. What is not serializable
    /// knows everything that was answered before: what was forbidden then is forbidden.
    pub fn read_from(&self, call: CallId, applied: LogIndex) -> Checked {
        let Some(open) = self.open.get(&call) else { return Ok(()) };
        ensure!(
            open.call.is_serializable() || applied >= open.floor.index,
            "linearizable-read",
            "group {}: {:?} is served as of {applied}, {} had been answered before it began",
            open.group,
            open.call,
            open.floor.index
        );
        Ok(())
    }

    /// What a read shows.
    pub fn shown(
        &self,
        group: GroupId,
        applied: LogIndex,
        caller: Option<&Caller>,
        answer: &Answer,
    ) -> Checked {
        let Some(keyspace) = self.groups.get(&group) else { return Ok(()) };
        let mut keys = Vec::new();
        match answer {
            Answer::Range { reply, .. } => keys.extend(reply.kvs.iter().map(|kv| kv.key.clone())),
            Answer::ReadTxn { reply, .. } => shown(reply, &mut keys),
            Answer::Leases { leases, .. } => {
                keys.extend(leases.iter().flat_map(|lease| lease.2.iter().cloned()));
            }
            _ => {}
        }
        let on_leases = matches!(answer, Answer::Leases { .. });
        keyspace.readable(group, caller, applied, &keys, on_leases)
    }

    /// A member that has followed the log up to there takes a token for somebody's.
    pub fn token_stands(&self, group: GroupId, at: LogIndex, token: &str, user: &str) -> Checked {
        let Some(keyspace) = self.groups.get(&group) else { return Ok(()) };
        let users = keyspace.users_at(at);
        ensure!(
            users.token(token) == Some(user),
            "token-undead",
            "group {group} at {at}: token {token} is taken for {user}'s, and stands for {:?}",
            users.token(token)
        );
        Ok(())
    }
}

/// Negative controls.
pub(super) fn self_check() {
    use super::Call;
    use crate::safety::Violation;
    use quorate::multiraft::turn::BOOT_INDEX;
    use quorate::types::auth::{AuthCommand, Permission, PermissionKind, ROOT};
    use quorate::types::command::{Proposal, PutRequest, RangeRequest};
    use quorate::types::reply::PutReply;
    use quorate::types::{Command, Entry, EntryKind, RequestId, Term};

    const G: GroupId = GroupId(1);
    let at = |n: u64| LogIndex(BOOT_INDEX.0 + n);
    let name = |name: &str| name.to_owned();
    let by = |user: &str, auth_revision| Caller { user: user.to_owned(), auth_revision };
    let commit = |h: &mut History, caller: Option<Caller>, command: Command| {
        let seq = h.groups[&G].next.0 - BOOT_INDEX.0 + 1;
        let entry =
            Entry { term: Term(1), index: at(seq), kind: EntryKind::Command, data: Bytes::new() };
        let id = RequestId { origin: 1, seq };
        h.commit(seq, G, &entry, Some(Proposal { id, caller, command })).map(|()| entry.index)
    };
    let put = |value: &'static str| {
        let (key, value) = (Bytes::from_static(b"b"), Bytes::from_static(value.as_bytes()));
        Command::Put(PutRequest { key, value, prev_kv: true, ..PutRequest::default() })
    };
    // Root, and somebody who may write `b` and read `c`; then users count, with revision 9 and
    // one token; `b` was there before.
    let story = || -> Result<History, Violation> {
        let mut h = History::new(1, 0);
        let hash = Some(Bytes::from_static(b"hash"));
        let grant = |kind, key: &str| AuthCommand::RoleGrantPermission {
            role: name("some"),
            permission: Permission { kind, range: KeyRange::single(key.to_owned()) },
        };
        for command in [
            AuthCommand::UserAdd { user: name(ROOT), password_hash: hash.clone() },
            AuthCommand::UserGrantRole { user: name(ROOT), role: name(ROOT) },
            AuthCommand::UserAdd { user: name("bob"), password_hash: hash },
            AuthCommand::RoleAdd { role: name("some") },
            grant(PermissionKind::Write, "b"),
            grant(PermissionKind::Read, "c"),
            AuthCommand::UserGrantRole { user: name("bob"), role: name("some") },
            AuthCommand::UserChangePassword { user: name("bob"), password_hash: Bytes::new() },
        ] {
            commit(&mut h, None, Command::Auth(command))?;
        }
        commit(&mut h, None, put("before"))?;
        commit(&mut h, None, Command::Auth(AuthCommand::Enable))?;
        let token_prefix = name("t");
        let token = AuthCommand::Authenticate { user: name("bob"), token_prefix };
        commit(&mut h, None, Command::Auth(token))?;
        Ok(h)
    };
    let now = at(11);
    assert_eq!(story().expect("a good story").model(G).users().revision(), 9);
    control("wrong-caller", |spoilt| {
        let mut h = story()?;
        let call = h.begin(20, G, Call::Write(put("root's")));
        h.asked_by(call, Some(by(ROOT, 9)));
        // Root's either way, and asked under another revision.
        let there = by(ROOT, if spoilt { 10 } else { 9 });
        let index = commit(&mut h, Some(there), put("root's"))?;
        let prev_kv = h.model(G).range_at(&read("b"), 2).kvs.pop();
        let reply = Ok(Reply::Put(PutReply { prev_kv }));
        h.end(21, call, Answer::Wrote { reply, revision: 3, index })
    });
    control("wrong-permission", |spoilt| {
        let denied = Err(ApiError::PermissionDenied);
        let verdict = if spoilt { Ok(()) } else { denied };
        let demand = Demand::Read(KeyRange::single("b"));
        story()?.permitted(G, now, Some(&by("bob", 9)), &demand, &verdict)
    });
    control("wrong-permission", |spoilt| {
        // Before its users changed last: a member that lags may not know.
        let verdict = if spoilt { Err(ApiError::AuthOldRevision) } else { Ok(()) };
        let demand = Demand::Read(KeyRange::single("c"));
        story()?.permitted(G, at(9), Some(&by("bob", 8)), &demand, &verdict)
    });
    control("read-without-right", |spoilt| {
        let h = story()?;
        let reply = h.model(G).range_at(&read("b"), 2);
        let caller = by(if spoilt { "bob" } else { ROOT }, 9);
        h.shown(G, now, Some(&caller), &Answer::Range { reply, revision: 2 })
    });
    control("read-without-right", |spoilt| {
        // Bob writes `b`, and is told what was there.
        let mut h = story()?;
        let call = h.begin(20, G, Call::Write(put("bob's")));
        h.asked_by(call, Some(by("bob", 9)));
        let index = commit(&mut h, Some(by("bob", 9)), put("bob's"))?;
        let prev_kv = h.model(G).range_at(&read("b"), 2).kvs.pop();
        let answer = match spoilt {
            true => {
                Answer::Wrote { reply: Ok(Reply::Put(PutReply { prev_kv })), revision: 3, index }
            }
            false => Answer::Failed { error: ApiError::PermissionDenied, never: false },
        };
        h.end(21, call, answer)
    });
    control("linearizable-read", |spoilt| {
        let mut h = story()?;
        let disable = Command::Auth(AuthCommand::Disable);
        let call = h.begin(20, G, Call::Write(disable.clone()));
        h.asked_by(call, Some(by(ROOT, 9)));
        let index = commit(&mut h, Some(by(ROOT, 9)), disable)?;
        h.end(21, call, Answer::Wrote { reply: Ok(Reply::Auth), revision: 2, index })?;
        let call = h.begin(22, G, Call::Range(read("b")));
        h.read_from(call, if spoilt { now } else { index })
    });
    control("token-undead", |spoilt| {
        let mut h = story()?;
        let gone = AuthCommand::UserDelete { user: name("bob") };
        let index = commit(&mut h, Some(by(ROOT, 9)), Command::Auth(gone))?;
        let token = format!("t.{}", now.0);
        h.token_stands(G, if spoilt { index } else { now }, &token, "bob")
    });

    fn read(key: &'static str) -> RangeRequest {
        RangeRequest { range: KeyRange::single(key), ..RangeRequest::default() }
    }
}
