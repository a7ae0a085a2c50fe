//! Opening a log: find its segments, replay them, and tell a torn tail from damage.
//!
//! Two passes. The newest segment says where the log begins (its header's `oldest`, or a later
//! release record), so it is read first; then every segment from there on is replayed in order.
//! One segment is in memory at a time besides the newest; entries are not kept, only their places.
//!
//! What a process before this one wrote may be in the system's cache alone, and a sync here would
//! not do: if an earlier start's sync failed, the cache counts as clean and a later one says yes
//! without a write. So what a start relies on it writes itself: the newest segment is copied, the
//! copy synced and put in its place.

use super::batch::{Invalid, ValidBatch, find_head};
use super::index::{GroupIndex, Live};
use super::record::Logged;
use super::recycle::{Spares, fill};
use super::segment::{
    GroupBounds, Header, Segment, damage, mismatch, segment_name, sequence_of_name,
};
use super::writer::{give_name, write_seal};
use super::{GroupLog, Wal, WalIdentity, WalOptions};
use crate::io::Disk;
use crate::types::{GroupId, StorageError};
use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::Arc;

pub(super) fn open(
    disk: Arc<dyn Disk>,
    dir: &Path,
    options: WalOptions,
) -> Result<(Wal, BTreeMap<GroupId, GroupLog>), StorageError> {
    // A process that was killed may have left names that only the cache holds.
    disk.sync_dir(dir)?;
    let names = disk.list(dir)?;
    let mut sequences: Vec<u64> = names.iter().filter_map(|n| sequence_of_name(n)).collect();
    sequences.sort_unstable();
    let Some(newest) = sequences.last().copied() else {
        return Err(damage(dir, 0, "a log segment", "none"));
    };
    let tail = Loaded::read(&*disk, dir, newest)?;
    let oldest = tail.oldest_needed()?;
    let (unneeded, needed) = sequences.split_at(sequences.partition_point(|s| *s < oldest));
    check_none_missing(dir, oldest, needed)?;
    let mut spares = Spares::found(&*disk, dir, &names, options)?;
    for sequence in unneeded {
        let length = check_unneeded(&*disk, dir, *sequence, &tail.header.identity)?;
        spares.release(dir.join(segment_name(*sequence)), length);
    }

    let mut replay = Replay::new(&tail, oldest);
    for sequence in oldest..newest {
        replay.older(Loaded::read(&*disk, dir, sequence)?, &tail)?;
    }
    let identity = tail.header.identity;
    let tail = replay.newest(tail)?;
    replay.segments.push_back(copied(&*disk, dir, tail, &mut spares)?);
    let Replay { groups, live, segments, next_batch, .. } = replay;
    let wal = Wal {
        disk,
        dir: dir.to_owned(),
        identity,
        options,
        segments,
        live,
        groups,
        next_batch,
        unsynced: None,
        spares,
        copying: None,
        poisoned: false,
        appended_bytes: 0,
        buffer: Vec::new(),
    };
    let ids: Vec<GroupId> = wal.groups.keys().copied().collect();
    let logs = ids.into_iter().map(|id| Ok((id, wal.group_log(id)?)));
    let logs = logs.collect::<Result<BTreeMap<_, _>, StorageError>>()?;
    Ok((wal, logs))
}

/// `needed` are the sequences found from `oldest` on, ascending; the newest is among them.
fn check_none_missing(dir: &Path, oldest: u64, needed: &[u64]) -> Result<(), StorageError> {
    let expected = oldest..;
    match needed.iter().zip(expected).find(|(found, expected)| **found != *expected) {
        Some((_, missing)) => Err(missing_segment(dir, missing)),
        None => Ok(()),
    }
}

fn missing_segment(dir: &Path, sequence: u64) -> StorageError {
    damage(&dir.join(segment_name(sequence)), 0, "a segment of the log", "no such file")
}

/// A file from before the log's beginning will be reused or removed, so it had better be ours.
/// Returns its length.
fn check_unneeded(
    disk: &dyn Disk,
    dir: &Path,
    sequence: u64,
    identity: &WalIdentity,
) -> Result<u64, StorageError> {
    match Segment::open(disk, dir, sequence) {
        Ok((segment, header)) => {
            check_identity(&segment.path, &header.identity, identity)?;
            Ok(segment.length)
        }
        // Nobody needs what it held.
        Err(StorageError::Corrupt { .. }) => Ok(0),
        Err(error) => Err(error),
    }
}

fn check_identity(
    path: &Path,
    found: &WalIdentity,
    expected: &WalIdentity,
) -> Result<(), StorageError> {
    let says = |what, expected: String, found: String| Err(mismatch(path, what, expected, found));
    if found.cluster != expected.cluster {
        return says("cluster", expected.cluster.to_string(), found.cluster.to_string());
    }
    if found.node != expected.node {
        return says("member", expected.node.to_string(), found.node.to_string());
    }
    if found.incarnation != expected.incarnation {
        return says(
            "incarnation",
            expected.incarnation.to_string(),
            found.incarnation.to_string(),
        );
    }
    Ok(())
}

