//! Connections: who has shaken hands with whom, which streams are dead without anybody knowing,
//! and which members read nothing.

use super::Net;
use crate::faults::Fault;
use crate::plan::SECOND;
use crate::world::SLOTS_MAX;
use std::collections::BTreeMap;

/// After this long without a sign of life the transport gives a stream up.
pub const SILENCE_US: u64 = 5 * SECOND;

#[derive(Default)]
pub struct Sessions {
    /// The two processes that have shaken hands. A cut does not end a connection: nobody notices.
    shaken: BTreeMap<(usize, usize), (u64, u64)>,
    dialled_us: BTreeMap<(usize, usize), u64>,
    /// Members whose machine is gone without a word, and until when their peers believe in the
    /// connection.
    vanished: BTreeMap<usize, u64>,
    /// Members whose process takes nothing from its sockets: which process, and until when.
    deaf: BTreeMap<usize, (u64, u64)>,
}

impl Net {
    /// Whether the connection still stands that these two processes have shaken hands on.
    pub fn connected(&self, from: usize, to: usize, processes: (u64, u64)) -> bool {
        self.sessions.shaken.get(&(from, to)) == Some(&processes)
    }
    /// One side has closed it.
    pub fn disconnect(&mut self, a: usize, b: usize) {
        self.sessions.shaken.remove(&(a, b));
        self.sessions.shaken.remove(&(b, a));
    }
    pub fn connect(&mut self, from: usize, to: usize, processes: (u64, u64)) {
        for (a, b, pair) in [(from, to, processes), (to, from, (processes.1, processes.0))] {
            if self.sessions.shaken.insert((a, b), pair) != Some(pair) {
                // A new connection has nothing queued, and waits for nothing that the old one had
                // (seed 1000068: held up for 25 s behind a peer that no longer was one).
                let link = self.link(a, b);
                if link.clogged.take().is_some() {
                    link.busy_until_us = 0;
                }
            }
        }
    }
    /// Whether it is time to dial (again); a refused or dead address is not asked all the time.
    pub fn may_dial(&mut self, now_us: u64, from: usize, to: usize, pause_us: u64) -> bool {
        let last = self.sessions.dialled_us.entry((from, to)).or_insert(0);
        let may = *last == 0 || now_us >= *last + pause_us;
        if may {
            *last = now_us.max(1);
        }
        may
    }

    /// The stream from one to the other is gone, and what was on it. Tells whether it stood.
    pub fn reset(&mut self, from: usize, to: usize, why: Fault) -> bool {
        self.link(from, to).reset(why);
        self.sessions.shaken.remove(&(from, to)).is_some()
    }

    /// A machine goes down so suddenly that its peers are not told.
    pub fn vanish(&mut self, member: usize, until_us: u64) {
        self.sessions.vanished.insert(member, until_us);
    }
    /// Whether the member's peers still believe in it.
    pub fn vanished(&self, now_us: u64, member: usize) -> bool {
        self.sessions.vanished.get(&member).is_some_and(|until| now_us < *until)
    }
    /// Whether `from` writes into a stream whose other end is dead.
    pub fn half_open(&self, now_us: u64, from: usize, to: usize) -> bool {
        self.vanished(now_us, to) && self.sessions.shaken.contains_key(&(from, to))
    }

    /// From now on the process takes nothing that arrives.
    pub fn deafen(&mut self, now_us: u64, member: usize, process: u64, until_us: u64, why: Fault) {
        self.sessions.deaf.insert(member, (process, until_us));
        for other in (0..SLOTS_MAX).filter(|o| *o != member) {
            self.link(other, member).clog(now_us, until_us, why);
        }
    }
    pub fn is_deaf(&self, now_us: u64, member: usize, process: u64) -> bool {
        let deaf = self.sessions.deaf.get(&member);
        deaf.is_some_and(|(whose, until)| *whose == process && now_us < *until)
    }

    /// A new process at this address, or an end to all trouble.
    pub fn reborn(&mut self, member: usize) {
        self.sessions.vanished.remove(&member);
        self.sessions.deaf.remove(&member);
    }
}
