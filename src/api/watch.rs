//! The Watch service: one stream of a client, many watchers.
//!
//! Which events a watcher gets, and when, is the node's watch hub's affair. Here requests become
//! calls, and what the hub says becomes messages: their exact shapes, fragments, and encodings
//! that are made once for all watchers of a thread.

use super::caller::Credentials;
use super::errors::status;
use super::front::{LeaderLost, leader_lost, needs_leader};
use super::header::header;
use super::proto::etcdserverpb as pb;
use super::proto::etcdserverpb::watch_request::RequestUnion;
use super::proto::watchpb::watch_server::Watch;
use super::rpcs::{CODE_NAMES, Counters, WATCH};
use super::tokens::AuthOptions;
use super::unfold::unfold;
use super::wire::{Encodings, WatchFrame, split};
use crate::auth::Need;
use crate::io::biased_select;
use crate::mvcc::watch::{CreateRequest, Filters, Refusal, WatchOut};
use crate::node::{NodeHandle, WatchStream};
use crate::types::{ApiError, GroupId, KeyRange};
use bytes::Bytes;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use tonic::codegen::{BoxStream, async_trait};
use tonic::{Request, Response, Status, Streaming};

pub struct WatchService {
    node: NodeHandle,
    options: Arc<AuthOptions>,
    /// The bound on one part of a fragmented answer.
    part_bytes_max: usize,
    counters: Arc<Counters>,
    /// Shared by the streams of this thread only, so nobody ever waits for it.
    encodings: Arc<Mutex<Encodings>>,
}

impl WatchService {
    pub fn new(
        node: NodeHandle,
        options: Arc<AuthOptions>,
        part_bytes_max: usize,
        counters: Arc<Counters>,
    ) -> WatchService {
        WatchService { node, options, part_bytes_max, counters, encodings: Arc::default() }
    }
}

#[async_trait]
impl Watch for WatchService {
    type WatchStream = BoxStream<WatchFrame>;

    async fn watch(
        &self,
        request: Request<Streaming<pb::WatchRequest>>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let needs_leader = needs_leader(request.metadata().as_ref());
        let hub = self.node.open_watch(GroupId::ROOT).map_err(|error| status(&error))?;
        let session = Session {
            node: self.node.clone(),
            options: self.options.clone(),
            credentials: Credentials::of(request.metadata().as_ref(), request.extensions()),
            hub,
            leader_lost: leader_lost(&self.node, needs_leader),
            requests: Some(request.into_inner()),
            parts: VecDeque::new(),
            part_bytes_max: self.part_bytes_max,
            counters: self.counters.clone(),
            encodings: self.encodings.clone(),
            is_over: false,
        };
        Ok(Response::new(Box::pin(unfold(session, Session::next))))
    }
}

/// One watch stream.
struct Session {
    node: NodeHandle,
    options: Arc<AuthOptions>,
    credentials: Credentials,
    hub: WatchStream,
    /// Resolves when the client should be told that there is no leader; never, if it did not ask.
    leader_lost: LeaderLost,
    /// `None` once the client has said that it will ask for nothing more.
    requests: Option<Streaming<pb::WatchRequest>>,
    /// Messages that the hub's last one has become and that wait to be sent.
    parts: VecDeque<WatchFrame>,
    part_bytes_max: usize,
    counters: Arc<Counters>,
    encodings: Arc<Mutex<Encodings>>,
    is_over: bool,
}

type Item = Result<WatchFrame, Status>;

impl Session {
    async fn next(mut self) -> Option<(Item, Session)> {
        loop {
            if let Some(part) = self.parts.pop_front() {
                self.counters.sent(WATCH);
                return Some((Ok(part), self));
            }
            if self.is_over {
                return None;
            }
            let step = {
                let (hub, requests) = (&self.hub, &mut self.requests);
                // Requests come first, but not while the client leaves unread what it asked for.
                let takes_requests = !hub.is_full();
                biased_select! {
                    request = async {
                        match requests {
                            Some(requests) if takes_requests => requests.message().await,
                            _ => std::future::pending().await,
                        }
                    } => Step::Asked(request),
                    out = hub.next() => Step::Said(out),
                    () = &mut self.leader_lost => Step::LeaderLost,
                }
            };
            match step {
                Step::Asked(Ok(Some(request))) => {
                    self.counters.received(WATCH);
                    self.ask(request).await;
                }
                // The client will ask for nothing more; what it watches goes on, as in etcd.
                Step::Asked(Ok(None)) => self.requests = None,
                Step::Asked(Err(status)) => {
                    self.is_over = true;
                    return Some((Err(status), self));
                }
                Step::LeaderLost => {
                    self.is_over = true;
                    return Some((Err(status(&ApiError::NoLeader)), self));
                }
                Step::Said(Some(out)) => self.say(out),
                Step::Said(None) => {
                    self.is_over = true;
                    return Some((Err(status(&ApiError::Stopped)), self));
                }
            }
        }
    }

