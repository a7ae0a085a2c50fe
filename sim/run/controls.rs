//! Negative controls: what was spoilt on purpose must be noticed, by the right rule.

use super::play::apart;
use super::{Outcome, world};
use crate::plan::Plan;
use crate::trace::html;
use crate::{committed, history, model, safety, tape, votes, watch, wgl, workload};

/// The referees' own tests. To add one: a function that panics when its referee is blind.
const CONTROLS: &[(&str, fn())] = &[
    ("model", model::self_check),
    ("history", history::self_check),
    ("tape", tape::self_check),
    ("watch", watch::self_check),
    ("black box", wgl::self_check),
    ("programs", workload::self_check),
    ("votes", votes::self_check),
    ("committed", committed::self_check),
    ("picture", html::self_check),
    ("canary", canary),
];

/// Runs every control and says how many failed.
pub fn run() -> usize {
    let mut failed = 0;
    for (name, check) in CONTROLS {
        if let Err(said) = apart(check) {
            println!("negative control {name} FAILED: {said}");
            failed += 1;
        }
    }
    failed
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
    let blind = safety::blinded("wrong-reply", || {
        let runtime = madsim::runtime::Runtime::with_seed_and_config(1, madsim::Config::default());
        runtime.block_on(async { world::play_spoilt(Plan::new(1)) }).violation
    });
    let rule = blind.as_ref().map(|v| v.rule);
    assert_ne!(rule, Some("wrong-reply"), "a rule that is switched off still speaks: {blind:?}");
}
