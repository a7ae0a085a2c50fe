//! The hub story by story, and against a list of everything that ever happened.

use super::*;
use crate::mvcc::tests::{Kit, put, put_request, range};
use crate::types::KeyRange;
use crate::types::command::{Command, CompactRequest, DeleteRangeRequest, RequestOp, TxnRequest};
use crate::types::reply::{Event, EventKind};
use proptest::collection::vec;
use proptest::prelude::*;
use std::collections::BTreeMap;

const STREAM: StreamId = StreamId(1);

struct World {
    kit: Kit,
    hub: Hub,
}

impl World {
    fn new() -> World {
        let mut hub = Hub::new(1, 1000);
        hub.open_stream(STREAM);
        World { kit: Kit::new(), hub }
    }
    fn apply(&mut self, command: &Command) -> Vec<Event> {
        let events = self.kit.apply(command).events;
        self.hub.publish(events.clone());
        assert_eq!(self.hub.revision(), self.kit.keyspace.revision());
        events
    }
    fn put(&mut self, key: &str, value: &str) {
        self.apply(&put(key, value));
    }
    fn delete(&mut self, key: &str) {
        let range = range(key, "");
        self.apply(&Command::DeleteRange(DeleteRangeRequest { range, prev_kv: false }));
    }
    fn create(&mut self, key: &str, end: &str, start_revision: i64) {
        let request =
            CreateRequest { range: range(key, end), start_revision, ..CreateRequest::default() };
        self.hub.create(STREAM, request);
    }
    fn catch_up(&mut self) -> bool {
        self.hub.catch_up(&self.kit.keyspace.view(), 1000).unwrap()
    }
    fn take(&mut self) -> Vec<WatchOut> {
        self.hub.take(STREAM, usize::MAX)
    }
    /// What is sent, in short.
    fn told(&mut self) -> Vec<String> {
        self.take().iter().map(short).collect()
    }
}

fn short(out: &WatchOut) -> String {
    match out {
        WatchOut::Created { watch_id, revision } => format!("{watch_id} created @{revision}"),
        WatchOut::Refused { reason, .. } => format!("refused {reason:?}"),
        WatchOut::Canceled { watch_id, compact_revision: None, .. } => {
            format!("{watch_id} canceled")
        }
        WatchOut::Canceled { watch_id, compact_revision: Some(at), revision } => {
            format!("{watch_id} compacted {at} @{revision}")
        }
        WatchOut::Progress { watch_id, revision } => format!("{watch_id} progress @{revision}"),
        WatchOut::Events { watch_id, batches, .. } => {
            let events: Vec<String> = batches
                .iter()
                .flat_map(EventRefs::iter)
                .map(|e| {
                    let sign = if e.kind == EventKind::Put { '+' } else { '-' };
                    let key = String::from_utf8_lossy(&e.kv.key);
                    format!("{sign}{key}{}", e.kv.mod_revision)
                })
                .collect();
            format!("{watch_id} {}", events.join(" "))
        }
    }
}

#[test]
fn from_now_on() {
    let mut world = World::new();
    world.put("a", "1");
    world.create("a", "", 0);
    world.create("a", "c", 0);
    world.put("a", "2");
    world.put("b", "1");
    world.put("c", "1");
    world.delete("a");
    assert_eq!(
        world.told(),
        ["0 created @2", "1 created @2", "0 +a3", "1 +a3", "1 +b4", "0 -a6", "1 -a6"]
    );
    assert_eq!(world.told(), Vec::<String>::new());
}

#[test]
fn from_the_past_then_on() {
    let mut world = World::new();
    for key in ["a", "b", "a"] {
        world.put(key, "");
    }
    world.create("a", "", 2);
    world.put("a", "");
    assert_eq!(world.told(), ["0 created @4"]);
    assert!(!world.catch_up());
    world.put("a", "");
    assert_eq!(world.told(), ["0 +a2 +a4 +a5", "0 +a6"]);
}

