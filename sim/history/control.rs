//! Negative controls: each corrupts one record of a good history and must be noticed.

use super::{Answer, Call, History};
use crate::rules::control::control;
use crate::safety::Violation;
use bytes::Bytes;
use quorate::multiraft::turn::BOOT_INDEX;
use quorate::types::command::{CompactRequest, Proposal, PutRequest, RangeRequest};
use quorate::types::reply::{PutReply, Reply};
use quorate::types::{
    ApiError, Command, Entry, EntryKind, GroupId, KeyRange, LeaseId, LogIndex, RequestId, Term,
};

pub fn self_check() {
    let put = |value: &'static str| {
        Command::Put(PutRequest {
            key: Bytes::from_static(b"k"),
            value: Bytes::from_static(value.as_bytes()),
            ..PutRequest::default()
        })
    };
    let read =
        Call::Range(RangeRequest { range: KeyRange::single("k"), ..RangeRequest::default() });
    let entry = |index| Entry {
        term: Term(1),
        index: LogIndex(BOOT_INDEX.0 + index),
        kind: EntryKind::Command,
        data: Bytes::new(),
    };
    let wrote = |revision, at| Answer::Wrote {
        reply: Ok(Reply::Put(PutReply::default())),
        revision,
        index: LogIndex(BOOT_INDEX.0 + at),
    };
    let id = |seq| RequestId { origin: 1, seq };
    let g = GroupId(1);
    // Two acknowledged writes, then one read, then one write that is refused.
    let story = |spoil: u8| -> Result<(), Violation> {
        let mut h = History::new(1, 0);
        for seq in 1..=2_u64 {
            let command = put(if seq == 1 { "a" } else { "b" });
            let call = h.begin(seq * 10, g, Call::Write(command.clone()));
            h.commit(
                seq * 10 + 1,
                g,
                &entry(seq),
                Some(Proposal { id: id(seq), caller: None, command }),
            )?;
            let revision = 1 + seq as i64 + i64::from(spoil == 1 && seq == 2);
            h.end(seq * 10 + 2, call, wrote(revision, seq))?;
        }
        let call = h.begin(40, g, read.clone());
        let revision = if spoil == 2 { 2 } else { 3 };
        let Call::Range(request) = &read else { unreachable!() };
        let mut reply = h.model(g).range_at(request, revision);
        if spoil == 3 {
            reply.kvs[0].value = Bytes::from_static(b"a");
        }
        if spoil == 5 {
            h.quorum_lost(39);
        }
        h.end(41, call, Answer::Range { reply, revision })?;
        if spoil == 4 {
            h.commit(
                50,
                g,
                &entry(3),
                Some(Proposal { id: id(1), caller: None, command: put("a") }),
            )?;
        }
        let call = h.begin(60, g, Call::Write(put("c")));
        match spoil {
            6 => h.end(61, call, wrote(4, 3))?,
            8 => h.end(61, call, wrote(3, 2))?,
            _ => {
                let error = ApiError::TooManyRequests;
                h.end(61, call, Answer::Failed { error, never: true })?;
            }
        }
        if spoil == 7 {
            let late = Proposal { id: id(9), caller: None, command: put("c") };
            h.commit(62, g, &entry(3), Some(late))?;
        }
        Ok(())
    };
    let expected = [
        "wrong-reply",
        "linearizable-read",
        "wrong-read",
        "applied-twice",
        "answer-without-quorum",
        "acked-not-committed",
        "refused-but-done",
        "answered-twice",
    ];
    for (spoil, rule) in (1_u8..).zip(expected) {
        control(rule, |spoilt| story(if spoilt { spoil } else { 0 }));
    }
    writes(&|seq, command| Proposal { id: id(seq), caller: None, command }, &put);
    reads(&|seq, command| Proposal { id: id(seq), caller: None, command }, &put);
    super::leases::self_check();
    super::rights::self_check();
}

