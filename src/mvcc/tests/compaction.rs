//! Compaction, the feed at its edge, and HashKV (etcd's semantics 3.6, 3.13).

use super::*;

fn records(kit: &mut Kit) -> u64 {
    kit.keyspace.trees().unwrap()[0].1.len()
}

#[test]
fn what_may_be_compacted() {
    let mut kit = Kit::new();
    assert_eq!(kit.compact(2), Err(ApiError::FutureRevision));
    assert_eq!(kit.compact(-1), Err(ApiError::Compacted));
    kit.compact(0).unwrap();
    assert_eq!(kit.compact(0), Err(ApiError::Compacted));
    kit.compact(1).unwrap();
    kit.put("a", "1");
    kit.compact(2).unwrap();
    assert_eq!(kit.compact(2), Err(ApiError::Compacted));
    assert_eq!(kit.keyspace.view().compact_revision(), 2);
}

#[test]
fn the_example_of_the_module() {
    let mut kit = Kit::new();
    for (key, value) in [("a", "1"), ("b", "1"), ("a", "2")] {
        kit.put(key, value);
    }
    kit.delete("b");
    kit.put("c", "1");
    kit.put("a", "3");
    kit.compact(6).unwrap();
    assert!(kit.keyspace.compaction_pending());
    kit.compact_fully();
    assert_eq!(kit.keyspace.compacted_revision(), 6);
    let view = kit.keyspace.trees().unwrap()[0].1.clone();
    let mut cursor = view.cursor();
    cursor.seek_first().unwrap();
    let mut left = Vec::new();
    while let Some((key, _, _)) = cursor.next().unwrap() {
        left.push(key[7]);
    }
    assert_eq!(left, [4, 6, 7]);
}

#[test]
fn a_tombstone_at_the_compact_revision_stays_for_watchers() {
    let mut kit = Kit::new();
    kit.put("a", "1");
    kit.put("b", "1");
    kit.delete("a");
    kit.compact(4).unwrap();
    for _ in 0..2 {
        let feed = kit.keyspace.view().feed(4, 4, 100, 1000, true, &mut |_| true).unwrap();
        assert_eq!(feed.revisions.len(), 1);
        // Its previous value is compacted.
        assert_eq!(feed.revisions[0].events[0].prev_kv, None);
        kit.compact_fully();
    }
    assert_eq!(records(&mut kit), 2);
    kit.put("c", "1");
    kit.compact(5).unwrap();
    kit.compact_fully();
    assert_eq!(records(&mut kit), 2);
    assert_eq!(kit.keys_at(0), ["b", "c"]);
    let early = kit.keyspace.view().feed(4, 5, 100, 1000, true, &mut |_| true);
    assert!(matches!(early, Err(ReadError::Api(ApiError::Compacted))));
}

#[test]
fn removal_goes_on_after_a_restart_and_under_a_newer_compaction() {
    let mut kit = Kit::new();
    for n in 0..20 {
        kit.put(["a", "b"][n % 2], &n.to_string());
    }
    kit.delete("a");
    kit.compact(10).unwrap();
    assert!(kit.keyspace.compact_step(3).unwrap());
    kit.reopen();
    assert!(kit.keyspace.compaction_pending());
    assert!(kit.keyspace.compact_step(3).unwrap());
    kit.compact(22).unwrap();
    kit.compact_fully();
    assert_eq!(records(&mut kit), 2, "b's newest, and a's tombstone exactly at 22");
    assert_eq!(kit.keys_at(0), ["b"]);
    kit.put("b", "x");
    kit.compact(23).unwrap();
    kit.compact_fully();
    assert_eq!(records(&mut kit), 1);
    assert_eq!(kit.keyspace.head(b"a").unwrap().map(|head| head.revision), None);
    assert!(!kit.keyspace.compact_step(1).unwrap());
}

#[test]
fn a_key_put_again_over_a_compacted_tombstone() {
    let mut kit = Kit::new();
    kit.put("a", "1");
    kit.delete("a");
    kit.put("b", "1");
    kit.compact(4).unwrap();
    // The removal has not run: the tombstone is there, and must not matter.
    kit.put("a", "2");
    assert_eq!(kit.get("a"), Some(kv("a", "2", 5, 5, 1)));
    assert_eq!(kit.get_at("a", 4), None);
    kit.compact_fully();
    assert_eq!(kit.get("a"), Some(kv("a", "2", 5, 5, 1)));
    assert_eq!(kit.get_at("a", 4), None);
    assert_eq!(records(&mut kit), 2);
}

#[test]
fn hash_kv_is_etcds() {
    let mut kit = Kit::new();
    assert_eq!(
        kit.keyspace.view().hash_kv(0).unwrap(),
        HashKv { hash: 1_084_519_789, compact_revision: -1, hash_revision: 1 }
    );
    kit.put("foo", "bar");
    kit.put("foo", "bar2");
    let view = kit.keyspace.view();
    assert_eq!(
        view.hash_kv(0).unwrap(),
        HashKv { hash: 3_581_052_765, compact_revision: -1, hash_revision: 3 }
    );
    assert_eq!(view.hash_kv(1).unwrap().hash, 1_084_519_789);
    let nothing = view.hash_kv(-3).unwrap();
    assert_eq!((nothing.hash, nothing.hash_revision), (1_084_519_789, -3));
    assert!(matches!(view.hash_kv(4), Err(ReadError::Api(ApiError::FutureRevision))));
    kit.compact(3).unwrap();
    assert!(matches!(kit.keyspace.view().hash_kv(2), Err(ReadError::Api(ApiError::Compacted))));
    assert_eq!(kit.keyspace.view().hash_kv(3).unwrap().compact_revision, 3);
}

#[test]
fn hash_kv_does_not_see_the_removal() {
    let mut kit = Kit::new();
    for n in 0..30 {
        kit.put(["a", "b", "c"][n % 3], &"v".repeat(n * 40));
        if n % 7 == 0 {
            kit.delete("a");
        }
    }
    let newest = kit.keyspace.revision();
    for compact in [10, 11, 20, newest] {
        kit.compact(compact).unwrap();
        let before: Vec<_> =
            (compact..=newest).map(|at| kit.keyspace.view().hash_kv(at).unwrap()).collect();
        loop {
            let now: Vec<_> =
                (compact..=newest).map(|at| kit.keyspace.view().hash_kv(at).unwrap()).collect();
            assert_eq!(before, now);
            if !kit.keyspace.compact_step(2).unwrap() {
                break;
            }
        }
    }
}

#[test]
fn a_feed_is_cut_between_revisions() {
    let mut kit = Kit::new();
    for _ in 0..5 {
        kit.txn(then(vec![op_put("a", "1"), op_put("b", "2")]));
    }
    let view = kit.keyspace.view();
    let feed = view.feed(2, 6, 3, usize::MAX, false, &mut |_| true).unwrap();
    assert_eq!((feed.revisions.len(), feed.next), (2, 4));
    assert!(feed.revisions.iter().all(|part| part.events.len() == 2));
    let feed = view.feed(2, 6, 100, usize::MAX, false, &mut |key| key == b"b").unwrap();
    assert_eq!((feed.revisions.len(), feed.next), (5, 7));
    assert_eq!(view.feed(3, 100, 100, 1 << 20, false, &mut |_| false).unwrap().next, 7);
    assert_eq!(view.feed(9, 100, 100, 1 << 20, false, &mut |_| true).unwrap().next, 9);
}
