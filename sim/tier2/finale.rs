//! How a seed of whole servers ends: everything heals, every member serves, all replicas and
//! watchers agree with the log; the power fails everywhere, and all of it again; then every member
//! is asked to stop, and does.

use super::chaos::meet_foreign;
use super::clients::perform;
use super::judge::Told;
use super::race::{First, race};
use super::rpc::Line;
use super::story::lock;
use super::stranger;
use super::watch::Watcher;
use super::world::{Role, World};
use crate::faults::Fault;
use crate::history::Call;
use crate::plan::{MS, SECOND};
use crate::rules::is_spoilt;
use crate::safety::{Checked, Violation, broken, ensure};
use quorate::api::proto::etcdserverpb as pb;
use quorate::api::proto::etcdserverpb::lease_client::LeaseClient;
use quorate::api::proto::etcdserverpb::maintenance_client::MaintenanceClient;
use quorate::types::command::RangeRequest;
use quorate::types::prng::Prng;
use quorate::types::{GroupId, KeyRange};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

const LOOK_US: u64 = 20 * MS;

fn everything(serializable: bool) -> RangeRequest {
    let range = KeyRange::new(vec![0], vec![0]);
    RangeRequest { range, serializable, ..RangeRequest::default() }
}

/// See the module's documentation.
pub struct Finale {
    pub world: Arc<World>,
    pub watchers: Vec<Arc<Watcher>>,
    pub clients: Vec<madsim::task::JoinHandle<()>>,
    lines: Arc<Mutex<Prng>>,
}

impl Finale {
    pub fn new(
        world: Arc<World>,
        watchers: Vec<Arc<Watcher>>,
        clients: Vec<madsim::task::JoinHandle<()>>,
    ) -> Finale {
        let lines = Arc::new(Mutex::new(world.plan.stream("finale-lines")));
        Finale { world, watchers, clients, lines }
    }

    /// Time enough for elections, a client that waits for a dead member, back-offs and a snapshot.
    fn bound_us(&self) -> u64 {
        let plan = &self.world.plan;
        plan.election_us() * 10 + plan.timeout_us * 2 + 15 * SECOND
    }

    fn line(&self, host: usize) -> Line {
        Line::new(self.world.clone(), host, self.lines.clone())
    }

    pub async fn play(mut self) -> Checked {
        let world = self.world.clone();
        world.story.note(|| "everything heals".to_owned());
        world.fabric.heal_all();
        for host in world.hosts() {
            let (disk, gone) = world.with(host, |machine| {
                machine.sabotaged = None;
                (machine.disk.clone(), machine.process.is_none())
            });
            disk.clear_faults();
            disk.clear_crash_after();
            if gone && !world.story.is_broken() {
                world.start(host, Role::Member);
            }
        }
        // Under load one will do: with logs trimmed to two entries and snapshots in pieces of 512
        // bytes, a member that was away may chase one snapshot after the other until load ends.
        self.serve_somewhere().await?;
        world.quiet.store(true, Ordering::Relaxed);
        for client in self.clients.drain(..) {
            let _ = client.await;
        }
        self.serve_again().await?;
        if world.plan.on(Fault::ForeignPeer) {
            self.foreign_in_the_calm().await?;
        }
        if world.plan.on(Fault::Stranger) {
            stranger::all_in_the_calm(&world).await?;
        }
        self.settle().await?;
        self.compare().await?;
        world.story.note(|| "the power fails everywhere".to_owned());
        for host in world.hosts() {
            world.story.fired(Fault::Crash);
            world.story.mattered(Fault::Crash);
            world.kill(host, true);
        }
        for host in world.hosts() {
            world.start(host, Role::Member);
        }
        self.serve_again().await?;
        self.settle().await?;
        self.compare().await?;
        self.stop_all().await
    }

    async fn wait(&self, what: impl Fn() -> bool) -> bool {
        let until = self.world.story.now_us() + self.bound_us();
        while !what() {
            if self.world.story.now_us() > until || self.world.story.is_broken() {
                return false;
            }
            self.world.sleep_us(LOOK_US).await;
        }
        true
    }

    /// A linearizable read of everything through any member.
    async fn serve_somewhere(&self) -> Checked {
        let until = self.world.story.now_us() + self.bound_us();
        for host in self.world.hosts().cycle() {
            if self.world.story.is_broken() || self.serves(host).await? {
                return Ok(());
            }
            if self.world.story.now_us() >= until {
                let what = "nobody serves a read within the bound after the healing";
                return broken!("no-service", format!("{what}\n  {}", self.states()));
            }
        }
        Ok(())
    }

    /// And through every member.
    async fn serve_again(&self) -> Checked {
        for host in self.world.hosts() {
            let until = self.world.story.now_us() + self.bound_us();
            while !self.world.story.is_broken() && !self.serves(host).await? {
                if self.world.story.now_us() >= until {
                    let what = "does not serve a read within the bound after the healing";
                    let detail = format!("member {host} {what}\n  {}", self.states());
                    return broken!("no-service", detail);
                }
            }
        }
        Ok(())
    }

    /// Asks the member for everything, for a second.
    async fn serves(&self, host: usize) -> Result<bool, Violation> {
        let story = &self.world.story;
        let call = Call::Range(everything(false));
        let began_us = story.now_us();
        let id = lock(&self.world.judge).history.begin(began_us, GroupId::ROOT, call.clone());
        let asked = perform(self.line(host), call.clone());
        let told = race(asked, self.world.sleep_us(SECOND)).await;
        if let First::A(Ok(told)) = told {
            lock(&self.world.judge).heard(story.now_us(), id, &call, &told)?;
            return Ok(true);
        }
        if let First::A(Err(status)) = told {
            story.note(|| format!("member {host} does not serve yet: {status}"));
        }
        lock(&self.world.judge).history.abandon(id);
        self.world.sleep_us(self.world.plan.tick_us).await;
        Ok(false)
    }

