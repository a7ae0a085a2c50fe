//! Time as the async shell sees it: a monotonic clock for durations and deadlines, a wall clock
//! for people.

use super::BoxFuture;
use crate::io::biased_select;
use std::future::Future;
use std::ops::{Add, Sub};
use std::time::Duration;

/// A point in time: nanoseconds since the process started. Never goes back, whatever happens to
/// the wall clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mono(pub u64);

impl Mono {
    /// The time from `earlier` to this; zero if it is not earlier.
    #[must_use]
    pub fn since(self, earlier: Mono) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Mono {
    type Output = Mono;
    /// Saturates: "584 years from now" is as good as never.
    fn add(self, duration: Duration) -> Mono {
        Mono(self.0.saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl Sub<Mono> for Mono {
    type Output = Duration;
    fn sub(self, earlier: Mono) -> Duration {
        self.since(earlier)
    }
}

pub trait Clock: Send + Sync {
    fn now(&self) -> Mono;
    /// Milliseconds since 1970, for display only: it may jump in both directions.
    fn wall_ms(&self) -> u64;
    /// Ready at `at`, at once if that has passed.
    fn sleep_until(&self, at: Mono) -> BoxFuture<()>;
}

/// What `future` gives, or `None` if it has not by `at`. The future is dropped then.
pub async fn until<T>(clock: &dyn Clock, at: Mono, future: impl Future<Output = T>) -> Option<T> {
    biased_select! {
        value = future => Some(value),
        () = clock.sleep_until(at) => None,
    }
}
