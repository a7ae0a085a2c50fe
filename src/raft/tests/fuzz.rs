//! Rubbish: whatever peers say, in whatever role it finds us, nothing panics, and what no peer
//! may change stays: the term never falls, what is committed stays committed, one vote per term.

use super::cluster::{GROUP, encode_change};
use crate::raft::log::{Log, LogSlice};
use crate::raft::{Boot, Bounds, Config, Effect, Effects, Input, ReadFor, Replica, Role};
use crate::types::message::{RejectHint, SnapshotMeta};
use crate::types::prng::Prng;
use crate::types::{
    ConfChange, ConfChangeKind, ConfState, Entry, EntryKind, GroupId, LogIndex, Message,
    MessageBody, NodeId, Term,
};
use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};

struct Fuzz {
    rng: Prng,
    replica: Replica,
    disk: BTreeMap<LogIndex, Entry>,
    /// What the host owes an answer to.
    persisting: VecDeque<(Term, LogIndex)>,
    held: VecDeque<Message>,
    applying: VecDeque<Entry>,
    reading: VecDeque<(ReadFor, LogIndex)>,
    wanted: VecDeque<NodeId>,
    installing: Option<SnapshotMeta>,
    votes: BTreeMap<Term, NodeId>,
    committed: BTreeMap<LogIndex, Term>,
    led: bool,
}

impl Fuzz {
    fn new(seed: u64) -> Fuzz {
        let mut rng = Prng::new(seed);
        let mut config = Config::new(NodeId(1), GROUP, seed, encode_change);
        config.election_ticks = 3;
        config.pre_vote = rng.chance(1, 2);
        config.check_quorum = rng.chance(1, 2);
        config.bounds = Bounds {
            append_entries_max: 3,
            inflight_appends_max: 3,
            log_cache_bytes_max: 100,
            uncommitted_bytes_max: 300,
            apply_bytes_max: 100,
            reads_pending_max: 4,
            ..Bounds::default()
        };
        let voters = rng.between(0, 4);
        let conf = ConfState::of_voters((1..=voters).map(NodeId).collect());
        Fuzz {
            rng,
            replica: Replica::new(config, Boot { conf, ..Boot::default() }),
            disk: BTreeMap::new(),
            persisting: VecDeque::new(),
            held: VecDeque::new(),
            applying: VecDeque::new(),
            reading: VecDeque::new(),
            wanted: VecDeque::new(),
            installing: None,
            votes: BTreeMap::new(),
            committed: BTreeMap::new(),
            led: false,
        }
    }

    /// A number that may well be the one that matters, or an edge of its range.
    fn near(&mut self, center: u64) -> u64 {
        match self.rng.below(20) {
            0 => 0,
            1 => u64::MAX - self.rng.below(3),
            2 => (1 << 62) - 1 + self.rng.below(3),
            3 => self.rng.next_u64(),
            4..=11 => center,
            _ => center.saturating_add(self.rng.below(4)).saturating_sub(2),
        }
    }

    /// Mostly no newer than the replica's, or terms would race ahead and only strangers speak.
    fn term(&mut self) -> Term {
        let own = self.replica.term().0;
        Term(match self.rng.below(30) {
            0 => self.near(own).min(own + 5),
            1 => self.near(own.saturating_sub(1)),
            _ => own,
        })
    }

    fn index(&mut self) -> LogIndex {
        let centers = [self.replica.last().0, self.replica.commit().0, self.replica.applied().0];
        let center = centers[self.rng.below(3) as usize];
        LogIndex(self.near(center))
    }

    fn place(&mut self) -> (LogIndex, Term) {
        let index = self.index();
        let known = self.replica.log_term(index);
        (index, known.filter(|_| self.rng.chance(4, 5)).unwrap_or_else(|| self.term()))
    }

    fn node(&mut self) -> NodeId {
        NodeId(self.rng.below(6))
    }

    fn entries(&mut self, prev: LogIndex, prev_term: Term) -> Vec<Entry> {
        let (mut index, mut term) = (prev, prev_term);
        (0..self.rng.below(5))
            .map(|_| {
                index = LogIndex(match self.rng.chance(1, 20) {
                    true => self.near(index.0),
                    false => index.0.wrapping_add(1),
                });
                if self.rng.chance(1, 4) {
                    term = self.term();
                }
                let kind = match self.rng.below(4) {
                    0 => EntryKind::Empty,
                    1 => EntryKind::ConfChange,
                    _ => EntryKind::Command,
                };
                Entry { term, index, kind, data: Bytes::from_static(b"data") }
            })
            .collect()
    }

