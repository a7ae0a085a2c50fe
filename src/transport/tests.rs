//! Real sockets on the loopback device: two members and whoever disturbs them.

use super::frame::{decode_greeting, decode_peer_frame, encode_peer_frame, message_cost};
use super::outbox::{Outbox, encode_items};
use super::*;
use crate::codec::arbitrary;
use crate::codec::frame::{put_frame, split_frame};
use crate::io::{Connection, Io, tokio_backend, until};
use crate::types::{
    ClusterId, Entry, EntryKind, GroupId, Incarnation, LogIndex, Message, MessageBody, NodeId,
    Term, limits,
};
use bytes::{Bytes, BytesMut};
use proptest::prelude::*;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

const CLUSTER: ClusterId = ClusterId(0xabc);
const A: NodeId = NodeId(0xa);
const B: NodeId = NodeId(0xb);
/// Far beyond anything that is waited for: a test that hangs shall fail.
const PATIENCE: Duration = Duration::from_secs(20);

struct Member {
    io: Io,
    peers: Peers,
    book: Arc<Mutex<PeerBook>>,
    events: mpsc::UnboundedReceiver<PeerEvent>,
}

fn identity(cluster: ClusterId, node: NodeId) -> LocalIdentity {
    LocalIdentity {
        cluster,
        node,
        incarnation: Incarnation(node.0 * 100),
        server_version: "3.6.0".into(),
        peer_urls: vec![format!("http://{node}:2380")],
    }
}

impl Member {
    async fn start(local: LocalIdentity, addr: &str) -> Member {
        let mut book = PeerBook::new();
        for other in [A, B].into_iter().filter(|id| *id != local.node) {
            book.add(other, None);
        }
        let book = Arc::new(Mutex::new(book));
        let io = tokio_backend::io(Handle::current());
        let deadline = io.clock.now() + PATIENCE;
        loop {
            let (send, events) = mpsc::unbounded_channel();
            let sink = Arc::new(move |event| drop(send.send(event)));
            let addrs = vec![addr.to_owned()];
            match Peers::start(io.clone(), local.clone(), book.clone(), addrs, sink).await {
                Ok(peers) => return Member { io, peers, book, events },
                // A listener of the same test may not be quite gone.
                Err(error) => assert!(io.clock.now() < deadline, "{error}"),
            }
            tokio::task::yield_now().await;
        }
    }

    async fn of(cluster: ClusterId, node: NodeId) -> Member {
        Member::start(identity(cluster, node), "127.0.0.1:0").await
    }

    fn addr(&self) -> String {
        self.peers.local_addrs()[0].clone()
    }

    /// The first event that fits; others are passed over.
    async fn expect<T>(&mut self, mut fits: impl FnMut(PeerEvent) -> Option<T>) -> T {
        let deadline = self.io.clock.now() + PATIENCE;
        let events = &mut self.events;
        let wanted = async {
            loop {
                if let Some(value) = fits(events.recv().await.expect("the transport runs")) {
                    return value;
                }
            }
        };
        until(&*self.io.clock, deadline, wanted).await.expect("the event comes in time")
    }

    async fn up(&mut self) {
        self.expect(|event| matches!(event, PeerEvent::Up { .. }).then_some(())).await;
    }

    async fn frame(&mut self) -> (NodeId, PeerFrame) {
        self.expect(|event| match event {
            PeerEvent::Frame { from, frame } => Some((from, frame)),
            _ => None,
        })
        .await
    }

    async fn refusal(&mut self) -> (NodeId, ClusterId, RefusedBy, Refusal) {
        self.expect(|event| match event {
            PeerEvent::Refused { peer, remote_cluster, by, refusal } => {
                Some((peer, remote_cluster, by, refusal))
            }
            _ => None,
        })
        .await
    }
}

async fn pair() -> (Member, Member) {
    let (mut a, mut b) = (Member::of(CLUSTER, A).await, Member::of(CLUSTER, B).await);
    a.peers.set_peer(B, vec![b.addr()]);
    b.peers.set_peer(A, vec![a.addr()]);
    a.up().await;
    b.up().await;
    (a, b)
}

fn message(from: NodeId, to: NodeId, body: MessageBody) -> Message {
    Message { group: GroupId(1), from, to, term: Term(3), body }
}

