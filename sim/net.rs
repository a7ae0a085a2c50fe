//! The network between members: directed links with state, delay and faults of their own.
//!
//! A link is open or cut, and slow or not. What is sent over an open link arrives after a drawn
//! delay, in order as one stream delivers it, unless the plan turns reordering on. A link that is
//! cut when a message would arrive loses it. Sessions stand for connections: each pair of
//! processes shakes hands once before anything is delivered, and again when one of them or the
//! link has changed. Who may speak is the product's own judgement; this file only remembers it.

use crate::faults::{Counters, Fault};
use crate::plan::{Delay, MS, Plan, SECOND};
use crate::world::SLOTS_MAX;
use quorate::multiraft::NodeMessage;
use quorate::types::MessageBody;
use quorate::types::prng::Prng;
use std::collections::BTreeMap;

#[derive(Clone, Copy, Debug, Default)]
struct Link {
    /// The act that cut it, if any.
    cut: Option<Fault>,
    slow: bool,
    /// Nothing on this link arrives before what was sent earlier.
    busy_until_us: u64,
}

pub struct Net {
    links: Vec<Link>,
    /// The two processes that have shaken hands. A cut does not end a connection: nobody notices.
    sessions: BTreeMap<(usize, usize), (u64, u64)>,
    dialled_us: BTreeMap<(usize, usize), u64>,
    delay: Delay,
    ordered: bool,
    drop_one_in: u64,
    duplicate_one_in: u64,
    replay_one_in: u64,
    delays: Prng,
    faults: Prng,
    /// Ends of the chaos: links are then open, in order and without loss.
    calm: bool,
}

/// One copy of a message on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flight {
    pub arrives_us: u64,
    /// The fault that made it, if it is a copy. A late replay is delivered whatever became of the
    /// connection it was sent on.
    pub copy: Option<Fault>,
}

impl Net {
    pub fn new(plan: &Plan) -> Net {
        let mut shape = Prng::stream(plan.seed, "net-shape");
        let mut rate = |fault: Fault, from: &[u64]| {
            let drawn = from[shape.below(from.len() as u64) as usize];
            if plan.on(fault) { drawn } else { 0 }
        };
        Net {
            links: vec![Link::default(); SLOTS_MAX * SLOTS_MAX],
            sessions: BTreeMap::new(),
            dialled_us: BTreeMap::new(),
            delay: plan.delay,
            ordered: !plan.on(Fault::Reorder),
            drop_one_in: rate(Fault::Drop, &[5, 20, 100]),
            duplicate_one_in: rate(Fault::Duplicate, &[3, 20, 100]),
            replay_one_in: rate(Fault::LateReplay, &[50, 200, 1_000]),
            delays: Prng::stream(plan.seed, "net-delays"),
            faults: Prng::stream(plan.seed, "net-faults"),
            calm: false,
        }
    }

    fn at(&self, from: usize, to: usize) -> usize {
        debug_assert!(from < SLOTS_MAX && to < SLOTS_MAX, "a slot without links");
        from * SLOTS_MAX + to
    }

    pub fn cut(&mut self, from: usize, to: usize, why: Fault) {
        let at = self.at(from, to);
        self.links[at].cut = Some(why);
    }
    pub fn slow(&mut self, from: usize, to: usize) {
        let at = self.at(from, to);
        self.links[at].slow = true;
    }
    /// Opens every link; what the plan says about loss and order stays.
    pub fn heal(&mut self) {
        for link in &mut self.links {
            link.cut = None;
            link.slow = false;
        }
    }
    /// No loss, copies or disorder while calm; what was cut is healed.
    pub fn set_calm(&mut self, calm: bool) {
        self.calm = calm;
        if calm {
            self.heal();
        }
    }
    pub fn open(&self, from: usize, to: usize) -> bool {
        self.links[self.at(from, to)].cut.is_none()
    }
    /// Whether the connection still stands that these two processes have shaken hands on.
    pub fn connected(&self, from: usize, to: usize, processes: (u64, u64)) -> bool {
        self.sessions.get(&(from, to)) == Some(&processes)
    }
    pub fn connect(&mut self, from: usize, to: usize, processes: (u64, u64)) {
        self.sessions.insert((from, to), processes);
        self.sessions.insert((to, from), (processes.1, processes.0));
    }
    /// Whether it is time to dial (again); a refused or dead address is not asked all the time.
    pub fn may_dial(&mut self, now_us: u64, from: usize, to: usize, pause_us: u64) -> bool {
        let last = self.dialled_us.entry((from, to)).or_insert(0);
        let may = *last == 0 || now_us >= *last + pause_us;
        if may {
            *last = now_us.max(1);
        }
        may
    }

