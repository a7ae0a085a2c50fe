//! One cluster of whole servers: machines, the processes on them, and how those begin and end.
//!
//! A process starts as production's does: flags become a configuration (`cli`), that becomes a
//! boot and a start (`cli::serve`, `node::start`), and the gRPC services answer for it. How it may
//! end is judged here.

use super::judge::Judge;
use super::log::Heard;
use super::net::{Fabric, address};
use super::process::{Costs, Life, io};
use super::story::{Story, lock};
use crate::faults::Fault;
use crate::plan::{MS, Plan};
use crate::rules;
use crate::safety::{broken, rule};
use madsim::runtime::Handle;
use quorate::api::front::Front;
use quorate::api::rpcs::Counters;
use quorate::api::tokens::AuthOptions;
use quorate::cli::config::Config;
use quorate::cli::{serve, server_config};
use quorate::io::{Io, MemDisk};
use quorate::multiraft::TrimPolicy;
use quorate::multiraft::checkpoint::CheckpointPolicy;
use quorate::node::shared::{Ended, Observer};
use quorate::node::shell::Running;
use quorate::node::{BootConfig, NodeHandle, start};
use quorate::types::{Entry, GroupId, NodeId};
use quorate::wal::WalOptions;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};

/// Who runs on a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Member,
    /// The member's flags on an empty disk.
    Wiped,
    /// A member of another cluster at this one's address.
    Foreign,
    /// The member's flags on the data directory of another cluster's member.
    Misplaced,
}

pub struct Process {
    pub life: Arc<Life>,
    pub role: Role,
    pub running: Option<Arc<Running>>,
    pub front: Option<Front>,
}

pub struct Machine {
    pub disk: MemDisk,
    pub process: Option<Process>,
    /// A fault of the disk that must end the process.
    pub sabotaged: Option<Fault>,
    /// It was asked to stop.
    pub stopping: bool,
    /// How the newest process that has ended did, if by itself.
    pub end: Option<(Role, String)>,
    /// An act of the nemesis has this machine in hand.
    pub busy: bool,
}

/// See the module's documentation.
pub struct World {
    pub plan: Plan,
    pub story: Arc<Story>,
    pub fabric: Arc<Fabric>,
    pub judge: Mutex<Judge>,
    pub heard: Arc<Heard>,
    machines: Mutex<Vec<Machine>>,
    pub lives: AtomicU64,
    /// Clients ask for nothing more.
    pub quiet: AtomicBool,
}

impl World {
    pub fn new(plan: Plan, story: Arc<Story>, heard: Arc<Heard>) -> Arc<World> {
        let machine = |host: usize| Machine {
            disk: MemDisk::new(plan.seed ^ (host as u64 + 1) << 32),
            process: None,
            sabotaged: None,
            stopping: false,
            end: None,
            busy: false,
        };
        Arc::new(World {
            fabric: Fabric::new(&plan, story.clone()),
            judge: Mutex::new(Judge::new(plan.drift_ppm())),
            heard,
            machines: Mutex::new((0..plan.members).map(machine).collect()),
            lives: AtomicU64::new(0),
            quiet: AtomicBool::new(false),
            plan,
            story,
        })
    }

    pub fn hosts(&self) -> std::ops::Range<usize> {
        0..self.plan.members
    }

    pub fn with<T>(&self, host: usize, act: impl FnOnce(&mut Machine) -> T) -> T {
        act(&mut lock(&self.machines)[host])
    }

    pub async fn sleep_us(&self, us: u64) {
        self.story.wheel.sleep_us(us).await;
    }

    pub fn is_quiet(&self) -> bool {
        self.quiet.load(Ordering::Relaxed) || self.story.is_broken()
    }

    /// What answers clients on this machine now.
    pub fn front(&self, host: usize) -> Option<(Front, Arc<Life>)> {
        if !self.fabric.is_up(host) {
            return None;
        }
        self.with(host, |machine| {
            let process = machine.process.as_ref()?;
            Some((process.front.clone()?, process.life.clone()))
        })
    }

    /// The member's own door, for what no client may look at.
    pub fn node(&self, host: usize) -> Option<NodeHandle> {
        self.with(host, |machine| {
            let process = machine.process.as_ref().filter(|p| p.role == Role::Member)?;
            Some(process.running.as_ref()?.handle.clone())
        })
    }

    pub fn is_member_up(&self, host: usize) -> bool {
        self.node(host).is_some()
    }

    pub fn leader(&self) -> Option<usize> {
        self.hosts().find(|host| {
            self.node(*host).is_some_and(|node| {
                let status = node.status(GroupId::ROOT);
                status.leader == node.member_id()
            })
        })
    }

