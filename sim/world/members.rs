//! Members: start, end, one turn, and what a turn wants done.

use super::World;
use super::clock;
use super::event::Event;
use super::slot::{Condition, Gone};
use crate::coverage::Facet;
use crate::effects::Effect;
use crate::faults::Fault;
use crate::member::{Live, Work};
use crate::plan::MS;
use crate::rules::is_spoilt;
use crate::safety::{Checked, broken, ensure};
use crate::trace::words;
use quorate::codec::command::decode_proposal;
use quorate::node::{Action, BootError, Output, StopReason};
use quorate::raft::{Note, Role};
use quorate::types::{ClusterId, Command, Entry, EntryKind, GroupId, NodeId, StorageError, Term};
use quorate::wal::Record;

/// How often a member looks after watchers that no event wakes, as in production.
pub const UPKEEP_US: u64 = 100 * MS;

impl World {
    pub fn live(&mut self, m: usize) -> &mut Live {
        self.slots[m].live.as_mut().expect("the member is up")
    }
    pub fn up(&self) -> Vec<usize> {
        (0..self.slots.len()).filter(|m| self.slots[*m].condition == Condition::Up).collect()
    }
    /// The slot of a member of one cluster.
    pub fn index_of(&self, cluster: ClusterId, node: NodeId) -> Option<usize> {
        self.slots.iter().position(|s| s.node == node && s.birth.cluster == cluster)
    }

