//! The story as the data of a picture: one JSON object, as small as it can be without a
//! compressor. Texts are listed once and named by number; events are arrays whose first item is
//! their kind. `viewer/data.js` reads what this file writes, in the same order of fields.
//!
//! The size is bounded: whole `Debug` texts are given for the newest events only, and when the
//! rest is still too much the oldest events stay out, landmarks last.

use super::story::{CallStory, Copy, Event, Last, LogTerms, Row, Story, What};
use super::{text, words};
use quorate::multiraft::NodeMessage;
use quorate::types::ConfState;
use std::collections::BTreeMap;
use std::fmt::Write as _;

const EVENT_BYTES_MAX: usize = 4_500_000;
const DEBUG_BYTES_MAX: usize = 1_200_000;
const DEBUG_ONE_MAX: usize = 1_500;
const TEXT_ONE_MAX: usize = 600;

/// Texts by number.
#[derive(Default)]
struct Texts {
    numbers: BTreeMap<String, usize>,
    all: Vec<String>,
    bytes: usize,
}

impl Texts {
    fn number(&mut self, text: &str) -> usize {
        if let Some(number) = self.numbers.get(text) {
            return *number;
        }
        let number = self.all.len();
        self.bytes += text.len() + 4;
        self.numbers.insert(text.to_owned(), number);
        self.all.push(text.to_owned());
        number
    }
}

struct Sheet {
    texts: Texts,
    debug_left: usize,
}

impl Sheet {
    fn text(&mut self, text: &str) -> usize {
        match text.char_indices().nth(TEXT_ONE_MAX) {
            None => self.texts.number(text),
            Some((cut, _)) => self.texts.number(&format!("{}…", &text[..cut])),
        }
    }

    /// The whole of a value, or -1 when the room for such texts is used up.
    fn debug(&mut self, make: impl FnOnce() -> String) -> i64 {
        if self.debug_left == 0 {
            return -1;
        }
        let whole = make();
        let text: String = whole.chars().take(DEBUG_ONE_MAX).collect();
        self.debug_left = self.debug_left.saturating_sub(text.len());
        self.texts.number(&text) as i64
    }

    fn event(&mut self, event: &Event) -> String {
        let at = event.at_us;
        match &event.what {
            What::Note(text) => format!("[0,{at},{}]", self.text(text)),
            What::Message { copy, until_us, fate } => {
                let fate = self.text(fate.words());
                self.message(at, *until_us, copy, fate)
            }
            What::Work { m, work, began_us, text } => {
                let (work, text) = (self.text(work), self.text(text));
                format!("[2,{began_us},{at},{m},{work},{text}]")
            }
            What::Call(call) => self.call(at, call),
            What::Commit { m, group, at: (index, term), text, revision } => {
                let text = self.text(text);
                format!("[4,{at},{m},{group},{index},{term},{text},{revision}]")
            }
            What::State { m, group, row, turn } => {
                let row = self.row(row);
                format!("[5,{at},{m},{group},{},{row}]", u8::from(*turn))
            }
            What::Client { c, text } => format!("[6,{at},{c},{}]", self.text(text)),
        }
    }

    fn message(&mut self, at: u64, until: u64, copy: &Copy, fate: usize) -> String {
        let mut parts = String::new();
        if let NodeMessage::Raft(messages) = &*copy.what {
            for (i, m) in messages.iter().enumerate() {
                let (from, to) = words::reach(&m.body);
                let kind = self.text(m.body.name());
                let comma = if i > 0 { "," } else { "" };
                let (group, term) = (m.group, m.term);
                let text = self.text(&words::body(&m.body));
                let _ = write!(parts, "{comma}[{group},{term},{kind},{from},{to},{text}]");
            }
        } else {
            let debug = format!("{:?}", copy.what);
            let name = debug.split(['(', ' ', '{']).next().unwrap_or_default();
            let kind = self.text(name);
            let text = self.text(&words::frame(&copy.what));
            let _ = write!(parts, "[0,0,{kind},0,0,{text}]");
        }
        let fault = self.text(copy.fault.map_or("", |f| f.name()));
        let debug = self.debug(|| format!("{:#?}", copy.what));
        let (from, to) = (copy.from, copy.to);
        format!("[1,{at},{until},{from},{to},{fate},{fault},[{parts}],{debug}]")
    }

