//! What a member's threads do in production, one piece at a time: the log writer, the applier,
//! the background of checkpoints and compactions, and the two ends of a snapshot.

use crate::effects::Effect;
use crate::faults::Fault;
use crate::member::{Job, Work};
use crate::plan::MS;
use crate::safety::{Checked, broken};
use crate::world::{Event, UPKEEP_US, World};
use quorate::multiraft::apply::AppliedBatch;
use quorate::multiraft::snapshots::InstallOutcome;
use quorate::node::Action;
use quorate::types::{GroupId, StorageError};
use quorate::wal::Record;
use std::cmp::Ordering;

/// How long a lane's result takes to reach the core.
const HAND_OVER_US: u64 = 20;
/// Revisions one step of a compaction looks at: few, so that many things fall in between.
const COMPACT_BUDGET: usize = 16;
/// A sync that takes long is looked at again after this.
const STALL_PIECE_US: u64 = 10 * MS;

impl World {
    pub fn work(&mut self, m: usize, work: Work) -> Checked {
        let stall = match work {
            Work::WalSync => Some((Fault::LogStall, self.slots[m].log_stalled_until_us)),
            Work::Apply => Some((Fault::ApplyStall, self.slots[m].apply_stalled_until_us)),
            _ => None,
        };
        if let Some((fault, until_us)) = stall
            && until_us > self.now_us
        {
            // In pieces: the stall ends early when service is promised.
            let rest = until_us - self.now_us;
            self.counters.mattered(fault);
            let p = self.slots[m].process;
            self.after(rest.min(STALL_PIECE_US), Event::Work { m, p, work });
            return Ok(());
        }
        self.trace.word(m as u64);
        if self.trace.is_on() && work != Work::Turn {
            let text = self.describe_work(m, work);
            self.trace.work_ends(self.now_us, m, work.name(), text);
        }
        let step = match work {
            Work::WalWrite => Effect::LogWrite,
            Work::WalSync => Effect::LogSync,
            Work::Turn => Effect::Turn,
            Work::LogRead => Effect::LogRead,
            Work::Apply => Effect::Apply,
            Work::Background => Effect::Background,
            Work::Serve => Effect::Serve,
            Work::Install => Effect::Install,
            Work::Publish => Effect::Publish,
            Work::Upkeep => Effect::Upkeep,
        };
        self.step(m, step);
        let done = match work {
            Work::WalWrite => {
                if let Some(batch) = self.live(m).wal_batch.as_ref().map(|b| b.batch.clone()) {
                    self.check_given_up(m, &batch.records)?;
                }
                self.wal_write(m)
            }
            Work::WalSync => return self.wal_sync(m),
            Work::Turn => return self.end_turn(m),
            Work::LogRead => self.log_read(m),
            Work::Apply => self.apply_job(m)?,
            Work::Background => {
                let done = self.background(m);
                if done.is_ok() && self.slots[m].live.is_some() {
                    self.check_background(m)?;
                }
                done
            }
            Work::Serve => self.serve(m),
            Work::Install => self.install_step(m),
            Work::Publish => {
                self.publish(m)?;
                Ok(())
            }
            Work::Upkeep => {
                let p = self.slots[m].process;
                self.after(UPKEEP_US, Event::Work { m, p, work });
                self.watch_upkeep(m)?;
                Ok(())
            }
        };
        if let Err(error) = done {
            let doing = format!("{work:?}");
            return self.storage_error(m, &doing, &error);
        }
        if !self.crashes_at_end(m) {
            self.kick(m);
        }
        Ok(())
    }

    /// Tells the core, in the order of telling.
    fn tell(&mut self, m: usize, action: Action) {
        if self.crashes_before(m, Effect::Tell) {
            return;
        }
        let p = self.slots[m].process;
        self.after(HAND_OVER_US, Event::Tell { m, p, action: Box::new(action) });
    }

