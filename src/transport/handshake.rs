//! Who may talk to whom, before anything is said. Pure: the simulator's first tier runs it too.
//!
//! The dialer sends `Hello`, the acceptor judges it and answers `HelloReply`: who it is itself,
//! and its verdict. The dialer then judges the acceptor by the same rules. Only when both accept
//! does the first frame pass. A refusal names both sides of what does not match, so that each log
//! tells the whole story.
//!
//! Why incarnations? A member's id follows from its URLs, so a member whose disk was wiped comes
//! back under its old id with an empty log, and would vote a second time. Its data directory's
//! random number tells it apart. A member that has not published its incarnation yet is taken at
//! its first word and held to it (`PeerBook::pin`).

use crate::codec::varint::{put_bytes, put_strings, put_varint};
use crate::codec::{DecodeError, Reader};
use crate::types::{ClusterId, Incarnation, Member, NodeId};
use bytes::{BufMut, BytesMut};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// What this build speaks.
pub const PROTOCOL_VERSION: u32 = 1;
/// The oldest version that this build still understands.
pub const PROTOCOL_VERSION_MIN: u32 = 1;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StreamKind {
    /// Raft and node messages.
    Messages,
    /// Snapshots and whatever else may take its time.
    Bulk,
}

/// How one side of a stream introduces itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    pub protocol_version: u32,
    pub cluster: ClusterId,
    pub from: NodeId,
    /// Whom the sender believes to be at the other end.
    pub to: NodeId,
    pub incarnation: Incarnation,
    pub kind: StreamKind,
    pub server_version: String,
    /// Where the sender can be dialed: how a member that has fallen behind reaches one that it
    /// has not heard of.
    pub peer_urls: Vec<String>,
}

/// The acceptor's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HelloReply {
    pub hello: Hello,
    pub verdict: Verdict,
}

/// What this process is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalIdentity {
    pub cluster: ClusterId,
    pub node: NodeId,
    pub incarnation: Incarnation,
    pub server_version: String,
    pub peer_urls: Vec<String>,
}

impl LocalIdentity {
    pub fn hello(&self, to: NodeId, kind: StreamKind) -> Hello {
        Hello {
            protocol_version: PROTOCOL_VERSION,
            cluster: self.cluster,
            from: self.node,
            to,
            incarnation: self.incarnation,
            kind,
            server_version: self.server_version.clone(),
            peer_urls: self.peer_urls.clone(),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Accept,
    Refuse(Refusal),
}

/// Why a stream is refused. "Local" is the side that refuses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    ClusterIdMismatch {
        local: ClusterId,
        remote: ClusterId,
    },
    Version {
        local: u32,
        remote: u32,
    },
    /// The stream was meant for another member.
    WrongMember {
        wanted: NodeId,
        local: NodeId,
    },
    /// The other side says that it is this very member.
    OwnId {
        id: NodeId,
    },
    RemovedMember {
        id: NodeId,
    },
    UnknownMember {
        id: NodeId,
    },
    /// The right id with another data directory: a wiped, restored or copied one.
    IncarnationMismatch {
        id: NodeId,
        expected: Incarnation,
        found: Incarnation,
    },
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::ClusterIdMismatch { local, remote } => {
                write!(f, "cluster ID mismatch: local {local}, remote {remote}")
            }
            Refusal::Version { local, remote } => {
                write!(f, "incompatible peer protocol: local {local}, remote {remote}")
            }
            Refusal::WrongMember { wanted, local } => {
                write!(f, "the stream is for member {wanted}, this is member {local}")
            }
            Refusal::OwnId { id } => write!(f, "another process calls itself member {id}"),
            Refusal::RemovedMember { id } => {
                write!(f, "the member {id} has been permanently removed from the cluster")
            }
            Refusal::UnknownMember { id } => write!(f, "the member {id} is not known here"),
            Refusal::IncarnationMismatch { id, expected, found } => write!(
                f,
                "member {id} comes with another data directory ({found}, not {expected}): \
                 remove it and add it again"
            ),
        }
    }
}

impl std::error::Error for Refusal {}

