//! What happens in one seed, as everything in it can tell: the trace, the fault counters, and the
//! first rule that was broken.

use super::clock::Wheel;
use crate::faults::{Counters, Fault};
use crate::safety::{Checked, Violation};
use crate::trace::Trace;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// One thread plays a seed, so a lock is never waited for; a panic elsewhere ends the seed anyway.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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
            trace: Mutex::new(Trace::new(verbose)),
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
        trace.event(self.wheel.now(), kind);
        trace.word(who);
        trace.bytes(what);
    }

    pub fn note(&self, line: impl FnOnce() -> String) {
        lock(&self.trace).note(self.now_us(), line);
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
        (trace.hash(), trace.events())
    }
    pub fn take_lines(&self) -> Vec<String> {
        lock(&self.trace).take_lines()
    }
}