fn heartbeat(context: u64) -> Message {
    message(A, B, MessageBody::Heartbeat { commit: LogIndex(1), context })
}

fn append(index: u64, bytes: usize) -> Message {
    let data = Bytes::from(vec![7; bytes]);
    let entry = Entry { term: Term(3), index: LogIndex(index), kind: EntryKind::Command, data };
    let body = MessageBody::Append {
        prev_index: LogIndex(index - 1),
        prev_term: Term(3),
        commit: LogIndex(0),
        entries: vec![entry],
    };
    message(A, B, body)
}

/// Messages of the next frames, until there are `count`.
async fn messages(member: &mut Member, count: usize) -> Vec<Message> {
    let mut all = Vec::new();
    while all.len() < count {
        match member.frame().await {
            (from, PeerFrame::Raft(messages)) => {
                assert_eq!(from, A);
                all.extend(messages);
            }
            other => panic!("{other:?}"),
        }
    }
    all
}

#[tokio::test]
async fn frames_pass_in_both_directions_and_in_order() {
    let (mut a, mut b) = pair().await;
    assert!(b.peers.send(A, PeerFrame::Node(Bytes::from_static(b"from b"))));
    assert_eq!(a.frame().await, (B, PeerFrame::Node(Bytes::from_static(b"from b"))));

    let sent: Vec<Message> = (1..=200).map(|i| append(i, 100)).collect();
    for message in &sent {
        assert!(a.peers.send(B, PeerFrame::Raft(vec![message.clone()])));
    }
    assert_eq!(messages(&mut b, 200).await, sent);

    let large = vec![append(201, 5 << 20), append(202, 1 << 20)];
    assert!(a.peers.send(B, PeerFrame::Raft(large.clone())));
    assert_eq!(messages(&mut b, 2).await, large);

    assert!(a.peers.send_bulk(B, PeerFrame::Node(Bytes::from(vec![1; 1 << 20]))));
    assert!(matches!(b.frame().await, (A, PeerFrame::Node(bytes)) if bytes.len() == 1 << 20));

    let deadline = a.io.clock.now() + PATIENCE;
    while a.peers.rtt(B).is_none() {
        assert!(a.io.clock.now() < deadline, "the first ping leaves at once");
        tokio::task::yield_now().await;
    }
    let counters = a.peers.counters()[&B];
    assert!(counters.sent_bytes > 6 << 20 && counters.send_failures == 0, "{counters:?}");
    assert!(b.peers.counters()[&A].received_bytes > 7 << 20);
    assert!(a.peers.is_up(B) && !a.peers.is_up(NodeId(5)));
    assert!(!a.peers.send(NodeId(5), PeerFrame::Node(Bytes::new())), "nobody");
    a.peers.stop();
    b.peers.stop();
}

#[tokio::test]
async fn another_cluster_is_refused_on_both_sides_until_the_right_one_returns() {
    let other = ClusterId(0xdef);
    let (mut a, mut b) = (Member::of(CLUSTER, A).await, Member::of(other, B).await);
    a.peers.set_peer(B, vec![b.addr()]);
    let mismatch = |local, remote| Refusal::ClusterIdMismatch { local, remote };
    assert_eq!(a.refusal().await, (B, other, RefusedBy::Us, mismatch(CLUSTER, other)));
    assert_eq!(b.refusal().await, (A, CLUSTER, RefusedBy::Us, mismatch(other, CLUSTER)));
    a.peers.send(B, PeerFrame::Raft(vec![heartbeat(1)]));
    a.refusal().await;
    assert!(!a.peers.is_up(B));

    let addr = b.addr();
    b.peers.stop();
    drop(b.peers);
    // The events end when the last task has let go of the sink: nothing is left running.
    let all = async {
        while let Some(event) = b.events.recv().await {
            assert!(!matches!(event, PeerEvent::Frame { .. }), "{event:?} from another cluster");
        }
    };
    until(&*b.io.clock, b.io.clock.now() + PATIENCE, all).await.expect("all tasks end");
    let mut b = Member::start(identity(CLUSTER, B), &addr).await;
    a.up().await;
    assert!(a.peers.send(B, PeerFrame::Raft(vec![heartbeat(2)])));
    assert_eq!(messages(&mut b, 1).await, [heartbeat(2)]);
}

