//! When leases end. Every member knows every lease (from apply); only the group's leader counts
//! time, on its own monotonic clock.
//!
//! Never early: a deadline is a promise of at least the granted time since the last acknowledged
//! keepalive. A new leader cannot know when that was, so it starts every lease with its full TTL
//! (or the remainder that was checkpointed), plus an election timeout in which the old leader may
//! still have acknowledged; and not before it has applied all that its predecessors have decided. A keepalive is acknowledged only by a leader whose leadership was
//! confirmed after the keepalive came in, so a deposed one promises nothing.
//!
//! Not for ever: expired leases are revoked through the log, some at a time, and again if a
//! revoke got lost. A lease whose revoke is under way cannot be renewed any more.
//!
//! A revoke names a lease by its id, and behind its end the id may be granted anew, in entries that
//! the leader has not applied yet. So a revoke says what its leader had applied, and passes over what
//! was granted behind that (`LeaseLeader`). A second one follows only when the first is neither on
//! its way to the log nor in it, all of which has been applied by then.

use crate::mvcc::LeaseChange;
use crate::types::{LeaseId, LogIndex};
use std::collections::{BTreeMap, BTreeSet};

/// Leases in one revoke (etcd: 500 per scan).
pub const REVOKES_MAX: usize = 500;
/// Leases in one checkpoint (etcd: 1000 per batch).
pub const CHECKPOINTS_MAX: usize = 1_000;
/// How often expiry is looked at.
pub const SCAN_MS: u64 = 500;

#[derive(Clone, Copy, Debug)]
struct Lease {
    ttl_seconds: i64,
    /// Checkpointed remainder, 0 for none.
    remaining_seconds: i64,
    /// Meaningful while this member leads.
    deadline_ms: u64,
    /// Its revoke is under way, under this request.
    revoking: Option<u64>,
    /// A remainder was proposed that may not be applied yet.
    checkpointing: bool,
    /// When its remainder was last proposed, or its time last began anew.
    counted_ms: u64,
}

/// The leases of one group.
#[derive(Debug, Default)]
pub struct Lessor {
    leases: BTreeMap<LeaseId, Lease>,
    /// (deadline, lease) of every lease, while this member leads.
    deadlines: BTreeSet<(u64, LeaseId)>,
    leading: bool,
    revokes: Vec<Revoke>,
}

/// A revoke that this member has proposed as the leader.
#[derive(Debug)]
struct Revoke {
    /// The request that carries it.
    seq: u64,
    ids: Vec<LeaseId>,
    /// The request is no more: if the log has the revoke, then not behind this.
    not_behind: Option<LogIndex>,
}

/// What a keepalive came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renewal {
    /// `checkpointed` says that a remainder must be cleared through the log before this is told.
    Renewed { ttl_seconds: i64, checkpointed: bool },
    /// No such lease, or it is on its way out.
    Gone,
}

/// A TTL in milliseconds, and one more: "now" is rounded down, and a lease never ends early.
fn seconds_to_ms(seconds: i64) -> u64 {
    u64::try_from(seconds).unwrap_or(0).saturating_mul(1000).saturating_add(1)
}

impl Lessor {
    pub fn len(&self) -> usize {
        self.leases.len()
    }
    pub fn is_empty(&self) -> bool {
        self.leases.is_empty()
    }

    /// This member leads now: every lease starts anew.
    pub fn promote(&mut self, now_ms: u64, grace_ms: u64) {
        self.leading = true;
        self.deadlines.clear();
        // What is left of those from before this term is refused when it is applied.
        self.revokes.clear();
        for (&id, lease) in &mut self.leases {
            let seconds = if lease.remaining_seconds > 0 {
                lease.remaining_seconds.min(lease.ttl_seconds)
            } else {
                lease.ttl_seconds
            };
            lease.deadline_ms =
                now_ms.saturating_add(grace_ms).saturating_add(seconds_to_ms(seconds));
            lease.revoking = None;
            lease.checkpointing = false;
            lease.counted_ms = now_ms;
            self.deadlines.insert((lease.deadline_ms, id));
        }
    }

    pub fn demote(&mut self) {
        self.leading = false;
        self.deadlines.clear();
    }

    pub fn clear(&mut self) {
        self.leases.clear();
        self.deadlines.clear();
        self.revokes.clear();
    }

