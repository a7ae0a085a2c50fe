//! The loop: one heap of events, one clock, whole members.
//!
//! Every thing that takes time in production is an event of its own here: a message's arrival, a
//! WAL write, its sync, an apply job, one step of a checkpoint, a compaction or a snapshot. Between
//! any two of them a member can crash, and everything it had not synced is then in doubt. The
//! clock moves only between events; nothing else is allowed to know the time.

use crate::faults::{Counters, Fault, Nemesis};
use crate::history::{Answer, Call, CallId, History};
use crate::member::{Live, Work};
use crate::net::Net;
use crate::plan::{MS, Plan};
use crate::runner::{self, Outcome};
use crate::safety::{Checked, Safety, Violation, broken, ensure};
use crate::trace::Trace;
use crate::workload::Client;
use bytes::BytesMut;
use quorate::codec::command::decode_proposal;
use quorate::io::MemDisk;
use quorate::multiraft::NodeMessage;
use quorate::node::{Action, Answer as CoreAnswer, BootError, Output, StopReason, Token};
use quorate::raft::Role;
use quorate::types::prng::Prng;
use quorate::types::{ApiError, EntryKind, GroupId, Incarnation, NodeId, StorageError};
use quorate::wal::Record;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::Duration;

/// One life of one member's process.
pub type Process = u64;

pub enum Event {
    Tick {
        m: usize,
        p: Process,
    },
    Arrive {
        from: usize,
        to: usize,
        receiver: Process,
        copy: Option<Fault>,
        /// The data directory of the process that sent it, and whether that is a wiped one.
        sender: (Incarnation, bool),
        what: Rc<NodeMessage>,
    },
    /// The next piece of work of one of the member's lanes.
    Work {
        m: usize,
        p: Process,
        work: Work,
    },
    /// Something the core is to be told, after a moment.
    Tell {
        m: usize,
        p: Process,
        action: Box<Action>,
    },
    /// A peer has told the member that it is not who it says.
    Refused {
        m: usize,
        p: Process,
    },
    /// A piece of a snapshot leaves.
    Bulk {
        m: usize,
        p: Process,
        to: NodeId,
        message: Box<NodeMessage>,
    },
    /// A client begins its next call.
    Ask {
        c: usize,
    },
    /// A call reaches its member.
    Request {
        m: usize,
        p: Process,
        call: CallId,
        group: GroupId,
        what: Rc<Call>,
    },
    Reply {
        c: usize,
        call: CallId,
        answer: Box<Answer>,
    },
    GiveUp {
        c: usize,
        call: CallId,
    },
    Nemesis,
    Restart {
        m: usize,
    },
    EndOfPhase,
}

struct Item {
    at_us: u64,
    seq: u64,
    event: Event,
}

