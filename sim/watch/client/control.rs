//! Negative controls of what a watcher hears about its watches, besides their events.

use super::{Asked, Watch, Watcher};
use crate::model::Model;
use crate::plan::Plan;
use crate::rules::control::control;
use crate::safety::Checked;
use crate::watch::judge::Wanted;
use quorate::mvcc::watch::{Filters, Refusal, WatchOut};
use quorate::types::KeyRange;

const ID: i64 = 7;

/// A watcher that has asked for one watch, and not been answered.
fn asking() -> Watcher {
    let wanted = Wanted::new(KeyRange::single("a"), Filters::default(), true, false, 0);
    let watch = Watch {
        wanted,
        progress_notify: false,
        start: 0,
        begun: false,
        id: None,
        asked_id: 0,
        cancelling: false,
    };
    let mut watcher = Watcher::new(&Plan::new(1), 0);
    watcher.watches = vec![Some(watch)];
    watcher.creating = [(Asked::Watch(0), None)].into();
    watcher
}

fn hear(watcher: &mut Watcher, out: WatchOut) -> Checked {
    watcher.hear(&Model::default(), &out, &mut Vec::new()).map(drop)
}

/// And has been answered.
fn watching() -> Watcher {
    let mut watcher = asking();
    hear(&mut watcher, WatchOut::Created { watch_id: ID, revision: 5 }).expect("as asked");
    watcher
}

pub fn self_check() {
    let progress = |revision| WatchOut::Progress { watch_id: -1, revision };
    control("watch-header", |spoilt| hear(&mut watching(), progress(if spoilt { 4 } else { 5 })));
    control("watch-refused", |spoilt| {
        let mut watcher = asking();
        let other = if spoilt { Refusal::DuplicateId } else { Refusal::EmptyRange };
        watcher.creating = [(Asked::Nonsense(0), Some(other))].into();
        hear(&mut watcher, WatchOut::Refused { reason: Refusal::EmptyRange, revision: 5 })
    });
    control("watch-created", |spoilt| {
        let mut watcher = asking();
        if spoilt {
            watcher.creating.clear();
        }
        hear(&mut watcher, WatchOut::Created { watch_id: ID, revision: 5 })
    });
    let events = |watch_id, prev_kv| WatchOut::Events {
        watch_id,
        revision: 5,
        batches: vec![],
        prev_kv,
        fragment: false,
    };
    control("watch-flags", |spoilt| hear(&mut watching(), events(ID, !spoilt)));
    control("watch-id", |spoilt| hear(&mut watching(), events(ID + i64::from(spoilt), true)));
    control("watch-canceled", |spoilt| {
        let mut watcher = watching();
        watcher.by_id(ID).expect("it is there").cancelling = !spoilt;
        let canceled = WatchOut::Canceled { watch_id: ID, compact_revision: None, revision: 5 };
        hear(&mut watcher, canceled)
    });
}