    /// What apply did to a lease.
    pub fn changed(&mut self, change: LeaseChange, now_ms: u64) {
        match change {
            LeaseChange::Granted { id, ttl_seconds } => {
                let lease = Lease {
                    ttl_seconds,
                    remaining_seconds: 0,
                    deadline_ms: now_ms.saturating_add(seconds_to_ms(ttl_seconds)),
                    revoking: None,
                    checkpointing: false,
                    counted_ms: now_ms,
                };
                let before = self.leases.insert(id, lease);
                self.deadline_moved(id, before.map(|lease| lease.deadline_ms), lease.deadline_ms);
            }
            LeaseChange::Revoked { id } => {
                if let Some(lease) = self.leases.remove(&id) {
                    self.deadlines.remove(&(lease.deadline_ms, id));
                }
            }
            LeaseChange::Checkpoint { id, remaining_seconds } => {
                if let Some(lease) = self.leases.get_mut(&id) {
                    lease.remaining_seconds = remaining_seconds.max(0);
                    lease.checkpointing &= remaining_seconds <= 0;
                    if remaining_seconds <= 0 && lease.revoking.is_none() {
                        let (before, ttl) = (lease.deadline_ms, seconds_to_ms(lease.ttl_seconds));
                        lease.deadline_ms = before.max(now_ms.saturating_add(ttl));
                        let after = lease.deadline_ms;
                        self.deadline_moved(id, Some(before), after);
                    }
                }
            }
        }
    }

    fn deadline_moved(&mut self, id: LeaseId, before: Option<u64>, after: u64) {
        if let Some(before) = before {
            self.deadlines.remove(&(before, id));
        }
        if self.leading {
            self.deadlines.insert((after, id));
        }
    }

    /// A keepalive under confirmed leadership.
    pub fn renew(&mut self, id: LeaseId, now_ms: u64) -> Renewal {
        let Some(lease) = self.leases.get_mut(&id) else { return Renewal::Gone };
        if !self.leading || lease.revoking.is_some() {
            return Renewal::Gone;
        }
        let before = lease.deadline_ms;
        lease.deadline_ms = before.max(now_ms.saturating_add(seconds_to_ms(lease.ttl_seconds)));
        let (ttl_seconds, after) = (lease.ttl_seconds, lease.deadline_ms);
        // One that is on its way would be applied behind this, and count.
        let checkpointed = lease.remaining_seconds > 0 || lease.checkpointing;
        lease.counted_ms = now_ms;
        self.deadline_moved(id, Some(before), after);
        Renewal::Renewed { ttl_seconds, checkpointed }
    }

    /// (granted, remaining) in whole seconds; remaining is 0 while the revoke is under way.
    pub fn time_to_live(&self, id: LeaseId, now_ms: u64) -> Option<(i64, i64)> {
        let lease = self.leases.get(&id)?;
        let left = lease.deadline_ms.saturating_sub(now_ms) / 1000;
        Some((lease.ttl_seconds, i64::try_from(left).unwrap_or(i64::MAX)))
    }

    /// What is left, in whole seconds rounded up, of leases that have more than `interval_ms` to
    /// live and were not counted for as long; they count as proposed.
    pub fn checkpoints(&mut self, now_ms: u64, interval_ms: u64) -> Vec<(LeaseId, i64)> {
        let mut remaining = Vec::new();
        // Those that end soon are not worth it.
        let later = (now_ms.saturating_add(interval_ms).saturating_add(1), LeaseId(i64::MIN));
        for &(deadline_ms, id) in self.deadlines.range(later..) {
            let lease = self.leases.get_mut(&id).expect("a deadline belongs to a lease");
            if now_ms < lease.counted_ms.saturating_add(interval_ms) || lease.revoking.is_some() {
                continue;
            }
            let left = (deadline_ms - now_ms).div_ceil(1000);
            let left = i64::try_from(left).unwrap_or(i64::MAX).min(lease.ttl_seconds);
            lease.checkpointing = true;
            lease.counted_ms = now_ms;
            remaining.push((id, left));
            if remaining.len() == CHECKPOINTS_MAX {
                break;
            }
        }
        remaining
    }

    /// Leases to revoke now. What is proposed of them is told to `revoking`.
    pub fn expired(&self, now_ms: u64) -> Vec<LeaseId> {
        let due = self.deadlines.range(..=(now_ms, LeaseId(i64::MAX))).map(|&(_, id)| id);
        due.filter(|id| self.leases[id].revoking.is_none()).take(REVOKES_MAX).collect()
    }

    /// The end of these leases is proposed, under that request.
    pub fn revoking(&mut self, ids: Vec<LeaseId>, seq: u64) {
        for id in &ids {
            self.leases.get_mut(id).expect("a lease that has just expired").revoking = Some(seq);
        }
        self.revokes.push(Revoke { seq, ids, not_behind: None });
    }

