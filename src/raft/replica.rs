//! One replica: what it is in every role (`Core`), what its present role adds, and the dispatcher
//! that brings an input to it.
//!
//! A step has three parts: the terms of messages (below), the role's handler, and the upkeep that
//! every step ends with (`finish`): committed entries are handed out, a changed commit index is
//! noted for the disk, a changed leader or role is told.

use super::candidate::{self, Candidate};
use super::core::Core;
use super::follower::{self, Follower};
use super::leader::{Leader, Reign};
use super::quorum::Tally;
use super::read_index::Read;
use super::{
    Boot, Config, Dropped, Effect, Effects, Input, Note, ReadFor, Role, Status, conf_change, gate,
};
use crate::types::{ConfChange, LogIndex, Message, MessageBody, NodeId, Term};
use bytes::Bytes;

/// See the module's documentation.
#[derive(Debug)]
pub struct Replica {
    core: Core,
    state: State,
    /// The soft state last told to the host.
    told: (NodeId, Role, Term),
}

#[derive(Debug)]
enum State {
    Follower(Follower),
    PreCandidate(Candidate),
    Candidate(Candidate),
    Leader(Box<Leader>),
}

impl State {
    fn role(&self) -> Role {
        match self {
            State::Follower(_) => Role::Follower,
            State::PreCandidate(_) => Role::PreCandidate,
            State::Candidate(_) => Role::Candidate,
            State::Leader(_) => Role::Leader,
        }
    }
}

/// How a campaign begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Campaign {
    /// As configured: with a pre-vote or without.
    Usual,
    /// A pre-vote was won.
    AfterPreVote,
    /// The leader hands over: no pre-vote, and others vote although they hear from the leader.
    Forced,
}

/// What tells a peer of our term and promises nothing.
fn term_alone() -> MessageBody {
    MessageBody::AppendReply { index: LogIndex::ZERO, reject: None }
}

impl Replica {
    /// A follower that knows no leader. Entries that `boot` says are committed and not applied
    /// are handed out by the first step, whatever its input.
    pub fn new(config: Config, boot: Boot) -> Replica {
        let core = Core::new(config, boot);
        let told = (NodeId::NONE, Role::Follower, core.term());
        Replica { core, state: State::Follower(Follower::default()), told }
    }

    pub fn step(&mut self, input: Input, fx: &mut Effects) {
        match input {
            Input::Tick => self.tick(fx),
            Input::Message(message) => self.on_message(message, fx),
            Input::Propose { data } => self.propose(data, fx),
            Input::ProposeConfChange(change) => self.propose_conf_change(change, fx),
            Input::ReadIndex { context } => self.read_index(context, fx),
            Input::Transfer(to) => self.transfer(to, fx),
            Input::Campaign => {
                self.campaign(Campaign::Usual, fx);
                // At boot the changes that stand in the way are about to be applied. A leader
                // that speaks up meanwhile settles the matter.
                let core = &mut self.core;
                let waits = core.is_voter(core.id()) && core.installing.is_none();
                core.campaign_wanted = waits && self.state.role() == Role::Follower;
            }
            Input::Persisted { term, index } => self.on_persisted(term, index, fx),
            Input::SnapshotInstalled { meta } => {
                follower::on_snapshot_installed(&mut self.core, meta, fx);
            }
            Input::SnapshotRefused { index } => {
                follower::on_snapshot_refused(&mut self.core, index, fx);
            }
            Input::EntriesRead { purpose: ReadFor::Apply, from, entries } => {
                let commit = self.core.commit();
                let Core { apply, log, .. } = &mut self.core;
                apply.entries_read(from, entries, log, commit, fx);
            }
            Input::EntriesRead { purpose: ReadFor::Follower(id), from, entries } => {
                if let State::Leader(leader) = &mut self.state {
                    leader.on_entries_read(&self.core, id, from, entries, fx);
                }
            }
            Input::SnapshotReady { to, meta } => {
                if let State::Leader(leader) = &mut self.state {
                    leader.on_snapshot_ready(&self.core, to, meta, fx);
                }
            }
            Input::SnapshotFailed { to } => {
                if let State::Leader(leader) = &mut self.state {
                    leader.on_snapshot_failed(to, fx);
                }
            }
            Input::Applied { index } => self.on_applied(index, fx),
            Input::ConfApplied { index, change } => self.on_conf_applied(index, change, fx),
            Input::Unreachable(id) => {
                if let State::Leader(leader) = &mut self.state {
                    leader.on_unreachable(id, fx);
                }
            }
            Input::Trim { index } => self.trim(index, fx),
            Input::Wake => self.wake(fx),
        }
        self.finish(fx);
    }

