//! The nemesis of whole servers: what it does, when, and when it may not.
//!
//! Acts that put a promise of identity to the test (a wiped disk, a foreign cluster at an address,
//! another cluster's data directory) take the member's place for a while; then the right one comes
//! back, and must be taken back.

use super::plan::{FAULTS, STANDING};
use super::rpc::Line;
use super::stranger;
use super::world::{Role, World, member_ids};
use crate::faults::Fault;
use crate::plan::{MS, SECOND};
use crate::rules::control::control;
use crate::safety::{Checked, ensure, rule};
use quorate::api::proto::etcdserverpb as pb;
use quorate::api::proto::etcdserverpb::maintenance_client::MaintenanceClient;
use quorate::io::MemDisk;
use quorate::io::mem_disk::{Fault as DiskFault, FaultKind, FaultOp};
use quorate::types::GroupId;
use std::sync::{Arc, Mutex};

/// How long a member that has to stop by itself may take.
const STOP_US: u64 = 20 * SECOND;
/// Between two looks at whether something has happened.
const LOOK_US: u64 = 20 * MS;

/// Plays the chaos to its end.
pub async fn run(world: Arc<World>) {
    let plan = world.plan.clone();
    let mut rng = plan.stream("nemesis-servers");
    let choices: Vec<Fault> = FAULTS
        .iter()
        .copied()
        .filter(|fault| plan.on(*fault) && !STANDING.contains(fault))
        .collect();
    let end = world.story.now_us() + plan.chaos_us;
    while world.story.now_us() < end && !world.story.is_broken() {
        world.sleep_us(rng.between(plan.fault_gap_us / 4, plan.fault_gap_us * 2)).await;
        let heal = rng.chance(1, 4);
        let draw = Draw {
            what: rng.next_u64(),
            host: rng.below(plan.members as u64) as usize,
            other: 1 + rng.below(plan.members as u64 - 1) as usize,
            number: rng.next_u64(),
            for_us: rng.between(plan.tick_us, plan.election_us() * 4),
        };
        if heal {
            world.story.note(|| "the links heal".to_owned());
            for from in world.hosts() {
                for to in world.hosts() {
                    world.fabric.mend(from, to);
                    world.fabric.set_slow(from, to, false);
                }
            }
        } else if !choices.is_empty() {
            let fault = choices[(draw.what % choices.len() as u64) as usize];
            act(&world, fault, draw);
        }
    }
    // What has a machine in hand brings it back by itself.
    while world.hosts().any(|host| world.with(host, |m| m.busy)) && !world.story.is_broken() {
        world.sleep_us(LOOK_US).await;
    }
}

#[derive(Clone, Copy)]
struct Draw {
    what: u64,
    host: usize,
    /// Distance to another machine.
    other: usize,
    number: u64,
    for_us: u64,
}

fn act(world: &Arc<World>, fault: Fault, draw: Draw) {
    let members = world.plan.members;
    let (host, other) = (draw.host, (draw.host + draw.other) % members);
    world.story.event(0xf0, fault as u64, &draw.number.to_le_bytes());
    world.story.note(|| format!("act {} on {host} ({other})", fault.name()));
    match fault {
        Fault::Partition => {
            let side = 1 + draw.number % ((1 << members) - 2);
            separate(world, fault, |host| side >> host & 1 == 1);
        }
        Fault::IsolateLeader => {
            if let Some(leader) = world.leader() {
                separate(world, fault, |host| host == leader);
            }
        }
        Fault::OneWay => {
            world.story.fired(fault);
            world.fabric.cut(host, other, fault);
        }
        Fault::SlowLink => {
            world.story.fired(fault);
            world.fabric.set_slow(host, other, true);
        }
        Fault::Reset | Fault::HalfOpen => {
            let done = if fault == Fault::Reset {
                world.fabric.reset(draw.number)
            } else {
                world.fabric.lose(draw.number)
            };
            if done {
                world.story.fired(fault);
                if fault == Fault::Reset {
                    world.story.mattered(fault);
                }
            }
        }
        Fault::DeafPeer => {
            world.story.fired(fault);
            world.fabric.set_deaf(host, true);
            let world = world.clone();
            madsim::task::spawn(async move {
                world.sleep_us(draw.for_us * 2).await;
                world.fabric.set_deaf(host, false);
            });
        }
        Fault::Garbled => {
            if world.fabric.garble(draw.number) {
                world.story.fired(fault);
            }
        }
        Fault::Stranger => {
            let world = world.clone();
            madsim::task::spawn(async move {
                // Links may be cut and processes stand still: nothing is demanded meanwhile.
                stranger::call(&world, other, host, draw.number % stranger::KINDS, draw.number)
                    .await;
            });
        }
        Fault::Transfer => transfer(world, host),
        _ => in_hand(world, fault, draw),
    }
}

