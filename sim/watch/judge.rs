//! What a watch must be told, from the committed log alone.
//!
//! A watch is a range, filters and the first revision not seen yet. Everything it is sent is held
//! against the model's events: in order, each once, none left out, a revision never split, as it
//! was committed and with the right previous pair. Progress is a promise that nothing is missing
//! before it; a cancellation for compaction has to be for a compaction that happened and that took
//! what this watch needed next.

use crate::model::Model;
use crate::safety::{Checked, broken, ensure};
use quorate::mvcc::watch::{EventRefs, Filters, WatchOut};
use quorate::types::KeyRange;
use quorate::types::reply::{Event, EventKind};
use std::collections::BTreeSet;

/// What one watch asked for and how far it has been told.
#[derive(Clone, Debug)]
pub struct Wanted {
    pub range: KeyRange,
    pub filters: Filters,
    pub prev_kv: bool,
    pub fragment: bool,
    /// The first revision of which nothing was told: where it would resume.
    pub next: i64,
    /// No event is wanted from `next` up to here, exclusive: so that each revision is looked at
    /// once.
    quiet_until: i64,
}

impl Wanted {
    pub fn new(
        range: KeyRange,
        filters: Filters,
        prev_kv: bool,
        fragment: bool,
        next: i64,
    ) -> Wanted {
        Wanted { range, filters, prev_kv, fragment, next, quiet_until: next }
    }

    /// From here on: after its creation, or after a compaction took what came before.
    pub fn begin_at(&mut self, revision: i64) {
        self.next = revision;
        self.quiet_until = revision;
    }

    fn wants(&self, event: &Event) -> bool {
        self.range.contains(&event.kv.key)
            && match event.kind {
                EventKind::Put => !self.filters.no_put,
                EventKind::Delete => !self.filters.no_delete,
            }
    }

    /// The wanted events of a revision. At a compact revision only the newest change of each key
    /// is sure to be left.
    fn of_revision<'m>(&self, model: &'m Model, revision: i64, thinned: bool) -> Vec<&'m Event> {
        let events = model.events_at(revision);
        let mut wanted: Vec<&Event> = Vec::new();
        for (at, event) in events.iter().enumerate() {
            let superseded = thinned && events[at + 1..].iter().any(|e| e.kv.key == event.kv.key);
            if !superseded && self.wants(event) {
                wanted.push(event);
            }
        }
        wanted
    }

    /// The first revision below `end` of which this watch has to be told something.
    pub fn owed(&mut self, model: &Model, end: i64) -> Option<i64> {
        let mut revision = self.quiet_until.max(self.next).max(2);
        while revision < end {
            let thinned = model.was_compacted_at(revision);
            if !self.of_revision(model, revision, thinned).is_empty() {
                break;
            }
            revision += 1;
        }
        self.quiet_until = revision.max(self.quiet_until);
        (revision < end).then_some(revision)
    }

    /// One revision's events arrive.
    pub fn events(&mut self, model: &Model, refs: &EventRefs) -> Checked {
        let revision = refs.revision;
        ensure!(
            revision >= self.next,
            "watch-order",
            "{:?} is told of revision {revision}, it had been told up to {}",
            self.range,
            self.next - 1
        );
        if let Some(missing) = self.owed(model, revision) {
            return broken!(
                "watch-missing",
                format!(
                    "{:?} is told of revision {revision}, nothing of {missing}: {:?}",
                    self.range,
                    model.events_at(missing)
                ),
            );
        }
        let told: Vec<&Event> = refs.iter().collect();
        ensure!(!told.is_empty(), "watch-empty", "{:?}: nothing at {revision}", self.range);
        for event in &told {
            ensure!(
                event.kv.mod_revision == revision && self.wants(event),
                "watch-filter",
                "{:?} with {:?} is told {event:?} at revision {revision}",
                self.range,
                self.filters
            );
            let created = event.kv.create_revision == event.kv.mod_revision;
            ensure!(
                event.kind == EventKind::Delete || created == (event.kv.version == 1),
                "watch-is-create",
                "{event:?}"
            );
        }
        let whole = self.of_revision(model, revision, false);
        let same = |expected: &[&Event]| {
            expected.len() == told.len()
                && expected.iter().zip(&told).all(|(e, t)| e.kind == t.kind && e.kv == t.kv)
        };
        let thinned = model
            .was_compacted_at(revision)
            .then(|| self.of_revision(model, revision, true))
            .filter(|thinned| same(thinned));
        let expected = match thinned {
            Some(thinned) if !same(&whole) => thinned,
            _ => whole,
        };
        ensure!(
            same(&expected),
            "watch-atomic",
            "{:?} at revision {revision} is told\n  {told:?}\n  expected {expected:?}",
            self.range
        );
        for (expected, told) in expected.iter().zip(&told) {
            // A previous pair may be gone with a compaction; it is never another one.
            let gone = revision - 1 < model.compacted();
            ensure!(
                told.prev_kv == expected.prev_kv
                    || told.prev_kv.is_none() && (gone || !self.prev_kv),
                "watch-prev-kv",
                "{:?} at revision {revision} is told {told:?}, the previous pair was {:?}",
                self.range,
                expected.prev_kv
            );
        }
        self.begin_at(revision + 1);
        Ok(())
    }

    /// Everything up to `revision` is said to have been told.
    pub fn progress(&mut self, model: &Model, revision: i64) -> Checked {
        if let Some(missing) = self.owed(model, revision + 1) {
            return broken!(
                "watch-bookmark",
                format!(
                    "{:?} is told of progress to {revision}, and was told nothing of {missing}",
                    self.range
                ),
            );
        }
        if revision >= self.next {
            self.begin_at(revision + 1);
        }
        Ok(())
    }

    /// It ends because `compacted` is said to have taken what it needed next.
    pub fn compacted(&mut self, model: &Model, compacted: i64) -> Checked {
        ensure!(
            model.was_compacted_at(compacted) && self.next < compacted,
            "watch-compacted",
            "{:?} is canceled for a compaction at {compacted}, its next revision is {}",
            self.range,
            self.next
        );
        self.begin_at(compacted);
        Ok(())
    }
}

/// What leaves a member for a watcher: nothing of it may lie ahead of what is committed.
pub fn handed_out(model: &Model, outs: &[WatchOut]) -> Checked {
    for out in outs {
        let (header, newest) = match out {
            WatchOut::Created { revision, .. }
            | WatchOut::Refused { revision, .. }
            | WatchOut::Canceled { revision, .. }
            | WatchOut::Progress { revision, .. } => (*revision, *revision),
            WatchOut::Events { revision, batches, .. } => {
                (*revision, batches.last().map_or(0, |refs| refs.revision))
            }
        };
        ensure!(
            newest <= header && header <= model.revision(),
            "watch-uncommitted",
            "a watcher is told of {newest} under header {header}, {} is committed",
            model.revision()
        );
    }
    Ok(())
}

/// Whether two watches of one stream can be told apart.
pub fn all_different(ids: &[i64]) -> bool {
    ids.iter().collect::<BTreeSet<_>>().len() == ids.len()
}
