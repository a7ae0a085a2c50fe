//! Random work without crashes.

use super::model::{Model, ModelGroup};
use super::*;
use crate::types::prng::Prng;
use crate::wal::GroupLog;
use proptest::prelude::*;
use std::collections::BTreeMap;

/// What a workload looks like.
#[derive(Clone, Copy, Debug)]
pub struct Mix {
    pub groups: u64,
    pub data_bytes_max: u64,
    /// Of 100 records, how many trim or restart a log.
    pub trims: u64,
}

/// A batch that continues the log of `model`.
pub fn random_batch(prng: &mut Prng, mix: Mix, model: &Model) -> Batch {
    let mut after = model.clone();
    let mut records = Vec::new();
    for _ in 0..prng.between(1, 4) {
        let id = group(prng.between(1, mix.groups));
        let log = after.groups.get(&id).cloned().unwrap_or_default();
        let record = random_record(prng, mix, id, &log, after.groups.contains_key(&id));
        let record = Batch { records: vec![record] };
        after.apply(&record);
        records.extend(record.records);
    }
    Batch { records }
}

fn random_record(prng: &mut Prng, mix: Mix, id: GroupId, log: &ModelGroup, known: bool) -> Record {
    let roll = prng.below(100);
    if roll < mix.trims && known && prng.chance(7, 8) {
        let index = LogIndex(prng.between(log.start.0.0, log.last().0));
        return Record::Trim { group: id, index, term: log.term(index) };
    }
    if roll < mix.trims {
        let index = LogIndex(log.last().0 + prng.below(20));
        return Record::LogStart { group: id, index, term: Term(prng.below(9)) };
    }
    match prng.below(20) {
        0 if prng.chance(1, 3) => Record::DropGroup { group: id },
        0..=3 => {
            let (term, vote) = (Term(prng.below(50)), NodeId(prng.below(4)));
            let hard = HardState { term, vote, commit: log.last() };
            Record::HardState { group: id, hard }
        }
        _ => {
            let first = match prng.below(6) {
                0 => prng.between(log.start.0.0 + 1, log.last().0 + 1),
                _ => log.last().0 + 1,
            };
            let most = if prng.chance(1, 8) { 20 } else { 4 };
            let count = prng.below(most);
            let mut term = 1 + first / 10;
            let entries = (first..first + count).map(|index| {
                term += prng.below(8) / 7;
                let data = random_data(prng, mix.data_bytes_max);
                entry(term, index, data)
            });
            Record::Append { group: id, entries: entries.collect() }
        }
    }
}

fn random_data(prng: &mut Prng, bytes_max: u64) -> Vec<u8> {
    let bytes = prng.below(bytes_max + 1);
    let byte = prng.next_u64() as u8;
    (0..bytes).map(|i| byte.wrapping_add(i as u8)).collect()
}

fn run(seed: u64, steps: u64, mix: Mix, options: WalOptions) {
    let disk = MemDisk::new(seed);
    let mut prng = Prng::stream(seed, "wal work");
    let mut wal = create(&disk, options);
    let mut model = Model::default();
    for _ in 0..steps {
        match prng.below(12) {
            0 => {
                drop(wal);
                if prng.chance(1, 2) {
                    disk.kill_process();
                }
                let (opened, logs) = Wal::open(Arc::new(disk.clone()), dir(), options).unwrap();
                assert_eq!(logs, model.logs());
                wal = opened;
            }
            1 => {
                wal.prepare_spare().unwrap();
            }
            2 => model.check_reads(&wal),
            _ => {
                let batch = random_batch(&mut prng, mix, &model);
                wal.write(&batch).unwrap();
                model.apply(&batch);
                if prng.chance(3, 4) {
                    wal.sync().unwrap();
                }
            }
        }
    }
    wal.sync().unwrap();
    model.check_reads(&wal);
    let (_, logs) = Wal::open(Arc::new(disk), dir(), options).unwrap();
    assert_eq!(logs, model.logs());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..Default::default() })]

    #[test]
    fn the_log_holds_what_a_vec_per_group_holds(
        seed in any::<u64>(),
        groups in 1u64..6,
        data_bytes_max in prop_oneof![Just(0u64), Just(40), Just(300), Just(2000)],
        trims in prop_oneof![Just(0u64), Just(5), Just(30)],
        segment_bytes in prop_oneof![Just(64u64), Just(600), Just(1024), Just(4096), Just(1 << 16)],
        spare_segments in 0usize..4,
    ) {
        let mix = Mix { groups, data_bytes_max, trims };
        run(seed, 80, mix, WalOptions { segment_bytes, spare_segments });
    }
}

fn reopen(disk: &MemDisk, options: WalOptions) -> (Wal, BTreeMap<GroupId, GroupLog>) {
    Wal::open(Arc::new(disk.clone()), dir(), options).unwrap()
}

