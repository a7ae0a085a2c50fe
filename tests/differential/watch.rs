//! Watch streams on both servers, and what has arrived on them.
//!
//! How events are packed into messages is a matter of time, so messages become, for each watcher,
//! one list: created, each event, canceled. What a message may not do shows in the list as well:
//! split a revision, or name a revision older than its events.
//!
//! To compare, both must have said everything. A requested progress that names the newest revision
//! proves that for all watchers of a stream; it is not answered while one of them waits for a
//! future revision, and then time has to do: etcd looks every 100 ms after watchers that began in
//! the past.

use crate::call::Plain;
use crate::normalise;
use crate::servers::Server;
use crate::streams;
use bytes::Bytes;
use pb::watch_request::RequestUnion;
use prost::Message as _;
use quorate::api::proto::etcdserverpb as pb;
use quorate::api::proto::mvccpb;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tonic::metadata::MetadataMap;

/// An answer that has not come by then will not come.
const ANSWER_MAX: Duration = Duration::from_secs(3);
/// An unanswered progress request is repeated, as etcd's clients do.
const PROGRESS_EACH: Duration = Duration::from_millis(25);
const PROGRESS_MAX: Duration = Duration::from_millis(600);
/// More than one round of etcd's look at watchers that lag.
const LAG_MAX: Duration = Duration::from_millis(230);
const POLL: Duration = Duration::from_micros(200);

/// What one watcher was told.
#[derive(Clone, Debug, PartialEq)]
pub enum Told {
    Created {
        revision: i64,
        refused: Option<String>,
    },
    Event(String),
    Canceled {
        revision: i64,
        compact_revision: i64,
        reason: String,
    },
    /// What no server may say.
    Broken(String),
}

pub type View = BTreeMap<i64, Vec<Told>>;

#[derive(Default)]
struct Arrived {
    messages: Vec<pb::WatchResponse>,
    end: Option<String>,
}

