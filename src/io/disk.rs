//! The disk as the storage rooms see it.
//!
//! Synchronous and small: what is not here (mmap, buffered writers, directory syncs behind the
//! caller's back, retries) is left out because the simulator could not see it or because it
//! hides the order of writes. Two implementations: `OsDisk` over the operating system, `MemDisk`
//! which can lose power.
//!
//! What a caller may rely on, and no more:
//! - bytes written are durable once `sync_data` on the same handle has returned; until then any
//!   subset of their 512-byte sectors may survive a power failure, in any order, and a sector may
//!   be torn; the file's length is no exception;
//! - a file's *name* (created, renamed, removed) is durable once `sync_dir` on its directory has
//!   returned; syncing the file does not do it;
//! - after a failed write or sync the handle is poisoned: what the kernel has then dropped from
//!   its cache cannot be known, so nothing is retried.

use crate::types::StorageError;
use std::fmt::Debug;
use std::path::Path;
use std::sync::Arc;

/// What a power failure may keep or drop as a unit.
pub const SECTOR_BYTES: usize = 512;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// An existing file, for reading.
    Read,
    /// An existing file, for reading and writing.
    ReadWrite,
    /// A file that must not exist yet, for reading and writing (mode 0600).
    CreateNew,
}

pub trait Disk: Send + Sync + Debug {
    fn open(&self, path: &Path, mode: OpenMode) -> Result<Arc<dyn File>, StorageError>;
    fn exists(&self, path: &Path) -> Result<bool, StorageError>;
    /// Names (not paths) of the files and directories in `dir`, sorted.
    fn list(&self, dir: &Path) -> Result<Vec<String>, StorageError>;
    /// Makes `dir` and what is missing above it (mode 0700). Durable when it returns: the one
    /// operation that syncs directories itself, because only it knows which ones it has made.
    fn create_dir_all(&self, dir: &Path) -> Result<(), StorageError>;
    /// Replaces `to` if it exists. Durable after `sync_dir` on the directory of both.
    fn rename(&self, from: &Path, to: &Path) -> Result<(), StorageError>;
    fn unlink(&self, path: &Path) -> Result<(), StorageError>;
    fn sync_dir(&self, dir: &Path) -> Result<(), StorageError>;
    /// Takes the file at `path` (created when missing) for this process, until the lock is
    /// dropped. `StorageError::Locked` when somebody else has it.
    fn lock(&self, path: &Path) -> Result<Box<dyn DiskLock>, StorageError>;
    /// Bytes that this process may still write below `dir`.
    fn free_bytes(&self, dir: &Path) -> Result<u64, StorageError>;
}

/// Held for as long as it lives.
pub trait DiskLock: Send + Sync + Debug {}

pub trait File: Send + Sync + Debug {
    fn path(&self) -> &Path;
    /// The length in bytes, un-synced growth included.
    fn len(&self) -> Result<u64, StorageError>;
    fn is_empty(&self) -> Result<bool, StorageError> {
        Ok(self.len()? == 0)
    }
    /// Reads at most `buf.len()` bytes; fewer only at the end of the file.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize, StorageError>;
    /// Fills `buf`. The end of the file in between is damage, not a condition.
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<(), StorageError> {
        let read = self.read_at(buf, offset)?;
        if read == buf.len() {
            return Ok(());
        }
        Err(StorageError::corrupt(
            self.path(),
            offset + read as u64,
            format!("{} more bytes", buf.len() - read),
            "the end of the file",
        ))
    }
    /// Writes the buffers one after the other from `offset` on, all of them or an error. An error
    /// poisons the handle: a part may have been written.
    fn write_at(&self, bufs: &[&[u8]], offset: u64) -> Result<(), StorageError>;
    /// Cuts or extends (with zeros). "No space" does not poison.
    fn set_len(&self, len: u64) -> Result<(), StorageError>;
    /// Reserves blocks for the first `len` bytes, so that writing them later cannot run out of
    /// space; the file becomes at least `len` long, new bytes read as zeros. "No space" does not
    /// poison.
    fn allocate(&self, len: u64) -> Result<(), StorageError>;
    /// Waits until everything written through this handle, and the length, is durable
    /// (fdatasync). An error poisons the handle.
    fn sync_data(&self) -> Result<(), StorageError>;
}
