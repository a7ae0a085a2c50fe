//! What a client sees on the wire besides answers: paths, refusals in etcd's words, counters,
//! and the exact messages of a watch stream.

use crate::client::Client;
use crate::harness::{Cluster, http_get, is_quorate};
use quorate::api::proto::etcdserverpb as pb;
use quorate::api::proto::etcdserverpb::lease_client::LeaseClient;
use quorate::api::proto::etcdserverpb::watch_client::WatchClient;
use quorate::api::proto::healthpb::health_client::HealthClient;
use quorate::api::proto::healthpb::{HealthCheckRequest, HealthCheckResponse};
use std::future::Future;
use std::time::Duration;
use tokio::sync::mpsc;
use tonic::Code;
use tonic::codec::Streaming;
use tonic::transport::{Channel, Endpoint};

fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let limit = Duration::from_secs(60);
    runtime.block_on(async { tokio::time::timeout(limit, test).await.expect("the test hangs") })
}

fn channel(address: &str) -> Channel {
    Endpoint::from_shared(format!("http://{address}")).expect("our own address").connect_lazy()
}

/// A stream of what is sent into a channel.
pub struct Sent<T>(pub mpsc::UnboundedReceiver<T>);

impl<T> tokio_stream::Stream for Sent<T> {
    type Item = T;
    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<T>> {
        self.0.poll_recv(cx)
    }
}

#[test]
fn pages_and_refusals() {
    let cluster = Cluster::start("wire", 1, &[]);
    let address = cluster.members[0].client();
    let get = |path: &str| http_get(&address, path).expect("the server answers");
    assert_eq!(get("/readyz"), (200, "ok\n".to_string()));
    assert_eq!(get("/livez/serializable_read"), (200, "ok\n".to_string()));
    let (status, text) = get("/readyz?verbose&exclude=non_learner");
    assert_eq!(status, 200);
    assert!(text.contains("[+]linearizable_read ok\n"), "{text}");
    assert_eq!(get("/readyz/nonsense").0, 404);
    assert_eq!(get("/").0, 404);
    let (status, text) = get("/version");
    assert_eq!(status, 200);
    let version: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    if is_quorate() {
        assert_eq!(version["etcdcluster"], "3.6.0");
    }
    assert_eq!(get("/health").1, "{\"health\":\"true\",\"reason\":\"\"}");

    run(async {
        let client = Client::new(&address);
        client.put("k", "v").await.expect("a put");
        let large = client.put("k", &"x".repeat(2_500_000)).await.expect_err("too large for gRPC");
        assert_eq!(large.code(), Code::ResourceExhausted);
        let text = large.message();
        assert!(text.starts_with("grpc: received message larger than max (25000"), "{text}");
        assert!(text.ends_with(" vs. 2097152)"), "{text}");

        let mut health = HealthClient::new(channel(&address));
        let asked = HealthCheckRequest::default();
        let now = health.check(asked).await.expect("health").into_inner();
        assert_eq!(now, HealthCheckResponse { status: 1 });

        for (path, text) in [
            ("/no.such.Service/Call", "unknown service no.such.Service"),
            ("/etcdserverpb.KV/Call", "unknown method Call for service etcdserverpb.KV"),
        ] {
            let mut raw = tonic::client::Grpc::new(channel(&address));
            raw.ready().await.expect("the server is there");
            let codec = tonic_prost::ProstCodec::<pb::StatusRequest, pb::StatusResponse>::default();
            let request = tonic::Request::new(pb::StatusRequest {});
            let path = path.parse().expect("a path");
            let refused = raw.unary(request, path, codec).await.expect_err("there is none");
            assert_eq!((refused.code(), refused.message()), (Code::Unimplemented, text));
        }
    });

    if !is_quorate() {
        // etcd sends its page in chunks, and does not count what gRPC refused before it.
        return;
    }
    let (_, metrics) = get("/metrics");
    let put = "grpc_method=\"Put\",grpc_service=\"etcdserverpb.KV\",grpc_type=\"unary\"} ";
    for line in [
        format!("grpc_server_started_total{{{put}2"),
        format!("grpc_server_handled_total{{grpc_code=\"OK\",{put}1"),
        format!("grpc_server_handled_total{{grpc_code=\"ResourceExhausted\",{put}1"),
        "etcd_server_has_leader 1".to_string(),
        "etcd_server_is_leader 1".to_string(),
        "etcd_debugging_mvcc_current_revision 2".to_string(),
    ] {
        assert!(metrics.lines().any(|l| l == line), "no {line} in {metrics}");
    }
    // Every line is a comment or a name, labels and a number; every family is declared once.
    let mut families = std::collections::BTreeSet::new();
    for line in metrics.lines() {
        if let Some(family) = line.strip_prefix("# TYPE ") {
            assert!(families.insert(family.to_string()), "{family} comes twice");
        } else if !line.starts_with('#') {
            let number = line.rsplit(' ').next().unwrap_or_default();
            assert!(number.parse::<f64>().is_ok(), "{line}");
        }
    }
}

