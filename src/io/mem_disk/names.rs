//! Names, directories and locks of a `MemDisk`: its `Disk` side.

use super::file::MemFile;
use super::{DirChange, FaultOp, Inode, MemDisk, Permit, State, crash, normal};
use crate::io::disk::{Disk, DiskLock, File, OpenMode};
use crate::types::StorageError;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What `free_bytes` says of a disk without a capacity.
const FREE_BYTES_UNBOUNDED: u64 = 1 << 50;

fn not_found(op: &'static str, path: &Path) -> StorageError {
    StorageError::io(op, path, io::ErrorKind::NotFound.into())
}

impl Disk for MemDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> Result<Arc<dyn File>, StorageError> {
        let name = normal(path);
        let mut state = self.state();
        let id = if mode == OpenMode::CreateNew {
            let permit = state.begin("open", path)?;
            state.ops.creates += 1;
            if let Some(kind) = state.fault(FaultOp::Create, &name) {
                return Err(StorageError::io("open", path, kind.error()));
            }
            if state.names.contains_key(&name) || state.dirs.contains(&name) {
                return Err(StorageError::io("open", path, io::ErrorKind::AlreadyExists.into()));
            }
            if !name.parent().is_some_and(|dir| state.dirs.contains(dir)) {
                return Err(not_found("open", path));
            }
            let id = state.next_inode;
            state.next_inode += 1;
            state.inodes.insert(id, Inode::default());
            state.change_names(DirChange::Link { path: name, inode: id });
            if matches!(permit, Permit::Cut) {
                return Err(State::off("open", path));
            }
            id
        } else {
            state.check_power("open", path)?;
            state.ops.opens += 1;
            if let Some(kind) = state.fault(FaultOp::Open, &name) {
                return Err(StorageError::io("open", path, kind.error()));
            }
            *state.names.get(&name).ok_or_else(|| not_found("open", path))?
        };
        state.inodes.get_mut(&id).expect("a name leads to a file").open_handles += 1;
        let generation = state.generation;
        drop(state);
        Ok(Arc::new(MemFile::new(self.clone(), path, id, mode != OpenMode::Read, generation)))
    }

    fn exists(&self, path: &Path) -> Result<bool, StorageError> {
        let state = self.state();
        state.check_power("stat", path)?;
        let name = normal(path);
        Ok(state.names.contains_key(&name) || state.dirs.contains(&name))
    }

    fn list(&self, dir: &Path) -> Result<Vec<String>, StorageError> {
        let state = self.state();
        state.check_power("list", dir)?;
        let name = normal(dir);
        if !state.dirs.contains(&name) {
            return Err(not_found("list", dir));
        }
        let children = state.names.keys().chain(&state.dirs);
        let mut names: Vec<String> = children
            .filter(|path| path.parent() == Some(&name))
            .filter_map(|path| path.file_name()?.to_str().map(str::to_owned))
            .collect();
        names.sort_unstable();
        Ok(names)
    }

    fn create_dir_all(&self, dir: &Path) -> Result<(), StorageError> {
        let mut state = self.state();
        let permit = state.begin("mkdir", dir)?;
        let name = normal(dir);
        if name.ancestors().any(|part| state.names.contains_key(part)) {
            return Err(StorageError::io("mkdir", dir, io::ErrorKind::NotADirectory.into()));
        }
        if matches!(permit, Permit::Cut) {
            return Err(State::off("mkdir", dir));
        }
        state.dirs.extend(name.ancestors().map(Path::to_path_buf));
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), StorageError> {
        let mut state = self.state();
        let permit = state.begin("rename", from)?;
        state.ops.renames += 1;
        let (from_name, to_name) = (normal(from), normal(to));
        if let Some(kind) = state.fault(FaultOp::Rename, &from_name) {
            return Err(StorageError::io("rename", from, kind.error()));
        }
        let inode = *state.names.get(&from_name).ok_or_else(|| not_found("rename", from))?;
        if !to_name.parent().is_some_and(|dir| state.dirs.contains(dir)) {
            return Err(not_found("rename", to));
        }
        if from_name != to_name {
            state.change_names(DirChange::Rename { from: from_name, to: to_name, inode });
        }
        match permit {
            Permit::Granted => Ok(()),
            Permit::Cut => Err(State::off("rename", from)),
        }
    }

    fn unlink(&self, path: &Path) -> Result<(), StorageError> {
        let mut state = self.state();
        let permit = state.begin("unlink", path)?;
        state.ops.unlinks += 1;
        let name = normal(path);
        if let Some(kind) = state.fault(FaultOp::Unlink, &name) {
            return Err(StorageError::io("unlink", path, kind.error()));
        }
        if !state.names.contains_key(&name) {
            return Err(not_found("unlink", path));
        }
        state.change_names(DirChange::Unlink { path: name });
        match permit {
            Permit::Granted => Ok(()),
            Permit::Cut => Err(State::off("unlink", path)),
        }
    }

    fn sync_dir(&self, dir: &Path) -> Result<(), StorageError> {
        let mut state = self.state();
        let permit = state.begin("sync directory", dir)?;
        state.ops.dir_syncs += 1;
        let name = normal(dir);
        if !state.dirs.contains(&name) {
            return Err(not_found("sync directory", dir));
        }
        if let Some(kind) = state.fault(FaultOp::SyncDir, &name) {
            return Err(StorageError::io("sync directory", dir, kind.error()));
        }
        // A sync that the power cuts has got nowhere in particular: the crash decides.
        if matches!(permit, Permit::Cut) {
            return Err(State::off("sync directory", dir));
        }
        for op in std::mem::take(&mut state.dir_ops) {
            if op.is_in(&name) {
                crash::apply_name(&mut state.durable_names, &op.change);
            } else {
                state.dir_ops.push(op);
            }
        }
        state.collect();
        Ok(())
    }

    fn lock(&self, path: &Path) -> Result<Box<dyn DiskLock>, StorageError> {
        let mut state = self.state();
        state.check_power("lock", path)?;
        let name = normal(path);
        if !name.parent().is_some_and(|dir| state.dirs.contains(dir)) {
            return Err(not_found("lock", path));
        }
        if !state.locks.insert(name.clone()) {
            return Err(StorageError::Locked { path: path.to_path_buf() });
        }
        if !state.names.contains_key(&name) {
            let inode = state.next_inode;
            state.next_inode += 1;
            state.inodes.insert(inode, Inode::default());
            state.change_names(DirChange::Link { path: name.clone(), inode });
        }
        let generation = state.generation;
        drop(state);
        Ok(Box::new(MemLock { disk: self.clone(), name, generation }))
    }

    fn free_bytes(&self, _dir: &Path) -> Result<u64, StorageError> {
        let state = self.state();
        Ok(match state.capacity {
            None => FREE_BYTES_UNBOUNDED,
            Some(capacity) => capacity.saturating_sub(state.used_bytes()),
        })
    }
}

#[derive(Debug)]
struct MemLock {
    disk: MemDisk,
    name: PathBuf,
    generation: u64,
}

impl DiskLock for MemLock {}

impl Drop for MemLock {
    fn drop(&mut self) {
        let mut state = self.disk.state();
        // A lock of before the crash must not release its successor's.
        if state.generation == self.generation {
            state.locks.remove(&self.name);
        }
    }
}
