//! What Raft keeps and sends: hard state, configurations, entries, messages.
//!
//! Messages are not framed here: a transport frame carries many of them, the log's records have a
//! frame of their own.

use super::reader::{DecodeError, Reader};
use super::varint::{put_bool, put_bytes, put_bytes_list, put_varint, varint_len};
use crate::types::message::{Message, MessageBody, RejectHint, SnapshotMeta};
use crate::types::{
    ConfChange, ConfChangeKind, ConfState, Entry, EntryKind, GroupId, HardState, LogIndex, NodeId,
    Term,
};
use bytes::{BufMut, Bytes, BytesMut};

/// The least that an encoded entry takes: kind, term, index, length.
const ENTRY_BYTES_MIN: usize = 4;
/// The least that an encoded message takes: group, from, to, term, tag.
pub const MESSAGE_BYTES_MIN: usize = 19;

pub fn encode_hard_state(hard: &HardState, out: &mut BytesMut) {
    put_varint(out, hard.term.0);
    out.put_u64_le(hard.vote.0);
    put_varint(out, hard.commit.0);
}

pub fn decode_hard_state(r: &mut Reader<'_>) -> Result<HardState, DecodeError> {
    Ok(HardState { term: term(r)?, vote: node(r, "vote")?, commit: index(r, "commit index")? })
}

fn term(r: &mut Reader<'_>) -> Result<Term, DecodeError> {
    r.varint("term").map(Term)
}

fn index(r: &mut Reader<'_>, what: &'static str) -> Result<LogIndex, DecodeError> {
    r.varint(what).map(LogIndex)
}

fn node(r: &mut Reader<'_>, what: &'static str) -> Result<NodeId, DecodeError> {
    r.u64_le(what).map(NodeId)
}

pub fn encode_conf_state(conf: &ConfState, out: &mut BytesMut) {
    let ConfState { voters, learners, voters_outgoing, learners_next, auto_leave } = conf;
    for list in [voters, learners, voters_outgoing, learners_next] {
        put_varint(out, list.len() as u64);
        for id in list {
            out.put_u64_le(id.0);
        }
    }
    put_bool(out, *auto_leave);
}

pub fn decode_conf_state(r: &mut Reader<'_>) -> Result<ConfState, DecodeError> {
    let mut list = |what| {
        let unsorted = r.error("sorted list of nodes");
        let ids = r.list(8, what, |r| node(r, what))?;
        if ids.is_sorted_by(|a, b| a < b) { Ok(ids) } else { Err(unsorted) }
    };
    Ok(ConfState {
        voters: list("voters")?,
        learners: list("learners")?,
        voters_outgoing: list("outgoing voters")?,
        learners_next: list("next learners")?,
        auto_leave: r.bool("leave flag")?,
    })
}

/// The data of an entry of kind `ConfChange`.
pub fn encode_conf_change(change: &ConfChange) -> Bytes {
    let ConfChange { changes, joint, auto_leave, context } = change;
    let mut out = BytesMut::with_capacity(16 + 9 * changes.len() + context.len());
    put_varint(&mut out, changes.len() as u64);
    for (kind, node) in changes {
        out.put_u8(match kind {
            ConfChangeKind::AddVoter => 0,
            ConfChangeKind::AddLearner => 1,
            ConfChangeKind::Remove => 2,
        });
        out.put_u64_le(node.0);
    }
    put_bool(&mut out, *joint);
    put_bool(&mut out, *auto_leave);
    put_bytes(&mut out, context);
    out.freeze()
}

pub fn decode_conf_change(bytes: &Bytes) -> Result<ConfChange, DecodeError> {
    let r = &mut Reader::new(bytes);
    let change = ConfChange {
        changes: r.list(9, "configuration changes", |r| {
            let unknown = r.error("known configuration change");
            let kind = match r.u8("configuration change")? {
                0 => ConfChangeKind::AddVoter,
                1 => ConfChangeKind::AddLearner,
                2 => ConfChangeKind::Remove,
                _ => return Err(unknown),
            };
            Ok((kind, node(r, "changed node")?))
        })?,
        joint: r.bool("joint flag")?,
        auto_leave: r.bool("leave flag")?,
        context: r.bytes("change context")?,
    };
    r.finish()?;
    Ok(change)
}

pub fn encode_snapshot_meta(meta: &SnapshotMeta, out: &mut BytesMut) {
    put_varint(out, meta.index.0);
    put_varint(out, meta.term.0);
    encode_conf_state(&meta.conf, out);
}

pub fn decode_snapshot_meta(r: &mut Reader<'_>) -> Result<SnapshotMeta, DecodeError> {
    Ok(SnapshotMeta {
        index: index(r, "snapshot index")?,
        term: term(r)?,
        conf: decode_conf_state(r)?,
    })
}

/// `kind | term | index | data`, the data last so that a writer can leave it where it is.
pub fn encode_entry(entry: &Entry, out: &mut BytesMut) {
    encode_entry_head(entry, out);
    out.put_slice(&entry.data);
}

/// Everything of an entry but the data, which must follow it.
pub fn encode_entry_head(entry: &Entry, out: &mut BytesMut) {
    out.put_u8(match entry.kind {
        EntryKind::Empty => 0,
        EntryKind::Command => 1,
        EntryKind::ConfChange => 2,
    });
    put_varint(out, entry.term.0);
    put_varint(out, entry.index.0);
    put_varint(out, entry.data.len() as u64);
}

