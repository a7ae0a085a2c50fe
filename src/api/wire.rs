//! Encodings by hand, where the generated message tree would copy too much.
//!
//! A change is encoded once, as the bytes of field 11 (`events`) of a `WatchResponse`, and every
//! watcher that wants it sends those same bytes behind a head of its own.

use super::proto::etcdserverpb::ResponseHeader;
use crate::mvcc::watch::{EventRefs, Picked};
use crate::types::reply::{Event, EventKind, KeyValue};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::encoding::{
    DecodeContext, WireType, bool, encode_key, encode_varint, encoded_len_varint, int64, key_len,
    message, skip_field, string,
};
use prost::{DecodeError, Message};
use std::collections::VecDeque;
use std::sync::Arc;

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

impl Message for WatchFrame {
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

/// The wanted events of one revision, encoded one behind the other.
#[derive(Clone, Debug, Default)]
pub struct Encoded {
    bytes: Bytes,
    /// Where each event ends in `bytes`.
    ends: Arc<[usize]>,
}

impl Encoded {
    fn new<'a>(events: impl Iterator<Item = &'a Event>, with_prev: bool) -> Encoded {
        let mut bytes = BytesMut::new();
        let mut ends = Vec::new();
        for event in events {
            put_event(event, with_prev, &mut bytes);
            ends.push(bytes.len());
        }
        Encoded { bytes: bytes.freeze(), ends: ends.into() }
    }
    fn events(&self) -> impl Iterator<Item = Bytes> + '_ {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(self.ends.iter()).map(|(start, &end)| self.bytes.slice(start..end))
    }
    /// Some of the events, by position.
    fn pick(&self, picked: &[u32]) -> Encoded {
        let mut bytes = BytesMut::new();
        let mut ends = Vec::with_capacity(picked.len());
        for &at in picked {
            let at = at as usize;
            let start = if at == 0 { 0 } else { self.ends[at - 1] };
            bytes.put_slice(&self.bytes[start..self.ends[at]]);
            ends.push(bytes.len());
        }
        Encoded { bytes: bytes.freeze(), ends: ends.into() }
    }
}

/// The revisions that a thread encoded last, so that the watchers it serves share the work.
#[derive(Debug, Default)]
pub struct Encodings {
    /// Newest last. The events are held on to, so that their address names them.
    recent: VecDeque<(Arc<[Event]>, bool, Encoded)>,
    bytes: usize,
}

/// Encoded bytes that a thread keeps: many small revisions, or a few of the largest.
const ENCODINGS_BYTES_MAX: usize = 4 << 20;
/// Looking for one must cost less than encoding it anew.
const ENCODINGS_MAX: usize = 32;

impl Encodings {
    /// A watcher's share of a revision.
    pub fn of(&mut self, refs: &EventRefs, with_prev: bool) -> Encoded {
        // Nobody else holds these events: what is kept would not be asked for again.
        let is_shared = Arc::strong_count(&refs.events) > 1;
        if !is_shared {
            return Encoded::new(refs.iter(), with_prev);
        }
        let whole = self.whole(&refs.events, with_prev);
        match &refs.picked {
            Picked::All => whole,
            Picked::Some(picked) => whole.pick(picked),
        }
    }

    fn whole(&mut self, events: &Arc<[Event]>, with_prev: bool) -> Encoded {
        let is_same = |kept: &&(Arc<[Event]>, bool, Encoded)| {
            Arc::ptr_eq(&kept.0, events) && kept.1 == with_prev
        };
        if let Some(kept) = self.recent.iter().rev().find(is_same) {
            return kept.2.clone();
        }
        let made = Encoded::new(events.iter(), with_prev);
        self.bytes += made.bytes.len();
        self.recent.push_back((Arc::clone(events), with_prev, made.clone()));
        while self.bytes > ENCODINGS_BYTES_MAX || self.recent.len() > ENCODINGS_MAX {
            let Some(oldest) = self.recent.pop_front() else { break };
            self.bytes -= oldest.2.bytes.len();
        }
        made
    }
}

