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

    /// The power fails between two effects that seldom follow each other: effects chosen by their
    /// number are nearly always the common ones.
    pub(super) fn crash_rare(&mut self, m: usize, draw: u64, down_us: u64) {
        let restart_at_us = self.now_us + down_us;
        let Some(pair) = self.effects.rare_pair(draw) else { return };
        let nth = 1 + (draw >> 32) % 3;
        let slot = &mut self.slots[m];
        if slot.live.is_none() || slot.sabotaged.is_some() || slot.wiped {
            return;
        }
        self.counters.fired(Fault::CrashRare);
        // What it finds when it starts again may be rare as well.
        slot.rare_again = (draw >> 40).is_multiple_of(2).then_some(draw >> 1);
        slot.restart_at_us = restart_at_us;
        slot.crash_at_pair = None;
        match pair.1.operation() {
            Some(second) => {
                slot.sabotaged = Some(Fault::CrashRare);
                slot.disk.set_crash_at(pair.0.operation(), second, nth);
            }
            None => slot.crash_at_pair = Some((pair, nth)),
        }
        self.note(|| format!("{m} is to crash between {} and {}", pair.0, pair.1));
    }

    /// At the end of the disturbances of a seed with crashes: everybody crashes once more, where
    /// few have crashed.
    pub fn crash_rarely_at_the_end(&mut self) {
        const CRASHES: [Fault; 4] =
            [Fault::Crash, Fault::CrashInWrite, Fault::CrashBetween, Fault::CrashRare];
        if CRASHES.iter().any(|fault| self.plan.on(*fault)) {
            self.crashes = self.plan.stream("crashes-rare");
            for m in self.up() {
                let draw = self.crashes.next_u64();
                self.crash_rare(m, draw, self.plan.tick_us);
            }
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
        self.boot(m)?;
        if let Some(draw) = self.slots[m].rare_again.take()
            && self.acting
        {
            self.crash_rare(m, draw, self.plan.tick_us);
        }
        Ok(())
    }
}