    fn nodes(&mut self) -> Vec<NodeId> {
        (0..self.rng.below(4)).map(|_| self.node()).collect()
    }

    fn conf(&mut self) -> ConfState {
        let mut conf = ConfState::of_voters(self.nodes());
        if self.rng.chance(1, 4) {
            conf.learners = self.nodes();
            conf.voters_outgoing = self.nodes();
            conf.auto_leave = self.rng.chance(1, 2);
        }
        conf
    }

    fn body(&mut self) -> MessageBody {
        let (index, term) = self.place();
        let flag = self.rng.chance(1, 2);
        let number = self.rng.below(6);
        match self.rng.below(22) {
            0 => MessageBody::PreVote { last_index: index, last_term: term },
            1 => MessageBody::PreVoteReply { granted: flag },
            2 => MessageBody::Vote { last_index: index, last_term: term, forced: flag },
            3 | 4 => MessageBody::VoteReply { granted: flag },
            5..=10 => {
                let entries = self.entries(index, term);
                let commit = self.index();
                MessageBody::Append { prev_index: index, prev_term: term, commit, entries }
            }
            11 | 12 => {
                let hint = RejectHint { index: self.index(), term: self.term() };
                MessageBody::AppendReply { index, reject: flag.then_some(hint) }
            }
            13 => MessageBody::Heartbeat { commit: index, context: number },
            14 => MessageBody::HeartbeatReply { context: number },
            15 => MessageBody::Snapshot { meta: SnapshotMeta { index, term, conf: self.conf() } },
            16 => MessageBody::SnapshotRefused { index },
            17 => MessageBody::TimeoutNow,
            18 => MessageBody::Propose { data: vec![Bytes::from_static(b"p"); number as usize] },
            19 => MessageBody::ReadIndex { context: number },
            20 => MessageBody::ReadIndexReply { context: number, index },
            _ => MessageBody::Committed { index, term },
        }
    }

    fn message(&mut self) -> Input {
        let stray = self.rng.chance(1, 50);
        Input::Message(Message {
            group: if stray { GroupId(7) } else { GROUP },
            from: self.node(),
            to: if stray { self.node() } else { NodeId(1) },
            term: self.term(),
            body: self.body(),
        })
    }

    /// What a correct host may do next.
    fn host(&mut self) -> Option<Input> {
        Some(match self.rng.below(16) {
            0..=2 => Input::Tick,
            3 => Input::Propose { data: vec![Bytes::from_static(b"own")] },
            4 => {
                let kinds =
                    [ConfChangeKind::AddVoter, ConfChangeKind::AddLearner, ConfChangeKind::Remove];
                let kind = kinds[self.rng.below(3) as usize];
                let changes = vec![(kind, self.node())];
                Input::ProposeConfChange(ConfChange { changes, ..ConfChange::default() })
            }
            5 => Input::ReadIndex { context: self.rng.next_u64() },
            6 => Input::Transfer(self.node()),
            7 => [Input::Campaign, Input::Wake][self.rng.below(2) as usize].clone(),
            8 | 9 => {
                let (term, index) = self.persisting.pop_front()?;
                Input::Persisted { term, index }
            }
            10 | 11 => Input::Message(self.held.pop_front()?),
            12 => {
                let entry = self.applying.pop_front()?;
                let index = entry.index;
                match entry.kind {
                    EntryKind::ConfChange => {
                        let changes = vec![(ConfChangeKind::AddVoter, self.node())];
                        let change = ConfChange { changes, ..ConfChange::default() };
                        let change = self.rng.chance(1, 2).then_some(change);
                        Input::ConfApplied { index, change }
                    }
                    _ => Input::Applied { index },
                }
            }
            13 => {
                let (purpose, from) = self.reading.pop_front()?;
                let entries = self.disk.range(from..).take(2).map(|(_, e)| e.clone()).collect();
                Input::EntriesRead { purpose, from, entries }
            }
            14 => match self.installing.take() {
                Some(meta) if self.rng.chance(1, 2) => {
                    self.applying.clear();
                    Input::SnapshotInstalled { meta }
                }
                Some(meta) => Input::SnapshotRefused { index: meta.index },
                None => Input::Unreachable(self.node()),
            },
            _ => match self.wanted.pop_front() {
                Some(to) if self.rng.chance(1, 2) => {
                    let index = self.replica.applied();
                    let term = self.replica.log_term(index)?;
                    let conf = self.replica.status().conf;
                    Input::SnapshotReady { to, meta: SnapshotMeta { index, term, conf } }
                }
                Some(to) => Input::SnapshotFailed { to },
                None => Input::Trim { index: self.replica.applied() },
            },
        })
    }

