//! A client's line to one member: gRPC requests handed to its services as to any tower service.
//!
//! The service's work runs in the member's process, as the server's connection task would: a
//! killed member drops it, a paused one lets it wait, and a client that has gone cancels it. Every
//! message is encoded and decoded as on the wire; what is missing is HTTP/2's framing.

use super::process::Life;
use super::race::{First, race};
use super::world::World;
use bytes::Bytes;
use http_body::{Body, Frame};
use quorate::api::server::Answer as _;
use quorate::types::prng::Prng;
use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use tokio::sync::{mpsc, oneshot};
use tonic::Status;
use tonic::codegen::{BoxFuture, Service, http};

/// Messages of one answer on their way; beyond it the member waits for the client to read.
const PARTS_MAX: usize = 4;

/// Nobody answers, or not any more.
#[derive(Clone, Copy, Debug)]
pub struct Lost;

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("connection lost")
    }
}

impl std::error::Error for Lost {}

/// See the module's documentation.
#[derive(Clone)]
pub struct Line {
    world: Arc<World>,
    host: usize,
    delays: Arc<Mutex<Prng>>,
}

impl Line {
    pub fn new(world: Arc<World>, host: usize, delays: Arc<Mutex<Prng>>) -> Line {
        Line { world, host, delays }
    }

    fn delay_us(&self) -> u64 {
        super::story::lock(&self.delays).between(20, 1_500)
    }
}

impl Service<http::Request<tonic::body::Body>> for Line {
    type Response = http::Response<Piped>;
    type Error = Lost;
    type Future = BoxFuture<http::Response<Piped>, Lost>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Lost>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        let (there, back) = (self.delay_us(), self.delay_us());
        let (world, host) = (self.world.clone(), self.host);
        Box::pin(async move {
            world.sleep_us(there).await;
            let Some((front, life)) = world.front(host) else { return Err(Lost) };
            let (head, headed) = oneshot::channel();
            let (parts, piped) = mpsc::channel(PARTS_MAX);
            serve(&life, front, request, head, parts);
            let answer = headed.await.map_err(|_| Lost)?;
            world.sleep_us(back).await;
            Ok(answer.map(|()| Piped { parts: piped, is_over: false }))
        })
    }
}

enum Part {
    Frame(Frame<Bytes>),
    Broken(Status),
    End,
}

fn serve(
    life: &Arc<Life>,
    front: quorate::api::front::Front,
    request: http::Request<tonic::body::Body>,
    mut head: oneshot::Sender<http::Response<()>>,
    parts: mpsc::Sender<Part>,
) {
    life.spawn(async move {
        let response = match race(head.closed(), front.answer(request)).await {
            First::A(()) => return,
            First::B(response) => response,
        };
        let (head_parts, body) = response.into_parts();
        if head.send(http::Response::from_parts(head_parts, ())).is_err() {
            return;
        }
        let mut body = Box::pin(body);
        loop {
            let frame = poll_fn(|cx| body.as_mut().poll_frame(cx));
            let part = match race(parts.closed(), frame).await {
                First::A(()) => return,
                First::B(Some(Ok(frame))) => Part::Frame(frame),
                First::B(Some(Err(status))) => Part::Broken(status),
                First::B(None) => Part::End,
            };
            let last = !matches!(part, Part::Frame(_));
            if parts.send(part).await.is_err() || last {
                return;
            }
        }
    });
}

/// An answer's body at the client.
pub struct Piped {
    parts: mpsc::Receiver<Part>,
    is_over: bool,
}

impl Body for Piped {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        let part = std::task::ready!(self.parts.poll_recv(cx));
        let frame = match part {
            Some(Part::Frame(frame)) => return Poll::Ready(Some(Ok(frame))),
            Some(Part::Broken(status)) => Some(Err(status)),
            Some(Part::End) => None,
            None => Some(Err(Status::unknown("connection lost"))),
        };
        self.is_over = true;
        Poll::Ready(frame)
    }
}
