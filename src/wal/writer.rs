//! Appending: a batch, its sync, and the change to the next segment.

use super::batch::{BatchWriter, FRAME_BYTES_MAX, SEAL_BATCH_BYTES};
use super::index::{GroupIndex, Live, Slot};
use super::record::{
    ENTRY_DATA_BYTES_MAX, INDEX_MAX, Kind, RECORD_HEAD_BYTES, RUN_HEAD_BYTES, RUN_ROW_BYTES,
};
use super::recycle::Spares;
use super::segment::{Header, SEGMENT_BYTES_MAX, Segment, segment_name, sequence_of_name};
use super::{Batch, Record, Wal, WalIdentity, WalOptions};
use crate::io::{Disk, OpenMode};
use crate::types::{Entry, GroupId, HardState, LogIndex, StorageError, Term};
use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::Arc;

/// A batch may be this large. What one turn gathers is bounded far below (proposals waiting,
/// bytes in flight); beyond it is a bug of the caller.
const BATCH_BYTES_MAX: u64 = 2 << 30;
/// A buffer that one large batch has made larger than this is given back.
const BUFFER_KEPT_BYTES_MAX: usize = 4 << 20;
/// A release record, head included.
const RELEASE_RECORD_BYTES: usize = RECORD_HEAD_BYTES + 8;

/// Entries of one group that are written again further on.
pub(super) struct Copies {
    pub group: GroupId,
    pub entries: Vec<Entry>,
}

pub(super) fn create(
    disk: Arc<dyn Disk>,
    dir: &Path,
    identity: WalIdentity,
    options: WalOptions,
) -> Result<Wal, StorageError> {
    disk.create_dir_all(dir)?;
    let names = disk.list(dir)?;
    if let Some(name) = names.iter().find(|name| sequence_of_name(name).is_some()) {
        let found = "a log segment";
        return Err(StorageError::corrupt(dir.join(name), 0, "a directory without a log", found));
    }
    let mut spares = Spares::found(&*disk, dir, &names, options)?;
    let header = Header {
        identity,
        sequence: 1,
        length: segment_length(options, 0, 0),
        oldest: 1,
        previous_end: 0,
        first_batch: 1,
        groups: Vec::new(),
    };
    let segment = start_segment(&*disk, dir, &header, &mut spares)?;
    Ok(Wal {
        disk,
        dir: dir.to_owned(),
        identity,
        options,
        segments: VecDeque::from([segment]),
        live: Live::new(1, 1),
        groups: BTreeMap::new(),
        next_batch: 1,
        unsynced: None,
        spares,
        copying: None,
        poisoned: false,
        appended_bytes: 0,
        buffer: Vec::new(),
    })
}

/// How long a segment must be for its header, a first batch of at most `need` bytes, and a seal.
fn segment_length(options: WalOptions, groups: usize, need: u64) -> u64 {
    let least = Header::bytes_for(groups) + need + SEAL_BATCH_BYTES;
    options.segment_bytes.max(least)
}

/// A segment with this header, durable under its name.
fn start_segment(
    disk: &dyn Disk,
    dir: &Path,
    header: &Header,
    spares: &mut Spares,
) -> Result<Segment, StorageError> {
    assert!(header.length <= SEGMENT_BYTES_MAX, "a segment of {} bytes", header.length);
    let (temporary, file) = spares.take(disk, header.length)?;
    file.write_at(&[&header.encode()], 0)?;
    file.sync_data()?;
    give_name(disk, dir, &temporary, header)
}

/// The file at `temporary`, which begins with this header, becomes the segment it speaks of.
pub(super) fn give_name(
    disk: &dyn Disk,
    dir: &Path,
    temporary: &Path,
    header: &Header,
) -> Result<Segment, StorageError> {
    let path = dir.join(segment_name(header.sequence));
    disk.rename(temporary, &path)?;
    disk.sync_dir(dir)?;
    // Opened again so that its errors name the file as it is called now.
    let file = disk.open(&path, OpenMode::ReadWrite)?;
    Ok(Segment::new(path, file, header))
}

impl Wal {
    /// Writes `batch` behind the log's end by one call. It is durable after the next `sync`, and
    /// until then may vanish as a whole. An empty batch writes nothing.
    ///
    /// Any error poisons the log. A record that contradicts the log (a gap, a trim beyond its
    /// end) is a broken invariant of the caller and panics.
    pub fn write(&mut self, batch: &Batch) -> Result<(), StorageError> {
        self.guarded(|wal| wal.try_write(&batch.records))
    }

