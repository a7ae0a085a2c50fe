//! The shrinker: takes decisions off a failing tape for as long as it fails in the same way.
//!
//! Delta debugging, from the coarse to the fine: what lies behind the failure, whole kinds, whole
//! clients and links, a smaller cluster, then halves, quarters and single decisions, then shorter
//! times, then parts under another noise, then two decisions at once. The class of the failure
//! stays fixed: the rule, and for panics the place in the code.
//! Candidates are played on all cores; the first in order that still fails is taken, so that a
//! tape shrinks to the same tape however many cores there are.

use super::failure::{self, Class};
use super::play::play_apart;
use super::{Job, Outcome, Tier};
use crate::plan::Seed;
use crate::tape::{Decision, Fate, Tape};
use crate::text::parts;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Pairs of decisions that are made ready at a time.
const PAIRS_AT_ONCE: usize = 16;

/// Noises that are tried for one part; parts are halves, quarters and so on, down to this.
const NOISES_PER_PART: u64 = 12;
const PARTS_MAX: usize = 16;

struct Search {
    tier: &'static Tier,
    seed: Seed,
    class: Class,
    best: Tape,
    /// When the best one fails.
    end_us: u64,
    deadline: Instant,
    workers: usize,
    runs: u64,
    /// How many other noises have been tried.
    noises: u64,
}

/// Shrinks a seed's failure and writes what is left to a file.
pub fn shrink(tier: &'static Tier, first: &Job, budget: Duration) -> ExitCode {
    let started = Instant::now();
    let outcome = play_apart(tier, &Job { record: true, ..first.clone() });
    let Some(violation) = &outcome.violation else {
        println!("seed {} does not fail: nothing to shrink", first.seed);
        return ExitCode::FAILURE;
    };
    let tape = match (&first.tape, &outcome.tape) {
        (Some(tape), _) => (**tape).clone(),
        (None, Some(tape)) => tape.clone(),
        (None, None) => {
            println!("tier {} keeps no tapes", tier.name);
            return ExitCode::FAILURE;
        }
    };
    let mut search = Search {
        tier,
        seed: first.seed.clone(),
        class: Class::of(violation),
        end_us: outcome.virtual_us,
        best: Tape::default(),
        deadline: started + budget,
        workers: std::thread::available_parallelism().map_or(2, usize::from),
        runs: 1,
        noises: 0,
    };
    println!("seed {} violates [{}], {} decisions", first.seed, search.class, tape.0.len());
    let again = search.play(&tape);
    if !search.fails(&again) {
        println!("its tape does not: {:?}", again.violation.map(|v| v.rule));
        return ExitCode::FAILURE;
    }
    println!(
        "  its tape replays {}",
        if again.trace == outcome.trace { "exactly" } else { "alike" }
    );
    search.best = tape;
    search.run();
    search.finish(started.elapsed())
}

impl Search {
    fn play(&self, tape: &Tape) -> Outcome {
        let tape = Some(Arc::new(tape.clone()));
        play_apart(self.tier, &Job { tape, ..Job::new(self.seed.clone()) })
    }

    fn fails(&self, outcome: &Outcome) -> bool {
        outcome.violation.as_ref().is_some_and(|v| Class::of(v) == self.class)
    }

    fn late(&self) -> bool {
        Instant::now() > self.deadline
    }

    /// Plays candidates until one fails as it should, and takes the first such.
    fn take(&mut self, candidates: Vec<Tape>) -> Option<usize> {
        for (batch, tapes) in candidates.chunks(self.workers).enumerate() {
            if self.late() {
                return None;
            }
            self.runs += tapes.len() as u64;
            let me = &*self;
            let outcomes: Vec<Outcome> = std::thread::scope(|scope| {
                let threads: Vec<_> =
                    tapes.iter().map(|tape| scope.spawn(move || me.play(tape))).collect();
                threads.into_iter().map(|t| t.join().expect("panics are caught inside")).collect()
            });
            if let Some(hit) = outcomes.iter().position(|o| self.fails(o)) {
                self.end_us = outcomes[hit].virtual_us;
                self.best = tapes[hit].clone();
                return Some(batch * self.workers + hit);
            }
        }
        None
    }