    fn finish(&mut self, fx: &mut Effects) {
        let core = &mut self.core;
        if core.installing.is_none() {
            let commit = core.commit();
            core.apply.pump(&core.log, commit, &core.config.bounds, fx);
        }
        core.save(fx);
        let now = (core.leader, self.state.role(), core.term());
        if now != self.told {
            self.told = now;
            let (leader, role, term) = now;
            fx.push(Effect::SoftState { leader, role, term });
        }
        self.check();
    }

    /// What holds after every step.
    fn check(&self) {
        let core = &self.core;
        assert!(core.apply.applied() <= core.commit(), "applied what is not committed");
        assert!(core.commit() <= core.log.last(), "committed what is not in the log");
        assert!(core.log.start().0 <= core.apply.applied(), "trimmed what is not applied");
        assert!(core.log.last_term() <= core.term(), "an entry from the future");
        assert_eq!(
            self.state.role() == Role::Leader,
            core.leader == core.id(),
            "a replica knows whether it leads"
        );
        if let State::Candidate(_) | State::Leader(_) = self.state {
            assert_eq!(core.vote(), core.id(), "campaigning without one's own vote");
        }
    }

    fn tick(&mut self, fx: &mut Effects) {
        match &mut self.state {
            State::Leader(leader) => {
                if let Reign::Over(why) = leader.tick(&mut self.core, fx) {
                    self.step_down(why, fx);
                }
            }
            State::Follower(follower) => {
                if follower.tick(&mut self.core, fx) {
                    self.core.reset_election_timer();
                    self.campaign(Campaign::Usual, fx);
                }
            }
            State::PreCandidate(_) | State::Candidate(_) => {
                self.core.election_elapsed += 1;
                if self.core.election_elapsed >= self.core.election_timeout {
                    self.core.reset_election_timer();
                    self.campaign(Campaign::Usual, fx);
                }
            }
        }
    }

    // ---------------------------------------------------------------- messages and their terms

    fn on_message(&mut self, message: Message, fx: &mut Effects) {
        let me = self.core.id();
        let (from, name) = (message.from, message.body.name());
        let misdirected = message.group != self.core.config.group || message.to != me;
        let to_itself = from == me && !matches!(message.body, MessageBody::VoteReply { .. });
        let verdict = match gate::check(&message) {
            _ if misdirected => Err("not addressed to this replica"),
            _ if to_itself => Err("from ourselves"),
            verdict => verdict,
        };
        if let Err(why) = verdict {
            return fx.push(self.core.bad_message(from, name, why));
        }
        let Message { term, body, .. } = message;
        match body {
            // Requests on behalf of clients are of no term.
            MessageBody::Propose { data } => return self.on_forwarded_proposal(from, data, fx),
            MessageBody::ReadIndex { context } => {
                return self.on_forwarded_read(from, context, fx);
            }
            MessageBody::Committed { index, term } => return self.learn_commit(index, term),
            _ => {}
        }
        if term < self.core.term() {
            return self.answer_from_newer_term(from, &body, fx);
        }
        if term > self.core.term() && !self.meet_newer_term(from, term, &body, fx) {
            return;
        }
        self.on_current(from, term, body, fx);
    }

    /// Somebody knows this entry to be committed. A leader finds out by itself.
    fn learn_commit(&mut self, index: LogIndex, term: Term) {
        let leads = matches!(self.state, State::Leader(_));
        if !leads && self.core.installing.is_none() && self.core.log.matches(index, term) {
            self.core.commit_to(index);
        }
    }

    /// A message of a term that is over. Most are only late; but a leader or a candidate that
    /// speaks so may have missed the new term and would perhaps never learn of it from our
    /// silence. What is said promises nothing.
    fn answer_from_newer_term(&mut self, from: NodeId, body: &MessageBody, fx: &mut Effects) {
        let core = &self.core;
        match body {
            MessageBody::Append { .. }
            | MessageBody::Heartbeat { .. }
            | MessageBody::Snapshot { .. }
                if core.config.check_quorum || core.config.pre_vote =>
            {
                core.send(from, term_alone(), fx);
            }
            MessageBody::PreVote { last_index, .. } => {
                core.send(from, MessageBody::PreVoteReply { granted: false }, fx);
                candidate::tell_commit(core, from, *last_index, fx);
            }
            // The paper's figure 2: told of our term, the candidate's next one is above it. If we
            // were silent and do not know it to be a voter yet, our term and its would grow side
            // by side for as long as chance will. Not a "no": it may ask in our term yet.
            MessageBody::Vote { last_index, .. } => {
                core.send(from, term_alone(), fx);
                candidate::tell_commit(core, from, *last_index, fx);
            }
            _ => {}
        }
    }

