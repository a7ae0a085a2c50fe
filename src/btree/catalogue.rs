//! Which trees there are: a tree of its own, so that a checkpoint writes only what changed.
//!
//! `T` + group + kind -> where the root is and what it counts; `G` + group -> the group's meta.
//! Numbers in keys are big-endian. All of it is in memory too: it grows with the number of
//! groups, not with their data.

use super::meta::Meta;
use super::node::{Node, Root};
use super::page::{LEVEL_MAX, PageRef, u64_at};
use super::pager::Pager;
use super::store::rooted;
use super::tree::TreeKind;
use crate::types::{GroupId, StorageError};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

#[derive(Clone, Debug, Default)]
pub(super) struct Catalogue {
    /// The tree that holds all this.
    pub root: Root,
    pub trees: BTreeMap<(GroupId, TreeKind), Root>,
    pub metas: BTreeMap<GroupId, Bytes>,
}

const ROOT_BYTES: usize = PageRef::BYTES + 24;

pub(super) fn tree_key(group: GroupId, kind: TreeKind) -> Vec<u8> {
    let mut key = vec![b'T'];
    key.extend_from_slice(&group.0.to_be_bytes());
    key.push(kind.0);
    key
}

pub(super) fn meta_key(group: GroupId) -> Vec<u8> {
    let mut key = vec![b'G'];
    key.extend_from_slice(&group.0.to_be_bytes());
    key
}

pub(super) fn encode_root(page: PageRef, root: &Root) -> Vec<u8> {
    let mut out = vec![0; ROOT_BYTES];
    page.encode(&mut out);
    out[24..32].copy_from_slice(&root.entries.to_le_bytes());
    out[32..40].copy_from_slice(&root.live.to_le_bytes());
    out[40..48].copy_from_slice(&u64::from(root.level).to_le_bytes());
    out
}

fn decode_root(bytes: &[u8]) -> Option<Root> {
    if bytes.len() != ROOT_BYTES {
        return None;
    }
    let level = u8::try_from(u64_at(bytes, 40)).ok().filter(|level| *level <= LEVEL_MAX)?;
    Some(rooted(PageRef::decode(bytes), level, u64_at(bytes, 24), u64_at(bytes, 32)))
}

/// The root page and level that a catalogue entry refers to, if it is a tree's.
pub(super) fn reference(key: &[u8], value: &[u8]) -> Option<(PageRef, u8)> {
    let root = decode_root(value).filter(|_| key.first() == Some(&b'T'))?;
    Some((root.page()?, root.level))
}

fn group_of(bytes: &[u8]) -> GroupId {
    GroupId(u64::from_be_bytes(bytes[..8].try_into().expect("eight bytes")))
}

/// The catalogue tree that `meta` points at.
pub(super) fn root_of(meta: &Meta) -> Root {
    match meta.catalogue {
        Some(page) => rooted(page, meta.catalogue_level, meta.catalogue_entries, 0),
        None => Root::default(),
    }
}

pub(super) fn read(pager: &Pager, meta: &Meta) -> Result<Catalogue, StorageError> {
    let mut catalogue = Catalogue { root: root_of(meta), ..Catalogue::default() };
    // Each page is reached once: a file that says otherwise is not ours.
    let mut pages_left = pager.file_pages.load(Ordering::Acquire);
    if let Some(page) = meta.catalogue {
        if meta.catalogue_level > LEVEL_MAX {
            let found = format!("level {}", meta.catalogue_level);
            return Err(pager.corrupt(page.offset(), format!("at most {LEVEL_MAX}"), found));
        }
        read_below(pager, &page, meta.catalogue_level, &mut pages_left, &mut catalogue)?;
    }
    Ok(catalogue)
}

fn read_below(
    pager: &Pager,
    at: &PageRef,
    level: u8,
    pages_left: &mut u64,
    into: &mut Catalogue,
) -> Result<(), StorageError> {
    let Some(left) = pages_left.checked_sub(u64::from(at.pages.max(1))) else {
        let found = "pages that are reached twice".into();
        return Err(pager.corrupt(at.offset(), "a tree of the catalogue".into(), found));
    };
    *pages_left = left;
    let node: Node = pager.read(at, level)?;
    for i in 0..node.body.len() {
        if level > 0 {
            read_below(pager, &node.body.record(i).page, level - 1, pages_left, into)?;
            continue;
        }
        let (key, value) = (node.body.key(i), node.body.value_shared(i));
        let known = match (key.first(), key.len()) {
            (Some(b'T'), 10) => decode_root(&value).map(|root| {
                into.trees.insert((group_of(&key[1..]), TreeKind(key[9])), root);
            }),
            // A copy: the slice would keep the whole page.
            (Some(b'G'), 9) => {
                into.metas.insert(group_of(&key[1..]), Bytes::copy_from_slice(&value));
                Some(())
            }
            _ => None,
        };
        if known.is_none() {
            let found = format!("entry {i} of the catalogue page is {key:02x?}");
            return Err(pager.corrupt(at.offset(), "a tree's root or a meta".into(), found));
        }
    }
    Ok(())
}
