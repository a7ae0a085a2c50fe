//! The story as text: one line per event, in columns.
//!
//! ```text
//!        time  who  role  group term  last/commit/applied  what
//!    3.104233  1    L     g1    t5          57/56/55       elected in term 5, log ends at 57
//!    3.104260  1>2        g1    t5                         append after 57@5, commit 56
//!    3.104800  c3         g1                               put hot/1 = c3-9
//! ```

use super::story::{CallStory, Fate, Row, Story, What};
use super::words;
use quorate::multiraft::NodeMessage;
use quorate::raft::Role;
use quorate::types::GroupId;
use std::collections::BTreeMap;

/// Lines that the text of one run has at most.
const LINES_MAX: usize = 20_000;
const WIDTH_MAX: usize = 400;

struct Line {
    at_us: u64,
    who: String,
    group: Option<GroupId>,
    term: String,
    what: String,
    /// Somebody's state took a turn here: a line of the short story.
    turn: bool,
}

fn role(role: Role) -> &'static str {
    match role {
        Role::Follower => "F",
        Role::PreCandidate => "P",
        Role::Candidate => "C",
        Role::Leader => "L",
    }
}

pub fn role_word(role: Role) -> &'static str {
    match role {
        Role::Follower => "follower",
        Role::PreCandidate => "asks for votes (pre)",
        Role::Candidate => "asks for votes",
        Role::Leader => "leader",
    }
}

/// A note's own custom: it begins with the member that it is about, and may name the group.
fn note(at_us: u64, text: &str) -> Line {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (who, rest) = text.split_at(digits);
    let rest = rest.trim_start_matches([' ', ':']);
    let (group, rest) = match rest.strip_prefix("group ").and_then(|r| r.split_once(": ")) {
        Some((number, rest)) => (number.parse().ok().map(GroupId), rest),
        None => (None, rest),
    };
    let what = rest.to_owned();
    Line { at_us, who: who.to_owned(), group, term: String::new(), what, turn: true }
}

fn frame(at_us: u64, until_us: u64, copy: &super::story::Copy, fate: Fate, out: &mut Vec<Line>) {
    let lost = fate != Fate::Arrived;
    // What arrives is told when it does: then it makes a difference.
    let when_us = if lost { at_us } else { until_us };
    let end = match (lost, copy.fault) {
        (true, _) => format!("  x {}", fate.words()),
        (false, Some(fault)) => {
            format!("  ({}, {:.1} ms old)", fault.name(), (until_us - at_us) as f64 / 1e3)
        }
        (false, None) => String::new(),
    };
    let who = format!("{}>{}", copy.from, copy.to);
    let mut push = |group, term: String, what: String| {
        let what = format!("{what}{end}");
        out.push(Line { at_us: when_us, who: who.clone(), group, term, what, turn: false });
    };
    match &*copy.what {
        NodeMessage::Raft(messages) => {
            for m in messages {
                push(Some(m.group), format!("t{}", m.term), words::body(&m.body));
            }
        }
        other => push(None, String::new(), words::frame(other)),
    }
}

fn call(at_us: u64, call: &CallStory, out: &mut Vec<Line>) {
    let (who, group) = (format!("c{}", call.c), Some(call.group));
    let mut push = |at_us, what| {
        let term = String::new();
        out.push(Line { at_us, who: who.clone(), group, term, what, turn: false });
    };
    let asked = words::call(&call.call);
    push(at_us, format!("call {} to {}: {asked}", call.id, call.m));
    if let Some((end_us, heard)) = &call.end {
        push(*end_us, format!("call {}: {}", call.id, heard.text));
    }
}

/// All lines in order of time, and those of them that tell of turns only.
pub fn lines(story: &Story) -> (Vec<String>, Vec<String>) {
    let mut all: Vec<Line> = Vec::new();
    let mut rows: Vec<(u64, usize, GroupId, &Row)> = Vec::new();
    for event in story.events() {
        let at_us = event.at_us;
        match &event.what {
            What::Note(text) => all.push(note(at_us, text)),
            What::Client { c, text } => {
                let (who, what) = (format!("c{c}"), text.clone());
                all.push(Line { at_us, who, group: None, term: String::new(), what, turn: false });
            }
            What::Message { copy, until_us, fate } => {
                frame(at_us, *until_us, copy, *fate, &mut all);
            }
            What::Work { m, work, text, .. } => {
                let what = format!("{work}: {text}");
                let who = m.to_string();
                all.push(Line { at_us, who, group: None, term: String::new(), what, turn: false });
            }
            What::Call(story) => call(at_us, story, &mut all),
            What::Commit { m, group, at, text, revision } => {
                let what = format!("applies {}@{} first: {text} (rev {revision})", at.0, at.1);
                let (who, group) = (m.to_string(), Some(*group));
                all.push(Line { at_us, who, group, term: String::new(), what, turn: true });
            }
            What::State { m, group, row, turn } => {
                rows.push((at_us, *m, *group, row));
                if *turn {
                    let leader = match row.leader.is_none() {
                        true => "no leader".to_owned(),
                        false => format!("leader {}", row.leader),
                    };
                    let what = format!("{}, {leader}", role_word(row.role));
                    let (who, group) = (m.to_string(), Some(*group));
                    all.push(Line { at_us, who, group, term: String::new(), what, turn: true });
                }
            }
        }
    }
    all.sort_by_key(|line| line.at_us);
    let mut now: BTreeMap<(usize, GroupId), &Row> = BTreeMap::new();
    let mut rows = rows.into_iter().peekable();
    let mut out = Vec::new();
    let mut turns = Vec::new();
    for line in &all {
        while let Some((_, m, group, row)) = rows.next_if(|r| r.0 <= line.at_us) {
            now.insert((m, group), row);
        }
        let member = line.who.parse().ok();
        let row = member.zip(line.group).and_then(|at| now.get(&at).copied());
        let text = columns(line, row);
        if line.turn {
            turns.push(text.clone());
        }
        out.push(text);
    }
    out.drain(..out.len().saturating_sub(LINES_MAX));
    (out, turns)
}

fn columns(line: &Line, row: Option<&Row>) -> String {
    let (role, term, place) = match row {
        Some(row) => {
            let place = format!("{}/{}/{}", row.last, row.commit, row.applied);
            (role(row.role), format!("t{}", row.term), place)
        }
        None => ("", line.term.clone(), String::new()),
    };
    let group = line.group.map_or(String::new(), |g| format!("g{g}"));
    let what: String = line.what.chars().take(WIDTH_MAX).collect();
    format!(
        "{:>11.6}  {:<4} {role:<2} {group:<3} {term:<5} {place:>14}  {}",
        line.at_us as f64 / 1e6,
        line.who,
        what.replace('\n', " ")
    )
    .trim_end()
    .to_owned()
}

/// The columns' heads.
pub const HEAD: &str = "       time  who  role  group term  last/commit/applied  what (F follower, P/C candidate, L leader)";
