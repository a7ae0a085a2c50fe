//! A seed's name: a number, and which of its streams are drawn anew.
//!
//! `123` is seed 123. `123/nemesis:7` is the same seed with every stream whose purpose begins with
//! `nemesis` replaced by its seventh variant: a neighbour of a history that was worth a second
//! look, and as replayable as the first.

use crate::text::Field;
use quorate::types::prng::Prng;
use std::fmt;
use std::str::FromStr;

/// One place of a purpose: the number its own generator starts from. Decisions that are drawn so do
/// not know of each other: one more or one less shifts nothing.
pub fn at(key: u64, place: u64) -> u64 {
    let mixed =
        (key ^ place.wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    mixed ^ (mixed >> 32)
}

#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Seed {
    pub number: u64,
    /// Beginnings of purposes, each with its variant.
    pub redrawn: Vec<(String, u64)>,
}

impl Seed {
    pub fn new(number: u64) -> Seed {
        Seed { number, redrawn: Vec::new() }
    }
    pub fn is_plain(&self) -> bool {
        self.redrawn.is_empty()
    }

    /// The number that a purpose's stream is drawn from.
    pub fn word(&self, purpose: &str) -> u64 {
        self.redrawn.iter().filter(|(part, _)| purpose.starts_with(part.as_str())).fold(
            self.number,
            |word, (_, variant)| {
                (word ^ variant.wrapping_mul(0xd6e8_feb8_6659_fd93))
                    .rotate_left(31)
                    .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            },
        )
    }
    pub fn stream(&self, purpose: &str) -> Prng {
        Prng::stream(self.word(purpose), purpose)
    }
    /// A number that stands for one purpose, to be mixed with times and places (`at`).
    pub fn key(&self, purpose: &str) -> u64 {
        self.stream(purpose).next_u64()
    }
}

impl fmt::Display for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.number)?;
        self.redrawn.iter().try_for_each(|(part, variant)| write!(f, "/{part}:{variant}"))
    }
}

impl fmt::Debug for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Field for Seed {
    fn read(text: &str) -> Option<Seed> {
        text.parse().ok()
    }
}

impl FromStr for Seed {
    type Err = String;
    fn from_str(text: &str) -> Result<Seed, String> {
        let wrong = || format!("{text:?} is not a seed: give a number, or 123/stream:7");
        let mut parts = text.trim().split('/');
        let number = parts.next().and_then(|n| n.parse().ok()).ok_or_else(wrong)?;
        let redrawn = parts
            .map(|part| {
                let (name, variant) = part.split_once(':').ok_or_else(wrong)?;
                Ok((name.to_owned(), variant.parse().map_err(|_| wrong())?))
            })
            .collect::<Result<_, String>>()?;
        Ok(Seed { number, redrawn })
    }
}
