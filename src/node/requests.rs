//! Requests that go through the log, and the end of every request.
//!
//! A proposal is checked, encoded once, and handed to raft. Raft either appends it here, forwards
//! it to the leader, or says that it never took it: then, and only then, it is parked and tried
//! again when a leader is known. One that was forwarded is never sent again: whether it was
//! applied is told by apply, or nobody knows.

use super::action::{Answer, Token};
use super::core::Core;
use super::membership::MembershipChange;
use super::quota;
use super::reads::{Reader, Waiting};
use crate::codec::command::{decode_request_id, encode_proposal};
use crate::multiraft::apply::{AppliedEntry, Outcome};
use crate::mvcc::quota_cost;
use crate::raft::{Dropped, quorum};
use crate::types::auth::Caller;
use crate::types::command::{AlarmAction, AlarmKind, AlarmRequest, Proposal};
use crate::types::{ApiError, Command, GroupId, LeaseId, NodeId, RequestId, limits};
use bytes::Bytes;

/// Reads waiting in one group; beyond it "too many requests". They cost a few words each.
const READS_MAX: usize = 65_536;
/// A NOSPACE alarm that has not shown up by then is raised again.
const ALARM_RETRY_MS: u64 = 1_000;

/// Numbers of the core's own requests begin here; a client's request has its token's number, so
/// that whoever applies an entry knows whom to tell.
pub(super) const INSIDE_SEQ: u64 = 1 << 63;

/// A request that waits for its end.
#[derive(Debug)]
pub(super) struct Request {
    /// `None` for what the core asks of itself.
    pub token: Option<Token>,
    pub group: GroupId,
    pub start_ms: u64,
    pub kind: RequestKind,
}

#[derive(Debug)]
pub(super) enum RequestKind {
    /// `parked` has the bytes exactly while raft has not taken them.
    Proposal { parked: Option<Bytes> },
    /// The member's publication of itself: not held back by the gate it opens.
    Publish { parked: Option<Bytes> },
    /// A keepalive or TTL question. It may be asked again: it changes nothing that counts twice.
    Lease { lease: LeaseId, renew: bool, asked_ms: Option<u64> },
    /// A renewed lease whose checkpointed remainder must be cleared before that is told.
    Renewed { ttl_seconds: i64, parked: Option<Bytes> },
    /// `None` once it was passed to a leader or proposed.
    Membership { change: Option<MembershipChange> },
}

impl Request {
    pub fn is_membership(&self) -> bool {
        matches!(self.kind, RequestKind::Membership { .. })
    }
    fn parked_bytes(&self) -> usize {
        match &self.kind {
            RequestKind::Proposal { parked: Some(data) }
            | RequestKind::Publish { parked: Some(data) }
            | RequestKind::Renewed { parked: Some(data), .. } => data.len(),
            _ => 0,
        }
    }
    fn parked_mut(&mut self) -> Option<&mut Option<Bytes>> {
        match &mut self.kind {
            RequestKind::Proposal { parked }
            | RequestKind::Publish { parked }
            | RequestKind::Renewed { parked, .. } => Some(parked),
            RequestKind::Lease { .. } | RequestKind::Membership { .. } => None,
        }
    }
}

impl Core {
    pub(super) fn propose(
        &mut self,
        group: GroupId,
        token: Token,
        caller: Option<Caller>,
        mut command: Command,
    ) {
        if let Err(error) = self.prepare_proposal(group, &mut command) {
            if error == ApiError::TooManyRequests {
                self.counters.too_many += 1;
            }
            self.counters.proposals_failed += 1;
            return self.reply(token, Err(error));
        }
        let refused = self.refused_by_state(group, &command);
        let id = RequestId { origin: self.config.origin, seq: token.0 };
        let data = encode_proposal(&Proposal { id, caller, command });
        if data.len() > self.config.request_bytes_max {
            self.counters.proposals_failed += 1;
            return self.reply(token, Err(ApiError::RequestTooLarge));
        }
        if let Some(error) = refused {
            self.counters.proposals_failed += 1;
            return self.reply(token, Err(error));
        }
        if self.parked_bytes + data.len() > limits::UNCOMMITTED_BYTES_MAX {
            self.counters.too_many += 1;
            self.counters.proposals_failed += 1;
            return self.reply(token, Err(ApiError::TooManyRequests));
        }
        self.counters.proposals += 1;
        let seq = self.begin(Some(token), group, RequestKind::Proposal { parked: Some(data) });
        self.dispatch(seq);
    }

