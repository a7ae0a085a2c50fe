//! Negative controls of rules that look at whole members: a small calm world, in which one thing
//! is not as it should be.
//!
//! Most of it is done to the world by hand. Where an observation is of the product's own making
//! (a refusal, a restored cluster, bytes on their way), the place that makes it asks
//! `rules::is_spoilt`, and changes what was seen, never what is concluded from it.

use super::World;
use crate::faults::{Act, Fault};
use crate::history::{Answer, Call};
use crate::member::STORE;
use crate::plan::{MS, OpKind, Plan, SECOND};
use crate::rules;
use crate::rules::control::control;
use crate::run::{Job, take_panic};
use crate::safety::Checked;
use quorate::io::{Disk, OpenMode};
use quorate::multiraft::NodeMessage;
use quorate::multiraft::turn::ApplyJob;
use quorate::node::{Action, Output, StopReason};
use quorate::types::{
    Command, Entry, GroupId, LeaseId, LogIndex, Message, MessageBody, NodeId, StorageError, Term,
};
use quorate::wal::Record;
use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

const G: GroupId = GroupId::ROOT;
/// A seed whose plan has watchers of the past. Its faults are switched off.
const SEED: u64 = 1;
const PAGE: usize = 4096;

/// Three members that have served a few calls.
fn small() -> World {
    let mut plan = Plan::new(SEED);
    plan.faults.values_mut().for_each(|on| *on = false);
    for kind in [OpKind::Alarm, OpKind::LeaseRevoke] {
        plan.ops.insert(kind, 0);
    }
    (plan.members, plan.groups, plan.quota_bytes, plan.clients) = (3, 1, 0, 3);
    (plan.tick_us, plan.think_us, plan.timeout_us) = (20 * MS, 10 * MS, SECOND);
    (plan.tail_entries, plan.cache_bytes) = (50, 64 << 10);
    (plan.watch.watchers, plan.watch.past, plan.watch.slow_us) = (2, true, 2 * MS);
    (plan.watch.think_us, plan.watch.breaks, plan.watch.nonsense) = (100 * MS, false, false);
    let mut world = World::new(plan, &Job::default());
    world.begin().and_then(|()| world.run_until(2 * SECOND)).expect("nothing disturbs it");
    world.acting = true;
    world
}

fn later(world: &mut World, us: u64) -> Checked {
    world.run_until(world.now_us + us)
}

/// Nobody asks for anything more, and all are even.
fn calm(world: &mut World) -> Checked {
    world.quiet = true;
    later(world, 2 * world.plan.timeout_us)?;
    world.settle()
}

fn leader(world: &World) -> usize {
    world.leader_of(G).expect("nothing disturbs it")
}

/// A member that does not lead.
fn follower(world: &World) -> usize {
    (leader(world) + 1) % 3
}

/// The power fails, and is back at once.
fn reboot(world: &mut World, m: usize) -> Checked {
    world.crash_disk(m);
    world.stop_process(m);
    world.boot(m)
}

fn restart(world: &mut World, m: usize) -> Checked {
    world.go_on(Act::Crash { member: m, down_us: 100 * MS })?;
    later(world, 2 * SECOND)
}