    /// Makes the batch written last durable. An error poisons the log: whether the batch will be
    /// found by the next `open` is then unknown.
    pub fn sync(&mut self) -> Result<(), StorageError> {
        self.guarded(Wal::try_sync)
    }

    pub(super) fn try_sync(&mut self) -> Result<(), StorageError> {
        let Some(oldest) = self.unsynced else { return Ok(()) };
        self.current().file.sync_data()?;
        self.unsynced = None;
        self.release_before(oldest);
        Ok(())
    }

    /// Writes `records`, and with them as much upkeep as a batch may carry. Upkeep alone is never
    /// a reason to write: that is `upkeep`'s decision.
    fn try_write(&mut self, records: &[Record]) -> Result<(), StorageError> {
        if records.is_empty() {
            return Ok(());
        }
        self.write_with_upkeep(records)
    }

    pub(super) fn write_with_upkeep(&mut self, records: &[Record]) -> Result<(), StorageError> {
        // Rule 1 of the module: never two batches that are not known durable.
        self.try_sync()?;
        let copies = self.next_copies()?;
        let need = bytes_max(records, &copies);
        assert!(need <= BATCH_BYTES_MAX, "a batch of {need} bytes");
        if self.current().end + need + SEAL_BATCH_BYTES > self.current().length {
            self.rotate(need)?;
        }
        let (sequence, seed, at) = {
            let current = self.current();
            (current.sequence, current.seed, current.end)
        };
        let oldest = self.live.oldest_needed();
        let buffer = std::mem::take(&mut self.buffer);
        let mut out = BatchWriter::new(buffer, sequence, seed, at, self.next_batch);
        if oldest > self.live.oldest() {
            out.put(Kind::Release, GroupId(0), &[oldest]);
        }
        // The index changes before the disk does; should the disk fail, the log is poisoned and
        // the index not used again.
        let mut sink = Sink { out, groups: &mut self.groups, live: &mut self.live };
        for copied in &copies {
            sink.put_copies(copied);
        }
        for record in records {
            sink.put(record);
        }
        if sink.out.is_empty() {
            return Ok(());
        }
        let batch = sink.out.finish();
        assert!(batch.bytes <= need, "a batch of {} bytes where {need} suffice", batch.bytes);
        self.current().file.write_at(&batch.slices(), at)?;
        self.current_mut().end += batch.bytes;
        self.next_batch += 1;
        self.appended_bytes += batch.bytes;
        self.unsynced = Some(oldest);
        if batch.buffer.capacity() <= BUFFER_KEPT_BYTES_MAX {
            self.buffer = batch.buffer;
        }
        Ok(())
    }

    /// Seals the current segment and begins the next, in which a batch of `need` bytes will fit.
    fn rotate(&mut self, need: u64) -> Result<(), StorageError> {
        self.try_sync()?;
        self.recycle_released()?;
        let current = self.current();
        let header = Header {
            identity: self.identity,
            sequence: current.sequence + 1,
            length: segment_length(self.options, self.groups.len(), need),
            oldest: self.live.oldest_needed(),
            previous_end: current.end,
            first_batch: self.next_batch + 1,
            groups: self.groups.iter().map(|(id, index)| index.bounds(*id)).collect(),
        };
        let segment = start_segment(&*self.disk, &self.dir, &header, &mut self.spares)?;
        let number = self.next_batch;
        write_seal(self.current_mut(), number)?;
        self.next_batch += 1;
        self.segments.push_back(segment);
        self.live.push();
        self.release_before(header.oldest);
        self.recycle_released()?;
        Ok(())
    }
}

/// Says, durably, that nothing follows in `segment`. `number` is the seal's batch number.
pub(super) fn write_seal(segment: &mut Segment, number: u64) -> Result<(), StorageError> {
    let (sequence, at) = (segment.sequence, segment.end);
    let mut out = BatchWriter::new(Vec::new(), sequence, segment.seed, at, number);
    out.put(Kind::Seal, GroupId(0), &[sequence + 1]);
    let seal = out.finish();
    assert!(seal.bytes == SEAL_BATCH_BYTES, "a seal of {} bytes", seal.bytes);
    assert!(at + seal.bytes <= segment.length, "no room was kept for the seal");
    segment.file.write_at(&seal.slices(), at)?;
    segment.file.sync_data()?;
    segment.end += seal.bytes;
    Ok(())
}

