//! The membership of the cluster, as group 1 has replicated it.
//!
//! It lives in a tree of its own (group 1, kind 10), outside the default keyspace's revisions,
//! hash and quota. It changes in two ways only: a configuration change of group 1, whose context
//! says what it means (`RootChange`), and a member's publication of itself. Both are checked
//! here, at apply, so that every node gives the same verdict; what a leader checks before it
//! proposes (health, strict reconfiguration) is `node::membership`'s.
//!
//! A removed id is remembered for ever. An incarnation is bound once: another data directory that
//! claims the same id is refused until the operator has removed and added the member again (which
//! gives it a new id).

use crate::btree::Tree;
use crate::codec::member::{decode_member, encode_member};
use crate::codec::reader::Reader;
use crate::codec::varint::put_varint;
use crate::types::{
    ApiError, ConfChange, ConfChangeKind, Incarnation, Member, NodeId, RequestId, StorageError,
};
use bytes::{Bytes, BytesMut};
use std::collections::{BTreeMap, BTreeSet};

/// The tree kind of the membership, in group 1.
pub const ROOT_TREE: u8 = 10;

/// The membership at one applied index.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RootState {
    pub members: BTreeMap<NodeId, Member>,
    /// Ids that were members and never will be again. Disjoint from `members`.
    pub removed: BTreeSet<NodeId>,
}

/// What a configuration change of group 1 means for the membership; the change's context.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RootChange {
    Add(Member),
    Remove(NodeId),
    Promote(NodeId),
    UpdatePeerUrls { id: NodeId, peer_urls: Vec<String> },
}

impl RootChange {
    pub fn id(&self) -> NodeId {
        match self {
            RootChange::Add(member) => member.id,
            RootChange::Remove(id) | RootChange::Promote(id) => *id,
            RootChange::UpdatePeerUrls { id, .. } => *id,
        }
    }

    /// The configuration change that carries this one. `root` says what the member is now.
    pub fn conf_change(&self, request: RequestId, root: &RootState) -> ConfChange {
        ConfChange {
            changes: vec![(self.kind(root), self.id())],
            context: encode_context(request, self),
            ..ConfChange::default()
        }
    }

    fn kind(&self, root: &RootState) -> ConfChangeKind {
        match self {
            RootChange::Add(member) if member.is_learner => ConfChangeKind::AddLearner,
            RootChange::Add(_) | RootChange::Promote(_) => ConfChangeKind::AddVoter,
            RootChange::Remove(_) => ConfChangeKind::Remove,
            // New addresses change nothing for raft: the kind repeats what the member is.
            RootChange::UpdatePeerUrls { id, .. } => match root.members.get(id) {
                Some(member) if member.is_learner => ConfChangeKind::AddLearner,
                _ => ConfChangeKind::AddVoter,
            },
        }
    }
}

impl RootState {
    /// The members as a new cluster starts: none has published itself.
    pub fn founded(members: impl IntoIterator<Item = Member>) -> RootState {
        let members = members
            .into_iter()
            .map(|m| {
                (m.id, Member { name: String::new(), client_urls: vec![], incarnation: None, ..m })
            })
            .collect();
        RootState { members, removed: BTreeSet::new() }
    }

    pub fn voters(&self) -> impl Iterator<Item = &Member> {
        self.members.values().filter(|member| !member.is_learner)
    }

    /// Whether so many voters have bound their data directories that no minority of wiped disks
    /// can pass for a quorum.
    pub fn is_quorum_bound(&self) -> bool {
        let bound = self.voters().filter(|member| member.incarnation.is_some()).count();
        bound > self.voters().count() / 2
    }

