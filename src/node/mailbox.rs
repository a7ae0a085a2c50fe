//! A queue that many threads fill and one loop drains whole.
//!
//! Senders take a short lock and wake the loop only when the queue was empty: a batch of a
//! hundred proposals costs one wake-up. The loop swaps the whole queue out, so what arrives while
//! it works forms its next batch.
//!
//! It knows nothing of what it carries; bounds are the sender's to keep (`try_send` refuses
//! beyond a limit, `send` is for what is bounded elsewhere).

use std::sync::Mutex;
use tokio::sync::Notify;

pub struct Mailbox<T> {
    queue: Mutex<Vec<T>>,
    filled: Notify,
}

impl<T> Default for Mailbox<T> {
    fn default() -> Mailbox<T> {
        Mailbox { queue: Mutex::new(Vec::new()), filled: Notify::new() }
    }
}

impl<T> Mailbox<T> {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<T>> {
        // A panic while holding this lock cannot leave the Vec half-changed.
        self.queue.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub fn send(&self, item: T) {
        let was_empty = {
            let mut queue = self.lock();
            queue.push(item);
            queue.len() == 1
        };
        if was_empty {
            self.filled.notify_one();
        }
    }

    /// Refuses when `limit` items wait already, and gives the item back.
    pub fn try_send(&self, item: T, limit: usize) -> Result<(), T> {
        let was_empty = {
            let mut queue = self.lock();
            if queue.len() >= limit {
                return Err(item);
            }
            queue.push(item);
            queue.len() == 1
        };
        if was_empty {
            self.filled.notify_one();
        }
        Ok(())
    }

    /// Takes everything that waits, without waiting. `into` must be empty; its storage is
    /// reused for the queue.
    pub fn take(&self, into: &mut Vec<T>) {
        debug_assert!(into.is_empty(), "a batch was not finished");
        std::mem::swap(&mut *self.lock(), into);
    }

    pub fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// Resolves once something waits. One loop only may wait.
    pub async fn filled(&self) {
        loop {
            if !self.is_empty() {
                return;
            }
            self.filled.notified().await;
        }
    }
}
