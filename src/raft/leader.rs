//! A leader: it alone appends, and it decides what is committed, which reads are safe, and to
//! whom it hands over. How entries reach the others is `replication`'s part of it.
//!
//! Its own disk is one voter among the others: an append leaves for the followers at once and
//! counts here only when `Input::Persisted` says so. Functions that can end the leadership
//! return a `Reign` and leave it to `replica` to step down.

use super::core::Core;
use super::progress::Progress;
use super::read_index::{Read, ReadQueue};
use super::{Dropped, Effect, Effects, Note, PeerStatus, conf_change, quorum};
use crate::types::{ConfChange, Entry, EntryKind, LogIndex, MessageBody, NodeId};
use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Reign {
    GoesOn,
    Over(&'static str),
}

#[derive(Debug)]
struct Transfer {
    to: NodeId,
    elapsed: u32,
    told: bool,
}

#[derive(Debug)]
pub struct Leader {
    /// Every other member of the configuration, learners included.
    pub(super) peers: BTreeMap<NodeId, Progress>,
    /// The entry this leadership began with. Once it is committed, so is everything before it,
    /// and the commit index is at least what any leader before could have acknowledged
    /// (paper 5.4.2): from there on reads are safe.
    first: LogIndex,
    /// No change of configuration is proposed before this entry is applied: it is the newest
    /// one that is, or may be, such a change.
    pending_conf: LogIndex,
    pub(super) reads: ReadQueue,
    transfer: Option<Transfer>,
    /// (last index, bytes) of what was appended in this term and is not committed.
    uncommitted: VecDeque<(LogIndex, usize)>,
    uncommitted_bytes: usize,
    heartbeat_elapsed: u32,
}

/// When an append that carries no entries is worth sending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Empty {
    Never,
    /// If it tells the follower of a commit it has not been told of.
    ForCommit,
    Always,
}

impl Leader {
    /// The first entry of this leadership.
    pub fn first(&self) -> LogIndex {
        self.first
    }

    /// Begins the leadership of the current term: its first entry is appended and sent.
    pub fn new(core: &mut Core, fx: &mut Effects) -> Leader {
        let last = core.log.last();
        let me = core.id();
        let others = core.conf.members().into_iter().filter(|id| *id != me);
        let mut leader = Leader {
            peers: others.map(|id| (id, Progress::new(last, false))).collect(),
            first: last.next(),
            // Anything up to here may be a change that somebody else proposed.
            pending_conf: last,
            reads: ReadQueue::default(),
            transfer: None,
            uncommitted: VecDeque::new(),
            uncommitted_bytes: 0,
            heartbeat_elapsed: 0,
        };
        let (term, index) = (core.term(), leader.first);
        let entry = Entry { term, index, kind: EntryKind::Empty, data: Bytes::new() };
        leader.append(core, vec![entry], fx);
        leader
    }

    fn append(&mut self, core: &mut Core, entries: Vec<Entry>, fx: &mut Effects) {
        let bytes: usize = entries.iter().map(Entry::cost).sum();
        core.append(entries, fx);
        self.uncommitted.push_back((core.log.last(), bytes));
        self.uncommitted_bytes += bytes;
        self.replicate_to_all(core, Empty::Never, fx);
    }

    pub fn propose(&mut self, core: &mut Core, data: Vec<Bytes>, fx: &mut Effects) {
        if self.transfer.is_some() {
            let reason = Dropped::Transferring;
            return fx.push(Effect::ProposalsDropped { data, reason });
        }
        let (term, first) = (core.term(), core.log.last().next());
        let mut entries: Vec<Entry> = data
            .into_iter()
            .zip((first.0..).map(LogIndex))
            .map(|(data, index)| Entry { term, index, kind: EntryKind::Command, data })
            .collect();
        let bytes_max = core.config.bounds.uncommitted_bytes_max;
        let mut bytes = self.uncommitted_bytes;
        let fitting = entries.iter().take_while(|entry| {
            // One proposal fits, however large, when nothing else is under way.
            let alone = bytes == 0;
            bytes = bytes.saturating_add(entry.cost());
            alone || bytes <= bytes_max
        });
        let rest = entries.split_off(fitting.count());
        if !entries.is_empty() {
            self.append(core, entries, fx);
        }
        if !rest.is_empty() {
            let data = rest.into_iter().map(|entry| entry.data).collect();
            fx.push(Effect::ProposalsDropped { data, reason: Dropped::TooMany });
        }
    }

    pub fn propose_conf_change(&mut self, core: &mut Core, change: ConfChange, fx: &mut Effects) {
        let reason = if self.transfer.is_some() {
            Dropped::Transferring
        } else if self.pending_conf > core.apply.applied() {
            Dropped::ConfPending
        } else if conf_change::changed(&core.conf, &change).is_err() {
            Dropped::ConfInvalid
        } else {
            return self.append_conf_change(core, &change, fx);
        };
        fx.push(Effect::ConfChangeDropped { change, reason });
    }

