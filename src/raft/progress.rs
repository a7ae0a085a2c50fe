//! What a leader knows of one other member, and how fast it may send to it.
//!
//! ```text
//!              accepted                     needed entry is trimmed
//!   Probe ----------------> Replicate      (Probe or Replicate) ----> Snapshot
//!     ^                        |                                        |
//!     +---- refused, lost -----+      accepted at or behind its point,  |
//!     +--------------------------------- refused, failed ---------------+
//! ```
//!
//! *Probe* looks for the point where the logs agree: one append, then silence until it is
//! answered or a heartbeat is. *Replicate* streams: `next` runs ahead of `matched`, and the
//! window bounds how far. *Snapshot* sends nothing until the follower says where it stands.

use super::{Bounds, PeerState};
use crate::types::LogIndex;
use crate::types::message::SnapshotMeta;
use std::collections::VecDeque;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mode {
    /// `paused` after each append until an answer comes.
    Probe {
        paused: bool,
    },
    Replicate,
    /// `None` until the host has pinned a state.
    Snapshot(Option<SnapshotMeta>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Persisted there and equal to our log. Only grows within a term. `matched < next`.
    pub matched: LogIndex,
    /// The next entry to send.
    pub next: LogIndex,
    pub mode: Mode,
    pub window: Window,
    /// Heard from since the last quorum check.
    pub active: bool,
    /// Entries from here are being read back from the WAL for it.
    pub reading: Option<LogIndex>,
    /// The largest commit index a message in flight, or a received one, has told it.
    pub sent_commit: LogIndex,
    /// The newest read-index context it has acknowledged in this term.
    pub context: u64,
}

impl Progress {
    /// A member the leader knows nothing of yet, except that it should end where `last` ends.
    pub fn new(last: LogIndex, active: bool) -> Progress {
        Progress {
            matched: LogIndex::ZERO,
            next: last.next(),
            mode: Mode::Probe { paused: false },
            window: Window::default(),
            active,
            reading: None,
            sent_commit: LogIndex::ZERO,
            context: 0,
        }
    }

    pub fn state(&self) -> PeerState {
        match self.mode {
            Mode::Probe { .. } => PeerState::Probe,
            Mode::Replicate => PeerState::Replicate,
            Mode::Snapshot(_) => PeerState::Snapshot,
        }
    }

    /// The follower has persisted our log up to `index`. True when that is news.
    pub fn accept(&mut self, index: LogIndex) -> bool {
        let news = index > self.matched;
        if news {
            self.matched = index;
            self.next = self.next.max(index.next());
        }
        self.window.free(index);
        news
    }

    /// The follower refused an append behind `refused` and names a point where the logs may
    /// agree. False when the refusal is older than what is known by now.
    pub fn refuse(&mut self, refused: LogIndex, hint: LogIndex) -> bool {
        let stale = match self.mode {
            // Known to match there: the refusal was overtaken.
            Mode::Replicate => refused <= self.matched,
            // A probe is answered by its own refusal only.
            Mode::Probe { .. } => self.next.prev() != refused,
            Mode::Snapshot(_) => true,
        };
        if stale {
            return false;
        }
        let next = refused.min(hint.next()).max(self.matched.next());
        self.probe(next);
        true
    }

    /// Starts over from `next`, one append at a time.
    pub fn probe(&mut self, next: LogIndex) {
        assert!(next > self.matched, "probing behind what is known to match");
        self.next = next;
        self.sent_commit = LogIndex::ZERO;
        self.window.clear();
        self.mode = Mode::Probe { paused: false };
    }

    pub fn replicate(&mut self) {
        self.next = self.matched.next();
        self.window.clear();
        self.mode = Mode::Replicate;
    }

    pub fn wait_for_snapshot(&mut self) {
        self.window.clear();
        self.sent_commit = LogIndex::ZERO;
        self.mode = Mode::Snapshot(None);
    }

    pub fn sent_snapshot(&mut self, meta: SnapshotMeta) {
        self.next = meta.index.max(self.matched).next();
        self.mode = Mode::Snapshot(Some(meta));
    }

    /// The snapshot did not arrive. Paused: the next heartbeat's answer tries again.
    pub fn snapshot_failed(&mut self) {
        self.probe(self.matched.next());
        self.mode = Mode::Probe { paused: true };
    }

    pub fn is_paused(&self) -> bool {
        match self.mode {
            Mode::Probe { paused } => paused,
            Mode::Replicate => false,
            Mode::Snapshot(_) => true,
        }
    }

    /// Streaming, with everything up to `last` there, and told that it is committed.
    pub fn is_caught_up(&self, last: LogIndex) -> bool {
        self.mode == Mode::Replicate && self.matched == last && self.sent_commit == last
    }

    /// An append of `bytes` up to `last` left (`None`: it carried no entries).
    pub fn sent_append(&mut self, last: Option<LogIndex>, bytes: usize) {
        match &mut self.mode {
            Mode::Probe { paused } => *paused = true,
            Mode::Replicate => {
                if let Some(last) = last {
                    self.next = last.next();
                    self.window.add(last, bytes);
                }
            }
            Mode::Snapshot(_) => unreachable!("an append to a follower that waits for a snapshot"),
        }
    }
}

/// Appends on their way to one follower: the last index and the bytes of each, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Window {
    appends: VecDeque<(LogIndex, usize)>,
    bytes: usize,
}

