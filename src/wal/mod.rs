//! The write-ahead log: one append-only log on disk, shared by all Raft groups of a node.
//!
//! A turn of the host yields one `Batch` with the records of all groups. `Wal::write` writes it by
//! one call, `Wal::sync` makes it durable by one fdatasync. After a crash `Wal::open` gives back
//! every batch that was synced, whole, and the one that was not either whole or not at all.
//!
//! It refuses to know what an entry means, what Raft allows, how long a log should be kept (its
//! caller trims), threads, clocks and the operating system (`io::Disk` is all it sees).
//!
//! # THE FILES
//!
//! The log is a chain of segments, `<sequence>.wal`, numbered without a gap. A segment is a file
//! of fixed size (`WalOptions::segment_bytes`), filled with zeros or with the remains of an
//! earlier life before it is used, so that appending changes no metadata and a sync costs one
//! journal write less. A batch never spans segments: one that is larger than a segment gets a
//! segment of its own size. `spare-<n>.tmp` are segments ready for use, `preparing.tmp` is one
//! being filled.
//!
//! ```text
//! segment     | header | batch | batch | ... | seal batch | zeros or old bytes ... |
//!
//! header      | magic 8 | format 4 | crc 4 | cluster 8 | node 8 | incarnation 8 |
//!             | sequence 8 | length 8 | oldest needed 8 | previous end 8 | first batch 8 |
//!             | group count 8 |
//!             | group 8 | term 8 | vote 8 | commit 8 | start 8 | start term 8 | last 8 |  per group
//!
//! batch       | head | record | record | ... | commit record | 0..7 zeros |    at a multiple of 8
//!
//! head        | "BTCH" 4 | crc 4 | number 8 | length of the batch 8 |
//!
//! record      | length of the payload 4 | crc 4 | kind 1 | group 8 | payload |
//!
//!   hard state  | term 8 | vote 8 | commit 8 |
//!   append,     | first index 8 | term 8 | count 4 | kind 1, length 4, crc 4 | ... | data | ... |
//!   kept                                           '----- per entry -------'
//!   truncate    | first index that is gone 8 |
//!   log start   | index 8 | term 8 |                     the log is empty after this index
//!   trim        | index 8 | term 8 |                     the log is gone up to this index
//!   drop group  |
//!   release     | oldest segment still needed 8 |
//!   seal        | sequence of the next segment 8 |
//!   commit      | crc over the checksums of the batch's records 4 |
//! ```
//!
//! All numbers are little-endian. A segment's *seed* is a checksum of cluster, node, incarnation
//! and sequence; a batch's seed adds its offset. Every checksum in a batch starts from these, so
//! that no byte is valid in another log, segment or place. Entry data has a plain CRC32 in the (seeded) table, which the index in memory keeps: a read verifies it.
//!
//! # WHAT IS TRUE AT ANY TIME
//!
//! 1. At most one batch is not known durable: `write` syncs the one before if its caller has not.
//! 2. Batch numbers count on through all segments, seals included.
//! 3. A segment gets its name after its header is durable; the one before it is sealed after that
//!    name is durable; a batch goes into the new one after the seal is durable.
//! 4. A segment is reused or removed only after "the log begins later" (a release record or the
//!    `oldest` of a header) is durable, and oldest first.
//! 5. A header repeats every group's hard state and bounds, so a quiet group's vote cannot be lost
//!    with the segment that it was written to. Replay checks them against what it has computed.
//! 6. Every entry of every group's log lies in a segment that has not been released: what an old
//!    segment alone still holds is copied forward (`forward.rs`) before it is released.
//!
//! # WHY A CRASH LOSES NOTHING, BY CASES
//!
//! - *While a batch is being written or synced.* Any part of it may be on the disk. Its head,
//!   records and commit are checked before any of it counts: the batch is whole or the log ends
//!   before it. Sectors of it and of an earlier attempt at the same number may be mixed; the
//!   commit record covers all of one attempt, so the mix is not valid.
//! - *And then another batch is written over the torn one.* Behind it lie remains of the torn
//!   one. They begin at another offset than the log's end, or carry a number that has been used:
//!   never the next one.
//! - *In a recycled segment.* The old bytes belong to another sequence.
//! - *Before the new segment has its name.* It is a temporary file; the log ends in the old one.
//! - *Between name and seal.* The last segment is empty, the one before ends without a seal just
//!   where the new header says (`previous end`). Recovery writes the seal again.
//! - *Between the release and the recycling.* The file is older than the log's beginning: it is
//!   recycled now.
//! - *A process is killed, or stops for an error, and the system goes on.* What it wrote last may
//!   be in the cache alone, and where a sync has failed the cache counts it as written: it would
//!   be read, be relied on, and never reach the disk. So a start writes anew what may be such: a
//!   copy of the newest segment takes its place, and before its first batch also the seal in front
//!   of it. All before that was synced by whoever began the newest segment's first batch.
//! - *While that copy is made.* It is a temporary file until it is durable.
//! - *The sector at the log's end is rewritten* by the next batch with the same bytes in front; we
//!   rely on a torn sector holding, byte by byte, either the old or the new content, or garbage
//!   only where new content was to be.
//!
//! # A TORN TAIL, OR DAMAGE
//!
//! At the first invalid byte the question is whether it was ever acknowledged. By rule 1 it was if
//! any batch with a later number has been begun: so recovery looks for the head of one in the rest
//! of the segment, and a sealed or succeeded segment has no excuse at all. Then it refuses to start
//! and says where. Else it is a tail that no caller was told is safe, and the log ends before it.
//! What cannot be told from a torn tail is rot in the very last batch; nothing in the log came
//! after it. Also told apart: a missing segment (the newest is missed by the seal before it), a
//! file of the wrong length, and a file of another log or under another name.
//!
//! # WHY NOT ...
//!
//! - *a log per group?* One fdatasync per turn instead of one per group.
//! - *go on in a new segment after a torn tail?* A crash loop would eat a segment per crash.
//! - *sync the newest segment at a start, instead of the copy?* See above: it may do nothing. And
//!   writing it again in place would put batches at risk that have been acknowledged.
//! - *retry after a failed write or sync?* What the kernel then still holds is unknown. The log is
//!   poisoned: every later call fails, and the member stops.
//!
//! Read first: `record`, `batch`, `segment` (the bytes), then `writer`, `recover`, and `index`,
//! `reader`, `recycle`, `forward`. `harness` is for fuzzing.

