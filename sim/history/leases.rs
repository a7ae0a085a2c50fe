//! Leases by true time: the simulator's clock, which no member has.
//!
//! A lease is *kept* from the begin of a call that was told it lives. Its leader may end it only
//! when its TTL has passed since, shortened by what the plan lets clocks drift; what is said about
//! the time left must fit the same facts. When a lease ends at the latest is the finale's to ask.

use super::LeaseRules;
use crate::model::Model;
use crate::rules::control::control;
use crate::safety::{Checked, ensure};
use quorate::types::command::LeaseLeader;
use quorate::types::{Command, Entry, GroupId, LeaseId, LogIndex};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

const SECOND_US: u64 = 1_000_000;

#[derive(Clone, Copy, Debug)]
struct Life {
    granted: LogIndex,
    revoked: Option<LogIndex>,
    ttl_seconds: i64,
    /// When it was ended because its leader thought that its time was over.
    expired_us: Option<u64>,
}

#[derive(Debug, Default)]
pub(super) struct Leases {
    pub rules: LeaseRules,
    /// The newest life of each id.
    lives: BTreeMap<LeaseId, Life>,
    /// Earlier ones: a grant that is asked for again may come behind the lease's end.
    past: Vec<(LeaseId, Life)>,
    /// The begin of the newest call that was told the lease lives, and its TTL.
    kept: BTreeMap<LeaseId, (u64, i64)>,
    /// When the last calls were told so, and until when it may be trusted since; oldest first.
    told: BTreeMap<LeaseId, VecDeque<(u64, u64)>>,
}

/// Of so many keepalives of a lease it is remembered when they were told: a question about the
/// time left that was asked before all of them is held to nothing.
const TOLD_MAX: usize = 16;

impl Leases {
    /// A TTL as the fastest clock allowed counts it.
    fn shortest_us(&self, ttl_seconds: i64) -> u64 {
        let ttl_us = u64::try_from(ttl_seconds).unwrap_or(0).saturating_mul(SECOND_US);
        let fastest = 1_000_000 + u128::from(self.rules.drift_ppm);
        (u128::from(ttl_us) * 1_000_000 / fastest) as u64
    }

    /// Until when a client may trust that the lease lives; `None` if none was told so.
    fn trusted_until(&self, id: LeaseId) -> Option<u64> {
        self.kept.get(&id).map(|(since, ttl)| since + self.shortest_us(*ttl))
    }

    /// A call that began then is told that the lease lives. If its leader has let it run out
    /// meanwhile, that was too early: a leader that renews a lease whose end it has proposed already
    /// promises what it cannot keep.
    pub fn told_alive(
        &mut self,
        now_us: u64,
        id: LeaseId,
        began_us: u64,
        ttl_seconds: i64,
    ) -> Checked {
        let until = began_us + self.shortest_us(ttl_seconds);
        let expired = self.lives.get(&id).and_then(|life| life.expired_us);
        ensure!(
            expired.is_none_or(|at| at >= until),
            "lease-early",
            "lease {id} was told to live for {ttl_seconds} s since {began_us} us, and was ended by \
             its leader at {expired:?} us"
        );
        let newer = self.kept.get(&id).is_none_or(|(since, _)| *since < began_us);
        // An answer may come after the lease's end.
        let lives = self.lives.get(&id).is_some_and(|life| life.revoked.is_none());
        if newer && lives {
            self.kept.insert(id, (began_us, ttl_seconds));
            let told = self.told.entry(id).or_default();
            told.push_back((now_us, until));
            if told.len() > TOLD_MAX {
                told.pop_front();
            }
        }
        Ok(())
    }