thread_local! {
    static FAILED: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// Each says for itself what is wrong with it.
fn collected(rule: &'static str, feed: impl Fn(bool) -> Checked) {
    if catch_unwind(AssertUnwindSafe(|| control(rule, feed))).is_err() {
        FAILED.with(|failed| failed.borrow_mut().push(format!("[{rule}] {}", take_panic())));
    }
}

/// What is done is done to a world of its own each time.
fn by_hand(rule: &'static str, act: impl Fn(&mut World, bool) -> Checked) {
    collected(rule, |spoilt| act(&mut small(), spoilt));
}

/// The act is the same; what is seen of it is spoilt.
fn seen(rule: &'static str, act: impl Fn(&mut World) -> Checked) {
    collected(rule, |spoilt| {
        let mut world = small();
        if spoilt { rules::spoilt(rule, || act(&mut world)) } else { act(&mut world) }
    });
}

pub fn self_check() {
    let runtime = madsim::runtime::Runtime::with_seed_and_config(1, madsim::Config::default());
    runtime.block_on(async {
        starts();
        files();
        bounds();
        replicas();
        strangers();
        directories();
        restores();
        service();
    });
    let failed = FAILED.take();
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

fn starts() {
    by_hand("boot", |world, spoilt| {
        // Its settings are another cluster's from now on.
        world.slots[0].birth.cluster.0 ^= u64::from(spoilt);
        reboot(world, 0)
    });
    seen("recovered-not-durable", |world| reboot(world, 0));
    by_hand("unwanted-stop", |world, spoilt| {
        world.slots[0].rolling = !spoilt;
        world.stopped(0, StopReason::Asked)
    });
}

/// Whatever lies behind the meta pages of a store is gone.
fn empty_store(world: &World, m: usize) {
    let disk = &world.slots[m].disk;
    let len = disk.contents(STORE).expect("it has one").len();
    disk.overwrite(STORE, 2 * PAGE as u64, &vec![0; len - 2 * PAGE]);
}

fn files() {
    by_hand("older-checkpoint", |world, spoilt| {
        if spoilt {
            empty_store(world, 0);
        }
        // It looks at every so many events.
        for _ in 0..1_000 {
            world.check_older_checkpoint(0)?;
            world.trace.event(world.now_us, 0);
        }
        Ok(())
    });
    by_hand("log-before-store", |world, spoilt| {
        let index = if spoilt { LogIndex(u64::MAX) } else { LogIndex::ZERO };
        world.check_given_up(0, &[Record::Trim { group: G, index, term: Term(1) }])
    });
    by_hand("store-structure", |world, spoilt| {
        // From the disk: a member that has just started holds little in memory.
        reboot(world, 0)?;
        if spoilt {
            empty_store(world, 0);
        }
        world.verify_stores()
    });
    let error = |path: &str| StorageError::corrupt(path, 0, "a page", "nothing");
    by_hand("storage-error", |world, spoilt| {
        world.slots[0].sabotaged = (!spoilt).then_some(Fault::DiskError);
        world.storage_error(0, "a control", &error(STORE))
    });
    by_hand("damage-unnamed", |world, spoilt| {
        world.slots[0].damaged = Some(Fault::BitRot);
        let path = if spoilt { "/elsewhere" } else { STORE };
        world.storage_error(0, "a control", &error(path))
    });
}

fn bounds() {
    by_hand("unbounded", |world, spoilt| {
        calm(world)?;
        let disk = world.slots[0].disk.clone();
        let open = |_| disk.open(Path::new(STORE), OpenMode::Read).expect("it is there");
        let _handles: Vec<_> = (0..if spoilt { 40 } else { 0 }).map(open).collect();
        world.check_log_length(0)
    });
    seen("codec", |world| later(world, 200 * MS));
    by_hand("bad-message", |world, spoilt| {
        let (to, from) = (leader(world), follower(world));
        let index = if spoilt { LogIndex(u64::MAX) } else { LogIndex(1) };
        let term = world.live(to).status(G).expect("it leads").term;
        let (to_node, from) = (world.slots[to].node, &world.slots[from]);
        let body = MessageBody::AppendReply { index, reject: None };
        let message = Message { group: G, from: from.node, to: to_node, term, body };
        let message = NodeMessage::Raft(vec![message]);
        let (from, incarnation) = (from.node, from.incarnation);
        world.act(to, Action::Frame { from, incarnation, message })?;
        later(world, 100 * MS)
    });
    by_hand("strange-address", |world, spoilt| {
        let to = if spoilt { NodeId(9) } else { world.slots[1].node };
        let message = heartbeat(world, 0, 1);
        world.send(0, to, message)
    });
    by_hand("strange-address", |world, spoilt| {
        // In another's name.
        let from = if spoilt { 2 } else { 0 };
        let message = heartbeat(world, from, 1);
        world.send(0, world.slots[1].node, message)
    });
}

/// Of a term long past.
fn heartbeat(world: &World, from: usize, to: usize) -> NodeMessage {
    let body = MessageBody::Heartbeat { commit: LogIndex::ZERO, context: 0 };
    let (from, to) = (world.slots[from].node, world.slots[to].node);
    NodeMessage::Raft(vec![Message { group: G, from, to, term: Term(1), body }])
}

fn replicas() {
    seen("replica-content", |world| {
        calm(world)?;
        world.compare_with_model()
    });
    by_hand("replica-leases", |world, spoilt| {
        calm(world)?;
        let applied = world.safety.committed_index(G);
        let mut leases = world.live(0).leases(G);
        if spoilt {
            leases.push((LeaseId(77), 5, vec![]));
        }
        world.leases_as_committed(0, G, &Answer::Leases { leases, applied })
    });
    by_hand("hash-kv", |world, spoilt| {
        calm(world)?;
        let (revision, _, _) = world.live(0).numbers(G);
        let (hash, compacted) = world.live(0).hash_kv(G);
        world.hash_kvs.insert((G, revision, compacted), (hash ^ u32::from(spoilt), 1));
        world.compare_hash_kv(0, G)
    });
    by_hand("membership-equality", |world, spoilt| {
        let (index, root) = (world.roster.index, world.live(0).root());
        let mut other = (*root).clone();
        if spoilt {
            other.members.pop_first();
        }
        world.on_root(0, index, &root)?;
        world.on_root(1, index, &other.into())
    });
}

fn strangers() {
    by_hand("wiped-accepted", |world, spoilt| {
        let m = follower(world);
        world.go_on(Act::Crash { member: m, down_us: 100 * MS })?;
        world.slots[m].wiped = spoilt;
        later(world, 2 * SECOND)
    });
    by_hand("wiped-heard", |world, spoilt| {
        let (from, to) = (follower(world), leader(world));
        let message = heartbeat(world, from, to);
        world.slots[from].wiped = spoilt;
        world.send(from, world.slots[to].node, message)?;
        world.slots[from].wiped = false;
        later(world, SECOND)
    });
    by_hand("wiped-applies", |world, spoilt| {
        world.slots[0].wiped = spoilt;
        let entries: Vec<Entry> = Vec::new();
        let applies = vec![ApplyJob { group: G, entries }];
        world.perform(0, Output { applies, ..Output::default() })
    });
    seen("removed-accepted", |world| restart(world, 0));
    seen("handshake-refused", |world| restart(world, 0));
    let foreign = |world: &mut World| {
        let member = follower(world);
        world.go_on(Act::ForeignPeer { member, for_us: 300 * MS })?;
        later(world, SECOND)
    };
    seen("foreign-heard", foreign);
    seen("foreign-lab", foreign);
}

fn directories() {
    let other_cluster = |world: &mut World| world.go_on(Act::OtherClusterDir { member: 0 });
    seen("cluster-id-untold", other_cluster);
    seen("other-cluster-dir", other_cluster);
    seen("refused-dir-changed", other_cluster);
    by_hand("other-member-dir", |world, spoilt| {
        if spoilt {
            // The other's directory is the member's own.
            world.slots[1].disk = world.slots[0].disk.fork();
        }
        world.go_on(Act::OtherMemberDir { member: 0, of: 1 })
    });
    by_hand("older-store", |world, spoilt| {
        world.go_on(Act::OlderStore { member: 0 })?;
        later(world, 500 * MS)?;
        if spoilt {
            // What is put back is no store at all.
            let older = &world.older[&0];
            let len = older.contents(STORE).expect("it had one").len();
            older.overwrite(STORE, 0, &vec![0; len]);
        }
        world.go_on(Act::OlderStore { member: 0 })
    });
}

fn restores() {
    let restored = |world: &mut World| {
        // Of a directory, of a store, and of a copy, as it is drawn.
        (0..6).try_for_each(|draw| world.go_on(Act::Restored { survivor: 0, draw }))
    };
    by_hand("restore", |world, spoilt| {
        if spoilt {
            empty_store(world, 0);
        }
        restored(world)
    });
    seen("restored-content", restored);
    seen("restore-no-service", restored);
}

fn service() {
    let still = |world: &mut World, members: std::ops::Range<usize>| {
        for m in members {
            world.slots[m].paused_until_us = u64::MAX;
        }
    };
    by_hand("no-service", |world, spoilt| {
        still(world, 0..if spoilt { 2 } else { 0 });
        world.takes_writes(world.bound_us())
    });
    by_hand("not-converged", |world, spoilt| {
        still(world, 0..usize::from(spoilt));
        calm(world)
    });
    by_hand("lease-late", |world, spoilt| {
        let grant = Command::LeaseGrant { id: LeaseId(5), ttl_seconds: 2 };
        world.start_call(0, G, Call::Write(grant));
        later(world, SECOND)?;
        world.quiet = true;
        // Who is told of no tick lets nothing run out.
        let until_us = if spoilt { u64::MAX } else { 0 };
        world.slots.iter_mut().for_each(|slot| slot.starved_until_us = until_us);
        world.wait_for_leases_to_run_out()
    });
    seen("watch-feed", |world| later(world, SECOND));
    seen("watch-stalled", |world| {
        later(world, SECOND)?;
        world.quiet = true;
        world.watchers_catch_up(3 * SECOND)
    });
}