#[test]
fn from_the_future_nothing_older() {
    let mut world = World::new();
    world.create("a", "", 4);
    for _ in 0..4 {
        world.put("a", "");
    }
    assert_eq!(world.told(), ["0 created @1", "0 +a4", "0 +a5"]);
}

#[test]
fn refusals_and_ids() {
    let mut world = World::new();
    let create = |world: &mut World, watch_id| {
        let request = CreateRequest { watch_id, range: range("a", ""), ..Default::default() };
        world.hub.create(STREAM, request);
    };
    create(&mut world, 1);
    create(&mut world, 0);
    create(&mut world, 0);
    create(&mut world, 1);
    world.create("b", "a", 0);
    world.create("b", "b", 0);
    world.create("a", "", -1);
    world.create("b", "a", -1);
    world.hub.cancel(STREAM, 77);
    world.hub.cancel(STREAM, 1);
    create(&mut world, 1);
    assert_eq!(
        world.told(),
        [
            "1 created @1",
            "0 created @1",
            "2 created @1",
            "refused DuplicateId",
            "refused EmptyRange",
            "refused EmptyRange",
            "refused Compacted",
            "refused Compacted",
            "1 canceled",
            "1 created @1",
        ]
    );
    // An empty key is the zero byte, with "\0" everything.
    world.create("", "\0", 0);
    world.put("z", "");
    assert_eq!(world.told(), ["3 created @1", "3 +z2"]);
}

#[test]
fn filters_and_whole_revisions() {
    let mut world = World::new();
    for (no_put, no_delete) in [(true, false), (false, true), (true, true)] {
        let filters = Filters { no_put, no_delete };
        let request = CreateRequest { filters, range: range("a", "z"), ..Default::default() };
        world.hub.create(STREAM, request);
    }
    world.put("b", "1");
    world.take();
    let ops = vec![
        RequestOp::Put(put_request("a", "1")),
        RequestOp::DeleteRange(DeleteRangeRequest { range: range("b", ""), prev_kv: false }),
        RequestOp::Put(put_request("c", "1")),
    ];
    let txn = TxnRequest { compare: vec![], success: ops, failure: vec![] };
    world.apply(&Command::Txn(txn));
    assert_eq!(world.told(), ["0 -b3", "1 +a3 +c3"]);
}

#[test]
fn a_compacted_start_is_created_then_canceled() {
    let mut world = World::new();
    for _ in 0..5 {
        world.put("a", "");
    }
    world.kit.compact(4).unwrap();
    world.create("a", "", 3);
    world.create("a", "", 4);
    world.catch_up();
    assert_eq!(world.told(), ["0 created @6", "1 created @6", "0 compacted 4 @0", "1 +a4 +a5 +a6"]);
    assert_eq!(world.hub.counts().watchers, 1);
}

#[test]
fn a_full_stream_falls_back_to_the_feed() {
    let mut world = World::new();
    world.hub.set_buffer_bytes_max(2000);
    world.create("a", "", 0);
    let value = "x".repeat(300);
    for _ in 0..20 {
        world.put("a", &value);
    }
    let counts = world.hub.counts();
    assert_eq!(counts.unsynced, 1);
    assert!(counts.buffered_bytes <= 2000);
    // Nobody reads: nothing more is buffered, and catching up is not asked for again.
    assert!(!world.catch_up());
    assert_eq!(world.hub.counts().buffered_bytes, counts.buffered_bytes);
    let mut told = Vec::new();
    for _ in 0..40 {
        told.extend(world.take());
        world.catch_up();
    }
    world.put("a", "");
    told.extend(world.take());
    let revisions: Vec<i64> = told
        .iter()
        .filter_map(|out| match out {
            WatchOut::Events { batches, .. } => Some(batches.iter().map(|b| b.revision)),
            _ => None,
        })
        .flatten()
        .collect();
    assert_eq!(revisions, (2..=22).collect::<Vec<_>>());
    assert_eq!(world.hub.counts().unsynced, 0);
}

