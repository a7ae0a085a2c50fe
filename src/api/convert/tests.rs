use super::*;
use bytes::Bytes;
use proptest::prelude::*;

fn key() -> impl Strategy<Value = Bytes> {
    proptest::collection::vec(any::<u8>(), 1..4).prop_map(Bytes::from)
}

fn bytes() -> impl Strategy<Value = Bytes> {
    proptest::collection::vec(any::<u8>(), 0..4).prop_map(Bytes::from)
}

fn range_request() -> impl Strategy<Value = RangeRequest> {
    (
        (key(), bytes(), any::<i64>(), any::<i64>()),
        prop_oneof![Just(SortOrder::None), Just(SortOrder::Ascend), Just(SortOrder::Descend)],
        prop_oneof![
            Just(SortTarget::Key),
            Just(SortTarget::Version),
            Just(SortTarget::Create),
            Just(SortTarget::Mod),
            Just(SortTarget::Value)
        ],
        (any::<bool>(), any::<bool>(), any::<bool>()),
        (any::<i64>(), any::<i64>(), any::<i64>(), any::<i64>()),
    )
        .prop_map(|((key, end, limit, revision), sort_order, sort_target, flags, bounds)| {
            RangeRequest {
                range: KeyRange { key, end },
                limit,
                revision,
                sort_order,
                sort_target,
                serializable: flags.0,
                keys_only: flags.1,
                count_only: flags.2,
                min_mod_revision: bounds.0,
                max_mod_revision: bounds.1,
                min_create_revision: bounds.2,
                max_create_revision: bounds.3,
            }
        })
}

fn put_request() -> impl Strategy<Value = PutRequest> {
    (key(), bytes(), any::<i64>(), any::<bool>(), any::<bool>(), any::<bool>()).prop_map(
        |(key, value, lease, prev_kv, ignore_value, ignore_lease)| PutRequest {
            key,
            value: if ignore_value { Bytes::new() } else { value },
            lease: LeaseId(if ignore_lease { 0 } else { lease }),
            prev_kv,
            ignore_value,
            ignore_lease,
        },
    )
}

fn delete_request() -> impl Strategy<Value = DeleteRangeRequest> {
    (key(), bytes(), any::<bool>()).prop_map(|(key, end, prev_kv)| DeleteRangeRequest {
        range: KeyRange { key, end },
        prev_kv,
    })
}

fn compare() -> impl Strategy<Value = Compare> {
    (
        (key(), bytes()),
        prop_oneof![
            Just(CompareResult::Equal),
            Just(CompareResult::Greater),
            Just(CompareResult::Less),
            Just(CompareResult::NotEqual)
        ],
        prop_oneof![
            any::<i64>().prop_map(CompareTarget::Version),
            any::<i64>().prop_map(CompareTarget::Create),
            any::<i64>().prop_map(CompareTarget::Mod),
            bytes().prop_map(CompareTarget::Value),
            any::<i64>().prop_map(CompareTarget::Lease),
            Just(CompareTarget::Unknown)
        ],
    )
        .prop_map(|((key, end), result, target)| Compare {
            range: KeyRange { key, end },
            result,
            target,
        })
}

fn txn_request() -> impl Strategy<Value = TxnRequest> {
    let leaf = prop_oneof![
        range_request().prop_map(RequestOp::Range),
        put_request().prop_map(RequestOp::Put),
        delete_request().prop_map(RequestOp::DeleteRange),
    ];
    let ops = leaf.prop_recursive(3, 12, 3, |inner| {
        let list = proptest::collection::vec(inner, 0..3);
        (proptest::collection::vec(compare(), 0..2), list.clone(), list).prop_map(
            |(compare, success, failure)| RequestOp::Txn(TxnRequest { compare, success, failure }),
        )
    });
    let list = proptest::collection::vec(ops, 0..4);
    (proptest::collection::vec(compare(), 0..4), list.clone(), list)
        .prop_map(|(compare, success, failure)| TxnRequest { compare, success, failure })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn requests_survive_the_round_trip(range in range_request(), put in put_request(),
        delete in delete_request(), txn in txn_request())
    {
        prop_assert_eq!(range_from_proto(range_to_proto(range.clone())), Ok(range));
        prop_assert_eq!(put_from_proto(put_to_proto(put.clone())), Ok(put));
        prop_assert_eq!(delete_from_proto(delete_to_proto(delete.clone())), Ok(delete));
        prop_assert_eq!(txn_from_proto(txn_to_proto(txn.clone()), 128), Ok(txn));
    }
}

fn put(key: &'static str) -> pb::PutRequest {
    pb::PutRequest { key: Bytes::from_static(key.as_bytes()), ..pb::PutRequest::default() }
}

fn op(request: pb::request_op::Request) -> pb::RequestOp {
    pb::RequestOp { request: Some(request) }
}

