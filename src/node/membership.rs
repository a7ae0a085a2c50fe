//! Who is in the cluster: etcd's member and cluster ids, and the checks a leader makes before it
//! proposes a change. What belongs at apply is `multiraft::root`'s.

use crate::codec::member::{decode_member, encode_member};
use crate::codec::reader::Reader;
use crate::codec::varint::{put_bool, put_bytes, put_strings, put_varint};
use crate::multiraft::change::{JOINT_CHANGES_MAX, RootChange};
use crate::multiraft::root::RootState;
use crate::types::{ApiError, ClusterId, Member, NodeId};
use bytes::{Bytes, BytesMut};
use sha1::{Digest, Sha1};
use std::collections::BTreeSet;

/// A change of the membership as an operator asks for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MembershipChange {
    /// `unix_seconds` goes into the new member's id, as etcd does it.
    Add {
        peer_urls: Vec<String>,
        learner: bool,
        unix_seconds: u64,
    },
    Remove {
        id: NodeId,
    },
    Promote {
        id: NodeId,
    },
    UpdatePeerUrls {
        id: NodeId,
        peer_urls: Vec<String>,
    },
    /// A voter becomes a learner; as part of a joint change.
    Demote {
        id: NodeId,
    },
    /// Several members at once, through a joint configuration. Without `auto_leave` that is in
    /// force until `LeaveJoint`.
    Joint {
        changes: Vec<MembershipChange>,
        auto_leave: bool,
    },
    LeaveJoint,
}

/// etcd's member id: the head of SHA-1 over the sorted peer URLs, the token, and for members
/// added later the time in decimal seconds (with an empty token).
pub fn member_id(peer_urls: &[String], token: &str, unix_seconds: Option<u64>) -> NodeId {
    let mut urls: Vec<&String> = peer_urls.iter().collect();
    urls.sort();
    let mut hash = Sha1::new();
    for url in urls {
        hash.update(url.as_bytes());
    }
    hash.update(token.as_bytes());
    if let Some(seconds) = unix_seconds {
        hash.update(seconds.to_string().as_bytes());
    }
    NodeId(head(&hash.finalize()))
}

/// etcd's cluster id: the head of SHA-1 over the first members' ids, ascending.
pub fn cluster_id(members: impl IntoIterator<Item = NodeId>) -> ClusterId {
    let ids: BTreeSet<NodeId> = members.into_iter().collect();
    let mut hash = Sha1::new();
    for id in ids {
        hash.update(id.0.to_be_bytes());
    }
    ClusterId(head(&hash.finalize()))
}

fn head(digest: &[u8]) -> u64 {
    let head: [u8; 8] = digest[..8].try_into().expect("SHA-1 has 20 bytes");
    u64::from_be_bytes(head)
}

/// What the leader knows of the others, for its checks.
#[derive(Clone, Debug, Default)]
pub struct Health {
    pub strict: bool,
    pub learners_max: usize,
    /// Members (the leader itself included) that have been connected for long enough.
    pub connected: BTreeSet<NodeId>,
    /// Members (the leader itself included) that are connected at all.
    pub up: BTreeSet<NodeId>,
    /// Per other member how far its log is known to equal the leader's, and the leader's own.
    pub matched: Vec<(NodeId, u64)>,
    pub leader_matched: u64,
}