#[test]
fn a_revision_larger_than_the_buffer_is_sent_alone() {
    let mut world = World::new();
    world.hub.set_buffer_bytes_max(1000);
    world.put("a", &"x".repeat(5000));
    world.put("a", &"x".repeat(5000));
    world.create("a", "", 2);
    let mut told = Vec::new();
    for _ in 0..4 {
        world.catch_up();
        told.extend(world.told());
    }
    assert_eq!(told, ["0 created @3", "0 +a2", "0 +a3"]);
}

#[test]
fn requested_progress_waits_for_nobody() {
    let mut world = World::new();
    world.hub.request_progress(STREAM);
    assert!(world.told().is_empty(), "no watchers");
    world.put("a", "");
    world.create("a", "", 0);
    world.hub.request_progress(STREAM);
    world.create("a", "", 2);
    world.hub.request_progress(STREAM);
    world.catch_up();
    world.hub.request_progress(STREAM);
    // The very next revision is in the future as well.
    world.create("a", "", 3);
    world.hub.request_progress(STREAM);
    assert_eq!(
        world.told(),
        [
            "0 created @2",
            "-1 progress @2",
            "1 created @2",
            "1 +a2",
            "-1 progress @2",
            "2 created @2",
        ]
    );
    world.put("b", "");
    world.hub.request_progress(STREAM);
    assert_eq!(world.told(), ["-1 progress @3"]);
}

#[test]
fn progress_is_notified_after_silence() {
    let mut world = World::new();
    let request =
        CreateRequest { range: range("a", ""), progress_notify: true, ..Default::default() };
    world.hub.create(STREAM, request);
    world.take();
    world.hub.tick(999);
    world.put("b", "");
    assert!(world.told().is_empty());
    world.hub.tick(1000);
    assert_eq!(world.told(), ["0 progress @2"]);
    world.hub.tick(1500);
    world.put("a", "");
    world.hub.tick(2000);
    assert_eq!(world.told(), ["0 +a3"]);
    world.hub.tick(2499);
    assert!(world.told().is_empty());
    world.hub.tick(2500);
    assert_eq!(world.told(), ["0 progress @3"]);
    world.hub.cancel(STREAM, 0);
    world.hub.tick(99_999);
    assert_eq!(world.told(), ["0 canceled"]);
}

#[test]
fn ready_streams_are_announced_once() {
    let mut world = World::new();
    world.hub.open_stream(StreamId(2));
    world.create("a", "", 0);
    world.put("a", "");
    assert_eq!(world.hub.take_ready(), [STREAM]);
    assert!(world.hub.take_ready().is_empty());
    assert_eq!(world.hub.take(STREAM, 0).len(), 1);
    assert_eq!(world.hub.take_ready(), [STREAM]);
    assert_eq!(world.hub.take(STREAM, usize::MAX).len(), 1);
    assert!(world.hub.take_ready().is_empty());
    world.hub.close_stream(STREAM);
    world.put("a", "");
    assert!(world.hub.take_ready().is_empty());
    let counts = world.hub.counts();
    assert_eq!((counts.events_sent, counts.pending_events), (1, 0));
    assert_eq!(counts, HubCounts { streams: 1, events_sent: 1, ..HubCounts::default() });
}

#[test]
fn prev_kv_is_wanted_while_somebody_does() {
    let mut world = World::new();
    assert!(!world.hub.wants_prev_kv());
    let request = CreateRequest { range: range("a", ""), prev_kv: true, ..Default::default() };
    world.hub.create(STREAM, request);
    assert!(world.hub.wants_prev_kv());
    world.put("a", "1");
    world.put("a", "2");
    let WatchOut::Events { batches, prev_kv: true, .. } = &world.take()[2] else { panic!() };
    let event = batches[0].iter().next().unwrap();
    assert_eq!(event.prev_kv.as_ref().unwrap().value, "1");
    world.hub.close_stream(STREAM);
    assert!(!world.hub.wants_prev_kv());
}

