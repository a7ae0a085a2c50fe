//! A segment: one file, its name, and the header that opens it.
//!
//! The header says whose log this is, where the segment stands in the chain, and how every group
//! stood when the segment began. It is written and synced before the file gets its name, so a
//! named segment with a bad header is damage, never a crash's doing.

use super::record::{INDEX_MAX, checksum, u32_at, u64_at};
use super::{Wal, WalIdentity};
use crate::io::{Disk, File, OpenMode};
use crate::types::{
    ClusterId, GroupId, HardState, Incarnation, LogIndex, NodeId, StorageError, Term,
};
use std::path::{Path, PathBuf};
use std::sync::Arc;

const MAGIC: &[u8; 8] = b"QUORWAL\n";
const FORMAT: u32 = 1;
/// The header without its table of groups.
pub(super) const HEADER_FIXED_BYTES: usize = 88;
/// One group in the table.
const GROUP_ROW_BYTES: usize = 56;
/// Offsets in a segment are kept in 32 bits.
pub(super) const SEGMENT_BYTES_MAX: u64 = u32::MAX as u64;
/// No log gets this far (2^48 segments of 16 MiB); a header beyond it is damaged, and counting
/// on from one below it cannot overflow.
const SEQUENCE_MAX: u64 = 1 << 48;
const BATCH_NUMBER_MAX: u64 = 1 << 60;

/// Added to what was found, so that the message alone tells the operator what to do.
const ADVICE: &str = "this log cannot be trusted: remove the member from the cluster and add it \
                      again with an empty data directory";

/// Damage, with what the operator can do about it.
pub(super) fn damage(
    path: &Path,
    offset: u64,
    expected: impl Into<String>,
    found: impl Into<String>,
) -> StorageError {
    StorageError::corrupt(path, offset, expected, format!("{}; {ADVICE}", found.into()))
}

/// How one group stood when a segment began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct GroupBounds {
    pub group: GroupId,
    pub hard: HardState,
    /// The last index that is gone, and its term.
    pub start: (LogIndex, Term),
    pub last: LogIndex,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub identity: WalIdentity,
    /// Counts segments from 1; also the file's name.
    pub sequence: u64,
    /// How long the file is.
    pub length: u64,
    /// No segment before this one was needed when this one began.
    pub oldest: u64,
    /// Where the segment before ends, which is where its seal lies; 0 in the first.
    pub previous_end: u64,
    /// The number of the first batch in this segment.
    pub first_batch: u64,
    /// Every group, in ascending order.
    pub groups: Vec<GroupBounds>,
}

impl Header {
    pub fn bytes(&self) -> u64 {
        Header::bytes_for(self.groups.len())
    }

    /// How long a header with this many groups is: a multiple of 8.
    pub fn bytes_for(groups: usize) -> u64 {
        (HEADER_FIXED_BYTES + groups * GROUP_ROW_BYTES) as u64
    }

    /// What the checksums of the segment's batches start from.
    pub fn seed(&self) -> u32 {
        let id = &self.identity;
        let words = [id.cluster.0, id.node.0, id.incarnation.0, self.sequence];
        words.iter().fold(0, |seed, word| checksum(seed, &[&word.to_le_bytes()]))
    }

