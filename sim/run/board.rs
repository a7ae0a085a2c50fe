//! The workers' common board: the seeds still to play, who plays what, and the sums.

use super::args::{Args, Mode, Seeds, regressions};
use super::corpus::Corpus;
use super::failure::{self, Class};
use super::ledger::{self, Entered};
use super::play::play_apart;
use super::{Job, Outcome, Tier, lock, tell};
use crate::coverage;
use crate::effects::{self, Pair, PairCount};
use crate::faults::Counters;
use crate::plan::Seed;
use crate::rules::control::control;
use crate::safety::{Checked, Violation, ensure, rule};
use crate::tape::Tape;
use crate::watch::Heard;
use crate::world::Sampled;
use quorate::types::map::Map;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// No seed takes this long unless something hangs.
const SEED_WALL_MAX: Duration = Duration::from_secs(90);
/// One seed in this many is played again on another thread and in another process, besides the
/// first few.
const TWICE_ONE_IN: u64 = 20;
const TWICE_FIRST: u64 = 5;
/// Seeds that are remembered for each pair of effects.
const PAIR_SEEDS_MAX: usize = 4;

pub struct Board {
    pub tier: &'static Tier,
    pub verbose: bool,
    /// The file that the story is wanted in.
    trace: Option<String>,
    tape: Option<Arc<Tape>>,
    child: bool,
    started: Instant,
    core_s_before: f64,
    budget: Duration,
    /// The line of this run, if it is a night's.
    ledger: Option<Mutex<Entered>>,
    source: Mutex<Source>,
    pub totals: Mutex<Totals>,
    running: Mutex<BTreeMap<Seed, Instant>>,
}

struct Source {
    seeds: Box<dyn Iterator<Item = Seed> + Send>,
    /// In long runs: seeds that have reached rare states, to be played with one stream redrawn.
    corpus: Option<Corpus>,
    taken: u64,
    /// The end was reached; otherwise it was the time that ended the run.
    dry: bool,
}

#[derive(Default)]
pub struct Totals {
    pub seeds: u64,
    pub took: Duration,
    /// Seconds of processor time, of all threads.
    pub core_s: f64,
    pub events: u64,
    pub virtual_us: u64,
    /// The same, seeds that were played twice counted so: what the processor's time was spent on.
    pub played_events: u64,
    pub played_us: u64,
    pub acked: u64,
    pub elections: u64,
    pub restarts: u64,
    pub snapshots: u64,
    pub watched: Heard,
    pub checked: Sampled,
    /// Hashes of the seeds that are to be the same elsewhere.
    pub twice: BTreeMap<Seed, (u64, u64)>,
    pub faults: Counters,
    pub pairs: BTreeMap<Pair, PairCount>,
    /// Some clean seeds in which each pair occurs.
    pub pair_seeds: BTreeMap<Pair, Vec<Seed>>,
    /// In how many seeds each abstract state was reached.
    pub states: Map<u64, u32>,
    pub probes: BTreeMap<&'static str, u64>,
    pub failures: Vec<(Seed, Class)>,
    /// Seeds that reached a state no seed before them had, and seeds derived from those.
    pub fruitful: u64,
    pub derived: u64,
    /// Plain seeds without a finding.
    pub clean: Vec<u64>,
    /// Clean ones besides, that were drawn from seeds.
    pub clean_derived: u64,
}