    /// Starts the member's process on whatever its disk holds.
    pub fn boot(&mut self, m: usize) -> Checked {
        self.processes += 1;
        let process = self.processes;
        let slot = &mut self.slots[m];
        slot.process = process;
        slot.born_us = self.now_us;
        slot.paused_until_us = 0;
        (slot.clock_stopped_at_us, slot.clock_stood_us) = (None, 0);
        slot.rolling = false;
        slot.stalled_until_us = 0;
        slot.log_stalled_until_us = 0;
        slot.apply_stalled_until_us = 0;
        slot.stall_us = None;
        slot.starved_until_us = 0;
        slot.parked.clear();
        self.net.reborn(m);
        let slot = &mut self.slots[m];
        slot.reads.clear();
        if slot.clock.drifts() {
            self.counters.fired(clock::drift_fault(&self.plan));
        }
        if self.plan.on(Fault::ClockOffset) {
            self.counters.fired(Fault::ClockOffset);
            self.counters.mattered(Fault::ClockOffset);
        }
        self.step(m, Effect::Boot);
        let slot = &mut self.slots[m];
        let booted = Live::boot(&self.plan, &slot.birth, slot.incarnation, &slot.disk, process);
        self.effects.drain(m, &slot.disk);
        let (live, found) = match booted {
            Ok(booted) => booted,
            Err(BootError::Storage(error)) => return self.storage_error(m, "boot", &error),
            Err(error) if slot.damaged.is_some() => {
                self.refuses_damage(m, &error);
                return Ok(());
            }
            Err(error) => return broken!("boot", format!("member {m}: {error}")),
        };
        let (node, wiped) = (slot.node, slot.wiped);
        // Damage that nobody has read yet is there all the same.
        let damaged = slot.damaged.is_some();
        slot.live = Some(live);
        slot.condition = Condition::Up;
        let clock = self.slots[m].clock;
        self.note(|| format!("{m} boots as process {process}, {}", clock.words()));
        self.trace.word(process);
        let there = self.live(m).applier.store().checkpoint();
        let there = there + u64::from(is_spoilt("recovered-not-durable"));
        let durable = found.checkpoint;
        ensure!(
            durable == Ok(there) || damaged,
            "recovered-not-durable",
            "member {m} starts with checkpoint {there}; a power failure would leave {durable:?}"
        );
        ensure!(
            found.older.is_ok() || damaged,
            "older-checkpoint",
            "member {m} starts: {:?}",
            found.older
        );
        let found = found.logs;
        for (group, log) in &found {
            let Some(said) = self.live(m).said(*group) else { continue };
            // Who has nobody to ask campaigns at once: its own vote is on the way to the disk.
            let alone = said.conf.voters == [node] && !said.conf.is_joint();
            let campaigns = alone && (said.term, said.vote) == (log.hard.term.next(), node);
            ensure!(
                said.last == log.last()
                    && (campaigns || (said.term, said.vote) == (log.hard.term, log.hard.vote)),
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
        if self.plan.watch.watchers > 0 {
            let work = Work::Upkeep;
            self.after(UPKEEP_US, Event::Work { m, p: process, work });
        }
        self.end_turn(m)
    }

    /// Ends the member's process. What its disk keeps is the caller's business.
    pub fn stop_process(&mut self, m: usize) {
        let slot = &mut self.slots[m];
        slot.live = None;
        slot.condition = Condition::Down;
        slot.process = 0;
        slot.reads.clear();
        slot.crash_in_effects = 0;
        slot.crash_at_pair = None;
        let disturbed = self.disturbed();
        for group in self.groups() {
            let members = self.slots.len();
            self.coverage.step(group, m, members, Facet::default(), disturbed);
        }
        // Whoever is connected learns of it, unless the link is cut.
        let node = self.slots[m].node;
        for other in 0..self.slots.len() {
            if other != m
                && self.slots[other].live.is_some()
                && self.net.open(m, other)
                && !self.net.vanished(self.now_us, m)
            {
                let p = self.slots[other].process;
                let action = Box::new(Action::PeerDown { peer: node });
                self.after(500, Event::Tell { m: other, p, action });
            }
        }
        self.break_streams(m);
        // Clients lose their connection.
        for c in 0..self.clients.len() {
            let lost: Vec<_> = self.clients[c].open.iter().filter(|(_, o)| o.member == m).collect();
            for call in lost.into_iter().map(|(call, _)| *call).collect::<Vec<_>>() {
                self.after(300, Event::GiveUp { c, call });
            }
        }
    }

    /// Hands the core one action. What it wants is done at the end of its turn: at once, or a
    /// moment later together with what else comes in until then.
    pub fn act(&mut self, m: usize, action: Action) -> Checked {
        let turn_us = self.plan.turn_us;
        let now_ms = self.slots[m].now_ms(self.now_us);
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
        self.step(m, Effect::Turn);
        let output = self.live(m).end_turn();
        self.inspect(m)?;
        self.perform(m, output)
    }

    fn inspect(&mut self, m: usize) -> Checked {
        self.tell_state(m);
        let disturbed = self.disturbed();
        let slot = &self.slots[m];
        let Some(live) = &slot.live else { return Ok(()) };
        ensure!(
            live.waiting() < 20_000,
            "unbounded",
            "member {m} has {} requests and jobs waiting",
            live.waiting()
        );
        self.check_memory(m)?;
        let slot = &self.slots[m];
        let Some(live) = &slot.live else { return Ok(()) };
        if slot.wiped {
            return Ok(());
        }
        let mut filled = true;
        for group in live.group_ids() {
            if let Some((said, facet)) = live.said_and_facet(group) {
                filled &= !said.conf.voters.is_empty();
                self.safety.on_status(slot.process, slot.node, group, &said)?;
                self.coverage.step(group, m, self.slots.len(), facet, disturbed);
            }
        }
        if !slot.settled {
            let there = live.group_ids();
            let all = self.groups().iter().all(|group| there.contains(group));
            self.slots[m].settled = filled && all;
        }
        Ok(())
    }

    pub fn perform(&mut self, m: usize, output: Output) -> Checked {
        let node = self.slots[m].node;
        let p = self.slots[m].process;
        for (to, message) in output.frames {
            if self.crashes_before(m, Effect::Send) {
                return Ok(());
            }
            self.send(m, to, message)?;
        }
        if let Some(batch) = output.wal {
            if self.crashes_before(m, Effect::QueueLogWrite) {
                return Ok(());
            }
            for record in &batch.batch.records {
                if let Record::Append { group, entries } = record {
                    self.safety.on_append(node, *group, entries)?;
                    self.changes_proposed(m, *group, entries);
                }
            }
            self.live(m).wal_batch = Some(batch);
            let delay = self.disk_us(m, self.plan.write_us);
            self.after(delay, Event::Work { m, p, work: Work::WalWrite });
        }
        for job in output.applies {
            if self.crashes_before(m, Effect::QueueApply) {
                return Ok(());
            }
            let fresh = if self.slots[m].wiped {
                return broken!("wiped-applies", format!("{node} was wiped and applies entries"));
            } else {
                // Of a group that is just being dropped nothing is known.
                let said = self.live(m).said(job.group);
                let term = said.map_or(Term(u64::MAX), |said| said.term);
                self.safety.on_apply(node, job.group, term, &job.entries)?
            };
            for entry in fresh {
                let proposal = match entry.kind {
                    EntryKind::Command => decode_proposal(&entry.data).ok(),
                    _ => None,
                };
                self.trace.word(entry.index.0);
                if let Some(Command::Put(put)) = proposal.as_ref().map(|p| &p.command) {
                    self.probe_met(job.group, &put.value, (true, false));
                }
                let done = self.history.commit(self.now_us, job.group, entry, proposal);
                let at = (entry.index, entry.term);
                self.trace.commit(self.now_us, m, job.group, at, || {
                    (words::entry(entry), self.history.model(job.group).revision())
                });
                done?;
            }
            self.live(m).jobs.push_back(crate::member::Job::Apply(job));
        }
        for (group, to) in output.pins {
            if self.crashes_before(m, Effect::QueuePin) {
                return Ok(());
            }
            self.live(m).jobs.push_back(crate::member::Job::Pin(group, to));
        }
        for read in output.log_reads {
            if self.crashes_before(m, Effect::QueueLogRead) {
                return Ok(());
            }
            self.live(m).log_reads.push_back(read);
            let delay = self.disk_us(m, self.plan.write_us);
            self.after(delay, Event::Work { m, p, work: Work::LogRead });
        }
        for (to, fetch) in output.serve {
            if self.crashes_before(m, Effect::QueueServe) {
                return Ok(());
            }
            self.live(m).fetches.push_back((to, fetch));
            let delay = self.disk_us(m, self.plan.write_us);
            self.after(delay, Event::Work { m, p, work: Work::Serve });
        }
        for step in output.installs {
            if self.crashes_before(m, Effect::QueueInstall) {
                return Ok(());
            }
            self.live(m).installs.push_back(step);
            let delay = self.disk_us(m, self.plan.write_us);
            self.after(delay, Event::Work { m, p, work: Work::Install });
        }
        for (token, result) in output.answers {
            if self.crashes_before(m, Effect::Answer) {
                return Ok(());
            }
            self.answered(m, token, result)?;
        }
        for (group, note) in output.notes {
            // Who has lost its disk no longer has what a late copy speaks of.
            let is_bad = matches!(note, Note::BadMessage { .. });
            if is_bad && !self.slots[m].wiped {
                return broken!("bad-message", format!("member {m} group {group}: {note}"));
            }
            if !is_bad {
                self.coverage.reached(note.name());
            }
            self.trace.note(self.now_us, || format!("{m} group {group}: {note}"));
        }
        for soft in output.roles {
            if soft.role == Role::Leader {
                self.say_again(m, soft.group);
            }
            if soft.role == Role::Leader && self.transfer == Some((soft.group, m)) {
                self.transfer = None;
                self.counters.mattered(Fault::Transfer);
            }
        }
        if let Some(root) = output.root {
            if self.crashes_before(m, Effect::Root) {
                return Ok(());
            }
            self.live(m).follow_root(&root);
            // No stream to a removed member is kept.
            for id in &root.removed {
                let cluster = self.slots[m].birth.cluster;
                if let Some(other) = self.index_of(cluster, *id) {
                    self.net.disconnect(m, other);
                }
            }
        }
        for (peer, refusal) in output.refusals {
            self.note(|| format!("{m} refuses {peer}: {refusal:?}"));
            let cluster = self.slots[m].birth.cluster;
            if let Some(other) = self.index_of(cluster, peer) {
                self.net.disconnect(m, other);
            }
        }
        self.kick(m);
        if let Some(reason) = output.stop {
            return self.stopped(m, reason);
        }
        if self.crashes_at_end(m) {
            return Ok(());
        }
        Ok(())
    }

    /// Tells the nemesis of changes that a leader has just proposed.
    fn changes_proposed(&mut self, m: usize, group: GroupId, entries: &[Entry]) {
        for entry in entries.iter().filter(|entry| entry.kind == EntryKind::ConfChange) {
            let said = self.slots[m].live.as_ref().and_then(|live| live.said(group));
            if said.is_some_and(|said| said.is_leader && said.term == entry.term) {
                self.change_is_proposed(m, group, (entry.index, entry.term));
            }
        }
    }

    /// A member wants to end of its own accord.
    pub(super) fn stopped(&mut self, m: usize, reason: StopReason) -> Checked {
        let wiped = self.slots[m].wiped;
        self.note(|| format!("{m} stops: {reason:?}"));
        if reason == StopReason::Removed && self.is_removed(m) {
            // For good, unless it is started again by somebody who does not know better.
            self.slots[m].disk.kill_process();
            self.stop_process(m);
            self.slots[m].condition = Condition::Gone(Gone::Removed);
            return Ok(());
        }
        if reason == StopReason::Asked && std::mem::take(&mut self.slots[m].rolling) {
            self.counters.mattered(Fault::RollingRestart);
            self.slots[m].disk.kill_process();
            self.stop_process(m);
            let at = self.now_us + self.plan.tick_us;
            self.plan_restart(m, at);
            return Ok(());
        }
        ensure!(
            wiped && reason == StopReason::IncarnationRefused,
            "unwanted-stop",
            "member {m} stops by itself: {reason:?}"
        );
        self.counters.mattered(Fault::Wipe);
        self.stop_process(m);
        self.slots[m].condition = Condition::Gone(Gone::Wiped);
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
        let apply = !live.applying && live.next_job().is_some();
        live.applying |= apply;
        let background = !live.in_background && live.has_background_work();
        live.in_background |= background;
        if apply {
            self.stall_apply(m);
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
        self.effects.drain(m, &self.slots[m].disk);
        self.coverage.reached("stopped-by-disk");
        if self.is_damage(m, error) {
            return self.damage_found(m, doing, error);
        }
        if self.is_full(m, error) {
            return self.stop_for_space(m, doing, error);
        }
        let at_point = self.is_cut_at_point(m);
        let slot = &mut self.slots[m];
        let Some(fault) = slot.sabotaged.take() else {
            return broken!("storage-error", format!("member {m}, {doing}: {error}"));
        };
        self.counters.mattered(fault);
        self.note(|| format!("{m} stops while at {doing}: {error}"));
        self.slots[m].disk.clear_faults();
        // Either the machine goes down as well, or only the process ends and the system's cache
        // stays, with whatever a failed sync has left in it.
        match (fault, self.crashes.chance(1, 2)) {
            _ if at_point => self.crash_at_point(m),
            (Fault::DiskError | Fault::IoError, true) => self.slots[m].disk.kill_process(),
            _ => self.crash_disk(m),
        }
        if doing == "boot" && fault == Fault::CrashInWrite && !at_point {
            self.power_may_fail_again(m);
        }
        self.stop_process(m);
        let at = self.slots[m].restart_at_us.max(self.now_us + MS);
        self.plan_restart(m, at);
        Ok(())
    }
}
