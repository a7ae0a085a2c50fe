//! Outgoing messages, gathered per peer: all a turn has for one node is one frame, so that the
//! heartbeats of many groups ride together.

use super::wire::NodeMessage;
use crate::types::limits::FRAME_BYTES_MAX;
use crate::types::{Message, MessageBody, NodeId};
use std::collections::BTreeMap;

/// Where a frame is cut: far enough below the bound that the largest message still fits.
const FRAME_BYTES_GOAL: usize = FRAME_BYTES_MAX / 4;
const MESSAGE_OVERHEAD: usize = 64;

#[derive(Debug, Default)]
pub struct Outbox {
    peers: BTreeMap<NodeId, Vec<NodeMessage>>,
    /// Bytes of the open raft frame per peer, if its newest message is one.
    open: BTreeMap<NodeId, usize>,
}

impl Outbox {
    pub fn raft(&mut self, message: Message) {
        let (to, bytes) = (message.to, size(&message));
        let frames = self.peers.entry(to).or_default();
        let open = self.open.entry(to).or_insert(0);
        if let Some(NodeMessage::Raft(messages)) = frames.last_mut()
            && *open + bytes <= FRAME_BYTES_GOAL
        {
            messages.push(message);
            *open += bytes;
            return;
        }
        frames.push(NodeMessage::Raft(vec![message]));
        *open = bytes;
    }

    pub fn other(&mut self, to: NodeId, message: NodeMessage) {
        // In front of the raft frame it would cut in two; nothing depends on their order.
        let frames = self.peers.entry(to).or_default();
        let at = match frames.last() {
            Some(NodeMessage::Raft(_)) => frames.len() - 1,
            _ => frames.len(),
        };
        frames.insert(at, message);
    }

    pub fn drain(&mut self) -> Vec<(NodeId, NodeMessage)> {
        self.open.clear();
        let peers = std::mem::take(&mut self.peers);
        peers
            .into_iter()
            .flat_map(|(to, frames)| frames.into_iter().map(move |f| (to, f)))
            .collect()
    }
}

/// About what the message takes in a frame.
fn size(message: &Message) -> usize {
    MESSAGE_OVERHEAD
        + match &message.body {
            MessageBody::Append { entries, .. } => entries.iter().map(|entry| entry.cost()).sum(),
            MessageBody::Propose { data } => data.iter().map(|bytes| bytes.len() + 8).sum(),
            _ => 0,
        }
}