/// One stream to one server.
pub struct Stream {
    requests: mpsc::UnboundedSender<Bytes>,
    arrived: Arc<Mutex<Arrived>>,
    reader: tokio::task::JoinHandle<()>,
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl Stream {
    pub fn open(server: &Server, metadata: MetadataMap) -> Stream {
        let (requests, sent) = streams::channel();
        let arrived = Arc::<Mutex<Arrived>>::default();
        let (channel, into) = (server.channel.clone(), arrived.clone());
        let reader = tokio::spawn(async move {
            let end = read(channel, metadata, sent, &into).await;
            lock(&into).end = Some(end);
        });
        Stream { requests, arrived, reader }
    }

    pub fn ask(&self, request: RequestUnion) {
        let request = pb::WatchRequest { request_union: Some(request) };
        // A stream that has ended shows in its view.
        let _ = self.requests.send(request.encode_to_vec().into());
    }

    fn count(&self, what: impl Fn(&pb::WatchResponse) -> bool) -> usize {
        lock(&self.arrived).messages.iter().filter(|message| what(message)).count()
    }

    /// Waits until more than `before` such messages are here.
    async fn more(
        &self,
        before: usize,
        limit: Duration,
        what: impl Fn(&pb::WatchResponse) -> bool,
    ) -> bool {
        let begun = Instant::now();
        while self.count(&what) <= before {
            if begun.elapsed() > limit || lock(&self.arrived).end.is_some() {
                return false;
            }
            tokio::time::sleep(POLL).await;
        }
        true
    }

    /// Asks and waits for the answer: the id of the watcher that began.
    pub async fn create(&self, create: pb::WatchCreateRequest) -> Option<i64> {
        let before = self.count(|message| message.created);
        self.ask(RequestUnion::CreateRequest(create));
        self.more(before, ANSWER_MAX, |message| message.created).await;
        let arrived = lock(&self.arrived);
        let created = arrived.messages.iter().filter(|m| m.created).nth(before)?;
        (!created.canceled).then_some(created.watch_id)
    }

    pub async fn cancel(&self, watch_id: i64, is_open: bool) {
        let is_end = |m: &pb::WatchResponse| m.canceled && m.watch_id == watch_id;
        let before = self.count(is_end);
        self.ask(RequestUnion::CancelRequest(pb::WatchCancelRequest { watch_id }));
        if is_open {
            self.more(before, ANSWER_MAX, is_end).await;
        }
    }

    /// Waits for the end of a watch that starts too early, and cancels it: the id is free then.
    async fn let_go(&self, watch_id: i64) {
        let begun = Instant::now();
        let is_over = || {
            let arrived = lock(&self.arrived);
            let mut newest_first = arrived.messages.iter().rev();
            let last = newest_first.find(|m| m.watch_id == watch_id && (m.created || m.canceled));
            last.is_some_and(|m| m.canceled)
        };
        while !is_over() && begun.elapsed() < ANSWER_MAX {
            tokio::time::sleep(POLL).await;
        }
        self.ask(RequestUnion::CancelRequest(pb::WatchCancelRequest { watch_id }));
    }

    /// Asks for progress until one names `revision`; the revision of the last answer.
    pub async fn progress(&self, revision: i64, limit: Duration) -> Option<i64> {
        let begun = Instant::now();
        loop {
            let before = self.count(is_progress);
            self.ask(RequestUnion::ProgressRequest(pb::WatchProgressRequest {}));
            let answered = self.more(before, PROGRESS_EACH, is_progress).await;
            let last = lock(&self.arrived).messages.iter().rev().find(|m| is_progress(m)).cloned();
            let told = last.and_then(|m| m.header).map(|header| header.revision);
            if answered && told.is_some_and(|told| told >= revision) {
                return told;
            }
            if begun.elapsed() > limit {
                return None;
            }
        }
    }

    pub fn view(&self, server: &Server) -> View {
        let arrived = lock(&self.arrived);
        let mut view = View::new();
        let mut last_revision = BTreeMap::new();
        for message in &arrived.messages {
            if is_progress(message) {
                continue;
            }
            let mut header = message.header.unwrap_or_default();
            normalise::header(&mut header, server);
            let told = view.entry(message.watch_id).or_default();
            if (header.cluster_id, header.member_id, header.raft_term) != (1, 1, 1) {
                told.push(Told::Broken(format!("header {header:?}")));
            }
            if message.created {
                let refused = message
                    .canceled
                    .then(|| format!("{} at {}", message.cancel_reason, message.compact_revision));
                told.push(Told::Created { revision: header.revision, refused });
            }
            for event in &message.events {
                let revision = event.kv.as_ref().map_or(0, |kv| kv.mod_revision);
                if revision > header.revision {
                    told.push(Told::Broken(format!("{revision} in {header:?}")));
                }
                told.push(Told::Event(format!("{event:?}")));
            }
            let revision = |event: Option<&mvccpb::Event>| Some(event?.kv.as_ref()?.mod_revision);
            if let Some(first) = revision(message.events.first()) {
                if last_revision.get(&message.watch_id) == Some(&first) {
                    told.push(Told::Broken(format!("revision {first} is split")));
                }
                let last = revision(message.events.last()).filter(|_| !message.fragment);
                last_revision.insert(message.watch_id, last.unwrap_or(0));
            }
            if message.canceled && !message.created {
                if matches!(told.last(), Some(Told::Canceled { compact_revision: 1.., .. })) {
                    // See `known`: the answer to `let_go`.
                    continue;
                }
                told.push(Told::Canceled {
                    revision: header.revision,
                    compact_revision: message.compact_revision,
                    reason: message.cancel_reason.clone(),
                });
            }
        }
        if let Some(end) = &arrived.end {
            view.entry(i64::MIN).or_default().push(Told::Broken(end.clone()));
        }
        view
    }

    /// Waits for everything that the server has to say by now.
    pub async fn settle(&self, now: i64, open: &Open) {
        if open.starts.is_empty() {
            return;
        }
        if open.starts.values().all(|start| *start <= now) {
            self.progress(now, PROGRESS_MAX).await;
        } else if let Some(since) = open.lagging_since {
            tokio::time::sleep(LAG_MAX.saturating_sub(since.elapsed())).await;
        }
    }
}

fn is_progress(message: &pb::WatchResponse) -> bool {
    message.watch_id == -1 && !message.created && !message.canceled
}

fn lock(arrived: &Mutex<Arrived>) -> std::sync::MutexGuard<'_, Arrived> {
    arrived.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn read(
    channel: tonic::transport::Channel,
    metadata: MetadataMap,
    sent: streams::Sent,
    into: &Mutex<Arrived>,
) -> String {
    let mut grpc = tonic::client::Grpc::new(channel).max_decoding_message_size(64 << 20);
    if let Err(error) = grpc.ready().await {
        return error.to_string();
    }
    let mut request = tonic::Request::new(sent);
    *request.metadata_mut() = metadata;
    let path = "/etcdserverpb.Watch/Watch".parse().expect("a path");
    let mut messages = match grpc.streaming(request, path, Plain).await {
        Ok(reply) => reply.into_inner(),
        Err(status) => return format!("{:?} {}", status.code(), status.message()),
    };
    loop {
        match messages.message().await {
            Ok(Some(bytes)) => match pb::WatchResponse::decode(bytes) {
                Ok(message) => lock(into).messages.push(message),
                Err(error) => return error.to_string(),
            },
            Ok(None) => return "the stream ended".to_string(),
            Err(status) => return format!("{:?} {}", status.code(), status.message()),
        }
    }
}

/// The watchers of a stream that are open, as the requests have it.
#[derive(Default)]
pub struct Open {
    /// Their start revisions by id; 0 for "from now on".
    pub starts: BTreeMap<i64, i64>,
    /// When the last one that began in the past was created.
    pub lagging_since: Option<Instant>,
}

/// Both servers' ends of one stream.
pub struct StreamPair {
    pub etcd: Stream,
    pub ours: Stream,
    open: Open,
}

/// What both say, if it is not the same.
pub type Views = (View, View);

impl StreamPair {
    pub fn open(etcd: &Server, ours: &Server, credentials: [MetadataMap; 2]) -> StreamPair {
        let [with_etcd, with_ours] = credentials;
        StreamPair {
            etcd: Stream::open(etcd, with_etcd),
            ours: Stream::open(ours, with_ours),
            open: Open::default(),
        }
    }

