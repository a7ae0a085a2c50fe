//! Seeds worth a second look: those that reached states of the protocol which no seed before them
//! had. Long runs play them again with one stream redrawn, every second time.
//!
//! What a derived seed is depends on what ran before it; the seed itself does not: its name
//! replays it anywhere.

use crate::plan::Seed;
use std::collections::VecDeque;

/// Streams whose redrawing leaves the rest of a history recognisable.
const STREAMS: [&str; 6] = ["nemesis", "client-", "net-", "crashes", "noise", "plan-limits"];
/// Everything is new at first: before so many seeds nothing is rare.
const WARM_UP: u64 = 200;
const KEPT_MAX: usize = 256;
/// Variants played of one seed for each new state it brought, and at most.
const TRIES_MAX: u64 = 12;

#[derive(Default)]
pub struct Corpus {
    heard: u64,
    turn: bool,
    drawn: u64,
    kept: VecDeque<(Seed, u64)>,
}

impl Corpus {
    /// A seed is done and has brought so many new states.
    pub fn heard(&mut self, seed: &Seed, fresh: u64) {
        self.heard += 1;
        if self.heard > WARM_UP && fresh > 0 && seed.redrawn.len() < 4 {
            self.kept.push_back((seed.clone(), (2 * fresh).min(TRIES_MAX)));
            if self.kept.len() > KEPT_MAX {
                self.kept.pop_front();
            }
        }
    }

    /// A neighbour of one that is kept, every second time while there are any.
    pub fn next(&mut self) -> Option<Seed> {
        self.turn = !self.turn;
        if self.turn {
            return None;
        }
        let (mut seed, tries) = self.kept.pop_front()?;
        if tries > 1 {
            self.kept.push_back((seed.clone(), tries - 1));
        }
        self.drawn += 1;
        let stream = STREAMS[(self.drawn % STREAMS.len() as u64) as usize];
        // A stream is redrawn from where it was, not on top of an earlier redrawing.
        seed.redrawn.retain(|(name, _)| name != stream);
        seed.redrawn.push((stream.to_owned(), self.drawn));
        Some(seed)
    }
}
