//! What happened inside a step, for the host's log, the scripts and the simulator's coverage.
//! Nothing acts on a note.

use crate::types::{LogIndex, NodeId, Term};
use std::fmt;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// A campaign began for `term`; `pre` only asks.
    Campaign {
        term: Term,
        pre: bool,
    },
    /// A campaign was not begun, and why.
    NoCampaign {
        why: &'static str,
    },
    /// A campaign lost against a quorum of refusals.
    CampaignLost {
        term: Term,
        pre: bool,
    },
    Elected {
        term: Term,
        last: LogIndex,
    },
    /// A leader became a follower in its own term, and why.
    SteppedDown {
        term: Term,
        why: &'static str,
    },
    /// A message of a higher term was met.
    NewerTerm {
        from: NodeId,
        term: Term,
    },
    /// A request for a vote was ignored because a leader is alive.
    VoteIgnored {
        from: NodeId,
        term: Term,
    },
    VoteGranted {
        to: NodeId,
        term: Term,
        pre: bool,
    },
    VoteRefused {
        to: NodeId,
        term: Term,
        pre: bool,
    },
    /// A message that no correct peer sends was dropped.
    BadMessage {
        from: NodeId,
        name: &'static str,
        why: &'static str,
    },
    /// A proposal or a read was met by a replica that cannot serve it, and it was not ours.
    Unserved {
        from: NodeId,
        name: &'static str,
    },
    /// The suffix from here on gave way to the leader's.
    Truncated {
        from: LogIndex,
        last: LogIndex,
    },
    /// An append did not fit: the leader looks further back.
    AppendRefused {
        leader: NodeId,
        prev: LogIndex,
    },
    /// The leader goes back to probing a follower.
    Probing {
        peer: NodeId,
        next: LogIndex,
    },
    /// The leader starts to stream to a follower.
    Replicating {
        peer: NodeId,
        next: LogIndex,
    },
    /// The entry a follower needs is trimmed.
    SnapshotNeeded {
        peer: NodeId,
        next: LogIndex,
    },
    SnapshotIgnored {
        from: NodeId,
        index: LogIndex,
        why: &'static str,
    },
    SnapshotInstalled {
        index: LogIndex,
        term: Term,
    },
    /// The snapshot's point is in the log already.
    FastForward {
        index: LogIndex,
    },
    TransferStarted {
        to: NodeId,
    },
    TransferRefused {
        to: NodeId,
        why: &'static str,
    },
    TransferAborted {
        to: NodeId,
    },
    /// A committed change of configuration was refused by the applier or does not fit.
    ConfRefused {
        index: LogIndex,
    },
    /// The leader proposes to leave the joint configuration.
    AutoLeave,
}

impl Note {
    /// A short name for counters.
    pub fn name(&self) -> &'static str {
        match self {
            Note::Campaign { .. } => "Campaign",
            Note::NoCampaign { .. } => "NoCampaign",
            Note::CampaignLost { .. } => "CampaignLost",
            Note::Elected { .. } => "Elected",
            Note::SteppedDown { .. } => "SteppedDown",
            Note::NewerTerm { .. } => "NewerTerm",
            Note::VoteIgnored { .. } => "VoteIgnored",
            Note::VoteGranted { .. } => "VoteGranted",
            Note::VoteRefused { .. } => "VoteRefused",
            Note::BadMessage { .. } => "BadMessage",
            Note::Unserved { .. } => "Unserved",
            Note::Truncated { .. } => "Truncated",
            Note::AppendRefused { .. } => "AppendRefused",
            Note::Probing { .. } => "Probing",
            Note::Replicating { .. } => "Replicating",
            Note::SnapshotNeeded { .. } => "SnapshotNeeded",
            Note::SnapshotIgnored { .. } => "SnapshotIgnored",
            Note::SnapshotInstalled { .. } => "SnapshotInstalled",
            Note::FastForward { .. } => "FastForward",
            Note::TransferStarted { .. } => "TransferStarted",
            Note::TransferRefused { .. } => "TransferRefused",
            Note::TransferAborted { .. } => "TransferAborted",
            Note::ConfRefused { .. } => "ConfRefused",
            Note::AutoLeave => "AutoLeave",
        }
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pre = |pre: &bool| if *pre { "pre-" } else { "" };
        match self {
            Note::Campaign { term, pre: p } => write!(f, "{}campaign for term {term}", pre(p)),
            Note::NoCampaign { why } => write!(f, "no campaign: {why}"),
            Note::CampaignLost { term, pre: p } => {
                write!(f, "{}campaign for term {term} lost", pre(p))
            }
            Note::Elected { term, last } => write!(f, "elected in term {term}, log ends at {last}"),
            Note::SteppedDown { term, why } => write!(f, "stepped down in term {term}: {why}"),
            Note::NewerTerm { from, term } => write!(f, "newer term {term} from {from}"),
            Note::VoteIgnored { from, term } => {
                write!(f, "vote for {from} in term {term} ignored: the leader is alive")
            }
            Note::VoteGranted { to, term, pre: p } => {
                write!(f, "{}vote for {to} in term {term} granted", pre(p))
            }
            Note::VoteRefused { to, term, pre: p } => {
                write!(f, "{}vote for {to} in term {term} refused", pre(p))
            }
            Note::BadMessage { from, name, why } => write!(f, "bad {name} from {from}: {why}"),
            Note::Unserved { from, name } => write!(f, "{name} from {from} not served"),
            Note::Truncated { from, last } => write!(f, "truncated {from}..={last}"),
            Note::AppendRefused { leader, prev } => {
                write!(f, "append of {leader} at {prev} refused")
            }
            Note::Probing { peer, next } => write!(f, "probing {peer} at {next}"),
            Note::Replicating { peer, next } => write!(f, "replicating to {peer} from {next}"),
            Note::SnapshotNeeded { peer, next } => {
                write!(f, "{peer} needs a snapshot: {next} is trimmed")
            }
            Note::SnapshotIgnored { from, index, why } => {
                write!(f, "snapshot {index} of {from} ignored: {why}")
            }
            Note::SnapshotInstalled { index, term } => {
                write!(f, "snapshot {index} of term {term} installed")
            }
            Note::FastForward { index } => write!(f, "snapshot {index} is in the log already"),
            Note::TransferStarted { to } => write!(f, "transfer to {to} started"),
            Note::TransferRefused { to, why } => write!(f, "transfer to {to} refused: {why}"),
            Note::TransferAborted { to } => write!(f, "transfer to {to} aborted"),
            Note::ConfRefused { index } => write!(f, "configuration change at {index} refused"),
            Note::AutoLeave => write!(f, "leaving the joint configuration"),
        }
    }
}
