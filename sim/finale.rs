//! How a seed ends: everything heals, everybody catches up, everything is read; then the power
//! fails everywhere at once, and everything is read again.

use crate::faults::Fault;
use crate::history::Call;
use crate::member::STORE;
use crate::plan::{MS, SECOND};
use crate::rules::is_spoilt;
use crate::safety::{Checked, Violation, broken, ensure};
use crate::world::{Condition, World};
use bytes::Bytes;
use quorate::types::command::{PutRequest, RangeRequest};
use quorate::types::{Command, GroupId, KeyRange};
use std::collections::BTreeMap;

/// What a disk takes for one chunk of a state, read there and kept here.
const CHUNK_READ_US: u64 = 2 * MS;
/// An entry without its key's stem and its value.
const ENTRY_BYTES: usize = 200;

impl World {
    /// Time enough for elections, a client that waits for a dead member, and a snapshot.
    pub fn bound_us(&self) -> u64 {
        self.plan.election_us() * 10 + self.plan.timeout_us * 2 + 10 * SECOND
    }

    /// The same where time may also go into what lies in logs and is not committed: after hours of
    /// freezes that can be tens of thousands of entries, and where appends are small and one is
    /// under way at a time, each takes a round.
    pub fn bound_with_backlog_us(&self) -> u64 {
        let delay = self.plan.delay;
        let round_us = 2 * (delay.min_us + 2 * delay.mean_us + self.plan.sync_us);
        let entry_bytes = self.plan.value_bytes_max + self.plan.key_stem_bytes + ENTRY_BYTES;
        let at_once = 1.max(self.plan.append_bytes / entry_bytes) * self.plan.inflight_appends;
        let behind = |group: GroupId| {
            let lives = self.slots.iter().filter_map(|slot| slot.live.as_ref());
            let last = lives.filter_map(|live| live.said(group)).map(|said| said.last).max();
            last.map_or(0, |last| last.0.saturating_sub(self.safety.committed_index(group).0))
        };
        let backlog = self.groups().into_iter().map(behind).max().unwrap_or(0);
        self.bound_us() + backlog.div_ceil(at_once as u64) * round_us
    }

    /// How long a state takes to fetch, chunk by chunk: with chunks of 512 bytes that is most of
    /// the time a newcomer needs.
    fn fetch_us(&self) -> u64 {
        let bytes = self.slots.iter().map(|slot| slot.disk.used_below(STORE).1).max().unwrap_or(0);
        let delay = self.plan.delay;
        let round_us = 2 * (delay.min_us + 2 * delay.mean_us) + CHUNK_READ_US;
        bytes.div_ceil(self.plan.snapshot_chunk_bytes as u64) * round_us
    }

    pub fn finale(&mut self) -> Checked {
        self.core_mode()?;
        self.look_before_the_end();
        self.heal_all()?;
        self.serve_again()?;
        self.quiet = true;
        self.settle()?;
        // At once: leases go on to end as time goes by.
        self.compare_with_model()?;
        self.verify_stores()?;
        self.watchers_catch_up(self.bound_us())?;
        // The power fails everywhere.
        self.note(|| "the power fails everywhere".to_owned());
        for m in 0..self.slots.len() {
            if self.slots[m].live.is_some() {
                self.counters.fired(Fault::Crash);
                self.counters.mattered(Fault::Crash);
                self.crash_disk(m);
                self.stop_process(m);
                let at = self.now_us + 1;
                self.plan_restart(m, at);
            }
        }
        self.rot_while_off();
        self.read_everything()?;
        self.settle()?;
        self.compare_with_model()?;
        self.watchers_catch_up(self.bound_us())?;
        self.leases_run_out()?;
        self.judge_from_outside()
    }

    pub fn heal_all(&mut self) -> Checked {
        self.note(|| "everything heals".to_owned());
        self.crashes = self.plan.stream("crashes-finale");
        if self.phase.take().is_some() {
            self.history.quorum_back();
        }
        self.net.set_calm(true);
        self.steady();
        self.foreign.clear();
        for m in 0..self.slots.len() {
            if self.slots[m].condition == Condition::Down {
                // A restart that is on the calendar for later is too late now.
                self.slots[m].restart_at_us = self.now_us;
                self.restart(m)?;
            }
        }
        Ok(())
    }

