//! One watcher: what it does next, and what it makes of what it is told.

mod control;

pub(super) use control::self_check;

use super::WatchPlan;
use super::judge::{Wanted, all_different};
use crate::callers::{Credential, USERS};
use crate::model::Model;
use crate::plan::{Plan, key};
use crate::safety::{Checked, Violation, broken, ensure};
use bytes::Bytes;
use quorate::mvcc::watch::{CreateRequest, Filters, Refusal, WatchOut};
use quorate::types::prng::Prng;
use quorate::types::{GroupId, KeyRange};
use std::collections::VecDeque;
use std::fmt;

/// Ids that a watcher chooses itself; a hub counts from 0 and never gets here.
const ASKED_IDS: i64 = 1_000_000;

/// What a request to create stands for at its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// The watch in this place.
    Watch(usize),
    /// The n-th that no hub may accept.
    Nonsense(u64),
}

/// What a watcher asks of its member, in order on one stream.
#[derive(Clone, Debug)]
pub enum Ask {
    Create(CreateRequest, Asked),
    Cancel(i64),
    Progress,
}

/// What a watcher does next.
#[derive(Debug)]
pub enum Next {
    Nothing,
    Ask(Ask),
    /// Its connection breaks; it will go to another member.
    Leave,
}

/// What has come of a message, besides what the judge says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Heard {
    pub events: u64,
    pub bookmarks: u64,
    pub compacted: u64,
}

#[derive(Clone, Debug)]
struct Watch {
    wanted: Wanted,
    progress_notify: bool,
    /// What was asked for; `begins` once it was created somewhere.
    start: i64,
    begun: bool,
    /// Its id on the stream of now.
    id: Option<i64>,
    asked_id: i64,
    cancelling: bool,
}

impl fmt::Display for Heard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Heard { events, bookmarks, compacted } = self;
        write!(f, "{events} revisions told, {bookmarks} bookmarks, {compacted} compacted")
    }
}

impl Heard {
    pub fn add(&mut self, more: Heard) {
        self.events += more.events;
        self.bookmarks += more.bookmarks;
        self.compacted += more.compacted;
    }
}

pub struct Watcher {
    pub group: GroupId,
    pub member: usize,
    /// Who it is, where users count.
    pub by: Credential,
    /// The stream it has now.
    pub stream: Option<u64>,
    rng: Prng,
    plan: WatchPlan,
    /// Hot ones, cold ones, and their stem.
    keys: (u64, u64, usize),
    watches: Vec<Option<Watch>>,
    /// Creates that were not answered yet, and why they have to be refused.
    creating: VecDeque<(Asked, Option<Refusal>)>,
    /// How much nonsense it has asked for.
    nonsense: u64,
    header: i64,
    slow: bool,
    /// Its next decision is on the calendar.
    pub thinking: bool,
}

impl Watcher {
    pub fn new(plan: &Plan, id: u64) -> Watcher {
        let mut rng = plan.stream(&format!("watcher-{id}"));
        let group = GroupId(1 + rng.below(plan.groups));
        let member = rng.below(plan.members as u64) as usize;
        let slow = rng.chance(1, 3);
        let mut person = plan.stream(&format!("person-of-watcher-{id}"));
        let by = match person.below(3) {
            _ if !plan.auth.on => Credential::Nobody,
            0 => Credential::Certificate(USERS[person.below(2) as usize].to_owned()),
            _ => Credential::root(),
        };
        Watcher {
            group,
            member,
            by,
            stream: None,
            rng,
            plan: plan.watch.clone(),
            keys: (plan.hot_keys, plan.cold_keys, plan.key_stem_bytes),
            watches: Vec::new(),
            creating: VecDeque::new(),
            nonsense: 0,
            header: 0,
            slow,
            thinking: false,
        }
    }