    /// A message of a term that is new here. False when it is to be ignored.
    fn meet_newer_term(
        &mut self,
        from: NodeId,
        term: Term,
        body: &MessageBody,
        fx: &mut Effects,
    ) -> bool {
        let leader = match body {
            MessageBody::PreVote { .. } | MessageBody::Vote { forced: false, .. }
                if self.core.is_leader_alive() =>
            {
                fx.push(Effect::Note(Note::VoteIgnored { from, term }));
                return false;
            }
            // "Would you in that term?" and "I would": nobody has entered it yet.
            MessageBody::PreVote { .. } | MessageBody::PreVoteReply { granted: true } => {
                return true;
            }
            MessageBody::Append { .. }
            | MessageBody::Heartbeat { .. }
            | MessageBody::Snapshot { .. }
            | MessageBody::TimeoutNow => from,
            _ => NodeId::NONE,
        };
        fx.push(Effect::Note(Note::NewerTerm { from, term }));
        self.become_follower(term, leader, fx);
        true
    }

    /// A message of our term, or a pre-vote's of a newer one.
    fn on_current(&mut self, from: NodeId, term: Term, body: MessageBody, fx: &mut Effects) {
        match body {
            MessageBody::PreVote { last_index, last_term } => {
                candidate::on_pre_vote(&self.core, from, term, (last_index, last_term), fx);
            }
            MessageBody::PreVoteReply { granted } => {
                self.on_pre_vote_reply(from, term, granted, fx);
            }
            MessageBody::Vote { last_index, last_term, .. } => {
                candidate::on_vote(&mut self.core, from, (last_index, last_term), fx);
            }
            MessageBody::VoteReply { granted } => self.on_vote_reply(from, granted, fx),
            MessageBody::Append { prev_index, prev_term, commit, entries } => {
                if self.follow(from, "Append", fx) {
                    let prev = (prev_index, prev_term);
                    follower::on_append(&mut self.core, from, prev, commit, entries, fx);
                }
            }
            MessageBody::Heartbeat { commit, context } => {
                if self.follow(from, "Heartbeat", fx) {
                    follower::on_heartbeat(&mut self.core, from, commit, context, fx);
                }
            }
            MessageBody::Snapshot { meta } => {
                if self.follow(from, "Snapshot", fx) {
                    follower::on_snapshot(&mut self.core, from, meta, fx);
                }
            }
            MessageBody::TimeoutNow => {
                if self.follow(from, "TimeoutNow", fx) {
                    self.campaign(Campaign::Forced, fx);
                }
            }
            MessageBody::AppendReply { index, reject } => {
                if let State::Leader(leader) = &mut self.state {
                    leader.on_append_reply(&mut self.core, from, index, reject, fx);
                }
            }
            MessageBody::HeartbeatReply { context } => {
                if let State::Leader(leader) = &mut self.state {
                    leader.on_heartbeat_reply(&mut self.core, from, context, fx);
                }
            }
            MessageBody::SnapshotRefused { .. } => {
                if let State::Leader(leader) = &mut self.state {
                    leader.on_snapshot_failed(from, fx);
                }
            }
            MessageBody::ReadIndexReply { context, index } => {
                if let State::Follower(follower) = &mut self.state {
                    follower.on_read_index_reply(context, index, fx);
                }
            }
            MessageBody::Propose { .. }
            | MessageBody::ReadIndex { .. }
            | MessageBody::Committed { .. } => {
                unreachable!("requests and facts of no term are served before")
            }
        }
    }

    /// `from` speaks as the leader of our term. False when it cannot be: a term has one leader.
    fn follow(&mut self, from: NodeId, name: &'static str, fx: &mut Effects) -> bool {
        let core = &mut self.core;
        if core.leader == from {
            core.election_elapsed = 0;
            core.campaign_wanted = false;
            true
        } else if core.leader.is_none() {
            let term = core.term();
            self.become_follower(term, from, fx);
            true
        } else {
            fx.push(core.bad_message(from, name, "a second leader of one term"));
            false
        }
    }

