//! Ranges: every combination of what can be asked, against a list of pairs that is searched by hand.

use super::*;
use quorate::api::proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use std::collections::BTreeMap;

/// The pairs behind each revision, from an empty store on.
type Past = Vec<BTreeMap<Vec<u8>, mvccpb::KeyValue>>;

/// Fills the store, and keeps account of it.
async fn fill(server: &Server) -> Past {
    let mut past: Past = vec![BTreeMap::new(); 2];
    let steps = [
        ("b", "7"),
        ("a", "3"),
        ("ba", "9"),
        ("c", "1"),
        ("a", "5"),
        ("d", "4"),
        ("c", ""),
        ("c", "2"),
        ("a", "6"),
        ("b\u{0}", "8"),
        ("ba", "0"),
    ];
    for (key, value) in steps {
        let revision = i64::try_from(past.len()).expect("a few");
        let mut now = past.last().expect("never empty").clone();
        if value.is_empty() {
            server.delete(delete(key, "")).await.expect("deleted");
            now.remove(key.as_bytes());
        } else {
            assert_eq!(server.set(key, value).await, revision);
            let kv = now.entry(key.into()).or_insert_with(|| mvccpb::KeyValue {
                key: key.to_string().into(),
                create_revision: revision,
                ..Default::default()
            });
            kv.value = value.to_string().into();
            kv.mod_revision = revision;
            kv.version += 1;
        }
        past.push(now);
    }
    past
}

/// What a pair is sorted by.
fn rank(kv: &mvccpb::KeyValue, target: SortTarget) -> (i64, &[u8]) {
    match target {
        SortTarget::Key => (0, &kv.key),
        SortTarget::Value => (0, &kv.value),
        SortTarget::Version => (kv.version, &[]),
        SortTarget::Create => (kv.create_revision, &[]),
        SortTarget::Mod => (kv.mod_revision, &[]),
    }
}

/// The answer, with values even when only keys are wanted.
fn expected(past: &Past, request: &pb::RangeRequest) -> pb::RangeResponse {
    let at = match usize::try_from(request.revision) {
        Ok(0) | Err(_) => past.len() - 1,
        Ok(at) => at,
    };
    let (key, end) = (&request.key[..], &request.range_end[..]);
    let inside = |it: &[u8]| match end {
        [] => it == key,
        [0] => it >= key,
        _ => it >= key && it < end,
    };
    let mut kvs: Vec<_> = past[at].values().filter(|kv| inside(&kv.key)).cloned().collect();
    let count = i64::try_from(kvs.len()).expect("a few");
    if request.count_only {
        return pb::RangeResponse { count, ..Default::default() };
    }
    let target = request.sort_target();
    let limit = usize::try_from(request.limit).unwrap_or(0);
    let bounds = [
        (request.min_mod_revision, request.max_mod_revision),
        (request.min_create_revision, request.max_create_revision),
    ];
    if request.sort_order() == SortOrder::None && bounds == [(0, 0); 2] && limit > 0 {
        // One more than asked for, in the order of keys, before anything is sorted.
        kvs.truncate(limit + 1);
    }
    let within =
        |it: i64, (min, max): (i64, i64)| (min == 0 || it >= min) && (max == 0 || it <= max);
    kvs.retain(|kv| within(kv.mod_revision, bounds[0]) && within(kv.create_revision, bounds[1]));
    kvs.sort_by(|a, b| rank(a, target).cmp(&rank(b, target)));
    if request.sort_order() == SortOrder::Descend {
        kvs.reverse();
    }
    let more = limit > 0 && kvs.len() > limit;
    if more {
        kvs.truncate(limit);
    }
    pb::RangeResponse { kvs, more, count, ..Default::default() }
}

