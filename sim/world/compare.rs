//! Checkers that look at much at once, and therefore now and then: a replica against the model in
//! the middle of things, HashKV of members that have the same revision, leases that must have run
//! out, and the clients' record judged without the log.

use super::World;
use crate::model::Model;
use crate::plan::SECOND;
use crate::safety::{Checked, Violation, broken, ensure};
use quorate::types::command::AlarmKind;
use quorate::types::{GroupId, LogIndex};
use std::collections::BTreeMap;
use std::fmt;

/// A replica is compared at one applied index in so many.
const REPLICA_ONE_IN: u64 = 32;
/// And its HashKV, which reads everything, at one in so many.
const HASH_KV_ONE_IN: u64 = 192;
/// One seed in so many waits until its leases have run out.
const RUN_OUT_ONE_IN: u64 = 4;
/// Leases that live longer are not waited for.
const RUN_OUT_TTL_MAX: i64 = 30;

/// HashKV by (group, revision, compact revision), and who said so first.
pub type HashKvs = BTreeMap<(GroupId, i64, i64), (u32, usize)>;

/// How much the sampled checkers have seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sampled {
    pub replicas: u64,
    pub hash_kvs: u64,
    /// Hashes of a revision that another member had hashed too.
    pub hash_pairs: u64,
    pub leases_run_out: u64,
    pub black_box_keys: u64,
    pub black_box_calls: u64,
    pub undecided: u64,
    pub updates: u64,
    pub locks: u64,
    /// What users and roles let through, and what they refused, where they count.
    pub permitted: u64,
    pub denied: u64,
}

impl Sampled {
    pub fn add(&mut self, more: Sampled) {
        self.replicas += more.replicas;
        self.hash_kvs += more.hash_kvs;
        self.hash_pairs += more.hash_pairs;
        self.leases_run_out += more.leases_run_out;
        self.black_box_keys += more.black_box_keys;
        self.black_box_calls += more.black_box_calls;
        self.undecided += more.undecided;
        self.updates += more.updates;
        self.locks += more.locks;
        self.permitted += more.permitted;
        self.denied += more.denied;
    }
}

impl fmt::Display for Sampled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} replicas, {} HashKVs ({} of them twice), {} leases run out, {} keys with {} calls \
             from outside ({} undecided), {} updates, {} locks, {} permitted and {} denied to \
             users",
            self.replicas,
            self.hash_kvs,
            self.hash_pairs,
            self.leases_run_out,
            self.black_box_keys,
            self.black_box_calls,
            self.undecided,
            self.updates,
            self.locks,
            self.permitted,
            self.denied
        )
    }
}

impl World {
    /// A replica that is as far as anybody has exactly the model's leases, alarms and counters.
    pub fn compare_replica(&mut self, m: usize, group: GroupId, index: LogIndex) -> Checked {
        // A disk that is damaged or about to fail is not read more than its member does.
        let slot = &self.slots[m];
        if slot.damaged.is_some() || slot.sabotaged.is_some() {
            return Ok(());
        }
        let spread = index.0.wrapping_add(group.0 * 7);
        if spread.is_multiple_of(HASH_KV_ONE_IN) {
            self.compare_hash_kv(m, group)?;
        }
        if !spread.is_multiple_of(REPLICA_ONE_IN) || index != self.safety.committed_index(group) {
            return Ok(());
        }
        self.checked.replicas += 1;
        let live = self.slots[m].live.as_ref().expect("it has just applied something");
        let model = self.history.model(group);
        let leases = live.leases(group);
        ensure!(
            leases == model.leases(),
            "replica-leases",
            "member {m} group {group} at {index}: leases {leases:?}, expected {:?}",
            model.leases()
        );
        let numbers = live.numbers(group);
        let expected = (model.revision(), model.compacted(), model.alarms());
        ensure!(
            numbers == expected,
            "replica-content",
            "member {m} group {group} at {index}: (revision, compacted, alarms) {numbers:?}, \
             expected {expected:?}"
        );
        let (users, expected) = (live.users(group), model.users().rows());
        ensure!(
            users == expected,
            "replica-content",
            "member {m} group {group} at {index}: users and roles {users:?}, expected {expected:?}"
        );
        Ok(())
    }

