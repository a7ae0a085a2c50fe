//! Programs that clients run over several calls, as applications do: a read-modify-write loop in
//! the way of Kubernetes, and a lock with a lease and a fencing revision.
//!
//! Each program knows what it has been promised, and `Promises` holds them all against each other:
//! no two updates replace the same revision, nobody else holds a lock that its holder may still
//! trust, and what is written under a lock carries fences that never fall in revision order.

use super::{Client, LEASES_EACH};
use crate::history::{Answer, Call};
use crate::plan::Plan;
use crate::rules::control::control;
use crate::safety::{Checked, ensure};
use bytes::Bytes;
use quorate::types::command::{
    Compare, CompareResult, CompareTarget, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp,
    TxnRequest,
};
use quorate::types::reply::{Reply, ReplyOp};
use quorate::types::{Command, GroupId, KeyRange, LeaseId};
use std::collections::BTreeMap;

/// Rounds of one program before it rests.
const ROUNDS_MAX: u32 = 12;

/// Leases of programs have numbers from here on in their client's range: nobody else revokes
/// them or attaches to them.
pub(super) const PROGRAM_LEASES: u64 = 5_000_000;

/// Where a client is in its program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Program {
    Read {
        key: Bytes,
    },
    Update {
        key: Bytes,
        seen: i64,
    },
    Grant {
        lock: Bytes,
    },
    Acquire {
        lock: Bytes,
        lease: LeaseId,
    },
    /// Holds the lock since revision `fence`.
    Hold {
        lock: Bytes,
        lease: LeaseId,
        fence: i64,
    },
    Release {
        lock: Bytes,
        fence: i64,
    },
}

/// A program under way.
#[derive(Clone, Debug)]
pub(super) struct Running {
    pub group: GroupId,
    pub program: Program,
    rounds: u32,
    /// The call of the newest step, as asked; its answer moves the program on.
    pub asked: Option<Call>,
}

#[derive(Clone, Copy, Debug)]
struct Holder {
    client: u64,
    fence: i64,
    lease: LeaseId,
    /// Until when it may trust its lease, by true time; 0 once it has let go.
    until_us: u64,
}

/// What programs were promised.
#[derive(Debug, Default)]
pub struct Promises {
    drift_ppm: u64,
    /// Who has replaced which revision of which key.
    updates: BTreeMap<(GroupId, Bytes, i64), u64>,
    holders: BTreeMap<(GroupId, Bytes), Holder>,
    /// Fences by the revision they were written at.
    guarded: BTreeMap<(GroupId, Bytes), BTreeMap<i64, i64>>,
    pub updated: u64,
    pub locked: u64,
}

impl Promises {
    pub fn new(drift_ppm: u64) -> Promises {
        Promises { drift_ppm, ..Promises::default() }
    }

    fn shortest_us(&self, ttl_seconds: i64) -> u64 {
        let ttl_us = ttl_seconds.max(0) as u64 * 1_000_000;
        ttl_us * 1_000_000 / (1_000_000 + self.drift_ppm)
    }

    fn updated(&mut self, client: u64, group: GroupId, key: &Bytes, seen: i64) -> Checked {
        self.updated += 1;
        // A missing key has no revision of its own: it may be made anew after each delete.
        if seen == 0 {
            return Ok(());
        }
        let before = self.updates.insert((group, key.clone(), seen), client);
        ensure!(
            before.is_none(),
            "lost-update",
            "group {group} key {key:?}: clients {before:?} and {client} have both replaced \
             revision {seen}"
        );
        Ok(())
    }

    fn acquired(
        &mut self,
        now_us: u64,
        group: GroupId,
        lock: &Bytes,
        next: (u64, LeaseId, i64),
    ) -> Checked {
        self.locked += 1;
        let (client, lease, fence) = next;
        let slot = (group, lock.clone());
        if let Some(holder) = self.holders.get(&slot) {
            // The answer comes so late that somebody else has had the lock since: by its own
            // lease the client may not trust it.
            if holder.fence > fence {
                return Ok(());
            }
            ensure!(
                holder.until_us <= now_us,
                "mutual-exclusion",
                "group {group} lock {lock:?}: client {client} has it at {now_us} us with fence \
                 {fence}, and {holder:?} may trust its lease"
            );
        }
        self.holders.insert(slot, Holder { client, fence, lease, until_us: now_us });
        Ok(())
    }

    fn kept(&mut self, began_us: u64, group: GroupId, lease: LeaseId, ttl_seconds: i64) {
        let until_us = began_us + self.shortest_us(ttl_seconds);
        for ((_, _), holder) in
            self.holders.iter_mut().filter(|((g, _), h)| *g == group && h.lease == lease)
        {
            if holder.until_us > 0 {
                holder.until_us = holder.until_us.max(until_us);
            }
        }
    }