fn everything() -> Vec<pb::RangeRequest> {
    let ranges =
        [("b", ""), ("a", "c"), ("b", "\0"), ("\0", "\0"), ("b", "b"), ("c", "a"), ("x", "")];
    let orders = [SortOrder::None, SortOrder::Ascend, SortOrder::Descend];
    let targets = [
        SortTarget::Key,
        SortTarget::Version,
        SortTarget::Create,
        SortTarget::Mod,
        SortTarget::Value,
    ];
    // Bounds on the mod and the create revision.
    let bounds = [[0, 0, 0, 0], [5, 0, 0, 0], [0, 6, 0, 0], [3, 10, 2, 7], [0, 0, 4, 0]];
    let mut all = Vec::new();
    for (key, end) in ranges {
        for limit in [0, 1, 2, 50, -1] {
            for (order, target) in orders.iter().flat_map(|o| targets.iter().map(|t| (*o, *t))) {
                for [min_mod, max_mod, min_create, max_create] in bounds {
                    for revision in [0, 7, -3] {
                        let flags = all.len();
                        all.push(pb::RangeRequest {
                            limit,
                            revision,
                            sort_order: order as i32,
                            sort_target: target as i32,
                            min_mod_revision: min_mod,
                            max_mod_revision: max_mod,
                            min_create_revision: min_create,
                            max_create_revision: max_create,
                            // Each beside every other, over the whole list: 7 and 11 divide
                            // none of the lengths above.
                            serializable: flags % 2 == 0,
                            keys_only: flags % 7 < 3,
                            count_only: flags % 11 == 0,
                            ..range(key, end)
                        });
                    }
                }
            }
        }
    }
    all
}

#[test]
fn every_combination() {
    with_server("sem-ranges", &[], |server| async move {
        let past = fill(&server).await;
        let newest = i64::try_from(past.len()).expect("a few") - 1;
        for request in everything() {
            let answer = server.range(request.clone()).await.expect("a range");
            let wanted = expected(&past, &request);
            let context = format!("{request:?}\nis answered {answer:?}\nand not {wanted:?}");
            assert_eq!(revision_of(&answer.header), newest, "{context}");
            assert_eq!((answer.count, answer.more), (wanted.count, wanted.more), "{context}");
            assert_eq!(answer.kvs.len(), wanted.kvs.len(), "{context}");
            let at = if request.revision > 0 { request.revision } else { newest };
            let there = &past[usize::try_from(at).expect("positive")];
            let mut keys = std::collections::BTreeSet::new();
            for (kv, wanted) in answer.kvs.iter().zip(&wanted.kvs) {
                // Which of several equals comes first is nobody's promise.
                let mut whole = kv.clone();
                if request.keys_only {
                    assert!(kv.value.is_empty(), "{context}");
                    whole.value = there[&kv.key[..]].value.clone();
                }
                assert_eq!(whole, there[&kv.key[..]], "{context}");
                let target = request.sort_target();
                assert_eq!(rank(&whole, target), rank(wanted, target), "{context}");
                assert!(keys.insert(kv.key.clone()), "{context}");
            }
        }
    });
}

#[test]
fn which_revisions_can_be_read() {
    with_server("sem-read-revisions", &[], |server| async move {
        for value in ["1", "2", "3"] {
            server.set("k", value).await;
        }
        let at = |revision| pb::RangeRequest { revision, ..range("k", "") };
        assert_eq!(text(server.range(at(5)).await), FUTURE);
        server.compact(3, true).await.expect("compacted");
        assert_eq!(text(server.range(at(2)).await), COMPACTED);
        let edge = server.range(at(3)).await.expect("the compact revision can be read");
        assert_eq!(&edge.kvs[0].value[..], b"2");
        let newest = server.range(at(-1)).await.expect("below zero means the newest");
        assert_eq!(&newest.kvs[0].value[..], b"3");
        // Inside of a txn only zero does.
        let inside = |revision| txn([Op::RequestRange(at(revision)), Op::RequestPut(put("j", ""))]);
        assert_eq!(text(server.txn(inside(-1)).await), COMPACTED);
        assert_eq!(text(server.txn(inside(2)).await), COMPACTED);
        assert_eq!(text(server.txn(inside(9)).await), FUTURE);
        assert_eq!(server.get("j").await, None, "a txn that is refused does nothing");
        if crate::harness::is_quorate() {
            // Since 3.6; before, an order that nobody knows was none.
            for strange in [
                pb::RangeRequest { sort_order: 3, ..at(0) },
                pb::RangeRequest { sort_target: 5, ..at(0) },
            ] {
                assert_eq!(text(server.range(strange).await), "etcdserver: invalid sort option");
            }
        }
        assert_eq!(text(server.range(range("", "")).await), "etcdserver: key is not provided");
    });
}