impl Board {
    pub fn new(tier: &'static Tier, args: &Args) -> Board {
        let plain = |range: std::ops::Range<u64>| range.map(Seed::new);
        let seeds: Box<dyn Iterator<Item = Seed> + Send> = match &args.seeds {
            Seeds::Default => {
                Box::new(regressions(tier.name).into_iter().chain(plain(tier.seeds.clone())))
            }
            Seeds::List(list) => Box::new(list.clone().into_iter()),
            Seeds::Range(range) => Box::new(plain(range.clone())),
            Seeds::Endless(from) => {
                let from = if args.mode == Mode::Nightly {
                    ledger::next_seed(tier.name, *from)
                } else {
                    *from
                };
                Box::new(regressions(tier.name).into_iter().chain(plain(from..u64::MAX)))
            }
        };
        let long = matches!(args.seeds, Seeds::Endless(_)) && !args.child;
        let corpus = long.then(Corpus::default);
        Board {
            tier,
            verbose: args.verbose,
            trace: args.trace.clone(),
            tape: args.tape.clone(),
            child: args.child,
            started: Instant::now(),
            core_s_before: core_seconds(),
            budget: args.budget_of(tier),
            ledger: (args.mode == Mode::Nightly).then(Mutex::default),
            source: Mutex::new(Source { seeds, corpus, taken: 0, dry: false }),
            totals: Mutex::new(Totals::default()),
            running: Mutex::new(BTreeMap::new()),
        }
    }

