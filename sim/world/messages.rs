//! Messages between members, from the sender's turn to the receiver's.

use super::World;
use super::event::{Event, Process, Way};
use super::slot::SLOTS_MAX;
use crate::faults::Fault;
use crate::rules::is_spoilt;
use crate::safety::{Checked, broken, ensure};
use crate::trace::Fate;
use bytes::BytesMut;
use quorate::multiraft::NodeMessage;
use quorate::node::Action;
use quorate::types::{GroupId, Message, MessageBody, NodeId};
use std::rc::Rc;

/// Copies that wait for a member to lead, at most; beyond, a new one takes another's place.
const KEPT_MAX: usize = 64;

/// A copy of a message that waits until its receiver leads.
pub struct Kept {
    way: Way,
    what: Rc<NodeMessage>,
    /// How long after that it arrives.
    after_us: u64,
}

impl World {
    pub(super) fn send(&mut self, from: usize, to: NodeId, message: NodeMessage) -> Checked {
        let node = self.slots[from].node;
        let cluster = self.slots[from].birth.cluster;
        let Some(to) = self.index_of(cluster, to) else {
            return broken!("strange-address", format!("{node} sends to {to}"));
        };
        if let NodeMessage::Raft(messages) = &message {
            for message in messages {
                ensure!(
                    message.from == node && message.to == self.slots[to].node,
                    "strange-address",
                    "{node} sends {message:?} to member {to}"
                );
                if !self.slots[from].wiped {
                    self.safety.on_send(node, message)?;
                }
            }
        }
        let p = self.slots[from].process;
        let whole = self.trace.is_on().then(|| message.clone());
        let (kept, full) = self.net.sift(self.now_us, from, to, message, &mut self.counters);
        if full {
            let action = Box::new(Action::Unreachable { peer: self.slots[to].node });
            self.after(200, Event::Tell { m: from, p, action });
        }
        if let Some(lost) = whole.and_then(|whole| without(whole, kept.as_ref())) {
            self.told_lost(from, to, &Rc::new(lost), Fate::Sifted);
        }
        let Some(message) = kept else { return Ok(()) };
        let what = Rc::new(message);
        if !self.connect(from, to)? {
            self.told_lost(from, to, &what, Fate::Unconnected);
            let action = Box::new(Action::Unreachable { peer: self.slots[to].node });
            self.after(200, Event::Tell { m: from, p, action });
            return Ok(());
        }
        let receiver = self.slots[to].process;
        let sender = (self.slots[from].incarnation, self.slots[from].wiped);
        let flights = self.net.send(self.now_us, from, to, &what, &mut self.counters);
        // What arrives is what the bytes say.
        let mut bytes = BytesMut::new();
        what.encode(&mut bytes);
        if is_spoilt("codec")
            && let Some(last) = bytes.last_mut()
        {
            *last ^= 1;
        }
        let bytes = bytes.freeze();
        self.trace.bytes(&bytes);
        match NodeMessage::decode(&bytes) {
            Ok(decoded) if decoded == *what => {}
            other => return broken!("codec", format!("sent {what:?}, arrived {other:?}")),
        }
        if flights.iter().all(|flight| flight.copy.is_some()) {
            let fault = self.net.trouble(from, to).unwrap_or(Fault::Drop);
            self.told_lost(from, to, &what, Fate::Lost(fault));
        }
        for flight in flights {
            let what = what.clone();
            let (copy, stream, at) = (flight.copy, flight.stream, flight.arrives_us);
            let told = self.trace.sent(self.now_us, (from, to), &what, copy, at);
            let way = Way { from, to, receiver, copy, told, stream, sender, sent_by: p };
            if copy == Some(Fault::TurnReplay) {
                self.keep(Kept { way, what, after_us: at - self.now_us });
            } else {
                self.at(at, Event::Arrive { way, what });
            }
        }
        Ok(())
    }

    fn keep(&mut self, copy: Kept) {
        let kept = self.kept.entry(copy.way.to).or_default();
        if kept.len() < KEPT_MAX {
            return kept.push(copy);
        }
        // Some of what was said long ago stays.
        let at = (copy.after_us % KEPT_MAX as u64) as usize;
        let gone = std::mem::replace(&mut kept[at], copy);
        self.trace.met(gone.way.told, self.now_us, Fate::Lost(Fault::TurnReplay));
    }

