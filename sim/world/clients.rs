//! Calls, from a client's decision to the answer that it hears.

use super::World;
use super::callers::is_let_in;
use super::event::Event;
use super::slot::{Condition, Held, Step};
use crate::callers::Credential;
use crate::history::{Answer, Call, CallId, is_refusal};
use crate::safety::{Checked, ensure};
use crate::workload::Open;
use bytes::Bytes;
use quorate::node::{Action, Answer as CoreAnswer, Token};
use quorate::types::{ApiError, Command, GroupId};
use std::rc::Rc;
use std::sync::Arc;

/// Of the calls that reach a member after their client has given up, one in this many is heard.
const LATE_CALLS_ONE_IN: u64 = 8;

/// A put that only an alarm or a lack of service can refuse.
fn is_plain_write(call: &Call) -> bool {
    match call {
        Call::Write(Command::Put(put)) => {
            put.lease.is_none() && !put.ignore_lease && !put.ignore_value
        }
        _ => false,
    }
}

impl World {
    pub(super) fn ask(&mut self, c: usize) {
        if self.quiet {
            return;
        }
        if let Some((group, call)) = self.next_call(c) {
            self.clients[c].step_leaves(group, &call, &mut self.promises);
            self.start_call(c, group, call);
            // One event for each call, so that a tape finds the same ones.
            if self.clients[c].open.len() < self.plan.pipeline {
                self.ask_later(c);
            } else {
                self.clients[c].waits = true;
            }
        }
    }

    pub fn start_call(&mut self, c: usize, group: GroupId, call: Call) {
        self.start_patient_call(c, group, call, self.plan.timeout_us);
    }

    /// The client gives up after `patience_us`, whatever its patience is otherwise.
    pub fn start_patient_call(
        &mut self,
        c: usize,
        group: GroupId,
        call: Call,
        patience_us: u64,
    ) -> CallId {
        let m = self.clients[c].member;
        let plan = self.plan.clone();
        let by = self.clients[c].credential(&plan, group, &call);
        let id = self.history.begin(self.now_us, group, call.clone());
        let what = Rc::new(call);
        self.callers.insert(id, c);
        if !what.is_serializable() {
            self.call_began.insert(id, self.now_us);
        }
        let open =
            Open { group, member: m, began_us: self.now_us, call: Arc::new(Call::clone(&what)) };
        self.clients[c].open.insert(id, open);
        let due = self.phase_began_us + self.plan.election_us() * 9;
        let in_time = self.now_us + self.plan.timeout_us < self.phase_ends_us;
        // Of those that users and roles may keep out nothing is demanded.
        let let_in = !self.plan.auth.on || is_let_in(&by, &what);
        let asks = let_in && !what.is_serializable();
        if self.phase.is_some() && self.now_us >= due && in_time && asks {
            self.phase_asked.insert(group);
            if is_plain_write(&what) && self.is_whole_member(m) && self.slots[m].live.is_some() {
                self.phase_asked_write.insert(group);
            }
        }
        self.trace.call(self.now_us, c, m, group, id, &what);
        if by != Credential::Nobody {
            self.trace.note(self.now_us, || format!("call {id} is made by {by:?}"));
        }
        self.after(patience_us, Event::GiveUp { c, call: id });
        let slot = &self.slots[m];
        if slot.live.is_none() || slot.condition != Condition::Up {
            self.after(300, Event::GiveUp { c, call: id });
            return id;
        }
        let p = slot.process;
        let delay = self.travel.between(20, 800);
        self.after(delay, Event::Request { m, p, call: id, group, what, by });
        id
    }

    pub(super) fn request(
        &mut self,
        m: usize,
        call: CallId,
        group: GroupId,
        what: &Rc<Call>,
        by: Credential,
    ) -> Checked {
        // A process that stood still for minutes finds calls that were given up long ago, with
        // their cancellation right behind: most of them come to nothing. Without this a long
        // freeze leaves a backlog that takes longer than any bound.
        let given_up = self.callers.get(&call).is_none_or(|c| !self.clients[*c].waits_for(call));
        if given_up && !call.is_multiple_of(LATE_CALLS_ONE_IN) {
            return Ok(());
        }
        self.trace.word(call);
        self.trace.call_arrives(self.now_us, call);
        self.admit(m, call, group, what, by, false)
    }

