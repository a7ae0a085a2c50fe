//! A member's disk as its process sees it: a `MemDisk`, fenced by process, that costs time.
//!
//! An operation takes effect at once and leaves a debt of time behind, which the dedicated task
//! that did it pays before it runs on (`tasks`): a slow disk holds up its member and nobody else.
//! When the power fails inside an operation, the process is killed there and then: nothing that it
//! still does, and no destructor of its tasks, reaches the disk or the network again.

use super::process::Life;
use quorate::io::{Disk, DiskLock, File, MemDisk, OpenMode};
use quorate::types::StorageError;
use std::io;
use std::path::Path;
use std::sync::Arc;

/// Numbers of the operations in the trace.
#[derive(Clone, Copy)]
enum Op {
    Open = 1,
    Write,
    Sync,
    Length,
    Rename,
    Unlink,
    SyncDir,
    MakeDir,
}

#[derive(Clone)]
pub struct SimDisk {
    disk: MemDisk,
    life: Arc<Life>,
}

impl std::fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SimDisk").field("process", &self.life.number).finish_non_exhaustive()
    }
}

impl SimDisk {
    pub fn new(disk: MemDisk, life: Arc<Life>) -> SimDisk {
        SimDisk { disk, life }
    }

    /// Whether this process still runs; if not, the operation does not take place.
    fn alive(&self, op: &'static str, path: &Path) -> Result<(), StorageError> {
        if self.life.is_over() {
            let source = io::Error::other("the process is dead");
            return Err(StorageError::io(op, path, source));
        }
        Ok(())
    }

    /// After each operation that may change the disk.
    fn done(&self, op: Op, path: &Path, bytes: usize) {
        let costs = &self.life.costs;
        self.life.owe_us(match op {
            Op::Sync | Op::SyncDir | Op::MakeDir => costs.sync_us,
            Op::Write => costs.write_us,
            Op::Open | Op::Length | Op::Rename | Op::Unlink => costs.write_us / 4,
        });
        let name = path.to_string_lossy();
        self.life.trace(0xd0 + op as u64, bytes as u64, name.as_bytes());
        if self.disk.is_off() {
            self.life.power_failed();
        }
    }
}

impl Disk for SimDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> Result<Arc<dyn File>, StorageError> {
        self.alive("open", path)?;
        let file = Disk::open(&self.disk, path, mode);
        self.done(Op::Open, path, 0);
        Ok(Arc::new(SimFile { file: file?, disk: self.clone() }))
    }
    fn exists(&self, path: &Path) -> Result<bool, StorageError> {
        self.alive("stat", path)?;
        self.disk.exists(path)
    }
    fn list(&self, dir: &Path) -> Result<Vec<String>, StorageError> {
        self.alive("list", dir)?;
        self.disk.list(dir)
    }
    fn create_dir_all(&self, dir: &Path) -> Result<(), StorageError> {
        self.alive("mkdir", dir)?;
        let made = self.disk.create_dir_all(dir);
        self.done(Op::MakeDir, dir, 0);
        made
    }
    fn rename(&self, from: &Path, to: &Path) -> Result<(), StorageError> {
        self.alive("rename", from)?;
        let renamed = self.disk.rename(from, to);
        self.done(Op::Rename, to, 0);
        renamed
    }
    fn unlink(&self, path: &Path) -> Result<(), StorageError> {
        self.alive("unlink", path)?;
        let unlinked = self.disk.unlink(path);
        self.done(Op::Unlink, path, 0);
        unlinked
    }
    fn sync_dir(&self, dir: &Path) -> Result<(), StorageError> {
        self.alive("fsync", dir)?;
        let synced = self.disk.sync_dir(dir);
        self.done(Op::SyncDir, dir, 0);
        synced
    }
    fn lock(&self, path: &Path) -> Result<Box<dyn DiskLock>, StorageError> {
        self.alive("lock", path)?;
        self.disk.lock(path)
    }
    fn free_bytes(&self, dir: &Path) -> Result<u64, StorageError> {
        self.disk.free_bytes(dir)
    }
}

struct SimFile {
    file: Arc<dyn File>,
    disk: SimDisk,
}

impl std::fmt::Debug for SimFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.file.fmt(f)
    }
}

impl File for SimFile {
    fn path(&self) -> &Path {
        self.file.path()
    }
    fn len(&self) -> Result<u64, StorageError> {
        self.disk.alive("stat", self.path())?;
        self.file.len()
    }
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize, StorageError> {
        self.disk.alive("read", self.path())?;
        self.disk.life.owe_us(self.disk.life.costs.write_us / 4);
        self.file.read_at(buf, offset)
    }
    fn write_at(&self, bufs: &[&[u8]], offset: u64) -> Result<(), StorageError> {
        self.disk.alive("write", self.path())?;
        let written = self.file.write_at(bufs, offset);
        let bytes: usize = bufs.iter().map(|buf| buf.len()).sum();
        self.disk.done(Op::Write, self.path(), bytes);
        written
    }
    fn set_len(&self, len: u64) -> Result<(), StorageError> {
        self.disk.alive("truncate", self.path())?;
        let done = self.file.set_len(len);
        self.disk.done(Op::Length, self.path(), 0);
        done
    }
    fn allocate(&self, len: u64) -> Result<(), StorageError> {
        self.disk.alive("allocate", self.path())?;
        let done = self.file.allocate(len);
        self.disk.done(Op::Length, self.path(), 0);
        done
    }
    fn sync_data(&self) -> Result<(), StorageError> {
        self.disk.alive("fsync", self.path())?;
        let synced = self.file.sync_data();
        self.disk.done(Op::Sync, self.path(), 0);
        synced
    }
}