    /// Plays everything that is asked for, on all cores.
    pub fn play(&self) {
        let workers = std::thread::available_parallelism().map_or(2, usize::from);
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..workers).map(|_| scope.spawn(|| self.work())).collect();
            while !workers.iter().all(|w| w.is_finished()) {
                std::thread::sleep(Duration::from_millis(20));
                self.watch();
                if self.ledger.as_ref().is_some_and(|line| lock(line).is_due()) {
                    self.enter_in_ledger();
                }
            }
        });
        let mut totals = lock(&self.totals);
        totals.took = self.started.elapsed();
        totals.core_s = core_seconds() - self.core_s_before;
    }

    fn watch(&self) {
        let stuck = lock(&self.running)
            .iter()
            .find(|(_, since)| since.elapsed() > SEED_WALL_MAX)
            .map(|(seed, _)| seed.clone());
        if let Some(seed) = stuck {
            let detail = format!("still running after {SEED_WALL_MAX:?}");
            let violation = Violation { rule: rule!("hang"), detail };
            lock(&self.totals).failures.push((seed.clone(), Class::of(&violation)));
            // What ran before it did run.
            self.enter_in_ledger();
            failure::print(self.tier, &Job::new(seed), &Outcome::default(), &violation);
            println!("0 passed, 1 failed");
            std::process::exit(1);
        }
    }

    /// What was played so far, in place of what was entered before.
    pub fn enter_in_ledger(&self) {
        if let Some(line) = &self.ledger {
            let totals = lock(&self.totals);
            if let Err(error) = lock(line).enter(self.tier.name, &totals) {
                println!("{}: {error}", ledger::PATH);
            }
        }
    }

    fn take(&self) -> Option<(u64, Seed)> {
        if self.started.elapsed() > self.budget {
            return None;
        }
        let mut source = lock(&self.source);
        if let Some(seed) = source.corpus.as_mut().and_then(Corpus::next) {
            source.taken += 1;
            return Some((source.taken, seed));
        }
        let Some(seed) = source.seeds.next() else {
            source.dry = true;
            return None;
        };
        source.taken += 1;
        Some((source.taken, seed))
    }

    fn work(&self) {
        while let Some((nth, seed)) = self.take() {
            lock(&self.running).insert(seed.clone(), Instant::now());
            let tape = self.tape.clone();
            let first = nth <= TWICE_FIRST;
            let twice = first || self.verbose || seed.number.is_multiple_of(TWICE_ONE_IN);
            let twice = twice && !self.child;
            let record = twice && tape.is_none();
            let job = Job { verbose: self.verbose, record, tape, ..Job::new(seed.clone()) };
            let mut outcome = play_apart(self.tier, &job);
            let twice = twice && outcome.violation.is_none();
            if twice {
                // What was decided in the first is what the second is told: tapes are complete.
                let tape = job.tape.clone().or_else(|| outcome.tape.clone().map(Arc::new));
                let again = play_apart(self.tier, &Job { tape, ..Job::new(seed.clone()) });
                outcome.violation = compared(&outcome, again.trace, again.events).err();
            }
            lock(&self.running).remove(&seed);
            self.report(&job, outcome, twice);
        }
    }

    pub fn report(&self, job: &Job, mut outcome: Outcome, twice: bool) {
        let violation = outcome.violation.take();
        let failed = violation.is_some();
        let failures_before = {
            let mut totals = lock(&self.totals);
            let failures_before = totals.failures.len();
            let fresh = totals.add(job, &outcome, violation.as_ref(), twice);
            if let Some(corpus) = &mut lock(&self.source).corpus {
                corpus.heard(&job.seed, fresh);
            }
            failures_before
        };
        println!(
            "seed {} trace {:016x} events {} virtual {:.1}s acked {} elections {} restarts {} \
             snapshots {} faults {}{}",
            job.seed,
            outcome.trace,
            outcome.events,
            outcome.virtual_us as f64 / 1e6,
            outcome.acked,
            outcome.elections,
            outcome.restarts,
            outcome.snapshots,
            outcome.faults.total(),
            if failed { " FAILED" } else { "" }
        );
        if let (Some(tape), Ok(path)) = (&outcome.tape, std::env::var("QUORATE_RECORD"))
            && let Err(error) = std::fs::write(&path, tape.to_string())
        {
            println!("{path}: {error}");
        }
        if failed && outcome.lines.is_empty() && !job.verbose && failures_before < 3 {
            // Played again for its story: the same seed tells the same one.
            let again = play_apart(self.tier, &Job { verbose: true, ..job.clone() });
            (outcome.lines, outcome.told) = (again.lines, again.told);
        }
        // Of many seeds the first that fails is the one to look at.
        if let Some(path) = &self.trace
            && (job.verbose || failed && failures_before == 0)
        {
            tell::write(path, self.tier, job, &outcome, violation.as_ref());
        }
        let Some(violation) = violation else { return };
        failure::print(self.tier, job, &outcome, &violation);
    }

    /// Many seeds, none of them looked at closely.
    pub fn is_whole_run(&self) -> bool {
        !self.verbose && !self.child && lock(&self.totals).seeds >= 200
    }
    pub fn plays_a_tape(&self) -> bool {
        self.tape.is_some()
    }
    pub fn failed(&self) -> usize {
        lock(&self.totals).failures.len()
    }
    pub fn passed(&self) -> usize {
        let totals = lock(&self.totals);
        totals.seeds as usize - totals.failures.len().min(totals.seeds as usize)
    }

    pub fn summary(&self) {
        let totals = lock(&self.totals);
        let virtual_s = totals.virtual_us as f64 / 1e6;
        let wall_s = totals.took.as_secs_f64().max(1e-3);
        println!(
            "tier {}: {} seeds in {wall_s:.1}s: {} events, {virtual_s:.0} virtual seconds ({:.0} \
             per second, {:.1} seeds/s, {:.0} events/s), {} calls answered, {} elections, {} \
             restarts, {} snapshots installed, {} seeds played twice",
            self.tier.name,
            totals.seeds,
            totals.events,
            virtual_s / wall_s,
            totals.seeds as f64 / wall_s,
            totals.events as f64 / wall_s,
            totals.acked,
            totals.elections,
            totals.restarts,
            totals.snapshots,
            totals.twice.len()
        );
        println!("watched: {}", totals.watched);
        println!("sampled: {}", totals.checked);
        println!(
            "{:.0} virtual seconds per core second, {:.0} events per core second",
            totals.played_us as f64 / 1e6 / totals.core_s.max(1e-3),
            totals.played_events as f64 / totals.core_s.max(1e-3)
        );
        if !lock(&self.source).dry {
            println!("the time was up before all the seeds that were asked for had run");
        }
        let faults: Vec<String> = totals
            .faults
            .0
            .iter()
            .map(|(f, c)| format!("{} {}/{}", f.name(), c.mattered, c.fired))
            .collect();
        println!("faults (mattered/fired): {}", faults.join(", "));
        // Whole servers are not taken apart so far.
        if !totals.states.is_empty() {
            println!("{}", effects::report(&totals.pairs));
            println!(
                "abstract states: {} reached, {} of them by one seed only; {} seeds brought new ones, {} \
                 seeds were drawn from such",
                totals.states.len(),
                totals.states.values().filter(|n| **n == 1).count(),
                totals.fruitful,
                totals.derived
            );
            let unreached = coverage::unreached(&totals.probes);
            if !unreached.is_empty() {
                println!("not reached: {}", unreached.join(" "));
            }
        }
        let mut classes: BTreeMap<&Class, Vec<String>> = BTreeMap::new();
        for (seed, class) in &totals.failures {
            classes.entry(class).or_default().push(seed.to_string());
        }
        for (class, seeds) in classes {
            println!("violated [{class}] in {} seeds: {}", seeds.len(), seeds.join(" "));
        }
    }
}

