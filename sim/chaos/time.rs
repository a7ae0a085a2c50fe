//! Time: processes that stand still, cores that miss their ticks, logs whose sync takes a minute.
//!
//! What must hold: a member that was away serves nothing stale and leads nobody when it is back
//! (`linearizable-read`, `election-safety` and the rest see to that); while the log of one leader
//! stalls, every group is served by the others.

use super::Phase;
use crate::faults::{Fault, log_uniform};
use crate::net::SILENCE_US;
use crate::plan::{MS, SECOND};
use crate::seed;
use crate::world::{Event, World};
use quorate::types::prng::Prng;

impl World {
    pub(super) fn pause(&mut self, member: usize, for_us: u64, fault: Fault) {
        if self.slots[member].live.is_none() {
            return;
        }
        self.counters.fired(fault);
        self.stand_still(member, for_us, fault);
        if for_us > SILENCE_US {
            self.take_nothing(member, for_us, fault);
        }
    }

    fn stand_still(&mut self, member: usize, for_us: u64, fault: Fault) {
        let until_us = self.now_us + for_us;
        if self.plan.on(Fault::ClockStop) {
            self.counters.fired(Fault::ClockStop);
            self.counters.mattered(Fault::ClockStop);
            self.slots[member].stop_clock(self.now_us);
        }
        self.slots[member].paused_until_us = until_us;
        self.slots[member].paused_by = fault;
        self.at(until_us, Event::Wake { m: member });
    }

    /// Every process stands still at once, as when the machine under all of them is frozen: nobody
    /// sees anything but that it is later than thought.
    pub(super) fn freeze_all(&mut self, for_us: u64) {
        self.counters.fired(Fault::FreezeAll);
        // A day of standing still shows nothing that an hour does not, and takes as long to play.
        let for_us =
            if self.frozen_in_all_us < 3_600 * SECOND { for_us } else { for_us.min(SECOND) };
        self.frozen_in_all_us += for_us;
        for member in self.up() {
            self.stand_still(member, for_us, Fault::FreezeAll);
        }
        self.frozen_until_us = self.now_us + for_us;
        self.frozen_us += for_us;
    }

    pub(super) fn starve_ticks(&mut self, member: usize, for_us: u64) {
        self.counters.fired(Fault::TickStarvation);
        self.slots[member].starved_until_us = self.now_us + for_us;
    }

    /// The leader's log stalls, and nobody else's. Its core waits for the sync, so that it neither
    /// ticks nor answers meanwhile; the others must take over.
    pub(super) fn leader_stall(&mut self, for_us: u64) {
        let group = self.some_group();
        let Some(leader) = self.leader_of(group) else { return };
        let gone = self.lost_for_ever();
        let mut away = gone.clone();
        away.insert(self.slots[leader].node);
        if !self.bears(&away) {
            return;
        }
        self.counters.fired(Fault::LeaderStall);
        self.begin_phase(Phase::Edge, &gone, 0);
        self.slots[leader].stall_us = Some(for_us);
    }

    /// Now and then the sync that begins now takes long, and nobody waits for it but what has to:
    /// the member goes on to hear, to speak and to write its store. More often where a term is
    /// entered: much depends on it, and there are few such syncs.
    pub fn stall_log(&mut self, m: usize, enters_term: bool) {
        let one_in = [20, 200, 1_000][self.plan.stream("log-stalls").below(3) as usize];
        if let Some(for_us) =
            self.takes_long(m, Fault::LogStall, if enters_term { 5 } else { one_in })
        {
            self.note(|| format!("{m}: the sync of its log takes {for_us} us, its core goes on"));
            self.slots[m].log_stalled_until_us = self.now_us + for_us;
        }
    }

    /// Now and then what is applied next takes long (a page that has to be read from a slow disk):
    /// the member goes on to hear, to acknowledge and to lead, with a state that stands still.
    pub fn stall_apply(&mut self, m: usize) {
        let one_in = [50, 500, 3_000][self.plan.stream("apply-stalls").below(3) as usize];
        if let Some(for_us) = self.takes_long(m, Fault::ApplyStall, one_in) {
            self.note(|| format!("{m}: applies nothing for {for_us} us, its core goes on"));
            self.slots[m].apply_stalled_until_us = self.now_us + for_us;
        }
    }

    /// Whether the job that begins now is one of those that take long, and how long.
    fn takes_long(&mut self, m: usize, fault: Fault, one_in: u64) -> Option<u64> {
        if !self.plan.on(fault) || !self.acting || self.phase.is_some() {
            return None;
        }
        let key = self.plan.name.key(fault.name());
        let mut rng = Prng::new(seed::at(key, self.now_us << 4 | m as u64));
        if !rng.chance(1, one_in) {
            return None;
        }
        self.counters.fired(fault);
        Some(log_uniform(rng.next_u64(), 50 * MS, 10 * SECOND))
    }

    /// The sync that begins now takes that long.
    pub fn stall(&mut self, m: usize, for_us: u64) {
        self.note(|| format!("{m}: the sync of its log takes {for_us} us"));
        self.slots[m].stalled_until_us = self.now_us + for_us;
        self.after(for_us, Event::Wake { m });
    }
}
