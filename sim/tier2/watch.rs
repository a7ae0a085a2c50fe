//! Watchers, and the promise of a watch: every change in its range from its start on, once, in
//! order, each revision whole, and nothing else; also across a change of members.
//!
//! Judged against the model as messages come: what lies between the last revision vouched for and
//! the one of a message must be exactly what the message brings; a progress message vouches that
//! nothing is left out up to its revision.

mod control;

pub(super) use control::self_check;

use super::race::{First, race};
use super::rpc::Line;
use super::story::lock;
use super::world::World;
use crate::model::Model;
use crate::plan::Plan;
use crate::rules::is_spoilt;
use crate::safety::{Checked, Violation, ensure};
use quorate::api::convert;
use quorate::api::proto::etcdserverpb as pb;
use quorate::api::proto::etcdserverpb::watch_client::WatchClient;
use quorate::api::proto::etcdserverpb::watch_create_request::FilterType;
use quorate::api::proto::etcdserverpb::watch_request::RequestUnion;
use quorate::types::{GroupId, KeyRange};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

/// How long a silent stream is believed before progress is asked for, and before it is given up.
const ASK_US: u64 = 700_000;
const SILENCE_MAX: u32 = 5;
const RETRY_US: u64 = 100_000;

/// What one watcher wants, and how far it has come.
pub struct Watcher {
    range: KeyRange,
    prev_kv: bool,
    no_put: bool,
    no_delete: bool,
    fragment: bool,
    /// Everything up to here has been told, and judged. 0 before the first stream.
    done: AtomicI64,
    host: Mutex<usize>,
}

impl Watcher {
    pub fn new(plan: &Plan, number: usize) -> Arc<Watcher> {
        let mut rng = plan.stream(&format!("watcher-{number}"));
        let range = match rng.below(4) {
            0 => KeyRange::single("hot/0"),
            1 => KeyRange::new("hot/", "hot0"),
            2 => KeyRange::new("cold/", vec![0]),
            _ => KeyRange::new(vec![0], vec![0]),
        };
        Arc::new(Watcher {
            range,
            prev_kv: rng.chance(1, 2),
            no_put: rng.chance(1, 8),
            no_delete: rng.chance(1, 8),
            fragment: rng.chance(1, 2),
            done: AtomicI64::new(0),
            host: Mutex::new(number),
        })
    }

    pub fn done(&self) -> i64 {
        self.done.load(Ordering::Relaxed)
    }

    /// Watches until the world is over; from one member after the other.
    pub async fn run(self: Arc<Watcher>, world: Arc<World>, number: usize) {
        let mut rng = world.plan.stream(&format!("watcher-moves-{number}"));
        let delays = world.plan.stream(&format!("watcher-line-{number}"));
        let delays = Arc::new(Mutex::new(delays));
        // The canary's watchers listen to nobody.
        while !world.story.is_broken() && !is_spoilt("watch-silent") {
            let host = rng.below(world.plan.members as u64) as usize;
            *lock(&self.host) = host;
            let line = Line::new(world.clone(), host, delays.clone());
            let checked = self.stream(&world, host, line, number).await;
            world.story.check(checked);
            world.sleep_us(RETRY_US).await;
        }
    }

    /// One stream, to its end.
    async fn stream(&self, world: &Arc<World>, host: usize, line: Line, number: usize) -> Checked {
        let (requests, stream) = mpsc::channel(4);
        let filters = [(self.no_put, FilterType::Noput), (self.no_delete, FilterType::Nodelete)];
        let start = self.done();
        let create = pb::WatchCreateRequest {
            key: self.range.key.clone(),
            range_end: self.range.end.clone(),
            start_revision: if start == 0 { 0 } else { start + 1 },
            progress_notify: true,
            filters: filters.iter().filter(|f| f.0).map(|f| f.1 as i32).collect(),
            prev_kv: self.prev_kv,
            fragment: self.fragment,
            watch_id: 0,
        };
        let ask = |union| pb::WatchRequest { request_union: Some(union) };
        let _ = requests.send(ask(RequestUnion::CreateRequest(create))).await;
        let mut client = WatchClient::new(line);
        let opened = client.watch(ReceiverStream::new(stream));
        let mut answers: Streaming<pb::WatchResponse> =
            match race(opened, world.sleep_us(world.plan.timeout_us)).await {
                First::A(Ok(answers)) => answers.into_inner(),
                _ => return Ok(()),
            };
        let mut silent = 0;
        let mut pending: Vec<pb::WatchResponse> = Vec::new();
        loop {
            let told = match race(answers.message(), world.sleep_us(ASK_US)).await {
                First::A(Ok(Some(told))) => told,
                First::A(_) => return Ok(()),
                First::B(()) => {
                    silent += 1;
                    if silent > SILENCE_MAX {
                        return Ok(());
                    }
                    let progress = pb::WatchProgressRequest {};
                    let _ = requests.try_send(ask(RequestUnion::ProgressRequest(progress)));
                    continue;
                }
            };
            silent = 0;
            world.story.event(0xe0, number as u64, format!("{told:?}").as_bytes());
            world.story.note(|| format!("watcher {number} at {host}: {told:?}"));
            if told.fragment {
                pending.push(told);
                continue;
            }
            let mut whole = told;
            if !pending.is_empty() {
                let mut events: Vec<_> = pending.drain(..).flat_map(|part| part.events).collect();
                events.append(&mut whole.events);
                whole.events = events;
            }
            if !self.heard(world, host, &whole)? {
                return Ok(());
            }
        }
    }

