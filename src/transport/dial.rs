//! The outgoing stream to one peer: dial, greet, write until it breaks, wait, dial again.

use super::frame::{Greeting, PeerFrame, decode_peer_frame};
use super::handshake::{Refusal, StreamKind, Verdict, judge_reply};
use super::outbox::{Outbox, encode_items};
use super::peers::{Context, Peer, PeerEvent, RefusedBy};
use super::wire::{FrameReader, StreamError, greeting_bytes, put_peer_frame, write};
use crate::io::{Mono, WriteHalf, biased_select, until};
use crate::types::limits;
use crate::types::prng::Prng;
use bytes::BytesMut;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// A packet to a host that is off may never be answered.
pub const DIAL_TIMEOUT: Duration = Duration::from_secs(2);
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// A stream that lived shorter has not proved anything: the back-off goes on where it was.
const PROVEN_AFTER: Duration = Duration::from_secs(1);
const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(2);
pub const PING_EVERY: Duration = Duration::from_secs(1);
/// A bulk stream without bulk is closed.
const BULK_IDLE: Duration = Duration::from_secs(30);

/// How long a stream may be silent before it counts as dead. Bulk may sit in the buffers of a
/// slow link for long.
pub fn silence_max(kind: StreamKind) -> Duration {
    match kind {
        StreamKind::Messages => Duration::from_secs(5),
        StreamKind::Bulk => Duration::from_secs(30),
    }
}

/// Waiting times between attempts: doubling, and never in step with other members.
struct Backoff {
    next: Duration,
    prng: Prng,
}

impl Backoff {
    fn reset(&mut self) {
        self.next = BACKOFF_MIN;
    }

    /// Between half and all of the present step.
    fn step(&mut self) -> Duration {
        let nanos = u64::try_from(self.next.as_nanos()).expect("back-off is seconds at most");
        self.next = (self.next * 2).min(BACKOFF_MAX);
        Duration::from_nanos(self.prng.between(nanos / 2, nanos))
    }
}

enum DialError {
    Stream(StreamError),
    Refused,
}

struct Stream {
    reader: FrameReader,
    writer: Box<dyn WriteHalf>,
}

/// Keeps the stream of one kind to one peer up. Never returns; aborted with the peer.
pub async fn run(ctx: Arc<Context>, peer: Arc<Peer>, kind: StreamKind) {
    let lane = peer.lane(kind);
    let mut backoff = Backoff { next: BACKOFF_MIN, prng: Prng::new(ctx.io.entropy.u64()) };
    let mut attempt = 0;
    loop {
        lane.outbox.open();
        if kind == StreamKind::Bulk {
            while lane.outbox.is_empty() {
                lane.outbox.wake.notified().await;
            }
        }
        let addrs = peer.addrs();
        let Some(addr) = addrs.get(attempt % addrs.len().max(1)) else {
            lane.outbox.close();
            report_lost(&ctx, &peer, kind);
            lane.changed.notified().await;
            continue;
        };
        attempt += 1;
        let connected = biased_select! {
            connected = connect(&ctx, &peer, kind, addr) => connected,
            () = lane.changed.notified() => {
                backoff.reset();
                continue;
            },
        };
        match connected {
            Ok(stream) => {
                let since = ctx.io.clock.now();
                let why = converse(&ctx, &peer, kind, stream).await;
                tracing::info!(
                    "remote-peer-id" = %peer.id,
                    ?kind,
                    error = %why,
                    "lost TCP streaming connection with remote peer"
                );
                if ctx.io.clock.now().since(since) >= PROVEN_AFTER {
                    backoff.reset();
                }
                // The address that worked is the first to try again.
                attempt -= 1;
            }
            Err(DialError::Refused) => {}
            Err(DialError::Stream(error)) => {
                tracing::debug!("remote-peer-id" = %peer.id, addr, %error, "could not reach a peer");
            }
        }
        peer.counters.send_failures.fetch_add(lane.outbox.close(), Relaxed);
        report_lost(&ctx, &peer, kind);
        if kind == StreamKind::Messages {
            (ctx.sink)(PeerEvent::Unreachable { peer: peer.id });
        }
        let until = ctx.io.clock.now() + backoff.step();
        if wait(&ctx, &peer, kind, until).await {
            backoff.reset();
        }
    }
}

