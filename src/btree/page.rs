//! The bytes of a node, in memory and on disk alike.
//!
//! A node is a header, an array of slots growing upward and a heap of entries growing downward.
//! A slot holds the distance of its entry from the *end* of the buffer, so that a buffer can be
//! made longer or shorter by moving the two halves, without touching a slot. Leaves and inner
//! nodes share this layout; an inner node's values are `ChildRecord`s of fixed size.
//!
//! Nothing here knows files, trees or threads. Bytes from a disk become a `Slotted` only through
//! `Slotted::from_page`, which checks everything that the accessors later rely on, so that no
//! page can make them panic.

use bytes::{Bytes, BytesMut};
use std::cmp::Ordering;

/// The unit of allocation, and of everything that is aligned in the file.
pub(super) const PAGE_BYTES: usize = 4096;
/// Bytes before the first slot. See the drawing in `mod.rs`.
pub(super) const HEADER_BYTES: usize = 32;
const SLOT_BYTES: usize = 4;
/// The top bit of a slot: the entry counts as live.
const LIVE: u32 = 1 << 31;
/// First byte of every node page.
const NODE_MAGIC: u8 = 0xb7;
/// No tree is higher: 24 levels of fan-out two would be 16 million entries of 2 MiB each.
pub(super) const LEVEL_MAX: u8 = 40;

/// Where a node lies in the file, and what its bytes must be: the checkpoint that wrote it and
/// the CRC of the whole extent. It sits in the parent, so that a page that is rotten, torn, in
/// the wrong place or was never written is noticed when it is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PageRef {
    /// Number of the first page; pages 0 and 1 are the metas, so 0 never names a node.
    pub page: u64,
    pub checkpoint: u64,
    pub crc: u32,
    /// Pages of the extent, at least 1.
    pub pages: u32,
}

impl PageRef {
    pub const BYTES: usize = 24;

    pub fn encode(&self, out: &mut [u8]) {
        out[0..8].copy_from_slice(&self.page.to_le_bytes());
        out[8..16].copy_from_slice(&self.checkpoint.to_le_bytes());
        out[16..20].copy_from_slice(&self.crc.to_le_bytes());
        out[20..24].copy_from_slice(&self.pages.to_le_bytes());
    }
    pub fn decode(bytes: &[u8]) -> PageRef {
        PageRef {
            page: u64_at(bytes, 0),
            checkpoint: u64_at(bytes, 8),
            crc: u32_at(bytes, 16),
            pages: u32_at(bytes, 20),
        }
    }
    pub fn offset(&self) -> u64 {
        self.page.saturating_mul(PAGE_BYTES as u64)
    }
}

/// What an inner node holds per child. `page` is meaningless while the child is dirty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ChildRecord {
    pub page: PageRef,
    /// Entries, and live ones among them, in the whole subtree.
    pub entries: u64,
    pub live: u64,
}

impl ChildRecord {
    pub const BYTES: usize = PageRef::BYTES + 16;
    pub const UNWRITTEN: PageRef = PageRef { page: 0, checkpoint: 0, crc: 0, pages: 0 };

    pub fn encode(&self) -> [u8; ChildRecord::BYTES] {
        let mut out = [0; ChildRecord::BYTES];
        self.page.encode(&mut out);
        out[24..32].copy_from_slice(&self.entries.to_le_bytes());
        out[32..40].copy_from_slice(&self.live.to_le_bytes());
        out
    }
    pub fn decode(bytes: &[u8]) -> ChildRecord {
        ChildRecord {
            page: PageRef::decode(bytes),
            entries: u64_at(bytes, 24),
            live: u64_at(bytes, 32),
        }
    }
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("a slice of four bytes"))
}
pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("a slice of eight bytes"))
}

/// Bytes of a length prefix: seven bits per byte, low ones first.
fn len_bytes(len: usize) -> usize {
    match len {
        0..0x80 => 1,
        0x80..0x4000 => 2,
        0x4000..0x20_0000 => 3,
        0x20_0000..0x1000_0000 => 4,
        _ => 5,
    }
}

