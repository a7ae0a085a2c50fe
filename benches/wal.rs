//! What appending to the log costs, on a real disk: batches of 1, 20 and 200 entries of 300
//! bytes, with the sync (what a commit waits for) and without it (what the processor does).
//!
//! `cargo bench --bench wal`; `WAL_BENCH_DIR` says on which disk (else the system's temporary
//! directory, which may be memory).
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a benchmark looks at the real clock and works on real files"
)]

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use quorate::io::{Disk, DiskLock, File, OpenMode, OsDisk};
use quorate::types::{
    ClusterId, Entry, EntryKind, GroupId, Incarnation, LogIndex, NodeId, StorageError, Term,
};
use quorate::wal::{Batch, Record, Wal, WalIdentity, WalOptions};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

const ENTRY_BYTES: usize = 300;
/// Entries kept behind the newest, so that segments are recycled as in a running member.
const KEPT_ENTRIES: u64 = 5_000;

struct Log {
    wal: Wal,
    dir: PathBuf,
    next: u64,
    trimmed: u64,
    data: Bytes,
}

impl Log {
    fn new(name: &str, disk: Arc<dyn Disk>) -> Log {
        let base = std::env::var_os("WAL_BENCH_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
        let dir = base.join(format!("quorate-bench-wal-{}-{name}", std::process::id()));
        let id =
            WalIdentity { cluster: ClusterId(1), node: NodeId(2), incarnation: Incarnation(3) };
        let wal = Wal::create(disk, &dir, id, WalOptions::default()).expect("a log");
        Log { wal, dir, next: 1, trimmed: 0, data: Bytes::from(vec![7; ENTRY_BYTES]) }
    }

    fn append(&mut self, entries: u64) {
        let entry = |index| Entry {
            term: Term(1),
            index: LogIndex(index),
            kind: EntryKind::Command,
            data: self.data.clone(),
        };
        let group = GroupId::ROOT;
        let run = (self.next..self.next + entries).map(entry).collect();
        let mut records = vec![Record::Append { group, entries: run }];
        self.next += entries;
        if self.next - self.trimmed > 4 * KEPT_ENTRIES {
            self.trimmed = self.next - KEPT_ENTRIES;
            records.push(Record::Trim { group, index: LogIndex(self.trimmed), term: Term(1) });
        }
        self.wal.write(&Batch { records }).expect("room on the disk");
        self.wal.sync().expect("a healthy disk");
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// The system's disk, on which nothing waits for the device.
#[derive(Debug)]
struct NoSync;

#[derive(Debug)]
struct NoSyncFile(Arc<dyn File>);

type Result<T> = std::result::Result<T, StorageError>;

impl Disk for NoSync {
    fn open(&self, path: &Path, mode: OpenMode) -> Result<Arc<dyn File>> {
        Ok(Arc::new(NoSyncFile(OsDisk.open(path, mode)?)))
    }
    fn exists(&self, path: &Path) -> Result<bool> {
        OsDisk.exists(path)
    }
    fn list(&self, dir: &Path) -> Result<Vec<String>> {
        OsDisk.list(dir)
    }
    fn create_dir_all(&self, dir: &Path) -> Result<()> {
        OsDisk.create_dir_all(dir)
    }
    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        OsDisk.rename(from, to)
    }
    fn unlink(&self, path: &Path) -> Result<()> {
        OsDisk.unlink(path)
    }
    fn sync_dir(&self, _: &Path) -> Result<()> {
        Ok(())
    }
    fn lock(&self, path: &Path) -> Result<Box<dyn DiskLock>> {
        OsDisk.lock(path)
    }
    fn free_bytes(&self, dir: &Path) -> Result<u64> {
        OsDisk.free_bytes(dir)
    }
}

impl File for NoSyncFile {
    fn path(&self) -> &Path {
        self.0.path()
    }
    fn len(&self) -> Result<u64> {
        self.0.len()
    }
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        self.0.read_at(buf, offset)
    }
    fn write_at(&self, bufs: &[&[u8]], offset: u64) -> Result<()> {
        self.0.write_at(bufs, offset)
    }
    fn set_len(&self, len: u64) -> Result<()> {
        self.0.set_len(len)
    }
    fn allocate(&self, len: u64) -> Result<()> {
        self.0.allocate(len)
    }
    fn sync_data(&self) -> Result<()> {
        Ok(())
    }
}

fn append(c: &mut Criterion) {
    for sync in [true, false] {
        let name = if sync { "append-and-sync" } else { "append" };
        let mut group = c.benchmark_group(name);
        group.warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(3));
        for entries in [1, 20, 200] {
            group.throughput(Throughput::Elements(entries));
            let disk: Arc<dyn Disk> = if sync { Arc::new(OsDisk) } else { Arc::new(NoSync) };
            let mut log = Log::new(&format!("{name}-{entries}"), disk);
            group.bench_function(format!("{entries}x{ENTRY_BYTES}B"), |b| {
                b.iter(|| log.append(entries));
            });
        }
        group.finish();
    }
}

criterion_group!(benches, append);
criterion_main!(benches);
