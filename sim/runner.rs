//! Which seeds run, on which threads, and what is said about them.
//!
//! Each seed gets a fresh OS thread: madsim's traps key hash maps and clocks by thread, and a
//! panic then ends one seed only. Two workers take seeds from one counter; the main thread watches
//! the wall clock, because a deadlock in real time is the one thing virtual time cannot see.
#![allow(
    clippy::disallowed_methods,
    reason = "the one file of the simulator that lives outside of it: real threads, time, files"
)]

use crate::faults::Counters;
use crate::plan::Plan;
use crate::safety::Violation;
use crate::watch::Heard;
use crate::world::Sampled;
use crate::{history, model, watch, wgl, workload, world};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Seeds of the default run, regressions apart.
const DEFAULT_SEEDS: std::ops::Range<u64> = 1..1001;
/// The default run starts no further seed after this long: it has to end within three minutes.
const DEFAULT_BUDGET: Duration = Duration::from_secs(140);
/// No seed takes this long unless something hangs.
const SEED_WALL_MAX: Duration = Duration::from_secs(90);
const WORKERS: usize = 2;
const STACK_BYTES: usize = 16 << 20;
/// One seed in this many is run twice, besides the first few.
const TWICE_ONE_IN: u64 = 20;
const TWICE_FIRST: usize = 5;

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
    pub lines: Vec<String>,
}

