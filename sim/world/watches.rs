//! Watch streams between clients and members: what production leaves to HTTP/2 and two tasks.
//!
//! Requests and messages of a stream arrive in order, each after a while. A member puts at most a
//! window of messages on the way and waits to be woken by its hub when there is nothing to send,
//! exactly as `WatchStream::next` does: a wake-up that is lost leaves the stream silent, and the
//! finale finds it. A stream breaks with its member's process or by its client; the client goes on
//! at another member, and the member may learn of it late.

use super::World;
use super::event::{Event, Process};
use super::slot::Condition;
use crate::history::Demand;
use crate::plan::MS;
use crate::rules::is_spoilt;
use crate::safety::{Checked, Violation, broken, ensure};
use crate::trace::words;
use crate::watch::{Ask, Asked, Next, handed_out};
use quorate::mvcc::ReadError;
use quorate::mvcc::watch::{CreateRequest, StreamId, WatchOut};
use quorate::types::{ApiError, GroupId};
use std::collections::VecDeque;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Waker};
use tokio::sync::Notify;

/// How long a client waits before it dials the next member.
const REDIAL_US: u64 = 50 * MS;
/// Passes of catching up in one go, as in production.
const PASSES_MAX: usize = 64;
/// What a stream may hold beyond its buffer: one revision of any size, and answers to requests.
const BUFFER_SLACK_BYTES: usize = 256 << 10;

/// What happens between a watcher and its member.
#[derive(Debug)]
pub enum Watching {
    Think {
        w: usize,
    },
    Dial {
        w: usize,
    },
    Asked {
        stream: u64,
        ask: Ask,
    },
    Told {
        stream: u64,
        outs: Vec<WatchOut>,
    },
    /// The client hears that it may not watch what it has asked for.
    Denied {
        stream: u64,
        asked: Asked,
    },
    /// The client has read a message: the window opens.
    Taken {
        stream: u64,
    },
    /// The client notices that its connection is gone.
    Broken {
        stream: u64,
    },
    /// The member notices that its client is gone.
    Closed {
        stream: u64,
    },
}

/// One open stream.
pub struct Stream {
    w: usize,
    m: usize,
    p: Process,
    group: GroupId,
    waker: Arc<Notify>,
    /// Waits to be woken.
    asleep: bool,
    in_flight: usize,
    /// When the newest request and the newest message arrive: nothing overtakes them.
    asks_us: u64,
    tells_us: u64,
    /// Its client is gone.
    left: bool,
    /// Requests that its owner has not taken up, because too much waits to be sent.
    held: VecDeque<Ask>,
}

/// Whether a waiting task would have been woken.
fn woken(waker: &Notify) -> bool {
    let mut notified = pin!(waker.notified());
    notified.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready()
}

impl World {
    pub(super) fn start_watching(&mut self) {
        for w in 0..self.watchers.len() {
            let delay = self.watchers[w].think_us();
            self.after(delay, Event::Watching(Watching::Dial { w }));
        }
    }

    pub(super) fn watching(&mut self, step: Watching) -> Checked {
        match step {
            Watching::Think { w } => self.watcher_thinks(w),
            Watching::Dial { w } => self.dial(w),
            Watching::Asked { stream, ask } => return self.watch_asked(stream, ask),
            Watching::Told { stream, outs } => return self.watch_told(stream, &outs),
            Watching::Denied { stream, asked } => self.watch_denied(stream, asked),
            Watching::Taken { stream } => return self.watch_taken(stream),
            Watching::Broken { stream } => self.watch_broken(stream),
            Watching::Closed { stream } => self.watch_closed(stream),
        }
        Ok(())
    }

    fn watcher_thinks(&mut self, w: usize) {
        if self.quiet {
            return;
        }
        let think = self.watchers[w].think_us();
        self.after(think, Event::Watching(Watching::Think { w }));
        let Some(stream) = self.watchers[w].stream else { return };
        let now = self.history.model(self.watchers[w].group).revision();
        match self.watchers[w].next(now) {
            Next::Nothing => {}
            Next::Ask(ask) => self.send_ask(stream, ask),
            Next::Leave => {
                self.tell_watcher(w, || format!("leaves stream {stream}"));
                self.leave(w, stream);
            }
        }
    }

    /// A mark in the watcher's lane, which comes behind those of the clients.
    fn tell_watcher(&mut self, w: usize, line: impl FnOnce() -> String) {
        let lane = self.clients.len() + w;
        self.trace.client(self.now_us, lane, || format!("watcher {w} {}", line()));
    }