    /// The checks that belong at apply: they look at nothing but the replicated membership.
    pub fn check(&self, change: &RootChange) -> Result<(), ApiError> {
        let id = change.id();
        if id.is_none() {
            return Err(ApiError::MemberNotFound);
        }
        let url_taken = |urls: &[String]| {
            let others = self.members.values().filter(|member| member.id != id);
            others.flat_map(|member| &member.peer_urls).any(|url| urls.contains(url))
        };
        match change {
            RootChange::Add(member) => {
                if self.members.contains_key(&id) || self.removed.contains(&id) {
                    return Err(ApiError::MemberIdExists);
                }
                if url_taken(&member.peer_urls) {
                    return Err(ApiError::PeerUrlExists);
                }
            }
            RootChange::Remove(_) => {
                let member = self.members.get(&id).ok_or(ApiError::MemberNotFound)?;
                if !member.is_learner && self.voters().count() == 1 {
                    return Err(ApiError::NotEnoughStarted);
                }
            }
            RootChange::Promote(_) => {
                let member = self.members.get(&id).ok_or(ApiError::MemberNotFound)?;
                if !member.is_learner {
                    return Err(ApiError::NotLearner);
                }
            }
            RootChange::UpdatePeerUrls { peer_urls, .. } => {
                if !self.members.contains_key(&id) {
                    return Err(ApiError::MemberNotFound);
                }
                if url_taken(peer_urls) {
                    return Err(ApiError::PeerUrlExists);
                }
            }
        }
        Ok(())
    }

    /// Checks a committed configuration change against the membership. `Ok(true)` when raft's
    /// configuration changes with it.
    pub fn verdict(&self, conf: &ConfChange, change: &RootChange) -> Result<bool, ApiError> {
        self.check(change)?;
        if conf.changes != [(change.kind(self), change.id())] || conf.joint {
            return Err(ApiError::MemberNotFound);
        }
        Ok(!matches!(change, RootChange::UpdatePeerUrls { .. }))
    }

    /// Makes the change, which `check` has accepted.
    pub fn apply(&mut self, tree: &mut Tree, change: RootChange) -> Result<(), StorageError> {
        let id = change.id();
        match change {
            RootChange::Add(member) => {
                let member = Member {
                    name: String::new(),
                    client_urls: vec![],
                    incarnation: None,
                    ..member
                };
                self.members.insert(id, member);
            }
            RootChange::Remove(_) => {
                self.members.remove(&id);
                self.removed.insert(id);
            }
            RootChange::Promote(_) => {
                self.member_mut(id).is_learner = false;
            }
            RootChange::UpdatePeerUrls { peer_urls, .. } => {
                self.member_mut(id).peer_urls = peer_urls;
            }
        }
        self.store(tree, id)
    }

    /// A member tells its name and addresses and binds its data directory.
    pub fn publish(
        &mut self,
        tree: &mut Tree,
        id: NodeId,
        name: String,
        client_urls: Vec<String>,
        incarnation: Incarnation,
    ) -> Result<Result<(), ApiError>, StorageError> {
        let Some(member) = self.members.get_mut(&id) else {
            return Ok(Err(ApiError::MemberNotFound));
        };
        if incarnation.is_none() || member.incarnation.is_some_and(|bound| bound != incarnation) {
            return Ok(Err(ApiError::MemberIdExists));
        }
        member.name = name;
        member.client_urls = client_urls;
        member.incarnation = Some(incarnation);
        self.store(tree, id)?;
        Ok(Ok(()))
    }

    /// Leaves `id` as the only member, a voter; the others count as removed. For the operator
    /// who has lost them for good.
    pub fn keep_only(&mut self, tree: &mut Tree, id: NodeId) -> Result<(), StorageError> {
        let others: Vec<NodeId> = self.members.keys().copied().filter(|m| *m != id).collect();
        for other in others {
            self.apply(tree, RootChange::Remove(other))?;
        }
        self.apply(tree, RootChange::Promote(id))
    }

