//! The entries that some member has applied: from then on nobody may apply another one there.
//!
//! An entry's own term says little about when it was committed: one of term 7 may be committed by
//! the leader of term 10, and until then the leader of term 9, who has not got it, may put another
//! one in its place, on its own disk at least, and however late it hears of term 10. So the term
//! that committed an entry is kept beside it, as far as it is known: not after the term in which
//! whoever applied it first was then.

use crate::rules::ensure;
use crate::safety::{Checked, Violation, entry_hash};
use quorate::multiraft::turn::{BOOT_INDEX, BOOT_TERM};
use quorate::types::{Entry, GroupId, LogIndex, NodeId, Term};

#[derive(Clone, Debug)]
struct Committed {
    term: Term,
    hash: u64,
    /// It was committed in this term or before.
    by: Term,
}

#[derive(Clone, Debug, Default)]
pub struct CommittedLog {
    entries: Vec<Committed>,
}

impl CommittedLog {
    /// Every log is born at the boot point, which nobody applies.
    pub fn born() -> CommittedLog {
        let born = Committed { term: BOOT_TERM, hash: 0, by: BOOT_TERM };
        CommittedLog { entries: vec![born; BOOT_INDEX.0 as usize] }
    }

    pub fn last(&self) -> LogIndex {
        LogIndex(self.entries.len() as u64)
    }
    pub fn terms(&self) -> impl Iterator<Item = (LogIndex, Term)> + '_ {
        (1..).map(LogIndex).zip(self.entries.iter().map(|entry| entry.term))
    }
    /// Up to where it was committed before this term: what a leader of the term must have.
    pub fn last_before(&self, term: Term) -> LogIndex {
        LogIndex(self.entries.partition_point(|entry| entry.by < term) as u64)
    }

    /// Whether a member may append these: in place of what is committed, only what a leader of an
    /// older term than the one that committed it has sent.
    pub fn bears(&self, node: NodeId, group: GroupId, entries: &[Entry]) -> Checked {
        for entry in entries {
            let Some(there) = self.entries.get(entry.index.0 as usize - 1) else { continue };
            ensure!(
                there.term == entry.term || entry.term < there.by,
                "committed-immutable",
                "group {group} index {}: {node} appends term {} over term {}, committed by term {}",
                entry.index,
                entry.term,
                there.term,
                there.by
            );
        }
        Ok(())
    }

    /// A member in `term` applies an entry. True when nobody had applied it before.
    pub fn on_apply(
        &mut self,
        node: NodeId,
        group: GroupId,
        entry: &Entry,
        term: Term,
    ) -> Result<bool, Violation> {
        let at = entry.index.0 as usize;
        let hash = entry_hash(entry);
        if let Some(there) = self.entries.get(at - 1) {
            ensure!(
                there.term == entry.term && there.hash == hash,
                "state-machine-safety",
                "group {group} index {}: {node} applies term {} where term {} was applied",
                entry.index,
                entry.term,
                there.term
            );
            return Ok(false);
        }
        ensure!(
            at == self.entries.len() + 1,
            "commit-gap",
            "group {group}: {node} applies {} but nobody has applied {}",
            entry.index,
            self.entries.len() + 1
        );
        // Whoever committed this one has committed what is before it.
        for before in self.entries.iter_mut().rev().take_while(|before| before.by > term) {
            before.by = term;
        }
        self.entries.push(Committed { term: entry.term, hash, by: term });
        Ok(true)
    }
}

/// Negative controls.
pub fn self_check() {
    let entry = |index, term| Entry {
        term: Term(term),
        index: LogIndex(index),
        kind: quorate::types::EntryKind::Empty,
        data: bytes::Bytes::new(),
    };
    let (node, group) = (NodeId(1), GroupId(1));
    let mut log = CommittedLog::born();
    let first = BOOT_INDEX.0 + 1;
    // An entry of term 2 that term 5 has committed; a member in term 7 says so first.
    for (index, term, by) in [(first, 2, 7), (first + 1, 5, 5)] {
        log.on_apply(node, group, &entry(index, term), Term(by)).expect("the first to apply it");
    }
    assert_eq!(log.last_before(Term(5)), BOOT_INDEX, "nothing was committed before term 5");
    assert_eq!(log.last_before(Term(6)), LogIndex(first + 1), "a leader of term 6 has both");
    log.bears(node, group, &[entry(first, 4)]).expect("the leader of term 4 knows of neither");
    for term in [5, 6] {
        let over = log.bears(node, group, &[entry(first, term)]);
        assert_eq!(over.expect_err("over a committed one").rule, "committed-immutable");
    }
    let other = log.on_apply(node, group, &entry(first, 3), Term(7));
    assert_eq!(other.expect_err("another entry").rule, "state-machine-safety");
    let gap = log.on_apply(node, group, &entry(first + 3, 7), Term(7));
    assert_eq!(gap.expect_err("nobody has applied the one before").rule, "commit-gap");
}
