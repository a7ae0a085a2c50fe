//! Ranges (etcd's semantics 3.3) and pinned roots.

use super::*;
use crate::types::command::{SortOrder, SortTarget};

/// a=3 b=1 c=2, with b put twice: create 2 3 4, mod 2 5 4.
fn three() -> Kit {
    let mut kit = Kit::new();
    kit.put("a", "3");
    kit.put("b", "0");
    kit.put("c", "2");
    kit.put("b", "1");
    kit
}

fn sorted(kit: &Kit, order: SortOrder, target: SortTarget, limit: i64) -> Vec<String> {
    keys(&kit.range(RangeRequest { sort_order: order, sort_target: target, limit, ..all() }))
}

#[test]
fn range_ends() {
    let kit = three();
    let find = |key, end| keys(&kit.range(RangeRequest { range: range(key, end), ..all() }));
    assert_eq!(find("b", ""), ["b"]);
    assert_eq!(find("a", "c"), ["a", "b"]);
    assert_eq!(find("b", "\0"), ["b", "c"]);
    assert_eq!(find("\0", "\0"), ["a", "b", "c"]);
    assert!(find("b", "b").is_empty() && find("c", "a").is_empty());
}

#[test]
fn revisions() {
    let mut kit = three();
    assert_eq!(kit.keys_at(3), ["a", "b"]);
    assert_eq!(values(&kit.range(RangeRequest { revision: 4, ..all() }).kvs), ["3", "0", "2"]);
    assert_eq!(kit.keys_at(1), Vec::<String>::new());
    assert_eq!(kit.keys_at(-9), ["a", "b", "c"]);
    assert_eq!(kit.range_error(RangeRequest { revision: 6, ..all() }), ApiError::FutureRevision);
    kit.compact(4).unwrap();
    assert_eq!(kit.range_error(RangeRequest { revision: 3, ..all() }), ApiError::Compacted);
    assert_eq!(values(&kit.range(RangeRequest { revision: 4, ..all() }).kvs), ["3", "0", "2"]);
}

#[test]
fn count_ignores_limit_and_filters() {
    let kit = three();
    let reply = kit.range(RangeRequest { limit: 1, ..all() });
    assert_eq!((keys(&reply), reply.count, reply.more), (vec!["a".to_string()], 3, true));
    let reply = kit.range(RangeRequest { limit: 3, ..all() });
    assert_eq!((reply.count, reply.more), (3, false));
    let reply = kit.range(RangeRequest { limit: 1, count_only: true, ..all() });
    assert_eq!(reply, RangeReply { kvs: vec![], more: false, count: 3 });
    let reply = kit.range(RangeRequest { min_mod_revision: 4, limit: 1, ..all() });
    assert_eq!((keys(&reply), reply.count, reply.more), (vec!["b".to_string()], 3, true));
    let reply = kit.range(RangeRequest { max_mod_revision: 4, min_create_revision: 3, ..all() });
    assert_eq!((keys(&reply), reply.count, reply.more), (vec!["c".to_string()], 3, false));
    let reply = kit.range(RangeRequest { max_create_revision: 3, ..all() });
    assert_eq!(keys(&reply), ["a", "b"]);
}

#[test]
fn sorting() {
    let kit = three();
    use SortOrder::{Ascend, Descend};
    assert_eq!(sorted(&kit, Ascend, SortTarget::Value, 0), ["b", "c", "a"]);
    assert_eq!(sorted(&kit, Descend, SortTarget::Mod, 0), ["b", "c", "a"]);
    assert_eq!(sorted(&kit, Descend, SortTarget::Create, 1), ["c"]);
    assert_eq!(sorted(&kit, Descend, SortTarget::Version, 1), ["b"]);
    assert_eq!(sorted(&kit, Descend, SortTarget::Key, 2), ["c", "b"]);
    assert_eq!(sorted(&kit, Ascend, SortTarget::Key, 2), ["a", "b"]);
    // Without an order the limit cuts first: c is never looked at.
    assert_eq!(sorted(&kit, SortOrder::None, SortTarget::Value, 1), ["b"]);
    assert_eq!(sorted(&kit, SortOrder::None, SortTarget::Mod, 1), ["a"]);
    assert_eq!(sorted(&kit, SortOrder::None, SortTarget::Value, 0), ["b", "c", "a"]);
    let past = RangeRequest {
        revision: 4,
        sort_order: Descend,
        limit: 2,
        range: range("a", "c"),
        ..all()
    };
    assert_eq!(keys(&kit.range(past)), ["b", "a"]);
}

#[test]
fn keys_only_keeps_the_rest() {
    let mut kit = Kit::new();
    kit.grant(3).unwrap();
    kit.ok(put_leased("a", "1", 3));
    for sort_target in [SortTarget::Key, SortTarget::Value] {
        let reply = kit.range(RangeRequest { keys_only: true, sort_target, ..all() });
        assert_eq!(reply.kvs, [KeyValue { lease: LeaseId(3), ..kv("a", "", 2, 2, 1) }]);
    }
}

#[test]
fn a_paged_list_pins_its_root_for_a_while() {
    let mut kit = Kit::new();
    for n in 0..50 {
        kit.put(&format!("k{n:02}"), "v");
    }
    let at = kit.keyspace.revision();
    let page = kit.range(RangeRequest { limit: 10, ..all() });
    assert!(page.more);
    assert_eq!(kit.keyspace.pins.len(), 1);
    for n in 0..50 {
        kit.put(&format!("k{n:02}"), "w");
        kit.delete(&format!("k{:02}", (n + 7) % 50));
    }
    let next = RangeRequest { range: range("k10", "\0"), limit: 10, revision: at, ..all() };
    let pinned = kit.range(next.clone());
    assert_eq!((pinned.count, pinned.more, pinned.kvs.len()), (40, true, 10));
    for n in 0..4200 {
        kit.put("other", &n.to_string());
    }
    let unpinned = kit.range(next);
    assert_eq!(kit.keyspace.pins.len(), 0);
    assert_eq!(pinned, unpinned);
}

#[test]
fn a_view_does_not_move() {
    let mut kit = Kit::new();
    kit.put("a", "1");
    let view = kit.keyspace.view();
    kit.put("a", "2");
    kit.compact(3).unwrap();
    kit.compact_fully();
    assert_eq!(values(&view.range(&all()).unwrap().kvs), ["1"]);
    assert_eq!(view.revision(), 2);
}

#[test]
fn a_long_history_is_searched_quickly() {
    let mut kit = Kit::new();
    for n in 2..2000 {
        kit.put("hot", &n.to_string());
    }
    for at in [2, 3, 777, 1024, 1998, 1999] {
        assert_eq!(kit.get_at("hot", at), Some(kv("hot", &at.to_string(), 2, at, at - 1)));
    }
    // The way from the newest to the oldest is logarithmic.
    let mut record = kit.keyspace.head(b"hot").unwrap().unwrap();
    let mut hops = 0;
    while record.revision.main > 2 {
        let next = record.ancestors().take_while(|a| a.main > 2).last();
        let next = next.or_else(|| record.parent()).unwrap();
        record = kit.keyspace.record_at(next).unwrap().unwrap();
        hops += 1;
    }
    assert!(hops <= 24, "{hops} hops");
}
