//! Each member's own clock, and what it means for a process to stand still.
//!
//! A core is told its member's time, never the world's: it starts anywhere, and goes faster or
//! slower than true time within the plan's bound. Wall clocks do not exist below the API; nothing
//! here could ask for one, so that their jumps have nothing to act on.

use super::World;
use super::event::Event;
use super::slot::Slot;
use crate::faults::Fault;
use crate::plan::{MS, Plan, SECOND};

#[derive(Clone, Copy, Debug, Default)]
pub struct Clock {
    /// What it shows when the process starts.
    offset_us: u64,
    /// Millionths by which it goes faster than true time.
    drift_ppm: i64,
}

impl Clock {
    pub fn new(plan: &Plan, member: usize) -> Clock {
        let mut rng = plan.stream(&format!("clock-{member}"));
        let offset_us = rng.below(10 * 24 * 3_600 * SECOND);
        let bound = plan.drift_ppm();
        // The ends of the interval are where rules break.
        let drift = match rng.below(4) {
            0 => bound,
            1 => 0,
            _ => rng.between(0, 2 * bound),
        };
        Clock {
            offset_us: if plan.on(Fault::ClockOffset) { offset_us } else { 0 },
            drift_ppm: bound as i64 - drift as i64,
        }
    }

    /// What it shows so long after the process started.
    pub fn shows_us(&self, since_us: u64) -> u64 {
        let drift = since_us as i64 * self.drift_ppm / 1_000_000;
        self.offset_us + since_us.saturating_add_signed(drift)
    }

    /// How long in true time what the clock calls `us` takes.
    pub fn true_us(&self, us: u64) -> u64 {
        us * 1_000_000 / (1_000_000 + self.drift_ppm) as u64
    }

    /// For the picture.
    pub fn words(&self) -> String {
        format!("clock from {} s, {:+} ppm", self.offset_us / SECOND, self.drift_ppm)
    }

    pub fn drifts(&self) -> bool {
        self.drift_ppm != 0
    }
}

impl Slot {
    /// What the member's clock shows.
    pub fn now_ms(&self, now_us: u64) -> u64 {
        self.clock.shows_us(now_us - self.born_us) / MS
    }

    /// Whether the member stands still as far as this event is concerned, and why.
    pub fn held_by(&self, now_us: u64, needs_core: bool) -> Option<Fault> {
        if self.paused_until_us > now_us {
            Some(self.paused_by)
        } else if needs_core && self.stalled_until_us > now_us {
            Some(Fault::LeaderStall)
        } else {
            None
        }
    }
}

impl World {
    /// What happened to a member while it stood still happens to it now.
    pub fn wake(&mut self, m: usize) {
        let slot = &mut self.slots[m];
        if slot.held_by(self.now_us, true).is_some() {
            return;
        }
        for event in std::mem::take(&mut slot.parked) {
            self.at(self.now_us, event);
        }
    }

    /// Puts an event aside whose member stands still; gives it back otherwise.
    pub(super) fn park(&mut self, m: usize, event: Event) -> Option<Event> {
        match self.slots[m].held_by(self.now_us, event.needs_core()) {
            Some(why) => {
                self.counters.mattered(why);
                self.slots[m].parked.push(event);
                None
            }
            None => Some(event),
        }
    }
}

/// Which switch makes the clocks drift.
pub fn drift_fault(plan: &Plan) -> Fault {
    if plan.on(Fault::ClockDriftWide) { Fault::ClockDriftWide } else { Fault::ClockDrift }
}
