//! Negative controls: each corrupts one record of a good history and must be noticed.

use super::{Answer, Call, History};
use crate::safety::Violation;
use bytes::Bytes;
use quorate::multiraft::turn::BOOT_INDEX;
use quorate::types::command::{Proposal, RangeRequest};
use quorate::types::reply::Reply;
use quorate::types::{ApiError, Command, Entry, EntryKind, GroupId, LogIndex, RequestId};

pub fn self_check() {
    use quorate::types::command::PutRequest;
    use quorate::types::reply::PutReply;
    use quorate::types::{KeyRange, Term};

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
    story(0).expect("a good history passes");
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
        let caught = story(spoil).expect_err("a spoilt history is noticed");
        assert_eq!(caught.rule, rule, "spoilt in way {spoil}: {caught:?}");
        let blind = crate::safety::blinded(rule, || story(spoil));
        assert!(
            blind.as_ref().err().is_none_or(|v| v.rule != rule),
            "the switch of {rule} does not reach it: {blind:?}"
        );
    }
    let mut h = History::new(1, 0);
    let call = h.begin(1, g, Call::Write(put("d")));
    let error = ApiError::NoSpace;
    let caught = h.end(2, call, Answer::Failed { error, never: false });
    assert_eq!(caught.expect_err("nobody raised it").rule, "wrong-alarm");
    super::leases::self_check();
}
