//! The harness that fuzzing and the replay of its corpus share: bytes become the files of a log's
//! directory, the directory is opened, and everything in it is read back.
//!
//! An input is a byte of flags, then files one after the other until it ends:
//!
//! ```text
//! input  | flags 1 | file | file | ...
//! file   | kind 1: segment, spare, preparing | number 1 | length 2 | zeros behind it 2 | bytes |
//! ```
//!
//! With flag 1 every checksum in the segments is made right first, as far as their structure can
//! be followed: otherwise the checksums would keep a fuzzer from everything behind them.

use super::batch::{HEAD_BYTES, HEAD_MAGIC, batch_seed, head_checksum};
use super::record::{
    Kind, RECORD_HEAD_BYTES, RUN_FIXED_BYTES, RUN_ROW_BYTES, checksum, run_covered_bytes, u32_at,
    u64_at,
};
use super::segment::{HEADER_FIXED_BYTES, Header, header_checksum, segment_name};
use super::{Batch, GroupLog, Record, Wal, WalOptions};
use crate::io::mem_disk::{CrashMode, CrashPlan};
use crate::io::{Disk, MemDisk, OpenMode};
use crate::types::{Entry, GroupId, HardState, LogIndex, NodeId, StorageError, Term};
use crc32fast::Hasher;
use std::path::Path;
use std::sync::Arc;

const RESEAL: u8 = 1;
const OPTIONS: WalOptions = WalOptions { segment_bytes: 1024, spare_segments: 1 };

/// The files of an input, as (name, contents).
fn unpack(data: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut files = Vec::new();
    let Some((flags, mut rest)) = data.split_first() else { return files };
    while let Some((head, more)) = rest.split_first_chunk::<6>() {
        let number = u64::from(head[1]);
        let name = match head[0] % 3 {
            0 => segment_name(number),
            1 => format!("spare-{number:016x}.tmp"),
            _ => String::from("preparing.tmp"),
        };
        let length = usize::from(u16::from_le_bytes([head[2], head[3]])).min(more.len());
        let zeros = usize::from(u16::from_le_bytes([head[4], head[5]]));
        let (bytes, after) = more.split_at(length);
        let mut bytes = bytes.to_vec();
        bytes.resize(length + zeros, 0);
        if flags & RESEAL != 0 && head[0].is_multiple_of(3) {
            reseal(&mut bytes);
        }
        files.push((name, bytes));
        rest = after;
    }
    files
}

/// Makes the checksums of a segment right wherever the structure around them can be followed.
pub(super) fn reseal(bytes: &mut [u8]) {
    if bytes.len() < HEADER_FIXED_BYTES {
        return;
    }
    let groups = usize::try_from(u64_at(bytes, 80)).unwrap_or(usize::MAX);
    if groups > bytes.len() / 8 || Header::bytes_for(groups) > bytes.len() as u64 {
        return;
    }
    let start = Header::bytes_for(groups) as usize;
    let crc = header_checksum(&bytes[..start]);
    bytes[12..16].copy_from_slice(&crc.to_le_bytes());
    let segment_seed = Header::decode(&bytes[..start]).seed();
    let mut at = start;
    while bytes.len() - at >= HEAD_BYTES && u32_at(bytes, at) == HEAD_MAGIC {
        let seed = batch_seed(segment_seed, at);
        let crc = head_checksum(seed, &bytes[at..at + HEAD_BYTES]);
        bytes[at + 4..at + 8].copy_from_slice(&crc.to_le_bytes());
        let length = usize::try_from(u64_at(bytes, at + 16)).unwrap_or(usize::MAX);
        if length < HEAD_BYTES || length > bytes.len() - at {
            return;
        }
        reseal_records(&mut bytes[..at + length], at + HEAD_BYTES, seed);
        at += length;
    }
}

/// The records from `at` to the end of `bytes`.
fn reseal_records(bytes: &mut [u8], mut at: usize, seed: u32) {
    let mut sum = Hasher::new_with_initial(seed);
    while bytes.len() - at >= RECORD_HEAD_BYTES {
        let payload_at = at + RECORD_HEAD_BYTES;
        let end = payload_at.saturating_add(u32_at(bytes, at) as usize);
        let (Some(kind), true) = (Kind::of_byte(bytes[at + 8]), end <= bytes.len()) else { return };
        let covered = match kind {
            Kind::Append | Kind::Kept => {
                let Ok(covered) = run_covered_bytes(&bytes[payload_at..end]) else { return };
                reseal_data(&mut bytes[payload_at..end], covered);
                covered
            }
            Kind::Commit if end - payload_at == 4 => {
                let sum = sum.clone().finalize();
                bytes[payload_at..end].copy_from_slice(&sum.to_le_bytes());
                4
            }
            _ => end - payload_at,
        };
        let parts =
            [&bytes[at..at + 4], &bytes[at + 8..payload_at], &bytes[payload_at..][..covered]];
        let crc = checksum(seed, &parts);
        bytes[at + 4..at + 8].copy_from_slice(&crc.to_le_bytes());
        sum.update(&crc.to_le_bytes());
        at = end;
    }
}

