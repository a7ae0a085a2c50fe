//! What the world tells of itself to whoever looks: faults that stand, what replicas say, what a
//! lane is about to do, and the cluster at the end. Read only, and only while somebody looks.

use super::World;
use super::clock;
use super::slot::{Condition, Gone};
use crate::chaos::Phase;
use crate::faults::Fault;
use crate::member::{Job, Work};
use crate::trace::{Last, Row, Standing, words};
use quorate::types::GroupId;

/// Stands for the whole cluster where a member is named.
const EVERYBODY: usize = 255;

impl World {
    /// Every fault that stands at this moment and can be seen from outside. Whatever lasts and is
    /// listed here gets its bar in the picture, whichever act began it.
    fn standing(&self) -> Vec<Standing> {
        let mut out = Vec::new();
        let one = |name, m| Standing { name, from: m, to: m };
        for (m, slot) in self.slots.iter().enumerate() {
            if slot.live.is_none() {
                out.push(one("down", m));
            } else if slot.paused_until_us > self.now_us {
                out.push(one(slot.paused_by.name(), m));
            }
            if slot.live.is_some() && slot.clock.drifts() {
                out.push(one(clock::drift_fault(&self.plan).name(), m));
            } else if slot.live.is_some() && self.plan.on(Fault::ClockOffset) {
                out.push(one(Fault::ClockOffset.name(), m));
            }
            if slot.starved_until_us > self.now_us {
                out.push(one(Fault::TickStarvation.name(), m));
            }
            if slot.stalled_until_us > self.now_us {
                out.push(one(Fault::LeaderStall.name(), m));
            }
            if slot.log_stalled_until_us > self.now_us {
                out.push(one(Fault::LogStall.name(), m));
            }
            if slot.apply_stalled_until_us > self.now_us {
                out.push(one(Fault::ApplyStall.name(), m));
            }
            if slot.slow_until_us > self.now_us {
                out.push(one(Fault::SlowDisk.name(), m));
            }
            if let Some(fault) = slot.sabotaged {
                out.push(one(fault.name(), m));
            }
            if slot.wiped {
                out.push(one(Fault::Wipe.name(), m));
            }
        }
        for m in self.foreign.keys() {
            out.push(one(Fault::ForeignPeer.name(), *m));
        }
        for (from, to, fault) in self.net.troubles().filter(|t| t.0.max(t.1) < self.slots.len()) {
            out.push(Standing { name: fault.name(), from, to });
        }
        if let Some(phase) = self.phase {
            let name = match phase {
                Phase::Edge => Fault::QuorumEdge.name(),
                Phase::Loss => Fault::QuorumLoss.name(),
                Phase::Resume => "resume",
            };
            out.push(one(name, EVERYBODY));
        }
        out
    }

    pub(super) fn tell_standing(&mut self) {
        if self.trace.is_on() {
            let now = self.standing();
            self.trace.standing(self.now_us, &now);
        }
    }

    fn row(&self, m: usize, group: GroupId) -> Option<Row> {
        let said = self.slots[m].live.as_ref()?.status(group)?;
        Some(Row {
            role: said.role,
            term: said.term,
            vote: said.vote,
            leader: said.leader,
            start: said.start,
            last: said.last,
            persisted: said.persisted,
            commit: said.commit,
            applied: said.applied,
            conf: said.conf,
        })
    }

    pub(super) fn tell_state(&mut self, m: usize) {
        if !self.trace.is_on() {
            return;
        }
        for group in self.groups() {
            if let Some(row) = self.row(m, group) {
                self.trace.state(self.now_us, m, group, row);
            }
        }
    }

    /// What the next piece of work of a lane is about.
    pub fn describe_work(&self, m: usize, work: Work) -> String {
        let Some(live) = &self.slots[m].live else { return String::new() };
        match work {
            Work::WalWrite => {
                live.wal_batch.as_ref().map_or(String::new(), |b| words::records(&b.batch.records))
            }
            Work::WalSync => live.wal_synced.map_or(String::new(), |id| format!("batch {}", id.0)),
            Work::Apply => match live.jobs.front() {
                Some(Job::Apply(job)) => {
                    let each: Vec<String> = job
                        .entries
                        .iter()
                        .take(4)
                        .map(|e| format!("{}@{} {}", e.index, e.term, words::entry(e)))
                        .collect();
                    format!("apply g{} {} ({})", job.group, each.join("; "), job.entries.len())
                }
                Some(Job::Pin(group, to)) => format!("pin g{group} for {to}"),
                Some(Job::Install(ready)) => {
                    format!("install g{} snapshot at {}", ready.group, ready.meta.index)
                }
                Some(Job::FinishCheckpoint(_)) => "finish checkpoint".to_owned(),
                None => String::new(),
            },
            Work::Background if live.checkpoint.is_some() => "checkpoint step".to_owned(),
            Work::Background if live.applier.is_checkpoint_due() => "begin checkpoint".to_owned(),
            Work::Background => "compaction or spare segment".to_owned(),
            Work::LogRead => live
                .log_reads
                .front()
                .map_or(String::new(), |r| format!("g{} {}..{}", r.group, r.from, r.to)),
            _ => String::new(),
        }
    }

    /// The cluster as it stands when the run ends.
    pub(super) fn last(&self) -> Last {
        let mut last = Last {
            nodes: self.slots.iter().map(|s| s.node).collect(),
            clients: self.clients.len() + self.watchers.len(),
            watchers: self.watchers.len(),
            groups: self.groups().last().map_or(1, |group| group.0),
            election_us: self.plan.election_us(),
            ..Last::default()
        };
        for (m, slot) in self.slots.iter().enumerate() {
            for group in self.groups() {
                let condition = match (slot.condition, slot.paused_until_us > self.now_us) {
                    (Condition::Up, _) if slot.wiped => "wiped",
                    (Condition::Up, true) => "paused",
                    (Condition::Up, false) => "up",
                    (Condition::Down, _) => "down",
                    (Condition::Gone(Gone::Wiped), _) => "wiped, gone",
                    (Condition::Gone(Gone::Removed), _) => "removed",
                    (Condition::Gone(Gone::Damaged), _) => "damaged",
                };
                last.replicas.push(crate::trace::LastReplica {
                    m,
                    group,
                    condition,
                    row: self.row(m, group),
                    state: slot.live.as_ref().and_then(|l| l.applier.state_hash(group)),
                    log: self.safety.log_on_disk(slot.node, group),
                });
            }
        }
        for group in self.groups() {
            last.committed.push((group, self.safety.log_committed(group)));
        }
        last
    }
}
