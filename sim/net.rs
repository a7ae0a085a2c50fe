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
use crate::seed;
use crate::tape::{Decision, Fate, Fates, Moment, Script};
use crate::world::SLOTS_MAX;
use quorate::multiraft::NodeMessage;
use quorate::types::prng::Prng;
use quorate::types::{GroupId, MessageBody};
use session::Sessions;
use sift::{Class, OutboxBounds, Waiting};

/// No message is held up longer by the heavy tail.
const HEAVY_US_MAX: u64 = 2 * SECOND;
/// A copy that was kept for a new leader reaches it within this.
const TURN_US_MAX: u64 = 400 * MS;

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
    /// The newest message's time, and its number among those of that time.
    newest: Moment,
    /// Counts the connections that were reset; what was sent on an earlier one is lost.
    stream: u64,
    /// What the newest reset was done by.
    reset_by: Option<Fault>,
}

impl Link {
    /// The fault that stands on it, if any.
    fn trouble(&self) -> Option<Fault> {
        self.cut
            .or(self.clogged.map(|clog| clog.why))
            .or((self.groups_cut != 0).then_some(Fault::GroupPartition))
            .or(self.slow.then_some(Fault::SlowLink))
    }

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
    turn_one_in: u64,
    delays_key: u64,
    faults_key: u64,
    classes_key: u64,
    fates: Fates,
    /// Of this class one in so many is lost.
    drop_class: Option<(Class, u64)>,
    outbox: OutboxBounds,
    /// Ends of the chaos: links are then open, in order and without loss.
    calm: bool,
}

/// One copy of a message on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flight {
    /// For a copy that waits until its receiver leads: so long after that, counted from now.
    pub arrives_us: u64,
    /// The fault that made it, if it is a copy. A late one is delivered whatever became of the
    /// connection it was sent on.
    pub copy: Option<Fault>,
    /// The connection it travels on; see `Net::arrives`.
    pub stream: u64,
}

