//! What a member's log and store take, and what they promise each other.
//!
//! Bounds are the product's own, with room for what is under way: the log (`wal::forward`), nodes
//! in memory (`multiraft::checkpoint`), files that are open. The log may give up nothing that a
//! start on either of the store's two checkpoints would need; and while the log and the store are
//! as they should be, losing the newest meta page costs nothing but time.

use crate::member::{STORE, WAL_DIR};
use crate::safety::{Checked, ensure};
use crate::world::World;
use quorate::btree::{Store, StoreOptions};
use quorate::io::mem_disk::{CrashMode, CrashPlan};
use quorate::io::{Disk, MemDisk};
use quorate::multiraft::meta::GroupMeta;
use quorate::types::{GroupId, LogIndex, StorageError};
use quorate::wal::{GroupLog, Record};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

const PAGE: u64 = 4096;
/// A log of so many segments may hold anything, and above that three times what is needed.
const SEGMENTS_FREE: usize = 4;
const SLACK: u64 = 3;
/// Files of the log that are no segments: spares, the one being filled, and one just given up.
const SPARES_MAX: usize = 2 + 1 + 1;
/// Handles that are open besides those of the log's files: the store, and a snapshot's reader.
const HANDLES_BESIDES: usize = 4;
/// Nodes that one job adds before anybody asks, and those that old views hold.
const DIRTY_SLACK_BYTES: usize = 1 << 20;
/// One step of a checkpoint in this many is looked at from the older checkpoint's side.
const OLDER_ONE_IN: u64 = 8;

impl World {
    /// A piece of background work is done.
    pub fn check_background(&mut self, m: usize) -> Checked {
        let Some(live) = &mut self.slots[m].live else { return Ok(()) };
        if std::mem::take(&mut live.tidied) {
            self.check_log_length(m)
        } else if live.checkpoint.is_some() {
            self.check_older_checkpoint(m)
        } else {
            Ok(())
        }
    }

    /// The log has nothing left to tidy: it must be as short as it says.
    pub fn check_log_length(&self, m: usize) -> Checked {
        let slot = &self.slots[m];
        let Some(live) = &slot.live else { return Ok(()) };
        if live.wal_synced.is_some() {
            // Tidying waits for that sync.
            return Ok(());
        }
        let sizes = live.wal.sizes();
        ensure!(
            sizes.segments <= SEGMENTS_FREE
                || sizes.taken_bytes <= sizes.needed_bytes.saturating_mul(SLACK),
            "unbounded",
            "member {m}: the log takes {} segments, {} bytes, where {} are needed",
            sizes.segments,
            sizes.taken_bytes,
            sizes.needed_bytes
        );
        let (files, _) = slot.disk.used_below(WAL_DIR);
        ensure!(
            files <= sizes.segments + SPARES_MAX,
            "unbounded",
            "member {m}: {files} files of a log of {} segments",
            sizes.segments
        );
        let open = slot.disk.open_handles();
        ensure!(
            open as usize <= files + HANDLES_BESIDES,
            "unbounded",
            "member {m} has {open} files open, and {files} in its log"
        );
        Ok(())
    }

    /// What a member keeps of its trees in memory.
    pub fn check_memory(&self, m: usize) -> Checked {
        let Some(live) = &self.slots[m].live else { return Ok(()) };
        let (sizes, most) = (live.applier.store().sizes(), self.plan.cache_bytes);
        let dirty = sizes.dirty_bytes as usize;
        ensure!(
            dirty <= most * 2 + DIRTY_SLACK_BYTES
                && sizes.cache_bytes as usize <= most.max(dirty) + DIRTY_SLACK_BYTES,
            "unbounded",
            "member {m}: {sizes:?} with a cache of {most}"
        );
        Ok(())
    }