/// Waits for the next attempt; meanwhile tells the owner of what is dropped. True when the
/// address has changed or the peer has shown that it is alive.
async fn wait(ctx: &Context, peer: &Peer, kind: StreamKind, at: Mono) -> bool {
    let lane = peer.lane(kind);
    loop {
        biased_select! {
            () = lane.changed.notified() => return true,
            () = lane.hurry.notified() => return true,
            () = ctx.io.clock.sleep_until(at) => return false,
            () = lane.outbox.wake.notified() => report_lost(ctx, peer, kind),
        }
    }
}

/// One event for everything dropped since the last one.
fn report_lost(ctx: &Context, peer: &Peer, kind: StreamKind) {
    if peer.lane(kind).outbox.take_lost() {
        (ctx.sink)(match kind {
            StreamKind::Messages => PeerEvent::Unreachable { peer: peer.id },
            StreamKind::Bulk => PeerEvent::BulkLost { peer: peer.id },
        });
    }
}

async fn connect(
    ctx: &Context,
    peer: &Peer,
    kind: StreamKind,
    addr: &str,
) -> Result<Stream, DialError> {
    let clock = &*ctx.io.clock;
    let dialed = until(clock, clock.now() + DIAL_TIMEOUT, ctx.io.net.dial(addr.to_owned())).await;
    let connection = match dialed {
        None => return Err(DialError::Stream(StreamError::Silent)),
        Some(Err(error)) => return Err(DialError::Stream(error.into())),
        Some(Ok(connection)) => connection,
    };
    let mut stream =
        Stream { reader: FrameReader::new(connection.reader), writer: connection.writer };
    let deadline = clock.now() + HANDSHAKE_TIMEOUT;
    match until(clock, deadline, greet(ctx, peer, kind, &mut stream)).await {
        None => Err(DialError::Stream(StreamError::Silent)),
        Some(Err(error)) => Err(error),
        Some(Ok(())) => Ok(stream),
    }
}

/// The dialer's half of the handshake.
async fn greet(
    ctx: &Context,
    peer: &Peer,
    kind: StreamKind,
    stream: &mut Stream,
) -> Result<(), DialError> {
    let hello = Greeting::Hello(ctx.local.hello(peer.id, kind));
    let sent = stream.writer.write_all(greeting_bytes(&hello)).await;
    sent.map_err(|error| DialError::Stream(error.into()))?;
    let reply = stream.reader.greeting(&*ctx.io.clock, HANDSHAKE_TIMEOUT).await;
    let Greeting::Reply(reply) = reply.map_err(DialError::Stream)? else {
        return Err(DialError::Stream(StreamError::Ended("greeted with another hello")));
    };
    let verdict = judge_reply(&ctx.local, &ctx.book(), peer.id, &reply);
    let (by, refusal) = match (verdict, reply.verdict) {
        (Verdict::Refuse(refusal), _) => (RefusedBy::Us, refusal),
        (Verdict::Accept, Verdict::Refuse(refusal)) => (RefusedBy::Peer, refusal),
        (Verdict::Accept, Verdict::Accept) => {
            ctx.book().pin(peer.id, reply.hello.incarnation);
            return Ok(());
        }
    };
    let message = match refusal {
        Refusal::ClusterIdMismatch { .. } => {
            "request sent was ignored by remote peer due to cluster ID mismatch"
        }
        _ if by == RefusedBy::Us => "refused a remote peer",
        _ => "request sent was ignored by remote peer",
    };
    let error = match refusal {
        Refusal::ClusterIdMismatch { .. } => "cluster ID mismatch".to_owned(),
        ref other => other.to_string(),
    };
    tracing::warn!(
        "remote-peer-id" = %peer.id,
        "remote-peer-cluster-id" = %reply.hello.cluster,
        "local-member-id" = %ctx.local.node,
        "local-member-cluster-id" = %ctx.local.cluster,
        error,
        "{message}"
    );
    (ctx.sink)(PeerEvent::Refused {
        peer: peer.id,
        remote_cluster: reply.hello.cluster,
        by,
        refusal,
    });
    Err(DialError::Refused)
}