    pub fn think_us(&mut self) -> u64 {
        1 + self.rng.below(2 * self.plan.think_us)
    }
    /// What it needs for one message before it takes another.
    pub fn read_us(&mut self, hurry: bool) -> u64 {
        if self.slow && !hurry { 1 + self.rng.below(2 * self.plan.slow_us) } else { 1 }
    }
    /// How long until it notices that its member is gone: at once, or not for a while.
    pub fn notice_us(&mut self) -> u64 {
        if self.rng.chance(1, 4) { self.rng.between(10_000, 3_000_000) } else { 300 }
    }
    pub fn move_on(&mut self, known: &[usize]) {
        let others: Vec<usize> = known.iter().copied().filter(|m| *m != self.member).collect();
        if !others.is_empty() {
            self.member = others[self.rng.below(others.len() as u64) as usize];
        }
    }

    fn key(&mut self) -> Bytes {
        if self.rng.chance(2, 3) {
            key(self.keys.2, true, self.rng.below(self.keys.0))
        } else {
            key(self.keys.2, false, self.rng.below(self.keys.1))
        }
    }

    fn range(&mut self) -> KeyRange {
        match self.rng.below(6) {
            0 => KeyRange::new("hot/", "hot0"),
            1 => KeyRange::new(vec![0], vec![0]),
            2 => KeyRange::new(self.key(), vec![0]),
            3 => {
                let (a, b) = (self.key(), self.key());
                if a < b { KeyRange::new(a, b) } else { KeyRange::single(a) }
            }
            _ => KeyRange::single(self.key()),
        }
    }

    /// Somebody's present, past or future: the newest revision known to be committed is `now`.
    fn start(&mut self, now: i64) -> i64 {
        if !self.plan.past {
            return 0;
        }
        match self.rng.below(6) {
            0 => now + self.rng.between(1, 20) as i64,
            1 => 1,
            2 | 3 => (now - self.rng.below(200) as i64).max(1),
            _ => 0,
        }
    }

    fn create(&mut self, now: i64) -> Option<Ask> {
        let filters = Filters {
            no_put: self.plan.filters && self.rng.chance(1, 4),
            no_delete: self.plan.filters && self.rng.chance(1, 4),
        };
        let range = self.range();
        let prev_kv = self.plan.prev_kv && self.rng.chance(1, 2);
        let (progress_notify, fragment) = (self.rng.chance(1, 2), self.rng.chance(1, 4));
        let start = self.start(now);
        let at = self.free()?;
        let asked_id = if self.rng.chance(1, 4) { ASKED_IDS + at as i64 } else { 0 };
        self.watches[at] = Some(Watch {
            wanted: Wanted::new(range, filters, prev_kv, fragment, start),
            progress_notify,
            start,
            begun: false,
            id: None,
            asked_id,
            cancelling: false,
        });
        Some(self.ask_for(at))
    }

    /// A place for one more watch.
    fn free(&mut self) -> Option<usize> {
        if let Some(at) = self.watches.iter().position(Option::is_none) {
            return Some(at);
        }
        if self.watches.len() as u64 >= self.plan.per_stream {
            return None;
        }
        self.watches.push(None);
        Some(self.watches.len() - 1)
    }

    fn ask_for(&mut self, at: usize) -> Ask {
        self.creating.push_back((Asked::Watch(at), None));
        let watch = self.watches[at].as_ref().expect("a watch that was just made or kept");
        Ask::Create(
            CreateRequest {
                range: watch.wanted.range.clone(),
                start_revision: if watch.begun { watch.wanted.next } else { watch.start },
                filters: watch.wanted.filters,
                prev_kv: watch.wanted.prev_kv,
                progress_notify: watch.progress_notify,
                fragment: watch.wanted.fragment,
                watch_id: watch.asked_id,
            },
            Asked::Watch(at),
        )
    }

    /// What no hub may accept.
    fn nonsense(&mut self) -> Ask {
        let (request, why) = match self.rng.below(2) {
            0 => {
                let range = KeyRange::new("b", "a");
                (CreateRequest { range, ..CreateRequest::default() }, Refusal::EmptyRange)
            }
            _ => {
                let range = KeyRange::single("a");
                let request =
                    CreateRequest { range, start_revision: -3, ..CreateRequest::default() };
                (request, Refusal::Compacted)
            }
        };
        let asked = Asked::Nonsense(self.nonsense);
        self.nonsense += 1;
        self.creating.push_back((asked, Some(why)));
        Ask::Create(request, asked)
    }

