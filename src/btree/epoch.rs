//! Which pages live views may still read.
//!
//! Every begun checkpoint opens an epoch. A view made in epoch `e` comes from a tree whose pages
//! are all part of checkpoint `e` or newer, so a page that checkpoint `f` was the first to do
//! without can be read only by views of epochs before `f`.

use std::sync::{Arc, Mutex, Weak};

/// Held by every view of an epoch.
#[derive(Debug)]
pub(super) struct Pin {
    pub epoch: u64,
}

#[derive(Debug)]
pub(super) struct Epochs {
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// The newest checkpoint that has begun: for views of trees that live in memory.
    current: Arc<Pin>,
    /// The newest checkpoint that is durable: for trees opened from it.
    durable: Arc<Pin>,
    /// Every epoch that may still have views, oldest first.
    all: Vec<Weak<Pin>>,
}

impl Epochs {
    pub fn new(checkpoint: u64) -> Epochs {
        let pin = Arc::new(Pin { epoch: checkpoint });
        let all = vec![Arc::downgrade(&pin)];
        Epochs { inner: Mutex::new(Inner { current: Arc::clone(&pin), durable: pin, all }) }
    }

    fn inner(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().expect("no holder panics")
    }

    pub fn current(&self) -> Arc<Pin> {
        Arc::clone(&self.inner().current)
    }
    pub fn durable(&self) -> Arc<Pin> {
        Arc::clone(&self.inner().durable)
    }

    /// A checkpoint begins: views made from now on do not see pages it does without.
    pub fn begin(&self, checkpoint: u64) {
        let pin = Arc::new(Pin { epoch: checkpoint });
        let mut inner = self.inner();
        assert!(inner.current.epoch < checkpoint, "epochs go forward");
        inner.all.push(Arc::downgrade(&pin));
        inner.current = pin;
    }

    /// The checkpoint that began last is durable.
    pub fn done(&self) {
        let mut inner = self.inner();
        inner.durable = Arc::clone(&inner.current);
    }

    /// The oldest epoch that a live view belongs to.
    pub fn oldest(&self) -> u64 {
        let mut inner = self.inner();
        inner.all.retain(|pin| pin.strong_count() > 0);
        let oldest = inner.all.iter().find_map(Weak::upgrade);
        oldest.expect("the current epoch is always alive").epoch
    }
}
