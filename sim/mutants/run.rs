//! Making the copy, building it, and playing seeds with one mistake at a time.

use crate::list::{self, Mutant};
use crate::{mutants, read};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

/// Seeds per mistake unless `--limit` says otherwise.
const LIMIT: u64 = 200;
/// A mistake may make the product allocate without end: the simulator's process gets so much.
const MEMORY_KIB_MAX: u64 = 8 << 20;
/// Not one of `QUORATE_*`: the simulator takes those away from processes that it starts itself.
const SWITCH: &str = "MUTANT";
/// The one file that only the copy has, in `src`.
const SWITCHES: &str = "mutant.rs";

/// What came of one mistake.
#[derive(Clone, Debug, PartialEq)]
enum Found {
    /// At this seed, after so many seconds, by this rule.
    Seen { seed: u64, seconds: f64, rule: String },
    /// Not in the seeds below this one.
    Unseen { seeds: u64 },
}

struct Args {
    limit: u64,
    /// The copy as it was built last, whatever the source says by now.
    built: bool,
    /// From the first seed, whatever was found.
    again: bool,
    /// From the first seed, what was not seen: the simulator has changed.
    unseen: bool,
    /// Only these; all if empty.
    names: Vec<String>,
}

fn args(given: &[String]) -> Result<Args, String> {
    let mut args =
        Args { limit: LIMIT, built: false, again: false, unseen: false, names: Vec::new() };
    let mut given = given.iter();
    while let Some(word) = given.next() {
        match word.as_str() {
            "--limit" => {
                let number = given.next().and_then(|n| n.parse().ok());
                args.limit = number.ok_or("--limit takes a number")?;
            }
            "--built" => args.built = true,
            "--again" => args.again = true,
            "--unseen" => args.unseen = true,
            name if !name.starts_with('-') => args.names.push(name.to_string()),
            other => return Err(format!("{other} is not known here")),
        }
    }
    Ok(args)
}

pub fn run(root: &Path, given: &[String]) -> Result<(), String> {
    let args = args(given)?;
    let mutants = mutants(root)?;
    if let Some(name) = args.names.iter().find(|name| mutants.iter().all(|m| m.name != **name)) {
        return Err(format!("{name} is not in the list"));
    }
    let built = root.join("target/mutants/program");
    if !args.built {
        let program = build(root, &mutants)?;
        write(&built, program.display().to_string().as_bytes())
            .map_err(|error| error.to_string())?;
    }
    let simulator = PathBuf::from(read(&built)?);
    let mut found = load(root)?;
    let control = play(&simulator, None, 1, args.limit + 1)?;
    if let Found::Seen { seed, rule, .. } = control {
        return Err(format!("without any mistake seed {seed} violates [{rule}]"));
    }
    println!("no mistake: {} seeds, clean", args.limit);
    for mutant in &mutants {
        let name = &mutant.name;
        if !args.names.is_empty() && !args.names.contains(name) {
            continue;
        }
        let from = match found.get(name) {
            Some(Found::Seen { .. }) if !args.again => continue,
            Some(Found::Unseen { seeds }) if !args.again && !args.unseen => seeds + 1,
            _ => 1,
        };
        if from > args.limit {
            continue;
        }
        let outcome = play(&simulator, Some(name), from, args.limit + 1)?;
        println!("{:10} {name}: {} (expected: {})", mutant.room, say(&outcome), mutant.by);
        found.insert(name.clone(), outcome);
        save(root, &mutants, &found)?;
    }
    println!("{}", summary(&mutants, &found));
    Ok(())
}

fn say(found: &Found) -> String {
    match found {
        Found::Seen { seed, seconds, rule } => format!("seed {seed}, {seconds:.1} s, [{rule}]"),
        Found::Unseen { seeds } => format!("not seen in {seeds} seeds"),
    }
}

fn summary(mutants: &[Mutant], found: &BTreeMap<String, Found>) -> String {
    let seen = |within: u64| {
        mutants
            .iter()
            .filter(
                |m| matches!(found.get(&m.name), Some(Found::Seen { seed, .. }) if *seed <= within),
            )
            .count()
    };
    let (all, tenth, most) = (mutants.len(), seen(20), seen(200));
    format!(
        "{all} mistakes: {tenth} seen within 20 seeds, {most} within 200, {} in all",
        seen(u64::MAX)
    )
}

