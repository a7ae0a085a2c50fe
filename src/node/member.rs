//! The whole synchronous member: the core, the applier, the log, the store and the two ends of
//! raft snapshots, side by side. Its owner drives it: the simulator makes every step an event of
//! its own, the async shell takes it apart and puts the pieces on threads.

use super::action::{Action, Output};
use super::core::Core;
use crate::btree::{CheckpointJob, Step, Store};
use crate::io::DiskLock;
use crate::multiraft::apply::Applier;
use crate::multiraft::snapshots::{InstallOutcome, InstallStep, Installer, SnapshotServer};
use crate::multiraft::turn::{ApplyJob, LogRead, WalBatch};
use crate::multiraft::wire::{NodeMessage, SnapshotFetch};
use crate::types::message::SnapshotMeta;
use crate::types::{GroupId, NodeId, StorageError};
use crate::wal::Wal;
use std::fmt;

/// See the module's documentation. Every field is `Send` and shares with the others nothing but
/// the store's pages, so that a shell may move them to threads of their own.
pub struct Member {
    pub core: Core,
    pub applier: Applier,
    pub wal: Wal,
    pub store: Store,
    pub snapshots: SnapshotServer,
    pub installer: Installer,
    pub lock: Box<dyn DiskLock>,
}

/// In brief: the whole is megabytes of nodes and pages.
impl fmt::Debug for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let groups: Vec<GroupId> = self.core.group_ids().collect();
        f.debug_struct("Member")
            .field("node", &self.core.config().node)
            .field("groups", &groups)
            .finish_non_exhaustive()
    }
}

/// The steps an output asks for, each as one function, so that every driver does the same. Each
/// gives the actions that the core must be told; what lies between two of them is the driver's.
impl Member {
    /// Takes one action and ends the turn.
    pub fn step(&mut self, action: Action) -> Output {
        self.core.handle(action);
        self.core.end_turn()
    }

    /// Writes the batch. Not durable before `sync_wal`.
    pub fn write_wal(&mut self, batch: &WalBatch) -> Result<(), StorageError> {
        self.wal.write(&batch.batch)
    }

    /// Syncs what was written; then the batch is persisted.
    pub fn sync_wal(&mut self, batch: &WalBatch) -> Result<Action, StorageError> {
        self.wal.sync()?;
        Ok(Action::Persisted { batch: batch.id })
    }

    /// `None` when the group has been destroyed meanwhile.
    pub fn run_apply(&mut self, job: &ApplyJob) -> Result<Option<Action>, StorageError> {
        let batch = self.applier.apply(job.group, &job.entries)?;
        Ok(batch.map(|batch| Action::Applied { batch: Box::new(batch) }))
    }

    pub fn read_log(&self, read: &LogRead) -> Result<Action, StorageError> {
        let LogRead { group, purpose, from, to, bytes_max } = *read;
        let entries = self.wal.read(group, from, to, bytes_max)?;
        Ok(Action::EntriesRead { group, purpose, from, entries })
    }

    /// Pins the state of a group for a follower.
    pub fn pin(&mut self, group: GroupId, to: NodeId) -> Result<Action, StorageError> {
        Ok(match self.applier.pin(group)? {
            Some(pin) => {
                let meta: SnapshotMeta = pin.meta.clone();
                self.snapshots.offer(pin);
                Action::SnapshotReady { group, to, meta }
            }
            None => Action::SnapshotFailed { group, to },
        })
    }

    /// Answers a fetch; the message goes to whom asked.
    pub fn serve(&mut self, fetch: &SnapshotFetch) -> Result<NodeMessage, StorageError> {
        self.snapshots.serve(fetch)
    }

    /// One step of taking a fetched state in.
    pub fn install(&mut self, step: InstallStep) -> Result<Option<Action>, StorageError> {
        Ok(match self.installer.step(step)? {
            InstallOutcome::Nothing => None,
            InstallOutcome::Taken(installed) => Some(Action::ChunkInstalled(installed)),
            InstallOutcome::Ready(ready) => {
                let (group, meta) = (ready.group, ready.meta.clone());
                Some(match self.applier.install(*ready)? {
                    Some(batch) => Action::Applied { batch: Box::new(batch) },
                    None => Action::SnapshotRefused { group, meta },
                })
            }
        })
    }

    /// Begins a checkpoint if one is due. The job is stepped by `checkpoint_step`.
    pub fn begin_checkpoint(&mut self) -> Result<Option<CheckpointJob>, StorageError> {
        if !self.applier.is_checkpoint_due() {
            return Ok(None);
        }
        self.applier.begin_checkpoint().map(Some)
    }

    /// One bounded I/O of a checkpoint. `Some` when it is durable: the actions to hand to the core.
    pub fn checkpoint_step(
        &mut self,
        job: &mut CheckpointJob,
    ) -> Result<Option<Vec<Action>>, StorageError> {
        match job.step()? {
            Step::More => Ok(None),
            Step::Done(done) => {
                let outcome = self.applier.finish_checkpoint(&done)?;
                let durable = outcome.durable.into_iter();
                let mut actions: Vec<Action> =
                    durable.map(|(group, meta)| Action::SnapshotDurable { group, meta }).collect();
                actions.push(Action::CheckpointDone {
                    held: outcome.held,
                    pressure: outcome.pressure,
                });
                Ok(Some(actions))
            }
        }
    }

    /// One step of a group's background compaction; false when there is nothing more to do.
    pub fn compact_step(
        &mut self,
        group: GroupId,
        budget: usize,
    ) -> Result<(bool, Option<Action>), StorageError> {
        let (more, answered) = self.applier.compact_step(group, budget)?;
        let told = (!answered.is_empty()).then_some(Action::Compacted { group, answered });
        Ok((more, told))
    }
}

/// The pieces may be moved to threads.
const _: () = {
    const fn send<T: Send>() {}
    send::<Core>();
    send::<Applier>();
    send::<SnapshotServer>();
    send::<Installer>();
    send::<CheckpointJob>();
    send::<Wal>();
};
