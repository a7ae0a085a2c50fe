//! The nemesis' hand: how each act is carried out, and what is demanded while it lasts.

use crate::faults::{Act, Fault};
use crate::member;
use crate::plan::{MS, SECOND};
use crate::safety::{Checked, Violation, broken, ensure};
use crate::world::{Condition, Event, World};
use quorate::io::mem_disk::{
    CrashMode, CrashPlan, Fault as DiskFault, FaultKind, FaultOp, MemDisk,
};
use quorate::node::{Action, Token};
use quorate::transport::Refusal;
use quorate::types::{GroupId, Incarnation};

/// A stretch of time with a promise of its own; the nemesis rests meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// As many members are down as the cluster must bear: service resumes and goes on.
    Edge,
    /// One more: nothing may be answered.
    Loss,
    /// They are back: service resumes.
    Resume,
}

impl World {
    pub fn disturb(&mut self) -> Checked {
        if !self.acting {
            return Ok(());
        }
        let plan = self.plan.clone();
        let gap = self.nemesis.gap_us(&plan);
        self.after(gap, Event::Nemesis);
        let act = self.nemesis.next(&plan);
        if self.phase.is_some() {
            return Ok(());
        }
        let Some(act) = act else { return Ok(()) };
        self.note(|| format!("nemesis: {act:?}"));
        self.carry_out(act)
    }

    fn carry_out(&mut self, act: Act) -> Checked {
        let n = self.plan.members;
        match act {
            Act::Heal => self.net.heal(),
            Act::Partition { side } => {
                self.counters.fired(Fault::Partition);
                for a in 0..n {
                    for b in 0..n {
                        if (side >> a & 1) != (side >> b & 1) {
                            self.net.cut(a, b, Fault::Partition);
                        }
                    }
                }
            }
            Act::OneWay { from, to } => {
                self.counters.fired(Fault::OneWay);
                self.net.cut(from, to, Fault::OneWay);
            }
            Act::IsolateLeader => {
                let group = GroupId(1 + self.crashes.below(self.plan.groups));
                if let Some(leader) = self.leader_of(group) {
                    self.counters.fired(Fault::IsolateLeader);
                    for other in (0..n).filter(|o| *o != leader) {
                        self.net.cut(leader, other, Fault::IsolateLeader);
                        self.net.cut(other, leader, Fault::IsolateLeader);
                    }
                }
            }
            Act::SlowLink { from, to } => {
                self.counters.fired(Fault::SlowLink);
                self.net.slow(from, to);
            }
            Act::Crash { member, down_us } => self.crash(member, down_us, Fault::Crash),
            Act::CrashInWrite { member, after_ops, down_us } => {
                let restart_at_us = self.now_us + down_us;
                let slot = &mut self.slots[member];
                if slot.live.is_some() && slot.sabotaged.is_none() && !slot.wiped {
                    slot.sabotaged = Some(Fault::CrashInWrite);
                    slot.restart_at_us = restart_at_us;
                    slot.disk.set_crash_after(after_ops);
                    self.counters.fired(Fault::CrashInWrite);
                }
            }
            Act::DiskError { member, down_us } => {
                let op = if self.crashes.chance(1, 2) { FaultOp::Write } else { FaultOp::Sync };
                let nth = 1 + self.crashes.below(20);
                let restart_at_us = self.now_us + down_us;
                let slot = &mut self.slots[member];
                if slot.live.is_some() && slot.sabotaged.is_none() && !slot.wiped {
                    slot.sabotaged = Some(Fault::DiskError);
                    slot.restart_at_us = restart_at_us;
                    slot.disk.inject(DiskFault::nth(op, FaultKind::Io, nth));
                    self.counters.fired(Fault::DiskError);
                }
            }
            Act::Pause { member, for_us } => {
                if self.slots[member].live.is_some() {
                    self.counters.fired(Fault::Pause);
                    self.slots[member].paused_until_us = self.now_us + for_us;
                }
            }
            Act::SlowDisk { member, for_us } => {
                self.counters.fired(Fault::SlowDisk);
                self.slots[member].slow_until_us = self.now_us + for_us;
            }
            Act::Transfer { to } => {
                let group = GroupId(1 + self.crashes.below(self.plan.groups));
                if let Some(leader) = self.leader_of(group)
                    && leader != to
                {
                    self.counters.fired(Fault::Transfer);
                    self.transfer = Some((group, to));
                    let (p, to) = (self.slots[leader].process, self.slots[to].node);
                    let action = Box::new(Action::Transfer { group, token: Token(0), to });
                    self.after(1, Event::Tell { m: leader, p, action });
                }
            }
            Act::QuorumEdge { down_us } => {
                self.counters.fired(Fault::QuorumEdge);
                let lost = (n - 1) / 2;
                self.begin_phase(Phase::Edge, lost, down_us);
            }
            Act::QuorumLoss { down_us } => {
                self.counters.fired(Fault::QuorumLoss);
                let lost = (n - 1) / 2 + 1;
                self.begin_phase(Phase::Loss, lost, down_us);
                self.history.quorum_lost(self.now_us);
            }
            Act::Wipe { member } => return self.wipe(member),
            Act::ForeignPeer { member, for_us } => return self.foreign_peer(member, for_us),
        }
        Ok(())
    }