    /// Judges one message. False if the stream is of no more use.
    fn heard(
        &self,
        world: &World,
        host: usize,
        told: &pb::WatchResponse,
    ) -> Result<bool, Violation> {
        self.judged(lock(&world.judge).history.model(GroupId::ROOT), host, told)
    }

    fn judged(
        &self,
        model: &Model,
        host: usize,
        told: &pb::WatchResponse,
    ) -> Result<bool, Violation> {
        let revision = told.header.as_ref().map_or(0, |header| header.revision);
        let done = self.done();
        let limit = model.revision();
        if told.canceled {
            if told.compact_revision > 0 {
                ensure!(
                    told.compact_revision <= model.compacted() && told.compact_revision > done,
                    "watch-compacted",
                    "{host} cancels a watch from {} for a compaction at {}, the log has {}",
                    done + 1,
                    told.compact_revision,
                    model.compacted()
                );
                self.done.store(told.compact_revision, Ordering::Relaxed);
            }
            return Ok(false);
        }
        if told.created {
            if done == 0 {
                self.done.store(revision, Ordering::Relaxed);
            }
            return Ok(true);
        }
        let Some(last) =
            told.events.iter().filter_map(|e| e.kv.as_ref()).map(|kv| kv.mod_revision).max()
        else {
            // Progress. A stream that began late may vouch for less than is known already.
            ensure!(
                revision <= limit,
                "watch-future",
                "{host} tells of progress to {revision}, {limit} is committed"
            );
            if revision > done {
                let missed = self.expected(model, done, revision, true);
                ensure!(
                    missed.is_empty(),
                    "watch-gap",
                    "{host} tells of progress from {done} to {revision} and left out {missed:?}"
                );
                self.done.store(revision, Ordering::Relaxed);
            }
            return Ok(true);
        };
        ensure!(
            last <= limit,
            "watch-future",
            "{host} tells of revision {last}, {limit} is committed"
        );
        let mut got: Vec<Change> = Vec::new();
        let mut before = done;
        for event in &told.events {
            let kv = event.kv.clone().unwrap_or_default();
            ensure!(
                kv.mod_revision >= before && kv.mod_revision > done,
                "watch-order",
                "{host} tells of revision {} after {before}, {done} was told before",
                kv.mod_revision
            );
            before = kv.mod_revision;
            let put = event.r#type == 0;
            got.push(Change {
                revision: kv.mod_revision,
                key: kv.key.clone(),
                kv: put.then(|| convert::key_value_from_proto(kv)),
                prev: event.prev_kv.clone().map(convert::key_value_from_proto),
            });
        }
        // Within one revision the keys' order is the commands', which the model does not keep.
        got.sort_by(|a, b| (a.revision, &a.key).cmp(&(b.revision, &b.key)));
        let mut expected = self.expected(model, done, last, false);
        if got.len() < expected.len() {
            expected = self.expected(model, done, last, true);
        }
        for (mine, theirs) in expected.iter_mut().zip(&got) {
            // What was there before may have been compacted away.
            if theirs.prev.is_none() && model.compacted() >= mine.revision - 1 {
                mine.prev = None;
            }
        }
        ensure!(
            got == expected,
            "watch-events",
            "{host}, from {done} to {last}:\n  told     {got:?}\n  expected {expected:?}"
        );
        self.done.store(last, Ordering::Relaxed);
        Ok(true)
    }

    /// What the watcher has to be told of the revisions in `(after, to]`. Where a compaction was,
    /// only the newest change of each key is sure to be left: `thinned` leaves the others out.
    fn expected(&self, model: &Model, after: i64, to: i64, thinned: bool) -> Vec<Change> {
        let wanted = |put: bool| if put { !self.no_put } else { !self.no_delete };
        let changes = model.changes(&self.range, after, to);
        let superseded = |at: usize| {
            let (revision, key) = (changes[at].0, &changes[at].1);
            let next = changes.get(at + 1);
            thinned
                && model.was_compacted_at(revision)
                && next.is_some_and(|next| next.0 == revision && next.1 == *key)
        };
        let left = (0..changes.len()).filter(|at| !superseded(*at)).map(|at| changes[at].clone());
        left.filter(|(_, _, kv, _)| wanted(kv.is_some()))
            .map(|(revision, key, kv, prev)| Change {
                revision,
                key,
                kv,
                prev: prev.filter(|_| self.prev_kv),
            })
            .collect()
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Change {
    revision: i64,
    key: bytes::Bytes,
    /// `None` for a delete.
    kv: Option<quorate::types::reply::KeyValue>,
    prev: Option<quorate::types::reply::KeyValue>,
}