/// What is known of one peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Known {
    /// As the cluster has agreed on it.
    published: Option<Incarnation>,
    /// As it introduced itself first, while nothing was published.
    pinned: Option<Incarnation>,
}

/// Whom this member would talk to. The node keeps it up to date as membership is applied.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerBook {
    known: BTreeMap<NodeId, Known>,
    removed: BTreeSet<NodeId>,
    admit_unknown: bool,
    /// For those who ask before they belong here.
    roster: Vec<Member>,
}

impl PeerBook {
    pub fn new() -> PeerBook {
        PeerBook::default()
    }

    /// A member, with its incarnation once that is published. Takes back a removal (a re-added
    /// id). A published incarnation replaces a pinned one.
    pub fn add(&mut self, id: NodeId, published: Option<Incarnation>) {
        self.removed.remove(&id);
        let known = self.known.entry(id).or_default();
        known.published = published;
        if published.is_some() {
            known.pinned = None;
        }
    }

    /// No member any more: it is refused, and told why.
    pub fn remove(&mut self, id: NodeId) {
        self.known.remove(&id);
        self.removed.insert(id);
    }

    /// Whether an id that is neither a member nor removed may talk. A member whose membership may
    /// be old has to allow it, or it could never hear from a leader that was added since; the
    /// cluster id still has to match.
    pub fn admit_unknown(&mut self, admit: bool) {
        self.admit_unknown = admit;
    }

    /// The membership as those are told who are about to join: without incarnations.
    pub fn set_roster<'a>(&mut self, members: impl IntoIterator<Item = &'a Member>) {
        let row = |member: &Member| Member { incarnation: None, ..member.clone() };
        self.roster = members.into_iter().map(row).collect();
    }

    pub fn roster(&self) -> &[Member] {
        &self.roster
    }

    pub fn is_known(&self, id: NodeId) -> bool {
        self.known.contains_key(&id)
    }

    pub fn is_removed(&self, id: NodeId) -> bool {
        self.removed.contains(&id)
    }

    /// The incarnation that the peer must have, if any is fixed.
    pub fn expected(&self, id: NodeId) -> Option<Incarnation> {
        self.known.get(&id).and_then(|known| known.published.or(known.pinned))
    }

    /// After a peer was accepted: if nothing is known of its incarnation, this is it from now on.
    pub fn pin(&mut self, id: NodeId, incarnation: Incarnation) {
        if let Some(known) = self.known.get_mut(&id)
            && known.published.is_none()
            && known.pinned.is_none()
        {
            known.pinned = Some(incarnation);
        }
    }
}

/// Whether the other side may talk to this one. The same rules for dialer and acceptor; `hello`
/// is what the other side said of itself.
pub fn judge(local: &LocalIdentity, known: &PeerBook, hello: &Hello) -> Verdict {
    let refusal = if hello.cluster != local.cluster {
        // First: whatever else does not match follows from it, and operators look for this one.
        Refusal::ClusterIdMismatch { local: local.cluster, remote: hello.cluster }
    } else if hello.protocol_version < PROTOCOL_VERSION_MIN {
        Refusal::Version { local: PROTOCOL_VERSION, remote: hello.protocol_version }
    } else if hello.to != local.node {
        Refusal::WrongMember { wanted: hello.to, local: local.node }
    } else if hello.from == local.node || hello.from.is_none() {
        Refusal::OwnId { id: hello.from }
    } else if known.is_removed(hello.from) {
        Refusal::RemovedMember { id: hello.from }
    } else if !known.is_known(hello.from) && !known.admit_unknown {
        Refusal::UnknownMember { id: hello.from }
    } else {
        match known.expected(hello.from) {
            Some(expected) if expected != hello.incarnation => {
                Refusal::IncarnationMismatch { id: hello.from, expected, found: hello.incarnation }
            }
            _ => return Verdict::Accept,
        }
    };
    Verdict::Refuse(refusal)
}

