//! The history of one seed as a number, and, on demand, as text.
//!
//! Every event is folded into one hash: two runs of a seed played the same history exactly when
//! their hashes agree. Text lines are built only when somebody will read them.

use std::collections::VecDeque;

/// Text lines kept for a failure's report.
const LINES_MAX: usize = 4_000;

pub struct Trace {
    hash: u64,
    events: u64,
    lines: Option<VecDeque<String>>,
}

impl Trace {
    pub fn new(verbose: bool) -> Trace {
        Trace { hash: 0x6a09_e667_f3bc_c908, events: 0, lines: verbose.then(VecDeque::new) }
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

    pub fn note(&mut self, now_us: u64, line: impl FnOnce() -> String) {
        if let Some(lines) = &mut self.lines {
            if lines.len() == LINES_MAX {
                lines.pop_front();
            }
            lines.push_back(format!("{:>12.6} {}", now_us as f64 / 1e6, line()));
        }
    }

    pub fn hash(&self) -> u64 {
        self.hash
    }
    pub fn events(&self) -> u64 {
        self.events
    }
    pub fn take_lines(&mut self) -> Vec<String> {
        self.lines.take().map(Vec::from).unwrap_or_default()
    }
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
