//! A disk in memory that can lose power: for unit tests, fuzzing and the simulator.
//!
//! Every file has two images, *live* (what reads see) and *durable* (what the last sync left),
//! and the list of changes between them; names have the same two. `crash` decides by seed which
//! of the changes that were not synced survive (`crash.rs`), and fences every handle opened
//! before: they answer with errors from then on, as a destructor of a dead process should see.
//!
//! Deterministic: the same calls with the same seed leave the same bytes. Faithful where a real
//! disk is unkind: a failed write may have written a part; a failed sync drops what it could not
//! write from the "cache", so that a second sync would lie; a created file's name is not durable
//! until its directory is synced. It refuses to know time: latency is the simulator's.
//!
//! ```text
//! let disk = MemDisk::new(7);              // cheap handle; clones share the disk
//! disk.inject(Fault::next(FaultOp::Sync, FaultKind::Io));
//! disk.set_crash_after(12);                // the 12th mutating operation from now never returns
//! disk.crash();                            // power back on, the survivors chosen by seed
//! let copy = disk.fork();                  // what a crash that keeps nothing would leave
//! ```

mod crash;
mod file;
mod image;
mod names;
#[cfg(test)]
mod tests;

pub use crash::{CrashMode, CrashPlan, Lost};

use super::disk::SECTOR_BYTES;
use crate::types::StorageError;
use crate::types::prng::Prng;
use image::Image;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

const EIO: i32 = 5;
const ENOSPC: i32 = 28;

/// Operations so far, failed ones included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ops {
    pub opens: u64,
    pub creates: u64,
    pub reads: u64,
    pub read_bytes: u64,
    pub writes: u64,
    pub written_bytes: u64,
    pub syncs: u64,
    pub resizes: u64,
    pub renames: u64,
    pub unlinks: u64,
    pub dir_syncs: u64,
    /// Everything that can change the disk: the unit of `set_crash_after`.
    pub mutating: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultOp {
    Open,
    Create,
    Read,
    Write,
    Sync,
    SetLen,
    Allocate,
    Rename,
    Unlink,
    SyncDir,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// EIO.
    Io,
    /// ENOSPC.
    NoSpace,
}

impl FaultKind {
    fn error(self) -> io::Error {
        io::Error::from_raw_os_error(match self {
            FaultKind::Io => EIO,
            FaultKind::NoSpace => ENOSPC,
        })
    }
}

/// An error to come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    pub op: FaultOp,
    pub kind: FaultKind,
    /// Only operations on paths that contain this.
    pub path: Option<String>,
    /// Matching operations that still succeed before it.
    pub skip: u64,
    /// How many fail; `u64::MAX` for ever.
    pub times: u64,
}

impl Fault {
    /// The next such operation fails, whatever the file.
    pub fn next(op: FaultOp, kind: FaultKind) -> Fault {
        Fault { op, kind, path: None, skip: 0, times: 1 }
    }
    /// The `nth` such operation from now fails (1 is the next).
    pub fn nth(op: FaultOp, kind: FaultKind, nth: u64) -> Fault {
        Fault { skip: nth.saturating_sub(1), ..Fault::next(op, kind) }
    }
    #[must_use]
    pub fn on(mut self, path: impl Into<String>) -> Fault {
        self.path = Some(path.into());
        self
    }
    #[must_use]
    pub fn forever(mut self) -> Fault {
        self.times = u64::MAX;
        self
    }
}

#[derive(Clone, Debug)]
enum Pending {
    Write { seq: u64, offset: u64, data: Arc<[u8]> },
    Length { seq: u64, len: u64 },
}

#[derive(Clone, Debug, Default)]
struct Inode {
    live: Image,
    durable: Image,
    /// What a crash may keep of the difference, in order.
    pending: Vec<Pending>,
    /// Sectors that cannot be read until they are written again.
    bad_sectors: BTreeSet<u64>,
    open_handles: u64,
}

#[derive(Clone, Debug)]
enum DirChange {
    Link { path: PathBuf, inode: u64 },
    Unlink { path: PathBuf },
    Rename { from: PathBuf, to: PathBuf, inode: u64 },
}

#[derive(Clone, Debug)]
struct DirOp {
    seq: u64,
    change: DirChange,
}

impl DirOp {
    fn is_in(&self, dir: &Path) -> bool {
        match &self.change {
            DirChange::Link { path, .. } | DirChange::Unlink { path } => path.parent() == Some(dir),
            DirChange::Rename { from, to, .. } => {
                from.parent() == Some(dir) || to.parent() == Some(dir)
            }
        }
    }
}

