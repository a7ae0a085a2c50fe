//! The arithmetic of quorums, for one majority and for two at once.
//!
//! A joint configuration decides only what both of its majorities decide (paper, section 6).
//! A majority of nobody agrees to everything: that is what makes the empty outgoing half of an
//! ordinary configuration harmless, and why a caller never asks about a configuration without
//! voters.

use crate::types::{ConfState, NodeId};

/// How an election stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tally {
    Won,
    Lost,
    Pending,
}

/// The largest value that a majority of `voters` has reached.
pub fn majority_reached(voters: &[NodeId], value: impl Fn(NodeId) -> u64) -> u64 {
    /// No cluster in practice has more voters; a larger one pays for an allocation.
    const ON_STACK: usize = 9;
    if voters.is_empty() {
        return u64::MAX;
    }
    let mut few = [0; ON_STACK];
    let mut many = Vec::new();
    let values = if voters.len() <= ON_STACK {
        &mut few[..voters.len()]
    } else {
        many.resize(voters.len(), 0);
        &mut many[..]
    };
    for (slot, &voter) in values.iter_mut().zip(voters) {
        *slot = value(voter);
    }
    values.sort_unstable();
    // Ascending: with n voters, n/2 + 1 of them stand at this place or right of it.
    values[values.len() - (values.len() / 2 + 1)]
}

/// The largest value that a quorum of the configuration has reached: for match indexes what is
/// committed, for acknowledged read contexts what is confirmed.
pub fn reached(conf: &ConfState, value: impl Fn(NodeId) -> u64) -> u64 {
    majority_reached(&conf.voters, &value).min(majority_reached(&conf.voters_outgoing, &value))
}

/// Whether a quorum of the configuration satisfies `is`.
pub fn holds(conf: &ConfState, is: impl Fn(NodeId) -> bool) -> bool {
    reached(conf, |id| u64::from(is(id))) > 0
}

/// How one majority has voted; `None` is a vote not yet in.
pub fn majority_tally(voters: &[NodeId], vote: impl Fn(NodeId) -> Option<bool>) -> Tally {
    if voters.is_empty() {
        return Tally::Won;
    }
    let (mut yes, mut open) = (0, 0);
    for &voter in voters {
        match vote(voter) {
            Some(true) => yes += 1,
            Some(false) => {}
            None => open += 1,
        }
    }
    let needed = voters.len() / 2 + 1;
    if yes >= needed {
        Tally::Won
    } else if yes + open >= needed {
        Tally::Pending
    } else {
        Tally::Lost
    }
}

/// How the configuration has voted: lost as soon as one half is lost, won when both are won.
pub fn tally(conf: &ConfState, vote: impl Fn(NodeId) -> Option<bool>) -> Tally {
    match (majority_tally(&conf.voters, &vote), majority_tally(&conf.voters_outgoing, &vote)) {
        (Tally::Lost, _) | (_, Tally::Lost) => Tally::Lost,
        (Tally::Won, Tally::Won) => Tally::Won,
        _ => Tally::Pending,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn ids(n: std::ops::Range<u64>) -> Vec<NodeId> {
        n.map(NodeId).collect()
    }

    #[test]
    fn small_cases() {
        let at = |values: &'static [u64]| move |id: NodeId| values[id.0 as usize];
        assert_eq!(majority_reached(&[], |_| 0), u64::MAX);
        assert_eq!(majority_reached(&ids(0..1), at(&[7])), 7);
        assert_eq!(majority_reached(&ids(0..2), at(&[7, 9])), 7);
        assert_eq!(majority_reached(&ids(0..3), at(&[7, 9, 1])), 7);
        assert_eq!(majority_reached(&ids(0..4), at(&[7, 9, 1, 8])), 7);
        assert_eq!(majority_reached(&ids(0..11), |id| id.0), 5);
    }

    /// The definition, slowly: the largest candidate value that more than half have reached.
    fn slow_reached(voters: &[NodeId], values: &BTreeMap<NodeId, u64>) -> u64 {
        let mut best = None;
        for &candidate in voters.iter().filter_map(|id| values.get(id)).chain([&0]) {
            let there = voters
                .iter()
                .filter(|id| values.get(id).copied().unwrap_or(0) >= candidate)
                .count();
            if 2 * there > voters.len() {
                best = best.max(Some(candidate));
            }
        }
        if voters.is_empty() { u64::MAX } else { best.expect("everyone has reached 0") }
    }

    /// The definition, slowly: try every way in which the open votes could fall.
    fn slow_tally(conf: &ConfState, votes: &BTreeMap<NodeId, bool>) -> Tally {
        let members = conf.members();
        let open: Vec<NodeId> =
            members.iter().copied().filter(|id| !votes.contains_key(id)).collect();
        let mut outcomes = [false, false];
        for mask in 0..1_u32 << open.len() {
            let yes = |id: &NodeId| match votes.get(id) {
                Some(vote) => *vote,
                None => {
                    let at = open.iter().position(|o| o == id).expect("open");
                    mask >> at & 1 == 1
                }
            };
            let won = [&conf.voters, &conf.voters_outgoing].into_iter().all(|half| {
                half.is_empty() || 2 * half.iter().filter(|id| yes(id)).count() > half.len()
            });
            outcomes[usize::from(won)] = true;
        }
        match outcomes {
            [true, true] => Tally::Pending,
            [false, true] => Tally::Won,
            _ => Tally::Lost,
        }
    }

    fn half() -> impl Strategy<Value = Vec<NodeId>> {
        proptest::collection::btree_set(1_u64..8, 0..6)
            .prop_map(|set| set.into_iter().map(NodeId).collect())
    }

    proptest! {
        #[test]
        fn agrees_with_the_definition(
            voters in half(),
            voters_outgoing in half(),
            values in proptest::collection::btree_map(1_u64..8, 0_u64..5, 0..7),
            votes in proptest::collection::btree_map(1_u64..8, any::<bool>(), 0..7),
        ) {
            let values: BTreeMap<_, _> =
                values.into_iter().map(|(id, v)| (NodeId(id), v)).collect();
            let votes: BTreeMap<_, _> = votes.into_iter().map(|(id, v)| (NodeId(id), v)).collect();
            let conf = ConfState { voters, voters_outgoing, ..ConfState::default() };
            let value = |id| values.get(&id).copied().unwrap_or(0);
            prop_assert_eq!(
                reached(&conf, value),
                slow_reached(&conf.voters, &values).min(slow_reached(&conf.voters_outgoing, &values))
            );
            prop_assert_eq!(tally(&conf, |id| votes.get(&id).copied()), slow_tally(&conf, &votes));
        }
    }
}