#[derive(Clone, Debug)]
enum Step {
    Put(usize, usize),
    Delete(usize, usize),
    Create { stream: u64, from: usize, to: usize, start: i64, filter: u8 },
    Cancel { stream: u64, id: i64 },
    Take { stream: u64, bytes: usize },
    CatchUp(usize),
    Compact(i64),
    Progress(u64),
    Close(u64),
}

const KEYS: [&str; 5] = ["a", "b", "ba", "c", "d"];

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let stream = || 0..3_u64;
    let step = prop_oneof![
        12 => (0..5_usize, 0..200_usize).prop_map(|(key, len)| Step::Put(key, len)),
        3 => (0..5_usize, 0..6_usize).prop_map(|(key, end)| Step::Delete(key, end)),
        5 => (stream(), 0..5_usize, 0..7_usize, -1..8_i64, 0..6_u8).prop_map(
            |(stream, from, to, start, filter)| Step::Create { stream, from, to, start, filter }
        ),
        1 => (stream(), 0..4_i64).prop_map(|(stream, id)| Step::Cancel { stream, id }),
        4 => (stream(), 0..2000_usize).prop_map(|(stream, bytes)| Step::Take { stream, bytes }),
        4 => (1..6_usize).prop_map(Step::CatchUp),
        1 => (0..6_i64).prop_map(Step::Compact),
        2 => stream().prop_map(Step::Progress),
        1 => stream().prop_map(Step::Close),
    ];
    vec(step, 1..120)
}

/// What one watcher is owed and has got.
struct Expected {
    range: KeyRange,
    start: i64,
    filters: Filters,
    got: Vec<(i64, Event)>,
    compacted: bool,
}

impl Expected {
    fn owed(&self, history: &[Event], until: i64) -> Vec<(i64, Event)> {
        let wanted = |e: &&Event| {
            let main = e.kv.mod_revision;
            let filtered = match e.kind {
                EventKind::Put => self.filters.no_put,
                EventKind::Delete => self.filters.no_delete,
            };
            main >= self.start && main <= until && self.range.contains(&e.kv.key) && !filtered
        };
        let bare = |e: &Event| Event { prev_kv: None, ..e.clone() };
        history.iter().filter(wanted).map(|e| (e.kv.mod_revision, bare(e))).collect()
    }
}

#[derive(Default)]
struct Client {
    watchers: BTreeMap<i64, Expected>,
    /// Created, in the order of the answers to come.
    asked: std::collections::VecDeque<Expected>,
}

