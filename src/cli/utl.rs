//! `quorateutl`: a look at a data directory that no server is using.

use super::Exit;
use crate::types::version::{API_VERSION, QUORATE_VERSION};
use clap::{Parser, Subcommand};
use std::ffi::OsString;

#[derive(Parser)]
#[command(name = "quorateutl", about = "Looks at quorate's files")]
struct Typed {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Print the version
    Version,
}

/// Runs the command line (program name first) and says how the process should end.
pub fn run(args: impl IntoIterator<Item = OsString>) -> Exit {
    match Typed::try_parse_from(args) {
        Ok(Typed { command: Command::Version }) => Exit::print(format!(
            "quorateutl version: {QUORATE_VERSION}\nAPI version: {API_VERSION}\n"
        )),
        Err(error) if !error.use_stderr() => Exit::print(error.to_string()),
        Err(error) => Exit::fail(128, error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands() {
        let run = |args: &[&str]| run(args.iter().map(OsString::from)).code;
        assert_eq!(run(&["quorateutl", "version"]), 0);
        assert_eq!(run(&["quorateutl", "nonsense"]), 128);
    }
}
