//! The hub: streams, their watchers and what waits to be sent.

use super::index::{Index, WatcherKey};
use crate::mvcc::apply::ReadError;
use crate::mvcc::feed::event_bytes;
use crate::mvcc::view::KeyspaceView;
use crate::types::limits::WATCHER_BUFFER_BYTES_MAX;
use crate::types::map::Map;
use crate::types::reply::{Event, EventKind};
use crate::types::{ApiError, KeyRange, StorageError};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// Revisions that one message of a catching-up watcher may span (etcd's number).
const CATCH_UP_REVISIONS_MAX: usize = 1000;
/// What a message costs in a stream's buffer besides its events.
const MESSAGE_BYTES: usize = 96;

/// One watch stream of one client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub u64);

/// Kinds of events that a watcher does not want.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Filters {
    pub no_put: bool,
    pub no_delete: bool,
}

impl Filters {
    fn pass(self, kind: EventKind) -> bool {
        match kind {
            EventKind::Put => !self.no_put,
            EventKind::Delete => !self.no_delete,
        }
    }
}

/// etcd's WatchCreateRequest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CreateRequest {
    /// An empty key means one zero byte.
    pub range: KeyRange,
    /// 0: from the next revision on. In the future: nothing older is ever sent.
    pub start_revision: i64,
    pub filters: Filters,
    pub prev_kv: bool,
    pub progress_notify: bool,
    pub fragment: bool,
    /// 0: the hub chooses.
    pub watch_id: i64,
}

/// Why a watcher was not created. Answered as created and canceled at once, with id −1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    EmptyRange,
    DuplicateId,
    /// A negative start revision.
    Compacted,
}

/// Which events of a revision a watcher gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Picked {
    All,
    /// By position, ascending.
    Some(Box<[u32]>),
}

/// A watcher's share of one revision: the events themselves are shared by all watchers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventRefs {
    pub revision: i64,
    pub events: Arc<[Event]>,
    pub picked: Picked,
}

impl EventRefs {
    fn len(&self) -> usize {
        match &self.picked {
            Picked::All => self.events.len(),
            Picked::Some(picked) => picked.len(),
        }
    }
    pub fn iter(&self) -> impl Iterator<Item = &Event> + '_ {
        (0..self.len()).map(|at| match &self.picked {
            Picked::All => &self.events[at],
            Picked::Some(picked) => &self.events[picked[at] as usize],
        })
    }
}

/// One message for a stream, in sending order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchOut {
    /// `revision` goes into the header; the watcher's "now" is the revision after it.
    Created {
        watch_id: i64,
        revision: i64,
    },
    Refused {
        reason: Refusal,
        revision: i64,
    },
    /// By the client, or because its next revision was compacted (then header revision 0).
    Canceled {
        watch_id: i64,
        compact_revision: Option<i64>,
        revision: i64,
    },
    /// `prev_kv` tells whether previous values are to be sent; events may carry them anyway.
    Events {
        watch_id: i64,
        revision: i64,
        batches: Vec<EventRefs>,
        prev_kv: bool,
        fragment: bool,
    },
    /// `watch_id` −1: requested, for the whole stream.
    Progress {
        watch_id: i64,
        revision: i64,
    },
}

impl WatchOut {
    /// How many events it carries.
    fn events(&self) -> usize {
        match self {
            WatchOut::Events { batches, .. } => batches.iter().map(EventRefs::len).sum(),
            _ => 0,
        }
    }
}

/// For metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HubCounts {
    pub streams: usize,
    pub watchers: usize,
    pub unsynced: usize,
    pub buffered_bytes: usize,
    /// Events in the buffers.
    pub pending_events: usize,
    /// Events that left the buffers, for all watchers together. It only grows.
    pub events_sent: u64,
}

#[derive(Debug)]
struct Watcher {
    stream: StreamId,
    id: i64,
    range: KeyRange,
    filters: Filters,
    prev_kv: bool,
    progress_notify: bool,
    fragment: bool,
    /// As it was asked for. Before it there is no progress to tell.
    start: i64,
    /// Everything before it has been put into the stream's buffer, or is not wanted.
    next: i64,
    /// In the index of synced watchers; otherwise in that of unsynced ones and in `lagging`.
    synced: bool,
    /// When it was last sent something, for progress notification.
    sent_ms: u64,
    /// Its place in `Hub::progress`, if it wants notification.
    due_ms: u64,
}