impl Client {
    fn receive(&mut self, out: WatchOut, history: &[Event]) {
        match out {
            WatchOut::Created { watch_id, revision } => {
                let mut expected = self.asked.pop_front().unwrap();
                if expected.start == 0 {
                    expected.start = revision + 1;
                }
                assert!(self.watchers.insert(watch_id, expected).is_none_or(|w| w.compacted));
            }
            WatchOut::Refused { .. } => drop(self.asked.pop_front().unwrap()),
            WatchOut::Canceled { watch_id, compact_revision, .. } => {
                let mut watcher = self.watchers.remove(&watch_id).unwrap();
                if let Some(at) = compact_revision {
                    // Everything it misses is older than the compact revision.
                    let owed = watcher.owed(history, i64::MAX);
                    assert!(owed.starts_with(&watcher.got));
                    assert!(watcher.start < at);
                    watcher.compacted = true;
                }
            }
            WatchOut::Progress { watch_id, revision } => {
                assert_eq!(watch_id, -1);
                for watcher in self.watchers.values() {
                    assert_eq!(watcher.got, watcher.owed(history, revision));
                }
            }
            WatchOut::Events { watch_id, revision, batches, .. } => {
                let watcher = self.watchers.get_mut(&watch_id).unwrap();
                for batch in batches {
                    assert!(batch.revision <= revision);
                    let before = watcher.got.len();
                    for event in batch.iter() {
                        let bare = Event { prev_kv: None, ..event.clone() };
                        watcher.got.push((batch.revision, bare));
                    }
                    assert!(watcher.got.len() > before, "an empty batch");
                    // The revision is complete, and nothing was left out before it.
                    assert_eq!(watcher.got, watcher.owed(history, batch.revision));
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn everybody_gets_everything_once(steps in steps(), buffer in 200_usize..3000) {
        let mut world = World::new();
        world.hub.set_buffer_bytes_max(buffer);
        world.hub.close_stream(STREAM);
        let mut history: Vec<Event> = Vec::new();
        let mut clients: BTreeMap<StreamId, Client> = BTreeMap::new();
        // A stream id is never used again: each close moves on to the next generation.
        let mut generation = [0_u64; 3];
        let id = |generation: &[u64; 3], stream: u64| {
            StreamId(stream * 1000 + generation[stream as usize])
        };
        for stream in 0..3 {
            world.hub.open_stream(id(&generation, stream));
            clients.insert(id(&generation, stream), Client::default());
        }
        for step in steps {
            match step {
                Step::Put(key, len) => {
                    history.extend(world.apply(&put(KEYS[key], &"v".repeat(len))));
                }
                Step::Delete(key, end) => {
                    let range = range(KEYS[key], KEYS.get(end).unwrap_or(&""));
                    let request = DeleteRangeRequest { range, prev_kv: false };
                    history.extend(world.apply(&Command::DeleteRange(request)));
                }
                Step::Create { stream, from, to, start, filter } => {
                    let end = *[KEYS.as_slice(), &["", "\0"]].concat().get(to).unwrap();
                    let filters = Filters { no_put: filter == 0, no_delete: filter == 1 };
                    let start_revision = match start {
                        0 | -1 => start,
                        back => (world.hub.revision() + 3 - back).max(1),
                    };
                    let request = CreateRequest {
                        range: range(KEYS[from], end),
                        start_revision,
                        filters,
                        ..CreateRequest::default()
                    };
                    let stream = id(&generation, stream);
                    clients.get_mut(&stream).unwrap().asked.push_back(Expected {
                        range: request.range.clone(),
                        start: start_revision,
                        filters,
                        got: Vec::new(),
                        compacted: false,
                    });
                    world.hub.create(stream, request);
                }
                Step::Cancel { stream, id: watch } => {
                    world.hub.cancel(id(&generation, stream), watch);
                }
                Step::Take { stream, bytes } => {
                    let stream = id(&generation, stream);
                    for out in world.hub.take(stream, bytes) {
                        clients.get_mut(&stream).unwrap().receive(out, &history);
                    }
                }
                Step::CatchUp(records) => {
                    world.hub.catch_up(&world.kit.keyspace.view(), records).unwrap();
                }
                Step::Compact(back) => {
                    let revision = world.kit.keyspace.revision() - back;
                    world.apply(&Command::Compact(CompactRequest { revision, physical: false }));
                    world.kit.keyspace.compact_step(3).unwrap();
                }
                Step::Progress(stream) => world.hub.request_progress(id(&generation, stream)),
                Step::Close(stream) => {
                    world.hub.close_stream(id(&generation, stream));
                    clients.remove(&id(&generation, stream));
                    generation[stream as usize] += 1;
                    world.hub.open_stream(id(&generation, stream));
                    clients.insert(id(&generation, stream), Client::default());
                }
            }
        }
        // Everybody reads on until nothing is left.
        let mut quiet = false;
        while !quiet {
            let mut more = true;
            while more {
                more = world.hub.catch_up(&world.kit.keyspace.view(), 4).unwrap();
            }
            quiet = true;
            for (stream, client) in &mut clients {
                for out in world.hub.take(*stream, 500) {
                    quiet = false;
                    client.receive(out, &history);
                }
            }
        }
        prop_assert_eq!(world.hub.counts().unsynced, 0);
        prop_assert_eq!(world.hub.counts().buffered_bytes, 0);
        for client in clients.values() {
            prop_assert!(client.asked.is_empty());
            for watcher in client.watchers.values() {
                prop_assert_eq!(&watcher.got, &watcher.owed(&history, i64::MAX));
            }
        }
    }
}
