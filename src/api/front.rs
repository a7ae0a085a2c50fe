//! What every request meets first: which RPC it is, whether this member may answer it now, and
//! what is counted of it.
//!
//! Requests are dispatched by hand rather than by a router: there are eight services, the path
//! says which, and a put pays for nothing else. What is not gRPC goes to `http`.

use super::caller::{self, Credentials};
use super::checks::Checks;
use super::election::ElectionService;
use super::errors;
use super::health::HealthService;
use super::http as pages;
use super::kv::KvService;
use super::lease::LeaseService;
use super::lock::LockService;
use super::maintenance::MaintenanceService;
use super::members::ClusterService;
use super::proto::etcdserverpb::auth_server::AuthServer;
use super::proto::etcdserverpb::cluster_server::ClusterServer;
use super::proto::etcdserverpb::kv_server::KvServer;
use super::proto::etcdserverpb::lease_server::LeaseServer;
use super::proto::etcdserverpb::maintenance_server::MaintenanceServer;
use super::proto::healthpb::health_server::HealthServer;
use super::proto::v3electionpb::election_server::ElectionServer;
use super::proto::v3lockpb::lock_server::LockServer;
use super::proto::watchpb::watch_server::WatchServer;
use super::rpcs::{self, Counters, RPCS};
use super::server::Answer;
use super::tokens::AuthOptions;
use super::users::AuthService;
use super::watch::WatchService;
use crate::node::NodeHandle;
use crate::types::limits::GRPC_OVERHEAD_BYTES;
use crate::types::{ApiError, GroupId};
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tonic::body::Body as TonicBody;
use tonic::codegen::{Body, BoxFuture, Service, StdError, http};
use tonic::{Code, Status};

/// All services of one serving thread. Cloning counts a reference.
#[derive(Clone)]
pub struct Front(Arc<Services>);

struct Services {
    node: NodeHandle,
    options: Arc<AuthOptions>,
    counters: Arc<Counters>,
    /// Every thread's, for /metrics.
    shards: Arc<[Arc<Counters>]>,
    message_bytes_max: usize,
    kv: KvServer<KvService>,
    watch: WatchServer<WatchService>,
    lease: LeaseServer<LeaseService>,
    cluster: ClusterServer<ClusterService>,
    maintenance: MaintenanceServer<MaintenanceService>,
    auth: AuthServer<AuthService>,
    lock: LockServer<LockService>,
    election: ElectionServer<ElectionService>,
    health: HealthServer<HealthService>,
}

impl Front {
    pub fn new(
        node: NodeHandle,
        options: Arc<AuthOptions>,
        counters: Arc<Counters>,
        shards: Arc<[Arc<Counters>]>,
    ) -> Front {
        // Received bytes are bounded so; what is sent is as large as it is.
        let bytes = node.limits().request_bytes_max + GRPC_OVERHEAD_BYTES;
        macro_rules! server {
            ($server:ident, $service:expr) => {
                $server::new($service)
                    .max_decoding_message_size(bytes)
                    .max_encoding_message_size(usize::MAX)
            };
        }
        let watch = WatchService::new(node.clone(), options.clone(), bytes, counters.clone());
        let lease = LeaseService::new(node.clone(), options.clone(), counters.clone());
        Front(Arc::new(Services {
            kv: server!(KvServer, KvService::new(node.clone())),
            watch: server!(WatchServer, watch),
            lease: server!(LeaseServer, lease),
            cluster: server!(ClusterServer, ClusterService::new(node.clone())),
            maintenance: server!(MaintenanceServer, MaintenanceService::new(node.clone())),
            auth: server!(AuthServer, AuthService::new(node.clone(), options.clone())),
            lock: server!(LockServer, LockService::new(node.clone())),
            election: server!(ElectionServer, ElectionService::new(node.clone())),
            health: server!(HealthServer, HealthService),
            message_bytes_max: bytes,
            node,
            options,
            counters,
            shards,
        }))
    }
}

