//! Negative controls of what a watcher of whole servers is told.

use super::Watcher;
use crate::model::Model;
use crate::rules::control::control;
use crate::safety::Checked;
use quorate::api::proto::{etcdserverpb as pb, mvccpb};
use quorate::types::command::PutRequest;
use quorate::types::{Command, KeyRange, Term};
use std::sync::Mutex;
use std::sync::atomic::AtomicI64;

/// A key is written at revisions 2 and 3.
fn model() -> Model {
    let mut model = Model::default();
    for value in ["a", "b"] {
        let put = PutRequest { key: "k".into(), value: value.into(), ..PutRequest::default() };
        model.apply(&Command::Put(put), Term(1)).reply.expect("a put");
    }
    model
}

/// Told of everything up to there.
fn judged(done: i64, revision: i64, events: &[i64]) -> Checked {
    let watcher = Watcher {
        range: KeyRange::single("k"),
        prev_kv: false,
        no_put: false,
        no_delete: false,
        fragment: false,
        done: AtomicI64::new(done),
        host: Mutex::new(0),
    };
    let event = |at: &i64| mvccpb::Event {
        kv: Some(mvccpb::KeyValue {
            key: "k".into(),
            value: ["a", "b"][*at as usize - 2].into(),
            create_revision: 2,
            mod_revision: *at,
            version: *at - 1,
            ..Default::default()
        }),
        ..Default::default()
    };
    let told = pb::WatchResponse {
        header: Some(pb::ResponseHeader { revision, ..Default::default() }),
        events: events.iter().map(event).collect(),
        ..Default::default()
    };
    watcher.judged(&model(), 0, &told).map(drop)
}

pub fn self_check() {
    control("watch-future", |spoilt| judged(3, if spoilt { 4 } else { 3 }, &[]));
    control("watch-gap", |spoilt| judged(if spoilt { 2 } else { 3 }, 3, &[]));
    control("watch-events", |spoilt| judged(1, 3, if spoilt { &[3] } else { &[2, 3] }));
    control("watch-order", |spoilt| judged(1, 3, if spoilt { &[3, 2] } else { &[2, 3] }));
}
