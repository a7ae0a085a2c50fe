//! One seed on one thread of its own, and what a panic said.

use super::{Job, Outcome, Tier};
use crate::safety::{Checked, broken};
use std::cell::RefCell;

const STACK_BYTES: usize = 16 << 20;

thread_local! {
    static LAST_PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// What the newest panic of this thread said.
pub fn take_panic() -> String {
    LAST_PANIC.with(|p| p.borrow_mut().take()).unwrap_or_default()
}

/// Panics are part of the game: they are kept, with the product's and the simulator's own frames,
/// instead of being printed between the seeds.
pub fn install_panic_hook() {
    std::panic::set_hook(Box::new(|info| {
        let trace = std::backtrace::Backtrace::force_capture().to_string();
        let ours: Vec<&str> = trace
            .lines()
            .filter(|l| l.contains("quorate::") || l.contains("at ./s"))
            .take(24)
            .collect();
        let said = format!("{info}\n{}", ours.join("\n"));
        LAST_PANIC.with(|p| *p.borrow_mut() = Some(said));
    }));
}

/// Runs something on a fresh thread and gives back what came of it, or what its panic said.
pub fn apart<T: Send + 'static>(run: impl FnOnce() -> T + Send + 'static) -> Result<T, String> {
    let caught = move || {
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).map_err(|_| take_panic())
    };
    std::thread::Builder::new()
        .stack_size(STACK_BYTES)
        .spawn(caught)
        .expect("a thread starts")
        .join()
        .expect("panics are caught inside")
}

/// Plays one seed on a thread of its own.
pub fn play_apart(tier: &'static Tier, job: &Job) -> Outcome {
    let job = job.clone();
    apart(move || (tier.play)(&job)).unwrap_or_else(|said| Outcome {
        violation: Checked::err(broken!("panic", said)),
        ..Outcome::default()
    })
}
