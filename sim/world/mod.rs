//! The loop: one heap of events, one clock, whole members.
//!
//! Every thing that takes time in production is an event of its own here: a message's arrival, a
//! WAL write, its sync, an apply job, one step of a checkpoint, a compaction or a snapshot. Between
//! any two of them a member can crash, and everything it had not synced is then in doubt. The
//! clock moves only between events; nothing else is allowed to know the time.

mod callers;
mod clients;
pub mod clock;
mod compare;
mod control;
mod crashes;
mod decisions;
mod event;
mod members;
mod messages;
mod slot;
mod telling;
mod watches;

pub use compare::Sampled;
pub use control::self_check;
pub use crashes::Point;
pub use event::{Event, Process};
pub use members::UPKEEP_US;
pub use slot::{Condition, Gone, SLOTS_MAX, Slot};

use crate::chaos::{Foreign, Roster};
use crate::coverage::Coverage;
use crate::effects::Effects;
use crate::faults::{Counters, Fault, Nemesis};
use crate::history::{CallId, History};
use crate::member::Work;
use crate::net::Net;
use crate::plan::Plan;
use crate::rules::is_spoilt;
use crate::run::{self, Job, Outcome};
use crate::safety::{Checked, Safety, Violation, broken};
use crate::seed;
use crate::tape::{Decision, Script};
use crate::trace::Trace;
use crate::watch::{Heard, Watcher};
use crate::workload::{Client, Promises};
use bytes::Bytes;
use compare::HashKvs;
use event::Item;
use messages::Kept;
use quorate::io::MemDisk;
use quorate::node::{Action, StopReason};
use quorate::types::prng::Prng;
use quorate::types::{GroupId, NodeId};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::Duration;

/// One seed in this many is judged from outside as well, and every one that is played alone.
const BLACK_BOX_ONE_IN: u64 = 4;

pub struct World {
    pub plan: Rc<Plan>,
    pub now_us: u64,
    seq: u64,
    queue: BinaryHeap<Reverse<Item>>,
    pub slots: Vec<Slot>,
    pub net: Net,
    pub history: History,
    pub safety: Safety,
    pub clients: Vec<Client>,
    pub promises: Promises,
    pub watchers: Vec<Watcher>,
    streams: BTreeMap<u64, watches::Stream>,
    next_stream: u64,
    watch_travel: Prng,
    pub watched: Heard,
    /// How much the sampled checkers have seen.
    pub checked: Sampled,
    hash_kvs: HashKvs,
    pub nemesis: Nemesis,
    pub roster: Roster,
    pub counters: Counters,
    pub trace: Trace,
    /// Spread of what clients and disks take: noise, drawn anew at each event by its time.
    pub travel: Prng,
    travel_key: u64,
    /// The details of the newest act, and of what follows from it.
    pub crashes: Prng,
    pub coverage: Coverage,
    pub effects: Effects,
    /// Where to crash, if that is what this run is for.
    point: Option<Point>,
    /// The disturbances end early.
    chaos_ends_us: u64,
    /// What was decided, if somebody wants to know.
    decided: Option<Vec<Decision>>,
    /// What a tape says is to happen, instead of drawing it.
    script: Option<Script>,
    pub processes: Process,
    pub restarts: u64,
    pub snapshots: u64,
    /// Copies of messages by the member that has to lead before they arrive.
    kept: BTreeMap<usize, Vec<Kept>>,
    /// Which call belongs to which client.
    callers: BTreeMap<CallId, usize>,
    /// Answered calls per group since the phase began that had begun in it.
    pub phase_began_us: u64,
    pub phase_acks: BTreeMap<GroupId, u64>,
    /// Of these, groups that have taken a write.
    pub phase_wrote: BTreeSet<GroupId>,
    /// Writes by their values that count as taken when they are committed and their client has
    /// heard something, if only that it took too long: (committed, heard).
    pub probes: BTreeMap<(GroupId, Bytes), (bool, bool)>,
    pub phase_groups: Vec<GroupId>,
    /// Groups that were asked when the phase's promise was due, and early enough for an answer.
    pub phase_asked: BTreeSet<GroupId>,
    /// The same of writes that nothing but a lack of service can refuse.
    pub phase_asked_write: BTreeSet<GroupId>,
    pub phase_ends_us: u64,
    pub phase: Option<crate::chaos::Phase>,
    call_began: BTreeMap<CallId, u64>,
    /// Member addresses at which somebody else answers.
    pub foreign: BTreeMap<usize, Foreign>,
    /// What a member's disk held when it was last copied.
    pub older: BTreeMap<usize, MemDisk>,
    /// The newest leadership that was asked to move, and where to.
    pub transfer: Option<(GroupId, usize)>,
    pub acting: bool,
    /// How long everybody stood still since this was looked at last.
    pub frozen_us: u64,
    /// How long since the beginning.
    pub frozen_in_all_us: u64,
    /// Until then everybody stands still, the nemesis and those who would start included.
    pub frozen_until_us: u64,
    /// Clients begin no further calls.
    pub quiet: bool,
    /// The canary: the next successful write's revision is changed on its way to the client.
    spoil: bool,
}