    /// Starts a process on the machine, which has none.
    pub fn start(self: &Arc<World>, host: usize, role: Role) {
        let number = self.lives.fetch_add(1, Ordering::Relaxed) + 1;
        self.story.event(0xb0, number, &[host as u8, role as u8]);
        self.story.note(|| format!("{host} starts process {number} as {role:?}"));
        self.fabric.power_on(host);
        let node = Handle::current().create_node().name(format!("m{host}-{number}")).build();
        self.heard.know(node.id(), host);
        let costs = Costs { write_us: self.plan.write_us, sync_us: self.plan.sync_us };
        let weak = Arc::downgrade(self);
        let power = Box::new(move || {
            if let Some(world) = weak.upgrade() {
                world.power_failed(host, number);
            }
        });
        let life = Life::new(number, host, costs, self.story.clone(), node, power);
        let disk = self.with(host, |machine| {
            assert!(machine.process.is_none(), "one process on a machine");
            let process = Process { life: life.clone(), role, running: None, front: None };
            machine.process = Some(process);
            machine.stopping = false;
            machine.end = None;
            machine.disk.clone()
        });
        let io = io(&life, &disk, &self.fabric, &self.plan);
        let weak = Arc::downgrade(self);
        life.spawn(async move {
            let end = run(&weak, host, number, role, io).await;
            if let Some(world) = weak.upgrade() {
                world.ended(host, number, role, end);
            }
        });
    }

    /// Ends the process on the machine, if there is one. `power`: its machine goes down with it,
    /// and what was not synced is at the disk's mercy.
    pub fn kill(&self, host: usize, power: bool) {
        let Some((life, disk)) = self.with(host, |machine| {
            let process = machine.process.take()?;
            Some((process.life, machine.disk.clone()))
        }) else {
            return;
        };
        self.story.event(0xb1, life.number, &[u8::from(power)]);
        self.story.note(|| format!("{host} is killed, power {power}"));
        life.kill();
        self.fabric.process_gone(host, life.number, power);
        if power {
            if disk.unsynced_bytes() > 0 {
                self.story.fired(Fault::LostWrites);
                self.story.mattered(Fault::LostWrites);
            }
            disk.crash();
        } else {
            disk.kill_process();
        }
    }

    /// The power has failed inside an operation on the disk; the process stands still already.
    fn power_failed(&self, host: usize, number: u64) {
        if self.with(host, |m| m.process.as_ref().is_some_and(|p| p.life.number == number)) {
            self.story.mattered(Fault::CrashInWrite);
            self.kill(host, true);
        }
    }

    /// A process has ended by itself.
    fn ended(&self, host: usize, number: u64, role: Role, end: End) {
        let current = self
            .with(host, |machine| machine.process.take_if(|process| process.life.number == number));
        let Some(process) = current else { return };
        self.story.event(0xb2, number, &[]);
        self.story.note(|| format!("{host} process {number} ends: {end:?}"));
        process.life.kill();
        self.fabric.process_gone(host, number, false);
        let (disk, sabotaged, stopping) = self.with(host, |machine| {
            machine.end = Some((role, format!("{end:?}")));
            (machine.disk.clone(), machine.sabotaged, machine.stopping)
        });
        // Nothing is lost with a process, but for what a failed sync has dropped.
        disk.clear_faults();
        disk.kill_process();
        let expected = match (&end, role) {
            (End::Member(Ended::Asked), _) => stopping,
            (End::Member(Ended::IncarnationRefused), Role::Wiped) => true,
            (End::Refused(text), Role::Misplaced) => text.contains("belongs to"),
            (End::Member(Ended::Storage(_)), _) | (End::Refused(_), Role::Member) => {
                if let Some(fault) = sabotaged {
                    self.story.mattered(fault);
                    self.with(host, |machine| machine.sabotaged = None);
                }
                sabotaged.is_some()
            }
            _ => false,
        };
        if !expected {
            self.story.check(broken!(
                "unwanted-stop",
                format!("machine {host}, process {number} as {role:?}: {end:?}"),
            ));
        }
    }

    /// How many processes have begun besides the first of each machine.
    pub fn restarts(&self) -> u64 {
        self.lives.load(Ordering::Relaxed).saturating_sub(self.plan.members as u64)
    }

    /// Terms in which anybody has committed something.
    pub fn elections(&self) -> u64 {
        lock(&self.judge).terms()
    }

    pub fn violated(&self, rule: &'static str, detail: String) {
        self.story.check(rules::report(rule, || detail));
    }
}

/// How a process ends by itself.
#[derive(Debug)]
enum End {
    /// It did not start, and says why.
    Refused(String),
    Member(Ended),
}

