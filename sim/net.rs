//! The network between members: directed links with state, delay and faults of their own.
//!
//! A link is open or cut, and slow or not. What is sent over an open link arrives after a drawn
//! delay, in order as one stream delivers it, unless the plan turns reordering on. A link that is
//! cut when a message would arrive loses it; one that is clogged holds it up, within the bounds of
//! the sender's outbox; one that is reset loses what is on its way. Sessions stand for connections: each pair of
//! processes shakes hands once before anything is delivered, and again when one of them or the
//! link has changed. Who may speak is the product's own judgement; this file only remembers it.

mod session;
mod sift;

pub use session::SILENCE_US;

use crate::faults::{Counters, Fault};
use crate::plan::{Delay, MS, Plan, SECOND};
use crate::world::SLOTS_MAX;
use quorate::multiraft::NodeMessage;
use quorate::types::prng::Prng;
use quorate::types::{GroupId, MessageBody};
use session::Sessions;
use sift::{Class, OutboxBounds, Waiting};

/// No message is held up longer by the heavy tail.
const HEAVY_US_MAX: u64 = 2 * SECOND;

/// What holds a link up: everything sent over it waits until then, as far as there is room.
#[derive(Clone, Copy, Debug)]
struct Clog {
    until_us: u64,
    why: Fault,
    waiting: Waiting,
}

#[derive(Clone, Copy, Debug, Default)]
struct Link {
    /// The act that cut it, if any.
    cut: Option<Fault>,
    /// Groups whose messages it loses: bit by group.
    groups_cut: u64,
    slow: bool,
    clogged: Option<Clog>,
    /// Nothing on this link arrives before what was sent earlier.
    busy_until_us: u64,
    /// Counts the connections that were reset; what was sent on an earlier one is lost.
    stream: u64,
    /// What the newest reset was done by.
    reset_by: Option<Fault>,
}

impl Link {
    fn reset(&mut self, why: Fault) {
        self.stream += 1;
        self.reset_by = Some(why);
        self.clogged = None;
        self.busy_until_us = 0;
    }

    fn clog(&mut self, now_us: u64, until_us: u64, why: Fault) {
        let later = self.clogged.is_some_and(|c| c.until_us >= until_us);
        if until_us > now_us && !later {
            let waiting = self.clogged.map_or(Waiting::default(), |c| c.waiting);
            self.clogged = Some(Clog { until_us, why, waiting });
        }
    }
}

pub struct Net {
    links: Vec<Link>,
    sessions: Sessions,
    delay: Delay,
    heavy_tail: bool,
    ordered: bool,
    drop_one_in: u64,
    duplicate_one_in: u64,
    replay_one_in: u64,
    /// Of this class one in so many is lost.
    drop_class: Option<(Class, u64)>,
    outbox: OutboxBounds,
    delays: Prng,
    faults: Prng,
    classes: Prng,
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
    /// The connection it travels on; see `Net::arrives`.
    pub stream: u64,
}

impl Net {
    pub fn new(plan: &Plan) -> Net {
        let mut shape = Prng::stream(plan.seed, "net-shape");
        let mut more = Prng::stream(plan.seed, "net-more");
        let class = Class::ALL[more.below(Class::ALL.len() as u64) as usize];
        let class_one_in = [1, 2, 5][more.below(3) as usize];
        let outbox = OutboxBounds {
            messages: [8, 100, 16_384][more.below(3) as usize],
            bytes: [1 << 10, 64 << 10, 32 << 20][more.below(3) as usize],
        };
        let mut rate = |fault: Fault, from: &[u64]| {
            let drawn = from[shape.below(from.len() as u64) as usize];
            if plan.on(fault) { drawn } else { 0 }
        };
        Net {
            links: vec![Link::default(); SLOTS_MAX * SLOTS_MAX],
            sessions: Sessions::default(),
            delay: plan.delay,
            heavy_tail: plan.on(Fault::HeavyTail),
            ordered: !plan.on(Fault::Reorder),
            drop_one_in: rate(Fault::Drop, &[5, 20, 100]),
            duplicate_one_in: rate(Fault::Duplicate, &[3, 20, 100]),
            replay_one_in: rate(Fault::LateReplay, &[50, 200, 1_000]),
            drop_class: plan.on(Fault::DropClass).then_some((class, class_one_in)),
            outbox,
            delays: Prng::stream(plan.seed, "net-delays"),
            faults: Prng::stream(plan.seed, "net-faults"),
            classes: Prng::stream(plan.seed, "net-classes"),
            calm: false,
        }
    }

    fn at(&self, from: usize, to: usize) -> usize {
        debug_assert!(from < SLOTS_MAX && to < SLOTS_MAX, "a slot without links");
        from * SLOTS_MAX + to
    }

    fn link(&mut self, from: usize, to: usize) -> &mut Link {
        let at = self.at(from, to);
        &mut self.links[at]
    }