fn put_len(out: &mut [u8], at: usize, mut len: usize) -> usize {
    let mut at = at;
    while len >= 0x80 {
        out[at] = (len as u8) | 0x80;
        len >>= 7;
        at += 1;
    }
    out[at] = len as u8;
    at + 1
}

/// A length and where the bytes behind it start. The page was checked: this stays inside.
#[inline]
fn get_len(bytes: &[u8], at: usize) -> (usize, usize) {
    let first = bytes[at];
    if first < 0x80 {
        return (first as usize, at + 1);
    }
    let (mut len, mut shift, mut at) = ((first & 0x7f) as usize, 7, at + 1);
    loop {
        let byte = bytes[at];
        at += 1;
        len |= ((byte & 0x7f) as usize) << shift;
        if byte < 0x80 {
            return (len, at);
        }
        shift += 7;
    }
}

/// As `get_len`, for bytes nobody has looked at yet.
fn check_len(bytes: &[u8], at: usize) -> Option<(usize, usize)> {
    let (mut len, mut at) = (0u64, at);
    for shift in 0..5 {
        let byte = *bytes.get(at)?;
        at += 1;
        len |= u64::from(byte & 0x7f) << (7 * shift);
        if byte < 0x80 {
            return Some((usize::try_from(len).ok()?, at));
        }
    }
    None
}

/// Heap bytes of one entry.
pub(super) fn entry_bytes(key: usize, value: usize) -> usize {
    len_bytes(key) + key + len_bytes(value) + value
}

/// A node's bytes with the counts that are needed at every step taken out of the header.
///
/// Invariants: `HEADER_BYTES + 4 * count + heap <= buf.len()`; every slot's distance is in
/// `1..=heap`; keys ascend; `dead <= heap` counts heap bytes no slot points at; `live` counts
/// the slots with the live bit.
///
/// The buffer is a `Bytes`, so that readers get slices of it. Editing takes it back when nobody
/// holds a slice (the usual case, no copy) and copies it otherwise.
#[derive(Clone, Debug)]
pub(super) struct Slotted {
    buf: Bytes,
    count: usize,
    heap: usize,
    dead: usize,
    live: usize,
}

impl Slotted {
    pub fn with_capacity(bytes: usize) -> Slotted {
        let bytes = bytes.max(HEADER_BYTES);
        Slotted { buf: Bytes::from(vec![0; bytes]), count: 0, heap: 0, dead: 0, live: 0 }
    }

    /// A copy nobody else has a slice of.
    pub fn unshared(&self) -> Slotted {
        Slotted { buf: Bytes::from(self.buf.to_vec()), ..*self }
    }

    pub fn len(&self) -> usize {
        self.count
    }
    pub fn live(&self) -> usize {
        self.live
    }
    /// Length of the buffer, used or not.
    pub fn buffer_bytes(&self) -> usize {
        self.buf.len()
    }
    /// What the node would need if it were packed.
    pub fn used_bytes(&self) -> usize {
        HEADER_BYTES + SLOT_BYTES * self.count + self.heap - self.dead
    }
    /// What entry `i` adds to `used_bytes`.
    pub fn entry_cost(&self, i: usize) -> usize {
        let start = self.start(i);
        let (key, at) = get_len(&self.buf, start);
        let (value, at) = get_len(&self.buf, at + key);
        at + value - start + SLOT_BYTES
    }
    pub fn cost_of(key: usize, value: usize) -> usize {
        entry_bytes(key, value) + SLOT_BYTES
    }