/// Processor time of this process so far: the machine may have other things to do.
fn core_seconds() -> f64 {
    const TICKS_PER_S: f64 = 100.0;
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let words: Vec<&str> = after_name.split_whitespace().collect();
    // Fields 14 and 15 of the line, user and system.
    let ticks = |at: usize| words.get(at).and_then(|w| w.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) / TICKS_PER_S
}

impl Totals {
    fn add(
        &mut self,
        job: &Job,
        outcome: &Outcome,
        violation: Option<&Violation>,
        twice: bool,
    ) -> u64 {
        self.seeds += 1;
        let mut fresh = 0;
        for state in &outcome.states {
            let count = self.states.entry(*state).or_insert(0);
            fresh += u64::from(*count == 0);
            *count += 1;
        }
        self.fruitful += u64::from(fresh > 0);
        self.derived += u64::from(!job.seed.is_plain());
        self.events += outcome.events;
        self.virtual_us += outcome.virtual_us;
        let plays = 1 + u64::from(twice);
        self.played_events += outcome.events * plays;
        self.played_us += outcome.virtual_us * plays;
        self.acked += outcome.acked;
        self.elections += outcome.elections;
        self.restarts += outcome.restarts;
        self.snapshots += outcome.snapshots;
        self.watched.add(outcome.watched);
        self.checked.add(outcome.checked);
        self.faults.merge(&outcome.faults);
        effects::merge(&mut self.pairs, &outcome.pairs);
        if violation.is_none() {
            for pair in outcome.pairs.iter().filter(|(_, count)| count.seen > 0).map(|p| *p.0) {
                let seeds = self.pair_seeds.entry(pair).or_default();
                if seeds.len() < PAIR_SEEDS_MAX {
                    seeds.push(job.seed.clone());
                }
            }
        }
        for (name, count) in &outcome.probes {
            *self.probes.entry(name).or_default() += count;
        }
        if twice && violation.is_none() {
            self.twice.insert(job.seed.clone(), (outcome.trace, outcome.events));
        }
        match violation {
            Some(violation) => self.failures.push((job.seed.clone(), Class::of(violation))),
            None if job.seed.is_plain() => self.clean.push(job.seed.number),
            None => self.clean_derived += 1,
        }
        fresh
    }
}

/// A history that was played again is the same.
pub fn compared(outcome: &Outcome, trace: u64, events: u64) -> Checked {
    ensure!(
        (outcome.trace, outcome.events) == (trace, events),
        "determinism",
        "two runs differ: trace {:016x} of {} events, then {trace:016x} of {events}",
        outcome.trace,
        outcome.events
    );
    Ok(())
}

/// Negative control.
pub fn self_check() {
    control("determinism", |spoilt| {
        compared(&Outcome { trace: 7, ..Outcome::default() }, 7 + u64::from(spoilt), 0)
    });
}
