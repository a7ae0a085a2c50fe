//! Ranges of keys in etcd's terms.

use bytes::Bytes;

/// A range of keys as etcd's requests spell it: an empty `end` is the single key, an `end` of
/// one zero byte is everything from `key` on, anything else is the half-open `[key, end)`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct KeyRange {
    pub key: Bytes,
    pub end: Bytes,
}

impl KeyRange {
    pub fn single(key: impl Into<Bytes>) -> KeyRange {
        KeyRange { key: key.into(), end: Bytes::new() }
    }
    pub fn new(key: impl Into<Bytes>, end: impl Into<Bytes>) -> KeyRange {
        KeyRange { key: key.into(), end: end.into() }
    }
    pub fn is_single(&self) -> bool {
        self.end.is_empty()
    }
    /// Whether the range has no upper bound.
    pub fn is_from_key(&self) -> bool {
        self.end.as_ref() == [0]
    }
    pub fn contains(&self, key: &[u8]) -> bool {
        if self.is_single() {
            return key == self.key.as_ref();
        }
        key >= self.key.as_ref() && (self.is_from_key() || key < self.end.as_ref())
    }
    /// Whether no key can be inside: an end that does not lie behind the key.
    pub fn is_empty_range(&self) -> bool {
        !self.is_single() && !self.is_from_key() && self.end <= self.key
    }
}
