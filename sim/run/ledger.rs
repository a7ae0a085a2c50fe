//! The ledger: which seeds ran clean on which commit, and which did not. Later runs extend it.
//!
//! One line a run: `commit tier clean 1..5000,7000..9000 failed 17:rule`. Ranges leave out what
//! failed. The file is part of the repository: a night that ran is a night that can be looked up.

use super::board::Totals;
use super::failure::commit;
use std::time::{Duration, Instant};

/// How often a run that goes on enters what it has played.
const EVERY: Duration = Duration::from_secs(600);

pub const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/sim/ledger.txt");

/// The first seed from `from` on that no line of this tier has.
pub fn next_seed(tier: &str, from: u64) -> u64 {
    let text = std::fs::read_to_string(PATH).unwrap_or_default();
    let ends = text.lines().filter_map(|line| {
        let mut words = line.split(' ');
        let (_, owner, _, ranges) = (words.next()?, words.next()?, words.next()?, words.next()?);
        let last = ranges.rsplit(',').next()?.split_once("..")?.1;
        (owner == tier).then(|| last.parse::<u64>().ok())?
    });
    ends.max().unwrap_or(0).max(from)
}

/// The line of a run that goes on: entered again and again, so that a night that is cut off is not
/// lost.
#[derive(Default)]
pub struct Entered {
    line: Option<String>,
    at: Option<Instant>,
}

impl Entered {
    pub fn is_due(&mut self) -> bool {
        self.at.get_or_insert_with(Instant::now).elapsed() > EVERY
    }

    /// Enters what was played, in place of this run's last line. The file may have grown others
    /// meanwhile, or be another one.
    pub fn enter(&mut self, tier: &str, totals: &Totals) -> std::io::Result<()> {
        self.at = Some(Instant::now());
        let line = line(tier, totals);
        let text = std::fs::read_to_string(PATH).unwrap_or_default();
        let text = replaced(&text, self.line.as_deref(), &line);
        // Never half a ledger.
        let beside = format!("{PATH}.new");
        std::fs::write(&beside, text)?;
        std::fs::rename(&beside, PATH)?;
        self.line = Some(line);
        Ok(())
    }
}

/// The ledger with `line` where `before` was, or at its end.
fn replaced(text: &str, before: Option<&str>, line: &str) -> String {
    let mut lines: Vec<&str> = text.lines().collect();
    match lines.iter().rposition(|there| Some(*there) == before) {
        Some(at) => lines[at] = line,
        None => lines.push(line),
    }
    lines.join("\n") + "\n"
}

pub fn self_check() {
    let old = "a members clean 1..5\n";
    let once = replaced(old, None, "b members clean 5..7");
    assert_eq!(once, "a members clean 1..5\nb members clean 5..7\n");
    let others = format!("{once}c servers clean 1..2\n");
    let twice = replaced(&others, Some("b members clean 5..7"), "b members clean 5..9");
    assert_eq!(twice, "a members clean 1..5\nb members clean 5..9\nc servers clean 1..2\n");
}

fn line(tier: &str, totals: &Totals) -> String {
    let failed: Vec<String> =
        totals.failures.iter().map(|(seed, class)| format!("{seed}:{}", class.rule)).collect();
    format!(
        "{} {tier} clean {} ({} seeds and {} drawn from such, {:.0} virtual s, {} events) failed {}",
        commit(),
        ranges(&totals.clean),
        totals.clean.len(),
        totals.clean_derived,
        totals.virtual_us as f64 / 1e6,
        totals.events,
        if failed.is_empty() { "none".to_owned() } else { failed.join(" ") }
    )
}

/// Numbers as ranges, ends excluded.
fn ranges(seeds: &[u64]) -> String {
    let mut sorted = seeds.to_vec();
    sorted.sort_unstable();
    sorted.dedup();
    let mut out: Vec<(u64, u64)> = Vec::new();
    for seed in sorted {
        match out.last_mut() {
            Some((_, end)) if *end == seed => *end += 1,
            _ => out.push((seed, seed + 1)),
        }
    }
    let text: Vec<String> = out.iter().map(|(from, to)| format!("{from}..{to}")).collect();
    if text.is_empty() { "none".to_owned() } else { text.join(",") }
}
