//! Power failures and failing disks.

use super::model::Model;
use super::work::{Mix, random_batch};
use super::*;
use crate::io::mem_disk::{CrashMode, CrashPlan, Fault, FaultKind, FaultOp};
use crate::types::StorageError;
use crate::types::prng::Prng;

/// What a run has been told, for comparison with what a restart finds.
struct Run {
    /// After the last batch that was synced.
    synced: Model,
    /// After the batch that was being written or synced, if there was one.
    written: Model,
}

/// Works until the disk fails or `steps` are done.
fn work(wal: &mut Wal, run: &mut Run, prng: &mut Prng, mix: Mix, steps: u64) -> bool {
    for _ in 0..steps {
        if prng.chance(1, 6) {
            if wal.prepare_spare().is_err() {
                return false;
            }
            continue;
        }
        let batch = random_batch(prng, mix, &run.synced);
        run.written = run.synced.clone();
        run.written.apply(&batch);
        if wal.write(&batch).is_err() {
            return false;
        }
        if prng.chance(1, 4) && wal.prepare_spare().is_err() {
            return false;
        }
        if wal.sync().is_err() {
            return false;
        }
        run.synced = run.written.clone();
    }
    true
}

/// Opens after a crash and settles which of the two allowed outcomes it was.
fn recover(disk: &MemDisk, options: WalOptions, run: &mut Run, what: &str) -> Wal {
    let (wal, logs) =
        Wal::open(Arc::new(disk.clone()), dir(), options).unwrap_or_else(|e| panic!("{what}: {e}"));
    if logs == run.written.logs() {
        run.synced = run.written.clone();
    } else {
        assert_eq!(logs, run.synced.logs(), "{what}");
        run.written = run.synced.clone();
    }
    run.synced.check_reads(&wal);
    wal
}

/// Crashes in the `crash_after`th operation, again a little later during or after recovery, then
/// goes on. Returns whether the workload was long enough to reach the first crash.
fn crash_at(seed: u64, crash_after: u64, options: WalOptions, mix: Mix) -> bool {
    let disk = MemDisk::new(seed ^ crash_after << 32);
    let mut prng = Prng::stream(seed, "wal crash");
    let mut run = Run { synced: Model::default(), written: Model::default() };
    let mut wal = create(&disk, options);
    disk.set_crash_after(crash_after);
    if work(&mut wal, &mut run, &mut prng, mix, 40) {
        return false;
    }
    let what = format!("seed {seed}, operation {crash_after}");
    assert!(disk.is_off(), "{what}: an error without a cause");
    drop(wal);
    disk.crash();
    let mut prng = Prng::stream(seed ^ crash_after << 32, "after the crash");
    // A second crash, which may hit recovery itself.
    disk.set_crash_after(prng.between(1, 12));
    if let Ok((mut wal, _)) = Wal::open(Arc::new(disk.clone()), dir(), options) {
        // Not crashed yet: settle what was found, then run into it.
        let found = Run { synced: found(&wal, &run), written: Model::default() };
        run = Run { written: found.synced.clone(), synced: found.synced };
        work(&mut wal, &mut run, &mut prng, mix, 20);
    }
    disk.crash();
    let mut wal = recover(&disk, options, &mut run, &what);
    assert!(work(&mut wal, &mut run, &mut prng, mix, 6), "{what}");
    drop(wal);
    disk.crash_with(CrashPlan { mode: CrashMode::None, torn: false });
    recover(&disk, options, &mut run, &what);
    true
}

/// Which of the two allowed states an open log holds.
fn found(wal: &Wal, run: &Run) -> Model {
    for model in [&run.written, &run.synced] {
        let logs: Vec<_> = wal.groups.keys().map(|id| wal.group_log(*id).unwrap()).collect();
        let same_groups = wal.groups.keys().eq(model.groups.keys());
        if same_groups && logs == model.logs().into_values().collect::<Vec<_>>() {
            return model.clone();
        }
    }
    panic!("the log is neither with nor without the un-synced batch");
}

fn crash_everywhere(seed: u64, options: WalOptions, mix: Mix) {
    let mut crashes = 0;
    while crash_at(seed, crashes + 1, options, mix) {
        crashes += 1;
    }
    assert!(crashes > 40, "the workload is too short to be a test: {crashes} operations");
}

#[test]
fn a_crash_at_any_operation_loses_nothing_synced() {
    for seed in 0..6 {
        let options = WalOptions { segment_bytes: 700 + seed * 200, spare_segments: 2 };
        crash_everywhere(seed, options, Mix { groups: 4, data_bytes_max: 120, trims: 25 });
    }
}

#[test]
fn a_crash_at_any_operation_with_large_batches_and_without_spares() {
    for seed in 10..13 {
        let options = WalOptions { segment_bytes: 3000, spare_segments: 0 };
        crash_everywhere(seed, options, Mix { groups: 2, data_bytes_max: 1500, trims: 15 });
    }
}

