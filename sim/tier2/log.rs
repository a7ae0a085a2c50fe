//! What members log: lines of the story, and proof that a refusal was said aloud.

use super::story::{Story, lock};
use madsim::task::NodeId;
use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use tracing::field::{Field, Visit};
use tracing::span;
use tracing::{Event, Level, Metadata, Subscriber};

/// What was logged and counts.
#[derive(Default)]
pub struct Heard {
    /// The machines of all processes.
    machines: Mutex<BTreeMap<NodeId, usize>>,
    /// Refusals of a foreign cluster, by the machine that logged them.
    refusals: Mutex<BTreeMap<usize, u64>>,
    installs: AtomicU64,
}

impl Heard {
    pub fn know(&self, process: NodeId, host: usize) {
        lock(&self.machines).insert(process, host);
    }
    /// The machine whose process runs now.
    fn machine(&self) -> Option<usize> {
        lock(&self.machines).get(&madsim::plugin::node()).copied()
    }
    /// Raft snapshots that members have installed.
    pub fn installs(&self) -> u64 {
        self.installs.load(Ordering::Relaxed)
    }
    /// Refusals by this machine.
    pub fn refused_by(&self, host: usize) -> u64 {
        lock(&self.refusals).get(&host).copied().unwrap_or(0)
    }
    /// By all the others.
    pub fn refused_but(&self, host: usize) -> u64 {
        lock(&self.refusals).iter().filter(|(by, _)| **by != host).map(|(_, count)| count).sum()
    }
}

/// Takes the place of the server's log on a seed's thread.
pub struct Log {
    pub story: Arc<Story>,
    pub heard: Arc<Heard>,
}

impl Subscriber for Log {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::INFO && metadata.target().starts_with("quorate")
    }
    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }
    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = Line::default();
        event.record(&mut line);
        let host = self.heard.machine();
        if line.message.contains("cluster ID mismatch")
            && let Some(host) = host
        {
            *lock(&self.heard.refusals).entry(host).or_default() += 1;
        }
        if line.message == "installed a raft snapshot" {
            self.heard.installs.fetch_add(1, Ordering::Relaxed);
        }
        self.story.note(|| {
            let who = host.map_or_else(|| "-".to_owned(), |host| host.to_string());
            format!("{who} logs {}: {}{}", event.metadata().level(), line.message, line.fields)
        });
    }
}

/// An event as one line.
#[derive(Default)]
struct Line {
    message: String,
    fields: String,
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing to a string does not fail.
        let _ = if field.name() == "message" {
            write!(self.message, "{value:?}")
        } else {
            write!(self.fields, " {}={value:?}", field.name())
        };
    }
}
