//! One process of a member: its life, and the `Io` that it is given.
//!
//! Each process is a madsim node of its own. madsim runs the destructors of a killed node's tasks
//! at some later time; whatever they do to the disk or the network comes from a life that is over
//! and is ignored.

use super::clock::{SimClock, Sleep};
use super::disk::SimDisk;
use super::net::{Fabric, SimNet};
use super::story::{Story, lock};
use crate::plan::Plan;
use madsim::runtime::{Handle, NodeHandle};
use quorate::io::{BoxFuture, Entropy, Io, MemDisk, TaskHandle, TaskKind, Tasks, tasks};
use quorate::types::prng::Prng;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

/// What operations on a disk take.
#[derive(Clone, Copy, Debug)]
pub struct Costs {
    pub write_us: u64,
    pub sync_us: u64,
}

/// A slow disk takes so many times as long, and this much more.
const SLOW_TIMES: u64 = 30;
const SLOW_MORE_US: u64 = 20_000;
/// Debts below this are not worth a timer.
const DEBT_MIN_US: u64 = 100;

/// See the module's documentation.
pub struct Life {
    pub number: u64,
    pub host: usize,
    pub costs: Costs,
    story: Arc<Story>,
    node: NodeHandle,
    over: AtomicBool,
    debt_us: AtomicU64,
    pub slow_disk: AtomicBool,
    /// The power failed inside an operation on the disk: told to the world, once.
    power: Box<dyn Fn() + Send + Sync>,
}

impl Life {
    pub fn new(
        number: u64,
        host: usize,
        costs: Costs,
        story: Arc<Story>,
        node: NodeHandle,
        power: Box<dyn Fn() + Send + Sync>,
    ) -> Arc<Life> {
        Arc::new(Life {
            number,
            host,
            costs,
            story,
            node,
            over: AtomicBool::new(false),
            debt_us: AtomicU64::new(0),
            slow_disk: AtomicBool::new(false),
            power,
        })
    }

    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// Ends the process where it stands. False if it had ended before.
    pub fn kill(&self) -> bool {
        let first = !self.over.swap(true, Ordering::Relaxed);
        if first {
            Handle::current().kill(self.node.id());
        }
        first
    }

    pub fn power_failed(&self) {
        if self.kill() {
            (self.power)();
        }
    }

    pub fn pause(&self) {
        Handle::current().pause(self.node.id());
    }
    pub fn resume(&self) {
        if !self.is_over() {
            Handle::current().resume(self.node.id());
        }
    }

    pub fn owe_us(&self, us: u64) {
        let slow = self.slow_disk.load(Ordering::Relaxed);
        let us = if slow { us * SLOW_TIMES + SLOW_MORE_US } else { us };
        self.debt_us.fetch_add(us, Ordering::Relaxed);
    }

    pub fn trace(&self, kind: u64, number: u64, what: &[u8]) {
        self.story.event(kind, self.number << 32 | number & 0xffff_ffff, what);
    }

    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        drop(self.node.spawn(task));
    }
}

/// The world of one process.
pub fn io(life: &Arc<Life>, disk: &MemDisk, fabric: &Arc<Fabric>, plan: &Plan) -> Io {
    let purpose = format!("entropy-{}", life.number);
    Io {
        disk: Arc::new(SimDisk::new(disk.clone(), life.clone())),
        clock: Arc::new(SimClock::new(life.story.wheel.clone(), &life.story, plan, life.number)),
        net: Arc::new(SimNet::new(fabric.clone(), life.clone())),
        tasks: Arc::new(SimTasks { life: life.clone() }),
        entropy: Arc::new(SimEntropy(Mutex::new(plan.stream(&purpose)))),
    }
}

struct SimEntropy(Mutex<Prng>);

impl Entropy for SimEntropy {
    fn u64(&self) -> u64 {
        lock(&self.0).next_u64()
    }
}

struct SimTasks {
    life: Arc<Life>,
}

impl Tasks for SimTasks {
    fn spawn(&self, _name: &'static str, kind: TaskKind, task: BoxFuture<()>) -> TaskHandle {
        let (task, handle) = tasks::supervise(task);
        match kind {
            TaskKind::Shared => self.life.spawn(task),
            TaskKind::Dedicated => {
                self.life.spawn(Laden { life: self.life.clone(), task, rest: None });
            }
        }
        handle
    }
}

/// A task with a thread of its own: it stands still for as long as its disk works.
struct Laden {
    life: Arc<Life>,
    task: BoxFuture<()>,
    rest: Option<Sleep>,
}

impl Future for Laden {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if let Some(rest) = &mut self.rest {
                std::task::ready!(Pin::new(rest).poll(cx));
                self.rest = None;
            }
            self.life.debt_us.store(0, Ordering::Relaxed);
            let polled = self.task.as_mut().poll(cx);
            let debt = self.life.debt_us.swap(0, Ordering::Relaxed);
            if polled.is_ready() || debt < DEBT_MIN_US {
                return polled;
            }
            self.rest = Some(self.life.story.wheel.sleep_us(debt));
        }
    }
}
