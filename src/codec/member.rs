//! One row of the membership.
//!
//! `id u64 | name | peer URLs | client URLs | is_learner | incarnation? u64`

use super::reader::{DecodeError, Reader};
use super::varint::{put_bool, put_bytes, put_strings};
use crate::types::{Incarnation, Member, NodeId};
use bytes::{BufMut, BytesMut};

pub fn encode_member(member: &Member, out: &mut BytesMut) {
    let Member { id, name, peer_urls, client_urls, is_learner, incarnation } = member;
    out.put_u64_le(id.0);
    put_bytes(out, name.as_bytes());
    put_strings(out, peer_urls);
    put_strings(out, client_urls);
    put_bool(out, *is_learner);
    put_bool(out, incarnation.is_some());
    if let Some(incarnation) = incarnation {
        out.put_u64_le(incarnation.0);
    }
}

pub fn decode_member(r: &mut Reader<'_>) -> Result<Member, DecodeError> {
    Ok(Member {
        id: NodeId(r.u64_le("member id")?),
        name: r.string("member name")?,
        peer_urls: r.list(1, "peer URLs", |r| r.string("peer URL"))?,
        client_urls: r.list(1, "client URLs", |r| r.string("client URL"))?,
        is_learner: r.bool("learner flag")?,
        incarnation: r.option("incarnation flag", |r| Ok(Incarnation(r.u64_le("incarnation")?)))?,
    })
}