    fn call(&mut self, at: u64, call: &CallStory) -> String {
        let asked = self.text(&words::call(&call.call));
        let number = |time: Option<u64>| time.map_or(-1, |us| us as i64);
        let (end, heard, fate, index, revision) = match &call.end {
            Some((end, h)) => {
                let fate = if h.ok { 1 } else { 2 };
                (*end as i64, self.text(&h.text), fate, h.index.0, h.revision)
            }
            None => (-1, self.text(""), 0, 0, 0),
        };
        let write = u8::from(matches!(call.call, crate::history::Call::Write(_)));
        let serial = u8::from(call.call.is_serializable());
        let debug = self.debug(|| {
            let answer = call.end.as_ref().map_or("", |e| e.1.debug.as_str());
            format!("{:#?}\n\n{answer}", call.call)
        });
        let (arrived, answered) = (number(call.arrived_us), number(call.answered_us));
        format!(
            "[3,{at},{arrived},{answered},{end},{},{},{},{},{asked},{heard},{fate},{index},\
             {revision},{write},{serial},{debug}]",
            call.c, call.m, call.group, call.id
        )
    }

    /// role, term, vote, leader, start, last, persisted, commit, applied, configuration.
    fn row(&mut self, row: &Row) -> String {
        let role = self.text(text::role_word(row.role));
        let (vote, leader) = (self.text(&id(row.vote)), self.text(&id(row.leader)));
        let conf = self.text(&conf(&row.conf));
        format!(
            "[{role},{},{vote},{leader},{},{},{},{},{},{conf}]",
            row.term, row.start, row.last, row.persisted, row.commit, row.applied
        )
    }
}

fn id(node: quorate::types::NodeId) -> String {
    if node.is_none() { String::new() } else { node.to_string() }
}

fn conf(conf: &ConfState) -> String {
    let list = |ids: &[quorate::types::NodeId]| {
        ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    };
    let mut text = list(&conf.voters);
    if conf.is_joint() {
        text = format!("{text} & {}", list(&conf.voters_outgoing));
    }
    if !conf.learners.is_empty() {
        text = format!("{text}, learners {}", list(&conf.learners));
    }
    text
}

fn log(log: &LogTerms) -> String {
    let runs: Vec<String> = log.runs.iter().map(|(i, t)| format!("[{i},{t}]")).collect();
    format!("[{},[{}],{}]", log.start, runs.join(","), log.last)
}

/// JSON of a text; every `<` is spelt as an escape, so that nothing in it can end the script
/// element that it will stand in.
pub fn quoted(text: &str) -> String {
    let json = serde_json::to_string(text).unwrap_or_else(|_| "\"\"".to_owned());
    json.replace('<', "\\u003c")
}

pub fn data(story: &Story, now_us: u64, last: &Last) -> String {
    let mut sheet = Sheet { texts: Texts::default(), debug_left: DEBUG_BYTES_MAX };
    let mut events = Vec::new();
    let mut bytes = 0;
    let mut left_out = story.dropped();
    for event in story.events().rev() {
        let landmark = matches!(event.what, What::Note(_) | What::State { turn: true, .. });
        let room = if landmark { EVENT_BYTES_MAX + 500_000 } else { EVENT_BYTES_MAX };
        if bytes + sheet.texts.bytes > room + DEBUG_BYTES_MAX {
            left_out += 1;
            continue;
        }
        let line = sheet.event(event);
        bytes += line.len() + 2;
        events.push(line);
    }
    events.reverse();
    let bars: Vec<String> = story
        .bars()
        .map(|(bar, from, to)| {
            let end = to.map_or(-1, |us| us as i64);
            format!("[{},{},{},{from},{end}]", sheet.text(bar.name), bar.from, bar.to)
        })
        .collect();
    let replicas: Vec<String> = last
        .replicas
        .iter()
        .map(|r| {
            let condition = sheet.text(r.condition);
            let row = r.row.as_ref().map_or("null".to_owned(), |row| sheet.row(row));
            let state = r
                .state
                .map_or("null".to_owned(), |(index, hash)| format!("[{index},\"{hash:016x}\"]"));
            format!("[{},{},{condition},{row},{state},{}]", r.m, r.group, log(&r.log))
        })
        .collect();
    let committed: Vec<String> =
        last.committed.iter().map(|(group, l)| format!("[{group},{}]", log(l))).collect();
    let nodes: Vec<String> = last.nodes.iter().map(|n| quoted(&n.to_string())).collect();
    let texts: Vec<String> = sheet.texts.all.iter().map(|t| quoted(t)).collect();
    format!(
        "{{\"end\":{now_us},\"nodes\":[{}],\"clients\":{},\"watchers\":{},\"groups\":{},\"election\":{},\
         \"leftOut\":{left_out},\n\"replicas\":[{}],\n\"committed\":[{}],\n\"bars\":[{}],\n\
         \"events\":[\n{}\n],\n\"texts\":[\n{}\n]}}",
        nodes.join(","),
        last.clients,
        last.watchers,
        last.groups,
        last.election_us,
        replicas.join(","),
        committed.join(","),
        bars.join(","),
        events.join(",\n"),
        texts.join(",\n")
    )
}
