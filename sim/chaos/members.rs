//! Who is in the cluster: members and groups that come and go under load.
//!
//! One change is under way at a time, or the same one asked of two members at once: what two
//! different ones may do to a quorum together is an operator's folly and not a member's fault.
//! Nothing is begun that would leave the cluster without a quorum of members that can still come
//! back; everything else may be asked for in the middle of any other disturbance.

use crate::conf::{changed, is_quorum};
use crate::faults::Fault;
use crate::member::{Birth, CLUSTER, Origin};
use crate::plan::{MS, Plan, SECOND};
use crate::safety::{Checked, ensure};
use crate::world::{Condition, Event, Gone, SLOTS_MAX, Slot, World};
use quorate::multiraft::RootState;
use quorate::node::membership::{MembershipChange, member_id};
use quorate::node::{Action, Answer, Token};
use quorate::types::prng::Prng;
use quorate::types::{
    ApiError, Command, ConfChange, ConfChangeKind, ConfState, GroupId, Incarnation, LogIndex,
    NodeId,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Tokens of the nemesis' own requests begin here; clients' calls are far below.
const TOKENS: u64 = 1 << 40;
/// Voters at most: two more than the largest cluster begins with would only be slower.
const VOTERS_MAX: usize = 7;
/// Members that a seed ever has. The other slots are for changes that are committed late.
const MEMBERS_MAX: usize = 8;
/// Groups created in one seed.
const CREATED_MAX: u64 = 3;

#[derive(Debug)]
struct Asked {
    fault: Fault,
    tokens: Vec<Token>,
    /// What it does to a configuration.
    change: ConfChange,
    /// Somebody was told that it is done; somebody, that nobody knows.
    done: bool,
    unsure: bool,
    until_us: u64,
}

/// What is known from outside about the membership, and what is being done to it.
pub struct Roster {
    rng: Prng,
    /// The newest membership that any member has applied.
    pub root: Arc<RootState>,
    pub index: LogIndex,
    /// The membership behind each entry at which somebody told it.
    told: BTreeMap<LogIndex, (Arc<RootState>, NodeId)>,
    asked: Option<Asked>,
    /// Newcomers that have been asked for: each needs a slot if its change is committed after
    /// all, which may be minutes after whoever asked has given up.
    expected: BTreeSet<NodeId>,
    tokens: u64,
    urls: u64,
    created: u64,
}

impl Roster {
    pub fn new(plan: &Plan) -> Roster {
        Roster {
            rng: plan.stream("membership"),
            root: Arc::default(),
            index: LogIndex::ZERO,
            told: BTreeMap::new(),
            asked: None,
            expected: BTreeSet::new(),
            tokens: TOKENS,
            urls: 100,
            created: 0,
        }
    }

    /// Groups that exist, as the newest catalogue has it.
    pub fn groups(&self) -> Vec<GroupId> {
        std::iter::once(GroupId::ROOT).chain(self.root.catalogue.groups.keys().copied()).collect()
    }

    /// Behind which entry of group 1 the data directory was bound to the member, at the latest.
    pub fn bound_at(&self, node: NodeId, incarnation: Incarnation) -> Option<LogIndex> {
        let binds = |root: &RootState| {
            root.members.get(&node).is_some_and(|m| m.incarnation == Some(incarnation))
        };
        self.told.iter().find(|(_, (root, _))| binds(root)).map(|(index, _)| *index)
    }

    /// What every group's configuration will come to, by the membership.
    fn wanted(&self) -> ConfState {
        let departing = self.root.departing();
        let mut conf = ConfState::default();
        for member in self.root.members.values().filter(|m| !departing.contains(&m.id)) {
            let list = if member.is_learner { &mut conf.learners } else { &mut conf.voters };
            list.push(member.id);
        }
        conf
    }
}

impl World {
    /// A member tells the membership behind an entry of group 1: all members agree about it, and
    /// whoever is new in it gets a slot.
    pub fn on_root(&mut self, m: usize, index: LogIndex, root: &Arc<RootState>) -> Checked {
        let node = self.slots[m].node;
        let (old, who) =
            self.roster.told.entry(index).or_insert_with(|| (root.clone(), node)).clone();
        ensure!(
            old == *root,
            "membership-equality",
            "behind {index} {node} has {root:?}, {who} has {old:?}"
        );
        if index <= self.roster.index {
            return Ok(());
        }
        self.roster.index = index;
        let before = std::mem::replace(&mut self.roster.root, root.clone());
        for group in before.catalogue.groups.keys() {
            if !root.catalogue.groups.contains_key(group) {
                self.safety.on_destroyed(*group);
                self.counters.mattered(Fault::GroupDestroy);
            }
        }
        for (&group, born) in &root.catalogue.groups {
            if self.safety.confs.is_known(group) {
                continue;
            }
            self.safety.found(group, born.iter().copied().collect());
            self.history.found(group, self.plan.drift_ppm());
            self.counters.mattered(Fault::GroupCreate);
        }
        for (id, member) in &root.members {
            if self.index_of(CLUSTER, *id).is_some() {
                continue;
            }
            self.roster.expected.remove(id);
            let m = self.slots.len();
            assert!(m < SLOTS_MAX, "no slot is left for {id}");
            let birth = Birth {
                cluster: CLUSTER,
                node: *id,
                peer_urls: member.peer_urls.clone(),
                origin: Origin::Join,
            };
            self.slots.push(Slot::new(&self.plan, m, birth));
            if self.acting && self.phase.is_none() {
                self.power_may_fail_at_birth(m);
            }
            // At once, after a while, or not before everything has healed. A change that was still
            // on its way at the healing must not wait for it: it has been.
            let mut rng = self.plan.stream(&format!("join-{m}"));
            let delay = match rng.below(4) {
                0 if self.acting => self.plan.chaos_us * 2,
                1 => rng.between(MS, self.plan.election_us() * 8),
                _ => rng.between(MS, 200 * MS),
            };
            let at = self.now_us + delay;
            self.note(|| format!("{m} is to join as {id}"));
            self.plan_restart(m, at);
        }
        Ok(())
    }

    pub fn groups(&self) -> Vec<GroupId> {
        self.roster.groups()
    }

    /// One of the groups that exist.
    pub(super) fn some_group(&mut self) -> GroupId {
        let draw = self.crashes.next_u64();
        self.group_by(draw)
    }
    pub(super) fn group_by(&self, draw: u64) -> GroupId {
        let groups = self.groups();
        groups[(draw % groups.len() as u64) as usize]
    }

    /// No change is under way that somebody has asked for.
    pub fn is_membership_quiet(&self) -> bool {
        self.asked().is_none()
    }

    /// Ends a joint configuration that does not end by itself.
    pub fn leave_joint(&mut self) {
        let conf = self.safety.confs.newest(GroupId::ROOT);
        if conf.is_joint() && !conf.auto_leave {
            let change = MembershipChange::LeaveJoint;
            self.ask_change(Fault::JointChange, change, ConfChange::default());
        }
    }

    /// A removed member has nobody to speak to, but its streams dial on; it is told why they fail.
    pub fn dial_everybody(&mut self, m: usize) -> Checked {
        for other in 0..self.slots.len() {
            if other != m && self.slots[m].live.is_some() && self.slots[other].live.is_some() {
                self.connect(m, other)?;
            }
        }
        Ok(())
    }

    /// A member that has the state of every group.
    pub fn is_whole_member(&self, m: usize) -> bool {
        self.is_member(m) && self.slots[m].settled
    }

    /// Whether members and groups are those that the seed began with.
    pub(super) fn is_as_founded(&self) -> bool {
        let root = &self.roster.root;
        self.slots.len() == self.plan.members
            && root.removed.is_empty()
            && root.departing.is_none()
            && self.groups().len() as u64 == self.plan.groups
            && root.catalogue.newest.0 <= self.plan.groups
            && self.asked().is_none()
    }

    /// Whether the slot is one of the cluster's members, and not gone.
    pub fn is_member(&self, m: usize) -> bool {
        let slot = &self.slots[m];
        slot.birth.cluster == CLUSTER
            && !slot.is_gone()
            && self.roster.root.members.contains_key(&slot.node)
    }

    /// Whether the cluster has removed the member.
    pub fn is_removed(&self, m: usize) -> bool {
        self.roster.root.removed.contains(&self.slots[m].node)
    }

    /// Every configuration that some group acts on, or will when a change that was asked for
    /// comes through.
    pub fn active_confs(&self) -> Vec<ConfState> {
        let mut all: Vec<ConfState> =
            self.groups().into_iter().flat_map(|g| self.safety.confs.active(g)).collect();
        let mut targets = vec![self.roster.wanted()];
        if let Some(asked) = self.asked() {
            let more: Vec<ConfState> =
                all.iter().map(|conf| changed(conf, &asked.change)).collect();
            targets.push(changed(&targets[0], &asked.change));
            // The further groups let go of who is removed before anybody new comes.
            targets.push(without(&targets[0], &asked.change));
            targets.extend(more);
        }
        all.extend(targets);
        all
    }

    /// The change under way, if it may still come to something: whoever asked has given up, and
    /// yet it may lie in a log for as long as no quorum is there to commit it.
    fn asked(&self) -> Option<&Asked> {
        let asked = self.roster.asked.as_ref()?;
        (self.now_us < asked.until_us || self.change_is_in_a_log()).then_some(asked)
    }

    fn change_is_in_a_log(&self) -> bool {
        let lives = self.slots.iter().filter_map(|slot| slot.live.as_ref());
        let applied = lives.map(|live| live.applied(GroupId::ROOT)).max().unwrap_or_default();
        let counts = |node| {
            self.index_of(CLUSTER, node).is_some_and(|m| {
                let slot = &self.slots[m];
                !slot.is_gone() && !slot.wiped
            })
        };
        self.safety.changes.is_open(GroupId::ROOT, applied, counts)
    }

    /// Whether a quorum of what `change` leads to can still come back.
    fn is_bearable(&self, change: &ConfChange) -> bool {
        let able = |id: NodeId| {
            self.roster.root.members.get(&id).is_none_or(|_| {
                self.index_of(CLUSTER, id).is_none_or(|m| {
                    let slot = &self.slots[m];
                    !slot.wiped && !slot.is_gone() && slot.damaged.is_none()
                })
            })
        };
        let conf = changed(&self.roster.wanted(), change);
        let alone = ConfState { voters_outgoing: Vec::new(), ..conf.clone() };
        let meanwhile = without(&self.roster.wanted(), change);
        is_quorum(&conf, able) && is_quorum(&alone, able) && is_quorum(&meanwhile, able)
    }

    /// Asks the leader, or anybody, for a change; now and then two members at once.
    fn ask_change(&mut self, fault: Fault, change: MembershipChange, conf: ConfChange) {
        if !self.is_bearable(&conf) {
            return;
        }
        let up = self.up();
        if up.is_empty() {
            return;
        }
        let draw = self.roster.rng.next_u64();
        let any = up[(draw % up.len() as u64) as usize];
        let first = match self.leader_of(GroupId::ROOT) {
            Some(leader) if draw >> 32 & 1 == 0 => leader,
            _ => any,
        };
        let mut asked = vec![first];
        if self.plan.on(Fault::AskedTwice) && draw >> 33 & 1 == 0 {
            // The same member twice, or two of them.
            asked.push(any);
            self.counters.fired(Fault::AskedTwice);
        }
        self.counters.fired(fault);
        self.note(|| format!("{asked:?} asked to change the membership: {change:?}"));
        let mut tokens = Vec::new();
        for (nth, m) in asked.into_iter().enumerate() {
            // The second question may come when the leader that took the first is gone already.
            let delay = match nth {
                0 => 1,
                _ => {
                    1 + self.roster.rng.below(2)
                        * self.roster.rng.below(2 * self.plan.election_us())
                }
            };
            self.roster.tokens += 1;
            let token = Token(self.roster.tokens);
            tokens.push(token);
            let p = self.slots[m].process;
            let action = Box::new(Action::Membership { token, change: change.clone() });
            self.after(delay, Event::Tell { m, p, action });
        }
        let until_us = self.now_us + 6 * SECOND + 5 * self.plan.election_us();
        let unknown = |id: &NodeId| self.index_of(CLUSTER, *id).is_none();
        let new: Vec<NodeId> = conf.changes.iter().map(|step| step.1).filter(unknown).collect();
        self.roster.expected.extend(new);
        let (done, unsure) = (false, false);
        let change = conf;
        self.roster.asked = Some(Asked { fault, tokens, change, done, unsure, until_us });
    }

    /// An answer to one of the nemesis' own requests.
    pub fn change_answered(&mut self, token: Token, result: &Result<Answer, ApiError>) {
        let Some(asked) = self.roster.asked.as_mut() else { return };
        let Some(at) = asked.tokens.iter().position(|t| *t == token) else { return };
        asked.tokens.remove(at);
        let fault = asked.fault;
        match result {
            Ok(_) => self.counters.mattered(fault),
            // It was done already, or refused: the second of two questions.
            Err(_) if self.plan.on(Fault::AskedTwice) => self.counters.mattered(Fault::AskedTwice),
            Err(_) => {}
        }
        asked.done |= result.is_ok();
        asked.unsure |= result.as_ref().is_err_and(is_unsure);
        // As long as one of two answers was unsure, the change may come yet.
        if asked.tokens.is_empty() && (asked.done || !asked.unsure) {
            if !asked.done {
                let refused: Vec<NodeId> = asked.change.changes.iter().map(|s| s.1).collect();
                self.roster.expected.retain(|id| !refused.contains(id));
            }
            self.roster.asked = None;
        }
    }

    /// Carries one of the acts on members and groups out.
    pub(super) fn change_members(&mut self, fault: Fault, draw: u64) {
        self.roster.rng = Prng::new(draw);
        if self.asked().is_some() {
            return;
        }
        match fault {
            Fault::AddVoter => self.add(fault, false),
            Fault::AddLearner => self.add(fault, true),
            Fault::Promote => self.promote(),
            Fault::Remove => {
                if let Some(id) = self.some_member() {
                    let conf = one(ConfChangeKind::Remove, id);
                    self.ask_change(fault, MembershipChange::Remove { id }, conf);
                }
            }
            Fault::Replace | Fault::JointChange => self.joint(fault),
            Fault::MoveUrl => self.move_url(),
            Fault::GroupCreate => {
                if self.roster.created < CREATED_MAX {
                    self.roster.created += 1;
                    self.ask_catalogue_in(1, fault, Command::CreateGroup);
                }
            }
            Fault::GroupDestroy => {
                let mut groups: Vec<GroupId> = self.groups().split_off(1);
                let lives = || self.slots.iter().filter_map(|slot| slot.live.as_ref());
                let mut moving = groups.clone();
                moving.retain(|group| lives().any(|live| live.moves_state(*group)));
                // What is on its way is worth more than what rests.
                if !moving.is_empty() && self.roster.rng.chance(2, 3) {
                    groups = moving;
                }
                if !groups.is_empty() {
                    let at = self.roster.rng.below(groups.len() as u64) as usize;
                    let group = groups[at];
                    let delay = 1 + self.somebody_returns(group);
                    self.ask_catalogue_in(delay, fault, Command::DestroyGroup { group });
                }
            }
            Fault::RollingRestart => self.rolling_restart(),
            Fault::RemovedReturns => self.removed_returns(),
            other => unreachable!("{} is not about members", other.name()),
        }
    }

    /// A joint configuration that stays until it is left.
    pub(super) fn enter_joint(&mut self, draw: u64) {
        self.roster.rng = Prng::new(draw);
        let Some(old) = self.some_member() else { return };
        let Some((peer_urls, unix_seconds, id)) = self.newcomer() else { return };
        let changes = vec![
            MembershipChange::Add { peer_urls, learner: false, unix_seconds },
            MembershipChange::Remove { id: old },
        ];
        let steps = vec![(ConfChangeKind::AddVoter, id), (ConfChangeKind::Remove, old)];
        let change = MembershipChange::Joint { changes, auto_leave: false };
        let conf = ConfChange { changes: steps, joint: true, ..ConfChange::default() };
        self.ask_change(Fault::JointLoss, change, conf);
    }

    pub(super) fn ask_one(
        &mut self,
        fault: Fault,
        draw: u64,
        change: MembershipChange,
        kind: ConfChangeKind,
        id: NodeId,
    ) {
        self.roster.rng = Prng::new(draw);
        self.ask_change(fault, change, one(kind, id));
    }

    pub(super) fn add_newcomer(&mut self, fault: Fault, draw: u64) {
        self.roster.rng = Prng::new(draw);
        self.add(fault, false);
    }

    pub(super) fn wanted_conf(&self) -> ConfState {
        self.roster.wanted()
    }

    /// Any member, a dead one rather than others.
    fn some_member(&mut self) -> Option<NodeId> {
        let ids: Vec<NodeId> = self.roster.root.members.keys().copied().collect();
        let draw = self.roster.rng.next_u64();
        let dead =
            |id: &&NodeId| self.index_of(CLUSTER, **id).is_some_and(|m| self.slots[m].is_gone());
        let first_dead = ids.iter().find(dead).copied().filter(|_| draw >> 40 & 1 == 0);
        first_dead.or_else(|| ids.get((draw % ids.len().max(1) as u64) as usize).copied())
    }

    /// A new member's addresses, the second from which its id comes, and the id.
    fn newcomer(&mut self) -> Option<(Vec<String>, u64, NodeId)> {
        let slots = self.slots.len();
        let all_taken = slots >= MEMBERS_MAX || slots + self.roster.expected.len() >= SLOTS_MAX;
        if all_taken || self.roster.wanted().voters.len() >= VOTERS_MAX {
            return None;
        }
        self.roster.urls += 1;
        let urls = vec![format!("http://sim-{}:2380", self.roster.urls)];
        let seconds = self.now_us / SECOND;
        let id = member_id(&urls, "", Some(seconds));
        Some((urls, seconds, id))
    }

    fn add(&mut self, fault: Fault, learner: bool) {
        let Some((peer_urls, unix_seconds, id)) = self.newcomer() else { return };
        let kind = if learner { ConfChangeKind::AddLearner } else { ConfChangeKind::AddVoter };
        let change = MembershipChange::Add { peer_urls, learner, unix_seconds };
        self.ask_change(fault, change, one(kind, id));
    }

    fn promote(&mut self) {
        let learner = self.roster.root.members.values().find(|member| member.is_learner);
        if let Some(id) = learner.map(|member| member.id) {
            let change = MembershipChange::Promote { id };
            self.ask_change(Fault::Promote, change, one(ConfChangeKind::AddVoter, id));
        }
    }

    /// Several members at once: one comes and one goes, or whatever is drawn.
    fn joint(&mut self, fault: Fault) {
        // One that was entered and does not end by itself is ended first.
        if self.safety.confs.newest(GroupId::ROOT).is_joint() {
            let change = MembershipChange::LeaveJoint;
            return self.ask_change(fault, change, ConfChange::default());
        }
        let (mut changes, mut steps) = (Vec::new(), Vec::new());
        let draw = self.roster.rng.next_u64();
        let Some(old) = self.some_member() else { return };
        if fault == Fault::Replace || draw & 3 != 0 {
            let Some((peer_urls, unix_seconds, id)) = self.newcomer() else { return };
            changes.push(MembershipChange::Add { peer_urls, learner: false, unix_seconds });
            steps.push((ConfChangeKind::AddVoter, id));
        }
        let is_learner = self.roster.root.members[&old].is_learner;
        if fault == Fault::JointChange && draw & 4 != 0 && !is_learner {
            changes.push(MembershipChange::Demote { id: old });
            steps.push((ConfChangeKind::AddLearner, old));
        } else {
            changes.push(MembershipChange::Remove { id: old });
            steps.push((ConfChangeKind::Remove, old));
        }
        let learner =
            self.roster.root.members.values().find(|m| m.is_learner && m.id != old).map(|m| m.id);
        if let Some(id) = learner.filter(|_| fault == Fault::JointChange) {
            changes.push(MembershipChange::Promote { id });
            steps.push((ConfChangeKind::AddVoter, id));
        }
        let auto_leave = fault == Fault::Replace || draw & 8 != 0;
        let change = MembershipChange::Joint { changes, auto_leave };
        let conf = ConfChange { changes: steps, joint: true, auto_leave, ..ConfChange::default() };
        self.ask_change(fault, change, conf);
    }

    fn move_url(&mut self) {
        if let Some(id) = self.some_member() {
            self.roster.urls += 1;
            let peer_urls = vec![format!("http://sim-{}:2380", self.roster.urls)];
            let change = MembershipChange::UpdatePeerUrls { id, peer_urls };
            let learner = self.roster.root.members[&id].is_learner;
            let kind = if learner { ConfChangeKind::AddLearner } else { ConfChangeKind::AddVoter };
            self.ask_change(Fault::MoveUrl, change, one(kind, id));
        }
    }

    /// Now and then, in a seed with crashes, a member that does not lead the group goes for a
    /// while, so that it needs the group's state when it comes back. About when that is, from now.
    fn somebody_returns(&mut self, group: GroupId) -> u64 {
        let draw = self.roster.rng.next_u64();
        let others: Vec<usize> =
            self.up().into_iter().filter(|m| self.leader_of(group) != Some(*m)).collect();
        if !self.plan.on(Fault::Crash) || others.is_empty() || draw & 1 == 0 {
            return 0;
        }
        let m = others[(draw >> 32) as usize % others.len()];
        let away = self.roster.rng.between(4, 20) * self.plan.tick_us;
        self.crash(m, away, Fault::Crash);
        away + self.roster.rng.below(4 * self.plan.tick_us)
    }

    fn ask_catalogue_in(&mut self, delay: u64, fault: Fault, command: Command) {
        let up = self.up();
        if up.is_empty() {
            return;
        }
        self.counters.fired(fault);
        let m = up[self.roster.rng.below(up.len() as u64) as usize];
        self.roster.tokens += 1;
        let token = Token(self.roster.tokens);
        let p = self.slots[m].process;
        self.note(|| format!("{m} asked: {command:?}"));
        let action = Box::new(Action::Propose { group: GroupId::ROOT, token, command });
        self.after(delay, Event::Tell { m, p, action });
    }

    /// Every member is stopped in order and started again, one after the other.
    fn rolling_restart(&mut self) {
        self.counters.fired(Fault::RollingRestart);
        let gap = self.plan.election_us() * 2;
        for (i, m) in self.up().into_iter().enumerate() {
            let p = self.slots[m].process;
            self.slots[m].rolling = true;
            self.after(1 + gap * i as u64, Event::Tell { m, p, action: Box::new(Action::Stop) });
        }
    }

    /// A removed member is started again on its old disk.
    fn removed_returns(&mut self) {
        let gone = |m: &usize| self.slots[*m].condition == Condition::Gone(Gone::Removed);
        let Some(m) = (0..self.slots.len()).find(gone) else { return };
        self.counters.fired(Fault::RemovedReturns);
        self.note(|| format!("{m} was removed and returns"));
        self.slots[m].condition = Condition::Down;
        let at = self.now_us;
        self.plan_restart(m, at);
    }
}

/// The configuration without those whom the change removes.
fn without(conf: &ConfState, change: &ConfChange) -> ConfState {
    let goes = |id: &NodeId| change.changes.contains(&(ConfChangeKind::Remove, *id));
    let mut voters = conf.voters.clone();
    voters.retain(|id| !goes(id));
    ConfState::of_voters(voters)
}

fn one(kind: ConfChangeKind, id: NodeId) -> ConfChange {
    ConfChange { changes: vec![(kind, id)], ..ConfChange::default() }
}

/// Whether the change may still come through after this answer.
fn is_unsure(error: &ApiError) -> bool {
    matches!(
        error,
        ApiError::Timeout
            | ApiError::TimeoutLeaderFail
            | ApiError::TimeoutConnectionLost
            | ApiError::Stopped
            | ApiError::NoLeader
            | ApiError::NotLeader
            | ApiError::LeaderChanged
    )
}