    async fn ask(&mut self, request: pb::WatchRequest) {
        match request.request_union {
            Some(RequestUnion::CreateRequest(create)) => {
                let create = create_from_proto(create);
                // A start that no watcher can have is refused whoever asks, by the hub.
                let refused = match create.start_revision {
                    ..0 => None,
                    _ => self.permits(&create.range).await.err(),
                };
                match refused {
                    None => self.hub.create(create),
                    Some(refused) => self.refuse(refused),
                }
            }
            Some(RequestUnion::CancelRequest(cancel)) => self.hub.cancel(cancel.watch_id),
            Some(RequestUnion::ProgressRequest(_)) => self.hub.progress(),
            // Something newer than this server: etcd ignores it as well.
            None => {}
        }
    }

    /// Whether the client may watch the range, as users and roles are now: what it watches
    /// already goes on, as in etcd.
    async fn permits(&mut self, range: &KeyRange) -> Result<(), WatchFrame> {
        let node = &self.node;
        if !node.auth_enabled(GroupId::ROOT) {
            return Ok(());
        }
        // No key is the first key there can be.
        let first =
            if range.key.is_empty() { Bytes::from_static(b"\0") } else { range.key.clone() };
        let range = KeyRange { key: first, end: range.end.clone() };
        let checked = async {
            let caller = self.credentials.caller(node, &self.options).await?;
            node.auth(GroupId::ROOT)?.check_range(caller.as_ref(), Need::Read, &range)
        };
        checked.await.map_err(|error| {
            let status = status(&error);
            let revision = node.view(GroupId::ROOT).map_or(0, |view| view.revision());
            WatchFrame {
                header: Some(header(node, revision)),
                watch_id: -1,
                created: true,
                canceled: true,
                // As the Go library prints an error.
                cancel_reason: format!(
                    "rpc error: code = {} desc = {}",
                    CODE_NAMES[status.code() as usize],
                    status.message()
                ),
                ..WatchFrame::default()
            }
        })
    }

    /// Clients know by the order which of their requests an answer is to: what the hub has to say to
    /// those before goes first.
    fn refuse(&mut self, refused: WatchFrame) {
        loop {
            let said = self.hub.said();
            if said.is_empty() {
                break;
            }
            self.say(said);
        }
        self.parts.push_back(refused);
    }

    fn say(&mut self, out: Vec<WatchOut>) {
        let part_bytes_max = self.part_bytes_max;
        let mut encodings = self.encodings.lock().unwrap_or_else(PoisonError::into_inner);
        let header = |revision| header(&self.node, revision);
        for out in out {
            messages(out, header, &mut encodings, part_bytes_max, &mut self.parts);
        }
    }
}

/// What the hub says, as the messages that etcd sends.
fn messages(
    out: WatchOut,
    header: impl Fn(i64) -> pb::ResponseHeader,
    encodings: &mut Encodings,
    part_bytes_max: usize,
    parts: &mut VecDeque<WatchFrame>,
) {
    let head = |watch_id, revision| WatchFrame {
        header: Some(header(revision)),
        watch_id,
        ..WatchFrame::default()
    };
    match out {
        WatchOut::Created { watch_id, revision } => {
            parts.push_back(WatchFrame { created: true, ..head(watch_id, revision) });
        }
        WatchOut::Refused { reason, revision } => {
            let reason = match reason {
                Refusal::EmptyRange => "mvcc: watcher range is empty",
                Refusal::DuplicateId => "mvcc: duplicate watch ID provided on the WatchStream",
                Refusal::Compacted => "etcdserver: mvcc: required revision has been compacted",
            };
            parts.push_back(WatchFrame {
                created: true,
                canceled: true,
                cancel_reason: reason.to_string(),
                ..head(-1, revision)
            });
        }
        WatchOut::Canceled { watch_id, compact_revision, revision } => {
            parts.push_back(WatchFrame {
                canceled: true,
                compact_revision: compact_revision.unwrap_or(0),
                ..head(watch_id, revision)
            });
        }
        WatchOut::Progress { watch_id, revision } => {
            parts.push_back(head(watch_id, revision));
        }
        WatchOut::Events { watch_id, revision, batches, prev_kv, fragment } => {
            let events: Vec<_> = batches.iter().map(|batch| encodings.of(batch, prev_kv)).collect();
            let bytes_max = if fragment { part_bytes_max } else { usize::MAX };
            split(head(watch_id, revision), &events, bytes_max, parts);
        }
    }
}

