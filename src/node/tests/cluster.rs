//! A cluster in one process: members, their disks, and a network that delivers in order.

use crate::btree::CheckpointJob;
use crate::io::{Disk, MemDisk};
use crate::multiraft::turn::{ApplyJob, WalBatch};
use crate::multiraft::wire::NodeMessage;
use crate::mvcc::KeyspaceView;
use crate::node::action::{Action, Answer, Output, StopReason, Token};
use crate::node::boot::{BootConfig, BootError, Founding, boot};
use crate::node::config::CoreConfig;
use crate::node::member::Member;
use crate::node::membership::{cluster_id, member_id};
use crate::types::command::{PutRequest, RangeRequest};
use crate::types::{
    ApiError, ClusterId, Command, GroupId, Incarnation, KeyRange, Member as Row, NodeId,
};
use bytes::{Bytes, BytesMut};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

pub const STEP_MS: u64 = 10;
const TURNS_PER_STEP: usize = 8;

pub struct Node {
    pub disk: Arc<MemDisk>,
    pub member: Option<Member>,
    pub config: BootConfig,
    pub boots: u64,
    wal: Option<WalBatch>,
    checkpoint: Option<CheckpointJob>,
    todo: VecDeque<Action>,
    /// What is to be applied waits here while it is there.
    pub held_applies: Option<Vec<ApplyJob>>,
    pub stopped: Option<StopReason>,
    pub refused: u64,
}

pub struct Cluster {
    pub nodes: BTreeMap<NodeId, Node>,
    pub now_ms: u64,
    pub answers: BTreeMap<Token, Result<Answer, ApiError>>,
    wires: BTreeMap<(NodeId, NodeId), VecDeque<(Incarnation, NodeMessage)>>,
    pub cut: BTreeSet<(NodeId, NodeId)>,
    next_token: u64,
    pub tune: fn(&mut BootConfig),
}

pub fn url(n: u64) -> Vec<String> {
    vec![format!("http://10.0.0.{n}:2380")]
}

pub fn founders(n: u64) -> (ClusterId, Vec<Row>) {
    let rows: Vec<Row> = (1..=n)
        .map(|n| Row { id: member_id(&url(n), "t", None), peer_urls: url(n), ..Row::default() })
        .collect();
    (cluster_id(rows.iter().map(|row| row.id)), rows)
}

pub fn group_ids(n: u64) -> Vec<GroupId> {
    (1..=n).map(GroupId).collect()
}

impl Cluster {
    /// Nobody yet.
    pub fn empty(tune: fn(&mut BootConfig)) -> Cluster {
        Cluster {
            nodes: BTreeMap::new(),
            now_ms: 0,
            answers: BTreeMap::new(),
            wires: BTreeMap::new(),
            cut: BTreeSet::new(),
            next_token: 1,
            tune,
        }
    }

    /// `n` members with `groups` groups, all started.
    pub fn new(n: u64, groups: u64, tune: fn(&mut BootConfig)) -> Cluster {
        let (cluster, rows) = founders(n);
        let mut this = Cluster::empty(tune);
        for (at, row) in rows.iter().enumerate() {
            let founding = Founding::New { members: rows.clone(), groups: group_ids(groups) };
            this.add(row.id, cluster, founding, at as u64 + 1);
        }
        this
    }

    pub fn add(&mut self, id: NodeId, cluster: ClusterId, founding: Founding, seed: u64) {
        self.add_on(MemDisk::new(seed), id, cluster, founding, seed);
    }

    /// A member on whatever `disk` holds.
    pub fn add_on(
        &mut self,
        disk: MemDisk,
        id: NodeId,
        cluster: ClusterId,
        founding: Founding,
        seed: u64,
    ) {
        let mut core = CoreConfig::new(cluster, id, Incarnation(0x1000 + seed), 0x9_0000 * seed);
        core.name = format!("n{seed}");
        let mut config = BootConfig::new("/data", core, founding);
        config.wal.segment_bytes = 256 << 10;
        (self.tune)(&mut config);
        let node = Node {
            disk: Arc::new(disk),
            member: None,
            config,
            boots: 0,
            wal: None,
            checkpoint: None,
            todo: VecDeque::new(),
            held_applies: None,
            stopped: None,
            refused: 0,
        };
        self.nodes.insert(id, node);
        self.start(id).expect("a fresh member starts");
    }

