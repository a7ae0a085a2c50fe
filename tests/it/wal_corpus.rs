//! Replays the fuzzing corpus of `wal_recover`, and writes the part of it that is made by hand.

use bytes::Bytes;
use quorate::io::MemDisk;
use quorate::types::{
    ClusterId, Entry, EntryKind, GroupId, HardState, Incarnation, LogIndex, NodeId, Term,
};
use quorate::wal::{Batch, Record, Wal, WalIdentity, WalOptions, fuzz_input, fuzz_recover};
use std::path::{Path, PathBuf};
use std::sync::Arc;

type Files = Vec<(String, Vec<u8>)>;

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/wal_recover")
}

/// The names of the inputs made here, each with whether it is a log.
fn seeds() -> Vec<(&'static str, bool, Vec<u8>)> {
    let short = log(4, 0, 40);
    let long = log(14, 0, 150);
    let trimmed = log(30, 25, 100);
    let mut seeds = vec![
        ("empty", true, fuzz_input(false, &log(0, 0, 0))),
        ("one-segment", true, fuzz_input(false, &short)),
        ("one-segment-resealed", true, fuzz_input(true, &short)),
        ("several-segments", true, fuzz_input(false, &long)),
        ("several-segments-resealed", true, fuzz_input(true, &long)),
        ("trimmed-and-copied", true, fuzz_input(true, &trimmed)),
        ("nothing", false, fuzz_input(false, &Files::new())),
    ];
    let end = |files: &Files| files[0].1.iter().rposition(|b| *b != 0).expect("not all zeros");
    let mut torn = short.clone();
    let cut = end(&torn) - 10;
    torn[0].1[cut..].fill(0);
    seeds.push(("torn-tail", true, fuzz_input(false, &torn)));
    let mut damaged = short.clone();
    let middle = end(&damaged) / 2;
    damaged[0].1[middle] ^= 0x10;
    seeds.push(("damage-before-a-later-batch", false, fuzz_input(false, &damaged)));
    let mut missing = long.clone();
    missing.remove(1);
    seeds.push(("missing-segment", false, fuzz_input(false, &missing)));
    let mut unsealed = long.clone();
    unsealed.pop();
    seeds.push(("missing-newest-segment", false, fuzz_input(false, &unsealed)));
    let mut cut_short = long;
    cut_short[0].1.truncate(1000);
    seeds.push(("wrong-length", false, fuzz_input(false, &cut_short)));
    seeds
}

/// The files of a log of `batches` batches, of which the first `trim` entries are trimmed.
fn log(batches: u64, trim: u64, data_bytes: usize) -> Files {
    let (disk, dir) = (MemDisk::new(1), Path::new("/wal"));
    let identity =
        WalIdentity { cluster: ClusterId(1), node: NodeId(2), incarnation: Incarnation(3) };
    let options = WalOptions { segment_bytes: 1024, spare_segments: 1 };
    let mut wal = Wal::create(Arc::new(disk.clone()), dir, identity, options).expect("a new log");
    let entry = |term, index, kind, data: Vec<u8>| Entry {
        term: Term(term),
        index: LogIndex(index),
        kind,
        data: Bytes::from(data),
    };
    let (busy, slow) = (GroupId(1), GroupId(2));
    for index in 1..=batches {
        let hard = HardState { term: Term(index), vote: NodeId(2), commit: LogIndex(index - 1) };
        let data = vec![index as u8; data_bytes];
        let mut entries = vec![entry(index, index, EntryKind::Command, data)];
        if index % 5 == 0 {
            // Replaces the entry before.
            entries.insert(0, entry(index, index - 1, EntryKind::Empty, Vec::new()));
        }
        let mut records = vec![Record::Append { group: busy, entries }];
        match index {
            2 => records.push(Record::Append {
                group: slow,
                entries: (1..4).map(|i| entry(1, i, EntryKind::ConfChange, vec![9; 5])).collect(),
            }),
            3 => {
                let (index, term) = (LogIndex(7), Term(2));
                records.push(Record::LogStart { group: GroupId(3), index, term });
            }
            4 => records.push(Record::DropGroup { group: GroupId(3) }),
            _ => records.push(Record::HardState { group: busy, hard }),
        }
        wal.write(&Batch { records }).and_then(|()| wal.sync()).expect("a healthy disk");
    }
    if trim > 0 {
        let term = wal.read(busy, LogIndex(trim), LogIndex(trim), 1).expect("readable")[0].term;
        let records = vec![Record::Trim { group: busy, index: LogIndex(trim), term }];
        wal.write(&Batch { records }).and_then(|()| wal.sync()).expect("a healthy disk");
        while wal.prepare_spare().expect("a healthy disk") {}
    }
    let name = |path: &Path| path.file_name().expect("a file").to_string_lossy().into_owned();
    disk.files().iter().map(|p| (name(p), disk.contents(p).expect("listed"))).collect()
}

#[test]
fn every_input_of_the_corpus_replays() {
    if std::env::var_os("UPDATE_CORPUS").is_some() {
        std::fs::create_dir_all(corpus()).expect("the corpus folder");
        for (name, _, bytes) in seeds() {
            std::fs::write(corpus().join(name), bytes).expect("the corpus folder is writable");
        }
    }
    let mut replayed = 0;
    for file in std::fs::read_dir(corpus()).expect("the corpus is committed").flatten() {
        let bytes = std::fs::read(file.path()).expect("a readable input");
        fuzz_recover(&bytes);
        replayed += 1;
    }
    assert!(replayed >= 10, "{replayed} inputs only");
}

#[test]
fn the_inputs_made_by_hand_are_what_they_are_called_and_committed() {
    for (name, is_log, bytes) in seeds() {
        assert_eq!(fuzz_recover(&bytes), is_log, "{name}");
        let committed = std::fs::read(corpus().join(name)).unwrap_or_default();
        let advice = "UPDATE_CORPUS=1 cargo test --test it wal_corpus";
        assert!(committed == bytes, "{name} is not what the log writes today: {advice}");
    }
}

/// Every byte of every input changed a little, checksums made right: a poor fuzzer, but in every
/// test run.
#[test]
fn neighbours_of_the_corpus_are_opened_or_refused() {
    let mut logs = 0;
    for (name, _, bytes) in seeds() {
        let step = if name.starts_with("one-segment") { 1 } else { 7 };
        for at in (0..bytes.len()).step_by(step) {
            let mut changed = bytes.clone();
            changed[0] |= 1;
            changed[at] = changed[at].wrapping_add([1, 0x80, 0xff][at % 3]);
            logs += usize::from(fuzz_recover(&changed));
        }
    }
    assert!(logs > 100, "only {logs} neighbours are logs: checksums are not made right");
}
