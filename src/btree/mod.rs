//! A forest of copy-on-write B+trees in one file.
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
