//! What one record says, and its bytes. The picture is in `wal/mod.rs`.
//!
//! Everything here is a total function of bytes: nothing panics on what a file holds, and nothing
//! allocates by a number read from it. A record's checksum starts from its batch's seed, so that
//! the same bytes at another place, in another batch or in another segment do not pass.

use super::index::Slot;
use crate::types::{EntryKind, GroupId, HardState, LogIndex, NodeId, Term};
use crc32fast::Hasher;

/// Length, checksum, kind, group.
pub(super) const RECORD_HEAD_BYTES: usize = 17;
/// First index, term and count of a run of entries.
pub(super) const RUN_FIXED_BYTES: usize = 20;
/// Kind, length and checksum of one entry in a run's table.
pub(super) const RUN_ROW_BYTES: usize = 9;
/// What a run costs before its first row.
pub(super) const RUN_HEAD_BYTES: usize = RECORD_HEAD_BYTES + RUN_FIXED_BYTES;
/// What an entry costs on disk at worst besides its data: a run of its own.
pub(super) const ENTRY_OVERHEAD_MAX: usize = RUN_HEAD_BYTES + RUN_ROW_BYTES;
/// No log gets this far; what is below can be counted on from without overflow.
pub(super) const INDEX_MAX: u64 = 1 << 60;
/// A slot keeps an entry's length in 30 bits, its kind in the other two.
pub(super) const ENTRY_DATA_BYTES_MAX: usize = (1 << 30) - 1;

/// CRC32 of `parts` one after the other, starting from `seed`.
pub(super) fn checksum(seed: u32, parts: &[&[u8]]) -> u32 {
    let mut hasher = Hasher::new_with_initial(seed);
    for part in parts {
        hasher.update(part);
    }
    hasher.finalize()
}

/// The eight bytes at `at`. The caller has checked that they are there.
pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(*bytes[at..].first_chunk().expect("the length was checked"))
}

/// The four bytes at `at`. The caller has checked that they are there.
pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(*bytes[at..].first_chunk().expect("the length was checked"))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    HardState,
    /// Entries that continue the log.
    Append,
    /// Entries the log already has, written again further on. Never truncates.
    Kept,
    /// The log ends before this index.
    Truncate,
    LogStart,
    Trim,
    DropGroup,
    /// Segments before this sequence are not needed any more.
    Release,
    /// Nothing follows in this segment: the next one exists.
    Seal,
    /// The batch ends here and is whole.
    Commit,
}

impl Kind {
    pub fn byte(self) -> u8 {
        match self {
            Kind::HardState => 1,
            Kind::Append => 2,
            Kind::Kept => 3,
            Kind::Truncate => 4,
            Kind::LogStart => 5,
            Kind::Trim => 6,
            Kind::DropGroup => 7,
            Kind::Release => 8,
            Kind::Seal => 9,
            Kind::Commit => 10,
        }
    }

    pub fn of_byte(byte: u8) -> Option<Kind> {
        Some(match byte {
            1 => Kind::HardState,
            2 => Kind::Append,
            3 => Kind::Kept,
            4 => Kind::Truncate,
            5 => Kind::LogStart,
            6 => Kind::Trim,
            7 => Kind::DropGroup,
            8 => Kind::Release,
            9 => Kind::Seal,
            10 => Kind::Commit,
            _ => return None,
        })
    }
}

fn entry_kind_byte(kind: EntryKind) -> u8 {
    match kind {
        EntryKind::Empty => 0,
        EntryKind::Command => 1,
        EntryKind::ConfChange => 2,
    }
}

fn entry_kind_of_byte(byte: u8) -> Option<EntryKind> {
    Some(match byte {
        0 => EntryKind::Empty,
        1 => EntryKind::Command,
        2 => EntryKind::ConfChange,
        _ => return None,
    })
}

/// The first 17 bytes of a record. `covered` is what its checksum covers beyond them: the whole
/// payload, or a run's fixed part and table (entry data has checksums of its own in the table).
pub(super) fn record_head(
    seed: u32,
    kind: Kind,
    group: GroupId,
    payload_bytes: usize,
    covered: &[&[u8]],
) -> ([u8; RECORD_HEAD_BYTES], u32) {
    let length = u32::try_from(payload_bytes).expect("a batch is bounded well below 4 GiB");
    let mut head = [0; RECORD_HEAD_BYTES];
    head[0..4].copy_from_slice(&length.to_le_bytes());
    head[8] = kind.byte();
    head[9..17].copy_from_slice(&group.0.to_le_bytes());
    let mut hasher = Hasher::new_with_initial(seed);
    hasher.update(&head[0..4]);
    hasher.update(&head[8..17]);
    for part in covered {
        hasher.update(part);
    }
    let crc = hasher.finalize();
    head[4..8].copy_from_slice(&crc.to_le_bytes());
    (head, crc)
}