    #[inline]
    fn slot(&self, i: usize) -> u32 {
        assert!(i < self.count, "entry {i} of {}", self.count);
        u32_at(&self.buf, HEADER_BYTES + SLOT_BYTES * i)
    }
    #[inline]
    fn start(&self, i: usize) -> usize {
        self.buf.len() - (self.slot(i) & !LIVE) as usize
    }
    #[inline]
    pub fn key(&self, i: usize) -> &[u8] {
        let (len, at) = get_len(&self.buf, self.start(i));
        &self.buf[at..at + len]
    }
    fn value_range(&self, i: usize) -> (usize, usize) {
        let (key, at) = get_len(&self.buf, self.start(i));
        let (len, at) = get_len(&self.buf, at + key);
        (at, at + len)
    }
    pub fn value(&self, i: usize) -> &[u8] {
        let (from, to) = self.value_range(i);
        &self.buf[from..to]
    }
    /// Where in the buffer the value begins.
    pub fn value_offset(&self, i: usize) -> usize {
        self.value_range(i).0
    }
    pub fn is_live(&self, i: usize) -> bool {
        self.slot(i) & LIVE != 0
    }
    /// The key as a slice that keeps the buffer alive.
    pub fn key_shared(&self, i: usize) -> Bytes {
        let (len, at) = get_len(&self.buf, self.start(i));
        self.buf.slice(at..at + len)
    }
    /// The value as a slice that keeps the buffer alive.
    pub fn value_shared(&self, i: usize) -> Bytes {
        let (from, to) = self.value_range(i);
        self.buf.slice(from..to)
    }
    pub fn record(&self, i: usize) -> ChildRecord {
        ChildRecord::decode(self.value(i))
    }

    /// Live entries among the first `end`.
    pub fn live_before(&self, end: usize) -> usize {
        assert!(end <= self.count, "live entries before {end} of {}", self.count);
        if end == self.count {
            return self.live;
        }
        let slots = &self.buf[HEADER_BYTES..HEADER_BYTES + SLOT_BYTES * end];
        // The live bit is the sign bit of each little-endian slot.
        slots.chunks_exact(SLOT_BYTES).filter(|slot| slot[SLOT_BYTES - 1] & 0x80 != 0).count()
    }

    /// Where `key` is, or where it would be inserted.
    pub fn search(&self, key: &[u8]) -> Result<usize, usize> {
        let buf = &self.buf[..];
        let end = buf.len();
        let key_at = |i: usize| {
            let slot = u32_at(buf, HEADER_BYTES + SLOT_BYTES * i);
            let (len, at) = get_len(buf, end - (slot & !LIVE) as usize);
            &buf[at..at + len]
        };
        let (mut low, mut high) = (0, self.count);
        // Appends at the right edge are the most frequent writes: look there first.
        if high > 0 {
            match key.cmp(key_at(high - 1)) {
                Ordering::Greater => return Err(high),
                Ordering::Equal => return Ok(high - 1),
                Ordering::Less => high -= 1,
            }
        }
        while low < high {
            let middle = low + (high - low) / 2;
            match key.cmp(key_at(middle)) {
                Ordering::Greater => low = middle + 1,
                Ordering::Less => high = middle,
                Ordering::Equal => return Ok(middle),
            }
        }
        Err(low)
    }

    /// The child of an inner node whose range holds `key`. Keys are lower bounds and the first
    /// one is empty, "from the beginning".
    pub fn child_for(&self, key: &[u8]) -> usize {
        match self.search(key) {
            Ok(i) => i,
            Err(i) => i.saturating_sub(1),
        }
    }

    fn edit<R>(&mut self, change: impl FnOnce(&mut [u8]) -> R) -> R {
        let buf = std::mem::take(&mut self.buf);
        // A reader may hold a slice: then this node gets bytes of its own.
        let mut buf = buf.try_into_mut().unwrap_or_else(|shared| BytesMut::from(&shared[..]));
        let result = change(&mut buf);
        self.buf = buf.freeze();
        result
    }

