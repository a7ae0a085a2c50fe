//! Clean nodes kept in memory, bounded in bytes.
//!
//! Sharded by page number so that readers rarely meet at a lock; each shard gives every node a
//! second chance before it goes (CLOCK). An entry answers only for the exact page reference it
//! was read under: a page that was reused since is a miss, never a wrong node.

use super::node::Node;
use super::page::PageRef;
use crate::types::map::Map;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// Enough that a handful of reader threads seldom wait; few enough that a small cache's shards
/// still hold several nodes each.
const SHARDS: usize = 16;

#[derive(Debug)]
struct Slot {
    at: PageRef,
    node: Arc<Node>,
    bytes: usize,
    used: bool,
}

#[derive(Debug, Default)]
struct Shard {
    by_page: Map<u64, usize>,
    slots: Vec<Slot>,
    hand: usize,
    bytes: usize,
}

#[derive(Debug)]
pub(super) struct Cache {
    shards: Vec<Mutex<Shard>>,
    bytes: AtomicU64,
}

impl Cache {
    pub fn new() -> Cache {
        Cache { shards: (0..SHARDS).map(|_| Mutex::default()).collect(), bytes: AtomicU64::new(0) }
    }

    fn shard(&self, page: u64) -> &Mutex<Shard> {
        // Extents are often two pages: fold the higher bits in so that no shard stays empty.
        &self.shards[((page ^ (page >> 4) ^ (page >> 9)) % SHARDS as u64) as usize]
    }

    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    pub fn get(&self, at: &PageRef) -> Option<Arc<Node>> {
        let mut shard = self.shard(at.page).lock().expect("no holder panics");
        let slot = *shard.by_page.get(&at.page)?;
        let slot = &mut shard.slots[slot];
        if slot.at != *at {
            return None;
        }
        slot.used = true;
        Some(Arc::clone(&slot.node))
    }

    /// Adds a clean node and drops others until the shard has no more than its part of `limit`.
    pub fn insert(&self, at: PageRef, node: Arc<Node>, limit: usize) {
        let bytes = node.bytes();
        // Dropping a node may free megabytes: not under the lock.
        let mut dropped = Vec::new();
        let mut shard = self.shard(at.page).lock().expect("no holder panics");
        let before = shard.bytes;
        if let Some(&old) = shard.by_page.get(&at.page) {
            dropped.push(shard.take(old));
        }
        let index = shard.slots.len();
        shard.slots.push(Slot { at, node, bytes, used: false });
        shard.by_page.insert(at.page, index);
        shard.bytes += bytes;
        while shard.bytes > limit / SHARDS && shard.slots.len() > 1 {
            let victim = shard.victim(at.page);
            dropped.push(shard.take(victim));
        }
        let after = shard.bytes;
        drop(shard);
        if after >= before {
            self.bytes.fetch_add((after - before) as u64, Ordering::Relaxed);
        } else {
            self.bytes.fetch_sub((before - after) as u64, Ordering::Relaxed);
        }
    }
}

impl Shard {
    /// The next slot whose second chance is used up, never the one of page `keep`.
    fn victim(&mut self, keep: u64) -> usize {
        loop {
            self.hand = if self.hand + 1 >= self.slots.len() { 0 } else { self.hand + 1 };
            let slot = &mut self.slots[self.hand];
            if slot.at.page == keep {
                continue;
            }
            if !std::mem::take(&mut slot.used) {
                return self.hand;
            }
        }
    }

    fn take(&mut self, index: usize) -> Slot {
        let slot = self.slots.swap_remove(index);
        self.by_page.remove(&slot.at.page);
        if let Some(moved) = self.slots.get(index) {
            self.by_page.insert(moved.at.page, index);
        }
        self.bytes -= slot.bytes;
        slot
    }
}
