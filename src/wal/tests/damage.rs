//! Rot, lost files and foreign files: told apart, named, and never served.

use super::model::Model;
use super::*;
use crate::types::StorageError;
use std::path::PathBuf;

/// A log of several segments, all needed; with the model before and after its last batch.
fn several_segments() -> (MemDisk, Model, Model) {
    let disk = MemDisk::new(1);
    let mut wal = create(&disk, tiny());
    let (mut before, mut after) = (Model::default(), Model::default());
    for index in 1..=12 {
        let data = vec![index as u8; 150];
        let mut records = vec![append(1, vec![entry(1, index, data)]), vote(2, index)];
        if index == 5 {
            records.push(append(3, vec![entry(2, 1, vec![]), entry(3, 2, vec![8; 30])]));
        }
        before = after.clone();
        after.apply(&Batch { records: records.clone() });
        put(&mut wal, records);
    }
    assert!(wal.segments().len() >= 3, "{:?}", wal.segments());
    (disk, before, after)
}

fn segment(sequence: u64) -> PathBuf {
    dir().join(format!("{sequence:016x}.wal"))
}

fn segments(disk: &MemDisk) -> Vec<PathBuf> {
    disk.files().into_iter().filter(|f| f.extension().is_some_and(|e| e == "wal")).collect()
}

fn open_error(disk: &MemDisk) -> StorageError {
    match Wal::open(Arc::new(disk.clone()), dir(), tiny()) {
        Ok((_, logs)) => panic!("opened: {logs:?}"),
        Err(error) => error,
    }
}

/// The file and offset that the error names.
fn corrupt(disk: &MemDisk) -> (PathBuf, u64) {
    match open_error(disk) {
        StorageError::Corrupt { path, offset, found, .. } => {
            assert!(found.contains("add it again"), "no advice in {found}");
            (path, offset)
        }
        other => panic!("not called damage: {other}"),
    }
}

#[test]
fn a_flipped_bit_anywhere_is_noticed_or_harmless() {
    let (disk, before, after) = several_segments();
    let (mut noticed, mut tail_dropped) = (0, 0);
    for file in segments(&disk) {
        let newest = segments(&disk).last() == Some(&file);
        for byte in 0..disk.contents(&file).unwrap().len() as u64 {
            let copy = disk.fork();
            copy.flip_bit(&file, byte * 8 + byte % 8);
            match Wal::open(Arc::new(copy), dir(), tiny()) {
                Ok((_, logs)) if logs == after.logs() => {}
                Ok((_, logs)) => {
                    assert!(newest, "{} at {byte}", file.display());
                    assert_eq!(logs, before.logs(), "{} at {byte}", file.display());
                    tail_dropped += 1;
                }
                Err(StorageError::Corrupt { path, offset, .. }) => {
                    assert_eq!(path, file);
                    assert!(offset <= byte, "damage at {byte} reported at {offset}");
                    noticed += 1;
                }
                Err(StorageError::Mismatch { .. }) => noticed += 1,
                Err(other) => panic!("{} at {byte}: {other}", file.display()),
            }
        }
    }
    assert!(noticed > 2000, "{noticed}");
    assert!(tail_dropped > 200, "{tail_dropped}");
}

#[test]
fn damage_before_a_later_batch_is_refused_where_it_is() {
    let disk = MemDisk::new(1);
    let options = WalOptions { segment_bytes: 1 << 16, spare_segments: 0 };
    let mut wal = create(&disk, options);
    let mut ends = vec![wal.segments()[0].used];
    for index in 1..=3 {
        put(&mut wal, vec![append(1, vec![entry(1, index, vec![index as u8; 700])])]);
        ends.push(wal.segments()[0].used);
    }
    for batch in 0..2 {
        let copy = disk.fork();
        copy.flip_bit(segment(1), (ends[batch] + 300) * 8);
        let (path, offset) = corrupt(&copy);
        assert_eq!(path, segment(1));
        assert!((ends[batch]..ends[batch + 1]).contains(&offset), "{offset} of {ends:?}");
    }
    // A later batch that is itself torn still proves that the one before it was durable.
    let copy = disk.fork();
    copy.flip_bit(segment(1), (ends[1] + 300) * 8);
    copy.flip_bit(segment(1), (ends[2] + 300) * 8);
    assert_eq!(corrupt(&copy).0, segment(1));
    // In the last batch it cannot be told from a torn tail.
    disk.flip_bit(segment(1), (ends[2] + 300) * 8);
    let (_, logs) = Wal::open(Arc::new(disk), dir(), options).unwrap();
    assert_eq!(logs[&group(1)].last, LogIndex(2));
}

#[test]
fn damage_at_the_end_of_an_older_segment_has_no_excuse() {
    let (disk, ..) = several_segments();
    let wal = Wal::open(Arc::new(disk.fork()), dir(), tiny()).unwrap().0;
    let used = wal.segments()[1].used;
    // The seal itself, and the batch before it.
    for back in [4, 80] {
        let copy = disk.fork();
        copy.flip_bit(segment(2), (used - back) * 8);
        assert_eq!(corrupt(&copy).0, segment(2));
    }
}