#[derive(Clone, Debug)]
struct State {
    prng: Prng,
    inodes: BTreeMap<u64, Inode>,
    next_inode: u64,
    names: BTreeMap<PathBuf, u64>,
    durable_names: BTreeMap<PathBuf, u64>,
    dir_ops: Vec<DirOp>,
    dirs: BTreeSet<PathBuf>,
    locks: BTreeSet<PathBuf>,
    /// Numbers every change, over all files: the order that crash modes go by.
    next_seq: u64,
    /// Counts power failures; a handle of an earlier life is dead.
    generation: u64,
    faults: Vec<Fault>,
    ops: Ops,
    /// Mutating operations left until the power fails; `Some(0)` is off.
    power_left: Option<u64>,
    /// The power fails in the operation of that name after so many of them, where the one before it
    /// must have had the other name, if that says one.
    power_at: Option<(Option<u8>, u8, u64)>,
    capacity: Option<u64>,
    /// What the newest power failure has taken.
    lost: Lost,
    /// Names each mutating operation for somebody who watches, and the newest names.
    watch: Option<fn(&str, &Path) -> u8>,
    watched: Vec<u8>,
}

/// Whether an operation takes place, and whether its caller hears of it.
enum Permit {
    Granted,
    /// The power fails while it runs: it may leave traces, and it never returns.
    Cut,
}

impl State {
    fn seq(&mut self) -> u64 {
        self.next_seq += 1;
        self.next_seq
    }

    fn off(op: &'static str, path: &Path) -> StorageError {
        StorageError::io(op, path, io::Error::other("the power is off"))
    }

    fn fault(&mut self, op: FaultOp, path: &Path) -> Option<FaultKind> {
        if self.faults.is_empty() {
            return None;
        }
        let name = path.to_string_lossy();
        let hit = self.faults.iter_mut().position(|fault| {
            let matches =
                fault.op == op && fault.path.as_ref().is_none_or(|part| name.contains(&**part));
            if matches && fault.skip > 0 {
                fault.skip -= 1;
                return false;
            }
            matches
        })?;
        let fault = &mut self.faults[hit];
        let kind = fault.kind;
        if fault.times != u64::MAX {
            fault.times -= 1;
            if fault.times == 0 {
                self.faults.remove(hit);
            }
        }
        Some(kind)
    }

    /// Counts a mutating operation and finds out whether it may go on.
    fn begin(&mut self, op: &'static str, path: &Path) -> Result<Permit, StorageError> {
        if self.power_left == Some(0) {
            return Err(State::off(op, path));
        }
        self.ops.mutating += 1;
        if let Some(name) = self.watch {
            let name = name(op, path);
            let before = self.watched.last().copied();
            self.watched.push(name);
            if let Some((first, second, left)) = &mut self.power_at
                && *second == name
                && *first == before
            {
                *left -= 1;
                if *left == 0 {
                    self.power_at = None;
                    self.power_left = Some(0);
                    return Ok(Permit::Cut);
                }
            }
        }
        if let Some(left) = &mut self.power_left {
            *left -= 1;
            if *left == 0 {
                return Ok(Permit::Cut);
            }
        }
        Ok(Permit::Granted)
    }

    fn check_power(&self, op: &'static str, path: &Path) -> Result<(), StorageError> {
        if self.power_left == Some(0) { Err(State::off(op, path)) } else { Ok(()) }
    }

    fn used_bytes(&self) -> u64 {
        self.inodes.values().map(|inode| inode.live.len()).sum()
    }

    /// Whether `more` bytes fit.
    fn has_room(&self, more: u64) -> bool {
        self.capacity.is_none_or(|capacity| self.used_bytes().saturating_add(more) <= capacity)
    }

    fn change_names(&mut self, change: DirChange) {
        crash::apply_name(&mut self.names, &change);
        let seq = self.seq();
        self.dir_ops.push(DirOp { seq, change });
    }

    /// Forgets files that neither a name, a pending change of names, nor a handle leads to.
    fn collect(&mut self) {
        let mut reachable: BTreeSet<u64> = self.names.values().copied().collect();
        reachable.extend(self.durable_names.values());
        reachable.extend(self.dir_ops.iter().filter_map(|op| match op.change {
            DirChange::Link { inode, .. } | DirChange::Rename { inode, .. } => Some(inode),
            DirChange::Unlink { .. } => None,
        }));
        self.inodes.retain(|id, inode| inode.open_handles > 0 || reachable.contains(id));
    }

    fn crash(&mut self, plan: CrashPlan) {
        crash::crash(self, plan);
        self.generation += 1;
        self.locks.clear();
        self.power_left = None;
        self.power_at = None;
        for inode in self.inodes.values_mut() {
            inode.open_handles = 0;
        }
        self.collect();
    }

    fn file_at(&mut self, path: &Path) -> Option<&mut Inode> {
        let id = self.names.get(&normal(path))?;
        self.inodes.get_mut(id)
    }
}

/// A disk in memory. Clones are handles to the same disk.
#[derive(Clone)]
pub struct MemDisk {
    state: Arc<Mutex<State>>,
}

