//! How large a log is, by index: enough to answer "from which index on are the entries at most
//! this many bytes", in memory that does not grow with the log.

use crate::types::LogIndex;
use std::collections::VecDeque;

/// Marks kept; when there are more, every second one is forgotten and marks come half as often.
const MARKS_MAX: usize = 1024;

/// Running sum of entry bytes with marks along the way.
#[derive(Clone, Debug)]
pub struct LogSizes {
    /// (index, bytes of all entries up to and including it), ascending.
    marks: VecDeque<(LogIndex, u64)>,
    total: u64,
    last: LogIndex,
    /// A mark is set when this many bytes have come since the last one.
    stride: u64,
}

impl Default for LogSizes {
    fn default() -> LogSizes {
        LogSizes { marks: VecDeque::new(), total: 0, last: LogIndex::ZERO, stride: 16 << 10 }
    }
}

impl LogSizes {
    pub fn append(&mut self, index: LogIndex, bytes: u64) {
        self.total += bytes;
        self.last = index;
        if self.marks.back().is_none_or(|&(_, at)| self.total - at >= self.stride) {
            self.marks.push_back((index, self.total));
        }
        if self.marks.len() > MARKS_MAX {
            let mut keep = false;
            self.marks.retain(|_| {
                keep = !keep;
                keep
            });
            self.stride *= 2;
        }
    }

    /// Entries behind `index` are gone from the log's end.
    pub fn truncate(&mut self, index: LogIndex) {
        while self.marks.back().is_some_and(|&(at, _)| at > index) {
            self.marks.pop_back();
        }
        if self.last > index {
            self.last = index;
            self.total = self.marks.back().map_or(0, |&(_, bytes)| bytes);
        }
    }

    /// Entries up to `index` are gone from the log's beginning.
    pub fn trim(&mut self, index: LogIndex) {
        while self.marks.len() > 1 && self.marks[1].0 <= index {
            self.marks.pop_front();
        }
    }

    /// The log starts anew.
    pub fn restart(&mut self) {
        *self = LogSizes::default();
    }

    /// The lowest known index behind which the entries are at most `bytes`; zero when all are.
    pub fn index_with_at_most(&self, bytes: u64) -> LogIndex {
        let at = self.marks.partition_point(|&(_, sum)| self.total - sum > bytes);
        match at {
            0 => LogIndex::ZERO,
            at => self.marks.get(at).map_or(self.last, |&(index, _)| index),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_behind_an_index_stay_near_the_bound_in_bounded_memory() {
        let mut sizes = LogSizes::default();
        for index in 1..=100_000u64 {
            sizes.append(LogIndex(index), 1000);
        }
        assert!(sizes.marks.len() <= MARKS_MAX);
        let index = sizes.index_with_at_most(10_000_000).0;
        assert!((89_900..=90_500).contains(&index), "{index}");
        assert_eq!(sizes.index_with_at_most(u64::MAX), LogIndex::ZERO);
        sizes.truncate(LogIndex(50_000));
        let index = sizes.index_with_at_most(10_000_000).0;
        assert!((39_000..=40_500).contains(&index), "{index}");
    }
}