    /// No lease may be ended by its leader before its time has passed since the newest call that
    /// was told it lives.
    pub fn before_end(
        &self,
        now_us: u64,
        group: GroupId,
        entry: &Entry,
        command: &Command,
        model: &Model,
    ) -> Checked {
        let Command::LeaseRevoke { ids, leader: Some(leader) } = command else {
            return Ok(());
        };
        for id in ids.iter().filter(|_| leader.term == entry.term) {
            let is_meant = model.is_meant(*id, Some(*leader));
            if let (Some(until), true) = (self.trusted_until(*id), is_meant) {
                ensure!(
                    now_us >= until,
                    "lease-early",
                    "group {group} index {}: lease {id} ends at {now_us} us, a client was told \
                     that it lives, (since, TTL) {:?}",
                    entry.index,
                    self.kept.get(id)
                );
            }
        }
        Ok(())
    }

    /// `expired_us` is given when it was a leader that has ended them.
    pub fn changed(
        &mut self,
        expired_us: Option<u64>,
        index: LogIndex,
        before: &[LeaseId],
        model: &Model,
    ) {
        for (id, ttl_seconds) in model.lease_ttls() {
            if !before.contains(&id) {
                let life = Life { granted: index, revoked: None, ttl_seconds, expired_us: None };
                let past = self.lives.insert(id, life);
                self.past.extend(past.map(|life| (id, life)));
            }
        }
        for id in before.iter().filter(|id| !model.has_lease(**id)) {
            if let Some(life) = self.lives.get_mut(id) {
                life.revoked = Some(index);
                life.expired_us = expired_us;
            }
            self.kept.remove(id);
            self.told.remove(id);
        }
    }

    /// It is said to live, by a call that began when the log had been answered up to `floor`.
    pub fn lives(&self, group: GroupId, id: LeaseId, floor: LogIndex) -> Checked {
        let life = self.lives.get(&id);
        ensure!(
            life.is_some_and(|l| l.revoked.is_none_or(|revoked| revoked > floor)),
            "lease-undead",
            "group {group}: lease {id} is said to live, its life is {life:?}, answered before the \
             call: {floor}"
        );
        Ok(())
    }

    /// It is said to be gone. A leader may have let it expire already, its revoke on the way.
    pub fn is_gone(&self, now_us: u64, group: GroupId, id: LeaseId, floor: LogIndex) -> Checked {
        let life = self.lives.get(&id);
        let alive = life.is_some_and(|l| l.granted <= floor && l.revoked.is_none());
        let due = self.trusted_until(id).is_none_or(|until| until <= now_us);
        ensure!(
            !alive || due,
            "lease-lost",
            "group {group}: lease {id} is said to be gone, its life is {life:?}"
        );
        Ok(())
    }

    /// The time that is said to be left, to a call that began at `asked_us`. A keepalive that was
    /// told after that may have come behind the question.
    pub fn time_left(
        &self,
        now_us: u64,
        asked_us: u64,
        group: GroupId,
        id: LeaseId,
        granted_seconds: i64,
        remaining_seconds: i64,
    ) -> Checked {
        let ttl = self.lives.get(&id).map(|life| life.ttl_seconds);
        ensure!(
            ttl == Some(granted_seconds),
            "lease-time",
            "group {group}: lease {id} is said to have {granted_seconds} s, granted were {ttl:?}"
        );
        let told = self.told.get(&id).into_iter().flatten();
        let known = told.filter(|(told_us, _)| *told_us <= asked_us).map(|(_, until)| *until);
        let left = known.max().map_or(0, |until| until.saturating_sub(now_us));
        let least = i64::try_from(left / SECOND_US).unwrap_or(i64::MAX);
        let most = granted_seconds + (self.rules.grace_us.div_ceil(SECOND_US)) as i64 + 1;
        ensure!(
            (least - 1..=most).contains(&remaining_seconds),
            "lease-time",
            "group {group}: lease {id} of {granted_seconds} s is said to have {remaining_seconds} \
             s left, by true time {least} to {most}"
        );
        Ok(())
    }