impl Services {
    /// Calls the service; while users count, only once it is known who asks.
    fn call_as_asked<B>(
        self: &Arc<Services>,
        rpc: usize,
        mut request: http::Request<B>,
    ) -> BoxFuture<http::Response<TonicBody>, std::convert::Infallible>
    where
        B: Body<Data = Bytes, Error: Into<StdError> + Send> + Send + 'static,
    {
        let access = RPCS[rpc].access;
        // Streams tell their user with every message.
        let later = RPCS[rpc].kind == rpcs::Kind::BidiStream;
        if !self.node.auth_enabled(GroupId::ROOT) || access == rpcs::Access::Open || later {
            return self.call(rpc, request);
        }
        let services = self.clone();
        Box::pin(async move {
            let credentials = Credentials::of(request.headers(), request.extensions());
            let (node, options) = (&services.node, &services.options);
            match caller::admit(node, options, access, &credentials).await {
                Ok(asker) => {
                    if let Some(asker) = asker {
                        request.extensions_mut().insert(asker);
                    }
                    services.call(rpc, request).await
                }
                Err(status) => Ok(status.into_http()),
            }
        })
    }

    /// What comes before any service: unknown methods, learners, members without a leader.
    fn admit(
        &self,
        rpc: Option<usize>,
        path: &str,
        headers: &http::HeaderMap,
    ) -> Result<usize, Status> {
        let rpc = rpc.ok_or_else(|| Status::unimplemented(rpcs::unknown(path)))?;
        if !RPCS[rpc].on_learner && self.node.is_learner() {
            return Err(errors::status(&ApiError::NotSupportedForLearner));
        }
        if let Some(version) = headers.get("client-api-version")
            && std::str::from_utf8(version.as_bytes()).is_err()
        {
            return Err(Status::invalid_argument("etcdserver: invalid client api version"));
        }
        if needs_leader(headers) && !self.node.has_leader(GroupId::ROOT) {
            return Err(errors::status(&ApiError::NoLeader));
        }
        Ok(rpc)
    }

    fn call<B>(
        &self,
        rpc: usize,
        request: http::Request<B>,
    ) -> BoxFuture<http::Response<TonicBody>, std::convert::Infallible>
    where
        B: Body<Data = Bytes, Error: Into<StdError> + Send> + Send + 'static,
    {
        match RPCS[rpc].service() {
            "etcdserverpb.KV" => self.kv.clone().call(request),
            "etcdserverpb.Watch" => self.watch.clone().call(request),
            "etcdserverpb.Lease" => self.lease.clone().call(request),
            "etcdserverpb.Cluster" => self.cluster.clone().call(request),
            "etcdserverpb.Maintenance" => self.maintenance.clone().call(request),
            "etcdserverpb.Auth" => self.auth.clone().call(request),
            "v3lockpb.Lock" => self.lock.clone().call(request),
            "v3electionpb.Election" => self.election.clone().call(request),
            "grpc.health.v1.Health" => self.health.clone().call(request),
            other => unreachable!("{other} is listed in RPCS and has no service"),
        }
    }
}

/// Whether the client would rather hear "no leader" than wait.
pub fn needs_leader(headers: &http::HeaderMap) -> bool {
    headers.get("hasleader").is_some_and(|value| value == "true")
}

/// What ends a stream whose client requires a leader.
pub type LeaderLost = Pin<Box<dyn Future<Output = ()> + Send>>;

/// See `NodeHandle::leader_lost`; never, for a client that would rather wait.
pub fn leader_lost(node: &NodeHandle, needs_leader: bool) -> LeaderLost {
    if !needs_leader {
        return Box::pin(std::future::pending());
    }
    let node = node.clone();
    Box::pin(async move { node.leader_lost(GroupId::ROOT).await })
}

impl Answer for Front {
    type Body = CountedBody;
    type Future = Answering;

    fn answer<B>(&self, request: http::Request<B>) -> Answering
    where
        B: Body<Data = Bytes, Error: Into<StdError> + Send> + Send + 'static,
    {
        let is_grpc = request
            .headers()
            .get(http::header::CONTENT_TYPE)
            .is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
        if is_grpc {
            return self.rpc(request);
        }
        let page = pages::answer(self.clone(), request.map(TonicBody::new));
        Answering { inner: Box::pin(async { Ok(page.await) }), call: None, limit: 0 }
    }
}

