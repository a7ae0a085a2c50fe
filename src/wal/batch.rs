//! A batch: what is written by one call and made durable by one sync, whole or not at all.
//!
//! A head opens it (recognisable at any 8-byte boundary, which is how recovery finds batches
//! behind damage), records follow, a commit record closes it.

use super::index::Slot;
use super::record::{
    Kind, Logged, RECORD_HEAD_BYTES, RUN_FIXED_BYTES, RUN_ROW_BYTES, RawRecord, checksum,
    put_run_table, record_head, u32_at, u64_at,
};
use crate::types::{Entry, GroupId};
use bytes::Bytes;
use crc32fast::Hasher;

pub(super) const HEAD_MAGIC: u32 = 0x4843_5442; // "BTCH"
pub(super) const HEAD_BYTES: usize = 24;
pub(super) const COMMIT_BYTES: usize = RECORD_HEAD_BYTES + 4;
/// Batches begin at multiples of this.
pub(super) const ALIGN: usize = 8;
/// What a batch costs besides its records, padding included.
pub(super) const FRAME_BYTES_MAX: usize = HEAD_BYTES + COMMIT_BYTES + ALIGN - 1;
/// A batch with one seal in it: every segment keeps room for one.
pub(super) const SEAL_BATCH_BYTES: u64 =
    (HEAD_BYTES + RECORD_HEAD_BYTES + 8 + COMMIT_BYTES).next_multiple_of(ALIGN) as u64;
/// Entry data from this size on is handed to the file system from where it lies; smaller ones are
/// copied once into the batch's buffer, which is cheaper than one more buffer in the call.
const GATHER_BYTES: usize = 16 << 10;

/// What the checksums in a batch start from: its place on top of the segment's seed.
pub(super) fn batch_seed(segment_seed: u32, at: usize) -> u32 {
    checksum(segment_seed, &[&(at as u64).to_le_bytes()])
}

/// Gathers one batch's bytes. It knows the place they will have, so that it can tell where each
/// entry will lie.
pub(super) struct BatchWriter {
    sequence: u64,
    at: u64,
    number: u64,
    seed: u32,
    /// Everything but the gathered entry data. The head is filled in at the end.
    buffer: Vec<u8>,
    /// Entry data that goes out from where it lies: (position in `buffer` before which, data).
    gathered: Vec<(usize, Bytes)>,
    gathered_bytes: usize,
    /// Over the checksums of all records so far.
    sum: Hasher,
    /// Where the entries of the newest run lie.
    slots: Vec<Slot>,
}