impl std::fmt::Debug for MemDisk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = self.state();
        f.debug_struct("MemDisk")
            .field("files", &state.names.len())
            .field("generation", &state.generation)
            .finish()
    }
}

impl MemDisk {
    pub fn new(seed: u64) -> MemDisk {
        let state = State {
            prng: Prng::stream(seed, "mem disk"),
            inodes: BTreeMap::new(),
            next_inode: 1,
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            dir_ops: Vec::new(),
            dirs: BTreeSet::from([PathBuf::new(), PathBuf::from("/")]),
            locks: BTreeSet::new(),
            next_seq: 0,
            generation: 0,
            faults: Vec::new(),
            ops: Ops::default(),
            power_left: None,
            power_at: None,
            capacity: None,
            lost: Lost::default(),
            watch: None,
            watched: Vec::new(),
        };
        MemDisk { state: Arc::new(Mutex::new(state)) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Power off and on again, with a mode chosen by seed. Handles and locks of before are dead.
    pub fn crash(&self) {
        let mut state = self.state();
        // The modes in which much is decided by chance find most.
        let mode = match state.prng.below(12) {
            0..4 => CrashMode::Random,
            4..6 => CrashMode::Prefix,
            6..8 => CrashMode::Reverse,
            i => CrashMode::ALL[[0, 1, 5, 6][i as usize - 8]],
        };
        state.crash(CrashPlan { mode, torn: true });
    }

    /// Draws what is to come from another seed: a crash that is taken out of a history then
    /// leaves the later ones as they were.
    pub fn reseed(&self, seed: u64) {
        self.state().prng = Prng::stream(seed, "mem disk");
    }

    pub fn crash_with(&self, plan: CrashPlan) {
        self.state().crash(plan);
    }

    /// Kills the process but not the machine: handles and locks are dead, nothing is lost.
    pub fn kill_process(&self) {
        let mut state = self.state();
        state.generation += 1;
        state.locks.clear();
        state.power_left = None;
        state.power_at = None;
        for inode in state.inodes.values_mut() {
            inode.open_handles = 0;
        }
        state.collect();
    }

    /// A disk of its own with what a crash that keeps nothing un-synced would leave. Faults and
    /// counters start afresh; later random choices follow this disk's generator.
    #[must_use]
    pub fn fork(&self) -> MemDisk {
        self.fork_crashed(CrashPlan { mode: CrashMode::None, torn: false })
    }

    /// A disk of its own with what a crash by this plan would leave, while this one runs on.
    #[must_use]
    pub fn fork_crashed(&self, plan: CrashPlan) -> MemDisk {
        let mut copy = {
            let mut state = self.state();
            let copy = state.clone();
            // The next fork shall choose differently.
            state.prng.next_u64();
            copy
        };
        copy.crash(plan);
        copy.faults.clear();
        copy.ops = Ops::default();
        copy.watch = None;
        MemDisk { state: Arc::new(Mutex::new(copy)) }
    }

    /// From now on each mutating operation is kept under the name that `name` gives it, until
    /// `watched` takes them.
    pub fn watch(&self, name: fn(&str, &Path) -> u8) {
        self.state().watch = Some(name);
    }

    pub fn watched(&self) -> Vec<u8> {
        std::mem::take(&mut self.state().watched)
    }

    pub fn ops(&self) -> Ops {
        self.state().ops
    }

    /// The power fails in the `nth` mutating operation from now (1 is the next): it may leave
    /// traces but does not succeed, and everything later fails until `crash` turns it on again.
    pub fn set_crash_after(&self, nth: u64) {
        assert!(nth > 0, "the first operation to fail is number 1");
        self.state().power_left = Some(nth);
    }

    /// The same in the `nth` operation that the watcher calls `second`, directly behind one that it
    /// calls `first`, or behind none that it has been told of since it last took them.
    pub fn set_crash_at(&self, first: Option<u8>, second: u8, nth: u64) {
        assert!(nth > 0, "the first operation to fail is number 1");
        self.state().power_at = Some((first, second, nth));
    }

    /// What the newest power failure has taken.
    pub fn lost(&self) -> Lost {
        self.state().lost
    }

    /// Handles that are open, each counted.
    pub fn open_handles(&self) -> u64 {
        self.state().inodes.values().map(|inode| inode.open_handles).sum()
    }

    /// How many files there are below `dir`, and how long they are together.
    pub fn used_below(&self, dir: impl AsRef<Path>) -> (usize, u64) {
        let state = self.state();
        let dir = normal(dir.as_ref());
        let below = state.names.iter().filter(|(path, _)| path.starts_with(&dir));
        below.fold((0, 0), |(files, bytes), (_, id)| {
            (files + 1, bytes + state.inodes[id].live.len())
        })
    }

    /// Takes back `set_crash_after` and `set_crash_at`, unless the power is already off.
    pub fn clear_crash_after(&self) {
        let mut state = self.state();
        if state.power_left != Some(0) {
            state.power_at = None;
            state.power_left = None;
        }
    }

    /// Whether the point set by `set_crash_after` has been reached.
    pub fn is_off(&self) -> bool {
        self.state().power_left == Some(0)
    }

    pub fn inject(&self, fault: Fault) {
        assert!(fault.times > 0, "a fault that never happens");
        self.state().faults.push(fault);
    }

    pub fn clear_faults(&self) {
        self.state().faults.clear();
    }

    /// How many bytes of files fit; `None` is no bound.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.state().capacity = bytes;
    }

    pub fn used_bytes(&self) -> u64 {
        self.state().used_bytes()
    }

    /// Bytes of writes that a crash may still lose.
    pub fn unsynced_bytes(&self) -> u64 {
        let state = self.state();
        let pending = state.inodes.values().flat_map(|inode| &inode.pending);
        pending
            .map(|change| match change {
                Pending::Write { data, .. } => data.len() as u64,
                Pending::Length { .. } => 0,
            })
            .sum()
    }

    /// Whether a crash may lose anything: contents, a length or a name.
    pub fn is_in_doubt(&self) -> bool {
        let state = self.state();
        // The name of a lock file means nothing.
        let means = |op: &DirOp| match &op.change {
            DirChange::Link { path, .. } => !state.locks.contains(path),
            _ => true,
        };
        state.dir_ops.iter().any(means)
            || state.inodes.values().any(|inode| !inode.pending.is_empty())
    }

    /// Paths of all files, sorted.
    pub fn files(&self) -> Vec<PathBuf> {
        self.state().names.keys().cloned().collect()
    }

    /// The live contents of a file.
    pub fn contents(&self, path: impl AsRef<Path>) -> Option<Vec<u8>> {
        let mut state = self.state();
        let inode = state.file_at(path.as_ref())?;
        let mut bytes = vec![0; inode.live.len() as usize];
        inode.live.read(0, &mut bytes);
        Some(bytes)
    }

    /// Rot at rest: replaces bytes without anybody noticing, durable image included. The file
    /// must exist and be long enough.
    pub fn corrupt(
        &self,
        path: impl AsRef<Path>,
        offset: u64,
        change: impl Fn(&mut [u8]),
        len: usize,
    ) {
        let mut state = self.state();
        let inode = state.file_at(path.as_ref()).expect("the file to damage exists");
        assert!(offset + len as u64 <= inode.live.len(), "damage beyond the end of the file");
        let mut bytes = vec![0; len];
        inode.live.read(offset, &mut bytes);
        change(&mut bytes);
        inode.live.write(offset, &bytes);
        if offset + len as u64 <= inode.durable.len() {
            inode.durable.write(offset, &bytes);
        }
    }

    /// Flips one bit: 0 is the lowest of the first byte.
    pub fn flip_bit(&self, path: impl AsRef<Path>, bit: u64) {
        self.corrupt(path, bit / 8, |bytes| bytes[0] ^= 1 << (bit % 8), 1);
    }

    /// Replaces bytes at rest.
    pub fn overwrite(&self, path: impl AsRef<Path>, offset: u64, bytes: &[u8]) {
        self.corrupt(path, offset, |old| old.copy_from_slice(bytes), bytes.len());
    }

    /// Cuts or extends a file at rest.
    pub fn resize(&self, path: impl AsRef<Path>, len: u64) {
        let mut state = self.state();
        let inode = state.file_at(path.as_ref()).expect("the file to resize exists");
        inode.live.set_len(len);
        inode.durable.set_len(len);
        inode.pending.clear();
    }

    /// Latent errors: reads of these bytes (rounded to sectors) fail with EIO until the sector is
    /// written again.
    pub fn make_unreadable(&self, path: impl AsRef<Path>, offset: u64, len: u64) {
        let mut state = self.state();
        let inode = state.file_at(path.as_ref()).expect("the file to damage exists");
        inode.bad_sectors.extend(sector_range(offset, len));
    }
}

/// The numbers of the sectors that hold `offset..offset + len`.
fn sector_range(offset: u64, len: u64) -> std::ops::Range<u64> {
    let sector = SECTOR_BYTES as u64;
    offset / sector..(offset + len).div_ceil(sector).max(offset / sector)
}

/// A poisoned mutex only means that another test thread panicked; the disk itself is whole.
fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// One spelling per path: without `.` and with `..` resolved.
fn normal(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir | Component::Prefix(_) => {}
            Component::ParentDir => {
                out.pop();
            }
            Component::RootDir => out.push("/"),
            Component::Normal(name) => out.push(name),
        }
    }
    out
}
