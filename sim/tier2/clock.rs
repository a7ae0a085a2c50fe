//! Time for simulated members: timers that can be taken back, over madsim's virtual clock.
//!
//! Why not madsim's own sleep? Each poll of one leaves a timer behind that is never removed and
//! wakes its task once more; a loop that waits for "a message or the next tick" would drown in
//! them. Here a sleep that is dropped is gone, and sleeps due at the same time wake in the order in
//! which they were made. One task drives the wheel. madsim sleeps for a millisecond at least, so
//! what is shorter takes that long.

use super::race::race;
use super::story::Story;
use crate::faults::Fault;
use crate::plan::Plan;
use crate::seed;
use madsim::time::TimeHandle;
use quorate::io::{BoxFuture, Clock, Mono};
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::sync::Notify;

const NANOS: u64 = 1_000_000_000;
/// A wall clock that jumps stands elsewhere after each of these.
const WALL_STRETCH: u64 = NANOS / 2;
const WALL_MS_MAX: u64 = 5 * 3_600 * 1_000;

#[derive(Default)]
struct Timers {
    next: u64,
    due: BTreeMap<(u64, u64), Waker>,
}

/// All sleeps of one world.
pub struct Wheel {
    time: TimeHandle,
    timers: Mutex<Timers>,
    earlier: Notify,
}

impl Wheel {
    /// Inside a madsim runtime only.
    pub fn new() -> Arc<Wheel> {
        let wheel = Arc::new(Wheel {
            time: TimeHandle::current(),
            timers: Mutex::default(),
            earlier: Notify::new(),
        });
        madsim::task::spawn(wheel.clone().drive());
        wheel
    }

    fn timers(&self) -> MutexGuard<'_, Timers> {
        self.timers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nanoseconds since the world began.
    pub fn now(&self) -> u64 {
        u64::try_from(self.time.elapsed().as_nanos()).expect("a seed plays for less than centuries")
    }

    pub fn now_us(&self) -> u64 {
        self.now() / 1_000
    }

    pub fn sleep_until(self: &Arc<Self>, at: u64) -> Sleep {
        Sleep { wheel: self.clone(), at, timer: None }
    }

    pub fn sleep_us(self: &Arc<Self>, us: u64) -> Sleep {
        self.sleep_until(self.now() + us * 1_000)
    }

    async fn drive(self: Arc<Self>) {
        loop {
            let now = self.now();
            let mut due = Vec::new();
            let first = {
                let mut timers = self.timers();
                while let Some(entry) = timers.due.first_entry()
                    && entry.key().0 <= now
                {
                    due.push(entry.remove());
                }
                timers.due.first_key_value().map(|(key, _)| key.0)
            };
            due.into_iter().for_each(Waker::wake);
            match first {
                Some(at) => {
                    let wait = Duration::from_nanos(at.saturating_sub(self.now()));
                    let sleep = self.time.sleep_until(self.time.now_instant() + wait);
                    race(self.earlier.notified(), sleep).await;
                }
                None => self.earlier.notified().await,
            }
        }
    }
}

/// See `Wheel::sleep_until`.
pub struct Sleep {
    wheel: Arc<Wheel>,
    at: u64,
    timer: Option<((u64, u64), Waker)>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.wheel.now() >= self.at {
            return Poll::Ready(());
        }
        if self.timer.as_ref().is_some_and(|(_, waker)| waker.will_wake(cx.waker())) {
            return Poll::Pending;
        }
        let this = &mut *self;
        let mut timers = this.wheel.timers();
        if let Some((key, _)) = this.timer.take() {
            timers.due.remove(&key);
        }
        let first = timers.due.first_key_value().is_none_or(|(key, _)| key.0 > this.at);
        timers.next += 1;
        let key = (this.at, timers.next);
        timers.due.insert(key, cx.waker().clone());
        drop(timers);
        this.timer = Some((key, cx.waker().clone()));
        if first {
            self.wheel.earlier.notify_one();
        }
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some((key, _)) = self.timer.take() {
            self.wheel.timers().due.remove(&key);
        }
    }
}

/// The clock of one process: it begins with it, anywhere, and goes faster or slower than true time.
pub struct SimClock {
    wheel: Arc<Wheel>,
    born: u64,
    /// Nanoseconds that it shows at first.
    offset: u64,
    drift_ppm: i64,
    /// Where the wall clock stands in each stretch of time is drawn from this.
    jumps: Option<u64>,
}

impl SimClock {
    /// Of the `number`th process.
    pub fn new(wheel: Arc<Wheel>, story: &Story, plan: &Plan, number: u64) -> SimClock {
        let mut rng = plan.stream(&format!("clock-{number}"));
        let offset = rng.below(10 * 24 * 3_600 * NANOS);
        let bound = plan.drift_ppm();
        let drift = rng.between(0, 2 * bound);
        let key = rng.next_u64();
        let on = |fault| {
            if plan.on(fault) {
                story.fired(fault);
                story.mattered(fault);
            }
            plan.on(fault)
        };
        let born = wheel.now();
        SimClock {
            wheel,
            born,
            offset: if on(Fault::ClockOffset) { offset } else { 0 },
            drift_ppm: if on(Fault::ClockDrift) { bound as i64 - drift as i64 } else { 0 },
            jumps: on(Fault::WallJump).then_some(key),
        }
    }

    /// What it shows so long after the process began.
    fn shows(&self, since: u64) -> u64 {
        let drift = i128::from(since) * i128::from(self.drift_ppm) / 1_000_000;
        self.offset + since.saturating_add_signed(drift as i64)
    }
}

impl Clock for SimClock {
    fn now(&self) -> Mono {
        Mono(self.shows(self.wheel.now() - self.born))
    }
    /// Hours ahead or back from one moment to the next: nothing that is promised may depend on it.
    fn wall_ms(&self) -> u64 {
        let now = self.wheel.now();
        let jump =
            self.jumps.map_or(0, |key| seed::at(key, now / WALL_STRETCH) % (2 * WALL_MS_MAX));
        1_700_000_000_000 - WALL_MS_MAX + jump + now / 1_000_000
    }
    fn sleep_until(&self, at: Mono) -> BoxFuture<()> {
        let shown = at.0.saturating_sub(self.offset);
        // As long as it takes a slow clock to get there, or a fast one; rounded up.
        let rate = (1_000_000 + self.drift_ppm) as u128;
        let since = (u128::from(shown) * 1_000_000).div_ceil(rate) + 1_000_000;
        let since = if self.drift_ppm == 0 { shown } else { since.min(u64::MAX.into()) as u64 };
        Box::pin(self.wheel.sleep_until(since.saturating_add(self.born)))
    }
}