/// One watch stream by hand.
struct Watching {
    requests: mpsc::UnboundedSender<pb::WatchRequest>,
    answers: Streaming<pb::WatchResponse>,
}

impl Watching {
    /// Opens a stream with a first watcher. (etcd opens its side with its first answer.)
    async fn start(address: &str, create: pb::WatchCreateRequest) -> (Watching, pb::WatchResponse) {
        let (requests, sent) = mpsc::unbounded_channel();
        let union = Some(pb::watch_request::RequestUnion::CreateRequest(create));
        requests.send(pb::WatchRequest { request_union: union }).expect("we hold the other end");
        let mut client = WatchClient::new(channel(address)).max_decoding_message_size(usize::MAX);
        let answers = client.watch(Sent(sent)).await.expect("a stream").into_inner();
        let mut watching = Watching { requests, answers };
        let made = watching.next().await;
        (watching, made)
    }
    fn ask(&self, union: pb::watch_request::RequestUnion) {
        let request = pb::WatchRequest { request_union: Some(union) };
        self.requests.send(request).expect("the stream is open");
    }
    async fn create(&mut self, create: pb::WatchCreateRequest) -> pb::WatchResponse {
        self.ask(pb::watch_request::RequestUnion::CreateRequest(create));
        self.next().await
    }
    async fn next(&mut self) -> pb::WatchResponse {
        self.answers.message().await.expect("the stream goes on").expect("the stream goes on")
    }
}

fn revision(answer: &pb::WatchResponse) -> i64 {
    answer.header.map_or(-1, |header| header.revision)
}

#[test]
fn a_watch_stream_message_by_message() {
    use pb::watch_request::RequestUnion;
    let cluster = Cluster::start("watch", 1, &[]);
    let address = cluster.members[0].client();
    run(async {
        let client = Client::new(&address);
        let on = |key: &str| pb::WatchCreateRequest {
            key: key.to_string().into(),
            ..Default::default()
        };
        let (mut watching, made) = Watching::start(&address, on("a")).await;
        assert_eq!((made.created, made.watch_id, revision(&made)), (true, 0, 1));
        let again = watching.create(pb::WatchCreateRequest { watch_id: 5, ..on("b") }).await;
        assert_eq!((again.created, again.watch_id), (true, 5));
        let twice = watching.create(pb::WatchCreateRequest { watch_id: 5, ..on("b") }).await;
        assert_eq!((twice.created, twice.canceled, twice.watch_id), (true, true, -1));
        assert_eq!(twice.cancel_reason, "mvcc: duplicate watch ID provided on the WatchStream");
        let empty = pb::WatchCreateRequest { range_end: "a".into(), ..on("b") };
        let empty = watching.create(empty).await;
        assert_eq!((empty.created, empty.canceled, empty.watch_id), (true, true, -1));
        assert_eq!(empty.cancel_reason, "mvcc: watcher range is empty");

        client.put("a", "1").await.expect("a put");
        let told = watching.next().await;
        assert_eq!((told.watch_id, revision(&told), told.events.len()), (0, 2, 1));
        let kv = told.events[0].kv.clone().expect("an event has a pair");
        assert_eq!((kv.key.as_ref(), kv.value.as_ref()), (&b"a"[..], &b"1"[..]));
        assert_eq!((kv.create_revision, kv.mod_revision, kv.version), (2, 2, 1));

        watching.ask(RequestUnion::ProgressRequest(pb::WatchProgressRequest {}));
        let progress = watching.next().await;
        assert_eq!((progress.watch_id, revision(&progress)), (-1, 2));
        assert!(progress.events.is_empty());

        watching.ask(RequestUnion::CancelRequest(pb::WatchCancelRequest { watch_id: 5 }));
        let gone = watching.next().await;
        assert_eq!((gone.canceled, gone.watch_id, gone.cancel_reason.as_str()), (true, 5, ""));

        // From before a compaction: created, then cancelled without a revision.
        client.put("a", "2").await.expect("a put");
        assert_eq!(watching.next().await.events.len(), 1);
        let mut kv = pb::kv_client::KvClient::new(channel(&address));
        kv.compact(pb::CompactionRequest { revision: 3, physical: true }).await.expect("compacts");
        let past = pb::WatchCreateRequest { start_revision: 1, ..on("a") };
        let made = watching.create(past).await;
        assert!(made.created && !made.canceled);
        let gone = watching.next().await;
        assert_eq!((gone.canceled, gone.compact_revision, revision(&gone)), (true, 3, 0));
        assert_eq!(gone.watch_id, made.watch_id);
        let bad = pb::WatchCreateRequest { start_revision: -1, ..on("a") };
        let bad = watching.create(bad).await;
        assert_eq!((bad.created, bad.canceled, bad.watch_id), (true, true, -1));
        assert_eq!(bad.cancel_reason, "etcdserver: mvcc: required revision has been compacted");
    });
}

