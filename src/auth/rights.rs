//! The union of key ranges that a user's roles add up to.

use crate::types::KeyRange;
use crate::types::auth::Permission;
use bytes::Bytes;

/// Disjoint half-open intervals, ascending, with gaps between them. `None` ends nowhere.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Intervals(Vec<(Bytes, Option<Bytes>)>);

/// What a range covers: the first key in it, and the first key behind it.
fn bounds(range: &KeyRange) -> (Bytes, Option<Bytes>) {
    if range.is_single() {
        // The next key there is: the same with a zero byte behind it.
        let mut next = Vec::with_capacity(range.key.len() + 1);
        next.extend_from_slice(&range.key);
        next.push(0);
        return (range.key.clone(), Some(Bytes::from(next)));
    }
    (range.key.clone(), (!range.is_from_key()).then(|| range.end.clone()))
}

/// Whether an end lies at or behind another.
fn reaches(end: Option<&Bytes>, other: Option<&Bytes>) -> bool {
    match (end, other) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(end), Some(other)) => end >= other,
    }
}

impl Intervals {
    fn of(ranges: impl Iterator<Item = KeyRange>) -> Intervals {
        let mut all: Vec<_> = ranges.map(|range| bounds(&range)).collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        let mut merged: Vec<(Bytes, Option<Bytes>)> = Vec::new();
        for (begin, end) in all {
            match merged.last_mut() {
                // Touching is enough: no key lies between.
                Some((_, last)) if reaches(last.as_ref(), Some(&begin)) => {
                    if !reaches(last.as_ref(), end.as_ref()) {
                        *last = end;
                    }
                }
                _ => merged.push((begin, end)),
            }
        }
        Intervals(merged)
    }

    fn cover(&self, range: &KeyRange) -> bool {
        let (begin, end) = bounds(range);
        // The last interval that begins at or before the range: no other can hold its first key.
        let at = self.0.partition_point(|(from, _)| *from <= begin);
        let Some((_, to)) = at.checked_sub(1).map(|at| &self.0[at]) else { return false };
        let holds_begin = to.as_ref().is_none_or(|to| begin < *to);
        holds_begin && reaches(to.as_ref(), end.as_ref())
    }
}

/// What one user may read and write.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Rights {
    read: Intervals,
    write: Intervals,
}

impl Rights {
    pub fn of<'a>(permissions: impl Iterator<Item = &'a Permission> + Clone) -> Rights {
        let ranges = |of: fn(&Permission) -> bool| {
            permissions.clone().filter(move |p| of(p)).map(|p| p.range.clone())
        };
        Rights {
            read: Intervals::of(ranges(|p| p.kind.reads())),
            write: Intervals::of(ranges(|p| p.kind.writes())),
        }
    }
    pub fn read(&self, range: &KeyRange) -> bool {
        self.read.cover(range)
    }
    pub fn write(&self, range: &KeyRange) -> bool {
        self.write.cover(range)
    }
}
