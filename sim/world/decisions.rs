//! Where decisions come from: drawn by the seed, or stated by a tape; and how they are kept.

use super::World;
use super::event::Event;
use crate::faults::Act;
use crate::history::Call;
use crate::plan::MS;
use crate::seed;
use crate::tape::{CallDecision, Decision, Tape};
use quorate::types::GroupId;
use quorate::types::prng::Prng;

/// Text of a call that a tape keeps for its reader.
const SAID_MAX: usize = 160;

impl World {
    /// The next turn of the nemesis: after a gap, or when the tape says.
    pub(super) fn plan_act(&mut self, after_us: u64) {
        match &self.script {
            None => self.after(after_us, Event::Nemesis),
            Some(script) => {
                if let Some((at, ..)) = script.acts.front() {
                    let at = *at;
                    self.at(at, Event::Nemesis);
                }
            }
        }
    }

    /// What the nemesis does now, and the number that the details are drawn from.
    pub fn next_act(&mut self) -> Option<(u64, Act)> {
        if let Some(script) = &mut self.script {
            let act = script.acts.pop_front().map(|(_, word, act)| (word, act));
            self.plan_act(0);
            return act;
        }
        let plan = self.plan.clone();
        let word = self.nemesis.turn();
        let gap = self.nemesis.gap_us(&plan);
        self.plan_act(gap);
        self.nemesis.next(&plan, self.slots.len()).map(|act| (word, act))
    }

    /// Keeps an act that is carried out, and draws its details from its own place.
    pub fn decide_act(&mut self, word: u64, act: &Act) {
        self.trace.event(self.now_us, Event::NEMESIS);
        self.crashes = Prng::new(seed::at(word, 1));
        if let Some(decided) = &mut self.decided {
            let text = format!("{act:?}");
            decided.push(Decision::Act { at_us: self.now_us, word, text });
        }
    }

    /// Client `c` asks again after a pause. A tape has its own time for it, and a client that the
    /// tape gives nothing more to do waits for the healing: then everybody asks.
    pub(super) fn plan_ask(&mut self, c: usize, think_us: u64) {
        // After the healing everybody asks at once: clients that think for long would leave a group
        // unasked until the bound is over.
        let after_healing = !self.acting && self.now_us > 0;
        let drawn = self.now_us + if after_healing { think_us.min(50 * MS) } else { think_us };
        let at = match &self.script {
            Some(script) if self.acting || self.now_us == 0 => {
                let next = script.calls.get(&c).and_then(|calls| calls.front());
                match next {
                    Some(call) => call.at_us.max(self.now_us),
                    None if drawn > self.plan.chaos_us => drawn,
                    None => self.plan.chaos_us + 1 + c as u64,
                }
            }
            _ => drawn,
        };
        self.at(at, Event::Ask { c });
    }

    /// The call that client `c` makes now, if it makes one.
    pub(super) fn next_call(&mut self, c: usize) -> Option<(GroupId, Call)> {
        let plan = self.plan.clone();
        let groups = self.groups();
        if self.acting
            && let Some(script) = &mut self.script
        {
            let Some(told) = script.calls.get_mut(&c).and_then(|calls| calls.pop_front()) else {
                // Not yet: the disturbances last longer than planned.
                self.plan_ask(c, MS);
                return None;
            };
            let client = &mut self.clients[c];
            client.turn(Some((told.nth, told.word)), true);
            client.member = told.to.min(self.slots.len() - 1);
            return Some(client.next_call(&plan, &groups, Some(GroupId(told.group))));
        }
        let acting = self.acting;
        let client = &mut self.clients[c];
        let (nth, word) = client.turn(None, acting);
        let (to, (group, call)) = (client.member, client.next_call(&plan, &groups, None));
        if acting && let Some(decided) = &mut self.decided {
            let said: String = format!("{call:?}").chars().take(SAID_MAX).collect();
            decided.push(Decision::Call(CallDecision {
                at_us: self.now_us,
                client: c,
                to,
                nth,
                group: group.0,
                word,
                said,
            }));
        }
        Some((group, call))
    }

    /// All that was decided, if it was kept.
    pub(super) fn take_tape(&mut self) -> Option<Tape> {
        let mut decisions = self.plan.decisions();
        decisions.append(self.decided.as_mut()?);
        decisions.append(&mut self.net.take_fates());
        Some(Tape(decisions))
    }
}
