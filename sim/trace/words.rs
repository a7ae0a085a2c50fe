//! Short words for what travels and is asked: one line a person can read in passing. What has no
//! words here is told as its `Debug` text, so that nothing new goes missing.

use crate::history::{Answer, Call};
use bytes::Bytes;
use quorate::codec::command::decode_proposal;
use quorate::multiraft::NodeMessage;
use quorate::mvcc::watch::WatchOut;
use quorate::types::command::{
    Compare, CompareResult, CompareTarget, PutRequest, RangeRequest, RequestOp, SortOrder,
    TxnRequest,
};
use quorate::types::reply::{EventKind, KeyValue, RangeReply, Reply, ReplyOp, TxnReply};
use quorate::types::{
    Command, Entry, EntryKind, KeyRange, LeaseId, LogIndex, Message, MessageBody, NodeId,
};
use quorate::wal::Record;

/// Bytes as text, or as hex where they are none; long fillings cut.
pub fn bytes(bytes: &[u8]) -> String {
    let text = match std::str::from_utf8(bytes) {
        Ok(text) if !text.chars().any(char::is_control) => text.to_owned(),
        _ => format!("0x{}", bytes.iter().map(|b| format!("{b:02x}")).collect::<String>()),
    };
    let short = text.trim_end_matches('.');
    if short.chars().count() > 40 {
        let head: String = short.chars().take(40).collect();
        format!("{head}…")
    } else {
        short.to_owned()
    }
}

pub fn range(range: &KeyRange) -> String {
    if range.is_single() {
        bytes(&range.key)
    } else if range.is_from_key() && range.key.as_ref() == [0] {
        "[everything]".to_owned()
    } else if range.is_from_key() {
        format!("[{}..]", bytes(&range.key))
    } else {
        format!("[{}..{})", bytes(&range.key), bytes(&range.end))
    }
}

fn put(put: &PutRequest) -> String {
    let value = if put.ignore_value { "(same value)".to_owned() } else { bytes(&put.value) };
    let lease = match put.lease {
        LeaseId::NONE => String::new(),
        lease => format!(" lease {lease}"),
    };
    format!("put {} = {value}{lease}", bytes(&put.key))
}

fn read(request: &RangeRequest) -> String {
    let mut text = format!("get {}", range(&request.range));
    if request.revision > 0 {
        text += &format!(" @rev {}", request.revision);
    }
    if request.limit > 0 {
        text += &format!(" limit {}", request.limit);
    }
    if request.sort_order != SortOrder::None {
        text += &format!(" {:?}", request.sort_order);
    }
    for (on, word) in [
        (request.count_only, " count"),
        (request.keys_only, " keys"),
        (request.serializable, " serializable"),
    ] {
        if on {
            text += word;
        }
    }
    text
}

fn compare(compare: &Compare) -> String {
    let how = match compare.result {
        CompareResult::Equal => "=",
        CompareResult::Greater => ">",
        CompareResult::Less => "<",
        CompareResult::NotEqual => "≠",
    };
    let key = range(&compare.range);
    match &compare.target {
        CompareTarget::Version(n) => format!("ver({key}) {how} {n}"),
        CompareTarget::Create(n) => format!("create({key}) {how} {n}"),
        CompareTarget::Mod(n) => format!("mod({key}) {how} {n}"),
        CompareTarget::Value(v) => format!("val({key}) {how} {}", bytes(v)),
        CompareTarget::Lease(n) => format!("lease({key}) {how} {n}"),
        CompareTarget::Unknown => format!("?({key})"),
    }
}

fn op(op: &RequestOp) -> String {
    match op {
        RequestOp::Range(r) => read(r),
        RequestOp::Put(p) => put(p),
        RequestOp::DeleteRange(d) => format!("del {}", range(&d.range)),
        RequestOp::Txn(t) => txn(t),
    }
}

fn txn(txn: &TxnRequest) -> String {
    let join = |ops: &[RequestOp]| ops.iter().map(op).collect::<Vec<_>>().join(", ");
    let compares: Vec<String> = txn.compare.iter().map(compare).collect();
    format!(
        "txn if {} then {{{}}} else {{{}}}",
        compares.join(" and "),
        join(&txn.success),
        join(&txn.failure)
    )
}

pub fn command(command: &Command) -> String {
    match command {
        Command::Put(p) => put(p),
        Command::DeleteRange(d) => format!("del {}", range(&d.range)),
        Command::Txn(t) => txn(t),
        Command::Compact(c) => format!("compact to rev {}", c.revision),
        Command::LeaseGrant { id, ttl_seconds } => format!("grant lease {id} of {ttl_seconds} s"),
        Command::LeaseRevoke { ids, leader } => {
            let ids: Vec<String> = ids.iter().map(LeaseId::to_string).collect();
            let why = leader.map_or(String::new(), |by| {
                format!(" (expired, by term {}, which has applied {})", by.term, by.applied)
            });
            format!("revoke lease {}{why}", ids.join(" "))
        }
        Command::PublishMember { id, .. } => format!("publish member {id}"),
        other => format!("{other:?}"),
    }
}

