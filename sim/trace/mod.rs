//! The history of one seed as a number and, on demand, as a story: lines of text and a picture.
//!
//! Every event is folded into one hash: two runs of a seed played the same history exactly when
//! their hashes agree. The story is built only when somebody will look at it, from what the world
//! tells on the way; nothing in it reaches the hash, and nothing here decides anything.
//!
//! To tell of something new, two calls are enough: `note` for a line (one that begins with a
//! member's number is drawn in that member's lane), `client` for a mark in a client's lane. A fault
//! that lasts needs no call at all when `World::standing` can see that it stands.

mod draw;
pub mod html;
mod story;
pub mod text;
pub mod words;

pub use story::{Fate, Last, LastReplica, LogTerms, Row, Standing};

use crate::faults::Fault;
use crate::history::{Call, CallId};
use quorate::multiraft::NodeMessage;
use quorate::types::{GroupId, LogIndex, Term};
use std::rc::Rc;
use story::{Copy, Heard, Story, What};

pub struct Trace {
    hash: u64,
    events: u64,
    story: Option<Box<Story>>,
}

impl Trace {
    pub fn new(verbose: bool) -> Trace {
        let story = verbose.then(Box::default);
        Trace { hash: 0x6a09_e667_f3bc_c908, events: 0, story }
    }

    pub fn word(&mut self, word: u64) {
        let wide = u128::from(self.hash.rotate_left(23) ^ word) * 0x9e37_79b9_7f4a_7c15_u128;
        self.hash = (wide as u64) ^ ((wide >> 64) as u64) ^ 0x2545_f491_4f6c_dd1d;
    }

    pub fn bytes(&mut self, bytes: &[u8]) {
        self.word(hash_bytes(bytes));
    }

    /// One event of the world: its time and its kind.
    pub fn event(&mut self, now_us: u64, kind: u64) {
        self.events += 1;
        self.word(now_us);
        self.word(kind);
    }

    /// Whether anybody will look: what costs something to say is said only then.
    pub fn is_on(&self) -> bool {
        self.story.is_some()
    }

    /// A line of the story. One that begins with a member's number is about that member.
    pub fn note(&mut self, now_us: u64, line: impl FnOnce() -> String) {
        if let Some(story) = &mut self.story {
            story.push(now_us, What::Note(line()));
        }
    }

    /// Something that a client saw at one moment: an event of a watch, a change of member.
    pub fn client(&mut self, now_us: u64, c: usize, line: impl FnOnce() -> String) {
        if let Some(story) = &mut self.story {
            story.push(now_us, What::Client { c, text: line() });
        }
    }

    /// A frame that leaves. The number names it in `met`; 0 when nobody looks.
    pub fn sent(
        &mut self,
        now_us: u64,
        way: (usize, usize),
        what: &Rc<NodeMessage>,
        copy: Option<Fault>,
        arrives_us: u64,
    ) -> u64 {
        let Some(story) = &mut self.story else { return 0 };
        let copy = Copy { from: way.0, to: way.1, fault: copy, what: what.clone() };
        story.push(now_us, What::Message { copy, until_us: arrives_us, fate: Fate::Flying })
    }

    /// What became of a frame.
    pub fn met(&mut self, number: u64, now_us: u64, end: Fate) {
        if let Some(story) = &mut self.story
            && let Some(What::Message { until_us, fate, .. }) = story.find(number)
        {
            (*until_us, *fate) = (now_us, end);
        }
    }

    /// A piece of work of one of a member's lanes is on the calendar.
    pub fn work_begins(&mut self, now_us: u64, m: usize, work: &'static str) {
        if let Some(story) = &mut self.story {
            story.begin_work(now_us, m, work);
        }
    }
    pub fn work_ends(&mut self, now_us: u64, m: usize, work: &'static str, text: String) {
        if let Some(story) = &mut self.story {
            let began_us = story.end_work(m, work).unwrap_or(now_us);
            story.push(now_us, What::Work { m, work, began_us, text });
        }
    }

    pub fn call(&mut self, now_us: u64, c: usize, m: usize, group: GroupId, id: CallId, w: &Call) {
        if let Some(story) = &mut self.story {
            story.begin_call(now_us, c, m, group, id, w);
        }
    }
    /// The call has reached its member.
    pub fn call_arrives(&mut self, now_us: u64, id: CallId) {
        if let Some(call) = self.story.as_mut().and_then(|s| s.open_call(id)) {
            call.arrived_us.get_or_insert(now_us);
        }
    }
    /// The member has answered it.
    pub fn call_leaves(&mut self, now_us: u64, id: CallId) {
        if let Some(call) = self.story.as_mut().and_then(|s| s.open_call(id)) {
            call.answered_us.get_or_insert(now_us);
        }
    }
    /// The client has heard the answer.
    pub fn call_ends(&mut self, now_us: u64, id: CallId, answer: &crate::history::Answer) {
        if let Some(story) = &mut self.story {
            story.end_call(now_us, id, Heard::of(answer));
        }
    }
    pub fn call_given_up(&mut self, now_us: u64, id: CallId) {
        if let Some(story) = &mut self.story {
            story.end_call(now_us, id, Heard::given_up());
        }
    }

    /// An entry is applied for the first time: from here on it is in the history.
    pub fn commit(
        &mut self,
        now_us: u64,
        m: usize,
        group: GroupId,
        at: (LogIndex, Term),
        text: impl FnOnce() -> (String, i64),
    ) {
        if let Some(story) = &mut self.story {
            let (text, revision) = text();
            story.push(now_us, What::Commit { m, group, at, text, revision });
        }
    }

    /// What a replica says of itself, whenever it may have changed.
    pub fn state(&mut self, now_us: u64, m: usize, group: GroupId, row: Row) {
        if let Some(story) = &mut self.story {
            story.state(now_us, m, group, row);
        }
    }

    /// The faults that stand at this moment.
    pub fn standing(&mut self, now_us: u64, now: &[Standing]) {
        if let Some(story) = &mut self.story {
            story.standing(now_us, now);
        }
    }

    pub fn hash(&self) -> u64 {
        self.hash
    }
    pub fn events(&self) -> u64 {
        self.events
    }

    /// The whole story, as lines of text and otherwise; empty when nobody was to look.
    pub fn take_story(&mut self, now_us: u64, last: Last) -> (Vec<String>, Told) {
        let Some(story) = self.story.take() else { return Default::default() };
        let (lines, turns) = text::lines(&story);
        (lines, Told { turns, picture: draw::data(&story, now_us, &last) })
    }
}

/// A story as it can be handed on, besides its lines (`text::HEAD`).
#[derive(Debug, Default)]
pub struct Told {
    /// Those of the lines where somebody's state took a turn.
    pub turns: Vec<String>,
    /// JSON for `html::page`.
    pub picture: String,
}

pub fn hash_bytes(bytes: &[u8]) -> u64 {
    let mut h = 0x51_7c_c1_b7_27_22_0a_95_u64 ^ bytes.len() as u64;
    let (words, tail) = bytes.as_chunks::<8>();
    let mut last = [0; 8];
    last[..tail.len()].copy_from_slice(tail);
    for word in words.iter().chain(std::iter::once(&last)) {
        let wide =
            u128::from(h.rotate_left(29) ^ u64::from_le_bytes(*word)) * 0xd6e8_feb8_6659_fd93_u128;
        h = (wide as u64) ^ ((wide >> 64) as u64);
    }
    h
}