/// The dialer's side: the reply must come from whom was dialed, on the kind of stream asked for.
pub fn judge_reply(
    local: &LocalIdentity,
    known: &PeerBook,
    dialed: NodeId,
    reply: &HelloReply,
) -> Verdict {
    match judge(local, known, &reply.hello) {
        Verdict::Accept if reply.hello.from != dialed => {
            Verdict::Refuse(Refusal::WrongMember { wanted: dialed, local: reply.hello.from })
        }
        verdict => verdict,
    }
}

/// `version u32 | cluster u64 | from u64 | to u64 | incarnation u64 | kind | version | URLs`
pub fn encode_hello(hello: &Hello, out: &mut BytesMut) {
    let Hello { protocol_version, cluster, from, to, incarnation, kind, server_version, peer_urls } =
        hello;
    out.put_u32_le(*protocol_version);
    for id in [cluster.0, from.0, to.0, incarnation.0] {
        out.put_u64_le(id);
    }
    out.put_u8(match kind {
        StreamKind::Messages => 0,
        StreamKind::Bulk => 1,
    });
    put_bytes(out, server_version.as_bytes());
    put_strings(out, peer_urls);
}

pub fn decode_hello(r: &mut Reader<'_>) -> Result<Hello, DecodeError> {
    let protocol_version = r.u32_le("protocol version")?;
    let cluster = ClusterId(r.u64_le("cluster id")?);
    let (from, to) = (NodeId(r.u64_le("dialer's id")?), NodeId(r.u64_le("acceptor's id")?));
    let incarnation = Incarnation(r.u64_le("incarnation")?);
    let unknown = r.error("known kind of stream");
    let kind = match r.u8("kind of stream")? {
        0 => StreamKind::Messages,
        1 => StreamKind::Bulk,
        _ => return Err(unknown),
    };
    Ok(Hello {
        protocol_version,
        cluster,
        from,
        to,
        incarnation,
        kind,
        server_version: r.string("server version")?,
        peer_urls: r.list(1, "peer URLs", |r| r.string("peer URL"))?,
    })
}

/// A hello, then the verdict: 0 is accepted, anything else names a refusal.
pub fn encode_hello_reply(reply: &HelloReply, out: &mut BytesMut) {
    encode_hello(&reply.hello, out);
    let (tag, ids): (u8, Vec<u64>) = match &reply.verdict {
        Verdict::Accept => (0, vec![]),
        Verdict::Refuse(refusal) => match refusal {
            Refusal::ClusterIdMismatch { local, remote } => (1, vec![local.0, remote.0]),
            Refusal::Version { local, remote } => (2, vec![u64::from(*local), u64::from(*remote)]),
            Refusal::WrongMember { wanted, local } => (3, vec![wanted.0, local.0]),
            Refusal::OwnId { id } => (4, vec![id.0]),
            Refusal::RemovedMember { id } => (5, vec![id.0]),
            Refusal::UnknownMember { id } => (6, vec![id.0]),
            Refusal::IncarnationMismatch { id, expected, found } => {
                (7, vec![id.0, expected.0, found.0])
            }
        },
    };
    out.put_u8(tag);
    for id in ids {
        put_varint(out, id);
    }
}