    /// What is refused before it costs anything; a lease gets its id and its shortest time.
    fn prepare_proposal(&mut self, group: GroupId, command: &mut Command) -> Result<(), ApiError> {
        self.check_open(group)?;
        if self.is_behind() {
            return Err(ApiError::TooManyRequests);
        }
        if let Command::LeaseGrant { id, ttl_seconds } = command {
            *ttl_seconds = (*ttl_seconds).max(self.config.ttl_seconds_min());
            while id.is_none() {
                *id = LeaseId((self.prng.next_u64() >> 1) as i64);
            }
        }
        let cost = quota_cost(command);
        if !quota::fits(cost, self.pressure.file_bytes, self.config.quota_bytes) {
            if !self.has_alarm(group, AlarmKind::NoSpace) {
                self.raise_nospace(group);
            }
            return Err(ApiError::NoSpace);
        }
        Ok(())
    }

    /// What etcd refuses when it applies: alarms, then what the command itself has wrong. A
    /// request that is too large has been told so by then.
    fn refused_by_state(&self, group: GroupId, command: &Command) -> Option<ApiError> {
        if self.has_alarm(group, AlarmKind::Corrupt) && quota::changes_data(command) {
            return Some(ApiError::Corrupt);
        }
        if self.has_alarm(group, AlarmKind::NoSpace) && quota_cost(command) > 0 {
            return Some(ApiError::NoSpace);
        }
        match command {
            Command::LeaseGrant { ttl_seconds, .. }
                if *ttl_seconds > limits::LEASE_TTL_SECONDS_MAX =>
            {
                Some(ApiError::LeaseTtlTooLarge)
            }
            _ => None,
        }
    }

    fn has_alarm(&self, group: GroupId, kind: AlarmKind) -> bool {
        self.groups[&group].alarms.iter().any(|(_, active)| *active == kind)
    }

    /// Whether a request may begin at all.
    pub(super) fn check_open(&self, group: GroupId) -> Result<(), ApiError> {
        if self.is_leaving() {
            return Err(ApiError::Stopped);
        }
        if !self.groups.contains_key(&group) {
            return Err(ApiError::MemberNotFound);
        }
        if self.requests.len() >= self.config.pending_max {
            return Err(ApiError::TooManyRequests);
        }
        Ok(())
    }

    /// Whether the store is so far behind the log that writes must wait for a checkpoint.
    pub(super) fn is_behind(&self) -> bool {
        self.pressure.unsaved_bytes >= self.config.tail_bytes.saturating_mul(2)
    }

    fn raise_nospace(&mut self, group: GroupId) {
        let (now, node) = (self.now_ms, self.config.node);
        let entry = self.group_mut(group);
        if entry.nospace_told_ms.is_some_and(|told| now < told + ALARM_RETRY_MS) {
            return;
        }
        entry.nospace_told_ms = Some(now);
        let alarm = AlarmRequest {
            action: AlarmAction::Activate,
            member: node,
            kind: Some(AlarmKind::NoSpace),
        };
        self.propose_inside(group, Command::Alarm(alarm), |parked| RequestKind::Proposal {
            parked,
        });
    }

    /// A proposal of the core itself: nobody is answered.
    pub(super) fn propose_inside(
        &mut self,
        group: GroupId,
        command: Command,
        kind: impl FnOnce(Option<Bytes>) -> RequestKind,
    ) -> u64 {
        let id = RequestId { origin: self.config.origin, seq: self.next_seq };
        let data = encode_proposal(&Proposal { id, caller: None, command });
        let seq = self.begin(None, group, kind(Some(data)));
        self.dispatch(seq);
        seq
    }

    /// Registers a request: a client's under its token, the core's own under the next number
    /// of its range.
    pub(super) fn begin(&mut self, token: Option<Token>, group: GroupId, kind: RequestKind) -> u64 {
        let seq = match token {
            Some(token) => token.0,
            None => {
                self.next_seq += 1;
                self.next_seq - 1
            }
        };
        if let Some(token) = token {
            assert!(token.0 < INSIDE_SEQ, "token {token:?} is in the core's own range");
            let before = self.tokens.insert(token, seq);
            assert!(before.is_none(), "token {token:?} is already in use");
        }
        let start_ms = self.now_ms;
        let request = Request { token, group, start_ms, kind };
        self.parked_bytes += request.parked_bytes();
        self.requests.insert(seq, request);
        self.deadlines.push_back((start_ms + self.config.request_ms(), seq));
        seq
    }

