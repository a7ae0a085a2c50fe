//! The follower's side of a raft snapshot, as the core sees it: which state is being fetched from
//! whom, one chunk at a time, with an end in any case.

use super::core::Core;
use crate::multiraft::snapshots::{ChunkInstalled, InstallStep};
use crate::multiraft::turn::InstallWanted;
use crate::multiraft::wire::{NodeMessage, SnapshotChunk, SnapshotFetch};
use crate::raft::Input;
use crate::types::message::SnapshotMeta;
use crate::types::{GroupId, LogIndex, NodeId};
use bytes::Bytes;

/// A chunk that has not come by then is asked for again.
const CHUNK_RETRY_MS: u64 = 2_000;
/// A fetch without any progress for this long is over.
const FETCH_IDLE_MS: u64 = 20_000;
/// States fetched at once; the others wait their turn.
const FETCHES_MAX: usize = 4;
/// The leader keeps its log for a fetching follower at most this long.
const SENDING_MS: u64 = 600_000;

#[derive(Debug)]
pub(super) struct Fetch {
    from: NodeId,
    meta: SnapshotMeta,
    id: u64,
    cursor: Option<(u8, Bytes)>,
    state: State,
    asked_ms: u64,
    progress_ms: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Others go first.
    Queued,
    /// A chunk was asked for.
    Asking,
    /// The installer has a chunk.
    Loading,
    /// All chunks are in: the applier and a checkpoint have it.
    Finishing,
}

impl Core {
    pub(super) fn begin_fetch(&mut self, wanted: InstallWanted) {
        let InstallWanted { group, from, meta } = wanted;
        let now = self.now_ms;
        match self.groups.get(&group).and_then(|entry| entry.fetch.as_ref()) {
            // What is nearly done is not thrown away; the leader offers again if it must.
            Some(fetch) if fetch.state == State::Finishing => {
                self.host.step(group, Input::SnapshotRefused { index: meta.index });
                return;
            }
            Some(_) => self.out.installs.push(InstallStep::Abort { group }),
            None => {}
        }
        let fetch = Fetch {
            from,
            meta,
            id: 0,
            cursor: None,
            state: State::Queued,
            asked_ms: now,
            progress_ms: now,
        };
        self.group_mut(group).fetch = Some(fetch);
        self.start_fetches();
    }

    fn start_fetches(&mut self) {
        let busy = |core: &Core| {
            let fetches = core.groups.values().filter_map(|entry| entry.fetch.as_ref());
            fetches.filter(|fetch| fetch.state != State::Queued).count()
        };
        let groups: Vec<GroupId> = self.groups.keys().copied().collect();
        for group in groups {
            if busy(self) >= FETCHES_MAX {
                return;
            }
            let now = self.now_ms;
            let Some(fetch) = &mut self.group_mut(group).fetch else { continue };
            if fetch.state == State::Queued {
                fetch.state = State::Asking;
                fetch.progress_ms = now;
                let meta = fetch.meta.clone();
                self.out.installs.push(InstallStep::Begin { group, meta });
                self.ask_chunk(group);
            }
        }
    }

    fn ask_chunk(&mut self, group: GroupId) {
        let now = self.now_ms;
        let Some(fetch) = &mut self.group_mut(group).fetch else { return };
        fetch.state = State::Asking;
        fetch.asked_ms = now;
        let from = fetch.from;
        let ask = SnapshotFetch {
            group,
            id: fetch.id,
            meta_index: fetch.meta.index,
            cursor: fetch.cursor.clone(),
        };
        self.send(from, NodeMessage::SnapshotFetch(ask));
    }

    pub(super) fn chunk_arrived(&mut self, from: NodeId, chunk: SnapshotChunk) {
        let Some(entry) = self.groups.get_mut(&chunk.group) else { return };
        let Some(fetch) = &mut entry.fetch else { return };
        let expected = fetch.state == State::Asking
            && fetch.from == from
            && fetch.meta.index == chunk.meta_index
            && (fetch.id == 0 || fetch.id == chunk.id)
            && fetch.cursor == chunk.after;
        if !expected {
            return;
        }
        fetch.id = chunk.id;
        fetch.state = State::Loading;
        self.out.installs.push(InstallStep::Chunk(chunk));
    }