#[tokio::test]
async fn a_peer_that_restarts_is_reached_again() {
    let (mut a, b) = pair().await;
    let addr = b.addr();
    b.peers.stop();
    a.expect(|event| (event == PeerEvent::Down { peer: B }).then_some(())).await;
    a.expect(|event| (event == PeerEvent::Unreachable { peer: B }).then_some(())).await;
    let mut again = Member::start(identity(CLUSTER, B), &addr).await;
    a.up().await;
    assert!(a.peers.send(B, PeerFrame::Raft(vec![heartbeat(9)])));
    assert_eq!(messages(&mut again, 1).await, [heartbeat(9)]);

    // And under another address.
    let mut moved = Member::of(CLUSTER, B).await;
    a.peers.set_peer(B, vec![moved.addr()]);
    a.up().await;
    assert!(a.peers.send(B, PeerFrame::Raft(vec![heartbeat(10)])));
    assert_eq!(messages(&mut moved, 1).await, [heartbeat(10)]);

    a.peers.remove_peer(B);
    assert!(!a.peers.has_peer(B));
    assert!(!a.peers.send(B, PeerFrame::Raft(vec![heartbeat(11)])));
}

#[tokio::test]
async fn a_wiped_disk_is_told_so() {
    let (mut a, b) = pair().await;
    let addr = b.addr();
    b.peers.stop();
    a.expect(|event| (event == PeerEvent::Down { peer: B }).then_some(())).await;
    let wiped = LocalIdentity { incarnation: Incarnation(1), ..identity(CLUSTER, B) };
    let mut b = Member::start(wiped, &addr).await;
    b.peers.set_peer(A, vec![a.addr()]);
    let expected = Refusal::IncarnationMismatch {
        id: B,
        expected: Incarnation(B.0 * 100),
        found: Incarnation(1),
    };
    assert_eq!(b.refusal().await, (A, CLUSTER, RefusedBy::Peer, expected.clone()));
    assert_eq!(a.refusal().await, (B, CLUSTER, RefusedBy::Us, expected));

    a.book.lock().unwrap().remove(B);
    let (_, _, by, refusal) = b
        .expect(|event| match event {
            PeerEvent::Refused {
                peer,
                remote_cluster,
                by,
                refusal: refusal @ Refusal::RemovedMember { .. },
            } => Some((peer, remote_cluster, by, refusal)),
            _ => None,
        })
        .await;
    assert_eq!((by, refusal), (RefusedBy::Peer, Refusal::RemovedMember { id: B }));
}

#[tokio::test]
async fn a_stranger_of_the_cluster_is_met() {
    let (mut a, b) = (Member::of(CLUSTER, A).await, Member::of(CLUSTER, NodeId(7)).await);
    a.book.lock().unwrap().admit_unknown(true);
    b.peers.set_peer(A, vec![a.addr()]);
    let urls = a
        .expect(|event| match event {
            PeerEvent::Met { peer: NodeId(7), peer_urls } => Some(peer_urls),
            _ => None,
        })
        .await;
    assert_eq!(urls, ["http://7:2380"]);
}

#[tokio::test]
async fn nobody_there_is_unreachable() {
    let mut a = Member::of(CLUSTER, A).await;
    let free = Member::of(CLUSTER, B).await;
    let addr = free.addr();
    free.peers.stop();
    a.peers.set_peer(B, vec![addr]);
    a.expect(|event| (event == PeerEvent::Unreachable { peer: B }).then_some(())).await;
    let deadline = a.io.clock.now() + PATIENCE;
    while a.peers.send(B, PeerFrame::Raft(vec![heartbeat(1)])) {
        assert!(a.io.clock.now() < deadline, "in back-off a send is refused");
        tokio::task::yield_now().await;
    }
    a.expect(|event| (event == PeerEvent::Unreachable { peer: B }).then_some(())).await;
    assert!(a.peers.counters()[&B].send_failures > 0);
}

#[tokio::test]
async fn a_port_in_use_is_a_typed_error() {
    let a = Member::of(CLUSTER, A).await;
    let book = Arc::new(Mutex::new(PeerBook::new()));
    let local = identity(CLUSTER, B);
    let addrs = vec![a.addr()];
    let started = Peers::start(a.io.clone(), local, book, addrs, Arc::new(|_| {})).await;
    let StartError::Bind { addr, source } = started.expect_err("the port is taken");
    assert_eq!((addr, source.kind()), (a.addr(), io::ErrorKind::AddrInUse));
}

