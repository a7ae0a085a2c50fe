//! A handle to a file of a `MemDisk`.

use super::{FaultKind, FaultOp, Inode, MemDisk, Pending, Permit, State, lock, sector_range};
use crate::io::disk::{File, SECTOR_BYTES};
use crate::types::StorageError;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, MutexGuard};

#[derive(Debug)]
pub struct MemFile {
    disk: MemDisk,
    path: PathBuf,
    inode: u64,
    writable: bool,
    generation: u64,
    poisoned: AtomicBool,
}

impl MemFile {
    pub(super) fn new(
        disk: MemDisk,
        path: &Path,
        inode: u64,
        writable: bool,
        generation: u64,
    ) -> MemFile {
        let poisoned = AtomicBool::new(false);
        MemFile { disk, path: path.to_path_buf(), inode, writable, generation, poisoned }
    }

    /// The disk, if this handle is of its present life.
    fn state(&self) -> Result<MutexGuard<'_, State>, StorageError> {
        let state = lock(&self.disk.state);
        if state.generation != self.generation || self.poisoned.load(Ordering::Acquire) {
            return Err(StorageError::Poisoned { path: self.path.clone() });
        }
        Ok(state)
    }

    fn state_to_write(
        &self,
        op: &'static str,
    ) -> Result<(MutexGuard<'_, State>, Permit), StorageError> {
        let mut state = self.state()?;
        if !self.writable {
            return Err(self.error(op, io::ErrorKind::PermissionDenied.into()));
        }
        let permit = state.begin(op, &self.path)?;
        Ok((state, permit))
    }

    fn error(&self, op: &'static str, source: io::Error) -> StorageError {
        StorageError::io(op, &self.path, source)
    }

    fn poison(&self, op: &'static str, kind: FaultKind) -> StorageError {
        self.poisoned.store(true, Ordering::Release);
        self.error(op, kind.error())
    }

    fn change_len(
        &self,
        op: &'static str,
        fault_op: FaultOp,
        new_len: impl FnOnce(u64) -> u64,
    ) -> Result<(), StorageError> {
        let (mut state, permit) = self.state_to_write(op)?;
        state.ops.resizes += 1;
        if let Some(kind) = state.fault(fault_op, &self.path) {
            return Err(match kind {
                FaultKind::NoSpace => self.error(op, kind.error()),
                FaultKind::Io => self.poison(op, kind),
            });
        }
        let old = inode(&mut state, self.inode).live.len();
        let len = new_len(old);
        if len > old && !state.has_room(len - old) {
            return Err(self.error(op, FaultKind::NoSpace.error()));
        }
        if len != old {
            let seq = state.seq();
            let inode = inode(&mut state, self.inode);
            inode.live.set_len(len);
            inode.pending.push(Pending::Length { seq, len });
        }
        match permit {
            Permit::Granted => Ok(()),
            Permit::Cut => Err(State::off(op, &self.path)),
        }
    }
}

fn inode(state: &mut State, id: u64) -> &mut Inode {
    state.inodes.get_mut(&id).expect("an open handle keeps its file")
}

/// Puts bytes into the live image and remembers what a crash may take back.
fn write_pending(state: &mut State, id: u64, offset: u64, data: Arc<[u8]>) {
    if data.is_empty() {
        return;
    }
    let (length_seq, seq) = (state.seq(), state.seq());
    let inode = inode(state, id);
    let end = offset + data.len() as u64;
    if end > inode.live.len() {
        inode.pending.push(Pending::Length { seq: length_seq, len: end });
    }
    inode.live.write(offset, &data);
    if !inode.bad_sectors.is_empty() {
        // The drive maps a bad sector elsewhere when it is written, whole.
        let sector = SECTOR_BYTES as u64;
        for healed in offset.div_ceil(sector)..end / sector {
            inode.bad_sectors.remove(&healed);
        }
    }
    inode.pending.push(Pending::Write { seq, offset, data });
}

impl File for MemFile {
    fn path(&self) -> &Path {
        &self.path
    }

