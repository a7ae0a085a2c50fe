//! A follower: it does what the leader of its term says, asks it for what clients want, and
//! notices when it has gone silent.
//!
//! While a snapshot is being installed the log stands still: appends are not answered (the leader
//! probes on), and heartbeats only say that the leader lives.

use super::core::Core;
use super::log::LogSlice;
use super::read_index::Forwarded;
use super::{Dropped, Effect, Effects, Note};
use crate::types::message::{RejectHint, SnapshotMeta};
use crate::types::{Entry, LogIndex, MessageBody, NodeId, Term};
use bytes::Bytes;

#[derive(Debug, Default)]
pub struct Follower {
    /// Reads of this node's clients that the leader was asked about.
    pub forwarded: Forwarded,
}

impl Follower {
    /// True when it is time to campaign.
    pub fn tick(&mut self, core: &mut Core, fx: &mut Effects) -> bool {
        let patience = 2 * core.config.election_ticks;
        self.forwarded.tick(patience, |context| fx.push(Effect::ReadDropped { context }));
        core.election_elapsed = core.election_elapsed.saturating_add(1);
        if core.election_elapsed < core.election_timeout {
            return false;
        }
        let Some(why) = core.campaign_obstacle() else { return true };
        // One that may not campaign at least stops asking a leader that is gone.
        if core.is_voter(core.id()) {
            fx.push(Effect::Note(Note::NoCampaign { why }));
        }
        core.reset_election_timer();
        core.leader = NodeId::NONE;
        self.forwarded.give_up_all(|context| fx.push(Effect::ReadDropped { context }));
        false
    }

    pub fn propose(&self, core: &Core, data: Vec<Bytes>, fx: &mut Effects) {
        if core.leader.is_none() {
            fx.push(Effect::ProposalsDropped { data, reason: Dropped::NoLeader });
        } else {
            core.send_in_term(core.leader, Term::ZERO, MessageBody::Propose { data }, fx);
        }
    }

    pub fn read_index(&mut self, core: &Core, context: u64, fx: &mut Effects) {
        let room = self.forwarded.len() < core.config.bounds.reads_pending_max;
        if core.leader.is_none() || !room {
            fx.push(Effect::ReadDropped { context });
        } else {
            self.forwarded.add(context);
            core.send_in_term(core.leader, Term::ZERO, MessageBody::ReadIndex { context }, fx);
        }
    }

    pub fn on_read_index_reply(&mut self, context: u64, index: LogIndex, fx: &mut Effects) {
        if self.forwarded.answer(context) {
            fx.push(Effect::ReadReady { context, index });
        }
    }
}

/// The leader's entries behind `prev`. Answered once they are durable, for the answer promises
/// exactly that.
pub fn on_append(
    core: &mut Core,
    leader: NodeId,
    prev: (LogIndex, Term),
    commit: LogIndex,
    entries: Vec<Entry>,
    fx: &mut Effects,
) {
    let slice = match LogSlice::valid(core.term(), prev, entries) {
        Ok(slice) => slice,
        Err(why) => return fx.push(core.bad_message(leader, "Append", why)),
    };
    if core.installing.is_some() {
        return;
    }
    let (prev, prev_term) = slice.prev();
    if prev < core.commit() {
        // Old, or sent by a leader that does not know how far we are. What is committed here is
        // in its log.
        return accept(core, leader, core.commit(), fx);
    }
    if !core.log.matches(prev, prev_term) {
        fx.push(Effect::Note(Note::AppendRefused { leader, prev }));
        let (index, term) = core.log.agree_before(prev, prev_term);
        let reject = Some(RejectHint { index, term });
        return core.send(leader, MessageBody::AppendReply { index: prev, reject }, fx);
    }
    let last = slice.last();
    let (new, truncated) = core.log.merge(slice, core.commit());
    if let Some((from, last)) = truncated {
        fx.push(Effect::Note(Note::Truncated { from, last }));
    }
    core.append(new, fx);
    // Behind `last` our log may hold what the leader's does not.
    core.commit_to(commit.min(last));
    accept(core, leader, last, fx);
}

fn accept(core: &Core, leader: NodeId, index: LogIndex, fx: &mut Effects) {
    core.send_once_persisted(leader, MessageBody::AppendReply { index, reject: None }, fx);
}