/// How many bytes `encode_entry` writes.
pub fn entry_bytes(entry: &Entry) -> usize {
    let data = entry.data.len();
    1 + varint_len(entry.term.0) + varint_len(entry.index.0) + varint_len(data as u64) + data
}

pub fn decode_entry(r: &mut Reader<'_>) -> Result<Entry, DecodeError> {
    let unknown = r.error("known entry kind");
    let kind = match r.u8("entry kind")? {
        0 => EntryKind::Empty,
        1 => EntryKind::Command,
        2 => EntryKind::ConfChange,
        _ => return Err(unknown),
    };
    Ok(Entry {
        kind,
        term: term(r)?,
        index: index(r, "entry index")?,
        data: r.bytes("entry data")?,
    })
}

/// `group | from u64 | to u64 | term | tag | fields of the body`
pub fn encode_message(message: &Message, out: &mut BytesMut) {
    let Message { group, from, to, term, body } = message;
    put_varint(out, group.0);
    out.put_u64_le(from.0);
    out.put_u64_le(to.0);
    put_varint(out, term.0);
    match body {
        MessageBody::PreVote { last_index, last_term } => {
            out.put_u8(1);
            put_varint(out, last_index.0);
            put_varint(out, last_term.0);
        }
        MessageBody::PreVoteReply { granted } => {
            out.put_u8(2);
            put_bool(out, *granted);
        }
        MessageBody::Vote { last_index, last_term, forced } => {
            out.put_u8(3);
            put_varint(out, last_index.0);
            put_varint(out, last_term.0);
            put_bool(out, *forced);
        }
        MessageBody::VoteReply { granted } => {
            out.put_u8(4);
            put_bool(out, *granted);
        }
        MessageBody::Append { prev_index, prev_term, commit, entries } => {
            out.reserve(64 + entries.iter().map(entry_bytes).sum::<usize>());
            out.put_u8(5);
            put_varint(out, prev_index.0);
            put_varint(out, prev_term.0);
            put_varint(out, commit.0);
            put_varint(out, entries.len() as u64);
            for entry in entries {
                encode_entry(entry, out);
            }
        }
        MessageBody::AppendReply { index, reject } => {
            out.put_u8(6);
            put_varint(out, index.0);
            put_bool(out, reject.is_some());
            if let Some(RejectHint { index, term }) = reject {
                put_varint(out, index.0);
                put_varint(out, term.0);
            }
        }
        MessageBody::Heartbeat { commit, context } => {
            out.put_u8(7);
            put_varint(out, commit.0);
            put_varint(out, *context);
        }
        MessageBody::HeartbeatReply { context } => {
            out.put_u8(8);
            put_varint(out, *context);
        }
        MessageBody::Snapshot { meta } => {
            out.put_u8(9);
            encode_snapshot_meta(meta, out);
        }
        MessageBody::SnapshotRefused { index } => {
            out.put_u8(10);
            put_varint(out, index.0);
        }
        MessageBody::TimeoutNow => out.put_u8(11),
        MessageBody::Propose { data } => {
            out.put_u8(12);
            put_bytes_list(out, data);
        }
        MessageBody::ReadIndex { context } => {
            out.put_u8(13);
            put_varint(out, *context);
        }
        MessageBody::ReadIndexReply { context, index } => {
            out.put_u8(14);
            put_varint(out, *context);
            put_varint(out, index.0);
        }
        MessageBody::Committed { index, term } => {
            out.put_u8(15);
            put_varint(out, index.0);
            put_varint(out, term.0);
        }
    }
}

pub fn decode_message(r: &mut Reader<'_>) -> Result<Message, DecodeError> {
    let group = GroupId(r.varint("group")?);
    let (from, to) = (node(r, "sender")?, node(r, "receiver")?);
    let message_term = term(r)?;
    let unknown = r.error("known message");
    let body = match r.u8("message tag")? {
        1 => MessageBody::PreVote { last_index: index(r, "last index")?, last_term: term(r)? },
        2 => MessageBody::PreVoteReply { granted: r.bool("grant")? },
        3 => MessageBody::Vote {
            last_index: index(r, "last index")?,
            last_term: term(r)?,
            forced: r.bool("force flag")?,
        },
        4 => MessageBody::VoteReply { granted: r.bool("grant")? },
        5 => MessageBody::Append {
            prev_index: index(r, "previous index")?,
            prev_term: term(r)?,
            commit: index(r, "commit index")?,
            entries: r.list(ENTRY_BYTES_MIN, "entries", decode_entry)?,
        },
        6 => MessageBody::AppendReply {
            index: index(r, "accepted index")?,
            reject: r.option("reject flag", |r| {
                Ok(RejectHint { index: index(r, "hint index")?, term: term(r)? })
            })?,
        },
        7 => MessageBody::Heartbeat {
            commit: index(r, "commit index")?,
            context: r.varint("read context")?,
        },
        8 => MessageBody::HeartbeatReply { context: r.varint("read context")? },
        9 => MessageBody::Snapshot { meta: decode_snapshot_meta(r)? },
        10 => MessageBody::SnapshotRefused { index: index(r, "snapshot index")? },
        11 => MessageBody::TimeoutNow,
        12 => MessageBody::Propose { data: r.list(1, "proposals", |r| r.bytes("proposal"))? },
        13 => MessageBody::ReadIndex { context: r.varint("read context")? },
        14 => MessageBody::ReadIndexReply {
            context: r.varint("read context")?,
            index: index(r, "read index")?,
        },
        15 => MessageBody::Committed { index: index(r, "committed index")?, term: term(r)? },
        _ => return Err(unknown),
    };
    Ok(Message { group, from, to, term: message_term, body })
}
