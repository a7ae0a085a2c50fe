//! Identity within the cluster: wiped disks, and who may shake hands with whom.

use crate::conf::is_quorum;
use crate::faults::Fault;
use crate::member::{self, CLUSTER, FOREIGN_CLUSTER};
use crate::plan::MS;
use crate::rules::is_spoilt;
use crate::safety::{Checked, Violation, broken, ensure};
use crate::world::{Event, World};
use quorate::io::mem_disk::MemDisk;
use quorate::node::Action;
use quorate::transport::Refusal;
use quorate::types::{GroupId, Incarnation};

impl World {
    /// A member's disk is replaced by an empty one. Only when every other member has bound its
    /// data directory, and only while a majority keeps its disks.
    pub(super) fn wipe(&mut self, m: usize) -> Checked {
        let lost = |id| {
            self.slots
                .iter()
                .any(|s| s.node == id && (s.wiped || s.is_gone() || s.damaged.is_some()))
        };
        let node = self.slots[m].node;
        let confs = self.active_confs();
        let borne = confs.iter().all(|conf| is_quorum(conf, |id| id != node && !lost(id)))
            // A member that the others do not know, or no longer, is another story.
            && self.roster.root.members.contains_key(&node)
            && !self.roster.root.departing().contains(&node);
        if !borne || self.slots[m].live.is_none() {
            return Ok(());
        }
        let (node, incarnation) = (self.slots[m].node, self.slots[m].incarnation);
        let Some(bound_at) = self.roster.bound_at(node, incarnation) else { return Ok(()) };
        // Not only known: a member that is started again knows what its checkpoints hold, and of
        // the rest only that a leader says it is committed.
        let known = (0..self.slots.len()).filter(|o| *o != m).all(|o| {
            let slot = &self.slots[o];
            slot.wiped
                || slot.is_gone()
                || slot.live.as_ref().is_some_and(|l| {
                    l.bound(node) == Some(incarnation) && l.holds_for_good(GroupId::ROOT, bound_at)
                })
        });
        if !known {
            return Ok(());
        }
        self.counters.fired(Fault::Wipe);
        self.note(|| format!("{m} loses its disk"));
        self.stop_process(m);
        let seed = self.crashes.next_u64();
        let slot = &mut self.slots[m];
        slot.disk = MemDisk::new(seed);
        slot.incarnation = Incarnation(seed | 1);
        slot.wiped = true;
        slot.sabotaged = None;
        self.safety.on_wiped(node);
        let at = self.now_us + 50 * MS;
        self.plan_restart(m, at);
        Ok(())
    }

    /// Whether there is a connection, or one can be made.
    pub fn connect(&mut self, from: usize, to: usize) -> Result<bool, Violation> {
        let processes = (self.slots[from].process, self.slots[to].process);
        if self.slots[to].live.is_some() && self.net.connected(from, to, processes) {
            return Ok(true);
        }
        if self.net.half_open(self.now_us, from, to) {
            return Ok(true);
        }
        if self.net.is_deaf(self.now_us, to, processes.1) {
            return Ok(false);
        }
        let pause = self.plan.tick_us;
        if !self.net.open(from, to)
            || !self.net.open(to, from)
            || !self.net.may_dial(self.now_us, from, to, pause)
        {
            return Ok(false);
        }
        if self.foreign.contains_key(&to) {
            self.meet_foreign(from, to)?;
            return Ok(false);
        }
        if self.slots[to].live.is_none() || self.slots[to].paused_until_us > self.now_us {
            return Ok(false);
        }
        let wiped = self.slots[from].wiped || self.slots[to].wiped;
        let Some(mut dialer) = self.slots[from].live.take() else { return Ok(false) };
        let mut verdicts = member::meet(&mut dialer, self.live(to));
        if is_spoilt("handshake-refused") {
            let (local, remote) = (CLUSTER, FOREIGN_CLUSTER);
            verdicts.0 = Some(Refusal::ClusterIdMismatch { local, remote });
        }
        self.slots[from].live = Some(dialer);
        let (a, b) = (self.slots[from].node, self.slots[to].node);
        match verdicts {
            (None, None) => {
                // Who has just joined has heard of no binding yet.
                let knows_nothing = |m: usize| self.slots[m].wiped || !self.slots[m].settled;
                if wiped && knows_nothing(from) && knows_nothing(to) {
                    // Neither can know better, and together they are no quorum: what they would
                    // say to each other is left out.
                    return Ok(false);
                }
                if wiped {
                    return broken!("wiped-accepted", format!("{from} and {to} shake hands"));
                }
                for (knows, other) in [(from, b), (to, a)] {
                    let removed =
                        self.live(knows).has_removed(other) || is_spoilt("removed-accepted");
                    ensure!(
                        !removed,
                        "removed-accepted",
                        "member {knows} has applied the removal of {other} and shakes hands"
                    );
                }
                self.net.connect(from, to, processes);
                for (m, peer) in [(from, b), (to, a)] {
                    let p = self.slots[m].process;
                    let action = Box::new(Action::PeerUp { peer });
                    self.after(1, Event::Tell { m, p, action });
                }
                Ok(true)
            }
            (here, there) => {
                // Who has been removed is told so, and by whom.
                let mut told = false;
                for (m, why, by) in [(from, &there, b), (to, &here, a)] {
                    if let Some(Refusal::RemovedMember { .. }) = why {
                        ensure!(
                            self.is_removed(m),
                            "handshake-refused",
                            "{by} takes member {m} for removed"
                        );
                        told = true;
                        let p = self.slots[m].process;
                        let action = Box::new(Action::ToldRemoved { by });
                        self.after(1, Event::Tell { m, p, action });
                    }
                }
                if told {
                    self.counters.mattered(Fault::RemovedReturns);
                    return Ok(false);
                }
                if !wiped {
                    return broken!(
                        "handshake-refused",
                        format!("{from} refuses {to}: {here:?}; {to} refuses {from}: {there:?}"),
                    );
                }
                self.counters.mattered(Fault::Wipe);
                // A member that is told that its id belongs to another data directory stops.
                for (m, why) in [(from, there), (to, here)] {
                    if let Some(Refusal::IncarnationMismatch { .. }) = why {
                        let p = self.slots[m].process;
                        self.after(1, Event::Refused { m, p });
                    }
                }
                Ok(false)
            }
        }
    }
}