    fn wal_write(&mut self, m: usize) -> Result<(), StorageError> {
        let node = self.slots[m].node;
        let p = self.slots[m].process;
        let wiped = self.slots[m].wiped;
        let live = self.slots[m].live.as_mut().expect("work is done by live members");
        let batch = live.wal_batch.take().expect("a batch waits for this write");
        if !wiped {
            self.safety.on_write(node, &batch.batch.records);
        }
        let mut enters_term = false;
        for record in &batch.batch.records {
            if let Record::HardState { group, hard } = record {
                enters_term |= live.terms.insert(*group, hard.term) != Some(hard.term);
            }
        }
        let wrote = live.wal.write(&batch.batch);
        live.wal_synced = Some(batch.id);
        wrote?;
        if let Some(for_us) = self.slots[m].stall_us.take() {
            self.stall(m, for_us);
        }
        self.stall_log(m, enters_term);
        let delay = self.disk_us(m, self.plan.sync_us);
        self.after(delay, Event::Work { m, p, work: Work::WalSync });
        Ok(())
    }

    fn wal_sync(&mut self, m: usize) -> Checked {
        let node = self.slots[m].node;
        let live = self.live(m);
        if let Err(error) = live.wal.sync() {
            return self.storage_error(m, "WalSync", &error);
        }
        if self.crashes_before(m, Effect::Tell) {
            return Ok(());
        }
        let live = self.live(m);
        let batch = live.wal_synced.take().expect("a write came before its sync");
        live.spare_wanted = true;
        if !self.slots[m].wiped {
            self.safety.on_synced(node);
        }
        self.act(m, Action::Persisted { batch })
    }

    fn log_read(&mut self, m: usize) -> Result<(), StorageError> {
        let live = self.live(m);
        let read = live.log_reads.pop_front().expect("a read waits");
        let entries = live.wal.read(read.group, read.from, read.to, read.bytes_max)?;
        let (group, purpose, from) = (read.group, read.purpose, read.from);
        self.tell(m, Action::EntriesRead { group, purpose, from, entries });
        Ok(())
    }

    /// One job of the applier. The outer error is a broken promise, the inner one the disk's.
    fn apply_job(
        &mut self,
        m: usize,
    ) -> Result<Result<(), StorageError>, crate::safety::Violation> {
        let live = self.live(m);
        live.applying = false;
        let next = live.next_job().and_then(|at| live.jobs.remove(at));
        let Some(job) = next else { return Ok(Ok(())) };
        match job {
            Job::Apply(job) => {
                let before = live.applied(job.group);
                let batch = match live.applier.apply(job.group, &job.entries) {
                    Ok(Some(batch)) => batch,
                    // The group was destroyed while the job waited.
                    Ok(None) => return Ok(Ok(())),
                    Err(error) => return Ok(Err(error)),
                };
                let node = self.slots[m].node;
                // What had been applied before is passed over without a verdict.
                for (index, change) in batch.confs.iter().filter(|c| c.0 > before) {
                    let leaving = self.safety.confs.newest(batch.group).learners_next.len();
                    self.safety.confs.on_verdict(node, batch.group, *index, change.as_ref())?;
                    match self.safety.confs.newest(batch.group).learners_next.len().cmp(&leaving) {
                        Ordering::Greater => self.coverage.reached("demotion-begun"),
                        Ordering::Less => self.coverage.reached("demotion-ended"),
                        Ordering::Equal => {}
                    }
                }
                self.applied(m, batch)?;
                Ok(Ok(()))
            }
            Job::Pin(group, to) => {
                let action = match live.applier.pin(group) {
                    Ok(Some(pin)) => {
                        let meta = pin.meta.clone();
                        live.server.offer(pin);
                        live.pinned.insert(group, meta.index);
                        if live.pinned.iter().any(|(g, at)| *g != group && *at == meta.index) {
                            self.coverage.reached("pins-at-one-index");
                        }
                        Action::SnapshotReady { group, to, meta }
                    }
                    Ok(None) => {
                        self.coverage.reached("pin-refused");
                        Action::SnapshotFailed { group, to }
                    }
                    Err(error) => return Ok(Err(error)),
                };
                self.tell(m, action);
                Ok(Ok(()))
            }
            Job::Install(ready) => {
                let (group, meta) = (ready.group, ready.meta.clone());
                match live.applier.install(*ready) {
                    Ok(Some(batch)) => {
                        self.snapshots += 1;
                        self.coverage.reached("snapshot-installed");
                        self.note(|| {
                            format!("{m} group {group}: installs a snapshot at {}", meta.index)
                        });
                        self.applied(m, batch)?;
                    }
                    Ok(None) => {
                        self.coverage.reached("snapshot-refused");
                        self.tell(m, Action::SnapshotRefused { group, meta })
                    }
                    Err(error) => return Ok(Err(error)),
                }
                Ok(Ok(()))
            }
            Job::FinishCheckpoint(done) => {
                let outcome = match live.applier.finish_checkpoint(&done) {
                    Ok(outcome) => outcome,
                    Err(error) => return Ok(Err(error)),
                };
                self.coverage.reached("checkpoint-finished");
                self.note(|| format!("{m} finishes a checkpoint: held {:?}", outcome.held));
                for (group, meta) in outcome.durable {
                    self.tell(m, Action::SnapshotDurable { group, meta });
                }
                let (held, pressure) = (outcome.held, outcome.pressure);
                self.tell(m, Action::CheckpointDone { held, pressure });
                Ok(Ok(()))
            }
        }
    }

