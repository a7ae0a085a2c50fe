//! The crash-point enumerator: one seed again and again, with a crash after effect `k` each time.
//!
//! The seed is played once to list every place between two effects. Then each is played with a
//! crash there and with every outcome of the disk: all un-synced writes kept, none, the latest
//! only, each by chance. Where there are too many, every pair of kinds gets its share first.

use super::board::Board;
use super::failure::{self, Class};
use super::play::play_apart;
use super::{Job, Outcome, Tier, lock};
use crate::effects::{self, Pair, PairCount, Place};
use crate::plan::Seed;
use crate::world::Point;
use quorate::io::mem_disk::CrashMode;
use quorate::types::prng::Prng;
use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const MODES: [CrashMode; 4] =
    [CrashMode::All, CrashMode::None, CrashMode::Random, CrashMode::Reverse];
/// Places of one pair that are played unless all are asked for.
const PLACES_PER_PAIR: usize = 6;

pub fn enumerate(tier: &'static Tier, first: &Job, all: bool) -> ExitCode {
    let started = Instant::now();
    let outcome = play_apart(tier, &Job { places: true, ..first.clone() });
    if let Some(violation) = &outcome.violation {
        failure::print(tier, first, &outcome, violation);
        return ExitCode::FAILURE;
    }
    let chosen = choose(&outcome.places, all);
    println!(
        "seed {}: {} places between effects, {} pairs of kinds; {} places with {} outcomes each",
        first.seed,
        outcome.places.len(),
        outcome.pairs.len(),
        chosen.len(),
        MODES.len()
    );
    let points: Vec<Point> = chosen
        .into_iter()
        .flat_map(|place| MODES.into_iter().map(move |mode| Point { place, mode }))
        .collect();
    let next = AtomicUsize::new(0);
    let sums = Mutex::new((BTreeMap::<Pair, PairCount>::new(), 0_usize, 0_usize));
    let workers = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some(point) = points.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let job = Job { point: Some(*point), ..first.clone() };
                    let outcome: Outcome = play_apart(tier, &job);
                    let mut sums = lock(&sums);
                    sums.1 += usize::from(outcome.point_reached);
                    let pair = sums.0.entry(point.place.pair).or_default();
                    pair.seen += 1;
                    pair.crashed += u64::from(outcome.point_reached);
                    if let Some(violation) = &outcome.violation {
                        sums.2 += 1;
                        println!("crash at {point:?}");
                        if sums.2 <= 3 {
                            failure::print(tier, &job, &outcome, violation);
                        }
                    }
                }
            });
        }
    });
    let (pairs, reached, failed) = sums.into_inner().unwrap_or_default();
    for ((a, b), count) in &pairs {
        println!("  {a} | {b}: {} of {} crashes", count.crashed, count.seen);
    }
    println!("{}", effects::report(&pairs));
    println!(
        "{} runs in {:.0}s, {reached} reached their point",
        points.len(),
        started.elapsed().as_secs_f64()
    );
    println!("{} passed, {failed} failed", points.len() - failed);
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Seeds that are looked through for a missing pair although none of its was seen there.
const OTHERS_MAX: usize = 20;

/// Pairs that chance has not crashed in yet are crashed in on purpose: seeds that ran clean are played
/// again with a crash at a place of such a pair, until every pair has one or the time is up. Those
/// that are known to have such a pair come first.
pub fn fill(board: &Board, budget: Duration) {
    let started = Instant::now();
    let seeds: Vec<Seed> = {
        let totals = lock(&board.totals);
        let missed = totals.pairs.iter().filter(|(_, count)| count.crashed == 0).map(|p| p.0);
        let known = missed.filter_map(|pair| totals.pair_seeds.get(pair)).flatten().cloned();
        let others = totals.clean.iter().map(|number| Seed::new(*number)).take(OTHERS_MAX);
        let mut listed = std::collections::BTreeSet::new();
        known.chain(others).filter(|seed| listed.insert(seed.clone())).collect()
    };
    let next = AtomicUsize::new(0);
    let runs = AtomicUsize::new(0);
    let workers = std::thread::available_parallelism().map_or(2, usize::from);
    let one = |seed: &Seed| {
        let job = Job::new(seed.clone());
        let places = play_apart(board.tier, &Job { places: true, ..job.clone() }).places;
        let mut rng = Prng::stream(seed.number, "fill");
        let mut by_pair: BTreeMap<Pair, Vec<Place>> = BTreeMap::new();
        for place in places {
            by_pair.entry(place.pair).or_default().push(place);
        }
        for (pair, places) in by_pair {
            let hit = lock(&board.totals).pairs.get(&pair).is_some_and(|c| c.crashed > 0);
            if hit || started.elapsed() > budget {
                continue;
            }
            let place = places[rng.below(places.len() as u64) as usize];
            let mode = MODES[rng.below(MODES.len() as u64) as usize];
            let job = Job { point: Some(Point { place, mode }), ..job.clone() };
            let mut outcome = play_apart(board.tier, &job);
            runs.fetch_add(1, Ordering::Relaxed);
            effects::merge(&mut lock(&board.totals).pairs, &outcome.pairs);
            if let Some(violation) = outcome.violation.take() {
                lock(&board.totals).failures.push((seed.clone(), Class::of(&violation)));
                println!("crash at {:?}", job.point);
                failure::print(board.tier, &job, &outcome, &violation);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some(seed) = seeds.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let missing = lock(&board.totals).pairs.values().any(|c| c.crashed == 0);
                    if !missing || started.elapsed() > budget {
                        return;
                    }
                    one(seed);
                }
            });
        }
    });
    println!("{} runs with a crash at a pair that chance had missed", runs.into_inner());
}

/// All places, or of each pair a few, from all over the run.
fn choose(places: &[Place], all: bool) -> Vec<Place> {
    if all {
        return places.to_vec();
    }
    let mut by_pair: BTreeMap<Pair, Vec<Place>> = BTreeMap::new();
    for place in places {
        by_pair.entry(place.pair).or_default().push(*place);
    }
    by_pair
        .into_values()
        .flat_map(|places| {
            let step = places.len().div_ceil(PLACES_PER_PAIR);
            places.into_iter().step_by(step)
        })
        .collect()
}