pub fn on_heartbeat(
    core: &mut Core,
    leader: NodeId,
    commit: LogIndex,
    context: u64,
    fx: &mut Effects,
) {
    if core.installing.is_none() {
        if commit <= core.log.last() {
            core.commit_to(commit);
        } else {
            // The leader never names more than it knows us to have persisted: our disk has lost
            // what we promised, and what stands there instead must not be taken for committed.
            fx.push(core.bad_message(leader, "Heartbeat", "commit behind the end of our log"));
        }
    }
    core.send(leader, MessageBody::HeartbeatReply { context }, fx);
}

/// The leader no longer has the entries that are missing here and offers its state instead.
pub fn on_snapshot(core: &mut Core, leader: NodeId, meta: SnapshotMeta, fx: &mut Effects) {
    let index = meta.index;
    let ignored = |why| Effect::Note(Note::SnapshotIgnored { from: leader, index, why });
    if core.installing.is_some() {
        // Told again, or by a new leader: the host is busy, and says so when it is done.
        return fx.push(ignored("another is being installed"));
    }
    if index <= core.commit() {
        fx.push(ignored("not news"));
        return accept(core, leader, core.commit(), fx);
    }
    if core.log.matches(index, meta.term) {
        // The log was only not known to be committed so far.
        fx.push(Effect::Note(Note::FastForward { index }));
        core.commit_to(index);
        return accept(core, leader, index, fx);
    }
    if !meta.conf.members().contains(&core.id()) {
        fx.push(ignored("this node is not in its configuration"));
        return core.send(leader, MessageBody::SnapshotRefused { index }, fx);
    }
    core.installing = Some((leader, meta.clone()));
    fx.push(Effect::InstallSnapshot { from: leader, meta });
}

/// The store now holds the state at `meta`: the log begins there.
pub fn on_snapshot_installed(core: &mut Core, meta: SnapshotMeta, fx: &mut Effects) {
    let (from, asked) = core.installing.take().expect("no snapshot was asked for");
    assert_eq!(asked, meta, "another snapshot was asked for");
    let SnapshotMeta { index, term, conf } = meta;
    core.log.restart(index, term);
    core.apply.restart(index);
    assert!(core.commit_to(index), "a snapshot behind the commit index");
    fx.push(Effect::LogStart { index, term });
    core.conf = conf;
    fx.push(Effect::Conf(core.conf.clone()));
    fx.push(Effect::Note(Note::SnapshotInstalled { index, term }));
    // Whoever leads now wants to know; without a leader, the one who sent it.
    let leader = if core.leader.is_none() { from } else { core.leader };
    if leader != core.id() {
        accept(core, leader, index, fx);
    }
}