    pub(super) fn answered(
        &mut self,
        m: usize,
        token: Token,
        result: Result<CoreAnswer, ApiError>,
    ) -> Checked {
        let call = token.0;
        self.change_answered(token, &result);
        let read = self.slots[m].reads.remove(&call);
        match (result, read) {
            (Ok(CoreAnswer::Barrier { .. }), Some(Held { group, what, step })) => {
                return match step {
                    Step::Told(by) => self.admit(m, call, group, &what, by, true),
                    Step::Read(caller) => self.read_now(m, call, group, &what, caller),
                };
            }
            (Ok(CoreAnswer::Applied { reply, revision, index, .. }), _) => {
                let spoil = std::mem::take(&mut self.spoil);
                let revision = revision + i64::from(spoil);
                self.answer(call, Answer::Wrote { reply: Ok(reply), revision, index });
            }
            (Ok(CoreAnswer::KeptAlive { ttl_seconds }), _) => {
                self.answer(call, Answer::KeptAlive { ttl_seconds });
            }
            (Ok(CoreAnswer::LeaseTtl { granted_seconds, remaining_seconds }), _) => {
                let answer = Answer::LeaseTtl { granted_seconds, remaining_seconds };
                self.answer(call, answer);
            }
            (Ok(other), _) => self.note(|| format!("{m} answers call {call}: {other:?}")),
            (Err(error), _) => {
                let never = crate::member::is_never(&error);
                self.answer(call, Answer::Failed { error, never });
            }
        }
        Ok(())
    }

    pub(super) fn answer(&mut self, call: CallId, answer: Answer) {
        let Some(&c) = self.callers.get(&call) else { return };
        self.trace.call_leaves(self.now_us, call);
        let delay = self.travel.between(20, 800);
        self.after(delay, Event::Reply { c, call, answer: Box::new(answer) });
    }

    pub(super) fn reply(&mut self, c: usize, call: CallId, answer: Answer) -> Checked {
        let Some(open) = self.clients[c].open.remove(&call) else { return Ok(()) };
        let group = open.group;
        self.trace.word(call);
        self.trace.call_ends(self.now_us, call, &answer);
        let began = self.call_began.remove(&call);
        let served = match &answer {
            Answer::Failed { error, never } => is_refusal(error) && !never,
            _ => true,
        };
        if served && began.is_some_and(|at| at >= self.phase_began_us) {
            *self.phase_acks.entry(group).or_default() += 1;
            if matches!(*open.call, Call::Write(_)) {
                self.phase_wrote.insert(group);
            }
        }
        if let Call::Write(Command::Put(put)) = &*open.call {
            self.probe_met(group, &put.value, (false, true));
        }
        self.clients[c].heard(group, &answer);
        let plan = self.plan.clone();
        self.clients[c].people_answered(&plan, group, &open.call, &answer);
        self.clients[c].step_answered(
            open.began_us,
            self.now_us,
            &open.call,
            &answer,
            &mut self.promises,
        )?;
        if matches!(answer, Answer::Failed { never: false, .. }) {
            self.clients[c].try_again(group, &open.call);
        }
        if matches!(answer, Answer::Failed { .. }) {
            self.move_on(c);
        }
        self.history.end(self.now_us, call, answer)?;
        if std::mem::take(&mut self.clients[c].waits) {
            self.ask_later(c);
        }
        Ok(())
    }

    /// What a probe of service has met with: see `World::probes`.
    pub(super) fn probe_met(&mut self, group: GroupId, value: &Bytes, news: (bool, bool)) {
        let Some(probe) = self.probes.get_mut(&(group, value.clone())) else { return };
        *probe = (probe.0 | news.0, probe.1 | news.1);
        if *probe == (true, true) {
            self.phase_wrote.insert(group);
        }
    }

    pub fn give_up(&mut self, c: usize, call: CallId) -> Checked {
        let Some(open) = self.clients[c].open.remove(&call) else { return Ok(()) };
        self.trace.call_given_up(self.now_us, call);
        self.history.abandon(call);
        self.clients[c].try_again(open.group, &open.call);
        self.call_began.remove(&call);
        let m = open.member;
        // Of several open calls the first that fails sends the client away.
        if self.clients[c].member == m {
            self.move_on(c);
        }
        if std::mem::take(&mut self.clients[c].waits) {
            self.ask_later(c);
        }
        if self.slots[m].live.is_some() {
            self.slots[m].reads.remove(&call);
            let p = self.slots[m].process;
            let action = Box::new(Action::Cancel { token: Token(call) });
            self.after(100, Event::Tell { m, p, action });
        }
        Ok(())
    }

    /// A member that is as far as anybody has exactly the committed leases and keys on them.
    pub(super) fn leases_as_committed(&self, m: usize, group: GroupId, answer: &Answer) -> Checked {
        let Answer::Leases { leases, applied } = answer else { return Ok(()) };
        if *applied != self.safety.committed_index(group) {
            return Ok(());
        }
        let expected = self.history.model(group).leases();
        ensure!(
            *leases == expected,
            "replica-leases",
            "member {m} group {group} at {applied}: leases {leases:?}, expected {expected:?}"
        );
        Ok(())
    }

    /// The client tries another member of those it knows of: the cluster's.
    pub fn move_on(&mut self, c: usize) {
        let known = self.members_known();
        self.clients[c].move_on(&known);
    }

    pub(super) fn members_known(&self) -> Vec<usize> {
        (0..self.slots.len()).filter(|m| self.is_member(*m)).collect()
    }

    fn ask_later(&mut self, c: usize) {
        let plan = self.plan.clone();
        let now_us = self.now_us;
        let think = self.clients[c].pause_us(&plan, now_us);
        self.plan_ask(c, think);
    }
}
