//! What waits to be sent to one peer: bounded, in two priorities.
//!
//! `push` is called from the core's thread and does no more than move values; encoding is done by
//! the task that writes. A closed outbox (no connection, back-off) drops at once: messages are
//! worth nothing seconds later, and Raft sends newer ones.

use super::frame::{PeerFrame, encode_peer_frame, is_urgent, message_cost};
use crate::codec::frame::{begin_frame, end_frame};
use crate::codec::raft::encode_message;
use crate::types::{Message, limits};
use bytes::{Bytes, BytesMut};
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

#[derive(Debug)]
pub enum Item {
    Message(Message),
    Node(Bytes),
}

impl Item {
    fn cost(&self) -> usize {
        match self {
            Item::Message(message) => message_cost(message),
            Item::Node(bytes) => bytes.len() + 32,
        }
    }
}

#[derive(Debug)]
pub struct Outbox {
    queue: Mutex<Queue>,
    /// Something was pushed, or dropped.
    pub wake: Notify,
    bytes_max: usize,
}

#[derive(Debug, Default)]
struct Queue {
    urgent: VecDeque<Item>,
    normal: VecDeque<Item>,
    /// Cost of everything in `normal`.
    normal_bytes: usize,
    open: bool,
    /// Something was dropped since the last `take_lost`.
    lost: bool,
}

impl Outbox {
    pub fn new(bytes_max: usize) -> Outbox {
        Outbox { queue: Mutex::default(), wake: Notify::new(), bytes_max }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues what there is room for; tells how many messages were dropped.
    pub fn push(&self, frame: PeerFrame) -> u64 {
        let mut dropped = 0;
        let mut queue = self.queue();
        match frame {
            PeerFrame::Raft(messages) => {
                for message in messages {
                    let urgent = is_urgent(&message);
                    dropped += queue.push(Item::Message(message), urgent, self.bytes_max);
                }
            }
            PeerFrame::Node(bytes) => {
                dropped += queue.push(Item::Node(bytes), false, self.bytes_max);
            }
            // The transport pings for itself.
            PeerFrame::Ping(_) | PeerFrame::Pong(_) => return 0,
        }
        queue.lost |= dropped > 0;
        drop(queue);
        self.wake.notify_one();
        dropped
    }

    /// From now on messages wait instead of being dropped.
    pub fn open(&self) {
        self.queue().open = true;
    }

    /// Drops what waits and what comes. Tells how much it was.
    pub fn close(&self) -> u64 {
        let mut queue = self.queue();
        let dropped = (queue.urgent.len() + queue.normal.len()) as u64;
        *queue = Queue { lost: queue.lost || dropped > 0, ..Queue::default() };
        dropped
    }

    /// Whether anything was dropped since this was asked last.
    pub fn take_lost(&self) -> bool {
        std::mem::take(&mut self.queue().lost)
    }

    pub fn is_empty(&self) -> bool {
        let queue = self.queue();
        queue.urgent.is_empty() && queue.normal.is_empty()
    }

    /// Moves about `bytes_max` out, what is urgent first, the rest in order.
    pub fn take(&self, bytes_max: usize, out: &mut Vec<Item>) {
        let mut queue = self.queue();
        let mut bytes = 0;
        while bytes < bytes_max {
            let item = if let Some(item) = queue.urgent.pop_front() {
                item
            } else if let Some(item) = queue.normal.pop_front() {
                queue.normal_bytes -= item.cost();
                item
            } else {
                return;
            };
            bytes += item.cost();
            out.push(item);
        }
    }
}

impl Queue {
    fn push(&mut self, item: Item, urgent: bool, bytes_max: usize) -> u64 {
        if !self.open {
            return 1;
        }
        if urgent {
            if self.urgent.len() >= limits::PEER_QUEUE_MESSAGES_MAX {
                return 1;
            }
            self.urgent.push_back(item);
            return 0;
        }
        let cost = item.cost();
        let full = self.normal.len() >= limits::PEER_QUEUE_MESSAGES_MAX
            // One that is larger than the bound alone still passes an empty queue.
            || (!self.normal.is_empty() && self.normal_bytes + cost > bytes_max);
        if full {
            return 1;
        }
        self.normal_bytes += cost;
        self.normal.push_back(item);
        0
    }
}

/// Encodes items as frames, messages that follow each other in one. Returns how many had to be
/// left out because no frame can hold them.
pub fn encode_items(items: &mut Vec<Item>, out: &mut BytesMut) -> u64 {
    let mut too_large = 0;
    // Where the frame begins that messages are being added to.
    let mut open: Option<usize> = None;
    for item in items.drain(..) {
        match item {
            Item::Message(message) => {
                let start = *open.get_or_insert_with(|| {
                    let start = begin_frame(out);
                    encode_peer_frame(&PeerFrame::Raft(Vec::new()), out);
                    start
                });
                let before = out.len();
                encode_message(&message, out);
                let payload = out.len() - before;
                if payload > limits::FRAME_BYTES_MAX / 2 {
                    out.truncate(before);
                    too_large += 1;
                } else if out.len() - start > limits::PEER_WRITE_BYTES {
                    end_frame(out, start);
                    open = None;
                }
            }
            Item::Node(bytes) => {
                if let Some(start) = open.take() {
                    end_frame(out, start);
                }
                if bytes.len() > limits::FRAME_BYTES_MAX / 2 {
                    too_large += 1;
                    continue;
                }
                let start = begin_frame(out);
                encode_peer_frame(&PeerFrame::Node(bytes), out);
                end_frame(out, start);
            }
        }
    }
    if let Some(start) = open {
        end_frame(out, start);
    }
    too_large
}
