//! What a member does, effect by effect, and crashes between any two of them.
//!
//! A *step* is one turn of the core, one piece of a lane's work, or a start, the founding of a data
//! directory included. Its effects, in order, are
//! messages that leave, work that is queued, answers, what is told to the core, and every
//! operation on the disk. Each pair of neighbours (the step's begin and end included) is counted:
//! how often it was seen and how often a crash fell right between the two. A pair that was seen and
//! never crashed in is a gap, and the run names it.
//!
//! Crashes get there in four ways: by the act `crash-between` (effects of the member), by
//! `crash-in-write` (operations of its disk), by `crash-rare` (the next of a pair that the run has
//! seldom seen), and by a `Point`, which the enumerator names.

use quorate::io::MemDisk;
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

macro_rules! kinds {
    ($($name:ident $text:literal,)*) => {
        /// Effects that are not the disk's.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Effect { $($name,)* }
        const EFFECTS: &[&str] = &[$($text,)*];
    };
}

kinds! {
    // Begins of steps.
    Turn "turn",
    LogWrite "log-write",
    LogSync "log-sync",
    LogRead "log-read",
    Apply "apply",
    Background "background",
    Serve "serve",
    Install "install",
    Publish "publish",
    Upkeep "watch-upkeep",
    Boot "boot",
    // What they do.
    Send "send",
    QueueLogWrite "queue-log-write",
    QueueApply "queue-apply",
    QueuePin "queue-pin",
    QueueLogRead "queue-log-read",
    QueueServe "queue-serve",
    QueueInstall "queue-install",
    Answer "answer",
    Root "follow-root",
    Tell "tell",
    // The step is over.
    End "end",
}

const OPERATIONS: [&str; 8] =
    ["open", "write", "truncate", "allocate", "sync", "rename", "unlink", "mkdir"];
const PLACES: [&str; 4] = ["segment", "spare", "store", "other"];
const SYNC_DIR: u8 = 0x40;
const DISK: u8 = 0x80;

/// An effect of any kind, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Kind(u8);

impl Kind {
    pub fn is_disk(self) -> bool {
        self.0 >= SYNC_DIR
    }
    /// What the disk calls it, if it is one of its operations.
    pub fn operation(self) -> Option<u8> {
        self.is_disk().then_some(self.0)
    }
    /// The kind of a disk operation.
    fn of_operation(op: &str, path: &Path) -> u8 {
        let path = path.to_string_lossy();
        let place = if path.contains("/wal/") && path.ends_with(".tmp") {
            1
        } else if path.contains("/wal") {
            0
        } else if path.contains("snap/db") {
            2
        } else {
            3
        };
        match OPERATIONS.iter().position(|o| *o == op) {
            Some(operation) => DISK | (operation as u8) << 2 | place,
            None => SYNC_DIR | place,
        }
    }
}

impl From<Effect> for Kind {
    fn from(effect: Effect) -> Kind {
        Kind(effect as u8)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = PLACES[usize::from(self.0 & 3)];
        if self.0 & DISK != 0 {
            write!(f, "{}-{place}", OPERATIONS[usize::from((self.0 & !DISK) >> 2)])
        } else if self.0 & SYNC_DIR != 0 {
            write!(f, "sync-dir-{place}")
        } else {
            write!(f, "{}", EFFECTS[usize::from(self.0)])
        }
    }
}

/// Two neighbours.
pub type Pair = (Kind, Kind);

#[derive(Clone, Copy, Debug, Default)]
pub struct PairCount {
    pub seen: u64,
    pub crashed: u64,
}

/// One place between two effects of a run: in which event, before which effect of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub member: usize,
    /// Number of the event (as the trace counts).
    pub event: u64,
    /// Which effect of that event: counted among the disk's or among the others.
    pub nth: u64,
    pub pair: Pair,
}

/// Counts pairs, and knows when a member is to crash.
#[derive(Default)]
pub struct Effects {
    pub pairs: BTreeMap<Pair, PairCount>,
    /// The member whose step is under way, its newest effect, and how many it has had: the disk's
    /// and the others.
    step: Option<(usize, Kind, u64, u64)>,
    event: u64,
    /// All places, if somebody wants to crash at each.
    pub places: Option<Vec<Place>>,
}