pub fn on_snapshot_refused(core: &mut Core, index: LogIndex, fx: &mut Effects) {
    let Some((from, _)) = core.installing.take_if(|(_, meta)| meta.index == index) else {
        return;
    };
    fx.push(Effect::Note(Note::SnapshotIgnored { from, index, why: "it could not be installed" }));
    let leader = if core.leader.is_none() { from } else { core.leader };
    if leader != core.id() {
        core.send(leader, MessageBody::SnapshotRefused { index }, fx);
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Boot, Config};
    use super::*;
    use crate::types::{ConfState, EntryKind, GroupId, HardState};

    /// A follower of term 3 whose log has these terms, and what it has done.
    fn follower(terms: &[u64]) -> (Core, Effects) {
        let config = Config::new(NodeId(1), GroupId(1), 1, |_| Bytes::new());
        let conf = ConfState::of_voters(vec![NodeId(1), NodeId(2)]);
        let hard = HardState { term: Term(3), ..HardState::default() };
        let mut core = Core::new(config, Boot { hard, conf, ..Boot::default() });
        core.leader = NodeId(2);
        core.log.append(terms.iter().zip(1..).map(|(t, i)| entry(i, *t)).collect());
        (core, Effects::new())
    }

    fn entry(index: u64, term: u64) -> Entry {
        let (index, term) = (LogIndex(index), Term(term));
        Entry { term, index, kind: EntryKind::Command, data: Bytes::new() }
    }

    fn append(core: &mut Core, prev: (u64, u64), commit: u64, entries: Vec<Entry>) -> Effects {
        let mut fx = Effects::new();
        let prev = (LogIndex(prev.0), Term(prev.1));
        on_append(core, NodeId(2), prev, LogIndex(commit), entries, &mut fx);
        fx
    }

    fn answers(fx: &Effects) -> Vec<(u64, bool)> {
        let answer = |effect: &Effect| match effect {
            Effect::Send(m) | Effect::SendOncePersisted(m) => match m.body {
                MessageBody::AppendReply { index, reject } => Some((index.0, reject.is_none())),
                _ => None,
            },
            _ => None,
        };
        fx.iter().filter_map(answer).collect()
    }

    #[test]
    fn only_what_the_append_covers_is_committed() {
        let (mut core, _) = follower(&[1, 1, 2, 2]);
        // The leader has committed 4, but its entries 3 and 4 are not ours.
        let fx = append(&mut core, (1, 1), 4, vec![entry(2, 1)]);
        assert_eq!(core.commit(), LogIndex(2));
        assert_eq!(answers(&fx), [(2, true)]);
        assert_eq!(core.log.last(), LogIndex(4), "what the append does not contradict stays");
    }

    #[test]
    fn an_old_append_takes_nothing_back() {
        let (mut core, _) = follower(&[1, 1, 1]);
        core.commit_to(LogIndex(2));
        assert_eq!(answers(&append(&mut core, (0, 0), 0, vec![entry(1, 1)])), [(2, true)]);
        assert_eq!(answers(&append(&mut core, (2, 1), 0, vec![])), [(2, true)]);
        assert_eq!((core.commit(), core.log.last()), (LogIndex(2), LogIndex(3)));
    }

    #[test]
    fn an_answer_promises_persistence_and_a_refusal_does_not_wait() {
        let (mut core, _) = follower(&[1]);
        let fx = append(&mut core, (1, 1), 0, vec![entry(2, 3)]);
        assert!(fx.iter().any(|e| matches!(e, Effect::SendOncePersisted(_))));
        let fx = append(&mut core, (9, 3), 0, vec![]);
        assert!(fx.iter().any(|e| matches!(e, Effect::Send(_))));
        assert_eq!(answers(&fx), [(9, false)]);
    }

    #[test]
    fn a_heartbeat_that_knows_more_than_our_disk_commits_nothing() {
        let (mut core, mut fx) = follower(&[1, 1]);
        on_heartbeat(&mut core, NodeId(2), LogIndex(3), 7, &mut fx);
        assert_eq!(core.commit(), LogIndex::ZERO);
        on_heartbeat(&mut core, NodeId(2), LogIndex(1), 7, &mut fx);
        assert_eq!(core.commit(), LogIndex(1));
    }

    #[test]
    fn a_snapshot_is_taken_only_when_it_is_needed() {
        let conf = ConfState::of_voters(vec![NodeId(1), NodeId(2)]);
        let meta = |index, term| SnapshotMeta {
            index: LogIndex(index),
            term: Term(term),
            conf: conf.clone(),
        };
        let (mut core, mut fx) = follower(&[1, 1, 1]);
        core.commit_to(LogIndex(1));
        on_snapshot(&mut core, NodeId(2), meta(1, 1), &mut fx);
        on_snapshot(&mut core, NodeId(2), meta(2, 1), &mut fx);
        assert_eq!(core.commit(), LogIndex(2), "the log had it");
        let strangers = ConfState::of_voters(vec![NodeId(2)]);
        let theirs = SnapshotMeta { conf: strangers, ..meta(3, 2) };
        on_snapshot(&mut core, NodeId(2), theirs, &mut fx);
        assert!(core.installing.is_none());
        on_snapshot(&mut core, NodeId(2), meta(3, 2), &mut fx);
        assert!(core.installing.is_some());
        assert_eq!(answers(&append(&mut core, (3, 1), 3, vec![])), [], "the log stands still");
        on_snapshot_installed(&mut core, meta(3, 2), &mut fx);
        assert_eq!((core.log.start(), core.commit()), ((LogIndex(3), Term(2)), LogIndex(3)));
    }
}
