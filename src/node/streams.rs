//! The member's peers: from what the core wants sent to the transport's frames and back, and from
//! the membership to the addresses and identities the transport knows.
//!
//! A message that cannot be sent is dropped and the core is told that the peer is unreachable;
//! raft sends again. Frames for the core beyond `INBOX_MAX` are dropped too: a core that is that
//! far behind has its disk to thank for it, and more memory would not help.

use super::action::{Action, Refusal as CoreRefusal};
use super::metrics::PeerNow;
use super::shared::{Ended, Shared, lock};
use crate::io::Io;
use crate::multiraft::root::RootState;
use crate::multiraft::wire::NodeMessage;
use crate::transport::{
    LocalIdentity, PeerBook, PeerEvent, PeerFrame, Peers, Refusal, RefusedBy, StartError,
};
use crate::types::{Incarnation, NodeId};
use bytes::{Bytes, BytesMut};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::Duration;

/// Actions that wait for the core while frames are still taken.
const INBOX_MAX: usize = 65_536;

/// See the module's documentation.
pub struct Streams {
    node: NodeId,
    book: Arc<Mutex<PeerBook>>,
    peers: OnceLock<Peers>,
    /// The addresses last given to the transport.
    known: Mutex<BTreeMap<NodeId, Vec<String>>>,
    shared: OnceLock<Weak<Shared>>,
}

impl Streams {
    pub fn new(node: NodeId) -> Arc<Streams> {
        let mut book = PeerBook::new();
        // A member that lags may not have heard of the leader that now speaks to it.
        book.admit_unknown(true);
        Arc::new(Streams {
            node,
            book: Arc::new(Mutex::new(book)),
            peers: OnceLock::new(),
            known: Mutex::default(),
            shared: OnceLock::new(),
        })
    }

    /// Listens for peers and dials those of the membership.
    pub async fn start(
        self: &Arc<Self>,
        io: Io,
        local: LocalIdentity,
        listen: Vec<String>,
        shared: &Arc<Shared>,
    ) -> Result<(), StartError> {
        let _ = self.shared.set(Arc::downgrade(shared));
        let root = lock(&shared.root).clone();
        self.fill_book(&root);
        let this = Arc::downgrade(self);
        let sink = Arc::new(move |event: PeerEvent| {
            if let Some(this) = this.upgrade() {
                this.event(event);
            }
        });
        let peers = Peers::start(io, local, self.book.clone(), listen, sink).await?;
        let _ = self.peers.set(peers);
        self.membership(&root);
        Ok(())
    }

    fn peers(&self) -> Option<&Peers> {
        self.peers.get()
    }

    fn fill_book(&self, root: &RootState) {
        let mut book = lock(&self.book);
        for member in root.members.values() {
            book.add(member.id, member.incarnation);
        }
        for removed in &root.removed {
            book.remove(*removed);
        }
        book.set_roster(root.members.values());
    }

    /// The membership has changed: dial who is new or has moved, let go of who was removed.
    pub fn membership(&self, root: &RootState) {
        self.fill_book(root);
        let Some(peers) = self.peers() else { return };
        let mut known = lock(&self.known);
        for member in root.members.values().filter(|member| member.id != self.node) {
            let addrs: Vec<String> =
                member.peer_urls.iter().map(|url| host_port(url).to_string()).collect();
            if known.get(&member.id) != Some(&addrs) {
                peers.set_peer(member.id, addrs.clone());
                known.insert(member.id, addrs);
            }
        }
        let gone: Vec<NodeId> =
            known.keys().filter(|id| !root.members.contains_key(id)).copied().collect();
        for id in gone {
            peers.remove_peer(id);
            known.remove(&id);
            if let Some(shared) = self.shared.get().and_then(Weak::upgrade) {
                shared.metrics.forget(id);
            }
        }
    }

    pub fn send(&self, to: NodeId, message: NodeMessage) {
        let Some(peers) = self.peers() else { return };
        let frame = match message {
            NodeMessage::Raft(messages) => PeerFrame::Raft(messages),
            other => PeerFrame::Node(encode(&other)),
        };
        peers.send(to, frame);
    }

    /// For what may take its time: chunks of a raft snapshot.
    pub fn send_bulk(&self, to: NodeId, message: NodeMessage) {
        if let Some(peers) = self.peers() {
            peers.send_bulk(to, PeerFrame::Node(encode(&message)));
        }
    }