    pub(super) fn chunk_installed(&mut self, installed: ChunkInstalled) {
        let ChunkInstalled { group, id, ok, cursor, last } = installed;
        let now = self.now_ms;
        let Some(fetch) = self.groups.get_mut(&group).and_then(|entry| entry.fetch.as_mut()) else {
            return;
        };
        if fetch.id != id || fetch.state != State::Loading {
            return;
        }
        let index = fetch.meta.index;
        if !ok {
            return self.refuse_fetch(group, index);
        }
        fetch.cursor = cursor;
        fetch.progress_ms = now;
        if !last {
            return self.ask_chunk(group);
        }
        // The log may have come as far by itself meanwhile; then the state is of no use.
        let commit = self.host.replica(group).map(|replica| replica.commit());
        if commit.is_none_or(|commit| commit >= index) {
            return self.refuse_fetch(group, index);
        }
        self.group_mut(group).fetch.as_mut().expect("it was there a moment ago").state =
            State::Finishing;
        self.out.installs.push(InstallStep::Finish { group });
    }

    /// The state is part of a durable checkpoint: now the log may start there.
    pub(super) fn snapshot_durable(&mut self, group: GroupId, meta: SnapshotMeta) {
        self.counters.snapshots_fetched += 1;
        if let Some(entry) = self.groups.get_mut(&group) {
            entry.fetch = None;
            entry.conf = meta.conf.clone();
        }
        self.host.step(group, Input::SnapshotInstalled { meta });
        self.start_fetches();
    }

    pub(super) fn snapshot_gone(&mut self, from: NodeId, group: GroupId, id: u64, index: LogIndex) {
        let fetch = self.groups.get(&group).and_then(|entry| entry.fetch.as_ref());
        let Some(fetch) = fetch else { return };
        let this = fetch.from == from && fetch.meta.index == index && fetch.id == id;
        if this && fetch.state == State::Asking {
            self.refuse_fetch(group, index);
        }
    }

    /// The fetch has failed, or the applier did not want what it brought.
    pub(super) fn refuse_fetch(&mut self, group: GroupId, index: LogIndex) {
        self.counters.snapshots_refused += 1;
        if let Some(entry) = self.groups.get_mut(&group)
            && entry.fetch.as_ref().is_some_and(|fetch| fetch.meta.index == index)
        {
            entry.fetch = None;
            self.out.installs.push(InstallStep::Abort { group });
        }
        self.host.step(group, Input::SnapshotRefused { index });
        self.start_fetches();
    }

    pub(super) fn tick_fetch(&mut self, group: GroupId) {
        let now = self.now_ms;
        let Some(fetch) = self.groups.get(&group).and_then(|entry| entry.fetch.as_ref()) else {
            return;
        };
        // The leader that offered it leads no more. Until the fetch is over this replica takes no
        // entries, which the new leader may need it for; it offers its own state if it must.
        let leader = self.groups[&group].soft.leader;
        if fetch.state != State::Finishing && !leader.is_none() && leader != fetch.from {
            let index = fetch.meta.index;
            return self.refuse_fetch(group, index);
        }
        if fetch.state != State::Asking {
            return;
        }
        if now >= fetch.progress_ms + FETCH_IDLE_MS {
            let index = fetch.meta.index;
            self.refuse_fetch(group, index);
        } else if now >= fetch.asked_ms + CHUNK_RETRY_MS {
            self.ask_chunk(group);
        }
    }

    /// The leader's side: the state at `meta` is pinned for `to`.
    pub(super) fn snapshot_ready(&mut self, group: GroupId, to: NodeId, meta: SnapshotMeta) {
        let until = self.now_ms + SENDING_MS;
        if let Some(entry) = self.groups.get_mut(&group) {
            entry.sending.insert(to, (meta.index, until));
        }
        self.host.step(group, Input::SnapshotReady { to, meta });
    }
}
