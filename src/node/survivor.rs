//! What can be had of one member's directory when too many of the others are lost for good.
//!
//! The member does not run; its directory is taken as it is, log included: a copy of the store
//! alone ends at the newest checkpoint.
//!
//! How much of the log? The hint of what is committed lags behind what was acknowledged, so a
//! write whose client has its answer may lie behind it (`Tail::Kept` has it). But so may entries
//! that were never agreed on: their clients were told nothing, and now they happen after all,
//! unless the members that are lost have agreed on something else in their place
//! (`Tail::Committed` leaves them out, as etcd does). Where the others are gone, nothing that
//! survives can contradict the first, and it loses less.
//!
//! Two ways out: `snapshot`, for a new cluster under a new id (`restore`), which the old members
//! cannot join; and `stand_alone`, which makes the directory a cluster of one under the old id.
//! The second trusts the operator that the others are gone: those that are not, and still have a
//! quorum among themselves, go on as the same cluster.

use super::boot::{BootConfig, BootError, Founding, boot};
use super::member::Member;
use super::portable::SnapshotWriter;
use crate::io::Disk;
use crate::types::{GroupId, HardState, LogIndex, StorageError};
use crate::wal::{Batch, Record};
use std::path::Path;
use std::sync::Arc;

/// What to do with entries that this member does not know to be committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tail {
    Kept,
    Committed,
}

/// Entry bytes applied at once.
const APPLY_BYTES: usize = 1 << 20;

/// The member with its log applied. Holds the directory's lock.
fn caught_up(disk: Arc<dyn Disk>, mut config: BootConfig, tail: Tail) -> Result<Member, BootError> {
    config.founding = Founding::Never;
    let mut member = boot(disk, config)?;
    let groups: Vec<GroupId> = member.applier.groups().collect();
    for group in groups {
        // The replica itself is left alone: nothing is decided here, and nobody hears of it.
        let raft = member.core.status(group).expect("every group has a replica").raft;
        let end = if tail == Tail::Kept { raft.last } else { raft.commit };
        loop {
            let applied = member.applier.meta(group).expect("a known group").applied;
            let entries = member.wal.read(group, applied.next(), end, APPLY_BYTES)?;
            // A lone voter's replica has begun its term in memory: that is not in the log.
            if entries.is_empty() {
                break;
            }
            member.applier.apply(group, &entries)?;
        }
    }
    Ok(member)
}

/// The whole state as a portable snapshot, and what must stay alive while it is read.
pub struct Survivor {
    pub snapshot: SnapshotWriter,
    member: Member,
}

impl std::fmt::Debug for Survivor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.member.fmt(f)
    }
}

impl Survivor {
    /// The whole snapshot into a new file.
    pub fn write_file(self, disk: &Arc<dyn Disk>, path: &Path) -> Result<u64, StorageError> {
        self.snapshot.write_file(disk, path)
    }

    /// Per group the newest entry that the snapshot holds, and its revision.
    pub fn groups(&self) -> Vec<(GroupId, LogIndex, i64)> {
        let applier = &self.member.applier;
        let of =
            |group| Some((group, applier.meta(group)?.applied, applier.view(group)?.revision()));
        applier.groups().filter_map(of).collect()
    }
}

/// A snapshot of the directory that `config` names.
pub fn snapshot(
    disk: Arc<dyn Disk>,
    config: BootConfig,
    tail: Tail,
) -> Result<Survivor, BootError> {
    let chunk_bytes = config.chunk_bytes;
    let mut member = caught_up(disk, config, tail)?;
    let groups: Vec<GroupId> = member.applier.groups().collect();
    let mut pins = Vec::new();
    for group in groups {
        pins.extend(member.applier.pin(group)?);
    }
    let core = member.core.config();
    let snapshot = SnapshotWriter::new(core.cluster, core.node, pins, chunk_bytes);
    Ok(Survivor { snapshot, member })
}

/// Makes the directory's member the only one of its cluster (etcd's `--force-new-cluster`). Safe
/// to repeat; a crash leaves either the old membership or the new one: the checkpoint decides, and
/// boot makes up for the log's new start.
pub fn stand_alone(disk: Arc<dyn Disk>, config: BootConfig, tail: Tail) -> Result<(), BootError> {
    let path = config.store_path();
    let mut member = caught_up(disk, config, tail)?;
    let node = member.core.config().node;
    if !member.applier.root().members.contains_key(&node) {
        return Err(BootError::NotAMember { path, node });
    }
    // A configuration change in the tail may have had its say: this one is the last.
    let starts = member.applier.stand_alone(node)?;
    let done = member.applier.begin_checkpoint()?.run()?;
    member.applier.finish_checkpoint(&done)?;
    let mut records = Vec::new();
    for (group, index, term) in starts {
        let raft = member.core.status(group).expect("every group has a replica").raft;
        // The term must not fall; in it this member may have voted, so the vote stays with it.
        let hard = HardState { term: raft.term, vote: raft.vote, commit: index };
        records.push(Record::LogStart { group, index, term });
        records.push(Record::HardState { group, hard });
    }
    member.wal.write(&Batch { records })?;
    member.wal.sync()?;
    Ok(())
}