/// Plays one seed to its end.
pub fn play(plan: Plan, job: &Job) -> Outcome {
    play_world(World::new(plan, job))
}

/// Plays a seed with one reply spoilt on its way.
pub fn play_spoilt(plan: Plan) -> Outcome {
    let mut world = World::new(plan, &Job { verbose: true, ..Job::default() });
    world.spoil = true;
    play_world(world)
}

fn play_world(mut world: World) -> Outcome {
    let end = catch_unwind(AssertUnwindSafe(|| world.run()));
    world.tell_standing();
    let violation = match end {
        Ok(Ok(())) => None,
        Ok(Err(mut violation)) => {
            world.second_opinion(&mut violation);
            Some(violation)
        }
        Err(_) => Checked::err(broken!("panic", run::take_panic())),
    };
    // What has panicked may do so again when it is asked how it is.
    let last = catch_unwind(AssertUnwindSafe(|| world.last())).unwrap_or_default();
    let (lines, told) = world.trace.take_story(world.now_us, last);
    let tape = world.take_tape();
    Outcome {
        tape,
        pairs: std::mem::take(&mut world.effects.pairs),
        places: world.effects.places.take().unwrap_or_default(),
        point_reached: world.point.is_none(),
        states: std::mem::take(&mut world.coverage.states),
        probes: std::mem::take(&mut world.coverage.probes),
        trace: world.trace.hash(),
        events: world.trace.events(),
        virtual_us: world.now_us,
        acked: world.history.acked(),
        elections: world.safety.elections,
        restarts: world.restarts,
        snapshots: world.snapshots,
        watched: world.watched,
        checked: world.checked,
        faults: world.counters.clone(),
        violation,
        lines,
        told,
    }
}

