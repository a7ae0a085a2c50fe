//! Links: which are cut, which are slow.

use crate::faults::Fault;
use crate::world::World;
use quorate::types::GroupId;

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
        let group = GroupId(1 + self.crashes.below(self.plan.groups));
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
}
