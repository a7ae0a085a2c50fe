//! Tasks: how the async shell runs several loops at once.

use super::BoxFuture;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use tokio::sync::Notify;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskKind {
    /// Among others, on the shared runtime: must never block.
    Shared,
    /// On a thread of its own (in production), so it may block on the disk; time and network
    /// work there too.
    Dedicated,
}

pub trait Tasks: Send + Sync {
    fn spawn(&self, name: &'static str, kind: TaskKind, task: BoxFuture<()>) -> TaskHandle;
}

/// A running task. Dropping the handle leaves it running.
#[derive(Clone, Debug)]
pub struct TaskHandle {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    aborted: AtomicBool,
    /// The future is gone: returned, aborted or panicked.
    finished: AtomicBool,
    waker: Mutex<Option<Waker>>,
    on_finish: Notify,
}

impl TaskHandle {
    /// Ends the task where it next waits: its future is dropped there, soon but not at once.
    pub fn abort(&self) {
        self.shared.aborted.store(true, Ordering::Release);
        let waker = self.shared.waker.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    pub fn is_finished(&self) -> bool {
        self.shared.finished.load(Ordering::Acquire)
    }

    /// Waits until the task's future is gone, for whatever reason.
    pub async fn finished(&self) {
        loop {
            let notified = self.shared.on_finish.notified();
            // Created before the check, so that no finish falls between the two.
            if self.is_finished() {
                return;
            }
            notified.await;
        }
    }
}

/// For implementations of `Tasks`: a future to run in place of `task`, which ends when the handle
/// says so, and the handle.
pub fn supervise(task: BoxFuture<()>) -> (BoxFuture<()>, TaskHandle) {
    let shared = Arc::new(Shared::default());
    let mut supervised = Supervised { task: Some(task), shared: shared.clone() };
    (Box::pin(poll_fn(move |cx| supervised.poll(cx))), TaskHandle { shared })
}

struct Supervised {
    task: Option<BoxFuture<()>>,
    shared: Arc<Shared>,
}

impl Supervised {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        *self.shared.waker.lock().unwrap_or_else(PoisonError::into_inner) =
            Some(cx.waker().clone());
        // After leaving the waker: an abort from here on wakes us.
        if !self.shared.aborted.load(Ordering::Acquire)
            && let Some(task) = &mut self.task
            && Pin::new(task).poll(cx).is_pending()
        {
            return Poll::Pending;
        }
        self.finish();
        Poll::Ready(())
    }

    fn finish(&mut self) {
        self.task = None;
        self.shared.finished.store(true, Ordering::Release);
        self.shared.on_finish.notify_waiters();
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        self.finish();
    }
}