/// Appends a run's fixed part and table to `out`.
pub(super) fn put_run_table<'a>(
    out: &mut Vec<u8>,
    first: LogIndex,
    term: Term,
    rows: impl ExactSizeIterator<Item = (EntryKind, &'a [u8])>,
) {
    let count = u32::try_from(rows.len()).expect("a batch holds fewer entries than 2^32");
    out.extend_from_slice(&first.0.to_le_bytes());
    out.extend_from_slice(&term.0.to_le_bytes());
    out.extend_from_slice(&count.to_le_bytes());
    for (kind, data) in rows {
        assert!(data.len() <= ENTRY_DATA_BYTES_MAX, "an entry of {} bytes", data.len());
        out.push(entry_kind_byte(kind));
        out.extend_from_slice(&(data.len() as u32).to_le_bytes());
        out.extend_from_slice(&crc32fast::hash(data).to_le_bytes());
    }
}

/// A record whose checksum has been verified, not yet understood.
#[derive(Clone, Copy, Debug)]
pub(super) struct RawRecord<'a> {
    pub kind: Kind,
    pub group: GroupId,
    pub payload: &'a [u8],
    /// Where the payload lies in the segment.
    pub payload_at: usize,
    pub crc: u32,
}

impl<'a> RawRecord<'a> {
    /// The record at `at`, which must end at or before `end`; verifies its checksum but not that
    /// of entry data. `end` must not exceed `bytes.len()`.
    pub fn parse(
        bytes: &'a [u8],
        at: usize,
        end: usize,
        seed: u32,
    ) -> Result<RawRecord<'a>, &'static str> {
        if end - at < RECORD_HEAD_BYTES {
            return Err("a record cut short");
        }
        let length = u32_at(bytes, at) as usize;
        let crc = u32_at(bytes, at + 4);
        let payload_at = at + RECORD_HEAD_BYTES;
        if length > end - payload_at {
            return Err("a record longer than its batch");
        }
        let kind = Kind::of_byte(bytes[at + 8]).ok_or("a record of unknown kind")?;
        let group = GroupId(u64_at(bytes, at + 9));
        let payload = &bytes[payload_at..payload_at + length];
        let covered = match kind {
            Kind::Append | Kind::Kept => run_covered_bytes(payload)?,
            _ => payload.len(),
        };
        let head = [&bytes[at..at + 4], &bytes[at + 8..payload_at], &payload[..covered]];
        if checksum(seed, &head) != crc {
            return Err("a record with a wrong checksum");
        }
        Ok(RawRecord { kind, group, payload, payload_at, crc })
    }

    /// Where the next record starts.
    pub fn end(&self) -> usize {
        self.payload_at + self.payload.len()
    }
}

/// How much of a run's payload its record's checksum covers.
pub(super) fn run_covered_bytes(payload: &[u8]) -> Result<usize, &'static str> {
    if payload.len() < RUN_FIXED_BYTES {
        return Err("a run of entries cut short");
    }
    let count = u32_at(payload, 16) as usize;
    let covered = count.checked_mul(RUN_ROW_BYTES).and_then(|t| t.checked_add(RUN_FIXED_BYTES));
    covered.filter(|c| *c <= payload.len()).ok_or("a run longer than its record")
}