thread_local! {
    static LAST_PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// What the newest panic of this thread said.
pub fn take_panic() -> String {
    LAST_PANIC.with(|p| p.borrow_mut().take()).unwrap_or_default()
}

/// Plays one seed on a thread of its own.
pub fn run_seed(seed: u64, verbose: bool) -> Outcome {
    let play = move || {
        let result = std::panic::catch_unwind(|| {
            let runtime =
                madsim::runtime::Runtime::with_seed_and_config(seed, madsim::Config::default());
            runtime.block_on(async move { world::play(Plan::new(seed), verbose) })
        });
        result.unwrap_or_else(|_| {
            let violation = Some(Violation { rule: "panic", detail: take_panic() });
            Outcome { violation, ..Outcome::default() }
        })
    };
    std::thread::Builder::new()
        .stack_size(STACK_BYTES)
        .name(format!("seed {seed}"))
        .spawn(play)
        .expect("a thread starts")
        .join()
        .expect("panics are caught inside")
}

struct Args {
    seeds: Vec<u64>,
    /// Until when new seeds may start; `None` runs them all.
    until: Option<Instant>,
    verbose: bool,
}

/// Regressions: one seed per line, `#` begins a comment.
fn regressions() -> Vec<u64> {
    include_str!("regressions.txt")
        .lines()
        .filter_map(|line| line.split('#').next()?.trim().parse().ok())
        .collect()
}

fn seeds_from_env() -> Result<Args, String> {
    let var = |name| std::env::var(name).ok().filter(|v| !v.is_empty());
    let number = |text: &str| {
        text.trim().parse::<u64>().map_err(|_| format!("{text:?} is not a seed: give a number"))
    };
    if let Some(seed) = var("QUORATE_SEED") {
        return Ok(Args { seeds: vec![number(&seed)?], until: None, verbose: true });
    }
    if let Some(range) = var("QUORATE_SEEDS") {
        let (from, to) = range
            .split_once("..")
            .ok_or_else(|| format!("QUORATE_SEEDS={range}: give a range like 1..100"))?;
        let seeds = (number(from)?..number(to)?).collect();
        return Ok(Args { seeds, until: None, verbose: false });
    }
    let minutes = match var("QUORATE_MINUTES") {
        Some(text) => Some(number(&text)?),
        None => None,
    };
    let (seeds, budget) = match minutes {
        Some(m) => (1_000_000..101_000_000, Duration::from_secs(m * 60)),
        None => (DEFAULT_SEEDS, DEFAULT_BUDGET),
    };
    // A long range is taken lazily by the workers; here it only has to be nameable.
    let mut all = regressions();
    all.extend(seeds.take(2_000_000));
    Ok(Args { seeds: all, until: Some(Instant::now() + budget), verbose: false })
}

/// Whether `cargo test`'s arguments ask for this target at all.
fn selected(args: impl Iterator<Item = String>) -> bool {
    const WITH_VALUE: [&str; 6] =
        ["--test-threads", "--format", "--color", "--skip", "--logfile", "-Z"];
    let mut wanted = true;
    let mut args = args.peekable();
    while let Some(arg) = args.next() {
        if arg == "--list" || arg == "--ignored" {
            return false;
        }
        if WITH_VALUE.contains(&arg.as_str()) {
            let value = args.next();
            if arg == "--skip" && value.is_some_and(|v| "sim".contains(&v)) {
                return false;
            }
        } else if !arg.starts_with('-') {
            wanted &= "sim".contains(&arg);
        }
    }
    wanted
}

fn replay_command(seed: u64) -> String {
    format!("QUORATE_SEED={seed} cargo test --features sim --test sim")
}

/// What the workers share.
struct Board {
    seeds: Vec<u64>,
    next: AtomicUsize,
    failed: AtomicUsize,
    stop: AtomicBool,
    totals: Mutex<Totals>,
    running: Mutex<BTreeMap<u64, Instant>>,
}

#[derive(Default)]
struct Totals {
    seeds: u64,
    events: u64,
    virtual_us: u64,
    acked: u64,
    elections: u64,
    restarts: u64,
    snapshots: u64,
    watched: Heard,
    checked: Sampled,
    twice: u64,
    faults: Counters,
    failures: Vec<(u64, &'static str)>,
}

fn work(board: &Board, args_until: Option<Instant>, verbose: bool) {
    loop {
        let at = board.next.fetch_add(1, Ordering::Relaxed);
        let late = args_until.is_some_and(|t| Instant::now() > t);
        if at >= board.seeds.len() || late || board.stop.load(Ordering::Relaxed) {
            return;
        }
        let seed = board.seeds[at];
        lock(&board.running).insert(seed, Instant::now());
        let mut outcome = run_seed(seed, verbose);
        let twice = verbose || at < TWICE_FIRST || seed.is_multiple_of(TWICE_ONE_IN);
        if twice && outcome.violation.is_none() {
            let again = run_seed(seed, false);
            if again.trace != outcome.trace || again.events != outcome.events {
                outcome.violation = Some(Violation {
                    rule: "determinism",
                    detail: format!(
                        "two runs differ: trace {:016x} of {} events, then {:016x} of {}",
                        outcome.trace, outcome.events, again.trace, again.events
                    ),
                });
            }
        }
        lock(&board.running).remove(&seed);
        report(board, seed, outcome, twice, verbose);
    }
}

fn report(board: &Board, seed: u64, mut outcome: Outcome, twice: bool, verbose: bool) {
    let mut totals = lock(&board.totals);
    totals.seeds += 1;
    totals.events += outcome.events;
    totals.virtual_us += outcome.virtual_us;
    totals.acked += outcome.acked;
    totals.elections += outcome.elections;
    totals.restarts += outcome.restarts;
    totals.snapshots += outcome.snapshots;
    totals.watched.add(outcome.watched);
    totals.checked.add(outcome.checked);
    totals.twice += u64::from(twice);
    totals.faults.merge(&outcome.faults);
    println!(
        "seed {seed} trace {:016x} events {} virtual {:.1}s acked {} elections {} restarts {} \
         snapshots {} faults {}{}",
        outcome.trace,
        outcome.events,
        outcome.virtual_us as f64 / 1e6,
        outcome.acked,
        outcome.elections,
        outcome.restarts,
        outcome.snapshots,
        outcome.faults.total(),
        if outcome.violation.is_some() { " FAILED" } else { "" }
    );
    let Some(violation) = outcome.violation.take() else { return };
    totals.failures.push((seed, violation.rule));
    board.failed.fetch_add(1, Ordering::Relaxed);
    if outcome.lines.is_empty() && !verbose && totals.failures.len() <= 3 {
        // Played again for its text: the same seed tells the same story.
        outcome.lines = run_seed(seed, true).lines;
    }
    let tail_lines = if verbose { 400 } else { 40 };
    if let Ok(path) = std::env::var("QUORATE_TRACE")
        && verbose
        && let Err(error) = std::fs::write(&path, outcome.lines.join("\n"))
    {
        println!("{path}: {error}");
    }
    let tail = outcome.lines.len().saturating_sub(tail_lines);
    for line in &outcome.lines[tail..] {
        let line: String = line.chars().take(if verbose { 2_000 } else { 240 }).collect();
        println!("    {line}");
    }
    println!("seed {seed} violates [{}]: {}", violation.rule, violation.detail);
    println!("  plan: {}", Plan::new(seed).summary());
    println!("  replay: {}", replay_command(seed));
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

pub fn main() -> ExitCode {
    if !selected(std::env::args().skip(1)) {
        println!("0 passed, 0 failed");
        return ExitCode::SUCCESS;
    }
    let args = match seeds_from_env() {
        Ok(args) => args,
        Err(text) => {
            println!("{text}");
            return ExitCode::FAILURE;
        }
    };
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

    // The referees are tested before the game: each must notice what was spoilt on purpose.
    let controls: [(&str, fn()); 5] = [
        ("model", model::self_check),
        ("history", history::self_check),
        ("watch", watch::self_check),
        ("black box", wgl::self_check),
        ("programs", workload::self_check),
    ];
    let mut failed = 0;
    for (name, check) in controls {
        if std::panic::catch_unwind(check).is_err() {
            println!("negative control {name} FAILED: {}", take_panic());
            failed += 1;
        }
    }
    failed += usize::from(!canary());

    let started = Instant::now();
    let board = Board {
        seeds: args.seeds,
        next: AtomicUsize::new(0),
        failed: AtomicUsize::new(0),
        stop: AtomicBool::new(false),
        totals: Mutex::new(Totals::default()),
        running: Mutex::new(BTreeMap::new()),
    };
    let (until, verbose) = (args.until, args.verbose);
    std::thread::scope(|scope| {
        let workers: Vec<_> =
            (0..WORKERS).map(|_| scope.spawn(|| work(&board, until, verbose))).collect();
        while !workers.iter().all(|w| w.is_finished()) {
            std::thread::sleep(Duration::from_millis(20));
            let stuck = lock(&board.running)
                .iter()
                .find(|(_, since)| since.elapsed() > SEED_WALL_MAX)
                .map(|(seed, _)| *seed);
            if let Some(seed) = stuck {
                println!("seed {seed} violates [hang]: still running after {SEED_WALL_MAX:?}");
                println!("  replay: {}", replay_command(seed));
                println!("0 passed, 1 failed");
                std::process::exit(1);
            }
        }
    });
    summary(&board, started.elapsed(), failed)
}

/// One run with a spoilt reply in it has to fail, by the right rule: proof that the chain from a
/// member's answer to a red line is whole.
fn canary() -> bool {
    let caught = std::thread::Builder::new()
        .stack_size(STACK_BYTES)
        .spawn(|| {
            let runtime =
                madsim::runtime::Runtime::with_seed_and_config(1, madsim::Config::default());
            runtime.block_on(async { world::play_spoilt(Plan::new(1)) })
        })
        .expect("a thread starts")
        .join();
    match caught {
        Ok(Outcome { violation: Some(v), .. }) if v.rule == "wrong-reply" => true,
        Ok(outcome) => {
            println!("the canary lives: a spoilt reply gave {:?}", outcome.violation);
            false
        }
        Err(_) => {
            println!("the canary's run panicked");
            false
        }
    }
}

fn summary(board: &Board, took: Duration, controls_failed: usize) -> ExitCode {
    let totals = lock(&board.totals);
    let virtual_s = totals.virtual_us as f64 / 1e6;
    let wall_s = took.as_secs_f64().max(1e-3);
    println!(
        "{} seeds in {wall_s:.1}s: {} events, {virtual_s:.0} virtual seconds ({:.0} per second, \
         {:.1} seeds/s), {} calls answered, {} elections, {} restarts, {} snapshots installed, \
         {} seeds played twice",
        totals.seeds,
        totals.events,
        virtual_s / wall_s,
        totals.seeds as f64 / wall_s,
        totals.acked,
        totals.elections,
        totals.restarts,
        totals.snapshots,
        totals.twice
    );
    println!("sampled: {}", totals.checked);
    println!(
        "watched: {} revisions told, {} bookmarks, {} compacted",
        totals.watched.events, totals.watched.bookmarks, totals.watched.compacted
    );
    if (totals.seeds as usize) < board.seeds.len() {
        println!("the time was up: {} of the seeds asked for did not run", {
            board.seeds.len() - totals.seeds as usize
        });
    }
    let faults: Vec<String> = totals
        .faults
        .0
        .iter()
        .map(|(f, c)| format!("{} {}/{}", f.name(), c.mattered, c.fired))
        .collect();
    println!("faults (mattered/fired): {}", faults.join(", "));
    let by_rule: BTreeSet<&str> = totals.failures.iter().map(|f| f.1).collect();
    for rule in by_rule {
        let seeds: Vec<String> =
            totals.failures.iter().filter(|f| f.1 == rule).map(|f| f.0.to_string()).collect();
        println!("violated [{rule}] in {} seeds: {}", seeds.len(), seeds.join(" "));
    }
    let failed = totals.failures.len() + controls_failed;
    println!("{} passed, {failed} failed", totals.seeds as usize - totals.failures.len());
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
