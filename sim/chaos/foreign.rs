//! Another cluster's member at a member's address: instead of it, in the middle of its streams, or
//! only its cluster's id in the mouth of somebody who is known. It has a core, a log and a store of
//! its own, and is alive: it leads its cluster and has written.
//!
//! What must hold: refused on both sides, before any Raft message is stepped, with both ids told;
//! no term, vote, log, membership or data changes on either side; when the right member is back,
//! it is taken (the end of every seed).

use crate::faults::Fault;
use crate::lab::Lab;
use crate::member::{Birth, FOREIGN_CLUSTER, Origin};
use crate::rules::is_spoilt;
use crate::safety::{Checked, Violation, broken, ensure};
use crate::strangers::{old_id, strangers};
use crate::world::World;
use bytes::BytesMut;
use quorate::io::MemDisk;
use quorate::multiraft::NodeMessage;
use quorate::node::Action;
use quorate::transport::PeerFrame;
use quorate::transport::frame::{decode_greeting, encode_peer_frame};
use quorate::types::prng::Prng;
use quorate::types::{GroupId, Incarnation, LogIndex, Message, MessageBody, Term};

/// A living member of another cluster.
pub struct Foreign {
    pub lab: Lab,
    pub disk: MemDisk,
    pub birth: Birth,
    pub incarnation: Incarnation,
    /// What put it there.
    pub by: Fault,
}

impl World {
    /// A cluster of one, at the address and under the id of member `m`.
    pub(super) fn found_foreign(
        &mut self,
        m: usize,
        by: Fault,
    ) -> Result<Option<Foreign>, Violation> {
        let mut draws = Prng::stream(self.processes, "foreign");
        let own = &self.slots[m].birth;
        let birth = Birth {
            cluster: match is_spoilt("foreign-heard") || is_spoilt("other-cluster-dir") {
                true => own.cluster,
                false => FOREIGN_CLUSTER,
            },
            node: own.node,
            peer_urls: own.peer_urls.clone(),
            origin: Origin::New { members: vec![(own.node, own.peer_urls.clone())] },
        };
        let disk = MemDisk::new(draws.next_u64());
        let incarnation = Incarnation(draws.next_u64() | 1);
        let mut lab = Lab::new(&self.plan);
        let process = self.processes + 1;
        let groups: Vec<GroupId> = (1..=self.plan.groups).map(GroupId).collect();
        if is_spoilt("foreign-lab") {
            disk.set_crash_after(1);
        }
        if let Err(error) = lab.start(&self.plan, &birth, incarnation, &disk, process) {
            return broken!("foreign-lab", format!("a cluster of one does not start: {error}"));
        }
        let settled = lab.settle(&groups);
        ensure!(settled == Ok(true), "foreign-lab", "a cluster of one: {settled:?}");
        if let Err(error) = lab.put(0, GroupId::ROOT, b"foreign", b"data") {
            return broken!("foreign-lab", format!("a cluster of one does not write: {error}"));
        }
        Ok(Some(Foreign { lab, disk, birth, incarnation, by }))
    }

    /// A member goes down, and a member of another cluster answers at its address and dials.
    pub(super) fn foreign_peer(&mut self, m: usize, for_us: u64) -> Checked {
        if self.slots[m].live.is_none() || self.slots[m].wiped {
            return Ok(());
        }
        self.crash(m, for_us, Fault::ForeignPeer);
        self.put_in_place(m, Fault::ForeignPeer)
    }

    /// The process behind an address changes while its streams stand and messages are on their
    /// way; the right one is back a moment later.
    pub(super) fn switch_in_mid_stream(&mut self, m: usize, for_us: u64) -> Checked {
        let slot = &mut self.slots[m];
        if slot.live.is_none() || slot.wiped || slot.sabotaged.is_some() {
            return Ok(());
        }
        self.counters.fired(Fault::MidStream);
        slot.disk.kill_process();
        self.stop_process(m);
        let at = self.now_us + for_us;
        self.plan_restart(m, at);
        self.note(|| format!("{m} is another cluster's process from now on"));
        self.put_in_place(m, Fault::MidStream)
    }

    fn put_in_place(&mut self, m: usize, by: Fault) -> Checked {
        let Some(foreign) = self.found_foreign(m, by)? else { return Ok(()) };
        self.foreign.insert(m, foreign);
        for other in self.up() {
            self.meet_foreign(other, m)?;
        }
        Ok(())
    }

    /// A member and the foreign one at `at` meet, both ways.
    pub(super) fn meet_foreign(&mut self, member: usize, at: usize) -> Checked {
        self.trace.word(1 + at as u64);
        // By its own clock: after a freeze of minutes true time is seconds ahead of a slow one.
        let now_ms = self.slots[member].now_ms(self.now_us);
        let Some(foreign) = self.foreign.get(&at) else { return Ok(()) };
        let Some(live) = self.slots[member].live.as_mut() else { return Ok(()) };
        if let Err(why) = strangers(live, foreign.lab.live(0)) {
            return broken!("foreign-heard", format!("member {member}, foreigner at {at}: {why}"));
        }
        // Behind the handshake stands the core, which knows whose directory its peer has.
        let (node, here) = (foreign.birth.node, live.identity().node);
        if live.bound(node).is_some() {
            let message = Message {
                group: GroupId::ROOT,
                from: node,
                to: here,
                term: Term(1 << 40),
                body: MessageBody::Heartbeat { commit: LogIndex(1), context: 0 },
            };
            let (before, refused) = (live.fingerprint(), live.frames_refused());
            let (from, incarnation) = (node, foreign.incarnation);
            let message = NodeMessage::Raft(vec![message]);
            live.handle(now_ms, Action::Frame { from, incarnation, message });
            ensure!(
                live.frames_refused() == refused + 1 && live.fingerprint() == before,
                "foreign-heard",
                "the core of member {member} takes a frame of the foreigner at {at}"
            );
        }
        let by = foreign.by;
        self.counters.mattered(by);
        Ok(())
    }

    /// What was on its way on a stream of the old process reaches the new one: no stream of its
    /// own begins with it.
    pub fn stray(&mut self, to: usize, what: &NodeMessage) -> Checked {
        let Some(foreign) = self.foreign.get(&to) else { return Ok(()) };
        let frame = match what {
            NodeMessage::Raft(messages) => PeerFrame::Raft(messages.clone()),
            other => {
                let mut bytes = BytesMut::new();
                other.encode(&mut bytes);
                PeerFrame::Node(bytes.freeze())
            }
        };
        let mut payload = BytesMut::new();
        encode_peer_frame(&frame, &mut payload);
        let by = foreign.by;
        ensure!(
            decode_greeting(&payload.freeze()).is_err(),
            "foreign-heard",
            "a stream that begins in the middle is taken at {to}: {what:?}"
        );
        self.counters.mattered(by);
        Ok(())
    }

    /// Somebody speaks to the member with another cluster's id. Clients' requests carry none (as
    /// etcd's do not), so this is whoever passes requests on: a peer, on either kind of stream.
    pub(super) fn old_client_id(&mut self, m: usize) -> Checked {
        let Some(live) = self.slots[m].live.as_ref() else { return Ok(()) };
        if self.slots[m].wiped {
            return Ok(());
        }
        self.counters.fired(Fault::OldId);
        if let Err(why) = old_id(live, FOREIGN_CLUSTER) {
            return broken!(
                "foreign-heard",
                format!("member {m}, spoken to with an old id: {why}")
            );
        }
        self.counters.mattered(Fault::OldId);
        Ok(())
    }
}
