//! What two members put into one frame (`codec::frame` is what is around it).
//!
//! `tag | contents`: Raft messages one after the other to the end of the frame, the node's own
//! bytes as they are, or a timestamp that comes back. Messages of all groups share a frame, so
//! that a thousand quiet groups cost one packet.

use super::handshake::{
    Hello, HelloReply, decode_hello, decode_hello_reply, encode_hello, encode_hello_reply,
};
use super::roster::{Roster, decode_roster, encode_roster};
use crate::codec::raft::{MESSAGE_BYTES_MIN, decode_message, encode_message};
use crate::codec::varint::put_varint;
use crate::codec::{DecodeError, Reader};
use crate::types::{Message, MessageBody};
use bytes::{BufMut, Bytes, BytesMut};

const RAFT: u8 = 1;
const NODE: u8 = 2;
const PING: u8 = 3;
const PONG: u8 = 4;
/// These two open a stream and are never seen later. The first byte after the frame header of a
/// stream is the first thing that tells a peer from a browser.
const HELLO: u8 = 0x51;
const HELLO_REPLY: u8 = 0x52;
/// These two are all that a stream of theirs carries.
const QUESTION: u8 = 0x53;
const ROSTER: u8 = 0x54;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerFrame {
    /// Messages of any groups, in order.
    Raft(Vec<Message>),
    /// What the node layers say to each other, in their own encoding.
    Node(Bytes),
    /// The sender's clock, to be sent back. The transport's own; owners never see it.
    Ping(u64),
    Pong(u64),
}

/// The first frame in each direction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Greeting {
    Hello(Hello),
    Reply(HelloReply),
    /// Instead of a hello: who is in the cluster?
    Question {
        protocol_version: u32,
    },
    Roster(Roster),
}

pub fn encode_peer_frame(frame: &PeerFrame, out: &mut BytesMut) {
    match frame {
        PeerFrame::Raft(messages) => {
            out.put_u8(RAFT);
            for message in messages {
                encode_message(message, out);
            }
        }
        PeerFrame::Node(bytes) => {
            out.put_u8(NODE);
            out.put_slice(bytes);
        }
        PeerFrame::Ping(at) => {
            out.put_u8(PING);
            put_varint(out, *at);
        }
        PeerFrame::Pong(at) => {
            out.put_u8(PONG);
            put_varint(out, *at);
        }
    }
}

pub fn decode_peer_frame(payload: &Bytes) -> Result<PeerFrame, DecodeError> {
    let r = &mut Reader::new(payload);
    let unknown = r.error("known kind of frame");
    let frame = match r.u8("kind of frame")? {
        RAFT => {
            let mut messages = Vec::new();
            while r.remaining() >= MESSAGE_BYTES_MIN {
                messages.push(decode_message(r)?);
            }
            PeerFrame::Raft(messages)
        }
        NODE => PeerFrame::Node(r.raw(r.remaining(), "node message")?),
        PING => PeerFrame::Ping(r.varint("timestamp")?),
        PONG => PeerFrame::Pong(r.varint("timestamp")?),
        _ => return Err(unknown),
    };
    r.finish()?;
    Ok(frame)
}

pub fn encode_greeting(greeting: &Greeting, out: &mut BytesMut) {
    match greeting {
        Greeting::Hello(hello) => {
            out.put_u8(HELLO);
            encode_hello(hello, out);
        }
        Greeting::Reply(reply) => {
            out.put_u8(HELLO_REPLY);
            encode_hello_reply(reply, out);
        }
        Greeting::Question { protocol_version } => {
            out.put_u8(QUESTION);
            out.put_u32_le(*protocol_version);
        }
        Greeting::Roster(roster) => {
            out.put_u8(ROSTER);
            encode_roster(roster, out);
        }
    }
}

pub fn decode_greeting(payload: &Bytes) -> Result<Greeting, DecodeError> {
    let r = &mut Reader::new(payload);
    let unknown = r.error("greeting");
    let greeting = match r.u8("greeting")? {
        HELLO => Greeting::Hello(decode_hello(r)?),
        HELLO_REPLY => Greeting::Reply(decode_hello_reply(r)?),
        QUESTION => Greeting::Question { protocol_version: r.u32_le("protocol version")? },
        ROSTER => Greeting::Roster(decode_roster(r)?),
        _ => return Err(unknown),
    };
    r.finish()?;
    Ok(greeting)
}

/// Whether a message may overtake entries: small, and elections, commit or reads wait for it.
/// Appends never overtake each other, not even empty ones: the follower would refuse one whose
/// predecessor is still behind it.
pub fn is_urgent(message: &Message) -> bool {
    !matches!(
        message.body,
        MessageBody::Append { .. } | MessageBody::Propose { .. } | MessageBody::Snapshot { .. }
    )
}

/// What a message weighs in a queue bounded by bytes.
pub fn message_cost(message: &Message) -> usize {
    const FIXED: usize = 64;
    FIXED
        + match &message.body {
            MessageBody::Append { entries, .. } => entries.iter().map(|e| e.cost()).sum(),
            MessageBody::Propose { data } => data.iter().map(|d| d.len() + 16).sum(),
            MessageBody::Snapshot { meta } => 8 * meta.conf.members().len(),
            _ => 0,
        }
}