#[derive(Debug, Default)]
struct Stream {
    watchers: BTreeMap<i64, WatcherKey>,
    next_id: i64,
    queue: VecDeque<(WatchOut, usize)>,
    /// The sum over `queue`.
    bytes: usize,
    /// Already in `Hub::ready`.
    announced: bool,
}

#[derive(Debug)]
pub struct Hub {
    /// The newest published revision.
    revision: i64,
    now_ms: u64,
    progress_interval_ms: u64,
    buffer_bytes_max: usize,
    streams: BTreeMap<StreamId, Stream>,
    watchers: Map<WatcherKey, Watcher>,
    next_watcher: WatcherKey,
    synced: Index,
    unsynced: Index,
    /// Unsynced watchers by the revision they need next.
    lagging: BTreeSet<(i64, WatcherKey)>,
    /// Watchers with progress notification, by when to look at them again.
    progress: BTreeSet<(u64, WatcherKey)>,
    /// Streams with something to send that nobody has been told of.
    ready: Vec<StreamId>,
    /// Watchers that want previous values.
    prev_kv_watchers: usize,
    /// See `HubCounts`.
    events_sent: u64,
}

impl Hub {
    /// A hub whose present is `revision`: the keyspace's when the hub is made. Publishing goes
    /// on from there.
    pub fn new(revision: i64, progress_interval_ms: u64) -> Hub {
        Hub {
            revision,
            now_ms: 0,
            progress_interval_ms: progress_interval_ms.max(1),
            buffer_bytes_max: WATCHER_BUFFER_BYTES_MAX,
            streams: BTreeMap::new(),
            watchers: Map::default(),
            next_watcher: 0,
            synced: Index::new(),
            unsynced: Index::new(),
            lagging: BTreeSet::new(),
            progress: BTreeSet::new(),
            ready: Vec::new(),
            prev_kv_watchers: 0,
            events_sent: 0,
        }
    }

    /// A smaller buffer per stream, for tests and simulations.
    pub fn set_buffer_bytes_max(&mut self, bytes: usize) {
        self.buffer_bytes_max = bytes;
    }

    /// The newest published revision.
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// Whether any watcher wants previous values (`Keyspace::want_prev_kv`).
    pub fn wants_prev_kv(&self) -> bool {
        self.prev_kv_watchers > 0
    }

    /// Whether `catch_up` may have something to do.
    pub fn has_unsynced(&self) -> bool {
        !self.lagging.is_empty()
    }

    pub fn counts(&self) -> HubCounts {
        HubCounts {
            streams: self.streams.len(),
            watchers: self.watchers.len(),
            unsynced: self.lagging.len(),
            buffered_bytes: self.streams.values().map(|stream| stream.bytes).sum(),
            pending_events: self
                .streams
                .values()
                .flat_map(|stream| stream.queue.iter().map(|(message, _)| message.events()))
                .sum(),
            events_sent: self.events_sent,
        }
    }

    /// The caller chooses the id and never uses it again.
    pub fn open_stream(&mut self, id: StreamId) {
        let old = self.streams.insert(id, Stream::default());
        assert!(old.is_none(), "stream {id:?} opened twice");
    }

    /// Whether the stream's owner should stop accepting requests until something was taken.
    pub fn is_full(&self, id: StreamId) -> bool {
        self.streams.get(&id).is_some_and(|stream| stream.bytes >= self.buffer_bytes_max)
    }

    /// Drops the stream with its watchers and everything unsent.
    pub fn close_stream(&mut self, id: StreamId) {
        let Some(stream) = self.streams.remove(&id) else { return };
        for key in stream.watchers.into_values() {
            self.forget(key);
        }
    }