/// The change in the root's terms, if the leader may propose it. The order of the checks is
/// etcd's, since clients see which one fails first.
pub fn check_change(
    root: &RootState,
    change: MembershipChange,
    health: &Health,
) -> Result<RootChange, ApiError> {
    let change = match change {
        MembershipChange::Add { mut peer_urls, learner, unix_seconds } => {
            check_urls(&peer_urls)?;
            peer_urls.sort();
            let id = member_id(&peer_urls, "", Some(unix_seconds));
            let member = Member { id, peer_urls, is_learner: learner, ..Member::default() };
            if health.strict {
                if !learner {
                    check_add_voter(root)?;
                }
                check_connected(root, health)?;
            }
            let change = RootChange::Add(member);
            root.check(&change)?;
            check_learners(root, &change, health.learners_max)?;
            change
        }
        MembershipChange::Remove { id } => {
            if health.strict {
                check_remove(root, id, health)?;
            }
            RootChange::Remove(id)
        }
        MembershipChange::Promote { id } => {
            let member = root.members.get(&id).ok_or(ApiError::MemberNotFound)?;
            check_in_sync(member, health)?;
            if health.strict {
                check_promote(root)?;
            }
            RootChange::Promote(id)
        }
        MembershipChange::UpdatePeerUrls { id, peer_urls } => {
            if !root.members.contains_key(&id) {
                return Err(ApiError::MemberNotFound);
            }
            check_urls(&peer_urls)?;
            RootChange::UpdatePeerUrls { id, peer_urls }
        }
        MembershipChange::Demote { id } => RootChange::Demote(id),
        MembershipChange::Joint { changes, auto_leave } => {
            if changes.len() > JOINT_CHANGES_MAX {
                return Err(ApiError::TooManyRequests);
            }
            let plain = |change| match change {
                MembershipChange::Joint { .. } | MembershipChange::LeaveJoint => {
                    Err(ApiError::MemberNotFound)
                }
                // What only makes sense together with the rest is looked at together, below.
                MembershipChange::Remove { id } => Ok(RootChange::Remove(id)),
                MembershipChange::Demote { id } => Ok(RootChange::Demote(id)),
                // Whether the whole leaves the cluster healthy, too: one step of a replacement
                // alone may not.
                other => check_change(root, other, &Health { strict: false, ..health.clone() }),
            };
            let changes = changes.into_iter().map(plain).collect::<Result<Vec<_>, _>>()?;
            let change = RootChange::Joint { changes, auto_leave };
            root.check(&change)?;
            if health.strict {
                check_joint(root, &change, health)?;
            }
            change
        }
        MembershipChange::LeaveJoint => RootChange::LeaveJoint,
    };
    // A voter becomes a learner only together with other changes.
    root.check(&change)?;
    Ok(change)
}

fn check_urls(urls: &[String]) -> Result<(), ApiError> {
    let fine = |url: &String| {
        let rest = url.split_once("://");
        rest.is_some_and(|(scheme, host)| {
            matches!(scheme, "http" | "https" | "unix" | "unixs") && !host.is_empty()
        })
    };
    if urls.is_empty() || !urls.iter().all(fine) {
        return Err(ApiError::BadMemberUrls);
    }
    Ok(())
}

fn is_started(member: &Member) -> bool {
    member.incarnation.is_some()
}

fn quorum(voters: usize) -> usize {
    voters / 2 + 1
}

fn check_add_voter(root: &RootState) -> Result<(), ApiError> {
    let voters = root.voters().count();
    let started = root.voters().filter(|member| is_started(member)).count();
    // One started member may always grow to two: it could not get there otherwise.
    if started == 1 && voters == 1 {
        return Ok(());
    }
    if started < quorum(voters + 1) { Err(ApiError::NotEnoughStarted) } else { Ok(()) }
}

/// Learners cost the leader as much as voters and protect nothing: the operator bounds them.
pub(super) fn check_learners(
    root: &RootState,
    change: &RootChange,
    learners_max: usize,
) -> Result<(), ApiError> {
    let RootChange::Add(member) = change else { return Ok(()) };
    let learners = root.members.values().filter(|member| member.is_learner).count();
    if member.is_learner && learners >= learners_max {
        return Err(ApiError::TooManyLearners);
    }
    Ok(())
}

fn check_connected(root: &RootState, health: &Health) -> Result<(), ApiError> {
    let connected = root.voters().filter(|m| health.connected.contains(&m.id)).count();
    let voters = root.voters().count();
    // Growing from one to two needs only the one there is.
    let needed = quorum(voters + 1).min(voters);
    if connected < needed { Err(ApiError::Unhealthy) } else { Ok(()) }
}

fn check_remove(root: &RootState, id: NodeId, health: &Health) -> Result<(), ApiError> {
    let member = root.members.get(&id).ok_or(ApiError::MemberNotFound)?;
    if member.is_learner {
        return Ok(());
    }
    let left = root.voters().count() - 1;
    let started = root.voters().filter(|m| m.id != id && is_started(m)).count();
    if left == 0 || started < quorum(left) {
        return Err(ApiError::NotEnoughStarted);
    }
    // Who is down can go: it votes for nothing now. Anybody else may be needed.
    if health.up.contains(&id) {
        let active = root.voters().filter(|m| health.connected.contains(&m.id)).count();
        // As if the one that goes were among them, even if it came back only a moment ago.
        if active.saturating_sub(1) < quorum(left) {
            return Err(ApiError::Unhealthy);
        }
    }
    Ok(())
}

