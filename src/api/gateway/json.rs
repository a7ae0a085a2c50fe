//! Messages to JSON and back, and errors as grpc-gateway writes them.

use bytes::Bytes;
use prost::Message as _;
use prost_reflect::{DeserializeOptions, DynamicMessage, MessageDescriptor, SerializeOptions};
use tonic::{Code, Status};

/// As etcd sets its marshaller up.
fn writing() -> SerializeOptions {
    SerializeOptions::new()
        .stringify_64_bit_integers(true)
        .use_enum_numbers(false)
        .use_proto_field_name(true)
        .skip_default_fields(true)
}

/// One JSON text as an encoded message. Whatever stands behind the first value is ignored.
pub fn to_message(kind: &MessageDescriptor, text: &[u8]) -> Result<Vec<u8>, Status> {
    let options = DeserializeOptions::new().deny_unknown_fields(false);
    let mut json = serde_json::Deserializer::from_slice(text);
    let message = DynamicMessage::deserialize_with_options(kind.clone(), &mut json, &options);
    let message = message.map_err(|error| Status::invalid_argument(format!("json: {error}")))?;
    Ok(message.encode_to_vec())
}

/// An encoded message as JSON, behind and before some text of the caller's.
pub fn from_message(
    kind: &MessageDescriptor,
    message: Bytes,
    before: &str,
    after: &str,
) -> Result<Vec<u8>, Status> {
    let failed = |error: &dyn std::fmt::Display| Status::internal(format!("answer: {error}"));
    let message = DynamicMessage::decode(kind.clone(), message).map_err(|error| failed(&error))?;
    let mut text = before.as_bytes().to_vec();
    let mut json = serde_json::Serializer::new(&mut text);
    message.serialize_with_options(&mut json, &writing()).map_err(|error| failed(&error))?;
    text.extend_from_slice(after.as_bytes());
    Ok(text)
}

/// An error as JSON: a google.rpc.Status, whose empty `details` are left out like anything empty.
pub fn from_status(status: &Status) -> String {
    let mut fields = serde_json::Map::new();
    if status.code() != Code::Ok {
        fields.insert("code".to_string(), (status.code() as i32).into());
    }
    if !status.message().is_empty() {
        fields.insert("message".to_string(), status.message().into());
    }
    serde_json::Value::Object(fields).to_string()
}

