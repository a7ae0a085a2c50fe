use super::command::{decode_proposal, decode_request_id, encode_proposal};
use super::frame::{FRAME_HEADER_BYTES, frame_bytes_missing, put_frame, split_frame};
use super::member::{decode_member, encode_member};
use super::raft::*;
use super::varint::{put_varint, put_zigzag, split_varint, varint_len};
use super::{DecodeError, Reader, arbitrary as any_of};
use crate::types::command::{Command, LeaseLeader, Proposal, RequestOp, TxnRequest};
use crate::types::{LeaseId, LogIndex, RequestId, Term, limits};
use bytes::{Bytes, BytesMut};
use proptest::collection::vec;
use proptest::prelude::*;

fn encoded<T>(value: &T, encode: impl Fn(&T, &mut BytesMut)) -> Bytes {
    let mut out = BytesMut::new();
    encode(value, &mut out);
    out.freeze()
}

/// Decodes all of `bytes`.
fn decoded<T>(
    bytes: &Bytes,
    decode: impl Fn(&mut Reader<'_>) -> Result<T, DecodeError>,
) -> Result<T, DecodeError> {
    let mut reader = Reader::new(bytes);
    let value = decode(&mut reader)?;
    reader.finish()?;
    Ok(value)
}

/// What encodes must decode to itself, and no prefix of it to anything.
fn round_trip<T: PartialEq + std::fmt::Debug>(
    value: &T,
    encode: impl Fn(&T, &mut BytesMut),
    decode: impl Fn(&mut Reader<'_>) -> Result<T, DecodeError>,
) -> Result<(), TestCaseError> {
    let bytes = encoded(value, encode);
    prop_assert_eq!(&decoded(&bytes, &decode).unwrap(), value);
    for len in 0..bytes.len() {
        prop_assert!(decoded(&bytes.slice(..len), &decode).is_err(), "prefix of {} bytes", len);
    }
    Ok(())
}

/// If garbage happens to decode, the value must encode to the same garbage.
fn canonical<T>(
    bytes: &Bytes,
    encode: impl Fn(&T, &mut BytesMut),
    decode: impl Fn(&mut Reader<'_>) -> Result<T, DecodeError>,
) -> Result<(), TestCaseError> {
    if let Ok(value) = decoded(bytes, decode) {
        prop_assert_eq!(&encoded(&value, encode), bytes);
    }
    Ok(())
}

/// An encoded value with a few bytes changed: garbage that gets further than noise does.
fn damaged(bytes: Bytes, changes: &[(usize, u8)]) -> Bytes {
    let mut bytes = bytes.to_vec();
    for (at, value) in changes {
        let len = bytes.len();
        bytes[at % len] = *value;
    }
    Bytes::from(bytes)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn numbers_round_trip(n in any_of::number()) {
        let mut out = BytesMut::new();
        put_varint(&mut out, n);
        prop_assert_eq!(out.len(), varint_len(n));
        prop_assert_eq!(split_varint(&out), Some((n, out.len())));
        for signed in [n as i64, (n as i64).wrapping_neg()] {
            out.clear();
            put_zigzag(&mut out, signed);
            prop_assert_eq!(Reader::new(&out.clone().freeze()).zigzag("n"), Ok(signed));
        }
    }

    #[test]
    fn raft_values_round_trip(
        hard in any_of::hard_state(),
        conf in any_of::conf_state(),
        meta in any_of::snapshot_meta(),
        entry in any_of::entry(),
        message in any_of::message(),
    ) {
        round_trip(&hard, encode_hard_state, decode_hard_state)?;
        round_trip(&conf, encode_conf_state, decode_conf_state)?;
        round_trip(&meta, encode_snapshot_meta, decode_snapshot_meta)?;
        round_trip(&entry, encode_entry, decode_entry)?;
        round_trip(&message, encode_message, decode_message)?;
        prop_assert_eq!(encoded(&entry, encode_entry).len(), entry_bytes(&entry));
        prop_assert!(encoded(&message, encode_message).len() >= MESSAGE_BYTES_MIN);
    }

    #[test]
    fn changes_and_members_round_trip(
        change in any_of::conf_change(),
        member in any_of::member(),
    ) {
        prop_assert_eq!(decode_conf_change(&encode_conf_change(&change)).unwrap(), change);
        round_trip(&member, encode_member, decode_member)?;
    }

    #[test]
    fn proposals_round_trip(proposal in any_of::proposal()) {
        let bytes = encode_proposal(&proposal);
        prop_assert_eq!(&decode_proposal(&bytes).unwrap(), &proposal);
        prop_assert_eq!(decode_request_id(&bytes).unwrap(), proposal.id);
        for len in 0..bytes.len() {
            prop_assert!(decode_proposal(&bytes.slice(..len)).is_err());
        }
    }

    #[test]
    fn garbage_never_panics(bytes in vec(any::<u8>(), 0..200)) {
        let bytes = Bytes::from(bytes);
        canonical(&bytes, encode_hard_state, decode_hard_state)?;
        canonical(&bytes, encode_conf_state, decode_conf_state)?;
        canonical(&bytes, encode_snapshot_meta, decode_snapshot_meta)?;
        canonical(&bytes, encode_entry, decode_entry)?;
        canonical(&bytes, encode_message, decode_message)?;
        canonical(&bytes, encode_member, decode_member)?;
        let _ = decode_conf_change(&bytes);
        let _ = decode_proposal(&bytes);
        let _ = split_frame(&mut BytesMut::from(&bytes[..]), 1 << 20);
    }

    #[test]
    fn damaged_values_never_panic(
        message in any_of::message(),
        proposal in any_of::proposal(),
        member in any_of::member(),
        changes in vec((any::<usize>(), any::<u8>()), 1..4),
    ) {
        let bytes = damaged(encoded(&message, encode_message), &changes);
        canonical(&bytes, encode_message, decode_message)?;
        let bytes = damaged(encoded(&member, encode_member), &changes);
        canonical(&bytes, encode_member, decode_member)?;
        let bytes = damaged(encode_proposal(&proposal), &changes);
        if let Ok(proposal) = decode_proposal(&bytes) {
            prop_assert_eq!(encode_proposal(&proposal), bytes);
        }
    }

    #[test]
    fn frames_come_out_of_a_stream_however_it_is_cut(
        payloads in vec(vec(any::<u8>(), 1..60), 0..6),
        cuts in vec(1_usize..40, 1..20),
    ) {
        let mut stream = BytesMut::new();
        for payload in &payloads {
            put_frame(&mut stream, payload);
        }
        let (mut buf, mut got, mut cuts) = (BytesMut::new(), Vec::new(), cuts.into_iter().cycle());
        while !stream.is_empty() {
            let n = cuts.next().unwrap().min(stream.len());
            buf.extend_from_slice(&stream.split_to(n));
            while let Some(payload) = split_frame(&mut buf, 60).unwrap() {
                got.push(payload.to_vec());
            }
        }
        prop_assert!(buf.is_empty());
        prop_assert_eq!(got, payloads);
    }
}

#[test]
fn longer_forms_of_a_number_are_refused() {
    assert_eq!(split_varint(&[0x80, 0x00]), None);
    assert_eq!(split_varint(&[0xff; 10]), None);
    assert_eq!(split_varint(&[0x80; 11]), None);
    assert_eq!(split_varint(&[]), None);
    assert_eq!(split_varint(&[0]), Some((0, 1)));
}

#[test]
fn a_damaged_frame_ends_its_stream() {
    let mut frame = BytesMut::new();
    put_frame(&mut frame, b"payload");
    let whole = frame.clone();
    for at in 4..frame.len() {
        let mut bad = whole.clone();
        bad[at] ^= 1;
        assert!(split_frame(&mut bad, 100).is_err(), "byte {at}");
    }
    assert!(split_frame(&mut frame.clone(), 6).is_err(), "longer than its bound");
    assert!(split_frame(&mut BytesMut::from(&[0; 16][..]), 100).is_err(), "zeros");
    assert_eq!(frame_bytes_missing(&whole[..FRAME_HEADER_BYTES]), 7);
    assert_eq!(frame_bytes_missing(&whole), 0);
    assert_eq!(frame_bytes_missing(&whole[..3]), 0);
}

#[test]
fn a_count_cannot_promise_more_than_there_is() {
    let mut out = BytesMut::new();
    put_varint(&mut out, u64::MAX);
    let bytes = out.freeze();
    let mut reader = Reader::new(&bytes);
    assert!(reader.count(1, "things").is_err());
    assert!(reader.bytes("thing").is_err());
    assert_eq!(reader.offset(), 0, "a failed read does not move");
}

#[test]
fn values_share_the_buffer_they_came_in() {
    let bytes = Bytes::from(vec![3, b'a', b'b', b'c']);
    let slice = Reader::new(&bytes).bytes("slice").unwrap();
    assert_eq!(slice.as_ptr(), bytes[1..].as_ptr());
}

#[test]
fn a_txn_nests_as_deep_as_the_bound_and_no_deeper() {
    let nested = |depth: usize| {
        let mut txn = TxnRequest::default();
        for _ in 1..depth {
            txn = TxnRequest { success: vec![RequestOp::Txn(txn)], ..TxnRequest::default() };
        }
        encode_proposal(&Proposal {
            id: RequestId::default(),
            caller: None,
            command: Command::Txn(txn),
        })
    };
    assert!(decode_proposal(&nested(limits::TXN_DEPTH_MAX)).is_ok());
    assert!(decode_proposal(&nested(limits::TXN_DEPTH_MAX + 1)).is_err());
    assert!(decode_proposal(&nested(5000)).is_err());
}

#[test]
fn an_expiry_from_before_leaders_said_what_they_had_applied_is_understood() {
    let expiry = |applied| Proposal {
        id: RequestId::default(),
        caller: None,
        command: Command::LeaseRevoke {
            ids: vec![LeaseId(7)],
            leader: Some(LeaseLeader { term: Term(3), applied: LogIndex(applied) }),
        },
    };
    // Then it ended in `1 | term`; now in `2 | term | applied`.
    let now = encode_proposal(&expiry(9));
    let (rest, end) = now.split_at(now.len() - 3);
    assert_eq!(end, [2, 3, 9]);
    let then = Bytes::from([rest, &[1, 3]].concat());
    assert_eq!(decode_proposal(&then).unwrap(), expiry(u64::MAX));
    assert_eq!(encode_proposal(&expiry(u64::MAX)), then);
}
