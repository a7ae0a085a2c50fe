//! A stream made of a state and an async step.
//!
//! The step runs only while somebody asks for the next item, so an answer stream needs no task and
//! no channel of its own, and a client that does not read holds up nobody but itself.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use tonic::codegen::tokio_stream::Stream;

type Step<T, S> = Pin<Box<dyn Future<Output = Option<(T, S)>> + Send>>;

pub struct Unfold<T, S, F> {
    step: F,
    /// The state while no step is under way.
    state: Option<S>,
    running: Option<Step<T, S>>,
}

/// `step` turns a state into an item and the next state; `None` ends the stream.
pub fn unfold<T, S, F, Fut>(state: S, step: F) -> Unfold<T, S, impl FnMut(S) -> Step<T, S>>
where
    F: Fn(S) -> Fut,
    Fut: Future<Output = Option<(T, S)>> + Send + 'static,
{
    let step = move |state| Box::pin(step(state)) as Step<T, S>;
    Unfold { step, state: Some(state), running: None }
}

impl<T, S, F> Stream for Unfold<T, S, F>
where
    S: Unpin,
    F: FnMut(S) -> Step<T, S> + Unpin,
{
    type Item = T;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<T>> {
        let this = self.get_mut();
        if let Some(state) = this.state.take() {
            this.running = Some((this.step)(state));
        }
        let Some(running) = &mut this.running else { return Poll::Ready(None) };
        let outcome = std::task::ready!(running.as_mut().poll(cx));
        this.running = None;
        Poll::Ready(outcome.map(|(item, state)| {
            this.state = Some(state);
            item
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::codegen::tokio_stream::StreamExt as _;

    #[test]
    fn counts_and_stays_ended() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(async {
            let mut stream =
                unfold(0, |n| async move { if n < 3 { Some((n * 10, n + 1)) } else { None } });
            let mut seen = Vec::new();
            while let Some(item) = stream.next().await {
                seen.push(item);
            }
            assert_eq!(seen, [0, 10, 20]);
            assert_eq!(stream.next().await, None);
        });
    }
}
