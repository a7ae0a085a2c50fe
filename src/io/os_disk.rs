//! The operating system's files: the only place in the library that names `std::fs`.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "this is the disk that the rest of the library reaches through io::Disk"
)]

use super::disk::{Disk, DiskLock, File, OpenMode};
use crate::types::StorageError;
use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind, IoSlice};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Buffers handed to one pwritev; the kernel takes at most 1024.
const WRITE_BUFFERS_MAX: usize = 64;

#[derive(Clone, Copy, Debug, Default)]
pub struct OsDisk;

impl Disk for OsDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> Result<Arc<dyn File>, StorageError> {
        let mut options = OpenOptions::new();
        options.read(true);
        match mode {
            OpenMode::Read => {}
            OpenMode::ReadWrite => {
                options.write(true);
            }
            OpenMode::CreateNew => {
                options.write(true).create_new(true).mode(0o600);
            }
        }
        let file = options.open(path).map_err(|e| StorageError::io("open", path, e))?;
        Ok(Arc::new(OsFile { file, path: path.to_path_buf(), poisoned: AtomicBool::new(false) }))
    }

    fn exists(&self, path: &Path) -> Result<bool, StorageError> {
        path.try_exists().map_err(|e| StorageError::io("stat", path, e))
    }

    fn list(&self, dir: &Path) -> Result<Vec<String>, StorageError> {
        let failed = |e| StorageError::io("list", dir, e);
        let mut names = Vec::new();
        for entry in fs::read_dir(dir).map_err(failed)? {
            // A name that is not UTF-8 is none of ours.
            if let Ok(name) = entry.map_err(failed)?.file_name().into_string() {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn create_dir_all(&self, dir: &Path) -> Result<(), StorageError> {
        let missing: Vec<&Path> =
            dir.ancestors().take_while(|p| !p.as_os_str().is_empty() && !p.is_dir()).collect();
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(|e| StorageError::io("mkdir", dir, e))?;
        for made in missing {
            match made.parent() {
                Some(parent) if parent.as_os_str().is_empty() => self.sync_dir(Path::new("."))?,
                Some(parent) => self.sync_dir(parent)?,
                None => {}
            }
        }
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), StorageError> {
        fs::rename(from, to).map_err(|e| StorageError::io("rename", from, e))
    }

    fn unlink(&self, path: &Path) -> Result<(), StorageError> {
        fs::remove_file(path).map_err(|e| StorageError::io("unlink", path, e))
    }

    fn sync_dir(&self, dir: &Path) -> Result<(), StorageError> {
        fs::File::open(dir)
            .and_then(|handle| handle.sync_all())
            .map_err(|e| StorageError::io("sync directory", dir, e))
    }

    fn lock(&self, path: &Path) -> Result<Box<dyn DiskLock>, StorageError> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(|e| StorageError::io("open", path, e))?;
        match file.try_lock() {
            Ok(()) => Ok(Box::new(OsLock { _file: file })),
            Err(fs::TryLockError::WouldBlock) => {
                Err(StorageError::Locked { path: path.to_path_buf() })
            }
            Err(fs::TryLockError::Error(e)) => Err(StorageError::io("lock", path, e)),
        }
    }

    fn free_bytes(&self, dir: &Path) -> Result<u64, StorageError> {
        let stat =
            rustix::fs::statvfs(dir).map_err(|e| StorageError::io("statvfs", dir, e.into()))?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

/// The lock goes with the descriptor.
#[derive(Debug)]
struct OsLock {
    _file: fs::File,
}

impl DiskLock for OsLock {}

#[derive(Debug)]
struct OsFile {
    file: fs::File,
    path: PathBuf,
    poisoned: AtomicBool,
}

impl OsFile {
    fn check(&self) -> Result<(), StorageError> {
        if self.poisoned.load(Ordering::Acquire) {
            return Err(StorageError::Poisoned { path: self.path.clone() });
        }
        Ok(())
    }

    fn poison(&self, op: &'static str, source: io::Error) -> StorageError {
        self.poisoned.store(true, Ordering::Release);
        StorageError::io(op, &self.path, source)
    }

    /// For operations that change nothing when the disk is full.
    fn poison_unless_full(&self, op: &'static str, source: io::Error) -> StorageError {
        if source.kind() == ErrorKind::StorageFull {
            return StorageError::io(op, &self.path, source);
        }
        self.poison(op, source)
    }
}

impl File for OsFile {
    fn path(&self) -> &Path {
        &self.path
    }

    fn len(&self) -> Result<u64, StorageError> {
        self.check()?;
        Ok(self.file.metadata().map_err(|e| StorageError::io("stat", &self.path, e))?.len())
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize, StorageError> {
        self.check()?;
        let mut done = 0;
        while done < buf.len() {
            match self.file.read_at(&mut buf[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(read) => done += read,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(StorageError::io("read", &self.path, e)),
            }
        }
        Ok(done)
    }

    fn write_at(&self, bufs: &[&[u8]], offset: u64) -> Result<(), StorageError> {
        self.check()?;
        let mut at = offset;
        for chunk in bufs.chunks(WRITE_BUFFERS_MAX) {
            let mut slices = chunk.iter().map(|b| IoSlice::new(b)).collect::<Vec<_>>();
            let mut rest = slices.as_mut_slice();
            // Empty buffers at the front would make a complete write look like a refused one.
            IoSlice::advance_slices(&mut rest, 0);
            while !rest.is_empty() {
                match rustix::io::pwritev(&self.file, rest, at) {
                    Ok(0) => return Err(self.poison("write", ErrorKind::WriteZero.into())),
                    Ok(written) => {
                        at += written as u64;
                        IoSlice::advance_slices(&mut rest, written);
                    }
                    Err(rustix::io::Errno::INTR) => {}
                    Err(e) => return Err(self.poison("write", e.into())),
                }
            }
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> Result<(), StorageError> {
        self.check()?;
        self.file.set_len(len).map_err(|e| self.poison_unless_full("truncate", e))
    }

    fn allocate(&self, len: u64) -> Result<(), StorageError> {
        self.check()?;
        if len == 0 {
            return Ok(());
        }
        loop {
            match rustix::fs::fallocate(&self.file, rustix::fs::FallocateFlags::empty(), 0, len) {
                Ok(()) => return Ok(()),
                Err(rustix::io::Errno::INTR) => {}
                // A file system without reservations: the length is all that it can promise.
                Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => {
                    return if self.len()? < len { self.set_len(len) } else { Ok(()) };
                }
                Err(e) => return Err(self.poison_unless_full("allocate", e.into())),
            }
        }
    }

    fn sync_data(&self) -> Result<(), StorageError> {
        self.check()?;
        self.file.sync_data().map_err(|e| self.poison("sync", e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory of its own, removed when the test passes.
    struct Scratch(PathBuf);
    impl Scratch {
        fn new(name: &str) -> Scratch {
            let dir = std::env::temp_dir().join(format!("quorate-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&dir);
            OsDisk.create_dir_all(&dir).unwrap();
            Scratch(dir)
        }
    }
    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn writes_reads_and_lists() {
        let scratch = Scratch::new("os-disk");
        let dir = scratch.0.join("a/b");
        OsDisk.create_dir_all(&dir).unwrap();
        let path = dir.join("one");
        let file = OsDisk.open(&path, OpenMode::CreateNew).unwrap();
        file.write_at(&[b"", b"hello", b"", b" world", b""], 3).unwrap();
        let many: Vec<&[u8]> = (0..200).map(|_| b"xy".as_slice()).collect();
        file.write_at(&many, 14).unwrap();
        file.sync_data().unwrap();
        assert_eq!(file.len().unwrap(), 414);
        let mut buf = [0; 14];
        file.read_exact_at(&mut buf, 0).unwrap();
        assert_eq!(&buf, b"\0\0\0hello world");
        assert_eq!(file.read_at(&mut buf, 410).unwrap(), 4);
        assert!(matches!(file.read_exact_at(&mut buf, 410), Err(StorageError::Corrupt { .. })));
        file.allocate(8192).unwrap();
        assert_eq!(file.len().unwrap(), 8192);
        file.set_len(5).unwrap();
        assert_eq!(file.len().unwrap(), 5);
        assert!(OsDisk.open(&path, OpenMode::CreateNew).is_err());
        OsDisk.rename(&path, &dir.join("two")).unwrap();
        OsDisk.sync_dir(&dir).unwrap();
        assert_eq!(OsDisk.list(&dir).unwrap(), ["two"]);
        assert!(!OsDisk.exists(&path).unwrap());
        OsDisk.unlink(&dir.join("two")).unwrap();
        assert!(OsDisk.list(&dir).unwrap().is_empty());
        assert!(OsDisk.free_bytes(&dir).unwrap() > 0);
    }

    #[test]
    fn a_second_lock_is_refused_until_the_first_is_dropped() {
        let scratch = Scratch::new("os-lock");
        let path = scratch.0.join("LOCK");
        let held = OsDisk.lock(&path).unwrap();
        assert!(matches!(OsDisk.lock(&path), Err(StorageError::Locked { .. })));
        drop(held);
        OsDisk.lock(&path).unwrap();
    }
}
