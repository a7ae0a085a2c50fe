//! Proposals: the payload of a log entry of kind `Command`.
//!
//! `format (1) | origin u64 | seq | command tag | fields in the order of the struct`
//!
//! A proposal that somebody asked for has format 2 and `user | auth revision` before the command.
//!
//! Whoever proposes checks a txn's depth before it encodes (`limits::TXN_DEPTH_MAX`); decoding
//! checks again, because the bytes may come from a peer or a disk.

use super::auth::{decode_auth, encode_auth};
use super::reader::{DecodeError, Reader};
use super::varint::{put_bool, put_bytes, put_strings, put_varint, put_zigzag};
use crate::types::auth::Caller;
use crate::types::command::{
    AlarmAction, AlarmKind, AlarmRequest, Command, CompactRequest, Compare, CompareResult,
    CompareTarget, DeleteRangeRequest, LeaseLeader, Proposal, PutRequest, RangeRequest, RequestOp,
    SortOrder, SortTarget, TxnRequest,
};
use crate::types::{
    GroupId, Incarnation, KeyRange, LeaseId, LogIndex, NodeId, RequestId, Term, limits,
};
use bytes::{BufMut, Bytes, BytesMut};

const FORMAT: u8 = 1;
/// With the caller in front of the command.
const FORMAT_WITH_CALLER: u8 = 2;

const PUT: u8 = 1;
const DELETE_RANGE: u8 = 2;
const TXN: u8 = 3;
const COMPACT: u8 = 4;
const LEASE_GRANT: u8 = 5;
const LEASE_REVOKE: u8 = 6;
const LEASE_CHECKPOINT: u8 = 7;
const ALARM: u8 = 8;
const PUBLISH_MEMBER: u8 = 9;
const CREATE_GROUP: u8 = 10;
const DESTROY_GROUP: u8 = 11;
const AUTH: u8 = 12;
const SET_DOWNGRADE: u8 = 13;

/// Who speaks of a lease.
const NO_LEADER: u8 = 0;
/// From before leaders said what they had applied: taken as having known every lease.
const LEADER_OF_OLD: u8 = 1;
const LEADER: u8 = 2;
const ALL: LogIndex = LogIndex(u64::MAX);

/// Tags of operations inside a txn; the first three are those of the commands.
const OP_RANGE: u8 = 4;

/// The least that one of each takes, for checking counts.
const COMPARE_BYTES_MIN: usize = 4;
const OP_BYTES_MIN: usize = 4;

pub fn encode_proposal(proposal: &Proposal) -> Bytes {
    let mut out = BytesMut::with_capacity(64 + payload_bytes(&proposal.command));
    out.put_u8(if proposal.caller.is_some() { FORMAT_WITH_CALLER } else { FORMAT });
    out.put_u64_le(proposal.id.origin);
    put_varint(&mut out, proposal.id.seq);
    if let Some(Caller { user, auth_revision }) = &proposal.caller {
        put_bytes(&mut out, user.as_bytes());
        put_varint(&mut out, *auth_revision);
    }
    encode_command(&proposal.command, &mut out);
    out.freeze()
}

/// Reads back what `encode_proposal` wrote; values share `bytes`.
pub fn decode_proposal(bytes: &Bytes) -> Result<Proposal, DecodeError> {
    let r = &mut Reader::new(bytes);
    let (format, id) = decode_head(r)?;
    let mut caller = None;
    if format == FORMAT_WITH_CALLER {
        let (user, auth_revision) = (r.string("caller")?, r.varint("caller's auth revision")?);
        caller = Some(Caller { user, auth_revision });
    }
    let command = decode_command(r)?;
    r.finish()?;
    Ok(Proposal { id, caller, command })
}

/// Only whose proposal it is, for finding its waiter without decoding the command.
pub fn decode_request_id(bytes: &Bytes) -> Result<RequestId, DecodeError> {
    Ok(decode_head(&mut Reader::new(bytes))?.1)
}

