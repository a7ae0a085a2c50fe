//! Negative controls of what members promise each other: for each rule one observation that keeps
//! it and one that breaks it, made by hand.

use super::{Checked, LogShape, Safety, Said};
use crate::changes::Changes;
use crate::rules::control::control;
use bytes::Bytes;
use quorate::multiraft::turn::BOOT_INDEX;
use quorate::types::{
    ConfChange, ConfState, Entry, EntryKind, GroupId, HardState, LogIndex, Message, MessageBody,
    NodeId, Term,
};
use quorate::wal::Record;
use std::collections::BTreeMap;

const G: GroupId = GroupId(1);
const A: NodeId = NodeId(1);
const B: NodeId = NodeId(2);
const C: NodeId = NodeId(3);
const ALL: [NodeId; 3] = [A, B, C];

fn index(n: u64) -> LogIndex {
    LogIndex(BOOT_INDEX.0 + n)
}

fn entry(term: u64, n: u64, data: &'static str) -> Entry {
    let data = Bytes::from_static(data.as_bytes());
    Entry { term: Term(term), index: index(n), kind: EntryKind::Command, data }
}

/// What a member writes down and syncs.
fn hold(safety: &mut Safety, node: NodeId, term: u64, vote: NodeId, entries: Vec<Entry>) {
    let hard = HardState { term: Term(term), vote, commit: LogIndex::ZERO };
    safety.on_write(node, &[Record::HardState { group: G, hard }]);
    if !entries.is_empty() {
        safety.on_write(node, &[Record::Append { group: G, entries }]);
    }
    safety.on_synced(node);
}

/// Three members, of which these have the entry on their disks, and nobody can win an election of
/// before term 90 any more without having won it.
fn three(have: &[NodeId], entry: &Entry) -> Safety {
    let mut safety = Safety::new(1, &ALL);
    for node in ALL {
        let entries = have.contains(&node).then(|| entry.clone()).into_iter().collect();
        hold(&mut safety, node, 90, NodeId(0), entries);
    }
    safety
}

fn said(term: u64, is_leader: bool, commit: u64, last: u64) -> Said {
    Said {
        term: Term(term),
        is_leader,
        commit: index(commit),
        applied: index(0),
        last: index(last),
        conf: ConfState::of_voters(ALL.to_vec()),
        ..Said::default()
    }
}

fn message(from: NodeId, to: NodeId, body: MessageBody) -> Message {
    Message { group: G, from, to, term: Term(5), body }
}

fn log(term: u64, vote: NodeId, entries: &[(u64, u64)]) -> BTreeMap<GroupId, LogShape> {
    let hard = HardState { term: Term(term), vote, commit: LogIndex::ZERO };
    let mut shape = LogShape { hard, ..LogShape::default() };
    shape.append(entries.iter().map(|(n, term)| (index(*n), Term(*term))));
    [(G, shape)].into()
}

pub fn self_check() {
    let a = entry(1, 1, "a");
    leaders(&a);
    logs(&a);
    statuses();
    configurations();
    disks(&a);
}

fn leaders(a: &Entry) {
    control("election-safety", |spoilt| {
        let mut safety = three(&[], a);
        safety.on_status(1, A, G, &said(2, true, 0, 0))?;
        safety.on_status(2, B, G, &said(if spoilt { 2 } else { 3 }, true, 0, 0))
    });
    control("election-quorum", |spoilt| {
        let mut safety = Safety::new(1, &ALL);
        hold(&mut safety, A, 2, A, vec![]);
        hold(&mut safety, B, 2, if spoilt { B } else { A }, vec![]);
        safety.on_status(1, A, G, &said(2, true, 0, 0))
    });
    control("leader-completeness", |spoilt| {
        let mut safety = three(&ALL, a);
        safety.on_apply(A, G, Term(1), std::slice::from_ref(a))?;
        safety.on_status(2, B, G, &said(2, true, 0, if spoilt { 0 } else { 1 }))
    });
    control("committed-by-quorum", |spoilt| {
        let have: &[NodeId] = if spoilt { &[A] } else { &[A, C] };
        let mut safety = three(have, &entry(2, 1, "a"));
        safety.on_status(1, A, G, &said(2, true, 0, 1))?;
        safety.on_status(1, A, G, &said(2, true, 1, 1))
    });
}

