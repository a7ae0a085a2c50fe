//! Messages between members, from the sender's turn to the receiver's.

use super::World;
use super::event::{Event, Process};
use super::slot::SLOTS_MAX;
use crate::faults::Fault;
use crate::safety::{Checked, broken, ensure};
use bytes::BytesMut;
use quorate::multiraft::NodeMessage;
use quorate::node::Action;
use quorate::types::{Incarnation, NodeId};
use std::rc::Rc;

impl World {
    pub(super) fn send(&mut self, from: usize, to: NodeId, message: NodeMessage) -> Checked {
        let node = self.slots[from].node;
        let cluster = self.slots[from].birth.cluster;
        let Some(to) = self.index_of(cluster, to) else {
            return broken("strange-address", format!("{node} sends to {to}"));
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
        let (kept, full) = self.net.sift(self.now_us, from, to, message, &mut self.counters);
        if full {
            let action = Box::new(Action::Unreachable { peer: self.slots[to].node });
            self.after(200, Event::Tell { m: from, p, action });
        }
        let Some(message) = kept else { return Ok(()) };
        if !self.connect(from, to)? {
            let action = Box::new(Action::Unreachable { peer: self.slots[to].node });
            self.after(200, Event::Tell { m: from, p, action });
            return Ok(());
        }
        let receiver = self.slots[to].process;
        let sender = (self.slots[from].incarnation, self.slots[from].wiped);
        let flights = self.net.send(self.now_us, from, to, &message, &mut self.counters);
        // What arrives is what the bytes say.
        let mut bytes = BytesMut::new();
        message.encode(&mut bytes);
        let bytes = bytes.freeze();
        self.trace.bytes(&bytes);
        match NodeMessage::decode(&bytes) {
            Ok(decoded) if decoded == message => {}
            other => return broken("codec", format!("sent {message:?}, arrived {other:?}")),
        }
        let what = Rc::new(message);
        for flight in flights {
            let what = what.clone();
            let (copy, stream) = (flight.copy, flight.stream);
            let event = Event::Arrive { from, to, receiver, copy, stream, sender, what };
            self.at(flight.arrives_us, event);
        }
        Ok(())
    }

    pub(super) fn arrive(
        &mut self,
        from: usize,
        to: usize,
        receiver: Process,
        copy: Option<Fault>,
        stream: u64,
        sender: (Incarnation, bool),
        what: &Rc<NodeMessage>,
    ) -> Checked {
        self.trace.word((from * SLOTS_MAX + to) as u64);
        let slot = &self.slots[to];
        if slot.live.is_none() {
            if self.net.vanished(self.now_us, to) {
                self.counters.mattered(Fault::HalfOpen);
            }
            return Ok(());
        }
        // A late replay comes whatever became of the connection it was sent on.
        if let Err(why) = self.net.arrives(from, to, stream)
            && (copy != Some(Fault::LateReplay) || !self.net.open(from, to))
        {
            self.counters.mattered(why);
            return Ok(());
        }
        if copy != Some(Fault::LateReplay) && receiver != slot.process {
            return Ok(());
        }
        if let Some(fault) = copy {
            self.counters.mattered(fault);
        }
        if sender.1 {
            return broken(
                "wiped-heard",
                format!("member {from} was wiped, {to} takes its message"),
            );
        }
        self.trace.note(self.now_us, || format!("{from} -> {to}: {}", describe(what)));
        let action = Action::Frame {
            from: self.slots[from].node,
            incarnation: sender.0,
            message: (**what).clone(),
        };
        self.act(to, action)
    }
}

fn describe(message: &NodeMessage) -> String {
    match message {
        NodeMessage::Raft(messages) => {
            let each: Vec<String> =
                messages.iter().map(|m| format!("g{} t{} {:?}", m.group, m.term, m.body)).collect();
            each.join("; ")
        }
        other => format!("{other:?}"),
    }
}
