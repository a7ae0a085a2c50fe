//! The log against a plain vector, and its edges by hand.

use super::*;
use bytes::Bytes;
use proptest::prelude::*;

fn at(index: u64) -> LogIndex {
    LogIndex(index)
}

fn entry(index: u64, term: u64) -> Entry {
    Entry {
        term: Term(term),
        index: at(index),
        kind: EntryKind::Command,
        data: Bytes::from(vec![0; 68]),
    }
}

/// A log that starts at index 0 and has these terms.
fn log_of(terms: &[u64]) -> Log {
    let mut log = Log::new((at(0), Term(0)), at(0), &[], Vec::new(), 1 << 20);
    log.append(terms.iter().zip(1..).map(|(t, i)| entry(i, *t)).collect());
    log
}

fn slice(prev: (u64, u64), entries: &[(u64, u64)]) -> Result<LogSlice, &'static str> {
    let entries = entries.iter().map(|e| entry(e.0, e.1)).collect();
    LogSlice::valid(Term(9), (at(prev.0), Term(prev.1)), entries)
}

#[test]
fn the_gate() {
    assert!(slice((0, 0), &[(1, 1), (2, 1), (3, 9)]).is_ok());
    assert!(slice((5, 2), &[]).is_ok());
    assert!(slice((5, 0), &[]).is_err());
    assert!(slice((0, 1), &[]).is_err());
    assert!(slice((1, 1), &[(3, 1)]).is_err());
    assert!(slice((1, 1), &[(2, 3), (3, 2)]).is_err());
    assert!(slice((0, 0), &[(1, 0)]).is_err());
    assert!(slice((1, 1), &[(2, 10)]).is_err());
    assert!(slice((1, 10), &[]).is_err());
    assert!(slice((u64::MAX, 1), &[(0, 1)]).is_err());
}

#[test]
fn terms_are_known_without_entries() {
    let mut log = log_of(&[1, 1, 4, 4, 6]);
    assert!(log.persist(Term(6), at(5)));
    log.release_memory();
    log.check();
    let terms: Vec<_> = (0..7).map(|i| log.term(at(i)).map(|t| t.0)).collect();
    assert_eq!(terms, [Some(0), Some(1), Some(1), Some(4), Some(4), Some(6), None]);
    assert_eq!(log.find(at(2), at(5), 1000, 10), Found::Older { to: at(5) });
    assert!(log.trim(at(3)) && !log.trim(at(3)));
    log.check();
    assert_eq!(log.term(at(2)), None);
    assert_eq!((log.term(at(3)), log.term(at(4))), (Some(Term(4)), Some(Term(4))));
    assert!(log.trim(at(5)));
    log.check();
    assert_eq!((log.start(), log.last_term()), ((at(5), Term(6)), Term(6)));
}

#[test]
fn a_range_is_bounded_but_never_empty() {
    let log = log_of(&[1; 10]);
    let count = |bytes, count| match log.find(at(3), at(10), bytes, count) {
        Found::Entries(entries) => entries.len(),
        Found::Older { .. } => 0,
    };
    assert_eq!((count(0, 0), count(250, 100), count(10_000, 4)), (1, 2, 4));
    assert_eq!(count(10_000, 100), 8);
}

/// Paper, figure 7: followers (a)..(f) against the leader of term 8.
#[test]
fn a_whole_term_is_skipped_per_refusal() {
    let leader = log_of(&[1, 1, 1, 4, 4, 5, 5, 6, 6, 6]);
    let followers: [&[u64]; 6] = [
        &[1, 1, 1, 4, 4, 5, 5, 6, 6],
        &[1, 1, 1, 4],
        &[1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 6],
        &[1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 7, 7],
        &[1, 1, 1, 4, 4, 4, 4],
        &[1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3],
    ];
    let mut rounds = Vec::new();
    for terms in followers {
        let follower = log_of(terms);
        let mut prev = at(10);
        let mut refused = 0;
        while !follower.matches(prev, leader.term(prev).unwrap()) {
            let hint = follower.agree_before(prev, leader.term(prev).unwrap());
            prev = leader.agree_before(hint.0, hint.1).0.min(prev.prev());
            refused += 1;
        }
        rounds.push((prev.0, refused));
    }
    assert_eq!(rounds, [(9, 1), (4, 1), (10, 0), (10, 0), (5, 1), (3, 1)]);
}

#[test]
fn an_old_report_does_not_count_for_what_replaced_and_came_back() {
    let mut log = log_of(&[1, 1, 1, 1]);
    assert!(log.persist(Term(1), at(4)));
    // A: 5, 6 of term 2.
    log.append(vec![entry(5, 2), entry(6, 2)]);
    let put = |log: &mut Log, e: Entry| {
        let prev = (e.index.prev(), log.term(e.index.prev()).unwrap());
        let slice = LogSlice::valid(Term(9), prev, vec![e]).unwrap();
        let (entries, cut) = log.merge(slice, at(4));
        assert!(cut.is_some());
        log.append(entries);
    };
    // B: 6 of term 3. C: 6 of term 2 again.
    put(&mut log, entry(6, 3));
    put(&mut log, entry(6, 2));
    log.check();
    assert!(log.matches(at(6), Term(2)));
    assert!(log.persist(Term(2), at(6)));
    assert_eq!(log.persisted(), at(5), "A is durable, and only what B and C left of it counts");
    assert!(log.persist(Term(3), at(6)));
    assert_eq!(log.persisted(), at(5), "B is durable, C is not");
    assert!(log.persist(Term(2), at(6)));
    assert_eq!(log.persisted(), at(6));
    assert!(!log.persist(Term(2), at(6)), "nothing is outstanding");
}

