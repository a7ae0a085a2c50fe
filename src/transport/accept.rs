//! Incoming streams: accept, judge, read until it breaks.

use super::dial::{HANDSHAKE_TIMEOUT, pong, silence_max};
use super::frame::{Greeting, PeerFrame, decode_peer_frame};
use super::handshake::{Hello, HelloReply, PROTOCOL_VERSION, Refusal, StreamKind, Verdict, judge};
use super::peers::{Context, Inner, PeerEvent, RefusedBy};
use super::roster::Roster;
use super::wire::{FrameReader, StreamError, greeting_bytes, write};
use crate::codec::frame::FRAME_HEADER_BYTES;
use crate::io::{Connection, Listener, TaskKind, WriteHalf, biased_select, until};
use crate::types::{NodeId, limits};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::sync::Notify;

/// After an accept that failed (out of descriptors, mostly): time for some to be closed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Takes connections for ever. Aborted with the owner.
pub async fn run(inner: Arc<Inner>, mut listener: Box<dyn Listener>) {
    loop {
        match listener.accept().await {
            Ok(connection) => start(&inner, connection),
            Err(error) => {
                tracing::warn!(%error, "could not accept a peer connection");
                let clock = &inner.ctx.io.clock;
                clock.sleep_until(clock.now() + ACCEPT_PAUSE).await;
            }
        }
    }
}

fn start(inner: &Arc<Inner>, connection: Connection) {
    let cancel = Arc::new(Notify::new());
    let Some(number) = inner.inbound().add(cancel.clone()) else {
        tracing::warn!("remote-peer-addr" = connection.peer, "no room for a peer connection");
        return;
    };
    let inner_of_task = inner.clone();
    let task = async move {
        biased_select! {
            () = cancel.notified() => {},
            () = serve(&inner_of_task, number, connection) => {},
        }
        inner_of_task.inbound().remove(number);
    };
    inner.ctx.io.tasks.spawn("peer-inbound", TaskKind::Shared, Box::pin(task));
}

async fn serve(inner: &Inner, number: u64, connection: Connection) {
    let ctx = &inner.ctx;
    let Connection { peer: addr, reader, mut writer } = connection;
    let mut reader = FrameReader::new(reader);
    let clock = &*ctx.io.clock;
    let deadline = clock.now() + HANDSHAKE_TIMEOUT;
    let greeted = match until(clock, deadline, greet(ctx, &mut reader, &mut *writer)).await {
        None => Err(StreamError::Silent),
        Some(greeted) => greeted,
    };
    let hello = match greeted {
        Ok(Some(hello)) => hello,
        Ok(None) => return,
        // Somebody looked whether the port is open.
        Err(StreamError::Closed) => return,
        Err(error) => {
            tracing::warn!("remote-peer-addr" = addr, %error, "rejected a peer connection");
            return;
        }
    };
    inner.inbound().claim(number, hello.from, hello.kind);
    let known = inner.peer(hello.from);
    match &known {
        // It is alive: whoever waits to dial it need not wait longer.
        Some(peer) => {
            peer.lane(StreamKind::Messages).hurry.notify_one();
            peer.lane(StreamKind::Bulk).hurry.notify_one();
        }
        None => (ctx.sink)(PeerEvent::Met { peer: hello.from, peer_urls: hello.peer_urls.clone() }),
    }
    let why = read(inner, &hello, &mut reader, &mut *writer).await;
    if !matches!(why, StreamError::Closed) {
        if let Some(peer) = known {
            peer.counters.receive_failures.fetch_add(1, Relaxed);
        }
        tracing::warn!(
            "remote-peer-id" = %hello.from,
            "remote-peer-addr" = addr,
            error = %why,
            "lost a stream from a remote peer"
        );
    }
}

