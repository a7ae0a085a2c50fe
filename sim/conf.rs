//! Configurations of the groups, as their committed logs make them.
//!
//! What follows from a change, and who is a quorum of what, is worked out here anew: the
//! product's own arithmetic is one of the things on trial. Which committed changes count is the
//! members' verdict, and all of them must give the same one.

use crate::safety::{Checked, ensure};
use quorate::multiraft::turn::BOOT_INDEX;
use quorate::types::{ConfChange, ConfChangeKind, ConfState, GroupId, LogIndex, NodeId};
use std::collections::{BTreeMap, BTreeSet};

/// Whether those for whom `is` holds are a quorum: of both halves while it is joint.
pub fn is_quorum(conf: &ConfState, is: impl Fn(NodeId) -> bool) -> bool {
    let most = |half: &[NodeId]| half.iter().filter(|id| is(**id)).count() * 2 > half.len();
    !conf.voters.is_empty()
        && most(&conf.voters)
        && (conf.voters_outgoing.is_empty() || most(&conf.voters_outgoing))
}

/// What a committed change makes of a configuration.
pub fn changed(conf: &ConfState, change: &ConfChange) -> ConfState {
    let set = |list: &[NodeId]| list.iter().copied().collect::<BTreeSet<_>>();
    let (mut voters, mut learners) = (set(&conf.voters), set(&conf.learners));
    let (mut outgoing, mut later) = (set(&conf.voters_outgoing), set(&conf.learners_next));
    let mut auto_leave = conf.auto_leave;
    if change.changes.is_empty() {
        outgoing.clear();
        learners.append(&mut later);
        auto_leave = false;
    } else if change.joint || change.changes.len() > 1 {
        outgoing.clone_from(&voters);
        auto_leave = change.auto_leave;
    }
    for (kind, id) in &change.changes {
        for list in [&mut voters, &mut learners, &mut later] {
            list.remove(id);
        }
        match kind {
            ConfChangeKind::AddVoter => voters.insert(*id),
            ConfChangeKind::AddLearner if outgoing.contains(id) => later.insert(*id),
            ConfChangeKind::AddLearner => learners.insert(*id),
            ConfChangeKind::Remove => true,
        };
    }
    let list = |set: BTreeSet<NodeId>| set.into_iter().collect();
    ConfState {
        voters: list(voters),
        learners: list(learners),
        voters_outgoing: list(outgoing),
        learners_next: list(later),
        auto_leave,
    }
}

#[derive(Debug, Default)]
struct Track {
    /// Each configuration with the index of the entry that made it, ascending.
    made: Vec<(LogIndex, ConfState)>,
    /// What was decided about each committed change, and who said so first.
    verdicts: BTreeMap<LogIndex, (bool, NodeId)>,
    /// Changes in some log that nobody has applied yet.
    pending: BTreeMap<LogIndex, Vec<ConfChange>>,
}

/// All groups' configurations.
#[derive(Debug, Default)]
pub struct Confs {
    groups: BTreeMap<GroupId, Track>,
}

impl Confs {
    /// Every group is born with the first members as its voters.
    pub fn new(groups: u64, founders: &[NodeId]) -> Confs {
        let mut confs = Confs::default();
        for g in 1..=groups {
            confs.found(GroupId(g), ConfState::of_voters(founders.to_vec()));
        }
        confs
    }

    pub fn is_known(&self, group: GroupId) -> bool {
        self.groups.contains_key(&group)
    }

    pub fn found(&mut self, group: GroupId, conf: ConfState) {
        let track = Track { made: vec![(BOOT_INDEX, conf)], ..Track::default() };
        self.groups.insert(group, track);
    }

    /// The configuration that the newest applied entry left behind.
    pub fn newest(&self, group: GroupId) -> &ConfState {
        &self.groups[&group].made.last().expect("a group is born with one").1
    }

    /// The configuration behind the entry at `index`.
    pub fn at(&self, group: GroupId, index: LogIndex) -> Option<&ConfState> {
        let made = &self.groups.get(&group)?.made;
        made.iter().rev().find(|(at, _)| *at <= index).map(|(_, conf)| conf)
    }

    /// Whether no log that counts holds a change that nobody has applied yet.
    pub fn is_settled(&self, group: GroupId) -> bool {
        self.groups.get(&group).is_some_and(|track| track.pending.is_empty())
    }

    /// The configuration that came before this one.
    pub fn before(&self, group: GroupId, conf: &ConfState) -> Option<&ConfState> {
        let made = &self.groups.get(&group)?.made;
        let at = made.iter().rposition(|(_, there)| there == conf)?;
        Some(&made[at.checked_sub(1)?].1)
    }

    /// Those under which the entry at `index` may have been decided: its leader may not have
    /// applied the change before it, and never goes on to a second one in that state.
    pub fn deciding(&self, group: GroupId, index: LogIndex) -> impl Iterator<Item = &ConfState> {
        let made = self.groups.get(&group).map_or(&[][..], |track| &track.made);
        let behind = made.partition_point(|(at, _)| *at < index);
        made[behind.saturating_sub(2)..behind].iter().map(|(_, conf)| conf)
    }

    /// Every configuration some member may act on now, or as soon as what is on its way has been
    /// committed.
    pub fn active(&self, group: GroupId) -> Vec<ConfState> {
        let track = &self.groups[&group];
        let newest = self.newest(group);
        let mut all: Vec<ConfState> =
            track.made.iter().rev().take(2).map(|(_, conf)| conf.clone()).collect();
        all.extend(track.pending.values().flatten().map(|change| changed(newest, change)));
        all
    }

    /// A change is on its way to a log.
    pub fn on_append(&mut self, group: GroupId, index: LogIndex, change: ConfChange) {
        let track = self.groups.entry(group).or_default();
        let changes = track.pending.entry(index).or_default();
        if !changes.contains(&change) {
            changes.push(change);
        }
    }

    /// The entry at `index` has been applied by somebody: what other logs hold there is void.
    pub fn on_commit(&mut self, group: GroupId, index: LogIndex) {
        if let Some(track) = self.groups.get_mut(&group)
            && track.pending.first_key_value().is_some_and(|(first, _)| *first < index)
        {
            track.pending = track.pending.split_off(&index);
        }
    }

    /// A member's verdict on a committed change.
    pub fn on_verdict(
        &mut self,
        node: NodeId,
        group: GroupId,
        index: LogIndex,
        change: Option<&ConfChange>,
    ) -> Checked {
        let track = self.groups.entry(group).or_default();
        let counts = change.is_some();
        if let Some((old, who)) = track.verdicts.get(&index) {
            ensure!(
                *old == counts,
                "conf-verdict",
                "group {group} index {index}: {who} says {old}, {node} says {counts}"
            );
            return Ok(());
        }
        track.verdicts.insert(index, (counts, node));
        track.pending = track.pending.split_off(&index.next());
        if let Some(change) = change
            && let Some((_, newest)) = track.made.last()
        {
            let next = changed(newest, change);
            track.made.push((index, next));
        }
        Ok(())
    }
}