/// A joint change needs a quorum of the voters it starts from, and of those it leads to, among
/// the members that are connected; new ones cannot be yet.
fn check_joint(root: &RootState, change: &RootChange, health: &Health) -> Result<(), ApiError> {
    let RootChange::Joint { changes, .. } = change else { return Ok(()) };
    let before: BTreeSet<NodeId> = root.voters().map(|member| member.id).collect();
    let mut after = before.clone();
    for change in changes {
        match change {
            RootChange::Add(member) if !member.is_learner => after.insert(member.id),
            RootChange::Promote(id) => after.insert(*id),
            RootChange::Remove(id) | RootChange::Demote(id) => after.remove(id),
            _ => true,
        };
    }
    for voters in [before, after] {
        let active = voters.iter().filter(|id| health.connected.contains(id)).count();
        if active < quorum(voters.len()) {
            return Err(ApiError::Unhealthy);
        }
    }
    Ok(())
}

fn check_promote(root: &RootState) -> Result<(), ApiError> {
    let voters = root.voters().count();
    let started = root.voters().filter(|member| is_started(member)).count() + 1;
    if started < quorum(voters + 1) { Err(ApiError::NotEnoughStarted) } else { Ok(()) }
}

/// A learner is in sync when it has nine tenths of what the leader has.
fn check_in_sync(member: &Member, health: &Health) -> Result<(), ApiError> {
    let known = health.matched.iter().find(|(peer, _)| *peer == member.id);
    // The leader is not among the others, and has all there is.
    let own = if member.is_learner { 0 } else { health.leader_matched };
    let matched = known.map_or(own, |&(_, matched)| matched);
    let enough = u128::from(matched) * 10 >= u128::from(health.leader_matched) * 9;
    if enough { Ok(()) } else { Err(ApiError::LearnerNotReady) }
}

/// For a follower that passes a change on to the leader.
pub fn encode_change(change: &MembershipChange) -> Bytes {
    let mut out = BytesMut::new();
    match change {
        MembershipChange::Add { peer_urls, learner, unix_seconds } => {
            put_varint(&mut out, 1);
            put_strings(&mut out, peer_urls);
            put_bool(&mut out, *learner);
            put_varint(&mut out, *unix_seconds);
        }
        MembershipChange::Remove { id } => {
            put_varint(&mut out, 2);
            put_varint(&mut out, id.0);
        }
        MembershipChange::Promote { id } => {
            put_varint(&mut out, 3);
            put_varint(&mut out, id.0);
        }
        MembershipChange::UpdatePeerUrls { id, peer_urls } => {
            put_varint(&mut out, 4);
            let row = Member { id: *id, peer_urls: peer_urls.clone(), ..Member::default() };
            encode_member(&row, &mut out);
        }
        MembershipChange::Demote { id } => {
            put_varint(&mut out, 5);
            put_varint(&mut out, id.0);
        }
        MembershipChange::Joint { changes, auto_leave } => {
            put_varint(&mut out, 6);
            put_bool(&mut out, *auto_leave);
            put_varint(&mut out, changes.len() as u64);
            for change in changes {
                put_bytes(&mut out, &encode_change(change));
            }
        }
        MembershipChange::LeaveJoint => put_varint(&mut out, 7),
    }
    out.freeze()
}

