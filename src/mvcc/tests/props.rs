//! Random histories against the model, against a restart, and against a twin whose background
//! work is timed differently.

use super::model::Model;
use super::*;
use crate::types::command::{
    AlarmAction, AlarmKind, AlarmRequest, Compare, CompareResult, CompareTarget, SortOrder,
    SortTarget,
};
use proptest::collection::vec;
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Step {
    Command(Command),
    /// Compact at this many revisions before the newest.
    CompactBack(i64),
    RemoveOld(usize),
    Checkpoint,
    Reopen,
}

fn key() -> impl Strategy<Value = Bytes> {
    prop::sample::select(vec!["a", "a\0", "aa", "ab", "b", "c", "\u{7f}"])
        .prop_map(|key| Bytes::from_static(key.as_bytes()))
}

fn key_range() -> impl Strategy<Value = KeyRange> {
    prop_oneof![
        4 => key().prop_map(KeyRange::single),
        3 => (key(), key()).prop_map(|(key, end)| KeyRange::new(key, end)),
        1 => key().prop_map(|key| KeyRange::new(key, &b"\0"[..])),
        1 => Just(KeyRange::new(&b"\0"[..], &b"\0"[..])),
    ]
}

fn value() -> impl Strategy<Value = Bytes> {
    // Values on both sides of what is stored by key.
    (any::<u8>(), prop::sample::select(vec![0_usize, 1, 3, 700]))
        .prop_map(|(byte, len)| Bytes::from(vec![byte; len]))
}

fn lease() -> impl Strategy<Value = LeaseId> {
    prop_oneof![3 => Just(0_i64), 1 => -1..4_i64].prop_map(LeaseId)
}

fn put_strategy() -> impl Strategy<Value = PutRequest> {
    (key(), value(), lease(), any::<bool>(), 0..6_u8).prop_map(|(key, value, lease, prev_kv, f)| {
        let (ignore_value, ignore_lease) = (f == 0, f == 1);
        PutRequest {
            key,
            value: if ignore_value { Bytes::new() } else { value },
            lease: if ignore_lease { LeaseId::NONE } else { lease },
            prev_kv,
            ignore_value,
            ignore_lease,
        }
    })
}

fn delete_strategy() -> impl Strategy<Value = DeleteRangeRequest> {
    (key_range(), any::<bool>()).prop_map(|(range, prev_kv)| DeleteRangeRequest { range, prev_kv })
}

fn range_strategy() -> impl Strategy<Value = RangeRequest> {
    let order =
        || prop::sample::select(vec![SortOrder::None, SortOrder::Ascend, SortOrder::Descend]);
    let target = prop::sample::select(vec![
        SortTarget::Key,
        SortTarget::Version,
        SortTarget::Create,
        SortTarget::Mod,
        SortTarget::Value,
    ]);
    let bound = || prop_oneof![3 => Just(0_i64), 1 => 1..40_i64];
    (
        key_range(),
        prop_oneof![Just(0), 0..5_i64],
        prop_oneof![3 => Just(0), 2 => 1..40_i64, 1 => Just(-1)],
        order(),
        target,
        (0..4_u8, 0..4_u8),
        (bound(), bound(), bound(), bound()),
    )
        .prop_map(|(range, limit, revision, sort_order, sort_target, flags, bounds)| {
            RangeRequest {
                range,
                limit,
                revision,
                sort_order,
                sort_target,
                serializable: false,
                keys_only: flags.0 == 0,
                count_only: flags.1 == 0,
                min_mod_revision: bounds.0,
                max_mod_revision: bounds.1,
                min_create_revision: bounds.2,
                max_create_revision: bounds.3,
            }
        })
}

fn compare_strategy() -> impl Strategy<Value = Compare> {
    let target = prop_oneof![
        (0..4_i64).prop_map(CompareTarget::Version),
        (0..30_i64).prop_map(CompareTarget::Create),
        (0..30_i64).prop_map(CompareTarget::Mod),
        (-1..4_i64).prop_map(CompareTarget::Lease),
        value().prop_map(CompareTarget::Value),
        Just(CompareTarget::Unknown),
    ];
    let result = prop::sample::select(vec![
        CompareResult::Equal,
        CompareResult::Greater,
        CompareResult::Less,
        CompareResult::NotEqual,
    ]);
    (key_range(), result, target).prop_map(|(range, result, target)| Compare {
        range,
        result,
        target,
    })
}

