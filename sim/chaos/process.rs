//! Processes: crashes, pauses, restarts, and leadership that is asked to move.

use crate::faults::Fault;
use crate::safety::Checked;
use crate::world::{Event, World};
use quorate::node::{Action, Token};
use quorate::types::GroupId;

impl World {
    pub(super) fn transfer_to(&mut self, to: usize) {
        let group = self.some_group();
        if let Some(leader) = self.leader_of(group)
            && leader != to
        {
            self.ask_transfer(group, leader, to);
        }
    }

    pub(super) fn ask_transfer(&mut self, group: GroupId, leader: usize, to: usize) {
        self.counters.fired(Fault::Transfer);
        self.note(|| format!("{leader} asked to hand group {group} over to {to}"));
        self.transfer = Some((group, to));
        let (p, to) = (self.slots[leader].process, self.slots[to].node);
        let action = Box::new(Action::Transfer { group, token: Token(0), to });
        self.after(1, Event::Tell { m: leader, p, action });
    }

    pub fn plan_restart(&mut self, m: usize, at_us: u64) {
        let slot = &mut self.slots[m];
        slot.restart_at_us = at_us;
        if !slot.restart_due {
            slot.restart_due = true;
            self.at(at_us, Event::Restart { m });
        }
    }

    pub(super) fn crash(&mut self, m: usize, down_us: u64, fault: Fault) {
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

    /// The process dies between two effects of one step (`world::crashes`).
    pub(super) fn crash_between(&mut self, m: usize, after: u64, down_us: u64) {
        let restart_at_us = self.now_us + down_us;
        let slot = &mut self.slots[m];
        if slot.live.is_some() && slot.sabotaged.is_none() && !slot.wiped {
            slot.crash_in_effects = after;
            slot.restart_at_us = restart_at_us;
            self.counters.fired(Fault::CrashBetween);
        }
    }

    pub fn restart(&mut self, m: usize) -> Checked {
        self.slots[m].restart_due = false;
        let slot = &self.slots[m];
        if slot.live.is_some() || slot.is_gone() {
            return Ok(());
        }
        let not_before_us = slot.restart_at_us.max(self.frozen_until_us);
        if not_before_us > self.now_us {
            let at = not_before_us;
            self.plan_restart(m, at);
            return Ok(());
        }
        self.foreign.remove(&m);
        self.restarts += 1;
        self.trace.word(m as u64);
        self.boot(m)
    }
}
