//! What was typed: etcd's flags and `ETCD_*` variables, before anybody asks what they mean.
//!
//! One table names every flag; help, environment and parsing come from it. As with Go's flags, one
//! dash is as good as two, `--flag value` and `--flag=value` are the same, and the last one
//! counts. A flag may instead be set as `ETCD_FLAG_NAME`; setting both is refused.

use super::Exit;
use crate::types::version::{ETCD_VERSION, QUORATE_VERSION};
use clap::builder::{Arg, ArgAction, Command};
use clap::error::{ContextKind, ContextValue, ErrorKind};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::Write as _;

/// One flag of the server.
pub struct Flag {
    pub name: &'static str,
    /// What the value is called in help.
    value: &'static str,
    /// What counts when it is not given; empty where `config` derives it from other flags.
    pub default: &'static str,
    help: &'static str,
}

const fn flag(
    name: &'static str,
    value: &'static str,
    default: &'static str,
    help: &'static str,
) -> Flag {
    Flag { name, value, default, help }
}

pub const FLAGS: &[Flag] = &[
    flag("name", "NAME", "default", "Name of this member, as in --initial-cluster"),
    flag("data-dir", "DIR", "", "Where the data lives (default: ${name}.quorate)"),
    flag("listen-peer-urls", "URLS", "http://localhost:2380", "Where other members reach it"),
    flag("listen-client-urls", "URLS", "http://localhost:2379", "Where clients reach it"),
    flag("initial-advertise-peer-urls", "URLS", "http://localhost:2380", "What other members dial"),
    flag("advertise-client-urls", "URLS", "http://localhost:2379", "What clients are told to dial"),
    flag("initial-cluster", "MEMBERS", "", "name=URL,... of all first members, this one included"),
    flag("initial-cluster-token", "TOKEN", "etcd-cluster", "Keeps clusters apart that look alike"),
    flag("initial-cluster-state", "STATE", "new", "new, or existing when joining a cluster"),
    flag("quota-backend-bytes", "BYTES", "0", "Bound on the store; 0 is 2 GiB, below 0 is none"),
    flag("heartbeat-interval", "MS", "100", "Milliseconds between a leader's heartbeats"),
    flag("election-timeout", "MS", "1000", "Milliseconds without a leader before an election"),
    flag("snapshot-count", "ENTRIES", "10000", "Applied entries after which the log is trimmed"),
    flag("max-request-bytes", "BYTES", "1572864", "Bound on one request"),
    flag("max-txn-ops", "OPS", "128", "Bound on the operations of one txn"),
    flag("max-learners", "N", "1", "Learners the cluster may have at a time"),
    flag(
        "strict-reconfig-check",
        "BOOL",
        "true",
        "Refuse membership changes that would put the quorum at risk",
    ),
    flag("cache-bytes", "BYTES", "67108864", "Memory for pages of the store"),
    flag("client-threads", "N", "0", "Threads that serve clients; 0 is one per core"),
    flag(
        "auth-token",
        "TYPE",
        "simple",
        "simple, or jwt,sign-method=M,pub-key=FILE,priv-key=FILE,ttl=10m",
    ),
    flag("auth-token-ttl", "SECONDS", "300", "How long a simple token lasts after its last use"),
    flag("bcrypt-cost", "N", "10", "Rounds (2^N) that comparing a password costs, 4 to 31"),
    flag(
        "watch-progress-notify-interval",
        "TIME",
        "10m",
        "How often idle watchers that ask for it are told",
    ),
    flag(
        "feature-gates",
        "GATES",
        "",
        "LeaseCheckpoint=true puts what is left of long leases into the log",
    ),
    flag("log-level", "LEVEL", "info", "debug, info, warn, error, panic or fatal"),
];

/// etcd's flags that have nothing to act on here. They are taken and named in a warning, so that
/// existing unit files go on working.
const WITHOUT_EFFECT: &[&str] = &[
    "backend-batch-interval",
    "backend-batch-limit",
    "backend-bbolt-freelist-type",
    "initial-election-tick-advance",
    "log-format",
    "log-outputs",
    "logger",
    "max-concurrent-streams",
    "max-snapshots",
    "max-wals",
    "snapshot-catchup-entries",
    "v2-deprecation",
];