    fn step(&mut self, input: Input) {
        let (term, commit) = (self.replica.term(), self.replica.commit());
        let mut fx = Effects::new();
        self.replica.step(input, &mut fx);
        assert!(self.replica.term() >= term, "the term fell");
        assert!(self.replica.commit() >= commit, "the commit index fell");
        self.led |= self.replica.role() == Role::Leader;
        for effect in fx.drain() {
            match effect {
                Effect::SaveHardState(hard) if !hard.vote.is_none() => {
                    let vote = *self.votes.entry(hard.term).or_insert(hard.vote);
                    assert_eq!(vote, hard.vote, "a second vote");
                }
                Effect::Append(entries) => {
                    let last = entries.last().expect("never empty");
                    self.persisting.push_back((last.term, last.index));
                    self.disk.split_off(&entries[0].index);
                    self.disk.extend(entries.into_iter().map(|entry| (entry.index, entry)));
                }
                Effect::SendOncePersisted(message) if message.to == NodeId(1) => {
                    self.held.push_back(message);
                }
                Effect::Send(message) => assert_ne!(message.to, NodeId(1)),
                Effect::Apply(entries) => {
                    for entry in entries {
                        self.committed.insert(entry.index, entry.term);
                        self.applying.push_back(entry);
                    }
                }
                Effect::ReadEntries { purpose, from, .. } => {
                    self.reading.push_back((purpose, from));
                }
                Effect::MakeSnapshot { to } => self.wanted.push_back(to),
                Effect::InstallSnapshot { meta, .. } => self.installing = Some(meta),
                _ => {}
            }
        }
        for (&index, &term) in self.committed.range(self.replica.log_start().0.next()..) {
            let now = self.replica.log_term(index);
            assert_eq!(now, Some(term), "what was committed at {index} is gone");
        }
    }
}

#[test]
fn rubbish_does_no_harm() {
    let mut leaders = 0;
    for seed in 0..400 {
        let mut fuzz = Fuzz::new(seed);
        for _ in 0..1500 {
            let input = match fuzz.rng.chance(1, 2) {
                true => Some(fuzz.message()),
                false => fuzz.host(),
            };
            if let Some(input) = input {
                fuzz.step(input);
            }
        }
        leaders += u32::from(fuzz.led);
    }
    assert!(leaders > 100, "rubbish reached a leader in {leaders} runs only");
}

/// The gate of an append: what it lets through, any log of the right shape can merge.
#[test]
fn a_checked_slice_always_merges() {
    let mut rng = Prng::new(7);
    let mut merged = 0;
    for _ in 0..20_000 {
        let mut log = Log::new((LogIndex(0), Term(0)), LogIndex(0), &[], Vec::new(), 0);
        let mut term = 1;
        let own: Vec<Entry> = (1..=rng.below(6))
            .map(|index| {
                term += rng.below(2);
                let (index, term) = (LogIndex(index), Term(term));
                Entry { term, index, kind: EntryKind::Command, data: Bytes::new() }
            })
            .collect();
        log.append(own);
        let prev = LogIndex(rng.below(7));
        let prev_term = log.term(prev).unwrap_or(Term(rng.below(4)));
        let entries = (1..=rng.below(4))
            .map(|ahead| {
                let index = LogIndex(prev.0 + ahead + rng.below(20) / 19);
                let term = Term(prev_term.0 + rng.below(3));
                Entry { term, index, kind: EntryKind::Command, data: Bytes::new() }
            })
            .collect();
        let Ok(slice) = LogSlice::valid(Term(9), (prev, prev_term), entries) else { continue };
        if log.matches(prev, prev_term) {
            let last = slice.last();
            let (new, _) = log.merge(slice, LogIndex(0));
            log.append(new);
            assert!(log.last() >= last);
            log.check();
            merged += 1;
        }
    }
    assert!(merged > 1000);
}