    /// Reads the membership back from its tree.
    pub fn load(tree: &Tree) -> Result<RootState, StorageError> {
        let mut root = RootState::default();
        let mut cursor = tree.view().cursor();
        cursor.seek_first()?;
        while let Some((key, value, _live)) = cursor.next()? {
            let damaged = |found: &str| {
                StorageError::corrupt("member/snap/db", 0, "a row of the membership", found)
            };
            let Some((tag, id)) = key.split_first() else {
                return Err(damaged("an empty key"));
            };
            let id = <[u8; 8]>::try_from(id).map_err(|_| damaged("a key of another form"))?;
            let id = NodeId(u64::from_be_bytes(id));
            match *tag {
                MEMBER => {
                    let member = decode_member(&mut Reader::new(&value))
                        .map_err(|error| damaged(error.what))?;
                    root.members.insert(id, member);
                }
                REMOVED => {
                    root.removed.insert(id);
                }
                _ => return Err(damaged("an unknown tag")),
            }
        }
        Ok(root)
    }

    /// Writes every row: for a new cluster's first checkpoint.
    pub fn store_all(&self, tree: &mut Tree) -> Result<(), StorageError> {
        for &id in self.members.keys().chain(&self.removed) {
            self.store(tree, id)?;
        }
        Ok(())
    }

    fn member_mut(&mut self, id: NodeId) -> &mut Member {
        self.members.get_mut(&id).expect("the change was checked against this membership")
    }

    fn store(&self, tree: &mut Tree, id: NodeId) -> Result<(), StorageError> {
        match self.members.get(&id) {
            Some(member) => {
                let mut bytes = BytesMut::new();
                encode_member(member, &mut bytes);
                tree.put(&row(MEMBER, id), bytes.freeze(), true)?;
            }
            None => {
                tree.remove(&row(MEMBER, id))?;
                assert!(self.removed.contains(&id), "a row is rewritten for a known id");
                tree.put(&row(REMOVED, id), Bytes::new(), true)?;
            }
        }
        Ok(())
    }
}

const MEMBER: u8 = b'm';
const REMOVED: u8 = b'r';

fn row(tag: u8, id: NodeId) -> [u8; 9] {
    let mut key = [tag; 9];
    key[1..].copy_from_slice(&id.0.to_be_bytes());
    key
}

/// The context of a configuration change: who waits for it, and what it means.
pub fn encode_context(request: RequestId, change: &RootChange) -> Bytes {
    let mut out = BytesMut::new();
    put_varint(&mut out, request.origin);
    put_varint(&mut out, request.seq);
    encode_change(change, &mut out);
    out.freeze()
}

/// `None` for bytes that are no context: such a change is refused by every node alike.
pub fn decode_context(bytes: &Bytes) -> Option<(RequestId, RootChange)> {
    let mut reader = Reader::new(bytes);
    let request = RequestId {
        origin: reader.varint("request origin").ok()?,
        seq: reader.varint("request number").ok()?,
    };
    let change = decode_change(&mut reader)?;
    Some((request, change))
}

fn encode_change(change: &RootChange, out: &mut BytesMut) {
    match change {
        RootChange::Add(member) => {
            put_varint(out, 1);
            encode_member(member, out);
        }
        RootChange::Remove(id) => {
            put_varint(out, 2);
            put_varint(out, id.0);
        }
        RootChange::Promote(id) => {
            put_varint(out, 3);
            put_varint(out, id.0);
        }
        RootChange::UpdatePeerUrls { id, peer_urls } => {
            put_varint(out, 4);
            // A member row carries ids and URLs already; the other fields stay empty.
            let row = Member { id: *id, peer_urls: peer_urls.clone(), ..Member::default() };
            encode_member(&row, out);
        }
    }
}

fn decode_change(reader: &mut Reader) -> Option<RootChange> {
    Some(match reader.varint("change").ok()? {
        1 => RootChange::Add(decode_member(reader).ok()?),
        2 => RootChange::Remove(NodeId(reader.varint("member id").ok()?)),
        3 => RootChange::Promote(NodeId(reader.varint("member id").ok()?)),
        4 => {
            let row = decode_member(reader).ok()?;
            RootChange::UpdatePeerUrls { id: row.id, peer_urls: row.peer_urls }
        }
        _ => return None,
    })
}
