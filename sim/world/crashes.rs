//! Crashes between two effects: where a step's effects pass by.

use super::World;
use crate::effects::{Effect, Place};
use crate::faults::Fault;
use crate::plan::SECOND;
use quorate::io::mem_disk::{CrashMode, CrashPlan};

/// A crash at one place of a run, and what the disk keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Point {
    pub place: Place,
    pub mode: CrashMode,
}

impl World {
    /// A step of member `m` begins.
    pub fn step(&mut self, m: usize, kind: Effect) {
        let event = self.trace.events();
        if let Some(point) = self.point
            && (point.place.event, point.place.member) == (event, m)
            && point.place.pair.1.is_disk()
            && self.slots[m].sabotaged.is_none()
        {
            self.slots[m].sabotaged = Some(Fault::CrashInWrite);
            self.slots[m].disk.set_crash_after(point.place.nth + 1);
        }
        let disk = &self.slots[m].disk;
        self.effects.begin(m, disk, event, kind);
    }

    /// The next effect of member `m` is due. True when it crashes instead: nothing further of this
    /// step may happen.
    #[must_use]
    pub fn crashes_before(&mut self, m: usize, kind: Effect) -> bool {
        let disk = &self.slots[m].disk;
        let Some((pair, nth)) = self.effects.before(m, disk, kind) else { return false };
        if self.slots[m].live.is_none() {
            return false;
        }
        let here = self.point.is_some_and(|p| {
            let place = p.place;
            (place.event, place.member, place.nth) == (self.trace.events(), m, nth)
                && !place.pair.1.is_disk()
        });
        let left = &mut self.slots[m].crash_in_effects;
        let by_act = *left == 1;
        *left = left.saturating_sub(1);
        let rare = self.slots[m].crash_at_pair.as_mut().is_some_and(|(rare, left)| {
            *left -= u64::from(*rare == pair);
            *left == 0
        });
        if here || by_act || rare {
            self.effects.crashed(pair);
            self.note(|| format!("{m} crashes between {} and {}", pair.0, pair.1));
            if here {
                self.crash_at_point(m);
            } else {
                let fault = if rare { Fault::CrashRare } else { Fault::CrashBetween };
                self.counters.mattered(fault);
                self.crash_disk(m);
            }
            let at = self.slots[m].restart_at_us.max(self.now_us + self.plan.tick_us);
            self.stop_process(m);
            self.plan_restart(m, at);
            return true;
        }
        false
    }

    /// The end of member `m`'s step.
    #[must_use]
    pub fn crashes_at_end(&mut self, m: usize) -> bool {
        self.crashes_before(m, Effect::End)
    }

    /// Whether the power has failed where this run wanted it to.
    pub(super) fn is_cut_at_point(&self, m: usize) -> bool {
        let slot = &self.slots[m];
        self.point.is_some_and(|p| {
            p.place.member == m && p.place.event == self.trace.events() && slot.disk.is_off()
        })
    }

    /// A data directory is founded in some thirty operations, once in a member's life: a seed with
    /// crashes in the middle of writes has some there.
    pub fn power_may_fail_at_birth(&mut self, m: usize) {
        let mut rng = self.plan.stream(&format!("birth-{m}"));
        if self.plan.on(Fault::CrashInWrite) && rng.chance(1, 2) {
            self.counters.fired(Fault::CrashInWrite);
            self.slots[m].sabotaged = Some(Fault::CrashInWrite);
            self.slots[m].disk.set_crash_after(1 + rng.below(40));
        }
    }

    /// And once more where the next start tidies up behind it.
    pub(super) fn power_may_fail_again(&mut self, m: usize) {
        let disturbed = self.phase.is_none() && self.now_us < self.plan.chaos_us;
        if disturbed && self.crashes.chance(1, 2) {
            self.counters.fired(Fault::CrashInWrite);
            self.slots[m].sabotaged = Some(Fault::CrashInWrite);
            let after = 1 + self.crashes.below(30);
            self.slots[m].disk.set_crash_after(after);
        }
    }

    /// What disturbs the cluster now, for the coverage.
    pub(super) fn disturbed(&self) -> u64 {
        let phase = self.phase.map_or(0, |p| 1 + p as u64);
        let paused = self.slots.iter().filter(|s| s.paused_until_us > self.now_us).count().min(1);
        self.net.disturbed() | phase << 4 | (paused as u64) << 8
    }

    /// The point is reached: the disk keeps what its mode says, and the run goes on to its end
    /// soon, because what the crash has broken shows at the restart and in the last reading.
    pub fn crash_at_point(&mut self, m: usize) {
        let Some(point) = self.point.take() else { return };
        self.slots[m].sabotaged = None;
        self.slots[m].disk.clear_faults();
        self.slots[m].disk.crash_with(CrashPlan { mode: point.mode, torn: true });
        self.chaos_ends_us = self.chaos_ends_us.min(self.now_us + SECOND);
    }
}