#[test]
fn refusals_come_in_etcds_order() {
    let range = pb::RangeRequest { sort_order: 9, ..pb::RangeRequest::default() };
    assert_eq!(range_from_proto(range.clone()), Err(ApiError::EmptyKey));
    let range = pb::RangeRequest { key: "a".into(), ..range };
    assert_eq!(range_from_proto(range), Err(ApiError::InvalidSortOption));

    let all_wrong = pb::PutRequest {
        value: "v".into(),
        lease: 1,
        ignore_value: true,
        ignore_lease: true,
        ..put("")
    };
    assert_eq!(put_from_proto(all_wrong.clone()), Err(ApiError::EmptyKey));
    let keyed = pb::PutRequest { key: "a".into(), ..all_wrong };
    assert_eq!(put_from_proto(keyed.clone()), Err(ApiError::ValueProvided));
    let no_value = pb::PutRequest { value: Bytes::new(), ..keyed };
    assert_eq!(put_from_proto(no_value), Err(ApiError::LeaseProvided));
    assert_eq!(delete_from_proto(pb::DeleteRangeRequest::default()), Err(ApiError::EmptyKey));
}

#[test]
fn a_txn_is_checked_level_by_level() {
    use pb::request_op::Request;
    let too_many =
        pb::TxnRequest { compare: vec![pb::Compare::default(); 3], ..pb::TxnRequest::default() };
    assert_eq!(txn_from_proto(too_many.clone(), 2), Err(ApiError::TooManyOps));
    assert_eq!(txn_from_proto(too_many, 3), Err(ApiError::EmptyKey));

    let nothing_in_it =
        pb::TxnRequest { success: vec![pb::RequestOp { request: None }], ..Default::default() };
    assert_eq!(txn_from_proto(nothing_in_it, 9), Err(ApiError::KeyNotFound));

    // Nested levels get what their parents left.
    let nest = |inner: pb::TxnRequest, width: usize| pb::TxnRequest {
        success: std::iter::once(op(Request::RequestTxn(inner)))
            .chain((1..width).map(|_| op(Request::RequestPut(put("k")))))
            .collect(),
        ..Default::default()
    };
    let three = nest(pb::TxnRequest::default(), 3);
    let five = nest(three, 2);
    assert!(txn_from_proto(five.clone(), 5).is_ok());
    assert_eq!(txn_from_proto(five, 4), Err(ApiError::TooManyOps));

    let mut deep = pb::TxnRequest::default();
    for _ in 0..TXN_DEPTH_MAX {
        deep = nest(deep, 1);
    }
    assert_eq!(txn_from_proto(deep, 1000), Err(ApiError::TooManyOps));
}

#[test]
fn an_operand_counts_only_when_the_target_names_it() {
    use pb::compare::TargetUnion;
    let compare = pb::Compare {
        target: 2,
        target_union: Some(TargetUnion::Version(7)),
        key: "k".into(),
        ..pb::Compare::default()
    };
    assert_eq!(compare_from_proto(compare).target, CompareTarget::Mod(0));
    let unknown = pb::Compare { target: 77, ..pb::Compare::default() };
    assert_eq!(compare_from_proto(unknown).target, CompareTarget::Unknown);
    // An unknown result holds; of values, only where there is a key.
    let unknown = pb::Compare { target: 1, result: 7, ..pb::Compare::default() };
    assert_eq!(compare_from_proto(unknown).target, CompareTarget::Unknown);
    let unknown = compare_from_proto(pb::Compare { target: 3, result: 7, ..Default::default() });
    assert_eq!(unknown.target, CompareTarget::Version(0));
    assert_eq!(unknown.result, CompareResult::Greater);
}

#[test]
fn alarms_with_unknown_numbers_are_not_guessed_at() {
    let request = pb::AlarmRequest { action: 1, member_id: 5, alarm: 2 };
    assert_eq!(
        alarm_from_proto(&request),
        Some(AlarmRequest {
            action: AlarmAction::Activate,
            member: NodeId(5),
            kind: Some(AlarmKind::Corrupt)
        })
    );
    assert_eq!(alarm_from_proto(&pb::AlarmRequest { action: 3, ..request }), None);
    assert_eq!(alarm_from_proto(&pb::AlarmRequest { alarm: 3, ..request }), None);
}

#[test]
fn inner_headers_carry_only_a_revision() {
    let reply = TxnReply {
        succeeded: true,
        replies: vec![
            ReplyOp::Put { revision: 5, reply: PutReply::default() },
            ReplyOp::Txn(TxnReply::default()),
        ],
    };
    let header = pb::ResponseHeader { cluster_id: 1, member_id: 2, revision: 5, raft_term: 3 };
    let out = txn_reply_to_proto(header, reply);
    assert_eq!(out.header, Some(header));
    let inner: Vec<_> = out
        .responses
        .into_iter()
        .map(|r| match r.response.expect("every operation answers") {
            pb::response_op::Response::ResponsePut(p) => p.header,
            pb::response_op::Response::ResponseTxn(t) => t.header,
            other => panic!("unexpected {other:?}"),
        })
        .collect();
    let at = |revision| Some(pb::ResponseHeader { revision, ..Default::default() });
    assert_eq!(inner, [at(5), at(0)]);
}