fn separate(world: &World, fault: Fault, side: impl Fn(usize) -> bool) {
    world.story.fired(fault);
    for from in world.hosts() {
        for to in world.hosts() {
            if side(from) != side(to) {
                world.fabric.cut(from, to, fault);
            }
        }
    }
}

fn transfer(world: &Arc<World>, to: usize) {
    let (Some(leader), Some(ids)) = (world.leader(), member_ids(world)) else { return };
    world.story.fired(Fault::Transfer);
    let world = world.clone();
    madsim::task::spawn(async move {
        let delays = world.plan.stream("transfer-line");
        let line = Line::new(world.clone(), leader, Arc::new(Mutex::new(delays)));
        let request = pb::MoveLeaderRequest { target_id: ids[to].0 };
        let told = MaintenanceClient::new(line).move_leader(request).await;
        world.story.note(|| format!("{leader} is asked to let {to} lead: {told:?}"));
        if told.is_ok() && leader != to {
            world.story.mattered(Fault::Transfer);
        }
    });
}

/// Acts that take a machine in hand until it runs the right member again.
fn in_hand(world: &Arc<World>, fault: Fault, draw: Draw) {
    let host = draw.host;
    if !world.is_member_up(host) || world.with(host, |machine| machine.busy) {
        return;
    }
    let impostor = matches!(fault, Fault::Wipe | Fault::ForeignPeer | Fault::OtherClusterDir);
    if impostor && !is_bound_everywhere(world, host) {
        return;
    }
    world.story.fired(fault);
    world.with(host, |machine| machine.busy = true);
    let world = world.clone();
    madsim::task::spawn(async move {
        match fault {
            Fault::Crash => crash(&world, draw).await,
            Fault::CrashInWrite => crash_in_write(&world, draw).await,
            Fault::Pause => pause(&world, draw).await,
            Fault::Stop => stop(&world, draw).await,
            Fault::SlowDisk => slow_disk(&world, draw).await,
            Fault::DiskError => disk_error(&world, draw).await,
            Fault::Wipe => wipe(&world, draw).await,
            Fault::ForeignPeer => {
                meet_foreign(&world, host, draw.for_us + SECOND).await;
                down_then_up(&world, host, draw.for_us / 4).await;
            }
            Fault::OtherClusterDir => foreign_data(&world, draw).await,
            other => unreachable!("{other:?} takes no machine in hand"),
        }
        world.with(host, |machine| machine.busy = false);
    });
}

/// Whether every other member runs and knows the data directory of this one. Otherwise nobody
/// could tell an impostor (SIMULATION.md, "Known gaps").
fn is_bound_everywhere(world: &World, host: usize) -> bool {
    let name = format!("m{host}");
    world.hosts().filter(|other| *other != host).all(|other| {
        world.node(other).is_some_and(|node| {
            node.members().iter().any(|m| m.name == name && m.incarnation.is_some())
        })
    })
}

