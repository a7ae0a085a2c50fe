//! How a leader brings its log to the others: one function that sends what a member's progress
//! allows, and one handler per kind of answer.

use super::core::Core;
use super::leader::{Empty, Leader};
use super::log::Found;
use super::progress::{Mode, Progress};
use super::{Effect, Effects, Note, ReadFor};
use crate::types::message::{RejectHint, SnapshotMeta};
use crate::types::{Entry, LogIndex, MessageBody, NodeId};

impl Leader {
    pub(super) fn replicate_to_all(&mut self, core: &Core, empty: Empty, fx: &mut Effects) {
        for (&id, peer) in &mut self.peers {
            Leader::replicate(peer, id, core, empty, fx);
        }
    }

    /// Sends `peer` every entry its mode and its window allow, or asks for what is needed first:
    /// old entries from the WAL, a snapshot when they are trimmed.
    pub(super) fn replicate(
        peer: &mut Progress,
        id: NodeId,
        core: &Core,
        mut empty: Empty,
        fx: &mut Effects,
    ) {
        loop {
            if peer.is_paused() || peer.reading.is_some() {
                return;
            }
            if peer.next <= core.log.start().0 {
                // Pinning a state for a member that does not answer would be waste.
                if peer.active {
                    fx.push(Effect::Note(Note::SnapshotNeeded { peer: id, next: peer.next }));
                    peer.wait_for_snapshot();
                    fx.push(Effect::MakeSnapshot { to: id });
                }
                return;
            }
            let bounds = &core.config.bounds;
            let (from, to) = (peer.next, core.log.last());
            let full = peer.mode == Mode::Replicate && peer.window.is_full(bounds);
            let entries = if full || from > to {
                Vec::new()
            } else {
                match core.log.find(from, to, bounds.append_bytes_max, bounds.append_entries_max) {
                    Found::Entries(entries) => entries,
                    Found::Older { to } => {
                        peer.reading = Some(from);
                        let purpose = ReadFor::Follower(id);
                        let bytes_max = bounds.append_bytes_max;
                        return fx.push(Effect::ReadEntries { purpose, from, to, bytes_max });
                    }
                }
            };
            let was_empty = entries.is_empty();
            let usable_commit = core.commit().min(from.prev());
            let wanted = match empty {
                _ if !was_empty => true,
                Empty::Never => false,
                Empty::ForCommit => usable_commit > peer.sent_commit,
                Empty::Always => true,
            };
            if wanted {
                Leader::send_append(peer, id, core, entries, fx);
            }
            if was_empty {
                return;
            }
            empty = Empty::Never;
        }
    }

    /// One append behind `peer.next`.
    fn send_append(
        peer: &mut Progress,
        id: NodeId,
        core: &Core,
        entries: Vec<Entry>,
        fx: &mut Effects,
    ) {
        let prev_index = peer.next.prev();
        let prev_term = core.log.term(prev_index).expect("the entry before the next is known");
        let commit = core.commit();
        let last = entries.last().map(|entry| entry.index);
        peer.sent_commit = peer.sent_commit.max(commit.min(last.unwrap_or(prev_index)));
        peer.sent_append(last, entries.iter().map(Entry::cost).sum());
        core.send(id, MessageBody::Append { prev_index, prev_term, commit, entries }, fx);
    }

    pub fn on_append_reply(
        &mut self,
        core: &mut Core,
        from: NodeId,
        index: LogIndex,
        reject: Option<RejectHint>,
        fx: &mut Effects,
    ) {
        let Some(peer) = self.peers.get_mut(&from) else { return };
        if index > core.log.last() {
            let why = "it names an entry that was never sent";
            return fx.push(core.bad_message(from, "AppendReply", why));
        }
        peer.active = true;
        match reject {
            None => self.on_accepted(core, from, index, fx),
            Some(hint) => {
                let (agree, _) = core.log.agree_before(hint.index, hint.term);
                if peer.refuse(index, agree) {
                    fx.push(Effect::Note(Note::Probing { peer: from, next: peer.next }));
                    Leader::replicate(peer, from, core, Empty::Always, fx);
                }
            }
        }
    }

    /// `from` has persisted our log up to `index`, or said so once more.
    fn on_accepted(&mut self, core: &mut Core, from: NodeId, index: LogIndex, fx: &mut Effects) {
        let peer = self.peers.get_mut(&from).expect("looked up by the caller");
        let news = peer.accept(index);
        let streams = match &peer.mode {
            Mode::Replicate => false,
            // The probe found the place, even if it was no news.
            Mode::Probe { .. } => peer.matched == index,
            // It has what the log can continue from, by the snapshot or without it.
            Mode::Snapshot(_) => news && peer.matched >= core.log.start().0,
        };
        if streams {
            peer.replicate();
            fx.push(Effect::Note(Note::Replicating { peer: from, next: peer.next }));
        }
        if news {
            self.on_match(core, fx);
        }
        if let Some(peer) = self.peers.get_mut(&from) {
            Leader::replicate(peer, from, core, Empty::ForCommit, fx);
        }
        self.hand_over_if_ready(core, from, fx);
    }