impl Window {
    pub fn is_full(&self, bounds: &Bounds) -> bool {
        self.appends.len() >= bounds.inflight_appends_max || self.bytes >= bounds.inflight_bytes_max
    }
    pub fn len(&self) -> usize {
        self.appends.len()
    }
    fn add(&mut self, last: LogIndex, bytes: usize) {
        assert!(self.appends.back().is_none_or(|b| b.0 < last), "appends leave in log order");
        self.appends.push_back((last, bytes));
        self.bytes += bytes;
    }
    /// Everything up to `index` has arrived.
    fn free(&mut self, index: LogIndex) {
        while let Some(&(last, bytes)) = self.appends.front()
            && last <= index
        {
            self.appends.pop_front();
            self.bytes -= bytes;
        }
    }
    fn clear(&mut self) {
        self.appends.clear();
        self.bytes = 0;
    }
    pub fn shrink(&mut self) {
        if self.appends.is_empty() {
            self.appends = VecDeque::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(index: u64) -> LogIndex {
        LogIndex(index)
    }

    #[test]
    fn a_probe_is_moved_only_by_its_own_refusal() {
        let mut p = Progress::new(at(10), false);
        assert!(!p.refuse(at(9), at(3)), "an older probe's refusal");
        assert!(p.refuse(at(10), at(3)));
        assert_eq!(p.next, at(4));
        // A hint ahead of the refused point never moves the probe forward.
        assert!(p.refuse(at(3), at(90)));
        assert_eq!(p.next, at(3));
        // Nor does one behind what matches move it further back.
        p.accept(at(1));
        assert!(p.refuse(at(2), at(0)));
        assert_eq!(p.next, at(2));
    }

    #[test]
    fn a_stream_ignores_refusals_of_what_has_matched_since() {
        let mut p = Progress::new(at(10), false);
        p.accept(at(10));
        p.replicate();
        p.sent_append(Some(at(12)), 100);
        assert!(!p.refuse(at(10), at(2)));
        assert!(p.refuse(at(12), at(2)));
        assert_eq!((p.state(), p.next), (PeerState::Probe, at(11)));
    }

    #[test]
    fn the_window_counts_messages_and_bytes() {
        let bounds =
            Bounds { inflight_appends_max: 3, inflight_bytes_max: 100, ..Bounds::default() };
        let mut p = Progress::new(at(0), true);
        p.replicate();
        p.sent_append(Some(at(1)), 10);
        p.sent_append(None, 0);
        p.sent_append(Some(at(5)), 10);
        assert!(!p.window.is_full(&bounds));
        p.sent_append(Some(at(6)), 10);
        assert!(p.window.is_full(&bounds), "three messages");
        assert!(p.accept(at(5)));
        assert!(!p.accept(at(3)), "overtaken");
        assert_eq!(p.window.len(), 1);
        p.sent_append(Some(at(7)), 90);
        assert!(p.window.is_full(&bounds), "a hundred bytes");
    }

    #[test]
    fn a_failed_snapshot_waits_for_a_heartbeat() {
        let mut p = Progress::new(at(10), true);
        p.wait_for_snapshot();
        let meta = SnapshotMeta { index: at(8), ..SnapshotMeta::default() };
        p.sent_snapshot(meta);
        assert_eq!(p.next, at(9));
        assert!(p.is_paused() && !p.refuse(at(8), at(1)));
        p.snapshot_failed();
        assert_eq!((p.next, p.mode), (at(1), Mode::Probe { paused: true }));
    }
}