/// A segment with its contents.
struct Loaded {
    segment: Segment,
    header: Header,
    bytes: Vec<u8>,
}

impl Loaded {
    fn read(disk: &dyn Disk, dir: &Path, sequence: u64) -> Result<Loaded, StorageError> {
        let (segment, header) = Segment::open(disk, dir, sequence)?;
        // The header's length was compared with the file's.
        let mut bytes = vec![0; segment.length as usize];
        segment.file.read_exact_at(&mut bytes, 0)?;
        Ok(Loaded { segment, header, bytes })
    }

    fn batch(&self, at: usize, number: u64) -> Result<ValidBatch<'_>, Invalid> {
        ValidBatch::check(&self.bytes, self.segment.seed, at, number)
    }

    fn damaged(&self, offset: usize, expected: impl Into<String>, found: &str) -> StorageError {
        damage(&self.segment.path, offset as u64, expected, found)
    }

    /// Where the log begins, as far as this, the newest segment, knows.
    fn oldest_needed(&self) -> Result<u64, StorageError> {
        let mut oldest = self.header.oldest;
        let (mut at, mut number) = (self.segment.start as usize, self.header.first_batch);
        while let Ok(batch) = self.batch(at, number) {
            for (offset, record) in batch.records() {
                if let Logged::Release { oldest: later } = record {
                    if later < oldest || later > self.header.sequence {
                        let expected = format!("a release of {oldest}..={}", self.header.sequence);
                        return Err(self.damaged(offset, expected, &later.to_string()));
                    }
                    oldest = later;
                }
            }
            (at, number) = (batch.end, number + 1);
        }
        Ok(oldest)
    }
}

/// How the valid part of a segment ends.
enum End {
    /// By the seal at this offset.
    Sealed {
        at: u64,
    },
    Invalid(Invalid),
}

/// Puts a copy of the valid part of `tail` in its place, written and synced by us. A crash leaves
/// the one or the other, and both hold whatever was acknowledged.
fn copied(
    disk: &dyn Disk,
    dir: &Path,
    tail: Loaded,
    spares: &mut Spares,
) -> Result<Segment, StorageError> {
    let Loaded { segment, header, bytes } = tail;
    let (temporary, file) = spares.unused(disk, segment.length)?;
    file.write_at(&[&bytes[..segment.end as usize]], 0)?;
    // To the very end: a copy that was cut short may have left later batches of this very segment.
    let mut filled = segment.end;
    while filled < segment.length {
        filled += fill(&*file, filled, segment.length)?;
    }
    file.sync_data()?;
    let copy = give_name(disk, dir, &temporary, &header)?;
    Ok(Segment { end: segment.end, ..copy })
}

/// The log as computed so far.
struct Replay {
    identity: WalIdentity,
    groups: BTreeMap<GroupId, GroupIndex>,
    live: Live,
    segments: VecDeque<Segment>,
    next_batch: u64,
    /// Where the segment before the next one ended; none before the first.
    previous_end: Option<u64>,
}

impl Replay {
    fn new(tail: &Loaded, oldest: u64) -> Replay {
        Replay {
            identity: tail.header.identity,
            groups: BTreeMap::new(),
            live: Live::new(oldest, tail.header.sequence),
            segments: VecDeque::new(),
            next_batch: 1,
            previous_end: None,
        }
    }

    /// A segment that has a successor.
    fn older(&mut self, mut loaded: Loaded, tail: &Loaded) -> Result<(), StorageError> {
        self.enter(&loaded)?;
        let (seal_at, written) = match self.batches(&mut loaded)? {
            End::Sealed { at } => (at, true),
            End::Invalid(_) if self.rotation_was_cut_short(&loaded, tail) => {
                self.next_batch += 1;
                (loaded.segment.end, false)
            }
            End::Invalid(invalid) => {
                let what = "a valid batch or a seal";
                return Err(loaded.damaged(invalid.offset, what, invalid.what));
            }
        };
        self.previous_end = Some(seal_at);
        // A batch is only begun behind a durable seal. Before the first, a seal that can be read
        // may be another process' that only the cache holds.
        let begun =
            |tail: &Loaded| tail.batch(tail.segment.start as usize, self.next_batch).is_ok();
        let durable = loaded.segment.sequence + 1 < tail.header.sequence || begun(tail);
        if !(written && durable) {
            loaded.segment.end = seal_at;
            write_seal(&mut loaded.segment, self.next_batch - 1)?;
        }
        self.segments.push_back(loaded.segment);
        Ok(())
    }

    /// The newest segment has its name, but the seal before it did not make it to the disk: then
    /// no batch can have been begun in the newest.
    fn rotation_was_cut_short(&self, loaded: &Loaded, tail: &Loaded) -> bool {
        let (segment, next) = (&loaded.segment, &tail.header);
        segment.sequence + 1 == next.sequence
            && segment.end == next.previous_end
            && self.next_batch + 1 == next.first_batch
            && segment.end + super::batch::SEAL_BATCH_BYTES <= segment.length
            && find_head(&tail.bytes, tail.segment.seed, tail.segment.start as usize, 1).is_none()
    }

