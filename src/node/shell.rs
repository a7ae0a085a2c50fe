//! The loops around a member's synchronous core: three tasks with threads of their own, and the
//! peers' streams.
//!
//! ```text
//!  clients ─► core mailbox ─► core task: handle, end_turn ─► frames to peers
//!                                │ WAL batch: write, fdatasync, here
//!                                ▼ apply jobs
//!                             applier task: apply, publish the view, feed watchers, answer
//!                                │ frozen trees            ▲ what is durable
//!                                ▼                         │
//!                             background task: checkpoint steps, snapshot chunks in and out
//! ```
//!
//! The core task waits for its own fdatasync on purpose: the next batch forms in the mailbox
//! meanwhile, so that batching comes from the disk's own latency, a batch costs no wake-up of
//! another thread, and a member whose disk stalls stops sending heartbeats and loses leadership
//! instead of holding it with nothing to show. Messages for followers leave before the write.
//!
//! An error of the disk ends the member: nothing is retried, nobody gets an answer that may not
//! hold. What is decided here is only *when* something runs, never *what* it does: that is in
//! `core` and below, which the simulator drives without this file.

use super::action::{Action, Answer, Output, StopReason, Token};
use super::core::Core;
use super::handle::NodeHandle;
use super::mailbox::Mailbox;
use super::member::Member;
use super::shared::{Ended, Shared, lock};
use super::streams::Streams;
use crate::btree::{CheckpointDone, CheckpointJob, Step};
use crate::io::{DiskLock, Mono, TaskHandle, TaskKind, biased_select};
use crate::multiraft::apply::{AppliedBatch, AppliedEntry, Applier, Outcome};
use crate::multiraft::snapshots::{
    InstallOutcome, InstallReady, InstallStep, Installer, Pin, SnapshotServer,
};
use crate::multiraft::turn::ApplyJob;
use crate::multiraft::wire::{NodeMessage, SnapshotFetch};
use crate::types::reply::Reply;
use crate::types::{GroupId, NodeId, StorageError};
use crate::wal::Wal;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// A member that has been idle for so long writes what it has into the store, so that a restart
/// has little to replay and a copy of the store is a backup.
const IDLE_CHECKPOINT: Duration = Duration::from_secs(1);
/// The least time between two checkpoints that only the number of entries asks for.
const CHECKPOINT_GAP: Duration = Duration::from_secs(1);
/// Steps of the log's upkeep between two heartbeats; each is about a megabyte and a sync.
const SPARE_STEPS_PER_TICK: usize = 4;
/// Entries of old revisions that one background step removes between two apply jobs.
const COMPACT_STEP_ENTRIES: usize = 512;
/// How often watchers are looked at that need no event: progress, catching up.
const WATCH_UPKEEP: Duration = Duration::from_millis(100);
/// An apply job that takes longer is counted and told (etcd's `--warning-apply-duration`).
const SLOW_APPLY: Duration = Duration::from_millis(100);

/// What the applier task is asked.
enum ApplierJob {
    Apply(ApplyJob),
    Pin {
        group: GroupId,
        to: NodeId,
    },
    Install(Box<InstallReady>),
    CheckpointDone(Box<CheckpointDone>),
    /// The store failed under the background task: the checkpoint that runs never ends.
    CheckpointFailed,
    /// Write everything into the store, then end.
    Stop,
}

/// What the background task is asked.
enum BackgroundJob {
    Checkpoint(Box<CheckpointJob>),
    Offer(Pin),
    Serve { to: NodeId, fetch: SnapshotFetch },
    Install(InstallStep),
    Stop,
}

/// The tasks of a running member.
pub struct Running {
    pub handle: NodeHandle,
    tasks: Vec<TaskHandle>,
    streams: Arc<Streams>,
    /// The data directory is this process's until every task has ended.
    _lock: Box<dyn DiskLock>,
}

impl Running {
    /// Hands leadership over, writes a last checkpoint and ends every task.
    pub fn stop(&self) {
        self.handle.shared.core.send(Action::Stop);
    }

    /// Waits until every task has ended; why they did.
    pub async fn ended(&self) -> Ended {
        for task in &self.tasks {
            task.finished().await;
        }
        self.streams.stop();
        self.why()
    }