impl Front {
    /// Answers one gRPC request: admission, the service, the counters.
    pub fn rpc<B>(&self, request: http::Request<B>) -> Answering
    where
        B: Body<Data = Bytes, Error: Into<StdError> + Send> + Send + 'static,
    {
        let services = &self.0;
        let path = request.uri().path();
        let found = rpcs::find(path);
        let call = found.map(|rpc| {
            services.counters.start(rpc);
            services.counters.client(rpc, request.headers().get("client-api-version"));
            Call { rpc, counters: services.counters.clone(), is_over: false }
        });
        let inner = match services.admit(found, path, request.headers()) {
            Ok(rpc) => services.call_as_asked(rpc, request),
            Err(status) => Box::pin(std::future::ready(Ok(status.into_http()))),
        };
        Answering { inner, call, limit: services.message_bytes_max }
    }

    pub fn node(&self) -> &NodeHandle {
        &self.0.node
    }
    /// Every serving thread's.
    pub fn shards(&self) -> &[Arc<Counters>] {
        &self.0.shards
    }
    /// Every serving thread's together.
    pub fn checks(&self) -> &Checks {
        &self.0.counters.checks
    }
    /// The bound on a message that is received.
    pub fn message_bytes_max(&self) -> usize {
        self.0.message_bytes_max
    }
}

/// One RPC under way. Dropped before it is over, it was cancelled.
struct Call {
    rpc: usize,
    counters: Arc<Counters>,
    is_over: bool,
}

impl Call {
    fn end(&mut self, code: Code) {
        if !self.is_over {
            self.is_over = true;
            self.counters.end(self.rpc, code);
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.end(Code::Cancelled);
    }
}

fn code_in(headers: &http::HeaderMap) -> Option<Code> {
    headers.get(Status::GRPC_STATUS).map(|code| Code::from_bytes(code.as_bytes()))
}

/// The answer to one request.
pub struct Answering {
    inner: BoxFuture<http::Response<TonicBody>, std::convert::Infallible>,
    call: Option<Call>,
    /// The bound on a received message, for the refusal's text.
    limit: usize,
}

impl Future for Answering {
    type Output = http::Response<CountedBody>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Ok(mut response) = std::task::ready!(self.inner.as_mut().poll(cx));
        let mut call = self.call.take();
        if let Some(call) = &mut call
            && let Some(code) = code_in(response.headers())
        {
            // A refusal has its status in the head, and no body.
            let code = say_it_as_etcd(response.headers_mut(), code, self.limit);
            call.end(code);
        }
        Poll::Ready(response.map(|inner| CountedBody { inner, call }))
    }
}

/// tonic refuses a message above the bound with a code and text of its own; clients know
/// grpc-go's.
fn say_it_as_etcd(headers: &mut http::HeaderMap, code: Code, limit: usize) -> Code {
    if code != Code::OutOfRange {
        return code;
    }
    let Some(status) = Status::from_header_map(headers) else { return code };
    let size = status
        .message()
        .strip_prefix("Error, decoded message length too large: found ")
        .and_then(|rest| rest.split(' ').next());
    let Some(size) = size else { return code };
    let ours = Status::resource_exhausted(format!(
        "grpc: received message larger than max ({size} vs. {limit})"
    ));
    headers.remove(Status::GRPC_STATUS);
    headers.remove(Status::GRPC_MESSAGE);
    // Cannot fail: the text is ASCII.
    let _ = ours.add_header(headers);
    Code::ResourceExhausted
}

/// An answer's body; what its trailers say is counted.
pub struct CountedBody {
    inner: TonicBody,
    call: Option<Call>,
}

impl Body for CountedBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = std::task::ready!(Pin::new(&mut self.inner).poll_frame(cx));
        if let Some(call) = &mut self.call {
            match &frame {
                Some(Ok(frame)) => {
                    if let Some(code) = frame.trailers_ref().and_then(code_in) {
                        call.end(code);
                    }
                }
                Some(Err(status)) => call.end(status.code()),
                None => {}
            }
        }
        Poll::Ready(frame)
    }
    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }
    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