    /// The segment without a successor, as far as it is valid.
    fn newest(&mut self, mut tail: Loaded) -> Result<Loaded, StorageError> {
        self.enter(&tail)?;
        match self.batches(&mut tail)? {
            End::Sealed { .. } => {
                let dir = tail.segment.path.parent().expect("a segment lies in a directory");
                return Err(missing_segment(dir, tail.segment.sequence + 1));
            }
            End::Invalid(invalid) => {
                let (bytes, seed) = (&tail.bytes, tail.segment.seed);
                let end = tail.segment.end as usize;
                if let Some(later) = find_head(bytes, seed, end, self.next_batch + 1) {
                    let expected = format!("a valid batch before the one at offset {later}");
                    return Err(tail.damaged(invalid.offset, expected, invalid.what));
                }
            }
        }
        for (group, index) in &mut self.groups {
            if let Err(missing) = index.finish() {
                let expected = format!("entry {missing} of group {group} in some segment");
                return Err(tail.damaged(0, expected, "it in none"));
            }
        }
        Ok(tail)
    }

    /// Takes over, or compares, what a segment's header says about the log so far.
    fn enter(&mut self, loaded: &Loaded) -> Result<(), StorageError> {
        let header = &loaded.header;
        check_identity(&loaded.segment.path, &header.identity, &self.identity)?;
        let Some(previous_end) = self.previous_end else {
            self.next_batch = header.first_batch;
            let known = |row: &GroupBounds| (row.group, GroupIndex::of_bounds(row));
            self.groups = header.groups.iter().map(known).collect();
            return Ok(());
        };
        let computed = self.groups.iter().map(|(id, index)| index.bounds(*id));
        let same = computed.eq(header.groups.iter().copied())
            && header.first_batch == self.next_batch
            && header.previous_end == previous_end;
        if same {
            return Ok(());
        }
        Err(loaded.damaged(0, "a header that continues the segment before", "another"))
    }

    /// Applies the valid batches of a segment, up to its seal or the first invalid byte.
    fn batches(&mut self, loaded: &mut Loaded) -> Result<End, StorageError> {
        loop {
            let at = loaded.segment.end;
            let (end, sealed) = match loaded.batch(at as usize, self.next_batch) {
                Ok(batch) => (batch.end as u64, self.batch(loaded, &batch)?),
                Err(invalid) => return Ok(End::Invalid(invalid)),
            };
            self.next_batch += 1;
            loaded.segment.end = end;
            if sealed {
                return Ok(End::Sealed { at });
            }
        }
    }

    /// Applies one batch; whether it is the seal.
    fn batch(&mut self, loaded: &Loaded, batch: &ValidBatch<'_>) -> Result<bool, StorageError> {
        let mut sealed = false;
        for (offset, record) in batch.records() {
            if let Logged::Seal { next } = record {
                if next != loaded.segment.sequence + 1 {
                    return Err(loaded.damaged(
                        offset,
                        "a seal naming the next segment",
                        "another",
                    ));
                }
                sealed = true;
                continue;
            }
            self.record(loaded.segment.sequence, record)
                .map_err(|what| loaded.damaged(offset, "a record that continues the log", what))?;
        }
        Ok(sealed)
    }

    fn record(&mut self, sequence: u64, record: Logged<'_>) -> Result<(), &'static str> {
        const UNKNOWN: &str = "a record of an unknown group";
        let live = &mut self.live;
        match record {
            Logged::HardState { group, hard } => {
                self.groups.entry(group).or_default().hard = hard;
            }
            Logged::Append { group, run } => {
                let log = self.groups.entry(group).or_default();
                log.append(run.first, run.term, run.slots(sequence), live)?;
            }
            Logged::Kept { group, run } => {
                let log = self.groups.get_mut(&group).ok_or(UNKNOWN)?;
                let mut index = run.first;
                for slot in run.slots(sequence) {
                    log.keep(index, run.term, slot, live)?;
                    index = index.next();
                }
            }
            Logged::Truncate { group, from } => {
                self.groups.get_mut(&group).ok_or(UNKNOWN)?.truncate(from, live)?;
            }
            Logged::LogStart { group, index, term } => {
                self.groups.entry(group).or_default().restart(index, term, live);
            }
            Logged::Trim { group, index, term } => {
                self.groups.get_mut(&group).ok_or(UNKNOWN)?.trim(index, term, live)?;
            }
            Logged::DropGroup { group } => {
                self.groups.remove(&group).ok_or(UNKNOWN)?.clear(live);
            }
            // Told apart by the caller, or of interest only in the newest segment (first pass).
            Logged::Seal { .. } | Logged::Release { .. } => {}
            // A batch's last record is not among the records it yields.
            Logged::Commit { .. } => return Err("a commit record inside of a batch"),
        }
        Ok(())
    }
}