    /// What the log gives up must be in the store for good: the start of a fetched state in the
    /// newest checkpoint, trimmed entries in both.
    pub fn check_given_up(&self, m: usize, records: &[Record]) -> Checked {
        let Some(live) = &self.slots[m].live else { return Ok(()) };
        let store = live.applier.store();
        for record in records {
            let (group, index, metas, which) = match record {
                Record::LogStart { group, index, .. } => {
                    (*group, *index, vec![store.group_metas()], "newest")
                }
                Record::Trim { group, index, .. } => {
                    let both = vec![store.group_metas(), store.older_group_metas()];
                    (*group, *index, both, "older")
                }
                _ => continue,
            };
            for metas in metas {
                // A group that is just being born or destroyed is in the log alone.
                let Some(held) = applied(&metas, group) else { continue };
                ensure!(
                    held >= index,
                    "log-before-store",
                    "member {m} group {group}: the log is to begin behind {index}, and the {which} \
                     checkpoint has {held}"
                );
            }
        }
        Ok(())
    }

    /// Now and then, a look at the disk as it is in the middle of a checkpoint.
    pub fn check_older_checkpoint(&self, m: usize) -> Checked {
        let slot = &self.slots[m];
        let skipped = !self.trace.events().is_multiple_of(OLDER_ONE_IN);
        if skipped || slot.damaged.is_some() || slot.sabotaged.is_some() || slot.disk.is_off() {
            return Ok(());
        }
        let there = slot.disk.fork_crashed(CrashPlan { mode: CrashMode::All, torn: false });
        let options = StoreOptions { cache_bytes: self.plan.cache_bytes };
        let found = without_newest_meta(&there, options, None);
        ensure!(found.is_ok(), "older-checkpoint", "member {m}: {}", found.unwrap_err());
        Ok(())
    }
}

fn applied(metas: &BTreeMap<GroupId, bytes::Bytes>, group: GroupId) -> Option<LogIndex> {
    let meta = GroupMeta::decode(metas.get(&group)?, Path::new(STORE)).ok()?;
    Some(meta.applied)
}

/// What is wrong with the checkpoint before the newest, and with the log as its continuation.
/// The disk is a copy; it is changed.
pub fn without_newest_meta(
    disk: &MemDisk,
    options: StoreOptions,
    logs: Option<&BTreeMap<GroupId, GroupLog>>,
) -> Result<(), String> {
    let path = Path::new(STORE);
    let arc: Arc<dyn Disk> = Arc::new(disk.clone());
    let newest = Store::open(arc.clone(), path, options).map_err(|error| error.to_string())?;
    let (checkpoint, metas) = (newest.checkpoint(), newest.group_metas());
    drop(newest);
    disk.overwrite(path, checkpoint % 2 * PAGE, &[0; PAGE as usize]);
    let older = match Store::open(arc, path, options) {
        Ok(older) => older,
        // The other meta page was torn, so that there is only one.
        Err(StorageError::Corrupt { expected, .. }) if expected.contains("valid meta page") => {
            return Ok(());
        }
        Err(error) => return Err(format!("without checkpoint {checkpoint}: {error}")),
    };
    if older.checkpoint() + 1 != checkpoint {
        return Ok(());
    }
    let report = older.verify().map_err(|error| error.to_string())?;
    if !report.problems.is_empty() {
        return Err(format!(
            "checkpoint {}, while {checkpoint} is the newest: {:?}",
            older.checkpoint(),
            report.problems
        ));
    }
    let held = older.group_metas();
    for (group, log) in logs.into_iter().flatten() {
        let (Some(old), Some(new)) = (held.get(group), metas.get(group)) else { continue };
        let decode = |bytes| GroupMeta::decode(bytes, path).map_err(|error| error.to_string());
        let (old, new) = (decode(old)?, decode(new)?);
        // Behind a fetched state there is no way back.
        if log.start.0 > old.applied && new.installed.0 <= old.applied {
            return Err(format!(
                "group {group}: the log begins behind {}, checkpoint {} has {}",
                log.start.0,
                older.checkpoint(),
                old.applied
            ));
        }
    }
    Ok(())
}