    /// Makes room for one more entry of `need` heap bytes, in a buffer of at most `max` bytes.
    /// An entry alone in its node may have any size. `false` when it does not fit.
    fn make_room(&mut self, need: usize, slots: usize, max: usize) -> bool {
        let fixed = HEADER_BYTES + SLOT_BYTES * (self.count + slots);
        if fixed + self.heap + need <= self.buf.len() {
            return true;
        }
        let packed = fixed + self.heap - self.dead + need;
        if packed > max && self.count + slots > 1 {
            return false;
        }
        // Packing pays when it frees an eighth; otherwise grow, up to the limit.
        if packed + self.buf.len() / 8 <= self.buf.len() {
            self.rebuild(self.buf.len());
        } else {
            let grown = (self.buf.len() * 2).max(packed.next_multiple_of(64)).min(max);
            self.rebuild(grown.max(packed));
        }
        true
    }

    /// Rewrites the entries into a fresh buffer without holes.
    fn rebuild(&mut self, bytes: usize) {
        let mut fresh = vec![0; bytes];
        let mut heap = 0;
        for i in 0..self.count {
            let slot = self.slot(i);
            let start = self.start(i);
            let size = self.entry_cost(i) - SLOT_BYTES;
            heap += size;
            fresh[bytes - heap..bytes - heap + size]
                .copy_from_slice(&self.buf[start..start + size]);
            set_slot(&mut fresh, i, heap as u32 | (slot & LIVE));
        }
        // Without spare capacity, taking a `Bytes` back for editing never allocates.
        self.buf = Bytes::from(fresh);
        self.heap = heap;
        self.dead = 0;
    }

    /// Inserts before entry `i`. `false`, and nothing changed, when the node is full.
    pub fn try_insert(
        &mut self,
        i: usize,
        key: &[u8],
        value: &[u8],
        live: bool,
        max: usize,
    ) -> bool {
        assert!(i <= self.count, "insert at {i} of {}", self.count);
        let size = entry_bytes(key.len(), value.len());
        assert!(self.heap + size < LIVE as usize, "a node of 2 GiB");
        if !self.make_room(size, 1, max) {
            return false;
        }
        let (count, heap) = (self.count, self.heap + size);
        self.edit(|buf| {
            write_entry(buf, heap, key, value);
            let at = HEADER_BYTES + SLOT_BYTES * i;
            buf.copy_within(at..HEADER_BYTES + SLOT_BYTES * count, at + SLOT_BYTES);
            set_slot(buf, i, heap as u32 | if live { LIVE } else { 0 });
        });
        self.heap = heap;
        self.count += 1;
        self.live += usize::from(live);
        true
    }

    /// Appends as the last entry; the caller has made the buffer large enough.
    pub fn push(&mut self, key: &[u8], value: &[u8], live: bool) {
        let pushed = self.try_insert(self.count, key, value, live, usize::MAX);
        assert!(pushed, "a node without a limit is full");
    }

    /// Replaces the value and liveness of entry `i`. `false`, and nothing changed, when the node
    /// is full.
    pub fn try_replace(&mut self, i: usize, value: &[u8], live: bool, max: usize) -> bool {
        let (from, to) = self.value_range(i);
        if to - from == value.len() {
            self.edit(|buf| buf[from..to].copy_from_slice(value));
            self.set_live(i, live);
            return true;
        }
        let old = self.entry_cost(i) - SLOT_BYTES;
        // A copy, not a slice: a slice would make the edit below copy the whole node.
        let key = self.key(i).to_vec();
        let size = entry_bytes(key.len(), value.len());
        assert!(self.heap + size < LIVE as usize, "a node of 2 GiB");
        if self.count == 1 {
            // Alone in its node, maybe in a large extent: size the buffer anew.
            let bytes = HEADER_BYTES + SLOT_BYTES + size;
            let mut fresh = Slotted::with_capacity(bytes.next_multiple_of(64).min(max).max(bytes));
            fresh.push(&key, value, live);
            *self = fresh;
            return true;
        }
        // The old entry's bytes count as a hole from now on, so that packing can use them; the
        // slot is out of the way while the buffer may be rebuilt.
        if self.used_bytes() - old + size > max {
            return false;
        }
        self.remove(i);
        let inserted = self.try_insert(i, &key, value, live, max);
        assert!(inserted, "an entry that was measured to fit does not");
        true
    }

