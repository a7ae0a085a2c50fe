//! The clients: who asks what next.
//!
//! Each client has one call open at a time, or several in seeds that pipeline, its own stream of decisions and its own unique
//! values. It stays with one member until a call fails and then tries another. Most of the load
//! goes to a few hot keys, so that calls really race; some of it is spread over a larger space,
//! which the final sweep reads back.

mod keepers;
mod people;
mod programs;
mod requests;

pub use programs::{Promises, self_check};

use crate::history::{Answer, Call, CallId};
use crate::plan::{OP_KINDS, OpKind, Plan};
use crate::seed;
use bytes::Bytes;
use keepers::Keeper;
use people::{Papers, Person};
use programs::{PROGRAM_LEASES, Running};
use quorate::types::auth::{AuthCommand, Permission, PermissionKind};
use quorate::types::command::{
    AlarmAction, AlarmKind, AlarmRequest, CompactRequest, DeleteRangeRequest, RangeRequest,
    RequestOp, TxnRequest,
};
use quorate::types::prng::Prng;
use quorate::types::reply::Reply;
use quorate::types::{Command, GroupId, KeyRange, LeaseId, NodeId};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What one client remembers of a group.
#[derive(Clone, Debug, Default)]
struct Memory {
    /// Newest header revision seen.
    revision: i64,
    /// Last mod_revision seen per key.
    seen: BTreeMap<Bytes, i64>,
    leases: Vec<LeaseId>,
}

/// Where the numbers of the calls after the disturbances begin.
const LATE_CALLS: u64 = 1_000_000;
/// Each client's leases have numbers in a range of its own.
const LEASES_EACH: u64 = 10_000_000;
/// Leases that a client remembers of a group.
const LEASES_MAX: usize = 8;

/// A call without an answer so far.
#[derive(Clone, Debug)]
pub struct Open {
    pub group: GroupId,
    pub member: usize,
    pub began_us: u64,
    pub call: Arc<Call>,
}

pub struct Client {
    pub id: u64,
    pub member: usize,
    key: u64,
    calls: u64,
    late_calls: u64,
    rng: Prng,
    /// The newest call's number, and how many values it has used: both are in the values' names,
    /// so that no value is written twice and none depends on the calls before.
    nth: u64,
    values: u64,
    memory: BTreeMap<GroupId, Memory>,
    /// The calls that are open, and where they went.
    pub open: BTreeMap<CallId, Open>,
    /// It asks on when one of them ends.
    pub waits: bool,
    /// A call to be made once more.
    again: Option<(GroupId, Call)>,
    /// A call that groups behind this one are still to be asked.
    round: Option<(GroupId, Call)>,
    running: Option<Running>,
    keeper: Option<Keeper>,
    /// Who it is, where users count.
    person: Option<Person>,
    papers: BTreeMap<GroupId, Papers>,
}

impl Client {
    pub fn new(plan: &Plan, id: u64) -> Client {
        let purpose = format!("client-{id}");
        let (mut rng, key) = (plan.stream(&purpose), plan.name.key(&purpose));
        let member = rng.below(plan.members as u64) as usize;
        let mut client = Client {
            id,
            member,
            key,
            calls: 0,
            late_calls: 0,
            rng,
            nth: 0,
            values: 0,
            memory: BTreeMap::new(),
            open: BTreeMap::new(),
            waits: false,
            again: None,
            round: None,
            running: None,
            keeper: None,
            person: None,
            papers: BTreeMap::new(),
        };
        client.take_name(plan);
        client
    }

    /// Goes on to the next call: what it is and what follows from it is drawn from a place of its
    /// own, or from the number that a tape states. Calls after the disturbances count apart.
    pub fn turn(&mut self, told: Option<(u64, u64)>, acting: bool) -> (u64, u64) {
        let place = if acting { &mut self.calls } else { &mut self.late_calls };
        *place += 1;
        let place = if acting { *place } else { *place + LATE_CALLS };
        let (nth, word) = told.unwrap_or_else(|| (place, seed::at(self.key, place)));
        self.rng = Prng::new(word);
        (self.nth, self.values) = (nth, 0);
        (nth, word)
    }

    /// Whether the client still waits for the answer.
    pub fn waits_for(&self, call: CallId) -> bool {
        self.open.contains_key(&call)
    }

    /// Waits a moment between two calls.
    pub fn think_us(&mut self, plan: &Plan) -> u64 {
        // Now and then somebody goes away for a while and comes back with what it knew.
        if self.rng.chance(1, 300) {
            return 3 * crate::plan::SECOND;
        }
        1 + self.rng.below(2 * plan.think_us)
    }