    fn let_go(&mut self, client: u64, group: GroupId, lock: &Bytes) {
        if let Some(holder) = self.holders.get_mut(&(group, lock.clone()))
            && holder.client == client
        {
            holder.until_us = 0;
        }
    }

    fn guarded(&mut self, group: GroupId, lock: &Bytes, revision: i64, fence: i64) -> Checked {
        let all = self.guarded.entry((group, lock.clone())).or_default();
        let before = all.range(..revision).next_back().map(|(at, fence)| (*at, *fence));
        let after = all.range(revision..).next().map(|(at, fence)| (*at, *fence));
        ensure!(
            before.is_none_or(|(_, older)| older <= fence)
                && after.is_none_or(|(_, newer)| newer >= fence),
            "mutual-exclusion",
            "group {group} lock {lock:?}: fence {fence} wrote at revision {revision}, between \
             {before:?} and {after:?}"
        );
        all.insert(revision, fence);
        Ok(())
    }
}

fn equal(key: &Bytes, target: CompareTarget) -> Compare {
    Compare { range: KeyRange::single(key.clone()), result: CompareResult::Equal, target }
}

fn get(key: &Bytes) -> RangeRequest {
    RangeRequest { range: KeyRange::single(key.clone()), ..RangeRequest::default() }
}

fn txn(compare: Compare, then: RequestOp) -> Call {
    let read =
        RequestOp::Range(RangeRequest { range: compare.range.clone(), ..RangeRequest::default() });
    let txn = TxnRequest { compare: vec![compare], success: vec![then], failure: vec![read] };
    Call::Write(Command::Txn(txn))
}

impl Client {
    /// The next step of the program under way, or of a new one.
    pub(super) fn program_call(&mut self, plan: &Plan, groups: &[GroupId]) -> (GroupId, Call) {
        if self
            .running
            .as_ref()
            .is_none_or(|r| r.rounds >= ROUNDS_MAX || !groups.contains(&r.group))
        {
            let group = groups[self.rng.below(groups.len() as u64) as usize];
            let program = if self.rng.chance(1, 2) {
                Program::Read { key: Bytes::from(format!("a/update/{}", self.rng.below(2))) }
            } else {
                Program::Grant { lock: Bytes::from_static(b"a/lock") }
            };
            self.running = Some(Running { group, program, rounds: 0, asked: None });
        }
        let value = self.value(plan);
        let (draw, id) = (self.rng.below(4), self.id);
        let running = self.running.as_mut().expect("a program is under way");
        running.rounds += 1;
        let put = |key: &Bytes, lease| {
            let (key, value) = (key.clone(), value.clone());
            RequestOp::Put(PutRequest { key, value, lease, ..PutRequest::default() })
        };
        let call = match &running.program {
            Program::Read { key } => Call::Range(get(key)),
            Program::Update { key, seen } => {
                txn(equal(key, CompareTarget::Mod(*seen)), put(key, LeaseId::default()))
            }
            Program::Grant { .. } => {
                let id = LeaseId((id * LEASES_EACH + PROGRAM_LEASES + self.nth) as i64);
                Call::Write(Command::LeaseGrant { id, ttl_seconds: 2 + draw as i64 })
            }
            Program::Acquire { lock, lease } => {
                txn(equal(lock, CompareTarget::Create(0)), put(lock, *lease))
            }
            Program::Hold { lease, .. } if draw == 0 => Call::KeepAlive(*lease),
            Program::Hold { lock, fence, .. } => {
                let guarded = Bytes::from_static(b"a/guarded");
                txn(equal(lock, CompareTarget::Create(*fence)), put(&guarded, LeaseId::default()))
            }
            Program::Release { lock, fence } => {
                let range = KeyRange::single(lock.clone());
                let delete = DeleteRangeRequest { range, prev_kv: false };
                txn(equal(lock, CompareTarget::Create(*fence)), RequestOp::DeleteRange(delete))
            }
        };
        running.asked = Some(call.clone());
        (running.group, call)
    }

    /// Before a step leaves: who wants to let go no longer trusts its lease.
    pub fn step_leaves(&mut self, group: GroupId, call: &Call, promises: &mut Promises) {
        if let Some(running) = &self.running
            && running.group == group
            && running.asked.as_ref() == Some(call)
            && let Program::Release { lock, .. } = &running.program
        {
            promises.let_go(self.id, group, lock);
        }
    }