/// The table of a run, whose data begins at `data_at`.
fn reseal_data(run: &mut [u8], mut data_at: usize) {
    for row in (RUN_FIXED_BYTES..data_at).step_by(RUN_ROW_BYTES) {
        let end = data_at.saturating_add(u32_at(run, row + 1) as usize);
        let Some(data) = run.get(data_at..end) else { return };
        let crc = crc32fast::hash(data);
        run[row + 5..row + 9].copy_from_slice(&crc.to_le_bytes());
        data_at = end;
    }
}

/// An input that stands for these files, the opposite of what the harness does. Files with other
/// names than a log's, or longer than 64 KiB, are left out.
pub fn fuzz_input(reseal: bool, files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut out = vec![if reseal { RESEAL } else { 0 }];
    for (name, bytes) in files {
        let used = bytes.iter().rposition(|b| *b != 0).map_or(0, |last| last + 1);
        let kind = match name.as_str() {
            "preparing.tmp" => 2,
            name if name.starts_with("spare-") => 1,
            _ => 0,
        };
        let digits = name.trim_start_matches("spare-").split('.').next().unwrap_or_default();
        let number = u8::from_str_radix(digits, 16).unwrap_or(0);
        let (Ok(length), Ok(zeros)) = (u16::try_from(used), u16::try_from(bytes.len() - used))
        else {
            continue;
        };
        out.extend([kind, number]);
        out.extend(length.to_le_bytes());
        out.extend(zeros.to_le_bytes());
        out.extend(&bytes[..used]);
    }
    out
}

/// Opens the directory that `data` describes; whether it is a log. Panics when the log breaks a
/// promise: a log that opens reads back as it says, takes a batch, and then opens with the same
/// contents and that batch.
pub fn fuzz_recover(data: &[u8]) -> bool {
    let dir = Path::new("/wal");
    let disk = Arc::new(MemDisk::new(1));
    disk.create_dir_all(dir).expect("a disk in memory has room");
    for (name, bytes) in unpack(data) {
        // A name that comes twice keeps its first contents.
        if let Ok(file) = disk.open(&dir.join(name), OpenMode::CreateNew) {
            file.write_at(&[&bytes], 0).expect("a disk in memory has room");
            file.sync_data().expect("a disk in memory has room");
        }
    }
    let (mut wal, mut logs) = match Wal::open(disk.clone(), dir, OPTIONS) {
        Ok(opened) => opened,
        Err(StorageError::Corrupt { .. } | StorageError::Mismatch { .. }) => return false,
        Err(other) => panic!("neither damage nor somebody else's: {other}"),
    };
    for (group, log) in &logs {
        check_group(&wal, *group, log);
    }
    let group = logs.keys().next().copied().unwrap_or(GroupId::ROOT);
    let hard = HardState { term: Term(77), vote: NodeId(7), commit: LogIndex(7) };
    let batch = Batch { records: vec![Record::HardState { group, hard }] };
    logs.entry(group).or_default().hard = hard;
    wal.write(&batch).and_then(|()| wal.sync()).expect("a log that opens takes a batch");
    for _ in 0..8 {
        wal.prepare_spare().expect("a log that opens can be tidied");
    }
    drop(wal);
    disk.crash_with(CrashPlan { mode: CrashMode::None, torn: false });
    let (_, again) = Wal::open(disk, dir, OPTIONS).expect("a log that opened opens again");
    assert!(again == logs, "a log changed by itself: {again:?} is not {logs:?}");
    true
}

fn check_group(wal: &Wal, group: GroupId, log: &GroupLog) {
    let mut next = log.start.0.next();
    let mut read: Vec<Entry> = Vec::new();
    while next <= log.last {
        let some = wal.read(group, next, log.last, 200).expect("checked when it was opened");
        assert!(some.first().is_some_and(|e| e.index == next), "group {group}: no entry {next}");
        next = LogIndex(next.0 + some.len() as u64);
        read.extend(some);
    }
    // Nothing here is large enough to exceed what a tail may hold.
    assert!(read == log.tail, "group {group} reads back differently");
    let runs = read.chunk_by(|a, b| a.term == b.term);
    let terms: Vec<_> = runs.map(|run| (run[0].index, run[0].term)).collect();
    assert!(terms == log.terms, "group {group}: {terms:?} is not {:?}", log.terms);
}