    fn draw_delay(&mut self, slow: bool) -> u64 {
        let delay = self.delay;
        // Two uniform draws multiplied: a cheap skewed distribution with the wanted mean.
        let skewed = self.delays.below(2 * delay.mean_us + 1) * (1 + self.delays.below(3)) / 2;
        let tail = delay.tail_one_in > 0 && self.delays.chance(1, delay.tail_one_in) && !self.calm;
        let base = delay.min_us + skewed;
        // A slow link is slow for everything; the tail does not grow with it, or it would keep a
        // stream busy long after the healing.
        let base = if slow { base * 20 + 50 * MS } else { base };
        if tail { base + self.delays.below(delay.tail_us) } else { base }
    }

    /// The copies of one message that will try to arrive.
    pub fn send(
        &mut self,
        now_us: u64,
        from: usize,
        to: usize,
        message: &NodeMessage,
        counters: &mut Counters,
    ) -> Vec<Flight> {
        let at = self.at(from, to);
        if let Some(why) = self.links[at].cut {
            counters.mattered(why);
            return Vec::new();
        }
        let mut out = Vec::new();
        let drop = roll(&mut self.faults, self.drop_one_in, self.calm);
        let duplicate = roll(&mut self.faults, self.duplicate_one_in, self.calm);
        let replay = roll(&mut self.faults, self.replay_one_in, self.calm);
        let replay_us = self.faults.between(10 * MS, 8 * SECOND);
        let repeatable = is_repeatable(message);
        if drop {
            counters.fired(Fault::Drop);
            counters.mattered(Fault::Drop);
        } else {
            let slow = self.links[at].slow;
            if slow {
                counters.mattered(Fault::SlowLink);
            }
            let mut arrives_us = now_us + self.draw_delay(slow);
            if self.ordered || self.calm {
                arrives_us = arrives_us.max(self.links[at].busy_until_us);
            } else if arrives_us < self.links[at].busy_until_us {
                counters.fired(Fault::Reorder);
                counters.mattered(Fault::Reorder);
            }
            self.links[at].busy_until_us = self.links[at].busy_until_us.max(arrives_us);
            out.push(Flight { arrives_us, copy: None });
        }
        if duplicate && repeatable {
            counters.fired(Fault::Duplicate);
            let arrives_us = now_us + self.draw_delay(false);
            out.push(Flight { arrives_us, copy: Some(Fault::Duplicate) });
        }
        if replay && repeatable {
            counters.fired(Fault::LateReplay);
            out.push(Flight { arrives_us: now_us + replay_us, copy: Some(Fault::LateReplay) });
        }
        out
    }

    /// Whether a message that arrives now gets through.
    pub fn arrives(&self, from: usize, to: usize) -> Result<(), Fault> {
        self.links[self.at(from, to)].cut.map_or(Ok(()), Err)
    }
}

/// A stream never delivers a proposal twice, and the sender never sends it twice: its copy would
/// be a second command. Everything else must bear being repeated.
fn is_repeatable(message: &NodeMessage) -> bool {
    match message {
        NodeMessage::Raft(messages) => {
            !messages.iter().any(|m| matches!(m.body, MessageBody::Propose { .. }))
        }
        NodeMessage::MembershipAsk { .. } => false,
        _ => true,
    }
}

fn roll(rng: &mut Prng, one_in: u64, calm: bool) -> bool {
    // The draw is made in any case, so that switching one fault off leaves the others in place.
    let draw = rng.next_u64();
    one_in > 0 && !calm && draw.is_multiple_of(one_in)
}