impl BatchWriter {
    pub fn new(
        mut buffer: Vec<u8>,
        sequence: u64,
        segment_seed: u32,
        at: u64,
        number: u64,
    ) -> BatchWriter {
        assert!(at.is_multiple_of(ALIGN as u64), "a batch at {at}");
        let seed = batch_seed(segment_seed, at as usize);
        buffer.clear();
        buffer.resize(HEAD_BYTES, 0);
        BatchWriter {
            sequence,
            at,
            number,
            seed,
            buffer,
            gathered: Vec::new(),
            gathered_bytes: 0,
            sum: Hasher::new_with_initial(seed),
            slots: Vec::new(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.buffer.len() == HEAD_BYTES
    }

    fn bytes(&self) -> usize {
        self.buffer.len() + self.gathered_bytes
    }

    pub fn put(&mut self, kind: Kind, group: GroupId, words: &[u64]) {
        let mut payload = [0; 24];
        for (at, word) in words.iter().enumerate() {
            payload[at * 8..at * 8 + 8].copy_from_slice(&word.to_le_bytes());
        }
        self.put_payload(kind, group, &payload[..words.len() * 8]);
    }

    fn put_payload(&mut self, kind: Kind, group: GroupId, payload: &[u8]) {
        let (head, crc) = record_head(self.seed, kind, group, payload.len(), &[payload]);
        self.sum.update(&crc.to_le_bytes());
        self.buffer.extend_from_slice(&head);
        self.buffer.extend_from_slice(payload);
    }

    /// One record for `run`, whose entries follow each other and share one term. Returns where
    /// they will lie.
    pub fn put_run(&mut self, kind: Kind, group: GroupId, run: &[Entry]) -> &[Slot] {
        assert!(run.windows(2).all(|w| w[0].index.next() == w[1].index), "a run with a gap");
        assert!(run.windows(2).all(|w| w[0].term == w[1].term), "a run of two terms");
        let head_at = self.buffer.len();
        let table_at = head_at + RECORD_HEAD_BYTES;
        self.buffer.resize(table_at, 0);
        let rows = run.iter().map(|e| (e.kind, &e.data[..]));
        put_run_table(&mut self.buffer, run[0].index, run[0].term, rows);
        let table = &self.buffer[table_at..];
        let data_bytes: usize = run.iter().map(|e| e.data.len()).sum();
        let (head, crc) = record_head(self.seed, kind, group, table.len() + data_bytes, &[table]);
        self.sum.update(&crc.to_le_bytes());
        let first_row_at = table_at + RUN_FIXED_BYTES;
        self.slots.clear();
        for (row, entry) in run.iter().enumerate() {
            let crc = u32_at(&self.buffer, first_row_at + row * RUN_ROW_BYTES + 5);
            let data_at = self.at + self.bytes() as u64;
            let bytes = entry.data.len();
            self.slots.push(Slot::new(self.sequence, data_at, bytes, entry.kind, crc));
            if bytes < GATHER_BYTES {
                self.buffer.extend_from_slice(&entry.data);
            } else {
                self.gathered.push((self.buffer.len(), entry.data.clone()));
                self.gathered_bytes += bytes;
            }
        }
        self.buffer[head_at..table_at].copy_from_slice(&head);
        &self.slots
    }

    /// Closes the batch.
    pub fn finish(mut self) -> SealedBatch {
        assert!(!self.is_empty(), "a batch without records");
        let sum = self.sum.clone().finalize();
        self.put_payload(Kind::Commit, GroupId(0), &sum.to_le_bytes());
        let bytes = self.bytes().next_multiple_of(ALIGN);
        self.buffer.resize(bytes - self.gathered_bytes, 0);
        self.buffer[..HEAD_BYTES].copy_from_slice(&head(self.seed, self.number, bytes as u64));
        SealedBatch { buffer: self.buffer, gathered: self.gathered, bytes: bytes as u64 }
    }
}

fn head(seed: u32, number: u64, bytes: u64) -> [u8; HEAD_BYTES] {
    let mut head = [0; HEAD_BYTES];
    head[0..4].copy_from_slice(&HEAD_MAGIC.to_le_bytes());
    head[8..16].copy_from_slice(&number.to_le_bytes());
    head[16..24].copy_from_slice(&bytes.to_le_bytes());
    let crc = head_checksum(seed, &head);
    head[4..8].copy_from_slice(&crc.to_le_bytes());
    head
}

/// Of a batch's first 24 bytes.
pub(super) fn head_checksum(seed: u32, head: &[u8]) -> u32 {
    checksum(seed, &[&head[0..4], &head[8..24]])
}

/// A finished batch, ready to be written.
pub(super) struct SealedBatch {
    pub buffer: Vec<u8>,
    gathered: Vec<(usize, Bytes)>,
    pub bytes: u64,
}

impl SealedBatch {
    /// The batch's bytes in order, for one write call.
    pub fn slices(&self) -> Vec<&[u8]> {
        let mut slices = Vec::with_capacity(self.gathered.len() * 2 + 1);
        let mut from = 0;
        for (before, data) in &self.gathered {
            if *before > from {
                slices.push(&self.buffer[from..*before]);
            }
            slices.push(data);
            from = *before;
        }
        slices.push(&self.buffer[from..]);
        slices
    }
}

/// Where and why a batch is not valid.
#[derive(Clone, Copy, Debug)]
pub(super) struct Invalid {
    pub offset: usize,
    pub what: &'static str,
}

/// A batch whose every checksum holds.
#[derive(Clone, Copy, Debug)]
pub(super) struct ValidBatch<'a> {
    bytes: &'a [u8],
    first: usize,
    commit_at: usize,
    seed: u32,
    /// Where the next batch begins.
    pub end: usize,
}

impl<'a> ValidBatch<'a> {
    /// The batch at `at` in the segment `bytes`, if it is whole and its number is `number`.
    pub fn check(
        bytes: &'a [u8],
        segment_seed: u32,
        at: usize,
        number: u64,
    ) -> Result<ValidBatch<'a>, Invalid> {
        let invalid = |offset, what| Invalid { offset, what };
        let Some((found, length)) = head_at(bytes, segment_seed, at) else {
            return Err(invalid(at, "no batch"));
        };
        if found != number {
            return Err(invalid(at, "a batch of another number"));
        }
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let smallest = HEAD_BYTES + COMMIT_BYTES;
        if length < smallest || length > bytes.len() - at || !length.is_multiple_of(ALIGN) {
            return Err(invalid(at + 16, "a batch of impossible length"));
        }
        let seed = batch_seed(segment_seed, at);
        let (first, end) = (at + HEAD_BYTES, at + length);
        let mut sum = Hasher::new_with_initial(seed);
        let mut next = first;
        loop {
            let raw =
                RawRecord::parse(bytes, next, end, seed).map_err(|what| invalid(next, what))?;
            match Logged::decode(&raw).map_err(|what| invalid(next, what))? {
                Logged::Commit { sum: expected } => {
                    if sum.finalize() != expected {
                        return Err(invalid(next, "a commit record of other records"));
                    }
                    if end - raw.end() >= ALIGN {
                        return Err(invalid(raw.end(), "something behind a commit record"));
                    }
                    return Ok(ValidBatch { bytes, first, commit_at: next, seed, end });
                }
                Logged::Append { run, .. } | Logged::Kept { run, .. } => {
                    run.check_data()
                        .map_err(|offset| invalid(offset, "an entry with a wrong checksum"))?;
                }
                _ => {}
            }
            sum.update(&raw.crc.to_le_bytes());
            next = raw.end();
        }
    }