/// etcd's flags that would change what the server does, and do not yet, with etcd's defaults (a
/// default asks for nothing). Saying so beats both ignoring them and calling them unknown.
const NOT_YET: &[(&str, &str)] = &[
    ("auto-compaction-mode", "periodic"),
    ("auto-compaction-retention", "0"),
    ("auto-tls", "false"),
    ("bootstrap-defrag-threshold-megabytes", "0"),
    ("cert-file", ""),
    ("cipher-suites", ""),
    ("client-cert-allowed-hostname", ""),
    ("client-cert-auth", "false"),
    ("client-cert-file", ""),
    ("client-crl-file", ""),
    ("client-key-file", ""),
    ("compact-hash-check-time", "1m"),
    ("compaction-batch-limit", "1000"),
    ("compaction-sleep-interval", "0"),
    ("config-file", ""),
    ("corrupt-check-time", "0s"),
    ("cors", "*"),
    ("discovery", ""),
    ("discovery-srv", ""),
    ("discovery-srv-name", ""),
    ("discovery-token", ""),
    ("downgrade-check-time", "5s"),
    ("enable-distributed-tracing", "false"),
    ("enable-grpc-gateway", ""),
    ("enable-log-rotation", "false"),
    ("enable-pprof", "false"),
    ("force-new-cluster", "false"),
    ("grpc-keepalive-interval", "2h"),
    ("grpc-keepalive-min-time", "5s"),
    ("grpc-keepalive-timeout", "20s"),
    ("host-whitelist", "*"),
    ("key-file", ""),
    ("listen-client-http-urls", ""),
    ("listen-metrics-urls", ""),
    ("log-rotation-config-json", ""),
    ("memory-mlock", "false"),
    ("metrics", "basic"),
    ("peer-auto-tls", "false"),
    ("peer-cert-allowed-cn", ""),
    ("peer-cert-allowed-hostname", ""),
    ("peer-cert-file", ""),
    ("peer-client-cert-auth", "false"),
    ("peer-client-cert-file", ""),
    ("peer-client-key-file", ""),
    ("peer-crl-file", ""),
    ("peer-key-file", ""),
    ("peer-skip-client-san-verification", "false"),
    ("peer-trusted-ca-file", ""),
    ("pre-vote", "true"),
    ("raft-read-timeout", "5s"),
    ("raft-write-timeout", "5s"),
    ("self-signed-cert-validity", "1"),
    ("socket-reuse-address", "false"),
    ("socket-reuse-port", "false"),
    ("tls-max-version", ""),
    ("tls-min-version", "TLS1.2"),
    ("trusted-ca-file", ""),
    ("unsafe-no-fsync", "false"),
    ("wal-dir", ""),
    ("warning-apply-duration", "100ms"),
    ("warning-unary-request-duration", "300ms"),
];

/// The flags that were set, by flag or by variable.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Typed {
    values: BTreeMap<&'static str, String>,
    /// What the operator should hear once the log is up.
    pub warnings: Vec<String>,
}

impl Typed {
    /// What was typed for a flag of the table, if anything was.
    pub fn given(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }
    /// What was typed, or the default.
    pub fn value(&self, name: &str) -> &str {
        let default =
            || FLAGS.iter().find(|f| f.name == name).expect("a flag of the table").default;
        self.given(name).unwrap_or_else(default)
    }
}

fn all_names() -> impl Iterator<Item = &'static str> {
    FLAGS.iter().map(|f| f.name).chain(WITHOUT_EFFECT.iter().copied()).chain(not_yet())
}

fn not_yet() -> impl Iterator<Item = &'static str> {
    NOT_YET.iter().map(|(name, _)| *name)
}

fn env_name(flag: &str) -> String {
    format!("ETCD_{}", flag.to_uppercase().replace('-', "_"))
}

fn command() -> Command {
    let mut command = Command::new("quorate")
        .disable_version_flag(true)
        .disable_help_flag(true)
        .args_override_self(true)
        .no_binary_name(true)
        .arg(Arg::new("version").long("version").action(ArgAction::SetTrue))
        .arg(Arg::new("help").long("help").short('h').action(ArgAction::SetTrue));
    for flag in FLAGS {
        let arg = Arg::new(flag.name).long(flag.name);
        command = command.arg(match flag.value {
            // A switch needs no value.
            "BOOL" => arg.num_args(0..=1).default_missing_value("true"),
            _ => arg.allow_hyphen_values(true),
        });
    }
    for name in WITHOUT_EFFECT.iter().copied().chain(not_yet()) {
        // Some of these are switches in etcd, which need no value.
        let arg = Arg::new(name).long(name).num_args(0..=1).default_missing_value("true");
        command = command.arg(arg);
    }
    command
}

