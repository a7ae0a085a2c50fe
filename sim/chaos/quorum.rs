//! Quorum loss: as many members down as the cluster must bear, and one more.

use super::Phase;
use crate::conf::is_quorum;
use crate::faults::{Act, Fault};
use crate::member::CLUSTER;
use crate::plan::{OpKind, SECOND};
use crate::safety::{Checked, ensure};
use crate::world::{Condition, Event, World};
use quorate::types::{ConfState, NodeId};
use std::collections::BTreeSet;

impl World {
    pub(super) fn quorum_edge(&mut self, down_us: u64) {
        let confs = self.active_confs();
        let mut down = self.lost_for_ever();
        if !confs.iter().all(|conf| is_quorum(conf, |id| !down.contains(&id))) {
            return;
        }
        // As many as every group's configuration bears, a change in progress included.
        for node in self.in_some_order() {
            down.insert(node);
            if !confs.iter().all(|conf| is_quorum(conf, |id| !down.contains(&id))) {
                down.remove(&node);
            }
        }
        self.counters.fired(Fault::QuorumEdge);
        let hands_over = self.crashes.chance(1, 2);
        self.begin_phase(Phase::Edge, &down, down_us);
        if hands_over {
            self.hand_over_to_lost(&down);
        }
    }

    /// Every leader that is left is asked to hand over to a member that is not there and will not
    /// be: whatever comes of it, the quorum goes on to serve.
    pub fn hand_over_to_lost(&mut self, lost: &BTreeSet<NodeId>) {
        for group in self.groups() {
            let Some(leader) = self.leader_of(group) else { continue };
            let conf = self.safety.confs.newest(group);
            let to = lost.iter().find(|id| conf.voters.contains(*id));
            let to = to.and_then(|id| self.index_of(CLUSTER, *id));
            if let Some(to) = to.filter(|_| !lost.contains(&self.slots[leader].node)) {
                self.ask_transfer(group, leader, to);
            }
        }
    }

    /// Whether alarms may refuse writes in this seed, whatever the members do.
    pub fn may_refuse_writes(&self) -> bool {
        self.plan.quota_bytes > 0 || self.plan.ops[&OpKind::Alarm] > 0
    }

    pub(super) fn quorum_loss(&mut self, down_us: u64) {
        let confs = self.active_confs();
        let mut down = self.lost_for_ever();
        // Until no group can decide anything, whichever configuration it acts on.
        for node in self.in_some_order() {
            let decides = |conf: &&ConfState| is_quorum(conf, |id| !down.contains(&id));
            if confs.iter().filter(decides).any(|conf| votes(conf, node)) {
                down.insert(node);
            }
        }
        self.counters.fired(Fault::QuorumLoss);
        self.begin_phase(Phase::Loss, &down, down_us);
        self.history.quorum_lost(self.now_us);
    }

    /// Members go down one after the other, all of them, each for as long: first a few are away,
    /// then most, then others. Nothing is promised meanwhile but what always is.
    pub(super) fn quorum_waves(&mut self, first: usize, down_us: u64) {
        self.counters.fired(Fault::Waves);
        let n = self.slots.len();
        let stagger = down_us / n as u64 + 1;
        for i in 0..n {
            let m = (first + i) % n;
            let act = Act::Wave { member: m, down_us };
            self.after(1 + i as u64 * stagger, Event::Act { act });
        }
    }

    pub(super) fn wave(&mut self, m: usize, down_us: u64) {
        if !self.slots[m].wiped {
            self.crash(m, down_us, Fault::Waves);
        }
    }

    /// Members that cannot vote for anything new: they are gone, or have not been filled yet.
    pub fn lost_for_ever(&self) -> BTreeSet<NodeId> {
        let confs = self.active_confs();
        let voters = confs.iter().flat_map(|c| c.voters.iter().chain(&c.voters_outgoing));
        let able = |id: &NodeId| {
            let slot = self.slots.iter().find(|s| s.node == *id && s.birth.cluster == CLUSTER);
            slot.is_some_and(|s| !s.wiped && !s.is_gone() && s.settled && s.damaged.is_none())
        };
        voters.copied().filter(|id| !able(id)).collect()
    }

    /// Whether every configuration that is acted on has a quorum without these.
    pub fn bears(&self, down: &BTreeSet<NodeId>) -> bool {
        self.active_confs().iter().all(|conf| is_quorum(conf, |id| !down.contains(&id)))
    }

    /// The voters, beginning anywhere.
    fn in_some_order(&mut self) -> Vec<NodeId> {
        let confs = self.active_confs();
        let mut nodes: Vec<NodeId> = self.slots.iter().map(|s| s.node).collect();
        let first = self.crashes.below(nodes.len() as u64) as usize;
        nodes.rotate_left(first);
        nodes.retain(|node| confs.iter().any(|conf| votes(conf, *node)));
        nodes
    }

