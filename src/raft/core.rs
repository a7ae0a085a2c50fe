//! What a replica is in every role: its term and vote, its log, its configuration, its clock in
//! ticks, and how it speaks.

use super::apply::Apply;
use super::log::Log;
use super::{Boot, Config, Effect, Effects, Note};
use crate::types::message::SnapshotMeta;
use crate::types::prng::Prng;
use crate::types::{ConfState, Entry, HardState, LogIndex, Message, MessageBody, NodeId, Term};

#[derive(Debug)]
pub struct Core {
    pub config: Config,
    /// Term and vote change only through `set_term` and `vote_for`, commit through `commit_to`.
    hard: HardState,
    /// The hard state last handed to the host.
    saved: HardState,
    pub log: Log,
    pub apply: Apply,
    /// In force: as of the last change applied, never merely committed.
    pub conf: ConfState,
    /// Who leads this term, as far as is known.
    pub leader: NodeId,
    /// Ticks since the leader was heard from, or a vote given, or a campaign begun; at a leader,
    /// since the last quorum check.
    pub election_elapsed: u32,
    /// Drawn anew at each reset, so that two campaigns that split the votes do not repeat.
    pub election_timeout: u32,
    prng: Prng,
    /// A snapshot being fetched, and from whom. Meanwhile the log does not change and nothing is
    /// applied: the state machine is about to be replaced.
    pub installing: Option<(NodeId, SnapshotMeta)>,
    /// A campaign was asked for and had to wait for a configuration change.
    pub campaign_wanted: bool,
}

impl Core {
    pub fn new(config: Config, boot: Boot) -> Core {
        assert!(!config.id.is_none(), "a replica needs an id");
        assert!(config.heartbeat_ticks >= 1, "heartbeats need an interval");
        assert!(
            config.election_ticks > config.heartbeat_ticks,
            "a follower must hear a heartbeat within an election timeout"
        );
        let mut log = Log::new(
            boot.start,
            boot.last,
            &boot.terms,
            boot.tail,
            config.bounds.log_cache_bytes_max,
        );
        log.conf_change_decided(boot.applied);
        assert!(boot.start.0 <= boot.applied, "the log starts behind what is applied");
        assert!(boot.applied <= boot.last, "the store is ahead of the log");
        assert!(
            log.last_term() <= boot.hard.term,
            "the log has entries of term {}, the hard state is of term {}",
            log.last_term(),
            boot.hard.term
        );
        // The commit index on disk is a hint. What is applied was committed; what the log does not
        // have cannot be known to be.
        let commit = boot.hard.commit.max(boot.applied).min(boot.last);
        let hard = HardState { commit, ..boot.hard };
        let mut core = Core {
            prng: Prng::stream(config.seed, "raft election timeout"),
            apply: Apply::new(boot.applied),
            conf: boot.conf,
            leader: NodeId::NONE,
            election_elapsed: 0,
            election_timeout: 0,
            installing: None,
            campaign_wanted: false,
            saved: hard,
            hard,
            log,
            config,
        };
        core.reset_election_timer();
        core
    }

    pub fn id(&self) -> NodeId {
        self.config.id
    }
    pub fn term(&self) -> Term {
        self.hard.term
    }
    pub fn vote(&self) -> NodeId {
        self.hard.vote
    }
    pub fn commit(&self) -> LogIndex {
        self.hard.commit
    }

    pub fn is_voter(&self, id: NodeId) -> bool {
        let in_half = |half: &[NodeId]| half.binary_search(&id).is_ok();
        in_half(&self.conf.voters) || in_half(&self.conf.voters_outgoing)
    }

    /// The voters but this node.
    pub fn other_voters(&self) -> Vec<NodeId> {
        let mut ids = self.conf.voters.clone();
        ids.extend(&self.conf.voters_outgoing);
        ids.sort_unstable();
        ids.dedup();
        ids.retain(|id| *id != self.id());
        ids
    }