/// Plays seeds `from..to` until one violates a rule.
fn play(simulator: &Path, name: Option<&str>, from: u64, to: u64) -> Result<Found, String> {
    let began = Instant::now();
    let mut child = Command::new("bash")
        .args(["-c", &format!("ulimit -v {MEMORY_KIB_MAX}; exec \"$0\"")])
        .arg(simulator)
        .env(SWITCH, name.unwrap_or_default())
        .env("QUORATE_SEEDS", format!("{from}..{to}"))
        .env_remove("QUORATE_SEED")
        .env_remove("QUORATE_MINUTES")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| format!("{}: {error}", simulator.display()))?;
    let outcome = watch(&mut child, began, from, to);
    // A process that has ended already is as good as stopped.
    let _ = child.kill();
    let status = child.wait().map_err(|error| error.to_string())?;
    match outcome {
        Found::Unseen { seeds } if !status.success() && status.code() != Some(1) => {
            // It died with the seed it was playing: out of memory or stack, or aborted.
            let seconds = began.elapsed().as_secs_f64();
            Ok(Found::Seen { seed: seeds + 1, seconds, rule: "died".into() })
        }
        outcome => Ok(outcome),
    }
}

/// Reads what the simulator says until a rule is violated or it has nothing more to say.
fn watch(child: &mut Child, began: Instant, from: u64, to: u64) -> Found {
    let out = child.stdout.take().expect("the output was asked for");
    let mut played = 0;
    for line in BufReader::new(out).lines().map_while(Result::ok) {
        if let Some((seed, rule)) = violation(&line) {
            return Found::Seen { seed, seconds: began.elapsed().as_secs_f64(), rule };
        }
        played += u64::from(line.starts_with("seed ") && line.contains(" trace "));
    }
    Found::Unseen { seeds: (from - 1 + played).min(to - 1) }
}

/// `seed 7 violates [rule]: ...`
fn violation(line: &str) -> Option<(u64, String)> {
    let rest = line.strip_prefix("seed ")?;
    let (seed, rest) = rest.split_once(" violates [")?;
    let (rule, _) = rest.split_once(']')?;
    Some((seed.parse().ok()?, rule.to_string()))
}

/// The copy with all mistakes in it, built. Returns the simulator's program.
fn build(root: &Path, mutants: &[Mutant]) -> Result<PathBuf, String> {
    let work = root.join("target/mutants");
    let tree = work.join("tree");
    let mut planted = BTreeMap::new();
    for (file, of_file) in list::by_file(mutants) {
        planted.insert(root.join(file), list::plant(&read(&root.join(file))?, &of_file)?);
    }
    let library = root.join("src/lib.rs");
    planted.insert(library.clone(), format!("{}pub mod mutant;\n", read(&library)?));
    copy(root, &tree, &planted).map_err(|error| format!("copying the tree: {error}"))?;
    write(&tree.join("src").join(SWITCHES), list::switch_module(mutants).as_bytes())
        .map_err(|error| format!("the switches: {error}"))?;
    println!("building {} with {} mistakes", tree.display(), mutants.len());
    let out = Command::new(env!("CARGO"))
        .args(["test", "--release", "--features", "sim", "--test", "sim", "--no-run"])
        .args(["--message-format", "json-render-diagnostics", "--target-dir"])
        .arg(work.join("target"))
        // Link-time optimization takes longer than it saves here.
        .env("CARGO_PROFILE_RELEASE_LTO", "off")
        .env_remove("RUSTFLAGS")
        .current_dir(&tree)
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| format!("cargo: {error}"))?;
    if !out.status.success() {
        return Err("the copy does not build".into());
    }
    program(&String::from_utf8_lossy(&out.stdout)).ok_or("cargo names no program".into())
}

/// The last `"executable":"..."` in cargo's messages.
fn program(messages: &str) -> Option<PathBuf> {
    let (_, rest) = messages.rsplit_once("\"executable\":\"")?;
    rest.split('"').next().map(PathBuf::from)
}

