//! Which states the protocol has been in, and which corners of the code.
//!
//! A group's *abstract state* is what is left of it when all numbers are gone: each member's role
//! and whether it runs, its term and its log only as a rank among the others, whether its log
//! is committed to the end, whether a snapshot comes in or goes out, whether leadership is handed over,
//! the kind of configuration, and what disturbs the cluster. States are counted per run; a seed that
//! reaches one which few others have is worth a second look (`run::corpus`).
//!
//! Probes are names of corners (`World::reached`); the notes of Raft count as well. The run names
//! those that no seed has reached.

use quorate::raft::{PeerState, Role};
use quorate::types::map::Set;
use quorate::types::{ConfState, GroupId, LogIndex, Term};
use std::collections::BTreeMap;

/// Corners that some seed of a long run has to reach. Names of Raft's notes are below.
pub const PROBES: &[&str] = &[
    "checkpoint-finished",
    "demotion-begun",
    "demotion-ended",
    "pin-refused",
    "pins-at-one-index",
    "snapshot-chunk-served",
    "snapshot-installed",
    "snapshot-refused",
    "stopped-by-disk",
];

const NOTES: &[&str] = &[
    "AppendRefused",
    "AutoLeave",
    "Campaign",
    "CampaignLost",
    "ConfRefused",
    "Elected",
    "FastForward",
    "NewerTerm",
    "NoCampaign",
    "Probing",
    "Replicating",
    "SnapshotIgnored",
    "SnapshotInstalled",
    "SnapshotNeeded",
    "SteppedDown",
    "TransferAborted",
    "TransferRefused",
    "TransferStarted",
    "Truncated",
    "Unserved",
    "VoteGranted",
    "VoteIgnored",
    "VoteRefused",
];

/// What one member is to one group, numbers and all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Facet {
    pub up: bool,
    pub role: u8,
    pub term: Term,
    pub last: LogIndex,
    pub commit: LogIndex,
    /// Phases that are on or off: a snapshot comes in, leadership goes away, a peer gets a snapshot.
    pub phases: u16,
    pub conf: u8,
}

pub fn role(role: Role) -> u8 {
    match role {
        Role::Follower => 0,
        Role::Leader => 2,
        _ => 1,
    }
}

pub fn peer_phase(state: PeerState) -> u16 {
    match state {
        PeerState::Snapshot => 1 << 2,
        PeerState::Probe | PeerState::Replicate => 0,
    }
}

/// Voters of one set or two, learners or none.
pub fn conf_kind(conf: &ConfState) -> u8 {
    u8::from(conf.is_joint()) | u8::from(!conf.learners.is_empty()) << 1
}

#[derive(Default)]
pub struct Coverage {
    facets: BTreeMap<GroupId, Vec<Facet>>,
    pub states: Set<u64>,
    pub probes: BTreeMap<&'static str, u64>,
}

impl Coverage {
    pub fn reached(&mut self, name: &'static str) {
        debug_assert!(PROBES.contains(&name) || NOTES.contains(&name), "{name} is not on the list");
        *self.probes.entry(name).or_default() += 1;
    }

    /// Member `m` has made a step; `faults` is what disturbs the cluster now.
    pub fn step(&mut self, group: GroupId, m: usize, members: usize, facet: Facet, faults: u64) {
        let facets = self.facets.entry(group).or_default();
        facets.resize(members.max(facets.len()), Facet::default());
        if facets[m] == facet {
            return;
        }
        facets[m] = facet;
        let rank = |of: &dyn Fn(&Facet) -> (u64, u64), mine: &Facet| {
            facets.iter().filter(|f| f.up && of(f) > of(mine)).count().min(2) as u64
        };
        let mut words: Vec<u64> = facets
            .iter()
            .map(|f| {
                if !f.up {
                    return 1;
                }
                let term = rank(&|f| (f.term.0, 0), f);
                let log = rank(&|f| (f.last.0, 0), f);
                let behind = u64::from(f.commit < f.last);
                let word = u64::from(f.role) | term << 2 | log << 4 | behind << 6;
                2 | word << 2 | u64::from(f.conf) << 12 | u64::from(f.phases) << 16
            })
            .collect();
        // Which member it is does not matter.
        words.sort_unstable();
        let mut hash = faults;
        for word in words {
            hash = crate::seed::at(hash, word);
        }
        self.states.insert(hash);
    }
}

/// Names that no seed has reached.
pub fn unreached(probes: &BTreeMap<&'static str, u64>) -> Vec<&'static str> {
    PROBES.iter().chain(NOTES).copied().filter(|name| !probes.contains_key(name)).collect()
}