/// The HTTP status that stands for a code.
pub fn http_status(code: Code) -> u16 {
    match code {
        Code::Ok => 200,
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => 400,
        Code::Unauthenticated => 401,
        Code::PermissionDenied => 403,
        Code::NotFound => 404,
        Code::AlreadyExists | Code::Aborted => 409,
        Code::ResourceExhausted => 429,
        Code::Cancelled => 499,
        Code::Unknown | Code::Internal | Code::DataLoss => 500,
        Code::Unimplemented => 501,
        Code::Unavailable => 503,
        Code::DeadlineExceeded => 504,
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::proto::etcdserverpb as pb;
    use super::super::super::proto::etcdserverpb::request_op::Request;
    use super::super::paths;
    use super::*;

    fn request<M: prost::Message + Default>(path: &str, text: &str) -> Result<M, String> {
        let route = paths::find(path).expect(path);
        let bytes = to_message(&route.input, text.as_bytes());
        let bytes = bytes.map_err(|status| {
            assert_eq!(status.code(), Code::InvalidArgument);
            status.message().to_string()
        })?;
        Ok(M::decode(bytes.as_slice()).expect("what was encoded"))
    }

    fn answer<M: prost::Message>(path: &str, message: &M) -> String {
        let route = paths::find(path).expect(path);
        let text = from_message(&route.output, message.encode_to_vec().into(), "<", ">");
        String::from_utf8(text.expect("JSON")).expect("UTF-8")
    }

    #[test]
    fn names_and_numbers_in_every_spelling() {
        let expected = pb::RangeRequest {
            key: "foo".into(),
            range_end: Bytes::from_static(b"\xfb\xff"),
            limit: 5,
            sort_order: 2,
            keys_only: true,
            ..Default::default()
        };
        for text in [
            r#"{"key":"Zm9v","range_end":"+/8=","limit":"5","sort_order":"DESCEND","keys_only":true}"#,
            r#"{"key":"Zm9v","rangeEnd":"-_8","limit":5,"sortOrder":2,"keysOnly":true}"#,
            r#" {"key":"Zm9v","range_end":"+/8","limit":5,"sort_order":"DESCEND",
                "keys_only":true,"revision":null,"of_tomorrow":[{}]} trailing"#,
        ] {
            assert_eq!(request("/v3/kv/range", text), Ok(expected.clone()), "{text}");
        }
        let expected = pb::LeaseGrantRequest { ttl: 60, id: -7 };
        assert_eq!(request("/v3/lease/grant", r#"{"TTL":60,"ID":"-7"}"#), Ok(expected));
        let nested = r#"{"compare":[{"target":"VALUE","key":"YQ==","value":"","range_end":"Yg=="}],
            "success":[{"requestPut":{"key":"YQ==","value":"Yg=="}},
                       {"request_txn":{"failure":[{"request_range":{}}]}}]}"#;
        let txn: pb::TxnRequest = request("/v3/kv/txn", nested).expect("a txn");
        assert_eq!((txn.compare.len(), txn.success.len()), (1, 2));
        assert_eq!((txn.compare[0].target, &txn.compare[0].range_end[..]), (3, &b"b"[..]));
        assert!(
            matches!(&txn.success[0].request, Some(Request::RequestPut(put)) if put.key == "a")
        );
        assert!(matches!(&txn.success[1].request, Some(Request::RequestTxn(_))));
    }

    #[test]
    fn what_is_no_message_is_refused() {
        for text in [
            "",
            "{",
            "[]",
            "null",
            "\"key\"",
            r#"{"key":"a"}"#,
            r#"{"key":7}"#,
            r#"{"limit":"9223372036854775808"}"#,
            r#"{"limit":0.5}"#,
            r#"{"keys_only":"true"}"#,
            r#"{"key":"Zm9v""#,
            "{\"key\":\"\u{1}\"}",
        ] {
            let refused = request::<pb::RangeRequest>("/v3/kv/range", text);
            assert!(refused.is_err(), "{text}: {refused:?}");
        }
        // Deeper than any request needs to be.
        let deep = r#"{"success":[{"request_txn":"#.repeat(500);
        assert!(request::<pb::TxnRequest>("/v3/kv/txn", &deep).is_err());
        let both = r#"{"success":[{"request_put":{},"request_range":{}}]}"#;
        assert!(request::<pb::TxnRequest>("/v3/kv/txn", both).is_err());
    }

    #[test]
    fn answers_leave_out_what_is_zero() {
        let header =
            pb::ResponseHeader { cluster_id: u64::MAX, member_id: 1, revision: 2, raft_term: 3 };
        let kv = super::super::super::proto::mvccpb::KeyValue {
            key: "foo".into(),
            create_revision: 2,
            mod_revision: 2,
            version: 1,
            value: Bytes::from_static(b"\xfb\xff"),
            lease: 0,
        };
        let range =
            pb::RangeResponse { header: Some(header), kvs: vec![kv], more: false, count: 1 };
        assert_eq!(
            answer("/v3/kv/range", &range),
            "<{\"header\":{\"cluster_id\":\"18446744073709551615\",\"member_id\":\"1\",\
             \"revision\":\"2\",\"raft_term\":\"3\"},\"kvs\":[{\"key\":\"Zm9v\",\
             \"create_revision\":\"2\",\"mod_revision\":\"2\",\"version\":\"1\",\
             \"value\":\"+/8=\"}],\"count\":\"1\"}>"
        );
        let grant = pb::LeaseGrantResponse { id: 5, ttl: 60, ..Default::default() };
        assert_eq!(answer("/v3/lease/grant", &grant), "<{\"ID\":\"5\",\"TTL\":\"60\"}>");
        let alarms = vec![pb::AlarmMember { member_id: 9, alarm: 1 }];
        let alarm = pb::AlarmResponse { header: None, alarms };
        assert_eq!(
            answer("/v3/maintenance/alarm", &alarm),
            "<{\"alarms\":[{\"memberID\":\"9\",\"alarm\":\"NOSPACE\"}]}>"
        );
        let hash = pb::HashKvResponse { hash: 4, compact_revision: -1, ..Default::default() };
        assert_eq!(
            answer("/v3/maintenance/hashkv", &hash),
            "<{\"hash\":4,\"compact_revision\":\"-1\"}>"
        );
        // A field of a oneof and a message are there although they are empty.
        let op = pb::ResponseOp {
            response: Some(pb::response_op::Response::ResponseRange(Default::default())),
        };
        let txn = pb::TxnResponse { responses: vec![op], ..Default::default() };
        assert_eq!(answer("/v3/kv/txn", &txn), "<{\"responses\":[{\"response_range\":{}}]}>");
    }

    #[test]
    fn errors_have_a_code_and_a_text() {
        let status = Status::not_found("a \"b\"");
        assert_eq!(from_status(&status), "{\"code\":5,\"message\":\"a \\\"b\\\"\"}");
    }
}