    fn run(&mut self) {
        self.cut_behind();
        loop {
            let before = (self.best.clone(), self.end_us);
            self.drop_kinds();
            self.smaller_plan();
            for kind in [is_message, is_act, is_call] {
                self.drop_chunks(kind);
            }
            self.shorter_times();
            self.cut_behind();
            println!(
                "  {} events after {} runs, fails at {:.3}s",
                self.best.events(),
                self.runs,
                self.end_us as f64 / 1e6
            );
            if self.late() {
                return;
            }
            let stuck = before == (self.best.clone(), self.end_us);
            if stuck && !self.drop_under_other_noise() && !self.drop_pairs() {
                return;
            }
        }
    }

    /// A part of the tape, if what no line decides (delays, the order of things) may be drawn anew.
    /// In a chain of elections every link is needed, because all that follows hangs on it; but often
    /// a shorter chain does as well, with another noise.
    fn drop_under_other_noise(&mut self) -> bool {
        let events = self.best.events();
        let mut parts = 2;
        while parts <= PARTS_MAX.min(events) && !self.late() {
            let size = events.div_ceil(parts);
            for first in (0..events).step_by(size) {
                let gone: Vec<usize> = (first..events.min(first + size)).collect();
                let less = self.without_events(&gone);
                let noises = self.noises + 1..=self.noises + NOISES_PER_PART;
                self.noises += NOISES_PER_PART;
                if self.take(noises.map(|n| with_noise(&less, n)).collect()).is_some() {
                    return true;
                }
            }
            parts *= 2;
        }
        false
    }

    /// Two decisions at once: a crash and its restart, a call and the message that delays it.
    /// Neighbours in time first. Whether any pair could go.
    fn drop_pairs(&mut self) -> bool {
        let mut any = false;
        let mut apart = 1;
        while apart < self.best.events() {
            let mut first = 0;
            while first + apart < self.best.events() && !self.late() {
                let last = self.best.events() - apart;
                let tapes: Vec<Tape> = (first..last)
                    .take(PAIRS_AT_ONCE)
                    .map(|first| self.without_events(&[first, first + apart]))
                    .collect();
                let tried = tapes.len();
                match self.take(tapes) {
                    Some(hit) => {
                        any = true;
                        first += hit;
                    }
                    None => first += tried,
                }
            }
            apart += 1;
        }
        any
    }

    /// Without these events, counted in the order of time.
    fn without_events(&self, gone: &[usize]) -> Tape {
        let events = self.best.0.iter().enumerate().filter(|(_, d)| time_of(d).is_some());
        let mut in_time: Vec<(Option<u64>, usize)> =
            events.map(|(place, d)| (time_of(d), place)).collect();
        in_time.sort_unstable();
        let gone: Vec<usize> = gone.iter().map(|event| in_time[*event].1).collect();
        let kept = self.best.0.iter().enumerate().filter(|(place, _)| !gone.contains(place));
        Tape(kept.map(|(_, d)| d.clone()).collect())
    }

    fn without(&self, mut gone: impl FnMut(&Decision) -> bool) -> Tape {
        Tape(self.best.0.iter().filter(|d| !gone(d)).cloned().collect())
    }

    /// What is decided behind the failure decides nothing.
    fn cut_behind(&mut self) {
        let end = self.end_us;
        let cut = self.without(|d| time_of(d).is_some_and(|at| at > end));
        if cut != self.best {
            self.take(vec![cut]);
        }
    }

    /// Whole kinds at once: all lost messages, one client, every act of a name.
    fn drop_kinds(&mut self) {
        let mut kinds: Vec<String> = self.best.0.iter().flat_map(kinds_of).collect();
        kinds.sort();
        kinds.dedup();
        for kind in kinds {
            let less = self.without(|d| kinds_of(d).contains(&kind));
            if less != self.best {
                self.take(vec![less]);
            }
        }
    }

