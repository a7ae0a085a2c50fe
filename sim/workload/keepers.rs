//! Clients that keep leases and leave it late: a keepalive comes about when the lease would end.
//!
//! What may go wrong with a lease goes wrong there: a keepalive that crosses the revoke, a leader
//! that ends what its successor has renewed, a successor that has not heard of a renewal. So a
//! keeper has a few short leases, lets some run out, and asks again at once when it got no answer.

use super::{Client, LEASES_EACH};
use crate::history::{Answer, Call};
use crate::plan::{MS, Plan, SECOND};
use quorate::types::reply::Reply;
use quorate::types::{Command, GroupId, LeaseId};

/// Leases of one keeper at a time.
const LEASES_MAX: usize = 4;
/// A leader looks for leases that are over this often; a keepalive that is aimed at the end of one
/// may come anywhere in between.
const SCAN_US: u64 = 500 * MS;

#[derive(Clone, Debug)]
struct Kept {
    id: LeaseId,
    /// When to keep it alive next.
    due_us: u64,
}

#[derive(Clone, Debug)]
pub(super) struct Keeper {
    group: GroupId,
    leases: Vec<Kept>,
}

impl Client {
    pub fn keeper(plan: &Plan, id: u64) -> Client {
        let mut client = Client::new(plan, id);
        let group = GroupId(1 + client.rng.below(plan.groups));
        client.keeper = Some(Keeper { group, leases: Vec::new() });
        client
    }

    /// Until its next call.
    pub fn pause_us(&mut self, plan: &Plan, now_us: u64) -> u64 {
        let Some(keeper) = &self.keeper else { return self.think_us(plan) };
        let next = keeper.leases.iter().map(|kept| kept.due_us).min();
        let room = keeper.leases.len() < LEASES_MAX;
        let due = next.map_or(0, |at| at.saturating_sub(now_us));
        let soon = 1 + self.rng.below(2 * plan.think_us);
        if room { due.min(soon + SECOND / 5) } else { due }.max(self.rng.between(1, 5 * MS))
    }

    pub(super) fn keeper_call(&mut self, groups: &[GroupId]) -> Option<(GroupId, Call)> {
        let (id, nth) = (self.id, self.nth);
        let (grants, ttl_seconds) = (self.rng.chance(1, 3), self.rng.between(1, 2) as i64);
        let keeper = self.keeper.as_mut()?;
        if !groups.contains(&keeper.group) {
            *keeper = Keeper { group: groups[0], leases: Vec::new() };
        }
        let next = keeper.leases.iter().min_by_key(|kept| kept.due_us);
        let call = match next {
            Some(kept) if !grants || keeper.leases.len() >= LEASES_MAX => Call::KeepAlive(kept.id),
            _ => {
                let id = LeaseId((id * LEASES_EACH + nth) as i64);
                Call::Write(Command::LeaseGrant { id, ttl_seconds })
            }
        };
        Some((keeper.group, call))
    }

    /// A lease that lives is aimed at again; one that is gone is forgotten.
    pub(super) fn keeper_answered(&mut self, began_us: u64, call: &Call, answer: &Answer) {
        let (keeps, late) = (self.rng.chance(2, 3), self.rng.chance(2, 3));
        let (before, behind) = (self.rng.below(SCAN_US), self.rng.below(SCAN_US + 100 * MS));
        let Some(keeper) = &mut self.keeper else { return };
        let (id, ttl_seconds) = match (call, answer) {
            (_, Answer::Wrote { reply: Ok(Reply::LeaseGrant { id, ttl_seconds }), .. }) => {
                if !keeps || keeper.leases.len() >= LEASES_MAX {
                    return;
                }
                (*id, *ttl_seconds)
            }
            (Call::KeepAlive(id), Answer::KeptAlive { ttl_seconds }) => (*id, *ttl_seconds),
            _ => return,
        };
        keeper.leases.retain(|kept| kept.id != id);
        if let Ok(ttl) = u64::try_from(ttl_seconds)
            && ttl > 0
        {
            let end_us = began_us + ttl * SECOND;
            let due_us = if late { end_us + behind } else { end_us.saturating_sub(before) };
            keeper.leases.push(Kept { id, due_us });
        }
    }
}
