//! The network between members: directed links with state, delay and faults of their own.
//!
//! A link is open or cut, and slow or not. What is sent over an open link arrives after a drawn
//! delay, in order as one stream delivers it, unless the plan turns reordering on. A link that is
//! cut when a message would arrive loses it. Sessions stand for connections: each pair of
//! processes shakes hands once before anything is delivered, and again when one of them or the
//! link has changed. Who may speak is the product's own judgement; this file only remembers it.

use crate::faults::{Counters, Fault};
use crate::plan::{Delay, MS, Plan, SECOND};
use crate::seed;
use crate::tape::{Decision, Fate, Fates, Moment, Script};
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
    /// The newest message's time, and its number among those of that time.
    newest: Moment,
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
    delays_key: u64,
    faults_key: u64,
    fates: Fates,
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
    pub fn new(plan: &Plan, script: Option<&Script>, keep: bool) -> Net {
        let mut shape = plan.stream("net-shape");
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
            delays_key: plan.name.key("net-delays"),
            faults_key: plan.name.key("net-faults"),
            fates: match script {
                Some(script) => Fates::Told(script.fates.clone()),
                None => Fates::Drawn(keep.then(Vec::new)),
            },
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

    /// A message's usual delay. A slow link is slow for everything.
    fn usual_us(&self, noise: &mut Prng, slow: bool) -> u64 {
        let delay = self.delay;
        // Two uniform draws multiplied: a cheap skewed distribution with the wanted mean.
        let skewed = noise.below(2 * delay.mean_us + 1) * (1 + noise.below(3)) / 2;
        let base = delay.min_us + skewed;
        if slow { base * 20 + 50 * MS } else { base }
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
            self.links[at].busy_until_us = self.links[at].busy_until_us.max(arrives_us);
            out.push(Flight { arrives_us, copy: None });
        }
        for fate in fates.into_iter().filter(|_| repeatable) {
            let (after_us, copy) = match fate {
                Fate::Duplicate => (self.usual_us(&mut noise, false), Fault::Duplicate),
                Fate::Replay(after_us) => (after_us, Fault::LateReplay),
                Fate::Drop | Fate::Late(_) => continue,
            };
            counters.fired(copy);
            out.push(Flight { arrives_us: now_us + after_us, copy: Some(copy) });
        }
        out
    }

    /// Whether links are cut or slow, in a few bits.
    pub fn disturbed(&self) -> u64 {
        let cut = self.links.iter().filter(|l| l.cut.is_some()).count().min(3) as u64;
        cut | u64::from(self.links.iter().any(|l| l.slow)) << 2
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

/// The number that one message's decisions are drawn from.
fn place(key: u64, from: usize, to: usize, (at_us, nth): Moment) -> u64 {
    let link = (from * 64 + to) as u64;
    seed::at(seed::at(key, at_us), link << 32 | u64::from(nth))
}
