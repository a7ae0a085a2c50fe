//! What the loops of a member and its clients' tasks share: queues, published state, waiters.
//!
//! Everything here is either a queue drained by one loop or a small value published by one loop
//! and read by many; every lock is held for a few instructions. Nothing here decides anything.

use super::action::{Action, Answer, Token};
use super::handle::RequestLimits;
use super::mailbox::Mailbox;
use super::metrics::Metrics;
use super::streams::Streams;
use super::tokens::Tokens;
use super::watching::WatchRoom;
use crate::io::Io;
use crate::multiraft::apply::Pressure;
use crate::multiraft::root::RootState;
use crate::mvcc::KeyspaceView;
use crate::types::map::Map;
use crate::types::{ApiError, ClusterId, Entry, GroupId, LogIndex, NodeId, StorageError, Term};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use tokio::sync::{Notify, Semaphore, oneshot};

/// A lock whose data is never half-changed: a panic elsewhere does not matter here.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One group's published state.
pub struct GroupSlot {
    /// The newest applied state: what serializable reads see.
    pub view: Mutex<KeyspaceView>,
    pub watches: Mutex<WatchRoom>,
    pub term: AtomicU64,
    /// 0 without a leader.
    pub leader: AtomicU64,
    pub commit: AtomicU64,
    pub applied: AtomicU64,
    pub leader_changes: AtomicU64,
    /// Whether users count in this keyspace.
    pub auth_enabled: AtomicBool,
    /// This member is the group's only voter and leads: what it has published is all there is,
    /// so a linearizable read needs no round.
    pub alone: AtomicBool,
}

impl GroupSlot {
    pub fn new(view: KeyspaceView, progress_interval_ms: u64) -> GroupSlot {
        let auth_enabled = view.auth().is_enabled();
        GroupSlot {
            watches: Mutex::new(WatchRoom::new(view.revision(), progress_interval_ms)),
            view: Mutex::new(view),
            term: AtomicU64::new(0),
            leader: AtomicU64::new(0),
            commit: AtomicU64::new(0),
            applied: AtomicU64::new(0),
            leader_changes: AtomicU64::new(0),
            auth_enabled: AtomicBool::new(auth_enabled),
            alone: AtomicBool::new(false),
        }
    }
    pub fn view(&self) -> KeyspaceView {
        lock(&self.view).clone()
    }
    pub fn leader(&self) -> NodeId {
        NodeId(self.leader.load(Ordering::Acquire))
    }
    pub fn term(&self) -> Term {
        Term(self.term.load(Ordering::Acquire))
    }
    pub fn applied(&self) -> LogIndex {
        LogIndex(self.applied.load(Ordering::Acquire))
    }
}

/// How many locks the waiters are spread over: answering a batch and registering new requests
/// then rarely meet.
const WAITER_SHARDS: usize = 16;

type AnswerSender = oneshot::Sender<Result<Answer, ApiError>>;

/// Requests that wait for an answer, by token.
pub struct Waiters {
    shards: [Mutex<Map<u64, AnswerSender>>; WAITER_SHARDS],
    next: AtomicU64,
    count: AtomicU64,
}

impl Default for Waiters {
    fn default() -> Waiters {
        Waiters {
            shards: std::array::from_fn(|_| Mutex::new(Map::default())),
            next: AtomicU64::new(1),
            count: AtomicU64::new(0),
        }
    }
}

impl Waiters {
    fn shard(&self, token: Token) -> &Mutex<Map<u64, AnswerSender>> {
        &self.shards[token.0 as usize % WAITER_SHARDS]
    }
    pub fn register(&self) -> (Token, oneshot::Receiver<Result<Answer, ApiError>>) {
        let token = Token(self.next.fetch_add(1, Ordering::Relaxed));
        let (sender, receiver) = oneshot::channel();
        lock(self.shard(token)).insert(token.0, sender);
        self.count.fetch_add(1, Ordering::Relaxed);
        (token, receiver)
    }
    /// False when nobody waits (any more): answered already, or gone.
    pub fn answer(&self, token: Token, answer: Result<Answer, ApiError>) -> bool {
        let Some(sender) = self.remove(token) else { return false };
        sender.send(answer).is_ok()
    }
    pub fn remove(&self, token: Token) -> Option<AnswerSender> {
        let sender = lock(self.shard(token)).remove(&token.0);
        if sender.is_some() {
            self.count.fetch_sub(1, Ordering::Relaxed);
        }
        sender
    }
    pub fn waiting(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }
    /// Ends every wait: the member stops.
    pub fn fail_all(&self, error: &ApiError) {
        for shard in &self.shards {
            let senders: Vec<AnswerSender> =
                lock(shard).drain().map(|(_, sender)| sender).collect();
            self.count.fetch_sub(senders.len() as u64, Ordering::Relaxed);
            for sender in senders {
                let _ = sender.send(Err(error.clone()));
            }
        }
    }
}