/// Copies what a build needs; `instead` has other contents for some files. What is the same
/// already is left alone, so that the next build is short; what is gone, goes.
fn copy(from: &Path, to: &Path, instead: &BTreeMap<PathBuf, String>) -> std::io::Result<()> {
    fs::create_dir_all(to)?;
    for old in fs::read_dir(to)? {
        let old = old?;
        if !from.join(old.file_name()).exists() && old.file_name() != SWITCHES {
            if old.file_type()?.is_dir() {
                fs::remove_dir_all(old.path())?;
            } else {
                fs::remove_file(old.path())?;
            }
        }
    }
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (path, name) = (entry.path(), entry.file_name());
        // The copy lies below `.cargo/config.toml` as it is.
        if name == "target" || name.to_string_lossy().starts_with('.') {
            continue;
        }
        if entry.file_type()?.is_dir() {
            copy(&path, &to.join(&name), instead)?;
        } else {
            match instead.get(&path) {
                Some(text) => write(&to.join(&name), text.as_bytes())?,
                None => write(&to.join(&name), &fs::read(&path)?)?,
            }
        }
    }
    Ok(())
}

fn write(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    if fs::read(path).is_ok_and(|old| old == bytes) { Ok(()) } else { fs::write(path, bytes) }
}

// ------------------------------------------------------------------------------ what was found

fn load(root: &Path) -> Result<BTreeMap<String, Found>, String> {
    let path = root.join("sim/mutants/found.txt");
    if !path.exists() {
        return Ok(BTreeMap::new());
    }
    let text = read(&path)?;
    let line = |line: &str| {
        let mut words = line.split_whitespace();
        let (name, word) = (words.next()?, words.next()?);
        let number = words.next()?;
        let found = match word {
            "unseen" => Found::Unseen { seeds: number.parse().ok()? },
            "seen" => Found::Seen {
                seed: number.parse().ok()?,
                seconds: words.next()?.parse().ok()?,
                rule: words.next()?.to_string(),
            },
            _ => return None,
        };
        Some((name.to_string(), found))
    };
    text.lines()
        .filter(|text| !text.starts_with('#'))
        .map(|text| line(text).ok_or_else(|| format!("found.txt: {text:?} is not understood")))
        .collect()
}

/// In the order of the list; what is not in the list any more is dropped.
fn save(root: &Path, mutants: &[Mutant], found: &BTreeMap<String, Found>) -> Result<(), String> {
    let mut text = String::from("# name, then: seen SEED SECONDS RULE, or: unseen SEEDS\n");
    for mutant in mutants {
        let name = &mutant.name;
        let written = match found.get(name) {
            Some(Found::Seen { seed, seconds, rule }) => {
                writeln!(text, "{name} seen {seed} {seconds:.1} {rule}")
            }
            Some(Found::Unseen { seeds }) => writeln!(text, "{name} unseen {seeds}"),
            None => Ok(()),
        };
        written.expect("a string takes everything");
    }
    write(&root.join("sim/mutants/found.txt"), text.as_bytes())
        .map_err(|error| format!("found.txt: {error}"))
}

/// The table in SIMULATION.md.
pub fn table(root: &Path) -> Result<String, String> {
    let (mutants, found) = (mutants(root)?, load(root)?);
    let mut text = String::from(
        "| room | mistake | why it is nasty | seeds | seconds | seen by | should be |\n\
         |---|---|---|--:|--:|---|---|\n",
    );
    for Mutant { name, room, why, by, lacks, .. } in &mutants {
        let (seeds, seconds, rule) = match found.get(name) {
            Some(Found::Seen { seed, seconds, rule }) => {
                (seed.to_string(), format!("{seconds:.1}"), format!("`{rule}`"))
            }
            Some(Found::Unseen { seeds }) if lacks.is_empty() => {
                (format!("over {seeds}"), String::new(), "not yet".into())
            }
            Some(Found::Unseen { seeds }) => {
                (format!("over {seeds}"), String::new(), format!("not yet: {lacks}"))
            }
            None => ("not run".into(), String::new(), String::new()),
        };
        let by: Vec<String> = by.split_whitespace().map(|rule| format!("`{rule}`")).collect();
        writeln!(
            text,
            "| {room} | {name} | {why} | {seeds} | {seconds} | {rule} | {} |",
            by.join(" ")
        )
        .expect("a string takes everything");
    }
    writeln!(text, "\n{}.", summary(&mutants, &found)).expect("a string takes everything");
    Ok(text)
}