/// Writes what is queued and listens for pongs, until something breaks.
async fn converse(ctx: &Context, peer: &Peer, kind: StreamKind, mut stream: Stream) -> StreamError {
    let lane = peer.lane(kind);
    if kind == StreamKind::Messages {
        tracing::info!(
            "local-member-id" = %ctx.local.node,
            "remote-peer-id" = %peer.id,
            "established TCP streaming connection with remote peer"
        );
        peer.up.store(true, Relaxed);
        (ctx.sink)(PeerEvent::Up { peer: peer.id });
    }
    let why = biased_select! {
        why = listen(ctx, peer, kind, &mut stream.reader) => why,
        why = speak(ctx, peer, kind, &mut *stream.writer) => why,
        () = lane.changed.notified() => StreamError::Ended("the peer's address has changed"),
    };
    if kind == StreamKind::Messages {
        peer.up.store(false, Relaxed);
        (ctx.sink)(PeerEvent::Down { peer: peer.id });
    }
    why
}

async fn listen(
    ctx: &Context,
    peer: &Peer,
    kind: StreamKind,
    reader: &mut FrameReader,
) -> StreamError {
    let clock = &*ctx.io.clock;
    loop {
        // Only pongs come back on a stream that was dialed.
        let payload = reader.next(limits::PEER_HELLO_BYTES_MAX, clock, silence_max(kind)).await;
        match payload.and_then(|payload| Ok(decode_peer_frame(&payload)?)) {
            Ok(PeerFrame::Pong(at)) if kind == StreamKind::Messages => {
                let rtt = clock.now().since(Mono(at));
                peer.rtt_nanos.store(u64::try_from(rtt.as_nanos()).unwrap_or(u64::MAX), Relaxed);
                (ctx.sink)(PeerEvent::RoundTrip { peer: peer.id, took: rtt });
            }
            Ok(PeerFrame::Pong(_)) => {}
            Ok(_) => return StreamError::Ended("a frame on the way back that is no pong"),
            Err(error) => return error,
        }
    }
}

async fn speak(
    ctx: &Context,
    peer: &Peer,
    kind: StreamKind,
    writer: &mut dyn WriteHalf,
) -> StreamError {
    let clock = &*ctx.io.clock;
    let outbox: &Outbox = &peer.lane(kind).outbox;
    let (mut items, mut buf) = (Vec::new(), BytesMut::new());
    let mut next_ping = clock.now();
    let mut last_used = next_ping;
    loop {
        report_lost(ctx, peer, kind);
        outbox.take(limits::PEER_WRITE_BYTES, &mut items);
        let now = clock.now();
        if !items.is_empty() {
            last_used = now;
            let too_large = encode_items(&mut items, &mut buf);
            if too_large > 0 {
                tracing::error!("remote-peer-id" = %peer.id, "a message that fits no frame");
                peer.counters.send_failures.fetch_add(too_large, Relaxed);
            }
        } else if kind == StreamKind::Bulk && now.since(last_used) >= BULK_IDLE {
            return StreamError::Ended("no bulk to send");
        }
        if now >= next_ping {
            put_peer_frame(&PeerFrame::Ping(now.0), &mut buf);
            next_ping = now + PING_EVERY;
        }
        if buf.is_empty() {
            biased_select! {
                () = outbox.wake.notified() => {},
                () = clock.sleep_until(next_ping) => {},
            }
            continue;
        }
        let bytes = buf.split().freeze();
        let len = bytes.len() as u64;
        // No deadline: a peer that takes nothing answers no ping, and `listen` gives up.
        if let Err(error) = writer.write_all(bytes).await {
            return error.into();
        }
        peer.counters.sent_bytes.fetch_add(len, Relaxed);
    }
}

/// For a pong on the other end's stream.
pub async fn pong(
    ctx: &Context,
    kind: StreamKind,
    at: u64,
    writer: &mut dyn WriteHalf,
) -> Result<(), StreamError> {
    let mut out = BytesMut::new();
    put_peer_frame(&PeerFrame::Pong(at), &mut out);
    write(writer, out.freeze(), &*ctx.io.clock, silence_max(kind)).await
}
