//! The core mode: a quorum heals, and everything else stays broken for ever.
//!
//! After the chaos and before the last healing a seed may have this stretch. A random quorum of
//! the members is whole again and connected; each of the others keeps one fault that nobody ever
//! repairs: it is down, or stands still, or reaches nobody, or is heard by nobody, or hears
//! nobody, or reaches a single member of the core. Healing everything first, as the usual end of a
//! seed does, would hide a cluster that livelocks because of one bad cable.
//!
//! Demanded: within the bound every group answers, and every member of the core applies all that
//! is committed. Nothing is demanded of the rest, but that the safety rules hold.

use crate::faults::Fault;
use crate::safety::{Checked, Violation, broken};
use crate::world::{Event, World};
use quorate::types::GroupId;

/// Both ways with one member of the core and nobody else. Such a member may stay the leader, with
/// that friend as its majority; who of the core does not reach it is then refused as a candidate,
/// since the friend hears a leader. The service goes on, which is all that Raft promises there.
const ONE_FRIEND: u64 = 4;

impl World {
    pub fn core_mode(&mut self) -> Checked {
        if !self.plan.on(Fault::CoreOnly) {
            return Ok(());
        }
        if !self.changes_come_to_rest()? {
            return Ok(());
        }
        let mut rng = self.plan.stream("core-mode");
        let mut away = self.lost_for_ever();
        let mut order: Vec<(u64, usize)> = (0..self.slots.len())
            .filter(|m| !away.contains(&self.slots[*m].node))
            .map(|m| (rng.next_u64(), m))
            .collect();
        order.sort_unstable();
        let (mut core, mut rest) = (Vec::new(), Vec::new());
        for (_, m) in order {
            let node = self.slots[m].node;
            away.insert(node);
            if self.bears(&away) {
                rest.push(m);
            } else {
                away.remove(&node);
                core.push(m);
            }
        }
        if rest.is_empty() || core.is_empty() {
            return Ok(());
        }
        let (core, rest) = (&core, &rest);
        self.note(|| format!("the core {core:?} heals, {rest:?} stay broken for ever"));
        self.heal_all()?;
        let mut may_lead = false;
        for m in rest {
            self.counters.fired(Fault::CoreOnly);
            let kind = rng.below(6);
            may_lead |= kind == ONE_FRIEND;
            self.break_for_ever(*m, kind, core[0]);
        }
        let lost = rest.iter().map(|m| self.slots[*m].node).collect();
        self.hand_over_to_lost(&lost);
        self.core_serves()?;
        if !may_lead {
            self.core_converges(core)?;
        }
        for m in rest {
            self.slots[*m].paused_until_us = self.slots[*m].paused_until_us.min(self.now_us);
            self.wake(*m);
        }
        self.clients_go_on();
        Ok(())
    }

    fn clients_go_on(&mut self) {
        self.quiet = false;
        for c in 0..self.clients.len() {
            let think = self.clients[c].pause_us(&self.plan, self.now_us);
            self.after(think, Event::Ask { c });
        }
    }

    /// Which quorum stays is only worth choosing when no change of the membership is on its way,
    /// in a log that nobody has applied yet: it may let go of a member of the core, and the
    /// product cannot know that another one is lost from now on. False when there is no rest.
    fn changes_come_to_rest(&mut self) -> Result<bool, Violation> {
        if !Fault::ALL.iter().any(|fault| fault.changes_members() && self.plan.on(*fault)) {
            return Ok(true);
        }
        self.heal_all()?;
        self.quiet = true;
        let at_rest = |w: &World| {
            let groups = w.groups();
            w.roster.root.departing.is_none()
                && w.is_membership_quiet()
                && groups.iter().all(|group| {
                    let conf = w.safety.confs.newest(*group);
                    !(conf.is_joint() && conf.auto_leave)
                })
                && w.slots.iter().filter_map(|slot| slot.live.as_ref()).all(|live| {
                    live.group_ids().into_iter().all(|group| {
                        live.said(group).is_none_or(|said| {
                            said.commit == said.last && live.applied(group) == said.commit
                        })
                    })
                })
        };
        let end = self.now_us + self.bound_us();
        let rests = self.run_to(end, at_rest)?;
        self.clients_go_on();
        Ok(rests)
    }