    /// It may not watch what it has asked for: it does not ask again. The answers to what came
    /// before may still be on their way.
    pub fn denied(&mut self, asked: Asked) {
        if let Some(place) = self.creating.iter().rposition(|(other, _)| *other == asked) {
            self.creating.remove(place);
            if let Asked::Watch(at) = asked {
                self.watches[at] = None;
            }
        }
    }

    /// The next thing it does on its stream.
    pub fn next(&mut self, now: i64) -> Next {
        let open: Vec<usize> = (0..self.watches.len())
            .filter(|at| {
                self.watches[*at].as_ref().is_some_and(|w| w.id.is_some() && !w.cancelling)
            })
            .collect();
        match self.rng.below(12) {
            0..=4 => self.create(now).map_or(Next::Nothing, Next::Ask),
            5 | 6 if !open.is_empty() => {
                let at = open[self.rng.below(open.len() as u64) as usize];
                let watch = self.watches[at].as_mut().expect("it is open");
                watch.cancelling = true;
                Next::Ask(Ask::Cancel(watch.id.expect("it is open")))
            }
            7 | 8 => Next::Ask(Ask::Progress),
            9 if self.plan.breaks => Next::Leave,
            10 => {
                self.slow = !self.slow;
                Next::Nothing
            }
            11 if self.plan.nonsense => Next::Ask(self.nonsense()),
            _ => Next::Nothing,
        }
    }

    /// A new stream: everything that is still watched is asked for again, from where it was.
    pub fn resume(&mut self, stream: u64) -> Vec<Ask> {
        self.stream = Some(stream);
        self.creating.clear();
        self.header = 0;
        let mut asks = Vec::new();
        for at in 0..self.watches.len() {
            let Some(watch) = &mut self.watches[at] else { continue };
            if watch.cancelling {
                self.watches[at] = None;
                continue;
            }
            watch.id = None;
            asks.push(self.ask_for(at));
        }
        asks
    }

    fn by_id(&mut self, id: i64) -> Option<&mut Watch> {
        self.watches.iter_mut().flatten().find(|watch| watch.id == Some(id))
    }

