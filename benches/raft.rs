//! What consensus itself costs: one round of propose, append, acknowledge, commit and apply over
//! three replicas, with a disk that is instant and a network that is a queue.
//!
//! `cargo bench --bench raft`
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a benchmark looks at the real clock and works on real files"
)]

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use quorate::raft::{Boot, Config, Effect, Effects, Input, Replica};
use quorate::types::{ConfState, GroupId, HardState, LogIndex, Message, NodeId, Term};
use std::collections::VecDeque;
use std::hint::black_box;

const NODES: u64 = 3;
/// Entries kept in the logs: enough that the cache is what it is in production, not ever growing.
const KEEP: u64 = 5_000;

struct Cluster {
    replicas: Vec<Replica>,
    inputs: VecDeque<(NodeId, Input)>,
    effects: Effects,
    applied: u64,
}

impl Cluster {
    fn new() -> Cluster {
        let conf = ConfState::of_voters((1..=NODES).map(NodeId).collect());
        let replicas = (1..=NODES).map(|id| {
            let config = Config::new(NodeId(id), GroupId(1), id, |_| Bytes::new());
            let start = (LogIndex(1), Term(1));
            let hard = HardState { term: start.1, vote: NodeId::NONE, commit: start.0 };
            let (applied, last) = (start.0, start.0);
            let boot = Boot { hard, conf: conf.clone(), applied, start, last, ..Boot::default() };
            Replica::new(config, boot)
        });
        let mut cluster = Cluster {
            replicas: replicas.collect(),
            inputs: VecDeque::new(),
            effects: Effects::new(),
            applied: 0,
        };
        cluster.run(NodeId(1), Input::Campaign);
        cluster
    }

    /// One input and everything that follows from it.
    fn run(&mut self, id: NodeId, input: Input) {
        self.inputs.push_back((id, input));
        while let Some((id, input)) = self.inputs.pop_front() {
            self.replicas[id.0 as usize - 1].step(input, &mut self.effects);
            for effect in self.effects.drain() {
                match effect {
                    Effect::Send(message) | Effect::SendOncePersisted(message) => {
                        let Message { to, .. } = message;
                        self.inputs.push_back((to, Input::Message(message)));
                    }
                    Effect::Append(entries) => {
                        let last = entries.last().expect("never empty");
                        let (term, index) = (last.term, last.index);
                        self.inputs.push_back((id, Input::Persisted { term, index }));
                    }
                    Effect::Apply(entries) => {
                        self.applied += entries.len() as u64;
                        let index = entries.last().expect("never empty").index;
                        self.inputs.push_back((id, Input::Applied { index }));
                        if index.0 % KEEP == 0 {
                            let index = LogIndex(index.0.saturating_sub(KEEP));
                            self.inputs.push_back((id, Input::Trim { index }));
                        }
                    }
                    other => drop(black_box(other)),
                }
            }
        }
    }

    fn propose(&mut self, data: Vec<Bytes>) {
        let expected = self.applied + NODES * data.len() as u64;
        self.run(NodeId(1), Input::Propose { data });
        assert_eq!(self.applied, expected, "everyone has applied it");
    }
}

fn rounds(c: &mut Criterion) {
    let value = Bytes::from(vec![7; 256]);
    let mut group = c.benchmark_group("raft/round of 3");
    for proposals in [1_usize, 100] {
        let mut cluster = Cluster::new();
        group.throughput(Throughput::Elements(proposals as u64));
        group.bench_function(format!("{proposals} proposals"), |b| {
            b.iter_batched(
                || vec![value.clone(); proposals],
                |data| cluster.propose(data),
                BatchSize::SmallInput,
            );
        });
    }
    let mut cluster = Cluster::new();
    let mut context = 0;
    group.throughput(Throughput::Elements(1));
    group.bench_function("read index", |b| {
        b.iter(|| {
            context += 1;
            cluster.run(NodeId(1), Input::ReadIndex { context });
        });
    });
    group.finish();
}

/// A tick of a replica that has nothing to do: what every group costs while it is not quiet.
fn ticks(c: &mut Criterion) {
    let mut cluster = Cluster::new();
    let mut effects = Effects::new();
    c.bench_function("raft/tick of a leader of 3", |b| {
        b.iter(|| {
            // Heartbeats' answers are what keeps it in office.
            cluster.run(NodeId(1), Input::Tick);
            effects.drain().for_each(drop);
        });
    });
}

criterion_group!(benches, rounds, ticks);
criterion_main!(benches);