/// A record understood.
#[derive(Clone, Copy, Debug)]
pub(super) enum Logged<'a> {
    HardState { group: GroupId, hard: HardState },
    Append { group: GroupId, run: Run<'a> },
    Kept { group: GroupId, run: Run<'a> },
    Truncate { group: GroupId, from: LogIndex },
    LogStart { group: GroupId, index: LogIndex, term: Term },
    Trim { group: GroupId, index: LogIndex, term: Term },
    DropGroup { group: GroupId },
    Release { oldest: u64 },
    Seal { next: u64 },
    Commit { sum: u32 },
}

impl<'a> Logged<'a> {
    pub fn decode(raw: &RawRecord<'a>) -> Result<Logged<'a>, &'static str> {
        let (group, payload) = (raw.group, raw.payload);
        let words = |count: usize| {
            if payload.len() == count * 8 { Ok(()) } else { Err("a record of the wrong length") }
        };
        Ok(match raw.kind {
            Kind::HardState => {
                words(3)?;
                let hard = HardState {
                    term: Term(u64_at(payload, 0)),
                    vote: NodeId(u64_at(payload, 8)),
                    commit: LogIndex(u64_at(payload, 16)),
                };
                Logged::HardState { group, hard }
            }
            Kind::Append => Logged::Append { group, run: Run::decode(raw)? },
            Kind::Kept => Logged::Kept { group, run: Run::decode(raw)? },
            Kind::Truncate => {
                words(1)?;
                Logged::Truncate { group, from: LogIndex(u64_at(payload, 0)) }
            }
            Kind::LogStart | Kind::Trim => {
                words(2)?;
                let (index, term) = (LogIndex(u64_at(payload, 0)), Term(u64_at(payload, 8)));
                if index.0 > INDEX_MAX {
                    return Err("a log bound beyond the last index");
                }
                match raw.kind {
                    Kind::Trim => Logged::Trim { group, index, term },
                    _ => Logged::LogStart { group, index, term },
                }
            }
            Kind::DropGroup => {
                words(0)?;
                Logged::DropGroup { group }
            }
            Kind::Release => {
                words(1)?;
                Logged::Release { oldest: u64_at(payload, 0) }
            }
            Kind::Seal => {
                words(1)?;
                Logged::Seal { next: u64_at(payload, 0) }
            }
            Kind::Commit => {
                if payload.len() != 4 {
                    return Err("a commit record of the wrong length");
                }
                Logged::Commit { sum: u32_at(payload, 0) }
            }
        })
    }
}

/// Consecutive entries of one group and one term.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run<'a> {
    pub first: LogIndex,
    pub term: Term,
    rows: &'a [[u8; RUN_ROW_BYTES]],
    data: &'a [u8],
    /// Where `data` lies in the segment.
    data_at: usize,
}

impl<'a> Run<'a> {
    fn decode(raw: &RawRecord<'a>) -> Result<Run<'a>, &'static str> {
        let covered = run_covered_bytes(raw.payload)?;
        let (rows, rest) = raw.payload[RUN_FIXED_BYTES..covered].as_chunks::<RUN_ROW_BYTES>();
        assert!(rest.is_empty(), "the table is a whole number of rows");
        let run = Run {
            first: LogIndex(u64_at(raw.payload, 0)),
            term: Term(u64_at(raw.payload, 8)),
            rows,
            data: &raw.payload[covered..],
            data_at: raw.payload_at + covered,
        };
        if run.first == LogIndex::ZERO || rows.is_empty() {
            return Err("a run without entries");
        }
        if run.first.0.saturating_add(rows.len() as u64) > INDEX_MAX {
            return Err("a run beyond the last index");
        }
        let mut left = run.data.len();
        for row in rows {
            let bytes = u32_at(row, 1) as usize;
            entry_kind_of_byte(row[0]).ok_or("an entry of unknown kind")?;
            left = left.checked_sub(bytes).ok_or("a run with too little data")?;
            if bytes > ENTRY_DATA_BYTES_MAX {
                return Err("an entry too large");
            }
        }
        if left == 0 { Ok(run) } else { Err("a run with too much data") }
    }

    /// Verifies the data of every entry; the offset in the segment of the first bad one.
    pub fn check_data(&self) -> Result<(), usize> {
        let mut at = 0;
        for row in self.rows {
            let bytes = u32_at(row, 1) as usize;
            if crc32fast::hash(&self.data[at..at + bytes]) != u32_at(row, 5) {
                return Err(self.data_at + at);
            }
            at += bytes;
        }
        Ok(())
    }

    /// Where each entry lies, in order. `sequence` is the segment's.
    pub fn slots(&self, sequence: u64) -> impl Iterator<Item = Slot> + use<'a> {
        let mut at = self.data_at;
        self.rows.iter().map(move |row| {
            let bytes = u32_at(row, 1) as usize;
            let kind = entry_kind_of_byte(row[0]).expect("checked when the run was decoded");
            let slot = Slot::new(sequence, at as u64, bytes, kind, u32_at(row, 5));
            at += bytes;
            slot
        })
    }
}