/// A process works until it is killed in its `op`th operation; the cache keeps what it wrote. None
/// where the work ends before that.
fn killed_in(op: u64, seed: u64, options: WalOptions, mix: Mix) -> Option<(MemDisk, Run, Prng)> {
    let disk = MemDisk::new(op);
    let mut prng = Prng::stream(seed, "wal kill");
    let mut run = Run { synced: Model::default(), written: Model::default() };
    let mut wal = create(&disk, options);
    disk.set_crash_after(op);
    if work(&mut wal, &mut run, &mut prng, mix, 60) {
        return None;
    }
    drop(wal);
    disk.kill_process();
    Some((disk, run, prng))
}

/// The process is killed in some operation and keeps what the cache holds; it starts again, and
/// then the power fails. What it found at its start must still be there.
#[test]
fn what_a_restarted_process_found_survives_a_power_failure() {
    let options = WalOptions { segment_bytes: 900, spare_segments: 1 };
    let mix = Mix { groups: 3, data_bytes_max: 120, trims: 25 };
    let mut op = 1;
    loop {
        let Some((disk, mut run, _)) = killed_in(op, 7, options, mix) else { break };
        let mut wal = recover(&disk, options, &mut run, &format!("killed in operation {op}"));
        if op % 2 == 0 {
            while wal.prepare_spare().unwrap() {}
        }
        drop(wal);
        disk.crash_with(CrashPlan { mode: CrashMode::None, torn: false });
        let (_, logs) = Wal::open(Arc::new(disk), dir(), options).unwrap();
        assert_eq!(logs, run.synced.logs(), "killed in operation {op}");
        op += 1;
    }
    assert!(op > 40, "the workload is too short to be a test: {op} operations");
}

#[test]
fn a_crash_while_a_log_is_created_leaves_none_or_all_of_it() {
    let mut op = 1;
    loop {
        let disk = MemDisk::new(op);
        disk.set_crash_after(op);
        let arc = Arc::new(disk.clone());
        let created = Wal::create(arc.clone(), dir(), identity(), tiny()).is_ok();
        disk.crash();
        if Wal::exists(&disk, dir()).unwrap() {
            let (wal, logs) = Wal::open(arc, dir(), tiny()).unwrap();
            assert_eq!((*wal.identity(), logs.len()), (identity(), 0));
        } else {
            assert!(!created);
            Wal::create(arc, dir(), identity(), tiny()).unwrap();
        }
        if created {
            break;
        }
        op += 1;
    }
    assert!(op > 5);
}

#[test]
fn a_torn_batch_is_dropped_and_its_remains_never_replay() {
    let options = WalOptions { segment_bytes: 1 << 16, spare_segments: 0 };
    for seed in 0..300 {
        let disk = MemDisk::new(seed);
        let mut prng = Prng::stream(seed, "torn");
        let mut wal = create(&disk, options);
        let mut run = Run { synced: Model::default(), written: Model::default() };
        let mix = Mix { groups: 2, data_bytes_max: 900, trims: 0 };
        for _ in 0..4 {
            work(&mut wal, &mut run, &mut prng, mix, 2);
            // Several attempts at the same batch number, of different sizes.
            let batch = random_batch(&mut prng, mix, &run.synced);
            run.written.apply(&batch);
            wal.write(&batch).unwrap();
            disk.crash();
            wal = recover(&disk, options, &mut run, &format!("seed {seed}"));
        }
    }
}

#[test]
fn old_bytes_of_a_recycled_segment_never_replay() {
    let options = WalOptions { segment_bytes: 2048, spare_segments: 4 };
    let disk = MemDisk::new(1);
    let mut wal = create(&disk, options);
    let mut model = Model::default();
    let mut recycled = 0;
    for round in 0..60 {
        // All batches have one size, so that old ones lie just where new ones would be looked for.
        let index = round + 1;
        let mut records = vec![append(1, vec![entry(1, index, vec![round as u8; 200])])];
        if round > 0 {
            records.push(trim(1, index - 1, 1));
        }
        model.apply(&Batch { records: records.clone() });
        put(&mut wal, records);
        wal.prepare_spare().unwrap();
        let last = wal.segments().pop().unwrap();
        let file = dir().join(format!("{:016x}.wal", last.sequence));
        let behind = disk.contents(file).unwrap().split_off(last.used as usize);
        recycled += u64::from(behind.windows(4).any(|w| w == b"BTCH"));
        let copy = disk.fork();
        let (_, logs) = Wal::open(Arc::new(copy), dir(), options).unwrap();
        assert_eq!(logs, model.logs());
    }
    assert!(recycled > 20, "old batches lay behind new ones in {recycled} rounds only");
}

