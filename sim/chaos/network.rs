//! Links: which are cut, for whom, and which are slow. Shapes by name, not only at random.

use crate::faults::Fault;
use crate::world::World;

impl World {
    pub(super) fn partition(&mut self, side: u64) {
        let n = self.slots.len();
        self.counters.fired(Fault::Partition);
        for a in 0..n {
            for b in 0..n {
                if (side >> a & 1) != (side >> b & 1) {
                    self.net.cut(a, b, Fault::Partition);
                }
            }
        }
    }

    pub(super) fn cut_one_way(&mut self, from: usize, to: usize) {
        self.counters.fired(Fault::OneWay);
        self.net.cut(from, to, Fault::OneWay);
    }

    pub(super) fn isolate_leader(&mut self) {
        let n = self.slots.len();
        let group = self.some_group();
        if let Some(leader) = self.leader_of(group) {
            self.counters.fired(Fault::IsolateLeader);
            for other in (0..n).filter(|o| *o != leader) {
                self.net.cut(leader, other, Fault::IsolateLeader);
                self.net.cut(other, leader, Fault::IsolateLeader);
            }
        }
    }

    pub(super) fn slow_link(&mut self, from: usize, to: usize) {
        self.counters.fired(Fault::SlowLink);
        self.net.slow(from, to);
    }

    /// Both directions between everybody for whom `apart` says so.
    fn cut_where(&mut self, why: Fault, apart: impl Fn(usize, usize) -> bool) {
        self.counters.fired(why);
        for a in 0..self.slots.len() {
            for b in 0..self.slots.len() {
                if a != b && apart(a, b) {
                    self.net.cut(a, b, why);
                }
            }
        }
    }

    /// A minority of the members, half of the time with a leader in it, against the rest.
    pub(super) fn cut_off_minority(&mut self, draw: u64) {
        let n = self.slots.len();
        let size = 1 + draw as usize / 2 % ((n - 1) / 2).max(1);
        let group = self.group_by(draw / 64);
        let leader = self.leader_of(group).filter(|_| draw.is_multiple_of(2));
        let first = leader.unwrap_or((draw >> 32) as usize % n);
        let inside = |m: usize| (m + n - first) % n < size;
        self.cut_where(Fault::Minority, |a, b| inside(a) != inside(b));
    }

    /// Two halves that only one member reaches: each half hears of leaders through it alone.
    pub(super) fn bridge(&mut self, middle: usize, side: u64) {
        let n = self.slots.len();
        let half = |m: usize| (m + n - middle) % n > n / 2;
        let mirrored = side.is_multiple_of(2);
        self.cut_where(Fault::Bridge, |a, b| {
            a != middle && b != middle && (half(a) != half(b)) && (mirrored || a < b || n > 3)
        });
    }

    /// Everybody reaches its neighbours only: each sees another majority. Three members would all
    /// be neighbours; there each hears only the one before it.
    pub(super) fn ring(&mut self) {
        let n = self.slots.len();
        self.cut_where(Fault::Ring, |a, b| {
            let ahead = (b + n - a) % n;
            ahead != 1 && (n <= 3 || ahead != n - 1)
        });
    }

    /// The messages of one group do not pass between two sides; those of the others do.
    pub(super) fn partition_group(&mut self, draw: u64, side: u64) {
        let group = self.group_by(draw);
        self.counters.fired(Fault::GroupPartition);
        let n = self.slots.len();
        let one_way = (draw / 64).is_multiple_of(4);
        for a in 0..n {
            for b in 0..n {
                let (from, to) = (side >> a & 1, side >> b & 1);
                if from != to && (from > to || !one_way) {
                    self.net.cut_group(a, b, group);
                }
            }
        }
    }
}