    /// A list as of `applied` has every lease that lived then, and no other.
    pub fn listed(&self, group: GroupId, ids: &[LeaseId], applied: LogIndex) -> Checked {
        let lived = |life: &Life| {
            life.granted <= applied && life.revoked.is_none_or(|revoked| revoked > applied)
        };
        let past = self.past.iter().map(|(id, life)| (id, life));
        let lives = self.lives.iter().chain(past).filter(|(_, life)| lived(life));
        let expected: BTreeSet<LeaseId> = lives.map(|(id, _)| *id).collect();
        ensure!(
            ids.iter().eq(&expected),
            "lease-list",
            "group {group}: leases as of {applied} are said to be {ids:?}, expected {expected:?}"
        );
        Ok(())
    }
}

/// Negative controls of the rules above.
pub(super) fn self_check() {
    use quorate::multiraft::turn::BOOT_INDEX;
    use quorate::types::{EntryKind, Term};

    let (g, id) = (GroupId(1), LeaseId(5));
    let index = |n: u64| LogIndex(BOOT_INDEX.0 + n);
    let entry = |n| Entry {
        term: Term(1),
        index: index(n),
        kind: EntryKind::Command,
        data: bytes::Bytes::new(),
    };
    let mut model = Model::default();
    let rules = LeaseRules { drift_ppm: 10_000, grace_us: SECOND_US };
    let mut leases = Leases { rules, ..Leases::default() };
    model.apply(&Command::LeaseGrant { id, ttl_seconds: 10 }, Term(1)).reply.expect("granted");
    leases.changed(None, index(1), &[], &model);
    leases.told_alive(5 * SECOND_US + 1, id, 5 * SECOND_US, 10).expect("it lives");
    let leader = Some(LeaseLeader { term: Term(1), applied: index(1) });
    let end = Command::LeaseRevoke { ids: vec![id], leader };
    let at = |seconds: f64| (seconds * SECOND_US as f64) as u64;
    // Its time is over, on a fast clock; or not yet.
    control("lease-early", |spoilt| {
        let seconds = if spoilt { 14.89 } else { 14.91 };
        leases.before_end(at(seconds), g, &entry(2), &end, &model)
    });
    let left = |seconds, granted, left| {
        leases.time_left(at(seconds), 5 * SECOND_US + 1, g, id, granted, left)
    };
    // Nine seconds less one percent, rounded down; a new leader may give it a grace.
    control("lease-time", |spoilt| left(6.0, 10, if spoilt { 6 } else { 8 }));
    control("lease-time", |spoilt| left(6.0, 10, if spoilt { 13 } else { 12 }));
    control("lease-time", |spoilt| left(6.0, if spoilt { 11 } else { 10 }, 8));
    let asked_before = leases.time_left(at(6.0), 5 * SECOND_US, g, id, 10, 6);
    asked_before.expect("it was asked before the lease was said to live");
    control("lease-list", |spoilt| {
        leases.listed(g, if spoilt { &[] } else { std::slice::from_ref(&id) }, index(1))
    });
    control("lease-lost", |spoilt| {
        leases.is_gone(at(if spoilt { 14.0 } else { 15.0 }), g, id, index(1))
    });
    let before = [id];
    leases.changed(Some(at(20.0)), index(3), &before, &Model::default());
    let leases = RefCell::new(leases);
    // Renewed when it was on its way out, or before that.
    control("lease-early", |spoilt| {
        let began_us = at(if spoilt { 11.0 } else { 9.0 });
        leases.borrow_mut().told_alive(at(21.0), id, began_us, 10)
    });
    let leases = leases.into_inner();
    let behind = |spoilt| index(if spoilt { 3 } else { 2 });
    control("lease-undead", |spoilt| leases.lives(g, id, behind(spoilt)));
    control("lease-list", |spoilt| leases.listed(g, &[id], behind(spoilt)));
    // A list may be older than the lease's next life.
    let mut leases = leases;
    leases.changed(None, index(4), &[], &model);
    control("lease-list", |spoilt| leases.listed(g, &[id], behind(spoilt)));
}