    pub fn encode(&self) -> Vec<u8> {
        let id = &self.identity;
        let mut out = Vec::with_capacity(self.bytes() as usize);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&FORMAT.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        let mut put = |word: u64| out.extend_from_slice(&word.to_le_bytes());
        put(id.cluster.0);
        put(id.node.0);
        put(id.incarnation.0);
        put(self.sequence);
        put(self.length);
        put(self.oldest);
        put(self.previous_end);
        put(self.first_batch);
        put(self.groups.len() as u64);
        for row in &self.groups {
            put(row.group.0);
            put(row.hard.term.0);
            put(row.hard.vote.0);
            put(row.hard.commit.0);
            put(row.start.0.0);
            put(row.start.1.0);
            put(row.last.0);
        }
        assert!(out.len() as u64 == self.bytes(), "the header's size is a sum of its parts");
        let crc = header_checksum(&out);
        out[12..16].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads and checks the header of `file`: its form, checksum, the file's length, and that the
    /// name it goes by is the sequence it carries.
    pub fn read(file: &dyn File, path: &Path, sequence: u64) -> Result<Header, StorageError> {
        let length = file.len()?;
        if length < HEADER_FIXED_BYTES as u64 {
            return Err(damage(path, length, "a segment header", "the end of the file"));
        }
        let mut bytes = vec![0; HEADER_FIXED_BYTES];
        file.read_exact_at(&mut bytes, 0)?;
        if &bytes[..8] != MAGIC {
            return Err(damage(path, 0, "a log segment's first bytes", "others"));
        }
        let rows = u64_at(&bytes, 80);
        if rows > (length - HEADER_FIXED_BYTES as u64) / GROUP_ROW_BYTES as u64 {
            return Err(damage(path, 80, "a header inside of the file", format!("{rows} groups")));
        }
        // Bounded by the file's real length.
        bytes.resize(Header::bytes_for(rows as usize) as usize, 0);
        file.read_exact_at(&mut bytes[HEADER_FIXED_BYTES..], HEADER_FIXED_BYTES as u64)?;
        let crc = header_checksum(&bytes);
        if u32_at(&bytes, 12) != crc {
            return Err(damage(path, 0, format!("header checksum {crc:08x}"), "another"));
        }
        let format = u32_at(&bytes, 8);
        if format != FORMAT {
            return Err(mismatch(path, "format", FORMAT, format));
        }
        let header = Header::decode(&bytes);
        header.check(path, sequence, length)?;
        Ok(header)
    }

    /// Takes a header apart. `bytes` is as long as its count of groups says.
    pub fn decode(bytes: &[u8]) -> Header {
        let word = |at: usize| u64_at(bytes, at);
        let (rows, _) = bytes[HEADER_FIXED_BYTES..].as_chunks::<GROUP_ROW_BYTES>();
        let row = |row: &[u8; GROUP_ROW_BYTES]| GroupBounds {
            group: GroupId(u64_at(row, 0)),
            hard: HardState {
                term: Term(u64_at(row, 8)),
                vote: NodeId(u64_at(row, 16)),
                commit: LogIndex(u64_at(row, 24)),
            },
            start: (LogIndex(u64_at(row, 32)), Term(u64_at(row, 40))),
            last: LogIndex(u64_at(row, 48)),
        };
        Header {
            identity: WalIdentity {
                cluster: ClusterId(word(16)),
                node: NodeId(word(24)),
                incarnation: Incarnation(word(32)),
            },
            sequence: word(40),
            length: word(48),
            oldest: word(56),
            previous_end: word(64),
            first_batch: word(72),
            groups: rows.iter().map(row).collect(),
        }
    }

    /// What a header with a valid checksum must still satisfy.
    fn check(&self, path: &Path, sequence: u64, length: u64) -> Result<(), StorageError> {
        if self.sequence != sequence {
            return Err(mismatch(path, "sequence than its name", sequence, self.sequence));
        }
        if self.length != length {
            let expected = format!("a segment of {} bytes", self.length);
            return Err(damage(path, length.min(self.length), expected, format!("{length} bytes")));
        }
        let in_order = self.groups.is_sorted_by(|a, b| a.group < b.group);
        let bounds_make_sense =
            self.groups.iter().all(|g| g.start.0 <= g.last && g.last.0 <= INDEX_MAX);
        let counts_make_sense = (1..=self.sequence).contains(&self.oldest)
            && self.sequence < SEQUENCE_MAX
            && self.length <= SEGMENT_BYTES_MAX
            && (1..BATCH_NUMBER_MAX).contains(&self.first_batch);
        if in_order && bounds_make_sense && counts_make_sense {
            return Ok(());
        }
        Err(damage(path, 0, "a header that makes sense", "one that does not"))
    }
}

/// Of a whole header: everything but the checksum itself.
pub(super) fn header_checksum(header: &[u8]) -> u32 {
    checksum(0, &[&header[..12], &header[16..]])
}

pub(super) fn mismatch(
    path: &Path,
    what: &'static str,
    expected: impl ToString,
    found: impl ToString,
) -> StorageError {
    let (expected, found) = (expected.to_string(), found.to_string());
    StorageError::Mismatch { path: path.to_owned(), what, expected, found }
}

/// `0000000000000007.wal`: sixteen hexadecimal digits, so that names sort as sequences do.
pub(super) fn segment_name(sequence: u64) -> String {
    format!("{sequence:016x}.wal")
}

/// The sequence in a segment's name; none for any other file.
pub(super) fn sequence_of_name(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".wal")?;
    let sequence = u64::from_str_radix(digits, 16).ok()?;
    (segment_name(sequence) == name).then_some(sequence)
}

/// One live segment.
#[derive(Debug)]
pub(super) struct Segment {
    pub sequence: u64,
    pub path: PathBuf,
    pub file: Arc<dyn File>,
    /// What the checksums of its batches start from.
    pub seed: u32,
    pub length: u64,
    /// Where its first batch begins.
    pub start: u64,
    /// Where its last batch ends: the next one goes here, or the seal lies here.
    pub end: u64,
}

impl Segment {
    pub fn open(
        disk: &dyn Disk,
        dir: &Path,
        sequence: u64,
    ) -> Result<(Segment, Header), StorageError> {
        let path = dir.join(segment_name(sequence));
        let file = disk.open(&path, OpenMode::ReadWrite)?;
        let header = Header::read(&*file, &path, sequence)?;
        Ok((Segment::new(path, file, &header), header))
    }

    pub fn new(path: PathBuf, file: Arc<dyn File>, header: &Header) -> Segment {
        Segment {
            sequence: header.sequence,
            path,
            file,
            seed: header.seed(),
            length: header.length,
            start: header.bytes(),
            end: header.bytes(),
        }
    }

    /// Bytes that batches and the seal may take.
    pub fn usable(&self) -> u64 {
        self.length - self.start
    }
}

/// One segment, as metrics and tests see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentInfo {
    pub sequence: u64,
    /// The file's length.
    pub bytes: u64,
    /// Bytes of it that hold the header and batches.
    pub used: u64,
    /// Entries in it that some group still needs.
    pub live_entries: u64,
}

impl Wal {
    /// The live segments, oldest first.
    pub fn segments(&self) -> Vec<SegmentInfo> {
        let info = |s: &Segment| SegmentInfo {
            sequence: s.sequence,
            bytes: s.length,
            used: s.end,
            live_entries: self.live.count(s.sequence).entries,
        };
        self.segments.iter().map(info).collect()
    }
}