    /// Its records, each with its offset in the segment.
    pub fn records(&self) -> impl Iterator<Item = (usize, Logged<'a>)> + use<'a> {
        let batch = *self;
        let mut next = batch.first;
        std::iter::from_fn(move || {
            if next >= batch.commit_at {
                return None;
            }
            let at = next;
            let raw = RawRecord::parse(batch.bytes, at, batch.commit_at, batch.seed);
            let raw = raw.expect("every record was parsed when the batch was checked");
            next = raw.end();
            Some((at, Logged::decode(&raw).expect("decoded when the batch was checked")))
        })
    }
}

/// Number and length of the batch whose valid head lies at `at`, if one does.
fn head_at(bytes: &[u8], segment_seed: u32, at: usize) -> Option<(u64, u64)> {
    let head = bytes.get(at..)?.get(..HEAD_BYTES)?;
    if u32_at(head, 0) != HEAD_MAGIC {
        return None;
    }
    let (number, length) = (u64_at(head, 8), u64_at(head, 16));
    (u32_at(head, 4) == head_checksum(batch_seed(segment_seed, at), head))
        .then_some((number, length))
}

/// The first place at or after `from` where a batch numbered `number` or higher begins.
///
/// A head is enough: one is written only after the batch before it is known durable, so it
/// proves that batch `number - 1` was, even if its own batch is torn.
pub(super) fn find_head(
    bytes: &[u8],
    segment_seed: u32,
    from: usize,
    number: u64,
) -> Option<usize> {
    (from.next_multiple_of(ALIGN)..bytes.len())
        .step_by(ALIGN)
        .find(|at| head_at(bytes, segment_seed, *at).is_some_and(|(found, _)| found >= number))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{EntryKind, LogIndex, Term};

    fn entry(index: u64, data: &[u8]) -> Entry {
        Entry {
            term: Term(3),
            index: LogIndex(index),
            kind: EntryKind::Command,
            data: Bytes::copy_from_slice(data),
        }
    }

    fn batch(seed: u32, number: u64) -> Vec<u8> {
        let mut writer = BatchWriter::new(Vec::new(), 1, seed, 64, number);
        writer.put(Kind::HardState, GroupId(1), &[1, 2, 3]);
        writer.put_run(Kind::Append, GroupId(1), &[entry(1, b"one"), entry(2, &[7; 20_000])]);
        writer.put(Kind::Trim, GroupId(1), &[1, 3]);
        [vec![0; 64], writer.finish().slices().concat()].concat()
    }

    #[test]
    fn what_is_written_is_read_back() {
        let bytes = batch(9, 5);
        let valid = ValidBatch::check(&bytes, 9, 64, 5).unwrap();
        assert_eq!(valid.end, bytes.len());
        let records: Vec<_> = valid.records().map(|(_, logged)| logged).collect();
        assert_eq!(records.len(), 3);
        let Logged::Append { run, .. } = records[1] else { panic!("{:?}", records[1]) };
        let slots: Vec<Slot> = run.slots(1).collect();
        assert_eq!(slots.len(), 2);
        for (slot, data) in slots.iter().zip([&b"one"[..], &[7; 20_000]]) {
            assert_eq!(&bytes[slot.offset() as usize..slot.end() as usize], data);
            assert_eq!(slot.kind(), EntryKind::Command);
        }
    }

    #[test]
    fn the_writer_knows_where_entries_will_lie() {
        let mut writer = BatchWriter::new(Vec::new(), 1, 9, 64, 5);
        writer.put(Kind::DropGroup, GroupId(4), &[]);
        let run =
            [entry(1, &[1; 20_000]), entry(2, b""), entry(3, &[2; 10]), entry(4, &[3; 16_384])];
        let slots = writer.put_run(Kind::Append, GroupId(1), &run).to_vec();
        let bytes = [vec![0; 64], writer.finish().slices().concat()].concat();
        for (slot, entry) in slots.iter().zip(&run) {
            assert_eq!(&bytes[slot.offset() as usize..slot.end() as usize], &entry.data[..]);
        }
    }

    #[test]
    fn place_number_and_segment_are_part_of_every_checksum() {
        let bytes = batch(9, 5);
        assert!(ValidBatch::check(&bytes, 8, 64, 5).is_err(), "another segment");
        assert!(ValidBatch::check(&bytes, 9, 64, 6).is_err(), "another number");
        let moved = [vec![0; 8], bytes.clone()].concat();
        assert!(ValidBatch::check(&moved, 9, 72, 5).is_err(), "another place");
        assert_eq!(find_head(&bytes, 9, 0, 5), Some(64));
        assert_eq!(find_head(&bytes, 9, 0, 6), None);
        assert_eq!(find_head(&moved, 9, 0, 5), None);
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let bytes = batch(9, 5);
        let padding = 7;
        for at in 64..bytes.len() - padding {
            let mut bad = bytes.clone();
            bad[at] ^= 1 << (at % 8);
            assert!(ValidBatch::check(&bad, 9, 64, 5).is_err(), "byte {at}");
        }
        for length in 0..bytes.len() {
            assert!(ValidBatch::check(&bytes[..length], 9, 64, 5).is_err(), "{length} bytes");
        }
    }

    #[test]
    fn two_attempts_at_one_batch_do_not_mix() {
        let attempt = |data: &[u8]| {
            let mut writer = BatchWriter::new(Vec::new(), 1, 9, 0, 5);
            writer.put(Kind::Trim, GroupId(1), &[u64::from(data[0]), 3]);
            writer.put_run(Kind::Append, GroupId(1), &[entry(2, data)]);
            writer.finish().slices().concat()
        };
        let (one, two) = (attempt(b"aaaa"), attempt(b"bbbb"));
        assert_eq!(one.len(), two.len());
        let mut whole = 0;
        for cut in 0..=one.len() {
            let mixed = [&one[..cut], &two[cut..]].concat();
            if ValidBatch::check(&mixed, 9, 0, 5).is_ok() {
                assert!(mixed == one || mixed == two, "cut at {cut}");
                whole += 1;
            }
        }
        assert!(whole >= 2);
    }
}