    pub fn cut(&mut self, from: usize, to: usize, why: Fault) {
        let at = self.at(from, to);
        self.links[at].cut = Some(why);
    }
    /// Takes back a cut, if it was this fault's.
    pub fn mend(&mut self, from: usize, to: usize, why: Fault) {
        let link = self.link(from, to);
        if link.cut == Some(why) {
            link.cut = None;
        }
    }
    pub fn cut_group(&mut self, from: usize, to: usize, group: GroupId) {
        self.link(from, to).groups_cut |= 1 << (group.0 % 64);
    }
    /// What is sent over the link from now on waits until then.
    pub fn clog(&mut self, now_us: u64, from: usize, to: usize, until_us: u64, why: Fault) {
        self.link(from, to).clog(now_us, until_us, why);
    }
    pub fn slow(&mut self, from: usize, to: usize) {
        let at = self.at(from, to);
        self.links[at].slow = true;
    }
    /// Opens every link; what the plan says about loss and order stays.
    pub fn heal(&mut self) {
        for at in 0..self.links.len() {
            let link = &mut self.links[at];
            link.cut = None;
            link.groups_cut = 0;
            link.slow = false;
            // What was held up is lost with its connection: waiting for it would hold up the rest.
            if let Some(clog) = link.clogged {
                let (from, to) = (at / SLOTS_MAX, at % SLOTS_MAX);
                self.reset(from, to, clog.why);
            }
        }
        for member in 0..SLOTS_MAX {
            self.reborn(member);
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
    fn draw_delay(&mut self, slow: bool) -> u64 {
        let delay = self.delay;
        // Two uniform draws multiplied: a cheap skewed distribution with the wanted mean.
        let skewed = self.delays.below(2 * delay.mean_us + 1) * (1 + self.delays.below(3)) / 2;
        let tail = delay.tail_one_in > 0 && self.delays.chance(1, delay.tail_one_in) && !self.calm;
        let base = delay.min_us + skewed;
        // A slow link is slow for everything; the tail does not grow with it, or it would keep a
        // stream busy long after the healing.
        let heavy = if self.heavy_tail && !self.calm {
            // Half take no longer, a quarter twice, an eighth four times as long, and so on.
            (base << self.delays.next_u64().leading_zeros().min(9)).min(HEAVY_US_MAX)
        } else {
            0
        };
        let base = if slow { base * 20 + 50 * MS } else { base }.max(heavy);
        if tail { base + self.delays.below(delay.tail_us) } else { base }
    }

    /// What of a frame is put on the link: nothing of a group that is cut, of a class that is
    /// lost, or beyond the bounds of an outbox whose reader does not read. The flag says that an
    /// outbox was full.
    pub fn sift(
        &mut self,
        now_us: u64,
        from: usize,
        to: usize,
        message: NodeMessage,
        counters: &mut Counters,
    ) -> (Option<NodeMessage>, bool) {
        let at = self.at(from, to);
        let mut link = self.links[at];
        if link.clogged.is_some_and(|clog| clog.until_us <= now_us) {
            link.clogged = None;
        }
        let class = self.drop_class.filter(|_| !self.calm);
        let mut full = false;
        let kept = if link.groups_cut == 0 && link.clogged.is_none() && class.is_none() {
            Some(message)
        } else {
            let (bounds, draws) = (self.outbox, &mut self.classes);
            sift::sift(message, |part| {
                if part.group.is_some_and(|g| link.groups_cut >> (g.0 % 64) & 1 == 1) {
                    counters.mattered(Fault::GroupPartition);
                    return false;
                }
                if let Some((class, one_in)) = class
                    && part.class == Some(class)
                    && draws.chance(1, one_in)
                {
                    counters.fired(Fault::DropClass);
                    counters.mattered(Fault::DropClass);
                    return false;
                }
                let Some(clog) = &mut link.clogged else { return true };
                counters.mattered(clog.why);
                let room = clog.waiting.take(bounds, part.urgent, part.cost);
                full |= !room;
                room
            })
        };
        self.links[at] = link;
        (kept, full)
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
        let stream = self.links[at].stream;
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
            if let Some(clog) = self.links[at].clogged {
                arrives_us = arrives_us.max(clog.until_us);
            }
            self.links[at].busy_until_us = self.links[at].busy_until_us.max(arrives_us);
            out.push(Flight { arrives_us, copy: None, stream });
        }
        if duplicate && repeatable {
            counters.fired(Fault::Duplicate);
            let arrives_us = now_us + self.draw_delay(false);
            out.push(Flight { arrives_us, copy: Some(Fault::Duplicate), stream });
        }
        if replay && repeatable {
            counters.fired(Fault::LateReplay);
            let arrives_us = now_us + replay_us;
            out.push(Flight { arrives_us, copy: Some(Fault::LateReplay), stream });
        }
        out
    }

    /// Whether a message that was sent on `stream` and arrives now gets through.
    pub fn arrives(&self, from: usize, to: usize, stream: u64) -> Result<(), Fault> {
        let link = &self.links[self.at(from, to)];
        if let Some(why) = link.reset_by
            && link.stream != stream
        {
            return Err(why);
        }
        link.cut.map_or(Ok(()), Err)
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