/// Why a member's loops have ended.
#[derive(Debug)]
pub enum Ended {
    /// It was asked to.
    Asked,
    /// The cluster has removed it.
    Removed,
    /// The cluster knows this member id with another data directory.
    IncarnationRefused,
    /// The disk or a file failed. Nothing is retried.
    Storage(StorageError),
}

/// Looks on while a member works. It must not block.
pub trait Observer: Send + Sync {
    /// Committed entries, before anything comes of them: no client has an answer yet, and no
    /// reader sees them.
    fn applying(&self, group: GroupId, entries: &[Entry]);
}

/// Long computations at once: passwords are slow to compare on purpose, and whoever sends many
/// should not take the processors from everybody else.
const COMPUTING_MAX: usize = 2;

/// See the module's documentation.
pub struct Shared {
    pub io: Io,
    pub cluster: ClusterId,
    pub node: NodeId,
    pub limits: RequestLimits,
    pub quota_bytes: u64,
    pub core: Mailbox<Action>,
    pub waiters: Waiters,
    pub groups: BTreeMap<GroupId, GroupSlot>,
    pub root: Mutex<Arc<RootState>>,
    pub pressure: Mutex<Pressure>,
    pub tokens: Mutex<Tokens>,
    /// Bounds how many long computations run at once (`NodeHandle::compute`).
    pub computing: Semaphore,
    pub metrics: Metrics,
    /// Set once peers are listened for.
    pub streams: OnceLock<Arc<Streams>>,
    /// The configured election timeout; set when the loops start.
    pub election_ms: AtomicU64,
    pub observer: Option<Arc<dyn Observer>>,
    /// Set once: why the member ends. The first reason wins.
    ended: Mutex<Option<Ended>>,
    stopping: AtomicBool,
    on_stop: Notify,
}

impl Shared {
    #[expect(clippy::too_many_arguments, reason = "built in one place, field by field")]
    pub fn new(
        io: Io,
        cluster: ClusterId,
        node: NodeId,
        limits: RequestLimits,
        quota_bytes: u64,
        groups: BTreeMap<GroupId, GroupSlot>,
        root: Arc<RootState>,
        pressure: Pressure,
    ) -> Shared {
        Shared {
            io,
            cluster,
            node,
            limits,
            quota_bytes,
            core: Mailbox::default(),
            waiters: Waiters::default(),
            groups,
            root: Mutex::new(root),
            pressure: Mutex::new(pressure),
            computing: Semaphore::new(COMPUTING_MAX),
            tokens: Mutex::new(Tokens::new(limits.token_ttl_ms)),
            metrics: Metrics::default(),
            streams: OnceLock::new(),
            election_ms: AtomicU64::new(1_000),
            observer: None,
            ended: Mutex::new(None),
            stopping: AtomicBool::new(false),
            on_stop: Notify::new(),
        }
    }

    /// Ends the member: every loop and stream sees it at its next turn.
    pub fn end(&self, why: Ended) {
        lock(&self.ended).get_or_insert(why);
        self.stopping.store(true, Ordering::Release);
        self.on_stop.notify_waiters();
        self.waiters.fail_all(&ApiError::Stopped);
        // Streams look at `is_stopping` when they are woken.
        for slot in self.groups.values() {
            lock(&slot.watches).wake_all();
        }
    }
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }
    pub async fn stopping(&self) {
        loop {
            let notified = self.on_stop.notified();
            // Created before the check, so that no end falls between the two.
            if self.is_stopping() {
                return;
            }
            notified.await;
        }
    }
    /// Why it ended, once.
    pub fn take_end(&self) -> Option<Ended> {
        lock(&self.ended).take()
    }
}
