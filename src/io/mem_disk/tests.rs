use super::*;
use crate::io::disk::{Disk, File, OpenMode};
use proptest::collection::vec;
use proptest::prelude::*;

const NONE: CrashPlan = CrashPlan { mode: CrashMode::None, torn: false };
const ALL: CrashPlan = CrashPlan { mode: CrashMode::All, torn: false };

fn disk() -> MemDisk {
    MemDisk::new(1)
}

fn create(disk: &MemDisk, path: &str) -> Arc<dyn File> {
    disk.open(Path::new(path), OpenMode::CreateNew).unwrap()
}

/// A file whose name and contents are durable.
fn create_durable(disk: &MemDisk, path: &str, bytes: &[u8]) -> Arc<dyn File> {
    let file = create(disk, path);
    file.write_at(&[bytes], 0).unwrap();
    file.sync_data().unwrap();
    disk.sync_dir(Path::new(path).parent().unwrap()).unwrap();
    file
}

#[derive(Clone, Debug)]
enum Op {
    Write { offset: u64, len: usize, byte: u8 },
    SetLen(u64),
    Allocate(u64),
    Sync,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (0_u64..9000, 0_usize..3000, any::<u8>())
            .prop_map(|(offset, len, byte)| Op::Write { offset, len, byte }),
        1 => (0_u64..12000).prop_map(Op::SetLen),
        1 => (0_u64..12000).prop_map(Op::Allocate),
        2 => Just(Op::Sync),
    ]
}

/// The same operation on a plain vector.
fn apply_to_model(model: &mut Vec<u8>, op: &Op) {
    match *op {
        Op::Write { offset, len, byte } if len > 0 => {
            let offset = offset as usize;
            model.resize(model.len().max(offset + len), 0);
            model[offset..offset + len].fill(byte);
        }
        Op::SetLen(len) => model.resize(len as usize, 0),
        Op::Allocate(len) => model.resize(model.len().max(len as usize), 0),
        Op::Write { .. } | Op::Sync => {}
    }
}