    /// The client's end of a stream is gone; the member's may live on for a while.
    fn leave(&mut self, w: usize, stream: u64) {
        let known = self.members_known();
        self.watchers[w].stream = None;
        self.watchers[w].move_on(&known);
        if let Some(open) = self.streams.get_mut(&stream) {
            open.left = true;
        }
        let late = self.watchers[w].notice_us();
        self.after(late, Event::Watching(Watching::Closed { stream }));
        self.after(REDIAL_US, Event::Watching(Watching::Dial { w }));
    }

    fn dial(&mut self, w: usize) {
        if self.watchers[w].stream.is_some() {
            return;
        }
        let (m, group) = (self.watchers[w].member, self.watchers[w].group);
        let slot = &self.slots[m];
        let up = slot.condition == Condition::Up && slot.paused_until_us <= self.now_us;
        let Some(live) = self.slots[m].live.as_mut().filter(|_| up) else {
            return self.dial_elsewhere(w);
        };
        let id = self.next_stream;
        let Some(room) = live.room(group) else { return self.dial_elsewhere(w) };
        let waker = room.open(StreamId(id));
        self.next_stream += 1;
        let p = self.slots[m].process;
        let resumed = self.watchers[w].resumes_at();
        self.tell_watcher(w, || format!("stream {id} to {m} group {group}, from {resumed:?}"));
        self.streams.insert(
            id,
            Stream {
                w,
                m,
                p,
                group,
                waker,
                asleep: false,
                in_flight: 0,
                asks_us: 0,
                tells_us: 0,
                left: false,
                held: VecDeque::new(),
            },
        );
        for ask in self.watchers[w].resume(id) {
            self.send_ask(id, ask);
        }
        if !self.watchers[w].thinking {
            self.watchers[w].thinking = true;
            let think = self.watchers[w].think_us();
            self.after(think, Event::Watching(Watching::Think { w }));
        }
    }

    fn dial_elsewhere(&mut self, w: usize) {
        let known = self.members_known();
        self.watchers[w].move_on(&known);
        self.after(REDIAL_US, Event::Watching(Watching::Dial { w }));
    }

    fn send_ask(&mut self, stream: u64, ask: Ask) {
        let delay = self.watch_travel.between(20, 800);
        let Some(open) = self.streams.get_mut(&stream) else { return };
        open.asks_us = open.asks_us.max(self.now_us + delay);
        let at = open.asks_us;
        self.at(at, Event::Watching(Watching::Asked { stream, ask }));
    }

    /// The stream's member, if the process it was opened to still lives.
    fn stream_member(&self, stream: u64) -> Option<(usize, GroupId)> {
        let open = self.streams.get(&stream)?;
        let slot = &self.slots[open.m];
        (slot.process == open.p && slot.live.is_some()).then_some((open.m, open.group))
    }

    fn watch_asked(&mut self, stream: u64, ask: Ask) -> Checked {
        let Some((m, _)) = self.stream_member(stream) else { return Ok(()) };
        let event = Event::Watching(Watching::Asked { stream, ask });
        let Some(Event::Watching(Watching::Asked { ask, .. })) = self.park(m, event) else {
            return Ok(());
        };
        self.trace.word(stream);
        self.trace.note(self.now_us, || format!("stream {stream} at {m}: {ask:?}"));
        self.streams.get_mut(&stream).expect("it was there").held.push_back(ask);
        self.take_up_asks(stream)
    }

    /// Takes up what the client has asked for as long as the hub says that there is room.
    fn take_up_asks(&mut self, stream: u64) -> Checked {
        while let Some((m, group)) = self.stream_member(stream) {
            let Some(room) = self.live(m).room(group) else { return Ok(()) };
            if room.is_full(StreamId(stream)) {
                return Ok(());
            }
            let Some(open) = self.streams.get_mut(&stream) else { return Ok(()) };
            let Some(ask) = open.held.pop_front() else { return Ok(()) };
            self.take_up(stream, m, group, ask)?;
        }
        Ok(())
    }