    /// True when the watch began before the last compaction, and is over.
    pub async fn create(
        &mut self,
        create: pb::WatchCreateRequest,
        now: i64,
        compacted: i64,
    ) -> bool {
        let start = create.start_revision;
        let (etcd, _) = tokio::join!(self.etcd.create(create.clone()), self.ours.create(create));
        if let Some(id) = etcd {
            if (1..compacted).contains(&start) {
                tokio::join!(self.etcd.let_go(id), self.ours.let_go(id));
                return true;
            }
            self.open.starts.insert(id, start);
            if (1..=now).contains(&start) {
                self.open.lagging_since = Some(Instant::now());
            }
        }
        false
    }

    pub async fn cancel(&mut self, watch_id: i64, now: i64) {
        self.settle(now).await;
        let is_open = self.open.starts.remove(&watch_id).is_some();
        tokio::join!(self.etcd.cancel(watch_id, is_open), self.ours.cancel(watch_id, is_open));
    }

    /// The revisions of both answers to a progress request.
    pub async fn progress(&mut self, now: i64) -> (Option<i64>, Option<i64>) {
        self.settle(now).await;
        let limit = PROGRESS_EACH;
        tokio::join!(self.etcd.progress(now, limit), self.ours.progress(now, limit))
    }

    pub async fn settle(&self, now: i64) {
        tokio::join!(self.etcd.settle(now, &self.open), self.ours.settle(now, &self.open));
    }

    /// Settles, and gives both views once they are equal or will not become it.
    pub async fn views(&self, etcd: &Server, ours: &Server, now: i64) -> Views {
        self.settle(now).await;
        let begun = Instant::now();
        loop {
            let views = (self.etcd.view(etcd), self.ours.view(ours));
            if views.0 == views.1 || begun.elapsed() > ANSWER_MAX {
                return views;
            }
            tokio::time::sleep(POLL).await;
        }
    }
}