/// Reads arguments (without the program's name) and environment. `Err` also carries what
/// `--version` and `--help` print.
pub fn parse(
    args: impl IntoIterator<Item = OsString>,
    env: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Typed, Exit> {
    let usage = |what: String| Exit::fail(2, format!("quorate: {what}; see 'quorate --help'\n"));
    let mut text = Vec::new();
    for arg in args {
        let arg = arg.into_string().map_err(|bad| usage(format!("{bad:?} is not valid UTF-8")))?;
        text.push(two_dashes(arg));
    }
    let matches = command().try_get_matches_from(text).map_err(|e| usage(one_line(&e)))?;
    if matches.get_flag("help") {
        return Err(Exit::print(help()));
    }
    if matches.get_flag("version") {
        return Err(Exit::print(version()));
    }

    let mut typed = Typed::default();
    for name in all_names() {
        if let Some(value) = matches.get_one::<String>(name) {
            typed.values.insert(name, value.clone());
        }
    }
    add_env(&mut typed, env)?;
    for (name, default) in NOT_YET {
        if typed.values.remove(name).is_some_and(|value| value != *default) {
            return Err(usage(format!("--{name} is not supported yet: remove it")));
        }
    }
    for name in WITHOUT_EFFECT {
        if typed.values.remove(name).is_some() {
            typed.warnings.push(format!("--{name} has no effect in quorate"));
        }
    }
    Ok(typed)
}

/// Go takes one dash for two. Only known names are touched: a value may begin with a dash.
fn two_dashes(arg: String) -> String {
    let known = |name: &str| name == "version" || name == "help" || all_names().any(|n| n == name);
    match arg.strip_prefix('-') {
        Some(rest) if known(rest.split('=').next().unwrap_or(rest)) => format!("-{arg}"),
        _ => arg,
    }
}

fn one_line(error: &clap::Error) -> String {
    let context = |kind| match error.get(kind) {
        Some(ContextValue::String(s)) => s.clone(),
        Some(other) => other.to_string(),
        None => String::new(),
    };
    let arg = context(ContextKind::InvalidArg);
    match error.kind() {
        ErrorKind::UnknownArgument if arg.starts_with('-') => match error
            .get(ContextKind::SuggestedArg)
        {
            Some(ContextValue::String(near)) => format!("unknown flag {arg} (is {near} meant?)"),
            _ => format!("unknown flag {arg}"),
        },
        ErrorKind::UnknownArgument => format!("'{arg}' is not a valid flag"),
        ErrorKind::InvalidValue => format!("{} needs a value", flag_alone(&arg)),
        _ => format!("{arg}: {}", error.kind()),
    }
}

/// clap names an argument with its placeholder: `--name <name>`.
fn flag_alone(arg: &str) -> &str {
    arg.split(' ').next().unwrap_or(arg)
}

fn add_env(
    typed: &mut Typed,
    env: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<(), Exit> {
    let names: BTreeMap<String, &'static str> = all_names().map(|n| (env_name(n), n)).collect();
    let mut set: Vec<(String, String)> = env
        .into_iter()
        .filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)))
        .filter(|(k, _)| k.starts_with("ETCD_"))
        .collect();
    set.sort();
    for (variable, value) in set {
        let Some(&name) = names.get(&variable) else {
            typed.warnings.push(format!("unrecognized environment variable {variable}={value}"));
            continue;
        };
        if typed.values.contains_key(name) {
            return Err(Exit::fail(
                1,
                format!(
                    "quorate: conflicting environment variable \"{variable}\" is shadowed by \
                     corresponding command-line flag (either unset environment variable or \
                     disable flag)\n"
                ),
            ));
        }
        // An empty variable is an unset one, as in etcd.
        if !value.is_empty() {
            typed.values.insert(name, value);
        }
    }
    Ok(())
}

/// etcd's four lines, which scripts parse, and one of ours.
pub fn version() -> String {
    let arch = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    format!(
        "etcd Version: {ETCD_VERSION}\nGit SHA: {}\nGo Version: none ({})\nGo OS/Arch: {}/{arch}\n\
         Quorate Version: {QUORATE_VERSION}\n",
        option_env!("QUORATE_GIT_SHA").unwrap_or("none"),
        env!("QUORATE_RUSTC"),
        std::env::consts::OS,
    )
}

