//! Proto messages and our own values, both ways, by hand.
//!
//! Every check that needs only the request is made here or in `mvcc::check`, in etcd's order:
//! unknown enum numbers and missing operations are refused while converting, because our own
//! types cannot hold them. Nothing is copied: keys and values keep sharing the request's buffer.

use super::proto::etcdserverpb as pb;
use super::proto::mvccpb;
use crate::types::command::{
    AlarmAction, AlarmKind, AlarmRequest, CompactRequest, Compare, CompareResult, CompareTarget,
    DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, SortOrder, SortTarget, TxnRequest,
};
use crate::types::limits::TXN_DEPTH_MAX;
use crate::types::reply::{
    DeleteRangeReply, Event, EventKind, KeyValue, PutReply, RangeReply, ReplyOp, TxnReply,
};
use crate::types::{ApiError, KeyRange, LeaseId, Member, NodeId};

// ---- requests ----

/// Refuses an empty key before an unknown sort option, as etcd does.
pub fn range_from_proto(r: pb::RangeRequest) -> Result<RangeRequest, ApiError> {
    if r.key.is_empty() {
        return Err(ApiError::EmptyKey);
    }
    let sort_order = match r.sort_order {
        0 => SortOrder::None,
        1 => SortOrder::Ascend,
        2 => SortOrder::Descend,
        _ => return Err(ApiError::InvalidSortOption),
    };
    let sort_target = match r.sort_target {
        0 => SortTarget::Key,
        1 => SortTarget::Version,
        2 => SortTarget::Create,
        3 => SortTarget::Mod,
        4 => SortTarget::Value,
        _ => return Err(ApiError::InvalidSortOption),
    };
    Ok(RangeRequest {
        range: KeyRange { key: r.key, end: r.range_end },
        limit: r.limit,
        revision: r.revision,
        sort_order,
        sort_target,
        serializable: r.serializable,
        keys_only: r.keys_only,
        count_only: r.count_only,
        min_mod_revision: r.min_mod_revision,
        max_mod_revision: r.max_mod_revision,
        min_create_revision: r.min_create_revision,
        max_create_revision: r.max_create_revision,
    })
}

pub fn range_to_proto(r: RangeRequest) -> pb::RangeRequest {
    pb::RangeRequest {
        key: r.range.key,
        range_end: r.range.end,
        limit: r.limit,
        revision: r.revision,
        sort_order: r.sort_order as i32,
        sort_target: r.sort_target as i32,
        serializable: r.serializable,
        keys_only: r.keys_only,
        count_only: r.count_only,
        min_mod_revision: r.min_mod_revision,
        max_mod_revision: r.max_mod_revision,
        min_create_revision: r.min_create_revision,
        max_create_revision: r.max_create_revision,
    }
}

/// Refuses an empty key, then a value that comes with ignore_value, then a lease that comes with
/// ignore_lease.
pub fn put_from_proto(r: pb::PutRequest) -> Result<PutRequest, ApiError> {
    if r.key.is_empty() {
        return Err(ApiError::EmptyKey);
    }
    if r.ignore_value && !r.value.is_empty() {
        return Err(ApiError::ValueProvided);
    }
    if r.ignore_lease && r.lease != 0 {
        return Err(ApiError::LeaseProvided);
    }
    Ok(PutRequest {
        key: r.key,
        value: r.value,
        lease: LeaseId(r.lease),
        prev_kv: r.prev_kv,
        ignore_value: r.ignore_value,
        ignore_lease: r.ignore_lease,
    })
}

pub fn put_to_proto(r: PutRequest) -> pb::PutRequest {
    pb::PutRequest {
        key: r.key,
        value: r.value,
        lease: r.lease.0,
        prev_kv: r.prev_kv,
        ignore_value: r.ignore_value,
        ignore_lease: r.ignore_lease,
    }
}

pub fn delete_from_proto(r: pb::DeleteRangeRequest) -> Result<DeleteRangeRequest, ApiError> {
    if r.key.is_empty() {
        return Err(ApiError::EmptyKey);
    }
    Ok(DeleteRangeRequest { range: KeyRange { key: r.key, end: r.range_end }, prev_kv: r.prev_kv })
}

pub fn delete_to_proto(r: DeleteRangeRequest) -> pb::DeleteRangeRequest {
    pb::DeleteRangeRequest { key: r.range.key, range_end: r.range.end, prev_kv: r.prev_kv }
}

/// etcd's static checks in etcd's order: at each level the number of operations (nested txns get
/// what their parent left), then empty keys of compares, then each operation of `success` and
/// of `failure`. The rule on duplicate keys comes after all of these, in `mvcc`.
pub fn txn_from_proto(r: pb::TxnRequest, ops_max: usize) -> Result<TxnRequest, ApiError> {
    txn_at_depth(r, ops_max, 0)
}

