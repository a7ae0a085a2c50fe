//! Changes of who is in the cluster and who leads it: membership, transfer, the member's
//! publication of itself, and its orderly end.

use super::action::{Answer, StopReason, Token};
use super::core::Core;
use super::membership::{Health, MembershipChange, check_change, decode_change, encode_change};
use super::requests::RequestKind;
use crate::multiraft::root::{RootChange, decode_context};
use crate::multiraft::turn::SoftState;
use crate::multiraft::wire::NodeMessage;
use crate::raft::{Dropped, Input, Role};
use crate::types::{ApiError, Command, ConfChange, GroupId, NodeId, RequestId};
use bytes::Bytes;
use std::collections::BTreeSet;

/// A change that passed the leader's checks and waits until another one is applied.
pub(super) type WaitingConf = (RequestId, RootChange, u64);

/// Changes waiting at once: more would only time out.
const WAITING_CONFS_MAX: usize = 64;

impl Core {
    pub(super) fn change_membership(&mut self, token: Token, change: MembershipChange) {
        if let Err(error) = self.check_open(GroupId::ROOT) {
            return self.reply(token, Err(error));
        }
        let kind = RequestKind::Membership { change: Some(change) };
        let seq = self.begin(Some(token), GroupId::ROOT, kind);
        self.dispatch(seq);
    }

    /// The leader checks a change and proposes it; others pass it on to the leader, once.
    pub(super) fn dispatch_membership(&mut self, seq: u64) {
        let id = RequestId { origin: self.config.origin, seq };
        let entry = self.groups.get_mut(&GroupId::ROOT).expect("every member has the root group");
        let (leads, leader) = (entry.leads(), entry.soft.leader);
        if leader.is_none() {
            entry.parked.push_back(seq);
            return;
        }
        let Some(request) = self.requests.get_mut(&seq) else { return };
        let RequestKind::Membership { change } = &mut request.kind else { return };
        let Some(change) = change.take() else { return };
        if leads {
            if let Err(error) = self.propose_change(id, change) {
                self.finish(seq, Err(error));
            }
        } else {
            let change = encode_change(&change);
            self.send(leader, NodeMessage::MembershipAsk { id, change });
        }
    }

    pub(super) fn membership_asked(&mut self, from: NodeId, id: RequestId, change: &Bytes) {
        let leads = self.groups.get(&GroupId::ROOT).is_some_and(|entry| entry.leads());
        let result = match decode_change(change) {
            Some(_) if !leads => Err(ApiError::NotLeader),
            Some(change) => self.propose_change(id, change),
            None => Err(ApiError::BadMemberUrls),
        };
        if let Err(error) = result {
            self.send(from, NodeMessage::MembershipRefused { id, error });
        }
    }

    fn propose_change(&mut self, id: RequestId, change: MembershipChange) -> Result<(), ApiError> {
        let change = check_change(&self.root, change, &self.health())?;
        self.propose_conf(id, &change);
        Ok(())
    }

    fn propose_conf(&mut self, id: RequestId, change: &RootChange) {
        let conf = change.conf_change(id, &self.root);
        self.host.step(GroupId::ROOT, Input::ProposeConfChange(conf));
    }

    /// Raft took the change for now impossible; the leader tries again while it leads.
    pub(super) fn conf_dropped(&mut self, group: GroupId, change: &ConfChange, reason: Dropped) {
        let Some((id, meaning)) = decode_context(&change.context) else { return };
        let retry = matches!(reason, Dropped::ConfPending | Dropped::Transferring);
        if group == GroupId::ROOT && retry && self.confs_waiting.len() < WAITING_CONFS_MAX {
            let until = self.now_ms + self.config.request_ms();
            self.confs_waiting.push_back((id, meaning, until));
        } else if id.origin == self.config.origin && reason == Dropped::ConfInvalid {
            self.finish(id.seq, Err(ApiError::MemberNotFound));
        }
    }

    pub(super) fn retry_confs(&mut self) {
        let leads = self.groups.get(&GroupId::ROOT).is_some_and(|entry| entry.leads());
        let now = self.now_ms;
        self.confs_waiting.retain(|(_, _, until)| leads && now < *until);
        if let Some((id, change, _)) = self.confs_waiting.pop_front() {
            // What was checked before the other change may be wrong behind it.
            if self.root.check(&change).is_ok() {
                self.propose_conf(id, &change);
            }
        }
    }

    fn health(&self) -> Health {
        let (now, node) = (self.now_ms, self.config.node);
        let long = |since: u64| now >= since + self.config.healthy_ms;
        let mut connected: BTreeSet<NodeId> = self
            .root
            .members
            .keys()
            .copied()
            .filter(|&peer| self.connected_since(peer).is_some_and(long))
            .collect();
        connected.insert(node);
        let status = self.host.replica(GroupId::ROOT).map(|replica| replica.status());
        let status = status.unwrap_or_default();
        Health {
            strict: self.config.strict_reconfig,
            learners_max: self.config.learners_max,
            connected,
            matched: status.progress.iter().map(|peer| (peer.id, peer.matched.0)).collect(),
            leader_matched: status.last.0,
        }
    }