    fn len(&self) -> Result<u64, StorageError> {
        let mut state = self.state()?;
        state.check_power("stat", &self.path)?;
        Ok(inode(&mut state, self.inode).live.len())
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize, StorageError> {
        let mut state = self.state()?;
        state.check_power("read", &self.path)?;
        state.ops.reads += 1;
        if let Some(kind) = state.fault(FaultOp::Read, &self.path) {
            return Err(self.error("read", kind.error()));
        }
        let inode = inode(&mut state, self.inode);
        let wanted = sector_range(offset, buf.len() as u64);
        if inode.bad_sectors.range(wanted).next().is_some() {
            return Err(self.error("read", FaultKind::Io.error()));
        }
        let read = inode.live.read(offset, buf);
        state.ops.read_bytes += read as u64;
        Ok(read)
    }

    fn write_at(&self, bufs: &[&[u8]], offset: u64) -> Result<(), StorageError> {
        let (mut state, permit) = self.state_to_write("write")?;
        let data: Arc<[u8]> = match bufs {
            [one] => Arc::from(*one),
            many => Arc::from(many.concat()),
        };
        state.ops.writes += 1;
        state.ops.written_bytes += data.len() as u64;
        let end = offset + data.len() as u64;
        let growth = end.saturating_sub(inode(&mut state, self.inode).live.len());
        let fault = match state.fault(FaultOp::Write, &self.path) {
            None if growth > 0 && !state.has_room(growth) => Some(FaultKind::NoSpace),
            other => other,
        };
        if let Some(kind) = fault {
            // Some sectors from the front may have gone out before the error, within the room.
            let sectors = data.len() / SECTOR_BYTES;
            let written = state.prng.below(sectors as u64 + 1) as usize * SECTOR_BYTES;
            let fits = state.has_room(growth);
            if fits {
                write_pending(&mut state, self.inode, offset, Arc::from(&data[..written]));
            }
            return Err(self.poison("write", kind));
        }
        write_pending(&mut state, self.inode, offset, data);
        match permit {
            Permit::Granted => Ok(()),
            Permit::Cut => Err(State::off("write", &self.path)),
        }
    }

    fn set_len(&self, len: u64) -> Result<(), StorageError> {
        self.change_len("truncate", FaultOp::SetLen, |_| len)
    }

    fn allocate(&self, len: u64) -> Result<(), StorageError> {
        self.change_len("allocate", FaultOp::Allocate, |old| old.max(len))
    }

    fn sync_data(&self) -> Result<(), StorageError> {
        let (mut state, permit) = self.state_to_write("sync")?;
        state.ops.syncs += 1;
        if let Some(kind) = state.fault(FaultOp::Sync, &self.path) {
            // As kernels do: pages that could not be written count as clean from now on, and
            // reads still show them. Which of them had reached the disk is anybody's guess.
            let mut prng = state.prng.clone();
            let inode = inode(&mut state, self.inode);
            for change in std::mem::take(&mut inode.pending) {
                match change {
                    Pending::Write { offset, data, .. } if prng.chance(1, 2) => {
                        let len = data.len() as u64;
                        inode.durable.share_pages(&inode.live, offset, len);
                    }
                    Pending::Length { len, .. } if prng.chance(1, 2) => inode.durable.set_len(len),
                    _ => {}
                }
            }
            inode.durable.set_len(inode.durable.len());
            state.prng = prng;
            return Err(self.poison("sync", kind));
        }
        if matches!(permit, Permit::Cut) {
            return Err(State::off("sync", &self.path));
        }
        let inode = inode(&mut state, self.inode);
        if inode.pending.is_empty() {
            return Ok(());
        }
        for change in std::mem::take(&mut inode.pending) {
            match change {
                Pending::Write { offset, data, .. } => {
                    inode.durable.share_pages(&inode.live, offset, data.len() as u64);
                }
                // The page that a cut went through has changed too.
                Pending::Length { len, .. } => {
                    inode.durable.set_len(len);
                    inode.durable.share_pages(&inode.live, len, 1);
                }
            }
        }
        inode.durable.set_len(inode.live.len());
        Ok(())
    }
}

impl Drop for MemFile {
    fn drop(&mut self) {
        let mut state = lock(&self.disk.state);
        if state.generation == self.generation
            && let Some(inode) = state.inodes.get_mut(&self.inode)
        {
            inode.open_handles = inode.open_handles.saturating_sub(1);
        }
    }
}
