//! How a change turns one configuration into the next, or why it must not.
//!
//! Three ways lead from a configuration to another:
//! - *simple*: at most one voter comes or goes, so old and new majorities overlap;
//! - *enter joint*: any number of changes at once; the old voters stay on as the outgoing half,
//!   and until the joint configuration is left both halves must agree;
//! - *leave joint*: an empty list of changes drops the outgoing half. Voters of that half which
//!   are to become learners wait in `learners_next` until then: a node is never voter and learner
//!   at once.
//!
//! The function is total and depends on nothing but its arguments, so that every node reaches the
//! same verdict about the same entry.

use crate::types::{ConfChange, ConfChangeKind, ConfState, NodeId};
use std::fmt;

/// Why a change does not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfChangeError {
    /// A joint configuration must be left before anything else changes.
    AlreadyJoint,
    /// There is no joint configuration to leave.
    NotJoint,
    /// More than one voter would change without a joint configuration.
    TooManyVoters,
    /// Nobody would be left to vote.
    NoVoters,
    /// No node has this id.
    NoNode,
}

impl fmt::Display for ConfChangeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ConfChangeError::AlreadyJoint => "the configuration is joint already",
            ConfChangeError::NotJoint => "the configuration is not joint",
            ConfChangeError::TooManyVoters => "more than one voter changes in a single step",
            ConfChangeError::NoVoters => "no voter is left",
            ConfChangeError::NoNode => "node id 0",
        })
    }
}

impl std::error::Error for ConfChangeError {}

/// The configuration after `change`, sorted and checked.
pub fn changed(conf: &ConfState, change: &ConfChange) -> Result<ConfState, ConfChangeError> {
    let next = if change.changes.is_empty() {
        leave(conf)?
    } else if conf.is_joint() {
        return Err(ConfChangeError::AlreadyJoint);
    } else if change.joint || change.changes.len() > 1 {
        enter(conf, change)?
    } else {
        simple(conf, change)?
    };
    check(&next).expect("a change of a sound configuration yields a sound one");
    Ok(next)
}

fn simple(conf: &ConfState, change: &ConfChange) -> Result<ConfState, ConfChangeError> {
    let mut next = conf.clone();
    edit(&mut next, change)?;
    let moved = next.voters.iter().filter(|id| !conf.voters.contains(id)).count()
        + conf.voters.iter().filter(|id| !next.voters.contains(id)).count();
    if moved > 1 {
        return Err(ConfChangeError::TooManyVoters);
    }
    Ok(next)
}

fn enter(conf: &ConfState, change: &ConfChange) -> Result<ConfState, ConfChangeError> {
    if conf.voters.is_empty() {
        return Err(ConfChangeError::NoVoters);
    }
    let mut next = conf.clone();
    next.voters_outgoing = conf.voters.clone();
    next.auto_leave = change.auto_leave;
    edit(&mut next, change)?;
    Ok(next)
}

fn leave(conf: &ConfState) -> Result<ConfState, ConfChangeError> {
    if !conf.is_joint() {
        return Err(ConfChangeError::NotJoint);
    }
    let mut next = conf.clone();
    next.voters_outgoing.clear();
    for id in std::mem::take(&mut next.learners_next) {
        insert(&mut next.learners, id);
    }
    next.auto_leave = false;
    Ok(next)
}

/// Makes the changes to the incoming half, in their order.
fn edit(conf: &mut ConfState, change: &ConfChange) -> Result<(), ConfChangeError> {
    for &(kind, id) in &change.changes {
        if id.is_none() {
            return Err(ConfChangeError::NoNode);
        }
        match kind {
            ConfChangeKind::AddVoter => {
                remove(&mut conf.learners, id);
                remove(&mut conf.learners_next, id);
                insert(&mut conf.voters, id);
            }
            ConfChangeKind::AddLearner => {
                remove(&mut conf.voters, id);
                if conf.voters_outgoing.contains(&id) {
                    insert(&mut conf.learners_next, id);
                } else {
                    insert(&mut conf.learners, id);
                }
            }
            ConfChangeKind::Remove => {
                remove(&mut conf.voters, id);
                remove(&mut conf.learners, id);
                remove(&mut conf.learners_next, id);
            }
        }
    }
    if conf.voters.is_empty() { Err(ConfChangeError::NoVoters) } else { Ok(()) }
}

/// Whether a configuration that came from outside keeps the rules of `ConfState`.
pub fn check(conf: &ConfState) -> Result<(), &'static str> {
    let lists = [&conf.voters, &conf.learners, &conf.voters_outgoing, &conf.learners_next];
    if lists.iter().any(|list| !list.is_sorted_by(|a, b| a < b)) {
        return Err("a list of members is not in order");
    }
    if lists.iter().any(|list| list.first().is_some_and(|id| id.is_none())) {
        return Err("a member has no id");
    }
    if conf.voters.is_empty() && conf.is_joint() {
        return Err("the incoming half of a joint configuration is empty");
    }
    let voter = |id: &NodeId| conf.voters.contains(id) || conf.voters_outgoing.contains(id);
    if conf.learners.iter().any(voter) {
        return Err("a learner votes");
    }
    if conf.learners_next.iter().any(|id| !conf.voters_outgoing.contains(id)) {
        return Err("a learner-to-be does not vote in the outgoing half");
    }
    if conf.learners_next.iter().any(|id| conf.voters.contains(id)) {
        return Err("a learner-to-be stays a voter");
    }
    if conf.auto_leave && !conf.is_joint() {
        return Err("nothing to leave");
    }
    Ok(())
}