    pub(super) fn compare_hash_kv(&mut self, m: usize, group: GroupId) -> Checked {
        let live = self.slots[m].live.as_ref().expect("it has just applied something");
        let (revision, _, _) = live.numbers(group);
        let (hash, compacted) = live.hash_kv(group);
        self.checked.hash_kvs += 1;
        let first = self.hash_kvs.get(&(group, revision, compacted)).copied();
        match first {
            None => {
                self.hash_kvs.insert((group, revision, compacted), (hash, m));
            }
            Some((there, who)) => {
                self.checked.hash_pairs += u64::from(who != m);
                ensure!(
                    hash == there,
                    "hash-kv",
                    "group {group} revision {revision} compacted {compacted}: member {m} hashes \
                     {hash:08x}, {who} {there:08x}"
                );
            }
        }
        Ok(())
    }

    /// Nobody keeps leases alive any more and everybody is well: within its TTL and a little more
    /// each has to end.
    pub fn leases_run_out(&mut self) -> Checked {
        if !self.plan.seed.is_multiple_of(RUN_OUT_ONE_IN) {
            return Ok(());
        }
        self.wait_for_leases_to_run_out()?;
        let to = self.now_us + SECOND;
        self.run_until(to)?;
        self.settle()?;
        self.compare_with_model()?;
        self.watchers_catch_up(self.bound_us())
    }

    pub(super) fn wait_for_leases_to_run_out(&mut self) -> Checked {
        let due = |model: &Model| {
            // A leader that suspects its data ends nothing.
            if model.has_alarm(AlarmKind::Corrupt) {
                return 0;
            }
            model.lease_ttls().filter(|(_, ttl)| *ttl <= RUN_OUT_TTL_MAX).count() as u64
        };
        let groups = self.groups();
        let left = |world: &World| -> u64 {
            groups.iter().map(|group| due(world.history.model(*group))).sum()
        };
        let had = left(self);
        let ttl_us = RUN_OUT_TTL_MAX as u64 * SECOND;
        let drift_us = ttl_us / 1_000_000 * self.plan.drift_ppm();
        let end = self.now_us + ttl_us + drift_us + self.bound_us();
        while left(self) > 0 {
            if self.now_us >= end {
                let leases: Vec<_> =
                    groups.iter().map(|group| self.history.model(*group).leases()).collect();
                return broken!("lease-late", format!("long after their time: {leases:?}"));
            }
            let to = (self.now_us + SECOND / 2).min(end);
            self.run_until(to)?;
        }
        self.checked.leases_run_out += had;
        Ok(())
    }

    /// The log has said that everything was right: so must the clients' record alone.
    pub fn judge_from_outside(&mut self) -> Checked {
        let verdict = self.history.black_box()?;
        self.checked.black_box_keys = verdict.keys;
        self.checked.black_box_calls = verdict.calls;
        self.checked.undecided = verdict.undecided;
        self.checked.updates = self.promises.updated;
        self.checked.locks = self.promises.locked;
        Ok(())
    }

    /// The other verdict on what the log has found wrong, for the report.
    pub fn second_opinion(&self, violation: &mut Violation) {
        const JUDGED_TWICE: [&str; 4] =
            ["linearizable-read", "wrong-read", "wrong-reply", "real-time-order"];
        if JUDGED_TWICE.contains(&violation.rule) {
            let opinion = match self.history.black_box() {
                Ok(verdict) if verdict.keys == 0 => return,
                Ok(verdict) => format!("sees nothing wrong ({verdict:?})"),
                Err(other) => format!("agrees: {}", other.detail),
            };
            violation.detail.push_str("\n  seen from outside: the clients' record alone ");
            violation.detail.push_str(&opinion);
        }
    }
}