    pub fn set_live(&mut self, i: usize, live: bool) {
        let slot = self.slot(i);
        if (slot & LIVE != 0) == live {
            return;
        }
        self.edit(|buf| set_slot(buf, i, slot ^ LIVE));
        if live {
            self.live += 1;
        } else {
            self.live -= 1;
        }
    }

    pub fn set_record(&mut self, i: usize, record: &ChildRecord) {
        let (from, to) = self.value_range(i);
        self.edit(|buf| buf[from..to].copy_from_slice(&record.encode()));
    }

    pub fn remove(&mut self, i: usize) {
        let size = self.entry_cost(i) - SLOT_BYTES;
        let live = self.is_live(i);
        let count = self.count;
        self.edit(|buf| {
            let at = HEADER_BYTES + SLOT_BYTES * i;
            buf.copy_within(at + SLOT_BYTES..HEADER_BYTES + SLOT_BYTES * count, at);
        });
        self.count -= 1;
        self.live -= usize::from(live);
        self.dead += size;
        if self.count == 0 {
            (self.heap, self.dead) = (0, 0);
        }
    }

    /// The entries `from..to` of this node in a node of their own, with `slack` spare bytes.
    pub fn extract(&self, from: usize, to: usize, slack: usize) -> Slotted {
        let bytes: usize = (from..to).map(|i| self.entry_cost(i)).sum();
        let mut part = Slotted::with_capacity(HEADER_BYTES + bytes + slack);
        for i in from..to {
            part.push(self.key(i), self.value(i), self.is_live(i));
        }
        part
    }

    /// Whether no byte belongs to two entries, for `verify`.
    pub fn entries_are_apart(&self) -> bool {
        let mut starts: Vec<(usize, usize)> = (0..self.count)
            .map(|i| (self.start(i), self.start(i) + self.entry_cost(i) - SLOT_BYTES))
            .collect();
        starts.sort_unstable();
        starts.windows(2).all(|pair| pair[0].1 <= pair[1].0)
    }

    /// Pages that the node takes on disk.
    pub fn pages(&self) -> u32 {
        u32::try_from(self.used_bytes().div_ceil(PAGE_BYTES)).expect("a node is below 2 GiB")
    }

    /// Appends the packed image for the extent at `page` to `out`; returns where in `out` it is.
    /// The values of an inner node come from `record`.
    pub fn encode(
        &self,
        level: u8,
        page: u64,
        checkpoint: u64,
        out: &mut Vec<u8>,
        record: impl Fn(usize) -> Option<ChildRecord>,
    ) -> std::ops::Range<usize> {
        let from = out.len();
        let bytes = self.pages() as usize * PAGE_BYTES;
        out.resize(from + bytes, 0);
        let image = &mut out[from..];
        let mut heap = 0;
        if self.dead == 0 {
            heap = self.heap;
            let slots = HEADER_BYTES..HEADER_BYTES + SLOT_BYTES * self.count;
            image[slots.clone()].copy_from_slice(&self.buf[slots]);
            image[bytes - heap..].copy_from_slice(&self.buf[self.buf.len() - heap..]);
        } else {
            for i in 0..self.count {
                let start = self.start(i);
                let size = self.entry_cost(i) - SLOT_BYTES;
                heap += size;
                image[bytes - heap..bytes - heap + size]
                    .copy_from_slice(&self.buf[start..start + size]);
                set_slot(image, i, heap as u32 | (self.slot(i) & LIVE));
            }
        }
        if level > 0 {
            for i in 0..self.count {
                if let Some(record) = record(i) {
                    let start = bytes - (u32_at(image, HEADER_BYTES + 4 * i) & !LIVE) as usize;
                    let (key, at) = get_len(image, start);
                    let (value, at) = get_len(image, at + key);
                    image[at..at + value].copy_from_slice(&record.encode());
                }
            }
        }
        image[0] = NODE_MAGIC;
        image[1] = level;
        image[4..8].copy_from_slice(&(self.count as u32).to_le_bytes());
        image[8..16].copy_from_slice(&page.to_le_bytes());
        image[16..24].copy_from_slice(&checkpoint.to_le_bytes());
        image[24..28].copy_from_slice(&(heap as u32).to_le_bytes());
        image[28..32].copy_from_slice(&(self.live as u32).to_le_bytes());
        from..from + bytes
    }