    /// One message, in the order of the stream; the last argument collects asks that follow from it.
    pub fn hear(
        &mut self,
        model: &Model,
        out: &WatchOut,
        again: &mut Vec<Ask>,
    ) -> Result<Heard, Violation> {
        let mut heard = Heard::default();
        let header = match out {
            WatchOut::Created { revision, .. }
            | WatchOut::Refused { revision, .. }
            | WatchOut::Events { revision, .. }
            | WatchOut::Progress { revision, .. } => Some(*revision),
            WatchOut::Canceled { revision, compact_revision: None, .. } => Some(*revision),
            WatchOut::Canceled { .. } => None,
        };
        if let Some(header) = header {
            ensure!(
                header >= self.header,
                "watch-header",
                "a stream's header falls from {} to {header}",
                self.header
            );
            self.header = header;
        }
        match out {
            WatchOut::Created { watch_id, revision } => self.created(*watch_id, *revision)?,
            WatchOut::Refused { reason, .. } => match self.creating.pop_front() {
                Some((_, Some(why))) if why == *reason => {}
                other => {
                    return broken!("watch-refused", format!("{other:?} is refused: {reason:?}"));
                }
            },
            WatchOut::Events { watch_id, batches, prev_kv, fragment, .. } => {
                let Some(watch) = self.by_id(*watch_id) else {
                    return broken!("watch-id", format!("events for watch {watch_id}, unknown"));
                };
                ensure!(
                    (*prev_kv, *fragment) == (watch.wanted.prev_kv, watch.wanted.fragment),
                    "watch-flags",
                    "watch {watch_id}: previous pairs {prev_kv}, fragments {fragment}"
                );
                for refs in batches {
                    watch.wanted.events(model, refs)?;
                    heard.events += 1;
                }
            }
            WatchOut::Progress { watch_id: -1, revision } => {
                for watch in self.watches.iter_mut().flatten().filter(|w| w.id.is_some()) {
                    watch.wanted.progress(model, *revision)?;
                }
                heard.bookmarks += 1;
            }
            WatchOut::Progress { watch_id, revision } => {
                let Some(watch) = self.by_id(*watch_id).filter(|w| w.progress_notify) else {
                    return broken!("watch-id", format!("progress of watch {watch_id}, unasked"));
                };
                watch.wanted.progress(model, *revision)?;
                heard.bookmarks += 1;
            }
            WatchOut::Canceled { watch_id, compact_revision, .. } => {
                let Some(at) = self
                    .watches
                    .iter()
                    .position(|w| w.as_ref().is_some_and(|w| w.id == Some(*watch_id)))
                else {
                    return broken!("watch-id", format!("watch {watch_id} is canceled, unknown"));
                };
                let watch = self.watches[at].as_mut().expect("it was found");
                match compact_revision {
                    Some(compacted) => {
                        watch.wanted.compacted(model, *compacted)?;
                        heard.compacted += 1;
                        watch.id = None;
                        watch.begun = true;
                        if watch.cancelling {
                            self.watches[at] = None;
                        } else {
                            again.push(self.ask_for(at));
                        }
                    }
                    None => {
                        ensure!(
                            watch.cancelling,
                            "watch-canceled",
                            "watch {watch_id} is canceled by nobody"
                        );
                        self.watches[at] = None;
                    }
                }
            }
        }
        Ok(heard)
    }

    fn created(&mut self, watch_id: i64, revision: i64) -> Checked {
        let at = match self.creating.pop_front() {
            Some((Asked::Watch(at), _)) => at,
            other => return broken!("watch-created", format!("{other:?} is created")),
        };
        let watch = self.watches[at].as_mut().expect("nobody forgets a watch that is created");
        ensure!(
            watch.asked_id == 0 || watch.asked_id == watch_id,
            "watch-id",
            "watch {} was asked for, {watch_id} is created",
            watch.asked_id
        );
        ensure!(revision >= 1, "watch-header", "watch {watch_id} is created at {revision}");
        watch.id = Some(watch_id);
        if !watch.begun {
            watch.begun = true;
            let begin = if watch.start == 0 { revision + 1 } else { watch.start };
            watch.wanted.begin_at(begin);
        }
        let ids: Vec<i64> = self.watches.iter().flatten().filter_map(|w| w.id).collect();
        ensure!(all_different(&ids), "watch-id", "watches of one stream have the ids {ids:?}");
        Ok(())
    }

    /// The next revision of each watch, for the picture.
    pub fn resumes_at(&self) -> Vec<i64> {
        let next = |watch: &Watch| if watch.begun { watch.wanted.next } else { watch.start };
        self.watches.iter().flatten().map(next).collect()
    }

    /// Whether everything committed has been told to every watch.
    pub fn is_current(&mut self, model: &Model) -> bool {
        let end = model.revision() + 1;
        self.stream.is_some()
            && self.watches.iter_mut().flatten().all(|watch| {
                watch.cancelling || watch.id.is_some() && watch.wanted.owed(model, end).is_none()
            })
    }

    /// For the report of a watch that is told nothing more.
    pub fn owed(&mut self, model: &Model) -> String {
        let end = model.revision() + 1;
        let each: Vec<String> = self
            .watches
            .iter_mut()
            .flatten()
            .map(|w| {
                let owed = w.wanted.owed(model, end);
                format!("{:?} id {:?} next {} owed {owed:?}", w.wanted.range, w.id, w.wanted.next)
            })
            .collect();
        format!(
            "member {} group {} stream {:?}: {}",
            self.member,
            self.group,
            self.stream,
            each.join("; ")
        )
    }
}