    // ------------------------------------------------------------------------------ elections

    fn become_follower(&mut self, term: Term, leader: NodeId, fx: &mut Effects) {
        // A newer term alone is no reason to be patient: only a leader is, or a vote given (paper
        // 5.2). Else candidates that cannot win hold back the one that can, with every term anew.
        let leads = matches!(self.state, State::Leader(_));
        let waits_on = term > self.core.term() && leader.is_none() && !leads;
        if term > self.core.term() {
            self.core.set_term(term, fx);
        }
        assert_ne!(leader, self.core.id(), "following oneself");
        self.leave_role(State::Follower(Follower::default()), leader, fx);
        if !waits_on {
            self.core.reset_election_timer();
        }
    }

    /// Gives up what the role held, and enters `next` under `leader`.
    fn leave_role(&mut self, next: State, leader: NodeId, fx: &mut Effects) {
        let me = self.core.id();
        self.core.leader = leader;
        self.core.campaign_wanted = false;
        match std::mem::replace(&mut self.state, next) {
            State::Leader(old) => {
                for read in old.into_reads().into_unanswered() {
                    if read.from == me {
                        fx.push(Effect::ReadDropped { context: read.context });
                    }
                }
            }
            State::Follower(mut old) => {
                old.forwarded.give_up_all(|context| fx.push(Effect::ReadDropped { context }));
            }
            State::PreCandidate(_) | State::Candidate(_) => {}
        }
    }

    fn step_down(&mut self, why: &'static str, fx: &mut Effects) {
        let term = self.core.term();
        fx.push(Effect::Note(Note::SteppedDown { term, why }));
        self.become_follower(term, NodeId::NONE, fx);
    }

    fn campaign(&mut self, how: Campaign, fx: &mut Effects) {
        if let State::Leader(_) = self.state {
            return;
        }
        if let Some(why) = self.core.campaign_obstacle() {
            return fx.push(Effect::Note(Note::NoCampaign { why }));
        }
        if how == Campaign::Usual && self.core.config.pre_vote {
            self.campaign_before_voting(fx);
        } else {
            self.campaign_for_votes(how == Campaign::Forced, fx);
        }
    }

    fn campaign_before_voting(&mut self, fx: &mut Effects) {
        fx.push(Effect::Note(Note::Campaign { term: self.core.term().next(), pre: true }));
        let mut candidate = Candidate::default();
        let tally = candidate.record(&self.core, self.core.id(), true);
        self.leave_role(State::PreCandidate(candidate), NodeId::NONE, fx);
        self.core.reset_election_timer();
        candidate::ask_before(&self.core, fx);
        if tally == Tally::Won {
            self.campaign(Campaign::AfterPreVote, fx);
        }
    }

    fn campaign_for_votes(&mut self, forced: bool, fx: &mut Effects) {
        let term = self.core.term().next();
        fx.push(Effect::Note(Note::Campaign { term, pre: false }));
        self.leave_role(State::Candidate(Candidate::default()), NodeId::NONE, fx);
        self.core.set_term(term, fx);
        self.core.vote_for(self.core.id(), fx);
        self.core.reset_election_timer();
        candidate::ask(&self.core, forced, fx);
    }

    fn on_pre_vote_reply(&mut self, from: NodeId, term: Term, granted: bool, fx: &mut Effects) {
        let own = self.core.term();
        let State::PreCandidate(candidate) = &mut self.state else { return };
        // A promise is of the term asked about, a refusal of the one we are both in.
        if granted != (term == own.next()) {
            return;
        }
        match candidate.record(&self.core, from, granted) {
            Tally::Won => self.campaign(Campaign::AfterPreVote, fx),
            Tally::Lost => {
                fx.push(Effect::Note(Note::CampaignLost { term: own.next(), pre: true }));
                self.become_follower(own, NodeId::NONE, fx);
            }
            Tally::Pending => {}
        }
    }

    fn on_vote_reply(&mut self, from: NodeId, granted: bool, fx: &mut Effects) {
        let term = self.core.term();
        let State::Candidate(candidate) = &mut self.state else { return };
        match candidate.record(&self.core, from, granted) {
            Tally::Won => self.become_leader(fx),
            Tally::Lost => {
                fx.push(Effect::Note(Note::CampaignLost { term, pre: false }));
                self.become_follower(term, NodeId::NONE, fx);
            }
            Tally::Pending => {}
        }
    }