    /// An answer may belong to the program.
    pub fn step_answered(
        &mut self,
        began_us: u64,
        now_us: u64,
        call: &Call,
        answer: &Answer,
        promises: &mut Promises,
    ) -> Checked {
        self.keeper_answered(began_us, call, answer);
        let id = self.id;
        let leaves = self.rng.below(6);
        let Some(running) = &mut self.running else { return Ok(()) };
        if running.asked.as_ref() != Some(call) {
            return Ok(());
        }
        running.asked = None;
        let group = running.group;
        let succeeded = match answer {
            Answer::Wrote { reply: Ok(Reply::Txn(txn)), revision, .. } => {
                txn.succeeded.then_some(*revision)
            }
            _ => None,
        };
        // What is there instead, if a compare has failed.
        let instead = match answer {
            Answer::Wrote { reply: Ok(Reply::Txn(txn)), .. } => match txn.replies.first() {
                Some(ReplyOp::Range { reply, .. }) => Some(reply.kvs.first()),
                _ => None,
            },
            Answer::Range { reply, .. } => Some(reply.kvs.first()),
            _ => None,
        };
        let next = match (running.program.clone(), answer) {
            (Program::Read { key }, Answer::Range { .. }) => {
                let seen = instead.flatten().map_or(0, |kv| kv.mod_revision);
                Program::Update { key, seen }
            }
            (Program::Update { key, seen }, Answer::Wrote { .. }) => match succeeded {
                Some(revision) => {
                    promises.updated(id, group, &key, seen)?;
                    Program::Update { key, seen: revision }
                }
                None => match instead {
                    Some(kv) => Program::Update { key, seen: kv.map_or(0, |kv| kv.mod_revision) },
                    None => Program::Read { key },
                },
            },
            (Program::Update { key, .. }, _) => Program::Read { key },
            (
                Program::Grant { lock },
                Answer::Wrote { reply: Ok(Reply::LeaseGrant { id, .. }), .. },
            ) => Program::Acquire { lock, lease: *id },
            (Program::Acquire { lock, lease }, Answer::Wrote { .. }) => match succeeded {
                Some(fence) => {
                    promises.acquired(now_us, group, &lock, (id, lease, fence))?;
                    Program::Hold { lock, lease, fence }
                }
                None => Program::Acquire { lock, lease },
            },
            // It may hold the lock and not know: it begins anew, under another lease.
            (Program::Acquire { lock, .. }, _) => Program::Grant { lock },
            (Program::Hold { lock, lease, fence }, Answer::KeptAlive { ttl_seconds }) => {
                if *ttl_seconds > 0 {
                    promises.kept(began_us, group, lease, *ttl_seconds);
                    Program::Hold { lock, lease, fence }
                } else {
                    Program::Grant { lock }
                }
            }
            (Program::Hold { lock, lease, fence }, Answer::Wrote { .. }) => match succeeded {
                Some(revision) => {
                    promises.guarded(group, &lock, revision, fence)?;
                    if leaves == 0 {
                        Program::Release { lock, fence }
                    } else {
                        Program::Hold { lock, lease, fence }
                    }
                }
                None => Program::Grant { lock },
            },
            (Program::Release { lock, .. }, _) => Program::Grant { lock },
            (unchanged, _) => unchanged,
        };
        running.program = next;
        Ok(())
    }
}

/// Negative controls of the promises.
pub fn self_check() {
    let (g, lock, key) = (GroupId(1), Bytes::from_static(b"l"), Bytes::from_static(b"k"));
    control("lost-update", |spoilt| {
        let mut promises = Promises::default();
        promises.updated(1, g, &key, 5)?;
        promises.updated(2, g, &key, 6)?;
        promises.updated(3, g, &key, if spoilt { 5 } else { 7 })
    });
    let lease = LeaseId;
    control("mutual-exclusion", |spoilt| {
        let mut promises = Promises::default();
        promises.acquired(1, g, &lock, (1, lease(1), 10))?;
        promises.kept(1_000, g, lease(1), 2);
        // An answer from long ago, which its own lease says not to trust.
        promises.acquired(5, g, &lock, (9, lease(9), 8))?;
        let now_us = if spoilt { 2_000_000 } else { 2_001_000 };
        promises.acquired(now_us, g, &lock, (2, lease(2), 12))
    });
    control("mutual-exclusion", |spoilt| {
        let mut promises = Promises::default();
        promises.acquired(1, g, &lock, (2, lease(2), 12))?;
        promises.kept(2_001_000, g, lease(2), 2);
        if !spoilt {
            promises.let_go(2, g, &lock);
        }
        promises.acquired(2_002_000, g, &lock, (3, lease(3), 13))
    });
    control("mutual-exclusion", |spoilt| {
        let mut promises = Promises::default();
        promises.guarded(g, &lock, 20, 13)?;
        // Older, and heard of later.
        promises.guarded(g, &lock, 15, 12)?;
        promises.guarded(g, &lock, 30, if spoilt { 12 } else { 13 })
    });
}
