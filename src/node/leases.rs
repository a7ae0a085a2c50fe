//! Keepalives and TTL questions: answered by the leader only, and only once its leadership is
//! confirmed after the question came in. A follower asks the leader, and asks again: a keepalive
//! that is done twice does no harm.

use super::action::{Answer, Token};
use super::core::Core;
use super::lessor::Renewal;
use super::reads::{LeaseAsker, ROUND_RETRY_MS, Reader, Waiting};
use super::requests::RequestKind;
use crate::multiraft::wire::{LeaseOutcome, NodeMessage};
use crate::types::command::LeaseLeader;
use crate::types::{ApiError, Command, GroupId, LeaseId, NodeId, RequestId, Term};

impl Core {
    pub(super) fn ask_lease(&mut self, group: GroupId, token: Token, lease: LeaseId, renew: bool) {
        if let Err(error) = self.check_open(group) {
            return self.reply(token, Err(error));
        }
        let kind = RequestKind::Lease { lease, renew, asked_ms: None };
        let seq = self.begin(Some(token), group, kind);
        self.dispatch(seq);
    }

    /// Brings a lease question to whom can answer it, unless it was asked a moment ago.
    pub(super) fn dispatch_lease(&mut self, seq: u64, now: u64) {
        let origin = self.config.origin;
        let Some(request) = self.requests.get_mut(&seq) else { return };
        let group = request.group;
        let start_ms = request.start_ms;
        let RequestKind::Lease { lease, renew, asked_ms } = &mut request.kind else { return };
        let (lease, renew) = (*lease, *renew);
        if asked_ms.is_some_and(|at| now < at + ROUND_RETRY_MS) {
            return;
        }
        let entry = self.groups.get_mut(&group).expect("requests name groups of this core");
        if entry.leads() {
            // A read waits by itself from here; it comes back if leadership is not confirmed.
            *asked_ms = Some(u64::MAX - ROUND_RETRY_MS);
            let asker = LeaseAsker::Here(seq);
            let reader = Reader::Lease { asker, lease, renew, term: entry.soft.term };
            let deadline_ms = start_ms + self.config.request_ms();
            entry.reads.push(Waiting { reader, start_ms, deadline_ms });
        } else if !entry.soft.leader.is_none() {
            *asked_ms = Some(now);
            let (leader, id) = (entry.soft.leader, RequestId { origin, seq });
            self.send(leader, NodeMessage::LeaseAsk { group, id, lease, renew });
        } else {
            *asked_ms = None;
            entry.parked.push_back(seq);
        }
    }

    pub(super) fn retry_lease_asks(&mut self) {
        let now = self.now_ms;
        let open: Vec<u64> = self
            .requests
            .iter()
            .filter(|(_, request)| match request.kind {
                RequestKind::Lease { asked_ms: Some(at), .. } => now >= at + ROUND_RETRY_MS,
                _ => false,
            })
            .map(|(&seq, _)| seq)
            .collect();
        for seq in open {
            self.dispatch_lease(seq, now);
        }
    }

    /// Another member passes a question on.
    pub(super) fn lease_asked(
        &mut self,
        from: NodeId,
        group: GroupId,
        id: RequestId,
        lease: LeaseId,
        renew: bool,
    ) {
        let start_ms = self.now_ms;
        let deadline_ms = start_ms + self.config.request_ms();
        match self.groups.get_mut(&group) {
            Some(entry) if entry.leads() && entry.reads.len() < self.config.pending_max => {
                let asker = LeaseAsker::There(from, id);
                let reader = Reader::Lease { asker, lease, renew, term: entry.soft.term };
                entry.reads.push(Waiting { reader, start_ms, deadline_ms });
            }
            _ => {
                let outcome = LeaseOutcome::NotLeader;
                self.send(from, NodeMessage::LeaseTold { group, id, outcome });
            }
        }
    }

    /// The round that a question joined has its index applied: leadership in `term` was confirmed
    /// after it came in, and everything that was decided about the lease until then is known.
    pub(super) fn lease_confirmed(
        &mut self,
        group: GroupId,
        asker: LeaseAsker,
        lease: LeaseId,
        renew: bool,
        term: Term,
    ) {
        let now = self.now_ms;
        let entry = self.group_mut(group);
        if !entry.leads() || entry.soft.term != term {
            return self.lease_unconfirmed(group, asker);
        }
        let mut granted_seconds = 0;
        let mut remaining_seconds = -1;
        if !renew {
            if let Some((granted, remaining)) = entry.lessor.time_to_live(lease, now) {
                (granted_seconds, remaining_seconds) = (granted, remaining);
            }
        } else if let Renewal::Renewed { ttl_seconds, checkpointed } =
            entry.lessor.renew(lease, now)
        {
            (granted_seconds, remaining_seconds) = (ttl_seconds, ttl_seconds);
            if checkpointed {
                return self.clear_checkpoint(group, asker, lease, ttl_seconds);
            }
        }
        self.tell_lease(group, asker, LeaseOutcome::Known { granted_seconds, remaining_seconds });
    }