impl PartialEq for Item {
    fn eq(&self, other: &Item) -> bool {
        (self.at_us, self.seq) == (other.at_us, other.seq)
    }
}
impl Eq for Item {}
impl PartialOrd for Item {
    fn partial_cmp(&self, other: &Item) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Item {
    fn cmp(&self, other: &Item) -> std::cmp::Ordering {
        (self.at_us, self.seq).cmp(&(other.at_us, other.seq))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    Up,
    Down,
    /// Its disk was wiped and it has been refused: it never comes back.
    Gone,
}

/// One member: its disk outlives its processes.
pub struct Slot {
    pub node: NodeId,
    pub disk: MemDisk,
    pub incarnation: Incarnation,
    pub condition: Condition,
    pub process: Process,
    pub live: Option<Live>,
    pub born_us: u64,
    pub paused_until_us: u64,
    pub slow_until_us: u64,
    /// Its disk was wiped: whatever it says must fall on deaf ears.
    pub wiped: bool,
    /// An error was put on its disk on purpose, or the power is set to fail.
    pub sabotaged: Option<Fault>,
    pub restart_at_us: u64,
    /// A restart is on the calendar.
    pub restart_due: bool,
    /// Reads that wait for their barrier.
    reads: BTreeMap<CallId, (GroupId, Rc<Call>)>,
}

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
    pub nemesis: Nemesis,
    pub counters: Counters,
    pub trace: Trace,
    pub travel: Prng,
    pub crashes: Prng,
    pub processes: Process,
    pub restarts: u64,
    pub snapshots: u64,
    /// Which call belongs to which client.
    callers: BTreeMap<CallId, usize>,
    /// Answered calls per group since the phase began that had begun in it.
    pub phase_began_us: u64,
    pub phase_acks: BTreeMap<GroupId, u64>,
    pub phase: Option<crate::chaos::Phase>,
    call_began: BTreeMap<CallId, u64>,
    /// Member addresses at which somebody else answers, and until when.
    pub foreign: BTreeMap<usize, u64>,
    /// The newest leadership that was asked to move, and where to.
    pub transfer: Option<(GroupId, usize)>,
    pub acting: bool,
    /// Clients begin no further calls.
    pub quiet: bool,
    /// The canary: the next successful write's revision is changed on its way to the client.
    spoil: bool,
}

/// Plays one seed to its end.
pub fn play(plan: Plan, verbose: bool) -> Outcome {
    play_world(World::new(plan, verbose))
}

/// Plays a seed with one reply spoilt on its way.
pub fn play_spoilt(plan: Plan) -> Outcome {
    let mut world = World::new(plan, false);
    world.spoil = true;
    play_world(world)
}

fn play_world(mut world: World) -> Outcome {
    let end = catch_unwind(AssertUnwindSafe(|| world.run()));
    let violation = match end {
        Ok(Ok(())) => None,
        Ok(Err(violation)) => Some(violation),
        Err(_) => Some(Violation { rule: "panic", detail: runner::take_panic() }),
    };
    Outcome {
        trace: world.trace.hash(),
        events: world.trace.events(),
        virtual_us: world.now_us,
        acked: world.history.acked(),
        elections: world.safety.elections,
        restarts: world.restarts,
        snapshots: world.snapshots,
        faults: world.counters.clone(),
        violation,
        lines: world.trace.take_lines(),
    }
}

impl World {
    pub fn new(plan: Plan, verbose: bool) -> World {
        let plan = Rc::new(plan);
        let slots = (0..plan.members).map(|m| Slot::new(&plan, m)).collect();
        let clients = (0..plan.clients as u64).map(|c| Client::new(&plan, c)).collect();
        World {
            now_us: 0,
            seq: 0,
            queue: BinaryHeap::new(),
            slots,
            net: Net::new(&plan),
            history: History::new(plan.groups),
            safety: Safety::new(plan.quorum(), plan.groups),
            clients,
            nemesis: Nemesis::new(&plan),
            counters: Counters::default(),
            trace: Trace::new(verbose),
            travel: Prng::stream(plan.seed, "client-travel"),
            crashes: Prng::stream(plan.seed, "crashes"),
            processes: 0,
            restarts: 0,
            snapshots: 0,
            callers: BTreeMap::new(),
            phase_began_us: 0,
            phase_acks: BTreeMap::new(),
            phase: None,
            call_began: BTreeMap::new(),
            foreign: BTreeMap::new(),
            transfer: None,
            acting: false,
            quiet: false,
            spoil: false,
            plan,
        }
    }

