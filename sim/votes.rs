//! Who may vote for whom, judged by what the voter was asked and what its log held just then.
//!
//! A vote, or the promise of one, goes only to a candidate whose log is at least as up to date as
//! the voter's own (paper 5.4.1). Wrong votes of the first kind lose committed entries sooner or
//! later; wrong promises only disturb a cluster, which no rule about logs ever sees. So both are
//! held against the question as it arrived. Both logs' ends are the members' own words; what
//! they hold is `safety`'s to check.

use crate::rules::control::control;
use crate::safety::{Checked, ensure};
use quorate::types::{GroupId, LogIndex, Message, MessageBody, NodeId, Term};
use std::collections::BTreeMap;

/// The end of a log, in the order in which logs compare.
pub type LogEnd = (Term, LogIndex);

/// Voter, candidate, the term in question, and whether it is only a promise.
type Ballot = (GroupId, NodeId, NodeId, Term, bool);

/// What a voter was asked.
#[derive(Clone, Copy, Debug)]
struct Asked {
    /// Some question came from a log that is as up to date as the voter's.
    fair: bool,
    announced: LogEnd,
    own: LogEnd,
}

#[derive(Debug, Default)]
pub struct Votes {
    asked: BTreeMap<Ballot, Asked>,
}

impl Votes {
    /// A question reaches a voter whose log ends at `own`; `None` when that is not known exactly.
    pub fn on_question(&mut self, own: Option<LogEnd>, message: &Message) {
        let (announced, pre) = match &message.body {
            MessageBody::Vote { last_index, last_term, .. } => ((*last_term, *last_index), false),
            MessageBody::PreVote { last_index, last_term } => ((*last_term, *last_index), true),
            _ => return,
        };
        let ballot = (message.group, message.to, message.from, message.term, pre);
        let fair = own.is_none_or(|own| own <= announced);
        let own = own.unwrap_or_default();
        let asked = self.asked.entry(ballot).or_insert(Asked { fair, announced, own });
        asked.fair |= fair;
    }

    /// A member says yes.
    pub fn on_answer(&self, message: &Message) -> Checked {
        let pre = match &message.body {
            MessageBody::VoteReply { granted: true } => false,
            MessageBody::PreVoteReply { granted: true } => true,
            _ => return Ok(()),
        };
        let ballot = (message.group, message.from, message.to, message.term, pre);
        let Some(asked) = self.asked.get(&ballot) else { return Ok(()) };
        ensure!(
            asked.fair,
            "vote-for-an-older-log",
            "group {}: {} says yes to {} for term {} (pre-vote: {pre}), whose log ends at (term, \
             index) {:?}; its own ended at {:?}",
            message.group,
            message.from,
            message.to,
            message.term,
            asked.announced,
            asked.own
        );
        Ok(())
    }
}

/// Negative controls.
pub fn self_check() {
    let message = |from, to, body| Message {
        group: GroupId(1),
        from: NodeId(from),
        to: NodeId(to),
        term: Term(5),
        body,
    };
    let asks = |last| {
        message(1, 2, MessageBody::PreVote { last_index: LogIndex(last), last_term: Term(3) })
    };
    let yes = message(2, 1, MessageBody::PreVoteReply { granted: true });
    let own = Some((Term(3), LogIndex(10)));
    control("vote-for-an-older-log", |spoilt| {
        let mut votes = Votes::default();
        votes.on_question(own, &asks(9));
        // Asked again, with a longer log.
        if !spoilt {
            votes.on_question(own, &asks(10));
        }
        votes.on_answer(&yes)
    });
}