    /// Within a bound every group answers calls that began after the healing.
    fn serve_again(&mut self) -> Checked {
        self.phase_began_us = self.now_us;
        self.phase_acks.clear();
        let end = self.now_us + self.bound_with_backlog_us();
        let all = |w: &World| {
            w.groups().iter().all(|group| w.phase_acks.get(group).is_some_and(|n| *n >= 3))
        };
        if !self.run_to(end, all)? {
            return broken!(
                "no-service",
                format!(
                    "after the healing the groups have answered {:?} within the bound",
                    self.phase_acks
                ),
            );
        }
        self.takes_writes(self.bound_with_backlog_us())
    }

    /// Every group takes a write of the first client: a leader that only answers reads, because a
    /// hand-over or a change of the configuration never ends, serves nobody. It asks one member
    /// after the other and takes back none of its questions before the end, and a write that is
    /// committed counts although the member that was asked has answered that it takes too long:
    /// where more waits in front of each than patience lasts, all are taken and none in time.
    pub fn takes_writes(&mut self, bound_us: u64) -> Checked {
        if self.may_refuse_writes() {
            return Ok(());
        }
        for group in self.groups() {
            let end = self.now_us + bound_us;
            self.phase_began_us = self.now_us;
            self.phase_wrote.clear();
            let mut asked = Vec::new();
            // A group may still come to its end by what was asked before.
            while !self.phase_wrote.contains(&group) && self.groups().contains(&group) {
                if self.now_us >= end {
                    let detail = format!("group {group} has taken no write within the bound");
                    return broken!("no-service", detail);
                }
                let put = PutRequest {
                    key: Bytes::from_static(b"service"),
                    value: Bytes::from(format!("service-{}", self.now_us)),
                    ..PutRequest::default()
                };
                self.probes.insert((group, put.value.clone()), (false, false));
                let put = Call::Write(Command::Put(put));
                let call = self.start_patient_call(0, group, put, end - self.now_us);
                asked.push(call);
                let wait = self.now_us + self.plan.timeout_us + SECOND;
                self.run_to(wait, |w| w.phase_wrote.contains(&group))?;
                if self.clients[0].waits_for(call) {
                    self.move_on(0);
                }
                let pause = self.now_us + self.plan.tick_us;
                self.run_until(pause)?;
            }
            self.probes.clear();
            for call in asked {
                self.give_up(0, call)?;
            }
        }
        Ok(())
    }

    /// Every member applies everything that is committed, and the wiped ones have stopped.
    pub fn settle(&mut self) -> Checked {
        let end = self.now_us + self.bound_with_backlog_us() + self.fetch_us();
        let even = |w: &World| {
            let groups = w.groups();
            let root = &w.roster.root;
            w.clients.iter().all(|c| c.open.is_empty())
                // Whoever was to leave has left, and nothing else is under way.
                && root.departing.is_none()
                && w.is_membership_quiet()
                && groups.iter().all(|group| !w.safety.confs.newest(*group).is_joint())
                && w.slots.iter().all(|slot| {
                    let Some(live) = &slot.live else {
                        return slot.is_gone();
                    };
                    // One that knows of its removal stays until the others know as well, and where
                    // too few of those are left to tell it so, for a minute.
                    if !root.members.contains_key(&slot.node) {
                        return !slot.wiped && !live.root().members.contains_key(&slot.node);
                    }
                    !slot.wiped
                        && live.group_ids() == groups
                        && groups.iter().all(|&group| {
                            live.applied(group) == w.safety.committed_index(group)
                                && live.said(group).is_some_and(|s| s.commit == s.last)
                        })
                })
        };
        let mut done = false;
        while !done && self.now_us < end {
            self.leave_joint();
            let pause = end.min(self.now_us + self.plan.election_us() * 2);
            done = self.run_to(pause, even)?;
        }
        if !done {
            let state: Vec<String> = (0..self.slots.len())
                .map(|m| {
                    let slot = &self.slots[m];
                    let groups: Vec<String> = self
                        .groups()
                        .into_iter()
                        .map(|group| match &slot.live {
                            Some(live) => format!(
                                "g{group} applied {} said {:?}",
                                live.applied(group),
                                live.said(group)
                            ),
                            None => "down".to_owned(),
                        })
                        .collect();
                    format!("{m} wiped {} {:?}: {}", slot.wiped, slot.condition, groups.join(", "))
                })
                .collect();
            let committed: Vec<u64> =
                self.groups().into_iter().map(|g| self.safety.committed_index(g).0).collect();
            let open: Vec<_> = self.clients.iter().map(|c| c.open.clone()).collect();
            return broken!(
                "not-converged",
                format!(
                    "committed {committed:?} open {open:?} membership {:?}\n  {}",
                    self.roster.root,
                    state.join("\n  ")
                ),
            );
        }
        Ok(())
    }