mod batch;
mod forward;
pub mod harness;
mod index;
mod reader;
mod record;
mod recover;
mod recycle;
mod segment;
mod writer;

#[cfg(test)]
mod tests;

pub use forward::LogSizes;
pub use harness::{fuzz_input, fuzz_recover};
pub use segment::SegmentInfo;

use crate::io::Disk;
use crate::types::{
    ClusterId, Entry, GroupId, HardState, Incarnation, LogIndex, NodeId, StorageError, Term,
};
use forward::CopyJob;
use index::{GroupIndex, Live};
use recycle::Spares;
use segment::Segment;
use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Whose log it is. Part of every segment's header and of every checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WalIdentity {
    pub cluster: ClusterId,
    pub node: NodeId,
    pub incarnation: Incarnation,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalOptions {
    /// Length of a segment. Larger: fewer rotations (four syncs each). Smaller: space comes back
    /// sooner. May change from start to start.
    pub segment_bytes: u64,
    /// Segments kept for reuse, prepared or recycled; more than that are removed. 0 keeps none
    /// and prepares none, so that every rotation fills a file with zeros first.
    pub spare_segments: usize,
}

impl Default for WalOptions {
    fn default() -> WalOptions {
        WalOptions { segment_bytes: 16 << 20, spare_segments: 4 }
    }
}

/// One thing to remember about one group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    HardState {
        group: GroupId,
        hard: HardState,
    },
    /// Consecutive entries. Those the log has from the first one's index on are replaced: a
    /// truncation is then logged before them. The first must follow an index the log knows.
    Append {
        group: GroupId,
        entries: Vec<Entry>,
    },
    /// A snapshot was installed: the log is empty and begins after `index`.
    LogStart {
        group: GroupId,
        index: LogIndex,
        term: Term,
    },
    /// The entries up to `index` (whose term is `term`) are not needed any more. At or before
    /// the log's start it says nothing new and is not written.
    Trim {
        group: GroupId,
        index: LogIndex,
        term: Term,
    },
    /// The group is gone from this node.
    DropGroup {
        group: GroupId,
    },
}

