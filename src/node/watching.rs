//! One client's stream of watches: a thin door to the group's hub.
//!
//! The hub decides everything; this file only takes the lock, wakes streams that have something
//! to send, and cleans up when a client goes. A stream that is not read costs its bounded buffer.

use super::shared::{Shared, lock};
use crate::multiraft::apply::AppliedBatch;
use crate::mvcc::watch::{CreateRequest, Hub, HubCounts, StreamId, WatchOut};
use crate::mvcc::{KeyspaceView, ReadError};
use crate::types::GroupId;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::Notify;

/// What a stream is given at a time: enough to fill its connection, little enough that the lock
/// is held for a moment.
const TAKE_BYTES: usize = 1 << 20;
/// Records of the feed read for lagging watchers in one pass: the applier waits for that long at
/// worst.
const CATCH_UP_RECORDS: usize = 1_000;
/// Passes in one round of upkeep.
const CATCH_UP_PASSES: usize = 64;

/// The hub of a group and who is to be woken for which stream.
pub struct WatchRoom {
    hub: Hub,
    wakers: BTreeMap<StreamId, Arc<Notify>>,
    catch_up_records: usize,
}

impl WatchRoom {
    pub fn new(revision: i64, progress_interval_ms: u64) -> WatchRoom {
        WatchRoom {
            hub: Hub::new(revision, progress_interval_ms),
            wakers: BTreeMap::new(),
            catch_up_records: CATCH_UP_RECORDS,
        }
    }
    /// Smaller bounds, for simulations: a stream's buffer, and the records of one pass.
    pub fn set_bounds(&mut self, buffer_bytes_max: usize, catch_up_records: usize) {
        self.hub.set_buffer_bytes_max(buffer_bytes_max);
        self.catch_up_records = catch_up_records;
    }
    pub fn counts(&self) -> HubCounts {
        self.hub.counts()
    }

    /// Opens a stream under an id that is never used again, and tells who wakes its owner.
    pub fn open(&mut self, id: StreamId) -> Arc<Notify> {
        let waker = Arc::new(Notify::new());
        self.hub.open_stream(id);
        self.wakers.insert(id, waker.clone());
        waker
    }
    pub fn close(&mut self, id: StreamId) {
        self.hub.close_stream(id);
        self.wakers.remove(&id);
    }
    pub fn create(&mut self, id: StreamId, request: CreateRequest) {
        self.hub.create(id, request);
        self.wake();
    }
    pub fn cancel(&mut self, id: StreamId, watch_id: i64) {
        self.hub.cancel(id, watch_id);
        self.wake();
    }
    pub fn progress(&mut self, id: StreamId) {
        self.hub.request_progress(id);
        self.wake();
    }
    /// Whether so much waits on the stream that its owner should take up no further request: each
    /// is answered with a message, and a client may ask without reading.
    pub fn is_full(&self, id: StreamId) -> bool {
        self.hub.is_full(id)
    }
    /// The next things to send on a stream; nothing means that its owner is woken when there is.
    pub fn take(&mut self, id: StreamId, bytes_max: usize) -> Vec<WatchOut> {
        let out = self.hub.take(id, bytes_max);
        self.wake();
        out
    }

    /// Hands on what an apply job did.
    pub fn publish(&mut self, batch: &mut AppliedBatch) {
        if batch.replaced.is_some() {
            self.hub.jump(batch.revision);
        }
        for (_, events) in std::mem::take(&mut batch.events) {
            self.hub.publish(events);
        }
        self.wake();
    }

    /// Progress that is due, and watchers that read the past. True when there is more to read at
    /// once.
    pub fn upkeep(&mut self, view: &KeyspaceView, now_ms: u64) -> Result<bool, ReadError> {
        self.hub.tick(now_ms);
        let more = self.hub.has_unsynced()
            && self.hub.catch_up(view, self.catch_up_records).map_err(ReadError::Storage)?;
        self.wake();
        Ok(more)
    }

    fn wake(&mut self) {
        for stream in self.hub.take_ready() {
            if let Some(waker) = self.wakers.get(&stream) {
                waker.notify_one();
            }
        }
    }

    pub fn wake_all(&self) {
        for waker in self.wakers.values() {
            waker.notify_one();
        }
    }
}

/// See the module's documentation. Dropping it cancels its watchers.
pub struct WatchStream {
    shared: Arc<Shared>,
    group: GroupId,
    id: StreamId,
    waker: Arc<Notify>,
}

impl WatchStream {
    /// `None` if this member has no replica of the group.
    pub(super) fn open(shared: Arc<Shared>, group: GroupId) -> Option<WatchStream> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let id = StreamId(NEXT.fetch_add(1, Ordering::Relaxed));
        let waker = lock(&shared.groups.get(&group)?.watches).open(id);
        Some(WatchStream { shared, group, id, waker })
    }

    fn with_room<T>(&self, act: impl FnOnce(&mut WatchRoom) -> T) -> T {
        let slot =
            self.shared.groups.get(&self.group).expect("a stream is opened for a known group");
        act(&mut lock(&slot.watches))
    }

    /// A watcher, from what is applied here on or from the past. What became of it comes with
    /// `next`.
    pub fn create(&self, request: CreateRequest) {
        let past = request.start_revision > 0;
        self.with_room(|room| room.create(self.id, request));
        if past {
            self.catch_up();
        }
    }
    pub fn cancel(&self, watch_id: i64) {
        self.with_room(|room| room.cancel(self.id, watch_id));
    }
    /// Whether to send before the next request is taken up. See `WatchRoom::is_full`.
    pub fn is_full(&self) -> bool {
        self.with_room(|room| room.is_full(self.id))
    }
    /// Asks for one progress message for the whole stream; none comes while a watcher lags.
    pub fn progress(&self) {
        self.with_room(|room| room.progress(self.id));
    }

    /// Reads on for the group's lagging watchers at once, instead of waiting for the upkeep.
    fn catch_up(&self) {
        let slot =
            self.shared.groups.get(&self.group).expect("a stream is opened for a known group");
        let now_ms = self.shared.io.clock.now().0 / 1_000_000;
        for _ in 0..CATCH_UP_PASSES {
            let view = slot.view();
            match lock(&slot.watches).upkeep(&view, now_ms) {
                Ok(true) => {}
                Ok(false) => return,
                // The upkeep task meets the same fault and ends the member.
                Err(_) => return,
            }
        }
    }

    /// What there is to send at this moment, in order; nothing if there is nothing.
    pub fn said(&self) -> Vec<WatchOut> {
        self.with_room(|room| room.take(self.id, TAKE_BYTES))
    }

    /// The next things to send, in order, never empty; `None` when the member stops.
    pub async fn next(&self) -> Option<Vec<WatchOut>> {
        loop {
            if self.shared.is_stopping() {
                return None;
            }
            let out = self.said();
            if !out.is_empty() {
                return Some(out);
            }
            self.waker.notified().await;
        }
    }
}

impl Drop for WatchStream {
    fn drop(&mut self) {
        self.with_room(|room| room.close(self.id));
    }
}
