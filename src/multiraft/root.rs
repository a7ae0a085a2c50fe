//! The membership of the cluster, as group 1 has replicated it.
//!
//! It lives in a tree of its own (group 1, kind 10), outside the default keyspace's revisions,
//! hash and quota, together with the catalogue of groups (`catalogue`). It changes in two ways
//! only: a configuration change of group 1, whose context says what it means (`RootChange`), and
//! commands that are the root's own. Both are checked here, at apply, so that every node gives
//! the same verdict; what a leader checks before it proposes (health, strict reconfiguration) is
//! `node::membership`'s.
//!
//! A removed id is remembered for ever. An incarnation is bound once: another data directory that
//! claims the same id is refused until the operator has removed and added the member again (which
//! gives it a new id).
//!
//! Where there are further groups, a member is removed in two entries: the first makes it
//! *departing*, and the leaders of the other groups take it out of their configurations; the
//! second, which the leader of group 1 proposes once they have, is the removal. So a group never
//! counts on a voter that the cluster no longer lets speak.

use super::catalogue::Catalogue;
use super::change::{RootChange, decode_context, encode_context};
use crate::btree::Tree;
use crate::codec::member::{decode_member, encode_member};
use crate::codec::reader::Reader;
use crate::types::{
    ApiError, ConfChange, ConfState, Incarnation, Member, NodeId, RequestId, StorageError,
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
    /// The change that removes the departing members, and who waits for it. While group 1's
    /// configuration is joint it is the change that entered it.
    pub departing: Option<(RequestId, RootChange)>,
    pub catalogue: Catalogue,
    /// The version that the cluster was told to go down to; empty if it was not.
    pub downgrade: String,
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
        RootState { members, ..RootState::default() }
    }

    pub fn voters(&self) -> impl Iterator<Item = &Member> {
        self.members.values().filter(|member| !member.is_learner)
    }

    /// Members that are about to be removed.
    pub fn departing(&self) -> BTreeSet<NodeId> {
        self.departing.as_ref().map(|(_, change)| change.removes()).unwrap_or_default()
    }

    /// The checks that belong at apply: they look at nothing but the replicated membership.
    pub fn check(&self, change: &RootChange) -> Result<(), ApiError> {
        match change {
            RootChange::LeaveJoint => return Ok(()),
            RootChange::Joint { changes, .. } => return self.check_joint(changes),
            RootChange::Depart(change) => {
                if self.departing.is_some() || matches!(**change, RootChange::Depart(_)) {
                    return Err(ApiError::Unhealthy);
                }
                // Until the change is made the further groups have nobody but those who stay.
                let leaving = change.removes();
                if self.voters().all(|member| leaving.contains(&member.id)) {
                    return Err(ApiError::NotEnoughStarted);
                }
                return self.check(change);
            }
            // Who is on its way out is left alone until it is gone.
            RootChange::Promote(id) | RootChange::UpdatePeerUrls { id, .. }
                if self.departing().contains(id) =>
            {
                return Err(ApiError::MemberNotFound);
            }
            _ => {}
        }
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
                // An id is never used twice; etcd calls one that was removed "not found" even here.
                if self.removed.contains(&id) {
                    return Err(ApiError::MemberNotFound);
                }
                if self.members.contains_key(&id) {
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
            RootChange::Demote(_)
            | RootChange::Joint { .. }
            | RootChange::LeaveJoint
            | RootChange::Depart(_) => return Err(ApiError::MemberNotFound),
        }
        Ok(())
    }

    /// A joint change: plain ones about different members, each of which could be made, and
    /// somebody is left to vote.
    fn check_joint(&self, changes: &[RootChange]) -> Result<(), ApiError> {
        let mut after = self.clone();
        let mut seen = BTreeSet::new();
        for change in changes {
            let id = change.id();
            if !seen.insert(id) {
                return Err(ApiError::MemberIdExists);
            }
            match change {
                RootChange::Demote(id) => {
                    let member = after.members.get_mut(id).ok_or(ApiError::MemberNotFound)?;
                    if std::mem::replace(&mut member.is_learner, true) {
                        return Err(ApiError::NotSupportedForLearner);
                    }
                }
                RootChange::Remove(id) => {
                    after.members.remove(id).ok_or(ApiError::MemberNotFound)?;
                }
                RootChange::Add(member) => {
                    self.check(change)?;
                    after.check(change)?;
                    after.members.insert(id, member.clone());
                }
                RootChange::Promote(_) => {
                    self.check(change)?;
                    after.member_mut(id).is_learner = false;
                }
                _ => return Err(ApiError::MemberNotFound),
            }
        }
        if changes.is_empty() || after.voters().next().is_none() {
            return Err(ApiError::NotEnoughStarted);
        }
        Ok(())
    }

    /// Checks a committed configuration change against the membership. `Ok(true)` when raft's
    /// configuration changes with it.
    pub fn verdict(&self, conf: &ConfChange, change: &RootChange) -> Result<bool, ApiError> {
        self.check(change)?;
        let joint = matches!(change, RootChange::Joint { .. });
        if conf.changes != change.steps(self) || conf.joint != joint {
            return Err(ApiError::MemberNotFound);
        }
        Ok(!matches!(change, RootChange::UpdatePeerUrls { .. } | RootChange::Depart(_)))
    }

    /// Makes the change, which `check` has accepted. `conf` is group 1's configuration behind it.
    pub fn apply(
        &mut self,
        tree: &mut Tree,
        request: RequestId,
        change: RootChange,
        conf: &ConfState,
    ) -> Result<(), StorageError> {
        let done = match &change {
            RootChange::Remove(id) => self.departing().contains(id),
            change => self.departing.as_ref().is_some_and(|(_, departing)| departing == change),
        };
        if done {
            self.set_departing(tree, None)?;
        }
        match change {
            RootChange::Joint { ref changes, .. } => {
                for change in changes {
                    if !matches!(change, RootChange::Remove(_)) {
                        self.apply_plain(tree, change.clone())?;
                    }
                }
                if conf.is_joint() {
                    // Whom it removes goes on voting until the configuration is left.
                    self.set_departing(tree, Some((request, change)))?;
                } else {
                    self.left_joint(tree, conf, change.removes())?;
                }
                Ok(())
            }
            RootChange::Depart(change) => self.set_departing(tree, Some((request, *change))),
            RootChange::LeaveJoint => self.on_left_joint(tree, conf),
            plain => self.apply_plain(tree, plain),
        }
    }

    /// The change that the members were departing for was refused: they stay.
    pub fn refused(&mut self, tree: &mut Tree, change: &RootChange) -> Result<bool, StorageError> {
        let over = self.departing.as_ref().is_some_and(|(_, departing)| departing == change);
        if over {
            self.set_departing(tree, None)?;
        }
        Ok(over)
    }

    /// Group 1's joint configuration has ended: whom it removed is gone.
    pub fn on_left_joint(&mut self, tree: &mut Tree, conf: &ConfState) -> Result<(), StorageError> {
        let removed = self.departing();
        self.set_departing(tree, None)?;
        self.left_joint(tree, conf, removed)
    }

    fn left_joint(
        &mut self,
        tree: &mut Tree,
        conf: &ConfState,
        removed: BTreeSet<NodeId>,
    ) -> Result<(), StorageError> {
        let members = conf.members();
        for id in removed.into_iter().filter(|id| !members.contains(id)) {
            self.apply_plain(tree, RootChange::Remove(id))?;
        }
        Ok(())
    }

    fn set_departing(
        &mut self,
        tree: &mut Tree,
        departing: Option<(RequestId, RootChange)>,
    ) -> Result<(), StorageError> {
        let row = row(DEPARTING, 0);
        match &departing {
            Some((request, change)) => {
                tree.put(&row, encode_context(*request, change), true)?;
            }
            None => {
                tree.remove(&row)?;
            }
        }
        self.departing = departing;
        Ok(())
    }

    fn apply_plain(&mut self, tree: &mut Tree, change: RootChange) -> Result<(), StorageError> {
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
            RootChange::Demote(_) => {
                self.member_mut(id).is_learner = true;
            }
            RootChange::UpdatePeerUrls { peer_urls, .. } => {
                self.member_mut(id).peer_urls = peer_urls;
            }
            RootChange::Joint { .. } | RootChange::LeaveJoint | RootChange::Depart(_) => {
                unreachable!("no plain change: see `apply`")
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
            self.apply_plain(tree, RootChange::Remove(other))?;
        }
        self.set_departing(tree, None)?;
        self.apply_plain(tree, RootChange::Promote(id))
    }

    /// Notes the version to go down to; an empty one ends that.
    pub fn set_downgrade(&mut self, tree: &mut Tree, target: String) -> Result<(), StorageError> {
        let row = row(DOWNGRADE, 0);
        if target.is_empty() {
            tree.remove(&row)?;
        } else {
            tree.put(&row, Bytes::copy_from_slice(target.as_bytes()), true)?;
        }
        self.downgrade = target;
        Ok(())
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
            let number = <[u8; 8]>::try_from(id).map_err(|_| damaged("a key of another form"))?;
            let number = u64::from_be_bytes(number);
            let id = NodeId(number);
            match *tag {
                MEMBER => {
                    let member = decode_member(&mut Reader::new(&value))
                        .map_err(|error| damaged(error.what))?;
                    root.members.insert(id, member);
                }
                REMOVED => {
                    root.removed.insert(id);
                }
                DEPARTING => {
                    let departing = decode_context(&value);
                    root.departing = Some(departing.ok_or_else(|| damaged("an unknown change"))?);
                }
                DOWNGRADE => {
                    let text = std::str::from_utf8(&value).map_err(|_| damaged("no version"))?;
                    root.downgrade = text.to_string();
                }
                tag => root.catalogue.load_row(tag, number, &value).map_err(damaged)?,
            }
        }
        Ok(root)
    }

    /// Writes every row: for a new cluster's first checkpoint.
    pub fn store_all(&self, tree: &mut Tree) -> Result<(), StorageError> {
        for &id in self.members.keys().chain(&self.removed) {
            self.store(tree, id)?;
        }
        self.catalogue.store_all(tree)
    }

    fn member_mut(&mut self, id: NodeId) -> &mut Member {
        self.members.get_mut(&id).expect("the change was checked against this membership")
    }

    fn store(&self, tree: &mut Tree, id: NodeId) -> Result<(), StorageError> {
        match self.members.get(&id) {
            Some(member) => {
                let mut bytes = BytesMut::new();
                encode_member(member, &mut bytes);
                tree.put(&row(MEMBER, id.0), bytes.freeze(), true)?;
            }
            None => {
                tree.remove(&row(MEMBER, id.0))?;
                assert!(self.removed.contains(&id), "a row is rewritten for a known id");
                tree.put(&row(REMOVED, id.0), Bytes::new(), true)?;
            }
        }
        Ok(())
    }
}

const MEMBER: u8 = b'm';
const REMOVED: u8 = b'r';
const DEPARTING: u8 = b'd';
const DOWNGRADE: u8 = b'v';

pub(super) fn row(tag: u8, id: u64) -> [u8; 9] {
    let mut key = [tag; 9];
    key[1..].copy_from_slice(&id.to_be_bytes());
    key
}