    pub fn at(&mut self, at_us: u64, event: Event) {
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

    fn run(&mut self) -> Checked {
        for m in 0..self.plan.members {
            self.boot(m)?;
        }
        for c in 0..self.clients.len() {
            let think = self.clients[c].think_us(&self.plan);
            self.after(think, Event::Ask { c });
        }
        // The cluster first comes to life undisturbed, so that its members know each other's data
        // directories; disturbances of that are seeds' whose first fault comes early.
        let gap = self.nemesis.gap_us(&self.plan);
        self.after(self.plan.election_us() * 3 + gap, Event::Nemesis);
        self.acting = true;
        self.run_until(self.plan.chaos_us)?;
        self.acting = false;
        self.finale()
    }

    /// Plays events up to a point in time.
    pub fn run_until(&mut self, end_us: u64) -> Checked {
        while self.queue.peek().is_some_and(|i| i.0.at_us <= end_us) {
            self.next_event()?;
        }
        self.advance(end_us);
        Ok(())
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
                return Ok(done(self));
            }
            self.next_event()?;
        }
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
            if slot.paused_until_us > self.now_us {
                self.counters.mattered(Fault::Pause);
                let until = slot.paused_until_us;
                self.at(until, item.event);
                return Ok(());
            }
        }
        self.trace.event(self.now_us, kind);
        self.event(item.event)
    }

    fn event(&mut self, event: Event) -> Checked {
        match event {
            Event::Tick { m, p } => {
                self.trace.word(m as u64);
                self.after(self.plan.tick_us, Event::Tick { m, p });
                let now_ms = (self.now_us - self.slots[m].born_us) / MS;
                self.act(m, Action::Tick { now_ms })
            }
            Event::Arrive { from, to, copy, what, receiver, sender } => {
                self.arrive(from, to, receiver, copy, sender, &what)
            }
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
            Event::Request { m, call, group, what, .. } => self.request(m, call, group, &what),
            Event::Reply { c, call, answer } => self.reply(c, call, *answer),
            Event::GiveUp { c, call } => self.give_up(c, call),
            Event::Nemesis => self.disturb(),
            Event::Restart { m } => self.restart(m),
            Event::EndOfPhase => self.end_phase(),
        }
    }

    // Members.

    pub fn live(&mut self, m: usize) -> &mut Live {
        self.slots[m].live.as_mut().expect("the member is up")
    }
    pub fn up(&self) -> Vec<usize> {
        (0..self.slots.len()).filter(|m| self.slots[*m].condition == Condition::Up).collect()
    }
    pub fn index_of(&self, node: NodeId) -> Option<usize> {
        self.slots.iter().position(|s| s.node == node)
    }

    /// Starts the member's process on whatever its disk holds.
    pub fn boot(&mut self, m: usize) -> Checked {
        self.processes += 1;
        let process = self.processes;
        let peers: Vec<NodeId> = self.slots.iter().map(|s| s.node).collect();
        let slot = &mut self.slots[m];
        slot.process = process;
        slot.born_us = self.now_us;
        slot.paused_until_us = 0;
        slot.reads.clear();
        let booted =
            Live::boot(&self.plan, slot.node, &peers, slot.incarnation, &slot.disk, process);
        let (live, found) = match booted {
            Ok(booted) => booted,
            Err(BootError::Storage(error)) => return self.storage_error(m, "boot", &error),
            Err(error) => return broken("boot", format!("member {m}: {error}")),
        };
        let (node, wiped) = (slot.node, slot.wiped);
        slot.live = Some(live);
        slot.condition = Condition::Up;
        self.note(|| format!("{m} boots as process {process}"));
        self.trace.word(process);
        let (there, durable) = (self.live(m).applier.store().checkpoint(), found.checkpoint);
        ensure!(
            durable == Ok(there),
            "recovered-not-durable",
            "member {m} starts with checkpoint {there}; a power failure would leave {durable:?}"
        );
        let found = found.logs;
        for (group, log) in &found {
            let Some(said) = self.live(m).said(*group) else { continue };
            ensure!(
                (said.last, said.term, said.vote) == (log.last(), log.hard.term, log.hard.vote),
                "recovered-not-durable",
                "member {m} group {group} starts with {said:?}; a power failure would leave the \
                 log to {} and {:?}",
                log.last(),
                log.hard
            );
        }
        if !wiped {
            self.safety.on_recovered(node, found)?;
        }
        self.after(1 + (process * 7_919) % self.plan.tick_us, Event::Tick { m, p: process });
        self.end_turn(m)
    }

    /// Ends the member's process. What its disk keeps is the caller's business.
    pub fn stop_process(&mut self, m: usize) {
        let slot = &mut self.slots[m];
        slot.live = None;
        slot.condition = Condition::Down;
        slot.process = 0;
        slot.reads.clear();
        // Whoever is connected learns of it, unless the link is cut.
        let node = slot.node;
        for other in 0..self.slots.len() {
            if other != m && self.slots[other].live.is_some() && self.net.open(m, other) {
                let p = self.slots[other].process;
                let action = Box::new(Action::PeerDown { peer: node });
                self.after(500, Event::Tell { m: other, p, action });
            }
        }
        // Clients lose their connection.
        for c in 0..self.clients.len() {
            if let Some((call, _)) = self.clients[c].open
                && self.clients[c].member == m
            {
                self.after(300, Event::GiveUp { c, call });
            }
        }
    }

    /// Hands the core one action. What it wants is done at the end of its turn: at once, or a
    /// moment later together with what else comes in until then.
    pub fn act(&mut self, m: usize, action: Action) -> Checked {
        let turn_us = self.plan.turn_us;
        let now_ms = (self.now_us - self.slots[m].born_us) / MS;
        let live = self.live(m);
        live.handle(now_ms, action);
        if turn_us == 0 {
            return self.end_turn(m);
        }
        if !live.turn_due {
            live.turn_due = true;
            let p = self.slots[m].process;
            self.after(turn_us, Event::Work { m, p, work: Work::Turn });
        }
        Ok(())
    }

    pub fn end_turn(&mut self, m: usize) -> Checked {
        let output = self.live(m).end_turn();
        self.perform(m, output)?;
        self.inspect(m)
    }

    fn inspect(&mut self, m: usize) -> Checked {
        let slot = &self.slots[m];
        let Some(live) = &slot.live else { return Ok(()) };
        ensure!(
            live.waiting() < 20_000,
            "unbounded",
            "member {m} has {} requests and jobs waiting",
            live.waiting()
        );
        if slot.wiped {
            return Ok(());
        }
        for g in 1..=self.plan.groups {
            if let Some(said) = live.said(GroupId(g)) {
                self.safety.on_status(slot.process, slot.node, GroupId(g), &said)?;
            }
        }
        Ok(())
    }

    pub fn perform(&mut self, m: usize, output: Output) -> Checked {
        let node = self.slots[m].node;
        let p = self.slots[m].process;
        for (to, message) in output.frames {
            self.send(m, to, message)?;
        }
        if let Some(batch) = output.wal {
            for record in &batch.batch.records {
                if let Record::Append { group, entries } = record {
                    self.safety.on_append(node, *group, entries)?;
                }
            }
            self.live(m).wal_batch = Some(batch);
            let delay = self.disk_us(m, self.plan.write_us);
            self.after(delay, Event::Work { m, p, work: Work::WalWrite });
        }
        for job in output.applies {
            let fresh = if self.slots[m].wiped {
                return broken("wiped-applies", format!("{node} was wiped and applies entries"));
            } else {
                self.safety.on_apply(node, job.group, &job.entries)?
            };
            for entry in fresh {
                let proposal = match entry.kind {
                    EntryKind::Command => decode_proposal(&entry.data).ok(),
                    _ => None,
                };
                self.trace.word(entry.index.0);
                self.history.commit(self.now_us, job.group, entry, proposal)?;
            }
            self.live(m).jobs.push_back(crate::member::Job::Apply(job));
        }
        for (group, to) in output.pins {
            self.live(m).jobs.push_back(crate::member::Job::Pin(group, to));
        }
        for read in output.log_reads {
            self.live(m).log_reads.push_back(read);
            let delay = self.disk_us(m, self.plan.write_us);
            self.after(delay, Event::Work { m, p, work: Work::LogRead });
        }
        for (to, fetch) in output.serve {
            self.live(m).fetches.push_back((to, fetch));
            let delay = self.disk_us(m, self.plan.write_us);
            self.after(delay, Event::Work { m, p, work: Work::Serve });
        }
        for step in output.installs {
            self.live(m).installs.push_back(step);
            let delay = self.disk_us(m, self.plan.write_us);
            self.after(delay, Event::Work { m, p, work: Work::Install });
        }
        for (token, result) in output.answers {
            self.answered(m, token, result)?;
        }
        for (group, note) in output.notes {
            self.trace.note(self.now_us, || format!("{m} group {group}: {note:?}"));
        }
        for soft in output.roles {
            if soft.role == Role::Leader && self.transfer == Some((soft.group, m)) {
                self.transfer = None;
                self.counters.mattered(Fault::Transfer);
            }
            self.trace.note(self.now_us, || {
                format!(
                    "{m} group {}: {:?} in term {}, leader {}",
                    soft.group, soft.role, soft.term, soft.leader
                )
            });
        }
        if let Some(root) = output.root {
            self.live(m).follow_root(&root);
        }
        for (peer, refusal) in output.refusals {
            self.note(|| format!("{m} refuses {peer}: {refusal:?}"));
        }
        self.kick(m);
        if let Some(reason) = output.stop {
            self.stopped(m, reason)?;
        }
        Ok(())
    }

    /// A member wants to end of its own accord.
    fn stopped(&mut self, m: usize, reason: StopReason) -> Checked {
        let wiped = self.slots[m].wiped;
        self.note(|| format!("{m} stops: {reason:?}"));
        ensure!(
            wiped && reason == StopReason::IncarnationRefused,
            "unwanted-stop",
            "member {m} stops by itself: {reason:?}"
        );
        self.counters.mattered(Fault::Wipe);
        self.stop_process(m);
        self.slots[m].condition = Condition::Gone;
        Ok(())
    }

    /// What an operation costs on this member's disk now.
    pub fn disk_us(&mut self, m: usize, base_us: u64) -> u64 {
        let slow = self.slots[m].slow_until_us > self.now_us;
        if slow {
            self.counters.mattered(Fault::SlowDisk);
        }
        let spread = 1 + self.travel.below(base_us.max(1));
        if slow { spread * 30 + 20 * MS } else { spread }
    }

    /// Starts the next job of the apply lane and of the background, if they are idle.
    pub fn kick(&mut self, m: usize) {
        let p = self.slots[m].process;
        let (apply_us, sync_us) = (self.plan.apply_us, self.plan.sync_us);
        let Some(live) = self.slots[m].live.as_mut() else { return };
        let apply = !live.applying && !live.jobs.is_empty();
        live.applying |= apply;
        let background = !live.in_background && live.has_background_work();
        live.in_background |= background;
        if apply {
            let delay = 1 + self.travel.below(apply_us);
            self.after(delay, Event::Work { m, p, work: Work::Apply });
        }
        if background {
            let delay = self.disk_us(m, sync_us);
            self.after(delay, Event::Work { m, p, work: Work::Background });
        }
    }

    /// A disk or a file has failed the member: it must stop. Whether that was meant to happen is
    /// known here.
    pub fn storage_error(&mut self, m: usize, doing: &str, error: &StorageError) -> Checked {
        let slot = &mut self.slots[m];
        let Some(fault) = slot.sabotaged.take() else {
            return broken("storage-error", format!("member {m}, {doing}: {error}"));
        };
        self.counters.mattered(fault);
        self.note(|| format!("{m} stops while at {doing}: {error}"));
        self.slots[m].disk.clear_faults();
        // Either the machine goes down as well, or only the process ends and the system's cache
        // stays, with whatever a failed sync has left in it. (The store does not bear the latter
        // yet: SIMULATION.md, "Known gaps".)
        let in_store = error.to_string().contains("snap/db");
        match (fault, self.crashes.chance(1, 2)) {
            (Fault::DiskError, _) if in_store => self.slots[m].disk.crash(),
            (Fault::DiskError, true) => self.slots[m].disk.kill_process(),
            _ => self.crash_disk(m),
        }
        self.stop_process(m);
        let at = self.slots[m].restart_at_us.max(self.now_us + MS);
        self.plan_restart(m, at);
        Ok(())
    }

    // Messages.

    fn send(&mut self, from: usize, to: NodeId, message: NodeMessage) -> Checked {
        let node = self.slots[from].node;
        let Some(to) = self.index_of(to) else {
            return broken("strange-address", format!("{node} sends to {to}"));
        };
        if let NodeMessage::Raft(messages) = &message {
            for message in messages {
                ensure!(
                    message.from == node && message.to == self.slots[to].node,
                    "strange-address",
                    "{node} sends {message:?} to member {to}"
                );
                if !self.slots[from].wiped {
                    self.safety.on_send(node, message)?;
                }
            }
        }
        let p = self.slots[from].process;
        if !self.connect(from, to)? {
            let action = Box::new(Action::Unreachable { peer: self.slots[to].node });
            self.after(200, Event::Tell { m: from, p, action });
            return Ok(());
        }
        let receiver = self.slots[to].process;
        let sender = (self.slots[from].incarnation, self.slots[from].wiped);
        let flights = self.net.send(self.now_us, from, to, &message, &mut self.counters);
        // What arrives is what the bytes say.
        let mut bytes = BytesMut::new();
        message.encode(&mut bytes);
        let bytes = bytes.freeze();
        self.trace.bytes(&bytes);
        match NodeMessage::decode(&bytes) {
            Ok(decoded) if decoded == message => {}
            other => return broken("codec", format!("sent {message:?}, arrived {other:?}")),
        }
        let what = Rc::new(message);
        for flight in flights {
            let what = what.clone();
            let copy = flight.copy;
            self.at(flight.arrives_us, Event::Arrive { from, to, receiver, copy, sender, what });
        }
        Ok(())
    }

    fn arrive(
        &mut self,
        from: usize,
        to: usize,
        receiver: Process,
        copy: Option<Fault>,
        sender: (Incarnation, bool),
        what: &Rc<NodeMessage>,
    ) -> Checked {
        self.trace.word((from * 8 + to) as u64);
        let slot = &self.slots[to];
        if slot.live.is_none() {
            return Ok(());
        }
        if slot.paused_until_us > self.now_us {
            // A frozen process' socket keeps what arrives.
            let until = slot.paused_until_us;
            self.at(until, Event::Arrive { from, to, receiver, copy, sender, what: what.clone() });
            return Ok(());
        }
        if let Err(why) = self.net.arrives(from, to) {
            self.counters.mattered(why);
            return Ok(());
        }
        if copy != Some(Fault::LateReplay) && receiver != slot.process {
            return Ok(());
        }
        if let Some(fault) = copy {
            self.counters.mattered(fault);
        }
        if sender.1 {
            return broken(
                "wiped-heard",
                format!("member {from} was wiped, {to} takes its message"),
            );
        }
        self.trace.note(self.now_us, || format!("{from} -> {to}: {}", describe(what)));
        let action = Action::Frame {
            from: self.slots[from].node,
            incarnation: sender.0,
            message: (**what).clone(),
        };
        self.act(to, action)
    }

    // Clients.

    fn ask(&mut self, c: usize) {
        if self.quiet {
            return;
        }
        let plan = self.plan.clone();
        let (group, call) = self.clients[c].next_call(&plan);
        self.start_call(c, group, call);
    }

    pub fn start_call(&mut self, c: usize, group: GroupId, call: Call) {
        let m = self.clients[c].member;
        let id = self.history.begin(self.now_us, group, call.clone());
        self.callers.insert(id, c);
        if !call.is_serializable() {
            self.call_began.insert(id, self.now_us);
        }
        self.clients[c].open = Some((id, group.0));
        self.trace
            .note(self.now_us, || format!("client {c} call {id} to {m} group {group}: {call:?}"));
        self.after(self.plan.timeout_us, Event::GiveUp { c, call: id });
        let slot = &self.slots[m];
        if slot.live.is_none() || slot.condition != Condition::Up {
            self.after(300, Event::GiveUp { c, call: id });
            return;
        }
        let p = slot.process;
        let delay = self.travel.between(20, 800);
        self.after(delay, Event::Request { m, p, call: id, group, what: Rc::new(call) });
    }

    fn request(&mut self, m: usize, call: CallId, group: GroupId, what: &Rc<Call>) -> Checked {
        self.trace.word(call);
        let token = Token(call);
        match &**what {
            Call::Write(command) => {
                self.act(m, Action::Propose { group, token, command: command.clone() })
            }
            Call::KeepAlive(lease) => {
                self.act(m, Action::KeepAlive { group, token, lease: *lease })
            }
            read if read.is_serializable() => self.read_now(m, call, group, what),
            _ => {
                self.slots[m].reads.insert(call, (group, what.clone()));
                self.act(m, Action::Read { group, token })
            }
        }
    }

    /// Reads the member's own newest state.
    fn read_now(&mut self, m: usize, call: CallId, group: GroupId, what: &Call) -> Checked {
        match self.live(m).read(group, what) {
            Ok(answer) => self.answer(call, answer),
            Err(error) => return self.storage_error(m, "read", &error),
        }
        Ok(())
    }

    fn answered(
        &mut self,
        m: usize,
        token: Token,
        result: Result<CoreAnswer, ApiError>,
    ) -> Checked {
        let call = token.0;
        let read = self.slots[m].reads.remove(&call);
        match (result, read) {
            (Ok(CoreAnswer::Barrier { .. }), Some((group, what))) => {
                return self.read_now(m, call, group, &what);
            }
            (Ok(CoreAnswer::Applied { reply, revision, index, .. }), _) => {
                let spoil = std::mem::take(&mut self.spoil);
                let revision = revision + i64::from(spoil);
                self.answer(call, Answer::Wrote { reply: Ok(reply), revision, index });
            }
            (Ok(CoreAnswer::KeptAlive { ttl_seconds }), _) => {
                self.answer(call, Answer::KeptAlive { ttl_seconds });
            }
            (Ok(other), _) => self.note(|| format!("{m} answers call {call}: {other:?}")),
            (Err(error), _) => {
                let never = crate::member::is_never(&error);
                self.answer(call, Answer::Failed { error, never });
            }
        }
        Ok(())
    }

    fn answer(&mut self, call: CallId, answer: Answer) {
        let Some(&c) = self.callers.get(&call) else { return };
        let delay = self.travel.between(20, 800);
        self.after(delay, Event::Reply { c, call, answer: Box::new(answer) });
    }

    fn reply(&mut self, c: usize, call: CallId, answer: Answer) -> Checked {
        if self.clients[c].open.is_none_or(|(open, _)| open != call) {
            return Ok(());
        }
        self.trace.word(call);
        self.trace.note(self.now_us, || format!("client {c} call {call}: {answer:?}"));
        let (_, group) = self.clients[c].open.take().expect("just looked");
        let group = GroupId(group);
        let began = self.call_began.remove(&call);
        if !matches!(answer, Answer::Failed { .. })
            && began.is_some_and(|at| at >= self.phase_began_us)
        {
            *self.phase_acks.entry(group).or_default() += 1;
        }
        self.clients[c].heard(group, &answer);
        if matches!(answer, Answer::Failed { .. }) {
            let members = self.plan.members;
            self.clients[c].move_on(members);
        }
        self.history.end(self.now_us, call, answer)?;
        self.ask_later(c);
        Ok(())
    }

    fn give_up(&mut self, c: usize, call: CallId) -> Checked {
        if self.clients[c].open.is_none_or(|(open, _)| open != call) {
            return Ok(());
        }
        self.trace.note(self.now_us, || format!("client {c} gives up call {call}"));
        self.clients[c].open = None;
        self.history.abandon(call);
        self.call_began.remove(&call);
        let m = self.clients[c].member;
        let members = self.plan.members;
        self.clients[c].move_on(members);
        self.ask_later(c);
        if self.slots[m].live.is_some() {
            self.slots[m].reads.remove(&call);
            let p = self.slots[m].process;
            let action = Box::new(Action::Cancel { token: Token(call) });
            self.after(100, Event::Tell { m, p, action });
        }
        Ok(())
    }

    fn ask_later(&mut self, c: usize) {
        let plan = self.plan.clone();
        let think = self.clients[c].think_us(&plan);
        self.after(think, Event::Ask { c });
    }
}