    /// Who leads the group in the newest term, as the members see it.
    pub fn leader_of(&self, group: GroupId) -> Option<usize> {
        let leads = |m: &usize| {
            let live = self.slots[*m].live.as_ref()?;
            let said = live.said(group)?;
            (said.is_leader && !self.slots[*m].wiped).then_some((said.term, *m))
        };
        (0..self.slots.len()).filter_map(|m| leads(&m)).max().map(|(_, m)| m)
    }

    pub fn plan_restart(&mut self, m: usize, at_us: u64) {
        let slot = &mut self.slots[m];
        slot.restart_at_us = at_us;
        if !slot.restart_due {
            slot.restart_due = true;
            self.at(at_us, Event::Restart { m });
        }
    }

    fn crash(&mut self, m: usize, down_us: u64, fault: Fault) {
        if self.slots[m].live.is_none() {
            return;
        }
        self.counters.fired(fault);
        self.counters.mattered(fault);
        self.crash_disk(m);
        self.stop_process(m);
        let at = self.now_us + down_us;
        self.plan_restart(m, at);
        self.note(|| format!("{m} crashes"));
    }

    /// The power fails: what was not synced is in doubt, as far as the switches say.
    pub fn crash_disk(&mut self, m: usize) {
        let (lost, torn) = (self.plan.on(Fault::LostWrites), self.plan.on(Fault::TornWrites));
        let draw = self.crashes.next_u64();
        let slot = &mut self.slots[m];
        let doubtful = slot.disk.unsynced_bytes() > 0;
        slot.sabotaged = None;
        slot.disk.clear_faults();
        match (lost, torn) {
            (true, true) => slot.disk.crash(),
            (true, false) => {
                let mode = CrashMode::ALL[(draw % CrashMode::ALL.len() as u64) as usize];
                slot.disk.crash_with(CrashPlan { mode, torn: false });
            }
            (false, true) => {
                slot.disk.crash_with(CrashPlan { mode: CrashMode::Prefix, torn: true });
            }
            (false, false) => slot.disk.kill_process(),
        }
        for (on, fault) in [(lost, Fault::LostWrites), (torn, Fault::TornWrites)] {
            if on {
                self.counters.fired(fault);
                if doubtful {
                    self.counters.mattered(fault);
                }
            }
        }
    }

    pub fn restart(&mut self, m: usize) -> Checked {
        self.slots[m].restart_due = false;
        let slot = &self.slots[m];
        if slot.live.is_some() || slot.condition == Condition::Gone {
            return Ok(());
        }
        if slot.restart_at_us > self.now_us {
            let at = slot.restart_at_us;
            self.plan_restart(m, at);
            return Ok(());
        }
        self.foreign.remove(&m);
        self.restarts += 1;
        self.trace.word(m as u64);
        self.boot(m)
    }

    // Quorum loss.

