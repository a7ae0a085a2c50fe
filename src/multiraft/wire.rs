//! What two nodes say to each other, and its layout. Raft messages of all groups that leave in
//! one turn share one frame; everything else is about one group.
//!
//! A frame's payload is one `NodeMessage`: a tag byte, then the fields as `codec` lays out
//! integers (LEB128), byte strings (length, bytes) and raft messages. The transport adds length
//! and checksum (`codec::frame`). A decoder never allocates more than the frame's own size.

use crate::codec::raft::{decode_message, encode_message};
use crate::codec::varint::{put_bool, put_bytes, put_varint, put_zigzag};
use crate::codec::{DecodeError, Reader};
use crate::types::{ApiError, GroupId, LeaseId, LogIndex, Message, RequestId};
use bytes::{BufMut, Bytes, BytesMut};

/// One frame between two nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeMessage {
    /// Everything raft had for the receiver in one turn, heartbeats of many groups included.
    Raft(Vec<Message>),
    /// A node that installs a raft snapshot asks for a part of it.
    SnapshotFetch(SnapshotFetch),
    SnapshotChunk(SnapshotChunk),
    /// The sender does not have (any more) what was asked for.
    SnapshotGone {
        group: GroupId,
        id: u64,
        meta_index: LogIndex,
    },
    /// A follower passes a client's keepalive or TTL question on to the leader.
    LeaseAsk {
        group: GroupId,
        id: RequestId,
        lease: LeaseId,
        renew: bool,
    },
    LeaseTold {
        group: GroupId,
        id: RequestId,
        outcome: LeaseOutcome,
    },
    /// A follower passes a membership change on to the leader (encoded by `node::membership`).
    MembershipAsk {
        id: RequestId,
        change: Bytes,
    },
    /// The leader's checks refused it; a change that passed them is answered by its entry.
    MembershipRefused {
        id: RequestId,
        error: ApiError,
    },
}

/// `cursor` is the item after which to go on, `None` from the beginning; `id` is 0 in the first
/// fetch and what the first chunk said from then on, so that chunks of two pinned views never mix.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SnapshotFetch {
    pub group: GroupId,
    pub id: u64,
    pub meta_index: LogIndex,
    pub cursor: Option<(u8, Bytes)>,
}

/// At most about `SNAPSHOT_CHUNK_BYTES` of items in ascending order of (kind, key).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SnapshotChunk {
    pub group: GroupId,
    pub id: u64,
    pub meta_index: LogIndex,
    /// The cursor that was asked for: tells a late duplicate.
    pub after: Option<(u8, Bytes)>,
    pub items: Vec<SnapshotItem>,
    pub last: bool,
    /// crc32 of the items as encoded, computed where they were read from the store.
    pub crc: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotItem {
    pub kind: u8,
    pub key: Bytes,
    pub value: Bytes,
    pub live: bool,
}