fn insert(list: &mut Vec<NodeId>, id: NodeId) {
    if let Err(at) = list.binary_search(&id) {
        list.insert(at, id);
    }
}

fn remove(list: &mut Vec<NodeId>, id: NodeId) {
    if let Ok(at) = list.binary_search(&id) {
        list.remove(at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ConfChangeKind::{AddLearner, AddVoter, Remove};
    use proptest::prelude::*;

    fn n(ids: &[u64]) -> Vec<NodeId> {
        ids.iter().copied().map(NodeId).collect()
    }

    fn change(changes: &[(ConfChangeKind, u64)]) -> ConfChange {
        let changes = changes.iter().map(|&(kind, id)| (kind, NodeId(id))).collect();
        ConfChange { changes, ..ConfChange::default() }
    }

    #[test]
    fn one_voter_at_a_time() {
        let conf = ConfState::of_voters(n(&[1, 2]));
        let conf = changed(&conf, &change(&[(AddLearner, 3)])).unwrap();
        assert_eq!((conf.voters.clone(), conf.learners.clone()), (n(&[1, 2]), n(&[3])));
        let conf = changed(&conf, &change(&[(AddVoter, 3)])).unwrap();
        assert_eq!(conf, ConfState::of_voters(n(&[1, 2, 3])));
        let conf = changed(&conf, &change(&[(AddLearner, 1)])).unwrap();
        assert_eq!((conf.voters.clone(), conf.learners.clone()), (n(&[2, 3]), n(&[1])));
        let conf = changed(&conf, &change(&[(Remove, 1)])).unwrap();
        assert_eq!(conf, ConfState::of_voters(n(&[2, 3])));
        // Removing a stranger, or adding a voter again, changes nothing.
        assert_eq!(changed(&conf, &change(&[(Remove, 9)])), Ok(conf.clone()));
        assert_eq!(changed(&conf, &change(&[(AddVoter, 3)])), Ok(conf));
    }

    #[test]
    fn a_demoted_voter_waits_for_the_joint_configuration_to_end() {
        let conf = ConfState::of_voters(n(&[1, 2, 3]));
        let mut swap = change(&[(AddLearner, 1), (AddVoter, 4), (Remove, 2)]);
        swap.auto_leave = true;
        let joint = changed(&conf, &swap).unwrap();
        assert_eq!(joint.voters, n(&[3, 4]));
        assert_eq!(joint.voters_outgoing, n(&[1, 2, 3]));
        assert_eq!((joint.learners.clone(), joint.learners_next.clone()), (n(&[]), n(&[1])));
        assert!(joint.auto_leave);
        assert_eq!(changed(&joint, &change(&[(AddVoter, 9)])), Err(ConfChangeError::AlreadyJoint));
        let left = changed(&joint, &change(&[])).unwrap();
        assert_eq!((left.voters.clone(), left.learners.clone()), (n(&[3, 4]), n(&[1])));
        assert_eq!(changed(&left, &change(&[])), Err(ConfChangeError::NotJoint));
    }

    #[test]
    fn what_is_refused() {
        let one = ConfState::of_voters(n(&[1]));
        assert_eq!(changed(&one, &change(&[(Remove, 1)])), Err(ConfChangeError::NoVoters));
        assert_eq!(changed(&one, &change(&[(AddLearner, 1)])), Err(ConfChangeError::NoVoters));
        assert_eq!(changed(&one, &change(&[(AddVoter, 0)])), Err(ConfChangeError::NoNode));
        let nobody = ConfState::default();
        let many = change(&[(AddVoter, 1), (AddVoter, 2)]);
        assert_eq!(changed(&nobody, &many), Err(ConfChangeError::NoVoters));
    }

    fn kind() -> impl Strategy<Value = ConfChangeKind> {
        prop_oneof![Just(AddVoter), Just(AddLearner), Just(Remove)]
    }

    proptest! {
        /// Whatever is asked for, each configuration is sound, and every quorum of one overlaps
        /// every quorum of the next.
        #[test]
        fn every_step_is_sound_and_overlaps(
            steps in proptest::collection::vec(
                (proptest::collection::vec((kind(), 1_u64..6), 0..4), any::<bool>()), 1..12),
        ) {
            let mut conf = ConfState::of_voters(n(&[1, 2, 3]));
            for (changes, joint) in steps {
                let changes = changes.into_iter().map(|(k, id)| (k, NodeId(id))).collect();
                let step = ConfChange { changes, joint, ..ConfChange::default() };
                let Ok(next) = changed(&conf, &step) else { continue };
                prop_assert_eq!(check(&next), Ok(()));
                for mask in 0..1_u64 << 6 {
                    let inside = |id: NodeId| mask >> id.0 & 1 == 1;
                    let outside = |id: NodeId| !inside(id);
                    prop_assert!(
                        !(super::super::quorum::holds(&conf, inside)
                            && super::super::quorum::holds(&next, outside)),
                        "{:?} and {:?} can decide apart", conf, next
                    );
                }
                conf = next;
            }
        }
    }
}