impl World {
    pub fn new(plan: Plan, job: &Job) -> World {
        let plan = Rc::new(plan);
        let script = job.tape.as_ref().map(|tape| Script::new(tape));
        let slots = (0..plan.members).map(|m| Slot::founding(&plan, m)).collect();
        let founders: Vec<NodeId> = (0..plan.members).map(slot::founder).collect();
        let (clients, keepers) = (plan.clients as u64, plan.lease_keepers);
        let plain = (0..clients).map(|c| Client::new(&plan, c));
        let clients =
            plain.chain((clients..clients + keepers).map(|c| Client::keeper(&plan, c))).collect();
        let watchers = (0..plan.watch.watchers).map(|w| Watcher::new(&plan, w)).collect();
        let mut history = History::new(plan.groups, plan.drift_ppm());
        history.lease_grace(plan.election_us());
        history.quota = plan.quota_bytes > 0;
        if job.verbose || plan.seed.is_multiple_of(BLACK_BOX_ONE_IN) {
            history.keep_record();
        }
        World {
            now_us: 0,
            seq: 0,
            queue: BinaryHeap::new(),
            slots,
            net: Net::new(&plan, script.as_ref(), job.record),
            history,
            safety: Safety::new(plan.groups, &founders),
            clients,
            promises: Promises::new(plan.drift_ppm()),
            watchers,
            streams: BTreeMap::new(),
            next_stream: 1,
            watch_travel: plan.stream("watch-travel"),
            watched: Heard::default(),
            checked: Sampled::default(),
            hash_kvs: HashKvs::default(),
            nemesis: Nemesis::new(&plan),
            roster: Roster::new(&plan),
            counters: Counters::default(),
            trace: Trace::new(job.verbose),
            travel: plan.stream("noise"),
            travel_key: plan.name.key("noise"),
            crashes: plan.stream("crashes"),
            coverage: Coverage::default(),
            effects: Effects::new(job.places),
            point: job.point,
            chaos_ends_us: u64::MAX,
            decided: job.record.then(Vec::new),
            script,
            processes: 0,
            restarts: 0,
            snapshots: 0,
            kept: BTreeMap::new(),
            callers: BTreeMap::new(),
            phase_began_us: 0,
            phase_acks: BTreeMap::new(),
            phase_wrote: BTreeSet::new(),
            probes: BTreeMap::new(),
            phase_groups: Vec::new(),
            phase_asked: BTreeSet::new(),
            phase_asked_write: BTreeSet::new(),
            phase_ends_us: 0,
            phase: None,
            call_began: BTreeMap::new(),
            foreign: BTreeMap::new(),
            older: BTreeMap::new(),
            transfer: None,
            acting: false,
            frozen_us: 0,
            frozen_in_all_us: 0,
            frozen_until_us: 0,
            quiet: false,
            spoil: false,
            plan,
        }
    }

    pub fn at(&mut self, at_us: u64, event: Event) {
        if let Event::Work { m, work, .. } = &event
            && *work != Work::Turn
        {
            self.trace.work_begins(self.now_us, *m, work.name());
        }
        self.seq += 1;
        self.queue.push(Reverse(Item { at_us: at_us.max(self.now_us), seq: self.seq, event }));
    }
    pub fn after(&mut self, delay_us: u64, event: Event) {
        self.at(self.now_us + delay_us, event);
    }
    pub fn note(&mut self, line: impl FnOnce() -> String) {
        self.trace.note(self.now_us, line);
    }

    fn advance(&mut self, to_us: u64) {
        if to_us > self.now_us {
            madsim::time::advance(Duration::from_micros(to_us - self.now_us));
            self.now_us = to_us;
        }
    }

    /// All members start, and clients and watchers begin to ask.
    fn begin(&mut self) -> Checked {
        for m in 0..self.plan.members {
            self.power_may_fail_at_birth(m);
            self.boot(m)?;
        }
        // The power may have failed under any of them.
        while self.up().is_empty() {
            self.next_event()?;
        }
        let first = self.up()[0];
        self.roster.root = self.live(first).root();
        for c in 0..self.clients.len() {
            let think = self.clients[c].pause_us(&self.plan, 0);
            self.plan_ask(c, think);
        }
        self.start_watching();
        Ok(())
    }

    fn run(&mut self) -> Checked {
        self.begin()?;
        assert!(!is_spoilt("panic"), "the canary");
        // The cluster first comes to life undisturbed, so that its members know each other's data
        // directories; disturbances of that are seeds' whose first fault comes early.
        self.nemesis.turn();
        let gap = self.nemesis.gap_us(&self.plan);
        self.plan_act(self.plan.election_us() * 3 + gap);
        self.acting = true;
        let mut end_us = self.plan.chaos_us;
        while self.now_us < end_us {
            if self.run_to(end_us, |w| w.now_us >= w.chaos_ends_us)? {
                break;
            }
            // While the whole world stood still there was no chaos.
            end_us += std::mem::take(&mut self.frozen_us);
        }
        if self.phase.is_none() && self.now_us < self.chaos_ends_us {
            self.crash_rarely_at_the_end();
            let end_us = self.now_us + self.plan.election_us() * 2;
            self.run_to(end_us, |w| w.phase.is_some())?;
        }
        self.acting = false;
        self.finale()
    }

