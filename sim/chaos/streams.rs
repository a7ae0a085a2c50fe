//! Connections: reset, half open, held up, coming and going.
//!
//! What the product has for them: an outbox per peer with two priorities and bounds, a ping that
//! must be answered within five seconds, a handshake before anything else. A stream that is held
//! up keeps what is sent to it until it is full (`net/sift.rs`), and is given up after that time.

use crate::faults::{Act, Fault};
use crate::net::SILENCE_US;
use crate::world::{Event, World};
use quorate::node::Action;
use quorate::types::prng::Prng;

impl World {
    fn tell_peer_down(&mut self, m: usize, peer: usize) {
        if self.slots[m].live.is_some() {
            let p = self.slots[m].process;
            let action = Box::new(Action::PeerDown { peer: self.slots[peer].node });
            let delay = self.travel.between(1, 500);
            self.after(delay, Event::Tell { m, p, action });
        }
    }

    /// Both connections of a pair are reset: both are told, and what was on its way is lost.
    pub(super) fn reset(&mut self, a: usize, b: usize) {
        self.counters.fired(Fault::Reset);
        for (from, to) in [(a, b), (b, a)] {
            if self.net.reset(from, to, Fault::Reset) {
                self.tell_peer_down(from, to);
            }
        }
    }

    /// The stream one way is closed; the one back stands.
    pub(super) fn close_one_side(&mut self, from: usize, to: usize) {
        self.counters.fired(Fault::OneSideClosed);
        if self.net.reset(from, to, Fault::OneSideClosed) {
            self.tell_peer_down(from, to);
        }
    }

    /// A machine goes dark without a word: its peers write into dead streams until they miss its
    /// pongs, or until it is back and knows nothing of them.
    pub(super) fn half_open(&mut self, member: usize, down_us: u64) {
        let slot = &self.slots[member];
        if slot.live.is_none() || slot.wiped {
            return;
        }
        let until_us = self.now_us + down_us.min(SILENCE_US);
        self.net.vanish(member, until_us);
        self.crash(member, down_us, Fault::HalfOpen);
        self.at(until_us, Event::Act { act: Act::Silence { member } });
    }

    /// The process takes nothing from its sockets, and speaks on.
    pub(super) fn deafen(&mut self, member: usize, for_us: u64) {
        if self.slots[member].live.is_some() {
            self.counters.fired(Fault::DeafPeer);
            self.take_nothing(member, for_us, Fault::DeafPeer);
        }
    }

    /// From now on nothing is read at `member`; after a while its peers give the streams up.
    pub(super) fn take_nothing(&mut self, member: usize, for_us: u64, why: Fault) {
        let until_us = self.now_us + for_us;
        let process = self.slots[member].process;
        self.net.deafen(self.now_us, member, process, until_us, why);
        if for_us > SILENCE_US {
            self.after(SILENCE_US, Event::Act { act: Act::Silence { member } });
        }
    }

    pub(super) fn silence(&mut self, member: usize) {
        let slot = &self.slots[member];
        let (gone, process) = (slot.live.is_none(), slot.process);
        let why = if gone { Fault::HalfOpen } else { Fault::DeafPeer };
        if !gone && !self.net.is_deaf(self.now_us, member, process) {
            return;
        }
        for other in (0..self.slots.len()).filter(|o| *o != member) {
            if self.net.reset(other, member, why) {
                self.tell_peer_down(other, member);
            }
        }
    }

    /// One part of a swizzle: nothing that this member sends arrives until it is released.
    pub(super) fn clog(&mut self, member: usize, for_us: u64) {
        let until_us = self.now_us + for_us;
        for other in (0..self.slots.len()).filter(|o| *o != member) {
            self.net.clog(self.now_us, member, other, until_us, Fault::Swizzle);
            self.net.clog(self.now_us, other, member, until_us, Fault::Swizzle);
        }
    }

    /// Stops the links of some members one after the other, and releases them in another order.
    pub(super) fn swizzle(&mut self, draw: u64) {
        self.counters.fired(Fault::Swizzle);
        let mut rng = Prng::new(draw);
        let mut chosen: Vec<(u64, usize)> =
            (0..self.slots.len()).map(|m| (rng.next_u64(), m)).collect();
        chosen.sort_unstable();
        chosen.truncate(1 + rng.below(self.slots.len() as u64) as usize);
        let step_us = 1 + self.plan.election_us() / 2;
        let all_stopped_us = chosen.len() as u64 * step_us;
        for (i, (_, member)) in chosen.iter().enumerate() {
            let stop_us = i as u64 * step_us + rng.below(step_us);
            let release_us = all_stopped_us + rng.below(4 * step_us);
            let act = Act::Clog { member: *member, for_us: release_us - stop_us };
            self.after(stop_us, Event::Act { act });
        }
    }

    /// Down and up again, `turns` times; the first turn may choose a leader to do it to.
    pub(super) fn flap(&mut self, member: usize, other: Option<usize>, period_us: u64, turns: u64) {
        let group = self.group_by(turns);
        let fresh = turns.is_multiple_of(2);
        let member = self.leader_of(group).filter(|_| fresh && other.is_none()).unwrap_or(member);
        let peers: Vec<usize> = match other {
            Some(other) => vec![other],
            None => (0..self.slots.len()).filter(|o| *o != member).collect(),
        };
        if fresh {
            self.counters.fired(Fault::Flapping);
        }
        for peer in peers {
            for (a, b) in [(member, peer), (peer, member)] {
                if fresh {
                    self.net.cut(a, b, Fault::Flapping);
                } else {
                    self.net.mend(a, b, Fault::Flapping);
                }
            }
        }
        if turns > 1 || fresh {
            let act = Act::Flap { member, other, period_us, turns: turns.saturating_sub(1) };
            self.after(period_us, Event::Act { act });
        }
    }
}