    pub fn ids(&self) -> Vec<NodeId> {
        self.nodes.keys().copied().collect()
    }

    pub fn start(&mut self, id: NodeId) -> Result<(), BootError> {
        let node = self.nodes.get_mut(&id).expect("a known node");
        node.boots += 1;
        let mut config = node.config.clone();
        config.core.origin = config.core.origin * 1000 + node.boots;
        config.core.seed = config.core.origin;
        if node.boots > 1 {
            // What a real start would draw anew, and a recovered directory ignores.
            config.core.incarnation = Incarnation(config.core.incarnation.0 + 0x100 * node.boots);
        }
        let disk: Arc<dyn Disk> = node.disk.clone();
        let member = boot(disk, config)?;
        node.member = Some(member);
        node.todo.clear();
        node.stopped = None;
        node.todo.push_back(Action::Tick { now_ms: self.now_ms });
        for peer in self.ids() {
            if peer != id && self.nodes[&peer].member.is_some() {
                self.tell(id, Action::PeerUp { peer });
                self.tell(peer, Action::PeerUp { peer: id });
            }
        }
        Ok(())
    }

    /// Power failure.
    pub fn crash(&mut self, id: NodeId) {
        let node = self.nodes.get_mut(&id).expect("a known node");
        node.disk.crash();
        node.member = None;
        node.wal = None;
        node.checkpoint = None;
        node.todo.clear();
        self.wires.retain(|(from, to), _| *from != id && *to != id);
        for peer in self.ids() {
            if peer != id {
                self.tell(peer, Action::PeerDown { peer: id });
            }
        }
    }

    pub fn tell(&mut self, id: NodeId, action: Action) {
        if let Some(node) = self.nodes.get_mut(&id)
            && node.member.is_some()
        {
            node.todo.push_back(action);
        }
    }

    /// Lets time pass.
    pub fn run(&mut self, ms: u64) {
        for _ in 0..ms / STEP_MS {
            self.tick();
            self.turns(TURNS_PER_STEP);
        }
    }

    fn tick(&mut self) {
        self.now_ms += STEP_MS;
        let now_ms = self.now_ms;
        for id in self.ids() {
            self.tell(id, Action::Tick { now_ms });
        }
    }

    /// Stops right behind the turn in which it happens.
    pub fn turn_until(&mut self, what: &str, mut done: impl FnMut(&Cluster) -> bool) {
        for n in 0..10_000 {
            if n % TURNS_PER_STEP == 0 {
                self.tick();
            }
            self.turn();
            if done(self) {
                return;
            }
        }
        panic!("not within many turns: {what}");
    }

    pub fn run_until(&mut self, what: &str, ms: u64, mut done: impl FnMut(&Cluster) -> bool) {
        let end = self.now_ms + ms;
        while !done(self) {
            assert!(self.now_ms < end, "not within {ms} ms: {what}");
            self.run(STEP_MS);
        }
    }

    /// Turns within one moment.
    pub fn turns(&mut self, n: usize) {
        for _ in 0..n {
            self.turn();
        }
    }

