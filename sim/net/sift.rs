//! What a frame loses on its way although the link is open: the messages of one group, those of
//! one class, and what a full outbox has no room for.
//!
//! A frame carries messages of several groups and classes; each loss takes its own and leaves the
//! rest. The bounds of the outbox are the product's in kind (urgent messages by number, the rest
//! by bytes as well, what does not fit is dropped and the core told so), and small, so that they
//! are met.

use quorate::multiraft::NodeMessage;
use quorate::transport::frame::{is_urgent, message_cost};
use quorate::types::{GroupId, Message, MessageBody};

/// Kinds of messages that fail together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    Appends,
    AppendReplies,
    Heartbeats,
    HeartbeatReplies,
    Elections,
    Reads,
    Snapshots,
    Proposals,
}

impl Class {
    pub const ALL: [Class; 8] = [
        Class::Appends,
        Class::AppendReplies,
        Class::Heartbeats,
        Class::HeartbeatReplies,
        Class::Elections,
        Class::Reads,
        Class::Snapshots,
        Class::Proposals,
    ];

    fn of(message: &Message) -> Class {
        match &message.body {
            MessageBody::Append { .. } => Class::Appends,
            MessageBody::AppendReply { .. } | MessageBody::Committed { .. } => Class::AppendReplies,
            MessageBody::Heartbeat { .. } => Class::Heartbeats,
            MessageBody::HeartbeatReply { .. } => Class::HeartbeatReplies,
            MessageBody::ReadIndex { .. } | MessageBody::ReadIndexReply { .. } => Class::Reads,
            MessageBody::Snapshot { .. } | MessageBody::SnapshotRefused { .. } => Class::Snapshots,
            MessageBody::Propose { .. } => Class::Proposals,
            _ => Class::Elections,
        }
    }
}

/// What waits to be sent to a peer that takes nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Waiting {
    pub messages: usize,
    pub bytes: usize,
}

/// How much may wait.
#[derive(Clone, Copy, Debug)]
pub struct OutboxBounds {
    pub messages: usize,
    pub bytes: usize,
}

impl Waiting {
    /// Whether there is room for one more, which then waits too.
    pub fn take(&mut self, bounds: OutboxBounds, urgent: bool, cost: usize) -> bool {
        let room = self.messages < bounds.messages
            && (urgent || self.bytes == 0 || self.bytes + cost <= bounds.bytes);
        if room {
            self.messages += 1;
            self.bytes += if urgent { 0 } else { cost };
        }
        room
    }
}

/// The group that a message is about, if it is about one.
fn group_of(message: &NodeMessage) -> Option<GroupId> {
    match message {
        NodeMessage::SnapshotFetch(fetch) => Some(fetch.group),
        NodeMessage::SnapshotChunk(chunk) => Some(chunk.group),
        NodeMessage::SnapshotGone { group, .. }
        | NodeMessage::LeaseAsk { group, .. }
        | NodeMessage::LeaseTold { group, .. } => Some(*group),
        _ => None,
    }
}

fn class_of(message: &NodeMessage) -> Option<Class> {
    match message {
        NodeMessage::SnapshotFetch(_)
        | NodeMessage::SnapshotChunk(_)
        | NodeMessage::SnapshotGone { .. } => Some(Class::Snapshots),
        _ => None,
    }
}

/// One part of a frame, as the losses see it.
pub struct Part {
    pub group: Option<GroupId>,
    pub class: Option<Class>,
    pub urgent: bool,
    pub cost: usize,
}

/// Leaves of a frame what `keep` keeps.
pub fn sift(message: NodeMessage, mut keep: impl FnMut(&Part) -> bool) -> Option<NodeMessage> {
    match message {
        NodeMessage::Raft(messages) => {
            let mut kept = messages;
            kept.retain(|m| {
                keep(&Part {
                    group: Some(m.group),
                    class: Some(Class::of(m)),
                    urgent: is_urgent(m),
                    cost: message_cost(m),
                })
            });
            (!kept.is_empty()).then_some(NodeMessage::Raft(kept))
        }
        other => {
            let part = Part {
                group: group_of(&other),
                class: class_of(&other),
                urgent: false,
                // Bulk has a lane of its own; what matters here is that it is bounded too.
                cost: 1_000,
            };
            keep(&part).then_some(other)
        }
    }
}
