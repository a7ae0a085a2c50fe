//! Numbers of variable length: LEB128, seven bits a byte, lowest first, the top bit set on all
//! but the last byte. Signed numbers are zigzagged first (0, -1, 1, -2 ...), so that small ones
//! are short on both sides of zero. Only the shortest form of a number is accepted.

use bytes::{BufMut, Bytes, BytesMut};

/// The longest form: 64 bits in sevens.
pub const VARINT_BYTES_MAX: usize = 10;

pub fn put_varint(out: &mut BytesMut, mut value: u64) {
    while value >= 0x80 {
        out.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

pub fn put_zigzag(out: &mut BytesMut, value: i64) {
    put_varint(out, ((value << 1) ^ (value >> 63)) as u64);
}

/// How many bytes `put_varint` writes.
pub fn varint_len(value: u64) -> usize {
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

/// The number at the front of `bytes` and how long it was; `None` when there is none.
pub fn split_varint(bytes: &[u8]) -> Option<(u64, usize)> {
    let mut value = 0_u64;
    for (i, byte) in bytes.iter().take(VARINT_BYTES_MAX).enumerate() {
        let bits = u64::from(byte & 0x7f);
        // The tenth byte has room for one bit.
        if i == VARINT_BYTES_MAX - 1 && bits > 1 {
            return None;
        }
        value |= bits << (7 * i);
        if byte & 0x80 == 0 {
            // A last byte of zero would be a longer form of a shorter number.
            return (bits != 0 || i == 0).then_some((value, i + 1));
        }
    }
    None
}

pub fn unzigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

/// A length and then that many bytes.
pub fn put_bytes(out: &mut BytesMut, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.put_slice(bytes);
}

pub fn put_bool(out: &mut BytesMut, value: bool) {
    out.put_u8(u8::from(value));
}

/// A count and then each string.
pub fn put_strings(out: &mut BytesMut, strings: &[String]) {
    put_varint(out, strings.len() as u64);
    for s in strings {
        put_bytes(out, s.as_bytes());
    }
}

/// A count and then each byte string.
pub fn put_bytes_list(out: &mut BytesMut, list: &[Bytes]) {
    put_varint(out, list.len() as u64);
    for bytes in list {
        put_bytes(out, bytes);
    }
}