fn decode_head(r: &mut Reader<'_>) -> Result<(u8, RequestId), DecodeError> {
    let error = r.error("known proposal format");
    let format = r.u8("proposal format")?;
    if format != FORMAT && format != FORMAT_WITH_CALLER {
        return Err(error);
    }
    let id = RequestId { origin: r.u64_le("request origin")?, seq: r.varint("request sequence")? };
    Ok((format, id))
}

/// What the large parts of the common commands take, so that encoding allocates once.
fn payload_bytes(command: &Command) -> usize {
    match command {
        Command::Put(put) => put.key.len() + put.value.len(),
        Command::DeleteRange(delete) => delete.range.key.len() + delete.range.end.len(),
        _ => 192,
    }
}

pub fn encode_command(command: &Command, out: &mut BytesMut) {
    match command {
        Command::Put(put) => {
            out.put_u8(PUT);
            encode_put(put, out);
        }
        Command::DeleteRange(delete) => {
            out.put_u8(DELETE_RANGE);
            encode_delete_range(delete, out);
        }
        Command::Txn(txn) => {
            out.put_u8(TXN);
            encode_txn(txn, out);
        }
        Command::Compact(CompactRequest { revision, physical }) => {
            out.put_u8(COMPACT);
            put_zigzag(out, *revision);
            put_bool(out, *physical);
        }
        Command::LeaseGrant { id, ttl_seconds } => {
            out.put_u8(LEASE_GRANT);
            out.put_i64_le(id.0);
            put_zigzag(out, *ttl_seconds);
        }
        Command::LeaseRevoke { ids, leader } => {
            out.put_u8(LEASE_REVOKE);
            put_varint(out, ids.len() as u64);
            for id in ids {
                out.put_i64_le(id.0);
            }
            encode_lease_leader(*leader, out);
        }
        Command::LeaseCheckpoint { remaining, leader } => {
            out.put_u8(LEASE_CHECKPOINT);
            encode_lease_leader(*leader, out);
            put_varint(out, remaining.len() as u64);
            for (id, seconds) in remaining {
                out.put_i64_le(id.0);
                put_zigzag(out, *seconds);
            }
        }
        Command::Alarm(alarm) => {
            out.put_u8(ALARM);
            encode_alarm(alarm, out);
        }
        Command::PublishMember { id, name, client_urls, incarnation } => {
            out.put_u8(PUBLISH_MEMBER);
            out.put_u64_le(id.0);
            put_bytes(out, name.as_bytes());
            put_strings(out, client_urls);
            out.put_u64_le(incarnation.0);
        }
        Command::CreateGroup => out.put_u8(CREATE_GROUP),
        Command::DestroyGroup { group } => {
            out.put_u8(DESTROY_GROUP);
            put_varint(out, group.0);
        }
        Command::SetDowngrade { target } => {
            out.put_u8(SET_DOWNGRADE);
            put_bytes(out, target.as_bytes());
        }
        Command::Auth(auth) => {
            out.put_u8(AUTH);
            encode_auth(auth, out);
        }
    }
}

fn encode_lease_leader(leader: Option<LeaseLeader>, out: &mut BytesMut) {
    let Some(LeaseLeader { term, applied }) = leader else {
        return out.put_u8(NO_LEADER);
    };
    out.put_u8(if applied == ALL { LEADER_OF_OLD } else { LEADER });
    put_varint(out, term.0);
    if applied != ALL {
        put_varint(out, applied.0);
    }
}

fn decode_lease_leader(r: &mut Reader<'_>) -> Result<Option<LeaseLeader>, DecodeError> {
    let unknown = r.error("who speaks of a lease");
    let known = r.u8("leader flag")?;
    if known == NO_LEADER {
        return Ok(None);
    }
    let term = Term(r.varint("leader term")?);
    let applied = match known {
        LEADER_OF_OLD => ALL,
        LEADER => LogIndex(r.varint("leader applied")?),
        _ => return Err(unknown),
    };
    if (applied == ALL) != (known == LEADER_OF_OLD) {
        return Err(unknown);
    }
    Ok(Some(LeaseLeader { term, applied }))
}