impl Event {
    /// A number for the trace, and the process without which the event is void.
    fn place(&self) -> (u64, Option<(usize, Process)>) {
        match self {
            Event::Tick { m, p } => (1, Some((*m, *p))),
            Event::Arrive { .. } => (2, None),
            Event::Work { m, p, work } => (16 + *work as u64, Some((*m, *p))),
            Event::Tell { m, p, .. } => (3, Some((*m, *p))),
            Event::Ask { .. } => (4, None),
            Event::Refused { m, p } => (12, Some((*m, *p))),
            Event::Bulk { m, p, .. } => (11, Some((*m, *p))),
            Event::Request { m, p, .. } => (5, Some((*m, *p))),
            Event::Reply { .. } => (6, None),
            Event::GiveUp { .. } => (7, None),
            Event::Nemesis => (8, None),
            Event::Restart { .. } => (9, None),
            Event::EndOfPhase => (10, None),
        }
    }
}

impl Slot {
    fn new(plan: &Plan, m: usize) -> Slot {
        let mut ids = Prng::stream(plan.seed, "identities");
        let node = NodeId(0x100 + m as u64 * 0x11);
        for _ in 0..m {
            ids.next_u64();
        }
        Slot {
            node,
            disk: MemDisk::new(plan.seed.wrapping_mul(31).wrapping_add(m as u64)),
            incarnation: Incarnation(ids.next_u64() | 1),
            condition: Condition::Down,
            process: 0,
            live: None,
            born_us: 0,
            paused_until_us: 0,
            slow_until_us: 0,
            wiped: false,
            sabotaged: None,
            restart_at_us: 0,
            restart_due: false,
            reads: BTreeMap::new(),
        }
    }
}

fn describe(message: &NodeMessage) -> String {
    match message {
        NodeMessage::Raft(messages) => {
            let each: Vec<String> =
                messages.iter().map(|m| format!("g{} t{} {:?}", m.group, m.term, m.body)).collect();
            each.join("; ")
        }
        other => format!("{other:?}"),
    }
}
