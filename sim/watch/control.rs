//! Negative controls: messages spoilt one by one, each to be noticed by its own rule.

use super::judge::{Wanted, handed_out};
use crate::model::Model;
use crate::rules::control::control;
use crate::safety::{Checked, Violation};
use bytes::Bytes;
use quorate::mvcc::watch::{EventRefs, Filters, Picked, WatchOut};
use quorate::types::command::{
    CompactRequest, DeleteRangeRequest, PutRequest, RequestOp, TxnRequest,
};
use quorate::types::reply::Event;
use quorate::types::{Command, KeyRange, Term};

fn put(key: &'static str, value: &'static str) -> PutRequest {
    let (key, value) = (Bytes::from_static(key.as_bytes()), Bytes::from_static(value.as_bytes()));
    PutRequest { key, value, ..PutRequest::default() }
}

/// Revisions 2 a=1, 3 b=1 and c=1 together, 4 a=2, 5 delete a, 6 z=1; compacted at 3.
fn story() -> Model {
    let mut model = Model::default();
    let mut run = |command: Command| {
        model.apply(&command, Term(1)).reply.expect("the story goes well");
    };
    run(Command::Put(put("a", "1")));
    let both = ["b", "c"].map(|key| RequestOp::Put(put(key, "1")));
    run(Command::Txn(TxnRequest { success: both.to_vec(), ..TxnRequest::default() }));
    run(Command::Put(put("a", "2")));
    let range = KeyRange::single("a");
    run(Command::DeleteRange(DeleteRangeRequest { range, prev_kv: false }));
    run(Command::Put(put("z", "1")));
    run(Command::Compact(CompactRequest { revision: 3, physical: false }));
    model
}

fn refs(revision: i64, events: Vec<Event>) -> EventRefs {
    EventRefs { revision, events: events.into(), picked: Picked::All }
}

pub fn self_check() {
    let model = story();
    let at = |revision: i64| {
        let wanted = |event: &Event| event.kv.key.as_ref() < b"m".as_slice();
        let events: Vec<Event> =
            model.events_at(revision).iter().filter(|e| wanted(e)).cloned().collect();
        refs(revision, events)
    };
    let watch = |filters| {
        let range = KeyRange::new("a", "m");
        Wanted::new(range, filters, true, false, 2)
    };
    let tell = |spoil: u8| -> Result<(), Violation> {
        let filters = Filters { no_put: false, no_delete: spoil == 6 };
        let mut watch = watch(filters);
        for revision in 2..=5 {
            let mut told = at(revision);
            let mut events: Vec<Event> = told.iter().cloned().collect();
            match (spoil, revision) {
                (1, 3) => continue,
                (2, 3) => events.truncate(1),
                (3, 4) => events[0].kv.value = Bytes::from_static(b"other"),
                (4, 4) => events[0].prev_kv = None,
                (5, 5) => events[0].prev_kv.as_mut().expect("a was there").version = 7,
                (7, 4) => events[0].kv.version = 1,
                (8, 3) => watch.progress(&model, 3)?,
                (9, 4) => watch.compacted(&model, 3)?,
                (10, 4) => watch.compacted(&model, 4)?,
                (13, 4) => events.clear(),
                (12, 5) => events.push(model.events_at(6)[0].clone()),
                _ => {}
            }
            told = refs(revision, events);
            watch.events(&model, &told)?;
            if spoil == 11 && revision == 4 {
                watch.events(&model, &told)?;
            }
        }
        watch.progress(&model, 6)
    };
    let expected = [
        "watch-missing",
        "watch-atomic",
        "watch-atomic",
        "watch-prev-kv",
        "watch-prev-kv",
        "watch-filter",
        "watch-is-create",
        "watch-bookmark",
        "watch-compacted",
        "watch-compacted",
        "watch-order",
        "watch-filter",
        "watch-empty",
    ];
    for (spoil, rule) in (1_u8..).zip(expected) {
        control(rule, |spoilt| tell(if spoilt { spoil } else { 0 }));
    }
    let progress = |revision| -> Checked {
        handed_out(&model, &[WatchOut::Progress { watch_id: 0, revision }])
    };
    control("watch-uncommitted", |spoilt| progress(if spoilt { 7 } else { 6 }));
    super::client::self_check();
    // At a compact revision only the newest change of a key need be left.
    let mut model = Model::default();
    let inner = |op| RequestOp::Txn(TxnRequest { success: vec![op], ..TxnRequest::default() });
    let gone = DeleteRangeRequest { range: KeyRange::single("a"), prev_kv: false };
    let ops = vec![inner(RequestOp::Put(put("a", "1"))), inner(RequestOp::DeleteRange(gone))];
    let txn = TxnRequest { success: ops, ..TxnRequest::default() };
    model.apply(&Command::Txn(txn), Term(1)).reply.expect("a put and its delete in one txn");
    let last = refs(2, vec![model.events_at(2)[1].clone()]);
    let mut watch = Wanted::new(KeyRange::single("a"), Filters::default(), false, false, 2);
    let early = watch.clone().events(&model, &last).expect_err("half a revision");
    assert_eq!(early.rule, "watch-atomic");
    let compact = CompactRequest { revision: 2, physical: false };
    model.apply(&Command::Compact(compact), Term(1)).reply.expect("compacts");
    watch.events(&model, &last).expect("thinned by the compaction");
}
