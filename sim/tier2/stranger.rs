//! Somebody who is no member at a member's peer address: rubbish, silence, and other versions of
//! the protocol. The member says so or hangs up, takes nothing from it, and goes on.

use super::net::{SimNet, address};
use super::process::{Costs, Life};
use super::race::{First, race};
use super::world::World;
use crate::faults::Fault;
use crate::plan::SECOND;
use crate::rules::control::control;
use crate::safety::{Checked, ensure};
use bytes::{Bytes, BytesMut};
use madsim::runtime::Handle;
use quorate::codec::frame::put_frame;
use quorate::io::{Connection, Net};
use quorate::transport::frame::{Greeting, encode_greeting};
use quorate::transport::handshake::PROTOCOL_VERSION;
use quorate::transport::{Hello, StreamKind};
use quorate::types::prng::Prng;
use quorate::types::{ClusterId, Incarnation, NodeId};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// What there is to say.
pub const KINDS: u64 = 8;
/// Who has not introduced itself by then is sent away; the time a handshake may take, and as much.
const PATIENCE_US: u64 = 10 * SECOND;

/// What a stranger says first.
fn words(kind: u64, rng: &mut Prng) -> Bytes {
    let cluster = ClusterId(rng.next_u64());
    let hello = |protocol_version| {
        Greeting::Hello(Hello {
            protocol_version,
            cluster,
            from: NodeId(7),
            to: NodeId(8),
            incarnation: Incarnation(9),
            kind: StreamKind::Messages,
            server_version: "0.0.0".to_owned(),
            peer_urls: Vec::new(),
        })
    };
    let mut payload = BytesMut::new();
    let mut out = BytesMut::new();
    match kind {
        // Nothing at all.
        0 => {}
        1 => {
            let len = rng.between(1, 4096);
            out.extend((0..len).map(|_| rng.next_u64() as u8));
        }
        // Room for four gigabytes is wanted.
        2 => out.extend_from_slice(&[0xff; 64]),
        // A frame that never ends.
        3 => {
            out.extend_from_slice(&[0x40, 0, 0, 0, 1, 2, 3, 4]);
            out.extend_from_slice(&[0x51; 20]);
        }
        // A kind of greeting that nobody knows.
        4 => put_frame(&mut out, &[0x7f, 1, 2, 3]),
        5 => {
            encode_greeting(&hello(0), &mut payload);
            put_frame(&mut out, &payload);
        }
        6 => {
            encode_greeting(&hello(PROTOCOL_VERSION + 1), &mut payload);
            // Whatever a later version has more to say.
            payload.extend_from_slice(&[0x99; 30]);
            put_frame(&mut out, &payload);
        }
        // A hello that ends too early.
        _ => {
            encode_greeting(&hello(PROTOCOL_VERSION), &mut payload);
            payload.truncate(1 + rng.below(payload.len() as u64 - 1) as usize);
            put_frame(&mut out, &payload);
        }
    }
    out.freeze()
}

/// Speaks to the member at `to` from the machine `from`, and listens until it is sent away. False
/// when the member still keeps the line after its time.
pub async fn call(world: &Arc<World>, from: usize, to: usize, kind: u64, word: u64) -> bool {
    let number = world.lives.fetch_add(1, Ordering::Relaxed) + 1;
    let node = Handle::current().create_node().name(format!("stranger-{number}")).build();
    let costs = Costs { write_us: 0, sync_us: 0 };
    let life = Life::new(number, from, costs, world.story.clone(), node, Box::new(|| ()));
    let net = SimNet::new(world.fabric.clone(), life.clone());
    world.story.fired(Fault::Stranger);
    world.story.event(0xf1, kind, &[from as u8, to as u8]);
    world.story.note(|| format!("a stranger at {from} calls {to}, kind {kind}"));
    let mut rng = Prng::stream(word, "stranger");
    let until = world.sleep_us(PATIENCE_US);
    let ends = async {
        let Ok(Connection { mut reader, mut writer, .. }) = net.dial(address(to)).await else {
            return;
        };
        let said = words(kind, &mut rng);
        if !said.is_empty() && writer.write_all(said).await.is_err() {
            return;
        }
        let mut heard = BytesMut::new();
        // A refusal first, perhaps, and then the end.
        while matches!(reader.read(&mut heard).await, Ok(read) if read > 0) {}
    };
    let sent_away = matches!(race(ends, until).await, First::A(()));
    if sent_away {
        world.story.mattered(Fault::Stranger);
    }
    sent_away
}

/// In the calm each is sent away in its time.
pub async fn all_in_the_calm(world: &Arc<World>) -> Checked {
    let members = world.plan.members as u64;
    for kind in 0..KINDS {
        let word = world.plan.seed.wrapping_add(kind);
        let to = (word % members) as usize;
        let from = (to + 1) % members as usize;
        let sent_away = call(world, from, to, kind, word).await;
        if world.story.is_broken() {
            return Ok(());
        }
        told_to_go(to, kind, sent_away)?;
    }
    Ok(())
}

fn told_to_go(to: usize, kind: u64, sent_away: bool) -> Checked {
    ensure!(
        sent_away,
        "stranger-stays",
        "machine {to} still listens to a stranger of kind {kind} after {PATIENCE_US} us"
    );
    Ok(())
}

/// Negative control.
pub fn self_check() {
    control("stranger-stays", |spoilt| told_to_go(0, 1, !spoilt));
}