    /// A replica's state has moved on: it must be what every other replica had there.
    fn applied(&mut self, m: usize, batch: AppliedBatch) -> Checked {
        let node = self.slots[m].node;
        let group = batch.group;
        let Some((index, hash)) = self.live(m).applier.state_hash(group) else {
            return broken!("state-equality", format!("{node} has no state of group {group}"));
        };
        self.trace.word(hash);
        self.safety.on_state(node, group, index, hash)?;
        if let Some(root) = &batch.root {
            self.on_root(m, batch.index, root)?;
        }
        self.compare_replica(m, group, index)?;
        // Readers see it from here on; watchers and the core hear of it in a moment, and the
        // applier does nothing else until then.
        let p = self.slots[m].process;
        let live = self.live(m);
        live.applying = true;
        live.publishing = Some(batch);
        self.after(HAND_OVER_US, Event::Work { m, p, work: Work::Publish });
        Ok(())
    }

    fn publish(&mut self, m: usize) -> Checked {
        let now_ms = self.slots[m].now_ms(self.now_us);
        let live = self.live(m);
        live.applying = false;
        let mut batch = live.publishing.take().expect("a batch waits to be published");
        let group = batch.group;
        live.publish(&mut batch, now_ms);
        self.pump_group(m, group)?;
        self.tell(m, Action::Applied { batch: Box::new(batch) });
        Ok(())
    }

    fn background(&mut self, m: usize) -> Result<(), StorageError> {
        let live = self.live(m);
        live.in_background = false;
        if let Some(job) = &mut live.checkpoint {
            if let Some(done) = crate::member::step_checkpoint(job)? {
                live.checkpoint = None;
                live.jobs.push_back(Job::FinishCheckpoint(done));
            }
            return Ok(());
        }
        if live.applier.is_checkpoint_due() {
            live.checkpoint = Some(live.applier.begin_checkpoint()?);
            return Ok(());
        }
        let compacting: Option<GroupId> = live.applier.compacting().next();
        if let Some(group) = compacting {
            let (_, answered) = live.applier.compact_step(group, COMPACT_BUDGET)?;
            if !answered.is_empty() {
                self.tell(m, Action::Compacted { group, answered });
            }
            return Ok(());
        }
        if live.spare_wanted {
            live.spare_wanted = live.wal.prepare_spare()?;
            live.tidied = !live.spare_wanted;
        }
        Ok(())
    }

    fn serve(&mut self, m: usize) -> Result<(), StorageError> {
        let live = self.live(m);
        let (to, fetch) = live.fetches.pop_front().expect("a fetch waits");
        let message = live.server.serve(&fetch)?;
        let p = self.slots[m].process;
        self.coverage.reached("snapshot-chunk-served");
        self.after(HAND_OVER_US, Event::Bulk { m, p, to, message: Box::new(message) });
        Ok(())
    }

    fn install_step(&mut self, m: usize) -> Result<(), StorageError> {
        let live = self.live(m);
        let step = live.installs.pop_front().expect("a step waits");
        match live.installer.step(step)? {
            InstallOutcome::Nothing => {}
            InstallOutcome::Taken(taken) => self.tell(m, Action::ChunkInstalled(taken)),
            InstallOutcome::Ready(ready) => live.jobs.push_back(Job::Install(ready)),
        }
        Ok(())
    }
}