    /// A member leads from now on: what was once said to it about the group is said again.
    pub(super) fn say_again(&mut self, m: usize, group: GroupId) {
        let Some(kept) = self.kept.get_mut(&m) else { return };
        let is_about = |copy: &Kept| match &*copy.what {
            NodeMessage::Raft(messages) => messages.iter().any(|message| message.group == group),
            _ => false,
        };
        let (now, later) = std::mem::take(kept).into_iter().partition(is_about);
        *kept = later;
        for Kept { way, what, after_us } in now {
            self.after(after_us, Event::Arrive { way, what });
        }
    }

    /// A frame that never set out.
    fn told_lost(&mut self, from: usize, to: usize, what: &Rc<NodeMessage>, fate: Fate) {
        let told = self.trace.sent(self.now_us, (from, to), what, None, self.now_us);
        self.trace.met(told, self.now_us, fate);
    }

    /// Words of a leader that is down, that leads no more or that stands still over its disk, again and
    /// again for seconds, are as good as a leader that lives and cannot hear: nobody could tell, so
    /// nobody else would be elected.
    fn speaks_for_nobody(&self, from: usize, sent_by: Process, what: &NodeMessage) -> bool {
        let slot = &self.slots[from];
        let Some(live) = slot.live.as_ref().filter(|_| slot.process == sent_by) else {
            return true;
        };
        let NodeMessage::Raft(messages) = what else { return false };
        messages.iter().any(|message| {
            matches!(message.body, MessageBody::Append { .. } | MessageBody::Heartbeat { .. })
                || live.said(message.group).is_some_and(|now| message.term < now.term)
        })
    }

    pub(super) fn arrive(&mut self, way: Way, what: &Rc<NodeMessage>) -> Checked {
        let Way { from, to, receiver, copy, told, stream, sender, sent_by } = way;
        self.trace.word((from * SLOTS_MAX + to) as u64);
        let slot = &self.slots[to];
        if slot.live.is_none() {
            self.trace.met(told, self.now_us, Fate::Down);
            if self.net.vanished(self.now_us, to) {
                self.counters.mattered(Fault::HalfOpen);
            }
            return self.stray(to, what);
        }
        let is_late = copy.is_some_and(Fault::is_late_copy);
        // A late copy comes whatever became of the connection it was sent on.
        if let Err(why) = self.net.arrives(from, to, stream)
            && (!is_late || !self.net.open(from, to))
        {
            self.counters.mattered(why);
            self.trace.met(told, self.now_us, Fate::Lost(why));
            return Ok(());
        }
        if !is_late && receiver != slot.process {
            self.trace.met(told, self.now_us, Fate::Reset);
            return Ok(());
        }
        // What is promised of a phase is promised without copies that speak for nobody.
        if is_late
            && (self.phase.is_some() || !self.acting)
            && self.speaks_for_nobody(from, sent_by, what)
        {
            self.trace.met(told, self.now_us, Fate::Reset);
            return Ok(());
        }
        if let Some(fault) = copy {
            self.counters.mattered(fault);
        }
        if sender.1 {
            return broken!(
                "wiped-heard",
                format!("member {from} was wiped, {to} takes its message"),
            );
        }
        self.trace.met(told, self.now_us, Fate::Arrived);
        if let NodeMessage::Raft(messages) = &**what {
            self.questions_arrive(to, messages);
        }
        let action = Action::Frame {
            from: self.slots[from].node,
            incarnation: sender.0,
            message: (**what).clone(),
        };
        self.act(to, action)
    }
}

impl World {
    /// Questions for a vote meet the log that their voter has now, unless something before them in
    /// the frame changes it.
    fn questions_arrive(&mut self, to: usize, messages: &[Message]) {
        let slot = &self.slots[to];
        let Some(live) = slot.live.as_ref().filter(|_| !slot.wiped) else { return };
        for (at, message) in messages.iter().enumerate() {
            let is_question =
                matches!(message.body, MessageBody::Vote { .. } | MessageBody::PreVote { .. });
            if !is_question || message.to != slot.node {
                continue;
            }
            let changed = messages[..at].iter().any(|before| before.group == message.group);
            let status = live.status(message.group).filter(|_| !changed);
            let own = status.map(|status| (status.last_term, status.last));
            self.safety.votes.on_question(own, message);
        }
    }
}

/// What of a frame was not kept: `None` when all of it was.
fn without(whole: NodeMessage, kept: Option<&NodeMessage>) -> Option<NodeMessage> {
    match (whole, kept) {
        (NodeMessage::Raft(all), Some(NodeMessage::Raft(kept))) => {
            let lost: Vec<_> = all.into_iter().filter(|m| !kept.contains(m)).collect();
            (!lost.is_empty()).then_some(NodeMessage::Raft(lost))
        }
        (whole, None) => Some(whole),
        _ => None,
    }
}