pub fn decode_command(r: &mut Reader<'_>) -> Result<Command, DecodeError> {
    let unknown = r.error("known command");
    Ok(match r.u8("command tag")? {
        PUT => Command::Put(decode_put(r)?),
        DELETE_RANGE => Command::DeleteRange(decode_delete_range(r)?),
        TXN => Command::Txn(decode_txn(r, 1)?),
        COMPACT => Command::Compact(CompactRequest {
            revision: r.zigzag("compact revision")?,
            physical: r.bool("physical flag")?,
        }),
        LEASE_GRANT => {
            Command::LeaseGrant { id: decode_lease(r)?, ttl_seconds: r.zigzag("lease ttl")? }
        }
        LEASE_REVOKE => Command::LeaseRevoke {
            ids: r.list(8, "leases to revoke", decode_lease)?,
            leader: decode_lease_leader(r)?,
        },
        LEASE_CHECKPOINT => Command::LeaseCheckpoint {
            leader: decode_lease_leader(r)?,
            remaining: r.list(9, "lease checkpoints", |r| {
                Ok((decode_lease(r)?, r.zigzag("remaining ttl")?))
            })?,
        },
        ALARM => Command::Alarm(decode_alarm(r)?),
        PUBLISH_MEMBER => Command::PublishMember {
            id: NodeId(r.u64_le("member id")?),
            name: r.string("member name")?,
            client_urls: r.list(1, "client URLs", |r| r.string("client URL"))?,
            incarnation: Incarnation(r.u64_le("incarnation")?),
        },
        CREATE_GROUP => Command::CreateGroup,
        DESTROY_GROUP => Command::DestroyGroup { group: GroupId(r.varint("group id")?) },
        AUTH => Command::Auth(decode_auth(r)?),
        SET_DOWNGRADE => Command::SetDowngrade { target: r.string("target version")? },
        _ => return Err(unknown),
    })
}

fn decode_lease(r: &mut Reader<'_>) -> Result<LeaseId, DecodeError> {
    Ok(LeaseId(r.u64_le("lease id")? as i64))
}

fn encode_range_of_keys(range: &KeyRange, out: &mut BytesMut) {
    put_bytes(out, &range.key);
    put_bytes(out, &range.end);
}

fn decode_range_of_keys(r: &mut Reader<'_>) -> Result<KeyRange, DecodeError> {
    Ok(KeyRange { key: r.bytes("key")?, end: r.bytes("range end")? })
}

fn encode_put(put: &PutRequest, out: &mut BytesMut) {
    let PutRequest { key, value, lease, prev_kv, ignore_value, ignore_lease } = put;
    put_bytes(out, key);
    put_bytes(out, value);
    // Most puts have no lease: one byte instead of eight.
    put_varint(out, lease.0 as u64);
    out.put_u8(flags(&[*prev_kv, *ignore_value, *ignore_lease]));
}

fn decode_put(r: &mut Reader<'_>) -> Result<PutRequest, DecodeError> {
    let (key, value) = (r.bytes("key")?, r.bytes("value")?);
    let lease = LeaseId(r.varint("lease id")? as i64);
    let [prev_kv, ignore_value, ignore_lease] = decode_flags(r, "put flags")?;
    Ok(PutRequest { key, value, lease, prev_kv, ignore_value, ignore_lease })
}

fn encode_delete_range(delete: &DeleteRangeRequest, out: &mut BytesMut) {
    let DeleteRangeRequest { range, prev_kv } = delete;
    encode_range_of_keys(range, out);
    put_bool(out, *prev_kv);
}

fn decode_delete_range(r: &mut Reader<'_>) -> Result<DeleteRangeRequest, DecodeError> {
    Ok(DeleteRangeRequest {
        range: decode_range_of_keys(r)?,
        prev_kv: r.bool("previous value flag")?,
    })
}