impl SnapshotItem {
    pub fn cost(&self) -> usize {
        self.key.len() + self.value.len() + 16
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeaseOutcome {
    /// Seconds; granted 0 when there is no such lease.
    Known {
        granted_seconds: i64,
        remaining_seconds: i64,
    },
    NotLeader,
    /// The receiver could not confirm that it leads.
    Unconfirmed,
}

impl NodeMessage {
    /// Appends the payload of one frame.
    pub fn encode(&self, out: &mut BytesMut) {
        match self {
            NodeMessage::Raft(messages) => {
                out.put_u8(1);
                put_varint(out, messages.len() as u64);
                for message in messages {
                    encode_message(message, out);
                }
            }
            NodeMessage::SnapshotFetch(fetch) => {
                out.put_u8(2);
                put_varint(out, fetch.group.0);
                put_varint(out, fetch.id);
                put_varint(out, fetch.meta_index.0);
                put_cursor(out, fetch.cursor.as_ref());
            }
            NodeMessage::SnapshotChunk(chunk) => {
                out.put_u8(3);
                put_varint(out, chunk.group.0);
                put_varint(out, chunk.id);
                put_varint(out, chunk.meta_index.0);
                put_cursor(out, chunk.after.as_ref());
                put_varint(out, chunk.items.len() as u64);
                for item in &chunk.items {
                    out.put_u8(item.kind);
                    put_bool(out, item.live);
                    put_bytes(out, &item.key);
                    put_bytes(out, &item.value);
                }
                put_bool(out, chunk.last);
                out.put_u32_le(chunk.crc);
            }
            NodeMessage::SnapshotGone { group, id, meta_index } => {
                out.put_u8(4);
                put_varint(out, group.0);
                put_varint(out, *id);
                put_varint(out, meta_index.0);
            }
            NodeMessage::LeaseAsk { group, id, lease, renew } => {
                out.put_u8(5);
                put_varint(out, group.0);
                put_request(out, *id);
                put_zigzag(out, lease.0);
                put_bool(out, *renew);
            }
            NodeMessage::LeaseTold { group, id, outcome } => {
                out.put_u8(6);
                put_varint(out, group.0);
                put_request(out, *id);
                match outcome {
                    LeaseOutcome::NotLeader => out.put_u8(0),
                    LeaseOutcome::Unconfirmed => out.put_u8(1),
                    LeaseOutcome::Known { granted_seconds, remaining_seconds } => {
                        out.put_u8(2);
                        put_zigzag(out, *granted_seconds);
                        put_zigzag(out, *remaining_seconds);
                    }
                }
            }
            NodeMessage::MembershipAsk { id, change } => {
                out.put_u8(7);
                put_request(out, *id);
                put_bytes(out, change);
            }
            NodeMessage::MembershipRefused { id, error } => {
                out.put_u8(8);
                put_request(out, *id);
                out.put_u8(refusal_code(error));
            }
        }
    }

    /// Reads a whole payload.
    pub fn decode(payload: &Bytes) -> Result<NodeMessage, DecodeError> {
        let mut reader = Reader::new(payload);
        let message = NodeMessage::read(&mut reader)?;
        reader.finish()?;
        Ok(message)
    }

    fn read(r: &mut Reader<'_>) -> Result<NodeMessage, DecodeError> {
        Ok(match r.u8("kind of node message")? {
            1 => NodeMessage::Raft(r.list(8, "raft messages", decode_message)?),
            2 => NodeMessage::SnapshotFetch(SnapshotFetch {
                group: GroupId(r.varint("group")?),
                id: r.varint("snapshot id")?,
                meta_index: LogIndex(r.varint("snapshot index")?),
                cursor: read_cursor(r)?,
            }),
            3 => NodeMessage::SnapshotChunk(SnapshotChunk {
                group: GroupId(r.varint("group")?),
                id: r.varint("snapshot id")?,
                meta_index: LogIndex(r.varint("snapshot index")?),
                after: read_cursor(r)?,
                items: r.list(4, "snapshot items", read_item)?,
                last: r.bool("last chunk")?,
                crc: r.u32_le("chunk checksum")?,
            }),
            4 => NodeMessage::SnapshotGone {
                group: GroupId(r.varint("group")?),
                id: r.varint("snapshot id")?,
                meta_index: LogIndex(r.varint("snapshot index")?),
            },
            5 => NodeMessage::LeaseAsk {
                group: GroupId(r.varint("group")?),
                id: read_request(r)?,
                lease: LeaseId(r.zigzag("lease")?),
                renew: r.bool("keepalive")?,
            },
            6 => NodeMessage::LeaseTold {
                group: GroupId(r.varint("group")?),
                id: read_request(r)?,
                outcome: match r.u8("lease outcome")? {
                    0 => LeaseOutcome::NotLeader,
                    1 => LeaseOutcome::Unconfirmed,
                    2 => LeaseOutcome::Known {
                        granted_seconds: r.zigzag("granted seconds")?,
                        remaining_seconds: r.zigzag("remaining seconds")?,
                    },
                    _ => return Err(r.error("lease outcome")),
                },
            },
            7 => NodeMessage::MembershipAsk {
                id: read_request(r)?,
                change: r.bytes("membership change")?,
            },
            8 => {
                let id = read_request(r)?;
                let code = r.u8("refusal")?;
                let error = REFUSALS.get(usize::from(code)).cloned();
                NodeMessage::MembershipRefused { id, error: error.unwrap_or(ApiError::Unhealthy) }
            }
            _ => return Err(r.error("kind of node message")),
        })
    }
}

/// Refusals a leader gives to a membership change, by their number on the wire: append only.
const REFUSALS: [ApiError; 14] = [
    ApiError::Unhealthy,
    ApiError::NotLeader,
    ApiError::MemberNotFound,
    ApiError::MemberIdExists,
    ApiError::PeerUrlExists,
    ApiError::BadMemberUrls,
    ApiError::NotEnoughStarted,
    ApiError::NotLearner,
    ApiError::LearnerNotReady,
    ApiError::TooManyLearners,
    ApiError::TooManyRequests,
    ApiError::Stopped,
    ApiError::Timeout,
    ApiError::NotSupportedForLearner,
];

fn refusal_code(error: &ApiError) -> u8 {
    REFUSALS.iter().position(|known| known == error).unwrap_or(0) as u8
}

fn put_request(out: &mut BytesMut, id: RequestId) {
    out.put_u64_le(id.origin);
    put_varint(out, id.seq);
}

fn read_request(r: &mut Reader<'_>) -> Result<RequestId, DecodeError> {
    Ok(RequestId { origin: r.u64_le("request origin")?, seq: r.varint("request number")? })
}

fn put_cursor(out: &mut BytesMut, cursor: Option<&(u8, Bytes)>) {
    put_bool(out, cursor.is_some());
    if let Some((kind, key)) = cursor {
        out.put_u8(*kind);
        put_bytes(out, key);
    }
}

fn read_cursor(r: &mut Reader<'_>) -> Result<Option<(u8, Bytes)>, DecodeError> {
    r.option("cursor", |r| Ok((r.u8("cursor kind")?, r.bytes("cursor key")?)))
}

fn read_item(r: &mut Reader<'_>) -> Result<SnapshotItem, DecodeError> {
    Ok(SnapshotItem {
        kind: r.u8("item kind")?,
        live: r.bool("item live")?,
        key: r.bytes("item key")?,
        value: r.bytes("item value")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::arbitrary;
    use proptest::prelude::*;

    fn cursor() -> impl Strategy<Value = Option<(u8, Bytes)>> {
        proptest::option::of((any::<u8>(), arbitrary::bytes()))
    }

    fn request() -> impl Strategy<Value = RequestId> {
        (any::<u64>(), any::<u64>()).prop_map(|(origin, seq)| RequestId { origin, seq })
    }

    fn message() -> impl Strategy<Value = NodeMessage> {
        let item = (any::<u8>(), arbitrary::bytes(), arbitrary::bytes(), any::<bool>())
            .prop_map(|(kind, key, value, live)| SnapshotItem { kind, key, value, live });
        let items = proptest::collection::vec(item, 0..4);
        let outcome = prop_oneof![
            Just(LeaseOutcome::NotLeader),
            Just(LeaseOutcome::Unconfirmed),
            (any::<i64>(), any::<i64>()).prop_map(|(granted_seconds, remaining_seconds)| {
                LeaseOutcome::Known { granted_seconds, remaining_seconds }
            }),
        ];
        prop_oneof![
            proptest::collection::vec(arbitrary::message(), 0..4).prop_map(NodeMessage::Raft),
            (any::<u64>(), any::<u64>(), any::<u64>(), cursor()).prop_map(|(g, id, i, cursor)| {
                let (group, meta_index) = (GroupId(g), LogIndex(i));
                NodeMessage::SnapshotFetch(SnapshotFetch { group, id, meta_index, cursor })
            }),
            (any::<u64>(), any::<u64>(), cursor(), items, any::<bool>(), any::<u32>()).prop_map(
                |(id, i, after, items, last, crc)| {
                    let (group, meta_index) = (GroupId(1), LogIndex(i));
                    NodeMessage::SnapshotChunk(SnapshotChunk {
                        group,
                        id,
                        meta_index,
                        after,
                        items,
                        last,
                        crc,
                    })
                }
            ),
            (request(), any::<i64>(), any::<bool>()).prop_map(|(id, lease, renew)| {
                NodeMessage::LeaseAsk { group: GroupId(3), id, lease: LeaseId(lease), renew }
            }),
            (request(), outcome).prop_map(|(id, outcome)| {
                NodeMessage::LeaseTold { group: GroupId(3), id, outcome }
            }),
            (request(), arbitrary::bytes())
                .prop_map(|(id, change)| NodeMessage::MembershipAsk { id, change }),
            (request(), 0..REFUSALS.len()).prop_map(|(id, at)| {
                NodeMessage::MembershipRefused { id, error: REFUSALS[at].clone() }
            }),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn what_is_sent_is_what_arrives(message in message()) {
            let mut out = BytesMut::new();
            message.encode(&mut out);
            prop_assert_eq!(NodeMessage::decode(&out.freeze()).unwrap(), message);
        }

        #[test]
        fn rubbish_is_refused_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = NodeMessage::decode(&bytes.into());
        }
    }
}
