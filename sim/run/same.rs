//! One seed, one history: compared over threads and over processes.
//!
//! Another process has other addresses, other hasher keys and another environment: what leaks
//! from any of them into a history shows as another hash.

use super::args::{Args, Seeds};
use super::board::{Board, compared};
use super::failure::replay_command;
use super::play::play_apart;
use super::{Job, Outcome, Tier, lock};
use crate::plan::Seed;
use std::collections::BTreeMap;
use std::process::{Command, ExitCode, Stdio};

/// The trace's hash and the number of events.
type History = (u64, u64);

/// Seeds that one other process plays; more would say no more.
const PROCESS_SEEDS_MAX: usize = 64;

/// Plays seeds in another process of this same program: what its lines say, in their order.
fn elsewhere(tier: &Tier, seeds: &[&Seed]) -> Result<Vec<(Seed, History)>, String> {
    let exe = std::env::current_exe().map_err(|e| format!("no path to this program: {e}"))?;
    let list: Vec<String> = seeds.iter().map(|s| s.to_string()).collect();
    let mut command = Command::new(exe);
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("QUORATE_")) {
        command.env_remove(name);
    }
    let out = command
        .env("QUORATE_CHILD", "1")
        .env("QUORATE_TIER", tier.name)
        .env("QUORATE_SEEDS", list.join(","))
        // The environment lies at the top of the stack: other addresses for everything.
        .env("QUORATE_NOISE", "x".repeat(4_000))
        .stderr(Stdio::inherit())
        .output()
        .map_err(|e| format!("another process does not start: {e}"))?;
    let mut found = Vec::new();
    for line in String::from_utf8_lossy(&out.stdout).lines() {
        let words: Vec<&str> = line.split(' ').collect();
        if let ["seed", seed, "trace", trace, "events", events, ..] = words[..]
            && let (Ok(seed), Ok(trace), Ok(events)) =
                (seed.parse(), u64::from_str_radix(trace, 16), events.parse())
        {
            found.push((seed, (trace, events)));
        }
    }
    Ok(found)
}

/// Plays what was played twice a third time, in another process.
pub fn compare_processes(board: &Board) {
    let twice = lock(&board.totals).twice.clone();
    if twice.is_empty() || board.plays_a_tape() {
        return;
    }
    let step = twice.len().div_ceil(PROCESS_SEEDS_MAX);
    let seeds: Vec<&Seed> = twice.keys().step_by(step).collect();
    let there: BTreeMap<Seed, History> = match elsewhere(board.tier, &seeds) {
        Ok(found) => found.into_iter().collect(),
        Err(text) => {
            println!("{text}");
            BTreeMap::new()
        }
    };
    let mut equal = 0;
    for seed in seeds {
        let here = twice[seed];
        let other = there.get(seed).copied().unwrap_or_default();
        if here == other {
            equal += 1;
            continue;
        }
        let outcome = Outcome { trace: here.0, events: here.1, ..Outcome::default() };
        let Err(violation) = compared(&outcome, other.0, other.1) else { continue };
        println!("in another process: {}", violation.detail);
        let outcome = Outcome { violation: Some(violation), ..outcome };
        board.report(&Job::new(seed.clone()), outcome, false);
    }
    println!("{equal} seeds gave the same trace in another process");
}

/// Plays one seed so many times, half of them in other processes, and says whether all agree.
pub fn compare_many(args: &Args, times: u64) -> ExitCode {
    let Seeds::List(list) = &args.seeds else {
        println!("QUORATE_SAME needs QUORATE_SEED");
        return ExitCode::FAILURE;
    };
    let (tier, seed) = (args.tiers[0], &list[0]);
    let processes = times.div_ceil(10);
    let per_process = (times / 2).div_ceil(processes);
    let mut hashes: BTreeMap<History, u64> = BTreeMap::new();
    for _ in 0..processes {
        let batch: Vec<&Seed> = (0..per_process).map(|_| seed).collect();
        match elsewhere(tier, &batch) {
            Ok(found) => found.into_iter().for_each(|(_, h)| *hashes.entry(h).or_default() += 1),
            Err(text) => println!("{text}"),
        }
    }
    let workers = std::thread::available_parallelism().map_or(2, usize::from) as u64;
    let here = times - processes * per_process;
    let done: Vec<History> = std::thread::scope(|scope| {
        let share = |w: u64| here / workers + u64::from(w < here % workers);
        let threads: Vec<_> = (0..workers)
            .map(|w| {
                scope.spawn(move || {
                    (0..share(w))
                        .map(|_| {
                            let outcome = play_apart(tier, &Job::new(seed.clone()));
                            (outcome.trace, outcome.events)
                        })
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        threads.into_iter().flat_map(|t| t.join().expect("panics are caught inside")).collect()
    });
    done.into_iter().for_each(|hash| *hashes.entry(hash).or_default() += 1);
    let runs: u64 = hashes.values().sum();
    for ((trace, events), count) in &hashes {
        println!("seed {seed} trace {trace:016x} events {events}: {count} times of {runs}");
    }
    println!(
        "{here} on threads of this process, {} in {processes} other processes",
        processes * per_process
    );
    let same = hashes.len() == 1 && runs == times;
    println!("{} passed, {} failed", u64::from(same), u64::from(!same));
    if !same {
        println!("FAILED rule [determinism] replay: {}", replay_command(tier, seed));
    }
    if same { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