fn apply(file: &dyn File, op: &Op) {
    match *op {
        Op::Write { offset, len, byte } => {
            let data = vec![byte; len];
            let (a, b) = data.split_at(len / 3);
            file.write_at(&[a, b], offset).unwrap();
        }
        Op::SetLen(len) => file.set_len(len).unwrap(),
        Op::Allocate(len) => file.allocate(len).unwrap(),
        Op::Sync => file.sync_data().unwrap(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    /// Reads see what was written; a crash keeps all or nothing of it when told so, and whatever
    /// was synced in any mode.
    #[test]
    fn a_file_is_a_vector(ops in vec(op(), 0..25), seed in any::<u64>()) {
        let disk = MemDisk::new(seed);
        let file = create_durable(&disk, "/file", b"");
        let (mut model, mut synced) = (Vec::new(), Vec::new());
        let mut written_since = Vec::new();
        for op in &ops {
            apply(&*file, op);
            apply_to_model(&mut model, op);
            written_since.push(op.clone());
            if matches!(op, Op::Sync) {
                synced = model.clone();
                written_since.clear();
            }
            prop_assert_eq!(file.len().unwrap(), model.len() as u64);
        }
        prop_assert_eq!(&disk.contents("/file").unwrap(), &model);
        let mut tail = [0; 700];
        let at = model.len().saturating_sub(500);
        let read = file.read_at(&mut tail, at as u64).unwrap();
        prop_assert_eq!(&tail[..read], &model[at..]);

        prop_assert_eq!(&disk.fork().contents("/file").unwrap(), &synced);
        prop_assert_eq!(&disk.fork_crashed(ALL).contents("/file").unwrap(), &model);
        for mode in CrashMode::ALL {
            let left = disk.fork_crashed(CrashPlan { mode, torn: true }).contents("/file").unwrap();
            // Bytes that no operation since the sync has touched are as they were.
            for (i, byte) in left.iter().enumerate() {
                let touched = written_since.iter().any(|op| match *op {
                    Op::Write { offset, len, .. } => {
                        (offset as usize..offset as usize + len).contains(&i)
                    }
                    Op::SetLen(len) => i >= len as usize,
                    _ => false,
                });
                if !touched {
                    prop_assert_eq!(*byte, synced.get(i).copied().unwrap_or(0), "byte {}", i);
                }
            }
        }
        disk.crash_with(NONE);
        prop_assert!(file.len().is_err(), "a handle of before the crash");
        prop_assert_eq!(&disk.contents("/file").unwrap(), &synced);
    }

    #[test]
    fn one_seed_one_crash(ops in vec(op(), 0..25), seed in any::<u64>()) {
        let run = || {
            let disk = MemDisk::new(seed);
            let file = create(&disk, "/file");
            ops.iter().for_each(|op| apply(&*file, op));
            disk.crash();
            (disk.contents("/file"), disk.ops())
        };
        prop_assert_eq!(run(), run());
    }
}

/// What remains of three sectors A, B, C written by one write each, by how often.
fn outcomes(mode: CrashMode, torn: bool) -> BTreeSet<String> {
    let mut seen = BTreeSet::new();
    for seed in 0..300 {
        let disk = MemDisk::new(seed);
        let file = create_durable(&disk, "/f", &[b'.'; 3 * SECTOR_BYTES]);
        for (i, byte) in (*b"ABC").iter().enumerate() {
            file.write_at(&[&[*byte; SECTOR_BYTES]], (i * SECTOR_BYTES) as u64).unwrap();
        }
        disk.crash_with(CrashPlan { mode, torn });
        let bytes = disk.contents("/f").unwrap();
        let sector = |s: &[u8]| {
            if s.iter().all(|b| *b == s[0]) { char::from(s[0]) } else { '~' }
        };
        seen.insert(bytes.chunks(SECTOR_BYTES).map(sector).collect());
    }
    seen
}

#[test]
fn crash_modes_reach_the_states_they_name() {
    let all = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect::<BTreeSet<_>>();
    assert_eq!(outcomes(CrashMode::All, true), all(&["ABC"]));
    assert_eq!(outcomes(CrashMode::DataOnly, true), all(&["ABC"]));
    assert_eq!(outcomes(CrashMode::None, true), all(&["..."]));
    assert_eq!(outcomes(CrashMode::MetadataOnly, true), all(&["..."]));
    assert_eq!(outcomes(CrashMode::Prefix, false), all(&["...", "A..", "AB.", "ABC"]));
    assert_eq!(outcomes(CrashMode::Reverse, false), all(&["...", "..C", ".BC", "ABC"]));
    assert_eq!(outcomes(CrashMode::LastOnly, false), all(&["..C"]));
    assert_eq!(outcomes(CrashMode::Random, false).len(), 8);
    assert!(outcomes(CrashMode::Random, true).iter().any(|s| s.contains('~')));
}

#[test]
fn a_sector_never_holds_a_later_write_without_the_earlier_one() {
    for seed in 0..200 {
        let disk = MemDisk::new(seed);
        let file = create_durable(&disk, "/f", &[0; SECTOR_BYTES]);
        file.write_at(&[b"first"], 10).unwrap();
        file.write_at(&[b"second"], 100).unwrap();
        disk.crash_with(CrashPlan { mode: CrashMode::Random, torn: false });
        let bytes = disk.contents("/f").unwrap();
        assert!(bytes[100] == 0 || &bytes[10..15] == b"first");
    }
}

#[test]
fn length_and_contents_are_lost_apart() {
    let after = |mode| {
        let disk = disk();
        let file = create_durable(&disk, "/f", b"");
        file.write_at(&[b"data"], 0).unwrap();
        disk.crash_with(CrashPlan { mode, torn: false });
        disk.contents("/f").unwrap()
    };
    assert_eq!(after(CrashMode::MetadataOnly), [0; 4]);
    assert_eq!(after(CrashMode::DataOnly), b"");
    assert_eq!(after(CrashMode::All), b"data");
}

#[test]
fn names_need_their_directory_synced() {
    let disk = disk();
    disk.create_dir_all(Path::new("/a/b")).unwrap();
    let file = create(&disk, "/a/b/new");
    file.write_at(&[b"x"], 0).unwrap();
    file.sync_data().unwrap();
    assert_eq!(disk.list(Path::new("/a/b")).unwrap(), ["new"]);
    assert!(disk.fork().files().is_empty(), "the file was synced, its name was not");
    disk.sync_dir(Path::new("/a/b")).unwrap();
    assert_eq!(disk.fork().contents("/a/b/new").unwrap(), b"x");

    disk.rename(Path::new("/a/b/new"), Path::new("/a/b/old")).unwrap();
    assert_eq!(disk.list(Path::new("/a/b")).unwrap(), ["old"]);
    assert_eq!(disk.fork().files(), [Path::new("/a/b/new")]);
    disk.sync_dir(Path::new("/a")).unwrap();
    assert_eq!(disk.fork().files(), [Path::new("/a/b/new")], "another directory");
    disk.sync_dir(Path::new("/a/b")).unwrap();
    assert_eq!(disk.fork().files(), [Path::new("/a/b/old")]);

    disk.unlink(Path::new("/a/b/old")).unwrap();
    assert_eq!(file.len().unwrap(), 1, "an open file outlives its name");
    disk.crash_with(NONE);
    assert_eq!(disk.contents("/a/b/old").unwrap(), b"x", "the unlink was lost");
    disk.unlink(Path::new("/a/b/old")).unwrap();
    disk.sync_dir(Path::new("/a/b")).unwrap();
    assert_eq!(disk.state().inodes.len(), 0, "nothing leads to the file any more");
    assert_eq!(disk.list(Path::new("/")).unwrap(), ["a"]);
}

#[test]
fn renaming_over_a_file_shows_one_of_the_two() {
    for seed in 0..100 {
        let disk = MemDisk::new(seed);
        create_durable(&disk, "/f", b"old");
        let new = create(&disk, "/f.tmp");
        new.write_at(&[b"new"], 0).unwrap();
        new.sync_data().unwrap();
        disk.rename(Path::new("/f.tmp"), Path::new("/f")).unwrap();
        disk.crash();
        let bytes = disk.contents("/f").unwrap();
        assert!(bytes == b"old" || bytes == b"new", "{bytes:?}");
    }
}

#[test]
fn misuse_is_an_error() {
    let disk = disk();
    let kind = |result: Result<Arc<dyn File>, StorageError>| match result {
        Err(StorageError::Io { source, .. }) => source.kind(),
        other => panic!("{other:?}"),
    };
    let open = |path: &str, mode| kind(disk.open(Path::new(path), mode));
    assert_eq!(open("/none/f", OpenMode::CreateNew), io::ErrorKind::NotFound);
    assert_eq!(open("/f", OpenMode::ReadWrite), io::ErrorKind::NotFound);
    create(&disk, "/f");
    assert_eq!(open("/./x/../f", OpenMode::CreateNew), io::ErrorKind::AlreadyExists);
    let reader = disk.open(Path::new("/f"), OpenMode::Read).unwrap();
    assert!(reader.write_at(&[b"x"], 0).is_err());
    assert!(disk.list(Path::new("/none")).is_err());
    assert!(disk.unlink(Path::new("/none")).is_err());
    assert!(disk.rename(Path::new("/f"), Path::new("/none/f")).is_err());
    assert!(disk.create_dir_all(Path::new("/f/dir")).is_err());
    assert!(matches!(
        reader.read_exact_at(&mut [0; 1], 0),
        Err(StorageError::Corrupt { offset: 0, .. })
    ));
}

#[test]
fn power_fails_in_the_nth_operation() {
    let disk = disk();
    let file = create_durable(&disk, "/f", b"0000");
    let before = disk.ops().mutating;
    disk.set_crash_after(3);
    file.write_at(&[b"1111"], 0).unwrap();
    file.sync_data().unwrap();
    assert!(!disk.is_off());
    assert!(file.write_at(&[b"2222"], 0).is_err(), "may have happened, but never returned");
    assert!(disk.is_off());
    assert_eq!(disk.ops().mutating - before, 3);
    assert!(file.read_at(&mut [0; 4], 0).is_err());
    assert!(disk.open(Path::new("/f"), OpenMode::Read).is_err());
    assert!(disk.sync_dir(Path::new("/")).is_err());
    assert_eq!(disk.fork_crashed(ALL).contents("/f").unwrap(), b"2222");
    disk.crash_with(NONE);
    assert_eq!(disk.contents("/f").unwrap(), b"1111");
    disk.open(Path::new("/f"), OpenMode::ReadWrite).unwrap().write_at(&[b"3"], 0).unwrap();
}

#[test]
fn faults_come_when_they_are_due_and_poison() {
    let disk = disk();
    let (a, b) = (create_durable(&disk, "/a", b""), create_durable(&disk, "/b", b""));
    disk.inject(Fault::nth(FaultOp::Write, FaultKind::Io, 2).on("/a"));
    a.write_at(&[b"1"], 0).unwrap();
    b.write_at(&[b"1"], 0).unwrap();
    assert!(matches!(a.write_at(&[b"2"], 0), Err(StorageError::Io { .. })));
    assert!(matches!(a.sync_data(), Err(StorageError::Poisoned { .. })));
    b.write_at(&[b"2"], 0).unwrap();

    disk.inject(Fault::next(FaultOp::Allocate, FaultKind::NoSpace).forever());
    assert!(b.allocate(10).unwrap_err().is_no_space());
    assert!(b.allocate(10).unwrap_err().is_no_space());
    disk.clear_faults();
    b.allocate(10).unwrap();
    assert_eq!(b.len().unwrap(), 10);

    disk.inject(Fault::next(FaultOp::SyncDir, FaultKind::Io));
    assert!(disk.sync_dir(Path::new("/")).is_err());
    disk.sync_dir(Path::new("/")).unwrap();
}

#[test]
fn a_second_sync_after_a_failed_one_would_lie() {
    let lost = (0..50).any(|seed| {
        let disk = MemDisk::new(seed);
        let file = create_durable(&disk, "/f", b"old");
        file.write_at(&[b"new"], 0).unwrap();
        disk.inject(Fault::next(FaultOp::Sync, FaultKind::Io));
        assert!(file.sync_data().is_err());
        let again = disk.open(Path::new("/f"), OpenMode::ReadWrite).unwrap();
        let mut bytes = [0; 3];
        again.read_exact_at(&mut bytes, 0).unwrap();
        assert_eq!(&bytes, b"new", "the cache still shows it");
        again.sync_data().unwrap();
        disk.crash_with(ALL);
        disk.contents("/f").unwrap() == b"old"
    });
    assert!(lost);
}

#[test]
fn a_full_disk_refuses_growth_and_nothing_else() {
    let disk = disk();
    disk.set_capacity(Some(1000));
    let file = create_durable(&disk, "/f", &[1; 600]);
    assert_eq!(disk.free_bytes(Path::new("/")).unwrap(), 400);
    assert!(file.allocate(1001).unwrap_err().is_no_space());
    file.allocate(1000).unwrap();
    file.write_at(&[&[2; 1000]], 0).unwrap();
    let other = create(&disk, "/g");
    assert!(other.write_at(&[b"x"], 0).unwrap_err().is_no_space());
    assert!(matches!(other.len(), Err(StorageError::Poisoned { .. })));
    file.set_len(10).unwrap();
    create(&disk, "/h").write_at(&[&[3; 500]], 0).unwrap();
}

#[test]
fn damage_at_rest() {
    let disk = disk();
    let file = create_durable(&disk, "/f", &[0; 2048]);
    disk.flip_bit("/f", 8 * 100 + 3);
    disk.overwrite("/f", 200, b"rot");
    let mut bytes = [0; 2048];
    file.read_exact_at(&mut bytes, 0).unwrap();
    assert_eq!((bytes[100], &bytes[200..203]), (8, b"rot".as_slice()));
    assert_eq!(disk.fork().contents("/f").unwrap(), bytes);

    disk.make_unreadable("/f", 600, 1);
    file.read_exact_at(&mut bytes[..512], 0).unwrap();
    assert!(file.read_at(&mut bytes, 0).is_err());
    disk.crash_with(NONE);
    let file = disk.open(Path::new("/f"), OpenMode::ReadWrite).unwrap();
    assert!(file.read_at(&mut bytes[..1], 1000).is_err(), "the whole sector, after a restart too");
    file.write_at(&[&[5; 512]], 512).unwrap();
    file.read_exact_at(&mut bytes, 0).unwrap();
    disk.resize("/f", 7);
    assert_eq!(file.len().unwrap(), 7);
}

#[test]
fn locks_go_with_their_holder_or_the_power() {
    let disk = disk();
    let path = Path::new("/LOCK");
    let first = disk.lock(path).unwrap();
    assert!(matches!(disk.lock(path), Err(StorageError::Locked { .. })));
    drop(first);
    let second = disk.lock(path).unwrap();
    disk.crash();
    let third = disk.lock(path).unwrap();
    drop(second);
    assert!(disk.lock(path).is_err(), "a dead holder does not release its successor's lock");
    drop(third);
    disk.kill_process();
    disk.lock(path).unwrap();
}

#[test]
fn forks_go_their_own_way() {
    let disk = disk();
    let file = create_durable(&disk, "/f", &[7; 5000]);
    let fork = disk.fork();
    file.write_at(&[b"mine"], 0).unwrap();
    fork.open(Path::new("/f"), OpenMode::ReadWrite).unwrap().write_at(&[b"its"], 4998).unwrap();
    assert_eq!(&disk.contents("/f").unwrap()[..5], b"mine\x07");
    assert_eq!(fork.contents("/f").unwrap()[..4], [7; 4]);
    assert_eq!(fork.contents("/f").unwrap().len(), 5001);
    assert_eq!(disk.contents("/f").unwrap().len(), 5000);
    assert_eq!(disk.unsynced_bytes(), 4);
}
