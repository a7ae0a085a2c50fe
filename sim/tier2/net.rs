//! The network between processes: byte streams as TCP gives them, and nothing better.
//!
//! A stream keeps its order and never loses a byte while it lives, but it may stall: what is sent
//! over a link that is cut waits and is sent again after it heals; what a reader does not read
//! fills a window and then holds up the writer. Nobody is told that a peer is dead: a killed
//! process closes its streams if its machine can still say so; after a power failure there is
//! silence until somebody writes to the machine that has come back. A stream may also be reset, or
//! fall into a hole that neither end hears of.
//!
//! ```text
//!   end 0 --pipe 0--> end 1      a pipe: chunks with the time of their arrival, a window
//!   end 0 <--pipe 1-- end 1
//! ```

use super::clock::Wheel;
use super::process::Life;
use super::race::race;
use super::story::{Story, lock};
use crate::faults::Fault;
use crate::plan::Plan;
use bytes::{Bytes, BytesMut};
use quorate::io::{BoxFuture, BoxFutureRef, Connection, Listener, Net, ReadHalf, WriteHalf};
use quorate::types::prng::Prng;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::sync::Notify;

/// Between two attempts to reach a machine that does not answer.
const SYN_AGAIN_US: u64 = 700_000;
/// Room that a read is given at least.
const READ_BYTES_MIN: usize = 16 << 10;

#[derive(Clone, Copy, Default)]
struct Link {
    cut: Option<Fault>,
    slow: bool,
}

#[derive(Default)]
struct Host {
    /// Powered: it can say that a process is gone.
    up: bool,
    /// Nothing that arrives is read.
    deaf: bool,
    listeners: BTreeMap<String, Door>,
}

/// Somebody who listens.
struct Door {
    life: u64,
    waiting: VecDeque<u64>,
    knock: Arc<Notify>,
}

struct End {
    host: usize,
    life: u64,
    reading: bool,
    writing: bool,
}

#[derive(Default)]
struct Pipe {
    /// In order; the time is nanoseconds of the world.
    chunks: VecDeque<(u64, Bytes)>,
    /// Sent and not yet known to be read.
    in_flight: usize,
    /// Read, and the news of it held up.
    unsaid: usize,
    last_at: u64,
    fin_at: Option<u64>,
    /// When the end that reads learns that the stream was reset; also the end that writes.
    reset_at: Option<u64>,
    readable: Arc<Notify>,
    writable: Arc<Notify>,
}

struct Stream {
    ends: [End; 2],
    pipes: [Pipe; 2],
    /// In a hole: nothing arrives any more and nobody is told.
    lost: bool,
    /// One bit of what is read next arrives as another: which, is drawn from this.
    garbled: Option<u64>,
}

struct State {
    hosts: Vec<Host>,
    links: Vec<Link>,
    streams: BTreeMap<u64, Stream>,
    next_stream: u64,
    rng: Prng,
    window: usize,
    calm: bool,
}

/// All links and streams of one world.
pub struct Fabric {
    plan: Plan,
    story: Arc<Story>,
    wheel: Arc<Wheel>,
    state: Mutex<State>,
}

pub fn address(host: usize) -> String {
    format!("10.0.0.{}:2380", host + 1)
}

fn host_of(addr: &str) -> Option<usize> {
    let last = addr.strip_prefix("10.0.0.")?.strip_suffix(":2380")?;
    last.parse::<usize>().ok()?.checked_sub(1)
}

fn error(kind: io::ErrorKind) -> io::Error {
    io::Error::from(kind)
}

impl State {
    fn at(&self, from: usize, to: usize) -> usize {
        from * self.hosts.len() + to
    }
    fn cut(&self, from: usize, to: usize) -> Option<Fault> {
        self.links[self.at(from, to)].cut
    }
    fn is_open(&self, from: usize, to: usize) -> bool {
        self.cut(from, to).is_none()
    }
}

