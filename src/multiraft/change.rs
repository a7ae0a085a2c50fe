//! What a configuration change of group 1 means for the membership, and the bytes that carry it.
//!
//! A change of several members at once goes through a joint configuration (thesis 4.3): from the
//! entry that enters it to the one that leaves it, the old voters and the new ones must both
//! agree. Who is added or promoted is a member from the first entry on; who is removed stays one
//! until the second, because its vote is still needed.

use super::root::RootState;
use crate::codec::member::{decode_member, encode_member};
use crate::codec::reader::Reader;
use crate::codec::varint::{put_bool, put_varint};
use crate::types::{ConfChange, ConfChangeKind, Member, NodeId, RequestId};
use bytes::{Bytes, BytesMut};
use std::collections::BTreeSet;

/// Members that one joint change may name; an operator's hand, not a program's.
pub const JOINT_CHANGES_MAX: usize = 32;

/// What a configuration change of group 1 means for the membership; the change's context.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RootChange {
    Add(Member),
    Remove(NodeId),
    Promote(NodeId),
    /// A voter becomes a learner. Only as part of a joint change.
    Demote(NodeId),
    UpdatePeerUrls {
        id: NodeId,
        peer_urls: Vec<String>,
    },
    /// Several at once, through a joint configuration.
    Joint {
        changes: Vec<RootChange>,
        auto_leave: bool,
    },
    /// Ends a joint configuration that does not end by itself.
    LeaveJoint,
    /// The members that this change removes are to leave every other group first; then the leader
    /// proposes the change itself.
    Depart(Box<RootChange>),
}

impl RootChange {
    /// The member it is about, or `NodeId::NONE` when it is about none or several.
    pub fn id(&self) -> NodeId {
        match self {
            RootChange::Add(member) => member.id,
            RootChange::Remove(id) | RootChange::Promote(id) | RootChange::Demote(id) => *id,
            RootChange::UpdatePeerUrls { id, .. } => *id,
            RootChange::Depart(change) => change.id(),
            RootChange::Joint { .. } | RootChange::LeaveJoint => NodeId::NONE,
        }
    }

    /// Whom the change removes.
    pub fn removes(&self) -> BTreeSet<NodeId> {
        match self {
            RootChange::Remove(id) => BTreeSet::from([*id]),
            RootChange::Joint { changes, .. } => {
                changes.iter().flat_map(RootChange::removes).collect()
            }
            RootChange::Depart(change) => change.removes(),
            _ => BTreeSet::new(),
        }
    }

    /// The configuration change that carries this one. `root` says what the members are now.
    pub fn conf_change(&self, request: RequestId, root: &RootState) -> ConfChange {
        let (joint, auto_leave) = match self {
            RootChange::Joint { auto_leave, .. } => (true, *auto_leave),
            _ => (false, false),
        };
        let changes = self.steps(root);
        ConfChange { changes, joint, auto_leave, context: encode_context(request, self) }
    }

    /// What raft is told.
    pub(super) fn steps(&self, root: &RootState) -> Vec<(ConfChangeKind, NodeId)> {
        let as_it_is = |id: &NodeId| match root.members.get(id) {
            Some(member) if member.is_learner => (ConfChangeKind::AddLearner, *id),
            _ => (ConfChangeKind::AddVoter, *id),
        };
        match self {
            RootChange::Add(member) if member.is_learner => {
                vec![(ConfChangeKind::AddLearner, member.id)]
            }
            RootChange::Add(member) => vec![(ConfChangeKind::AddVoter, member.id)],
            RootChange::Promote(id) => vec![(ConfChangeKind::AddVoter, *id)],
            RootChange::Demote(id) => vec![(ConfChangeKind::AddLearner, *id)],
            RootChange::Remove(id) => vec![(ConfChangeKind::Remove, *id)],
            // These change nothing for raft: the kind repeats what the member is.
            RootChange::UpdatePeerUrls { id, .. } => vec![as_it_is(id)],
            RootChange::Depart(change) => {
                change.removes().first().map(as_it_is).into_iter().collect()
            }
            RootChange::Joint { changes, .. } => {
                changes.iter().flat_map(|change| change.steps(root)).collect()
            }
            RootChange::LeaveJoint => Vec::new(),
        }
    }
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
    let change = decode_change(&mut reader, 0)?;
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
        RootChange::Demote(id) => {
            put_varint(out, 5);
            put_varint(out, id.0);
        }
        RootChange::Joint { changes, auto_leave } => {
            put_varint(out, 6);
            put_bool(out, *auto_leave);
            put_varint(out, changes.len() as u64);
            changes.iter().for_each(|change| encode_change(change, out));
        }
        RootChange::LeaveJoint => put_varint(out, 7),
        RootChange::Depart(change) => {
            put_varint(out, 8);
            encode_change(change, out);
        }
    }
}

/// A departure holds a joint change, which holds plain ones: no deeper.
const DEPTH_MAX: usize = 2;

fn decode_change(reader: &mut Reader, depth: usize) -> Option<RootChange> {
    if depth > DEPTH_MAX {
        return None;
    }
    Some(match reader.varint("change").ok()? {
        1 => RootChange::Add(decode_member(reader).ok()?),
        2 => RootChange::Remove(NodeId(reader.varint("member id").ok()?)),
        3 => RootChange::Promote(NodeId(reader.varint("member id").ok()?)),
        4 => {
            let row = decode_member(reader).ok()?;
            RootChange::UpdatePeerUrls { id: row.id, peer_urls: row.peer_urls }
        }
        5 => RootChange::Demote(NodeId(reader.varint("member id").ok()?)),
        6 => {
            let auto_leave = reader.bool("auto-leave flag").ok()?;
            let count = reader.varint("number of changes").ok()? as usize;
            if count > JOINT_CHANGES_MAX {
                return None;
            }
            let changes =
                (0..count).map(|_| decode_change(reader, depth + 1)).collect::<Option<_>>()?;
            RootChange::Joint { changes, auto_leave }
        }
        7 => RootChange::LeaveJoint,
        8 => RootChange::Depart(Box::new(decode_change(reader, depth + 1)?)),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_context_survives_the_log() {
        let id = RequestId { origin: 7, seq: 9 };
        let add = RootChange::Add(Member { id: NodeId(5), ..Member::default() });
        let joint = RootChange::Joint {
            changes: vec![
                add.clone(),
                RootChange::Remove(NodeId(3)),
                RootChange::Demote(NodeId(4)),
            ],
            auto_leave: true,
        };
        assert_eq!(joint.removes(), BTreeSet::from([NodeId(3)]));
        let depart = RootChange::Depart(Box::new(joint.clone()));
        for change in [add, joint, depart, RootChange::LeaveJoint, RootChange::Promote(NodeId(1))] {
            assert_eq!(decode_context(&encode_context(id, &change)), Some((id, change)));
        }
        let mut deep = RootChange::LeaveJoint;
        for _ in 0..4 {
            deep = RootChange::Depart(Box::new(deep));
        }
        assert_eq!(decode_context(&encode_context(id, &deep)), None, "no stack is spent on it");
    }
}