    pub(super) fn transfer(&mut self, group: GroupId, token: Token, to: NodeId) {
        if let Err(error) = self.check_open(group) {
            return self.reply(token, Err(error));
        }
        let until = self.now_ms + self.config.request_ms();
        let node = self.config.node;
        let entry = self.group_mut(group);
        if !entry.leads() {
            return self.reply(token, Err(ApiError::NotLeader));
        }
        if to == node {
            return self.reply(token, Ok(Answer::Transferred));
        }
        if !entry.conf.voters.contains(&to) {
            return self.reply(token, Err(ApiError::BadLeaderTransferee));
        }
        entry.transfers.push((token, to, until));
        self.host.step(group, Input::Transfer(to));
    }

    /// Answers transfers that this change of leader ends.
    pub(super) fn transfers_seen(&mut self, soft: SoftState) {
        let node = self.config.node;
        if soft.leader.is_none() || soft.leader == node {
            return;
        }
        let ended = std::mem::take(&mut self.group_mut(soft.group).transfers);
        for (token, to, _) in ended {
            let reached = soft.leader == to;
            let result = if reached {
                Ok(Answer::Transferred)
            } else {
                Err(ApiError::TimeoutLeaderTransfer)
            };
            self.reply(token, result);
        }
    }

    /// Tells the cluster this member's name, addresses and data directory, until it knows them.
    pub(super) fn publish(&mut self) {
        let config = &self.config;
        let Some(member) = self.root.members.get(&config.node) else { return };
        let known = member.incarnation == Some(config.incarnation)
            && member.name == config.name
            && member.client_urls == config.client_urls;
        let refused = member.incarnation.is_some_and(|bound| bound != config.incarnation);
        let led = self.groups.get(&GroupId::ROOT).is_some_and(|entry| !entry.soft.leader.is_none());
        if known || refused || !led || self.publishing.is_some() || self.stopping_since_ms.is_some()
        {
            return;
        }
        let command = Command::PublishMember {
            id: config.node,
            name: config.name.clone(),
            client_urls: config.client_urls.clone(),
            incarnation: config.incarnation,
        };
        let seq =
            self.propose_inside(GroupId::ROOT, command, |parked| RequestKind::Publish { parked });
        self.publishing = Some(seq);
    }

    pub(super) fn published(&mut self, result: &Result<(), ApiError>) {
        if *result == Err(ApiError::MemberIdExists) {
            self.out.stop = Some(StopReason::IncarnationRefused);
        }
    }

    /// Goes away in order: nobody waits for an answer, and groups this member leads go to the
    /// follower that has the most.
    pub(super) fn stop(&mut self) {
        if self.stopping_since_ms.is_some() {
            return;
        }
        self.stopping_since_ms = Some(self.now_ms);
        self.fail_requests(&ApiError::Stopped);
        let groups: Vec<GroupId> = self.groups.keys().copied().collect();
        for group in groups {
            for waiting in self.group_mut(group).reads.take_all() {
                self.fail_read(group, waiting, ApiError::Stopped);
            }
            for (token, ..) in std::mem::take(&mut self.group_mut(group).transfers) {
                self.reply(token, Err(ApiError::Stopped));
            }
            self.hand_over(group);
        }
    }

    fn hand_over(&mut self, group: GroupId) {
        let Some(status) = self.host.replica(group).map(|replica| replica.status()) else { return };
        if status.role != Role::Leader || !status.transferee.is_none() {
            return;
        }
        let fit = status
            .progress
            .iter()
            .filter(|p| p.active && !p.learner && self.peers.get(&p.id).is_none_or(|peer| peer.up));
        if let Some(best) = fit.max_by_key(|p| (p.matched, p.id)) {
            self.host.step(group, Input::Transfer(best.id));
        }
    }

    pub(super) fn tick_stop(&mut self) {
        if self.stopping_since_ms.is_some() {
            let groups: Vec<GroupId> = self.groups.keys().copied().collect();
            for group in groups {
                self.hand_over(group);
            }
        }
    }

    /// Says when the end has come: nothing is led any more that another could lead, or the
    /// others took too long.
    pub(super) fn finish_stop(&mut self) {
        let Some(since) = self.stopping_since_ms else { return };
        let others = |entry: &super::core::Group| {
            entry.leads() && entry.conf.voters.iter().any(|&voter| voter != self.config.node)
        };
        let leads = self.groups.values().any(others);
        if !leads || self.now_ms >= since + 2 * self.config.election_ms() {
            self.out.stop.get_or_insert(StopReason::Asked);
        }
    }
}
