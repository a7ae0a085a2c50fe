//! All peers of this member: the handle that the node holds.

use super::accept;
use super::dial;
use super::frame::PeerFrame;
use super::handshake::{LocalIdentity, PeerBook, Refusal, StreamKind};
use super::outbox::Outbox;
use crate::io::{Io, TaskHandle, TaskKind};
use crate::types::{ClusterId, NodeId, limits};
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, oneshot};

/// What the owner is told. Called from the transport's tasks: it must not block.
pub type Sink = Arc<dyn Fn(PeerEvent) + Send + Sync>;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerEvent {
    /// Raft messages (from `from`, to this member) or node bytes; never a ping.
    Frame {
        from: NodeId,
        frame: PeerFrame,
    },
    /// The stream to the peer stands: both sides have accepted each other.
    Up {
        peer: NodeId,
    },
    Down {
        peer: NodeId,
    },
    /// A handshake ended in a refusal. `peer` is who was dialed, or who the dialer says it is.
    Refused {
        peer: NodeId,
        remote_cluster: ClusterId,
        by: RefusedBy,
        refusal: Refusal,
    },
    /// A ping has come back. About once a second while a stream is up.
    RoundTrip {
        peer: NodeId,
        took: Duration,
    },
    /// Something sent to the peer was dropped: no stream, or a full queue. Once per burst.
    Unreachable {
        peer: NodeId,
    },
    /// Something given to `send_bulk` was dropped after it had been queued.
    BulkLost {
        peer: NodeId,
    },
    /// A member of this cluster that was never set as a peer has opened a stream (allowed by
    /// `PeerBook::admit_unknown`): to answer it, `set_peer` first.
    Met {
        peer: NodeId,
        peer_urls: Vec<String>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusedBy {
    Us,
    Peer,
}

/// Why the transport did not start.
#[derive(Debug)]
pub enum StartError {
    /// The address cannot be listened on; in use, if the source's kind is `AddrInUse`.
    Bind { addr: String, source: io::Error },
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::Bind { addr, source } => write!(f, "listen tcp {addr}: bind: {source}"),
        }
    }
}

impl std::error::Error for StartError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            StartError::Bind { source, .. } => Some(source),
        }
    }
}

/// What has passed between this member and a peer since the peer was set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerCounters {
    pub sent_bytes: u64,
    pub received_bytes: u64,
    /// Messages dropped.
    pub send_failures: u64,
    /// Streams from the peer that broke or carried garbage.
    pub receive_failures: u64,
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    pub sent_bytes: AtomicU64,
    pub received_bytes: AtomicU64,
    pub send_failures: AtomicU64,
    pub receive_failures: AtomicU64,
}

/// What every task needs.
pub(super) struct Context {
    pub io: Io,
    pub local: LocalIdentity,
    pub book: Arc<Mutex<PeerBook>>,
    pub sink: Sink,
}

impl Context {
    pub fn book(&self) -> MutexGuard<'_, PeerBook> {
        lock(&self.book)
    }
}

/// One kind of stream to one peer.
#[derive(Debug)]
pub(super) struct Lane {
    pub outbox: Outbox,
    /// The address is another one: whatever goes on with the old one ends.
    pub changed: Notify,
    /// The peer is alive: do not wait out the back-off.
    pub hurry: Notify,
}

impl Lane {
    fn new(bytes_max: usize) -> Lane {
        Lane { outbox: Outbox::new(bytes_max), changed: Notify::new(), hurry: Notify::new() }
    }
}

#[derive(Debug)]
pub(super) struct Peer {
    pub id: NodeId,
    addrs: Mutex<Vec<String>>,
    messages: Lane,
    bulk: Lane,
    pub counters: Counters,
    /// 0 is "not measured yet".
    pub rtt_nanos: AtomicU64,
    pub up: AtomicBool,
    tasks: Mutex<Vec<TaskHandle>>,
}

impl Peer {
    pub fn lane(&self, kind: StreamKind) -> &Lane {
        match kind {
            StreamKind::Messages => &self.messages,
            StreamKind::Bulk => &self.bulk,
        }
    }

    pub fn addrs(&self) -> Vec<String> {
        lock(&self.addrs).clone()
    }

    fn stop(&self) {
        for task in lock(&self.tasks).drain(..) {
            task.abort();
        }
        self.up.store(false, Relaxed);
        self.messages.outbox.close();
        self.bulk.outbox.close();
    }
}

/// Streams that others have opened.
#[derive(Debug, Default)]
pub(super) struct Inbound {
    next: u64,
    streams: BTreeMap<u64, InboundStream>,
    /// Stopped: a stream accepted in the last moment is not served.
    closed: bool,
}