    /// Tries another member.
    pub fn move_on(&mut self, known: &[usize]) {
        let others: Vec<usize> = known.iter().copied().filter(|m| *m != self.member).collect();
        if !others.is_empty() {
            self.member = others[self.rng.below(others.len() as u64) as usize];
        }
    }

    /// The newest header revision that was seen of a group.
    fn newest(&self, group: GroupId) -> i64 {
        self.memory.get(&group).map_or(0, |memory| memory.revision)
    }

    /// The next call and the group it goes to, unless that is told.
    pub fn next_call(
        &mut self,
        plan: &Plan,
        groups: &[GroupId],
        told: Option<GroupId>,
    ) -> (GroupId, Call) {
        if let Some(call) = self.keeper_call(groups) {
            return call;
        }
        let drawn = groups[self.rng.below(groups.len() as u64) as usize];
        // A round begins with the first.
        let drawn = if plan.in_step { groups[0] } else { drawn };
        // By what is drawn, told or not: a call that came of something else names another group.
        if let Some(call) = self.people_call(plan, drawn) {
            return (drawn, call);
        }
        let group = told.filter(|group| groups.contains(group)).unwrap_or(drawn);
        let total: u64 = plan.ops.values().sum();
        let mut draw = self.rng.below(total);
        let mut kind = OpKind::Put;
        for k in OP_KINDS {
            let weight = plan.ops[&k];
            if draw < weight {
                kind = k;
                break;
            }
            draw -= weight;
        }
        if let Some(call) = self.round_call(plan, groups) {
            return call;
        }
        if let Some((group, call)) = self.again.take_if(|_| self.rng.chance(1, 2))
            && groups.contains(&group)
        {
            return (group, self.anew(plan, call));
        }
        if kind == OpKind::Program {
            return self.program_call(plan, groups);
        }
        let newest = self.newest(group);
        let single = |key| RangeRequest { range: KeyRange::single(key), ..RangeRequest::default() };
        let lease = |client: &mut Client| match client.known_lease(group) {
            id if id.is_none() => LeaseId(7),
            id => id,
        };
        let call = match kind {
            OpKind::Put => Call::Write(Command::Put(self.put(plan))),
            OpKind::Get => Call::Range(single(self.key(plan))),
            OpKind::GetSerializable => {
                Call::Range(RangeRequest { serializable: true, ..self.read(plan, newest) })
            }
            OpKind::GetOld => {
                let mut request = self.read(plan, newest);
                request.revision = self.old_revision(newest);
                Call::Range(request)
            }
            OpKind::Range => Call::Range(self.read(plan, newest)),
            OpKind::Delete => {
                let range = KeyRange::single(self.key(plan));
                let prev_kv = self.rng.chance(1, 2);
                Call::Write(Command::DeleteRange(DeleteRangeRequest { range, prev_kv }))
            }
            OpKind::DeleteRange => {
                let mut range = self.range(plan);
                // What programs have agreed on lies before it.
                if range.key.as_ref() == [0] {
                    range.key = Bytes::from_static(b"b");
                }
                Call::Write(Command::DeleteRange(DeleteRangeRequest { range, prev_kv: true }))
            }
            OpKind::Txn => {
                let txn = self.txn(plan, group);
                if is_plain_read(&txn) {
                    Call::ReadTxn(txn)
                } else {
                    Call::Write(Command::Txn(txn))
                }
            }
            OpKind::ReadTxn => Call::ReadTxn(self.read_txn(plan, group)),
            OpKind::Compact => {
                let back = self.rng.below(30) as i64;
                let revision = (newest - back).max(0);
                let physical = self.rng.chance(1, 3);
                Call::Write(Command::Compact(CompactRequest { revision, physical }))
            }
            OpKind::LeaseGrant => {
                let id = LeaseId((self.id * LEASES_EACH + self.nth) as i64);
                let ttl_seconds = self.rng.between(2, 30) as i64;
                Call::Write(Command::LeaseGrant { id, ttl_seconds })
            }
            OpKind::LeaseRevoke => {
                let id = lease(self);
                Call::Write(Command::LeaseRevoke { ids: vec![id], leader: None })
            }
            OpKind::LeaseKeepAlive => Call::KeepAlive(lease(self)),
            OpKind::LeaseTtl => Call::LeaseTtl(lease(self)),
            OpKind::Leases => Call::Leases,
            OpKind::Alarm => Call::Write(Command::Alarm(self.alarm(plan))),
            OpKind::Users if plan.auth.on => Call::Write(Command::Auth(self.change_people(plan))),
            OpKind::Users => Call::Write(Command::Auth(self.users(plan))),
            OpKind::Program => unreachable!("handled above"),
            OpKind::LeasePut => {
                let mut put = self.put(plan);
                if !put.ignore_lease {
                    put.lease = self.known_lease(group);
                }
                Call::Write(Command::Put(put))
            }
        };
        if plan.in_step {
            self.round = Some((group, call.clone()));
        }
        (group, call)
    }