    /// Answers with `Created`, or with `Refused`. A start that is compacted is created and then
    /// canceled by the next `catch_up`.
    pub fn create(&mut self, stream_id: StreamId, request: CreateRequest) {
        let revision = self.revision;
        let Some(stream) = self.streams.get_mut(&stream_id) else { return };
        let mut range = request.range;
        if range.key.is_empty() {
            range.key = Bytes::from_static(&[0]);
        }
        let refusal = if request.start_revision < 0 {
            Some(Refusal::Compacted)
        } else if range.is_empty_range() {
            Some(Refusal::EmptyRange)
        } else if request.watch_id != 0 && stream.watchers.contains_key(&request.watch_id) {
            Some(Refusal::DuplicateId)
        } else {
            None
        };
        if let Some(reason) = refusal {
            self.send(stream_id, WatchOut::Refused { reason, revision }, 0);
            return;
        }
        let watch_id = if request.watch_id != 0 {
            request.watch_id
        } else {
            while stream.watchers.contains_key(&stream.next_id) {
                stream.next_id += 1;
            }
            stream.next_id += 1;
            stream.next_id - 1
        };
        let key = self.next_watcher;
        self.next_watcher += 1;
        stream.watchers.insert(watch_id, key);
        let next = if request.start_revision == 0 { revision + 1 } else { request.start_revision };
        let watcher = Watcher {
            stream: stream_id,
            id: watch_id,
            range,
            filters: request.filters,
            prev_kv: request.prev_kv,
            progress_notify: request.progress_notify,
            fragment: request.fragment,
            start: request.start_revision,
            next,
            synced: next > revision,
            sent_ms: self.now_ms,
            due_ms: self.now_ms.saturating_add(self.progress_interval_ms),
        };
        if watcher.synced {
            self.synced.insert(&watcher.range, key);
        } else {
            self.unsynced.insert(&watcher.range, key);
            self.lagging.insert((next, key));
        }
        if watcher.progress_notify {
            self.progress.insert((watcher.due_ms, key));
        }
        self.prev_kv_watchers += usize::from(watcher.prev_kv);
        self.watchers.insert(key, watcher);
        self.send(stream_id, WatchOut::Created { watch_id, revision }, 0);
    }

    /// Answers with `Canceled`; an unknown id is passed over, as etcd does.
    pub fn cancel(&mut self, stream_id: StreamId, watch_id: i64) {
        let revision = self.revision;
        let Some(stream) = self.streams.get_mut(&stream_id) else { return };
        let Some(key) = stream.watchers.remove(&watch_id) else { return };
        self.forget(key);
        let out = WatchOut::Canceled { watch_id, compact_revision: None, revision };
        self.send(stream_id, out, 0);
    }

    /// Answers with a progress message for the whole stream if all its watchers have everything
    /// up to now and none waits for a later start; otherwise not at all.
    pub fn request_progress(&mut self, stream_id: StreamId) {
        let revision = self.revision;
        let Some(stream) = self.streams.get(&stream_id) else { return };
        let current = stream.watchers.values().all(|key| {
            let watcher = &self.watchers[key];
            watcher.synced && watcher.start <= revision
        });
        if current && !stream.watchers.is_empty() {
            self.send(stream_id, WatchOut::Progress { watch_id: -1, revision }, 0);
        }
    }

    /// Time has passed: notifies synced watchers that asked for it and were sent nothing for
    /// the interval.
    pub fn tick(&mut self, now_ms: u64) {
        self.now_ms = self.now_ms.max(now_ms);
        while let Some(&(due, key)) = self.progress.first()
            && due <= self.now_ms
        {
            self.progress.remove(&(due, key));
            let watcher = self.watchers.get_mut(&key).expect("a notified watcher exists");
            let mut next_due = watcher.sent_ms.saturating_add(self.progress_interval_ms);
            watcher.due_ms = next_due;
            if next_due <= self.now_ms {
                let current = watcher.synced && watcher.start <= self.revision;
                next_due = self.now_ms.saturating_add(self.progress_interval_ms);
                watcher.sent_ms = self.now_ms;
                watcher.due_ms = next_due;
                let (stream, watch_id) = (watcher.stream, watcher.id);
                // A stream that nobody reads would be filled with notifications otherwise.
                if current && self.streams[&stream].queue.is_empty() {
                    let revision = self.revision;
                    self.send(stream, WatchOut::Progress { watch_id, revision }, 0);
                }
            }
            self.progress.insert((next_due, key));
        }
    }