    fn take_up(&mut self, stream: u64, m: usize, group: GroupId, ask: Ask) -> Checked {
        if self.live(m).room(group).is_none() {
            return Ok(());
        }
        match ask {
            Ask::Create(request, asked) => {
                if !self.may_watch(m, group, stream, &request)? {
                    return self.deny(stream, asked);
                }
                let Some(room) = self.live(m).room(group) else { return Ok(()) };
                let past = request.start_revision > 0;
                room.create(StreamId(stream), request);
                if past {
                    self.catch_up(m, group)?;
                }
            }
            Ask::Cancel(id) => {
                if let Some(room) = self.live(m).room(group) {
                    room.cancel(StreamId(stream), id);
                }
            }
            Ask::Progress => {
                if let Some(room) = self.live(m).room(group) {
                    room.progress(StreamId(stream));
                }
            }
        }
        self.pump_group(m, group)
    }

    /// Whether a watcher may watch what it asks for: as users are here and now, and never again.
    fn may_watch(
        &mut self,
        m: usize,
        group: GroupId,
        stream: u64,
        request: &CreateRequest,
    ) -> Result<bool, Violation> {
        // A start that nobody can have is the hub's to refuse.
        if !self.plan.auth.on || request.start_revision < 0 {
            return Ok(true);
        }
        let by = self.watchers[self.streams[&stream].w].by.clone();
        let caller = self.caller_of_today(m, group, &by);
        let verdict =
            self.permits(m, group, caller.as_ref(), &Demand::Read(request.range.clone()))?;
        Ok(verdict.is_ok())
    }

    fn deny(&mut self, stream: u64, asked: Asked) -> Checked {
        let delay = self.watch_travel.between(20, 800);
        let Some(open) = self.streams.get_mut(&stream) else { return Ok(()) };
        open.tells_us = open.tells_us.max(self.now_us + delay);
        let at_us = open.tells_us;
        self.at(at_us, Event::Watching(Watching::Denied { stream, asked }));
        Ok(())
    }

    fn watch_denied(&mut self, stream: u64, asked: Asked) {
        let Some(w) = self.streams.get(&stream).filter(|s| !s.left).map(|s| s.w) else { return };
        if self.watchers[w].stream == Some(stream) {
            self.trace.word(stream);
            self.tell_watcher(w, || format!("stream {stream}: may not watch that"));
            self.watchers[w].denied(asked);
        }
    }

    fn catch_up(&mut self, m: usize, group: GroupId) -> Checked {
        let now_ms = self.slots[m].now_ms(self.now_us);
        let live = self.live(m);
        let Some(view) = live.applier.view(group) else { return Ok(()) };
        for _ in 0..PASSES_MAX {
            let Some(room) = live.room(group) else { return Ok(()) };
            let fed = match is_spoilt("watch-feed") {
                true => Err(ReadError::Api(ApiError::Stopped)),
                false => room.upkeep(&view, now_ms),
            };
            match fed {
                Ok(true) => {}
                Ok(false) => break,
                Err(ReadError::Storage(error)) => return self.storage_error(m, "feed", &error),
                Err(ReadError::Api(error)) => {
                    return broken!("watch-feed", format!("catching up fails: {error:?}"));
                }
            }
        }
        Ok(())
    }

    /// What production's upkeep task does, for all groups of a member.
    pub fn watch_upkeep(&mut self, m: usize) -> Checked {
        for group in self.live(m).rooms() {
            self.catch_up(m, group)?;
            if self.slots[m].live.is_none() {
                return Ok(());
            }
            self.pump_group(m, group)?;
            let bound = self.plan.watch.buffer_bytes + BUFFER_SLACK_BYTES;
            let Some(room) = self.live(m).room(group) else { continue };
            let counts = room.counts();
            ensure!(
                counts.buffered_bytes <= counts.streams * bound,
                "unbounded",
                "member {m} group {group}: {} streams hold {} bytes",
                counts.streams,
                counts.buffered_bytes
            );
        }
        Ok(())
    }

    /// Sends what the group's streams at this member have to send.
    pub fn pump_group(&mut self, m: usize, group: GroupId) -> Checked {
        let p = self.slots[m].process;
        let here: Vec<u64> = self
            .streams
            .iter()
            .filter(|(_, s)| s.m == m && s.p == p && s.group == group)
            .map(|(id, _)| *id)
            .collect();
        for stream in here {
            self.pump(stream)?;
        }
        Ok(())
    }