/// The acceptor's half of the handshake. `None`: refused, and everybody has been told.
async fn greet(
    ctx: &Context,
    reader: &mut FrameReader,
    writer: &mut dyn WriteHalf,
) -> Result<Option<Hello>, StreamError> {
    let hello = match reader.greeting(&*ctx.io.clock, HANDSHAKE_TIMEOUT).await? {
        Greeting::Hello(hello) => hello,
        Greeting::Question { .. } => {
            answer(ctx, writer).await?;
            return Ok(None);
        }
        Greeting::Reply(_) | Greeting::Roster(_) => {
            return Err(StreamError::Ended("an answer to what was never asked"));
        }
    };
    let verdict = judge(&ctx.local, &ctx.book(), &hello);
    let reply =
        HelloReply { hello: ctx.local.hello(hello.from, hello.kind), verdict: verdict.clone() };
    if let Verdict::Refuse(refusal) = verdict {
        let message = match refusal {
            Refusal::ClusterIdMismatch { .. } => "request cluster ID mismatch",
            _ => "refused a remote peer",
        };
        let error = match refusal {
            Refusal::ClusterIdMismatch { .. } => "cluster ID mismatch".to_owned(),
            ref other => other.to_string(),
        };
        tracing::warn!(
            "remote-peer-id" = %hello.from,
            "remote-peer-cluster-id" = %hello.cluster,
            "local-member-id" = %ctx.local.node,
            "local-member-cluster-id" = %ctx.local.cluster,
            error,
            "{message}"
        );
        (ctx.sink)(PeerEvent::Refused {
            peer: hello.from,
            remote_cluster: hello.cluster,
            by: RefusedBy::Us,
            refusal,
        });
        writer.write_all(greeting_bytes(&Greeting::Reply(reply))).await?;
        writer.shutdown().await?;
        return Ok(None);
    }
    ctx.book().pin(hello.from, hello.incarnation);
    write(writer, greeting_bytes(&Greeting::Reply(reply)), &*ctx.io.clock, HANDSHAKE_TIMEOUT)
        .await?;
    Ok(Some(hello))
}

/// Tells a stranger who is in the cluster.
async fn answer(ctx: &Context, writer: &mut dyn WriteHalf) -> Result<(), StreamError> {
    let roster = Roster {
        protocol_version: PROTOCOL_VERSION,
        server_version: ctx.local.server_version.clone(),
        cluster: ctx.local.cluster,
        members: ctx.book().roster().to_vec(),
    };
    let bytes = greeting_bytes(&Greeting::Roster(roster));
    if bytes.len() > limits::PEER_ROSTER_BYTES_MAX {
        return Err(StreamError::Ended("the membership is too large to be told"));
    }
    write(writer, bytes, &*ctx.io.clock, HANDSHAKE_TIMEOUT).await?;
    Ok(writer.shutdown().await?)
}

async fn read(
    inner: &Inner,
    hello: &Hello,
    reader: &mut FrameReader,
    writer: &mut dyn WriteHalf,
) -> StreamError {
    let ctx = &inner.ctx;
    let silence = silence_max(hello.kind);
    loop {
        let payload = match reader.next(limits::FRAME_BYTES_MAX, &*ctx.io.clock, silence).await {
            Ok(payload) => payload,
            Err(error) => return error,
        };
        // Looked up each time: the peer may have been set after the stream was accepted.
        if let Some(peer) = inner.peer(hello.from) {
            let len = (payload.len() + FRAME_HEADER_BYTES) as u64;
            peer.counters.received_bytes.fetch_add(len, Relaxed);
        }
        match decode_peer_frame(&payload) {
            Err(error) => return error.into(),
            Ok(PeerFrame::Ping(at)) => {
                if let Err(error) = pong(ctx, hello.kind, at, writer).await {
                    return error;
                }
            }
            Ok(PeerFrame::Pong(_)) => return StreamError::Ended("a pong without a ping"),
            Ok(frame) => {
                if !is_genuine(&frame, hello.from, ctx.local.node) {
                    return StreamError::Forged;
                }
                (ctx.sink)(PeerEvent::Frame { from: hello.from, frame });
            }
        }
    }
}

/// A member speaks for itself, and only to this one.
fn is_genuine(frame: &PeerFrame, from: NodeId, local: NodeId) -> bool {
    match frame {
        PeerFrame::Raft(messages) => messages.iter().all(|m| m.from == from && m.to == local),
        PeerFrame::Node(_) | PeerFrame::Ping(_) | PeerFrame::Pong(_) => true,
    }
}