    /// Sends a parked request on its way, or parks it (again).
    pub(super) fn dispatch(&mut self, seq: u64) {
        let Some(request) = self.requests.get(&seq) else { return };
        let (group, now) = (request.group, self.now_ms);
        let gated = match &request.kind {
            RequestKind::Lease { .. } => return self.dispatch_lease(seq, now),
            RequestKind::Membership { .. } => return self.dispatch_membership(seq),
            RequestKind::Publish { .. } => false,
            RequestKind::Proposal { .. } | RequestKind::Renewed { .. } => !self.is_bound(),
        };
        // A leader whose stream is known to be down would never get it, and what has been forwarded
        // is never sent again: the client would wait in vain until its deadline.
        let away = self.leader_is_away(group);
        let entry = self.groups.get_mut(&group).expect("requests name groups of this core");
        if gated || away || entry.soft.leader.is_none() {
            entry.parked.push_back(seq);
            return;
        }
        let request = self.requests.get_mut(&seq).expect("it was there a moment ago");
        let parked = request.parked_mut().expect("other kinds were dispatched above");
        if let Some(data) = parked.take() {
            self.parked_bytes -= data.len();
            entry.outgoing.push(data);
        }
    }

    /// Whether the group's leader is another member, and the stream to it has broken.
    fn leader_is_away(&self, group: GroupId) -> bool {
        let leader = self.groups[&group].soft.leader;
        leader != self.config.node && self.peers.get(&leader).is_some_and(|peer| !peer.up)
    }

    /// Client writes wait until this member's data directory and those of a quorum (in a joint
    /// configuration of both) are bound to their ids: a disk that is wiped before that could come
    /// back and vote against what it had acknowledged.
    pub(super) fn is_bound(&self) -> bool {
        let bound = |id| self.root.members.get(&id).and_then(|member| member.incarnation);
        bound(self.config.node) == Some(self.config.incarnation)
            && quorum::holds(&self.groups[&GroupId::ROOT].conf, |id| bound(id).is_some())
    }

    /// Raft never took these. Ours wait for a better moment; others' are theirs to time out.
    pub(super) fn proposals_dropped(&mut self, group: GroupId, data: Vec<Bytes>, reason: Dropped) {
        for bytes in data {
            let Ok(id) = decode_request_id(&bytes) else { continue };
            if id.origin != self.config.origin {
                continue;
            }
            if reason == Dropped::TooMany {
                self.counters.too_many += 1;
                self.finish(id.seq, Err(ApiError::TooManyRequests));
                continue;
            }
            if let Some(request) = self.requests.get_mut(&id.seq)
                && let Some(parked) = request.parked_mut()
            {
                self.parked_bytes += bytes.len();
                *parked = Some(bytes);
                self.group_mut(group).parked.push_back(id.seq);
            }
        }
    }

    /// Tries parked requests again: a leader may be known by now.
    pub(super) fn retry_parked(&mut self, group: GroupId) {
        let Some(entry) = self.groups.get_mut(&group) else { return };
        if entry.parked.is_empty() || entry.soft.leader.is_none() {
            return;
        }
        let mut parked: Vec<u64> = std::mem::take(&mut entry.parked).into();
        parked.sort_unstable();
        parked.dedup();
        for seq in parked {
            self.dispatch(seq);
        }
    }

    /// An entry of this process was applied.
    pub(super) fn answer_applied(&mut self, entry: AppliedEntry) {
        let AppliedEntry { id, index, term, revision, result } = entry;
        if id.origin != self.config.origin {
            return;
        }
        let Some(request) = self.requests.get(&id.seq) else { return };
        let result = match (&request.kind, result) {
            (RequestKind::Publish { .. }, result) => {
                self.published(&result.map(|_| ()));
                self.publishing = None;
                Err(ApiError::Stopped)
            }
            (&RequestKind::Renewed { ttl_seconds, .. }, Ok(_)) => {
                Ok(Answer::KeptAlive { ttl_seconds })
            }
            (_, Ok(Outcome::Reply(reply))) => Ok(Answer::Applied { reply, revision, index, term }),
            // The removal itself comes later, under the same request.
            (_, Ok(Outcome::Departing)) => return,
            (_, Ok(Outcome::Members { member, members })) => {
                Ok(Answer::Members { member, members })
            }
            (_, Err(error)) => Err(error),
        };
        self.counters.proposals_applied += 1;
        self.finish(id.seq, result);
    }

    /// The end of a request.
    pub(super) fn finish(&mut self, seq: u64, result: Result<Answer, ApiError>) {
        let Some(request) = self.remove(seq) else { return };
        if let Some(token) = request.token {
            self.tokens.remove(&token);
            if result.is_err() {
                self.counters.proposals_failed += 1;
            }
            self.reply(token, result);
        }
    }