    /// Plays events up to a point in time.
    pub fn run_until(&mut self, end_us: u64) -> Checked {
        while self.queue.peek().is_some_and(|i| i.0.at_us <= end_us) {
            self.next_event()?;
        }
        self.advance(end_us);
        self.settle_noise();
        Ok(())
    }

    /// What is done between two events has a place of its own: the event before it may be a turn
    /// of the nemesis of which nothing comes, and which a tape does not have.
    fn settle_noise(&mut self) {
        self.travel = Prng::new(seed::at(seed::at(self.travel_key, self.now_us), u64::MAX));
    }

    /// Plays events until `done` says so; false when the time runs out first.
    pub fn run_to(
        &mut self,
        end_us: u64,
        mut done: impl FnMut(&World) -> bool,
    ) -> Result<bool, Violation> {
        while !done(self) {
            if self.queue.peek().is_none_or(|i| i.0.at_us > end_us) {
                self.advance(end_us);
                self.settle_noise();
                return Ok(done(self));
            }
            self.next_event()?;
        }
        self.settle_noise();
        Ok(true)
    }

    fn next_event(&mut self) -> Checked {
        let Some(Reverse(item)) = self.queue.pop() else { return Ok(()) };
        self.advance(item.at_us);
        let (kind, target) = item.event.place();
        if let Some((m, p)) = target {
            let slot = &self.slots[m];
            if slot.process != p || slot.live.is_none() {
                return Ok(());
            }
        }
        let event = match item.event.member() {
            Some(m) => match self.park(m, item.event) {
                Some(event) => event,
                None => return Ok(()),
            },
            None => item.event,
        };
        // A turn of the nemesis is an event only when something comes of it (`disturb`).
        if kind != Event::NEMESIS {
            self.trace.event(self.now_us, kind);
        }
        // Noise belongs to a time and a place: a decision that is taken away elsewhere does not
        // change it.
        let place = target.map_or(0, |(m, _)| m as u64 + 1) << 8 | kind;
        self.travel = Prng::new(seed::at(seed::at(self.travel_key, self.now_us), place));
        let done = self.event(event);
        self.tell_standing();
        done
    }

    fn event(&mut self, event: Event) -> Checked {
        match event {
            Event::Tick { m, p } => {
                self.trace.word(m as u64);
                let slot = &self.slots[m];
                let every_us = slot.clock.true_us(self.plan.tick_us);
                let (now_ms, starved) =
                    (slot.now_ms(self.now_us), slot.starved_until_us > self.now_us);
                if slot.clock.drifts() {
                    self.counters.mattered(clock::drift_fault(&self.plan));
                }
                self.after(every_us, Event::Tick { m, p });
                if starved {
                    self.counters.mattered(Fault::TickStarvation);
                    return Ok(());
                }
                self.act(m, Action::Tick { now_ms })?;
                if self.is_removed(m) {
                    self.dial_everybody(m)?;
                }
                Ok(())
            }
            Event::Arrive { way, what } => self.arrive(way, &what),
            Event::Work { m, work, .. } => self.work(m, work),
            Event::Tell { m, action, .. } => {
                self.trace.word(m as u64);
                self.act(m, *action)
            }
            Event::Refused { m, .. } => self.stopped(m, StopReason::IncarnationRefused),
            Event::Bulk { m, to, message, .. } => self.send(m, to, *message),
            Event::Ask { c } => {
                self.ask(c);
                Ok(())
            }
            Event::Request { m, call, group, what, by, .. } => {
                self.request(m, call, group, &what, by)
            }
            Event::Reply { c, call, answer } => self.reply(c, call, *answer),
            Event::GiveUp { c, call } => self.give_up(c, call),
            Event::Nemesis => self.disturb(),
            Event::Act { act } => self.go_on(act),
            Event::Wake { m } => {
                self.wake(m);
                Ok(())
            }
            Event::Restart { m } => self.restart(m),
            Event::EndOfPhase => self.end_phase(),
            Event::Watching(step) => self.watching(step),
        }
    }
}