    /// One turn of every member: everything that has arrived, then one step of everything open.
    fn turn(&mut self) {
        for id in self.ids() {
            for (&(from, to), wire) in &mut self.wires {
                if to == id && !self.cut.contains(&(from, to)) {
                    let node = self.nodes.get_mut(&id).expect("a known node");
                    for (incarnation, message) in wire.drain(..) {
                        node.todo.push_back(Action::Frame { from, incarnation, message });
                    }
                }
            }
            let Some(mut member) = self.nodes.get_mut(&id).and_then(|node| node.member.take())
            else {
                continue;
            };
            let todo = std::mem::take(&mut self.nodes.get_mut(&id).expect("known").todo);
            for action in todo {
                if let Action::Tick { now_ms } = action {
                    member.snapshots.tick(now_ms);
                }
                member.core.handle(action);
            }
            let output = member.core.end_turn();
            self.act(id, &mut member, output);
            self.background(id, &mut member);
            self.nodes.get_mut(&id).expect("known").member = Some(member);
        }
    }

    fn act(&mut self, id: NodeId, member: &mut Member, output: Output) {
        let incarnation = member.core.config().incarnation;
        let mut frames = output.frames;
        let node = self.nodes.get_mut(&id).expect("known");
        // The batch of the turn before is synced only now: a whole turn passes in between.
        if let Some(batch) = node.wal.take() {
            node.todo.push_back(member.sync_wal(&batch).expect("no faults"));
        }
        if let Some(batch) = output.wal {
            member.write_wal(&batch).expect("no faults");
            node.wal = Some(batch);
        }
        for read in &output.log_reads {
            node.todo.push_back(member.read_log(read).expect("no faults"));
        }
        let applies = match &mut node.held_applies {
            Some(held) => {
                held.extend(output.applies);
                Vec::new()
            }
            None => output.applies,
        };
        for job in &applies {
            node.todo.extend(member.run_apply(job).expect("no faults"));
        }
        for (group, to) in output.pins {
            node.todo.push_back(member.pin(group, to).expect("no faults"));
        }
        for (to, fetch) in output.serve {
            frames.push((to, member.serve(&fetch).expect("no faults")));
        }
        for step in output.installs {
            node.todo.extend(member.install(step).expect("no faults"));
        }
        node.refused += output.refusals.len() as u64;
        if let Some(stop) = output.stop {
            node.stopped = Some(stop);
        }
        for (token, result) in output.answers {
            let before = self.answers.insert(token, result);
            assert!(before.is_none(), "{token:?} is answered twice");
        }
        for (to, message) in frames {
            // Through bytes, as a real network would.
            let mut bytes = BytesMut::new();
            message.encode(&mut bytes);
            let message = NodeMessage::decode(&bytes.freeze()).expect("what was encoded");
            if self.nodes.get(&to).is_some_and(|peer| peer.member.is_some() || to == id) {
                self.wires.entry((id, to)).or_default().push_back((incarnation, message));
            }
        }
    }

    fn background(&mut self, id: NodeId, member: &mut Member) {
        let node = self.nodes.get_mut(&id).expect("known");
        if node.checkpoint.is_none() {
            node.checkpoint = member.begin_checkpoint().expect("no faults");
        }
        if let Some(job) = &mut node.checkpoint
            && let Some(actions) = member.checkpoint_step(job).expect("no faults")
        {
            node.checkpoint = None;
            node.todo.extend(actions);
        }
        let groups: Vec<GroupId> = member.applier.compacting().collect();
        for group in groups {
            let (_, action) = member.compact_step(group, 100).expect("no faults");
            node.todo.extend(action);
        }
    }

    /// What waited is applied, and nothing waits any more.
    pub fn apply_held(&mut self, id: NodeId) {
        let node = self.nodes.get_mut(&id).expect("a known node");
        let member = node.member.as_mut().expect("a running node");
        for job in node.held_applies.take().unwrap_or_default() {
            node.todo.extend(member.run_apply(&job).expect("no faults"));
        }
    }

    /// Freezes the state of this moment; nothing of it is written before `finish_checkpoint`.
    pub fn begin_checkpoint(&mut self, id: NodeId) -> CheckpointJob {
        let node = self.nodes.get_mut(&id).expect("a known node");
        let member = node.member.as_mut().expect("a running node");
        member.applier.request_checkpoint();
        member.begin_checkpoint().expect("no faults").expect("something to write")
    }