    fn append_conf_change(&mut self, core: &mut Core, change: &ConfChange, fx: &mut Effects) {
        let data = (core.config.encode_conf_change)(change);
        let (term, index) = (core.term(), core.log.last().next());
        self.pending_conf = index;
        self.append(core, vec![Entry { term, index, kind: EntryKind::ConfChange, data }], fx);
    }

    /// A joint configuration that asks for it is left as soon as the change that entered it is
    /// applied, or by a tick after that: a hand-over may have been under way just then.
    pub fn leave_joint_if_due(&mut self, core: &mut Core, fx: &mut Effects) {
        let due = core.conf.auto_leave && self.pending_conf <= core.apply.applied();
        if due && self.transfer.is_none() {
            fx.push(Effect::Note(Note::AutoLeave));
            self.append_conf_change(core, &ConfChange::default(), fx);
        }
    }

    /// Another configuration is in force.
    pub fn on_conf(&mut self, core: &mut Core, fx: &mut Effects) -> Reign {
        let members = core.conf.members();
        self.peers.retain(|id, _| members.binary_search(id).is_ok());
        for id in members {
            if id != core.id() && !self.peers.contains_key(&id) {
                // Taken for active, so that the next quorum check does not hold it against us
                // that it could not have answered yet.
                self.peers.insert(id, Progress::new(core.log.last(), true));
            }
        }
        if self.transfer.as_ref().is_some_and(|transfer| !core.is_voter(transfer.to)) {
            self.abort_transfer(fx);
        }
        // A smaller quorum may have been reached already; and whoever is new hears from us.
        self.commit_what_is_reached(core, fx);
        self.replicate_to_all(core, Empty::ForCommit, fx);
        if !core.is_voter(core.id()) {
            return Reign::Over("no longer a voter");
        }
        self.serve_reads(core, fx);
        Reign::GoesOn
    }

    pub fn tick(&mut self, core: &mut Core, fx: &mut Effects) -> Reign {
        core.election_elapsed += 1;
        self.heartbeat_elapsed += 1;
        if let Some(transfer) = &mut self.transfer {
            transfer.elapsed += 1;
            if transfer.elapsed >= core.config.election_ticks {
                // It may have won by now, or never will; either way proposals go on.
                self.abort_transfer(fx);
            }
        }
        if core.election_elapsed >= core.config.election_ticks {
            core.election_elapsed = 0;
            if core.config.check_quorum && !self.hears_a_quorum(core) {
                return Reign::Over("no quorum has answered for an election timeout");
            }
            self.upkeep_snapshots(core, fx);
            for peer in self.peers.values_mut() {
                peer.active = false;
            }
        }
        if self.heartbeat_elapsed >= core.config.heartbeat_ticks {
            self.heartbeat(core, fx);
        }
        self.leave_joint_if_due(core, fx);
        Reign::GoesOn
    }

    fn hears_a_quorum(&self, core: &Core) -> bool {
        let me = core.id();
        quorum::holds(&core.conf, |id| {
            id == me || self.peers.get(&id).is_some_and(|peer| peer.active)
        })
    }

    /// Tells everyone that the leader lives, what is committed, and which round of reads asks.
    fn heartbeat(&mut self, core: &Core, fx: &mut Effects) {
        self.heartbeat_elapsed = 0;
        // The round that is out may have been lost on the way, and what waits should not wait
        // for its answer then: one more round asks for both.
        if self.reads.has_waiting() && self.is_ground_firm(core) {
            self.reads.begin_round(core.commit());
        }
        let context = self.reads.asking();
        for (&id, peer) in &self.peers {
            // Never beyond what it is known to have: what follows there may not be ours.
            let commit = core.commit().min(peer.matched);
            core.send(id, MessageBody::Heartbeat { commit, context }, fx);
        }
    }

    /// Ticks start again after a pause: nobody was asked, so nobody's silence counts.
    pub fn wake(&mut self, core: &mut Core, fx: &mut Effects) {
        core.election_elapsed = 0;
        for peer in self.peers.values_mut() {
            peer.active = true;
        }
        self.heartbeat(core, fx);
    }

    /// Commits what a quorum has persisted, if it is of this term (paper 5.4.2, figure 8: a
    /// majority that holds an entry of an earlier term may still lose it). True when that is
    /// news, which the followers then want to hear.
    fn commit_what_is_reached(&mut self, core: &mut Core, fx: &mut Effects) -> bool {
        let (me, own) = (core.id(), core.log.persisted());
        let reached = LogIndex(quorum::reached(&core.conf, |id| match self.peers.get(&id) {
            Some(peer) => peer.matched.0,
            None if id == me => own.0,
            None => 0,
        }));
        if reached <= core.commit() || core.log.term(reached) != Some(core.term()) {
            return false;
        }
        core.commit_to(reached);
        while let Some(&(last, bytes)) = self.uncommitted.front()
            && last <= reached
        {
            self.uncommitted.pop_front();
            self.uncommitted_bytes -= bytes;
        }
        self.serve_reads(core, fx);
        true
    }