pub fn call(call: &Call) -> String {
    match call {
        Call::Write(c) => command(c),
        Call::Range(r) => read(r),
        Call::ReadTxn(t) => txn(t),
        Call::KeepAlive(id) => format!("keep lease {id} alive"),
        Call::LeaseTtl(id) => format!("time to live of lease {id}"),
        Call::Leases => "list leases".to_owned(),
    }
}

fn kv(kv: &KeyValue) -> String {
    format!("{}={}@{}", bytes(&kv.key), bytes(&kv.value), kv.mod_revision)
}

fn kvs(kvs: &[KeyValue]) -> String {
    let some: Vec<String> = kvs.iter().take(6).map(kv).collect();
    let more = if kvs.len() > 6 { format!(" … {} in all", kvs.len()) } else { String::new() };
    format!("[{}{more}]", some.join(" "))
}

fn found(reply: &RangeReply) -> String {
    let more = if reply.more { ", more" } else { "" };
    format!("{} count {}{more}", kvs(&reply.kvs), reply.count)
}

fn txn_reply(reply: &TxnReply) -> String {
    let each: Vec<String> = reply
        .replies
        .iter()
        .map(|r| match r {
            ReplyOp::Range { reply, .. } => found(reply),
            ReplyOp::Put { .. } => "put".to_owned(),
            ReplyOp::DeleteRange { reply, .. } => format!("deleted {}", reply.deleted),
            ReplyOp::Txn(t) => txn_reply(t),
        })
        .collect();
    format!("{} {{{}}}", if reply.succeeded { "then" } else { "else" }, each.join(", "))
}

fn reply(reply: &Reply) -> String {
    match reply {
        Reply::Put(p) => match &p.prev_kv {
            Some(prev) => format!("ok, was {}", kv(prev)),
            None => "ok".to_owned(),
        },
        Reply::DeleteRange(d) => format!("deleted {} {}", d.deleted, kvs(&d.prev_kvs)),
        Reply::Txn(t) => txn_reply(t),
        Reply::LeaseGrant { id, ttl_seconds } => format!("lease {id} of {ttl_seconds} s"),
        Reply::Compact | Reply::LeaseRevoke => "ok".to_owned(),
        other => format!("{other:?}"),
    }
}

pub fn answer(answer: &Answer) -> String {
    match answer {
        Answer::Wrote { reply: Ok(r), revision, index } => {
            format!("{} (rev {revision}, log {index})", reply(r))
        }
        Answer::Wrote { reply: Err(error), revision, index } => {
            format!("{error:?} (rev {revision}, log {index})")
        }
        Answer::Range { reply, revision } => format!("{} (rev {revision})", found(reply)),
        Answer::ReadTxn { reply, revision } => format!("{} (rev {revision})", txn_reply(reply)),
        Answer::KeptAlive { ttl_seconds } => format!("{ttl_seconds} s left"),
        Answer::Failed { error, .. } => format!("{error:?}"),
        Answer::LeaseTtl { granted_seconds, remaining_seconds } => {
            format!("{remaining_seconds} s of {granted_seconds} left")
        }
        Answer::Leases { leases, applied } => {
            format!("{} leases (log {applied})", leases.len())
        }
    }
}

/// The place in the log that an answer names, and its revision.
pub fn position(answer: &Answer) -> (LogIndex, i64) {
    match answer {
        Answer::Wrote { index, revision, .. } => (*index, *revision),
        Answer::Range { revision, .. } | Answer::ReadTxn { revision, .. } => {
            (LogIndex::ZERO, *revision)
        }
        _ => (LogIndex::ZERO, 0),
    }
}

fn data(data: &Bytes) -> String {
    decode_proposal(data)
        .map_or_else(|_| format!("{} bytes", data.len()), |proposal| command(&proposal.command))
}

pub fn entry(entry: &Entry) -> String {
    match entry.kind {
        EntryKind::Empty => "(new leader)".to_owned(),
        EntryKind::ConfChange => quorate::codec::raft::decode_conf_change(&entry.data)
            .map_or_else(|_| "configuration".to_owned(), |c| format!("{c:?}")),
        EntryKind::Command => data(&entry.data),
    }
}

fn entries(entries: &[Entry]) -> String {
    let shown = entries.iter().take(4);
    let each: Vec<String> = shown.map(|e| format!("{}@{} {}", e.index, e.term, entry(e))).collect();
    let more =
        if entries.len() > 4 { format!("; … to {}", last(entries)) } else { String::new() };
    format!("{}{more}", each.join("; "))
}

fn last(entries: &[Entry]) -> LogIndex {
    entries.last().map_or(LogIndex::ZERO, |e| e.index)
}

