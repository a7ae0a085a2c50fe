//! Tier 2: whole servers. Everything of a member but the sockets: the async shell, the peers'
//! streams with their handshake, dialing and framing, and the gRPC services, on madsim's executor
//! and virtual time, with a network, a disk, a clock and randomness of our own.
//!
//! What tier 1 shows of consensus and storage is not shown again. This tier is for what lies
//! around the synchronous core: what is lost, doubled or forgotten between tasks, streams and
//! services. The checkers are tier 1's where they can be: the log is seen through what members are
//! about to apply, and every answer is compared with the reference model.
//!
//! Read first: `world` (machines and processes), `net`, `process`, then `judge`, `chaos`.

mod chaos;
mod clients;
mod clock;
mod disk;
mod finale;
mod judge;
mod log;
mod net;
mod plan;
mod process;
mod race;
mod rpc;
mod story;
mod stranger;
mod watch;
mod world;

pub use plan::plan;

use crate::plan::{MS, SECOND};
use crate::rules::is_spoilt;
use crate::run::{Job, Outcome};
use crate::safety::broken;
use clock::Wheel;
use log::{Heard, Log};
use race::{First, race};
use std::sync::Arc;
use story::{Story, lock};
use watch::Watcher;
use world::{Role, World};

const WATCHERS: usize = 3;
/// No seed plays for so long, whatever its bounds add up to.
const PLAY_US: u64 = 600 * SECOND;

/// Negative controls of what only whole servers can break.
pub fn self_check() {
    watch::self_check();
    chaos::self_check();
    stranger::self_check();
}

/// Plays one seed. Inside a madsim runtime, on a thread of its own.
pub async fn play(job: Job) -> Outcome {
    let wheel = Wheel::new();
    let story = Story::new(wheel.clone(), job.verbose);
    let heard = Arc::new(Heard::default());
    let log = Log { story: story.clone(), heard: heard.clone() };
    let _listening = tracing::subscriber::set_default(log);
    let world = World::new(plan(&job.seed), story.clone(), heard);
    let play_us = if is_spoilt("hang") { MS } else { PLAY_US };
    if let First::B(()) = race(acts(&world), wheel.sleep_us(play_us)).await {
        story.check(broken!("hang", "the seed does not come to its end".to_owned()));
    }
    for host in world.hosts() {
        world.kill(host, false);
    }
    let (trace, events) = story.trace_hash();
    let acked = lock(&world.judge).history.acked();
    Outcome {
        trace,
        events,
        virtual_us: story.now_us(),
        acked,
        elections: world.elections(),
        restarts: world.restarts(),
        snapshots: world.heard.installs(),
        faults: story.counters(),
        violation: story.take_violation(),
        lines: story.take_lines(),
        ..Outcome::default()
    }
}

async fn acts(world: &Arc<World>) {
    for host in world.hosts() {
        world.start(host, Role::Member);
    }
    let clients = (1..=world.plan.clients as u64)
        .map(|id| madsim::task::spawn(clients::run(world.clone(), id)))
        .collect();
    let watchers: Vec<Arc<Watcher>> =
        (0..WATCHERS).map(|number| Watcher::new(&world.plan, number)).collect();
    for (number, watcher) in watchers.iter().enumerate() {
        madsim::task::spawn(watcher.clone().run(world.clone(), number));
    }
    chaos::run(world.clone()).await;
    if world.story.is_broken() {
        return;
    }
    let finale = finale::Finale::new(world.clone(), watchers, clients);
    let checked = finale.play().await;
    world.story.check(checked);
}