    /// What each member says of itself.
    fn states(&self) -> String {
        let state = |host| {
            let status = self.world.node(host).map(|node| node.status(GroupId::ROOT));
            format!("{host}: {status:?}")
        };
        self.world.hosts().map(state).collect::<Vec<_>>().join("\n  ")
    }

    /// With all links open, both sides must say that they refuse each other.
    async fn foreign_in_the_calm(&self) -> Checked {
        let world = &self.world;
        let host = (world.plan.seed % world.plan.members as u64) as usize;
        world.story.fired(Fault::ForeignPeer);
        let both = meet_foreign(world, host, 6 * SECOND).await;
        if world.story.is_broken() {
            return Ok(());
        }
        ensure!(
            both,
            "foreign-heard",
            "a member of another cluster at the address of {host} was not refused by both sides"
        );
        world.start(host, Role::Member);
        self.serve_again().await
    }

    /// Every member applies all that is committed, nobody waits for anything, and the watchers
    /// have been told everything.
    async fn settle(&self) -> Checked {
        let world = &self.world;
        let even = || {
            let committed = lock(&world.judge).committed().0;
            world.hosts().all(|host| {
                world.node(host).is_some_and(|node| {
                    let status = node.status(GroupId::ROOT);
                    status.applied_index == committed
                        && status.commit_index == committed
                        && !status.leader.is_none()
                        && status.proposals_pending == 0
                })
            })
        };
        // Twice, a moment apart: leases may be running out, a new leader may add an entry.
        let settled = self.wait(even).await && self.wait(even).await;
        if world.story.is_broken() {
            return Ok(());
        }
        if !settled {
            return broken!(
                "not-converged",
                format!("committed {}\n  {}", lock(&world.judge).committed(), self.states()),
            );
        }
        let told = || {
            let revision = lock(&world.judge).revision();
            self.watchers.iter().all(|watcher| watcher.done() >= revision)
        };
        if !self.wait(told).await && !world.story.is_broken() {
            let done: Vec<i64> = self.watchers.iter().map(|watcher| watcher.done()).collect();
            return broken!(
                "watch-silent",
                format!("watchers were told up to {done:?} of {}", lock(&world.judge).revision()),
            );
        }
        Ok(())
    }

    /// The content, the leases and the hash of every member, as it tells them itself.
    async fn compare(&self) -> Checked {
        let world = &self.world;
        for host in world.hosts() {
            if world.story.is_broken() {
                return Ok(());
            }
            let before = lock(&world.judge).committed();
            // A lease may have run out just now, and this member be about to hear of it.
            let is_level = world
                .node(host)
                .is_some_and(|node| node.status(GroupId::ROOT).applied_index == before.0);
            let call = Call::Range(everything(true));
            let now_us = world.story.now_us();
            let id = lock(&world.judge).history.begin(now_us, GroupId::ROOT, call.clone());
            let told = match perform(self.line(host), call.clone()).await {
                Ok(told) => told,
                Err(status) => return broken!("no-service", format!("member {host}: {status}")),
            };
            let now_us = world.story.now_us();
            lock(&world.judge).heard(now_us, id, &call, &told)?;
            let revision = match &told {
                Told::Range(told) => told.header.as_ref().map_or(0, |header| header.revision),
                _ => 0,
            };
            let leases = LeaseClient::new(self.line(host))
                .lease_leases(pb::LeaseLeasesRequest {})
                .await
                .map(|told| told.into_inner().leases);
            {
                let judge = lock(&world.judge);
                let expected: Vec<i64> = judge
                    .history
                    .model(GroupId::ROOT)
                    .leases()
                    .into_iter()
                    .map(|(id, _, _)| id.0)
                    .collect();
                let now = judge.revision();
                // A lease may run out meanwhile: what was told is then older than the log.
                let still = is_level && judge.committed() == before;
                if let Ok(leases) = leases
                    && still
                {
                    let mut leases: Vec<i64> = leases.into_iter().map(|lease| lease.id).collect();
                    leases.sort_unstable();
                    ensure!(
                        leases == expected,
                        "replica-leases",
                        "member {host} has the leases {leases:?}, the log {expected:?}"
                    );
                }
                ensure!(
                    revision == now || !still,
                    "replica-content",
                    "member {host} is at revision {revision}, the log at {now}"
                );
            }
            let told = MaintenanceClient::new(self.line(host))
                .hash_kv(pb::HashKvRequest { revision: 0 })
                .await;
            if let Ok(told) = told {
                lock(&world.judge).hash_kv(host, &told.into_inner())?;
            }
        }
        Ok(())
    }

    async fn stop_all(&self) -> Checked {
        for host in self.world.hosts() {
            let running = self.world.with(host, |machine| {
                machine.stopping = true;
                machine.process.as_ref().and_then(|process| process.running.clone())
            });
            // The canary's members are never told.
            if let Some(running) = running.filter(|_| !is_spoilt("stop-hangs")) {
                running.stop();
            }
        }
        let gone = || self.world.hosts().all(|host| self.world.with(host, |m| m.process.is_none()));
        if !self.wait(gone).await && !self.world.story.is_broken() {
            return broken!("stop-hangs", "members were asked to stop and did not".to_owned());
        }
        Ok(())
    }
}