impl Effects {
    /// `keep` lists every place.
    pub fn new(keep: bool) -> Effects {
        Effects { places: keep.then(Vec::new), ..Effects::default() }
    }

    pub fn watch(disk: &MemDisk) {
        disk.watch(Kind::of_operation);
    }

    /// A step of member `m` begins.
    pub fn begin(&mut self, m: usize, disk: &MemDisk, event: u64, kind: Effect) {
        disk.watched();
        if self.event != event {
            self.event = event;
            self.step = Some((m, kind.into(), 0, 0));
        } else if let Some((_, newest, ..)) = self.step.as_mut().filter(|s| s.0 == m) {
            *newest = kind.into();
        } else {
            self.step = Some((m, kind.into(), 0, 0));
        }
    }

    /// What the disk has done since: each operation is an effect of the step.
    pub fn drain(&mut self, m: usize, disk: &MemDisk) {
        let cut = disk.is_off();
        let seen = disk.watched();
        let Some((_, newest, disk_nth, _)) = self.step.as_mut().filter(|s| s.0 == m) else {
            return;
        };
        let last = seen.len();
        for (at, kind) in seen.into_iter().enumerate() {
            let pair = (*newest, Kind(kind));
            *newest = Kind(kind);
            let count = self.pairs.entry(pair).or_default();
            count.seen += 1;
            count.crashed += u64::from(cut && at + 1 == last);
            if let Some(places) = &mut self.places {
                places.push(Place { member: m, event: self.event, nth: *disk_nth, pair });
            }
            *disk_nth += 1;
        }
    }

    /// The next effect is due: its pair, and its number in the event.
    pub fn before(&mut self, m: usize, disk: &MemDisk, kind: Effect) -> Option<(Pair, u64)> {
        self.drain(m, disk);
        let (_, newest, _, nth) = self.step.as_mut().filter(|s| s.0 == m)?;
        let pair = (*newest, kind.into());
        *newest = kind.into();
        let number = *nth;
        *nth += 1;
        self.pairs.entry(pair).or_default().seen += 1;
        if let Some(places) = &mut self.places {
            places.push(Place { member: m, event: self.event, nth: number, pair });
        }
        Some((pair, number))
    }

    /// One of the pairs that were seen so far: of those without a crash yet, one that came seldom
    /// rather than one that came often.
    pub fn rare_pair(&self, draw: u64) -> Option<Pair> {
        let mut open: Vec<(u64, Pair)> = self
            .pairs
            .iter()
            .filter(|(_, count)| count.crashed == 0)
            .map(|(pair, count)| (count.seen, *pair))
            .collect();
        open.sort_unstable();
        // The smaller of two draws.
        let n = open.len() as u64;
        let at = (draw % n.max(1)).min((draw >> 16) % n.max(1));
        open.get(at as usize).map(|(_, pair)| *pair)
    }

    pub fn crashed(&mut self, pair: Pair) {
        self.pairs.entry(pair).or_default().crashed += 1;
        self.step = None;
    }
}

pub fn merge(into: &mut BTreeMap<Pair, PairCount>, from: &BTreeMap<Pair, PairCount>) {
    for (pair, count) in from {
        let sum = into.entry(*pair).or_default();
        sum.seen += count.seen;
        sum.crashed += count.crashed;
    }
}

/// Pairs that are named at most: a short run misses many.
const NAMED_MAX: usize = 24;

/// What a run says of its pairs.
pub fn report(pairs: &BTreeMap<Pair, PairCount>) -> String {
    let hit = pairs.values().filter(|c| c.crashed > 0).count();
    let never: Vec<String> = pairs
        .iter()
        .filter(|(_, c)| c.crashed == 0)
        .map(|((a, b), c)| format!("{a}|{b} (seen {})", c.seen))
        .collect();
    let named = &never[..never.len().min(NAMED_MAX)];
    let crashes: u64 = pairs.values().map(|c| c.crashed).sum();
    format!(
        "crash pairs: {hit} of {} hit, {crashes} crashes between effects{}{}",
        pairs.len(),
        if never.is_empty() { "" } else { "; never hit: " },
        named.join(", ")
    )
}