#[test]
fn a_report_from_before_a_snapshot_does_not_count_after_it() {
    let mut log = log_of(&[1, 1]);
    log.append(vec![entry(3, 2), entry(4, 2)]);
    log.restart(at(3), Term(2));
    log.check();
    log.append(vec![entry(4, 2)]);
    assert!(log.persist(Term(1), at(2)));
    assert!(log.persist(Term(2), at(4)));
    assert_eq!(log.persisted(), at(3));
    assert!(log.persist(Term(2), at(4)));
    assert_eq!(log.persisted(), at(4));
}

#[test]
fn only_persisted_entries_leave_memory() {
    let mut log = Log::new((at(0), Term(0)), at(0), &[], Vec::new(), 250);
    log.append((1..=5).map(|i| entry(i, 1)).collect());
    assert_eq!(log.cache_bytes(), 500);
    assert!(log.persist(Term(1), at(4)));
    log.check();
    assert_eq!(log.cache_bytes(), 200);
    assert_eq!(log.find(at(2), at(5), 1000, 10), Found::Older { to: at(3) });
}

#[test]
fn configuration_changes_are_remembered() {
    let tail = vec![Entry { kind: EntryKind::ConfChange, ..entry(4, 1) }, entry(5, 1)];
    let mut log = Log::new((at(0), Term(0)), at(5), &[(at(1), Term(1))], tail, 1 << 20);
    assert!(log.has_conf_change(at(2), at(3)), "entries 1 to 3 have not been seen");
    assert!(!log.has_conf_change(at(4), at(5)));
    assert!(log.has_conf_change(at(3), at(4)) && !log.has_conf_change(at(3), at(3)));
    log.conf_change_decided(at(4));
    assert!(!log.has_conf_change(at(3), at(5)));
}

#[derive(Clone, Debug)]
enum Op {
    /// Cut back by up to so many entries, then append so many of the next term.
    Replace(u64, u64, bool),
    Persist,
    Trim(u64),
    Release,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (0_u64..4, 1_u64..5, any::<bool>()).prop_map(|(a, b, c)| Op::Replace(a, b, c)),
        3 => Just(Op::Persist),
        1 => (0_u64..5).prop_map(Op::Trim),
        1 => Just(Op::Release),
    ]
}

proptest! {
    /// Terms, bounds and durability against a vector of terms and a disk that writes in order.
    #[test]
    fn behaves_like_a_vector(ops in proptest::collection::vec(op(), 1..60)) {
        let mut log = Log::new((at(0), Term(0)), at(0), &[], Vec::new(), 300);
        let mut model: Vec<u64> = vec![0];
        let mut disk = model.clone();
        let mut queue: VecDeque<(usize, Vec<u64>)> = VecDeque::new();
        let mut term = 1;
        for op in ops {
            match op {
                Op::Replace(cut, add, newer) => {
                    let keep = log.start().0.0.max(log.last().0.saturating_sub(cut)) as usize;
                    term = if newer { term + 1 } else { term.max(model[keep]) };
                    let last = model[keep];
                    if cut > 0 && keep < model.len() - 1 && !newer && model[keep + 1] == term {
                        continue; // the same entries again: nothing to replace
                    }
                    let entries: Vec<_> =
                        (1..=add).map(|i| entry(keep as u64 + i, term)).collect();
                    let slice =
                        LogSlice::valid(Term(term), (at(keep as u64), Term(last)), entries);
                    let (entries, _) = log.merge(slice.unwrap(), log.start().0);
                    if let Some(first) = entries.first() {
                        let from = first.index.0 as usize;
                        let new: Vec<u64> = entries.iter().map(|e| e.term.0).collect();
                        model.truncate(from);
                        model.extend(&new);
                        queue.push_back((from, new));
                        log.append(entries);
                    }
                }
                Op::Persist => {
                    if let Some((from, new)) = queue.pop_front() {
                        disk.truncate(from);
                        disk.extend(&new);
                        let last = disk.len() - 1;
                        prop_assert!(log.persist(Term(disk[last]), at(last as u64)));
                    }
                }
                Op::Trim(n) => {
                    let to = (log.start().0.0 + n).min(log.persisted().0);
                    log.trim(at(to));
                }
                Op::Release => log.release_memory(),
            }
            log.check();
            prop_assert_eq!(log.last().0 as usize, model.len() - 1);
            for i in log.start().0.0..=log.last().0 {
                prop_assert_eq!(log.term(at(i)), Some(Term(model[i as usize])));
            }
            // What counts as durable is on the disk, and no outstanding write takes it away.
            let mut worst = disk.clone();
            let through = log.persisted().0 as usize;
            prop_assert_eq!(&worst[..=through], &model[..=through]);
            for (from, new) in &queue {
                worst.truncate(*from);
                worst.extend(new);
                prop_assert!(worst.len() > through);
                prop_assert_eq!(&worst[..=through], &model[..=through]);
            }
        }
    }
}