async fn down_then_up(world: &Arc<World>, host: usize, for_us: u64) {
    world.sleep_us(for_us).await;
    if !world.story.is_broken() {
        world.start(host, Role::Member);
    }
}

async fn crash(world: &Arc<World>, draw: Draw) {
    world.kill(draw.host, draw.number.is_multiple_of(2));
    world.story.mattered(Fault::Crash);
    down_then_up(world, draw.host, draw.for_us).await;
}

async fn crash_in_write(world: &Arc<World>, draw: Draw) {
    let host = draw.host;
    let disk = world.with(host, |machine| machine.disk.clone());
    disk.set_crash_after(1 + draw.number % 60);
    let until = world.story.now_us() + 4 * SECOND;
    while world.with(host, |m| m.process.is_some()) && world.story.now_us() < until {
        world.sleep_us(LOOK_US).await;
    }
    disk.clear_crash_after();
    if world.with(host, |m| m.process.is_none()) {
        down_then_up(world, host, draw.for_us).await;
    }
}

async fn pause(world: &Arc<World>, draw: Draw) {
    let life = world.with(draw.host, |m| m.process.as_ref().map(|p| p.life.clone()));
    let Some(life) = life else { return };
    life.pause();
    world.sleep_us(draw.for_us).await;
    life.resume();
    world.story.mattered(Fault::Pause);
}

/// SIGTERM: the member ends in order, within the time it is given.
async fn stop(world: &Arc<World>, draw: Draw) {
    let host = draw.host;
    let running = world.with(host, |machine| {
        machine.stopping = true;
        machine.process.as_ref().and_then(|p| p.running.clone())
    });
    let Some(running) = running else { return };
    running.stop();
    if !is_gone(world, host).await {
        world
            .violated(rule!("stop-hangs"), format!("machine {host} was asked to stop and did not"));
        return;
    }
    world.story.mattered(Fault::Stop);
    down_then_up(world, host, draw.for_us).await;
}

/// Whether the process ends by itself in time.
async fn is_gone(world: &Arc<World>, host: usize) -> bool {
    let until = world.story.now_us() + STOP_US;
    while world.with(host, |m| m.process.is_some()) {
        if world.story.now_us() > until || world.story.is_broken() {
            return false;
        }
        world.sleep_us(LOOK_US).await;
    }
    true
}

async fn slow_disk(world: &Arc<World>, draw: Draw) {
    let life = world.with(draw.host, |m| m.process.as_ref().map(|p| p.life.clone()));
    let Some(life) = life else { return };
    life.slow_disk.store(true, std::sync::atomic::Ordering::Relaxed);
    world.sleep_us(draw.for_us * 2).await;
    life.slow_disk.store(false, std::sync::atomic::Ordering::Relaxed);
    world.story.mattered(Fault::SlowDisk);
}

/// One write or sync fails: the member has to stop, and to say why.
async fn disk_error(world: &Arc<World>, draw: Draw) {
    let host = draw.host;
    let disk = world.with(host, |machine| {
        machine.sabotaged = Some(Fault::DiskError);
        machine.disk.clone()
    });
    let op = [FaultOp::Write, FaultOp::Sync][(draw.number % 2) as usize];
    disk.inject(DiskFault::nth(op, FaultKind::Io, 1 + draw.number / 2 % 10));
    if is_gone(world, host).await {
        let end = world.with(host, |machine| machine.end.clone());
        world.story.check(says_why(host, end.as_ref().map(|(_, text)| text.as_str())));
        down_then_up(world, host, draw.for_us).await;
    }
    disk.clear_faults();
    world.with(host, |machine| machine.sabotaged = None);
}

/// Who is failed by its disk names the error.
fn says_why(host: usize, end: Option<&str>) -> Checked {
    ensure!(
        end.is_some_and(|text| text.contains("Input/output error")),
        "silent-stop",
        "machine {host} ended with {end:?}"
    );
    Ok(())
}