#[derive(Debug)]
struct InboundStream {
    cancel: Arc<Notify>,
    /// Whose it is, once the handshake has told.
    from: Option<(NodeId, StreamKind)>,
}

impl Inbound {
    /// A number for a new stream, if there is room for one more.
    pub fn add(&mut self, cancel: Arc<Notify>) -> Option<u64> {
        if self.closed || self.streams.len() >= limits::PEER_INBOUND_MAX {
            return None;
        }
        self.next += 1;
        self.streams.insert(self.next, InboundStream { cancel, from: None });
        Some(self.next)
    }

    /// The stream is this peer's from now on; an older one of the same kind is dead or soon is.
    pub fn claim(&mut self, number: u64, from: NodeId, kind: StreamKind) {
        for (other, stream) in &self.streams {
            if *other != number && stream.from == Some((from, kind)) {
                stream.cancel.notify_one();
            }
        }
        if let Some(stream) = self.streams.get_mut(&number) {
            stream.from = Some((from, kind));
        }
    }

    pub fn remove(&mut self, number: u64) {
        self.streams.remove(&number);
    }

    /// Ends the streams of one peer.
    fn cancel(&self, of: NodeId) {
        for stream in self.streams.values() {
            if stream.from.is_some_and(|(id, _)| id == of) {
                stream.cancel.notify_one();
            }
        }
    }

    /// Ends all streams, and takes no more.
    fn close(&mut self) {
        self.closed = true;
        for stream in self.streams.values() {
            stream.cancel.notify_one();
        }
    }
}

pub(super) struct Inner {
    pub ctx: Arc<Context>,
    peers: Mutex<BTreeMap<NodeId, Arc<Peer>>>,
    inbound: Mutex<Inbound>,
    listeners: Mutex<Vec<TaskHandle>>,
    local_addrs: Mutex<Vec<String>>,
    stopped: AtomicBool,
}

impl Inner {
    pub fn peer(&self, id: NodeId) -> Option<Arc<Peer>> {
        lock(&self.peers).get(&id).cloned()
    }

    pub fn inbound(&self) -> MutexGuard<'_, Inbound> {
        lock(&self.inbound)
    }
}

/// The guarded values are changed in single steps: a panic elsewhere leaves them whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The peers of one member. Clones are handles to the same.
#[derive(Clone)]
pub struct Peers {
    inner: Arc<Inner>,
}

impl fmt::Debug for Peers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peers").field("local", &self.inner.ctx.local.node).finish_non_exhaustive()
    }
}

impl Peers {
    /// Listens on each of `listen_addrs` (`host:port`); nobody is dialed before `set_peer`. `book`
    /// stays shared: the node changes it as membership changes.
    pub async fn start(
        io: Io,
        local: LocalIdentity,
        book: Arc<Mutex<PeerBook>>,
        listen_addrs: Vec<String>,
        sink: Sink,
    ) -> Result<Peers, StartError> {
        let peers = Peers {
            inner: Arc::new(Inner {
                ctx: Arc::new(Context { io, local, book, sink }),
                peers: Mutex::default(),
                inbound: Mutex::default(),
                listeners: Mutex::default(),
                local_addrs: Mutex::default(),
                stopped: AtomicBool::new(false),
            }),
        };
        for addr in listen_addrs {
            if let Err(source) = peers.listen(addr.clone()).await {
                peers.stop();
                return Err(StartError::Bind { addr, source });
            }
        }
        Ok(peers)
    }

    /// Binds inside the task that will accept: a socket belongs to the runtime it was made on.
    async fn listen(&self, addr: String) -> io::Result<()> {
        let (send, receive) = oneshot::channel();
        let inner = self.inner.clone();
        let task = async move {
            match inner.ctx.io.net.listen(addr).await {
                Ok(listener) => {
                    if send.send(Ok(listener.local_addr())).is_ok() {
                        accept::run(inner, listener).await;
                    }
                }
                // Nobody left to tell is as good as told.
                Err(error) => drop(send.send(Err(error))),
            }
        };
        let tasks = &self.inner.ctx.io.tasks;
        let handle = tasks.spawn("peer-listener", TaskKind::Shared, Box::pin(task));
        lock(&self.inner.listeners).push(handle);
        let bound =
            receive.await.unwrap_or_else(|_| Err(io::Error::other("the listener's task ended")))?;
        lock(&self.inner.local_addrs).push(bound);
        Ok(())
    }