    /// Takes `down` down and brings everybody else up.
    pub(super) fn begin_phase(&mut self, phase: Phase, down: &BTreeSet<NodeId>, down_us: u64) {
        self.net.set_calm(true);
        self.phase = Some(phase);
        self.steady();
        let for_us = self.phase_us(phase, down_us);
        for m in 0..self.slots.len() {
            if self.slots[m].wiped || self.slots[m].is_gone() {
                continue;
            }
            if down.contains(&self.slots[m].node) {
                let fault =
                    if phase == Phase::Edge { Fault::QuorumEdge } else { Fault::QuorumLoss };
                self.counters.mattered(fault);
                if self.slots[m].live.is_some() {
                    self.crash_disk(m);
                    self.stop_process(m);
                }
                // Down until the phase is over.
                let at = self.now_us + for_us + 1;
                self.plan_restart(m, at);
            } else if self.slots[m].live.is_none() {
                let at = self.now_us;
                self.slots[m].restart_at_us = at;
                self.at(at, Event::Restart { m });
            }
        }
        self.start_phase_clock(for_us);
    }

    fn phase_us(&self, phase: Phase, down_us: u64) -> u64 {
        // Ten election timeouts to serve again, and one call's timeout for a client that is still
        // waiting for a dead member.
        let serve = self.plan.election_us() * 10 + self.plan.timeout_us + SECOND;
        if phase == Phase::Loss { down_us } else { serve }
    }

    fn start_phase_clock(&mut self, for_us: u64) {
        self.phase_began_us = self.now_us;
        self.phase_acks.clear();
        self.phase_wrote.clear();
        self.phase_groups = self.groups();
        self.phase_asked.clear();
        self.phase_asked_write.clear();
        self.phase_ends_us = self.now_us + for_us;
        self.after(for_us, Event::EndOfPhase);
    }

    /// Takes back what would keep a healthy member from serving.
    pub fn steady(&mut self) {
        let now = self.now_us;
        self.frozen_until_us = self.frozen_until_us.min(now);
        for slot in &mut self.slots {
            slot.paused_until_us = slot.paused_until_us.min(now);
            slot.stalled_until_us = slot.stalled_until_us.min(now);
            slot.log_stalled_until_us = 0;
            slot.apply_stalled_until_us = 0;
            slot.stall_us = None;
            slot.starved_until_us = 0;
            slot.slow_until_us = 0;
            if slot.full_until_us > 0 {
                slot.full_until_us = 0;
                slot.disk.set_capacity(None);
            }
            slot.crash_in_effects = 0;
            slot.crash_at_pair = None;
            slot.rare_again = None;
            if slot.sabotaged.is_some() && !slot.disk.is_off() {
                slot.sabotaged = None;
                slot.disk.clear_faults();
                slot.disk.clear_crash_after();
            }
        }
        for m in 0..self.slots.len() {
            self.wake(m);
        }
    }

    pub fn end_phase(&mut self) -> Checked {
        let Some(phase) = self.phase.take() else { return Ok(()) };
        let acks = self.phase_acks.clone();
        self.note(|| format!("phase {phase:?} ends, answered {acks:?}"));
        if phase == Phase::Loss {
            self.history.quorum_back();
            if self.acting {
                self.phase = Some(Phase::Resume);
                for m in 0..self.slots.len() {
                    if self.slots[m].condition == Condition::Down {
                        let at = self.now_us;
                        self.plan_restart(m, at);
                    }
                }
                let for_us = self.phase_us(Phase::Resume, 0);
                self.start_phase_clock(for_us);
            }
            return Ok(());
        }
        // Those that were there all the time.
        let groups = self.groups();
        for group in self.phase_groups.clone().into_iter().filter(|g| groups.contains(g)) {
            // Slow clients of many groups may have asked nothing of one; nor may a tape's.
            if !self.phase_asked.contains(&group) {
                continue;
            }
            ensure!(
                self.phase_acks.get(&group).is_some_and(|n| *n > 0),
                "no-service",
                "group {group} has answered nothing that began within ten election timeouts although \
                 a quorum is up and connected ({phase:?})"
            );
            ensure!(
                self.may_refuse_writes()
                    || !self.phase_asked_write.contains(&group)
                    || self.phase_wrote.contains(&group),
                "no-service",
                "group {group} answers reads and has taken no write that began within ten election \
                 timeouts although a quorum is up and connected ({phase:?})"
            );
        }
        self.net.set_calm(false);
        Ok(())
    }
}

fn votes(conf: &ConfState, node: NodeId) -> bool {
    conf.voters.contains(&node) || conf.voters_outgoing.contains(&node)
}
