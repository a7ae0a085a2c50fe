//! Which changes of configuration each member's log holds, decided or not.
//!
//! A leader proposes a change only when every one before it in its log has been applied there:
//! its own, and what earlier leaders have left behind uncommitted. Two at once could each be
//! committed by a quorum that the other's knows nothing of.

use crate::safety::{Checked, LogShape, ensure};
use quorate::types::{Entry, EntryKind, GroupId, LogIndex, NodeId, Term};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug, Default)]
pub struct Changes {
    /// Every change that ever was in a log.
    known: BTreeMap<GroupId, BTreeSet<(LogIndex, Term)>>,
    logs: BTreeMap<(NodeId, GroupId), BTreeMap<LogIndex, Term>>,
}

impl Changes {
    /// `leads` says whether the member appends as the leader of an entry's term; `applied` is how
    /// far it is.
    pub fn on_append(
        &mut self,
        node: NodeId,
        group: GroupId,
        entries: &[Entry],
        applied: LogIndex,
        leads: impl Fn(Term) -> bool,
    ) -> Checked {
        let Some(first) = entries.first() else { return Ok(()) };
        let log = self.logs.entry((node, group)).or_default();
        log.split_off(&first.index);
        for entry in entries.iter().filter(|entry| entry.kind == EntryKind::ConfChange) {
            let is_new = self.known.entry(group).or_default().insert((entry.index, entry.term));
            let open = log.last_key_value().filter(|(index, _)| **index > applied);
            ensure!(
                !is_new || !leads(entry.term) || open.is_none(),
                "one-pending-change",
                "group {group}: {node} proposes a change at {} in term {}, has applied {applied}, \
                 and its log has another change at (index, term) {open:?}",
                entry.index,
                entry.term
            );
            log.insert(entry.index, entry.term);
        }
        Ok(())
    }

    /// Whether a log of one of these members holds a change behind `applied`.
    pub fn is_open(
        &self,
        group: GroupId,
        applied: LogIndex,
        counts: impl Fn(NodeId) -> bool,
    ) -> bool {
        let open = |log: &BTreeMap<LogIndex, Term>| {
            log.last_key_value().is_some_and(|(index, _)| *index > applied)
        };
        self.logs.iter().any(|((node, of), log)| *of == group && counts(*node) && open(log))
    }

    /// After a restart the log is what was found.
    pub fn on_recovered(&mut self, node: NodeId, found: &BTreeMap<GroupId, LogShape>) {
        for (group, shape) in found {
            let known = self.known.get(group).into_iter().flatten();
            let there = known.filter(|(index, term)| shape.term_at(*index) == Some(*term)).copied();
            self.logs.insert((node, *group), there.collect());
        }
    }
}
