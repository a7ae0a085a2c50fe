//! Whether this member is well: /health, /livez and /readyz, with their options and the counts
//! that /metrics tells of them.
//!
//! Every check is a question to the node; nothing is decided here but how the answer is worded.

use super::errors::row;
use crate::node::NodeHandle;
use crate::types::command::{AlarmKind, RangeRequest};
use crate::types::{ApiError, GroupId, KeyRange, NodeId};
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// A status, and the text that says why.
pub type Verdict = (u16, String);

/// What was found so far, for all serving threads together.
#[derive(Debug, Default)]
pub struct Checks(Mutex<Found>);

#[derive(Clone, Debug, Default)]
pub struct Found {
    /// Answers of /health.
    pub healthy: u64,
    pub unhealthy: u64,
    /// By page and check.
    pub checks: BTreeMap<(&'static str, &'static str), CheckCounts>,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct CheckCounts {
    pub passed: u64,
    pub failed: u64,
    /// How it went last.
    pub is_good: bool,
}

impl Checks {
    fn change(&self, change: impl FnOnce(&mut Found)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
    pub fn found(&self) -> Found {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
    fn check(&self, page: &'static str, name: &'static str, is_good: bool) {
        self.change(|found| {
            let counts = found.checks.entry((page, name)).or_default();
            counts.is_good = is_good;
            match is_good {
                true => counts.passed += 1,
                false => counts.failed += 1,
            }
        });
    }
}

/// `name=value` pairs; names and values here never need escapes.
#[derive(Clone, Copy)]
pub struct Query<'a>(pub &'a str);

impl<'a> Query<'a> {
    fn values(self, name: &'a str) -> impl Iterator<Item = &'a str> {
        let pairs = self.0.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        pairs.filter(move |(n, _)| *n == name).map(|(_, value)| value)
    }
    fn has(self, name: &'a str) -> bool {
        self.values(name).next().is_some()
    }
}

/// A read that finds nothing: it tells that reads work.
async fn probe(node: &NodeHandle, serializable: bool) -> Result<(), ApiError> {
    let request = RangeRequest {
        range: KeyRange::single(&b"health"[..]),
        serializable,
        count_only: true,
        ..RangeRequest::default()
    };
    if !serializable {
        node.read_barrier(GroupId::ROOT).await?;
    }
    let view = node.view(GroupId::ROOT).ok_or(ApiError::MemberNotFound)?;
    view.range(&request).map_err(|error| node.read_failed(error))?;
    Ok(())
}

fn alarm_name(kind: AlarmKind) -> &'static str {
    match kind {
        AlarmKind::NoSpace => "NOSPACE",
        AlarmKind::Corrupt => "CORRUPT",
    }
}

fn alarms(node: &NodeHandle) -> Vec<(NodeId, AlarmKind)> {
    node.view(GroupId::ROOT).map(|view| view.alarms(None)).unwrap_or_default()
}

/// /health: one verdict, in JSON.
pub async fn health(node: &NodeHandle, query: Query<'_>, counts: &Checks) -> Verdict {
    let serializable = query.values("serializable").next() == Some("true");
    let alarm = alarms(node)
        .into_iter()
        .map(|(_, kind)| alarm_name(kind))
        .find(|name| !query.values("exclude").any(|excluded| excluded == *name));
    let reason = if let Some(alarm) = alarm {
        format!("ALARM {alarm}")
    } else if !serializable && !node.has_leader(GroupId::ROOT) {
        "RAFT NO LEADER".to_string()
    } else if let Err(error) = probe(node, serializable).await {
        format!("RANGE ERROR:{}", row(&error).1)
    } else {
        counts.change(|found| found.healthy += 1);
        return (200, "{\"health\":\"true\",\"reason\":\"\"}".to_string());
    };
    counts.change(|found| found.unhealthy += 1);
    tracing::warn!(reason, "/health error");
    (503, format!("{{\"health\":\"false\",\"reason\":\"{reason}\"}}\n"))
}

/// The checks of one page, or one of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    page: &'static str,
    checks: &'static [&'static str],
}