    /// The call that was made last, to the next group.
    fn round_call(&mut self, plan: &Plan, groups: &[GroupId]) -> Option<(GroupId, Call)> {
        let (before, call) = self.round.take()?;
        let next = groups.iter().copied().find(|group| *group > before)?;
        let call = self.anew(plan, call);
        self.round = Some((next, call.clone()));
        Some((next, call))
    }

    /// A call that came to nothing, as far as its client knows, is made once more: as a new call,
    /// with a value of its own.
    pub fn try_again(&mut self, group: GroupId, call: &Call) {
        if self.keeper.is_none() && self.rng.chance(1, 3) {
            self.again = Some((group, call.clone()));
        }
    }

    fn anew(&mut self, plan: &Plan, mut call: Call) -> Call {
        if let Call::Write(Command::Put(put)) = &mut call
            && !put.value.is_empty()
        {
            put.value = self.value(plan);
        }
        call
    }

    /// Few names, so that most of it meets something. Here users never come to count: whoever is
    /// told to let them is refused, for root never has its role.
    fn users(&mut self, plan: &Plan) -> AuthCommand {
        let user = ["", "root", "alice", "bob"][self.rng.below(4) as usize].to_owned();
        let role = ["", "reader", "writer"][self.rng.below(3) as usize].to_owned();
        let hash = Bytes::from(format!("hash-{}-{}", self.id, self.nth));
        match self.rng.below(14) {
            0 => AuthCommand::Enable,
            1 => AuthCommand::Disable,
            2 => AuthCommand::Authenticate { user, token_prefix: format!("t{}", self.nth) },
            3 | 4 => {
                let password_hash = self.rng.chance(3, 4).then_some(hash);
                AuthCommand::UserAdd { user, password_hash }
            }
            5 => AuthCommand::UserDelete { user },
            6 => AuthCommand::UserChangePassword { user, password_hash: hash },
            7 => AuthCommand::UserGrantRole { user, role },
            8 => AuthCommand::UserRevokeRole { user, role },
            9 | 10 => AuthCommand::RoleAdd { role },
            11 => AuthCommand::RoleDelete { role },
            12 => {
                let kind = [PermissionKind::Read, PermissionKind::Write, PermissionKind::ReadWrite]
                    [self.rng.below(3) as usize];
                let permission = Permission { kind, range: self.range(plan) };
                AuthCommand::RoleGrantPermission { role, permission }
            }
            _ => AuthCommand::RoleRevokePermission { role, range: self.range(plan) },
        }
    }

    /// Alarms are raised now and then, looked at, and put down again more often than raised.
    fn alarm(&mut self, plan: &Plan) -> AlarmRequest {
        let kind = if self.rng.chance(1, 2) { AlarmKind::NoSpace } else { AlarmKind::Corrupt };
        let own = NodeId(0x100 + self.rng.below(plan.members as u64) * 0x11);
        let member = if self.rng.chance(1, 3) { own } else { NodeId(1) };
        let (action, kind) = match self.rng.below(8) {
            0 => (AlarmAction::Activate, Some(kind)),
            1 => (AlarmAction::Get, Some(kind)),
            2 => (AlarmAction::Get, None),
            _ => (AlarmAction::Deactivate, Some(kind)),
        };
        AlarmRequest { action, member, kind }
    }

    /// Remembers what an answer told.
    pub fn heard(&mut self, group: GroupId, answer: &Answer) {
        let memory = self.memory.entry(group).or_default();
        match answer {
            Answer::Wrote { reply, revision, .. } => {
                memory.revision = memory.revision.max(*revision);
                if let Ok(Reply::LeaseGrant { id, .. }) = reply
                    && id.0 as u64 % LEASES_EACH < PROGRAM_LEASES
                {
                    memory.leases.push(*id);
                    if memory.leases.len() > LEASES_MAX {
                        memory.leases.remove(0);
                    }
                }
            }
            Answer::Range { reply, revision } => {
                memory.revision = memory.revision.max(*revision);
                for kv in &reply.kvs {
                    memory.seen.insert(kv.key.clone(), kv.mod_revision);
                }
            }
            Answer::ReadTxn { revision, .. } => {
                memory.revision = memory.revision.max(*revision);
            }
            Answer::KeptAlive { .. }
            | Answer::LeaseTtl { .. }
            | Answer::Leases { .. }
            | Answer::Failed { .. } => {}
        }
    }
}

/// A txn of ranges only does not go through the log.
fn is_plain_read(txn: &TxnRequest) -> bool {
    txn.success.iter().chain(&txn.failure).all(|op| matches!(op, RequestOp::Range(_)))
        && !(txn.success.is_empty() && txn.failure.is_empty())
}