#[test]
fn one_revision_in_fragments() {
    let cluster = Cluster::start("fragments", 1, &["--max-request-bytes=4000000"]);
    let address = cluster.members[0].client();
    run(async {
        let client = Client::new(&address);
        let all = pb::WatchCreateRequest {
            key: "f/".into(),
            range_end: "f0".into(),
            prev_kv: true,
            ..Default::default()
        };
        let (mut whole, _) = Watching::start(&address, all.clone()).await;
        let in_parts = pb::WatchCreateRequest { fragment: true, ..all };
        let (mut parts, _) = Watching::start(&address, in_parts).await;
        // Values and previous values together exceed what one part may hold.
        for round in 0..2 {
            let puts = (0..100).map(|n| pb::RequestOp {
                request: Some(pb::request_op::Request::RequestPut(pb::PutRequest {
                    key: format!("f/{n:03}").into(),
                    value: vec![b'v'; 35_000].into(),
                    ..Default::default()
                })),
            });
            let txn = pb::TxnRequest { success: puts.collect(), ..Default::default() };
            client.txn(txn).await.expect("a txn");
            let answer = whole.next().await;
            assert_eq!((answer.events.len(), answer.fragment), (100, false));
            let mut keys = Vec::new();
            loop {
                let part = parts.next().await;
                assert_eq!(revision(&part), revision(&answer));
                keys.extend(part.events.into_iter().filter_map(|e| e.kv).map(|kv| kv.key));
                if !part.fragment {
                    break;
                }
                assert_eq!(round, 1, "the first revision is small enough for one part");
            }
            assert_eq!(keys.len(), 100);
            assert!(keys.is_sorted());
        }
    });
}

#[test]
fn keepalives_are_answered_in_order() {
    let cluster = Cluster::start("keepalive", 1, &[]);
    let address = cluster.members[0].client();
    run(async {
        let mut leases = LeaseClient::new(channel(&address));
        let grant = pb::LeaseGrantRequest { ttl: 1, id: 77 };
        let granted = leases.lease_grant(grant).await.expect("a lease").into_inner();
        assert_eq!((granted.id, granted.ttl, granted.error.as_str()), (77, 2, ""));
        let again = leases.lease_grant(grant).await.expect_err("taken");
        assert_eq!(again.message(), "etcdserver: lease already exists");
        let (requests, sent) = mpsc::unbounded_channel();
        for id in [77, 78, 77] {
            requests.send(pb::LeaseKeepAliveRequest { id }).expect("we hold the other end");
        }
        let mut answers = leases.lease_keep_alive(Sent(sent)).await.expect("a stream").into_inner();
        let mut seen = Vec::new();
        for _ in 0..3 {
            let answer = answers.message().await.expect("goes on").expect("goes on");
            seen.push((answer.id, answer.ttl));
        }
        assert_eq!(seen, [(77, 2), (78, 0), (77, 2)]);
        drop(requests);
        assert!(answers.message().await.expect("ends well").is_none());

        let ask = pb::LeaseTimeToLiveRequest { id: 78, keys: true };
        let unknown = leases.lease_time_to_live(ask).await.expect("an answer").into_inner();
        assert_eq!((unknown.id, unknown.ttl, unknown.granted_ttl), (78, -1, 0));
    });
}