    pub fn finish_checkpoint(&mut self, id: NodeId, mut job: CheckpointJob) {
        let node = self.nodes.get_mut(&id).expect("a known node");
        let member = node.member.as_mut().expect("a running node");
        loop {
            if let Some(actions) = member.checkpoint_step(&mut job).expect("no faults") {
                return node.todo.extend(actions);
            }
        }
    }

    pub fn member(&self, id: NodeId) -> &Member {
        self.nodes[&id].member.as_ref().expect("a running node")
    }

    pub fn view(&self, id: NodeId, group: GroupId) -> KeyspaceView {
        self.member(id).applier.view(group).expect("a known group")
    }

    pub fn value(&self, id: NodeId, group: GroupId, key: &str) -> Option<Bytes> {
        let request = RangeRequest {
            range: KeyRange::single(Bytes::copy_from_slice(key.as_bytes())),
            ..RangeRequest::default()
        };
        let reply = self.view(id, group).range(&request).expect("a plain read");
        reply.kvs.first().map(|kv| kv.value.clone())
    }

    pub fn leader(&self, group: GroupId) -> Option<NodeId> {
        let leads = |id: &NodeId| {
            let node = &self.nodes[id];
            node.member.as_ref().is_some_and(|member| {
                let soft = member.core.soft(group).expect("a known group");
                soft.role == crate::raft::Role::Leader
            })
        };
        let leaders: Vec<NodeId> = self.ids().into_iter().filter(leads).collect();
        let term = |id: &NodeId| self.member(*id).core.soft(group).expect("known").term;
        leaders.into_iter().max_by_key(term)
    }

    pub fn settle(&mut self, groups: u64) {
        self.run_until("a leader everywhere", 20_000, |cluster| {
            group_ids(groups).iter().all(|&group| cluster.leader(group).is_some())
        });
    }

    /// Waits until `id` follows a leader that lives: what it forwards to a dead one is lost.
    pub fn settle_at(&mut self, id: NodeId, groups: u64) {
        self.run_until("a leader that lives", 20_000, |cluster| {
            group_ids(groups).iter().all(|&group| {
                let leader = cluster.member(id).core.soft(group).expect("known").leader;
                cluster.nodes.get(&leader).is_some_and(|node| node.member.is_some())
                    && cluster.leader(group) == Some(leader)
            })
        });
    }

    pub fn token(&mut self) -> Token {
        self.next_token += 1;
        Token(self.next_token)
    }

    pub fn ask(&mut self, id: NodeId, action: impl FnOnce(Token) -> Action) -> Token {
        let token = self.token();
        let action = action(token);
        self.tell(id, action);
        token
    }

    pub fn put(&mut self, id: NodeId, group: GroupId, key: &str, value: &str) -> Token {
        let command = Command::Put(PutRequest {
            key: Bytes::copy_from_slice(key.as_bytes()),
            value: Bytes::copy_from_slice(value.as_bytes()),
            ..PutRequest::default()
        });
        self.ask(id, |token| Action::Propose { group, token, command })
    }

    pub fn wait(&mut self, token: Token) -> Result<Answer, ApiError> {
        self.run_until("an answer", 15_000, |cluster| cluster.answers.contains_key(&token));
        self.answers[&token].clone()
    }

    pub fn wait_all(&mut self, tokens: &[Token]) {
        for &token in tokens {
            self.wait(token).expect("a good answer");
        }
    }

    /// All members have applied the same and agree on the state.
    pub fn converge(&mut self, groups: u64) {
        self.run_until("the same state everywhere", 60_000, |cluster| {
            group_ids(groups).iter().all(|&group| {
                let states: BTreeSet<_> = cluster
                    .nodes
                    .values()
                    .filter_map(|node| node.member.as_ref())
                    .map(|member| member.applier.state_hash(group).expect("a known group"))
                    .collect();
                states.len() == 1
            })
        });
    }
}