    fn pump(&mut self, id: u64) -> Checked {
        let Some((m, group)) = self.stream_member(id) else { return Ok(()) };
        let (window, take) = (self.plan.watch.window, self.plan.watch.take_bytes);
        loop {
            let stream = self.streams.get_mut(&id).expect("it was there");
            if stream.in_flight >= window {
                return Ok(());
            }
            if stream.asleep {
                if !woken(&stream.waker) {
                    return Ok(());
                }
                stream.asleep = false;
            }
            let Some(room) = self.slots[m].live.as_mut().and_then(|live| live.room(group)) else {
                return Ok(());
            };
            let outs = room.take(StreamId(id), take);
            if outs.is_empty() {
                stream.asleep = true;
                continue;
            }
            handed_out(self.history.model(group), &outs)?;
            stream.in_flight += 1;
            let delay = self.watch_travel.between(20, 800);
            stream.tells_us = stream.tells_us.max(self.now_us + delay);
            let at = stream.tells_us;
            self.at(at, Event::Watching(Watching::Told { stream: id, outs }));
        }
    }

    fn watch_told(&mut self, id: u64, outs: &[WatchOut]) -> Checked {
        let Some(stream) = self.streams.get(&id) else { return Ok(()) };
        let (w, group, left) = (stream.w, stream.group, stream.left);
        if left || self.watchers[w].stream != Some(id) {
            return Ok(());
        }
        self.trace.word(id);
        for out in outs {
            self.tell_watcher(w, || format!("stream {id}: {}", words::watched(out)));
        }
        let mut again = Vec::new();
        let model = self.history.model(group);
        for out in outs {
            let heard = self.watchers[w].hear(model, out, &mut again)?;
            self.watched.add(heard);
        }
        for ask in again {
            self.send_ask(id, ask);
        }
        let delay = self.watchers[w].read_us(self.quiet) + self.watch_travel.between(20, 800);
        self.after(delay, Event::Watching(Watching::Taken { stream: id }));
        Ok(())
    }

    fn watch_taken(&mut self, id: u64) -> Checked {
        let Some((m, _)) = self.stream_member(id) else { return Ok(()) };
        if self.park(m, Event::Watching(Watching::Taken { stream: id })).is_none() {
            return Ok(());
        }
        let stream = self.streams.get_mut(&id).expect("it was there");
        stream.in_flight = stream.in_flight.saturating_sub(1);
        self.pump(id)?;
        self.take_up_asks(id)
    }

    /// A member's process has ended: its streams' clients notice, some of them late.
    pub(super) fn break_streams(&mut self, m: usize) {
        let gone: Vec<(u64, usize)> =
            self.streams.iter().filter(|(_, s)| s.m == m).map(|(id, s)| (*id, s.w)).collect();
        for (stream, w) in gone {
            let late = self.watchers[w].notice_us();
            self.after(late, Event::Watching(Watching::Broken { stream }));
        }
    }

    fn watch_broken(&mut self, stream: u64) {
        let Some(open) = self.streams.get(&stream) else { return };
        let w = open.w;
        if self.watchers[w].stream == Some(stream) {
            self.tell_watcher(w, || format!("stream {stream} is broken"));
            self.leave(w, stream);
        }
    }

    fn watch_closed(&mut self, stream: u64) {
        if let Some((m, group)) = self.stream_member(stream)
            && let Some(room) = self.live(m).room(group)
        {
            room.close(StreamId(stream));
        }
        self.streams.remove(&stream);
    }

    /// Every watch is told everything that is committed. With the smallest buffers that takes a
    /// while: what must not happen is that nobody is told anything more for `patience_us`.
    pub fn watchers_catch_up(&mut self, patience_us: u64) -> Checked {
        let (mut end_us, mut told) = (self.now_us + patience_us, self.watched);
        let all = |world: &mut World| {
            let (groups, history) = (world.groups(), &world.history);
            // Of a group that was destroyed nobody is told anything.
            let mut living = world.watchers.iter_mut().filter(|w| groups.contains(&w.group));
            living.all(|w| w.is_current(history.model(w.group))) && !is_spoilt("watch-stalled")
        };
        while !all(self) {
            if self.now_us >= end_us {
                let history = &self.history;
                let owed: Vec<String> =
                    self.watchers.iter_mut().map(|w| w.owed(history.model(w.group))).collect();
                return broken!("watch-stalled", owed.join("\n  "));
            }
            let to = (self.now_us + 20 * MS).min(end_us);
            self.run_until(to)?;
            if told.events != self.watched.events || told.compacted != self.watched.compacted {
                (end_us, told) = (self.now_us + patience_us, self.watched);
            }
        }
        Ok(())
    }
}