    /// Somebody's match index moved: commit, and tell everyone who can use it.
    pub(super) fn on_match(&mut self, core: &mut Core, fx: &mut Effects) {
        if self.commit_what_is_reached(core, fx) {
            self.replicate_to_all(core, Empty::ForCommit, fx);
        }
    }

    /// Whether the commit index covers everything that was ever acknowledged.
    fn is_ground_firm(&self, core: &Core) -> bool {
        core.commit() >= self.first
    }

    pub fn read_index(&mut self, core: &mut Core, read: Read, fx: &mut Effects) {
        if self.reads.len() < core.config.bounds.reads_pending_max {
            self.reads.add(read);
            self.serve_reads(core, fx);
        } else if read.from == core.id() {
            fx.push(Effect::ReadDropped { context: read.context });
        } else {
            fx.push(Effect::Note(Note::Unserved { from: read.from, name: "ReadIndex" }));
        }
    }

    /// Answers the rounds a quorum has confirmed, and begins the next one if reads wait.
    pub(super) fn serve_reads(&mut self, core: &Core, fx: &mut Effects) {
        let me = core.id();
        while !self.reads.is_empty() {
            if !self.reads.is_round_out() {
                if !self.is_ground_firm(core) {
                    return;
                }
                self.reads.begin_round(core.commit());
                if core.conf.voters != [me] || core.conf.is_joint() {
                    return self.heartbeat(core, fx);
                }
            }
            let confirmed = quorum::reached(&core.conf, |id| match self.peers.get(&id) {
                Some(peer) => peer.context,
                None if id == me => u64::MAX,
                None => 0,
            });
            self.reads.confirm(confirmed, |read, index| {
                let context = read.context;
                if read.from == me {
                    fx.push(Effect::ReadReady { context, index });
                } else {
                    core.send(read.from, MessageBody::ReadIndexReply { context, index }, fx);
                }
            });
            if self.reads.is_round_out() {
                return;
            }
        }
    }

    pub fn transfer(&mut self, core: &Core, to: NodeId, fx: &mut Effects) {
        let why = if to == core.id() {
            "it leads already"
        } else if !core.is_voter(to) {
            "not a voter"
        } else if self.transfer.as_ref().is_some_and(|transfer| transfer.to == to) {
            "under way already"
        } else {
            self.abort_transfer(fx);
            fx.push(Effect::Note(Note::TransferStarted { to }));
            self.transfer = Some(Transfer { to, elapsed: 0, told: false });
            self.hand_over_if_ready(core, to, fx);
            if let Some(peer) = self.peers.get_mut(&to) {
                Leader::replicate(peer, to, core, Empty::Never, fx);
            }
            return;
        };
        fx.push(Effect::Note(Note::TransferRefused { to, why }));
    }

    /// The successor has everything: it need not wait for its timeout.
    pub(super) fn hand_over_if_ready(&mut self, core: &Core, to: NodeId, fx: &mut Effects) {
        let Some(transfer) = self.transfer.as_mut().filter(|t| t.to == to && !t.told) else {
            return;
        };
        if self.peers.get(&to).is_some_and(|peer| peer.matched == core.log.last()) {
            transfer.told = true;
            core.send(to, MessageBody::TimeoutNow, fx);
        }
    }

    fn abort_transfer(&mut self, fx: &mut Effects) {
        if let Some(Transfer { to, .. }) = self.transfer.take() {
            fx.push(Effect::Note(Note::TransferAborted { to }));
        }
    }

    pub fn transferee(&self) -> NodeId {
        self.transfer.as_ref().map_or(NodeId::NONE, |transfer| transfer.to)
    }

    /// The leadership is over: what was asked of it and not answered.
    pub fn into_reads(self) -> ReadQueue {
        self.reads
    }

    /// Whether every follower has everything, knows it, and nobody waits for anything.
    pub fn is_quiet(&self, core: &Core) -> bool {
        self.reads.is_empty()
            && self.transfer.is_none()
            && !core.conf.auto_leave
            && core.commit() == core.log.last()
            && core.log.persisted() == core.log.last()
            && self.peers.values().all(|peer| peer.is_caught_up(core.log.last()))
    }

    pub fn release_memory(&mut self) {
        for peer in self.peers.values_mut() {
            peer.window.shrink();
        }
        self.uncommitted.shrink_to_fit();
    }

    pub fn status(&self, core: &Core) -> Vec<PeerStatus> {
        let status = |(&id, peer): (&NodeId, &Progress)| PeerStatus {
            id,
            learner: !core.is_voter(id),
            state: peer.state(),
            matched: peer.matched,
            next: peer.next,
            inflight: peer.window.len(),
            active: peer.active,
        };
        self.peers.iter().map(status).collect()
    }
}