fn txn_at_depth(r: pb::TxnRequest, ops_max: usize, depth: usize) -> Result<TxnRequest, ApiError> {
    let ops = r.compare.len().max(r.success.len()).max(r.failure.len());
    // A txn nested this deep has used up any sensible number of operations; the log's decoder
    // would refuse it.
    if ops > ops_max || depth >= TXN_DEPTH_MAX {
        return Err(ApiError::TooManyOps);
    }
    if r.compare.iter().any(|c| c.key.is_empty()) {
        return Err(ApiError::EmptyKey);
    }
    let left = ops_max - ops;
    let convert = |list: Vec<pb::RequestOp>| {
        list.into_iter().map(|op| op_from_proto(op, left, depth)).collect::<Result<Vec<_>, _>>()
    };
    Ok(TxnRequest {
        success: convert(r.success)?,
        failure: convert(r.failure)?,
        compare: r.compare.into_iter().map(compare_from_proto).collect(),
    })
}

fn op_from_proto(op: pb::RequestOp, left: usize, depth: usize) -> Result<RequestOp, ApiError> {
    use pb::request_op::Request;
    Ok(match op.request {
        Some(Request::RequestRange(r)) => RequestOp::Range(range_from_proto(r)?),
        Some(Request::RequestPut(r)) => RequestOp::Put(put_from_proto(r)?),
        Some(Request::RequestDeleteRange(r)) => RequestOp::DeleteRange(delete_from_proto(r)?),
        Some(Request::RequestTxn(r)) => RequestOp::Txn(txn_at_depth(r, left, depth + 1)?),
        None => return Err(ApiError::KeyNotFound),
    })
}

fn compare_from_proto(c: pb::Compare) -> Compare {
    use pb::compare::TargetUnion;
    // The operand counts only when it is the one that the target names.
    let union = c.target_union;
    let target = match c.target {
        0 => CompareTarget::Version(match union {
            Some(TargetUnion::Version(v)) => v,
            _ => 0,
        }),
        1 => CompareTarget::Create(match union {
            Some(TargetUnion::CreateRevision(v)) => v,
            _ => 0,
        }),
        2 => CompareTarget::Mod(match union {
            Some(TargetUnion::ModRevision(v)) => v,
            _ => 0,
        }),
        3 => CompareTarget::Value(match union {
            Some(TargetUnion::Value(v)) => v,
            _ => bytes::Bytes::new(),
        }),
        4 => CompareTarget::Lease(match union {
            Some(TargetUnion::Lease(v)) => v,
            _ => 0,
        }),
        _ => CompareTarget::Unknown,
    };
    let (result, target) = match c.result {
        0 => (CompareResult::Equal, target),
        1 => (CompareResult::Greater, target),
        2 => (CompareResult::Less, target),
        3 => (CompareResult::NotEqual, target),
        // etcd's switch knows no such result and lets the compare hold, unless it is one of values
        // and there is no key.
        _ if matches!(target, CompareTarget::Value(_)) => {
            (CompareResult::Greater, CompareTarget::Version(0))
        }
        _ => (CompareResult::Equal, CompareTarget::Unknown),
    };
    Compare { range: KeyRange { key: c.key, end: c.range_end }, result, target }
}

pub fn txn_to_proto(r: TxnRequest) -> pb::TxnRequest {
    let ops = |list: Vec<RequestOp>| list.into_iter().map(op_to_proto).collect();
    pb::TxnRequest {
        compare: r.compare.into_iter().map(compare_to_proto).collect(),
        success: ops(r.success),
        failure: ops(r.failure),
    }
}

fn op_to_proto(op: RequestOp) -> pb::RequestOp {
    use pb::request_op::Request;
    let request = match op {
        RequestOp::Range(r) => Request::RequestRange(range_to_proto(r)),
        RequestOp::Put(r) => Request::RequestPut(put_to_proto(r)),
        RequestOp::DeleteRange(r) => Request::RequestDeleteRange(delete_to_proto(r)),
        RequestOp::Txn(r) => Request::RequestTxn(txn_to_proto(r)),
    };
    pb::RequestOp { request: Some(request) }
}

fn compare_to_proto(c: Compare) -> pb::Compare {
    use pb::compare::TargetUnion;
    let (target, union) = match c.target {
        CompareTarget::Version(v) => (0, Some(TargetUnion::Version(v))),
        CompareTarget::Create(v) => (1, Some(TargetUnion::CreateRevision(v))),
        CompareTarget::Mod(v) => (2, Some(TargetUnion::ModRevision(v))),
        CompareTarget::Value(v) => (3, Some(TargetUnion::Value(v))),
        CompareTarget::Lease(v) => (4, Some(TargetUnion::Lease(v))),
        CompareTarget::Unknown => (i32::MAX, None),
    };
    pb::Compare {
        result: c.result as i32,
        target,
        key: c.range.key,
        range_end: c.range.end,
        target_union: union,
    }
}