/// What one turn has to make durable, for all groups, in order. All of it survives a crash or
/// none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    pub records: Vec<Record>,
}

/// One group's log as found on disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupLog {
    pub hard: HardState,
    /// The last index that was trimmed (or at which a snapshot was installed), and its term.
    pub start: (LogIndex, Term),
    /// The last entry's index; the start's when the log is empty.
    pub last: LogIndex,
    /// The first index of each run of entries of one term, ascending.
    pub terms: Vec<(LogIndex, Term)>,
    /// The newest entries, at most `LOG_CACHE_BYTES_MAX` by `Entry::cost`.
    pub tail: Vec<Entry>,
}

/// The log, open for appending. Not shared: its owner is the node's one log writer.
#[derive(Debug)]
pub struct Wal {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    identity: WalIdentity,
    options: WalOptions,
    /// Oldest first, without a gap; the last one takes the batches.
    segments: VecDeque<Segment>,
    /// What the entries in each of `segments` amount to.
    live: Live,
    groups: BTreeMap<GroupId, GroupIndex>,
    next_batch: u64,
    /// A batch has been written and not synced. With its sync, segments before this one are
    /// released.
    unsynced: Option<u64>,
    spares: Spares,
    copying: Option<CopyJob>,
    /// An error has left the disk in a state that only recovery can judge.
    poisoned: bool,
    appended_bytes: u64,
    /// Kept from batch to batch so that its memory is reused.
    buffer: Vec<u8>,
}

impl Wal {
    /// Starts an empty log in `dir`, which is made if missing and must not hold one. Durable when
    /// it returns; a crash before that leaves `dir` without a log (see `exists`).
    pub fn create(
        disk: Arc<dyn Disk>,
        dir: &Path,
        identity: WalIdentity,
        options: WalOptions,
    ) -> Result<Wal, StorageError> {
        writer::create(disk, dir, identity, options)
    }

    /// Opens the log in `dir` and tells what every group's log holds. Whose it is, `identity`
    /// tells: the caller compares before it writes anything. What is found is durable: the newest
    /// segment has been written again. No other segment is removed before the first write.
    ///
    /// Errors: `Corrupt` for damage and missing files, `Mismatch` for another log's files, `Io` for
    /// one that cannot be written or lacks the room for one more segment. After one, open it again.
    pub fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
        options: WalOptions,
    ) -> Result<(Wal, BTreeMap<GroupId, GroupLog>), StorageError> {
        recover::open(disk, dir, options)
    }

    /// Whether `dir` holds a log, whole or not.
    pub fn exists(disk: &dyn Disk, dir: &Path) -> Result<bool, StorageError> {
        if !disk.exists(dir)? {
            return Ok(false);
        }
        let names = disk.list(dir)?;
        Ok(names.iter().any(|name| segment::sequence_of_name(name).is_some()))
    }

    pub fn identity(&self) -> &WalIdentity {
        &self.identity
    }

    /// Bytes that replay would have to read: what live segments hold, headers not counted.
    pub fn tail_bytes(&self) -> u64 {
        self.segments.iter().map(|s| s.end - s.start).sum()
    }

    /// Bytes written in batches since the log was opened; only grows. The difference between two
    /// readings is what has been logged in between.
    pub fn appended_bytes(&self) -> u64 {
        self.appended_bytes
    }

    fn check_usable(&self) -> Result<(), StorageError> {
        if self.poisoned {
            return Err(StorageError::Poisoned { path: self.dir.clone() });
        }
        Ok(())
    }

    /// Runs a step that changes the disk; any error in it is the last word.
    fn guarded<T>(
        &mut self,
        step: impl FnOnce(&mut Wal) -> Result<T, StorageError>,
    ) -> Result<T, StorageError> {
        self.check_usable()?;
        let done = step(self);
        if done.is_err() {
            self.poisoned = true;
        }
        done
    }

    fn current(&self) -> &Segment {
        self.segments.back().expect("a log has at least one segment")
    }

    fn current_mut(&mut self) -> &mut Segment {
        self.segments.back_mut().expect("a log has at least one segment")
    }

    fn segment(&self, sequence: u64) -> &Segment {
        &self.segments[(sequence - self.live.oldest()) as usize]
    }
}
