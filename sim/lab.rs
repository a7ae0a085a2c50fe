//! Whole members beside the world: clusters of their own on disks of their own, for questions that
//! must not disturb the history that is being played. Does a restored cluster come to life? Who
//! refuses whom? Their cores, logs and stores are the product's; their network loses nothing and
//! their disks do at once what they are told, and so they run in rounds instead of events.

use crate::member::{Birth, Live, meet};
use crate::plan::{MS, Plan};
use quorate::io::MemDisk;
use quorate::multiraft::NodeMessage;
use quorate::node::{Action, Answer, BootError, Token};
use quorate::types::auth::{Caller, ROOT};
use quorate::types::command::PutRequest;
use quorate::types::{ApiError, Command, GroupId, Incarnation, NodeId, StorageError};
use std::collections::BTreeMap;

struct Inmate {
    live: Live,
    node: NodeId,
    incarnation: Incarnation,
}

/// A cluster that runs by itself. Nobody in it lags, so that nobody ever needs a state.
pub struct Lab {
    members: Vec<Inmate>,
    now_ms: u64,
    tick_ms: u64,
    election_ms: u64,
    next_token: u64,
    answers: BTreeMap<Token, Result<Answer, ApiError>>,
    wires: Vec<(NodeId, Incarnation, NodeId, NodeMessage)>,
}

impl Lab {
    pub fn new(plan: &Plan) -> Lab {
        Lab {
            members: Vec::new(),
            now_ms: 0,
            tick_ms: plan.tick_us / MS,
            election_ms: plan.election_us() / MS,
            next_token: 1,
            answers: BTreeMap::new(),
            wires: Vec::new(),
        }
    }

    /// Starts a member on what `disk` holds; `process` names its life.
    pub fn start(
        &mut self,
        plan: &Plan,
        birth: &Birth,
        incarnation: Incarnation,
        disk: &MemDisk,
        process: u64,
    ) -> Result<(), BootError> {
        let (live, _) = Live::boot(plan, birth, incarnation, disk, process)?;
        self.members.push(Inmate { live, node: birth.node, incarnation });
        Ok(())
    }

    pub fn live(&self, m: usize) -> &Live {
        &self.members[m].live
    }
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Lets the members meet and time pass until every group has a leader; whether that came
    /// within ten election timeouts. `Err` when members of one cluster refuse each other.
    pub fn settle(&mut self, groups: &[GroupId]) -> Result<bool, String> {
        for a in 0..self.members.len() {
            for b in a + 1..self.members.len() {
                let (left, right) = self.members.split_at_mut(b);
                let verdicts = meet(&mut left[a].live, &mut right[0].live);
                if verdicts != (None, None) {
                    return Err(format!("members {a} and {b} of a new cluster: {verdicts:?}"));
                }
            }
        }
        let ids: Vec<NodeId> = self.members.iter().map(|inmate| inmate.node).collect();
        for m in 0..self.members.len() {
            for &peer in ids.iter().filter(|id| **id != ids[m]) {
                self.handle(m, Action::PeerUp { peer });
            }
        }
        let end = self.now_ms + 10 * self.election_ms;
        while self.now_ms < end {
            if groups.iter().all(|group| self.leader(*group).is_some()) {
                return Ok(true);
            }
            self.round().map_err(|error| error.to_string())?;
        }
        Ok(false)
    }

    pub fn leader(&self, group: GroupId) -> Option<usize> {
        let leads = |m: &usize| self.live(*m).said(group).is_some_and(|said| said.is_leader);
        (0..self.members.len()).find(leads)
    }

    /// Writes through one member, and waits for the answer as long as a client would.
    pub fn put(
        &mut self,
        m: usize,
        group: GroupId,
        key: &'static [u8],
        value: &'static [u8],
    ) -> Result<Answer, String> {
        let token = Token(self.next_token);
        self.next_token += 1;
        let request = PutRequest { key: key.into(), value: value.into(), ..PutRequest::default() };
        let command = Command::Put(request);
        // A state that is restored has its users, and lets root do everything.
        let auth = self.members[m].live.auth(group).filter(|auth| auth.is_enabled());
        self.handle(
            m,
            match auth {
                None => Action::Propose { group, token, command },
                Some(auth) => {
                    let caller = Caller { user: ROOT.to_owned(), auth_revision: auth.revision() };
                    Action::ProposeAs { group, token, caller, command }
                }
            },
        );
        let end = self.now_ms + 10 * self.election_ms;
        while self.now_ms < end {
            if let Some(answer) = self.answers.remove(&token) {
                return answer.map_err(|error| format!("{error:?}"));
            }
            self.round().map_err(|error| error.to_string())?;
        }
        Err("no answer".to_owned())
    }

    fn handle(&mut self, m: usize, action: Action) {
        self.members[m].live.handle(self.now_ms, action);
    }

    /// One tick for everybody, then turns until nobody has anything left to say.
    pub fn round(&mut self) -> Result<(), StorageError> {
        self.now_ms += self.tick_ms;
        for m in 0..self.members.len() {
            let now_ms = self.now_ms;
            self.handle(m, Action::Tick { now_ms });
        }
        // Each turn answers what the one before has said: a bound only against a bug.
        for _ in 0..1_000 {
            let mut busy = false;
            for m in 0..self.members.len() {
                busy |= self.turn(m)?;
            }
            for (from, incarnation, to, message) in std::mem::take(&mut self.wires) {
                busy = true;
                if let Some(m) = self.members.iter().position(|inmate| inmate.node == to) {
                    self.handle(m, Action::Frame { from, incarnation, message });
                }
            }
            if !busy {
                break;
            }
        }
        Ok(())
    }

    fn turn(&mut self, m: usize) -> Result<bool, StorageError> {
        let now_ms = self.now_ms;
        let Inmate { live, node, incarnation } = &mut self.members[m];
        let output = live.end_turn();
        let mut told = Vec::new();
        if let Some(batch) = output.wal {
            live.wal.write(&batch.batch)?;
            live.wal.sync()?;
            told.push(Action::Persisted { batch: batch.id });
        }
        for job in output.applies {
            let batch = live.applier.apply(job.group, &job.entries)?;
            told.extend(batch.map(|batch| Action::Applied { batch: Box::new(batch) }));
        }
        for read in output.log_reads {
            let entries = live.wal.read(read.group, read.from, read.to, read.bytes_max)?;
            let (group, purpose, from) = (read.group, read.purpose, read.from);
            told.push(Action::EntriesRead { group, purpose, from, entries });
        }
        if let Some(root) = output.root {
            live.follow_root(&root);
        }
        self.answers.extend(output.answers);
        for (to, message) in output.frames {
            self.wires.push((*node, *incarnation, to, message));
        }
        let busy = !told.is_empty();
        for action in told {
            live.handle(now_ms, action);
        }
        Ok(busy)
    }
}