    fn begin_phase(&mut self, phase: Phase, lost: usize, down_us: u64) {
        self.net.set_calm(true);
        self.phase = Some(phase);
        self.steady();
        let gone = self.slots.iter().filter(|s| s.wiped).count();
        let mut down = gone;
        let first = self.crashes.below(self.slots.len() as u64) as usize;
        let for_us = self.phase_us(phase, down_us);
        for i in 0..self.slots.len() {
            let m = (first + i) % self.slots.len();
            if self.slots[m].wiped {
                continue;
            }
            if down < lost {
                down += 1;
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
        self.after(for_us, Event::EndOfPhase);
    }

    /// Takes back what would keep a healthy member from serving.
    pub fn steady(&mut self) {
        let now = self.now_us;
        for slot in &mut self.slots {
            slot.paused_until_us = slot.paused_until_us.min(now);
            slot.slow_until_us = 0;
            if slot.sabotaged.is_some() && !slot.disk.is_off() {
                slot.sabotaged = None;
                slot.disk.clear_faults();
                slot.disk.clear_crash_after();
            }
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
        for g in 1..=self.plan.groups {
            ensure!(
                self.phase_acks.get(&GroupId(g)).is_some_and(|n| *n > 0),
                "no-service",
                "group {g} has answered nothing that began within ten election timeouts although \
                 a quorum is up and connected ({phase:?})"
            );
        }
        self.net.set_calm(false);
        Ok(())
    }

    // Identity.

    /// A member's disk is replaced by an empty one. Only when every other member has bound its
    /// data directory, and only while a majority keeps its disks.
    fn wipe(&mut self, m: usize) -> Checked {
        let gone = self.slots.iter().filter(|s| s.wiped).count();
        if gone + 1 > (self.plan.members - 1) / 2 || self.slots[m].live.is_none() {
            return Ok(());
        }
        let (node, incarnation) = (self.slots[m].node, self.slots[m].incarnation);
        let known = (0..self.slots.len()).filter(|o| *o != m).all(|o| {
            let slot = &self.slots[o];
            slot.wiped || slot.live.as_ref().is_some_and(|l| l.bound(node) == Some(incarnation))
        });
        if !known {
            return Ok(());
        }
        self.counters.fired(Fault::Wipe);
        self.note(|| format!("{m} loses its disk"));
        self.stop_process(m);
        let seed = self.crashes.next_u64();
        let slot = &mut self.slots[m];
        slot.disk = MemDisk::new(seed);
        slot.incarnation = Incarnation(seed | 1);
        slot.wiped = true;
        slot.sabotaged = None;
        self.safety.on_wiped(node);
        let at = self.now_us + 50 * MS;
        self.plan_restart(m, at);
        Ok(())
    }

    /// A member goes down, and a member of another cluster answers at its address and dials.
    fn foreign_peer(&mut self, m: usize, for_us: u64) -> Checked {
        if self.slots[m].live.is_none() || self.slots[m].wiped {
            return Ok(());
        }
        self.crash(m, for_us, Fault::ForeignPeer);
        self.foreign.insert(m, self.now_us + for_us);
        let up = self.up();
        for other in up {
            self.meet_foreign(other, m)?;
        }
        Ok(())
    }

    /// A member and the foreign one at `at` shake hands: both must refuse.
    fn meet_foreign(&mut self, member: usize, at: usize) -> Checked {
        let foreign = member::foreign_identity(self.slots[at].node);
        let Some(live) = self.slots[member].live.as_ref() else { return Ok(()) };
        let (here, there) = live.meet_foreign(&foreign);
        self.trace.word(1 + at as u64);
        ensure!(
            here && there,
            "foreign-heard",
            "member {member} and a foreign one at {at}: refused by the member {here}, by the \
             foreigner {there}"
        );
        self.counters.mattered(Fault::ForeignPeer);
        Ok(())
    }

    /// Whether there is a connection, or one can be made.
    pub fn connect(&mut self, from: usize, to: usize) -> Result<bool, Violation> {
        let processes = (self.slots[from].process, self.slots[to].process);
        if self.slots[to].live.is_some() && self.net.connected(from, to, processes) {
            return Ok(true);
        }
        let pause = self.plan.tick_us;
        if !self.net.open(from, to)
            || !self.net.open(to, from)
            || !self.net.may_dial(self.now_us, from, to, pause)
        {
            return Ok(false);
        }
        if self.foreign.contains_key(&to) {
            self.meet_foreign(from, to)?;
            return Ok(false);
        }
        if self.slots[to].live.is_none() || self.slots[to].paused_until_us > self.now_us {
            return Ok(false);
        }
        let wiped = self.slots[from].wiped || self.slots[to].wiped;
        let Some(mut dialer) = self.slots[from].live.take() else { return Ok(false) };
        let verdicts = member::meet(&mut dialer, self.live(to));
        self.slots[from].live = Some(dialer);
        match verdicts {
            (None, None) => {
                if wiped {
                    return broken("wiped-accepted", format!("{from} and {to} shake hands"));
                }
                self.net.connect(from, to, processes);
                let (a, b) = (self.slots[from].node, self.slots[to].node);
                for (m, peer) in [(from, b), (to, a)] {
                    let p = self.slots[m].process;
                    let action = Box::new(Action::PeerUp { peer });
                    self.after(1, Event::Tell { m, p, action });
                }
                Ok(true)
            }
            (here, there) => {
                if !wiped {
                    return broken(
                        "handshake-refused",
                        format!("{from} refuses {to}: {here:?}; {to} refuses {from}: {there:?}"),
                    );
                }
                self.counters.mattered(Fault::Wipe);
                // A member that is told that its id belongs to another data directory stops.
                for (m, why) in [(from, there), (to, here)] {
                    if let Some(Refusal::IncarnationMismatch { .. }) = why {
                        let p = self.slots[m].process;
                        self.after(1, Event::Refused { m, p });
                    }
                }
                Ok(false)
            }
        }
    }
}