/// Reads until the other end closes; gives what came.
async fn drain(io: &Io, mut connection: Connection) -> BytesMut {
    let mut buf = BytesMut::new();
    let all = async { while !matches!(connection.reader.read(&mut buf).await, Ok(0) | Err(_)) {} };
    until(&*io.clock, io.clock.now() + PATIENCE, all).await.expect("the stream is closed");
    buf
}

#[tokio::test]
async fn garbage_closes_the_connection_and_nothing_else() {
    let (mut a, mut b) = pair().await;
    let mut oversized = BytesMut::from(&u32::MAX.to_le_bytes()[..]);
    oversized.extend_from_slice(&[0; 4]);
    let mut strange = BytesMut::new();
    put_frame(&mut strange, b"\x51 and then no hello");
    let requests: [&[u8]; 4] =
        [b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n", &[0; 64], &oversized, &strange];
    for bytes in requests {
        let mut connection = a.io.net.dial(b.addr()).await.unwrap();
        connection.writer.write_all(Bytes::copy_from_slice(bytes)).await.unwrap();
        assert!(drain(&a.io, connection).await.is_empty());
    }
    assert!(a.peers.send(B, PeerFrame::Raft(vec![heartbeat(5)])));
    assert_eq!(messages(&mut b, 1).await, [heartbeat(5)]);

    // A member that speaks in another's name loses its stream, not its peer.
    let forged = message(NodeId(0x666), B, MessageBody::VoteReply { granted: true });
    a.peers.send(B, PeerFrame::Raft(vec![forged]));
    a.expect(|event| (event == PeerEvent::Down { peer: B }).then_some(())).await;
    a.up().await;
    a.peers.send(B, PeerFrame::Raft(vec![heartbeat(6)]));
    assert_eq!(messages(&mut b, 1).await, [heartbeat(6)]);
}

#[tokio::test]
async fn a_stranger_gets_an_answer_and_the_door() {
    let b = Member::of(CLUSTER, B).await;
    let mut connection = b.io.net.dial(b.addr()).await.unwrap();
    let hello = identity(CLUSTER, NodeId(0x99)).hello(B, StreamKind::Messages);
    let bytes = wire::greeting_bytes(&frame::Greeting::Hello(hello));
    connection.writer.write_all(bytes).await.unwrap();
    let mut answer = drain(&b.io, connection).await;
    let payload = split_frame(&mut answer, 1 << 16).unwrap().unwrap();
    let frame::Greeting::Reply(reply) = decode_greeting(&payload).unwrap() else { panic!() };
    assert_eq!(reply.hello.from, B);
    assert_eq!(reply.verdict, Verdict::Refuse(Refusal::UnknownMember { id: NodeId(0x99) }));
}

#[tokio::test]
async fn who_is_about_to_join_is_told_who_is_in_the_cluster() {
    let b = Member::of(CLUSTER, B).await;
    // It does not know itself yet, and says so.
    let roster = roster::ask(&b.io, &b.addr()).await.unwrap();
    assert_eq!((roster.cluster, roster.members.len()), (CLUSTER, 0));
    let row = |id, incarnation| crate::types::Member {
        id,
        name: format!("{id}"),
        peer_urls: vec![format!("http://{id}:2380")],
        incarnation,
        ..crate::types::Member::default()
    };
    b.book.lock().unwrap().set_roster(&[row(A, Some(Incarnation(5))), row(B, None)]);
    let roster = roster::ask(&b.io, &b.addr()).await.unwrap();
    assert_eq!(roster.protocol_version, handshake::PROTOCOL_VERSION);
    assert_eq!(roster.server_version, "3.6.0");
    assert_eq!(roster.members, [row(A, None), row(B, None)], "no incarnation is given away");

    // More than anybody reads is not sent.
    let mut vast = row(A, None);
    vast.peer_urls = vec!["x".repeat(limits::PEER_ROSTER_BYTES_MAX)];
    b.book.lock().unwrap().set_roster(&[vast]);
    assert!(matches!(roster::ask(&b.io, &b.addr()).await, Err(wire::StreamError::Closed)));
    // Nobody listens, or somebody else.
    let mut listener = b.io.net.listen("127.0.0.1:0".to_owned()).await.unwrap();
    let addr = listener.local_addr();
    #[allow(clippy::disallowed_methods, reason = "the other end is no member: it needs no Tasks")]
    let web = tokio::spawn(async move {
        let mut connection = listener.accept().await.unwrap();
        let page = Bytes::from_static(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        connection.writer.write_all(page).await.unwrap();
    });
    assert!(roster::ask(&b.io, &addr).await.is_err());
    web.await.unwrap();
    assert!(matches!(roster::ask(&b.io, &addr).await, Err(wire::StreamError::Io(_))));
}

/// What the outbox would write, in order.
fn taken(outbox: &Outbox, bytes_max: usize) -> Vec<PeerFrame> {
    let (mut items, mut out) = (Vec::new(), BytesMut::new());
    outbox.take(bytes_max, &mut items);
    assert_eq!(encode_items(&mut items, &mut out), 0);
    let mut frames = Vec::new();
    while let Some(payload) = split_frame(&mut out, limits::FRAME_BYTES_MAX).unwrap() {
        frames.push(decode_peer_frame(&payload).unwrap());
    }
    assert!(out.is_empty());
    frames
}

#[test]
fn heartbeats_go_ahead_of_entries_and_share_a_frame() {
    let outbox = Outbox::new(1 << 20);
    outbox.open();
    let node = Bytes::from_static(b"node");
    outbox.push(PeerFrame::Raft(vec![append(1, 10), heartbeat(1)]));
    outbox.push(PeerFrame::Node(node.clone()));
    outbox.push(PeerFrame::Raft(vec![append(2, 10), heartbeat(2)]));
    assert_eq!(
        taken(&outbox, 1 << 20),
        [
            PeerFrame::Raft(vec![heartbeat(1), heartbeat(2), append(1, 10)]),
            PeerFrame::Node(node),
            PeerFrame::Raft(vec![append(2, 10)]),
        ]
    );
    assert!(outbox.is_empty());
}

#[test]
fn a_full_queue_drops_entries_but_takes_heartbeats() {
    let outbox = Outbox::new(10_000);
    assert_eq!(outbox.push(PeerFrame::Raft(vec![heartbeat(0)])), 1, "closed");
    assert!(outbox.take_lost());
    outbox.open();
    let cost = message_cost(&append(1, 1000));
    let fit = (10_000 / cost) as u64;
    let all: Vec<Message> = (1..=20).map(|i| append(i, 1000)).collect();
    assert_eq!(outbox.push(PeerFrame::Raft(all)), 20 - fit);
    assert!(outbox.take_lost() && !outbox.take_lost());
    assert_eq!(outbox.push(PeerFrame::Raft(vec![heartbeat(1)])), 0);
    assert_eq!(taken(&outbox, 1).len(), 1, "at least one item");
    assert_eq!(outbox.close(), fit);
    assert!(outbox.is_empty());
    outbox.open();
    assert_eq!(outbox.push(PeerFrame::Raft(vec![append(1, 50_000)])), 0, "alone it may pass");
    assert_eq!(outbox.push(PeerFrame::Raft(vec![append(2, 1)])), 1);
    let many: Vec<Message> =
        (0..limits::PEER_QUEUE_MESSAGES_MAX as u64 + 5).map(heartbeat).collect();
    assert_eq!(outbox.push(PeerFrame::Raft(many)), 5, "urgent ones have a bound too");
}

proptest! {
    #[test]
    fn frames_round_trip_and_garbage_does_not_panic(
        messages in proptest::collection::vec(arbitrary::message(), 0..5),
        garbage in proptest::collection::vec(any::<u8>(), 0..120),
        at in any::<u64>(),
    ) {
        let node = PeerFrame::Node(Bytes::from(garbage.clone()));
        for frame in [PeerFrame::Raft(messages), node, PeerFrame::Ping(at), PeerFrame::Pong(at)] {
            let mut out = BytesMut::new();
            encode_peer_frame(&frame, &mut out);
            prop_assert_eq!(decode_peer_frame(&out.freeze()).unwrap(), frame);
        }
        let garbage = Bytes::from(garbage);
        let _ = decode_peer_frame(&garbage);
        let _ = decode_greeting(&garbage);
    }
}
