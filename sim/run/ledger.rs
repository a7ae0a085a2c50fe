//! The ledger: which seeds ran clean on which commit, and which did not. Later runs extend it.
//!
//! One line a run: `commit tier clean 1..5000,7000..9000 failed 17:rule`. Ranges leave out what
//! failed. The file is part of the repository: a night that ran is a night that can be looked up.

use super::board::Board;
use super::failure::commit;
use super::lock;
use std::io::Write;

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/sim/ledger.txt");

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

/// Enters what a board has played.
pub fn enter(board: &Board) {
    let totals = lock(&board.totals);
    let failed: Vec<String> =
        totals.failures.iter().map(|(seed, class)| format!("{seed}:{}", class.rule)).collect();
    let line = format!(
        "{} {} clean {} ({} seeds, {:.0} virtual s, {} events) failed {}\n",
        commit(),
        board.tier.name,
        ranges(&totals.clean),
        totals.clean.len(),
        totals.virtual_us as f64 / 1e6,
        totals.events,
        if failed.is_empty() { "none".to_owned() } else { failed.join(" ") }
    );
    let file = std::fs::OpenOptions::new().append(true).create(true).open(PATH);
    match file.and_then(|mut file| file.write_all(line.as_bytes())) {
        Ok(()) => println!("entered in {PATH}"),
        Err(error) => println!("{PATH}: {error}"),
    }
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