pub fn decode_change(bytes: &Bytes) -> Option<MembershipChange> {
    let mut reader = Reader::new(bytes);
    Some(match reader.varint("change").ok()? {
        1 => MembershipChange::Add {
            peer_urls: reader.list(1, "peer URLs", |r| r.string("peer URL")).ok()?,
            learner: reader.bool("learner flag").ok()?,
            unix_seconds: reader.varint("seconds").ok()?,
        },
        2 => MembershipChange::Remove { id: NodeId(reader.varint("member id").ok()?) },
        3 => MembershipChange::Promote { id: NodeId(reader.varint("member id").ok()?) },
        4 => {
            let row = decode_member(&mut reader).ok()?;
            MembershipChange::UpdatePeerUrls { id: row.id, peer_urls: row.peer_urls }
        }
        5 => MembershipChange::Demote { id: NodeId(reader.varint("member id").ok()?) },
        6 => {
            let auto_leave = reader.bool("auto-leave flag").ok()?;
            let changes = reader.list(1, "changes", |r| r.bytes("change")).ok()?;
            let plain = |bytes: &Bytes| {
                // One level is all there is: no stack is spent on what a peer makes up.
                let joint = bytes.first().is_some_and(|tag| *tag == 6);
                if joint { None } else { decode_change(bytes) }
            };
            let changes = changes.iter().map(plain).collect::<Option<Vec<_>>>()?;
            MembershipChange::Joint { changes, auto_leave }
        }
        7 => MembershipChange::LeaveJoint,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn urls(url: &str) -> Vec<String> {
        vec![url.to_string()]
    }

    #[test]
    fn ids_are_etcds() {
        let id = |url: &str, token: &str| member_id(&urls(url), token, None);
        let [a, b, c] = [2, 3, 4].map(|n| id(&format!("http://172.17.0.{n}:2380"), "etcd"));
        assert_eq!(a, NodeId(0xe18d_7526_02ba_842f));
        assert_eq!(b, NodeId(0x119f_945c_3672_6355));
        assert_eq!(c, NodeId(0x9289_2585_e2b6_6fcc));
        let alone = id("http://172.17.0.2:2380", "etcd-cluster");
        assert_eq!(alone, NodeId(0x6901_5be4_1c71_4f32));
        assert_eq!(cluster_id([alone]), ClusterId(0x10e5_e398_49da_b251));
        let beside = id("http://172.17.0.3:2380", "etcd-cluster");
        assert_eq!(beside, NodeId(0x660a_a483_274d_103a));
        assert_eq!(cluster_id([alone, beside]), ClusterId(0x14dd_a1c2_9191_f104));
        assert_eq!(cluster_id([beside, alone]), ClusterId(0x14dd_a1c2_9191_f104));
        let local = id("http://127.0.0.1:12380", "etcd-cluster");
        assert_eq!(local, NodeId(0xddd6_7b31_2462_fd7b));
        assert_eq!(cluster_id([local]), ClusterId(0xa7ef_944b_9571_1739));
    }

    #[test]
    fn a_joint_change_is_judged_as_a_whole() {
        let voter = |id| Member { id: NodeId(id), ..Member::default() };
        let root = |ids: &[u64]| RootState {
            members: ids.iter().map(|&id| (NodeId(id), voter(id))).collect(),
            ..RootState::default()
        };
        let all: BTreeSet<NodeId> = (1..=3).map(NodeId).collect();
        let health = Health { strict: true, connected: all.clone(), up: all, ..Health::default() };
        let joint = |changes: Vec<MembershipChange>, root: &RootState| {
            let change = MembershipChange::Joint { changes, auto_leave: true };
            check_change(root, change, &health)
        };
        let add = MembershipChange::Add {
            peer_urls: urls("http://a:1"),
            learner: false,
            unix_seconds: 9,
        };
        let demote = MembershipChange::Demote { id: NodeId(3) };
        let remove = MembershipChange::Remove { id: NodeId(1) };
        // A voter becomes a learner beside other changes, or alone in a joint one.
        let three = root(&[1, 2, 3]);
        joint(vec![demote.clone()], &three).expect("two voters are left");
        joint(vec![demote.clone(), remove.clone()], &three).expect("one voter is left");
        assert_eq!(
            check_change(&three, demote.clone(), &health),
            Err(ApiError::MemberNotFound),
            "a plain change makes no learner of a voter"
        );
        // The last voter may go when another one comes, once that one is connected.
        let lone = root(&[1]);
        let swap = joint(vec![add, remove.clone()], &lone);
        assert_eq!(swap, Err(ApiError::Unhealthy), "nobody has heard of the new one");
        assert_eq!(joint(vec![remove], &lone), Err(ApiError::NotEnoughStarted));
        let unknown = MembershipChange::Demote { id: NodeId(9) };
        assert_eq!(joint(vec![unknown], &three), Err(ApiError::MemberNotFound));
    }

    #[test]
    fn a_change_survives_the_wire() {
        for change in [
            MembershipChange::Add { peer_urls: urls("http://a:1"), learner: true, unix_seconds: 9 },
            MembershipChange::Remove { id: NodeId(7) },
            MembershipChange::Promote { id: NodeId(8) },
            MembershipChange::UpdatePeerUrls { id: NodeId(9), peer_urls: urls("http://b:2") },
            MembershipChange::LeaveJoint,
            MembershipChange::Joint {
                changes: vec![
                    MembershipChange::Remove { id: NodeId(7) },
                    MembershipChange::Demote { id: NodeId(8) },
                ],
                auto_leave: true,
            },
        ] {
            assert_eq!(decode_change(&encode_change(&change)), Some(change));
        }
        assert_eq!(decode_change(&Bytes::from_static(&[9, 9])), None);
    }
}