enum Step {
    Asked(Result<Option<pb::WatchRequest>, Status>),
    Said(Option<Vec<WatchOut>>),
    LeaderLost,
}

fn create_from_proto(r: pb::WatchCreateRequest) -> CreateRequest {
    use pb::watch_create_request::FilterType;
    let has = |filter: FilterType| r.filters.contains(&(filter as i32));
    CreateRequest {
        filters: Filters { no_put: has(FilterType::Noput), no_delete: has(FilterType::Nodelete) },
        range: KeyRange { key: r.key, end: r.range_end },
        start_revision: r.start_revision,
        prev_kv: r.prev_kv,
        progress_notify: r.progress_notify,
        fragment: r.fragment,
        watch_id: r.watch_id,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mvcc::watch::{EventRefs, Picked};
    use crate::types::reply::{Event, EventKind, KeyValue};
    use prost::Message as _;

    fn told(out: WatchOut, part_bytes_max: usize) -> Vec<pb::WatchResponse> {
        let header = |revision| pb::ResponseHeader { member_id: 7, revision, ..Default::default() };
        let mut parts = VecDeque::new();
        messages(out, header, &mut Encodings::default(), part_bytes_max, &mut parts);
        let decode = |part: WatchFrame| pb::WatchResponse::decode(&part.encode_to_vec()[..]);
        parts.into_iter().map(|part| decode(part).expect("our own")).collect()
    }

    #[test]
    fn each_message_is_etcds() {
        let at =
            |revision| Some(pb::ResponseHeader { member_id: 7, revision, ..Default::default() });
        let empty = pb::WatchResponse::default;
        for (out, expected) in [
            (
                WatchOut::Created { watch_id: 0, revision: 5 },
                pb::WatchResponse { header: at(5), created: true, ..empty() },
            ),
            (
                WatchOut::Refused { reason: Refusal::DuplicateId, revision: 5 },
                pb::WatchResponse {
                    header: at(5),
                    watch_id: -1,
                    created: true,
                    canceled: true,
                    cancel_reason: "mvcc: duplicate watch ID provided on the WatchStream".into(),
                    ..empty()
                },
            ),
            (
                WatchOut::Canceled { watch_id: 2, compact_revision: None, revision: 5 },
                pb::WatchResponse { header: at(5), watch_id: 2, canceled: true, ..empty() },
            ),
            (
                WatchOut::Canceled { watch_id: 2, compact_revision: Some(9), revision: 0 },
                pb::WatchResponse {
                    header: at(0),
                    watch_id: 2,
                    canceled: true,
                    compact_revision: 9,
                    ..empty()
                },
            ),
            (
                WatchOut::Progress { watch_id: -1, revision: 6 },
                pb::WatchResponse { header: at(6), watch_id: -1, ..empty() },
            ),
        ] {
            assert_eq!(told(out, 100), [expected]);
        }
    }

    #[test]
    fn only_who_asked_for_fragments_gets_them() {
        let event = |key: &'static str| Event {
            kind: EventKind::Put,
            kv: KeyValue { key: key.into(), value: vec![0; 90].into(), ..KeyValue::default() },
            prev_kv: None,
        };
        let batch = |revision, keys: &[&'static str]| EventRefs {
            revision,
            events: keys.iter().map(|key| event(key)).collect(),
            picked: Picked::All,
        };
        let out = |fragment| WatchOut::Events {
            watch_id: 1,
            revision: 4,
            batches: vec![batch(3, &["a", "b"]), batch(4, &["c"])],
            prev_kv: false,
            fragment,
        };
        let whole = told(out(false), 100);
        assert_eq!((whole.len(), whole[0].events.len(), whole[0].fragment), (1, 3, false));
        let parts = told(out(true), 100);
        let shapes: Vec<_> = parts.iter().map(|p| (p.events.len(), p.fragment)).collect();
        assert_eq!(shapes, [(1, true), (1, true), (1, false)]);
    }

    #[test]
    fn filters_may_come_in_any_number() {
        let create = create_from_proto(pb::WatchCreateRequest {
            filters: vec![1, 1, 77],
            ..Default::default()
        });
        assert_eq!(create.filters, Filters { no_put: false, no_delete: true });
    }
}
