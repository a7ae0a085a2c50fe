//! Each member's own clock, and what it means for a process to stand still.
//!
//! A core is told its member's time, never the world's: it starts anywhere, goes faster or slower
//! than true time within the plan's bound, and may stand still while the machine does. It never
//! goes backward, and leaves nothing out: what is asked for is a monotonic clock. Wall clocks do not
//! exist below the API; nothing here could ask for one, so that their jumps have nothing to act on.

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
        let stood_us = self.clock_stood_us + self.clock_stands_us(now_us);
        self.clock.shows_us(now_us - self.born_us - stood_us) / MS
    }

    /// How long its clock has been standing still now.
    fn clock_stands_us(&self, now_us: u64) -> u64 {
        let until_us = self.paused_until_us.min(now_us);
        self.clock_stopped_at_us.map_or(0, |since_us| until_us.saturating_sub(since_us))
    }

    /// A machine that is suspended: its clock goes on where it stood.
    pub fn stop_clock(&mut self, now_us: u64) {
        self.clock_stood_us += self.clock_stands_us(now_us);
        self.clock_stopped_at_us = Some(now_us);
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
        if slot.held_by(self.now_us, false).is_some() {
            return;
        }
        slot.clock_stood_us += slot.clock_stands_us(self.now_us);
        slot.clock_stopped_at_us = None;
        let core_waits = slot.held_by(self.now_us, true).is_some();
        // What comes from now on and can do without the core is not held up: it must not overtake
        // what was held up before.
        let parked = std::mem::take(&mut slot.parked);
        let (waits, goes) = parked.into_iter().partition(|event| core_waits && event.needs_core());
        slot.parked = waits;
        for event in goes {
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