    /// Our own disk got further.
    pub fn on_persisted(&mut self, core: &mut Core, fx: &mut Effects) {
        self.on_match(core, fx);
    }

    pub fn on_heartbeat_reply(
        &mut self,
        core: &mut Core,
        from: NodeId,
        context: u64,
        fx: &mut Effects,
    ) {
        let newest = self.reads.newest();
        let Some(peer) = self.peers.get_mut(&from) else { return };
        peer.active = true;
        if context > newest {
            return fx.push(core.bad_message(from, "HeartbeatReply", "a context never asked for"));
        }
        if let Mode::Probe { paused } = &mut peer.mode {
            *paused = false;
        }
        // Something is missing there. If there is nothing to send, or no room for it, an empty
        // append still finds out whether what was sent got lost.
        if peer.matched < core.log.last() || peer.mode != Mode::Replicate {
            Leader::replicate(peer, from, core, Empty::Always, fx);
        }
        if context > peer.context {
            peer.context = context;
            self.serve_reads(core, fx);
        }
    }

    /// Entries for `id` came back from the WAL.
    pub fn on_entries_read(
        &mut self,
        core: &Core,
        id: NodeId,
        from: LogIndex,
        entries: Vec<Entry>,
        fx: &mut Effects,
    ) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        if peer.reading.take_if(|asked| *asked == from).is_none() {
            return;
        }
        if entries.is_empty() {
            // Trimmed meanwhile, or unreadable: the next heartbeat's answer asks again.
            return;
        }
        // It may have been refused or have moved on since.
        if peer.next == from && !peer.is_paused() && core.log.is_part(from, &entries) {
            Leader::send_append(peer, id, core, entries, fx);
        }
        Leader::replicate(peer, id, core, Empty::Never, fx);
    }

    pub fn on_snapshot_ready(
        &mut self,
        core: &Core,
        to: NodeId,
        meta: SnapshotMeta,
        fx: &mut Effects,
    ) {
        assert!(meta.index <= core.commit(), "a snapshot of what is not committed");
        let Some(peer) = self.peers.get_mut(&to) else { return };
        if let Mode::Snapshot(_) = peer.mode {
            peer.sent_snapshot(meta.clone());
            core.send(to, MessageBody::Snapshot { meta }, fx);
        }
    }

    pub fn on_snapshot_failed(&mut self, to: NodeId, fx: &mut Effects) {
        let Some(peer) = self.peers.get_mut(&to) else { return };
        if let Mode::Snapshot(_) = peer.mode {
            peer.snapshot_failed();
            fx.push(Effect::Note(Note::Probing { peer: to, next: peer.next }));
        }
    }

    /// Once per election timeout. The offer of a snapshot, or the answer, may have been lost:
    /// it is repeated to a member that is alive (one that is busy installing ignores it). One
    /// that is silent gives its pinned state back and is probed when it returns.
    pub(super) fn upkeep_snapshots(&mut self, core: &Core, fx: &mut Effects) {
        for (&id, peer) in &mut self.peers {
            match &peer.mode {
                Mode::Snapshot(Some(meta)) if peer.active => {
                    core.send(id, MessageBody::Snapshot { meta: meta.clone() }, fx);
                }
                Mode::Snapshot(_) if !peer.active => {
                    peer.snapshot_failed();
                    fx.push(Effect::Note(Note::Probing { peer: id, next: peer.next }));
                }
                _ => {}
            }
        }
    }

    /// How far the log may be trimmed: a member that is being brought up by a snapshot will
    /// continue from its point, and would otherwise need the next one at once.
    pub fn trim_bound(&self) -> LogIndex {
        let points = self.peers.values().filter_map(|peer| match &peer.mode {
            Mode::Snapshot(Some(meta)) => Some(meta.index),
            _ => None,
        });
        points.min().unwrap_or(LogIndex(u64::MAX))
    }

    /// A message to `id` was lost: what was streamed behind it may be, too.
    pub fn on_unreachable(&mut self, id: NodeId, fx: &mut Effects) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        if peer.mode == Mode::Replicate {
            peer.probe(peer.matched.next());
            fx.push(Effect::Note(Note::Probing { peer: id, next: peer.next }));
        }
    }
}
