//! Watches as clients have them: what they ask for, what they are told, and whether it is right.
//!
//! A watcher is one client with one stream to one member. It creates and cancels watches, reads
//! fast or slowly, loses its connection and goes on at another member from the last revision it
//! has seen. The members' side is the product's own hub, driven as in production: by what the
//! applier publishes and by an upkeep of its own.
//!
//! `client` decides, `judge` checks every message against the committed log's events, `control`
//! spoils messages and must be caught. How messages travel is `world::watches`.

mod client;
mod control;
mod judge;

pub use client::{Ask, Asked, Heard, Next, Watcher};
pub use control::self_check;
pub use judge::handed_out;

use crate::seed::Seed;
use crate::text::{Field, field, parts};

/// What a seed draws about watching.
#[derive(Clone, Debug)]
pub struct WatchPlan {
    /// Clients that watch; 0 in some seeds.
    pub watchers: u64,
    /// Watches on one stream, at most.
    pub per_stream: u64,
    /// Between two decisions of a watcher.
    pub think_us: u64,
    /// The hub's buffer per stream.
    pub buffer_bytes: usize,
    /// Records of the feed in one pass of catching up.
    pub records: usize,
    /// What a stream is given at a time, and how many such messages are on their way at most.
    pub take_bytes: usize,
    pub window: usize,
    pub progress_ms: u64,
    /// What a slow watcher needs for one message.
    pub slow_us: u64,
    // Each may be off for a whole seed.
    pub filters: bool,
    pub prev_kv: bool,
    pub past: bool,
    pub breaks: bool,
    pub nonsense: bool,
}

impl WatchPlan {
    pub fn new(seed: &Seed) -> WatchPlan {
        let mut rng = seed.stream("plan-watch");
        let mut pick = |from: &[u64]| from[rng.below(from.len() as u64) as usize];
        WatchPlan {
            watchers: pick(&[0, 1, 2, 3]),
            per_stream: pick(&[1, 3, 6]),
            think_us: pick(&[30_000, 200_000, 1_000_000]),
            buffer_bytes: pick(&[300, 2_000, 64 << 10, 4 << 20]) as usize,
            records: pick(&[2, 20, 1_000]) as usize,
            take_bytes: pick(&[1, 2_000, 1 << 20]) as usize,
            window: pick(&[1, 4, 64]) as usize,
            progress_ms: pick(&[100, 700, 5_000]),
            slow_us: pick(&[2_000, 30_000, 300_000]),
            filters: pick(&[0, 1]) == 1,
            prev_kv: pick(&[0, 1]) == 1,
            past: pick(&[0, 1, 1]) == 1,
            breaks: pick(&[0, 1, 1]) == 1,
            nonsense: pick(&[0, 0, 1]) == 1,
        }
    }
}

impl Field for WatchPlan {
    fn read(text: &str) -> Option<WatchPlan> {
        let (_, fields) = parts(text)?;
        Some(WatchPlan {
            watchers: field(&fields, "watchers")?,
            per_stream: field(&fields, "per_stream")?,
            think_us: field(&fields, "think_us")?,
            buffer_bytes: field(&fields, "buffer_bytes")?,
            records: field(&fields, "records")?,
            take_bytes: field(&fields, "take_bytes")?,
            window: field(&fields, "window")?,
            progress_ms: field(&fields, "progress_ms")?,
            slow_us: field(&fields, "slow_us")?,
            filters: field(&fields, "filters")?,
            prev_kv: field(&fields, "prev_kv")?,
            past: field(&fields, "past")?,
            breaks: field(&fields, "breaks")?,
            nonsense: field(&fields, "nonsense")?,
        })
    }
}