    /// Checks the bytes of an extent and takes them as a node of `level`. Everything that the
    /// accessors index with is verified here; the order of keys is `verify`'s business.
    pub fn from_page(
        buf: Bytes,
        level: u8,
        page: u64,
        checkpoint: u64,
    ) -> Result<Slotted, (String, String)> {
        let wrong = |what: &str, expected: u64, found: u64| {
            Err((format!("{what} {expected}"), format!("{what} {found}")))
        };
        if buf.len() < HEADER_BYTES || buf[0] != NODE_MAGIC {
            return Err(("a node page".into(), "other bytes".into()));
        }
        if buf[1] != level {
            return wrong("level", u64::from(level), u64::from(buf[1]));
        }
        if u64_at(&buf, 8) != page {
            return wrong("page", page, u64_at(&buf, 8));
        }
        if u64_at(&buf, 16) != checkpoint {
            return wrong("checkpoint", checkpoint, u64_at(&buf, 16));
        }
        let (count, heap) = (u32_at(&buf, 4) as usize, u32_at(&buf, 24) as usize);
        let room = buf.len() - HEADER_BYTES;
        if count == 0 || count > room / SLOT_BYTES || heap > room - SLOT_BYTES * count {
            return wrong("at most bytes", room as u64, (SLOT_BYTES * count + heap) as u64);
        }
        let (mut live, mut bytes) = (0, 0);
        for i in 0..count {
            let slot = u32_at(&buf, HEADER_BYTES + SLOT_BYTES * i);
            let distance = (slot & !LIVE) as usize;
            live += usize::from(slot & LIVE != 0);
            let ends_inside = || {
                let start = buf.len().checked_sub(distance)?;
                let (key, at) = check_len(&buf, start)?;
                let (value, at) = check_len(&buf, at.checked_add(key)?)?;
                let end = at.checked_add(value)?;
                let fits = end <= buf.len() && (level == 0 || value == ChildRecord::BYTES);
                fits.then_some(end - start)
            };
            match ends_inside() {
                Some(size) if (1..=heap).contains(&distance) => bytes += size,
                _ => {
                    return Err((format!("entry {i} inside its node"), format!("slot {slot:#x}")));
                }
            }
        }
        if bytes != heap {
            return wrong("bytes of entries", heap as u64, bytes as u64);
        }
        if live != u32_at(&buf, 28) as usize {
            return wrong("live entries", live as u64, u64::from(u32_at(&buf, 28)));
        }
        Ok(Slotted { buf, count, heap, dead: 0, live })
    }
}

fn set_slot(buf: &mut [u8], i: usize, slot: u32) {
    let at = HEADER_BYTES + SLOT_BYTES * i;
    buf[at..at + SLOT_BYTES].copy_from_slice(&slot.to_le_bytes());
}

/// Writes an entry whose first byte is `distance` from the end.
fn write_entry(buf: &mut [u8], distance: usize, key: &[u8], value: &[u8]) {
    let at = buf.len() - distance;
    let at = put_len(buf, at, key.len());
    buf[at..at + key.len()].copy_from_slice(key);
    let at = put_len(buf, at + key.len(), value.len());
    buf[at..at + value.len()].copy_from_slice(value);
}