/// One raft message without group and term, which stand beside it.
pub fn body(body: &MessageBody) -> String {
    match body {
        MessageBody::PreVote { last_index, last_term } => {
            format!("pre-vote? log ends {last_index}@{last_term}")
        }
        MessageBody::Vote { last_index, last_term, forced } => {
            let forced = if *forced { ", forced" } else { "" };
            format!("vote? log ends {last_index}@{last_term}{forced}")
        }
        MessageBody::PreVoteReply { granted } => format!("pre-vote {}", yes(*granted)),
        MessageBody::VoteReply { granted } => format!("vote {}", yes(*granted)),
        MessageBody::Append { prev_index, prev_term, commit, entries: some } if some.is_empty() => {
            format!("append nothing after {prev_index}@{prev_term}, commit {commit}")
        }
        MessageBody::Append { prev_index, prev_term, commit, entries: some } => {
            format!("append after {prev_index}@{prev_term}, commit {commit}: {}", entries(some))
        }
        MessageBody::AppendReply { index, reject: None } => format!("have {index}"),
        MessageBody::AppendReply { index, reject: Some(hint) } => {
            format!("refuse append after {index}, try {}@{}", hint.index, hint.term)
        }
        MessageBody::Heartbeat { commit, context: 0 } => format!("heartbeat, commit {commit}"),
        MessageBody::Heartbeat { commit, context } => {
            format!("heartbeat, commit {commit}, read {context}")
        }
        MessageBody::HeartbeatReply { context: 0 } => "heartbeat reply".to_owned(),
        MessageBody::HeartbeatReply { context } => format!("heartbeat reply, read {context}"),
        MessageBody::Snapshot { meta } => format!("snapshot at {}@{}", meta.index, meta.term),
        MessageBody::Committed { index, term } => format!("{index}@{term} is committed"),
        MessageBody::Propose { data: all } => {
            let each: Vec<String> = all.iter().take(4).map(data).collect();
            format!("propose {}", each.join("; "))
        }
        MessageBody::ReadIndex { context } => format!("read index? {context}"),
        MessageBody::ReadIndexReply { context, index } => format!("read {context} at {index}"),
        MessageBody::SnapshotRefused { index } => format!("snapshot {index} refused"),
        MessageBody::TimeoutNow => "campaign now".to_owned(),
        #[allow(unreachable_patterns, reason = "messages to come")]
        other => format!("{other:?}"),
    }
}

fn yes(granted: bool) -> &'static str {
    if granted { "yes" } else { "no" }
}

pub fn message(message: &Message) -> String {
    format!("g{} t{} {}", message.group, message.term, body(&message.body))
}

pub fn frame(frame: &NodeMessage) -> String {
    match frame {
        NodeMessage::Raft(messages) => messages.iter().map(message).collect::<Vec<_>>().join("; "),
        NodeMessage::SnapshotFetch(f) => {
            format!("g{} fetch snapshot {} from {:?}", f.group, f.meta_index, f.cursor)
        }
        NodeMessage::SnapshotChunk(c) => format!(
            "g{} chunk of snapshot {}: {} items{}",
            c.group,
            c.meta_index,
            c.items.len(),
            if c.last { ", the last" } else { "" }
        ),
        other => format!("{other:?}"),
    }
}

/// The entries a message is about, first and last; zeros when it is about none.
pub fn reach(body: &MessageBody) -> (u64, u64) {
    match body {
        MessageBody::Append { prev_index, entries, .. } if !entries.is_empty() => {
            (prev_index.0 + 1, last(entries).0)
        }
        MessageBody::AppendReply { index, .. } => (index.0, index.0),
        MessageBody::Vote { last_index, .. } | MessageBody::PreVote { last_index, .. } => {
            (last_index.0, last_index.0)
        }
        MessageBody::Snapshot { meta } => (1, meta.index.0),
        MessageBody::Committed { index, .. } => (index.0, index.0),
        _ => (0, 0),
    }
}

/// What goes into the log in one write.
pub fn records(records: &[Record]) -> String {
    let each: Vec<String> = records
        .iter()
        .map(|record| match record {
            Record::HardState { group, hard } => {
                let vote = match hard.vote {
                    NodeId::NONE => "nobody".to_owned(),
                    vote => vote.to_string(),
                };
                format!("g{group} term {} vote {vote} commit {}", hard.term, hard.commit)
            }
            Record::Append { group, entries: some } => format!("g{group} {}", entries(some)),
            other => format!("{other:?}"),
        })
        .collect();
    each.join("; ")
}

/// What a watch stream brings.
pub fn watched(out: &WatchOut) -> String {
    match out {
        WatchOut::Created { watch_id, revision } => format!("#{watch_id} created at {revision}"),
        WatchOut::Refused { reason, .. } => format!("refused: {reason:?}"),
        WatchOut::Canceled { watch_id, compact_revision: Some(at), .. } => {
            format!("#{watch_id} canceled, compacted at {at}")
        }
        WatchOut::Canceled { watch_id, .. } => format!("#{watch_id} canceled"),
        WatchOut::Progress { watch_id, revision } => format!("#{watch_id} progress to {revision}"),
        WatchOut::Events { watch_id, batches, .. } => {
            let each = batches.iter().flat_map(|refs| refs.iter()).map(|event| {
                let kind = if event.kind == EventKind::Put { "put" } else { "delete" };
                let key = String::from_utf8_lossy(&event.kv.key);
                format!("{kind} {key} @{}", event.kv.mod_revision)
            });
            format!("#{watch_id} {}", each.collect::<Vec<_>>().join(", "))
        }
    }
}