/// Puts `events` behind `head`, in as many messages as it takes to keep each within `bytes_max`.
/// As in etcd, every message but the last is marked as a fragment, none is without an event, and
/// a single event may exceed the bound.
pub fn split(
    head: WatchFrame,
    events: &[Encoded],
    bytes_max: usize,
    out: &mut VecDeque<WatchFrame>,
) {
    let whole: usize = events.iter().map(|encoded| encoded.bytes.len()).sum();
    // What the marking as a fragment takes.
    let head_bytes = head.encoded_len() + 2;
    if head_bytes + whole < bytes_max {
        let events = events.iter().map(|encoded| encoded.bytes.clone()).collect();
        out.push_back(WatchFrame { events, ..head });
        return;
    }
    let mut part = WatchFrame { fragment: true, ..head.clone() };
    let mut bytes = head_bytes;
    for event in events.iter().flat_map(Encoded::events) {
        if !part.events.is_empty() && bytes + event.len() >= bytes_max {
            out.push_back(std::mem::replace(
                &mut part,
                WatchFrame { fragment: true, ..head.clone() },
            ));
            bytes = head_bytes;
        }
        bytes += event.len();
        part.events.push(event);
    }
    out.push_back(WatchFrame { fragment: false, ..part });
}

#[cfg(test)]
mod tests {
    use super::super::convert;
    use super::super::proto::etcdserverpb::WatchResponse;
    use super::*;
    use crate::types::LeaseId;
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

    fn put(key: &'static str, value_bytes: usize) -> Event {
        let value = Bytes::from(vec![b'v'; value_bytes]);
        Event {
            kind: EventKind::Put,
            kv: KeyValue { value, ..kv(key, "", 2, 0) },
            prev_kv: Some(kv(key, "old", 1, 0)),
        }
    }

    fn keys(frame: &WatchFrame) -> Vec<String> {
        let whole = WatchResponse::decode(frame.encode_to_vec().as_slice()).expect("our own");
        let key = |kv: super::super::proto::mvccpb::KeyValue| {
            String::from_utf8(kv.key.to_vec()).expect("text")
        };
        whole.events.into_iter().filter_map(|event| event.kv.map(key)).collect()
    }

    #[test]
    fn watchers_of_one_revision_share_its_bytes() {
        let events: Arc<[Event]> = vec![put("a", 1), put("b", 1), put("c", 1)].into();
        let all = EventRefs { revision: 2, events: events.clone(), picked: Picked::All };
        let some = EventRefs { picked: Picked::Some(Box::new([0, 2])), ..all.clone() };
        let mut encodings = Encodings::default();
        let one = encodings.of(&all, false);
        let two = encodings.of(&all, false);
        assert_eq!(one.bytes.as_ptr(), two.bytes.as_ptr(), "encoded twice");
        assert_eq!(encodings.recent.len(), 1);
        let with_prev = encodings.of(&all, true);
        assert!(with_prev.bytes.len() > one.bytes.len());
        let mut out = VecDeque::new();
        split(WatchFrame::default(), &[encodings.of(&some, false)], usize::MAX, &mut out);
        assert_eq!(keys(&out[0]), ["a", "c"]);

        // What nobody shares is not kept.
        let alone =
            EventRefs { revision: 3, events: vec![put("z", 1)].into(), picked: Picked::All };
        encodings.of(&alone, false);
        assert_eq!(encodings.recent.len(), 2);

        for n in 0..100 {
            let events: Arc<[Event]> = vec![put("k", 1 << 20)].into();
            let _other = events.clone();
            encodings.of(&EventRefs { revision: n, events, picked: Picked::All }, false);
            assert!(encodings.bytes <= ENCODINGS_BYTES_MAX);
        }
        let held: usize = encodings.recent.iter().map(|e| e.2.bytes.len()).sum();
        assert_eq!(encodings.bytes, held);
    }

    #[test]
    fn large_answers_are_split_between_events() {
        let events = [
            vec![put("a", 400), put("b", 400)],
            vec![put("c", 5000)],
            vec![put("d", 1), put("e", 1)],
        ];
        let events: Vec<Encoded> = events.iter().map(|e| Encoded::new(e.iter(), false)).collect();
        let head = WatchFrame {
            header: Some(ResponseHeader { revision: 9, ..ResponseHeader::default() }),
            watch_id: 3,
            ..WatchFrame::default()
        };
        let mut out = VecDeque::new();
        split(head.clone(), &events, 1000, &mut out);
        let parts: Vec<_> = out.iter().map(|part| (keys(part).concat(), part.fragment)).collect();
        let expected = [("ab", true), ("c", true), ("de", false)];
        assert_eq!(parts, expected.map(|(keys, fragment)| (keys.to_string(), fragment)));
        for part in &out {
            assert_eq!((&part.header, part.watch_id), (&head.header, 3));
            assert!(part.encoded_len() < 1000 || keys(part).len() == 1);
        }
        let mut whole = VecDeque::new();
        split(head, &events, usize::MAX, &mut whole);
        assert_eq!((whole.len(), whole[0].fragment), (1, false));
        assert_eq!(keys(&whole[0]).concat(), "abcde");
    }
}
