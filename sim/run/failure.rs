//! What is said of a failure: one line with all that is needed to see it again.

use super::{Job, Outcome, TIERS, Tier, tell};
use crate::plan::Seed;
use crate::safety::Violation;
use crate::trace::hash_bytes;
use std::fmt;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;
use std::time::SystemTime;

/// What makes two failures the same: the rule, and for panics the place in the code.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Class {
    pub rule: &'static str,
    pub place: Option<String>,
}

impl Class {
    pub fn of(violation: &Violation) -> Class {
        let place = (violation.rule == "panic")
            .then(|| violation.detail.split("panicked at ").nth(1))
            .flatten()
            .map(|text| text.split(":\n").next().unwrap_or(text).trim().to_owned());
        Class { rule: violation.rule, place }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Some(place) => write!(f, "{} at {place}", self.rule),
            None => write!(f, "{}", self.rule),
        }
    }
}

/// The commit that the code is built from, as far as the working tree tells when this is first
/// asked: with `+changes` when the tree has some, with `?` when the sources are newer than this
/// program.
pub fn commit() -> &'static str {
    static COMMIT: OnceLock<String> = OnceLock::new();
    COMMIT.get_or_init(|| {
        let git = |args: &[&str]| {
            let out = Command::new("git")
                .args(["-C", env!("CARGO_MANIFEST_DIR")])
                .args(args)
                .output()
                .ok()
                .filter(|out| out.status.success())?;
            Some(String::from_utf8_lossy(&out.stdout).trim().to_owned())
        };
        let Some(rev) = git(&["rev-parse", "--short=10", "HEAD"]) else {
            return "unknown".to_owned();
        };
        let changed = git(&["status", "--porcelain", "--untracked-files=no", "--", "src", "sim"]);
        let changed = if changed.is_some_and(|c| !c.is_empty()) { "+changes" } else { "" };
        let stale = if is_older_than_sources() { "?" } else { "" };
        format!("{rev}{changed}{stale}")
    })
}

fn is_older_than_sources() -> bool {
    fn newest(dir: &Path) -> Option<SystemTime> {
        let entries = std::fs::read_dir(dir).ok()?.flatten();
        let time = |entry: std::fs::DirEntry| match entry.file_type().ok()?.is_dir() {
            true => newest(&entry.path()),
            false if entry.path().extension()? == "rs" => entry.metadata().ok()?.modified().ok(),
            false => None,
        };
        entries.filter_map(time).max()
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let sources = ["src", "sim"].iter().filter_map(|dir| newest(&root.join(dir))).max();
    let exe = std::env::current_exe().and_then(std::fs::metadata).and_then(|m| m.modified());
    matches!((sources, exe), (Some(sources), Ok(exe)) if sources > exe)
}

pub fn plan_hash(tier: &Tier, seed: &Seed) -> u64 {
    hash_bytes((tier.plan)(seed).as_bytes())
}

/// What to type to run this target in the same way.
pub fn cargo_test() -> &'static str {
    if cfg!(debug_assertions) {
        "cargo test --features sim --test sim"
    } else {
        "cargo test --release --features sim --test sim"
    }
}

pub fn replay_command(tier: &Tier, seed: &Seed) -> String {
    let which = if tier.name == TIERS[0].name {
        String::new()
    } else {
        format!("QUORATE_TIER={} ", tier.name)
    };
    format!("{which}QUORATE_SEED={seed} {}", cargo_test())
}

/// Everything about one failure; the line that begins with `FAILED` says it all.
pub fn print(tier: &Tier, job: &Job, outcome: &Outcome, violation: &Violation) {
    let seed = &job.seed;
    tell::print_tail(outcome, violation, if job.verbose { 60 } else { 25 });
    println!("seed {seed} violates [{}]: {}", violation.rule, violation.detail);
    println!("  plan: {}", (tier.plan)(seed));
    println!("  picture: QUORATE_TRACE=seed.html and what stands behind `replay`");
    println!(
        "FAILED commit {} tier {} seed {seed} plan {:016x} rule [{}] replay: {}",
        commit(),
        tier.name,
        plan_hash(tier, seed),
        Class::of(violation),
        match (&job.tape, std::env::var("QUORATE_TAPE")) {
            (Some(_), Ok(path)) => format!("QUORATE_TAPE={path} {}", cargo_test()),
            _ => replay_command(tier, seed),
        }
    );
}
