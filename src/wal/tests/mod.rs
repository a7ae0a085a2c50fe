//! The log against a Vec per group, under random work, crashes, faults and rot.

mod crash;
mod damage;
mod model;
mod work;

use super::{Batch, Record, Wal, WalIdentity, WalOptions};
use crate::io::MemDisk;
use crate::types::{
    ClusterId, Entry, EntryKind, GroupId, HardState, Incarnation, LogIndex, NodeId, Term,
};
use bytes::Bytes;
use std::path::Path;
use std::sync::Arc;

const DIR: &str = "/member/wal";

fn dir() -> &'static Path {
    Path::new(DIR)
}

fn identity() -> WalIdentity {
    WalIdentity { cluster: ClusterId(0xc1), node: NodeId(0x0d), incarnation: Incarnation(0x17) }
}

fn tiny() -> WalOptions {
    WalOptions { segment_bytes: 1024, spare_segments: 2 }
}

fn create(disk: &MemDisk, options: WalOptions) -> Wal {
    Wal::create(Arc::new(disk.clone()), dir(), identity(), options).unwrap()
}

fn group(n: u64) -> GroupId {
    GroupId(n)
}

fn entry(term: u64, index: u64, data: impl Into<Bytes>) -> Entry {
    let data = data.into();
    let kind = if data.is_empty() { EntryKind::Empty } else { EntryKind::Command };
    Entry { term: Term(term), index: LogIndex(index), kind, data }
}

fn append(n: u64, entries: Vec<Entry>) -> Record {
    Record::Append { group: group(n), entries }
}

fn trim(n: u64, index: u64, term: u64) -> Record {
    Record::Trim { group: group(n), index: LogIndex(index), term: Term(term) }
}

fn vote(n: u64, term: u64) -> Record {
    let hard = HardState { term: Term(term), vote: NodeId(1), commit: LogIndex(0) };
    Record::HardState { group: group(n), hard }
}

fn put(wal: &mut Wal, records: Vec<Record>) {
    wal.write(&Batch { records }).unwrap();
    wal.sync().unwrap();
}