    /// Fewer members, groups, clients and faults; a calmer network; an earlier end.
    fn smaller_plan(&mut self) {
        let end_us = self.end_us;
        let fields: Vec<(usize, String, String)> = self
            .best
            .0
            .iter()
            .enumerate()
            .filter_map(|(at, d)| match d {
                Decision::Plan { field, value } => Some((at, field.clone(), value.clone())),
                _ => None,
            })
            .collect();
        for (at, field, value) in fields {
            let candidates = simpler(&field, &value, end_us)
                .into_iter()
                .filter(|simple| *simple != value)
                .map(|simple| {
                    let mut tape = self.best.clone();
                    tape.0[at] = Decision::Plan { field: field.clone(), value: simple };
                    tape
                })
                .collect();
            self.take(candidates);
        }
    }

    /// Delta debugging over the decisions of one kind.
    fn drop_chunks(&mut self, kind: fn(&Decision) -> bool) {
        let count = |tape: &Tape| tape.0.iter().filter(|d| kind(d)).count();
        let mut size = count(&self.best);
        while size > 0 {
            let mut from = 0;
            while from < count(&self.best) && !self.late() {
                // As many neighbouring chunks at once as there are cores.
                let starts: Vec<usize> = (0..self.workers)
                    .map(|w| from + w * size)
                    .filter(|start| *start < count(&self.best))
                    .collect();
                let tapes = starts.iter().map(|start| {
                    let mut nth = 0;
                    self.without(|d| {
                        if !kind(d) {
                            return false;
                        }
                        nth += 1;
                        (*start..*start + size).contains(&(nth - 1))
                    })
                });
                let tapes = tapes.collect();
                match self.take(tapes) {
                    // What came before the chunk is needed, what comes behind is untried.
                    Some(hit) => from = starts[hit],
                    None => from += size * self.workers,
                }
            }
            size = if size == 1 { 0 } else { size.div_ceil(2) };
        }
    }

    /// Shorter pauses, outages and delays, each as short as it goes.
    fn shorter_times(&mut self) {
        let mut at = 0;
        while at < self.best.0.len() {
            let candidates: Vec<Tape> = shorter(&self.best.0[at])
                .into_iter()
                .map(|decision| {
                    let mut tape = self.best.clone();
                    tape.0[at] = decision;
                    tape
                })
                .collect();
            if self.late() || candidates.is_empty() || self.take(candidates).is_none() {
                at += 1;
            }
        }
    }

    fn finish(self, took: Duration) -> ExitCode {
        let name = self.seed.to_string().replace(['/', ':'], "-");
        // Not there where cargo builds elsewhere.
        let folder = format!("{}/target", env!("CARGO_MANIFEST_DIR"));
        let path = format!("{folder}/seed-{name}.tape");
        let text = format!(
            "# seed {} shrunk on commit {}: [{}]\n{}",
            self.seed,
            failure::commit(),
            self.class,
            self.best
        );
        let written = std::fs::create_dir_all(&folder).and_then(|()| std::fs::write(&path, &text));
        if let Err(error) = written {
            println!("{path}: {error}");
        }
        for decision in self.best.0.iter().filter(|d| !matches!(d, Decision::Plan { .. })) {
            println!("    {decision}");
        }
        println!(
            "shrunk to {} events in {:.0}s and {} runs: {path}",
            self.best.events(),
            took.as_secs_f64(),
            self.runs
        );
        println!("  replay: QUORATE_TAPE={path} {}", failure::cargo_test());
        ExitCode::SUCCESS
    }
}

/// The same decisions under the noise of that number.
fn with_noise(tape: &Tape, number: u64) -> Tape {
    let renamed = |decision: &Decision| match decision {
        Decision::Plan { field, value } if field == "name" => {
            let mut name: Seed = value.parse().expect("a tape's plan has the name of a seed");
            name.redrawn.retain(|(part, _)| part != "noise");
            name.redrawn.push(("noise".to_owned(), number));
            Decision::Plan { field: field.clone(), value: name.to_string() }
        }
        other => other.clone(),
    };
    Tape(tape.0.iter().map(renamed).collect())
}