    /// Looks for revokes that got lost. `is_open` says whether a request may still come to the
    /// log, `last` is the log's end, and up to `applied` this lessor knows what came of it.
    pub fn settle(&mut self, applied: LogIndex, last: LogIndex, is_open: impl Fn(u64) -> bool) {
        let leases = &mut self.leases;
        self.revokes.retain_mut(|revoke| {
            if revoke.not_behind.is_none() && !is_open(revoke.seq) {
                revoke.not_behind = Some(last);
            }
            let settled = revoke.not_behind.is_some_and(|index| index <= applied);
            for id in revoke.ids.iter().filter(|_| settled) {
                let lease = leases.get_mut(id).filter(|lease| lease.revoking == Some(revoke.seq));
                if let Some(lease) = lease {
                    lease.revoking = None;
                }
            }
            !settled
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: LeaseId = LeaseId(7);

    fn granted(lessor: &mut Lessor, now_ms: u64) {
        lessor.changed(LeaseChange::Granted { id: ID, ttl_seconds: 10 }, now_ms);
    }

    #[test]
    fn a_lease_expires_once_after_its_time_and_again_if_the_revoke_is_lost() {
        let mut lessor = Lessor::default();
        lessor.promote(0, 1000);
        granted(&mut lessor, 0);
        assert!(lessor.expired(10_000).is_empty());
        assert_eq!(
            lessor.renew(ID, 5_000),
            Renewal::Renewed { ttl_seconds: 10, checkpointed: false }
        );
        assert_eq!(lessor.time_to_live(ID, 6_500), Some((10, 8)));
        assert!(lessor.expired(15_000).is_empty());
        assert_eq!(lessor.expired(15_001), [ID]);
        lessor.revoking(vec![ID], 1);
        assert_eq!(lessor.renew(ID, 15_002), Renewal::Gone);
        assert!(lessor.expired(15_500).is_empty());
        // Its request is no more, and nothing came of it.
        lessor.settle(LogIndex(4), LogIndex(4), |_| false);
        assert_eq!(lessor.expired(18_001), [ID]);
        lessor.revoking(vec![ID], 2);
        lessor.changed(LeaseChange::Revoked { id: ID }, 18_002);
        assert!(lessor.expired(99_000).is_empty() && lessor.is_empty());
    }

    #[test]
    fn a_lease_that_is_granted_again_behind_its_end_is_not_ended_by_a_second_revoke() {
        let mut lessor = Lessor::default();
        lessor.promote(0, 1000);
        granted(&mut lessor, 0);
        assert_eq!(lessor.expired(10_001), [ID]);
        lessor.revoking(vec![ID], 1);
        // The log takes long to be applied: the revoke, at 7, and behind it a grant, at 8.
        lessor.settle(LogIndex(3), LogIndex(7), |seq| seq == 1);
        lessor.settle(LogIndex(3), LogIndex(9), |_| false);
        assert!(lessor.expired(60_000).is_empty(), "the request is given up, the log has it");
        lessor.settle(LogIndex(8), LogIndex(12), |_| false);
        assert!(lessor.expired(60_500).is_empty(), "nor while the log is applied");
        lessor.changed(LeaseChange::Revoked { id: ID }, 61_000);
        granted(&mut lessor, 61_000);
        lessor.settle(LogIndex(9), LogIndex(12), |_| false);
        assert!(lessor.expired(71_000).is_empty());
        assert_eq!(lessor.expired(71_001), [ID]);
    }

    #[test]
    fn a_new_leader_starts_anew_and_a_follower_expires_nothing() {
        let mut lessor = Lessor::default();
        granted(&mut lessor, 0);
        assert!(lessor.expired(1_000_000).is_empty());
        lessor.promote(1_000_000, 1_000);
        assert!(lessor.expired(1_011_000).is_empty());
        assert_eq!(lessor.expired(1_011_001), [ID]);
        lessor.demote();
        assert_eq!(lessor.renew(ID, 1_011_001), Renewal::Gone);
    }

    #[test]
    fn what_is_left_is_told_now_and_then_and_a_keepalive_overrides_it() {
        let mut lessor = Lessor::default();
        lessor.promote(0, 0);
        granted(&mut lessor, 0);
        assert!(lessor.checkpoints(2_999, 3_000).is_empty(), "too early");
        assert_eq!(lessor.checkpoints(3_500, 3_000), [(ID, 7)], "6.5 s, rounded up");
        assert!(lessor.checkpoints(4_000, 3_000).is_empty(), "told already");
        // It is on its way: a keepalive now must be followed by a clearing one.
        let renewed = Renewal::Renewed { ttl_seconds: 10, checkpointed: true };
        assert_eq!(lessor.renew(ID, 4_000), renewed);
        lessor.changed(LeaseChange::Checkpoint { id: ID, remaining_seconds: 7 }, 4_100);
        lessor.changed(LeaseChange::Checkpoint { id: ID, remaining_seconds: 0 }, 4_200);
        assert_eq!(
            lessor.renew(ID, 5_000),
            Renewal::Renewed { ttl_seconds: 10, checkpointed: false }
        );
        assert!(lessor.checkpoints(12_500, 3_000).is_empty(), "it ends within the interval");
    }

    #[test]
    fn a_checkpointed_remainder_counts_until_it_is_cleared() {
        let mut lessor = Lessor::default();
        granted(&mut lessor, 0);
        lessor.changed(LeaseChange::Checkpoint { id: ID, remaining_seconds: 3 }, 0);
        lessor.promote(0, 0);
        assert_eq!(
            lessor.renew(ID, 1_000),
            Renewal::Renewed { ttl_seconds: 10, checkpointed: true }
        );
        lessor.changed(LeaseChange::Checkpoint { id: ID, remaining_seconds: 0 }, 2_000);
        assert!(lessor.expired(12_000).is_empty());
        assert_eq!(lessor.expired(12_001), [ID]);
    }
}