    fn become_leader(&mut self, fx: &mut Effects) {
        let core = &mut self.core;
        assert!(core.installing.is_none(), "a leader has its own state");
        fx.push(Effect::Note(Note::Elected { term: core.term(), last: core.log.last() }));
        core.reset_election_timer();
        core.leader = core.id();
        let leader = Leader::new(core, fx);
        self.state = State::Leader(Box::new(leader));
    }

    // ------------------------------------------------------------------- what the host asks for

    fn propose(&mut self, data: Vec<Bytes>, fx: &mut Effects) {
        match &mut self.state {
            State::Leader(leader) => leader.propose(&mut self.core, data, fx),
            State::Follower(follower) => follower.propose(&self.core, data, fx),
            State::PreCandidate(_) | State::Candidate(_) => {
                fx.push(Effect::ProposalsDropped { data, reason: Dropped::NoLeader });
            }
        }
    }

    /// A follower's clients propose. If this node does not lead any more its leader may still be
    /// asked; each such hop needs a newer term, so proposals cannot go round in circles.
    fn on_forwarded_proposal(&mut self, from: NodeId, data: Vec<Bytes>, fx: &mut Effects) {
        let served = match &mut self.state {
            State::Leader(leader) => {
                let mut mine = Effects::new();
                leader.propose(&mut self.core, data, &mut mine);
                // What is refused was not proposed here: there is nobody to tell.
                let mut refused = false;
                for effect in mine.drain() {
                    match effect {
                        Effect::ProposalsDropped { .. } => refused = true,
                        effect => fx.push(effect),
                    }
                }
                !refused
            }
            State::Follower(follower)
                if !self.core.leader.is_none() && self.core.leader != from =>
            {
                follower.propose(&self.core, data, fx);
                true
            }
            _ => false,
        };
        if !served {
            fx.push(Effect::Note(Note::Unserved { from, name: "Propose" }));
        }
    }

    fn propose_conf_change(&mut self, change: ConfChange, fx: &mut Effects) {
        let reason = match &mut self.state {
            State::Leader(leader) => {
                return leader.propose_conf_change(&mut self.core, change, fx);
            }
            _ if self.core.leader.is_none() => Dropped::NoLeader,
            _ => Dropped::NotLeader,
        };
        fx.push(Effect::ConfChangeDropped { change, reason });
    }

    fn read_index(&mut self, context: u64, fx: &mut Effects) {
        match &mut self.state {
            State::Leader(leader) => {
                let read = Read { from: self.core.id(), context };
                leader.read_index(&mut self.core, read, fx);
            }
            State::Follower(follower) => follower.read_index(&self.core, context, fx),
            State::PreCandidate(_) | State::Candidate(_) => {
                fx.push(Effect::ReadDropped { context });
            }
        }
    }

    fn on_forwarded_read(&mut self, from: NodeId, context: u64, fx: &mut Effects) {
        match &mut self.state {
            State::Leader(leader) => {
                leader.read_index(&mut self.core, Read { from, context }, fx);
            }
            _ => fx.push(Effect::Note(Note::Unserved { from, name: "ReadIndex" })),
        }
    }

    fn transfer(&mut self, to: NodeId, fx: &mut Effects) {
        match &mut self.state {
            State::Leader(leader) => leader.transfer(&self.core, to, fx),
            _ => fx.push(Effect::Note(Note::TransferRefused { to, why: "not the leader" })),
        }
    }

    fn wake(&mut self, fx: &mut Effects) {
        match &mut self.state {
            State::Leader(leader) => leader.wake(&mut self.core, fx),
            _ => self.core.election_elapsed = 0,
        }
    }

    // ------------------------------------------------------------------ what the host has done

    fn on_persisted(&mut self, term: Term, index: LogIndex, fx: &mut Effects) {
        if self.core.log.persist(term, index)
            && let State::Leader(leader) = &mut self.state
        {
            leader.on_persisted(&mut self.core, fx);
        }
    }

    fn on_applied(&mut self, index: LogIndex, fx: &mut Effects) {
        assert!(
            self.core.log.first_conf_change().is_none_or(|first| index < first),
            "entry {index} is applied, but no verdict came on the configuration change before it"
        );
        self.advance_applied(index, fx);
    }