/// What a batch with these records can take at most.
fn bytes_max(records: &[Record], copies: &[Copies]) -> u64 {
    let words = |count: usize| (RECORD_HEAD_BYTES + count * 8) as u64;
    let record_bytes = |record: &Record| match record {
        Record::HardState { .. } => words(3),
        Record::Append { entries, .. } => words(1) + entries_bytes(entries),
        Record::LogStart { .. } | Record::Trim { .. } => words(2),
        Record::DropGroup { .. } => words(0),
    };
    let records: u64 = records.iter().map(record_bytes).sum();
    let copies: u64 = copies.iter().map(|copied| entries_bytes(&copied.entries)).sum();
    records + copies + (FRAME_BYTES_MAX + RELEASE_RECORD_BYTES) as u64
}

fn entries_bytes(entries: &[Entry]) -> u64 {
    let runs = entries.chunk_by(same_run).count() * RUN_HEAD_BYTES;
    let rows = entries.len() * RUN_ROW_BYTES;
    let data: u64 = entries.iter().map(|e| e.data.len() as u64).sum();
    (runs + rows) as u64 + data
}

/// Whether two neighbours of one list go into one record.
fn same_run(a: &Entry, b: &Entry) -> bool {
    a.term == b.term && a.index.next() == b.index
}

/// Where records go: into the batch, and into the index as recovery would put them there.
struct Sink<'a> {
    out: BatchWriter,
    groups: &'a mut BTreeMap<GroupId, GroupIndex>,
    live: &'a mut Live,
}

impl Sink<'_> {
    fn put(&mut self, record: &Record) {
        match record {
            Record::HardState { group, hard } => self.put_hard_state(*group, *hard),
            Record::Append { group, entries } => self.put_entries(*group, entries),
            Record::LogStart { group, index, term } => {
                assert!(index.0 <= INDEX_MAX, "a log that begins after {index}");
                self.out.put(Kind::LogStart, *group, &[index.0, term.0]);
                self.groups.entry(*group).or_default().restart(*index, *term, self.live);
            }
            Record::Trim { group, index, term } => {
                let Some(known) = self.groups.get_mut(group) else {
                    assert!(*index == LogIndex::ZERO, "group {group}: a trim of an unknown log");
                    return;
                };
                if *index > known.start().0 {
                    self.out.put(Kind::Trim, *group, &[index.0, term.0]);
                    must(*group, known.trim(*index, *term, self.live));
                }
            }
            Record::DropGroup { group } => {
                if let Some(mut known) = self.groups.remove(group) {
                    self.out.put(Kind::DropGroup, *group, &[]);
                    known.clear(self.live);
                }
            }
        }
    }

    fn put_hard_state(&mut self, group: GroupId, hard: HardState) {
        self.out.put(Kind::HardState, group, &[hard.term.0, hard.vote.0, hard.commit.0]);
        self.groups.entry(group).or_default().hard = hard;
    }

    fn put_entries(&mut self, group: GroupId, entries: &[Entry]) {
        let Some(first) = entries.first().map(|e| e.index) else { return };
        let log = self.groups.entry(group).or_default();
        if first <= log.last() {
            self.out.put(Kind::Truncate, group, &[first.0]);
            must(group, log.truncate(first, self.live));
        }
        for run in entries.chunk_by(same_run) {
            let first = run[0].index;
            assert!(first.0 + run.len() as u64 <= INDEX_MAX, "group {group}: an index of {first}");
            let slots = self.out.put_run(Kind::Append, group, run);
            must(group, log.append(first, run[0].term, slots.iter().copied(), self.live));
        }
    }

    fn put_copies(&mut self, copied: &Copies) {
        let log = self.groups.get_mut(&copied.group).expect("its entries are live");
        for run in copied.entries.chunk_by(same_run) {
            let term: Term = run[0].term;
            let slots: &[Slot] = self.out.put_run(Kind::Kept, copied.group, run);
            for (entry, slot) in run.iter().zip(slots) {
                must(copied.group, log.keep(entry.index, term, *slot, self.live));
            }
        }
    }
}

/// The caller's records continue the log it was given; else its view of the log is wrong.
fn must(group: GroupId, change: Result<(), &'static str>) {
    if let Err(what) = change {
        panic!("group {group}: {what}");
    }
}

// A batch of that size and the header of a million groups still make a segment.
const _: () = assert!(BATCH_BYTES_MAX + (64 << 20) < SEGMENT_BYTES_MAX);
const _: () = assert!((ENTRY_DATA_BYTES_MAX as u64) < BATCH_BYTES_MAX);