    /// The addresses listened on, with the ports in use.
    pub fn local_addrs(&self) -> Vec<String> {
        lock(&self.inner.local_addrs).clone()
    }

    /// Keeps a stream up to the peer at one of these addresses (`host:port`). Called again, it
    /// changes the addresses; a stream to the old ones ends.
    pub fn set_peer(&self, id: NodeId, addrs: Vec<String>) {
        let mut peers = lock(&self.inner.peers);
        if self.inner.stopped.load(Relaxed) || id == self.inner.ctx.local.node {
            return;
        }
        if let Some(peer) = peers.get(&id) {
            let mut current = lock(&peer.addrs);
            if *current != addrs {
                *current = addrs;
                peer.messages.changed.notify_one();
                peer.bulk.changed.notify_one();
            }
            return;
        }
        let peer = Arc::new(Peer {
            id,
            addrs: Mutex::new(addrs),
            messages: Lane::new(limits::PEER_QUEUE_BYTES_MAX),
            bulk: Lane::new(limits::PEER_BULK_BYTES_MAX),
            counters: Counters::default(),
            rtt_nanos: AtomicU64::new(0),
            up: AtomicBool::new(false),
            tasks: Mutex::default(),
        });
        // Messages sent before the task's first step wait like those sent while it dials.
        peer.messages.outbox.open();
        peer.bulk.outbox.open();
        let spawn = |name, kind| {
            let task = dial::run(self.inner.ctx.clone(), peer.clone(), kind);
            self.inner.ctx.io.tasks.spawn(name, TaskKind::Shared, Box::pin(task))
        };
        let tasks = vec![
            spawn("peer-messages", StreamKind::Messages),
            spawn("peer-bulk", StreamKind::Bulk),
        ];
        *lock(&peer.tasks) = tasks;
        peers.insert(id, peer);
    }

    /// Ends all streams with the peer, in both directions. It may dial again and is then judged
    /// by the book: change that first.
    pub fn remove_peer(&self, id: NodeId) {
        if let Some(peer) = lock(&self.inner.peers).remove(&id) {
            peer.stop();
        }
        self.inner.inbound().cancel(id);
    }

    pub fn has_peer(&self, id: NodeId) -> bool {
        lock(&self.inner.peers).contains_key(&id)
    }

    /// Queues a frame and returns at once. False if any of it was dropped: no such peer, no
    /// stream, or a full queue (then `Unreachable` follows).
    pub fn send(&self, to: NodeId, frame: PeerFrame) -> bool {
        self.queue(to, StreamKind::Messages, frame)
    }

    /// Like `send`, on the stream for what may take its time.
    pub fn send_bulk(&self, to: NodeId, frame: PeerFrame) -> bool {
        self.queue(to, StreamKind::Bulk, frame)
    }

    fn queue(&self, to: NodeId, kind: StreamKind, frame: PeerFrame) -> bool {
        let Some(peer) = self.inner.peer(to) else { return false };
        let dropped = peer.lane(kind).outbox.push(frame);
        if dropped > 0 {
            peer.counters.send_failures.fetch_add(dropped, Relaxed);
        }
        dropped == 0
    }

    /// The last round trip measured (about once a second while a stream is up).
    pub fn rtt(&self, id: NodeId) -> Option<Duration> {
        let nanos = self.inner.peer(id)?.rtt_nanos.load(Relaxed);
        (nanos > 0).then(|| Duration::from_nanos(nanos))
    }

    /// Whether the stream to the peer stands.
    pub fn is_up(&self, id: NodeId) -> bool {
        self.inner.peer(id).is_some_and(|peer| peer.up.load(Relaxed))
    }

    /// Of every peer, in the order of their ids.
    pub fn counters(&self) -> BTreeMap<NodeId, PeerCounters> {
        let peers = lock(&self.inner.peers);
        let read = |peer: &Peer| PeerCounters {
            sent_bytes: peer.counters.sent_bytes.load(Relaxed),
            received_bytes: peer.counters.received_bytes.load(Relaxed),
            send_failures: peer.counters.send_failures.load(Relaxed),
            receive_failures: peer.counters.receive_failures.load(Relaxed),
        };
        peers.iter().map(|(id, peer)| (*id, read(peer))).collect()
    }

    /// Ends everything; the ports are free once the tasks have noticed.
    pub fn stop(&self) {
        self.inner.stopped.store(true, Relaxed);
        for listener in lock(&self.inner.listeners).drain(..) {
            listener.abort();
        }
        for peer in std::mem::take(&mut *lock(&self.inner.peers)).into_values() {
            peer.stop();
        }
        self.inner.inbound().close();
    }
}
