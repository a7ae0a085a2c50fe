//! A candidate, of either kind, counts answers; and every replica answers those who ask.
//!
//! A *pre-candidate* asks "would you?" for the next term without entering it: a node that was cut
//! off for a while, and could not win, does not force its term on the others when it returns
//! (thesis 9.6). A *candidate* has entered the term, and its own vote counts like any other: once
//! it is durable.

use super::core::Core;
use super::quorum::{self, Tally};
use super::{Effect, Effects, Note};
use crate::types::{ConfState, LogIndex, MessageBody, NodeId, Term};
use std::collections::BTreeMap;

#[derive(Debug, Default)]
pub struct Candidate {
    votes: BTreeMap<NodeId, bool>,
}

impl Candidate {
    /// Counts an answer: a voter's first one, for a correct voter has no second.
    pub fn record(&mut self, core: &Core, from: NodeId, granted: bool) -> Tally {
        if core.is_voter(from) {
            self.votes.entry(from).or_insert(granted);
        }
        self.tally(&core.conf)
    }

    pub fn tally(&self, conf: &ConfState) -> Tally {
        quorum::tally(conf, |id| self.votes.get(&id).copied())
    }
}

/// Asks every other voter what it would do in the next term.
pub fn ask_before(core: &Core, fx: &mut Effects) {
    let (last_index, last_term) = (core.log.last(), core.log.last_term());
    for id in core.other_voters() {
        let body = MessageBody::PreVote { last_index, last_term };
        core.send_in_term(id, core.term().next(), body, fx);
    }
}

/// Asks for votes in the current term, oneself first. Even the questions wait for the disk: a
/// candidate that crashed and forgot this term could enter it again with a shorter log, and must
/// then not find answers that were given to the longer one.
pub fn ask(core: &Core, forced: bool, fx: &mut Effects) {
    let (last_index, last_term) = (core.log.last(), core.log.last_term());
    core.send_once_persisted(core.id(), MessageBody::VoteReply { granted: true }, fx);
    for id in core.other_voters() {
        let body = MessageBody::Vote { last_index, last_term, forced };
        core.send_once_persisted(id, body, fx);
    }
}

/// `from` asks what we would do in `term`, which is ours or newer. Changes nothing here.
pub fn on_pre_vote(
    core: &Core,
    from: NodeId,
    term: Term,
    (last_index, last_term): (LogIndex, Term),
    fx: &mut Effects,
) {
    let free =
        term > core.term() || core.vote() == from || core.vote().is_none() && core.leader.is_none();
    let granted = free && core.log.is_up_to_date(last_index, last_term);
    note_vote(granted, from, term, true, fx);
    // A promise is made for the term asked about, a refusal speaks in our own.
    let answer_term = if granted { term } else { core.term() };
    let body = MessageBody::PreVoteReply { granted };
    if answer_term.0 == 0 {
        // Before the first term there is nothing to say no with.
        return;
    }
    core.send_in_term(from, answer_term, body, fx);
    tell_commit(core, from, last_index, fx);
}

/// Along with a pre-vote's answer and a vote's refusal goes what is known to be committed, as far as the candidate's log goes.
///
/// Without it a change of membership can end in a deadlock. Voters 1 and 3; 3 leads, and removes
/// itself:
/// 1. The change is on both disks; 3 commits and applies it. The configuration is now 1 alone.
/// 2. The message that would tell 1 so is lost, or 3 crashes before it leaves.
/// 3. To 1 the configuration is still 1 and 3: it needs the vote of 3.
/// 4. But 3 has later entries in its log, never committed, so it refuses; and being no member it
///    never campaigns.
///
/// That the change is committed is a fact whoever tells it, and all that 1 lacks. With the answer
/// "yes" it goes as well: whoever would get the vote may still not win under a configuration
/// that, as the voter knows, is over.
pub fn tell_commit(core: &Core, to: NodeId, last: LogIndex, fx: &mut Effects) {
    let index = core.commit().min(last);
    if let Some(term) = core.log.term(index)
        && term > Term::ZERO
    {
        core.send_in_term(to, Term::ZERO, MessageBody::Committed { index, term }, fx);
    }
}

/// `from` asks for the vote of the current term.
pub fn on_vote(core: &mut Core, from: NodeId, last: (LogIndex, Term), fx: &mut Effects) {
    let free = core.vote() == from || core.vote().is_none() && core.leader.is_none();
    let granted = free && core.log.is_up_to_date(last.0, last.1);
    note_vote(granted, from, core.term(), false, fx);
    if granted {
        core.vote_for(from, fx);
        core.reset_election_timer();
    }
    core.send_once_persisted(from, MessageBody::VoteReply { granted }, fx);
    if !granted {
        tell_commit(core, from, last.0, fx);
    }
}

fn note_vote(granted: bool, to: NodeId, term: Term, pre: bool, fx: &mut Effects) {
    fx.push(Effect::Note(if granted {
        Note::VoteGranted { to, term, pre }
    } else {
        Note::VoteRefused { to, term, pre }
    }));
}

#[cfg(test)]
mod tests {
    use super::super::{Boot, Config};
    use super::*;
    use crate::types::GroupId;
    use bytes::Bytes;

    #[test]
    fn only_voters_count_and_only_once() {
        let conf = ConfState::of_voters(vec![NodeId(1), NodeId(2), NodeId(3)]);
        let config = Config::new(NodeId(1), GroupId(1), 1, |_| Bytes::new());
        let core = Core::new(config, Boot { conf, ..Boot::default() });
        let mut candidate = Candidate::default();
        assert_eq!(candidate.record(&core, NodeId(9), true), Tally::Pending);
        assert_eq!(candidate.record(&core, NodeId(2), false), Tally::Pending);
        assert_eq!(candidate.record(&core, NodeId(2), true), Tally::Pending);
        assert_eq!(candidate.record(&core, NodeId(1), true), Tally::Pending);
        assert_eq!(candidate.record(&core, NodeId(3), true), Tally::Won);
    }
}