#[test]
fn an_empty_log_opens_empty() {
    let disk = MemDisk::new(1);
    assert!(!Wal::exists(&disk, dir()).unwrap());
    drop(create(&disk, tiny()));
    assert!(Wal::exists(&disk, dir()).unwrap());
    let (wal, logs) = reopen(&disk, tiny());
    assert_eq!((wal.identity(), logs.len()), (&identity(), 0));
    let again = Wal::create(Arc::new(disk), dir(), identity(), tiny());
    assert!(again.is_err(), "a log is never created over another");
}

#[test]
fn one_write_and_one_sync_per_batch() {
    let disk = MemDisk::new(1);
    let mut wal = create(&disk, WalOptions { segment_bytes: 1 << 20, spare_segments: 0 });
    let before = disk.ops();
    let mut large = vec![entry(1, 1, vec![1; 100_000]), entry(1, 2, vec![])];
    large.extend((3..50).map(|i| entry(1, i, vec![2; 300])));
    put(&mut wal, vec![append(1, large), vote(2, 7), append(3, vec![entry(1, 1, vec![3; 9])])]);
    let after = disk.ops();
    assert_eq!(after.writes - before.writes, 1);
    assert_eq!(after.syncs - before.syncs, 1);
    assert_eq!(after.mutating - before.mutating, 2);
    put(&mut wal, vec![]);
    assert_eq!(disk.ops().mutating, after.mutating, "an empty batch costs nothing");
}

#[test]
fn a_second_batch_waits_for_the_first_ones_sync() {
    let disk = MemDisk::new(1);
    let mut wal = create(&disk, WalOptions { segment_bytes: 1 << 16, spare_segments: 0 });
    let before = disk.ops();
    for term in 1..4 {
        wal.write(&Batch { records: vec![vote(1, term)] }).unwrap();
    }
    let after = disk.ops();
    assert_eq!((after.writes - before.writes, after.syncs - before.syncs), (3, 2));
}

#[test]
fn a_batch_larger_than_a_segment_gets_one_of_its_own() {
    let disk = MemDisk::new(1);
    let mut wal = create(&disk, tiny());
    put(&mut wal, vec![append(1, vec![entry(1, 1, vec![6; 9])])]);
    put(&mut wal, vec![append(1, vec![entry(1, 2, vec![7; 50_000]), entry(1, 3, vec![8; 9])])]);
    put(&mut wal, vec![append(1, vec![entry(1, 4, vec![9; 9])])]);
    let lengths: Vec<u64> = wal.segments().iter().map(|s| s.bytes).collect();
    assert_eq!(lengths.len(), 3, "{lengths:?}");
    assert!(lengths[1] > 50_000 && lengths[0] == 1024 && lengths[2] == 1024, "{lengths:?}");
    let (_, logs) = reopen(&disk, tiny());
    let tail = &logs[&group(1)].tail;
    assert_eq!(tail.iter().map(|e| e.data.len()).collect::<Vec<_>>(), [9, 50_000, 9, 9]);
}

#[test]
fn trimmed_segments_are_recycled_or_removed() {
    let disk = MemDisk::new(1);
    let mut wal = create(&disk, tiny());
    for index in 1..=100 {
        put(&mut wal, vec![append(1, vec![entry(1, index, vec![7; 100])])]);
    }
    assert!(wal.segments().len() > 10);
    let tail = wal.tail_bytes();
    put(&mut wal, vec![trim(1, 95, 1)]);
    while wal.prepare_spare().unwrap() {}
    assert!(wal.segments().len() <= 3, "{:?}", wal.segments());
    assert!(wal.tail_bytes() < tail / 5);
    let files = disk.files();
    let spares = files.iter().filter(|f| f.to_string_lossy().contains("spare-")).count();
    assert_eq!(spares, 2, "{files:?}");
    assert_eq!(files.len(), wal.segments().len() + spares, "{files:?}");
    let (_, logs) = reopen(&disk, tiny());
    assert_eq!((logs[&group(1)].start.0.0, logs[&group(1)].last.0), (95, 100));
}

#[test]
fn a_rotation_takes_a_spare_and_fills_nothing() {
    let disk = MemDisk::new(1);
    let options = WalOptions { segment_bytes: 1 << 20, spare_segments: 1 };
    let mut wal = create(&disk, options);
    while wal.prepare_spare().unwrap() {}
    put(&mut wal, vec![append(1, vec![entry(1, 1, vec![7; 600 << 10])])]);
    let before = disk.ops();
    put(&mut wal, vec![append(1, vec![entry(1, 2, vec![7; 600 << 10])])]);
    let after = disk.ops();
    assert_eq!(wal.segments().len(), 2);
    assert!(after.written_bytes - before.written_bytes < 601 << 10);
    assert_eq!(after.creates, before.creates);
}

