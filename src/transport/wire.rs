//! Frames over a connection's two halves, with a limit on silence.

use super::frame::{Greeting, PeerFrame, decode_greeting, encode_greeting, encode_peer_frame};
use crate::codec::DecodeError;
use crate::codec::frame::{begin_frame, end_frame, frame_bytes_missing, split_frame};
use crate::io::{Clock, ReadHalf, WriteHalf, until};
use crate::types::limits;
use bytes::{Bytes, BytesMut};
use std::fmt;
use std::io;
use std::time::Duration;

/// Room for one read: at least, and at most on the word of a frame's header.
const READ_BYTES_MIN: usize = 64 << 10;
const READ_BYTES_MAX: usize = 1 << 20;
/// Payloads up to this size are copied out of the read buffer: an entry that stays in a log must
/// not keep the heartbeats around it in memory.
const COPY_BYTES_MAX: usize = 16 << 10;

/// Why a stream ended.
#[derive(Debug)]
pub enum StreamError {
    Io(io::Error),
    /// The other end closed it between two frames.
    Closed,
    /// Nothing came, or nothing could be written, for too long.
    Silent,
    /// Bytes that are not ours.
    Garbage(DecodeError),
    /// A message in another member's name.
    Forged,
    /// This end wants it so.
    Ended(&'static str),
}

impl fmt::Display for StreamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StreamError::Io(error) => error.fmt(f),
            StreamError::Closed => f.write_str("closed by the peer"),
            StreamError::Silent => f.write_str("silent for too long"),
            StreamError::Garbage(error) => write!(f, "not a peer's bytes: {error}"),
            StreamError::Forged => f.write_str("a message in another member's name"),
            StreamError::Ended(why) => f.write_str(why),
        }
    }
}

impl From<io::Error> for StreamError {
    fn from(error: io::Error) -> StreamError {
        StreamError::Io(error)
    }
}

impl From<DecodeError> for StreamError {
    fn from(error: DecodeError) -> StreamError {
        StreamError::Garbage(error)
    }
}

pub struct FrameReader {
    half: Box<dyn ReadHalf>,
    buf: BytesMut,
}

impl FrameReader {
    pub fn new(half: Box<dyn ReadHalf>) -> FrameReader {
        FrameReader { half, buf: BytesMut::new() }
    }

    /// The payload of the next frame. Dropping the future loses nothing.
    pub async fn next(
        &mut self,
        bytes_max: usize,
        clock: &dyn Clock,
        silence: Duration,
    ) -> Result<Bytes, StreamError> {
        loop {
            if let Some(payload) = split_frame(&mut self.buf, bytes_max)? {
                let small = payload.len() <= COPY_BYTES_MAX;
                return Ok(if small { Bytes::copy_from_slice(&payload) } else { payload });
            }
            let missing = frame_bytes_missing(&self.buf);
            self.buf.reserve(missing.clamp(READ_BYTES_MIN, READ_BYTES_MAX));
            let deadline = clock.now() + silence;
            match until(clock, deadline, self.half.read(&mut self.buf)).await {
                None => return Err(StreamError::Silent),
                Some(Ok(0)) if self.buf.is_empty() => return Err(StreamError::Closed),
                Some(Ok(0)) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error.into()),
            }
        }
    }

    pub async fn greeting(
        &mut self,
        clock: &dyn Clock,
        silence: Duration,
    ) -> Result<Greeting, StreamError> {
        let payload = self.next(limits::PEER_HELLO_BYTES_MAX, clock, silence).await?;
        Ok(decode_greeting(&payload)?)
    }
}

/// Writes everything, unless that takes longer than `silence`.
pub async fn write(
    half: &mut dyn WriteHalf,
    bytes: Bytes,
    clock: &dyn Clock,
    silence: Duration,
) -> Result<(), StreamError> {
    match until(clock, clock.now() + silence, half.write_all(bytes)).await {
        None => Err(StreamError::Silent),
        Some(result) => Ok(result?),
    }
}

pub fn greeting_bytes(greeting: &Greeting) -> Bytes {
    let mut out = BytesMut::new();
    let start = begin_frame(&mut out);
    encode_greeting(greeting, &mut out);
    end_frame(&mut out, start);
    out.freeze()
}

pub fn put_peer_frame(frame: &PeerFrame, out: &mut BytesMut) {
    let start = begin_frame(out);
    encode_peer_frame(frame, out);
    end_frame(out, start);
}