    /// Hands newly applied events to the synced watchers. `events` are those of one or more
    /// whole revisions in order, as apply yields them.
    pub fn publish(&mut self, events: Vec<Event>) {
        let mut rest = events;
        while let Some(first) = rest.first() {
            let revision = first.kv.mod_revision;
            let split = rest.iter().position(|event| event.kv.mod_revision != revision);
            let later = split.map(|at| rest.split_off(at)).unwrap_or_default();
            self.publish_revision(revision, rest.into());
            rest = later;
        }
    }

    /// Hands the events of one revision to the synced watchers.
    pub fn publish_revision(&mut self, revision: i64, events: Arc<[Event]>) {
        assert!(
            revision == self.revision + 1,
            "revision {revision} published after {}",
            self.revision
        );
        self.revision = revision;
        for (key, picked) in self.pick(&events) {
            let watcher = &self.watchers[&key];
            if watcher.next > revision {
                continue;
            }
            let Some(refs) = refs_for(watcher, revision, &events, picked) else { continue };
            let bytes = refs_bytes(&refs, watcher.prev_kv);
            let stream = &self.streams[&watcher.stream];
            let after = stream.bytes + bytes + MESSAGE_BYTES;
            if !stream.queue.is_empty() && after > self.buffer_bytes_max {
                self.fall_behind(key, revision);
            } else {
                self.send_events(key, vec![refs], bytes);
            }
        }
    }

    /// The keyspace has jumped to `revision` without its events being published (a raft snapshot
    /// was installed): everybody reads on from the feed, or learns that its place is compacted.
    pub fn jump(&mut self, revision: i64) {
        if revision <= self.revision {
            return;
        }
        let from = self.revision + 1;
        let mut behind: Vec<(WatcherKey, i64)> = self
            .watchers
            .iter()
            .filter(|(_, watcher)| watcher.synced && watcher.next <= revision)
            .map(|(key, watcher)| (*key, watcher.next.max(from)))
            .collect();
        behind.sort_unstable();
        for (key, next) in behind {
            self.fall_behind(key, next);
        }
        self.revision = revision;
    }

    /// The synced watchers of some events, each with the positions it watches, ordered.
    fn pick(&self, events: &[Event]) -> Vec<(WatcherKey, Vec<u32>)> {
        let mut picked: BTreeMap<WatcherKey, Vec<u32>> = BTreeMap::new();
        for (at, event) in events.iter().enumerate() {
            let at = u32::try_from(at).expect("a command has less than 2^32 changes");
            self.synced.each(&event.kv.key, &mut |key| picked.entry(key).or_default().push(at));
        }
        picked.into_iter().collect()
    }

    /// Lets unsynced watchers read on, up to what has been published, and cancels those whose
    /// next revision is compacted. Reads at most about `records_max` records of the feed, once
    /// for all watchers that need them. Returns whether calling again now would get further.
    pub fn catch_up(
        &mut self,
        view: &KeyspaceView,
        records_max: usize,
    ) -> Result<bool, StorageError> {
        self.cancel_compacted(view.compact_revision());
        let until = view.revision().min(self.revision);
        // Watchers whose stream is full wait until it has been read.
        let ready: BTreeSet<(i64, WatcherKey)> = self
            .lagging
            .range(..=(until, WatcherKey::MAX))
            .filter(|(_, key)| self.has_room(*key))
            .copied()
            .collect();
        let Some(&(from, _)) = ready.first() else { return Ok(false) };
        let ready: BTreeSet<WatcherKey> = ready.into_iter().map(|(_, key)| key).collect();
        let prev_kv = ready.iter().any(|key| self.watchers[key].prev_kv);
        let feed = view.feed(
            from,
            until.min(from.saturating_add(CATCH_UP_REVISIONS_MAX as i64 - 1)),
            records_max,
            self.buffer_bytes_max,
            prev_kv,
            &mut |key| {
                let mut wanted = false;
                self.unsynced.each(key, &mut |watcher| wanted |= ready.contains(&watcher));
                wanted
            },
        );
        let feed = match feed {
            Ok(feed) => feed,
            Err(ReadError::Storage(error)) => return Err(error),
            Err(ReadError::Api(ApiError::Compacted)) => {
                unreachable!("watchers of compacted revisions were canceled")
            }
            Err(ReadError::Api(error)) => unreachable!("a feed is not refused with {error:?}"),
        };
        let mut shares = self.share(&ready, &feed.revisions);
        for key in ready {
            let (batches, bytes, stopped) = shares.remove(&key).unwrap_or_default();
            if !batches.is_empty() {
                self.send_events(key, batches, bytes);
            }
            self.advance(key, stopped.unwrap_or(feed.next));
        }
        Ok(self.lagging.range(..=(until, WatcherKey::MAX)).any(|(_, key)| self.has_room(*key)))
    }