/// Negative control.
pub fn self_check() {
    control("silent-stop", |spoilt| {
        says_why(0, Some(if spoilt { "Asked" } else { "sync of a file: Input/output error" }))
    });
}

/// Whether the process there hears a leader. An impostor has nobody of its own to lead it: somebody
/// of the cluster has spoken to it.
fn has_leader(world: &World, host: usize) -> bool {
    let led = world.with(host, |machine| {
        let running = machine.process.as_ref()?.running.clone()?;
        Some(running.handle.has_leader(GroupId::ROOT))
    });
    led == Some(true)
}

/// The disk is replaced by an empty one: the member must be refused and stop, and nobody may tell it
/// anything meanwhile: it accepts whoever dials it, so its peers must see what it is. Then the disk
/// comes back.
async fn wipe(world: &Arc<World>, draw: Draw) {
    let host = draw.host;
    world.kill(host, true);
    let empty = MemDisk::new(draw.number);
    let own = world.with(host, |machine| std::mem::replace(&mut machine.disk, empty));
    world.sleep_us(draw.for_us / 4).await;
    world.start(host, Role::Wiped);
    let mut told_apart = true;
    // Links may be down; it is the healing that must bring the refusal.
    let until = world.story.now_us() + 2 * draw.for_us;
    while world.with(host, |m| m.process.is_some()) && world.story.now_us() < until {
        // A peer that has just started again may not have come to the binding in its log yet.
        told_apart &= is_bound_everywhere(world, host);
        if told_apart && has_leader(world, host) {
            world.violated(
                rule!("wiped-heard"),
                format!("machine {host} was wiped and follows a leader"),
            );
        }
        world.sleep_us(LOOK_US).await;
    }
    if world.with(host, |m| m.process.is_none()) {
        world.story.mattered(Fault::Wipe);
    }
    world.kill(host, true);
    world.with(host, |machine| machine.disk = own);
    down_then_up(world, host, draw.for_us / 4).await;
}

/// A member of another cluster answers at the address and dials the others.
/// Whether both sides have said that they refuse the other.
pub async fn meet_foreign(world: &Arc<World>, host: usize, for_us: u64) -> bool {
    let heard = &world.heard;
    world.kill(host, false);
    let empty = MemDisk::new(world.plan.seed);
    let own = world.with(host, |machine| std::mem::replace(&mut machine.disk, empty));
    let (by_it, by_us) = (heard.refused_by(host), heard.refused_but(host));
    world.start(host, Role::Foreign);
    world.sleep_us(for_us).await;
    if has_leader(world, host) {
        world.violated(
            rule!("foreign-heard"),
            format!("machine {host}: the other cluster has a leader"),
        );
    }
    let both = heard.refused_by(host) > by_it && heard.refused_but(host) > by_us;
    if both {
        world.story.mattered(Fault::ForeignPeer);
    }
    world.kill(host, false);
    world.with(host, |machine| machine.disk = own);
    both
}

/// The member is started on another cluster's data directory: it must say so and not run.
async fn foreign_data(world: &Arc<World>, draw: Draw) {
    let host = draw.host;
    world.kill(host, false);
    let own = world.with(host, |m| std::mem::replace(&mut m.disk, MemDisk::new(draw.number)));
    // Founds the other cluster's directory; nobody talks to it for long.
    world.start(host, Role::Foreign);
    world.sleep_us(100 * MS).await;
    world.kill(host, false);
    let founded = world.with(host, |machine| !machine.disk.files().is_empty());
    world.start(host, Role::Misplaced);
    if founded && is_gone(world, host).await {
        world.story.mattered(Fault::OtherClusterDir);
    } else if founded && !world.story.is_broken() {
        world.violated(
            rule!("foreign-heard"),
            format!("machine {host} runs on another cluster's data"),
        );
    }
    world.kill(host, false);
    world.with(host, |machine| machine.disk = own);
    down_then_up(world, host, draw.for_us / 4).await;
}