#[test]
fn a_lost_seal_is_damage_once_the_next_segment_is_in_use() {
    let disk = MemDisk::new(1);
    let mut wal = create(&disk, tiny());
    while wal.segments().len() < 2 {
        let index = wal.read(group(1), LogIndex(1), LogIndex(99), 9999).unwrap().len() as u64 + 1;
        put(&mut wal, vec![append(1, vec![entry(1, index, vec![7; 200])])]);
    }
    let seal = wal.segments()[0].used - crate::wal::batch::SEAL_BATCH_BYTES;
    let copy = disk.fork();
    copy.flip_bit(segment(1), (seal + 30) * 8);
    assert_eq!(corrupt(&copy).0, segment(1));
    // Even if all that is left of the batch behind it is its head.
    let start = Wal::open(Arc::new(disk.fork()), dir(), tiny()).unwrap().0.segments[1].start;
    copy.flip_bit(segment(2), (start + 60) * 8);
    assert_eq!(corrupt(&copy).0, segment(1));
    // Without it, the rotation was cut short.
    copy.flip_bit(segment(2), start * 8);
    let (wal, logs) = Wal::open(Arc::new(copy.clone()), dir(), tiny()).unwrap();
    assert_eq!(logs[&group(1)].last.0 as usize, logs[&group(1)].tail.len());
    drop(wal);
    Wal::open(Arc::new(copy), dir(), tiny()).unwrap();
}

#[test]
fn a_header_must_continue_the_segment_before() {
    let (disk, ..) = several_segments();
    // Offsets of: previous end, first batch, a group's term, its vote, commit, start and last.
    for word in [64, 72, 96, 104, 112, 120, 128, 136] {
        let copy = disk.fork();
        let mut bytes = disk.contents(segment(2)).unwrap();
        bytes[word] ^= 1;
        crate::wal::harness::reseal(&mut bytes);
        copy.overwrite(segment(2), 0, &bytes);
        assert_eq!(corrupt(&copy), (segment(2), 0), "word at {word}");
    }
}

#[test]
fn a_missing_segment_is_named_wherever_it_was() {
    let (disk, ..) = several_segments();
    for file in segments(&disk) {
        let copy = disk.fork();
        crate::io::Disk::unlink(&copy, &file).unwrap();
        assert_eq!(corrupt(&copy).0, file);
    }
    for file in segments(&disk) {
        crate::io::Disk::unlink(&disk, &file).unwrap();
    }
    assert_eq!(corrupt(&disk).0, dir());
}

#[test]
fn a_segment_of_the_wrong_length_is_refused() {
    let (disk, ..) = several_segments();
    for file in segments(&disk) {
        for length in [0, 50, 200, 1023, 1025, 4096] {
            let copy = disk.fork();
            copy.resize(&file, length);
            assert_eq!(corrupt(&copy).0, file, "{length}");
        }
    }
}

#[test]
fn a_file_of_another_log_is_refused() {
    let (disk, ..) = several_segments();
    let foreign = [
        ("cluster", WalIdentity { cluster: ClusterId(0xbad), ..identity() }),
        ("member", WalIdentity { node: NodeId(0xbad), ..identity() }),
        ("incarnation", WalIdentity { incarnation: Incarnation(0xbad), ..identity() }),
    ];
    for (name, id) in foreign {
        let other = MemDisk::new(2);
        let mut wal = Wal::create(Arc::new(other.clone()), dir(), id, tiny()).unwrap();
        for index in 1..=12 {
            put(&mut wal, vec![append(1, vec![entry(1, index, vec![7; 200])])]);
        }
        for sequence in [1, 2] {
            let copy = disk.fork();
            copy.overwrite(segment(sequence), 0, &other.contents(segment(sequence)).unwrap());
            match open_error(&copy) {
                StorageError::Mismatch { path, what, .. } => {
                    assert_eq!((path, what), (segment(sequence), name));
                }
                error => panic!("{error}"),
            }
        }
    }
}

#[test]
fn a_foreign_newest_segment_does_not_make_ours_superfluous() {
    let (disk, ..) = several_segments();
    let other = MemDisk::new(2);
    let id = WalIdentity { cluster: ClusterId(0xbad), ..identity() };
    let mut wal = Wal::create(Arc::new(other.clone()), dir(), id, tiny()).unwrap();
    for index in 1..=40 {
        put(&mut wal, vec![append(1, vec![entry(1, index, vec![7; 200])]), trim(1, index - 1, 1)]);
    }
    let newest = wal.segments().pop().unwrap().sequence;
    let bytes = other.contents(segment(newest)).unwrap();
    let file = crate::io::Disk::open(&disk, &segment(newest), crate::io::OpenMode::CreateNew);
    file.unwrap().write_at(&[&bytes], 0).unwrap();
    let before = disk.files();
    open_error(&disk);
    assert_eq!(disk.files(), before, "nothing is removed");
}

#[test]
fn a_segment_under_another_name_is_refused() {
    let (disk, ..) = several_segments();
    let copy = disk.fork();
    copy.overwrite(segment(1), 0, &disk.contents(segment(2)).unwrap());
    assert!(matches!(open_error(&copy), StorageError::Mismatch { .. }));
}

#[test]
fn a_damaged_entry_is_not_served() {
    let disk = MemDisk::new(1);
    let mut wal = create(&disk, tiny());
    let batch = vec![entry(1, 1, vec![7; 100]), entry(1, 2, vec![8; 100])];
    put(&mut wal, vec![append(1, batch)]);
    let bytes = disk.contents(segment(1)).unwrap();
    let at = bytes.windows(100).position(|w| w == [8; 100]).unwrap() as u64;
    disk.flip_bit(segment(1), (at + 50) * 8);
    assert_eq!(wal.read(group(1), LogIndex(1), LogIndex(1), 9999).unwrap().len(), 1);
    let refused = wal.read(group(1), LogIndex(1), LogIndex(2), 9999).unwrap_err();
    assert!(matches!(refused, StorageError::Corrupt { offset, .. } if offset == at), "{refused}");
}
