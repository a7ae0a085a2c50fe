//! The forest against a `BTreeMap`, and against a disk that loses power.

mod crash;
mod layout;
mod model;
mod space;

use super::node::Shape;
use super::{CheckpointDone, Store, StoreIdentity, StoreOptions, Tree, TreeKind};
use crate::io::{Disk, MemDisk};
use crate::types::{ClusterId, GroupId, Incarnation, NodeId};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

pub const PATH: &str = "/store";
pub const OPTIONS: StoreOptions = StoreOptions { cache_bytes: 64 << 10 };
pub const KIND: TreeKind = TreeKind(1);
pub const GROUP: GroupId = GroupId(1);

pub fn identity() -> StoreIdentity {
    StoreIdentity { cluster: ClusterId(1), node: NodeId(2), incarnation: Incarnation(3) }
}

pub fn create(disk: &MemDisk, shape: Shape) -> Store {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    Store::create_shaped(disk, Path::new(PATH), identity(), OPTIONS, shape).unwrap()
}

pub fn open(disk: &MemDisk, shape: Shape) -> Store {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    Store::open_shaped(disk, Path::new(PATH), OPTIONS, shape).unwrap()
}

pub fn assert_clean(store: &Store) {
    let report = store.verify().unwrap();
    assert!(report.is_clean(), "{report:#?}");
}

/// A checkpoint of these trees, run to its end and adopted.
pub fn checkpoint(store: &Store, trees: &mut [&mut Tree]) -> CheckpointDone {
    checkpoint_with(store, trees, BTreeMap::new())
}

pub fn checkpoint_with(
    store: &Store,
    trees: &mut [&mut Tree],
    metas: BTreeMap<GroupId, Bytes>,
) -> CheckpointDone {
    let views = trees.iter().map(|tree| (tree.group(), tree.kind(), tree.view())).collect();
    let done = store.begin_checkpoint(views, metas).run().unwrap();
    for tree in trees {
        tree.adopt(&done);
    }
    done
}

pub type Model = BTreeMap<Vec<u8>, (Vec<u8>, bool)>;

/// Everything a view holds, by its cursor.
pub fn contents(view: &super::View) -> Model {
    let mut cursor = view.cursor();
    cursor.seek_first().unwrap();
    let mut all = Model::new();
    while let Some((key, value, live)) = cursor.next().unwrap() {
        all.insert(key.to_vec(), (value.to_vec(), live));
    }
    all
}
