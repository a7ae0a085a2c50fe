//! What happens in one seed, as everything in it can tell: the trace, the fault counters, and the
//! first rule that was broken.

use super::clock::Wheel;
use crate::faults::{Counters, Fault};
use crate::safety::{Checked, Violation};
use crate::trace::hash_bytes;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// One thread plays a seed, so a lock is never waited for; a panic elsewhere ends the seed anyway.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Lines kept for a failure's report.
const LINES_MAX: usize = 8_000;

/// The history as a number and, if somebody will look, as lines. (Tier 1's own trace draws
/// pictures of what it knows from inside, and stays on one thread.)
struct Trace {
    hash: u64,
    events: u64,
    lines: Option<VecDeque<String>>,
}

impl Trace {
    fn word(&mut self, word: u64) {
        let wide = u128::from(self.hash.rotate_left(23) ^ word) * 0x9e37_79b9_7f4a_7c15_u128;
        self.hash = (wide as u64) ^ ((wide >> 64) as u64) ^ 0x2545_f491_4f6c_dd1d;
    }
}

pub struct Story {
    pub wheel: Arc<Wheel>,
    trace: Mutex<Trace>,
    counters: Mutex<Counters>,
    broken: Mutex<Option<Violation>>,
}

impl Story {
    pub fn new(wheel: Arc<Wheel>, verbose: bool) -> Arc<Story> {
        Arc::new(Story {
            wheel,
            trace: Mutex::new(Trace {
                hash: 0x6a09_e667_f3bc_c908,
                events: 0,
                lines: verbose.then(VecDeque::new),
            }),
            counters: Mutex::default(),
            broken: Mutex::new(None),
        })
    }

    pub fn now_us(&self) -> u64 {
        self.wheel.now_us()
    }

    /// Folds an event into the trace: its time, its kind, who, and what.
    pub fn event(&self, kind: u64, who: u64, what: &[u8]) {
        let mut trace = lock(&self.trace);
        trace.events += 1;
        for word in [self.wheel.now(), kind, who, hash_bytes(what)] {
            trace.word(word);
        }
    }

    pub fn note(&self, line: impl FnOnce() -> String) {
        if let Some(lines) = &mut lock(&self.trace).lines {
            if lines.len() == LINES_MAX {
                lines.pop_front();
            }
            lines.push_back(format!("{:>12.6} {}", self.now_us() as f64 / 1e6, line()));
        }
    }

    pub fn fired(&self, fault: Fault) {
        lock(&self.counters).fired(fault);
    }
    pub fn mattered(&self, fault: Fault) {
        lock(&self.counters).mattered(fault);
    }

    /// Keeps the first violation; the world ends soon after.
    pub fn check(&self, checked: Checked) {
        if let Err(violation) = checked {
            self.note(|| format!("violated [{}]: {}", violation.rule, violation.detail));
            lock(&self.broken).get_or_insert(violation);
        }
    }
    pub fn is_broken(&self) -> bool {
        lock(&self.broken).is_some()
    }
    pub fn take_violation(&self) -> Option<Violation> {
        lock(&self.broken).take()
    }

    pub fn counters(&self) -> Counters {
        lock(&self.counters).clone()
    }
    pub fn trace_hash(&self) -> (u64, u64) {
        let trace = lock(&self.trace);
        (trace.hash, trace.events)
    }
    pub fn take_lines(&self) -> Vec<String> {
        lock(&self.trace).lines.take().map(Vec::from).unwrap_or_default()
    }
}
