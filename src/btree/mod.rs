//! A forest of copy-on-write B+trees in one file: what every keyspace keeps its data in.
//!
//! THE IDEA
//!
//! A tree is changed in memory by its one writer (`Tree`), read through immutable views (`View`),
//! and made durable now and then by a checkpoint of all trees together. Nobody waits for a
//! checkpoint: the log is the durability, the store is what a restart begins from. Nodes that are
//! shared, with a view or with the file, never change; the writer copies the path it needs. So a
//! view costs nothing until the writer changes something, and neither readers, the writer nor a
//! running checkpoint ever wait for each other.
//!
//! ```text
//!        writer's root            view's root
//!             I'                       I              inner nodes: I' is dirty, I was read
//!           /  |  \                  / | \
//!         L1'  |   \               L1  |  \           L1' is dirty: no page yet
//!              +----+-- shared --------L2  L3         L2, L3 by page reference, read on demand
//! ```
//!
//! WHAT IT PROMISES
//!
//! - A view shows the tree as it was when it was made, for as long as it lives.
//! - After a crash at any moment the store opens as of its newest durable checkpoint, whole. When
//!   the newest meta page is lost, the checkpoint before it is there, whole as well.
//! - Nothing is served that is not what was written: a reference carries the CRC of what it
//!   refers to and the checkpoint that wrote it, so bytes that rotted, tore, went to the wrong
//!   place or never arrived are `StorageError::Corrupt`, with file and offset.
//! - Opening reads the metas and the catalogue: its cost grows with the number of trees, never
//!   with what they hold. The free-space map (32 KiB per GiB) is read at the first checkpoint.
//! - Counting live entries between two keys takes two paths down the tree.
//!
//! WHAT IT REFUSES TO KNOW
//!
//! What keys and values mean, what a group's meta says, when a checkpoint is due, and how far the
//! log reaches. It has no clock, no threads and no transactions; the caller brings the threads.
//!
//! THE FILE
//!
//! ```text
//! page 0   meta of even checkpoints     pages are 4096 bytes, numbers are little-endian
//! page 1   meta of odd checkpoints
//! page 2.. extents of 1..n pages: nodes, chunks of the free-space map, the index of chunks
//!
//! meta       0 "quorate\x01" | 8 format u32 | 12 page bytes u32 | 16 checkpoint u64
//!           24 cluster u64 | 32 node u64 | 40 incarnation u64
//!           48 one behind the highest page in use u64 | 56 pages in use u64
//!           64 chunks u64 | 72 entries of the catalogue u64 | 80 its level u64
//!           96 reference to its root | 120 reference to the index of chunks
//!          508 CRC32 of bytes 0..508
//!
//! reference  0 page u64 | 8 checkpoint u64 | 16 CRC32 of the extent u32 | 20 pages u32
//!
//! node       0 0xb7 | 1 level | 4 entries u32 | 8 page u64 | 16 checkpoint u64
//!           24 heap bytes u32 | 28 live entries u32 | 32 slots ... zeros ... heap
//!            slot: bit 31 live, bits 0..31 distance of its entry from the end of the extent
//!            entry: key length, key, value length, value (lengths in groups of seven bits)
//!            inner node: value = reference (24) | entries below u64 | live ones below u64;
//!            key = lower bound of the child's keys, the first one empty
//!
//! chunk      0 0xc5 | 4 number u32 | 8 page | 16 checkpoint | 32 one bit per page, 32,512 of them
//! index      0 0xd1 | 4 chunks u32 | 8 page | 16 checkpoint | 32 references to the chunks
//! ```
//!
//! A node fills a page or two; an entry larger than that has an extent of its own, so there are
//! no overflow chains and every value is one slice. Memory and disk share the layout: a cached
//! node is the page as it was read, and values handed out are slices of it.
//!
//! WHY A CRASH DOES NO HARM
//!
//! Checkpoint `n` writes (1) extents on pages that neither `n - 1` nor `n - 2` uses, (2) syncs,
//! (3) writes its meta over that of `n - 2`, (4) syncs. A crash
//!
//! - before (3): both metas and all their pages are untouched. The store is `n - 1`; what was
//!   written lies on pages that `n - 1` calls free.
//! - during (3) or before (4) has returned: the page holds the old meta (as above), the new one
//!   (then (2) has made everything it refers to durable: the store is `n`), or a mixture, whose
//!   CRC fails: the store is `n - 1`, whose meta is on the other page.
//! - after (4): the store is `n`. Pages that only `n - 2` used may be taken by `n + 1` now; those
//!   that only `n - 1` used may not until `n + 1` is durable, because `n - 1` is what is left
//!   should the meta of `n` rot. `older_group_metas` says what of the log that case needs.
//! - while the file is cut after (4): only pages go that neither `n` nor `n - 1` uses, and a
//!   length that survives from before or after the cut covers both.
//!
//! Pages that a live view needs are kept by the epoch it belongs to (`epoch`), in memory only: a
//! crash ends all views. Pages that a bulk loader has written belong to no checkpoint until one
//! contains its tree (`allocator`): after a crash they are free.
//!
//! READING ORDER
//!
//! `page` (bytes of a node), `node` (nodes in memory), `lookup`, `insert`, `delete`, `cursor` (one
//! tree), `tree` (writer and views), `cache`, `pager` (from references to nodes), `meta`,
//! `catalogue`, `allocator`, `epoch`, `writer`, `checkpoint` (the file), `bulk`, `relocate`,
//! `verify`, `store` (the door).
//!
//! WHY NOT ...
//!
//! - *mmap?* The simulator could not see it, and an I/O error would be a signal.
//! - *Free lists kept by writers?* A node that is copied while a checkpoint writes it gets its
//!   page after the writer has let go of it. Comparing the old tree with the new one needs no
//!   bookkeeping and is right for any two trees.
//! - *A pending-write buffer beside the tree?* etcd has one, and copies it for its readers.
//! - *Prefix compression?* The separators in inner nodes are cut short already; leaves are
//!   searched in place.

mod allocator;
mod bulk;
mod cache;
mod catalogue;
mod checkpoint;
mod cursor;
mod delete;
mod epoch;
mod harness;
mod insert;
mod lookup;
mod meta;
mod node;
mod page;
mod pager;
mod relocate;
mod store;
#[cfg(test)]
mod tests;
mod tree;
mod verify;
mod writer;

pub use bulk::BulkLoader;
pub use checkpoint::{CheckpointDone, CheckpointJob, Step};
pub use cursor::Cursor;
pub use harness::{fuzz_input, fuzz_open};
pub use meta::StoreIdentity;
pub use node::Item;
pub use store::{Sizes, Store, StoreOptions};
pub use tree::{Tree, TreeKind, View};
pub use verify::{Problem, VerifyReport};
