//! Encodings by hand, where the generated message tree would copy too much.
//!
//! A change is encoded once, as the bytes of field 11 (`events`) of a `WatchResponse`, and every
//! watcher that wants it sends those same bytes behind a head of its own.

use super::proto::etcdserverpb::ResponseHeader;
use crate::types::reply::{Event, EventKind, KeyValue};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::DecodeError;
use prost::encoding::{
    DecodeContext, WireType, bool, encode_key, encode_varint, encoded_len_varint, int64, key_len,
    message, skip_field, string,
};

const EVENTS_TAG: u32 = 11;

/// A `WatchResponse` whose events are already encoded. It is only ever sent: decoding one skips
/// everything (clients decode the generated `WatchResponse`).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WatchFrame {
    pub header: Option<ResponseHeader>,
    pub watch_id: i64,
    pub created: bool,
    pub canceled: bool,
    pub compact_revision: i64,
    pub cancel_reason: String,
    pub fragment: bool,
    /// Encoded `events` fields, tags included, in order.
    pub events: Vec<Bytes>,
}

impl prost::Message for WatchFrame {
    fn encode_raw(&self, buf: &mut impl BufMut) {
        if let Some(header) = &self.header {
            message::encode(1, header, buf);
        }
        if self.watch_id != 0 {
            int64::encode(2, &self.watch_id, buf);
        }
        if self.created {
            bool::encode(3, &self.created, buf);
        }
        if self.canceled {
            bool::encode(4, &self.canceled, buf);
        }
        if self.compact_revision != 0 {
            int64::encode(5, &self.compact_revision, buf);
        }
        if !self.cancel_reason.is_empty() {
            string::encode(6, &self.cancel_reason, buf);
        }
        if self.fragment {
            bool::encode(7, &self.fragment, buf);
        }
        for event in &self.events {
            buf.put_slice(event);
        }
    }

    fn encoded_len(&self) -> usize {
        let flag = |set: bool| if set { 2 } else { 0 };
        let mut len = flag(self.created) + flag(self.canceled) + flag(self.fragment);
        if let Some(header) = &self.header {
            len += message::encoded_len(1, header);
        }
        if self.watch_id != 0 {
            len += int64::encoded_len(2, &self.watch_id);
        }
        if self.compact_revision != 0 {
            len += int64::encoded_len(5, &self.compact_revision);
        }
        if !self.cancel_reason.is_empty() {
            len += string::encoded_len(6, &self.cancel_reason);
        }
        len + self.events.iter().map(Bytes::len).sum::<usize>()
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        buf: &mut impl Buf,
        ctx: DecodeContext,
    ) -> Result<(), DecodeError> {
        skip_field(wire_type, tag, buf, ctx)
    }

    fn clear(&mut self) {
        *self = WatchFrame::default();
    }
}

/// Appends one `events` field. `with_prev` says whether the watcher asked for the old pair.
pub fn put_event(event: &Event, with_prev: bool, out: &mut BytesMut) {
    let prev = event.prev_kv.as_ref().filter(|_| with_prev);
    let kv_len = key_value_len(&event.kv);
    let delete = event.kind == EventKind::Delete;
    let mut len = key_len(2) + encoded_len_varint(kv_len as u64) + kv_len;
    if delete {
        len += 2;
    }
    if let Some(prev) = prev {
        let prev_len = key_value_len(prev);
        len += key_len(3) + encoded_len_varint(prev_len as u64) + prev_len;
    }
    out.reserve(len + 16);
    encode_key(EVENTS_TAG, WireType::LengthDelimited, out);
    encode_varint(len as u64, out);
    if delete {
        encode_key(1, WireType::Varint, out);
        encode_varint(1, out);
    }
    put_key_value(2, kv_len, &event.kv, out);
    if let Some(prev) = prev {
        put_key_value(3, key_value_len(prev), prev, out);
    }
}

fn put_key_value(tag: u32, len: usize, kv: &KeyValue, out: &mut BytesMut) {
    encode_key(tag, WireType::LengthDelimited, out);
    encode_varint(len as u64, out);
    put_bytes(1, &kv.key, out);
    put_int(2, kv.create_revision, out);
    put_int(3, kv.mod_revision, out);
    put_int(4, kv.version, out);
    put_bytes(5, &kv.value, out);
    put_int(6, kv.lease.0, out);
}

fn key_value_len(kv: &KeyValue) -> usize {
    bytes_len(&kv.key)
        + int_len(kv.create_revision)
        + int_len(kv.mod_revision)
        + int_len(kv.version)
        + bytes_len(&kv.value)
        + int_len(kv.lease.0)
}

// proto3: a field that is zero or empty is left out. All tags here fit one byte.

fn put_bytes(tag: u32, value: &[u8], out: &mut BytesMut) {
    if !value.is_empty() {
        encode_key(tag, WireType::LengthDelimited, out);
        encode_varint(value.len() as u64, out);
        out.put_slice(value);
    }
}

fn put_int(tag: u32, value: i64, out: &mut BytesMut) {
    if value != 0 {
        encode_key(tag, WireType::Varint, out);
        encode_varint(value as u64, out);
    }
}

fn bytes_len(value: &[u8]) -> usize {
    if value.is_empty() { 0 } else { 1 + encoded_len_varint(value.len() as u64) + value.len() }
}

fn int_len(value: i64) -> usize {
    if value == 0 { 0 } else { 1 + encoded_len_varint(value as u64) }
}

#[cfg(test)]
mod tests {
    use super::super::convert;
    use super::super::proto::etcdserverpb::WatchResponse;
    use super::*;
    use crate::types::LeaseId;
    use prost::Message as _;

    fn kv(key: &'static str, value: &'static str, revision: i64, lease: i64) -> KeyValue {
        KeyValue {
            key: Bytes::from_static(key.as_bytes()),
            value: Bytes::from_static(value.as_bytes()),
            create_revision: revision,
            mod_revision: revision + 300,
            version: 2,
            lease: LeaseId(lease),
        }
    }

    #[test]
    fn a_frame_is_on_the_wire_what_the_generated_message_is() {
        let events = [
            Event { kind: EventKind::Put, kv: kv("a", "", 2, -5), prev_kv: None },
            Event {
                kind: EventKind::Put,
                kv: kv("b", "x", 1, 0),
                prev_kv: Some(kv("b", "", 1, 7)),
            },
            Event {
                kind: EventKind::Delete,
                kv: KeyValue { key: "c".into(), mod_revision: 9, ..KeyValue::default() },
                prev_kv: Some(kv("c", "old", 4, 0)),
            },
        ];
        for with_prev in [false, true] {
            let mut encoded = BytesMut::new();
            for event in &events {
                put_event(event, with_prev, &mut encoded);
            }
            let header = ResponseHeader { cluster_id: 1, member_id: 2, revision: 3, raft_term: 4 };
            let frame = WatchFrame {
                header: Some(header),
                watch_id: -1,
                created: true,
                canceled: true,
                compact_revision: 77,
                cancel_reason: "because".to_string(),
                fragment: true,
                events: vec![encoded.freeze()],
            };
            let whole = WatchResponse {
                header: Some(header),
                watch_id: -1,
                created: true,
                canceled: true,
                compact_revision: 77,
                cancel_reason: "because".to_string(),
                fragment: true,
                events: events.iter().map(|e| convert::event_to_proto(e, with_prev)).collect(),
            };
            assert_eq!(frame.encoded_len(), whole.encoded_len());
            assert_eq!(frame.encode_to_vec(), whole.encode_to_vec());
        }
        assert_eq!(WatchFrame::default().encode_to_vec(), Vec::<u8>::new());
    }
}