pub fn help() -> String {
    let mut out = String::from(
        "Usage: quorate [flags]\n\nEvery flag may also be set as ETCD_FLAG_NAME.\n\nFlags:\n",
    );
    for flag in FLAGS {
        let head = format!("--{} {}", flag.name, flag.value);
        let default = match flag.default {
            "" => String::new(),
            value => format!(" (default: {value})"),
        };
        writeln!(out, "  {head:<38} {}{default}", flag.help).expect("a String takes all");
    }
    out.push_str("  --version                              Print the version and end\n");
    out.push_str("  --help                                 Print this and end\n");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(args: &[&str], env: &[(&str, &str)]) -> Result<Typed, Exit> {
        let env = env.iter().map(|(k, v)| (OsString::from(k), OsString::from(v)));
        parse(args.iter().map(OsString::from), env)
    }

    #[test]
    fn all_spellings_are_one() {
        for args in [
            &["--name=a", "--quota-backend-bytes", "-1"][..],
            &["-name", "a", "-quota-backend-bytes=-1"],
            &["--name", "x", "--name", "a", "--quota-backend-bytes=-1"],
        ] {
            let typed = run(args, &[]).expect("valid");
            assert_eq!(typed.given("name"), Some("a"), "{args:?}");
            assert_eq!(typed.given("quota-backend-bytes"), Some("-1"), "{args:?}");
        }
        let typed = run(&[], &[("ETCD_QUOTA_BACKEND_BYTES", "7"), ("HOME", "/")]).expect("valid");
        assert_eq!(typed.value("quota-backend-bytes"), "7");
        assert_eq!(typed.value("name"), "default");
        assert!(typed.warnings.is_empty());
    }

    #[test]
    fn flag_and_variable_together_are_refused() {
        let exit = run(&["--name=a"], &[("ETCD_NAME", "b")]).expect_err("a conflict");
        assert_eq!(exit.code, 1);
        assert_eq!(
            exit.err,
            "quorate: conflicting environment variable \"ETCD_NAME\" is shadowed by corresponding \
             command-line flag (either unset environment variable or disable flag)\n"
        );
    }

    #[test]
    fn an_unknown_variable_is_a_warning() {
        let typed = run(&[], &[("ETCD_NOPE", "1"), ("ETCD_NAME", "")]).expect("valid");
        assert_eq!(typed.warnings, ["unrecognized environment variable ETCD_NOPE=1"]);
        assert_eq!(typed.given("name"), None);
    }

    #[test]
    fn mistakes_are_one_line_and_two() {
        for (args, part) in [
            (&["--nmae=a"][..], "unknown flag --nmae"),
            (&["serve"], "'serve' is not a valid flag"),
            (&["--name"], "--name needs a value"),
            (&["--cert-file=x"], "--cert-file is not supported yet"),
            (&["--force-new-cluster"], "--force-new-cluster is not supported yet"),
        ] {
            let exit = run(args, &[]).expect_err(part);
            assert_eq!(exit.code, 2, "{args:?}");
            assert!(exit.err.contains(part), "{args:?}: {}", exit.err);
            assert_eq!(exit.err.lines().count(), 1, "{}", exit.err);
        }
        let exit = run(&[], &[("ETCD_KEY_FILE", "x")]).expect_err("not supported");
        assert!(exit.err.contains("--key-file is not supported yet"));
    }

    #[test]
    fn flags_without_effect_are_taken() {
        let typed = run(&["--logger=zap", "--max-wals", "9"], &[]).expect("valid");
        assert_eq!(typed.warnings.len(), 2);
        assert_eq!(typed.given("logger"), None);
        let typed = run(&["--strict-reconfig-check", "--max-learners=2"], &[]).expect("valid");
        assert_eq!(typed.given("strict-reconfig-check"), Some("true"));
        assert_eq!(typed.given("max-learners"), Some("2"));
        let defaults =
            ["--pre-vote", "--unsafe-no-fsync=false", "--auto-compaction-retention", "0"];
        assert_eq!(run(&defaults, &[]).expect("valid"), Typed::default());
    }

    #[test]
    fn version_prints_etcds_lines() {
        for args in [["--version"], ["-version"]] {
            let exit = run(&args, &[]).expect_err("prints and ends");
            assert_eq!(exit.code, 0);
            let starts = [
                "etcd Version: 3.6.",
                "Git SHA: ",
                "Go Version: none (rustc ",
                "Go OS/Arch: linux/",
            ];
            for (line, start) in exit.out.lines().zip(starts) {
                assert!(line.starts_with(start), "{line}");
            }
            assert_eq!(exit.out.lines().count(), 5);
        }
    }

    #[test]
    fn help_names_every_flag() {
        let exit = run(&["-h"], &[]).expect_err("prints and ends");
        for flag in FLAGS {
            assert!(exit.out.contains(&format!("--{} ", flag.name)), "{}", flag.name);
        }
    }
}
