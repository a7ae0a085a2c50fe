//! Histories that the search must accept, and spoilt ones that it must refuse.

use super::Record;
use crate::history::{Answer, Call};
use crate::rules::control::caught;
use bytes::Bytes;
use quorate::types::command::{
    Compare, CompareResult, CompareTarget, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp,
    TxnRequest,
};
use quorate::types::reply::{
    DeleteRangeReply, KeyValue, PutReply, RangeReply, Reply, ReplyOp, TxnReply,
};
use quorate::types::{ApiError, Command, GroupId, KeyRange, LogIndex};

const G: GroupId = GroupId(1);

fn put(value: &'static str) -> Call {
    Call::Write(Command::Put(request(value)))
}

fn request(value: &'static str) -> PutRequest {
    let (key, value) = (Bytes::from_static(b"k"), Bytes::from_static(value.as_bytes()));
    PutRequest { key, value, ..PutRequest::default() }
}

fn get() -> Call {
    Call::Range(RangeRequest { range: KeyRange::single("k"), ..RangeRequest::default() })
}

fn delete() -> Call {
    let range = KeyRange::single("k");
    Call::Write(Command::DeleteRange(DeleteRangeRequest { range, prev_kv: false }))
}

fn update(seen: i64, value: &'static str) -> Call {
    let compare = Compare {
        range: KeyRange::single("k"),
        result: CompareResult::Equal,
        target: CompareTarget::Mod(seen),
    };
    let success = vec![RequestOp::Put(request(value))];
    Call::Write(Command::Txn(TxnRequest { compare: vec![compare], success, failure: vec![] }))
}

fn wrote(reply: Reply, revision: i64) -> Answer {
    Answer::Wrote { reply: Ok(reply), revision, index: LogIndex(1) }
}
fn put_at(revision: i64) -> Answer {
    wrote(Reply::Put(PutReply::default()), revision)
}
fn deleted(deleted: i64, revision: i64) -> Answer {
    wrote(Reply::DeleteRange(DeleteRangeReply { deleted, prev_kvs: vec![] }), revision)
}
fn updated(revision: i64) -> Answer {
    let replies = vec![ReplyOp::Put { revision, reply: PutReply::default() }];
    wrote(Reply::Txn(TxnReply { succeeded: true, replies }), revision)
}
fn unknown() -> Answer {
    Answer::Failed { error: ApiError::Timeout, never: false }
}
fn read(value: &'static str, create: i64, modified: i64, version: i64, revision: i64) -> Answer {
    let kv = KeyValue {
        key: Bytes::from_static(b"k"),
        value: Bytes::from_static(value.as_bytes()),
        create_revision: create,
        mod_revision: modified,
        version,
        ..KeyValue::default()
    };
    Answer::Range { reply: RangeReply { kvs: vec![kv], more: false, count: 1 }, revision }
}
fn nothing(revision: i64) -> Answer {
    Answer::Range { reply: RangeReply::default(), revision }
}

/// Begins (a call) and ends (an answer) in order, by number.
#[derive(Clone)]
enum Do {
    Begin(u64, Call),
    End(u64, Answer),
}
use Do::{Begin, End};

fn judge(story: Vec<Do>) -> Result<super::Verdict, crate::safety::Violation> {
    let mut record = Record::default();
    for step in story {
        match step {
            Begin(id, call) => record.begin(id, G, &call),
            End(id, answer) => record.end(id, &answer),
        }
    }
    record.judge()
}

pub fn self_check() {
    let one = |id, call, answer| vec![Begin(id, call), End(id, answer)];
    let sequence = |parts: Vec<Vec<Do>>| parts.into_iter().flatten().collect::<Vec<_>>();
    let good = vec![
        (
            "one after the other",
            sequence(vec![
                one(1, put("a"), put_at(2)),
                one(2, get(), read("a", 2, 2, 1, 2)),
                one(3, update(2, "b"), updated(3)),
                one(4, get(), read("b", 2, 3, 2, 3)),
                one(5, delete(), deleted(1, 4)),
                one(6, get(), nothing(4)),
            ]),
        ),
        (
            "at once, in the other order",
            vec![
                Begin(1, put("a")),
                Begin(2, put("b")),
                Begin(3, get()),
                End(2, put_at(2)),
                End(1, put_at(3)),
                End(3, read("b", 2, 2, 1, 2)),
                Begin(4, get()),
                End(4, read("a", 2, 3, 2, 3)),
            ],
        ),
        (
            "a call that timed out happens late",
            sequence(vec![
                one(1, put("a"), unknown()),
                one(2, get(), nothing(1)),
                one(3, get(), read("a", 2, 2, 1, 2)),
                one(4, put("b"), unknown()),
                one(5, get(), read("a", 2, 2, 1, 2)),
            ]),
        ),
        (
            "nobody knows which txn it was",
            sequence(vec![
                one(1, put("a"), put_at(2)),
                one(2, update(2, "b"), unknown()),
                one(3, update(2, "c"), unknown()),
                one(4, get(), read("c", 2, 3, 2, 3)),
            ]),
        ),
    ];
    for (name, story) in good {
        let verdict = judge(story);
        assert!(verdict.as_ref().is_ok_and(|v| v.undecided == 0), "{name}: {verdict:?}");
    }
    let bad = vec![
        (
            "a stale read",
            sequence(vec![
                one(1, put("a"), put_at(2)),
                one(2, put("b"), put_at(3)),
                one(3, get(), read("a", 2, 2, 1, 3)),
            ]),
        ),
        (
            "a header that falls",
            sequence(vec![one(1, put("a"), put_at(3)), one(2, get(), read("a", 2, 2, 1, 2))]),
        ),
        (
            "a value that nobody wrote",
            sequence(vec![one(1, put("a"), put_at(2)), one(2, get(), read("x", 2, 2, 1, 2))]),
        ),
        (
            "a write that is lost",
            sequence(vec![one(1, put("a"), put_at(2)), one(2, get(), nothing(2))]),
        ),
        (
            "two updates of one revision",
            vec![
                Begin(1, put("a")),
                End(1, put_at(2)),
                Begin(2, update(2, "b")),
                Begin(3, update(2, "c")),
                End(2, updated(3)),
                End(3, updated(4)),
            ],
        ),
        (
            "two readers that disagree on the order",
            vec![
                Begin(1, put("a")),
                Begin(2, put("b")),
                Begin(3, get()),
                End(3, read("a", 2, 2, 1, 3)),
                Begin(4, get()),
                End(4, read("b", 2, 3, 2, 3)),
                Begin(5, get()),
                End(5, read("a", 2, 2, 1, 3)),
                End(1, put_at(2)),
                End(2, put_at(3)),
            ],
        ),
        (
            "a delete of what was not there",
            sequence(vec![one(1, put("a"), put_at(2)), one(2, delete(), deleted(0, 2))]),
        ),
        (
            "it happened before it was asked for",
            vec![
                Begin(1, get()),
                End(1, read("a", 2, 2, 1, 2)),
                Begin(2, put("a")),
                End(2, put_at(3)),
            ],
        ),
        (
            "once refused for good, and there",
            sequence(vec![
                one(1, put("a"), put_at(2)),
                one(2, put("b"), Answer::Failed { error: ApiError::TooManyRequests, never: true }),
                one(3, get(), read("b", 2, 3, 2, 3)),
            ]),
        ),
    ];
    for (_, story) in bad {
        caught("black-box", || judge(story.clone()).map(drop));
    }
}
