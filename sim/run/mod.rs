//! Which seeds run, on which threads, and what is said about them.
//!
//! Each seed gets a fresh OS thread: madsim's traps key hash maps and clocks by thread, and a
//! panic then ends one seed only. Workers take seeds from one source; the main thread watches the
//! wall clock, because a deadlock in real time is the one thing virtual time cannot see.
//!
//! A tier is a way to play a seed (`TIERS`); everything here is the same for all of them. What is
//! asked for comes from the environment (`args`), what is said at the end from `board`.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "the part of the simulator that lives outside of it: real threads, time, files, processes"
)]

mod args;
mod board;
mod controls;
mod corpus;
mod failure;
mod ledger;
mod play;
mod points;
mod same;
mod shrink;
mod tell;

pub use play::take_panic;

use crate::effects::{Pair, PairCount, Place};
use crate::faults::Counters;
use crate::plan::{Plan, Seed};
use crate::safety::Violation;
use crate::tape::Tape;
use crate::tier2;
use crate::trace::Told;
use crate::watch::Heard;
use crate::world::{self, Point, Sampled};
use args::{Args, Mode};
use board::Board;
use quorate::types::map::Set;
use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

/// What is to be played.
#[derive(Clone, Debug, Default)]
pub struct Job {
    pub seed: Seed,
    /// Keep the story as text.
    pub verbose: bool,
    /// Keep every decision (`Outcome::tape`).
    pub record: bool,
    /// List every place between two effects (`Outcome::places`).
    pub places: bool,
    /// Crash there.
    pub point: Option<Point>,
    /// Decisions to follow instead of drawing them.
    pub tape: Option<Arc<Tape>>,
}

impl Job {
    pub fn new(seed: Seed) -> Job {
        Job { seed, ..Job::default() }
    }
}

/// A way to play seeds.
pub struct Tier {
    pub name: &'static str,
    /// Plays one seed to its end. Called on a thread of its own; may panic.
    pub play: fn(&Job) -> Outcome,
    /// What a failure's report says of the plan, and what its hash is taken of.
    pub plan: fn(&Seed) -> String,
    /// Seeds of the default run, regressions apart.
    pub seeds: std::ops::Range<u64>,
    /// The default run starts no further seed of this tier after this long.
    pub budget: Duration,
}

/// To add a tier: one entry here. `QUORATE_TIER` picks one by name or number.
pub const TIERS: &[Tier] = &[MEMBERS, SERVERS];

const MEMBERS: Tier = Tier {
    name: "members",
    play: |job| {
        // Members of this tier know nothing of madsim; its runtime stands around them so that a
        // clock or a random number that is asked for by mistake is the seed's and not the
        // machine's.
        let config = madsim::Config::default();
        let runtime = madsim::runtime::Runtime::with_seed_and_config(job.seed.number, config);
        let job = job.clone();
        let plan = match &job.tape {
            Some(tape) => tape.plan().expect("a tape that was read has a plan"),
            None => Plan::of(&job.seed),
        };
        runtime.block_on(async move { world::play(plan, &job) })
    },
    plan: |seed| Plan::of(seed).summary(),
    seeds: 1..1_001,
    budget: Duration::from_secs(140),
};

const SERVERS: Tier = Tier {
    name: "servers",
    play: |job| {
        let config = madsim::Config::default();
        let runtime = madsim::runtime::Runtime::with_seed_and_config(job.seed.number, config);
        runtime.block_on(tier2::play(job.clone()))
    },
    plan: |seed| tier2::plan(seed).summary(),
    seeds: 1..101,
    budget: Duration::from_secs(60),
};

/// What came of one seed.
#[derive(Debug, Default)]
pub struct Outcome {
    pub trace: u64,
    pub events: u64,
    pub virtual_us: u64,
    pub acked: u64,
    pub elections: u64,
    pub restarts: u64,
    pub snapshots: u64,
    pub watched: Heard,
    pub checked: Sampled,
    pub faults: Counters,
    pub violation: Option<Violation>,
    /// The story as text, if it was kept.
    pub lines: Vec<String>,
    /// And otherwise.
    pub told: Told,
    pub tape: Option<Tape>,
    pub pairs: BTreeMap<Pair, PairCount>,
    pub places: Vec<Place>,
    /// The place where it was to crash was there, and it did.
    pub point_reached: bool,
    /// Abstract states of the protocol (`coverage`).
    pub states: Set<u64>,
    pub probes: BTreeMap<&'static str, u64>,
}

/// Runs to fill gaps in the crash pairs take no longer.
const FILL_MAX: Duration = Duration::from_secs(600);

pub fn main() -> ExitCode {
    let args = match Args::read() {
        Ok(Some(args)) => args,
        Ok(None) => {
            println!("0 passed, 0 failed");
            return ExitCode::SUCCESS;
        }
        Err(text) => {
            println!("{text}");
            return ExitCode::FAILURE;
        }
    };
    play::install_panic_hook();
    // Now, and not when a line is printed: hours later the working tree may be another one.
    failure::commit();
    match args.mode {
        Mode::Same(times) => same::compare_many(&args, times),
        Mode::Points { all } => match args.first_job() {
            Some(job) => points::enumerate(args.tiers[0], &job, all),
            None => {
                println!("QUORATE_CRASH_POINTS needs QUORATE_SEED");
                ExitCode::FAILURE
            }
        },
        Mode::Shrink => match args.first_job() {
            Some(job) => shrink::shrink(args.tiers[0], &job, args.shrink_budget),
            None => {
                println!("QUORATE_SHRINK needs QUORATE_SEED or QUORATE_TAPE");
                ExitCode::FAILURE
            }
        },
        Mode::Play | Mode::Nightly => play_tiers(&args),
    }
}

fn play_tiers(args: &Args) -> ExitCode {
    // The referees are tested before the game: each must notice what was spoilt on purpose.
    let mut failed = if args.child { 0 } else { controls::run(args.is_whole()) };
    let mut passed = 0;
    for tier in &args.tiers {
        let board = Board::new(tier, args);
        board.play();
        if !args.child {
            same::compare_processes(&board);
        }
        if board.is_whole_run() {
            points::fill(&board, (args.budget_of(tier).min(FILL_MAX * 10)) / 10);
        }
        board.summary();
        board.enter_in_ledger();
        passed += board.passed();
        failed += board.failed();
    }
    println!("{passed} passed, {failed} failed");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

pub fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
