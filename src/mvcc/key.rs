//! Keys of the trees, laid out so that byte order is the order we read in.
//!
//! ```text
//! by revision      main (8, big endian) sub (8, big endian)
//! by key           the user's key, as it is
//! meta             "s"                        the counters (`keyspace`)
//!                  "a" member (8, BE) kind    one raised alarm
//!                  "u" row                    users, roles, whether they count (`auth`)
//! leases           lease (8, BE)
//! lease keys       lease (8, BE) key          one attachment
//! ```

use crate::types::command::AlarmKind;
use crate::types::{KeyRange, LeaseId, NodeId, Revision};
use std::ops::Bound;

pub(super) const META_STATE: &[u8] = b"s";
pub(super) const META_ALARM: u8 = b'a';
pub(super) const META_AUTH: u8 = b'u';

pub(super) fn revision_key(revision: Revision) -> [u8; 16] {
    assert!(revision.main >= 0 && revision.sub >= 0, "a stored revision is never negative");
    let mut key = [0; 16];
    key[..8].copy_from_slice(&revision.main.to_be_bytes());
    key[8..].copy_from_slice(&revision.sub.to_be_bytes());
    key
}

pub(super) fn lease_key(id: LeaseId) -> [u8; 8] {
    id.0.to_be_bytes()
}

pub(super) fn lease_of(key: &[u8]) -> Option<LeaseId> {
    Some(LeaseId(i64::from_be_bytes(key.get(..8)?.try_into().ok()?)))
}

pub(super) fn attachment_key(id: LeaseId, key: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(8 + key.len());
    out.extend_from_slice(&lease_key(id));
    out.extend_from_slice(key);
    out
}

pub(super) fn alarm_key(member: NodeId, kind: AlarmKind) -> [u8; 10] {
    let mut key = [0; 10];
    key[0] = META_ALARM;
    key[1..9].copy_from_slice(&member.0.to_be_bytes());
    key[9] = match kind {
        AlarmKind::NoSpace => 1,
        AlarmKind::Corrupt => 2,
    };
    key
}

pub(super) fn alarm_of(key: &[u8]) -> Option<(NodeId, AlarmKind)> {
    let member = u64::from_be_bytes(key.get(1..9)?.try_into().ok()?);
    let kind = match key.get(9)? {
        1 => AlarmKind::NoSpace,
        2 => AlarmKind::Corrupt,
        _ => return None,
    };
    Some((NodeId(member), kind))
}

/// The bounds of a range in the by-key tree.
pub(super) fn bounds(range: &KeyRange) -> (Bound<&[u8]>, Bound<&[u8]>) {
    let lower = Bound::Included(range.key.as_ref());
    let upper = if range.is_single() {
        Bound::Included(range.key.as_ref())
    } else if range.is_from_key() {
        Bound::Unbounded
    } else {
        Bound::Excluded(range.end.as_ref())
    };
    (lower, upper)
}

/// Whether `key`, known not to lie before the range, still lies inside.
pub(super) fn before_end(range: &KeyRange, key: &[u8]) -> bool {
    if range.is_single() {
        key == range.key.as_ref()
    } else {
        range.is_from_key() || key < range.end.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn revision_keys_sort_as_revisions() {
        let revisions =
            [(0, 0), (1, 0), (1, 1), (1, 256), (2, 0), (255, 7), (256, 0), (i64::MAX, 0)];
        for pair in revisions.windows(2) {
            let [a, b] = [pair[0], pair[1]].map(|(m, s)| revision_key(Revision::new(m, s)));
            assert!(a < b);
        }
    }

    #[test]
    fn alarm_keys_come_back() {
        for kind in [AlarmKind::NoSpace, AlarmKind::Corrupt] {
            assert_eq!(alarm_of(&alarm_key(NodeId(77), kind)), Some((NodeId(77), kind)));
        }
        assert_eq!(alarm_of(b"a"), None);
        assert_eq!(lease_of(&attachment_key(LeaseId(-5), b"k")), Some(LeaseId(-5)));
    }
}
