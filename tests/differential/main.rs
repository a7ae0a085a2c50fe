//! The differential test: the same generated requests to Quorate and to etcd 3.5, every answer
//! and every refusal (code and text) compared field by field.
//!
//! `generate` makes sequences of operations, `play` sends them to both servers in step,
//! `normalise` evens out what two right answers may differ in (ids, terms, sizes), `known` lists
//! the differences that are meant. The first sequence to differ is shrunk and printed with both
//! answers.
//!
//! An ordinary run plays a few dozen sequences. `QUORATE_DIFFERENTIAL=N` plays N, and from 2,000 on
//! fails too if a listed difference never showed; `QUORATE_DIFFERENTIAL_SEED` starts at another
//! seed; `QUORATE_DIFFERENTIAL_ALL=1` goes on after a difference and shrinks none. Each sequence
//! has its own seed, which is printed when it differs.

#![allow(
    clippy::disallowed_macros,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "the product tests run real processes on real files and sockets"
)]

mod call;
mod gateway;
mod generate;
#[allow(dead_code, reason = "it serves the tests in tests/it as well")]
#[path = "../it/harness.rs"]
mod harness;
mod known;
mod normalise;
mod play;
mod servers;
mod shrink;
mod streams;
mod symbols;
mod watch;

use generate::{THEMES, Theme, sequence};
use known::Differences;
use play::{Op, Player};
use proptest::strategy::{Strategy as _, ValueTree as _};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use servers::Pair;
use shrink::Shrinker;
use std::fmt::Write as _;

const SHORT_SEQUENCES: u64 = 40;
/// So many sequences meet every listed difference.
const STALE_AFTER: u64 = 2_000;
/// Operations in a sequence, at most.
const OPS_MAX: usize = 60;
/// Sequences that one pair of servers sees before it is replaced by a fresh one.
const PER_PAIR: u64 = 15;

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")))
}

#[test]
fn quorate_answers_as_etcd_does() {
    let Some(etcd) = servers::etcd_binary("the differential test") else { return };
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let long = number("QUORATE_DIFFERENTIAL");
        let first = number("QUORATE_DIFFERENTIAL_SEED").unwrap_or(1);
        let all = std::env::var_os("QUORATE_DIFFERENTIAL_ALL").is_some();
        let count = long.unwrap_or(SHORT_SEQUENCES);
        let mut known = Differences::new();
        let mut pair = Pair::start(&etcd).await;
        // Sequences that this pair has seen, and whether it can be reset for another.
        let (mut seen, mut is_spent) = (0, false);
        let (mut ops_played, mut differing, mut deaths) = (0, 0, 0);
        for seed in first..first + count {
            if seen == PER_PAIR || is_spent {
                pair = Pair::start(&etcd).await;
                seen = 0;
            }
            let ops = generated(seed);
            let mut player = Player::new(&pair, &mut known);
            if seen > 0
                && let Some(difference) = player.play(&play::reset()).await
            {
                panic!("after seed {}, resetting: {difference:#?}", seed - 1);
            }
            let difference = player.play(&ops).await;
            ops_played += player.ops;
            seen += 1;
            is_spent = difference.is_some() || theme(seed).leaves_traces();
            let Some(difference) = difference else { continue };
            if pair.has_etcd_died() {
                deaths += 1;
                continue;
            }
            if all {
                differing += 1;
                println!("seed {seed}, operation {}: {difference}", difference.at);
                continue;
            }
            let shrunk = Shrinker::new(&etcd).shrink(ops.clone()).await;
            let again = shrunk.is_some();
            let (ops, difference) = shrunk.unwrap_or((ops, difference));
            panic!("{}", script(seed, again, &ops, &difference));
        }
        println!("{count} sequences, {ops_played} operations; differences that are meant:");
        let stale = known.report();
        println!("etcd died {deaths} times of ranges that it could not make sense of");
        assert!(deaths <= 1 + count / 100, "too often for what it is taken for");
        assert_eq!(differing, 0, "of {count} sequences differ");
        assert!(
            long.is_none_or(|count| count < STALE_AFTER) || stale.is_empty(),
            "listed differences that never showed, to be struck out: {stale:?}"
        );
    });
}

fn theme(seed: u64) -> Theme {
    THEMES[(seed % THEMES.len() as u64) as usize]
}

/// The sequence of one seed.
fn generated(seed: u64) -> Vec<Op> {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let tree =
        sequence(theme(seed), OPS_MAX).new_tree(&mut runner).expect("the generator never rejects");
    tree.current()
}

/// What a reader needs to see the difference again.
fn script(seed: u64, again: bool, ops: &[Op], difference: &play::Difference) -> String {
    let mut text = format!("seed {seed}: etcd and Quorate differ\n");
    if !again {
        text.push_str("(fresh servers agree on it: it depends on an earlier sequence)\n");
    }
    for (at, op) in ops.iter().enumerate().take(difference.at + 1) {
        // Without the tail of a value that is megabytes long.
        let _ = writeln!(text, "{at:>3}. {} {:.2000}", op.path(), format!("{op:?}"));
    }
    let _ = writeln!(text, "{difference}");
    text
}
