//! The story of one run, for whoever wants to see it: its newest turns in the terminal, all of it
//! in a file.

use super::failure::replay_command;
use super::{Job, Outcome, Tier};
use crate::safety::Violation;
use crate::trace::{html, text};

/// Writes the story into the file that was asked for: a picture if its name ends so, else text.
pub fn write(path: &str, tier: &Tier, job: &Job, outcome: &Outcome, violation: Option<&Violation>) {
    let content = if path.ends_with(".html") && !outcome.told.picture.is_empty() {
        let plan = (tier.plan)(&job.seed);
        let replay = replay_command(tier, &job.seed);
        let seed = job.seed.to_string();
        let caption = html::Caption { seed: &seed, violation, plan: &plan, replay: &replay };
        html::page(&caption, &outcome.told.picture)
    } else {
        format!("{}\n{}\n", text::HEAD, outcome.lines.join("\n"))
    };
    match std::fs::write(path, content) {
        Ok(()) => println!("the story of seed {} is in {path}", job.seed),
        Err(error) => println!("{path}: {error}"),
    }
}

/// Prints the newest turns of the story, of the group that the violation is about if it names one.
pub fn print_tail(outcome: &Outcome, violation: &Violation, lines_max: usize) {
    let group: String = match violation.detail.split_once("group ") {
        Some((_, rest)) => rest.chars().take_while(char::is_ascii_digit).collect(),
        None => String::new(),
    };
    let about = |line: &&String| {
        let named = line.split_whitespace().skip(1).take(3).find_map(|w| w.strip_prefix('g'));
        match named.filter(|g| !g.is_empty() && g.bytes().all(|b| b.is_ascii_digit())) {
            Some(named) => group.is_empty() || named == group,
            None => true,
        }
    };
    let turns = if outcome.told.turns.is_empty() { &outcome.lines } else { &outcome.told.turns };
    let newest: Vec<&String> = turns.iter().rev().filter(about).take(lines_max).collect();
    if !newest.is_empty() {
        println!("    {}", text::HEAD);
    }
    for line in newest.into_iter().rev() {
        println!("    {}", line.chars().take(200).collect::<String>());
    }
}
