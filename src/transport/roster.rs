//! Who is in the cluster: the one question that is answered ahead of the handshake, because only
//! a member can pass that and whoever asks is about to become one.
//!
//! ```text
//!   asker (no data yet)                     any member
//!   dial ------------ Question ------------> peer port
//!        <------------ Roster -------------- its membership as applied, and the door
//! ```
//!
//! Promises: the question is a few bytes and is answered once per connection; an answer larger
//! than `PEER_ROSTER_BYTES_MAX` is neither sent nor read; whatever comes is decoded totally or
//! refused. What the answer means for the asker is not decided here.

use super::dial::{DIAL_TIMEOUT, HANDSHAKE_TIMEOUT};
use super::frame::{Greeting, decode_greeting};
use super::handshake::PROTOCOL_VERSION;
use super::wire::{FrameReader, StreamError, greeting_bytes, write};
use crate::codec::member::{decode_member, encode_member};
use crate::codec::varint::{put_bytes, put_varint};
use crate::codec::{DecodeError, Reader};
use crate::io::{Io, until};
use crate::types::{ClusterId, Member, limits};
use bytes::{BufMut, BytesMut};

/// What one member says of its cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Roster {
    pub protocol_version: u32,
    pub server_version: String,
    pub cluster: ClusterId,
    /// Empty when the asked member does not know yet itself. Without incarnations: they are
    /// nobody's business but the members'.
    pub members: Vec<Member>,
}

/// `protocol version u32 | server version | cluster u64 | count | members`
pub fn encode_roster(roster: &Roster, out: &mut BytesMut) {
    let Roster { protocol_version, server_version, cluster, members } = roster;
    out.put_u32_le(*protocol_version);
    put_bytes(out, server_version.as_bytes());
    out.put_u64_le(cluster.0);
    put_varint(out, members.len() as u64);
    for member in members {
        encode_member(member, out);
    }
}

pub fn decode_roster(r: &mut Reader<'_>) -> Result<Roster, DecodeError> {
    Ok(Roster {
        protocol_version: r.u32_le("protocol version")?,
        server_version: r.string("server version")?,
        cluster: ClusterId(r.u64_le("cluster id")?),
        members: r.list(MEMBER_BYTES_MIN, "members", decode_member)?,
    })
}

/// A row with nothing in it: an id, three empty lists, two flags.
const MEMBER_BYTES_MIN: usize = 13;

/// Asks whoever listens at `addr` (`host:port`).
pub async fn ask(io: &Io, addr: &str) -> Result<Roster, StreamError> {
    let clock = &*io.clock;
    let dialed = until(clock, clock.now() + DIAL_TIMEOUT, io.net.dial(addr.to_string())).await;
    let mut connection = dialed.ok_or(StreamError::Silent)??;
    let question = greeting_bytes(&Greeting::Question { protocol_version: PROTOCOL_VERSION });
    write(&mut *connection.writer, question, clock, HANDSHAKE_TIMEOUT).await?;
    let mut reader = FrameReader::new(connection.reader);
    // One deadline for the whole: a trickle of bytes is silence, too.
    let answer = reader.next(limits::PEER_ROSTER_BYTES_MAX, clock, HANDSHAKE_TIMEOUT);
    let payload = until(clock, clock.now() + HANDSHAKE_TIMEOUT, answer).await;
    match decode_greeting(&payload.ok_or(StreamError::Silent)??)? {
        Greeting::Roster(roster) => Ok(roster),
        _ => Err(StreamError::Ended("answered with something else than the membership")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::NodeId;
    use bytes::Bytes;
    use proptest::prelude::*;

    fn roster() -> impl Strategy<Value = Roster> {
        let member = (any::<u64>(), ".{0,9}", prop::collection::vec(".{0,9}", 0..3), any::<bool>());
        let member = member.prop_map(|(id, name, peer_urls, is_learner)| Member {
            id: NodeId(id),
            name,
            peer_urls,
            is_learner,
            ..Member::default()
        });
        (any::<u32>(), ".{0,9}", any::<u64>(), prop::collection::vec(member, 0..4)).prop_map(
            |(protocol_version, server_version, cluster, members)| Roster {
                protocol_version,
                server_version,
                cluster: ClusterId(cluster),
                members,
            },
        )
    }

    proptest! {
        #[test]
        fn what_is_answered_is_what_arrives(roster in roster()) {
            let mut bytes = BytesMut::new();
            encode_roster(&roster, &mut bytes);
            let bytes = bytes.freeze();
            let mut r = Reader::new(&bytes);
            prop_assert_eq!(decode_roster(&mut r), Ok(roster));
            prop_assert_eq!(r.finish(), Ok(()));
        }

        #[test]
        fn any_bytes_are_an_answer_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode_roster(&mut Reader::new(&Bytes::from(bytes)));
        }
    }

    #[test]
    fn the_smallest_row_is_as_small_as_it_says() {
        let mut bytes = BytesMut::new();
        encode_member(&Member::default(), &mut bytes);
        assert_eq!(bytes.len(), MEMBER_BYTES_MIN);
    }
}