fn txn_strategy() -> impl Strategy<Value = TxnRequest> {
    let op = || {
        prop_oneof![
            3 => put_strategy().prop_map(RequestOp::Put),
            2 => delete_strategy().prop_map(RequestOp::DeleteRange),
            2 => range_strategy().prop_map(RequestOp::Range),
        ]
    };
    let leaf = (vec(compare_strategy(), 0..2), vec(op(), 0..3), vec(op(), 0..3))
        .prop_map(|(compare, success, failure)| TxnRequest { compare, success, failure });
    leaf.prop_recursive(2, 8, 3, move |inner| {
        let op = || prop_oneof![2 => op(), 1 => inner.clone().prop_map(RequestOp::Txn)];
        (vec(compare_strategy(), 0..2), vec(op(), 0..4), vec(op(), 0..3))
            .prop_map(|(compare, success, failure)| TxnRequest { compare, success, failure })
    })
    .prop_filter("statically refused", |txn| check_txn(txn, 128).is_ok())
}

/// A leader that has applied everything.
fn all_knowing(term: u64) -> LeaseLeader {
    LeaseLeader { term: Term(term), applied: LogIndex(u64::MAX) }
}

fn command() -> impl Strategy<Value = Command> {
    let id = || (-1..4_i64).prop_filter("none", |id| *id != 0).prop_map(LeaseId);
    let alarm = (0..3_u8, 1..3_u64, 0..5_u8).prop_map(|(action, member, kind)| AlarmRequest {
        action: [AlarmAction::Get, AlarmAction::Activate, AlarmAction::Deactivate]
            [usize::from(action)],
        member: NodeId(member),
        kind: [
            Some(AlarmKind::NoSpace),
            Some(AlarmKind::Corrupt),
            None,
            Some(AlarmKind::NoSpace),
            Some(AlarmKind::NoSpace),
        ][usize::from(kind)],
    });
    prop_oneof![
        30 => put_strategy().prop_map(Command::Put),
        8 => delete_strategy().prop_map(Command::DeleteRange),
        14 => txn_strategy().prop_map(Command::Txn),
        8 => id().prop_map(|id| Command::LeaseGrant { id, ttl_seconds: 60 + id.0 }),
        3 => (vec(id(), 1..3), prop::option::of(1..3_u64)).prop_map(|(ids, term)| {
            let ids = if term.is_none() { vec![ids[0]] } else { ids };
            Command::LeaseRevoke { ids, leader: term.map(all_knowing) }
        }),
        1 => (vec((id(), 0..50_i64), 0..3), prop::option::of(1..3_u64)).prop_map(
            |(remaining, term)| Command::LeaseCheckpoint {
                remaining,
                leader: term.map(all_knowing)
            }
        ),
        1 => alarm.prop_map(Command::Alarm),
    ]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        30 => command().prop_map(Step::Command),
        3 => (-1..6_i64).prop_map(Step::CompactBack),
        4 => (1..8_usize).prop_map(Step::RemoveOld),
        1 => Just(Step::Checkpoint),
        1 => Just(Step::Reopen),
    ];
    vec(step, 1..60)
}

fn command_of(step: &Step, newest: i64) -> Option<Command> {
    match step {
        Step::Command(command) => Some(command.clone()),
        Step::CompactBack(back) => {
            Some(Command::Compact(CompactRequest { revision: newest - back, physical: false }))
        }
        Step::RemoveOld(_) | Step::Checkpoint | Step::Reopen => None,
    }
}

fn check_leases(kit: &Kit, model: &Model) {
    let view = kit.keyspace.view();
    let contents = model.contents(i64::MAX);
    let leases: Vec<LeaseInfo> = model
        .leases
        .iter()
        .map(|(id, (ttl_seconds, remaining_seconds))| LeaseInfo {
            id: *id,
            ttl_seconds: *ttl_seconds,
            remaining_seconds: *remaining_seconds,
            granted: view.lease(*id, false).unwrap().unwrap().granted,
            keys: contents.values().filter(|kv| kv.lease == *id).map(|kv| kv.key.clone()).collect(),
        })
        .collect();
    for lease in &leases {
        assert_eq!(view.lease(lease.id, true).unwrap().as_ref(), Some(lease));
    }
    let listed: Vec<LeaseInfo> =
        leases.into_iter().map(|lease| LeaseInfo { keys: vec![], ..lease }).collect();
    assert_eq!(view.leases().unwrap(), listed);
}

