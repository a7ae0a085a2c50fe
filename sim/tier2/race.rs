//! Waiting for the first of two things, looking at them in the order they are given.

use quorate::io::select::{Either, Select};
use std::convert::Infallible;
use std::future::{Future, pending};
use std::pin::pin;

/// What the first of two that is ready gives.
pub enum First<A, B> {
    A(A),
    B(B),
}

pub async fn race<A: Future, B: Future>(a: A, b: B) -> First<A::Output, B::Output> {
    let (a, b) = (pin!(a), pin!(b));
    let never = pending::<Infallible>();
    let rest = Select { takes_part: true, first: b, rest: never };
    match (Select { takes_part: true, first: a, rest }).await {
        Either::First(a) => First::A(a),
        Either::Rest(Either::First(b)) => First::B(b),
        Either::Rest(Either::Rest(never)) => match never {},
    }
}