/// A command on its way into the log, and a put of a value.
type Proposes<'f> = &'f dyn Fn(u64, Command) -> Proposal;
type Puts<'f> = &'f dyn Fn(&'static str) -> Command;

const G: GroupId = GroupId(1);

fn at(n: u64) -> LogIndex {
    LogIndex(BOOT_INDEX.0 + n)
}

fn log(n: u64) -> Entry {
    Entry { term: Term(1), index: at(n), kind: EntryKind::Command, data: Bytes::new() }
}

fn failed(error: ApiError) -> Answer {
    Answer::Failed { error, never: false }
}

fn writes(proposal: Proposes, put: Puts) {
    let wrote = |revision, n| Answer::Wrote {
        reply: Ok(Reply::Put(PutReply::default())),
        revision,
        index: at(n),
    };
    control("wrong-alarm", |spoilt| {
        let mut h = History::new(1, 0);
        let call = h.begin(1, G, Call::Write(put("d")));
        h.end(2, call, failed(if spoilt { ApiError::NoSpace } else { ApiError::Timeout }))
    });
    // A lease that is not there: the log says so, or nobody does.
    control("wrong-verdict", |spoilt| {
        let mut h = History::new(1, 0);
        let revoke = Command::LeaseRevoke { ids: vec![LeaseId(7)], leader: None };
        let call = h.begin(1, G, Call::Write(revoke.clone()));
        let there = if spoilt { put("other") } else { revoke };
        h.commit(2, G, &log(1), Some(proposal(1, there)))?;
        h.end(3, call, failed(ApiError::LeaseNotFound))
    });
    control("wrong-command", |spoilt| {
        let mut h = History::new(1, 0);
        let call = h.begin(1, G, Call::Write(put("a")));
        let there = put(if spoilt { "b" } else { "a" });
        h.commit(2, G, &log(1), Some(proposal(1, there)))?;
        h.end(3, call, wrote(2, 1))
    });
    control("wrong-kind", |spoilt| {
        let mut h = History::new(1, 0);
        let call = h.begin(1, G, Call::Write(put("a")));
        h.commit(2, G, &log(1), Some(proposal(1, put("a"))))?;
        let other = Answer::KeptAlive { ttl_seconds: 1 };
        h.end(3, call, if spoilt { other } else { wrote(2, 1) })
    });
    control("undecodable", |spoilt| {
        let kind = if spoilt { EntryKind::Command } else { EntryKind::Empty };
        History::new(1, 0).commit(1, G, &Entry { kind, ..log(1) }, None)
    });
    control("commit-gap", |spoilt| {
        let mut h = History::new(1, 0);
        h.commit(1, G, &log(if spoilt { 2 } else { 1 }), Some(proposal(1, put("a"))))
    });
    // The first of two writes is answered to somebody who asked when the second had been.
    control("real-time-order", |spoilt| {
        let mut h = History::new(1, 0);
        let early = h.begin(1, G, Call::Write(put("a")));
        h.commit(2, G, &log(1), Some(proposal(1, put("a"))))?;
        let second = h.begin(3, G, Call::Write(put("b")));
        h.commit(4, G, &log(2), Some(proposal(2, put("b"))))?;
        h.end(5, second, wrote(3, 2))?;
        let late = h.begin(6, G, Call::Write(put("a")));
        h.end(7, if spoilt { late } else { early }, wrote(2, 1))
    });
}

fn reads(proposal: Proposes, put: Puts) {
    let read = |revision| RangeRequest {
        range: KeyRange::single("k"),
        revision,
        ..RangeRequest::default()
    };
    // Two writes, at revisions 2 and 3, and a compaction at 3 if so.
    let story = |compacted: bool| -> Result<History, Violation> {
        let mut h = History::new(1, 0);
        for (seq, value) in [(1, "a"), (2, "b")] {
            h.commit(seq, G, &log(seq), Some(proposal(seq, put(value))))?;
        }
        if compacted {
            let compact = Command::Compact(CompactRequest { revision: 3, physical: false });
            let call = h.begin(3, G, Call::Write(compact.clone()));
            h.commit(4, G, &log(3), Some(proposal(3, compact)))?;
            let answer = Answer::Wrote { reply: Ok(Reply::Compact), revision: 3, index: at(3) };
            h.end(5, call, answer)?;
        }
        Ok(h)
    };
    // A read of a revision is answered from the state of another.
    let ask = |mut h: History, revision, from, header| {
        let call = h.begin(6, G, Call::Range(read(revision)));
        let reply = h.model(G).range_at(&read(from), header);
        h.end(7, call, Answer::Range { reply, revision: header })
    };
    control("read-uncommitted", |spoilt| ask(story(false)?, 0, 3, if spoilt { 4 } else { 3 }));
    control("read-future", |spoilt| ask(story(false)?, 3, 3, if spoilt { 2 } else { 3 }));
    control("read-compacted", |spoilt| {
        let revision = if spoilt { 2 } else { 3 };
        ask(story(true)?, revision, revision, 3)
    });
    control("linearizable-read", |spoilt| {
        let mut h = story(false)?;
        let call = h.begin(6, G, Call::Range(read(if spoilt { 1 } else { 9 })));
        h.end(7, call, failed(ApiError::FutureRevision))
    });
}