pub fn decode_hello_reply(r: &mut Reader<'_>) -> Result<HelloReply, DecodeError> {
    let hello = decode_hello(r)?;
    let node = |r: &mut Reader<'_>| r.varint("member id").map(NodeId);
    let version = |r: &mut Reader<'_>| {
        let error = r.error("protocol version");
        r.varint("protocol version").and_then(|v| u32::try_from(v).map_err(|_| error))
    };
    let unknown = r.error("known verdict");
    let refusal = match r.u8("verdict")? {
        0 => return Ok(HelloReply { hello, verdict: Verdict::Accept }),
        1 => Refusal::ClusterIdMismatch {
            local: ClusterId(r.varint("cluster id")?),
            remote: ClusterId(r.varint("cluster id")?),
        },
        2 => Refusal::Version { local: version(r)?, remote: version(r)? },
        3 => Refusal::WrongMember { wanted: node(r)?, local: node(r)? },
        4 => Refusal::OwnId { id: node(r)? },
        5 => Refusal::RemovedMember { id: node(r)? },
        6 => Refusal::UnknownMember { id: node(r)? },
        7 => Refusal::IncarnationMismatch {
            id: node(r)?,
            expected: Incarnation(r.varint("incarnation")?),
            found: Incarnation(r.varint("incarnation")?),
        },
        _ => return Err(unknown),
    };
    Ok(HelloReply { hello, verdict: Verdict::Refuse(refusal) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use proptest::prelude::*;

    const CLUSTER: ClusterId = ClusterId(0xc1);
    const US: NodeId = NodeId(1);
    const PEER: NodeId = NodeId(2);
    const DIR: Incarnation = Incarnation(77);

    fn local() -> LocalIdentity {
        LocalIdentity {
            cluster: CLUSTER,
            node: US,
            incarnation: Incarnation(11),
            server_version: "3.6.0".into(),
            peer_urls: vec!["http://a:2380".into()],
        }
    }

    /// What a peer that belongs here says.
    fn hello() -> Hello {
        Hello {
            protocol_version: PROTOCOL_VERSION,
            cluster: CLUSTER,
            from: PEER,
            to: US,
            incarnation: DIR,
            kind: StreamKind::Messages,
            server_version: "3.6.0".into(),
            peer_urls: vec!["http://b:2380".into()],
        }
    }

    fn book(published: Option<Incarnation>) -> PeerBook {
        let mut book = PeerBook::new();
        book.add(PEER, published);
        book
    }

    fn refused(book: &PeerBook, hello: &Hello) -> Refusal {
        match judge(&local(), book, hello) {
            Verdict::Refuse(refusal) => refusal,
            Verdict::Accept => panic!("accepted {hello:?}"),
        }
    }

    #[test]
    fn each_rule_refuses_what_it_is_for() {
        let known = book(Some(DIR));
        assert_eq!(judge(&local(), &known, &hello()), Verdict::Accept);
        let other = ClusterId(0xc2);
        assert_eq!(
            refused(&known, &Hello { cluster: other, to: NodeId(9), ..hello() }),
            Refusal::ClusterIdMismatch { local: CLUSTER, remote: other },
            "before anything else"
        );
        assert_eq!(
            refused(&known, &Hello { protocol_version: 0, ..hello() }),
            Refusal::Version { local: PROTOCOL_VERSION, remote: 0 }
        );
        assert_eq!(
            refused(&known, &Hello { to: NodeId(3), ..hello() }),
            Refusal::WrongMember { wanted: NodeId(3), local: US }
        );
        assert_eq!(refused(&known, &Hello { from: US, ..hello() }), Refusal::OwnId { id: US });
        assert_eq!(
            refused(&known, &Hello { from: NodeId(8), ..hello() }),
            Refusal::UnknownMember { id: NodeId(8) }
        );
        assert_eq!(
            refused(&known, &Hello { incarnation: Incarnation(78), ..hello() }),
            Refusal::IncarnationMismatch { id: PEER, expected: DIR, found: Incarnation(78) }
        );
        // A newer peer decides for itself whether it can talk to an older one.
        let newer = Hello { protocol_version: PROTOCOL_VERSION + 1, ..hello() };
        assert_eq!(judge(&local(), &known, &newer), Verdict::Accept);
    }

    #[test]
    fn a_removed_member_stays_out_until_it_is_added_again() {
        let mut book = book(Some(DIR));
        book.remove(PEER);
        assert_eq!(refused(&book, &hello()), Refusal::RemovedMember { id: PEER });
        book.admit_unknown(true);
        assert_eq!(refused(&book, &hello()), Refusal::RemovedMember { id: PEER });
        book.add(PEER, None);
        assert_eq!(judge(&local(), &book, &hello()), Verdict::Accept);
    }

    #[test]
    fn an_unpublished_member_is_held_to_its_first_word() {
        let mut book = book(None);
        assert_eq!(judge(&local(), &book, &hello()), Verdict::Accept);
        book.pin(PEER, DIR);
        let wiped = Hello { incarnation: Incarnation(5), ..hello() };
        assert!(matches!(refused(&book, &wiped), Refusal::IncarnationMismatch { .. }));
        book.pin(PEER, Incarnation(5));
        assert_eq!(book.expected(PEER), Some(DIR), "the first word counts");
        book.add(PEER, None);
        assert_eq!(book.expected(PEER), Some(DIR), "being told again that it is a member");
        book.add(PEER, Some(Incarnation(5)));
        assert_eq!(judge(&local(), &book, &wiped), Verdict::Accept, "what is published wins");
        book.pin(PEER, DIR);
        assert_eq!(book.expected(PEER), Some(Incarnation(5)));
        book.remove(PEER);
        book.add(PEER, None);
        assert_eq!(book.expected(PEER), None, "added again, with a new directory");
    }

    #[test]
    fn a_stranger_of_the_same_cluster_may_be_let_in() {
        let mut book = PeerBook::new();
        assert!(matches!(refused(&book, &hello()), Refusal::UnknownMember { .. }));
        book.admit_unknown(true);
        assert_eq!(judge(&local(), &book, &hello()), Verdict::Accept);
        book.pin(PEER, DIR);
        assert_eq!(book.expected(PEER), None, "strangers are not remembered");
    }

    #[test]
    fn the_dialer_wants_the_one_it_dialed() {
        let book = {
            let mut book = book(Some(DIR));
            book.add(NodeId(3), None);
            book
        };
        let reply = |hello| HelloReply { hello, verdict: Verdict::Accept };
        let judged = |hello| judge_reply(&local(), &book, PEER, &reply(hello));
        assert_eq!(judged(hello()), Verdict::Accept);
        assert_eq!(
            judged(Hello { from: NodeId(3), ..hello() }),
            Verdict::Refuse(Refusal::WrongMember { wanted: PEER, local: NodeId(3) })
        );
        assert!(matches!(
            judged(Hello { cluster: ClusterId(1), ..hello() }),
            Verdict::Refuse(Refusal::ClusterIdMismatch { .. })
        ));
    }

    fn verdict() -> impl Strategy<Value = Verdict> {
        let id = || any::<u64>();
        let refusal = prop_oneof![
            (id(), id()).prop_map(|(a, b)| Refusal::ClusterIdMismatch {
                local: ClusterId(a),
                remote: ClusterId(b)
            }),
            any::<(u32, u32)>().prop_map(|(local, remote)| Refusal::Version { local, remote }),
            (id(), id())
                .prop_map(|(a, b)| Refusal::WrongMember { wanted: NodeId(a), local: NodeId(b) }),
            id().prop_map(|a| Refusal::OwnId { id: NodeId(a) }),
            id().prop_map(|a| Refusal::RemovedMember { id: NodeId(a) }),
            id().prop_map(|a| Refusal::UnknownMember { id: NodeId(a) }),
            (id(), id(), id()).prop_map(|(a, b, c)| Refusal::IncarnationMismatch {
                id: NodeId(a),
                expected: Incarnation(b),
                found: Incarnation(c)
            }),
        ];
        prop_oneof![Just(Verdict::Accept), refusal.prop_map(Verdict::Refuse)]
    }

    proptest! {
        #[test]
        fn greetings_round_trip_and_garbage_does_not_panic(
            verdict in verdict(),
            bulk in any::<bool>(),
            garbage in proptest::collection::vec(any::<u8>(), 0..120),
        ) {
            let kind = if bulk { StreamKind::Bulk } else { StreamKind::Messages };
            let reply = HelloReply { hello: Hello { kind, ..hello() }, verdict };
            let mut out = BytesMut::new();
            encode_hello_reply(&reply, &mut out);
            let bytes = out.freeze();
            let mut reader = Reader::new(&bytes);
            prop_assert_eq!(decode_hello_reply(&mut reader).unwrap(), reply);
            prop_assert!(reader.finish().is_ok());
            for len in 0..bytes.len() {
                prop_assert!(decode_hello_reply(&mut Reader::new(&bytes.slice(..len))).is_err());
            }
            let _ = decode_hello_reply(&mut Reader::new(&Bytes::from(garbage)));
        }
    }
}