    /// Moves to a newer term, in which this node has not voted yet.
    pub fn set_term(&mut self, term: Term, fx: &mut Effects) {
        assert!(term > self.hard.term, "the term never decreases");
        self.hard.term = term;
        self.hard.vote = NodeId::NONE;
        self.save(fx);
    }

    /// The one vote of this term.
    pub fn vote_for(&mut self, id: NodeId, fx: &mut Effects) {
        let vote = self.hard.vote;
        assert!(vote.is_none() || vote == id, "a second vote in term {}", self.hard.term);
        self.hard.vote = id;
        self.save(fx);
    }

    /// Hands the hard state to the host if it changed. Called at once for term and vote, so that
    /// no later message can leave before them, and at the end of a step for the commit index.
    ///
    /// That end-of-step call is not only a courtesy to a later boot. A leader proposes a change
    /// of configuration only once the one before is applied, so whoever appends the second knows
    /// the first to be committed. Both facts go to disk in one batch, hence a disk that has the
    /// second change in its log knows of the first, and its owner will not campaign with a
    /// configuration two steps old, whose quorums need not overlap with today's.
    pub fn save(&mut self, fx: &mut Effects) {
        if self.hard != self.saved {
            self.saved = self.hard;
            fx.push(Effect::SaveHardState(self.hard));
        }
    }

    /// Everything up to `index` is committed. Not news when it was before.
    pub fn commit_to(&mut self, index: LogIndex) -> bool {
        if index <= self.hard.commit {
            return false;
        }
        assert!(index <= self.log.last(), "commit {index} is behind the log {}", self.log.last());
        self.hard.commit = index;
        true
    }

    /// Adds entries to the log and hands them to the disk.
    pub fn append(&mut self, entries: Vec<Entry>, fx: &mut Effects) {
        if !entries.is_empty() {
            fx.push(Effect::Append(entries.clone()));
            self.log.append(entries);
        }
    }

    pub fn reset_election_timer(&mut self) {
        self.election_elapsed = 0;
        let ticks = u64::from(self.config.election_ticks);
        self.election_timeout = self.prng.between(ticks, 2 * ticks - 1) as u32;
    }

    /// Whether a leader has been heard from so recently that nobody needs an election.
    pub fn is_leader_alive(&self) -> bool {
        self.config.check_quorum
            && !self.leader.is_none()
            && self.election_elapsed < self.config.election_ticks
    }

    /// Why this node must not campaign.
    pub fn campaign_obstacle(&self) -> Option<&'static str> {
        if !self.is_voter(self.id()) {
            Some("not a voter")
        } else if self.installing.is_some() {
            Some("a snapshot is being installed")
        } else if self.log.has_conf_change(self.apply.applied(), self.commit()) {
            Some("a committed configuration change is not applied")
        } else {
            None
        }
    }

    fn message(&self, to: NodeId, term: Term, body: MessageBody) -> Message {
        Message { group: self.config.group, from: self.id(), to, term, body }
    }

    /// Speaks in the current term, at once.
    pub fn send(&self, to: NodeId, body: MessageBody, fx: &mut Effects) {
        self.send_in_term(to, self.term(), body, fx);
    }

    /// Speaks of another term: a pre-vote asks about the next one, a forwarded request is of none.
    pub fn send_in_term(&self, to: NodeId, term: Term, body: MessageBody, fx: &mut Effects) {
        assert_ne!(to, self.id(), "a message to oneself waits for one's own disk");
        fx.push(Effect::Send(self.message(to, term, body)));
    }

    /// Speaks once what was handed to the disk so far is durable.
    pub fn send_once_persisted(&self, to: NodeId, body: MessageBody, fx: &mut Effects) {
        fx.push(Effect::SendOncePersisted(self.message(to, self.term(), body)));
    }

    pub fn bad_message(&self, from: NodeId, name: &'static str, why: &'static str) -> Effect {
        Effect::Note(Note::BadMessage { from, name, why })
    }
}
