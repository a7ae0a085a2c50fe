//! Files before and after their life as a segment: prepared, released, recycled, removed.

use super::index::Live;
use super::segment::Segment;
use super::{Wal, WalOptions};
use crate::io::{Disk, File, OpenMode};
use crate::types::StorageError;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A file being filled with zeros.
const PREPARING: &str = "preparing.tmp";
/// Bytes that one step of preparing writes and syncs, so that no step holds up a batch for long.
const PREPARE_STEP_BYTES: u64 = 1 << 20;
/// Prepared ahead; recycled ones come on top, up to `WalOptions::spare_segments`.
const PREPARED_AHEAD: usize = 1;

static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// `spare-<n>.tmp`: zeros or old bytes, of the usual length, blocks in place.
fn spare_name(number: u64) -> String {
    format!("spare-{number:016x}.tmp")
}

fn number_of_spare(name: &str) -> Option<u64> {
    let digits = name.strip_prefix("spare-")?.strip_suffix(".tmp")?;
    let number = u64::from_str_radix(digits, 16).ok()?;
    (spare_name(number) == name).then_some(number)
}

/// The files that are not part of the log.
#[derive(Debug)]
pub(super) struct Spares {
    dir: PathBuf,
    options: WalOptions,
    /// Ready to become segments; their names are durable.
    ready: Vec<PathBuf>,
    /// Segments that the log has durably given up: (name, length).
    released: Vec<(PathBuf, u64)>,
    /// Leftovers of no use.
    useless: Vec<PathBuf>,
    next_number: u64,
    /// The file being filled, and how far it is.
    preparing: Option<(Arc<dyn File>, u64)>,
}

impl Spares {
    /// Sorts what lies in `dir` besides segments. Changes nothing yet. The names must be durable.
    pub fn found(
        disk: &dyn Disk,
        dir: &Path,
        names: &[String],
        options: WalOptions,
    ) -> Result<Spares, StorageError> {
        let mut spares = Spares {
            dir: dir.to_owned(),
            options,
            ready: Vec::new(),
            released: Vec::new(),
            useless: Vec::new(),
            next_number: 1,
            preparing: None,
        };
        for name in names {
            let path = dir.join(name);
            if name == PREPARING {
                spares.useless.push(path);
            } else if let Some(number) = number_of_spare(name) {
                spares.next_number = spares.next_number.max(number.saturating_add(1));
                let length = disk.open(&path, OpenMode::Read)?.len()?;
                if length == options.segment_bytes && spares.ready.len() < options.spare_segments {
                    spares.ready.push(path);
                } else {
                    spares.useless.push(path);
                }
            }
        }
        Ok(spares)
    }

    /// A segment that the log begins after.
    pub fn release(&mut self, path: PathBuf, length: u64) {
        self.released.push((path, length));
    }

    /// Turns released segments into spares, or removes them.
    fn recycle(&mut self, disk: &dyn Disk) -> Result<bool, StorageError> {
        if self.released.is_empty() && self.useless.is_empty() {
            return Ok(false);
        }
        self.discard(disk)?;
        let mut renamed = Vec::new();
        for (path, length) in std::mem::take(&mut self.released) {
            let room = self.ready.len() + renamed.len() < self.options.spare_segments;
            if room && length == self.options.segment_bytes {
                let spare = self.dir.join(spare_name(self.next_number));
                self.next_number += 1;
                disk.rename(&path, &spare)?;
                renamed.push(spare);
            } else {
                disk.unlink(&path)?;
            }
        }
        // Before a recycled file is written to, its old name must be gone for good: else a crash
        // could bring a new segment's bytes back under an old segment's name.
        disk.sync_dir(&self.dir)?;
        self.ready.append(&mut renamed);
        Ok(true)
    }

    /// Removes leftovers of no use, for good with the directory's next sync.
    fn discard(&mut self, disk: &dyn Disk) -> Result<(), StorageError> {
        for path in std::mem::take(&mut self.useless) {
            disk.unlink(&path)?;
        }
        Ok(())
    }

    /// A file of `length` bytes under a temporary name.
    pub fn take(
        &mut self,
        disk: &dyn Disk,
        length: u64,
    ) -> Result<(PathBuf, Arc<dyn File>), StorageError> {
        self.recycle(disk)?;
        if length == self.options.segment_bytes {
            if self.ready.is_empty() {
                while self.prepare(disk)? {}
            }
            return self.unused(disk, length);
        }
        let (path, file) = self.create(disk, length)?;
        let mut filled = 0;
        while filled < length {
            filled += fill(&*file, filled, length)?;
        }
        file.sync_data()?;
        Ok((path, file))
    }

