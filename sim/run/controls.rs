//! Negative controls: what was spoilt on purpose must be noticed, by the right rule.

use super::play::apart;
use super::{Job, Outcome, board, ledger, world};
use crate::faults::Fault;
use crate::plan::{Plan, Seed};
use crate::rules::Control;
use crate::rules::control::{caught, never_noticed};
use crate::trace::html;
use crate::{committed, history, model, rules, safety, tape, tier2, votes, watch, wgl, workload};
use std::collections::BTreeSet;

/// A seed of whole servers that is over soon.
const SERVERS_SEED: u64 = 3;

/// The referees' own tests. To add one: a function that panics when its referee is blind.
const CONTROLS: &[(&str, fn())] = &[
    ("model", model::self_check),
    ("history", history::self_check),
    ("tape", tape::self_check),
    ("watch", watch::self_check),
    ("black box", wgl::self_check),
    ("programs", workload::self_check),
    ("votes", votes::self_check),
    ("members' promises", safety::self_check),
    ("committed", committed::self_check),
    ("picture", html::self_check),
    ("ledger", ledger::self_check),
    ("same history", board::self_check),
    ("whole servers", tier2::self_check),
    ("tables of SIMULATION.md", tables),
    ("canary", canary),
];

/// Those that take seconds are part of whole runs only.
const LONG: &[(&str, fn())] = &[("whole members", world::self_check)];

/// A run's name, the rule that has to end it, and the run.
type Canary = (&'static str, &'static str, fn() -> Outcome);

/// Runs that are spoilt on purpose, with the rule that has to end them: what `rules` names.
const CANARIES: &[Canary] = &[
    ("panic", "panic", member_canary),
    ("endless server", "hang", server_canary),
    ("deaf watchers", "watch-silent", server_canary),
    ("a server that does not stop", "stop-hangs", server_canary),
];

/// Runs the controls and says how many failed; `whole` with all of them.
pub fn run(whole: bool) -> usize {
    let mut failed = 0;
    let long = LONG.iter().filter(|_| whole);
    for (name, check) in CONTROLS.iter().chain(long) {
        failed += usize::from(!passes(name, *check));
    }
    for (name, rule, play) in CANARIES.iter().filter(|_| whole) {
        let notice =
            move || caught(rule, || rules::spoilt(rule, play).violation.map_or(Ok(()), Err));
        failed += usize::from(!passes(name, notice));
    }
    failed + usize::from(whole && !passes("every rule has a control", nothing_sleeps))
}

fn passes(name: &str, check: impl FnOnce() + Send + 'static) -> bool {
    let said = apart(check).err();
    if let Some(said) = &said {
        println!("negative control {name} FAILED: {said}");
    }
    said.is_none()
}

/// What was never seen to notice anything may be asleep.
fn nothing_sleeps() {
    for rule in rules::ALL {
        if let Control::Canary(name) = rule.control {
            let there = CANARIES.iter().any(|(canary, of, _)| (*canary, *of) == (name, rule.id));
            assert!(there, "[{}]: there is no canary {name:?} of it", rule.id);
        }
        assert!(!rule.meaning.is_empty(), "[{}] says nothing", rule.id);
    }
    let asleep = never_noticed();
    assert!(asleep.is_empty(), "rules without a control: {}", asleep.join(" "));
}

fn member_canary() -> Outcome {
    let runtime = madsim::runtime::Runtime::with_seed_and_config(1, madsim::Config::default());
    runtime.block_on(async { world::play(Plan::new(1), &Job::default()) })
}

fn server_canary() -> Outcome {
    let job = Job::new(Seed::new(SERVERS_SEED));
    let config = madsim::Config::default();
    let runtime = madsim::runtime::Runtime::with_seed_and_config(job.seed.number, config);
    runtime.block_on(tier2::play(job))
}

/// Every fault and every rule has its row in SIMULATION.md, and every row is of one.
fn tables() {
    let text = include_str!("../../SIMULATION.md");
    let faults: BTreeSet<&str> = Fault::ALL.iter().map(|fault| fault.name()).collect();
    let rules: BTreeSet<&str> = rules::ALL.iter().map(|rule| rule.id).collect();
    let mut said = Vec::new();
    for (section, listed) in [("Faults", faults), ("Checkers", rules)] {
        let told = first_cells(text, section);
        let without = listed.difference(&told).map(|id| format!("no row of {id} in {section}"));
        let unknown = told.difference(&listed).map(|id| format!("{id} in {section} is nothing"));
        said.extend(without.chain(unknown));
    }
    assert!(said.is_empty(), "{}", said.join("; "));
}

/// What stands in backticks in the first cells of a section's tables.
fn first_cells<'t>(text: &'t str, section: &str) -> BTreeSet<&'t str> {
    let from = text.lines().skip_while(|line| line.strip_prefix("## ") != Some(section)).skip(1);
    let rows = from.take_while(|line| !line.starts_with("## "));
    let cells = rows.filter_map(|line| line.strip_prefix('|')?.split('|').next());
    cells.flat_map(|cell| cell.split('`').skip(1).step_by(2)).collect()
}

/// One run with a spoilt reply in it has to fail, by the right rule: proof that the chain from a
/// member's answer to a red line is whole.
fn canary() {
    let runtime = madsim::runtime::Runtime::with_seed_and_config(1, madsim::Config::default());
    let Outcome { violation, told, .. } =
        runtime.block_on(async { world::play_spoilt(Plan::new(1)) });
    let rule = violation.as_ref().map(|v| v.rule);
    assert_eq!(rule, Some("wrong-reply"), "the canary lives: a spoilt reply gave {violation:?}");
    let violation = violation.expect("just looked");
    html::shows("1", &violation, &told.picture).expect("the canary is in its picture");
    // With that rule switched off the same run goes on: nothing else had noticed in its place.
    let blind = rules::blinded("wrong-reply", || {
        let runtime = madsim::runtime::Runtime::with_seed_and_config(1, madsim::Config::default());
        runtime.block_on(async { world::play_spoilt(Plan::new(1)) }).violation
    });
    let rule = blind.as_ref().map(|v| v.rule);
    assert_ne!(rule, Some("wrong-reply"), "a rule that is switched off still speaks: {blind:?}");
}