fn encode_range(range: &RangeRequest, out: &mut BytesMut) {
    let RangeRequest {
        range,
        limit,
        revision,
        sort_order,
        sort_target,
        serializable,
        keys_only,
        count_only,
        min_mod_revision,
        max_mod_revision,
        min_create_revision,
        max_create_revision,
    } = range;
    encode_range_of_keys(range, out);
    put_zigzag(out, *limit);
    put_zigzag(out, *revision);
    out.put_u8(match sort_order {
        SortOrder::None => 0,
        SortOrder::Ascend => 1,
        SortOrder::Descend => 2,
    });
    out.put_u8(match sort_target {
        SortTarget::Key => 0,
        SortTarget::Version => 1,
        SortTarget::Create => 2,
        SortTarget::Mod => 3,
        SortTarget::Value => 4,
    });
    out.put_u8(flags(&[*serializable, *keys_only, *count_only]));
    put_zigzag(out, *min_mod_revision);
    put_zigzag(out, *max_mod_revision);
    put_zigzag(out, *min_create_revision);
    put_zigzag(out, *max_create_revision);
}

fn decode_range(r: &mut Reader<'_>) -> Result<RangeRequest, DecodeError> {
    let range = decode_range_of_keys(r)?;
    let limit = r.zigzag("limit")?;
    let revision = r.zigzag("revision")?;
    let unknown = r.error("known sort order");
    let sort_order = match r.u8("sort order")? {
        0 => SortOrder::None,
        1 => SortOrder::Ascend,
        2 => SortOrder::Descend,
        _ => return Err(unknown),
    };
    let unknown = r.error("known sort target");
    let sort_target = match r.u8("sort target")? {
        0 => SortTarget::Key,
        1 => SortTarget::Version,
        2 => SortTarget::Create,
        3 => SortTarget::Mod,
        4 => SortTarget::Value,
        _ => return Err(unknown),
    };
    let [serializable, keys_only, count_only] = decode_flags(r, "range flags")?;
    Ok(RangeRequest {
        range,
        limit,
        revision,
        sort_order,
        sort_target,
        serializable,
        keys_only,
        count_only,
        min_mod_revision: r.zigzag("least mod revision")?,
        max_mod_revision: r.zigzag("greatest mod revision")?,
        min_create_revision: r.zigzag("least create revision")?,
        max_create_revision: r.zigzag("greatest create revision")?,
    })
}

fn encode_txn(txn: &TxnRequest, out: &mut BytesMut) {
    put_varint(out, txn.compare.len() as u64);
    for compare in &txn.compare {
        encode_compare(compare, out);
    }
    for branch in [&txn.success, &txn.failure] {
        put_varint(out, branch.len() as u64);
        for op in branch {
            match op {
                RequestOp::Put(put) => {
                    out.put_u8(PUT);
                    encode_put(put, out);
                }
                RequestOp::DeleteRange(delete) => {
                    out.put_u8(DELETE_RANGE);
                    encode_delete_range(delete, out);
                }
                RequestOp::Txn(txn) => {
                    out.put_u8(TXN);
                    encode_txn(txn, out);
                }
                RequestOp::Range(range) => {
                    out.put_u8(OP_RANGE);
                    encode_range(range, out);
                }
            }
        }
    }
}

fn decode_txn(r: &mut Reader<'_>, depth: usize) -> Result<TxnRequest, DecodeError> {
    if depth > limits::TXN_DEPTH_MAX {
        return Err(r.error("txn nested within bounds"));
    }
    Ok(TxnRequest {
        compare: r.list(COMPARE_BYTES_MIN, "compares", decode_compare)?,
        success: r.list(OP_BYTES_MIN, "operations", |r| decode_op(r, depth))?,
        failure: r.list(OP_BYTES_MIN, "operations", |r| decode_op(r, depth))?,
    })
}