    /// A file of `length` bytes under a temporary name, with anything in it. Segments that the log
    /// has given up stay: that it has may not be durable yet.
    pub fn unused(
        &mut self,
        disk: &dyn Disk,
        length: u64,
    ) -> Result<(PathBuf, Arc<dyn File>), StorageError> {
        // One start after another may fail just here.
        self.discard(disk)?;
        if length == self.options.segment_bytes
            && let Some(path) = self.ready.pop()
        {
            let file = disk.open(&path, OpenMode::ReadWrite)?;
            return Ok((path, file));
        }
        self.create(disk, length)
    }

    fn create(
        &mut self,
        disk: &dyn Disk,
        length: u64,
    ) -> Result<(PathBuf, Arc<dyn File>), StorageError> {
        let path = self.dir.join(spare_name(self.next_number));
        self.next_number += 1;
        let file = disk.open(&path, OpenMode::CreateNew)?;
        file.allocate(length)?;
        Ok((path, file))
    }

    /// One step of preparing a spare of the usual length; whether there is more to do.
    fn prepare(&mut self, disk: &dyn Disk) -> Result<bool, StorageError> {
        let length = self.options.segment_bytes;
        let path = self.dir.join(PREPARING);
        let Some((file, filled)) = self.preparing.take() else {
            let file = disk.open(&path, OpenMode::CreateNew)?;
            self.preparing = Some((file.clone(), 0));
            file.allocate(length)?;
            return Ok(true);
        };
        let filled = filled + fill(&*file, filled, length)?;
        file.sync_data()?;
        if filled < length {
            self.preparing = Some((file, filled));
            return Ok(true);
        }
        let spare = self.dir.join(spare_name(self.next_number));
        self.next_number += 1;
        disk.rename(&path, &spare)?;
        disk.sync_dir(&self.dir)?;
        self.ready.push(spare);
        Ok(false)
    }

    /// Gives up the file being filled, and its space.
    fn abandon(&mut self, disk: &dyn Disk) -> Result<(), StorageError> {
        self.preparing = None;
        let path = self.dir.join(PREPARING);
        if disk.exists(&path)? { disk.unlink(&path) } else { Ok(()) }
    }

    fn wants_more(&self) -> bool {
        self.ready.len() < self.options.spare_segments.min(PREPARED_AHEAD)
    }
}

/// Writes zeros from `filled` on, at most one step's worth; how many.
pub(super) fn fill(file: &dyn File, filled: u64, length: u64) -> Result<u64, StorageError> {
    let step = (length - filled).min(PREPARE_STEP_BYTES);
    let mut slices: Vec<&[u8]> = vec![&ZEROS; step as usize / ZEROS.len()];
    slices.push(&ZEROS[..step as usize % ZEROS.len()]);
    file.write_at(&slices, filled)?;
    Ok(step)
}

impl Wal {
    /// One bounded step of upkeep, for when there is nothing to write: gives back what the log
    /// does not need, copies live entries out of old segments, fills the next segment with zeros.
    /// Returns whether it did anything; call it again then. Skipping it costs nothing but time at
    /// the next rotation.
    ///
    /// A full disk is reported but does not poison the log: what exists is not touched, and the
    /// current segment has its space.
    pub fn prepare_spare(&mut self) -> Result<bool, StorageError> {
        self.check_usable()?;
        if self.guarded(Wal::recycle_released)? || self.guarded(Wal::write_upkeep)? {
            return Ok(true);
        }
        if !self.spares.wants_more() {
            return Ok(false);
        }
        match self.spares.prepare(&*self.disk) {
            Ok(_) => Ok(true),
            Err(error) => {
                let given_back = self.spares.abandon(&*self.disk).is_ok();
                self.poisoned = !(error.is_no_space() && given_back);
                Err(error)
            }
        }
    }

    /// Segments before `oldest` are, durably, not part of the log any more.
    pub(super) fn release_before(&mut self, oldest: u64) {
        while self.live.oldest() < oldest {
            let gone: Segment = self.segments.pop_front().expect("older than the newest");
            self.live.pop();
            self.spares.release(gone.path, gone.length);
        }
    }

    pub(super) fn recycle_released(&mut self) -> Result<bool, StorageError> {
        self.spares.recycle(&*self.disk)
    }

    /// A batch of upkeep alone, if there is any and no batch waits for its sync.
    fn write_upkeep(&mut self) -> Result<bool, StorageError> {
        let live: &Live = &self.live;
        let due = live.oldest_needed() > live.oldest() || self.wants_copying();
        if !due || self.unsynced.is_some() {
            return Ok(false);
        }
        self.write_with_upkeep(&[])?;
        self.try_sync()?;
        Ok(true)
    }
}