    /// Why the member ends or has ended; `Asked` if nothing else is known. Told once.
    pub fn why(&self) -> Ended {
        self.handle.shared.take_end().unwrap_or(Ended::Asked)
    }
}

/// Starts the tasks around a member that `boot` has opened. A checkpoint is also due every
/// `checkpoint_entries` (etcd's `--snapshot-count`), though not more often than every second.
pub fn start(
    shared: Arc<Shared>,
    member: Member,
    streams: Arc<Streams>,
    checkpoint_entries: u64,
) -> Running {
    let Member { core, applier, wal, store: _, snapshots, installer, lock } = member;
    shared.election_ms.store(core.config().election_ms(), Ordering::Relaxed);
    let applier_jobs = Arc::new(Mailbox::default());
    let background_jobs = Arc::new(Mailbox::default());
    let core_task = CoreTask {
        shared: shared.clone(),
        core,
        wal,
        streams: streams.clone(),
        applier: applier_jobs.clone(),
        background: background_jobs.clone(),
    };
    let applier_task = ApplierTask {
        shared: shared.clone(),
        applier,
        jobs: applier_jobs.clone(),
        background: background_jobs.clone(),
        checkpoint_entries,
        checkpoint_began: None,
        held: VecDeque::new(),
        stopping: false,
        store_failed: false,
    };
    let background_task = BackgroundTask {
        shared: shared.clone(),
        server: snapshots,
        installer,
        streams: streams.clone(),
        jobs: background_jobs,
        applier: applier_jobs,
        waiting: VecDeque::new(),
        checkpoint: None,
    };
    let tasks = &shared.io.tasks;
    let tasks = vec![
        tasks.spawn("core", TaskKind::Dedicated, Box::pin(core_task.run())),
        tasks.spawn("applier", TaskKind::Dedicated, Box::pin(applier_task.run())),
        tasks.spawn("background", TaskKind::Dedicated, Box::pin(background_task.run())),
        tasks.spawn("watch-upkeep", TaskKind::Shared, Box::pin(watch_upkeep(shared.clone()))),
    ];
    Running { handle: NodeHandle { shared }, tasks, streams, _lock: lock }
}

struct CoreTask {
    shared: Arc<Shared>,
    core: Core,
    wal: Wal,
    streams: Arc<Streams>,
    applier: Arc<Mailbox<ApplierJob>>,
    background: Arc<Mailbox<BackgroundJob>>,
}

impl CoreTask {
    async fn run(mut self) {
        if let Err(error) = self.turns().await {
            tracing::error!(error = %error, "the log failed; nothing is retried, the member stops");
            self.shared.end(Ended::Storage(error));
        }
        self.applier.send(ApplierJob::Stop);
    }

    async fn turns(&mut self) -> Result<(), StorageError> {
        let clock = self.shared.io.clock.clone();
        let tick = Duration::from_millis(self.core.config().tick_ms);
        let mut next_tick = clock.now();
        let mut inbox = Vec::new();
        loop {
            if self.shared.core.is_empty() {
                biased_select! {
                    () = self.shared.core.filled() => {},
                    () = clock.sleep_until(next_tick) => {},
                }
            }
            let now = clock.now();
            if now >= next_tick {
                self.core.handle(Action::Tick { now_ms: now.0 / 1_000_000 });
                // Ticks missed while the disk was slow are not made up for.
                next_tick = now + tick;
                self.prepare_spare()?;
            }
            loop {
                // Before the actions, however long the disk held the turn up: leases and requests
                // are timed from here.
                self.core.at(clock.now().0 / 1_000_000);
                self.shared.core.take(&mut inbox);
                for action in inbox.drain(..) {
                    self.core.handle(action);
                }
                let output = self.core.end_turn();
                if output.is_empty() {
                    break;
                }
                if self.carry_out(output)? {
                    return Ok(());
                }
            }
            if self.shared.is_stopping() {
                return Ok(());
            }
        }
    }

