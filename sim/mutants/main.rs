//! Deliberate mistakes: does the simulator notice them?
//!
//! ```sh
//! cargo test --test mutants                                # the list fits the source, each once
//! cargo test --test mutants -- run                         # the table; what was seen is kept
//! cargo test --test mutants -- run --limit 2000            # tries the unseen ones for longer
//! cargo test --test mutants -- run NAME ...                # only these
//! cargo test --test mutants -- run --unseen                # the unseen ones from the first seed
//! cargo test --test mutants -- run --again                 # from the first seed, seen or not
//! cargo test --test mutants -- run --built                 # with the copy as it was built last
//! cargo test --test mutants -- table                       # as SIMULATION.md shows it
//! ```
//!
//! `run` copies the tree to `target/mutants/tree`, puts all mistakes of `list.txt` in, each behind
//! a switch (the environment variable `MUTANT` names the one that is on), builds the
//! simulator there once, and lets it play seeds with one mistake at a time until a rule is
//! violated. What came of it is kept in `found.txt`. First the copy runs without any mistake:
//! that must be clean. The product's own source has no switches.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a tool around the simulator: real files, processes and time"
)]

mod list;
mod run;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn mutants(root: &Path) -> Result<Vec<list::Mutant>, String> {
    list::parse(&read(&root.join("sim/mutants/list.txt"))?)
}

fn read(path: &Path) -> Result<String, String> {
    fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
}

/// Every mistake has its place in the source, exactly one.
fn check() -> Result<usize, String> {
    let root = root();
    let mutants = mutants(&root)?;
    let mut wrong = Vec::new();
    for (file, of_file) in list::by_file(&mutants) {
        let source = read(&root.join(file))?;
        for one in &of_file {
            wrong.extend(list::plant(&source, &[*one]).err());
        }
        if wrong.is_empty() {
            wrong.extend(list::plant(&source, &of_file).err());
        }
    }
    if wrong.is_empty() {
        return Ok(mutants.len());
    }
    Err(format!("{}\nsim/mutants/list.txt has to follow the source", wrong.join("\n")))
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match args.first().map(String::as_str) {
        Some("run") => run::run(&root(), &args[1..]),
        Some("table") => run::table(&root()).map(|table| println!("{table}")),
        // Whatever `cargo test` passes on to every target.
        Some(filter) if !filter.starts_with('-') && !"mutants".contains(filter) => {
            println!("0 passed, 0 failed");
            Ok(())
        }
        _ => check().map(|count| println!("{count} mistakes fit the source\n1 passed, 0 failed")),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("{error}\n0 passed, 1 failed");
            ExitCode::FAILURE
        }
    }
}
