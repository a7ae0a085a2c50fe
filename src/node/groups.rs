//! Groups as the catalogue has them: replicas begin and end with it, their logs go when no
//! checkpoint needs them any more, and their configurations follow the membership.
//!
//! The order in which a destroyed group goes: the replica at once, its trees with the next
//! checkpoint, its log only when neither valid checkpoint holds the group. Were the log first, a
//! start from the older checkpoint would find a group without a log, and could not tell it from
//! one that was lost. A created group goes the other way: its log may be durable before any
//! checkpoint holds the group, and then waits at boot as an orphan for its creation to be applied
//! again.

use super::core::Core;
use super::group::Group;
use crate::multiraft::meta::GroupMeta;
use crate::multiraft::snapshots::InstallStep;
use crate::multiraft::turn::{SoftState, boot_hard_state};
use crate::raft::{self, Input, Role};
use crate::types::{
    ApiError, ConfChange, ConfChangeKind, ConfState, GroupId, HardState, LogIndex, NodeId,
};
use std::collections::BTreeSet;

impl Core {
    /// Begins and ends replicas as the catalogue says.
    pub(super) fn follow_catalogue(&mut self) {
        let root = self.root.clone();
        let gone: Vec<GroupId> =
            self.groups.keys().copied().filter(|g| root.catalogue.is_destroyed(*g)).collect();
        for group in gone {
            self.end_group(group);
        }
        for (&group, born) in &root.catalogue.groups {
            if !self.groups.contains_key(&group) {
                self.begin_group(group, born);
            }
        }
        let orphans = self.orphans.keys().copied();
        self.doomed.extend(orphans.filter(|group| root.catalogue.is_destroyed(*group)));
    }

    fn begin_group(&mut self, group: GroupId, born: &BTreeSet<NodeId>) {
        let meta = GroupMeta::born(born, self.config.node);
        let config = self.config.of_group(group);
        let (boot, is_new) = match self.orphans.remove(&group) {
            // This member was part of the group before it was last started.
            Some(found) => (raft::Boot { conf: meta.conf, applied: meta.applied, ..found }, false),
            None => {
                let founds = meta.applied > LogIndex::ZERO;
                let hard = if founds { boot_hard_state() } else { HardState::default() };
                let start = (meta.applied, meta.term);
                let (last, applied) = (meta.applied, meta.applied);
                let boot = raft::Boot {
                    hard,
                    conf: meta.conf,
                    applied,
                    start,
                    last,
                    ..Default::default()
                };
                (boot, true)
            }
        };
        let soft =
            SoftState { group, leader: NodeId::NONE, role: Role::Follower, term: boot.hard.term };
        let alone = boot.conf.voters == [self.config.node];
        self.groups.insert(group, Group::new(soft, &boot));
        if is_new {
            self.host.create(config, boot);
        } else {
            self.host.add(config, boot);
        }
        if alone {
            self.host.step(group, Input::Campaign);
        }
    }

    fn end_group(&mut self, group: GroupId) {
        self.host.remove(group);
        self.doomed.insert(group);
        for waiting in self.group_mut(group).reads.take_all() {
            self.fail_read(group, waiting, ApiError::Stopped);
        }
        let Some(entry) = self.groups.remove(&group) else { return };
        for (token, ..) in entry.transfers {
            self.reply(token, Err(ApiError::Stopped));
        }
        if entry.fetch.is_some() {
            self.out.installs.push(InstallStep::Abort { group });
        }
        let requests: Vec<u64> =
            self.requests.iter().filter(|(_, r)| r.group == group).map(|(&seq, _)| seq).collect();
        for seq in requests {
            self.finish(seq, Err(ApiError::Stopped));
        }
        self.out.applies.retain(|job| job.group != group);
        self.out.log_reads.retain(|read| read.group != group);
        self.out.roles.retain(|soft| soft.group != group);
        self.out.pins.retain(|(pinned, _)| *pinned != group);
    }

    /// A checkpoint is durable, and it or the older valid one holds the groups of `held`.
    pub(super) fn drop_logs(&mut self, held: &[(GroupId, LogIndex)]) {
        let free: Vec<GroupId> = self
            .doomed
            .iter()
            .copied()
            .filter(|group| !held.iter().any(|(there, _)| there == group))
            .collect();
        for group in free {
            self.doomed.remove(&group);
            self.orphans.remove(&group);
            self.host.drop_log(group);
        }
    }

