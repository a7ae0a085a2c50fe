//! What is asked for: the environment and `cargo test`'s arguments.

use super::{Job, TIERS, Tier};
use crate::plan::Seed;
use crate::tape::Tape;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

/// Seeds of long runs begin here, far from those of the default run.
const LONG_FROM: u64 = 1_000_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Play,
    /// Long, on all cores, entered in the ledger.
    Nightly,
    /// One seed so many times, over threads and processes.
    Same(u64),
    /// One seed with a crash between two effects, for each such place, or a few of each pair.
    Points {
        all: bool,
    },
    /// A failing seed or tape is made small.
    Shrink,
}

#[derive(Clone, Debug)]
pub enum Seeds {
    /// Each tier's own default.
    Default,
    List(Vec<Seed>),
    Range(Range<u64>),
    /// From here on until the time is up.
    Endless(u64),
}

pub struct Args {
    pub mode: Mode,
    pub tiers: Vec<&'static Tier>,
    pub seeds: Seeds,
    /// No further seed of any tier starts after this long; `None` is each tier's own budget, and
    /// there is no bound when the seeds are named.
    pub budget: Option<Duration>,
    pub verbose: bool,
    /// The file that the story is wanted in: of the one seed, or of the first that fails.
    pub trace: Option<String>,
    /// Decisions to play instead of a seed's.
    pub tape: Option<Arc<Tape>>,
    pub shrink_budget: Duration,
    /// Started by another run to compare hashes with: no controls, no repetition.
    pub child: bool,
}

fn var(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|v| !v.trim().is_empty())
}

fn number(name: &str, text: &str) -> Result<u64, String> {
    text.trim().parse().map_err(|_| format!("{name}={text}: give a number"))
}

impl Args {
    /// `None` when `cargo test`'s arguments ask for other tests than this one.
    pub fn read() -> Result<Option<Args>, String> {
        let Some(nightly) = selected(std::env::args().skip(1)) else { return Ok(None) };
        let mut args = Args {
            mode: if nightly { Mode::Nightly } else { Mode::Play },
            tiers: TIERS.iter().collect(),
            seeds: if nightly { Seeds::Endless(LONG_FROM) } else { Seeds::Default },
            budget: nightly.then_some(Duration::from_secs(8 * 3600)),
            verbose: false,
            trace: trace_path(std::env::args()).filter(|_| var("QUORATE_CHILD").is_none()),
            tape: None,
            shrink_budget: Duration::from_secs(300),
            child: var("QUORATE_CHILD").is_some(),
        };
        if let Some(name) = var("QUORATE_TIER") {
            let numbered = name.parse().ok().and_then(|n: usize| TIERS.get(n.checked_sub(1)?));
            args.tiers.retain(|tier| {
                tier.name == name || numbered.is_some_and(|asked| asked.name == tier.name)
            });
            if args.tiers.is_empty() {
                let names: Vec<&str> = TIERS.iter().map(|t| t.name).collect();
                return Err(format!("QUORATE_TIER={name}: there are {}", names.join(", ")));
            }
        }
        if let Some(minutes) = var("QUORATE_MINUTES") {
            let minutes = number("QUORATE_MINUTES", &minutes)?;
            args.seeds = Seeds::Endless(LONG_FROM);
            args.budget = Some(Duration::from_secs(minutes * 60));
        }
        if let Some(text) = var("QUORATE_SEEDS") {
            args.seeds = range(&text)?;
            // An end that is named is reached, however long it takes, unless minutes are given.
            if var("QUORATE_MINUTES").is_none() {
                args.budget = Some(Duration::MAX);
            }
        }
        if let Some(text) = var("QUORATE_SEED") {
            args.seeds = Seeds::List(vec![text.parse()?]);
            args.budget = Some(Duration::MAX);
            args.verbose = !args.child;
            if var("QUORATE_TIER").is_none() {
                args.tiers.truncate(1);
            }
        }
        if let Some(path) = var("QUORATE_TAPE") {
            let text = std::fs::read_to_string(&path).map_err(|e| format!("{path}: {e}"))?;
            let tape = Tape::parse(&text).map_err(|e| format!("{path}: {e}"))?;
            let plan = tape.plan().map_err(|e| format!("{path}: {e}"))?;
            args.seeds = Seeds::List(vec![plan.name]);
            args.tape = Some(Arc::new(tape));
            args.verbose = true;
            args.budget = Some(Duration::MAX);
            args.tiers.truncate(1);
        }
        if var("QUORATE_SHRINK").is_some() {
            args.mode = Mode::Shrink;
        }
        if let Some(which) = var("QUORATE_CRASH_POINTS") {
            args.mode = Mode::Points { all: which == "all" };
        }
        if let Some(times) = var("QUORATE_SAME") {
            args.mode = Mode::Same(number("QUORATE_SAME", &times)?);
        }
        Ok(Some(args))
    }
}

