//! Bytes <-> values, by hand, so that a layout on disk or between peers changes only on purpose.
//!
//! Every decode is a total function: any bytes give a value or a `DecodeError` that says what was
//! expected and where; nothing panics, and nothing is allocated before the bytes that would fill
//! it are known to be there. A value has exactly one encoding (varints are minimal, booleans are
//! 0 or 1, lists of node ids are sorted), so what decodes encodes to the same bytes again.
//! Byte strings are slices of the buffer they came in: decoding copies no payload.
//!
//! Building blocks: unsigned numbers are LEB128 varints (`varint`), signed ones zigzag varints,
//! random 64-bit ids 8 bytes little-endian, byte strings and lists their length or count and then
//! the contents. `frame` puts length and checksum around a payload. Which number means which
//! variant is in `command`, `raft` and `member`; numbers are never given a second meaning.
//!
//! It does not know files, sockets, or when anything is sent.

#[cfg(test)]
pub mod arbitrary;
mod auth;
pub mod checksum;
pub mod command;
pub mod frame;
pub mod member;
pub mod raft;
pub mod reader;
#[cfg(test)]
mod tests;
pub mod varint;

pub use reader::{DecodeError, Reader};
