//! `quorateutl`: a look at a data directory that no server is using.

use super::Exit;
use crate::btree::{Store, StoreOptions, VerifyReport};
use crate::io::{Disk, OsDisk};
use crate::types::StorageError;
use crate::types::limits::CACHE_BYTES_DEFAULT;
use crate::types::version::{API_VERSION, QUORATE_VERSION};
use clap::{Parser, Subcommand};
use std::ffi::OsString;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

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
    /// Read the whole store of a data directory and check it
    Verify {
        /// What the server is given as --data-dir; no server may be running on it
        data_dir: PathBuf,
    },
}

/// Runs the command line (program name first) and says how the process should end.
pub fn run(args: impl IntoIterator<Item = OsString>) -> Exit {
    match Typed::try_parse_from(args) {
        Ok(Typed { command: Command::Version }) => Exit::print(format!(
            "quorateutl version: {QUORATE_VERSION}\nAPI version: {API_VERSION}\n"
        )),
        Ok(Typed { command: Command::Verify { data_dir } }) => verify(Arc::new(OsDisk), &data_dir)
            .unwrap_or_else(|error| Exit::fail(1, format!("Error: {error}\n"))),
        Err(error) if !error.use_stderr() => Exit::print(error.to_string()),
        Err(error) => Exit::fail(128, error.to_string()),
    }
}

/// Locked as a server would lock it: what another process writes meanwhile would look damaged.
fn verify(disk: Arc<dyn Disk>, data_dir: &Path) -> Result<Exit, StorageError> {
    let path = data_dir.join("member/snap/db");
    if !disk.exists(&path)? {
        return Ok(Exit::fail(1, format!("Error: there is no store at {}\n", path.display())));
    }
    let _lock = disk.lock(&data_dir.join("member/lock"))?;
    let store = Store::open(disk, &path, StoreOptions { cache_bytes: CACHE_BYTES_DEFAULT })?;
    Ok(told(&path, &store.verify()?))
}

fn told(path: &Path, report: &VerifyReport) -> Exit {
    let mut text = format!(
        "{}: checkpoint {}, {} trees, {} entries ({} live), {} pages\n",
        path.display(),
        report.checkpoint,
        report.trees,
        report.entries,
        report.live,
        report.pages
    );
    for problem in &report.problems {
        writeln!(text, "offset {}: {}", problem.offset, problem.what).expect("a String takes all");
    }
    if report.is_clean() {
        text.push_str("no damage found\n");
        return Exit::print(text);
    }
    writeln!(text, "Error: {} problems", report.problem_count).expect("a String takes all");
    Exit::fail(1, text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::btree::StoreIdentity;
    use crate::io::MemDisk;
    use crate::types::{ClusterId, Incarnation, NodeId};

    #[test]
    fn commands() {
        let run = |args: &[&str]| run(args.iter().map(OsString::from)).code;
        assert_eq!(run(&["quorateutl", "version"]), 0);
        assert_eq!(run(&["quorateutl", "nonsense"]), 128);
        assert_eq!(run(&["quorateutl", "verify", "/nowhere/at/all"]), 1);
    }

    #[test]
    fn a_store_is_checked() {
        let disk: Arc<dyn Disk> = Arc::new(MemDisk::new(1));
        let dir = Path::new("/data");
        disk.create_dir_all(&dir.join("member/snap")).expect("an empty disk takes a directory");
        let exit = verify(disk.clone(), dir).expect("the disk works");
        assert!(exit.err.contains("there is no store at /data/member/snap/db"), "{}", exit.err);
        let identity =
            StoreIdentity { cluster: ClusterId(1), node: NodeId(2), incarnation: Incarnation(3) };
        let options = StoreOptions { cache_bytes: CACHE_BYTES_DEFAULT };
        let store = Store::create(disk.clone(), &dir.join("member/snap/db"), identity, options);
        drop(store.expect("an empty disk takes a store"));
        let exit = verify(disk, dir).expect("the disk works");
        assert_eq!((exit.code, exit.out.lines().last()), (0, Some("no damage found")));
        let mut report = VerifyReport { problem_count: 1, ..VerifyReport::default() };
        report.problems = vec![crate::btree::Problem { offset: 7, what: "torn".to_string() }];
        let exit = told(Path::new("db"), &report);
        assert_eq!(exit.code, 1);
        assert!(exit.err.contains("offset 7: torn\nError: 1 problems\n"), "{}", exit.err);
    }
}