    /// A leader's part in changes of the membership: the configurations of the further groups
    /// follow it, and a member that departs is removed once it has left them all.
    pub(super) fn lead_membership(&mut self) {
        if self.is_leaving() {
            return;
        }
        let groups: Vec<GroupId> = self.groups.keys().copied().collect();
        for group in groups {
            let entry = &self.groups[&group];
            if !entry.leads() {
                continue;
            }
            if group == GroupId::ROOT {
                self.finish_departure();
            } else if let Some(change) = towards(&entry.conf, &self.wanted_conf()) {
                // Refused while another is under way; the next tick tries again.
                self.host.step(group, Input::ProposeConfChange(change));
            }
        }
    }

    /// What the further groups' configurations should be: the membership, without those that
    /// depart.
    fn wanted_conf(&self) -> ConfState {
        let departing = self.root.departing();
        let mut conf = ConfState::default();
        for member in self.root.members.values().filter(|m| !departing.contains(&m.id)) {
            let list = if member.is_learner { &mut conf.learners } else { &mut conf.voters };
            list.push(member.id);
        }
        conf
    }

    fn finish_departure(&mut self) {
        let joint = self.groups[&GroupId::ROOT].conf.is_joint();
        let Some((request, change)) = self.root.departing.clone().filter(|_| !joint) else {
            return;
        };
        let leaving = change.removes();
        if leaving.contains(&self.config.node) {
            // Nobody tells it any more what the groups it has left decide: another leader sees
            // to the rest.
            return self.hand_over_to(GroupId::ROOT, |id| !leaving.contains(&id));
        }
        let further = self.groups.iter().filter(|(group, _)| **group != GroupId::ROOT);
        // What is in force here has been committed, so the group has let go of them for good.
        let held = |conf: &ConfState| conf.members().iter().any(|id| leaving.contains(id));
        // A configuration this member does not know yet is none that lets go.
        if further.into_iter().any(|(_, e)| e.conf.voters.is_empty() || held(&e.conf)) {
            return;
        }
        let conf = change.conf_change(request, &self.root);
        self.host.step(GroupId::ROOT, Input::ProposeConfChange(conf));
    }
}

/// The change that leads from one configuration to another, if there is any to make now.
fn towards(conf: &ConfState, wanted: &ConfState) -> Option<ConfChange> {
    if conf.is_joint() || wanted.voters.is_empty() {
        return None;
    }
    let mut changes = Vec::new();
    for id in wanted.voters.iter().filter(|id| !conf.voters.contains(id)) {
        changes.push((ConfChangeKind::AddVoter, *id));
    }
    for id in wanted.learners.iter().filter(|id| !conf.learners.contains(id)) {
        changes.push((ConfChangeKind::AddLearner, *id));
    }
    let stays = |id: &NodeId| wanted.voters.contains(id) || wanted.learners.contains(id);
    for id in conf.members().into_iter().filter(|id| !stays(id)) {
        changes.push((ConfChangeKind::Remove, id));
    }
    let auto_leave = changes.len() > 1;
    (!changes.is_empty()).then(|| ConfChange {
        changes,
        joint: auto_leave,
        auto_leave,
        ..ConfChange::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn n(ids: &[u64]) -> Vec<NodeId> {
        ids.iter().copied().map(NodeId).collect()
    }

    #[test]
    fn a_configuration_follows_the_membership_in_one_step() {
        let conf = ConfState::of_voters(n(&[1, 2, 3]));
        assert_eq!(towards(&conf, &conf), None);
        let wanted = ConfState { learners: n(&[4]), ..conf.clone() };
        let one = towards(&conf, &wanted).unwrap();
        assert_eq!(
            (one.changes, one.joint),
            (vec![(ConfChangeKind::AddLearner, NodeId(4))], false)
        );
        let wanted = ConfState { voters: n(&[1, 5]), learners: n(&[2]), ..ConfState::default() };
        let many = towards(&conf, &wanted).unwrap();
        assert!(many.joint && many.auto_leave);
        let next = raft::conf_change::changed(&conf, &many).unwrap();
        assert_eq!(towards(&next, &wanted), None, "nothing before the joint one is left");
        let left = raft::conf_change::changed(&next, &ConfChange::default()).unwrap();
        assert_eq!((&left.voters, &left.learners), (&wanted.voters, &wanted.learners));
        assert_eq!(towards(&left, &wanted), None);
    }
}