    /// What each ready watcher gets of a stretch of the feed: batches, their bytes, and the
    /// revision at which its stream had no more room.
    #[allow(clippy::type_complexity)]
    fn share(
        &self,
        ready: &BTreeSet<WatcherKey>,
        revisions: &[crate::mvcc::FeedRevision],
    ) -> BTreeMap<WatcherKey, (Vec<EventRefs>, usize, Option<i64>)> {
        let mut shares: BTreeMap<WatcherKey, (Vec<EventRefs>, usize, Option<i64>)> =
            BTreeMap::new();
        // What this stretch adds to each stream's buffer.
        let mut added: BTreeMap<StreamId, usize> = BTreeMap::new();
        for stretch in revisions {
            let mut picked: BTreeMap<WatcherKey, Vec<u32>> = BTreeMap::new();
            for (at, event) in stretch.events.iter().enumerate() {
                self.unsynced.each(&event.kv.key, &mut |key| {
                    if ready.contains(&key) {
                        picked.entry(key).or_default().push(at as u32);
                    }
                });
            }
            for (key, picked) in picked {
                let watcher = &self.watchers[&key];
                let share = shares.entry(key).or_default();
                if watcher.next > stretch.revision || share.2.is_some() {
                    continue;
                }
                let Some(refs) = refs_for(watcher, stretch.revision, &stretch.events, picked)
                else {
                    continue;
                };
                let bytes = refs_bytes(&refs, watcher.prev_kv);
                let added = added.entry(watcher.stream).or_default();
                let buffered = self.streams[&watcher.stream].bytes + *added;
                // Where `has_room` says so one revision is always taken, however large: it could
                // never be sent otherwise.
                if buffered > 0
                    && buffered >= self.buffer_bytes_max / 2
                    && buffered + bytes > self.buffer_bytes_max
                {
                    share.2 = Some(stretch.revision);
                    continue;
                }
                *added += bytes;
                share.1 += bytes;
                share.0.push(refs);
            }
        }
        shares
    }

    fn has_room(&self, key: WatcherKey) -> bool {
        let stream = &self.streams[&self.watchers[&key].stream];
        stream.bytes < self.buffer_bytes_max / 2 || stream.queue.is_empty()
    }

    fn cancel_compacted(&mut self, compact_revision: i64) {
        while let Some(&(next, key)) = self.lagging.first()
            && next < compact_revision
        {
            let watcher = self.forget(key);
            let stream = self.streams.get_mut(&watcher.stream).expect("a watcher has a stream");
            stream.watchers.remove(&watcher.id);
            let out = WatchOut::Canceled {
                watch_id: watcher.id,
                compact_revision: Some(compact_revision),
                revision: 0,
            };
            self.send(watcher.stream, out, 0);
        }
    }

    /// A synced watcher's stream is full: from `revision` on it reads the feed.
    fn fall_behind(&mut self, key: WatcherKey, revision: i64) {
        let watcher = self.watchers.get_mut(&key).expect("a picked watcher exists");
        self.synced.remove(&watcher.range, key);
        watcher.synced = false;
        watcher.next = revision;
        self.unsynced.insert(&watcher.range, key);
        self.lagging.insert((revision, key));
    }

