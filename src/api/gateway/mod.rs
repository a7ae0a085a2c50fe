//! The JSON gateway: every RPC a second time, as an HTTP POST with JSON in and out.
//!
//! ```text
//! POST /v3/kv/put {"key":"Zm9v"}     paths: which RPC
//!   -> a message of its input type   json: by the descriptors that build.rs embeds
//!   -> a gRPC request                request: frames, one for each JSON text
//!   -> Front::rpc                    the same admission, checks and counters as for gRPC
//!   <- frames, trailers              answer: to JSON, an error to its HTTP status
//! ```
//!
//! One handler serves every path: it knows no message by name. The shapes are those of
//! grpc-gateway as etcd 3.6 sets it up: field names as in the .proto files (lowerCamelCase is
//! understood too), 64-bit integers as strings, bytes as base64, enums by name, fields that are
//! zero left out, unknown fields ignored; a stream is a line of `{"result":...}` for each message
//! and `{"error":...}` where it fails.
//!
//! What it does not do: WebSockets, and the trailing metadata of an answer.

mod answer;
mod json;
mod paths;
mod request;

use super::front::Front;
use super::rpcs::{Kind, RPCS};
use bytes::Bytes;
use http_body::Frame;
use paths::Route;
use request::Requests;
use std::pin::Pin;
use std::task::{Context, Poll};
use tonic::Status;
use tonic::body::Body as TonicBody;
use tonic::codegen::http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, header};
use tonic::codegen::tokio_stream::Stream;

/// Whether a path is the gateway's to answer, be it known or not.
pub fn owns(path: &str) -> bool {
    path.starts_with("/v3/") || path.starts_with("/v3beta/")
}

pub async fn answer(front: Front, request: Request<TonicBody>) -> Response<TonicBody> {
    match relay(front, request).await {
        Ok(response) => response,
        Err(status) => answer::refusal(&status),
    }
}

async fn relay(front: Front, request: Request<TonicBody>) -> Result<Response<TonicBody>, Status> {
    let route = paths::find(request.uri().path()).ok_or_else(|| Status::not_found("Not Found"))?;
    if request.method() != Method::POST {
        return Err(Status::unimplemented("Method Not Allowed"));
    }
    let (head, body) = request.into_parts();
    let mut requests = Requests::new(body, route.input.clone(), front.message_bytes_max());
    let kind = RPCS[route.rpc].kind;
    // The first message is read before anything is asked: what is no JSON is refused whole.
    let body = match (kind, requests.next().await?) {
        (Kind::BidiStream, Some(first)) => requests.stream(first),
        (Kind::BidiStream, None) => TonicBody::empty(),
        // As in grpc-gateway an empty body is an empty message, and what follows it is not read.
        (_, first) => TonicBody::new(Once(Some(first.unwrap_or(request::EMPTY)))),
    };
    let response = front.rpc(grpc_request(route, &head.headers, body)).await;
    match kind {
        Kind::Unary => answer::unary(response, &route.output).await,
        Kind::ServerStream | Kind::BidiStream => {
            Ok(answer::stream(response, route.output.clone()).await)
        }
    }
}

/// Metadata that the client wants to reach the service has this prefix, save for its token.
const METADATA_PREFIX: &str = "grpc-metadata-";

/// The request as gRPC. No extension of the client's request goes along: a certificate that its
/// connection was made with names nobody here.
fn grpc_request(route: &Route, asked: &HeaderMap, body: TonicBody) -> Request<TonicBody> {
    let mut request = Request::new(body);
    *request.method_mut() = Method::POST;
    *request.uri_mut() = RPCS[route.rpc].path.parse().expect("a path of the table");
    let headers = request.headers_mut();
    for (name, value) in asked {
        let inner = name.as_str().strip_prefix(METADATA_PREFIX);
        // What gRPC itself says by headers is not the client's to say.
        let inner = inner.filter(|inner| !inner.starts_with("grpc-") && *inner != "content-type");
        if let Some(Ok(inner)) = inner.map(HeaderName::try_from) {
            headers.append(inner, value.clone());
        }
    }
    if let Some(token) = asked.get(header::AUTHORIZATION) {
        headers.insert(header::AUTHORIZATION, token.clone());
    }
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    request
}

/// A body of one piece.
struct Once(Option<Bytes>);

impl http_body::Body for Once {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Poll::Ready(self.0.take().map(|bytes| Ok(Frame::data(bytes))))
    }
    fn is_end_stream(&self) -> bool {
        self.0.is_none()
    }
    fn size_hint(&self) -> http_body::SizeHint {
        http_body::SizeHint::with_exact(self.0.as_ref().map_or(0, |bytes| bytes.len() as u64))
    }
}

/// A body of as many pieces as a stream has items.
struct Pieces<S>(S);

impl<S: Stream<Item = Bytes> + Unpin> http_body::Body for Pieces<S> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Pin::new(&mut self.0).poll_next(cx).map(|piece| piece.map(|piece| Ok(Frame::data(piece))))
    }
}