impl Fabric {
    pub fn new(plan: &Plan, story: Arc<Story>) -> Arc<Fabric> {
        let mut shape = plan.stream("streams-shape");
        let window = [4 << 10, 64 << 10, 1 << 20][shape.below(3) as usize];
        let hosts = plan.members;
        Arc::new(Fabric {
            plan: plan.clone(),
            wheel: story.wheel.clone(),
            story,
            state: Mutex::new(State {
                hosts: (0..hosts).map(|_| Host { up: true, ..Host::default() }).collect(),
                links: vec![Link::default(); hosts * hosts],
                streams: BTreeMap::new(),
                next_stream: 0,
                rng: plan.stream("streams"),
                window,
                calm: false,
            }),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Nanoseconds that something takes from one machine to another.
    fn delay(&self, state: &mut State, from: usize, to: usize) -> u64 {
        let delay = self.plan.delay;
        let mut us = delay.min_us + state.rng.below(2 * delay.mean_us);
        let tail = delay.tail_one_in > 0 && state.rng.chance(1, delay.tail_one_in);
        if tail && !state.calm {
            us += state.rng.below(delay.tail_us);
        }
        if state.links[state.at(from, to)].slow {
            self.story.mattered(Fault::SlowLink);
            us = us * 20 + 50_000;
        }
        us * 1_000
    }

    /// From now on all is well, but for what has happened already.
    pub fn heal_all(&self) {
        self.state().calm = true;
        let hosts = self.plan.members;
        for from in 0..hosts {
            self.set_deaf(from, false);
            for to in 0..hosts {
                self.set_slow(from, to, false);
                self.mend(from, to);
            }
        }
    }

    pub fn set_slow(&self, from: usize, to: usize, slow: bool) {
        let mut state = self.state();
        let at = state.at(from, to);
        state.links[at].slow = slow;
    }

    pub fn cut(&self, from: usize, to: usize, why: Fault) {
        let mut state = self.state();
        let at = state.at(from, to);
        state.links[at].cut = Some(why);
    }

    /// Whether a client reaches the machine.
    pub fn is_up(&self, host: usize) -> bool {
        self.state().hosts[host].up
    }

    pub fn mend(&self, from: usize, to: usize) {
        let now = self.wheel.now();
        let mut state = self.state();
        let at = state.at(from, to);
        if state.links[at].cut.take().is_none() {
            return;
        }
        let State { streams, rng, .. } = &mut *state;
        for stream in streams.values_mut() {
            for side in 0..2 {
                let (source, sink) = (stream.ends[side].host, stream.ends[1 - side].host);
                let pipe = &mut stream.pipes[side];
                if (source, sink) == (from, to) {
                    // What got lost is sent again, when its timer says so.
                    let again = now + 1_000 * rng.between(1_000, 400_000);
                    for (at, _) in &mut pipe.chunks {
                        *at = (*at).max(again);
                    }
                    let later = |at: &mut Option<u64>| *at = at.map(|at| at.max(again));
                    later(&mut pipe.fin_at);
                    later(&mut pipe.reset_at);
                    pipe.last_at = pipe.last_at.max(again);
                    pipe.readable.notify_one();
                } else if (source, sink) == (to, from) {
                    pipe.in_flight -= std::mem::take(&mut pipe.unsaid);
                    pipe.writable.notify_one();
                }
            }
        }
    }

    /// The processes of this machine read nothing that arrives; windows fill.
    pub fn set_deaf(&self, host: usize, deaf: bool) {
        let mut state = self.state();
        state.hosts[host].deaf = deaf;
        for stream in state.streams.values() {
            for side in 0..2 {
                if stream.ends[1 - side].host == host {
                    stream.pipes[side].readable.notify_one();
                }
            }
        }
    }

    /// A process is gone. Its machine says so to whoever is connected, unless it is off as well.
    pub fn process_gone(&self, host: usize, life: u64, power: bool) {
        let now = self.wheel.now();
        let mut state = self.state();
        state.hosts[host].up = !power;
        state.hosts[host].listeners.retain(|_, door| door.life != life);
        let ids: Vec<u64> = state.streams.keys().copied().collect();
        for id in ids {
            for side in 0..2 {
                let end = &state.streams[&id].ends[side];
                if end.host != host || end.life != life || !(end.reading || end.writing) {
                    continue;
                }
                let to = state.streams[&id].ends[1 - side].host;
                let delay = self.delay(&mut state, host, to);
                let stream = state.streams.get_mut(&id).expect("just listed");
                stream.ends[side].reading = false;
                stream.ends[side].writing = false;
                if power {
                    // What is on its way arrives; nothing says that no more will come.
                    continue;
                }
                let pipe = &mut stream.pipes[side];
                let at = pipe.last_at.max(now + delay);
                pipe.fin_at = pipe.fin_at.or(Some(at));
                pipe.readable.notify_one();
            }
        }
        let used = |stream: &Stream| stream.ends.iter().any(|end| end.reading || end.writing);
        state.streams.retain(|_, stream| used(stream));
    }

    pub fn power_on(&self, host: usize) {
        self.state().hosts[host].up = true;
    }

    /// Any stream that both ends still use.
    fn pick(&self, state: &mut State, draw: u64) -> Option<u64> {
        let used = |s: &Stream| !s.lost && s.ends.iter().all(|e| e.reading && e.writing);
        let ids: Vec<u64> =
            state.streams.iter().filter(|(_, s)| used(s)).map(|(id, _)| *id).collect();
        (!ids.is_empty()).then(|| ids[(draw % ids.len() as u64) as usize])
    }

    /// Resets one stream, whatever is on its way. False if there is none.
    pub fn reset(&self, draw: u64) -> bool {
        let now = self.wheel.now();
        let mut state = self.state();
        let Some(id) = self.pick(&mut state, draw) else { return false };
        let stream = state.streams.get_mut(&id).expect("just picked");
        for pipe in &mut stream.pipes {
            pipe.chunks.clear();
            pipe.reset_at = Some(now);
            pipe.readable.notify_one();
            pipe.writable.notify_one();
        }
        true
    }

    /// A bit of one stream changes on its way, as one in some millions does that no checksum of the
    /// network has noticed. False if there is none.
    pub fn garble(&self, draw: u64) -> bool {
        let mut state = self.state();
        let Some(id) = self.pick(&mut state, draw) else { return false };
        state.streams.get_mut(&id).expect("just picked").garbled = Some(draw >> 8);
        true
    }

    /// Drops one stream into a hole. False if there is none.
    pub fn lose(&self, draw: u64) -> bool {
        let mut state = self.state();
        let Some(id) = self.pick(&mut state, draw) else { return false };
        state.streams.get_mut(&id).expect("just picked").lost = true;
        true
    }
}

/// What a look at a stream gives.
enum Look<T> {
    Done(io::Result<T>),
    /// Nothing before then, unless the pipe's notification comes first.
    Wait(u64),
}

impl Fabric {
    fn try_read(&self, id: u64, side: usize, room: usize, buf: &mut BytesMut) -> Look<usize> {
        let now = self.wheel.now();
        let mut state = self.state();
        let Some(stream) = state.streams.get(&id) else {
            return Look::Done(Err(error(io::ErrorKind::NotConnected)));
        };
        let (source, sink) = (stream.ends[1 - side].host, stream.ends[side].host);
        if state.hosts[sink].deaf {
            self.story.mattered(Fault::DeafPeer);
            return Look::Wait(u64::MAX);
        }
        let held = state.cut(source, sink);
        if let Some(why) = held {
            if !stream.pipes[1 - side].chunks.is_empty() {
                self.story.mattered(why);
            }
            return Look::Wait(u64::MAX);
        }
        let lost = stream.lost;
        let back = state.is_open(sink, source);
        let split = state.rng.chance(1, 4).then(|| 1 + state.rng.below(64) as usize);
        let stream = state.streams.get_mut(&id).expect("just looked");
        let pipe = &mut stream.pipes[1 - side];
        if lost {
            if !pipe.chunks.is_empty() {
                self.story.mattered(Fault::HalfOpen);
            }
            return Look::Wait(u64::MAX);
        }
        if let Some(at) = pipe.reset_at
            && at <= now
        {
            return Look::Done(Err(error(io::ErrorKind::ConnectionReset)));
        }
        if let Some((at, chunk)) = pipe.chunks.front_mut() {
            if *at > now {
                return Look::Wait(*at);
            }
            // A read may end anywhere.
            let take = chunk.len().min(room).min(split.unwrap_or(usize::MAX));
            let mut bytes = chunk.split_to(take);
            if chunk.is_empty() {
                pipe.chunks.pop_front();
            }
            if let Some(draw) = stream.garbled.take() {
                let mut changed = BytesMut::from(&bytes[..]);
                changed[(draw >> 3) as usize % take] ^= 1 << (draw & 7);
                bytes = changed.freeze();
                self.story.mattered(Fault::Garbled);
            }
            buf.extend_from_slice(&bytes);
            if back {
                pipe.in_flight -= take;
                pipe.writable.notify_one();
            } else {
                pipe.unsaid += take;
            }
            self.story.event(0xa1, id << 1 | side as u64, &bytes);
            return Look::Done(Ok(take));
        }
        match pipe.fin_at {
            Some(at) if at <= now => Look::Done(Ok(0)),
            Some(at) => Look::Wait(at.min(pipe.reset_at.unwrap_or(u64::MAX))),
            None => Look::Wait(pipe.reset_at.unwrap_or(u64::MAX)),
        }
    }

    fn try_write(&self, id: u64, side: usize, bytes: &mut Bytes) -> Look<()> {
        let now = self.wheel.now();
        let mut state = self.state();
        let Some(stream) = state.streams.get(&id) else {
            return Look::Done(Err(error(io::ErrorKind::NotConnected)));
        };
        let (source, sink) = (stream.ends[side].host, stream.ends[1 - side].host);
        // Nobody there any more: the machine says so as soon as something comes.
        let refused = !stream.ends[1 - side].reading
            && state.hosts[sink].up
            && state.is_open(source, sink)
            && state.is_open(sink, source)
            && !stream.lost;
        let there_and_back =
            self.delay(&mut state, source, sink) + self.delay(&mut state, sink, source);
        let window = state.window;
        let delay = self.delay(&mut state, source, sink);
        let stream = state.streams.get_mut(&id).expect("just looked");
        let pipe = &mut stream.pipes[side];
        if pipe.reset_at.is_some_and(|at| at <= now) {
            return Look::Done(Err(error(io::ErrorKind::ConnectionReset)));
        }
        if refused && pipe.reset_at.is_none() {
            let at = now + there_and_back;
            pipe.reset_at = Some(at);
            stream.pipes[1 - side].reset_at = Some(at);
            stream.pipes[1 - side].readable.notify_one();
            stream.pipes[1 - side].writable.notify_one();
        }
        let pipe = &mut stream.pipes[side];
        let room = window.saturating_sub(pipe.in_flight).min(bytes.len());
        if room > 0 {
            let at = pipe.last_at.max(now + delay);
            pipe.last_at = at;
            pipe.in_flight += room;
            pipe.chunks.push_back((at, bytes.split_to(room)));
            pipe.readable.notify_one();
        }
        if bytes.is_empty() {
            Look::Done(Ok(()))
        } else {
            Look::Wait(pipe.reset_at.unwrap_or(u64::MAX))
        }
    }

    /// One direction is not used any more by this end.
    fn let_go(&self, id: u64, side: usize, life: &Life, writer: bool) {
        if life.is_over() {
            // `process_gone` has said all there is to say.
            return;
        }
        let now = self.wheel.now();
        let mut state = self.state();
        let Some(stream) = state.streams.get(&id) else { return };
        let (host, to) = (stream.ends[side].host, stream.ends[1 - side].host);
        let delay = self.delay(&mut state, host, to);
        let stream = state.streams.get_mut(&id).expect("just looked");
        if writer {
            stream.ends[side].writing = false;
            let pipe = &mut stream.pipes[side];
            let at = pipe.last_at.max(now + delay);
            pipe.fin_at = pipe.fin_at.or(Some(at));
            pipe.readable.notify_one();
        } else {
            stream.ends[side].reading = false;
            // A writer that waits for room must look again: its next byte is refused.
            stream.pipes[1 - side].writable.notify_one();
        }
        if stream.ends.iter().all(|end| !end.reading && !end.writing) {
            state.streams.remove(&id);
        }
    }

    fn notices(&self, id: u64, pipe: usize) -> (Arc<Notify>, Arc<Notify>) {
        let state = self.state();
        state.streams.get(&id).map_or_else(Default::default, |stream| {
            let pipe = &stream.pipes[pipe];
            (pipe.readable.clone(), pipe.writable.clone())
        })
    }
}

/// One process' way to the network.
pub struct SimNet {
    fabric: Arc<Fabric>,
    life: Arc<Life>,
}

impl SimNet {
    pub fn new(fabric: Arc<Fabric>, life: Arc<Life>) -> SimNet {
        SimNet { fabric, life }
    }
}

impl Net for SimNet {
    fn listen(&self, addr: String) -> BoxFuture<io::Result<Box<dyn Listener>>> {
        let (fabric, life) = (self.fabric.clone(), self.life.clone());
        Box::pin(async move {
            let knock = Arc::new(Notify::new());
            let mut state = fabric.state();
            let doors = &mut state.hosts[life.host].listeners;
            if life.is_over() || doors.contains_key(&addr) {
                return Err(error(io::ErrorKind::AddrInUse));
            }
            let door = Door { life: life.number, waiting: VecDeque::new(), knock: knock.clone() };
            doors.insert(addr.clone(), door);
            drop(state);
            Ok(Box::new(SimListener { fabric, life, addr, knock }) as Box<dyn Listener>)
        })
    }

    fn dial(&self, addr: String) -> BoxFuture<io::Result<Connection>> {
        let (fabric, life) = (self.fabric.clone(), self.life.clone());
        Box::pin(async move { dial(fabric, life, addr).await })
    }
}

async fn dial(fabric: Arc<Fabric>, life: Arc<Life>, addr: String) -> io::Result<Connection> {
    let from = life.host;
    let Some(to) = host_of(&addr).filter(|host| *host < fabric.plan.members) else {
        return Err(error(io::ErrorKind::AddrNotAvailable));
    };
    loop {
        let there = { fabric.delay(&mut fabric.state(), from, to) };
        fabric.wheel.sleep_until(fabric.wheel.now() + there).await;
        let outcome = {
            let mut state = fabric.state();
            let reached = state.is_open(from, to) && state.is_open(to, from) && state.hosts[to].up;
            let back = fabric.delay(&mut state, to, from);
            match (reached, state.hosts[to].listeners.contains_key(&addr)) {
                (false, _) => None,
                (true, false) => Some((back, None)),
                (true, true) => {
                    state.next_stream += 1;
                    let id = state.next_stream;
                    let door = state.hosts[to].listeners.get_mut(&addr).expect("just looked");
                    door.waiting.push_back(id);
                    door.knock.notify_one();
                    let their_life = door.life;
                    let end = |host, life| End { host, life, reading: true, writing: true };
                    let stream = Stream {
                        ends: [end(from, life.number), end(to, their_life)],
                        pipes: [Pipe::default(), Pipe::default()],
                        lost: false,
                        garbled: None,
                    };
                    state.streams.insert(id, stream);
                    Some((back, Some(id)))
                }
            }
        };
        match outcome {
            None => fabric.wheel.sleep_us(SYN_AGAIN_US).await,
            Some((back, id)) => {
                // Made before the wait: a dialer that gives up meanwhile closes it.
                let connection = id.map(|id| connection(&fabric, &life, id, 0, addr.clone()));
                fabric.wheel.sleep_until(fabric.wheel.now() + back).await;
                return connection.ok_or_else(|| error(io::ErrorKind::ConnectionRefused));
            }
        }
    }
}

struct SimListener {
    fabric: Arc<Fabric>,
    life: Arc<Life>,
    addr: String,
    knock: Arc<Notify>,
}

impl Listener for SimListener {
    fn local_addr(&self) -> String {
        self.addr.clone()
    }

    fn accept(&mut self) -> BoxFutureRef<'_, io::Result<Connection>> {
        Box::pin(async move {
            loop {
                let next = {
                    let mut state = self.fabric.state();
                    let door = state.hosts[self.life.host].listeners.get_mut(&self.addr);
                    door.filter(|door| door.life == self.life.number)
                        .and_then(|door| door.waiting.pop_front())
                };
                if let Some(id) = next {
                    let from = {
                        let state = self.fabric.state();
                        state.streams.get(&id).map(|stream| stream.ends[0].host)
                    };
                    // Gone again before it was taken.
                    let Some(from) = from else { continue };
                    let peer = format!("10.0.0.{}:{}", from + 1, 40_000 + id % 20_000);
                    return Ok(connection(&self.fabric, &self.life, id, 1, peer));
                }
                self.knock.notified().await;
            }
        })
    }
}

impl Drop for SimListener {
    fn drop(&mut self) {
        if self.life.is_over() {
            return;
        }
        let door = self.fabric.state().hosts[self.life.host].listeners.remove(&self.addr);
        for id in door.into_iter().flat_map(|door| door.waiting) {
            self.fabric.let_go(id, 1, &self.life, true);
            self.fabric.let_go(id, 1, &self.life, false);
        }
    }
}

fn connection(
    fabric: &Arc<Fabric>,
    life: &Arc<Life>,
    id: u64,
    side: usize,
    peer: String,
) -> Connection {
    let half = |pipe, writer| {
        let (readable, writable) = fabric.notices(id, pipe);
        let wake = if writer { writable } else { readable };
        Half { fabric: fabric.clone(), life: life.clone(), id, side, wake, writer }
    };
    Connection { peer, reader: Box::new(half(1 - side, false)), writer: Box::new(half(side, true)) }
}

/// Half of one end of a stream.
struct Half {
    fabric: Arc<Fabric>,
    life: Arc<Life>,
    id: u64,
    side: usize,
    wake: Arc<Notify>,
    writer: bool,
}

impl ReadHalf for Half {
    fn read<'a>(&'a mut self, buf: &'a mut BytesMut) -> BoxFutureRef<'a, io::Result<usize>> {
        Box::pin(async move {
            if buf.capacity() == buf.len() {
                buf.reserve(READ_BYTES_MIN);
            }
            loop {
                let room = buf.capacity() - buf.len();
                match self.fabric.try_read(self.id, self.side, room, buf) {
                    Look::Done(done) => return done,
                    Look::Wait(at) => wait(&self.fabric, &self.wake, at).await,
                }
            }
        })
    }
}

impl WriteHalf for Half {
    fn write_all(&mut self, mut bytes: Bytes) -> BoxFutureRef<'_, io::Result<()>> {
        Box::pin(async move {
            loop {
                match self.fabric.try_write(self.id, self.side, &mut bytes) {
                    Look::Done(done) => return done,
                    Look::Wait(at) => wait(&self.fabric, &self.wake, at).await,
                }
            }
        })
    }

    fn shutdown(&mut self) -> BoxFutureRef<'_, io::Result<()>> {
        self.fabric.let_go(self.id, self.side, &self.life, true);
        Box::pin(async { Ok(()) })
    }
}

async fn wait(fabric: &Fabric, wake: &Notify, at: u64) {
    if at == u64::MAX {
        wake.notified().await;
    } else {
        race(wake.notified(), fabric.wheel.sleep_until(at)).await;
    }
}

impl Drop for Half {
    fn drop(&mut self) {
        self.fabric.let_go(self.id, self.side, &self.life, self.writer);
    }
}