fn decode_op(r: &mut Reader<'_>, depth: usize) -> Result<RequestOp, DecodeError> {
    let unknown = r.error("known operation");
    Ok(match r.u8("operation tag")? {
        PUT => RequestOp::Put(decode_put(r)?),
        DELETE_RANGE => RequestOp::DeleteRange(decode_delete_range(r)?),
        TXN => RequestOp::Txn(decode_txn(r, depth + 1)?),
        OP_RANGE => RequestOp::Range(decode_range(r)?),
        _ => return Err(unknown),
    })
}

fn encode_compare(compare: &Compare, out: &mut BytesMut) {
    let Compare { range, result, target } = compare;
    encode_range_of_keys(range, out);
    out.put_u8(match result {
        CompareResult::Equal => 0,
        CompareResult::Greater => 1,
        CompareResult::Less => 2,
        CompareResult::NotEqual => 3,
    });
    let (tag, number) = match target {
        CompareTarget::Version(version) => (0, *version),
        CompareTarget::Create(revision) => (1, *revision),
        CompareTarget::Mod(revision) => (2, *revision),
        CompareTarget::Value(value) => {
            out.put_u8(3);
            return put_bytes(out, value);
        }
        CompareTarget::Lease(lease) => (4, *lease),
        CompareTarget::Unknown => return out.put_u8(5),
    };
    out.put_u8(tag);
    put_zigzag(out, number);
}

fn decode_compare(r: &mut Reader<'_>) -> Result<Compare, DecodeError> {
    let range = decode_range_of_keys(r)?;
    let unknown = r.error("known compare result");
    let result = match r.u8("compare result")? {
        0 => CompareResult::Equal,
        1 => CompareResult::Greater,
        2 => CompareResult::Less,
        3 => CompareResult::NotEqual,
        _ => return Err(unknown),
    };
    let unknown = r.error("known compare target");
    let target = match r.u8("compare target")? {
        0 => CompareTarget::Version(r.zigzag("version operand")?),
        1 => CompareTarget::Create(r.zigzag("create revision operand")?),
        2 => CompareTarget::Mod(r.zigzag("mod revision operand")?),
        3 => CompareTarget::Value(r.bytes("value operand")?),
        4 => CompareTarget::Lease(r.zigzag("lease operand")?),
        5 => CompareTarget::Unknown,
        _ => return Err(unknown),
    };
    Ok(Compare { range, result, target })
}

fn encode_alarm(alarm: &AlarmRequest, out: &mut BytesMut) {
    out.put_u8(match alarm.action {
        AlarmAction::Get => 0,
        AlarmAction::Activate => 1,
        AlarmAction::Deactivate => 2,
    });
    out.put_u64_le(alarm.member.0);
    out.put_u8(match alarm.kind {
        None => 0,
        Some(AlarmKind::NoSpace) => 1,
        Some(AlarmKind::Corrupt) => 2,
    });
}

fn decode_alarm(r: &mut Reader<'_>) -> Result<AlarmRequest, DecodeError> {
    let unknown = r.error("known alarm action");
    let action = match r.u8("alarm action")? {
        0 => AlarmAction::Get,
        1 => AlarmAction::Activate,
        2 => AlarmAction::Deactivate,
        _ => return Err(unknown),
    };
    let member = NodeId(r.u64_le("alarm member")?);
    let unknown = r.error("known alarm");
    let kind = match r.u8("alarm kind")? {
        0 => None,
        1 => Some(AlarmKind::NoSpace),
        2 => Some(AlarmKind::Corrupt),
        _ => return Err(unknown),
    };
    Ok(AlarmRequest { action, member, kind })
}

/// Up to eight booleans in a byte, the first the lowest bit.
fn flags(bits: &[bool]) -> u8 {
    bits.iter().enumerate().fold(0, |byte, (i, bit)| byte | u8::from(*bit) << i)
}

fn decode_flags<const N: usize>(
    r: &mut Reader<'_>,
    what: &'static str,
) -> Result<[bool; N], DecodeError> {
    let error = r.error(what);
    let byte = r.u8(what)?;
    if u32::from(byte) >> N != 0 {
        return Err(error);
    }
    Ok(std::array::from_fn(|i| byte >> i & 1 == 1))
}