impl Net {
    pub fn new(plan: &Plan, script: Option<&Script>, keep: bool) -> Net {
        let mut shape = plan.stream("net-shape");
        let mut more = plan.stream("net-more");
        let class = Class::ALL[more.below(Class::ALL.len() as u64) as usize];
        let class_one_in = [1, 2, 5][more.below(3) as usize];
        let outbox = OutboxBounds {
            messages: [8, 100, 16_384][more.below(3) as usize],
            bytes: [1 << 10, 64 << 10, 32 << 20][more.below(3) as usize],
        };
        let turn_one_in = match plan.stream("net-turns").below(3) {
            _ if !plan.on(Fault::TurnReplay) => 0,
            0 => 3,
            1 => 20,
            _ => 100,
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
            replay_one_in: rate(Fault::LateReplay, &[8, 50, 200, 1_000]),
            turn_one_in,
            delays_key: plan.name.key("net-delays"),
            faults_key: plan.name.key("net-faults"),
            classes_key: plan.name.key("net-classes"),
            fates: match script {
                Some(script) => Fates::Told(script.fates.clone()),
                None => Fates::Drawn(keep.then(Vec::new)),
            },
            drop_class: plan.on(Fault::DropClass).then_some((class, class_one_in)),
            outbox,
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
    /// The fault that stands on a link, if any.
    pub fn trouble(&self, from: usize, to: usize) -> Option<Fault> {
        self.links[self.at(from, to)].trouble()
    }
    pub fn troubles(&self) -> impl Iterator<Item = (usize, usize, Fault)> + '_ {
        // Asked after every step: straight through the links.
        let troubled = |(at, link): (usize, &Link)| {
            link.trouble().map(|fault| (at / SLOTS_MAX, at % SLOTS_MAX, fault))
        };
        self.links.iter().enumerate().filter_map(troubled)
    }
    /// A message's usual delay. A slow link is slow for everything.
    fn usual_us(&self, noise: &mut Prng, slow: bool) -> u64 {
        let delay = self.delay;
        // Two uniform draws multiplied: a cheap skewed distribution with the wanted mean.
        let skewed = noise.below(2 * delay.mean_us + 1) * (1 + noise.below(3)) / 2;
        let base = delay.min_us + skewed;
        // The tail does not grow with a slow link, or it would keep a stream busy long after the
        // healing.
        let heavy = if self.heavy_tail && !self.calm {
            // Half take no longer, a quarter twice, an eighth four times as long, and so on.
            (base << noise.next_u64().leading_zeros().min(9)).min(HEAVY_US_MAX)
        } else {
            0
        };
        if slow { base * 20 + 50 * MS } else { base }.max(heavy)
    }

    /// What becomes of one message, if not the usual: as a tape says, or drawn from the message's
    /// own place.
    fn fates_of(&mut self, from: usize, to: usize, at: Moment) -> Vec<Fate> {
        if self.calm {
            return Vec::new();
        }
        if let Some(told) = self.fates.told((from, to), at) {
            return told;
        }
        let mut rng = Prng::new(place(self.faults_key, from, to, at));
        let mut roll = |one_in: u64| {
            // Drawn in any case, so that switching one fault off leaves the others in place.
            let draw = rng.next_u64();
            (one_in > 0 && draw.is_multiple_of(one_in)).then_some(draw / one_in.max(1))
        };
        let mut fates = Vec::new();
        fates.extend(roll(self.drop_one_in).map(|_| Fate::Drop));
        fates.extend(roll(self.duplicate_one_in).map(|_| Fate::Duplicate));
        let replay = roll(self.replay_one_in);
        fates.extend(replay.map(|draw| Fate::Replay(10 * MS + draw % (8 * SECOND))));
        // The tail does not grow with a slow link, or it would keep a stream busy long after the
        // healing.
        let tail = roll(self.delay.tail_one_in);
        fates.extend(tail.map(|draw| Fate::Late(draw % self.delay.tail_us.max(1))));
        let turn = roll(self.turn_one_in);
        fates.extend(turn.map(|draw| Fate::Turn(draw % TURN_US_MAX)));
        for fate in &fates {
            self.fates.keep((from, to), at, *fate);
        }
        fates
    }

    /// What was decided about messages, in their order.
    pub fn take_fates(&mut self) -> Vec<Decision> {
        match &mut self.fates {
            Fates::Drawn(Some(kept)) => std::mem::take(kept),
            _ => Vec::new(),
        }
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
            let moment = (now_us, link.newest.1 + 1);
            let mut draws = Prng::new(place(self.classes_key, from, to, moment));
            let bounds = self.outbox;
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
        let link = &mut self.links[at];
        let nth = if link.newest.0 == now_us { link.newest.1 + 1 } else { 0 };
        link.newest = (now_us, nth);
        let moment = link.newest;
        let fates = self.fates_of(from, to, moment);
        let mut noise = Prng::new(place(self.delays_key, from, to, moment));
        let stream = self.links[at].stream;
        let repeatable = is_repeatable(message);
        let mut out = Vec::new();
        if fates.contains(&Fate::Drop) {
            counters.fired(Fault::Drop);
            counters.mattered(Fault::Drop);
        } else {
            let slow = self.links[at].slow;
            if slow {
                counters.mattered(Fault::SlowLink);
            }
            let late_us: u64 =
                fates.iter().map(|f| if let Fate::Late(us) = f { *us } else { 0 }).sum();
            let mut arrives_us = now_us + self.usual_us(&mut noise, slow) + late_us;
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
        for fate in fates.into_iter().filter(|_| repeatable) {
            let (after_us, copy) = match fate {
                Fate::Duplicate => (self.usual_us(&mut noise, false), Fault::Duplicate),
                Fate::Replay(after_us) => (after_us, Fault::LateReplay),
                Fate::Turn(_) if !is_for_leaders(message) => continue,
                Fate::Turn(after_us) => (after_us, Fault::TurnReplay),
                Fate::Drop | Fate::Late(_) => continue,
            };
            counters.fired(copy);
            out.push(Flight { arrives_us: now_us + after_us, copy: Some(copy), stream });
        }
        out
    }

    /// Whether links are cut or slow, in a few bits.
    pub fn disturbed(&self) -> u64 {
        let cut = self.links.iter().filter(|l| l.cut.is_some()).count().min(1) as u64;
        cut | u64::from(self.links.iter().any(|l| l.slow)) << 2
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

/// What only somebody who leads, or is about to, makes anything of.
fn is_for_leaders(message: &NodeMessage) -> bool {
    let NodeMessage::Raft(messages) = message else { return false };
    messages.iter().any(|message| {
        matches!(
            message.body,
            MessageBody::AppendReply { .. }
                | MessageBody::HeartbeatReply { .. }
                | MessageBody::VoteReply { .. }
                | MessageBody::PreVoteReply { .. }
                | MessageBody::SnapshotRefused { .. }
        )
    })
}

/// The number that one message's decisions are drawn from.
fn place(key: u64, from: usize, to: usize, (at_us, nth): Moment) -> u64 {
    let link = (from * 64 + to) as u64;
    seed::at(seed::at(key, at_us), link << 32 | u64::from(nth))
}
