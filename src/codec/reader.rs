//! A position in a buffer, and what can be read from there.

use super::varint::{split_varint, unzigzag};
use bytes::Bytes;
use std::fmt;

/// Bytes that are not what they should be: what was expected, and where in the buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecodeError {
    pub what: &'static str,
    pub offset: usize,
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no {} at byte {}", self.what, self.offset)
    }
}

impl std::error::Error for DecodeError {}

/// Elements that a list reserves room for before the first one has been read. A count may
/// promise more than the buffer can hold of decoded size.
const RESERVE_MAX: usize = 1024;

/// Reads a buffer from front to back. A failed read does not move it.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    buf: &'a Bytes,
    at: usize,
}

impl<'a> Reader<'a> {
    pub fn new(buf: &'a Bytes) -> Reader<'a> {
        Reader { buf, at: 0 }
    }

    /// Bytes read so far.
    pub fn offset(&self) -> usize {
        self.at
    }

    pub fn remaining(&self) -> usize {
        self.buf.len() - self.at
    }

    /// An error at the present position.
    pub fn error(&self, what: &'static str) -> DecodeError {
        DecodeError { what, offset: self.at }
    }

    /// All must have been read: trailing bytes are somebody else's format.
    pub fn finish(&self) -> Result<(), DecodeError> {
        if self.remaining() == 0 { Ok(()) } else { Err(self.error("end")) }
    }

    /// The next `n` bytes, shared with the buffer.
    pub fn raw(&mut self, n: usize, what: &'static str) -> Result<Bytes, DecodeError> {
        if n > self.remaining() {
            return Err(self.error(what));
        }
        let slice = self.buf.slice(self.at..self.at + n);
        self.at += n;
        Ok(slice)
    }

    fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], DecodeError> {
        let array = self.buf[self.at..].first_chunk::<N>().copied().ok_or(self.error(what))?;
        self.at += N;
        Ok(array)
    }

    pub fn u8(&mut self, what: &'static str) -> Result<u8, DecodeError> {
        Ok(self.array::<1>(what)?[0])
    }

    pub fn u32_le(&mut self, what: &'static str) -> Result<u32, DecodeError> {
        self.array(what).map(u32::from_le_bytes)
    }

    pub fn u64_le(&mut self, what: &'static str) -> Result<u64, DecodeError> {
        self.array(what).map(u64::from_le_bytes)
    }

    pub fn bool(&mut self, what: &'static str) -> Result<bool, DecodeError> {
        let error = self.error(what);
        match self.u8(what)? {
            0 => Ok(false),
            1 => Ok(true),
            _ => {
                self.at = error.offset;
                Err(error)
            }
        }
    }

    pub fn varint(&mut self, what: &'static str) -> Result<u64, DecodeError> {
        let (value, len) = split_varint(&self.buf[self.at..]).ok_or(self.error(what))?;
        self.at += len;
        Ok(value)
    }

    pub fn zigzag(&mut self, what: &'static str) -> Result<i64, DecodeError> {
        self.varint(what).map(unzigzag)
    }

    /// A length and then that many bytes, shared with the buffer.
    pub fn bytes(&mut self, what: &'static str) -> Result<Bytes, DecodeError> {
        let start = self.at;
        let len = self.varint(what)?;
        if len > self.remaining() as u64 {
            self.at = start;
            return Err(self.error(what));
        }
        self.raw(len as usize, what)
    }

    pub fn string(&mut self, what: &'static str) -> Result<String, DecodeError> {
        let start = self.at;
        let bytes = self.bytes(what)?;
        match std::str::from_utf8(&bytes) {
            Ok(s) => Ok(s.to_owned()),
            Err(_) => {
                self.at = start;
                Err(self.error(what))
            }
        }
    }

    /// A count of elements of which each takes at least `bytes_min` bytes (at least 1).
    pub fn count(&mut self, bytes_min: usize, what: &'static str) -> Result<usize, DecodeError> {
        let start = self.at;
        let count = self.varint(what)?;
        if count > (self.remaining() / bytes_min.max(1)) as u64 {
            self.at = start;
            return Err(self.error(what));
        }
        Ok(count as usize)
    }

    /// A count and then each element.
    pub fn list<T>(
        &mut self,
        bytes_min: usize,
        what: &'static str,
        mut element: impl FnMut(&mut Reader<'a>) -> Result<T, DecodeError>,
    ) -> Result<Vec<T>, DecodeError> {
        let count = self.count(bytes_min, what)?;
        let mut list = Vec::with_capacity(count.min(RESERVE_MAX));
        for _ in 0..count {
            list.push(element(self)?);
        }
        Ok(list)
    }

    /// 0, or 1 and then the value.
    pub fn option<T>(
        &mut self,
        what: &'static str,
        value: impl FnOnce(&mut Reader<'a>) -> Result<T, DecodeError>,
    ) -> Result<Option<T>, DecodeError> {
        if self.bool(what)? { value(self).map(Some) } else { Ok(None) }
    }
}