    fn advance_applied(&mut self, index: LogIndex, fx: &mut Effects) {
        if !self.core.apply.advance(index) {
            return;
        }
        if let State::Leader(leader) = &mut self.state {
            leader.leave_joint_if_due(&mut self.core, fx);
        } else if self.core.campaign_wanted && self.core.campaign_obstacle().is_none() {
            self.campaign(Campaign::Usual, fx);
        }
    }

    fn on_conf_applied(&mut self, index: LogIndex, change: Option<ConfChange>, fx: &mut Effects) {
        if index <= self.core.apply.applied() {
            // Overtaken by a snapshot, which brought the configuration with it.
            return;
        }
        self.core.log.conf_change_decided(index);
        match change.map(|change| conf_change::changed(&self.core.conf, &change)) {
            Some(Ok(conf)) => {
                self.core.conf = conf;
                fx.push(Effect::Conf(self.core.conf.clone()));
                if let State::Leader(leader) = &mut self.state
                    && let Reign::Over(why) = leader.on_conf(&mut self.core, fx)
                {
                    self.step_down(why, fx);
                }
            }
            None | Some(Err(_)) => fx.push(Effect::Note(Note::ConfRefused { index })),
        }
        self.advance_applied(index, fx);
    }

    fn trim(&mut self, index: LogIndex, fx: &mut Effects) {
        let core = &mut self.core;
        let mut bound = core.apply.applied().min(core.log.persisted());
        if let State::Leader(leader) = &self.state {
            bound = bound.min(leader.trim_bound());
        }
        if core.installing.is_none() && core.log.trim(index.min(bound)) {
            let (index, term) = core.log.start();
            fx.push(Effect::Trim { index, term });
        }
    }

    // ---------------------------------------------------------------------------- for the host

    pub fn status(&self) -> Status {
        let core = &self.core;
        let (transferee, progress) = match &self.state {
            State::Leader(leader) => (leader.transferee(), leader.status(core)),
            _ => (NodeId::NONE, Vec::new()),
        };
        Status {
            id: core.id(),
            term: core.term(),
            vote: core.vote(),
            role: self.state.role(),
            leader: core.leader,
            commit: core.commit(),
            applied: core.apply.applied(),
            start: core.log.start().0,
            last: core.log.last(),
            last_term: core.log.last_term(),
            persisted: core.log.persisted(),
            conf: core.conf.clone(),
            transferee,
            progress,
        }
    }

    pub fn id(&self) -> NodeId {
        self.core.id()
    }
    pub fn term(&self) -> Term {
        self.core.term()
    }
    pub fn role(&self) -> Role {
        self.state.role()
    }
    pub fn leader(&self) -> NodeId {
        self.core.leader
    }
    /// The first entry of its own leadership, if it leads: what comes before was decided under
    /// others.
    pub fn leads_from(&self) -> Option<LogIndex> {
        match &self.state {
            State::Leader(leader) => Some(leader.first()),
            _ => None,
        }
    }
    pub fn commit(&self) -> LogIndex {
        self.core.commit()
    }
    pub fn applied(&self) -> LogIndex {
        self.core.apply.applied()
    }
    pub fn last(&self) -> LogIndex {
        self.core.log.last()
    }
    /// The last trimmed entry.
    pub fn log_start(&self) -> (LogIndex, Term) {
        self.core.log.start()
    }
    /// The term of an entry of the log, or of its start; `None` outside.
    pub fn log_term(&self, index: LogIndex) -> Option<Term> {
        self.core.log.term(index)
    }
    /// Entry bytes held in memory.
    pub fn cache_bytes(&self) -> usize {
        self.core.log.cache_bytes()
    }

    /// Whether nothing is under way here. The host may stop the ticks of a group that has been
    /// quiet on all its nodes for several heartbeats, and must send `Input::Wake` before it ticks
    /// again; any other input may come without one, and then ends the quiet.
    pub fn is_quiet(&self) -> bool {
        let core = &self.core;
        let idle = core.apply.is_idle()
            && core.apply.applied() == core.commit()
            && core.commit() == core.log.last()
            && core.installing.is_none();
        idle && match &self.state {
            State::Leader(leader) => leader.is_quiet(core),
            State::Follower(follower) => !core.leader.is_none() && follower.forwarded.len() == 0,
            State::PreCandidate(_) | State::Candidate(_) => false,
        }
    }

    /// Lets go of the memory that a quiet group does not need: entries can be read back.
    pub fn release_memory(&mut self) {
        self.core.log.release_memory();
        if let State::Leader(leader) = &mut self.state {
            leader.release_memory();
        }
    }
}