#[test]
fn a_failed_write_or_sync_is_the_last_word() {
    for (op, kind) in [
        (FaultOp::Write, FaultKind::Io),
        (FaultOp::Write, FaultKind::NoSpace),
        (FaultOp::Sync, FaultKind::Io),
    ] {
        let disk = MemDisk::new(1);
        let mut wal = create(&disk, tiny());
        put(&mut wal, vec![vote(1, 1)]);
        disk.inject(Fault::next(op, kind));
        let batch = Batch { records: vec![vote(1, 2)] };
        let failed = wal.write(&batch).and_then(|()| wal.sync());
        assert!(matches!(failed, Err(StorageError::Io { .. })), "{failed:?}");
        for again in [wal.write(&batch), wal.sync(), wal.prepare_spare().map(|_| ())] {
            assert!(matches!(again, Err(StorageError::Poisoned { .. })), "{again:?}");
        }
        disk.crash();
        let (_, logs) = Wal::open(Arc::new(disk), dir(), tiny()).unwrap();
        assert!((1..=2).contains(&logs[&group(1)].hard.term.0));
    }
}

#[test]
fn a_full_disk_stops_preparing_but_not_writing() {
    let disk = MemDisk::new(1);
    let options = WalOptions { segment_bytes: 64 << 10, spare_segments: 1 };
    let mut wal = create(&disk, options);
    disk.set_capacity(Some(100 << 10));
    for _ in 0..3 {
        let refused = wal.prepare_spare().unwrap_err();
        assert!(refused.is_no_space(), "{refused}");
    }
    assert_eq!(disk.files().len(), 1, "what was begun is given back");
    put(&mut wal, vec![append(1, vec![entry(1, 1, vec![7; 40 << 10])])]);
    // The segment is full now, and there is no room for another: that is an error.
    let batch = Batch { records: vec![append(1, vec![entry(1, 2, vec![7; 40 << 10])])] };
    assert!(wal.write(&batch).unwrap_err().is_no_space());
    assert!(matches!(wal.write(&batch), Err(StorageError::Poisoned { .. })));
    disk.set_capacity(None);
    drop(wal);
    let (mut wal, logs) = Wal::open(Arc::new(disk), dir(), options).unwrap();
    assert_eq!(logs[&group(1)].last, LogIndex(1));
    put(&mut wal, batch.records);
    while wal.prepare_spare().unwrap() {}
}

#[test]
fn what_a_failed_sync_left_in_the_cache_is_not_relied_on() {
    let disk = MemDisk::new(1);
    let mut wal = create(&disk, tiny());
    put(&mut wal, vec![append(1, vec![entry(1, 1, "kept")])]);
    wal.write(&Batch { records: vec![append(1, vec![entry(1, 2, "in doubt")])] }).unwrap();
    disk.inject(Fault::next(FaultOp::Sync, FaultKind::Io));
    assert!(wal.sync().is_err());
    drop(wal);
    // The process is started again; the machine, and with it the cache, was never down.
    disk.kill_process();
    let (wal, logs) = Wal::open(Arc::new(disk.clone()), dir(), tiny()).unwrap();
    drop(wal);
    disk.crash_with(CrashPlan { mode: CrashMode::None, torn: false });
    let (_, after) = Wal::open(Arc::new(disk.clone()), dir(), tiny()).unwrap();
    assert_eq!(after, logs, "what was found once is found again");
}

/// A process is killed in some operation, the next one's start meets an error of the disk, and the
/// one after that finds what they left in the cache. Then the power fails.
#[test]
fn what_a_start_finds_behind_a_failed_start_survives_a_power_failure() {
    let options = WalOptions { segment_bytes: 900, spare_segments: 1 };
    let mix = Mix { groups: 3, data_bytes_max: 120, trims: 25 };
    for (hit, nth) in [
        (FaultOp::Sync, 1),
        (FaultOp::Sync, 2),
        (FaultOp::SyncDir, 1),
        (FaultOp::SyncDir, 2),
        (FaultOp::Write, 1),
        (FaultOp::Write, 2),
        (FaultOp::Create, 1),
        (FaultOp::Rename, 1),
    ] {
        let fault = Fault::nth(hit, FaultKind::Io, nth);
        let (mut op, mut failed) = (1, 0);
        loop {
            let Some((disk, mut run, mut prng)) = killed_in(op, 8, options, mix) else { break };
            disk.inject(fault.clone());
            failed += u64::from(Wal::open(Arc::new(disk.clone()), dir(), options).is_err());
            disk.clear_faults();
            disk.kill_process();
            let what = format!("killed in operation {op}, then {fault:?}");
            drop(recover(&disk, options, &mut run, &what));
            disk.crash_with(CrashPlan { mode: CrashMode::None, torn: false });
            let (mut wal, logs) = Wal::open(Arc::new(disk.clone()), dir(), options)
                .unwrap_or_else(|error| panic!("{what}: {error}"));
            assert_eq!(logs, run.synced.logs(), "{what}");
            assert!(work(&mut wal, &mut run, &mut prng, mix, 6), "{what}");
            op += 1;
        }
        assert!(op > 40, "the workload is too short to be a test: {op} operations");
        assert!(failed > 0, "{fault:?} never hit a start");
    }
}