impl Args {
    /// How long seeds of this tier may start: of a time that is given for all, its share.
    pub fn budget_of(&self, tier: &Tier) -> Duration {
        match self.budget {
            None => tier.budget,
            Some(Duration::MAX) => Duration::MAX,
            Some(whole) => whole / self.tiers.len().max(1) as u32,
        }
    }

    /// Whether this is more than a look at some seeds.
    pub fn is_whole(&self) -> bool {
        matches!(self.seeds, Seeds::Default | Seeds::Endless(_))
    }

    /// The one thing to play, where only one is.
    pub fn first_job(&self) -> Option<Job> {
        let Seeds::List(list) = &self.seeds else { return None };
        Some(Job { tape: self.tape.clone(), ..Job::new(list.first()?.clone()) })
    }
}

fn range(text: &str) -> Result<Seeds, String> {
    let Some((from, to)) = text.split_once("..") else {
        let list: Result<Vec<Seed>, String> = text.split(',').map(|s| s.trim().parse()).collect();
        return Ok(Seeds::List(list?));
    };
    let from = number("QUORATE_SEEDS", from)?;
    if to.is_empty() {
        return Ok(Seeds::Endless(from));
    }
    Ok(Seeds::Range(from..number("QUORATE_SEEDS", to)?))
}

/// Seeds that once found something, by tier: `[tier] seed # what it was`, one a line.
pub fn regressions(tier: &str) -> Vec<Seed> {
    let first = TIERS[0].name;
    include_str!("../regressions.txt")
        .lines()
        .filter_map(|line| {
            let line = line.split('#').next()?.trim();
            let (owner, seed) = line.split_once(' ').unwrap_or((first, line));
            if owner == tier { seed.parse().ok() } else { None }
        })
        .collect()
}

/// `--trace FILE` or `--trace=FILE`, else `QUORATE_TRACE`.
fn trace_path(mut args: impl Iterator<Item = String>) -> Option<String> {
    let given = args.find_map(|arg| match arg.strip_prefix("--trace")? {
        "" => Some(None),
        rest => Some(Some(rest.strip_prefix('=')?.to_owned())),
    });
    given.and_then(|path| path.or_else(|| args.next())).or_else(|| var("QUORATE_TRACE"))
}

/// Whether `cargo test`'s arguments ask for this target at all, and for its nightly form.
fn selected(args: impl Iterator<Item = String>) -> Option<bool> {
    const WITH_VALUE: [&str; 7] =
        ["--test-threads", "--format", "--color", "--skip", "--logfile", "-Z", "--trace"];
    let (mut wanted, mut nightly) = (true, false);
    let mut args = args.peekable();
    while let Some(arg) = args.next() {
        if arg == "--list" || arg == "--ignored" {
            return None;
        }
        if WITH_VALUE.contains(&arg.as_str()) {
            let value = args.next();
            if arg == "--skip" && value.is_some_and(|v| "sim".contains(&v)) {
                return None;
            }
        } else if arg == "nightly" {
            nightly = true;
        } else if !arg.starts_with('-') {
            wanted &= "sim".contains(&arg);
        }
    }
    wanted.then_some(nightly)
}
