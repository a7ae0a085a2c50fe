//! A payload with its length and checksum around it, for streams.
//!
//! ```text
//! 0        4        8
//! +--------+--------+-------------------+
//! | length | crc32  | payload           |   both u32, little-endian; crc32 of the payload
//! +--------+--------+-------------------+
//! ```
//! An empty payload is not a frame: a stream of zeros would be full of them.

use super::checksum::crc32;
use super::reader::DecodeError;
use bytes::{Buf, Bytes, BytesMut};

pub const FRAME_HEADER_BYTES: usize = 8;

/// Appends a frame around a payload that is already encoded.
pub fn put_frame(out: &mut BytesMut, payload: &[u8]) {
    let start = begin_frame(out);
    out.extend_from_slice(payload);
    end_frame(out, start);
}

/// Leaves room for a header; what is appended until `end_frame` is the payload.
pub fn begin_frame(out: &mut BytesMut) -> usize {
    let start = out.len();
    out.extend_from_slice(&[0; FRAME_HEADER_BYTES]);
    start
}

/// Completes the frame begun at `start`.
pub fn end_frame(out: &mut BytesMut, start: usize) {
    let payload = &out[start + FRAME_HEADER_BYTES..];
    assert!(!payload.is_empty(), "an empty frame");
    let len = u32::try_from(payload.len()).expect("frames are bounded far below 4 GiB");
    let crc = crc32(payload);
    out[start..start + 4].copy_from_slice(&len.to_le_bytes());
    out[start + 4..start + 8].copy_from_slice(&crc.to_le_bytes());
}

/// Takes the first frame's payload off the front of what a stream has delivered so far. `None`
/// means that more bytes are needed; an error, that no more of this stream can be understood.
pub fn split_frame(buf: &mut BytesMut, bytes_max: usize) -> Result<Option<Bytes>, DecodeError> {
    let Some(header) = buf.first_chunk::<FRAME_HEADER_BYTES>() else { return Ok(None) };
    let [l0, l1, l2, l3, c0, c1, c2, c3] = *header;
    let len = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
    let crc = u32::from_le_bytes([c0, c1, c2, c3]);
    if len == 0 || len > bytes_max {
        return Err(DecodeError { what: "frame length within bounds", offset: 0 });
    }
    if buf.len() < FRAME_HEADER_BYTES + len {
        return Ok(None);
    }
    buf.advance(FRAME_HEADER_BYTES);
    let payload = buf.split_to(len).freeze();
    if crc32(&payload) != crc {
        return Err(DecodeError { what: "frame payload that matches its checksum", offset: 4 });
    }
    Ok(Some(payload))
}

/// How many bytes the frame at the front of `buf` still lacks, for reserving room; 0 when it is
/// complete or its header is not there yet.
pub fn frame_bytes_missing(buf: &[u8]) -> usize {
    let Some([l0, l1, l2, l3, ..]) = buf.first_chunk::<FRAME_HEADER_BYTES>() else { return 0 };
    let len = u32::from_le_bytes([*l0, *l1, *l2, *l3]) as usize;
    (FRAME_HEADER_BYTES + len).saturating_sub(buf.len())
}