/// The life of one process, as `cli::serve` leads it.
async fn run(world: &Weak<World>, host: usize, number: u64, role: Role, io: Io) -> End {
    let Some((config, plan)) = world.upgrade().map(|w| {
        let config = flags(&w.plan, host, role);
        (config, w.plan.clone())
    }) else {
        return End::Member(Ended::Asked);
    };
    let mut settings = serve::start_config(&config);
    let boot = match serve::boot_config(&config, &io).await {
        Ok(boot) => tuned(&plan, boot),
        Err(text) => return End::Refused(text),
    };
    settings.observer = Some(Arc::new(Tap { world: world.clone(), host, role }));
    let running = match start::open(&io, boot, settings).await {
        Ok(running) => Arc::new(running),
        Err(error) => return End::Refused(error.to_string()),
    };
    let shards = Counters::shards(config.client_threads);
    // The least work that a password may cost.
    let options = Arc::new(AuthOptions { bcrypt_cost: 4, ..AuthOptions::default() });
    let front = Front::new(running.handle.clone(), options, shards[0].clone(), shards.clone());
    if let Some(world) = world.upgrade() {
        world.with(host, |machine| {
            if let Some(process) = machine.process.as_mut().filter(|p| p.life.number == number) {
                process.front = Some(front);
                process.running = Some(running.clone());
            }
        });
    }
    running.handle.stopping().await;
    End::Member(start::close(&running, &*io.clock).await)
}

/// The command line of the member on a machine.
fn flags(plan: &Plan, host: usize, role: Role) -> Config {
    let url = |host| format!("http://{}", address(host));
    let cluster: Vec<String> =
        (0..plan.members).map(|host| format!("m{host}={}", url(host))).collect();
    let client = format!("http://10.0.0.{}:2379", host + 1);
    let token = if role == Role::Foreign { "another" } else { "ours" };
    let flags = [
        ("name", format!("m{host}")),
        ("data-dir", "/data".to_string()),
        ("listen-peer-urls", url(host)),
        ("initial-advertise-peer-urls", url(host)),
        ("listen-client-urls", client.clone()),
        ("advertise-client-urls", client),
        ("initial-cluster", cluster.join(",")),
        ("initial-cluster-token", token.to_string()),
        ("heartbeat-interval", (plan.tick_us / MS).to_string()),
        ("election-timeout", (plan.election_us() / MS).to_string()),
        ("client-threads", "1".to_string()),
        ("cache-bytes", plan.cache_bytes.max(1 << 20).to_string()),
        ("snapshot-count", plan.tail_entries.min(100_000).to_string()),
    ];
    let args = flags.iter().map(|(name, value)| format!("--{name}={value}").into());
    match server_config(args, []) {
        Ok((config, _)) => config,
        Err(exit) => panic!("the flags are wrong: {}", exit.err),
    }
}

/// Limits that no flag reaches, small enough for their edges to be met in seconds.
fn tuned(plan: &Plan, mut boot: BootConfig) -> BootConfig {
    boot.wal = WalOptions { segment_bytes: plan.segment_bytes, spare_segments: 2 };
    boot.store.cache_bytes = plan.cache_bytes;
    boot.checkpoint =
        CheckpointPolicy { tail_bytes: plan.wal_tail_bytes, tail_entries: plan.tail_entries };
    boot.chunk_bytes = plan.snapshot_chunk_bytes;
    let core = &mut boot.core;
    core.pre_vote = plan.pre_vote;
    core.tail_bytes = plan.wal_tail_bytes.max(64 << 10);
    core.trim =
        TrimPolicy { keep_entries: plan.trim_keep_entries, keep_bytes: 64 << 20, step_entries: 1 };
    core.bounds.log_cache_bytes_max = plan.log_cache_bytes;
    core.bounds.append_bytes_max = plan.append_bytes;
    core.bounds.inflight_appends_max = plan.inflight_appends;
    boot
}

/// Sees what a process is about to apply.
struct Tap {
    world: Weak<World>,
    host: usize,
    role: Role,
}

impl Observer for Tap {
    fn applying(&self, group: GroupId, entries: &[Entry]) {
        let Some(world) = self.world.upgrade() else { return };
        if self.role != Role::Member {
            let rule = match self.role {
                Role::Wiped => rule!("wiped-applies"),
                _ => rule!("foreign-heard"),
            };
            let detail = format!("machine {}: {:?} applies {entries:?}", self.host, self.role);
            world.violated(rule, detail);
            return;
        }
        let now_us = world.story.now_us();
        for entry in entries {
            let checked = lock(&world.judge).applying(now_us, self.host, group, entry);
            world.story.check(checked);
        }
    }
}

/// The members' ids, in the order of their machines.
pub fn member_ids(world: &World) -> Option<Vec<NodeId>> {
    let node = world.hosts().find_map(|host| world.node(host))?;
    let mut members = node.members();
    members.sort_by(|a, b| a.name.cmp(&b.name));
    Some(members.into_iter().map(|member| member.id).collect())
}
