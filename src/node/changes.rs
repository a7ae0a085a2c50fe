//! Changes of who is in the cluster and who leads it: membership, transfer, the member's
//! publication of itself, and its orderly end.

use super::action::{Answer, StopReason, Token};
use super::core::Core;
use super::membership::{
    Health, MembershipChange, check_change, check_learners, decode_change, encode_change,
};
use super::requests::RequestKind;
use crate::multiraft::change::{RootChange, decode_context};
use crate::multiraft::turn::SoftState;
use crate::multiraft::wire::NodeMessage;
use crate::raft::{Dropped, Input, Role, quorum};
use crate::types::{ApiError, Command, ConfChange, GroupId, NodeId, RequestId};
use bytes::Bytes;
use std::collections::BTreeSet;

/// A change that passed the leader's checks and waits until another one is applied.
pub(super) type WaitingConf = (RequestId, RootChange, u64);

/// A removed member ends at the latest after this long: everybody else may be gone as well.
const LINGER_MS: u64 = 60_000;

/// The cluster has removed this member.
#[derive(Debug, Default)]
pub(super) struct Removal {
    since_ms: Option<u64>,
    /// Who has refused it, and so has applied the removal.
    told_by: BTreeSet<NodeId>,
}

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
        let removed = change.removes();
        let further = self.groups.len() > 1 && !removed.is_empty();
        let health = self.health();
        if further && health.strict {
            // The further groups let go of them before anybody new can take their place.
            let stay = self.root.voters().filter(|member| !removed.contains(&member.id));
            let (mut left, mut active) = (0, 0);
            for member in stay {
                left += 1;
                active += usize::from(health.connected.contains(&member.id));
            }
            if active <= left / 2 {
                return Err(ApiError::Unhealthy);
            }
        }
        let change = if further { RootChange::Depart(Box::new(change)) } else { change };
        self.propose_conf(id, change);
        Ok(())
    }

    fn propose_conf(&mut self, id: RequestId, change: RootChange) {
        let joint = self.groups.get(&GroupId::ROOT).is_some_and(|entry| entry.conf.is_joint());
        if joint != (change == RootChange::LeaveJoint) {
            if joint {
                return self.wait_to_propose(id, change);
            }
            // There is nothing to leave.
            return self.refuse_conf(id, ApiError::NotEnoughStarted);
        }
        if matches!(change, RootChange::Depart(_)) && self.root.departing.is_some() {
            return self.wait_to_propose(id, change);
        }
        let conf = change.conf_change(id, &self.root);
        self.host.step(GroupId::ROOT, Input::ProposeConfChange(conf));
    }

    /// Another change goes first.
    fn wait_to_propose(&mut self, id: RequestId, change: RootChange) {
        if self.confs_waiting.len() < WAITING_CONFS_MAX {
            let until = self.now_ms + self.config.request_ms();
            self.confs_waiting.push_back((id, change, until));
        }
    }

    fn refuse_conf(&mut self, id: RequestId, error: ApiError) {
        if id.origin == self.config.origin {
            self.finish(id.seq, Err(error));
        }
    }

    /// Raft took the change for now impossible; the leader tries again while it leads.
    pub(super) fn conf_dropped(&mut self, group: GroupId, change: &ConfChange, reason: Dropped) {
        let Some((id, meaning)) = decode_context(&change.context) else { return };
        let retry = matches!(reason, Dropped::ConfPending | Dropped::Transferring);
        // What members depart for is proposed by every tick until it is done.
        let departs = self.root.departing.as_ref().is_some_and(|(_, change)| *change == meaning);
        if group != GroupId::ROOT || departs {
        } else if retry {
            self.wait_to_propose(id, meaning);
        } else if reason == Dropped::ConfInvalid {
            self.refuse_conf(id, ApiError::MemberNotFound);
        }
    }

    pub(super) fn retry_confs(&mut self) {
        let leads = self.groups.get(&GroupId::ROOT).is_some_and(|entry| entry.leads());
        let now = self.now_ms;
        self.confs_waiting.retain(|(_, _, until)| leads && now < *until);
        if let Some((id, change, _)) = self.confs_waiting.pop_front() {
            // What was checked before the other change may be wrong behind it.
            let learners_max = self.config.learners_max;
            let checked = self.root.check(&change);
            match checked.and_then(|()| check_learners(&self.root, &change, learners_max)) {
                Ok(()) => self.propose_conf(id, change),
                Err(error) => self.refuse_conf(id, error),
            }
        }
    }

    fn health(&self) -> Health {
        let (now, node) = (self.now_ms, self.config.node);
        let long = |since: u64| now >= since + self.config.healthy_ms;
        let (mut up, mut connected) = (BTreeSet::from([node]), BTreeSet::from([node]));
        for &peer in self.root.members.keys() {
            if let Some(since) = self.connected_since(peer) {
                up.insert(peer);
                if long(since) {
                    connected.insert(peer);
                }
            }
        }
        let status = self.host.replica(GroupId::ROOT).map(|replica| replica.status());
        let status = status.unwrap_or_default();
        Health {
            strict: self.config.strict_reconfig,
            learners_max: self.config.learners_max,
            connected,
            up,
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
    ///
    /// The gate on client writes waits for this, and saying it twice does no harm: so it is said
    /// again after two election timeouts, not only when the request has timed out.
    pub(super) fn publish(&mut self) {
        if let Some(seq) = self.publishing {
            let lost = self.requests.get(&seq).is_none_or(|request| {
                self.now_ms >= request.start_ms + 2 * self.config.election_ms()
            });
            if lost {
                self.remove(seq);
                self.publishing = None;
            }
        }
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

    /// Whether clients are turned away: the member is about to end.
    pub(super) fn is_leaving(&self) -> bool {
        self.stopping_since_ms.is_some() || self.removal.is_some()
    }

    /// Sees in the membership that this member has been removed.
    ///
    /// It does not end at once. It may be the only one that knows: of voters 1 and 3, 3 leads and
    /// removes itself; if it ended before 1 has heard that this is committed, 1 would ask for its
    /// vote for ever. So it stays, as nobody's voter, and answers with what it knows until a
    /// quorum of those that remain has shown, by refusing it, that they have applied the removal.
    pub(super) fn check_removal(&mut self) {
        if self.removal.is_none() && self.root.removed.contains(&self.config.node) {
            self.removal = Some(Removal { since_ms: Some(self.now_ms), told_by: BTreeSet::new() });
            self.fail_requests(&ApiError::Stopped);
        }
        self.tick_removal();
    }

    /// A peer says that this member has been removed: it has applied that, and so knows more.
    pub(super) fn told_removed(&mut self, by: NodeId) {
        match &mut self.removal {
            Some(removal) => {
                removal.told_by.insert(by);
                self.tick_removal();
            }
            // Not known here, so nobody can need to learn it from here.
            None => self.out.stop = Some(StopReason::Removed),
        }
    }

    pub(super) fn tick_removal(&mut self) {
        let now = self.now_ms;
        let Some(removal) = &mut self.removal else { return };
        let since = *removal.since_ms.get_or_insert(now);
        let conf = self.groups.get(&GroupId::ROOT).map(|entry| entry.conf.clone());
        let known =
            conf.is_some_and(|conf| quorum::holds(&conf, |id| removal.told_by.contains(&id)));
        if known || now >= since + LINGER_MS {
            self.out.stop = Some(StopReason::Removed);
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
        self.hand_over_to(group, |_| true);
    }

    /// Lets the follower lead that has the most, of those that may.
    pub(super) fn hand_over_to(&mut self, group: GroupId, may: impl Fn(NodeId) -> bool) {
        let Some(status) = self.host.replica(group).map(|replica| replica.status()) else { return };
        if status.role != Role::Leader || !status.transferee.is_none() {
            return;
        }
        let fit = status
            .progress
            .iter()
            .filter(|p| p.active && !p.learner && may(p.id))
            .filter(|p| self.peers.get(&p.id).is_none_or(|peer| peer.up));
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
        let others = |entry: &super::group::Group| {
            entry.leads() && entry.conf.voters.iter().any(|&voter| voter != self.config.node)
        };
        let leads = self.groups.values().any(others);
        if !leads || self.now_ms >= since + 2 * self.config.election_ms() {
            self.out.stop.get_or_insert(StopReason::Asked);
        }
    }
}
