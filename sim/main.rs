//! The simulator, tier 1: whole members in one thread, on a virtual clock, a crashable disk and a
//! network that loses, delays, repeats and reorders. One seed, one history.
//!
//! SIMULATION.md says what is simulated, which faults and checkers there are and how to replay.
//! Read first: `world` (the loop), then `plan` (what a seed draws), `safety` and `history` (the
//! checkers), `model` (what replies are compared with).

#[cfg(not(madsim))]
compile_error!("the simulator needs `--cfg madsim`: unset RUSTFLAGS, run from the repository root");

mod callers;
mod changes;
mod chaos;
mod committed;
mod conf;
mod core_mode;
mod coverage;
mod effects;
mod faults;
mod finale;
mod history;
mod lab;
mod lanes;
mod member;
mod model;
mod net;
mod plan;
mod rules;
mod run;
mod safety;
mod seed;
mod stores;
mod strangers;
mod swarm;
mod tape;
mod text;
mod theme;
mod tier2;
mod trace;
mod votes;
mod watch;
mod wgl;
mod workload;
mod world;

use std::process::ExitCode;

/// As in the product's binaries: a seventh of a run's time is allocation.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    run::main()
}