const READY: &[&str] =
    &["data_corruption", "linearizable_read", "non_learner", "serializable_read"];
const LIVE: &[&str] = &["serializable_read"];

/// What is behind a path below /livez or /readyz.
pub fn asked(path: &str) -> Option<Asked> {
    for (page, checks) in [("readyz", READY), ("livez", LIVE)] {
        let Some(rest) = path.strip_prefix('/').and_then(|path| path.strip_prefix(page)) else {
            continue;
        };
        if rest.is_empty() {
            return Some(Asked { page, checks });
        }
        let one = rest.strip_prefix('/')?;
        let at = checks.iter().position(|name| *name == one)?;
        return Some(Asked { page, checks: &checks[at..=at] });
    }
    None
}

/// Runs the checks one by one. What fails is always said, what does not is if the client wants
/// to know.
pub async fn run(node: &NodeHandle, asked: Asked, query: Query<'_>, counts: &Checks) -> Verdict {
    let mut lines = String::new();
    let mut is_good = true;
    for &name in asked.checks {
        // A page of one check has no options.
        let is_excluded = query.values("exclude").any(|excluded| excluded == name);
        if is_excluded && asked.checks.len() == whole(asked.page).len() {
            continue;
        }
        let outcome = check(node, name).await;
        counts.check(asked.page, name, outcome.is_ok());
        match outcome {
            Ok(()) => lines.push_str(&format!("[+]{name} ok\n")),
            Err(why) => {
                is_good = false;
                lines.push_str(&format!("[-]{name} failed: {why}\n"));
            }
        }
    }
    match (is_good, query.has("verbose")) {
        // One line break more than one would expect: etcd's.
        (false, _) => {
            tracing::error!(page = asked.page, reason = lines, "health check error");
            (503, format!("{lines}\n"))
        }
        (true, true) => (200, format!("{lines}ok\n")),
        (true, false) => (200, "ok\n".to_string()),
    }
}

fn whole(page: &str) -> &'static [&'static str] {
    if page == "readyz" { READY } else { LIVE }
}

async fn check(node: &NodeHandle, name: &str) -> Result<(), String> {
    let read = |outcome: Result<(), ApiError>| outcome.map_err(|error| row(&error).1.to_string());
    match name {
        "data_corruption" => {
            match alarms(node).iter().any(|(_, kind)| *kind == AlarmKind::Corrupt) {
                true => Err("alarm activated: CORRUPT".to_string()),
                false => Ok(()),
            }
        }
        "linearizable_read" => read(probe(node, false).await),
        "serializable_read" => read(probe(node, true).await),
        "non_learner" => match node.is_learner() {
            true => Err("not supported for learner".to_string()),
            false => Ok(()),
        },
        other => unreachable!("{other} is not a check"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checks_by_path() {
        assert_eq!(asked("/livez"), Some(Asked { page: "livez", checks: LIVE }));
        assert_eq!(asked("/readyz"), Some(Asked { page: "readyz", checks: READY }));
        let one = Asked { page: "readyz", checks: &["non_learner"] };
        assert_eq!(asked("/readyz/non_learner"), Some(one));
        for path in ["/livez/non_learner", "/livezz", "/", "", "/readyz/", "livez"] {
            assert_eq!(asked(path), None, "{path}");
        }
    }

    #[test]
    fn queries() {
        let query = Query("exclude=NOSPACE&verbose&exclude=CORRUPT");
        assert_eq!(query.values("exclude").collect::<Vec<_>>(), ["NOSPACE", "CORRUPT"]);
        assert!(query.has("verbose") && !query.has("serializable"));
    }

    #[test]
    fn counts_remember_how_it_went_last() {
        let checks = Checks::default();
        checks.check("readyz", "non_learner", true);
        checks.check("readyz", "non_learner", false);
        let found = checks.found();
        let counts = found.checks[&("readyz", "non_learner")];
        assert_eq!((counts.passed, counts.failed, counts.is_good), (1, 1, false));
    }
}