fn is_message(d: &Decision) -> bool {
    matches!(d, Decision::Message { .. })
}
fn is_act(d: &Decision) -> bool {
    matches!(d, Decision::Act { .. })
}
fn is_call(d: &Decision) -> bool {
    matches!(d, Decision::Call(_))
}

fn time_of(d: &Decision) -> Option<u64> {
    match d {
        Decision::Plan { .. } => None,
        Decision::Act { at_us, .. } => Some(*at_us),
        Decision::Call(call) => Some(call.at_us),
        Decision::Message { at, .. } => Some(at.0),
    }
}

/// The groups that a decision can go with, the widest first in the order of names.
fn kinds_of(d: &Decision) -> Vec<String> {
    match d {
        Decision::Plan { .. } => Vec::new(),
        Decision::Act { text, .. } => {
            let name = parts(text).map_or("", |p| p.0);
            vec!["1 acts".to_owned(), format!("2 act {name}")]
        }
        Decision::Call(call) => {
            vec![
                "1 calls".to_owned(),
                format!("3 client {}", call.client),
                format!("4 group {}", call.group),
            ]
        }
        Decision::Message { link, fate, .. } => {
            let fate = match fate {
                Fate::Drop => "drop",
                Fate::Duplicate => "duplicate",
                Fate::Replay(_) => "replay",
                Fate::Turn(_) => "turn",
                Fate::Late(_) => "late",
            };
            vec![
                "0 messages".to_owned(),
                format!("2 {fate}"),
                format!("3 link {}>{}", link.0, link.1),
            ]
        }
    }
}

/// Simpler values for a field of the plan, the simplest first.
fn simpler(field: &str, value: &str, end_us: u64) -> Vec<String> {
    let texts = |list: &[u64]| {
        let now: u64 = value.parse().unwrap_or(0);
        list.iter().filter(|n| **n < now).map(|n| n.to_string()).collect()
    };
    match field {
        "members" => texts(&[1, 2, 3, 5]),
        "groups" => texts(&[1, 2]),
        "key_stem_bytes" => texts(&[0]),
        "clients" => texts(&[1, 2, 3]),
        "turn_us" | "sync_us" | "apply_us" | "write_us" => texts(&[1]),
        // The end of the disturbances, if the failure needs the end; else only what is behind it.
        "chaos_us" => texts(&[1_000_000, 2_000_000, 4_000_000, end_us.saturating_add(1)]),
        "faults" => {
            let on = value.match_indices(": true");
            on.map(|(at, _)| {
                let (before, after) = value.split_at(at);
                format!("{before}: false{}", &after[": true".len()..])
            })
            .collect()
        }
        _ => Vec::new(),
    }
}

/// The same with less time in it.
fn shorter(d: &Decision) -> Vec<Decision> {
    const LEAST_US: u64 = 2_000;
    let less = |us: u64| [us / 8, us / 2].into_iter().filter(|us| *us >= LEAST_US);
    match d {
        Decision::Act { at_us, word, text } => {
            let Some((_, fields)) = parts(text) else { return Vec::new() };
            let times = fields.iter().filter(|(name, _)| name.ends_with("_us"));
            times
                .flat_map(|(name, value)| {
                    let us = value.parse().unwrap_or(0);
                    less(us).map(move |us| {
                        text.replace(&format!("{name}: {value}"), &format!("{name}: {us}"))
                    })
                })
                .map(|text| Decision::Act { at_us: *at_us, word: *word, text })
                .collect()
        }
        Decision::Message { at, link, fate } => {
            let fates: Vec<Fate> = match fate {
                Fate::Late(us) => less(*us).map(Fate::Late).collect(),
                Fate::Replay(us) => less(*us).map(Fate::Replay).collect(),
                Fate::Turn(us) => less(*us).map(Fate::Turn).collect(),
                _ => Vec::new(),
            };
            fates.into_iter().map(|fate| Decision::Message { at: *at, link: *link, fate }).collect()
        }
        _ => Vec::new(),
    }
}