#[test]
fn a_quiet_groups_vote_outlives_the_segment_it_was_written_to() {
    let disk = MemDisk::new(1);
    let mut wal = create(&disk, tiny());
    put(&mut wal, vec![vote(7, 33)]);
    for index in 1..=200 {
        put(&mut wal, vec![append(1, vec![entry(1, index, vec![7; 100])]), trim(1, index - 1, 1)]);
    }
    assert!(wal.segments()[0].sequence > 10);
    let (_, logs) = reopen(&disk, tiny());
    assert_eq!(logs[&group(7)].hard.term, Term(33));
}

#[test]
fn a_slow_group_does_not_hold_the_log() {
    let disk = MemDisk::new(1);
    let mut wal = create(&disk, tiny());
    let slow: Vec<Entry> = (1..=10).map(|i| entry(1 + i / 4, i, vec![i as u8; 20])).collect();
    put(&mut wal, vec![append(7, slow.clone())]);
    for index in 1..=600 {
        put(&mut wal, vec![append(1, vec![entry(1, index, vec![7; 100])]), trim(1, index - 1, 1)]);
        assert!(wal.segments().len() < 10, "{:?}", wal.segments());
        if index % 50 == 0 {
            assert_eq!(wal.read(group(7), LogIndex(1), LogIndex(10), 1 << 20).unwrap(), slow);
        }
    }
    // The copies are entries like any other: they can be replaced and trimmed.
    put(&mut wal, vec![append(7, vec![entry(9, 8, vec![99])]), trim(7, 2, 1)]);
    let (_, logs) = reopen(&disk, tiny());
    let log = &logs[&group(7)];
    assert_eq!(log.tail[..5], slow[2..7]);
    assert_eq!((log.last, log.tail[5].data[0]), (LogIndex(8), 99));
    assert_eq!(log.terms, [(3, 1), (4, 2), (8, 9)].map(|(i, t)| (LogIndex(i), Term(t))));
}

#[test]
fn upkeep_comes_to_an_end() {
    for seed in 0..20 {
        let disk = MemDisk::new(seed);
        let mut prng = Prng::stream(seed, "upkeep");
        let segment_bytes = prng.between(200, 3000);
        let mut wal = create(&disk, WalOptions { segment_bytes, spare_segments: 1 });
        let mut model = Model::default();
        let mix = Mix { groups: 12, data_bytes_max: prng.below(200), trims: 25 };
        for _ in 0..150 {
            let batch = random_batch(&mut prng, mix, &model);
            put(&mut wal, batch.records.clone());
            model.apply(&batch);
        }
        let mut steps = 0;
        while wal.prepare_spare().unwrap() {
            steps += 1;
            assert!(steps < 2000, "seed {seed}: {:?}", wal.segments());
        }
        model.check_reads(&wal);
    }
}

#[test]
fn upkeep_leaves_the_callers_sync_alone() {
    let disk = MemDisk::new(1);
    let mut wal = create(&disk, WalOptions { segment_bytes: 1024, spare_segments: 0 });
    for index in 1..=20 {
        put(&mut wal, vec![append(1, vec![entry(1, index, vec![7; 100])])]);
    }
    wal.write(&Batch { records: vec![trim(1, 19, 1)] }).unwrap();
    let before = disk.ops().mutating;
    assert!(!wal.prepare_spare().unwrap());
    assert_eq!(disk.ops().mutating, before);
    wal.sync().unwrap();
    while wal.prepare_spare().unwrap() {}
    assert_eq!(wal.segments().len(), 1);
}

#[test]
fn a_log_can_be_handed_to_another_thread() {
    fn check<T: Send + Sync>() {}
    check::<Wal>();
}

#[test]
fn the_tail_given_back_is_bounded() {
    let disk = MemDisk::new(1);
    let options = WalOptions { segment_bytes: 1 << 20, spare_segments: 0 };
    let mut wal = create(&disk, options);
    let data = Bytes::from(vec![7; 1 << 20]);
    for index in 1..=20 {
        put(&mut wal, vec![append(1, vec![entry(index, index, data.clone())])]);
    }
    drop(wal);
    let (wal, logs) = reopen(&disk, options);
    let log = &logs[&group(1)];
    assert_eq!((log.last, log.terms.len()), (LogIndex(20), 20));
    let cost: usize = log.tail.iter().map(Entry::cost).sum();
    assert!(cost <= crate::types::limits::LOG_CACHE_BYTES_MAX);
    assert_eq!((log.tail.len(), log.tail[14].index), (15, LogIndex(20)));
    assert_eq!(wal.read(group(1), LogIndex(1), LogIndex(20), 1).unwrap().len(), 1);
}

#[test]
#[should_panic(expected = "do not continue the log")]
fn a_gap_is_the_callers_mistake() {
    let mut wal = create(&MemDisk::new(1), tiny());
    put(&mut wal, vec![append(1, vec![entry(1, 2, vec![])])]);
}