    /// The core takes no frames of this peer: its streams end, and the handshake tells it why.
    pub fn refuse(&self, peer: NodeId, refusal: CoreRefusal) {
        tracing::warn!("remote-peer-id" = %peer, refusal = ?refusal, "refused a peer's frames");
        if let Some(peers) = self.peers() {
            peers.remove_peer(peer);
            let addrs = lock(&self.known).get(&peer).cloned();
            if let Some(addrs) = addrs {
                peers.set_peer(peer, addrs);
            }
        }
    }

    pub fn round_trip(&self, peer: NodeId) -> Option<Duration> {
        self.peers()?.rtt(peer)
    }
    /// Every peer as the transport sees it.
    pub fn now(&self) -> BTreeMap<NodeId, PeerNow> {
        let Some(peers) = self.peers() else { return BTreeMap::new() };
        let counters = peers.counters().into_iter();
        counters.map(|(id, counters)| (id, PeerNow { counters, is_up: peers.is_up(id) })).collect()
    }
    pub fn stop(&self) {
        if let Some(peers) = self.peers() {
            peers.stop();
        }
    }

    fn incarnation(&self, peer: NodeId) -> Incarnation {
        lock(&self.book).expected(peer).unwrap_or_default()
    }

    /// Called from the transport's tasks.
    fn event(&self, event: PeerEvent) {
        let Some(shared) = self.shared.get().and_then(Weak::upgrade) else { return };
        match event {
            PeerEvent::Frame { from, frame } => {
                let message = match frame {
                    PeerFrame::Raft(messages) => NodeMessage::Raft(messages),
                    PeerFrame::Node(bytes) => match NodeMessage::decode(&bytes) {
                        Ok(message) => message,
                        Err(error) => {
                            tracing::warn!("remote-peer-id" = %from, %error, "dropped a frame");
                            return;
                        }
                    },
                    PeerFrame::Ping(_) | PeerFrame::Pong(_) => return,
                };
                let incarnation = self.incarnation(from);
                let action = Action::Frame { from, incarnation, message };
                let _ = shared.core.try_send(action, INBOX_MAX);
            }
            PeerEvent::Up { peer } => {
                tracing::info!("remote-peer-id" = %peer, "peer became active");
                shared.core.send(Action::PeerUp { peer });
            }
            PeerEvent::Down { peer } => {
                tracing::warn!("remote-peer-id" = %peer, "peer became inactive");
                shared.metrics.disconnected(peer);
                shared.core.send(Action::PeerDown { peer });
            }
            PeerEvent::Unreachable { peer } | PeerEvent::BulkLost { peer } => {
                shared.core.send(Action::Unreachable { peer });
            }
            PeerEvent::RoundTrip { peer, took } => shared.metrics.round_trip(peer, took),
            PeerEvent::Met { peer, peer_urls } => {
                if let Some(peers) = self.peers() {
                    let addrs: Vec<String> =
                        peer_urls.iter().map(|url| host_port(url).to_string()).collect();
                    peers.set_peer(peer, addrs.clone());
                    lock(&self.known).insert(peer, addrs);
                }
            }
            // A peer of this very cluster knows better than we what we are.
            PeerEvent::Refused { by: RefusedBy::Peer, refusal, peer, .. } => match refusal {
                Refusal::IncarnationMismatch { id, .. } if id == self.node => {
                    tracing::error!(
                        "remote-peer-id" = %peer,
                        "local-member-id" = %self.node,
                        "this member's data directory is not the one the cluster knows: its disk \
                         was wiped or replaced; remove the member, add it again, and start it \
                         with an empty data directory and --initial-cluster-state existing"
                    );
                    shared.end(Ended::IncarnationRefused);
                }
                Refusal::RemovedMember { id } if id == self.node => {
                    tracing::error!(
                        "remote-peer-id" = %peer,
                        "local-member-id" = %self.node,
                        "the member has been permanently removed from the cluster"
                    );
                    // It goes once nobody depends on what it alone knows.
                    shared.core.send(Action::ToldRemoved { by: peer });
                }
                _ => {}
            },
            PeerEvent::Refused { .. } => {}
        }
    }
}

fn encode(message: &NodeMessage) -> Bytes {
    let mut out = BytesMut::new();
    message.encode(&mut out);
    out.freeze()
}

/// `http://host:port/` without scheme and path.
pub fn host_port(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.split('/').next().unwrap_or(rest)
}
