//! Changes of the membership in the worst moments: a quorum of one half of a joint configuration is
//! lost, a leader goes with its change undecided, and what an operator does about a member whose
//! disk is gone for good.

use super::Phase;
use crate::conf::is_quorum;
use crate::faults::{Act, Fault};
use crate::member::CLUSTER;
use crate::world::{Event, World};
use quorate::node::membership::MembershipChange;
use quorate::types::prng::Prng;
use quorate::types::{ConfChangeKind, ConfState, GroupId, LogIndex, NodeId, Term};
use std::collections::BTreeSet;

impl World {
    /// Exactly a quorum of the old half, or of the new one, goes down while the other half is whole:
    /// what either half could decide alone, both together cannot. Nothing is answered; when they are
    /// back the service is, and the configuration can be left.
    pub(super) fn quorum_loss_in_joint(&mut self, draw: u64, tries: u64, down_us: u64) {
        let again =
            Act::JointLoss { draw: draw.rotate_left(7), tries: tries.saturating_sub(1), down_us };
        let conf = self.safety.confs.newest(GroupId::ROOT).clone();
        if !conf.is_joint() || conf.auto_leave {
            if tries > 0 {
                if !conf.is_joint() && self.is_membership_quiet() {
                    self.enter_joint(draw);
                }
                self.after(self.plan.election_us(), Event::Act { act: again });
            }
            return;
        }
        let lost = self.lost_for_ever();
        if !self.acts_on(&conf) || !self.is_membership_quiet() || !self.bears(&lost) {
            if tries > 0 {
                self.after(self.plan.tick_us * 2, Event::Act { act: again });
            }
            return;
        }
        let mut rng = Prng::new(draw);
        let (half, other) = if rng.chance(1, 2) {
            (&conf.voters, &conf.voters_outgoing)
        } else {
            (&conf.voters_outgoing, &conf.voters)
        };
        // Those first whom the other half does not need.
        let mut order: Vec<(bool, u64, NodeId)> =
            half.iter().map(|id| (other.contains(id), rng.next_u64(), *id)).collect();
        order.sort_unstable();
        let alone = ConfState::of_voters(half.clone());
        let mut down = lost;
        for (_, _, id) in order {
            if is_quorum(&alone, |id| !down.contains(&id)) {
                down.insert(id);
            }
        }
        let rest = ConfState::of_voters(other.clone());
        self.counters.fired(Fault::JointLoss);
        if is_quorum(&rest, |id| !down.contains(&id)) {
            self.counters.mattered(Fault::JointLoss);
        }
        // Further groups have configurations of their own.
        let decides = |conf: &ConfState| is_quorum(conf, |id| !down.contains(&id));
        let groups = self.groups();
        let (root, further) = groups.split_first().expect("group 1 is always there");
        let mut silent: BTreeSet<GroupId> = BTreeSet::from([*root]);
        let wanted = self.wanted_conf();
        silent.extend(further.iter().filter(|group| {
            !decides(&wanted) && !self.safety.confs.active(**group).iter().any(decides)
        }));
        self.note(|| format!("{down:?} go down while group 1 is joint: {conf:?}"));
        self.begin_phase(Phase::Loss, &down, down_us);
        self.history.quorum_lost_in(self.now_us, silent);
    }

    /// Everybody who has a say has applied the configuration and knows of no other.
    fn acts_on(&self, conf: &ConfState) -> bool {
        let there = |id: &NodeId| {
            self.index_of(CLUSTER, *id).is_some_and(|m| {
                let slot = &self.slots[m];
                slot.is_gone()
                    || slot
                        .live
                        .as_ref()
                        .and_then(|live| live.said(GroupId::ROOT))
                        .is_some_and(|said| said.conf == *conf)
            })
        };
        self.safety.confs.is_settled(GroupId::ROOT)
            && conf.voters.iter().chain(&conf.voters_outgoing).all(there)
    }

    /// A leader has put a change of the configuration into its log: now and then it is lost before
    /// anybody knows what becomes of it.
    pub fn change_is_proposed(&mut self, m: usize, group: GroupId, at: (LogIndex, Term)) {
        if !self.plan.on(Fault::LostInChange) || !self.acting || self.phase.is_some() {
            return;
        }
        let purpose = format!("lost-in-change-{group}-{}-{}", at.0, at.1);
        let mut rng = self.plan.stream(&purpose);
        if !rng.chance(1, 3) {
            return;
        }
        self.counters.fired(Fault::LostInChange);
        self.counters.mattered(Fault::LostInChange);
        let delay = 1 + rng.below(2 * self.plan.sync_us + 4 * self.plan.delay.mean_us);
        let act = if rng.chance(1, 2) {
            Act::Crash { member: m, down_us: rng.between(1, self.plan.election_us() * 3) }
        } else {
            Act::IsolateLeader
        };
        self.after(delay, Event::Act { act });
    }

    /// A member whose disk is damaged or was replaced never comes back: it is removed, and one with
    /// an empty directory added in its place.
    pub(super) fn replace_lost(&mut self, draw: u64, tries: u64) {
        if tries == 0 {
            return;
        }
        let root = &self.roster.root;
        let is_lost = |m: &usize| {
            let slot = &self.slots[*m];
            slot.birth.cluster == CLUSTER && slot.is_gone() && root.members.contains_key(&slot.node)
        };
        let lost = (0..self.slots.len()).find(is_lost).map(|m| self.slots[m].node);
        let fewer = root.members.len() < self.plan.members;
        if self.is_membership_quiet() {
            match lost {
                Some(id) => {
                    let change = MembershipChange::Remove { id };
                    self.ask_one(Fault::Remedy, draw, change, ConfChangeKind::Remove, id);
                }
                None if fewer => self.add_newcomer(Fault::Remedy, draw),
                None => return,
            }
        }
        let act = Act::Remedy { draw: draw.rotate_left(9), tries: tries - 1 };
        self.after(self.plan.election_us() * 2, Event::Act { act });
    }
}