    /// An unsynced watcher has everything before `next`.
    fn advance(&mut self, key: WatcherKey, next: i64) {
        let watcher = self.watchers.get_mut(&key).expect("a caught-up watcher exists");
        let next = next.max(watcher.next);
        self.lagging.remove(&(watcher.next, key));
        watcher.next = next;
        if next > self.revision {
            self.unsynced.remove(&watcher.range, key);
            watcher.synced = true;
            self.synced.insert(&watcher.range, key);
        } else {
            self.lagging.insert((next, key));
        }
    }

    /// Takes a watcher out of everything but its stream's list.
    fn forget(&mut self, key: WatcherKey) -> Watcher {
        let watcher = self.watchers.remove(&key).expect("a stream's watcher exists");
        if watcher.synced {
            self.synced.remove(&watcher.range, key);
        } else {
            self.unsynced.remove(&watcher.range, key);
            self.lagging.remove(&(watcher.next, key));
        }
        if watcher.progress_notify {
            self.progress.remove(&(watcher.due_ms, key));
        }
        self.prev_kv_watchers -= usize::from(watcher.prev_kv);
        watcher
    }

    fn send_events(&mut self, key: WatcherKey, batches: Vec<EventRefs>, bytes: usize) {
        let watcher = self.watchers.get_mut(&key).expect("events go to a watcher");
        watcher.sent_ms = self.now_ms;
        let out = WatchOut::Events {
            watch_id: watcher.id,
            revision: self.revision,
            batches,
            prev_kv: watcher.prev_kv,
            fragment: watcher.fragment,
        };
        let stream = watcher.stream;
        self.send(stream, out, bytes);
    }

    fn send(&mut self, id: StreamId, out: WatchOut, bytes: usize) {
        let stream = self.streams.get_mut(&id).expect("a message goes to an open stream");
        let bytes = bytes + MESSAGE_BYTES;
        stream.bytes += bytes;
        stream.queue.push_back((out, bytes));
        if !stream.announced {
            stream.announced = true;
            self.ready.push(id);
        }
    }

    /// Streams that have got something to send since they were last emptied or announced.
    pub fn take_ready(&mut self) -> Vec<StreamId> {
        std::mem::take(&mut self.ready)
    }

    /// Messages of a stream in sending order, up to about `bytes_max` and at least one if there
    /// is any. What is left is announced again.
    pub fn take(&mut self, id: StreamId, bytes_max: usize) -> Vec<WatchOut> {
        let Some(stream) = self.streams.get_mut(&id) else { return Vec::new() };
        let mut out = Vec::new();
        let mut taken = 0;
        while let Some((_, bytes)) = stream.queue.front() {
            if !out.is_empty() && taken + bytes > bytes_max {
                break;
            }
            let (message, bytes) = stream.queue.pop_front().expect("the front was just seen");
            taken += bytes;
            self.events_sent += message.events() as u64;
            out.push(message);
        }
        stream.bytes -= taken;
        stream.announced = !stream.queue.is_empty();
        if stream.announced {
            self.ready.push(id);
        }
        out
    }
}

/// A watcher's share of a revision after its filters, if anything is left.
fn refs_for(
    watcher: &Watcher,
    revision: i64,
    events: &Arc<[Event]>,
    mut picked: Vec<u32>,
) -> Option<EventRefs> {
    if watcher.filters != Filters::default() {
        picked.retain(|at| watcher.filters.pass(events[*at as usize].kind));
    }
    if picked.is_empty() {
        return None;
    }
    let picked =
        if picked.len() == events.len() { Picked::All } else { Picked::Some(picked.into()) };
    Some(EventRefs { revision, events: Arc::clone(events), picked })
}

fn refs_bytes(refs: &EventRefs, prev_kv: bool) -> usize {
    let event = |event: &Event| {
        let unsent = match &event.prev_kv {
            Some(kv) if !prev_kv => kv.key.len() + kv.value.len(),
            _ => 0,
        };
        event_bytes(event) - unsent
    };
    refs.iter().map(event).sum()
}
