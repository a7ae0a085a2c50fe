//! Reading one key, and counting without reading.

use super::node::{Item, Node};
use super::pager::Pager;
use crate::types::StorageError;

/// Whether a found value is handed out as a slice of the node or as a copy.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Hand {
    /// For readers: the node is not going to change.
    Slice,
    /// For the writer: a slice of a node that is about to change would make it copy the whole
    /// node at the next change.
    Copy,
}

/// Above this, copying a value costs more than copying a node at the next change.
const COPY_BYTES_MAX: usize = 2048;

pub(super) fn item(node: &Node, i: usize, hand: Hand) -> Item {
    let value = node.body.value(i);
    let copy = hand == Hand::Copy && node.written().is_none() && value.len() <= COPY_BYTES_MAX;
    let value = if copy { value.to_vec().into() } else { node.body.value_shared(i) };
    Item { value, live: node.body.is_live(i) }
}

pub(super) fn get(
    pager: &Pager,
    node: &Node,
    key: &[u8],
    hand: Hand,
) -> Result<Option<Item>, StorageError> {
    if node.is_leaf() {
        return Ok(node.body.search(key).ok().map(|i| item(node, i, hand)));
    }
    let i = node.body.child_for(key);
    match node.kid(i) {
        Some(kid) => get(pager, kid, key, hand),
        None => {
            let kid = pager.load(&node.body.record(i).page, node.level - 1)?;
            get(pager, &kid, key, hand)
        }
    }
}

/// Live entries with keys below `key`; with `or_equal`, below or equal. One path down.
pub(super) fn live_below(
    pager: &Pager,
    node: &Node,
    key: &[u8],
    or_equal: bool,
) -> Result<u64, StorageError> {
    if node.is_leaf() {
        let end = match node.body.search(key) {
            Ok(i) => i + usize::from(or_equal),
            Err(i) => i,
        };
        return Ok(node.body.live_before(end) as u64);
    }
    let i = node.body.child_for(key);
    let mut below = 0u64;
    for left in 0..i {
        below = below.saturating_add(node.body.record(left).live);
    }
    let kid = pager.child(node, i)?;
    Ok(below.saturating_add(live_below(pager, &kid, key, or_equal)?))
}
