//! The catalogue of groups, replicated in group 1: which keyspaces exist besides the default one.
//!
//! It alone creates a replica, and ends one; a message never does. An id is given out once: a
//! late message, an old log or an old checkpoint of a destroyed group can never be taken for a
//! younger one's.
//!
//! A group is born with the voters of its creation, at one fixed point of its log. A member of
//! that time begins there, whenever it hears of the group, for it cannot have voted in it before;
//! a member that came later begins with nothing and is filled by the group's leader.

use super::root::{RootState, row};
use crate::btree::Tree;
use crate::codec::reader::Reader;
use crate::codec::varint::put_varint;
use crate::types::{ApiError, GroupId, NodeId, StorageError, limits};
use bytes::{Bytes, BytesMut};
use std::collections::{BTreeMap, BTreeSet};

/// The further groups at one applied index of group 1.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Catalogue {
    /// Each with the voters it was born with.
    pub groups: BTreeMap<GroupId, BTreeSet<NodeId>>,
    /// The newest id ever given out; 0 before the first.
    pub newest: GroupId,
}

const GROUP: u8 = b'g';
const NEWEST: u8 = b'n';

impl Catalogue {
    /// The catalogue of a new cluster, whose first members found these groups.
    pub fn founded(groups: impl IntoIterator<Item = GroupId>, voters: &[NodeId]) -> Catalogue {
        let born: BTreeSet<NodeId> = voters.iter().copied().collect();
        let further = groups.into_iter().filter(|group| *group != GroupId::ROOT);
        let groups: BTreeMap<_, _> = further.map(|group| (group, born.clone())).collect();
        let newest = groups.keys().next_back().copied().unwrap_or(GroupId::ROOT);
        Catalogue { groups, newest }
    }

    /// Whether the id was given out and taken back.
    pub fn is_destroyed(&self, group: GroupId) -> bool {
        group != GroupId::ROOT && group <= self.newest && !self.groups.contains_key(&group)
    }

    pub(super) fn load_row(&mut self, tag: u8, id: u64, value: &Bytes) -> Result<(), &'static str> {
        let mut reader = Reader::new(value);
        match tag {
            GROUP => {
                let voter = |r: &mut Reader<'_>| Ok(NodeId(r.varint("voter")?));
                let voters =
                    reader.list(1, "voters", voter).map_err(|_| "a group without voters")?;
                self.groups.insert(GroupId(id), voters.into_iter().collect());
            }
            NEWEST => self.newest = GroupId(id),
            _ => return Err("an unknown tag"),
        }
        Ok(())
    }

    pub(super) fn store_all(&self, tree: &mut Tree) -> Result<(), StorageError> {
        for &group in self.groups.keys() {
            self.store(tree, group)?;
        }
        self.store_newest(tree, GroupId::default())
    }

    fn store(&self, tree: &mut Tree, group: GroupId) -> Result<(), StorageError> {
        match self.groups.get(&group) {
            Some(voters) => {
                let mut out = BytesMut::new();
                put_varint(&mut out, voters.len() as u64);
                voters.iter().for_each(|id| put_varint(&mut out, id.0));
                tree.put(&row(GROUP, group.0), out.freeze(), true)?;
            }
            None => {
                tree.remove(&row(GROUP, group.0))?;
            }
        }
        Ok(())
    }

    fn store_newest(&self, tree: &mut Tree, before: GroupId) -> Result<(), StorageError> {
        tree.remove(&row(NEWEST, before.0))?;
        tree.put(&row(NEWEST, self.newest.0), Bytes::new(), true)?;
        Ok(())
    }
}

impl RootState {
    /// A further group of today's voters, save those about to leave.
    pub fn create_group(
        &mut self,
        tree: &mut Tree,
    ) -> Result<Result<GroupId, ApiError>, StorageError> {
        if self.catalogue.groups.len() >= limits::GROUPS_MAX {
            return Ok(Err(ApiError::NoSpace));
        }
        let departing = self.departing();
        let mut voters: BTreeSet<NodeId> = self.voters().map(|member| member.id).collect();
        voters.retain(|id| !departing.contains(id));
        if voters.is_empty() {
            return Ok(Err(ApiError::NotEnoughStarted));
        }
        let before = self.catalogue.newest;
        let group = GroupId(before.0.max(GroupId::ROOT.0) + 1);
        self.catalogue.newest = group;
        self.catalogue.groups.insert(group, voters);
        self.catalogue.store(tree, group)?;
        self.catalogue.store_newest(tree, before)?;
        Ok(Ok(group))
    }

    pub fn destroy_group(
        &mut self,
        tree: &mut Tree,
        group: GroupId,
    ) -> Result<Result<(), ApiError>, StorageError> {
        if self.catalogue.groups.remove(&group).is_none() {
            return Ok(Err(ApiError::MemberNotFound));
        }
        self.catalogue.store(tree, group)?;
        Ok(Ok(()))
    }
}