    fn break_for_ever(&mut self, m: usize, kind: u64, friend: usize) {
        // Without the pre-vote a member that hears nobody and is heard raises the term for ever:
        // the paper's known disruption, which the pre-vote is for.
        let kind = if kind == 2 && !self.plan.pre_vote { 1 } else { kind };
        self.note(|| format!("{m} stays broken: kind {kind}"));
        match kind {
            0 => {
                if self.slots[m].live.is_some() {
                    self.crash_disk(m);
                    self.stop_process(m);
                }
                return;
            }
            5 => {
                self.slots[m].paused_until_us = u64::MAX;
                self.slots[m].paused_by = Fault::CoreOnly;
                return;
            }
            _ => {}
        }
        for other in (0..self.slots.len()).filter(|o| *o != m) {
            let (hears, heard) = match kind {
                1 => (false, false),
                2 => (false, true),
                3 => (true, false),
                _ => (other == friend, other == friend),
            };
            if !hears {
                self.net.cut(other, m, Fault::CoreOnly);
            }
            if !heard {
                self.net.cut(m, other, Fault::CoreOnly);
            }
        }
    }

    fn core_serves(&mut self) -> Checked {
        self.phase_began_us = self.now_us;
        self.phase_acks.clear();
        // A client may try each broken member in turn before it finds the core.
        let bound_us = self.bound_with_backlog_us() + 4 * self.plan.timeout_us;
        let end = self.now_us + bound_us;
        let all = |w: &World| {
            w.groups().iter().all(|group| w.phase_acks.get(group).is_some_and(|n| *n >= 3))
        };
        if !self.run_to(end, all)? {
            // Few clients, many groups, and members that keep whoever asks them waiting: a group
            // that was hardly asked is asked once more, by somebody who does nothing else.
            let acks = self.phase_acks.clone();
            for group in self.groups() {
                let enough = acks.get(&group).is_some_and(|n| *n >= 3);
                if !enough && !self.answers(group, bound_us)? {
                    return broken!("no-service", format!("the core alone has answered {acks:?}"));
                }
            }
        }
        self.takes_writes(bound_us)
    }

    fn core_converges(&mut self, core: &[usize]) -> Checked {
        self.quiet = true;
        let end = self.now_us + self.bound_with_backlog_us();
        let even = |w: &World| {
            w.clients.iter().all(|c| c.open.is_empty())
                && core.iter().filter(|m| !w.is_removed(**m)).all(|m| {
                    let node = w.slots[*m].node;
                    // A further group lets go of a member before group 1 does, which stays in a
                    // joint configuration until somebody ends that: meanwhile nobody tells the
                    // member what is decided there.
                    let told = |g: &GroupId| w.safety.confs.newest(*g).members().contains(&node);
                    w.slots[*m].live.as_ref().is_some_and(|live| {
                        w.groups().into_iter().filter(told).all(|group| {
                            live.applied(group) == w.safety.committed_index(group)
                                && live.said(group).is_some_and(|s| s.commit == s.last)
                        })
                    })
                })
        };
        if !self.run_to(end, even)? {
            let state: Vec<String> = core
                .iter()
                .flat_map(|m| self.groups().into_iter().map(move |group| (*m, group)))
                .map(|(m, group)| {
                    let live = self.slots[m].live.as_ref();
                    let said = live.and_then(|l| l.said(group));
                    let applied = live.map(|l| l.applied(group));
                    format!("{m} g{group} applied {applied:?} {said:?}")
                })
                .collect();
            let detail = format!("the core does not agree:\n  {}", state.join("\n  "));
            return broken!("not-converged", detail);
        }
        Ok(())
    }
}