    /// The whole content of every replica, looked at from inside.
    pub fn compare_with_model(&mut self) -> Checked {
        let everything =
            RangeRequest { range: KeyRange::new(vec![0], vec![0]), ..RangeRequest::default() };
        let mut hashes = BTreeMap::new();
        // One that was removed and stays for a while has what there was until then.
        for m in (0..self.slots.len()).filter(|m| !self.is_removed(*m)).collect::<Vec<_>>() {
            for group in self.groups() {
                let Some(live) = &self.slots[m].live else { continue };
                let model = self.history.model(group);
                let found = match live.contents(group, &everything) {
                    Ok(_) if is_spoilt("replica-content") => Default::default(),
                    Ok(found) => found,
                    Err(error) => {
                        self.storage_error(m, "final read", &error)?;
                        continue;
                    }
                };
                let expected = model.range_at(&everything, model.revision());
                ensure!(
                    found.1 == model.revision() && found.0 == expected,
                    "replica-content",
                    "member {m} group {group}: revision {} where {} was committed\n  has {:?}\n  \
                     expected {expected:?}",
                    found.1,
                    model.revision(),
                    found.0
                );
                if self.slots[m].damaged.is_some() {
                    // The damage may lie where only these look, and they cannot say so.
                    continue;
                }
                let leases = live.leases(group);
                ensure!(
                    leases == model.leases(),
                    "replica-leases",
                    "member {m} group {group}: leases {leases:?}, expected {:?}",
                    model.leases()
                );
                let hash = live.hash_kv(group);
                let (first, who) = *hashes.entry(group).or_insert((hash, m));
                ensure!(
                    hash == first,
                    "hash-kv",
                    "group {group}: HashKV of member {m} is {hash:?}, of member {who} {first:?}"
                );
            }
        }
        Ok(())
    }

    pub fn verify_stores(&mut self) -> Checked {
        for m in 0..self.slots.len() {
            let Some(live) = &self.slots[m].live else { continue };
            if let Err(error) = live.verify_store() {
                if let Some(fault) = self.slots[m].damaged {
                    self.counters.mattered(fault);
                    continue;
                }
                return broken!("store-structure", format!("member {m}: {error}"));
            }
        }
        Ok(())
    }

    /// A group answers a linearizable read of the first client, which asks one member after the
    /// other.
    pub fn answers(&mut self, group: GroupId, bound_us: u64) -> Result<bool, Violation> {
        let end = self.now_us + bound_us;
        self.phase_began_us = self.now_us;
        self.phase_acks.clear();
        let has = move |w: &World| w.phase_acks.get(&group).is_some_and(|n| *n > 0);
        let key = KeyRange::single(Bytes::from_static(b"service"));
        let read = RangeRequest { range: key, ..RangeRequest::default() };
        while !has(self) && self.groups().contains(&group) {
            if self.now_us >= end {
                return Ok(false);
            }
            self.start_call(0, group, Call::Range(read.clone()));
            let wait = self.now_us + self.plan.timeout_us;
            self.run_to(wait, has)?;
            let pause = self.now_us + self.plan.tick_us;
            self.run_until(pause)?;
        }
        Ok(true)
    }

    /// A linearizable read of everything, from every member that is left: all that was ever
    /// acknowledged is there.
    fn read_everything(&mut self) -> Checked {
        let everything =
            RangeRequest { range: KeyRange::new(vec![0], vec![0]), ..RangeRequest::default() };
        for m in 0..self.slots.len() {
            if self.slots[m].is_gone() {
                continue;
            }
            for group in self.groups() {
                let end = self.now_us + self.bound_us();
                self.phase_began_us = self.now_us;
                self.phase_acks.clear();
                while self.phase_acks.get(&group).is_none_or(|n| *n == 0) {
                    if self.slots[m].is_gone() {
                        break;
                    }
                    if self.now_us >= end {
                        return broken!(
                            "no-service",
                            format!(
                                "member {m} group {group} does not serve a read after the power \
                                 came back"
                            ),
                        );
                    }
                    self.clients[0].member = m;
                    self.start_call(0, group, Call::Range(everything.clone()));
                    let wait = self.now_us + self.plan.timeout_us + SECOND;
                    self.run_to(wait, |w| w.clients[0].open.is_empty())?;
                    let pause = self.now_us + self.plan.tick_us;
                    self.run_until(pause)?;
                }
            }
        }
        Ok(())
    }
}