    /// The keepalive may be told only once a later leader cannot go back to the remainder.
    fn clear_checkpoint(
        &mut self,
        group: GroupId,
        asker: LeaseAsker,
        lease: LeaseId,
        ttl_seconds: i64,
    ) {
        let command = Command::LeaseCheckpoint { remaining: vec![(lease, 0)], leader: None };
        let seq = self
            .propose_inside(group, command, |parked| RequestKind::Renewed { ttl_seconds, parked });
        match asker {
            LeaseAsker::Here(asking) => {
                // The proposal takes the request's place.
                if let Some(request) = self.remove(asking)
                    && let Some(token) = request.token
                {
                    self.tokens.insert(token, seq);
                    self.requests.get_mut(&seq).expect("it was just begun").token = Some(token);
                }
            }
            // The asker asks again; by then the remainder is cleared.
            LeaseAsker::There(..) => self.lease_unconfirmed(group, asker),
        }
    }

    fn tell_lease(&mut self, group: GroupId, asker: LeaseAsker, outcome: LeaseOutcome) {
        match asker {
            LeaseAsker::Here(seq) => self.lease_answered(seq, outcome),
            LeaseAsker::There(from, id) => {
                self.send(from, NodeMessage::LeaseTold { group, id, outcome });
            }
        }
    }

    /// Leadership was lost or could not be confirmed: the question is asked anew.
    pub(super) fn lease_unconfirmed(&mut self, group: GroupId, asker: LeaseAsker) {
        match asker {
            LeaseAsker::Here(seq) => {
                if let Some(request) = self.requests.get_mut(&seq)
                    && let RequestKind::Lease { asked_ms, .. } = &mut request.kind
                {
                    *asked_ms = Some(self.now_ms);
                }
            }
            LeaseAsker::There(from, id) => {
                let outcome = LeaseOutcome::Unconfirmed;
                self.send(from, NodeMessage::LeaseTold { group, id, outcome });
            }
        }
    }

    /// The leader's answer to a question this member passed on.
    pub(super) fn lease_told(&mut self, id: RequestId, outcome: LeaseOutcome) {
        if id.origin == self.config.origin {
            self.lease_answered(id.seq, outcome);
        }
    }

    fn lease_answered(&mut self, seq: u64, outcome: LeaseOutcome) {
        let Some(request) = self.requests.get(&seq) else { return };
        let RequestKind::Lease { renew, .. } = request.kind else { return };
        match outcome {
            LeaseOutcome::Known { granted_seconds, .. } if renew => {
                self.finish(seq, Ok(Answer::KeptAlive { ttl_seconds: granted_seconds }));
            }
            LeaseOutcome::Known { granted_seconds, remaining_seconds } => {
                self.finish(seq, Ok(Answer::LeaseTtl { granted_seconds, remaining_seconds }));
            }
            // Asked again when its time comes.
            LeaseOutcome::NotLeader | LeaseOutcome::Unconfirmed => {}
        }
    }

    /// A leader begins to count once it has applied all that its predecessors have decided. Before,
    /// it may not know of a keepalive that has cleared a remainder, or of the lease at all.
    pub(super) fn count_leases(&mut self, group: GroupId) {
        let (now, grace) = (self.now_ms, self.config.election_ms());
        let Some(entry) = self.groups.get_mut(&group) else { return };
        if entry.counts_from.is_some_and(|first| first <= entry.applied) {
            entry.counts_from = None;
            entry.lessor.promote(now, grace);
        }
    }

    /// Proposes the end of leases whose time is over, as the leader of now: a later one has given
    /// them more time and refuses this.
    pub(super) fn expire_leases(&mut self, group: GroupId) {
        let now = self.now_ms;
        let entry = self.group_mut(group);
        if !entry.leads() {
            return;
        }
        let corrupt =
            entry.alarms.iter().any(|(_, kind)| *kind == crate::types::command::AlarmKind::Corrupt);
        if corrupt {
            return;
        }
        let (applied, requests) = (entry.applied, &self.requests);
        let entry = self.groups.get_mut(&group).expect("it leads");
        let last = self.host.replica(group).expect("every group has a replica").last();
        entry.lessor.settle(applied, last, |seq| requests.contains_key(&seq));
        let ids = entry.lessor.expired(now);
        if ids.is_empty() {
            return;
        }
        let leader = Some(LeaseLeader { term: entry.soft.term, applied });
        self.counters.leases_expired += ids.len() as u64;
        let command = Command::LeaseRevoke { ids: ids.clone(), leader };
        let seq = self.propose_inside(group, command, |parked| RequestKind::Proposal { parked });
        self.group_mut(group).lessor.revoking(ids, seq);
    }

    /// Proposes how much is left of long leases, so that a leader to come need not begin them
    /// anew. Only where the operator asked for it.
    pub(super) fn checkpoint_leases(&mut self, group: GroupId) {
        let Some(interval_ms) = self.config.lease_checkpoint_ms else { return };
        let now = self.now_ms;
        let entry = self.group_mut(group);
        if !entry.leads() {
            return;
        }
        let remaining = entry.lessor.checkpoints(now, interval_ms);
        if remaining.is_empty() {
            return;
        }
        let leader = Some(LeaseLeader { term: entry.soft.term, applied: entry.applied });
        let command = Command::LeaseCheckpoint { remaining, leader };
        self.propose_inside(group, command, |parked| RequestKind::Proposal { parked });
    }

    /// Ends every request that waits.
    pub(super) fn fail_requests(&mut self, error: &ApiError) {
        let all: Vec<u64> = self.requests.keys().copied().collect();
        for seq in all {
            self.finish(seq, Err(error.clone()));
        }
    }
}