    pub(super) fn remove(&mut self, seq: u64) -> Option<Request> {
        let request = self.requests.remove(&seq)?;
        self.parked_bytes -= request.parked_bytes();
        Some(request)
    }

    pub(super) fn cancel(&mut self, token: Token) {
        if let Some(seq) = self.tokens.remove(&token) {
            self.remove(seq);
            return;
        }
        for group in self.groups.values_mut() {
            group.transfers.retain(|(waiting, ..)| *waiting != token);
            if group.reads.cancel(token) {
                return;
            }
        }
    }

    pub(super) fn time_out_requests(&mut self) {
        let now = self.now_ms;
        while let Some(&(deadline_ms, seq)) = self.deadlines.front() {
            let Some(request) = self.requests.get(&seq) else {
                self.deadlines.pop_front();
                continue;
            };
            if now < deadline_ms {
                break;
            }
            self.deadlines.pop_front();
            let error = match request.kind {
                RequestKind::Lease { .. } if self.groups[&request.group].soft.leader.is_none() => {
                    ApiError::NoLeader
                }
                _ => self.timeout_kind(request.group, request.start_ms),
            };
            if self.publishing == Some(seq) {
                self.publishing = None;
            }
            self.finish(seq, Err(error));
        }
        let groups: Vec<GroupId> = self.groups.keys().copied().collect();
        for group in groups {
            let over = |&mut (_, _, until): &mut (Token, NodeId, u64)| now >= until;
            let late: Vec<_> = self.group_mut(group).transfers.extract_if(.., over).collect();
            for (token, ..) in late {
                self.reply(token, Err(ApiError::TimeoutLeaderTransfer));
            }
        }
    }

    /// etcd's guess at why a request timed out.
    fn timeout_kind(&self, group: GroupId, start_ms: u64) -> ApiError {
        let entry = &self.groups[&group];
        let led = entry.led_since_ms;
        let lost = led.saturating_sub(2 * self.config.election_ms());
        if led > 0 && start_ms > lost && start_ms < led {
            return ApiError::TimeoutLeaderFail;
        }
        let since = |peer: NodeId| self.connected_since(peer).is_some_and(|at| at <= start_ms);
        let leader = entry.soft.leader;
        let connected = if leader.is_none() {
            true
        } else if leader == self.config.node {
            let voters = &entry.conf.voters;
            let up = voters.iter().filter(|&&v| v == self.config.node || since(v)).count();
            up > voters.len() / 2
        } else {
            since(leader)
        };
        if connected { ApiError::Timeout } else { ApiError::TimeoutConnectionLost }
    }

    pub(super) fn read(&mut self, group: GroupId, token: Token) {
        if self.is_leaving() {
            return self.reply(token, Err(ApiError::Stopped));
        }
        let (start_ms, deadline_ms) = (self.now_ms, self.now_ms + self.config.request_ms());
        let Some(entry) = self.groups.get_mut(&group) else {
            return self.reply(token, Err(ApiError::MemberNotFound));
        };
        if entry.reads.len() >= READS_MAX {
            self.counters.too_many += 1;
            return self.reply(token, Err(ApiError::TooManyRequests));
        }
        entry.reads.push(Waiting { reader: Reader::Client(token), start_ms, deadline_ms });
        self.counters.reads += 1;
    }

    /// Answers the reads of a group that have their index.
    pub(super) fn serve_reads(&mut self, group: GroupId) {
        let entry = self.group_mut(group);
        let (applied, term) = (entry.applied, entry.soft.term);
        for waiting in entry.reads.take_applied(applied) {
            match waiting.reader {
                Reader::Client(token) => self.reply(token, Ok(Answer::Barrier { applied, term })),
                Reader::Lease { asker, lease, renew, term } => {
                    self.lease_confirmed(group, asker, lease, renew, term);
                }
            }
        }
    }

    pub(super) fn fail_read(&mut self, group: GroupId, waiting: Waiting, error: ApiError) {
        match waiting.reader {
            Reader::Client(token) => {
                self.counters.reads_failed += 1;
                self.reply(token, Err(error));
            }
            Reader::Lease { asker, .. } => self.lease_unconfirmed(group, asker),
        }
    }

    pub(super) fn time_out_reads(&mut self, group: GroupId) {
        let now = self.now_ms;
        for waiting in self.group_mut(group).reads.tick(now) {
            self.fail_read(group, waiting, ApiError::Timeout);
        }
    }
}