    /// The log's upkeep, a few bounded steps of it while nothing else waits: segments are
    /// zero-filled ahead of need. A full disk is no reason to stop before a write needs the room.
    fn prepare_spare(&mut self) -> Result<(), StorageError> {
        for _ in 0..SPARE_STEPS_PER_TICK {
            if !self.shared.core.is_empty() {
                return Ok(());
            }
            match self.wal.prepare_spare() {
                Ok(true) => {}
                Ok(false) => return Ok(()),
                Err(error) if error.is_no_space() => {
                    tracing::warn!(%error, "no room to prepare the log's next segment");
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Does what one turn wants done, in the order in which nothing waits for the disk that need
    /// not. True when the member ends.
    fn carry_out(&mut self, output: Output) -> Result<bool, StorageError> {
        // Before anything leaves: a round that is no longer needed must not be skipped once a
        // second voter has heard of its membership.
        self.publish(&output.roles);
        for (to, message) in output.frames {
            self.streams.send(to, message);
        }
        for job in output.applies {
            self.applier.send(ApplierJob::Apply(job));
        }
        // Before the answers: who has changed the membership finds it changed.
        if let Some(root) = output.root {
            self.streams.membership(&root);
            *lock(&self.shared.root) = root;
        }
        for (token, answer) in output.answers {
            self.shared.waiters.answer(token, answer);
        }
        for (group, to) in output.pins {
            self.applier.send(ApplierJob::Pin { group, to });
        }
        for (to, fetch) in output.serve {
            self.background.send(BackgroundJob::Serve { to, fetch });
        }
        for step in output.installs {
            self.background.send(BackgroundJob::Install(step));
        }
        for (peer, refusal) in output.refusals {
            self.streams.refuse(peer, refusal);
        }
        for (group, note) in output.notes {
            tracing::debug!(group = group.0, note = ?note, "raft");
        }
        if let Some(batch) = output.wal {
            let clock = &self.shared.io.clock;
            let metrics = &self.shared.metrics;
            let began = clock.now();
            let before = self.wal.appended_bytes();
            self.wal.write(&batch.batch)?;
            let written = clock.now();
            self.wal.sync()?;
            metrics.wal_write.observe(written - began);
            metrics.wal_fsync.observe(clock.now() - written);
            metrics.wal_bytes.fetch_add(self.wal.appended_bytes() - before, Ordering::Relaxed);
            self.core.handle(Action::Persisted { batch: batch.id });
        }
        for read in output.log_reads {
            let entries = self.wal.read(read.group, read.from, read.to, read.bytes_max)?;
            self.core.handle(Action::EntriesRead {
                group: read.group,
                purpose: read.purpose,
                from: read.from,
                entries,
            });
        }
        let Some(reason) = output.stop else { return Ok(false) };
        self.shared.end(match reason {
            StopReason::Asked => Ended::Asked,
            StopReason::Removed => Ended::Removed,
            StopReason::IncarnationRefused => Ended::IncarnationRefused,
        });
        Ok(true)
    }

    /// Makes roles, terms and indexes visible to clients' tasks.
    fn publish(&self, roles: &[crate::multiraft::turn::SoftState]) {
        for soft in roles {
            let Some(slot) = self.shared.groups.get(&soft.group) else { continue };
            let before = slot.leader.swap(soft.leader.0, Ordering::AcqRel);
            if before != soft.leader.0 {
                slot.leader_changes.fetch_add(1, Ordering::Relaxed);
                tracing::info!(
                    group = soft.group.0,
                    term = soft.term.0,
                    "local-member-id" = %self.shared.node,
                    leader = %soft.leader,
                    role = ?soft.role,
                    "raft leader changed"
                );
            }
            slot.term.store(soft.term.0, Ordering::Release);
        }
        for (group, slot) in &self.shared.groups {
            if let Some(commit) = self.core.commit_index(*group) {
                slot.commit.store(commit.0, Ordering::Relaxed);
            }
            // Written before the applier can make a change of configuration visible.
            slot.alone.store(self.core.reads_alone(*group), Ordering::Release);
        }
    }
}

struct ApplierTask {
    shared: Arc<Shared>,
    applier: Applier,
    jobs: Arc<Mailbox<ApplierJob>>,
    background: Arc<Mailbox<BackgroundJob>>,
    checkpoint_entries: u64,
    checkpoint_began: Option<Mono>,
    /// What changes the state, in order, while it has to wait.
    held: VecDeque<ApplierJob>,
    stopping: bool,
    /// There is nobody to write a last checkpoint.
    store_failed: bool,
}

impl ApplierTask {
    async fn run(mut self) {
        if let Err(error) = self.turns().await {
            tracing::error!(error = %error, "the store failed; nothing is retried, the member stops");
            self.shared.end(Ended::Storage(error));
        }
        self.background.send(BackgroundJob::Stop);
    }

    async fn turns(&mut self) -> Result<(), StorageError> {
        let clock = self.shared.io.clock.clone();
        let mut inbox = Vec::new();
        loop {
            if self.store_failed {
                return Ok(());
            }
            let compacting = self.applier.compacting().next();
            if self.jobs.is_empty() && compacting.is_none() {
                if self.stopping && !self.applier.is_checkpoint_running() {
                    return Ok(());
                }
                biased_select! {
                    () = self.jobs.filled() => {},
                    () = clock.sleep_until(clock.now() + IDLE_CHECKPOINT) => {
                        self.applier.request_checkpoint();
                    },
                }
            }
            self.jobs.take(&mut inbox);
            for job in inbox.drain(..) {
                match job {
                    ApplierJob::Apply(_) | ApplierJob::Install(_) => self.held.push_back(job),
                    other => self.job(other)?,
                }
            }
            // While a checkpoint cannot keep up, nothing more is applied: raft then hands out no
            // more, and a leader refuses writes. Nothing grows.
            while !self.applier.is_overfull()
                && let Some(job) = self.held.pop_front()
            {
                self.job(job)?;
            }
            if let Some(group) = compacting {
                let (_, answered) = self.applier.compact_step(group, COMPACT_STEP_ENTRIES)?;
                self.publish_view(group);
                if !answered.is_empty() {
                    self.shared.core.send(Action::Compacted { group, answered });
                }
            }
            let since = self.checkpoint_began.map_or(CHECKPOINT_GAP, |at| clock.now() - at);
            if self.applier.unsaved_entries() >= self.checkpoint_entries && since >= CHECKPOINT_GAP
            {
                self.applier.request_checkpoint();
            }
            if self.applier.is_checkpoint_due() {
                self.checkpoint_began = Some(clock.now());
                let job = self.applier.begin_checkpoint()?;
                self.background.send(BackgroundJob::Checkpoint(Box::new(job)));
            }
        }
    }

    fn job(&mut self, job: ApplierJob) -> Result<(), StorageError> {
        match job {
            ApplierJob::Apply(job) => {
                if let Some(observer) = &self.shared.observer {
                    observer.applying(job.group, &job.entries);
                }
                let began = self.shared.io.clock.now();
                if let Some(batch) = self.applier.apply(job.group, &job.entries)? {
                    self.shared.metrics.applied(&batch, self.shared.io.clock.now() - began);
                    self.applied(batch);
                }
                let took = self.shared.io.clock.now() - began;
                if took > SLOW_APPLY {
                    self.shared.metrics.slow_applies.fetch_add(1, Ordering::Relaxed);
                    tracing::warn!(
                        took_ms = took.as_millis() as u64,
                        entries = job.entries.len(),
                        "apply request took too long"
                    );
                }
            }
            ApplierJob::Pin { group, to } => match self.applier.pin(group)? {
                Some(pin) => {
                    let now = self.shared.io.clock.now();
                    self.shared.metrics.snapshot_send_begun(group, to, now);
                    let meta = pin.meta.clone();
                    // Offered before the follower can hear of it.
                    self.background.send(BackgroundJob::Offer(pin));
                    self.shared.core.send(Action::SnapshotReady { group, to, meta });
                }
                None => self.shared.core.send(Action::SnapshotFailed { group, to }),
            },
            ApplierJob::Install(ready) => {
                let (group, meta) = (ready.group, ready.meta.clone());
                let applies = &self.shared.metrics.snapshot_applies;
                applies.store(1, Ordering::Relaxed);
                let installed = self.applier.install(*ready)?;
                applies.store(0, Ordering::Relaxed);
                match installed {
                    Some(batch) => {
                        tracing::info!(
                            group = group.0,
                            index = meta.index.0,
                            term = meta.term.0,
                            "installed a raft snapshot"
                        );
                        self.applied(batch);
                    }
                    None => self.shared.core.send(Action::SnapshotRefused { group, meta }),
                }
            }
            ApplierJob::CheckpointDone(done) => {
                let outcome = self.applier.finish_checkpoint(&done)?;
                if let Some(began) = self.checkpoint_began {
                    let took = self.shared.io.clock.now() - began;
                    self.shared.metrics.backend_commit.observe(took);
                }
                *lock(&self.shared.pressure) = outcome.pressure;
                for (group, meta) in outcome.durable {
                    self.shared.core.send(Action::SnapshotDurable { group, meta });
                }
                self.shared.core.send(Action::CheckpointDone {
                    held: outcome.held,
                    pressure: outcome.pressure,
                });
            }
            ApplierJob::CheckpointFailed => self.store_failed = true,
            ApplierJob::Stop => {
                self.stopping = true;
                self.applier.request_checkpoint();
            }
        }
        Ok(())
    }

    /// Publishes what a batch did: the state first, then the events, then the answers. Who has the
    /// answer to a put and then begins to watch "from now on" is not told of that put any more.
    fn applied(&self, mut batch: AppliedBatch) {
        // A group that was created since the start has no clients here: nothing leads to it yet.
        let slot = self.shared.groups.get(&batch.group);
        if let Some(slot) = slot {
            *lock(&slot.view) = batch.view.clone();
            slot.auth_enabled.store(batch.view.auth().is_enabled(), Ordering::Release);
            slot.applied.store(batch.index.0, Ordering::Release);
        }
        *lock(&self.shared.pressure) = batch.pressure;
        if !batch.tokens.is_empty() {
            let now_ms = self.shared.io.clock.now().0 / 1_000_000;
            let mut tokens = lock(&self.shared.tokens);
            batch.tokens.drain(..).for_each(|change| tokens.changed(change, now_ms));
        }
        if let Some(slot) = slot {
            lock(&slot.watches).publish(&mut batch);
        }
        for entry in &batch.results {
            self.answer(entry);
        }
        self.shared.core.send(Action::Applied { batch: Box::new(batch) });
    }

    /// Answers a client straight from here: the core learns of it with the batch, but its thread
    /// may be waiting for the disk by now. What the core answers again then finds nobody.
    fn answer(&self, entry: &AppliedEntry) {
        let answer = match &entry.result {
            // The core refuses writes by the alarms it knows, so it has to know first.
            Ok(Outcome::Reply(Reply::Alarm(_))) => return,
            // It publishes the root: who has changed that finds it changed.
            Ok(Outcome::Reply(
                Reply::SetDowngrade
                | Reply::CreateGroup { .. }
                | Reply::DestroyGroup
                | Reply::PublishMember,
            )) => return,
            Ok(Outcome::Reply(reply)) => Ok(Answer::Applied {
                reply: reply.clone(),
                revision: entry.revision,
                index: entry.index,
                term: entry.term,
            }),
            // The core has its own part in these.
            Ok(Outcome::Members { .. } | Outcome::Departing) => return,
            Err(error) => Err(error.clone()),
        };
        self.shared.waiters.answer(Token(entry.id.seq), answer);
    }

    fn publish_view(&self, group: GroupId) {
        if let (Some(slot), Some(view)) = (self.shared.groups.get(&group), self.applier.view(group))
        {
            *lock(&slot.view) = view;
        }
    }
}

struct BackgroundTask {
    shared: Arc<Shared>,
    server: SnapshotServer,
    installer: Installer,
    streams: Arc<Streams>,
    jobs: Arc<Mailbox<BackgroundJob>>,
    applier: Arc<Mailbox<ApplierJob>>,
    waiting: VecDeque<BackgroundJob>,
    checkpoint: Option<Box<CheckpointJob>>,
}

impl BackgroundTask {
    async fn run(mut self) {
        if let Err(error) = self.turns().await {
            tracing::error!(error = %error, "the store failed; nothing is retried, the member stops");
            self.shared.end(Ended::Storage(error));
            // Otherwise the applier would wait for the end of a checkpoint that has none.
            self.applier.send(ApplierJob::CheckpointFailed);
        }
    }

    async fn turns(&mut self) -> Result<(), StorageError> {
        let clock = self.shared.io.clock.clone();
        let mut inbox = Vec::new();
        loop {
            if self.jobs.is_empty() && self.waiting.is_empty() && self.checkpoint.is_none() {
                biased_select! {
                    () = self.jobs.filled() => {},
                    () = clock.sleep_until(clock.now() + Duration::from_secs(1)) => {},
                }
            }
            self.server.tick(clock.now().0 / 1_000_000);
            self.jobs.take(&mut inbox);
            self.waiting.extend(inbox.drain(..));
            // One job, one step of the checkpoint: neither holds the other up for long.
            if let Some(job) = self.waiting.pop_front()
                && self.job(job)?
            {
                return Ok(());
            }
            if let Some(mut job) = self.checkpoint.take() {
                match job.step()? {
                    Step::More => self.checkpoint = Some(job),
                    Step::Done(done) => {
                        self.applier.send(ApplierJob::CheckpointDone(Box::new(done)));
                    }
                }
            }
        }
    }

    /// True when the member ends.
    fn job(&mut self, job: BackgroundJob) -> Result<bool, StorageError> {
        match job {
            BackgroundJob::Checkpoint(job) => {
                assert!(self.checkpoint.is_none(), "one checkpoint runs at a time");
                self.checkpoint = Some(job);
            }
            BackgroundJob::Offer(pin) => self.server.offer(pin),
            BackgroundJob::Serve { to, fetch } => {
                let message = self.server.serve(&fetch)?;
                let (metrics, now) = (&self.shared.metrics, self.shared.io.clock.now());
                match &message {
                    NodeMessage::SnapshotChunk(chunk) if chunk.last => {
                        metrics.snapshot_send_ended(fetch.group, to, now, true);
                    }
                    NodeMessage::SnapshotGone { .. } => {
                        metrics.snapshot_send_ended(fetch.group, to, now, false);
                    }
                    _ => {}
                }
                self.streams.send_bulk(to, message);
            }
            BackgroundJob::Install(step) => self.install(step)?,
            BackgroundJob::Stop => return Ok(true),
        }
        Ok(false)
    }
}

impl BackgroundTask {
    fn install(&mut self, step: InstallStep) -> Result<(), StorageError> {
        let (metrics, now) = (&self.shared.metrics, self.shared.io.clock.now());
        match &step {
            InstallStep::Begin { group, .. } => {
                // It comes from whoever led when it was offered; a leader that has changed since
                // then only mislabels a figure.
                let from = self.shared.groups.get(group).map(|slot| slot.leader());
                metrics.snapshot_receive_begun(*group, from.unwrap_or_default(), now);
            }
            InstallStep::Abort { group } => metrics.snapshot_receive_ended(*group, now, false),
            InstallStep::Finish { group } => metrics.snapshot_receive_ended(*group, now, true),
            InstallStep::Chunk(_) => {}
        }
        match self.installer.step(step)? {
            InstallOutcome::Nothing => {}
            InstallOutcome::Taken(taken) => self.shared.core.send(Action::ChunkInstalled(taken)),
            InstallOutcome::Ready(ready) => self.applier.send(ApplierJob::Install(ready)),
        }
        Ok(())
    }
}

/// Looks after watchers that no event wakes: those that catch up, and those that asked to be told
/// of progress.
async fn watch_upkeep(shared: Arc<Shared>) {
    let clock = shared.io.clock.clone();
    loop {
        biased_select! {
            () = shared.stopping() => return,
            () = clock.sleep_until(clock.now() + WATCH_UPKEEP) => {},
        }
        let now_ms = clock.now().0 / 1_000_000;
        for slot in shared.groups.values() {
            loop {
                let view = slot.view();
                let outcome = lock(&slot.watches).upkeep(&view, now_ms);
                match outcome {
                    Ok(true) => {}
                    Ok(false) => break,
                    Err(error) => {
                        NodeHandle { shared: shared.clone() }.read_failed(error);
                        return;
                    }
                }
            }
        }
    }
}
