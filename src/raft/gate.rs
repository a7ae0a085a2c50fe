//! The gate for messages: what passes can be stepped without a panic, whoever wrote it.
//!
//! Peers are trusted to follow the protocol (this is not a Byzantine world), but not to be free
//! of bugs or of bit rot that a checksum missed. What is checked here is form: numbers that
//! arithmetic can bear, a term where there must be one, lists in order. Whether a message is
//! *true* its handler asks, against its own state.

use super::conf_change;
use crate::types::{Message, MessageBody};

/// No log and no term reaches this by counting; beyond it, additions could overflow.
const COUNTER_MAX: u64 = 1 << 62;

/// Why the message must be dropped, if it must.
pub fn check(message: &Message) -> Result<(), &'static str> {
    let Message { from, term, body, .. } = message;
    if from.is_none() {
        return Err("no sender");
    }
    let counters = match body {
        MessageBody::PreVote { last_index, last_term }
        | MessageBody::Vote { last_index, last_term, .. } => [last_index.0, last_term.0],
        MessageBody::Append { prev_index, commit, .. } => [prev_index.0, commit.0],
        MessageBody::AppendReply { index, reject } => {
            [index.0, reject.map_or(0, |hint| hint.index.0.max(hint.term.0))]
        }
        MessageBody::Heartbeat { commit, .. } => [commit.0, 0],
        MessageBody::Snapshot { meta } => [meta.index.0, meta.term.0],
        MessageBody::Committed { index, term } => [index.0, term.0],
        MessageBody::SnapshotRefused { index } | MessageBody::ReadIndexReply { index, .. } => {
            [index.0, 0]
        }
        MessageBody::PreVoteReply { .. }
        | MessageBody::VoteReply { .. }
        | MessageBody::HeartbeatReply { .. }
        | MessageBody::TimeoutNow
        | MessageBody::Propose { .. }
        | MessageBody::ReadIndex { .. } => [0, 0],
    };
    if counters.into_iter().chain([term.0]).any(|counter| counter > COUNTER_MAX) {
        return Err("a counter out of range");
    }
    match body {
        MessageBody::Propose { .. }
        | MessageBody::ReadIndex { .. }
        | MessageBody::Committed { .. } => return Ok(()),
        _ if term.0 == 0 => return Err("no term"),
        _ => {}
    }
    match body {
        MessageBody::PreVote { last_term, .. } | MessageBody::Vote { last_term, .. }
            if last_term >= term =>
        {
            Err("a candidate's log reaches into its own term")
        }
        MessageBody::Snapshot { meta } => {
            if meta.index.0 == 0 || meta.term.0 == 0 || meta.term > *term {
                return Err("a snapshot of no possible entry");
            }
            if meta.conf.voters.is_empty() {
                return Err("a snapshot without voters");
            }
            conf_change::check(&meta.conf)
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::message::SnapshotMeta;
    use crate::types::{ConfState, GroupId, LogIndex, NodeId, Term};

    fn verdict(term: u64, body: MessageBody) -> Result<(), &'static str> {
        let (group, from, to) = (GroupId(1), NodeId(1), NodeId(2));
        check(&Message { group, from, to, term: Term(term), body })
    }

    #[test]
    fn what_is_dropped() {
        let heartbeat = |commit| MessageBody::Heartbeat { commit: LogIndex(commit), context: 0 };
        assert!(verdict(1, heartbeat(5)).is_ok());
        assert!(verdict(0, heartbeat(5)).is_err(), "no term");
        assert!(verdict(u64::MAX, heartbeat(5)).is_err(), "the next term would overflow");
        assert!(verdict(1, heartbeat(u64::MAX)).is_err(), "the next index would overflow");
        assert!(verdict(0, MessageBody::ReadIndex { context: u64::MAX }).is_ok());
        let vote = |last_term| MessageBody::Vote {
            last_index: LogIndex(1),
            last_term: Term(last_term),
            forced: false,
        };
        assert!(verdict(3, vote(2)).is_ok());
        assert!(verdict(3, vote(3)).is_err());
        let snapshot = |voters: &[u64]| MessageBody::Snapshot {
            meta: SnapshotMeta {
                index: LogIndex(1),
                term: Term(1),
                conf: ConfState {
                    voters: voters.iter().copied().map(NodeId).collect(),
                    ..ConfState::default()
                },
            },
        };
        assert!(verdict(1, snapshot(&[1, 2])).is_ok());
        assert!(verdict(1, snapshot(&[])).is_err());
        assert!(verdict(1, snapshot(&[2, 1])).is_err());
    }
}