fn check_reads(kit: &Kit, model: &Model, requests: &[RangeRequest]) {
    let view = kit.keyspace.view();
    assert_eq!(view.live_keys(), model.contents(i64::MAX).len() as u64);
    for request in requests {
        let expected = model.range(request, model.revision);
        let found = match view.range(request) {
            Ok(reply) => Ok(reply),
            Err(ReadError::Api(error)) => Err(error),
            Err(ReadError::Storage(error)) => panic!("{error}"),
        };
        assert_eq!(found, expected, "{request:?}");
    }
    for revision in model.compact.max(1)..=model.revision {
        let request = RangeRequest { revision, ..all() };
        assert_eq!(view.range(&request).unwrap(), model.range(&request, model.revision).unwrap());
        assert_eq!(view.hash_kv(revision).unwrap().hash, model.hash_kv(revision), "@{revision}");
    }
    let from = model.compact.max(1);
    for records_max in [1, 1000] {
        let mut events = Vec::new();
        let mut next = from;
        while next <= model.revision {
            let until = model.revision;
            let feed = view.feed(next, until, records_max, 1 << 20, true, &mut |_| true).unwrap();
            assert!(feed.next > next);
            next = feed.next;
            for part in feed.revisions {
                assert!(part.events.iter().all(|e| e.kv.mod_revision == part.revision));
                events.extend(part.events.iter().cloned());
            }
        }
        assert_eq!(events, model.feed(from));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn behaves_like_the_model(steps in steps(), requests in vec(range_strategy(), 12)) {
        let mut kit = Kit::new();
        let mut model = Model::new();
        for (n, step) in steps.iter().enumerate() {
            match step {
                Step::RemoveOld(budget) => drop(kit.keyspace.compact_step(*budget).unwrap()),
                Step::Checkpoint => kit.checkpoint(),
                Step::Reopen => kit.reopen(),
                Step::Command(_) | Step::CompactBack(_) => {}
            }
            let Some(command) = command_of(step, model.revision) else { continue };
            let applied = kit.apply(&command);
            let (reply, events) = model.apply(&command);
            prop_assert_eq!(&applied.reply, &reply, "{:?}", command);
            prop_assert_eq!(applied.revision, model.revision);
            prop_assert_eq!(&applied.events, &events, "{:?}", command);
            if n % 8 == 0 {
                check_reads(&kit, &model, &requests);
            }
        }
        check_reads(&kit, &model, &requests);
        check_leases(&kit, &model);
        prop_assert_eq!(kit.keyspace.view().alarms(None),
            model.alarms.iter().copied().collect::<Vec<_>>());
    }

    #[test]
    fn twins_agree(steps in steps()) {
        // One is compacted and restarted as the steps say, the other at the very end.
        let mut busy = Kit::new();
        let mut lazy = Kit::new();
        for step in &steps {
            match step {
                Step::RemoveOld(budget) => drop(busy.keyspace.compact_step(*budget).unwrap()),
                Step::Checkpoint => busy.checkpoint(),
                Step::Reopen => busy.reopen(),
                Step::Command(_) | Step::CompactBack(_) => {}
            }
            if let Some(command) = command_of(step, busy.keyspace.revision()) {
                prop_assert_eq!(busy.apply(&command), lazy.apply(&command));
                prop_assert_eq!(busy.keyspace.state_hash(), lazy.keyspace.state_hash());
            }
        }
        prop_assert_eq!(busy.keyspace.state_hashes(), lazy.keyspace.state_hashes());
        let newest = busy.keyspace.revision();
        let compact = busy.keyspace.compact_revision().max(1);
        for round in 0..2 {
            let (a, b) = (busy.keyspace.view(), lazy.keyspace.view());
            for revision in compact..=newest {
                prop_assert_eq!(a.hash_kv(revision).unwrap(), b.hash_kv(revision).unwrap());
            }
            let feed = |view: &KeyspaceView| {
                view.feed(compact, newest, 1 << 20, 1 << 30, true, &mut |_| true).unwrap()
            };
            prop_assert_eq!(feed(&a), feed(&b));
            if round == 0 {
                busy.compact_fully();
                lazy.compact_fully();
            }
        }
        // What is stored is the same in the end: compaction has left the same records.
        for kind in [BY_REV, BY_KEY, LEASES, LEASE_KEYS] {
            let all = |kit: &mut Kit| {
                let trees = kit.keyspace.trees().unwrap();
                let view = trees.into_iter().find(|(k, _)| *k == kind).unwrap().1;
                let mut cursor = view.cursor();
                cursor.seek_first().unwrap();
                let mut entries = Vec::new();
                while let Some(entry) = cursor.next().unwrap() {
                    entries.push(entry);
                }
                entries
            };
            prop_assert_eq!(all(&mut busy), all(&mut lazy));
        }
    }
}
