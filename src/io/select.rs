//! `biased_select!`: waits for the first of several futures, looking at them in the order they
//! are written.
//!
//! Why not `tokio::select!` with `biased;`? Without that word it draws the order from a generator
//! that no seed reaches, and one seed plays two histories; a lint that forbids it cannot tell the
//! two apart. So this is ours, and the lint has no exceptions.
//!
//! ```text
//! biased_select! {
//!     frame = reader.next() => on_frame(frame),
//!     () = clock.sleep_until(at), if armed => { ... },
//! }
//! ```
//! A branch is `pattern = future => expression,` (commas are not optional), the pattern one that
//! always matches, with `, if condition` to leave the branch out. The futures are dropped before
//! the chosen expression runs, so it may use what they borrowed, and may `return`, `break` or
//! `continue`. When every branch is left out it waits for ever. A branch that is always ready
//! starves those after it: stop signals come first.

use std::convert::Infallible;
use std::future::{Future, pending};
use std::pin::Pin;
use std::task::{Context, Poll};

/// What the first of two gave, or the other.
#[derive(Debug)]
pub enum Either<A, B> {
    First(A),
    Rest(B),
}

/// Polls `first`, if it takes part, and then `rest`.
#[derive(Debug)]
pub struct Select<'a, A, B> {
    pub takes_part: bool,
    pub first: Pin<&'a mut A>,
    pub rest: B,
}

impl<A: Future, B: Future + Unpin> Future for Select<'_, A, B> {
    type Output = Either<A::Output, B::Output>;
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if self.takes_part
            && let Poll::Ready(value) = self.first.as_mut().poll(cx)
        {
            return Poll::Ready(Either::First(value));
        }
        Pin::new(&mut self.rest).poll(cx).map(Either::Rest)
    }
}

/// The end of the list.
pub fn never() -> std::future::Pending<Infallible> {
    pending()
}

macro_rules! biased_select {
    (@wait) => { $crate::io::select::never() };
    (@wait ($takes_part:expr, $future:expr) $($more:tt)*) => {
        $crate::io::select::Select {
            takes_part: $takes_part,
            first: ::std::pin::pin!($future),
            rest: $crate::io::biased_select!(@wait $($more)*),
        }
    };
    (@chosen $out:ident) => { match $out {} };
    (@chosen $out:ident ($pattern:pat, $then:expr) $($more:tt)*) => {
        match $out {
            $crate::io::select::Either::First($pattern) => $then,
            $crate::io::select::Either::Rest(rest) => {
                $crate::io::biased_select!(@chosen rest $($more)*)
            }
        }
    };
    ($($pattern:pat = $future:expr $(, if $condition:expr)? => $then:expr),+ $(,)?) => {{
        // A statement of its own: the futures end with it.
        let out = $crate::io::biased_select!(@wait $((true $(&& $condition)?, $future))+).await;
        $crate::io::biased_select!(@chosen out $(($pattern, $then))+)
    }};
}
pub(crate) use biased_select;

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    #[tokio::test]
    async fn the_first_that_is_ready_in_written_order() {
        for _ in 0..20 {
            let chosen = biased_select! {
                () = pending() => 1,
                n = ready(2) => n,
                n = ready(3) => n,
            };
            assert_eq!(chosen, 2);
        }
    }

    #[tokio::test]
    async fn bodies_use_what_futures_borrowed_and_steer_loops() {
        async fn add(n: &mut Vec<u32>) {
            n.push(1);
        }
        let (mut list, mut rounds) = (Vec::new(), 0);
        loop {
            rounds += 1;
            biased_select! {
                () = add(&mut list), if rounds % 2 == 1 => list.push(2),
                () = ready(()), if rounds < 5 => continue,
                () = ready(()) => break,
            }
        }
        assert_eq!((rounds, list), (6, vec![1, 2, 1, 2, 1, 2]));
    }
}