fn logs(a: &Entry) {
    let other = |spoilt| if spoilt { "b" } else { "a" };
    control("log-matching", |spoilt| {
        let mut safety = Safety::new(1, &ALL);
        safety.on_append(A, G, std::slice::from_ref(a))?;
        safety.on_append(B, G, &[entry(1, 1, other(spoilt))])
    });
    control("committed-immutable", |spoilt| {
        let mut safety = three(&ALL, a);
        safety.on_apply(A, G, Term(1), std::slice::from_ref(a))?;
        safety.on_append(B, G, &[entry(if spoilt { 2 } else { 1 }, 1, "a")])
    });
    control("committed-is-durable", |spoilt| {
        let have: &[NodeId] = if spoilt { &[A] } else { &[A, B] };
        three(have, a).on_apply(A, G, Term(1), std::slice::from_ref(a)).map(drop)
    });
    control("applied-is-durable-here", |spoilt| {
        let have: &[NodeId] = if spoilt { &[B, C] } else { &[A, B] };
        three(have, a).on_apply(A, G, Term(1), std::slice::from_ref(a)).map(drop)
    });
    control("state-machine-safety", |spoilt| {
        let mut safety = three(&ALL, a);
        safety.on_apply(A, G, Term(1), std::slice::from_ref(a))?;
        safety.on_apply(B, G, Term(1), &[entry(1, 1, other(spoilt))]).map(drop)
    });
    control("commit-gap", |spoilt| {
        let entry = entry(1, if spoilt { 2 } else { 1 }, "a");
        three(&ALL, &entry).on_apply(A, G, Term(1), std::slice::from_ref(&entry)).map(drop)
    });
    control("state-equality", |spoilt| {
        let mut safety = Safety::new(1, &ALL);
        safety.on_state(A, G, index(1), 7)?;
        safety.on_state(B, G, index(1), if spoilt { 8 } else { 7 })
    });
}

fn statuses() {
    control("monotone-term", |spoilt| {
        let mut safety = Safety::new(1, &ALL);
        safety.on_status(1, A, G, &said(3, false, 0, 0))?;
        // Another process of the same member may have lost a term that it had not synced.
        safety.on_status(if spoilt { 1 } else { 2 }, A, G, &said(2, false, 0, 0))
    });
    control("monotone-commit", |spoilt| {
        let mut safety = Safety::new(1, &ALL);
        safety.on_status(1, A, G, &said(3, false, 1, 1))?;
        safety.on_status(1, A, G, &said(3, false, if spoilt { 0 } else { 1 }, 1))
    });
}

fn configurations() {
    control("configuration", |spoilt| {
        let voters = if spoilt { vec![A, B] } else { ALL.to_vec() };
        let said = Said { conf: ConfState::of_voters(voters), ..said(2, false, 0, 0) };
        Safety::new(1, &ALL).on_status(1, A, G, &said)
    });
    control("conf-verdict", |spoilt| {
        let mut safety = Safety::new(1, &ALL);
        let change = ConfChange::default();
        safety.confs.on_verdict(A, G, index(1), Some(&change))?;
        safety.confs.on_verdict(B, G, index(1), if spoilt { None } else { Some(&change) })
    });
    control("one-pending-change", |spoilt| {
        let mut changes = Changes::default();
        let change = |n| Entry { kind: EntryKind::ConfChange, ..entry(1, n, "") };
        changes.on_append(A, G, &[change(1)], index(0), |_| true)?;
        changes.on_append(A, G, &[change(2)], index(if spoilt { 0 } else { 1 }), |_| true)
    });
}

fn disks(a: &Entry) {
    control("message-after-durable", |spoilt| {
        let mut safety = Safety::new(1, &ALL);
        hold(&mut safety, A, 5, if spoilt { C } else { B }, vec![]);
        safety.on_send(A, &message(A, B, MessageBody::VoteReply { granted: true }))
    });
    control("message-after-durable", |spoilt| {
        let mut safety = Safety::new(1, &ALL);
        hold(&mut safety, A, 5, NodeId(0), vec![a.clone()]);
        let index = index(if spoilt { 2 } else { 1 });
        safety.on_send(A, &message(A, B, MessageBody::AppendReply { index, reject: None }))
    });
    // Written and not synced is not yet promised.
    control("message-after-durable", |spoilt| {
        let mut safety = Safety::new(1, &ALL);
        hold(&mut safety, A, 5, NodeId(0), vec![]);
        safety.on_write(A, &[Record::Append { group: G, entries: vec![a.clone()] }]);
        if !spoilt {
            safety.on_synced(A);
        }
        let body = MessageBody::AppendReply { index: index(1), reject: None };
        safety.on_send(A, &message(A, B, body))
    });
    let found = |logs: BTreeMap<GroupId, LogShape>| -> Checked {
        let mut safety = Safety::new(1, &ALL);
        hold(&mut safety, A, 5, B, vec![a.clone(), entry(2, 2, "b")]);
        safety.on_recovered(A, logs)
    };
    let whole = [(1, 1), (2, 2)];
    control("durable-after-restart", |spoilt| {
        found(if spoilt { BTreeMap::new() } else { log(5, B, &whole) })
    });
    control("durable-hard-state", |spoilt| found(log(if spoilt { 4 } else { 6 }, B, &whole)));
    control("durable-hard-state", |spoilt| found(log(5, if spoilt { C } else { B }, &whole)));
    control("durable-log", |spoilt| found(log(5, B, if spoilt { &whole[..1] } else { &whole })));
    control("durable-log", |spoilt| {
        let other = [(1, 1), (2, 3)];
        found(log(5, B, if spoilt { &other } else { &whole }))
    });
    // Behind a fetched state: gone where the two part, kept where they agree.
    control("durable-log", |spoilt| {
        let mut logs = log(5, B, &[]);
        let fetched = (index(1), Term(if spoilt { 1 } else { 2 }));
        logs.get_mut(&G).expect("the one group").start = fetched;
        found(logs)
    });
}