pub fn compact_from_proto(r: pb::CompactionRequest) -> CompactRequest {
    CompactRequest { revision: r.revision, physical: r.physical }
}

/// `None` when the action or the kind is a number this version does not know.
pub fn alarm_from_proto(r: &pb::AlarmRequest) -> Option<AlarmRequest> {
    let action = match r.action {
        0 => AlarmAction::Get,
        1 => AlarmAction::Activate,
        2 => AlarmAction::Deactivate,
        _ => return None,
    };
    let kind = match r.alarm {
        0 => None,
        1 => Some(AlarmKind::NoSpace),
        2 => Some(AlarmKind::Corrupt),
        _ => return None,
    };
    Some(AlarmRequest { action, member: NodeId(r.member_id), kind })
}

// ---- replies ----

pub fn key_value_to_proto(kv: KeyValue) -> mvccpb::KeyValue {
    mvccpb::KeyValue {
        key: kv.key,
        create_revision: kv.create_revision,
        mod_revision: kv.mod_revision,
        version: kv.version,
        value: kv.value,
        lease: kv.lease.0,
    }
}

pub fn key_value_from_proto(kv: mvccpb::KeyValue) -> KeyValue {
    KeyValue {
        key: kv.key,
        value: kv.value,
        create_revision: kv.create_revision,
        mod_revision: kv.mod_revision,
        version: kv.version,
        lease: LeaseId(kv.lease),
    }
}

pub fn event_to_proto(event: &Event, with_prev: bool) -> mvccpb::Event {
    mvccpb::Event {
        r#type: match event.kind {
            EventKind::Put => 0,
            EventKind::Delete => 1,
        },
        kv: Some(key_value_to_proto(event.kv.clone())),
        prev_kv: event.prev_kv.clone().filter(|_| with_prev).map(key_value_to_proto),
    }
}

pub fn range_reply_to_proto(
    header: Option<pb::ResponseHeader>,
    reply: RangeReply,
) -> pb::RangeResponse {
    pb::RangeResponse {
        header,
        kvs: reply.kvs.into_iter().map(key_value_to_proto).collect(),
        more: reply.more,
        count: reply.count,
    }
}

pub fn put_reply_to_proto(header: Option<pb::ResponseHeader>, reply: PutReply) -> pb::PutResponse {
    pb::PutResponse { header, prev_kv: reply.prev_kv.map(key_value_to_proto) }
}

pub fn delete_reply_to_proto(
    header: Option<pb::ResponseHeader>,
    reply: DeleteRangeReply,
) -> pb::DeleteRangeResponse {
    pb::DeleteRangeResponse {
        header,
        deleted: reply.deleted,
        prev_kvs: reply.prev_kvs.into_iter().map(key_value_to_proto).collect(),
    }
}

pub fn txn_reply_to_proto(header: pb::ResponseHeader, reply: TxnReply) -> pb::TxnResponse {
    pb::TxnResponse {
        header: Some(header),
        succeeded: reply.succeeded,
        responses: reply.replies.into_iter().map(reply_op_to_proto).collect(),
    }
}

/// Inner headers carry only a revision; a nested txn's header is there and empty.
fn reply_op_to_proto(op: ReplyOp) -> pb::ResponseOp {
    use pb::response_op::Response;
    let at = |revision| Some(pb::ResponseHeader { revision, ..pb::ResponseHeader::default() });
    let response = match op {
        ReplyOp::Range { revision, reply } => {
            Response::ResponseRange(range_reply_to_proto(at(revision), reply))
        }
        ReplyOp::Put { revision, reply } => {
            Response::ResponsePut(put_reply_to_proto(at(revision), reply))
        }
        ReplyOp::DeleteRange { revision, reply } => {
            Response::ResponseDeleteRange(delete_reply_to_proto(at(revision), reply))
        }
        ReplyOp::Txn(reply) => {
            Response::ResponseTxn(txn_reply_to_proto(pb::ResponseHeader::default(), reply))
        }
    };
    pb::ResponseOp { response: Some(response) }
}

pub fn member_to_proto(member: &Member) -> pb::Member {
    pb::Member {
        id: member.id.0,
        name: member.name.clone(),
        peer_ur_ls: member.peer_urls.clone(),
        client_ur_ls: member.client_urls.clone(),
        is_learner: member.is_learner,
    }
}

pub fn alarm_to_proto((member, kind): (NodeId, AlarmKind)) -> pb::AlarmMember {
    pb::AlarmMember {
        member_id: member.0,
        alarm: match kind {
            AlarmKind::NoSpace => pb::AlarmType::Nospace as i32,
            AlarmKind::Corrupt => pb::AlarmType::Corrupt as i32,
        },
    }
}

#[cfg(test)]
mod tests;
